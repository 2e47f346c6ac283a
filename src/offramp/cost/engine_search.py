"""The search over orders of one group of rows: cuts, stalls, loading and unloading, and the best order of each row.

All orders of all rows are priced at once by looking up the tables of `engine_tables`. Latency is ZigZag's: ideal cycles, the
worst stall of any port (what a port must move beyond the windows in which it may), loading before and unloading after.
The least latency wins, of equals the least energy. It knows no layer but through the tables.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_allocation import Allocation, allocate
from offramp.cost.engine_hierarchy import Gate, Hierarchy, Use
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_loops import Orders, orders_of, run_start_table, skip_table
from offramp.cost.engine_tables import I, O, Boundary, Masks, Tables, W
from offramp.cost.engine_windows import union_of

Pattern = tuple[int, ...]
Places = NDArray[np.intp]
Flags = NDArray[np.bool_]


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
class _Moves:
    """What crosses one boundary in every order: (rows, orders) or (rows, 1)."""

    mask: Masks
    period: Floats
    count: Floats
    allowed: Floats
    partial: NDArray[np.bool_]
    table: Boundary


class Search:
    """One group of rows that share a pattern of factors and which memories take everything."""

    def __init__(self, tables: Tables, pattern: Pattern, whole: NDArray[np.bool_], passes: float) -> None:
        self.tables, self.pattern, self.passes = tables, pattern, passes
        self.hierarchy: Hierarchy = tables.hierarchy
        self.orders: Orders = orders_of(pattern)
        self.rows = np.arange(tables.count)[:, None]
        self.columns = np.arange(self.orders.count)
        self.allocation: Allocation = allocate(tables, self.orders, whole)
        found = [self._boundaries(op) for op in (I, W, O)]
        self.places, self.masks = [p for p, _ in found], [m for _, m in found]
        buffered = self._buffered()
        self.moves = [[self._move(op, b, buffered) for b in range(len(self.masks[op]))] for op in (I, W, O)]

    def run(self) -> Priced:
        """Price every order and keep the best of each row."""
        energy = self._energy()
        stall = self._stall()
        onload, offload = self._loading(stall)
        total = self.tables.total * self.passes
        cycles = np.where(self.allocation.valid, total + stall + onload + offload + self._drain(), np.inf)
        shape = (self.tables.count, self.orders.count)
        cycles = np.broadcast_to(cycles, shape)
        best = np.where(cycles <= cycles.min(axis=1, keepdims=True), energy, np.inf).argmin(axis=1)[:, None]

        def pick(values: Floats) -> Floats:
            return np.take_along_axis(np.broadcast_to(values, shape), best, axis=1)[:, 0]

        return Priced(
            cycles=pick(cycles),
            memory_pj=pick(energy),
            onload=pick(onload),
            stall=pick(stall),
            offload=pick(offload),
            masks=[[pick(m.mask) for m in moves] for moves in self.moves],
        )

    def _drain(self) -> Floats:
        """Cycles until the last results have left a systolic array."""
        array = self.hierarchy.core.array
        assert array is not None
        rippling = [i for i, (name, _) in enumerate(array.dimensions) if name in array.systolic]
        return np.maximum(self.tables.rows.given[:, rippling] - 1.0, 0.0).sum(axis=1, keepdims=True)

    def _positions(self, table: str, masks: Masks, at: NDArray[np.intp]) -> NDArray[np.intp]:
        """Look a position up in the skip or run table of each row's mask."""
        make = skip_table if table == "skip" else run_start_table
        distinct, place = np.unique(masks, return_inverse=True)
        stack = np.stack([make(self.pattern, int(m)) for m in distinct])
        return stack[place[:, None], at, self.columns].astype(np.intp)

    def _mask(self, position: Places) -> Masks:
        return self.orders.prefix[position, self.columns]

    def _boundaries(self, op: int) -> tuple[list[Places], list[Masks]]:
        """Positions and masks of all boundaries; reusing factors right above a cut move below it (they cost nothing there)."""
        t = self.tables
        zero = np.zeros((t.count, 1), dtype=np.intp)
        places = [zero if op == O else self._positions("skip", t.reuse_masks[op], zero)]
        for cut in self.allocation.cuts[op]:
            constant = cut.shape[1] == 1 and bool((cut == t.loops).all())
            places.append(cut if constant else self._positions("skip", t.reuse_masks[op], cut))
        full = np.full((t.count, 1), t.full)
        masks = [full if p.shape[1] == 1 and bool((p == t.loops).all()) else self._mask(p) for p in places]
        masks[0] = zero if op == O else masks[0]
        return places, masks

    def _top_run(self, op: int, level: int, flags: Masks) -> Floats:
        """Product of the flagged factors that end right below the cut over a level, within that level."""
        above = self.places[op][level + 1] if level + 1 < len(self.places[op]) else np.full((1, 1), self.tables.loops)
        below = self.places[op][level] if level else np.zeros((1, 1), dtype=np.intp)
        start = np.minimum(np.maximum(self._positions("run", flags, above), below), above)
        subset = self._mask(above) & ~self._mask(start)
        shape = (self.tables.count, self.orders.count)
        return np.take_along_axis(self.tables.cycles, np.broadcast_to(subset, shape), axis=1)

    def _lookup(self, table: Floats, mask: Masks) -> Floats:
        """Values of a (rows, masks) table at each order's mask."""
        if table.shape[1] == 1:
            return table
        return np.take_along_axis(table, mask, axis=1)

    def _buffered(self) -> dict[tuple[int, int], Flags]:
        """(operand, level) to where a level can be refilled while it is read: half of it, or what is left, is free."""
        result: dict[tuple[int, int], Flags] = {}
        h = self.hierarchy
        for index, memory in enumerate(h.core.memories):
            held = [(op, h.levels[op].index(index)) for op in (O, W, I) if index in h.levels[op]]
            if all(index == h.levels[op][-1] for op, _ in held):
                continue
            bits = [self._held_bits(op, level) for op, level in held]
            if bool((sum(bits) <= 0.5 * memory.size_bits).all()):
                result |= {key: np.ones((1, 1), dtype=bool) for key in held}
                continue
            runs = [self._top_run(op, level, self.tables.fresh_masks[op]) for op, level in held]
            used = [np.floor(b / r) / memory.size_bits for b, r in zip(bits, runs, strict=True)]
            shared = sum(used)
            for key, own in zip(held, used, strict=True):
                half, rest = shared <= 0.5, own <= 1.0 - shared
                result[key] = half | rest
                shared = np.where(rest & ~half, shared + own, shared)
        return result

    def _held_bits(self, op: int, level: int) -> Floats:
        """Bits of a level's tile."""
        t = self.tables
        tile = t.tile(op, level, exact=True)
        if level + 1 == len(self.masks[op]):
            last = np.full((t.count, 1), t.full)
            return self._lookup(tile, last) * t.precision(op, np.zeros((1, 1), dtype=bool))
        mask = self.masks[op][level + 1]
        partial = t.partial(level + 1) if op == O else np.zeros((1, 1), dtype=bool)
        return self._lookup(tile, mask) * t.precision(op, self._lookup(partial, mask))

    def _move(self, op: int, b: int, buffered: dict[tuple[int, int], Flags]) -> _Moves:
        t, mask = self.tables, self.masks[op][b]
        period = self._lookup(t.cycles, mask)
        allowed = period
        if b and not buffered[op, b - 1].all():
            run = self._top_run(op, b - 1, t.reuse_masks[op])
            allowed = np.where(buffered[op, b - 1], period, np.floor(period / run))
        table = t.boundary(op, b)
        return _Moves(
            mask=mask,
            period=np.ceil(period * self.passes),
            count=np.floor(t.total / period),
            allowed=np.ceil(allowed * self.passes),
            partial=self._lookup(table.partial, mask),
            table=table,
        )

    def _energy(self) -> Floats:
        total = np.zeros((self.tables.count, 1))
        for moves in self.moves:
            for m in moves:
                total = total + self._lookup(m.table.energy_upper + m.table.energy_lower, m.mask)
        return total

    def _real(self, use: Use, gate: Gate) -> Floats:
        """Cycles that one transfer takes at a port."""
        m = self.moves[use.operand][use.boundary]
        bits = m.table.bits_upper if use.upper else m.table.bits_lower
        return self._lookup(np.ceil(bits / gate.bits), m.mask)

    def _stall(self) -> Floats:
        """Cycles lost at the port that falls behind most."""
        worst = np.zeros((1, 1))
        for gate in self.hierarchy.gates:
            if gate.uses:
                worst = np.maximum(worst, self._gate_stall(gate))
        return worst

    def _gate_stall(self, gate: Gate) -> Floats:
        behind = ahead = asked = np.zeros((1, 1))
        windows = []
        for use in gate.uses:
            m = self.moves[use.operand][use.boundary]
            real = self._real(use, gate)
            active = m.partial if use.partial else np.ones((1, 1), dtype=bool)
            slack = np.where(active, (real - m.allowed) * (m.count - 1.0), 0.0)
            behind = behind + np.maximum(slack, 0.0)
            ahead = ahead + np.minimum(slack, 0.0)
            asked = asked + np.where(active, m.allowed * (m.count - 1.0), 0.0)
            windows.append((m.period, m.allowed, m.count, active))
        if len(gate.uses) == 1:
            return behind
        return behind + np.maximum(0.0, ahead + asked - union_of(windows))

    def _loading(self, stall: Floats) -> tuple[Floats, Floats]:
        """Cycles before the first operation and after the last."""
        waits: dict[Use, tuple[Floats, bool]] = {}
        busy = np.ceil(self.tables.total * self.passes) + stall
        for gate in self.hierarchy.gates:
            waits |= self._gate_waits(gate, busy)
        none = (np.zeros((1, 1)), False)
        separate, half, shared = ([np.zeros((1, 1)), np.zeros((1, 1))] for _ in range(3))
        for op in (I, W):
            for b in range(1, len(self.moves[op])):
                (low, low_shared), (high, high_shared) = (waits.get(Use(op, b, up, False), none) for up in (False, True))
                longest = np.maximum(low, high)
                if low_shared and high_shared:
                    shared[op] = shared[op] + longest
                elif low_shared or high_shared:
                    half[op] = longest
                else:
                    separate[op] = separate[op] + longest
        onload = np.minimum(
            *(shared[a] + np.maximum(shared[z] + half[z] + separate[z], half[a] + separate[a]) for a, z in ((I, W), (W, I)))
        )
        offload = np.zeros((1, 1))
        for b in range(1, len(self.moves[O])):
            low, high = (waits.get(Use(O, b, up, False), none)[0] for up in (False, True))
            offload = offload + np.maximum(low, high)
        return onload, offload

    def _gate_waits(self, gate: Gate, busy: Floats) -> dict[Use, tuple[Floats, bool]]:
        """Loading cycles of each duty; what moves only once is loaded beside the computation as far as the port is idle."""
        uses = [u for u in gate.uses if not u.partial]
        rate: Floats = np.zeros((1, 1))
        reals, once, least = [], [], []
        for use in uses:
            m = self.moves[use.operand][use.boundary]
            asked = self._lookup(m.table.rate_upper if use.upper else m.table.rate_lower, m.mask)
            rate = rate + np.where(m.count > 1.0, np.ceil(asked / self.passes), 0.0)
            reals.append(self._real(use, gate))
            once.append(m.count == 1.0)
            least.append(np.ceil(self._held_bits(use.operand, 0) / gate.bits))
        if not uses:
            return {}
        left = np.maximum(0.0, (gate.bits - rate) / gate.bits * busy)
        waits: list[Floats] = list(reals)
        shape = np.broadcast_shapes(*(r.shape for r in reals), *(c.shape for c in once))
        stacked = np.stack([np.broadcast_to(np.where(c, r, -1.0), shape) for c, r in zip(once, reals, strict=True)])
        ranks = np.argsort(np.argsort(-stacked, axis=0, kind="stable"), axis=0)
        for rank in range(len(uses)):
            for i in range(len(uses)):
                turn = (ranks[i] == rank) & once[i]
                cut = np.where(turn, np.minimum(np.maximum(reals[i] - least[i], 0.0), left), 0.0)
                waits[i] = waits[i] - cut
                left = left - cut
        return {u: (w, gate.shared) for u, w in zip(uses, waits, strict=True)}
