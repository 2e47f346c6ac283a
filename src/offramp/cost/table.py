"""Measured times as a cost model: a layer in the table costs what was measured, any other is interpolated.

The rule for a layer that is not in the table: among rows of its operator, latency is interpolated linearly in log-log
space over multiply-accumulates (for additions and pooling: operations); below the first and above the last row it
grows in proportion. Rows with the layer's own bits are used alone when there are at least two of them. An operator
without any row is infeasible. Energy is what was measured, or time times the device's power. Activations have one
place: all variants are equal.
"""

from collections.abc import Sequence

import numpy as np

from offramp.cost.model import VARIANTS, CoreCosts
from offramp.ir.accelerator import Accelerator, Core, MeasuredLayer
from offramp.ir.workload import MATMUL_OPS, Layer, Op

Signature = tuple[Op, tuple[int, ...], tuple[int, int, int]]
"""Operator, loop sizes and bits: what a row is found by."""


def table_costs(layers: Sequence[Layer], core: Core, chip: Accelerator) -> CoreCosts:
    """Price layers by a table of measured times."""
    rows: dict[Signature, MeasuredLayer] = {(r.op, r.sizes, r.bits): r for r in core.measured}
    priced = [_price(layer, core, rows) for layer in layers]
    shape = (VARIANTS, len(layers))
    cycles = np.broadcast_to([us * chip.clock_mhz for us, _ in priced], shape).copy()
    energy = np.broadcast_to([uj * 1e6 for _, uj in priced], shape).copy()
    held = [layer.input_elements * layer.input_bits + layer.output_elements * layer.output_bits for layer in layers]
    peak = np.broadcast_to(np.array(held, dtype=np.float64) / 8, shape).copy()
    return CoreCosts(
        cycles=cycles,
        energy_pj=energy,
        parts={"measured": energy.copy()},
        utilization=np.zeros(shape),
        peak_bytes=peak,
        levels={"activations": peak.copy()},
    )


def _signature(layer: Layer) -> Signature:
    sizes = (layer.G, layer.B, layer.K, layer.C, layer.OY, layer.OX, layer.FY, layer.FX)
    return layer.op, sizes, (layer.weight_bits, layer.input_bits, layer.output_bits)


def _work(op: Op, sizes: Sequence[int]) -> float:
    product = float(np.prod(np.array(sizes, dtype=np.float64)))
    if op in MATMUL_OPS:
        return product
    g, b, k, _, oy, ox, fy, fx = sizes
    return float(g * b * k * oy * ox * fy * fx)


def _price(layer: Layer, core: Core, rows: dict[Signature, MeasuredLayer]) -> tuple[float, float]:
    """Microseconds and microjoules of one layer."""
    op, sizes, bits = _signature(layer)
    exact = rows.get((op, sizes, bits))
    if exact is not None:
        latency, energy = exact.latency_us, exact.energy_uj
    else:
        same = [r for r in core.measured if r.op is op and r.bits == bits]
        used = same if len(same) > 1 else [r for r in core.measured if r.op is op]
        if not used:
            return np.inf, np.inf
        work = _work(op, sizes)
        latency = _interpolate(work, [(_work(op, r.sizes), r.latency_us) for r in used])
        known = [(_work(op, r.sizes), r.energy_uj) for r in used if r.energy_uj is not None and r.energy_uj > 0]
        energy = _interpolate(work, known) if known else None
    return latency, latency * core.active_mw / 1e3 if energy is None else energy


def _interpolate(work: float, points: list[tuple[float, float]]) -> float:
    """Log-log interpolation; proportional beyond the ends; rows of equal work count with their mean."""
    by_work: dict[float, list[float]] = {}
    for x, y in points:
        by_work.setdefault(x, []).append(y)
    xs = np.array(sorted(by_work))
    ys = np.array([np.mean(by_work[x]) for x in xs])
    if work <= xs[0]:
        return float(ys[0] * work / xs[0])
    if work >= xs[-1]:
        return float(ys[-1] * work / xs[-1])
    return float(np.exp(np.interp(np.log(work), np.log(xs), np.log(ys))))
