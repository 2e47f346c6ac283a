"""Training of all exits together: one plain loop for float and prepared networks, on any device.

Data stay on the training device; augmentation is batched there. All randomness of an epoch comes from (seed, epoch), so
a run that was interrupted continues as if it had not been. Nothing here knows prices, thresholds or chips.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from offramp.data import Augmentation, Split
from offramp.errors import TrainingError, UserError
from offramp.learn.augment import augment
from offramp.learn.loss import ExitLoss
from offramp.learn.onednn import PixelsFirst
from offramp.learn.resume import EpochRecord, load_checkpoint, save_checkpoint
from offramp.nn.fold import collecting_norms
from offramp.nn.quantize import PreparedNetwork

_NORM_SAMPLES, _NORM_BATCH = 4096, 256
_LARGE_SAMPLE = 2048
"""Values of a sample from which training on a processor uses bfloat16."""


class Optimizer(StrEnum):
    """SGD with Nesterov momentum 0.9, or AdamW."""

    SGD = "sgd"
    ADAMW = "adamw"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How a network is trained.

    Attributes:
        batch: samples per step.
        learning_rate: the highest of the schedule.
        warmup: share of all steps in which the rate rises linearly; afterwards it falls to 0 as a cosine.
        weight_decay: on weights of two dimensions and more; never on biases, batch norms and quantizer steps.
        clip_norm: largest gradient norm of a step; 0 for no limit.
        bfloat16: allow it in matrix products, where the device multiplies it natively and it pays.
        loss: how the exits share the loss.
    """

    batch: int = 64
    optimizer: Optimizer = Optimizer.ADAMW
    learning_rate: float = 4e-3
    warmup: float = 0.2
    weight_decay: float = 0.02
    clip_norm: float = 0.0
    bfloat16: bool = True
    loss: ExitLoss = field(default_factory=ExitLoss)

    def __post_init__(self) -> None:
        """Refuse numbers that cannot train."""
        if self.batch < 1 or not 0 < self.learning_rate < math.inf or not 0 <= self.warmup < 1:
            raise UserError(f"{self}", wanted="batch >= 1, learning_rate > 0, warmup in [0, 1)")

    def at_batch(self, batch: int | None) -> "TrainConfig":
        """The same recipe with another batch; the rate grows with its square root (Krizhevsky, arXiv 1404.5997)."""
        if batch is None or batch == self.batch:
            return self
        return replace(self, batch=batch, learning_rate=self.learning_rate * math.sqrt(batch / self.batch))


FEW_SAMPLES = 10_000


def float_recipe(samples: int) -> TrainConfig:
    """How float weights are trained from scratch on a training set of this many samples.

    SGD where there are many steps (CIFAR-10, ResNet-8, 4 epochs, validation: 75.2 % against 71.8 % with AdamW), AdamW
    where there are few (digits, 10 epochs, 3 seeds: 99.2 % against 98.5 % with SGD).
    """
    if samples < FEW_SAMPLES:
        return TrainConfig()
    return TrainConfig(optimizer=Optimizer.SGD, learning_rate=0.1, weight_decay=5e-4, warmup=0.1)


def shared_recipe(samples: int) -> TrainConfig:
    """How weights that are trained already are shared with exits that are not, on a training set of this many samples.

    AdamW, because a branch has but a small share of the loss and some of the steps: with SGD at a quarter of the static
    network's rate it hardly learns, at a rate of its own it disturbs the backbone. ResNet-8 on CIFAR-10, 4 epochs of
    9,600 images from 86.4 %, on 2,000 of validation: the deepest exit keeps 85.1 % (SGD 83.5 %), a convolution after
    block 2 reaches 51.5 % (29.4 %); at 1e-3 85.4 and 46.9 %, at 4e-3 83.8 and 54.6 %.
    """
    return TrainConfig(learning_rate=1e-3 if samples < FEW_SAMPLES else 2e-3)


@dataclass(frozen=True, slots=True)
class History:
    """What happened, one record per epoch, those before a resumption included."""

    epochs: tuple[EpochRecord, ...]


OnEpoch = Callable[[EpochRecord], None]

Objective = Callable[[Tensor, Tensor, int], tuple[Tensor, list[Tensor]]]
"""(inputs, labels, step) -> loss and the logits of the exits; what a step minimises."""


def fit(
    network: nn.Module,
    train: Split,
    *,
    epochs: int,
    seed: int,
    config: TrainConfig | None = None,
    augmentation: Augmentation | None = None,
    teacher: nn.Module | None = None,
    objective: Objective | None = None,
    device: str | torch.device = "cpu",
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
) -> History:
    """Train all exits of a network in place; it is left in evaluation mode on `device`.

    At the end the batch norms measure their statistics anew on training samples as they are, not augmented: what they
    averaged while weights moved is stale (Wu & Johnson, arXiv 2105.07576, section 3).

    Args:
        network: an early-exit network whose `forward` gives the logits of every exit; float or prepared.
        train: samples and labels.
        config: defaults of `TrainConfig` when None.
        augmentation: none when None.
        teacher: its deepest exit is what every exit follows (by `config.loss.distill`).
        objective: takes the place of the exits' joint loss (`learn.supernet`); it reads the network's parameters.
        on_epoch: called after each epoch.
        checkpoint: file written after each epoch; when it exists already, training continues from it.

    Raises:
        TrainingError: the loss is not finite; says at which epoch and step.
        FormatError: the checkpoint is damaged or belongs to another network, seed or length.
    """
    config = config or TrainConfig()
    run = _Run(network, train, epochs, seed, config, augmentation or Augmentation(), teacher, torch.device(device))
    run.objective = objective or run.joint_loss
    identity = {"seed": seed, "epochs": epochs, "config": repr(config)}
    records = load_checkpoint(checkpoint, network, run.optimizer, identity) if checkpoint else []
    for epoch in range(len(records), epochs):
        records.append(run.epoch(epoch))
        if checkpoint:
            save_checkpoint(checkpoint, network, run.optimizer, identity, records)
        if on_epoch:
            on_epoch(records[-1])
    run.settle_norms()
    network.eval()
    return History(tuple(records))


@torch.no_grad()
def deepest(network: nn.Module, x: Tensor) -> Tensor:
    """Logits (N, classes) of the last exit, without gradients."""
    logits: Tensor = network(x)[-1]
    return logits


def seed_of(*parts: int) -> int:
    """One seed out of several numbers, well mixed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Share of the highest learning rate at a step: up a line, down a cosine (Loshchilov & Hutter, ICLR 2017)."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


class _Run:
    """What does not change from step to step."""

    def __init__(
        self,
        network: nn.Module,
        train: Split,
        epochs: int,
        seed: int,
        config: TrainConfig,
        augmentation: Augmentation,
        teacher: nn.Module | None,
        device: torch.device,
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher = None if teacher is None else teacher.to(device).eval()
        self.x, self.y = torch.as_tensor(train.x).to(device), torch.as_tensor(train.y).to(device)
        self.seed, self.config, self.augmentation, self.device = seed, config, augmentation, device
        self.optimizer = make_optimizer(network, config)
        self.objective: Objective = self.joint_loss
        self.batch = min(config.batch, len(self.y))
        self.per_epoch = len(self.y) // self.batch
        self.steps = epochs * self.per_epoch

    def epoch(self, epoch: int) -> EpochRecord:
        self.network.train()
        if isinstance(self.network, PreparedNetwork):
            self.network.noise.seed(seed_of(self.seed, epoch, 1))
        figures, start = [], time.perf_counter()
        for number, (x, y) in enumerate(self._batches(epoch)):
            loss, logits = self._step(x, y, epoch * self.per_epoch + number)
            figures.append(torch.stack([loss, (logits[-1].argmax(dim=1) == y).sum().to(loss.dtype)]))
        losses, right = torch.stack(figures).double().cpu().T  # asked once: a GPU need not wait after every step
        self._check_finite(losses, epoch)
        images = self.per_epoch * self.batch
        return EpochRecord(
            epoch=epoch + 1,
            loss=float(losses.mean()),
            accuracy=float(right.sum()) / images,
            seconds=time.perf_counter() - start,
            images=images,
        )

    def _check_finite(self, losses: Tensor, epoch: int) -> None:
        wrong = (~losses.isfinite()).nonzero()
        if len(wrong):
            step = int(wrong[0])
            where = f"epoch {epoch + 1}, step {step + 1} of {self.per_epoch}"
            raise TrainingError(f"{where}: the loss is {float(losses[step])}; a lower learning rate may help")

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order_source = torch.Generator().manual_seed(seed_of(self.seed, epoch, 2))
        change_source = torch.Generator(self.device).manual_seed(seed_of(self.seed, epoch, 3))
        order = torch.randperm(len(self.y), generator=order_source).to(self.device)
        for part in torch.split(order[: self.per_epoch * self.batch], self.batch):
            x = augment(self.x[part], self.augmentation, change_source)
            yield x.contiguous(memory_format=torch.channels_last), self.y[part]

    def _step(self, x: Tensor, y: Tensor, step: int) -> tuple[Tensor, list[Tensor]]:
        rate = self.config.learning_rate * rate_at(step, self.steps, self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._in_bfloat16(), self._clear_of_faults():
            loss, logits = self.objective(x, y, step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimizer.step()
        return loss.detach(), logits

    @torch.no_grad()
    def settle_norms(self) -> None:
        if not any(isinstance(m, nn.BatchNorm2d) for m in self.network.modules()):
            return
        if isinstance(self.network, PreparedNetwork):
            self.network.noise.seed(seed_of(self.seed, self.steps, 5))
        source = torch.Generator().manual_seed(seed_of(self.seed, self.steps, 6))
        chosen = torch.randperm(len(self.y), generator=source)[:_NORM_SAMPLES].to(self.device)
        with collecting_norms(self.network):
            for part in torch.chunk(chosen, -(-len(chosen) // _NORM_BATCH)):
                self.network(self.x[part].contiguous(memory_format=torch.channels_last))

    def joint_loss(self, x: Tensor, y: Tensor, step: int) -> tuple[Tensor, list[Tensor]]:
        """All exits together, after the teacher when there is one."""
        logits = self.network(x)
        with self._in_bfloat16():
            taught = None if self.teacher is None else deepest(self.teacher, x).float()
        return self.config.loss(logits, y, taught), logits

    def _clear_of_faults(self) -> AbstractContextManager[object]:
        return PixelsFirst() if self.device.type == "cpu" else nullcontext()

    def _in_bfloat16(self) -> AbstractContextManager[object]:
        """bfloat16 products where the device multiplies it natively and it pays.

        Networks for small samples spend their time between the operations: it saves them nothing. A prepared network
        rounds its sums in float32 (`nn.quantized_layers`).
        """
        pays = self.device.type == "cuda" or self.x[0].numel() >= _LARGE_SAMPLE
        if not self.config.bfloat16 or not pays or not multiplies_bfloat16(self.device):
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def multiplies_bfloat16(device: torch.device) -> bool:
    """True for CUDA, and for a processor with AVX512-BF16 (1.75 times the images per second of ResNet-8)."""
    ask: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    return device.type == "cuda" or bool(ask().get("avx512_bf16", False))


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser with weight decay on weights alone."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    if config.optimizer is Optimizer.SGD:  # fused, it fails on parameters whose first gradient comes later than others'
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9, nesterov=True, foreach=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
