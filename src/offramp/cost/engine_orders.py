"""Chains of sets made orders of loops: which factor of a piece between two cuts comes first, and what follows from it.

Between two cuts the order is free. It decides how long the array's own registers keep an input or a weight (the
reusing factors innermost of all), and what lies on top of a level that has no room for a second tile: where reusing
factors are on top the level is refilled late, where fresh ones are it empties bit by bit. So every chain is tried with
each operand's wishes first, innermost and on top. No costs here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_chains import Chains
from offramp.cost.engine_hierarchy import Hierarchy
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_loops import Bytes
from offramp.cost.engine_tables import I, O, Tables, W

Run = tuple[int, int, bool]
"""(operand, level, reusing or fresh)."""

WISHES = tuple((inner, first) for inner in (I, W) for first in ((O, W, I), (W, I, O), (I, O, W)))
"""Whose reusing factors go innermost, and whose wishes for the top of its levels come first."""


@dataclass(frozen=True, slots=True, eq=False)
class Orders:
    """Orders of the loop factors of some rows, told apart by what lies below each boundary.

    Attributes:
        hierarchy: the one whose boundaries the masks are of.
        row: (orders,) row of each.
        masks: per operand and boundary, (orders,) factors below it.
        runs: factors on top of a level, where its refilling may wait, (orders,) for each.
        base: (orders,) place of the row in a flattened (rows, masks) table.
        prefix: (loops + 1, orders) factors in the first places; empty before an order is chosen.
    """

    tables: Tables
    hierarchy: Hierarchy
    row: NDArray[np.intp]
    masks: list[list[Bytes]]
    runs: dict[Run, Bytes]
    base: NDArray[np.intp]
    prefix: Bytes
    places: dict[tuple[int, int], NDArray[np.intp]] = field(default_factory=dict)

    def take(self, chosen: NDArray[np.intp]) -> "Orders":
        """Some of the orders."""
        return Orders(
            tables=self.tables,
            hierarchy=self.hierarchy,
            row=self.row.take(chosen),
            masks=[[m.take(chosen) for m in masks] for masks in self.masks],
            runs={k: m.take(chosen) for k, m in self.runs.items()},
            base=self.base.take(chosen),
            prefix=self.prefix.take(chosen, axis=1),
        )

    def place(self, op: int, b: int) -> NDArray[np.intp]:
        """Place of what lies below a boundary in a flattened (rows, masks) table; one beyond the last is everything."""
        if (op, b) not in self.places:
            mask = self.masks[op][b] if b < len(self.masks[op]) else self.tables.full[self.row]
            self.places[op, b] = self.base + mask
        return self.places[op, b]

    def crossing(self, table: NDArray[Any], op: int, b: int) -> NDArray[Any]:
        """Values of a (rows, masks) or (rows, 1) table at each order's mask below a boundary."""
        return table.take(self.row if table.shape[1] == 1 else self.place(op, b))

    def held_bits(self, op: int, level: int) -> Floats:
        """Bits of a level's tile."""
        t = self.tables
        bits = t.rows.bits[:, 2 if op == O else op].take(self.row)
        if op == O and level + 1 < len(self.masks[op]):
            unfinished = self.crossing(t.partial(level + 1), op, level + 1)
            bits = np.where(unfinished, t.rows.bits[:, 3].take(self.row), bits)
        held: Floats = self.crossing(t.tile(op, level, exact=True), op, level + 1) * bits
        return held


def unordered(chains: Chains, hierarchy: Hierarchy) -> Orders:
    """Chains before an order is chosen: what the array's registers reuse is taken to be all that they could."""
    t, row = chains.tables, chains.row
    inner = [t.reuse_masks[op].astype(np.uint8)[row] if op != O else np.zeros(row.size, np.uint8) for op in (I, W, O)]
    masks = [
        [inner[op], *(chains.mask(op, b) for b in range(1, len(hierarchy.levels[op])))] for op in (I, W, O)
    ]
    nothing = np.zeros((0, row.size), dtype=np.uint8)
    return Orders(t, hierarchy, row, masks, {}, row * t.masks.size, nothing)


def ordered(chains: Orders) -> Orders:
    """Every chain with the orders that differ."""
    often, count = len(WISHES), chains.row.size
    repeated = chains.take(np.tile(np.arange(count), often))
    t, row = chains.tables, repeated.row
    prefix = _prefixes(_places(chains))
    lowest = [_inner(prefix, t.reuse_masks[op].astype(np.uint8)[row]) if op != O else repeated.masks[O][0] for op in (I, W, O)]
    masks = [[lowest[op], *repeated.masks[op][1:]] for op in (I, W, O)]
    orders = with_runs(replace(repeated, masks=masks, prefix=prefix, places={}))
    return orders.take(_different([lowest[I], lowest[W], *orders.runs.values()], often))


def with_runs(orders: Orders) -> Orders:
    """The same orders with what lies on top of their levels."""
    return replace(orders, runs=_runs(orders), places={})


def _places(chains: Orders) -> NDArray[np.uint8]:
    """(loops, wishes * chains) place of every factor."""
    t, n = chains.tables, chains.row.size
    known = [m for masks in chains.masks for m in masks[1:]]
    ranks = np.stack([_classes(t, op)[chains.row].T for op in (I, W, O)]).astype(np.uint16)
    keys = np.empty((t.loops, len(WISHES), n), dtype=np.uint16)
    for f in range(t.loops):
        below, piece = np.zeros(n, np.uint8), np.zeros(n, np.uint16)
        for mask in known:
            lacks = (mask >> f & 1) == 0
            below = np.maximum(below, np.where(lacks, mask, 0))
            piece += lacks
        for w, (inner, first) in enumerate(WISHES):
            early = (ranks[inner, f] == 0) & (below & ~t.reuse_masks[inner].astype(np.uint8)[chains.row] == 0)
            wish = (ranks[first[0], f] * 3 + ranks[first[1], f]) * 3 + ranks[first[2], f]
            keys[f, w] = ((piece * 2 + ~early) * 27 + wish) * 8 + f
    keys = keys.reshape(t.loops, -1)
    places = np.zeros(keys.shape, dtype=np.uint8)
    for f in range(t.loops):
        for g in range(f):
            later = keys[f] > keys[g]
            places[f] += later
            places[g] += ~later
    return places


def _classes(t: Tables, op: int) -> NDArray[np.uint8]:
    """(rows, loops) what a factor is to an operand: 0 reusing, 1 part of a window, 2 fresh; 3 beyond the last."""
    bits = np.arange(t.loops)
    reusing, fresh = ((masks[op][:, None] >> bits & 1).astype(bool) for masks in (t.reuse_masks, t.fresh_masks))
    return np.where(t.real, np.where(reusing, 0, np.where(fresh, 2, 1)), 2).astype(np.uint8)


def _prefixes(places: NDArray[np.uint8]) -> Bytes:
    """(loops + 1, orders) factors in the first places."""
    loops, orders = places.shape
    prefix = np.zeros((loops + 1, orders), dtype=np.uint8)
    for f in range(loops):
        prefix[1:] |= (places[f] < np.arange(1, loops + 1, dtype=np.uint8)[:, None]).view(np.uint8) << f
    return prefix


def _inner(prefix: Bytes, reuse: Bytes) -> Bytes:
    """The longest prefix of nothing but reusing factors."""
    longest: Bytes = (prefix & _ones(prefix & ~reuse == 0)).max(axis=0)
    return longest


def _runs(orders: Orders) -> dict[Run, Bytes]:
    """Reusing and fresh factors on top of every level that may have no room to be refilled while it is read."""
    t, runs = orders.tables, {}
    for index in range(len(orders.hierarchy.core.memories)):
        levels = orders.hierarchy.held_in(index)
        inner = any(level + 1 < len(orders.masks[op]) for op, level in levels)
        if inner and not _surely_buffered(orders, index):
            for op, level in levels:
                for reuse, masks in ((True, t.reuse_masks[op]), (False, t.fresh_masks[op])):
                    runs[op, level, reuse] = _top_run(orders, op, level, masks.astype(np.uint8)[orders.row])
    return runs


def _surely_buffered(orders: Orders, index: int) -> bool:
    """Whether half of a memory stays free whatever the order."""
    t = orders.tables
    bits = np.zeros(t.count)
    for op, level in orders.hierarchy.held_in(index):
        width = t.rows.bits[:, 2:].max(axis=1) if op == O else t.rows.bits[:, op]
        bits = bits + np.rint(t.held_at_full(op, level)) * width
    return bool((bits <= 0.5 * orders.hierarchy.core.memories[index].size_bits).all())


def _top_run(orders: Orders, op: int, level: int, flags: Bytes) -> Bytes:
    """The flagged factors that end right below the cut over a level, within that level."""
    masks = orders.masks[op]
    above = masks[level + 1] if level + 1 < len(masks) else orders.tables.full.astype(np.uint8)[orders.row]
    if level:
        flags = flags & ~masks[level]
    other = above & ~orders.prefix & ~flags
    shortest = (orders.prefix | _ones(other != 0)).min(axis=0)
    run: Bytes = above & ~shortest
    return run


def _different(columns: Sequence[Bytes], often: int) -> NDArray[np.intp]:
    """Indices of the orders that no earlier order of the same chain equals in all columns."""
    words = np.zeros((columns[0].size, -(-len(columns) // 8) * 8), dtype=np.uint8)
    for i, column in enumerate(columns):
        words[:, i] = column
    keys = words.view(np.uint64).reshape(often, -1, words.shape[1] // 8)
    new = np.ones(keys.shape[:2], dtype=bool)
    for later in range(1, often):
        for earlier in range(later):
            new[later] &= (keys[later] != keys[earlier]).any(axis=1)
    return np.flatnonzero(new.ravel())


def _ones(flags: NDArray[np.bool_]) -> Bytes:
    """All bits where a flag is set: masks are chosen faster by bits than by branches."""
    ones: Bytes = np.negative(flags.view(np.uint8))
    return ones
