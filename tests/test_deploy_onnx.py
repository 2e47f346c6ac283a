"""The staged ONNX equals the integer reference: every operator, optimised or not, int8 or uint8 weights."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_networks import dscnn, inputs_for, random_network, resnet8
from offramp.deploy.onnx import stage_model
from offramp.deploy.plan import Plan, make_plan
from offramp.deploy.reference import Arithmetic, evaluate, quantize
from offramp.deploy.runtime import make_session
from offramp.ir.quantized import QuantizedNetwork


def all_logits(plan: Plan, x: np.ndarray, *, optimize: bool = True, exact_weights: bool = False) -> np.ndarray:
    current, logits = x, []
    for index in range(len(plan.stages)):
        model = stage_model(plan, index, exact_weights=exact_weights)
        onnx.checker.check_model(model, full_check=True)
        session = make_session(model.SerializeToString(), optimize=optimize)
        results = session.run(None, {session.get_inputs()[0].name: current})
        logits.append(results[-1])
        current = results[0]
    return np.stack(logits)


def agreement(network: QuantizedNetwork, count: int, seed: int = 0, **options: bool) -> float:
    plan, x = make_plan(network), inputs_for(network, count, seed)
    wanted = evaluate(plan, quantize(x, network.input), arithmetic=Arithmetic.REAL)
    return float((all_logits(plan, x, **options).argmax(2) == wanted.logits.argmax(2)).mean())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_any_network_gives_the_law_s_predictions(seed: int) -> None:
    assert agreement(random_network(seed), 16, seed) >= 0.98


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("exact_weights", [True, False])
def test_resnet8_whatever_the_kernels(optimize: bool, exact_weights: bool) -> None:
    network = resnet8(shape=(3, 16, 16))
    assert agreement(network, 300, optimize=optimize, exact_weights=exact_weights) >= 0.999


def test_dscnn_and_analog_resnet8() -> None:
    assert agreement(dscnn(), 300) >= 0.999
    assert agreement(resnet8(shape=(3, 16, 16), bits=(2, 2, 2), analog=(288, 7, 6)), 300) >= 0.999


def test_integer_kernels_are_used(tmp_path: object) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = f"{tmp_path}/optimized.onnx"
    plan = make_plan(resnet8(shape=(3, 16, 16)))
    onnxruntime.InferenceSession(stage_model(plan, 1).SerializeToString(), options)
    kinds = [n.op_type for n in onnx.load(f"{tmp_path}/optimized.onnx").graph.node]
    assert "Conv" not in kinds and "DequantizeLinear" not in kinds and kinds.count("QLinearConv") == 3


def test_only_the_standard_operator_set() -> None:
    model = stage_model(make_plan(random_network(1)), 0)
    assert [o.domain for o in model.opset_import] == [""] and model.opset_import[0].version >= 13
