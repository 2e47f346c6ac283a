"""Chains of sets made orders of loops: which factor of a piece between two cuts comes first, and what follows from it.

Between two cuts the order is free. It decides how long the array's own registers keep an input or a weight (the
reusing factors innermost of all), and what lies on top of a level that has no room for a second tile: where reusing
factors are on top the level is refilled late, where fresh ones are it empties bit by bit. So every chain is tried with
each operand's wishes first, innermost and on top. No costs here.
"""

from collections.abc import Iterator, Sequence
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
    masks = [[inner[op], *(chains.mask(op, b) for b in range(1, len(hierarchy.levels[op])))] for op in (I, W, O)]
    nothing = np.zeros((0, row.size), dtype=np.uint8)
    return Orders(t, hierarchy, row, masks, {}, row * t.masks.size, nothing)


def ordered(chains: Orders) -> Orders:
    """Every chain with the orders that differ."""
    often, count = len(WISHES), chains.row.size
    repeated = chains.take(np.tile(np.arange(count), often))
    t, row = chains.tables, repeated.row
    prefix = _prefixes(_places(chains))
    lowest = [
        _inner(prefix, t.reuse_masks[op].astype(np.uint8)[row]) if op != O else repeated.masks[O][0] for op in (I, W, O)
    ]
    masks = [[lowest[op], *repeated.masks[op][1:]] for op in (I, W, O)]
    orders = with_runs(replace(repeated, masks=masks, prefix=prefix, places={}))
    return orders.take(_different([lowest[I], lowest[W], *orders.runs.values()], often))


def joined(parts: Sequence[Orders]) -> Orders:
    """Orders of the same rows and hierarchy, one after the other."""
    first = parts[0]
    return Orders(
        tables=first.tables,
        hierarchy=first.hierarchy,
        row=np.concatenate([p.row for p in parts]),
        masks=[
            [np.concatenate([p.masks[op][b] for p in parts]) for b in range(len(first.masks[op]))] for op in (I, W, O)
        ],
        runs={run: np.concatenate([p.runs[run] for p in parts]) for run in first.runs},
        base=np.concatenate([p.base for p in parts]),
        prefix=np.concatenate([p.prefix for p in parts], axis=1),
    )


def with_runs(orders: Orders) -> Orders:
    """The same orders with what lies on top of their levels."""
    return replace(orders, runs=_runs(orders), places={})


def _places(chains: Orders) -> NDArray[np.uint8]:
    """(loops, wishes * chains) place of every factor."""
    t, bits = chains.tables, np.arange(chains.tables.loops, dtype=np.uint8)[:, None]
    ranks = [_classes(t, op).T[:, chains.row] for op in (I, W, O)]
    below, piece = np.zeros(ranks[0].shape, np.uint8), np.zeros(ranks[0].shape, np.uint16)
    for mask in (m for masks in chains.masks for m in masks[1:]):
        lacks = (mask >> bits & 1) == 0
        np.maximum(below, mask * lacks, out=below)
        piece += lacks
    keys = np.empty((t.loops, len(WISHES), chains.row.size), dtype=np.uint16)
    for w, (inner, first) in enumerate(WISHES):
        late = (ranks[inner] != 0) | (below & ~t.reuse_masks[inner].astype(np.uint8)[chains.row] != 0)
        wish = (ranks[first[0]] * np.uint8(3) + ranks[first[1]]) * np.uint8(3) + ranks[first[2]]
        keys[:, w] = ((piece * 2 + late) * 27 + wish) * 8 + bits
    flat = keys.reshape(t.loops, -1)
    return np.stack([(flat < key).sum(axis=0, dtype=np.uint8) for key in flat])


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


def with_least_runs(orders: Orders) -> Orders:
    """Chains with the runs on top of their levels that hinder refilling least, whatever order is chosen."""
    runs: dict[Run, Bytes] = {}
    masks = [m for masks in orders.masks for m in masks[1:]]
    for op, level in _unsure(orders):
        above = _above(orders, op, level)
        within = above & ~orders.masks[op][level] if level else above
        piece = above & ~np.stack([m * (m < above) for m in masks]).max(axis=0) & within
        reuse, fresh = (
            every[op].astype(np.uint8)[orders.row] for every in (orders.tables.reuse_masks, orders.tables.fresh_masks)
        )
        runs[op, level, True] = (piece & _ones(piece & ~reuse == 0)) | (within & _ones(within & ~reuse == 0))
        runs[op, level, False] = within & fresh
    return replace(orders, runs=runs, places={})


def _runs(orders: Orders) -> dict[Run, Bytes]:
    """Reusing and fresh factors on top of every level that may have no room to be refilled while it is read."""
    t, runs = orders.tables, {}
    for op, level in _unsure(orders):
        for reuse, masks in ((True, t.reuse_masks[op]), (False, t.fresh_masks[op])):
            runs[op, level, reuse] = _top_run(orders, op, level, masks.astype(np.uint8)[orders.row])
    return runs


def _unsure(orders: Orders) -> Iterator[tuple[int, int]]:
    """(operand, level) of the levels that may have no room to be refilled while they are read."""
    for index in range(len(orders.hierarchy.core.memories)):
        levels = orders.hierarchy.held_in(index)
        inner = any(level + 1 < len(orders.masks[op]) for op, level in levels)
        if inner and not _surely_buffered(orders, index):
            yield from levels


def _above(orders: Orders, op: int, level: int) -> Bytes:
    masks = orders.masks[op]
    everything: Bytes = orders.tables.full.astype(np.uint8)[orders.row]
    return masks[level + 1] if level + 1 < len(masks) else everything


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
    above = _above(orders, op, level)
    if level:
        flags = flags & ~orders.masks[op][level]
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
