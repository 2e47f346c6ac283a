"""DIANA's published cycles and powers, and a scalar processor; closed formulas, no search.

Cycles follow ODiMO / PLiNIO (ISLPED 2023) as docs/formulas.md prints them, the setup of a transfer follows MATCH
(TCAD 2025), powers are ODiMO's. To the published terms this file adds what they leave out: weights come from L2 over
its port, and activations that do not stay in L1 are moved at 64 bit per cycle on both cores (the published digital
formula has that term, the analog one does not). It knows no tiling: a layer larger than L1 costs more transfers, not
more traffic.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.cost.model import VARIANTS, CoreCosts
from offramp.ir.accelerator import Accelerator, Core, Memory, Move, Operand
from offramp.ir.workload import Layer, Op

Vector = NDArray[np.float64]

DIGITAL_SIDE = 16
"""Side of the digital array (HARDWARE.md: 16x16 processing elements)."""

ROW_BLOCK, ROW_MINIMUM = 128, 64
"""Input channels of one row block, and the least that a block occupies (ODiMO's analog formula)."""

PIXELS = (1, 2, 4, 8)
"""Output columns that the analog array may compute at once (oxu of ODiMO's formula)."""

WEIGHT_LOAD_CYCLES = 8
"""Cycles to load one row of weights into the analog array (8*Ci*Kx*Ky of ODiMO's formula)."""

ACTIVATION_BITS_PER_CYCLE = 64
"""Activation transfer between L2 and L1 (the divisor 8 bytes of ODiMO's digital formula)."""

USABLE_L1_BYTES = 131072
"""L1 that a compiler may fill at once (DORY's description of DIANA, HARDWARE.md)."""


class Sizes(NamedTuple):
    """Loop sizes of layers as columns of float64; `channels` are input channels over all groups."""

    groups: Vector
    batch: Vector
    out: Vector
    channels: Vector
    oy: Vector
    ox: Vector
    fy: Vector
    fx: Vector


def sizes_of(layers: Sequence[Layer]) -> Sizes:
    """Loop sizes of layers as columns."""
    rows = [(x.G, x.B, x.K, x.G * x.C, x.OY, x.OX, x.FY, x.FX) for x in layers]
    return Sizes(*np.array(rows, dtype=np.float64).reshape(-1, 8).T)


def digital_cycles(layers: Sequence[Layer]) -> Vector:
    """Compute cycles of the digital core: ceil(K/16) * Ci * ceil(OX/16) * OY * FX * FY per image (ODiMO)."""
    s = sizes_of(layers)
    tiles = np.ceil(s.out / DIGITAL_SIDE) * np.ceil(s.ox / DIGITAL_SIDE)
    cycles: Vector = s.batch * tiles * s.channels * s.oy * s.fx * s.fy
    return cycles


def analog_cycles(layers: Sequence[Layer], core: Core, clock_mhz: float) -> Vector:
    """Cycles of the analog core: activations of the array, then loading of its weights (ODiMO).

    ceil(K/512) * ceil(Ci/128) * OX*OY/oxu * 70 ns * f + 8*Ci*FX*FY, with the largest oxu in {1, 2, 4, 8} for which
    K*oxu <= 512 and max(64, Ci)*FY*(FX+oxu-1) <= 1152.
    """
    assert core.analog is not None
    rows, columns = core.analog.rows, core.analog.columns
    s = sizes_of(layers)
    oxu = np.ones_like(s.out)
    for pixels in PIXELS:
        fits = s.out * pixels <= columns
        fits &= np.maximum(ROW_MINIMUM, s.channels) * s.fy * (s.fx + pixels - 1) <= rows
        oxu = np.where(fits, float(pixels), oxu)
    blocks = np.ceil(s.out / columns) * np.ceil(s.channels / ROW_BLOCK)
    activations = s.batch * blocks * s.ox * s.oy / oxu
    cycles: Vector = activations * core.analog.mvm_ns * clock_mhz / 1e3 + WEIGHT_LOAD_CYCLES * s.channels * s.fx * s.fy
    return cycles


def diana_costs(layers: Sequence[Layer], core: Core, chip: Accelerator) -> CoreCosts:
    """Price layers on DIANA's digital or analog core."""
    analog = core.analog is not None
    compute = analog_cycles(layers, core, chip.clock_mhz) if analog else digital_cycles(layers)
    traffic = _Traffic(layers, core, chip)
    macs = np.array([layer.macs for layer in layers], dtype=np.float64)
    peak = core.analog.rows * core.analog.columns if core.analog else DIGITAL_SIDE**2
    return _with_traffic(compute, traffic, core.active_mw, chip, macs / peak)


def scalar_costs(layers: Sequence[Layer], core: Core, chip: Accelerator) -> CoreCosts:
    """Price layers on a processor that spends a fixed number of cycles on every operation."""
    work = [layer.operations if layer.has_weights else layer.output_elements * layer.FY * layer.FX for layer in layers]
    compute = np.array(work, dtype=np.float64) * core.cycles_per_operation
    return _with_traffic(compute, _Traffic(layers, core, chip), core.active_mw, chip, np.array(work) / 1.0)


class _Traffic:
    """Bits that cross between the outer memory and the core, per layer."""

    def __init__(self, layers: Sequence[Layer], core: Core, chip: Accelerator) -> None:
        inputs = [2 if layer.op is Op.ADD else 1 for layer in layers]
        self.weight = _column(layer.weight_elements * layer.weight_bits for layer in layers)
        self.input = _column(n * x.input_elements * x.input_bits for n, x in zip(inputs, layers, strict=True))
        self.output = _column(layer.output_elements * layer.output_bits for layer in layers)
        moved_in = _column(
            n * x.in_channels * x.B * x.OY * x.OX * x.input_bits for n, x in zip(inputs, layers, strict=True)
        )
        self.cycles_in = moved_in / ACTIVATION_BITS_PER_CYCLE
        self.cycles_out = self.output / ACTIVATION_BITS_PER_CYCLE
        outer = chip.offchip
        width = _port_width(outer, Operand.W) if outer else np.inf
        # The published analog formula already counts loading; its rows enter no faster than L2 delivers them.
        self.cycles_weight = self.weight / width
        memory = core.weight_memory_bits or np.inf
        self.weight_calls = np.ceil(self.weight / memory) * (self.weight > 0)
        self.weight_held = np.minimum(self.weight, memory)
        room = chip.activation_memory(core.name)
        self.held = np.minimum(self.input + self.output, 8 * room.size_bytes if room else np.inf)
        self.activation_calls = np.ceil((self.input + self.output) / (8 * USABLE_L1_BYTES))
        self.outer, self.setup = outer, chip.transfer_setup_cycles


def _column(values: Iterable[int]) -> Vector:
    return np.array(list(values), dtype=np.float64)


def _port_width(memory: Memory, operand: Operand) -> float:
    port = memory.port(operand, Move.TO_LOW)
    return float(port.bits_per_cycle) if port else np.inf


def _with_traffic(compute: Vector, t: _Traffic, active_mw: float, chip: Accelerator, ideal: Vector) -> CoreCosts:
    shape = (VARIANTS, compute.size)
    outer_in = np.array([[1.0], [1.0], [0.0], [0.0]])
    outer_out = np.array([[1.0], [0.0], [1.0], [0.0]])
    moving = t.cycles_weight + t.setup * t.weight_calls
    moving = moving + outer_in * (t.cycles_in + t.setup * t.activation_calls)
    moving = moving + outer_out * (t.cycles_out + t.setup * t.activation_calls)
    cycles = compute + moving
    read, write, width = (t.outer.read_pj, t.outer.write_pj, _port_width(t.outer, Operand.W)) if t.outer else (0, 0, 1)
    scale = 1e3 / chip.clock_mhz
    parts = {
        "mac": np.broadcast_to(compute * active_mw * scale, shape).copy(),
        "idle": moving * chip.idle_mw * scale,
        t.outer.name if t.outer else "outer": (read * (t.weight + outer_in * t.input) + write * outer_out * t.output)
        / width,
    }
    held = np.broadcast_to((t.input + t.output) / 8, shape).copy()
    return CoreCosts(
        cycles=cycles,
        energy_pj=sum(parts.values(), start=np.zeros(shape)),
        parts=parts,
        utilization=np.minimum(ideal / cycles, 1.0),
        peak_bytes=held,
        levels={
            "activations": np.broadcast_to(t.held / 8, shape).copy(),
            "weights": np.broadcast_to(t.weight_held / 8, shape).copy(),
        },
    )
