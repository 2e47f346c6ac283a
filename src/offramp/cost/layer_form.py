"""A layer as the mapping search sees it: named loops, which operand each loop moves, precisions.

The forms are those of ZigZag's ONNX readers (KULeuven-MICAS/zigzag, parser/onnx), so that engine and reference search
the same space: convolutions over B K G OX OY C FX FY, dense layers over C D K, additions over B G OY OX with their
second input in the place of W, pooling with weights of zero bits. Partial sums are kept at twice the input's bits.
"""

from dataclasses import dataclass
from functools import lru_cache

from offramp.ir.accelerator import Array
from offramp.ir.workload import Layer, Op

PREFERENCE = {
    8: ("FY", "FX", "B", "G", "OX", "C", "K", "OY"),
    6: ("FX", "B", "G", "OX", "FY", "OY"),
    4: ("G", "OY", "B", "OX"),
    3: ("K", "D", "C"),
}
"""Order in which loops are tried for an array dimension, by number of loops. It only decides between equals and is the
one that ZigZag's sets happen to have, so that ties fall alike."""

IN_MEMORY_WORD_LINES, IN_MEMORY_BIT_LINES = ("K",), ("FX", "C", "FY")
"""Loops that an in-memory array unrolls over its word lines and bit lines (ZigZag's default_imc mapping)."""


@dataclass(frozen=True, slots=True)
class Form:
    """Loops (name, size), strides of the input window, precisions in bits, and how ZigZag would write the layer."""

    operator: str
    equation: str
    loops: tuple[tuple[str, int], ...]
    stride_x: int
    stride_y: int
    IX: int
    IY: int
    weight_bits: int
    input_bits: int
    output_bits: int
    partial_bits: int
    constant_weights: bool

    @property
    def relations(self) -> tuple[str, ...]:
        """How window positions and filter positions make input positions; empty without a window."""
        if not any(name == "FX" for name, _ in self.loops):
            return ()
        return (f"ix={self.stride_x}*ox+1*fx", f"iy={self.stride_y}*oy+1*fy")

    def in_memory_hints(self, array: Array) -> list[tuple[str, tuple[str, ...]]]:
        """Loops to unroll over each dimension of an in-memory array; further dimensions are banks of word lines."""
        names = {name for name, _ in self.loops}
        words = tuple(n for n in IN_MEMORY_WORD_LINES if n in names) or ("G",)
        bits = tuple(n for n in IN_MEMORY_BIT_LINES if n in names) or ("B",)
        return [(name, bits if i == 1 else words) for i, (name, _) in enumerate(sorted(array.dimensions))]


@lru_cache(maxsize=65536)
def form_of(layer: Layer) -> Form:
    """The form in which a layer is mapped."""
    partial = max(2 * layer.input_bits, layer.output_bits)
    channels = layer.out_channels
    common = (layer.stride[1], layer.stride[0], layer.IX, layer.IY)
    if layer.op is Op.DENSE:
        rows = layer.B * layer.OY * layer.OX
        loops = (("C", layer.in_channels), ("D", rows), ("K", channels))
        head = ("Gemm", "O[d][k]+=I[d][c]*W[c][k]", loops)
    elif layer.op is Op.ADD:
        loops4 = (("B", layer.B), ("G", channels), ("OY", layer.OY), ("OX", layer.OX))
        head = ("Add", "O[b][g][oy][ox]=I[b][g][oy][ox]+W[b][g][oy][ox]", loops4)  # type: ignore[assignment]
    elif layer.op in (Op.MAX_POOL, Op.AVG_POOL):
        loops6 = (
            ("B", layer.B),
            ("G", channels),
            ("OY", layer.OY),
            ("OX", layer.OX),
            ("FX", layer.FX),
            ("FY", layer.FY),
        )
        head = ("Pooling", "O[b][g][oy][ox]+=W[fx][fy]*I[b][g][iy][ix]", loops6)  # type: ignore[assignment]
    else:
        loops8 = (("B", layer.B), ("K", layer.K), ("G", layer.G), ("OX", layer.OX), ("OY", layer.OY))
        loops8 += (("C", layer.C), ("FX", layer.FX), ("FY", layer.FY))  # type: ignore[assignment]
        head = ("Conv", "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]", loops8)  # type: ignore[assignment]
    weights = layer.weight_bits if layer.has_weights else layer.input_bits if layer.op is Op.ADD else 0
    bits = (weights, layer.input_bits, layer.output_bits, partial)
    return Form(*head, *common, *bits, constant_weights=layer.op is not Op.ADD)
