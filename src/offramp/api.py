"""The public calls. `design` is the whole sentence in one function; the command line says the same.

result = offramp.design("digits", "resnet8", "diana", run="runs/demo")
print(result.knee.energy_uj, result.static.energy_uj)
label = offramp.open_bundle(result.bundle).stream(sample).label
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from offramp.config import Budget, StudyConfig
from offramp.data import Dataset, load_dataset
from offramp.deploy.bundle import check_place
from offramp.deploy.runtime import Runner
from offramp.designer import Designer, Progress, versions
from offramp.errors import InfeasibleError, UserError
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.formats.tflite import is_tflite
from offramp.ir.accelerator import Accelerator
from offramp.ir.architecture import Architecture
from offramp.ir.trial import Metrics, Trial
from offramp.nn.backbones import Backbone, backbone
from offramp.nn.describe import describe
from offramp.nn.importer import from_tflite, import_module
from offramp.nn.widen import widen as widened
from offramp.report.page import write_report
from offramp.report.run_folder import JOURNAL, PAGE, RESULT, read_run
from offramp.report.text import MARK
from offramp.search.constraints import explain_empty
from offramp.search.derive import derive_space
from offramp.search.front import front, knee
from offramp.search.space import Space
from offramp.search.space_yaml import read_space
from offramp.target import check_target
from offramp.zoo.entry import find_entry

__all__ = ["Design", "Point", "design", "open_bundle"]


@dataclass(frozen=True, slots=True)
class Point:
    """A finished network: its figures on validation and test data, and the bundle that runs it."""

    trial: Trial
    bundle: Path

    @property
    def metrics(self) -> Metrics:
        """Expected and worst-case figures."""
        assert self.trial.metrics is not None
        return self.trial.metrics

    @property
    def architecture(self) -> Architecture:
        """What was chosen."""
        return self.trial.architecture

    def to_json(self) -> dict[str, Any]:
        """The figures by name, as `offramp search --json` prints them."""
        m, t = self.metrics, self.trial
        return {
            "trial": t.number,
            "accuracy": {"val": m.accuracy_val, "test": m.accuracy_test},
            "energy_uj": m.energy_uj,
            "latency_ms": m.latency_ms,
            "worst_latency_ms": m.worst_latency_ms,
            "worst_energy_uj": m.worst_energy_uj,
            "macs": m.macs,
            "peak_bytes": m.peak_bytes,
            "exits": [{"mounting_point": e.mounting_point, "branch": e.branch} for e in t.architecture.exits],
            "exit_rates": list(t.exit_rates),
            "thresholds": list(t.thresholds),
            "bits": {layer: {"weight": w, "activation": a} for layer, (w, a) in t.bits},
            "core": dict(t.cores),
            "bundle": str(self.bundle),
        }


@dataclass(frozen=True)
class Design:
    """What a study has found.

    Attributes:
        front: finished points, best accuracy first.
        static: the same backbone without exits, 8 bit, trained on its own, under its best mapping.
        trials: every trial of the search.
        bundle: the knee's, ready to run.
        note: why the front is empty, when it is.
    """

    run: Path
    seed: int
    front: tuple[Point, ...]
    static: Point
    trials: tuple[Trial, ...]
    objectives: tuple[str, ...]
    bundle: Path | None = None
    note: str = ""
    versions: dict[str, str] = field(default_factory=versions)

    @cached_property
    def knee(self) -> Point:
        """The point of the front nearest to the ideal corner.

        Raises:
            InfeasibleError: the front is empty; says why.
        """
        if not self.front:
            raise InfeasibleError(f"the front is empty: {self.note}", wanted="wider constraints", where=str(self.run))
        best = knee([p.trial for p in self.front], self.objectives)
        return next(p for p in self.front if p.trial is best)

    def to_json(self) -> dict[str, Any]:
        """What `offramp search --json` prints."""
        return {
            "front": [p.to_json() for p in self.front],
            "static": self.static.to_json(),
            "run": str(self.run),
            "seed": self.seed,
            "versions": self.versions,
            "note": self.note,
        }


def design(
    data: str | Path | Dataset,
    backbone: str | Path | nn.Module,
    accelerator: str | Path | Accelerator,
    *,
    run: str | Path,
    data_dir: str | Path | None = None,
    space: str | Path | None = None,
    without: Sequence[str] = (),
    strategy: str = "surrogate",
    objectives: Sequence[str] = ("accuracy", "energy_uj"),
    constraints: Sequence[str] = (),
    trials: int = 24,
    seed: int = 0,
    accuracy_drop: float = 0.002,
    policy: str = "max_softmax",
    guarantee: str | None = None,
    execution: str = "best",
    budget: Budget | None = None,
    subset: int | None = None,
    freeze: bool = False,
    start: str | None = None,
    widen: float = 1.0,
    finish: Sequence[int] = (),
    progress: Progress | None = None,
) -> Design:
    """Search early-exit networks for a dataset and a chip, finish the best and write bundles and a report.

    Args:
        data: a dataset's name, a folder of `.npz`, or a `Dataset`.
        backbone: a name, a `.tflite` file, or any torch classifier; trained weights are taken as they are and trained
            on.
        accelerator: a shipped name, a YAML file (ours, ZigZag's or Stream's), `table:FILE`, or an `Accelerator`.
        run: the run folder; the same call with the same folder continues it.
        space: a `space.yaml`; by default everything that backbone and chip offer.
        without: parts of the space to leave out (depth, width, kernel, exits, bits, analog).
        strategy: how candidates are proposed.
        objectives: names of `offramp.ir.trial.OBJECTIVES`.
        constraints: limits such as `latency_ms<=5`.
        accuracy_drop: accuracy that exits may cost a network, a fraction (`config.StudyConfig`).
        policy: exit policy.
        guarantee: such as `accuracy drop <= 1 % with probability 0.95`; half of validation is set aside to certify it.
        budget: epochs of each phase; by default from the size of the training set.
        subset: keep this many training and validation samples.
        freeze: leave a backbone that brings its weights as it is; exits alone are searched and trained.
        start: `zoo`, or the folder of a zoo entry: trained float weights to begin with.
        widen: the space reaches up to this many times the backbone's channels; the backbone as it was given stays the
            static reference.
        finish: numbers of the trials to train on and report; points of the front when empty. A run that is done can be
            called again with others.
        progress: called with (phase, done, total, remark).

    Raises:
        UserError: something given cannot be used.
    """
    if isinstance(data, Dataset):
        dataset = data
    else:
        normalize = not is_tflite(backbone)  # such a file brings its own input scale
        dataset = load_dataset(data, data_dir=data_dir, seed=seed, subset=subset, normalize=normalize)
    chip = accelerator if isinstance(accelerator, Accelerator) else load_accelerator(accelerator)
    full = widened(open_backbone(backbone, dataset), widen)
    config = StudyConfig(
        data=dataset.name,
        backbone=full.name,
        accelerator=chip.name,
        run=Path(run),
        strategy=strategy,
        objectives=tuple(objectives),
        constraints=tuple(constraints),
        trials=trials,
        seed=seed,
        accuracy_drop=accuracy_drop,
        policy=policy,
        guarantee=guarantee,
        execution=execution,
        budget=budget,
        subset=subset,
        freeze=freeze,
        start=start,
    )
    chosen = open_space(space, without, full, chip)
    if start is not None and space is None:
        chosen = chosen.offering(find_entry(start, full.name, dataset.name).card.exits)
    return carry_out(Designer(config, dataset, full, chip, space=chosen, progress=progress), finish)


def open_backbone(given: str | Path | nn.Module, dataset: Dataset) -> Backbone:
    """A backbone by name, from a `.tflite` file, or from a user's own network.

    Raises:
        UserError: the name is unknown, the network cannot be read or cut, or the data do not fit it.
    """
    if isinstance(given, nn.Module):
        return _fitting(import_module(given, dataset.input_shape), dataset)
    if not is_tflite(given):
        return backbone(str(given), dataset.input_shape, dataset.classes)
    network, name = from_tflite(given), Path(given).stem
    if network.input_shape != dataset.input_shape:
        raise UserError(f"samples {dataset.input_shape}", wanted=f"{network.input_shape}", where=str(given))
    if not dataset.normalization.neutral:
        wanted = "real values, as the network's own input scale means them"
        raise UserError(
            "normalised samples", wanted=wanted, where=str(given), write="load_dataset(.., normalize=False)"
        )
    return _fitting(import_module(network, dataset.input_shape, name=name), dataset)


def _fitting(full: Backbone, dataset: Dataset) -> Backbone:
    if full.classes != dataset.classes:
        wanted = f"the {dataset.classes} classes of {dataset.name}"
        raise UserError(f"a network of {full.classes} classes", wanted=wanted, where=full.name)
    return full


def open_space(path: str | Path | None, without: Sequence[str], full: Backbone, chip: Accelerator) -> Space:
    """The space of a file, or all that backbone and chip offer, less the parts to leave out."""
    info = describe(full)
    space = derive_space(info, chip) if path is None else read_space(Path(path), info, chip)
    return space.without(*without) if without else space


def carry_out(designer: Designer, finish: Sequence[int] = ()) -> Design:
    """Search, finish (these trials, or points of the front), bundle and report; nothing is done a second time."""
    late = [n for n in finish if n >= designer.config.trials]
    if late:
        raise UserError(
            f"trial {late[0]}", wanted=f"numbers below {designer.config.trials}, the trials", where="--finish"
        )
    check_run(designer.folder)
    with designer.journal() as journal:
        trials = designer.search(journal)
        static = designer.static(journal)
        finished = designer.finish(journal, trials, finish)
    folder, config = designer.folder, designer.config
    best = front([d.trial for d in finished], config.objectives, designer.bed.constraints)
    kept = [d for d in finished if any(d.trial is t for t in best)]
    points = [Point(d.trial, designer.bundle(d, folder / "bundles" / f"trial-{d.trial.number}")) for d in kept]
    reference = Point(static.trial, designer.bundle(static, folder / "bundles" / "static"))
    note = "" if points else explain_empty([*trials, *(d.trial for d in finished)], designer.bed.constraints).reason
    ranked = tuple(sorted(points, key=lambda p: -p.metrics.accuracy_val))
    result = Design(folder, config.seed, ranked, reference, tuple(trials), config.objectives, note=note)
    if points:
        middle = next(d for d in kept if d.trial is result.knee.trial)
        result = replace(result, bundle=designer.bundle(middle, folder / "bundle"))
    (folder / RESULT).write_text(json.dumps(result.to_json(), indent=1), encoding="utf-8")
    write_report(folder / PAGE, read_run(folder))
    return result


def check_run(folder: Path) -> None:
    """Nothing lies where a search will write in the end; in a folder that holds a journal files are its own.

    Raises:
        UserError: a page, a result or a folder of the user's is there.
    """
    check_place(folder / "bundle")
    if (folder / JOURNAL).exists() or not folder.is_dir():
        return
    for name, mark in ((PAGE, MARK), (RESULT, '"front": [')):
        check_target(folder / name, (mark.encode(),), kind="file of a run", where="--run")


def open_bundle(path: str | Path, *, threads: int = 1) -> Runner:
    """A bundle ready to run; it leaves at the exit.

    Raises:
        FormatError: the bundle is damaged, of a newer version or has been changed.
    """
    return Runner(path, threads=threads)
