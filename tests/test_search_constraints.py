"""Constraints by name, violation, and what is said when nothing meets them; front, knee, hypervolume."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import UserError
from offramp.ir.trial import Status
from offramp.search.constraints import (
    Constraint,
    explain_empty,
    figures,
    misses,
    parse_constraint,
    parse_constraints,
    violation,
)
from offramp.search.derive import derive_space
from offramp.search.front import front, hypervolume, hypervolume_history, knee, points
from search_cases import backbone, evaluate, mixed_chip

SPACE = derive_space(backbone(), mixed_chip())
RNG = np.random.default_rng(0)
TRIALS = [evaluate(SPACE.sample(RNG), i, i) for i in range(30)]
NAMES = ("accuracy", "energy_uj")


def test_constraints_are_read() -> None:
    assert parse_constraint("latency_ms<=5") == Constraint("latency_ms", 5.0)
    assert parse_constraint(" worst_latency_ms <= 1e-2 ") == Constraint("worst_latency_ms", 0.01)
    assert parse_constraint("accuracy >= 87 %") == Constraint("accuracy", 0.87, at_least=True)
    for constraint in parse_constraints(["energy_uj<=10", "accuracy>=0.5", "peak_bytes<=65536"]):
        assert parse_constraint(str(constraint)) == constraint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency_ms", r"not a constraint; wanted NAME<=NUMBER; write latency_ms<=5"),
        ("latency<=5", r"unknown constraint 'latency'.*latency_ms"),
        ("latency_ms>=5", r"latency_ms with >=; wanted <=; write latency_ms<=5"),
        ("latency_ms=5", r"latency_ms with =; wanted <="),
        ("latency_ms<=5 us", r"us after the number; wanted no unit"),
        ("latency_ms<=5%", r"% after the number"),
        ("accuracy>=87", r"accuracy 87; wanted a fraction"),
        ("accuracy<=0.9", r"accuracy with <=; wanted >="),
        ("energy_uj<=-1", r"the limit -1; wanted 0 or more"),
        ("energy_uj<=1e", r"the number '1e'"),
    ],
)
def test_faults_of_a_constraint(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_constraint(text)


def test_one_limit_per_name() -> None:
    with pytest.raises(UserError, match="energy_uj is limited twice"):
        parse_constraints(["energy_uj<=1", "energy_uj<=2"])


@given(st.floats(0, 100), st.floats(0, 100), st.booleans())
def test_violation_is_zero_exactly_when_the_limit_holds(value: float, limit: float, at_least: bool) -> None:
    holds = value >= limit if at_least else value <= limit
    assert (Constraint("edp", limit, at_least).violation(value) == 0) == holds


def test_violation_of_trials() -> None:
    limits = parse_constraints(["energy_uj<=1.5", "accuracy>=0.8"])
    for trial in TRIALS:
        broken = misses(figures(trial.metrics), limits) if trial.metrics else {}
        assert violation(trial, limits) == pytest.approx(sum(broken.values()))
    refused = replace(TRIALS[0], status=Status.INFEASIBLE, metrics=None, detail=json.dumps({"violation": 0.4}))
    assert violation(refused, ()) == 0.4
    assert violation(replace(refused, detail="{}"), ()) == 1.0
    assert violation(replace(refused, status=Status.FAILED), ()) > 1e3
    assert violation(replace(TRIALS[0], status=Status.INFEASIBLE), ()) == 1.0


def test_an_empty_front_says_why_and_shows_the_nearest() -> None:
    limits = parse_constraints(["energy_uj<=0.001"])
    assert front(TRIALS, NAMES, limits) == []
    failed = replace(TRIALS[0], status=Status.FAILED, metrics=None, reason="loss is nan")
    empty = explain_empty([*TRIALS, failed], limits)
    energies = [t.metrics.energy_uj for t in TRIALS if t.metrics]
    assert empty.nearest[0].metrics is not None and empty.nearest[0].metrics.energy_uj == min(energies)
    assert len(empty.nearest) == 3
    assert "none of 31 trials meets energy_uj<=0.001; 1 failed in training; trial" in empty.reason
    assert "wanted energy_uj<=0.001" in empty.reason


def test_front_knee_and_hypervolume_agree() -> None:
    found = front(TRIALS, NAMES)
    assert front(found, NAMES) == found and front(TRIALS[::-1], NAMES) == found
    assert knee(found, NAMES) in found
    reference = (0.0, 10.0)
    history = hypervolume_history(TRIALS, NAMES, reference)
    assert all(a <= b + 1e-12 for a, b in pairwise(history)) and len(history) == len(TRIALS)
    assert history[-1] == pytest.approx(hypervolume(points(TRIALS, NAMES), reference))
    assert hypervolume([(-0.5, 2.0)], reference) == pytest.approx(0.5 * 8.0)
    assert hypervolume([(0.5, 2.0)], reference) == 0.0
