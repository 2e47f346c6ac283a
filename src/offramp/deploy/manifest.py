"""The manifest of a bundle as strict, frozen models, and a converted network as a part of it.

Unknown keys, wrong types and numbers that are not finite are errors. The graph is in the manifest, the integers are in
a safetensors file: `describe_network` and `network_tensors` take a network apart, `rebuild_network` puts it together.
It knows no ONNX and runs nothing.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from offramp.errors import FormatError
from offramp.ir.quantized import (
    Activation,
    AnalogNumbers,
    Node,
    NodeOp,
    QuantizedNetwork,
    QuantizedStage,
    Quantizer,
)

MANIFEST = "manifest.json"
FORMAT = "offramp-bundle"
VERSION = 1
MAX_BYTES = 64 * 2**20
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*$", max_length=200)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Base: frozen, strict about keys and numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PartCost(Record):
    """Predicted cost of one stage's backbone part or of one exit branch."""

    latency_ms: float = Field(ge=0)
    energy_uj: float = Field(ge=0)


class Predicted(Record):
    """Predicted cost per stage: backbone parts and exit branches, in order; `accelerator` names the cost model."""

    accelerator: str
    stages: tuple[PartCost, ...]
    branches: tuple[PartCost, ...]


class OperatingPoint(Record):
    """One set of thresholds, and what it gave on a split when that is known."""

    thresholds: tuple[float, ...]
    split: str | None = None
    accuracy: float | None = Field(default=None, ge=0, le=1)
    exit_rates: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    latency_ms: float | None = None
    energy_uj: float | None = None


class NodeRecord(Record):
    """A node without its arrays; `has_bias` says whether there is one."""

    name: Annotated[str, Field(min_length=1, max_length=300)]
    op: NodeOp
    inputs: tuple[str, ...]
    kernel: tuple[int, int]
    stride: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    padding: tuple[int, int, int, int]
    groups: int = Field(ge=1)
    weight_bits: int
    activation: Activation
    output: Quantizer | None
    analog: AnalogNumbers | None
    has_bias: bool


class StageRecord(Record):
    """A stage of the graph and the name of its ONNX file."""

    mounting_point: int
    onnx: FileName
    backbone: tuple[NodeRecord, ...]
    branch: tuple[NodeRecord, ...]
    carried: str
    logits: str


class NetworkRecord(Record):
    """The graph of a converted network."""

    name: str
    input_name: str
    input_shape: tuple[int, int, int]
    input: Quantizer
    classes: int = Field(ge=1)
    temperatures: tuple[float, ...]
    stages: tuple[StageRecord, ...]


class Manifest(Record):
    """Everything about a bundle but the integers. `files` maps each file to its SHA-256."""

    format: Literal["offramp-bundle"] = "offramp-bundle"
    version: Literal[1] = 1
    network: NetworkRecord
    policy: Literal["max_softmax", "margin", "entropy", "patience"]
    operating_points: dict[str, OperatingPoint]
    architecture: dict[str, Any] | None = None
    mapping: dict[str, Any] | None = None
    predicted: Predicted | None = None
    metrics: dict[str, dict[str, Any]] = Field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    data: dict[str, Any] | None = None
    seed: int = Field(default=0, ge=0)
    versions: dict[str, str] = Field(default_factory=dict)
    files: dict[FileName, Digest]


def parse_manifest(content: bytes, *, where: str) -> Manifest:
    """A manifest from its bytes.

    Raises:
        FormatError: not JSON, not a bundle's manifest, of a newer version, or with faults (all are listed).
    """
    if len(content) > MAX_BYTES:
        raise FormatError(f"{len(content)} bytes", wanted=f"at most {MAX_BYTES}", where=where)
    try:
        data = json.loads(content, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON ({type(error).__name__}: {error})", wanted="a manifest", where=where) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise FormatError("not a bundle's manifest", wanted=f'"format": "{FORMAT}"', where=where)
    if data.get("version") != VERSION:
        given = f"version {data.get('version')!r}"
        raise FormatError(given, wanted=f"version {VERSION}; a newer Offramp may read it", where=f"{where}: $.version")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise FormatError(_faults(error), wanted="the keys that write_bundle writes", where=where) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [k for k, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"a key twice: {next(k for k in keys if keys.count(k) > 1)!r}")
    return dict(pairs)


def _faults(error: ValidationError) -> str:
    """Every fault with its place, at most ten."""
    lines = [
        f"${''.join(f'[{p}]' if isinstance(p, int) else f'.{p}' for p in e['loc'])}: {e['msg']}" for e in error.errors()
    ]
    return "; ".join(lines[:10]) + (f"; and {len(lines) - 10} more" if len(lines) > 10 else "")


def describe_network(network: QuantizedNetwork, files: Sequence[str]) -> NetworkRecord:
    """The graph of a network; `files` are the ONNX files of its stages."""
    stages = [
        StageRecord(
            mounting_point=stage.mounting_point,
            onnx=file,
            backbone=tuple(_describe(node) for node in stage.backbone),
            branch=tuple(_describe(node) for node in stage.branch),
            carried=stage.carried,
            logits=stage.logits,
        )
        for stage, file in zip(network.stages, files, strict=True)
    ]
    return NetworkRecord(
        name=network.name, input_name=network.input_name, input_shape=network.input_shape, input=network.input,
        classes=network.classes, temperatures=network.temperatures, stages=tuple(stages),
    )  # fmt: skip


def _describe(node: Node) -> NodeRecord:
    fields = {k: getattr(node, k) for k in NodeRecord.model_fields if k != "has_bias"}
    return NodeRecord(**fields, has_bias=node.bias is not None)


def network_tensors(network: QuantizedNetwork) -> dict[str, NDArray[Any]]:
    """Every array of a network by `node/kind`."""
    tensors: dict[str, NDArray[Any]] = {}
    for node in _nodes(network.stages):
        for kind in ("weight", "weight_scale", "bias"):
            value = getattr(node, kind)
            if value is not None:
                tensors[f"{node.name}/{kind}"] = np.ascontiguousarray(value)
    return tensors


def _nodes(stages: Sequence[QuantizedStage]) -> list[Node]:
    return [node for stage in stages for node in (*stage.backbone, *stage.branch)]


def rebuild_network(record: NetworkRecord, tensors: Mapping[str, NDArray[Any]], *, where: str) -> QuantizedNetwork:
    """The network from graph and arrays.

    Raises:
        FormatError: an array is missing or not of its type.
    """
    return QuantizedNetwork(
        name=record.name,
        input_name=record.input_name,
        input_shape=record.input_shape,
        input=record.input,
        classes=record.classes,
        temperatures=record.temperatures,
        stages=tuple(
            QuantizedStage(
                mounting_point=stage.mounting_point,
                backbone=tuple(_rebuild(node, tensors, where) for node in stage.backbone),
                branch=tuple(_rebuild(node, tensors, where) for node in stage.branch),
                carried=stage.carried,
                logits=stage.logits,
            )
            for stage in record.stages
        ),
    )


def _rebuild(record: NodeRecord, tensors: Mapping[str, NDArray[Any]], where: str) -> Node:
    fields = {k: getattr(record, k) for k in NodeRecord.model_fields if k != "has_bias"}
    has_weights = record.op in (NodeOp.CONV, NodeOp.DENSE)
    kinds = [("weight", np.int8, has_weights), ("weight_scale", np.float32, has_weights)]
    for kind, dtype, wanted in (*kinds, ("bias", np.float32, record.has_bias)):
        value = tensors.get(f"{record.name}/{kind}")
        if (value is not None) != wanted or (value is not None and value.dtype != dtype):
            given = f"{record.name}/{kind} is {value.dtype if value is not None else 'missing'}"
            raise FormatError(given, wanted=np.dtype(dtype).name if wanted else "no such array", where=where)
        fields[kind] = value
    return Node(**fields)
