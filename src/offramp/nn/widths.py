"""Channel dependency groups of any traced network: which channels live and die together, and how to sort them.

Layers whose outputs meet in an addition or pass a depthwise convolution share their channels (the dependency
graph of arXiv 2301.12900, on our own fused layers). Importance is the L2 norm of each output channel's weights with
batch norm folded in (arXiv 1608.08710 uses L1 without), scaled to mean 1 per layer and summed over the group.
Knows nothing of bits and chips.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from offramp.errors import InternalError
from offramp.ir.quantized import NodeOp
from offramp.nn.graph import FusedNode, Traced, is_depthwise


@dataclass(frozen=True)
class Spaces:
    """Channel spaces of a network.

    Attributes:
        of: layer -> the space of its output channels; the same for inputs by their names. A space has the name of
            the first layer in it.
        groups: prunable space -> its channels, in execution order.
    """

    of: dict[str, str]
    groups: dict[str, int]


def _channels(module: nn.Module) -> int:
    return module.out_channels if isinstance(module, nn.Conv2d) else int(module.out_features)  # type: ignore[arg-type]


def channel_spaces(root: nn.Module, nodes: Sequence[FusedNode], inputs: Iterable[str], logits: Iterable[str]) -> Spaces:
    """Union of channels over additions, depthwise convolutions, pooling and flattening.

    Args:
        inputs: names of tensors from outside; their channels are fixed.
        logits: layers whose outputs are logits; theirs are fixed too.
    """
    parent: dict[str, str] = {name: name for name in inputs}
    fixed = {*parent, *logits}
    made: dict[str, int] = {}

    def find(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in nodes:
        parent[node.name] = node.name
        module = root.get_submodule(node.module) if node.op in (NodeOp.CONV, NodeOp.DENSE) else None
        if isinstance(module, nn.Conv2d) and is_depthwise(module):
            module = None
        elif isinstance(module, nn.Conv2d) and module.groups > 1:
            fixed |= {node.name, *node.inputs}
        if module is not None:
            made[node.name] = _channels(module)
            continue
        first, *others = (find(i) for i in node.inputs)
        for name in (node.name, *others):
            parent[name] = first
    of = {name: find(name) for name in parent}
    frozen = {of[name] for name in fixed}
    first_maker: dict[str, str] = {}
    for name in made:
        first_maker.setdefault(of[name], name)
    of = {name: first_maker.get(space, space) for name, space in of.items()}
    groups = {maker: made[maker] for space, maker in first_maker.items() if space not in frozen}
    return Spaces(of, groups)


def _resize_conv(module: nn.Conv2d, channels: int, kept: int | None) -> int:
    if is_depthwise(module):
        module.in_channels = module.out_channels = module.groups = kept = channels
        shape = (channels, 1, *module.kernel_size)
    else:
        kept = module.out_channels if kept is None else kept
        module.in_channels, module.out_channels = channels, kept
        shape = (kept, channels // module.groups, *module.kernel_size)
    _reshape(module, "weight", shape)
    _reshape(module, "bias", (kept,))
    return kept


def resize_kernel(module: nn.Conv2d, size: int) -> None:
    """Give a convolution with `same` padding another odd square filter, in place."""
    module.kernel_size, module.padding = (size, size), (size // 2, size // 2)
    _reshape(module, "weight", (*module.weight.shape[:2], size, size))


def _reshape(module: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    old = getattr(module, name)
    if old is None or old.shape == shape:
        return
    new = torch.empty(shape, dtype=old.dtype, device=old.device)
    setattr(module, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)


def _resize_batch_norm(module: nn.Module, channels: int) -> None:
    assert isinstance(module, nn.BatchNorm2d)
    module.num_features = channels
    for name in ("weight", "bias", "running_mean", "running_var"):
        _reshape(module, name, (channels,))


def _resize_linear(module: nn.Linear, features: int, kept: int | None) -> int:
    module.in_features = features
    module.out_features = module.out_features if kept is None else kept
    _reshape(module, "weight", (module.out_features, features))
    _reshape(module, "bias", (module.out_features,))
    return module.out_features


def full_channels(root: nn.Module, nodes: Sequence[FusedNode], inputs: Mapping[str, int]) -> dict[str, int]:
    """Channels of every layer (flattened features count as the channels that they come from), `inputs` included."""
    channels = dict(inputs)
    for node in nodes:
        made = node.op in (NodeOp.CONV, NodeOp.DENSE)
        channels[node.name] = _channels(root.get_submodule(node.module)) if made else channels[node.inputs[0]]
    return channels


def resize(root: nn.Module, nodes: Sequence[FusedNode], inputs: Mapping[str, int], kept: Mapping[str, int]) -> None:
    """Give the modules of a full-size network on the meta device the sizes of a narrower one, in place.

    Args:
        inputs: channels of tensors from outside.
        kept: layer -> output channels that it keeps; layers not named keep all.
    """
    full, channels = full_channels(root, nodes, inputs), dict(inputs)
    for node in nodes:
        arriving = channels[node.inputs[0]]
        module = root.get_submodule(node.module) if node.op in (NodeOp.CONV, NodeOp.DENSE) else None
        if isinstance(module, nn.Conv2d):
            channels[node.name] = _resize_conv(module, arriving, kept.get(node.name))
            if node.batch_norm:
                _resize_batch_norm(root.get_submodule(node.batch_norm), channels[node.name])
        elif isinstance(module, nn.Linear):
            features = module.in_features // full[node.inputs[0]] * arriving
            channels[node.name] = _resize_linear(module, features, kept.get(node.name))
        else:
            if any(channels[i] != arriving for i in node.inputs):
                raise InternalError(f"layer {node.name} adds tensors of different widths")
            channels[node.name] = arriving


def folded_weight(root: nn.Module, node: FusedNode) -> Tensor:
    """Weights of a layer with its batch norm folded in, (K, ...)."""
    weight = root.get_submodule(node.module).weight
    assert isinstance(weight, Tensor)
    if not node.batch_norm:
        return weight.detach()
    norm = root.get_submodule(node.batch_norm)
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
        return weight.detach()
    scale = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight
    gain = scale / torch.sqrt(norm.running_var + norm.eps)
    return (weight * gain.reshape(-1, *(1,) * (weight.dim() - 1))).detach()


def channel_importance(network: Traced) -> dict[str, Tensor]:
    """Width group -> importance of each of its channels, (channels,).

    Groups of one size that stand in for one another when blocks are left out (`Traced.tied`) share the sum of theirs.
    """
    spaces, scores = _spaces_of(network), dict[str, Tensor]()
    for node in network.nodes:
        group = spaces.of[node.name]
        if node.op in (NodeOp.CONV, NodeOp.DENSE) and group in spaces.groups:
            norm = folded_weight(network, node).flatten(1).norm(dim=1)
            score = norm / norm.mean().clamp_min(torch.finfo(norm.dtype).tiny)
            scores[group] = scores[group] + score if group in scores else score
    for layers in network.tied:
        tied = [g for g in dict.fromkeys(spaces.of[layer] for layer in layers) if g in scores]
        for size in {spaces.groups[g] for g in tied}:
            same = [g for g in tied if spaces.groups[g] == size]
            scores |= dict.fromkeys(same, torch.stack([scores[g] for g in same]).sum(0))
    return scores


def sort_channels(network: Traced) -> None:
    """Reorder the channels of every width group by falling importance, in place; the function stays the same.

    After it the first channels are the ones to keep, so that narrower networks are prefixes of this one.
    """
    spaces = _spaces_of(network)
    order = {group: s.argsort(descending=True, stable=True) for group, s in channel_importance(network).items()}
    for node in network.nodes:
        if node.op not in (NodeOp.CONV, NodeOp.DENSE):
            continue
        module = network.get_submodule(node.module)
        if (out := order.get(spaces.of[node.name])) is not None:
            for name in filter(None, (node.module, node.batch_norm)):
                _permute_outputs(network.get_submodule(name), out)
        into = order.get(spaces.of[node.inputs[0]])
        if into is not None and not (isinstance(module, nn.Conv2d) and is_depthwise(module)):
            _permute_inputs(module, into)


@torch.no_grad()
def _permute_outputs(module: nn.Module, order: Tensor) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() and tensor.shape[0] == len(order):
            tensor.copy_(tensor[order])


@torch.no_grad()
def _permute_inputs(module: nn.Module, order: Tensor) -> None:
    weight = module.weight
    assert isinstance(weight, Tensor)
    grouped = weight.reshape(weight.shape[0], len(order), -1)
    weight.copy_(grouped[:, order].reshape(weight.shape))


def _spaces_of(network: Traced) -> Spaces:
    read = {i for node in network.nodes for i in node.inputs}
    names = {node.name for node in network.nodes}
    return channel_spaces(network, network.nodes, read - names, names - read)
