"""Damaged bundles whose checksums are right: opened and run, or refused in one line; never a traceback."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damaged_files import damaged_bytes, damaged_document, damaged_text
from deploy_networks import resnet8
from offramp.deploy.bundle import WEIGHTS, open_bundle, write_bundle
from offramp.deploy.manifest import MANIFEST, PartCost, Predicted
from offramp.deploy.runtime import Runner
from offramp.errors import OfframpError

SHAPE = (3, 8, 8)
KNOWN = ("conv", "dense", "add", "stage_0.onnx", "../stage_0.onnx", "input", "conv1", "default", "\ud800", "a\nb")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = tuple(PartCost(latency_ms=1, energy_uj=2) for _ in range(3))
    return write_bundle(
        tmp_path_factory.mktemp("damage") / "bundle",
        resnet8(shape=SHAPE, widths=(4, 4, 4)),
        thresholds=(0.5, 0.6),
        predicted=Predicted(accelerator="diana", stages=parts, branches=parts),
        data={"name": "digits"},
    )


@pytest.fixture(scope="module")
def good(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def opened_and_run_or_refused(folder: Path, good: dict[str, bytes], changed: dict[str, bytes]) -> None:
    """Open a bundle of these files and run a sample when it opens; puts the good files back."""
    for name, content in changed.items():
        (folder / name).write_bytes(content)
    try:
        runner = Runner(open_bundle(folder))
        runner.stream(np.zeros(runner.bundle.network.input_shape, np.float32))
    except OfframpError as error:
        assert str(error).isprintable()
    finally:
        for name in changed:
            (folder / name).write_bytes(good[name])


def with_checksum(good: dict[str, bytes], name: str, content: bytes) -> dict[str, bytes]:
    """The file and a manifest that knows its checksum: what an attacker would write."""
    manifest = json.loads(good[MANIFEST])
    manifest["files"][name] = sha256(content).hexdigest()
    return {name: content, MANIFEST: json.dumps(manifest).encode()}


@pytest.mark.reader
@given(draw=st.data())
@settings(max_examples=150)
def test_damaged_manifests(folder: Path, good: dict[str, bytes], draw: st.DataObject) -> None:
    text = good[MANIFEST].decode()
    content = draw.draw(
        damaged_document([json.loads(text)], KNOWN).map(json.dumps)
        | damaged_text([text])
        | damaged_bytes([good[MANIFEST]]).map(lambda b: b.decode("latin1"))
    )
    opened_and_run_or_refused(folder, good, {MANIFEST: content.encode("utf-8", "surrogatepass")})


@pytest.mark.reader
@pytest.mark.parametrize("name", ["stage_0.onnx", "stage_2.onnx", WEIGHTS])
@given(draw=st.data())
@settings(max_examples=50)
def test_damaged_files_with_a_right_checksum(
    folder: Path, good: dict[str, bytes], name: str, draw: st.DataObject
) -> None:
    content = draw.draw(damaged_bytes([good[name]]))
    opened_and_run_or_refused(folder, good, with_checksum(good, name, content))
