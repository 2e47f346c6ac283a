"""A prepared network as integers, scales and a graph: `ir.quantized`, which export and runtime read without torch.

Nothing is decided here: weights, scales and biases are those that the prepared network uses in evaluation mode.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from offramp.errors import UserError
from offramp.ir.quantized import Node, NodeOp, QuantizedNetwork, QuantizedStage
from offramp.ir.workload import INPUT
from offramp.nn.graph import FusedNode
from offramp.nn.network import StageNodes
from offramp.nn.quantize import PreparedNetwork
from offramp.nn.quantized_layers import QuantizedLayer
from offramp.nn.shapes import window


def convert(network: PreparedNetwork, name: str, temperatures: Sequence[float] = ()) -> QuantizedNetwork:
    """The integer network that equals the prepared one in evaluation mode, up to the order of rounding.

    Args:
        network: prepared, calibrated and (if wanted) trained.
        name: what the export is called.
        temperatures: one per exit, or none.

    Raises:
        UserError: the number of temperatures is wrong, or a padded max pool sees negative values.
    """
    if temperatures and (len(temperatures) != len(network.stage_nodes) or min(temperatures) <= 0):
        wanted = f"{len(network.stage_nodes)} above 0, one per exit"
        raise UserError(f"temperatures {tuple(temperatures)}", wanted=wanted, where=name)
    return QuantizedNetwork(
        name=name,
        input_shape=network.input_shape,
        input=network.input.frozen(),
        classes=network.classes,
        stages=tuple(_stage(network, stage) for stage in network.stage_nodes),
        input_name=INPUT,
        temperatures=tuple(float(t) for t in temperatures),
    )


def _stage(network: PreparedNetwork, stage: StageNodes) -> QuantizedStage:
    return QuantizedStage(
        mounting_point=stage.mounting_point,
        backbone=tuple(_node(network, node) for node in stage.backbone),
        branch=tuple(_node(network, node) for node in stage.branch),
        carried=stage.carried,
        logits=stage.logits,
    )


def _node(network: PreparedNetwork, node: FusedNode) -> Node:
    layer = network.layer(node.name)
    if isinstance(layer, QuantizedLayer):
        return _matmul(layer)
    output = None if layer.output is None else layer.output.frozen()
    if node.pool is None:
        return Node(name=node.name, op=node.op, inputs=node.inputs, activation=node.activation, output=output)
    kernel, stride, padding = window(node.pool, network.shapes[node.inputs[0]], node.name)
    if node.op is NodeOp.MAX_POOL and any(padding) and network.quantizer_of(node.inputs[0]).signed:
        raise UserError("a padded max pool of values below 0", wanted="a ReLU before it", where=f"layer {node.name}")
    return Node(
        name=node.name, op=node.op, inputs=node.inputs, kernel=kernel, stride=stride, padding=padding, output=output
    )


def _matmul(layer: QuantizedLayer) -> Node:
    node = layer.node
    integers, scale, bias = layer.frozen()
    weight = _array(integers).astype(np.int8)
    kernel = (int(weight.shape[2]), int(weight.shape[3])) if layer.conv else (1, 1)
    return Node(
        name=node.name,
        op=node.op,
        inputs=node.inputs,
        kernel=kernel,
        stride=layer.stride,
        padding=layer.padding,
        groups=layer.groups,
        weight=weight,
        weight_bits=layer.precision.weight_bits,
        weight_scale=_array(scale),
        bias=_array(bias),
        activation=node.activation,
        output=None if layer.output is None else layer.output.frozen(),
        analog=None if layer.array is None else layer.array.frozen(),
    )


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().cpu().contiguous().numpy().copy()
    return array
