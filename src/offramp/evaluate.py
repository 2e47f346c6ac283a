"""Architecture -> Trial: the one place where networks and prices meet; a plain sequence of calls.

    price      network on the meta device -> workload -> mapping; a candidate that breaks a constraint ends here
    prepare    weights cut out of the shared ones, quantized, on the numerics of the cores that were chosen
    tune       a few epochs with the candidate's own precision and noise
    solve      which exits to keep and one threshold each, on validation data, from the mapped prices
    trial      expected and worst-case figures

It sees training and validation data; test data only in `with_test`, for networks that are reported.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.cost.mapper import map_network
from offramp.cost.model import CostModel
from offramp.cost.network import NetworkCost
from offramp.data import Dataset, Split
from offramp.errors import AccelerationError
from offramp.exits.calibrate import fit_temperature
from offramp.exits.fresh import solve_fresh
from offramp.exits.guarantee import Guarantee, guaranteed
from offramp.exits.policy import PATIENCE, confidences
from offramp.exits.solve import Explored, Solution, apply, cumulated, explore_kept, solve
from offramp.ir.accelerator import Accelerator
from offramp.ir.architecture import Architecture
from offramp.ir.trial import Metrics, Status, Trial
from offramp.ir.workload import Workload
from offramp.learn.predict import Logits, accuracies, predict
from offramp.learn.train import TrainConfig, fit
from offramp.nn.analog import AnalogSettings
from offramp.nn.backbones import Backbone
from offramp.nn.describe import describe
from offramp.nn.freeze import freeze_backbone, freeze_linear_branches
from offramp.nn.lower import lower
from offramp.nn.network import EarlyExitNetwork, build, skeleton
from offramp.nn.quantize import PreparedNetwork, calibrate, prepare
from offramp.nn.shared import cut_out
from offramp.search.constraints import Constraint, figures, misses
from offramp.search.task import Price

CALIBRATION_SAMPLES = 1024
CURVE_POINTS = 40
COST_OF = {"energy_uj": "energy", "latency_ms": "latency", "edp": "edp", "macs": "energy", "peak_bytes": "energy"}
"""What the mapper and the thresholds minimise for the first cost objective of a study."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Testbed:
    """What every candidate of a study is evaluated on.

    Attributes:
        full: the backbone at full size.
        constraints: limits that a trial must keep.
        objective: "energy", "latency" or "edp": what mapping and thresholds minimise.
        accuracy_drop: accuracy that thresholds may cost, against the best of the network's own exits: of a trial on
            validation data, of a finished network by cross-validation.
        guarantee: the promise that thresholds of finished networks keep.
        certification: samples that only the guarantee sees: no training, no search, no choice of exits.
        tune_config, tune_epochs, tune_samples: quantization-aware training of every candidate.
        frozen: backbone and head keep their weights and quantizers; exit branches alone learn.
        solved: so do exits that are pooling and one linear layer, whose shared weights are a closed form.
    """

    dataset: Dataset
    full: Backbone
    accelerator: Accelerator
    cost_model: CostModel
    constraints: tuple[Constraint, ...] = ()
    objective: str = "energy"
    execution: str = "best"
    policy: str = "max_softmax"
    accuracy_drop: float = 0.002
    guarantee: Guarantee | None = None
    certification: Split | None = None
    tune_epochs: int = 1
    tune_samples: int = 8192
    tune_config: TrainConfig
    frozen: bool = False
    solved: bool = False
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """A trial with the network behind it: what a bundle is made from.

    Both have the exits that pay for themselves; the candidate may have asked for more.
    """

    trial: Trial
    network: PreparedNetwork | None = None
    cost: NetworkCost | None = None
    temperatures: tuple[float, ...] = ()


def analog_settings(architecture: Architecture, accelerator: Accelerator) -> dict[str, AnalogSettings]:
    """Layer -> what the analog array does to it, for layers that ask for an analog core."""
    arrays = {core.name: core.analog for core in accelerator.cores}
    return {
        layer: AnalogSettings(
            rows=array.rows, input_bits=array.input_bits, adc_bits=array.adc_bits, read_noise=array.read_noise
        )
        for layer, core in architecture.cores
        if (array := arrays.get(core)) is not None
    }


def workload_of(bed: Testbed, architecture: Architecture) -> Workload:
    """The layers of a candidate with their bits; nothing is trained, no memory is taken."""
    adc = {layer: s.adc_bits for layer, s in analog_settings(architecture, bed.accelerator).items()}
    return lower(
        skeleton(architecture, bed.full),
        precision=dict(architecture.precision),
        default=architecture.default_precision,
        adc_bits=adc,
    )


def price(bed: Testbed, architecture: Architecture, exit_rates: tuple[float, ...] | None = None) -> NetworkCost:
    """The best mapping of a candidate and its price.

    Raises:
        AccelerationError: a layer that no core takes.
    """
    return map_network(
        workload_of(bed, architecture),
        bed.accelerator,
        cost_model=bed.cost_model,
        exit_rates=exit_rates,
        execution=bed.execution,
        objective=bed.objective,
        pinned=dict(architecture.cores),
    )


def quote(bed: Testbed, architecture: Architecture) -> Price:
    """What a search strategy may know of a candidate before any training."""
    try:
        return quoted(price(bed, architecture))
    except AccelerationError as error:
        return Price(per_exit={}, fixed={}, refusal=str(error))


def quoted(cost: NetworkCost) -> Price:
    """The prices of a mapped network that the names of objectives and constraints mean."""
    worst = cost.worst_case
    return Price(
        per_exit={
            "energy_uj": tuple(s.cumulative_pj / 1e6 for s in cost.stages),
            "latency_ms": tuple(cost.milliseconds(s.cumulative_cycles) for s in cost.stages),
            "macs": tuple(stage_macs(cost).tolist()),
        },
        fixed={
            "peak_bytes": cost.peak_bytes,
            "worst_latency_ms": cost.milliseconds(worst.latency_cycles),
            "worst_energy_uj": worst.energy_pj / 1e6,
        },
    )


def batches(split: Split, device: str, count: int = CALIBRATION_SAMPLES, size: int = 256) -> Iterator[torch.Tensor]:
    """The first samples of a split as tensors, for calibration."""
    for start in range(0, min(count, len(split)), size):
        yield torch.as_tensor(split.x[start : start + size]).to(device)


def prepare_candidate(
    bed: Testbed, shared: EarlyExitNetwork, architecture: Architecture, *, seed: int
) -> PreparedNetwork:
    """The candidate with the shared weights, quantized as its cores compute and calibrated on training data."""
    network = prepare_layers(bed, architecture, cut_out(shared, architecture, seed=seed), seed=seed)
    calibrate(network, batches(bed.dataset.train, bed.device))
    return network


def prepare_layers(bed: Testbed, architecture: Architecture, plain: EarlyExitNetwork, *, seed: int) -> PreparedNetwork:
    """A float network with the bits and the analog arrays of its architecture, not calibrated yet."""
    network = prepare(
        plain,
        dict(architecture.precision),
        default=architecture.default_precision,
        analog=analog_settings(architecture, bed.accelerator),
        noise_seed=seed,
    ).to(bed.device)
    if bed.frozen:
        freeze_backbone(network)
    if bed.solved:
        freeze_linear_branches(network)
    return network


def tune(
    bed: Testbed,
    network: PreparedNetwork,
    *,
    epochs: int,
    seed: int,
    samples: int | None = None,
    teacher: EarlyExitNetwork | None = None,
    batch: int | None = None,
    checkpoint: Path | None = None,
) -> PreparedNetwork:
    """Quantization-aware training in place, on the first `samples`; read noise is on where a core has it.

    Every exit follows the teacher's deepest when there is one, else the network's own.
    """
    if epochs and any(p.requires_grad for p in network.parameters()):
        data = bed.dataset
        fit(
            network,
            Split(data.train.x[:samples], data.train.y[:samples]),
            epochs=epochs,
            seed=seed,
            config=bed.tune_config.at_batch(batch),
            augmentation=data.augmentation,
            teacher=teacher,
            device=bed.device,
            checkpoint=checkpoint,
        )
    return network


def evaluate(
    bed: Testbed,
    shared: Callable[[], EarlyExitNetwork],
    architecture: Architecture,
    *,
    number: int,
    seed: int,
) -> Evaluated:
    """One candidate from its description to its figures.

    Args:
        shared: gives the weights to start from; asked only for a candidate whose price keeps the constraints.
        number: of the trial in its study; -1 for the static reference.
        seed: of everything random in this trial.

    Raises:
        AccelerationError: a layer that no core takes.
        TrainingError: the loss is not finite.
    """
    first = price(bed, architecture)
    missed = misses(quoted(first).at_best, bed.constraints)
    if missed:
        trial = Trial(
            number=number,
            architecture=architecture,
            status=Status.INFEASIBLE,
            seed=seed,
            reason=f"before training: misses {', '.join(missed)}",
            detail=json.dumps({"violation": sum(missed.values())}),
        )
        return Evaluated(trial=trial, cost=first)
    network = prepare_candidate(bed, shared(), architecture, seed=seed)
    tune(bed, network, epochs=bed.tune_epochs, seed=seed, samples=bed.tune_samples)
    return judge(bed, architecture, network, first, number=number, seed=seed)


def judge(
    bed: Testbed,
    architecture: Architecture,
    network: PreparedNetwork,
    first: NetworkCost,
    *,
    number: int,
    seed: int,
    finished: bool = False,
) -> Evaluated:
    """Temperatures, exits and thresholds of a trained network, and its figures on validation data.

    Args:
        first: price under equal exit rates.
        finished: choose thresholds for fresh data: by cross-validation, or as the testbed's promise asks.
    """
    val = bed.dataset.val
    logits = predict(network, val.x, noise_seed=seed)
    temperatures = tuple(fit_temperature(row, val.y) for row in logits)
    sure, right = evidence(bed.policy, logits, val.y, temperatures)
    kept = choose_exits(bed, sure, right, first)
    chosen, network, cost = with_exits(bed, architecture, network, first, kept)
    scales, sure, right = tuple(temperatures[i] for i in kept), sure[list(kept)], right[list(kept)]
    costs, expected = leaving_costs(bed, cost), None
    if finished and len(kept) > 1:
        if bed.guarantee is not None:
            wanted = certified(bed, network, scales, costs, seed=seed)
        else:
            wanted, expected = solve_fresh(sure, right, costs, drop=bed.accuracy_drop, policy=bed.policy, seed=seed)
        chosen, network, cost = with_exits(bed, chosen, network, cost, wanted.exits)
        kept, scales = tuple(kept[i] for i in wanted.exits), tuple(scales[i] for i in wanted.exits)
        sure, right, costs = sure[list(wanted.exits)], right[list(wanted.exits)], leaving_costs(bed, cost)
        found = explore_kept(sure, right, costs, policy=bed.policy)
        solution = apply(sure, right, range(len(kept)), wanted.thresholds, costs.tolist())
    else:
        found = explore_kept(sure, right, costs, policy=bed.policy)
        solution = found.cheapest(accuracy_floor(bed, right))
    cost = price(bed, chosen, solution.exit_rates)
    metrics = expected_figures(cost, solution)
    missed = misses(figures(metrics), bed.constraints)
    trial = Trial(
        number=number,
        architecture=chosen,
        status=Status.INFEASIBLE if missed else Status.OK,
        seed=seed,
        reason=f"misses {', '.join(missed)}" if missed else "",
        metrics=metrics,
        thresholds=solution.thresholds,
        exit_rates=solution.exit_rates,
        bits=tuple(sorted((k, v) for k, v in network.bits.items() if k in cost.mapping.cores)),
        cores=tuple(sorted(cost.mapping.cores.items())),
        detail=json.dumps(details(bed, kept, scales, logits, found, cost) | {"expected_drop": expected}),
    )
    return Evaluated(trial=trial, network=network, cost=cost, temperatures=scales)


def with_exits(
    bed: Testbed, architecture: Architecture, network: PreparedNetwork, cost: NetworkCost, kept: Sequence[int]
) -> tuple[Architecture, PreparedNetwork, NetworkCost]:
    """The same trained network with some of its exits (what led to no other one left out), and its price."""
    early = tuple(e for i, e in enumerate(architecture.exits) if i in kept)
    if early == architecture.exits:
        return architecture, network, cost
    chosen = describe(bed.full).canonical(replace(architecture, exits=early))
    plain = build(chosen, bed.full.input_shape, bed.full.classes, seed=0, full=bed.full)
    return chosen, take_layers(prepare_layers(bed, chosen, plain, seed=0), network).eval(), price(bed, chosen)


def take_layers(network: PreparedNetwork, source: PreparedNetwork) -> PreparedNetwork:
    """Fill the input's quantizer and every layer that both networks have, in place."""
    network.input.load_state_dict(source.input.state_dict())
    for name in network.names & source.names:
        network.layer(name).load_state_dict(source.layer(name).state_dict())
    return network


Evidence = tuple[NDArray[np.float64], NDArray[np.bool_]]


def evidence(policy: str, logits: Logits, y: NDArray[np.int64], temperatures: Sequence[float]) -> Evidence:
    """Confidence and correctness of every exit for every sample, both [E, N]."""
    return confidences(policy, list(logits), temperatures), logits.argmax(axis=2) == y[None]


def prices(bed: Testbed, cost: NetworkCost) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Price of every stage's backbone part and of its branch, [E] each, in the unit of the testbed's objective."""
    if bed.objective == "latency":
        pairs = [(s.backbone_cycles, s.branch_cycles) for s in cost.stages]
    else:
        pairs = [(s.backbone_pj, s.branch_pj) for s in cost.stages]
    stages, branches = np.asarray(pairs, dtype=np.float64).T
    return stages, branches


def choose_exits(
    bed: Testbed, sure: NDArray[np.float64], right: NDArray[np.bool_], cost: NetworkCost
) -> tuple[int, ...]:
    """Which of the exits that were asked for pay for themselves, the final one last.

    Patience counts exits that agree, so there nothing may be dropped.
    """
    if bed.policy == PATIENCE or len(sure) == 1:
        return tuple(range(len(sure)))
    stages, branches = prices(bed, cost)
    floor = accuracy_floor(bed, right)
    return solve(sure, right, stages, branches, accuracy_floor=floor, policy=bed.policy).exits


def accuracy_floor(bed: Testbed, right: NDArray[np.bool_]) -> float:
    """The validation accuracy that thresholds must keep: that of the best single exit less the allowed drop."""
    return float(max(0.0, right.mean(axis=1).max() - bed.accuracy_drop))


def leaving_costs(bed: Testbed, cost: NetworkCost) -> NDArray[np.float64]:
    """Price of leaving at each exit, [E], with whatever speculation wastes."""
    latency = bed.objective == "latency"
    return np.asarray([s.cumulative_cycles if latency else s.cumulative_pj for s in cost.stages], dtype=np.float64)


def certified(
    bed: Testbed,
    network: PreparedNetwork,
    temperatures: Sequence[float],
    costs: NDArray[np.float64],
    *,
    seed: int,
) -> Solution:
    """Exits and thresholds that keep the testbed's promise, from samples that nothing else has seen.

    Raises:
        InfeasibleError: an accuracy was promised that no setting is certified to reach.
    """
    assert bed.guarantee is not None and bed.certification is not None
    logits = predict(network, bed.certification.x, noise_seed=seed)
    sure, right = evidence(bed.policy, logits, bed.certification.y, temperatures)
    return guaranteed(sure, right, costs, bed.guarantee, policy=bed.policy, seed=seed)


def stage_macs(cost: NetworkCost) -> NDArray[np.float64]:
    """Multiply-accumulates of a sample that leaves at each exit, [E]."""
    backbone, branch = ([0.0] * len(cost.stages) for _ in range(2))
    for layer in cost.layers:
        (branch if layer.branch else backbone)[layer.stage] += layer.macs
    return cumulated(backbone, branch, range(len(cost.stages)))


def expected_figures(cost: NetworkCost, solution: Solution) -> Metrics:
    """Expected figures over the exit rates, and the worst case."""
    rates = np.asarray(solution.exit_rates)
    expected, worst = cost.expected(solution.exit_rates), cost.worst_case
    energy, latency = expected.energy_pj / 1e6, cost.milliseconds(expected.latency_cycles)
    return Metrics(
        accuracy_val=solution.accuracy,
        energy_uj=energy,
        latency_ms=latency,
        worst_latency_ms=cost.milliseconds(worst.latency_cycles),
        worst_energy_uj=worst.energy_pj / 1e6,
        edp=energy * latency,
        macs=float(rates @ stage_macs(cost)),
        peak_bytes=cost.peak_bytes,
    )


def details(
    bed: Testbed,
    kept: tuple[int, ...],
    temperatures: tuple[float, ...],
    logits: Logits,
    found: Explored,
    cost: NetworkCost,
) -> dict[str, Any]:
    """What the report shows of a trial beside its metrics (keys as in `report.study`)."""
    return {
        "exit_accuracies": accuracies(logits, bed.dataset.val.y)[list(kept)].tolist(),
        "stages": [
            {
                "backbone_cycles": s.backbone_cycles,
                "branch_cycles": s.branch_cycles,
                "backbone_pj": s.backbone_pj,
                "branch_pj": s.branch_pj,
                "cumulative_cycles": s.cumulative_cycles,
                "cumulative_pj": s.cumulative_pj,
            }
            for s in cost.stages
        ],
        "temperatures": [float(t) for t in temperatures],
        "exit_modes": [str(m) for m in cost.mapping.exit_modes],
        "clock_hz": cost.clock_mhz * 1e6,
        "curve": [operating_point(cost, s) for s in found.curve(CURVE_POINTS)],
    }


def operating_point(cost: NetworkCost, solution: Solution) -> dict[str, Any]:
    """One point of the accuracy/cost curve as plain figures."""
    expected = cost.expected(solution.exit_rates)
    return {
        "accuracy": solution.accuracy,
        "energy_uj": expected.energy_pj / 1e6,
        "latency_ms": cost.milliseconds(expected.latency_cycles),
        "thresholds": list(solution.thresholds),
        "exit_rates": list(solution.exit_rates),
    }


def with_test(bed: Testbed, done: Evaluated) -> Evaluated:
    """The same with accuracy and exit rates on the test split, read once for this network.

    Args:
        done: an evaluated network.
    """
    assert done.network is not None
    test = bed.dataset.read_test(f"trial {done.trial.number}")
    logits = predict(done.network, test.x, noise_seed=done.trial.seed)
    sure, right = evidence(bed.policy, logits, test.y, done.temperatures)
    kept = range(len(logits))
    outcome = apply(sure, right, kept, done.trial.thresholds, [0.0] * len(kept))
    assert done.trial.metrics is not None
    metrics = replace(done.trial.metrics, accuracy_test=outcome.accuracy)
    detail = {**done.trial.details, "test_exit_rates": list(outcome.exit_rates)}
    return replace(done, trial=replace(done.trial, metrics=metrics, detail=json.dumps(detail)))
