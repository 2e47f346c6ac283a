"""Laws of what a report derives: front, hypervolume, savings; and how figures are written."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.ir.architecture import Architecture
from offramp.ir.pareto import dominates
from offramp.ir.trial import Status, Trial, minimised
from offramp.report.study import StudyReport
from offramp.report.text import bits_short, change, cores_short, exits_of, exits_short, quantity, significant
from report_study import broken_trial, made_study, metrics

SEEDS = st.integers(0, 200)


def trial(number: int, accuracy: float, energy: float) -> Trial:
    figures = metrics(accuracy, energy, energy / 30)
    return Trial(number=number, architecture=Architecture(backbone="b"), status=Status.OK, seed=0, metrics=figures)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 40))
def test_nothing_evaluated_dominates_the_front(seed: int, count: int) -> None:
    report = made_study(count=max(count, 8), seed=seed)
    chosen = [minimised(m, report.objectives) for _, m in report.front]
    assert chosen
    for _, figures in report.evaluated:
        assert not any(dominates(minimised(figures, report.objectives), c) for c in chosen)
    assert report.knee in [t for t, _ in report.front]


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_hypervolume_rises_and_stays_in_the_box(seed: int) -> None:
    history = made_study(count=30, seed=seed).hypervolume
    volumes = [v for _, v in history]
    assert len(volumes) == 28
    assert all(b >= a - 1e-12 for a, b in pairwise(volumes))
    assert volumes[0] >= 0.0
    assert volumes[-1] <= 1.0


def test_hypervolume_of_a_staircase_by_hand() -> None:
    """Scaled points (0, 1), (0.5, 0.5), (1, 0): only the middle one has area, a quarter of the box."""
    trials = tuple(trial(k, 0.7 + 0.1 * k, 10.0 + 10.0 * k) for k in range(3))
    assert [v for _, v in StudyReport(title="t", trials=trials).hypervolume] == pytest.approx([0.0, 0.25, 0.25])


def test_savings_are_those_of_the_best_point_within_half_a_point() -> None:
    trials = (trial(0, 0.80, 10.0), trial(1, 0.865, 20.0), trial(2, 0.8651, 25.0), trial(3, 0.90, 60.0))
    report = StudyReport(title="t", trials=trials, static=trial(0, 0.87, 50.0))
    best = report.best_within("energy_uj")
    assert best is not None
    assert best[0].number == 1
    assert report.best_within("energy_uj", points_lost=0.004) == (trials[3], trials[3].metrics)
    assert StudyReport(title="t", trials=trials).best_within("energy_uj") is None
    assert StudyReport(title="t", trials=trials[:1], static=report.static).best_within("energy_uj") is None


def test_finished_networks_make_the_front_and_the_study_may_choose() -> None:
    searched = tuple(trial(k, 0.7 + 0.05 * k, 10.0 + 10.0 * k) for k in range(3))
    finished = (trial(1, 0.80, 20.0), trial(2, 0.79, 30.0))
    report = StudyReport(title="t", trials=searched, finished=finished)
    assert [t for t, _ in report.front] == [finished[0]]
    assert [t for t, _ in replace(report, chosen=(1, 2)).front] == list(finished)
    assert len(report.evaluated) == 3


def test_a_study_without_evaluated_trials_is_empty_and_no_error() -> None:
    report = StudyReport(title="t", trials=(broken_trial(0, Status.FAILED, "why"),))
    assert report.front == ()
    assert report.knee is None
    assert report.hypervolume == ()
    assert [t.reason for t in report.unsuccessful] == ["why"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.012345, "0.0123"),
        (1.5, "1.5"),
        (64.0, "64"),
        (99.96, "100"),
        (123456.7, "123,457"),
        (1e-7, "1.00e-07"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert significant(value) == text


@given(st.floats(1e-12, 1e12))
def test_short_numbers_keep_their_value(value: float) -> None:
    told = float(significant(value).replace(",", ""))
    assert np.isclose(told, value, rtol=0.006)


@pytest.mark.parametrize(
    ("pair", "text"), [((40, 100), "−60 %"), ((110, 100), "+10 %"), ((100, 100), "±0 %"), ((1, 0), "–")]
)
def test_changes_carry_their_sign(pair: tuple[float, float], text: str) -> None:
    assert change(*pair) == text


def test_units_and_summaries() -> None:
    assert quantity("macs", 12_500_000) == "12.5 M"
    assert quantity("peak_bytes", 65_536) == "64 KiB"
    assert quantity("energy_uj", 23.71) == "23.7 µJ"
    some = made_study().front[-1][0]
    assert exits_of(some)[-1] == "final"
    assert len(exits_of(some)) == len(some.exit_rates)
    plain = trial(0, 0.5, 1.0)
    assert (exits_short(plain), bits_short(plain), cores_short(plain)) == ("none", "–", "–")
