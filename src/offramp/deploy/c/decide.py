"""Exit decisions on integers, the law for the C: exponentials and logarithms in a few multiplications, no
tables, no floating point.

Scores are logits in units of temperature * ln 2 / 2^F (`deploy.plan`), so that softmax is a power of two. 2^-x is a
polynomial with a relative error below 1e-6, log2 comes bit by bit from squares. `max_softmax` and `margin` compare what
is missing to certainty, the powers of the other classes, so that confidences near 1 are told apart as sharply as all
others: a decision can differ from `offramp.exits.policy` only when the missing part is within a share of 1e-5 of the
threshold's; with `entropy` when the confidence is within 1e-5 of its threshold.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.deploy.plan import Plan
from offramp.errors import UserError

Ints = NDArray[np.int64]
FRACTION = 20
"""Fractional bits of differences of scores."""
POWER = 44
"""Fractional bits of powers and of thresholds: 1024 classes leave 9 bits and the sign."""
ENTROPY_POWER = 24
"""Fractional bits of powers that are multiplied with logarithms."""
COEFFICIENTS = (1 << 30, 744257103, 257888335, 59364954, 9871761, 1008952)
"""Of 2^-x on [0, 1] by powers of -x, with 30 fractional bits: exact at both ends, within 1e-7 between (minimax)."""
MOST_CLASSES = 1024
"""More would leave 64 bits."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One exit's decision: fractional bits of its scores and its threshold as an integer of the policy's own unit."""

    policy: str
    score_shift: int
    threshold: int


def make_rules(plan: Plan, policy: str, thresholds: tuple[float, ...]) -> tuple[Rule, ...]:
    """One rule per early exit.

    Raises:
        UserError: too many classes for 64-bit arithmetic.
    """
    classes = plan.network.classes
    if classes > MOST_CLASSES:
        raise UserError(f"{classes} classes", wanted=f"at most {MOST_CLASSES} for C", where=plan.network.name)
    rules = []
    for stage, threshold, temperature in zip(plan.stages, thresholds, plan.temperatures, strict=False):
        bits = round(math.log2(temperature * math.log(2) / stage.score_unit))
        rules.append(Rule(policy, FRACTION - bits, _integer_threshold(policy, threshold, classes)))
    return tuple(rules)


def _integer_threshold(policy: str, threshold: float, classes: int) -> int:
    if policy == "patience":
        return int(max(0, min(2**30, math.ceil(threshold))))
    if policy == "entropy":
        missing = (1 - max(-1.0, min(2.0, threshold))) * math.log2(classes)
        whole: int = round(missing * 2**FRACTION)
        return whole
    if policy == "margin":
        missing, most = 1 - threshold, (1 << POWER) + (1 << 24)  # all that 64 bits take, beyond what rounding loses
    else:
        missing, most = 1 / max(threshold, 1 / (2 * classes)) - 1, classes << (POWER + 1)
    return -1 if missing < 0 else min(math.floor(missing * 2**POWER), most)


def power_of_two(d: Ints) -> Ints:
    """2^-(d / 2^20) in units of 2^-44, for d >= 0."""
    whole, part = d >> FRACTION, d & (2**FRACTION - 1)
    value = np.full(d.shape, COEFFICIENTS[-1], dtype=np.int64)
    for coefficient in COEFFICIENTS[-2::-1]:
        value = coefficient - ((value * part) >> FRACTION)
    return np.asarray(np.where(whole > POWER, 0, (value << (POWER - 30)) >> np.minimum(whole, POWER)))


def log2_of(total: Ints) -> Ints:
    """log2 of positive integers in units of 2^-20, rounded down: a square has twice the logarithm, bit by bit."""
    top = np.array([int(t).bit_length() - 1 for t in total.ravel()], dtype=np.int64).reshape(total.shape)
    m, logarithm = np.where(top > 30, total >> np.maximum(top - 30, 0), total << np.maximum(30 - top, 0)), top
    for _ in range(FRACTION):
        m = (m * m) >> 30
        bit = m >> 31
        m, logarithm = m >> bit, 2 * logarithm + bit
    return np.asarray(logarithm)


def is_sure(rule: Rule, scores: Ints) -> NDArray[np.bool_]:
    """Whether samples with scores [N, classes] leave; for every policy but patience."""
    top = scores.max(axis=1, keepdims=True)
    d = (top - scores) << rule.score_shift
    powers = power_of_two(d)
    if rule.policy == "entropy":
        powers >>= POWER - ENTROPY_POWER
        total = powers.sum(axis=1)
        spread = (powers * np.minimum(d, (ENTROPY_POWER + 1) << FRACTION)).sum(axis=1)
        return np.asarray((log2_of(total) - (ENTROPY_POWER << FRACTION)) * total + spread <= rule.threshold * total)
    others = powers.sum(axis=1) - (1 << POWER)
    if rule.policy == "max_softmax":
        return np.asarray(others <= rule.threshold)
    second = np.sort(powers, axis=1)[:, -2] if scores.shape[1] > 1 else 0
    allowed = rule.threshold + ((rule.threshold >> 14) * (others >> 22) >> 8)
    return np.asarray((rule.threshold >= 0) & (second + others <= allowed))


def walk(rules: tuple[Rule, ...], scores: Ints) -> tuple[Ints, Ints]:
    """Exit and class of every sample from all exits' scores [E, N, classes], as the C does it."""
    predictions = scores.argmax(axis=2)
    exits = np.full(scores.shape[1], len(rules), dtype=np.int64)
    streak = np.ones(scores.shape[1], dtype=np.int64)
    for index, rule in enumerate(rules):
        if index:
            streak = np.where(predictions[index] == predictions[index - 1], streak + 1, 1)
        sure = streak >= rule.threshold if rule.policy == "patience" else is_sure(rule, scores[index])
        exits = np.where((exits == len(rules)) & sure, index, exits)
    return exits, np.take_along_axis(predictions, exits[None], axis=0)[0]
