"""What a reader hands over: samples as they lie in the file, and how to make numbers for a network of them.

Readers know files; they do not split off validation data, normalise or judge samples. `data.dataset` does that
once for all of them, with the checks and the seeded choices of this file. No torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError

LARGEST = 1e18
"""A larger number in a sample is a mistake: its square would leave float32."""

Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples x (N, C, H, W) of any real number type and labels y (N,), as read."""

    x: NDArray[Any]
    y: NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What training may do to a batch, as plain numbers; `learn` applies it to tensors.

    Attributes:
        flip: mirror left and right with probability one half.
        shift: largest shift (rows, columns) in pixels, drawn evenly; what moves in is 0, the mean of the training data.
        cutout: side in pixels of one square set to 0 (DeVries and Taylor 2017, arXiv 1708.04552); 0 for none.
    """

    flip: bool = False
    shift: tuple[int, int] = (0, 0)
    cutout: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RawData:
    """One dataset as its reader found it.

    Attributes:
        pool: training samples; validation samples come out of them unless `val` holds some.
        test: reads the test samples when asked.
        scale, zero: the file's integer q stands for the real value scale * (q - zero).
        per_column: normalise each (channel, column) by itself (features of unlike size side by side), not each channel.
        groups: who or what each pool sample comes from; validation then takes whole groups.
    """

    name: str
    source: str
    pool: Samples
    test: Callable[[], Samples]
    classes: int
    class_names: tuple[str, ...] = ()
    val: Samples | None = None
    groups: NDArray[Any] | None = None
    val_fraction: float = 0.1
    official_test: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)
    scale: float = 1.0
    zero: float = 0.0
    per_column: bool = False


def check_samples(samples: Samples, *, classes: int, shape: tuple[int, ...] | None, where: str) -> Labels:
    """Labels as int64 when everything is right with the samples.

    Raises:
        DataError: wrong shape, lengths that differ, labels that are no integers or out of range, NaN or infinity.
    """
    x, y = samples.x, samples.y
    if x.ndim != 4 or 0 in x.shape:
        raise DataError(f"x has shape {x.shape}", wanted="(N, C, H, W), none of them 0", where=where)
    if shape is not None and x.shape[1:] != shape:
        raise DataError(f"x has samples of shape {x.shape[1:]}", wanted=f"{shape}, as in training", where=where)
    if y.ndim != 1 or len(y) != len(x):
        raise DataError(f"y has shape {y.shape} for {len(x)} samples", wanted=f"({len(x)},)", where=where)
    if y.dtype.kind not in "iu":
        raise DataError(f"labels of type {y.dtype}", wanted="integers", where=where, write="y.astype('int64')")
    if int(y.min()) < 0 or int(y.max()) >= classes:
        at = int(np.flatnonzero((y < 0) | (y >= classes))[0])
        raise DataError(f"label {int(y[at])} of sample {at}", wanted=f"0 to {classes - 1}", where=where)
    if x.dtype.kind not in "iuf":
        raise DataError(f"x of type {x.dtype}", wanted="integers or floats", where=where)
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        at = int(np.flatnonzero(~np.isfinite(x).all(axis=(1, 2, 3)))[0])
        raise DataError(f"sample {at} holds NaN or infinity", wanted="finite numbers", where=where)
    if x.dtype.itemsize > 2 and max(float(x.max()), -float(x.min())) > LARGEST:
        given = f"x reaches from {float(x.min()):g} to {float(x.max()):g}"
        raise DataError(given, wanted=f"numbers up to {LARGEST:g}", where=where)
    return y.astype(np.int64)


def check_classes(y: Labels, classes: int, *, least: int, where: str) -> None:
    """Refuse a class with fewer than `least` samples: it could not be learned or not be validated."""
    counts = np.bincount(y, minlength=classes)
    if classes < 2:
        raise DataError(f"{classes} class", wanted="at least 2", where=where)
    if counts.min() < least:
        empty = int(np.argmin(counts))
        given = f"class {empty} has {counts[empty]} of {len(y)} samples"
        raise DataError(given, wanted=f"at least {least} of every class", where=where)


def pick_stratified(y: Labels, total: int, rng: np.random.Generator, *, leave: int = 1) -> Mask:
    """Choose `total` samples so that every class keeps its share (largest remainder).

    At least one of each class is chosen, and at least `leave` stay behind unless the class has only one.
    """
    counts = np.bincount(y)
    quota = counts * (total / len(y))
    take = np.floor(quota).astype(np.int64)
    order = np.argsort(-(quota - take), kind="stable")
    take[order[: total - int(take.sum())]] += 1
    take = np.where(counts > 0, np.clip(take, 1, np.maximum(counts - leave, 1)), 0)
    mask = np.zeros(len(y), dtype=np.bool_)
    for label, number in enumerate(take):
        mask[rng.permutation(np.flatnonzero(y == label))[:number]] = True
    return mask


def pick_groups(groups: NDArray[Any], fraction: float, rng: np.random.Generator) -> Mask:
    """Choose whole groups, about `fraction` of them, at least one and never all."""
    names = np.unique(groups)
    number = min(max(round(fraction * len(names)), 1), len(names) - 1)
    return np.isin(groups, rng.permutation(names)[:number])
