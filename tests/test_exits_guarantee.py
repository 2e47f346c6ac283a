"""Temperatures and promises: laws, and the promise held on fresh draws of real data (scikit-learn's digits)."""

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from offramp.errors import DataError, InfeasibleError, UserError
from offramp.exits.calibrate import HIGHEST, LOWEST, fit_temperature, fit_temperatures, negative_log_likelihood
from offramp.exits.guarantee import Guarantee, accuracy_p_value, drop_p_value, guaranteed, parse_guarantee
from offramp.exits.policy import confidences, first_exit


@lru_cache(maxsize=1)
def digit_exits() -> tuple[np.ndarray, np.ndarray]:
    """Logits [3, N, 10] and labels of three real classifiers that see 8, 16 and 64 numbers of each digit image."""
    x, y = load_digits(return_X_y=True)
    images = x.reshape(-1, 8, 8)
    views = [
        images.reshape(-1, 2, 4, 4, 2).mean(axis=(2, 4)).reshape(len(x), -1),
        images.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(len(x), -1),
        x,
    ]
    chosen = np.random.default_rng(0).permutation(len(x))
    train, pool = chosen[:500], chosen[500:]
    models = [LogisticRegression(max_iter=2000, C=0.05).fit(v[train], y[train]) for v in views]
    return np.stack([m.decision_function(v[pool]) for m, v in zip(models, views, strict=True)]), y[pool]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 5))
def test_the_fitted_temperature_is_the_best(seed: int, truth: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(200, 4)) * 2
    labels = np.asarray([rng.choice(4, p=np.exp(z / truth) / np.exp(z / truth).sum()) for z in logits])
    fitted = fit_temperature(logits, labels)
    best = negative_log_likelihood(logits, labels, fitted)
    for other in (fitted * 0.97, fitted * 1.03, 1.0, truth):
        assert best <= negative_log_likelihood(logits, labels, float(np.clip(other, LOWEST, HIGHEST))) + 1e-9


def test_temperatures_at_their_bounds_and_scaling() -> None:
    logits, labels = digit_exits()
    assert fit_temperature(np.eye(3), [0, 1, 2]) == LOWEST
    assert fit_temperature(np.eye(3), [1, 2, 0]) == HIGHEST
    plain = np.asarray(fit_temperatures(logits, labels))
    assert np.allclose(fit_temperatures(logits * 3, labels), np.clip(plain * 3, LOWEST, HIGHEST), rtol=1e-5)
    with pytest.raises(DataError, match=r"logits \(3, 3\), labels \(2,\)"):
        fit_temperature(np.eye(3), [0, 1])
    with pytest.raises(DataError, match="label out of range"):
        fit_temperature(np.eye(3), [0, 1, 3])


def test_guarantees_are_read() -> None:
    assert parse_guarantee("accuracy drop <= 1 % with probability 0.95") == Guarantee(0.01, 0.95)
    assert parse_guarantee("Accuracy drop<=0.5% with probability 90%") == Guarantee(0.005, 0.9)
    assert parse_guarantee("accuracy >= 0.87 with probability 0.9") == Guarantee(0.87, 0.9, drop=False)
    assert parse_guarantee(str(Guarantee(0.02, 0.9))) == Guarantee(0.02, 0.9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drop 1 %", r"not a guarantee; wanted accuracy drop <= NUMBER % .*write --guarantee"),
        ("accuracy drop >= 1 % with probability 0.95", "accuracy drop with >=; wanted <="),
        ("accuracy <= 90 % with probability 0.95", "accuracy with <=; wanted >="),
        ("accuracy drop <= 1 % with probability 95", r"the probability 95; wanted more than 0 and less than 1"),
        ("accuracy drop <= 1 with probability 0.9", r"the limit 1; wanted more than 0"),
        ("accuracy drop <= 1e % with probability 0.9", r"the limit '1e'; wanted a decimal"),
    ],
)
def test_faults_of_a_guarantee(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_guarantee(text)


@pytest.mark.parametrize(("harm", "gain"), [(0.02, 0.0), (0.05, 0.03), (0.3, 0.28)])
def test_a_broken_promise_is_certified_rarely(harm: float, gain: float) -> None:
    """The drop is exactly at its limit of 2 %: a test at 10 % may err in at most 10 % of the draws."""
    rng = np.random.default_rng(1)
    draws = rng.choice([1, -1, 0], p=[harm, gain, 1 - harm - gain], size=(1500, 400))
    wrong = np.mean([drop_p_value(d, 0.02) <= 0.1 for d in draws])
    assert wrong <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / len(draws))


def test_evidence_grows_with_the_data_and_the_binomial_tail_is_exact() -> None:
    calm = np.zeros(2000, dtype=np.int64)
    assert drop_p_value(calm[:100], 0.01) > drop_p_value(calm[:500], 0.01) > drop_p_value(calm, 0.01)
    assert drop_p_value(np.ones(50, dtype=np.int64), 0.1) == 1.0
    assert accuracy_p_value(0, 10, 0.9) == pytest.approx(0.9**10)
    needed = Guarantee(0.01, 0.95).samples_needed
    assert needed == 299 and accuracy_p_value(0, needed, 0.99) <= 0.05 < accuracy_p_value(0, needed - 1, 0.99)


@pytest.mark.parametrize("text", ["accuracy drop <= 2 % with probability 0.9", "accuracy >= 91 % with probability 0.9"])
def test_the_promise_holds_on_fresh_draws(text: str) -> None:
    """Calibration sets are drawn from a pool of real samples, so the true accuracy on the pool is known exactly."""
    promise = parse_guarantee(text)
    logits, labels = digit_exits()
    sure = confidences("max_softmax", list(logits))
    right = (logits.argmax(axis=2) == labels).astype(int)
    rng = np.random.default_rng(2)
    held, early = [], []
    for _ in range(100):
        drawn = rng.integers(len(labels), size=900)
        try:
            found = guaranteed(sure[:, drawn], right[:, drawn], [1.0, 2.0, 4.0], promise)
        except InfeasibleError:
            held.append(True)
            continue
        kept = np.asarray(found.exits)
        taken = kept[first_exit(sure[kept], found.thresholds)]
        accuracy = right[taken, np.arange(len(labels))].mean()
        floor = right[2].mean() - promise.limit if promise.drop else promise.limit
        held.append(accuracy >= floor - 1e-12)
        early.append(1 - found.exit_rates[-1])
    assert np.mean(held) >= promise.probability
    assert np.mean(early) > 0.2


def test_too_little_data_keeps_the_final_exit_or_says_so() -> None:
    rng = np.random.default_rng(3)
    sure, right = rng.uniform(size=(3, 40)), rng.integers(0, 2, size=(3, 40))
    found = guaranteed(sure, right, [1, 2, 3], Guarantee(0.01, 0.95))
    assert found.exits == (2,) and found.thresholds == () and found.costs == (3.0,)
    assert found.exit_rates == (1.0,) and found.accuracy == right[-1].mean()
    patient = guaranteed(sure, right, [1, 2, 3], Guarantee(0.01, 0.95), policy="patience")
    assert patient.exits == (0, 1, 2) and patient.exit_rates == (0.0, 0.0, 1.0)
    with pytest.raises(InfeasibleError, match=r"accuracy >= 99 % with probability 0\.95: not certified by 24 samples"):
        guaranteed(sure, right, [1, 2, 3], Guarantee(0.99, 0.95, drop=False))
