"""ONNX operators without work of their own: activations, reshapes, padding, quantizers, and folded shape arithmetic."""

from dataclasses import replace
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray

from offramp.formats.onnx_graph import MAX_DIMENSION, MAX_RANK, TYPE_BITS, Constant, GraphNode, Shape, tensor_constant
from offramp.formats.onnx_reading import NO_PADDING, Handler, Reading
from offramp.ir.workload import INPUT

POINTWISE = (
    "BatchNormalization Cast Celu Clip Dropout Elu Gelu HardSigmoid HardSwish Identity LeakyRelu LogSoftmax Mish PRelu "
    "Relu Selu Sigmoid Softmax Softplus Softsign Swish Tanh ThresholdedRelu"
)
"""Operators on one tensor that belong to its producer."""


def _pass(reading: Reading, node: GraphNode) -> None:
    """The same tensor, or a constant that stays one."""
    name = node.inputs[0] if node.inputs else ""
    if name in reading.constants:
        reading.constants[node.outputs[0]] = reading.constants[name]
    else:
        reading.values[node.outputs[0]] = reading.value(node)


def read_scale(reading: Reading, node: GraphNode) -> None:
    """Arithmetic with a constant, or of x with an activation of x (x * sigmoid(x)): part of the producer."""
    flowing = [reading.values[n] for n in node.inputs if n in reading.values]
    constants = [reading.constants[n] for n in node.inputs if n in reading.constants]
    if not flowing:
        reading.constants[node.outputs[0]] = Constant(constants[0].shape if constants else (), onnx.TensorProto.FLOAT)
        return
    if any(v.root != flowing[0].root for v in flowing):
        raise node.fault("joins two different tensors", "Add, or a constant on one side")
    size = prod(flowing[0].shape)
    if any(prod(c.shape) > size or len(c.shape) > len(flowing[0].shape) for c in constants):
        raise node.fault(f"constants of {[c.shape for c in constants]} on {flowing[0].shape}", "shapes that fit")
    reading.values[node.outputs[0]] = flowing[0]


def _pad(reading: Reading, node: GraphNode) -> None:
    value = reading.value(node)
    pads = reading.integers(node, 1) or node.ints("pads", ())
    rank = len(value.shape)
    if len(pads) != 2 * rank or rank not in (3, 4) or any(not 0 <= p <= MAX_DIMENSION for p in pads):
        raise node.fault(f"pads {pads} of a tensor of shape {value.shape}", "sizes at both ends of every axis")
    if pads[0] or pads[1] or pads[rank] or pads[rank + 1]:
        raise node.fault("pads batch or channels", "padding of height and width")
    top, bottom = (pads[2], pads[rank + 2]) if rank == 4 else (0, 0)
    old = value.padding
    padding = (old[0] + top, old[1] + bottom, old[2] + pads[rank - 1], old[3] + pads[-1])
    reading.values[node.outputs[0]] = replace(value, padding=padding)


def _reshaped(reading: Reading, node: GraphNode, shape: Shape) -> None:
    value = reading.value(node)
    if value.padding != NO_PADDING:
        raise node.fault("a padded tensor arrives", "Pad before Conv or pooling only")
    if prod(shape) != prod(value.shape) or len(shape) > MAX_RANK or any(d < 1 for d in shape):
        raise node.fault(f"reshapes {value.shape} to {shape}", "the same number of elements")
    reading.values[node.outputs[0]] = replace(value, shape=shape)


def _flatten(reading: Reading, node: GraphNode) -> None:
    shape = reading.value(node).shape
    axis = node.integer("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise node.fault(f"axis {axis} of a tensor of shape {shape}", "an axis of the tensor")
    axis = axis + len(shape) if axis < 0 else axis
    _reshaped(reading, node, (prod(shape[:axis]), prod(shape[axis:])))


def _reshape(reading: Reading, node: GraphNode) -> None:
    old = reading.value(node).shape
    wish = reading.integers(node, 1)
    if wish is None:
        raise node.fault("no target shape", "a constant shape")
    if len(wish) > MAX_RANK or any(d == 0 and i >= len(old) for i, d in enumerate(wish)) or min(wish, default=0) < -1:
        raise node.fault(f"reshapes {old} to {wish}", "a shape")
    shape = [old[i] if d == 0 else d for i, d in enumerate(wish)]
    if shape and shape[0] == -1 and shape.count(-1) > 1:
        shape[0] = old[0]
    known = prod(d for d in shape if d != -1)
    if shape.count(-1) == 1 and known > 0:
        shape[shape.index(-1)] = prod(old) // known
    _reshaped(reading, node, tuple(shape))


def _transpose(reading: Reading, node: GraphNode) -> None:
    name = node.inputs[0] if node.inputs else ""
    old = reading.constants[name].shape if name in reading.constants else reading.value(node).shape
    order = node.ints("perm", tuple(reversed(range(len(old)))))
    if sorted(order) != list(range(len(old))):
        raise node.fault(f"perm {order} of a tensor of shape {old}", "each axis once")
    shape = tuple(old[i] for i in order)
    if name in reading.constants:
        reading.constants[node.outputs[0]] = Constant(shape, reading.constants[name].elem_type)
    else:
        _reshaped(reading, node, shape)


def _squeeze(reading: Reading, node: GraphNode) -> None:
    name = node.inputs[0] if node.inputs else ""
    if name in reading.constants:
        return _fold(reading, node)
    shape = reading.value(node).shape
    axes = reading.integers(node, 1) or node.ints("axes", ())
    rank = len(shape)
    if node.op == "Unsqueeze":
        grown = rank + len(axes)
        places = {a % grown for a in axes}
        rest = iter(shape)
        return _reshaped(reading, node, tuple(1 if i in places else next(rest, 0) for i in range(grown)))
    gone = {a % rank for a in axes} if axes and rank else {i for i, d in enumerate(shape) if d == 1 and i > 0}
    return _reshaped(reading, node, tuple(d for i, d in enumerate(shape) if i not in gone))


def _quantize(reading: Reading, node: GraphNode) -> None:
    """A quantizer: the tensor, and the output of the layer that made it, get the bits of its integer type."""
    name = node.inputs[0] if node.inputs else ""
    zero = reading.constant(node, 2) if len(node.inputs) > 2 else None
    kind = zero.elem_type if zero is not None else node.integer("output_dtype", 0) or onnx.TensorProto.UINT8
    if kind not in TYPE_BITS:
        raise node.fault(f"quantizes to type {kind}", "an integer type of 2, 4, 8, 16 or 32 bits")
    if name in reading.constants:
        reading.constants[node.outputs[0]] = replace(reading.constants[name], elem_type=kind)
        return
    value = replace(reading.value(node), bits=TYPE_BITS[kind])
    reading.values[node.outputs[0]] = value
    if value.layer != INPUT and value.layer not in reading.quantized:
        reading.quantized.add(value.layer)
        reading.layers[value.layer] = replace(reading.layers[value.layer], output_bits=value.bits)


# --- integers that are computed from shapes (exporters write Reshape targets so) ----------------------------------


def _constant_node(reading: Reading, node: GraphNode) -> None:
    key = next((k for k in ("value", "value_int", "value_ints") if k in node.attributes), "value")
    reading.constants[node.outputs[0]] = tensor_constant(node, key)


def _shape(reading: Reading, node: GraphNode) -> None:
    numbers = np.asarray(reading.value(node).shape, dtype=np.int64)
    reading.constants[node.outputs[0]] = Constant(numbers.shape, onnx.TensorProto.INT64, numbers)


def _fold(reading: Reading, node: GraphNode) -> None:
    """Gather, Concat, Unsqueeze and Squeeze of short integer lists."""
    if any(name in reading.values for name in node.inputs):
        raise node.fault(f"operator {node.op} on feature maps is not supported", "it on shapes only")
    parts = [reading.constant(node, i) for i in range(len(node.inputs))]
    arrays: list[NDArray[np.int64]] = []
    for part in parts:
        if part is None or part.integers is None:
            raise node.fault("works on a tensor that is no short list of integers", "integers of the file or of Shape")
        arrays.append(part.integers.reshape(-1))
    if len(arrays) != (2 if node.op == "Gather" else len(arrays)) or not arrays:
        raise node.fault(f"{len(arrays)} inputs", "2 for Gather, else at least 1")
    if node.op == "Gather":
        table, index = arrays
        if any(not -table.size <= i < table.size for i in index):
            raise node.fault("picks beyond the list", "indices of the list")
        made = table[index].reshape(parts[1].shape if parts[1] is not None else ())
    elif node.op == "Concat":
        made = np.concatenate(arrays)
    else:
        made = arrays[0].reshape(()) if node.op == "Squeeze" and arrays[0].size == 1 else arrays[0]
    reading.constants[node.outputs[0]] = Constant(made.shape, onnx.TensorProto.INT64, made)


FREE_HANDLERS: dict[str, Handler] = {
    "Mul": read_scale,
    "Sub": read_scale,
    "Div": read_scale,
    "Pad": _pad,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _squeeze,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _pass,
    "Constant": _constant_node,
    "Shape": _shape,
    "Gather": _fold,
    "Concat": _fold,
    **dict.fromkeys(POINTWISE.split(), _pass),
}
