"""Laws of the one split: nothing is lost or shared, every class keeps its share, the seed decides, test is counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from offramp.data.dataset import Dataset, Normalization, load_dataset, prepare
from offramp.data.raw import RawData, Samples, pick_groups, pick_stratified
from offramp.errors import DataError

LABELS = st.lists(st.integers(0, 4), min_size=12, max_size=200)


@settings(max_examples=60, deadline=None)
@given(LABELS, st.floats(0.05, 0.95), st.integers(0, 99))
def test_a_stratified_choice_keeps_every_class_share(labels: list[int], fraction: float, seed: int) -> None:
    y = np.asarray(labels, dtype=np.int64)
    mask = pick_stratified(y, round(fraction * len(y)), np.random.default_rng(seed))
    for label in np.unique(y):
        members = y == label
        taken = int(mask[members].sum())
        assert 1 <= taken <= max(1, members.sum() - 1)
        assert abs(taken - fraction * members.sum()) <= 2
    again = pick_stratified(y, round(fraction * len(y)), np.random.default_rng(seed))
    assert_array_equal(mask, again)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.floats(0.0, 1.0), st.integers(0, 99))
def test_groups_stay_whole(people: int, fraction: float, seed: int) -> None:
    groups = np.repeat(np.arange(people), 3)
    mask = pick_groups(groups, fraction, np.random.default_rng(seed))
    assert 0 < mask.sum() < len(mask)
    assert not set(groups[mask]) & set(groups[~mask])


def numbered(n: int = 120, classes: int = 4, **changes: object) -> RawData:
    """Samples whose single pixel is their number, so that they can be followed."""
    x = np.arange(n, dtype=np.int32).reshape(n, 1, 1, 1)
    y = np.arange(n) % classes
    test = Samples(x[:8] + 1000, y[:8])
    fields = {"name": "numbered", "source": "here", "pool": Samples(x, y), "test": lambda: test, "classes": classes}
    return RawData(**(fields | changes))  # type: ignore[arg-type]


def numbers(dataset: Dataset) -> tuple[set[int], set[int]]:
    return set(dataset.train.x.ravel().astype(int)), set(dataset.val.x.ravel().astype(int))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50), st.floats(0.1, 0.9), st.one_of(st.none(), st.integers(20, 120)))
def test_train_and_validation_share_nothing(seed: int, fraction: float, subset: int | None) -> None:
    dataset = prepare(numbered(), seed=seed, val_fraction=fraction, subset=subset, normalize=False)
    train, val = numbers(dataset)
    assert not train & val
    assert len(train | val) == (subset or 120)
    assert set(dataset.train.y) == set(dataset.val.y) == {0, 1, 2, 3}
    for sample, label in zip(dataset.train.x.ravel(), dataset.train.y, strict=True):
        assert int(sample) % 4 == label


def test_the_seed_decides_the_split() -> None:
    splits = [numbers(prepare(numbered(), seed=s, normalize=False)) for s in (1, 1, 2)]
    assert splits[0] == splits[1] != splits[2]


def test_a_given_validation_split_is_taken_as_it_is() -> None:
    held = Samples(np.full((8, 1, 1, 1), 7), np.arange(8) % 4)
    dataset = prepare(numbered(val=held), normalize=False)
    assert len(dataset.train) == 120
    assert len(dataset.val) == 8


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["uint8", "int8", "int16", "float32"]), st.booleans(), st.integers(0, 20))
def test_training_data_is_normalised_per_channel_or_column(dtype: str, per_column: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 100, (60, 3, 4, 5)).astype(dtype)
    raw = RawData(
        name="r", source="here", pool=Samples(x, np.arange(60) % 2), test=lambda: Samples(x, np.arange(60) % 2),
        classes=2, scale=0.25, zero=12.0, per_column=per_column,
    )  # fmt: skip
    dataset = prepare(raw, seed=seed)
    axes = (0, 2) if per_column else (0, 2, 3)
    assert_allclose(dataset.train.x.mean(axis=axes), 0.0, atol=1e-4)
    assert_allclose(dataset.train.x.std(axis=axes), 1.0, rtol=1e-4)
    norm = dataset.normalization
    real = 0.25 * (x.astype(np.float64) - 12.0)
    assert_allclose(dataset.read_test().x, (real - norm.mean) / norm.std, atol=1e-4)
    copy = Normalization.from_json(norm.to_json())
    assert_array_equal(copy.apply(x), norm.apply(x))


def test_constant_pixels_do_not_divide_by_zero() -> None:
    x = np.full((20, 1, 2, 2), 5, dtype=np.uint8)
    raw = numbered(n=20, classes=2, pool=Samples(x, np.arange(20) % 2))
    assert_array_equal(prepare(raw).train.x, 0.0)


def test_reading_test_is_written_down() -> None:
    dataset = load_dataset("digits", seed=3)
    assert dataset.test_reads == []
    first = dataset.read_test("static resnet8")
    second = dataset.read_test("trial 4")
    assert dataset.test_reads == ["static resnet8", "trial 4"]
    assert first is second


def test_digits_are_all_there_and_separated() -> None:
    dataset = load_dataset("digits", seed=5, normalize=False)
    parts = [dataset.train, dataset.val, dataset.read_test("count")]
    assert sum(map(len, parts)) == 1797
    assert dataset.input_shape == (1, 8, 8)
    assert sum(float(p.x.sum()) for p in parts) == 561718.0  # the sum of all pixels that scikit-learn ships
    assert all(p.x.dtype == np.float32 and p.y.dtype == np.int64 for p in parts)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_validation_share_must_leave_something(fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        load_dataset("digits", val_fraction=fraction)


@pytest.mark.parametrize("subset", [0, 19, 5000])
def test_a_subset_must_fit(subset: int) -> None:
    with pytest.raises(DataError, match=f"subset {subset}; wanted 20 to 1438"):
        load_dataset("digits", subset=subset)


@pytest.mark.parametrize(
    "damage", [{"std": None}, {"std": [[[0.0]]]}, {"mean": [[0.0]]}, {"mean": [[[float("nan")]]]}, {"scale": "x"}]
)
def test_a_damaged_normalization_is_refused(damage: dict[str, object]) -> None:
    good = load_dataset("digits").normalization.to_json()
    with pytest.raises(DataError, match="wanted"):
        Normalization.from_json(good | damage)
