"""Placing one layer after another on a chip in time: the rules that every mapping is priced by. Compiled.

A state (`cost.schedule_tables`) is a partial schedule: layers are placed in program order, each on one core; nothing
placed earlier moves. Rules:
- a core runs one layer at a time; a layer starts when its inputs are where it reads them;
- an output stays in the core's activation memory when asked to and when it fits, else it goes to the outer memory; a
  tensor that is in the way is spilled (written out, and read from there later);
- a tensor in another core's memory travels over links, one tensor per link at a time, beside computation;
- layers that run at the same time share the outer memory: each needs its own bytes' worth of cycles there;
- after an exit the backbone waits for the decision, or runs ahead (speculates) and what had started is paid for.
It searches nothing; prices of layers come in as tables (`cost.problem`).
"""

from math import inf

from offramp.cost.arrays import Floats, Ints, Record, Records
from offramp.cost.engine_compile import compiled
from offramp.cost.network import PICOJOULES_PER_JOULE
from offramp.cost.schedule_tables import (
    AHEAD,
    ALIVE,
    BYTES,
    ENERGY,
    EXIT,
    FREE,
    FULL,
    HIGH,
    LAST,
    LATEST,
    LOW,
    MEMORY,
    OUTER,
    OUTSIDE,
    PASSED,
    PENDING,
    READY,
    RELEASE,
    REST,
    SIZE,
    SPENT,
    STREAM,
    STREAMED,
    TAKE,
    TAKEN,
    TENSOR,
    TIME,
    UNTIL,
    USES,
    WAITING,
    WASTED,
    WHERE,
)


@compiled
def empty_state(p: Record, s: Floats) -> None:
    """Nothing placed yet."""
    for i in range(p.pending):
        s[i] = 0.0
    s[LAST] = -1


@compiled
def copy_state(p: Record, s: Floats, new: Floats) -> None:
    """A copy to place one more layer in; only what is in use is copied."""
    for i in range(p.pending + PENDING * int(s[WAITING])):
        new[i] = s[i]
    for i in range(p.outer, p.outer + TAKE * int(s[TAKEN])):
        new[i] = s[i]


@compiled
def rest_of(p: Record, s: Floats, tensor: int) -> int:
    """Where in a state a live tensor is described."""
    at = int(p.rests)
    while s[at + TENSOR] != tensor:
        at += REST
    return at


@compiled
def reserve(p: Record, s: Floats, start: float, need: float) -> float:
    """Take the first `need` free cycles of the outer memory from `start` on; the finish."""
    at, now = int(p.outer), start
    while at < p.outer + TAKE * int(s[TAKEN]):
        low, high = s[at + LOW], s[at + HIGH]
        if high > now:
            if low > now:
                part = min(low - now, need)
                _book(p, s, at, now, now + part)
                need -= part
                if need <= 0:
                    return float(now + part)
                at += TAKE
            now = high
        at += TAKE
    _book(p, s, at, now, now + need)
    return now + need


@compiled
def _book(p: Record, s: Floats, at: int, low: float, high: float) -> None:
    end = p.outer + TAKE * int(s[TAKEN])
    if end == p.width:
        s[FULL] = 1
        return
    for i in range(end - 1, at - 1, -1):
        s[i + TAKE] = s[i]
    s[at + LOW], s[at + HIGH] = low, high
    s[TAKEN] += 1


@compiled
def _leave_room(p: Record, s: Floats, memory: float, until: float, size: float) -> None:
    """Note that some bytes of an activation memory are in use until some time."""
    at = p.pending + PENDING * int(s[WAITING])
    if at == p.outer:
        s[FULL] = 1
        return
    s[at + WHERE], s[at + UNTIL], s[at + BYTES] = memory, until, size
    s[WAITING] += 1


@compiled
def place(
    p: Record, layers: Records, ways: Records, cores: Records, routes: Records, lists: Ints, before: Floats, s: Floats,
    step: Record, moves: Records, layer: int, core: int, keep: int,
) -> bool:  # fmt: skip
    """Place `layer` on `core` after everything in `before`; `keep` says where its output should go.

    An output that does not fit goes to the outer memory. The new state is written to `s`, what was done to `step`
    (which says where its moves are to begin) and `moves`. False when the core's prices are infinite for every way that
    is possible. Where a list in `s` has no room left the new state is of no use and says so (FULL).
    """
    own, here = layers[layer], cores[core]
    fed = p.stripes and is_fed(p, layers, before, layer)
    striped = fed or keep == STREAM
    way = ways[own.row if striped else layer, core]
    read, made = own.read_bytes, own.output_bytes
    if striped:
        read = own.rows_in if fed else own.input_bytes
        made = own.rows_out if keep == STREAM else made
    variant, least = _variant(p, own, way, here, routes, before, core, keep, fed, read, made)
    if variant < 0:
        return False
    copy_state(p, before, s)
    on_chip, kept, memory = variant >= 2, variant % 2 == 1, here.memory
    step.layer, step.core, step.variant, step.occupied, step.count = layer, core, variant, 0.0, 0
    need = max(least, min(way.working[variant], here.size))
    if memory >= 0:
        step.occupied = _make_room(p, own, here, routes, s, need, on_chip, step, moves)
    start = max(_fetch(p, layers, routes, lists, s, layer, core, memory, on_chip, step, moves), s[RELEASE])
    for i in range(here.count):
        start = max(start, s[FREE + here.members[i]])
    if memory >= 0 and s[WAITING] > 0:
        start = _wait_for_room(p, s, here, step.occupied, start)
    end = _run(p, own, way, s, start, variant, own.times if striped else 1, read)
    if need > least and memory >= 0:
        _leave_room(p, s, memory, end, need - least)
    moved = 0.0
    for i in range(step.first, step.first + step.count):
        moved += moves[i].energy
    step.start, step.end, step.energy = start, end, way.energy[variant] + moved
    step.keep, step.striped = keep if kept else OUTER, striped and own.times > 1
    _commit(p, own, s, step, memory if kept else -1, made)
    for i in range(here.count):
        s[FREE + here.members[i]] = end
    return True


@compiled
def is_fed(p: Record, layers: Records, s: Floats, layer: int) -> bool:
    """Whether an input of a layer comes row by row."""
    own, fed = layers[layer], False
    for i in range(own.count):
        if own.inputs[i] >= 0:
            fed |= s[rest_of(p, s, own.inputs[i]) + STREAMED] > 0
    return fed


@compiled
def _variant(
    p: Record, own: Record, way: Record, here: Record, routes: Records, s: Floats, core: int, keep: int, fed: bool,
    read: float, made: float,
) -> tuple[int, float]:  # fmt: skip
    """The first way to run a layer that is possible (-1: none), the most on chip first, and its bytes there."""
    reachable = here.memory >= 0 and _reachable(p, own, routes, s, core, here.memory)
    for on_chip in (1, 0):
        if (on_chip and not reachable) or (not on_chip and fed and reachable):
            continue
        for kept in (1, 0):
            if (kept and (keep == OUTER or here.memory < 0)) or (not kept and keep == STREAM):
                continue
            least = read * on_chip + made * kept
            if way.cycles[2 * on_chip + kept] < inf and least <= here.size:
                return 2 * on_chip + kept, least
    return -1, 0.0


@compiled
def can_stream(layers: Records, ways: Records, cores: Records, tries: Records, layer: int, core: int) -> bool:
    """True when the layer may hand its output row by row to the next one on this core, whatever that does then."""
    own, here = layers[layer], cores[core]
    if own.row < 0 or own.next < 0 or here.memory < 0 or here.count > 1:
        return False
    after = layers[own.next]
    if max(own.rows_out, after.rows_in) > here.size or not tries[own.next, core]:
        return False
    return bool(ways[own.row, core].cycles[1] < inf and ways[after.row, core].cycles[2] < inf)


@compiled
def _reachable(p: Record, own: Record, routes: Records, s: Floats, core: int, memory: int) -> bool:
    """True when every input is in this core's memory or in one with a route to it."""
    for i in range(own.count):
        if own.inputs[i] < 0:
            return False
        rests = int(s[rest_of(p, s, own.inputs[i]) + MEMORY])
        if rests != memory and (rests < 0 or not routes[rests, core].known):
            return False
    return True


@compiled
def _make_room(
    p: Record, own: Record, here: Record, routes: Records, s: Floats, need: float, on_chip: bool, step: Record,
    moves: Records,
) -> float:  # fmt: skip
    """Bytes in use in an activation memory during the layer, which needs `need` itself; spills the largest others."""
    held = 0.0
    for at in range(p.rests, p.rests + REST * int(s[ALIVE]), REST):
        if s[at + MEMORY] == here.memory and not (on_chip and _reads(own, s[at + TENSOR])):
            held += s[at + SIZE]
    while held + need > here.size:
        victim = -1
        for at in range(p.rests, p.rests + REST * int(s[ALIVE]), REST):
            if s[at + MEMORY] != here.memory or (on_chip and _reads(own, s[at + TENSOR])):
                continue
            if victim < 0 or s[at + SIZE] >= s[victim + SIZE]:  # of equals the one made last
                victim = at
        if victim < 0:
            break
        _spill(p, routes, s, victim, step, moves)
        held -= s[victim + SIZE]
    return held + need


@compiled
def _reads(own: Record, tensor: float) -> bool:
    reads = False
    for i in range(own.count):
        reads |= own.inputs[i] == tensor
    return reads


@compiled
def _move(
    step: Record, moves: Records, tensor: int, memory: int, core: int, start: float, end: float, pj: float
) -> None:
    one = moves[step.first + step.count]
    one.tensor, one.memory, one.core, one.start, one.end, one.energy = tensor, memory, core, start, end, pj
    step.count += 1


@compiled
def _spill(p: Record, routes: Records, s: Floats, at: int, step: Record, moves: Records) -> None:
    """Move a tensor from its activation memory to the outer memory; the energy is billed at once."""
    size, memory, finish = s[at + SIZE], int(s[at + MEMORY]), s[at + OUTSIDE]
    if finish == inf:
        start = max(s[at + READY], s[RELEASE])
        finish = reserve(p, s, start, size * p.outer_cycles)
        energy = size * (p.outer_write + routes[memory, 0].read_pj)
        _move(step, moves, int(s[at + TENSOR]), memory, -1, start, finish, energy)
    _leave_room(p, s, memory, finish, size)
    s[at + MEMORY], s[at + OUTSIDE] = -1, finish


@compiled
def _fetch(
    p: Record, layers: Records, routes: Records, lists: Ints, s: Floats, layer: int, core: int, memory: int,
    on_chip: bool, step: Record, moves: Records,
) -> float:  # fmt: skip
    """Bring the inputs to where the layer reads them; the time at which all are there."""
    own, ready = layers[layer], 0.0
    for i in range(own.count):
        if own.inputs[i] < 0:
            continue
        at = rest_of(p, s, own.inputs[i])
        if not on_chip:
            if s[at + OUTSIDE] == inf:
                _spill(p, routes, s, at, step, moves)
            ready = max(ready, s[at + OUTSIDE])
        elif s[at + MEMORY] == memory:
            ready = max(ready, s[at + READY])
        else:
            size = layers[own.inputs[i]].output_bytes
            ready = max(ready, _travel(p, routes, lists, s, at, core, size, step, moves))
    return ready


@compiled
def _travel(
    p: Record, routes: Records, lists: Ints, s: Floats, at: int, core: int, size: float, step: Record, moves: Records
) -> float:
    """Send a tensor over links to the core that reads it; the arrival."""
    memory, start = int(s[at + MEMORY]), max(s[at + READY], s[RELEASE])
    route = routes[memory, core]
    for i in range(route.hops, route.hops + route.count):
        start = max(start, s[p.links + lists[i]])
    end = start + size * route.cycles_per_byte
    for i in range(route.hops, route.hops + route.count):
        s[p.links + lists[i]] = end
    _move(step, moves, int(s[at + TENSOR]), memory, core, start, end, size * route.pj_per_byte)
    return float(end)


@compiled
def _wait_for_room(p: Record, s: Floats, here: Record, occupied: float, start: float) -> float:
    """The first time from `start` on at which enough of what was freed has really gone."""
    _sort_pending(p, s)
    begin, end = p.pending, p.pending + PENDING * int(s[WAITING])
    leaving = 0.0
    for at in range(begin, end, PENDING):
        if s[at + WHERE] == here.memory and s[at + UNTIL] > start:
            leaving += s[at + BYTES]
    total, first = occupied + leaving, start
    for at in range(begin, end, PENDING):
        if s[at + WHERE] == here.memory and s[at + UNTIL] > first:
            if total <= here.size:
                break
            start = s[at + UNTIL]
            total -= s[at + BYTES]
    return start


@compiled
def _sort_pending(p: Record, s: Floats) -> None:
    """Put what waits to be freed in the order of time, then of size."""
    for end in range(p.pending + PENDING, p.pending + PENDING * int(s[WAITING]), PENDING):
        where, until, size = s[end + WHERE], s[end + UNTIL], s[end + BYTES]
        at = end
        while at > p.pending:
            other = at - PENDING
            if s[other + UNTIL] < until or (s[other + UNTIL] == until and s[other + BYTES] <= size):
                break
            for i in range(PENDING):
                s[at + i] = s[other + i]
            at = other
        s[at + WHERE], s[at + UNTIL], s[at + BYTES] = where, until, size


@compiled
def _run(p: Record, own: Record, way: Record, s: Floats, start: float, variant: int, times: int, read: float) -> float:
    """The end of a layer that shares the outer memory with whatever runs beside it."""
    outer_bytes = own.weight_bytes * times
    if variant < 2:
        outer_bytes += read
    if variant % 2 == 0:
        outer_bytes += own.output_bytes
    cycles = way.cycles[variant]
    finish = reserve(p, s, start, min(outer_bytes * p.outer_cycles, cycles))
    end: float = max(start + cycles, finish)
    return end


@compiled
def _commit(p: Record, own: Record, s: Floats, step: Record, memory: int, size: float) -> None:
    """Write a placed layer into the state: clocks, energy, waste of open decisions, and who still needs what."""
    s[LATEST] = max(s[LATEST], step.end)
    s[ENERGY] += step.energy
    for at in range(p.left, p.left + EXIT * int(s[PASSED]), EXIT):
        if step.start < s[at + TIME]:
            s[at + WASTED] += step.energy
    for i in range(own.count):
        if own.inputs[i] >= 0:
            _use(p, s, rest_of(p, s, own.inputs[i]), step.end)
    if own.uses:
        at = p.rests + REST * int(s[ALIVE])
        s[at + TENSOR], s[at + MEMORY], s[at + READY] = step.layer, memory, step.end
        s[at + OUTSIDE] = step.end if memory < 0 else inf
        s[at + USES], s[at + SIZE], s[at + STREAMED] = own.uses, size, step.keep == STREAM
        s[ALIVE] += 1
    if step.layer >= p.last_reader and s[ALIVE] > 0:
        bound = inf  # nothing to come starts earlier than where what it reads, directly or not, was made
        for at in range(p.rests, p.rests + REST * int(s[ALIVE]), REST):
            bound = min(bound, s[at + READY])
        _forget(p, s, bound)


@compiled
def _use(p: Record, s: Floats, at: int, end: float) -> None:
    """A reader of a tensor is done; after the last one its place is free."""
    if s[at + USES] > 1:
        s[at + USES] -= 1
        return
    if s[at + MEMORY] >= 0:
        _leave_room(p, s, s[at + MEMORY], end, s[at + SIZE])
    for i in range(at, p.rests + REST * (int(s[ALIVE]) - 1)):
        s[i] = s[i + REST]
    s[ALIVE] -= 1


@compiled
def _forget(p: Record, s: Floats, bound: float) -> None:
    """Drop reservations that end before anything to come can start."""
    to = p.pending
    for at in range(p.pending, p.pending + PENDING * int(s[WAITING]), PENDING):
        if s[at + UNTIL] > bound:
            s[to + WHERE], s[to + UNTIL], s[to + BYTES] = s[at + WHERE], s[at + UNTIL], s[at + BYTES]
            to += PENDING
    s[WAITING] = (to - p.pending) // PENDING
    to = p.outer
    for at in range(p.outer, p.outer + TAKE * int(s[TAKEN]), TAKE):
        if s[at + HIGH] > bound:
            s[to + LOW], s[to + HIGH] = s[at + LOW], s[at + HIGH]
            to += TAKE
    s[TAKEN] = (to - p.outer) // TAKE


@compiled
def barrier(p: Record, s: Floats, time: float) -> None:
    """Nothing that comes later starts before `time`."""
    s[RELEASE] = max(s[RELEASE], time)
    _forget(p, s, s[RELEASE])


@compiled
def leave(p: Record, s: Floats, decided: float, speculate: bool) -> None:
    """Close a stage whose exit decides at `decided`: note its price; the backbone waits or runs ahead."""
    at, time = p.left + EXIT * int(s[PASSED]), max(decided, 0.0)
    if s[PASSED] > 0:
        time = max(time, s[at - EXIT + TIME])
    s[at + TIME], s[at + SPENT], s[at + WASTED], s[at + AHEAD] = time, s[ENERGY], 0.0, speculate
    s[PASSED] += 1
    if not speculate:
        barrier(p, s, time)


@compiled
def accumulated(p: Record, stages: Records, s: Floats) -> tuple[float, float, float]:
    """Expected (cycles, picojoules, E*T) of a partial schedule, as if the rest of the network were free."""
    passed = int(s[PASSED])
    left = stages[passed].reach if passed < p.exits else 0.0
    time, energy = left * s[LATEST], left * s[ENERGY]
    both = left * s[LATEST] * s[ENERGY]
    for i in range(passed):
        at = p.left + EXIT * i
        total = s[at + SPENT] + s[at + WASTED]
        time += stages[i].rate * s[at + TIME]
        energy += stages[i].rate * total
        both += stages[i].rate * s[at + TIME] * total
    return time, energy, both / PICOJOULES_PER_JOULE
