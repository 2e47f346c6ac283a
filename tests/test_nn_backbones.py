"""Backbones have their published sizes, and fit every input."""

import pytest
import torch

from offramp.errors import UserError
from offramp.ir.architecture import Architecture
from offramp.nn.backbones import BACKBONES, backbone
from offramp.nn.describe import describe
from offramp.nn.layers import same
from offramp.nn.network import build


def parameters(name: str, shape: tuple[int, int, int], classes: int) -> tuple[int, int]:
    """Trainable parameters of the blocks, and of the head."""
    full = backbone(name, shape, classes)
    return sum(p.numel() for b in full.blocks for p in b.parameters()), sum(p.numel() for p in full.head.parameters())


def macs(name: str, shape: tuple[int, int, int], classes: int) -> int:
    return sum(layer.macs for layer in describe(name, shape, classes).layers)


def test_resnet8_is_the_mlperf_tiny_reference() -> None:
    """mlcommons/tiny image classification: 12.5 M MACs; 78,666 parameters there count conv biases and BN statistics."""
    blocks, head = parameters("resnet8", (3, 32, 32), 10)
    assert 77_000 <= blocks + head <= 78_000
    assert macs("resnet8", (3, 32, 32), 10) == 12_501_632


def test_resnet20_has_its_published_size() -> None:
    """arXiv 1512.03385 table 6: 0.27 M parameters; 40.8 M MACs (0.3 M of them in 1x1 shortcuts)."""
    blocks, head = parameters("resnet20", (3, 32, 32), 10)
    assert round((blocks + head) / 1e6, 2) == 0.27
    assert macs("resnet20", (3, 32, 32), 10) == 40_813_184


def test_dscnn_is_the_mlperf_tiny_reference() -> None:
    """mlcommons/tiny keyword spotting: 2.66 M MACs at 49x10, 25x5 maps."""
    assert macs("dscnn", (1, 49, 10), 12) == 2_656_768
    points = describe("dscnn", (1, 49, 10), 12).mounting_points
    assert {(p.height, p.width) for p in points} == {(25, 5)}


def test_mobilenetv1_is_the_mlperf_tiny_reference() -> None:
    """mlcommons/tiny visual wake words: 7.49 M MACs at 3x96x96, 14 convolution blocks, a 3x3 map at the end."""
    assert macs("mobilenetv1", (3, 96, 96), 2) == 7_489_664
    assert len(backbone("mobilenetv1", (3, 96, 96), 2).blocks) == 14


def test_mobilenetv2_is_the_seed_case() -> None:
    """SEEDCASE.md: cumulative MACs in millions after blocks 0..9, 195.326 in all, 1,388,288 parameters."""
    info = describe("mobilenetv2", (3, 32, 32), 10)
    cumulative = [round(p.macs / 1e6, 3) for p in info.mounting_points[:10]]
    assert cumulative == [1.704, 6.521, 14.926, 24.51, 38.863, 48.742, 62.21, 82.756, 118.292, 140.153]
    assert sum(layer.macs for layer in info.layers if layer.block < 12) == 195_325_952
    assert parameters("mobilenetv2", (3, 32, 32), 10)[0] == 1_388_288
    assert info.branch(0, "maxpool_fc").macs == 2_560
    assert info.branch(10, "maxpool_2fc").macs == 160 * 16 * 160 * 8 + 160 * 8 * 10


@pytest.mark.parametrize("shape", [(1, 8, 8), (9, 1, 128), (1, 49, 10), (3, 32, 32), (2, 1, 1), (1, 5, 3)])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_takes_every_shape(name: str, shape: tuple[int, int, int]) -> None:
    if name == "mobilenetv2" and shape == (3, 32, 32):
        pytest.skip("195 M MACs; held by the skeletons above")
    network = build(Architecture(backbone=name), shape, 5, seed=0).eval()
    (logits,) = network(torch.randn(2, *shape))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("side", range(1, 40))
@pytest.mark.parametrize("kernel", [1, 3, 4, 5, 7, 10])
def test_same_padding_halves_and_never_vanishes(side: int, kernel: int) -> None:
    for stride in (1, 2):
        k, s, padding, out = same(side, kernel, stride)
        assert out == (side + 2 * padding - k) // s + 1
        assert 1 <= k <= side + 2 * padding
        if k % 2 or s > 1:
            assert out == -(-side // stride) or side == 1


def test_unknown_backbone_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown backbone 'resnet9'; wanted one of dscnn.*write resnet8"):
        backbone("resnet9", (3, 32, 32), 10)


@pytest.mark.parametrize(("shape", "classes"), [((3, 0, 32), 10), ((3, 32, 32), 1)])
def test_sizes_below_one_are_refused(shape: tuple[int, int, int], classes: int) -> None:
    with pytest.raises(UserError, match=r"resnet8: input shape.*at least 1 and 2 classes"):
        backbone("resnet8", shape, classes)
