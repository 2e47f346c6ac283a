"""How much of the time at least one of several periodic windows is open.

A duty of a port may move data in the first `allowed` cycles of each period. Periods of one order nest (each divides
the next), so the union over the longest period follows from the shorter ones without simulating cycles. Plain
arithmetic on arrays.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Window = tuple[Floats, Floats, Floats, NDArray[np.bool_]]
"""(period, allowed, count, active) of one duty."""


def union_of(windows: list[Window]) -> Floats:
    """Cycles in which any active window is open, over the whole run."""
    shape = np.broadcast_shapes(*(a.shape for w in windows for a in w))
    whole = np.zeros(shape, dtype=bool)
    total: Floats = np.zeros(shape)
    for period, allowed, count, active in windows:
        open_always = active & (allowed >= period)
        whole = whole | open_always
        total = np.maximum(total, np.where(active, period * count, 0.0))
    if bool(whole.all()):
        return total
    rows = np.nonzero(~whole)
    parts = [tuple(np.broadcast_to(a, shape)[rows] for a in w) for w in windows]
    total[rows] = _nested_union(parts)
    return total


def _nested_union(windows: list[tuple[NDArray[np.generic], ...]]) -> Floats:
    """Union of windows none of which is always open; arrays of one axis."""
    active = np.stack([w[3] for w in windows]).astype(bool)
    period = np.where(active, np.stack([w[0] for w in windows]), 1.0).astype(np.float64)
    allowed = np.where(active, np.stack([w[1] for w in windows]), 0.0).astype(np.float64)
    count = np.where(active, np.stack([w[2] for w in windows]), 0.0).astype(np.float64)
    order = np.argsort(period, axis=0, kind="stable")
    period, allowed, count = (np.take_along_axis(a, order, axis=0) for a in (period, allowed, count))
    covered = period[-1] - _closed(period[-1], period, allowed, len(windows) - 1)
    return np.asarray(covered * count[-1])


def _closed(length: Floats, period: Floats, allowed: Floats, last: int) -> Floats:
    """Cycles of [0, length) in which windows 0..last are all shut, for windows sorted by nesting periods."""
    if last < 0:
        return length
    p, a = period[last], np.minimum(allowed[last], period[last])
    repeats = np.floor(length / p)
    rest = length - repeats * p
    shut = _closed(p, period, allowed, last - 1) - _closed(a, period, allowed, last - 1)
    tail = _closed(rest, period, allowed, last - 1) - _closed(np.minimum(rest, a), period, allowed, last - 1)
    return np.asarray(repeats * shut + tail)
