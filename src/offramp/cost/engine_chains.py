"""Which loop factors every memory may keep: all nested sets that fit, for every row of a batch.

A mapping keeps below each boundary a set of loop factors, written as a bit mask; the sets of all operands and levels
nest, since they are prefixes of one order of the loops. What may be kept depends on the size of a memory alone, and a
larger memory may keep all that a smaller one may: from this follows that more memory never costs more cycles
(docs/formulas.md). No bandwidths and no energies here.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_hierarchy import Hierarchy
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_loops import Bytes, kept_masks
from offramp.cost.engine_tables import I, O, Tables, W

Flags = NDArray[np.bool_]

Slot = tuple[int, int]
"""(operand, boundary) of a cut that has to be chosen."""


def fits_whole(tables: Tables) -> Flags:
    """(rows, memories) whether a memory can take all loops of all its operands at once."""
    h = tables.hierarchy
    columns = []
    for index, memory in enumerate(h.core.memories):
        held = [(op, levels.index(index)) for op, levels in enumerate(h.levels) if index in levels]
        need = sum((_whole_bits(tables, op, level) for op, level in held), start=np.zeros(tables.count))
        columns.append(need <= memory.size_bits)
    return np.stack(columns, axis=1)


def _whole_bits(tables: Tables, op: int, level: int) -> Floats:
    tile = tables.held_at_full(op, level)
    bits = tables.rows.bits[:, 2:].max(axis=1) if op == O else tables.rows.bits[:, op]
    return np.asarray(tile * bits)


class Chains:
    """All nested sets that fit.

    Attributes:
        row: (chains,) row of each.
        cuts: per operand, masks (chains,) at every boundary but that of the array.
    """

    def __init__(self, tables: Tables, hierarchy: Hierarchy, whole: Flags) -> None:
        """List the chains of a batch; `whole` (rows, memories) says which memories must take everything."""
        self.tables, self.hierarchy, self.whole = tables, hierarchy, whole
        self.row: NDArray[np.intp] = np.arange(tables.count)
        self.chosen: dict[Slot, Bytes] = {}
        lists = {
            (op, b): self._allowed(op, b) for op in (I, W, O) for b in range(1, len(hierarchy.levels[op]))
        }
        for slot in sorted(lists, key=lambda slot: int(lists[slot].sum())):
            self._join(slot, lists[slot])
            self._check(slot)
        self._check(None)
        self.cuts = [[self.chosen[op, b] for b in range(1, len(hierarchy.levels[op]))] for op in (I, W, O)]

    def _allowed(self, op: int, b: int) -> Flags:
        """(rows, masks) sets that one memory may keep of one operand as far as that operand alone tells."""
        t, memory = self.tables, self.hierarchy.levels[op][b - 1]
        spec = self.hierarchy.core.memories[memory]
        sizes = np.minimum(*self._sizes(op, b - 1, double=spec.double_buffered))
        everything = t.masks == t.full[:, None]
        return np.where(self.whole[:, memory, None], everything, kept_masks(t.rows.patterns, t.loops) & (sizes <= spec.size_bits))

    def _join(self, slot: Slot, allowed: Flags) -> None:
        """Extend every chain by every set of one more cut with which it nests."""
        count = allowed.sum(axis=1)
        values = np.nonzero(allowed)[1].astype(np.uint8)
        start = np.cumsum(count) - count
        often = count[self.row]
        source = np.repeat(np.arange(self.row.size), often)
        offset = np.arange(source.size) - np.repeat(np.cumsum(often) - often, often)
        new = values[start[self.row][source] + offset]
        fits = np.ones(new.size, dtype=bool)
        for (op, b), mask in self.chosen.items():
            old = mask[source]
            both = old & new
            if op == slot[0]:
                fits &= both == (old if b < slot[1] else new)
            else:
                fits &= (both == old) | (both == new)
        self.chosen[slot] = new
        kept = np.flatnonzero(fits)
        self.chosen = {s: m[source[kept]] for s, m in self.chosen.items() if s != slot} | {slot: new[kept]}
        self.row = self.row[source[kept]]

    def _check(self, slot: Slot | None) -> None:
        """Drop chains that overfill a memory all of whose sets have just become known (None: by the layer itself)."""
        h = self.hierarchy
        for memory, spec in enumerate(h.core.memories):
            held = [(op, levels.index(memory)) for op, levels in enumerate(h.levels) if memory in levels]
            slots = {(op, at) for op, level in held for at in (level, level + 1) if 0 < at < len(h.levels[op])}
            known = slots <= self.chosen.keys() and (slot in slots if slots else slot is None)
            if not known or self.whole[:, memory].all():
                continue
            need = sum(
                (self._need(op, level, double=spec.double_buffered) for op, level in held), start=np.zeros(self.row.size)
            )
            self._keep(np.flatnonzero((need <= spec.size_bits) | self.whole[self.row, memory]))

    def _keep(self, index: NDArray[np.intp]) -> None:
        if index.size < self.row.size:
            self.row = self.row[index]
            self.chosen = {s: m[index] for s, m in self.chosen.items()}

    def _need(self, op: int, level: int, *, double: bool) -> Floats:
        """(chains,) bits that a level holds."""
        t = self.tables
        above = self.chosen.get((op, level + 1), t.full[self.row])
        partial, final = self._sizes(op, level, double=double)
        bits = self._lookup(final, above)
        if op == O and level:
            unfinished = self._lookup(t.partial(level), self.chosen[op, level])
            bits = np.where(unfinished, self._lookup(partial, above), bits)
        return bits

    def _lookup(self, table: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
        return np.take(table, self.row * self.tables.masks.size + mask)

    def _sizes(self, op: int, level: int, *, double: bool) -> tuple[Floats, Floats]:
        return held_sizes(self.tables, op, level, double=double)


def held_sizes(t: Tables, op: int, level: int, *, double: bool) -> tuple[Floats, Floats]:
    """(rows, masks) bits of a level's tile: where partial sums come into it from below, and where they do not."""
    tile = t.held(op, level)
    if double:
        whole = t.at_full(tile)[:, None]
        tile = np.where(tile < whole, 2.0 * tile, tile)
    if op != O:
        sizes = tile * t.rows.bits[:, op, None]
        return sizes, sizes
    final = tile * t.rows.bits[:, 2, None]
    if level == 0:
        sizes = np.where(t.partial(0)[:, :1], tile * t.rows.bits[:, 3, None], final)
        return sizes, sizes
    return tile * t.rows.bits[:, 3, None], final
