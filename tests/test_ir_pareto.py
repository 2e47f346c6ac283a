"""Laws of fronts: nothing on them is beaten, they are idempotent, and the order of the points does not matter."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.ir.pareto import dominates, front_indices, knee_index, layered_indices

POINTS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=25)


@given(POINTS)
def test_a_front_beats_the_rest_and_itself_never(points: list[tuple[int, int]]) -> None:
    front = [points[i] for i in front_indices(points)]
    assert not any(dominates(a, b) for a in front for b in front)
    assert all(p in front or any(dominates(f, p) for f in front) for p in points)
    assert [front[i] for i in front_indices(front)] == front


@given(POINTS, st.integers(0, 99))
def test_order_does_not_matter(points: list[tuple[int, int]], seed: int) -> None:
    mixed = random.Random(seed).sample(points, len(points))
    assert [points[i] for i in front_indices(points)] == [mixed[i] for i in front_indices(mixed)]
    assert points[knee_index(points)] == mixed[knee_index(mixed)]


@given(POINTS)
def test_layers_hold_every_point_once_and_nothing_is_beaten_by_a_later_layer(points: list[tuple[int, int]]) -> None:
    order = layered_indices(points)
    assert sorted(order) == list(range(len(points)))
    assert not any(dominates(points[b], points[a]) for n, a in enumerate(order) for b in order[n + 1 :])


def test_the_knee_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="a knee needs at least one"):
        knee_index([])
