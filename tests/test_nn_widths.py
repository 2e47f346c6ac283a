"""Channel groups: sorting never changes the function, coupled layers move together, importance means something."""

import torch
from hypothesis import given, settings
from torch import nn

from nn_networks import CLASSES, SHAPE, architectures
from offramp.ir.architecture import Architecture, ExitChoice
from offramp.nn.backbones import backbone
from offramp.nn.describe import describe
from offramp.nn.network import EarlyExitNetwork, build
from offramp.nn.shared import cut_out, supernet
from offramp.nn.widths import channel_importance, sort_channels


def lived_in(network: EarlyExitNetwork) -> EarlyExitNetwork:
    """Batch norms as after training: no two channels alike."""
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return network


@given(architectures())
@settings(max_examples=25, deadline=None)
def test_sorting_leaves_the_function_alone_and_importance_falling(architecture: Architecture) -> None:
    network = lived_in(build(architecture, SHAPE, CLASSES, seed=2)).double().eval()
    x = torch.randn(4, *SHAPE, dtype=torch.float64)
    before = network(x)
    sort_channels(network)
    for a, b in zip(before, network(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for scores in channel_importance(network).values():
        assert bool((scores.diff() <= 1e-12).all())


def test_sorting_moves_channels() -> None:
    network = lived_in(build(Architecture(backbone="resnet8"), SHAPE, CLASSES, seed=2))
    before = network.state_dict()["block1.conv1.weight"].clone()
    sort_channels(network)
    assert not torch.equal(before, network.state_dict()["block1.conv1.weight"])


def test_sorting_leaves_shallower_networks_alone_too() -> None:
    """Without its third block a plain chain hands the second block's channels on: they must keep one order."""
    parent = lived_in(supernet(backbone("dscnn", SHAPE, CLASSES), [ExitChoice(1)], seed=3)).double().eval()
    shallow = Architecture(backbone="dscnn", depths=(2,), exits=(ExitChoice(1),))
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    before = cut_out(parent, shallow).double().eval()
    before.load_state_dict({k: parent.state_dict()[k] for k in before.state_dict()})
    sort_channels(parent)
    after = cut_out(parent, shallow).double().eval()
    after.load_state_dict({k: parent.state_dict()[k] for k in after.state_dict()})
    assert not torch.equal(before.get_parameter("block1.pw.weight"), after.get_parameter("block1.pw.weight"))
    for a, b in zip(before(x), after(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_channel_without_weight_comes_last() -> None:
    network = build(Architecture(backbone="resnet8"), SHAPE, CLASSES, seed=0)
    network.get_parameter("block1.conv1.weight").data[3] = 0
    scores = channel_importance(network)["block1.conv1"]
    assert int(scores.argmin()) == 3
    sort_channels(network)
    assert bool((network.get_parameter("block1.conv1.weight")[-1] == 0).all())


def test_residual_additions_couple_layers() -> None:
    """ResNet: the stem and every second convolution of stack one share channels, first convolutions are alone."""
    groups = {g.name: g.layers for g in describe("resnet20", (3, 32, 32), 10).width_groups}
    assert groups["block0.conv"] == ("block0.conv", "block1.conv2", "block2.conv2", "block3.conv2")
    assert groups["block4.conv2"] == ("block4.conv2", "block4.shortcut", "block5.conv2", "block6.conv2")
    assert groups["block1.conv1"] == ("block1.conv1",)


def test_depthwise_convolutions_couple_layers() -> None:
    groups = {g.name: g.layers for g in describe("mobilenetv2", (3, 32, 32), 10).width_groups}
    assert groups["block7.expand"] == ("block7.expand", "block7.dw")
    assert "block7.dw" not in groups


def test_logits_and_inputs_are_nobodys_to_prune() -> None:
    info = describe("dscnn", (1, 49, 10), 12)
    assert not any(layer.width_group for layer in info.layers if layer.name == "head.fc")
    assert all(g.channels == 64 for g in info.width_groups)
    hidden = {b.kind: [g.name for g in b.width_groups] for b in info.branches if b.mounting_point == 1}
    assert hidden == {
        "gap_fc": [],
        "conv_gap_fc": ["exit1.conv"],
        "dsconv_gap_fc": ["exit1.pw"],
        "maxpool_fc": [],
        "maxpool_2fc": ["exit1.fc1"],
        "avgpool_fc": [],
    }


def test_pruning_is_physical() -> None:
    """A narrower group shows in every layer that makes or reads its channels."""
    narrow = Architecture(
        backbone="resnet8",
        exits=(ExitChoice(1, "maxpool_fc"),),
        widths=(("block0.conv", 5), ("block3.conv2", 40)),
    )
    shapes = {k: tuple(v.shape) for k, v in build(narrow, SHAPE, CLASSES, seed=0).state_dict().items()}
    assert shapes["block0.conv.weight"] == (5, 1, 3, 3)
    assert shapes["block0.bn.running_var"] == (5,)
    assert shapes["block1.conv2.weight"] == (5, 16, 3, 3)
    assert shapes["block2.shortcut.weight"] == (32, 5, 1, 1)
    assert shapes["exit1.fc.weight"] == (CLASSES, 5 * 16)
    assert shapes["block3.shortcut.bias"] == (40,)
    assert shapes["head.fc.weight"] == (CLASSES, 40)
