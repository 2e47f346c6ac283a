"""The runtime stops at the exit: stage executions, compaction, streaming, thresholds that change, every policy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_networks import inputs_for, random_network, resnet8
from offramp.deploy.bundle import OperatingPoint, write_bundle
from offramp.deploy.reference import Arithmetic, evaluate, quantize
from offramp.deploy.runtime import Runner
from offramp.errors import DataError, UserError
from offramp.exits.policy import POLICIES, confidence, decide, walk
from offramp.exits.single import make_rules


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = resnet8(shape=(3, 16, 16), temperatures=(1.5, 0.8, 1.0))
    points = {"fast": OperatingPoint(thresholds=(0.0, 0.0)), "last": OperatingPoint(thresholds=(2.0, 2.0))}
    return write_bundle(
        tmp_path_factory.mktemp("b") / "bundle", network, thresholds=(0.6, 0.6), operating_points=points
    )


def test_later_stages_do_not_run(folder: Path) -> None:
    runner, x = Runner(folder, operating_point="fast"), inputs_for(resnet8(shape=(3, 16, 16)), 20)
    runner.predict(x)
    assert runner.executions == (20, 0, 0) and runner._sessions[1] is None
    runner.stream(x[0])
    assert runner.executions == (21, 0, 0) and runner.calls == (2, 0, 0)


def test_a_batch_is_compacted_and_equals_the_policy_on_all_logits(folder: Path) -> None:
    runner = Runner(folder)
    x = inputs_for(runner.bundle.network, 300)
    outcome = runner.predict(x, batch=100)
    logits = evaluate(runner.bundle.plan, quantize(x, runner.bundle.network.input), arithmetic=Arithmetic.REAL).logits
    exits, labels = walk("max_softmax", list(logits), runner.thresholds, runner.bundle.network.temperatures)
    assert (outcome.exits == exits).mean() >= 0.99 and (outcome.labels == labels).mean() >= 0.99
    left = np.bincount(outcome.exits, minlength=3)
    assert runner.executions == (300, 300 - left[0], left[2]) and min(left) > 0


def test_streaming_equals_batches_and_thresholds_change_between_calls(folder: Path) -> None:
    runner = Runner(folder)
    x = inputs_for(runner.bundle.network, 40)
    for thresholds in ((0.6, 0.6), (0.3, 0.9), (0.9, 0.3)):
        runner.thresholds = thresholds
        runner.reset()
        outcome = runner.predict(x)
        batch = runner.executions
        runner.reset()
        answers = [runner.stream(sample) for sample in x]
        assert [a.label for a in answers] == outcome.labels.tolist()
        assert [a.exit for a in answers] == outcome.exits.tolist()
        assert runner.executions == batch == runner.calls
    runner.use("last")
    assert set(runner.predict(x).exits.tolist()) == {2}


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_gives_the_same_answers_streamed(policy: str, tmp_path: Path) -> None:
    thresholds = (2.0, 2.0) if policy == "patience" else (0.4, 0.4)
    runner = Runner(write_bundle(tmp_path / "b", resnet8(shape=(3, 8, 8)), thresholds=thresholds, policy=policy))
    x = inputs_for(runner.bundle.network, 60)
    outcome = runner.predict(x)
    assert [runner.stream(s).exit for s in x] == outcome.exits.tolist()
    assert len(set(outcome.exits.tolist())) > 1


@given(
    logits=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=12),
    temperature=st.floats(0.1, 10),
    policy=st.sampled_from(["max_softmax", "margin", "entropy"]),
)
def test_one_sample_in_python_floats_decides_as_the_policy_does(
    logits: list[float], temperature: float, policy: str
) -> None:
    sure = float(confidence(policy, logits, temperature))
    for threshold in (sure + 1e-9, sure - 1e-9, 0.5, 1.0, 0.0, -1.0, 1.5):
        (leaves,) = make_rules(policy, [threshold], [temperature])
        if abs(threshold - sure) > 1e-12:
            assert leaves(logits) == bool(decide(policy, logits, threshold, temperature=temperature).leave)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_any_network_runs_from_its_bundle(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    network = random_network(seed)
    target = tmp_path_factory.mktemp("any") / "bundle"
    runner = Runner(write_bundle(target, network, thresholds=[0.5] * (len(network.stages) - 1)))
    x = inputs_for(network, 12, seed)
    outcome = runner.predict(x)
    assert [runner.stream(s).label for s in x] == outcome.labels.tolist()
    assert runner.predict(x[:0]).labels.shape == (0,)


def test_bad_input_runs_nothing(folder: Path) -> None:
    runner = Runner(folder)
    good = inputs_for(runner.bundle.network, 2)
    bad = {
        "shape": good[:, :2],
        "type uint8": np.zeros(good.shape, np.uint8),
        "type object": np.empty(good.shape, object),
        "not finite": np.where(np.arange(good.size).reshape(good.shape) == 7, np.nan, good),
    }
    for message, x in bad.items():
        with pytest.raises(DataError, match=message):
            runner.predict(x)
        with pytest.raises(DataError, match=message):
            runner.stream(x[0])
    with pytest.raises(DataError, match="not finite"):
        runner.predict(np.where(good == good[0, 0, 0, 0], np.inf, good))
    with pytest.raises(UserError, match="thresholds"):
        runner.thresholds = (0.5,)
    with pytest.raises(UserError, match="thresholds"):
        runner.thresholds = (0.5, float("nan"))
    with pytest.raises(UserError, match="operating point 'none'"):
        runner.use("none")
    assert runner.executions == (0, 0, 0)


def test_large_finite_inputs_pass(folder: Path) -> None:
    runner = Runner(folder)
    assert len(runner.predict(np.full((1, *runner.bundle.network.input_shape), 1e30)).labels) == 1
