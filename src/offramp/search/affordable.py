"""Candidates that their price alone does not rule out: where constraints are tight most of a space is, and a trial that
is spent on what could have been known before teaches nothing.

A candidate that cannot keep the constraints whatever training makes of it is changed gene by gene, at random, as long
as that does not make it worse. Without constraints, or without prices, every candidate stays as it is.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.repair import Repair

from offramp.ir.architecture import Architecture
from offramp.search.constraints import FAILED_VIOLATION, misses
from offramp.search.task import Task

STEPS = 200
"""Most changes; a candidate that still misses is the nearest that was found."""

PATIENCE = 3
"""Candidates in a row that could not be mended, after which the constraints are taken to be out of reach."""


class Affordable(Repair):  # type: ignore[misc]
    """Mends candidates of a task, and what evolution breeds of them; its draws depend on the task's seed alone."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self._rng, self._failures = task, np.random.default_rng([task.seed, 1]), 0

    def mend(self, candidate: Architecture) -> Architecture:
        """The candidate, or one made of it by changing genes, with the least miss that was found."""
        space, miss = self.task.space, least_miss(self.task, candidate)
        if not miss or self._failures == PATIENCE or space.cardinality == 1:
            return candidate
        vector = space.encode(candidate)
        for _ in range(STEPS):
            changed = vector.copy()
            gene = int(self._rng.integers(len(changed)))
            changed[gene] = self._rng.integers(len(space.genes[gene].choices))
            other = space.decode(changed)
            if (found := least_miss(self.task, other)) <= miss:
                vector, miss, candidate = changed, found, other
            if not miss:
                self._failures = 0
                return candidate
        self._failures += 1
        return candidate

    def _do(self, problem: Any, X: NDArray[Any], **kwargs: Any) -> NDArray[Any]:
        space = self.task.space
        bred = [(row, space.decode(row)) for row in X]
        mended = [(row, candidate, self.mend(candidate)) for row, candidate in bred]
        return np.asarray([row if new is old else space.encode(new) for row, old, new in mended])


def least_miss(task: Task, candidate: Architecture) -> float:
    """Sum of the relative misses that no training can mend, from the price; 0 where nothing is known of it."""
    if task.price is None or not task.constraints:
        return 0.0
    price = task.price(candidate)
    return FAILED_VIOLATION if price.refusal else sum(misses(price.at_best, task.constraints).values())
