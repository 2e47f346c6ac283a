"""Quantizers and prepared networks: grids, gradients, initial steps, guards, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import AccelerationError, UserError
from offramp.ir.architecture import Architecture, ExitChoice, Precision
from offramp.nn.analog import AnalogSettings
from offramp.nn.network import EarlyExitNetwork, build
from offramp.nn.quantize import PreparedNetwork, calibrate, prepare
from offramp.nn.quantized_layers import QuantizedLayer
from offramp.nn.quantizers import StepQuantizer, WeightQuantizer, best_step, round_to_grid

SHAPE = (3, 16, 16)


def small(name: str = "resnet8") -> EarlyExitNetwork:
    return build(Architecture(backbone=name, exits=(ExitChoice(1),)), SHAPE, 5, seed=0)


def batches(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(32, *SHAPE, generator=generator) for _ in range(2)]


def calibrated(**how: object) -> PreparedNetwork:
    prepared = prepare(small(), **how)  # type: ignore[arg-type]
    calibrate(prepared, batches())
    return prepared.eval()


@given(st.floats(1e-3, 10), st.sampled_from([2, 4, 7, 8]), st.booleans(), st.integers(0, 1000))
def test_rounding_equals_numpy(step: float, bits: int, signed: bool, seed: int) -> None:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    x = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * step * high
    s = torch.tensor(step)
    wanted = np.clip(np.rint(x.numpy() * s.reciprocal().numpy()), low, high) * s.numpy()
    np.testing.assert_allclose(round_to_grid(x, s, low, high).numpy(), wanted, rtol=1e-6)


@given(st.integers(0, 1000), st.booleans())
def test_gradients_are_those_of_lsq(seed: int, per_channel: bool) -> None:
    """Against the definition written with autograd: round and clip pass the gradient straight (LSQ, eq. 3)."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(4, 3, 2, 2, generator=generator) * 8).requires_grad_()
    step = (torch.rand(4 if per_channel else 1, generator=generator) + 0.5).requires_grad_()
    other_x, other_step = x.detach().clone().requires_grad_(), step.detach().clone().requires_grad_()
    weights = torch.randn(x.shape, generator=generator)
    (round_to_grid(x, step.reshape((4, 1, 1, 1) if per_channel else ()), -8, 7) * weights).sum().backward()
    position = other_x / other_step.reshape(-1, 1, 1, 1)
    clipped = position.clamp(-8, 7)
    rounded = clipped + (clipped.round() - clipped).detach()
    (rounded * other_step.reshape(-1, 1, 1, 1) * weights).sum().backward()
    torch.testing.assert_close(x.grad, other_x.grad)
    torch.testing.assert_close(step.grad, other_step.grad, rtol=1e-3, atol=1e-3)


def test_gradients_do_not_depend_on_memory_format() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(2, 8, 4, 4, 4, generator=generator)
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        step = torch.tensor(0.3, requires_grad=True)
        (round_to_grid(x.contiguous(memory_format=layout), step, 0, 7) * weights).sum().backward()
        gradients.append(step.grad)
    torch.testing.assert_close(*gradients)


@given(st.integers(0, 100), st.sampled_from([1, 7, 127]))
@settings(max_examples=20)
def test_best_step_beats_the_step_that_clips_nothing(seed: int, high: int) -> None:
    values = torch.randn(3, 200, generator=torch.Generator().manual_seed(seed))

    def error(step: torch.Tensor) -> torch.Tensor:
        s = step[:, None]
        return ((values / s).round().clamp(-high, high) * s - values).square().mean(dim=1)

    widest = values.abs().amax(dim=1) / high
    assert (error(best_step(values, -high, high, per_channel=True)) <= error(widest) + 1e-9).all()


def test_ternary_weights_are_ternary_and_near_the_optimum_of_twn() -> None:
    """The squared error is within 5 % of the best over all thresholds and scales (Li & Liu 2016, eq. 3)."""
    weight = torch.randn(8, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    quantizer = WeightQuantizer(weight, 2)
    assert set(quantizer.integers(weight).unique().tolist()) == {-1.0, 0.0, 1.0}
    ours = (quantizer(weight) - weight).square().mean()
    best = torch.inf
    for threshold in torch.linspace(0.3, 1.2, 50).tolist():
        kept = weight.abs() > threshold
        alpha = weight.abs()[kept].mean()
        best = min(best, float((weight - weight.sign() * kept * alpha).square().mean()))
    assert ours <= 1.05 * best


@given(st.floats(-1e4, 1e4), st.sampled_from([None, 6.0]))
def test_steps_stay_positive_and_below_the_ceiling(log_step: float, ceiling: float | None) -> None:
    quantizer = StepQuantizer(8, signed=False, ceiling=ceiling)
    quantizer.log_step.data.fill_(log_step)
    assert 0 < float(quantizer.step.detach()) < np.inf
    assert ceiling is None or float(quantizer.step.detach()) * quantizer.high <= ceiling * (1 + 1e-6)
    quantizer.step.backward()
    assert quantizer.log_step.grad != 0


def test_every_tensor_lies_on_its_grid() -> None:
    prepared = calibrated()
    for name, layer in ((n.name, prepared.layer(n.name)) for s in prepared.stage_nodes for n in s.backbone):
        if layer.output is None:
            continue
        values: list[torch.Tensor] = []
        handle = layer.register_forward_hook(lambda _, __, y, values=values: values.append(y))
        prepared(batches(1)[0])
        handle.remove()
        q = values[0] / layer.output.step
        assert (q - q.round()).abs().max() < 1e-3, name
        assert q.min() >= layer.output.low - 1e-3
        assert q.max() <= layer.output.high + 1e-3


def test_eight_bits_change_little_and_two_bits_more() -> None:
    network, x = small().eval(), batches(2)[0]
    with torch.no_grad():
        wanted = network(x)[-1]
        errors = []
        for bits in (8, 4, 2):
            prepared = prepare(network, default=Precision(bits, 8))
            calibrate(prepared, batches())
            errors.append(float((prepared.eval()(x)[-1] - wanted).square().mean()))
    assert errors[0] < errors[1] < errors[2]


def test_evaluation_equals_training_without_batch_norm() -> None:
    """With folded norms both modes are one function, but for the rounding of the bias."""
    from offramp.nn.fold import fold_batchnorm

    prepared = prepare(fold_batchnorm(small().eval()))
    calibrate(prepared, batches())
    x = batches(1)[0]
    with torch.no_grad():
        for a, b in zip(prepared.train()(x), prepared.eval()(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0.05, atol=0.05 * float(a.abs().max()))


def test_a_dead_channel_keeps_its_bias() -> None:
    """A batch norm gain of 0 must not make a scale of 0 or a bias beyond 31 bits."""
    prepared = prepare(small())
    layer = prepared.layer("block1.conv1")
    assert isinstance(layer, QuantizedLayer)
    assert layer.norm is not None
    layer.norm.weight.data[0] = 0.0
    layer.norm.bias.data[0] = 3.0
    calibrate(prepared, batches())
    integers, scale, bias = layer.frozen()
    assert (integers[0] == 0).all()
    assert scale.min() > 0
    torch.testing.assert_close(bias[0], torch.tensor(3.0))
    assert (bias / (layer.input_step * scale)).abs().max() <= 2.0**31


def test_negative_gain_turns_the_sign_of_the_weights() -> None:
    prepared = calibrated()
    layer = prepared.layer("block1.conv1")
    assert isinstance(layer, QuantizedLayer)
    assert layer.norm is not None
    before = layer.frozen()[0]
    layer.norm.weight.data.neg_()
    torch.testing.assert_close(layer.frozen()[0], -before)


def test_precision_and_analog_reach_their_layers() -> None:
    prepared = calibrated(
        precision={"block1.conv1": Precision(4, 7)}, analog={"block2.conv2": AnalogSettings()}, default=Precision(8, 8)
    )
    assert prepared.bits["block1.conv1"] == (4, 7)
    assert prepared.bits["block2.conv2"] == (2, 8)
    assert prepared.bits["block0.conv"] == (8, 8)


def test_the_original_is_not_changed() -> None:
    network = small()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    calibrate(prepare(network), batches())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_refusals() -> None:
    network = small()
    with pytest.raises(UserError, match="unknown layer 'block9'"):
        prepare(network, {"block9": Precision()})
    with pytest.raises(AccelerationError, match="weight bits in"):
        prepare(network, default=Precision(3, 8))
    with pytest.raises(AccelerationError, match="activation bits in"):
        prepare(network, {"block1.conv1": Precision(8, 16)})
    with pytest.raises(AccelerationError, match="a convolution or a dense layer"):
        prepare(network, analog={next(n.name for n in network.nodes if n.op == "add"): AnalogSettings()})
