"""`offramp price`: what a network costs on a chip, layer by layer, stage by stage, exit by exit.

The network is a backbone by name or from a `.tflite` file, a bundle, or an ONNX file; only the first two need torch.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from offramp.cli.app import app, console
from offramp.cli.shape import MOST_CLASSES, image_shape, numbers, read_shape
from offramp.errors import UserError, choose
from offramp.report.text import MARK
from offramp.target import check_target

if TYPE_CHECKING:
    from offramp.cost.model import CostModel
    from offramp.cost.network import ExpectedCost, NetworkCost
    from offramp.ir.accelerator import Accelerator
    from offramp.ir.workload import Workload
    from offramp.nn.backbones import Backbone

DEFAULT_INPUT = (3, 32, 32), 10
INPUTS: dict[str, tuple[tuple[int, int, int], int]] = {"dscnn": ((1, 49, 10), 12), "mobilenetv1": ((3, 96, 96), 2)}
"""Input shape and classes of MLPerf Tiny's tasks (github.com/mlcommons/tiny); other backbones are made for CIFAR-10."""
BACKENDS = ("fast", "zigzag")


@app.command("price", short_help="Price a network on an accelerator.")
def price_command(
    model: Annotated[str, typer.Argument(help="backbone name, .tflite or ONNX file, or bundle folder")],
    accelerator: Annotated[str, typer.Option("--accelerator", help="shipped name or YAML file")],
    backend: Annotated[str, typer.Option("--backend", help="fast or zigzag")] = "fast",
    execution: Annotated[str, typer.Option("--execution", help="best or layer-by-layer")] = "best",
    objective: Annotated[str, typer.Option("--objective", help="latency, energy, edp or et")] = "edp",
    exits: Annotated[str, typer.Option("--exits", help="mounting points, such as 0,4,5,7 (backbones only)")] = "",
    branch: Annotated[str, typer.Option("--branch", help="kind of exit branch")] = "maxpool_fc",
    exit_rates: Annotated[
        str,
        typer.Option("--exit-rates", help="one per exit, the final one included; default: a bundle's own, else equal"),
    ] = "",
    input_shape: Annotated[str, typer.Option("--input-shape", help="C,H,W")] = "",
    classes: Annotated[int | None, typer.Option("--classes", help="of a backbone")] = None,
    weight_bits: Annotated[int, typer.Option("--weight-bits", help="where the model does not say")] = 8,
    activation_bits: Annotated[int, typer.Option("--activation-bits", help="where the model does not say")] = 8,
    gantt: Annotated[Path | None, typer.Option("--gantt", help="draw the schedule into this HTML file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Price a network on an accelerator under its best mapping, or layer by layer."""
    from offramp.cost.mapper import map_network
    from offramp.formats.accelerator_yaml import load_accelerator

    chip = load_accelerator(accelerator)
    shape = read_shape(input_shape)
    bits = _checked_bits(weight_bits, activation_bits)
    given = numbers("--exit-rates", exit_rates, float)
    points = numbers("--exits", exits, int)
    if given and list(points) != sorted(points):
        raise UserError(
            f"{exits} with --exit-rates", wanted="exits in ascending order, as their rates", where="--exits"
        )
    if gantt is not None:
        check_target(gantt, (MARK.encode(),), kind="schedule of ours", where="--gantt")
    workload, rates = _load(model, points, branch, shape, classes, bits)
    cost = map_network(
        workload,
        chip,
        cost_model=_cost_model(backend, execution),
        exit_rates=given or rates,
        execution=execution,
        objective=objective,
    )
    if gantt is not None:
        _draw(cost, gantt)
    if as_json:
        typer.echo(json.dumps(price_json(cost)))
    else:
        _print(cost, chip)


def price_json(cost: "NetworkCost") -> dict[str, Any]:
    """The object that `--json` prints; `stages`, `expected` and what follows only for networks with early exits."""
    layer_keys = ("name", "op", "core", "macs", "latency_cycles", "energy_pj", "energy_parts", "utilization")
    stage_keys = ("backbone_cycles", "branch_cycles", "backbone_pj", "branch_pj", "cumulative_cycles", "cumulative_pj")
    answer: dict[str, Any] = {
        "latency_cycles": cost.latency_cycles,
        "latency_ms": cost.latency_ms,
        "energy_pj": cost.energy_pj,
        "macs": cost.macs,
        "peak_bytes": cost.peak_bytes,
        "peak_bytes_per_level": cost.level_bytes,
        "layers": [{key: getattr(layer, key) for key in layer_keys} for layer in cost.layers],
    }
    if len(cost.stages) > 1:
        answer["stages"] = [{key: getattr(stage, key) for key in stage_keys} for stage in cost.stages]
        answer["expected"] = _expected_json(cost.expected())
        answer["worst_case"] = _expected_json(cost.worst_case)
        answer["exit_rates"] = list(cost.exit_rates)
        answer["exit_modes"] = [str(mode) for mode in cost.mapping.exit_modes]
    return answer


def _expected_json(expected: "ExpectedCost") -> dict[str, float]:
    return {
        "latency_cycles": expected.latency_cycles,
        "energy_pj": expected.energy_pj,
        "et_joule_cycles": expected.et_joule_cycles,
    }


def _checked_bits(weight: int, activation: int) -> tuple[int, int]:
    for option, value in (("--weight-bits", weight), ("--activation-bits", activation)):
        if not 1 <= value <= 32:
            raise UserError(f"{value}", wanted="1 to 32 bits", where=option)
    return weight, activation


def _cost_model(backend: str, execution: str) -> "CostModel":
    """Layer by layer needs one of the four prices of a layer: ZigZag, which takes seconds, is asked for no more."""
    if backend not in BACKENDS:
        raise choose("backend", backend, BACKENDS, where="--backend")
    if backend == "zigzag":
        from offramp.cost.zigzag import ZigZagCostModel

        return ZigZagCostModel(variants=(0,)) if execution == "layer-by-layer" else ZigZagCostModel()
    from offramp.cost.engine import FastCostModel

    return FastCostModel()


def _load(
    model: str, points: Sequence[int], branch: str, shape: Sequence[int], classes: int | None, bits: tuple[int, int]
) -> tuple["Workload", tuple[float, ...] | None]:
    """The workload of a model, and its own exit rates where it has any."""
    from offramp.formats.tflite import is_tflite

    path = Path(model)
    if classes is not None and not 2 <= classes <= MOST_CLASSES:
        raise UserError(f"{classes}", wanted=f"2 to {MOST_CLASSES:,} classes", where="--classes")
    if is_tflite(model) or not (path.suffix == ".onnx" or path.exists()):
        return _backbone(model, points, branch, shape, classes, bits), None
    if points:
        given = f"--exits {','.join(map(str, points))} for {model}"
        raise UserError(given, wanted="a backbone name; a file has the exits that it has")
    if classes is not None:
        raise UserError(f"--classes {classes} for {model}", wanted="a backbone name; a file says its classes itself")
    if not path.is_dir():
        from offramp.formats.onnx_workload import read_onnx

        return read_onnx(path, weight_bits=bits[0], activation_bits=bits[1], input_shape=shape or None), None
    if shape:
        raise UserError(f"--input-shape for {model}", wanted="a backbone name or ONNX file; a bundle has its own")
    from offramp.deploy.bundle import DEFAULT_POINT, open_bundle
    from offramp.formats.quantized_workload import quantized_workload

    bundle = open_bundle(path)
    point = bundle.manifest.operating_points.get(DEFAULT_POINT)
    measured = point.exit_rates if point else ()
    rates = tuple(r / sum(measured) for r in measured) if sum(measured) > 0 else None
    return quantized_workload(bundle.network), rates


def _backbone(
    name: str, points: Sequence[int], branch: str, shape: Sequence[int], classes: int | None, bits: tuple[int, int]
) -> "Workload":
    from offramp.formats.tflite import is_tflite
    from offramp.ir.architecture import Architecture, ExitChoice, Precision
    from offramp.nn.branches import BRANCHES
    from offramp.nn.lower import lower
    from offramp.nn.network import skeleton

    if branch not in BRANCHES:
        raise choose("exit branch", branch, BRANCHES, where="--branch")
    full = _imported(name, shape, classes) if is_tflite(name) else _named(name, shape, classes)
    chosen = tuple(ExitChoice(point, branch) for point in sorted(points))
    return lower(skeleton(Architecture(backbone=full.name, exits=chosen), full), default=Precision(*bits))


def _named(name: str, shape: Sequence[int], classes: int | None) -> "Backbone":
    from offramp.nn.backbones import BACKBONES, backbone

    if name not in BACKBONES:
        error = choose("model", name, BACKBONES, where="MODEL")
        wanted = f"{error.wanted}, a .tflite or ONNX file, or a bundle folder"
        raise UserError(error.given, wanted=wanted, where="MODEL")
    default_shape, default_classes = INPUTS.get(name, DEFAULT_INPUT)
    return backbone(name, image_shape(shape) if shape else default_shape, classes or default_classes)


def _imported(path: str, shape: Sequence[int], classes: int | None) -> "Backbone":
    from offramp.nn.importer import from_tflite, import_module

    if shape or classes:
        given = f"--input-shape or --classes for {path}"
        raise UserError(given, wanted="a backbone name; a file says both itself")
    network = from_tflite(path)
    return import_module(network, network.input_shape, name=Path(path).stem)


def _draw(cost: "NetworkCost", path: Path) -> None:
    from offramp.report.gantt import Bar, Mark, write_gantt

    bars = [
        Bar(
            lane=core,
            label=layer.name,
            kind="branch" if layer.branch else "backbone",
            start=layer.start,
            end=layer.end,
            detail=(
                f"{layer.op}, stage {layer.stage}",
                f"{layer.energy_pj / 1e6:.3f} uJ, {layer.utilization:.0%} of the array",
            ),
        )
        for layer in sorted(cost.layers, key=lambda x: x.core)
        for core in layer.core.split("+")
    ]
    for move in cost.transfers:
        kind, detail = ("transfer", f"for {move.consumer}") if move.consumer else ("spill", "to make room")
        bars.append(Bar(move.link, move.tensor, kind, move.start, move.end, (detail,)))
    modes = [f" ({mode})" for mode in cost.mapping.exit_modes]
    names = [f"exit {i}{mode}" for i, mode in enumerate([*modes, ""])]
    marks = [Mark(name, stage.cumulative_cycles) for name, stage in zip(names, cost.stages, strict=True)]
    try:
        write_gantt(path, f"{cost.name} on {cost.accelerator}", bars, marks if len(marks) > 1 else ())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", wanted="a file that can be written", where="--gantt") from error


def _print(cost: "NetworkCost", chip: "Accelerator") -> None:
    out = console()
    out.print(_layer_table(cost, f"{cost.name} on {chip.name} at {chip.clock_mhz:g} MHz"))
    if len(cost.stages) > 1:
        out.print(_stage_table(cost))
    for line in _summary(cost):
        typer.echo(line)


def _layer_table(cost: "NetworkCost", title: str) -> Table:
    table = Table(title=title)
    for column in ("layer", "op", "core"):
        table.add_column(column, no_wrap=True)
    for column in _LAYER_COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for x in cost.layers:
        most = max(x.energy_parts, key=lambda part: x.energy_parts[part], default="")
        share = f"{most} {x.energy_parts[most] / x.energy_pj:.0%}" if most and x.energy_pj else ""
        figures = (f"{x.macs:,}", f"{x.latency_cycles:,.0f}", f"{x.energy_pj / 1e6:.3f}", f"{x.utilization:.1%}", share)
        table.add_row(x.name, x.op, x.core, *figures)
    return table


def _summary(cost: "NetworkCost") -> Iterator[str]:
    yield f"peak bytes {cost.peak_bytes:,} of activations; by memory:"
    for owner, held in _peaks(cost.level_bytes).items():
        yield f"  {owner:12} {', '.join(held)}"
    early = len(cost.stages) > 1
    total = f"{cost.latency_cycles:,.0f} cycles, {cost.latency_ms:.4g} ms, {cost.energy_pj / 1e6:.4g} uJ"
    yield f"{'worst case ' if early else ''}{total}, {cost.macs:,} MACs"
    if early:
        e = cost.expected()
        rates = ", ".join(f"{r:.3g}" for r in cost.exit_rates)
        yield (
            f"expected {e.latency_cycles:,.0f} cycles, {cost.milliseconds(e.latency_cycles):.4g} ms, "
            f"{e.energy_pj / 1e6:.4g} uJ, {e.et_joule_cycles:.4g} J*cycles at exit rates {rates}"
        )


def _peaks(level_bytes: dict[str, int]) -> dict[str, list[str]]:
    """Peaks of memories by the core that they belong to; a memory that cores share stands for itself."""
    owners: dict[str, list[str]] = {}
    for name, size in sorted(level_bytes.items()):
        owner, _, memory = name.rpartition(".")
        owners.setdefault(owner or name, []).append(f"{memory} {size:,}" if owner else f"{size:,}")
    return owners


_LAYER_COLUMNS = ("MACs", "cycles", "uJ", "array use", "largest part")
_STAGE_COLUMNS = ("exit", "then", "backbone cycles", "branch cycles", "cycles so far", "uJ so far", "wasted uJ", "rate")


def _stage_table(cost: "NetworkCost") -> Table:
    table = Table(title="stages")
    for column in _STAGE_COLUMNS:
        table.add_column(column, justify="right")
    modes = [*map(str, cost.mapping.exit_modes), "end"]
    for i, (stage, mode, rate) in enumerate(zip(cost.stages, modes, cost.exit_rates, strict=True)):
        cycles = (stage.backbone_cycles, stage.branch_cycles, stage.cumulative_cycles)
        energies = (stage.cumulative_pj / 1e6, stage.wasted_pj / 1e6)
        table.add_row(
            str(i), mode, *(f"{c:,.0f}" for c in cycles), *(f"{e:.3f}" for e in energies), f"{rate:.3f}"
        )  # fmt: skip
    return table
