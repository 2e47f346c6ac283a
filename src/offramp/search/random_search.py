"""Random search: independent candidates from the space, none twice (Bergstra & Bengio, JMLR 2012)."""

from collections.abc import Sequence

import numpy as np

from offramp.ir.architecture import Architecture
from offramp.ir.trial import Trial
from offramp.search.affordable import Affordable
from offramp.search.task import Proposals, Task

TRIES = 500
"""Draws without a new candidate after which a space counts as exhausted."""


def draw_new(affordable: Affordable, proposals: Proposals, rng: np.random.Generator) -> Architecture | None:
    """A random candidate that was not proposed before (and is noted now); None when none turns up.

    One whose price rules it out is mended.
    """
    space = affordable.task.space
    for _ in range(min(TRIES, 20 * space.cardinality)):
        candidate = affordable.mend(space.sample(rng))
        if proposals.new(candidate):
            proposals.add(candidate)
            return candidate
    return None


class RandomSearch:
    """Draws from `Space.sample`; learns nothing."""

    def __init__(self, task: Task) -> None:
        self._affordable, self._rng, self._proposals = Affordable(task), np.random.default_rng(task.seed), Proposals()

    def ask(self, n: int) -> list[Architecture]:
        """Up to `n` new candidates."""
        found = (draw_new(self._affordable, self._proposals, self._rng) for _ in range(n))
        return [c for c in found if c is not None]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Nothing to learn."""
