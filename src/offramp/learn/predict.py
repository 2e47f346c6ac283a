"""Logits of every exit for many samples, and accuracy from them; no gradient, evaluation mode."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.ir.workload import INPUT
from offramp.nn.network import EarlyExitNetwork
from offramp.nn.quantize import PreparedNetwork
from offramp.nn.shapes import propagate

Logits = NDArray[np.float32]

_LARGE_BATCH, _CACHED = 512, 1 << 21
"""Samples at a time on a GPU; values of the largest tensor at a time on a processor, which then stay in its cache:
twice the images per second for MobileNetV2, a tenth more for ResNet-8."""


@torch.no_grad()
def predict(
    network: EarlyExitNetwork | PreparedNetwork, x: NDArray[np.float32] | Tensor, *, noise_seed: int = 0
) -> Logits:
    """Logits, float32 (exits, N, classes), in the network's evaluation mode.

    Args:
        network: an early-exit network, float or prepared; its mode is restored.
        x: samples (N, C, H, W).
        noise_seed: seed of the read noise of analog layers, so that the same call gives the same numbers.
    """
    device = next(network.parameters()).device
    samples = torch.as_tensor(x)
    if isinstance(network, PreparedNetwork):
        network.noise.seed(noise_seed)
    training = network.training
    network.eval()
    parts = []
    for part in torch.split(samples, _batch(network, device)):
        moved = part.to(device, torch.float32).contiguous(memory_format=torch.channels_last)
        parts.append(torch.stack(network(moved)).float().cpu())
    network.train(training)
    return torch.cat(parts, dim=1).numpy()


def _batch(network: EarlyExitNetwork | PreparedNetwork, device: torch.device) -> int:
    if device.type != "cpu":
        return _LARGE_BATCH
    if isinstance(network, PreparedNetwork):
        shapes = network.shapes
    else:
        shapes = propagate(network, network.nodes, {INPUT: network.input_shape})
    return max(1, min(_LARGE_BATCH, _CACHED // max(map(math.prod, shapes.values()))))


def accuracies(logits: Logits, y: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of right answers of every exit, (exits,), from logits (exits, N, classes)."""
    right: NDArray[np.float64] = (logits.argmax(axis=2) == y[None]).mean(axis=1, dtype=np.float64)
    return right
