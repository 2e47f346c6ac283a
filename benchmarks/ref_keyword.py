"""Bring your own network: MLPerf Tiny's trained keyword spotter as it is, with early exits fitted around it.

    python benchmarks/ref_keyword.py --data-dir DIR [--model FILE.tflite] [--seeds 5 6 7 8 9]

The backbone is read from the benchmark's `.tflite` file and frozen: nobody here trained it, and its final answers stay.
By seed, half of the benchmark's 1,000 samples fit exits (300) and choose exits, thresholds and the point (200); the
other half is test, read once per finished network. The point is the fastest that loses at most 0.5 points to the static
network on validation. 200 samples are few: one is half a point, so expect validation figures to be hopeful. Under
a minute a seed on one core.
"""

import argparse
import time
from pathlib import Path

import offramp
from offramp.config import Budget
from ref_tasks import compared, fastest, lines, summary

MODEL = "models/kws_ref_model.tflite"
SPACE = "exits: {0: [gap_fc], 1: [gap_fc], 2: [gap_fc], 3: [gap_fc]}\n"
"""300 samples fit a linear layer on means over the map best, in closed form (`offramp.learn.closed_form`)."""
BUDGET = Budget(shared_epochs=1, static_epochs=1, tune_epochs=0, finish_epochs=0, finish_points=4)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="holds kws01.npz and models/")
    parser.add_argument("--model", type=Path, default=None, help=f"default: {MODEL} in the data folder")
    parser.add_argument("--accelerator", default="diana")
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 6, 7, 8, 9])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    return parser.parse_args()


def main() -> None:
    given, rows = arguments(), []
    for seed in given.seeds:
        run, start = given.runs / f"ref-keyword-{seed}", time.perf_counter()
        run.mkdir(parents=True, exist_ok=True)
        space = run / "space.yaml"
        space.write_text(SPACE, encoding="utf-8")
        result = offramp.design(
            "kws01", given.model or given.data_dir / MODEL, given.accelerator, run=run, data_dir=given.data_dir,
            space=space, objectives=("accuracy", "latency_ms"), trials=given.trials, seed=seed, budget=BUDGET,
            freeze=True,
        )  # fmt: skip
        rows.append(compared(result, fastest(result), time.perf_counter() - start))
    print("\n".join(lines(rows)))
    print(summary(rows))


if __name__ == "__main__":
    main()
