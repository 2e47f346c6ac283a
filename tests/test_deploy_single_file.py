"""One ONNX file with nested `If` equals the staged bundle, for every policy, and only the branch taken runs."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from deploy_networks import inputs_for, random_network, resnet8
from offramp.deploy.bundle import write_bundle
from offramp.deploy.plan import make_plan
from offramp.deploy.runtime import Runner, make_session
from offramp.deploy.single_file import single_model
from offramp.exits.policy import POLICIES
from offramp.ir.quantized import QuantizedNetwork


def agreement(network: QuantizedNetwork, policy: str, folder: Path, count: int) -> tuple[float, set[int]]:
    thresholds = (2.0 if policy == "patience" else 0.5,) * (len(network.stages) - 1)
    runner = Runner(write_bundle(folder, network, thresholds=thresholds, policy=policy))
    model = single_model(make_plan(network), policy, thresholds)
    onnx.checker.check_model(model, full_check=True)
    session, x = make_session(model.SerializeToString()), inputs_for(network, count)
    name, same, exits = session.get_inputs()[0].name, 0, set()
    for sample, answer in zip(x, [runner.stream(s) for s in x], strict=True):
        logits, label, left = session.run(None, {name: sample[None]})
        assert logits.shape == (1, network.classes) and int(logits.argmax()) == int(label[0])
        same += (int(label[0]), int(left[0])) == (answer.label, answer.exit)
        exits.add(int(left[0]))
    return same / count, exits


@pytest.mark.parametrize("policy", POLICIES)
def test_equal_to_the_staged_bundle(policy: str, tmp_path: Path) -> None:
    network = resnet8(shape=(3, 8, 8), temperatures=(1.5, 0.7, 1.0))
    same, exits = agreement(network, policy, tmp_path / "b", 150)
    assert same >= 0.99 and len(exits) > 1


@pytest.mark.parametrize("seed", range(6))
def test_any_network(seed: int, tmp_path: Path) -> None:
    assert agreement(random_network(seed), "max_softmax", tmp_path / "b", 20)[0] >= 0.95


def test_later_stages_lie_inside_if_branches_alone() -> None:
    graph = single_model(make_plan(resnet8(shape=(3, 8, 8))), "max_softmax", (0.5, 0.5)).graph
    outside = {n.name for n in graph.node}
    assert "conv1" in outside and not any(n.startswith(("conv7", "conv8", "conv12")) for n in outside)
    assert [n.op_type for n in graph.node].count("If") == 1


def test_a_static_network_has_no_if() -> None:
    network = resnet8(shape=(3, 8, 8), exits=False)
    model = single_model(make_plan(network), "max_softmax", ())
    assert "If" not in {n.op_type for n in model.graph.node}
    x = inputs_for(network, 1)
    session = make_session(model.SerializeToString())
    assert np.isfinite(session.run(None, {session.get_inputs()[0].name: x})[0]).all()
