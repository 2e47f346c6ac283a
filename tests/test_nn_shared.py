"""Shared weights: slices, the networks cut out of them, and batch norms measured anew."""

from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from torch.func import functional_call
from torch.nn import functional as F

from nn_networks import CLASSES, SHAPE, architectures
from offramp.errors import UserError
from offramp.ir.architecture import Architecture, ExitChoice
from offramp.nn.backbones import backbone
from offramp.nn.branches import BRANCHES
from offramp.nn.lower import lower
from offramp.nn.network import EarlyExitNetwork, build
from offramp.nn.shared import cut_out, prefix, recalibrate_batch_norm, slice_parameters, supernet, take_over
from offramp.nn.widths import sort_channels

TINY = Architecture(backbone="resnet8", exits=(ExitChoice(1, "conv_gap_fc"),), widths=(("block1.conv1", 6),))


@lru_cache
def family(name: str) -> EarlyExitNetwork:
    """A sorted supernet with every kind of branch everywhere; not to be changed."""
    network = largest(name)
    sort_channels(network)
    return network


def largest(name: str) -> EarlyExitNetwork:
    full = backbone(name, SHAPE, CLASSES)
    exits = [ExitChoice(i, kind) for i in range(len(full.blocks) - 1) for kind in BRANCHES]
    return supernet(full, exits, seed=4)


@given(architectures())
@settings(max_examples=20, deadline=None)
def test_the_cut_out_network_equals_the_supernet_exactly(architecture: Architecture) -> None:
    parent = family(architecture.backbone)
    child = cut_out(parent, architecture).eval()
    stranger = build(architecture, SHAPE, CLASSES, seed=99).eval()
    x = torch.randn(3, *SHAPE)
    called = functional_call(stranger, slice_parameters(parent, stranger), (x,))
    for a, b in zip(child(x), called, strict=True):
        assert torch.equal(a, b)


def test_the_full_architecture_is_the_supernet() -> None:
    parent = largest("resnet8").eval()
    exits = (ExitChoice(0, "gap_fc"), ExitChoice(2, "maxpool_2fc"))
    child = cut_out(parent, Architecture(backbone="resnet8", exits=exits)).eval()
    x = torch.randn(2, *SHAPE)
    logits = dict(zip(parent.exits, parent(x), strict=False))
    mine = child(x)
    assert torch.equal(mine[0], logits[exits[0]])
    assert torch.equal(mine[1], logits[exits[1]])
    assert torch.equal(mine[2], parent(x)[-1])


def test_gradients_reach_the_slice_of_the_supernet_and_nothing_else() -> None:
    parent = largest("resnet8")
    child = build(TINY, SHAPE, CLASSES, seed=0)
    logits = functional_call(child, slice_parameters(parent, child), (torch.randn(8, *SHAPE),))
    loss = F.cross_entropy(logits[-1], torch.zeros(8, dtype=torch.long))
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = parent.get_parameter("block1.conv1.weight").grad
    assert gradient is not None
    assert bool(gradient[:6].abs().sum() > 0)
    assert bool((gradient[6:] == 0).all())
    assert parent.get_parameter("exit0_gap_fc.fc.weight").grad is None


def test_kernels_are_cropped_around_the_centre() -> None:
    name = "block9.dw"
    parent = supernet(backbone("mobilenetv2", (1, 16, 16), CLASSES), [], seed=0)
    child = cut_out(parent, Architecture(backbone="mobilenetv2", kernels=((name, 3),)))
    wide, cropped = parent.get_parameter(f"{name}.weight"), child.get_parameter(f"{name}.weight")
    assert torch.equal(cropped, wide[:, :, 2:5, 2:5])
    assert {layer.name: layer.FY for layer in lower(child).layers}[name] == 3
    assert child(torch.randn(1, 1, 16, 16))[0].shape == (1, CLASSES)


def test_a_filter_may_shrink_to_its_middle_tap_at_any_stride() -> None:
    parent = supernet(backbone("resnet8", SHAPE, CLASSES), [], seed=0)
    child = cut_out(parent, Architecture(backbone="resnet8", kernels=(("block2.conv1", 1), ("block3.conv2", 1))))
    whole = {layer.name: layer for layer in lower(parent).layers}
    for layer in lower(child).layers:
        cropped = layer.name in ("block2.conv1", "block3.conv2")
        assert layer.macs == whole[layer.name].macs // (9 if cropped else 1)
        assert (layer.OY, layer.OX) == (whole[layer.name].OY, whole[layer.name].OX)
    for name in ("block2.conv1", "block3.conv2"):
        tap = parent.get_parameter(f"{name}.weight")[:, :, 1:2, 1:2]
        assert torch.equal(child.get_parameter(f"{name}.weight"), tap)


def test_warm_start_from_a_network_that_is_already_narrow_and_lacks_an_exit() -> None:
    parent = build(TINY, SHAPE, CLASSES, seed=3)
    wanted = Architecture(backbone="resnet8", exits=(ExitChoice(2),), widths=(("block1.conv1", 4),))
    child = cut_out(parent, wanted, seed=1)
    assert torch.equal(child.get_parameter("block1.conv1.weight"), parent.get_parameter("block1.conv1.weight")[:4])
    again = cut_out(parent, wanted, seed=1)
    assert torch.equal(child.get_parameter("exit2.fc.weight"), again.get_parameter("exit2.fc.weight"))


def test_a_supernet_takes_over_a_trained_backbone_and_keeps_its_own_branches() -> None:
    parent, trained = largest("resnet8"), supernet(backbone("resnet8", SHAPE, CLASSES), [], seed=9)
    branches = {k: v.clone() for k, v in parent.state_dict().items() if k.startswith("exit")}
    take_over(parent, trained)
    assert branches and all(torch.equal(parent.state_dict()[k], v) for k, v in branches.items())
    assert all(torch.equal(parent.state_dict()[k], v) for k, v in trained.state_dict().items())


def test_cutting_out_copies() -> None:
    parent = largest("resnet8")
    child = cut_out(parent, TINY)
    child.get_parameter("block1.conv1.weight").data.zero_()
    assert bool(parent.get_parameter("block1.conv1.weight").abs().sum() > 0)


def test_a_wider_network_than_the_source_is_refused() -> None:
    parent = build(TINY, SHAPE, CLASSES, seed=3)
    with pytest.raises(UserError, match=r"block1.conv1.weight: \(16, 16, 3, 3\) from \(6, 16, 3, 3\); wanted a small"):
        cut_out(parent, Architecture(backbone="resnet8"))


def test_slicing_an_exit_that_the_supernet_lacks_is_refused() -> None:
    parent = supernet(backbone("resnet8", SHAPE, CLASSES), [], seed=0)
    with pytest.raises(UserError, match=r"no weights for exit1.conv.weight; wanted a block and branch"):
        slice_parameters(parent, build(TINY, SHAPE, CLASSES, seed=0))


def test_prefix_is_a_view() -> None:
    tensor = torch.arange(4 * 3 * 5 * 5, dtype=torch.float32).reshape(4, 3, 5, 5)
    view = prefix(tensor, torch.Size((2, 3, 3, 3)))
    assert view.data_ptr() == tensor[0, 0, 1, 1].data_ptr()
    assert torch.equal(view, tensor[:2, :3, 1:4, 1:4])


def test_recalibrated_statistics_are_those_of_the_data() -> None:
    network = build(TINY, SHAPE, CLASSES, seed=0)
    network.train()
    batches = [torch.randn(16, *SHAPE) for _ in range(3)]
    weights = {n: p.clone() for n, p in network.named_parameters()}
    recalibrate_batch_norm(network, batches)
    maps = [network.get_submodule("block0.conv")(x) for x in batches]
    mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    torch.testing.assert_close(network.get_buffer("block0.bn.running_mean"), mean)
    assert all(m.training for m in network.modules())
    assert all(torch.equal(p, weights[n]) for n, p in network.named_parameters())


def test_recalibrating_without_data_is_refused_and_changes_nothing() -> None:
    network = build(TINY, SHAPE, CLASSES, seed=0)
    network.get_buffer("block0.bn.running_mean").fill_(2.0)
    with pytest.raises(UserError, match="no inputs to measure batch norms on"):
        recalibrate_batch_norm(network, [])
    assert bool((network.get_buffer("block0.bn.running_mean") == 2).all())
