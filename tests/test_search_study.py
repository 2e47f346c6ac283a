"""The loop: resumed after SIGKILL it gives the same journal, failures are values, and it stops when told."""

import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from offramp.errors import AccelerationError, FormatError, TrainingError
from offramp.ir.architecture import Architecture
from offramp.ir.trial import Status, Trial
from offramp.search.derive import derive_space
from offramp.search.journal import Journal
from offramp.search.strategy import STRATEGIES, make_strategy
from offramp.search.study import run_study, trial_seed
from offramp.search.task import Strategy, Task
from search_cases import backbone, evaluate, mixed_chip
from search_study_process import main as study_in_process

SPACE = derive_space(backbone(), mixed_chip())
PROGRAM = Path(__file__).with_name("search_study_process.py")


def fresh(name: str = "nsga2", seed: int = 1) -> Strategy:
    return make_strategy(name, Task(space=SPACE, objectives=("accuracy", "energy_uj"), seed=seed, trials=30))


def rows(path: Path) -> list[tuple[object, ...]]:
    db = sqlite3.connect(path)
    found = db.execute("SELECT * FROM trial ORDER BY phase, number").fetchall()
    db.close()
    return found


def count(path: Path) -> int:
    try:
        with Journal.read(path) as journal:
            return len(journal.trials())
    except FormatError:
        return 0


@pytest.mark.parametrize("strategy", ["random", "nsga2"])
def test_killed_and_restarted_gives_the_same_journal(tmp_path: Path, strategy: str) -> None:
    whole, broken = tmp_path / "whole.sqlite", tmp_path / "broken.sqlite"
    study_in_process(str(whole), strategy, 26, 0.0)
    done = 0
    for target in (5, 14):
        command = [sys.executable, str(PROGRAM), str(broken), strategy, "26", "0.03"]
        process = subprocess.Popen(command)
        while count(broken) < target and process.poll() is None:
            time.sleep(0.01)
        seen = count(broken)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        assert count(broken) in (seen, seen + 1) and seen >= max(target, done)
        done = seen
    study_in_process(str(broken), strategy, 26, 0.0)
    assert rows(broken) == rows(whole) and len(rows(whole)) == 26


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_same_seed_same_journal_and_other_seed_another(tmp_path: Path, strategy: str) -> None:
    runs = []
    for i, seed in enumerate((1, 1, 2)):
        with Journal.open(tmp_path / f"{i}.sqlite", {"seed": seed}) as journal:
            runs.append(run_study(fresh(strategy, seed), evaluate, journal, trials=14, seed=seed, batch=4))
    assert runs[0] == runs[1] != runs[2]
    assert rows(tmp_path / "0.sqlite") == rows(tmp_path / "1.sqlite")


def test_more_trials_continue_the_same_search(tmp_path: Path) -> None:
    for trials in (7, 18):
        with Journal.open(tmp_path / "grown.sqlite", {}) as journal:
            grown = run_study(fresh(), evaluate, journal, trials=trials, seed=1, batch=4)
    with Journal.open(tmp_path / "once.sqlite", {}) as journal:
        assert grown == run_study(fresh(), evaluate, journal, trials=18, seed=1, batch=4)


def test_failed_and_refused_candidates_never_end_a_study(tmp_path: Path) -> None:
    def moody(architecture: Architecture, number: int, seed: int) -> Trial:
        if number % 3 == 0:
            raise TrainingError("loss is nan in epoch 1")
        if number % 3 == 1:
            raise AccelerationError("no core runs it")
        return evaluate(architecture, number, seed)

    told: list[int] = []
    with Journal.open(tmp_path / "j.sqlite", {}) as journal:
        done = run_study(fresh(), moody, journal, trials=30, seed=1, batch=2, on_trial=lambda t: told.append(t.number))
    assert [t.status for t in done[:3]] == [Status.FAILED, Status.INFEASIBLE, Status.OK]
    assert done[0].reason == "loss is nan in epoch 1" and done[1].reason == "no core runs it"
    assert told == list(range(30)) and [t.seed for t in done] == [trial_seed(1, i) for i in range(30)]


def test_an_evaluator_may_return_a_smaller_candidate(tmp_path: Path) -> None:
    def without_exits(architecture: Architecture, number: int, seed: int) -> Trial:
        return replace(evaluate(architecture, number, seed), architecture=replace(architecture, exits=()))

    for trials in (6, 12):
        with Journal.open(tmp_path / "j.sqlite", {}) as journal:
            done = run_study(fresh(), without_exits, journal, trials=trials, seed=1)
    assert len(done) == 12 and not any(t.architecture.exits for t in done)


def test_a_journal_of_another_search_is_refused(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j.sqlite", {}) as journal:
        run_study(fresh("random"), evaluate, journal, trials=4, seed=1)
        with pytest.raises(FormatError, match="trial 0 is another candidate than this search would ask for"):
            run_study(fresh("nsga2"), evaluate, journal, trials=8, seed=1)


def test_time_and_space_run_out(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "time.sqlite", {}) as journal:
        assert run_study(fresh(), evaluate, journal, trials=10, seed=1, time_budget=0.0) == []
    tiny = SPACE.without("width", "bits", "analog", "kernel", "exits")
    for name in STRATEGIES:
        strategy = make_strategy(name, Task(space=tiny, objectives=("accuracy", "energy_uj")))
        with Journal.open(tmp_path / f"{name}.sqlite", {}) as journal:
            assert len(run_study(strategy, evaluate, journal, trials=10, seed=1, batch=4)) == 3
        nothing = make_strategy(name, Task(space=tiny.without("depth"), objectives=("accuracy", "energy_uj")))
        with Journal.open(tmp_path / f"{name}0.sqlite", {}) as journal:
            assert len(run_study(nothing, evaluate, journal, trials=10, seed=1, batch=4)) == 1
