"""Quantizers with learned steps: one per tensor and one per output channel of every weight.

A quantizer is `step * clip(round_half_even(x / step), low, high)` with zero point 0, straight-through for x and with
the step's gradient of LSQ (Esser et al., ICLR 2020, eq. 3); the step is learned as its logarithm, so that it stays
positive and an optimiser's update is relative (Jain et al., TQT, MLSys 2020). It knows no layer and no chip.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from offramp.ir.quantized import Quantizer

SMALLEST_STEP = 1e-8
"""Steps are kept in [SMALLEST_STEP, 1 / SMALLEST_STEP], far from the ends of float32."""
_LOG_LIMIT = 18.42
_SAMPLES = 8192
_PIECE = 1 << 16
"""Elements of a piece per thread: four float32 arrays of this size fit into a second-level cache."""
_RATIOS = 64


class _RoundToGrid(torch.autograd.Function):
    """The quantizer itself. The step is one number, or one per output channel as (K, 1, ...).

    What is kept for the backward pass is the clipped position x / step: where it lies on an end of the range, x passes
    no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        position, y, inverse = torch.empty_like(x), torch.empty_like(x), step.reciprocal()
        for part, place, result in _pieces(step, x, position, y):
            torch.mul(part, inverse, out=place).clamp_(low, high)
            torch.round(place, out=result).mul_(step)
        ctx.save_for_backward(position, y, step)
        ctx.range = (low, high)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        position, y, step = ctx.saved_tensors
        if grad.stride() != position.stride():
            grad = torch.empty_like(position).copy_(grad)
        passed = torch.empty_like(grad)
        rounded, moved = torch.zeros_like(step), torch.zeros_like(step)
        for part, place, result, through in _pieces(step, grad, position, y, passed):
            torch.ops.aten.hardtanh_backward.grad_input(part, place, *ctx.range, grad_input=through)
            rounded += _inner(part, result, step)
            moved += _inner(through, place, step)
        return passed, rounded / step - moved, None, None


def _pieces(step: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors side by side as flat views, on a processor in pieces that fit into a cache; else as they are."""
    first = tensors[0]
    dense = first.is_contiguous() or first.is_contiguous(memory_format=torch.channels_last)
    if step.dim() or not dense or any(t.stride() != first.stride() for t in tensors):
        return iter([tensors])
    flat = [t.as_strided((t.numel(),), (1,), t.storage_offset()) for t in tensors]
    size = max(first.numel(), 1) if first.is_cuda else _PIECE * torch.get_num_threads()
    return zip(*[torch.split(t, size) for t in flat], strict=True)


def _inner(a: Tensor, b: Tensor, step: Tensor) -> Tensor:
    """Sum of products, in the shape of the step."""
    if a.dim() == 1:
        return torch.dot(a, b)
    product = a * b
    return product.sum(tuple(range(1, a.dim())), keepdim=True) if step.dim() else product.sum()


def _within(log_step: Tensor, limit: float) -> Tensor:
    """The logarithm kept in range; the gradient passes, so a step at the limit can come back."""
    return log_step.detach().clamp(-_LOG_LIMIT, limit) + (log_step - log_step.detach())


def round_to_grid(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """`step * clip(round(x / step), low, high)` with straight-through gradients.

    Args:
        step: positive; a scalar tensor, or one per output channel shaped (K, 1, ...).
    """
    return _RoundToGrid.apply(x, step, low, high)  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def best_step(values: Tensor, low: int, high: int, *, per_channel: bool = False) -> Tensor:
    """The step with the least mean squared rounding error over a geometric grid below absmax / high.

    Args:
        values: any shape; with `per_channel` the first dimension is the channel.

    Returns:
        A scalar, or (K,) with `per_channel`.
    """
    rows = values.reshape(values.shape[0], -1) if per_channel else values.reshape(1, -1)
    widest = rows.abs().amax(dim=1).clamp(min=SMALLEST_STEP * high) / high
    steps = widest * torch.logspace(0, -1.5, _RATIOS, device=rows.device)[:, None]
    errors = []
    for some in torch.split(steps[:, :, None], max(1, _PIECE // max(rows.numel(), 1))):  # as many as fit into a cache
        grid = torch.div(rows, some).clamp_(low, high).round_().mul_(some)
        errors.append(grid.sub_(rows).square_().mean(dim=2))
    best = steps.gather(0, torch.cat(errors).argmin(dim=0, keepdim=True))[0]
    return best if per_channel else best[0]


class StepQuantizer(nn.Module):
    """The quantizer of one tensor: bits, sign and one learned step.

    An unsigned quantizer is also the ReLU before it: values below 0 round to 0 and pass no gradient. `ceiling` is 6
    after a ReLU6: the step never reaches beyond it, so the clip is exact too.
    """

    log_step: Tensor

    def __init__(self, bits: int, *, signed: bool, ceiling: float | None = None) -> None:
        super().__init__()
        self.bits, self.signed, self.ceiling = bits, signed, ceiling
        span = Quantizer(bits, signed, 1.0)
        self.low, self.high = span.low, span.high
        self.log_step = nn.Parameter(torch.tensor(0.0))
        self.samples: list[Tensor] | None = None

    @property
    def step(self) -> Tensor:
        """The step as a positive scalar tensor."""
        limit = _LOG_LIMIT if self.ceiling is None else math.log(self.ceiling / self.high)
        return _within(self.log_step, limit).exp()

    def forward(self, x: Tensor) -> Tensor:
        """Round to the grid; while observing, only clip as the activation does and keep a sample."""
        if self.samples is None:
            return round_to_grid(x, self.step, self.low, self.high)
        if not self.signed:
            x = x.clamp(0, self.ceiling)
        flat = x.detach().reshape(-1)
        self.samples.append(flat[:: max(1, flat.numel() // _SAMPLES) | 1])
        return x

    def observe(self) -> None:
        """From now on let values pass and remember a sample of each batch (8192 values)."""
        self.samples = []

    @torch.no_grad()
    def settle(self) -> None:
        """Choose the step from what was observed (kept as it was if nothing was) and quantize from now on."""
        if self.samples:
            self.log_step.copy_(best_step(torch.cat(self.samples), self.low, self.high).log())
        self.samples = None

    def frozen(self) -> Quantizer:
        """The quantizer as a value of `ir`."""
        return Quantizer(self.bits, self.signed, float(self.step.detach()))


class WeightQuantizer(nn.Module):
    """Symmetric quantizer of a weight, one learned step per output channel.

    The range is [-(2^(b-1) - 1), 2^(b-1) - 1]: ternary for 2 bits, and never the one value whose sign cannot turn.
    Starts at the step of least squared error (for 2 bits that is the ternary optimum of TWN, Li & Liu 2016).
    """

    log_step: Tensor

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.bits, self.high = bits, (1 << (bits - 1)) - 1
        self.log_step = nn.Parameter(best_step(weight, -self.high, self.high, per_channel=True).log())

    def step(self, like: Tensor) -> Tensor:
        """Positive steps shaped (K, 1, ...) to broadcast over `like`."""
        return _within(self.log_step, _LOG_LIMIT).exp().reshape(-1, *[1] * (like.dim() - 1))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight rounded to its grid."""
        return round_to_grid(weight, self.step(weight), -self.high, self.high)

    @torch.no_grad()
    def integers(self, weight: Tensor) -> Tensor:
        """The integers behind the rounded weight, as float."""
        return (weight * self.step(weight).reciprocal()).clamp_(-self.high, self.high).round_()
