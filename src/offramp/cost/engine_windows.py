"""How much of the time at least one of several periodic windows is open.

A duty of a port may move data in the first `allowed` cycles of each period. Periods of one order nest (each divides
the next), so the union over the longest period follows from the shorter ones without simulating cycles. Plain
arithmetic.
"""

import numpy as np

from offramp.cost.arrays import Floats
from offramp.cost.engine_compile import compiled


@compiled
def union_of(period: Floats, allowed: Floats, count: Floats, windows: int) -> float:
    """Cycles in which any of the first windows is open, over the whole run; sorts them by period."""
    whole, most = False, 0.0
    for i in range(windows):
        whole |= allowed[i] >= period[i]
        most = max(most, period[i] * count[i])
    if whole or windows == 0:
        return most
    for i in range(1, windows):
        j = i
        while j and period[j - 1] > period[j]:
            period[j - 1], period[j] = period[j], period[j - 1]
            allowed[j - 1], allowed[j] = allowed[j], allowed[j - 1]
            count[j - 1], count[j] = count[j], count[j - 1]
            j -= 1
    last = windows - 1
    return float((period[last] - _closed(period[last], period, allowed, last)) * count[last])


@compiled
def _closed(length: float, period: Floats, allowed: Floats, last: int) -> float:
    """Cycles of [0, length) in which windows 0..last are all shut, for windows sorted by nesting periods."""
    if last < 0 or length <= 0.0:
        return length
    p, a = period[last], min(allowed[last], period[last])
    repeats = np.floor(length / p)
    rest = length - repeats * p
    shut = _closed(p, period, allowed, last - 1) - _closed(a, period, allowed, last - 1)
    tail = _closed(rest, period, allowed, last - 1) - _closed(min(rest, a), period, allowed, last - 1)
    return float(repeats * shut + tail)
