"""A bundle priced from its manifest and from the ONNX files of its stages is the same network."""

import json
import sys
from pathlib import Path

import pytest

from deploy_networks import dscnn, resnet8
from offramp.cli.main import main
from offramp.deploy.bundle import OperatingPoint, open_bundle, write_bundle
from offramp.formats.onnx_workload import read_onnx
from offramp.formats.quantized_workload import quantized_workload
from offramp.ir.quantized import QuantizedNetwork


@pytest.mark.parametrize("network", [resnet8(), dscnn()], ids=["resnet8", "dscnn"])
def test_stage_files_hold_the_layers_of_the_manifest(network: QuantizedNetwork, tmp_path: Path) -> None:
    early = len(network.stages) - 1
    folder = write_bundle(tmp_path / "bundle", network, thresholds=(0.5,) * early)
    bundle = open_bundle(folder)
    whole = quantized_workload(bundle.network)
    assert len(whole.stages) == early + 1
    for stage, record in zip(whole.stages, bundle.manifest.network.stages, strict=True):
        own = [*stage.backbone, *stage.branch]
        found = read_onnx(folder / record.onnx).layers
        assert sorted((x.op, x.macs, x.OY, x.OX, x.stride) for x in found) == sorted(
            (x.op, x.macs, x.OY, x.OX, x.stride) for x in own
        )
        matmuls = [x for x in found if x.has_weights]
        assert {x.input_bits for x in matmuls} == {8}


def test_a_bundle_is_priced_with_its_own_exit_rates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = resnet8()
    early = len(network.stages) - 1
    rates = (0.5,) + (0.5 / early,) * early
    points = {"default": OperatingPoint(thresholds=(0.5,) * early, exit_rates=rates)}
    folder = write_bundle(tmp_path / "bundle", network, thresholds=(0.5,) * early, operating_points=points)
    monkeypatch.setattr(sys, "argv", ["offramp", "price", str(folder), "--accelerator", "diana", "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_rates"] == pytest.approx(rates)
    assert len(answer["stages"]) == early + 1
    assert answer["macs"] == quantized_workload(network).macs
