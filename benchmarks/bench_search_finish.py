"""Do shared weights order candidates as finishing does, and what does a search cost against training each alone?

    python benchmarks/bench_search_finish.py --data fsdd --run runs/bench-fsdd --points 14 --alone 2

Candidates: half from the front of a search on the shared weights, half random. Each is judged on validation data with
the shared weights as they are, then trained on with its own bits and noise, and judged again: Kendall's tau between the
two accuracies, and between the two energies. For the cost, a few candidates are trained from nothing for as long as the
static network is. Everything done is kept in the run folder.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from bench_search_bed import Bed, bed_arguments, footer, open_designer, timed
from offramp.designer import Designer
from offramp.evaluate import Evaluated, judge, prepare_candidate, price, tune
from offramp.ir.architecture import Architecture
from offramp.ir.trial import Trial
from offramp.learn.train import fit
from offramp.nn.network import EarlyExitNetwork, build
from offramp.search.front import front, points
from offramp.search.strategy import make_strategy
from offramp.search.task import Task

OBJECTIVES = ("accuracy", "energy_uj")


def searched(bed: Bed, trials: int, seed: int) -> tuple[list[tuple[Architecture, Trial]], float]:
    """What a search asked for and found, and its CPU seconds."""
    task = Task(
        space=bed.designer.space, objectives=OBJECTIVES, seed=seed, trials=trials, price=lambda a: bed.price(a)[0]
    )
    strategy, found, spent = make_strategy("surrogate", task), list[tuple[Architecture, Trial]](), 0.0
    while len(found) < trials:
        start = time.process_time()
        asked = strategy.ask(1)
        spent += time.process_time() - start
        if not asked:
            break
        trial, seconds = bed.trial(asked[0], len(found))
        strategy.tell([trial])
        spent += seconds
        found.append((asked[0], trial))
    return found, spent


def candidates(
    bed: Bed, found: list[tuple[Architecture, Trial]], count: int, seed: int
) -> list[tuple[str, Architecture]]:
    """Half spread along the front, half random; what was asked for, with where it comes from."""
    best = front([t for _, t in found], OBJECTIVES)
    places = np.unique(np.linspace(0, len(best) - 1, count // 2).round().astype(int))
    chosen = [("front", next(a for a, t in found if t is best[i])) for i in places]
    rng = np.random.default_rng([seed, 6])
    return [*chosen, *(("random", bed.designer.space.sample(rng)) for _ in range(count - len(chosen)))]


def finished(
    designer: Designer, weights: EarlyExitNetwork, candidate: Architecture, teacher: EarlyExitNetwork | None
) -> Evaluated:
    """Trained on from these weights, and judged on all validation samples."""
    seed, bed = int(candidate.digest[:7], 16), designer.bed
    network = prepare_candidate(bed, weights, candidate, seed=seed)
    tune(bed, network, epochs=designer.budget.finish_epochs, seed=seed, teacher=teacher)
    return judge(bed, candidate, network, price(bed, candidate), number=0, seed=seed)


def alone(designer: Designer, candidate: Architecture) -> Evaluated:
    """Trained from nothing in float as long as the static network, then as the others are finished."""
    full, data = designer.bed.full, designer.dataset
    network = build(candidate, full.input_shape, full.classes, seed=1, full=full)
    fit(network, data.train, epochs=designer.budget.static_epochs, seed=1, augmentation=data.augmentation)
    return finished(designer, network, candidate, None)


class Kept:
    """Results by name in a file of the run folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.is_file() else {}

    def do(
        self, name: str, designer: Designer, weights: EarlyExitNetwork | None, candidate: Architecture
    ) -> dict[str, float]:
        """Accuracy, energy and CPU seconds of a candidate, finished from weights or trained alone."""
        if name not in self.rows:
            start = time.process_time()
            teacher = designer.teacher
            done = alone(designer, candidate) if weights is None else finished(designer, weights, candidate, teacher)
            m = done.trial.metrics
            assert m is not None
            seconds = time.process_time() - start
            self.rows[name] = {"accuracy": m.accuracy_val, "energy_uj": m.energy_uj, "seconds": seconds}
            self._path.write_text(json.dumps(self.rows, indent=1))
        return self.rows[name]


def one_epoch(given: argparse.Namespace) -> float:
    """CPU seconds of one epoch of the shared weights, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        short = argparse.Namespace(**{**vars(given), "run": Path(folder), "shared_epochs": 1, "static_epochs": 1})
        designer = open_designer(short)
        return timed(lambda: designer.shared)


def tau(rows: list[tuple[str, Trial, dict[str, float]]], kind: str, column: int) -> str:
    """Kendall's tau between what the shared weights say and what finishing gives."""
    picked = [(t, r) for k, t, r in rows if kind in ("all", k)]
    said = [points([t], OBJECTIVES)[0][column] for t, _ in picked]
    came = [-r["accuracy"] if column == 0 else r["energy_uj"] for _, r in picked]
    found = kendalltau(said, came)
    return f"{found.statistic:.2f} ({len(picked)} points, p {found.pvalue:.1g})"


def print_cost(given: argparse.Namespace, designer: Designer, kept: Kept, search_seconds: float) -> None:
    """CPU minutes of the parts, against training as many candidates alone."""
    if "one epoch" not in kept.rows:
        kept.rows["one epoch"] = {"seconds": one_epoch(given)}
    epoch = kept.rows["one epoch"]["seconds"]
    shared = epoch * designer.budget.shared_epochs
    from_shared = [r["seconds"] for n, r in kept.rows.items() if n.startswith("finished")]
    by_itself = [r["seconds"] for n, r in kept.rows.items() if n.startswith("alone")]
    finish = float(np.mean(from_shared)) * given.finish_points
    whole, one = shared + search_seconds + finish, float(np.mean(by_itself)) if by_itself else float("nan")
    print("\n| part | CPU minutes |\n|---|---|")
    epochs = f"{epoch:.1f} s an epoch, measured, times {designer.budget.shared_epochs}"
    print(f"| shared weights ({epochs}) | {shared / 60:.1f} |")
    print(f"| search, {given.trials} candidates | {search_seconds / 60:.1f} |")
    print(f"| finishing {given.finish_points} (mean of {len(from_shared)} measured) | {finish / 60:.1f} |")
    print(f"| together | {whole / 60:.1f} |")
    print(f"| one candidate alone (mean of {len(by_itself)} measured) | {one / 60:.2f} |")
    many = one * given.trials
    print(f"| {given.trials} alone (extrapolated) | {many / 60:.1f}, {many / whole:.1f} times |")


def main() -> None:
    parser = bed_arguments(__doc__)
    parser.add_argument("--points", type=int, default=14)
    parser.add_argument("--alone", type=int, default=2)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--finish-points", type=int, default=8, help="points that a study of this size finishes")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    start, designer = time.process_time(), open_designer(given)
    bed = Bed(designer, val=given.val, calibration=given.calibration)
    found, search_seconds = searched(bed, given.trials, given.seed)
    kept = Kept(designer.folder / "bench" / f"finished-{designer.budget.finish_epochs}.json")
    rows = []
    print("| candidate | shared weights | finished | alone | energy uJ, shared | finished |\n|---|---|---|---|---|---|")
    for i, (kind, candidate) in enumerate(candidates(bed, found, given.points, given.seed)):
        trial = bed.trial(candidate)[0]
        row = kept.do(f"finished {candidate.digest}", designer, designer.shared, candidate)
        rows.append((kind, trial, row))
        every = given.points // max(given.alone, 1)
        single = (
            kept.do(f"alone {candidate.digest}", designer, None, candidate) if given.alone and i % every == 0 else None
        )
        m = trial.metrics
        assert m is not None
        by_itself = f"{single['accuracy']:.4f}" if single else ""
        accuracies = f"{m.accuracy_val:.4f} | {row['accuracy']:.4f} | {by_itself}"
        print(f"| {kind} | {accuracies} | {m.energy_uj:.4g} | {row['energy_uj']:.4g} |", flush=True)
    for kind in ("all", "front", "random"):
        print(f"- Kendall's tau, {kind}: accuracy {tau(rows, kind, 0)}, energy {tau(rows, kind, 1)}")
    print_cost(given, designer, kept, search_seconds)
    print(f"\n{designer.budget.finish_epochs} epochs of finishing; {footer(bed, start)}")


if __name__ == "__main__":
    main()
