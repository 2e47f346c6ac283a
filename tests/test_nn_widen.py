"""Widening: more channels to choose from, while the network that was brought stays the reference."""

import math

import pytest
import torch
from torch import nn

from nn_networks import CLASSES, SHAPE, SMALL
from offramp.errors import UserError
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.architecture import Architecture, ExitChoice
from offramp.nn.backbones import Backbone, backbone
from offramp.nn.describe import describe
from offramp.nn.importer import import_module
from offramp.nn.lower import lower
from offramp.nn.network import build
from offramp.nn.shared import cut_out, supernet
from offramp.nn.widen import widen
from offramp.search.derive import derive_space


def reference_of(full: Backbone) -> Architecture:
    return Architecture(backbone=full.name, widths=full.reference)


@pytest.mark.parametrize("name", [*SMALL, "mobilenetv2"])
@pytest.mark.parametrize("factor", [1.25, 2.0])
def test_every_group_has_that_many_times_its_channels(name: str, factor: float) -> None:
    before, after = describe(name, SHAPE, CLASSES), describe(widen(backbone(name, SHAPE, CLASSES), factor))
    assert [g.name for g in after.width_groups] == [g.name for g in before.width_groups]
    for old, new in zip(before.width_groups, after.width_groups, strict=True):
        assert new.channels == math.ceil(old.channels * factor)
    assert dict(after.reference) == {g.name: g.channels for g in before.width_groups}


@pytest.mark.parametrize("name", [*SMALL, "mobilenetv2"])
def test_the_reference_is_the_network_that_was_brought(name: str) -> None:
    plain = backbone(name, SHAPE, CLASSES)
    wide = widen(plain, 1.5)
    one = build(Architecture(backbone=name), SHAPE, CLASSES, seed=0)
    other = build(reference_of(wide), SHAPE, CLASSES, seed=0, full=wide)
    assert lower(one).layers == lower(other).layers
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, *SHAPE)
    assert torch.equal(one.eval()(x)[-1], other.eval()(x)[-1])


def test_the_reference_is_cut_out_of_wide_shared_weights() -> None:
    wide = widen(backbone("resnet8", SHAPE, CLASSES), 2)
    parent = supernet(wide, [ExitChoice(1)], seed=0)
    assert cut_out(parent, reference_of(wide)).get_parameter("block0.conv.weight").shape[0] == 16


def test_one_changes_nothing_and_twice_keeps_the_first_reference() -> None:
    plain = backbone("resnet8", SHAPE, CLASSES)
    assert widen(plain, 1) is plain
    assert widen(widen(plain, 1.5), 2).reference == widen(plain, 2).reference


def test_the_space_reaches_beyond_the_reference_and_below_it() -> None:
    chip = load_accelerator("diana")
    plain = dict(derive_space(describe("resnet8", (3, 32, 32), 10), chip).widths)
    wide = dict(derive_space(describe(widen(backbone("resnet8", (3, 32, 32), 10), 2)), chip).widths)
    for group, choices in wide.items():
        assert max(choices) == 2 * max(plain[group])
        assert min(choices) <= max(plain[group]) / 2


@pytest.mark.parametrize("factor", [0.5, 0.0, -1.0, 17, 1e9, math.nan, math.inf])
def test_a_factor_that_does_not_widen_is_refused(factor: float) -> None:
    with pytest.raises(UserError, match=r"a widening of .*; wanted a factor of 1 to 16; write --widen 2"):
        widen(backbone("resnet8", SHAPE, CLASSES), factor)


def test_a_network_with_weights_is_refused() -> None:
    brought = import_module(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, CLASSES)), SHAPE)
    with pytest.raises(UserError, match="which brings weights; wanted a backbone without"):
        widen(brought, 2)
