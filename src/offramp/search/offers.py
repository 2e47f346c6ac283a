"""Exits that a candidate is offered when it is finished: branches cost little, and the solver drops what does not pay.

Branches of shared weights are weak, so a short trial often drops exits that a longer training would keep. Nothing is
trained or priced here.
"""

from collections.abc import Mapping
from dataclasses import replace

from offramp.ir.architecture import Architecture, ExitChoice
from offramp.search.space import Space

MARKS = (0.25, 0.5, 0.75)
"""Shares of the backbone's MACs near which an exit is offered."""


def with_offers(space: Space, candidate: Architecture, accuracy: Mapping[ExitChoice, float]) -> Architecture:
    """The candidate with exits near a quarter, half and three quarters of the MACs, beside its own.

    Args:
        space: offers exits and limits their number.
        accuracy: of every branch of the space with the shared weights; at each place the best kind is offered.
    """
    macs = {m.index: m.macs for m in space.info.mounting_points}
    total = sum(layer.macs for layer in space.info.layers)
    open_points = space.info.open_mounting_points(candidate.depths)
    kinds = {point: offered for point, offered in space.exits if point in open_points and offered}
    exits = {e.mounting_point: e for e in candidate.exits}
    for mark in MARKS:
        place = min(kinds, key=lambda point: abs(macs[point] / total - mark), default=None)
        if place is not None and place not in exits and len(exits) < space.max_exits:
            exits[place] = max((ExitChoice(place, kind) for kind in kinds[place]), key=lambda e: accuracy[e])
    return space.info.canonical(replace(candidate, exits=tuple(sorted(exits.values()))))
