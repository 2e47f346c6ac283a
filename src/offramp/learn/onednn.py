"""A fault of oneDNN that training on a processor has to go round.

Its weight gradient of a convolution with one tap, a stride and fewer input channels than a register holds writes behind
its workspace (uxlfoundation/oneDNN issue 6035; in torch 2.13.0 valgrind sees it with AVX2 for 3 or 4 channels at stride
2, in none of 20 other shapes). The process dies later, anywhere, or computes on with wrong weights. Such a convolution
reads every second pixel of every second row, so it is given just these, and has no stride left.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class PixelsFirst(TorchFunctionMode):
    """Within it, convolutions with one tap, a stride and no padding are given the pixels that they read."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `func`, or the same convolution without its stride."""
        return (_conv2d if func is torch.conv2d else func)(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    if weight.shape[2:] == (1, 1) and padding in ("valid", 0, (0, 0), [0, 0]):
        down, across = (stride, stride) if isinstance(stride, int) else (stride * 2)[:2]
        input, stride = input[:, :, ::down, ::across], 1
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
