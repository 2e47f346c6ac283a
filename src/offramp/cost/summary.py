"""From a finished schedule to its price list: `NetworkCost` with layers, stages, memory peaks and the mapping."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

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
    names, said, macs = p.accelerator.core_names, _all_said(p, steps), [layer.macs for layer in p.layers]
    return NetworkCost(
        name=p.workload.name,
        accelerator=p.accelerator.name,
        clock_mhz=p.accelerator.clock_mhz,
        mapping=Mapping(assignments=tuple(_assignments(p, steps, names)), exit_modes=modes),
        layers=tuple([_layer_cost(p, *one, names) for one in zip(steps, said, macs, strict=True)]),
        stages=tuple([_stage_cost(p, x, steps, i) for i, x in enumerate(exits)]),
        macs=sum(macs),
        peak_bytes=_peak_bytes(p),
        level_bytes=_level_bytes(p, steps, said, names),
        exit_rates=p.rates,
        transfers=tuple([_transfer(p, step, move, names) for step in steps for move in step.moves]),
    )


def _assignments(p: Problem, steps: Sequence[Step], names: Sequence[str]) -> Iterator[Assignment]:
    """One core for each layer, or the cores of a team with their channels."""
    for step in steps:
        layer, core = p.layers[step.layer].name, names[step.core]
        if p.teams is None or core not in p.teams.cores:
            yield Assignment(layer, core)
        else:
            for member, channels in zip(p.teams.cores[core], p.teams.shares[core, layer], strict=True):
                yield Assignment(layer, member, channels)


def _transfer(p: Problem, step: Step, move: Move, names: Sequence[str]) -> TransferCost:
    spilled = move.core < 0
    memory = p.accelerator.activation_memories[move.memory].name
    return TransferCost(
        tensor=p.layers[move.tensor].name,
        consumer="" if spilled else p.layers[step.layer].name,
        link="outer memory" if spilled else f"{memory} to {names[move.core]}",
        start=move.start,
        end=move.end,
        energy_pj=move.energy,
    )


class _Said(NamedTuple):
    """What a price table says of a step: cycles, utilization, picojoules by part, bytes by level.

    Of a layer in stripes it is the sum over them, but the bytes of one.
    """

    cycles: float
    utilization: float
    parts: dict[str, float]
    levels: dict[str, float]


def _all_said(p: Problem, steps: Sequence[Step]) -> list[_Said]:
    """What the tables say of each step; a layer in stripes has prices of its own."""
    whole = [s for s in steps if not s.striped or p.fusion is None]
    said = _said(p.costs, [(s.variant, s.layer, s.core) for s in whole], [1] * len(whole))
    if len(whole) == len(steps) or p.fusion is None:
        return said
    striped = [s for s in steps if s.striped]
    own = [p.fusion.layers[s.layer] for s in striped]
    places = [(s.variant, x.row, s.core) for s, x in zip(striped, own, strict=True)]
    known = zip([*whole, *striped], [*said, *_said(p.fusion.costs, places, [x.count for x in own])], strict=True)
    return [said for _, said in sorted(known, key=lambda pair: pair[0].layer)]


def _said(costs: LayerCosts, places: Sequence[tuple[int, int, int]], times: Sequence[int]) -> list[_Said]:
    """What a table says at [variant, row, core], for layers that run so many times."""
    _, rows, cores = costs.cycles.shape
    flat = np.array([(variant * rows + row) * cores + core for variant, row, core in places], dtype=np.intp)
    cycles, use = costs.cycles.take(flat).tolist(), costs.utilization.take(flat).tolist()
    parts = [(name, values.take(flat).tolist()) for name, values in costs.parts.items()]
    levels = [(name, values.take(flat).tolist()) for name, values in costs.levels.items()]
    return [
        _Said(
            cycles[i] * many,
            use[i],
            {name: values[i] * many for name, values in parts if values[i]},
            {name: values[i] for name, values in levels},
        )
        for i, many in enumerate(times)
    ]


def _layer_cost(p: Problem, step: Step, said: _Said, macs: int, names: Sequence[str]) -> LayerCost:
    layer, parts, span = p.layers[step.layer], said.parts, step.end - step.start
    for move in step.moves:
        kind = SPILL if move.core < 0 else LINK
        parts[kind] = parts.get(kind, 0.0) + move.energy
    stage, branch = p.parts[step.layer]
    return LayerCost(
        name=layer.name,
        op=str(layer.op),
        core=names[step.core],
        macs=macs,
        latency_cycles=span,
        energy_pj=step.energy,
        energy_parts=parts,
        utilization=said.utilization * said.cycles / span if span > 0 else said.utilization,
        start=step.start,
        end=step.end,
        stage=stage,
        branch=branch,
    )


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


def _level_bytes(p: Problem, steps: list[Step], said: Sequence[_Said], names: Sequence[str]) -> dict[str, int]:
    """Most bytes in each memory; `outer` holds all weights and, at most, the tensors of the largest layer outside."""
    memories, table = p.accelerator.activation_memories, p.tables.layers
    read, made = table["read_bytes"].tolist(), table["output_bytes"].tolist()
    peaks: dict[str, float] = {}
    labels: dict[tuple[str, str], str] = {}
    outside = 0.0
    for step, of_step in zip(steps, said, strict=True):
        core, memory = names[step.core], p.memory_of[step.core]
        for level, value in of_step.levels.items():
            key = labels.get((core, level)) or labels.setdefault((core, level), f"{core}.{level}")
            if value > peaks.get(key, -1.0):
                peaks[key] = value
        if memory >= 0:
            key = memories[memory].name
            peaks[key] = max(peaks.get(key, 0.0), step.occupied)
        outside = max(outside, read[step.layer] * (step.variant < 2) + made[step.layer] * (step.variant % 2 == 0))
    peaks["outer"] = sum(table["weight_bytes"].tolist()) + outside
    return {name: round(value) for name, value in peaks.items() if value}
