"""The search over orders: cuts, stalls, loading and unloading, and the best order of each row.

All orders of a batch of rows lie in one flat axis and look up the tables of `engine_tables`. Orders that no cut tells
apart are priced once. Latency is ZigZag's: ideal cycles, the worst stall of any port (what a port must move beyond
the windows in which it may), loading before and unloading after. The least latency wins, of equals the least energy.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_allocation import Allocator
from offramp.cost.engine_hierarchy import Gate, Hierarchy, Use
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_loops import Bytes, orders_of, pattern_of
from offramp.cost.engine_tables import Boundary, I, Masks, O, Tables, W
from offramp.cost.engine_windows import union_of

Flags = NDArray[np.bool_]

HASH = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)
"""Odd multipliers that mix masks into one key (see `_distinct`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """The best order of every row.

    Attributes:
        cycles, memory_pj: (rows,); infinite where nothing fits.
        onload, stall, offload: (rows,) parts of the cycles.
        masks: per operand and boundary, (rows,) factors below it.
    """

    cycles: Floats
    memory_pj: Floats
    onload: Floats
    stall: Floats
    offload: Floats
    masks: list[list[Masks]]


@dataclass(slots=True, eq=False)
class _Move:
    """What crosses one boundary in every order."""

    place: NDArray[np.intp]
    period: Floats
    count: Floats
    allowed: Floats
    partial: Flags
    table: Boundary


class Search:
    """A batch of rows; `whole` says which memories take everything of every row."""

    def __init__(self, tables: Tables, hierarchy: Hierarchy, whole: Flags, passes: float) -> None:
        self.tables, self.passes, self.hierarchy = tables, passes, hierarchy
        lists = [orders_of(pattern_of(fs), tables.loops) for fs in tables.rows.factors]
        self.prefix: Bytes = np.concatenate(lists, axis=1)
        self.row = np.repeat(np.arange(tables.count), [x.shape[1] for x in lists])
        allocator = Allocator(tables, hierarchy, self.prefix, self.row, whole)
        self.masks = [self._boundaries(op, allocator.cuts[op]) for op in (I, W, O)]
        self.buffered_always = self._surely_buffered()
        self.runs: dict[tuple[int, int, bool], Bytes] = {}
        self._find_runs()
        self._keep(self._distinct(allocator.valid))
        buffered = self._buffered()
        self.moves = [[self._move(op, b, buffered) for b in range(len(self.masks[op]))] for op in (I, W, O)]
        self.known: dict[tuple[object, ...], Floats] = {}

    def narrowed(self, hierarchy: Hierarchy) -> "Search":
        """The same orders where some operands end at a lower memory that takes all of them anyway."""
        view = copy(self)
        view.hierarchy = hierarchy
        view.masks = [m[: len(levels)] for m, levels in zip(self.masks, hierarchy.levels, strict=True)]
        view.moves = [m[: len(levels)] for m, levels in zip(self.moves, hierarchy.levels, strict=True)]
        return view

    def run(self) -> Priced:
        """Price every order and keep the best of each row."""
        energy, stall = self._energy(), self._stall()
        onload, offload = self._loading(stall)
        cycles = self.tables.total[self.row, 0] * self.passes + stall + onload + offload + self._drain()[self.row]
        rows, best = self._best(cycles, energy)

        def spread(values: Floats, missing: float) -> Floats:
            full = np.full(self.tables.count, missing)
            full[rows] = values[best]
            return full

        return Priced(
            cycles=spread(cycles, np.inf),
            memory_pj=spread(energy, np.inf),
            onload=spread(onload, 0.0),
            stall=spread(stall, 0.0),
            offload=spread(offload, 0.0),
            masks=[[spread(m.astype(float), 0).astype(np.intp) for m in masks] for masks in self.masks],
        )

    def _best(self, cycles: Floats, energy: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows that have an order at all, and the index of the best order of each (orders lie row by row)."""
        starts = np.flatnonzero(np.diff(self.row, prepend=-1))
        if not starts.size:
            return starts, starts
        lengths = np.diff(starts, append=self.row.size)
        least = np.repeat(np.minimum.reduceat(cycles, starts), lengths)
        energy = np.where(cycles == least, energy, np.inf)
        first = np.flatnonzero(energy == np.repeat(np.minimum.reduceat(energy, starts), lengths))
        rows, where = np.unique(self.row[first], return_index=True)
        return rows, first[where]

    def _drain(self) -> Floats:
        """(rows,) cycles until the last results have left a systolic array."""
        array = self.hierarchy.core.array
        assert array is not None
        rippling = [i for i, (name, _) in enumerate(array.dimensions) if name in array.systolic]
        drain: Floats = np.maximum(self.tables.rows.given[:, rippling] - 1.0, 0.0).sum(axis=1)
        return drain

    def _of_row(self, masks: Masks) -> Bytes:
        return masks.astype(np.uint8)[self.row]

    def _boundaries(self, op: int, cuts: list[Bytes | None]) -> list[Bytes]:
        """Masks of all boundaries; reusing factors right above a cut go below it (they cost nothing there)."""
        zero = np.zeros(self.row.size, dtype=np.uint8)
        reuse = self._of_row(self.tables.reuse_masks[op])
        full = self._of_row(self.tables.full)
        masks = [zero if op == O else self._skip(zero, reuse)]
        return masks + [full if cut is None else self._skip(cut, reuse) for cut in cuts]

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
        return self._of_row(self.tables.full) if last else self.masks[op][level + 1]

    def _levels_of(self, memory: int) -> list[tuple[int, int]]:
        h = self.hierarchy
        return [(op, h.levels[op].index(memory)) for op in (O, W, I) if memory in h.levels[op]]

    def _surely_buffered(self) -> list[bool]:
        """Per memory, whether half of it stays free whatever the order."""
        t = self.tables
        sure = []
        for index, memory in enumerate(self.hierarchy.core.memories):
            bits = np.zeros(t.count)
            for op, level in self._levels_of(index):
                width = t.rows.bits[:, 2:].max(axis=1) if op == O else t.rows.bits[:, op]
                bits = bits + t.at_full(t.tile(op, level, exact=True)) * width
            sure.append(bool((bits <= 0.5 * memory.size_bits).all()))
        return sure

    def _find_runs(self) -> None:
        for index in range(len(self.hierarchy.core.memories)):
            levels = self._levels_of(index)
            inner = any(level + 1 < len(self.masks[op]) for op, level in levels)
            if inner and not self.buffered_always[index]:
                for op, level in levels:
                    for reuse in (True, False):
                        masks = self.tables.reuse_masks[op] if reuse else self.tables.fresh_masks[op]
                        self.runs[op, level, reuse] = self._top_run(op, level, self._of_row(masks))

    def _distinct(self, valid: Flags) -> NDArray[np.intp]:
        """Indices of orders that differ in a mask that matters, and are valid.

        Row and masks are mixed to a key of 64 bits (two different ones share a key with a chance of 2^-64). Of orders
        that fall into one slot of a table the first speaks for those with its key; every other one is kept, so that
        nothing is lost when slots clash and the first of equals always stays.
        """
        columns = [m for masks in self.masks for m in masks] + list(self.runs.values())
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

    def _keep(self, chosen: NDArray[np.intp]) -> None:
        self.row = self.row[chosen]
        self.masks = [[m[chosen] for m in masks] for masks in self.masks]
        self.runs = {k: m[chosen] for k, m in self.runs.items()}
        self.base = self.row * self.tables.masks.size

    def _lookup(self, table: NDArray[np.generic], mask: Bytes) -> Floats:
        """Values of a (rows, masks) or (rows, 1) table at each order's mask."""
        if table.shape[1] == 1:
            return np.take(table, self.row)
        return np.take(table, self.base + mask)

    def _buffered(self) -> dict[tuple[int, int], Flags]:
        """(operand, level) to where a level can be refilled while it is read: half of it, or what is left, is free."""
        result: dict[tuple[int, int], Flags] = {}
        for index, memory in enumerate(self.hierarchy.core.memories):
            levels = self._levels_of(index)
            if not any(key in self.runs for key in ((op, level, True) for op, level in levels)):
                continue
            used = []
            for op, level in levels:
                run = np.maximum(self._lookup(self.tables.cycles, self.runs[op, level, False]), 1.0)
                used.append(np.floor(self._held_bits(op, level) / run) / memory.size_bits)
            shared = sum(used, start=np.zeros(self.row.size))
            for key, own in zip(levels, used, strict=True):
                half, rest = shared <= 0.5, own <= 1.0 - shared
                result[key] = half | rest
                shared = np.where(rest & ~half, shared + own, shared)
        return result

    def _held_bits(self, op: int, level: int) -> Floats:
        """Bits of a level's tile."""
        t = self.tables
        mask = self._above(op, level)
        tile = self._lookup(t.tile(op, level, exact=True), mask)
        bits = t.rows.bits[self.row, 2 if op == O else op]
        if op == O and level + 1 < len(self.masks[op]):
            unfinished = self._lookup(t.partial(level + 1), mask)
            bits = np.where(unfinished, t.rows.bits[self.row, 3], bits)
        held: Floats = tile * bits
        return held

    def _move(self, op: int, b: int, buffered: dict[tuple[int, int], Flags]) -> _Move:
        t, mask = self.tables, self.masks[op][b]
        period = self._lookup(t.cycles, mask)
        allowed = period
        if b and (op, b - 1) in buffered:
            run = self._lookup(t.cycles, self.runs[op, b - 1, True])
            allowed = np.where(buffered[op, b - 1], period, np.floor(period / run))
        table = t.boundary(op, b)
        return _Move(
            place=self.base + mask,
            period=np.ceil(period * self.passes),
            count=np.floor(t.total[self.row, 0] / period),
            allowed=np.ceil(allowed * self.passes),
            partial=np.asarray(self._lookup(table.partial, mask), dtype=bool),
            table=table,
        )

    def _energy(self) -> Floats:
        total = np.zeros(self.row.size)
        for moves in self.moves:
            for m in moves:
                key = ("energy", id(m))
                total = total + self._once(key, partial(self._at, m, m.table.energy_upper + m.table.energy_lower))
        return total

    def _real(self, use: Use, gate: Gate) -> Floats:
        """Cycles that one transfer takes at a port."""
        m = self.moves[use.operand][use.boundary]
        bits = m.table.bits_upper if use.upper else m.table.bits_lower
        key = ("real", use.operand, use.boundary, use.upper, gate.bits)
        return self._once(key, partial(self._at, m, np.ceil(bits / gate.bits)))

    def _once(self, key: tuple[object, ...], make: Callable[[], Floats]) -> Floats:
        """A value that all variants of these orders share."""
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def _at(self, move: _Move, table: Floats) -> Floats:
        return np.take(table, self.row if table.shape[1] == 1 else move.place)

    def _stall(self) -> Floats:
        """Cycles lost at the port that falls behind most."""
        worst = np.zeros(self.row.size)
        for gate in self.hierarchy.gates:
            if gate.uses:
                worst = np.maximum(worst, self._once(("stall", gate), partial(self._gate_stall, gate)))
        return worst

    def _gate_stall(self, gate: Gate) -> Floats:
        behind = ahead = asked = np.zeros(self.row.size)
        windows = []
        for use in gate.uses:
            m = self.moves[use.operand][use.boundary]
            active = m.partial if use.partial else np.ones(1, dtype=bool)
            often = np.where(active, m.count - 1.0, 0.0)
            slack = (self._real(use, gate) - m.allowed) * often
            behind = behind + np.maximum(slack, 0.0)
            ahead = ahead + np.minimum(slack, 0.0)
            asked = asked + m.allowed * often
            windows.append((m.period, m.allowed, m.count, active))
        if len(gate.uses) == 1:
            return behind
        return behind + np.maximum(0.0, ahead + asked - union_of(windows))

    def _loading(self, stall: Floats) -> tuple[Floats, Floats]:
        """Cycles before the first operation and after the last."""
        waits: dict[Use, tuple[Floats, bool]] = {}
        busy = np.ceil(self.tables.total[self.row, 0] * self.passes) + stall
        for gate in self.hierarchy.gates:
            waits |= self._gate_waits(gate, busy)
        none = (np.zeros(self.row.size), False)
        separate, half, shared = ([none[0], none[0]] for _ in range(3))
        for op in (I, W):
            for b in range(1, len(self.moves[op])):
                (low, low_shared), (high, high_shared) = (
                    waits.get(Use(op, b, up, False), none) for up in (False, True)
                )
                longest = np.maximum(low, high)
                if low_shared and high_shared:
                    shared[op] = shared[op] + longest
                elif low_shared or high_shared:
                    half[op] = longest
                else:
                    separate[op] = separate[op] + longest
        ways = [
            shared[a] + np.maximum(shared[z] + half[z] + separate[z], half[a] + separate[a])
            for a, z in ((I, W), (W, I))
        ]
        offload = none[0]
        for b in range(1, len(self.moves[O])):
            offload = offload + np.maximum(*(waits.get(Use(O, b, up, False), none)[0] for up in (False, True)))
        return np.minimum(*ways), offload

    def _gate_waits(self, gate: Gate, busy: Floats) -> dict[Use, tuple[Floats, bool]]:
        """Loading cycles of each duty; what moves only once is loaded while the port is idle during computation."""
        uses = [u for u in gate.uses if not u.partial]
        if not uses:
            return {}
        rate: Floats = np.zeros(self.row.size)
        waits, once, spare = [], [], []
        for use in uses:
            m = self.moves[use.operand][use.boundary]
            rates = m.table.rate_upper if use.upper else m.table.rate_lower
            asked = self._at(m, np.ceil(rates / self.passes))
            single = m.count == 1.0
            rate = rate + np.where(single, 0.0, asked)
            real = self._real(use, gate)
            waits.append(real)
            once.append(single)
            held = self._once(("held", use.operand), partial(self._held_bits, use.operand, 0))
            least = np.ceil(held / gate.bits)
            spare.append(np.where(single, np.maximum(real - least, 0.0), 0.0))
        left = np.maximum(0.0, (gate.bits - rate) / gate.bits * busy)
        if len(uses) == 1:
            return {uses[0]: (waits[0] - np.minimum(spare[0], left), gate.shared)}
        order = np.argsort(
            -np.stack([np.where(c, w, -1.0) for c, w in zip(once, waits, strict=True)]), axis=0, kind="stable"
        )
        spares = np.take_along_axis(np.stack(spare), order, axis=0)
        cuts = np.empty_like(spares)
        for rank in range(len(uses)):
            cuts[rank] = np.minimum(spares[rank], left)
            left = left - cuts[rank]
        back = np.empty_like(cuts)
        np.put_along_axis(back, order, cuts, axis=0)
        return {u: (w - c, gate.shared) for u, w, c in zip(uses, waits, back, strict=True)}


def _ones(flags: Flags) -> Bytes:
    """All bits where a flag is set: masks are chosen faster by bits than by branches."""
    ones: Bytes = np.negative(flags.view(np.uint8))
    return ones
