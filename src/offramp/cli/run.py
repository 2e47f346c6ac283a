"""`offramp run`: executes a bundle on a dataset, leaves at exits, prints measured beside predicted. No torch."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from offramp.cli.app import app, console
from offramp.data.dataset import Dataset, Normalization, load_dataset
from offramp.deploy.bundle import DEFAULT_POINT, Bundle, open_bundle
from offramp.deploy.runtime import Runner
from offramp.errors import DataError, UserError

TIMED_SAMPLES = 200
"""Samples streamed one by one for the latency figures, after as many as ten to warm up."""


@app.command("run", short_help="Run a bundle; it leaves at its exits.")
def run_command(
    bundle: Annotated[Path, typer.Argument(help="the bundle's folder")],
    data: Annotated[str, typer.Option("--data", help="dataset name or folder of .npz")],
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="where the dataset's files lie")] = None,
    split: Annotated[str, typer.Option("--split", help="test, val or train")] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only the first N samples")] = None,
    point: Annotated[str, typer.Option("--point", help="operating point")] = DEFAULT_POINT,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Run a bundle on a dataset with ONNX Runtime; later stages do not run once a sample has left."""
    opened = open_bundle(bundle)
    runner = Runner(opened, operating_point=point)
    x, y = read_samples(opened, data, data_dir, split)
    report = measure_run(runner, x[:limit], y[:limit])
    report = {"bundle": str(bundle), "data": data, "split": split, "operating_point": point, **report}
    if as_json:
        typer.echo(json.dumps(report))
    else:
        print_run(report)


def read_samples(
    bundle: Bundle, data: str, data_dir: Path | None, split: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Samples and labels of a split, normalised with the bundle's own constants when it has them.

    Raises:
        UserError: the split is unknown or the samples do not fit the network.
    """
    if split not in ("test", "val", "train"):
        raise UserError(f"split {split!r}", wanted="test, val or train", where="--split", write="test")
    dataset = load_dataset(data, data_dir=data_dir, seed=bundle.manifest.seed)
    samples = dataset.read_test(bundle.path.name) if split == "test" else getattr(dataset, split)
    wanted = bundle.network.input_shape
    if dataset.input_shape != wanted or dataset.classes != bundle.network.classes:
        given = f"{data}: samples {dataset.input_shape} with {dataset.classes} classes"
        raise UserError(given, wanted=f"{wanted} with {bundle.network.classes} classes", where=str(bundle.path))
    return _renormalised(samples.x, dataset, bundle), samples.y


def _renormalised(x: NDArray[np.float32], dataset: Dataset, bundle: Bundle) -> NDArray[np.float32]:
    """From the dataset's normalisation to the bundle's, which may have been fitted on another split of it."""
    stored = (bundle.manifest.data or {}).get("normalization")
    if stored is None or stored == dataset.normalization.to_json():
        return x
    ours, where = dataset.normalization, f"{bundle.path}: data.normalization"
    try:
        theirs = Normalization.from_json(stored)
    except DataError as error:
        raise DataError(error.given, wanted=error.wanted, where=where) from error
    if theirs.mean.shape != ours.mean.shape:
        raise DataError(f"mean of shape {theirs.mean.shape}", wanted=f"{ours.mean.shape}", where=where)
    return np.asarray((x * ours.std + ours.mean - theirs.mean) / theirs.std, dtype=np.float32)


def measure_run(runner: Runner, x: NDArray[np.float32], y: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy and exits over all samples in batches, then latencies of some of them one by one."""
    runner.reset()
    outcome = runner.predict(x)
    exits = np.bincount(outcome.exits, minlength=len(runner.executions))
    report: dict[str, Any] = {
        "samples": len(y),
        "accuracy": float((outcome.labels == y).mean()),
        "exit_rates": (exits / len(y)).tolist(),
        "accuracy_per_exit": [
            float((outcome.labels == y)[outcome.exits == e].mean()) if n else None for e, n in enumerate(exits)
        ],
        "stage_executions": list(runner.executions),
        "thresholds": list(runner.thresholds),
        "policy": runner.policy,
    }
    timed = _latencies(runner, x[:TIMED_SAMPLES])
    report["measured_latency_ms"] = {
        "mean": float(timed.mean()), "p50": float(np.percentile(timed, 50)),
        "p99": float(np.percentile(timed, 99)), "max": float(timed.max()),
        "samples": len(timed), "device": "host, ONNX Runtime, one thread, batch 1",
    }  # fmt: skip
    report["predicted"] = predicted_cost(runner.bundle, report["exit_rates"])
    return report


def _latencies(runner: Runner, x: NDArray[np.float32]) -> NDArray[np.float64]:
    for sample in x[:10]:
        runner.stream(sample)
    times = []
    for sample in x:
        start = time.perf_counter()
        runner.stream(sample)
        times.append(time.perf_counter() - start)
    return np.array(times) * 1e3


def predicted_cost(bundle: Bundle, exit_rates: list[float]) -> dict[str, Any] | None:
    """The manifest's predicted cost at the exit rates just seen: sum over exits of rate times cost up to there."""
    predicted = bundle.manifest.predicted
    if predicted is None:
        return None
    figures: dict[str, Any] = {"accelerator": predicted.accelerator}
    for name in ("latency_ms", "energy_uj"):
        parts = [getattr(s, name) + getattr(b, name) for s, b in zip(predicted.stages, predicted.branches, strict=True)]
        figures[name] = float(np.dot(exit_rates, np.cumsum(parts)))
        figures[f"worst_{name}"] = float(sum(parts))
    return figures


def print_run(report: dict[str, Any]) -> None:
    """What a run gave, for people: exits in a table, measured beside predicted."""
    out = console()
    out.print(f"{report['samples']} samples ({report['data']}, {report['split']}): accuracy {report['accuracy']:.4f}")
    table = Table("exit", "rate", "accuracy", "samples run by its stage", "threshold")
    thresholds = [f"{t:.4f}" for t in report["thresholds"]] + ["takes the rest"]
    rows = zip(report["exit_rates"], report["accuracy_per_exit"], report["stage_executions"], thresholds, strict=True)
    for index, (rate, accuracy, ran, threshold) in enumerate(rows):
        table.add_row(str(index), f"{rate:.3f}", "-" if accuracy is None else f"{accuracy:.4f}", str(ran), threshold)
    out.print(table)
    timed = report["measured_latency_ms"]
    out.print(
        f"measured ({timed['device']}): mean {timed['mean']:.3f} ms, p50 {timed['p50']:.3f}, p99 {timed['p99']:.3f}"
    )
    if report["predicted"]:
        p = report["predicted"]
        out.print(
            f"predicted ({p['accelerator']}): mean {p['latency_ms']:.4g} ms, {p['energy_uj']:.4g} uJ; "
            f"worst {p['worst_latency_ms']:.4g} ms, {p['worst_energy_uj']:.4g} uJ"
        )
