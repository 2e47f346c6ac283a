"""Random flips, shifts and cutout on a whole batch at once, on whatever device holds it.

One gather does flip and shift together; what moves in from outside and the cutout square are 0, the mean of
normalised data. Randomness comes from the generator alone. Cutout: DeVries & Taylor, arXiv 1708.04552.
"""

import torch
from torch import Tensor

from offramp.data import Augmentation


def augment(x: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """A randomly changed copy of the batch; the batch itself when the augmentation is empty.

    Args:
        x: (N, C, H, W).
        generator: on the device of `x`.
    """
    if augmentation == Augmentation():
        return x
    n, channels, height, width = x.shape
    down, right = augmentation.shift
    rows = _positions(n, height, down, generator)
    columns = _positions(n, width, right, generator)
    keep = _inside(rows, height)[:, :, None] & _inside(columns, width)[:, None, :]
    if augmentation.cutout:
        keep &= ~(
            _cut(n, height, augmentation, generator)[:, :, None] & _cut(n, width, augmentation, generator)[:, None]
        )
    if augmentation.flip:
        mirrored = torch.rand(n, 1, generator=generator, device=x.device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    index = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    index = index.reshape(n, 1, -1).expand(n, channels, -1)
    moved = x.reshape(n, channels, -1).gather(2, index).reshape(x.shape)
    return moved.mul_(keep[:, None])


def _positions(n: int, size: int, shift: int, generator: torch.Generator) -> Tensor:
    """Where each output row (or column) comes from, int64 (N, size); may lie outside."""
    base = torch.arange(size, device=generator.device).expand(n, size)
    if not shift:
        return base
    return base + torch.randint(-shift, shift + 1, (n, 1), generator=generator, device=generator.device)


def _inside(positions: Tensor, size: int) -> Tensor:
    return (positions >= 0) & (positions < size)


def _cut(n: int, size: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Rows (or columns) of the cutout square, bool (N, size); its centre lies anywhere in the image."""
    centre = torch.randint(0, size, (n, 1), generator=generator, device=generator.device)
    start = centre - augmentation.cutout // 2
    place = torch.arange(size, device=generator.device)
    return (place >= start) & (place < start + augmentation.cutout)
