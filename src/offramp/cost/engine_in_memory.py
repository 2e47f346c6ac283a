"""Energy of an in-memory-compute array: converters, multipliers, bit lines, adder trees, accumulators.

Formulas and the 28 nm coefficients are those of ZigZag-IMC (Sun et al., "ZigZag-IMC", and its imc_array / imc_unit):
energy is counted in capacitances switched at the supply voltage. Activations enter `bits_per_pass` at a time. Valid
for SRAM arrays near 28 nm; weights have the array's precision whatever the layer's.
"""

import math

import numpy as np

from offramp.cost.arrays import Floats
from offramp.cost.engine_layers import Rows
from offramp.ir.accelerator import Core, InMemoryArray

VDD = 0.9
"""Supply voltage in V at 28 nm (ZigZag-IMC)."""

NAND, XOR, FLIP_FLOP, BIT_LINE = 0.7e-3, 1.05e-3, 2.1e-3, 0.35e-3
"""Capacitances in pF: NAND2 gate, XOR2 gate (1.5 NAND2), flip-flop (3 NAND2), cell on a bit line (NAND2 / 2)."""

ADC_LINEAR, ADC_EXPONENTIAL = 100e-3, 1e-6
"""pF per bit of an ADC and pF per 4^bits (k5 = 100 fF, k6 = 0.001 fF in ZigZag-IMC)."""

DAC = 50e-3
"""pF per bit of a DAC (k0 in ZigZag-IMC); single-bit inputs need none."""

ADDER = (3 * NAND + 2 * XOR) * VDD**2
"""pJ of a one-bit full adder (three NAND2, two XOR2)."""

HALF_ADDER = 2 * XOR * VDD**2
"""pJ of a one-bit adder whose one input is 0."""

MULTIPLIER = 0.5 * NAND * VDD**2
"""pJ of a one-bit multiplier whose weight stays."""


def array_energy(rows: Rows, core: Core) -> Floats:
    """(rows,) picojoules that the array itself spends on a layer."""
    spec, array = core.in_memory, core.array
    assert spec is not None
    assert array is not None
    names = sorted(range(len(array.dimensions)), key=lambda i: array.dimensions[i][0])
    word, bit = names[0], names[1]
    columns, lines = array.dimensions[word][1], array.dimensions[bit][1]
    used_columns, used_lines = rows.given[:, word], np.ceil(rows.given[:, bit])
    activations = rows.sizes.prod(axis=1) / (rows.given[:, word] * rows.given[:, bit])
    per_activation = (
        _analog(spec, columns, lines, used_columns, used_lines)
        if spec.analog
        else _digital(spec, columns, lines, used_columns, used_lines)
    )
    energy: Floats = per_activation * spec.passes * activations
    return energy


def _accumulators(spec: InMemoryArray, extra: float, used_columns: Floats) -> Floats:
    if spec.bits_per_pass == spec.activation_bits:
        return np.zeros_like(used_columns)
    width = spec.activation_bits + extra + spec.weight_bits
    return (ADDER + FLIP_FLOP * VDD**2) * width * used_columns


def _place_value_adders(inputs: int, width: float, used_columns: Floats) -> Floats:
    if inputs == 1:
        return np.zeros_like(used_columns)
    return ADDER * (width * (inputs - 1) + inputs * (math.log2(inputs) - 0.5)) * used_columns


def _analog(spec: InMemoryArray, columns: int, lines: int, used_columns: Floats, used_lines: Floats) -> Floats:
    adc = (ADC_LINEAR * spec.adc_bits + ADC_EXPONENTIAL * 4**spec.adc_bits) * VDD**2 if spec.adc_bits else 0.0
    dac = DAC * spec.bits_per_pass * VDD**2 if spec.bits_per_pass > 1 else 0.0
    return (
        dac * used_lines
        + adc * spec.weight_bits * used_columns
        + MULTIPLIER * spec.weight_bits * columns * used_lines
        + BIT_LINE * VDD**2 * spec.weight_bits * used_columns * lines
        + _place_value_adders(spec.weight_bits, spec.adc_bits, used_columns)
        + _accumulators(spec, spec.adc_bits, used_columns)
    )


def _digital(spec: InMemoryArray, columns: int, lines: int, used_columns: Floats, used_lines: Floats) -> Floats:
    depth = int(math.log2(lines))
    trees = np.array([_adder_tree(spec.weight_bits, n, lines) for n in used_lines.tolist()])
    return (
        MULTIPLIER * spec.bits_per_pass * spec.weight_bits * columns * lines * np.ones_like(used_columns)
        + trees * spec.bits_per_pass * used_columns
        + _place_value_adders(spec.bits_per_pass, spec.weight_bits + depth, used_columns)
        + _accumulators(spec, math.log2(lines), used_columns)
    )


def _adder_tree(width: int, used: float, inputs: int) -> float:
    """pJ of an adder tree of which `used` of `inputs` carry data; a subtree with one live input is half active."""
    depth = int(math.log2(inputs))
    if used >= inputs:
        return (inputs * (width + 1) - (width + depth + 1)) * ADDER
    full = half = 0.0
    left, base = used, float(inputs)
    while left > 0 and base > 1:
        base /= 2
        level = int(math.log2(base))
        if left <= 1 and base == 1:
            half += width
            left = 0
        elif left > base:
            full += base * (width + 1) - (width + level + 1) + (width + level)
            left -= base
        elif left < base:
            half += width + level
        else:
            full += base * (width + 1) - (width + level + 1)
            half += width + level
            left = 0
    return full * ADDER + half * HALF_ADDER
