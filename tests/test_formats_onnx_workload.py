"""ONNX to workload: shapes and bits by operator, exported networks against their own lowering, bad files, fuzz."""

import io
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from damaged_files import damaged_bytes
from offramp.errors import FormatError, UserError
from offramp.formats.onnx_workload import SUPPORTED, onnx_workload, read_onnx
from offramp.ir.workload import INPUT, Layer, Op, Workload
from onnx_cases import CONV, FLOAT, WHOLE, integers, model, node


def layers_of(*nodes: onnx.NodeProto, **options: object) -> tuple[Layer, ...]:
    return onnx_workload(model(nodes, **options)).layers  # type: ignore[arg-type]


def test_convolutions_pools_and_dense_layers_become_loop_nests() -> None:
    first, depth, grouped, pool, mean, dense = layers_of(
        CONV,
        node("BatchNormalization", "y bias bias bias bias", "bn"),
        node("Clip", "bn", "r"),
        node("Conv", "r dw", "d", pads=[0, 1, 2, 1], strides=[2, 1], group=8),
        node("Conv", "d gw", "e", group=2),
        node("MaxPool", "e", "p", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("GlobalAveragePool", "p", "m"),
        node("Flatten", "m", "f"),
        node("Gemm", "f fc", "z", transB=1),
    )
    assert (first.op, first.K, first.C, first.OY, first.OX, first.FY, first.padding) == (
        Op.CONV, 8, 3, 8, 8, 3, (1, 1, 1, 1),
    )  # fmt: skip
    assert (depth.op, depth.G, depth.K, depth.C, depth.OY, depth.OX, depth.padding) == (
        Op.DEPTHWISE, 8, 1, 1, 4, 8, (0, 2, 1, 1),
    )  # fmt: skip
    assert (grouped.op, grouped.G, grouped.K, grouped.C, grouped.macs) == (Op.CONV, 2, 4, 4, 8 * 4 * 32)
    assert (pool.op, pool.G, pool.OY, pool.OX, pool.stride) == (Op.MAX_POOL, 8, 2, 4, (2, 2))
    assert (mean.op, mean.FY, mean.FX, mean.OY, mean.inputs) == (Op.AVG_POOL, 2, 4, 1, (pool.name,))
    assert (dense.op, dense.K, dense.C, dense.inputs) == (Op.DENSE, 10, 8, (mean.name,))
    assert first.inputs == (INPUT,)
    assert first.weight_bits == first.input_bits == dense.output_bits == 8


def test_additions_join_and_constants_fold() -> None:
    conv, second, total = layers_of(
        CONV,
        node("Relu", "y", "r"),
        node("Mul", "r s", "scaled"),
        node("Add", "scaled bias1", "shifted"),
        node("Conv", "shifted gw", "b", group=2),
        node("Sigmoid", "b", "gate"),
        node("Mul", "b gate", "swish"),
        node("Add", "swish r", "sum"),
        extra=[numpy_helper.from_array(np.zeros((8, 1, 1), np.float32), "bias1")],
    )
    assert total.op is Op.ADD
    assert total.inputs == (second.name, conv.name)
    assert (total.G, total.OY, total.OX) == (8, 8, 8)


def test_padding_joins_the_next_layer_and_same_padding_is_counted() -> None:
    pads = integers("pads", 0, 0, 1, 2, 0, 0, 3, 4)
    (conv,) = layers_of(node("Pad", "x pads", "p"), node("Conv", "p w", "y"), extra=[pads])
    assert (conv.padding, conv.OY, conv.OX, conv.IY) == ((1, 3, 2, 4), 10, 12, 8)
    (same,) = layers_of(node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=[2, 2]))
    assert (same.OY, same.OX, same.padding) == (4, 4, (0, 1, 0, 1))
    with pytest.raises(FormatError, match=r"node n_f \(Flatten\): a padded tensor arrives"):
        layers_of(CONV, node("Pad", "x pads", "p"), node("Flatten", "p", "f"), extra=[pads])


def test_shape_arithmetic_of_exporters_is_folded() -> None:
    flat = layers_of(
        CONV,
        node("ReduceMean", "y", "m", axes=[-1, -2], keepdims=0),
        node("Shape", "m", "shape"),
        node("Gather", "shape zero", "n"),
        node("Unsqueeze", "n axis", "n1"),
        node("Concat", "n1 minus", "target", axis=0),
        node("Reshape", "m target", "f"),
        node("MatMul", "f mm", "z"),
        node("Softmax", "z", "out"),
        extra=[integers("zero", 0), integers("axis", 0), integers("minus", -1)],
    )
    assert [layer.op for layer in flat] == [Op.CONV, Op.AVG_POOL, Op.DENSE]


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax"])
@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("first", [2, 3, -1])
def test_reducing_one_axis_after_the_other_is_one_global_pooling(op: str, kept: int, first: int) -> None:
    second = (3 if kept else 2) if first == 2 else 2
    nodes = [CONV, node(op, "y", "rows", axes=[first], keepdims=kept), node(op, "rows", "m", axes=[second])]
    _, pooled = layers_of(*nodes)
    _, whole = layers_of(CONV, node(op, "y", "m", axes=[2, 3]))
    assert pooled == whole
    _, rows, rest = layers_of(CONV, nodes[1], node("Relu", "rows", "r"), node(op, "r", "m", axes=[second]))
    assert rows.stride == (rows.FY, rows.FX) == {2: (8, 1), 3: (1, 8), -1: (1, 8)}[first]
    assert (rest.inputs, rest.OY, rest.OX) == ((rows.name,), 1, 1)


def test_sequences_and_open_batches_are_read() -> None:
    weights = numpy_helper.from_array(np.zeros((4, 9, 5), np.float32), "w1")
    (conv,) = layers_of(node("Conv", "x w1", "y", pads=[2, 2], strides=[2]), shape=("N", 9, 128), extra=[weights])
    assert (conv.OY, conv.OX, conv.FY, conv.FX, conv.B) == (1, 64, 1, 5, 1)


def test_bits_follow_the_integer_types_of_quantizers() -> None:
    four = getattr(TensorProto, "INT4", TensorProto.INT8)
    extra = [
        helper.make_tensor("zp8", TensorProto.UINT8, [], [0]),
        helper.make_tensor("zp4", four, [], [0]),
        helper.make_tensor("w4", four, [8, 3, 3, 3], [0] * 216),
        helper.make_tensor("scale", FLOAT, [], [0.1]),
    ]
    first, second = layers_of(
        node("QuantizeLinear", "x scale zp8", "xq"),
        node("DequantizeLinear", "xq scale zp8", "xd"),
        node("DequantizeLinear", "w4 scale zp4", "wd"),
        node("Conv", "xd wd", "y", pads=[1, 1, 1, 1]),
        node("Relu", "y", "r"),
        node("QuantizeLinear", "r scale zp4", "rq"),
        node("DequantizeLinear", "rq scale zp4", "rd"),
        node("Conv", "rd gw", "z", group=2),
        extra=extra,
    )
    assert (first.weight_bits, first.input_bits, first.output_bits) == (4, 8, 4)
    assert (second.weight_bits, second.input_bits, second.output_bits) == (8, 4, 8)
    loose = onnx_workload(model([CONV]), weight_bits=2, activation_bits=7).layers[0]
    assert (loose.weight_bits, loose.input_bits, loose.output_bits) == (2, 7, 7)


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet8", (3, 32, 32)), ("mobilenetv2", (3, 32, 32)), ("dscnn", (1, 49, 10))]
)
def test_an_exported_backbone_reads_as_its_own_lowering(name: str, shape: tuple[int, int, int]) -> None:
    import torch

    from offramp.ir.architecture import Architecture
    from offramp.nn.lower import lower
    from offramp.nn.network import build

    network = build(Architecture(backbone=name), shape, 10, seed=0).eval()
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(1, *shape),), content, dynamo=False)
    found, own = onnx_workload(content.getvalue()), lower(network)
    assert [strip(x, found) for x in found.layers] == [strip(x, own) for x in own.layers]


def strip(layer: Layer, workload: Workload) -> tuple[Layer, tuple[int, ...]]:
    places = {x.name: i for i, x in enumerate(workload.layers)}
    return replace(layer, name="", inputs=("",) * len(layer.inputs)), tuple(places.get(s, -1) for s in layer.inputs)


BAD: dict[str, tuple[bytes, str]] = {
    "operator": (model([node("LSTM", "x w", "y")]), r"node n_y \(LSTM\): operator LSTM is not supported; wanted one"),
    "concat": (
        model([CONV, node("Concat", "y y", "z", axis=1)]),
        r"node n_z \(Concat\): operator Concat on feature maps is not supported; wanted it on shapes only",
    ),
    "cycle": (
        model([node("Add", "x b", "a"), node("Relu", "a", "b")]),
        r"node n_a \(Add\): the graph has a cycle",
    ),
    "loose end": (model([node("Relu", "nowhere", "y")]), r"node n_y \(Relu\): reads 'nowhere', which nobody makes"),
    "two makers": (model([CONV, node("Relu", "x", "y")]), "tensor y is made twice"),
    "channels": (model([node("Conv", "x gw", "y")]), r"node n_y \(Conv\): weights of \(8, 4, 1, 1\) with 1 gr"),
    "window": (model([CONV, node("MaxPool", "y", "p", kernel_shape=[99, 1])]), r"n_p \(MaxPool\): a window"),
    "features": (model([CONV, node("Flatten", "y", "f"), node("MatMul", "f mm", "z")]), "weights of 8 rows"),
    "add shapes": (
        model([CONV, node("GlobalAveragePool", "y", "m"), node("Add", "y m", "z")]),
        r"adds tensors of shapes \(1, 8, 8, 8\) and \(1, 8, 1, 1\)",
    ),
    "two activations": (
        model([CONV, node("GlobalAveragePool", "y", "m"), node("Mul", "y m", "z")]),
        "joins two different tensors",
    ),
    "axes": (model([CONV, node("ReduceMean", "y", "m", axes=[1])]), "the axes of height and width"),
    "reshape": (model([CONV, node("Reshape", "y t", "z")], extra=[integers("t", 7, -1)]), "the same number"),
    "perm": (model([CONV, node("Transpose", "y", "z", perm=[0, 0, 1, 2])]), "each axis once"),
    "stride": (model([node("Conv", "x w", "y", strides=[0, 1])]), "strides is \\(0, 1\\)"),
    "weights computed": (model([CONV, node("Conv", "y y", "z")]), r"input 1 \(y\) is computed"),
    "no work": (model([node("Relu", "x", "y")]), "no layer with work in it"),
    "open shape": (model([CONV], shape=("N", 3, "H", "W")), "input x: its shape .* is open; .*--input-shape"),
    "output": (model([CONV], output="z"), "output z is made by nobody"),
    "empty": (onnx.ModelProto().SerializeToString(), "a model without nodes"),
    "text": (b"this is not protobuf at all, is it?", "damaged protobuf"),
    "pad channels": (
        model([node("Pad", "x p", "y"), node("Conv", "y w", "z")], extra=[integers("p", 0, 1, 0, 0, 0, 0, 0, 0)]),
        "pads batch or channels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_models_end_in_one_line_that_names_the_place(case: str) -> None:
    content, message = BAD[case]
    with pytest.raises(FormatError, match=message) as caught:
        onnx_workload(content)
    assert "\n" not in str(caught.value)


def test_an_open_input_shape_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "open.onnx"
    path.write_bytes(model([CONV], shape=("N", 3, "H", "W")))
    assert read_onnx(path, input_shape=(3, 16, 8)).layers[0].OY == 16
    with pytest.raises(FormatError, match="no such file"):
        read_onnx(tmp_path / "none.onnx")
    path.write_bytes(model([CONV])[:-40])
    with pytest.raises(FormatError, match="damaged protobuf"):
        read_onnx(path)


def test_the_supported_list_is_what_the_error_shows() -> None:
    with pytest.raises(FormatError, match=", ".join(SUPPORTED)):
        onnx_workload(BAD["operator"][0])


EXTREMES = (0, -1, 1, 2, 7, 255, 2**31, -(2**31), 2**62, -(2**63), 2**63 - 1)
extremes = st.sampled_from(EXTREMES)


def damaged_node(draw: st.DrawFn, graph: onnx.GraphProto) -> None:
    chosen = draw(st.sampled_from(list(graph.node)))
    names = [t for n in graph.node for t in (*n.input, *n.output)] + ["", "nowhere", "a\nb"]
    action = draw(st.sampled_from(["operator", "input", "attribute", "fewer", "more", "none", "name"]))
    if action == "operator":
        chosen.op_type = draw(st.sampled_from([*SUPPORTED, "If", "", "Softmax", "\x1b[2J"]))
    elif action == "input" and chosen.input:
        chosen.input[draw(st.integers(0, len(chosen.input) - 1))] = draw(st.sampled_from(names))
    elif action == "attribute" and chosen.attribute:
        attribute = draw(st.sampled_from(list(chosen.attribute)))
        attribute.ints[:] = draw(st.lists(extremes, max_size=9))
        attribute.i = draw(extremes)
        attribute.type = draw(st.sampled_from([attribute.type, 0, 1, 2, 3, 4, 7]))
    elif action == "fewer":
        del chosen.input[draw(st.integers(0, len(chosen.input))) :]
    elif action == "more":
        getattr(chosen, draw(st.sampled_from(["input", "output"]))).append(draw(st.sampled_from(names)))
    elif action == "none" and len(graph.node) > 1:
        graph.node.remove(chosen)
    else:
        chosen.name = draw(st.sampled_from(["", "x", "input", "a\nb"]))


@st.composite
def damaged_graphs(draw: st.DrawFn) -> bytes:
    """A whole model in which nodes, tensors or the input's shape were changed."""
    proto = onnx.ModelProto.FromString(WHOLE)
    for _ in range(draw(st.integers(1, 4))):
        part = draw(st.sampled_from(["node", "node", "tensor", "shape"]))
        if part == "node":
            damaged_node(draw, proto.graph)
        elif part == "tensor":
            tensor = draw(st.sampled_from(list(proto.graph.initializer)))
            tensor.dims[:] = draw(st.lists(extremes, max_size=5))
            tensor.data_type = draw(st.sampled_from([tensor.data_type, 0, 1, 6, 7, 8, 14, 22, 99]))
        else:
            dimensions = proto.graph.input[0].type.tensor_type.shape.dim
            dimensions[draw(st.integers(0, len(dimensions) - 1))].dim_value = draw(extremes)
    return proto.SerializeToString()


@pytest.mark.reader
@given(damaged_bytes([WHOLE]) | damaged_graphs())
@settings(max_examples=300)
def test_damaged_models_are_read_or_refused_in_one_line(content: bytes) -> None:
    try:
        onnx_workload(content)
    except UserError as error:
        assert str(error).isprintable()
