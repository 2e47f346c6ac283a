"""What compiled schedules are made of: tables of a problem, the numbers of a state, and the records of a finished path.

Tables are arrays of records (C structures), made once per problem by `cost.problem`. A state - a partial schedule - is
one row of float64, so that a child is a copy of a row; where its parts lie depends on the problem and is in `HEAD`. No
size is fixed: when a list in a row is full, the search is made again with rows that have room for twice as much.
"""

from typing import NamedTuple

import numpy as np

from offramp.cost.arrays import Flags, Ints, Record, Records

HEAD = np.dtype((np.record, [
    ("layers", "i8"), ("cores", "i8"), ("exits", "i8"), ("live", "i8"), ("stripes", "u1"), ("last_reader", "i8"),
    ("outer_cycles", "f8"), ("outer_read", "f8"), ("outer_write", "f8"),
    ("links", "i8"), ("left", "i8"), ("rests", "i8"), ("pending", "i8"), ("outer", "i8"),
    ("width", "i8"), ("lists", "i8"),
]))  # fmt: skip
"""A problem.

layers, cores, exits: how many; live: most tensors alive at once; stripes: whether any layer may run in stripes;
last_reader: the last layer that reads the network's input (-1: none).
outer_cycles, outer_read, outer_write: cycles and picojoules per byte of the outer memory.
links, left, rests, pending, outer: where these parts of a state begin; width: numbers of a state; lists: room in lists.
"""

LAYER = np.dtype((np.record, [
    ("stage", "i8"), ("branch", "u1"), ("count", "i8"), ("inputs", "i8", 2), ("uses", "i8"), ("readers", "i8"),
    ("weight_bytes", "f8"), ("input_bytes", "f8"), ("read_bytes", "f8"), ("output_bytes", "f8"),
    ("row", "i8"), ("next", "i8"), ("times", "i8"), ("rows_in", "f8"), ("rows_out", "f8"),
]))  # fmt: skip
"""A layer.

stage, branch: where it belongs; inputs: its `count` producers (-1: the network's input); uses: readers of its output,
which are in the list of numbers from `readers` on.
weight_bytes, output_bytes; input_bytes of one input, read_bytes of all.
row: its row of prices in stripes (-1: it has none), of which there are `times`, with rows of rows_in and rows_out bytes
in buffers; next: the layer that may read them as they come (-1: none).
"""

WAY = np.dtype((np.record, [("cycles", "f8", 4), ("energy", "f8", 4), ("working", "f8", 4)]))
"""Prices and buffers of a layer on a core, by variant; rows of layers in stripes follow those of whole ones."""

CORE = np.dtype((np.record, [("memory", "i8"), ("size", "f8"), ("alike", "i8"), ("count", "i8"), ("members", "i8", 2)]))
"""A core: its activation memory (-1: none) of `size` bytes, the number of its kind, the `count` cores it stands for."""

ROUTE = np.dtype((np.record, [
    ("known", "u1"), ("cycles_per_byte", "f8"), ("pj_per_byte", "f8"), ("hops", "i8"), ("count", "i8"),
    ("read_pj", "f8"),
]))  # fmt: skip
"""[memory, core]: the way between them, if there is one; its `count` links are in the list of numbers from `hops` on;
read_pj: picojoules per byte read from the memory."""

STAGE = np.dtype((np.record, [("rate", "f8"), ("reach", "f8"), ("last", "i8")]))
"""A stage: share of samples that leave at its exit, and that reach it; its last layer (of none: the last before it)."""

STEP = np.dtype((np.record, [
    ("layer", "i8"), ("core", "i8"), ("variant", "i8"), ("start", "f8"), ("end", "f8"), ("energy", "f8"),
    ("occupied", "f8"), ("keep", "i8"), ("striped", "u1"), ("first", "i8"), ("count", "i8"), ("before", "i8"),
]))  # fmt: skip
"""One placed layer.

occupied: bytes in use in its activation memory meanwhile; keep: where its output went; first, count: its moves; before:
the step before it (-1: none), so that states share their past.
"""

MOVE = np.dtype((np.record, [
    ("tensor", "i8"), ("memory", "i8"), ("core", "i8"), ("start", "f8"), ("end", "f8"), ("energy", "f8"),
]))  # fmt: skip
"""A tensor on its way from an activation memory to the core that reads it next, or out to make room (-1)."""

OUTER, STAY, STREAM = 0, 1, 2
"""Where an output goes: the outer memory, the core's activation memory, or row by row to the next layer."""

RELEASE, ENERGY, LATEST, PASSED, ALIVE, WAITING, TAKEN, LAST, FULL, FREE = range(10)
"""Numbers of a state: nothing starts before RELEASE; ENERGY so far and the LATEST end; how many exits are PASSED,
tensors ALIVE, buffers WAITING to be freed, intervals of the outer memory TAKEN; its LAST step (-1: none); whether a
list was FULL. From FREE on when each core is free, then when each link is."""

TIME, SPENT, WASTED, AHEAD, EXIT = range(5)
"""Of an exit passed: when a sample leaves, what its layers cost, what speculation adds, whether the backbone runs on;
EXIT numbers in all."""

TENSOR, MEMORY, READY, OUTSIDE, USES, SIZE, STREAMED, REST = range(8)
"""Of a live tensor: its activation memory (-1: none), since when there and in the outer memory, readers left, its
bytes, and whether it comes row by row to the next layer on the same core. In the order of their making."""

WHERE, UNTIL, BYTES, PENDING = range(4)
"""Of what still fills an activation memory after its last use."""

LOW, HIGH, TAKE = range(3)
"""Reserved time of the outer memory: disjoint intervals in ascending order."""


class Tables(NamedTuple):
    """A problem for compiled functions: records by layer, [row, core], core, [memory, core] and stage.

    `lists`: readers of layers and links of routes; `tries` (layers, cores): cores worth a try.
    """

    head: Record
    layers: Records
    ways: Records
    cores: Records
    routes: Records
    lists: Ints
    stages: Records
    tries: Flags


LISTS = 16
"""Room in a row for what waits to be freed, and for intervals of the outer memory, to begin with."""


def head_of(*, layers: int, cores: int, exits: int, live: int, links: int, **others: float) -> Record:
    """`HEAD` of a problem; `others` are its fields that have nothing to do with the lengths of lists."""
    left = FREE + cores + links
    rests = left + EXIT * exits
    pending = rests + REST * (live + 1)
    parts = {"links": FREE + cores, "left": left, "rests": rests, "pending": pending}
    known = {"layers": layers, "cores": cores, "exits": exits, "live": live, **parts, **others}
    head = np.array([tuple([known.get(name, 0) for name in HEAD.names or ()])], HEAD)[0]
    make_room(head, LISTS)
    return head


def make_room(head: Record, lists: int) -> None:
    """Let the lists in rows of states have that many items."""
    head.lists = lists
    head.outer = head.pending + PENDING * lists
    head.width = head.outer + TAKE * lists
