"""From a finished schedule to its price list: `NetworkCost` with layers, stages, memory peaks and the mapping."""

from offramp.cost.model import LayerCosts
from offramp.cost.network import LayerCost, NetworkCost, StageCost, TransferCost
from offramp.cost.problem import Problem
from offramp.cost.schedule import Move, State, Step
from offramp.ir.mapping import Assignment, ExitMode, Mapping

LINK, SPILL = "link", "spill"
"""Energy parts of tensors that travel between cores, and of those written out to make room."""


def network_cost(p: Problem, state: State) -> NetworkCost:
    """The price list of a complete schedule."""
    steps = state.path()
    modes = tuple(ExitMode.SPECULATE if x.speculates else ExitMode.WAIT for x in state.exits[:-1])
    mapping = Mapping(assignments=tuple(a for s in steps for a in _assignments(p, s)), exit_modes=modes)
    return NetworkCost(
        name=p.workload.name,
        accelerator=p.accelerator.name,
        clock_mhz=p.accelerator.clock_mhz,
        mapping=mapping,
        layers=tuple(_layer_cost(p, step) for step in steps),
        stages=tuple(_stage_cost(p, state, steps, i) for i in range(len(p.rates))),
        macs=p.workload.macs,
        peak_bytes=_peak_bytes(p),
        level_bytes=_level_bytes(p, steps),
        exit_rates=p.rates,
        transfers=tuple(_transfer(p, step, move) for step in steps for move in step.moves),
    )


def _assignments(p: Problem, step: Step) -> list[Assignment]:
    """One core for the layer, or the cores of a team with their channels."""
    layer, core = p.layers[step.layer].name, p.accelerator.core_names[step.core]
    if p.teams is None or core not in p.teams.cores:
        return [Assignment(layer, core)]
    return [Assignment(layer, c, k) for c, k in zip(p.teams.cores[core], p.teams.shares[core, layer], strict=True)]


def _transfer(p: Problem, step: Step, move: Move) -> TransferCost:
    spilled = move.core < 0
    memory = p.accelerator.activation_memories[move.memory].name
    return TransferCost(
        tensor=p.layers[move.tensor].name,
        consumer="" if spilled else p.layers[step.layer].name,
        link="outer memory" if spilled else f"{memory} to {p.accelerator.core_names[move.core]}",
        start=move.start,
        end=move.end,
        energy_pj=move.energy,
    )


def _layer_cost(p: Problem, step: Step) -> LayerCost:
    layer = p.layers[step.layer]
    costs, row, times = _priced_as(p, step)
    at = (step.variant, row, step.core)
    parts = {name: float(values[at]) * times for name, values in costs.parts.items() if values[at]}
    for move in step.moves:
        kind = SPILL if move.core < 0 else LINK
        parts[kind] = parts.get(kind, 0.0) + move.energy
    priced, use = float(costs.cycles[at]) * times, float(costs.utilization[at])
    return LayerCost(
        name=layer.name,
        op=str(layer.op),
        core=p.accelerator.core_names[step.core],
        macs=layer.macs,
        latency_cycles=step.end - step.start,
        energy_pj=step.energy,
        energy_parts=parts,
        utilization=use * priced / (step.end - step.start) if step.end > step.start else use,
        start=step.start,
        end=step.end,
        stage=p.stage_of[step.layer],
        branch=p.in_branch[step.layer],
    )


def _priced_as(p: Problem, step: Step) -> tuple[LayerCosts, int, int]:
    """The table, its row, and how many times it counts: a layer in stripes has prices of its own."""
    if not step.striped or p.fusion is None:
        return p.costs, step.layer, 1
    stripes = p.striped[step.layer].stripes
    return p.fusion.costs, stripes.row, stripes.count


def _stage_cost(p: Problem, state: State, steps: list[Step], stage: int) -> StageCost:
    backbone = [s for s in steps if p.stage_of[s.layer] == stage and not p.in_branch[s.layer]]
    branch = [s for s in steps if p.stage_of[s.layer] == stage and p.in_branch[s.layer]]
    x = state.exits[stage]
    return StageCost(
        backbone_cycles=_span(backbone),
        branch_cycles=_span(branch),
        backbone_pj=sum(s.energy for s in backbone),
        branch_pj=sum(s.energy for s in branch),
        cumulative_cycles=x.time,
        cumulative_pj=x.energy + x.wasted,
        wasted_pj=x.wasted,
    )


def _span(steps: list[Step]) -> float:
    return max(s.end for s in steps) - min(s.start for s in steps) if steps else 0.0


def _peak_bytes(p: Problem) -> int:
    """Most bytes of activations alive at once in program order: those still needed, and what the layer writes."""
    uses = p.uses.copy()
    alive: dict[int, float] = {}
    peak = 0.0
    for i, sources in enumerate(p.inputs):
        own_input = p.input_bytes[i] if -1 in sources else 0.0
        peak = max(peak, sum(alive.values()) + own_input + p.output_bytes[i])
        alive[i] = p.output_bytes[i]
        for source in (*(s for s in sources if s >= 0), *(() if uses[i] else (i,))):
            uses[source] -= 1
            if uses[source] <= 0:
                alive.pop(source, None)
    return round(peak)


def _level_bytes(p: Problem, steps: list[Step]) -> dict[str, int]:
    """Most bytes in each memory; `outer` holds all weights and, at most, the tensors of the largest layer outside."""
    names = p.accelerator.core_names
    peaks: dict[str, float] = {}
    for step in steps:
        costs, row, _ = _priced_as(p, step)
        for level, values in costs.levels.items():
            key = f"{names[step.core]}.{level}"
            peaks[key] = max(peaks.get(key, 0.0), float(values[step.variant, row, step.core]))
        memory = p.memory_of[step.core]
        if memory >= 0:
            key = p.accelerator.activation_memories[memory].name
            peaks[key] = max(peaks.get(key, 0.0), step.occupied)
    outside = [
        p.input_bytes[s.layer] * len(p.inputs[s.layer]) * (s.variant < 2)
        + p.output_bytes[s.layer] * (s.variant % 2 == 0)
        for s in steps
    ]
    peaks["outer"] = sum(p.weight_bytes) + max(outside, default=0.0)
    return {name: round(value) for name, value in peaks.items() if value}
