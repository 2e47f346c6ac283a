"""What an ONNX file of a bundle may be: the operators that `deploy.onnx` writes, self-contained, with the right ends.

ONNX files can point at other files and call custom operators; neither is let through. It only parses; it runs nothing.
"""

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from offramp.deploy.onnx import OPSET, carried_shape, logits_name
from offramp.deploy.plan import Plan, Tensor
from offramp.errors import FormatError

OPERATORS = frozenset(
    {
        "Add", "AveragePool", "Clip", "Conv", "DequantizeLinear", "Div", "Flatten", "Gemm", "GlobalAveragePool",
        "Identity", "MaxPool", "Mul", "Pad", "QuantizeLinear", "Round", "Slice", "Sum", "Transpose",
    }
)  # fmt: skip
STANDARD = frozenset({"", "ai.onnx"})


def check_stage(content: bytes, plan: Plan, index: int, *, where: str) -> None:
    """Verify one stage's ONNX file against the plan of the network it belongs to.

    Raises:
        FormatError: not ONNX, with external data, foreign domains or operators, or with other inputs and outputs.
    """
    try:
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, checker and C++ each have their own
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(f"not an ONNX model: {first}", wanted="an intact stage file", where=where) from error
    for fault in _faults(model):
        raise FormatError(fault, wanted="a self-contained file of standard operators", where=where)
    _check_ends(model.graph, plan, index, where)


def _faults(model: onnx.ModelProto) -> Iterator[str]:
    yield from (f"operator set {o.domain!r}" for o in model.opset_import if o.domain not in STANDARD)
    yield from (f"opset {o.version}" for o in model.opset_import if o.version != OPSET)
    if model.functions or model.training_info or model.graph.sparse_initializer:
        yield "functions, training parts or sparse tensors"
    for node in model.graph.node:
        if node.domain not in STANDARD or node.op_type not in OPERATORS:
            yield f"operator {node.domain}:{node.op_type}"
        if any(
            a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) or a.HasField("t") for a in node.attribute
        ):
            yield f"a graph or tensor inside {node.op_type}"
    for tensor in model.graph.initializer:
        if tensor.external_data or tensor.data_location == TensorProto.EXTERNAL:
            yield f"external data for {tensor.name}"


def _check_ends(graph: onnx.GraphProto, plan: Plan, index: int, where: str) -> None:
    stage, last = plan.stages[index], index == len(plan.stages) - 1
    entry = (TensorProto.FLOAT, plan.input.shape) if index == 0 else _form(stage.received)
    exits = ([] if last else [_form(stage.carried)]) + [(TensorProto.FLOAT, (plan.network.classes,))]
    found_in, found_out = [_found(i) for i in graph.input], [_found(o) for o in graph.output]
    if found_in != [entry] or found_out != exits or graph.output[-1].name != logits_name(stage):
        given = f"inputs {found_in} and outputs {found_out} (type, shape without batch)"
        raise FormatError(given, wanted=f"{[entry]} and {exits}", where=where)


def _form(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    return TensorProto.UINT8, carried_shape(tensor)


def _found(info: onnx.ValueInfoProto) -> tuple[int, tuple[int, ...]]:
    kind = info.type.tensor_type
    return kind.elem_type, tuple(d.dim_value for d in kind.shape.dim[1:])
