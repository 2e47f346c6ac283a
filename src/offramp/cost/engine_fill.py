"""What a memory holds beside what its mapping is timed by, every level filled up, and what energy that takes.

A level may be filled in smaller pieces than it has room for; then work starts earlier, and what it has been given
stays there for later. So a mapping is timed by the sets of its chain, while its traffic is that of the same order with
every level filled as far as it goes, each at the place of the next smaller one.
"""

import numpy as np

from offramp.cost.arrays import Ints, Record
from offramp.cost.engine_chains import held_bits, tile_bits
from offramp.cost.engine_compile import compiled
from offramp.cost.engine_view import I, O, W

TURNS = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)], dtype=np.int64)
"""In which order the operands of a shared memory may be served: permutations of three."""


@compiled
def turns_of(view: Record, masks: Ints, full: int) -> int:
    """How many of `TURNS` differ: all where a memory could hold more of two operands of a chain, else one."""
    for memory in range(view.memories):
        could = 0
        for op in range(3):
            level = view.level[memory, op]
            could += 0 <= level < view.count[op] - 1 and masks[op, level + 1] != full
        if could > 1:
            return len(TURNS)
    return 1


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
def held_bytes(view: Record, t: Record, op: int, level: int, above: int) -> float:
    """Bytes of a level in all its instances, `above` being the factors below the boundary over it."""
    return float(tile_bits(view, t, op, level, above) * t.instances[op, level] / 8.0)
