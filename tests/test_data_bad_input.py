"""Bad data: one clear line each, of the class that the command line turns into exit code 2."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_cifar_forms import write_binary, write_packed, write_python
from offramp.data.cifar10 import read_cifar10
from offramp.data.dataset import load_dataset
from offramp.errors import DataError

Change = Callable[[dict[str, Any]], dict[str, Any]]


def good() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"x": rng.integers(0, 256, (60, 2, 4, 4), dtype=np.uint8), "y": np.arange(60) % 3}


def one_line(error: pytest.ExceptionInfo[DataError]) -> None:
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("name", ["cifar11", "", "no/such/folder"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(
        DataError, match=r"unknown dataset .*; wanted one of digits, cifar10, .*folder of \.npz"
    ) as error:
        load_dataset(name)
    one_line(error)


@pytest.mark.parametrize(
    ("name", "file"), [("fsdd", "fsdd_8k.npz"), ("har", "uci_har_i16.npz"), ("kws01", "kws01.npz")]
)
def test_a_missing_file_is_named_with_its_place(name: str, file: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: no {file}; wanted the file {file} of {name} in this folder"):
        load_dataset(name, data_dir=tmp_path)
    with pytest.raises(DataError, match="no such folder") as error:
        load_dataset(name, data_dir=tmp_path / "nowhere")
    one_line(error)


def test_a_folder_without_cifar10_says_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no CIFAR-10; wanted a folder with data_batch_1 to 5 .*--data-dir DIR"
    ) as error:
        load_dataset("cifar10", data_dir=tmp_path)
    one_line(error)
    with pytest.raises(DataError, match="no such folder"):
        load_dataset("cifar10", data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"x": d["x"].reshape(60, 32)}, r"x has shape \(60, 32\); wanted 3 or 4 axes; write x.reshape"),
        (lambda d: d | {"x": d["x"][:0], "y": d["y"][:0]}, r"y is int64 \(0,\)"),
        (lambda d: d | {"x": d["x"][:, :0]}, "none of them 0"),
        (lambda d: d | {"y": d["y"][:50]}, r"y has shape \(50,\) for 60 samples"),
        (lambda d: d | {"y": d["y"][:, None]}, r"wanted one integer per sample"),
        (lambda d: d | {"y": d["y"].astype(np.float32)}, r"y is float32 .*; write y.astype"),
        (lambda d: d | {"y": d["y"] - 1}, "label -1 of sample 0; wanted 0 to 1"),
        (lambda d: d | {"y": np.where(d["y"] == 1, 0, d["y"])}, "class 1 has 0 of 60 samples"),
        (lambda d: d | {"y": d["y"] * 0}, "1 class; wanted at least 2"),
        (lambda d: d | {"y": d["y"] + 1000}, "label 1002 among 60 samples"),
        (lambda d: d | {"class_names": np.array(["a", "b"])}, "label 2 of sample 2; wanted 0 to 1"),
        (lambda d: d | {"class_names": np.array(["a", "b", "c", "d"])}, "class 3 has 0 of 60 samples"),
        (lambda d: d | {"x": np.where(d["x"] == d["x"][7, 0, 0, 0], np.nan, 0.0)}, r"sample \d+ holds NaN or infinity"),
        (lambda d: d | {"x": d["x"].astype(np.complex64)}, "x of type complex64"),
        (lambda d: d | {"x": d["x"].astype(str)}, "x of type <U3"),
        (lambda d: d | {"layout": "CHWN"}, "layout 'CHWN'; wanted NCHW or NHWC"),
        (lambda d: {"x": d["x"]}, r"no array y \(has x\); wanted x, y"),
        (lambda d: {"images": d["x"], "y": d["y"]}, r"no array x"),
    ],
)
def test_a_users_file_that_is_not_right(change: Change, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **change(good()))
    with pytest.raises(DataError, match=message) as error:
        load_dataset(tmp_path)
    one_line(error)
    assert "mine.npz" in str(error.value)


def test_objects_in_a_file_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.array([{"a": 1}], dtype=object), y=np.arange(1))
    with pytest.raises(DataError, match="damaged"):
        load_dataset(tmp_path)


def test_splits_that_do_not_fit_together(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", **good())
    np.savez(tmp_path / "test.npz", x=np.zeros((5, 3, 4, 4)), y=np.arange(5) % 3)
    with pytest.raises(DataError, match=r"samples of shape \(3, 4, 4\); wanted \(2, 4, 4\), as in training"):
        load_dataset(tmp_path).read_test("bad")
    np.savez(tmp_path / "val.npz", x=np.zeros((5, 2, 4, 4)), y=np.arange(5))
    with pytest.raises(DataError, match=r"\(val\): label 3 of sample 3; wanted 0 to 2"):
        load_dataset(tmp_path)


def test_folders_that_are_not_clear(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.npz file; wanted train\.npz"):
        load_dataset(tmp_path)
    for name in "ab":
        np.savez(tmp_path / f"{name}.npz", **good())
    with pytest.raises(DataError, match=r"2 \.npz files \(a\.npz, b\.npz\)"):
        load_dataset(tmp_path)


@pytest.mark.reader
@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0.0, 0.999), flip=st.integers(0, 10**9))
def test_a_truncated_or_flipped_file_is_an_error_or_still_right(
    cut: float, flip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "mine.npz"
    np.savez(path, **good())
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(DataError, match=r"mine\.npz"):
        load_dataset(path)
    content[flip % len(content)] ^= 1 << (flip % 8)
    path.write_bytes(content)
    try:
        load_dataset(path)
    except DataError as error:
        assert "\n" not in str(error)


def truncate(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize(
    ("write", "file", "keep", "message"),
    [
        (write_python, "data_batch_3", 1000, "data_batch_3: damaged"),
        (write_binary, "data_batch_2.bin", 5000, "data_batch_2.bin: 5000 bytes; wanted whole records"),
        (write_binary, "data_batch_2.bin", 3073 * 7, r"7 images; wanted 20, as in the other files"),
        (write_packed, "cifar10-train4.webp", 1000, "cifar10-train4.webp: damaged"),
        (write_packed, "labels.npz", 100, "labels.npz: truncated or damaged"),
    ],
)
def test_truncated_cifar10(write: Callable[[Path], None], file: str, keep: int, message: str, tmp_path: Path) -> None:
    write(tmp_path)
    truncate(tmp_path / file, keep)
    with pytest.raises(DataError, match=message) as error:
        load_dataset("cifar10", data_dir=tmp_path)
    one_line(error)


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    write_binary(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"no data_batch_4\.bin; wanted every file of CIFAR-10"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_labels_out_of_range_in_cifar10(tmp_path: Path) -> None:
    write_binary(tmp_path)
    content = bytearray((tmp_path / "data_batch_1.bin").read_bytes())
    content[3073] = 10
    (tmp_path / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(DataError, match="label 10 of sample 1; wanted 0 to 9"):
        load_dataset("cifar10", data_dir=tmp_path)


class Malicious:
    """What an attacker would put into a batch."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("call", [os.system, eval, exec, __import__, np.load, np.memmap, getattr])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_malicious_pickle_does_nothing(call: Callable[..., Any], protocol: int, tmp_path: Path) -> None:
    write_python(tmp_path)
    trace = tmp_path / "trace"
    batch = {"data": Malicious(call, f"open({str(trace)!r}, 'w').close()"), "labels": [0]}
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=protocol))
    with pytest.raises(DataError, match=r"it asks for .*, which no batch of CIFAR-10 needs"):
        read_cifar10(tmp_path, 0)
    assert not trace.exists()


def test_objects_inside_an_array_are_refused(tmp_path: Path) -> None:
    write_python(tmp_path)
    batch = {"data": np.array([[None]], dtype=object), "labels": [0]}
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataError, match="it asks for type O8"):
        read_cifar10(tmp_path, 0)


@pytest.mark.reader
@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_as_a_batch_are_an_error(content: bytes) -> None:
    from tempfile import TemporaryDirectory

    from offramp.data.cifar10 import read_python_batch

    with TemporaryDirectory() as folder:
        path = Path(folder) / "data_batch_1"
        path.write_bytes(content)
        with pytest.raises(DataError, match="data_batch_1"):
            read_python_batch(path)


@pytest.mark.parametrize(
    ("name", "file", "arrays", "message"),
    [
        ("kws01", "kws01.npz", {"x": np.zeros((9, 40, 10), np.int8), "y": np.zeros(9, int)}, r"wanted \(any, 49, 10\)"),
        ("kws01", "kws01.npz", {"x": np.zeros((9, 49, 10), np.int8), "y": np.full(9, 12)}, "label 12 of sample 0"),
        ("har", "uci_har_i16.npz", {"x": np.zeros((9, 9, 128), np.int16), "y": np.zeros(8, int)}, "no array subject"),
        (
            "fsdd",
            "fsdd_8k.npz",
            {
                "audio": np.zeros(99, np.int16),
                "length": np.array([50, 50]),
                "y": np.zeros(2, int),
                "index": np.zeros(2, int),
            },
            "99 audio samples for clips of 100 together",
        ),
    ],
)
def test_named_sets_of_the_wrong_content(
    name: str, file: str, arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / file, **arrays)
    with pytest.raises(DataError, match=message):
        load_dataset(name, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("shape", "layout", "wanted"),
    [
        ((60, 2, 4, 5), "", (2, 4, 5)),
        ((60, 8, 9, 3), "", (3, 8, 9)),
        ((60, 2, 4, 4), "", (2, 4, 4)),
        ((60, 3, 9, 3), "", (3, 9, 3)),
        ((60, 3, 9, 3), "NHWC", (3, 3, 9)),
        ((60, 8, 9, 3), "NCHW", (8, 9, 3)),
        ((60, 8, 9), "", (1, 8, 9)),
        ((60, 8, 9), "NHWC", (1, 8, 9)),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "float16", "float64"])
def test_layouts_and_types_of_a_users_data(
    shape: tuple[int, ...], layout: str, wanted: tuple[int, int, int], dtype: str, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    extra = {"layout": layout} if layout else {}
    np.savez(tmp_path / "mine.npz", x=x, y=np.arange(60) % 3, **extra)  # type: ignore[arg-type]
    dataset = load_dataset(tmp_path / "mine.npz", normalize=False)
    assert dataset.input_shape == wanted
    assert dataset.name == "mine"
    assert dataset.train.x.sum() + dataset.val.x.sum() + dataset.read_test().x.sum() == float(x.astype(float).sum())


def test_a_folder_with_its_own_splits(tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    folder.mkdir()
    for name, count in (("train", 30), ("val", 12), ("test", 9)):
        part = good()
        np.savez(folder / f"{name}.npz", x=part["x"][:count], y=part["y"][:count])
    for dataset in (load_dataset(folder), load_dataset("birds", data_dir=tmp_path)):
        assert dataset.name == "birds"
        assert (len(dataset.train), len(dataset.val), len(dataset.read_test())) == (30, 12, 9)
        assert dataset.official_test
