"""The best mapping of every row of a core: what Python calls of the compiled search.

A layer is first priced as if all memories of the whole array took everything. That is what it costs where they do, and
what it costs at least where they do not (see `CREDIT`): a memory that holds a part is not credited with an earlier
start than one that holds all, for then more memory could cost cycles.
"""

from typing import Any

import numpy as np

from offramp.cost.arrays import Flags, Floats, Ints, Record, Records
from offramp.cost.engine_chains import LOADS
from offramp.cost.engine_compile import SOURCES, compiled, entry
from offramp.cost.engine_energy import SPENDING, crossing
from offramp.cost.engine_fill import held_bytes
from offramp.cost.engine_hierarchy import BETWEEN, LAST, OWN
from offramp.cost.engine_latency import MOVES
from offramp.cost.engine_orders import ORDER, WISHES, ask, unsure_memories
from offramp.cost.engine_search import FOUND, ROOM, search
from offramp.cost.engine_tables import TABLE, fits_whole, tabulate
from offramp.cost.engine_view import MEMORIES

CREDIT = 0.125
"""How much less a layer may cost, where memories between the array and the last ones hold parts, than where they hold
all; beyond that the credit for an early start is given however much they hold."""


@compiled
def _mappings(
    view: Record, outer: Record, used: Ints, lines: Records, fixed: Floats, starts: Ints, streams: Flags,
    slack: float, timed: bool,
) -> Records:  # fmt: skip
    """The best mapping of all rows (`engine_search.FOUND`).

    The rows of a group, from one of `starts` to the next, are unrollings of one layer. `outer` is the core with all
    its memories, of which the view has those `used`; `fixed` (rows,) are picojoules that the array spends; `streams`
    (groups,) says what is priced as a stream: what no weight waits for may start as early as it likes. `slack` is that
    of `engine_search.ROOM`. With `timed` nothing is found but the cycles of the first row of every group.
    """
    found, most = np.empty(len(lines), dtype=FOUND), 0
    for i in range(len(streams)):
        most = max(most, starts[i + 1] - starts[i])
    tables, orders = np.empty(most, dtype=TABLE), np.empty(len(WISHES), dtype=ORDER)
    rooms, moves = np.empty(1, dtype=ROOM), np.empty(1, dtype=MOVES)
    loads, spending = np.empty(1, dtype=LOADS), np.empty(1, dtype=SPENDING)
    whole, all_of = np.zeros((4, most, MEMORIES), dtype=np.bool_), np.zeros(MEMORIES, dtype=np.bool_)
    rooms[0].slack, moves[0].worst = slack, 0
    for op in range(3):
        for b in range(view.count[op]):
            loads[0].waits[op, b, 0] = loads[0].waits[op, b, 1] = 0.0
    for i in range(len(streams)):
        first, rows = starts[i], starts[i + 1] - starts[i]
        for row in range(rows):
            tabulate(view, lines[first + row], tables[row])
            ask(tables[row])
            fits_whole(outer, lines[first + row], all_of)
            for memory in range(view.memories):
                kind = view.kind[memory]
                whole[0, row, memory] = kind != OWN
                whole[1, row, memory] = kind == LAST
                whole[2, row, memory] = kind == LAST and all_of[used[memory]] and not streams[i]
        own = found[first : first + rows]
        _price(
            view, tables, fixed[first : first + rows], rows, whole, streams[i], rooms[0], moves[0], loads[0], orders,
            spending[0], own, timed,
        )  # fmt: skip
    return found


@compiled
def _price(
    view: Record, tables: Records, fixed: Floats, rows: int, whole: Flags, streams: bool, room: Record, moves: Record,
    loads: Record, orders: Records, spending: Record, found: Records, timed: bool,
) -> None:  # fmt: skip
    """Price one layer.

    `whole` (planes, rows, memories) says which memories are taken to hold everything in each of the three phases; the
    fourth plane is for some of the last ones.
    """
    own, between, tight, small = 0, 0, streams, 0
    for k in range(view.choices):
        own += view.cuts[k, 2] == OWN
        between += view.cuts[k, 2] == BETWEEN
    for memory in range(view.memories):
        lacks = False
        for row in range(rows):
            lacks |= view.kind[memory] == LAST and not whole[2, row, memory]
        tight |= lacks
        small |= int(lacks) << memory
    room.floor, room.credit, cost = 0.0, 1.0, np.inf
    unsure_memories(view, tables, rows, room.unsure)
    last = 2 if tight else 1 if between else 0
    for row in range(rows):
        found[row].cycles = found[row].energy = np.inf
    for phase in range(last + 1):
        count = own if phase == 0 else own + between if phase == 1 else view.choices
        if (phase < 2 and streams) or (phase == 1 and not between):
            continue
        part = (small - 1) & small if phase == 2 and not streams else 0
        while part:  # some of the last memories that are too small taken to hold everything, not all of them
            for row in range(rows):
                for memory in range(view.memories):
                    whole[3, row, memory] = whole[2, row, memory] or part >> memory & 1
            room.floor = search(
                view, tables, fixed, rows, view.cuts, count, whole[3], room, moves, loads, orders, spending, found,
                False,
            )  # fmt: skip
            part = (part - 1) & small
        cost = search(
            view, tables, fixed, rows, view.cuts, count, whole[phase], room, moves, loads, orders, spending, found,
            phase == last and not timed,
        )  # fmt: skip
        room.floor, room.credit = cost, 1.0 + CREDIT if phase == 0 and between else np.inf
    if timed:
        found[0].cycles = cost


@compiled
def _shares(view: Record, lines: Records, found: Records) -> tuple[Floats, Floats]:
    """Picojoules at the upper and lower side of every boundary, (rows, 3, levels, 2), and bytes that levels hold."""
    most, tables = view.count.max(), np.empty(1, dtype=TABLE)
    spent, held, t = np.zeros((len(lines), 3, most, 2)), np.zeros((len(lines), 3, most)), tables[0]
    for i in range(len(lines)):
        tabulate(view, lines[i], t)
        for op in range(3):
            for b in range(view.count[op]):
                spent[i, op, b, 0], spent[i, op, b, 1] = crossing(view, t, op, b, found[i].masks[op, b])
                above = found[i].masks[op, b + 1] if b + 1 < view.count[op] else t.full
                held[i, op, b] = held_bytes(view, t, op, b, above)
    return spent, held


def _entries(sources: str) -> tuple[Any, Any]:
    """What Python calls, `sources` being part of the key under which machine code is kept."""

    def mappings(
        view: Record, outer: Record, used: Ints, lines: Records, fixed: Floats, starts: Ints, streams: Flags,
        slack: float, timed: bool,
    ) -> Records:  # fmt: skip
        assert sources
        return _mappings(view, outer, used, lines, fixed, starts, streams, slack, timed)

    def shares(view: Record, lines: Records, found: Records) -> tuple[Floats, Floats]:
        assert sources
        return _shares(view, lines, found)

    return entry(mappings), entry(shares)


mappings, shares = _entries(SOURCES)
