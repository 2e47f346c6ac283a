"""CIFAR-10 in any of its forms: python batches, binary batches, or packed into lossless WebP mosaics.

50,000 training and 10,000 test images of 32x32 pixels (Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images", 2009). The python batches are pickles: `_BatchUnpickler` admits nothing but an array of bytes and its labels.
Packed form: `cifar10-train0.webp` .. `4` and `cifar10-test.webp`, each a mosaic of 32x32 tiles row by row, and
`labels.npz` with `train` and `test`. No downloading here: see `data.download`.
"""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.data.download import Archive, fetch, unpack
from offramp.data.files import data_root, expect, read_npz
from offramp.data.raw import Augmentation, RawData, Samples
from offramp.errors import DataError

OFFICIAL = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    md5="c58f30108f718f92721af3b95e74349a",  # published on https://www.cs.toronto.edu/~kriz/cifar.html
)
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32
TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What Pillow raises, or warns of, when a damaged header speaks of far more pixels than any mosaic has."""
LABELS = "labels.npz"


@dataclass(frozen=True, slots=True)
class Form:
    """File names of one form, and how one of its files is read; `extra` are files that it needs besides."""

    train: tuple[str, ...]
    test: str
    read: Callable[[Path], Samples]
    extra: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that must be there."""
        return (*self.train, self.test, *self.extra)


class _Type:
    """Stands for `numpy.dtype`: the name of an integer type, little-endian; the rest of a type's state is ignored."""

    def __init__(self, name: str | bytes, *_: Any) -> None:
        text = name.decode("latin1") if isinstance(name, bytes) else name
        self.type = np.dtype(text).newbyteorder("<") if text in INTEGERS else _refuse(f"type {text}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in (">", b">"):
            _refuse("big-endian numbers")


class _Array:
    """Stands for `numpy.ndarray`: takes shape, type and bytes, and makes nothing but an array of integers of them."""

    values: NDArray[Any]

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        self.values = np.frombuffer(content, kind.type).reshape(shape, order="F" if fortran else "C")


def _from_buffer(content: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", content))
    return array


def _scalar(kind: _Type, content: bytes) -> int:
    return int(np.frombuffer(content, kind.type)[0])


def _latin1(text: str, codec: str) -> bytes:
    return text.encode("latin1") if codec in ("latin1", "latin-1") else _refuse(codec)


def _refuse(what: str) -> Any:
    raise pickle.UnpicklingError(f"it asks for {what}, which no batch of CIFAR-10 needs")


INTEGERS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")
ADMITTED: dict[str, Any] = {
    "multiarray._reconstruct": _Array,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
}
"""What NumPy's own pickles ask for (below `numpy.core` or `numpy._core`), and what they get instead."""


class _BatchUnpickler(pickle.Unpickler):
    """Reads arrays of integers, numbers, strings, lists and dictionaries; whatever else is asked for is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Our stand-in for a name; nothing of that module is imported or called."""
        name = f"{module_name}.{global_name}"
        plain = {"numpy.ndarray": _Array, "numpy.dtype": _Type, "_codecs.encode": _latin1}
        short = name.removeprefix("numpy.core.").removeprefix("numpy._core.")
        return plain.get(name) or (ADMITTED.get(short) if short != name else None) or _refuse(name)


def read_python_batch(path: Path) -> Samples:
    """One python batch: a pickled dictionary with `data`, uint8 (N, 3072), and `labels`, a list of N."""
    try:
        with path.open("rb") as file:
            content = _BatchUnpickler(file, encoding="bytes").load()
        batch = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in content.items()}
        data, labels = (_plain(batch[key]) for key in ("data", "labels"))
    except Exception as error:  # a damaged pickle can fail in every way there is
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"damaged ({reason})", wanted="a python batch of CIFAR-10", where=str(path)) from error
    expect(data, (None, PIXELS), "u", what="data", where=path)
    return Samples(data.reshape(-1, 3, 32, 32), expect(labels, (len(data),), "iu", what="labels", where=path))


def _plain(value: Any) -> NDArray[Any]:
    return value.values if isinstance(value, _Array) else np.asarray(value)


def read_binary_batch(path: Path) -> Samples:
    """One binary batch: records of one label byte and 3,072 pixel bytes, channel by channel."""
    content = np.fromfile(path, dtype=np.uint8)
    if not len(content) or len(content) % (PIXELS + 1):
        given = f"{len(content)} bytes"
        raise DataError(given, wanted=f"whole records of {PIXELS + 1} bytes (truncated?)", where=str(path))
    records = content.reshape(-1, PIXELS + 1)
    return Samples(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0])


def read_mosaic(path: Path) -> Samples:
    """One mosaic and its part of `labels.npz` beside it."""
    try:
        with Image.open(path, formats=("WEBP",)) as image:
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, *TOO_LARGE) as error:
        raise DataError(f"damaged ({error})", wanted="a lossless WebP mosaic", where=str(path)) from error
    expect(pixels, (None, None, 3), "u", what="the mosaic", where=path)
    rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
    if pixels.shape[:2] != (rows * 32, columns * 32):
        raise DataError(f"a mosaic of {pixels.shape[:2]}", wanted="tiles of 32 x 32", where=str(path))
    tiles = pixels.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)
    labels = read_npz(path.with_name(LABELS), ("train", "test"))
    part = path.stem.removeprefix("cifar10-")
    if part == "test":
        return Samples(tiles, expect(labels["test"], (len(tiles),), "iu", what="test labels", where=path))
    wanted = (5 * len(tiles),)
    whole = expect(labels["train"], wanted, "iu", what="train labels", where=path.with_name(LABELS))
    number = int(part.removeprefix("train"))
    return Samples(tiles, whole[number * len(tiles) : (number + 1) * len(tiles)])


FORMS = {
    "cifar-10-batches-py": Form(tuple(f"data_batch_{k}" for k in range(1, 6)), "test_batch", read_python_batch),
    "cifar-10-batches-bin": Form(
        tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin", read_binary_batch
    ),
    "packed": Form(tuple(f"cifar10-train{k}.webp" for k in range(5)), "cifar10-test.webp", read_mosaic, (LABELS,)),
}
"""Form by the folder's name in the official archives."""
PYTHON_FORM = "cifar-10-batches-py"


def read_cifar10(folder: Path | None, seed: int, *, archive: Archive = OFFICIAL) -> RawData:
    """CIFAR-10 from `folder`; without one from the data root, and downloaded to there when it is not yet.

    Raises:
        DataError: no form of CIFAR-10 is in the folder, a file is missing or damaged, or there is no network.
    """
    root = data_root(folder)
    found = _find(root)
    if found is None and (folder is None or (folder / archive.file_name).is_file()):
        found = _obtain(root if folder else root / "cifar10", archive), FORMS[PYTHON_FORM]
    if found is None:
        given = "no CIFAR-10" if root.is_dir() else "no such folder"
        wanted = (
            "data_batch_1 to 5 and test_batch, the same as .bin, or cifar10-train0.webp to 4, -test.webp and labels.npz"
        )
        raise DataError(given, wanted=f"a folder with {wanted}", where=str(root), write="--data-dir DIR")
    place, form = found
    missing = [name for name in form.files if not (place / name).is_file()]
    if missing:
        raise DataError(f"no {', '.join(missing)}", wanted="every file of CIFAR-10", where=str(place))
    pool = _read_train(place, form)
    return RawData(
        name="cifar10",
        source=str(place),
        pool=pool,
        test=lambda: _read_test(place, form, len(pool.y) // len(form.train)),
        classes=10,
        class_names=NAMES,
        augmentation=Augmentation(flip=True, shift=(4, 4)),
    )


def _find(root: Path) -> tuple[Path, Form] | None:
    for place in (root, root / "cifar10"):
        for name, form in FORMS.items():
            for folder in (place, place / name):
                if any((folder / f).is_file() for f in (*form.train, form.test)):
                    return folder, form
    return None


def _obtain(folder: Path, archive: Archive) -> Path:
    packed = fetch(archive, folder)
    return unpack(packed, FORMS[PYTHON_FORM].files, folder / PYTHON_FORM)


def _read_train(place: Path, form: Form) -> Samples:
    """All training files, two at a time (decoding leaves Python's lock), into one array of bytes."""
    with ThreadPoolExecutor(2) as workers:
        parts = list(workers.map(form.read, (place / name for name in form.train)))
    for name, part in zip(form.train, parts, strict=True):
        _check_length(part, len(parts[0].y), place / name)
    return Samples(np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts]))


def _read_test(place: Path, form: Form, length: int) -> Samples:
    samples = form.read(place / form.test)
    _check_length(samples, length, place / form.test)
    return samples


def _check_length(part: Samples, length: int, path: Path) -> None:
    if len(part.y) != length:
        raise DataError(
            f"{len(part.y)} images", wanted=f"{length}, as in the other files (truncated?)", where=str(path)
        )
