"""What a study has found: its front, the knee, and the hypervolume over evaluations. No file, no plot."""

from collections.abc import Sequence

import numpy as np
from moocore import hypervolume as moocore_hypervolume

from offramp.ir.pareto import front_indices, knee_index, layered_indices
from offramp.ir.trial import Status, Trial, minimised
from offramp.search.constraints import Constraint, violation


def feasible(trials: Sequence[Trial], constraints: Sequence[Constraint] = ()) -> list[Trial]:
    """Trials whose numbers stand and that meet every constraint."""
    return [t for t in trials if t.status is Status.OK and t.metrics is not None and violation(t, constraints) == 0]


def front(trials: Sequence[Trial], objectives: Sequence[str], constraints: Sequence[Constraint] = ()) -> list[Trial]:
    """Feasible trials that no other dominates, best first objective first."""
    found = feasible(trials, constraints)
    return [found[i] for i in front_indices(points(found, objectives))]


def points(trials: Sequence[Trial], objectives: Sequence[str]) -> list[tuple[float, ...]]:
    """Objective values with smaller better, for trials that have metrics."""
    return [minimised(t.metrics, tuple(objectives)) for t in trials if t.metrics is not None]


def knee(trials: Sequence[Trial], objectives: Sequence[str]) -> Trial:
    """The trial of a front that is nearest to the ideal corner (ValueError when the front is empty)."""
    return trials[knee_index(points(trials, objectives))]


def worth_finishing(trials: Sequence[Trial], objectives: Sequence[str], most: int) -> list[Trial]:
    """At most so many feasible trials: points spread along the front, then those behind it.

    The last place belongs to the early-exit network with the dearest worst case: validation noise favours the small
    ones of a short tuning, and the large ones gain most from a long one.
    """
    values = points(trials, objectives)
    best = front_indices(values)
    if len(best) > most:
        chosen = [best[round(i * (len(best) - 1) / max(most - 1, 1))] for i in range(most)]
    else:
        chosen = layered_indices(values)[:most]
    early = {i: t.metrics.worst_energy_uj for i, t in enumerate(trials) if t.architecture.exits and t.metrics}
    largest = max(early, key=early.__getitem__, default=None)
    if largest is not None and largest not in chosen and most > 1:
        chosen = [*chosen[: most - 1], largest]
    return [trials[i] for i in chosen]


def hypervolume(values: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume between minimised points and a reference point that is worse than all of interest (moocore)."""
    kept = [v for v in values if all(x < r for x, r in zip(v, reference, strict=True))]
    if not kept:
        return 0.0
    return float(moocore_hypervolume(np.asarray(kept, dtype=np.float64), ref=np.asarray(reference, dtype=np.float64)))


def hypervolume_history(
    trials: Sequence[Trial],
    objectives: Sequence[str],
    reference: Sequence[float],
    constraints: Sequence[Constraint] = (),
) -> list[float]:
    """Hypervolume after each trial, in the order of the trials; failed and infeasible ones add nothing."""
    history: list[float] = []
    known: list[tuple[float, ...]] = []
    for trial in trials:
        new = points(feasible([trial], constraints), objectives)
        known = [known[i] if i < len(known) else new[0] for i in front_indices([*known, *new])] if new else known
        history.append(hypervolume(known, reference) if new else (history[-1] if history else 0.0))
    return history
