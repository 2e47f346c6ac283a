"""Early-exit networks against their static 8-bit ones where they run: ONNX Runtime, C, a Cortex-M4 under QEMU.

    python benchmarks/bench_deploy.py RUN [RUN ...] [--data-dir DIR]

RUN is the folder of a search whose cost model was the measured table of this machine:

    offramp profile table.yaml --backbone resnet8 --device host
    offramp search --data cifar10 --data-dir DIR --backbone resnet8 --accelerator table:table.yaml \
        --objectives accuracy,latency_ms --run RUN

Bundle and operating point are chosen by validation figures alone: the lowest predicted latency that loses no more than
`--drop` against the static network. Both networks then run over the whole test set, in turn, on one core. Without RUN
it does these two commands for the digits first. Prints Markdown; `--json FILE` keeps every figure.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from offramp.cli.run import read_samples
from offramp.deploy.bundle import DEFAULT_POINT, Bundle, open_bundle, write_bundle
from offramp.deploy.c.build import FAST, build_host, run_host, time_host
from offramp.deploy.c.cortex import build_cortex, footprint, missing_tools, run_cortex
from offramp.deploy.c.generate import write_c
from offramp.deploy.measure import bound_call, machine_name, measure, pinned_core, time_rounds
from offramp.deploy.plan import make_plan
from offramp.deploy.profile import empty_model
from offramp.deploy.reference import quantize
from offramp.deploy.runtime import Runner
from offramp.ir.quantized import QuantizedNetwork

Report = dict[str, Any]
COLUMNS = ("mean", "p50", "p99", "max")
PASSES = 5
"""Runs of every sample; the median stands for it, so that the worst case is a sample's and not the machine's."""
CHUNK = 100
"""Samples between two changes of program in C."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A bundle at an operating point, with validation accuracy and predicted milliseconds."""

    bundle: Bundle
    point: str
    accuracy: float
    latency_ms: float

    @property
    def thresholds(self) -> tuple[float, ...]:
        return self.bundle.point(self.point).thresholds


@dataclass(frozen=True, slots=True)
class Pair:
    """Both networks and the samples they run on."""

    early: Choice
    static: Choice
    x: np.ndarray
    y: np.ndarray

    def items(self) -> tuple[tuple[str, Choice], ...]:
        return (("static", self.static), ("early", self.early))


def figures(values: np.ndarray) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return {"mean": float(values.mean()), "p50": float(p50), "p99": float(p99), "max": float(values.max())}


def stage_prices(bundle: Bundle) -> np.ndarray:
    """Predicted milliseconds of every stage with its branch."""
    predicted = bundle.manifest.predicted
    if predicted is None:
        raise SystemExit(f"{bundle.path} has no prices: it is no bundle of a search")
    parts = zip(predicted.stages, predicted.branches, strict=True)
    return np.array([s.latency_ms + b.latency_ms for s, b in parts])


def choices(bundle: Bundle) -> Iterator[Choice]:
    """The bundle at each of its operating points whose validation figures are known."""
    known = bundle.manifest.metrics["val"]
    expected = float(np.dot(known["exit_rates"], np.cumsum(stage_prices(bundle))))
    yield Choice(bundle, DEFAULT_POINT, known["accuracy"], expected)
    for name, point in bundle.manifest.operating_points.items():
        if point.split == "val" and point.accuracy is not None and point.latency_ms is not None:
            yield Choice(bundle, name, point.accuracy, point.latency_ms)


def choose(run: Path, drop: float) -> tuple[Choice, Choice]:
    """Early-exit network and static one of a run, by validation figures."""
    (static, *_) = choices(open_bundle(run / "bundles" / "static"))
    folders = [run / "bundle", *sorted(p for p in (run / "bundles").iterdir() if p.name != "static")]
    found = [c for folder in folders for c in choices(open_bundle(folder)) if len(c.bundle.network.stages) > 1]
    if not found:
        raise SystemExit(f"{run} has no early-exit network")
    good = [c for c in found if c.accuracy >= static.accuracy - drop]
    if good:
        return min(good, key=lambda c: c.latency_ms), static
    return max(found, key=lambda c: c.accuracy), static


def bench_latency(pair: Pair) -> Report:
    """Both networks on every sample in turn, so that a busy moment hits both; microseconds per sample."""
    report: Report = {"samples": len(pair.y), "passes": PASSES}
    with pinned_core():
        ours, labels, exits = stream_in_turn(pair)
        report["onnxruntime_us"] = {name: figures(np.median(times, axis=0)) for name, times in ours.items()}
        c_times, c_labels = c_in_turn(pair)
        report["c_us"] = {name: figures(times) for name, times in c_times.items()}
    report["accuracy"] = {name: float((found == pair.y).mean()) for name, found in labels.items()}
    report["c_accuracy"] = {name: float((found == pair.y).mean()) for name, found in c_labels.items()}
    report["exit_rates"] = (np.bincount(exits, minlength=len(pair.early.thresholds) + 1) / len(pair.y)).tolist()
    for key in ("onnxruntime_us", "c_us"):
        report[f"{key}_speedup"] = report[key]["static"]["mean"] / report[key]["early"]["mean"]
    return report


def stream_in_turn(pair: Pair) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Microseconds [passes, N] and labels of each network, exits of the early one."""
    runners = {name: Runner(choice.bundle, operating_point=choice.point) for name, choice in pair.items()}
    times = {name: np.zeros((PASSES, len(pair.x))) for name in runners}
    labels = {name: np.zeros(len(pair.x), np.int64) for name in runners}
    exits = np.zeros(len(pair.x), np.int64)
    clock, orders = time.perf_counter, (tuple(runners.items()), tuple(runners.items())[::-1])
    for sample in pair.x[:50]:
        for runner in runners.values():
            runner.stream(sample)
    for turn in range(PASSES):
        for at, sample in enumerate(pair.x):
            for name, runner in orders[(at + turn) % 2]:
                start = clock()
                answer = runner.stream(sample)
                times[name][turn, at] = (clock() - start) * 1e6
                labels[name][at] = answer.label
                if name == "early":
                    exits[at] = answer.exit
    return times, labels, exits


def c_in_turn(pair: Pair) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same in C: median microseconds [N] and labels of each network, some samples of each in turn."""
    times: dict[str, list[np.ndarray]] = {name: [] for name, _ in pair.items()}
    labels: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        programs = {name: build_c(choice, Path(folder) / name) for name, choice in pair.items()}
        for start in range(0, len(pair.x), CHUNK):
            for name, choice in pair.items():
                integers = quantize(pair.x[start : start + CHUNK], choice.bundle.network.input)
                raw = time_host(programs[name], choice.bundle.plan, integers, PASSES)[:, :, -1]
                times[name].append(np.median(raw, axis=1) / 1e3)
        for name, choice in pair.items():
            integers = quantize(pair.x, choice.bundle.network.input)
            labels[name] = run_host(programs[name], choice.bundle.plan, integers).labels
    return {name: np.concatenate(parts) for name, parts in times.items()}, labels


def build_c(choice: Choice, folder: Path) -> Path:
    bundle = choice.bundle
    write_c(folder, bundle.plan, bundle.manifest.policy, choice.thresholds)
    return build_host(folder, len(bundle.plan.stages), FAST)


def bench_cortex(pair: Pair, samples: int, rates: list[float]) -> Report:
    """Instructions of some samples, flash and RAM; `expected` weighs the exits by their rates over a whole split."""
    if missing_tools():
        return {"skipped": f"not installed: {', '.join(missing_tools())}"}
    early = pair.early.bundle
    bare = without_exits(early.network)
    runs = {
        "static": (pair.static.bundle.network, pair.static.thresholds),
        "early": (early.network, pair.early.thresholds),
        "early, exits taken out": (bare, ()),
    }
    report: Report = {"samples": min(samples, len(pair.x))}
    for name, (network, thresholds) in runs.items():
        plan = make_plan(network)
        with tempfile.TemporaryDirectory() as folder:
            write_c(folder, plan, early.manifest.policy, thresholds)
            program = build_cortex(folder, len(plan.stages))
            size, ran = footprint(program), run_cortex(program, plan, quantize(pair.x[:samples], network.input))
        by_exit = {int(e): float(ran.instructions[ran.exits == e].mean()) for e in np.unique(ran.exits)}
        report[name] = {
            "instructions": figures(ran.instructions.astype(float)), "by_exit": by_exit,
            "flash_bytes": size.flash_bytes, "ram_bytes": size.ram_bytes,
        }  # fmt: skip
    for kind in ("flash", "ram"):
        sizes = [report[name][f"{kind}_bytes"] for name in ("early", "early, exits taken out")]
        report[f"{kind}_overhead_percent"] = 100 * (sizes[0] / sizes[1] - 1)
    seen = report["early"]["by_exit"]
    report["expected"] = sum(rate * seen[e] for e, rate in enumerate(rates) if e in seen)
    report["rates"] = rates
    report["speedup"] = report["static"]["instructions"]["mean"] / report["expected"]
    return report


def without_exits(network: QuantizedNetwork) -> QuantizedNetwork:
    """The same weights with the final exit alone."""
    backbone = tuple(node for stage in network.stages for node in stage.backbone)
    stage = replace(network.stages[-1], backbone=backbone)
    return replace(network, stages=(stage,), temperatures=network.temperatures[-1:])


def bench_predicted(choice: Choice, x: np.ndarray, rates: list[float]) -> Report:
    """Every stage as the search priced it and as it runs here; expected latency at the given exit rates."""
    measured = measure(choice.bundle, "host", x[:200], rounds=1000, point=choice.point)
    priced = stage_prices(choice.bundle) * 1e3
    taken = np.array([stage.together.median for stage in measured.stages])
    expected = [float(np.dot(rates, np.cumsum(parts))) for parts in (priced, taken)]
    predicted = choice.bundle.manifest.predicted
    assert predicted is not None
    return {
        "accelerator": predicted.accelerator, "predicted_us": priced.tolist(), "measured_us": taken.tolist(),
        "expected_predicted_us": expected[0], "expected_measured_us": expected[1],
        "error_percent": 100 * (expected[0] / expected[1] - 1),
    }  # fmt: skip


def bench_staging(choice: Choice, x: np.ndarray, rounds: int = 3000) -> Report:
    """What leaving costs: `stream` through all stages against the bare bound runs of the same sessions, in turn."""
    runner = Runner(choice.bundle)
    runner.thresholds = (1e9,) * len(runner.thresholds)
    runner.stream(x[0])
    runs = [runner.bound(index).run for index in range(len(runner.thresholds) + 1)]

    def bare() -> None:
        for run in runs:
            run()

    with pinned_core():
        times = time_rounds([lambda: runner.stream(x[0]), bare, bound_call(empty_model())], rounds)
    quarter, median = np.percentile(times, [25, 50], axis=0)
    return {
        "stages": len(runs), "rounds": rounds, "stream_us": median[0], "bare_us": median[1], "empty_run_us": median[2],
        "overhead_percent": 100 * (median[0] / median[1] - 1), "q1_percent": 100 * (quarter[0] / quarter[1] - 1),
    }  # fmt: skip


def bench_networks(choice: Choice, x: np.ndarray, count: int, seed: int) -> Report:
    """Profile the backbone's space on this machine, then price and measure networks of it: is the order kept?"""
    from offramp.cli.measure import space_of, workloads_of
    from offramp.cost.engine import FastCostModel
    from offramp.cost.mapper import map_network
    from offramp.deploy.profile import profile_layers, unique_layers, write_table
    from offramp.formats.accelerator_yaml import load_accelerator
    from offramp.formats.quantized_workload import quantized_workload
    from offramp.nn.backbones import backbone

    given = choice.bundle
    full = backbone(
        str((given.manifest.architecture or {})["backbone"]), given.network.input_shape, given.network.classes
    )
    space = space_of(full, None, (8,), (8,))
    networks = list(space_networks(space, full, count, seed, x))
    workloads = [quantized_workload(network) for network in networks]
    profiled = [*workloads, *workloads_of(space, full, 0, seed)]
    layers = unique_layers(layer for workload in profiled for layer in workload.layers)
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.yaml"
        write_table(table, profile_layers(layers, "host", networks=profiled, rounds=300), "host")
        machine = load_accelerator(f"table:{table}")
        for number, (network, workload) in enumerate(zip(networks, workloads, strict=True)):
            never = (1e9,) * (len(network.stages) - 1)
            bundle = open_bundle(write_bundle(Path(folder) / f"b{number}", network, thresholds=never))
            cost = map_network(workload, machine, cost_model=FastCostModel())
            predicted = cost.latency_ms * 1e3
            pairs.append((predicted, sum(s.together.q1 for s in measure(bundle, "host", x[:3], rounds=300).stages)))
    predicted, measured = np.array(pairs).T
    errors = 100 * np.abs(predicted - measured) / measured
    tau = float(kendalltau(predicted, measured).statistic)
    return {"networks": len(pairs), "layers": len(layers), "kendall_tau": tau, "error_percent": figures(errors)}


def space_networks(space: Any, full: Any, count: int, seed: int, x: np.ndarray) -> Iterator[QuantizedNetwork]:
    """Converted candidates of a space, calibrated but not trained: for times alone."""
    import torch

    from offramp.ir.architecture import Precision
    from offramp.nn.convert import convert
    from offramp.nn.network import build
    from offramp.nn.quantize import calibrate, prepare

    rng = np.random.default_rng(seed)
    for number in range(count):
        architecture = space.decode(rng.integers(0, space.upper + 1))
        plain = build(architecture, full.input_shape, full.classes, seed=number, full=full)
        network = prepare(plain, dict(architecture.precision), default=Precision())
        calibrate(network, [torch.as_tensor(x[:64])])
        yield convert(network.eval(), name=f"candidate-{number}")


def search_on_digits(run: Path) -> Path:
    """A run folder from this machine's own table, when none is given."""
    run.mkdir(parents=True, exist_ok=True)
    table = run / "table.yaml"
    call = [sys.executable, "-m", "offramp"]
    if not table.is_file():
        profile = ["profile", str(table), "--backbone", "resnet8", "--input-shape", "1,8,8", "--device", "host"]
        subprocess.run([*call, *profile], check=True)
    search = ["search", "--data", "digits", "--backbone", "resnet8", "--accelerator", f"table:{table}"]
    subprocess.run([*call, *search, "--objectives", "accuracy,latency_ms", "--run", str(run)], check=True)
    return run


def lines_of(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A Markdown table."""
    return ["", *(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)), ""]


def show(report: Report) -> str:
    lines = [f"## {report['early']} against {report['static']}", ""]
    lines += [f"{report['data']}, {report['machine']}, {report['date']}; chosen by validation: {report['chosen']}"]
    for part, write in (
        ("latency", show_latency), ("cortex", show_cortex), ("predicted", show_predicted), ("staging", show_staging),
        ("networks", show_networks),
    ):  # fmt: skip
        if part in report:
            lines += write(report[part])
    return "\n".join(lines)


def show_latency(part: Report) -> list[str]:
    rows = [
        (where, name, *(f"{part[key][name][c]:,.1f}" for c in COLUMNS), f"{part[accuracy][name]:.4f}")
        for where, key, accuracy in (("ONNX Runtime", "onnxruntime_us", "accuracy"), ("C", "c_us", "c_accuracy"))
        for name in ("static", "early")
    ]
    lost = 100 * (part["accuracy"]["static"] - part["accuracy"]["early"])
    rates = " ".join(f"{rate:.3f}" for rate in part["exit_rates"])
    return [
        *lines_of(("runtime", "network", "mean us", "p50", "p99", "worst", "accuracy"), rows),
        f"{part['samples']:,} test samples, median of {part['passes']} runs each, batch 1. Mean latency "
        f"{part['onnxruntime_us_speedup']:.2f} times lower in ONNX Runtime, {part['c_us_speedup']:.2f} times in C, "
        f"at {lost:.2f} points lost; exit rates {rates}.",
    ]


def show_cortex(part: Report) -> list[str]:
    if "skipped" in part:
        return ["", f"Cortex-M4: {part['skipped']}"]
    rows = [
        (name, *(f"{part[name]['instructions'][c]:,.0f}" for c in COLUMNS),
         f"{part[name]['flash_bytes']:,}", f"{part[name]['ram_bytes']:,}")
        for name in ("static", "early", "early, exits taken out")
    ]  # fmt: skip
    by_exit = ", ".join(f"{e}: {n:,.0f}" for e, n in part["early"]["by_exit"].items())
    rates = " ".join(f"{rate:.3f}" for rate in part["rates"])
    return [
        *lines_of(("Cortex-M4", "instructions, mean", "p50", "p99", "worst", "flash bytes", "RAM bytes"), rows),
        f"{part['samples']} samples; per exit {by_exit}; at exit rates {rates} "
        f"{part['expected']:,.0f} instructions, {part['speedup']:.2f} times fewer than static. The exits add "
        f"{part['flash_overhead_percent']:.1f} % flash and {part['ram_overhead_percent']:.1f} % RAM.",
    ]


def show_predicted(part: Report) -> list[str]:
    pairs = list(zip(part["predicted_us"], part["measured_us"], strict=True))
    pairs.append((part["expected_predicted_us"], part["expected_measured_us"]))
    names = [*(f"stage {i}" for i in range(len(pairs) - 1)), "expected"]
    rows = [
        (n, f"{p:,.1f}", f"{m:,.1f}", f"{100 * (p / m - 1):+.1f} %") for n, (p, m) in zip(names, pairs, strict=True)
    ]
    return lines_of((part["accelerator"], "predicted us", "measured us", "error"), rows)


def show_staging(part: Report) -> list[str]:
    over = f"{part['overhead_percent']:+.1f} % (lower quartiles {part['q1_percent']:+.1f} %)"
    return [
        f"Staging, {part['stages']} stages, {part['rounds']:,} runs: `stream` {part['stream_us']:.1f} us, bare bound "
        f"runs {part['bare_us']:.1f} us: {over}; an empty session run takes {part['empty_run_us']:.1f} us."
    ]


def show_networks(part: Report) -> list[str]:
    error, tau = part["error_percent"], part["kendall_tau"]
    return [
        "",
        f"Predicted against measured over {part['networks']} networks of the space ({part['layers']} layers profiled): "
        f"Kendall's tau {tau:.3f}, error {error['mean']:.1f} % on average, {error['max']:.1f} % at worst.",
    ]


def bench(run: Path, given: argparse.Namespace) -> Report:
    """Every part of one run."""
    early, static = choose(run, given.drop)
    data = str((early.bundle.manifest.data or {})["name"])
    x, y = read_samples(early.bundle, given.data or data, given.data_dir, "test")
    pair = Pair(early, static, x[: given.limit], y[: given.limit])
    rates = list(early.bundle.manifest.metrics["val"]["exit_rates"])
    report: Report = {
        "early": f"{early.bundle.manifest.network.name} ({early.point})", "static": static.bundle.manifest.network.name,
        "data": data, "machine": machine_name(), "date": time.strftime("%Y-%m-%d"),
        "chosen": f"{early.accuracy:.4f} against {static.accuracy:.4f}, predicted {early.latency_ms * 1e3:,.1f} us "
                  f"against {static.latency_ms * 1e3:,.1f} us",
    }  # fmt: skip
    parts: dict[str, Callable[[], Report]] = {
        "latency": lambda: bench_latency(pair),
        "cortex": lambda: bench_cortex(pair, given.cortex_samples, rates),
        "predicted": lambda: bench_predicted(early, pair.x, rates),
        "staging": lambda: bench_staging(early, pair.x),
        "networks": lambda: bench_networks(early, pair.x, given.networks, given.seed),
    }
    for part, call in parts.items():
        if part not in given.skip.split(","):
            report[part] = call()
            rates = report["latency"]["exit_rates"] if part == "latency" else rates
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--data", default="", help="dataset; default: the one that the bundle names")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--drop", type=float, default=0.003, help="validation accuracy that may be lost, a fraction")
    parser.add_argument("--limit", type=int, help="only the first N test samples")
    parser.add_argument("--cortex-samples", type=int, default=100)
    parser.add_argument("--networks", type=int, default=24, help="of the space, for predicted against measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", default="", help="of latency,cortex,predicted,staging,networks")
    parser.add_argument("--json", type=Path, help="keep every figure here")
    given = parser.parse_args()
    print("`" + " ".join(["bench_deploy.py", *sys.argv[1:]]) + "`")
    reports = []
    for run in given.runs or [search_on_digits(Path("runs/bench-deploy"))]:
        reports.append(bench(run, given))
        print("\n" + show(reports[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(reports, indent=1))


if __name__ == "__main__":
    main()
