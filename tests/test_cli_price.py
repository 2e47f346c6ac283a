"""`offramp price`: the JSON's keys, every kind of model, and the user's faults as one line with exit code 2."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offramp.cli.main import main
from offramp.cli.price import _cost_model
from onnx_cases import CONV, WHOLE, model, node

LAYER_KEYS = {"name", "op", "core", "macs", "latency_cycles", "energy_pj", "energy_parts", "utilization"}
STAGE_KEYS = {"backbone_cycles", "branch_cycles", "backbone_pj", "branch_pj", "cumulative_cycles", "cumulative_pj"}
PLAIN_KEYS = {"latency_cycles", "latency_ms", "energy_pj", "macs", "peak_bytes", "peak_bytes_per_level", "layers"}
EXIT_KEYS = {"stages", "expected", "worst_case", "exit_rates", "exit_modes"}
COSTS = {"latency_cycles", "energy_pj", "et_joule_cycles"}


def offramp(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["offramp", "price", *words])
    code: object = 0
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code
    shown = capsys.readouterr()
    return int(code or 0), shown.out, shown.err  # type: ignore[call-overload]


Run = Any


@pytest.fixture
def price(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return lambda *words: offramp(capsys, monkeypatch, *words)


def test_json_of_a_static_network_has_exactly_the_pinned_keys(price: Run) -> None:
    code, out, err = price("resnet8", "--accelerator", "diana", "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert set(answer) == PLAIN_KEYS
    assert {frozenset(layer) for layer in answer["layers"]} == {frozenset(LAYER_KEYS)}
    assert answer["macs"] == sum(x["macs"] for x in answer["layers"]) == 12_501_632
    assert answer["energy_pj"] == pytest.approx(sum(x["energy_pj"] for x in answer["layers"]))
    assert answer["latency_ms"] == pytest.approx(answer["latency_cycles"] / 260e3)
    for layer in answer["layers"]:
        assert sum(layer["energy_parts"].values()) == pytest.approx(layer["energy_pj"])
        assert 0 <= layer["utilization"] <= 1


def test_json_with_exits_adds_stages_and_expectation(price: Run) -> None:
    words = ("resnet8", "--accelerator", "edge-tpu-quad", "--exits", "0,1", "--json")
    code, out, _ = price(*words, "--exit-rates", ".5,.3,.2")
    answer = json.loads(out)
    assert code == 0
    assert set(answer) == PLAIN_KEYS | EXIT_KEYS
    assert {frozenset(stage) for stage in answer["stages"]} == {frozenset(STAGE_KEYS)}
    assert set(answer["expected"]) == set(answer["worst_case"]) == COSTS
    cycles = [stage["cumulative_cycles"] for stage in answer["stages"]]
    energy = [stage["cumulative_pj"] for stage in answer["stages"]]
    rates = (0.5, 0.3, 0.2)
    expected = answer["expected"]
    assert expected["latency_cycles"] == pytest.approx(sum(r * c for r, c in zip(rates, cycles, strict=True)))
    assert expected["energy_pj"] == pytest.approx(sum(r * e for r, e in zip(rates, energy, strict=True)))
    et = sum(r * e * 1e-12 * c for r, e, c in zip(rates, energy, cycles, strict=True))
    assert expected["et_joule_cycles"] == pytest.approx(et)
    assert answer["worst_case"]["latency_cycles"] == answer["latency_cycles"] == cycles[-1]
    plain = json.loads(price(*words, "--exit-rates", ".5,.3,.2", "--execution", "layer-by-layer")[1])
    assert plain["exit_modes"] == ["wait", "wait"]
    assert plain["energy_pj"] > answer["energy_pj"]
    assert plain["expected"]["latency_cycles"] > expected["latency_cycles"]


def test_the_table_names_layers_stages_and_totals(price: Run, tmp_path: Path) -> None:
    page = tmp_path / "schedule.html"
    code, out, _ = price("resnet8", "--accelerator", "diana", "--exits", "1", "--gantt", str(page))
    assert code == 0
    assert "exit1.fc" in out
    assert "stages" in out
    assert "expected" in out
    assert "12,5" in out
    drawn = page.read_text()
    assert "block0.conv" in drawn
    assert "src=" not in drawn.split("<body>")[1][:2000]


def test_an_onnx_file_is_priced_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(WHOLE)
    script = (
        "import sys; sys.argv = ['offramp', 'price', sys.argv[1], '--accelerator', 'diana', '--json']\n"
        "from offramp.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == PLAIN_KEYS


def test_peaks_are_listed_by_the_core_that_they_belong_to(price: Run) -> None:
    code, out, _ = price("resnet8", "--accelerator", "edge-tpu-quad")
    assert code == 0
    lines = [line.split() for line in out[out.index("peak bytes") :].splitlines()[1:]]
    assert [words[0] for words in lines[:4]] == ["core0", "core1", "core2", "core3"]
    assert max(len(line) for line in out[out.index("peak bytes") :].splitlines()) <= 120


def test_layer_by_layer_asks_the_slow_reference_for_no_more_than_it_needs() -> None:
    assert _cost_model("zigzag", "layer-by-layer").variants == (0,)  # type: ignore[attr-defined]
    assert _cost_model("zigzag", "best").variants == (0, 1, 2, 3)  # type: ignore[attr-defined]


RESNET = ("resnet8", "--accelerator", "diana")
FAULTS: dict[str, tuple[tuple[str, ...], str]] = {
    "model": (("nope", "--accelerator", "diana"), "unknown model 'nope'; wanted one of dscnn, mobilenetv1"),
    "accelerator": (("resnet8", "--accelerator", "nope"), "unknown accelerator 'nope'"),
    "exits out of range": ((*RESNET, "--exits", "99"), "an exit at mounting point 99; wanted one of 0, 1, 2"),
    "exits twice": ((*RESNET, "--exits", "0,0"), "exits [0, 0]; wanted sorted, each once"),
    "exits not numbers": ((*RESNET, "--exits", "0,a"), "--exits: '0,a'; wanted numbers"),
    "branch": ((*RESNET, "--exits", "0", "--branch", "mlp"), "unknown exit branch 'mlp'"),
    "rates sum": ((*RESNET, "--exits", "0", "--exit-rates", ".1,.3"), "0.1, 0.3 (sum 0.4); wanted rates"),
    "rates nan": ((*RESNET, "--exits", "0", "--exit-rates", "nan,1"), "wanted rates from 0 to 1 that sum to 1"),
    "rates count": ((*RESNET, "--exits", "0", "--exit-rates", "1"), "1 exit rates for 2 exits"),
    "backend": ((*RESNET, "--backend", "magic"), "unknown backend 'magic'"),
    "execution": ((*RESNET, "--execution", "magic"), "unknown execution 'magic'"),
    "objective": ((*RESNET, "--objective", "magic"), "unknown objective 'magic'"),
    "shape": ((*RESNET, "--input-shape", "3,0,8"), "--input-shape: 3,0,8; wanted sizes of 1 or more"),
    "bits": ((*RESNET, "--weight-bits", "0"), "--weight-bits: 0; wanted 1 to 32 bits"),
    "no tflite": (("none.tflite", "--accelerator", "diana"), "none.tflite: cannot be read (No such file"),
    "no file": (("none.onnx", "--accelerator", "diana"), "none.onnx: no such file"),
    "folder": ((".", "--accelerator", "diana"), "no manifest.json; wanted a bundle folder"),
    "unsorted": (
        (*RESNET, "--exits", "1,0", "--exit-rates", ".1,.3,.6"),
        "--exits: 1,0 with --exit-rates; wanted exits",
    ),
    "one class": ((*RESNET, "--classes", "1"), "--classes: 1; wanted 2 to 1,048,576 classes"),
    "no class": ((*RESNET, "--classes", "0"), "--classes: 0; wanted 2 to 1,048,576 classes"),
    "exits of a bundle": ((".", "--accelerator", "diana", "--exits", "0"), "--exits 0 for .; wanted a backbone name"),
    "classes of a bundle": ((".", "--accelerator", "diana", "--classes", "3"), "--classes 3 for .; wanted a backbone"),
    "shape of a bundle": ((".", "--accelerator", "diana", "--input-shape", "3,8,8"), "--input-shape for .; wanted a"),
    "gantt": ((*RESNET, "--gantt", "/nowhere/at/all.html"), "--gantt: /nowhere/at is no folder"),
}


@pytest.mark.parametrize("case", sorted(FAULTS))
def test_faults_are_one_line_with_exit_code_2(price: Run, case: str) -> None:
    words, message = FAULTS[case]
    code, out, err = price(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_bad_onnx_files_are_one_line_with_exit_code_2(price: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    bad = {
        model([CONV, node("LSTM", "y w", "z")]): "node n_z (LSTM): operator LSTM is not supported",
        model([node("Add", "x b", "a"), node("Relu", "a", "b")]): "the graph has a cycle",
        WHOLE[: len(WHOLE) // 2]: "damaged protobuf",
        b"": "a model without nodes",
    }
    for content, message in bad.items():
        path.write_bytes(content)
        code, out, err = price(str(path), "--accelerator", "diana", "--json")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
        assert "bad.onnx" in err
    path.write_bytes(model([CONV]))
    for option, value in (("--exits", "0"), ("--classes", "3")):
        code, out, err = price(str(path), "--accelerator", "diana", option, value)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{option} {value} for {path}; wanted a backbone name; a file" in err
