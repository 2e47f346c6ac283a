"""Regressors that compete: the one with the best cross-validated Kendall's tau is refitted on everything.

Kendall's tau (Biometrika 1938) asks what a search needs: is the order right? Folds are over groups, so that
exits of one trial are never on both sides. Ridge, a kernel over pairs of features, Gaussian processes (a smooth and a
rough one), support vectors and extra trees from scikit-learn; all seeded, none with a search for hyperparameters of its
own: data are few, and the competition is the search.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, DotProduct, Matern
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.svm import SVR
from sklearn.tree import ExtraTreeRegressor

Floats = NDArray[np.float64]


def _process(kernel: Any, noise: float) -> Any:
    """A Gaussian process with a kernel as it is."""
    return GaussianProcessRegressor(kernel, alpha=noise, optimizer=None)


TREES = 12


class Grove:
    """Twelve extra trees (Geurts et al., Machine Learning 2006) without the upkeep of an ensemble: data are few."""

    def __init__(self, seed: int) -> None:
        self._trees = [ExtraTreeRegressor(min_samples_leaf=2, random_state=seed + i) for i in range(TREES)]

    def fit(self, rows: Floats, targets: Floats) -> "Grove":
        """Fit every tree; [n, F] and [n]."""
        for tree in self._trees:
            tree.fit(rows.astype(np.float32), targets.reshape(-1, 1), check_input=False)
        return self

    def predict(self, rows: Floats) -> Floats:
        """Mean of the trees, [n]."""
        sized = rows.astype(np.float32)
        return np.asarray(np.mean([tree.predict(sized, check_input=False) for tree in self._trees], axis=0))


REGRESSORS: dict[str, Callable[[int, int], Any]] = {
    "ridge": lambda seed, size: Ridge(alpha=3.0),
    "support_vectors": lambda seed, size: SVR(C=3.0, epsilon=0.02),
    "extra_trees": lambda seed, size: Grove(seed),
    "pairs": lambda seed, size: KernelRidge(kernel="poly", degree=2, gamma=0.02, alpha=1.0),
    "smooth": lambda seed, size: _process(RBF(1.5 * size**0.5), 0.03),
    "rough": lambda seed, size: _process(Matern(1.5 * size**0.5, nu=1.5), 0.03),
    "line_and_bumps": lambda seed, size: _process(
        0.05 * DotProduct(sigma_0=1.0) + 0.5 * Matern(size**0.5, nu=2.5), 0.1
    ),
}
"""Name -> maker from a seed and the number of features; all see standardised features and targets."""

FOLDS = 4


@dataclass(frozen=True)
class Regressor:
    """The chosen regressor.

    Attributes:
        name: of `REGRESSORS`, or "mean".
        tau: cross-validated order quality in [-1, 1].
        held: [n], what it said about each training row while it did not know it.
        error: root mean square of what `held` was off by.
    """

    name: str
    tau: float
    held: Floats
    error: float
    mean: float
    scale: float
    centre: Floats = field(default_factory=lambda: np.zeros(1))
    spread: Floats = field(default_factory=lambda: np.ones(1))
    model: Any = None

    def predict(self, rows: Floats) -> Floats:
        """Predictions for rows [n, F]; [n]."""
        if self.model is None:
            return np.full(len(rows), self.mean)
        if not len(rows):
            return np.empty(0)
        return np.asarray(self.model.predict((rows - self.centre) / self.spread)) * self.scale + self.mean


def order_quality(truth: Floats, guess: Floats) -> float:
    """Kendall's tau-b; 0 when either side is constant."""
    if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(guess) == 0:
        return 0.0
    mine, theirs = (np.sign(x[:, None] - x[None]) for x in (truth, guess))
    return float((mine * theirs).sum() / np.sqrt(np.square(mine).sum() * np.square(theirs).sum()))


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
        return Regressor("mean", 0.0, np.full(len(targets), mean), scale, mean, 1.0)
    scaled, centre, spread = (targets - mean) / scale, rows.mean(axis=0), rows.std(axis=0)
    spread = np.where(spread > 1e-12, spread, 1.0)
    sized = (rows - centre) / spread
    fold_of = dict(
        zip(names.tolist(), (np.random.default_rng(seed).permutation(len(names)) % FOLDS).tolist(), strict=True)
    )
    folds = np.asarray([fold_of[g] for g in groups.tolist()])
    makers = {name: lambda make=make: make(seed, rows.shape[1]) for name, make in REGRESSORS.items()}
    with config_context(assume_finite=True, skip_parameter_validation=True):  # checks take longer than small fits
        told = {name: _cross_validated(make, sized, scaled, folds) for name, make in makers.items()}
    taus = {name: _order_over_folds(scaled, held, folds) for name, held in told.items()}
    chosen = max(taus, key=lambda name: taus[name])
    held = told[chosen] * scale + mean
    error = float(np.sqrt(np.square(held - targets).mean()))
    model = makers[chosen]().fit(sized, scaled)
    return Regressor(chosen, taus[chosen], held, error, mean, scale, centre, spread, model)


def _cross_validated(make: Callable[[], Any], rows: Floats, targets: Floats, folds: NDArray[np.int64]) -> Floats:
    """What is said about each row by a regressor that was fitted without its fold, [n]."""
    said = np.empty(len(targets))
    for fold in range(FOLDS):
        held = folds == fold
        said[held] = make().fit(rows[~held], targets[~held]).predict(rows[held])
    return said


def _order_over_folds(truth: Floats, said: Floats, folds: NDArray[np.int64]) -> float:
    """Mean tau over the folds."""
    return float(np.mean([order_quality(truth[folds == f], said[folds == f]) for f in range(FOLDS)]))
