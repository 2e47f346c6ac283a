"""The training loop: it learns real digits, repeats itself by seed, resumes, and fails with a reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from offramp.data import Augmentation, Dataset, Split, load_dataset
from offramp.errors import FormatError, TrainingError, UserError
from offramp.ir.architecture import Architecture, ExitChoice
from offramp.learn.loss import ExitLoss
from offramp.learn.onednn import PixelsFirst
from offramp.learn.predict import accuracies, predict
from offramp.learn.train import Optimizer, TrainConfig, fit, multiplies_bfloat16, rate_at
from offramp.nn.network import EarlyExitNetwork, build
from offramp.nn.quantize import calibrate, prepare


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def network(seed: int = 0) -> EarlyExitNetwork:
    return build(Architecture(backbone="resnet8", exits=(ExitChoice(1),)), (1, 8, 8), 10, seed=seed)


def few(data: Dataset, n: int = 128) -> Split:
    return Split(data.train.x[:n], data.train.y[:n])


def weights_of(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items()}


def test_the_deepest_exit_counts_most() -> None:
    logits = [torch.randn(8, 10, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    y, plain = torch.arange(8), ExitLoss(distill=0.0)
    singles = [float(F.cross_entropy(row, y)) for row in logits]
    assert float(plain(logits, y)) == pytest.approx(singles[0] / 6 + singles[1] / 6 + singles[2] * 2 / 3)
    assert float(plain(logits[:1], y)) == pytest.approx(singles[0])


def test_all_exits_learn_the_digits(digits: Dataset) -> None:
    net = network()
    history = fit(net, digits.train, epochs=8, seed=0, augmentation=digits.augmentation)
    assert [r.epoch for r in history.epochs] == list(range(1, 9))
    assert history.epochs[-1].loss < history.epochs[0].loss
    rates = accuracies(predict(net, digits.val.x), digits.val.y)
    assert rates[0] > 0.4
    assert rates[1] > 0.97
    assert not net.training


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_same_seed_same_weights_other_seed_other_weights(digits: Dataset, optimizer: Optimizer) -> None:
    config = TrainConfig(optimizer=optimizer, learning_rate=0.01)
    results = []
    for seed in (3, 3, 4):
        net = network()
        fit(
            net,
            few(digits),
            epochs=2,
            seed=seed,
            config=config,
            augmentation=Augmentation(flip=True, shift=(1, 1), cutout=3),
        )
        results.append(weights_of(net))
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert not all(torch.equal(results[0][k], results[2][k]) for k in results[0])


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_an_interrupted_run_ends_where_the_whole_one_does(
    digits: Dataset, tmp_path: Path, rounded: bool, optimizer: Optimizer
) -> None:
    config, train = TrainConfig(optimizer=optimizer, learning_rate=0.01), few(digits)

    def fresh() -> torch.nn.Module:
        if not rounded:
            return network()
        net = prepare(network())
        calibrate(net, [torch.as_tensor(train.x)])
        return net

    whole = fresh()
    fit(whole, train, epochs=3, seed=0, config=config)

    class Stop(Exception):
        pass

    def stop(record: object) -> None:
        if getattr(record, "epoch") == 2:  # noqa: B009
            raise Stop("enough")

    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop, match="enough"):
        fit(fresh(), train, epochs=3, seed=0, config=config, checkpoint=path, on_epoch=stop)
    again = fresh()
    history = fit(again, train, epochs=3, seed=0, config=config, checkpoint=path)
    assert [r.epoch for r in history.epochs] == [1, 2, 3]
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_a_branch_may_get_its_first_gradient_later_than_the_others(digits: Dataset, optimizer: Optimizer) -> None:
    net, before = network(), weights_of(network())

    def deepest_first(x: torch.Tensor, y: torch.Tensor, step: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        logits = net(x)
        return ExitLoss()(logits[-1:] if step == 0 else logits, y), logits

    fit(net, few(digits), epochs=2, seed=0, config=TrainConfig(optimizer=optimizer), objective=deepest_first)
    assert all(not torch.equal(p, before[name]) for name, p in net.named_parameters())


@pytest.mark.parametrize("allowed", [True, False])
def test_large_samples_train_in_bfloat16_where_the_processor_multiplies_it(allowed: bool) -> None:
    seen = []
    net = build(Architecture(backbone="resnet8"), (3, 32, 32), 10, seed=0)
    net.get_submodule("block0.relu").register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    x = np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype(np.float32)
    fit(net, Split(x, np.arange(8)), epochs=1, seed=0, config=TrainConfig(batch=8, bfloat16=allowed))
    low = allowed and multiplies_bfloat16(torch.device("cpu"))
    assert seen[0] is (torch.bfloat16 if low else torch.float32)
    assert seen[-1] is torch.float32  # statistics of batch norms are measured in full
    assert all(p.dtype is torch.float32 for p in net.parameters())


def test_a_prepared_network_multiplies_in_bfloat16_and_rounds_in_float32() -> None:
    net = prepare(build(Architecture(backbone="resnet8"), (3, 32, 32), 10, seed=0))
    rounded = []
    net.layer("block1.conv1").register_forward_hook(
        lambda module, given, made: rounded.append((given[0], made.detach() / module.output.step.detach()))
    )
    x = np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype(np.float32)
    calibrate(net, [torch.as_tensor(x)])
    rounded.clear()
    with Convolutions() as computed:
        fit(net, Split(x, np.arange(8)), epochs=1, seed=0, config=TrainConfig(batch=8))
    low = torch.bfloat16 if multiplies_bfloat16(torch.device("cpu")) else torch.float32
    assert set(computed.types) == {low}
    given, position = rounded[0]
    assert given.dtype is position.dtype is torch.float32
    assert float((position - position.round()).abs().max()) < 1e-3  # bfloat16 has no 255 steps


class Convolutions(TorchDispatchMode):
    """Remembers taps, stride and number type of every convolution that is computed for a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default and torch.is_grad_enabled():
            self.seen.append((tuple(args[1].shape[2:]), tuple(args[3])))
            self.types.append(args[1].dtype)
        return func(*args, **(kwargs or {}))


def test_a_processor_never_sees_a_stride_with_one_tap(digits: Dataset) -> None:
    """There oneDNN's weight gradient writes where it must not: see `learn.onednn`."""
    network = build(Architecture(backbone="resnet8"), digits.input_shape, digits.classes, seed=0)
    few = Split(digits.train.x[:64], digits.train.y[:64])
    with Convolutions() as computed:
        fit(network, few, epochs=1, seed=0)
    assert ((3, 3), (2, 2)) in computed.seen
    assert not [stride for taps, stride in computed.seen if taps == (1, 1) and stride != (1, 1)]


@pytest.mark.parametrize("stride", [(2, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize("options", [{}, {"padding": "valid"}, {"padding": 1}, {"groups": 2}])
def test_pixels_first_is_the_same_convolution(stride: tuple[int, int], options: dict[str, Any]) -> None:
    x, weight = torch.randn(2, 4, 7, 9).double(), torch.randn(6, 4 // options.get("groups", 1), 1, 1).double()
    wanted = F.conv2d(x, weight, stride=stride, **options)
    with PixelsFirst():
        assert torch.equal(F.conv2d(x, weight, stride=stride, **options), wanted)


def test_a_checkpoint_of_another_run_is_refused(digits: Dataset, tmp_path: Path) -> None:
    path, train = tmp_path / "run.safetensors", few(digits)
    fit(network(), train, epochs=1, seed=0, checkpoint=path)
    with pytest.raises(FormatError, match="another file name"):
        fit(network(), train, epochs=1, seed=1, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FormatError, match="wanted a safetensors file"):
        fit(network(), train, epochs=1, seed=0, checkpoint=path)


def test_a_loss_that_is_not_finite_ends_with_epoch_and_step(digits: Dataset) -> None:
    x = digits.train.x[:128].copy()
    x[100] = np.nan
    with pytest.raises(TrainingError, match=r"epoch 1, step \d of 2: the loss is nan"):
        fit(network(), Split(x, digits.train.y[:128]), epochs=1, seed=0)


def test_a_teacher_is_followed(digits: Dataset) -> None:
    teacher, train = network(), digits.train
    fit(teacher, train, epochs=6, seed=0)
    agreement = []
    for distill in (0.0, 1.0):
        student = network(seed=1)
        loss = ExitLoss(distill=distill, temperature=2.0)
        fit(student, few(digits, 512), epochs=4, seed=0, config=TrainConfig(loss=loss), teacher=teacher)
        difference = predict(student, digits.val.x)[-1] - predict(teacher, digits.val.x)[-1]
        agreement.append(float(np.square(difference).mean()))
    assert agreement[1] < agreement[0]


def test_the_rate_rises_and_falls() -> None:
    rates = [rate_at(s, 100, 0.2) for s in range(100)]
    assert max(rates) == rates[19] == 1.0
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 0.01


def test_a_larger_batch_raises_the_rate_with_its_root() -> None:
    usual = TrainConfig(batch=64, learning_rate=0.1)
    assert usual.at_batch(None) is usual
    assert usual.at_batch(64) is usual
    assert usual.at_batch(256) == TrainConfig(batch=256, learning_rate=0.2)


def test_settings_that_cannot_train_are_refused() -> None:
    with pytest.raises(UserError, match="learning_rate > 0"):
        TrainConfig(learning_rate=0)
    with pytest.raises(UserError, match="distill in"):
        ExitLoss(distill=2)
    with pytest.raises(UserError, match="one positive"):
        ExitLoss(weights=(0.0, 0.0))
    logits = [torch.zeros(2, 3)] * 2
    with pytest.raises(UserError, match="2, one per exit"):
        ExitLoss(weights=(1.0,))(logits, torch.tensor([0, 1]))


def test_exit_weights_scale_the_loss_of_their_exit() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, y = list(torch.randn(3, 8, 5, generator=generator)), torch.arange(8) % 5
    plain = ExitLoss(distill=0.0)
    singles = [float(replace(plain, weights=w)(logits, y)) for w in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    for one, z in zip(singles, logits, strict=True):
        assert one == pytest.approx(float(torch.nn.functional.cross_entropy(z, y)), rel=1e-5)
    mixed = float(replace(plain, weights=(1, 1, 2))(logits, y))
    assert mixed == pytest.approx(0.25 * singles[0] + 0.25 * singles[1] + 0.5 * singles[2], rel=1e-5)


def test_a_student_that_equals_the_deepest_exit_has_no_distillation_loss() -> None:
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0])
    loss = ExitLoss(distill=1.0, weights=(1.0, 0.0))
    assert float(loss([z, z], y)) == pytest.approx(0.0, abs=1e-6)
    assert float(loss([z + torch.tensor([1.0, 0, 0]), z], y)) > 0.01


def test_batch_norms_end_with_the_statistics_of_plain_samples(digits: Dataset) -> None:
    """The first norm's mean is that of what reaches it from training samples that nothing has changed."""
    net, train = network(), few(digits, 256)
    fit(net, train, epochs=1, seed=0, augmentation=Augmentation(shift=(4, 4)))
    seen: list[torch.Tensor] = []
    norm = next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    predict(net, train.x)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, torch.cat(seen).mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
