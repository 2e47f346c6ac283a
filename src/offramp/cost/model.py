"""The contract of every cost model: layers and an accelerator in, arrays of cycles and picojoules out.

Axes are always [variant, layer, core]. The variant says where activations rest between layers:
`variant = 2 * input_on_chip + output_on_chip`. Variant 0 reads its input from the chip's outer memory and writes its
output back there, as layer-by-layer execution does; variant 3 finds its input in the core's on-chip activation memory
and leaves its output there. Weights always come from the outer memory. A core that cannot run a layer costs infinity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from offramp.ir.accelerator import Accelerator
from offramp.ir.workload import Layer

Array = NDArray[np.float64]

VARIANTS = 4
"""Number of places that input and output may rest in."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerCosts:
    """Costs of L layers on C cores in 4 variants; arrays are float64 of shape (4, L, C).

    Attributes:
        cycles: latency in cycles of the accelerator's clock.
        energy_pj: energy in picojoules.
        parts: the same energy split by part ("mac", each memory, "adc_dac", ...); sums to `energy_pj` where finite.
        utilization: ideal cycles at full array over actual cycles, in [0, 1].
        peak_bytes: most bytes held in the core's largest on-chip memories at once.
        levels: peak bytes by memory name.
    """

    cycles: Array
    energy_pj: Array
    parts: dict[str, Array]
    utilization: Array
    peak_bytes: Array
    levels: dict[str, Array] = field(default_factory=dict)

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Where a core can run a layer."""
        return np.isfinite(self.cycles)


class CostModel(Protocol):
    """Anything that prices layers; deterministic, without side effects that change results."""

    def layer_costs(self, layers: Sequence[Layer], accelerator: Accelerator) -> LayerCosts:
        """Price every layer on every core in all four variants."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class CoreCosts:
    """What one pricing function returns for one core: arrays of shape (4, L)."""

    cycles: Array
    energy_pj: Array
    parts: dict[str, Array]
    utilization: Array
    peak_bytes: Array
    levels: dict[str, Array] = field(default_factory=dict)


def infeasible(layers: int) -> CoreCosts:
    """Costs of a core that runs none of `layers` layers."""
    shape = (VARIANTS, layers)
    return CoreCosts(
        cycles=np.full(shape, np.inf),
        energy_pj=np.full(shape, np.inf),
        parts={},
        utilization=np.zeros(shape),
        peak_bytes=np.zeros(shape),
    )


def scatter(costs: CoreCosts, indices: Sequence[int], layers: int) -> CoreCosts:
    """Put costs of a subset of layers back to their places among `layers` layers; infinity elsewhere."""
    rows = np.asarray(indices, dtype=np.intp)

    def place(values: Array, fill: float) -> Array:
        full = np.full((VARIANTS, layers), fill)
        full[:, rows] = values
        return full

    return CoreCosts(
        cycles=place(costs.cycles, np.inf),
        energy_pj=place(costs.energy_pj, np.inf),
        parts={k: place(v, 0.0) for k, v in costs.parts.items()},
        utilization=place(costs.utilization, 0.0),
        peak_bytes=place(costs.peak_bytes, 0.0),
        levels={k: place(v, 0.0) for k, v in costs.levels.items()},
    )


def place(costs: CoreCosts, rows: Sequence[int], new: CoreCosts) -> None:
    """Write costs of some layers over their rows, in place."""
    where = np.asarray(rows, dtype=np.intp)
    costs.cycles[:, where], costs.energy_pj[:, where] = new.cycles, new.energy_pj
    costs.utilization[:, where], costs.peak_bytes[:, where] = new.utilization, new.peak_bytes
    for own, others in ((costs.parts, new.parts), (costs.levels, new.levels)):
        for name, values in others.items():
            own.setdefault(name, np.zeros_like(costs.cycles))[:, where] = values


def append(first: CoreCosts, second: CoreCosts) -> CoreCosts:
    """Costs of the layers of both, in order."""

    def both(a: dict[str, Array], b: dict[str, Array]) -> dict[str, Array]:
        none = (np.zeros_like(first.cycles), np.zeros_like(second.cycles))
        return {k: np.concatenate([a.get(k, none[0]), b.get(k, none[1])], axis=1) for k in {**a, **b}}

    return CoreCosts(
        cycles=np.concatenate([first.cycles, second.cycles], axis=1),
        energy_pj=np.concatenate([first.energy_pj, second.energy_pj], axis=1),
        parts=both(first.parts, second.parts),
        utilization=np.concatenate([first.utilization, second.utilization], axis=1),
        peak_bytes=np.concatenate([first.peak_bytes, second.peak_bytes], axis=1),
        levels=both(first.levels, second.levels),
    )


def spread(costs: CoreCosts, where: Sequence[int]) -> CoreCosts:
    """Costs of layers of which layer i is the one priced at `where[i]`."""
    rows = np.asarray(where, dtype=np.intp)
    return CoreCosts(
        cycles=costs.cycles[:, rows],
        energy_pj=costs.energy_pj[:, rows],
        parts={k: v[:, rows] for k, v in costs.parts.items()},
        utilization=costs.utilization[:, rows],
        peak_bytes=costs.peak_bytes[:, rows],
        levels={k: v[:, rows] for k, v in costs.levels.items()},
    )


def join(cores: Sequence[CoreCosts]) -> LayerCosts:
    """Stack the costs of single cores along the last axis; parts that a core does not have are 0."""

    def stack(values: Sequence[Array]) -> Array:
        return np.stack(values, axis=-1)

    zero = np.zeros_like(cores[0].cycles)
    parts = sorted({name for core in cores for name in core.parts})
    levels = sorted({name for core in cores for name in core.levels})
    return LayerCosts(
        cycles=stack([c.cycles for c in cores]),
        energy_pj=stack([c.energy_pj for c in cores]),
        parts={name: stack([c.parts.get(name, zero) for c in cores]) for name in parts},
        utilization=stack([c.utilization for c in cores]),
        peak_bytes=stack([c.peak_bytes for c in cores]),
        levels={name: stack([c.levels.get(name, zero) for c in cores]) for name in levels},
    )
