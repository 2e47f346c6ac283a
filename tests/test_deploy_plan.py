"""Laws of the integer plan: fixed point equals real arithmetic, clips, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_networks import Maker, inputs_for, random_network, resnet8
from offramp.deploy.plan import FixedPoint, fit_fixed_point, make_plan
from offramp.deploy.reference import Arithmetic, evaluate, quantize, rescale
from offramp.errors import DataError, FormatError
from offramp.ir.quantized import Activation, Quantizer


def one(ratio: float, bound: int, offset: float = 0.0) -> FixedPoint:
    return fit_fixed_point(np.array([ratio]), np.array([bound]), np.array([offset]))


@given(
    ratio=st.floats(1e-9, 1e3),
    acc=st.integers(-(2**30), 2**30),
    offset=st.floats(-1e4, 1e4),
)
def test_fixed_point_is_within_a_hair_of_the_real_product(ratio: float, acc: int, offset: float) -> None:
    fixed = one(ratio, 2**30, offset)
    got = int(rescale(np.array([[acc]]), fixed, Arithmetic.FIXED)[0, 0])
    exact = acc * ratio + offset
    assert abs(got - exact) <= 0.5 + abs(exact) * 2.0**-28 + 1e-6
    assert 0 < fixed.multiplier[0] < 2**31 and 1 <= fixed.shift[0] <= 61


@given(acc=st.integers(-(2**24), 2**24), power=st.integers(1, 12))
def test_ties_go_to_even_as_rint_does(acc: int, power: int) -> None:
    fixed = one(2.0**-power, 2**24)
    got = int(rescale(np.array([[acc]]), fixed, Arithmetic.FIXED)[0, 0])
    assert got == int(np.rint(acc / 2.0**power))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_fixed_point_and_real_arithmetic_agree_step_by_step(seed: int) -> None:
    network = random_network(seed)
    plan, x = make_plan(network), quantize(inputs_for(network, 16, seed), network.input)
    fixed = evaluate(plan, x, keep=True)
    real = evaluate(plan, x, arithmetic=Arithmetic.REAL, keep=True)
    labels, other = fixed.scores.argmax(axis=2), real.scores.argmax(axis=2)
    assert (labels != other).mean() <= 0.02
    for stage in plan.stages:
        for step in stage.steps:
            values = fixed.activations[step.target.name]
            assert values.min() >= step.low and values.max() <= step.high
            if not step.is_logits:
                assert (values != real.activations[step.target.name]).mean() < 0.02


def test_resnet8_same_prediction_in_fixed_and_real_arithmetic() -> None:
    network = resnet8(bits=(8, 4, 2), shape=(3, 16, 16))
    plan, x = make_plan(network), quantize(inputs_for(network, 400), network.input)
    fixed, real = evaluate(plan, x), evaluate(plan, x, arithmetic=Arithmetic.REAL)
    assert (fixed.scores.argmax(2) == real.scores.argmax(2)).mean() >= 0.999
    np.testing.assert_allclose(fixed.logits, real.logits, atol=0.02 * np.abs(real.logits).max())


def test_one_block_analog_layer_with_a_fine_converter_equals_the_digital_one() -> None:
    maker = Maker(3, (4, 6, 6), bits=7)
    maker.gap_fc(maker.conv("input", 8, 3, bits=2, analog=(1152, 7, 6)), 3)
    nodes = maker.take()
    conv = nodes[0]
    assert conv.analog is not None
    exact = replace(conv, analog=replace(conv.analog, adc=Quantizer(16, True, 1.0)))
    results = []
    for first in (exact, replace(conv, analog=None)):
        network = _one_stage(maker, (first, *nodes[1:]))
        x = quantize(inputs_for(network, 8), network.input)
        results.append(evaluate(make_plan(network), x, keep=True).activations[conv.name])
    assert (results[0] != results[1]).mean() < 0.001  # the bias is rounded in another place


def _one_stage(maker: Maker, nodes: tuple) -> object:
    from offramp.ir.quantized import QuantizedNetwork, QuantizedStage

    stage = QuantizedStage(
        mounting_point=0, backbone=nodes[:1], branch=nodes[1:], carried=nodes[0].name, logits=nodes[-1].name
    )
    shape = maker.shapes["input"]
    return QuantizedNetwork(name="one", input_shape=shape, input=maker.input, classes=3, stages=(stage,))


def test_quantize_refuses_nan() -> None:
    with pytest.raises(DataError, match="not finite"):
        quantize([float("nan")], Quantizer(8, True, 0.1))


def test_what_a_plan_refuses() -> None:
    good = resnet8(shape=(3, 8, 8), widths=(4, 4, 4))
    first = good.stages[0]
    conv = first.backbone[0]
    assert conv.weight is not None and conv.weight_scale is not None

    def with_conv(**changes: object) -> object:
        return replace(
            good, stages=(replace(first, backbone=(replace(conv, **changes), *first.backbone[1:])), *good.stages[1:])
        )

    bad = {
        "reads 'nowhere'": with_conv(inputs=("nowhere",)),
        "2 inputs": with_conv(inputs=("input", "input")),
        r"weights int8 \(4, 2": with_conv(weight=conv.weight[:, :2]),
        "weights beyond 2 bits": with_conv(weight_bits=2),
        "weight scales": with_conv(weight_scale=conv.weight_scale * 0),
        "without output quantizer": with_conv(output=None),
        "12 bits at scale": with_conv(output=Quantizer(12, False, 0.1)),
        "groups of": with_conv(groups=2),
        "bias of shape": with_conv(bias=np.full(4, np.nan, np.float32)),
        "a sum beyond 32 bits": with_conv(bias=np.full(4, 1e9, np.float32)),
        "window on": with_conv(kernel=(30, 30), weight=np.zeros((4, 3, 30, 30), np.int8)),
        "this name appears twice": with_conv(name=first.backbone[1].name),
        "temperatures": replace(good, temperatures=(1.0,)),
        "no stages": replace(good, stages=()),
        "input shape": replace(good, input_shape=(0, 8, 8)),
        "logits": replace(good, classes=11),
        "has no quantizer": replace(good, stages=(replace(first, carried=first.logits), *good.stages[1:])),
    }
    for message, network in bad.items():
        with pytest.raises(FormatError, match=message):
            make_plan(network)  # type: ignore[arg-type]


def test_relu6_and_low_bits_clip_where_they_should() -> None:
    maker = Maker(0, (2, 4, 4))
    maker.gap_fc(maker.conv("input", 4, activation=Activation.RELU6, out_bits=4), 3)
    nodes = maker.take()
    wide = replace(nodes[0], output=Quantizer(8, True, 0.5))
    plan = make_plan(_one_stage(maker, (wide, *nodes[1:])))  # type: ignore[arg-type]
    assert (plan.stages[0].steps[0].low, plan.stages[0].steps[0].high) == (0, 12)
