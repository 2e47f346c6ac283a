"""The contracts of the extension points: what is built in keeps them, and each broken rule is noticed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from deploy_networks import inputs_for, resnet8
from offramp.contracts import check_cost_model, check_measurement, check_policy, check_strategy
from offramp.cost.engine import FastCostModel
from offramp.cost.model import LayerCosts
from offramp.deploy.bundle import Bundle, open_bundle, write_bundle
from offramp.deploy.measure import Measurement, Quartiles, measure
from offramp.exits.policy import SCORES, softmax
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.accelerator import Accelerator
from offramp.ir.architecture import Architecture
from offramp.ir.trial import Trial
from offramp.ir.workload import Layer
from offramp.search.derive import derive_space
from offramp.search.random_search import RandomSearch
from offramp.search.strategy import STRATEGIES
from offramp.search.task import Task
from search_cases import backbone, mixed_chip

SPACE = derive_space(backbone(), mixed_chip())


@pytest.mark.parametrize("chip", ["diana", "diana-hierarchy", "edge-tpu-quad"])
def test_the_cost_model_keeps_its_contract(chip: str) -> None:
    check_cost_model(FastCostModel(), load_accelerator(chip))


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_strategies_keep_their_contract(name: str) -> None:
    check_strategy(STRATEGIES[name], SPACE)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_policies_keep_their_contract(name: str) -> None:
    check_policy(SCORES[name])


class Spoiled:
    """The cost model with one field changed."""

    def __init__(self, **factors: float) -> None:
        self.factors = factors

    def layer_costs(self, layers: Sequence[Layer], accelerator: Accelerator) -> LayerCosts:
        good = FastCostModel().layer_costs(layers, accelerator)
        return replace(good, **{k: getattr(good, k) * f for k, f in self.factors.items()})


class Crowded:
    """A cost model whose prices grow with the number of layers asked for."""

    def layer_costs(self, layers: Sequence[Layer], accelerator: Accelerator) -> LayerCosts:
        good = FastCostModel().layer_costs(layers, accelerator)
        return replace(good, cycles=good.cycles * len(layers))


class Eager:
    """A cost model that lets every core run everything."""

    def layer_costs(self, layers: Sequence[Layer], accelerator: Accelerator) -> LayerCosts:
        ones = np.ones((4, len(layers), len(accelerator.cores)))
        return LayerCosts(cycles=ones, energy_pj=ones, parts={"mac": ones}, utilization=ones, peak_bytes=ones)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Spoiled(cycles=-1.0), "cycles and energy must be infinite|a price below zero"),
        (Spoiled(energy_pj=2.0), "the parts do not sum"),
        (Spoiled(utilization=1e6), "utilization outside"),
        (Crowded(), "depends on the layers around it"),
        (Eager(), "does not support"),
    ],
)
def test_broken_cost_models_are_noticed(model: Spoiled | Crowded | Eager, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_cost_model(model, load_accelerator("diana"))


class Repeats(RandomSearch):
    """Asks for the same candidate again and again."""

    def ask(self, n: int) -> list[Architecture]:
        return [SPACE.neutral] * n


class Moody:
    """Each instance starts from another seed."""

    count = 0

    def __init__(self, task: Task) -> None:
        Moody.count += 1
        self._inner = RandomSearch(replace(task, seed=Moody.count))

    def ask(self, n: int) -> list[Architecture]:
        return self._inner.ask(n)

    def tell(self, trials: Sequence[Trial]) -> None:
        self._inner.tell(trials)


class Lavish(RandomSearch):
    """Gives more than it was asked for."""

    def ask(self, n: int) -> list[Architecture]:
        return super().ask(n + 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [(Repeats, "proposed twice"), (Moody, "depend on how many|two runs with one seed"), (Lavish, "depend|asked for")],
)
def test_broken_strategies_are_noticed(make: type, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_strategy(make, SPACE)


def first_class(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    return np.asarray(softmax(logits, temperature)[..., 0])


def unsure(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    return -SCORES["max_softmax"](logits, temperature)


def over_the_batch(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    sure = SCORES["max_softmax"](logits, temperature)
    return np.asarray(sure / sure.max())


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (first_class, "order of the classes"),
        (unsure, "must not be less sure"),
        (over_the_batch, "same bits as in a batch"),
        (lambda x, t=1.0: np.asarray(x)[..., 0] * 0 + np.asarray(x).max(axis=-1), "an offset"),
    ],
)
def test_broken_policies_are_noticed(score: object, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_policy(score)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Measurement]:
    network = resnet8(shape=(1, 8, 8), widths=(4, 8, 8))
    folder = write_bundle(tmp_path_factory.mktemp("device") / "bundle", network, thresholds=(0.5, 0.5))
    bundle = open_bundle(Path(folder))
    return bundle, measure(bundle, "host", inputs_for(bundle.network, 12), rounds=5)


def test_the_host_keeps_the_contract_of_devices(timed: tuple[Bundle, Measurement]) -> None:
    check_measurement(timed[1], timed[0])


def test_broken_measurements_are_noticed(timed: tuple[Bundle, Measurement]) -> None:
    bundle, good = timed
    upside_down = replace(good.stages[0], together=Quartiles(median=1.0, q1=2.0, q3=3.0))
    for bad, message in (
        (replace(good, stages=good.stages[:-1]), "wanted 3 stages"),
        (replace(good, samples=good.samples + 1), "every sample leaves"),
        (replace(good, unit="seconds"), "unit 'seconds'"),
        (replace(good, stages=(upside_down, *good.stages[1:])), "quartiles out of order"),
        (replace(good, machine=""), "machine's name"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_measurement(bad, bundle)
