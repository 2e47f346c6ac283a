"""The mapper's view of a workload on a chip: plain tables, made once, read millions of times.

Prices, layers, cores and routes between memories and cores become records for the compiled search
(`cost.schedule_tables`); every tensor gets its consumers. It decides nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from offramp.cost.arrays import Flags, Ints, Records
from offramp.cost.fusion import Fusion
from offramp.cost.hybrid import Teams
from offramp.cost.model import LayerCosts
from offramp.cost.problem_chip import ChipView, view_of_chip
from offramp.cost.schedule_tables import CORE, LAYER, STAGE, WAY, Tables, head_of
from offramp.errors import AccelerationError, choose
from offramp.ir.accelerator import Accelerator
from offramp.ir.workload import INPUT, Layer, Workload

HOPELESS = 10.0
"""A core this many times slower (and no cheaper) than another is left out for a layer that is not pinned to it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A workload of L layers, a chip of C cores (teams included) and the prices of every layer on every core.

    Attributes:
        parts: of each layer its stage, and whether it belongs to the branch.
        inputs: producers of each layer by index (-1: the network's input).
        last_of_stage: the last layer of each stage (of an empty one: the last before it, or -1).
        able: (L, C) cores that can run each layer (the one that it is pinned to); `tables.tries`: those worth a try.
        alike: cores with the same number have the same prices and an activation memory of the same size.
        memory_of: activation memory of each core (-1: none).
        members: the cores that a core stands for: itself, or those of a team (`cost.hybrid`).
        rates: share of samples that leaves at each exit.
        tables: all that schedules are made from.
    """

    workload: Workload
    accelerator: Accelerator
    costs: LayerCosts
    layers: tuple[Layer, ...]
    parts: list[tuple[int, bool]]
    inputs: list[tuple[int, ...]]
    last_of_stage: list[int]
    able: Flags
    alike: list[int]
    memory_of: list[int]
    members: list[tuple[int, ...]]
    rates: tuple[float, ...]
    teams: Teams | None
    fusion: Fusion | None
    tables: Tables


def build_problem(
    workload: Workload,
    accelerator: Accelerator,
    costs: LayerCosts,
    rates: tuple[float, ...],
    pinned: Mapping[str, str],
    fusion: Fusion | None = None,
    teams: Teams | None = None,
) -> Problem:
    """Turn a workload, a chip and prices into tables.

    Raises:
        AccelerationError: no core runs a layer, or not the one that it is pinned to.
        UserError: `pinned` names a layer or core that does not exist.
    """
    layers = workload.layers
    index = {layer.name: i for i, layer in enumerate(layers)}
    index[INPUT] = -1
    inputs = [tuple([index[source] for source in layer.inputs]) for layer in layers]
    sizes = [(len(stage.backbone), len(stage.branch)) for stage in workload.stages]
    parts = [(s, bool(b)) for s, both in enumerate(sizes) for b, size in enumerate(both) for _ in range(size)]
    chip, able = view_of_chip(accelerator), _allowed(layers, accelerator, costs, pinned)
    members = _members(accelerator, teams)
    alike = _alike(chip, costs)
    last_of_stage = [end - 1 for end in accumulate([sum(both) for both in sizes])]
    table, readers = _layer_table(layers, inputs, parts, fusion)
    head = _head(chip, table, inputs, len(workload.stages), fusion)
    routes = chip.routes.copy()
    routes["hops"] += len(readers)
    return Problem(
        workload=workload,
        accelerator=accelerator,
        costs=costs,
        layers=layers,
        parts=parts,
        inputs=inputs,
        last_of_stage=last_of_stage,
        able=able,
        alike=alike,
        memory_of=chip.memory_of,
        members=members,
        rates=rates,
        teams=teams,
        fusion=fusion,
        tables=Tables(
            head=head,
            layers=table,
            ways=_ways(costs, fusion),
            cores=_core_table(chip, alike, members),
            routes=routes,
            lists=np.concatenate((readers, chip.links)),
            stages=_stage_table(rates, last_of_stage),
            tries=_worth_a_try(able, costs),
        ),
    )


def _layer_table(
    layers: Sequence[Layer], inputs: Sequence[tuple[int, ...]], parts: Sequence[tuple[int, bool]], fusion: Fusion | None
) -> tuple[Records, Ints]:
    """Records of layers, and the list of readers in which they point; see `Problem.parts`."""
    readers: list[list[int]] = [[] for _ in inputs]
    for i, sources in enumerate(inputs):
        for source in sources:
            if source >= 0:
                readers[source].append(i)
    rows: list[tuple[Any, ...]] = []
    at = 0
    for layer, sources, reading, part in zip(layers, inputs, readers, parts, strict=True):
        read = layer.input_elements * layer.input_bits / 8
        rows.append(
            (
                *part, len(sources), (sources[0], sources[-1]), len(reading), at,
                layer.weight_elements * layer.weight_bits / 8, read, read * len(sources),
                layer.output_elements * layer.output_bits / 8, -1, -1, 1, 0.0, 0.0,
            )
        )  # fmt: skip
        at += len(reading)
    table = np.array(rows, LAYER)
    for i, stripes in (fusion.layers if fusion is not None else {}).items():
        own = table[i]
        own.row, own.next, own.times = len(layers) + stripes.row, stripes.next, stripes.count
        own.rows_in, own.rows_out = stripes.input_bytes, stripes.output_bytes
    return table, np.array([i for reading in readers for i in reading], dtype=np.int64)


def _head(chip: ChipView, table: Records, inputs: Sequence[tuple[int, ...]], exits: int, fusion: Fusion | None) -> Any:
    outer_cycles, outer_read, outer_write = chip.outer
    return head_of(
        layers=len(inputs),
        cores=len(chip.memory_of),
        exits=exits,
        live=most_alive(inputs, table["uses"].tolist()),
        links=len(chip.accelerator.links),
        stripes=fusion is not None,
        last_reader=max([i for i, sources in enumerate(inputs) if -1 in sources], default=-1),
        outer_cycles=outer_cycles,
        outer_read=outer_read,
        outer_write=outer_write,
    )


def most_alive(inputs: Sequence[tuple[int, ...]], uses: list[int]) -> int:
    """Most tensors that wait for a reader at once (`uses` is used up)."""
    alive = most = 0
    for layer, sources in enumerate(inputs):
        for source in sources:
            if source >= 0:
                uses[source] -= 1
                alive -= not uses[source]
        alive += uses[layer] > 0
        most = max(most, alive)
    return most


def _ways(costs: LayerCosts, fusion: Fusion | None) -> Records:
    """Prices by row and core; rows of stripes, all of a layer together, follow those of whole layers."""
    layers, cores = costs.cycles.shape[1:]
    rows = 0 if fusion is None else fusion.costs.cycles.shape[1]
    ways = np.zeros((layers + rows, cores), WAY)
    whole, stripes = ways[:layers], ways[layers:]
    whole["cycles"] = costs.cycles.transpose(1, 2, 0)
    whole["energy"] = costs.energy_pj.transpose(1, 2, 0)
    whole["working"] = costs.peak_bytes.transpose(1, 2, 0)
    if fusion is not None:
        many = np.ones(rows)
        for striped in fusion.layers.values():
            many[striped.row] = striped.count
        stripes["cycles"] = stripes["energy"] = np.inf  # of teams, which run no stripes
        stripes = stripes[:, : fusion.costs.cycles.shape[2]]
        stripes["cycles"] = fusion.costs.cycles.transpose(1, 2, 0) * many[:, None, None]
        stripes["energy"] = fusion.costs.energy_pj.transpose(1, 2, 0) * many[:, None, None]
        stripes["working"] = fusion.costs.peak_bytes.transpose(1, 2, 0)
    return ways


def _core_table(chip: ChipView, alike: Sequence[int], members: Sequence[tuple[int, ...]]) -> Records:
    rows = zip(chip.memory_of, chip.size_of, alike, members, strict=True)
    return np.array([(memory, size, kind, len(own), (own[0], own[-1])) for memory, size, kind, own in rows], CORE)


def _stage_table(rates: tuple[float, ...], last_of_stage: Sequence[int]) -> Records:
    rows = [(rate, sum(rates[i:]), last) for i, (rate, last) in enumerate(zip(rates, last_of_stage, strict=True))]
    return np.array(rows, STAGE)


def _members(accelerator: Accelerator, teams: Teams | None) -> list[tuple[int, ...]]:
    names = accelerator.core_names
    known = teams.cores if teams is not None else {}
    return [tuple(names.index(m) for m in known[name]) if name in known else (i,) for i, name in enumerate(names)]


def _allowed(layers: Sequence[Layer], accelerator: Accelerator, costs: LayerCosts, pinned: Mapping[str, str]) -> Flags:
    """(L, C) cores with a finite price for each layer, or the one that it is pinned to."""
    if pinned:
        known = {layer.name for layer in layers}
        for name, core in pinned.items():
            if name not in known:
                raise choose("layer", name, known, where="pinned cores")
            accelerator.core(core)
    able: Flags = np.ascontiguousarray((costs.cycles < np.inf).any(axis=0))
    if not pinned and able.any(axis=1).all():
        return able
    for layer, cores in zip(layers, able, strict=True):
        _pin(layer, accelerator, cores, pinned.get(layer.name))
    return able


def _pin(layer: Layer, accelerator: Accelerator, able: Flags, wish: str | None) -> None:
    """Leave of the cores that are able to run a layer the one that it is pinned to."""
    names = accelerator.core_names
    where = f"accelerator {accelerator.name}"
    if not able.any():
        accelerator.cores_for(layer)
        given = f"no core has room for {layer.op} layer {layer.name}"
        raise AccelerationError(given, wanted="a core whose memories hold the smallest tile of it", where=where)
    if wish is None:
        return
    if not able[names.index(wish)]:
        why = accelerator.core(wish).refusal(layer) or "has no room for it"
        given = f"{layer.op} layer {layer.name} is pinned to core {wish}, which {why}"
        others = ", ".join(name for name, can in zip(names, able, strict=True) if can)
        raise AccelerationError(given, wanted=f"one of {others}", where=where)
    able[:] = False
    able[names.index(wish)] = True


def _worth_a_try(able: Flags, costs: LayerCosts) -> Flags:
    """Cores that are able and not hopeless: no other one is `HOPELESS` times faster and no dearer in every variant.

    Overlap cannot mend that.
    """
    cycles, energy = costs.cycles, costs.energy_pj
    faster = cycles[0, :, :, None] * HOPELESS < cycles[0, :, None, :]
    if not faster.any():
        return able
    faster &= (cycles[1:, :, :, None] * HOPELESS < cycles[1:, :, None, :]).all(axis=0)
    cheaper = (energy[:, :, :, None] <= energy[:, :, None, :]).all(axis=0)
    hopeless: Flags = np.asarray((faster & cheaper & able[:, :, None]).any(axis=1))
    return able & ~hopeless


def _alike(chip: ChipView, costs: LayerCosts) -> list[int]:
    """A number per core, the same for cores that are copies of one another with memories of their own."""
    numbers: dict[object, int] = {}
    out = []
    for c, (memory, size) in enumerate(zip(chip.memory_of, chip.size_of, strict=True)):
        key = (c,) if chip.memory_of.count(memory) > 1 else (size, costs.cycles[:, :, c].tobytes())
        out.append(numbers.setdefault(key, len(numbers)))
    return out
