"""NSGA-II on surrogates that are refitted as trials come in (the scheme of NSGANetV2, Lu et al., ECCV 2020).

A small first generation as in `nsga2`. Then, round after round: fit the predictor on every trial, let NSGA-II breed
from the best trials on the predictions, and propose a small batch of what it has seen: one after another the candidate
whose expected gain in hypervolume over the known front is the largest, given how far predictions have been off
(Emmerich et al., IEEE TEVC 2006), the ones taken before counting as if they had come true. Predictions that were too
good are corrected by the trials they cause.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from offramp.ir.architecture import Architecture
from offramp.ir.pareto import front_indices
from offramp.ir.trial import Trial
from offramp.search.affordable import Affordable
from offramp.search.constraints import violation
from offramp.search.evolution import NO_FIGURE, first_generation, make_algorithm, tell_values
from offramp.search.features import Features
from offramp.search.front import hypervolume, points
from offramp.search.predictor import Observation, Predictor, accuracy_at, surety
from offramp.search.random_search import draw_new
from offramp.search.task import Proposals, Task

Floats = NDArray[np.float64]

INNER_POPULATION, INNER_OFFSPRING, INNER_GENERATIONS = 24, 24, 3
"""About 50 new predictions a round, most parents being known: each needs a price, a mapping of the whole network."""

BEST = 20
"""Trials among the first parents; the others are random."""

DRAWS = 16
"""What each of them might turn out to be, for the expectation."""


class SurrogateSearch:
    """Rounds of predicted fronts; every round is asked in batches of any size."""

    def __init__(self, task: Task, round_size: int | None = None) -> None:
        self._task = replace(task, price=cache(task.price)) if task.price else task
        self._rng, self._proposals = np.random.default_rng(task.seed), Proposals()
        self._affordable = Affordable(self._task)
        self._round_size = round_size or int(np.clip(task.trials // 24, 2, 10))
        self._first = int(np.clip(task.trials // 8, 8, 16))
        self.predictor = Predictor(task, Features(task.space), self._task.price)
        self._seen: list[Observation] = []
        self._queue: list[Architecture] = []
        self._waiting: list[Architecture] = []
        self._round = 0

    def ask(self, n: int) -> list[Architecture]:
        """Up to `n` candidates of the current round."""
        if not self._queue:
            self._queue = self._next_round()
            self._round += 1
        self._waiting, self._queue = self._queue[:n], self._queue[n:]
        return list(self._waiting)

    def tell(self, trials: Sequence[Trial]) -> None:
        """Keep what became of the last ask."""
        self._seen += [Observation(a, t) for a, t in zip(self._waiting, trials, strict=False)]
        self._waiting = []

    def _next_round(self) -> list[Architecture]:
        task = self._task
        if self._round == 0:
            return first_generation(self._affordable, self._first, self._proposals, self._rng)
        chosen: list[Architecture] = []
        if sum(o.trial.metrics is not None for o in self._seen) >= 4 and task.space.cardinality > 1:
            self.predictor.fit(self._seen, seed=int(self._rng.integers(2**31)))
            chosen = self._batch(*self._predicted_population())
        for candidate in chosen:
            self._proposals.add(candidate)
        while len(chosen) < self._round_size and (drawn := draw_new(self._affordable, self._proposals, self._rng)):
            chosen.append(drawn)
        return chosen

    def _predicted_population(self) -> tuple[list[Architecture], Floats, Floats]:
        """Everything new that NSGA-II looked at on the predictions: candidates, objectives, violations."""
        space = self._task.space
        algorithm = make_algorithm(
            self._affordable,
            seed=int(self._rng.integers(2**31)),
            first=np.asarray([space.encode(c) for c in self._parents()]),
            offspring=INNER_OFFSPRING,
            known=lambda candidate: False,
        )
        found: dict[Architecture, tuple[Floats, float]] = {}
        for _ in range(INNER_GENERATIONS):
            infills = algorithm.ask()
            if infills is None or not len(infills):
                break
            candidates = [space.decode(x) for x in infills.get("X")]
            values, misses = self.predictor.predict(candidates)
            tell_values(algorithm, infills, values, misses)
            found |= {c: (v, float(m)) for c, v, m in zip(candidates, values, misses, strict=True)}
        kept = [c for c in found if self._proposals.new(c)]
        values = np.asarray([found[c][0] for c in kept]).reshape(len(kept), len(self._task.objectives))
        return kept, values, np.asarray([found[c][1] for c in kept])

    def _parents(self) -> list[Architecture]:
        """The best trials so far, and random candidates."""
        values = np.asarray([self._values(o) for o in self._seen])
        worse = np.all(values[:, None] >= values, axis=2) & np.any(values[:, None] > values, axis=2)
        broken = [violation(o.trial, self._task.constraints) > 0 for o in self._seen]
        ranked = np.lexsort((worse.sum(axis=1), broken))
        parents: list[Architecture] = [self._seen[i].asked for i in ranked[:BEST].tolist()]
        while len(parents) < INNER_POPULATION:
            parents.append(self._affordable.mend(self._task.space.sample(self._rng)))
        return parents

    def _values(self, seen: Observation) -> tuple[float, ...]:
        found = points([seen.trial], self._task.objectives)
        return found[0] if found else (NO_FIGURE,) * len(self._task.objectives)

    def _batch(self, found: list[Architecture], values: Floats, misses: Floats) -> list[Architecture]:
        """One after another the candidate with the largest expected gain over the known front and those taken."""
        left = np.flatnonzero(misses <= 0)
        if not len(left):
            return [found[i] for i in np.argsort(misses, kind="stable")[: self._round_size].tolist()]
        known = [self._values(o) for o in self._seen if violation(o.trial, self._task.constraints) == 0]
        front = [known[i] for i in front_indices(known)]
        reference = _reference(front or values[left].tolist(), known or values[left].tolist())
        draws = self._draws(values[left], self.predictor.doubts([found[i] for i in left]))
        chosen: list[int] = []
        for _ in range(min(self._round_size, len(left))):
            gains = expected_gains(front, reference, draws)
            gains[chosen] = -1.0
            chosen.append(int(np.argmax(gains)))
            front = [*front, tuple(values[left[chosen[-1]]].tolist())]
        return [found[i] for i in left[chosen].tolist()]

    def _draws(self, values: Floats, doubts: Floats) -> Floats:
        """What candidates [n, m] might turn out to be, [n, DRAWS, m]: accuracy off by a sum of its logarithms of errors
        (`surety`), costs by a factor."""
        spread = np.minimum(self.predictor.errors, 1.0) * doubts[:, None, None]
        off = self._rng.normal(size=(1, DRAWS, values.shape[1])) * spread
        drawn = values[:, None, :] + off * np.abs(values)[:, None, :]
        for i, name in enumerate(self._task.objectives):
            if name == "accuracy":
                drawn[..., i] = -accuracy_at(surety(-values[:, None, i]) + off[..., i])
        return np.asarray(drawn)


def _reference(front: Sequence[Sequence[float]], known: Sequence[Sequence[float]]) -> list[float]:
    """Up to where gains count: beyond a front in every objective by a tenth of the range of everything known.

    A wider view lets tiny hopes at the accurate end outweigh everything else: accuracy times the whole range of costs.
    """
    margin = 0.1 * np.ptp(np.asarray(known), axis=0) + 1e-9
    return (np.max(front, axis=0) + margin).tolist()  # type: ignore[no-any-return]


def expected_gains(front: Sequence[Sequence[float]], reference: Sequence[float], draws: Floats) -> Floats:
    """Mean hypervolume that each candidate would add to a front, over what it might turn out to be [n, D, m]; [n]."""
    if len(reference) != 2:
        before = hypervolume(front, reference)
        added = [[hypervolume([*front, p], reference) - before for p in one] for one in draws.tolist()]
        return np.asarray(np.mean(added, axis=1))
    inside = np.asarray([p for p in front if p[0] < reference[0] and p[1] < reference[1]]).reshape(-1, 2)
    inside = inside[np.argsort(inside[:, 0])]
    starts = np.concatenate(([-np.inf], inside[:, 0]))
    ends = np.append(inside[:, 0], reference[0])
    tops = np.minimum.accumulate(np.concatenate(([reference[1]], inside[:, 1])))
    x, y = draws[..., :1], draws[..., 1:]
    strips = np.maximum(ends - np.maximum(starts, x), 0) * np.maximum(tops - y, 0)
    return np.asarray(strips.sum(axis=2).mean(axis=1))
