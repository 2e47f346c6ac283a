"""Searches and what they find, as Python sees them; the work is done in `cost.schedule_beam`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from offramp.cost.arrays import Flags, Ints, Records
from offramp.cost.problem import Problem
from offramp.cost.schedule_beam import FIGURES, FREELY, ROOM, score, searched
from offramp.cost.schedule_tables import AHEAD, EXIT, SPENT, TIME, WASTED, make_room
from offramp.errors import InternalError

WORK = 3000
"""Beam width times the square of the number of layers: short networks are searched widely, long ones in linear time."""
MIN_WIDTH, MAX_WIDTH = 4, 64
WAIT, SPECULATE = 0, 1
"""Modes of an exit."""

plain_score: Callable[..., Any] = getattr(score, "py_func")  # noqa: B009
"""`score` without a compiled call, for a few schedules in Python; of arrays element by element."""


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """What a search may choose: the cores of each layer, (L, C), whether outputs stay, and the mode of each exit.

    `keep` and `modes` are `FREELY` where several ways are to be tried; `serial` makes layers run one after another.
    """

    cores: Flags
    keep: Sequence[int]
    modes: Sequence[int]
    serial: bool = False


def free_rules(p: Problem) -> Rules:
    """Every core worth a try, outputs and exits as they come out best."""
    return Rules(p.tables.tries, [FREELY] * len(p.layers), [FREELY] * len(p.rates))


class Move(NamedTuple):
    """A tensor on its way from an activation memory to the core that reads it next, or out to make room (-1)."""

    tensor: int
    memory: int
    core: int
    start: float
    end: float
    energy: float


class Step(NamedTuple):
    """One placed layer; `occupied` are the bytes in use in its activation memory meanwhile, `keep` as it came out."""

    layer: int
    core: int
    variant: int
    start: float
    end: float
    energy: float
    occupied: float
    keep: int
    striped: bool
    moves: list[Move]


STRIPED = Step._fields.index("striped")


class Leave(NamedTuple):
    """A sample that leaves at an exit: when, what its layers cost, and what speculation adds."""

    time: float
    energy: float
    wasted: float
    speculates: bool


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """A complete schedule.

    `placed` is how many layers were placed to find it and those found with it.
    """

    _figures: list[float]
    placed: int
    _path: Ints
    _steps: Records
    _moves: Records

    @property
    def expected(self) -> tuple[float, float, float]:
        """Cycles, picojoules, and joules times cycles over the exits."""
        return (self._figures[0], self._figures[1], self._figures[2])

    @property
    def prices(self) -> list[float]:
        """Expected cycles, picojoules and their product; cycles and picojoules of the last exit."""
        return self._figures[:5]

    @property
    def core(self) -> int:
        """The core that runs all layers (-1: several do)."""
        return int(self._figures[5])

    def path(self) -> list[Step]:
        """The placed layers in program order."""
        steps = []
        for row in self._steps[self._path].tolist():
            first, count, _ = row[STRIPED + 1 :]
            moves = [Move(*move) for move in self._moves[first : first + count].tolist()] if count else []
            steps.append(Step._make((*row[:STRIPED], bool(row[STRIPED]), moves)))
        return steps

    def exits(self) -> list[Leave]:
        """What a sample that leaves at each exit costs."""
        rows = [self._figures[at : at + EXIT] for at in range(FIGURES, len(self._figures), EXIT)]
        return [Leave(row[TIME], row[SPENT], row[WASTED], bool(row[AHEAD])) for row in rows]


def beam_width(p: Problem, least: int = MIN_WIDTH) -> int:
    """How many schedules are kept beside each other while a network of this length is placed."""
    return max(least, min(MAX_WIDTH, WORK // len(p.layers) ** 2))


def search(p: Problem, rules: Rules, goal: int, width: int = 0) -> list[Schedule]:
    """Beam search in program order under `rules`: complete schedules, the best first; width 0: as fits the network."""
    width = width or beam_width(p)
    keep, modes = np.array(rules.keep, np.int64), np.array(rules.modes, np.int64)
    room = np.array([(goal, width, rules.serial, 0, 0, 0, 0, 0, 0)], ROOM)
    cores = np.ascontiguousarray(rules.cores)  # another layout would be compiled once more
    figures, paths, steps, moves = searched(*p.tables, cores, keep, modes, room[0])
    *_, placed, _, layer, full = room.item()
    if full:
        make_room(p.tables.head, 2 * p.tables.head.lists)
        return search(p, rules, goal, width)
    if not len(figures):
        raise InternalError(f"no schedule for layer {p.layers[layer].name}")
    return [Schedule(row, placed, path, steps, moves) for row, path in zip(figures.tolist(), paths, strict=True)]
