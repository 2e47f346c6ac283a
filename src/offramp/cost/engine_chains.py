"""Which loop factors every memory may keep: all nested sets that fit, of one row.

A mapping keeps below each boundary a set of loop factors, written as a bit mask; the sets of all operands and levels
nest, since they are prefixes of one order of the loops. What may be kept depends on the size of a memory alone, and a
larger memory may keep all that a smaller one may: from this follows that more memory never costs more cycles
(docs/formulas.md). A chain is given up when what is chosen already takes longer than another mapping.
"""

import numpy as np

from offramp.cost.arrays import Bytes, Flags, Ints, Record
from offramp.cost.engine_compile import compiled
from offramp.cost.engine_hierarchy import OWN
from offramp.cost.engine_tables import PLANE, partial, precision
from offramp.cost.engine_view import DUTIES, GATES, MOST, I, O, W

CHAIN = np.dtype((np.record, [("row", "i8"), ("masks", "u1", (3, MOST + 1))]))
"""Nested sets of a row: factors below every boundary, everything below the highest one."""


LOADS = np.dtype((np.record, [
    ("waits", "f8", (3, MOST, 2)), ("inner", "f8", 3), ("ways", "f8", (2, 3)), ("offload", "f8"),
    ("least", "f8"), ("once", "f8", DUTIES), ("later", "f8", DUTIES), ("taken", "f8", GATES), ("idle", "f8", GATES),
    ("sums", "f8", (4, 3)), ("duty", "f8", (DUTIES, PLANE, 4)),
]))  # fmt: skip
"""What is loaded before, or unloaded after, the computation.

waits: (operand, boundary, upper) cycles of it at a port; ways: (operand, way) the same of all boundaries, see
`loading`; offload: of outputs; least: the least cycles of both, see `bound`; inner: bits of every operand's innermost
tile, or less.
once, later: by duty what moves once and may have to be waited for, and how much of that may move during the
computation; taken, idle: by port the sum of the first, and the share of time that it has for it; sums: scratch.
duty: (duty, mask) cycles of one transfer (-1 where not known yet), cycles that all lag behind in their periods, cycles
of all but one, and whole bits per cycle that it asks of its port on average (nothing if it moves but once).
"""

ENOUGH = 1.0 + 1e-9
"""Times the idle cycles, up to which what is to be moved in them counts as moved: rounding."""

JOINT = 3
"""Group of inputs and weights that are loaded one after another."""


@compiled
def held_bits(view: Record, t: Record, op: int, level: int, mask: int, below: int) -> float:
    """Bits that a memory needs for a level that keeps some factors, of which `below` lie under the level itself."""
    tile = t.held[op, level, mask]
    if view.double[view.memory[op, level]] and tile < t.held[op, level, t.full]:
        tile = 2.0 * tile
    if op != O:
        return float(tile * t.bits[op])
    return float(tile * (t.bits[3] if partial(t, level, below if level else 0) else t.bits[2]))


@compiled
def allowed(view: Record, t: Record, op: int, b: int, whole: bool, sets: Bytes) -> int:
    """How many sets a memory may keep of one operand as far as that operand alone tells, written to `sets`."""
    full = t.full
    if whole or t.bits[op] == 0:
        sets[0] = full
        return 1
    count, size = 0, view.room[view.memory[op, b - 1]]
    for mask in range(full + 1):
        fits = held_bits(view, t, op, b - 1, mask, full) <= size or held_bits(view, t, op, b - 1, mask, 0) <= size
        for f in range(t.number):
            other = t.before[f]
            fits &= other < 0 or mask >> other & 1 >= mask >> f & 1
        if fits:
            sets[count] = mask
            count += 1
    return count


@compiled
def nested(t: Record, cuts: Ints, k: int, chosen: Ints, sets: Bytes, size: int, into: Bytes) -> int:
    """How many sets of cut `k` nest with those `chosen` before it and are worth keeping; they are written to `into`.

    Worth keeping in a memory of the whole array is everything, no more than the cut below keeps, or a set with a factor
    that reuses on top.
    """
    op, own, full, count = cuts[k, 0], cuts[k, 2] == OWN, t.full, 0
    lowest, highest, beneath, stale = 0, full, 0, ~t.fresh[op]
    for j in range(k):
        if cuts[j, 0] == op:
            if cuts[j, 1] < cuts[k, 1]:
                lowest |= chosen[j]
            else:
                highest &= chosen[j]
            if cuts[j, 1] == cuts[k, 1] - 1:
                beneath = chosen[j]
    for i in range(size):
        new = int(sets[i])
        if lowest & ~new or new & ~highest:
            continue
        below, nests = 0, True
        for j in range(k):
            both = chosen[j] & new
            if both == chosen[j]:
                below = max(below, both) if both != new else below
            elif both != new:
                nests = False
                break
        if nests and (own or new in (beneath, full) or new & ~below & stale):
            into[count] = new
            count += 1
    return count


@compiled
def checks(view: Record, cuts: Ints, count: int, whole: Flags, known: Ints) -> None:
    """Memories of which all is known as soon as some cuts are chosen, and not before: a bit mask for every number.

    Those that hold everything are left out.
    """
    for chosen in range(count + 1):
        known[chosen] = 0
    for memory in range(view.memories):
        needed = 0
        for k in range(count):
            level = view.level[memory, cuts[k, 0]]
            if level >= 0 and (cuts[k, 1] == level or cuts[k, 1] == level + 1):
                needed = k + 1
        if not whole[memory]:
            known[needed] |= 1 << memory


@compiled
def fits(view: Record, t: Record, masks: Ints, known: int) -> bool:
    """Whether none of some memories, given as a bit mask, overflows."""
    memory = 0
    while known:
        if known & 1:
            total = 0.0
            for op in (O, W, I):
                level = view.level[memory, op]
                if level >= 0:
                    total += held_bits(view, t, op, level, masks[op, level + 1], masks[op, level])
            if total > view.room[memory]:
                return False
        known >>= 1
        memory += 1
    return True


@compiled
def bound(
    view: Record, t: Record, masks: Ints, cuts: Ints, chosen: int, count: int, loads: Record, limit: float
) -> float:
    """Cycles that no order of a chain undercuts, of whose cuts some are `chosen`; only looked into up to a limit.

    A port that must move more than the computation has cycles for stalls for the rest, and a duty that needs longer
    than its period stalls each time. What is loaded once takes at least as long as one innermost tile of it, and what
    a port has no idle cycles for is waited for. The array's own registers reuse nothing beyond the smallest cut that
    is not all reuse.
    """
    late, traffic, work = 0.0, 0.0, np.ceil(t.total * view.passes)
    inputs, weights = reused(t, I, masks, cuts, chosen), reused(t, W, masks, cuts, chosen)
    for op in range(3):
        loads.inner[op] = _innermost(view, t, op, masks, cuts, chosen, count)
    for gate in range(view.gates - 1, -1, -1):
        lacks, taken, rate, width = 0.0, 0.0, 0.0, view.gate_bits[gate]
        loads.taken[gate] = 0.0
        for u in range(view.gate_uses[gate, 0], view.gate_uses[gate, 1]):
            op, b, upper, sums = view.uses[u, 0], view.uses[u, 1], view.uses[u, 2], view.uses[u, 3]
            mask = masks[op, b] if b else inputs if op == I else weights if op == W else 0
            cycles, loads.once[u] = transfer(view, t, gate, u, mask, loads), 0.0
            lacks += loads.duty[u, mask, 1]
            taken += loads.duty[u, mask, 2]
            rate += loads.duty[u, mask, 3]
            if sums or not b:
                continue
            if t.times[mask] == 1.0:
                least = loads.inner[op]
                if not chosen <= view.place[op, b] < count:
                    bits = t.upper[op, b, mask] if upper else t.lower[op, b, mask]
                    loads.once[u], loads.later[u] = cycles, np.ceil(max(bits - least, 0.0) / width)
                    loads.taken[gate] += cycles
                cycles = min(cycles, np.ceil(least / width))
            loads.waits[op, b, upper] = cycles
        loads.idle[gate] = max(0.0, (width - rate) / width)
        late, traffic = max(late, lacks), max(traffic, taken)
    stall = max(traffic - work, late)
    onload, offload = loading(view, loads)
    loads.least = onload + offload
    least = t.total * view.passes + stall + loads.least + t.drain
    if least > limit:
        return float(least)
    for gate in range(view.gates):
        if loads.taken[gate] > 0.0 and least + loads.taken[gate] > limit:
            waits = _waited(view, gate, work, stall, loads)
            least = max(least, t.total * view.passes + stall + waits + t.drain)
    return float(least)


@compiled
def _waited(view: Record, gate: int, work: float, stall: float, loads: Record) -> float:
    """The least cycles of loading and unloading, by what one port must move once.

    Loading takes at least all inputs, all weights, and all of both that come one after another; of the boundaries that
    the port serves counts what it moves, of the others what `bound` knows.
    """
    i, w, sums, most = loads.ways[I], loads.ways[W], loads.sums, 0.0
    for group in range(4):
        sums[group, 0] = sums[group, 1] = sums[group, 2] = 0.0
    for u in range(view.gate_uses[gate, 0], view.gate_uses[gate, 1]):
        if loads.once[u] > 0.0:
            op, b = view.uses[u, 0], view.uses[u, 1]
            known = max(loads.waits[op, b, 0], loads.waits[op, b, 1])
            for group in (op, JOINT):
                joint = op != O and view.shared[op, b, 0] and view.shared[op, b, 1]
                if joint if group == JOINT else op == O or view.counts[op, b]:
                    sums[group, 0] += loads.once[u]
                    sums[group, 1] += loads.later[u]
                    sums[group, 2] += known
    for group in (I, W, JOINT):
        whole = i[0] + i[1] + i[2] if group == I else w[0] + w[1] + w[2] if group == W else i[0] + w[0]
        rest = loads.offload + whole - sums[O, 2] - sums[group, 2]
        later = sums[O, 1] + sums[group, 1]
        idle, _ = idle_cycles(later, loads.idle[gate], work, stall)
        hidden = later if later <= idle * ENOUGH else idle
        most = max(most, rest + sums[O, 0] + sums[group, 0] - hidden)
    return most


@compiled
def idle_cycles(later: float, share: float, work: float, stall: float) -> tuple[float, float]:
    """Cycles in which a port may move what moves once, and how many of them are taken from a stall.

    It has a share of the computation's time to itself, and takes of a stall what `later` cycles still lack.
    """
    taken = min(stall, max(later / share - work, 0.0)) if later > 0.0 else 0.0
    return share * (work + taken), taken


@compiled
def forget_duties(view: Record, t: Record, loads: Record) -> None:
    """Start afresh with another row."""
    for u in range(view.gate_uses[view.gates - 1, 1]):
        for mask in range(t.full + 1):
            loads.duty[u, mask, 0] = -1.0


@compiled
def transfer(view: Record, t: Record, gate: int, u: int, mask: int, loads: Record) -> float:
    """Cycles of one transfer of a duty; notes all that `LOADS` knows of it."""
    if loads.duty[u, mask, 0] < 0.0:
        op, b, upper, sums = view.uses[u, 0], view.uses[u, 1], view.uses[u, 2], view.uses[u, 3]
        bits, times = t.upper[op, b, mask] if upper else t.lower[op, b, mask], t.times[mask]
        cycles, lacks, taken, rate = np.ceil(bits / view.gate_bits[gate]), 0.0, 0.0, 0.0
        if not sums or partial(t, b, mask):
            lacks = max(cycles - np.ceil(t.cycles[mask] * view.passes), 0.0) * (times - 1.0)
            taken = cycles * (times - 1.0)
        if not sums and times != 1.0:
            raw = t.lower[op, b, mask] / t.cycles[mask]
            rate = np.ceil((np.floor(raw * t.feed[op, b]) if upper else np.floor(raw)) / view.passes)
        loads.duty[u, mask, 0], loads.duty[u, mask, 1] = cycles, lacks
        loads.duty[u, mask, 2], loads.duty[u, mask, 3] = taken, rate
    return float(loads.duty[u, mask, 0])


@compiled
def reused(t: Record, op: int, masks: Ints, cuts: Ints, chosen: int) -> int:
    """Factors that may come innermost without needing another input or weight, of a chain with some cuts `chosen`."""
    within = t.full
    for k in range(chosen):
        cut = masks[cuts[k, 0], cuts[k, 1]]
        if cut & ~t.reuse[op] and cut & within == cut:
            within = cut
    return int(within & t.reuse[op])


@compiled
def loading(view: Record, loads: Record) -> tuple[float, float]:
    """Cycles before the first operation and after the last."""
    for op in (I, W):
        shared, half, separate = 0.0, 0.0, 0.0
        for b in range(1, view.count[op]):
            longest = max(loads.waits[op, b, 0], loads.waits[op, b, 1])
            if view.shared[op, b, 0] and view.shared[op, b, 1]:
                shared += longest
            elif view.shared[op, b, 0] or view.shared[op, b, 1]:
                half = longest
            else:
                separate += longest
        loads.ways[op, 0], loads.ways[op, 1], loads.ways[op, 2] = shared, half, separate
    i, w = loads.ways[I], loads.ways[W]
    inputs = i[0] + max(w[0] + w[1] + w[2], i[1] + i[2])
    weights = w[0] + max(i[0] + i[1] + i[2], w[1] + w[2])
    offload = 0.0
    for b in range(1, view.count[O]):
        offload += max(loads.waits[O, b, 0], loads.waits[O, b, 1])
    loads.offload = offload
    return min(inputs, weights), offload


@compiled
def _innermost(view: Record, t: Record, op: int, masks: Ints, cuts: Ints, chosen: int, count: int) -> float:
    """Bits of an operand's innermost tile; where a cut of its is open the least that this, or what is moved, may be."""
    known, below = True, masks[op, 1]
    for k in range(chosen, count):
        if cuts[k, 0] == op:
            known, below = False, 0 if cuts[k, 1] == 1 else below
    if not known:
        moved = t.lower[op, 1, below] / precision(t, op, 1, below) if t.bits[op] else 0.0
        return float(min(t.tile[op, 0, below], moved) * (min(t.bits[2], t.bits[3]) if op == O else t.bits[op]))
    return tile_bits(view, t, op, 0, masks[op, 1])


@compiled
def tile_bits(view: Record, t: Record, op: int, level: int, above: int) -> float:
    """Bits of a level's tile, `above` being the factors below the boundary over it."""
    width = t.bits[op]
    if op == O and level + 1 < view.count[O] and partial(t, level + 1, above):
        width = t.bits[3]
    return float(t.tile[op, level, above] * width)
