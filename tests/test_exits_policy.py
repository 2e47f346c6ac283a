"""Laws of the exit policies: ranges, order, one sample like a batch, step by step like all at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offramp.errors import UserError
from offramp.exits.policy import (
    POLICIES,
    SCORES,
    confidence,
    confidences,
    decide,
    first_exit,
    margin,
    max_softmax,
    softmax,
    walk,
)

finite = st.floats(-60, 60, width=32)
some_logits = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 6)), elements=finite)


@given(some_logits, st.floats(0.1, 10))
def test_confidences_lie_between_0_and_1_and_order_free_of_shift(logits: np.ndarray, temperature: float) -> None:
    for score in SCORES.values():
        values = score(logits, temperature)
        assert values.shape == logits.shape[:-1]
        assert np.all((values >= 0) & (values <= 1))
        assert np.allclose(values, score(logits.astype(np.float64) + 5.0, temperature), atol=1e-9)


@given(some_logits)
def test_one_sample_gives_the_same_bits_as_a_batch(logits: np.ndarray) -> None:
    for name in SCORES:
        batch = confidence(name, logits)
        single = [[confidence(name, sample) for sample in row] for row in logits]
        assert np.array_equal(batch, np.asarray(single))


def test_known_values() -> None:
    logits = np.log([0.7, 0.2, 0.1])
    assert softmax(logits) == pytest.approx([0.7, 0.2, 0.1])
    assert max_softmax(logits) == pytest.approx(0.7)
    assert margin(logits) == pytest.approx(0.5)
    entropy = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))
    assert confidence("entropy", logits) == pytest.approx(1 - entropy / np.log(3))
    assert confidence("entropy", np.zeros(5)) == pytest.approx(0.0)
    assert confidence("entropy", [0.0, -np.inf]) == 1.0


def test_patience_counts_agreeing_exits_in_a_row() -> None:
    answers = np.asarray([[0, 1], [0, 0], [1, 0], [1, 0]])
    logits = np.eye(2)[answers]
    assert confidences("patience", logits).T.tolist() == [[1, 2, 1, 2], [1, 1, 2, 3]]
    taken, predicted = walk("patience", logits, [2, 2, 2])
    assert taken.tolist() == [1, 2] and predicted.tolist() == [0, 0]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(POLICIES), st.integers(1, 5), st.integers(1, 9))
def test_step_by_step_equals_all_at_once(seed: int, policy: str, exits: int, samples: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(exits, samples, 3)) * 3
    temperatures = rng.uniform(0.5, 2, exits).tolist()
    limits = rng.uniform(0, 1, exits - 1) if policy != "patience" else rng.integers(1, 4, exits - 1)
    taken, predicted = walk(policy, logits, limits.tolist(), temperatures)
    inside, history = np.arange(samples), None
    for e, limit in enumerate([*limits, -np.inf]):
        step = decide(policy, logits[e, inside], limit, temperature=temperatures[e], history=history)
        assert np.array_equal(taken[inside[step.leave]], np.full(step.leave.sum(), e))
        assert np.array_equal(predicted[inside[step.leave]], step.prediction[step.leave])
        inside, history = inside[~step.leave], step.history.of(~step.leave)
    assert len(inside) == 0


def test_a_confidence_that_is_not_a_number_never_leaves_early() -> None:
    assert not decide("max_softmax", [np.nan, 0.0], 0.0).leave


def test_faults_are_named() -> None:
    with pytest.raises(UserError, match=r"unknown exit policy 'softmx'.*max_softmax"):
        confidence("softmx", [0.0, 1.0])
    with pytest.raises(UserError, match="patience from the logits of one exit"):
        confidence("patience", [0.0, 1.0])
    with pytest.raises(UserError, match="temperature 0"):
        confidence("margin", [0.0, 1.0], 0.0)
    with pytest.raises(UserError, match="2 thresholds for 2 exits"):
        first_exit(np.zeros((2, 3)), [0.1, 0.2])
    with pytest.raises(UserError, match=r"logits of shape \(\)"):
        max_softmax(3.0)
