"""`offramp search`: the main job. Progress goes to stderr, the answer (a table, or one JSON object) to stdout."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from offramp.cli.app import app, console
from offramp.config import Budget, default_budget
from offramp.errors import InfeasibleError, UserError

PHASES = {
    "static": "static network",
    "shared": "shared weights",
    "search": "search",
    "finish": "finish the front",
}
"""Phases of a study as people read them."""

EACH = ("search", "finish")
"""Phases of which every step is worth a line in a log."""

SLIM = {"accuracy_val": "val", "accuracy_test": "test", "energy_uj": "uJ", "latency_ms": "ms"}
WIDE = {
    "accuracy_val": "accuracy val", "accuracy_test": "test", "energy_uj": "energy uJ", "latency_ms": "latency ms",
    "worst_latency_ms": "worst ms", "macs": "MMACs",
}  # fmt: skip
"""Figures of the front's table and their titles, on a narrow terminal and on others."""

NARROW = 100
"""Columns of a terminal below which the table is the slim one."""


@app.command("search", short_help="Search exits, widths, bits and cores together.")
def search_command(
    data: Annotated[str, typer.Option("--data", help="dataset name, or a folder of .npz with x and y")],
    backbone: Annotated[
        str, typer.Option("--backbone", help="resnet8, resnet20, dscnn, mobilenetv1, mobilenetv2, or FILE.tflite")
    ],
    accelerator: Annotated[str, typer.Option("--accelerator", help="shipped name, YAML file, or table:FILE")],
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="where the dataset's files lie")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="run folder; the same command continues it")] = None,
    space: Annotated[Path | None, typer.Option("--space", help="a space.yaml; default: all that is offered")] = None,
    without: Annotated[str, typer.Option("--without", help="leave out: depth,width,kernel,exits,bits,analog")] = "",
    strategy: Annotated[str, typer.Option("--strategy", help="surrogate, nsga2, random or sequence")] = "surrogate",
    objectives: Annotated[str, typer.Option("--objectives", help="comma-separated")] = "accuracy,energy_uj",
    constraint: Annotated[list[str] | None, typer.Option("--constraint", help="such as latency_ms<=5; repeat")] = None,
    trials: Annotated[int, typer.Option("--trials", help="candidates to evaluate")] = 24,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of all randomness")] = 0,
    accuracy_drop: Annotated[float, typer.Option("--accuracy-drop", help="what exits may cost, a fraction")] = 0.002,
    policy: Annotated[str, typer.Option("--policy", help="max_softmax, margin, entropy or patience")] = "max_softmax",
    guarantee: Annotated[
        str | None, typer.Option("--guarantee", help='"accuracy drop <= 1 % with probability 0.95"')
    ] = None,
    execution: Annotated[str, typer.Option("--execution", help="best or layer-by-layer")] = "best",
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="of the shared weights, and of the static network")
    ] = None,
    tune_epochs: Annotated[int | None, typer.Option("--tune-epochs", min=0, help="of every trial")] = None,
    finish_epochs: Annotated[
        int | None, typer.Option("--finish-epochs", min=0, help="of every point of the front")
    ] = None,
    subset: Annotated[
        int | None, typer.Option("--subset", help="use this many training and validation samples")
    ] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="leave the backbone as it was brought; exits alone")] = False,
    start: Annotated[
        str | None, typer.Option("--from", help="zoo, or an entry's folder: begin with trained weights")
    ] = None,
    widen: Annotated[float, typer.Option("--widen", help="let layers have up to this many times their channels")] = 1.0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="samples per training step; large ones fill a GPU")] = 64,
    finish: Annotated[
        str, typer.Option("--finish", help="trials to finish, as 3,11; the run's front when not given")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Search exits, widths, bits and cores together; write runs/NAME with journal, report and bundles."""
    from offramp.api import design
    from offramp.data import load_dataset
    from offramp.formats.tflite import is_tflite

    dataset = load_dataset(data, data_dir=data_dir, seed=seed, subset=subset, normalize=not is_tflite(backbone))
    folder = run or Path("runs") / f"{dataset.name}-{Path(backbone).stem}-{Path(accelerator).stem}-{seed}"
    with Meter() as meter:
        result = design(
            dataset,
            backbone,
            accelerator,
            run=folder,
            space=space,
            without=[part for part in without.split(",") if part],
            strategy=strategy,
            objectives=[name.strip() for name in objectives.split(",")],
            constraints=constraint or (),
            trials=trials,
            seed=seed,
            accuracy_drop=accuracy_drop,
            policy=policy,
            guarantee=guarantee,
            execution=execution,
            budget=_budget(len(dataset.train), epochs, tune_epochs, finish_epochs, batch),
            subset=subset,
            freeze=freeze,
            start=start,
            widen=widen,
            finish=_numbers(finish),
            progress=meter.tell,
        )
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    else:
        _print(result, data, data_dir)
    if not result.front:
        wanted = "wider constraints or more trials, in another run folder"
        raise InfeasibleError(f"the front is empty: {result.note}", wanted=wanted, where=str(result.run))


def _numbers(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() for word in words):
        raise UserError(f"trials {text!r}", wanted="trial numbers with commas between", where="--finish", write="3,11")
    return [int(word) for word in words]


def _budget(samples: int, shared: int | None, tune: int | None, finish: int | None, batch: int) -> Budget:
    usual = default_budget(samples)
    return Budget(
        shared_epochs=usual.shared_epochs if shared is None else shared,
        static_epochs=usual.static_epochs if shared is None else shared,
        tune_epochs=usual.tune_epochs if tune is None else tune,
        finish_epochs=usual.finish_epochs if finish is None else finish,
        batch=batch,
    )


class Meter:
    """Progress on stderr: bars on a terminal, one per phase; else a line when a phase or a trial ends."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._bars = Progress(
            TextColumn("{task.description:16}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[remark]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "Meter":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def tell(self, phase: str, done: int, total: int, remark: str) -> None:
        """Move the bar of a phase."""
        if not self._console.is_terminal:
            if done == total or phase in EACH:
                self._console.print(f"{PHASES[phase]} {done}/{total}: {remark}", markup=False)
            return
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(PHASES[phase], total=total, remark=remark)
        self._bars.update(self._tasks[phase], completed=done, total=total, remark=remark)


def _figure(column: str, value: float) -> str:
    if column.startswith("accuracy"):
        return f"{value:.4f}"
    return f"{value / 1e6:.3g}" if column == "macs" else f"{value:.4g}"


def _run_knee(result: Any, data: str, data_dir: Path | None) -> None:
    """Run the knee's bundle on test data, print measured beside predicted, and keep it for the page."""
    from offramp.cli.run import measure_run, print_run, read_samples
    from offramp.deploy.runtime import Runner
    from offramp.report.page import write_report
    from offramp.report.run_folder import PAGE, read_run, write_measured
    from offramp.report.study import Measured

    runner = Runner(result.bundle)
    seen = measure_run(runner, *read_samples(runner.bundle, data, data_dir, "test"))
    print_run({"data": data, "split": "test", **seen})
    timed = seen["measured_latency_ms"]
    measured = Measured(
        device=timed["device"],
        latency_ms=timed["mean"],
        accuracy=seen["accuracy"],
        exit_rates=tuple(seen["exit_rates"]),
    )
    write_measured(result.run, {result.knee.trial.number: measured})
    write_report(result.run / PAGE, read_run(result.run))


def _print(result: Any, data: str, data_dir: Path | None) -> None:
    """The front against the static network, then the knee's bundle run on test data."""
    from offramp.report.run_folder import PAGE

    out = console()
    names = WIDE if out.width >= NARROW else SLIM
    table = Table("", *(Column(title, no_wrap=True) for title in names.values()), "exits (rate)")
    for name, point in [*((str(p.trial.number), p) for p in result.front), ("static", result.static)]:
        m, t = point.metrics, point.trial
        places = [str(e.mounting_point) for e in t.architecture.exits] + ["end"]
        exits = ", ".join(f"{place} ({rate:.0%})" for place, rate in zip(places, t.exit_rates, strict=True))
        table.add_row(name, *(_figure(column, getattr(m, column)) for column in names), exits)
    out.print(table)
    if result.bundle is None:
        return
    out.print(f"knee: trial {result.knee.trial.number}; report: {result.run / PAGE}")
    out.print(f"offramp run {result.bundle} --data {data}")
    _run_knee(result, data, data_dir)
