"""Shared weights: candidates whose parameters are slices of one large network's (arXiv 1908.09791, 1812.08928).

The supernet is the largest network with every exit mounted. A narrower layer is the first channels of the wide one
(sort them first: `widths.sort_channels`), a smaller filter is its centre, a shallower network lacks blocks. So a
slice follows from two shapes alone, and any trained network can start a narrower one. Training loops live in `learn`.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from offramp.errors import UserError
from offramp.ir.architecture import Architecture, ExitChoice
from offramp.nn.backbones import Backbone
from offramp.nn.network import EarlyExitNetwork, materialize, mount, skeleton
from offramp.nn.outline import HEAD, block_name


def supernet(full: Backbone, exits: Iterable[ExitChoice], *, seed: int) -> EarlyExitNetwork:
    """The largest network: full width, depth and kernels, all given exits mounted.

    Args:
        full: the backbone; where it has weights of its own (an imported network), they are taken over.
        exits: several kinds may share a mounting point.
    """
    network = materialize(mount(Architecture(backbone=full.name), tuple(exits), full), seed)
    parts = {block_name(i): block for i, block in enumerate(full.blocks)} | {HEAD: full.head}
    for name, part in parts.items():
        state = part.state_dict()
        if not any(t.is_meta for t in state.values()):
            network.get_submodule(name).load_state_dict(state)
    return network


def prefix(tensor: Tensor, shape: torch.Size, where: str = "") -> Tensor:
    """A view of the first channels (dimensions 0 and 1) and the centre of the filter (dimensions 2 and 3).

    Raises:
        UserError: the wanted shape is larger.
    """
    if tensor.dim() != len(shape) or any(s < t for s, t in zip(tensor.shape, shape, strict=True)):
        raise UserError(f"{tuple(shape)} from {tuple(tensor.shape)}", wanted="a smaller shape", where=where)
    for axis, (have, want) in enumerate(zip(tensor.shape, shape, strict=True)):
        tensor = tensor.narrow(axis, (have - want) // 2 if axis >= 2 else 0, want)
    return tensor


def _sources(source: EarlyExitNetwork, candidate: EarlyExitNetwork) -> dict[str, str]:
    """Child of the candidate -> child of the source with the same role, for those that the source has."""
    table = {name: name for name, _ in candidate.named_children() if name.startswith("block") or name == HEAD}
    table |= {candidate.branch_name(e): source.branch_name(e) for e in candidate.exits if e in source.exits}
    present = dict(source.named_children())
    return {mine: theirs for mine, theirs in table.items() if theirs in present}


def _pairs(
    source: EarlyExitNetwork, candidate: EarlyExitNetwork, theirs: Mapping[str, Tensor], mine: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor | None]]:
    """Every tensor of the candidate by name, with its slice of the source, or None where the source lacks it."""
    children = _sources(source, candidate)
    for name, tensor in mine.items():
        child, _, rest = name.partition(".")
        found = theirs.get(f"{children[child]}.{rest}") if child in children else None
        yield name, None if found is None else prefix(found, tensor.shape, name)


def slice_parameters(source: EarlyExitNetwork, candidate: EarlyExitNetwork) -> dict[str, Tensor]:
    """The candidate's parameters as differentiable views of the source's, for `torch.func.functional_call`.

    Args:
        source: the supernet, or any network at least as wide.
        candidate: a network of the wanted architecture; only names and shapes of its parameters matter, and its
            own batch-norm statistics serve in the call.

    Raises:
        UserError: a block or branch that the source lacks, or a tensor that is larger than the source's.
    """
    slices = {}
    for name, view in _pairs(source, candidate, dict(source.named_parameters()), dict(candidate.named_parameters())):
        if view is None:
            raise UserError(f"no weights for {name}", wanted="a block and branch of the supernet", where=source.name)
        slices[name] = view
    return slices


@torch.no_grad()
def cut_out(source: EarlyExitNetwork, architecture: Architecture, *, seed: int = 0) -> EarlyExitNetwork:
    """An ordinary network of an architecture that starts with the source's weights and batch-norm statistics.

    What the source lacks (an exit that it never had) starts fresh from the seed.

    Raises:
        UserError: the architecture does not fit the backbone, or is wider than the source.
    """
    network = materialize(skeleton(architecture, source.full), seed)
    take_over(network, source)
    return network.to(next(source.parameters()).device)


@torch.no_grad()
def take_over(network: EarlyExitNetwork, source: EarlyExitNetwork) -> None:
    """Fill every block and branch that the source has too, in place; the rest keeps its values.

    Raises:
        UserError: a tensor is larger than the source's.
    """
    mine = network.state_dict()
    for name, view in _pairs(source, network, source.state_dict(), mine):
        if view is not None:
            mine[name].copy_(view)


@torch.no_grad()
def recalibrate_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Batch-norm statistics anew, as plain means over the given inputs (N, C, H, W), in place.

    Everything but the batch norms runs in evaluation mode; training modes and momenta are restored.

    Raises:
        UserError: there are no inputs.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise UserError("no inputs to measure batch norms on", wanted="at least one batch", where="training data")
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    modes = {module: module.training for module in network.modules()}
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        for batch in chain([first], batches):
            network(batch)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
