"""What every cost model, strategy, exit policy and device must keep, as functions to call from a test of your own.

    from offramp.contracts import check_cost_model
    check_cost_model(MyModel(), load_accelerator("my-chip.yaml"))

Each raises AssertionError with the rule that was broken; the built-in ones pass the same checks in the project's tests.
The figures of the toy problem for strategies mean nothing. No torch.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offramp.cost.model import VARIANTS, CostModel
from offramp.deploy.bundle import Bundle
from offramp.deploy.measure import Measurement, Quartiles
from offramp.ir.accelerator import Accelerator
from offramp.ir.architecture import Architecture
from offramp.ir.trial import Metrics, Status, Trial
from offramp.ir.workload import Layer, Op
from offramp.search.space import Space
from offramp.search.task import Strategy, Task

Score = Callable[[ArrayLike, float], NDArray[np.float64]]

SAME = (1, 1, 1, 1)

LAYERS = (
    Layer(name="conv", op=Op.CONV, K=16, C=8, OY=14, OX=14, FY=3, FX=3, IY=14, IX=14, padding=SAME),
    Layer(name="strided", op=Op.CONV, K=32, C=16, OY=7, OX=5, FY=3, FX=3, IY=14, IX=10, stride=(2, 2), padding=SAME),
    Layer(name="pointwise", op=Op.CONV, K=24, C=40, OY=6, OX=6, IY=6, IX=6),
    Layer(name="depthwise", op=Op.DEPTHWISE, G=16, K=1, C=1, OY=14, OX=14, FY=3, FX=3, IY=14, IX=14, padding=SAME),
    Layer(name="dense", op=Op.DENSE, K=10, C=64),
    Layer(name="add", op=Op.ADD, G=16, K=1, C=1, OY=14, OX=14, IY=14, IX=14, inputs=("conv", "other")),
    Layer(name="pool", op=Op.AVG_POOL, G=16, K=1, C=1, FY=7, FX=7, IY=7, IX=7, stride=(7, 7)),
)
"""Small layers of every kind, 8 bit."""


def check_cost_model(model: CostModel, accelerator: Accelerator, layers: Sequence[Layer] = LAYERS) -> None:
    """Shapes, signs, sums, refusals, and that neither order nor company changes a layer's price."""
    costs = model.layer_costs(layers, accelerator)
    shape = (VARIANTS, len(layers), len(accelerator.cores))
    for name in ("cycles", "energy_pj", "utilization", "peak_bytes"):
        assert getattr(costs, name).shape == shape, f"{name}: shape {getattr(costs, name).shape}, not {shape}"
    runs = costs.feasible
    assert np.array_equal(runs, np.isfinite(costs.energy_pj)), "cycles and energy must be infinite in the same places"
    assert runs.any(), "no core runs any of the layers"
    for c, core in enumerate(accelerator.cores):
        for i, layer in enumerate(layers):
            refused = f"core {core.name} does not support {layer.name}, but it has a price"
            assert core.supports(layer) or not runs[:, i, c].any(), refused
    assert (costs.cycles[runs] > 0).all() and (costs.energy_pj[runs] >= 0).all(), "a price below zero"
    assert ((costs.utilization >= 0) & (costs.utilization <= 1 + 1e-9)).all(), "utilization outside [0, 1]"
    parts = sum(costs.parts.values(), np.zeros(shape))
    assert np.allclose(parts[runs], costs.energy_pj[runs], rtol=1e-6), "the parts do not sum to energy_pj"
    backwards = model.layer_costs(layers[::-1], accelerator)
    for i, layer in enumerate(layers):
        alone = model.layer_costs([layer], accelerator)
        for name in ("cycles", "energy_pj"):
            own = getattr(costs, name)[:, i]
            same = np.array_equal(own, getattr(alone, name)[:, 0])
            same &= np.array_equal(own, getattr(backwards, name)[:, len(layers) - 1 - i])
            assert same, f"{name} of {layer.name} depends on the layers around it"


def check_strategy(make: Callable[[Task], Strategy], space: Space, *, trials: int = 24, batch: int = 3) -> None:
    """Legal and new candidates, the same for the same seed, undisturbed by failures and by how many are asked for.

    Args:
        space: one with more than `trials` candidates.
    """
    task = Task(space=space, objectives=("accuracy", "energy_uj"), trials=trials, seed=7)
    first, second = make(task), make(task)
    assert first.ask(2) == make(task).ask(5)[:2], "the first candidates depend on how many are asked for"
    first, asked = make(task), list[Architecture]()
    while len(asked) < trials:
        proposed = first.ask(batch)
        assert 0 < len(proposed) <= batch, f"{len(proposed)} candidates where 1 to {batch} were asked for"
        assert proposed == second.ask(batch), "two runs with one seed propose different candidates"
        told = [_toy_trial(a, len(asked) + i, space) for i, a in enumerate(proposed)]
        first.tell(told)
        second.tell(told)
        asked += proposed
    assert len(set(asked)) == len(asked), "a candidate was proposed twice"
    assert all(space.repair(a) == a for a in asked), "a candidate is not of the space"


def _toy_trial(architecture: Architecture, number: int, space: Space) -> Trial:
    """A trial with figures that depend on the candidate alone; every fourth has failed, every fifth is infeasible."""
    trial = Trial(number=number, architecture=architecture, status=Status.FAILED, seed=number, reason="toy")
    if number % 4 == 3:
        return trial
    macs = sum(layer.macs for layer in space.info.layers_of(architecture)) / 1e6
    luck = zlib.crc32(architecture.digest.encode()) / 2**32
    metrics = Metrics(
        accuracy_val=0.5 + 0.4 * luck,
        energy_uj=macs * (1 + luck),
        latency_ms=macs,
        worst_latency_ms=macs,
        worst_energy_uj=macs * 2,
        edp=macs * macs * (1 + luck),
        macs=macs * 1e6,
        peak_bytes=1024,
    )
    status = Status.INFEASIBLE if number % 5 == 4 else Status.OK
    rates = (1.0,) + (0.0,) * len(architecture.exits)
    thresholds = (0.5,) * len(architecture.exits)
    return replace(trial, status=status, reason="", metrics=metrics, exit_rates=rates, thresholds=thresholds)


def check_policy(score: Score, *, classes: int = 10, samples: int = 64) -> None:
    """A confidence per sample that ignores order and offset of the logits and grows when they are sharpened."""
    logits = np.random.default_rng(0).normal(0, 3, (samples, classes))
    sure = score(logits, 1.0)
    assert sure.shape == (samples,) and np.isfinite(sure).all(), "wanted one finite confidence for each sample"
    alone = np.array([score(row, 1.0) for row in logits])
    assert np.array_equal(sure, alone), "one sample alone must give the same bits as in a batch"
    assert np.allclose(score(logits[:, ::-1], 1.0), sure), "the confidence depends on the order of the classes"
    assert np.allclose(score(logits + 5.0, 1.0), sure), "the confidence depends on an offset that softmax ignores"
    assert (score(logits, 0.5) >= sure - 1e-12).all(), "sharper logits must not be less sure"
    even, clear = np.zeros(classes), np.where(np.arange(classes) == 0, 50.0, 0.0)
    assert score(even, 1.0) <= sure.min() and score(clear, 1.0) >= sure.max(), "larger must mean surer"


def check_measurement(measured: Measurement, bundle: Bundle) -> None:
    """What a device says about a bundle: one entry per stage, ordered quartiles, every sample left somewhere."""
    stages = len(bundle.plan.stages)
    assert len(measured.stages) == len(measured.exits) == stages, f"wanted {stages} stages and exits"
    assert sum(measured.exits) == measured.samples > 0, "every sample leaves at exactly one exit"
    assert measured.unit in ("us", "instructions"), f"unit {measured.unit!r}"
    for stage in measured.stages:
        for part in (stage.backbone, stage.branch, stage.together):
            assert isinstance(part, Quartiles) and 0 <= part.q1 <= part.median <= part.q3, "quartiles out of order"
        assert stage.together.median > 0, "a stage that takes no time"
    low, high = measured.whole["p50"], measured.whole["p99"]
    assert 0 < low <= high <= measured.whole["max"] and measured.whole["mean"] > 0, "figures of whole samples"
    assert measured.machine and measured.date, "wanted the machine's name and the date"
