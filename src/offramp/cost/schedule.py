"""Placing one layer after another on a chip in time: the rules that every mapping is priced by.

A `State` is a partial schedule: layers are placed in program order, each on one core; nothing placed earlier moves.
Rules:
- a core runs one layer at a time; a layer starts when its inputs are where it reads them;
- an output stays in the core's activation memory when asked to and when it fits, else it goes to the outer memory; a
  tensor that is in the way is spilled (written out, and read from there later);
- a tensor in another core's memory travels over links, one tensor per link at a time, beside computation;
- layers that run at the same time share the outer memory: each needs its own bytes' worth of cycles there;
- after an exit the backbone waits for the decision, or runs ahead (speculates) and what had started is paid for.
It searches nothing; prices of layers come in as tables (`cost.problem`).
"""

from enum import IntEnum
from math import inf
from typing import NamedTuple

from offramp.cost.network import PICOJOULES_PER_JOULE
from offramp.cost.problem import Problem, Way

Busy = tuple[tuple[float, float], ...]
"""Reserved time of a shared channel: disjoint intervals in ascending order."""


class Keep(IntEnum):
    """Where an output goes: the outer memory, the core's activation memory, or row by row to the next layer."""

    OUTER = 0
    STAY = 1
    STREAM = 2


class Rest(NamedTuple):
    """Where a live tensor rests: its activation memory (-1: none), since when there and in the outer memory, its bytes.

    `streamed` tensors are there a few rows at a time: the next layer on the same core reads them as they come.
    """

    memory: int
    ready: float
    outer_ready: float
    uses: int
    size: float
    streamed: bool


class Move(NamedTuple):
    """A tensor on its way from an activation memory to the core that reads it next, or out to make room (-1)."""

    tensor: int
    memory: int
    core: int
    start: float
    end: float
    energy: float


class Step(NamedTuple):
    """One placed layer; `occupied` are the bytes in use in its activation memory meanwhile, `keep` as it came out."""

    layer: int
    core: int
    variant: int
    start: float
    end: float
    energy: float
    occupied: float
    keep: Keep
    striped: bool
    moves: tuple[Move, ...]


class Trail(NamedTuple):
    """Steps as a linked list, last first, so that states share their past."""

    step: Step
    before: "Trail | None"


class Leave(NamedTuple):
    """A sample that leaves at an exit: when, what its layers cost, and what speculation adds."""

    time: float
    energy: float
    wasted: float
    speculates: bool


class State:
    """A partial schedule. Children share everything that they do not change."""

    __slots__ = ("core_free", "energy", "exits", "latest", "link_busy", "outer", "pending", "release", "rest", "steps")

    core_free: list[float]
    release: float
    rest: dict[int, Rest]
    pending: tuple[tuple[int, float, float], ...]
    outer: Busy
    link_busy: dict[int, float]
    energy: float
    latest: float
    exits: tuple[Leave, ...]
    steps: Trail | None

    def child(self) -> "State":
        """A copy to place one more layer in."""
        new = State()
        new.core_free = self.core_free.copy()
        new.release = self.release
        new.rest = self.rest.copy()
        new.pending = self.pending
        new.outer = self.outer
        new.link_busy = self.link_busy
        new.energy = self.energy
        new.latest = self.latest
        new.exits = self.exits
        new.steps = self.steps
        return new

    def path(self) -> list[Step]:
        """The placed layers in program order."""
        steps = []
        node = self.steps
        while node is not None:
            steps.append(node.step)
            node = node.before
        return steps[::-1]


def empty_state(problem: Problem) -> State:
    """Nothing placed yet."""
    state = State()
    state.core_free = [0.0] * len(problem.memory_of)
    state.release = state.energy = state.latest = 0.0
    state.rest = {}
    state.pending = ()
    state.outer = ()
    state.link_busy = {}
    state.exits = ()
    state.steps = None
    return state


def reserve(busy: Busy, start: float, need: float) -> tuple[float, Busy]:
    """Take the first `need` free cycles of a shared channel from `start` on; the finish and the new reservations."""
    if not busy or busy[-1][1] <= start:
        return start + need, (*busy, (start, start + need))
    taken: list[tuple[float, float]] = []
    now = start
    for low, high in busy:
        if high <= now:
            continue
        if low > now:
            part = min(low - now, need)
            taken.append((now, now + part))
            need -= part
            if need <= 0:
                return now + part, tuple(sorted((*busy, *taken)))
        now = high
    taken.append((now, now + need))
    return now + need, tuple(sorted((*busy, *taken)))


def place(p: Problem, before: State, layer: int, core: int, keep: Keep) -> State | None:
    """Place `layer` on `core` after everything in `before`; `keep` says where its output should go.

    An output that does not fit goes to the outer memory.

    Returns:
        The new state, or None when the core's prices are infinite for every way that is possible.
    """
    memory = p.memory_of[core]
    size = p.memory_bytes[memory] if memory >= 0 else 0
    fed = bool(p.striped) and any(t >= 0 and before.rest[t].streamed for t in p.inputs[layer])
    way = _way(p, layer, core, fed, keep)
    inputs = (1, 0) if memory >= 0 and _reachable(p, before, layer, core, memory) else (0,)
    outputs = (1,) if keep is Keep.STREAM else (1, 0) if keep and memory >= 0 else (0,)
    for on_chip, kept in [(i, o) for i in inputs[: 1 if fed else 2] for o in outputs]:
        own = way.input_bytes * on_chip + way.output_bytes * kept
        if way.cycles[2 * on_chip + kept] < inf and own <= size:
            break
    else:
        return None
    s = before.child()
    moves: list[Move] = []
    variant = 2 * on_chip + kept
    need = max(own, min(way.working[variant], size))
    occupied = _make_room(p, s, layer, memory, need, on_chip, moves) if memory >= 0 else 0.0
    free = max([s.core_free[member] for member in p.members[core]])
    start = max(_fetch(p, s, layer, core, memory, on_chip, moves), free, s.release)
    if memory >= 0 and s.pending:
        start = _wait_for_room(p, s, memory, occupied, start)
    end = _run(p, s, layer, way, start, variant)
    if need > own and memory >= 0:
        s.pending = (*s.pending, (memory, end, need - own))
    energy = way.energy[variant] + sum([m.energy for m in moves])
    went = keep if kept else Keep.OUTER
    _commit(p, s, layer, memory if kept else -1, went, way.output_bytes, start, end, energy)
    for member in p.members[core]:
        s.core_free[member] = end
    step = Step(layer, core, variant, start, end, energy, occupied, went, way.times > 1, tuple(moves))
    s.steps = Trail(step, s.steps)
    return s


def _way(p: Problem, layer: int, core: int, fed: bool, keep: Keep) -> Way:
    if not fed and keep is not Keep.STREAM:
        return p.ways[layer][core]
    own = p.striped[layer]
    read = own.stripes.input_bytes if fed else p.input_bytes[layer]
    made = own.stripes.output_bytes if keep is Keep.STREAM else p.output_bytes[layer]
    return Way(own.cycles[core], own.energy[core], own.working[core], read, made, own.stripes.count)


def can_stream(p: Problem, layer: int, core: int) -> bool:
    """True when the layer may hand its output row by row to the next one on this core, whatever that does then."""
    own = p.striped.get(layer)
    if own is None or own.stripes.next < 0 or p.memory_of[core] < 0 or len(p.members[core]) > 1:
        return False
    after = p.striped[own.stripes.next]
    fits = max(own.stripes.output_bytes, after.stripes.input_bytes) <= p.memory_bytes[p.memory_of[core]]
    return fits and core in p.cores_of[own.stripes.next] and own.cycles[core][1] < inf and after.cycles[core][2] < inf


def _reachable(p: Problem, s: State, layer: int, core: int, memory: int) -> bool:
    """True when every input is in this core's memory or in one with a route to it."""
    for source in p.inputs[layer]:
        if source < 0:
            return False
        rest = s.rest[source]
        if rest.memory != memory and (rest.memory < 0 or p.routes[rest.memory][core] is None):
            return False
    return True


def _make_room(p: Problem, s: State, layer: int, memory: int, need: float, on_chip: int, moves: list[Move]) -> float:
    """Bytes in use in an activation memory during the layer, which needs `need` itself; spills the largest others."""
    own = p.inputs[layer] if on_chip else ()
    others = [(r.size, t) for t, r in s.rest.items() if r.memory == memory and t not in own]
    held = sum(size for size, _ in others)
    others.sort()
    while others and held + need > p.memory_bytes[memory]:
        size, victim = others.pop()
        _spill(p, s, victim, moves)
        held -= size
    return held + need


def _spill(p: Problem, s: State, tensor: int, moves: list[Move]) -> None:
    """Move a tensor from its activation memory to the outer memory; the energy is billed at once."""
    rest = s.rest[tensor]
    size = rest.size
    finish = rest.outer_ready
    if finish == inf:
        start = max(rest.ready, s.release)
        finish, s.outer = reserve(s.outer, start, size * p.outer_cycles)
        energy = size * (p.outer_write + p.memory_read[rest.memory])
        moves.append(Move(tensor, rest.memory, -1, start, finish, energy))
    s.pending = (*s.pending, (rest.memory, finish, size))
    s.rest[tensor] = rest._replace(memory=-1, outer_ready=finish)


def _fetch(p: Problem, s: State, layer: int, core: int, memory: int, on_chip: int, moves: list[Move]) -> float:
    """Bring the inputs to where the layer reads them; the time at which all are there."""
    ready = 0.0
    for source in p.inputs[layer]:
        if source < 0:
            continue
        rest = s.rest[source]
        if not on_chip:
            if rest.outer_ready == inf:
                _spill(p, s, source, moves)
            ready = max(ready, s.rest[source].outer_ready)
        elif rest.memory == memory:
            ready = max(ready, rest.ready)
        else:
            ready = max(ready, _travel(p, s, source, core, moves))
    return ready


def _travel(p: Problem, s: State, source: int, core: int, moves: list[Move]) -> float:
    """Send a tensor over links to the core that reads it; the arrival."""
    rest = s.rest[source]
    route = p.routes[rest.memory][core]
    assert route is not None
    size = p.output_bytes[source]
    start = max(rest.ready, s.release, *(s.link_busy.get(i, 0.0) for i in route.links))
    end = start + size * route.cycles_per_byte
    s.link_busy = {**s.link_busy, **dict.fromkeys(route.links, end)}
    moves.append(Move(source, rest.memory, core, start, end, size * route.pj_per_byte))
    return end


def _wait_for_room(p: Problem, s: State, memory: int, occupied: float, start: float) -> float:
    """The first time from `start` on at which enough of what was freed has really gone."""
    leaving = sorted((end, size) for m, end, size in s.pending if m == memory and end > start)
    total = occupied + sum(size for _, size in leaving)
    for end, size in leaving:
        if total <= p.memory_bytes[memory]:
            break
        start = end
        total -= size
    return start


def _run(p: Problem, s: State, layer: int, way: Way, start: float, variant: int) -> float:
    """The end of a layer that shares the outer memory with whatever runs beside it."""
    outer_bytes = p.weight_bytes[layer] * way.times
    if variant < 2:
        outer_bytes += way.input_bytes
    if variant % 2 == 0:
        outer_bytes += p.output_bytes[layer]
    cycles = way.cycles[variant]
    finish, s.outer = reserve(s.outer, start, min(outer_bytes * p.outer_cycles, cycles))
    return max(start + cycles, finish)


def _commit(
    p: Problem, s: State, layer: int, memory: int, keep: Keep, size: float, start: float, end: float, energy: float
) -> None:
    """Write a placed layer into the state: clocks, energy, waste of open decisions, and who still needs what."""
    s.latest = max(s.latest, end)
    s.energy += energy
    if s.exits and start < s.exits[-1].time:
        s.exits = tuple(x._replace(wasted=x.wasted + energy) if start < x.time else x for x in s.exits)
    for source in p.inputs[layer]:
        if source < 0:
            continue
        rest = s.rest[source]
        if rest.uses > 1:
            s.rest[source] = rest._replace(uses=rest.uses - 1)
            continue
        del s.rest[source]
        if rest.memory >= 0:
            s.pending = (*s.pending, (rest.memory, end, rest.size))
    if p.uses[layer]:
        outer = end if memory < 0 else inf
        s.rest[layer] = Rest(memory, end, outer, p.uses[layer], size, keep is Keep.STREAM)
    _forget(p, s, layer)


def _forget(p: Problem, s: State, layer: int) -> None:
    """Drop reservations that end before anything to come can start (it reads what rests now, directly or not)."""
    if layer < p.last_input_reader or not s.rest:
        return
    bound = min([r.ready for r in s.rest.values()])  # nowhere earlier than where it was made
    if s.pending:
        s.pending = tuple([item for item in s.pending if item[1] > bound])
    if s.outer and s.outer[0][1] <= bound:
        s.outer = tuple([item for item in s.outer if item[1] > bound])


def barrier(s: State, time: float) -> None:
    """Nothing that comes later starts before `time`."""
    s.release = max(s.release, time)
    s.pending = tuple(item for item in s.pending if item[1] > s.release)
    s.outer = tuple(item for item in s.outer if item[1] > s.release)


def leave(s: State, decided: float, speculate: bool) -> State:
    """Close a stage whose exit decides at `decided`: note its price; the backbone waits or runs ahead."""
    new = s.child()
    time = max(decided, s.exits[-1].time if s.exits else 0.0)
    new.exits = (*s.exits, Leave(time, s.energy, 0.0, speculate))
    if not speculate:
        barrier(new, time)
    return new


def accumulated(p: Problem, s: State) -> tuple[float, float, float]:
    """Expected (cycles, picojoules, E*T) of a partial schedule, as if the rest of the network were free."""
    left = p.reach[len(s.exits)] if len(s.exits) < len(p.reach) else 0.0
    time, energy = left * s.latest, left * s.energy
    both = left * s.latest * s.energy
    for rate, x in zip(p.rates, s.exits, strict=False):
        total = x.energy + x.wasted
        time += rate * x.time
        energy += rate * total
        both += rate * x.time * total
    return time, energy, both / PICOJOULES_PER_JOULE
