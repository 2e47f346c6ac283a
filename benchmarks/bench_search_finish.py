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
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from bench_search_bed import Bed, bed_arguments, footer, open_designer
from offramp.designer import Designer
from offramp.evaluate import Evaluated, judge, prepare_candidate, price, tune
from offramp.ir.architecture import Architecture
from offramp.ir.trial import Trial
from offramp.learn.train import fit, float_recipe
from offramp.nn.network import EarlyExitNetwork, build
from offramp.search.front import front, points
from offramp.search.strategy import make_strategy
from offramp.search.task import Task

OBJECTIVES = ("accuracy", "energy_uj")


def searched(bed: Bed, name: str, trials: int, seed: int) -> tuple[list[tuple[Architecture, Trial]], float]:
    """What a search asked for and found, and its CPU seconds."""
    task = Task(
        space=bed.designer.space, objectives=OBJECTIVES, seed=seed, trials=trials, price=lambda a: bed.price(a)[0]
    )
    strategy, found, spent = make_strategy(name, task), list[tuple[Architecture, Trial]](), 0.0
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


def finish(designer: Designer, candidate: Architecture) -> dict[str, float]:
    """From the shared weights, following the static network."""
    return figures(finished(designer, designer.shared, candidate, designer.teacher))


def alone(designer: Designer, candidate: Architecture) -> dict[str, float]:
    """Trained from nothing in float as long as the static network, then as the others are finished."""
    full, data = designer.bed.full, designer.dataset
    network = build(candidate, full.input_shape, full.classes, seed=1, full=full)
    config, epochs = float_recipe(len(data.train)), designer.budget.static_epochs
    fit(network, data.train, epochs=epochs, seed=1, config=config, augmentation=data.augmentation)
    return figures(finished(designer, network, candidate, None))


class Kept:
    """Results in a folder, a file each, so that several processes may share the work."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def rows(self, kind: str) -> list[dict[str, float]]:
        """All results of a kind."""
        return [json.loads(p.read_text()) for p in sorted(self._folder.glob(f"{kind}-*.json"))]

    def do(self, name: str, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """A result by name, made when it is not there; CPU seconds are added where it has none."""
        path = self._folder / f"{name}.json"
        if not path.is_file():
            start = time.process_time()
            row = work()
            path.write_text(json.dumps({"seconds": time.process_time() - start, **row}))
        return json.loads(path.read_text())  # type: ignore[no-any-return]


def figures(done: Evaluated) -> dict[str, float]:
    """Accuracy and energy."""
    m = done.trial.metrics
    assert m is not None
    return {"accuracy": m.accuracy_val, "energy_uj": m.energy_uj}


def one_epoch(given: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of an epoch of shared weights, trained in a folder of its own from a static network of one epoch."""
    with tempfile.TemporaryDirectory() as folder:
        short = argparse.Namespace(**{**vars(given), "run": Path(folder), "shared_epochs": 1, "static_epochs": 1})
        designer = open_designer(short)
        designer.teacher  # noqa: B018
        start = time.process_time()
        designer.shared  # noqa: B018
        return {"seconds": time.process_time() - start}


def tau(rows: list[tuple[str, Trial, dict[str, float]]], kind: str, column: int) -> str:
    """Kendall's tau between what the shared weights say and what finishing gives."""
    picked = [(t, r) for k, t, r in rows if kind in ("all", k)]
    said = [points([t], OBJECTIVES)[0][column] for t, _ in picked]
    came = [-r["accuracy"] if column == 0 else r["energy_uj"] for _, r in picked]
    found = kendalltau(said, came)
    return f"{found.statistic:.2f} ({len(picked)} points, p {found.pvalue:.1g})"


def print_cost(given: argparse.Namespace, designer: Designer, kept: Kept, search_seconds: float) -> None:
    """CPU minutes of the parts, against training as many candidates alone."""
    epoch = kept.do("epoch", lambda: one_epoch(given))["seconds"]
    shared = epoch * designer.budget.shared_epochs
    from_shared = [r["seconds"] for r in kept.rows("finished")]
    by_itself = [r["seconds"] for r in kept.rows("alone")]
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
    parser.add_argument("--strategy", default="surrogate")
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--finish-points", type=int, default=8, help="points that a study of this size finishes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", type=int, default=None, help="do every n-th candidate from here on, print no result")
    parser.add_argument("--parts", type=int, default=1, help="n")
    given = parser.parse_args()
    start, designer = time.process_time(), open_designer(given)
    bed = Bed(designer, val=given.val, calibration=given.calibration)
    found, search_seconds = searched(bed, given.strategy, given.trials, given.seed)
    kept = Kept(designer.folder / "bench" / f"finished-{designer.budget.finish_epochs}")
    chosen = candidates(bed, found, given.points, given.seed)
    singles = {i for i in range(len(chosen)) if given.alone and i % (given.points // given.alone) == 0}
    rows = []
    print("| candidate | shared weights | finished | alone | energy uJ, shared | finished |\n|---|---|---|---|---|---|")
    for i, (kind, candidate) in enumerate(chosen):
        if given.part is not None and i % given.parts != given.part:
            continue
        row = kept.do(f"finished-{candidate.digest}", partial(finish, designer, candidate))
        single = kept.do(f"alone-{candidate.digest}", partial(alone, designer, candidate)) if i in singles else None
        rows.append((kind, bed.trial(candidate)[0], row))
        m = rows[-1][1].metrics
        assert m is not None
        by_itself = f"{single['accuracy']:.4f}" if single else ""
        accuracies = f"{m.accuracy_val:.4f} | {row['accuracy']:.4f} | {by_itself}"
        print(f"| {kind} | {accuracies} | {m.energy_uj:.4g} | {row['energy_uj']:.4g} |", flush=True)
    if given.part is not None:
        return
    for kind in ("all", "front", "random"):
        print(f"- Kendall's tau, {kind}: accuracy {tau(rows, kind, 0)}, energy {tau(rows, kind, 1)}")
    print_cost(given, designer, kept, search_seconds)
    print(f"\n{designer.budget.finish_epochs} epochs of finishing; {footer(bed, start)}")


if __name__ == "__main__":
    main()
