"""ONNX models as workloads: shapes and bits of supported operators, without torch and without running anything.

Activations and batch normalisation belong to the layer before, reshapes move no data, padding joins the layer after.
Quantized models in QDQ form tell their bits by their integer types; a float model is taken at `weight_bits` and
`activation_bits`. The result has one stage and no exit branches. Operators outside `SUPPORTED` are errors by node.
"""

from collections.abc import Sequence
from pathlib import Path

from offramp.errors import FormatError
from offramp.formats.onnx_free import FREE_HANDLERS
from offramp.formats.onnx_graph import GraphNode, OnnxGraph, Shape, parse_onnx_graph, read_onnx_graph
from offramp.formats.onnx_layers import LAYER_HANDLERS
from offramp.formats.onnx_reading import Handler, Reading, Value
from offramp.ir.workload import INPUT, Stage, Workload

_HANDLERS: dict[str, Handler] = {**LAYER_HANDLERS, **FREE_HANDLERS}
SUPPORTED = tuple(sorted(_HANDLERS))
"""ONNX operators that can be priced (Gather, Concat and Shape on shapes only)."""


def read_onnx(
    path: str | Path, *, weight_bits: int = 8, activation_bits: int = 8, input_shape: Sequence[int] | None = None
) -> Workload:
    """The workload of an ONNX file, as one stage without branch.

    Args:
        weight_bits, activation_bits: of layers whose file does not say (float models).
        input_shape: (C, H, W) or any other shape without the batch, where the file leaves it open.

    Raises:
        FormatError: damaged, cyclic, an operator that is not supported, or shapes that do not fit; names the node.
    """
    return workload_of(read_onnx_graph(path), weight_bits, activation_bits, input_shape)


def onnx_workload(
    content: bytes, *, name: str = "model.onnx", weight_bits: int = 8, activation_bits: int = 8
) -> Workload:
    """As `read_onnx`, from the bytes of a file."""
    return workload_of(parse_onnx_graph(content, where=name), weight_bits, activation_bits, None)


def workload_of(
    graph: OnnxGraph, weight_bits: int, activation_bits: int, input_shape: Sequence[int] | None
) -> Workload:
    """The workload of a graph (see `read_onnx`)."""
    reading = Reading(graph, weight_bits, activation_bits, constants=dict(graph.constants))
    for name, shape in graph.inputs.items():
        reading.values[name] = Value(_sized(name, shape, input_shape, graph.where), INPUT, activation_bits, root=name)
    for node in graph.nodes:
        _read_node(reading, node)
    lost = next((name for name in graph.outputs if name not in reading.values and name not in reading.constants), None)
    if lost is not None:
        raise FormatError(f"output {lost} is made by nobody", wanted="outputs that the graph makes", where=graph.where)
    if not reading.layers:
        raise FormatError("no layer with work in it", wanted="at least one of Conv, Gemm, ...", where=graph.where)
    return Workload(graph.name, (Stage(backbone=tuple(reading.layers.values())),))


def _read_node(reading: Reading, node: GraphNode) -> None:
    handler = _HANDLERS.get(node.op)
    if handler is None:
        raise node.fault(f"operator {node.op or '(none)'} is not supported", f"one of {', '.join(SUPPORTED)}")
    if not node.outputs or not node.outputs[0]:
        raise node.fault("it has no output", "a node with an output")
    handler(reading, node)


def _sized(name: str, shape: Shape | None, given: Sequence[int] | None, where: str) -> Shape:
    """A declared input shape with batch 1 and with what the user adds."""
    if given is not None:
        return (1, *given)
    place = f"{where}: input {name}"
    if shape is None or not shape:
        raise FormatError("its shape is not given", wanted="a shape", where=place, write="--input-shape C,H,W")
    if any(d == 0 for d in shape[1:]):
        given_text = "x".join(str(d) if d else "?" for d in shape)
        raise FormatError(f"its shape {given_text} is open", wanted="numbers", where=place, write="--input-shape C,H,W")
    return (shape[0] or 1, *shape[1:])
