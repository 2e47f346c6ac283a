"""The fast cost model: dispatches every core to its pricing function and stacks the results.

Cores of the hierarchy model are searched by `engine_*`; DIANA's published model and scalar processors by `analytic`.
It follows the contract of `cost.model` and keeps nothing between calls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from offramp.cost.analytic import diana_costs, scalar_costs
from offramp.cost.engine_memory import hierarchy_costs
from offramp.cost.model import CoreCosts, LayerCosts, infeasible, join, scatter
from offramp.ir.accelerator import Accelerator, Core, PricingModel
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
    return replace(core, name="")


def _core_costs(layers: Sequence[Layer], core: Core, chip: Accelerator) -> CoreCosts:
    able = [i for i, layer in enumerate(layers) if core.supports(layer)]
    if not able:
        return infeasible(len(layers))
    costs = _PRICING[core.model]([layers[i] for i in able], core, chip)
    return scatter(costs, able, len(layers))


_PRICING: dict[PricingModel, Pricing] = {
    PricingModel.HIERARCHY: hierarchy_costs,
    PricingModel.DIANA_DIGITAL: diana_costs,
    PricingModel.DIANA_ANALOG: diana_costs,
    PricingModel.SCALAR: scalar_costs,
}
