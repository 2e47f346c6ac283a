"""The solver against brute force, and the laws of the curve. Arrays here are drawn to test the mathematics, not
to claim results."""

import time
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from offramp.errors import InfeasibleError, UserError
from offramp.exits import coordinate
from offramp.exits.solve import Solution, apply, cumulated, curve, solve

Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def draw(seed: int, exits: int, samples: int, levels: int = 0) -> Case:
    """Confidences that say something about correctness; `levels` above 0 makes ties."""
    rng = np.random.default_rng(seed)
    skill, difficulty = np.sort(rng.uniform(0.4, 0.95, exits))[:, None], rng.uniform(size=samples)[None]
    right = (difficulty < skill + rng.normal(0, 0.1, (exits, samples))).astype(int)
    sure = np.clip(0.5 + 0.5 * (skill - difficulty) + rng.normal(0, 0.15, (exits, samples)), 0, 1)
    if levels:
        sure = np.round(sure * levels) / levels
    return sure, right, rng.uniform(0.5, 2, exits), rng.uniform(0.02, 0.4, exits)


def brute_force(case: Case, passing: np.ndarray | None = None, select: bool = True) -> list[tuple[float, float]]:
    """(cost, accuracy) of every subset of exits under every threshold, sample by sample."""
    sure, right, stages, branches = case
    passing = branches if passing is None else passing
    early = range(len(sure) - 1)
    sizes = range(len(sure)) if select else [len(sure) - 1]
    found = []
    for kept in (c for size in sizes for c in combinations(early, size)):
        for cuts in product(*([*np.unique(sure[j]), 9.0] for j in kept)):
            cost, correct = 0.0, 0
            for n in range(sure.shape[1]):
                for j in range(len(sure)):
                    cost += stages[j]
                    if j == len(sure) - 1 or (j in kept and sure[j, n] >= cuts[kept.index(j)]):
                        cost += branches[j]
                        correct += right[j, n]
                        break
                    cost += passing[j] if j in kept else 0.0
            found.append((cost / sure.shape[1], correct / sure.shape[1]))
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5), st.sampled_from([0, 3]), st.booleans())
def test_small_cases_equal_brute_force(seed: int, exits: int, samples: int, levels: int, select: bool) -> None:
    case = draw(seed, exits, samples, levels)
    passing = case[3] * np.random.default_rng(seed).uniform(0, 2, exits)
    everything = brute_force(case, passing, select)
    lam = 3.0
    best = min(cost - lam * accuracy for cost, accuracy in everything)
    found = solve(*case, lam=lam, pass_costs=passing, select=select)
    assert found.expected_cost - lam * found.accuracy == pytest.approx(best, abs=1e-9)
    for floor in sorted({accuracy for _, accuracy in everything}):
        best = min(cost for cost, accuracy in everything if accuracy >= floor)
        found = solve(*case, accuracy_floor=floor, pass_costs=passing, select=select)
        assert found.expected_cost == pytest.approx(best, abs=1e-9)
        assert found.accuracy >= floor - 1e-12


@pytest.mark.parametrize("unlucky", ["constant", "inverted", "never right", "always right", "alike", "free"])
def test_unlucky_cases_equal_brute_force(unlucky: str) -> None:
    sure, right, stages, branches = draw(11, 3, 6)
    case = {
        "constant": (np.full_like(sure, 0.7), right, stages, branches),
        "inverted": (1 - sure, right, stages, branches),
        "never right": (sure, np.zeros_like(right), stages, branches),
        "always right": (sure, np.ones_like(right), stages, branches),
        "alike": (np.repeat(sure[:1], 3, 0), np.repeat(right[:1], 3, 0), stages, branches),
        "free": (sure, right, np.zeros(3), np.zeros(3)),
    }[unlucky]
    everything = brute_force(case)
    for point in curve(*case):
        best = min(cost for cost, accuracy in everything if accuracy >= point.accuracy - 1e-12)
        assert point.expected_cost == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_descent_alone_equals_enumeration_on_most_small_cases(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = draw(seed, 4, 11)
    exact = curve(*case)
    monkeypatch.setattr(coordinate, "ENUMERATION_STEPS", 0)
    for point in exact[-4:]:
        assert solve(*case, accuracy_floor=point.accuracy).expected_cost <= point.expected_cost * 1.02


@example(4053, 6, 67, 0)
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(20, 200), st.sampled_from([0, 5]))
def test_no_single_exit_can_improve_a_solution(seed: int, exits: int, samples: int, levels: int) -> None:
    case = draw(seed, exits, samples, levels)
    sure, _, stages, branches = case
    lam = 4.0
    found = solve(*case, lam=lam)
    cuts = dict(zip(found.exits[:-1], found.thresholds, strict=True))
    best = found.expected_cost - lam * found.accuracy
    for j in range(exits - 1):
        rest = {k: v for k, v in cuts.items() if k != j}
        for option in [rest, *({**rest, j: cut} for cut in np.unique(sure[j]))]:
            kept = [*sorted(option), exits - 1]
            other = apply(*case[:2], kept, [option[k] for k in kept[:-1]], cumulated(stages, branches, kept).tolist())
            assert other.expected_cost - lam * other.accuracy >= best - 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 150))
def test_laws_of_the_curve(seed: int, exits: int, samples: int) -> None:
    case = draw(seed, exits, samples)
    points = curve(*case)
    assert points
    for p in points:
        assert p.exits[-1] == exits - 1 and len(p.thresholds) == len(p.exits) - 1
        assert sum(p.exit_rates) == pytest.approx(1.0)
        assert p.expected_cost == pytest.approx(np.dot(p.exit_rates, p.costs))
        assert min(p.costs) - 1e-9 <= p.expected_cost <= max(p.costs) + 1e-9
        assert np.isfinite(p.thresholds).all()
    for a, b in pairwise(points):
        assert a.accuracy < b.accuracy and a.expected_cost < b.expected_cost
    static = case[2].sum() + case[3][-1]
    assert points[-1].accuracy >= case[1][-1].mean()
    assert solve(*case, accuracy_floor=float(case[1][-1].mean())).expected_cost <= static + 1e-9


def test_a_cheaper_branch_never_makes_the_optimum_dearer() -> None:
    sure, right, stages, branches = draw(3, 5, 300)
    costs = [
        solve(sure, right, stages, branches * f, accuracy_floor=right[-1].mean() - 0.02).expected_cost for f in (1, 0.5)
    ]
    assert costs[1] <= costs[0]


def test_an_exit_that_costs_more_than_it_saves_is_dropped() -> None:
    sure, right, stages, branches = draw(4, 3, 200)
    branches = np.asarray([50.0, 0.01, 0.1])
    point = solve(sure, right, stages, branches, accuracy_floor=right[-1].mean() - 0.05)
    assert 0 not in point.exits and 1 in point.exits


def test_patience_keeps_its_exits() -> None:
    streaks = np.asarray([[1, 1, 1, 1], [2, 2, 1, 1], [3, 3, 2, 1]], dtype=float)
    right = np.asarray([[1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]])
    with pytest.raises(UserError, match="patience with select=True"):
        curve(streaks, right, [1, 1, 1], [0, 0, 0], policy="patience")
    point = solve(streaks, right, [1, 1, 1], [0, 0, 0], accuracy_floor=1.0, policy="patience", select=False)
    assert point.exits == (0, 1, 2) and point.exit_rates == (0.0, 0.5, 0.5)
    assert 1 < point.thresholds[1] <= 2


def test_no_threshold_is_a_confidence_itself() -> None:
    """Coarse networks give few distinct confidences: at one of them each runtime's rounding would decide for many."""
    rng = np.random.default_rng(0)
    sure = rng.integers(1, 6, (3, 400)) / 7
    right = rng.random((3, 400)) < [[0.6], [0.8], [0.9]]
    for floor in (0.0, 0.5, 0.7, 0.85):
        point = solve(sure, right, [1, 2, 3], [0.1, 0.1, 0.1], accuracy_floor=floor)
        for exit_index, threshold in zip(point.exits, point.thresholds, strict=False):
            assert np.abs(sure[exit_index] - threshold).min() > 1.5e-5
    alike = solve(np.full((2, 50), 0.25), np.ones((2, 50)), [1, 2], [0, 0], accuracy_floor=1.0)
    assert alike.exit_rates == (1.0, 0.0) and alike.thresholds[0] < 0.25 - 1.5e-5


def test_faults_are_named() -> None:
    case = draw(0, 3, 50)
    with pytest.raises(InfeasibleError, match=r"accuracy floor 1\.0000; wanted at most 0\."):
        solve(case[0], np.minimum(case[1], np.arange(50) > 0), *case[2:], accuracy_floor=1.0)
    with pytest.raises(UserError, match="one of them"):
        solve(*case)
    with pytest.raises(UserError, match=r"confidences \(3, 50\), correct \(3, 49\)"):
        curve(case[0], case[1][:, 1:], *case[2:])
    with pytest.raises(UserError, match=r"stage_costs .* 3 finite prices"):
        curve(*case[:2], [1.0, np.inf, 2.0], case[3])
    with pytest.raises(UserError, match="confidence that is not finite"):
        curve(np.full((3, 50), np.nan), *case[1:])


def test_ten_exits_and_ten_thousand_samples_take_a_moment() -> None:
    """The goal is 1 s on one core (measured 0.37 s); the margin is for busy machines."""
    case = draw(7, 10, 10_000)
    start = time.process_time()
    points = curve(*case)
    assert time.process_time() - start < 3.0
    assert len(points) == 100 and isinstance(points[0], Solution)
