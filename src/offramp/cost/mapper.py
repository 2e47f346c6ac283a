"""The search for a mapping: which core runs each layer, what stays on the chip, and which exits let the backbone wait.

A beam search over partial schedules in program order (list scheduling with several lists kept), beside the plain
answers that any mapper must not lose to: every layer on one core, and the greedy choice layer by layer. Exits that
nobody takes are left out of the search and added to its answer, so that they can only add to the price. The rules of
time and energy are in `cost.schedule`; prices of layers come from a `CostModel`. Nothing here is random.

Layer-fused scheduling on several cores follows Stream (Symons et al., IEEE TC 2024); nothing of its code is used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import le

import numpy as np

from offramp.cost.arrays import Flags
from offramp.cost.beam import SPECULATE, WAIT, Rules, Schedule, beam_width, free_rules, plain_score, search
from offramp.cost.fusion import Fusion, find_fusion
from offramp.cost.hybrid import with_teams
from offramp.cost.model import CostModel, LayerCosts
from offramp.cost.network import NetworkCost, checked_rates
from offramp.cost.problem import Problem, build_problem
from offramp.cost.schedule_beam import EDP, ENERGY_FIRST, ET, FREELY, HASTIEST, HASTY, LATENCY
from offramp.cost.schedule_tables import OUTER, STAY
from offramp.cost.single_core import distinct_cores, on_one_core, single_core_bounds
from offramp.cost.summary import network_cost
from offramp.errors import InternalError, UserError, choose
from offramp.ir.accelerator import Accelerator
from offramp.ir.workload import Layer, Stage, Workload

Score = tuple[float, float]
Objective = Callable[[float, float, float], Score]

GOALS = {"latency": LATENCY, "energy": ENERGY_FIRST, "edp": EDP, "et": ET}
OBJECTIVES: dict[str, Objective] = {name: partial(plain_score, goal) for name, goal in GOALS.items()}
"""What the search makes small, from expected cycles, picojoules and E*T; the second figure breaks ties."""

HASTIER = (HASTY, HASTIEST)
"""Products that weigh time more, for schedules that save energy without taking longer than layer by layer."""
PREFERENCE = 0.04
"""What a product may cost more, as a share, so that neither time nor energy is larger than layer by layer."""

EXECUTIONS = ("best", "layer-by-layer")


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
    goal = GOALS[objective]
    if not workload.layers:
        raise UserError("a network without layers", wanted="at least one layer", where=workload.name)
    exits = len(workload.stages)
    rates = (1 / exits,) * exits if exit_rates is None else checked_rates(exit_rates, exits)
    for layer in workload.layers:
        if not any(core.supports(layer) for core in accelerator.cores):
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
        outside, _ = _greedy_cores(problem, goal)
        return network_cost(problem, _layer_by_layer(problem, goal, outside))
    return network_cost(problem, _best(problem, goal))


def _best(p: Problem, goal: int) -> Schedule:
    """The best of the beam search, of the plain answers, and of what the same search finds on each single core.

    Of a product of time and energy, a schedule that makes neither larger than layer by layer is taken where it costs at
    most `PREFERENCE` more than the best and no more than everything on one core.
    """
    outside, inside = _greedy_cores(p, goal)
    serial = _layer_by_layer(p, goal, outside)
    plain = [serial, *_plain_answers(p, goal, outside, inside)]
    used = [rate > 0 for rate in p.rates[:-1]]
    if not all(used):
        return _with_idle_exits(p, goal, used, plain)
    found = [*plain, *search(p, free_rules(p), goal)]
    best, fair = _best_and_fair(found, serial, goal)
    for hastier in HASTIER:
        if _near(fair, best, goal):
            break
        found += search(p, free_rules(p), hastier)
        best, fair = _best_and_fair(found, serial, goal)
    found += _single_answers(p, goal, limit=_score(fair, goal))
    best, fair = _best_and_fair(found, serial, goal)
    preferred = all(_score(fair, goal) <= _score(s, goal) for s in found if s.core >= 0)
    return fair if preferred and _near(fair, best, goal) else best


def _near(schedule: Schedule, best: Schedule, goal: int) -> bool:
    return _score(schedule, goal)[0] <= _score(best, goal)[0] * (1 + PREFERENCE)


def _best_and_fair(found: list[Schedule], serial: Schedule, goal: int) -> tuple[Schedule, Schedule]:
    """The best schedule, and the best of those that are no dearer than layer by layer (for a product)."""
    best = min(found, key=lambda s: _score(s, goal))
    if goal in (LATENCY, ENERGY_FIRST) or _no_dearer(best, serial):
        return best, best
    return best, min([s for s in found if _no_dearer(s, serial)], key=lambda s: _score(s, goal))


def _single_answers(p: Problem, goal: int, limit: Score) -> list[Schedule]:
    """What the whole search finds with each layer on one core where that runs it, for cores that may beat `limit`."""
    bounds = zip(distinct_cores(p), single_core_bounds(p), strict=True)
    chosen = [on_one_core(p, core) for core, bound in bounds if plain_score(goal, *bound) < limit]
    return [_best(one, goal) for one in chosen if one is not None]


def _no_dearer(schedule: Schedule, other: Schedule) -> bool:
    """True when a schedule takes neither more time nor more energy than another, expected and at worst."""
    pairs = zip(schedule.prices, other.prices, strict=True)
    return all(a <= b * (1 + 1e-9) for a, b in pairs)


def _score(schedule: Schedule, goal: int) -> Score:
    figures: Score = plain_score(goal, *schedule.expected)
    return figures


def _greedy_cores(p: Problem, goal: int) -> tuple[Flags, Flags]:
    """(L, C) for each layer alone the core with the best price where all is outside, and where all is on chip."""
    cycles, energy = p.costs.cycles[::3], p.costs.energy_pj[::3]  # variants 0 and 3
    finite = cycles < np.inf
    time, energy = np.where(finite, cycles, 1.0), np.where(finite, energy, 1.0)
    left = np.broadcast_to(p.tables.tries, finite.shape)
    for figure in plain_score(goal, time, energy, time * energy):
        figure = np.where(finite, figure, np.inf)
        left = left & (figure == np.where(left, figure, np.inf).min(axis=2, keepdims=True))
    outside, inside = left.argmax(axis=2)[:, :, None] == np.arange(left.shape[2])
    return outside, inside


def _layer_by_layer(p: Problem, goal: int, greedy: Flags) -> Schedule:
    """Each layer on the core that is best for it alone, one after another, everything through the outer memory."""
    return search(p, Rules(greedy, [OUTER] * len(p.layers), [WAIT] * len(p.rates), serial=True), goal, width=1)[0]


def _plain_answers(p: Problem, goal: int, outside: Flags, inside: Flags) -> list[Schedule]:
    """Everything on one core (layers that it does not run on the core that is best for them), and greedy, on chip."""
    tries, numbers = p.tables.tries, np.arange(len(p.memory_of))
    choices = [inside, outside]
    for core in distinct_cores(p):
        if tries[:, core].any():
            choices.append(np.where(tries[:, core, None], numbers == core, inside))
    keep, waits = [STAY] * len(p.layers), [WAIT] * len(p.rates)
    unique = {cores.tobytes(): cores for cores in choices}.values()
    return [search(p, Rules(cores, keep, waits), goal, width=1)[0] for cores in unique]


def _with_idle_exits(p: Problem, goal: int, used: Sequence[bool], plain: Sequence[Schedule]) -> Schedule:
    """Map the network without the exits that nobody takes, then add their branches to that answer.

    Another answer of the whole network is taken only if it costs no less than the answer without those exits, in time
    and in energy, so that an exit never lowers a price.
    """
    small, kept = _without_exits(p, used)
    answer = _best(small, goal)
    cores, keep, modes = p.tables.tries.copy(), [FREELY] * len(p.layers), [FREELY] * len(p.rates)
    for stage, x in zip([i for i, u in enumerate([*used, True]) if u], answer.exits(), strict=True):
        modes[stage] = SPECULATE if x.speculates else WAIT
    for step in answer.path():
        place = kept[step.layer]
        cores[place] = np.arange(cores.shape[1]) == step.core
        if small.tables.layers["uses"][step.layer]:
            keep[place] = step.keep
    longer = search(p, Rules(cores, keep, modes), goal, width=beam_width(p, least=2))
    others = [*longer, *plain, *_single_answers(p, goal, limit=_score(longer[0], goal))]
    fair = [s for s in others if all(map(le, answer.prices, s.prices))]
    return min(fair or longer, key=lambda s: _score(s, goal))


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
        parts={},
        utilization=costs.utilization[:, kept],
        peak_bytes=costs.peak_bytes[:, kept],
    )
    rates = tuple(r for r, u in zip(p.rates, [*used, True], strict=True) if u)
    names = p.accelerator.core_names
    pinned = {p.layers[i].name: names[int(p.able[i].argmax())] for i in kept if p.able[i].sum() == 1}
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
