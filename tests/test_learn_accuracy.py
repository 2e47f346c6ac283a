"""The accuracy laws of quantization, on real data: 8 bits cost at most one point, ternary and analog layers train."""

import os
from pathlib import Path

import pytest
import torch

from offramp.data import Dataset, Split, load_dataset
from offramp.ir.architecture import Architecture, ExitChoice, Precision
from offramp.learn.predict import accuracies, predict
from offramp.learn.train import TrainConfig, fit
from offramp.nn.analog import AnalogSettings
from offramp.nn.fold import fold_batchnorm
from offramp.nn.network import EarlyExitNetwork, build
from offramp.nn.quantize import PreparedNetwork, calibrate, prepare

TUNE = TrainConfig(learning_rate=5e-4, warmup=0.1)
CIFAR = Path(os.environ.get("OFFRAMP_SHARED") or Path(__file__).parents[2] / "shared") / "data" / "cifar10"


def rate(network: torch.nn.Module, split: Split) -> float:
    return float(accuracies(predict(network, split.x), split.y)[-1])


def tuned(prepared: PreparedNetwork, data: Dataset, epochs: int) -> PreparedNetwork:
    calibrate(prepared, torch.split(torch.as_tensor(data.train.x[:1024]), 256))
    fit(prepared, data.train, epochs=epochs, seed=1, config=TUNE, augmentation=data.augmentation)
    return prepared


def inner(network: EarlyExitNetwork) -> list[str]:
    """Convolutions but the first."""
    return [n.name for n in network.nodes if n.op == "conv"][1:]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def plain(digits: Dataset) -> EarlyExitNetwork:
    architecture = Architecture(backbone="resnet8", exits=(ExitChoice(2),))
    network = build(architecture, digits.input_shape, digits.classes, seed=0)
    fit(network, digits.train, epochs=12, seed=0, augmentation=digits.augmentation)
    assert rate(network, digits.val) > 0.97
    return network


@pytest.mark.parametrize("folded", [False, True])
def test_eight_bits_are_within_one_point_of_float_on_digits(
    digits: Dataset, plain: EarlyExitNetwork, folded: bool
) -> None:
    prepared = prepare(fold_batchnorm(plain) if folded else plain)
    calibrate(prepared, [torch.as_tensor(digits.train.x[:512])])
    untrained = rate(prepared, digits.val)
    assert untrained >= rate(plain, digits.val) - 0.02
    assert rate(tuned(prepared, digits, 4), digits.val) >= rate(plain, digits.val) - 0.01


def test_ternary_and_mixed_networks_train(digits: Dataset, plain: EarlyExitNetwork) -> None:
    layers = inner(plain)
    mixed = {n: Precision((2, 4, 8)[i % 3], (4, 7, 8)[i % 3]) for i, n in enumerate(layers)}
    for precision in (dict.fromkeys(layers, Precision(2, 7)), mixed):
        assert rate(tuned(prepare(plain, precision), digits, 8), digits.val) >= rate(plain, digits.val) - 0.02


def test_analog_layers_train_with_their_noise(digits: Dataset, plain: EarlyExitNetwork) -> None:
    analog = dict.fromkeys(inner(plain), AnalogSettings(read_noise=0.5))
    prepared = prepare(plain, default=Precision(8, 7), analog=analog)
    assert rate(tuned(prepared, digits, 8), digits.val) >= rate(plain, digits.val) - 0.02


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not CIFAR.is_dir(), reason="needs CIFAR-10 in the shared data folder (OFFRAMP_SHARED)")
def test_eight_bits_are_within_one_point_of_float_on_a_part_of_cifar10() -> None:
    data = load_dataset("cifar10", data_dir=CIFAR, subset=10_000, val_fraction=0.3)
    network = build(Architecture(backbone="resnet8"), data.input_shape, data.classes, seed=0)
    fit(network, data.train, epochs=10, seed=0, augmentation=data.augmentation)
    wanted = rate(network, data.val)
    assert wanted > 0.55
    assert rate(tuned(prepare(network), data, 2), data.val) >= wanted - 0.01
