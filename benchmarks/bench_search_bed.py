"""What the search benchmarks share: a run folder's shared weights as a test bed on which an evaluation is cheap.

A candidate is cut out, calibrated and judged on some validation samples, without training of its own. Each is evaluated
once, whoever asks, and kept in the run folder with the CPU seconds that it took: a kept evaluation counts in full, as
does a kept price. So strategies differ by what they ask for and by their own thinking, and nothing else.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from offramp.api import open_backbone
from offramp.config import Budget, StudyConfig, default_budget
from offramp.data import Split, load_dataset
from offramp.designer import Designer
from offramp.evaluate import Testbed, evaluate, quote
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.architecture import Architecture
from offramp.ir.trial import Trial
from offramp.search.front import hypervolume
from offramp.search.space import Space
from offramp.search.strategy import make_strategy
from offramp.search.study import trial_seed
from offramp.search.task import Price, Task

OBJECTIVES = ("accuracy", "energy_uj")
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Two-sided 95 % quantiles of Student's t for a mean of n values."""


def bed_arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every search benchmark takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--backbone", default="resnet8")
    parser.add_argument("--accelerator", default="diana")
    parser.add_argument("--run", type=Path, required=True, help="run folder; shared weights there are used")
    parser.add_argument("--shared-epochs", type=int, default=None, help="of shared weights that are not there yet")
    parser.add_argument("--static-epochs", type=int, default=None)
    parser.add_argument("--finish-epochs", type=int, default=None)
    parser.add_argument("--subset", type=int, default=None)
    parser.add_argument("--val", type=int, default=2000, help="most validation samples of an evaluation")
    parser.add_argument("--calibration", type=int, default=256, help="training samples that calibrate a candidate")
    return parser


def open_designer(given: argparse.Namespace) -> Designer:
    """A study in the run folder, nothing searched yet."""
    dataset = load_dataset(given.data, data_dir=given.data_dir, seed=0, subset=given.subset)
    usual = default_budget(len(dataset.train))
    budget = Budget(
        shared_epochs=given.shared_epochs or usual.shared_epochs,
        static_epochs=given.static_epochs or usual.static_epochs,
        tune_epochs=0,
        finish_epochs=usual.finish_epochs if given.finish_epochs is None else given.finish_epochs,
    )
    config = StudyConfig(
        data=given.data, backbone=given.backbone, accelerator=given.accelerator, run=given.run, budget=budget
    )
    return Designer(
        config, dataset, open_backbone(given.backbone, dataset), load_accelerator(given.accelerator), progress=tell
    )


def tell(phase: str, done: int, total: int, remark: str) -> None:
    """Progress of training on one line each."""
    print(f"# {phase} {done}/{total} {remark}", flush=True)


class Bed:
    """Cheap evaluations on the shared weights of a designer; kept in `folder`."""

    def __init__(self, designer: Designer, *, val: int, calibration: int, execution: str = "best") -> None:
        data = designer.dataset
        kept = np.random.default_rng(0).permutation(len(data.val))[:val]
        first = Split(data.train.x[:calibration], data.train.y[:calibration])
        fewer = replace(data, train=first, val=Split(data.val.x[kept], data.val.y[kept]))
        self.testbed: Testbed = replace(designer.bed, dataset=fewer, tune_epochs=0, execution=execution)
        self.designer, self.samples = designer, len(kept)
        self.folder = designer.folder / "bench" / f"{execution}-{self.samples}-{len(first)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._prices: dict[Architecture, tuple[Price, float]] = {}
        self._trials = self._read()

    @property
    def _file(self) -> Path:
        return self.folder / "trials.jsonl"

    def _read(self) -> dict[str, tuple[Trial, float]]:
        lines = self._file.read_text().splitlines() if self._file.is_file() else []
        found = {}
        for row in map(json.loads, lines):
            found[row["asked"]] = (Trial.from_json(row["trial"]), float(row["seconds"]))
        return found

    def trial(self, candidate: Architecture, number: int = 0) -> tuple[Trial, float]:
        """A candidate's trial, and the CPU seconds that it took when it was made."""
        asked = candidate.digest
        if asked not in self._trials:
            seed, shared = trial_seed(int(asked[:8], 16), 0), self.designer.shared
            start = time.process_time()
            found = evaluate(self.testbed, lambda: shared, candidate, number=0, seed=seed).trial
            seconds = time.process_time() - start
            detail = json.dumps({"exit_accuracies": found.details.get("exit_accuracies", [])})
            self._trials[asked] = (replace(found, detail=detail), seconds)
            row = {"asked": asked, "seconds": seconds, "trial": self._trials[asked][0].to_json()}
            with self._file.open("a") as file:
                file.write(json.dumps(row) + "\n")
        trial, seconds = self._trials[asked]
        return replace(trial, number=number), seconds

    def price(self, candidate: Architecture) -> tuple[Price, float]:
        """A candidate's price, and the CPU seconds that it took when it was made."""
        if candidate not in self._prices:
            start = time.process_time()
            found = quote(self.testbed, candidate)
            self._prices[candidate] = (found, time.process_time() - start)
        return self._prices[candidate]

    @property
    def static(self) -> Trial:
        """The plain network with the shared weights."""
        return self.trial(self.designer.neutral)[0]


class PriceMeter:
    """Prices for one walk: each is paid for once, at what it cost when it was made; `owed` corrects a clock."""

    def __init__(self, bed: Bed) -> None:
        self._bed, self._paid, self.owed = bed, set[Architecture](), 0.0

    def __call__(self, candidate: Architecture) -> Price:
        """The price; what the call really took is taken off, what the price cost is put on."""
        start = time.process_time()
        price, seconds = self._bed.price(candidate)
        self.owed += (0.0 if candidate in self._paid else seconds) - (time.process_time() - start)
        self._paid.add(candidate)
        return price


@dataclass(frozen=True)
class Walk:
    """What a strategy saw in its order: CPU seconds so far, accuracy and energy (None: no figures) of each trial."""

    seconds: list[float]
    thinking: float
    values: list[tuple[float, float] | None]

    def volume(self, upto: int, reference: tuple[float, float]) -> float:
        """Hypervolume after so many trials, a share of the box between the reference and perfection at no energy."""
        accuracy, energy = reference
        found = [(-v[0], v[1]) for v in self.values[:upto] if v is not None]
        return hypervolume(found, (-accuracy, energy)) / ((1 - accuracy) * energy)

    def volume_at(self, seconds: float, reference: tuple[float, float]) -> float:
        """Hypervolume after so many CPU seconds."""
        return self.volume(int(np.searchsorted(self.seconds, seconds, side="right")), reference)


def walk(bed: Bed, strategy: str, space: Space, *, seed: int, trials: int, name: str = "") -> Walk:
    """Let a strategy ask for so many trials; a walk that was made is read again."""
    path = bed.folder / f"{name or strategy}-{trials}-{seed}.json"
    if path.is_file():
        row = json.loads(path.read_text())
        return Walk(row["seconds"], row["thinking"], [v and (v[0], v[1]) for v in row["values"]])
    done = _walk(bed, strategy, space, seed=seed, trials=trials)
    path.write_text(json.dumps({"seconds": done.seconds, "thinking": done.thinking, "values": done.values}))
    return done


def _walk(bed: Bed, strategy: str, space: Space, *, seed: int, trials: int) -> Walk:
    price = PriceMeter(bed)
    task = Task(space=space, objectives=OBJECTIVES, seed=seed, trials=trials, price=price)
    asks = make_strategy(strategy, task)
    seconds: list[float] = []
    values: list[tuple[float, float] | None] = []
    clock = thinking = 0.0
    while len(values) < trials:
        start, price.owed = time.process_time(), 0.0
        candidates = asks.ask(1)
        thought = time.process_time() - start + price.owed
        if not candidates:
            break
        trial, cost = bed.trial(candidates[0], len(values))
        start = time.process_time()
        asks.tell([trial])
        thought += time.process_time() - start
        clock, thinking = clock + thought + cost, thinking + thought
        seconds.append(clock)
        values.append((trial.metrics.accuracy_val, trial.metrics.energy_uj) if trial.metrics else None)
    return Walk(seconds, thinking, values)


def interval(values: Sequence[float]) -> str:
    """Mean and the half width of its 95 % confidence interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.4f}"
    half = T_95.get(len(values), 1.96) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{mean:.4f} ± {half:.4f}"


def footer(bed: Bed, start: float) -> str:
    """Where and how long, for the log."""
    static = bed.static.metrics
    assert static is not None
    return (
        f"{bed.samples} validation samples, static {static.accuracy_val:.4f} at {static.energy_uj:.4g} uJ on the "
        f"shared weights; {time.process_time() - start:.0f} CPU s here, {torch.get_num_threads()} thread(s)"
    )
