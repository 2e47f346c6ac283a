"""Conversion law: integers evaluated as `ir.quantized` says equal the prepared torch network.

The evaluation here is written from that docstring alone, with exact float64 sums; it shares no code with training.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from offramp.data import load_dataset
from offramp.deploy.plan import make_plan
from offramp.deploy.reference import evaluate as integers
from offramp.deploy.reference import quantize
from offramp.errors import UserError
from offramp.ir.architecture import Architecture, ExitChoice, Precision
from offramp.ir.quantized import Activation, Node, NodeOp, QuantizedNetwork, Quantizer
from offramp.ir.workload import INPUT
from offramp.learn.predict import predict
from offramp.learn.train import TrainConfig, fit
from offramp.nn.analog import AnalogSettings
from offramp.nn.convert import convert
from offramp.nn.fold import fold_batchnorm
from offramp.nn.importer import import_module
from offramp.nn.network import build
from offramp.nn.quantize import PreparedNetwork, calibrate, prepare
from offramp.nn.shared import supernet

Values = Mapping[str, torch.Tensor]


def to_grid(x: torch.Tensor, q: Quantizer) -> torch.Tensor:
    return (x / q.scale).round().clamp(q.low, q.high)


def matmul(node: Node, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if node.op is NodeOp.DENSE:
        return F.linear(x, weight)
    top, bottom, left, right = node.padding
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, None, node.stride, 0, 1, node.groups)


def weighted(node: Node, q: torch.Tensor, source: Quantizer) -> torch.Tensor:
    """acc * s_x * s_w + bias in real units."""
    assert node.weight is not None
    assert node.weight_scale is not None
    assert node.bias is not None
    weight, scale, step = torch.tensor(node.weight, dtype=torch.float64), node.weight_scale, source.scale
    if node.analog is None:
        acc = matmul(node, q, weight)
    else:
        dac, adc = node.analog.input, node.analog.adc
        q, step = to_grid(q * source.scale, dac), dac.scale
        size = node.analog.rows // (node.kernel[0] * node.kernel[1])
        acc = torch.zeros(())
        for a, w in zip(q.split(size, 1), weight.split(size, 1), strict=True):
            acc = acc + to_grid(matmul(node, a, w), adc) * adc.scale
    shape = (1, -1, *[1] * (acc.dim() - 2))
    unit = torch.tensor(scale, dtype=torch.float64).reshape(shape) * step
    bias = (torch.tensor(node.bias, dtype=torch.float64).reshape(shape) / unit).round()
    assert bias.abs().max() < 2**31
    return (acc + bias) * unit


def run_node(node: Node, values: Values, grids: dict[str, Quantizer]) -> torch.Tensor:
    source, first = grids.get(node.inputs[0]), values[node.inputs[0]]
    assert source is not None
    if node.op in (NodeOp.MAX_POOL, NodeOp.FLATTEN):
        grids[node.name] = source
        return first.flatten(1) if node.op is NodeOp.FLATTEN else max_pool(node, first)
    if node.op is NodeOp.ADD:
        y = first * source.scale + values[node.inputs[1]] * grids[node.inputs[1]].scale
    elif node.op is NodeOp.AVG_POOL:
        assert node.padding == (0, 0, 0, 0)
        y = F.avg_pool2d(first, node.kernel, node.stride) * source.scale
    else:
        y = weighted(node, first, source)
    if node.activation is not Activation.NONE:
        y = y.clamp(0, 6 if node.activation is Activation.RELU6 else None)
    if node.output is None:
        return y
    grids[node.name] = node.output
    return to_grid(y, node.output)


def max_pool(node: Node, x: torch.Tensor) -> torch.Tensor:
    top, bottom, left, right = node.padding
    return F.max_pool2d(F.pad(x, (left, right, top, bottom)), node.kernel, node.stride)


def evaluate(network: QuantizedNetwork, x: torch.Tensor) -> list[torch.Tensor]:
    """Logits of every exit."""
    values = {network.input_name: to_grid(x.double(), network.input)}
    grids, logits = {network.input_name: network.input}, []
    for stage in network.stages:
        for node in (*stage.backbone, *stage.branch):
            values[node.name] = run_node(node, values, grids)
        logits.append(values[stage.logits])
    return logits


CASES: dict[str, dict[str, Any]] = {
    "eight bits": {},
    "four bits": {"default": Precision(4, 4)},
    "ternary, seven bits": {"default": Precision(2, 7)},
    "mixed": {"precision": {"block1.conv1": Precision(2, 8), "block2.conv2": Precision(4, 7)}},
    "analog": {"analog": {"block1.conv1": AnalogSettings(), "block3.conv2": AnalogSettings(rows=288)}},
}


def prepared(case: str, shape: tuple[int, int, int], backbone: str, kind: str, folded: bool) -> PreparedNetwork:
    exits = (ExitChoice(1, kind),)
    network = build(Architecture(backbone=backbone, exits=exits), shape, 10, seed=0)
    rounded = prepare(fold_batchnorm(network.eval()) if folded else network, **CASES[case])
    generator = torch.Generator().manual_seed(0)
    calibrate(rounded, [torch.randn(64, *shape, generator=generator) for _ in range(3)])
    return rounded.eval()


def integers_of(rounded: PreparedNetwork, x: torch.Tensor) -> Values:
    """All tensors of the prepared network in evaluation mode as integers; logits as they are."""
    seen = {INPUT: (rounded.input(x) / rounded.input.step).detach().round().double()}
    with torch.no_grad():
        for stage in rounded.eval().stage_nodes:
            for node in (*stage.backbone, *stage.branch):
                steps = [rounded.quantizer_of(i).step for i in node.inputs]
                inputs = [(seen[i] * s).float() for i, s in zip(node.inputs, steps, strict=True)]
                y = rounded.layer(node.name)(*inputs)
                unit = 1.0 if node.name == stage.logits else rounded.quantizer_of(node.name).step
                seen[node.name] = (y / unit).double() if node.name == stage.logits else (y / unit).round().double()
    return seen


def agree(rounded: PreparedNetwork, n: int = 128) -> None:
    """Layer by layer on the same integers: off by one step in at most 1 of 5,000 elements; logits equal."""
    x = torch.randn(n, *rounded.input_shape, generator=torch.Generator().manual_seed(1))
    converted = convert(rounded, "case")
    torch_side = integers_of(rounded, x)
    grids = {converted.input_name: converted.input}
    for stage in converted.stages:
        for node in (*stage.backbone, *stage.branch):
            ours, theirs = torch_side[node.name], run_node(node, torch_side, grids)
            if node.name == stage.logits:
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
                continue
            assert (ours - theirs).abs().max() <= (1 if node.analog is None else torch.inf), node.name
            assert (ours != theirs).double().mean() < 2e-4, node.name


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_integers_equal_the_prepared_network(case: str, folded: bool) -> None:
    agree(prepared(case, (3, 16, 16), "resnet8", "conv_gap_fc", folded))


@pytest.mark.parametrize(
    ("backbone", "shape", "kind"),
    [
        ("mobilenetv2", (3, 16, 16), "maxpool_2fc"),
        ("dscnn", (1, 49, 10), "gap_fc"),
        ("resnet20", (3, 16, 16), "gap_fc"),
    ],
)
def test_other_networks_too(backbone: str, shape: tuple[int, int, int], kind: str) -> None:
    agree(prepared("eight bits", shape, backbone, kind, False), n=32)


class ConvolutionLast(nn.Module):
    """Logits from a convolution, then (where asked for) a mean, then a flattening: no linear layer."""

    def __init__(self, *, mean: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2)
        self.c, self.pool = nn.Conv2d(8, 3, 1 if mean else (3, 4)), nn.AdaptiveAvgPool2d(1) if mean else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.c(F.relu(self.b(F.relu(self.a(x)))))).flatten(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("mean", [False, True])
def test_logits_may_come_from_a_convolution_or_a_mean(mean: bool) -> None:
    """They were rounded to 8 bits, and conversion refused them after all training."""
    torch.manual_seed(0)
    full, x = import_module(ConvolutionLast(mean=mean), (1, 7, 9)), torch.randn(64, 1, 7, 9)
    rounded = prepare(supernet(full, [ExitChoice(0)], seed=0))
    calibrate(rounded, [x])
    plan = make_plan(convert(rounded.eval(), "mine"))
    exact = integers(plan, quantize(x.numpy(), plan.network.input)).logits
    for ours, theirs in zip(rounded(x), exact, strict=True):
        torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float32), atol=2e-3, rtol=1e-3)
    assert len(set(rounded(x)[1].flatten().tolist())) > 100


def test_a_trained_network_decides_the_same() -> None:
    """End to end on real digits, mixed precision: the same class on every validation sample, at every exit."""
    data = load_dataset("digits")
    network = build(Architecture(backbone="resnet8", exits=(ExitChoice(1),)), data.input_shape, 10, seed=0)
    fit(network, data.train, epochs=3, seed=0)
    rounded = prepare(network, {"block2.conv1": Precision(2, 7)}, analog={"block3.conv1": AnalogSettings()})
    calibrate(rounded, [torch.as_tensor(data.train.x[:256])])
    fit(rounded, data.train, epochs=1, seed=0, config=TrainConfig(learning_rate=1e-3))
    logits = evaluate(convert(rounded, "digits"), torch.as_tensor(data.val.x))
    ours = predict(rounded, data.val.x)
    for a, b in zip(ours, logits, strict=True):
        assert (a.argmax(1) == b.argmax(1).numpy()).mean() >= 0.999


def test_the_contract_holds() -> None:
    network = convert(prepared("mixed", (3, 16, 16), "resnet8", "gap_fc", False), "name", [1.5, 2.0])
    assert network.temperatures == (1.5, 2.0)
    assert network.stages[0].mounting_point == 1
    for stage in network.stages:
        for node in (*stage.backbone, *stage.branch):
            if node.weight is None:
                continue
            high = (1 << node.weight_bits - 1) - 1
            assert node.weight.dtype == np.int8
            assert np.abs(node.weight).max() <= high
            assert node.weight_scale is not None and (node.weight_scale > 0).all()
            assert node.weight_scale.dtype == np.float32
            assert node.bias is not None and np.isfinite(node.bias).all()
        assert stage.branch[-1].output is None


def test_wrong_temperatures_are_refused() -> None:
    rounded = prepared("eight bits", (1, 8, 8), "resnet8", "gap_fc", False)
    for wrong in ([1.0], [1.0, 0.0]):
        with pytest.raises(UserError, match="2 above 0, one per exit"):
            convert(rounded, "name", wrong)
