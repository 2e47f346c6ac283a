"""Fewer bits never cost more energy or cycles: a layer may always be kept and computed at a higher precision.

A search that takes the fastest mapping of each precision on its own can pay more energy for four bits than for eight,
where a hair less latency needs another mapping. So a layer is also priced one step up - first its weights, then its
activations - and takes the fewer cycles and the less energy of the two. Where these are of two mappings no single one
need reach both: with one mapping for both, more memory could cost cycles (docs/formulas.md). The steps are those of the
search space (weights 2, 4, 8 bits, activations 4, 7, 8); eight bits and more stand for themselves.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from offramp.cost.model import CoreCosts
from offramp.ir.workload import Layer

WEIGHT_STEPS, ACTIVATION_STEPS = (2, 4, 8), (4, 7, 8)
"""Precisions of the search space; others go to the next of these."""


def promoted(layer: Layer) -> Layer | None:
    """The layer one step up in precision, or None at the top."""
    if layer.adc_bits:
        return None  # an analog array has one precision
    if layer.has_weights and layer.weight_bits < WEIGHT_STEPS[-1]:
        return replace(layer, weight_bits=_next(layer.weight_bits, WEIGHT_STEPS))
    least = min(layer.input_bits, layer.output_bits)
    if least >= ACTIVATION_STEPS[-1]:
        return None
    floor = _next(least, ACTIVATION_STEPS)
    return replace(layer, input_bits=max(layer.input_bits, floor), output_bits=max(layer.output_bits, floor))


def _next(bits: int, steps: Sequence[int]) -> int:
    return next(s for s in steps if s > bits)


def take_better(costs: CoreCosts, above: CoreCosts) -> None:
    """Replace cycles in place where the step above takes fewer, and energies where it needs less (equal shapes)."""
    quicker, cheaper = above.cycles < costs.cycles, above.energy_pj < costs.energy_pj
    for own, other, better in (
        (costs.cycles, above.cycles, quicker),
        (costs.utilization, above.utilization, quicker),
        (costs.energy_pj, above.energy_pj, cheaper),
        (costs.peak_bytes, above.peak_bytes, cheaper),
    ):
        own[better] = other[better]
    for parts, others in ((costs.parts, above.parts), (costs.levels, above.levels)):
        for name in {*parts, *others}:
            own = parts.setdefault(name, np.zeros_like(costs.cycles))
            own[cheaper] = others.get(name, np.zeros_like(own))[cheaper]
