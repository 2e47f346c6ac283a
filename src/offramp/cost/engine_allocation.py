"""Which factors of an order each memory keeps: greedy from the array outwards, as LOMA allocates (Symons et al., AICAS
2021).

A memory takes for each of its operands as many of the next factors as fit; operands that share it divide it so that
the traffic to the memories above is least. The highest memory of an operand must take all that is left. A cut is the
mask of all factors kept at or below a level. No bandwidths and no energies here.
"""

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_hierarchy import Hierarchy
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_loops import Bytes
from offramp.cost.engine_tables import O, Tables

Flags = NDArray[np.bool_]


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


class Allocator:
    """Allocates all orders of a batch of rows.

    Attributes:
        cuts: per operand, masks (orders,) per level but the highest; None where every order keeps everything.
        valid: (orders,) whether everything fits.
    """

    def __init__(
        self, tables: Tables, hierarchy: Hierarchy, prefix: Bytes, row: NDArray[np.intp], whole: Flags
    ) -> None:
        self.tables, self.hierarchy, self.prefix, self.row = tables, hierarchy, prefix, row
        self.valid: Flags = np.ones(row.size, dtype=bool)
        self.cuts: list[list[Bytes | None]] = [[], [], []]
        self._index: NDArray[np.intp] | None = None
        h = hierarchy
        last: list[Bytes | None] = [prefix[0], prefix[0], prefix[0]]
        for index in range(len(h.core.memories)):
            held = [op for op, levels in enumerate(h.levels) if index in levels]
            chosen: list[Bytes | None] = [None] * len(held)
            if not whole[index]:
                chosen = self._divide(index, held, last)
            for op, cut in zip(held, chosen, strict=True):
                last[op] = cut
                if index != h.levels[op][-1]:
                    self.cuts[op].append(cut)

    @property
    def index(self) -> NDArray[np.intp]:
        """(loops - 1, orders) places of the prefixes, but the empty and the full one, in a flattened (rows, masks)."""
        if self._index is None:
            self._index = self.row * self.tables.masks.size + self.prefix[1:-1]
        return self._index

    def _at_prefixes(self, table: NDArray[Any]) -> NDArray[Any]:
        """(loops + 1, orders) values of a (rows, masks) table at every prefix."""
        values = np.empty(self.prefix.shape, dtype=table.dtype)
        values[0], values[-1] = table[:, 0][self.row], self.tables.at_full(table)[self.row]
        np.take(table, self.index, out=values[1:-1], mode="clip")
        return values

    def _divide(self, memory: int, held: list[int], last: list[Bytes | None]) -> list[Bytes | None]:
        """Divide one memory between its operands."""
        h = self.hierarchy
        tops = [memory == h.levels[op][-1] for op in held]
        levels = [h.levels[op].index(memory) for op in held]
        if len(held) == 1 and not tops[0]:
            return [self._alone(memory, held[0], levels[0], last[held[0]])]
        return self._shared(memory, held, levels, tops, last)

    def _alone(self, memory: int, op: int, level: int, start: Bytes | None) -> Bytes | None:
        """The longest prefix that fits."""
        if start is None:
            return None
        spec = self.hierarchy.core.memories[memory]
        partial, final = (s <= spec.size_bits for s in self._sizes(op, level, double=spec.double_buffered))
        cut, fits = self._longest(partial), self._lookup(partial, start)
        if op == O and level:
            choose = self._lookup(self.tables.partial(level), start)
            cut = np.where(choose, cut, self._longest(final))
            fits = np.where(choose, fits, self._lookup(final, start))
        self.valid &= fits
        return cut

    def _longest(self, fits: Flags) -> Bytes:
        """The longest prefix for which a (rows, masks) table is true: prefixes grow, so do their masks."""
        kept = np.where(fits, self.tables.masks, 0).astype(np.uint8)
        longest: Bytes = self._at_prefixes(kept).max(axis=0)
        return longest

    def _lookup(self, table: NDArray[Any], mask: Bytes) -> NDArray[Any]:
        """Values of a (rows, masks) table at one mask of each order."""
        return np.take(table, self.row * self.tables.masks.size + mask)

    def _sizes(self, op: int, level: int, *, double: bool) -> tuple[Floats, Floats]:
        """(rows, masks) bits of a level's tile as the level starts: with partial sums still to come, and without."""
        t = self.tables
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

    def _shared(
        self, memory: int, held: list[int], levels: list[int], tops: list[bool], last: list[Bytes | None]
    ) -> list[Bytes | None]:
        """Try all divisions of a shared memory; of equals the last wins, as in LOMA."""
        spec = self.hierarchy.core.memories[memory]
        starts = [self.prefix[-1] if (kept := last[op]) is None else kept for op in held]
        sizes = [self._bits(*at, double=spec.double_buffered) for at in zip(held, levels, starts, strict=True)]
        self.valid &= self._starts_fit(sizes, starts, tops, spec.size_bits)
        for bits, start, top in zip(sizes, starts, tops, strict=True):
            if not top:
                bits[(self.prefix & start) != start] = np.inf
        masks = self._best_division(sizes, tops, float(spec.size_bits))
        return [None if top else mask for top, mask in zip(tops, masks, strict=True)]

    def _bits(self, op: int, level: int, start: Bytes, *, double: bool) -> Floats:
        """(loops + 1, orders) bits of every prefix in a memory."""
        partial, final = self._sizes(op, level, double=double)
        bits = self._at_prefixes(final)
        if op == O and level:
            choose = self._lookup(self.tables.partial(level), start)
            np.copyto(bits, self._at_prefixes(partial), where=choose)
        return bits

    def _best_division(self, sizes: list[Floats], tops: list[bool], room: float) -> list[Bytes]:
        """Masks that the operands keep, the last operand as much as the others leave; infinite sizes never fit."""
        n, orders = len(self.prefix) - 1, self.row.size
        left = self._at_prefixes(self.tables.total / self.tables.cycles)
        most = _Most(sizes[-1], left, top=tops[-1])
        best, chosen = np.full(orders, np.inf), [np.zeros(orders, dtype=np.uint8) for _ in sizes]
        for cut in product(*([n] if top else range(n + 1) for top in tops[:-1])):
            free, cost = np.full(orders, room), np.zeros(orders)
            for size, q, top in zip(sizes, cut, tops, strict=False):
                free -= size[q]
                if not top:
                    cost += size[q] * left[q]
            rest, place = most(free)
            cost += rest
            better = cost <= best
            np.copyto(best, cost, where=better)
            for kept, found in zip(chosen, (*(self.prefix[q] for q in cut), place), strict=True):
                np.copyto(kept, found, where=better)
        self.valid &= np.isfinite(best)
        return [*chosen[:-1], self.prefix[chosen[-1], np.arange(orders)]]

    def _starts_fit(self, sizes: list[Floats], starts: list[Bytes], tops: list[bool], room: int) -> Flags:
        """Whether what is already kept below fits together, as LOMA demands before it adds factors."""
        least = np.zeros(self.row.size)
        for bits, start, top in zip(sizes, starts, tops, strict=True):
            own = bits[-1]
            if not top:
                place = (self.prefix < start).sum(axis=0)
                own = bits[place, np.arange(self.row.size)]
            least = least + own
        return np.asarray(least <= room)


class _Most:
    """The longest prefix of one operand that fits in what is left: more kept is never more traffic above."""

    def __init__(self, sizes: Floats, left: Floats, *, top: bool) -> None:
        self.sizes, self.top = sizes, top
        self.ranks = np.arange(len(sizes), dtype=np.uint8)[:, None]
        self.orders = np.arange(sizes.shape[1])
        self.costs = (sizes * left).ravel()

    def __call__(self, room: Floats) -> tuple[Floats, Bytes]:
        """Traffic (infinite where nothing fits) and place of the prefix."""
        if self.top:
            return np.where(self.sizes[-1] <= room, 0.0, np.inf), np.full(room.size, len(self.sizes) - 1, np.uint8)
        fits = self.sizes <= room
        place = (fits * self.ranks).max(axis=0)
        cost = np.take(self.costs, place * np.intp(room.size) + self.orders)
        return np.where(fits.any(axis=0), cost, np.inf), place
