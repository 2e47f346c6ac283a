"""Prices a core with a memory hierarchy: every layer, every variant, the best mapping that the search finds.

Rows (layer, unrolling) are grouped by what the search can share: the pattern of loop factors and which memories take
a whole layer. The result of the best row of each layer is split by memory. Follows the contract of `cost.model` for
one core.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_chains import Chains, Slot, cuts_below, fits_whole, start
from offramp.cost.engine_hierarchy import BETWEEN, LAST, OPERANDS, OWN, Hierarchy, hierarchy_of, shared_memories
from offramp.cost.engine_in_memory import array_energy
from offramp.cost.engine_layers import Floats, Rows, rows_of
from offramp.cost.engine_loops import FACTORS
from offramp.cost.engine_search import Priced, Search, least_of
from offramp.cost.engine_spatial import widened
from offramp.cost.engine_tables import O, Tables
from offramp.cost.layer_form import Form, form_of
from offramp.cost.model import VARIANTS, CoreCosts, infeasible
from offramp.cost.variants import core_of_variant
from offramp.ir.accelerator import Accelerator, Core, Operand
from offramp.ir.workload import Layer

np.empty(1 << 24, dtype=np.uint8)
"""Freed at once: from then on the C library keeps freed blocks up to this size and need not ask for fresh pages."""

CHUNK = 192
"""Rows searched at once: enough to amortise a call, few enough for the processor's cache."""


MANY = 4000
"""Chains that are listed once for all variants; further cuts join under a bound, variant by variant."""

STREAMED = ("Pooling",)
"""Kinds of layers that are priced as a stream: what no weight waits for may start as early as it likes."""

CREDIT = 0.125
"""How much less a layer may cost, where memories between the array and the last ones hold parts, than where they hold
all; beyond that the credit for an early start is given however much they hold."""


class Batch:
    """Rows searched together, for all variants of a core; `whole` (rows, memories): which take everything of a row.

    A layer is first priced as if all memories of the whole array took everything. That is what it costs where they do,
    and what it costs at least where they do not (see `CREDIT`): a memory that holds a part is not credited with an
    earlier start than one that holds all, for then more memory could cost cycles.
    """

    def __init__(self, index: NDArray[np.intp], tables: Tables) -> None:
        self.index, self.tables = index, tables
        self.kinds = shared_memories(tables.hierarchy)
        self.whole = fits_whole(tables)
        self.streams = tables.rows.kind[0] in STREAMED
        self.own, self.rest = start(tables), []
        for cut in self._cuts(tables.hierarchy, OWN):
            if self.own.row.size > MANY:
                self.rest.append(cut)
            else:
                self.own = self.own.joined(cut, tables.hierarchy, np.broadcast_to(self.kinds != OWN, self.whole.shape))

    def price(self, hierarchy: Hierarchy, passes: float) -> Priced:
        """The best mappings."""
        names = [m.name for m in self.tables.hierarchy.core.memories]
        used = [names.index(m.name) for m in hierarchy.core.memories]
        whole, kinds = self.whole[:, used], self.kinds[used]
        base = self._ending(hierarchy)
        own = [(op, b) for op, b in self.rest if b < len(hierarchy.levels[op])]
        if self.streams:
            cuts, none = self._cuts(hierarchy, BETWEEN) + self._cuts(hierarchy, LAST), np.zeros_like(whole)
            search = Search(hierarchy, passes, base.fitting(hierarchy, none), own, cuts, none)
            return search.run(np.zeros(self.tables.count), 0.0)
        roomy = np.broadcast_to(kinds != OWN, whole.shape)
        best = Search(hierarchy, passes, base, own, (), roomy).run(np.zeros(self.tables.count), 0.0)
        between = self._cuts(hierarchy, BETWEEN)
        if between:
            last = np.broadcast_to(kinds == LAST, whole.shape)
            best = Search(hierarchy, passes, base, own, between, last).run(self._of_layers(best), CREDIT)
        short = (~whole)[:, kinds == LAST].any(axis=1)
        if not short.any():
            return best
        rows = np.flatnonzero(np.isin(self.tables.rows.layer, self.tables.rows.layer[short]))
        tight = np.zeros(self.tables.count, dtype=bool)
        tight[rows] = True
        full = whole & (kinds == LAST)
        mine = base.take(np.flatnonzero(tight[base.row])).fitting(hierarchy, full)
        fixed = full[rows].all(axis=0) & (kinds == LAST)
        cuts = [
            (op, b)
            for op, b in between + self._cuts(hierarchy, LAST)
            if not fixed[list(hierarchy.levels[op][b - 1 :])].all()
        ]
        search = Search(hierarchy, passes, mine, own, cuts, full)
        return best.replaced(rows, search.run(self._of_layers(best), np.inf))

    def _cuts(self, hierarchy: Hierarchy, kind: int) -> list[Slot]:
        kinds = shared_memories(hierarchy)
        return cuts_below(hierarchy, np.flatnonzero(kinds == kind).tolist())

    def _ending(self, hierarchy: Hierarchy) -> Chains:
        """Chains that keep everything in the memories that are the highest of their operand here."""
        chains = self.own
        for op, levels in enumerate(hierarchy.levels):
            for b in range(len(levels), len(self.tables.hierarchy.levels[op])):
                if (op, b) in chains.chosen:
                    chains = chains.take(np.flatnonzero(chains.chosen[op, b] == chains.tables.full[chains.row]))
        if any(shared_memories(hierarchy)[levels[-1]] == OWN for levels in hierarchy.levels):
            kinds = shared_memories(hierarchy)
            chains = chains.fitting(hierarchy, np.broadcast_to(kinds != OWN, (self.tables.count, kinds.size)))
        return chains

    def _of_layers(self, priced: Priced) -> Floats:
        """(rows,) what each row's layer costs."""
        layer = np.unique(self.tables.rows.layer, return_inverse=True)[1]
        return least_of(priced.cycles, layer, self.tables.count)[layer]


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
            floor = _costs([forms[i] for i in chosen], wide, chip, variants).cycles
            own = costs.cycles[:, chosen]
            least = np.maximum(own, np.where(np.isfinite(own), floor, own))
            costs.utilization[:, chosen] *= np.divide(own, least, out=np.ones_like(own), where=np.isfinite(own))
            costs.cycles[:, chosen] = least
    return costs


def _costs(forms: Sequence[Form], core: Core, chip: Accelerator, variants: Sequence[int]) -> CoreCosts:
    costs = infeasible(len(forms))
    rows = rows_of(forms, core)
    if not rows.factors:
        return costs
    done: dict[Core, int] = {}
    batches: list[Batch] = []
    for variant in variants:
        view = core_of_variant(core, chip, variant)
        if view in done:
            _copy_variant(costs, done[view], variant)
            continue
        done[view] = variant
        hierarchy = hierarchy_of(view)
        if hierarchy is not None:
            batches = batches or list(_groups(rows, hierarchy))
            _fill(costs, variant, hierarchy, rows, batches, chip.clock_mhz)
    return costs


def _copy_variant(costs: CoreCosts, source: int, target: int) -> None:
    arrays = [costs.cycles, costs.energy_pj, costs.utilization, costs.peak_bytes]
    for array in [*arrays, *costs.parts.values(), *costs.levels.values()]:
        array[target] = array[source]


def _fill(
    costs: CoreCosts, variant: int, hierarchy: Hierarchy, rows: Rows, batches: list[Batch], clock_mhz: float
) -> None:
    """Search all rows of one variant and keep the best row of every layer."""
    core = hierarchy.core
    assert core.array is not None
    passes = _passes(core, clock_mhz)
    operations = rows.sizes.prod(axis=1)
    mac = array_energy(rows, core) if core.in_memory else operations * core.array.mac_pj
    count = len(rows.factors)
    cycles, energy = np.full(count, np.inf), np.full(count, np.inf)
    groups: list[tuple[NDArray[np.intp], Tables, Priced]] = []
    owner = np.zeros((count, 2), dtype=np.intp)
    for batch in batches:
        index, tables = batch.index, batch.tables
        priced = batch.price(hierarchy, passes)
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
            _split(costs, variant, hierarchy, tables, priced, owner[best[chosen], 1], at[chosen])


def _passes(core: Core, clock_mhz: float) -> float:
    """Cycles of one operation of the array: bits that enter one after another, or the settling of an analog array."""
    if core.in_memory:
        return core.in_memory.passes
    if core.analog and core.analog.mvm_ns:
        return max(1.0, core.analog.mvm_ns * clock_mhz / 1e3)
    return 1.0


def _groups(rows: Rows, hierarchy: Hierarchy) -> Iterator[Batch]:
    """Rows that differ, by how many factors they have, in chunks that never part the rows of a layer."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for i in _distinct(rows, hierarchy).tolist():
        groups.setdefault((max(FACTORS, len(rows.factors[i])), rows.kind[i] in STREAMED), []).append(i)
    for (length, _), members in sorted(groups.items()):
        same = np.array(members)
        starts = np.flatnonzero(np.diff(rows.layer[same], prepend=-1))
        chunk = starts // CHUNK
        firsts = starts[np.flatnonzero(np.diff(chunk, prepend=-1))].tolist()
        for first, last in zip(firsts, [*firsts[1:], same.size], strict=True):
            index = same[first:last]
            yield Batch(index, Tables(rows.take(index), hierarchy, length))


def _distinct(rows: Rows, hierarchy: Hierarchy) -> NDArray[np.intp]:
    core = hierarchy.core
    assert core.array is not None
    spans = {span.tobytes(): span for spans in hierarchy.spans for span in spans}
    rippling = [core.in_memory is not None or name in core.array.systolic for name, _ in core.array.dimensions]
    return rows.distinct(spans.values(), np.array(rippling))


def _split(
    costs: CoreCosts,
    variant: int,
    h: Hierarchy,
    tables: Tables,
    priced: Priced,
    rows: NDArray[np.intp],
    at: NDArray[np.intp],
) -> None:
    """Energy by memory and bytes held, of the best rows."""
    shape = costs.cycles.shape
    names = [m.name for m in h.core.memories]
    peak = np.zeros(rows.size)
    for op, levels in enumerate(h.levels):
        for b, index in enumerate(levels):
            upper, lower = (pj[rows] for pj in priced.crossing_pj[op][b])
            for place, energy in [(index, upper)] + ([(levels[b - 1], lower)] if b else []):
                part = costs.parts.setdefault(names[place], np.zeros(shape))
                part[variant, at] += energy
            if h.core.memories[index].off_chip:
                continue
            held = _held_bytes(tables, priced, op, b)[rows]
            costs.levels.setdefault(names[index], np.zeros(shape))[variant, at] += held
            peak += held if op == OPERANDS.index(Operand.O) or Operand.I in h.core.memories[index].operands else 0.0
    costs.peak_bytes[variant, at] = peak


def _held_bytes(tables: Tables, priced: Priced, op: int, level: int) -> Floats:
    above = priced.masks[op][level + 1] if level + 1 < len(priced.masks[op]) else tables.full
    tile = np.take_along_axis(tables.tile(op, level, exact=True), above[:, None], axis=1)[:, 0]
    partial = np.zeros((tables.count, 1), dtype=bool)
    if op == O and level + 1 < len(priced.masks[op]):
        partial = np.take_along_axis(tables.partial(level + 1), above[:, None], axis=1)
    bits = np.broadcast_to(tables.precision(op, partial), (tables.count, 1))[:, 0]
    return tile * bits * tables.instances(op, level)[:, 0] / 8.0
