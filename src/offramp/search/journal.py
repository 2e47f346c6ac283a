"""The journal of a study: SQLite, append-only, one transaction per trial, so that SIGKILL loses at most what
was running.

A trial is its JSON (`Trial.to_json`), under a phase (`search`, and `finish` or `static` for what is trained
again) and a number. Times stand in a table of their own: equal seeds give equal trial tables. `identity` is
what must be equal for a run folder to be continued (space, seed, objectives, ...); `notes` (versions, command)
are written once and not compared. It knows nothing of strategies or networks. Write-ahead logging with full
synchronisation (sqlite.org/wal.html).
"""

import fcntl
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from offramp.errors import FormatError, InternalError, UserError
from offramp.ir.trial import Trial

SCHEMA_VERSION = 1
"""Version of the tables; a journal of another version is refused."""

APPLICATION_ID = 0x0FF7A3B
"""Marks a SQLite file as a journal of Offramp."""

SEARCH = "search"
"""The phase of trials that a strategy asked for."""

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, identity INTEGER NOT NULL);
CREATE TABLE trial (
    phase TEXT NOT NULL, number INTEGER NOT NULL, asked TEXT NOT NULL, json TEXT NOT NULL,
    PRIMARY KEY (phase, number)
);
CREATE TABLE timing (phase TEXT NOT NULL, number INTEGER NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (phase, number));
"""


class Journal:
    """One study's journal, open for appending (`open`) or reading (`read`); also a context manager."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: IO[str] | None) -> None:
        self.path, self._db, self._lock = path, connection, lock

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> "Journal":
        """Open for appending; make it when there is none.

        Args:
            path: the file, `runs/<name>/journal.sqlite`.
            identity: JSON-able values that must equal those the journal was begun with.
            notes: JSON-able values that are kept with it and never compared.

        Raises:
            FormatError: damaged, of another version, or begun with another configuration.
            UserError: the folder cannot be written, or another search is writing to this journal.
            InternalError: the disk is full.
        """
        lock = _lock(path)
        try:
            journal = cls(path, _connect(path, "rwc"), lock)
        except BaseException:
            lock.close()
            raise
        return journal._or_closed(lambda: journal._prepare(identity, notes or {}))

    @classmethod
    def read(cls, path: Path) -> "Journal":
        """Open for reading, also while a search is writing.

        Raises:
            FormatError: missing, damaged or of another version.
        """
        if not path.is_file():
            raise FormatError("no journal", wanted="a run folder with journal.sqlite", where=str(path))
        journal = cls(path, _connect(path, "ro"), None)
        return journal._or_closed(journal._check_version)

    def _or_closed(self, check: Callable[[], None]) -> "Journal":
        """This journal when the check passes; nothing stays open when it does not."""
        try:
            with _reading(self.path):
                check()
        except BaseException:
            self.close()
            raise
        return self

    def _prepare(self, identity: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            rows = [*((k, _text(v), 1) for k, v in identity.items()), *((k, _text(v), 0) for k, v in notes.items())]
            self._db.execute("BEGIN IMMEDIATE")
            for statement in filter(str.strip, _TABLES.split(";")):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            self._db.executemany("INSERT INTO meta VALUES (?, ?, ?)", rows)
            self._db.execute("COMMIT")
        self._check_version()
        self._check_identity(identity)

    def _check_version(self) -> None:
        kind = self._db.execute("PRAGMA application_id").fetchone()[0]
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if kind != APPLICATION_ID:
            raise FormatError("not a journal of Offramp", wanted="another run folder", where=str(self.path))
        if version != SCHEMA_VERSION:
            given = f"a journal of version {version}"
            raise FormatError(given, wanted=f"version {SCHEMA_VERSION}, or another run folder", where=str(self.path))
        problem = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise FormatError(f"damaged: {problem}", wanted="a whole journal", where=str(self.path))

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        kept = dict(self._db.execute("SELECT key, value FROM meta WHERE identity = 1").fetchall())
        given = {key: _text(value) for key, value in identity.items()}
        keys = [k for k in sorted({*kept, *given}) if kept.get(k) != given.get(k)]
        if keys:
            changes = [f"{k} is {given.get(k, 'absent')} here and {kept.get(k, 'absent')} in the journal" for k in keys]
            raise FormatError(
                "begun with another configuration: " + "; ".join(changes),
                wanted="the same command, or another run folder",
                where=str(self.path),
                write="--run runs/another-name",
            )

    @property
    def meta(self) -> dict[str, Any]:
        """Identity and notes."""
        with _reading(self.path):
            return {k: json.loads(v) for k, v in self._db.execute("SELECT key, value FROM meta ORDER BY key")}

    def append(self, trial: Trial, *, phase: str = SEARCH, asked: str = "", seconds: float = 0.0) -> None:
        """Write one trial, for good: it is on the disk when this returns.

        Args:
            trial: what became of the candidate.
            phase: what it was evaluated for.
            asked: digest of the architecture that was asked for, when the evaluator may return a smaller one.
            seconds: how long it took.

        Raises:
            InternalError: the disk is full, or the number is taken; nothing that was kept is lost.
        """
        text = json.dumps(trial.to_json(), sort_keys=True)
        digest = asked or trial.architecture.digest
        with _writing(self.path, f"trial {trial.number} of phase {phase}"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute("INSERT INTO trial VALUES (?, ?, ?, ?)", (phase, trial.number, digest, text))
                self._db.execute("INSERT INTO timing VALUES (?, ?, ?)", (phase, trial.number, seconds))
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def trials(self, phase: str = SEARCH) -> list[Trial]:
        """Trials of a phase by number.

        Raises:
            FormatError: a row is damaged, or a trial of the search is missing.
        """
        with _reading(self.path):
            rows = self._db.execute(
                "SELECT number, json FROM trial WHERE phase = ? ORDER BY number", (phase,)
            ).fetchall()
            try:
                found = [Trial.from_json(json.loads(text)) for _, text in rows]
            except FormatError as error:
                raise FormatError(f"damaged: {error.given}", wanted=error.wanted, where=str(self.path)) from error
        if phase == SEARCH and [t.number for t in found] != list(range(len(found))):
            raise FormatError("a trial is missing", wanted="a whole journal", where=str(self.path))
        return found

    def asked(self, phase: str = SEARCH) -> dict[int, str]:
        """Number -> digest of the architecture that was asked for."""
        with _reading(self.path):
            return dict(self._db.execute("SELECT number, asked FROM trial WHERE phase = ?", (phase,)).fetchall())

    def seconds(self, phase: str = SEARCH) -> dict[int, float]:
        """Number -> seconds that the trial took."""
        with _reading(self.path):
            return dict(self._db.execute("SELECT number, seconds FROM timing WHERE phase = ?", (phase,)).fetchall())

    def close(self) -> None:
        """Fold the log into the file and let others write."""
        with suppress(sqlite3.Error):
            self._db.close()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    try:
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=10)
    except sqlite3.Error as error:
        raise FormatError(f"cannot be opened: {error}", wanted="a journal", where=str(path)) from error


def _lock(path: Path) -> IO[str]:
    """An exclusive lock beside the journal; the system frees it when the process ends, killed or not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror}", wanted="a writable run folder", where=str(path)
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        wanted = "one search per run folder"
        raise UserError("another search is writing here", wanted=wanted, where=str(path)) from error
    return lock


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Damage while reading is the file's fault."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if any(word in str(error) for word in ("full", "I/O", "readonly", "locked")):
            raise InternalError(
                f"{path}: {error}; what is journalled is kept: free some disk space and try again"
            ) from error
        raise FormatError(f"damaged: {error}", wanted="a journal of Offramp", where=str(path)) from error
    except (sqlite3.DatabaseError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"damaged: {error}", wanted="a journal of Offramp", where=str(path)) from error


@contextmanager
def _writing(path: Path, what: str) -> Iterator[None]:
    """A disk that is full or broken is the machine's fault; what was kept stays."""
    try:
        yield
    except sqlite3.Error as error:
        raise InternalError(
            f"{path}: {what} could not be written ({error}); everything journalled before it is kept. "
            "Free some disk space and run the same command again"
        ) from error
