"""Lowering: MACs as counted by hooks during a real forward pass, shapes as they occur, bits from producers."""

import pytest
import torch
from hypothesis import given, settings
from torch import nn

from nn_networks import CLASSES, SHAPE, architectures
from offramp.ir.architecture import Architecture, ExitChoice, Precision
from offramp.ir.workload import Op
from offramp.nn.backbones import BACKBONES, backbone
from offramp.nn.branches import BRANCHES
from offramp.nn.lower import lower
from offramp.nn.network import EarlyExitNetwork, build, skeleton


def counted(network: EarlyExitNetwork) -> dict[str, tuple[int, int]]:
    """Layer -> (MACs, output elements) of one real forward pass of one sample."""
    seen: dict[str, tuple[int, int]] = {}

    def count(name: str, module: nn.Module, y: torch.Tensor) -> None:
        per_output = module.weight[0].numel() if isinstance(module, nn.Conv2d | nn.Linear) else 0
        seen[name] = (per_output * y.numel(), y.numel())

    kinds = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
    for name, module in network.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda m, _, y, name=name: count(name, m, y))
    network.eval()(torch.randn(1, *network.input_shape))
    return seen


@given(architectures())
@settings(max_examples=25, deadline=None)
def test_macs_and_sizes_are_those_of_a_real_forward_pass(architecture: Architecture) -> None:
    network = build(architecture, SHAPE, CLASSES, seed=0)
    layers = {layer.name: layer for layer in lower(network).layers}
    seen = counted(network)
    assert {
        name: (layer.macs, layer.output_elements) for name, layer in layers.items() if layer.op is not Op.ADD
    } == seen


@given(architectures())
@settings(max_examples=25, deadline=None)
def test_no_choice_makes_a_network_larger_than_the_full_one(architecture: Architecture) -> None:
    full = backbone(architecture.backbone, SHAPE, CLASSES)
    largest = Architecture(backbone=architecture.backbone, exits=architecture.exits)
    small, large = (lower(skeleton(a, full)) for a in (architecture, largest))
    assert small.macs <= large.macs
    table = {layer.name: layer for layer in large.layers}
    for layer in small.layers:
        assert layer.macs <= table[layer.name].macs
        assert layer.weight_elements <= table[layer.name].weight_elements


@pytest.mark.parametrize("shape", [(3, 32, 32), (9, 1, 128), (1, 49, 10), (1, 5, 3)])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_with_every_branch_lowers(name: str, shape: tuple[int, int, int]) -> None:
    full = backbone(name, shape, 6)
    for kind in BRANCHES:
        exits = tuple(ExitChoice(i, kind) for i in range(len(full.blocks) - 1))
        workload = lower(skeleton(Architecture(backbone=name, exits=exits), full))
        assert len(workload.stages) == len(full.blocks)
        assert [s.branch[-1].out_channels for s in workload.stages] == [6] * len(full.blocks)


def test_the_sizes_of_a_loop_nest() -> None:
    network = build(Architecture(backbone="dscnn"), (1, 49, 10), 12, seed=0)
    first, dw, pw = lower(network).layers[:3]
    assert (first.op, first.K, first.C, first.FY, first.FX) == (Op.CONV, 64, 1, 10, 4)
    assert (first.OY, first.OX, first.IY, first.IX, first.stride, first.padding) == (
        25,
        5,
        49,
        10,
        (2, 2),
        (5, 5, 1, 1),
    )
    assert (dw.op, dw.G, dw.K, dw.C, dw.FY, dw.FX) == (Op.DEPTHWISE, 64, 1, 1, 3, 3)
    assert (pw.op, pw.G, pw.K, pw.C, pw.inputs) == (Op.CONV, 1, 64, 64, ("block1.dw",))


def test_bits_come_from_the_producer() -> None:
    architecture = Architecture(backbone="resnet8", exits=(ExitChoice(1, "maxpool_2fc"),))
    network = build(architecture, SHAPE, CLASSES, seed=0)
    precision = {"block1.conv1": Precision(2, 4), "block1.add": Precision(8, 7), "block0.conv": Precision(4, 4)}
    layers = {x.name: x for x in lower(network, precision=precision, adc_bits={"block1.conv1": 6}).layers}
    assert layers["block0.conv"].input_bits == 8
    assert (layers["block1.conv1"].weight_bits, layers["block1.conv1"].adc_bits) == (2, 6)
    assert layers["block1.conv2"].input_bits == 4
    assert (layers["block1.add"].input_bits, layers["block1.add"].output_bits) == (8, 7)
    assert (layers["exit1.pool"].input_bits, layers["exit1.pool"].output_bits) == (7, 7)
    assert layers["exit1.fc1"].input_bits == 7
    assert layers["exit1.fc1"].inputs == ("exit1.pool",)


def test_default_precision_reaches_every_layer() -> None:
    network = skeleton(Architecture(backbone="resnet8"), backbone("resnet8", SHAPE, CLASSES))
    workload = lower(network, default=Precision(4, 7))
    assert {x.weight_bits for x in workload.layers} == {4}
    assert {x.output_bits for x in workload.layers} == {7}
