"""Augmentation on batches: laws of flip, shift and cutout, against a plain loop; same generator, same batch."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.data import Augmentation
from offramp.learn.augment import augment


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 99), st.booleans(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 5))
@settings(max_examples=40)
def test_same_generator_same_batch_and_the_shape_stays(seed: int, flip: bool, dy: int, dx: int, cutout: int) -> None:
    x = torch.randn(6, 2, 7, 9, generator=generator(seed))
    what, before = Augmentation(flip=flip, shift=(dy, dx), cutout=cutout), x.clone()
    a, b = augment(x, what, generator(seed)), augment(x, what, generator(seed))
    assert torch.equal(a, b)
    assert a.shape == x.shape
    assert torch.equal(x, before)


def test_flip_mirrors_about_half() -> None:
    x = torch.randn(400, 1, 4, 5, generator=generator(0))
    y = augment(x, Augmentation(flip=True), generator(1))
    kept = (y == x).flatten(1).all(1)
    mirrored = (y == x.flip(3)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_shift_moves_whole_images_and_fills_with_zero() -> None:
    x = torch.randn(50, 3, 6, 7, generator=generator(0))
    y = augment(x, Augmentation(shift=(2, 1)), generator(1))
    padded = torch.nn.functional.pad(x, (1, 1, 2, 2))
    seen = set()
    for i in range(len(x)):
        fits = [(a, b) for a in range(5) for b in range(3) if torch.equal(padded[i, :, a : a + 6, b : b + 7], y[i])]
        assert len(fits) == 1
        seen |= set(fits)
    assert len(seen) == 15


def test_cutout_zeroes_one_square_that_may_reach_over_the_edge() -> None:
    x = torch.ones(300, 2, 8, 8)
    y = augment(x, Augmentation(cutout=3), generator(0))
    assert torch.equal(y[:, 0], y[:, 1])
    for image in y[:, 0]:
        rows, columns = (image == 0).nonzero(as_tuple=True)
        height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert len(rows) == height * width
        assert max(height, width) <= 3
    assert int((y[:, 0] == 0).sum((1, 2)).max()) == 9
    assert int((y[:, 0] == 0).sum((1, 2)).min()) == 4


def test_empty_augmentation_is_the_batch_itself() -> None:
    x = torch.ones(1, 1, 2, 2)
    assert augment(x, Augmentation(), generator(0)) is x
