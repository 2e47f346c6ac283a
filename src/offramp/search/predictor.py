"""What a trial would bring, predicted from the trials so far: accuracy, exit rates, and from them the expected
costs.

The accuracy of each exit is predicted from what lies before it (`Features.exit_rows`). How many samples have left by an
exit follows from how its accuracy stands to the best one, a question of a handful of numbers that few trials answer.
Accuracy is predicted twice, directly and as the best of its exits; the way with the better cross-validated Kendall's
tau is used. It is learnt as the logarithm of errors, where good networks differ as much as bad ones do. Prices are
no guess: a `price` callable gives them, and expected cost is exit rates times prices, with exits that hardly anyone
takes left out as the solver would. Without one, costs are regressed like accuracy. Candidates that failed or were
refused teach a predictor of trouble.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from offramp.ir.architecture import Architecture
from offramp.ir.trial import OBJECTIVES, Trial, objective_value
from offramp.search.constraints import Constraint, violation
from offramp.search.features import Features
from offramp.search.regress import Regressor, best_regressor, order_quality
from offramp.search.task import Price, Task

Floats = NDArray[np.float64]

RARE = 0.02
"""Exits with a smaller predicted rate are left out of the price: the solver drops what does not pay."""

TROUBLE = 0.3
"""Predicted trouble above this counts as a broken constraint."""

LEAST_ERROR = 0.01
"""Added to an error before its logarithm is taken: smaller errors of few samples are chance."""

CHECKED = 48
"""Most trials, the newest, on which predicted costs are compared with the true ones."""


@dataclass(frozen=True)
class Observation:
    """A proposal and what became of it (the trial's own network may have fewer exits)."""

    asked: Architecture
    trial: Trial


class Predictor:
    """Fitted anew on each set of observations.

    Attributes:
        errors: per objective what predictions were off by (root mean square): accuracy in `surety`, costs as a share.
    """

    def __init__(self, task: Task, features: Features, price: Callable[[Architecture], Price] | None) -> None:
        self._task, self._features, self._price = task, features, price
        self._models: dict[str, Regressor] = {}
        self._use_exits, self._shift = False, 0.0
        self._known = Neighbours(np.empty((0, 1)))
        self.errors: Floats = np.full(len(task.objectives), 0.1)

    @property
    def chosen(self) -> dict[str, tuple[str, float]]:
        """Target -> name and tau of the regressor in use."""
        return {target: (model.name, model.tau) for target, model in self._models.items()}

    def fit(self, observations: Sequence[Observation], seed: int) -> None:
        """Choose and fit all regressors."""
        good = [o for o in observations if o.trial.metrics is not None]
        rows, numbers = self._features.rows([o.asked for o in good]), np.arange(len(good))
        names = dict.fromkeys(
            [*self._task.objectives, *(c.name for c in self._task.constraints if c.name in OBJECTIVES)]
        )
        wanted = [n for n in names if n == "accuracy" or self._price is None]
        self._models = {}
        for name in dict.fromkeys(["accuracy", *wanted]):
            values = _values(good, name)
            targets = surety(values) if name == "accuracy" else np.log(np.maximum(values, 1e-12))
            self._models[name] = best_regressor(rows, targets, numbers, seed=seed)
        rates = self._fit_exits(good, seed)
        trouble = np.asarray([0.0 if o.trial.metrics else min(1.0, violation(o.trial, ())) for o in observations])
        everyone = self._features.rows([o.asked for o in observations])
        self._models["trouble"] = best_regressor(everyone, trouble, np.arange(len(observations)), seed=seed)
        self.errors = np.asarray([self._error(name, good, rates) for name in self._task.objectives])

    def _fit_exits(self, good: Sequence[Observation], seed: int) -> list[Floats]:
        """Accuracies of exits, then the shares that have left by them; returns held-out exit rates of each trial."""
        rows = [self._features.exit_rows(o.asked) for o in good]
        groups = np.repeat(np.arange(len(good)), [len(r) for r in rows])
        flat = np.concatenate(rows) if rows else np.empty((0, 1))
        told = [_per_exit(o, o.trial.details.get("exit_accuracies", ()), np.nan) for o in good]
        known = surety(np.concatenate(told)) if good else np.empty(0)
        seen = np.isfinite(known)
        model = best_regressor(flat[seen], known[seen], groups[seen], seed=seed)
        guessed = model.predict(flat)
        guessed[seen] = model.held
        split = np.split(guessed, np.cumsum([len(r) for r in rows])[:-1]) if good else []
        self._models["exit accuracy"] = model
        self._known = Neighbours(flat[seen])
        self._compare(good, split)
        left = [np.cumsum(_per_exit(o, o.trial.exit_rates, 0.0))[:-1] for o in good]
        stands = [self._stand(o.asked, accuracy_at(a)) for o, a in zip(good, split, strict=True)]
        flat_left = np.concatenate(left) if left else np.empty(0)
        told_left = np.isfinite(flat_left)
        stand = np.concatenate(stands)[told_left] if stands else np.empty((0, 1))
        early = np.repeat(np.arange(len(good)), [len(x) for x in left])[told_left]
        rate = self._models["exit rate"] = best_regressor(stand, flat_left[told_left], early, seed=seed)
        said = np.zeros(len(flat_left))
        said[told_left] = rate.held
        ends = np.cumsum([len(x) for x in left])[:-1]
        return [settled_rates(x) for x in np.split(said, ends)] if good else []

    def _compare(self, good: Sequence[Observation], split: Sequence[Floats]) -> None:
        """Which of the two ways to an accuracy orders held-out trials better, and how far the best exit is from it."""
        truth = surety(_values(good, "accuracy"))
        best = np.asarray([a.max() for a in split])
        direct = order_quality(truth, self._models["accuracy"].held)
        self._use_exits = order_quality(truth, best) > direct
        self._shift = float((truth - best).mean()) if len(truth) else 0.0

    def _stand(self, candidate: Architecture, accuracies: Floats) -> Floats:
        """What decides how many have left by each early exit, [E - 1, 6]: where it stands among the exits."""
        shares = self._features.shares(candidate)
        best, last = float(accuracies.max()), float(accuracies[-1])
        rows, before = [], 0.0
        for i in range(len(candidate.exits)):
            behind = max(before, float(accuracies[i]))
            rows.append([accuracies[i], best - accuracies[i], best - behind, best - last, shares[i], i / 10])
            before = behind
        return np.asarray(rows, dtype=np.float64).reshape(-1, 6)

    def _error(self, name: str, good: Sequence[Observation], rates: Sequence[Floats]) -> float:
        if name == "accuracy" or self._price is None:
            model = self._models["exit accuracy" if self._use_exits and name == "accuracy" else name]
            return model.error
        pairs = list(zip(good, rates, strict=True))[-CHECKED:]
        figures = self._figures([o.asked for o, _ in pairs], [r for _, r in pairs])
        said = [f.get(name, np.nan) for f in figures]
        truth = _values([o for o, _ in pairs], name)
        off = np.log(np.maximum(np.asarray(said), 1e-12) / np.maximum(truth, 1e-12))
        return float(np.sqrt(np.nanmean(np.square(off)))) if np.isfinite(off).any() else 0.1

    def predict(self, candidates: Sequence[Architecture]) -> tuple[Floats, Floats]:
        """Minimised objectives [n, m] and constraint violations [n]."""
        rows = self._features.rows(candidates)
        split = self._by_exit([self._features.exit_rows(c) for c in candidates])
        accuracy = self._models["accuracy"].predict(rows)
        if self._use_exits:
            accuracy = np.asarray([a.max() for a in split]) + self._shift
        trouble = self._models["trouble"].predict(rows)
        rates = self._rates(candidates, split)
        figures = self._figures(candidates, rates)
        for i, found in enumerate(figures):
            found["accuracy"] = float(np.clip(accuracy_at(accuracy[i]), 0, 1))
            found["trouble"] = found.get("trouble", 0.0) + (float(trouble[i]) if trouble[i] > TROUBLE else 0.0)
        if self._price is None:
            for name in self._models.keys() & OBJECTIVES.keys() - {"accuracy"}:
                for found, value in zip(figures, np.exp(self._models[name].predict(rows)), strict=True):
                    found[name] = float(value)
        return self._objectives(figures), np.asarray([_missed(f, self._task.constraints) for f in figures])

    def doubts(self, candidates: Sequence[Architecture]) -> Floats:
        """How new candidates are, 0 (the exit that decides has been seen) to 1 (as far from all seen as usual), [n].

        Layers behind the exit that answers best, where most samples have left, change nothing, however many there are.
        """
        rows = [self._features.exit_rows(c) for c in candidates]
        best = [r[int(np.argmax(a))] for r, a in zip(rows, self._by_exit(rows), strict=True)]
        return self._known.distances(np.asarray(best))

    def _by_exit(self, rows: Sequence[Floats]) -> list[Floats]:
        """Predicted sureties of the exits of each candidate, from the rows of its exits."""
        ends = np.cumsum([len(r) for r in rows])[:-1]
        return np.split(self._models["exit accuracy"].predict(np.concatenate(rows)), ends)

    def _rates(self, candidates: Sequence[Architecture], accuracies: Sequence[Floats]) -> list[Floats]:
        stands = [self._stand(c, accuracy_at(a)) for c, a in zip(candidates, accuracies, strict=True)]
        left = self._models["exit rate"].predict(np.concatenate(stands))
        return [settled_rates(x) for x in np.split(left, np.cumsum([len(s) for s in stands])[:-1])]

    def _figures(self, candidates: Sequence[Architecture], rates: Sequence[Floats]) -> list[dict[str, float]]:
        """Expected costs from predicted rates and true prices."""
        if self._price is None:
            return [{} for _ in candidates]
        taken = [np.append(r[:-1] >= RARE, True) for r in rates]
        kept = [self._without(c, t) for c, t in zip(candidates, taken, strict=True)]
        prices = [self._price(c) for c in kept]
        return [
            _expected(p, np.diff(np.cumsum(r)[t], prepend=0.0)) for p, r, t in zip(prices, rates, taken, strict=True)
        ]

    def _without(self, candidate: Architecture, taken: NDArray[np.bool_]) -> Architecture:
        """The candidate without exits that hardly anyone takes."""
        if taken.all():
            return candidate
        left = tuple(e for e, t in zip(candidate.exits, taken[:-1], strict=True) if t)
        return self._task.space.info.canonical(replace(candidate, exits=left))

    def _objectives(self, figures: Sequence[dict[str, float]]) -> Floats:
        table = np.asarray([[f.get(n, np.nan) * OBJECTIVES[n][1] for n in self._task.objectives] for f in figures])
        worst = np.nanmax(table, axis=0, initial=-1e12)
        return np.asarray(np.where(np.isfinite(table), table, worst))


class Neighbours:
    """Distances to the nearest of some rows [n, F], in units of the usual distance from row to row, at most 1."""

    def __init__(self, rows: Floats) -> None:
        self._rows = np.unique(rows, axis=0)
        spread = self._rows.std(axis=0) if len(rows) else np.ones(rows.shape[1])
        self._spread = np.where(spread > 1e-12, spread, 1.0)
        gaps = self._gaps(self._rows) if len(self._rows) > 1 else np.ones((1, 1))
        np.fill_diagonal(gaps, np.inf)
        nearest = gaps.min(axis=1)
        self._usual = float(np.median(nearest[np.isfinite(nearest)])) if np.isfinite(nearest).any() else 1.0

    def _gaps(self, rows: Floats) -> Floats:
        sized = (rows[:, None, :] - self._rows[None]) / self._spread
        return np.asarray(np.sqrt(np.square(sized).sum(axis=2)))

    def distances(self, rows: Floats) -> Floats:
        """For other rows [k, F]; [k]. Everything is far from nothing."""
        if not len(self._rows):
            return np.ones(len(rows))
        return np.asarray(np.minimum(self._gaps(rows).min(axis=1) / max(self._usual, 1e-12), 1.0))


def _values(observations: Sequence[Observation], name: str) -> Floats:
    return np.asarray([objective_value(o.trial.metrics, name) for o in observations if o.trial.metrics])


def _per_exit(seen: Observation, values: Sequence[float], missing: float) -> Floats:
    """Values of the trial's own exits, placed at the exits that were asked for; the final one last."""
    if len(values) != len(seen.trial.architecture.exits) + 1:
        return np.full(len(seen.asked.exits) + 1, np.nan)
    own = {e.mounting_point: v for e, v in zip(seen.trial.architecture.exits, values, strict=False)}
    return np.asarray([*(own.get(e.mounting_point, missing) for e in seen.asked.exits), values[-1]], dtype=np.float64)


def surety(accuracy: Floats) -> Floats:
    """Accuracy on the scale that is learnt, the logarithm of errors: good networks differ by parts of a point."""
    return np.asarray(-np.log(1 + LEAST_ERROR - accuracy))


def accuracy_at(sureties: Floats) -> Floats:
    """The inverse of `surety`."""
    return np.asarray(1 + LEAST_ERROR - np.exp(-sureties))


def _expected(price: Price, shares: Floats) -> dict[str, float]:
    """Figures when these shares leave at each exit."""
    if price.refusal:
        return {"trouble": 1.0}
    found = {name: float(shares @ np.asarray(costs)) for name, costs in price.per_exit.items()}
    if "energy_uj" in found and "latency_ms" in found:
        found["edp"] = found["energy_uj"] * found["latency_ms"]
    return found | {name: float(value) for name, value in price.fixed.items()}


def settled_rates(left: Floats) -> Floats:
    """Exit rates from the shares that have left by each early exit: in [0, 1], none smaller than the one before."""
    grown = np.maximum.accumulate(np.clip(np.append(left, 1.0), 0, 1))
    grown[-1] = 1.0
    return np.diff(grown, prepend=0.0)


def _missed(figures: dict[str, float], constraints: Sequence[Constraint]) -> float:
    return figures["trouble"] + sum(c.violation(figures[c.name]) for c in constraints if c.name in figures)
