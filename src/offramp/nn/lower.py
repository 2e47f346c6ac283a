"""Lowering: an early-exit network as the layers that a chip will run (`ir.workload`), with bits and converters.

Sizes come from shape propagation alone: no forward pass, any device, also a skeleton on the meta device. Batch norms
and activations belong to the layer before; flattening moves no data and disappears.
"""

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from offramp.ir.architecture import Precision
from offramp.ir.quantized import NodeOp
from offramp.ir.workload import INPUT, Layer, Op, Stage, Workload
from offramp.nn.graph import FusedNode, is_depthwise
from offramp.nn.layers import Shape
from offramp.nn.network import EarlyExitNetwork
from offramp.nn.shapes import output_shape, total_padding, window

EIGHT_BITS = Precision()
INPUT_BITS = 8
"""Bits of the network's own input."""

_PLAIN = {NodeOp.ADD: Op.ADD, NodeOp.MAX_POOL: Op.MAX_POOL, NodeOp.AVG_POOL: Op.AVG_POOL}


def lower(
    network: EarlyExitNetwork,
    *,
    precision: Mapping[str, Precision] | None = None,
    default: Precision = EIGHT_BITS,
    adc_bits: Mapping[str, int] | None = None,
) -> Workload:
    """The workload of a network.

    Args:
        precision: layer -> bits; layers not named have `default`. A layer's input has the activation bits of its
            producer (8 for the network's input); max-pooling keeps its input's.
        adc_bits: resolution of the converter for layers on an analog array.

    Raises:
        UserError: shapes that do not fit.
    """
    lowering = _Lowering(network, precision or {}, default, adc_bits or {})
    stages = tuple(
        Stage(
            backbone=tuple(lowering.layers(stage.backbone)),
            branch=tuple(lowering.layers(stage.branch)),
            mounting_point=stage.mounting_point,
        )
        for stage in network.stage_nodes
    )
    return Workload(network.name, stages)


class _Lowering:
    """What is known of the layers so far: shapes, bits, and which layer a flattened tensor comes from."""

    def __init__(
        self, network: EarlyExitNetwork, precision: Mapping[str, Precision], default: Precision, adc: Mapping[str, int]
    ) -> None:
        self.network, self.precision, self.default, self.adc = network, precision, default, adc
        self.shapes: dict[str, Shape] = {INPUT: network.input_shape}
        self.bits: dict[str, int] = {INPUT: INPUT_BITS}
        self.alias: dict[str, str] = {INPUT: INPUT}

    def layers(self, nodes: Sequence[FusedNode]) -> Iterator[Layer]:
        """Layers of nodes whose inputs are known."""
        for node in nodes:
            inputs = [self.shapes[i] for i in node.inputs]
            self.shapes[node.name] = output_shape(self.network, node, inputs)
            self.alias[node.name] = self.alias[node.inputs[0]] if node.op is NodeOp.FLATTEN else node.name
            if node.op is NodeOp.FLATTEN:
                self.bits[node.name] = self.bits[node.inputs[0]]
            else:
                yield self._layer(node, inputs[0])

    def _layer(self, node: FusedNode, shape: Shape) -> Layer:
        bits = self.precision.get(node.name, self.default)
        arriving = max(self.bits[i] for i in node.inputs)
        leaving = arriving if node.op is NodeOp.MAX_POOL else bits.activation_bits
        self.bits[node.name] = leaving
        made = loop_nest(self.network, node, shape, self.shapes[node.name])
        return Layer(
            name=node.name,
            inputs=tuple(self.alias[i] for i in node.inputs),
            weight_bits=bits.weight_bits,
            input_bits=arriving,
            output_bits=leaving,
            adc_bits=self.adc.get(node.name, 0),
            **made,  # type: ignore[arg-type]
        )


def loop_nest(root: nn.Module, node: FusedNode, shape: Shape, out: Shape) -> dict[str, object]:
    """Operator and loop sizes of a layer (keyword arguments of `Layer`) for input and output shapes."""
    sizes = {"OY": out[1], "OX": out[2], "IY": shape[1], "IX": shape[2]}
    if node.op in _PLAIN:
        pooled: dict[str, object] = {"op": _PLAIN[node.op], "G": shape[0], "K": 1, "C": 1, **sizes}
        if node.pool is not None:
            (pooled["FY"], pooled["FX"]), pooled["stride"], pooled["padding"] = window(node.pool, shape, node.name)
        return pooled
    module = root.get_submodule(node.module)
    if isinstance(module, nn.Linear):
        return {"op": Op.DENSE, "K": module.out_features, "C": module.in_features}
    assert isinstance(module, nn.Conv2d)
    return {
        "op": Op.DEPTHWISE if is_depthwise(module) else Op.CONV,
        "G": module.groups,
        "K": module.out_channels // module.groups,
        "C": module.in_channels // module.groups,
        "FY": module.kernel_size[0],
        "FX": module.kernel_size[1],
        "stride": module.stride,
        "padding": total_padding(node, module),
        **sizes,
    }
