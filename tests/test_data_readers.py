"""Each reader on its real files where they are at hand, and CIFAR-10 in its three forms made from the same images."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from data_cifar_forms import WRITERS, images, write_binary, write_python
from offramp.data.cifar10 import read_cifar10
from offramp.data.dataset import load_dataset
from offramp.data.fsdd import log_mel, mel_filters, mfcc, middle_second

SHARED = Path(os.environ.get("OFFRAMP_SHARED") or Path(__file__).parents[2] / "shared") / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here (OFFRAMP_SHARED)")


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_of_cifar10_gives_the_same_images_in_the_same_order(form: str, tmp_path: Path) -> None:
    WRITERS[form](tmp_path)
    raw, (x, y) = read_cifar10(tmp_path, 0), images()
    assert_array_equal(raw.pool.x, x[:5].reshape(-1, 3, 32, 32))
    assert_array_equal(raw.pool.y, y[:5].ravel())
    assert_array_equal(raw.test().x, x[5])
    assert_array_equal(raw.test().y, y[5])


@pytest.mark.parametrize("protocol", range(6))
def test_python_batches_of_any_pickle_protocol_are_read(protocol: int, tmp_path: Path) -> None:
    write_python(tmp_path, protocol)
    assert_array_equal(read_cifar10(tmp_path, 0).pool.x, images()[0][:5].reshape(-1, 3, 32, 32))


@pytest.mark.parametrize("inside", ["cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin"])
def test_cifar10_is_found_in_the_usual_folders(inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / inside
    folder.mkdir(parents=True)
    write_binary(folder)
    monkeypatch.setenv("OFFRAMP_DATA", str(tmp_path))
    dataset = load_dataset("cifar10", val_fraction=0.2)
    assert len(dataset.train) == 80
    assert len(dataset.val) == 20
    assert dataset.input_shape == (3, 32, 32)
    assert dataset.class_names[3] == "cat"


@needs_shared
def test_cifar10_decodes_to_the_published_bytes() -> None:
    """SHA-256 of the decoded uint8 NCHW bytes, from the README beside the data."""
    raw = read_cifar10(SHARED / "cifar10", 0)
    train = "ab0df3e66f541a31c0e719243b9edc7b0e42d844972229a04216cfb0704456dc"
    test = "ac91a5aa2e3be4731e61951be9d8ad850e0cb18986f1e34c19fefcec95ee1763"
    assert hashlib.sha256(raw.pool.x.tobytes()).hexdigest() == train
    assert hashlib.sha256(raw.test().x.tobytes()).hexdigest() == test
    assert np.bincount(raw.pool.y).tolist() == [5000] * 10


@needs_shared
@pytest.mark.parametrize(
    ("name", "shape", "train", "val", "test"),
    [
        ("fsdd", (1, 49, 10), 2295, 405, 300),
        ("fsdd-logmel", (1, 49, 40), 2295, 405, 300),
        ("har", (3, 128, 3), None, None, 2947),
        ("kws01", (1, 49, 10), 300, 200, 500),
    ],
)
def test_readers_give_the_documented_sizes(
    name: str, shape: tuple[int, int, int], train: int | None, val: int | None, test: int
) -> None:
    dataset = load_dataset(name, data_dir=SHARED)
    assert dataset.input_shape == shape
    assert train in (None, len(dataset.train))
    assert val in (None, len(dataset.val))
    assert len(dataset.read_test("size")) == test
    assert len(dataset.class_names) == dataset.classes


@needs_shared
def test_no_person_of_har_is_in_two_splits() -> None:
    with np.load(SHARED / "har" / "uci_har_i16.npz") as file:
        x, subject = file["x"], file["subject"]
    dataset = load_dataset("har", data_dir=SHARED, normalize=False, seed=1)
    who = {row.tobytes(): int(s) for row, s in zip(x, subject, strict=True)}
    people = []
    for split in (dataset.train, dataset.val, dataset.read_test("people")):
        back = np.rint(split.x * 4096).astype(np.int16).transpose(0, 1, 3, 2).reshape(-1, 9, 128)
        people.append({who[np.ascontiguousarray(row).tobytes()] for row in back})
    assert not people[0] & people[1] and not people[2] & (people[0] | people[1])
    assert len(people[0] | people[1] | people[2]) == 30


@needs_shared
def test_kws01_gives_the_real_values_of_its_integers() -> None:
    dataset = load_dataset("kws01", data_dir=SHARED, normalize=False)
    steps = dataset.read_test("scale").x / 0.5847029089927673 + 83.0
    assert np.abs(steps - np.rint(steps)).max() < 1e-3
    assert steps.min() > -128.5 and steps.max() < 127.5


def test_mel_filters_cover_the_band_and_peak_at_one() -> None:
    filters = mel_filters()
    assert filters.shape == (257, 40)
    assert 0.5 < filters.max() <= 1.0
    assert (filters.sum(axis=0) > 0).all()
    assert_array_equal(filters[:2], 0.0)  # below 20 Hz, and at 15.6 Hz


@pytest.mark.parametrize("frequency", [250.0, 1000.0, 3000.0])
def test_a_tone_sounds_in_its_own_band(frequency: float) -> None:
    time = np.arange(8000, dtype=np.float32) / 8000.0
    picture = log_mel(np.sin(2 * np.pi * frequency * time)[None].astype(np.float32))
    assert picture.shape == (1, 49, 40)
    band = int(picture[0, 20].argmax())
    assert mel_filters()[round(frequency / 8000.0 * 512), band] > 0.4


def test_mfcc_is_the_cosine_transform_of_the_log_mel_picture() -> None:
    audio = np.random.default_rng(0).normal(0.0, 0.1, (2, 8000)).astype(np.float32)
    mel, coefficients = log_mel(audio), mfcc(audio)
    assert coefficients.shape == (2, 49, 10)
    assert np.allclose(coefficients[..., 0], mel.sum(axis=-1) / np.sqrt(40.0), atol=1e-3)
    third = np.cos(np.pi * 3 * (np.arange(40) + 0.5) / 40) * np.sqrt(2.0 / 40.0)
    assert np.allclose(coefficients[..., 3], mel @ third, atol=1e-3)


@pytest.mark.parametrize("length", [0, 1, 7999, 8000, 8001, 20000])
def test_a_clip_becomes_its_middle_second(length: int) -> None:
    clip = np.arange(1, length + 1).astype(np.int16)
    second = middle_second(clip)
    assert second.shape == (8000,)
    assert np.count_nonzero(second) == min(length, 8000)
    if length > 8000:
        assert second[0] * 32768 == (length - 8000) // 2 + 1
