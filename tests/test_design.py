"""End to end on real digits with a tiny budget: the same study from Python and from the command line."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import offramp
from offramp.api import Design
from offramp.cli.main import main
from offramp.config import Budget, StudyConfig
from offramp.data import load_dataset
from offramp.deploy.bundle import open_bundle
from offramp.deploy.runtime import Runner
from offramp.designer import Designer
from offramp.errors import FormatError, InfeasibleError, UserError
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.pareto import dominates
from offramp.ir.trial import Status, minimised
from offramp.learn.weights import load_tensors
from offramp.nn.backbones import backbone
from offramp.report.run_folder import FINISH
from offramp.search.journal import Journal

TINY = Budget(shared_epochs=2, static_epochs=2, tune_epochs=1, finish_epochs=1, finish_points=2)
FLAGS = ["--epochs", "2", "--tune-epochs", "1", "--finish-epochs", "1", "--subset", "400", "--trials", "3"]
POINT_KEYS = {
    "trial", "accuracy", "energy_uj", "latency_ms", "worst_latency_ms", "worst_energy_uj", "macs", "peak_bytes",
    "exits", "exit_rates", "thresholds", "bits", "core", "bundle",
}  # fmt: skip
SEARCH = ["search", "--data", "digits", "--backbone", "resnet8", "--accelerator", "diana"]


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "offramp", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    return done


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def study(run: Path, **changes: object) -> Design:
    settings: dict[str, object] = {"budget": TINY, "subset": 400, "trials": 3, "seed": 3, **changes}
    return offramp.design("digits", "resnet8", "diana", run=run, **settings)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Design:
    return study(tmp_path_factory.mktemp("runs") / "digits")


def journal_rows(run: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(run / "journal.sqlite") as db:
        return db.execute("SELECT * FROM trial ORDER BY phase, number").fetchall()


def test_points_may_recover_in_float_before_they_are_quantized(result: Design, tmp_path: Path) -> None:
    first = study(tmp_path, budget=replace(TINY, finish_float_epochs=2))
    assert [p.trial.number for p in first.front]
    for point in first.front:
        rested = load_tensors(tmp_path / "weights" / f"point-{point.trial.number}-float.safetensors")[0]
        shared = load_tensors(tmp_path / "shared.safetensors")[0]
        assert not np.array_equal(rested["head.fc.bias"], shared["head.fc.bias"])
    before, after = ({r for r in journal_rows(run) if r[0] != FINISH} for run in (result.run, tmp_path))
    assert before == after and journal_rows(tmp_path) != journal_rows(result.run)
    assert study(tmp_path, budget=replace(TINY, finish_float_epochs=2)).front == first.front


def test_the_front_is_a_front(result: Design) -> None:
    values = [minimised(p.metrics, result.objectives) for p in result.front]
    assert values and not any(dominates(a, b) for a in values for b in values)


def test_figures_hang_together(result: Design) -> None:
    for point in (*result.front, result.static):
        m = point.metrics
        assert abs(sum(point.trial.exit_rates) - 1) < 1e-9
        assert len(point.trial.thresholds) == len(point.architecture.exits)
        assert m.energy_uj <= m.worst_energy_uj * (1 + 1e-9)
        assert m.latency_ms <= m.worst_latency_ms * (1 + 1e-9)
        assert m.edp == pytest.approx(m.energy_uj * m.latency_ms)
        assert set(dict(point.trial.bits)) <= set(dict(point.trial.cores))


def test_static_is_the_whole_backbone_in_eight_bits(result: Design) -> None:
    assert result.static.architecture.exits == ()
    assert {bits for _, bits in result.static.trial.bits} == {(8, 8)}
    assert set(dict(result.static.trial.cores).values()).isdisjoint({"analog"})


def test_a_widened_search_keeps_the_static_network(result: Design, tmp_path: Path) -> None:
    wide = study(tmp_path / "wide", widen=2, trials=2, budget=replace(TINY, batch=32))
    assert wide.static.metrics.energy_uj == result.static.metrics.energy_uj
    assert (tmp_path / "wide" / "weights" / "largest-float.safetensors").exists()
    assert not list((tmp_path / "wide" / "weights").glob("*.checkpoint"))


def test_finishing_continues_from_its_checkpoint(result: Design, tmp_path: Path) -> None:
    """As on two machines: one trains the static network, the other judges it."""
    run = tmp_path / "run"
    shutil.copytree(result.run, run)
    with sqlite3.connect(run / "journal.sqlite") as db:
        for table in ("trial", "timing"):
            db.execute(f"DELETE FROM {table} WHERE phase = 'static'")
    dataset, chip = load_dataset("digits", seed=3, subset=400), load_accelerator("diana")
    config = StudyConfig(
        data="digits", backbone="resnet8", accelerator="diana", run=run, budget=TINY, subset=400, trials=3, seed=3
    )
    Designer(config, dataset, backbone("resnet8", dataset.input_shape, dataset.classes), chip).train_static()
    assert (run / "weights" / "static.checkpoint").exists()
    assert study(run).static.metrics == result.static.metrics
    assert not (run / "weights" / "static.checkpoint").exists()


def test_bundles_give_the_accuracy_on_test_that_was_reported(result: Design) -> None:
    test = load_dataset("digits", seed=3, subset=400).read_test("comparison")
    for point in (*result.front, result.static):
        labels = Runner(point.bundle).predict(test.x).labels
        assert np.mean(labels == test.y) == pytest.approx(point.metrics.accuracy_test, abs=1e-3)


def test_later_stages_are_not_run(result: Design) -> None:
    runner = offramp.open_bundle(result.bundle or result.static.bundle)
    test = load_dataset("digits", seed=3, subset=400).read_test("counting")
    outcome = runner.predict(test.x)
    reached = [(outcome.exits >= stage).sum() for stage in range(len(runner.executions))]
    assert list(runner.executions) == reached


def test_the_same_call_continues_and_changes_nothing(result: Design) -> None:
    before = journal_rows(result.run)
    again = study(result.run)
    assert journal_rows(result.run) == before
    assert again.to_json() == result.to_json()


def test_the_same_seed_gives_the_same_journal(result: Design, tmp_path: Path) -> None:
    study(tmp_path / "other")
    assert journal_rows(tmp_path / "other") == journal_rows(result.run)


def test_other_trials_are_finished_when_asked_for(result: Design, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(result.run, run)
    earlier = {p.trial.number for p in result.front}
    other = next(t.number for t in result.trials if t.number not in earlier)
    study(run, finish=[other])
    with Journal.read(run / "journal.sqlite") as journal:
        assert {t.number for t in journal.trials(FINISH)} >= earlier | {other}
    with pytest.raises(UserError, match="--finish: trial 3; wanted numbers below 3, the trials"):
        study(run, finish=[3])
    with pytest.raises(UserError, match=r"--finish: trial -1; wanted feasible trials of this run \(0, 1, 2\)"):
        study(run, finish=[-1])


def test_another_configuration_is_refused(result: Design) -> None:
    with pytest.raises(FormatError, match=r"seed is 4 here and 3 in the journal.*write --run"):
        study(result.run, seed=4)


def test_constraints_that_nothing_meets_give_an_empty_front(tmp_path: Path) -> None:
    found = study(tmp_path / "run", constraints=["energy_uj<=0.0001"])
    assert found.front == () and "energy_uj" in found.note
    assert all(t.status is Status.INFEASIBLE for t in found.trials)
    assert not (tmp_path / "run" / "shared.safetensors").exists(), "weights were trained for nothing"
    with pytest.raises(InfeasibleError, match="the front is empty: none of"):
        _ = found.knee


def test_a_promise_is_certified_on_samples_set_aside(tmp_path: Path) -> None:
    dataset = load_dataset("digits", seed=3)
    fewer, aside = dataset.with_certification()
    assert len(fewer.val) + len(aside) == len(dataset.val) and len(aside) >= len(dataset.val) // 2
    promise = "accuracy drop <= 5 % with probability 0.9"
    found = study(tmp_path / "run", subset=None, guarantee=promise)
    assert found.front
    with pytest.raises(FormatError, match="guarantee"):
        study(tmp_path / "run", subset=None)


def test_exits_that_no_sample_may_take_are_not_paid_for(tmp_path: Path) -> None:
    """So few samples certify nothing: a point is then the network without its exits."""
    found = study(tmp_path / "run", guarantee="accuracy drop <= 0.1 % with probability 0.99")
    for point in found.front:
        assert point.architecture.exits == () and point.trial.exit_rates == (1.0,)
        assert point.metrics.energy_uj == point.metrics.worst_energy_uj
        assert len(open_bundle(point.bundle).manifest.predicted.stages) == 1


def test_the_page_and_the_manifest_tell_the_same(result: Design) -> None:
    page = (result.run / "report.html").read_text()
    assert "plotly" in page.lower() and 'src="http' not in page
    assert result.bundle is not None
    manifest = open_bundle(result.bundle).manifest
    assert manifest.metrics["test"]["accuracy"] == result.knee.metrics.accuracy_test
    assert manifest.predicted is not None and manifest.predicted.accelerator == "diana"


def test_json_of_the_command_line_has_these_keys(tmp_path: Path) -> None:
    done = run_cli(*SEARCH, *FLAGS, "--seed", "3", "--run", str(tmp_path / "run"), "--json")
    answer = json.loads(done.stdout)
    assert set(answer) == {"front", "static", "run", "seed", "versions", "note"}
    for point in [*answer["front"], answer["static"]]:
        assert set(point) == POINT_KEYS
        assert set(point["accuracy"]) == {"val", "test"}
        assert all(set(bits) == {"weight", "activation"} for bits in point["bits"].values())


def test_killed_and_started_again_is_as_if_never_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "offramp", *SEARCH, *FLAGS, "--seed", "3", "--run", str(tmp_path / "run")]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    weights = tmp_path / "run" / "weights"
    deadline = time.monotonic() + 120
    while len(list(weights.glob("trial-*.safetensors"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = len(journal_rows(tmp_path / "run"))
    assert 1 <= kept < 3
    run_cli(*SEARCH, *FLAGS, "--seed", "3", "--run", str(tmp_path / "run"))
    whole = tmp_path / "whole"
    run_cli(*SEARCH, *FLAGS, "--seed", "3", "--run", str(whole))
    assert journal_rows(tmp_path / "run") == journal_rows(whole)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (["--backbone", "resnet9"], "unknown backbone 'resnet9'; wanted one of"),
        (["--accelerator", "dianna"], "dianna"),
        (["--objectives", "accuracy,joules"], "unknown objective 'joules'"),
        (["--objectives", "accuracy"], "wanted at least two"),
        (["--finish", "3,x"], "--finish: trials '3,x'; wanted trial numbers with commas between; write 3,11"),
        (["--constraint", "latency<=5"], "unknown constraint 'latency'"),
        (["--strategy", "guess"], "unknown strategy 'guess'"),
        (["--policy", "hope"], "unknown exit policy 'hope'"),
        (["--guarantee", "be good"], "not a guarantee"),
        (["--trials", "0"], "wanted at least 1"),
        (["--without", "luck"], "luck"),
        (["--accuracy-drop", "2"], "wanted a fraction from 0 to 1"),
        (["--data", "digitz"], "unknown dataset 'digitz'"),
        (["--space", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_the_users_faults_are_one_line_and_exit_code_2(
    changes: list[str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["offramp", *SEARCH, "--run", str(tmp_path / "run"), *FLAGS, *changes])
    with pytest.raises(SystemExit, match="2"):
        main()
    lines = capsys.readouterr().err.strip().splitlines()
    assert text in lines[-1] and sum("offramp:" in line for line in lines) == 1


def test_a_backbone_of_the_users_own(tmp_path: Path) -> None:
    from torch import nn

    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    found = offramp.design("digits", net, "diana", run=tmp_path / "own", budget=TINY, subset=400, trials=2)
    assert found.static.metrics.macs == 8 * 8 * 9 * 8 + 8 * 8 * 9 * 64 + 80
    with pytest.raises(UserError, match="write"):
        offramp.design("digits", net, "diana", run=tmp_path / "own", budget=TINY, subset=500, trials=2)


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    assert 8 <= sum(bool(line.strip()) for line in example.splitlines()) <= 14
    monkeypatch.chdir(tmp_path)
    tiny = "trials=2, budget=Budget(shared_epochs=2, static_epochs=2, tune_epochs=1, finish_epochs=1, finish_points=2)"
    exec(example.replace("trials=24", tiny), {"Budget": Budget})
    assert (tmp_path / "runs" / "python" / "report.html").is_file()


def test_the_command_of_the_readme_is_the_demo() -> None:
    root = Path(__file__).parents[1]
    command = "offramp search --data digits --backbone resnet8 --accelerator diana --run runs/demo"
    assert command in (root / "README.md").read_text() and command in (root / "Makefile").read_text()
