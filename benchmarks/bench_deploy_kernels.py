"""Generated C against ONNX Runtime, LiteRT and TensorFlow Lite Micro on one network, in one run.

    python benchmarks/bench_deploy_kernels.py MODEL.tflite --data cifar10 [--data-dir DIR] [--python OTHER]

The network of an int8 `.tflite` file is read as real numbers, calibrated on validation samples (8 bits, no training)
and written as a bundle; the same file runs in LiteRT (its XNNPACK kernels, its reference kernels) and in TensorFlow
Lite Micro (reference kernels). OTHER is an interpreter that has the packages ai-edge-litert and tflite-micro, which are
not among ours. All take turns on one core, in processor time, so that other work on the machine does not count. Prints
a Markdown table of medians, their ratio to our C at -O3, and accuracies.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {
    "litert": "LiteRT, XNNPACK",
    "litert-ref": "LiteRT, reference kernels",
    "tflm": "TensorFlow Lite Micro, reference kernels",
}
"""Runtimes of a worker by name."""


def interpreter(kind: str, model: bytes) -> tuple[Callable[[np.ndarray], None], Callable[[], np.ndarray]]:
    """A call that runs one sample (1, H, W, C) and one that gives the output; imports what OTHER has."""
    if kind == "tflm":
        from tflite_micro.python.tflite_micro import runtime

        micro = runtime.Interpreter.from_bytes(model)

        def run_micro(sample: np.ndarray) -> None:
            micro.set_input(sample, 0)
            micro.invoke()

        return run_micro, lambda: micro.get_output(0)
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_REF if kind == "litert-ref" else OpResolverType.AUTO
    lite = Interpreter(model_content=model, num_threads=1, experimental_op_resolver_type=resolver)
    lite.allocate_tensors()
    entry, end = lite.get_input_details()[0]["index"], lite.get_output_details()[0]["index"]

    def run(sample: np.ndarray) -> None:
        lite.set_tensor(entry, sample)
        lite.invoke()

    return run, lambda: lite.get_tensor(end)


def serve(kind: str, model: Path, samples: Path) -> None:
    """The worker: labels of all samples, then for each line N microseconds of N runs."""
    run, result = interpreter(kind, model.read_bytes())
    x, labels = np.load(samples), []
    for at in range(len(x)):
        run(x[at : at + 1])
        labels.append(int(result().argmax()))
    print(json.dumps(labels), flush=True)
    for line in sys.stdin:
        times = []
        for at in range(int(line)):
            start = time.process_time()
            run(x[at % len(x)][None])
            times.append((time.process_time() - start) * 1e6)
        print(json.dumps(times), flush=True)


class Worker:
    """Another interpreter that runs the `.tflite` file."""

    def __init__(self, python: str, kind: str, model: Path, samples: Path) -> None:
        command = [python, __file__, str(model), "--worker", kind, "--samples", str(samples)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.labels = self._answer()

    def _answer(self) -> list[Any]:
        assert self._process.stdout is not None and self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self._process.stderr.read().strip().splitlines()[-1])
        return list(json.loads(line))

    def time(self, runs: int) -> list[float]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{runs}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.communicate()


def quantized(model: Path, x: np.ndarray) -> Any:
    """The network of a `.tflite` file at 8 bits, scales from samples."""
    import torch

    from offramp.ir.architecture import Architecture
    from offramp.nn.convert import convert
    from offramp.nn.importer import from_tflite, import_module
    from offramp.nn.quantize import calibrate, prepare
    from offramp.nn.shared import cut_out, supernet

    torch.set_num_threads(1)
    network = from_tflite(model)
    full = import_module(network, network.input_shape, name=model.stem)
    plain = cut_out(supernet(full, (), seed=0), Architecture(backbone=full.name))
    ready = prepare(plain, {})
    calibrate(ready, [torch.as_tensor(x)])
    return convert(ready.eval(), name=model.stem)


def host_calls(network: Any, x: np.ndarray, folder: Path) -> Iterator[tuple[str, Callable[[int], list[float]], Any]]:
    """Our own runtimes: name, microseconds of N runs, labels."""
    from offramp.deploy.bundle import write_bundle
    from offramp.deploy.c.build import FAST, build_host, run_host, time_host
    from offramp.deploy.c.generate import write_c
    from offramp.deploy.plan import make_plan
    from offramp.deploy.reference import quantize
    from offramp.deploy.runtime import Runner

    plan, runner = make_plan(network), Runner(write_bundle(folder / "bundle", network, thresholds=()))
    integers = quantize(x, network.input)
    for name, flags in (("our C, -O3", FAST), ("our C, -O2", ("-O2",))):
        where = folder / name[-2:]
        write_c(where, plan, "max_softmax", ())
        program = build_host(where, 1, flags)

        def time_c(runs: int, program: Path = program) -> list[float]:
            return list(time_host(program, plan, integers[:1], runs)[0, :, -1] / 1e3)

        yield name, time_c, run_host(program, plan, integers).labels

    def time_stream(runs: int) -> list[float]:
        times = []
        for at in range(runs):
            start = time.process_time()
            runner.stream(x[at % len(x)])
            times.append((time.process_time() - start) * 1e6)
        return times

    yield "ONNX Runtime", time_stream, runner.predict(x).labels


def compare(given: argparse.Namespace, folder: Path) -> list[str]:
    """All runtimes in turn: rows of the table."""
    from offramp.data import load_dataset
    from offramp.deploy.measure import pinned_core
    from offramp.formats.tflite import read_tflite

    data, form = load_dataset(given.data, data_dir=given.data_dir, seed=0), read_tflite(given.model)
    real = data.normalization.std, data.normalization.mean
    calibration, x = (np.float32(s.x * real[0] + real[1]) for s in (data.val, data.read_test(given.model.stem)))
    x, y = x[: given.limit], data.read_test(given.model.stem).y[: given.limit]
    codes = np.clip(np.rint(x / form.input_scale) + form.input_zero_point, -128, 127).astype(np.int8)
    np.save(folder / "samples.npy", codes.transpose(0, 2, 3, 1))
    with pinned_core():
        calls = list(host_calls(quantized(given.model, calibration[:512]), x, folder))
        workers = []
        for kind, name in KINDS.items() if given.python else ():
            try:
                workers.append(Worker(given.python, kind, given.model, folder / "samples.npy"))
                calls.append((name, workers[-1].time, np.array(workers[-1].labels)))
            except RuntimeError as error:
                print(f"{name} does not run: {error}")
        times: dict[str, list[float]] = {name: [] for name, _, _ in calls}
        for _ in range(given.rounds):
            for name, call, _ in calls:
                times[name] += call(given.runs)[2:]
        for worker in workers:
            worker.close()
    quarter = {name: np.percentile(found, [25, 50]) for name, found in times.items()}
    first = quarter["our C, -O3"]
    return [
        f"| {name} | {quarter[name][1]:,.0f} | {quarter[name][1] / first[1]:.2f} | {quarter[name][0] / first[0]:.2f} "
        f"| {(labels == y).mean():.4f} |"
        for name, _, labels in calls
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="cifar10", help="dataset whose real inputs the network takes")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--python", help="an interpreter with ai-edge-litert and tflite-micro")
    parser.add_argument("--limit", type=int, default=100, help="test samples for the accuracies")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=12, help="of each runtime in a round; two warm up")
    parser.add_argument("--worker", choices=tuple(KINDS), help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        serve(given.worker, given.model, given.samples)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(given, Path(folder))
    print(f"{given.model.stem}, {given.limit} test samples of {given.data}, {given.rounds} rounds\n")
    print("| runtime | median us | of our C | lower quartiles | accuracy |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
