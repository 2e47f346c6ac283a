"""Logits of every exit for many samples, and accuracy from them; no gradient, evaluation mode."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.nn.quantize import PreparedNetwork

Logits = NDArray[np.float32]


@torch.no_grad()
def predict(network: nn.Module, x: NDArray[np.float32] | Tensor, *, batch: int = 512, noise_seed: int = 0) -> Logits:
    """Logits, float32 (exits, N, classes), in the network's evaluation mode.

    Args:
        network: an early-exit network, float or prepared; its mode is restored.
        x: samples (N, C, H, W).
        batch: samples at a time.
        noise_seed: seed of the read noise of analog layers, so that the same call gives the same numbers.
    """
    device = next(network.parameters()).device
    samples = torch.as_tensor(x)
    if isinstance(network, PreparedNetwork):
        network.noise.seed(noise_seed)
    training = network.training
    network.eval()
    parts = []
    for part in torch.split(samples, batch):
        moved = part.to(device, torch.float32).contiguous(memory_format=torch.channels_last)
        parts.append(torch.stack(network(moved)).float().cpu())
    network.train(training)
    return torch.cat(parts, dim=1).numpy()


def accuracies(logits: Logits, y: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of right answers of every exit, (exits,), from logits (exits, N, classes)."""
    right: NDArray[np.float64] = (logits.argmax(axis=2) == y[None]).mean(axis=1, dtype=np.float64)
    return right
