"""Which exits to keep and one threshold for each, from confidences, right answers and prices: solved, not
guessed.

`curve` gives expected cost against accuracy, `solve` one point of it: the cheapest with an accuracy floor, or
the best for a price `lam` of accuracy (the Lagrangian: minimise cost - lam * accuracy). Both descend along
exact coordinate steps (`exits.coordinate`) over a path of Lagrange multipliers, up and down and from several
starts; small problems are enumerated whole, and are then exact. All figures are those of the data given, hence
hopeful: see `exits.fresh` for thresholds that cost as much on fresh data, `exits.guarantee` for a promise.

It knows neither networks nor chips: `stage_costs[i]` is the price of the backbone from exit i - 1 to exit i,
`branch_costs[i]` that of exit i's branch for a sample that leaves there, `pass_costs[i]` that of the branch for
a sample that goes on (the same, unless the backbone does not wait). Any additive unit will do: energy, latency,
MACs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offramp.errors import InfeasibleError, UserError
from offramp.exits.coordinate import Criterion, Memory, Problem, Setting, descend, enumerate_all, note_whole
from offramp.exits.policy import PATIENCE, check_policy, first_exit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_GAP = 2e-5
"""How far below the least confidence a threshold that everyone meets lies; runtimes decide within 1e-5 (`deploy`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Kept exits with thresholds, and what they do to the samples given.

    Attributes:
        exits: indices of the kept exits, the final one last.
        thresholds: one per kept early exit: leave when the confidence is at least this.
        exit_rates: share of the samples that leave at each kept exit; sums to 1.
        accuracy: share of right answers.
        expected_cost: sum of exit_rates * costs.
        costs: price of leaving at each kept exit, branches on the way included.
    """

    exits: tuple[int, ...]
    thresholds: tuple[float, ...]
    exit_rates: tuple[float, ...]
    accuracy: float
    expected_cost: float
    costs: tuple[float, ...]


def cumulated(
    stage_costs: ArrayLike, branch_costs: ArrayLike, exits: Sequence[int], pass_costs: ArrayLike | None = None
) -> Floats:
    """Price of leaving at each kept exit: all stages up to it, the branches passed, and its own branch.

    Args:
        stage_costs: [E].
        branch_costs: [E].
        exits: kept exits in rising order.
        pass_costs: [E]; None: the same as `branch_costs`.
    """
    stages, branches = np.asarray(stage_costs, dtype=np.float64), np.asarray(branch_costs, dtype=np.float64)
    passing = branches if pass_costs is None else np.asarray(pass_costs, dtype=np.float64)
    kept = np.asarray(exits, dtype=np.int64)
    passed = np.concatenate(([0.0], np.cumsum(passing[kept])[:-1]))
    return np.asarray(np.cumsum(stages)[kept] + passed + branches[kept])


def apply(
    confidences: ArrayLike,
    correct: ArrayLike,
    exits: Sequence[int],
    thresholds: Sequence[float],
    costs: Sequence[float],
) -> Solution:
    """What given exits and thresholds do to (other) samples.

    Args:
        confidences: [E, N] of all exits.
        correct: [E, N].
        exits: kept exits, the final one last.
        thresholds: one per kept early exit.
        costs: price of leaving at each kept exit (`cumulated`).
    """
    kept = np.asarray(exits, dtype=np.int64)
    sure, right = np.asarray(confidences, dtype=np.float64)[kept], np.asarray(correct)[kept]
    taken = first_exit(sure, thresholds)
    rates = np.bincount(taken, minlength=len(kept)) / len(taken)
    accuracy = float(np.take_along_axis(right, taken[None, :], axis=0).mean())
    return Solution(
        exits=tuple(int(e) for e in exits),
        thresholds=tuple(float(t) for t in thresholds),
        exit_rates=tuple(rates.tolist()),
        accuracy=accuracy,
        expected_cost=float(rates @ np.asarray(costs)),
        costs=tuple(float(c) for c in costs),
    )


def curve(
    confidences: ArrayLike,
    correct: ArrayLike,
    stage_costs: ArrayLike,
    branch_costs: ArrayLike,
    *,
    pass_costs: ArrayLike | None = None,
    select: bool = True,
    policy: str = "max_softmax",
    points: int = 100,
) -> list[Solution]:
    """Expected cost against accuracy: the solutions that no other dominates, by rising accuracy.

    Args:
        confidences: [E, N], the final exit last (its row is not read).
        correct: [E, N], true or 1 where the exit answers rightly.
        stage_costs: [E].
        branch_costs: [E].
        pass_costs: [E]; None: the same as `branch_costs`.
        select: allow to drop early exits (saving their branches); False keeps all of them.
        policy: whose confidences these are; `patience` depends on the exits listed, so nothing may be dropped.
        points: at most this many, both ends included, spread along the curve.

    Raises:
        UserError: shapes that do not fit, numbers that are not finite, or patience with `select`.
    """
    return explore(
        confidences, correct, stage_costs, branch_costs, pass_costs=pass_costs, select=select, policy=policy
    ).curve(points)


@dataclass(frozen=True, eq=False)
class Explored:
    """A problem whose whole curve has been found; `whole` where every setting was looked at."""

    problem: Problem
    memory: Memory
    whole: bool

    @property
    def rights(self) -> Ints:
        """Numbers of right answers along the curve, rising."""
        return self.memory.front()

    def solution(self, rights: int) -> Solution:
        """The cheapest setting with this many right answers, one of `rights`."""
        return _solution(self.problem, self.memory.setting(rights))

    def curve(self, points: int) -> list[Solution]:
        """As the function `curve`."""
        rights = self.rights
        if len(rights) > points:
            rights = rights[np.unique(np.linspace(0, len(rights) - 1, max(points, 2)).round().astype(int))]
        return [self.solution(int(r)) for r in rights]

    def nearest(self, needed: float) -> Solution:
        """The cheapest of the curve with at least `needed` right answers; the most accurate when none has so many."""
        rights = self.rights
        at = int(np.searchsorted(rights, np.ceil(needed - 1e-9)))
        return self.solution(int(rights[min(at, len(rights) - 1)]))

    def cheapest(self, accuracy_floor: float) -> Solution:
        """As `solve` with this floor: the curve is looked at once more beside it."""
        needed = int(np.ceil(accuracy_floor * self.problem.samples - 1e-9))
        return _solution(self.problem, _cheapest(self.problem, self.memory, needed, self.whole))


def explore(
    confidences: ArrayLike,
    correct: ArrayLike,
    stage_costs: ArrayLike,
    branch_costs: ArrayLike,
    *,
    pass_costs: ArrayLike | None = None,
    select: bool = True,
    policy: str = "max_softmax",
) -> Explored:
    """Find the curve; arguments and errors as in `curve`."""
    problem = _problem(confidences, correct, stage_costs, branch_costs, pass_costs, select, policy)
    memory = Memory(problem.samples)
    whole = _explore(problem, memory, _multipliers(problem))
    return Explored(problem, memory, whole)


def explore_kept(
    confidences: ArrayLike, correct: ArrayLike, costs: ArrayLike, *, policy: str = "max_softmax"
) -> Explored:
    """`explore` with every exit kept, from the price of leaving at each, [E], branches on the way included."""
    steps = np.diff(np.asarray(costs, dtype=np.float64), prepend=0.0)
    return explore(confidences, correct, steps, np.zeros_like(steps), select=False, policy=policy)


def apply_some(
    confidences: ArrayLike, correct: ArrayLike, early: Sequence[int], thresholds: Sequence[float], costs: ArrayLike
) -> Solution:
    """`apply` with some of the early exits left; thresholds and costs are those of all exits."""
    prices = np.asarray(costs, dtype=np.float64)
    exits = [*early, len(prices) - 1]
    return apply(confidences, correct, exits, [thresholds[i] for i in early], prices[exits].tolist())


def solve(
    confidences: ArrayLike,
    correct: ArrayLike,
    stage_costs: ArrayLike,
    branch_costs: ArrayLike,
    *,
    accuracy_floor: float | None = None,
    lam: float | None = None,
    pass_costs: ArrayLike | None = None,
    select: bool = True,
    policy: str = "max_softmax",
) -> Solution:
    """The cheapest exits and thresholds with at least `accuracy_floor`, or with the least cost - lam * accuracy.

    Args and errors as in `curve`, and:
        accuracy_floor: fraction of right answers that must be reached.
        lam: price of accuracy (cost units per 1.0 of accuracy); give this or the floor.

    Raises:
        InfeasibleError: no setting reaches the floor; the message says what is the most.
    """
    if (accuracy_floor is None) == (lam is None):
        raise UserError("accuracy_floor and lam", wanted="one of them", where="solve", write="accuracy_floor=0.87")
    if lam is not None:
        problem = _problem(confidences, correct, stage_costs, branch_costs, pass_costs, select, policy)
        return _solution(problem, _priced(problem, Memory(problem.samples), lam))
    return explore(
        confidences, correct, stage_costs, branch_costs, pass_costs=pass_costs, select=select, policy=policy
    ).cheapest(float(accuracy_floor or 0.0))


def _priced(problem: Problem, memory: Memory, price: float) -> Setting:
    """The setting with the least cost - price * accuracy, from which no single exit can be changed for the better.

    The best that was met on the way to other settings need not be such a one: descend from it until it is.
    """

    def criterion(costs: Floats, rights: Ints) -> Floats:
        return costs - price * rights

    if not _explore(problem, memory, [price]):
        value = np.inf
        while (best := _value(memory, criterion)) < value - 1e-12 * (1 + abs(best)):
            value = best
            descend(problem, _best(memory, criterion), criterion, memory)
    return _best(memory, criterion)


def _value(memory: Memory, criterion: Criterion) -> float:
    rights = memory.front()
    return float(criterion(memory.cost[rights], rights).min())


def _cheapest(problem: Problem, memory: Memory, needed: int, whole: bool) -> Setting:
    """The cheapest setting with at least `needed` right answers of an explored problem."""

    def with_floor(costs: Floats, rights: Ints) -> Floats:
        return np.where(rights >= needed, costs, np.inf)

    if not whole:
        for _ in range(3):
            found = memory.front()
            near = [int(r) for r in found[found >= needed][:3]]
            before = memory.cost.min(where=np.arange(problem.samples + 1) >= needed, initial=np.inf)
            for rights in near:
                descend(problem, memory.setting(rights), with_floor, memory)
            if not memory.cost[needed:].min(initial=np.inf) < before:
                break
    if not np.isfinite(memory.cost[needed:]).any():
        most = int(memory.front()[-1]) / problem.samples
        given = f"accuracy floor {needed / problem.samples:.4f}"
        raise InfeasibleError(given, wanted=f"at most {most:.4f}, the best that these exits reach", where="solve")
    return _best(memory, with_floor)


def _best(memory: Memory, criterion: Criterion) -> Setting:
    rights = memory.front()
    return memory.setting(int(rights[np.argmin(criterion(memory.cost[rights], rights))]))


def _multipliers(problem: Problem, count: int = 24) -> list[float]:
    """Prices of one right answer, falling: from "accuracy alone" through the range of prices to "cost alone"."""
    span = float(problem.stages.sum() + problem.branches.sum() + problem.passing.sum())
    if span == 0:
        return [1.0]
    return [span * problem.samples * 2, *np.geomspace(300 * span, 0.01 * span, count), 0.0]


def _explore(problem: Problem, memory: Memory, multipliers: Sequence[float]) -> bool:
    """Fill the memory; True when the problem was enumerated whole."""
    note_whole(problem, problem.empty(), memory)
    if not problem.early or enumerate_all(problem, memory):
        return True

    def priced(price: float) -> Criterion:
        return lambda costs, rights: costs - price * rights

    for path, start in ((multipliers, problem.empty()), (multipliers[::-1], problem.quantile(0.5))):
        setting = start
        for price in path:
            setting = descend(problem, setting, priced(price), memory)
    if len(multipliers) == 1:
        for share in (0.05, 0.2, 0.8):
            descend(problem, problem.quantile(share), priced(multipliers[0]), memory)
    return False


def _solution(problem: Problem, setting: Setting) -> Solution:
    exits = [*np.flatnonzero(setting.kept).tolist(), problem.early]
    thresholds = [_clear(problem.sure[j], float(setting.thresholds[j])) for j in exits[:-1]]
    costs = cumulated(problem.stages, problem.branches, exits, problem.passing)
    return apply(problem.sure, problem.right, exits, thresholds, costs.tolist())


def _clear(sure: Floats, threshold: float) -> float:
    """A threshold that is some samples' confidence itself, moved half-way to the next lower one (or a little below the
    least): the same samples leave, and they do so too where a runtime rounds their confidence down."""
    if not (sure == threshold).any():
        return threshold
    lower = sure[sure < threshold]
    below = float(lower.max()) if len(lower) else threshold - 2 * LEAST_GAP
    middle = below + (threshold - below) / 2
    return middle if middle > below else threshold


def _problem(
    confidences: ArrayLike,
    correct: ArrayLike,
    stage_costs: ArrayLike,
    branch_costs: ArrayLike,
    pass_costs: ArrayLike | None,
    select: bool,
    policy: str,
) -> Problem:
    if check_policy(policy, where="solve") == PATIENCE and select:
        wanted = "select=False: with an exit dropped the runs of agreeing exits change"
        raise UserError("patience with select=True", wanted=wanted, where="solve")
    sure, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct)
    if sure.ndim != 2 or sure.shape != right.shape or 0 in sure.shape:
        given = f"confidences {sure.shape}, correct {right.shape}"
        raise UserError(given, wanted="both [exits, samples], neither empty", where="solve")
    if not np.isin(right, (0, 1)).all() or not np.isfinite(sure[:-1]).all():
        raise UserError("a confidence that is not finite, or `correct` other than 0 and 1", where="solve")
    stages, branches = _prices("stage_costs", stage_costs, len(sure)), _prices("branch_costs", branch_costs, len(sure))
    passing = branches if pass_costs is None else _prices("pass_costs", pass_costs, len(sure))
    return Problem(
        sure=sure, right=right.astype(np.int64), stages=stages, branches=branches, passing=passing, select=select
    )


def _prices(name: str, given: ArrayLike, exits: int) -> Floats:
    prices = np.asarray(given, dtype=np.float64)
    if prices.shape != (exits,) or not np.isfinite(prices).all():
        raise UserError(f"{name} {prices.tolist()}", wanted=f"{exits} finite prices, one per exit", where="solve")
    return prices
