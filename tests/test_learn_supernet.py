"""Shared weights: what a step trains, that candidates are good without training of their own, seeds, rounding."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.data import Dataset, load_dataset
from offramp.ir.architecture import Architecture, ExitChoice, Precision
from offramp.learn.loss import ExitLoss
from offramp.learn.predict import accuracies, predict
from offramp.learn.supernet import Sandwich, SandwichLoss, rounded
from offramp.learn.train import fit
from offramp.nn.backbones import backbone
from offramp.nn.network import EarlyExitNetwork
from offramp.nn.quantize import calibrate, prepare
from offramp.nn.quantizers import best_step
from offramp.nn.shared import cut_out, supernet

SHAPE, CLASSES = (1, 8, 8), 10
GROUPS = {"block1.conv1": 16, "block2.conv1": 32, "block3.conv1": 64}
SMALLEST = Architecture(backbone="resnet8", widths=tuple((g, n // 2) for g, n in GROUPS.items()))
EXITS = (ExitChoice(1, "gap_fc"), ExitChoice(2, "conv_gap_fc"), ExitChoice(2, "gap_fc"))


def sample(rng: np.random.Generator) -> Architecture:
    """Any width between half and full, any bits of the inner layers."""
    widths = tuple((g, int(rng.integers(n // 2, n + 1))) for g, n in GROUPS.items())
    bits = tuple((g, Precision(int(rng.choice([2, 4, 8])), 8)) for g in GROUPS)
    return Architecture(backbone="resnet8", widths=widths, precision=bits)


def largest(seed: int = 0) -> EarlyExitNetwork:
    return supernet(backbone("resnet8", SHAPE, CLASSES), EXITS, seed=seed)


def objective(network: EarlyExitNetwork, rounded_from: int | None = None) -> SandwichLoss:
    return SandwichLoss(network, Sandwich(smallest=SMALLEST, sample=sample, rounded_from=rounded_from), seed=0)


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, *SHAPE, generator=generator), torch.arange(16) % CLASSES


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def rate_of(network: torch.nn.Module, data: Dataset) -> float:
    return float(accuracies(predict(network, data.val.x), data.val.y)[-1])


def cut(network: EarlyExitNetwork, architecture: Architecture, data: Dataset) -> float:
    """Accuracy of a candidate that was cut out, rounded and calibrated, never trained."""
    prepared = prepare(cut_out(network, architecture), dict(architecture.precision))
    calibrate(prepared, torch.split(torch.as_tensor(data.train.x), 256))
    return rate_of(prepared, data)


def test_candidates_are_good_without_training_of_their_own(digits: Dataset) -> None:
    """The point of it all: against plain training of the largest network, the smallest candidate gains much."""
    ternary = replace(SMALLEST, precision=tuple((g, Precision(2, 8)) for g in GROUPS))
    rates = {}
    for shared in (True, False):
        network = largest()
        steps = 8 * (len(digits.train) // 64)
        loss = objective(network, rounded_from=steps // 2) if shared else None
        fit(network, digits.train, epochs=8, seed=0, augmentation=digits.augmentation, objective=loss)
        rates[shared] = [rate_of(network, digits), cut(network, SMALLEST, digits), cut(network, ternary, digits)]
    assert rates[True][0] > 0.96
    assert rates[True][1] > 0.95
    assert rates[True][2] > 0.85
    assert rates[True][1] > rates[False][1] + 0.05
    assert rates[True][2] > rates[False][2] + 0.05


def test_all_follow_the_teacher_where_there_is_one() -> None:
    network, (x, y) = largest(), batch()
    whole, loss = Sandwich(smallest=SMALLEST, sample=sample), ExitLoss(distill=1.0)
    sure, unsure = (supernet(backbone("resnet8", SHAPE, CLASSES), (), seed=5).eval() for _ in range(2))
    unsure.get_parameter("head.fc.weight").data.zero_()
    losses = [SandwichLoss(network, whole, seed=0, loss=loss, teacher=t)(x, y, 0)[0] for t in (sure, unsure)]
    assert float(losses[0].detach()) != pytest.approx(float(losses[1].detach()))
    losses[0].backward()
    assert all(p.grad is None for p in sure.parameters())


def test_without_a_sandwich_a_step_is_the_largest_network() -> None:
    """The loss of its drawn branches and its end; every branch has its turn."""
    network, (x, y) = largest(), batch()
    network.train()
    alone = SandwichLoss(network, None, seed=0)
    total, logits = alone(x, y, 0)
    assert len(logits) == 3
    torch.testing.assert_close(total, ExitLoss()(logits, y))
    total.backward()
    reached = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    drawn = {network.branch_name(e) for e in EXITS} & reached
    assert len(drawn) == 2 and {"block0", "block1", "block2", "block3", "head"} <= reached
    for step in range(1, 8):
        alone(x, y, step)[0].backward()
    assert all(p.grad is not None for p in network.parameters())


def test_a_candidates_logits_are_those_of_the_network_cut_out() -> None:
    network, (x, _) = largest(), batch()
    candidate = replace(sample(np.random.default_rng(1)), exits=(ExitChoice(2, "gap_fc"),))
    ours = objective(network)._logits(candidate, x)
    for a, b in zip(ours, cut_out(network, candidate).train()(x), strict=True):
        torch.testing.assert_close(a, b)


def test_only_the_first_channels_learn_from_a_narrow_candidate() -> None:
    network, (x, y) = largest(), batch()
    loss = ExitLoss()(objective(network)._logits(SMALLEST, x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = network.get_parameter("block2.conv1.weight").grad
    assert gradient is not None
    assert gradient[:16].abs().sum() > 0
    assert (gradient[16:] == 0).all()


def test_every_step_reaches_every_weight_of_the_backbone_and_one_branch_kind_per_place() -> None:
    network, (x, y) = largest(), batch()
    seen = set()
    for step in range(6):
        network.zero_grad()
        loss, logits = objective(network)(x, y, step)
        loss.backward()
        assert len(logits) == 3
        trained = {n.split(".")[0] for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
        assert {"block0", "block1", "block2", "block3", "head", "exit1"} <= trained
        kinds = {n for n in trained if n.startswith("exit2")}
        seen |= kinds
    assert seen == {"exit2_gap_fc", "exit2_conv_gap_fc"}


def test_candidates_follow_from_seed_and_step() -> None:
    network, (x, y) = largest(), batch()
    losses = [float(objective(network)(x, y, step)[0].detach()) for step in (3, 3, 4)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_statistics_are_those_of_the_largest_network() -> None:
    network, (x, y) = largest(), batch()
    twin = largest().train()
    objective(network)(x, y, 0)
    twin(x)
    torch.testing.assert_close(
        network.get_buffer("block3.bn1.running_mean"), twin.get_buffer("block3.bn1.running_mean")
    )


@given(st.sampled_from([2, 4, 8]), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_rounding_is_on_a_grid_passes_gradients_and_is_nearly_the_best(bits: int, seed: int) -> None:
    weight = torch.randn(6, 40, 3, 3, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    y, high = rounded(weight, bits), (1 << bits - 1) - 1
    assert all(len(row.unique()) <= 2 * high + 1 for row in y)
    y.sum().backward()
    assert weight.grad is not None
    assert weight.grad.mean() > 0.6
    plain = weight.detach()
    step = best_step(plain, -high, high, per_channel=True).reshape(-1, 1, 1, 1)
    best = ((plain / step).round().clamp(-high, high) * step - plain).square().mean()
    assert (y.detach() - plain).square().mean() <= 1.3 * best
