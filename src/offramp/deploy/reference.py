"""The integer reference interpreter in NumPy: what the generated C must equal bit for bit.

`Arithmetic.FIXED` requantizes with the plan's multipliers and shifts, as the C does. `Arithmetic.REAL` follows the law
in `ir.quantized` with float64 scales and exists to show that the two agree. It is written to be read, not to be fast;
sums run as float64 matrix products, which are exact because every sum stays below 2^53.
It knows neither files nor thresholds: it evaluates every exit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offramp.deploy.plan import AnalogPlan, FixedPoint, Plan, Step
from offramp.errors import DataError
from offramp.ir.quantized import NodeOp, Quantizer

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Arithmetic(StrEnum):
    """FIXED: multipliers and shifts (the C's). REAL: float64 scales (the law's)."""

    FIXED = "fixed"
    REAL = "real"


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Every exit for every sample.

    Attributes:
        scores: integers [E, N, classes], in units of `Plan.stages[e].score_unit`.
        logits: the same in real units, [E, N, classes].
        activations: node name -> integers [N, C, H, W], when asked for.
    """

    scores: Ints
    logits: Floats
    activations: dict[str, Ints]


def quantize(values: ArrayLike, quantizer: Quantizer) -> Ints:
    """Real numbers to integers of a quantizer, in float32 as every runtime does it.

    Raises:
        DataError: a value is not finite.
    """
    real = np.asarray(values, dtype=np.float32)
    if not np.isfinite(real).all():
        raise DataError("an input that is not finite (NaN or infinity)", wanted="finite numbers", where="input")
    rounded = np.rint(real / np.float32(quantizer.scale))
    return np.asarray(np.clip(rounded, quantizer.low, quantizer.high).astype(np.int64))


def rescale(acc: Ints, fixed: FixedPoint, arithmetic: Arithmetic, axis: int = 1) -> Ints:
    """`round_half_even(acc * ratio + offset)`; channels of `fixed` lie along `axis`."""
    shape = [1] * acc.ndim
    shape[axis] = -1
    if arithmetic is Arithmetic.REAL:
        return _rint(acc * fixed.ratio.reshape(shape) + fixed.real_offset.reshape(shape))
    return _shift(acc * fixed.multiplier.reshape(shape) + fixed.offset.reshape(shape), fixed.shift.reshape(shape))


def _rint(values: Floats) -> Ints:
    return np.asarray(np.rint(values).astype(np.int64))


def _shift(product: Ints, shift: Ints) -> Ints:
    """product / 2^shift, ties to even: half less one, plus one when the quotient is odd."""
    half = np.left_shift(np.int64(1), shift - 1)
    return np.asarray((product + (half - 1) + ((product >> shift) & 1)) >> shift)


def evaluate(
    plan: Plan, inputs: Ints, *, arithmetic: Arithmetic = Arithmetic.FIXED, keep: bool = False, batch: int = 128
) -> Evaluation:
    """Run every stage and exit branch.

    Args:
        plan: the network in integers.
        inputs: integers [N, C, H, W] within the input quantizer's range.
        arithmetic: how sums become outputs.
        keep: also return every activation.
        batch: samples at a time.
    """
    parts = [_evaluate(plan, inputs[i : i + batch], arithmetic) for i in range(0, max(len(inputs), 1), batch)]
    scores = np.concatenate([scores for scores, _ in parts], axis=1)
    units = np.array([stage.score_unit for stage in plan.stages])
    kept = {k: np.concatenate([values[k] for _, values in parts]) for k in parts[0][1]} if keep else {}
    return Evaluation(scores, scores * units[:, None, None], kept)


def _evaluate(plan: Plan, inputs: Ints, arithmetic: Arithmetic) -> tuple[Ints, dict[str, Ints]]:
    values: dict[str, Ints] = {plan.input.name: inputs.astype(np.int64)}
    scores = []
    for stage in plan.stages:
        for step in stage.steps:
            values[step.target.name] = run_step(step, [values[s.name] for s in step.sources], arithmetic)
        (name,) = {s.target.name for s in stage.steps if s.is_logits}
        scores.append(values[name].reshape(len(inputs), -1))
    return np.stack(scores), values


def run_step(step: Step, inputs: list[Ints], arithmetic: Arithmetic = Arithmetic.FIXED) -> Ints:
    """One node on integers [N, C, H, W]."""
    node = step.node
    if node.op is NodeOp.MAX_POOL:
        return np.asarray(np.max([*_taps(step, inputs[0])], axis=0))
    if node.op is NodeOp.ADD:
        return np.clip(_add(step, inputs, arithmetic), step.low, step.high)
    if node.op is NodeOp.AVG_POOL:
        acc = np.sum([*_taps(step, inputs[0])], axis=0)
    elif step.analog is not None:
        acc = _analog(step, step.analog, inputs[0], arithmetic)
    else:
        assert step.bias is not None
        acc = _sums(step, inputs[0]) + step.bias.reshape(1, -1, 1, 1)
    return np.clip(rescale(acc, step.rescale[0], arithmetic), step.low, step.high)


def _add(step: Step, inputs: list[Ints], arithmetic: Arithmetic) -> Ints:
    pairs = list(zip(inputs, step.rescale, strict=True))
    if arithmetic is Arithmetic.REAL:
        return _rint(np.sum([x * f.ratio[0] for x, f in pairs], axis=0))
    return _shift(np.sum([x * f.multiplier[0] for x, f in pairs], axis=0), step.rescale[0].shift[0])


def _taps(step: Step, x: Ints) -> Iterator[Ints]:
    """The input under each position of the filter, [N, C, OY, OX], padded with 0."""
    (top, bottom, left, right), (sy, sx) = step.node.padding, step.node.stride
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    _, rows, columns = step.target.shape
    for fy in range(step.node.kernel[0]):
        for fx in range(step.node.kernel[1]):
            yield padded[:, :, fy : fy + sy * (rows - 1) + 1 : sy, fx : fx + sx * (columns - 1) + 1 : sx]


def _sums(step: Step, x: Ints, channels: slice = slice(None)) -> Ints:
    """Weighted sums over some of the input channels, [N, K, OY, OX]."""
    weight = step.node.weight
    assert weight is not None
    if step.node.op is NodeOp.DENSE:
        columns = x.reshape(len(x), -1)[:, channels].astype(np.float64)
        return (columns @ weight[:, channels].T.astype(np.float64)).astype(np.int64)[:, :, None, None]
    groups, per_group = step.node.groups, weight.shape[1]
    kernels = weight.reshape(groups, -1, per_group, weight.shape[2] * weight.shape[3]).astype(np.float64)
    total = np.zeros((len(x), *step.target.shape))
    for position, tap in enumerate(_taps(step, x)):
        n, _, rows, columns = tap.shape
        columns_of = tap.reshape(n, groups, per_group, rows * columns)[:, :, channels].astype(np.float64)
        total += (kernels[:, :, channels, position] @ columns_of).reshape(total.shape)
    return total.astype(np.int64)


def _analog(step: Step, analog: AnalogPlan, x: Ints, arithmetic: Arithmetic) -> Ints:
    """Sum over array blocks of the ADC's codes."""
    if analog.dac is not None:
        x = np.clip(rescale(x, analog.dac, arithmetic), *analog.dac_range)
    channels = step.sources[0].size if step.node.op is NodeOp.DENSE else step.sources[0].shape[0]
    total = np.zeros((len(x), *step.target.shape), dtype=np.int64)
    for start in range(0, channels, analog.block):
        partial = _sums(step, x, slice(start, start + analog.block))
        total += np.clip(rescale(partial, analog.adc, arithmetic), *analog.adc_range)
    return total
