"""The download against a real HTTP server on this machine: verified, resumed, atomic, and clear when it cannot be."""

import functools
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_cifar_forms import write_python
from offramp.data.cifar10 import read_cifar10
from offramp.data.dataset import load_dataset
from offramp.data.download import Archive, fetch, unpack
from offramp.errors import DataError


class Handler(BaseHTTPRequestHandler):
    """Serves one body with ranges; `cut` ends the connection after that many bytes."""

    def __init__(self, body: bytes, cut: int | None, seen: list[str], *args: object) -> None:
        self.body, self.cut, self.seen = body, cut, seen
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.seen.append(wanted)
        if self.path.endswith("none"):
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(self.body):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.body) - start))
        self.end_headers()
        self.wfile.write(self.body[start : self.cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve(body: bytes, *, cut: int | None = None) -> Iterator[tuple[str, list[str]]]:
    seen: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, body, cut, seen))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/cifar-10-python.tar.gz", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("made") / "cifar-10-batches-py"
    folder.mkdir()
    write_python(folder)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, "cifar-10-batches-py")
    return buffer.getvalue()


def archive_of(url: str, body: bytes) -> Archive:
    return Archive(url, hashlib.sha256(body).hexdigest(), hashlib.md5(body, usedforsecurity=False).hexdigest())


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OFFRAMP_DATA", str(tmp_path))
    return tmp_path


def test_without_a_folder_the_archive_is_downloaded_once(body: bytes, root: Path) -> None:
    with serve(body) as (url, seen):
        raw = read_cifar10(None, 0, archive=archive_of(url, body))
        again = read_cifar10(None, 0, archive=archive_of(url, body))
    assert len(raw.pool.y) == len(again.pool.y) == 100
    assert seen == [""]
    assert sorted(p.name for p in (root / "cifar10").iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


def test_a_broken_transfer_continues_where_it_stopped(body: bytes, root: Path) -> None:
    with serve(body, cut=5000) as (url, _), pytest.raises(DataError, match=r"ended after 5000 of .* continues"):
        read_cifar10(None, 0, archive=archive_of(url, body))
    assert (root / "cifar10" / "cifar-10-python.tar.gz.part").stat().st_size == 5000
    with serve(body) as (url, seen):
        assert len(read_cifar10(None, 0, archive=archive_of(url, body)).pool.y) == 100
    assert seen == ["bytes=5000-"]


def test_a_whole_part_is_not_fetched_again(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz.part").write_bytes(body)
    with serve(body) as (url, _):
        assert fetch(archive_of(url, body), tmp_path).read_bytes() == body


def test_a_wrong_checksum_leaves_nothing(body: bytes, root: Path) -> None:
    with serve(body) as (url, _), pytest.raises(DataError, match=r"sha256 checksum .*; wanted 0000.*start again"):
        read_cifar10(None, 0, archive=Archive(url, "0" * 64))
    assert list((root / "cifar10").iterdir()) == []


def test_an_archive_that_the_user_put_there_is_verified_and_used(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(body)
    url = "http://127.0.0.1:9/cifar-10-python.tar.gz"
    assert len(read_cifar10(tmp_path, 0, archive=archive_of(url, body)).pool.y) == 100
    other = tmp_path / "other"
    other.mkdir()
    (other / "cifar-10-python.tar.gz").write_bytes(body[:-9])
    with pytest.raises(DataError, match=r"sha256 checksum .*remove the file"):
        load_dataset("cifar10", data_dir=other)


def test_without_network_one_line_says_what_to_put_where(body: bytes, root: Path) -> None:
    url = "http://127.0.0.1:9/cifar-10-python.tar.gz"  # the discard port: refused
    with pytest.raises(DataError, match="cannot download") as error:
        read_cifar10(None, 0, archive=archive_of(url, body))
    line = str(error.value)
    assert "\n" not in line
    assert f"wanted the file cifar-10-python.tar.gz in {root / 'cifar10'}" in line
    assert "--data-dir DIR" in line


def test_a_server_error_is_one_line(tmp_path: Path) -> None:
    with serve(b"x") as (url, _), pytest.raises(DataError, match=r"cannot download .*/none \(Not Found\)"):
        fetch(Archive(url + "/none", "0" * 64), tmp_path)


def tar_of(members: dict[str, bytes | str], path: Path) -> Path:
    """A tar of plain files (bytes) and links (str)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def test_paths_and_links_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    members = {"../../one": b"inside", "../outside": b"x", "/etc/two": b"also", "link": "/etc/passwd"}
    folder = unpack(tar_of(members, tmp_path / "a.tar.gz"), ("one", "two"), box / "data")
    assert sorted(p.name for p in folder.iterdir()) == ["one", "two"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar.gz", "box"]
    assert (folder / "one").read_bytes() == b"inside"


@pytest.mark.parametrize("members", [{"one": "/etc/passwd"}, {"other": b"x"}])
def test_an_archive_without_the_files_is_an_error(members: dict[str, bytes | str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no one; wanted the official archive"):
        unpack(tar_of(members, tmp_path / "a.tar.gz"), ("one",), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_damaged_archive_is_an_error(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(body[: len(body) // 2])
    with pytest.raises(DataError, match="cannot unpack"):
        unpack(path, ("data_batch_1", "test_batch"), tmp_path / "data")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]
