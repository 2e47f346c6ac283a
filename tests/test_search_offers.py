"""Exits offered when a candidate is finished: beside its own, within the space's limit, the best kind of each place."""

from dataclasses import replace

import pytest

from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.architecture import Architecture, ExitChoice
from offramp.nn.describe import describe
from offramp.search.derive import derive_space
from offramp.search.offers import with_offers
from offramp.search.space import Space


@pytest.fixture(scope="module")
def space() -> Space:
    return derive_space(describe("mobilenetv2", (3, 32, 32), 10), load_accelerator("edge-tpu-quad"))


def accuracies(space: Space, best: str = "gap_fc") -> dict[ExitChoice, float]:
    return {ExitChoice(p, k): 0.9 if k == best else 0.5 for p, kinds in space.exits for k in kinds}


PLAIN = Architecture(backbone="mobilenetv2")


def test_three_places_spread_over_the_work_with_the_best_kind(space: Space) -> None:
    offered = with_offers(space, PLAIN, accuracies(space, "maxpool_fc"))
    macs = {m.index: m.macs for m in space.info.mounting_points}
    total = sum(layer.macs for layer in space.info.layers)
    shares = [macs[e.mounting_point] / total for e in offered.exits]
    assert [e.branch for e in offered.exits] == ["maxpool_fc"] * 3
    assert shares == pytest.approx([0.25, 0.5, 0.75], abs=0.15)


def test_own_exits_stay_as_they_are(space: Space) -> None:
    own = (ExitChoice(2, "conv_gap_fc"), ExitChoice(6, "maxpool_fc"))
    offered = with_offers(space, replace(PLAIN, exits=own), accuracies(space))
    assert set(own) <= set(offered.exits)
    assert with_offers(space, offered, accuracies(space)) == offered


@pytest.mark.parametrize("most", [1, 2])
def test_never_more_than_the_space_allows(space: Space, most: int) -> None:
    assert len(with_offers(replace(space, max_exits=most), PLAIN, accuracies(space)).exits) == most


def test_nothing_is_offered_where_the_space_has_no_exits(space: Space) -> None:
    assert with_offers(space.without("exits"), PLAIN, {}) == PLAIN


def test_only_places_that_the_depth_leaves(space: Space) -> None:
    shallow = replace(PLAIN, depths=tuple(group.minimum for group in space.info.depth_groups))
    places = space.info.open_mounting_points(shallow.depths)
    offered = with_offers(space, shallow, accuracies(space))
    assert offered.exits and {e.mounting_point for e in offered.exits} <= set(places)
