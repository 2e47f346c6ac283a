"""Hypervolume of the strategies over evaluations and over CPU time, on one set of shared weights.

    python benchmarks/bench_search.py --data digits --run runs/bench-digits --seeds 5 --trials 128

The hypervolume is that of accuracy and energy, as a share of the box from a reference point to a perfect network that
costs nothing. Two references: chance accuracy, and ten points below the static network; both at the static network's
price. Walks and evaluations are kept in the run folder, so a second call only prints.
"""

import time
from collections.abc import Sequence

from bench_search_bed import Bed, Walk, bed_arguments, footer, interval, open_designer, walk

STRATEGIES = ("surrogate", "nsga2", "random", "sequence")


def references(bed: Bed) -> dict[str, tuple[float, float]]:
    """Name -> (accuracy, energy) of the reference points."""
    static = bed.static.metrics
    assert static is not None
    chance = 1 / bed.testbed.full.classes
    return {
        "chance": (chance, static.energy_uj),
        "static less ten points": (max(chance, static.accuracy_val - 0.1), static.energy_uj),
    }


def milestones(trials: int) -> list[int]:
    """8, 16, 32, ... and the end."""
    return [*(n for n in (8, 16, 32, 64, 128, 256, 512) if n < trials), trials]


def print_curves(walks: dict[str, list[Walk]], reference: tuple[float, float], trials: int) -> None:
    """Hypervolume after so many evaluations."""
    marks = milestones(trials)
    print("| strategy | " + " | ".join(f"{m}" for m in marks) + " |\n|---" + "|---" * len(marks) + "|")
    for name, made in walks.items():
        cells = [interval([w.volume(m, reference) for w in made]) for m in marks]
        print(f"| {name} | " + " | ".join(cells) + " |")


def print_times(walks: dict[str, list[Walk]], reference: tuple[float, float]) -> None:
    """Hypervolume after equal CPU time: parts of what the sequence needs."""
    whole = min(w.seconds[-1] for w in walks["sequence"])
    marks = [whole * f for f in (0.125, 0.25, 0.5, 1.0)]
    print("| strategy | " + " | ".join(f"{m:.0f} s" for m in marks) + " | CPU s in all, of them thinking |")
    print("|---" + "|---" * (len(marks) + 1) + "|")
    for name, made in walks.items():
        cells = [interval([w.volume_at(m, reference) for w in made]) for m in marks]
        total, thinking = interval([w.seconds[-1] for w in made]), interval([w.thinking for w in made])
        print(f"| {name} | " + " | ".join(cells) + f" | {total}, {thinking} |")


def evaluations_to(made: Sequence[Walk], goal: float, reference: tuple[float, float], trials: int) -> int | None:
    """Evaluations after which the mean hypervolume reaches a goal."""
    for n in range(1, trials + 1):
        if sum(w.volume(n, reference) for w in made) / len(made) >= goal:
            return n
    return None


def print_goals(walks: dict[str, list[Walk]], reference: tuple[float, float], trials: int) -> None:
    """The two goals of the project, as ratios."""
    last = {name: sum(w.volume(trials, reference) for w in made) / len(made) for name, made in walks.items()}
    whole = min(w.seconds[-1] for w in walks["sequence"])
    usual = sum(w.volume_at(whole, reference) for w in walks["sequence"]) / len(walks["sequence"])
    for name in ("surrogate", "nsga2"):
        joint = sum(w.volume_at(whole, reference) for w in walks[name]) / len(walks[name])
        print(f"- {name} against sequence at equal CPU time ({whole:.0f} s): {joint / usual - 1:+.1%} hypervolume")
    needed = evaluations_to(walks["surrogate"], last["nsga2"], reference, trials)
    share = "never" if needed is None else f"{needed} evaluations, {needed / trials:.2f} of {trials}"
    print(f"- surrogate reaches NSGA-II's final mean hypervolume after: {share}")
    print("- at the end, of random: " + ", ".join(f"{n} {v / last['random'] - 1:+.1%}" for n, v in last.items()))


def main() -> None:
    parser = bed_arguments(__doc__)
    parser.add_argument("--trials", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--tag", default="", help="keep these walks under a name of their own")
    given = parser.parse_args()
    start, names = time.process_time(), given.strategies.split(",")
    bed = Bed(open_designer(given), val=given.val, calibration=given.calibration)
    walks: dict[str, list[Walk]] = {name: [] for name in names}
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for name in names:
            kept = f"{name}{given.tag}" if name == "surrogate" else name
            made = walk(bed, name, bed.designer.space, seed=seed, trials=given.trials, name=kept)
            walks[name].append(made)
            volumes = " ".join(f"{made.volume(given.trials, r):.4f}" for r in references(bed).values())
            print(f"# {name} seed {seed}: {volumes} after {made.seconds[-1]:.0f} CPU s", flush=True)
    for title, reference in references(bed).items():
        print(f"\nReference: {title} ({reference[0]:.4f}, {reference[1]:.4g} uJ), {given.seeds} seeds\n")
        print_curves(walks, reference, given.trials)
        if {"sequence", "random", "nsga2", "surrogate"} <= walks.keys():
            print()
            print_times(walks, reference)
            print()
            print_goals(walks, reference, given.trials)
    print(f"\n{footer(bed, start)}")


if __name__ == "__main__":
    main()
