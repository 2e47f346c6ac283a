"""The remembering cost model gives what the model behind it gives, and asks it once per different layer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from offramp.cost.engine import FastCostModel
from offramp.cost.model import LayerCosts
from offramp.cost.remember import RememberingCostModel
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.accelerator import Accelerator
from offramp.ir.workload import Layer, Op


@dataclass
class Counting:
    asked: list[Layer] = field(default_factory=list)

    def layer_costs(self, layers: Sequence[Layer], accelerator: Accelerator) -> LayerCosts:
        self.asked += layers
        return FastCostModel().layer_costs(layers, accelerator)


def conv(name: str, channels: int, adc: int = 0) -> Layer:
    shape = {"C": channels, "K": 16, "OY": 8, "OX": 8, "IY": 8, "IX": 8, "FY": 3, "FX": 3, "padding": (1, 1, 1, 1)}
    return Layer(name=name, op=Op.CONV, **shape, weight_bits=2 if adc else 8, adc_bits=adc)  # type: ignore[arg-type]


@pytest.mark.parametrize("chip", ["diana", "edge-tpu-quad"])
def test_same_answer_and_each_layer_asked_once(chip: str) -> None:
    accelerator, behind = load_accelerator(chip), Counting()
    model = RememberingCostModel(behind)
    add = Layer(name="sum", op=Op.ADD, K=1, C=1, G=16, OY=8, OX=8, IY=8, IX=8, inputs=("a", "b"))
    layers = [conv("a", 16), conv("b", 16), add, conv("c", 32)]
    if chip == "diana":
        layers.append(conv("d", 16, adc=6))
    model.layer_costs(layers[:2], accelerator)
    remembered, fresh = model.layer_costs(layers, accelerator), FastCostModel().layer_costs(layers, accelerator)
    for name in ("cycles", "energy_pj", "utilization", "peak_bytes"):
        np.testing.assert_array_equal(getattr(remembered, name), getattr(fresh, name))
    for part, values in fresh.parts.items():
        np.testing.assert_array_equal(remembered.parts.get(part, np.zeros_like(values)), values)
    assert len(behind.asked) == len(layers) - 1
