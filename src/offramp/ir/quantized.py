"""A converted network: integer weights, scales and the graph between them; the contract between training and export.

`nn.convert` makes it from a trained, prepared network; `deploy` writes it as ONNX or C. Zero points are always 0:
a tensor is `real = scale * integer`, signed in [-2^(b-1), 2^(b-1)-1] or unsigned in [0, 2^b - 1].

Arithmetic of one node, on integers (q_x input, q_w weight, s_* scales, k output channel):
    acc[k]  = sum(q_x * q_w[k]) + bias[k]                      (int32; bias at scale s_x * s_w[k])
    analog: acc[k] = sum over array blocks of  adc_scale * clip(round(partial / adc_scale), adc range), then + bias;
            the bias is digital. Before the array the input is rounded to `input_bits`.
    y       = clip(round_half_even(act(acc[k] * s_x * s_w[k]) / s_y), range of y)
A node without an output quantizer (the last layer of an exit) returns real logits: acc[k] * s_x * s_w[k].
"""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class NodeOp(StrEnum):
    """Operators of a converted graph."""

    CONV = "conv"
    DENSE = "dense"
    ADD = "add"
    MAX_POOL = "max_pool"
    AVG_POOL = "avg_pool"
    FLATTEN = "flatten"


class Activation(StrEnum):
    """The nonlinearity that belongs to a node."""

    NONE = "none"
    RELU = "relu"
    RELU6 = "relu6"


@dataclass(frozen=True, slots=True)
class Quantizer:
    """A uniform quantizer with zero point 0: `real = scale * integer`."""

    bits: int
    signed: bool
    scale: float

    @property
    def low(self) -> int:
        """Smallest integer."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest integer."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True, slots=True)
class AnalogNumbers:
    """How an in-memory-compute array distorts a layer; plain numbers, no chip.

    Attributes:
        rows: products that one column can sum; longer sums are split over C into blocks of
            floor(rows / (FY * FX)) input channels each.
        input: the quantizer of the input converter (DAC); re-rounds the input when it has more bits.
        adc: the converter of one block's partial sum; its `scale` is in units of q_x * q_w (per layer).
        read_noise: standard deviation of the Gaussian read noise, in ADC steps (0: none); not used in exports.
    """

    rows: int
    input: Quantizer
    adc: Quantizer
    read_noise: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One operator of the converted graph.

    Attributes:
        weight: integers as int8, (K, C/groups, FY, FX) for CONV, (K, C) for DENSE; None otherwise.
        weight_scale: float32 (K,), one scale per output channel.
        bias: float32 (K,) in real units; None for none.
        padding: (top, bottom, left, right); pads with integer 0.
        output: quantizer of the output; None for logits and for MAX_POOL and FLATTEN, which keep their input's.
    """

    name: str
    op: NodeOp
    inputs: tuple[str, ...]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    weight: NDArray[np.int8] | None = None
    weight_bits: int = 8
    weight_scale: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    activation: Activation = Activation.NONE
    output: Quantizer | None = None
    analog: AnalogNumbers | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedStage:
    """One stage: backbone nodes that carry `carried` on to the next stage, and branch nodes that end in logits.

    A backbone node may read only from its own stage or from the tensor carried by the stage before (by that name).
    """

    mounting_point: int
    backbone: tuple[Node, ...]
    branch: tuple[Node, ...]
    carried: str
    logits: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedNetwork:
    """A converted early-exit network: stages in order, the input's shape (C, H, W) and quantizer.

    `temperatures` (one per exit) divide the logits before the exit policy sees them.
    """

    name: str
    input_shape: tuple[int, int, int]
    input: Quantizer
    classes: int
    stages: tuple[QuantizedStage, ...]
    input_name: str = "input"
    temperatures: tuple[float, ...] = field(default=())
