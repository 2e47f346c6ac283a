"""Hybrid digital-analog on DIANA: a ResNet-8 shaped for the array against the static 8-bit one (CIFAR-10).

    python benchmarks/ref_hybrid.py --data-dir DIR --run RUN

Loading a layer's weights takes the array 8 cycles per input and tap, however many outputs there are. So the network has
no block at full resolution, few inputs and many outputs, and a single tap in its widest layer; first layer, the narrow
shortcut and the classifiers stay digital. Its sizes were chosen by hand from prices alone; nothing is searched here but
its exit's threshold, on validation data. It begins with what a trained network of twice ResNet-8's width has of it,
follows that network in float, then with its bits. Every epoch is kept in the run folder, so that parts may be trained
elsewhere. Test is read once for each of the two networks. Two hours on one core beside 15 minutes of a GPU for static
network and teacher; days without.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bench_cifar import table
from offramp.api import open_space
from offramp.cli.search import Meter
from offramp.config import Budget, StudyConfig
from offramp.data import Dataset, load_dataset
from offramp.designer import Designer
from offramp.evaluate import Evaluated, evidence, judge, prepare_candidate, prepare_layers, price, tune, with_test
from offramp.exits.solve import apply
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.architecture import Architecture
from offramp.learn.predict import predict
from offramp.learn.train import fit, float_recipe
from offramp.learn.weights import load_weights, save_weights
from offramp.nn.backbones import backbone
from offramp.nn.network import EarlyExitNetwork
from offramp.nn.shared import cut_out, prefix, supernet, take_over
from offramp.nn.widen import widen
from offramp.nn.widths import sort_channels

SPACE = """backbone: resnet8-x4
max_exits: 1
depths: {depth1: [0]}
widths: {block0.conv: [16], block2.conv1: [64], block2.conv2: [64], block3.conv1: [256], block3.conv2: [128]}
kernels: {block3.conv2: [1]}
exits: {2: [maxpool_fc]}
cores: {block2.conv1: [analog], block2.conv2: [analog], block3.conv1: [analog], block3.conv2: [analog],
        block3.shortcut: [analog]}
"""
NOISE = (0.25, 0.5, 1.0)
"""Standard deviations of read noise, in steps of the converter."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--run", type=Path, default=Path("runs/ref-hybrid"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--static-epochs", type=int, default=80, help="float, of static network and teacher")
    parser.add_argument("--static-finish-epochs", type=int, default=24, help="8 bit, of the static network")
    parser.add_argument("--static-batch", type=int, default=256)
    parser.add_argument("--float-epochs", type=int, default=45)
    parser.add_argument("--finish-epochs", type=int, default=36)
    parser.add_argument("--batch", type=int, default=128)
    return parser.parse_args()


def study(given: argparse.Namespace, data: Dataset, times: int, space: Path | None, meter: Meter) -> Designer:
    """ResNet-8 with so many times its channels."""
    budget = Budget(
        shared_epochs=1, static_epochs=given.static_epochs, tune_epochs=0, finish_epochs=given.static_finish_epochs,
        batch=given.static_batch,
    )  # fmt: skip
    config = StudyConfig(
        data="cifar10", backbone="resnet8", accelerator="diana", run=given.run, budget=budget, seed=given.seed
    )
    full, chip = widen(backbone("resnet8", data.input_shape, data.classes), times), load_accelerator("diana")
    return Designer(config, data, full, chip, space=open_space(space, [], full, chip), progress=meter.tell)


def begin_with(wide: EarlyExitNetwork, network: EarlyExitNetwork) -> None:
    """Give the network what a wide one has of each tensor, in place; the rest stays as it was drawn."""
    theirs = wide.state_dict()
    for name, mine in network.state_dict().items():
        shape = [*map(min, mine.shape[:2], theirs[name].shape[:2]), *mine.shape[2:]]
        mine[tuple(slice(n) for n in shape)] = prefix(theirs[name], torch.Size(shape))


def in_float(
    given: argparse.Namespace, shaped: Designer, architecture: Architecture, half: Designer
) -> EarlyExitNetwork:
    """The shaped network in float, begun with what the teacher of `half` has of it and trained after that."""
    network = cut_out(supernet(shaped.bed.full, architecture.exits, seed=given.seed), architecture)
    path, data = given.run / "weights" / "hybrid-float.safetensors", shaped.dataset
    if path.is_file():
        load_weights(path, network)
        return network.eval()
    wide = supernet(half.bed.full, architecture.exits, seed=given.seed)
    take_over(wide, half.teacher)
    sort_channels(wide)
    begin_with(wide, network)
    recipe, checkpoint = float_recipe(len(data.train)), path.with_suffix(".checkpoint")
    fit(
        network, data.train, epochs=given.float_epochs, seed=given.seed, config=replace(recipe, batch=given.batch),
        augmentation=data.augmentation, teacher=half.teacher, device=shaped.bed.device, checkpoint=checkpoint,
    )  # fmt: skip
    save_weights(path, network)
    return network


def with_noise(shaped: Designer, done: Evaluated) -> Iterator[tuple[float, float]]:
    """(read noise, validation accuracy with it, mean of three draws), thresholds as they are."""
    assert done.network is not None
    val, trial = shaped.dataset.val, done.trial
    plain = cut_out(supernet(shaped.bed.full, trial.architecture.exits, seed=0), trial.architecture)
    for level in NOISE:
        cores = [
            replace(c, analog=c.analog and replace(c.analog, read_noise=level)) for c in shaped.bed.accelerator.cores
        ]
        noisy = replace(shaped.bed, accelerator=replace(shaped.bed.accelerator, cores=tuple(cores)))
        network = prepare_layers(noisy, trial.architecture, plain, seed=0)
        network.load_state_dict(done.network.state_dict())
        right = []
        for seed in range(3):
            sure, correct = evidence(
                noisy.policy, predict(network.eval(), val.x, noise_seed=seed), val.y, done.temperatures
            )
            exits = range(len(sure))
            right.append(apply(sure, correct, exits, trial.thresholds, [0.0] * len(sure)).accuracy)
        yield level, float(np.mean(right))


def main() -> None:
    given, meter = arguments(), Meter()
    start, data = time.perf_counter(), load_dataset("cifar10", data_dir=given.data_dir, seed=given.seed)
    given.run.mkdir(parents=True, exist_ok=True)
    (given.run / "space.yaml").write_text(SPACE, encoding="utf-8")
    with meter:
        half, shaped = study(given, data, 2, None, meter), study(given, data, 4, given.run / "space.yaml", meter)
        with half.journal() as journal:
            static = half.static(journal).trial
        space, bed = shaped.space, shaped.bed
        architecture = space.decode(space.upper)
        plain = in_float(given, shaped, architecture, half)
        network = prepare_candidate(bed, plain, architecture, seed=given.seed + 1)
        checkpoint = given.run / "weights" / "hybrid.checkpoint"
        tune(
            bed, network, epochs=given.finish_epochs, seed=given.seed + 7, teacher=half.teacher, batch=given.batch,
            checkpoint=checkpoint,
        )  # fmt: skip
        first = price(bed, architecture)
        done = with_test(bed, judge(bed, architecture, network, first, number=0, seed=given.seed))
    print("\n".join(table([("static 8 bit", static), ("shaped for the array", done.trial)])))
    print("exits on validation:", *(f"{a:.4f}" for a in done.trial.details["exit_accuracies"]))
    print("test exit rates:", *(f"{r:.3f}" for r in done.trial.details["test_exit_rates"]))
    for level, accuracy in with_noise(shaped, done):
        print(f"read noise of {level} steps: val {accuracy:.4f}")
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes, {torch.get_num_threads()} threads, seed {given.seed}")


if __name__ == "__main__":
    main()
