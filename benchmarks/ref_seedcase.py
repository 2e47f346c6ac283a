"""The seed case (arXiv 2512.04705): the published early-exit networks priced by us, one row each; then our own search.

    python benchmarks/ref_seedcase.py                                             (no training; under a minute)
    python benchmarks/ref_seedcase.py --search --data-dir DIR [--trials 60] ...   (a GPU, or a day of two CPU cores)

Rows: published E*T; E*T under the published rule for cycles; our price layer by layer, which also pays for unloading;
and with our mapper's best schedule. The reduction is against the static network under the same execution. With --search
a network of our own is searched and trained on CIFAR-10 and priced by the same rules; budgets are arguments, and the
page that says how the published cycles come about is docs/seedcase.md.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import offramp
from bench_seedcase import CHIP, PUBLISHED, STATIC, published_et, read_stages, scaled, workload_of
from offramp.config import Budget
from offramp.cost.engine import FastCostModel
from offramp.cost.mapper import EXECUTIONS, map_network
from offramp.cost.network import PICOJOULES_PER_JOULE
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.trial import Trial


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true", help="search and train a network of our own")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--run", type=Path, default=Path("runs/ref-seedcase"))
    parser.add_argument("--execution", default="layer-by-layer", choices=EXECUTIONS)
    parser.add_argument("--strategy", default="nsga2")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=100, help="of the shared weights, and of the static network")
    parser.add_argument("--tune-epochs", type=int, default=1)
    parser.add_argument("--finish-epochs", type=int, default=20)
    parser.add_argument("--finish-points", type=int, default=6)
    parser.add_argument("--subset", type=int, default=None)
    return parser.parse_args()


def priced_lines() -> Iterator[str]:
    """Published networks at their published exit ratios: E*T in J*cycles."""
    chip, stages = load_accelerator(CHIP), read_stages()
    yield "| exits | published | published rule, ours | layer by layer, ours | of static | our mapper | of static |"
    yield "|---" * 7 + "|"
    base: dict[str, float] = {}
    for given in (STATIC, *PUBLISHED):
        workload, rates = workload_of(given.exits), scaled(given.ratios)
        ruled = f"{published_et(given, chip)[2]:.1f}" if given.exits in stages else "-"
        cells = [f"{given.et:.1f}", ruled]
        for execution in ("layer-by-layer", "best"):
            cost = map_network(
                workload, chip, cost_model=FastCostModel(), exit_rates=rates, execution=execution, objective="et"
            )
            et = cost.expected(rates).et_joule_cycles
            cells += [f"{et:.1f}", f"{et / base.setdefault(execution, et):.2f}"]
        yield f"| {given.exits} | {' | '.join(cells)} |"


def et_of(trial: Trial) -> float:
    """The published measure: the mean over exits of (energy to the exit in joules) x (cycles to it), in J*cycles."""
    stages = zip(trial.exit_rates, trial.details["stages"], strict=True)
    both = sum(rate * stage["cumulative_pj"] * stage["cumulative_cycles"] for rate, stage in stages)
    return float(both / PICOJOULES_PER_JOULE)


def searched_lines(given: argparse.Namespace) -> Iterator[str]:
    """Our own search: accuracy and E*T of the static network and of every point of the front."""
    budget = Budget(
        shared_epochs=given.epochs, static_epochs=given.epochs, tune_epochs=given.tune_epochs,
        finish_epochs=given.finish_epochs, finish_points=given.finish_points,
    )  # fmt: skip
    result = offramp.design(
        given.data, "mobilenetv2", CHIP, run=given.run, data_dir=given.data_dir, strategy=given.strategy,
        objectives=("accuracy", "edp"), trials=given.trials, seed=given.seed, execution=given.execution,
        budget=budget, subset=given.subset,
    )  # fmt: skip
    yield f"| network ({given.execution}) | val | test | E*T J*cycles | of static | MMACs | exit rates |"
    yield "|---" * 7 + "|"
    for name, p in [("static 8 bit", result.static), *((f"trial {p.trial.number}", p) for p in result.front)]:
        m, et = p.metrics, et_of(p.trial)
        rates = " ".join(f"{r:.2f}" for r in p.trial.exit_rates)
        share = et / et_of(result.static.trial)
        yield (
            f"| {name} | {m.accuracy_val:.4f} | {m.accuracy_test:.4f} | {et:.1f} | {share:.2f} | "
            f"{m.macs / 1e6:.1f} | {rates} |"
        )


def main() -> None:
    given, start = arguments(), time.perf_counter()
    print("\n".join(searched_lines(given) if given.search else priced_lines()))
    print(f"{time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
