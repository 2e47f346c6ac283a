"""`offramp run` end to end: real digits through a converted network; exit codes and one line for the user's faults."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli_inside import offramp
from deploy_networks import resnet8
from offramp.data.dataset import load_dataset
from offramp.deploy.bundle import write_bundle
from offramp.deploy.manifest import PartCost, Predicted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = load_dataset("digits", seed=3)
    network = resnet8(shape=data.input_shape, widths=(8, 8, 16), classes=data.classes)
    costs = tuple(PartCost(latency_ms=1.0 + i, energy_uj=2.0) for i in range(3))
    branches = tuple(PartCost(latency_ms=0.5, energy_uj=0.25) for _ in range(3))
    return write_bundle(
        tmp_path_factory.mktemp("cli") / "bundle",
        network,
        thresholds=(0.5, 0.5),
        predicted=Predicted(accelerator="diana", stages=costs, branches=branches),
        data={"name": "digits", "seed": 3, "normalization": data.normalization.to_json()},
        seed=3,
    )


def test_json_has_what_the_page_promises(folder: Path) -> None:
    command = [sys.executable, "-m", "offramp", "run", str(folder), "--data", "digits", "--json", "--limit", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["samples"] == 100 and 0 <= report["accuracy"] <= 1
    rates = report["exit_rates"]
    assert abs(sum(rates) - 1) < 1e-9
    left = [round(r * 100) for r in rates]
    assert report["stage_executions"] == [100, 100 - left[0], left[2]]
    assert report["measured_latency_ms"]["p50"] > 0
    expected = sum(r * c for r, c in zip(rates, (1.5, 4.0, 7.5), strict=True))
    assert report["predicted"]["latency_ms"] == pytest.approx(expected)
    assert report["predicted"]["worst_latency_ms"] == pytest.approx(7.5)


def test_people_read_a_table(folder: Path) -> None:
    done = offramp("run", str(folder), "--data", "digits", "--limit", "50", "--split", "val")
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout and "measured" in done.stdout and "predicted (diana)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "--data", "digits"), "manifest.json"),
        (("BUNDLE", "--data", "nothing"), "nothing"),
        (("BUNDLE", "--data", "digits", "--split", "all"), "--split"),
        (("BUNDLE", "--data", "digits", "--point", "slow"), "unknown operating point 'slow'; wanted one of default"),
    ],
)
def test_faults_are_one_line_and_exit_code_2(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = offramp("run", *(str(folder) if a == "BUNDLE" else a for a in arguments))
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_running_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from offramp.deploy.runtime import Runner\n"
        f"print(Runner({str(folder)!r}).executions)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "(0, 0, 0)" in done.stdout, done.stderr
