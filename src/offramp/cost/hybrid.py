"""Hybrid layers: two cores on one activation memory share the output channels of a layer, each in its own way.

A pair of cores becomes a team: one more column in the price table, whose price for a layer is that of the two parts
run side by side (the later end, the sum of energies). Only layers that both cores run with the same numerics can be
shared - a layer bound to an ADC cannot - and only pairs of comparable speed are tried. The schedule books both cores.

Splitting layers over DIANA's cores is the idea of ODiMO (Risso et al., ISLPED 2023).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from offramp.cost.model import Array, CostModel, LayerCosts
from offramp.ir.accelerator import Accelerator
from offramp.ir.workload import Layer, Op

SHARES = (0.25, 0.5, 0.75)
"""Parts of the output channels that the first core of a team may take."""
COMPARABLE = 4.0
"""Two cores are worth a team when neither is slower than this many times the other."""
LEAST_CHANNELS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Teams:
    """Teams by name: their cores, and for each layer that they share (by name) the channels of each core."""

    cores: Mapping[str, tuple[str, str]]
    shares: Mapping[tuple[str, str], tuple[int, int]]


def with_teams(
    layers: Sequence[Layer], chip: Accelerator, costs: LayerCosts, cost_model: CostModel
) -> tuple[Accelerator, LayerCosts, Teams | None]:
    """The chip and its price table with a column for every team that can share a layer; unchanged where none can."""
    cores: dict[str, tuple[str, str]] = {}
    shares: dict[tuple[str, str], tuple[int, int]] = {}
    tables = [costs]
    for a, b in _pairs(chip):
        near = _comparable(costs, a, b)
        able = [i for i, layer in enumerate(layers) if near[i] and _shareable(layer)]
        if not able:
            continue
        name = f"{chip.core_names[a]}+{chip.core_names[b]}"
        column, chosen = _team_costs(layers, able, (a, b), chip, cost_model)
        cores[name] = (chip.core_names[a], chip.core_names[b])
        shares |= {(name, layers[i].name): parts for i, parts in zip(able, chosen, strict=True)}
        tables.append(column)
    if not cores:
        return chip, costs, None
    return _extended(chip, cores), _joined(tables), Teams(cores, shares)


def _pairs(chip: Accelerator) -> Iterator[tuple[int, int]]:
    for memory in chip.activation_memories:
        yield from combinations([i for i, name in enumerate(chip.core_names) if name in memory.cores], 2)


def _shareable(layer: Layer) -> bool:
    return layer.op in (Op.CONV, Op.DENSE) and layer.G == 1 and layer.K >= LEAST_CHANNELS and not layer.adc_bits


def _comparable(costs: LayerCosts, a: int, b: int) -> NDArray[np.bool_]:
    """For each layer whether both cores run it at comparable speed when its tensors rest on the chip."""
    one, other = costs.cycles[3, :, a], costs.cycles[3, :, b]
    low, high = np.minimum(one, other), np.maximum(one, other)
    return np.isfinite(high) & (high <= COMPARABLE * low)


def _team_costs(
    layers: Sequence[Layer], able: Sequence[int], pair: tuple[int, int], chip: Accelerator, cost_model: CostModel
) -> tuple[LayerCosts, list[tuple[int, int]]]:
    """The column of a team (infinite for layers that it does not share), and its channels for those that it does."""
    splits = [(i, round(layers[i].K * share)) for i in able for share in SHARES]
    parts = [[replace(layers[i], K=k) for i, k in splits], [replace(layers[i], K=layers[i].K - k) for i, k in splits]]
    both = [cost_model.layer_costs(part, chip) for part in parts]
    sides = [(costs, core) for costs, core in zip(both, pair, strict=True)]
    times = np.stack([costs.cycles[:, :, core] for costs, core in sides])
    end = times.max(axis=0)
    best = end[3].reshape(len(able), len(SHARES)).argmin(axis=1) + np.arange(len(able)) * len(SHARES)
    chosen = [(splits[k][1], layers[splits[k][0]].K - splits[k][1]) for k in best]
    shape = (end.shape[0], len(layers), 1)

    def column(values: Sequence[Array], empty: float) -> Array:
        full = np.full(shape, empty)
        full[:, able, 0] = np.sum(values, axis=0)[:, best]
        return full

    used = [costs.utilization[:, :, core] * t for (costs, core), t in zip(sides, times, strict=True)]
    share = [np.divide(u, 2 * end, out=np.zeros_like(end), where=np.isfinite(end)) for u in used]
    names = sorted({name for costs in both for name in costs.parts})
    return LayerCosts(
        cycles=column([end], np.inf),
        energy_pj=column([c.energy_pj[:, :, k] for c, k in sides], np.inf),
        parts={n: column([c.parts[n][:, :, k] for c, k in sides if n in c.parts], 0.0) for n in names},
        utilization=column(share, 0.0),
        peak_bytes=column([c.peak_bytes[:, :, k] for c, k in sides], 0.0),
    ), chosen


def _joined(tables: Sequence[LayerCosts]) -> LayerCosts:
    """Tables side by side; parts and levels that one does not have are 0."""

    def join(key: str) -> dict[str, Array]:
        names = sorted({name for t in tables for name in getattr(t, key)})
        return {n: _side_by_side([getattr(t, key).get(n, np.zeros_like(t.cycles)) for t in tables]) for n in names}

    return LayerCosts(
        cycles=_side_by_side([t.cycles for t in tables]),
        energy_pj=_side_by_side([t.energy_pj for t in tables]),
        parts=join("parts"),
        utilization=_side_by_side([t.utilization for t in tables]),
        peak_bytes=_side_by_side([t.peak_bytes for t in tables]),
        levels=join("levels"),
    )


def _side_by_side(arrays: Sequence[Array]) -> Array:
    return np.concatenate(arrays, axis=2)


def _extended(chip: Accelerator, teams: Mapping[str, tuple[str, str]]) -> Accelerator:
    """The chip with teams as further cores on their members' memory."""
    cores = (*chip.cores, *(replace(chip.core(members[0]), name=name) for name, members in teams.items()))
    memories = tuple(
        replace(m, cores=(*m.cores, *(n for n, members in teams.items() if members[0] in m.cores)))
        for m in chip.activation_memories
    )
    return replace(chip, cores=cores, activation_memories=memories)
