"""The loss of all exits together: weighted cross entropy, and distillation from the deepest exit or a teacher.

Joint training after BranchyNet (Teerapittayanon et al., ICPR 2016); self-distillation from the deepest exit after Zhang
et al., ICCV 2019; softened targets with the factor temperature^2 after Hinton et al., arXiv 1503.02531.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from offramp.errors import UserError

DEEPEST_SHARE = 2 / 3
"""Share of the deepest exit: what early exits ask of a small backbone costs the deepest accuracy (ResNet-8 on CIFAR-10,
10 epochs of shared weights at equal shares: 80.4 %, where they started from 86.3 %)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitLoss:
    """How the exits share the loss.

    Attributes:
        weights: one per exit, normalised to sum 1; empty: `DEEPEST_SHARE` for the deepest, the rest
            divided among the others.
        distill: share of the distillation term in a student's loss, in [0, 1].
        temperature: softens both sides of the distillation term.
        label_smoothing: share of the labels spread over all classes.
    """

    weights: tuple[float, ...] = ()
    distill: float = 0.5
    temperature: float = 2.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1] and weights that cannot be normalised."""
        if not (0 <= self.distill <= 1 and 0 <= self.label_smoothing < 1 and self.temperature > 0):
            raise UserError(f"{self}", wanted="distill in [0, 1], label_smoothing in [0, 1), temperature > 0")
        if self.weights and (min(self.weights) < 0 or sum(self.weights) <= 0):
            raise UserError(f"exit weights {self.weights}", wanted="none negative and one positive")

    def __call__(self, logits: Sequence[Tensor], y: Tensor, teacher: Tensor | None = None) -> Tensor:
        """The loss of one batch.

        Args:
            logits: of every exit, (N, classes) each; the last is the deepest.
            y: labels (N,).
            teacher: logits (N, classes) that every exit follows; without one, the others follow the deepest.
        """
        exits, (n, classes) = len(logits), logits[0].shape
        stacked = torch.stack(list(logits)).float()
        losses = F.cross_entropy(
            stacked.reshape(-1, classes), y.repeat(exits), reduction="none", label_smoothing=self.label_smoothing
        )
        hard = losses.reshape(exits, n).mean(dim=1)
        students = exits if teacher is not None else exits - 1
        if self.distill and students:
            target = stacked[-1] if teacher is None else teacher
            soft = self._follow(stacked[:students], target.detach().float())
            mixed = hard[:students] * (1 - self.distill) + soft * self.distill
            hard = torch.cat([mixed, hard[students:]])
        return (hard * self._shares(exits, stacked)).sum()

    def _follow(self, students: Tensor, target: Tensor) -> Tensor:
        """Kullback-Leibler divergence of each student from the target, (students,)."""
        wanted = F.log_softmax(target / self.temperature, dim=1)
        given = F.log_softmax(students / self.temperature, dim=2)
        divergence = (wanted.exp() * (wanted - given)).sum(dim=2).mean(dim=1)
        return divergence * self.temperature**2

    def _shares(self, exits: int, like: Tensor) -> Tensor:
        if self.weights and len(self.weights) != exits:
            raise UserError(f"{len(self.weights)} exit weights", wanted=f"{exits}, one per exit")
        early = (1 - DEEPEST_SHARE) / max(exits - 1, 1)
        shares = like.new_tensor(self.weights or (*(early,) * (exits - 1), DEEPEST_SHARE))
        return shares / shares.sum()
