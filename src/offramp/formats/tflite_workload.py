"""A TensorFlow Lite classifier as a workload: one stage without exit branches, at the bits that are asked for."""

from math import prod
from pathlib import Path

from offramp.errors import FormatError
from offramp.formats.quantized_workload import Shape, layer_of
from offramp.formats.tflite import TfliteModel, read_tflite
from offramp.ir.quantized import NodeOp
from offramp.ir.workload import INPUT, Layer, Stage, Workload


def read_tflite_workload(path: str | Path, *, weight_bits: int = 8, activation_bits: int = 8) -> Workload:
    """The workload of a `.tflite` file.

    Raises:
        FormatError: not a tflite file, damaged, an operator that is not understood, or shapes that do not fit.
    """
    model = read_tflite(path)
    try:
        return Workload(Path(path).stem, (Stage(backbone=_layers(model, (weight_bits, activation_bits))),))
    except FormatError as error:
        raise FormatError(error.given, wanted=error.wanted, where=f"{path}: {error.where}") from error


def _layers(model: TfliteModel, bits: tuple[int, int]) -> tuple[Layer, ...]:
    shapes: dict[str, Shape] = {INPUT: model.input_shape}
    makers = {INPUT: INPUT}
    layers: list[Layer] = []
    for node in model.layers:
        source = node.inputs[0]
        if node.op is NodeOp.FLATTEN:
            shapes[node.name], makers[node.name] = (prod(shapes[source]), 1, 1), makers[source]
            continue
        inputs = tuple(makers[i] for i in node.inputs)
        layer = layer_of(node, shapes[source], inputs, (*bits, bits[1]))
        shapes[node.name], makers[node.name] = (layer.out_channels, layer.OY, layer.OX), node.name
        layers.append(layer)
    return tuple(layers)
