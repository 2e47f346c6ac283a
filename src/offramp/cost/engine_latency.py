"""How long an order of loops takes: stalls, loading and unloading, as ZigZag counts them (Mei et al., IEEE TC 2021).

A port must move its duties' data beside the computation; what it cannot is a stall, what it must before and after is
loading and unloading. No energies here, and no choice between orders.
"""

import numpy as np

from offramp.cost.arrays import Flags, Record
from offramp.cost.engine_chains import ENOUGH, idle_cycles, loading, tile_bits, transfer
from offramp.cost.engine_compile import compiled
from offramp.cost.engine_tables import partial
from offramp.cost.engine_view import DUTIES, MOST, I, O, W
from offramp.cost.engine_windows import union_of

MOVES = np.dtype((np.record, [
    ("period", "f8", (3, MOST)), ("allowed", "f8", (3, MOST)), ("count", "f8", (3, MOST)), ("sums", "u1", (3, MOST)),
    ("free", "u1", (3, MOST)),
    ("transfer", "f8", DUTIES), ("windows", "f8", (3, DUTIES)), ("bits", "f8", DUTIES), ("later", "f8", DUTIES),
    ("wait", "f8", DUTIES), ("done", "u1", DUTIES), ("needs", "f8", 3), ("worst", "i8"),
]))  # fmt: skip
"""What crosses boundaries in one order.

period, allowed, count: (operand, boundary) cycles of a period, cycles allowed in it, and how many periods; sums:
whether partial sums cross; free: (operand, level) whether it can be refilled while it is read.
transfer: cycles of one, by duty; windows: period, allowed and count of a port's duties; of its duties that
move once bits (-1 of others), later (cycles beyond the innermost tile), wait (all cycles). done, needs: scratch.
worst: the port that was too slow last.
"""


@compiled
def cycles_of(view: Record, t: Record, unsure: Flags, order: Record, m: Record, loads: Record, limit: float) -> float:
    """Cycles: computation, the worst stall, loading, unloading, and draining of a systolic array.

    Infinite as soon as they are known to be above a limit, `loads.least` being what `engine_chains.bound` last found
    for the chain. The port that showed it last is asked first.
    """
    for memory in range(view.memories):
        if unsure[memory]:
            _refill(view, t, memory, order, m)
    for op in range(3):
        for b in range(view.count[op]):
            mask = order.masks[op, b]
            period = t.cycles[mask]
            allowed = period
            if b and unsure[view.memory[op, b - 1]] and not m.free[op, b - 1] and period != t.total:
                allowed = np.floor(period / t.cycles[order.runs[op, b - 1, 1]])
            m.period[op, b], m.allowed[op, b] = np.ceil(period * view.passes), np.ceil(allowed * view.passes)
            m.count[op, b], m.sums[op, b] = t.times[mask], op == O and partial(t, b, mask)
    work = t.total * view.passes + t.drain
    stall = _stall(view, t, m.worst, order, m, loads)
    if work + stall + loads.least > limit:
        return np.inf
    for gate in range(view.gates):
        if gate != m.worst:
            stall = max(stall, _stall(view, t, gate, order, m, loads))
            if work + stall + loads.least > limit:
                m.worst = gate
                return np.inf
    onload, offload = _loading(view, t, stall, order, m, loads)
    return float(t.total * view.passes + stall + onload + offload + t.drain)


@compiled
def _refill(view: Record, t: Record, memory: int, order: Record, m: Record) -> None:
    """Which levels of a memory find room for what they need a second time: those that need least come first."""
    shared, filled, left = 0.0, 0.0, 0
    for op in (O, W, I):
        level = view.level[memory, op]
        if level >= 0:
            run = max(t.cycles[order.runs[op, level, 0]], 1.0)
            bits = tile_bits(view, t, op, level, order.masks[op, level + 1])
            m.needs[op] = np.floor(bits / run) / view.room[memory]
            shared += m.needs[op]
            m.done[op] = False
            left += 1
    for _ in range(left):
        least = -1
        for op in (O, W, I):
            if view.level[memory, op] >= 0 and not m.done[op] and (least < 0 or m.needs[op] < m.needs[least]):
                least = op
        m.done[least] = True
        filled += m.needs[least]
        m.free[least, view.level[memory, least]] = shared + filled <= 1.0


@compiled
def _bits(view: Record, t: Record, u: int, order: Record) -> float:
    op, b = view.uses[u, 0], view.uses[u, 1]
    mask = order.masks[op, b]
    return float(t.upper[op, b, mask] if view.uses[u, 2] else t.lower[op, b, mask])


@compiled
def _stall(view: Record, t: Record, gate: int, order: Record, m: Record, loads: Record) -> float:
    """Cycles that a port falls behind."""
    behind, ahead, asked, active = 0.0, 0.0, 0.0, 0
    first, last = view.gate_uses[gate, 0], view.gate_uses[gate, 1]
    for u in range(first, last):
        op, b = view.uses[u, 0], view.uses[u, 1]
        m.transfer[u] = transfer(view, t, gate, u, order.masks[op, b], loads)
        if view.uses[u, 3] and not m.sums[op, b]:
            continue
        often = m.count[op, b] - 1.0
        slack = (m.transfer[u] - m.allowed[op, b]) * often
        behind += max(slack, 0.0)
        ahead += min(slack, 0.0)
        asked += m.allowed[op, b] * often
        m.windows[0, active], m.windows[1, active] = m.period[op, b], m.allowed[op, b]
        m.windows[2, active] = m.count[op, b]
        active += 1
    if last - first <= 1 or ahead + asked <= 0.0:
        return behind
    return behind + max(0.0, ahead + asked - union_of(m.windows[0], m.windows[1], m.windows[2], active))


@compiled
def _loading(view: Record, t: Record, stall: float, order: Record, m: Record, loads: Record) -> tuple[float, float]:
    """Cycles before the first operation and after the last."""
    for gate in range(view.gates - 1, -1, -1):
        stall = _gate_waits(view, t, gate, stall, order, m, loads)
    return loading(view, loads)


@compiled
def _gate_waits(view: Record, t: Record, gate: int, stall: float, order: Record, m: Record, loads: Record) -> float:
    """Notes the loading cycles of each duty; returns the stalled cycles left to other ports.

    What moves only once is loaded while the port is idle: during computation, and during a stall, of which every
    cycle serves one port.
    """
    width, need, rate, once = view.gate_bits[gate], 0.0, 0.0, False
    first, last = view.gate_uses[gate, 0], view.gate_uses[gate, 1]
    for u in range(first, last):
        op, b, upper = view.uses[u, 0], view.uses[u, 1], view.uses[u, 2]
        if view.uses[u, 3]:
            continue
        i, wait = u - first, m.transfer[u]
        loads.waits[op, b, upper] = wait
        if m.count[op, b] == 1.0:
            once = True
            inner = tile_bits(view, t, op, 0, order.masks[op, 1])
            m.bits[i] = _bits(view, t, u, order)
            m.later[i] = np.ceil(max(m.bits[i] - inner, 0.0) / width)
            m.wait[i] = wait
            loads.waits[op, b, upper] = min(np.ceil(inner / width), wait)
            need += m.later[i]
        else:
            m.bits[i], m.later[i] = -1.0, 0.0
            rate += loads.duty[u, order.masks[op, b], 3]
    if not once:
        return stall
    share, busy = max(0.0, (width - rate) / width), np.ceil(t.total * view.passes)
    idle, taken = idle_cycles(need, share, busy, stall)
    if need > idle * ENOUGH:
        _lack(view, first, last, idle, m, loads)
    return stall - taken


@compiled
def _lack(view: Record, first: int, last: int, idle: float, m: Record, loads: Record) -> None:
    """Idle cycles serve what moves once, the longest first; what they cannot take is waited for."""
    before = 0.0
    for i in range(last - first):
        m.done[i] = False
    for _ in range(last - first):
        longest = -1
        for i in range(last - first):
            if not view.uses[first + i, 3] and not m.done[i] and (longest < 0 or m.bits[i] > m.bits[longest]):
                longest = i
        if longest < 0:
            return
        m.done[longest] = True
        u = first + longest
        op, b, upper = view.uses[u, 0], view.uses[u, 1], view.uses[u, 2]
        low, wait = loads.waits[op, b, upper], m.wait[longest]
        if m.bits[longest] >= 0.0 and low < wait:
            loads.waits[op, b, upper] = max(low, wait - max(0.0, idle - before))
        before += m.later[longest]
