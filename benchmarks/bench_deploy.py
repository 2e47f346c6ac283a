"""What leaving early gains where it runs: an early-exit bundle against its static one, measured in one run.

    bench_deploy.py [--early BUNDLE --static BUNDLE] [--data NAME] [--data-dir DIR] [--limit N] [--networks 24]

Without bundles it searches on digits first. Parts (each can be left out with --skip):
  run      mean, p50, p99 and worst latency per test sample, static and early exit in turn, ONNX Runtime and C
  cortex   instructions per sample on Cortex-M4 under QEMU; flash and RAM that the exits add
  table    predicted (a profile of this machine) against measured: Kendall's tau over networks of the space
  c        the generated C against ONNX Runtime, per stage
Prints one JSON object; `--markdown` prints tables instead.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from offramp.cli.run import read_samples
from offramp.deploy.bundle import Bundle, open_bundle, write_bundle
from offramp.deploy.c.build import FAST, build_host, run_host, time_host
from offramp.deploy.c.cortex import build_cortex, footprint, missing_tools, run_cortex
from offramp.deploy.c.generate import write_c
from offramp.deploy.measure import machine_name, measure, pinned_core
from offramp.deploy.plan import make_plan
from offramp.deploy.reference import quantize
from offramp.deploy.runtime import Runner
from offramp.ir.quantized import QuantizedNetwork

Report = dict[str, Any]


def figures(times: np.ndarray) -> dict[str, float]:
    p50, p99 = np.percentile(times, [50, 99])
    return {"mean": float(times.mean()), "p50": float(p50), "p99": float(p99), "max": float(times.max())}


def without_exits(network: QuantizedNetwork) -> QuantizedNetwork:
    """The same weights with the final exit alone."""
    last = network.stages[-1]
    backbone = tuple(node for stage in network.stages for node in stage.backbone)
    stage = replace(last, backbone=backbone)
    return replace(network, stages=(stage,), temperatures=network.temperatures[-1:])


def bench_run(early: Bundle, static: Bundle, x: np.ndarray, y: np.ndarray) -> Report:
    """Both networks on every sample in turn, so that a busy moment hits both."""
    report: Report = {"samples": len(y)}
    runners = {"early": Runner(early), "static": Runner(static)}
    times: dict[str, list[float]] = {name: [] for name in runners}
    labels: dict[str, list[int]] = {name: [] for name in runners}
    exits: list[int] = []
    with pinned_core():
        for sample in (*x[:30], *x):
            for name, runner in runners.items():
                start = time.perf_counter()
                answer = runner.stream(sample)
                times[name].append((time.perf_counter() - start) * 1e6)
                labels[name].append(answer.label)
                if name == "early":
                    exits.append(answer.exit)
    report["onnxruntime_us"] = {name: figures(np.array(t[30:])) for name, t in times.items()}
    report["accuracy"] = {name: float((np.array(found[30:]) == y).mean()) for name, found in labels.items()}
    report["exit_rates"] = (np.bincount(exits[30:], minlength=len(early.plan.stages)) / len(y)).tolist()
    report["c_us"], report["c_accuracy"] = bench_c(early, static, x, y)
    for key in ("onnxruntime_us", "c_us"):
        report[f"{key}_speedup"] = report[key]["static"]["mean"] / report[key]["early"]["mean"]
    return report


def bench_c(early: Bundle, static: Bundle, x: np.ndarray, y: np.ndarray) -> tuple[Report, Report]:
    """The same in C: five runs of each sample, their median."""
    times, accuracy = {}, {}
    for name, bundle in (("early", early), ("static", static)):
        with tempfile.TemporaryDirectory() as folder:
            write_c(folder, bundle.plan, bundle.manifest.policy, bundle.thresholds)
            program = build_host(folder, len(bundle.plan.stages), FAST)
            integers = quantize(x, bundle.network.input)
            times[name] = figures(np.median(time_host(program, bundle.plan, integers, 5)[:, :, -1], axis=1) / 1e3)
            accuracy[name] = float((run_host(program, bundle.plan, integers).labels == y).mean())
    return times, accuracy


def bench_cortex(early: Bundle, static: Bundle, x: np.ndarray) -> Report:
    if missing_tools():
        return {"skipped": f"not installed: {', '.join(missing_tools())}"}
    report: Report = {"samples": min(len(x), 100)}
    networks = {"early": early.network, "static": static.network, "early_without_exits": without_exits(early.network)}
    for name, network in networks.items():
        plan = make_plan(network)
        thresholds = early.thresholds if name == "early" else ()
        with tempfile.TemporaryDirectory() as folder:
            write_c(folder, plan, early.manifest.policy, thresholds)
            program = build_cortex(folder, len(plan.stages))
            size, ran = footprint(program), run_cortex(program, plan, quantize(x[:100], network.input))
        by_exit = {int(e): float(ran.instructions[ran.exits == e].mean()) for e in sorted(set(ran.exits.tolist()))}
        report[name] = {
            "instructions": figures(ran.instructions.astype(float)), "by_exit": by_exit,
            "flash_bytes": size.flash_bytes, "ram_bytes": size.ram_bytes,
        }  # fmt: skip
    bare = report["early_without_exits"]
    for kind in ("flash", "ram"):
        report[f"{kind}_overhead_percent"] = 100 * (report["early"][f"{kind}_bytes"] / bare[f"{kind}_bytes"] - 1)
    report["speedup"] = report["static"]["instructions"]["mean"] / report["early"]["instructions"]["mean"]
    return report


def bench_parts(early: Bundle, x: np.ndarray) -> Report:
    """The generated C against ONNX Runtime, stage by stage, in one run."""
    medians = {d: [s.together.median for s in measure(early, d, x[:50]).stages] for d in ("host", "c")}
    total = {d: sum(m) for d, m in medians.items()}
    return {"stages_us": medians, "c_over_onnxruntime": total["c"] / total["host"]}


def bench_table(early: Bundle, x: np.ndarray, backbone_name: str, networks: int, seed: int) -> Report:
    """Profile the space on this machine, then price and measure the same networks."""
    from offramp.cli.measure import space_of, workloads_of
    from offramp.cost.engine import FastCostModel
    from offramp.cost.mapper import map_network
    from offramp.deploy.profile import profile_layers, unique_layers, write_table
    from offramp.formats.accelerator_yaml import load_accelerator
    from offramp.formats.quantized_workload import quantized_workload
    from offramp.nn.backbones import backbone

    full = backbone(backbone_name, early.network.input_shape, early.network.classes)
    space = space_of(full, None, (8,), (8,))
    digital = all(node.analog is None for stage in early.network.stages for node in (*stage.backbone, *stage.branch))
    priced = [early.network] if digital else []  # a digital machine has no price for an analog layer
    priced += space_networks(space, full, networks, seed, x)
    workloads = [quantized_workload(network) for network in priced]
    workloads += workloads_of(space, full, 0, seed)
    layers = unique_layers(layer for workload in workloads for layer in workload.layers)
    ends = [stage.branch[-1] for workload in workloads for stage in workload.stages]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.yaml"
        write_table(table, profile_layers(layers, "host", ends=ends, rounds=300), "host")
        machine, pairs = load_accelerator(f"table:{table}"), []
        for number, network in enumerate(priced):
            path = Path(folder) / f"b{number}"
            own = network is early.network
            thresholds = early.thresholds if own else (1e9,) * (len(network.stages) - 1)
            bundle = open_bundle(write_bundle(path, network, thresholds=thresholds, policy=early.manifest.policy))
            measured = measure(bundle, "host", x[:200] if own else x[:3], rounds=300)
            rates = tuple(n / measured.samples for n in measured.exits)
            cost = map_network(quantized_workload(network), machine, cost_model=FastCostModel(), exit_rates=rates)
            predicted = cost.milliseconds(cost.expected(rates).latency_cycles) * 1e3
            reached = np.cumsum([s.together.q1 for s in measured.stages])  # as the profile takes it
            pairs.append((predicted, float(np.dot(rates, reached)), measured.whole["p50"]))
    predicted, stages, whole = np.array(pairs).T
    errors = np.abs(predicted - stages) / stages
    return {
        "networks": len(pairs), "layers": len(layers), "kendall_tau": float(kendalltau(predicted, stages).statistic),
        "error_percent": {k: 100 * v for k, v in figures(errors).items()},
        "early_bundle_error_percent": 100 * float(errors[0]) if digital else None,
        "streamed_p50_over_stages": float(np.median(whole[1:] / stages[1:])),
    }  # fmt: skip


def space_networks(space: Any, full: Any, count: int, seed: int, x: np.ndarray) -> Any:
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


def search_on_digits(run: Path) -> tuple[Path, Path]:
    """Bundles from the project's main job, when none are given."""
    command = [sys.executable, "-m", "offramp", "search", "--data", "digits", "--backbone", "resnet8"]
    subprocess.run([*command, "--accelerator", "diana", "--run", str(run)], check=True)
    return run / "bundle", run / "bundles" / "static"


def markdown(report: Report) -> str:
    lines = [f"{report['command']}; {report['machine']}; {report['date']}", ""]

    def table(head: str, rows: list[tuple[str, dict[str, float]]]) -> None:
        lines.extend([f"| {head} | mean | p50 | p99 | max |", "|---|---|---|---|---|"])
        for name, f in rows:
            lines.append(f"| {name} | " + " | ".join(f"{f[k]:,.1f}" for k in ("mean", "p50", "p99", "max")) + " |")
        lines.append("")

    if "run" in report:
        run = report["run"]
        for key in ("onnxruntime_us", "c_us"):
            table(f"{key} per sample", [(name, run[key][name]) for name in ("static", "early")])
            lines.append(f"{run[key + '_speedup']:.2f} times faster on average; accuracy {run['accuracy']}\n")
    if "skipped" not in report.get("cortex", {"skipped": 1}):
        cortex = report["cortex"]
        table("Cortex-M4 instructions", [(name, cortex[name]["instructions"]) for name in ("static", "early")])
        lines.append(
            f"{cortex['speedup']:.2f} times fewer; exits add {cortex['flash_overhead_percent']:.1f} % flash "
            f"and {cortex['ram_overhead_percent']:.1f} % RAM\n"
        )
    if "table" in report:
        found = report["table"]
        error = found["error_percent"]
        lines.append(
            f"Predicted against measured, {found['networks']} networks: tau {found['kendall_tau']:.3f}, error "
            f"{error['mean']:.1f} % on average; early-exit bundle: {found['early_bundle_error_percent']}\n"
        )
    if "c" in report:
        lines.append(f"C / ONNX Runtime, all stages: {report['c']['c_over_onnxruntime']:.2f}\n")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--early", type=Path)
    parser.add_argument("--static", type=Path)
    parser.add_argument("--data", default="")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--backbone", default="resnet8", help="of the table part")
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", default="", help="parts to leave out, with commas")
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    if given.early is None or given.static is None:
        given.early, given.static = search_on_digits(Path("runs/bench-deploy"))
    early, static = open_bundle(given.early), open_bundle(given.static)
    name = given.data or str((early.manifest.data or {})["name"])
    x, y = read_samples(early, name, given.data_dir, "test")
    x, y = x[: given.limit], y[: given.limit]
    parts: dict[str, Callable[[], Report]] = {
        "run": lambda: bench_run(early, static, x, y),
        "cortex": lambda: bench_cortex(early, static, x),
        "table": lambda: bench_table(early, x, given.backbone, given.networks, given.seed),
        "c": lambda: bench_parts(early, x),
    }
    report: Report = {
        "command": " ".join(["bench_deploy.py", *sys.argv[1:]]), "machine": machine_name(),
        "date": time.strftime("%Y-%m-%d"), "data": name, "seed": given.seed,
    }  # fmt: skip
    report |= {part: call() for part, call in parts.items() if part not in given.skip.split(",")}
    print(markdown(report) if given.markdown else json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
