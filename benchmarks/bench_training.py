"""Training throughput of ResNet-8 on CIFAR-10 images: float against quantized and analog, in one run.

    python benchmarks/bench_training.py --data-dir ../shared/data/cifar10 --threads 2

The variants take turns, so that other load on the machine meets all of them; the best turn of each counts. Prints one
JSON object: images per second and what each variant costs against float (the budget for quantized training is 1.5).
"""

import argparse
import json
from pathlib import Path

import torch

from offramp.data import Split, load_dataset
from offramp.ir.architecture import Architecture, ExitChoice
from offramp.learn.train import TrainConfig, fit
from offramp.nn.analog import AnalogSettings
from offramp.nn.fold import fold_batchnorm
from offramp.nn.network import EarlyExitNetwork, build
from offramp.nn.quantize import calibrate, prepare

VARIANTS = ("float", "float_bfloat16", "quantized", "quantized_folded", "analog")


def make(variant: str, network: EarlyExitNetwork, samples: torch.Tensor) -> torch.nn.Module:
    if variant.startswith("float"):
        return network
    inner = [n.name for n in network.nodes if n.op == "conv" and n.name.startswith("block")][1:]
    analog = dict.fromkeys(inner, AnalogSettings(read_noise=0.5)) if variant == "analog" else {}
    plain = fold_batchnorm(network.eval()) if variant == "quantized_folded" else network
    prepared = prepare(plain, analog=analog)
    calibrate(prepared, [samples])
    return prepared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=3200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--exits", type=int, nargs="*", default=[], help="mounting points of early exits")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = load_dataset("cifar10", data_dir=given.data_dir, subset=2 * given.images)
    part = Split(data.train.x[: given.images], data.train.y[: given.images])
    architecture = Architecture(backbone="resnet8", exits=tuple(ExitChoice(e) for e in given.exits))
    samples = torch.as_tensor(part.x[:256])
    networks = {v: make(v, build(architecture, data.input_shape, data.classes, seed=0), samples) for v in VARIANTS}
    best = dict.fromkeys(VARIANTS, 0.0)
    for turn in range(given.rounds):
        for variant, network in networks.items():
            config = TrainConfig(learning_rate=1e-3, bfloat16=variant == "float_bfloat16")
            history = fit(network, part, epochs=1, seed=turn, config=config, augmentation=data.augmentation)
            record = history.epochs[0]
            best[variant] = max(best[variant], record.images / record.seconds)
    print(
        json.dumps(
            {
                "threads": given.threads,
                "images_per_s": {v: round(s) for v, s in best.items()},
                "cost_against_float": {v: round(best["float"] / s, 2) for v, s in best.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
