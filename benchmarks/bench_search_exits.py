"""The exit solver on many exits and samples: CPU seconds of the full curve, on kind and on unlucky data.

    python benchmarks/bench_search_exits.py --exits 10 --samples 10000

Confidences and answers are drawn, since the figure is about time; the unlucky cases are those that real networks make:
ties (an exit that knows a few confidences only), one confidence for all samples, exits that are always or never right,
confidences that say nothing, and prices that are nothing or all alike. Goal: under one second each on one core.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from offramp.exits.solve import curve

Floats = NDArray[np.float64]
Case = tuple[Floats, NDArray[np.int64], Floats, Floats]


def usual(rng: np.random.Generator, exits: int, samples: int) -> Case:
    """Later exits know more, and confidence follows how hard a sample is."""
    skill, difficulty = np.sort(rng.uniform(0.4, 0.95, exits))[:, None], rng.uniform(size=samples)[None]
    right = (difficulty < skill + rng.normal(0, 0.1, (exits, samples))).astype(np.int64)
    sure = np.clip(0.5 + 0.5 * (skill - difficulty) + rng.normal(0, 0.15, (exits, samples)), 0, 1)
    return sure, right, rng.uniform(0.5, 2, exits), rng.uniform(0.02, 0.4, exits)


CASES: dict[str, Callable[[Case, np.random.Generator], Case]] = {
    "usual": lambda c, rng: c,
    "ten levels": lambda c, rng: (np.round(c[0] * 10) / 10, *c[1:]),
    "three levels": lambda c, rng: (np.round(c[0] * 2) / 2, *c[1:]),
    "one confidence": lambda c, rng: (np.full_like(c[0], 0.7), *c[1:]),
    "half the exits constant": lambda c, rng: (np.where(np.arange(len(c[0]))[:, None] % 2, c[0], 1.0), *c[1:]),
    "confidence says nothing": lambda c, rng: (rng.uniform(size=c[0].shape), *c[1:]),
    "confidence is wrong": lambda c, rng: (1 - c[0], *c[1:]),
    "nobody is ever right": lambda c, rng: (c[0], np.zeros_like(c[1]), *c[2:]),
    "everybody is right": lambda c, rng: (c[0], np.ones_like(c[1]), *c[2:]),
    "chance answers": lambda c, rng: (c[0], (rng.uniform(size=c[0].shape) < 0.5).astype(np.int64), *c[2:]),
    "exits all alike": lambda c, rng: (np.repeat(c[0][:1], len(c[0]), 0), np.repeat(c[1][:1], len(c[1]), 0), *c[2:]),
    "no prices": lambda c, rng: (*c[:2], np.zeros_like(c[2]), np.zeros_like(c[3])),
    "dear branches": lambda c, rng: (*c[:3], c[3] * 30),
}
"""Name -> what is made of the usual case."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exits", type=int, default=10)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print("| data | CPU s, mean | worst | points |\n|---|---|---|---|")
    for name, change in CASES.items():
        spent, sizes = [], []
        for seed in range(given.seeds):
            rng = np.random.default_rng(seed)
            case = change(usual(rng, given.exits, given.samples), rng)
            start = time.process_time()
            sizes.append(len(curve(*case)))
            spent.append(time.process_time() - start)
        print(f"| {name} | {np.mean(spent):.2f} | {max(spent):.2f} | {min(sizes)}-{max(sizes)} |", flush=True)


if __name__ == "__main__":
    main()
