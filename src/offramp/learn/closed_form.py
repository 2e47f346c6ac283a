"""Linear exits of a frozen backbone without training: discriminants with a shrunk covariance, in closed form.

A few hundred samples fit the weights of an exit far better this way than by gradients (MLPerf Tiny's keyword network,
300 samples, means over the map after blocks 1, 2, 3: 71, 83 and 90 % of new samples right; convolutions and max-pools
trained for 150 epochs 73, 75 and 85 % at 4 to 28 times the cycles of the branch). Fisher's discriminant for normal
classes with one covariance; that is shrunk towards a multiple of the identity (Friedman, JASA 1989, gamma of eq. 18),
by the strength that serves samples held out best. A sample belongs to each class by a share: its label mixed with the
softened answer of the deepest exit, as in `learn.loss`.
"""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.data import Split
from offramp.exits.calibrate import fit_temperature, negative_log_likelihood
from offramp.exits.policy import softmax
from offramp.learn.loss import ExitLoss
from offramp.learn.predict import predict
from offramp.nn.freeze import freeze_linear_branches, linear_branches
from offramp.nn.network import EarlyExitNetwork

Floats = NDArray[np.float64]

FOLDS = 5
STRENGTHS = (0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 0.98)
"""Shrinkages that are tried, shares of the identity in the covariance."""


def solve_linear_exits(network: EarlyExitNetwork, train: Split, *, seed: int, loss: ExitLoss | None = None) -> None:
    """Set every exit that is pooling and one linear layer, in place, and hold it there; the rest stays as it is.

    Args:
        network: its backbone is trained.
        train: samples and labels.
        seed: of the folds.
        loss: how labels and the deepest exit's answers are mixed; defaults of `ExitLoss` when None.
    """
    loss = loss or ExitLoss()
    layers = [cast(nn.Linear, network.get_submodule(branch[-1].module)) for branch in linear_branches(network)]
    seen: list[list[Tensor]] = [[] for _ in layers]
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, kept=kept: kept.append(given[0].cpu()))
        for layer, kept in zip(layers, seen, strict=True)
    ]
    try:
        logits = predict(network, train.x)
    finally:
        for hook in hooks:
            hook.remove()
    labels = np.eye(network.classes)[train.y]
    shares = (1 - loss.distill) * labels + loss.distill * softmax(logits[-1], loss.temperature)
    for layer, kept in zip(layers, seen, strict=True):
        weight, bias = discriminant(torch.cat(kept).double().numpy(), shares, train.y, seed=seed)
        with torch.no_grad():
            layer.weight.copy_(torch.as_tensor(weight))
            layer.bias.copy_(torch.as_tensor(bias))
    freeze_linear_branches(network)


def discriminant(x: Floats, shares: Floats, y: NDArray[np.int64], *, seed: int) -> tuple[Floats, Floats]:
    """Weight (K, D) and bias (K,) of a linear classifier.

    The strength is the one with the least negative log-likelihood of samples held out in `FOLDS` folds, after a
    temperature.

    Args:
        x: features (N, D).
        shares: (N, K), rows sum to 1: how much of a sample belongs to each class.
        y: labels (N,).
        seed: of the folds.
    """
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale = scale + 1e-3 * scale.max() + 1e-12
    z = (x - centre) / scale
    folds = np.random.default_rng(seed).permutation(len(z)) % FOLDS
    held = np.zeros((len(STRENGTHS), *shares.shape), dtype=np.float64)
    for fold in range(FOLDS):
        out = folds == fold
        weights, biases = _solutions(z[~out], shares[~out], STRENGTHS)
        held[:, out] = np.einsum("nd,skd->snk", z[out], weights) + biases[:, None]
    surprise = [negative_log_likelihood(logits, y, fit_temperature(logits, y)) for logits in held]
    best = int(np.argmin(surprise))
    weights, biases = _solutions(z, shares, STRENGTHS[best : best + 1])
    weight = weights[0] / scale
    return weight, biases[0] - weight @ centre


def _solutions(x: Floats, shares: Floats, strengths: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Weights (S, K, D) and biases (S, K) for every strength, from one decomposition of the covariance."""
    sizes = shares.sum(axis=0) + 1e-9
    means = shares.T @ x / sizes[:, None]
    covariance = (x.T @ x - (means * sizes[:, None]).T @ means) / len(x)
    spread, axes = np.linalg.eigh(covariance)
    spread = spread.clip(min=0.0)
    turned, prior = means @ axes, np.log(sizes / len(x))
    weights, biases = [], []
    for strength in strengths:
        inverse = 1 / ((1 - strength) * spread + strength * spread.mean() + 1e-12)
        weights.append((turned * inverse) @ axes.T)
        biases.append(prior - (turned**2 * inverse).sum(axis=1) / 2)
    return np.stack(weights), np.stack(biases)
