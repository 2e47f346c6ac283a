"""A converted network (`ir.quantized`) as a workload: what a bundle costs, without torch.

Bits are those of the converted quantizers. Logits and pooling without a quantizer of their own keep their input's bits.
"""

from math import prod

from offramp.errors import FormatError
from offramp.ir.quantized import Node, NodeOp, QuantizedNetwork
from offramp.ir.workload import INPUT, Layer, Op, Stage, Workload

Shape = tuple[int, int, int]

_POOLS = {NodeOp.MAX_POOL: Op.MAX_POOL, NodeOp.AVG_POOL: Op.AVG_POOL, NodeOp.ADD: Op.ADD}


def quantized_workload(network: QuantizedNetwork) -> Workload:
    """The layers of a converted network, stage by stage.

    Raises:
        FormatError: shapes that do not fit.
    """
    shapes: dict[str, Shape] = {network.input_name: network.input_shape}
    bits: dict[str, int] = {network.input_name: network.input.bits}
    makers: dict[str, str] = {network.input_name: INPUT}

    def layers(nodes: tuple[Node, ...]) -> tuple[Layer, ...]:
        found = []
        for node in nodes:
            arriving = max(bits[i] for i in node.inputs)
            bits[node.name] = arriving if node.output is None else node.output.bits
            if node.op is NodeOp.FLATTEN:
                shapes[node.name] = (prod(shapes[node.inputs[0]]), 1, 1)
                makers[node.name] = makers[node.inputs[0]]
                continue
            sources = tuple(makers[i] for i in node.inputs)
            layer = _layer(node, shapes[node.inputs[0]], sources, arriving, bits[node.name])
            shapes[node.name] = (layer.out_channels, layer.OY, layer.OX)
            makers[node.name] = node.name
            found.append(layer)
        return tuple(found)

    stages = [
        Stage(backbone=layers(s.backbone), branch=layers(s.branch), mounting_point=s.mounting_point)
        for s in network.stages
    ]
    return Workload(network.name, tuple(stages))


def _layer(node: Node, shape: Shape, sources: tuple[str, ...], arriving: int, leaving: int) -> Layer:
    out = [(shape[a + 1] + sum(node.padding[2 * a : 2 * a + 2]) - node.kernel[a]) // node.stride[a] + 1 for a in (0, 1)]
    if min(out) < 1:
        raise FormatError(f"a window of {node.kernel} on a map of {shape[1:]}", where=f"node {node.name}")
    made = {"OY": out[0], "OX": out[1], "IY": shape[1], "IX": shape[2], "FY": node.kernel[0], "FX": node.kernel[1]}
    if node.op is NodeOp.DENSE:
        made = {}
    if node.weight is None:
        op, groups, channels, taken = _POOLS[node.op], shape[0], 1, 1
    else:
        filters, taken = node.weight.shape[:2]
        groups, channels = node.groups, filters // node.groups
        alone = groups == shape[0] == filters and groups > 1
        op = Op.DENSE if node.op is NodeOp.DENSE else Op.DEPTHWISE if alone else Op.CONV
    return Layer(
        name=node.name,
        op=op,
        G=groups,
        K=channels,
        C=taken,
        **made,
        stride=node.stride,
        padding=node.padding,
        inputs=sources,
        weight_bits=node.weight_bits,
        input_bits=arriving,
        output_bits=leaving,
        adc_bits=node.analog.adc.bits if node.analog is not None else 0,
    )
