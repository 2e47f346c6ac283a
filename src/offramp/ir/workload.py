"""What a network asks of a chip: layers as loop nests, grouped into stages that end at exits.

Loop dimensions follow the field (Timeloop, ZigZag): G groups, B batch, K output channels and C input channels
*per group*, OY OX output rows and columns, FY FX filter rows and columns. Operands are I (input), W (weight),
O (output). A workload knows neither torch nor an accelerator.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from offramp.errors import FormatError

INPUT = "input"
"""The name by which a layer reads the network's own input."""


class Op(StrEnum):
    """What a layer computes; activations (ReLU and the like) are part of their producer."""

    CONV = "conv"
    DEPTHWISE = "depthwise"
    DENSE = "dense"
    ADD = "add"
    MAX_POOL = "max_pool"
    AVG_POOL = "avg_pool"


MATMUL_OPS = frozenset({Op.CONV, Op.DEPTHWISE, Op.DENSE})
"""Operators with weights and multiply-accumulates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer as a loop nest.

    Sizes are counts of elements; bits are per element. `padding` is (top, bottom, left, right). `adc_bits` is 0
    when partial sums are exact integers, else the resolution of the converter they pass (an analog layer).
    `inputs` names the producing layers (or `INPUT`), one for every operator but ADD, which has two.
    """

    name: str
    op: Op
    G: int = 1
    B: int = 1
    K: int
    C: int
    OY: int = 1
    OX: int = 1
    FY: int = 1
    FX: int = 1
    IY: int = 1
    IX: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    inputs: tuple[str, ...] = (INPUT,)
    weight_bits: int = 8
    input_bits: int = 8
    output_bits: int = 8
    adc_bits: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that are not positive and an input too small for the filter."""
        sizes = (
            self.G,
            self.B,
            self.K,
            self.C,
            self.OY,
            self.OX,
            self.FY,
            self.FX,
            self.IY,
            self.IX,
            *self.stride,
        )
        if min(sizes) < 1:
            raise FormatError(f"a size below 1 in {sizes}", wanted="positive loop sizes", where=f"layer {self.name}")
        if len(self.inputs) != (2 if self.op is Op.ADD else 1):
            raise FormatError(
                f"{len(self.inputs)} inputs for {self.op}",
                wanted="2 for add, else 1",
                where=f"layer {self.name}",
            )

    @property
    def has_weights(self) -> bool:
        """True for conv, depthwise and dense."""
        return self.op in MATMUL_OPS

    @property
    def operations(self) -> int:
        """Iterations of the full loop nest."""
        return self.G * self.B * self.K * self.C * self.OY * self.OX * self.FY * self.FX

    @property
    def macs(self) -> int:
        """Multiply-accumulates; additions and pooling have none."""
        return self.operations if self.has_weights else 0

    @property
    def weight_elements(self) -> int:
        """Weights (biases not counted)."""
        return self.G * self.K * self.C * self.FY * self.FX if self.has_weights else 0

    @property
    def input_elements(self) -> int:
        """Elements of one input tensor."""
        return self.B * self.G * self.C * self.IY * self.IX

    @property
    def output_elements(self) -> int:
        """Elements of the output tensor."""
        return self.B * self.G * self.K * self.OY * self.OX

    @property
    def out_channels(self) -> int:
        """Channels of the output over all groups."""
        return self.G * self.K

    @property
    def in_channels(self) -> int:
        """Channels of the input over all groups."""
        return self.G * self.C


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The layers between two exits: a part of the backbone, then the exit branch at its end.

    `mounting_point` is the index of the backbone block after which the branch sits. The branch of the last
    stage is the network's own classifier. Either part may be empty (a plain ONNX file has no branch).
    """

    backbone: tuple[Layer, ...]
    branch: tuple[Layer, ...] = ()
    mounting_point: int = 0


@dataclass(frozen=True)
class Workload:
    """A network as the mapper sees it: stages in execution order.

    Raises:
        FormatError: names that repeat, an input that nobody produced before, a backbone layer that reads from
            an exit branch, or a tensor whose size differs between producer and consumer.
    """

    name: str
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        """Verify names, order and shapes."""
        made: dict[str, Layer] = {}
        in_branch: set[str] = set()
        for layer, branch in self._walk():
            where = f"{self.name}: layer {layer.name}"
            if layer.name in made or layer.name == INPUT:
                raise FormatError("this name appears twice", wanted="unique layer names", where=where)
            for source in layer.inputs:
                _check_edge(layer, source, made, where)
                if source in in_branch and not branch:
                    raise FormatError(f"reads {source}, part of an exit branch", wanted="a backbone layer", where=where)
            made[layer.name] = layer
            if branch:
                in_branch.add(layer.name)

    def _walk(self) -> Iterator[tuple[Layer, bool]]:
        for stage in self.stages:
            yield from ((layer, False) for layer in stage.backbone)
            yield from ((layer, True) for layer in stage.branch)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer in execution order: backbone of stage 0, its branch, backbone of stage 1, ..."""
        return tuple(layer for layer, _ in self._walk())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of everything, branches included."""
        return sum(layer.macs for layer in self.layers)

    @property
    def weight_bits_total(self) -> int:
        """Size of all weights in bits at their own precision."""
        return sum(layer.weight_elements * layer.weight_bits for layer in self.layers)


def _check_edge(layer: Layer, source: str, made: dict[str, Layer], where: str) -> None:
    if source == INPUT:
        return
    if source not in made:
        raise FormatError(f"reads {source!r}, which no earlier layer makes", wanted="layers in order", where=where)
    if made[source].output_elements != layer.input_elements:
        given = f"{source} makes {made[source].output_elements} elements, {layer.input_elements} are read"
        raise FormatError(given, wanted="shapes that fit", where=where)
