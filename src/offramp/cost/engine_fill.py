"""What a memory holds beside what its mapping is timed by: every level filled up as far as the order allows.

A level may be filled in smaller pieces than it has room for; then work starts earlier, and what it has been given
stays there for later. So a mapping is timed by the sets of its chain, while its traffic is that of the same order with
every level filled as far as it goes, each at the place of the next smaller one.
"""

from collections.abc import Collection
from dataclasses import replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_chains import Slot, held_sizes
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_loops import Bytes
from offramp.cost.engine_orders import Orders
from offramp.cost.engine_tables import I, O, W

Masks = list[list[Bytes]]
Flags = NDArray[np.bool_]


def fillings(orders: Orders) -> list[Masks]:
    """Masks per operand and boundary, for every sequence in which the operands of a shared memory may be served."""
    h = orders.hierarchy
    part = [[op for op, _ in _open(orders, orders.masks, memory)] for memory in range(len(h.core.memories))]
    most = max(part, key=len)
    turns = [(*turn, *({I, W, O} - set(turn))) for turn in permutations(most)]
    every = [np.ones(orders.row.size, dtype=bool)] * len(orders.prefix)
    return [_filled(orders, orders.masks, turn, [every] * 3) for turn in turns]


def completed(orders: Orders, open_cuts: Collection[Slot], whole: Flags) -> tuple[Orders, Flags]:
    """The orders with the cuts that are not chosen yet made as large as they may be and still save traffic.

    Also whether they fit; `whole` (rows, memories) says which memories do in any case.
    """
    masks: Masks = [list(masks) for masks in orders.masks]
    for op, b in sorted(open_cuts):
        masks[op][b] = masks[op][b - 1] if b > 1 else np.zeros_like(masks[op][b])
    orders = replace(
        orders, masks=_filled(orders, masks, (O, W, I), [_saving(orders, op) for op in (I, W, O)]), places={}
    )
    fits = np.ones(orders.row.size, dtype=bool)
    for memory, spec in enumerate(orders.hierarchy.core.memories):
        held = orders.hierarchy.held_in(memory)
        if any((op, b) in open_cuts for op, level in held for b in (level, level + 1)):
            parts = [
                _bits(orders, orders.masks, at, _above(orders, orders.masks, *at), double=spec.double_buffered)
                for at in held
            ]
            fits &= (sum(parts) <= spec.size_bits) | whole[orders.row, memory]
    return orders, fits


def _open(orders: Orders, masks: Masks, memory: int) -> list[tuple[int, int]]:
    """(operand, level) of what a memory could hold more of in some order."""
    h, full = orders.hierarchy, orders.tables.full[orders.row]
    held = [(op, level) for op, level in h.held_in(memory) if level + 1 < len(h.levels[op])]
    return [(op, level) for op, level in held if not np.array_equal(masks[op][level + 1], full)]


def _saving(orders: Orders, op: int) -> list[Flags]:
    """For every prefix, (orders,) whether its last factor saves traffic of an operand, or it is everything."""
    t, row = orders.tables, orders.row
    saving, full = (t.full & ~t.fresh_masks[op]).astype(np.uint8)[row], t.full.astype(np.uint8)[row]
    before = [np.zeros_like(full), *orders.prefix[:-1]]
    return [
        (prefix & ~last & saving != 0) | (prefix == full) for prefix, last in zip(orders.prefix, before, strict=True)
    ]


def _filled(orders: Orders, given: Masks, turn: tuple[int, ...], allowed: list[list[Flags]]) -> Masks:
    hierarchy, masks = orders.hierarchy, [list(masks) for masks in given]
    for memory in reversed(range(len(hierarchy.core.memories))):
        for op, level in sorted(_open(orders, masks, memory), key=lambda held: turn.index(held[0])):
            masks[op][level + 1] = _grown(orders, masks, memory, (op, level), allowed[op])
    return masks


def _grown(orders: Orders, masks: Masks, memory: int, held: tuple[int, int], allowed: list[Flags]) -> Bytes:
    """The longest prefix of the order that one level may keep beside what else is in the memory."""
    op, level = held
    hierarchy, now = orders.hierarchy, masks[op][level + 1]
    spec = hierarchy.core.memories[memory]
    free = np.full(orders.row.size, float(spec.size_bits))
    for other in hierarchy.held_in(memory):
        if other != held:
            free -= _bits(orders, masks, other, _above(orders, masks, *other), double=spec.double_buffered)
    above = _above(orders, masks, op, level + 1)
    best = now
    for prefix, able in zip(orders.prefix, allowed, strict=True):
        larger = (prefix & now == now) & (prefix & above == prefix) & able
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
