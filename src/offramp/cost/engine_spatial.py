"""Which loops run side by side: spatial unrollings of a layer over a core's operational array.

Every array dimension takes one loop (an in-memory array may mix loops on a dimension) with a factor that divides what
fits; the three unrollings that keep most units busy, and of those the most varied, go on to the temporal search, as
in ZigZag (Mei et al., IEEE TC 2021, and its spatial mapping generator). A dataflow fixed by the core is taken as it
is. This file knows sizes and register widths, no costs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, product
from operator import gt

import numpy as np

from offramp.cost.arrays import Ints
from offramp.cost.engine_best import COLUMNS, FACTORS_AT, LOOPS_AT, best
from offramp.cost.layer_form import PREFERENCE, Form
from offramp.ir.accelerator import Array, Core, Memory, Move, Operand

LOOPS = ("B", "G", "K", "C", "OY", "OX", "FY", "FX")
"""Order of loop dimensions in every array of the engine; the rows D of a dense layer count as B."""

INDEX = {name: i for i, name in enumerate(LOOPS)} | {"D": 0}
"""Column of a loop."""

IRRELEVANT: dict[str, dict[Operand, set[str]]] = {
    "Conv": {Operand.I: {"K"}, Operand.W: {"B", "OX", "OY"}, Operand.O: {"C", "FX", "FY"}},
    "Gemm": {Operand.I: {"K"}, Operand.W: {"B", "D"}, Operand.O: {"C"}},
    "Add": {Operand.I: set(), Operand.W: set(), Operand.O: set()},
    "Pooling": {Operand.I: set(), Operand.W: {"B", "G", "OX", "OY"}, Operand.O: {"FX", "FY"}},
}
"""Loops that do not change which element of an operand is used, by kind of layer."""

_PLACE = {operand: i for i, operand in enumerate((Operand.I, Operand.W, Operand.O))}
_FREE = {kind: tuple(frozenset(names[operand]) for operand in _PLACE) for kind, names in IRRELEVANT.items()}

Option = tuple[tuple[str, int], ...]
"""Loops and factors on one array dimension."""

Unrolling = tuple[Option, ...]
"""One option per array dimension."""


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """The options of one array dimension, busiest first, and the same as `engine_best` reads them."""

    listed: tuple[Option, ...]
    table: Ints


def unrollings(forms: Sequence[Form], core: Core) -> list[tuple[tuple[Unrolling, ...], int]]:
    """The unrollings to try of every layer, its `KEPT` best, then those of smaller cores; how many are its own."""
    bare = _bare(core)
    return [
        _unrollings(form.operator, form.loops, (form.input_bits, form.weight_bits, form.partial_bits), bare)
        for form in forms
    ]


@lru_cache(maxsize=1024)
def _bare(core: Core) -> "_Bare":
    assert core.array is not None
    return _bare_of(core.array, core.in_memory is not None, tuple(_entries(core, core.array)))


@lru_cache(maxsize=1024)
def _bare_of(array: Array, in_memory: bool, entries: "tuple[_Entry, ...]") -> "_Bare":
    return _Bare(array, in_memory, entries, dict(array.dataflow))


@dataclass(frozen=True, slots=True)
class _Entry:
    """What an innermost memory lets the array unroll for one operand.

    Attributes:
        width, size: bits that its port moves in a cycle, at most its size, and bits of one instance.
        served: array dimensions that it serves; `longest` and `units` are their longest and their product.
        shared: whether it serves the whole array.
    """

    operand: int
    width: int
    size: int
    served: tuple[int, ...]
    longest: int
    units: int
    shared: bool

    def rungs(self, bits: int) -> list[tuple[int, int]]:
        """(elements in a cycle, elements held) to unroll for: what the memory allows, and what smaller ones would.

        Powers of two below what the array could use: then a larger memory tries all that a smaller one does. A memory
        of the whole array that allows everything is tried as it is (see `widened`).
        """
        if bits == 0:
            return [(self.longest, self.units)]
        width, size = min(self.width // bits, self.longest), min(self.size // bits, self.units)
        if self.shared and (width, size) == (self.longest, self.units):
            return [(width, size)]
        return [(w, n) for w in _ladder(width, self.longest) for n in _ladder(size, self.units) if w <= n]


def _ladder(most: int, top: int) -> list[int]:
    """Largest first: `top` if it is reached, and the powers of two below it; at least 1."""
    steps = [top] if most >= top else []
    return steps + [1 << i for i in reversed(range(max(most, 1).bit_length())) if 1 << i < top] or [1]


@dataclass(frozen=True, slots=True, eq=False)
class _Bare:
    """What of a core the unrolling depends on; compared by identity, made once of equal ones."""

    array: Array
    in_memory: bool
    entries: tuple[_Entry, ...]
    fixed: dict[str, tuple[tuple[str, int], ...]]


def _entries(core: Core, array: Array) -> Iterator[_Entry]:
    for memory in inner_memories(core.memories):
        served = tuple(i for i, (d, _) in enumerate(array.dimensions) if d in memory.dimensions)
        lengths = [array.dimensions[i][1] for i in served]
        for operand in memory.operands if served else ():
            port = memory.port(operand, Move.FROM_LOW if operand is Operand.O else Move.TO_LOW)
            width = memory.size_bits if port is None else min(port.bits_per_cycle, memory.size_bits)
            shared = len(served) == len(array.dimensions)
            place, units = _PLACE[operand], math.prod(lengths)
            yield _Entry(place, width, memory.size_bits, served, max(lengths), units, shared)


def widened(core: Core, form: Form) -> Core:
    """The core with the innermost memories of the whole array as wide and large as it could use for a layer's bits.

    What costs more cycles there costs as many on the core itself: so a wider memory never costs more, though it is
    tried with unrollings of its own alone.
    """
    assert core.array is not None
    bits, dims = (form.input_bits, form.weight_bits, form.partial_bits), [n for _, n in core.array.dimensions]
    names, inner = {d for d, _ in core.array.dimensions}, tuple(inner_memories(core.memories))
    memories = tuple(
        _enlarged(m, bits, max(dims), math.prod(dims)) if m in inner and names <= set(m.dimensions) else m
        for m in core.memories
    )
    return core if memories == core.memories else replace(core, memories=memories)


def _enlarged(memory: Memory, bits: tuple[int, int, int], longest: int, units: int) -> Memory:
    size = max(memory.size_bits, units * max(bits[_PLACE[o]] for o in memory.operands))
    served = {(o, Move.FROM_LOW if o is Operand.O else Move.TO_LOW): longest * bits[_PLACE[o]] for o in memory.operands}
    ports = tuple(
        replace(p, bits_per_cycle=max(p.bits_per_cycle, *(served.get(duty, 0) for duty in p.serves)))
        for p in memory.ports
    )
    return replace(memory, size_bits=size, ports=ports)


def inner_memories(memories: tuple[Memory, ...]) -> Iterator[Memory]:
    """Memories with no memory below them for any of their operands: what the array reads and writes directly."""
    below: set[Operand] = set()
    for memory in memories:
        if not below & set(memory.operands):
            yield memory
        below |= set(memory.operands)


@lru_cache(maxsize=65536)
def _unrollings(
    operator: str, loops: tuple[tuple[str, int], ...], bits: tuple[int, int, int], core: _Bare
) -> tuple[tuple[Unrolling, ...], int]:
    sizes, first = dict(loops), 0
    names = tuple(name for name in PREFERENCE[len(sizes)] if name in sizes)
    available = np.ones(len(LOOPS), dtype=np.int64)
    available[[INDEX[name] for name in names]] = [sizes[name] for name in names]
    found: dict[Unrolling, None] = {}
    ladder = list(product(*(entry.rungs(bits[entry.operand]) for entry in core.entries)))
    widths = list(dict.fromkeys(tuple(width for width, _ in rungs) for rungs in ladder))
    choices = [_choices(i, operator, names, sizes, widths, core) for i in range(len(core.array.dimensions))]
    known = dict(zip(widths, _best([list(case) for case in zip(*choices, strict=True)], available), strict=True))
    needs: dict[Unrolling, list[int]] = {}
    for rungs in ladder:
        rooms = [room for _, room in rungs]
        for unrolling in known[tuple(width for width, _ in rungs)]:
            if unrolling not in needs:
                needs[unrolling] = [_need(unrolling, operator, sizes, entry) for entry in core.entries]
            if any(map(gt, needs[unrolling], rooms)):
                unrolling = _within_capacity(unrolling, operator, sizes, rooms, core)
            found[unrolling] = None
        first = first or len(found)
    return tuple(found), first


def _choices(
    index: int, operator: str, names: tuple[str, ...], sizes: dict[str, int], widths: list[tuple[int, ...]], core: _Bare
) -> list[Options]:
    """The options of one array dimension for every choice of the widths of the innermost memories.

    A loop is limited by its size, by the dimension, and by the width of the memories there that it needs more of.
    """
    most, free = core.array.dimensions[index][1], _FREE[operator]
    here = [(j, free[entry.operand]) for j, entry in enumerate(core.entries) if index in entry.served]
    known: dict[tuple[int, ...], Options] = {}
    found = []
    for width in widths:
        key = tuple(width[j] for j, _ in here)
        if key not in known:
            limits = [
                min(sizes[n], most, *(w for w, (_, free_of) in zip(key, here, strict=True) if n not in free_of))
                for n in names
            ]
            known[key] = _options(index, names, limits, core)
        found.append(known[key])
    return found


def _options(index: int, names: tuple[str, ...], limits: list[int], core: _Bare) -> Options:
    """The options of one array dimension, whose loops, in the order of preference, are limited."""
    dimension, units = core.array.dimensions[index]
    if dimension in core.fixed:
        most = dict(zip(names, limits, strict=True))
        return _tabled((tuple((n, min(f, most[n])) for n, f in core.fixed[dimension] if n in most),))
    if core.in_memory:
        most, names = dict(zip(names, limits, strict=True)), _hinted(index, names)
        limits = [most[n] for n in names if n in most]
        names = tuple(n for n in names if n in most)
    return _ranked(names, tuple(limits), units, mix=core.in_memory)


@lru_cache(maxsize=65536)
def _ranked(names: tuple[str, ...], limits: tuple[int, ...], units: int, *, mix: bool) -> Options:
    """Options of one array dimension whose loops, in the order of preference, are limited."""
    singles: list[Option] = [((name, f),) for name, limit in zip(names, limits, strict=True) for f in divisors(limit)]
    mixed = _mixed(list(names), dict(zip(names, limits, strict=True)), units) if mix else []
    return _tabled((*singles, *mixed))


def _tabled(options: tuple[Option, ...]) -> Options:
    """Options in the order of preference, put in the order of units busy."""
    busy = [math.prod(f for _, f in o) for o in options]
    order = sorted(range(len(options)), key=lambda i: -busy[i])
    table = np.full((len(options), COLUMNS), -1, dtype=np.int64)
    table[:, 0], table[:, 1] = [busy[i] for i in order], order
    for row, i in enumerate(order):
        for j, (name, factor) in enumerate(options[i]):
            table[row, LOOPS_AT + j], table[row, FACTORS_AT + j] = INDEX[name], factor
    return Options(tuple(options[i] for i in order), table)


def _hinted(index: int, order: tuple[str, ...]) -> tuple[str, ...]:
    lines = ("FX", "C", "FY") if index == 1 else ("K",)
    return tuple(n for n in lines if n in order) or (("B",) if index == 1 else ("G",))


def _mixed(names: list[str], limits: dict[str, int], units: int) -> list[Option]:
    """Products of factors above 1 of two or more loops that fit one dimension."""
    found: list[Option] = [()]
    by_length: dict[int, list[Option]] = {}
    for name in names:
        grown = [(*o, (name, f)) for o in found for f in reversed(divisors(limits[name])) if f > 1]
        found += [o for o in grown if math.prod(f for _, f in o) <= units]
    for option in found:
        by_length.setdefault(len(option), []).append(option)
    return [
        o
        for length in sorted(by_length)
        if length > 1
        for o in sorted(by_length[length], key=lambda o: _place(o, names))
    ]


def _place(option: Option, names: list[str]) -> tuple[object, ...]:
    return (tuple(names.index(n) for n, _ in option), tuple(f for _, f in option))


@lru_cache(maxsize=4096)
def divisors(n: int) -> tuple[int, ...]:
    """Divisors of n, largest first."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return tuple(sorted({*small, *(n // d for d in small)}, reverse=True))


def _best(cases: list[list[Options]], sizes: Ints) -> list[list[Unrolling]]:
    """Of every case the combinations of one option per dimension with the highest indicator."""
    flat = [options for case in cases for options in case]
    starts = np.array([0, *accumulate(len(options.listed) for options in flat)], dtype=np.int64)
    rows = best(np.concatenate([options.table for options in flat]), starts, sizes, len(cases))
    return [
        [tuple(o.listed[i] for o, i in zip(case, row, strict=True)) for row in rows[n].tolist() if row[0] >= 0]
        for n, case in enumerate(cases)
    ]


def _within_capacity(
    unrolling: Unrolling, operator: str, sizes: dict[str, int], rooms: list[int], core: _Bare
) -> Unrolling:
    """Shrink factors until the innermost memories can hold one element of everything they serve."""
    for entry, room in zip(core.entries, rooms, strict=True):
        if _need(unrolling, operator, sizes, entry) > room:
            unrolling = _shrunk(unrolling, _held(unrolling, operator, sizes, entry), room)
    return unrolling


def _need(unrolling: Unrolling, operator: str, sizes: dict[str, int], entry: _Entry) -> int:
    """Elements that one instance of an innermost memory holds under an unrolling."""
    need, free = 1, _FREE[operator][entry.operand]
    for i in entry.served:
        for name, factor in unrolling[i]:
            if name not in free or sizes[name] == 1:
                need *= factor
    return need


def _held(unrolling: Unrolling, operator: str, sizes: dict[str, int], entry: _Entry) -> list[tuple[int, str]]:
    """Dimensions and loops that make an innermost memory hold more."""
    free = _FREE[operator][entry.operand]
    return [(i, n) for i in entry.served for n, _ in unrolling[i] if n not in free or sizes[n] == 1]


def _shrunk(unrolling: Unrolling, places: list[tuple[int, str]], room: float) -> Unrolling:
    """Shrink the factors at some places until their product has room."""
    current = [dict(option) for option in unrolling]
    for (i, n), factor in zip(places, _fitting(tuple(current[i][n] for i, n in places), room), strict=True):
        current[i][n] = factor
    return tuple(tuple(option.items()) for option in current)


@lru_cache(maxsize=65536)
def _fitting(wanted: tuple[int, ...], room: float) -> tuple[int, ...]:
    """Take one off the first largest of some factors until their product has room."""
    factors = list(wanted)
    while math.prod(factors) > room and max(factors, default=1) > 1:
        factors[factors.index(max(factors))] -= 1
    return tuple(factors)
