"""Exit policies: from the logits of one exit to a confidence, and from a confidence and a threshold to "leave
here".

The solver tunes with these functions and the runtime decides with the very same ones, so they are plain NumPy:
no torch, no network, no prices. A larger confidence is always a surer one; a sample leaves when `confidence >=
threshold`. Every function takes one sample (shape [C]) or a batch ([N, C], any leading axes) and gives the same
bits either way.

max_softmax: Hendrycks & Gimpel, ICLR 2017. margin: difference of the two largest probabilities. entropy:
BranchyNet (Teerapittayanon et al., ICPR 2016), turned into 1 - H / log C. patience: PABEE (Zhou et al., NeurIPS
2020), the number of exits in a row, this one included, that agree; it needs what the exit before predicted,
which a `History` carries.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offramp.errors import UserError, choose

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PATIENCE = "patience"


def _scaled(logits: ArrayLike, temperature: float) -> Floats:
    """Logits divided by the temperature, shifted so that the largest is 0 (softmax does not see the shift)."""
    if not temperature > 0:
        raise UserError(f"temperature {temperature}", wanted="a number above 0", where="exit policy", write="1.0")
    values = np.asarray(logits, dtype=np.float64, order="C")
    if values.ndim == 0 or values.shape[-1] < 1:
        raise UserError(f"logits of shape {values.shape}", wanted="[..., classes]", where="exit policy")
    shifted: Floats = (values - values.max(axis=-1, keepdims=True)) / temperature
    return shifted


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Class probabilities, shape of `logits`."""
    powers = np.exp(_scaled(logits, temperature))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def max_softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Largest class probability, in [1 / C, 1]; shape of `logits` without its last axis."""
    return np.asarray(1.0 / np.exp(_scaled(logits, temperature)).sum(axis=-1))


def margin(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Largest minus second largest class probability, in [0, 1]; 1 when there is one class."""
    probabilities = softmax(logits, temperature)
    if probabilities.shape[-1] == 1:
        return np.ones(probabilities.shape[:-1])
    best = np.partition(probabilities, -2, axis=-1)
    return np.asarray(best[..., -1] - best[..., -2])


def entropy(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """1 - H(p) / log C, in [0, 1]: 1 for a certain answer, 0 for a uniform one."""
    shifted = _scaled(logits, temperature)
    classes = shifted.shape[-1]
    if classes == 1:
        return np.ones(shifted.shape[:-1])
    powers = np.exp(shifted)
    total = powers.sum(axis=-1)
    information = np.log(total) - (powers * np.maximum(shifted, -1e300)).sum(axis=-1) / total
    return np.asarray(np.clip(1.0 - information / np.log(classes), 0.0, 1.0))


SCORES: dict[str, Callable[[ArrayLike, float], Floats]] = {
    "max_softmax": max_softmax,
    "margin": margin,
    "entropy": entropy,
}
"""Policies whose confidence comes from one exit's logits alone."""

POLICIES: tuple[str, ...] = (*SCORES, PATIENCE)
"""Every policy by name."""


def check_policy(name: str, where: str = "exit policy") -> str:
    """The name itself when it is known.

    Raises:
        UserError: the policy is unknown; the message lists what is known.
    """
    if name not in POLICIES:
        raise choose("exit policy", name, POLICIES, where=where)
    return name


def confidence(policy: str, logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Confidence of one exit; shape of `logits` without its last axis.

    Raises:
        UserError: the policy is unknown, or it is `patience`, which needs the exits before (`decide`, `confidences`).
    """
    if check_policy(policy) == PATIENCE:
        wanted = "the history of the exits before: decide(...) or confidences(...)"
        raise UserError("patience from the logits of one exit", wanted=wanted, where="exit policy")
    return SCORES[policy](logits, temperature)


@dataclass(frozen=True, slots=True)
class History:
    """What the exits so far predicted for the samples still in the network: the last class and its run length."""

    prediction: Ints
    streak: Ints

    def of(self, samples: Bools | Ints) -> "History":
        """The history of some of the samples (a mask or indices)."""
        return History(self.prediction[samples], self.streak[samples])


@dataclass(frozen=True, slots=True)
class Decision:
    """One exit's answer for the samples that reached it.

    Attributes:
        leave: True where the sample stops here.
        prediction: class index.
        confidence: what was compared with the threshold.
        history: of all these samples; give `history.of(~leave)` to the next exit.
    """

    leave: Bools
    prediction: Ints
    confidence: Floats
    history: History


def decide(
    policy: str,
    logits: ArrayLike,
    threshold: float,
    *,
    temperature: float = 1.0,
    history: History | None = None,
) -> Decision:
    """Which of the samples leave at this exit.

    Args:
        policy: one of `POLICIES`.
        logits: [N, C] or [C], of the samples that reached this exit.
        threshold: leave when the confidence is at least this; -inf lets everyone leave (the final exit).
        temperature: divides the logits.
        history: of the same samples at the exit before; None at the first exit.
    """
    values = np.asarray(logits)
    prediction = values.argmax(axis=-1).astype(np.int64)
    streak = np.ones_like(prediction)
    if history is not None:
        streak = np.where(prediction == history.prediction, history.streak + 1, streak)
    patient = check_policy(policy) == PATIENCE
    sure = streak.astype(np.float64) if patient else confidence(policy, values, temperature)
    return Decision(np.asarray(sure >= threshold), prediction, sure, History(prediction, np.asarray(streak)))


def confidences(policy: str, logits: Sequence[ArrayLike], temperatures: Sequence[float] = ()) -> Floats:
    """Confidences of every exit for every sample, [E, N], from logits [E, N, C] with nobody leaving.

    For `patience` they depend on which exits are listed: leave one out and the runs change.
    """
    scales = list(temperatures) or [1.0] * len(logits)
    rows, history = [], None
    for values, temperature in zip(logits, scales, strict=True):
        decision = decide(policy, values, np.inf, temperature=temperature, history=history)
        history = decision.history
        rows.append(decision.confidence)
    return np.stack(rows)


def walk(
    policy: str, logits: Sequence[ArrayLike], thresholds: Sequence[float], temperatures: Sequence[float] = ()
) -> tuple[Ints, Ints]:
    """Where each sample leaves and what it is taken for.

    Args:
        policy: one of `POLICIES`.
        logits: [E, N, C], the final exit last.
        thresholds: E - 1 numbers, one per early exit.
        temperatures: E numbers, or none.

    Returns:
        exit index [N] and class index [N].
    """
    sure = confidences(policy, logits, temperatures)
    taken = first_exit(sure, thresholds)
    answers = np.stack([np.asarray(values).argmax(axis=-1) for values in logits])
    return taken, np.asarray(np.take_along_axis(answers, taken[None, :], axis=0)[0].astype(np.int64))


def first_exit(sure: Floats, thresholds: Sequence[float]) -> Ints:
    """Index of the first exit whose threshold is met, [N]; the final exit takes the rest.

    Args:
        sure: confidences [E, N]; the final row is not read.
        thresholds: E - 1 numbers.
    """
    if len(thresholds) != len(sure) - 1:
        given = f"{len(thresholds)} thresholds for {len(sure)} exits"
        raise UserError(given, wanted="one per early exit", where="exit policy")
    passes = np.ones(sure.shape, dtype=bool)
    passes[:-1] = sure[:-1] >= np.asarray(thresholds, dtype=np.float64)[:, None]
    return np.asarray(passes.argmax(axis=0).astype(np.int64))
