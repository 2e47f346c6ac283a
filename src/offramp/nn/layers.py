"""Convolutions and pooling made legal for a given map: what backbones and exit branches are built from.

Sides never shrink below 1 and filters never reach beyond the map: along an axis of n elements a filter has at
most 2n - 1 taps, so digits (1, 8, 8) and sensor windows (9, 1, 128) fit every network.
"""

from torch import nn

Shape = tuple[int, int, int]
"""(C, H, W)."""


def same(side: int, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Kernel, stride, symmetric padding and output side ceil(side / stride) along one axis."""
    k, s = min(kernel, 2 * side - 1), stride if side > 1 else 1
    padding = (max((-(-side // s) - 1) * s + k - side, 0) + 1) // 2
    return k, s, padding, (side + 2 * padding - k) // s + 1


def conv2d(
    shape: Shape, channels: int, kernel: int | tuple[int, int], stride: int = 1, *, groups: int = 1, bias: bool = False
) -> tuple[nn.Conv2d, Shape]:
    """A convolution with `same` padding for an input of `shape`, and the shape of its output."""
    ky, kx = (kernel, kernel) if isinstance(kernel, int) else kernel
    y, x = same(shape[1], ky, stride), same(shape[2], kx, stride)
    module = nn.Conv2d(
        shape[0], channels, (y[0], x[0]), (y[1], x[1]), (y[2], x[2]), groups=groups, bias=bias
    )  # fmt: skip
    return module, (channels, y[3], x[3])


def max_pool_to(shape: Shape, side: int) -> tuple[nn.MaxPool2d, Shape]:
    """Max-pooling to `side` x `side` (or what is there, when the map is smaller) with one regular window."""
    kernel, stride, out = _window_to(shape, side)
    return nn.MaxPool2d(kernel, stride), out


def avg_pool_to(shape: Shape, side: int) -> tuple[nn.AvgPool2d, Shape]:
    """Means over the windows of `max_pool_to`."""
    kernel, stride, out = _window_to(shape, side)
    return nn.AvgPool2d(kernel, stride), out


def _window_to(shape: Shape, side: int) -> tuple[tuple[int, int], tuple[int, int], Shape]:
    """Window, its step and the pooled shape."""
    height, width = (min(side, s) for s in shape[1:])
    stride = (shape[1] // height, shape[2] // width)
    kernel = (shape[1] - (height - 1) * stride[0], shape[2] - (width - 1) * stride[1])
    return kernel, stride, (shape[0], height, width)
