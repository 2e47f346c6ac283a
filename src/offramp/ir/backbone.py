"""What a backbone offers to a search, as plain values: mounting points, layers, widths, depths, kernels, branches.

`nn.describe` makes it from a network; the search reads it and never sees torch. `BackboneInfo.canonical` brings a
candidate to the one form in which equal networks compare equal.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from offramp.ir.architecture import Architecture
from offramp.ir.workload import Op


@dataclass(frozen=True, slots=True, kw_only=True)
class MountingPoint:
    """The place after backbone block `index` (called `block`) where an exit branch can sit.

    `channels`, `height`, `width` are those of the tensor there; `macs` counts the backbone up to and including it.
    """

    index: int
    block: str
    channels: int
    height: int
    width: int
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """One layer of the full network; `width_group` is the group that its output channels belong to ("" when fixed).

    `block` is the index of its backbone block; for the head it is the number of blocks, for a branch its mounting
    point. Additions and pooling are listed too (no weights, no MACs): they have an activation precision.
    """

    name: str
    op: Op
    block: int
    weights: int
    macs: int
    width_group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthGroup:
    """Channels that are kept or pruned together; it is named after the first layer that makes them.

    Any number from 1 to `channels` can be built; `step` is a sensible multiple. `layers` make these channels
    (members of `LayerInfo.width_group`), `blocks` are the blocks that they are in.
    """

    name: str
    channels: int
    step: int
    layers: tuple[str, ...]
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthGroup:
    """Consecutive blocks that can be left out; `Architecture.depths` says how many of the first are kept.

    Legal values are `minimum` to `len(blocks)`.
    """

    name: str
    blocks: tuple[int, ...]
    minimum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelChoice:
    """A layer whose square filter can be cropped around its centre; `sizes` ascend, the last is the full one."""

    layer: str
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchInfo:
    """One kind of exit branch at one mounting point: its layers (`exit2.conv`, ...) and its own width groups."""

    mounting_point: int
    kind: str
    layers: tuple[LayerInfo, ...]
    width_groups: tuple[WidthGroup, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the branch at full width."""
        return sum(layer.macs for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """Everything a search space can be made from.

    Attributes:
        blocks: number of backbone blocks of the full network.
        mounting_points: after every block but the last, in order (after the last one sits the head).
        layers: of the backbone and the head, in execution order.
        branches: every kind at every mounting point.
        reference: (width group, channels) of the static reference, where the backbone was widened beyond it.
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: int
    blocks: int
    mounting_points: tuple[MountingPoint, ...]
    layers: tuple[LayerInfo, ...]
    width_groups: tuple[WidthGroup, ...]
    depth_groups: tuple[DepthGroup, ...]
    kernel_choices: tuple[KernelChoice, ...]
    branch_kinds: tuple[str, ...]
    branches: tuple[BranchInfo, ...]
    reference: tuple[tuple[str, int], ...] = ()

    @cached_property
    def _branch_table(self) -> dict[tuple[int, str], BranchInfo]:
        return {(b.mounting_point, b.kind): b for b in self.branches}

    def branch(self, mounting_point: int, kind: str) -> BranchInfo:
        """The branch of a kind at a mounting point (KeyError when there is none)."""
        return self._branch_table[mounting_point, kind]

    def kept_blocks(self, depths: tuple[int, ...]) -> tuple[int, ...]:
        """Indices of the blocks that stay for `Architecture.depths` (empty keeps all)."""
        dropped = {b for group, kept in zip(self.depth_groups, depths, strict=False) for b in group.blocks[kept:]}
        return tuple(i for i in range(self.blocks) if i not in dropped)

    def open_mounting_points(self, depths: tuple[int, ...]) -> tuple[int, ...]:
        """Mounting points that exist at these depths: after every kept block but the last kept one."""
        return self.kept_blocks(depths)[:-1]

    def layers_of(self, architecture: Architecture) -> tuple[LayerInfo, ...]:
        """Layers of a candidate: those of kept blocks and the head, then those of its exits."""
        blocks = {*self.kept_blocks(architecture.depths), self.blocks}
        kept = [layer for layer in self.layers if layer.block in blocks]
        return (*kept, *(layer for e in architecture.exits for layer in self.branch(e.mounting_point, e.branch).layers))

    def width_groups_of(self, architecture: Architecture) -> tuple[WidthGroup, ...]:
        """Width groups of a candidate: those with a layer in a kept block, then those of its exits."""
        blocks = {*self.kept_blocks(architecture.depths), self.blocks}
        kept = [group for group in self.width_groups if blocks.intersection(group.blocks)]
        exits = architecture.exits
        return (*kept, *(g for e in exits for g in self.branch(e.mounting_point, e.branch).width_groups))

    def canonical(self, architecture: Architecture) -> Architecture:
        """The same network in the one form in which equal candidates compare equal.

        Exits that its depth leaves no place for, and entries for layers or groups that it does not have or that
        repeat the default, are dropped; full depth is written as no depths.
        """
        full = tuple(len(group.blocks) for group in self.depth_groups)
        depths = () if architecture.depths in ((), full) else architecture.depths
        places = self.open_mounting_points(depths)
        slim = replace(
            architecture, depths=depths, exits=tuple(e for e in architecture.exits if e.mounting_point in places)
        )
        layers = {layer.name for layer in self.layers_of(slim)}
        widths = {group.name: group.channels for group in self.width_groups_of(slim)}
        kernels = {choice.layer: choice.sizes[-1] for choice in self.kernel_choices if choice.layer in layers}
        default = slim.default_precision
        return replace(
            slim,
            widths=tuple((g, w) for g, w in slim.widths if w != widths.get(g, w)),
            kernels=tuple((k, v) for k, v in slim.kernels if v != kernels.get(k, v)),
            precision=tuple((k, p) for k, p in slim.precision if k in layers and p != default),
            cores=tuple((k, c) for k, c in slim.cores if k in layers),
        )
