"""Prepare and calibrate, as in PyTorch quantization: an early-exit network that rounds every tensor as the chip will.

Every tensor has one quantizer, that of the layer that makes it: signed for the input and wherever no ReLU stands
before, unsigned after a ReLU; max pools and flatten keep their input's; logits have none. Batch norms may be folded
before or kept. Bits and analog settings arrive as plain numbers; no chip is known here.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from offramp.errors import AccelerationError, choose
from offramp.ir.architecture import Precision
from offramp.ir.quantized import Activation, NodeOp
from offramp.ir.workload import INPUT
from offramp.nn.analog import AnalogSettings, NoiseSource
from offramp.nn.fold import collecting_norms
from offramp.nn.graph import FusedNode
from offramp.nn.network import EarlyExitNetwork
from offramp.nn.quantized_layers import QuantizedAdd, QuantizedLayer, Reshaping
from offramp.nn.quantizers import StepQuantizer
from offramp.nn.shapes import propagate

WEIGHT_BITS = (2, 4, 8)
ACTIVATION_BITS = (4, 7, 8)
INPUT_BITS = 8
_CEILING = {Activation.RELU6: 6.0}
_MATMULS = (NodeOp.CONV, NodeOp.DENSE)

Layer = QuantizedLayer | QuantizedAdd | Reshaping


class PreparedNetwork(nn.Module):
    """A network under quantization-aware training; `prepare` makes it.

    Attributes:
        stage_nodes: fused layers, stage by stage.
        input: quantizer of the network's input.
        noise: the source of read noise; `noise.seed(n)` starts it anew.
        input_shape: (C, H, W).
        shapes: (C, H, W) of every layer's output, the input included.
        classes: number of classes.
    """

    def __init__(self, network: EarlyExitNetwork, noise_seed: int) -> None:
        super().__init__()
        self.input_shape, self.classes = network.input_shape, network.classes
        self.name, self.stage_nodes = network.name, network.stage_nodes
        self.input = StepQuantizer(INPUT_BITS, signed=True)
        self.noise = NoiseSource(noise_seed)
        self.shapes = propagate(network, network.nodes, {INPUT: network.input_shape})
        self._index: dict[str, int] = {}
        self._quantizers = {INPUT: self.input}
        self.layers = nn.ModuleList()

    @property
    def names(self) -> frozenset[str]:
        """Names of the layers."""
        return frozenset(self._index)

    def layer(self, name: str) -> Layer:
        """A layer by name."""
        module = self.layers[self._index[name]]
        assert isinstance(module, QuantizedLayer | QuantizedAdd | Reshaping)
        return module

    def quantizer_of(self, tensor: str) -> StepQuantizer:
        """The quantizer of a tensor: a layer's output, or the input; logits have none (KeyError)."""
        return self._quantizers[tensor]

    def add(self, layer: Layer, quantizer: StepQuantizer | None) -> None:
        """Append a layer whose output has this quantizer."""
        name = layer.node.name
        self._index[name] = len(self.layers)
        self.layers.append(layer)
        if quantizer is not None:
            self._quantizers[name] = quantizer

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits of every exit, each (N, classes)."""
        carried, logits = self.input(x), []
        for stage in self.stage_nodes:
            values = {stage.source: carried}
            carried = self._run(stage.backbone, values, stage.carried)
            logits.append(self._run(stage.branch, values, stage.logits))
        return logits

    def _run(self, nodes: Sequence[FusedNode], values: dict[str, Tensor], result: str) -> Tensor:
        for node in nodes:
            values[node.name] = self.layer(node.name)(*[values[i] for i in node.inputs])
        return values[result]

    @property
    def bits(self) -> dict[str, tuple[int, int]]:
        """Layer -> (weight bits, activation bits), for layers with weights."""
        return {
            layer.node.name: (layer.precision.weight_bits, layer.precision.activation_bits)
            for layer in self.layers
            if isinstance(layer, QuantizedLayer)
        }


def prepare(
    network: EarlyExitNetwork,
    precision: Mapping[str, Precision] | None = None,
    *,
    default: Precision | None = None,
    analog: Mapping[str, AnalogSettings] | None = None,
    noise_seed: int = 0,
) -> PreparedNetwork:
    """A copy of the network that rounds; the original stays as it is.

    Args:
        network: float network, batch norms folded or kept.
        precision: layer -> bits; layers not named have `default` (8 and 8 when None).
        analog: layer -> settings, for layers that an analog array computes (their weights are ternary).
        noise_seed: seed of the read noise.

    Raises:
        UserError: a layer that does not exist.
        AccelerationError: bits that no quantizer here has, or a layer that no array can compute.
    """
    precision, analog, default = precision or {}, analog or {}, default or Precision()
    nodes = {n.name: n for n in network.nodes}
    _check_names(nodes, precision, analog)
    prepared = PreparedNetwork(network, noise_seed)
    logits = {name for stage in prepared.stage_nodes for name in _ends(nodes, stage.logits)}
    for node in nodes.values():
        bits = _checked(node, precision.get(node.name, default))
        if node.name in logits and node.op is NodeOp.FLATTEN:
            prepared.add(Reshaping(node, bits), None)
            continue
        source = prepared.quantizer_of(node.inputs[0])
        layer = _layer_of(network, node, bits, source, analog.get(node.name), prepared.noise)
        layer.output = None if node.name in logits else _output_of(node, bits, source)
        prepared.add(layer, None if node.name in logits else layer.output or source)
    return prepared


def _ends(nodes: Mapping[str, FusedNode], name: str) -> list[str]:
    """The layer that makes logits and the flattenings after it: none of them is rounded."""
    names = [name]
    while nodes[names[-1]].op is NodeOp.FLATTEN:
        names.append(nodes[names[-1]].inputs[0])
    return names


def _layer_of(
    network: EarlyExitNetwork,
    node: FusedNode,
    bits: Precision,
    source: StepQuantizer,
    analog: AnalogSettings | None,
    noise: NoiseSource,
) -> Layer:
    if node.op is NodeOp.ADD:
        return QuantizedAdd(node, bits)
    if node.op not in _MATMULS:
        return Reshaping(node, bits)
    module = network.get_submodule(node.module)
    norm = network.get_submodule(node.batch_norm) if node.batch_norm else None
    assert isinstance(module, nn.Conv2d | nn.Linear)
    norm = norm if isinstance(norm, nn.BatchNorm2d) else None
    return QuantizedLayer(node, module, norm, precision=bits, source=source, analog=analog, noise=noise)


def _output_of(node: FusedNode, bits: Precision, source: StepQuantizer) -> StepQuantizer | None:
    if node.op in (NodeOp.MAX_POOL, NodeOp.FLATTEN):
        return None
    signed = source.signed if node.op is NodeOp.AVG_POOL else node.activation is Activation.NONE
    return StepQuantizer(bits.activation_bits, signed=signed, ceiling=_CEILING.get(node.activation))


def _checked(node: FusedNode, bits: Precision) -> Precision:
    if bits.weight_bits not in WEIGHT_BITS or bits.activation_bits not in ACTIVATION_BITS:
        wanted = f"weight bits in {WEIGHT_BITS}, activation bits in {ACTIVATION_BITS}"
        raise AccelerationError(f"{bits}", wanted=wanted, where=f"layer {node.name}")
    return bits


def _check_names(
    nodes: Mapping[str, FusedNode], precision: Mapping[str, Precision], analog: Mapping[str, AnalogSettings]
) -> None:
    for table, where in ((precision, "precision"), (analog, "analog")):
        for name in table:
            if name not in nodes:
                raise choose("layer", name, nodes, where=where)
    for name in analog:
        if nodes[name].op not in _MATMULS:
            given = f"{nodes[name].op} on an analog array"
            raise AccelerationError(given, wanted="a convolution or a dense layer", where=f"layer {name}")


@torch.no_grad()
def calibrate(network: PreparedNetwork, batches: Iterable[Tensor]) -> None:
    """Choose every activation step and ADC step from data, and re-estimate kept batch norms, in one pass.

    Weights are rounded meanwhile and activations are not; so statistics are those of the rounded weights.

    Args:
        batches: inputs (N, C, H, W) like those of training, on the network's device.
    """
    quantizers = [m for m in network.modules() if isinstance(m, StepQuantizer)]
    for quantizer in quantizers:
        quantizer.observe()
    with collecting_norms(network):
        for x in batches:
            network(x)
    for quantizer in quantizers:
        quantizer.settle()
