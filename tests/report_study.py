"""Trials with made-up figures of the right size: they show what a page does with values, and are no result."""

import json

import numpy as np

from offramp.ir.architecture import Architecture, ExitChoice
from offramp.ir.trial import Metrics, Status, Trial
from offramp.report.study import Measured, StudyReport

LAYERS = ("conv1", *(f"block{b}.{c}" for b in range(3) for c in ("conv1", "conv2", "skip")), "final.fc")
CLOCK_HZ = 270e6


def metrics(accuracy: float, energy: float, latency: float) -> Metrics:
    return Metrics(
        accuracy_val=accuracy, accuracy_test=accuracy - 0.004, energy_uj=energy, latency_ms=latency,
        worst_latency_ms=latency * 1.7, worst_energy_uj=energy * 1.6, edp=energy * latency,
        macs=energy * 3e5, peak_bytes=65_536,
    )  # fmt: skip


def detail(exits: int, figures: Metrics) -> str:
    share = 1.0 / (exits + 1)
    stages = [
        {
            "backbone_cycles": 80_000.0 * (k + 1), "branch_cycles": 2_100.0, "backbone_pj": 9e6, "branch_pj": 3e5,
            "cumulative_cycles": 82_100.0 * (k + 1), "cumulative_pj": 9.3e6 * (k + 1),
        }
        for k in range(exits + 1)
    ]  # fmt: skip
    curve = [
        {
            "accuracy": figures.accuracy_val - 0.004 * (9 - k) ** 1.5,
            "energy_uj": figures.energy_uj * (0.6 + 0.06 * k),
            "latency_ms": figures.latency_ms * (0.6 + 0.06 * k), "thresholds": [0.4 + 0.06 * k] * exits,
            "exit_rates": [share] * (exits + 1),
        }
        for k in range(10)
    ]  # fmt: skip
    accuracies = [0.6 + 0.27 * (k + 1) / (exits + 1) for k in range(exits + 1)]
    return json.dumps({"stages": stages, "curve": curve, "exit_accuracies": accuracies, "clock_hz": CLOCK_HZ})


def ok_trial(number: int, rng: np.random.Generator) -> Trial:
    exits = tuple(ExitChoice(int(b)) for b in sorted(rng.choice(3, size=rng.integers(0, 3), replace=False)))
    energy = float(rng.uniform(12, 60))
    figures = metrics(0.878 - 0.9 * np.exp(-energy / 6) - abs(rng.normal(0, 0.012)), energy, energy / 31)
    rates = rng.dirichlet(np.ones(len(exits) + 1) * 3)
    bits = tuple((n, (int(rng.choice([2, 4, 8])), int(rng.choice([4, 8])))) for n in LAYERS)
    return Trial(
        number=number, architecture=Architecture(backbone="resnet8", exits=exits), status=Status.OK, seed=number,
        metrics=figures, thresholds=tuple(0.8 for _ in exits), exit_rates=tuple(rates.tolist()), bits=bits,
        cores=tuple((n, "analog" if b == 2 else "digital") for n, (b, _) in bits), detail=detail(len(exits), figures),
    )  # fmt: skip


def broken_trial(number: int, status: Status, reason: str) -> Trial:
    return Trial(number=number, architecture=Architecture(backbone="resnet8"), status=status, seed=0, reason=reason)


def made_study(count: int = 60, seed: int = 0, title: str = "resnet8 on diana, cifar10") -> StudyReport:
    rng = np.random.default_rng(seed)
    trials = [ok_trial(k, rng) for k in range(count)]
    trials[3] = broken_trial(3, Status.INFEASIBLE, "block1.conv1: 8x8x64 weights do not fit any core")
    trials[7] = broken_trial(7, Status.FAILED, "the loss was not finite in epoch 2")
    still = Trial(
        number=0, architecture=Architecture(backbone="resnet8"), status=Status.OK, seed=0,
        metrics=metrics(0.872, 64.0, 2.3), exit_rates=(1.0,), bits=tuple((n, (8, 8)) for n in LAYERS),
        cores=tuple((n, "digital") for n in LAYERS),
    )  # fmt: skip
    report = StudyReport(title=title, trials=tuple(trials), static=still, objectives=("accuracy", "energy_uj"))
    stages = ((0.31, 0.02), (0.42, 0.03), (0.5, 0.01))
    measured = {-1: Measured(device="host", latency_ms=1.9)}
    if report.knee is not None:
        measured[report.knee.number] = Measured(device="host", latency_ms=0.8, stages=stages, accuracy=0.868)
    meta = {"command": "offramp search --data cifar10", "seed": str(seed), "versions": "offramp 0.1.0, torch 2.13.0"}
    return StudyReport(
        title=title, trials=report.trials, static=still, objectives=report.objectives, measured=measured, meta=meta
    )
