"""The state of reading an ONNX graph: tensors that flow, constants, and the layers found so far."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

from offramp.formats.onnx_graph import MAX_DIMENSION, Constant, GraphNode, OnnxGraph, Shape
from offramp.ir.workload import Layer

MAX_ELEMENTS = 2**40
"""A larger tensor is a mistake."""
Padding = tuple[int, int, int, int]
NO_PADDING: Padding = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that flows: shape, the layer that made it, bits, and padding that the next layer takes on.

    `root` is the tensor before pointwise operators: x * sigmoid(x) is an activation of x.
    """

    shape: Shape
    layer: str
    bits: int
    padding: Padding = NO_PADDING
    root: str = ""


@dataclass(slots=True)
class Reading:
    """What is known so far; a later quantizer may set output bits of `layers`, `halves` are poolings over one axis."""

    graph: OnnxGraph
    weight_bits: int
    activation_bits: int
    values: dict[str, Value] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)
    quantized: set[str] = field(default_factory=set)
    halves: set[str] = field(default_factory=set)

    def value(self, node: GraphNode, index: int = 0) -> Value:
        """The flowing tensor at an input of a node."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if name in self.values:
            return self.values[name]
        kind = "a constant" if name in self.constants else "nothing"
        raise node.fault(f"input {index} is {kind}", "a tensor that depends on the network's input")

    def constant(self, node: GraphNode, index: int) -> Constant | None:
        """The constant at an input of a node, or None when the input is omitted."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if not name:
            return None
        if name not in self.constants:
            raise node.fault(f"input {index} ({name}) is computed", "a constant of the file")
        return self.constants[name]

    def integers(self, node: GraphNode, index: int) -> tuple[int, ...] | None:
        """The integers of a constant input, or None when it is omitted."""
        constant = self.constant(node, index)
        if constant is None:
            return None
        if constant.integers is None:
            raise node.fault(f"input {index} holds no short list of integers", "integers")
        return tuple(int(v) for v in constant.integers.reshape(-1))

    def emit(self, node: GraphNode, shape: Shape, layer: Layer) -> None:
        """Add a layer whose output has `shape`."""
        if any(not 0 < d <= MAX_DIMENSION for d in shape) or prod(shape) > MAX_ELEMENTS:
            raise node.fault(f"makes a tensor of shape {shape}", f"dimensions from 1 to {MAX_DIMENSION}")
        self.layers[node.name] = layer
        self.values[node.outputs[0]] = Value(shape, node.name, layer.output_bits, root=node.outputs[0])


Handler = Callable[[Reading, GraphNode], None]
