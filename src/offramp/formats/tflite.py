"""Reads a TensorFlow Lite classifier into a plain list of layers with float weights as NumPy arrays.

Field numbers are those of tensorflow/lite/schema/schema.fbs (version 3). Integer weights are turned into real ones,
`scale * (q - zero_point)`; maps become (C, H, W), filters (K, C, FY, FX), and a dense layer after a flattening reads
channels first. A softmax, quantize or dequantize operator leaves no layer. Knows no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import FormatError
from offramp.formats.flatbuffer import Table
from offramp.ir.quantized import Activation, NodeOp
from offramp.ir.workload import INPUT

Floats = NDArray[np.float32]
Reals = NDArray[np.float64]
Padding = tuple[int, int, int, int]


def is_tflite(given: object) -> bool:
    """Whether a name or path means a TensorFlow Lite file, there or not; anything else given does not."""
    return isinstance(given, str | Path) and Path(given).suffix == ".tflite"


MAX_SIZE = 1 << 16
"""A larger map, window, stride or padding is a mistake."""

_DTYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 9: np.int8}
_ACTIVATIONS = {0: Activation.NONE, 1: Activation.RELU, 3: Activation.RELU6}


class _Code(IntEnum):
    """BuiltinOperator numbers of the schema that are understood."""

    ADD = 0
    AVERAGE_POOL_2D = 1
    CONV_2D = 3
    DEPTHWISE_CONV_2D = 4
    DEQUANTIZE = 6
    FULLY_CONNECTED = 9
    MAX_POOL_2D = 17
    RELU = 19
    RELU6 = 21
    RESHAPE = 22
    SOFTMAX = 25
    PAD = 34
    MEAN = 40
    QUANTIZE = 114


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TfliteLayer:
    """One layer; `weight` is (K, C / groups, FY, FX) or (K, C), `padding` is (top, bottom, left, right)."""

    name: str
    op: NodeOp
    inputs: tuple[str, ...]
    weight: Floats | None = None
    bias: Floats | None = None
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    groups: int = 1
    activation: Activation = Activation.NONE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TfliteModel:
    """A classifier: layers in execution order, the first ones read `ir.workload.INPUT`.

    An integer input q stands for `input_scale * (q - input_zero_point)`; a float model has scale 1 and zero point 0.
    """

    input_shape: tuple[int, int, int]
    input_scale: float
    input_zero_point: int
    layers: tuple[TfliteLayer, ...]
    output: str


@dataclass(frozen=True, slots=True)
class _Tensor:
    shape: tuple[int, ...]
    dtype: int
    buffer: int
    scale: Reals
    zero_point: NDArray[np.int64]
    axis: int


def read_tflite(path: str | Path) -> TfliteModel:
    """Read a `.tflite` file.

    Raises:
        FormatError: not a tflite file, damaged, or with an operator that is not understood.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise FormatError(f"cannot be read ({error.strerror})", wanted="a .tflite file", where=str(path)) from error
    if data[4:8] != b"TFL3":
        raise FormatError("no tflite identifier", wanted="a TensorFlow Lite model (TFL3)", where=str(path))
    try:
        return _Reader(data).model()
    except FormatError as error:
        raise FormatError(error.given, wanted=error.wanted, where=f"{path}: {error.where}".rstrip(": ")) from error
    except (ValueError, IndexError, KeyError, TypeError, ArithmeticError) as error:
        raise FormatError(f"damaged ({error})", wanted="a whole .tflite file", where=str(path)) from error


def _read_tensor(table: Table) -> _Tensor:
    quantization = table.table(4)
    shape = tuple(int(n) for n in table.array(0, np.int32))
    if any(n < 1 for n in shape[1:]):
        raise FormatError(f"a tensor of shape {shape}", wanted="positive sizes")
    kind, buffer = table.scalar(1, "b"), table.scalar(2, "I")
    if quantization is None:
        return _Tensor(shape, kind, buffer, np.zeros(0), np.zeros(0, np.int64), 0)
    scale = _reals(quantization.array(2, np.float32), "quantization scales")
    zero = quantization.array(3, np.int64).astype(np.int64)
    return _Tensor(shape, kind, buffer, scale, zero, quantization.scalar(6, "i"))


class _Reader:
    """One pass over the operators; `alias` tells which layer a tensor belongs to, `pads` what was padded on the way."""

    def __init__(self, data: bytes) -> None:
        root = Table.root(data)
        self.codes = root.tables(1, lambda t: max(t.scalar(0, "b"), t.scalar(3, "i")))
        self.buffers = root.tables(4, lambda t: t.array(0, np.uint8))
        graphs = root.tables(2, lambda t: t)
        if len(graphs) != 1:
            raise FormatError(f"{len(graphs)} subgraphs", wanted="one")
        self.graph = graphs[0]
        self.tensors = self.graph.tables(0, _read_tensor)
        self.layers: dict[str, TfliteLayer] = {}
        self.alias: dict[int, str] = {}
        self.pads: dict[int, Padding] = {}
        self.numbers: dict[NodeOp, int] = {}
        self.flattened: dict[str, tuple[int, int, int]] = {}

    def model(self) -> TfliteModel:
        """The whole file."""
        inputs, outputs = self.graph.array(1, np.int32), self.graph.array(2, np.int32)
        if len(inputs) != 1 or len(outputs) != 1:
            raise FormatError(f"{len(inputs)} inputs and {len(outputs)} outputs", wanted="one of each")
        entry = self._tensor(int(inputs[0]))
        scale, zero = _input_quantization(entry)
        h, w, c = self._map(int(inputs[0]))
        self.alias[int(inputs[0])] = INPUT
        for operator in self.graph.tables(3, lambda t: t):
            self._operator(operator)
        return TfliteModel(
            input_shape=(c, h, w),
            input_scale=scale,
            input_zero_point=zero,
            layers=tuple(self.layers.values()),
            output=self.alias[int(outputs[0])],
        )

    def _operator(self, operator: Table) -> None:
        number = self.codes[operator.scalar(0, "I")]
        ins = [int(i) for i in operator.array(1, np.int32)]
        out = int(operator.array(2, np.int32)[0])
        options = operator.table(4) or Table.empty()
        readers: dict[int, Callable[[list[int], int, Table], None]] = {
            _Code.CONV_2D: self._conv,
            _Code.DEPTHWISE_CONV_2D: self._depthwise,
            _Code.FULLY_CONNECTED: self._dense,
            _Code.ADD: self._add,
            _Code.AVERAGE_POOL_2D: self._average_pool,
            _Code.MAX_POOL_2D: self._max_pool,
            _Code.MEAN: self._mean,
            _Code.RESHAPE: self._reshape,
            _Code.PAD: self._pad,
            _Code.RELU: self._relu,
            _Code.RELU6: self._relu6,
            _Code.SOFTMAX: self._pass,
            _Code.QUANTIZE: self._pass,
            _Code.DEQUANTIZE: self._pass,
        }
        if number not in readers:
            known = ", ".join(sorted(code.name for code in _Code))
            raise FormatError(f"operator number {number} of the tflite schema", wanted=f"one of {known}")
        readers[number](ins, out, options)

    def _emit(self, op: NodeOp, ins: list[int], out: int, layer: TfliteLayer) -> None:
        if op is not NodeOp.CONV and any(i in self.pads for i in ins):
            raise FormatError(f"padding before {op.value}", wanted="padding before a convolution")
        _check_sizes(op, layer)
        self.numbers[op] = self.numbers.get(op, 0) + 1
        name = f"{op.value}{self.numbers[op]}"
        self.layers[name] = replace(layer, name=name, op=op, inputs=tuple(self.alias[i] for i in ins))
        self.alias[out] = name

    def _tensor(self, index: int) -> _Tensor:
        if not 0 <= index < len(self.tensors):
            raise FormatError(f"tensor number {index}", wanted=f"0 to {len(self.tensors) - 1}")
        return self.tensors[index]

    def _raw(self, index: int) -> NDArray[Any]:
        """A constant tensor as its file has it."""
        tensor = self._tensor(index)
        if tensor.dtype not in _DTYPES:
            raise FormatError(f"tensor type {tensor.dtype}", wanted="float32, float16, int8, uint8, int32 or int64")
        kind = np.dtype(_DTYPES[tensor.dtype]).newbyteorder("<")
        return self.buffers[tensor.buffer].view(kind).reshape(tensor.shape)

    def _constant(self, index: int) -> Floats:
        """A constant tensor as real numbers in its own layout."""
        tensor, values = self._tensor(index), _reals(self._raw(index), "weights")
        if len(tensor.scale):
            along = [-1 if i == tensor.axis and len(tensor.scale) > 1 else 1 for i in range(values.ndim)]
            zero = tensor.zero_point.reshape(along if len(tensor.zero_point) > 1 else [1] * values.ndim)
            values = _reals((values - zero) * tensor.scale.reshape(along), "weights")
        return values.astype(np.float32)

    def _integers(self, index: int) -> list[int]:
        """A constant tensor of whole numbers as a flat list."""
        raw = self._raw(index)
        if raw.dtype.kind not in "iu":
            raise FormatError(f"numbers of type {raw.dtype.name}", wanted="whole numbers (axes, padding)")
        return [int(n) for n in raw.reshape(-1)]

    def _bias(self, ins: list[int]) -> Floats | None:
        return self._constant(ins[2]) if len(ins) > 2 and ins[2] >= 0 else None

    def _map(self, index: int) -> tuple[int, int, int]:
        shape = self._tensor(index).shape
        if len(shape) != 4 or max(shape) > MAX_SIZE:
            raise FormatError(f"a tensor of shape {shape}", wanted="a map (1, height, width, channels)")
        return shape[1], shape[2], shape[3]

    def _padding(self, mode: int, source: int, out: int, kernel: tuple[int, int], stride: tuple[int, int]) -> Padding:
        """SAME (0) pads so that the output has its size, the odd element at the end; VALID (1) not at all."""
        before = self.pads.get(source, (0, 0, 0, 0))
        if mode == 1:
            return before
        total = [
            max((o - 1) * s + k - i, 0)
            for i, o, k, s in zip(self._map(source)[:2], self._map(out)[:2], kernel, stride, strict=True)
        ]
        top, left = total[0] // 2, total[1] // 2
        own = (top, total[0] - top, left, total[1] - left)
        return (own[0] + before[0], own[1] + before[1], own[2] + before[2], own[3] + before[3])

    def _filtered(
        self, ins: list[int], out: int, options: Table, *, groups: int, activation: int, weight: Floats
    ) -> None:
        stride = (options.scalar(2, "i"), options.scalar(1, "i"))
        dilation = {options.scalar(activation + 1, "i", 1), options.scalar(activation + 2, "i", 1)}
        if dilation != {1}:
            raise FormatError(f"dilation {sorted(dilation)}", wanted="1")
        kernel = (weight.shape[2], weight.shape[3])
        layer = TfliteLayer(
            name="",
            op=NodeOp.CONV,
            inputs=(),
            weight=weight,
            bias=self._bias(ins),
            kernel=kernel,
            stride=stride,
            padding=self._padding(options.scalar(0, "b"), ins[0], out, kernel, stride),
            groups=groups,
            activation=_activation(options.scalar(activation, "b")),
        )
        self._emit(NodeOp.CONV, ins[:1], out, layer)

    def _conv(self, ins: list[int], out: int, options: Table) -> None:
        weight = self._constant(ins[1]).transpose(0, 3, 1, 2)
        self._filtered(ins, out, options, groups=self._map(ins[0])[2] // weight.shape[1], activation=3, weight=weight)

    def _depthwise(self, ins: list[int], out: int, options: Table) -> None:
        weight = self._constant(ins[1]).transpose(3, 0, 1, 2)
        self._filtered(ins, out, options, groups=self._map(ins[0])[2], activation=4, weight=weight)

    def _dense(self, ins: list[int], out: int, options: Table) -> None:
        weight, source = self._constant(ins[1]), ins[0]
        if len(self._tensor(source).shape) == 4:
            self._flatten(source, out)
            source = out
        if self._tensor(ins[0]).shape[0] != 1 or weight.ndim != 2:
            raise FormatError(f"a dense layer on {self._tensor(ins[0]).shape}", wanted="one vector (1, features)")
        layer = TfliteLayer(
            name="",
            op=NodeOp.DENSE,
            inputs=(),
            weight=self._channels_first(weight, self.alias[source]),
            bias=self._bias(ins),
            activation=_activation(options.scalar(0, "b")),
        )
        self._emit(NodeOp.DENSE, [source], out, layer)

    def _channels_first(self, weight: Floats, source: str) -> Floats:
        """Columns in the order of a flattened (C, H, W) map instead of (H, W, C)."""
        h, w, c = self.flattened.get(source, (1, 1, weight.shape[1]))
        return weight.reshape(-1, h, w, c).transpose(0, 3, 1, 2).reshape(weight.shape)

    def _add(self, ins: list[int], out: int, options: Table) -> None:
        if self._tensor(ins[0]).shape != self._tensor(ins[1]).shape or not set(ins) <= set(self.alias):
            raise FormatError("an addition that broadcasts or adds a constant", wanted="two tensors of one shape")
        activation = _activation(options.scalar(0, "b"))
        self._emit(NodeOp.ADD, ins, out, TfliteLayer(name="", op=NodeOp.ADD, inputs=(), activation=activation))

    def _pool(self, op: NodeOp, ins: list[int], out: int, options: Table) -> None:
        kernel = (options.scalar(4, "i"), options.scalar(3, "i"))
        stride = (options.scalar(2, "i"), options.scalar(1, "i"))
        padding = self._padding(options.scalar(0, "b"), ins[0], out, kernel, stride)
        activation = _activation(options.scalar(5, "b"))
        if activation is not Activation.NONE or (any(padding) and op is NodeOp.AVG_POOL):
            raise FormatError("pooling with an activation or a padded mean", wanted="plain pooling")
        layer = TfliteLayer(name="", op=op, inputs=(), kernel=kernel, stride=stride, padding=padding)
        self._emit(op, ins, out, layer)

    def _average_pool(self, ins: list[int], out: int, options: Table) -> None:
        self._pool(NodeOp.AVG_POOL, ins, out, options)

    def _max_pool(self, ins: list[int], out: int, options: Table) -> None:
        self._pool(NodeOp.MAX_POOL, ins, out, options)

    def _mean(self, ins: list[int], out: int, options: Table) -> None:
        axes = sorted(a % 4 for a in self._integers(ins[1]))
        if axes != [1, 2]:
            raise FormatError(f"a mean over axes {axes}", wanted="height and width")
        kernel = self._map(ins[0])[:2]
        layer = TfliteLayer(name="", op=NodeOp.AVG_POOL, inputs=(), kernel=kernel, stride=kernel)
        self._emit(NodeOp.AVG_POOL, ins[:1], out, layer)
        if len(self._tensor(out).shape) == 2:
            self._emit(NodeOp.FLATTEN, [out], out, TfliteLayer(name="", op=NodeOp.FLATTEN, inputs=()))

    def _reshape(self, ins: list[int], out: int, options: Table) -> None:
        before, after = self._tensor(ins[0]).shape, self._tensor(out).shape
        if len(after) != 2 or after[0] not in (1, -1):
            raise FormatError(f"a reshape from {before} to {after}", wanted="a flattening to (1, features)")
        self._flatten(ins[0], out)

    def _flatten(self, source: int, out: int) -> None:
        self._emit(NodeOp.FLATTEN, [source], out, TfliteLayer(name="", op=NodeOp.FLATTEN, inputs=()))
        if len(self._tensor(source).shape) == 4:
            self.flattened[self.alias[out]] = self._map(source)

    def _pad(self, ins: list[int], out: int, options: Table) -> None:
        amounts = self._integers(ins[1])
        if len(amounts) != 8 or any(amounts[:2] + amounts[6:]) or not 0 <= min(amounts) <= max(amounts) <= MAX_SIZE:
            raise FormatError(f"padding {amounts}", wanted="padding of height and width")
        self.alias[out] = self.alias[ins[0]]
        self.pads[out] = (amounts[2], amounts[3], amounts[4], amounts[5])

    def _relu(self, ins: list[int], out: int, options: Table) -> None:
        self._activate(ins[0], out, Activation.RELU)

    def _relu6(self, ins: list[int], out: int, options: Table) -> None:
        self._activate(ins[0], out, Activation.RELU6)

    def _activate(self, source: int, out: int, activation: Activation) -> None:
        owner = self.layers.get(self.alias[source])
        if owner is None or owner.activation is not Activation.NONE or owner.weight is None:
            raise FormatError(
                f"an activation after {self.alias[source]}", wanted="one after a convolution or dense layer"
            )
        self.layers[owner.name] = replace(owner, activation=activation)
        self.alias[out] = owner.name

    def _pass(self, ins: list[int], out: int, options: Table) -> None:
        self.alias[out] = self.alias[ins[0]]


def _check_sizes(op: NodeOp, layer: TfliteLayer) -> None:
    shape = () if layer.weight is None else layer.weight.shape
    sizes = (layer.groups, *layer.kernel, *layer.stride, *shape)
    fits = layer.bias is None or layer.bias.shape == shape[:1]
    large = max(*layer.kernel, *layer.stride, *layer.padding) > MAX_SIZE
    if min(sizes) < 1 or large or not fits or (shape and shape[0] % layer.groups):
        raise FormatError(f"sizes {sizes} of {op.value}", wanted="positive sizes and one bias per channel")


def _reals(given: NDArray[Any], what: str) -> Reals:
    """Numbers of a file as float64; refused unless float32 can hold every one of them."""
    with np.errstate(invalid="ignore"):  # casting a signalling NaN warns; it is refused below
        values = given.astype(np.float64)
    if values.size and not np.abs(values).max() < np.finfo(np.float32).max:
        raise FormatError(f"{what} that are not finite", wanted="finite numbers")
    return values


def _input_quantization(tensor: _Tensor) -> tuple[float, int]:
    """Scale and zero point of the input; 1 and 0 for one of floats."""
    if not len(tensor.scale):
        return 1.0, 0
    scale, zero = float(tensor.scale[0]), int(tensor.zero_point[0]) if len(tensor.zero_point) else 0
    if scale <= 0 or abs(zero) >= MAX_SIZE:
        given = f"an input of scale {scale} and zero point {zero}"
        raise FormatError(given, wanted="a positive scale and a small number")
    return scale, zero


def _activation(number: int) -> Activation:
    if number not in _ACTIVATIONS:
        raise FormatError(f"fused activation number {number}", wanted="none, ReLU or ReLU6")
    return _ACTIVATIONS[number]
