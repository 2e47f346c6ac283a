"""Layers that round as the chip will: each owns its rounded weights, batch norm, activation and output quantizer.

A kept batch norm trains on the statistics of its batch and, in evaluation, is a scale per channel of the integer
weights, so conversion never rounds a weight again (Krishnamoorthi, arXiv 1806.08342, section 3.2.2). `nn.quantize`
puts the layers together; nothing here knows a network.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from offramp.errors import AccelerationError
from offramp.ir.architecture import Precision
from offramp.ir.quantized import Activation, NodeOp
from offramp.nn.analog import AnalogArray, AnalogSettings, NoiseSource
from offramp.nn.fold import norm_affine
from offramp.nn.graph import FusedNode
from offramp.nn.quantizers import StepQuantizer, WeightQuantizer
from offramp.nn.shapes import total_padding

_BIAS_LIMIT = 2.0**30


class QuantizedLayer(nn.Module):
    """A convolution or dense layer with rounded weights, its batch norm, activation and output quantizer.

    Args:
        node: what belongs together.
        module, norm: where weights and batch norm come from (copied).
        source: quantizer of the input tensor.
        analog: settings when an array computes it.
    """

    def __init__(
        self,
        node: FusedNode,
        module: nn.Conv2d | nn.Linear,
        norm: nn.BatchNorm2d | None,
        *,
        precision: Precision,
        source: StepQuantizer,
        analog: AnalogSettings | None,
        noise: NoiseSource,
    ) -> None:
        super().__init__()
        self.node, self._source = node, (source,)
        self.weight = nn.Parameter(module.weight.detach().clone())
        self.bias = None if module.bias is None else nn.Parameter(module.bias.detach().clone())
        self.norm = _copy_norm(norm)
        self.precision = Precision(2, precision.activation_bits) if analog else precision
        self.weight_quantizer = WeightQuantizer(self.weight.detach(), self.precision.weight_bits)
        self.output: StepQuantizer | None = None
        self.conv = isinstance(module, nn.Conv2d)
        self.stride, self.groups = (1, 1), 1
        if isinstance(module, nn.Conv2d):
            self.stride, self.groups = (int(module.stride[0]), int(module.stride[1])), module.groups
        self.padding = (0, 0, 0, 0) if isinstance(module, nn.Linear) else total_padding(node, module)
        self.array = None if analog is None else self._make_array(analog, noise)
        if self.array is not None and self.norm is not None:
            self._measure_in_ternary_sums(self.norm)

    def _make_array(self, settings: AnalogSettings, noise: NoiseSource) -> AnalogArray:
        if self.groups != 1:
            given = f"a convolution of {self.groups} groups on an analog array"
            raise AccelerationError(given, wanted="groups = 1, or a digital core", where=f"layer {self.node.name}")
        fan_in = (*self.weight.shape[1:], 1, 1)[:3]
        return AnalogArray(settings, fan_in, self._source[0], noise, self.node.name)

    def _measure_in_ternary_sums(self, norm: nn.BatchNorm2d) -> None:
        """After an array the norm sees sums of ternary weights: what follows makes their scale and bias idle."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        step = self.weight_quantizer.step(self.weight).detach().reshape(-1)
        norm.running_mean.sub_(0.0 if self.bias is None else self.bias.detach()).div_(step)
        norm.running_var.div_(step.square())
        self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """Real values on the output quantizer's grid, or logits."""
        if not self.training and self.array is None:
            return self._evaluate(x)
        y = self._train(x) if self.training else self._read(x)
        return activate(y, self.node.activation) if self.output is None else self.output(y)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The bare matrix product with the layer's geometry, in the input's precision whatever it is computed in."""
        if not self.conv:
            return F.linear(x, weight, bias).to(x.dtype)
        top, bottom, left, right = self.padding
        if (top, left) != (bottom, right):
            x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
        return F.conv2d(x, weight, bias, self.stride, (top, left), 1, self.groups).to(x.dtype)

    def _train(self, x: Tensor) -> Tensor:
        if self.array is None:
            y = self.product(x, self.weight_quantizer(self.weight), self.bias)
        else:
            step = self.weight_quantizer.step(self.weight)
            y = self.array(x, self.weight_quantizer(self.weight) / step, self.product)
            y = y if self.norm is not None else _per_channel(y, step.reshape(-1), self.bias)
        return y if self.norm is None else self.norm(y)

    def _read(self, x: Tensor) -> Tensor:
        """The array's product with the scales and biases of evaluation."""
        assert self.array is not None
        integers, scale, bias = self.frozen()
        return _per_channel(self.array(x, integers, self.product), scale, bias)

    @torch.no_grad()
    def _evaluate(self, x: Tensor) -> Tensor:
        """Sums of integers, exact in float32 below 2^24, and one multiplication per output, as a chip does it."""
        integers, scale, bias = self.frozen()
        unit = self.input_step.double() * scale.double()
        q = (x * self.input_step.reciprocal()).round_()
        total = self.product(q, integers, (bias / unit).round().float())
        if self.output is None:
            return activate(_per_channel(total, unit.float(), None), self.node.activation)
        step = self.output.step
        position = _per_channel(total, (unit / step.double()).float(), None)
        return position.clamp_(self.output.low, self.output.high).round_().mul_(step)

    @property
    def input_step(self) -> Tensor:
        """Step of what is multiplied: that of the input tensor, or of the array's DAC."""
        return self._source[0].step if self.array is None else self.array.dac_step

    @torch.no_grad()
    def frozen(self) -> tuple[Tensor, Tensor, Tensor]:
        """Integer weights (as float), real scale (K,) and bias (K,), batch norm included.

        The bias is a multiple of input step * scale, as the accumulator holds it. A channel whose bias would not fit
        into 31 bits beside its weights is dead: its weights become 0 and its scale grows until the bias fits.
        """
        scale = self.weight_quantizer.step(self.weight).reshape(-1)
        if self.array is not None and self.norm is not None:
            scale = torch.ones_like(scale)
        bias = torch.zeros_like(scale) if self.bias is None else self.bias.detach()
        integers = self.weight_quantizer.integers(self.weight)
        if self.norm is not None:
            factor, shift = norm_affine(self.norm)
            scale, bias = scale * factor, bias * factor + shift
        flip = torch.where(scale < 0, -1.0, 1.0)
        least = torch.clamp(bias.abs() / (self.input_step * _BIAS_LIMIT), min=1e-12)
        flip = torch.where(scale.abs() < least, 0.0, flip)
        scale = torch.maximum(scale.abs(), least)
        unit = self.input_step * scale
        return integers * flip.reshape(-1, *[1] * (integers.dim() - 1)), scale, (bias / unit).round() * unit


class QuantizedAdd(nn.Module):
    """An addition with its activation and output quantizer."""

    def __init__(self, node: FusedNode, precision: Precision) -> None:
        super().__init__()
        self.node, self.precision = node, precision
        self.output: StepQuantizer | None = None

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The rounded sum."""
        return activate(a + b, self.node.activation) if self.output is None else self.output(a + b)


class Reshaping(nn.Module):
    """Pools and flatten; an average has an output quantizer, the others keep their input's."""

    def __init__(self, node: FusedNode, precision: Precision) -> None:
        super().__init__()
        self.node, self.precision = node, precision
        self.output: StepQuantizer | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The pooled or flattened tensor."""
        y = _reshape(self.node, x)
        return self.output(y) if self.output is not None and self.node.op is NodeOp.AVG_POOL else y


def _reshape(node: FusedNode, x: Tensor) -> Tensor:
    pool = node.pool
    if pool is None:
        return x.flatten(1)
    largest = node.op is NodeOp.MAX_POOL
    if pool.output is not None:
        return F.adaptive_max_pool2d(x, pool.output) if largest else F.adaptive_avg_pool2d(x, pool.output)
    padding = (pool.padding[0], pool.padding[2])
    pooled = F.max_pool2d if largest else F.avg_pool2d
    return pooled(x, pool.kernel, pool.stride, padding)


def activate(x: Tensor, activation: Activation) -> Tensor:
    """The nonlinearity without rounding."""
    match activation:
        case Activation.RELU:
            return x.relu()
        case Activation.RELU6:
            return F.relu6(x)
        case _:
            return x


def _per_channel(x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    shape = (1, -1, *[1] * (x.dim() - 2))
    y = x * scale.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _copy_norm(norm: nn.BatchNorm2d | None) -> nn.BatchNorm2d | None:
    if norm is None:
        return None
    copy = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine)
    copy.load_state_dict(norm.state_dict())
    return copy.to(next(iter(norm.state_dict().values())).device)
