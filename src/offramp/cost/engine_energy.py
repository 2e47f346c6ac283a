"""Energy of what crosses the boundaries of a mapping, and the least that a chain of sets may need.

What crosses a boundary depends on the set below it alone. A chain is filled up before its traffic is counted
(`engine_fill`): its sets only grow, each to a set that nests with the chain and fits its memory alone. So the sum of
the cheapest of those is a lower bound, which leaves out nearly all of the many chains that are equally fast.
"""

import numpy as np

from offramp.cost.arrays import Floats, Ints, Record
from offramp.cost.engine_chains import held_bits, reused
from offramp.cost.engine_compile import compiled
from offramp.cost.engine_tables import PLANE, partial
from offramp.cost.engine_view import MOST, I, O, W

SPENDING = np.dtype((np.record, [("spent", "f8", (3, MOST, PLANE)), ("links", "i8", 3 * MOST + 2)]))
"""What is known of a row's energies.

spent: (operand, boundary, mask) picojoules of all that crosses, infinite where the memory below is too small for the
mask, -1 where not known yet; links: scratch.
"""

UNKNOWN = -1.0


@compiled
def spent(view: Record, t: Record, masks: Ints) -> float:
    """Picojoules of all that crosses the boundaries."""
    total = 0.0
    for op in range(3):
        for b in range(view.count[op]):
            upper, lower = crossing(view, t, op, b, masks[op, b])
            total += upper + lower
    return total


@compiled
def crossing(view: Record, t: Record, op: int, b: int, mask: int) -> tuple[float, float]:
    """Picojoules of all that crosses a boundary, at the memory above and at the one below."""
    sums = op == O and partial(t, b, mask)
    bits = t.bits[3] if sums else t.bits[op]
    times, tile = t.times[mask], t.tile[op, b - 1, mask] if b else 1.0
    fed = tile * t.growth[op, b]
    upper = _energy(view.port[op, b, 1], op, fed * bits, times * t.instances[op, b], sums)
    if not b:
        return upper, 0.0
    return upper, _energy(view.port[op, b, 0], op, tile * bits, times * t.instances[op, b - 1], sums)


@compiled
def _energy(ports: Floats, op: int, bits: float, times: float, sums: bool) -> float:
    """Energy of the duties of one side of a boundary; outputs come back where they are partial sums."""
    energy = _accesses(bits, times, ports[0])
    if op == O and sums:
        energy = energy + _accesses(bits, times, ports[1])
    return energy


@compiled
def _accesses(bits: float, times: float, port: Floats) -> float:
    """Energy of moving `bits` at once `times` times in steps of the port's granularity."""
    if port[3] == 0.0:
        return 0.0
    return float(np.floor(np.ceil(bits / port[0]) * (port[0] / port[1]) * times) * port[2])


@compiled
def forget(view: Record, t: Record, spending: Record) -> None:
    """Start afresh with another row."""
    for op in range(3):
        for b in range(view.count[op]):
            for mask in range(t.full + 1):
                spending.spent[op, b, mask] = UNKNOWN


@compiled
def least_spent(view: Record, t: Record, masks: Ints, cuts: Ints, chosen: int, count: int, spending: Record) -> float:
    """Picojoules that no filled order of a chain undercuts, of whose `count` cuts some are `chosen`."""
    links = _links(t, masks, cuts, chosen, spending.links)
    total = _crossed(view, t, O, 0, 0, spending)
    for op in (I, W):
        total += _crossed(view, t, op, 0, reused(t, op, masks, cuts, chosen), spending)
    for k in range(view.choices):
        op, b = cuts[k, 0], cuts[k, 1]
        lowest = masks[op, b] if k < chosen else t.full
        if chosen <= k < count:
            lowest = 0
            for j in range(chosen):
                if cuts[j, 0] == op and cuts[j, 1] < b:
                    lowest |= masks[op, cuts[j, 1]]
        total += _cheapest(view, t, op, b, lowest, links, spending)
    return float(total)


@compiled
def _links(t: Record, masks: Ints, cuts: Ints, chosen: int, links: Ints) -> int:
    """The sets of the chosen cuts, from nothing to everything, smallest first, written to `links`; how many."""
    links[0], links[1], count = 0, t.full, 2
    for k in range(chosen):
        mask, place = masks[cuts[k, 0], cuts[k, 1]], count
        while links[place - 1] > mask:
            place -= 1
        if links[place - 1] != mask:
            for i in range(count, place, -1):
                links[i] = links[i - 1]
            links[place] = mask
            count += 1
    return count


@compiled
def _cheapest(view: Record, t: Record, op: int, b: int, lowest: int, links: int, spending: Record) -> float:
    """Least energy of a boundary over the sets that hold `lowest`, one of the links, nest with all of them and fit."""
    least = _crossed(view, t, op, b, t.full, spending)
    for i in range(links - 1):
        low = spending.links[i]
        extra = spending.links[i + 1] & ~low
        part = extra if lowest & ~low == 0 else 0
        while part:
            part = (part - 1) & extra
            least = min(least, _crossed(view, t, op, b, low | part, spending))
    return least


@compiled
def _crossed(view: Record, t: Record, op: int, b: int, mask: int, spending: Record) -> float:
    """Picojoules at both sides of a boundary, infinite where the memory below is too small for the set alone."""
    energy = spending.spent[op, b, mask]
    if energy == UNKNOWN:
        energy = np.inf
        if not b or min(_held(view, t, op, b - 1, mask, 0), _held(view, t, op, b - 1, mask, t.full)) <= 0.0:
            upper, lower = crossing(view, t, op, b, mask)
            energy = upper + lower
        spending.spent[op, b, mask] = energy
    return float(energy)


@compiled
def _held(view: Record, t: Record, op: int, level: int, mask: int, below: int) -> float:
    """Bits by which a set is too large for the memory of a level."""
    return float(held_bits(view, t, op, level, mask, below) - view.room[view.memory[op, level]])
