"""Measurements: every device gives its parts; a profile is a table that prices a network; Cortex-M4 under QEMU."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cli_inside import offramp
from deploy_networks import dscnn, inputs_for, random_network, resnet8
from offramp.cost.network import NetworkCost
from offramp.data.dataset import load_dataset
from offramp.deploy.bundle import open_bundle, write_bundle
from offramp.deploy.c.cortex import build_cortex, footprint, missing_tools, run_cortex
from offramp.deploy.c.decide import make_rules, walk
from offramp.deploy.c.generate import write_c
from offramp.deploy.measure import measure, to_data
from offramp.deploy.plan import make_plan
from offramp.deploy.profile import layer_model, layer_network, profile_layers, signature, unique_layers, write_table
from offramp.deploy.reference import evaluate, quantize
from offramp.deploy.runtime import make_session
from offramp.errors import UserError
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.formats.quantized_workload import quantized_workload
from offramp.ir.workload import Op

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed: apt-get install gcc")
needs_cortex = pytest.mark.skipif(
    bool(missing_tools()),
    reason=f"{', '.join(missing_tools())} not installed: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi "
    "qemu-system-arm",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = load_dataset("digits")
    network = resnet8(shape=data.input_shape, widths=(4, 8, 8))
    stored = {"name": "digits", "normalization": data.normalization.to_json()}
    return write_bundle(tmp_path_factory.mktemp("m") / "bundle", network, thresholds=(0.5, 0.5), data=stored)


def check(folder: Path, device: str) -> None:
    bundle = open_bundle(folder)
    measured = measure(bundle, device, inputs_for(bundle.network, 12), rounds=10)
    assert len(measured.stages) == 3 and sum(measured.exits) == 12 == measured.samples
    for stage in measured.stages:
        for part in (stage.backbone, stage.branch, stage.together):
            assert 0 < part.q1 <= part.median <= part.q3
    whole = measured.whole
    assert 0 < whole["p50"] <= whole["p99"] <= whole["max"]
    assert json.loads(json.dumps(to_data(measured, bundle)))["device"] == device


def test_host(folder: Path) -> None:
    check(folder, "host")


@needs_gcc
def test_c(folder: Path) -> None:
    check(folder, "c")


@needs_cortex
def test_cortex(folder: Path) -> None:
    check(folder, "qemu-m4")
    measured = measure(open_bundle(folder), "qemu-m4", inputs_for(open_bundle(folder).network, 3))
    assert measured.unit == "instructions" and set(measured.memory) == {"flash_bytes", "ram_bytes"}


def test_unknown_device(folder: Path) -> None:
    bundle = open_bundle(folder)
    with pytest.raises(UserError, match="unknown device 'abacus'"):
        measure(bundle, "abacus", inputs_for(bundle.network, 1))
    with pytest.raises(UserError, match="unknown device 'abacus'"):
        profile_layers([], "abacus")


@needs_cortex
@pytest.mark.parametrize("name", ["resnet8", "dscnn", "analog"])
def test_cortex_m4_equals_the_reference_on_100_samples(name: str, tmp_path: Path) -> None:
    network = {
        "resnet8": lambda: resnet8(shape=(3, 16, 16), widths=(8, 8, 16), bits=(8, 4, 2)),
        "dscnn": lambda: dscnn(width=16),
        "analog": lambda: resnet8(shape=(3, 8, 8), bits=(2, 2, 2), analog=(288, 7, 6)),
    }[name]()
    plan, x = make_plan(network), quantize(inputs_for(network, 100), network.input)
    write_c(tmp_path, plan, "max_softmax", (0.6, 0.6))
    program = build_cortex(tmp_path, 3)
    ran = run_cortex(program, plan, x)
    exits, labels = walk(make_rules(plan, "max_softmax", (0.6, 0.6)), evaluate(plan, x).scores)
    np.testing.assert_array_equal(ran.exits, exits)
    np.testing.assert_array_equal(ran.labels, labels)
    costs = [np.median(ran.instructions[exits == e]) for e in sorted(set(exits.tolist()))]
    assert costs == sorted(costs) and len(costs) > 1
    total = int(ran.parts.sum())
    assert total <= ran.instructions.max() <= total * 1.05
    size = footprint(program)
    assert size.flash_bytes > 5000 and size.ram_bytes > make_plan(network).input.size


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_layer_alone_has_the_layer_s_signature(seed: int) -> None:
    for layer in unique_layers(quantized_workload(random_network(seed)).layers):
        alone = quantized_workload(layer_network(layer))
        assert signature(alone.layers[0])[:-1] == signature(layer)[:-1]


@pytest.mark.parametrize("index", [0, -1])
def test_a_layer_that_begins_a_network_converts_its_input(index: int) -> None:
    """The same bytes from real numbers as from the integers that they stand for."""
    layer = unique_layers(quantized_workload(resnet8(shape=(3, 8, 8), widths=(4, 4, 8))).layers)[index]
    plan = make_plan(layer_network(layer))
    integers = np.random.default_rng(0).integers(0, 256, (1, *plan.input.shape))
    assert plan.input.quantizer is not None
    real = (integers * plan.input.quantizer.scale).astype(np.float32)
    last = integers.astype(np.uint8) if layer.op is Op.DENSE else integers.astype(np.uint8).transpose(0, 2, 3, 1)
    results = []
    for begins, x in ((True, real), (False, np.ascontiguousarray(last))):
        session = make_session(layer_model(plan, begins=begins).SerializeToString())
        results.append(session.run(None, {session.get_inputs()[0].name: x})[0])
    np.testing.assert_array_equal(*results)


def test_a_profile_prices_a_network_on_this_machine(tmp_path: Path) -> None:
    from offramp.cost.engine import FastCostModel
    from offramp.cost.mapper import map_network

    workload = quantized_workload(resnet8(shape=(3, 8, 8), widths=(4, 4, 8)))
    layers = unique_layers(workload.layers)
    assert len(layers) < len(workload.layers)
    rows = profile_layers(layers, "host", networks=[workload], rounds=10)
    write_table(tmp_path / "table.yaml", rows, "host")
    machine = load_accelerator(f"table:{tmp_path / 'table.yaml'}")
    cost: NetworkCost = map_network(workload, machine, cost_model=FastCostModel())
    times = {signature(layer): t for layer, t in rows}
    wanted = sum(times[signature(layer)] for layer in workload.layers) / 1e3
    assert cost.milliseconds(cost.worst_case.latency_cycles) == pytest.approx(wanted, rel=0.02)


@needs_gcc
def test_one_layer_in_c() -> None:
    layer = quantized_workload(resnet8(shape=(3, 8, 8), widths=(4, 4, 8))).layers[1]
    ((_, microseconds),) = profile_layers([layer], "c", rounds=10)
    assert 0 < microseconds < 1e5


@needs_cortex
def test_one_layer_on_cortex() -> None:
    layer = quantized_workload(resnet8(shape=(3, 8, 8), widths=(4, 4, 8))).layers[1]
    ((_, microseconds),) = profile_layers([layer], "qemu-m4")
    assert layer.macs < microseconds * 25 < 30 * layer.macs


def test_measure_command_writes_yaml_beside_the_bundle(folder: Path) -> None:
    done = offramp("measure", str(folder), "--limit", "10", "--rounds", "10")
    assert done.returncode == 0, done.stderr
    data = yaml.safe_load((folder / "measured.yaml").read_text())
    assert data["format"] == "offramp-measured" and len(data["stages"]) == 3 and data["samples"] == 10
    open_bundle(folder)


def test_profile_command_and_its_faults(tmp_path: Path) -> None:
    table = tmp_path / "t.yaml"
    done = offramp(
        "profile", str(table), "--backbone", "resnet8", "--input-shape", "1,8,8", "--candidates", "1", "--rounds", "5"
    )
    assert done.returncode == 0, done.stderr
    assert load_accelerator(f"table:{table}").cores[0].measured
    for arguments, message in (
        (("--device", "abacus"), "unknown device"),
        (("--input-shape", "8"), "--input-shape"),
        (("--weight-bits", "many"), "--weight-bits"),
    ):
        done = offramp("profile", str(table), "--backbone", "resnet8", *arguments)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


@needs_gcc
def test_export_command(folder: Path, tmp_path: Path) -> None:
    done = offramp("export", str(folder), str(tmp_path / "c"), "--to", "c")
    assert done.returncode == 0 and "activations" in done.stdout, done.stderr
    assert {p.name for p in (tmp_path / "c").iterdir()} == {
        "offramp.h", "offramp.c", "offramp_kernels.h", "offramp_exits.h"
    }  # fmt: skip
    done = offramp("export", str(folder), str(tmp_path / "one.onnx"), "--to", "onnx")
    assert done.returncode == 0 and (tmp_path / "one.onnx").stat().st_size > 1000
    for arguments, message in (
        ((str(tmp_path / "x"), "--to", "rust"), "target"),
        ((str(tmp_path), "--to", "onnx"), "folder"),
    ):
        done = offramp("export", str(folder), *arguments)
        assert done.returncode == 2 and message in done.stderr


def test_what_resembles_ours_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    """A note about Offramp, a stage of a bundle, a chip's description, code beside the exported code, a pipe."""
    note, chip, pipe = tmp_path / "note.md", tmp_path / "chip.yaml", tmp_path / "pipe"
    note.write_text("how we use offramp")
    chip.write_text("name: mine\nclock_mhz: 100\ncores: []\n")
    os.mkfifo(pipe)
    exports = (
        (note, "note.md exists and is no ONNX file of ours; wanted a new file"),
        (folder / "stage_0.onnx", "stage_0.onnx exists and is no ONNX file of ours; wanted a new file"),
        (pipe, "pipe is no regular file; wanted a file to write"),
    )
    for target, message in exports:
        done = offramp("export", str(folder), str(target), "--to", "onnx")
        assert done.returncode == 2 and message in done.stderr, done.stderr
    done = offramp("profile", str(chip), "--backbone", "resnet8")
    assert done.returncode == 2 and "chip.yaml exists and is no measured table" in done.stderr
    for name in ("offramp.c", "offramp.h", "offramp_kernels.h", "offramp_exits.h"):
        place = tmp_path / name.replace(".", "_")
        place.mkdir()
        (place / name).write_text('#include "offramp.h"\nint main(void) { return 0; }')
        done = offramp("export", str(folder), str(place), "--to", "c")
        assert done.returncode == 2 and f"{name} exists and is no code of ours; wanted a new file" in done.stderr
        assert len(list(place.iterdir())) == 1
        (place / name).unlink()
        assert [offramp("export", str(folder), str(place), "--to", "c").returncode for _ in range(2)] == [0, 0]


def test_what_is_not_ours_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    """Before anything is measured: a file of the user's, a folder; an empty file may be filled."""
    thesis, empty = tmp_path / "thesis.txt", tmp_path / "empty.onnx"
    thesis.write_text("years of work")
    empty.touch()
    calls = (
        ("export", str(folder), str(thesis), "--to", "onnx"),
        ("measure", str(folder), "--data", "digits", "--out", str(thesis)),
        ("profile", str(thesis), "--backbone", "resnet8"),
        ("report", str(folder), "--out", str(thesis)),
        ("report", str(folder), "--svg", str(thesis)),
        ("price", "resnet8", "--accelerator", "diana", "--gantt", str(thesis)),
    )
    for call in calls:
        done = offramp(*call)
        assert done.returncode == 2 and "thesis.txt exists and is no" in done.stderr, done.stderr
    done = offramp("profile", str(tmp_path), "--backbone", "resnet8")
    assert done.returncode == 2 and "is a folder" in done.stderr
    for _ in range(2):
        assert offramp("export", str(folder), str(empty), "--to", "onnx").returncode == 0
        gantt = ("--gantt", str(tmp_path / "gantt.html"))
        assert offramp("price", "resnet8", "--accelerator", "diana", *gantt).returncode == 0
    assert thesis.read_text() == "years of work"
