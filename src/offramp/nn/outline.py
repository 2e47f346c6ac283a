"""Facts of a full-size backbone that all candidates share: fused layers, shapes, channel groups, what may go.

Made once per backbone, on torch's meta device. A block may be left out when it changes no shape and its channels
are those of its input (a residual block), or when no addition couples its output (a plain chain); of a chain at least
one block stays. A square odd filter with `same` padding may be cropped around its centre, to a single tap unless it is
depthwise.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch import nn

from offramp.ir.backbone import DepthGroup, KernelChoice
from offramp.ir.quantized import NodeOp
from offramp.ir.workload import INPUT
from offramp.nn.backbones import Backbone
from offramp.nn.branches import branch
from offramp.nn.graph import BLOCK_INPUT, BlockGraph, FusedNode, trace_block
from offramp.nn.layers import Shape
from offramp.nn.shapes import propagate
from offramp.nn.widths import Spaces, channel_spaces


@dataclass(frozen=True, eq=False)
class Outline:
    """A backbone and its head at full size.

    Attributes:
        root: holds `block0`, ... and `head` on the meta device; copy before changing.
        graphs: fused layers of each block and of the head, reading `BLOCK_INPUT`.
        nodes: fused layers of the whole, chained.
        carried: layer that leaves each block.
        shapes: (C, H, W) of every layer and of `INPUT`.
    """

    full: Backbone
    root: nn.Module
    graphs: dict[str, BlockGraph]
    nodes: tuple[FusedNode, ...]
    carried: tuple[str, ...]
    shapes: dict[str, Shape]
    spaces: Spaces
    depth_groups: tuple[DepthGroup, ...]
    kernel_choices: tuple[KernelChoice, ...]


@dataclass(frozen=True, eq=False)
class BranchOutline:
    """An exit branch at full size; its layers read `BLOCK_INPUT` and have names relative to the branch."""

    module: nn.Module
    graph: BlockGraph
    shapes: dict[str, Shape]
    spaces: Spaces


def block_name(index: int) -> str:
    """Name of a backbone block: module path and prefix of its layers' names."""
    return f"block{index}"


def branch_name(mounting_point: int) -> str:
    """Name of the exit branch at a mounting point: module path and prefix of its layers' names."""
    return f"exit{mounting_point}"


HEAD = "head"
"""Name of the backbone's own classifier, the final exit."""


def chain(
    graphs: Mapping[str, BlockGraph], names: Iterable[str], source: str = INPUT
) -> tuple[tuple[FusedNode, ...], list[str]]:
    """Fused layers of blocks in a row, the first of which reads `source`, and the layer that leaves each."""
    nodes: list[FusedNode] = []
    carried: list[str] = []
    for name in names:
        nodes += graphs[name].placed(name, source)
        source = f"{name}.{graphs[name].output}" if graphs[name].output else source
        carried.append(source)
    return tuple(nodes), carried


@lru_cache(maxsize=64)
def outline(full: Backbone) -> Outline:
    """The outline of a backbone.

    Raises:
        UserError: an operator that is not supported, or shapes that do not fit.
    """
    root = nn.Module()
    for i, block in enumerate(full.blocks):
        root.add_module(block_name(i), copy.deepcopy(block).to("meta"))
    root.add_module(HEAD, copy.deepcopy(full.head).to("meta"))
    graphs = {name: trace_block(module, name) for name, module in root.named_children()}
    nodes, carried = chain(graphs, list(graphs))
    shapes = propagate(root, nodes, {INPUT: full.input_shape})
    spaces = channel_spaces(root, nodes, [INPUT], [carried[-1]])
    blocks = tuple(carried[:-1])
    depth_groups = _depth_groups(nodes, blocks, shapes, spaces)
    return Outline(full, root, graphs, nodes, blocks, shapes, spaces, depth_groups, _kernel_choices(root, nodes))


@lru_cache(maxsize=512)
def branch_outline(full: Backbone, mounting_point: int, kind: str) -> BranchOutline:
    """The outline of an exit branch after a block.

    Raises:
        UserError: the kind is not known.
    """
    facts = outline(full)
    shape = facts.shapes[facts.carried[mounting_point]]
    module = branch(kind, shape, full.classes).to("meta")
    graph = trace_block(module, branch_name(mounting_point))
    shapes = propagate(module, graph.nodes, {BLOCK_INPUT: shape})
    return BranchOutline(module, graph, shapes, channel_spaces(module, graph.nodes, [BLOCK_INPUT], [graph.output]))


def _depth_groups(
    nodes: tuple[FusedNode, ...], carried: tuple[str, ...], shapes: dict[str, Shape], spaces: Spaces
) -> tuple[DepthGroup, ...]:
    coupled = {spaces.of[n.name] for n in nodes if n.op is NodeOp.ADD}

    def residual(block: int) -> bool:
        return spaces.of[carried[block]] == spaces.of[carried[block - 1]]

    def removable(block: int) -> bool:
        same = shapes[carried[block]] == shapes[carried[block - 1]]
        return same and (residual(block) or spaces.of[carried[block]] not in coupled)

    runs: list[list[int]] = []
    for block in filter(removable, range(1, len(carried))):
        if runs and runs[-1][-1] == block - 1 and residual(block) == residual(block - 1):
            runs[-1].append(block)
        else:
            runs.append([block])
    groups = [DepthGroup(name=f"depth{r[0]}", blocks=tuple(r), minimum=0 if residual(r[0]) else 1) for r in runs]
    return tuple(g for g in groups if g.minimum < len(g.blocks))


def _kernel_choices(root: nn.Module, nodes: tuple[FusedNode, ...]) -> tuple[KernelChoice, ...]:
    choices = []
    for node in nodes:
        module = root.get_submodule(node.module) if node.op is NodeOp.CONV else None
        if isinstance(module, nn.Conv2d) and not any(node.pad):
            y, x = module.kernel_size
            smallest = 1 if module.groups < module.in_channels else 3
            if y == x and y > smallest and y % 2 and module.padding == (y // 2, y // 2):
                choices.append(KernelChoice(layer=node.name, sizes=tuple(range(smallest, y + 1, 2))))
    return tuple(choices)
