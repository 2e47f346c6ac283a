"""CIFAR-10, ResNet-8 on DIANA: float and 8-bit accuracy of the static network, and the front of early-exit networks.

    make bench-cifar DATA_DIR=...        (2 cores, at most an hour)

Training and search see training and validation images; each reported network reads test once. Prints a Markdown table.
A long run can be done in parts, also on several machines that hand the run folder on: `--part reference` beside
`shared`, then `static` beside `search`, then `point --point N` for each number that `points` prints; parts that are
done are not repeated, and without `--part` what is left is done and the table printed.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from offramp.api import carry_out, open_backbone, open_space
from offramp.cli.search import Meter
from offramp.config import Budget, StudyConfig
from offramp.data import load_dataset
from offramp.designer import Designer
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.trial import Trial
from offramp.learn.predict import accuracies, predict
from offramp.learn.weights import load_weights
from offramp.nn.network import build
from offramp.nn.widen import widen
from offramp.report.run_folder import JOURNAL
from offramp.search.journal import Journal


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
    parser.add_argument("--finish-float-epochs", type=int, default=0)
    parser.add_argument("--finish-points", type=int, default=6)
    parser.add_argument("--from", dest="start", default=None, help="zoo: begin with its trained float weights")
    parser.add_argument("--widen", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--space", type=Path, default=None)
    parser.add_argument("--without", default="", help="parts of the space to leave out")
    parser.add_argument("--objectives", default="accuracy,energy_uj")
    parser.add_argument("--constraints", default="", help="bounds that candidates keep: energy_uj<=4,latency_ms<=0.1")
    parser.add_argument("--execution", default="best")
    parser.add_argument("--part", choices=PARTS, default=None)
    parser.add_argument("--point", type=int, nargs="*", default=(), help="trials to finish; the front's when not given")
    return parser.parse_args()


PARTS = ("reference", "shared", "static", "search", "points", "point")


def run_part(designer: Designer, part: str, numbers: Sequence[int]) -> None:
    """One part of the study; what it makes lies in the run folder."""
    if part == "reference":
        _ = designer.reference
    elif part == "shared":
        _ = designer.shared
    elif part == "static":
        designer.train_static()
    elif part == "search":
        with designer.journal() as journal:
            tell_points(designer.points(designer.search(journal), numbers))
    else:
        with Journal.read(designer.folder / JOURNAL) as journal:  # also while others read it
            chosen = designer.points(journal.trials(), numbers)
        tell_points(chosen)
        for trial in chosen if part == "point" else ():
            designer.train_point(trial)


def tell_points(trials: Sequence[Trial]) -> None:
    """The numbers that `--part point --point` takes."""
    print("points:", *(t.number for t in trials))


def float_accuracy(designer: Designer) -> tuple[float, float]:
    """Validation and test accuracy of the static network before quantization."""
    full = designer.bed.full
    network = build(designer.neutral, full.input_shape, full.classes, seed=0, full=full)
    load_weights(designer.folder / "weights" / "static-float.safetensors", network)
    data = designer.dataset
    test = data.read_test("static float")
    return tuple(float(accuracies(predict(network, s.x), s.y)[-1]) for s in (data.val, test))  # type: ignore[return-value]


def table(rows: Sequence[tuple[str, Trial]]) -> Iterator[str]:
    """Finished networks by name as Markdown, against the first of them."""
    yield "| network | val | test | energy uJ | of static | latency ms | speed-up | MMACs | exit rates |"
    yield "|---" * 9 + "|"
    static = rows[0][1].metrics
    for name, trial in rows:
        m = trial.metrics
        assert m is not None and static is not None
        rates = " ".join(f"{r:.3f}" for r in trial.exit_rates)
        yield (
            f"| {name} | {m.accuracy_val:.4f} | {m.accuracy_test:.4f} | {m.energy_uj:.3f} | "
            f"{m.energy_uj / static.energy_uj:.3f} | {m.latency_ms:.4f} | {static.latency_ms / m.latency_ms:.2f} | "
            f"{m.macs / 1e6:.2f} | {rates} |"
        )


def main() -> None:
    given = arguments()
    start = time.perf_counter()
    dataset = load_dataset("cifar10", data_dir=given.data_dir, seed=given.seed)
    budget = Budget(
        shared_epochs=given.shared_epochs,
        static_epochs=given.static_epochs,
        tune_epochs=given.tune_epochs,
        finish_epochs=given.finish_epochs,
        finish_float_epochs=given.finish_float_epochs,
        finish_points=given.finish_points,
        batch=given.batch,
    )
    config = StudyConfig(
        data="cifar10", backbone=given.backbone, accelerator=given.accelerator, run=given.run, budget=budget,
        strategy=given.strategy, trials=given.trials, seed=given.seed, execution=given.execution, start=given.start,
        objectives=tuple(given.objectives.split(",")), constraints=tuple(filter(None, given.constraints.split(","))),
    )  # fmt: skip
    full, chip = widen(open_backbone(given.backbone, dataset), given.widen), load_accelerator(given.accelerator)
    space = open_space(given.space, [part for part in given.without.split(",") if part], full, chip)
    with Meter() as meter:
        designer = Designer(config, dataset, full, chip, space=space, progress=meter.tell)
        if given.part is not None:
            run_part(designer, given.part, given.point)
            return
        result = carry_out(designer, given.point)
    val, test = float_accuracy(designer)
    print(f"static float: val {val:.4f}, test {test:.4f}")
    points = ((f"trial {p.trial.number}", p.trial) for p in result.front)
    print("\n".join(table([("static 8 bit", result.static.trial), *points])))
    minutes = (time.perf_counter() - start) / 60
    print(f"{minutes:.1f} minutes, {torch.get_num_threads()} threads, seed {given.seed}")


if __name__ == "__main__":
    main()
