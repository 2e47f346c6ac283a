"""Prices a core with a memory hierarchy: every layer, every variant, the best mapping that the search finds.

Rows (layer, unrolling) that differ are searched layer by layer, those with as many loop factors together. The result of
the best row of each layer is split by memory. Follows the contract of `cost.model` for one core.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.cost.arrays import Floats, Ints, Records
from offramp.cost.engine_hierarchy import OPERANDS, Hierarchy, hierarchy_of
from offramp.cost.engine_in_memory import array_energy
from offramp.cost.engine_layers import Rows, rows_of
from offramp.cost.engine_loops import FACTORS
from offramp.cost.engine_mappings import mappings, shares
from offramp.cost.engine_spatial import widened
from offramp.cost.engine_view import lines_of, view_of
from offramp.cost.layer_form import Form, form_of
from offramp.cost.model import VARIANTS, CoreCosts, infeasible
from offramp.cost.variants import core_of_variant
from offramp.ir.accelerator import Accelerator, Core, Operand
from offramp.ir.workload import Layer

STREAMED = ("Pooling",)
"""Kinds of layers that are priced as a stream: what no weight waits for may start as early as it likes."""

SLACK = 1.0
"""How much more than the fastest mapping a lower bound may be before a chain is left out; infinite to try them all."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows searched together, for all variants of a core.

    Attributes:
        rows, lines: the rows that differ, layer by layer, and the same as the search reads them.
        starts, streams: first row of every group, and after the last; whether it is priced as a stream.
        place: (rows,) place of a row among all rows, which decides between equals.
        outer: the core with all its memories.
    """

    rows: Rows
    lines: Records
    starts: Ints
    streams: NDArray[np.bool_]
    place: NDArray[np.intp]
    outer: Hierarchy


def hierarchy_costs(
    layers: Sequence[Layer], core: Core, chip: Accelerator, variants: Sequence[int] = range(VARIANTS)
) -> CoreCosts:
    """Price layers that the core supports in some variants; the others stay infinite."""
    forms = [form_of(layer) for layer in layers]
    costs = _costs(forms, core, chip, variants)
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, form in enumerate(forms):
        groups.setdefault((form.input_bits, form.weight_bits, form.partial_bits), []).append(i)
    for chosen in groups.values():
        wide = widened(core, forms[chosen[0]])
        if wide is not core:
            floor = _cycles([forms[i] for i in chosen], wide, chip, variants)
            own = costs.cycles[:, chosen]
            least = np.maximum(own, np.where(np.isfinite(own), floor, own))
            costs.utilization[:, chosen] *= np.divide(own, least, out=np.ones_like(own), where=np.isfinite(own))
            costs.cycles[:, chosen] = least
    return costs


def _costs(forms: Sequence[Form], core: Core, chip: Accelerator, variants: Sequence[int]) -> CoreCosts:
    costs = infeasible(len(forms))
    for (variant, *others), hierarchy, batch, passes in _batches(forms, core, chip, variants):
        _fill(costs, variant, hierarchy, batch, passes)
        for other in others:
            _copy_variant(costs, variant, other)
    return costs


def _cycles(forms: Sequence[Form], core: Core, chip: Accelerator, variants: Sequence[int]) -> Floats:
    """(VARIANTS, layers) cycles alone."""
    cycles = np.full((VARIANTS, len(forms)), np.inf)
    for same, hierarchy, batch, passes in _batches(forms, core, chip, variants):
        found = _search(hierarchy, batch, passes, np.zeros(batch.place.size), timed=True)
        starts = batch.starts[:-1]
        for variant in same:
            np.minimum.at(cycles[variant], batch.rows.layer[starts], found["cycles"][starts])
    return cycles


def _batches(
    forms: Sequence[Form], core: Core, chip: Accelerator, variants: Sequence[int]
) -> Iterator[tuple[list[int], Hierarchy, Batch, float]]:
    """Variants that are priced alike, and what is searched for them."""
    rows = rows_of(forms, core)
    if not rows.factors:
        return
    alike: dict[Core, list[int]] = {}
    for variant in variants:
        alike.setdefault(core_of_variant(core, chip, variant), []).append(variant)
    batch: Batch | None = None
    for view, same in alike.items():
        hierarchy = hierarchy_of(view)
        if hierarchy is not None:
            passes = _passes(view, chip.clock_mhz)
            batch = batch or _batch(rows, hierarchy, passes)
            yield same, hierarchy, batch, passes


def _copy_variant(costs: CoreCosts, source: int, target: int) -> None:
    arrays = [costs.cycles, costs.energy_pj, costs.utilization, costs.peak_bytes]
    for array in [*arrays, *costs.parts.values(), *costs.levels.values()]:
        array[target] = array[source]


def _fill(costs: CoreCosts, variant: int, hierarchy: Hierarchy, batch: Batch, passes: float) -> None:
    """Search all rows of one variant and keep the best row of every layer."""
    core, rows, view = hierarchy.core, batch.rows, view_of(hierarchy, passes)
    assert core.array is not None
    operations = rows.sizes.prod(axis=1)
    mac = array_energy(rows, core) if core.in_memory else operations * core.array.mac_pj
    found = _search(hierarchy, batch, passes, mac, timed=False)
    cycles, energy = found["cycles"], found["energy"] + mac
    order = np.lexsort((batch.place, energy, cycles, rows.layer))
    best = order[np.flatnonzero(np.diff(rows.layer[order], prepend=-1))]
    best = best[np.isfinite(cycles[best])]
    at = rows.layer[best]
    costs.cycles[variant, at], costs.energy_pj[variant, at] = cycles[best], energy[best]
    ideal = np.ceil(np.ceil(operations[best] / core.array.units) * passes)
    costs.utilization[variant, at] = np.minimum(ideal / cycles[best], 1.0)
    costs.parts.setdefault("mac", np.zeros(costs.cycles.shape))[variant, at] = mac[best]
    _split(costs, variant, hierarchy, at, *shares(view, batch.lines[best], found[best]))


def _search(hierarchy: Hierarchy, batch: Batch, passes: float, mac: Floats, *, timed: bool) -> Records:
    """The best mapping of every row, of which the array itself spends `mac`; with `timed` its cycles alone."""
    names = [m.name for m in batch.outer.core.memories]
    used = np.array([names.index(m.name) for m in hierarchy.core.memories], dtype=np.int64)
    view, outer = view_of(hierarchy, passes), view_of(batch.outer, passes)
    found: Records = mappings(view, outer, used, batch.lines, mac, batch.starts, batch.streams, SLACK, timed)
    return found


def _passes(core: Core, clock_mhz: float) -> float:
    """Cycles of one operation of the array: bits that enter one after another, or the settling of an analog array."""
    if core.in_memory:
        return core.in_memory.passes
    if core.analog and core.analog.mvm_ns:
        return max(1.0, core.analog.mvm_ns * clock_mhz / 1e3)
    return 1.0


def _batch(rows: Rows, hierarchy: Hierarchy, passes: float) -> Batch:
    """Rows that differ, those of a layer with as many factors together."""
    place = _distinct(rows, hierarchy)
    rows = rows.take(place)
    kinds = [(max(FACTORS, len(fs)), kind in STREAMED) for fs, kind in zip(rows.factors, rows.kind, strict=True)]
    order = sorted(range(place.size), key=lambda i: (rows.layer[i], *kinds[i], i))
    index = np.array(order, dtype=np.intp)
    rows = rows.take(index)
    groups = [(int(rows.layer[n]), kinds[i]) for n, i in enumerate(order)]
    starts = [n for n, group in enumerate(groups) if not n or group != groups[n - 1]]
    return Batch(
        rows=rows,
        lines=lines_of(rows),
        starts=np.array([*starts, len(groups)], dtype=np.int64),
        streams=np.array([groups[n][1][1] for n in starts], dtype=bool),
        place=place[index],
        outer=hierarchy,
    )


def _distinct(rows: Rows, hierarchy: Hierarchy) -> NDArray[np.intp]:
    core = hierarchy.core
    assert core.array is not None
    spans = {span.tobytes(): span for spans in hierarchy.spans for span in spans}
    rippling = [core.in_memory is not None or name in core.array.systolic for name, _ in core.array.dimensions]
    return rows.distinct(spans.values(), np.array(rippling))


def _split(
    costs: CoreCosts, variant: int, h: Hierarchy, at: NDArray[np.intp], spent: Floats, bytes_held: Floats
) -> None:
    """Energy by memory and bytes held, of the best rows."""
    shape = costs.cycles.shape
    names = [m.name for m in h.core.memories]
    peak = np.zeros(at.size)
    for op, levels in enumerate(h.levels):
        for b, index in enumerate(levels):
            for place, energy in [(index, spent[:, op, b, 0])] + ([(levels[b - 1], spent[:, op, b, 1])] if b else []):
                part = costs.parts.setdefault(names[place], np.zeros(shape))
                part[variant, at] += energy
            if h.core.memories[index].off_chip:
                continue
            held = bytes_held[:, op, b]
            costs.levels.setdefault(names[index], np.zeros(shape))[variant, at] += held
            peak += held if op == OPERANDS.index(Operand.O) or Operand.I in h.core.memories[index].operands else 0.0
    costs.peak_bytes[variant, at] = peak
