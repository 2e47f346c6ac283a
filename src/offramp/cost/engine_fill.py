"""What a memory holds beside what its mapping is timed by, every level filled up, and what energy that takes.

A level may be filled in smaller pieces than it has room for; then work starts earlier, and what it has been given
stays there for later. So a mapping is timed by the sets of its chain, while its traffic is that of the same order with
every level filled as far as it goes, each at the place of the next smaller one.
"""

import numpy as np

from offramp.cost.engine_chains import held_bits, tile_bits
from offramp.cost.engine_compile import compiled
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_tables import partial
from offramp.cost.engine_view import Flags, I, Ints, O, Record, W

TURNS = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)], dtype=np.int64)
"""Permutations of three, in the order of `itertools.permutations`."""


@compiled
def turns_of(view: Record, spare: Flags, turns: Ints) -> int:
    """In which order the operands of a shared memory may be served: rows of `turns`; returns how many.

    `spare` (3, levels) says of which levels some order could hold more. All orders are tried of the operands of the
    memory where most could; the others come last.
    """
    chosen, most = 0, 0
    for memory in range(view.memories):
        count = 0
        for op in range(3):
            count += _could(view, spare, memory, op)
        if count > most:
            chosen, most = memory, count
    first, rest = 0, most
    for op in (O, W, I):
        if most and _could(view, spare, chosen, op):
            turns[0, first] = op
            first += 1
    for op in (I, W, O):
        if not most or not _could(view, spare, chosen, op):
            turns[0, rest] = op
            rest += 1
    return _permuted(turns, most)


@compiled
def _could(view: Record, spare: Flags, memory: int, op: int) -> bool:
    level = view.level[memory, op]
    return bool(0 <= level < view.count[op] - 1 and spare[op, level])


@compiled
def _permuted(turns: Ints, most: int) -> int:
    """Rows of all permutations of the first `most` of three in the first row; returns how many."""
    a, b, c, count = turns[0, 0], turns[0, 1], turns[0, 2], 0
    for i in range(len(TURNS)):
        if (most < 3 and TURNS[i, 2] != 2) or (most < 2 and TURNS[i, 1] != 1):
            continue
        for place in range(3):
            which = TURNS[i, place]
            turns[count, place] = a if which == 0 else b if which == 1 else c
        count += 1
    return count


@compiled
def fill(view: Record, t: Record, turn: Ints, prefix: Ints, masks: Ints) -> None:
    """Let every level keep the longest prefix of the order that has room beside what else is in its memory."""
    for memory in range(view.memories - 1, -1, -1):
        for i in range(3):
            op = turn[i]
            level = view.level[memory, op]
            if 0 <= level < view.count[op] - 1 and masks[op, level + 1] != t.full:
                masks[op, level + 1] = _grown(view, t, memory, op, prefix, masks)


@compiled
def _grown(view: Record, t: Record, memory: int, op: int, prefix: Ints, masks: Ints) -> int:
    level, free = view.level[memory, op], view.room[memory]
    for other in (O, W, I):
        at = view.level[memory, other]
        if other != op and at >= 0:
            free -= held_bits(view, t, other, at, masks[other, at + 1], masks[other, at])
    now, above = masks[op, level + 1], masks[op, level + 2]
    for place in range(t.number, 0, -1):
        larger = prefix[place]
        if larger & now != now or larger == now:
            return int(now)
        if larger & above == larger and held_bits(view, t, op, level, larger, masks[op, level]) <= free:
            return int(larger)
    return int(now)


@compiled
def spent(view: Record, t: Record, masks: Ints) -> float:
    """Picojoules of all that crosses the boundaries."""
    total = 0.0
    for op in range(3):
        for b in range(view.count[op]):
            upper, lower = crossing(view, t, op, b, masks[op, b])
            total += upper + lower
    return total


@compiled
def crossing(view: Record, t: Record, op: int, b: int, mask: int) -> tuple[float, float]:
    """Picojoules of all that crosses a boundary, at the memory above and at the one below."""
    sums = op == O and partial(t, b, mask)
    bits = t.bits[3] if sums else t.bits[op]
    times, tile = t.times[mask], t.tile[op, b - 1, mask] if b else 1.0
    fed = tile * t.growth[op, b]
    upper = _energy(view.port[op, b, 1], op, fed * bits, times * t.instances[op, b], sums)
    if not b:
        return upper, 0.0
    return upper, _energy(view.port[op, b, 0], op, tile * bits, times * t.instances[op, b - 1], sums)


@compiled
def _energy(ports: Floats, op: int, bits: float, times: float, sums: bool) -> float:
    """Energy of the duties of one side of a boundary; outputs come back where they are partial sums."""
    energy = _accesses(bits, times, ports[0])
    if op == O and sums:
        energy = energy + _accesses(bits, times, ports[1])
    return energy


@compiled
def _accesses(bits: float, times: float, port: Floats) -> float:
    """Energy of moving `bits` at once `times` times in steps of the port's granularity."""
    if port[3] == 0.0:
        return 0.0
    return float(np.floor(np.ceil(bits / port[0]) * (port[0] / port[1]) * times) * port[2])


@compiled
def held_bytes(view: Record, t: Record, op: int, level: int, above: int) -> float:
    """Bytes of a level in all its instances, `above` being the factors below the boundary over it."""
    return float(tile_bits(view, t, op, level, above) * t.instances[op, level] / 8.0)
