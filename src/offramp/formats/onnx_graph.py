"""An ONNX file as a checked graph: bytes to nodes in execution order, their attributes and small constants.

Nothing of the file is executed and no external data is read: a price needs shapes and types, not weights. Damage,
cycles and tensors that nobody makes are reported by node; `formats.onnx_workload` knows the operators.
ONNX: github.com/onnx/onnx, docs/IR.md and docs/Operators.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import numpy_helper

from offramp.errors import FormatError

MAX_BYTES = 2**31 - 1
"""Protobuf's own limit."""
MAX_DIMENSION = 2**24
MAX_RANK = 6
SMALL = 4096
"""Constants up to this many elements are read (shapes, paddings, axes); larger ones are weights."""

TYPE_BITS: dict[int, int] = {
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.INT32: 32,
    **{
        getattr(onnx.TensorProto, n): int(n[-1])
        for n in ("INT4", "UINT4", "INT2", "UINT2")
        if hasattr(onnx.TensorProto, n)
    },
}
"""Bits of the integer types that a quantized tensor may have."""

Attribute = int | float | str | tuple[int, ...] | onnx.TensorProto
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor of the file: shape, element type, and its integers where they are few."""

    shape: Shape
    elem_type: int
    integers: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class GraphNode:
    """A node: operator, a unique name, tensor names ("" for an omitted input) and attributes."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    where: str

    def ints(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list attribute."""
        value = self.attributes.get(key, default)
        if not isinstance(value, tuple) or len(value) > 2 * MAX_RANK:
            raise self.fault(f"attribute {key} is not a short list of integers", "a list of integers")
        return value

    def integer(self, key: str, default: int) -> int:
        """A number attribute."""
        value = self.attributes.get(key, default)
        if not isinstance(value, int):
            raise self.fault(f"attribute {key} is not an integer", "an integer")
        return value

    def fault(self, given: str, wanted: str = "", write: str = "") -> FormatError:
        """An error at this node."""
        return FormatError(given, wanted=wanted, where=self.where, write=write)


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """Nodes in execution order, the network's inputs with their shapes (0: not given), constants, output names."""

    name: str
    nodes: tuple[GraphNode, ...]
    inputs: Mapping[str, Shape | None]
    constants: Mapping[str, Constant]
    outputs: tuple[str, ...]
    where: str


def read_onnx_graph(path: str | Path) -> OnnxGraph:
    """Read an ONNX file.

    Raises:
        FormatError: missing, damaged, cyclic, or it reads a tensor that nobody makes.
    """
    file = Path(path)
    if not file.is_file():
        raise FormatError("no such file", wanted="an ONNX file", where=str(file))
    if file.stat().st_size > MAX_BYTES:
        raise FormatError(f"{file.stat().st_size} bytes", wanted="at most 2 GiB", where=str(file))
    return parse_onnx_graph(file.read_bytes(), where=str(file))


def parse_onnx_graph(content: bytes, *, where: str) -> OnnxGraph:
    """As `read_onnx_graph`, from bytes."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, ValueError) as error:
        raise FormatError("not an ONNX model (damaged protobuf)", wanted="an intact .onnx file", where=where) from error
    graph = model.graph
    if not graph.node:
        raise FormatError("a model without nodes", wanted="an ONNX model with a graph", where=where)
    constants = {_clean(t.name): _constant(t, f"{where}: tensor {_clean(t.name)}") for t in graph.initializer}
    inputs = {_clean(v.name): _input_shape(v, where) for v in graph.input if _clean(v.name) not in constants}
    nodes = _unique_names(graph, where)
    return OnnxGraph(
        name=_clean(graph.name) or Path(where).stem or "onnx",
        nodes=_in_order(nodes, {*constants, *inputs, ""}, where),
        inputs=inputs,
        constants=constants,
        outputs=tuple(_clean(v.name) for v in graph.output),
        where=where,
    )


def _clean(text: str | bytes) -> str:
    """A name on one line; protobuf hands out bytes where a damaged file's text is not UTF-8."""
    whole = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return "".join(c if c.isprintable() else "?" for c in whole)[:200]


def _names(values: Iterable[str | bytes]) -> tuple[str, ...]:
    return tuple(_clean(v) for v in values)


def _constant(tensor: onnx.TensorProto, where: str) -> Constant:
    shape = tuple(tensor.dims)
    if len(shape) > MAX_RANK or any(not 0 <= d <= MAX_DIMENSION for d in shape):
        raise FormatError(f"a tensor of shape {shape}", wanted=f"dimensions from 0 to {MAX_DIMENSION}", where=where)
    count = int(np.prod(shape, dtype=np.float64))
    whole = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    if not whole or count > SMALL or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return Constant(shape, tensor.data_type)
    try:
        values = numpy_helper.to_array(tensor).astype(np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise FormatError("its data does not fill its shape", wanted=f"{count} integers", where=where) from error
    return Constant(shape, tensor.data_type, values)


def tensor_constant(node: GraphNode, key: str) -> Constant:
    """A tensor attribute of a Constant node."""
    value = node.attributes.get(key)
    if isinstance(value, onnx.TensorProto):
        return _constant(value, node.where)
    if key.startswith("value_int") and value is not None:
        numbers = np.asarray(value, dtype=np.int64)
        return Constant(numbers.shape, onnx.TensorProto.INT64, numbers)
    return Constant((), onnx.TensorProto.FLOAT)


def _input_shape(value: onnx.ValueInfoProto, where: str) -> Shape | None:
    """The declared shape; dimensions without a number are 0; None where no shape is declared."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    shape = tuple(d.dim_value if d.HasField("dim_value") else 0 for d in kind.shape.dim)
    if len(shape) > MAX_RANK or any(not 0 <= d <= MAX_DIMENSION for d in shape):
        given = f"input {_clean(value.name)} of shape {shape}"
        raise FormatError(given, wanted=f"dimensions up to {MAX_DIMENSION}", where=where)
    return shape


def _unique_names(graph: onnx.GraphProto, where: str) -> list[GraphNode]:
    nodes: list[GraphNode] = []
    taken: set[str] = set()
    for index, proto in enumerate(graph.node):
        name = _clean(proto.name or next((o for o in proto.output if o), "")) or f"{_clean(proto.op_type)}_{index}"
        while name in taken or name == "input":
            name = f"{name}_{index}"
        taken.add(name)
        place = f"{where}: node {name} ({_clean(proto.op_type) or 'no operator'})"
        attributes = {_clean(a.name): _attribute(a, place) for a in proto.attribute}
        nodes.append(
            GraphNode(_clean(proto.op_type), name, _names(proto.input), _names(proto.output), attributes, place)
        )
    return nodes


def _attribute(attribute: onnx.AttributeProto, where: str) -> Attribute:
    kinds: dict[int, Any] = {
        onnx.AttributeProto.INT: lambda a: a.i,
        onnx.AttributeProto.FLOAT: lambda a: a.f,
        onnx.AttributeProto.STRING: lambda a: a.s.decode("utf-8", "replace"),
        onnx.AttributeProto.INTS: lambda a: tuple(a.ints),
        onnx.AttributeProto.TENSOR: lambda a: a.t,
    }
    if attribute.type not in kinds:
        return ""
    value: Attribute = kinds[attribute.type](attribute)
    if isinstance(value, int) and abs(value) > 2**62:
        raise FormatError(f"attribute {_clean(attribute.name)} is {value}", wanted="a sensible number", where=where)
    return value


def _in_order(nodes: list[GraphNode], known: set[str], where: str) -> tuple[GraphNode, ...]:
    """Nodes so that every tensor is made before it is read (Kahn's algorithm, stable)."""
    makers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for output in node.outputs:
            if output and (output in makers or output in known):
                raise node.fault(f"tensor {output} is made twice", "one maker for each tensor")
            makers[output] = i
    makers.pop("", None)
    for node in nodes:
        lost = next((t for t in node.inputs if t not in known and t not in makers), None)
        if lost is not None:
            raise node.fault(f"reads {lost!r}, which nobody makes", "a graph without loose ends")
    waiting = [{makers[t] for t in node.inputs if t in makers} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for i, sources in enumerate(waiting):
        for source in sources:
            readers[source].append(i)
    counts = [len(sources) for sources in waiting]
    ready = [i for i, count in enumerate(counts) if not count]
    order: list[int] = []
    while ready:
        i = ready.pop(0)
        order.append(i)
        for reader in readers[i]:
            counts[reader] -= 1
            if not counts[reader]:
                ready.append(reader)
    if len(order) < len(nodes):
        stuck = nodes[min(set(range(len(nodes))) - set(order))]
        raise stuck.fault("the graph has a cycle through this node or before it", "a graph without cycles")
    # as the file has them where that is an order already
    in_file = all(max(sources, default=-1) < i for i, sources in enumerate(waiting))
    return tuple(nodes) if in_file else tuple(nodes[i] for i in order)
