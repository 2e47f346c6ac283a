"""Cross-validated thresholds: what they cost on fresh samples. Arrays are drawn to test the mathematics."""

import numpy as np
import pytest

from offramp.errors import UserError
from offramp.exits.fresh import LEAST_LOST, solve_fresh
from offramp.exits.policy import PATIENCE
from offramp.exits.solve import apply, solve

COSTS = (0.3, 0.6, 1.0)


def draw(seed: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Exits that are right more often the deeper they are, and know a little of how sure they may be."""
    rng = np.random.default_rng(seed)
    difficulty = rng.uniform(size=samples)
    skill = np.asarray([0.75, 0.85, 0.9])[:, None]
    right = difficulty < skill + rng.normal(0, 0.08, (3, samples))
    sure = np.clip(0.5 + 0.5 * (skill - difficulty) + rng.normal(0, 0.2, (3, samples)), 0, 1)
    return sure, right


def lost_on_fresh(seed: int, thresholds: tuple[float, ...], exits: tuple[int, ...]) -> tuple[float, float]:
    """Accuracy lost to the deepest exit and expected cost on many samples of the same source."""
    sure, right = draw(10_000 + seed, 20_000)
    found = apply(sure, right, exits, thresholds, [COSTS[i] for i in exits])
    return float(right[-1].mean() - found.accuracy), found.expected_cost


@pytest.mark.parametrize("drop", [0.005, 0.01])
def test_fresh_data_lose_what_is_allowed_where_plain_thresholds_lose_more(drop: float) -> None:
    plain, crossed = [], []
    for seed in range(30):
        sure, right = draw(seed, 1500)
        steps = np.diff(COSTS, prepend=0.0)
        one = solve(sure, right, steps, [0.0] * 3, accuracy_floor=right.mean(axis=1).max() - drop, select=False)
        two, _ = solve_fresh(sure, right, COSTS, drop=drop, seed=seed)
        plain.append(lost_on_fresh(seed, one.thresholds, one.exits))
        crossed.append(lost_on_fresh(seed, two.thresholds, two.exits))
    assert np.mean(plain, axis=0)[0] > 1.25 * drop
    assert np.mean(crossed, axis=0)[0] < 1.15 * drop
    assert np.mean(crossed, axis=0)[1] < 0.9


def test_the_expected_drop_is_that_of_fresh_data() -> None:
    told, seen = [], []
    for seed in range(30):
        found, expected = solve_fresh(*draw(seed, 1500), COSTS, drop=0.01, seed=seed)
        told.append(expected)
        seen.append(lost_on_fresh(seed, found.thresholds, found.exits)[0])
    assert np.mean(told) == pytest.approx(np.mean(seen), abs=0.0025)


def test_a_drop_of_hardly_an_answer_is_that_of_the_samples_given() -> None:
    sure, right = draw(3, 200)
    drop = (LEAST_LOST - 0.5) / 200
    found, expected = solve_fresh(sure, right, COSTS, drop=drop)
    assert found.accuracy >= right.mean(axis=1).max() - drop - 1e-9
    plain = solve(
        sure, right, np.diff(COSTS, prepend=0.0), [0.0] * 3, accuracy_floor=right.mean(axis=1).max() - drop,
        select=False,
    )  # fmt: skip
    assert found.expected_cost == pytest.approx(plain.expected_cost, rel=0.02)
    assert expected > drop


def test_confidences_that_say_nothing_leave_the_most_accurate_exit_alone() -> None:
    rng = np.random.default_rng(0)
    right = rng.uniform(size=(3, 2000)) < np.asarray([0.5, 0.9, 0.6])[:, None]
    found, expected = solve_fresh(rng.uniform(size=(3, 2000)), right, COSTS, drop=0.002)
    assert dict(zip(found.exits, found.exit_rates, strict=True))[1] > 0.97
    assert expected <= 0.002
    deepest = rng.uniform(size=(3, 2000)) < np.asarray([0.5, 0.6, 0.9])[:, None]
    found, _ = solve_fresh(rng.uniform(size=(3, 2000)), deepest, COSTS, drop=0.002)
    assert found.exit_rates[-1] > 0.97


def test_same_seed_same_thresholds_and_idle_exits_are_left_out() -> None:
    sure, right = draw(5, 900)
    sure[0], right[0] = sure[0] * 0.1, False
    first, second = (solve_fresh(sure, right, COSTS, drop=0.01, seed=4) for _ in range(2))
    assert first == second
    assert first[0].exits == (1, 2)
    assert sum(first[0].exit_rates) == pytest.approx(1)


def test_patience_keeps_its_exits_and_one_exit_stays_alone() -> None:
    streaks = np.tile(np.asarray([[1.0], [1.0], [1.0]]), (1, 1000))
    right = draw(1, 1000)[1]
    assert solve_fresh(streaks, right, COSTS, drop=0.005, policy=PATIENCE)[0].exits == (0, 1, 2)
    found, expected = solve_fresh(streaks[-1:], right[-1:], COSTS[-1:], drop=0.005)
    assert (found.exits, found.exit_rates, expected) == ((0,), (1.0,), 0.0)


def test_one_sample_has_no_folds() -> None:
    found, expected = solve_fresh([[0.9], [0.9]], [[True], [True]], [1.0, 2.0], drop=0.5)
    assert (found.accuracy, expected) == (1.0, 0.0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"both \[exits, samples\]"):
        solve_fresh([[0.5, 0.5]], [[True]], [1.0], drop=0.01)
