"""What each part of the joint search brings: the same search with one part left out, on one set of shared weights.

    python benchmarks/bench_search_parts.py --data digits --run runs/bench-digits --seeds 3 --trials 60

Left out in turn: exits, per-layer bits, pruning (widths and depths), analog cores, and the multi-core mapper (layer by
layer instead). Hypervolume as in bench_search.py; the reference is always the plain network under its best mapping.
Walks and evaluations are kept in the run folder.
"""

import time

from bench_search import references
from bench_search_bed import Bed, Walk, bed_arguments, footer, interval, open_designer, walk

PARTS: dict[str, tuple[str, ...]] = {
    "everything": (),
    "without exits": ("exits",),
    "without per-layer bits": ("bits",),
    "without pruning": ("width", "depth"),
    "without analog": ("analog",),
    "layer by layer": (),
}
"""Row of the table -> parts of the space that it lacks."""

ALLOWED = 0.005


def cheapest(made: Walk, least: float) -> float | None:
    """The least energy of a trial with at least this accuracy."""
    return min((v[1] for v in made.values if v is not None and v[0] >= least), default=None)


def main() -> None:
    parser = bed_arguments(__doc__)
    parser.add_argument("--strategy", default="surrogate")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    start, designer = time.process_time(), open_designer(given)
    beds = {
        execution: Bed(designer, val=given.val, calibration=given.calibration, execution=execution)
        for execution in ("best", "layer-by-layer")
    }
    static = beds["best"].static.metrics
    assert static is not None
    walks: dict[str, list[Walk]] = {name: [] for name in PARTS}
    for seed in range(given.seeds):
        for name, parts in PARTS.items():
            bed = beds["layer-by-layer" if name == "layer by layer" else "best"]
            kept = f"{given.strategy}-{name.replace(' ', '-')}"
            space = designer.space.without(*parts)
            walks[name].append(walk(bed, given.strategy, space, seed=seed, trials=given.trials, name=kept))
            print(f"# {name} seed {seed}: {walks[name][-1].seconds[-1]:.0f} CPU s", flush=True)
    titles = list(references(beds["best"]))
    columns = [f"hypervolume ({title})" for title in titles] + ["least energy at 0.5 points, of static"]
    print("| search | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for name, made in walks.items():
        cells = [interval([w.volume(given.trials, r) for w in made]) for r in references(beds["best"]).values()]
        found = [e for w in made if (e := cheapest(w, static.accuracy_val - ALLOWED)) is not None]
        least = interval([e / static.energy_uj for e in found]) if found else "none"
        cells.append(f"{least} ({len(found)} of {len(made)} seeds)")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"\n{given.strategy}, {given.trials} evaluations, {given.seeds} seeds; {footer(beds['best'], start)}")


if __name__ == "__main__":
    main()
