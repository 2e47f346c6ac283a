"""Chains of sets made orders of loops: which factor of a piece between two cuts comes first, and what follows from it.

Between two cuts the order is free. It decides how long the array's own registers keep an input or a weight (the
reusing factors innermost of all), and what lies on top of a level that has no room for a second tile: where reusing
factors are on top the level is refilled late, where fresh ones are it empties bit by bit. So every chain is tried with
each operand's wishes first, innermost and on top. No costs here.
"""

import numpy as np

from offramp.cost.arrays import Flags, Ints, Record, Records
from offramp.cost.engine_compile import compiled
from offramp.cost.engine_view import MOST, I, O, W

WISHES = np.array([(i, *first) for i in (I, W) for first in ((O, W, I), (W, I, O), (I, O, W))], dtype=np.int64)
"""Whose reusing factors go innermost, and whose wishes for the top of its levels come first."""

ORDER = np.dtype((np.record, [
    ("masks", "i8", (3, MOST + 1)), ("prefix", "i8", MOST + 1), ("runs", "i8", (3, MOST, 2)), ("keys", "i8", MOST),
]))  # fmt: skip
"""One order of the factors of a row.

masks: (operand, boundary) factors below it; prefix: factors in the first places; keys: scratch.
runs: (operand, level) fresh and reusing factors on top of a level, where its refilling may wait.
"""


@compiled
def pieces(view: Record, t: Record, masks: Ints, keys: Ints) -> None:
    """The first part of every factor's place, for either operand innermost, written to `keys` (2, factors).

    First counts the piece between cuts, then whether the factor, or one below the piece, keeps the registers from
    reusing the operand.
    """
    for f in range(t.number):
        below, piece = 0, 0
        for op in range(3):
            for b in range(1, view.count[op]):
                if masks[op, b] >> f & 1 == 0:
                    below, piece = max(below, masks[op, b]), piece + 1
        for inner in (I, W):
            late = t.rank[inner, f] != 0 or below & ~t.reuse[inner] != 0
            keys[inner, f] = piece * 2 + int(late)


@compiled
def ask(t: Record) -> None:
    """What every wish says of every factor's place within a piece, written to the row's `asked`."""
    for wish in range(len(WISHES)):
        first, second, third = WISHES[wish, 1], WISHES[wish, 2], WISHES[wish, 3]
        for f in range(t.number):
            t.asked[wish, f] = ((t.rank[first, f] * 3 + t.rank[second, f]) * 3 + t.rank[third, f]) * 8 + f


@compiled
def arrange(t: Record, wish: int, keys: Ints, order: Record) -> None:
    """Put the factors in order as one wish asks, and note how far the array's registers reuse inputs and weights."""
    inner = WISHES[wish, 0]
    for f in range(t.number):
        place, key = f, keys[inner, f] * 216 + t.asked[wish, f]
        while place > 0 and order.keys[place - 1] > key:
            order.keys[place] = order.keys[place - 1]
            place -= 1
        order.keys[place] = key
    prefix = 0
    order.masks[I, 0] = order.masks[W, 0] = order.masks[O, 0] = order.prefix[0] = 0
    for place in range(t.number):
        prefix |= 1 << (order.keys[place] & 7)
        order.prefix[place + 1] = prefix
        for op in (I, W):
            if prefix & ~t.reuse[op] == 0:
                order.masks[op, 0] = prefix


@compiled
def top_runs(view: Record, t: Record, unsure: Flags, order: Record) -> None:
    """Fresh and reusing factors that end right below the cut over every level which may be refilled late."""
    for op in range(3):
        for level in range(view.count[op]):
            if unsure[view.memory[op, level]]:
                order.runs[op, level, 0] = _top_run(t, op, level, t.fresh[op], order)
                order.runs[op, level, 1] = _top_run(t, op, level, t.reuse[op], order)


@compiled
def _top_run(t: Record, op: int, level: int, flags: int, order: Record) -> int:
    above, place = order.masks[op, level + 1], 0
    if level:
        flags = flags & ~order.masks[op, level]
    while above & ~order.prefix[place] & ~flags != 0:
        place += 1
    return int(above & ~order.prefix[place])


@compiled
def unsure_memories(view: Record, tables: Records, rows: int, unsure: Flags) -> None:
    """Which memories may have no room to be refilled while they are read, in some row of the layer and some order."""
    for memory in range(view.memories):
        inner, roomy = False, True
        for op in range(3):
            inner |= 0 <= view.level[memory, op] < view.count[op] - 1
        for row in range(rows):
            t, bits = tables[row], 0.0
            for op in (O, W, I):
                level = view.level[memory, op]
                if level >= 0:
                    width = max(t.bits[2], t.bits[3]) if op == O else t.bits[op]
                    bits += np.rint(t.held[op, level, t.full]) * width
            roomy &= bits <= 0.5 * view.room[memory]
        unsure[memory] = inner and not roomy


@compiled
def same(view: Record, unsure: Flags, a: Record, b: Record) -> bool:
    """Whether two orders of a chain take equally long."""
    if a.masks[I, 0] != b.masks[I, 0] or a.masks[W, 0] != b.masks[W, 0]:
        return False
    for op in range(3):
        for level in range(view.count[op]):
            if unsure[view.memory[op, level]] and (
                a.runs[op, level, 0] != b.runs[op, level, 0] or a.runs[op, level, 1] != b.runs[op, level, 1]
            ):
                return False
    return True
