"""Depth-first fusion: consecutive layers run in stripes of rows, so that tensors too large for the chip stay on it.

A chain is a run of layers, each the only reader of the one before, whose tensors do not fit an activation memory. It is
cut into the fewest stripes (a power of two) for which the rows between two layers fit. Rows that two stripes share
stay in the buffer, so nothing is computed twice; weights are fetched again for every stripe, because prices of layers
promise no more. A striped layer is priced by the cost model itself: as the layer with fewer rows, times the stripes.

Follows the depth-first scheduling of DeFiNES (Mei et al., HPCA 2023), fully cached in the vertical direction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from offramp.cost.model import CostModel, LayerCosts
from offramp.ir.accelerator import Accelerator
from offramp.ir.workload import Layer, Op, Workload

WINDOWED = frozenset({Op.CONV, Op.DEPTHWISE, Op.MAX_POOL, Op.AVG_POOL})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stripes:
    """One layer of a chain in stripes.

    Attributes:
        count: number of stripes.
        row: its place in `Fusion.costs`.
        input_bytes, output_bytes: rows that the buffers before and after the layer hold.
        next: the layer that may read the output row by row (-1: the chain ends here).
    """

    count: int
    row: int
    input_bytes: float
    output_bytes: float
    next: int


@dataclass(frozen=True, slots=True, eq=False)
class Fusion:
    """Layers that may run in stripes, by index, and the prices of one stripe (rows x cores in four variants)."""

    layers: dict[int, Stripes]
    costs: LayerCosts


def find_fusion(workload: Workload, accelerator: Accelerator, cost_model: CostModel) -> Fusion | None:
    """Every chain of layers with tensors that do not fit the largest activation memory, priced; None when all fit."""
    room = max((m.size_bytes for m in accelerator.activation_memories), default=0)
    layers = workload.layers
    striped: list[Layer] = []
    found: dict[int, Stripes] = {}
    for chain in _chains(workload, room):
        count = _stripes(layers, chain, room)
        if count is None:
            continue
        rows = [_rows(layers[i], count) for i in chain]
        for place, i in enumerate(chain):
            after = rows[place + 1] if place + 1 < len(chain) else rows[place]
            found[i] = Stripes(
                count=count,
                row=len(striped),
                input_bytes=_bytes(layers[i], rows[place].IY, output=False),
                output_bytes=_bytes(layers[i], after.IY if after is not rows[place] else after.OY, output=True),
                next=chain[place + 1] if place + 1 < len(chain) else -1,
            )
            striped.append(rows[place])
    return Fusion(found, cost_model.layer_costs(striped, accelerator)) if found else None


def _bytes(layer: Layer, rows: int, *, output: bool) -> float:
    if output:
        return layer.B * layer.out_channels * rows * layer.OX * layer.output_bits / 8
    return layer.B * layer.in_channels * rows * layer.IX * layer.input_bits / 8


def _chains(workload: Workload, room: int) -> Iterator[list[int]]:
    """Maximal runs of at least two layers joined by tensors that do not fit."""
    places = {layer.name: i for i, layer in enumerate(workload.layers)}
    readers: dict[str, int] = {}
    for layer in workload.layers:
        for source in layer.inputs:
            readers[source] = readers.get(source, 0) + 1
    for stage in workload.stages:
        for part in (stage.backbone, stage.branch):
            chain: list[int] = []
            for a, b in pairwise(part):
                if readers.get(a.name) == 1 and b.inputs == (a.name,) and _too_large(a, b, room):
                    chain = chain or [places[a.name]]
                    chain.append(places[b.name])
                elif chain:
                    yield chain
                    chain = []
            if chain:
                yield chain


def _too_large(a: Layer, b: Layer, room: int) -> bool:
    """True when the tensor between two windowed layers does not fit beside the rest of either."""
    if a.op not in WINDOWED or b.op not in WINDOWED:
        return False
    between = _bytes(a, a.OY, output=True)
    beside = max(_bytes(a, a.IY, output=False), _bytes(b, b.OY, output=True))
    return between + beside > room


def _rows(layer: Layer, count: int) -> Layer:
    """The layer for one of `count` stripes of its output rows."""
    rows = -(-layer.OY // count)
    read = min((rows - 1) * layer.stride[0] + layer.FY, layer.IY)
    return replace(layer, OY=rows, IY=read, padding=(0, 0, *layer.padding[2:]))


def _stripes(layers: Sequence[Layer], chain: Sequence[int], room: int) -> int | None:
    """The fewest stripes for which what a layer reads and writes fits at once; None when single rows do not fit."""
    most = max(layers[i].OY for i in chain)
    count = 2
    while count < 2 * most:
        rows = [_rows(layers[i], count) for i in chain]
        held = [_bytes(layers[i], r.IY, output=False) for i, r in zip(chain, rows, strict=True)]
        held.append(_bytes(layers[chain[-1]], rows[-1].OY, output=True))
        if all(a + b <= room for a, b in pairwise(held)):
            return count
        count *= 2
    return None
