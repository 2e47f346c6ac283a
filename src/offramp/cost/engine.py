"""The fast cost model: dispatches every core to its pricing function and stacks the results.

Cores of the hierarchy model are searched by `engine_*`; DIANA's published model and scalar processors by `analytic`.
It follows the contract of `cost.model`; what it remembers between calls changes no result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from offramp.cost.analytic import diana_costs, scalar_costs
from offramp.cost.model import VARIANTS, CoreCosts, LayerCosts, append, infeasible, join, place, scatter, spread
from offramp.cost.promotion import promoted, take_better
from offramp.cost.table import table_costs
from offramp.cost.variants import second_input_on_chip
from offramp.ir.accelerator import Accelerator, Core, PricingModel
from offramp.ir.workload import Layer, Op

REMEMBERED = 20_000
"""Layers that are kept, over all cores, before starting afresh."""

Pricing = Callable[[Sequence[Layer], Core, Accelerator], CoreCosts]


@dataclass(slots=True, eq=False)
class _Known:
    """Prices of layers asked for so far."""

    places: dict[Layer, int] = field(default_factory=dict)
    costs: CoreCosts | None = None


@dataclass(frozen=True, slots=True)
class FastCostModel:
    """Prices layers without ever asking another tool.

    Attributes:
        variants: which variants the hierarchy model prices; the others are infinite there.
        remember: keep prices of layers for the next call (a search asks for the same layers again and again).
    """

    variants: tuple[int, ...] = tuple(range(VARIANTS))
    remember: bool = True
    _known: dict[object, "_Known"] = field(default_factory=dict, repr=False, compare=False)

    def layer_costs(self, layers: Sequence[Layer], accelerator: Accelerator) -> LayerCosts:
        """Price every layer on every core; equal layers and equal cores are priced once."""
        places: dict[Layer, int] = {}
        where = [places.setdefault(_anonymous_layer(layer), len(places)) for layer in layers]
        if sum(len(known.places) for known in self._known.values()) > REMEMBERED:
            self._known.clear()
        done: dict[Core, CoreCosts] = {}
        for core in accelerator.cores:
            key = replace(core, name="")
            if key not in done:
                done[key] = spread(self._remembered(key, list(places), core, accelerator), where)
        return join([done[replace(core, name="")] for core in accelerator.cores])

    def _remembered(self, key: Core, layers: list[Layer], core: Core, chip: Accelerator) -> CoreCosts:
        """Costs of distinct layers, of which only those never asked for are priced."""
        if not self.remember:
            return self._core_costs(layers, core, chip)
        chip_key = (key, chip.offchip, chip.clock_mhz, chip.idle_mw, chip.transfer_setup_cycles)
        known = self._known.setdefault(chip_key, _Known())
        new = [layer for layer in layers if layer not in known.places]
        if new:
            fresh = self._core_costs(new, core, chip)
            start = 0 if known.costs is None else known.costs.cycles.shape[1]
            known.costs = fresh if known.costs is None else append(known.costs, fresh)
            known.places |= {layer: start + i for i, layer in enumerate(new)}
        assert known.costs is not None
        return spread(known.costs, [known.places[layer] for layer in layers])

    def _core_costs(self, layers: list[Layer], core: Core, chip: Accelerator) -> CoreCosts:
        able = [i for i, layer in enumerate(layers) if core.supports(layer)]
        if not able:
            return infeasible(len(layers))
        chosen = [layers[i] for i in able]
        if core.model is PricingModel.HIERARCHY:
            costs = _hierarchy_costs(chosen, core, chip, self.variants)
            self._second_inputs(costs, chosen, core, chip)
            self._promote(costs, chosen, core, chip)
        else:
            costs = _PRICING[core.model](chosen, core, chip)
        return scatter(costs, able, len(layers))

    def _second_inputs(self, costs: CoreCosts, layers: list[Layer], core: Core, chip: Accelerator) -> None:
        """Where inputs rest on chip, both inputs of an addition do, unless that takes longer."""
        adds = [i for i, layer in enumerate(layers) if layer.op is Op.ADD]
        inside = [v for v in self.variants if v & 2]
        if not adds or not inside:
            return
        new = _hierarchy_costs([layers[i] for i in adds], second_input_on_chip(core, chip), chip, inside)
        quick = np.isfinite(new.cycles[inside]) & (new.cycles[inside] <= costs.cycles[np.ix_(inside, adds)])
        variant, place = np.nonzero(quick)
        own = (np.array(inside)[variant], place)
        at = (own[0], np.array(adds)[place])
        for old, fresh in ((costs.parts, new.parts), (costs.levels, new.levels)):
            for name in {**old, **fresh}:
                values = fresh.get(name, np.zeros_like(new.cycles))
                old.setdefault(name, np.zeros_like(costs.cycles))[at] = values[own]
        for name in ("cycles", "energy_pj", "utilization", "peak_bytes"):
            getattr(costs, name)[at] = getattr(new, name)[own]

    def _promote(self, costs: CoreCosts, layers: list[Layer], core: Core, chip: Accelerator) -> None:
        """Let layers of few bits take the cycles or the energy of more bits where that is better."""
        steps = [(i, up) for i, layer in enumerate(layers) if (up := promoted(layer)) and core.supports(up)]
        if not steps:
            return
        ups = list(dict.fromkeys(up for _, up in steps))
        above = self._remembered(replace(core, name=""), ups, core, chip)
        rows = [i for i, _ in steps]
        own = spread(costs, rows)
        take_better(own, spread(above, [ups.index(up) for _, up in steps]))
        place(costs, rows, own)


def _hierarchy_costs(layers: list[Layer], core: Core, chip: Accelerator, variants: Sequence[int]) -> CoreCosts:
    """Of cores of the hierarchy model; only they pay for loading the compiled search."""
    from offramp.cost.engine_memory import hierarchy_costs

    return hierarchy_costs(layers, core, chip, variants)


def _anonymous_layer(layer: Layer) -> Layer:
    return replace(layer, name="", inputs=("",) * len(layer.inputs))


_PRICING: dict[PricingModel, Pricing] = {
    PricingModel.DIANA_DIGITAL: diana_costs,
    PricingModel.DIANA_ANALOG: diana_costs,
    PricingModel.SCALAR: scalar_costs,
    PricingModel.TABLE: table_costs,
}
