"""scikit-learn's 1,797 handwritten digits: real data that needs no download.

8x8 pixels with values 0 to 16, from the UCI set of Alpaydin and Kaynak (1998), doi 10.24432/C50P49 (CC BY 4.0).
There is no official test split here: a fifth is set aside, every class alike, by seed.
"""

from pathlib import Path

import numpy as np

from offramp.data.raw import Augmentation, RawData, Samples, pick_stratified

TEST_FRACTION = 0.2


def read_digits(folder: Path | None, seed: int) -> RawData:
    """The digits as (N, 1, 8, 8); `folder` is not needed."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = bunch.images.astype(np.uint8)[:, None]
    y = bunch.target.astype(np.int64)
    aside = pick_stratified(y, round(TEST_FRACTION * len(y)), np.random.default_rng([seed, 1]))
    return RawData(
        name="digits",
        source="scikit-learn",
        pool=Samples(x[~aside], y[~aside]),
        test=lambda: Samples(x[aside], y[aside]),
        classes=10,
        class_names=tuple("0123456789"),
        val_fraction=0.2,
        official_test=False,
        augmentation=Augmentation(shift=(1, 1)),
    )
