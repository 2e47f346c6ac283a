"""NSGA-II (Deb et al., IEEE TEVC 2002) from pymoo behind ask and tell, constraints first.

The vector of `Space` is the genome: uniform crossover, and a mutation that steps along ordered choices (widths,
depths, kernels) and redraws the others. The first generation holds a few anchors that any designer would try
(the plain backbone, exits alone, narrow, analog), then random candidates. A trial without figures counts as a
constraint broken badly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2, binary_tournament
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.evaluator import Evaluator
from pymoo.core.mating import Mating
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.problems.static import StaticProblem

from offramp.ir.architecture import Architecture
from offramp.ir.trial import Trial, minimised
from offramp.search.affordable import Affordable
from offramp.search.constraints import violation
from offramp.search.random_search import draw_new
from offramp.search.space import Space, Vector
from offramp.search.task import Proposals, Task

NO_FIGURE = 1e12
"""Objective value of a trial without metrics; its constraint violation ranks it, this only has to be finite."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One proposal: the vector and, when it came from a generation, its place in it."""

    vector: Vector
    place: int | None


class GeneMutation(Mutation):  # type: ignore[misc]
    """Changes each gene with probability 1 / genes (at least one per genome): ordered ones by a step or two."""

    def __init__(self, space: Space) -> None:
        super().__init__(prob=0.9)
        self._upper = space.upper
        self._ordered = np.asarray([g.part in ("depth", "width", "kernel") for g in space.genes], dtype=bool)

    def _do(self, problem: Any, X: NDArray[Any], *args: Any, random_state: Any = None, **kwargs: Any) -> NDArray[Any]:
        rows, genes = X.shape
        change = random_state.random((rows, genes)) < 1.0 / genes
        change[np.arange(rows), random_state.integers(genes, size=rows)] = True
        step = random_state.choice([-2, -1, 1, 2], size=X.shape, p=[0.15, 0.35, 0.35, 0.15])
        drawn = np.floor(random_state.random(X.shape) * (self._upper + 1)).astype(np.int64)
        moved = np.where(self._ordered & (random_state.random(X.shape) < 0.7), X + step, drawn)
        return np.where(change, np.clip(moved, 0, self._upper), X)


class SameNetwork(DuplicateElimination):  # type: ignore[misc]
    """Two genomes that decode to the same network, or to one already proposed, are duplicates."""

    def __init__(self, space: Space, known: Callable[[Architecture], bool]) -> None:
        super().__init__()
        self._space, self._known = space, known
        self._decoded: dict[bytes, Architecture] = {}

    def _network(self, vector: NDArray[Any]) -> Architecture:
        key = np.asarray(vector, dtype=np.int64).tobytes()
        if key not in self._decoded:
            self._decoded[key] = self._space.decode(vector)
        return self._decoded[key]

    def _do(self, pop: Any, other: Any, is_duplicate: NDArray[np.bool_]) -> NDArray[np.bool_]:
        taken = {self._network(x) for x in other.get("X")} if other is not None else set()
        for i, x in enumerate(pop.get("X")):
            candidate = self._network(x)
            is_duplicate[i] = candidate in taken or self._known(candidate)
            taken.add(candidate)
        return is_duplicate


def make_algorithm(
    affordable: Affordable, *, seed: int, first: NDArray[np.int64], offspring: int, known: Callable[..., bool]
) -> Any:
    """A pymoo NSGA-II over the vectors of a task's space, ready to be asked.

    Args:
        affordable: mends what is bred; it knows the task.
        seed: of the algorithm's own randomness.
        first: vectors of the first generation, [population, genes].
        offspring: size of every later generation.
        known: True for candidates that must not be proposed again.
    """
    task, space = affordable.task, affordable.task.space
    algorithm = NSGA2(
        pop_size=len(first),
        n_offsprings=offspring,
        sampling=first,
        eliminate_duplicates=False,
        mating=Mating(
            TournamentSelection(func_comp=binary_tournament),
            UniformCrossover(),
            GeneMutation(space),
            repair=affordable,
            eliminate_duplicates=SameNetwork(space, known),
        ),
    )
    zeros = np.zeros_like(space.upper)
    problem = Problem(n_var=len(zeros), n_obj=len(task.objectives), n_ieq_constr=1, xl=zeros, xu=space.upper, vtype=int)
    algorithm.setup(problem, termination=NoTermination(), seed=seed, verbose=False)
    return algorithm


def tell_values(algorithm: Any, infills: Any, values: NDArray[np.float64], misses: NDArray[np.float64]) -> None:
    """Give a generation its objectives [n, m] and constraint violations [n]."""
    Evaluator().eval(StaticProblem(algorithm.problem, F=values, G=misses[:, None]), infills)
    algorithm.tell(infills=infills)


def anchors(space: Space) -> list[Architecture]:
    """Candidates that any designer would try first: plain, with exits, narrow, analog, and all of it together."""
    plain = space.encode(space.neutral)
    kinds = np.asarray([g.part for g in space.genes])
    analog = [next((i for i, c in enumerate(g.choices) if getattr(c, "core", None)), g.neutral) for g in space.genes]
    with_exits = np.where(kinds == "exits", 1, plain)
    narrow = np.where(kinds == "width", space.upper // 2, plain)
    on_analog = np.where(kinds == "bits", analog, plain)
    vectors = [
        plain,
        with_exits,
        np.where(kinds == "width", narrow, with_exits),
        np.where(kinds == "bits", on_analog, with_exits),
        np.where(kinds == "width", narrow, np.where(kinds == "bits", on_analog, with_exits)),
        on_analog,
        narrow,
    ]
    return list(dict.fromkeys(space.decode(v) for v in vectors))


def first_generation(
    affordable: Affordable, size: int, proposals: Proposals, rng: np.random.Generator
) -> list[Architecture]:
    """Anchors for up to half of the generation, then random candidates; all are noted as proposed."""
    mended = dict.fromkeys(map(affordable.mend, anchors(affordable.task.space)))
    chosen = [c for c in mended if proposals.new(c)][: max(1, size // 2)]
    for candidate in chosen:
        proposals.add(candidate)
    while len(chosen) < size and (drawn := draw_new(affordable, proposals, rng)) is not None:
        chosen.append(drawn)
    return chosen


def population_size(trials: int) -> int:
    """A sixth of the trials, so that about ten half generations follow the first; 8 to 40."""
    return int(np.clip(trials // 6, 8, 40))


class Nsga2:
    """NSGA-II whose generations are handed out in batches of any size."""

    def __init__(self, task: Task, proposals: Proposals | None = None) -> None:
        self._task, self._rng = task, np.random.default_rng(task.seed)
        self._proposals, self._affordable = proposals or Proposals(), Affordable(task)
        self._size = population_size(task.trials)
        self._algorithm: Any = None
        self._started = False
        self._infills: Any = Population.empty()
        self._queue: list[int] = []
        self._values: NDArray[np.float64] = np.empty((0, len(task.objectives)))
        self._misses: NDArray[np.float64] = np.empty(0)
        self._waiting: list[_Asked] = []
        self._open = 0

    def ask(self, n: int) -> list[Architecture]:
        """Up to `n` candidates of the current generation; random ones when evolution finds nothing new."""
        if not self._queue and not self._open:
            self._next_generation()
        places, self._queue = self._queue[:n], self._queue[n:]
        vectors = self._infills.get("X")
        self._waiting = [_Asked(np.asarray(vectors[i], dtype=np.int64), i) for i in places]
        candidates = [self._task.space.decode(a.vector) for a in self._waiting]
        if not candidates and (drawn := draw_new(self._affordable, self._proposals, self._rng)) is not None:
            self._waiting, candidates = [_Asked(self._task.space.encode(drawn), None)], [drawn]
        return candidates

    def _next_generation(self) -> None:
        if not self._started:
            self._infills, self._started = self._first_infills(), True
        elif self._algorithm is not None:
            offspring = self._algorithm.ask()
            self._infills = Population.empty() if offspring is None else offspring
            for x in self._infills.get("X"):
                self._proposals.add(self._task.space.decode(x))
        count = len(self._infills)
        self._queue, self._open = list(range(count)), count
        self._values, self._misses = np.full((count, len(self._task.objectives)), NO_FIGURE), np.zeros(count)

    def _first_infills(self) -> Any:
        """The first generation; a space with fewer than two candidates needs no algorithm."""
        task = self._task
        first = first_generation(self._affordable, self._size, self._proposals, self._rng)
        vectors = np.asarray([task.space.encode(c) for c in first]).reshape(len(first), len(task.space.genes))
        if len(first) < 2:
            return Population.new("X", vectors)
        self._algorithm = make_algorithm(
            self._affordable,
            seed=task.seed,
            first=vectors,
            offspring=max(2, self._size // 2),
            known=lambda c: not self._proposals.new(c),
        )
        return self._algorithm.ask()

    def tell(self, trials: Sequence[Trial]) -> None:
        """Collect the answers; a whole generation goes to the algorithm."""
        for asked, trial in zip(self._waiting, trials, strict=False):
            if asked.place is None:
                continue
            if trial.metrics is not None:
                self._values[asked.place] = minimised(trial.metrics, self._task.objectives)
            self._misses[asked.place] = violation(trial, self._task.constraints)
            self._open -= 1
        self._waiting = []
        if self._open == 0 and len(self._infills):
            if self._algorithm is not None:
                tell_values(self._algorithm, self._infills, self._values, self._misses)
            self._infills = Population.empty()
