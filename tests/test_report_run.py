"""From a run folder to its page: the journal's trials, constraints and notes; measured figures; damage."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import offramp.cli.report
import offramp.cli.run  # noqa: F401 (a second command: typer gives a lone one no name)
from offramp.cli.app import app
from offramp.errors import FormatError, UserError
from offramp.report.run_folder import read_measured, read_run, write_measured
from offramp.report.study import Measured
from offramp.search.journal import Journal
from report_study import made_study

IDENTITY = {"data": "digits", "backbone": "resnet8", "accelerator": "diana", "objectives": ["accuracy", "energy_uj"]}


def make_run(run: Path, *, identity: dict[str, object] | None = None, finish: int = 0) -> None:
    study = made_study(count=20)
    run.mkdir()
    notes = {"command": "offramp search", "versions": {"offramp": "0.1.0"}}
    with Journal.open(run / "journal.sqlite", identity or IDENTITY, notes) as journal:
        for trial in study.trials:
            journal.append(trial)
        if study.static:
            journal.append(replace(study.static, number=-1), phase="static")
        for trial, _ in study.front[:finish]:
            journal.append(replace(trial, reason="finished"), phase="finish")


def test_a_run_is_read_back(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    study, made = read_run(tmp_path / "a"), made_study(count=20)
    assert study.trials == made.trials
    assert study.front == made.front
    assert study.static is not None
    assert study.title == "resnet8 on diana, digits"
    assert study.meta["versions"] == "offramp 0.1.0"
    assert study.meta["command"] == "offramp search"


def test_finished_networks_take_the_place_of_their_trials(tmp_path: Path) -> None:
    make_run(tmp_path / "a", finish=3)
    front = read_run(tmp_path / "a").front
    assert [t.reason for t, _ in front] == ["finished"] * 3


def test_constraints_keep_a_point_off_the_front(tmp_path: Path) -> None:
    make_run(tmp_path / "a", identity=IDENTITY | {"constraints": ["energy_uj<=20"]})
    front = read_run(tmp_path / "a").front
    assert front
    assert all(m.energy_uj <= 20 for _, m in front)


def test_measured_figures_are_kept_beside_the_journal(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    run = tmp_path / "a"
    assert read_measured(run) == {}
    knee = Measured(device="host", latency_ms=1.5, stages=((0.5, 0.1), (0.8, 0.1)), accuracy=0.9, exit_rates=(0.6, 0.4))
    write_measured(run, {4: knee})
    write_measured(run, {-1: Measured(device="host", latency_ms=3.0, energy_uj=7.0)})
    assert read_measured(run) == {4: knee, -1: Measured(device="host", latency_ms=3.0, energy_uj=7.0)}
    assert read_run(run).measured[4] == knee


@pytest.mark.parametrize("content", ["", "[]", '{"x": {}}', '{"1": {"device": "host"}}', '{"1": {"latency_ms": "a"}}'])
def test_damaged_measurements_are_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "measured.json").write_text(content)
    with pytest.raises(FormatError, match=r"measured\.json: damaged"):
        read_measured(tmp_path)


def test_the_command_writes_page_and_picture(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    runner = CliRunner()
    result = runner.invoke(app, ["report", str(tmp_path / "a"), "--svg", str(tmp_path / "front.svg")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a" / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "front.svg").read_text().startswith("<svg")
    for _ in range(2):  # what it wrote itself may be written over
        files = ["--out", str(tmp_path / "b.html"), "--svg", str(tmp_path / "front.svg")]
        result = runner.invoke(app, ["report", str(tmp_path / "a"), *files])
        assert result.exit_code == 0
    assert (tmp_path / "b.html").is_file()


def test_no_run_folder_and_unknown_objectives(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no journal; wanted a run folder with"):
        read_run(tmp_path / "nowhere")
    make_run(tmp_path / "a", identity=IDENTITY | {"objectives": ["speed", "energy_uj"]})
    with pytest.raises(UserError, match="unknown objective 'speed'"):
        read_run(tmp_path / "a")


def test_a_damaged_journal_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(FormatError, match=r"journal\.sqlite"):
        read_run(tmp_path)
