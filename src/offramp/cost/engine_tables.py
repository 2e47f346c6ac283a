"""Everything a set of loop factors decides, by bit mask: tiles, periods, traffic and energies.

Which factors lie below a boundary fixes how much crosses it and how often, whatever their order. So the numbers are
made once per (layer, unrolling) and set of factors, and the search over orders only looks them up. The traffic model
is ZigZag's (Mei et al., IEEE TC 2021); docs/formulas.md writes it out.
"""

import numpy as np

from offramp.cost.arrays import Flags, Floats, Record
from offramp.cost.engine_compile import compiled
from offramp.cost.engine_spatial import INDEX, LOOPS
from offramp.cost.engine_view import MOST, I, O

SETS = 1 << MOST
"""Sets of factors."""

PLANE = SETS + 8
"""Room for something of every set, and a cache line more: planes a power of two apart get in each other's way."""

TABLE = np.dtype((np.record, [
    ("number", "i8"), ("before", "i8", MOST), ("bits", "f8", 4), ("extra", "u1"),
    ("reuse", "i8", 3), ("fresh", "i8", 3), ("rank", "i8", (3, MOST)),
    ("asked", "i8", (6, MOST)), ("full", "i8"), ("total", "f8"), ("drain", "f8"),
    ("feed", "f8", (3, MOST)), ("growth", "f8", (3, MOST)), ("instances", "f8", (3, MOST)), ("outside", "u1", MOST),
    ("cycles", "f8", PLANE), ("times", "f8", PLANE), ("parts", "f8", (5, PLANE)), ("upper", "f8", (3, MOST, PLANE)),
    ("lower", "f8", (3, MOST, PLANE)), ("tile", "f8", (3, MOST, PLANE)), ("held", "f8", (3, MOST, PLANE)),
]))  # fmt: skip
"""Tables of a row (see `engine_view.LINE`). A mask is a set of factors below a boundary.

reuse, fresh: masks of the factors that reuse elements of an operand, and that make new ones (not those of a window);
rank: (operand, factor) 0 reusing, 1 part of a window, 2 fresh; asked: see `engine_orders.ask`.
full, total, drain: mask of all factors, all iterations, cycles until a systolic array is empty.
feed: (operand, boundary) how many tiles of an instance below make one transfer above, in whole numbers as latency sees
it; growth: the same as energy sees it; instances: (operand, level) in use.
outside: by boundary, whether outputs cross as partial sums whatever is below.
cycles, times: by mask, iterations of a set, and how often what it needs is used up.
upper, lower: (operand, boundary, mask) bits of one transfer at the memory above and at an instance below.
tile, held: (operand, level, mask) elements of a level's tile, rounded and not; parts: scratch.
"""

OX, OY, FX, FY, EVERY = INDEX["OX"], INDEX["OY"], INDEX["FX"], INDEX["FY"], len(LOOPS)


@compiled
def tabulate(view: Record, line: Record, t: Record) -> None:
    """Make the tables of a row."""
    _describe(view, line, t)
    _spread(view, line, t)
    for op in range(3):
        _count(line, t, op)
        for level in range(view.count[op]):
            _hold(view, line, t, op, level)
        for b in range(view.count[op]):
            _cross(t, op, b)


@compiled
def _describe(view: Record, line: Record, t: Record) -> None:
    """Masks, iterations and drain of a row."""
    t.number, t.extra, t.full, t.drain, t.cycles[0] = line.number, line.extra, (1 << line.number) - 1, 0.0, 1.0
    for i in range(4):
        t.bits[i] = line.bits[i]
    for op in range(3):
        t.reuse[op] = t.fresh[op] = 0
    for f in range(line.number):
        half, t.before[f] = 1 << f, line.before[f]
        for mask in range(half):
            t.cycles[half + mask] = t.cycles[mask] * line.factors[f]
        for op in range(3):
            t.reuse[op] |= int(line.reused[op, line.dims[f]]) << f
            t.fresh[op] |= int(line.relevant[op, line.dims[f]]) << f
            t.rank[op, f] = 0 if line.reused[op, line.dims[f]] else 2 if line.relevant[op, line.dims[f]] else 1
    t.total = t.cycles[t.full]
    for mask in range(t.full + 1):
        t.times[mask] = np.floor(t.total / t.cycles[mask])
    for d in range(view.dimensions):
        if view.systolic[d]:
            t.drain += max(line.given[d] - 1.0, 0.0)


@compiled
def inside(view: Record, factors: Floats, op: int, level: int, loop: int) -> float:
    """Unrolled factor of a loop within an instance of a level and those under it; of the whole array for level -1."""
    product = 1.0
    for d in range(view.dimensions):
        if level < 0 or view.spans[op, level, d]:
            product *= factors[d, loop]
    return product


@compiled
def _spread(view: Record, line: Record, t: Record) -> None:
    """How instances of levels divide the array: growth, instances, and where partial sums cross anyway."""
    everything, reused = 1.0, 1.0
    for d in range(view.dimensions):
        for loop in range(EVERY):
            everything *= line.exact[d, loop]
    for loop in range(EVERY):
        if line.reused[O, loop]:
            reused *= inside(view, line.exact, O, -1, loop)
    for op in range(3):
        for level in range(view.count[op]):
            within, under = 1.0, 1.0
            for loop in range(EVERY):
                factor = inside(view, line.exact, op, level, loop)
                within *= factor
                if line.reused[O, loop]:
                    under *= factor
            t.instances[op, level] = np.rint(np.rint(everything / within * 1000.0) / 1000.0)
            if op == O:
                t.outside[level] = reused / under > 1.0 + 1e-9
            t.growth[op, level] = _growth(view, line, line.exact, op, level)
            t.feed[op, level] = _growth(view, line, line.whole, op, level)


@compiled
def _growth(view: Record, line: Record, factors: Floats, op: int, b: int) -> float:
    over = elements(view, line, factors, op, b, 1.0, 1.0, 1.0, 1.0, 1.0)
    if b:
        return float(np.rint(over / elements(view, line, factors, op, b - 1, 1.0, 1.0, 1.0, 1.0, 1.0)))
    return float(np.rint(over / _sized(line, op, 1.0, 1.0, 1.0, 1.0, 1.0)))


@compiled
def unrolled(view: Record, line: Record, factors: Floats, op: int, level: int) -> float:
    """Elements of an operand that loops make side by side in a level, those of a window left out."""
    size = 1.0
    for loop in range(EVERY):
        if line.relevant[op, loop]:
            size *= inside(view, factors, op, level, loop)
    return size


@compiled
def elements(
    view: Record, line: Record, factors: Floats, op: int, level: int,
    fresh: float, ox: float, fx: float, oy: float, fy: float,
) -> float:  # fmt: skip
    """Elements of a level under its unrolled factors, `fresh` temporal ones and those of a window."""
    ox, fx = ox * inside(view, factors, op, level, OX), fx * inside(view, factors, op, level, FX)
    oy, fy = oy * inside(view, factors, op, level, OY), fy * inside(view, factors, op, level, FY)
    return _sized(line, op, fresh * unrolled(view, line, factors, op, level), ox, fx, oy, fy)


@compiled
def _sized(line: Record, op: int, size: float, ox: float, fx: float, oy: float, fy: float) -> float:
    """Elements, where inputs under a window count every position once."""
    if op != I or not line.windowed:
        return size
    return size * (span(ox, fx, line.window[0], line.window[2]) * span(oy, fy, line.window[1], line.window[3]))


@compiled
def span(outputs: float, filters: float, stride: float, limit: float) -> float:
    """Different input positions under a window: outputs and filter taps at a stride, at most the whole input."""
    outputs, filters = np.floor(outputs), np.floor(filters)
    return min(outputs * filters - max(0.0, filters - stride) * (outputs - 1.0), limit)


@compiled
def _count(line: Record, t: Record, op: int) -> None:
    """Products of the factors of every set: that make new elements, and of OX, FX, OY, FY windows."""
    for i in range(5):
        t.parts[i, 0] = 1.0
        for f in range(line.number):
            half, loop = 1 << f, line.dims[f]
            counts = t.fresh[op] >> f & 1 if i == 0 else line.windowed and loop == window_loop(i - 1)
            factor = line.factors[f] if counts else 1.0
            for mask in range(half):
                t.parts[i, half + mask] = t.parts[i, mask] * factor


@compiled
def window_loop(i: int) -> int:
    """Loops of a window."""
    return OX if i == 0 else FX if i == 1 else OY if i == 2 else FY


@compiled
def _hold(view: Record, line: Record, t: Record, op: int, level: int) -> None:
    """Tiles of a level; `lower` of the boundary over it gets the elements of it as latency sees them."""
    for exact in (True, False):
        factors = line.exact if exact else line.whole
        unit = unrolled(view, line, factors, op, level)
        ox, fx = inside(view, factors, op, level, OX), inside(view, factors, op, level, FX)
        oy, fy = inside(view, factors, op, level, OY), inside(view, factors, op, level, FY)
        for mask in range(t.full + 1):
            p = t.parts
            wide, high = (p[1, mask] * ox, p[2, mask] * fx), (p[3, mask] * oy, p[4, mask] * fy)
            size = _sized(line, op, p[0, mask] * unit, wide[0], wide[1], high[0], high[1])
            if exact:
                t.held[op, level, mask], t.tile[op, level, mask] = size, np.rint(size)
            elif level + 1 < view.count[op]:
                t.lower[op, level + 1, mask] = np.rint(size)


@compiled
def _cross(t: Record, op: int, b: int) -> None:
    """Bits of one transfer; `lower` holds the elements of the tile below until now."""
    for mask in range(t.full + 1):
        below = t.lower[op, b, mask] if b else 1.0
        bits = precision(t, op, b, mask)
        t.lower[op, b, mask] = below * bits
        t.upper[op, b, mask] = below * t.feed[op, b] * bits


@compiled
def partial(t: Record, b: int, mask: int) -> bool:
    """Whether outputs cross a boundary as partial sums when a set of factors is below it."""
    return bool(t.outside[b] or t.reuse[O] & ~mask != 0)


@compiled
def precision(t: Record, op: int, b: int, mask: int) -> float:
    """Bits per element that crosses a boundary."""
    if op != O:
        return float(t.bits[op])
    return float(t.bits[3] if partial(t, b, mask) else t.bits[2])


@compiled
def fits_whole(view: Record, line: Record, whole: Flags) -> None:
    """Which memories can take all loops of all their operands at once, written to `whole`."""
    fresh_i = fresh_w = fresh_o = ox = fx = oy = fy = 1.0
    for f in range(line.number):
        loop, factor = line.dims[f], line.factors[f]
        fresh_i *= factor if line.relevant[0, loop] else 1.0
        fresh_w *= factor if line.relevant[1, loop] else 1.0
        fresh_o *= factor if line.relevant[2, loop] else 1.0
        ox, fx = ox * (factor if loop == OX else 1.0), fx * (factor if loop == FX else 1.0)
        oy, fy = oy * (factor if loop == OY else 1.0), fy * (factor if loop == FY else 1.0)
    for memory in range(view.memories):
        need = 0.0
        for op in range(3):
            level = view.level[memory, op]
            if level >= 0:
                fresh = fresh_i if op == 0 else fresh_w if op == 1 else fresh_o
                width = max(line.bits[2], line.bits[3]) if op == O else line.bits[op]
                need += elements(view, line, line.exact, op, level, fresh, ox, fx, oy, fy) * width
        whole[memory] = need <= view.room[memory]
