"""Regressors that compete: the one with the best cross-validated Kendall's tau is refitted on everything.

Kendall's tau (Biometrika 1938) asks what a search needs: is the order right? Folds are over groups, so that
exits of one trial are never on both sides. Ridge, a kernel over pairs of features,
support vectors and extra trees from scikit-learn; all seeded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

Floats = NDArray[np.float64]

REGRESSORS: dict[str, Callable[[int], Any]] = {
    "ridge": lambda seed: make_pipeline(StandardScaler(), Ridge(alpha=3.0)),
    "support_vectors": lambda seed: make_pipeline(StandardScaler(), SVR(C=3.0, epsilon=0.02)),
    "extra_trees": lambda seed: ExtraTreesRegressor(40, min_samples_leaf=2, random_state=seed),
    "pairs": lambda seed: make_pipeline(StandardScaler(), KernelRidge(kernel="poly", degree=2, gamma=0.02, alpha=1.0)),
}
"""Name -> maker from a seed."""

FOLDS = 3


@dataclass(frozen=True)
class Regressor:
    """The chosen regressor on standardised targets; `tau` is its cross-validated order quality in [-1, 1]."""

    name: str
    tau: float
    mean: float
    scale: float
    model: Any

    def predict(self, rows: Floats) -> Floats:
        """Predictions for rows [n, F]; [n]."""
        if self.model is None:
            return np.full(len(rows), self.mean)
        return np.asarray(self.model.predict(rows)) * self.scale + self.mean


def order_quality(truth: Floats, guess: Floats) -> float:
    """Kendall's tau-b; 0 when either side is constant."""
    if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(guess) == 0:
        return 0.0
    return float(kendalltau(truth, guess).statistic)


def best_regressor(rows: Floats, targets: Floats, groups: NDArray[np.int64], *, seed: int) -> Regressor:
    """The regressor that orders held-out groups best, fitted on everything.

    Args:
        rows: [n, F].
        targets: [n].
        groups: [n]; rows of one group stay in one fold.
        seed: of folds and regressors.

    Returns:
        the mean alone where there are fewer groups than folds or the targets are constant.
    """
    mean, scale = float(targets.mean()) if len(targets) else 0.0, float(targets.std()) if len(targets) else 0.0
    names = np.unique(groups)
    if len(names) < FOLDS or scale == 0:
        return Regressor("mean", 0.0, mean, 1.0, None)
    scaled = (targets - mean) / scale
    fold_of = dict(
        zip(names.tolist(), (np.random.default_rng(seed).permutation(len(names)) % FOLDS).tolist(), strict=True)
    )
    folds = np.asarray([fold_of[g] for g in groups.tolist()])
    taus = {name: _cross_validated(make, rows, scaled, folds, seed) for name, make in REGRESSORS.items()}
    chosen = max(taus, key=lambda name: taus[name])
    return Regressor(chosen, taus[chosen], mean, scale, REGRESSORS[chosen](seed).fit(rows, scaled))


def _cross_validated(
    make: Callable[[int], Any], rows: Floats, targets: Floats, folds: NDArray[np.int64], seed: int
) -> float:
    """Mean tau over the folds."""
    taus = []
    for fold in range(FOLDS):
        held = folds == fold
        model = make(seed).fit(rows[~held], targets[~held])
        taus.append(order_quality(targets[held], np.asarray(model.predict(rows[held]))))
    return float(np.mean(taus))
