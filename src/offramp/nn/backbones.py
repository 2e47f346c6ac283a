"""Backbones as plain torch modules, cut into blocks; input shape and class count are arguments.

A block takes one tensor and gives one; after every block an exit can sit. Published networks keep their published
sizes: ResNet-8, DS-CNN and MobileNetV1-0.25 of MLPerf Tiny (mlcommons/tiny), ResNet-20 (arXiv 1512.03385, section
4.2) and the 12-block MobileNetV2 of arXiv 2512.04705. Nothing here knows about exits, bits or chips.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from offramp.errors import UserError, choose
from offramp.nn.branches import branch
from offramp.nn.layers import Shape, conv2d


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network of full size, cut into blocks and its classifier head.

    Attributes:
        blocks: modules from one tensor to one tensor, in order; block i is called `block{i}` everywhere.
        head: from the last block's tensor to logits; called `head`.
        reference: (width group, channels) of the network that it was widened from (`nn.widen`); empty: of itself.
    """

    name: str
    input_shape: Shape
    classes: int
    blocks: tuple[nn.Module, ...]
    head: nn.Module
    reference: tuple[tuple[str, int], ...] = ()

    def __deepcopy__(self, memo: dict[int, object]) -> "Backbone":
        """Itself: it is never changed, and every network that came from it refers to it."""
        return self


def stem(shape: Shape, channels: int, kernel: int | tuple[int, int], stride: int) -> tuple[nn.Sequential, Shape]:
    """Convolution, batch norm, ReLU."""
    conv, out = conv2d(shape, channels, kernel, stride)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels), relu=nn.ReLU())), out


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution with bias where the shape changes."""

    def __init__(self, shape: Shape, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, inner = conv2d(shape, channels, 3, stride)
        self.bn1, self.relu1 = nn.BatchNorm2d(channels), nn.ReLU()
        self.conv2, self.shape = conv2d(inner, channels, 3)
        self.bn2, self.relu2 = nn.BatchNorm2d(channels), nn.ReLU()
        same = self.shape == shape
        self.shortcut = nn.Identity() if same else conv2d(shape, channels, 1, stride, bias=True)[0]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, channels, H / stride, W / stride)."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))  # type: ignore[no-any-return]


def separable(shape: Shape, channels: int, stride: int) -> tuple[nn.Sequential, Shape]:
    """A 3x3 depthwise and a 1x1 convolution, each with batch norm and ReLU."""
    dw, inner = conv2d(shape, shape[0], 3, stride, groups=shape[0])
    pw, out = conv2d(inner, channels, 1)
    parts = OrderedDict(dw=dw, bn1=nn.BatchNorm2d(shape[0]), relu1=nn.ReLU())
    return nn.Sequential(parts | OrderedDict(pw=pw, bn2=nn.BatchNorm2d(channels), relu2=nn.ReLU())), out


class Inverted(nn.Module):
    """An inverted residual: 1x1 expansion (left out when it expands nothing), depthwise, 1x1 projection, addition."""

    def __init__(self, shape: Shape, channels: int, expanded: int, kernel: int, stride: int) -> None:
        super().__init__()
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if expanded != shape[0]:
            conv, shape_in = conv2d(shape, expanded, 1)
            parts |= OrderedDict(expand=conv, bn1=nn.BatchNorm2d(expanded), relu1=nn.ReLU6())
        else:
            shape_in = shape
        dw, inner = conv2d(shape_in, expanded, kernel, stride, groups=expanded)
        project, self.shape = conv2d(inner, channels, 1)
        parts |= OrderedDict(dw=dw, bn2=nn.BatchNorm2d(expanded), relu2=nn.ReLU6())
        parts |= OrderedDict(project=project, bn3=nn.BatchNorm2d(channels))
        for name, module in parts.items():
            self.add_module(name, module)
        self.order, self.residual = tuple(parts), self.shape == shape

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, channels, H / stride, W / stride)."""
        y = x
        for name in self.order:
            y = getattr(self, name)(y)
        return x + y if self.residual else y


def resnet(name: str, shape: Shape, classes: int, *, per_stack: int) -> Backbone:
    """A stem of 16 channels, then three stacks of 16, 32 and 64 channels."""
    first, at = stem(shape, 16, 3, 1)
    blocks: list[nn.Module] = [first]
    for channels in (16, 32, 64):
        for i in range(per_stack):
            block = Residual(at, channels, 2 if channels > 16 and i == 0 else 1)
            blocks, at = [*blocks, block], block.shape
    return Backbone(name, shape, classes, tuple(blocks), branch("gap_fc", at, classes))


def resnet8(shape: Shape, classes: int) -> Backbone:
    """The image-classification reference of MLPerf Tiny: 12.5 M MACs and 77,946 parameters at 3x32x32."""
    return resnet("resnet8", shape, classes, per_stack=1)


def resnet20(shape: Shape, classes: int) -> Backbone:
    """ResNet-20 for CIFAR with 1x1 convolutions as changing shortcuts."""
    return resnet("resnet20", shape, classes, per_stack=3)


def dscnn(shape: Shape, classes: int) -> Backbone:
    """The keyword-spotting reference of MLPerf Tiny: a 10x4 stride-2 convolution, four separable blocks of 64."""
    first, at = stem(shape, 64, (10, 4), 2)
    blocks: list[nn.Module] = [first]
    for _ in range(4):
        block, at = separable(at, 64, 1)
        blocks.append(block)
    return Backbone("dscnn", shape, classes, tuple(blocks), branch("gap_fc", at, classes))


MOBILENETV1 = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *((128, 1),) * 5, (256, 2), (256, 1))
"""(channels, stride) of the separable blocks at width 0.25."""


def mobilenetv1(shape: Shape, classes: int) -> Backbone:
    """The visual-wake-words reference of MLPerf Tiny (MobileNetV1, width 0.25; made for 3x96x96)."""
    first, at = stem(shape, 8, 3, 2)
    blocks: list[nn.Module] = [first]
    for channels, stride in MOBILENETV1:
        block, at = separable(at, channels, stride)
        blocks.append(block)
    return Backbone("mobilenetv1", shape, classes, tuple(blocks), branch("gap_fc", at, classes))


MOBILENETV2 = (
    (16, 32, 3, 1), (24, 96, 3, 1), (24, 144, 3, 1), (32, 144, 3, 1), (32, 192, 3, 1), (64, 192, 3, 2),
    (64, 384, 3, 1), (96, 384, 7, 1), (96, 576, 7, 1), (160, 576, 7, 2), (160, 960, 7, 1), (320, 960, 7, 1),
)  # fmt: skip
"""(channels, expanded channels, depthwise kernel, stride) of the 12 blocks."""


def mobilenetv2(shape: Shape, classes: int) -> Backbone:
    """The 12-block network of the seed case: 195.33 M MACs, 1,388,288 parameters before the head at 3x32x32.

    The first convolution belongs to block 0, so that block numbers are the paper's; the head is its one-FC kind.
    """
    first, at = stem(shape, 32, 3, 1)
    blocks: list[nn.Module] = []
    for channels, expanded, kernel, stride in MOBILENETV2:
        block = Inverted(at, channels, expanded, kernel, stride)
        blocks, at = [*blocks, block], block.shape
    blocks[0] = nn.Sequential(OrderedDict(stem=first, body=blocks[0]))
    return Backbone("mobilenetv2", shape, classes, tuple(blocks), branch("maxpool_fc", at, classes))


BACKBONES: dict[str, Callable[[Shape, int], Backbone]] = {
    "resnet8": resnet8,
    "resnet20": resnet20,
    "dscnn": dscnn,
    "mobilenetv1": mobilenetv1,
    "mobilenetv2": mobilenetv2,
}
"""Backbone name -> how to make it for an input shape and a number of classes."""


@lru_cache(maxsize=32)
def backbone(name: str, input_shape: Shape, classes: int) -> Backbone:
    """A backbone by name, without memory for its parameters (on torch's meta device); shared, not to be changed.

    Raises:
        UserError: the name is not known, or a size is below 1 (classes: below 2).
    """
    if name not in BACKBONES:
        raise choose("backbone", name, BACKBONES, where="--backbone")
    if len(input_shape) != 3 or min(input_shape) < 1 or classes < 2:
        given = f"input shape {input_shape}, {classes} classes"
        raise UserError(given, wanted="(channels, height, width) of at least 1 and 2 classes", where=name)
    with torch.device("meta"):
        return BACKBONES[name](input_shape, classes)
