"""What a backbone offers to a search, written down as an `ir.backbone.BackboneInfo`."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

from torch import nn

from offramp.ir.backbone import BackboneInfo, BranchInfo, LayerInfo, MountingPoint, WidthGroup
from offramp.ir.quantized import NodeOp
from offramp.ir.workload import Layer
from offramp.nn.backbones import Backbone, backbone
from offramp.nn.branches import BRANCHES
from offramp.nn.graph import FusedNode
from offramp.nn.layers import Shape
from offramp.nn.lower import loop_nest
from offramp.nn.outline import HEAD, Outline, block_name, branch_name, branch_outline, outline
from offramp.nn.widths import Spaces


def describe(full: str | Backbone, input_shape: Shape | None = None, classes: int = 0) -> BackboneInfo:
    """Mounting points, layers, width and depth groups, kernels and branches of a backbone at full size.

    Args:
        full: a name of `BACKBONES` (then shape and classes are wanted), or a backbone.

    Raises:
        UserError: the name is not known, or the network has an operator that is not supported.
    """
    if isinstance(full, str):
        full = backbone(full, input_shape or (0, 0, 0), classes)
    return _describe(full)


@lru_cache(maxsize=64)
def _describe(full: Backbone) -> BackboneInfo:
    facts = outline(full)
    layers = _layers(facts.root, facts.nodes, facts.shapes, facts.spaces, facts.full)
    branches = [_branch(full, point, kind) for point in range(len(full.blocks) - 1) for kind in BRANCHES]
    return BackboneInfo(
        name=full.name,
        input_shape=full.input_shape,
        classes=full.classes,
        blocks=len(full.blocks),
        mounting_points=_mounting_points(facts, layers),
        layers=layers,
        width_groups=_width_groups(layers, facts.spaces),
        depth_groups=facts.depth_groups,
        kernel_choices=facts.kernel_choices,
        branch_kinds=tuple(BRANCHES),
        reference=full.reference,
        branches=tuple(branches),
    )


def _mounting_points(facts: Outline, layers: Sequence[LayerInfo]) -> tuple[MountingPoint, ...]:
    per_block = [sum(layer.macs for layer in layers if layer.block == i) for i in range(len(facts.carried))]
    points = []
    for i, macs in enumerate(accumulate(per_block[:-1])):
        c, h, w = facts.shapes[facts.carried[i]]
        points.append(MountingPoint(index=i, block=block_name(i), channels=c, height=h, width=w, macs=macs))
    return tuple(points)


def _layers(
    root: nn.Module, nodes: Sequence[FusedNode], shapes: Mapping[str, Shape], spaces: Spaces, full: Backbone
) -> tuple[LayerInfo, ...]:
    made = []
    for node in nodes:
        if node.op is not NodeOp.FLATTEN:
            group, child = spaces.of[node.name], node.name.split(".")[0]
            block = len(full.blocks) if child == HEAD else int(child.removeprefix("block"))
            made.append(_info(root, node, shapes, node.name, block, group if group in spaces.groups else ""))
    return tuple(made)


def _info(
    root: nn.Module, node: FusedNode, shapes: Mapping[str, Shape], name: str, block: int, group: str
) -> LayerInfo:
    sizes = loop_nest(root, node, shapes[node.inputs[0]], shapes[node.name])
    layer = Layer(name=name, inputs=node.inputs, **sizes)  # type: ignore[arg-type]
    return LayerInfo(
        name=name, op=layer.op, block=block, weights=layer.weight_elements, macs=layer.macs, width_group=group
    )


def _width_groups(layers: Sequence[LayerInfo], spaces: Spaces, prefix: str = "") -> tuple[WidthGroup, ...]:
    groups = []
    for group, channels in spaces.groups.items():
        name = f"{prefix}{group}"
        members = [layer for layer in layers if layer.width_group == name]
        blocks = tuple(sorted({layer.block for layer in members}))
        step = 8 if channels >= 32 else 4 if channels >= 16 else 1
        made = tuple(layer.name for layer in members if layer.weights)
        groups.append(WidthGroup(name=name, channels=channels, step=step, layers=made, blocks=blocks))
    return tuple(groups)


def _branch(full: Backbone, point: int, kind: str) -> BranchInfo:
    facts, prefix = branch_outline(full, point, kind), f"{branch_name(point)}."
    layers = []
    for node in facts.graph.nodes:
        if node.op is not NodeOp.FLATTEN:
            group = facts.spaces.of[node.name]
            named = f"{prefix}{group}" if group in facts.spaces.groups else ""
            layers.append(_info(facts.module, node, facts.shapes, f"{prefix}{node.name}", point, named))
    groups = _width_groups(layers, facts.spaces, prefix)
    return BranchInfo(mounting_point=point, kind=kind, layers=tuple(layers), width_groups=groups)
