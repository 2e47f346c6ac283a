"""The usual pipeline as a strategy, for comparison: architecture, then bits, then pruning, then exits.

Each phase is NSGA-II over its own part with the winner of the phase before held; the winner is the knee of what
the phase has found. Phases whose part the space does not offer are left out, and their trials go to the others.
"""

from collections.abc import Sequence
from dataclasses import replace

from offramp.ir.architecture import Architecture
from offramp.ir.trial import Trial
from offramp.search.evolution import Nsga2
from offramp.search.front import front, knee
from offramp.search.space import Space
from offramp.search.task import Proposals, Task

PHASES: tuple[tuple[str, ...], ...] = (("depth", "kernel"), ("bits",), ("width",), ("exits",))
"""Gene parts of each phase in order."""


class SequentialSearch:
    """Phases one after another; a strategy like the others from outside."""

    def __init__(self, task: Task) -> None:
        self._task, self._proposals = task, Proposals()
        offered = {gene.part for gene in task.space.genes if len(gene.choices) > 1}
        self._phases = [p for p in PHASES if offered.intersection(p)]
        self._share = max(1, task.trials // max(len(self._phases), 1))
        self._winner = task.space.neutral
        self._trials: list[Trial] = []
        self._asked: list[Architecture] = []
        self._waiting: list[Architecture] = []
        self._left = self._share
        self._inner = self._start()

    def _start(self) -> Nsga2:
        """NSGA-II over the part of the current phase."""
        parts = self._phases[0] if self._phases else ()
        space = self._held(parts)
        task = replace(self._task, space=space, trials=self._share)
        return Nsga2(task, proposals=self._proposals)

    def _held(self, parts: Sequence[str]) -> Space:
        """The space with every part but those of the phase held at the winner so far."""
        others = {gene.part for gene in self._task.space.genes} - set(parts)
        return self._task.space.pinned(self._winner, *others)

    def ask(self, n: int) -> list[Architecture]:
        """Up to `n` candidates of the current phase."""
        last = len(self._phases) <= 1
        if self._left <= 0 and not last:
            self._advance()
        self._waiting = self._inner.ask(n)
        while not self._waiting and len(self._phases) > 1:
            self._advance()
            self._waiting = self._inner.ask(n)
        return list(self._waiting)

    def _advance(self) -> None:
        """Hold the winner of this phase and begin the next."""
        task = self._task
        found = front(self._trials, task.objectives, task.constraints) or front(self._trials, task.objectives)
        if found:
            number = knee(found, task.objectives).number
            self._winner = self._asked[[t.number for t in self._trials].index(number)]
        self._phases, self._left = self._phases[1:], self._share
        self._trials, self._asked = [], []
        self._inner = self._start()

    def tell(self, trials: Sequence[Trial]) -> None:
        """What became of the last ask; counted towards the phase."""
        self._trials += trials
        self._asked += self._waiting[: len(trials)]
        self._left -= len(trials)
        self._inner.tell(trials)
        self._waiting = []
