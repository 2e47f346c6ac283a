"""Runs a bundle with ONNX Runtime, stage by stage, and stops at the exit: a later stage is not run at all.

Batches are compacted as samples leave; `stream` takes one sample at a time through buffers bound once, so that staging
costs a few microseconds. Thresholds and operating point may change between calls. Sessions are made when a stage is
first needed. Exit decisions are `offramp.exits`': nothing is decided here. It needs no torch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from offramp.deploy.bundle import DEFAULT_POINT, Bundle, open_bundle
from offramp.deploy.onnx import carried_shape
from offramp.deploy.plan import StagePlan
from offramp.errors import DataError, FormatError, InternalError, UserError
from offramp.exits.policy import decide
from offramp.exits.single import Rule, make_rules

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Link = tuple[int, Callable[[], Any], Callable[[], list[float]], Rule]
"""A stage for one sample: its index, its run, its logits, whether to stop there."""
FLOAT32 = np.dtype(np.float32)
EXACT_KERNELS = "session.x64quantprecision"
"""ONNX Runtime: where int8 products can saturate (x86 without VNNI), use kernels that cannot."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Class index and exit index of every sample, [N] each."""

    labels: Ints
    exits: Ints


class Answer(NamedTuple):
    """Class index and exit index of one sample."""

    label: int
    exit: int


def make_session(model: bytes, *, threads: int = 1, optimize: bool = True) -> Any:
    """An ONNX Runtime session with the settings under which bundles are exact."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry(EXACT_KERNELS, "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class BoundStage:
    """A stage's session with fixed buffers for one sample: fill `source`, call `run`, read `logits`."""

    def __init__(self, session: Any, source: NDArray[Any], stage: StagePlan, classes: int, *, last: bool) -> None:
        self.source, self.binding = source, session.io_binding()
        self.logits = np.zeros((1, classes), np.float32)
        self.carried = np.zeros((1, *carried_shape(stage.carried)), np.uint8)
        entry = session.get_inputs()[0].name
        self.binding.bind_input(entry, "cpu", 0, source.dtype.type, list(source.shape), source.ctypes.data)
        results: list[NDArray[Any]] = [self.logits] if last else [self.carried, self.logits]
        for info, array in zip(session.get_outputs(), results, strict=True):
            self.binding.bind_output(info.name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        self.run = partial(session.run_with_iobinding, self.binding)
        self.read: Callable[[], list[float]] = self.logits[0].tolist


class Runner:
    """A bundle ready to run.

    Attributes:
        thresholds: in use; assign to change them.
        executions: samples that each stage has run, since the start or `reset`.
        calls: session runs of each stage.

    Raises:
        FormatError: the bundle is not what it should be.
        UserError: the operating point is unknown.
    """

    def __init__(self, bundle: Bundle | str | Path, *, operating_point: str = DEFAULT_POINT, threads: int = 1) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self.policy = self.bundle.manifest.policy
        self._threads, self._stages = threads, self.bundle.plan.stages
        self._sessions: list[Any | None] = [None] * len(self._stages)
        self._bound: list[BoundStage] = []
        self._links: list[Link] = []
        self._streamed: list[int] = []
        self.use(operating_point)
        self.reset()

    def use(self, operating_point: str) -> None:
        """Take the thresholds of another operating point."""
        self.thresholds = self.bundle.point(operating_point).thresholds

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One per early exit."""
        return self._thresholds[:-1]

    @thresholds.setter
    def thresholds(self, values: Sequence[float]) -> None:
        try:
            numbers = tuple(float(v) for v in values)
        except (TypeError, ValueError):
            numbers = (math.nan,)
        if len(numbers) != len(self._stages) - 1 or any(map(math.isnan, numbers)):
            wanted = f"{len(self._stages) - 1} numbers, one per early exit"
            raise UserError(f"thresholds {values!r}", wanted=wanted, where=str(self.bundle.path))
        self._thresholds = (*numbers, -math.inf)
        self._rules = make_rules(self.policy, self._thresholds, self.bundle.plan.temperatures)
        self._links[:] = [self._link(index) for index in range(len(self._stages))]

    def reset(self) -> None:
        """Set the counters to zero."""
        self._executions, self._calls = ([0] * len(self._stages) for _ in range(2))
        self._streamed[:] = [0] * len(self._stages)

    @property
    def executions(self) -> tuple[int, ...]:
        """Samples that each stage has run."""
        return tuple(n + m for n, m in zip(self._executions, self._reached(), strict=True))

    @property
    def calls(self) -> tuple[int, ...]:
        """Session runs of each stage."""
        return tuple(n + m for n, m in zip(self._calls, self._reached(), strict=True))

    def _reached(self) -> list[int]:
        """Streamed samples that reached each stage: all that left there or later."""
        return [sum(self._streamed[i:]) for i in range(len(self._stages))]

    def session(self, stage: int) -> Any:
        """The session of a stage, made at first need.

        Raises:
            FormatError: ONNX Runtime does not take the stage's file.
        """
        if self._sessions[stage] is None:
            try:
                self._sessions[stage] = make_session(self.bundle.stage_files[stage], threads=self._threads)
            except Exception as error:
                raise self._refused(stage, error) from error
        return self._sessions[stage]

    def _refused(self, stage: int, error: Exception) -> FormatError:
        """What ONNX Runtime says about a stage, as ours; it has an exception of its own for each code."""
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = f"{self.bundle.path}: stage {stage}"
        return FormatError(f"ONNX Runtime refuses it: {first}", wanted="an intact stage", where=where)

    def predict(self, inputs: NDArray[Any], *, batch: int = 64) -> Outcome:
        """Labels and exits of many samples, float [N, C, H, W], as the network was trained on (normalised).

        Raises:
            DataError: wrong shape or type, or numbers that are not finite; nothing has run then.
        """
        if batch < 1:
            raise UserError(f"batches of {batch}", wanted="at least 1", where="predict", write="batch=64")
        checked = self._checked(inputs, many=True)
        parts = [self._predict_batch(checked[i : i + batch]) for i in range(0, len(checked), batch)]
        if not parts:
            return Outcome(np.zeros(0, np.int64), np.zeros(0, np.int64))
        return Outcome(np.concatenate([p.labels for p in parts]), np.concatenate([p.exits for p in parts]))

    def _checked(self, inputs: NDArray[Any], *, many: bool = False) -> Floats:
        """One sample, or many along a first axis, as finite float32."""
        shape, where = self.bundle.plan.input.shape, f"input of {self.bundle.path.name}"
        wanted = str(("samples", *shape) if many else shape).replace("'", "")
        try:
            x = np.asarray(inputs)
        except ValueError as error:
            raise DataError("rows of unequal length", wanted=f"an array {wanted}", where=where) from error
        if x.ndim != len(shape) + many or x.shape[many:] != shape:
            raise DataError(f"shape {x.shape}", wanted=wanted, where=where)
        if x.dtype not in (np.float32, np.float64):
            raise DataError(f"type {x.dtype}", wanted="float32, normalised as in training", where=where)
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            x = x.astype(np.float32, copy=False)
        if not np.isfinite(x).all():
            raise DataError("numbers that are not finite (NaN or infinity)", wanted="finite numbers", where=where)
        return x

    def _predict_batch(self, values: NDArray[Any]) -> Outcome:
        count = len(values)
        labels, exits = np.zeros(count, np.int64), np.zeros(count, np.int64)
        inside, history = np.arange(count), None
        for index, threshold in enumerate(self._thresholds):
            temperature = self.bundle.plan.temperatures[index]
            *carried, logits = self._run(index, values)
            self._executions[index] += len(inside)
            self._calls[index] += 1
            decision = decide(self.policy, logits, threshold, temperature=temperature, history=history)
            labels[inside[decision.leave]], exits[inside[decision.leave]] = decision.prediction[decision.leave], index
            stay = ~decision.leave
            if not stay.any():
                break
            inside, values = inside[stay], carried[0][stay]
            history = decision.history.of(stay)
        return Outcome(labels, exits)

    def _run(self, stage: int, values: NDArray[Any]) -> list[NDArray[Any]]:
        """A stage for several samples: what it carries on, when it is not the last, and logits."""
        session = self.session(stage)
        try:
            results: list[NDArray[Any]] = session.run(None, {session.get_inputs()[0].name: values})
        except Exception as error:
            raise self._refused(stage, error) from error
        if results[-1].shape != (len(values), self.bundle.network.classes):
            given, where = f"logits of shape {results[-1].shape}", f"{self.bundle.path}: stage {stage}"
            raise FormatError(given, wanted=f"({len(values)}, {self.bundle.network.classes})", where=where)
        return results

    def stream(self, sample: NDArray[Any]) -> Answer:
        """Label and exit of one sample, float [C, H, W].

        Raises:
            DataError: wrong shape or type, or numbers that are not finite; nothing has run then.
        """
        return self._walk(sample)

    @cached_property
    def _walk(self) -> Callable[[NDArray[Any]], Answer]:
        """`stream` with everything at hand that does not change from sample to sample: a stage fills the caches with
        its own data, and every attribute looked up afterwards costs a part of a microsecond."""
        first, streamed, shape = self.bound(0), self._streamed, self.bundle.plan.input.shape
        source, flat, isfinite, checked = first.source[0], first.source.reshape(-1), math.isfinite, self._checked
        square, links = np.vdot, self._links

        def walk(sample: NDArray[Any]) -> Answer:
            try:
                plain = sample.shape == shape and sample.dtype is FLOAT32
            except AttributeError:
                plain = False
            source[...] = sample if plain else checked(sample)
            if not isfinite(square(flat, flat)):
                checked(sample)
            for stage, run, read, leaves in links:
                run()
                logits = read()
                if leaves(logits):
                    streamed[stage] += 1
                    return Answer(logits.index(max(logits)), stage)
            raise InternalError("the final exit let a sample pass")

        return walk

    def _link(self, index: int) -> Link:
        """What `stream` needs of a stage; one that has never run is bound when it first does."""
        if index < len(self._bound):
            return index, self._bound[index].run, self._bound[index].read, self._rules[index]

        def run() -> None:
            self.bound(index).run()
            self._links[index] = self._link(index)

        return index, run, lambda: self._bound[index].read(), self._rules[index]

    def bound(self, index: int) -> BoundStage:
        """Buffers of a stage, made at first need and run once, so that a fault shows here; a stage reads where the one
        before wrote."""
        while len(self._bound) <= index:
            at, plan = len(self._bound), self.bundle.plan
            source = self._bound[-1].carried if at else np.zeros((1, *plan.input.shape), np.float32)
            last = at == len(self._stages) - 1
            made = BoundStage(self.session(at), source, self._stages[at], plan.network.classes, last=last)
            try:
                made.run()
            except Exception as error:
                raise self._refused(at, error) from error
            self._bound.append(made)
        return self._bound[index]
