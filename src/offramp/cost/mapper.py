"""The search for a mapping: which core runs each layer, what stays on the chip, and which exits let the backbone wait.

A beam search over partial schedules in program order (list scheduling with several lists kept), beside the plain
answers that any mapper must not lose to: every layer on one core, and the greedy choice layer by layer. Exits that
nobody takes are left out of the search and added to its answer, so that they can only add to the price. The rules of
time and energy are in `cost.schedule`; prices of layers come from a `CostModel`. Nothing here is random.

Layer-fused scheduling on several cores follows Stream (Symons et al., IEEE TC 2024); nothing of its code is used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from operator import le

from offramp.cost.fusion import Fusion, find_fusion
from offramp.cost.hybrid import with_teams
from offramp.cost.model import CostModel, LayerCosts
from offramp.cost.network import NetworkCost, checked_rates
from offramp.cost.problem import Problem, build_problem
from offramp.cost.schedule import Keep, State, accumulated, barrier, can_stream, empty_state, leave, place
from offramp.cost.single_core import distinct_cores, on_one_core, single_core_bound
from offramp.cost.summary import network_cost
from offramp.errors import InternalError, UserError, choose
from offramp.ir.accelerator import Accelerator
from offramp.ir.workload import Layer, Stage, Workload

Score = tuple[float, float]
Objective = Callable[[float, float, float], Score]

OBJECTIVES: dict[str, Objective] = {
    "latency": lambda t, e, et: (t, e),
    "energy": lambda t, e, et: (e, t),
    "edp": lambda t, e, et: (t * e, t),
    "et": lambda t, e, et: (et, t),
}
"""What the search makes small, from expected cycles, picojoules and E*T; the second figure breaks ties."""

HASTIER: tuple[Objective, ...] = (lambda t, e, et: (t * t * e, t), lambda t, e, et: (t**4 * e, t))
"""Products that weigh time more, for schedules that save energy without taking longer than layer by layer."""
PREFERENCE = 0.04
"""What a product may cost more, as a share, so that neither time nor energy is larger than layer by layer."""

EXECUTIONS = ("best", "layer-by-layer")
WORK = 3000
"""Beam width times the square of the number of layers: short networks are searched widely, long ones in linear time."""
MIN_WIDTH, MAX_WIDTH = 4, 64
SHORT = 12
"""Most layers of a network in which all that could help is tried."""
CROWDED = 0.25
"""An output that takes a larger share of its memory than this is also tried in the outer memory."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a search may choose: the cores of each layer, whether outputs stay, and the mode of each exit.

    `modes` None tries both ways; `serial` makes layers run one after another.
    """

    cores: Sequence[Sequence[int]]
    keep: Sequence[Keep | None]
    modes: Sequence[bool | None]
    serial: bool = False


def map_network(
    workload: Workload,
    accelerator: Accelerator,
    *,
    cost_model: CostModel | None = None,
    costs: LayerCosts | None = None,
    exit_rates: Sequence[float] | None = None,
    execution: str = "best",
    objective: str = "edp",
    pinned: Mapping[str, str] | None = None,
) -> NetworkCost:
    """Find a mapping of a network on a chip and price it.

    Args:
        workload: L layers in stages.
        accelerator: the chip, C cores.
        cost_model: prices the layers when `costs` is not given, and layers in stripes or shared by two cores; without
            it nothing is fused or shared.
        costs: prices of `workload.layers` on the chip's cores, arrays of shape (4, L, C).
        exit_rates: share of samples that leaves at each exit, the last included; default: the same for every exit.
        execution: "best", or "layer-by-layer": cores one after another, every tensor through the outer memory, exits
            wait.
        objective: "latency", "energy", "edp" or "et", of the expectation over exits.
        pinned: layer name to core name.

    Raises:
        AccelerationError: a layer that no core runs, or that its pinned core does not run.
        UserError: rates that do not fit the exits, an unknown objective, execution, layer or core.
    """
    if objective not in OBJECTIVES:
        raise choose("objective", objective, OBJECTIVES, where="--objective")
    if execution not in EXECUTIONS:
        raise choose("execution", execution, EXECUTIONS, where="--execution")
    if not workload.layers:
        raise UserError("a network without layers", wanted="at least one layer", where=workload.name)
    exits = len(workload.stages)
    rates = (1 / exits,) * exits if exit_rates is None else checked_rates(exit_rates, exits)
    for layer in workload.layers:
        accelerator.cores_for(layer)
    if costs is None:
        if cost_model is None:
            raise InternalError("map_network needs costs or a cost_model")
        costs = cost_model.layer_costs(workload.layers, accelerator)
    fusion, teams = None, None
    if cost_model is not None and execution == "best":
        fusion = find_fusion(workload, accelerator, cost_model)
        accelerator, costs, teams = with_teams(workload.layers, accelerator, costs, cost_model)
    problem = build_problem(workload, accelerator, costs, rates, pinned or {}, fusion, teams)
    if execution == "layer-by-layer":
        return network_cost(problem, _layer_by_layer(problem, OBJECTIVES[objective]))
    return network_cost(problem, _best(problem, OBJECTIVES[objective]))


def _best(p: Problem, objective: Objective) -> State:
    """The best of the beam search, of the plain answers, and of what the same search finds on each single core.

    Of a product of time and energy, a schedule that makes neither larger than layer by layer is taken where it costs at
    most `PREFERENCE` more than the best and no more than everything on one core.
    """
    serial = _layer_by_layer(p, objective)
    plain = [serial, *_plain_answers(p, objective)]
    used = [rate > 0 for rate in p.rates[:-1]]
    if not all(used):
        return _with_idle_exits(p, objective, used, plain)
    found = [*plain, *search(p, _free_rules(p), objective)]
    best, fair = _best_and_fair(p, found, serial, objective)
    for hastier in HASTIER:
        if _near(p, fair, best, objective):
            break
        found += search(p, _free_rules(p), hastier)
        best, fair = _best_and_fair(p, found, serial, objective)
    found += _single_answers(p, objective, limit=_score(p, fair, objective))
    best, fair = _best_and_fair(p, found, serial, objective)
    alone = [s for s in found if len({step.core for step in s.path()}) == 1]
    preferred = all(_score(p, fair, objective) <= _score(p, s, objective) for s in alone)
    return fair if preferred and _near(p, fair, best, objective) else best


def _near(p: Problem, state: State, best: State, objective: Objective) -> bool:
    return _score(p, state, objective)[0] <= _score(p, best, objective)[0] * (1 + PREFERENCE)


def _best_and_fair(p: Problem, found: list[State], serial: State, objective: Objective) -> tuple[State, State]:
    """The best schedule, and the best of those that are no dearer than layer by layer (for a product)."""
    best = min(found, key=lambda s: _score(p, s, objective))
    if objective in (OBJECTIVES["latency"], OBJECTIVES["energy"]) or _no_dearer(p, best, serial):
        return best, best
    return best, min([s for s in found if _no_dearer(p, s, serial)], key=lambda s: _score(p, s, objective))


def _single_answers(p: Problem, objective: Objective, limit: Score) -> list[State]:
    """What the whole search finds with each layer on one core where that runs it, for cores that may beat `limit`."""
    bounds = [(single_core_bound(p, core), core) for core in distinct_cores(p)]
    chosen = [on_one_core(p, core) for bound, core in bounds if objective(*bound) < limit]
    return [_best(one, objective) for one in chosen if one is not None]


def _no_dearer(p: Problem, state: State, other: State) -> bool:
    """True when a schedule takes neither more time nor more energy than another, expected and at worst."""
    pairs = zip(_prices(p, state), _prices(p, other), strict=True)
    return all(a <= b * (1 + 1e-9) for a, b in pairs)


def _score(problem: Problem, state: State, objective: Objective) -> Score:
    return objective(*accumulated(problem, state))


def _free_rules(p: Problem) -> Rules:
    return Rules(p.cores_of, [None] * len(p.layers), [None] * len(p.rates))


def search(p: Problem, rules: Rules, objective: Objective, width: int | None = None) -> list[State]:
    """Beam search in program order under `rules`: complete schedules, the best first."""
    width = width or max(MIN_WIDTH, min(MAX_WIDTH, WORK // len(p.layers) ** 2))
    beam = _close_empty_stages(p, [empty_state(p)], rules, -1)
    for layer in range(len(p.layers)):
        grown = [new for state in beam for new in _extend(p, state, layer, rules)]
        if not grown:
            raise InternalError(f"no schedule for layer {p.layers[layer].name}")
        if layer in p.last_of_stage:
            grown = _close_empty_stages(p, grown, rules, layer)
        beam = _prune(p, grown, objective, width)
    return beam


def _extend(p: Problem, state: State, layer: int, rules: Rules) -> list[State]:
    children = []
    for core in _distinct(p, state, layer, rules.cores[layer]):
        for keep in _keep_options(p, layer, core, rules):
            child = place(p, state, layer, core, keep)
            if child is not None:
                if rules.serial:
                    barrier(child, child.latest)
                children.append(child)
    return children


def _distinct(p: Problem, state: State, layer: int, cores: Sequence[int]) -> Sequence[int]:
    """Of cores that are copies of one another: those that hold an input, and the one of the rest that is free first.

    Copies to which the inputs have different ways are different cores.
    """
    if p.striped and state.steps is not None and any(t >= 0 and state.rest[t].streamed for t in p.inputs[layer]):
        return (state.steps.step.core,)
    if len(cores) == 1:
        return cores
    held = {state.rest[t].memory for t in p.inputs[layer] if t >= 0}
    ways = [p.routes[memory] for memory in held if memory >= 0]
    chosen: list[int] = []
    idle: dict[object, int] = {}
    for core in cores:
        if p.memory_of[core] in held and p.memory_of[core] >= 0:
            chosen.append(core)
            continue
        key = (p.alike[core], *[(r.cycles_per_byte, r.pj_per_byte) if (r := row[core]) else None for row in ways])
        other = idle.get(key)
        if other is None or state.core_free[core] < state.core_free[other]:
            idle[key] = core
    return [*chosen, *idle.values()]


def _keep_options(p: Problem, layer: int, core: int, rules: Rules) -> tuple[Keep, ...]:
    if not p.uses[layer] or p.memory_of[core] < 0:
        return (Keep.OUTER,)
    wish = rules.keep[layer]
    if wish is not None and (wish is not Keep.STREAM or can_stream(p, layer, core)):
        return (wish,)
    stream = (Keep.STREAM,) if layer in p.striped and wish is None and _may_stream(p, layer, core, rules) else ()
    crowded = p.output_bytes[layer] > CROWDED * p.memory_bytes[p.memory_of[core]]
    both = crowded or p.must_move[layer][core] or _may_travel_badly(p, layer, core, rules)
    return (Keep.STAY, Keep.OUTER, *stream) if both else (Keep.STAY, *stream)


def _may_travel_badly(p: Problem, layer: int, core: int, rules: Rules) -> bool:
    """True when a reader may run where no links lead, or where links are a worse way than the outer memory.

    In a long network it must be worse in time and in energy, since twice the schedules take twice the time.
    """
    memory = p.memory_of[core]
    energy = p.memory_read[memory] + p.outer_write + p.outer_read
    test = all if len(p.layers) > SHORT else any
    for reader in p.readers[layer]:
        for other in rules.cores[reader]:
            if p.memory_of[other] in (memory, -1):
                continue
            route = p.routes[memory][other]
            if route is None or test((route.cycles_per_byte > p.outer_cycles, route.pj_per_byte > energy)):
                return True
    return False


def _may_stream(p: Problem, layer: int, core: int, rules: Rules) -> bool:
    return can_stream(p, layer, core) and core in rules.cores[p.striped[layer].stripes.next]


def _close_empty_stages(p: Problem, states: list[State], rules: Rules, layer: int) -> list[State]:
    """Close every stage whose last layer is `layer`; both exit modes where the rules leave them open."""
    for stage, last in enumerate(p.last_of_stage):
        if last == layer:
            states = [new for state in states for new in _leave_modes(p, state, stage, rules)]
    return states


def _leave_modes(p: Problem, state: State, stage: int, rules: Rules) -> list[State]:
    decided = _decision_time(p, state, stage)
    if stage == len(p.rates) - 1:
        return [leave(state, decided, speculate=False)]
    mode = rules.modes[stage]
    waits = leave(state, decided, speculate=False) if not mode else None
    ahead = leave(state, decided, speculate=True) if mode or (mode is None and len(p.memory_of) > 1) else None
    return [new for new in (waits, ahead) if new is not None]


def _decision_time(p: Problem, state: State, stage: int) -> float:
    """When the branch of a stage has answered (of a stage without one: its backbone)."""
    ends: dict[bool, float] = {}
    node = state.steps
    while node is not None and p.stage_of[node.step.layer] == stage:
        branch = p.in_branch[node.step.layer]
        ends[branch] = max(ends.get(branch, 0.0), node.step.end)
        node = node.before
    return ends.get(True, ends.get(False, state.latest))


def _prune(p: Problem, states: list[State], objective: Objective, width: int) -> list[State]:
    """The best `width` states, without those that a better one beats in all with its tensors in the same places."""
    if len(states) == 1:
        return states
    ranked = sorted([(_score(p, s, objective), i) for i, s in enumerate(states)])
    kept: list[State] = []
    exact = len(p.layers) <= SHORT  # of a narrow beam, what differs in its exits alone would take the places
    beaten_by: dict[object, list[tuple[float, ...]]] = {}
    for _, i in ranked:
        state = states[i]
        rests = state.rest.values()
        rivals = beaten_by.setdefault((tuple([r.memory for r in rests]), state.release), [])
        left = [figure for x in state.exits for figure in (x.time, x.energy + x.wasted)] if exact else []
        clocks = (state.energy, *left, *state.core_free, *[min(r.ready, r.outer_ready) for r in rests])
        if any(all(map(le, rival, clocks)) for rival in rivals):
            continue
        rivals.append(clocks)
        kept.append(state)
        if len(kept) == width:
            break
    return kept


def _greedy_cores(p: Problem, objective: Objective, variant: int) -> list[tuple[int]]:
    """For each layer alone the core with the best price in one variant."""

    def price(layer: int, core: int) -> Score:
        time, energy = p.cycles[layer][core][variant], p.energy[layer][core][variant]
        return objective(time, energy, time * energy) if time < inf else (inf, inf)

    return [(min(cores, key=lambda c: (price(i, c), c)),) for i, cores in enumerate(p.cores_of)]


def _layer_by_layer(p: Problem, objective: Objective) -> State:
    """Each layer on the core that is best for it alone, one after another, everything through the outer memory."""
    layers = len(p.layers)
    rules = Rules(_greedy_cores(p, objective, 0), [Keep.OUTER] * layers, [False] * len(p.rates), serial=True)
    return search(p, rules, objective, width=1)[0]


def _plain_answers(p: Problem, objective: Objective) -> list[State]:
    """Everything on one core (layers that it does not run on the core that is best for them), and greedy, on chip."""
    layers = len(p.layers)
    greedy = _greedy_cores(p, objective, 3)
    choices = [greedy, _greedy_cores(p, objective, 0)]
    for core in distinct_cores(p):
        if any(core in cores for cores in p.cores_of):
            choices.append([(core,) if core in cores else greedy[i] for i, cores in enumerate(p.cores_of)])
    waits = [False] * len(p.rates)
    unique = {tuple(c): c for c in choices}.values()
    return [search(p, Rules(cores, [Keep.STAY] * layers, waits), objective, width=1)[0] for cores in unique]


def _with_idle_exits(p: Problem, objective: Objective, used: Sequence[bool], plain: Sequence[State]) -> State:
    """Map the network without the exits that nobody takes, then add their branches to that answer.

    Another answer of the whole network is taken only if it costs no less than the answer without those exits, in time
    and in energy, so that an exit never lowers a price.
    """
    small, kept = _without_exits(p, used)
    answer = _best(small, objective)
    steps = {kept[step.layer]: step for step in answer.path()}
    modes: list[bool | None] = [None] * len(p.rates)
    real = [i for i, u in enumerate([*used, True]) if u]
    for i, x in zip(real, answer.exits, strict=True):
        modes[i] = x.speculates
    cores = [(steps[i].core,) if i in steps else p.cores_of[i] for i in range(len(p.layers))]
    keep = [steps[i].keep if i in steps and small.uses[steps[i].layer] else None for i in range(len(p.layers))]
    width = max(2, min(MAX_WIDTH, WORK // len(p.layers) ** 2))
    longer = search(p, Rules(cores, keep, modes), objective, width=width)
    others = [*longer, *plain, *_single_answers(p, objective, limit=_score(p, longer[0], objective))]
    fair = [s for s in others if all(map(le, _prices(small, answer), _prices(p, s)))]
    return min(fair or longer, key=lambda s: _score(p, s, objective))


def _prices(p: Problem, state: State) -> tuple[float, ...]:
    """Expected and worst cycles and picojoules."""
    return (*accumulated(p, state), state.exits[-1].time, state.exits[-1].energy)


def _without_exits(p: Problem, used: Sequence[bool]) -> tuple[Problem, list[int]]:
    """The problem without the branches of unused exits, and the place of each of its layers in the full one."""
    stages: list[Stage] = []
    carried: tuple[Layer, ...] = ()
    for stage, take in zip(p.workload.stages, [*used, True], strict=True):
        backbone = (*carried, *stage.backbone)
        if take:
            stages.append(replace(stage, backbone=backbone))
            carried = ()
        else:
            carried = backbone
    workload = Workload(p.workload.name, tuple(stages))
    place_of = {layer.name: i for i, layer in enumerate(p.layers)}
    kept = [place_of[layer.name] for layer in workload.layers]
    costs = p.costs
    table = LayerCosts(
        cycles=costs.cycles[:, kept],
        energy_pj=costs.energy_pj[:, kept],
        parts={k: v[:, kept] for k, v in costs.parts.items()},
        utilization=costs.utilization[:, kept],
        peak_bytes=costs.peak_bytes[:, kept],
        levels={k: v[:, kept] for k, v in costs.levels.items()},
    )
    rates = tuple(r for r, u in zip(p.rates, [*used, True], strict=True) if u)
    names = p.accelerator.core_names
    pinned = {p.layers[i].name: names[p.able[i][0]] for i in kept if len(p.able[i]) == 1}
    return build_problem(workload, p.accelerator, table, rates, pinned, _kept_fusion(p.fusion, kept), p.teams), kept


def _kept_fusion(fusion: Fusion | None, kept: Sequence[int]) -> Fusion | None:
    """Striped layers under their places in a shorter network; layers of one chain stay or go together."""
    if fusion is None:
        return None
    places = {old: new for new, old in enumerate(kept)}
    moved = {
        places[i]: replace(stripes, next=places.get(stripes.next, -1))
        for i, stripes in fusion.layers.items()
        if i in places
    }
    return Fusion(moved, fusion.costs)
