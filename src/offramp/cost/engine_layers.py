"""Layers and their unrollings as arrays: one row per (layer, unrolling), one column per loop or array dimension.

Unrollings that do not divide a loop are balanced as in ZigZag: the loop takes the fewest steps that the unrolling
allows, energy sees the fractional width of a step and latency its whole part. No memories here, and no orders of
loops.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.cost.arrays import Floats
from offramp.cost.engine_loops import Factor, loop_factors, pattern_of
from offramp.cost.engine_spatial import INDEX, IRRELEVANT, LOOPS, Unrolling, unrollings
from offramp.cost.layer_form import Form
from offramp.ir.accelerator import Core, Operand

KINDS = tuple(IRRELEVANT)
"""Kinds of layers: their loops mean different things to the operands."""


def _mask(names: set[str]) -> NDArray[np.bool_]:
    return np.array([name in names for name in LOOPS])


_ALL = set(LOOPS)
_WINDOW = {"OX", "FX", "OY", "FY"}

RELEVANT = {
    kind: tuple(
        _mask(
            _ALL
            - {"B" if n == "D" else n for n in IRRELEVANT[kind][op]}
            - (_WINDOW if op is Operand.I and kind in ("Conv", "Pooling") else set())
        )
        for op in (Operand.I, Operand.W, Operand.O)
    )
    for kind in KINDS
}
"""Per kind and operand: loops that each make new elements (for inputs under a window, those outside it)."""

REUSED = {
    kind: tuple(
        _mask({"B" if n == "D" else n for n in IRRELEVANT[kind][op]}) for op in (Operand.I, Operand.W, Operand.O)
    )
    for kind in KINDS
}
"""Per kind and operand: loops that reuse elements."""


WINDOW_KINDS = ("Conv", "Pooling")
"""Kinds whose inputs are read through a window."""


def _alike(kind: str, *, separate: bool) -> tuple[int, ...]:
    """For every loop the first one that no operand tells from it; with `separate` loops of a window are told apart."""
    marks = [
        (name if separate and name in _WINDOW else "", *(bool(m[i]) for m in (*RELEVANT[kind], *REUSED[kind])))
        for i, name in enumerate(LOOPS)
    ]
    return tuple(map(marks.index, marks))


ALIKE = {kind: tuple(_alike(kind, separate=separate) for separate in (False, True)) for kind in KINDS}
"""Per kind, loops that are alike where no window couples them, and where one may."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """One row per (layer, unrolling).

    Attributes:
        layer: index of the layer.
        kind: its kind's name.
        sizes: (rows, loops) loop sizes.
        exact: (rows, dimensions, loops) unrolled factors, fractional.
        whole: the same in whole numbers.
        given: (rows, dimensions) units that the unrolling was meant to use.
        factors: temporal loop factors.
        patterns: for every factor the first of its size whose loop no operand tells from its own.
        bits: (rows, 4) of inputs, weights, outputs, partial sums.
        extra: (rows,) whether only a smaller core would try the unrolling.
        window: (rows, 4) stride x, stride y, input width, input height.
    """

    layer: NDArray[np.intp]
    kind: tuple[str, ...]
    sizes: Floats
    exact: Floats
    whole: Floats
    given: Floats
    factors: tuple[tuple[Factor, ...], ...]
    patterns: tuple[tuple[int, ...], ...]
    bits: Floats
    window: Floats
    extra: NDArray[np.bool_]

    def take(self, index: NDArray[np.intp]) -> "Rows":
        """Some of the rows."""
        return Rows(
            layer=self.layer[index],
            kind=tuple(self.kind[i] for i in index),
            sizes=self.sizes[index],
            exact=self.exact[index],
            whole=self.whole[index],
            given=self.given[index],
            factors=tuple(self.factors[i] for i in index),
            patterns=tuple(self.patterns[i] for i in index),
            bits=self.bits[index],
            window=self.window[index],
            extra=self.extra[index],
        )

    def distinct(self, spans: Collection[NDArray[np.bool_]], given: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Indices of the rows that no earlier row of the same layer equals in all that prices depend on.

        That is what is left of the loops, what is unrolled within each of some sets of dimensions, and the units used
        of the dimensions `given`. Many unrollings differ only in which of two dimensions takes which loop.
        """
        within = [values[:, span].prod(axis=1) for span in spans for values in (self.exact, self.whole)]
        keys = np.concatenate([*within, self.exact.prod(axis=1), self.given[:, given]], axis=1)
        first: dict[object, int] = {}
        for i, (layer, factors, key) in enumerate(zip(self.layer.tolist(), self.factors, keys, strict=True)):
            first.setdefault((layer, factors, key.tobytes()), i)
        return np.array(list(first.values()), dtype=np.intp)


def rows_of(forms: Sequence[Form], core: Core) -> Rows:
    """All rows of some layers on a core."""
    assert core.array is not None
    listed = unrollings(forms, core)
    found = [options for options, _ in listed]
    layer = np.repeat(np.arange(len(forms)), [len(options) for options in found])
    sizes = np.array([_sizes(form) for form in forms], dtype=np.float64).reshape(-1, len(LOOPS))[layer]
    window = np.array([(f.stride_x, f.stride_y, f.IX, f.IY) for f in forms], dtype=np.float64).reshape(-1, 4)[layer]
    bits = [(f.input_bits, f.weight_bits, f.output_bits, f.partial_bits) for f in forms]
    wanted = _factors([u for options in found for u in options], len(core.array.dimensions))
    exact, whole = _balanced(sizes, wanted)
    steps = _steps(sizes, exact).astype(int).tolist()
    kinds, orders = [f.operator for f in forms], [tuple(INDEX[name] for name, _ in f.loops) for f in forms]
    factors = tuple(loop_factors(tuple(row), orders[i]) for row, i in zip(steps, layer.tolist(), strict=True))
    kind = tuple(kinds[i] for i in layer.tolist())
    coupled = _coupled(kind, sizes, exact, window).tolist()
    return Rows(
        layer=layer,
        kind=kind,
        sizes=sizes,
        exact=exact,
        whole=whole,
        given=wanted.prod(axis=2),
        factors=factors,
        patterns=tuple(pattern_of(fs, ALIKE[k][c]) for fs, k, c in zip(factors, kind, coupled, strict=True)),
        bits=np.array(bits, dtype=np.float64).reshape(-1, 4)[layer],
        window=window,
        extra=np.array([i >= own for options, own in listed for i in range(len(options))], dtype=bool),
    )


def _coupled(kinds: tuple[str, ...], sizes: Floats, exact: Floats, window: Floats) -> NDArray[np.bool_]:
    """(rows,) whether a window's positions are more, or other, than a product of whole numbers of outputs."""
    windowed = np.array([kind in WINDOW_KINDS for kind in kinds], dtype=bool)
    taps, outputs = [INDEX["FX"], INDEX["FY"]], [INDEX["OX"], INDEX["OY"]]
    single = (sizes[:, taps] == 1).all(axis=1) & (sizes[:, outputs] <= window[:, 2:]).all(axis=1)
    return np.asarray(windowed & ~(single & (exact[:, :, outputs] % 1 == 0).all(axis=(1, 2))))


def _sizes(form: Form) -> list[int]:
    row = [1] * len(LOOPS)
    for name, size in form.loops:
        row[INDEX[name]] = size
    return row


def _factors(unrolled: list[Unrolling], dimensions: int) -> Floats:
    """(rows, dimensions, loops) factors of unrollings."""
    found = [
        ((row * dimensions + d) * len(LOOPS) + INDEX[name], factor)
        for row, unrolling in enumerate(unrolled)
        for d, option in enumerate(unrolling)
        for name, factor in option
    ]
    factors = np.ones((len(unrolled), dimensions, len(LOOPS)))
    if found:
        places, values = zip(*found, strict=True)
        np.put(factors, places, values)
    return factors


def _balanced(sizes: Floats, wanted: Floats) -> tuple[Floats, Floats]:
    """Fractional and whole factors; a loop is balanced on the first dimension that unrolls it most."""
    first = wanted.argmax(axis=1)
    exact, whole = wanted.copy(), wanted.copy()
    early_exact, early_whole = np.ones_like(sizes), np.ones_like(sizes)
    for d in range(wanted.shape[1]):
        here = (first == d) & (wanted[:, d] > 1)
        for values, early in ((exact, early_exact), (whole, early_whole)):
            steps = np.ceil(sizes / (wanted[:, d] * early))
            values[:, d] = np.where(here, sizes / steps / early, wanted[:, d])
        whole[:, d] = np.floor(whole[:, d])
        early_exact, early_whole = early_exact * exact[:, d], early_whole * whole[:, d]
    return exact, whole


def _steps(sizes: Floats, exact: Floats) -> Floats:
    """Temporal iterations of every loop."""
    left = sizes
    for d in range(exact.shape[1]):
        left = np.where(exact[:, d] > 1, np.ceil(left / exact[:, d]), left)
    return np.maximum(left, 1.0)
