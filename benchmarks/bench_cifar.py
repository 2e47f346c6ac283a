"""CIFAR-10, ResNet-8 on DIANA: float and 8-bit accuracy of the static network, and the front of early-exit networks.

    make bench-cifar DATA_DIR=...        (2 cores, at most an hour)

Training and search see training and validation images; each reported network reads test once. Prints a Markdown table.
"""

import argparse
import time
from pathlib import Path

import torch

from offramp.api import carry_out, open_backbone
from offramp.cli.search import Meter
from offramp.config import Budget, StudyConfig
from offramp.data import load_dataset
from offramp.designer import Designer
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.learn.predict import accuracies, predict
from offramp.learn.weights import load_weights
from offramp.nn.network import build


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--backbone", default="resnet8")
    parser.add_argument("--accelerator", default="diana")
    parser.add_argument("--run", type=Path, default=Path("runs/bench-cifar"))
    parser.add_argument("--strategy", default="nsga2")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shared-epochs", type=int, default=8)
    parser.add_argument("--static-epochs", type=int, default=24)
    parser.add_argument("--tune-epochs", type=int, default=1)
    parser.add_argument("--finish-epochs", type=int, default=4)
    parser.add_argument("--finish-points", type=int, default=6)
    return parser.parse_args()


def float_accuracy(designer: Designer) -> tuple[float, float]:
    """Validation and test accuracy of the static network before quantization."""
    full = designer.bed.full
    network = build(designer.neutral, full.input_shape, full.classes, seed=0, full=full)
    load_weights(designer.folder / "weights" / "static-float.safetensors", network)
    data = designer.dataset
    test = data.read_test("static float")
    return tuple(float(accuracies(predict(network, s.x), s.y)[-1]) for s in (data.val, test))  # type: ignore[return-value]


def main() -> None:
    given = arguments()
    start = time.perf_counter()
    dataset = load_dataset("cifar10", data_dir=given.data_dir, seed=given.seed)
    budget = Budget(
        shared_epochs=given.shared_epochs,
        static_epochs=given.static_epochs,
        tune_epochs=given.tune_epochs,
        finish_epochs=given.finish_epochs,
        finish_points=given.finish_points,
    )
    config = StudyConfig(
        data="cifar10", backbone=given.backbone, accelerator=given.accelerator, run=given.run, budget=budget,
        strategy=given.strategy, trials=given.trials, seed=given.seed,
    )  # fmt: skip
    full, chip = open_backbone(given.backbone, dataset), load_accelerator(given.accelerator)
    with Meter() as meter:
        designer = Designer(config, dataset, full, chip, progress=meter.tell)
        result = carry_out(designer)
    val, test = float_accuracy(designer)
    print(f"static float: val {val:.4f}, test {test:.4f}")
    print("| network | val | test | energy uJ | of static | latency ms | speed-up | MMACs | exit rates |")
    print("|---|---|---|---|---|---|---|---|---|")
    static = result.static.metrics
    for name, p in [("static 8 bit", result.static), *((f"trial {p.trial.number}", p) for p in result.front)]:
        m = p.metrics
        rates = " ".join(f"{r:.3f}" for r in p.trial.exit_rates)
        print(
            f"| {name} | {m.accuracy_val:.4f} | {m.accuracy_test:.4f} | {m.energy_uj:.3f} | "
            f"{m.energy_uj / static.energy_uj:.3f} | {m.latency_ms:.4f} | {static.latency_ms / m.latency_ms:.2f} | "
            f"{m.macs / 1e6:.2f} | {rates} |"
        )
    minutes = (time.perf_counter() - start) / 60
    print(f"{minutes:.1f} minutes, {torch.get_num_threads()} threads, seed {given.seed}")


if __name__ == "__main__":
    main()
