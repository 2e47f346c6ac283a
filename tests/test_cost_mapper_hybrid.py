"""Hybrid layers: two cores on one memory share output channels where both compute the same, and only there."""

from dataclasses import replace

import numpy as np
import pytest

from offramp.cost.engine import FastCostModel
from offramp.cost.hybrid import with_teams
from offramp.cost.mapper import map_network
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.accelerator import Accelerator
from offramp.ir.workload import INPUT, Layer, Op, Stage, Workload


def twins() -> Accelerator:
    """DIANA with a second digital core on the same activation memory."""
    chip = load_accelerator("diana")
    second = replace(chip.core("digital"), name="digital2")
    memories = tuple(replace(m, cores=(*m.cores, "digital2")) for m in chip.activation_memories)
    return replace(chip, cores=(*chip.cores, second), activation_memories=memories)


def network(bits: int = 8, adc: int = 0) -> Workload:
    layers = []
    for i in range(3):
        layers.append(
            Layer(
                name=f"l{i}", op=Op.CONV, K=64, C=64, OY=16, OX=16, FY=3, FX=3, IY=16, IX=16, padding=(1, 1, 1, 1),
                inputs=(f"l{i - 1}" if i else INPUT,), weight_bits=bits, adc_bits=adc, input_bits=8 if not adc else 7,
            )
        )  # fmt: skip
    return Workload("conv", (Stage(backbone=tuple(layers)),))


def test_a_team_takes_the_later_end_and_both_energies() -> None:
    workload, chip, model = network(), twins(), FastCostModel()
    costs = model.layer_costs(workload.layers, chip)
    wider, table, teams = with_teams(workload.layers, chip, costs, model)
    assert teams is not None
    assert list(teams.cores) == ["digital+digital2"]
    team = wider.core_names.index("digital+digital2")
    ks = teams.shares["digital+digital2", "l1"]
    assert sum(ks) == 64
    parts = model.layer_costs([replace(workload.layers[1], K=k) for k in ks], chip)
    a, b = chip.core_names.index("digital"), chip.core_names.index("digital2")
    np.testing.assert_allclose(table.cycles[:, 1, team], np.maximum(parts.cycles[:, 0, a], parts.cycles[:, 1, b]))
    np.testing.assert_allclose(table.energy_pj[:, 1, team], parts.energy_pj[:, 0, a] + parts.energy_pj[:, 1, b])
    np.testing.assert_allclose(sum(v[:, 1, team] for v in table.parts.values()), table.energy_pj[:, 1, team])
    np.testing.assert_array_equal(table.cycles[:, :, : len(chip.cores)], costs.cycles)


def test_the_mapper_shares_layers_when_that_is_faster() -> None:
    workload, chip, model = network(), twins(), FastCostModel()
    apart = map_network(workload, chip, costs=model.layer_costs(workload.layers, chip), objective="latency")
    shared = map_network(workload, chip, cost_model=model, objective="latency")
    assert shared.latency_cycles < apart.latency_cycles
    split = [a for a in shared.mapping.assignments if a.channels is not None]
    assert split
    assert shared.mapping.cores[split[0].layer] == "digital+digital2"
    for name in {a.layer for a in split}:
        assert sum(a.channels or 0 for a in split if a.layer == name) == 64
    assert shared.macs == apart.macs
    for x in shared.layers:
        assert 0 <= x.utilization <= 1
        assert sum(x.energy_parts.values()) == pytest.approx(x.energy_pj)


def test_cores_with_other_numerics_or_other_speeds_share_nothing() -> None:
    model, diana = FastCostModel(), load_accelerator("diana")
    for workload in (network(), network(bits=2, adc=6)):
        costs = model.layer_costs(workload.layers, diana)
        chip, table, teams = with_teams(workload.layers, diana, costs, model)
        assert teams is None
        assert chip is diana
        assert table is costs
