"""In which order loops run: loop factors of a layer's temporal part, their orders, and what prefixes of orders contain.

After LOMA (Symons et al., AICAS 2021): what is left of every loop after unrolling is split into prime factors, the smallest
two of the loop with most factors are merged until six factors are left, and every order of them is a candidate. A set of
factors is a bit mask, so that everything an order decides can be looked up by mask. No memory and no cost here.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

FACTORS = 6
"""Most factors that are permuted, unless a layer has more loops (LOMA's lpf_limit in ZigZag)."""

Factor = tuple[int, int]
"""(loop index, size)."""

Bytes = NDArray[np.uint8]


@lru_cache(maxsize=65536)
def loop_factors(sizes: tuple[int, ...], order: tuple[int, ...]) -> tuple[Factor, ...]:
    """Factors of temporal loop sizes; `order` lists loops by the place that decides which of equals is merged first."""
    factors = {d: list(prime_factors(sizes[d])) for d in order if sizes[d] > 1}
    if not factors:
        return ((order[0], 1),)
    limit = max(FACTORS, len(factors))
    while sum(map(len, factors.values())) > limit:
        longest = max(factors.values(), key=len)
        first, second = longest[0], longest[1]
        longest[:2] = [first * second]
        longest.sort()
    return tuple((d, f) for d, fs in factors.items() for f in fs)


@lru_cache(maxsize=65536)
def prime_factors(n: int) -> tuple[int, ...]:
    """Prime factors of n, smallest first, with multiplicity."""
    found, p = [], 2
    while p * p <= n:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1 if p == 2 else 2
    return (*found, n) if n > 1 or not found else tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class Orders:
    """All orders of n factors in which equal factors keep their place.

    Attributes:
        places: (n, orders) factor at every position, innermost first.
        prefix: (n + 1, orders) mask of the factors in the first q positions.
    """

    places: Bytes
    prefix: NDArray[Any]

    @property
    def count(self) -> int:
        """Number of orders."""
        return int(self.places.shape[1])


@lru_cache(maxsize=512)
def orders_of(pattern: tuple[int, ...]) -> Orders:
    """Orders of factors; `pattern[i]` names the first factor equal to factor i."""
    n = len(pattern)
    follows = [(max(j for j in range(i) if pattern[j] == pattern[i]), i) for i in range(n) if pattern[i] != i]
    rows = [p for p in permutations(range(n)) if all(p.index(a) < p.index(b) for a, b in follows)]
    places = np.array(rows, dtype=np.uint8).T
    bits = np.left_shift(1, places, dtype=np.intp)
    prefix = np.zeros((n + 1, len(rows)), dtype=np.intp)
    np.cumsum(bits, axis=0, out=prefix[1:])
    return Orders(places=places, prefix=prefix)


def pattern_of(factors: tuple[Factor, ...]) -> tuple[int, ...]:
    """For every factor the index of the first equal one."""
    return tuple(factors.index(f) for f in factors)


@lru_cache(maxsize=4096)
def skip_table(pattern: tuple[int, ...], mask: int) -> Bytes:
    """(n + 1, orders): the first position at or after q whose factor is not in `mask`."""
    orders = orders_of(pattern)
    n = len(pattern)
    table = np.empty((n + 1, orders.count), dtype=np.uint8)
    table[n] = n
    for q in range(n - 1, -1, -1):
        inside = (mask >> orders.places[q]) & 1
        table[q] = np.where(inside, table[q + 1], q)
    return table


@lru_cache(maxsize=4096)
def run_start_table(pattern: tuple[int, ...], mask: int) -> Bytes:
    """(n + 1, orders): where the run of factors of `mask` that ends below position q begins (q when there is none)."""
    orders = orders_of(pattern)
    n = len(pattern)
    table = np.empty((n + 1, orders.count), dtype=np.uint8)
    table[0] = 0
    for q in range(1, n + 1):
        inside = (mask >> orders.places[q - 1]) & 1
        table[q] = np.where(inside, table[q - 1], q)
    return table


def subset_products(factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Products over every subset: (..., n) factors to (..., 2^n), indexed by mask."""
    table = np.ones((*factors.shape[:-1], 1))
    for i in range(factors.shape[-1]):
        table = np.concatenate([table, table * factors[..., i : i + 1]], axis=-1)
    return table
