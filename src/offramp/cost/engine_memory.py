"""Prices a core with a memory hierarchy: every layer, every variant, the best mapping that the search finds.

Rows (layer, unrolling) are grouped by what the search can share: the pattern of loop factors and which memories take a whole
layer. The result of the best row of each layer is split by memory. Follows the contract of `cost.model` for one core.
"""

from collections.abc import Sequence

import numpy as np

from offramp.cost.engine_allocation import fits_whole
from offramp.cost.engine_hierarchy import OPERANDS, Hierarchy, hierarchy_of
from offramp.cost.engine_in_memory import array_energy
from offramp.cost.engine_layers import Floats, Rows, rows_of
from offramp.cost.engine_loops import pattern_of
from offramp.cost.engine_search import Priced, Search
from offramp.cost.engine_tables import O, Tables
from offramp.cost.layer_form import form_of
from offramp.cost.model import VARIANTS, CoreCosts, infeasible
from offramp.cost.variants import core_of_variant
from offramp.ir.accelerator import Accelerator, Core, Operand
from offramp.ir.workload import Layer

CHUNK = 64
"""Rows searched at once: few enough for the processor's cache."""


def hierarchy_costs(layers: Sequence[Layer], core: Core, chip: Accelerator) -> CoreCosts:
    """Price layers that the core supports in all variants."""
    costs = infeasible(len(layers))
    forms = [form_of(layer) for layer in layers]
    rows = rows_of(forms, core)
    operations = rows.sizes.prod(axis=1)
    done: dict[Core, int] = {}
    for variant in range(VARIANTS):
        view = core_of_variant(core, chip, variant)
        if view in done:
            _copy_variant(costs, done[view], variant)
            continue
        done[view] = variant
        hierarchy = hierarchy_of(view)
        if hierarchy is not None and rows.factors:
            _fill(costs, variant, hierarchy, rows, operations)
    return costs


def _copy_variant(costs: CoreCosts, source: int, target: int) -> None:
    arrays = [costs.cycles, costs.energy_pj, costs.utilization, costs.peak_bytes]
    for array in [*arrays, *costs.parts.values(), *costs.levels.values()]:
        array[target] = array[source]


def _fill(costs: CoreCosts, variant: int, hierarchy: Hierarchy, rows: Rows, operations: Floats) -> None:
    """Search all rows of one variant and keep the best row of every layer."""
    core = hierarchy.core
    assert core.array is not None
    passes = core.in_memory.passes if core.in_memory else 1.0
    mac = array_energy(rows, core) if core.in_memory else operations * core.array.mac_pj
    count = len(rows.factors)
    cycles, energy = np.full(count, np.inf), np.full(count, np.inf)
    groups: list[tuple[np.ndarray, Tables, Priced]] = []
    owner = np.zeros((count, 2), dtype=np.intp)
    for index, tables, whole in _groups(rows, hierarchy):
        priced = Search(tables, pattern_of(tables.rows.factors[0]), whole, passes).run()
        cycles[index], energy[index] = priced.cycles, priced.memory_pj + mac[index]
        owner[index, 0], owner[index, 1] = len(groups), np.arange(index.size)
        groups.append((index, tables, priced))
    order = np.lexsort((energy, cycles, rows.layer))
    first = np.unique(rows.layer[order], return_index=True)[1]
    best = order[first]
    best = best[np.isfinite(cycles[best])]
    at = rows.layer[best]
    costs.cycles[variant, at], costs.energy_pj[variant, at] = cycles[best], energy[best]
    ideal = np.ceil(np.ceil(operations[best] / core.array.units) * passes)
    costs.utilization[variant, at] = np.minimum(ideal / cycles[best], 1.0)
    shape = costs.cycles.shape
    costs.parts.setdefault("mac", np.zeros(shape))[variant, at] = mac[best]
    for number, (_, tables, priced) in enumerate(groups):
        chosen = owner[best, 0] == number
        if chosen.any():
            _split(costs, variant, tables, priced, owner[best[chosen], 1], at[chosen])


def _groups(rows: Rows, hierarchy: Hierarchy) -> "list[tuple[np.ndarray, Tables, np.ndarray]]":
    """Rows that share a pattern of factors and the memories that take everything, in chunks."""
    by_pattern: dict[tuple[int, ...], list[int]] = {}
    for i, factors in enumerate(rows.factors):
        by_pattern.setdefault(pattern_of(factors), []).append(i)
    groups = []
    for members in by_pattern.values():
        index = np.array(members, dtype=np.intp)
        whole = fits_whole(Tables(rows.take(index), hierarchy))
        kinds, place = np.unique(whole, axis=0, return_inverse=True)
        for k, flags in enumerate(kinds):
            same = index[place.reshape(-1) == k]
            for start in range(0, same.size, CHUNK):
                part = same[start : start + CHUNK]
                groups.append((part, Tables(rows.take(part), hierarchy), flags))
    return groups


def _split(
    costs: CoreCosts, variant: int, tables: Tables, priced: Priced, rows: np.ndarray, at: np.ndarray
) -> None:
    """Energy by memory and bytes held, of the best rows."""
    h = tables.hierarchy
    shape = costs.cycles.shape
    names = [m.name for m in h.core.memories]
    peak = np.zeros(rows.size)
    for op, levels in enumerate(h.levels):
        for b, index in enumerate(levels):
            table, mask = tables.boundary(op, b), priced.masks[op][b]
            for place, energy in ((index, table.energy_upper), (levels[b - 1], table.energy_lower)):
                if place == levels[b - 1] and b == 0:
                    continue
                part = costs.parts.setdefault(names[place], np.zeros(shape))
                part[variant, at] += np.take_along_axis(energy, mask[:, None], axis=1)[rows, 0]
            if h.core.memories[index].off_chip:
                continue
            held = _held_bytes(tables, priced, op, b)[rows]
            costs.levels.setdefault(names[index], np.zeros(shape))[variant, at] += held
            peak += held if op == OPERANDS.index(Operand.O) or Operand.I in h.core.memories[index].operands else 0.0
    costs.peak_bytes[variant, at] = peak


def _held_bytes(tables: Tables, priced: Priced, op: int, level: int) -> Floats:
    above = priced.masks[op][level + 1] if level + 1 < len(priced.masks[op]) else np.full(tables.count, tables.full)
    tile = np.take_along_axis(tables.tile(op, level, exact=True), above[:, None], axis=1)[:, 0]
    partial = np.zeros((tables.count, 1), dtype=bool)
    if op == O and level + 1 < len(priced.masks[op]):
        partial = np.take_along_axis(tables.partial(level + 1), above[:, None], axis=1)
    bits = np.broadcast_to(tables.precision(op, partial), (tables.count, 1))[:, 0]
    return tile * bits * tables.instances(op, level)[:, 0] / 8.0
