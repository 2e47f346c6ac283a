"""Which loop factors every memory may keep: all nested sets that fit, for every row of a batch.

A mapping keeps below each boundary a set of loop factors, written as a bit mask; the sets of all operands and levels
nest, since they are prefixes of one order of the loops. What may be kept depends on the size of a memory alone, and a
larger memory may keep all that a smaller one may: from this follows that more memory never costs more cycles
(docs/formulas.md). No bandwidths and no energies here.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_hierarchy import Hierarchy
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_loops import Bytes, kept_masks
from offramp.cost.engine_tables import O, Tables

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


@dataclass(frozen=True, slots=True, eq=False)
class Chains:
    """Nested sets of some rows; cuts that are not chosen (yet) are taken to keep everything.

    Attributes:
        row: (chains,) row of each.
        chosen: (chains,) masks of every cut chosen so far.
    """

    tables: Tables
    row: NDArray[np.intp]
    chosen: dict[Slot, Bytes]

    def take(self, index: NDArray[np.intp]) -> "Chains":
        """Some of the chains."""
        return Chains(self.tables, self.row[index], {slot: mask[index] for slot, mask in self.chosen.items()})

    def mask(self, op: int, b: int) -> Bytes:
        """(chains,) factors below a boundary."""
        if (op, b) in self.chosen:
            return self.chosen[op, b]
        everything: Bytes = self.tables.full.astype(np.uint8)[self.row]
        return everything

    def joined(self, slot: Slot, hierarchy: Hierarchy, whole: Flags, *, useful: bool = False) -> "Chains":
        """Every chain extended by every set of one more cut with which it nests, where memories have room for it.

        `whole` (rows, memories) says which memories must take everything; `useful` leaves out cuts that hold more
        than the level below and yet save no traffic, having nothing but new elements on top.
        """
        allowed = _allowed(self.tables, hierarchy, slot, whole)
        count = allowed.sum(axis=1)
        values = np.nonzero(allowed)[1].astype(np.uint8)
        often = count[self.row]
        source = np.repeat(np.arange(self.row.size), often)
        offset = np.arange(source.size) - np.repeat(np.cumsum(often) - often, often)
        new = values[(np.cumsum(count) - count)[self.row][source] + offset]
        nests = np.ones(new.size, dtype=bool)
        for (op, b), mask in self.chosen.items():
            old = mask[source]
            both = old & new
            nests &= both == (old if b < slot[1] else new) if op == slot[0] else (both == old) | (both == new)
        kept = np.flatnonzero(nests)
        if useful:
            kept = kept[self._saves(slot, new[kept], source[kept])]
        chains = self.take(source[kept])
        chains.chosen[slot] = new[kept]
        return chains.fitting(hierarchy, whole, hierarchy.levels[slot[0]][slot[1] - 1])

    def _saves(self, slot: Slot, new: Bytes, source: NDArray[np.intp]) -> Flags:
        """(chains,) whether a cut keeps everything, no more than the cut below it, or a factor that reuses on top."""
        t, (op, b) = self.tables, slot
        row, below = self.row[source], np.zeros_like(new)
        for mask in self.chosen.values():
            below = np.maximum(below, mask[source] * (mask[source] < new))
        least = self.chosen[op, b - 1][source] if (op, b - 1) in self.chosen else np.zeros_like(new)
        saving = (t.full & ~t.fresh_masks[op]).astype(np.uint8)[row]
        return np.asarray((new & ~below & saving != 0) | (new == least) | (new == t.full.astype(np.uint8)[row]))

    def fitting(self, hierarchy: Hierarchy, whole: Flags, first: int = 0) -> "Chains":
        """Without those that overfill a memory, from the first given one on, all of whose cuts are chosen."""
        chains = self
        for index in range(first, len(hierarchy.core.memories)):
            if _slots(hierarchy, index) <= chains.chosen.keys() and not whole[:, index].all():
                fits = chains.bits_in(index, hierarchy) <= hierarchy.core.memories[index].size_bits
                chains = chains.take(np.flatnonzero(fits | whole[chains.row, index]))
        return chains

    def bits_in(self, memory: int, hierarchy: Hierarchy) -> Floats:
        """(chains,) bits that a memory holds."""
        t, total = self.tables, np.zeros(self.row.size)
        double = hierarchy.core.memories[memory].double_buffered
        for op, level in hierarchy.held_in(memory):
            place = self.row * t.masks.size + self.mask(op, level + 1)
            partial, final = held_sizes(t, op, level, double=double)
            bits = final.take(place)
            if op == O and level:
                unfinished = t.partial(level).take(self.row * t.masks.size + self.mask(op, level))
                bits = np.where(unfinished, partial.take(place), bits)
            total += bits
        return total


def start(tables: Tables) -> Chains:
    """One chain of every row, no cut chosen."""
    return Chains(tables, np.arange(tables.count), {})


def cuts_below(hierarchy: Hierarchy, memories: Collection[int]) -> list[Slot]:
    """Cuts that lie above some memories, from the innermost memory outwards."""
    return [
        (op, levels.index(memory) + 1)
        for memory in sorted(memories)
        for op, levels in enumerate(hierarchy.levels)
        if memory in levels[:-1]
    ]


def _slots(hierarchy: Hierarchy, memory: int) -> set[Slot]:
    """Cuts that decide what a memory holds."""
    held = hierarchy.held_in(memory)
    return {(op, b) for op, level in held for b in (level, level + 1) if 0 < b < len(hierarchy.levels[op])}


def _allowed(t: Tables, hierarchy: Hierarchy, slot: Slot, whole: Flags) -> Flags:
    """(rows, masks) sets that one memory may keep of one operand as far as that operand alone tells."""
    op, memory = slot[0], hierarchy.levels[slot[0]][slot[1] - 1]
    spec = hierarchy.core.memories[memory]
    sizes = np.minimum(*held_sizes(t, op, slot[1] - 1, double=spec.double_buffered))
    kept = kept_masks(t.rows.patterns, t.loops) & (sizes <= spec.size_bits)
    whole_only = whole[:, memory] | (t.rows.bits[:, op] == 0)
    return np.where(whole_only[:, None], t.masks == t.full[:, None], kept)


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
