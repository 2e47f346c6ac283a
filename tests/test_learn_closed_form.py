"""Exits in closed form: the discriminant of normal classes, its shrinkage, and what stays untouched."""

import numpy as np
import torch

from offramp.data import load_dataset
from offramp.ir.architecture import ExitChoice
from offramp.learn.closed_form import discriminant, solve_linear_exits
from offramp.learn.predict import accuracies, predict
from offramp.learn.train import fit
from offramp.nn.backbones import backbone
from offramp.nn.freeze import freeze_backbone, freeze_linear_branches, linear_branches
from offramp.nn.network import EarlyExitNetwork
from offramp.nn.quantize import calibrate, prepare
from offramp.nn.shared import supernet

EXITS = (
    ExitChoice(0, "dsconv_gap_fc"),
    ExitChoice(1, "gap_fc"),
    ExitChoice(1, "maxpool_2fc"),
    ExitChoice(2, "avgpool_fc"),
)


def normal_classes(samples: int, features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    means, y = np.random.default_rng(0).normal(0, 1.2, (4, features)), rng.integers(0, 4, samples)
    return means[y] + rng.normal(0, 1, (samples, features)), y


def accuracy(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float:
    return float(((x @ weight.T + bias).argmax(axis=1) == y).mean())


def test_many_samples_give_the_best_classifier_there_is() -> None:
    """Equal round normal classes: nearest mean is optimal."""
    x, y = normal_classes(4000, 5, seed=1)
    means = np.stack([x[y == k].mean(axis=0) for k in range(4)])
    nearest = ((x[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    weight, bias = discriminant(x, np.eye(4)[y], y, seed=0)
    assert weight.shape == (4, 5) and bias.shape == (4,)
    assert abs(accuracy(x, y, weight, bias) - float((nearest == y).mean())) < 0.01


def test_units_and_offsets_of_features_do_not_matter() -> None:
    x, y = normal_classes(300, 6, seed=2)
    units, offsets = np.logspace(-2, 2, 6), np.arange(6.0)
    plain, moved = discriminant(x, np.eye(4)[y], y, seed=0), discriminant(x * units + offsets, np.eye(4)[y], y, seed=0)
    first, second = x @ plain[0].T + plain[1], (x * units + offsets) @ moved[0].T + moved[1]
    assert np.mean(first.argmax(axis=1) == second.argmax(axis=1)) > 0.97


def test_fewer_samples_than_features_are_enough() -> None:
    x, y = normal_classes(60, 200, seed=3)
    x[:, 7] = 1.0  # a feature that says nothing
    weight, bias = discriminant(x, np.eye(4)[y], y, seed=0)
    new, answers = normal_classes(500, 200, seed=4)
    assert np.isfinite(weight).all() and np.isfinite(bias).all()
    new[:, 7] = 1.0
    assert accuracy(new, answers, weight, bias) > 0.9


def test_shares_move_the_means() -> None:
    """A class that no sample carries the label of still gets a place from the shares."""
    x, y = normal_classes(400, 3, seed=5)
    shares = np.eye(5)[y] * 0.9
    shares[:, 4] = 0.1
    weight, bias = discriminant(x, shares, y, seed=0)
    np.testing.assert_allclose(weight[4] @ x.mean(axis=0) + bias[4], np.log(0.1), atol=0.2)


def test_solved_exits_are_better_than_chance_and_held() -> None:
    data = load_dataset("digits", seed=0, subset=400)
    network = supernet(backbone("resnet8", (1, 8, 8), 10), EXITS, seed=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    solve_linear_exits(network, data.train, seed=0)
    changed = {n.split(".")[0] for n, t in network.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {network.branch_name(EXITS[1]), network.branch_name(EXITS[3])}
    found = dict(zip(network.exits, accuracies(predict(network, data.val.x), data.val.y), strict=False))
    assert found[EXITS[1]] > 0.4 and found[EXITS[3]] > 0.7
    assert not any(p.requires_grad for e in (EXITS[1], EXITS[3]) for p in branch_parameters(network, e))
    assert all(p.requires_grad for e in (EXITS[0], EXITS[2]) for p in branch_parameters(network, e))


def branch_parameters(network: EarlyExitNetwork, choice: ExitChoice) -> list[torch.nn.Parameter]:
    return list(network.get_submodule(network.branch_name(choice)).parameters())


def test_quantized_they_are_held_too() -> None:
    data = load_dataset("digits", seed=0, subset=200)
    full = backbone("resnet8", (1, 8, 8), 10)
    network = prepare(supernet(full, EXITS[1:2], seed=0))
    calibrate(network, [torch.as_tensor(data.train.x)])
    freeze_backbone(network)
    assert [branch[-1].name for branch in linear_branches(network)] == ["exit1.fc"]
    assert any(p.requires_grad for p in network.parameters())
    freeze_linear_branches(network)
    assert not any(p.requires_grad for p in network.parameters())


def test_the_others_learn_beside_them() -> None:
    data = load_dataset("digits", seed=0, subset=200)
    network = supernet(backbone("resnet8", (1, 8, 8), 10), EXITS, seed=0)
    freeze_backbone(network)
    solve_linear_exits(network, data.train, seed=0)
    held = network.get_parameter(f"{network.branch_name(EXITS[1])}.fc.weight").clone()
    other = network.get_parameter(f"{network.branch_name(EXITS[0])}.fc.weight").clone()
    fit(network, data.train, epochs=1, seed=0)
    assert torch.equal(network.get_parameter(f"{network.branch_name(EXITS[1])}.fc.weight"), held)
    assert not torch.equal(network.get_parameter(f"{network.branch_name(EXITS[0])}.fc.weight"), other)
