"""What a memory holds beside what its mapping is timed by: every level filled up as far as the order allows.

A level may be filled in smaller pieces than it has room for; then work starts earlier, and what it has been given
stays there for later. So a mapping is timed by the sets of its chain, while its traffic is that of the same order with
every level filled as far as it goes, each at the place of the next smaller one.
"""

from itertools import permutations

import numpy as np

from offramp.cost.engine_chains import held_sizes
from offramp.cost.engine_hierarchy import Hierarchy
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_loops import Bytes
from offramp.cost.engine_orders import Orders
from offramp.cost.engine_tables import I, O, W

Masks = list[list[Bytes]]


def fillings(orders: Orders, hierarchy: Hierarchy) -> list[Masks]:
    """Masks per operand and boundary, for every sequence in which the operands of a shared memory may be served."""
    shared = any(len(_held(hierarchy, memory)) > 1 for memory in range(len(hierarchy.core.memories)))
    turns = permutations((I, W, O)) if shared else [(I, W, O)]
    return [_filled(orders, hierarchy, turn) for turn in turns]


def _held(hierarchy: Hierarchy, memory: int) -> list[tuple[int, int]]:
    """(operand, level) of what a memory holds below its operand's highest level."""
    return [(op, level) for op, level in hierarchy.held_in(memory) if level + 1 < len(hierarchy.levels[op])]


def _filled(orders: Orders, hierarchy: Hierarchy, turn: tuple[int, ...]) -> Masks:
    masks: Masks = [list(orders.masks[op][: len(hierarchy.levels[op])]) for op in (I, W, O)]
    for memory in reversed(range(len(hierarchy.core.memories))):
        for op, level in sorted(_held(hierarchy, memory), key=lambda held: turn.index(held[0])):
            masks[op][level + 1] = _grown(orders, hierarchy, masks, memory, (op, level))
    return masks


def _grown(orders: Orders, hierarchy: Hierarchy, masks: Masks, memory: int, held: tuple[int, int]) -> Bytes:
    """The longest prefix of the order that one level may keep beside what else is in the memory."""
    op, level = held
    spec, now = hierarchy.core.memories[memory], masks[op][level + 1]
    free = np.full(orders.row.size, float(spec.size_bits))
    for other in hierarchy.held_in(memory):
        if other != held:
            free -= _bits(orders, masks, other, _above(orders, masks, *other), double=spec.double_buffered)
    above = _above(orders, masks, op, level + 1)
    best = now
    for prefix in orders.prefix[1:]:
        larger = (prefix & now == now) & (prefix & above == prefix)
        fits = _bits(orders, masks, held, prefix, double=spec.double_buffered) <= free
        best = np.where(larger & fits, np.maximum(best, prefix), best)
    return best


def _above(orders: Orders, masks: Masks, op: int, level: int) -> Bytes:
    full: Bytes = orders.tables.full.astype(np.uint8)[orders.row]
    return masks[op][level + 1] if level + 1 < len(masks[op]) else full


def _bits(orders: Orders, masks: Masks, held: tuple[int, int], mask: Bytes, *, double: bool) -> Floats:
    """(orders,) bits of a level that keeps some factors."""
    op, level = held
    t, place = orders.tables, orders.base + mask
    partial, final = held_sizes(t, op, level, double=double)
    bits: Floats = final.take(place)
    if op == O and level:
        unfinished = t.partial(level).take(orders.base + masks[op][level])
        bits = np.where(unfinished, partial.take(place), bits)
    return bits
