"""A bundle comes back as it was written; a damaged, changed or hostile one is refused before anything runs."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from deploy_networks import dscnn, inputs_for, random_network, resnet8
from offramp.deploy.bundle import NEVER_LEAVE, OperatingPoint, open_bundle, write_bundle
from offramp.deploy.manifest import PartCost, Predicted
from offramp.deploy.reference import evaluate, quantize
from offramp.errors import FormatError, OfframpError, UserError
from offramp.ir.architecture import Architecture
from offramp.ir.mapping import Assignment, ExitMode
from offramp.ir.mapping import Mapping as CoreMapping


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", resnet8(shape=(3, 8, 8), widths=(4, 4, 4)), thresholds=(0.5, 0.6))


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = manifest_of(folder)
    change(data)
    (folder / "manifest.json").write_text(json.dumps(data))


def put(folder: Path, name: str, content: bytes) -> None:
    """A changed file with its checksum made right: what an attacker would do."""
    (folder / name).write_bytes(content)
    rewrite(folder, lambda m: m["files"].__setitem__(name, sha256(content).hexdigest()))


@pytest.mark.parametrize(
    "network", [dscnn(), resnet8(bits=(2, 2, 4), analog=(288, 7, 6), shape=(3, 8, 8)), random_network(4)]
)
def test_what_goes_in_comes_out(network: Any, tmp_path: Path) -> None:
    early, cost = len(network.stages) - 1, PartCost(latency_ms=1, energy_uj=2)
    path = write_bundle(
        tmp_path / "runs" / "b",
        network,
        thresholds=[float("inf")] * early,
        policy="margin",
        operating_points={"fast": OperatingPoint(thresholds=(0.1,) * early, split="val", accuracy=0.5)},
        architecture=Architecture(backbone="resnet8"),
        mapping=CoreMapping(assignments=(Assignment("conv1", "digital"),), exit_modes=(ExitMode.WAIT,)),
        predicted=Predicted(accelerator="diana", stages=(cost,) * (early + 1), branches=(cost,) * (early + 1)),
        metrics={"test": {"accuracy": 0.9}},
        seed=7,
        versions={"torch": "2.13"},
    )
    bundle = open_bundle(path)
    assert bundle.thresholds == (NEVER_LEAVE,) * early and bundle.manifest.policy == "margin"
    assert bundle.manifest.seed == 7 and {"torch", "onnx", "offramp"} <= set(bundle.manifest.versions)
    assert Architecture.from_json(bundle.manifest.architecture or {}).backbone == "resnet8"
    x = quantize(inputs_for(network, 4), network.input)
    again = evaluate(bundle.plan, x).scores
    from offramp.deploy.plan import make_plan

    np.testing.assert_array_equal(again, evaluate(make_plan(network), x).scores)


def test_writing_again_replaces_and_keeps_measurements(folder: Path) -> None:
    (folder / "measured.yaml").write_text("device: host\n")
    (folder / "c").mkdir()
    (folder / "c" / "offramp.c").touch()
    write_bundle(folder, resnet8(shape=(3, 8, 8), widths=(4, 4, 4), exits=False), thresholds=())
    assert sorted(p.name for p in folder.iterdir()) == [
        "c", "manifest.json", "measured.yaml", "network.safetensors", "stage_0.onnx"
    ]  # fmt: skip
    assert (folder / "c" / "offramp.c").is_file()
    assert not list(folder.parent.glob(".bundle.*"))
    assert open_bundle(folder).thresholds == ()


def test_nothing_is_written_over_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="is no bundle"):
        write_bundle(tmp_path / "mine", dscnn(), thresholds=(0.5, 0.5))
    (tmp_path / "mine" / "manifest.json").write_text('{"name": "an extension for browsers"}')
    with pytest.raises(UserError, match=r"manifest\.json exists and is no manifest of a bundle; wanted a new file"):
        write_bundle(tmp_path / "mine", dscnn(), thresholds=(0.5, 0.5))
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_wrong_thresholds_and_policy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 thresholds"):
        write_bundle(tmp_path / "b", dscnn(), thresholds=(0.5,))
    with pytest.raises(UserError, match="thresholds"):
        write_bundle(tmp_path / "b", dscnn(), thresholds=(0.5, float("nan")))
    with pytest.raises(UserError, match="exit policy 'coin'"):
        write_bundle(tmp_path / "b", dscnn(), thresholds=(0.5, 0.5), policy="coin")
    assert not (tmp_path / "b").exists()


MANIFEST_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "newer": (lambda m: m.update(version=2), "version 2"),
    "foreign": (lambda m: m.update(format="zip"), "not a bundle's manifest"),
    "unknown key": (lambda m: m.update(code="import os"), r"\$\.code"),
    "missing key": (lambda m: m.pop("policy"), r"\$\.policy"),
    "unknown policy": (lambda m: m.update(policy="coin"), r"\$\.policy"),
    "outside": (lambda m: m["files"].update({"../secret": "0" * 64}), "files"),
    "absolute": (lambda m: m["files"].update({"/etc/passwd": "0" * 64}), "files"),
    "missing file": (lambda m: m["files"].update({"stage_9.onnx": "0" * 64}), "stage_9.onnx is missing"),
    "stage not listed": (lambda m: m["files"].pop("stage_1.onnx"), "no checksum for stage_1.onnx"),
    "no stages": (lambda m: m["network"].update(stages=[]), "no stages"),
    "a stage less": (lambda m: m["network"]["stages"].pop(), "thresholds"),
    "unknown operator": (lambda m: m["network"]["stages"][0]["backbone"][0].update(op="lstm"), "op"),
    "unknown tensor": (lambda m: m["network"]["stages"][0]["backbone"][0].update(inputs=["x"]), "reads 'x'"),
    "wide weights": (lambda m: m["network"]["stages"][0]["backbone"][0].update(weight_bits=2), "beyond 2 bits"),
    "stride 0": (lambda m: m["network"]["stages"][0]["backbone"][0].update(stride=[0, 1]), "stride"),
    "too few thresholds": (lambda m: m["operating_points"]["default"].update(thresholds=[0.5]), "1 thresholds"),
    "stage in another's place": (lambda m: m["network"]["stages"][0].update(onnx="stage_1.onnx"), "inputs"),
    "weights as a stage": (lambda m: m["network"]["stages"][0].update(onnx="network.safetensors"), "not an ONNX"),
}


@pytest.mark.parametrize("fault", MANIFEST_FAULTS)
def test_a_changed_manifest_is_refused(folder: Path, fault: str) -> None:
    change, message = MANIFEST_FAULTS[fault]
    rewrite(folder, change)
    with pytest.raises(UserError, match=message):
        open_bundle(folder)


def test_damaged_files_are_refused(folder: Path) -> None:
    for name in ("stage_1.onnx", "network.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(FormatError, match=f"{name} does not have its checksum"):
            open_bundle(folder)
        (folder / name).write_bytes(content)
    (folder / "stage_2.onnx").unlink()
    with pytest.raises(FormatError, match=r"stage_2\.onnx is missing"):
        open_bundle(folder)


def test_a_link_that_leads_outside_is_refused(folder: Path) -> None:
    outside = folder.parent / "stage_0.onnx"
    (folder / "stage_0.onnx").rename(outside)
    (folder / "stage_0.onnx").symlink_to(outside)
    with pytest.raises(FormatError, match="leads outside the bundle"):
        open_bundle(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "offramp-bundle", "format": "x"}', "[" * 100_000])
def test_a_manifest_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(FormatError, match=r"manifest\.json"):
        open_bundle(folder)


def hostile(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(folder / "stage_0.onnx")
    change(model)
    put(folder, "stage_0.onnx", model.SerializeToString())


def external(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.dims)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"


def foreign_operator(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("evil", 1))
    model.graph.node[0].domain = "evil"


def test_hostile_onnx_with_a_right_checksum_is_refused(folder: Path) -> None:
    original = (folder / "stage_0.onnx").read_bytes()
    attacks: list[tuple[Callable[[onnx.ModelProto], None], str]] = [
        (external, "stage_0.onnx"),
        (foreign_operator, "operator"),
        (lambda m: m.graph.node.append(helper.make_node("Loop", [], [])), "stage_0.onnx"),
        (lambda m: m.graph.node.append(helper.make_node("RandomNormal", [], ["r"], shape=[1])), "RandomNormal"),
        (lambda m: m.graph.output.pop(), "inputs"),
        (lambda m: m.graph.input[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 5), "inputs"),
    ]
    for change, message in attacks:
        put(folder, "stage_0.onnx", original)
        open_bundle(folder)
        hostile(folder, change)
        with pytest.raises(FormatError, match=message):
            open_bundle(folder)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1), value=st.integers(0, 255), name=st.sampled_from(["manifest.json", "stage_0.onnx"]))
def test_a_byte_changed_anywhere_never_ends_in_a_traceback(
    place: float, value: int, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    if not folder.exists():
        write_bundle(folder, resnet8(shape=(3, 8, 8), widths=(4, 4, 4)), thresholds=(0.5, 0.6))
    content = (folder / name).read_bytes()
    position = int(place * (len(content) - 1))
    manifest = (folder / "manifest.json").read_bytes()
    changed = content[:position] + bytes([value]) + content[position + 1 :]
    try:
        if name == "manifest.json":
            (folder / name).write_bytes(changed)
        else:
            put(folder, name, changed)
        open_bundle(folder)
    except OfframpError:
        pass
    finally:
        (folder / name).write_bytes(content)
        (folder / "manifest.json").write_bytes(manifest)
