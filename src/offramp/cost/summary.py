"""From a finished schedule to its price list: `NetworkCost` with layers, stages, memory peaks and the mapping."""

from collections.abc import Sequence

from offramp.cost.beam import Leave, Move, Schedule, Step
from offramp.cost.model import LayerCosts
from offramp.cost.network import LayerCost, NetworkCost, StageCost, TransferCost
from offramp.cost.problem import Problem
from offramp.ir.mapping import Assignment, ExitMode, Mapping

LINK, SPILL = "link", "spill"
"""Energy parts of tensors that travel between cores, and of those written out to make room."""


def network_cost(p: Problem, schedule: Schedule) -> NetworkCost:
    """The price list of a complete schedule."""
    steps, exits = schedule.path(), schedule.exits()
    modes = tuple([ExitMode.SPECULATE if x.speculates else ExitMode.WAIT for x in exits[:-1]])
    mapping = Mapping(assignments=tuple([a for s in steps for a in _assignments(p, s)]), exit_modes=modes)
    return NetworkCost(
        name=p.workload.name,
        accelerator=p.accelerator.name,
        clock_mhz=p.accelerator.clock_mhz,
        mapping=mapping,
        layers=_layer_costs(p, steps),
        stages=tuple([_stage_cost(p, x, steps, i) for i, x in enumerate(exits)]),
        macs=p.workload.macs,
        peak_bytes=_peak_bytes(p),
        level_bytes=_level_bytes(p, steps),
        exit_rates=p.rates,
        transfers=tuple([_transfer(p, step, move) for step in steps for move in step.moves]),
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


def _layer_costs(p: Problem, steps: Sequence[Step]) -> tuple[LayerCost, ...]:
    where = p.tables.layers[["stage", "branch"]].tolist()
    return tuple([_layer_cost(p, step, *where[step.layer]) for step in steps])


def _layer_cost(p: Problem, step: Step, stage: int, branch: int) -> LayerCost:
    layer = p.layers[step.layer]
    costs, row, times = _priced_as(p, step)
    at = (step.variant, row, step.core)
    parts = {name: value * times for name, values in costs.parts.items() if (value := float(values[at]))}
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
        stage=stage,
        branch=bool(branch),
    )


def _priced_as(p: Problem, step: Step) -> tuple[LayerCosts, int, int]:
    """The table, its row, and how many times it counts: a layer in stripes has prices of its own."""
    if not step.striped or p.fusion is None:
        return p.costs, step.layer, 1
    stripes = p.fusion.layers[step.layer]
    return p.fusion.costs, stripes.row, stripes.count


def _stage_cost(p: Problem, x: Leave, steps: list[Step], stage: int) -> StageCost:
    first = p.last_of_stage[stage - 1] + 1 if stage else 0
    own = steps[first : p.last_of_stage[stage] + 1]
    backbone = own[: len(p.workload.stages[stage].backbone)]
    branch = own[len(backbone) :]
    return StageCost(
        backbone_cycles=_span(backbone),
        branch_cycles=_span(branch),
        backbone_pj=sum([s.energy for s in backbone]),
        branch_pj=sum([s.energy for s in branch]),
        cumulative_cycles=x.time,
        cumulative_pj=x.energy + x.wasted,
        wasted_pj=x.wasted,
    )


def _span(steps: list[Step]) -> float:
    return max([s.end for s in steps]) - min([s.start for s in steps]) if steps else 0.0


def _peak_bytes(p: Problem) -> int:
    """Most bytes of activations alive at once in program order: those still needed, and what the layer writes."""
    table = p.tables.layers
    uses, made, read = table["uses"].tolist(), table["output_bytes"].tolist(), table["input_bytes"].tolist()
    alive: dict[int, float] = {}
    peak = 0.0
    for i, sources in enumerate(p.inputs):
        own_input = read[i] if -1 in sources else 0.0
        peak = max(peak, sum(alive.values()) + own_input + made[i])
        if uses[i]:
            alive[i] = made[i]
        for source in sources:
            if source >= 0:
                uses[source] -= 1
                if not uses[source]:
                    del alive[source]
    return round(peak)


def _level_bytes(p: Problem, steps: list[Step]) -> dict[str, int]:
    """Most bytes in each memory; `outer` holds all weights and, at most, the tensors of the largest layer outside."""
    names, table = p.accelerator.core_names, p.tables.layers
    peaks: dict[str, float] = {}
    for step in steps:
        costs, row, _ = _priced_as(p, step)
        at = (step.variant, row, step.core)
        for level, values in costs.levels.items():
            key = f"{names[step.core]}.{level}"
            peaks[key] = max(peaks.get(key, 0.0), float(values[at]))
        memory = p.memory_of[step.core]
        if memory >= 0:
            key = p.accelerator.activation_memories[memory].name
            peaks[key] = max(peaks.get(key, 0.0), step.occupied)
    read, made = table["read_bytes"].tolist(), table["output_bytes"].tolist()
    outside = [read[s.layer] * (s.variant < 2) + made[s.layer] * (s.variant % 2 == 0) for s in steps]
    peaks["outer"] = sum(table["weight_bytes"].tolist()) + max(outside, default=0.0)
    return {name: round(value) for name, value in peaks.items() if value}
