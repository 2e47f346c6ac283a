"""The best combinations of one option for every array dimension, compiled: the inner loop of `engine_spatial`."""

from typing import Any

import numpy as np

from offramp.cost.arrays import Ints
from offramp.cost.engine_compile import SOURCES, compiled, entry

KEPT = 3
"""Unrollings that the temporal search tries per layer (ZigZag's default)."""

LOOPS_AT, FACTORS_AT, COLUMNS = 2, 10, 18
"""Columns of a table of options: units busy, place in the order of preference, from `LOOPS_AT` on its loops (-1 after
the last), from `FACTORS_AT` on their factors."""


@compiled
def _later(places: Ints, other: Ints, count: int) -> bool:
    """Whether some places come after others in the order of preference."""
    for i in range(count):
        if places[i] != other[i]:
            return bool(places[i] > other[i])
    return False


@compiled
def _worth(reach: int, largest: int) -> float:
    """ZigZag's indicator: units busy u plus u over the largest factor of any one loop, minus 1."""
    return reach + reach / largest - 1


@compiled
def _keep(worth: float, places: Ints, chosen: Ints, count: int, best: Any, kept_places: Ints, kept: Ints) -> int:
    """Put a combination among the best ones, the best first; how many there are then."""
    place = min(count, KEPT)
    while place and (
        best[place - 1] < worth or (best[place - 1] == worth and _later(kept_places[place - 1], places, len(places)))
    ):
        place -= 1
    if place == KEPT:
        return count
    for i in range(min(count, KEPT - 1), place, -1):
        best[i], kept_places[i], kept[i] = best[i - 1], kept_places[i - 1], kept[i - 1]
    best[place], kept_places[place], kept[place] = worth, places, chosen
    return min(count + 1, KEPT)


@compiled
def _best(options: Ints, starts: Ints, sizes: Ints, cases: int) -> Ints:
    """(cases, `KEPT`, dimensions) the best combinations of every case: places among the options of each dimension.

    The options of case i and dimension d lie between two of `starts`, the busiest first. No loop may be unrolled beyond
    its size; where fewer combinations are possible the rest are -1.
    """
    dims = (len(starts) - 1) // cases
    found = np.full((cases, KEPT, dims), -1, dtype=np.int64)
    for i in range(cases):
        _best_of(options, starts[i * dims : (i + 1) * dims + 1], sizes, found[i])
    return found


@compiled
def _best_of(options: Ints, starts: Ints, sizes: Ints, kept: Ints) -> None:
    """The best combinations of one case."""
    dims = len(starts) - 1
    remaining = np.ones(dims + 1, dtype=np.int64)
    for d in range(dims - 1, -1, -1):
        remaining[d] = remaining[d + 1] * options[starts[d], 0]
    worths, kept_places = np.empty(KEPT), np.empty((KEPT, dims), np.int64)
    units, largest = np.ones(dims + 1, dtype=np.int64), np.ones(dims + 1, dtype=np.int64)
    totals, at = np.ones((dims + 1, len(sizes)), dtype=np.int64), starts[:-1].copy()
    places, chosen, count, d = np.zeros(dims, dtype=np.int64), np.zeros(dims, dtype=np.int64), 0, 0
    while d >= 0:
        i = at[d]
        reach = units[d] * remaining[d + 1] * (options[i, 0] if i < starts[d + 1] else 0)
        if i == starts[d + 1] or (count == KEPT and _worth(reach, largest[d]) < worths[KEPT - 1]):
            d -= 1
            continue
        at[d] += 1
        most, fits = largest[d], True
        for j in range(FACTORS_AT - LOOPS_AT):
            loop = options[i, LOOPS_AT + j]
            if loop < 0:
                break
            grown = totals[d, loop] * options[i, FACTORS_AT + j]
            fits &= grown <= sizes[loop]
            most = max(most, grown)
        if not fits:
            continue
        worth, places[d], chosen[d] = _worth(reach, most), options[i, 1], i - starts[d]
        if count == KEPT and (
            worth < worths[KEPT - 1] or (worth == worths[KEPT - 1] and _later(places, kept_places[KEPT - 1], d + 1))
        ):
            continue
        if d + 1 == dims:
            count = _keep(worth, places, chosen, count, worths, kept_places, kept)
            continue
        units[d + 1], largest[d + 1], totals[d + 1] = units[d] * options[i, 0], most, totals[d]
        for j in range(FACTORS_AT - LOOPS_AT):
            loop = options[i, LOOPS_AT + j]
            if loop < 0:
                break
            totals[d + 1, loop] *= options[i, FACTORS_AT + j]
        d += 1
        at[d] = starts[d]


def _entry(sources: str) -> Any:
    """What Python calls, `sources` being part of the key under which machine code is kept."""

    def best(options: Ints, starts: Ints, sizes: Ints, cases: int) -> Ints:
        assert sources
        return _best(options, starts, sizes, cases)

    return entry(best)


best = _entry(SOURCES)
