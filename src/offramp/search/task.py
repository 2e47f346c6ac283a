"""What a strategy is given (`Task`) and what it must do (`Strategy`): ask and tell, nothing else.

A strategy never trains, prices or writes files (pyribs' scheduler is the model). It is deterministic: the same
task and the same tells give the same asks, which is how a journal is replayed. `asked[:k]` must not depend on
how many were asked for. A tell answers the last ask in its order, and may be shorter when a study ends.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from offramp.ir.architecture import Architecture
from offramp.ir.trial import Trial
from offramp.search.constraints import Constraint
from offramp.search.space import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a candidate costs before any training.

    Attributes:
        per_exit: `energy_uj`, `latency_ms`, `macs` -> price of leaving at each exit (branches on the way included),
            early exits of the candidate in order, the final one last.
        fixed: figures that do not depend on where samples leave: `peak_bytes`, `worst_latency_ms`, ...
        refusal: why the candidate cannot run at all; empty when it can.
    """

    per_exit: Mapping[str, tuple[float, ...]]
    fixed: Mapping[str, float]
    refusal: str = ""

    @property
    def at_best(self) -> dict[str, float]:
        """Figures that no training can better: everyone leaves at the first exit."""
        found = {name: prices[0] for name, prices in self.per_exit.items()} | dict(self.fixed)
        if {"energy_uj", "latency_ms"} <= found.keys():
            found["edp"] = found["energy_uj"] * found["latency_ms"]
        return found


@dataclass(frozen=True, kw_only=True)
class Task:
    """A search: where, for what, under which constraints.

    Attributes:
        space: the candidates.
        objectives: names of `ir.trial.OBJECTIVES`.
        constraints: limits; a trial that breaks one is infeasible.
        seed: of all randomness.
        trials: how many evaluations are planned (a strategy may plan phases by it).
        price: prices a candidate without training, where the caller can.
    """

    space: Space
    objectives: tuple[str, ...]
    constraints: tuple[Constraint, ...] = ()
    seed: int = 0
    trials: int = 100
    price: Callable[[Architecture], Price] | None = None


class Strategy(Protocol):
    """Proposes candidates and learns from trials."""

    def ask(self, n: int) -> list[Architecture]:
        """Up to `n` candidates, none proposed before while the space has others; empty when it has none."""
        ...

    def tell(self, trials: Sequence[Trial]) -> None:
        """What became of the last ask, in its order."""
        ...


class Proposals:
    """Which candidates have been proposed; bookkeeping that the strategies share."""

    def __init__(self) -> None:
        self._seen: set[Architecture] = set()

    def new(self, candidate: Architecture) -> bool:
        """True when it has not been proposed."""
        return candidate not in self._seen

    def add(self, candidate: Architecture) -> None:
        """Note a proposal."""
        self._seen.add(candidate)
