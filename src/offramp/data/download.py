"""Fetching an archive: with progress, resumed where it stopped, believed only when its checksum is right.

Nothing appears under its final name before it is whole and verified. From an archive only the expected plain files are
taken, each by its base name: paths, links and devices inside an archive have no effect.
"""

import hashlib
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from offramp.errors import DataError

CHUNK = 1 << 18
LARGEST_MEMBER = 1 << 26
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Archive:
    """A published archive: address, SHA-256 and, where its publisher gives one, MD5."""

    url: str
    sha256: str
    md5: str = ""

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


def fetch(archive: Archive, folder: Path) -> Path:
    """The verified archive in `folder`, downloaded unless it is there already.

    Raises:
        DataError: no network, a broken transfer, or a wrong checksum; the line says what to put where.
    """
    target = folder / archive.file_name
    if not target.is_file():
        part = target.with_name(target.name + ".part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _transfer(archive.url, part)
        except (URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            given = f"cannot download {archive.url} ({reason})"
            wanted = f"the file {archive.file_name} in {folder}, or a folder with the data"
            raise DataError(given, wanted=wanted, write="--data-dir DIR") from error
        _verify(part, archive)
        part.replace(target)
    else:
        _verify(target, archive)
    return target


def _transfer(url: str, part: Path) -> None:
    have = part.stat().st_size if part.is_file() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response: HTTPResponse = urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        error.close()
        if have and error.code == 416:  # nothing left to send: the part is whole, or wrong, which the checksum tells
            return
        raise
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        got = _copy(response, part, "ab" if resumed else "wb", have, total)
    if total is not None and got < total:
        raise URLError(f"the connection ended after {got} of {total} bytes; the same command continues")


def _copy(response: HTTPResponse, part: Path, mode: str, have: int, total: int | None) -> int:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress,
        part.open(mode) as file,
    ):
        task = progress.add_task(part.stem, total=total, completed=have)
        while chunk := response.read(CHUNK):
            file.write(chunk)
            progress.advance(task, len(chunk))
        return file.tell()


def _verify(path: Path, archive: Archive) -> None:
    for algorithm, wanted in (("sha256", archive.sha256), ("md5", archive.md5)):
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if wanted and found != wanted:
            if path.suffix == ".part":
                path.unlink()
            given = f"{algorithm} checksum {found}"
            raise DataError(given, wanted=wanted, where=str(path), write="remove the file and start again")


def unpack(archive: Path, names: Collection[str], folder: Path) -> Path:
    """Take the plain files `names` out of a tar archive into `folder`, all of them or none.

    Raises:
        DataError: the archive is damaged or lacks one of the names.
    """
    work = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                source = tar.extractfile(member) if member.isreg() and name in names else None
                if source is not None and member.size <= LARGEST_MEMBER:
                    with source, (work / name).open("wb") as file:
                        shutil.copyfileobj(source, file)
        missing = sorted(set(names) - {p.name for p in work.iterdir()})
        if missing:
            raise DataError(f"no {', '.join(missing)}", wanted="the official archive", where=str(archive))
        shutil.rmtree(folder, ignore_errors=True)
        work.chmod(0o755)
        work.replace(folder)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"cannot unpack ({error})", wanted="a whole .tar.gz", where=str(archive)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder
