"""Two more networks that nobody here trained, read from their `.tflite` files (MLPerf Tiny).

    python benchmarks/ref_brought.py image --models DIR --data-dir DIR [--subset 9000]    (half an hour, one core)
    python benchmarks/ref_brought.py wakewords --models DIR                                 (under a minute)

image: ResNet-8 for CIFAR-10, frozen; exits are fitted on 45,000 training images, test is read once per network that is
finished. Its makers trained it on all training images, those that validate here too, so validation flatters the final
exit. The point is the fastest that loses at most half a point to the static network on validation.
wakewords: MobileNetV1-0.25, priced on the chip with an exit branch after every block, and deployed with untrained
exits. There are no images, so activations are calibrated on noise in the file's own input range, times are measured
with exits that nobody leaves at, and no accuracy is claimed.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import offramp
from offramp.config import Budget
from offramp.cost.engine import FastCostModel
from offramp.cost.mapper import map_network
from offramp.deploy.bundle import NEVER_LEAVE, open_bundle, write_bundle
from offramp.deploy.c.generate import write_c
from offramp.deploy.measure import measure
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.architecture import ExitChoice
from offramp.nn.convert import convert
from offramp.nn.importer import TfliteNetwork, from_tflite, import_module
from offramp.nn.lower import lower
from offramp.nn.network import EarlyExitNetwork
from offramp.nn.quantize import calibrate, prepare
from offramp.nn.shared import supernet
from offramp.report.study import POINTS_LOST
from ref_tasks import compared, fastest, lines, summary

IMAGE, WAKEWORDS = "pretrainedResnet_quant.tflite", "vww_96_int8.tflite"
BRANCH = "dsconv_gap_fc"
SPACE = "exits: {1: [avgpool_fc], 2: [conv_gap_fc, avgpool_fc]}\n"
BUDGET = Budget(
    shared_epochs=20, static_epochs=1, tune_epochs=1, finish_epochs=1, finish_points=2, tune_samples=4096
)  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("image", "wakewords"))
    parser.add_argument("--models", type=Path, required=True, help="folder of the .tflite files")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--accelerator", default="diana")
    parser.add_argument("--subset", type=int, default=None)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    return parser.parse_args()


def image_lines(given: argparse.Namespace) -> Iterator[str]:
    """Exits around the frozen ResNet-8: one study per seed."""
    rows = []
    for seed in given.seeds:
        run, start = given.runs / f"ref-image-{seed}", time.perf_counter()
        run.mkdir(parents=True, exist_ok=True)
        space = run / "space.yaml"
        space.write_text(SPACE, encoding="utf-8")
        result = offramp.design(
            "cifar10", given.models / IMAGE, given.accelerator, run=run, data_dir=given.data_dir, space=space,
            objectives=("accuracy", "latency_ms"), trials=given.trials, seed=seed, budget=BUDGET, subset=given.subset,
            freeze=True, accuracy_drop=POINTS_LOST,
        )  # fmt: skip
        rows.append(compared(result, fastest(result), time.perf_counter() - start))
    yield from lines(rows)
    yield summary(rows)


def wakeword_lines(given: argparse.Namespace) -> Iterator[str]:
    """Prices of leaving after each block, then what the deployed network takes on this machine."""
    source = from_tflite(given.models / WAKEWORDS)
    full = import_module(source, source.input_shape, name=Path(WAKEWORDS).stem)
    points = range(len(full.blocks) - 1)
    chip, model = load_accelerator(given.accelerator), FastCostModel()
    static = map_network(lower(supernet(full, (), seed=0)), chip, cost_model=model)
    yield "| leaving after block | MMACs | latency ms | of static | energy uJ | of static |"
    yield "|---" * 6 + "|"
    for point in points:
        cost = map_network(lower(supernet(full, [ExitChoice(point, BRANCH)], seed=0)), chip, cost_model=model)
        first = cost.stages[0]
        macs = sum(layer.macs for layer in cost.layers if layer.stage == 0) / 1e6
        ms, uj = cost.milliseconds(first.cumulative_cycles), first.cumulative_pj / 1e6
        yield (
            f"| {point} | {macs:.3f} | {ms:.4f} | {ms / static.latency_ms:.2f} | {uj:.3f} | "
            f"{uj * 1e6 / static.energy_pj:.2f} |"
        )
    yield f"| static | {static.macs / 1e6:.3f} | {static.latency_ms:.4f} | 1 | {static.energy_pj / 1e6:.3f} | 1 |"
    yield from deployed_lines(supernet(full, [ExitChoice(p, BRANCH) for p in (5, 9)], seed=0).eval(), source)


def deployed_lines(network: EarlyExitNetwork, source: TfliteNetwork) -> Iterator[str]:
    """Bundle and C of the network with two untrained exits that nobody leaves at."""
    integers = np.random.default_rng(0).integers(-128, 128, (32, *network.input_shape))
    x = ((integers - source.input_zero_point) * source.input_scale).astype(np.float32)
    prepared = prepare(network)
    calibrate(prepared, [torch.as_tensor(x)])
    converted = convert(prepared.eval(), name="wakewords")
    with tempfile.TemporaryDirectory() as folder:
        never = (NEVER_LEAVE,) * (len(converted.stages) - 1)
        bundle = open_bundle(write_bundle(Path(folder) / "bundle", converted, thresholds=never))
        sizes = write_c(Path(folder) / "c", bundle.plan, bundle.manifest.policy, bundle.thresholds)
        for device in ("host", "c"):
            seen = measure(bundle, device, x[:20], rounds=50)
            yield f"{device} ({seen.machine}): p50 {seen.whole['p50']:.0f} us a sample, every sample to the end"
    yield f"C: activations {sizes.arena_bytes} bytes, weights and tables {sizes.weight_bytes} bytes"


def main() -> None:
    given = arguments()
    print("\n".join(image_lines(given) if given.task == "image" else wakeword_lines(given)))


if __name__ == "__main__":
    main()
