"""What became of one candidate: a value of always the same shape, with a status.

A failure is a value too: `status` says whether the numbers stand, `reason` why they do not.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from offramp.errors import FormatError, UserError, choose
from offramp.ir.architecture import Architecture


class Status(StrEnum):
    """OK: evaluated. INFEASIBLE: a constraint is broken (before or after training). FAILED: it diverged."""

    OK = "ok"
    INFEASIBLE = "infeasible"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Figures of one network; expected values weigh every exit with its rate on validation data.

    Accuracies are fractions; `accuracy_test` is None until the network is reported. `edp` is energy_uj * latency_ms
    of the expectation.
    """

    accuracy_val: float
    accuracy_test: float | None = None
    energy_uj: float
    latency_ms: float
    worst_latency_ms: float
    worst_energy_uj: float
    edp: float
    macs: float
    peak_bytes: int


OBJECTIVES: dict[str, tuple[str, int]] = {
    "accuracy": ("accuracy_val", -1),
    "energy_uj": ("energy_uj", 1),
    "latency_ms": ("latency_ms", 1),
    "edp": ("edp", 1),
    "macs": ("macs", 1),
    "peak_bytes": ("peak_bytes", 1),
    "worst_latency_ms": ("worst_latency_ms", 1),
}
"""Objective name -> (field of `Metrics`, sign that makes smaller better)."""


def objective_value(metrics: Metrics, name: str) -> float:
    """The figure behind an objective's name, in its own unit and direction.

    Raises:
        UserError: the name is not an objective.
    """
    check_objectives((name,))
    return float(getattr(metrics, OBJECTIVES[name][0]))


def check_objectives(names: tuple[str, ...]) -> None:
    """Refuse names that are no objectives, and names given twice.

    Raises:
        UserError: says which, and what is known.
    """
    for name in names:
        if name not in OBJECTIVES:
            raise choose("objective", name, OBJECTIVES, where="--objectives")
    if len(set(names)) < len(names):
        raise UserError(f"{', '.join(names)}", wanted="each objective once", where="--objectives")


def minimised(metrics: Metrics, names: tuple[str, ...]) -> tuple[float, ...]:
    """Objective values with their sign turned so that smaller is better, for `ir.pareto`."""
    return tuple(objective_value(metrics, n) * OBJECTIVES[n][1] for n in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One evaluated candidate.

    Attributes:
        number: position in the study, from 0.
        seed: the seed of this trial's own randomness.
        thresholds: one per early exit (the final exit takes all).
        exit_rates: one per exit, the final one included; they sum to 1.
        bits: layer -> (weight bits, activation bits).
        cores: layer -> core.
        detail: further figures for the report (per-exit accuracies, per-stage costs), JSON-able.
    """

    number: int
    architecture: Architecture
    status: Status
    seed: int
    reason: str = ""
    metrics: Metrics | None = None
    thresholds: tuple[float, ...] = ()
    exit_rates: tuple[float, ...] = ()
    bits: tuple[tuple[str, tuple[int, int]], ...] = ()
    cores: tuple[tuple[str, str], ...] = ()
    detail: str = "{}"

    @property
    def details(self) -> dict[str, Any]:
        """`detail` as a dictionary."""
        return json.loads(self.detail)  # type: ignore[no-any-return]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; `from_json` is its inverse."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Trial":
        """Read what `to_json` wrote.

        Raises:
            FormatError: a key is missing or of the wrong form.
        """
        try:
            given = {f.name: data[f.name] for f in fields(cls)}
            given["architecture"] = Architecture.from_json(given["architecture"])
            given["status"] = Status(given["status"])
            given["metrics"] = Metrics(**given["metrics"]) if given["metrics"] else None
            given["thresholds"] = tuple(given["thresholds"])
            given["exit_rates"] = tuple(given["exit_rates"])
            given["bits"] = tuple((k, (int(w), int(a))) for k, (w, a) in given["bits"])
            given["cores"] = tuple((k, v) for k, v in given["cores"])
            return cls(**given)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not a trial: {error}", wanted="the keys that to_json writes") from error
