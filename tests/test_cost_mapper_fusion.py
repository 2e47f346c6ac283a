"""Depth-first fusion: stripes conserve the work, fit their buffers, and spare the outer memory."""

from dataclasses import replace
from itertools import pairwise

import pytest

from offramp.cost.engine import FastCostModel
from offramp.cost.fusion import find_fusion
from offramp.cost.mapper import map_network
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.accelerator import Accelerator
from offramp.ir.workload import INPUT, Layer, Op, Stage, Workload

SIDE = 64


def conv(name: str, source: str, channels: int, made: int, side: int = SIDE, kernel: int = 3, stride: int = 1) -> Layer:
    out = side // stride
    return Layer(
        name=name, op=Op.CONV, K=made, C=channels, OY=out, OX=out, FY=kernel, FX=kernel, IY=side, IX=side,
        stride=(stride, stride), padding=(1, 1, 1, 1), inputs=(source,),
    )  # fmt: skip


def chain() -> Workload:
    """Three convolutions whose tensors are 256 KiB, 256 KiB and 64 KiB."""
    layers = (conv("a", INPUT, 3, 64), conv("b", "a", 64, 64), conv("c", "b", 64, 64, stride=2))
    return Workload("chain", (Stage(backbone=layers),))


def small_chip(kib: int) -> Accelerator:
    chip = load_accelerator("diana")
    memories = tuple(replace(m, size_bytes=kib * 1024) for m in chip.activation_memories)
    return replace(chip, activation_memories=memories)


@pytest.mark.parametrize("kib", [32, 64, 128])
def test_stripes_conserve_the_work_and_fit_their_memory(kib: int) -> None:
    workload = chain()
    fusion = find_fusion(workload, small_chip(kib), FastCostModel())
    assert fusion is not None
    assert sorted(fusion.layers) == [0, 1, 2]
    counts = {s.count for s in fusion.layers.values()}
    assert len(counts) == 1
    (count,) = counts
    for i, stripes in fusion.layers.items():
        layer = workload.layers[i]
        assert stripes.input_bytes + stripes.output_bytes <= kib * 1024 or i == 2
        assert -(-layer.OY // count) * count >= layer.OY
        if stripes.next >= 0:
            assert stripes.output_bytes == fusion.layers[stripes.next].input_bytes
    tighter = find_fusion(workload, small_chip(kib // 2), FastCostModel())
    assert tighter is None or next(iter(tighter.layers.values())).count > count
    assert (tighter is None) == (kib == 32)  # three rows before and after a layer no longer fit


def test_fusion_spares_the_outer_memory_where_tensors_do_not_fit() -> None:
    workload, chip, model = chain(), small_chip(128), FastCostModel()
    costs = model.layer_costs(workload.layers, chip)
    apart = map_network(workload, chip, costs=costs, objective="energy")
    fused = map_network(workload, chip, cost_model=model, objective="energy")
    assert fused.energy_pj < apart.energy_pj
    assert fused.latency_cycles < apart.latency_cycles
    assert fused.level_bytes["l1"] <= 128 * 1024
    assert fused.macs == apart.macs
    for layer in fused.layers:
        assert sum(layer.energy_parts.values()) == pytest.approx(layer.energy_pj)
    ends = [(layer.start, layer.end) for layer in fused.layers]
    assert all(a[1] <= b[0] for a, b in pairwise(ends))


def test_nothing_is_cut_where_everything_fits_or_layer_by_layer_is_asked_for() -> None:
    workload, model = chain(), FastCostModel()
    assert find_fusion(workload, small_chip(1024), model) is None
    plain = map_network(workload, small_chip(64), cost_model=model, execution="layer-by-layer")
    costs = model.layer_costs(workload.layers, small_chip(64))
    assert plain.energy_pj == pytest.approx(float(costs.energy_pj[0].min(axis=1).sum()))


def test_a_tensor_with_two_readers_is_not_streamed() -> None:
    layers = (
        conv("a", INPUT, 3, 64),
        conv("b", "a", 64, 64),
        Layer(name="sum", op=Op.ADD, G=64, K=1, C=1, OY=SIDE, OX=SIDE, IY=SIDE, IX=SIDE, inputs=("b", "a")),
        conv("c", "sum", 64, 64),
        conv("d", "c", 64, 8),
    )
    fusion = find_fusion(Workload("skip", (Stage(backbone=layers),)), small_chip(64), FastCostModel())
    assert fusion is not None
    assert sorted(fusion.layers) == [3, 4]


@pytest.mark.parametrize("execution", ["best", "layer-by-layer"])
def test_an_output_in_the_middle_of_the_backbone_is_mapped(execution: str) -> None:
    """An ONNX file with two classifiers is one stage: nobody reads the first of them."""
    head = Layer(name="head", op=Op.DENSE, K=10, C=3 * SIDE * SIDE, inputs=(INPUT,))
    layers = (conv("a", INPUT, 3, 64), head, conv("b", "a", 64, 64))
    cost = map_network(
        Workload("two", (Stage(backbone=layers),)), small_chip(64), cost_model=FastCostModel(), execution=execution
    )
    assert [x.name for x in cost.layers] == ["a", "head", "b"]
    assert cost.latency_cycles >= max(x.end for x in cost.layers)
    assert cost.energy_pj == pytest.approx(sum(x.energy_pj for x in cost.layers))
