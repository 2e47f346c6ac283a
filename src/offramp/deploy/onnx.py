"""A converted network as ONNX, one file per stage, in QDQ form so that ONNX Runtime uses its integer kernels.

Every quantized tensor is uint8: an unsigned one with zero point 0, a signed one with zero point 128. ONNX Runtime's
integer convolution takes mixed signs only in that order (unsigned data, signed weights), and saturation to 0..255 is
then the clip of 8-bit tensors; narrower ones get an integer Clip. Weights are int8; on x86 without VNNI such products
can saturate in 16 bits unless the session asks for exact kernels, as `deploy.runtime` does, or the writer is asked for
`exact_weights` (uint8, zero point 128), which is exact everywhere and slower where VNNI is present: docs/deploy.md.
It knows neither thresholds nor sessions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from offramp.deploy.plan import Plan, StagePlan, Step, Tensor
from offramp.ir.quantized import Activation, NodeOp, Quantizer

OPSET = 13
IR_VERSION = 7
BATCH = "N"


@dataclass(slots=True)
class GraphWriter:
    """Nodes and constants of one graph, growing; `flat` holds the tensors that have shape [N, elements]."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    flat: set[str] = field(default_factory=set)
    exact_weights: bool = False

    def constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        """A named constant, once."""
        assert name not in self.constants or np.array_equal(self.constants[name], value), name
        self.constants[name] = np.asarray(value)
        return name

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """One node with one output."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def quantize(self, value: str, output: str, scale: float, zero: int) -> str:
        """Real numbers to uint8."""
        parts = [
            value,
            self.constant(f"{output}/scale", np.float32(scale)),
            self.constant(f"{output}/zero", np.uint8(zero)),
        ]
        return self.op("QuantizeLinear", parts, output)

    def dequantize(self, value: str, output: str, scale: float, zero: int) -> str:
        """Data of uint8 to real numbers."""
        parts = [
            value,
            self.constant(f"{output}/scale", np.float32(scale)),
            self.constant(f"{output}/zero", np.uint8(zero)),
        ]
        return self.op("DequantizeLinear", parts, output)

    def clip(self, value: str, output: str, low: int, high: int) -> str:
        """Integer clip."""
        bounds = [self.constant(f"{output}/low", np.uint8(low)), self.constant(f"{output}/high", np.uint8(high))]
        return self.op("Clip", [value, *bounds], output)

    def weights(self, name: str, weight: NDArray[np.int8], scale: NDArray[np.float32], largest_input: int) -> str:
        """Integer weights to real ones, per output channel."""
        stored, zero = weight, np.zeros(len(scale), np.int8)
        if self.exact_weights and 2 * largest_input * int(np.abs(weight.astype(np.int64)).max(initial=0)) > 2**15 - 1:
            stored, zero = (weight.astype(np.int16) + 128).astype(np.uint8), np.full(len(scale), 128, np.uint8)
        parts = [self.constant(f"{name}/weight", stored), self.constant(f"{name}/weight_scale", scale)]
        parts.append(self.constant(f"{name}/weight_zero", zero))
        return self.op("DequantizeLinear", parts, f"{name}/weight_real", axis=0)

    def initializers(self) -> list[onnx.TensorProto]:
        """The constants as ONNX tensors."""
        return [numpy_helper.from_array(value, name) for name, value in self.constants.items()]


def zero_point(quantizer: Quantizer) -> int:
    """Zero point of the uint8 form of a tensor."""
    return 128 if quantizer.signed else 0


def write_step(graph: GraphWriter, step: Step) -> None:
    """The nodes of one step; the result has the step's own name."""
    node = step.node
    if node.op is NodeOp.MAX_POOL:
        _max_pool(graph, step)
        return
    if node.op is NodeOp.ADD:
        real = _add(graph, step)
    elif node.op is NodeOp.AVG_POOL:
        real = _average(graph, step)
    elif step.analog is not None:
        real = _analog(graph, step)
    else:
        real = _digital(graph, step)
    _output(graph, step, real)


def _value(graph: GraphWriter, tensor: Tensor, *, flat: bool) -> str:
    """The name of a tensor, flattened to [N, elements] when asked for."""
    if not flat or tensor.name in graph.flat:
        return tensor.name
    name = f"{tensor.name}/flat"
    if name not in graph.flat:
        graph.op("Flatten", [tensor.name], name, axis=1)
        graph.flat.add(name)
    return name


def _real_input(graph: GraphWriter, step: Step, index: int, *, flat: bool) -> str:
    tensor = step.sources[index]
    assert tensor.quantizer is not None
    name = f"{step.node.name}/in{index}"
    value = _value(graph, tensor, flat=flat)
    return graph.dequantize(value, name, tensor.quantizer.scale, zero_point(tensor.quantizer))


def _window(step: Step) -> dict[str, Any]:
    node = step.node
    top, bottom, left, right = node.padding
    return {"kernel_shape": list(node.kernel), "strides": list(node.stride), "pads": [top, left, bottom, right]}


def _matmul(graph: GraphWriter, step: Step, inputs: list[str], output: str) -> str:
    """Conv or Gemm of real inputs, real weights and, when digital, a real bias."""
    if step.node.op is NodeOp.DENSE:
        return graph.op("Gemm", inputs, output, transB=1)
    return graph.op("Conv", inputs, output, group=step.node.groups, **_window(step))


def _digital(graph: GraphWriter, step: Step) -> str:
    node, source = step.node, step.sources[0].quantizer
    assert node.weight is not None and node.weight_scale is not None and step.bias is not None and source is not None
    x = _real_input(graph, step, 0, flat=node.op is NodeOp.DENSE)
    weight = graph.weights(node.name, node.weight, node.weight_scale, max(-source.low, source.high))
    bias = graph.constant(f"{node.name}/bias", step.bias.astype(np.int32))
    scale = graph.constant(f"{node.name}/bias_scale", step.scale.astype(np.float32))
    real_bias = graph.op("DequantizeLinear", [bias, scale], f"{node.name}/bias_real", axis=0)
    return _matmul(graph, step, [x, weight, real_bias], f"{node.name}/real")


def _add(graph: GraphWriter, step: Step) -> str:
    flat = step.target.flat
    parts = [_real_input(graph, step, i, flat=flat) for i in range(2)]
    return graph.op("Add", parts, f"{step.node.name}/real")


def _average(graph: GraphWriter, step: Step) -> str:
    x, name = _real_input(graph, step, 0, flat=False), f"{step.node.name}/real"
    if step.node.kernel == step.sources[0].shape[1:] and not any(step.node.padding):
        return graph.op("GlobalAveragePool", [x], name)
    return graph.op("AveragePool", [x], name, count_include_pad=1, **_window(step))


def _max_pool(graph: GraphWriter, step: Step) -> None:
    node, tensor = step.node, step.sources[0]
    assert tensor.quantizer is not None
    value, window = tensor.name, _window(step)
    if tensor.quantizer.signed and any(node.padding):
        top, bottom, left, right = node.padding
        pads = graph.constant(f"{node.name}/pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
        zero = graph.constant(f"{node.name}/pad_value", np.uint8(zero_point(tensor.quantizer)))
        value = graph.op("Pad", [value, pads, zero], f"{node.name}/padded")
        window["pads"] = [0, 0, 0, 0]
    graph.op("MaxPool", [value], node.name, **window)


def _analog(graph: GraphWriter, step: Step) -> str:
    """Sum over array blocks of what the converter makes of each partial sum, then scale and bias in real numbers."""
    node, analog = step.node, step.analog
    assert analog is not None and node.weight is not None
    source, dense = _converted_input(graph, step), node.op is NodeOp.DENSE
    channels, codes = node.weight.shape[1], list[str]()
    for start in range(0, channels, analog.block):
        stop, part = min(start + analog.block, channels), f"{node.name}/block{start}"
        value = source if stop - start == channels else _slice(graph, source, part, start, stop)
        quantizer = _entering(step)
        x = graph.dequantize(value, f"{part}/in", 1.0, zero_point(quantizer))
        ones = np.ones(len(node.weight), np.float32)
        weight = graph.weights(part, node.weight[:, start:stop], ones, max(-quantizer.low, quantizer.high))
        codes.append(_convert(graph, step, _matmul(graph, step, [x, weight], f"{part}/partial"), part))
    total = codes[0] if len(codes) == 1 else graph.op("Sum", codes, f"{node.name}/codes")
    shape = (1, -1) if dense else (1, -1, 1, 1)
    offset = step.rescale[0].real_offset * (step.scale * analog.adc_scale / step.rescale[0].ratio)
    scale = graph.constant(f"{node.name}/channel_scale", step.scale.astype(np.float32).reshape(shape))
    bias = graph.constant(f"{node.name}/bias", offset.astype(np.float32).reshape(shape))
    return graph.op("Add", [graph.op("Mul", [total, scale], f"{node.name}/scaled"), bias], f"{node.name}/real")


def _entering(step: Step) -> Quantizer:
    """The quantizer of what enters the array."""
    source, analog = step.sources[0].quantizer, step.analog
    assert source is not None and analog is not None and step.node.analog is not None
    return source if analog.dac is None else step.node.analog.input


def _converted_input(graph: GraphWriter, step: Step) -> str:
    tensor, analog, flat = step.sources[0], step.analog, step.node.op is NodeOp.DENSE
    assert analog is not None
    if analog.dac is None:
        return _value(graph, tensor, flat=flat)
    quantizer, name = _entering(step), f"{step.node.name}/dac"
    zero = zero_point(quantizer)
    assert tensor.quantizer is not None  # in units of the input's integers: a ratio of 2 then gives exact ties
    whole = graph.dequantize(_value(graph, tensor, flat=flat), f"{name}/in", 1.0, zero_point(tensor.quantizer))
    value = graph.quantize(whole, f"{name}/raw", quantizer.scale / tensor.quantizer.scale, zero)
    return graph.clip(value, name, quantizer.low + zero, quantizer.high + zero)


def _slice(graph: GraphWriter, value: str, part: str, start: int, stop: int) -> str:
    bounds = [graph.constant(f"{part}/{k}", np.array([v], np.int64)) for k, v in (("start", start), ("stop", stop))]
    axis = graph.constant("channel_axis", np.array([1], np.int64))
    return graph.op("Slice", [value, *bounds, axis], f"{part}/channels")


def _convert(graph: GraphWriter, step: Step, partial: str, part: str) -> str:
    """A partial sum through the ADC, back in products; converters beyond 8 bits round in float."""
    assert step.node.analog is not None
    adc = step.node.analog.adc
    if adc.bits <= 8:
        zero = zero_point(adc)
        raw = graph.quantize(partial, f"{part}/raw", adc.scale, zero)
        code = raw if adc.bits == 8 else graph.clip(raw, f"{part}/code", adc.low + zero, adc.high + zero)
        return graph.dequantize(code, f"{part}/sum", adc.scale, zero)
    scale = graph.constant(f"{part}/adc_scale", np.float32(adc.scale))
    rounded = graph.op("Round", [graph.op("Div", [partial, scale], f"{part}/ratio")], f"{part}/rounded")
    bounds = [graph.constant(f"{part}/adc_{k}", np.float32(v)) for k, v in (("low", adc.low), ("high", adc.high))]
    return graph.op("Mul", [graph.op("Clip", [rounded, *bounds], f"{part}/code"), scale], f"{part}/sum")


def _output(graph: GraphWriter, step: Step, real: str) -> None:
    """Quantize and clip, or leave logits real, [N, classes]."""
    node, quantizer = step.node, step.node.output
    if step.target.flat:
        graph.flat |= {node.name}
    if quantizer is not None:
        zero = zero_point(quantizer)
        if (step.low + zero, step.high + zero) == (0, 255):
            graph.quantize(real, node.name, quantizer.scale, zero)
        else:
            raw = graph.quantize(real, f"{node.name}/raw", quantizer.scale, zero)
            graph.clip(raw, node.name, step.low + zero, step.high + zero)
        return
    if node.activation is not Activation.NONE:
        bounds = [graph.constant(f"{node.name}/low", np.float32(0))]
        bounds += [graph.constant(f"{node.name}/high", np.float32(6))] if node.activation is Activation.RELU6 else []
        real = graph.op("Clip", [real, *bounds], f"{node.name}/active")
    graph.op("Flatten", [real], node.name, axis=1)


def write_input(graph: GraphWriter, plan: Plan) -> str:
    """Quantize the network's real input; returns the name under which the graph reads it."""
    quantizer, name = plan.input.quantizer, f"{plan.input.name}/real"
    assert quantizer is not None
    zero = zero_point(quantizer)
    if quantizer.bits == 8:
        graph.quantize(name, plan.input.name, quantizer.scale, zero)
    else:
        raw = graph.quantize(name, f"{plan.input.name}/raw", quantizer.scale, zero)
        graph.clip(raw, plan.input.name, quantizer.low + zero, quantizer.high + zero)
    return name


def logits_name(stage: StagePlan) -> str:
    """The tensor that holds a stage's logits."""
    return next(step.node.name for step in stage.steps if step.is_logits)


def carried_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape of a carried tensor without its batch: channels last, as the integer kernels keep it between layers."""
    channels, rows, columns = tensor.shape
    return (tensor.size,) if tensor.flat else (rows, columns, channels)


def _carried_info(tensor: Tensor, name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.UINT8, [BATCH, *carried_shape(tensor)])


def _receive(graph: GraphWriter, tensor: Tensor) -> onnx.ValueInfoProto:
    """A carried tensor as an input; inside the graph it has its own name and channels first."""
    if tensor.flat:
        graph.flat |= {tensor.name}
        return _carried_info(tensor, tensor.name)
    name = f"{tensor.name}/last"
    graph.op("Transpose", [name], tensor.name, perm=[0, 3, 1, 2])
    return _carried_info(tensor, name)


def _carry(graph: GraphWriter, tensor: Tensor) -> onnx.ValueInfoProto:
    """A carried tensor as an output, under a name that no input has."""
    name = f"{tensor.name}/carried"
    if tensor.flat:
        graph.op("Identity", [_value(graph, tensor, flat=True)], name)
    else:
        graph.op("Transpose", [tensor.name], name, perm=[0, 2, 3, 1])
    return _carried_info(tensor, name)


def stage_model(plan: Plan, index: int, *, exact_weights: bool = False) -> onnx.ModelProto:
    """One stage: reads the real input or the tensor carried into it, gives the tensor carried on and its logits.

    The last stage gives logits alone. Inputs and outputs: float32 [N, C, H, W] input, uint8 carried tensors
    [N, H, W, C] (`carried_shape`), float32 [N, classes] logits.
    """
    stage, graph, last = plan.stages[index], GraphWriter(exact_weights=exact_weights), index == len(plan.stages) - 1
    if index == 0:
        source = helper.make_tensor_value_info(write_input(graph, plan), TensorProto.FLOAT, [BATCH, *plan.input.shape])
    else:
        source = _receive(graph, stage.received)
    for step in stage.steps:
        write_step(graph, step)
    outputs = [] if last else [_carry(graph, stage.carried)]
    outputs.append(_logits_info(plan, stage))
    return make_model(f"{plan.network.name}_stage{index}", graph, [source], outputs)


def _logits_info(plan: Plan, stage: StagePlan) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(logits_name(stage), TensorProto.FLOAT, [BATCH, plan.network.classes])


def part_model(plan: Plan, index: int, *, branch: bool) -> onnx.ModelProto:
    """Half of a stage for measurements: its exit branch alone, or its backbone part alone.

    Inputs are the tensors that the half reads from elsewhere; outputs are the logits or the carried tensor.
    """
    stage, graph = plan.stages[index], GraphWriter()
    steps = stage.branch if branch else stage.backbone
    made, inputs = {step.target.name for step in steps}, list[onnx.ValueInfoProto]()
    outer = {s.name: s for step in steps for s in step.sources if s.name not in made}
    for tensor in outer.values():
        if tensor.name == plan.input.name and not branch:
            source = write_input(graph, plan)
            inputs.append(helper.make_tensor_value_info(source, TensorProto.FLOAT, [BATCH, *plan.input.shape]))
        else:
            inputs.append(_receive(graph, tensor))
    for step in steps:
        write_step(graph, step)
    output = _logits_info(plan, stage) if branch else _carry(graph, stage.carried)
    return make_model(f"part{index}", graph, inputs, [output])


def make_model(
    name: str, graph: GraphWriter, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """A model of the standard operator set alone."""
    body = helper.make_graph(graph.nodes, name, inputs, outputs, graph.initializers())
    return helper.make_model(
        body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="offramp"
    )
