"""A bundle on disk: a folder with a manifest, one ONNX file per stage and the integers as safetensors.

    manifest.json          architecture, mapping, predicted cost, metrics, thresholds, graph, checksums
    stage_0.onnx ...       backbone part and exit branch of each stage
    network.safetensors    weights, scales and biases, from which the C generator and the reference work

Reading trusts nothing: the manifest is parsed strictly, every file is read once, compared with its checksum, and the
ONNX files may hold only the operators that `deploy.onnx` writes. Nothing is unpickled, nothing is executed.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from offramp.deploy.checks import check_stage
from offramp.deploy.manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    OperatingPoint,
    Predicted,
    describe_network,
    network_tensors,
    parse_manifest,
    rebuild_network,
)
from offramp.deploy.onnx import stage_model
from offramp.deploy.plan import Plan, make_plan
from offramp.errors import FormatError, UserError, choose
from offramp.exits.policy import check_policy
from offramp.ir.architecture import Architecture
from offramp.ir.mapping import Mapping as CoreMapping
from offramp.ir.quantized import QuantizedNetwork
from offramp.target import check_target

WEIGHTS = "network.safetensors"
NEVER_LEAVE = 1e9
"""What an infinite threshold becomes in a manifest: no confidence reaches it."""
DEFAULT_POINT = "default"


@dataclass(frozen=True)
class Bundle:
    """An opened, verified bundle: its manifest and the bytes of its ONNX files, read once."""

    path: Path
    manifest: Manifest
    stage_files: tuple[bytes, ...]
    network: QuantizedNetwork

    @cached_property
    def plan(self) -> Plan:
        """The network in integers."""
        return make_plan(self.network)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Of the default operating point."""
        return self.point(DEFAULT_POINT).thresholds

    def point(self, name: str) -> OperatingPoint:
        """An operating point by name.

        Raises:
            UserError: there is no such point.
        """
        points = self.manifest.operating_points
        if name not in points:
            raise choose("operating point", name, points, where=str(self.path))
        return points[name]


def write_bundle(
    path: str | Path,
    network: QuantizedNetwork,
    *,
    thresholds: Sequence[float],
    policy: str = "max_softmax",
    operating_points: Mapping[str, OperatingPoint] | None = None,
    architecture: Architecture | None = None,
    mapping: CoreMapping | None = None,
    predicted: Predicted | None = None,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
    class_names: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    seed: int = 0,
    versions: Mapping[str, str] | None = None,
) -> Path:
    """Write a bundle; a bundle already there is replaced in one step, anything else is refused.

    Args:
        path: the folder to make.
        network: the converted network.
        thresholds: of the default operating point, one per early exit.
        policy: one of `offramp.exits.policy.POLICIES`.
        operating_points: further threshold sets by name.
        architecture: what was trained.
        mapping: which core runs which layer.
        predicted: cost of every stage and branch.
        metrics: split (`val`, `test`) -> figures.
        class_names: for people.
        data: `name`, `seed`, `normalization` (as `Normalization.to_json`) of the dataset trained on.
        seed: of the training.
        versions: further packages (torch) beside those known here.

    Raises:
        UserError: the thresholds do not fit the exits, the policy is unknown, or the path is in use.
    """
    target, plan = Path(path), make_plan(network)
    points = {DEFAULT_POINT: OperatingPoint(thresholds=_finite(thresholds)), **(operating_points or {})}
    _check_points(points, len(plan.stages), where=f"bundle ({check_policy(policy)})")
    _check_predicted(predicted, len(plan.stages), where="bundle")
    files = {f"stage_{i}.onnx": stage_model(plan, i).SerializeToString() for i in range(len(plan.stages))}
    files[WEIGHTS] = save_tensors(network_tensors(network))
    manifest = Manifest(
        network=describe_network(network, [name for name in files if name != WEIGHTS]),
        policy=policy,
        operating_points=points,
        architecture=architecture.to_json() if architecture else None,
        mapping=_mapping_json(mapping),
        predicted=predicted,
        metrics={k: dict(v) for k, v in (metrics or {}).items()},
        class_names=tuple(class_names),
        data=dict(data) if data else None,
        seed=seed,
        versions={**{p: version(p) for p in ("offramp", "numpy", "onnx", "onnxruntime")}, **(versions or {})},
        files={name: sha256(content).hexdigest() for name, content in files.items()},
    )
    files[MANIFEST] = manifest.model_dump_json(indent=1).encode()
    _replace_folder(target, files)
    return target


def _finite(thresholds: Sequence[float]) -> tuple[float, ...]:
    if any(math.isnan(t) for t in thresholds):
        raise UserError(f"thresholds {tuple(thresholds)}", wanted="numbers, one per early exit", where="bundle")
    return tuple(max(-NEVER_LEAVE, min(NEVER_LEAVE, float(t))) for t in thresholds)


def _check_points(points: Mapping[str, OperatingPoint], stages: int, where: str) -> None:
    if DEFAULT_POINT not in points:
        raise FormatError(f"no operating point {DEFAULT_POINT!r}", wanted="thresholds to start with", where=where)
    for name, point in points.items():
        if len(point.thresholds) != stages - 1:
            given = f"{len(point.thresholds)} thresholds at operating point {name!r}"
            raise FormatError(given, wanted=f"{stages - 1} numbers, one per early exit", where=where)
        if point.exit_rates and len(point.exit_rates) != stages:
            given = f"{len(point.exit_rates)} exit rates at operating point {name!r}"
            raise FormatError(given, wanted=f"{stages}, one per exit", where=where)


def _check_predicted(predicted: Predicted | None, stages: int, where: str) -> None:
    if predicted is not None and {len(predicted.stages), len(predicted.branches)} != {stages}:
        given = f"predicted cost of {len(predicted.stages)} stages and {len(predicted.branches)} branches"
        raise FormatError(given, wanted=f"of {stages} each", where=where)


def _mapping_json(mapping: CoreMapping | None) -> dict[str, Any] | None:
    if mapping is None:
        return None
    assignments = [{"layer": a.layer, "core": a.core, "channels": a.channels} for a in mapping.assignments]
    return {"assignments": assignments, "exit_modes": [str(m) for m in mapping.exit_modes]}


def check_place(target: Path) -> None:
    """Let a bundle be written where nothing is, in an empty folder, or over an earlier bundle.

    Raises:
        UserError: a file or a folder of the user's is there.
    """
    if target.exists() and not (target / MANIFEST).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} exists and is no bundle", wanted="a new folder or an older bundle")
    if target.exists():
        check_target(target / MANIFEST, (f'"{FORMAT}"'.encode(),), kind="manifest of a bundle", where=str(target))


def _replace_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Write beside the target, then rename; a reader sees the old bundle or the new one."""
    check_place(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        fresh, old = Path(temporary) / "new", Path(temporary) / "old"
        fresh.mkdir()
        for name, content in files.items():
            with (fresh / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if target.exists():
            for extra in target.iterdir():  # measurements and the like stay with the bundle's place
                if extra.name in files or extra.name.startswith("stage_"):
                    continue
                if extra.is_dir() and not extra.is_symlink():
                    shutil.copytree(extra, fresh / extra.name, symlinks=True)
                elif extra.is_file() or extra.is_symlink():
                    shutil.copy2(extra, fresh / extra.name, follow_symlinks=False)
            target.rename(old)
        fresh.rename(target)


def open_bundle(path: str | Path) -> Bundle:
    """Read and verify a bundle; nothing in it is executed.

    Raises:
        FormatError: damaged, tampered with, of a newer version, incomplete, or with operators that no bundle has.
    """
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        raise FormatError(f"no {MANIFEST}", wanted="a bundle folder", where=str(folder))
    manifest = parse_manifest((folder / MANIFEST).read_bytes(), where=str(folder / MANIFEST))
    contents = {name: _read_verified(folder, name, digest) for name, digest in manifest.files.items()}
    wanted = [stage.onnx for stage in manifest.network.stages]
    for name in (*wanted, WEIGHTS):
        if name not in contents:
            raise FormatError(f"no checksum for {name}", wanted="every file listed", where=f"{folder}: $.files")
    try:
        tensors = load_tensors(contents[WEIGHTS])
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise FormatError(f"not safetensors: {error}", wanted="an intact file", where=str(folder / WEIGHTS)) from error
    network = rebuild_network(manifest.network, tensors, where=str(folder))
    plan = make_plan(network)
    _check_points(manifest.operating_points, len(plan.stages), where=str(folder / MANIFEST))
    _check_predicted(manifest.predicted, len(plan.stages), where=str(folder / MANIFEST))
    stages = tuple(contents[name] for name in wanted)
    for index, (name, content) in enumerate(zip(wanted, stages, strict=True)):
        check_stage(content, plan, index, where=str(folder / name))
    return Bundle(folder, manifest, stages, network)


def _read_verified(folder: Path, name: str, digest: str) -> bytes:
    """The bytes of a listed file, when they lie inside the bundle and have the listed checksum."""
    where, path = f"{folder}: $.files[{json.dumps(name)}]", folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FormatError(f"{name!r} leads outside the bundle", wanted="a file name", where=where)
    if not path.is_file():
        raise FormatError(f"{name} is missing", wanted="every file of the bundle", where=where)
    content = path.read_bytes()
    if sha256(content).hexdigest() != digest:
        raise FormatError(f"{name} does not have its checksum (damaged or changed)", wanted=digest, where=where)
    return content
