"""A converted network with every number that integer arithmetic needs: shapes, int32 biases, multipliers and shifts.

The reference interpreter, the ONNX writer and the C generator all read this plan, so they cannot differ in a constant.
It also is the place where a converted network is verified: names, order, shapes, ranges. Requantization follows
gemmlowp and Jacob et al. (CVPR 2018): `round_half_even(a * M / 2^s)` with a 31-bit M and a 64-bit product; ties go to
the even neighbour, as torch, ONNX and IEEE 754 round, where gemmlowp rounds them away from zero.
It knows neither a runtime nor a file format.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.errors import FormatError
from offramp.ir.quantized import Activation, Node, NodeOp, QuantizedNetwork, QuantizedStage, Quantizer

Ints = NDArray[np.int64]
INT32_MAX = 2**31 - 1
SCORE_BITS = 20
"""Most fractional bits of an exit's integer scores (logits in units of temperature * ln 2)."""
SUMS = frozenset({NodeOp.CONV, NodeOp.DENSE})
ALIASES = frozenset({NodeOp.FLATTEN})


@dataclass(frozen=True, slots=True)
class Tensor:
    """An activation: the name of its producer, (C, H, W), its quantizer; `flat` once no rows and columns are left."""

    name: str
    shape: tuple[int, int, int]
    quantizer: Quantizer | None
    flat: bool = False

    @property
    def size(self) -> int:
        """Elements of one sample."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class FixedPoint:
    """`round_half_even((a * multiplier + offset) / 2^shift)` per channel: arrays of equal length, 1 or K.

    `ratio` is the real number that multiplier / 2^shift stands for, `real_offset` the one of offset / 2^shift.
    """

    multiplier: Ints
    shift: Ints
    offset: Ints
    ratio: NDArray[np.float64]
    real_offset: NDArray[np.float64]

    def channel(self, index: int) -> "FixedPoint":
        """One channel alone."""
        at = slice(index, index + 1)
        return FixedPoint(self.multiplier[at], self.shift[at], self.offset[at], self.ratio[at], self.real_offset[at])


@dataclass(frozen=True, slots=True, eq=False)
class AnalogPlan:
    """An analog layer in integers.

    Attributes:
        dac: from the input's integers to the input converter's, None when the input has no more bits than that.
        dac_range: range of the input converter.
        block: input channels of one array block.
        adc: from a partial sum to ADC codes.
        adc_range: range of the codes.
        adc_scale: products in one code.
    """

    dac: FixedPoint | None
    dac_range: tuple[int, int]
    block: int
    adc: FixedPoint
    adc_range: tuple[int, int]
    adc_scale: float


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One node ready to run: `y = clip(rescale(acc), low, high)`.

    Attributes:
        bias: int32 added to the accumulator (digital layers); an analog layer has it in `rescale.offset`.
        rescale: one per input (two for ADD, whose shifts are equal and whose products are summed before the shift).
        scale: real value of one unit of the accumulator, per channel: input scale times weight scale.
        is_logits: the output is an exit's scores, int32.
    """

    node: Node
    sources: tuple[Tensor, ...]
    target: Tensor
    bias: Ints | None
    rescale: tuple[FixedPoint, ...]
    low: int
    high: int
    scale: NDArray[np.float64]
    analog: AnalogPlan | None = None
    is_logits: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StagePlan:
    """Steps of a stage; `names` maps every name visible in the stage to its tensor; `score_unit` in real logits."""

    backbone: tuple[Step, ...]
    branch: tuple[Step, ...]
    received: Tensor
    carried: Tensor
    score_unit: float
    names: dict[str, Tensor]

    @property
    def steps(self) -> tuple[Step, ...]:
        """Backbone, then branch."""
        return self.backbone + self.branch


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A verified network in integers."""

    network: QuantizedNetwork
    input: Tensor
    stages: tuple[StagePlan, ...]
    temperatures: tuple[float, ...]


def make_plan(network: QuantizedNetwork) -> Plan:
    """Verify a converted network and work out its integers.

    Raises:
        FormatError: a name that nobody made, a shape or an integer out of range, an accumulator beyond 32 bits.
    """
    if not network.stages:
        raise FormatError("no stages", wanted="at least one", where=network.name)
    temperatures = network.temperatures or (1.0,) * len(network.stages)
    if len(temperatures) != len(network.stages) or not all(t > 0 and math.isfinite(t) for t in temperatures):
        raise FormatError(
            f"temperatures {temperatures}", wanted="one positive number per exit", where=f"network {network.name}"
        )
    _check_quantizer(network.input, network.input_name)
    first = Tensor(network.input_name, network.input_shape, network.input)
    if min(network.input_shape) < 1:
        raise FormatError(f"input shape {network.input_shape}", wanted="positive (C, H, W)", where=network.name)
    received, stages, taken = first, list[StagePlan](), {network.input_name}
    for stage, temperature in zip(network.stages, temperatures, strict=True):
        stages.append(_plan_stage(stage, received, temperature, network.classes, taken))
        received = stages[-1].carried
    return Plan(network, first, tuple(stages), temperatures)


def _plan_stage(
    stage: QuantizedStage, received: Tensor, temperature: float, classes: int, taken: set[str]
) -> StagePlan:
    where = f"stage at mounting point {stage.mounting_point}"
    names, steps, unit = {received.name: received}, list[Step](), 0.0
    ends = _logits_aliases(stage)
    counts: list[int] = []
    for part in (stage.backbone, stage.branch):
        for node in part:
            if node.name in taken:
                raise FormatError("this name appears twice", wanted="unique node names", where=f"node {node.name}")
            taken.add(node.name)
            sources = tuple(_find(names, source, node.name) for source in node.inputs)
            if node.op in ALIASES:
                names[node.name] = Tensor(sources[0].name, sources[0].shape, sources[0].quantizer, flat=True)
                continue
            step, step_unit = _plan_node(node, sources, temperature if node.name in ends else None)
            unit = step_unit or unit
            steps.append(step)
            names[node.name] = step.target
        counts.append(len(steps))
    carried = _find(names, stage.carried, where)
    logits = _find(names, stage.logits, where)
    if logits.quantizer is not None or logits.size != classes:
        given = f"logits {stage.logits} of shape {logits.shape}"
        raise FormatError(given, wanted=f"{classes} real numbers (a node without output quantizer)", where=where)
    if carried.quantizer is None:
        raise FormatError(f"carried {stage.carried} has no quantizer", wanted="a quantized tensor", where=where)
    return StagePlan(tuple(steps[: counts[0]]), tuple(steps[counts[0] :]), received, carried, unit, names)


def _logits_aliases(stage: QuantizedStage) -> set[str]:
    nodes = {n.name: n for n in (*stage.backbone, *stage.branch)}
    names, name = {stage.logits}, stage.logits
    while name in nodes and nodes[name].op in ALIASES:
        name = nodes[name].inputs[0]
        names.add(name)
    return names


def _find(names: dict[str, Tensor], name: str, where: str) -> Tensor:
    if name not in names:
        wanted = "a tensor of this stage or the one carried by the stage before"
        raise FormatError(f"reads {name!r}", wanted=wanted, where=where)
    return names[name]


def _plan_node(node: Node, sources: tuple[Tensor, ...], temperature: float | None) -> tuple[Step, float]:
    where = f"node {node.name}"
    expected = 2 if node.op is NodeOp.ADD else 1
    if len(sources) != expected:
        raise FormatError(f"{len(sources)} inputs", wanted=f"{expected} for {node.op}", where=where)
    if any(s.quantizer is None for s in sources):
        raise FormatError("reads real logits", wanted="quantized inputs", where=where)
    if node.op is NodeOp.MAX_POOL:
        if node.activation is not Activation.NONE:
            raise FormatError(f"activation {node.activation} on max_pool", wanted="none", where=where)
        target = Tensor(node.name, _pooled(node, sources[0], where), sources[0].quantizer)
        low, high = _range(target)
        return Step(node, sources, target, None, (), low, high, np.ones(1)), 0.0
    if node.output is None and temperature is None:
        raise FormatError(f"{node.op} without output quantizer", wanted="one, unless it makes the logits", where=where)
    if node.output is not None:
        _check_quantizer(node.output, node.name)
    if node.op in SUMS:
        return _plan_sum(node, sources[0], temperature, where)
    return _plan_pointwise(node, sources, temperature, where)


def _plan_pointwise(
    node: Node, sources: tuple[Tensor, ...], temperature: float | None, where: str
) -> tuple[Step, float]:
    """ADD and AVG_POOL: integers times plain ratios."""
    if node.op is NodeOp.ADD:
        if sources[0].shape != sources[1].shape or sources[0].flat != sources[1].flat:
            raise FormatError(f"adds {sources[0].shape} and {sources[1].shape}", wanted="equal shapes", where=where)
        shape, area = sources[0].shape, 1
    else:
        shape, area = _pooled(node, sources[0], where), math.prod(node.kernel)
    scales = np.array([_scale(s) / area for s in sources])
    bounds = np.array([area * max(map(abs, _range(s))) for s in sources])
    unit = _output_unit(node, temperature, float((scales * bounds).sum()))
    flat = node.op is NodeOp.ADD and sources[0].flat
    target = Tensor(node.name, shape, node.output, flat)
    fixed = fit_fixed_point(scales / unit, bounds, np.zeros(len(scales)), common=True)
    parts = tuple(fixed.channel(i) for i in range(len(scales)))
    low, high = _clip_range(node, unit)
    step = Step(node, sources, target, None, parts, low, high, scales, is_logits=node.output is None)
    return step, unit if node.output is None else 0.0


def _plan_sum(node: Node, source: Tensor, temperature: float | None, where: str) -> tuple[Step, float]:
    """CONV and DENSE, digital or analog."""
    weight, weight_scale = _checked_weights(node, source, where)
    channels = len(weight)
    analog, x_scale, x_bound = _plan_analog(node, source, where)
    scale = x_scale * weight_scale
    real_bias = np.zeros(channels) if node.bias is None else node.bias.astype(np.float64)
    if real_bias.shape != (channels,) or not np.isfinite(real_bias).all():
        raise FormatError(f"bias of shape {real_bias.shape}", wanted=f"({channels},) finite numbers", where=where)
    bias = np.rint(real_bias / scale)
    bound = np.abs(weight.astype(np.int64)).reshape(channels, -1).sum(axis=1) * x_bound
    if (bound + np.abs(bias) > INT32_MAX).any():
        raise FormatError("a sum beyond 32 bits", wanted="a smaller bias or fewer inputs", where=where)
    if analog is not None:
        blocks = -(-weight[0].shape[0] // analog.block)
        code_bound = np.full(channels, blocks * max(map(abs, analog.adc_range)))
        bound, ratio, offset = code_bound, scale * analog.adc_scale, bias * scale
    else:
        bound, ratio, offset = bound + np.abs(bias), scale, np.zeros(channels)
    unit = _output_unit(node, temperature, float((bound * ratio + np.abs(offset)).max()))
    fixed = fit_fixed_point(ratio / unit, bound, offset / unit)
    low, high = _clip_range(node, unit)
    shape = (channels, 1, 1) if node.op is NodeOp.DENSE else (channels, *_window(node, source, where))
    target = Tensor(node.name, shape, node.output, node.op is NodeOp.DENSE)
    step = Step(
        node, (source,), target, None if analog else bias.astype(np.int64), (fixed,), low, high, scale, analog,
        is_logits=node.output is None,
    )  # fmt: skip
    return step, unit if node.output is None else 0.0


def _plan_analog(node: Node, source: Tensor, where: str) -> tuple[AnalogPlan | None, float, int]:
    """The array's numbers, the scale of what enters the sums and its largest magnitude."""
    assert source.quantizer is not None
    if node.analog is None:
        return None, source.quantizer.scale, max(map(abs, _range(source)))
    numbers = node.analog
    _check_quantizer(numbers.input, node.name)
    if not (numbers.adc.scale > 0 and math.isfinite(numbers.adc.scale)):
        raise FormatError(f"ADC scale {numbers.adc.scale}", wanted="a positive number", where=where)
    if node.groups != 1:
        raise FormatError(f"{node.groups} groups on the analog core", wanted="1", where=where)
    area = math.prod(node.kernel) if node.op is NodeOp.CONV else 1
    if numbers.rows < area:
        raise FormatError(f"{numbers.rows} rows for a {node.kernel} filter", wanted="at least one channel", where=where)
    entering, dac = source.quantizer, None
    if source.quantizer.bits > numbers.input.bits:
        entering = numbers.input
        ratio = np.array([source.quantizer.scale / entering.scale])
        dac = fit_fixed_point(ratio, np.array([max(map(abs, _range(source)))]), np.zeros(1))
    x_bound = max(abs(entering.low), abs(entering.high))
    adc = fit_fixed_point(np.array([1 / numbers.adc.scale]), np.array([numbers.rows * 128 * x_bound]), np.zeros(1))
    analog = AnalogPlan(
        dac=dac,
        dac_range=(entering.low, entering.high),
        block=numbers.rows // area,
        adc=adc,
        adc_range=(numbers.adc.low, numbers.adc.high),
        adc_scale=numbers.adc.scale,
    )
    return analog, entering.scale, x_bound


def _checked_weights(node: Node, source: Tensor, where: str) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    weight, scale = node.weight, node.weight_scale
    if weight is None or scale is None:
        raise FormatError(f"{node.op} without weights", wanted="integers and a scale per channel", where=where)
    channels = source.shape[0]
    if node.op is NodeOp.DENSE:
        wanted: tuple[int, ...] = (len(weight), source.size)
    else:
        if channels % node.groups or len(weight) % node.groups:
            raise FormatError(f"{node.groups} groups of {channels} channels", wanted="a divisor", where=where)
        wanted = (len(weight), channels // node.groups, *node.kernel)
    if weight.dtype != np.int8 or weight.shape != wanted:
        raise FormatError(f"weights {weight.dtype} {weight.shape}", wanted=f"int8 {wanted}", where=where)
    if not 2 <= node.weight_bits <= 8:
        raise FormatError(f"{node.weight_bits} weight bits", wanted="2 to 8", where=where)
    limit = 1 << (node.weight_bits - 1)
    if weight.size and not (-limit <= int(weight.min()) and int(weight.max()) < limit):
        raise FormatError(f"weights beyond {node.weight_bits} bits", wanted=f"[-{limit}, {limit - 1}]", where=where)
    if scale.shape != (len(weight),) or not (np.isfinite(scale).all() and (scale > 0).all()):
        raise FormatError("weight scales", wanted="one positive number per output channel", where=where)
    return weight, scale.astype(np.float64)


def _window(node: Node, source: Tensor, where: str) -> tuple[int, int]:
    """Output rows and columns of a sliding window."""
    if source.flat:
        raise FormatError("reads a flattened tensor", wanted="rows and columns", where=where)
    (_, height, width), (top, bottom, left, right) = source.shape, node.padding
    rows = (height + top + bottom - node.kernel[0]) // node.stride[0] + 1
    columns = (width + left + right - node.kernel[1]) // node.stride[1] + 1
    if min(rows, columns) < 1 or min(node.padding) < 0:
        raise FormatError(f"a {node.kernel} window on {height} x {width}", wanted="a window that fits", where=where)
    return rows, columns


def _pooled(node: Node, source: Tensor, where: str) -> tuple[int, int, int]:
    return (source.shape[0], *_window(node, source, where))


def _check_quantizer(quantizer: Quantizer, name: str) -> None:
    if not 2 <= quantizer.bits <= 8 or not (quantizer.scale > 0 and math.isfinite(quantizer.scale)):
        wanted = "2 to 8 bits and a positive scale"
        raise FormatError(f"{quantizer.bits} bits at scale {quantizer.scale}", wanted=wanted, where=f"node {name}")


def _range(tensor: Tensor) -> tuple[int, int]:
    assert tensor.quantizer is not None
    return tensor.quantizer.low, tensor.quantizer.high


def _scale(tensor: Tensor) -> float:
    assert tensor.quantizer is not None
    return tensor.quantizer.scale


def _output_unit(node: Node, temperature: float | None, largest: float) -> float:
    """Real value of one output integer: the quantizer's scale, or for logits T * ln 2 / 2^F that cannot overflow."""
    if node.output is not None:
        return node.output.scale
    base = (temperature or 1.0) * math.log(2)
    bits = SCORE_BITS
    while bits > 0 and largest / base * 2.0**bits > 2**29:
        bits -= 1
    return base / 2.0**bits


def _clip_range(node: Node, unit: float) -> tuple[int, int]:
    """Where the output is clipped, its activation included: relu and relu6 commute with rounding."""
    low, high = (-INT32_MAX, INT32_MAX) if node.output is None else (node.output.low, node.output.high)
    if node.activation is not Activation.NONE:
        low = max(low, 0)
    if node.activation is Activation.RELU6:
        high = min(high, int(np.rint(6.0 / unit)))
    return low, high


def fit_fixed_point(
    ratio: NDArray[np.float64],
    bound: Sequence[int] | NDArray[np.int64],
    offset: NDArray[np.float64],
    *,
    common: bool = False,
) -> FixedPoint:
    """Multipliers and shifts for `a * ratio + offset` with |a| <= bound; nothing leaves 63 bits.

    Args:
        ratio: positive real numbers, one per channel.
        bound: largest |a| per channel.
        offset: real offsets per channel, in output units.
        common: the products are summed before one shift.

    Raises:
        FormatError: a ratio is not positive or so large that an output would leave 62 bits.
    """
    if not (np.isfinite(ratio).all() and (ratio > 0).all()):
        raise FormatError(f"scale ratio {ratio}", wanted="positive numbers", where="requantization")
    reach = np.asarray(bound) * ratio + np.abs(offset)
    shift = np.minimum(31 - np.frexp(ratio)[1], 61 - np.frexp(np.maximum(reach, 1.0))[1]).clip(max=61)
    if common:
        shift = np.full_like(shift, shift.min() - 1)
    if (shift < 1).any():
        raise FormatError(f"scale ratio {ratio.max():g}", wanted="a ratio below 2^30", where="requantization")
    power = np.exp2(shift.astype(np.float64))
    multiplier = np.minimum(np.rint(ratio * power), INT32_MAX)
    return FixedPoint(
        multiplier.astype(np.int64), shift.astype(np.int64), np.rint(offset * power).astype(np.int64), ratio, offset
    )
