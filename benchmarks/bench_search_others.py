"""The same command on other backbones and chips: `offramp search`, small budgets, a table against the static network.

    python benchmarks/bench_search_others.py --runs runs/others --data-dir DIR
    python benchmarks/bench_search_others.py --cases resnet20:cifar10:20000 --chips diana --epochs 20 --trials 60

A case is backbone:dataset:samples. Every line is one run of the command line in a process of its own; a run that is
there is continued, so a second call only prints. The best point is the one with the least energy of those that lose at
most half a point of test accuracy against the static 8-bit network (the most accurate, where none does).
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

CASES = ("resnet20:digits:600", "mobilenetv2:digits:400", "dscnn:fsdd:600")
CHIPS = ("diana", "edge-tpu-quad")
ALLOWED = 0.005


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/others"))
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--chips", nargs="+", default=CHIPS)
    parser.add_argument("--strategy", default="surrogate")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--tune-epochs", type=int, default=1)
    parser.add_argument("--finish-epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def search(given: argparse.Namespace, case: str, chip: str) -> tuple[dict[str, Any], float]:
    """The answer of one run, and the CPU minutes that this call took."""
    backbone, data, samples = case.split(":")
    options = {
        "data": data, "backbone": backbone, "accelerator": chip, "subset": samples, "strategy": given.strategy,
        "trials": given.trials, "epochs": given.epochs, "tune-epochs": given.tune_epochs,
        "finish-epochs": given.finish_epochs, "seed": given.seed, "run": given.runs / f"{backbone}-{data}-{chip}",
    }  # fmt: skip
    if given.data_dir:
        options["data-dir"] = given.data_dir
    command = [sys.executable, "-m", "offramp", "search", "--json"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}")
    minutes = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60
    return json.loads(done.stdout), minutes


def best_point(answer: dict[str, Any]) -> dict[str, Any] | None:
    """The cheapest point that loses at most half a point on test; the most accurate, where none does."""
    least = answer["static"]["accuracy"]["test"] - ALLOWED
    points = answer["front"]
    good = [p for p in points if p["accuracy"]["test"] >= least]
    if not good:
        return max(points, key=lambda p: p["accuracy"]["test"], default=None)
    return min(good, key=lambda p: p["energy_uj"])


def main() -> None:
    given = arguments()
    print(
        "| backbone | data | chip | static test | best test | energy uJ, static | best | of it | speed-up | CPU min |"
    )
    print("|---" * 10 + "|")
    for case in given.cases:
        for chip in given.chips:
            answer, minutes = search(given, case, chip)
            static, best = answer["static"], best_point(answer)
            backbone, data, samples = case.split(":")
            row = [backbone, f"{data} ({samples})", chip, f"{static['accuracy']['test']:.4f}"]
            if best is not None:
                ratio = best["energy_uj"] / static["energy_uj"]
                speed = static["latency_ms"] / best["latency_ms"]
                row += [f"{best['accuracy']['test']:.4f}", f"{static['energy_uj']:.4g}", f"{best['energy_uj']:.4g}"]
                row += [f"{ratio:.2f}", f"{speed:.2f}"]
            print("| " + " | ".join([*row, f"{minutes:.1f}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
