"""Damaged data files: samples that are right, or one line that says what is wrong; never a traceback or a warning."""

import io
import pickle
import struct
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from damaged_files import damaged_bytes
from data_cifar_forms import images
from offramp.data.cifar10 import read_binary_batch, read_mosaic, read_python_batch
from offramp.data.dataset import load_dataset
from offramp.data.files import read_npz
from offramp.errors import DataError

TYPES = ("uint8", "int8", "int16", ">i4", "uint64", "float16", "float32", "float64", "longdouble", "bool", "complex64")
Arrays = dict[str, NDArray[Any]]


def good() -> Arrays:
    rng = np.random.default_rng(0)
    return {"x": rng.integers(0, 256, (24, 2, 3, 4), dtype=np.uint8), "y": np.arange(24) % 3}


def packed(named: Arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **named)  # type: ignore[arg-type]
    return stream.getvalue()


@st.composite
def wrong_arrays(draw: st.DrawFn) -> Arrays:
    """A good file's arrays with some of another type, another shape, other numbers, or gone."""
    named = good()
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(["x", "y", "class_names", "layout"]))
        action = draw(st.sampled_from(["type", "number", "new", "gone"]))
        array = named.get(name, np.array(["a", "b", "c"]))
        if action == "type" and array.dtype.kind != "U":
            with np.errstate(all="ignore"):
                named[name] = array.real.astype(draw(st.sampled_from(TYPES)))
        elif action == "number" and array.size and array.dtype.kind in "iuf":
            number = draw(arrays.from_dtype(array.dtype))
            named[name] = array.copy()
            named[name].reshape(-1)[draw(st.integers(0, array.size - 1))] = number
        elif action == "new":
            shape = draw(arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4) | st.just(array.shape))
            named[name] = draw(arrays.arrays(draw(st.sampled_from([*TYPES, "U3"])), shape))
        else:
            named.pop(name, None)
    return named


def filled(number: float, kind: str) -> Arrays:
    return good() | {"x": np.full((24, 2, 3, 4), number, kind)}


def right_or_refused(path: Path) -> None:
    """Every split finite, of one shape, with labels in range; or an error of one line."""
    try:
        dataset = load_dataset(path)
        splits = [dataset.train, dataset.val, dataset.read_test("damaged")]
    except DataError as error:
        assert str(error).isprintable() and path.name in str(error)
        return
    for split in splits:
        assert np.isfinite(split.x).all() and split.x.shape[1:] == dataset.input_shape
        assert len(split) == len(split.x) and 0 <= split.y.min() <= split.y.max() < dataset.classes


@pytest.mark.reader
@given(wrong_arrays())
@example(filled(3.4e38, "float32"))
@example(filled(1.3e154, "float64"))
@example(good() | {"x": np.linspace(0, 1e-40, 576).reshape(24, 2, 3, 4)})
@settings(max_examples=200)
def test_wrong_arrays_of_a_users_file(named: Arrays) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mine.npz"
        path.write_bytes(packed(named))
        right_or_refused(path)


@pytest.mark.reader
@given(train=wrong_arrays() | st.just(good()), test=wrong_arrays())
@example(train=good(), test=filled(3.4e38, "float64"))
@example(train=good() | {"x": np.linspace(0, 1e-30, 576).reshape(24, 2, 3, 4)}, test=filled(1e9, "float64"))
@settings(max_examples=100)
def test_wrong_arrays_of_a_users_folder(train: Arrays, test: Arrays) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name) / "mine"
        folder.mkdir()
        (folder / "train.npz").write_bytes(packed(train))
        (folder / "test.npz").write_bytes(packed(test))
        (folder / "val.npz").write_bytes(packed(good()))
        right_or_refused(folder)


@pytest.mark.reader
@given(damaged_bytes([packed(good())]))
@settings(max_examples=200)
def test_a_damaged_npz(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mine.npz"
        path.write_bytes(content)
        right_or_refused(path)


@cache
def cifar10_files() -> dict[str, bytes]:
    """Two images in every form of CIFAR-10, and the labels that the packed form needs besides."""
    x, y = images()
    x, y, mosaic = x[0, :2], y[0, :2], io.BytesIO()
    Image.fromarray(x.transpose(2, 0, 3, 1).reshape(32, 64, 3)).save(mosaic, "WEBP", lossless=True)
    return {
        "data_batch_1": pickle.dumps({b"data": x.reshape(2, -1), b"labels": y.tolist()}, protocol=2),
        "data_batch_1.bin": np.concatenate([y[:, None], x.reshape(2, -1)], axis=1).tobytes(),
        MOSAIC: mosaic.getvalue(),
        "labels.npz": packed({"train": np.tile(y, 5), "test": y}),
    }


MOSAIC = "cifar10-train0.webp"
READ = {"data_batch_1": read_python_batch, "data_batch_1.bin": read_binary_batch, MOSAIC: read_mosaic}


def sized(width: int, height: int) -> bytes:
    """The mosaic with another size in its header (WebP lossless, 14 bits each less 1, from byte 21 on)."""
    good = cifar10_files()[MOSAIC]
    return good[:21] + struct.pack("<I", (width - 1) | (height - 1) << 14) + good[25:]


def samples_or_refused(name: str, damaged: dict[str, bytes]) -> None:
    with TemporaryDirectory() as folder:
        for file in (name, "labels.npz"):
            (Path(folder) / file).write_bytes((cifar10_files() | damaged)[file])
        try:
            samples = READ[name](Path(folder) / name)
        except DataError as error:
            assert str(error).isprintable() and folder in str(error)
        else:
            assert samples.x.shape == (len(samples.y), 3, 32, 32) and samples.x.dtype == np.uint8


@pytest.mark.reader
@given(st.deferred(lambda: damaged_bytes([cifar10_files()["data_batch_1"]])))
@settings(max_examples=200)
def test_a_damaged_python_batch(content: bytes) -> None:
    samples_or_refused("data_batch_1", {"data_batch_1": content})


@pytest.mark.reader
@given(st.deferred(lambda: damaged_bytes([cifar10_files()["data_batch_1.bin"]])))
@settings(max_examples=50)
def test_a_damaged_binary_batch(content: bytes) -> None:
    samples_or_refused("data_batch_1.bin", {"data_batch_1.bin": content})


@pytest.mark.reader
@given(st.deferred(lambda: damaged_bytes([cifar10_files()[MOSAIC]])))
@example(sized(12_000, 10_000))  # more than Pillow opens without a warning
@example(sized(16_000, 16_000))  # more than it opens at all
@settings(max_examples=100)
def test_a_damaged_mosaic(content: bytes) -> None:
    samples_or_refused(MOSAIC, {MOSAIC: content})


@pytest.mark.reader
@given(st.deferred(lambda: damaged_bytes([cifar10_files()["labels.npz"]])))
@settings(max_examples=100)
def test_damaged_labels_of_mosaics(content: bytes) -> None:
    samples_or_refused(MOSAIC, {"labels.npz": content})


@pytest.mark.reader
@pytest.mark.parametrize("name", ["fsdd", "har", "kws01"])
@given(draw=st.data())
@settings(max_examples=50)
def test_wrong_arrays_of_named_sets(name: str, draw: st.DataObject) -> None:
    file, named = NAMED[name]
    changed = dict(named)
    key = draw.draw(st.sampled_from(sorted(named)))
    kind = draw.draw(st.sampled_from([*TYPES, named[key].dtype.str]))
    shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3) | st.just(named[key].shape)
    changed[key] = draw.draw(arrays.arrays(kind, draw.draw(shapes)))
    with TemporaryDirectory() as folder:
        (Path(folder) / file).write_bytes(packed(changed))
        try:
            dataset = load_dataset(name, data_dir=folder)
            splits = [dataset.train, dataset.val, dataset.read_test("damaged")]
        except DataError as error:
            assert str(error).isprintable() and folder in str(error)
            return
        assert all(np.isfinite(s.x).all() and s.y.max() < dataset.classes for s in splits)


NAMED: dict[str, tuple[str, Arrays]] = {
    "kws01": ("kws01.npz", {"x": np.ones((120, 49, 10), np.int8), "y": np.arange(120) % 12}),
    "har": (
        "uci_har_i16.npz",
        {
            "x": np.ones((60, 9, 128), np.int16), "y": np.arange(60) % 6, "subject": np.arange(60) // 6,
            "test": np.arange(60) >= 48,
        },
    ),
    "fsdd": (
        "fsdd_8k.npz",
        {
            "audio": np.arange(60 * 50, dtype=np.int16), "length": np.full(60, 50), "y": np.arange(60) % 10,
            "index": np.arange(60) // 10 * 2,
        },
    ),
}  # fmt: skip


def test_undamaged_files_are_read(tmp_path: Path) -> None:
    """What the damage starts from is sound."""
    for name, (file, named) in NAMED.items():
        (tmp_path / file).write_bytes(packed(named))
        assert len(load_dataset(name, data_dir=tmp_path).read_test("sound"))
    (tmp_path / "mine.npz").write_bytes(packed(good()))
    assert read_npz(tmp_path / "mine.npz", ("x", "y"))["x"].shape == (24, 2, 3, 4)
    for file in ("data_batch_1", "data_batch_1.bin", MOSAIC):
        (tmp_path / file).write_bytes(cifar10_files()[file])
    (tmp_path / "labels.npz").write_bytes(cifar10_files()["labels.npz"])
    for read, file in (
        (read_python_batch, "data_batch_1"),
        (read_binary_batch, "data_batch_1.bin"),
        (read_mosaic, MOSAIC),
    ):
        assert len(read(tmp_path / file).y) == 2
