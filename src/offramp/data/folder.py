"""A user's own data: a `.npz` file, or a folder of them, with samples `x` and labels `y`.

In a folder, `train.npz` is the training data; `val.npz` and `test.npz` are used when they are there, else split off by
seed. A folder may also hold one `.npz` of any name. `x` may be of any integer or float type and have the shape
(N, C, H, W), (N, H, W, C) or (N, H, W). Four axes are read as NHWC when the last has 1, 3 or 4 entries, the second has
not and the last two are unlike, else as NCHW; a string `layout` in the file ("NCHW" or "NHWC") decides it. `y` holds
integers from 0; the number of classes is that of `class_names` in the training file, else the largest label + 1.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.files import Arrays, read_npz
from offramp.data.raw import RawData, Samples, check_classes, check_samples, pick_stratified
from offramp.errors import DataError

TEST_FRACTION = 0.2
CHANNELS_LAST = (1, 3, 4)


def read_folder(path: Path, seed: int) -> RawData:
    """A user's dataset from a file or folder.

    Raises:
        DataError: there is no `.npz`, or one is damaged or not as the rules say.
    """
    main = _main_file(path)
    arrays = read_npz(main, ("x", "y"))
    pool = _samples(arrays, main)
    names = tuple(str(n) for n in arrays["class_names"].ravel()) if "class_names" in arrays else ()
    classes = len(names) or _count_classes(pool.y, main)
    val, test = (path / f"{part}.npz" for part in ("val", "test"))
    official = path.is_dir() and test.is_file() and main != test
    held = None
    if not official:
        y = check_samples(pool, classes=classes, shape=None, where=str(main))
        check_classes(y, classes, least=3, where=str(main))
        mask = pick_stratified(y, round(TEST_FRACTION * len(y)), np.random.default_rng([seed, 1]))
        pool, held = Samples(pool.x[~mask], y[~mask]), Samples(pool.x[mask], y[mask])
    return RawData(
        name=path.stem if path.is_file() else path.resolve().name,
        source=str(path),
        pool=pool,
        val=_samples(read_npz(val, ("x", "y")), val) if path.is_dir() and val.is_file() else None,
        test=lambda: held or _samples(read_npz(test, ("x", "y")), test),
        classes=classes,
        class_names=names,
        val_fraction=0.2,
        official_test=official,
    )


def _main_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.npz"))
    if path / "train.npz" in files:
        return path / "train.npz"
    if len(files) != 1:
        given = f"{len(files)} .npz files ({', '.join(f.name for f in files[:4])})" if files else "no .npz file"
        raise DataError(given, wanted="train.npz (val.npz, test.npz), or one .npz", where=str(path))
    return files[0]


def _count_classes(y: NDArray[Any], where: Path) -> int:
    if y.ndim != 1 or not len(y) or y.dtype.kind not in "iu":
        wanted = "one integer per sample"
        raise DataError(f"y is {y.dtype} {y.shape}", wanted=wanted, where=str(where), write="y.astype('int64')")
    highest = int(y.max())
    if highest >= len(y):
        raise DataError(
            f"label {highest} among {len(y)} samples", wanted="classes from 0 without gaps", where=str(where)
        )
    return highest + 1


def _samples(arrays: Arrays, where: Path) -> Samples:
    x, layout = arrays["x"], str(arrays.get("layout", ""))
    if layout not in ("", "NCHW", "NHWC"):
        raise DataError(f"layout {layout!r}", wanted="NCHW or NHWC", where=str(where))
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4:
        write = "x.reshape(N, C, H, W), for plain vectors x.reshape(N, F, 1, 1)"
        raise DataError(f"x has shape {x.shape}", wanted="3 or 4 axes", where=str(where), write=write)
    last = x.shape[3] in CHANNELS_LAST and x.shape[1] not in CHANNELS_LAST and x.shape[2] != x.shape[3]
    if arrays["x"].ndim == 4 and (layout == "NHWC" or (not layout and last)):
        x = x.transpose(0, 3, 1, 2)
    return Samples(x, arrays["y"])
