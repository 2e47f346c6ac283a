"""A hierarchy and the rows of layers as the compiled search reads them: nothing but arrays.

Operands are I, W, O; boundary b of an operand lies below its memory level b. No search and no formulas here.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.cost.arrays import Record, Records
from offramp.cost.engine_hierarchy import BETWEEN, LAST, OWN, Hierarchy, shared_memories
from offramp.cost.engine_layers import KINDS, RELEVANT, REUSED, WINDOW_KINDS, Rows
from offramp.errors import AccelerationError

I, W, O = 0, 1, 2  # noqa: E741
"""Indices of operands."""

MOST = 8
"""Most factors of a row, as many as there are loops; also most levels of an operand and dimensions of an array."""

MEMORIES, GATES, DUTIES = 24, 64, 160
"""Most memories of a core, ports of all, and duties of all ports."""

VIEW = np.dtype((np.record, [
    ("passes", "f8"), ("memories", "i8"), ("gates", "i8"), ("dimensions", "i8"), ("choices", "i8"),
    ("count", "i8", 3), ("memory", "i8", (3, MOST)), ("level", "i8", (MEMORIES, 3)),
    ("room", "f8", MEMORIES), ("double", "u1", MEMORIES), ("kind", "i8", MEMORIES),
    ("spans", "u1", (3, MOST, MOST)), ("systolic", "u1", MOST),
    ("gate_bits", "f8", GATES), ("gate_uses", "i8", (GATES, 2)),
    ("uses", "i8", (DUTIES, 4)),
    ("port", "f8", (3, MOST, 2, 2, 4)), ("shared", "u1", (3, MOST, 2)), ("counts", "u1", (3, MOST)),
    ("cuts", "i8", (3 * MOST, 3)), ("place", "i8", (3, MOST)),
]))  # fmt: skip
"""A core's memories.

passes: cycles of one operation of the array; memories, gates, dimensions, choices: how many there are of each.
count: levels of every operand; memory: (operand, level) its memory; level: (memory, operand) and back, or -1.
room, double, kind: of memories: bits, whether every tile is held twice, OWN, BETWEEN or LAST.
spans: (operand, level) array dimensions that an instance of a level and those under it serve; systolic: those along
which results ripple.
gate_bits: width of a port; gate_uses: its first duty and the one after its last; uses: operand, boundary, upper side,
partial sums of a duty.
port: (operand, boundary, upper, partial): granularity and width in bits, picojoules of an access, 1 if there is a duty.
shared: (operand, boundary, upper) whether what is loaded passes a port that carries both inputs and weights.
counts: (operand, boundary) whether `engine_chains.loading` counts all that is loaded there: of boundaries that only one
side of is shared it counts the highest.
cuts: operand, boundary and kind of the memory under each cut, in the order of their choice; place: (operand, boundary)
and back.
"""

LINE = np.dtype((np.record, [
    ("number", "i8"), ("factors", "f8", MOST), ("dims", "i8", MOST), ("before", "i8", MOST),
    ("exact", "f8", (MOST, MOST)), ("whole", "f8", (MOST, MOST)), ("given", "f8", MOST),
    ("bits", "f8", 4), ("window", "f8", 4), ("extra", "u1"), ("windowed", "u1"),
    ("relevant", "u1", (3, MOST)), ("reused", "u1", (3, MOST)),
]))  # fmt: skip
"""A row (layer, unrolling); see `engine_layers.Rows`.

factors: sizes of its `number` temporal factors; dims: their loops; before: the last factor before that is equal, or -1.
relevant, reused: (operand, loop) what a loop is to an operand; windowed: whether inputs are read through a window.
"""


_RELEVANT = np.array([RELEVANT[kind] for kind in KINDS])
_REUSED = np.array([REUSED[kind] for kind in KINDS])
_WINDOWED = np.array([kind in WINDOW_KINDS for kind in KINDS])


def lines_of(rows: Rows) -> Records:
    """The rows as the search reads them."""
    lines = np.zeros(len(rows.factors), dtype=LINE)
    pairs = np.array([(*fs, *(((0, 1),) * (MOST - len(fs)))) for fs in rows.factors], dtype=np.int64)
    kind = np.array([KINDS.index(k) for k in rows.kind], dtype=np.intp)
    dimensions = rows.exact.shape[1]
    lines["number"] = [len(fs) for fs in rows.factors]
    lines["dims"], lines["factors"] = pairs[..., 0], pairs[..., 1]
    lines["before"] = [_before(p) for p in rows.patterns]
    lines["exact"][:, :dimensions], lines["whole"][:, :dimensions] = rows.exact, rows.whole
    lines["given"][:, :dimensions] = rows.given
    lines["bits"], lines["window"], lines["extra"] = rows.bits, rows.window, rows.extra
    lines["relevant"], lines["reused"], lines["windowed"] = _RELEVANT[kind], _REUSED[kind], _WINDOWED[kind]
    return lines


@lru_cache(maxsize=4096)
def _before(pattern: tuple[int, ...]) -> tuple[int, ...]:
    last = [max((j for j in range(i) if pattern[j] == first), default=-1) for i, first in enumerate(pattern)]
    return (*last, *([-1] * (MOST - len(pattern))))


@lru_cache(maxsize=256)
def view_of(h: Hierarchy, passes: float) -> Record:
    """The hierarchy as the search reads it.

    Raises:
        AccelerationError: the core has more memories, ports or dimensions than the search can take.
    """
    assert h.core.array is not None
    uses, memories, kinds = [u for gate in h.gates for u in gate.uses], h.core.memories, shared_memories(h)
    _check_size(h, len(uses))
    views: Records = np.zeros(1, dtype=VIEW)
    view = {name: views[name][0] if VIEW[name].shape else views[name] for name in VIEW.names or ()}
    cuts = _cuts(h, kinds)
    numbers = (passes, len(memories), len(h.gates), h.unit_dimensions, len(cuts))
    for name, number in zip(("passes", "memories", "gates", "dimensions", "choices"), numbers, strict=True):
        view[name][0] = number
    view["memory"][:], view["level"][:] = -1, -1
    for op, held in enumerate(h.levels):
        view["count"][op], view["memory"][op, : len(held)] = len(held), held
        view["level"][list(held), op] = range(len(held))
        view["spans"][op, : len(held), : h.unit_dimensions] = h.spans[op]
    view["room"][: len(memories)] = [m.size_bits for m in memories]
    view["double"][: len(memories)], view["kind"][: len(memories)] = [m.double_buffered for m in memories], kinds
    systolic = [name in h.core.array.systolic for name, _ in h.core.array.dimensions]
    view["systolic"][: h.unit_dimensions] = systolic
    ends = np.cumsum([0, *(len(gate.uses) for gate in h.gates)])
    view["gate_bits"][: len(h.gates)] = [gate.bits for gate in h.gates]
    view["gate_uses"][: len(h.gates), 0], view["gate_uses"][: len(h.gates), 1] = ends[:-1], ends[1:]
    view["uses"][: len(uses)] = [(use.operand, use.boundary, use.upper, use.partial) for use in uses]
    for gate in reversed(h.gates):
        for use in gate.uses:
            if not use.partial:
                view["shared"][use.operand, use.boundary, int(use.upper)] = gate.shared
    half = view["shared"][..., 0] != view["shared"][..., 1]
    view["counts"][:] = ~half
    for row, flags in zip(view["counts"], half, strict=True):
        row[np.flatnonzero(flags)[-1:]] = True
    for use, side in h.side.items():
        place = (use.operand, use.boundary, int(use.upper), int(use.partial))
        view["port"][place] = side.granularity, side.bits, side.access_pj, 1.0
    view["cuts"][: len(cuts)] = np.array(cuts, dtype=np.int64).reshape(-1, 3)
    for i, (op, b, _) in enumerate(cuts):
        view["place"][op, b] = i
    return views[0]


def _check_size(h: Hierarchy, duties: int) -> None:
    """Refuse what the records have no room for."""
    for what, number, most in (
        ("array dimensions", h.unit_dimensions, MOST),
        ("memories of one operand", max(map(len, h.levels)), MOST),
        ("memories", len(h.core.memories), MEMORIES),
        ("ports", len(h.gates), GATES),
        ("duties of ports", duties, DUTIES),
    ):
        if number > most:
            raise AccelerationError(f"{number} {what}", wanted=f"at most {most}", where=f"core {h.core.name}")


def _cuts(h: Hierarchy, kinds: NDArray[Any]) -> list[tuple[int, int, int]]:
    """Cuts that have to be chosen: above memories of parts of the array first, then those between, then the last."""
    return [
        (op, levels.index(memory) + 1, kind)
        for kind in (OWN, BETWEEN, LAST)
        for memory in np.flatnonzero(kinds == kind).tolist()
        for op, levels in enumerate(h.levels)
        if memory in levels[:-1]
    ]
