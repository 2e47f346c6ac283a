"""Thresholds with a promise: `accuracy drop <= 1 % with probability 0.95`, by Learn-then-Test.

Angelopoulos et al., "Learn then Test" (arXiv 2110.01052); for early exits Jazbec et al., "Fast yet safe"
(NeurIPS 2024). One part of the data draws the curve of accuracy against cost, the other tests its settings from
the safest to the cheapest and stops at the first that fails (fixed-sequence testing: no price for many tests).
The probability is over the draw of the data: of many calibrations, at least this share gives thresholds that
keep the promise on fresh data from the same source. Data of another kind (drift) void it.

The drop is against the final exit alone, sample by sample: right there and wrong here counts +1, the reverse
-1. The test of its mean is by betting (Waudby-Smith & Ramdas, JRSS B 2024): a gambler's fortune that cannot be
expected to grow while the drop is above the limit, so that a fortune of 1 / (1 - probability) disproves it.
`accuracy >=` is tested by the exact binomial tail. It knows arrays only.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from offramp.errors import InfeasibleError, UserError
from offramp.exits.policy import PATIENCE, first_exit
from offramp.exits.solve import Solution, apply_some, explore_kept

STAKES = 40
"""Number of stakes that the gambler spreads his fortune over."""

SETTINGS = 60
"""Settings of the curve that are tested."""

EXAMPLE = '--guarantee "accuracy drop <= 1 % with probability 0.95"'

_FORM = re.compile(
    r"^\s*accuracy\s*(drop)?\s*(<=|>=|<|>|=)\s*([0-9.eE+-]+)\s*(%?)\s*with\s+probability\s*(?:>=)?\s*([0-9.eE+-]+)\s*(%?)\s*$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Guarantee:
    """`accuracy drop <= limit`, or `accuracy >= limit` when not `drop`, with at least this probability; fractions."""

    limit: float
    probability: float
    drop: bool = True

    @property
    def samples_needed(self) -> int:
        """Test samples below which not even a network without a single new error could be certified."""
        slack = self.limit if self.drop else 1 - self.limit
        return int(np.ceil(np.log(1 - self.probability) / np.log1p(-slack))) if 0 < slack < 1 else 1

    def __str__(self) -> str:
        what = "accuracy drop <=" if self.drop else "accuracy >="
        return f"{what} {100 * self.limit:g} % with probability {self.probability:g}"


def parse_guarantee(text: str) -> Guarantee:
    """Read `accuracy drop <= 1 % with probability 0.95` or `accuracy >= 87 % with probability 0.9`.

    Raises:
        UserError: the form or a number cannot be used.
    """
    where = f"--guarantee {text!r}"
    found = _FORM.match(text)
    if not found:
        wanted = "accuracy drop <= NUMBER % with probability NUMBER"
        raise UserError("not a guarantee", wanted=wanted, where=where, write=EXAMPLE)
    drop, sign, limit, percent, probability, percent2 = found.groups()
    wanted_sign = "<=" if drop else ">="
    if sign != wanted_sign:
        given = f"accuracy {'drop ' if drop else ''}with {sign}"
        raise UserError(given, wanted=wanted_sign, where=where, write=EXAMPLE)
    slack = _fraction("limit", limit, percent, where)
    sure = _fraction("probability", probability, percent2, where)
    return Guarantee(limit=slack, probability=sure, drop=bool(drop))


def _fraction(what: str, number: str, percent: str, where: str) -> float:
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError as error:
        raise UserError(f"the {what} {number!r}", wanted="a decimal number", where=where, write=EXAMPLE) from error
    if not 0 < value < 1:
        wanted = "more than 0 and less than 1 (0.01, or 1 %)"
        raise UserError(f"the {what} {number}{percent}", wanted=wanted, where=where, write=EXAMPLE)
    return value


def drop_p_value(losses: NDArray[np.int64], limit: float) -> float:
    """p-value of "the mean of these losses is above `limit`", for independent losses in {-1, 0, 1}.

    The order of the losses must not depend on their values.
    """
    stakes = np.linspace(0, 1 / (1 - limit), STAKES + 2)[1:-1, None]
    fortunes = np.cumsum(np.log1p(stakes * (limit - losses[None, :])), axis=1)
    top = fortunes.max(axis=0)
    mixed = top + np.log(np.exp(fortunes - top).mean(axis=0))
    return float(min(1.0, np.exp(-mixed.max(initial=0.0))))


def accuracy_p_value(errors: int, samples: int, floor: float) -> float:
    """p-value of "the accuracy is below `floor`": the exact binomial tail at the floor."""
    return float(binom.cdf(errors, samples, 1 - floor))


def learning_and_testing(
    samples: int, *, seed: int = 0, learn_share: float = 0.4
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sample indices of the two parts that `guaranteed` uses.

    Whatever else is fitted to the data (which exits are kept, temperatures) may see the first part only: the promise
    is void when the second part has been looked at before it is tested.
    """
    shuffled = np.random.default_rng(seed).permutation(samples)
    cut = max(1, round(learn_share * samples))
    return shuffled[:cut], shuffled[cut:]


def guaranteed(
    confidences: ArrayLike,
    correct: ArrayLike,
    costs: ArrayLike,
    guarantee: Guarantee,
    *,
    policy: str = "max_softmax",
    seed: int = 0,
    learn_share: float = 0.4,
) -> Solution:
    """The cheapest thresholds of all exits given that the data certify.

    Args:
        confidences: [E, N], the final exit last, on data that was not trained on.
        correct: [E, N].
        costs: [E], price of leaving at each exit (branches on the way included).
        guarantee: the promise.
        policy: whose confidences these are.
        seed: of the split into learning and testing part.
        learn_share: share of the samples that draws the curve.

    Returns:
        figures over all samples given, with the exits that somebody may leave at (for `patience`, which counts exits
        that agree, all of them). When nothing else is certified that is the final exit alone: it keeps every promise
        about a drop.

    Raises:
        InfeasibleError: `accuracy >=`, and not even the most accurate setting is certified.
    """
    sure, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct).astype(np.int64)
    prices = np.asarray(costs, dtype=np.float64)
    learn, test = learning_and_testing(sure.shape[1], seed=seed, learn_share=learn_share)
    settings = explore_kept(sure[:, learn], right[:, learn], prices, policy=policy).curve(SETTINGS)
    never = tuple((np.maximum(sure[:-1].max(axis=1, initial=0.0), 1.0) + 1.0).tolist())
    sequence = [s.thresholds for s in reversed(settings)]
    p_value = _tester(guarantee, sure[:, test], right[:, test])
    chosen = _last_certified(sequence if not guarantee.drop else [never, *sequence], p_value, guarantee)
    if chosen is None:
        most = max(s.accuracy for s in settings)
        raise InfeasibleError(
            f"{guarantee}: not certified by {len(test)} samples",
            wanted=f"a lower floor (the best setting is right on {100 * most:.2f} % of the learning part) or more data",
            where="--guarantee",
        )
    early = [i for i, (t, closed) in enumerate(zip(chosen, never, strict=True)) if t < closed or policy == PATIENCE]
    return apply_some(sure, right, early, chosen, prices)


Thresholds = tuple[float, ...]


def _tester(guarantee: Guarantee, sure: NDArray[np.float64], right: NDArray[np.int64]) -> Callable[[Thresholds], float]:
    """From thresholds to the p-value of "the promise is broken"."""

    def p_value(thresholds: Thresholds) -> float:
        taken = first_exit(sure, thresholds)
        if not (taken < len(sure) - 1).any() and guarantee.drop:
            return 0.0
        answers = np.take_along_axis(right, taken[None, :], axis=0)[0]
        if guarantee.drop:
            return drop_p_value(right[-1] - answers, guarantee.limit)
        return accuracy_p_value(int(len(answers) - answers.sum()), len(answers), guarantee.limit)

    return p_value


def _last_certified(
    sequence: list[Thresholds], p_value: Callable[[Thresholds], float], guarantee: Guarantee
) -> Thresholds | None:
    """Walk from the safest setting and stop at the first that is not certified."""
    chosen = None
    for thresholds in sequence:
        if p_value(thresholds) > 1 - guarantee.probability:
            break
        chosen = thresholds
    return chosen
