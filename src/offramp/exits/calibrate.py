"""One temperature per exit, so that confidences of different exits mean the same (Guo et al., ICML 2017).

The negative log-likelihood of softmax(beta * logits) is convex in beta = 1 / T; its derivative is monotone, so the
optimum is one bracketed root. It knows logits and labels only.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from offramp.errors import DataError
from offramp.exits.policy import softmax

LOWEST, HIGHEST = 0.05, 20.0
"""Range of temperatures; separable data would otherwise drive them to 0."""


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature with the least negative log-likelihood, in [0.05, 20].

    Args:
        logits: [N, C] of one exit, on data that was not trained on.
        labels: [N] class indices.

    Raises:
        DataError: shapes that do not fit, logits that are not finite, or labels out of range.
    """
    scores, answers = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or answers.shape != scores.shape[:1] or not len(answers):
        given = f"logits {scores.shape}, labels {answers.shape}"
        raise DataError(given, wanted="[N, classes] and [N], N above 0", where="temperature")
    if not np.isfinite(scores).all() or answers.min() < 0 or answers.max() >= scores.shape[1]:
        raise DataError("a logit that is not finite, or a label out of range", where="temperature")
    centred = scores - scores.max(axis=1, keepdims=True)
    right = centred[np.arange(len(answers)), answers]

    def slope(beta: float) -> float:
        expected = (softmax(centred, 1.0 / beta) * centred).sum(axis=1)
        return float((expected - right).mean())

    coldest, hottest = 1.0 / LOWEST, 1.0 / HIGHEST
    if slope(hottest) >= 0:
        return HIGHEST
    if slope(coldest) <= 0:
        return LOWEST
    return 1.0 / float(brentq(slope, hottest, coldest, xtol=1e-9))


def fit_temperatures(logits: Sequence[ArrayLike], labels: ArrayLike) -> tuple[float, ...]:
    """`fit_temperature` of every exit; logits [E, N, C]."""
    return tuple(fit_temperature(row, labels) for row in logits)


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood in nats."""
    answers = np.asarray(labels)
    chosen: NDArray[np.float64] = softmax(logits, temperature)[np.arange(len(answers)), answers]
    return float(-np.log(np.maximum(chosen, 1e-300)).mean())
