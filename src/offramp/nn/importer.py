"""A user's own classifier as a `Backbone`: traced, checked, and cut wherever a single feature map crosses.

Cuts are made after convolutions and additions, behind the pooling that follows them, never between a depthwise
convolution and the layer that mixes its channels. The head is what follows the last cut. Weights are taken along; a
softmax at the end is left out, because exits want logits. A tflite file becomes such a classifier first.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from offramp.errors import UserError
from offramp.formats.tflite import TfliteLayer, TfliteModel, read_tflite
from offramp.ir.quantized import Activation, NodeOp
from offramp.ir.workload import INPUT
from offramp.nn.backbones import Backbone
from offramp.nn.graph import (
    BLOCK_INPUT,
    FLATTENS,
    BlockGraph,
    FusedNode,
    fx_graph,
    is_batch_size,
    is_depthwise,
    is_global_mean,
    keeps_axes,
    trace_values,
)
from offramp.nn.layers import Shape
from offramp.nn.shapes import propagate

_SOFTMAX_FUNCTIONS = (F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, "softmax", "log_softmax")
_SOFTMAX_MODULES = (nn.Softmax, nn.LogSoftmax)
_OVER_CLASSES = (1, -1, None)
"""Dimensions of a softmax over the classes; None is torch's old default, which is 1 for logits."""


def import_module(module: nn.Module, input_shape: Shape, *, name: str = "imported") -> Backbone:
    """A classifier cut into blocks; the module itself stays as it is.

    Args:
        module: takes (N, C, H, W), gives logits (N, classes); any mix of Conv2d, BatchNorm2d after it, ReLU, ReLU6,
            Linear, pooling, additions, flattening, dropout.
        input_shape: (C, H, W).
        name: what the backbone is called in architectures and reports.

    Raises:
        UserError: an operator that is not supported (with its module path), shapes that do not fit, or no place to
            cut.
    """
    root = _copied(module, name)
    graph = _plain_graph(fx.GraphModule(root, fx_graph(root, name)))
    traced = fx.GraphModule(root, graph)
    layers, values = trace_values(traced, name)
    shapes = propagate(traced, layers.nodes, {BLOCK_INPUT: input_shape})
    classes = _classes(shapes[layers.output], name)
    _check_pools(layers.nodes, name)
    cuts = [values[layer] for layer in _cuts(traced, layers)]
    if not cuts:
        wanted = "a convolution before the classifier after which one feature map alone goes on"
        raise UserError("no place where an exit could sit", wanted=wanted, where=name)
    *blocks, head = _segments(traced, cuts)
    return Backbone(name, input_shape, classes, tuple(blocks), head)


def _copied(module: nn.Module, name: str) -> nn.Module:
    """A copy on the processor in float32."""
    try:
        return copy.deepcopy(module).cpu().float()
    except Exception as error:  # a module may raise whatever it likes here
        raise UserError(
            f"this module cannot be copied ({type(error).__name__}: {error})",
            wanted="parameters that are its own, with values",
            where=name,
        ) from error


def _check_pools(nodes: Sequence[FusedNode], name: str) -> None:
    """Refuse what conversion would refuse after all training: integers are padded with 0, where torch pads with
    -infinity, and a maximum has no scale of its own, which logits need."""
    last = next(node for node in reversed(nodes) if node.op is not NodeOp.FLATTEN)
    if last.op is NodeOp.MAX_POOL:
        where = f"{name}.{last.name}"
        raise UserError("a max pool that gives the logits", wanted="a convolution, linear, + or mean", where=where)
    signed = {BLOCK_INPUT: True}
    for node in nodes:
        source = signed[node.inputs[0]]
        if node.op is NodeOp.MAX_POOL and source and node.pool is not None and any(node.pool.padding):
            where = f"{name}.{node.name}"
            raise UserError("a padded max pool of values below 0", wanted="a ReLU before it", where=where)
        keeps = node.op in (NodeOp.MAX_POOL, NodeOp.AVG_POOL, NodeOp.FLATTEN)
        signed[node.name] = source if keeps else node.activation is Activation.NONE


def _classes(shape: Shape, name: str) -> int:
    if shape[1:] != (1, 1) or shape[0] < 2:
        raise UserError(f"an output of shape {shape}", wanted="logits of at least 2 classes", where=name)
    return shape[0]


def _plain_graph(module: fx.GraphModule) -> fx.Graph:
    """Every reshape that only flattens as `torch.flatten`, so that no size crosses a cut; a mean that drops its axes in
    two steps, so that its map may cross one; no softmax at the end."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "output" and isinstance(node.args[0], fx.Node) and _is_softmax(module, node.args[0]):
            node.args = (node.args[0].args[0],)
        if node.target in FLATTENS and node.args[2:] == (-1,) and is_batch_size(node.args[1]):
            node.op, node.target, node.args, node.kwargs = "call_function", torch.flatten, (node.args[0], 1), {}
        if is_global_mean(node) and not keeps_axes(node):
            _keep_axes(graph, node)
    graph.eliminate_dead_code()
    return graph


def _keep_axes(graph: fx.Graph, node: fx.Node) -> None:
    with graph.inserting_after(node):
        flat = graph.create_node("call_function", torch.flatten, (node, 1), name=f"{node.name}_flatten")
    node.replace_all_uses_with(flat, delete_user_cb=lambda user: user is not flat)
    node.args = node.args[:2]
    node.kwargs = {**node.kwargs, "keepdim": True}


def _is_softmax(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        part = module.get_submodule(str(node.target))
        return isinstance(part, _SOFTMAX_MODULES) and part.dim in _OVER_CLASSES
    given = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    return node.target in _SOFTMAX_FUNCTIONS and given in _OVER_CLASSES


def _cuts(traced: fx.GraphModule, layers: BlockGraph) -> list[str]:
    """Names of the layers after which the network is cut, in order."""
    nodes = layers.nodes
    weights = [node.op in (NodeOp.CONV, NodeOp.DENSE) for node in nodes]
    cuts, since = [], False
    for i, node in enumerate(nodes[:-1]):
        since = since or node.op is NodeOp.CONV
        rest = nodes[i + 1 :]
        if (
            since
            and any(weights[i + 1 :])
            and _crosses_alone(nodes[: i + 1], rest)
            and _ends_a_block(traced, node, rest)
        ):
            cuts.append(node.name)
            since = False
    return cuts


def _crosses_alone(before: Sequence[FusedNode], after: Sequence[FusedNode]) -> bool:
    """True when the later layers read nothing from the earlier ones but the last output."""
    known = {node.name for node in after} | {before[-1].name}
    return all(i in known for node in after for i in node.inputs)


def _ends_a_block(traced: fx.GraphModule, node: FusedNode, rest: Sequence[FusedNode]) -> bool:
    if node.op in (NodeOp.FLATTEN, NodeOp.DENSE):
        return False
    if node.op is NodeOp.CONV:
        module = traced.get_submodule(node.module)
        if isinstance(module, nn.Conv2d) and is_depthwise(module):
            return False
    pools = rest[0].op in (NodeOp.MAX_POOL, NodeOp.AVG_POOL)
    last = not any(n.op in (NodeOp.CONV, NodeOp.ADD) for n in rest)
    return last or not pools


def _segments(traced: fx.GraphModule, cuts: Sequence[fx.Node]) -> list[fx.GraphModule]:
    """One module per block and one for the head: each has the nodes that its last value needs and no earlier block."""
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    taken: set[fx.Node] = {node for node in traced.graph.nodes if node.op == "placeholder"}
    segments = []
    for end in (*cuts, output.args[0]):
        assert isinstance(end, fx.Node)
        needed = _ancestors(end, taken)
        taken |= needed
        segments.append(_segment(traced, [n for n in traced.graph.nodes if n in needed], end))
    return segments


def _ancestors(node: fx.Node, taken: set[fx.Node]) -> set[fx.Node]:
    found, open_nodes = set[fx.Node](), [node]
    while open_nodes:
        if (now := open_nodes.pop()) not in taken and now not in found:
            found.add(now)
            open_nodes += now.all_input_nodes
    return found


def _segment(traced: fx.GraphModule, nodes: Sequence[fx.Node], end: fx.Node) -> fx.GraphModule:
    graph = fx.Graph()
    entry, copies = graph.placeholder("block_input"), dict[fx.Node, fx.Node]()
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda n: copies.get(n, entry))
    graph.output(copies[end])
    return fx.GraphModule(traced, graph)


class TfliteNetwork(nn.Module):
    """A tflite classifier as torch modules; takes real inputs (N, C, H, W) and gives logits (N, classes).

    An integer input q of the file stands for `input_scale * (q - input_zero_point)`.
    """

    def __init__(self, model: TfliteModel) -> None:
        super().__init__()
        self.input_shape, self.output = model.input_shape, model.output
        self.input_scale, self.input_zero_point = model.input_scale, model.input_zero_point
        self.order = tuple((layer.name, layer.inputs) for layer in model.layers)
        self.parts = {layer.name: _tflite_parts(layer) for layer in model.layers}
        for parts in self.parts.values():
            for name, module in parts.items():
                self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes)."""
        values = {INPUT: x}
        for layer, inputs in self.order:
            y = values[inputs[0]] if len(inputs) == 1 else values[inputs[0]] + values[inputs[1]]
            for name in self.parts[layer]:
                y = getattr(self, name)(y)
            values[layer] = y
        return values[self.output]


def from_tflite(path: str | Path) -> TfliteNetwork:
    """The network of a `.tflite` file with its weights as real numbers (integer weights are scaled back).

    Raises:
        FormatError: not a tflite file, damaged, or with an operator that is not understood.
    """
    return TfliteNetwork(read_tflite(path)).eval()


_ACTIVATION_MODULES = {Activation.RELU: nn.ReLU, Activation.RELU6: nn.ReLU6}


def _tflite_parts(layer: TfliteLayer) -> dict[str, nn.Module]:
    """Modules that a layer becomes, by name, in order."""
    parts: dict[str, nn.Module] = {}
    top, bottom, left, right = layer.padding
    even = (top, left) == (bottom, right)
    if not even:
        parts[f"{layer.name}_pad"] = nn.ZeroPad2d((left, right, top, bottom))
    padding = (top, left) if even else (0, 0)
    if layer.weight is not None:
        parts[layer.name] = _weighted(layer, padding)
    elif layer.op is NodeOp.FLATTEN:
        parts[layer.name] = nn.Flatten()
    elif layer.op is NodeOp.MAX_POOL:
        parts[layer.name] = nn.MaxPool2d(layer.kernel, layer.stride, padding)
    elif layer.op is NodeOp.AVG_POOL:
        parts[layer.name] = nn.AvgPool2d(layer.kernel, layer.stride)
    if layer.activation in _ACTIVATION_MODULES:
        parts[f"{layer.name}_{layer.activation.value}"] = _ACTIVATION_MODULES[layer.activation]()
    return parts


@torch.no_grad()
def _weighted(layer: TfliteLayer, padding: tuple[int, int]) -> nn.Module:
    assert layer.weight is not None
    outs, ins, bias = layer.weight.shape[0], layer.weight.shape[1], layer.bias is not None
    module: nn.Linear | nn.Conv2d
    if layer.op is NodeOp.DENSE:
        module = nn.Linear(ins, outs, bias)
    else:
        channels = ins * layer.groups
        module = nn.Conv2d(channels, outs, layer.kernel, layer.stride, padding, groups=layer.groups, bias=bias)
    module.weight.copy_(torch.tensor(layer.weight))
    if module.bias is not None:
        module.bias.copy_(torch.tensor(layer.bias))
    return module
