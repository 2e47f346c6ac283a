"""ONNX operators with work in them as layers: convolution, dense, pooling, addition (docs/Operators.md of ONNX)."""

from dataclasses import replace
from math import prod

from offramp.formats.onnx_free import read_scale
from offramp.formats.onnx_graph import MAX_DIMENSION, TYPE_BITS, GraphNode, Shape
from offramp.formats.onnx_reading import NO_PADDING, Handler, Padding, Reading, Value
from offramp.ir.workload import Layer, Op


def _spatial(node: GraphNode, value: Value) -> tuple[int, int, int, int]:
    """Batch, channels, height and width (height 1 for sequences)."""
    if len(value.shape) == 3:
        return value.shape[0], value.shape[1], 1, value.shape[2]
    if len(value.shape) != 4:
        raise node.fault(f"a tensor of shape {value.shape} arrives", "batch, channels, height, width")
    return value.shape[0], value.shape[1], value.shape[2], value.shape[3]


def _pair(node: GraphNode, key: str, flat: bool, default: int = 1) -> tuple[int, int]:
    """A per-axis attribute as (rows, columns); of a sequence only columns are given."""
    values = node.ints(key, (default,) * (1 if flat else 2))
    if len(values) != (1 if flat else 2) or any(not 1 <= v <= MAX_DIMENSION for v in values):
        raise node.fault(f"{key} is {values}", f"{1 if flat else 2} positive sizes")
    return (1, values[0]) if flat else (values[0], values[1])


def _window(
    node: GraphNode, value: Value, kernel: tuple[int, int], size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int], Padding]:
    """Output size, stride and padding (top, bottom, left, right) of a sliding window (Operators.md, Conv and pools)."""
    flat = len(value.shape) == 3
    stride, dilation = _pair(node, "strides", flat), _pair(node, "dilations", flat)
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    padding = _padding(node, flat, size, reach, stride)
    padding = (
        padding[0] + value.padding[0],
        padding[1] + value.padding[1],
        padding[2] + value.padding[2],
        padding[3] + value.padding[3],
    )
    up = node.integer("ceil_mode", 0) != 0
    out = []
    for axis in range(2):
        room = size[axis] + padding[2 * axis] + padding[2 * axis + 1] - reach[axis]
        if room < 0:
            raise node.fault(f"a window of {reach} on a map of {size} with padding {padding}", "a larger input")
        out.append((-(-room // stride[axis]) if up else room // stride[axis]) + 1)
    return (out[0], out[1]), stride, padding


def _padding(
    node: GraphNode, flat: bool, size: tuple[int, int], reach: tuple[int, ...], stride: tuple[int, int]
) -> Padding:
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(size, stride, reach, strict=True)]
        first = [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total]
        return first[0], total[0] - first[0], first[1], total[1] - first[1]
    pads = node.ints("pads", (0,) * (2 if flat else 4)) if mode == "NOTSET" else (0,) * (2 if flat else 4)
    if len(pads) != (2 if flat else 4) or any(not 0 <= p <= MAX_DIMENSION for p in pads):
        raise node.fault(f"pads are {pads}", "one size at each end of each axis")
    return (0, 0, pads[0], pads[1]) if flat else (pads[0], pads[2], pads[1], pads[3])


def _weights(reading: Reading, node: GraphNode, index: int) -> tuple[Shape, int]:
    """Shape and bits of a constant weight."""
    constant = reading.constant(node, index)
    if constant is None or any(d < 1 for d in constant.shape):
        raise node.fault("no weights", "a constant weight tensor")
    return constant.shape, TYPE_BITS.get(constant.elem_type, reading.weight_bits)


def _conv(reading: Reading, node: GraphNode) -> None:
    value = reading.value(node)
    batch, channels, high, wide = _spatial(node, value)
    shape, bits = _weights(reading, node, 1)
    groups = node.integer("group", 1)
    if len(shape) != len(value.shape) or groups < 1 or shape[0] % groups or shape[1] * groups != channels:
        raise node.fault(f"weights of {shape} with {groups} groups on {channels} channels", "shapes that fit")
    kernel = (1, shape[2]) if len(shape) == 3 else (shape[2], shape[3])
    out, stride, padding = _window(node, value, kernel, (high, wide))
    layer = Layer(
        name=node.name,
        op=Op.DEPTHWISE if groups == channels == shape[0] and groups > 1 else Op.CONV,
        G=groups,
        B=batch,
        K=shape[0] // groups,
        C=shape[1],
        OY=out[0],
        OX=out[1],
        FY=kernel[0],
        FX=kernel[1],
        IY=high,
        IX=wide,
        stride=stride,
        padding=padding,
        inputs=(value.layer,),
        weight_bits=bits,
        input_bits=value.bits,
        output_bits=reading.activation_bits,
    )
    made = (batch, shape[0], out[1]) if len(shape) == 3 else (batch, shape[0], *out)
    reading.emit(node, made, layer)


def _dense(reading: Reading, node: GraphNode, features: int, made: int, bits: int) -> None:
    value = reading.value(node)
    if value.padding != NO_PADDING:
        raise node.fault("a padded tensor arrives", "Pad before Conv or pooling only")
    if not value.shape or value.shape[-1] != features:
        raise node.fault(f"weights of {features} rows on a tensor of shape {value.shape}", "shapes that fit")
    layer = Layer(
        name=node.name,
        op=Op.DENSE,
        B=prod(value.shape[:-1]),
        K=made,
        C=features,
        inputs=(value.layer,),
        weight_bits=bits,
        input_bits=value.bits,
        output_bits=reading.activation_bits,
    )
    reading.emit(node, (*value.shape[:-1], made), layer)


def _gemm(reading: Reading, node: GraphNode) -> None:
    shape, bits = _weights(reading, node, 1)
    if node.integer("transA", 0) or len(shape) != 2:
        raise node.fault(f"weights of {shape}, transA {node.integer('transA', 0)}", "a matrix, transA 0")
    rows, columns = shape[::-1] if node.integer("transB", 0) else shape
    _dense(reading, node, rows, columns, bits)


def _matmul(reading: Reading, node: GraphNode) -> None:
    shape, bits = _weights(reading, node, 1)
    if len(shape) != 2:
        raise node.fault(f"weights of {shape}", "a matrix")
    _dense(reading, node, shape[0], shape[1], bits)


def _pool(reading: Reading, node: GraphNode) -> None:
    value = reading.value(node)
    batch, channels, high, wide = _spatial(node, value)
    flat = len(value.shape) == 3
    kernel = _pair(node, "kernel_shape", flat, 0)
    out, stride, padding = _window(node, value, kernel, (high, wide))
    op = Op.MAX_POOL if node.op == "MaxPool" else Op.AVG_POOL
    layer = _pooling(reading, node, value, (batch, channels, high, wide), kernel, out, op)
    made = (batch, channels, out[1]) if flat else (batch, channels, *out)
    reading.emit(node, made, replace(layer, stride=stride, padding=padding))


def _pooling(
    reading: Reading,
    node: GraphNode,
    value: Value,
    size: tuple[int, int, int, int],
    kernel: tuple[int, int],
    out: tuple[int, int],
    op: Op,
) -> Layer:
    return Layer(
        name=node.name,
        op=op,
        G=size[1],
        B=size[0],
        K=1,
        C=1,
        OY=out[0],
        OX=out[1],
        FY=kernel[0],
        FX=kernel[1],
        IY=size[2],
        IX=size[3],
        stride=kernel,
        inputs=(value.layer,),
        input_bits=value.bits,
        output_bits=value.bits if op is Op.MAX_POOL else reading.activation_bits,
    )


def _global_pool(reading: Reading, node: GraphNode) -> None:
    value = reading.value(node)
    size = _spatial(node, value)
    op = Op.MAX_POOL if node.op == "GlobalMaxPool" else Op.AVG_POOL
    layer = _pooling(reading, node, value, size, size[2:], (1, 1), op)
    reading.emit(node, (*size[:2], *((1,) * (len(value.shape) - 2))), layer)


def _reduce(reading: Reading, node: GraphNode) -> None:
    """Mean or maximum over height and width, whichever way the axes are given; one after the other is one pooling."""
    value = reading.value(node)
    axes = reading.integers(node, 1) or node.ints("axes", ())
    rank = len(value.shape)
    chosen = sorted(a % rank for a in axes) if rank in (3, 4) else []
    if chosen not in ([2], [3], [2, 3]):
        raise node.fault(f"axes {axes} of a tensor of shape {value.shape}", "the axes of height and width")
    size = _spatial(node, value)
    window = size[2:] if rank == 3 or len(chosen) == 2 else (size[2], 1) if chosen == [2] else (1, size[3])
    out = (size[2] // window[0], size[3] // window[1])
    op = Op.MAX_POOL if node.op == "ReduceMax" else Op.AVG_POOL
    if out == (1, 1) and _only_this_reads(reading, node) and reading.layers[value.layer].op is op:
        first = reading.layers.pop(value.layer)
        value = replace(value, layer=first.inputs[0], bits=first.input_bits)
        size, window = (first.B, first.G, first.IY, first.IX), (first.IY, first.IX)
    layer = _pooling(reading, node, value, size, window, out, op)
    kept = node.integer("keepdims", 1) != 0
    made = [1 if i in chosen else n for i, n in enumerate(reading.value(node).shape) if kept or i not in chosen]
    reading.emit(node, tuple(made), layer)
    if out != (1, 1):
        reading.halves.add(node.outputs[0])


def _only_this_reads(reading: Reading, node: GraphNode) -> bool:
    """Whether a node is the only one that reads the result of a pooling over one axis."""
    half = node.inputs[0]
    readers = [*reading.graph.outputs, *(name for other in reading.graph.nodes for name in other.inputs)]
    return half in reading.halves and readers.count(half) == 1


def _add(reading: Reading, node: GraphNode) -> None:
    if any(name in reading.constants for name in node.inputs):
        return read_scale(reading, node)
    a, b = reading.value(node, 0), reading.value(node, 1)
    if a.shape != b.shape or a.padding != b.padding or a.padding != NO_PADDING:
        raise node.fault(f"adds tensors of shapes {a.shape} and {b.shape}", "equal shapes without padding")
    batch, channels, high, wide = (*a.shape, 1, 1, 1, 1)[:4]
    layer = Layer(
        name=node.name,
        op=Op.ADD,
        B=batch,
        G=channels,
        K=1,
        C=1,
        OY=high,
        OX=wide * prod(a.shape[4:]),
        IY=high,
        IX=wide * prod(a.shape[4:]),
        inputs=(a.layer, b.layer),
        input_bits=max(a.bits, b.bits),
        output_bits=reading.activation_bits,
    )
    return reading.emit(node, a.shape, layer)


LAYER_HANDLERS: dict[str, Handler] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _add,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "ReduceMean": _reduce,
    "ReduceMax": _reduce,
}
