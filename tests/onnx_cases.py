"""Small ONNX models for tests: built with onnx.helper, weights are zeros."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
SHAPES: dict[str, tuple[int, ...]] = {
    "w": (8, 3, 3, 3), "dw": (8, 1, 3, 3), "gw": (8, 4, 1, 1), "fc": (10, 8), "mm": (8, 10), "bias": (8,),
    "s": (1, 8, 1, 1),
}  # fmt: skip


def node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"n_{output}", **attributes)


def integers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str] = (1, 3, 8, 8),
    extra: Sequence[onnx.TensorProto] = (),
    output: str | None = None,
) -> bytes:
    tensors = [numpy_helper.from_array(np.zeros(s, dtype=np.float32), n) for n, s in SHAPES.items()]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", FLOAT, list(shape))],
        [helper.make_tensor_value_info(output or nodes[-1].output[0], FLOAT, None)],
        [*tensors, *extra],
    )
    return helper.make_model(graph).SerializeToString()


CONV = node("Conv", "x w", "y", pads=[1, 1, 1, 1])

WHOLE = model(
    [
        node("QuantizeLinear", "x sc zp", "q"),
        node("DequantizeLinear", "q sc zp", "dq"),
        node("Pad", "dq pads", "pd"),
        node("Conv", "pd w", "y", strides=[1, 1], dilations=[1, 1]),
        node("BatchNormalization", "y bias bias bias bias", "bn"),
        node("Conv", "bn dw", "d", pads=[1, 1, 1, 1], group=8),
        node("Add", "d bn", "a"),
        node("AveragePool", "a", "ap", kernel_shape=[2, 2], strides=[2, 2]),
        node("ReduceMean", "ap", "m", axes=[2, 3], keepdims=0),
        node("Shape", "m", "sh"),
        node("Gather", "sh zero", "n"),
        node("Unsqueeze", "n zero", "n1"),
        node("Concat", "n1 minus", "target", axis=0),
        node("Reshape", "m target", "f"),
        node("Transpose", "f", "t1", perm=[0, 1]),
        node("Gemm", "t1 fc", "z", transB=1),
    ],
    extra=[
        integers("pads", 0, 0, 1, 1, 0, 0, 1, 1),
        integers("zero", 0),
        integers("minus", -1),
        helper.make_tensor("zp", TensorProto.UINT8, [], [0]),
        helper.make_tensor("sc", FLOAT, [], [0.1]),
    ],
)
"""One of every kind of operator that is read."""
