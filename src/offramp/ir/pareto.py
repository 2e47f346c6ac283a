"""Fronts: which points no other point beats, and the knee among them. Every objective is minimised."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """True when `a` is nowhere worse than `b` and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front_indices(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that nothing dominates, sorted by value; of equal points the first stays.

    Args:
        points: n points of m minimised objectives each.
    """
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (tuple(points[i]), i)):
        if not any(dominates(points[j], points[i]) or tuple(points[j]) == tuple(points[i]) for j in kept):
            kept.append(i)
    return kept


def layered_indices(points: Sequence[Sequence[float]]) -> list[int]:
    """All indices, the front first, then the front of the rest, and so on (non-dominated sorting)."""
    left, ordered = list(range(len(points))), []
    while left:
        layer = [left[i] for i in front_indices([points[i] for i in left])]
        ordered += layer
        left = [i for i in left if i not in layer]
    return ordered


def knee_index(points: Sequence[Sequence[float]]) -> int:
    """The point nearest to the ideal corner after each objective is scaled to [0, 1] over the given points.

    Of points equally near, the best in the first objective (then the second, ...), whatever the order of the points.

    Raises:
        ValueError: there are no points.
    """
    if not len(points):
        raise ValueError("no points: a knee needs at least one")
    values: Points = np.asarray(points, dtype=np.float64)
    low, high = values.min(axis=0), values.max(axis=0)
    scaled = (values - low) / np.where(high > low, high - low, 1.0)
    distance = np.square(scaled).sum(axis=1).round(12)
    return min(range(len(values)), key=lambda i: (distance[i], *values[i]))
