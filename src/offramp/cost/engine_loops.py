"""What is left of the loops after unrolling: factors of a layer's temporal part, and which of them are alike.

After LOMA (Symons et al., AICAS 2021): what is left of every loop after unrolling is split into prime factors, the
smallest two of the loop with most factors are merged until six factors are left. A set of factors is a bit mask, so
that everything a mapping decides can be looked up by mask. No memory and no cost here.
"""

from functools import lru_cache

FACTORS = 6
"""Most factors that are permuted, unless a layer has more loops (LOMA's lpf_limit in ZigZag)."""

Factor = tuple[int, int]
"""(loop index, size)."""


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


def pattern_of(factors: tuple[Factor, ...], alike: tuple[int, ...]) -> tuple[int, ...]:
    """For every factor the index of the first equal one, `alike` giving for every loop the first of its kind."""
    known = [(alike[loop], size) for loop, size in factors]
    return tuple(map(known.index, known))
