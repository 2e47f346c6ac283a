"""NSGA-II on surrogates that are refitted as trials come in (the scheme of NSGANetV2, Lu et al., ECCV 2020).

The first generation is that of `nsga2`. Then, round after round: fit the predictor on every trial, run NSGA-II on the
predictions, and propose a batch spread along the predicted front, away from what is known. Predictions that were too
good are corrected by the trials they cause.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from offramp.ir.architecture import Architecture
from offramp.ir.pareto import front_indices
from offramp.ir.trial import Trial
from offramp.search.constraints import violation
from offramp.search.evolution import NO_FIGURE, first_generation, make_algorithm, tell_values
from offramp.search.features import Features
from offramp.search.front import points
from offramp.search.predictor import Observation, Predictor
from offramp.search.random_search import draw_new
from offramp.search.task import Price, Proposals, Task

Floats = NDArray[np.float64]

INNER_POPULATION = 40
INNER_OFFSPRING = 30
INNER_GENERATIONS = 8
"""About 280 predictions a round: each needs a price, which is a mapping of the whole network."""


class SurrogateSearch:
    """Rounds of predicted fronts; every round is asked in batches of any size."""

    def __init__(self, task: Task, round_size: int | None = None) -> None:
        self._task, self._rng, self._proposals = task, np.random.default_rng(task.seed), Proposals()
        self._round_size = round_size or int(np.clip(task.trials // 12, 4, 12))
        self._prices: dict[Architecture, Price] = {}
        self.predictor = Predictor(task, Features(task.space), self._priced if task.price else None)
        self._seen: list[Observation] = []
        self._queue: list[Architecture] = []
        self._waiting: list[Architecture] = []
        self._round = 0

    def _priced(self, candidate: Architecture) -> Price:
        assert self._task.price is not None
        if candidate not in self._prices:
            self._prices[candidate] = self._task.price(candidate)
        return self._prices[candidate]

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
            size = int(np.clip(task.trials // 4, 8, 24))
            return first_generation(task.space, size, self._proposals, self._rng)
        chosen: list[Architecture] = []
        if sum(o.trial.metrics is not None for o in self._seen) >= 4 and task.space.cardinality > 1:
            self.predictor.fit(self._seen, seed=int(self._rng.integers(2**31)))
            found, values, misses = self._predicted_population()
            chosen = self._spread(found, values, misses)
        for candidate in chosen:
            self._proposals.add(candidate)
        while len(chosen) < self._round_size and (drawn := draw_new(task.space, self._proposals, self._rng)):
            chosen.append(drawn)
        return chosen

    def _predicted_population(self) -> tuple[list[Architecture], Floats, Floats]:
        """Everything that NSGA-II looked at on the predictions: candidates, objectives, violations."""
        space = self._task.space
        first = self._parents()
        algorithm = make_algorithm(
            space,
            len(self._task.objectives),
            seed=int(self._rng.integers(2**31)),
            first=np.asarray([space.encode(c) for c in first]),
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
        ranked = sorted(self._seen, key=lambda o: (violation(o.trial, self._task.constraints) > 0, self._crowd(o)))
        parents = [o.asked for o in ranked[: INNER_POPULATION // 2]]
        while len(parents) < INNER_POPULATION:
            parents.append(self._task.space.sample(self._rng))
        return parents

    def _crowd(self, seen: Observation) -> int:
        """How many trials dominate this one."""
        mine = self._values(seen)
        others = np.asarray([self._values(o) for o in self._seen])
        return int((np.all(others <= mine, axis=1) & np.any(others < mine, axis=1)).sum())

    def _values(self, seen: Observation) -> tuple[float, ...]:
        found = points([seen.trial], self._task.objectives)
        return found[0] if found else (NO_FIGURE,) * len(self._task.objectives)

    def _spread(self, found: list[Architecture], values: Floats, misses: Floats) -> list[Architecture]:
        """Candidates of the best predicted fronts, far from one another and from the known front."""
        known = [self._values(o) for o in self._seen if violation(o.trial, self._task.constraints) == 0]
        near = np.asarray([known[i] for i in front_indices(known)]).reshape(-1, values.shape[1])
        chosen: list[int] = []
        left = [i for i in np.argsort(misses, kind="stable").tolist() if misses[i] <= 0] or (
            np.argsort(misses, kind="stable")[: self._round_size].tolist()
        )
        while left and len(chosen) < self._round_size:
            front = [left[i] for i in front_indices(values[left].tolist())]
            taken = _farthest_first(values, front, near, self._round_size - len(chosen))
            chosen += taken
            left = [i for i in left if i not in front]
        return [found[i] for i in chosen]


def _farthest_first(values: Floats, front: list[int], known: Floats, count: int) -> list[int]:
    """Up to `count` of a front's points, each the farthest from the ones taken and from the known points."""
    everything = np.concatenate([values[front], known])
    low, high = everything.min(axis=0), everything.max(axis=0)
    scale = np.where(high > low, high - low, 1.0)
    places, others = (values[front] - low) / scale, (known - low) / scale
    gaps = np.full(len(front), np.inf)
    for other in others:
        gaps = np.minimum(gaps, np.linalg.norm(places - other, axis=1))
    taken: list[int] = []
    while len(taken) < min(count, len(front)):
        best = int(np.argmax(gaps))
        taken.append(best)
        gaps = np.minimum(gaps, np.linalg.norm(places - places[best], axis=1))
        gaps[best] = -1.0
    return [front[i] for i in taken]
