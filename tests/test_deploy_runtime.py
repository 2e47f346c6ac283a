"""The runtime stops at the exit: stage executions, compaction, streaming, thresholds that change, every policy."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_networks import inputs_for, random_network, resnet8
from offramp.deploy.bundle import OperatingPoint, open_bundle, write_bundle
from offramp.deploy.reference import Arithmetic, evaluate, quantize
from offramp.deploy.runtime import Runner
from offramp.errors import DataError, FormatError, UserError
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
        "type int64": good.astype(np.int64),
        "type complex64": good.astype(np.complex64),
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
    with pytest.raises(UserError, match=r"thresholds \('a', 'b'\)"):
        runner.thresholds = ("a", "b")  # type: ignore[assignment]
    with pytest.raises(UserError, match="operating point 'none'"):
        runner.use("none")
    with pytest.raises(UserError, match="batches of 0; wanted at least 1"):
        runner.predict(good, batch=0)
    assert runner.executions == (0, 0, 0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"shape \(\).*wanted \(samples, 3, 16, 16\)"),
        ([[1.0], [1.0, 2.0]], r"rows of unequal length.*wanted an array \(samples, 3, 16, 16\)"),
        ("x", r"shape \(\)"),
        (np.zeros((3, 16, 16), np.float32), r"shape \(3, 16, 16\).*wanted \(samples, 3, 16, 16\)"),
        (np.full((1, 3, 16, 16), 1e300), "not finite"),
        (np.full((1, 3, 16, 16), -np.inf, np.float32), "not finite"),
    ],
)
def test_what_is_no_batch_of_numbers(folder: Path, value: Any, message: str) -> None:
    runner = Runner(folder)
    with pytest.raises(DataError, match=message):
        runner.predict(value)
    assert runner.calls == (0, 0, 0)


def test_a_sample_is_checked_after_good_ones_too(folder: Path) -> None:
    """The buffers are bound by then; a refused sample leaves nothing behind."""
    runner = Runner(folder)
    x = inputs_for(runner.bundle.network, 3)
    first = [runner.stream(sample) for sample in x]
    for bad, message in ((np.full_like(x[0], np.nan), "not finite"), (x, "shape"), ([1.0], "shape"), (None, "shape")):
        with pytest.raises(DataError, match=message):
            runner.stream(bad)  # type: ignore[arg-type]
    assert [runner.stream(sample) for sample in x] == first
    assert sum(runner.executions) == sum(2 * (answer.exit + 1) for answer in first)


def test_large_finite_inputs_pass(folder: Path) -> None:
    runner = Runner(folder)
    large = np.full((1, *runner.bundle.network.input_shape), 1e30)
    assert runner.predict(large).labels.tolist() == [runner.stream(large[0]).label]
    assert runner.stream(large[0].astype(np.float32)) == runner.stream(large[0])


@settings(max_examples=15, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    calls=st.lists(
        st.tuples(st.sampled_from(["fast", "last", "default", "own"]), st.booleans(), st.integers(1, 9)), max_size=8
    ),
)
def test_whatever_was_called_before_does_not_matter(
    policy: str, calls: list[tuple[str, bool, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Points, thresholds, batches and single samples in any order, against a fresh runner each time."""
    scale = 2.0 if policy == "patience" else 1.0
    points = {"fast": OperatingPoint(thresholds=(0.0, 0.0)), "last": OperatingPoint(thresholds=(9.0, 9.0))}
    network = resnet8(shape=(3, 8, 8), widths=(4, 4, 8))
    target = tmp_path_factory.mktemp("calls") / "b"
    write_bundle(target, network, thresholds=(0.4 * scale, 0.5 * scale), policy=policy, operating_points=points)
    runner, x = Runner(target), inputs_for(network, 9)
    for point, streams, count in calls:
        fresh = Runner(runner.bundle)
        for each in (runner, fresh):
            if point == "own":
                each.thresholds = (0.7 * scale, 0.3 * scale)
            else:
                each.use(point)
        wanted = fresh.predict(x[:count], batch=1)
        before = runner.executions
        if streams:
            found = [tuple(runner.stream(sample)) for sample in x[:count]]
        else:
            outcome = runner.predict(x[:count], batch=4)
            found = list(zip(outcome.labels.tolist(), outcome.exits.tolist(), strict=True))
        assert found == list(zip(wanted.labels.tolist(), wanted.exits.tolist(), strict=True))
        assert tuple(b - a for a, b in zip(before, runner.executions, strict=True)) == fresh.executions


def test_a_stage_that_the_runtime_refuses_is_one_error(folder: Path) -> None:
    """The file has its checksum and passes every check of ours, but its inner shapes do not fit."""
    bundle = open_bundle(folder)
    model = onnx.load_model_from_string(bundle.stage_files[1])
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    next(a for a in conv.attribute if a.name == "kernel_shape").ints[:] = [2, 2]
    broken = replace(bundle, stage_files=(bundle.stage_files[0], model.SerializeToString(), *bundle.stage_files[2:]))
    runner = Runner(broken, operating_point="last")
    with pytest.raises(FormatError, match=r"stage \d: ONNX Runtime refuses it"):
        runner.predict(inputs_for(bundle.network, 2))


FAULTS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "a window larger than the weights": lambda m: attribute(m, "Conv", "kernel_shape", [29, 3]),
    "another stride": lambda m: attribute(m, "Conv", "strides", [3, 3]),
    "logits of the whole batch in one row": lambda m: attribute(m, "Flatten", "axis", 0),
}
"""What the runtime notices only while it runs."""


def attribute(model: onnx.ModelProto, op: str, name: str, value: Any) -> None:
    """Change an attribute of the last node of a kind."""
    node = [node for node in model.graph.node if node.op_type == op][-1]
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


@pytest.mark.parametrize("fault", sorted(FAULTS))
@pytest.mark.parametrize("stage", range(3))
def test_a_stage_that_fails_while_it_runs_is_one_error(folder: Path, fault: str, stage: int) -> None:
    bundle = open_bundle(folder)
    model = onnx.load_model_from_string(bundle.stage_files[stage])
    FAULTS[fault](model)
    files = list(bundle.stage_files)
    files[stage] = model.SerializeToString()
    runner = Runner(replace(bundle, stage_files=tuple(files)), operating_point="last")
    x = inputs_for(bundle.network, 2)
    with pytest.raises(FormatError, match=r"bundle: stage \d: "):
        runner.predict(x)
    if "batch" in fault:  # of one sample it is the same row
        return
    with pytest.raises(FormatError, match=r"stage \d: ONNX Runtime refuses it"):
        runner.stream(x[0])
