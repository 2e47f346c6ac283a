"""Shared weights: one training run from which every candidate of a space is cut.

Each step trains the largest network and a random one, every second step the smallest in its place (the sandwich rule
of Yu & Huang, ICCV 2019, spread over two steps). All follow a teacher's deepest exit where there is one; without, the
largest learns from the labels alone and the others also from its deepest exit (in-place distillation, Yu et al., ECCV
2020). The largest has a branch of a drawn kind at every mounting point, the others one branch at a drawn place, so
that many kinds cost no more than one.
Candidates read prefixes of the shared tensors (`nn.shared`), in training as in a cut-out network. In a second phase
the weights of random candidates are rounded to the bits that each of their layers drew, straight-through, so that low
bits find shared weights that bear them; batch norms behind the convolutions make this the rounding of folded weights.

It knows no space: candidates come from a callable that is given a random generator.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from offramp.ir.architecture import Architecture, ExitChoice
from offramp.learn.loss import ExitLoss
from offramp.learn.train import deepest, seed_of
from offramp.nn.network import EarlyExitNetwork, skeleton
from offramp.nn.quantizers import SMALLEST_STEP, round_to_grid
from offramp.nn.shared import slice_parameters

Sample = Callable[[np.random.Generator], Architecture]
"""Draws a candidate of the space."""


@dataclass(frozen=True, kw_only=True)
class Sandwich:
    """What a step trains beside the largest network.

    Attributes:
        smallest: the narrowest and shallowest candidate.
        sample: draws the random candidates; their exits are drawn apart.
        rounded_from: step from which the weights of random candidates are rounded; None: never.
    """

    smallest: Architecture
    sample: Sample
    rounded_from: int | None = None


STEP_OVER_MEAN = {2: 1.224 / 0.7979, 4: 0.3534 / 0.7979}
"""Step of the best uniform quantizer of a Gaussian with 3 or 15 levels (Max, IRE Trans. Inf. Theory 1960, in units of
sigma), over the mean absolute value 0.7979 sigma."""


def rounded(weight: Tensor, bits: int) -> Tensor:
    """A weight (K, ...) on the grid of its bits, one step per output channel from its own values; straight-through."""
    high = (1 << (bits - 1)) - 1
    rows = weight.detach().abs().reshape(weight.shape[0], -1)
    step = rows.mean(dim=1) * STEP_OVER_MEAN[bits] if bits in STEP_OVER_MEAN else rows.amax(dim=1) / high
    step = step.clamp(min=SMALLEST_STEP).reshape(-1, *[1] * (weight.dim() - 1))
    return round_to_grid(weight, step, -high, high)


class SandwichLoss:
    """What a step of `learn.train.fit` minimises for a supernet (its `objective`).

    Without a sandwich the largest network is all that there is: a space of exits alone.

    Candidates are drawn from (seed, step), so that a resumed run draws the same. Batch norms of the supernet keep the
    statistics of the largest network; a cut-out candidate needs its own (`nn.shared.recalibrate_batch_norm`).
    """

    def __init__(
        self,
        network: EarlyExitNetwork,
        sandwich: Sandwich | None,
        *,
        seed: int,
        loss: ExitLoss | None = None,
        teacher: EarlyExitNetwork | None = None,
    ) -> None:
        self.network, self.sandwich, self.seed, self.loss = network, sandwich, seed, loss or ExitLoss()
        self.teacher = teacher
        self.kinds: dict[int, list[str]] = {}
        for choice in network.exits:
            self.kinds.setdefault(choice.mounting_point, []).append(choice.branch)

    def __call__(self, x: Tensor, y: Tensor, step: int) -> tuple[Tensor, list[Tensor]]:
        """Mean loss of the largest network and of the step's other one, if any; logits of the largest."""
        rng = np.random.default_rng(seed_of(self.seed, step, 4))
        largest = Architecture(backbone=self.network.name, exits=self._exits(rng))
        logits = self._logits(largest, x, keep_statistics=True)
        taught = None if self.teacher is None else deepest(self.teacher, x)
        total = self.loss(logits, y, taught)
        if self.sandwich is None:
            return total, logits
        late = self.sandwich.rounded_from is not None and step >= self.sandwich.rounded_from
        random = step % 2 == 0
        candidate = self.sandwich.sample(rng) if random else self.sandwich.smallest
        fitted = self._with_exit(candidate, self._exits(rng), rng)
        target = logits[-1].detach() if taught is None else taught
        other = self.loss(self._logits(fitted, x, rounds=late and random), y, target)
        return (total + other) / 2, logits

    def _exits(self, rng: np.random.Generator) -> tuple[ExitChoice, ...]:
        """One branch kind at every mounting point."""
        return tuple(ExitChoice(point, kinds[rng.integers(len(kinds))]) for point, kinds in sorted(self.kinds.items()))

    def _with_exit(
        self, candidate: Architecture, exits: tuple[ExitChoice, ...], rng: np.random.Generator
    ) -> Architecture:
        """The candidate with one of these exits, at a place that it has."""
        bare = replace(candidate, exits=())
        blocks = skeleton(bare, self.network.full).blocks[:-1]
        places = [e for e in exits if e.mounting_point in blocks]
        return replace(bare, exits=(places[rng.integers(len(places))],)) if places else bare

    def _logits(
        self, candidate: Architecture, x: Tensor, *, keep_statistics: bool = False, rounds: bool = False
    ) -> list[Tensor]:
        """Logits of a candidate with the shared parameters and the batch's own statistics."""
        plain = skeleton(candidate, self.network.full).train()
        shared = dict(self.network.named_buffers()) if keep_statistics else {}
        buffers = {
            name: shared.get(self._owner(plain, name), torch.zeros_like(buffer, device=x.device))
            for name, buffer in plain.named_buffers()
        }
        parameters = slice_parameters(self.network, plain)
        if rounds:
            for node in plain.nodes:
                if (name := f"{node.module}.weight") in parameters:
                    bits = candidate.precision_of(node.name).weight_bits
                    parameters[name] = rounded(parameters[name], bits)
        logits: list[Tensor] = functional_call(plain, {**parameters, **buffers}, (x,))
        return logits

    def _owner(self, candidate: EarlyExitNetwork, name: str) -> str:
        """The supernet's name of a tensor of the candidate."""
        child, _, rest = name.partition(".")
        for choice in candidate.exits:
            if candidate.branch_name(choice) == child:
                return f"{self.network.branch_name(choice)}.{rest}"
        return name
