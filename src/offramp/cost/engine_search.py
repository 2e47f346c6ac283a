"""The search over mappings: which chains may win, in which order, and the best.

Chains of sets of all rows lie in one flat axis. Only those whose lower bound does not exceed what another mapping of
the layer is known to take are put in order and priced. The least latency wins, of equals the least energy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.cost.engine_chains import Chains, Slot
from offramp.cost.engine_fill import completed, fillings
from offramp.cost.engine_hierarchy import Gate, Hierarchy
from offramp.cost.engine_latency import Flags, Latency
from offramp.cost.engine_layers import Floats
from offramp.cost.engine_loops import Bytes
from offramp.cost.engine_orders import Orders, joined, ordered, unordered, with_least_runs
from offramp.cost.engine_tables import I, Masks, O, W

MANY = 1500
"""Chains that a rough bound thins out before they are looked at more closely."""

FEW = 250
"""Chains that are all put in order at once."""

EQUAL = 1.0 + 5e-4
"""Mappings within this factor of the least cycles count as equally fast: a hair of time never buys energy."""


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
        """The same with the other's prices for some rows."""

        def put(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
            values = old.copy()
            values[rows] = new[rows]
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
    """The mappings of a batch of rows under one hierarchy; `whole` (rows, memories) says which take everything."""

    def __init__(
        self,
        hierarchy: Hierarchy,
        passes: float,
        base: Chains,
        own: Sequence[Slot],
        shared: Sequence[Slot],
        whole: Flags,
    ) -> None:
        """Search chains that extend those of `base` by cuts of single parts of the array and of shared memories."""
        self.tables, self.hierarchy, self.passes, self.whole = base.tables, hierarchy, passes, whole
        self.base, self.cuts, self.shared = base, [*own, *shared], shared
        self.layer = np.unique(self.tables.rows.layer, return_inverse=True)[1]
        self.family = 2 * self.layer + self.tables.rows.extra

    def run(self, floor: Floats, credit: float) -> Priced:
        """The best mapping of each row that may be its layer's best.

        A layer takes at least its (rows,) `floor`, unless that is more than `1 + credit` times its fastest mapping.
        """
        orders, cycles = self._fastest(floor, 1.0 + credit)
        filled = fillings(orders)
        choices = [self._spent(orders, masks) for masks in filled]
        totals = np.stack([total for total, _ in choices])
        turn, energy = totals.argmin(axis=0), totals.min(axis=0)
        rows, best = _first_least(energy, orders.row)

        def spread(values: NDArray[Any], missing: float) -> Floats:
            full = np.full(self.tables.count, missing)
            full[rows] = values
            return full

        def taken(values: Sequence[NDArray[Any]]) -> Floats:
            return spread(np.choose(turn[best], [value[best] for value in values]), 0.0)

        shape = [(op, range(len(levels))) for op, levels in enumerate(self.hierarchy.levels)]
        return Priced(
            cycles=spread(cycles[best], np.inf),
            memory_pj=spread(energy[best], np.inf),
            crossing_pj=[
                [
                    (taken([p[op][b][0] for _, p in choices]), taken([p[op][b][1] for _, p in choices]))
                    for b in boundaries
                ]
                for op, boundaries in shape
            ],
            masks=[[taken([m[op][b] for m in filled]).astype(np.intp) for b in boundaries] for op, boundaries in shape],
        )

    def _spent(self, orders: Orders, masks: list[list[Bytes]]) -> tuple[Floats, Crossings]:
        """Picojoules of all that crosses the boundaries, in all and one by one."""
        parts = [
            [self.tables.energies(op, b, orders.row, masks[op][b]) for b in range(len(levels))]
            for op, levels in enumerate(self.hierarchy.levels)
        ]
        total = sum((upper + lower for crossing in parts for upper, lower in crossing), start=np.zeros(orders.row.size))
        return total, parts

    def _fastest(self, floor: Floats, credit: float) -> tuple[Orders, Floats]:
        """Orders as fast as their layer's price, row by row, and that price."""
        chains, reached = self.base, np.full((2, self.layer[-1] + 1), np.inf)
        found: list[Orders] = []
        for number, cut in enumerate((None, *self.cuts)):
            if cut is not None:
                chains = chains.joined(cut, self.hierarchy, self.whole, useful=cut in self.shared)
            if self.cuts and (cut is None or chains.row.size > MANY):
                chains, reached = self._promising(chains, self.cuts[number:], reached, floor, credit, found)
        if chains.row.size > FEW:
            chains, _ = self._promising(chains, None, reached, floor, credit, found)
        orders = joined([*found, ordered(unordered(chains, self.hierarchy))])
        cycles = Latency(orders, self.passes).cycles
        price = _price(self._least_of_layers(cycles, orders.row), floor, credit)
        fast = np.flatnonzero(cycles <= (price * EQUAL)[orders.row])
        fast = self._own(orders.row[fast], fast)
        orders = orders.take(fast[np.argsort(orders.row[fast], kind="stable")])
        return orders, price[orders.row]

    def _own(self, row: NDArray[np.intp], fast: NDArray[np.intp]) -> NDArray[np.intp]:
        """Without unrollings of smaller cores where an unrolling of the core's own is as fast."""
        extra = self.tables.rows.extra[row]
        own = np.zeros(self.tables.count, dtype=bool)
        own[self.layer[row[~extra]]] = True
        return fast[~extra | ~own[self.layer[row]]]

    def _promising(
        self,
        chains: Chains,
        open_cuts: Sequence[Slot] | None,
        reached: Floats,
        floor: Floats,
        credit: float,
        found: list[Orders],
    ) -> tuple[Chains, Floats]:
        """Chains that may yet set the price of their layer, and what layers are known to take, (2, layers): with an
        unrolling of the core's own, with one of smaller cores. These are of use where they are faster alone.

        Without open cuts the bound is the time that a chain takes in the best order that any of its levels could wish.
        """
        loose = unordered(chains, self.hierarchy)
        if open_cuts is None:
            bound = Latency(with_least_runs(loose), self.passes).cycles
        else:
            bound = _bound(loose, self.passes, open_cuts)
        if open_cuts is None or len(open_cuts) == len(self.cuts):
            reached = np.minimum(reached, self._reached(loose, bound, open_cuts, found))
        price = _price(reached.min(axis=0)[self.layer], floor, credit) * EQUAL
        worthy = np.flatnonzero(bound <= price[chains.row])
        row = chains.row[worthy]
        least, own = (_price(x, floor[row], credit) for x in (bound[worthy], reached[0, self.layer[row]]))
        return chains.take(worthy[~self.tables.rows.extra[row] | (least < own)]), reached

    def _reached(self, loose: Orders, bound: Floats, open_cuts: Sequence[Slot] | None, found: list[Orders]) -> Floats:
        """(2, layers) cycles that the chains of the least bounds of every layer take, completed; adds them to `found`.

        One chain with an unrolling of the core's own, one with an unrolling of smaller cores.
        """
        seeds = ordered(loose.take(_first_least(bound, self.family[loose.row])[1]))
        if open_cuts:
            chains, fits = completed(seeds, open_cuts, self.whole)
            seeds = ordered(chains.take(np.flatnonzero(fits)))
        cycles = Latency(seeds, self.passes).cycles
        family = self.family[seeds.row]
        least = least_of(cycles, family, (self.layer[-1] + 1) * 2)
        found.append(seeds.take(np.flatnonzero(cycles == least[family])))
        return least.reshape(-1, 2).T

    def _least_of_layers(self, cycles: Floats, row: NDArray[np.intp]) -> Floats:
        """(rows,) the least cycles that any order of the row's layer takes."""
        return least_of(cycles, self.layer[row], self.tables.count)[self.layer]


def least_of(cycles: Floats, group: NDArray[np.intp], groups: int) -> Floats:
    """(groups,) the least of each group's cycles; infinite where a group has none."""
    least = np.full(groups, np.inf)
    np.minimum.at(least, group, cycles)
    return least


def _price(least: Floats, floor: Floats, credit: float) -> Floats:
    return np.maximum(least, np.minimum(floor, least * credit))


def _bound(orders: Orders, passes: float, open_cuts: Sequence[Slot]) -> Floats:
    """(orders,) cycles that no order undercuts.

    A port that must move more than the computation has cycles for stalls for the rest, and a duty that needs longer
    than its period stalls each time. What crosses an operand's boundaries first (outputs: last) is loaded by itself,
    at least one innermost tile of it.
    """
    t, hierarchy = orders.tables, orders.hierarchy
    total = t.total[orders.row, 0]
    late = traffic = np.zeros(orders.row.size)
    waits: dict[tuple[int, int], Floats] = {}
    held = [_least_held(orders, op) if (op, 1) in open_cuts else orders.held_bits(op, 0) for op in (I, W, O)]
    for gate in hierarchy.gates:
        if gate.uses:
            here = _traffic(orders, gate, passes)
            late, traffic = np.maximum(late, here[0]), np.maximum(traffic, here[1])
        for use in gate.uses:
            op, b = use.operand, use.boundary
            if not use.partial and b:
                wait = orders.crossing(t.transfer(op, b, use.upper, gate.bits), op, b)
                least = np.minimum(wait, np.ceil(held[op] / gate.bits))
                wait = np.where(orders.crossing(t.times, op, b) == 1.0, least, wait)
                waits[op, b] = np.maximum(waits[op, b], wait) if (op, b) in waits else wait
    stall = np.maximum(traffic - total * np.ceil(passes), late)
    drain = t.drain(hierarchy.core)[orders.row]
    load = [
        sum((wait for (op, _), wait in waits.items() if op == own), start=np.zeros(total.size)) for own in (I, W, O)
    ]
    return np.asarray(total * passes + stall + drain + np.maximum(load[I], load[W]) + load[O])


def _least_held(orders: Orders, op: int) -> Floats:
    """(orders,) bits of an innermost tile that keeps nothing."""
    t = orders.tables
    tile = (
        t.tile(op, 0, exact=True)[:, 0] * t.rows.bits[:, 2:].min(axis=1)
        if op == O
        else t.tile(op, 0, exact=True)[:, 0] * t.rows.bits[:, op]
    )
    return np.asarray(tile[orders.row])


def _traffic(orders: Orders, gate: Gate, passes: float) -> tuple[Floats, Floats]:
    """(orders,) cycles that a port's duties lack for all transfers but the first, and that these take."""
    t = orders.tables
    late, traffic = np.zeros(orders.row.size), np.zeros(orders.row.size)
    for op, b in dict.fromkeys((use.operand, use.boundary) for use in gate.uses):
        uses = [(use.upper, use.partial) for use in gate.uses if (use.operand, use.boundary) == (op, b)]
        late_table, table = t.port(op, b, tuple(uses), gate.bits, passes)
        late += orders.crossing(late_table, op, b)
        traffic += orders.crossing(table, op, b)
    return late, traffic


def _first_least(values: Floats, row: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows that have an order at all, and the first index of the least value of each (orders lie row by row)."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    if not starts.size:
        return starts, starts
    lengths = np.diff(starts, append=row.size)
    first = np.flatnonzero(values == np.repeat(np.minimum.reduceat(values, starts), lengths))
    rows, where = np.unique(row[first], return_index=True)
    return rows, first[where]
