"""How long orders of loops take: stalls, loading and unloading, as ZigZag counts them (Mei et al., IEEE TC 2021).

A port must move its duties' data beside the computation; what it cannot is a stall, what it must before and after is
loading and unloading. Orders lie in one flat axis and look up the tables of `engine_tables`. No energies here, and no
choice between orders.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_hierarchy import Gate, Hierarchy, Use
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_loops import Bytes
from offramp.cost.engine_tables import Boundary, I, O, Tables, W
from offramp.cost.engine_windows import union_of

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Orders:
    """Orders of the loop factors of some rows, told apart by what lies below each boundary.

    Attributes:
        hierarchy: the one whose boundaries the masks are of.
        row: (orders,) row of each.
        masks: per operand and boundary, (orders,) factors below it.
        runs: (operand, level, reusing or fresh) to (orders,) factors on top of a level, where its refilling may wait.
        base: (orders,) place of the row in a flattened (rows, masks) table.
    """

    tables: Tables
    hierarchy: Hierarchy
    row: NDArray[np.intp]
    masks: list[list[Bytes]]
    runs: dict[tuple[int, int, bool], Bytes]
    base: NDArray[np.intp]
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


@dataclass(slots=True, eq=False)
class _Move:
    """What crosses one boundary in every order."""

    place: NDArray[np.intp]
    period: Floats
    count: Floats
    allowed: Floats
    partial: Flags
    table: Boundary


class Latency:
    """Latency of orders under a hierarchy whose operands may end below the highest boundary of the orders."""

    def __init__(self, orders: Orders, hierarchy: Hierarchy, passes: float) -> None:
        self.orders, self.tables, self.hierarchy, self.passes = orders, orders.tables, hierarchy, passes
        self.row, self.total = orders.row, orders.tables.total[orders.row, 0]
        self.innermost = [orders.held_bits(op, 0) for op in (I, W, O)]
        buffered = self._buffered()
        self.moves = [[self._move(op, b, buffered) for b in range(len(hierarchy.levels[op]))] for op in (I, W, O)]
        self.known: dict[tuple[int, int, bool, int], Floats] = {}

    @property
    def cycles(self) -> Floats:
        """(orders,) cycles: computation, the worst stall, loading, unloading, and draining of a systolic array."""
        stall = self._stall()
        onload, offload = self._loading(stall)
        drain = self.tables.drain(self.hierarchy.core)[self.row]
        return np.asarray(self.total * self.passes + stall + onload + offload + drain)

    def _buffered(self) -> dict[tuple[int, int], Flags]:
        """(operand, level) to where a level can be refilled while it is read: half of it, or what is left, is free."""
        result: dict[tuple[int, int], Flags] = {}
        orders, runs = self.orders, self.orders.runs
        for index, memory in enumerate(orders.hierarchy.core.memories):
            levels = orders.hierarchy.held_in(index)
            if not any((op, level, True) in runs for op, level in levels):
                continue
            used = []
            for op, level in levels:
                run = np.maximum(self.tables.cycles.take(orders.base + runs[op, level, False]), 1.0)
                used.append(np.floor(orders.held_bits(op, level) / run) / memory.size_bits)
            shared = sum(used, start=np.zeros(self.row.size))
            for key, own in zip(levels, used, strict=True):
                half, rest = shared <= 0.5, own <= 1.0 - shared
                result[key] = half | rest
                shared = np.where(rest & ~half, shared + own, shared)
        return result

    def _move(self, op: int, b: int, buffered: dict[tuple[int, int], Flags]) -> _Move:
        t, orders = self.tables, self.orders
        period = orders.crossing(t.cycles, op, b)
        allowed = period
        if b and (op, b - 1) in buffered:
            run = t.cycles.take(orders.base + orders.runs[op, b - 1, True])
            allowed = np.where(buffered[op, b - 1], period, np.floor(period / run))
        table = t.boundary(op, b)
        return _Move(
            place=orders.place(op, b),
            period=np.ceil(period * self.passes),
            count=np.floor(self.total / period),
            allowed=np.ceil(allowed * self.passes),
            partial=np.asarray(orders.crossing(table.partial, op, b), dtype=bool),
            table=table,
        )

    def _real(self, use: Use, gate: Gate) -> Floats:
        """Cycles that one transfer takes at a port."""
        m = self.moves[use.operand][use.boundary]
        bits = m.table.bits_upper if use.upper else m.table.bits_lower
        key = (use.operand, use.boundary, use.upper, gate.bits)
        if key not in self.known:
            self.known[key] = np.ceil(self._at(m, bits) / gate.bits)
        return self.known[key]

    def _at(self, move: _Move, table: Floats) -> Floats:
        return table.take(self.row if table.shape[1] == 1 else move.place)

    def _stall(self) -> Floats:
        """Cycles lost at the port that falls behind most."""
        worst = np.zeros(self.row.size)
        for gate in self.hierarchy.gates:
            if gate.uses:
                worst = np.maximum(worst, self._gate_stall(gate))
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
        busy = np.ceil(self.total * self.passes) + stall
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
            asked = np.ceil(self._at(m, rates) / self.passes)
            single = m.count == 1.0
            rate = rate + np.where(single, 0.0, asked)
            real = self._real(use, gate)
            waits.append(real)
            once.append(single)
            least = np.ceil(self.innermost[use.operand] / gate.bits)
            spare.append(np.where(single, np.maximum(real - least, 0.0), 0.0))
        left = np.maximum(0.0, (gate.bits - rate) / gate.bits * busy)
        if len(uses) == 1:
            return {uses[0]: (waits[0] - np.minimum(spare[0], left), gate.shared)}
        cuts = np.stack(spare)
        scarce = np.flatnonzero(cuts.sum(axis=0) > left)
        if scarce.size:
            first = np.stack([np.where(c, w, -1.0)[scarce] for c, w in zip(once, waits, strict=True)])
            cuts[:, scarce] = _longest_first(first, cuts[:, scarce], left[scarce])
        return {u: (w - c, gate.shared) for u, w, c in zip(uses, waits, cuts, strict=True)}


def _longest_first(waits: Floats, spare: Floats, left: Floats) -> Floats:
    """(uses, orders) of idle cycles that each duty gets of those left, the longest first."""
    order = np.argsort(-waits, axis=0, kind="stable")
    spares = np.take_along_axis(spare, order, axis=0)
    cuts = np.empty_like(spares)
    for rank in range(len(spares)):
        cuts[rank] = np.minimum(spares[rank], left)
        left = left - cuts[rank]
    back = np.empty_like(cuts)
    np.put_along_axis(back, order, cuts, axis=0)
    return back
