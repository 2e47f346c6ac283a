"""`offramp measure` times a bundle on a device; `offramp profile` times the layers of a whole search space once.

`measure` needs no torch. `profile` builds candidates of the space to learn their layers, then times each layer alone.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from offramp.cli.app import app, console
from offramp.cli.run import read_samples
from offramp.cli.shape import MOST_CLASSES, image_shape, numbers, read_shape
from offramp.deploy.bundle import DEFAULT_POINT, Bundle, open_bundle
from offramp.deploy.measure import DEVICES, Measurement, measure, to_data, write_measured
from offramp.deploy.profile import TABLE_MARKS, profile_layers, unique_layers, write_table
from offramp.errors import UserError, choose
from offramp.ir.accelerator import Accelerator, Core, CoreKind, PricingModel
from offramp.ir.workload import Layer, Workload
from offramp.target import check_target

if TYPE_CHECKING:
    from offramp.nn.backbones import Backbone
    from offramp.search.space import Space

MEASURED = "measured.yaml"
CORTEX_SAMPLES = 100
"""Samples that the emulated board runs when no limit is given; a network takes it a good part of a second each."""


@app.command("measure", short_help="Time a bundle on a device.")
def measure_command(
    bundle: Annotated[Path, typer.Argument(help="the bundle's folder")],
    device: Annotated[str, typer.Option("--device", help="host, c or qemu-m4")] = "host",
    data: Annotated[str, typer.Option("--data", help="dataset; the bundle's own when not given")] = "",
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="where the dataset's files lie")] = None,
    split: Annotated[str, typer.Option("--split", help="test, val or train")] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only the first N samples")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=5, help="runs of every part")] = 200,
    point: Annotated[str, typer.Option("--point", help="operating point")] = DEFAULT_POINT,
    out: Annotated[Path | None, typer.Option("--out", help="file to write; BUNDLE/measured.yaml")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Time every stage and exit branch of a bundle: batch 1, one pinned thread, medians and quartiles."""
    _check_device(device)
    opened, target = open_bundle(bundle), out or bundle / MEASURED
    check_target(target, (b"format: offramp-measured",), kind="measurement", where="--out")
    name = data or str((opened.manifest.data or {}).get("name", ""))
    if not name:
        raise UserError("no dataset", wanted="samples to run", where=str(bundle), write="--data NAME")
    x, _ = read_samples(opened, name, data_dir, split)
    most = limit if limit is not None else (CORTEX_SAMPLES if device == "qemu-m4" else 1000)
    measured = measure(opened, device, x[:most], rounds=rounds, point=point)
    report = to_data(measured, opened)
    write_measured(target, report)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _print(measured, opened, target)


def _check_device(device: str) -> None:
    if device not in DEVICES:
        raise choose("device", device, DEVICES, where="--device")


def _print(measured: Measurement, bundle: Bundle, target: Path) -> None:
    out = console()
    out.print(f"{measured.device} ({measured.machine}), {measured.samples} samples, in {measured.unit}")
    table = Table("stage", "backbone", "branch", "together", "quartiles", "predicted (us)")
    predicted = bundle.manifest.predicted
    for index, stage in enumerate(measured.stages):
        t = stage.together
        priced = "-"
        if predicted is not None:
            cost = predicted.stages[index].latency_ms + predicted.branches[index].latency_ms
            priced = f"{cost * 1e3:,.1f}"
        values = [f"{q.median:,.1f}" for q in (stage.backbone, stage.branch, t)]
        table.add_row(str(index), *values, f"{t.q1:,.1f} .. {t.q3:,.1f}", priced)
    out.print(table)
    whole = measured.whole
    out.print("a sample: " + ", ".join(f"{name} {whole[name]:,.1f}" for name in ("mean", "p50", "p99", "max")))
    for name, value in measured.memory.items():
        out.print(f"{name}: {value:,}")
    out.print(f"written to {target}")


@app.command("profile", short_help="Time the layers of a search space.")
def profile_command(
    out: Annotated[Path, typer.Argument(help="table file to write")],
    backbone_name: Annotated[str, typer.Option("--backbone", help="backbone whose space is measured")],
    device: Annotated[str, typer.Option("--device", help="host, c or qemu-m4")] = "host",
    shape: Annotated[str, typer.Option("--input-shape", help="C,H,W")] = "3,32,32",
    classes: Annotated[int, typer.Option("--classes", min=2, max=MOST_CLASSES, help="of the backbone")] = 10,
    widen: Annotated[float, typer.Option("--widen", help="as in the search that will use the table")] = 1.0,
    space_file: Annotated[Path | None, typer.Option("--space", help="space.yaml; everything when not given")] = None,
    weight_bits: Annotated[str, typer.Option("--weight-bits", help="for the space of everything")] = "8",
    activation_bits: Annotated[str, typer.Option("--activation-bits", help="likewise")] = "8",
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="networks whose layers are measured")] = 100,
    rounds: Annotated[int, typer.Option("--rounds", min=5, help="runs of every layer")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the drawn networks")] = 0,
) -> None:
    """Time the layers of a search space on a device: a table that `--accelerator table:FILE` prices with."""
    _check_device(device)
    check_target(out, TABLE_MARKS, kind="measured table", where="OUT")
    from offramp.nn.backbones import backbone
    from offramp.nn.widen import widen as widened

    full = widened(backbone(backbone_name, image_shape(read_shape(shape)), classes), widen)
    bits = (_bits("--weight-bits", weight_bits), _bits("--activation-bits", activation_bits))
    space = space_of(full, space_file, *bits)
    workloads = list(workloads_of(space, full, candidates, seed))
    layers = unique_layers(layer for workload in workloads for layer in workload.layers)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{len(layers)} layers on {device}", total=len(layers))

        def done(_layer: Layer, _microseconds: float) -> None:
            progress.advance(task)

        rows = profile_layers(layers, device, networks=workloads, rounds=rounds, on_layer=done)
    write_table(out, rows, device, name=f"{backbone_name}-{device}")
    console().print(f"{len(rows)} layers of {len(workloads)} networks on {device}: {out}")


def _bits(option: str, text: str) -> tuple[int, ...]:
    bits = numbers(option, text, int, write="8")
    if not bits or not all(2 <= b <= 8 for b in bits):
        raise UserError(f"{text!r}", wanted="bits from 2 to 8 with commas between", where=option, write="8")
    return bits


def anything() -> Accelerator:
    """A chip that takes every operator at every precision: what a space is derived for before anything is measured."""
    core = Core(name="device", kind=CoreKind.HOST, model=PricingModel.SCALAR)
    return Accelerator(name="anything", clock_mhz=1.0, cores=(core,))


def space_of(
    full: "Backbone", space_file: Path | None, weight_bits: tuple[int, ...], activation_bits: tuple[int, ...]
) -> "Space":
    """The space of a file, or all that the backbone offers at the given bits."""
    from offramp.nn.describe import describe
    from offramp.search.derive import derive_space
    from offramp.search.space_yaml import read_space

    info = describe(full)
    if space_file is not None:
        return read_space(space_file, info, anything())
    return derive_space(info, anything(), weight_bits=weight_bits, activation_bits=activation_bits)


def workloads_of(space: "Space", full: "Backbone", candidates: int, seed: int) -> Iterator[Workload]:
    """The full network with every exit kind at every place in turn, then random candidates of the space."""
    from offramp.nn.lower import lower
    from offramp.nn.network import skeleton

    rng = np.random.default_rng(seed)
    neutral = np.array([gene.neutral for gene in space.genes], dtype=np.int64)
    exits = np.array([gene.part == "exits" for gene in space.genes])
    vectors = [np.where(exits, np.minimum(kind, space.upper), neutral) for kind in range(int(space.upper.max()) + 1)]
    vectors += [rng.integers(0, space.upper + 1) for _ in range(candidates)]
    for vector in vectors:
        architecture = space.decode(vector)
        network = skeleton(architecture, full)
        yield lower(network, precision=dict(architecture.precision), default=architecture.default_precision)
