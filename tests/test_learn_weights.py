"""Weights in files: they come back exactly; foreign or damaged files are refused and nothing is loaded."""

from pathlib import Path

import pytest
import torch

from offramp.errors import FormatError
from offramp.ir.architecture import Architecture
from offramp.learn.weights import load_weights, read_metadata, save_weights
from offramp.nn.network import build
from offramp.nn.quantize import prepare


def test_weights_and_metadata_come_back(tmp_path: Path) -> None:
    for make in (lambda n: n, prepare):
        a, b = (make(build(Architecture(backbone="resnet8"), (1, 8, 8), 10, seed=s)) for s in (0, 1))
        save_weights(tmp_path / "deep" / "w.safetensors", a, seed="0")
        assert load_weights(tmp_path / "deep" / "w.safetensors", b)["seed"] == "0"
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
        assert [p.name for p in (tmp_path / "deep").iterdir()] == ["w.safetensors"]


def test_foreign_shapes_and_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, build(Architecture(backbone="resnet8"), (1, 8, 8), 10, seed=0))
    other = build(Architecture(backbone="resnet8"), (3, 8, 8), 10, seed=1)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(FormatError, match=r"block0.conv.weight is \(16, 1, 3, 3\), not \(16, 3, 3, 3\)"):
        load_weights(path, other)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    with pytest.raises(FormatError, match=r"is missing; .* and \d+ more"):
        load_weights(path, build(Architecture(backbone="resnet20"), (1, 8, 8), 10, seed=1))


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    network = build(Architecture(backbone="resnet8"), (1, 8, 8), 10, seed=0)
    with pytest.raises(FormatError, match="cannot read weights"):
        load_weights(tmp_path / "none.safetensors", network)
    (tmp_path / "bad.safetensors").write_bytes(b"not a tensor in sight")
    with pytest.raises(FormatError, match="wanted a safetensors file"):
        load_weights(tmp_path / "bad.safetensors", network)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_metadata_must_be_a_json_object(text: str) -> None:
    with pytest.raises(FormatError, match="a JSON object"):
        read_metadata(text, where="w")
