"""The 1,000 keyword-spotting samples of MLPerf Tiny, as its int8 reference network takes them.

int8 MFCC of 49 frames and 10 coefficients, 12 classes (mlcommons/tiny and eembc/energyrunner, Apache-2.0). An
evaluation set: too small to train a backbone on, enough for exits on a frozen one. By seed, every class alike, one half
is for training and validation, the other is test. The real value of an integer q is 0.5847029 (q - 83): the input
quantization written in `kws_ref_model.tflite`.
"""

from pathlib import Path

import numpy as np

from offramp.data.files import expect, find_file, read_npz
from offramp.data.raw import RawData, Samples, check_samples, pick_stratified

FILE = "kws01.npz"
CLASSES = 12
SCALE, ZERO = 0.5847029089927673, 83.0


def read_kws01(folder: Path | None, seed: int) -> RawData:
    """Keyword MFCC as (N, 1, 49, 10).

    Raises:
        DataError: the file is missing, truncated or inconsistent.
    """
    path = find_file(folder, FILE, inside=("kws01", "mlperf_tiny"), dataset="kws01")
    arrays = read_npz(path, ("x", "y"))
    x = expect(arrays["x"], (None, 49, 10), "i", what="x", where=path)[:, None]
    y = check_samples(Samples(x, arrays["y"]), classes=CLASSES, shape=None, where=str(path))
    test = pick_stratified(y, len(y) // 2, np.random.default_rng([seed, 1]))
    return RawData(
        name="kws01",
        source=str(path),
        pool=Samples(x[~test], y[~test]),
        test=lambda: Samples(x[test], y[test]),
        classes=CLASSES,
        val_fraction=0.4,
        official_test=False,
        scale=SCALE,
        zero=ZERO,
        per_column=True,
    )
