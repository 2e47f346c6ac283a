"""Everything a set of loop factors decides, by bit mask: tiles, periods, traffic, transfer cycles and energies.

Which factors lie below a boundary fixes how much crosses it and how often, whatever their order. So the numbers are
made once per (layer, unrolling) and set of factors, and the search over orders only looks them up. The traffic model
is ZigZag's (Mei et al., IEEE TC 2021); docs/formulas.md writes it out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_hierarchy import Hierarchy, Side, Use
from offramp.cost.engine_layers import RELEVANT, REUSED, WINDOW_KINDS, Floats, Rows
from offramp.cost.engine_loops import subset_products
from offramp.cost.engine_spatial import INDEX
from offramp.ir.accelerator import Core

I, W, O = 0, 1, 2  # noqa: E741
"""Indices of operands."""

Masks = NDArray[np.intp]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Boundary:
    """One boundary of one operand: arrays of shape (rows, masks).

    Attributes:
        bits_upper, bits_lower: bits of one transfer at the memory above and at one instance below.
        rate: whole bits per cycle asked of the upper and lower port on average.
        partial: whether partial sums cross it (outputs).
    """

    bits_upper: Floats
    bits_lower: Floats
    rate_upper: Floats
    rate_lower: Floats
    partial: NDArray[np.bool_]


def kept(make: Callable[Concatenate["Tables", P], R]) -> Callable[Concatenate["Tables", P], R]:
    """A method of `Tables` that keeps what it made for the same arguments."""

    @wraps(make)
    def once(tables: "Tables", /, *args: P.args, **named: P.kwargs) -> R:
        key = (make, args, tuple(named.values()))
        if key not in tables.known:
            tables.known[key] = make(tables, *args, **named)
        return cast(R, tables.known[key])

    return once


class Tables:
    """Tables of rows; rows with fewer than `loops` factors are padded with factors of 1 that no mask contains."""

    def __init__(self, rows: Rows, hierarchy: Hierarchy, loops: int) -> None:
        self.rows, self.hierarchy, self.loops = rows, hierarchy, loops
        self.known: dict[object, object] = {}
        self.count = len(rows.factors)
        own = np.array([len(fs) for fs in rows.factors])
        padded = [(*fs, *(((0, 1),) * (loops - len(fs)))) for fs in rows.factors]
        pairs = np.array(padded, dtype=np.intp).reshape(self.count, loops, 2)
        self.dims, self.sizes = pairs[..., 0], pairs[..., 1].astype(np.float64)
        self.real = np.arange(loops) < own[:, None]
        self.masks: Masks = np.arange(1 << loops, dtype=np.intp)
        self.full: Masks = (1 << own) - 1
        self.relevant = np.array([RELEVANT[k] for k in rows.kind])
        self.reused = np.array([REUSED[k] for k in rows.kind])
        self.windowed = np.array([k in WINDOW_KINDS for k in rows.kind])
        self.total = self.sizes.prod(axis=1, keepdims=True)

    @cached_property
    def cycles(self) -> Floats:
        """(rows, masks) iterations of every set of factors."""
        return subset_products(self.sizes)

    def flagged(self, flags: NDArray[np.bool_]) -> Masks:
        """(rows,) bit mask of the factors whose loop is flagged, from (rows, loops) flags."""
        chosen = np.take_along_axis(flags, self.dims, axis=1) & self.real
        masks: Masks = (chosen << np.arange(self.loops)).sum(axis=1)
        return masks

    @cached_property
    def reuse_masks(self) -> list[Masks]:
        """Per operand, factors that reuse its elements."""
        return [self.flagged(self.reused[:, op]) for op in (I, W, O)]

    @cached_property
    def fresh_masks(self) -> list[Masks]:
        """Per operand, factors that make new elements (not those of a window)."""
        return [self.flagged(self.relevant[:, op]) for op in (I, W, O)]

    @cached_property
    def _factors(self) -> Floats:
        """(7, rows, loops) factors that make new elements of I, W and O, then of OX FX OY FY windows; 1 elsewhere."""
        flags = np.zeros((7, self.count, self.relevant.shape[2]), dtype=bool)
        flags[:3] = self.relevant.swapaxes(0, 1)
        for i, name in enumerate(("OX", "FX", "OY", "FY")):
            flags[3 + i, :, INDEX[name]] = self.windowed
        return np.where(flags[:, np.arange(self.count)[:, None], self.dims], self.sizes, 1.0)

    @cached_property
    def _subsets(self) -> Floats:
        return subset_products(self._factors)

    @cached_property
    def _products(self) -> Floats:
        return np.asarray(self._factors.prod(axis=2, keepdims=True))

    @cached_property
    def _nothing(self) -> Floats:
        return np.ones((7, self.count, 1))

    def _span(self, op: int, level: int) -> bytes:
        """Which array dimensions one instance of a memory level and those under it serve, one byte for each."""
        spans = self.hierarchy.spans[op]
        if level < 0:
            return bytes(self.rows.exact.shape[1])
        return spans[level].tobytes() if level < len(spans) else b"\1" * self.rows.exact.shape[1]

    @kept
    def _inside(self, span: bytes, exact: bool) -> Floats:
        factors = self.rows.exact if exact else self.rows.whole
        inside = np.asarray(factors[:, np.frombuffer(span, dtype=bool)].prod(axis=1))
        same = not exact and np.array_equal(inside, self._inside(span, True))
        return self._inside(span, True) if same else inside

    def inside(self, op: int, level: int, *, exact: bool) -> Floats:
        """(rows, loops) unrolled factors that one instance of a memory level and those under it span; -1 is none."""
        return self._inside(self._span(op, level), exact)

    def elements(self, op: int, spatial: Floats, temporal: Floats) -> Floats:
        """Elements of an operand under unrolled factors and products of temporal ones, one for each of `_factors`."""
        size = temporal[op] * np.where(self.relevant[:, op], spatial, 1.0).prod(axis=1, keepdims=True)
        if op != I or not self.windowed.any():
            return np.asarray(size)
        ox, fx, oy, fy = (
            p * spatial[:, INDEX[n], None] for p, n in zip(temporal[3:], ("OX", "FX", "OY", "FY"), strict=True)
        )
        sx, sy, ix, iy = (self.rows.window[:, i, None] for i in range(4))
        window = span(ox, fx, sx, ix) * span(oy, fy, sy, iy)
        return np.asarray(np.where(self.windowed[:, None], size * window, size))

    @kept
    def _all_held(self, op: int, span: bytes) -> Floats:
        return self.elements(op, self._inside(span, True), self._products)[:, 0]

    def held_at_full(self, op: int, level: int) -> Floats:
        """(rows,) elements that a level must have room for when it takes all factors, not rounded."""
        return self._all_held(op, self._span(op, level))

    def tile(self, op: int, level: int, *, exact: bool) -> Floats:
        """(rows, masks) elements that one instance of a memory level holds when it has a set of factors below it."""
        return self._tile(op, self._span(op, level), exact)

    @kept
    def _tile(self, op: int, span: bytes, exact: bool) -> Floats:
        if exact:
            return np.asarray(np.rint(self._held(op, span)))
        if self._inside(span, False) is self._inside(span, True):
            return self._tile(op, span, True)
        return np.asarray(np.rint(self.elements(op, self._inside(span, False), self._subsets)))

    @kept
    def _unrolled(self, op: int, span: bytes, exact: bool) -> Floats:
        if not exact and self._inside(span, False) is self._inside(span, True):
            return self._unrolled(op, span, True)
        return self.elements(op, self._inside(span, exact), self._nothing)

    def held(self, op: int, level: int) -> Floats:
        """(rows, masks) elements that a level must have room for, not rounded."""
        return self._held(op, self._span(op, level))

    @kept
    def _held(self, op: int, span: bytes) -> Floats:
        return self.elements(op, self._inside(span, True), self._subsets)

    def at_full(self, table: Floats) -> Floats:
        """(rows,) values where all factors are below."""
        return table[np.arange(self.count), self.full] if table.shape[1] > 1 else table[:, 0]

    @kept
    def growth(self, op: int, boundary: int, *, exact: bool) -> Floats:
        """(rows, 1) how many different tiles of the level below the level above a boundary feeds at once."""
        under, over = (self._unrolled(op, self._span(op, level), exact) for level in (boundary - 1, boundary))
        return np.asarray(np.rint(over / under))

    @kept
    def instances(self, op: int, level: int) -> Floats:
        """(rows, 1) instances of a memory level in use."""
        everything = self.rows.exact.prod(axis=(1, 2))
        used: Floats = np.rint(np.round(everything / self.inside(op, level, exact=True).prod(axis=1), 3))
        return used[:, None]

    @kept
    def partial(self, boundary: int) -> NDArray[np.bool_]:
        """(rows, masks) whether outputs cross a boundary as partial sums when a set of factors is below it."""
        reused = np.where(self.reused[:, O], self.rows.exact.prod(axis=1), 1.0).prod(axis=1)
        under = np.where(self.reused[:, O], self.inside(O, boundary, exact=True), 1.0).prod(axis=1)
        outside = (self.reuse_masks[O][:, None] & ~self.masks) != 0
        return np.asarray(outside | (reused / under > 1.0 + 1e-9)[:, None])

    def precision(self, op: int, partial: NDArray[np.bool_]) -> Floats:
        """Bits per element that crosses a boundary."""
        if op != O:
            return self.rows.bits[:, op, None]
        return np.where(partial, self.rows.bits[:, 3, None], self.rows.bits[:, 2, None])

    @kept
    def boundary(self, op: int, b: int) -> Boundary:
        """Tables of one boundary."""
        partial = self.partial(b) if op == O else np.zeros((self.count, 1), dtype=bool)
        bits = self.precision(op, partial)
        tile = self.tile(op, b - 1, exact=False) if b else np.ones((self.count, 1))
        growth = self.growth(op, b, exact=False)
        raw = tile * bits / self.cycles
        fed = tile * growth
        return Boundary(
            bits_upper=fed * bits,
            bits_lower=tile * bits,
            rate_upper=np.floor(raw * growth),
            rate_lower=np.floor(raw),
            partial=partial,
        )

    @cached_property
    def times(self) -> Floats:
        """(rows, masks) how often what a set of factors needs is used up."""
        return np.asarray(np.floor(self.total / self.cycles))

    @kept
    def transfer(self, op: int, b: int, upper: bool, width: int) -> Floats:
        """(rows, masks) cycles of one transfer over a boundary through a port of `width` bits."""
        table = self.boundary(op, b)
        return np.asarray(np.ceil((table.bits_upper if upper else table.bits_lower) / width))

    @kept
    def port(
        self, op: int, b: int, uses: tuple[tuple[bool, bool], ...], width: int, passes: float
    ) -> tuple[Floats, Floats]:
        """(rows, masks) cycles that duties (upper side, partial sums) of a port lack, and take, the first left out."""
        late, taken = np.zeros((self.count, 1)), np.zeros((self.count, 1))
        period = np.ceil(self.cycles * passes)
        for upper, partial in uses:
            cycles = self.transfer(op, b, upper, width)
            often = (self.times - 1.0) * self.boundary(op, b).partial if partial else self.times - 1.0
            late = late + np.maximum(cycles - period, 0.0) * often
            taken = taken + cycles * often
        return late, taken

    def drain(self, core: Core) -> Floats:
        """(rows,) cycles until the last results have left a systolic array."""
        assert core.array is not None
        rippling = [i for i, (name, _) in enumerate(core.array.dimensions) if name in core.array.systolic]
        return np.asarray(np.maximum(self.rows.given[:, rippling] - 1.0, 0.0).sum(axis=1))

    def energies(
        self, op: int, b: int, row: NDArray[np.intp], mask: NDArray[np.unsignedinteger[Any]] | Masks
    ) -> tuple[Floats, Floats]:
        """Picojoules of all that crosses a boundary, at the memory above and at the one below, for rows and masks."""
        partial = _at(self.boundary(op, b).partial, row, mask)
        bits = self.rows.bits[row, op] if op != O else np.where(partial, self.rows.bits[row, 3], self.rows.bits[row, 2])
        times = self.times[row, mask]
        tile = _at(self.tile(op, b - 1, exact=True), row, mask) if b else np.ones(row.size)
        fed = tile * self.growth(op, b, exact=True)[row, 0]
        upper = self._energy(op, b, True, fed * bits, times * self.instances(op, b)[row, 0], partial)
        if not b:
            return upper, np.zeros_like(upper)
        return upper, self._energy(op, b, False, tile * bits, times * self.instances(op, b - 1)[row, 0], partial)

    def _energy(self, op: int, b: int, upper: bool, bits: Floats, times: Floats, partial: NDArray[np.bool_]) -> Floats:
        sides = self.hierarchy.side
        energy = _accesses(bits, times, sides.get(Use(op, b, upper, False)))
        if op == O:
            energy = energy + partial * _accesses(bits, times, sides.get(Use(op, b, upper, True)))
        return energy


def _at(table: NDArray[Any], row: NDArray[np.intp], mask: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(table[row, 0] if table.shape[1] == 1 else table[row, mask])


def span(outputs: Floats, filters: Floats, stride: Floats, limit: Floats) -> Floats:
    """Different input positions under a window: outputs and filter taps at a stride, at most the whole input."""
    outputs, filters = np.floor(outputs), np.floor(filters)
    return np.minimum(outputs * filters - np.maximum(0.0, filters - stride) * (outputs - 1.0), limit)


def _accesses(bits: Floats, times: Floats, side: Side | None) -> Floats:
    """Energy of moving `bits` at once `times` times in steps of the port's granularity."""
    if side is None:
        return np.zeros(np.broadcast_shapes(bits.shape, times.shape))
    return np.floor(np.ceil(bits / side.granularity) * (side.granularity / side.bits) * times) * side.access_pj
