"""`build` makes exactly what an architecture says; names and weights do not depend on the other exits."""

import pytest
import torch
from hypothesis import given, settings

from nn_networks import CLASSES, SHAPE, architectures
from offramp.errors import UserError
from offramp.ir.architecture import Architecture, ExitChoice
from offramp.nn.backbones import backbone
from offramp.nn.describe import describe
from offramp.nn.network import build, layer_names, skeleton

DEMO = Architecture(backbone="resnet8", exits=(ExitChoice(0, "gap_fc"), ExitChoice(2, "conv_gap_fc")))


@given(architectures())
@settings(max_examples=25, deadline=None)
def test_any_architecture_builds_runs_and_has_the_layers_that_describe_promises(architecture: Architecture) -> None:
    network = build(architecture, SHAPE, CLASSES, seed=0).eval()
    logits = network(torch.randn(2, *SHAPE))
    assert [x.shape for x in logits] == [(2, CLASSES)] * (len(architecture.exits) + 1)
    promised = {layer.name for layer in describe(architecture.backbone, SHAPE, CLASSES).layers_of(architecture)}
    assert set(layer_names(network)) == promised


@given(architectures())
@settings(max_examples=25, deadline=None)
def test_canonical_form_is_the_same_network(architecture: Architecture) -> None:
    info = describe(architecture.backbone, SHAPE, CLASSES)
    canonical = info.canonical(architecture)
    assert info.canonical(canonical) == canonical
    full = backbone(architecture.backbone, SHAPE, CLASSES)
    shapes = [{k: v.shape for k, v in skeleton(a, full).state_dict().items()} for a in (architecture, canonical)]
    assert shapes[0] == shapes[1]


def test_canonical_drops_what_the_depth_leaves_no_place_for() -> None:
    info = describe("resnet20", SHAPE, CLASSES)
    given_ = Architecture(
        backbone="resnet20",
        depths=(1, 2, 0),
        exits=(ExitChoice(2), ExitChoice(4), ExitChoice(7)),
        widths=(("block0.conv", 16), ("block2.conv1", 3), ("block4.conv1", 8)),
    )
    canonical = info.canonical(given_)
    assert canonical.exits == (ExitChoice(4),)
    assert canonical.widths == (("block4.conv1", 8),)


def test_stages_and_branches_compose_to_forward() -> None:
    network = build(DEMO, SHAPE, CLASSES, seed=3).eval()
    x = torch.randn(2, *SHAPE)
    logits = network(x)
    assert len(network.stages) == len(network.branches) == 3
    for stage, branch, expected in zip(network.stages, network.branches, logits, strict=True):
        x = stage(x)
        assert torch.equal(branch(x), expected)


def test_layer_names_are_module_paths() -> None:
    network = build(DEMO, SHAPE, CLASSES, seed=0)
    assert layer_names(network)[:4] == ("block0.conv", "exit0.pool", "exit0.fc", "block1.conv1")
    assert layer_names(network)[-2:] == ("head.pool", "head.fc")
    assert network.get_submodule("exit2.conv").out_channels == 64


def test_weights_depend_on_seed_and_name_alone() -> None:
    one = build(DEMO, SHAPE, CLASSES, seed=7)
    two = build(Architecture(backbone="resnet8", exits=(ExitChoice(2, "conv_gap_fc"),)), SHAPE, CLASSES, seed=7)
    other = build(DEMO, SHAPE, CLASSES, seed=8)
    for name, value in two.state_dict().items():
        assert torch.equal(value, one.state_dict()[name])
    assert not torch.equal(one.state_dict()["head.fc.weight"], other.state_dict()["head.fc.weight"])


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    build(DEMO, SHAPE, CLASSES, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (Architecture(backbone="resnet8", exits=(ExitChoice(3),)), "mounting point 3; wanted one of 0, 1, 2"),
        (Architecture(backbone="resnet8", depths=(0,), exits=(ExitChoice(1),)), "mounting point 1; wanted one of 0, 2"),
        (Architecture(backbone="resnet8", exits=(ExitChoice(1, "fc"),)), "unknown exit branch 'fc'"),
        (Architecture(backbone="resnet8", depths=(2,)), "2 blocks of depth1; wanted 0 to 1"),
        (Architecture(backbone="resnet8", depths=(1, 1)), "2 depths; wanted one for each of 1"),
        (Architecture(backbone="resnet8", widths=(("block1.conv1", 17),)), "17 channels.*wanted 1 to 16"),
        (Architecture(backbone="resnet8", widths=(("block1.conv1", 0),)), "0 channels.*wanted 1 to 16"),
        (Architecture(backbone="resnet8", widths=(("block9.conv1", 4),)), "unknown width group 'block9.conv1'"),
        (Architecture(backbone="resnet8", kernels=(("block9.conv1", 3),)), "unknown layer with a choice of kernels"),
        (Architecture(backbone="resnet8", kernels=(("block1.conv1", 2),)), r"kernel 2 .*one of \(1, 3\)"),
        (Architecture(backbone="mobilenetv2", kernels=(("block7.dw", 4),)), r"kernel 4 .*one of \(3, 5, 7\)"),
    ],
)
def test_what_the_backbone_does_not_have_is_refused(architecture: Architecture, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(architecture, (1, 32, 32), CLASSES, seed=0)
