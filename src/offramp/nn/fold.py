"""Batch norm folded into the convolution before it: same function, fewer layers.

Folding: Jacob et al., CVPR 2018, section 3.2. It knows nothing of bits; `nn.convert` folds the batch norms that
quantization-aware training keeps into the scales of the integer weights instead, with the same two numbers.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from offramp.nn.graph import Traced

Network = TypeVar("Network", bound=Traced)


def fold_batchnorm(network: Network) -> Network:
    """A copy of the network in which every batch norm is part of the convolution before it.

    The function in evaluation mode is unchanged; the batch norms become `Identity`, so layer names stay.
    """
    folded = copy.deepcopy(network)
    for node in folded.nodes:
        if node.batch_norm:
            conv, norm = folded.get_submodule(node.module), folded.get_submodule(node.batch_norm)
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            _fold_pair(conv, norm)
            folded.set_submodule(node.batch_norm, nn.Identity())
    return folded


def norm_affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel, float32 (K,), that a batch norm applies in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


@torch.no_grad()
def _fold_pair(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    scale, shift = norm_affine(norm)
    conv.weight.mul_(scale.reshape(-1, 1, 1, 1))
    bias = shift if conv.bias is None else conv.bias * scale + shift
    conv.bias = nn.Parameter(bias.detach().clone())


@contextmanager
def collecting_norms(network: nn.Module) -> Iterator[None]:
    """While this is open, batch norms forget their statistics and average those of the batches that pass.

    Everything else trains meanwhile as `train()` says, dropout excepted; modes and momenta come back at the end.
    """
    modes = {m: m.training for m in network.modules()}
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
