"""Constraints by name (`latency_ms<=5`), how far a candidate misses them, and what to say when nothing meets
them.

Names and directions are those of `ir.trial.OBJECTIVES`, plus the worst case's energy. A miss is relative to the
limit, so that misses of several units can be added; 0 means that the constraint holds. Nothing here trains or
prices.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offramp.errors import UserError, choose
from offramp.ir.trial import OBJECTIVES, Metrics, Status, Trial

FIELDS: dict[str, str] = {name: field for name, (field, _) in OBJECTIVES.items()} | {
    "worst_energy_uj": "worst_energy_uj"
}
"""Constraint name -> field of `Metrics`."""

FAILED_VIOLATION = 1e6
"""What a trial that says nothing about its constraints counts as: worse than any measured miss."""

_FORM = re.compile(r"^\s*([A-Za-z_][A-Za-z0-9_]*)\s*(<=|>=|=<|=>|==|=|<|>)\s*([-+0-9.eE]+)\s*(%?)\s*(\S*)\s*$")


@dataclass(frozen=True, slots=True)
class Constraint:
    """An upper limit, or (`at_least`) a lower one, on a named figure in its own unit."""

    name: str
    limit: float
    at_least: bool = False

    def violation(self, value: float) -> float:
        """How far `value` misses the limit, relative to it; 0 when it holds."""
        excess = self.limit - value if self.at_least else value - self.limit
        return max(0.0, excess / (abs(self.limit) or 1.0))

    def __str__(self) -> str:
        return f"{self.name}{'>=' if self.at_least else '<='}{self.limit:g}"


def parse_constraint(text: str) -> Constraint:
    """Read `latency_ms<=5`, `accuracy>=0.87` or `accuracy >= 87 %`.

    Raises:
        UserError: the form, the name, the direction or the number cannot be used.
    """
    where = f"--constraint {text!r}"
    found = _FORM.match(text)
    if not found:
        raise UserError("not a constraint", wanted="NAME<=NUMBER", where=where, write="latency_ms<=5")
    name, sign, number, percent, rest = found.groups()
    if name not in FIELDS:
        raise choose("constraint", name, FIELDS, where=where)
    at_least = name == "accuracy"
    wanted = ">=" if at_least else "<="
    if sign != wanted:
        raise UserError(f"{name} with {sign}", wanted=wanted, where=where, write=f"{name}{wanted}{number}")
    if rest or (percent and not at_least):
        given = f"{percent}{rest} after the number"
        raise UserError(given, wanted="no unit: it stands in the name", where=where, write=f"{name}{wanted}{number}")
    return Constraint(name, _limit(name, number, bool(percent), where), at_least)


def _limit(name: str, number: str, percent: bool, where: str) -> float:
    try:
        limit = float(number) / (100 if percent else 1)
    except ValueError as error:
        raise UserError(f"the number {number!r}", wanted="a decimal number", where=where, write=f"{name}<=5") from error
    if name == "accuracy" and not 0 <= limit <= 1:
        raise UserError(f"accuracy {limit:g}", wanted="a fraction from 0 to 1", where=where, write="accuracy>=0.87")
    if not 0 <= limit < float("inf"):
        raise UserError(f"the limit {number}", wanted="0 or more", where=where)
    return limit


def parse_constraints(texts: Sequence[str]) -> tuple[Constraint, ...]:
    """Read several; one name may be limited once.

    Raises:
        UserError: one cannot be read, or a name appears twice.
    """
    found = tuple(parse_constraint(t) for t in texts)
    names = [c.name for c in found]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UserError(f"{twice[0]} is limited twice", wanted="one limit per name", where="--constraint")
    return found


def figures(metrics: Metrics) -> dict[str, float]:
    """The figures that constraints can name."""
    return {name: float(getattr(metrics, field)) for name, field in FIELDS.items()}


def misses(values: Mapping[str, float], constraints: Sequence[Constraint]) -> dict[str, float]:
    """Constraint (as text) -> relative miss, for those that are broken; names absent from `values` are not judged.

    An evaluator calls this with lower bounds before training, and with the figures of a trained network after it.
    """
    judged = {str(c): c.violation(values[c.name]) for c in constraints if c.name in values}
    return {text: miss for text, miss in judged.items() if miss > 0}


def violation(trial: Trial, constraints: Sequence[Constraint]) -> float:
    """Sum of a trial's relative misses; 0 for one that is OK and meets them all.

    A trial that ended before training has no metrics: it may say `violation` in its details.
    """
    if trial.metrics is not None:
        total = sum(misses(figures(trial.metrics), constraints).values())
        return total if trial.status is Status.OK or total > 0 else 1.0
    if trial.status is Status.INFEASIBLE:
        return max(float(trial.details.get("violation", 1.0)), 1e-9)
    return FAILED_VIOLATION


@dataclass(frozen=True, slots=True)
class EmptyFront:
    """Why a study has no front: the reason in words and the trials that came nearest."""

    reason: str
    nearest: tuple[Trial, ...]


def explain_empty(trials: Sequence[Trial], constraints: Sequence[Constraint], count: int = 3) -> EmptyFront:
    """Say why no trial can stand on the front, with the nearest infeasible ones."""
    infeasible = [t for t in trials if t.status is not Status.FAILED and violation(t, constraints) > 0]
    nearest = tuple(sorted(infeasible, key=lambda t: (violation(t, constraints), t.number))[:count])
    failed = sum(t.status is Status.FAILED for t in trials)
    parts = [f"none of {len(trials)} trials meets {' and '.join(map(str, constraints)) or 'the chip and the data'}"]
    parts += [f"{failed} failed in training"] if failed else []
    parts += [f"trial {t.number} misses by {violation(t, constraints):.3g} ({_why(t, constraints)})" for t in nearest]
    return EmptyFront("; ".join(parts), nearest)


def _why(trial: Trial, constraints: Sequence[Constraint]) -> str:
    if trial.metrics is None:
        return trial.reason or trial.status
    values = figures(trial.metrics)
    broken = [c for c in constraints if c.violation(values[c.name]) > 0]
    return ", ".join(f"{c.name} {values[c.name]:.4g}, wanted {c}" for c in broken) or trial.reason or trial.status
