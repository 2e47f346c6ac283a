"""A core's memories as the search reads them: levels per operand, boundaries between levels, ports and who shares them.

A boundary b of an operand lies below its memory level b: boundary 0 between the array and level 0, boundary b between
level b - 1 and level b. Data cross a boundary through a port of the memory above and, except at boundary 0, one of
the memory below. No layer and no numbers of a layer here.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from offramp.ir.accelerator import Core, Move, Operand

OPERANDS = (Operand.I, Operand.W, Operand.O)
"""Order of operands in the engine's arrays."""


@dataclass(frozen=True, slots=True)
class Use:
    """One duty of a port: operand, boundary, on the upper or lower side of it, returning partial sums or not."""

    operand: int
    boundary: int
    upper: bool
    partial: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """A port with its duties; `shared` when it carries both inputs and weights."""

    memory: int
    bits: int
    granularity: int
    uses: tuple[Use, ...]
    shared: bool


@dataclass(frozen=True, slots=True, eq=False)
class Hierarchy:
    """Memories from the array outwards.

    Attributes:
        levels: per operand, indices of its memories from low to high.
        spans: per operand and level, the array dimensions that one instance of it and of those under it serve.
        gates: all ports with their duties.
        side: what each duty meets.
    """

    core: Core
    levels: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[np.ndarray, ...], ...]
    gates: tuple[Gate, ...]
    side: "dict[Use, Side]"

    @property
    def unit_dimensions(self) -> int:
        """Number of array dimensions."""
        assert self.core.array is not None
        return len(self.core.array.dimensions)

    def held_in(self, memory: int) -> list[tuple[int, int]]:
        """(operand, level) of what a memory holds; outputs first, inputs last."""
        return [(op, self.levels[op].index(memory)) for op in (2, 1, 0) if memory in self.levels[op]]


@dataclass(frozen=True, slots=True)
class Side:
    """What a duty meets: port width and granularity in bits, energy of an access, and sharing."""

    memory: int
    bits: int
    granularity: int
    access_pj: float
    shared: bool


@lru_cache(maxsize=256)
def hierarchy_of(core: Core) -> Hierarchy | None:
    """Compile a core; None when an operand has no memory at all."""
    assert core.array is not None
    levels = tuple(tuple(i for i, m in enumerate(core.memories) if op in m.operands) for op in OPERANDS)
    if not all(levels):
        return None
    dimensions = [name for name, _ in core.array.dimensions]
    spans = tuple(_spans(core, held, dimensions) for held in levels)
    gates, side = [], {}
    for i, memory in enumerate(core.memories):
        for port in memory.ports:
            both = {Operand.I, Operand.W} <= {o for o, _ in port.serves}
            uses = tuple(u for o, m in port.serves if (u := _use(o, m, i, levels)) is not None)
            gates.append(Gate(i, port.bits_per_cycle, port.granularity_bits, uses, both))
            for operand, move in port.serves:
                use = _use(operand, move, i, levels)
                if use is not None:
                    energy = memory.read_pj if move in (Move.TO_LOW, Move.TO_HIGH) else memory.write_pj
                    side[use] = Side(i, port.bits_per_cycle, port.granularity_bits, energy, both)
    return Hierarchy(core=core, levels=levels, spans=spans, gates=tuple(gates), side=side)


def _spans(core: Core, held: tuple[int, ...], dimensions: list[str]) -> tuple[np.ndarray, ...]:
    spans, covered = [], np.zeros(len(dimensions), dtype=bool)
    for index in held:
        covered = covered | np.array([d in core.memories[index].dimensions for d in dimensions])
        spans.append(covered)
    return tuple(spans)


def _use(operand: Operand, move: Move, memory: int, levels: tuple[tuple[int, ...], ...]) -> Use | None:
    """The duty of a port in a direction; None for traffic beyond the highest level."""
    op = OPERANDS.index(operand)
    level = levels[op].index(memory)
    upper = move in (Move.TO_LOW, Move.FROM_LOW)
    if not upper and level + 1 == len(levels[op]):
        return None
    if operand is not Operand.O and move in (Move.FROM_LOW, Move.TO_HIGH):
        return None
    partial = operand is Operand.O and move in (Move.TO_LOW, Move.FROM_HIGH)
    return Use(op, level if upper else level + 1, upper, partial)


OWN, BETWEEN, LAST = range(3)
"""Kinds of memories: of parts of the array; of the whole array; and of those the last, or off chip."""


@lru_cache(maxsize=256)
def shared_memories(hierarchy: Hierarchy) -> np.ndarray:
    """(memories,) kind of every memory."""
    core = hierarchy.core
    assert core.array is not None
    every = {name for name, _ in core.array.dimensions}
    kinds = []
    for index, memory in enumerate(core.memories):
        above = {i for levels in hierarchy.levels if index in levels for i in levels if i > index}
        last = all(core.memories[i].off_chip for i in above)
        kinds.append(
            LAST if memory.off_chip else OWN if not every <= set(memory.dimensions) else LAST if last else BETWEEN
        )
    return np.array(kinds)
