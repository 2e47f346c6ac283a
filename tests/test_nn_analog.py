"""Analog arrays: blocks, converters, noise, gradients; the limits in which an array is an exact product."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import AccelerationError
from offramp.ir.architecture import Architecture, Precision
from offramp.learn.predict import predict
from offramp.nn.analog import AnalogArray, AnalogSettings, NoiseSource
from offramp.nn.network import build
from offramp.nn.quantize import PreparedNetwork, calibrate, prepare
from offramp.nn.quantized_layers import QuantizedLayer
from offramp.nn.quantizers import StepQuantizer

SHAPE = (3, 16, 16)
LAYER = "block3.conv2"


def batch(seed: int, n: int = 32) -> torch.Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def analog_network(settings: AnalogSettings, seed: int = 0) -> PreparedNetwork:
    network = build(Architecture(backbone="resnet8"), SHAPE, 10, seed=0)
    prepared = prepare(network, {LAYER: Precision(8, 8)}, analog={LAYER: settings}, noise_seed=seed)
    calibrate(prepared, [batch(0), batch(1)])
    return prepared.eval()


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def make_array(settings: AnalogSettings, fan_in: tuple[int, int, int], adc_step: float) -> AnalogArray:
    source = StepQuantizer(8, signed=True)
    array = AnalogArray(settings, fan_in, source, NoiseSource(0), "layer")
    array.adc.log_step.data.fill_(adc_step).log_()
    return array


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_blocks_are_read_one_by_one_and_added(channels: int, rows: int, seed: int) -> None:
    """Against the definition in `ir.quantized`, on integers, with an ADC step of 2 and 6 bits."""
    array = make_array(AnalogSettings(rows=rows, input_bits=8), (channels, 1, 1), 2.0)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-20, 21, (5, channels), generator=generator).float()
    w = torch.randint(-1, 2, (3, channels), generator=generator).float()
    wanted = torch.zeros(5, 3)
    for start in range(0, channels, rows):
        partial = x[:, start : start + rows] @ w[:, start : start + rows].T
        wanted += (partial / 2).round().clamp(-32, 31) * 2
    torch.testing.assert_close(array(x, w, linear), wanted)


def test_a_wide_enough_array_with_a_fine_adc_is_an_exact_product() -> None:
    array = make_array(AnalogSettings(rows=64, input_bits=8, adc_bits=16), (64, 1, 1), 1.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-127, 128, (8, 64), generator=generator).float()
    w = torch.randint(-1, 2, (16, 64), generator=generator).float()
    torch.testing.assert_close(array(x, w, linear), x @ w.T)


def test_the_dac_drops_the_last_bit_and_rounds_halves_to_even() -> None:
    array = make_array(AnalogSettings(rows=8, input_bits=7, adc_bits=16), (1, 1, 1), 1.0)
    x = torch.tensor([[1.0], [2.0], [3.0], [5.0], [127.0], [-128.0]])
    y = array(x, torch.ones(1, 1), linear).flatten()
    assert y.tolist() == [0.0, 2.0, 4.0, 4.0, 126.0, -128.0]


def test_weights_are_ternary_whatever_the_precision_asks() -> None:
    prepared = analog_network(AnalogSettings())
    layer = prepared.layer(LAYER)
    assert isinstance(layer, QuantizedLayer)
    assert prepared.bits[LAYER][0] == 2
    assert set(layer.frozen()[0].unique().tolist()) <= {-1.0, 0.0, 1.0}
    numbers = layer.array.frozen() if layer.array else None
    assert numbers is not None
    assert (numbers.input.bits, numbers.adc.bits, numbers.rows) == (7, 6, 1152)


def test_noise_is_there_in_training_and_evaluation_and_repeats_with_its_seed() -> None:
    prepared, x = analog_network(AnalogSettings(read_noise=1.0)), batch(2)
    quiet = analog_network(AnalogSettings(read_noise=0.0))
    for mode in (True, False):
        prepared.train(mode)
        outputs = []
        for seed in (1, 1, 2):
            prepared.noise.seed(seed)
            with torch.no_grad():
                outputs.append(prepared(x)[0])
        assert torch.equal(outputs[0], outputs[1])
        assert not torch.equal(outputs[0], outputs[2])
    one, other = (predict(prepared, x.numpy(), noise_seed=s) for s in (0, 1))
    assert (predict(prepared, x.numpy(), noise_seed=0) == one).all()
    assert not (one == other).all()
    assert (predict(quiet, x.numpy(), noise_seed=0) == predict(quiet, x.numpy(), noise_seed=1)).all()


def test_noise_has_the_deviation_asked_for() -> None:
    array = make_array(AnalogSettings(rows=4, input_bits=8, adc_bits=16, read_noise=3.0), (4, 1, 1), 0.01)
    y = array(torch.zeros(20000, 4), torch.ones(1, 4), linear).detach()
    assert float(y.mean()) == pytest.approx(0.0, abs=0.001)
    assert float(y.std()) == pytest.approx(0.03, rel=0.03)


def test_gradients_reach_weights_steps_and_inputs() -> None:
    prepared = analog_network(AnalogSettings(read_noise=0.5)).train()
    torch.stack(prepared(batch(3))).square().sum().backward()
    layer = prepared.layer(LAYER)
    assert isinstance(layer, QuantizedLayer)
    assert layer.array is not None
    for tensor in (layer.weight, layer.weight_quantizer.log_step, layer.array.adc.log_step, prepared.input.log_step):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


def test_refusals() -> None:
    network = build(Architecture(backbone="mobilenetv1"), (3, 32, 32), 10, seed=0)
    depthwise = next(n.name for n in network.nodes if n.name.endswith("dw"))
    with pytest.raises(AccelerationError, match=r"groups on an analog array.*groups = 1, or a digital core"):
        prepare(network, analog={depthwise: AnalogSettings()})
    with pytest.raises(AccelerationError, match=r"layer block0.conv: a filter of 3x3 for an array of 8 rows"):
        prepare(network, analog={"block0.conv": AnalogSettings(rows=8)})
    with pytest.raises(AccelerationError, match="read_noise >= 0"):
        AnalogSettings(read_noise=-1.0)
