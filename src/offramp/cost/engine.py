"""The fast cost model: dispatches every core to its pricing function and stacks the results.

Cores of the hierarchy model are searched by `engine_*`; DIANA's published model and scalar processors by `analytic`.
It follows the contract of `cost.model` and keeps nothing between calls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from offramp.cost.analytic import diana_costs, scalar_costs
from offramp.cost.model import VARIANTS, CoreCosts, LayerCosts, infeasible, join, scatter
from offramp.ir.accelerator import Accelerator, Core, Memory, Operand, PricingModel
from offramp.ir.workload import Layer

Pricing = Callable[[Sequence[Layer], Core, Accelerator], CoreCosts]


@dataclass(frozen=True, slots=True)
class FastCostModel:
    """Prices layers without ever asking another tool."""

    def layer_costs(self, layers: Sequence[Layer], accelerator: Accelerator) -> LayerCosts:
        """Price every layer on every core; equal cores are priced once."""
        done: dict[Core, CoreCosts] = {}
        for core in accelerator.cores:
            if _anonymous(core) not in done:
                done[_anonymous(core)] = _core_costs(layers, core, accelerator)
        return join([done[_anonymous(core)] for core in accelerator.cores])


def _anonymous(core: Core) -> Core:
    from dataclasses import replace

    return replace(core, name="")


def _core_costs(layers: Sequence[Layer], core: Core, chip: Accelerator) -> CoreCosts:
    able = [i for i, layer in enumerate(layers) if core.supports(layer)]
    if not able:
        return infeasible(len(layers))
    costs = _PRICING[core.model]([layers[i] for i in able], core, chip)
    return scatter(costs, able, len(layers))


def _bandwidth_bound(layers: Sequence[Layer], core: Core, chip: Accelerator) -> CoreCosts:
    assert core.array is not None
    shape = (VARIANTS, len(layers))
    work = np.array(
        [x.operations if x.has_weights else x.output_elements * x.FY * x.FX for x in layers], dtype=np.float64
    )
    weight = np.array([x.weight_elements * x.weight_bits for x in layers], dtype=np.float64)
    taken = np.array([len(x.inputs) * x.input_elements * x.input_bits for x in layers], dtype=np.float64)
    made = np.array([x.output_elements * x.output_bits for x in layers], dtype=np.float64)
    outer = next((m for m in core.memories if m.off_chip), chip.offchip)
    inner = [m for m in core.memories if not m.off_chip][-1]
    far_in, far_out = np.array([[1.0], [1.0], [0.0], [0.0]]), np.array([[1.0], [0.0], [1.0], [0.0]])
    moved = weight + far_in * taken + far_out * made
    cycles = np.maximum(work / core.array.units, moved / _width(outer) if outer else 0.0)
    parts = {"mac": np.broadcast_to(work * core.array.mac_pj, shape).copy()}
    parts[inner.name] = np.broadcast_to((taken * inner.read_pj + made * inner.write_pj) / _width(inner), shape).copy()
    if outer:
        parts[outer.name] = ((weight + far_in * taken) * outer.read_pj + far_out * made * outer.write_pj) / _width(
            outer
        )
    held = np.broadcast_to((taken + made) / 8, shape).copy()
    return CoreCosts(
        cycles=cycles,
        energy_pj=sum(parts.values(), start=np.zeros(shape)),
        parts=parts,
        utilization=work / core.array.units / cycles,
        peak_bytes=held,
        levels={inner.name: held},
    )


def _width(memory: Memory) -> float:
    return float(max(p.bits_per_cycle for p in memory.ports if any(o in Operand for o, _ in p.serves)))


_PRICING: dict[PricingModel, Pricing] = {
    PricingModel.HIERARCHY: _bandwidth_bound,
    PricingModel.DIANA_DIGITAL: diana_costs,
    PricingModel.DIANA_ANALOG: diana_costs,
    PricingModel.SCALAR: scalar_costs,
}
