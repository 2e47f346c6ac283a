"""Which factors of an order each memory keeps: greedy from the array outwards, as LOMA allocates (Symons et al., AICAS
2021).

A memory takes for each of its operands as many of the next factors as fit; operands that share it divide it so that
the traffic to the memories above is least. The highest memory of an operand must take all that is left. A cut is the
mask of all factors kept at or below a level. No bandwidths and no energies here.
"""

from itertools import product

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
    tile = tables.at_full(tables.held(op, level))
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
        self._index: list[NDArray[np.intp]] = []
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
    def index(self) -> list[NDArray[np.intp]]:
        """Places of every prefix in a flattened (rows, masks) table."""
        if not self._index:
            base = self.row * self.tables.masks.size
            self._index = [base + p for p in self.prefix]
        return self._index

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
        choose = None if op != O or level == 0 else self._starts_partial(level, start)
        cut = np.zeros_like(start)
        fitted = np.zeros(start.size, dtype=bool)
        for mask, place in zip(self.prefix, self.index, strict=True):
            fits = np.take(partial, place)
            if choose is not None:
                fits = np.where(choose, fits, np.take(final, place))
            fitted |= fits & (mask == start)
            cut = np.where(fits, mask, cut)
        self.valid &= fitted
        return cut

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

    def _starts_partial(self, level: int, start: Bytes) -> Flags:
        place = self.row * self.tables.masks.size + start
        return np.asarray(np.take(self.tables.partial(level), place))

    def _shared(
        self, memory: int, held: list[int], levels: list[int], tops: list[bool], last: list[Bytes | None]
    ) -> list[Bytes | None]:
        """Try all divisions of a shared memory; of equals the last wins, as in LOMA."""
        t, n = self.tables, len(self.prefix) - 1
        spec = self.hierarchy.core.memories[memory]
        left = (t.total / t.cycles).ravel()
        starts = [self.prefix[-1] if (kept := last[op]) is None else kept for op in held]
        sizes, costs = [], []
        for op, level, start in zip(held, levels, starts, strict=True):
            partial, final = (s.ravel() for s in self._sizes(op, level, double=spec.double_buffered))
            choose = self._starts_partial(level, start) if op == O and level else None
            bits = [_pick(partial, final, choose, p) for p in self.index]
            sizes.append(bits)
            costs.append([b * np.take(left, p) for b, p in zip(bits, self.index, strict=True)])
        best = np.full(self.row.size, np.inf)
        chosen = [np.zeros_like(self.prefix[0]) for _ in held]
        for cut in product(*([n] if top else range(n + 1) for top in tops[:-1])):
            room = np.full(self.row.size, float(spec.size_bits))
            cost = np.zeros(self.row.size)
            for i, q in enumerate(cut):
                room = room - sizes[i][q]
                if not tops[i]:
                    cost = cost + costs[i][q]
                    room = np.where((self.prefix[q] & starts[i]) == starts[i], room, -1.0)
            rest, mask = self._most(sizes[-1], costs[-1], starts[-1], room, top=tops[-1])
            better = cost + rest <= best
            best = np.where(better, cost + rest, best)
            for i, found in enumerate((*(self.prefix[q] for q in cut), mask)):
                chosen[i] = np.where(better, found, chosen[i])
        self.valid &= np.isfinite(best) & self._starts_fit(sizes, starts, tops, spec.size_bits)
        return [None if top else mask for top, mask in zip(tops, chosen, strict=True)]

    def _most(
        self, sizes: list[Floats], costs: list[Floats], start: Bytes, room: Floats, *, top: bool
    ) -> tuple[Floats, Bytes]:
        """The longest prefix of one operand that fits in what is left: more kept is never more traffic above."""
        if top:
            return np.where(sizes[-1] <= room, 0.0, np.inf), self.prefix[-1]
        cost, mask = np.full(room.size, np.inf), self.prefix[0]
        for q, (size, own) in enumerate(zip(sizes, costs, strict=True)):
            fits = (size <= room) & ((self.prefix[q] & start) == start)
            cost, mask = np.where(fits, own, cost), np.where(fits, self.prefix[q], mask)
        return cost, mask

    def _starts_fit(self, sizes: list[list[Floats]], starts: list[Bytes], tops: list[bool], room: int) -> Flags:
        """Whether what is already kept below fits together, as LOMA demands before it adds factors."""
        least = np.zeros(self.row.size)
        for bits, start, top in zip(sizes, starts, tops, strict=True):
            own = bits[-1]
            if not top:
                for mask, size in zip(self.prefix, bits, strict=True):
                    own = np.where(mask == start, size, own)
            least = least + own
        return np.asarray(least <= room)


def _pick(partial: Floats, final: Floats, choose: Flags | None, place: NDArray[np.intp]) -> Floats:
    if choose is None:
        return np.take(partial, place)
    return np.where(choose, np.take(partial, place), np.take(final, place))
