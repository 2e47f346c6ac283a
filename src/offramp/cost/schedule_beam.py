"""Beam search over schedules in program order, compiled: what may be tried next, and which schedules are kept.

The rules of time and energy are in `cost.schedule`; which searches are made, and of what, is decided in `cost.mapper`.
"""

from math import inf, pow
from typing import Any

import numpy as np

from offramp.cost.arrays import Flags, Floats, Ints, Record, Records
from offramp.cost.engine_compile import compiled, digest, entry
from offramp.cost.schedule import (
    accumulated,
    barrier,
    can_stream,
    copy_state,
    empty_state,
    is_fed,
    leave,
    place,
    rest_of,
)
from offramp.cost.schedule_tables import (
    ALIVE,
    ENERGY,
    EXIT,
    FREE,
    FULL,
    LAST,
    LATEST,
    MEMORY,
    MOVE,
    OUTER,
    OUTSIDE,
    PASSED,
    READY,
    RELEASE,
    REST,
    SPENT,
    STAY,
    STEP,
    STREAM,
    TIME,
    WASTED,
)

LATENCY, ENERGY_FIRST, EDP, ET, HASTY, HASTIEST = range(6)
"""What a search makes small."""

SHORT = 12
"""Most layers of a network in which all that could help is tried."""
CROWDED = 0.25
"""An output that takes a larger share of its memory than this is also tried in the outer memory."""
FREELY = -1
"""No rule for where an output goes, or for what the backbone does after an exit."""
KEEPS = 3

ROOM = np.dtype((np.record, [
    ("goal", "i8"), ("width", "i8"), ("serial", "u1"), ("steps", "i8"), ("moves", "i8"), ("placed", "i8"),
    ("most", "i8"), ("layer", "i8"), ("full", "u1"),
]))  # fmt: skip
"""What is searched for, in a beam of which width, and whether layers run one after another; how many steps and moves
are noted so far, and how many layers were placed; how many children a state may have; the layer placed last;
whether rows of states were too short for it."""

FIGURES = 6
"""Of a complete schedule: expected cycles, picojoules and E*T, cycles and picojoules of the last exit, and the core
that runs all (-1: several do). What is noted of exits follows."""


@compiled
def score(goal: int, time: float, energy: float, both: float) -> tuple[float, float]:
    """What a search makes small, from expected cycles, picojoules and E*T; the second figure breaks ties."""
    if goal == LATENCY:
        return time, energy
    if goal == ENERGY_FIRST:
        return energy, time
    if goal == EDP:
        return time * energy, time
    if goal == ET:
        return both, time
    if goal == HASTY:
        return time * time * energy, time
    return pow(time, 4.0) * energy, time


@compiled
def _larger(records: Records, count: int) -> Records:
    """The same with room for `count` at least."""
    if count <= records.size:
        return records
    larger = np.empty(2 * count, dtype=records.dtype)
    for i in range(records.size):
        larger[i] = records[i]
    return larger


@compiled
def _travels_badly(
    p: Record, layers: Records, cores: Records, routes: Records, lists: Ints, may: Flags, layer: int, core: int
) -> bool:
    """True when a reader may run where no links lead, or where links are a worse way than the outer memory.

    In a long network it must be worse in time and in energy, since twice the schedules take twice the time.
    """
    own, memory = layers[layer], cores[core].memory
    energy = routes[memory, 0].read_pj + p.outer_write + p.outer_read
    for i in range(own.readers, own.readers + own.uses):
        for other in range(p.cores):
            if not may[lists[i], other] or cores[other].memory == memory or cores[other].memory < 0:
                continue
            route = routes[memory, other]
            slow, dear = route.cycles_per_byte > p.outer_cycles, route.pj_per_byte > energy
            if not route.known or (slow and dear) or ((slow or dear) and p.layers <= SHORT):
                return True
    return False


@compiled
def _must_move(p: Record, layers: Records, cores: Records, lists: Ints, tries: Flags, layer: int, core: int) -> bool:
    """True when some reader of the layer's output cannot run where the core's memory is."""
    own = layers[layer]
    for i in range(own.readers, own.readers + own.uses):
        near = False
        for other in range(p.cores):
            near |= tries[lists[i], other] and cores[other].memory == cores[core].memory
        if not near:
            return True
    return False


@compiled
def _keep_options(
    p: Record, layers: Records, ways: Records, cores: Records, routes: Records, lists: Ints, tries: Flags, may: Flags,
    wish: int, layer: int, core: int, options: Ints,
) -> int:  # fmt: skip
    """Where the output of a layer on a core may go, in the order of trying; how many places that are."""
    own, here = layers[layer], cores[core]
    options[0] = OUTER
    if not own.uses or here.memory < 0:
        return 1
    streams = can_stream(layers, ways, cores, tries, layer, core)
    if wish != FREELY and (wish != STREAM or streams):
        options[0] = wish
        return 1
    count, options[0] = 1, STAY
    if (
        own.output_bytes > CROWDED * here.size
        or _must_move(p, layers, cores, lists, tries, layer, core)
        or _travels_badly(p, layers, cores, routes, lists, may, layer, core)
    ):
        options[count] = OUTER
        count += 1
    if wish == FREELY and streams and may[own.next, core]:
        options[count] = STREAM
        count += 1
    return count


@compiled
def _same_ways(p: Record, own: Record, cores: Records, routes: Records, s: Floats, one: int, other: int) -> bool:
    """Whether cores are copies of one another to which the inputs of a layer have the same ways."""
    if cores[one].alike != cores[other].alike:
        return False
    for i in range(own.count):
        if own.inputs[i] < 0:
            continue
        memory = int(s[rest_of(p, s, own.inputs[i]) + MEMORY])
        if memory < 0:
            continue
        a, b = routes[memory, one], routes[memory, other]
        if a.known != b.known:
            return False
        if a.known and (a.cycles_per_byte != b.cycles_per_byte or a.pj_per_byte != b.pj_per_byte):
            return False
    return True


@compiled
def _holds_input(p: Record, own: Record, s: Floats, memory: int) -> bool:
    holds = False
    for i in range(own.count):
        if own.inputs[i] >= 0:
            holds |= s[rest_of(p, s, own.inputs[i]) + MEMORY] == memory
    return holds


@compiled
def _distinct(
    p: Record, layers: Records, cores: Records, routes: Records, s: Floats, steps: Records, layer: int, may: Flags,
    chosen: Ints,
) -> int:  # fmt: skip
    """Of cores that are copies of one another: those that hold an input, and the one of the rest that is free first.

    Copies to which the inputs have different ways are different cores. They are written to `chosen`; how many they are.
    """
    own = layers[layer]
    if p.stripes and s[LAST] >= 0 and is_fed(p, layers, s, layer):
        chosen[0] = steps[int(s[LAST])].core
        return 1
    count = 0
    for core in range(p.cores):
        if may[layer, core] and cores[core].memory >= 0 and _holds_input(p, own, s, cores[core].memory):
            chosen[count] = core
            count += 1
    holding = count
    for core in range(p.cores):
        if not may[layer, core] or (cores[core].memory >= 0 and _holds_input(p, own, s, cores[core].memory)):
            continue
        other = holding
        while other < count and not _same_ways(p, own, cores, routes, s, core, chosen[other]):
            other += 1
        if other == count:
            chosen[count] = core
            count += 1
        elif s[FREE + core] < s[FREE + chosen[other]]:
            chosen[other] = core
    return count


@compiled
def _extend(
    p: Record, layers: Records, ways: Records, cores: Records, routes: Records, lists: Ints, may: Flags, beam: Floats,
    count: int, layer: int, options: Ints, known: Ints, grown: Floats, steps: Records, moves: Records, room: Record,
) -> int:  # fmt: skip
    """Place a layer after every state in every way that may be tried; how many states that makes."""
    chosen, made = np.empty(p.cores, np.int64), 0
    for i in range(count):
        before = beam[i]
        for j in range(_distinct(p, layers, cores, routes, before, steps, layer, may, chosen)):
            core = chosen[j]
            for k in range(known[core]):
                step, s = steps[room.steps], grown[made]
                step.first, step.before = room.moves, int(before[LAST])
                room.placed += 1
                keep = options[core, k]
                if not place(p, layers, ways, cores, routes, lists, before, s, step, moves, layer, core, keep):
                    continue
                if s[FULL] > 0:
                    room.full = True
                    return 0
                if room.serial:
                    barrier(p, s, s[LATEST])
                s[LAST] = room.steps
                room.steps += 1
                room.moves += step.count
                made += 1
    return made


@compiled
def _decision_time(p: Record, layers: Records, steps: Records, s: Floats, stage: int) -> float:
    """When the branch of a stage has answered (of a stage without one: its backbone)."""
    backbone, branch, at = -inf, -inf, int(s[LAST])
    while at >= 0 and layers[steps[at].layer].stage == stage:
        if layers[steps[at].layer].branch:
            branch = max(branch, steps[at].end)
        else:
            backbone = max(backbone, steps[at].end)
        at = steps[at].before
    if branch > -inf:
        return branch
    return backbone if backbone > -inf else float(s[LATEST])


@compiled
def _close(
    p: Record, layers: Records, steps: Records, states: Floats, count: int, stage: int, mode: int
) -> tuple[Floats, int]:
    """Every state with a stage closed, in both exit modes where `mode` leaves that open."""
    ahead = stage < p.exits - 1 and (mode == 1 or (mode == FREELY and p.cores > 1))
    waits = stage == p.exits - 1 or mode != 1
    closed, made = np.empty((2 * count, p.width)), 0
    for i in range(count):
        decided = _decision_time(p, layers, steps, states[i], stage)
        for speculate in (False, True):
            if ahead if speculate else waits:
                copy_state(p, states[i], closed[made])
                leave(p, closed[made], decided, speculate)
                made += 1
    return closed, made


@compiled
def _before(scores: Floats, one: int, other: int) -> bool:
    """Whether a state ranks before another; of equals the one made first."""
    if scores[one, 0] != scores[other, 0]:
        return bool(scores[one, 0] < scores[other, 0])
    if scores[one, 1] != scores[other, 1]:
        return bool(scores[one, 1] < scores[other, 1])
    return one < other


@compiled
def _sink(heap: Ints, count: int, at: int, scores: Floats) -> None:
    """Put an item of a heap in its place among those below it."""
    item = heap[at]
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count and _before(scores, heap[child + 1], heap[child]):
            child += 1
        if _before(scores, item, heap[child]):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = item


@compiled
def _beats(p: Record, one: Floats, other: Floats, exact: bool) -> bool:
    """Whether a state is no worse than another in all clocks, in energy and, if `exact`, at every exit passed, with its
    tensors in the same places."""
    if one[RELEASE] != other[RELEASE] or one[ENERGY] > other[ENERGY]:
        return False
    for at in range(FREE, FREE + p.cores):
        if one[at] > other[at]:
            return False
    for at in range(p.rests, p.rests + REST * int(one[ALIVE]), REST):
        if one[at + MEMORY] != other[at + MEMORY]:
            return False
        if min(one[at + READY], one[at + OUTSIDE]) > min(other[at + READY], other[at + OUTSIDE]):
            return False
    if exact:
        for at in range(p.left, p.left + EXIT * int(one[PASSED]), EXIT):
            if (
                one[at + TIME] > other[at + TIME]
                or one[at + SPENT] + one[at + WASTED] > other[at + SPENT] + other[at + WASTED]
            ):
                return False
    return True


@compiled
def _prune(p: Record, stages: Records, states: Floats, count: int, room: Record, kept: Floats) -> int:
    """Keep the best `width` states, without those that a better one beats; how many those are.

    In a narrow beam states that differ in their exits alone would take the places.
    """
    if count == 1:
        copy_state(p, states[0], kept[0])
        return 1
    scores, heap, made = np.empty((count, 2)), np.empty(count, np.int64), 0
    for i in range(count):
        heap[i] = i
        time, energy, both = accumulated(p, stages, states[i])
        scores[i, 0], scores[i, 1] = score(room.goal, time, energy, both)
    for i in range(count // 2, -1, -1):
        _sink(heap, count, i, scores)
    while count and made < room.width:
        state = states[heap[0]]
        count -= 1
        heap[0] = heap[count]
        _sink(heap, count, 0, scores)
        beaten = False
        for i in range(made):
            beaten = beaten or _beats(p, kept[i], state, p.layers <= SHORT)
        if not beaten:
            copy_state(p, state, kept[made])
            made += 1
    return made


@compiled
def _ready(
    p: Record, layers: Records, ways: Records, cores: Records, routes: Records, lists: Ints, tries: Flags, may: Flags,
    wish: int, layer: int, options: Ints, known: Ints, room: Record,
) -> None:  # fmt: skip
    """Note what may be tried with a layer, and how many children of a state that can make."""
    room.most = 0
    for core in range(p.cores):
        known[core] = 0
        if may[layer, core]:
            known[core] = _keep_options(
                p, layers, ways, cores, routes, lists, tries, may, wish, layer, core, options[core]
            )
            room.most += known[core]


@compiled
def _figures(p: Record, stages: Records, s: Floats, steps: Records, figures: Floats, path: Ints) -> None:
    """Note what is asked of a schedule, and its steps in program order."""
    figures[0], figures[1], figures[2] = accumulated(p, stages, s)
    for i in range(EXIT * p.exits):
        figures[FIGURES + i] = s[p.left + i]
    last = p.left + EXIT * (p.exits - 1)
    figures[3], figures[4] = s[last + TIME], s[last + SPENT]
    at = int(s[LAST])
    figures[5] = steps[at].core
    for i in range(path.size - 1, -1, -1):
        path[i] = at
        if steps[at].core != figures[5]:
            figures[5] = -1
        at = steps[at].before


def _entry(sources: str) -> Any:
    """What Python calls, `sources` being part of the key under which machine code is kept."""

    def search(
        p: Record, layers: Records, ways: Records, cores: Records, routes: Records, lists: Ints, stages: Records,
        tries: Flags, may: Flags, keeps: Ints, modes: Ints, room: Record,
    ) -> tuple[Floats, Ints, Records, Records]:  # fmt: skip
        """Figures and paths of complete schedules, the best first; steps and moves that they point at."""
        assert sources
        options, known = np.empty((p.cores, KEEPS), np.int64), np.empty(p.cores, np.int64)
        steps, moves = np.empty(64, STEP), np.empty(64, MOVE)
        kept, grown, beam, count = np.empty((room.width, p.width)), np.empty((0, p.width)), np.empty((1, p.width)), 1
        empty_state(p, beam[0])
        for stage in range(p.exits):
            if stages[stage].last < 0:
                beam, count = _close(p, layers, steps, beam, count, stage, modes[stage])
        for layer in range(p.layers):
            _ready(p, layers, ways, cores, routes, lists, tries, may, keeps[layer], layer, options, known, room)
            most = count * room.most
            steps, moves = _larger(steps, room.steps + most + 1), _larger(moves, room.moves + (most + 1) * (p.live + 4))
            if grown.shape[0] < most:
                grown = np.empty((most, p.width))
            count = _extend(
                p, layers, ways, cores, routes, lists, may, beam, count, layer, options, known, grown, steps, moves,
                room,
            )  # fmt: skip
            beam = grown
            for stage in range(p.exits):
                if stages[stage].last == layer:
                    beam, count = _close(p, layers, steps, beam, count, stage, modes[stage])
            room.layer = layer
            if not count:
                break
            beam, count = kept, _prune(p, stages, beam, count, room, kept)
        figures, paths = np.empty((count, FIGURES + EXIT * p.exits)), np.empty((count, p.layers), np.int64)
        for i in range(count):
            _figures(p, stages, beam[i], steps, figures[i], paths[i])
        return figures, paths, steps, moves

    return entry(search)


searched = _entry(digest("schedule*.py", "network.py", "engine_compile.py"))
