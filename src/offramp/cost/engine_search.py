"""The search over mappings of one layer: how fast the fastest is, and the cheapest of those that are as fast.

Two walks over the chains of every row (unrolling). The first leaves out chains whose lower bound of cycles is not
below what is known, and so finds the least latency. The second looks only at chains that may be as fast, leaves out
those whose lower bound of energy exceeds what is known, and so finds the cheapest. The least latency wins, of equals
the least energy, also where the layer is taken to cost more.
"""

import numpy as np
from numpy.typing import NDArray

from offramp.cost.arrays import Flags, Floats, Ints, Record, Records
from offramp.cost.engine_chains import allowed, bound, checks, fits, forget_duties, nested
from offramp.cost.engine_compile import compiled
from offramp.cost.engine_energy import forget, least_spent, spent
from offramp.cost.engine_fill import TURNS, fill, turns_of
from offramp.cost.engine_latency import cycles_of
from offramp.cost.engine_orders import WISHES, arrange, pieces, same, top_runs
from offramp.cost.engine_tables import SETS
from offramp.cost.engine_view import MEMORIES, MOST

EQUAL = 1.0 + 5e-4
"""Mappings within this factor of the least cycles count as equally fast: a hair of time never buys energy."""

HAIR = 1e-12
"""Share below which bounds and what they bound are not told apart."""

FOUND = np.dtype((np.record, [("cycles", "f8"), ("energy", "f8"), ("wish", "i8"), ("masks", "i8", (3, MOST + 1))]))
"""The best mapping of a row: cycles and picojoules of memories, infinite where nothing fits and where another row of
the layer is faster or cheaper; wish of its order; factors below every boundary."""

CUTS = 3 * MOST
"""Most cuts of a core."""

ROOM = np.dtype((np.record, [
    ("unsure", "u1", MEMORIES), ("known", "i8", CUTS + 1), ("masks", "i8", (3, MOST + 1)), ("keys", "i8", (2, MOST)),
    ("sets", "u1", (CUTS, SETS)), ("sizes", "i8", CUTS), ("nested", "u1", (CUTS, SETS)), ("at", "i8", CUTS),
    ("chosen", "i8", CUTS), ("filled", "i8", (3, MOST + 1)), ("spends", "u1"), ("own", "u1"), ("least", "f8"),
    ("limit", "f8"), ("cheapest", "f8"), ("fixed", "f8"), ("soonest", "f8"), ("lowest", "f8"), ("floor", "f8"),
    ("credit", "f8"), ("slack", "f8"),
]))  # fmt: skip
"""What a search knows, and room to work in.

unsure: memories that may have no room to be refilled while they are read; known: see `engine_chains.checks`; keys:
see `engine_orders.pieces`; masks, filled: sets of a chain, and scratch.
sets, sizes: of every cut the sets that it may keep, and how many; nested, at, chosen: those that nest with the cuts
before it, which is tried, and which it keeps.
spends: whether this is the walk for energy; own: whether an unrolling of the core's own is as fast as the fastest.
least: the least cycles so far; limit: most cycles that a chain is looked at for.
cheapest: the least picojoules so far, of memories and array; fixed: those of the array for this row.
soonest, lowest: lower bounds of a chain's cycles and picojoules, 0 where none was asked for.
floor, credit: what the layer costs at least, unless that is more than `credit` times its fastest mapping; slack: how
much more than what is known a lower bound may be before a chain is left out (1; infinite to leave out none).
"""


@compiled
def price(room: Record) -> float:
    """What a layer is taken to cost by what is known so far."""
    return float(max(room.least, min(room.floor, room.least * room.credit)))


@compiled
def search(
    view: Record, tables: Records, fixed: Floats, rows: int, cuts: Ints, count: int, whole: Flags,
    room: Record, moves: Record, loads: Record, orders: Records, spending: Record, found: Records, last: bool,
) -> float:  # fmt: skip
    """What the layer costs; if this is the last search of it, the best mapping of each row that may be its layer's
    best is written to `found`.

    Searched are chains of the first `count` cuts; `whole` (rows, memories) says which memories take everything, `fixed`
    (rows,) what the array spends. Unrollings of smaller cores count only where none of the core's own is as fast.
    """
    room.least, room.cheapest, room.own, room.spends = np.inf, np.inf, False, False
    for row in range(rows):
        room.limit = room.least * (1.0 - HAIR)
        _walk(view, tables[row], cuts, count, whole[row], room, moves, loads, orders, spending, found[row])
    if last:
        room.spends, room.limit = True, room.least * EQUAL
        for row in range(rows):
            if not (room.own and tables[row].extra):
                room.fixed = fixed[row]
                forget(view, tables[row], spending)
                _walk(view, tables[row], cuts, count, whole[row], room, moves, loads, orders, spending, found[row])
    return price(room)


@compiled
def _walk(
    view: Record, t: Record, cuts: Ints, count: int, whole: Flags, room: Record, moves: Record, loads: Record,
    orders: Records, spending: Record, found: Record,
) -> None:  # fmt: skip
    """Try all chains of a row that may be better than what is known, those that keep most first."""
    forget_duties(view, t, loads)
    for op in range(3):
        for b in range(MOST + 1):
            room.masks[op, b] = t.full
    checks(view, cuts, count, whole, room.known)
    if not fits(view, t, room.masks, room.known[0]):
        return
    for i in range(count):
        memory = view.memory[cuts[i, 0], cuts[i, 1] - 1]
        room.sizes[i] = allowed(view, t, cuts[i, 0], cuts[i, 1], whole[memory], room.sets[i])
    k, room.at[0] = 0, 1
    if count:
        room.at[0] = nested(t, cuts, 0, room.chosen, room.sets[0], room.sizes[0], room.nested[0])
    while k >= 0:
        room.at[k] -= 1
        if room.at[k] < 0:
            if count:
                room.masks[cuts[k, 0], cuts[k, 1]] = t.full
            k -= 1
        elif not count or _chosen(view, t, cuts, k, room):
            if _hopeless(view, t, cuts, k + 1, count, room, loads, spending):
                continue
            if k + 1 >= count:
                _ordered(view, t, room, moves, loads, orders, found)
            else:
                k += 1
                room.at[k] = nested(t, cuts, k, room.chosen, room.sets[k], room.sizes[k], room.nested[k])


@compiled
def _hopeless(
    view: Record, t: Record, cuts: Ints, chosen: int, count: int, room: Record, loads: Record, spending: Record
) -> bool:
    """Whether no chain with the cuts chosen so far can be better than what is known."""
    limit = room.limit * room.slack
    room.soonest, room.lowest = bound(view, t, room.masks, cuts, chosen, count, loads, limit), 0.0
    if room.soonest > limit:
        return True
    if not room.spends or (chosen < count and room.cheapest == np.inf):
        return False
    room.lowest = least_spent(view, t, room.masks, cuts, chosen, count, spending)
    return bool(room.lowest + room.fixed > room.cheapest * (1.0 + HAIR) * room.slack)


@compiled
def _chosen(view: Record, t: Record, cuts: Ints, k: int, room: Record) -> bool:
    """Let a cut keep the set that is tried; whether all that is known then has room."""
    room.chosen[k] = room.masks[cuts[k, 0], cuts[k, 1]] = room.nested[k, room.at[k]]
    return fits(view, t, room.masks, room.known[k + 1])


@compiled
def _copy(to: NDArray[np.integer], masks: NDArray[np.integer]) -> None:
    for op in range(3):
        for b in range(MOST + 1):
            to[op, b] = masks[op, b]


@compiled
def _ordered(
    view: Record, t: Record, room: Record, moves: Record, loads: Record, orders: Records, found: Record
) -> None:
    """Time the orders of a chain that differ; in the walk for energy keep the cheapest of those that are fast enough.

    Of equals the earlier wish, of these what keeps less.
    """
    pieces(view, t, room.masks, room.keys)
    for wish in range(len(WISHES)):
        order, known = orders[wish], False
        for op in range(3):
            for b in range(1, view.count[op] + 1):
                order.masks[op, b] = room.masks[op, b]
        arrange(t, wish, room.keys, order)
        top_runs(view, t, room.unsure, order)
        for other in range(wish):
            known |= same(view, room.unsure, order, orders[other])
        if known:
            continue
        cycles = cycles_of(view, t, room.unsure, order, moves, loads, room.limit)
        if not room.spends:
            room.least = min(room.least, cycles)
            room.limit = room.least * (1.0 - HAIR)
            if cycles <= room.soonest:
                return
        elif cycles <= room.limit:
            room.own |= not t.extra
            _fill(view, t, wish, room, order, found)
            if found.energy <= room.lowest:
                return


@compiled
def _fill(view: Record, t: Record, wish: int, room: Record, order: Record, found: Record) -> None:
    """Keep an order, filled in the best turn, where its row has none of less energy."""
    best, least = 0, np.inf
    for turn in range(turns_of(view, room.masks, t.full)):
        energy = _filled(view, t, turn, room, order)
        if energy < least:
            best, least = turn, energy
    if least < found.energy or (least == found.energy and wish <= found.wish):
        _filled(view, t, best, room, order)
        found.cycles, found.energy, found.wish = price(room), least, wish
        _copy(found.masks, room.filled)
        room.cheapest = min(room.cheapest, least + room.fixed)


@compiled
def _filled(view: Record, t: Record, turn: int, room: Record, order: Record) -> float:
    """Picojoules of an order, whose levels are filled in some turn."""
    _copy(room.filled, order.masks)
    fill(view, t, TURNS[turn], order.prefix, room.filled)
    return spent(view, t, room.filled)
