"""What a trial would bring, predicted from the trials so far: accuracy, exit rates, and from them the expected
costs.

Per-exit accuracy and exit rate are predicted exit by exit, from `Trial.exit_rates` and `exit_accuracies` in a
trial's details. Accuracy is predicted twice, directly and as the best of its exits; the way with the better
cross-validated Kendall's tau is used. Prices are no guess: a `price` callable gives them, and expected cost is
exit rates times prices, with exits that hardly anyone takes left out as the solver would. Without one, costs
are regressed like accuracy. Candidates that failed or were refused teach a predictor of trouble.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from offramp.ir.architecture import Architecture
from offramp.ir.trial import OBJECTIVES, Trial, objective_value
from offramp.search.constraints import Constraint, violation
from offramp.search.features import Features
from offramp.search.regress import Regressor, best_regressor
from offramp.search.task import Price, Task

Floats = NDArray[np.float64]

RARE = 0.02
"""Exits with a smaller predicted rate are left out of the price: the solver drops what does not pay."""

TROUBLE = 0.3
"""Predicted trouble above this counts as a broken constraint."""


@dataclass(frozen=True)
class Observation:
    """A proposal and what became of it (the trial's own network may have fewer exits)."""

    asked: Architecture
    trial: Trial


class Predictor:
    """Fitted anew on each set of observations."""

    def __init__(self, task: Task, features: Features, price: Callable[[Architecture], Price] | None) -> None:
        self._task, self._features, self._price = task, features, price
        self._models: dict[str, Regressor] = {}
        self._use_exits = False

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
        for name in wanted:
            values = np.asarray([objective_value(o.trial.metrics, name) for o in good if o.trial.metrics])
            targets = values if name == "accuracy" else np.log(np.maximum(values, 1e-12))
            self._models[name] = best_regressor(rows, targets, numbers, seed=seed)
        self._fit_exits(good, seed)
        trouble = np.asarray([0.0 if o.trial.metrics else min(1.0, violation(o.trial, ())) for o in observations])
        everyone = self._features.rows([o.asked for o in observations])
        self._models["trouble"] = best_regressor(everyone, trouble, np.arange(len(observations)), seed=seed)

    def _fit_exits(self, good: Sequence[Observation], seed: int) -> None:
        rows = [self._features.exit_rows(o.asked) for o in good]
        groups = np.repeat(np.arange(len(good)), [len(r) for r in rows])
        flat = np.concatenate(rows) if rows else np.empty((0, 1))
        rates = np.concatenate([_per_exit(o, o.trial.exit_rates, 0.0) for o in good]) if good else np.empty(0)
        accuracies = [_per_exit(o, o.trial.details.get("exit_accuracies", ()), np.nan) for o in good]
        known = np.concatenate(accuracies) if good else np.empty(0)
        early = np.isfinite(rates) & (
            flat[:, -len(self._task.space.info.branch_kinds) - 1] == 0 if len(flat) else False
        )
        self._models["exit rate"] = best_regressor(flat[early], rates[early], groups[early], seed=seed)
        seen = np.isfinite(known)
        self._models["exit accuracy"] = best_regressor(flat[seen], known[seen], groups[seen], seed=seed)
        self._use_exits = self._models["exit accuracy"].tau > self._models["accuracy"].tau + 0.02

    def predict(self, candidates: Sequence[Architecture]) -> tuple[Floats, Floats]:
        """Minimised objectives [n, m] and constraint violations [n]."""
        rows = self._features.rows(candidates)
        exit_rows = [self._features.exit_rows(c) for c in candidates]
        ends = np.cumsum([len(r) for r in exit_rows])[:-1]
        flat = np.concatenate(exit_rows)
        rates = [_settle(r) for r in np.split(self._models["exit rate"].predict(flat), ends)]
        accuracy = self._models["accuracy"].predict(rows)
        if self._use_exits:
            accuracy = np.asarray([a.max() for a in np.split(self._models["exit accuracy"].predict(flat), ends)])
        trouble = self._models["trouble"].predict(rows)
        figures = [self._figures(c, r) for c, r in zip(candidates, rates, strict=True)]
        for i, found in enumerate(figures):
            found["accuracy"] = float(np.clip(accuracy[i], 0, 1))
            found["trouble"] = found.get("trouble", 0.0) + (float(trouble[i]) if trouble[i] > TROUBLE else 0.0)
        if self._price is None:
            for name in self._models.keys() & OBJECTIVES.keys() - {"accuracy"}:
                for found, value in zip(figures, np.exp(self._models[name].predict(rows)), strict=True):
                    found[name] = float(value)
        return self._objectives(figures), np.asarray([_missed(f, self._task.constraints) for f in figures])

    def _figures(self, candidate: Architecture, rates: Floats) -> dict[str, float]:
        """Expected costs from predicted rates and true prices."""
        if self._price is None:
            return {}
        kept = rates[:-1] >= RARE
        slim = replace(candidate, exits=tuple(e for e, k in zip(candidate.exits, kept, strict=True) if k))
        price = self._price(slim)
        if price.refusal:
            return {"trouble": 1.0}
        shares = rates[np.append(kept, True)]
        shares = shares / shares.sum() if shares.sum() > 0 else np.eye(len(shares))[-1]
        found = {name: float(shares @ np.asarray(costs)) for name, costs in price.per_exit.items()}
        if "energy_uj" in found and "latency_ms" in found:
            found["edp"] = found["energy_uj"] * found["latency_ms"]
        return found | {name: float(value) for name, value in price.fixed.items()}

    def _objectives(self, figures: Sequence[dict[str, float]]) -> Floats:
        table = np.asarray([[f.get(n, np.nan) * OBJECTIVES[n][1] for n in self._task.objectives] for f in figures])
        worst = np.nanmax(table, axis=0, initial=-1e12)
        return np.asarray(np.where(np.isfinite(table), table, worst))


def _per_exit(seen: Observation, values: Sequence[float], missing: float) -> Floats:
    """Values of the trial's own exits, placed at the exits that were asked for; the final one last."""
    if len(values) != len(seen.trial.architecture.exits) + 1:
        return np.full(len(seen.asked.exits) + 1, np.nan)
    own = {e.mounting_point: v for e, v in zip(seen.trial.architecture.exits, values, strict=False)}
    return np.asarray([*(own.get(e.mounting_point, missing) for e in seen.asked.exits), values[-1]], dtype=np.float64)


def _settle(rates: Floats) -> Floats:
    """Rates of the early exits as predicted, at most 1 together; the final exit takes the rest."""
    early = np.clip(rates[:-1], 0, 1)
    early = early / max(early.sum(), 1.0)
    return np.append(early, 1 - early.sum())


def _missed(figures: dict[str, float], constraints: Sequence[Constraint]) -> float:
    return figures["trouble"] + sum(c.violation(figures[c.name]) for c in constraints if c.name in figures)
