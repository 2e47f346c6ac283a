"""The early-exit network of a candidate, as an ordinary torch module.

Blocks, exit branches and the head are its direct children (`block3`, `exit2`, `head`), so module paths are the
layer names that every other room uses, and they do not depend on which exits were chosen. `build` makes exactly the
network that an `Architecture` describes; bits and cores in it are not this file's business.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn

from offramp.errors import UserError, choose
from offramp.ir.architecture import Architecture, ExitChoice
from offramp.ir.quantized import NodeOp
from offramp.ir.workload import INPUT
from offramp.nn.backbones import Backbone, backbone
from offramp.nn.branches import BRANCHES
from offramp.nn.graph import BlockGraph, FusedNode, Traced, trace_block
from offramp.nn.layers import Shape
from offramp.nn.outline import HEAD, BranchOutline, Outline, block_name, branch_name, branch_outline, chain, outline
from offramp.nn.widths import resize, resize_kernel


@dataclass(frozen=True, slots=True)
class StageNodes:
    """Fused layers of one stage.

    Attributes:
        source: the layer whose output enters (`INPUT` for the first stage).
        carried: the layer whose output leaves the backbone part; equals `source` when that part is empty.
        logits: the last layer of the branch.
    """

    mounting_point: int
    source: str
    backbone: tuple[FusedNode, ...]
    branch: tuple[FusedNode, ...]
    carried: str
    logits: str


class EarlyExitNetwork(Traced):
    """A backbone with exit branches; `forward` gives the logits of every exit.

    Attributes:
        full: the backbone at full size that it was made from.
        blocks: indices of its blocks, in order.
        exits: its early exits, in order; the head comes after them.
    """

    def __init__(
        self,
        full: Backbone,
        *,
        blocks: Mapping[int, nn.Module],
        exits: Mapping[ExitChoice, nn.Module],
        head: nn.Module,
        graphs: Mapping[str, BlockGraph] | None = None,
        branch_graphs: Mapping[ExitChoice, BlockGraph] | None = None,
    ) -> None:
        """Take modules as children.

        Args:
            blocks: block index -> module.
            exits: branches; several kinds at one mounting point get their kind into their name (a supernet).
            graphs, branch_graphs: fused layers of blocks and head by name, and of branches; the others are traced.
        """
        super().__init__()
        self.full = full
        self.blocks, self.exits = tuple(blocks), tuple(sorted(exits))
        places = [e.mounting_point for e in self.exits]
        self._branch_names = tuple(
            branch_name(e.mounting_point) + (f"_{e.branch}" if places.count(e.mounting_point) > 1 else "")
            for e in self.exits
        )
        children = {block_name(i): module for i, module in blocks.items()}
        children |= {n: exits[e] for n, e in zip(self._branch_names, self.exits, strict=True)} | {HEAD: head}
        for child, module in children.items():
            self.add_module(child, module)
        known = dict(graphs or {})
        known |= {
            n: g for n, e in zip(self._branch_names, self.exits, strict=True) if (g := (branch_graphs or {}).get(e))
        }
        self._graphs = {n: known[n] if n in known else trace_block(m, n) for n, m in children.items()}
        self._stage_nodes = tuple(self._read_stages())

    @property
    def name(self) -> str:
        """Name of the backbone."""
        return self.full.name

    @property
    def input_shape(self) -> Shape:
        """(C, H, W)."""
        return self.full.input_shape

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.full.classes

    def _schedule(self) -> Iterator[tuple[list[str], str]]:
        """Block names and branch name of every stage."""
        left = list(self.blocks)
        for choice, name in zip(self.exits, self._branch_names, strict=True):
            now = [b for b in left if b <= choice.mounting_point]
            left = left[len(now) :]
            yield [block_name(b) for b in now], name
        yield [block_name(b) for b in left], HEAD

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> logits (N, classes) of every exit in order, the final one last."""
        logits = []
        for blocks, branch in self._schedule():
            for block in blocks:
                x = self._modules[block](x)  # type: ignore[misc]
            logits.append(self._modules[branch](x))  # type: ignore[misc]
        return logits

    @property
    def stages(self) -> nn.ModuleList:
        """The backbone part of every stage as a Sequential of this network's own modules."""
        return nn.ModuleList(nn.Sequential(*map(self.get_submodule, blocks)) for blocks, _ in self._schedule())

    @property
    def branches(self) -> nn.ModuleList:
        """The branch of every stage, the head last."""
        return nn.ModuleList(self.get_submodule(branch) for _, branch in self._schedule())

    def branch_name(self, choice: ExitChoice) -> str:
        """Child name of an exit branch (KeyError when it is not mounted)."""
        return dict(zip(self.exits, self._branch_names, strict=True))[choice]

    def _read_stages(self) -> Iterator[StageNodes]:
        source = INPUT
        points = [*(e.mounting_point for e in self.exits), self.blocks[-1]]
        for point, (blocks, branch) in zip(points, self._schedule(), strict=True):
            nodes, outputs = chain(self._graphs, blocks, source)
            carried = outputs[-1] if outputs else source
            tail, logits = chain(self._graphs, [branch], carried)
            yield StageNodes(point, source, nodes, tail, carried, logits[-1])
            source = carried

    @property
    def stage_nodes(self) -> tuple[StageNodes, ...]:
        """Fused layers, stage by stage."""
        return self._stage_nodes

    @property
    def nodes(self) -> tuple[FusedNode, ...]:
        """All fused layers in execution order."""
        return tuple(node for stage in self.stage_nodes for node in (*stage.backbone, *stage.branch))

    @property
    def tied(self) -> tuple[tuple[str, ...], ...]:
        """The outputs of the blocks of a depth group and of the block before it."""
        facts = outline(self.full)
        groups = ((group.blocks[0] - 1, *group.blocks) for group in facts.depth_groups)
        return tuple(tuple(facts.carried[i] for i in blocks if i in self.blocks) for blocks in groups)


def layer_names(network: EarlyExitNetwork) -> tuple[str, ...]:
    """Names of all layers that have a precision or a place, in execution order (flattening has neither)."""
    return tuple(node.name for node in network.nodes if node.op is not NodeOp.FLATTEN)


def build(
    architecture: Architecture, input_shape: Shape, classes: int, *, seed: int, full: Backbone | None = None
) -> EarlyExitNetwork:
    """Exactly the network that an architecture describes, with fresh weights.

    Every layer's weights depend on the seed and its name alone, not on which exits were chosen.

    Args:
        full: the backbone, when it is not one of `BACKBONES` (an imported network).

    Raises:
        UserError: a name that is not known, or a width, depth, kernel or exit that the backbone does not have.
    """
    network = skeleton(architecture, full or backbone(architecture.backbone, input_shape, classes))
    return materialize(network, seed)


def skeleton(architecture: Architecture, full: Backbone) -> EarlyExitNetwork:
    """The network of an architecture without memory for its parameters (on torch's meta device).

    Raises:
        UserError: as `build`.
    """
    return mount(architecture, architecture.exits, full)


def mount(architecture: Architecture, exits: Sequence[ExitChoice], full: Backbone) -> EarlyExitNetwork:
    """`skeleton` with its exits given apart, so that a supernet can have several kinds at one mounting point."""
    facts = outline(full)
    blocks = _kept_blocks(architecture, facts)
    _check_exits(exits, blocks, full.name)
    outlines = {e: branch_outline(full, e.mounting_point, e.branch) for e in exits}
    network = EarlyExitNetwork(
        full,
        blocks={i: _twin(facts.root.get_submodule(block_name(i))) for i in blocks},
        exits={e: _twin(b.module) for e, b in outlines.items()},
        head=_twin(facts.root.get_submodule(HEAD)),
        graphs=facts.graphs,
        branch_graphs={e: b.graph for e, b in outlines.items()},
    )
    for layer, size in _checked_kernels(architecture, facts):
        if layer.split(".")[0] in (HEAD, *map(block_name, blocks)):
            resize_kernel(cast(nn.Conv2d, network.get_submodule(layer)), size)
    kept = _kept_channels(architecture, facts, {network.branch_name(e): (e, b) for e, b in outlines.items()})
    resize(network, network.nodes, {INPUT: full.input_shape[0]}, kept)
    return network


def _twin(module: nn.Module) -> nn.Module:
    """A copy of a module that still shares its meta tensors, which are replaced and never written; deepcopy is slow."""
    twin = object.__new__(type(module))
    twin.__dict__ = {k: v.copy() if isinstance(v, dict | set) else v for k, v in module.__dict__.items()}
    for name, child in twin._modules.items():
        twin._modules[name] = None if child is None else _twin(child)
    return twin


def _kept_blocks(architecture: Architecture, facts: Outline) -> tuple[int, ...]:
    groups, depths = facts.depth_groups, architecture.depths
    where = f"{facts.full.name}: depths"
    if depths and len(depths) != len(groups):
        raise UserError(f"{len(depths)} depths", wanted=f"one for each of {len(groups)} groups", where=where)
    dropped: set[int] = set()
    for group, kept in zip(groups, depths, strict=False):
        if not group.minimum <= kept <= len(group.blocks):
            wanted = f"{group.minimum} to {len(group.blocks)}"
            raise UserError(f"{kept} blocks of {group.name}", wanted=wanted, where=where)
        dropped |= set(group.blocks[kept:])
    return tuple(i for i in range(len(facts.full.blocks)) if i not in dropped)


def _check_exits(exits: Sequence[ExitChoice], blocks: tuple[int, ...], name: str) -> None:
    for choice in exits:
        if choice.mounting_point not in blocks[:-1]:
            wanted = f"one of {', '.join(map(str, blocks[:-1]))} (the final exit is always there)"
            raise UserError(f"an exit at mounting point {choice.mounting_point}", wanted=wanted, where=f"{name}: exits")


def _checked_kernels(architecture: Architecture, facts: Outline) -> Iterator[tuple[str, int]]:
    choices = {choice.layer: choice.sizes for choice in facts.kernel_choices}
    for layer, size in architecture.kernels:
        if layer not in choices:
            raise choose("layer with a choice of kernels", layer, choices, where=f"{facts.full.name}: kernels")
        if size not in choices[layer]:
            raise UserError(f"kernel {size} for {layer}", wanted=f"one of {choices[layer]}", where=facts.full.name)
        yield layer, size


def _kept_channels(
    architecture: Architecture, facts: Outline, branches: Mapping[str, tuple[ExitChoice, BranchOutline]]
) -> dict[str, int]:
    """Layer -> output channels that it keeps, for layers of pruned groups."""
    widths, known = dict(architecture.widths), dict(facts.spaces.groups)
    group_of = {layer: group for layer, group in facts.spaces.of.items() if group in known}
    for child, (choice, branch) in branches.items():
        prefix = branch_name(choice.mounting_point)
        known |= {f"{prefix}.{group}": n for group, n in branch.spaces.groups.items()}
        pairs = branch.spaces.of.items()
        group_of |= {f"{child}.{layer}": f"{prefix}.{g}" for layer, g in pairs if g in branch.spaces.groups}
    for group, width in widths.items():
        _check_width(group, width, known, facts.full)
    return {layer: widths[group] for layer, group in group_of.items() if group in widths}


def _check_width(group: str, width: int, known: Mapping[str, int], full: Backbone) -> None:
    """A group of a branch that is not mounted is let pass: a sparse table may name it."""
    if group not in known and group not in _unmounted_groups(full):
        raise choose("width group", group, known, where=f"{full.name}: widths")
    if width < 1 or width > known.get(group, width):
        raise UserError(
            f"{width} channels for {group}", wanted=f"1 to {known.get(group)}", where=f"{full.name}: widths"
        )


@lru_cache(maxsize=64)
def _unmounted_groups(full: Backbone) -> frozenset[str]:
    choices = [(mp, kind) for mp in range(len(full.blocks) - 1) for kind in BRANCHES]
    return frozenset(f"{branch_name(mp)}.{g}" for mp, k in choices for g in branch_outline(full, mp, k).spaces.groups)


def materialize(network: EarlyExitNetwork, seed: int) -> EarlyExitNetwork:
    """Give a skeleton memory and fresh weights, in place; torch's global random state is left as it was.

    Convolutions are drawn after He et al. (arXiv 1502.01852, fan-out), everything else as torch does by default.
    """
    network.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        for path, module in network.named_modules():
            if hasattr(module, "reset_parameters"):
                torch.manual_seed(zlib.crc32(f"{seed} {path}".encode()))
                module.reset_parameters()
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
