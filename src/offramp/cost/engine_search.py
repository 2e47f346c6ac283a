"""The search over mappings: which chains may win, in which order, and the best.

Chains of sets of all rows lie in one flat axis. Only those whose lower bound does not exceed what another mapping of
the layer is known to take are put in order and priced. The least latency wins, of equals the least energy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_chains import Chains
from offramp.cost.engine_fill import fillings
from offramp.cost.engine_hierarchy import Gate, Hierarchy
from offramp.cost.engine_latency import Flags, Latency
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_loops import Bytes
from offramp.cost.engine_orders import Orders, ordered, unordered
from offramp.cost.engine_tables import I, Masks, O, Tables, W

FEW = 200
"""Chains that are all priced at once: a bound would cost more than it saves."""

SLACK = 1.0 + 1e-9
"""A bound may exceed what it bounds by this factor: sums of fractions of cycles are rounded."""


Crossings = list[list[tuple[Floats, Floats]]]
"""Per operand and boundary, picojoules at the memory above and at the one below."""


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """The best mapping of every row.

    Attributes:
        cycles, memory_pj: (rows,); infinite where nothing fits and where another row of the layer is faster.
        crossing_pj: per operand and boundary, (rows,) of the energy at the memory above and at the one below.
        masks: per operand and boundary, (rows,) factors below it.
    """

    cycles: Floats
    memory_pj: Floats
    crossing_pj: Crossings
    masks: list[list[Masks]]

    def replaced(self, rows: NDArray[np.intp], other: "Priced") -> "Priced":
        """The same with other prices for some rows."""

        def put(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
            values = old.copy()
            values[rows] = new
            return values

        return Priced(
            cycles=put(self.cycles, other.cycles),
            memory_pj=put(self.memory_pj, other.memory_pj),
            crossing_pj=[
                [(put(a, c), put(b, d)) for (a, b), (c, d) in zip(*crossings, strict=True)]
                for crossings in zip(self.crossing_pj, other.crossing_pj, strict=True)
            ],
            masks=[
                [put(a, b) for a, b in zip(*masks, strict=True)] for masks in zip(self.masks, other.masks, strict=True)
            ],
        )


class Search:
    """The chains of a batch of rows; `whole` (rows, memories) says which memories take everything."""

    def __init__(self, tables: Tables, hierarchy: Hierarchy, whole: Flags) -> None:
        self.tables, self.hierarchy = tables, hierarchy
        self.chains = unordered(Chains(tables, hierarchy, whole))
        self.layer = np.unique(tables.rows.layer, return_inverse=True)[1]

    def run(self, hierarchy: Hierarchy, passes: float, floor: Floats, credit: float) -> Priced:
        """The best mapping of each row that may be its layer's best.

        A layer takes at least its (rows,) `floor`, unless that is more than `1 + credit` times its fastest mapping.
        """
        orders, cycles = self._fastest(hierarchy, passes, floor, 1.0 + credit)
        choices = [self._spent(orders, masks, hierarchy) for masks in fillings(orders, hierarchy)]
        totals = np.stack([total for total, _ in choices])
        turn, energy = totals.argmin(axis=0), totals.min(axis=0)
        rows, best = _first_least(energy, orders.row)

        def spread(values: NDArray[Any], missing: float) -> Floats:
            full = np.full(self.tables.count, missing)
            full[rows] = values
            return full

        def chosen(pick: Callable[[int], NDArray[Any]]) -> Floats:
            found = np.zeros(best.size)
            for number in range(len(choices)):
                found = np.where(turn[best] == number, pick(number)[best], found)
            return spread(found, 0.0)

        return Priced(
            cycles=spread(cycles[best], np.inf),
            memory_pj=spread(energy[best], np.inf),
            crossing_pj=[
                [tuple(chosen(lambda n: choices[n][1][op][b][side]) for side in (0, 1)) for b in range(len(levels))]
                for op, levels in enumerate(hierarchy.levels)
            ],
            masks=[
                [spread(m[best], 0).astype(np.intp) for m in masks[: len(levels)]]
                for masks, levels in zip(orders.masks, hierarchy.levels, strict=True)
            ],
        )

    def _spent(self, orders: Orders, masks: list[list[Bytes]], hierarchy: Hierarchy) -> tuple[Floats, Crossings]:
        """Picojoules of all that crosses the boundaries, in all and one by one."""
        parts = [
            [self.tables.energies(op, b, orders.row, masks[op][b]) for b in range(len(levels))]
            for op, levels in enumerate(hierarchy.levels)
        ]
        total = sum((upper + lower for crossing in parts for upper, lower in crossing), start=np.zeros(orders.row.size))
        return total, parts

    def _fastest(self, hierarchy: Hierarchy, passes: float, floor: Floats, credit: float) -> tuple[Orders, Floats]:
        """Orders no slower than their layer's price, row by row, and that price."""
        orders = ordered(self._promising(hierarchy, passes, floor, credit), hierarchy)
        cycles = Latency(orders, hierarchy, passes).cycles
        least = self._least_of_layers(cycles, orders.row)
        price = np.maximum(least, np.minimum(floor, least * credit))
        fast = np.flatnonzero(cycles <= price[orders.row])
        fast = fast[np.argsort(orders.row[fast], kind="stable")]
        orders = orders.take(fast)
        return orders, price[orders.row]

    def _promising(self, hierarchy: Hierarchy, passes: float, floor: Floats, credit: float) -> Orders:
        """Chains whose bound is within what the chain of the least bound of some row of the layer lets it cost."""
        chains = self.chains
        if chains.row.size <= FEW:
            return chains
        bound = _bound(chains, hierarchy, passes)
        seeds = ordered(chains.take(_first_least(bound, chains.row)[1]), hierarchy)
        reached = self._least_of_layers(Latency(seeds, hierarchy, passes).cycles, seeds.row)
        price = np.maximum(reached, np.minimum(floor, reached * credit))
        return chains.take(np.flatnonzero(bound <= (price * SLACK)[chains.row]))

    def _least_of_layers(self, cycles: Floats, row: NDArray[np.intp]) -> Floats:
        """(rows,) the least cycles that any order of the row's layer takes."""
        least = np.full(self.tables.count, np.inf)
        np.minimum.at(least, self.layer[row], cycles)
        return least[self.layer]


def _bound(orders: Orders, hierarchy: Hierarchy, passes: float) -> Floats:
    """(orders,) cycles that no order undercuts.

    A port that must move more than the computation has cycles for stalls for the rest; what crosses an operand's
    highest boundary first (outputs: last) is loaded by itself, at least one innermost tile of it.
    """
    t = orders.tables
    total = t.total[orders.row, 0]
    traffic = np.zeros(orders.row.size)
    waits: list[Floats] = [np.zeros(orders.row.size) for _ in range(3)]
    held = [orders.held_bits(op, 0) for op in (I, W, O)]
    for gate in hierarchy.gates:
        if gate.uses:
            traffic = np.maximum(traffic, _traffic(orders, gate))
        for use in gate.uses:
            op, b = use.operand, use.boundary
            if not use.partial and 0 < b == len(hierarchy.levels[op]) - 1:
                wait = orders.crossing(t.transfer(op, b, use.upper, gate.bits), op, b)
                least = np.ceil(held[op] / gate.bits)
                once = orders.crossing(t.times, op, b) == 1.0
                waits[op] = np.maximum(waits[op], np.where(once, np.minimum(wait, least), wait))
    stall = np.maximum(traffic - total * np.ceil(passes), 0.0)
    drain = t.drain(hierarchy.core)[orders.row]
    return np.asarray(total * passes + stall + drain + np.maximum(waits[I], waits[W]) + waits[O])


def _traffic(orders: Orders, gate: Gate) -> Floats:
    """(orders,) cycles that a port needs for all transfers but each duty's first."""
    t = orders.tables
    traffic = np.zeros(orders.row.size)
    for op, b in dict.fromkeys((use.operand, use.boundary) for use in gate.uses):
        here = [use for use in gate.uses if (use.operand, use.boundary) == (op, b)]
        table = sum((t.again(op, b, use.upper, use.partial, gate.bits) for use in here), start=np.zeros((1, 1)))
        traffic += orders.crossing(table, op, b)
    return traffic


def _first_least(values: Floats, row: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows that have an order at all, and the first index of the least value of each (orders lie row by row)."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    if not starts.size:
        return starts, starts
    lengths = np.diff(starts, append=row.size)
    first = np.flatnonzero(values == np.repeat(np.minimum.reduceat(values, starts), lengths))
    rows, where = np.unique(row[first], return_index=True)
    return rows, first[where]
