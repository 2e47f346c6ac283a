"""Exit branches: small classifiers that are mounted after a backbone block.

Kinds: `gap_fc`; `conv_gap_fc` and `dsconv_gap_fc` (a stride-2 convolution to twice the channels first; the
dense one after BranchyNet, arXiv 1709.01686); `maxpool_fc` and `maxpool_2fc` (max-pool to 4x4, then 16C -> classes or
16C -> 8C -> classes with ReLU6 between; arXiv 2512.04705); `avgpool_fc` (means over the windows of `maxpool_fc` in its
place: on a frozen ResNet-8 three points more for CIFAR-10). A branch knows its input's shape and nothing else.
"""

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from offramp.errors import choose
from offramp.nn.layers import Shape, avg_pool_to, conv2d, max_pool_to

Parts = OrderedDict[str, nn.Module]


def gap_fc(shape: Shape, classes: int) -> Parts:
    """Mean over the map, then one linear layer: C -> classes."""
    return OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(shape[0], classes))


def conv_gap_fc(shape: Shape, classes: int) -> Parts:
    """A 3x3 convolution C -> 2C with stride 2, then `gap_fc`."""
    conv, inner = conv2d(shape, 2 * shape[0], 3, 2)
    return OrderedDict(conv=conv, bn=nn.BatchNorm2d(inner[0]), relu=nn.ReLU()) | gap_fc(inner, classes)


def dsconv_gap_fc(shape: Shape, classes: int) -> Parts:
    """A 3x3 depthwise convolution with stride 2 and a 1x1 convolution C -> 2C, then `gap_fc`."""
    dw, inner = conv2d(shape, shape[0], 3, 2, groups=shape[0])
    pw, inner = conv2d(inner, 2 * shape[0], 1)
    return (
        OrderedDict(dw=dw, bn1=nn.BatchNorm2d(shape[0]), relu1=nn.ReLU())
        | OrderedDict(pw=pw, bn2=nn.BatchNorm2d(inner[0]), relu2=nn.ReLU())
        | gap_fc(inner, classes)
    )


def maxpool_fc(shape: Shape, classes: int) -> Parts:
    """Max-pool to 4x4, then one linear layer 16C -> classes."""
    pool, (c, h, w) = max_pool_to(shape, 4)
    return OrderedDict(pool=pool, flatten=nn.Flatten(), fc=nn.Linear(c * h * w, classes))


def avgpool_fc(shape: Shape, classes: int) -> Parts:
    """Means over 4x4 windows, then one linear layer 16C -> classes."""
    pool, (c, h, w) = avg_pool_to(shape, 4)
    return OrderedDict(pool=pool, flatten=nn.Flatten(), fc=nn.Linear(c * h * w, classes))


def maxpool_2fc(shape: Shape, classes: int) -> Parts:
    """Max-pool to 4x4, then 16C -> 8C -> classes with ReLU6 between (half the features on smaller maps)."""
    pool, (c, h, w) = max_pool_to(shape, 4)
    hidden = max(c * h * w // 2, 1)
    return OrderedDict(
        pool=pool,
        flatten=nn.Flatten(),
        fc1=nn.Linear(c * h * w, hidden),
        relu=nn.ReLU6(),
        fc2=nn.Linear(hidden, classes),
    )


BRANCHES: dict[str, Callable[[Shape, int], Parts]] = {
    "gap_fc": gap_fc,
    "conv_gap_fc": conv_gap_fc,
    "dsconv_gap_fc": dsconv_gap_fc,
    "maxpool_fc": maxpool_fc,
    "maxpool_2fc": maxpool_2fc,
    "avgpool_fc": avgpool_fc,
}
"""Branch kind -> its parts, for a tensor of a shape and a number of classes."""


def branch(kind: str, shape: Shape, classes: int) -> nn.Sequential:
    """An exit branch of a kind.

    Raises:
        UserError: the kind is not known.
    """
    if kind not in BRANCHES:
        raise choose("exit branch", kind, BRANCHES, where="exits")
    return nn.Sequential(BRANCHES[kind](shape, classes))
