"""Exact coordinate steps over exit thresholds, and the memory of the cheapest setting for every number of right
answers.

One coordinate is one early exit: it can be dropped, or kept with its threshold at any of the N + 1 cuts between
sorted confidences. With all other exits held, cost and right answers at every cut are two prefix sums, so a
step looks at every possibility and is exact. A sweep steps through the exits from the last to the first; it can
only improve. Every cut that a step looks at is remembered when no cheaper setting with as many right answers is
known: the memory is the curve.

It knows arrays only: no policy, no accelerator. Prices per sample: `stages[i]` to come from exit i - 1 to exit
i, `branches[i]` for leaving at exit i, `passing[i]` for going on after exit i has been evaluated.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Criterion = Callable[[Floats, Ints], Floats]
"""From total costs and right answers to a score per possibility; the smallest is taken."""

ENUMERATION_STEPS = 1500
"""Problems that need at most this many exact steps are enumerated whole."""


@dataclass(frozen=True)
class Setting:
    """Which early exits are kept, and the threshold of each; both [E - 1]."""

    kept: NDArray[np.bool_]
    thresholds: Floats

    def replace(self, exit_index: int, kept: bool, threshold: float) -> "Setting":
        """The same with one exit changed."""
        keeps, cuts = self.kept.copy(), self.thresholds.copy()
        keeps[exit_index], cuts[exit_index] = kept, threshold
        return Setting(keeps, cuts)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Confidences [E, N], right answers [E, N] as 0 or 1, and prices [E]; `select` allows to drop exits."""

    sure: Floats
    right: Ints
    stages: Floats
    branches: Floats
    passing: Floats
    select: bool = True

    @property
    def early(self) -> int:
        """Number of early exits."""
        return len(self.sure) - 1

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self.sure.shape[1])

    @cached_property
    def order(self) -> Ints:
        """Sample indices by falling confidence, [E - 1, N]."""
        return np.argsort(-self.sure[:-1], axis=1, kind="stable")

    @cached_property
    def never(self) -> Floats:
        """A finite threshold that nothing in the data meets, per early exit."""
        return np.asarray(np.maximum(self.sure[:-1].max(axis=1), 1.0) + 1.0)

    def empty(self) -> Setting:
        """No early exit where they may be dropped, else all with a threshold that nobody meets."""
        return Setting(np.full(self.early, not self.select), self.never.copy())

    def quantile(self, share: float) -> Setting:
        """All exits, each with the threshold that this share of all samples meets."""
        cuts = np.quantile(self.sure[:-1], 1.0 - share, axis=1) if self.early else np.empty(0)
        return Setting(np.ones(self.early, dtype=bool), np.asarray(cuts, dtype=np.float64))


@dataclass
class Memory:
    """The cheapest setting seen for each number of right answers (0 .. N); mutable, grows with every step."""

    samples: int
    cost: Floats = field(init=False)
    _bound: Floats = field(init=False)
    _step: Ints = field(init=False)
    _exit: Ints = field(init=False)
    _kept: NDArray[np.bool_] = field(init=False)
    _cut: Floats = field(init=False)
    _settings: list[Setting] = field(default_factory=list)

    def __post_init__(self) -> None:
        size = self.samples + 1
        self.cost, self._bound, self._cut = np.full(size, np.inf), np.full(size, np.inf), np.zeros(size)
        self._step, self._exit = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        self._kept = np.zeros(size, dtype=bool)

    def note(self, setting: Setting, exit_index: int, line: "Line") -> None:
        """Remember the points of a line that nothing known dominates."""
        better = np.flatnonzero(line.costs < self._bound[line.rights])
        if not len(better):
            return
        better = better[np.argsort(-line.costs[better], kind="stable")]
        at = line.rights[better]
        self.cost[at], self._cut[at], self._kept[at] = line.costs[better], line.thresholds[better], line.kept[better]
        self._exit[at], self._step[at] = exit_index, len(self._settings)
        self._settings.append(setting)
        self._bound = np.minimum.accumulate(self.cost[::-1])[::-1]

    def front(self) -> Ints:
        """Numbers of right answers, rising, whose cost no larger number reaches."""
        later = np.append(self._bound[1:], np.inf)
        return np.flatnonzero(self.cost < later)

    def setting(self, rights: int) -> Setting:
        """The setting remembered for this number of right answers."""
        exit_index = int(self._exit[rights])
        base = self._settings[int(self._step[rights])]
        if exit_index < 0:
            return base
        return base.replace(exit_index, bool(self._kept[rights]), float(self._cut[rights]))


@dataclass(frozen=True)
class Line:
    """Everything one coordinate can do: total cost, right answers, kept or dropped, and threshold, per possibility."""

    costs: Floats
    rights: Ints
    kept: NDArray[np.bool_]
    thresholds: Floats


@dataclass(frozen=True)
class Forward:
    """Before each early exit: who is still inside [E, N], what has been paid and answered rightly so far [E]."""

    inside: NDArray[np.bool_]
    paid: Floats
    rights: Ints


def forward(problem: Problem, setting: Setting) -> Forward:
    """Walk all samples through the exits (the stage before the exit is paid)."""
    count = problem.early + 1
    inside = np.ones((count, problem.samples), dtype=bool)
    paid, rights = np.zeros(count), np.zeros(count, dtype=np.int64)
    paid[0] = problem.stages[0] * problem.samples
    for j in range(problem.early):
        leaves = inside[j] & (problem.sure[j] >= setting.thresholds[j]) & setting.kept[j]
        inside[j + 1] = inside[j] & ~leaves
        gone, on = int(leaves.sum()), int(inside[j + 1].sum())
        branch = problem.branches[j] * gone + problem.passing[j] * on if setting.kept[j] else 0.0
        paid[j + 1] = paid[j] + branch + problem.stages[j + 1] * on
        rights[j + 1] = rights[j] + int(problem.right[j][leaves].sum())
    return Forward(inside, paid, rights)


def coordinate(problem: Problem, j: int, before: Forward, onward: Floats, onward_right: Ints) -> Line:
    """Cost and right answers of every possibility of exit j.

    Args:
        before: who reaches it and what was paid.
        onward: cost per sample from after exit j to its end, [N].
        onward_right: 1 where the sample is answered rightly when it goes on, [N].
    """
    ranked = problem.order[j][before.inside[j][problem.order[j]]]
    base_cost = before.paid[j] + onward[ranked].sum()
    base_right = int(before.rights[j] + onward_right[ranked].sum())
    sorted_sure = problem.sure[j][ranked]
    gaps = np.flatnonzero(sorted_sure[:-1] > sorted_sure[1:]) + 1
    cuts = np.concatenate(([0], gaps, [len(ranked)])) if len(ranked) else np.zeros(1, dtype=np.int64)
    saved = np.concatenate(([0.0], np.cumsum(problem.branches[j] - problem.passing[j] - onward[ranked])))
    gained = np.concatenate(([0], np.cumsum(problem.right[j][ranked] - onward_right[ranked])))
    costs = base_cost + problem.passing[j] * len(ranked) + saved[cuts]
    rights = base_right + gained[cuts]
    kept = np.ones(len(cuts), dtype=bool)
    thresholds = _thresholds(sorted_sure, gaps, float(problem.never[j]))
    if not problem.select:
        return Line(costs, rights, kept, thresholds)
    return Line(
        np.append(base_cost, costs[1:]), np.append(base_right, rights[1:]), np.append(False, kept[1:]), thresholds
    )


def _thresholds(sorted_sure: Floats, gaps: Ints, never: float) -> Floats:
    """One threshold per cut: nobody, half-way between neighbours, and the least sure sample itself."""
    if not len(sorted_sure):
        return np.asarray([never])
    above, below = sorted_sure[gaps - 1], sorted_sure[gaps]
    middle = below + (above - below) / 2
    return np.concatenate(([never], np.where(middle > below, middle, above), sorted_sure[-1:]))


def sweep(problem: Problem, setting: Setting, criterion: Criterion, memory: Memory) -> tuple[Setting, float]:
    """One exact step per early exit, from the last to the first; an equal score is no reason to move.

    Returns:
        the improved setting and its score under the criterion.
    """
    before = forward(problem, setting)
    onward = np.full(problem.samples, problem.branches[-1])
    onward_right = problem.right[-1]
    score = float(criterion(*_totals(problem, before))[0])
    for j in range(problem.early - 1, -1, -1):
        onward = onward + problem.stages[j + 1]
        line = coordinate(problem, j, before, onward, onward_right)
        memory.note(setting, j, line)
        scores = criterion(line.costs, line.rights)
        best = int(np.argmin(scores))
        if scores[best] < score - 1e-12 * (1 + abs(score)) or not np.isfinite(score):
            score = float(scores[best])
            setting = setting.replace(j, bool(line.kept[best]), float(line.thresholds[best]))
        if setting.kept[j]:
            leaves = problem.sure[j] >= setting.thresholds[j]
            onward = np.where(leaves, problem.branches[j], problem.passing[j] + onward)
            onward_right = np.where(leaves, problem.right[j], onward_right)
    return setting, score


def _totals(problem: Problem, before: Forward) -> tuple[Floats, Ints]:
    last = before.inside[-1]
    costs = before.paid[-1:] + problem.branches[-1] * last.sum()
    return costs, np.asarray([before.rights[-1] + int(problem.right[-1][last].sum())])


def descend(problem: Problem, setting: Setting, criterion: Criterion, memory: Memory, limit: int = 20) -> Setting:
    """Sweep until nothing improves (or `limit` sweeps)."""
    best = np.inf
    for _ in range(limit):
        setting, score = sweep(problem, setting, criterion, memory)
        if not best - score > 1e-12 * abs(score):
            break
        best = score
    return setting


def note_whole(problem: Problem, setting: Setting, memory: Memory) -> None:
    """Remember a setting as it is (the only point there is when no early exit exists)."""
    costs, rights = _totals(problem, forward(problem, setting))
    memory.note(setting, -1, Line(costs, rights, np.ones(1, dtype=bool), np.zeros(1)))


def enumerate_all(problem: Problem, memory: Memory) -> bool:
    """Look at every setting when that takes few steps; True when it did, so that the memory is the exact curve."""
    choices = [_choices(problem, j) for j in range(1, problem.early)]
    if np.prod([float(len(c)) for c in choices]) > ENUMERATION_STEPS:
        return False
    empty = problem.empty()
    for chosen in product(*choices):
        kept, cuts = empty.kept.copy(), empty.thresholds.copy()
        for j, (keep, cut) in enumerate(chosen, start=1):
            kept[j], cuts[j] = keep, cut
        _first_exit_line(problem, Setting(kept, cuts), memory)
    return True


def _choices(problem: Problem, j: int) -> list[tuple[bool, float]]:
    ranked = problem.sure[j][problem.order[j]]
    cuts = _thresholds(ranked, np.flatnonzero(ranked[:-1] > ranked[1:]) + 1, float(problem.never[j]))
    return [(k > 0 or not problem.select, float(cut)) for k, cut in enumerate(cuts)]


def _first_exit_line(problem: Problem, setting: Setting, memory: Memory) -> None:
    """Note everything that exit 0 can do with the later exits held (backward pass only)."""
    onward, onward_right = np.full(problem.samples, problem.branches[-1]), problem.right[-1]
    for j in range(problem.early - 1, 0, -1):
        onward = onward + problem.stages[j + 1]
        if setting.kept[j]:
            leaves = problem.sure[j] >= setting.thresholds[j]
            onward = np.where(leaves, problem.branches[j], problem.passing[j] + onward)
            onward_right = np.where(leaves, problem.right[j], onward_right)
    inside = np.ones((1, problem.samples), dtype=bool)
    before = Forward(inside, np.asarray([problem.stages[0] * problem.samples]), np.zeros(1, dtype=np.int64))
    memory.note(setting, 0, coordinate(problem, 0, before, onward + problem.stages[1], onward_right))
