"""Laws of what the surrogate knows: rows of exits, shares that have left, held-out predictions, expected gains."""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from offramp.ir.architecture import Architecture, ExitChoice
from offramp.search.derive import derive_space
from offramp.search.features import Features
from offramp.search.front import hypervolume
from offramp.search.predictor import Neighbours, Observation, Predictor, accuracy_at, settled_rates, surety
from offramp.search.regress import best_regressor, order_quality
from offramp.search.surrogate import expected_gains
from offramp.search.task import Price, Task
from search_cases import backbone, evaluate, mixed_chip, price

SPACE = derive_space(backbone(), mixed_chip())
NAMES = ("accuracy", "energy_uj")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_the_row_of_an_exit_knows_nothing_of_later_layers(seed: int, point: int) -> None:
    rng = np.random.default_rng(seed)
    first = replace(SPACE.sample(rng), depths=(), exits=(ExitChoice(point), ExitChoice(3)))
    other = SPACE.sample_vector(rng)
    early = [
        gene.part in ("depth", "exits")
        or any(name in gene.name for name in ("stem", "exit", *(f"b{b}." for b in range(1, point + 1))))
        for gene in SPACE.genes
    ]
    changed = SPACE.decode(np.where(early, SPACE.encode(first), other))
    features = Features(SPACE)
    mine, theirs = features.exit_rows(SPACE.repair(first)), features.exit_rows(changed)
    assert mine.shape == theirs.shape
    assert np.array_equal(mine[0], theirs[0])


def test_rows_of_networks_that_differ_differ() -> None:
    rng = np.random.default_rng(0)
    asked = list(dict.fromkeys(SPACE.sample(rng) for _ in range(40)))
    assert len(np.unique(Features(SPACE).rows(asked), axis=0)) == len(asked)


@given(st.lists(st.floats(-0.5, 1.5), max_size=6))
def test_settled_rates_are_rates(left: list[float]) -> None:
    rates = settled_rates(np.asarray(left))
    assert len(rates) == len(left) + 1 and (rates >= 0).all()
    assert rates.sum() == pytest.approx(1.0)


def test_rates_that_are_in_order_are_kept() -> None:
    assert settled_rates(np.asarray([0.2, 0.7])).tolist() == pytest.approx([0.2, 0.5, 0.3])
    assert settled_rates(np.asarray([0.6, 0.4])).tolist() == pytest.approx([0.6, 0.0, 0.4])


def test_what_is_held_out_is_not_known() -> None:
    """Targets that no row explains: a regressor that had seen them would order them."""
    rng = np.random.default_rng(1)
    rows, noise = rng.uniform(size=(80, 5)), rng.normal(size=80)
    model = best_regressor(rows, noise, np.arange(80) // 2, seed=0)
    assert abs(order_quality(noise, model.held)) < 0.3
    assert model.error > 0.8 * noise.std()
    line = best_regressor(rows, rows @ np.arange(5.0), np.arange(80), seed=0)
    assert line.error < 0.1 and line.tau > 0.9 and len(line.held) == 80


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 3), st.integers(0, 6))
def test_gains_are_hypervolume(seed: int, objectives: int, known: int) -> None:
    rng = np.random.default_rng(seed)
    front = [tuple(p) for p in (1.2 * rng.uniform(size=(known, objectives))).tolist()]
    reference, draws = [1.0] * objectives, 1.2 * rng.uniform(size=(4, 3, objectives))
    before = hypervolume(front, reference)
    whole = [[hypervolume([*front, tuple(p)], reference) - before for p in one] for one in draws.tolist()]
    assert expected_gains(front, reference, draws) == pytest.approx(np.mean(whole, axis=1))
    if front:
        assert expected_gains(front, reference, np.asarray([front]) + 0.01) == pytest.approx([0.0])


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_order_quality_is_kendalls_tau(truth: list[int], random: Random) -> None:
    guess = [random.randint(0, 6) for _ in truth]
    known = kendalltau(truth, guess).statistic
    mine = order_quality(np.asarray(truth, dtype=float), np.asarray(guess, dtype=float))
    assert mine == pytest.approx(0.0 if np.isnan(known) else known)


@given(st.floats(0, 1))
def test_sureties_turn_back_into_accuracies(accuracy: float) -> None:
    there = surety(np.asarray([accuracy, accuracy / 2]))
    assert accuracy_at(there) == pytest.approx([accuracy, accuracy / 2], abs=1e-9)
    assert there[0] >= there[1]


def test_errors_say_how_far_predictions_are_off() -> None:
    """The accuracy of unseen candidates is off by about as much as the predictor says; costs likewise."""
    rng = np.random.default_rng(7)
    asked = [SPACE.sample(rng) for _ in range(160)]
    seen = [Observation(a, evaluate(a, i, 0)) for i, a in enumerate(asked)]
    predictor = Predictor(Task(space=SPACE, objectives=NAMES, price=price), Features(SPACE), price)
    predictor.fit(seen[:100], seed=0)
    values, _ = predictor.predict(asked[100:])
    accuracy = surety(np.asarray([o.trial.metrics.accuracy_val for o in seen[100:] if o.trial.metrics]))
    energy = np.asarray([o.trial.metrics.energy_uj for o in seen[100:] if o.trial.metrics])
    off = np.asarray([np.sqrt(np.mean((surety(-values[:, 0]) - accuracy) ** 2)), np.std(np.log(values[:, 1] / energy))])
    assert (off < 3 * predictor.errors).all() and (off > predictor.errors / 3).all()


def test_what_is_priced_is_a_network_of_the_space() -> None:
    """Exits that hardly anyone takes are left out before pricing, with the bits and cores of their branches."""
    space = replace(SPACE, cores=(*SPACE.cores, *((f"exit{i}", ("imc",)) for i, _ in SPACE.exits)))
    rng = np.random.default_rng(5)
    asked = [space.sample(rng) for _ in range(60)]
    assert any(layer.startswith("exit") for a in asked for layer, _ in a.cores)
    priced = []

    def checked(candidate: Architecture) -> Price:
        assert space.info.canonical(candidate) == candidate
        priced.append(candidate)
        return price(candidate)

    task = Task(space=space, objectives=NAMES, price=checked)
    predictor = Predictor(task, Features(space), checked)
    nobody = [(0.0,) * len(a.exits) + (1.0,) for a in asked]
    trials = [replace(evaluate(a, i, 0), exit_rates=r) for i, (a, r) in enumerate(zip(asked, nobody, strict=True))]
    predictor.fit([Observation(a, t) for a, t in zip(asked, trials, strict=True)], seed=0)
    assert priced and not any(a.exits for a in priced)


def test_a_change_behind_the_exit_that_decides_is_nothing_new() -> None:
    """Exits 0 and 2 of every trial answer better than the end: candidates that differ behind them are no news."""
    rng = np.random.default_rng(3)
    exits = (ExitChoice(0), ExitChoice(2))
    asked = list(dict.fromkeys(SPACE.repair(replace(SPACE.sample(rng), depths=(), exits=exits)) for _ in range(40)))
    seen = [Observation(a, evaluate(a, i, 0)) for i, a in enumerate(asked)]
    for i, o in enumerate(seen):
        detail = json.dumps({"exit_accuracies": [0.9, 0.8 - i / 1000, 0.5]})
        seen[i] = replace(o, trial=replace(o.trial, detail=detail))
    predictor = Predictor(Task(space=SPACE, objectives=NAMES, price=price), Features(SPACE), price)
    predictor.fit(seen, seed=0)
    genes = [g.name.startswith("b4") for g in SPACE.genes]
    tail = np.where(genes, SPACE.sample_vector(rng), SPACE.encode(asked[0]))
    assert SPACE.decode(tail) != asked[0]
    other = SPACE.repair(replace(asked[0], exits=(ExitChoice(0, "dsconv_gap_fc"),)))
    doubts = predictor.doubts([SPACE.decode(tail), other])
    assert doubts[0] == 0.0 and 0 < doubts[1] <= 1


def test_distances_are_to_the_nearest() -> None:
    known = Neighbours(np.asarray([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]))
    assert known.distances(np.asarray([[2.0, 0.0], [9.0, 9.0]])).tolist() == [0.0, 1.0]
    assert 0 < known.distances(np.asarray([[0.5, 0.0]]))[0] < 1
    assert Neighbours(np.empty((0, 2))).distances(np.zeros((2, 2))).tolist() == [1.0, 1.0]
