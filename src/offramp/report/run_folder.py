"""A study as its run folder keeps it: `journal.sqlite`, and `measured.json` when a network of it was timed.

The journal is opened for reading only, so a page can be made while a search is running. Measured figures are kept by
trial number (-1: the static network), so that a page made again shows them too. No torch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from offramp.errors import FormatError
from offramp.report.study import Measured, StudyReport
from offramp.search.constraints import parse_constraints
from offramp.search.front import front
from offramp.search.journal import Journal

JOURNAL, MEASURED, PAGE, RESULT = "journal.sqlite", "measured.json", "report.html", "result.json"
FINISH, STATIC = "finish", "static"
"""Phases of the journal beside the search: candidates trained to the end, and the reference."""


def read_run(run: Path) -> StudyReport:
    """The study in a run folder.

    Raises:
        FormatError: the folder holds no journal, or a file is damaged or of another version.
        UserError: the journal names an objective or a constraint that is not known.
    """
    with Journal.read(run / JOURNAL) as journal:
        trials, finished, static = (tuple(journal.trials(*phase)) for phase in ((), (FINISH,), (STATIC,)))
        meta = journal.meta
    objectives = tuple(str(o) for o in meta.get("objectives", ("accuracy", "energy_uj")))
    constraints = parse_constraints([str(c) for c in meta.get("constraints", ())])
    best = front([t for t in finished if t.metrics] or trials, objectives, constraints)
    return StudyReport(
        title=_title(meta, run),
        trials=trials,
        finished=finished,
        chosen=tuple(t.number for t in best),
        static=static[0] if static else None,
        objectives=objectives,
        measured=read_measured(run),
        meta={key: _told(value) for key, value in meta.items()},
    )


def _title(meta: Mapping[str, Any], run: Path) -> str:
    parts = [meta.get(k) for k in ("backbone", "accelerator", "data")]
    return f"{parts[0]} on {parts[1]}, {parts[2]}" if all(isinstance(p, str) for p in parts) else run.resolve().name


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_told(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_told(v) for v in value)
    return "none" if value is None else str(value)


def write_measured(run: Path, figures: Mapping[int, Measured]) -> None:
    """Keep what a device said, beside what was kept before; by trial number, -1 for the static network."""
    kept = {str(number): asdict(m) for number, m in {**read_measured(run), **figures}.items()}
    part = run / f".{MEASURED}.part"
    part.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    part.replace(run / MEASURED)


def read_measured(run: Path) -> dict[int, Measured]:
    """What `write_measured` kept; empty when nothing was measured.

    Raises:
        FormatError: the file is damaged.
    """
    path = run / MEASURED
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {int(number): _measured(m) for number, m in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"damaged ({type(error).__name__}: {error})"
        raise FormatError(reason, wanted="what write_measured writes, or no such file", where=str(path)) from error


def _measured(data: Mapping[str, Any]) -> Measured:
    stages = tuple((float(backbone), float(branch)) for backbone, branch in data.get("stages", ()))
    optional = {k: None if data.get(k) is None else float(data[k]) for k in ("energy_uj", "accuracy")}
    rates = tuple(float(r) for r in data.get("exit_rates", ()))
    return Measured(
        device=str(data["device"]), latency_ms=float(data["latency_ms"]), stages=stages, exit_rates=rates, **optional
    )
