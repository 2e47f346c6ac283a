"""The journal: append-only, refuses what is not its own, survives a full disk."""

import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from offramp.errors import FormatError, InternalError, UserError
from offramp.ir.trial import Trial
from offramp.search.derive import derive_space
from offramp.search.journal import Journal
from search_cases import backbone, evaluate, mixed_chip

SPACE = derive_space(backbone(), mixed_chip())
IDENTITY = {"space": SPACE.digest, "seed": 3, "objectives": ["accuracy", "energy_uj"]}


def some_trials(count: int) -> list[Trial]:
    rng = np.random.default_rng(0)
    return [evaluate(SPACE.sample(rng), i, 100 + i) for i in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "journal.sqlite"


def test_what_is_written_is_read(path: Path) -> None:
    trials = some_trials(5)
    with Journal.open(path, IDENTITY, {"command": "offramp search"}) as journal:
        for trial in trials:
            journal.append(trial, seconds=1.5)
        journal.append(trials[2], phase="finish", seconds=9.0)
        with Journal.read(path) as reader:
            assert reader.trials() == trials
    with Journal.open(path, IDENTITY, {"command": "another"}) as journal:
        assert journal.trials() == trials and journal.trials("finish") == [trials[2]]
        assert journal.seconds() == dict.fromkeys(range(5), 1.5)
        assert journal.asked()[4] == trials[4].architecture.digest
        assert journal.meta == {**IDENTITY, "command": "offramp search"}


def test_another_configuration_is_refused(path: Path) -> None:
    Journal.open(path, IDENTITY).close()
    with pytest.raises(FormatError, match=r"another configuration: seed is 4 here and 3 in the journal"):
        Journal.open(path, {**IDENTITY, "seed": 4})
    with pytest.raises(FormatError, match="batch is 2 here and absent in the journal"):
        Journal.open(path, {**IDENTITY, "batch": 2})


def test_another_version_is_refused(path: Path) -> None:
    Journal.open(path, IDENTITY).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(FormatError, match="a journal of version 99; wanted version 1"):
        Journal.open(path, IDENTITY)


def test_a_foreign_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (a)")
    db.close()
    with pytest.raises(FormatError, match="not a journal of Offramp"):
        Journal.open(path, IDENTITY)


@pytest.mark.parametrize("damage", ["text", "middle", "short", "row"])
def test_damage_is_one_clear_error(path: Path, damage: str) -> None:
    with Journal.open(path, IDENTITY) as journal:
        for trial in some_trials(12):
            journal.append(trial)
    data = path.read_bytes()
    if damage == "text":
        path.write_text("this is not a database, but it is long enough to be looked at" * 20)
    elif damage == "middle":
        path.write_bytes(data[:4096] + b"\x55" * 8192 + data[12288:])
    elif damage == "short":
        path.write_bytes(data[: len(data) // 2])
    else:
        with sqlite3.connect(path) as db:
            db.execute("UPDATE trial SET json = '{\"number\": 0}' WHERE number = 3")
        db.close()
    with pytest.raises(FormatError, match=r"damaged|not a trial|journal"), Journal.open(path, IDENTITY) as journal:
        journal.trials()


def test_a_missing_trial_is_damage(path: Path) -> None:
    with Journal.open(path, IDENTITY) as journal:
        for trial in some_trials(3):
            journal.append(trial)
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM trial WHERE number = 1")
    db.close()
    with Journal.read(path) as journal, pytest.raises(FormatError, match="a trial is missing"):
        journal.trials()


def test_a_number_is_written_once(path: Path) -> None:
    with Journal.open(path, IDENTITY) as journal:
        journal.append(some_trials(1)[0])
        with pytest.raises(InternalError, match="trial 0 of phase search could not be written"):
            journal.append(some_trials(1)[0])
        assert len(journal.trials()) == 1


def test_one_writer_at_a_time(path: Path) -> None:
    with Journal.open(path, IDENTITY), pytest.raises(UserError, match="another search is writing here"):
        Journal.open(path, IDENTITY)
    Journal.open(path, IDENTITY).close()


def test_no_journal_and_no_folder(path: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no journal; wanted a run folder"):
        Journal.read(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Journal.open(tmp_path / "file" / "journal.sqlite", IDENTITY)


@pytest.fixture
def small_disk() -> Iterator[int]:
    """No file may grow beyond 200 kB: the system refuses writes as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    yield 200_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing(path: Path, small_disk: int) -> None:
    trials = some_trials(400)
    written = 0
    with (
        Journal.open(path, IDENTITY) as journal,
        pytest.raises(InternalError, match=r"trial \d+ .*could not be written.*before it is kept.*Free some disk"),
    ):
        for trial in trials:
            journal.append(trial)
            written += 1
    assert 3 < written < 400
    with Journal.read(path) as reader:
        assert reader.trials() == trials[:written]
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    with Journal.open(path, IDENTITY) as journal:
        journal.append(trials[written])
        assert journal.trials() == trials[: written + 1]
