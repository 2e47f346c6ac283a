"""The mapping as a value: which core runs which layer, and what an exit does while the backbone waits or not.

The search for a good one is `cost.mapper`; this file only holds the answer.
"""

from dataclasses import dataclass
from enum import StrEnum


class ExitMode(StrEnum):
    """What happens to the backbone while an exit branch decides."""

    WAIT = "wait"
    SPECULATE = "speculate"


@dataclass(frozen=True, slots=True)
class Assignment:
    """A layer on a core; `channels` is the share of output channels when a layer is split (None: all of them)."""

    layer: str
    core: str
    channels: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """Assignments in execution order (a split layer appears once per core) and one mode per exit."""

    assignments: tuple[Assignment, ...]
    exit_modes: tuple[ExitMode, ...] = ()

    @property
    def cores(self) -> dict[str, str]:
        """Layer name to core name; the parts of a split layer are joined with `+`."""
        table: dict[str, str] = {}
        for a in self.assignments:
            table[a.layer] = f"{table[a.layer]}+{a.core}" if a.layer in table else a.core
        return table
