"""How long orders of loops take: stalls, loading and unloading, as ZigZag counts them (Mei et al., IEEE TC 2021).

A port must move its duties' data beside the computation; what it cannot is a stall, what it must before and after is
loading and unloading. Orders lie in one flat axis and look up the tables of `engine_tables`. No energies here, and no
choice between orders.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_hierarchy import Gate, Use
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_orders import Orders
from offramp.cost.engine_tables import Boundary, I, O, W
from offramp.cost.engine_windows import union_of

Flags = NDArray[np.bool_]


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
    """Latency of orders."""

    def __init__(self, orders: Orders, passes: float) -> None:
        hierarchy = orders.hierarchy
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
        """(operand, level) to where a level can be refilled while it is read: there is room for what it needs twice."""
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
            result |= _granted(levels, used)
        return result

    def _move(self, op: int, b: int, buffered: dict[tuple[int, int], Flags]) -> _Move:
        t, orders = self.tables, self.orders
        period = orders.crossing(t.cycles, op, b)
        allowed = period
        if b and (op, b - 1) in buffered:
            run = t.cycles.take(orders.base + orders.runs[op, b - 1, True])
            free = buffered[op, b - 1] | (period == self.total)
            allowed = np.where(free, period, np.floor(period / run))
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
        spare = stall
        for gate in reversed(self.hierarchy.gates):
            found, spare = self._gate_waits(gate, spare)
            waits |= found
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

    def _gate_waits(self, gate: Gate, stall: Floats) -> tuple[dict[Use, tuple[Floats, bool]], Floats]:
        """Loading cycles of each duty, and the stalled cycles left to other ports.

        What moves only once is loaded while the port is idle: during computation, and during a stall, of which every
        cycle serves one port.
        """
        uses = [u for u in gate.uses if not u.partial]
        moves = [self.moves[u.operand][u.boundary] for u in uses]
        single = [m.count == 1.0 for m in moves]
        waits = [self._real(u, gate) for u in uses]
        if not any(once.any() for once in single):
            return {u: (w, gate.shared) for u, w in zip(uses, waits, strict=True)}, stall
        bits, later, least = [], [], []
        need, rate = np.zeros(self.row.size), np.zeros(self.row.size)
        for use, m, once, wait in zip(uses, moves, single, waits, strict=True):
            asked = np.ceil(self._at(m, m.table.rate_upper if use.upper else m.table.rate_lower) / self.passes)
            rate += np.where(once, 0.0, asked)
            bits.append(self._at(m, m.table.bits_upper if use.upper else m.table.bits_lower))
            inner = self.innermost[use.operand]
            later.append(np.where(once, np.ceil(np.maximum(bits[-1] - inner, 0.0) / gate.bits), 0.0))
            least.append(np.where(once, np.minimum(np.ceil(inner / gate.bits), wait), wait))
            need += later[-1]
        share = np.maximum(0.0, (gate.bits - rate) / gate.bits)
        busy = np.ceil(self.total * self.passes)
        with np.errstate(divide="ignore", invalid="ignore"):
            taken = np.minimum(stall, np.fmax(need / share - busy, 0.0))
        idle = share * (busy + taken)
        scarce = np.flatnonzero(need > idle * (1.0 + 1e-9))
        if scarce.size:
            order = np.stack([np.where(o, b, -1.0)[scarce] for o, b in zip(single, bits, strict=True)])
            left = _longest_first(order, np.stack([n[scarce] for n in later]), idle[scarce])
            for low, wait, spare in zip(least, waits, left, strict=True):
                low[scarce] = np.maximum(low[scarce], np.where(low[scarce] < wait[scarce], wait[scarce] - spare, 0.0))
        return {u: (low, gate.shared) for u, low in zip(uses, least, strict=True)}, stall - taken


def _granted(levels: list[tuple[int, int]], used: list[Floats]) -> dict[tuple[int, int], Flags]:
    """Which levels of a memory find room for what they need a second time: those that need least come first."""
    shared = sum(used, start=np.zeros_like(used[0]))
    if len(levels) == 1:
        return {levels[0]: shared + used[0] <= 1.0}
    needs = np.stack(used)
    order = np.argsort(needs, axis=0, kind="stable")
    filled = shared + np.cumsum(np.take_along_axis(needs, order, axis=0), axis=0)
    granted = np.empty(needs.shape, dtype=bool)
    np.put_along_axis(granted, order, filled <= 1.0, axis=0)
    return dict(zip(levels, granted, strict=True))


def _longest_first(bits: Floats, later: Floats, idle: Floats) -> Floats:
    """(uses, orders) of idle cycles that each duty may use of those at hand, the longest first."""
    if len(bits) == 1:
        return idle[None]
    order = np.argsort(-bits, axis=0, kind="stable")
    before = np.cumsum(np.take_along_axis(later, order, axis=0), axis=0)
    left = np.empty_like(later)
    np.put_along_axis(
        left, order, np.maximum(0.0, idle - np.roll(before, 1, axis=0) * (np.arange(len(bits)) > 0)[:, None]), axis=0
    )
    return left
