"""The search over mappings of one layer: which chains may win, in which order, and the best.

Only chains whose lower bound does not exceed what another mapping of the layer is known to take are put in order and
priced. The least latency wins, of equals the least energy, also where the layer is taken to cost more.
"""

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_chains import CHAIN, allowed, bound, checks, fits, narrow, nests
from offramp.cost.engine_compile import compiled
from offramp.cost.engine_fill import fill, spent, turns_of
from offramp.cost.engine_latency import cycles_of
from offramp.cost.engine_orders import WISHES, arrange, ask, pieces, same, top_runs, unsure_memories
from offramp.cost.engine_tables import SETS
from offramp.cost.engine_view import MEMORIES, MOST, Flags, Ints, Record, Records

EQUAL = 1.0 + 5e-4
"""Mappings within this factor of the least cycles count as equally fast: a hair of time never buys energy."""

FOUND = np.dtype((np.record, [("cycles", "f8"), ("energy", "f8"), ("wish", "i8"), ("masks", "i8", (3, MOST + 1))]))
"""The best mapping of a row: cycles and picojoules of memories, infinite where nothing fits and where another row of
the layer is faster; wish of its order; factors below every boundary."""

FAST = np.dtype((np.record, [("chain", "i8"), ("wish", "i8"), ("cycles", "f8")]))
"""An order that may be fast enough."""

CUTS = 3 * MOST
"""Most cuts of a core."""

ROOM = np.dtype((np.record, [
    ("unsure", "u1", MEMORIES), ("known", "i8", CUTS + 1), ("within", "i8", (CUTS, 3)), ("masks", "i8", (3, MOST + 1)),
    ("keys", "i8", (2, MOST)), ("sets", "u1", (CUTS, SETS)), ("sizes", "i8", CUTS), ("at", "i8", CUTS),
    ("chosen", "i8", CUTS), ("spare", "u1", (3, MOST)), ("turns", "i8", (6, 3)), ("chains", "i8"), ("fast", "i8"),
    ("least", "f8"), ("floor", "f8"), ("credit", "f8"), ("slack", "f8"), ("equal", "f8"),
]))  # fmt: skip
"""What a search knows, and room to work in.

unsure: memories that may have no room to be refilled while they are read; known: see `engine_chains.checks`; within:
see `engine_chains.narrow`, by cut; keys: see `engine_orders.pieces`; spare, turns: see `engine_fill.turns_of`; masks:
scratch.
sets, sizes, at, chosen: of every cut the sets that it may keep, how many, which is tried, and which it keeps.
chains, fast: how many there are so far; least: the least cycles so far.
floor, credit: what the layer costs at least, unless that is more than `credit` times its fastest mapping; slack: how
much more than the fastest mapping a lower bound may be before a chain is left out (1; infinite to leave out none);
equal: `EQUAL`, or a hair below 1 where only the least counts.
"""


@compiled
def price(room: Record) -> float:
    """What a layer is taken to cost by what is known so far."""
    return float(max(room.least, min(room.floor, room.least * room.credit)))


@compiled
def search(
    view: Record, tables: Records, rows: int, cuts: Ints, count: int, whole: Flags,
    room: Record, moves: Record, loads: Record, orders: Records, found: Records, first: int, last: bool,
) -> float:  # fmt: skip
    """What the layer costs; if this is the last search of it, the best mapping of each row that may be its layer's
    best is written to `found`.

    Searched are chains of the first `count` cuts; `whole` (rows, memories) says which memories take everything.
    """
    chains, fast = np.empty(64, dtype=CHAIN), np.empty(64, dtype=FAST)
    room.chains, room.fast, room.least, room.equal = 0, 0, np.inf, EQUAL if last else 1.0 - 1e-12
    unsure_memories(view, tables, rows, room.unsure)
    for row in range(rows):
        chains, fast = _chains(
            view, tables[row], row, cuts, count, whole[row], room, moves, loads, orders, chains, fast
        )
    if last:
        _choose(view, tables, chains, fast, room, orders, found, first)
    return price(room)


@compiled
def _chains(
    view: Record, t: Record, row: int, cuts: Ints, count: int, whole: Flags, room: Record, moves: Record, loads: Record,
    orders: Records, chains: Records, fast: Records,
) -> tuple[Records, Records]:  # fmt: skip
    """Try all chains of a row that may be as fast as the fastest so far, those that keep most first."""
    ask(t)
    for op in range(3):
        for b in range(MOST + 1):
            room.masks[op, b] = t.full
    checks(view, cuts, count, whole, room.known)
    if not fits(view, t, room.masks, room.known[0]):
        return chains, fast
    for i in range(count):
        memory = view.memory[cuts[i, 0], cuts[i, 1] - 1]
        room.sizes[i] = allowed(view, t, cuts[i, 0], cuts[i, 1], whole[memory], room.sets[i])
    k, room.at[0] = 0, room.sizes[0] if count else 1
    if count:
        narrow(cuts, 0, room.chosen, t.full, room.within[0])
    while k >= 0:
        room.at[k] -= 1
        if room.at[k] < 0:
            if count:
                room.masks[cuts[k, 0], cuts[k, 1]] = t.full
            k -= 1
        elif not count or _chosen(view, t, cuts, k, int(room.sets[k, room.at[k]]), room):
            if bound(view, t, room.masks, cuts, k + 1, count, loads) > room.least * room.equal * room.slack:
                continue
            if k + 1 >= count:
                chains, fast = _ordered(view, t, row, room, moves, loads, orders, chains, fast)
            else:
                k += 1
                room.at[k] = room.sizes[k]
                narrow(cuts, k, room.chosen, t.full, room.within[k])
    return chains, fast


@compiled
def _chosen(view: Record, t: Record, cuts: Ints, k: int, new: int, room: Record) -> bool:
    """Whether a cut may keep a set beside the cuts chosen before it; if so it does."""
    if not nests(t, room.chosen, cuts, k, new, room.within[k]):
        return False
    room.chosen[k] = room.masks[cuts[k, 0], cuts[k, 1]] = new
    return fits(view, t, room.masks, room.known[k + 1])


@compiled
def _twice(records: Records) -> Records:
    """The same with room for twice as many."""
    larger = np.empty(2 * records.size, dtype=records.dtype)
    larger[: records.size] = records
    return larger


@compiled
def _copy(to: NDArray[np.integer], masks: NDArray[np.integer]) -> None:
    for op in range(3):
        for b in range(MOST + 1):
            to[op, b] = masks[op, b]


@compiled
def _ordered(
    view: Record, t: Record, row: int, room: Record, moves: Record, loads: Record, orders: Records, chains: Records,
    fast: Records,
) -> tuple[Records, Records]:  # fmt: skip
    """Price the orders of a chain that differ and keep those that may be fast enough."""
    kept = False
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
        cycles = cycles_of(view, t, room.unsure, order, moves, loads, room.least * room.equal)
        room.least = min(room.least, cycles)
        if cycles <= room.least * room.equal:
            kept = True
            if room.fast == fast.size:
                fast = _twice(fast)
            one = fast[room.fast]
            one.chain, one.wish, one.cycles = room.chains, wish, cycles
            room.fast += 1
    if kept:
        if room.chains == chains.size:
            chains = _twice(chains)
        chains[room.chains].row = row
        _copy(chains[room.chains].masks, room.masks)
        room.chains += 1
    return chains, fast


@compiled
def _choose(
    view: Record, tables: Records, chains: Records, fast: Records, room: Record, orders: Records, found: Records,
    first: int,
) -> None:  # fmt: skip
    """The order of least energy of every row, of those that are as fast as the fastest of the layer.

    Unrollings of smaller cores count only where none of the core's own is as fast.
    """
    limit, own, count = room.least * EQUAL, False, 0
    for i in range(room.fast):
        own |= fast[i].cycles <= limit and not tables[chains[fast[i].chain].row].extra
    for op in range(3):
        for b in range(MOST):
            room.spare[op, b] = False
    for i in range(room.fast):
        chain = chains[fast[i].chain]
        t = tables[chain.row]
        if fast[i].cycles <= limit and not (own and t.extra):
            fast[count].chain, fast[count].wish = fast[i].chain, fast[i].wish
            count += 1
            for op in range(3):
                for b in range(1, view.count[op]):
                    room.spare[op, b - 1] |= chain.masks[op, b] != t.full
    turns = turns_of(view, room.spare, room.turns)
    for i in range(count):
        chain = chains[fast[i].chain]
        _fill(view, tables[chain.row], chain, fast[i].wish, turns, room, orders, found[first + chain.row])


@compiled
def _fill(
    view: Record, t: Record, chain: Record, wish: int, turns: int, room: Record, orders: Records,
    found: Record,
) -> None:  # fmt: skip
    """Keep an order, filled in the best turn, where its row has none of less energy; of equals the earlier wish,
    of these what keeps less.
    """
    order = orders[0]
    _copy(order.masks, chain.masks)
    pieces(view, t, chain.masks, room.keys)
    arrange(t, wish, room.keys, order)
    best, least = 0, np.inf
    for turn in range(turns):
        energy = _filled(view, t, room.turns[turn], room, order)
        if energy < least:
            best, least = turn, energy
    if least < found.energy or (least == found.energy and wish <= found.wish):
        _filled(view, t, room.turns[best], room, order)
        found.cycles, found.energy, found.wish = price(room), least, wish
        _copy(found.masks, room.masks)


@compiled
def _filled(view: Record, t: Record, turn: Ints, room: Record, order: Record) -> float:
    """Picojoules of an order, whose levels are filled in some turn."""
    _copy(room.masks, order.masks)
    fill(view, t, turn, order.prefix, room.masks)
    return spent(view, t, room.masks)
