"""A chip as the mapper sees it: activation memories of cores, routes between them, the outer memory.

It decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offramp.cost.arrays import Ints, Records
from offramp.cost.schedule_tables import ROUTE
from offramp.ir.accelerator import Accelerator, Core, Memory, Operand


@dataclass(frozen=True, slots=True)
class Route:
    """The way of a tensor from an activation memory to a core: cycles and picojoules per byte, indices of its links."""

    cycles_per_byte: float
    pj_per_byte: float
    links: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChipView:
    """What schedules ask of a chip of C cores and M activation memories.

    Attributes:
        memory_of: activation memory of each core (-1: none), and its `size_of` in bytes (0).
        routes: records of shape (M, C), whose links are in `links`.
        outer: cycles per byte of the outer memory, picojoules per byte read and written.
    """

    accelerator: Accelerator
    memory_of: list[int]
    size_of: list[int]
    routes: Records
    links: Ints
    outer: tuple[float, float, float]


_VIEWS: dict[int, ChipView] = {}
_MOST_VIEWS = 16


def view_of_chip(accelerator: Accelerator) -> ChipView:
    """The view of a chip, kept for the next call: a search asks for the same one thousands of times."""
    known = _VIEWS.get(id(accelerator))
    if known is not None and known.accelerator is accelerator:
        return known
    if len(_VIEWS) >= _MOST_VIEWS:
        _VIEWS.clear()
    view = _VIEWS[id(accelerator)] = _view_of_chip(accelerator)
    return view


def _view_of_chip(accelerator: Accelerator) -> ChipView:
    memory_of = [_memory_index(accelerator, name) for name in accelerator.core_names]
    memories = accelerator.activation_memories
    routes = np.zeros((len(memories), len(memory_of)), ROUTE)
    links: list[int] = []
    for m, row in enumerate(_routes(accelerator, memory_of)):
        routes["read_pj"][m] = _access_pj_per_byte(accelerator, m, write=False)
        for c, route in enumerate(row):
            if route is not None:
                at = routes[m, c]
                at.known, at.cycles_per_byte, at.pj_per_byte = True, route.cycles_per_byte, route.pj_per_byte
                at.hops, at.count = len(links), len(route.links)
                links += route.links
    return ChipView(
        accelerator=accelerator,
        memory_of=memory_of,
        size_of=[memories[m].size_bytes if m >= 0 else 0 for m in memory_of],
        routes=routes,
        links=np.array(links, dtype=np.int64),
        outer=_outer_rates(accelerator),
    )


def _memory_index(accelerator: Accelerator, core: str) -> int:
    memory = accelerator.activation_memory(core)
    return -1 if memory is None else accelerator.activation_memories.index(memory)


def _outer_memory(accelerator: Accelerator) -> Memory | None:
    if accelerator.offchip is not None:
        return accelerator.offchip
    return next((m for core in accelerator.cores for m in core.memories if m.off_chip), None)


def _width(memory: Memory) -> int:
    return max((port.bits_per_cycle for port in memory.ports), default=8)


def _outer_rates(accelerator: Accelerator) -> tuple[float, float, float]:
    memory = _outer_memory(accelerator)
    if memory is None:
        return 0.0, 0.0, 0.0
    width = _width(memory)
    return 8 / width, memory.read_pj * 8 / width, memory.write_pj * 8 / width


def _activation_level(core: Core) -> Memory | None:
    on_chip = [m for m in core.memories if not m.off_chip and {Operand.I, Operand.O} & set(m.operands)]
    return max(on_chip, key=lambda m: m.size_bits, default=None)


def _access_pj_per_byte(accelerator: Accelerator, memory: int, write: bool) -> float:
    """Energy of one byte in or out of an activation memory; 0 where the core's model does not describe it."""
    for name in accelerator.activation_memories[memory].cores:
        level = _activation_level(accelerator.core(name))
        if level is not None:
            return (level.write_pj if write else level.read_pj) * 8 / _width(level)
    return 0.0


def _routes(accelerator: Accelerator, memory_of: Sequence[int]) -> list[list[Route | None]]:
    names = accelerator.core_names
    table: list[list[Route | None]] = []
    for m, memory in enumerate(accelerator.activation_memories):
        read = _access_pj_per_byte(accelerator, m, write=False)
        row: list[Route | None] = []
        for c in range(len(names)):
            if memory_of[c] < 0 or memory_of[c] == m:
                row.append(None)
                continue
            write = _access_pj_per_byte(accelerator, memory_of[c], write=True)
            row.append(_shortest(accelerator, set(memory.cores), names[c], read + write))
        table.append(row)
    return table


def _shortest(accelerator: Accelerator, sources: set[str], target: str, access_pj: float) -> Route | None:
    """The route with the fewest links (breadth first), as wide as its narrowest link."""
    frontier: list[tuple[str, tuple[int, ...]]] = [(name, ()) for name in sorted(sources)]
    seen = set(sources)
    while frontier:
        name, path = frontier.pop(0)
        if name == target:
            hops = [accelerator.links[i] for i in path]
            energy = access_pj + 8 * sum(hop.pj_per_bit for hop in hops)
            return Route(8 / min(hop.bits_per_cycle for hop in hops), energy, path) if hops else None
        for i, link in enumerate(accelerator.links):
            if name in (link.source, link.target):
                other = link.target if name == link.source else link.source
                if other not in seen:
                    seen.add(other)
                    frontier.append((other, (*path, i)))
    return None
