"""Laws of the strategies on an analytic problem: no figure here is a result about networks."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import UserError
from offramp.ir.architecture import Architecture
from offramp.ir.trial import Status, Trial
from offramp.search.affordable import PATIENCE, STEPS
from offramp.search.constraints import misses, parse_constraints, violation
from offramp.search.derive import derive_space
from offramp.search.evolution import anchors
from offramp.search.features import Features
from offramp.search.front import feasible, hypervolume, points
from offramp.search.predictor import Observation, Predictor
from offramp.search.regress import best_regressor, order_quality
from offramp.search.space import Space
from offramp.search.strategy import STRATEGIES, make_strategy
from offramp.search.surrogate import SurrogateSearch
from offramp.search.task import Price, Strategy, Task
from search_cases import backbone, evaluate, exit_figures, free_chip, mixed_chip, price

SPACE = derive_space(backbone(), mixed_chip())
NAMES = ("accuracy", "energy_uj")
REFERENCE = (-0.5, 5.0)


def search(strategy: Strategy, trials: int, batch: int = 5) -> list[Trial]:
    done: list[Trial] = []
    while len(done) < trials and (asked := strategy.ask(batch)):
        told = [evaluate(a, len(done) + i, 0) for i, a in enumerate(asked)]
        strategy.tell(told)
        done += told
    return done[:trials]


def volume(trials: Sequence[Trial]) -> float:
    return hypervolume(points(trials, NAMES), REFERENCE)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_proposals_are_new_legal_and_of_the_space(name: str) -> None:
    strategy = make_strategy(name, Task(space=SPACE, objectives=NAMES, trials=25, price=price))
    asked = [t.architecture for t in search(strategy, 25)]
    assert len(set(asked)) == len(asked) == 25
    assert all(SPACE.repair(a) == a for a in asked)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_trials_that_fail_teach_and_never_stop_a_strategy(name: str) -> None:
    limits = parse_constraints(["energy_uj<=2"])
    strategy = make_strategy(name, Task(space=SPACE, objectives=NAMES, constraints=limits, trials=24))
    for number in range(8):
        told = []
        for i, architecture in enumerate(strategy.ask(3)):
            trial = evaluate(architecture, 3 * number + i, 0)
            status = (Status.FAILED, Status.INFEASIBLE, Status.OK)[i]
            told.append(trial if i == 2 and number > 2 else replace(trial, status=status, metrics=None))
        assert told
        strategy.tell(told)


def test_unknown_strategies_are_named() -> None:
    with pytest.raises(UserError, match=r"unknown strategy 'nsga'; wanted one of nsga2, random, sequence, surrogate"):
        make_strategy("nsga", Task(space=SPACE, objectives=NAMES))


def test_anchors_show_every_part_of_the_space() -> None:
    found = anchors(SPACE)
    assert found[0] == SPACE.neutral and len(set(found)) == len(found)
    assert any(a.exits for a in found) and any(a.cores for a in found) and any(a.widths for a in found)
    assert anchors(SPACE.without("exits", "width", "bits", "analog")) == [SPACE.neutral]


@pytest.mark.parametrize("seed", [0, 1])
def test_learning_beats_chance_and_evolution(seed: int) -> None:
    """On this problem and these seeds; equal numbers of evaluations."""
    task = Task(space=SPACE, objectives=NAMES, trials=40, seed=seed, price=price)
    learnt, chance, bred = (volume(search(make_strategy(n, task), 40)) for n in ("surrogate", "random", "nsga2"))
    assert learnt > max(chance, bred)


def test_constraints_come_first() -> None:
    limits = parse_constraints(["energy_uj<=1"])
    strategy = make_strategy("nsga2", Task(space=SPACE, objectives=NAMES, constraints=limits, trials=72, seed=1))
    done: list[Trial] = []
    while len(done) < 72:
        told = [evaluate(a, len(done) + i, 0) for i, a in enumerate(strategy.ask(6))]
        told = [replace(t, status=Status.INFEASIBLE) if violation(t, limits) > 0 else t for t in told]
        strategy.tell(told)
        done += told
    assert len(feasible(done[-24:], limits)) > len(feasible(done[:24], limits))


TIGHT = parse_constraints(["worst_latency_ms<=0.9"])


def ruled_out(candidates: Sequence[Architecture]) -> list[bool]:
    return [bool(misses(price(a).at_best, TIGHT)) for a in candidates]


@pytest.mark.parametrize("name", ["nsga2", "random", "surrogate"])
def test_no_trial_is_spent_on_what_its_price_rules_out(name: str) -> None:
    """`sequence` holds the widths at first, so it cannot help it."""
    assert sum(ruled_out([SPACE.sample(np.random.default_rng(i)) for i in range(100)])) > 80
    task = Task(space=SPACE, objectives=NAMES, constraints=TIGHT, trials=40, price=price)
    asked = [t.architecture for t in search(make_strategy(name, task), 40)]
    assert not any(ruled_out(asked)) and len(set(asked)) == 40


def test_where_nothing_is_affordable_the_nearest_are_asked() -> None:
    limits, priced = parse_constraints(["worst_latency_ms<=0.001"]), []
    task = Task(
        space=SPACE, objectives=NAMES, constraints=limits, trials=10, price=lambda a: priced.append(a) or price(a)
    )
    asked = [t.architecture for t in search(make_strategy("random", task), 10)]
    missed = [sum(misses(price(a).at_best, limits).values()) for a in asked]
    anyone = [sum(misses(price(SPACE.sample(np.random.default_rng(i))).at_best, limits).values()) for i in range(10)]
    assert len(asked) == 10 and max(missed[:PATIENCE]) < min(anyone)
    assert len(priced) <= PATIENCE * (STEPS + 1) + 10  # then it is taken to be out of reach


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_single_candidate_is_asked_whatever_it_costs(name: str) -> None:
    one = SPACE.without("depth", "width", "kernel", "exits", "bits", "analog")
    task = Task(space=one, objectives=NAMES, constraints=TIGHT, trials=4, price=price)
    assert ruled_out([one.neutral]) == [True]
    assert [t.architecture for t in search(make_strategy(name, task), 4)] == [one.neutral]


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_without_constraints_prices_change_no_draw(name: str) -> None:
    task = Task(space=SPACE, objectives=NAMES, trials=12)
    first = [make_strategy(name, t).ask(6) for t in (task, replace(task, price=price))]
    assert first[0] == first[1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_parts_can_be_held(seed: int) -> None:
    rng = np.random.default_rng(seed)
    winner = SPACE.sample(rng)
    held = SPACE.pinned(winner, "width", "bits")
    for _ in range(3):
        candidate = held.sample(rng)
        assert SPACE.repair(candidate) == candidate
        blocks = {layer.name for layer in backbone().layers_of(candidate)}
        assert dict(candidate.cores) == {k: v for k, v in winner.cores if k in blocks}
    everything = held.pinned(winner, "depth", "kernel", "exits")
    assert everything.cardinality == 1 and everything.neutral == winner


def test_the_sequence_fixes_one_part_after_another() -> None:
    """Architecture, bits, pruning, exits: no exit before the last quarter, widths whole until the third."""
    strategy = make_strategy("sequence", Task(space=SPACE, objectives=NAMES, trials=48))
    done = [t.architecture for t in search(strategy, 48, batch=4)]
    first_width = next(i for i, a in enumerate(done) if a.widths)
    first_exit = next(i for i, a in enumerate(done) if a.exits)
    first_bits = next(i for i, a in enumerate(done) if a.precision)
    assert first_bits < first_width < first_exit
    assert len({(a.depths, a.kernels, a.widths) for a in done[first_exit:]}) == 1


@pytest.mark.parametrize("off", [("exits",), ("bits", "analog"), ("width",), ("depth", "kernel", "bits", "analog")])
def test_strategies_work_on_spaces_with_parts_off(off: tuple[str, ...]) -> None:
    for name in ("sequence", "nsga2"):
        strategy = make_strategy(name, Task(space=SPACE.without(*off), objectives=NAMES, trials=24))
        assert len(search(strategy, 24)) == 24


def observed(space: Space, count: int) -> list[Observation]:
    rng = np.random.default_rng(5)
    asked = [space.sample(rng) for _ in range(count)]
    return [Observation(a, evaluate(a, i, 0)) for i, a in enumerate(asked)]


@pytest.mark.parametrize("priced", [True, False])
def test_predictions_order_unseen_candidates(priced: bool) -> None:
    space = derive_space(backbone(), free_chip())
    seen = observed(space, 120)
    task = Task(space=space, objectives=("accuracy", "energy_uj", "latency_ms"), price=price if priced else None)
    predictor = Predictor(task, Features(space), task.price)
    predictor.fit(seen[:90], seed=0)
    values, misses = predictor.predict([o.asked for o in seen[90:]])
    truth = np.asarray(points([o.trial for o in seen[90:]], task.objectives))
    for column in range(3):
        assert order_quality(truth[:, column], values[:, column]) > 0.6
    assert not misses.any()
    assert set(predictor.chosen) >= {"accuracy", "exit rate", "exit accuracy", "trouble"}
    assert ("energy_uj" in predictor.chosen) == (not priced)


def test_prices_are_not_guessed() -> None:
    """Without exits the expected cost is the price itself, to the last digit, however few the trials."""
    space = SPACE.without("exits")
    task = Task(space=space, objectives=NAMES, price=price)
    predictor = Predictor(task, Features(space), price)
    seen = observed(space, 6)
    predictor.fit(seen, seed=0)
    values, _ = predictor.predict([o.asked for o in seen])
    assert values[:, 1].tolist() == [exit_figures(o.asked)[0][-1] for o in seen]


def test_what_a_chip_refuses_counts_as_a_broken_constraint() -> None:
    def moody(architecture: Architecture) -> Price:
        return Price(per_exit={}, fixed={}, refusal="no core") if architecture.cores else price(architecture)

    predictor = Predictor(Task(space=SPACE, objectives=NAMES), Features(SPACE), moody)
    seen = observed(SPACE, 20)
    predictor.fit(seen, seed=0)
    values, misses = predictor.predict([o.asked for o in seen])
    assert [m > 0 for m in misses] == [bool(o.asked.cores) for o in seen] and np.isfinite(values).all()


def test_trouble_is_learnt_from_failures() -> None:
    seen = observed(SPACE, 80)
    seen = [
        replace(o, trial=replace(o.trial, status=Status.FAILED, metrics=None)) if o.asked.cores else o for o in seen
    ]
    strategy = SurrogateSearch(Task(space=SPACE, objectives=NAMES, price=price))
    strategy.predictor.fit(seen, seed=0)
    _, misses = strategy.predictor.predict([o.asked for o in seen])
    guessed = misses > 0
    assert np.mean(guessed == np.asarray([bool(o.asked.cores) for o in seen])) > 0.85


def test_the_best_regressor_is_chosen_by_order() -> None:
    rng = np.random.default_rng(0)
    rows = rng.uniform(size=(90, 4))
    line, step = rows @ [3.0, 1.0, 0.0, -2.0], (rows[:, 0] > 0.5) * 4.0 + (rows[:, 1] > 0.3) * 2.0 + rows[:, 2]
    groups = np.arange(90)
    assert best_regressor(rows, line, groups, seed=0).name in ("ridge", "pairs")
    chosen = best_regressor(rows, step, groups, seed=0)
    assert chosen.name == "extra_trees" and chosen.tau > 0.7
    constant = best_regressor(rows, np.full(90, 2.5), groups, seed=0)
    assert constant.name == "mean" and constant.predict(rows[:2]).tolist() == [2.5, 2.5]
    assert best_regressor(rows[:2], line[:2], groups[:2], seed=0).name == "mean"
    assert best_regressor(np.empty((0, 1)), np.empty(0), np.empty(0, dtype=np.int64), seed=0).mean == 0.0
