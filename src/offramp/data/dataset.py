"""A dataset as NumPy arrays: train, validation and test, separated once, by seed; ready for a network.

Training and search see `train` and `val`. Test samples come from `read_test` alone, which writes down who asked, so
that a report can show that test was read once per reported network. Normalisation constants are fitted on the training
split and kept, so that a device can apply the same ones. No torch: a device reads data too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.cifar10 import read_cifar10
from offramp.data.digits import read_digits
from offramp.data.files import data_root
from offramp.data.folder import read_folder
from offramp.data.fsdd import read_fsdd
from offramp.data.har import read_har
from offramp.data.kws01 import read_kws01
from offramp.data.raw import (
    Augmentation,
    Labels,
    Mask,
    RawData,
    Samples,
    check_classes,
    check_samples,
    pick_groups,
    pick_stratified,
)
from offramp.errors import DataError

__all__ = ["READERS", "Augmentation", "Dataset", "Normalization", "Split", "load_dataset"]

Images = NDArray[np.float32]
Sums = NDArray[np.float64]
Reader = Callable[[Path | None, int], RawData]

READERS: dict[str, Reader] = {
    "digits": read_digits,
    "cifar10": read_cifar10,
    "fsdd": read_fsdd,
    "fsdd-logmel": partial(read_fsdd, features="log-mel"),
    "har": read_har,
    "kws01": read_kws01,
}
"""Dataset name -> its reader (folder or None, seed)."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Samples x, float32 (N, C, H, W), normalised, and labels y, int64 (N,)."""

    x: Images
    y: Labels

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True, eq=False)
class Normalization:
    """From the file's numbers q to the network's: (scale * (q - zero) - mean) / std.

    `mean` and `std`, float32 (C, 1, 1) or (C, 1, W), are those of the real values scale * (q - zero) in training data.
    """

    mean: Images
    std: Images
    scale: float = 1.0
    zero: float = 0.0

    def apply(self, raw: NDArray[Any]) -> Images:
        """Samples (N, C, H, W) as they lie in the file, made ready for the network."""
        factor = np.float32(self.scale) / self.std
        x = raw.astype(np.float32)
        x *= factor
        x -= self.mean / self.std + np.float32(self.zero) * factor
        return x

    @property
    def neutral(self) -> bool:
        """True when samples keep their real values."""
        return bool((self.mean == 0).all() and (self.std == 1).all())

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; `from_json` is its inverse."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "scale": self.scale, "zero": self.zero}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Normalization":
        """Read what `to_json` wrote.

        Raises:
            DataError: a key is missing or of the wrong form.
        """
        try:
            mean, std = (np.asarray(data[k], dtype=np.float32) for k in ("mean", "std"))
            scale, zero = float(data["scale"]), float(data["zero"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a normalization: {error}", wanted="mean, std, scale, zero") from error
        if mean.shape != std.shape or mean.ndim != 3 or not (np.isfinite(mean).all() and (std > 0).all()):
            raise DataError(f"mean {mean.shape} and std {std.shape}", wanted="finite, positive, both (C, 1, 1 or W)")
        return cls(mean, std, scale, zero)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A dataset ready for training and search.

    Attributes:
        input_shape: (C, H, W).
        official_test: False when test was set aside by seed for want of an official split.
        test_reads: who has asked for test samples so far, in order.
    """

    name: str
    source: str
    seed: int
    train: Split
    val: Split
    classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    augmentation: Augmentation
    normalization: Normalization
    official_test: bool
    test_reads: list[str] = field(default_factory=list)
    raw_test: Callable[[], Samples] = field(repr=False)

    def with_certification(self) -> "tuple[Dataset, Split]":
        """Half of the validation samples set aside, by the dataset's seed, for a guarantee."""
        order = np.random.default_rng([self.seed, 5]).permutation(len(self.val))
        kept, aside = np.sort(order[::2]), np.sort(order[1::2])
        x, y = self.val.x, self.val.y
        return replace(self, val=Split(x[kept], y[kept])), Split(x[aside], y[aside])

    def read_test(self, who: str = "unnamed") -> Split:
        """The test split, normalised like training; `who` (the network to be reported) is written down.

        Raises:
            DataError: the test samples are damaged or unlike the training samples.
        """
        self.test_reads.append(who)
        return self._test

    @cached_property
    def _test(self) -> Split:
        raw, where = self.raw_test(), f"{self.source} (test)"
        y = check_samples(raw, classes=self.classes, shape=self.input_shape, where=where)
        return Split(_normalised(self.normalization, raw.x, where), y)


def load_dataset(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    val_fraction: float | None = None,
    subset: int | None = None,
    normalize: bool = True,
) -> Dataset:
    """Read a dataset by name, or a user's own folder of `.npz`, verify it, split it by seed and normalise it.

    Args:
        name_or_path: a key of `READERS`, a `.npz` file, or a folder of them.
        data_dir: where the files lie; `OFFRAMP_DATA` or `~/.cache/offramp` when None.
        val_fraction: share of the training data set aside for validation; None takes the dataset's own.
        subset: keep this many samples of train and validation together, every class alike; test stays whole.
        normalize: False leaves the file's real values (mean 0, std 1), as a network trained elsewhere may want them.

    Raises:
        DataError: the name is unknown, files are missing or damaged, or samples or labels are not right.
    """
    if seed < 0:
        raise DataError(f"seed {seed}", wanted="0 or more", where="--seed", write="--seed 0")
    if val_fraction is not None and not 0.0 < val_fraction < 1.0:
        raise DataError(f"val_fraction {val_fraction}", wanted="between 0 and 1, both excluded", write="0.1")
    raw = _read(str(name_or_path), Path(data_dir).expanduser() if data_dir is not None else None, seed)
    return prepare(raw, seed=seed, val_fraction=val_fraction, subset=subset, normalize=normalize)


def _read(name: str, folder: Path | None, seed: int) -> RawData:
    """By name, else a path, else a path below the data folder."""
    if name in READERS:
        return READERS[name](folder, seed)
    for path in (Path(name).expanduser(), data_root(folder) / name):
        if name and path.exists():
            return read_folder(path, seed)
    known = ", ".join(READERS)
    raise DataError(
        f"unknown dataset {name!r}, and no such file or folder",
        wanted=f"one of {known}, or a folder of .npz",
        write="digits",
    )


def prepare(
    raw: RawData, *, seed: int = 0, val_fraction: float | None = None, subset: int | None = None, normalize: bool = True
) -> Dataset:
    """Verify what a reader found, choose subset and validation samples by seed, fit and apply the normalisation."""
    y = check_samples(raw.pool, classes=raw.classes, shape=None, where=raw.source)
    check_classes(y, raw.classes, least=1 if raw.val else 2, where=raw.source)
    shape = raw.pool.x.shape[1:]
    keep = _subset(y, raw.classes, subset, seed, raw.source)
    train, val = keep, keep
    if raw.val is None:
        aside = _validation(raw, y, keep, raw.val_fraction if val_fraction is None else val_fraction, seed)
        train, val = keep & ~aside, keep & aside
        check_classes(y[train], raw.classes, least=1, where=f"{raw.source} (train)")
    norm = _fit(raw, train, normalize)
    held = raw.val or Samples(raw.pool.x[val], y[val])
    held_y = check_samples(held, classes=raw.classes, shape=shape, where=f"{raw.source} (val)")
    return Dataset(
        name=raw.name,
        source=raw.source,
        seed=seed,
        train=Split(_normalised(norm, raw.pool.x[train], f"{raw.source} (train)"), y[train]),
        val=Split(_normalised(norm, held.x, f"{raw.source} (val)"), held_y),
        classes=raw.classes,
        class_names=raw.class_names or tuple(str(k) for k in range(raw.classes)),
        input_shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        augmentation=raw.augmentation,
        normalization=norm,
        official_test=raw.official_test,
        raw_test=raw.test,
    )


def _normalised(norm: Normalization, raw: NDArray[Any], where: str) -> Images:
    """Samples made ready, refused when one lies so far from the training data that float32 cannot hold it."""
    with np.errstate(over="ignore", invalid="ignore"):
        x = norm.apply(raw)
    if raw.dtype.kind == "f" and not np.isfinite(x).all():
        at = int(np.flatnonzero(~np.isfinite(x).all(axis=(1, 2, 3)))[0])
        raise DataError(f"sample {at} is far from the training data", wanted="numbers of one magnitude", where=where)
    return x


def _subset(y: Labels, classes: int, subset: int | None, seed: int, where: str) -> Mask:
    if subset is None or subset == len(y):
        return np.ones(len(y), dtype=np.bool_)
    if not 2 * classes <= subset <= len(y):
        raise DataError(f"subset {subset}", wanted=f"{2 * classes} to {len(y)} samples", where=where)
    return pick_stratified(y, subset, np.random.default_rng([seed, 2]), leave=0)


def _validation(raw: RawData, y: Labels, keep: Mask, fraction: float, seed: int) -> Mask:
    rng = np.random.default_rng([seed, 3])
    if raw.groups is not None:
        return pick_groups(raw.groups, fraction, rng)
    kept = np.flatnonzero(keep)
    aside = np.zeros(len(y), dtype=np.bool_)
    aside[kept[pick_stratified(y[kept], round(fraction * len(kept)), rng)]] = True
    return aside


def _fit(raw: RawData, train: Mask, normalize: bool) -> Normalization:
    """Mean and standard deviation of the real values of the training samples."""
    channels, width = raw.pool.x.shape[1], raw.pool.x.shape[3]
    kept = (channels, 1, width if raw.per_column else 1)
    if not normalize:
        return Normalization(np.zeros(kept, np.float32), np.ones(kept, np.float32), raw.scale, raw.zero)
    axes = (0, 2) if raw.per_column else (0, 2, 3)
    number, total, square = 0, np.zeros(kept), np.zeros(kept)
    for chunk in np.array_split(np.flatnonzero(train), max(1, int(train.sum()) // 4096)):
        values = raw.pool.x[chunk]
        number += values.size // total.size
        sums = _byte_sums(values) if values.dtype == np.uint8 and not raw.per_column else _sums(values, axes)
        total, square = total + sums[0].reshape(kept), square + sums[1].reshape(kept)
    mean = total / number
    std = np.sqrt(np.maximum(square / number - np.square(mean), 0.0))
    mean, std = (mean - raw.zero) * raw.scale, std * raw.scale
    std = np.where(std > 1e-6 * max(float(std.max()), 1e-30), std, 1.0)
    return Normalization(mean.astype(np.float32), std.astype(np.float32), raw.scale, raw.zero)


def _sums(values: NDArray[Any], axes: tuple[int, ...]) -> tuple[Sums, Sums]:
    exact = values.astype(np.float64)
    return exact.sum(axis=axes), np.square(exact).sum(axis=axes)


def _byte_sums(values: NDArray[Any]) -> tuple[Sums, Sums]:
    """Sums and sums of squares per channel through a histogram: exact, and quick for many images of bytes."""
    table = np.stack([np.bincount(values[:, c].ravel(), minlength=256) for c in range(values.shape[1])])
    level = np.arange(256)
    return (table @ level).astype(np.float64), (table @ np.square(level)).astype(np.float64)
