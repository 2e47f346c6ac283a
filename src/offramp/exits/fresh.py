"""Thresholds that cost fresh data no more accuracy than allowed, by cross-validation.

The cheapest thresholds that keep a floor on some samples have been chosen among thousands by these very samples: on
others they lose more, two to three times what was allowed on 2,000 validation images of CIFAR-10. So the floor itself
is chosen: by how much the training part of a fold may fall short of its best exit, such that the parts held out lose
what is allowed (Stone, JRSS B 1974). An expectation, not a promise: `exits.guarantee` gives those. It knows arrays
only.
"""

import numpy as np
from numpy.typing import ArrayLike

from offramp.exits.policy import PATIENCE, first_exit
from offramp.exits.solve import Explored, Floats, Ints, Solution, apply, apply_some, explore_kept

FOLDS = 5
FLOORS = 25
"""How many floors are tried, between the top of the curve and the drop that is allowed."""

LEAST_LOST = 3
"""An allowed drop of fewer answers than this cannot be told from luck by the parts held out."""


def solve_fresh(
    confidences: ArrayLike,
    correct: ArrayLike,
    costs: ArrayLike,
    *,
    drop: float,
    policy: str = "max_softmax",
    seed: int = 0,
) -> tuple[Solution, float]:
    """The cheapest thresholds that are expected to lose at most `drop` on fresh data.

    Args:
        confidences: [E, N], the final exit last, on data that was not trained on.
        correct: [E, N].
        costs: [E], price of leaving at each exit (branches on the way included).
        drop: accuracy that may be lost against the most accurate single exit, a fraction.
        policy: whose confidences these are.
        seed: of the folds.

    Returns:
        figures over all samples given, with the exits that somebody leaves at (for `patience`, which counts exits that
        agree, all of them), and the drop of the parts held out, a fraction, negative for a gain. When no floor is
        found, everybody leaves at the most accurate exit. Where the allowed drop is less than `LEAST_LOST` answers, the
        floor is the drop on the samples given, as in `solve`, and the drop of the parts held out tells what it costs.

    Raises:
        UserError: shapes that do not fit, or numbers that are not finite.
    """
    sure, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct).astype(np.int64)
    prices = np.asarray(costs, dtype=np.float64)
    whole = explore_kept(sure, right, prices, policy=policy)
    drops = np.linspace(min(0.0, _best(right) - whole.rights[-1]) / right.shape[1], drop, FLOORS)
    lost = np.zeros(FLOORS)
    folds = np.random.default_rng(seed).permutation(right.shape[1]) % FOLDS
    for fold in range(min(FOLDS, right.shape[1]) if right.shape[1] > 1 else 0):
        learn, held = folds != fold, folds == fold
        learnt = explore_kept(sure[:, learn], right[:, learn], prices, policy=policy)
        lost += _lost(learnt, sure[:, held], right[:, held], drops)
    lost /= right.shape[1]
    can_tell = drop * right.shape[1] >= LEAST_LOST
    kept = np.flatnonzero(lost <= drop + 1e-12) if can_tell else np.asarray([FLOORS - 1])
    if len(kept):
        at = int(kept[-1])
        thresholds = whole.nearest(_best(right) - drops[at] * right.shape[1]).thresholds
        expected = float(lost[at])
    else:
        thresholds, expected = _alone(whole, _most_accurate(right)), 0.0
    rates = apply(sure, right, range(len(sure)), thresholds, prices.tolist()).exit_rates
    early = [i for i, rate in enumerate(rates[:-1]) if rate > 0 or policy == PATIENCE]
    return apply_some(sure, right, early, thresholds, prices), expected


def _best(right: Ints) -> int:
    return int(right.sum(axis=1).max())


def _most_accurate(right: Ints) -> int:
    """Of equally accurate exits the deepest."""
    sums = right.sum(axis=1)[::-1]
    return len(right) - 1 - int(sums.argmax())


def _lost(learnt: Explored, sure: Floats, right: Ints, drops: Floats) -> Floats:
    """Right answers that the samples held out lose with each floor, against the exit that is best where it learnt."""
    learning = learnt.problem
    best, exit_index = _best(learning.right), _most_accurate(learning.right)
    known: dict[tuple[float, ...], int] = {}
    lost = []
    for drop in drops:
        thresholds = learnt.nearest(best - drop * learning.samples).thresholds
        if thresholds not in known:
            taken = first_exit(sure, thresholds)
            known[thresholds] = int(np.take_along_axis(right, taken[None, :], axis=0).sum())
        lost.append(right[exit_index].sum() - known[thresholds])
    return np.asarray(lost, dtype=np.float64)


def _alone(whole: Explored, exit_index: int) -> tuple[float, ...]:
    """Thresholds with which everybody leaves at one exit."""
    closed = whole.problem.never.copy()
    if exit_index < len(closed):
        closed[exit_index] = -1.0
    return tuple(closed.tolist())
