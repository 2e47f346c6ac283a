"""What a report is made of, as plain values, and what follows from them: front, knee, savings, hypervolume.

It knows neither the journal nor HTML. Hypervolume: the part of the box between the best value of each objective and
the worst, both over all evaluated trials, that the front dominates (Zitzler and Thiele 1999); computed by moocore.

A trial's `detail` may hold these keys, all optional; the page shows what is there:
    exit_accuracies  one fraction per exit (final one last), each exit taken by all samples
    stages           per exit: backbone_cycles, branch_cycles, backbone_pj, branch_pj, cumulative_cycles, cumulative_pj
    clock_hz         turns cycles into milliseconds
    expected_drop    of a finished point with exits: accuracy that they cost fresh data, a fraction, by cross-validation
    curve            operating points: accuracy, energy_uj, latency_ms, thresholds, exit_rates
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import moocore
import numpy as np

from offramp.ir.pareto import dominates, front_indices, knee_index
from offramp.ir.trial import Metrics, Status, Trial, minimised

Networks = tuple[tuple[Trial, Metrics], ...]

POINTS_LOST = 0.005
"""The accuracy that the headline figures may give up against the static network: half a point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a device said about one network: batch 1, medians.

    `stages` holds (backbone, branch) milliseconds per exit; `energy_uj` is None where nothing measures it.
    """

    device: str
    latency_ms: float
    stages: tuple[tuple[float, float], ...] = ()
    energy_uj: float | None = None
    accuracy: float | None = None
    exit_rates: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """A study to be shown.

    Attributes:
        trials: every candidate of the search, in order.
        finished: candidates that were trained on to the end; when there are some, the front is theirs.
        chosen: numbers of the front's points when the study knows them (it may have constraints); else computed.
        static: the same backbone without exits, under its best mapping.
        objectives: names of `ir.trial.OBJECTIVES` that the search minimised.
        measured: by trial number; -1 is the static network.
        meta: lines of provenance, shown as they are: seed, versions, command and the like.
    """

    title: str
    trials: tuple[Trial, ...]
    finished: tuple[Trial, ...] = ()
    chosen: tuple[int, ...] | None = None
    static: Trial | None = None
    objectives: tuple[str, ...] = ("accuracy", "energy_uj")
    measured: Mapping[int, Measured] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def evaluated(self) -> Networks:
        """Feasible trials of the search with their figures, by number."""
        return _with_metrics(self.trials)

    @cached_property
    def front(self) -> Networks:
        """The trials that no other beats in the objectives, by rising energy."""
        pool = _with_metrics(self.finished) or self.evaluated
        if self.chosen is None:
            kept = [pool[i] for i in front_indices([minimised(m, self.objectives) for _, m in pool])]
        else:
            kept = [p for p in pool if p[0].number in self.chosen]
        return tuple(sorted(kept, key=lambda p: p[1].energy_uj))

    @cached_property
    def beaten(self) -> Networks:
        """Networks that were finished, but that another finished network beats."""
        return tuple(p for p in _with_metrics(self.finished) if p not in self.front)

    @cached_property
    def knee(self) -> Trial | None:
        """The point of the front nearest to the ideal corner."""
        if not self.front:
            return None
        return self.front[knee_index([minimised(m, self.objectives) for _, m in self.front])][0]

    @property
    def unsuccessful(self) -> tuple[Trial, ...]:
        """Failed and infeasible trials."""
        return tuple(t for t in (*self.trials, *self.finished) if t.status is not Status.OK)

    def best_within(self, objective: str, points_lost: float = POINTS_LOST) -> tuple[Trial, Metrics] | None:
        """The front's point with the least `objective` that loses at most so much accuracy (validation) to static."""
        if self.static is None or self.static.metrics is None:
            return None
        floor = self.static.metrics.accuracy_val - points_lost - 1e-9
        able = [p for p in self.front if p[1].accuracy_val >= floor]
        return min(able, key=lambda p: minimised(p[1], (objective,)), default=None)

    @cached_property
    def hypervolume(self) -> tuple[tuple[int, float], ...]:
        """(trial number, share of the box dominated so far) over the study."""
        points = np.array([minimised(m, self.objectives) for _, m in self.evaluated], dtype=np.float64)
        if not len(points):
            return ()
        low, span = points.min(axis=0), np.ptp(points, axis=0)
        scaled = (points - low) / np.where(span > 0, span, 1.0)
        front: list[tuple[float, ...]] = []
        history, volume = [], 0.0
        for (trial, _), point in zip(self.evaluated, map(tuple, scaled.tolist()), strict=True):
            if not any(dominates(p, point) or p == point for p in front):
                front = [p for p in front if not dominates(point, p)] + [point]
                volume = float(moocore.hypervolume(np.array(front), ref=np.ones(scaled.shape[1])))
            history.append((trial.number, volume))
        return tuple(history)


def _with_metrics(trials: Sequence[Trial]) -> Networks:
    return tuple((t, t.metrics) for t in trials if t.status is Status.OK and t.metrics is not None)
