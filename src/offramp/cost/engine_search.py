"""The search over orders: what lies below each boundary, which orders differ at all, which may win, and the best.

All orders of a batch of rows lie in one flat axis. Orders that no cut tells apart are priced once, and only those
whose lower bound does not exceed what another order of the layer is known to take. The least latency wins, of equals
the least energy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_allocation import Allocator
from offramp.cost.engine_hierarchy import Gate, Hierarchy
from offramp.cost.engine_latency import Flags, Latency, Orders
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_loops import Bytes, orders_of
from offramp.cost.engine_tables import I, Masks, O, Tables, W

HASH = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)
"""Odd multipliers that mix masks into one key (see `_distinct`)."""


FEW = 2000
"""Orders that are all priced at once: a bound would cost more than it saves."""

SLACK = 1.0 + 1e-9
"""A bound may exceed what it bounds by this factor: sums of fractions of cycles are rounded."""


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """The best order of every row.

    Attributes:
        cycles, memory_pj: (rows,); infinite where nothing fits and where another row of the layer is faster.
        crossing_pj: per operand and boundary, (rows,) of the energy at the memory above and at the one below.
        masks: per operand and boundary, (rows,) factors below it.
    """

    cycles: Floats
    memory_pj: Floats
    crossing_pj: list[list[tuple[Floats, Floats]]]
    masks: list[list[Masks]]


class Search:
    """The different orders of a batch of rows; `whole` says which memories take everything of every row."""

    def __init__(self, tables: Tables, hierarchy: Hierarchy, whole: Flags) -> None:
        self.tables, self.hierarchy = tables, hierarchy
        lists = [orders_of(pattern, tables.loops) for pattern in tables.rows.patterns]
        self.prefix: Bytes = np.concatenate(lists, axis=1)
        self.lengths = np.array([x.shape[1] for x in lists])
        self.row = np.repeat(np.arange(tables.count), self.lengths)
        allocator = Allocator(tables, hierarchy, self.prefix, self.row, whole)
        self.nothing, self.everything = np.zeros(self.row.size, dtype=np.uint8), self._of_row(tables.full)
        self.masks = [self._boundaries(op, allocator.cuts[op]) for op in (I, W, O)]
        runs, base = self._find_runs(), self.row * tables.masks.size
        orders = Orders(tables=tables, hierarchy=hierarchy, row=self.row, masks=self.masks, runs=runs, base=base)
        self.orders = orders.take(self._distinct(list(runs.values()), allocator.valid))
        self.layer = np.unique(tables.rows.layer, return_inverse=True)[1]

    def run(self, hierarchy: Hierarchy, passes: float) -> Priced:
        """The best order of each row that may be its layer's best."""
        orders = self._promising(hierarchy, passes)
        cycles = Latency(orders, hierarchy, passes).cycles
        least = self._least_of_layers(cycles, orders.row)
        tied = np.flatnonzero(cycles == least[self.layer[orders.row]])
        orders = orders.take(tied)
        parts = [
            [self.tables.energies(op, b, orders.row, orders.masks[op][b]) for b in range(len(levels))]
            for op, levels in enumerate(hierarchy.levels)
        ]
        energy = sum((upper + lower for crossing in parts for upper, lower in crossing), start=np.zeros(tied.size))
        rows, best = _first_least(energy, orders.row)

        def spread(values: NDArray[Any], missing: float) -> Floats:
            full = np.full(self.tables.count, missing)
            full[rows] = values[best]
            return full

        return Priced(
            cycles=spread(cycles[tied], np.inf),
            memory_pj=spread(energy, np.inf),
            crossing_pj=[[(spread(u, 0.0), spread(w, 0.0)) for u, w in crossing] for crossing in parts],
            masks=[
                [spread(m, 0).astype(np.intp) for m in masks[: len(levels)]]
                for masks, levels in zip(orders.masks, hierarchy.levels, strict=True)
            ],
        )

    def _promising(self, hierarchy: Hierarchy, passes: float) -> Orders:
        """Orders whose bound is within what the order of the least bound of some row of the layer takes."""
        orders = self.orders
        if orders.row.size <= FEW:
            return orders
        bound = _bound(orders, hierarchy, passes)
        seeds = orders.take(_first_least(bound, orders.row)[1])
        reached = self._least_of_layers(Latency(seeds, hierarchy, passes).cycles, seeds.row)
        return orders.take(np.flatnonzero(bound <= (reached * SLACK)[self.layer][orders.row]))

    def _least_of_layers(self, cycles: Floats, row: NDArray[np.intp]) -> Floats:
        least = np.full(self.tables.count, np.inf)
        np.minimum.at(least, self.layer[row], cycles)
        return least

    def _of_row(self, masks: Masks) -> Bytes:
        return np.repeat(masks.astype(np.uint8), self.lengths)

    def _boundaries(self, op: int, cuts: list[Bytes | None]) -> list[Bytes]:
        """Masks of all boundaries; reusing factors right above a cut go below it (they cost nothing there)."""
        reuse = self._of_row(self.tables.reuse_masks[op])
        masks = [self.nothing if op == O else self._skip(self.nothing, reuse)]
        return masks + [self.everything if cut is None else self._skip(cut, reuse) for cut in cuts]

    def _skip(self, cut: Bytes, reuse: Bytes) -> Bytes:
        """The longest prefix that adds nothing but reusing factors to a cut."""
        added = self.prefix & ~(cut | reuse)
        longest: Bytes = (self.prefix & _ones(added == 0)).max(axis=0)
        return longest

    def _top_run(self, op: int, level: int, flags: Bytes) -> Bytes:
        """The flagged factors that end right below the cut over a level, within that level."""
        above = self._above(op, level)
        if level:
            flags = flags & ~self.masks[op][level]
        other = above & ~self.prefix & ~flags
        shortest = (self.prefix | _ones(other != 0)).min(axis=0)
        run: Bytes = above & ~shortest
        return run

    def _above(self, op: int, level: int) -> Bytes:
        last = level + 1 == len(self.masks[op])
        return self.everything if last else self.masks[op][level + 1]

    def _surely_buffered(self, index: int) -> bool:
        """Whether half of a memory stays free whatever the order."""
        t = self.tables
        bits = np.zeros(t.count)
        for op, level in self.hierarchy.held_in(index):
            width = t.rows.bits[:, 2:].max(axis=1) if op == O else t.rows.bits[:, op]
            bits = bits + np.rint(t.held_at_full(op, level)) * width
        return bool((bits <= 0.5 * self.hierarchy.core.memories[index].size_bits).all())

    def _find_runs(self) -> dict[tuple[int, int, bool], Bytes]:
        runs = {}
        for index in range(len(self.hierarchy.core.memories)):
            levels = self.hierarchy.held_in(index)
            inner = any(level + 1 < len(self.masks[op]) for op, level in levels)
            if inner and not self._surely_buffered(index):
                for op, level in levels:
                    for reuse in (True, False):
                        masks = self.tables.reuse_masks[op] if reuse else self.tables.fresh_masks[op]
                        runs[op, level, reuse] = self._top_run(op, level, self._of_row(masks))
        return runs

    def _distinct(self, runs: list[Bytes], valid: Flags) -> NDArray[np.intp]:
        """Indices of orders that differ in a mask that matters, and are valid.

        Row and masks are mixed to a key of 64 bits (two different ones share a key with a chance of 2^-64). Of orders
        that fall into one slot of a table the first speaks for those with its key; every other one is kept, so that
        nothing is lost when slots clash and the first of equals always stays.
        """
        same_in_row = (id(self.nothing), id(self.everything))
        columns = [m for masks in self.masks for m in masks if id(m) not in same_in_row] + runs
        words = np.zeros((self.row.size, -(-len(columns) // 8) * 8), dtype=np.uint8)
        for i, column in enumerate(columns):
            words[:, i] = column
        key = self.row.astype(np.uint64)
        for word in words.view(np.uint64).T:
            key = (key * HASH[0] ^ word) * HASH[1]
            key ^= key >> np.uint64(29)
        slots = 1 << max(10, key.size.bit_length())
        slot = (key & np.uint64(slots - 1)).astype(np.int32)
        table = np.zeros(slots, dtype=np.int32)
        numbers = np.flatnonzero(valid) if not valid.all() else np.arange(key.size)
        slot = slot[numbers]
        table[slot[::-1]] = numbers[::-1]
        speaker = table[slot]
        kept: NDArray[np.intp] = numbers[(key[speaker] != key[numbers]) | (speaker == numbers)]
        return kept


def _bound(orders: Orders, hierarchy: Hierarchy, passes: float) -> Floats:
    """(orders,) cycles that no order undercuts.

    A port that must move more than the computation has cycles for stalls for the rest; what crosses an operand's
    highest boundary first (outputs: last) is loaded by itself, at least one innermost tile of it.
    """
    t = orders.tables
    total = t.total[orders.row, 0]
    traffic = np.zeros(orders.row.size)
    waits: list[Floats] = [np.zeros(orders.row.size) for _ in range(3)]
    held = [orders.held_bits(op, 0) for op in (I, W, O)]
    for gate in hierarchy.gates:
        if gate.uses:
            traffic = np.maximum(traffic, _traffic(orders, gate))
        for use in gate.uses:
            op, b = use.operand, use.boundary
            if not use.partial and 0 < b == len(hierarchy.levels[op]) - 1:
                wait = orders.crossing(t.transfer(op, b, use.upper, gate.bits), op, b)
                least = np.ceil(held[op] / gate.bits)
                once = orders.crossing(t.times, op, b) == 1.0
                waits[op] = np.maximum(waits[op], np.where(once, np.minimum(wait, least), wait))
    stall = np.maximum(traffic - total * np.ceil(passes), 0.0)
    drain = t.drain(hierarchy.core)[orders.row]
    return np.asarray(total * passes + stall + drain + np.maximum(waits[I], waits[W]) + waits[O])


def _traffic(orders: Orders, gate: Gate) -> Floats:
    """(orders,) cycles that a port needs for all transfers but each duty's first."""
    t = orders.tables
    traffic = np.zeros(orders.row.size)
    for op, b in dict.fromkeys((use.operand, use.boundary) for use in gate.uses):
        here = [use for use in gate.uses if (use.operand, use.boundary) == (op, b)]
        table = sum((t.again(op, b, use.upper, use.partial, gate.bits) for use in here), start=np.zeros((1, 1)))
        traffic += orders.crossing(table, op, b)
    return traffic


def _first_least(values: Floats, row: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows that have an order at all, and the first index of the least value of each (orders lie row by row)."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    if not starts.size:
        return starts, starts
    lengths = np.diff(starts, append=row.size)
    first = np.flatnonzero(values == np.repeat(np.minimum.reduceat(values, starts), lengths))
    rows, where = np.unique(row[first], return_index=True)
    return rows, first[where]


def _ones(flags: Flags) -> Bytes:
    """All bits where a flag is set: masks are chosen faster by bits than by branches."""
    ones: Bytes = np.negative(flags.view(np.uint8))
    return ones
