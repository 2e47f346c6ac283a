"""Times every stage and exit branch of a bundle where it runs: ONNX Runtime, generated C, or a Cortex-M4 under QEMU.

Batch 1, one thread pinned to one core, a warm-up, then rounds in which every part runs once, so that a busy moment hits
all parts alike; medians and quartiles. On `host` a stage is one session (backbone part and branch together), as it is
in use; the two halves are timed as sessions of their own beside it. `qemu-m4` counts instructions, not time.
`write_measured` keeps it all as `measured.yaml`. It predicts nothing.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray

from offramp.deploy.bundle import DEFAULT_POINT, Bundle
from offramp.deploy.c.build import FAST, build_host, run_host, time_host
from offramp.deploy.c.cortex import build_cortex, footprint, run_cortex
from offramp.deploy.c.generate import write_c
from offramp.deploy.onnx import part_model
from offramp.deploy.reference import quantize
from offramp.deploy.runtime import Runner, make_session
from offramp.errors import choose

DEVICES = ("host", "c", "qemu-m4")
WARM_UP = 20
NUMPY_TYPES = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.UINT8: np.uint8}
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quartiles:
    """Of many runs of one part; microseconds, or instructions on `qemu-m4`."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Floats) -> "Quartiles":
        """From single values."""
        q1, median, q3 = (float(v) for v in np.percentile(values, [25, 50, 75]))
        return cls(median=median, q1=q1, q3=q3)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStage:
    """Backbone part and exit branch alone, and both as they run in one stage."""

    backbone: Quartiles
    branch: Quartiles
    together: Quartiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One bundle on one device.

    Attributes:
        unit: "us" or "instructions".
        stages: in order.
        whole: per sample with its own exit: mean, p50, p99, max.
        exits: how many of the timed samples left at each exit.
        memory: bytes of flash and RAM, where the device says.
    """

    device: str
    unit: str
    machine: str
    date: str
    samples: int
    stages: tuple[MeasuredStage, ...]
    whole: dict[str, float]
    exits: tuple[int, ...]
    memory: dict[str, int] = field(default_factory=dict)


@contextmanager
def pinned_core() -> Iterator[None]:
    """Keep this process on one core, where the system offers it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def machine_name() -> str:
    """The processor as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def time_rounds(parts: Sequence[Callable[[], Any]], rounds: int, warm_up: int = WARM_UP) -> Floats:
    """Microseconds [rounds, parts] of calls taken in turn, after a warm-up."""
    for part in parts:
        for _ in range(warm_up):
            part()
    times = np.zeros((rounds, len(parts)))
    clock = time.perf_counter
    for row in times:
        for index, part in enumerate(parts):
            start = clock()
            part()
            row[index] = clock() - start
    return np.asarray(times * 1e6)


def bound_call(model: onnx.ModelProto) -> Callable[[], Any]:
    """A call that runs a model of fixed sizes (batch 1) on zeros, with buffers bound once."""
    session = make_session(model.SerializeToString())
    binding = session.io_binding()
    buffers: list[NDArray[Any]] = []
    for infos, bind in ((model.graph.input, binding.bind_input), (model.graph.output, binding.bind_output)):
        for info in infos:
            kind = info.type.tensor_type
            array = np.zeros([max(d.dim_value, 1) for d in kind.shape.dim], NUMPY_TYPES[kind.elem_type])
            buffers.append(array)
            bind(info.name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)

    def call(_keep: list[NDArray[Any]] = buffers) -> None:
        session.run_with_iobinding(binding)

    return call


def measure(
    bundle: Bundle, device: str, inputs: NDArray[np.float32], *, rounds: int = 200, point: str = DEFAULT_POINT
) -> Measurement:
    """Time a bundle on a device.

    Args:
        bundle: an opened bundle.
        device: one of `DEVICES`.
        inputs: real samples, float32 [N, C, H, W], for the figures of whole runs.
        rounds: of the parts; on `c` shared among the samples, on `qemu-m4` not used.
        point: operating point.

    Raises:
        UserError: the device is unknown or its tools are not installed.
    """
    if device not in DEVICES:
        raise choose("device", device, DEVICES, where="--device")
    if device == "host":
        return _measure_host(bundle, inputs, rounds, point)
    with tempfile.TemporaryDirectory(prefix="offramp-") as folder:
        write_c(folder, bundle.plan, bundle.manifest.policy, bundle.point(point).thresholds)
        integers = quantize(inputs, bundle.network.input)
        if device == "c":
            return _measure_c(bundle, Path(folder), integers, rounds)
        return _measure_cortex(bundle, Path(folder), integers)


def _measure_host(bundle: Bundle, inputs: NDArray[np.float32], rounds: int, point: str) -> Measurement:
    runner, plan = Runner(bundle, operating_point=point), bundle.plan
    with pinned_core():
        thresholds, runner.thresholds = runner.thresholds, (np.inf,) * len(runner.thresholds)
        runner.stream(inputs[0])
        runner.thresholds = thresholds
        calls: list[Callable[[], Any]] = []
        for index in range(len(plan.stages)):
            backbone = plan.stages[index].backbone
            calls.append(bound_call(part_model(plan, index, branch=False)) if backbone else _nothing)
            calls.append(bound_call(part_model(plan, index, branch=True)) if plan.stages[index].branch else _nothing)
            calls.append(runner.bound(index).run)
        parts = time_rounds(calls, rounds)
        whole, exits = _time_samples(runner, inputs)
    stages = tuple(_stage(parts[:, 3 * i : 3 * i + 3]) for i in range(len(plan.stages)))
    return _measurement("host", "us", stages, whole, exits)


def _nothing() -> None:
    pass


def _time_samples(runner: Runner, inputs: NDArray[np.float32]) -> tuple[Floats, NDArray[np.int64]]:
    for sample in inputs[:WARM_UP]:
        runner.stream(sample)
    times, exits = np.zeros(len(inputs)), np.zeros(len(inputs), np.int64)
    for index, sample in enumerate(inputs):
        start = time.perf_counter()
        exits[index] = runner.stream(sample).exit
        times[index] = time.perf_counter() - start
    return times * 1e6, exits


def _stage(columns: Floats) -> MeasuredStage:
    backbone, branch, together = (Quartiles.of(columns[:, i]) for i in range(3))
    return MeasuredStage(backbone=backbone, branch=branch, together=together)


def _measure_c(bundle: Bundle, folder: Path, integers: NDArray[np.int64], rounds: int) -> Measurement:
    plan = bundle.plan
    program = build_host(folder, len(plan.stages), FAST)
    each = max(2, rounds // len(integers))
    raw = time_host(program, plan, integers, each).astype(np.float64) / 1e3
    whole = np.median(raw[:, :, -1], axis=1)
    parts = raw[len(raw) // 10 :, :, :-1].reshape(-1, len(plan.stages), 2)
    stages = tuple(_stage(np.column_stack([parts[:, i], parts[:, i].sum(axis=1)])) for i in range(len(plan.stages)))
    exits = run_host(program, plan, integers).exits
    return _measurement("c", "us", stages, whole, exits)


def _measure_cortex(bundle: Bundle, folder: Path, integers: NDArray[np.int64]) -> Measurement:
    plan = bundle.plan
    program = build_cortex(folder, len(plan.stages))
    ran, size = run_cortex(program, plan, integers), footprint(program)
    counts = ran.parts.astype(np.float64).reshape(-1, 2)
    stages = tuple(_stage(np.array([[backbone, branch, backbone + branch]])) for backbone, branch in counts)
    memory = {"flash_bytes": size.flash_bytes, "ram_bytes": size.ram_bytes}
    whole = ran.instructions.astype(np.float64)
    return _measurement("qemu-m4", "instructions", stages, whole, ran.exits, memory)


def _measurement(
    device: str,
    unit: str,
    stages: tuple[MeasuredStage, ...],
    whole: Floats,
    exits: NDArray[np.int64],
    memory: dict[str, int] | None = None,
) -> Measurement:
    p50, p99 = (float(v) for v in np.percentile(whole, [50, 99]))
    return Measurement(
        device=device,
        unit=unit,
        machine="QEMU mps2-an386, Cortex-M4" if device == "qemu-m4" else machine_name(),
        date=time.strftime("%Y-%m-%d"),
        samples=len(whole),
        stages=stages,
        whole={"mean": float(whole.mean()), "p50": p50, "p99": p99, "max": float(whole.max())},
        exits=tuple(int(n) for n in np.bincount(exits, minlength=len(stages))),
        memory=memory or {},
    )


def to_data(measurement: Measurement, bundle: Bundle) -> dict[str, Any]:
    """The measurement beside the manifest's prediction, as plain values."""
    data = asdict(measurement)
    data["stages"] = list(data["stages"])
    data["exits"] = list(data["exits"])
    predicted = bundle.manifest.predicted
    if predicted is not None:
        data["predicted"] = {
            "accelerator": predicted.accelerator,
            "stages": [
                {"backbone_us": s.latency_ms * 1e3, "branch_us": b.latency_ms * 1e3}
                for s, b in zip(predicted.stages, predicted.branches, strict=True)
            ],
        }
    return {"format": "offramp-measured", "version": 1, "bundle": bundle.manifest.network.name, **data}


def write_measured(path: str | Path, data: dict[str, Any]) -> None:
    """Keep a measurement as YAML."""
    Path(path).write_text(yaml.safe_dump(data, sort_keys=False))
