"""The fast cost model: dispatches every core to its pricing function and stacks the results.

Cores of the hierarchy model are searched by `engine_*`; DIANA's published model and scalar processors by `analytic`.
It follows the contract of `cost.model` and keeps nothing between calls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from offramp.cost.analytic import diana_costs, scalar_costs
from offramp.cost.engine_memory import hierarchy_costs
from offramp.cost.model import VARIANTS, CoreCosts, LayerCosts, infeasible, join, scatter, spread
from offramp.ir.accelerator import Accelerator, Core, PricingModel
from offramp.ir.workload import Layer

Pricing = Callable[[Sequence[Layer], Core, Accelerator], CoreCosts]


@dataclass(frozen=True, slots=True)
class FastCostModel:
    """Prices layers without ever asking another tool.

    Attributes:
        variants: which variants the hierarchy model prices; the others are infinite there.
    """

    variants: tuple[int, ...] = tuple(range(VARIANTS))

    def layer_costs(self, layers: Sequence[Layer], accelerator: Accelerator) -> LayerCosts:
        """Price every layer on every core; equal layers and equal cores are priced once."""
        places: dict[Layer, int] = {}
        where = [places.setdefault(_anonymous_layer(layer), len(places)) for layer in layers]
        done: dict[Core, CoreCosts] = {}
        for core in accelerator.cores:
            key = replace(core, name="")
            if key not in done:
                done[key] = spread(self._core_costs(list(places), core, accelerator), where)
        return join([done[replace(core, name="")] for core in accelerator.cores])

    def _core_costs(self, layers: list[Layer], core: Core, chip: Accelerator) -> CoreCosts:
        able = [i for i, layer in enumerate(layers) if core.supports(layer)]
        if not able:
            return infeasible(len(layers))
        chosen = [layers[i] for i in able]
        if core.model is PricingModel.HIERARCHY:
            costs = hierarchy_costs(chosen, core, chip, self.variants)
        else:
            costs = _PRICING[core.model](chosen, core, chip)
        return scatter(costs, able, len(layers))


def _anonymous_layer(layer: Layer) -> Layer:
    return replace(layer, name="", inputs=("",) * len(layer.inputs))


_PRICING: dict[PricingModel, Pricing] = {
    PricingModel.DIANA_DIGITAL: diana_costs,
    PricingModel.DIANA_ANALOG: diana_costs,
    PricingModel.SCALAR: scalar_costs,
}
