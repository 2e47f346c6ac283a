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


def least_miss(task: Task, candidate: Architecture) -> float:
    """Sum of the relative misses that no training can mend, from the price; 0 where nothing is known of it."""
    if task.price is None or not task.constraints:
        return 0.0
    price = task.price(candidate)
    return FAILED_VIOLATION if price.refusal else sum(misses(price.at_best, task.constraints).values())


def affordable(task: Task, candidate: Architecture, rng: np.random.Generator) -> Architecture:
    """The candidate, or one made of it by changing genes, with the least miss that was found."""
    space, miss = task.space, least_miss(task, candidate)
    vector = space.encode(candidate) if miss else None
    for _ in range(STEPS):
        if vector is None or not miss:
            break
        changed = vector.copy()
        gene = int(rng.integers(len(changed)))
        changed[gene] = rng.integers(len(space.genes[gene].choices))
        other = space.decode(changed)
        if (found := least_miss(task, other)) <= miss:
            vector, miss, candidate = changed, found, other
    return candidate


class Affordable(Repair):  # type: ignore[misc]
    """What evolution breeds, made affordable."""

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        super().__init__()
        self._task, self._rng = task, rng

    def _do(self, problem: Any, X: NDArray[Any], **kwargs: Any) -> NDArray[Any]:
        space = self._task.space
        found = []
        for row in X:
            candidate = space.decode(row)
            mended = affordable(self._task, candidate, self._rng)
            found.append(row if mended is candidate else space.encode(mended))
        return np.asarray(found)
