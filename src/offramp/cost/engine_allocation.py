"""Which factors of an order each memory keeps: greedy from the array outwards, as LOMA allocates (Symons et al., AICAS 2021).

A memory takes for each of its operands as many of the next factors as fit; operands that share it divide it so that the
traffic to the memories above is least. The highest memory of an operand must take all that is left. Positions count factors
from the innermost. No bandwidths and no energies here.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_hierarchy import Hierarchy
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_loops import Orders
from offramp.cost.engine_tables import O, Tables

Positions = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """Cuts of (rows, orders), or (rows, 1) where every order is cut alike: position above the factors a level keeps.

    Attributes:
        cuts: per operand, one per level but the highest.
        valid: (rows, orders) or (rows, 1): everything fits.
    """

    cuts: list[list[Positions]]
    valid: NDArray[np.bool_]


def fits_whole(tables: Tables) -> NDArray[np.bool_]:
    """(rows, memories) whether a memory can take all loops of all its operands at once."""
    h = tables.hierarchy
    columns = []
    for index, memory in enumerate(h.core.memories):
        held = [op for op, levels in enumerate(h.levels) if index in levels]
        need = sum(_whole_bits(tables, op, h.levels[op].index(index)) for op in held)
        columns.append(need <= memory.size_bits)
    return np.stack(columns, axis=1)


def _whole_bits(tables: Tables, op: int, level: int) -> Floats:
    spatial = tables.inside(op, level, exact=True)
    temporal = np.ones_like(spatial)
    rows = np.arange(tables.count)
    for i in range(tables.loops):
        temporal[rows, tables.dims[:, i]] *= tables.sizes[:, i]
    size = tables.elements(op, spatial * temporal, temporal=False)[:, 0]
    return size * (tables.rows.bits[:, 2:].max(axis=1) if op == O else tables.rows.bits[:, op])


def allocate(tables: Tables, orders: Orders, whole: NDArray[np.bool_]) -> Allocation:
    """Allocate all orders; `whole` is one row of `fits_whole` that holds for all rows."""
    h = tables.hierarchy
    n = tables.loops
    everything = np.full((tables.count, 1), n, dtype=np.intp)
    cuts: list[list[Positions]] = [[], [], []]
    last: list[Positions] = [np.zeros((tables.count, 1), dtype=np.intp) for _ in range(3)]
    valid = np.ones((tables.count, 1), dtype=bool)
    for index in range(len(h.core.memories)):
        held = [op for op, levels in enumerate(h.levels) if index in levels]
        if whole[index]:
            chosen = [everything for _ in held]
        else:
            chosen, good = _divide(tables, orders, index, held, last)
            valid = valid & good
        for op, cut in zip(held, chosen, strict=True):
            last[op] = cut
            if index != h.levels[op][-1]:
                cuts[op].append(cut)
    return Allocation(cuts=cuts, valid=valid)


def _divide(
    tables: Tables, orders: Orders, index: int, held: list[int], last: list[Positions]
) -> tuple[list[Positions], NDArray[np.bool_]]:
    """Divide one memory between its operands."""
    h = tables.hierarchy
    memory = h.core.memories[index]
    sizes, costs, starts, tops = [], [], [], []
    for op in held:
        level = h.levels[op].index(index)
        size = _sizes(tables, orders, op, level, last[op], double=memory.double_buffered)
        left = tables.total / tables.cycles
        sizes.append(size)
        costs.append([left[:, orders.prefix[q]] * s for q, s in enumerate(size)])
        starts.append(last[op])
        tops.append(index == h.levels[op][-1])
    if len(held) == 1 and not tops[0]:
        room = np.stack([s <= memory.size_bits for s in sizes[0]]).sum(axis=0) - 1
        return [room], room >= starts[0]
    return _least_traffic(tables, float(memory.size_bits), sizes, costs, starts, tops)


def _sizes(
    tables: Tables, orders: Orders, op: int, level: int, start: Positions, *, double: bool
) -> list[Floats]:
    """Bits of the tile at every position, at the precision that the level starts with."""
    tile = tables.elements(op, tables.inside(op, level, exact=True), temporal=True)
    columns = np.arange(orders.count)
    partial = tables.partial(level)
    before = orders.prefix[start, columns]
    bits = tables.precision(op, np.take_along_axis(partial, before, axis=1)) if op == O else tables.precision(op, partial)
    sizes = [tile[:, orders.prefix[q]] * bits for q in range(tables.loops + 1)]
    if double:
        sizes = [np.where(s < sizes[-1], 2.0 * s, s) for s in sizes]
    return sizes


def _least_traffic(
    tables: Tables,
    room: float,
    sizes: list[list[Floats]],
    costs: list[list[Floats]],
    starts: list[Positions],
    tops: list[bool],
) -> tuple[list[Positions], NDArray[np.bool_]]:
    """Try all divisions of a shared memory; of equals the last wins, as in LOMA."""
    n = tables.loops
    shape = np.broadcast_shapes(*(s[0].shape for s in sizes), *(s.shape for s in starts))
    best = np.full(shape, np.inf)
    chosen = [np.zeros(shape, dtype=np.intp) for _ in sizes]
    least = np.zeros(shape)
    for op, top in enumerate(tops):
        least = least + sizes[op][n] if top else least + _at(sizes[op], starts[op], shape)
    for cut in product(*([n] if top else range(n + 1) for top in tops)):
        used = sum(sizes[op][q] for op, q in enumerate(cut))
        cost = sum((costs[op][q] for op, q in enumerate(cut) if not tops[op]), start=np.zeros(shape))
        better = (used <= room) & (cost <= best)
        for op, q in enumerate(cut):
            if not tops[op]:
                better &= q >= starts[op]
        best = np.where(better, cost, best)
        for op, q in enumerate(cut):
            chosen[op] = np.where(better, q, chosen[op])
    return chosen, np.isfinite(best) & (least <= room)


def _at(values: list[Floats], position: Positions, shape: tuple[int, ...]) -> Floats:
    stacked = np.stack([np.broadcast_to(v, shape) for v in values])
    return np.take_along_axis(stacked, np.broadcast_to(position, shape)[None], axis=0)[0]
