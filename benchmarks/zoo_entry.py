"""Make a zoo entry out of trained weights: half precision, and a card with their accuracy on validation data.

    python benchmarks/zoo_entry.py RUN NAME --data cifar10 --data-dir DIR --backbone resnet8 --shared-epochs 30
        --static-epochs 30 --commit HASH --command "..." --source "..." --licence "..."

RUN is a run folder with `shared.safetensors` and `weights/static-float.safetensors`, trained on the whole data and on
the space of `--space` or all that backbone and chip offer; of a widened backbone (`--widen`) the entry holds
`weights/largest-float.safetensors` too. It is written to src/offramp/zoo/NAME; accuracies are those of the weights as
they will be read, on the first 1,000 validation samples.
"""

import argparse
import platform
from pathlib import Path
from typing import Any

import torch

from offramp.api import open_backbone, open_space
from offramp.data import Dataset, Split, load_dataset
from offramp.designer import versions
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.architecture import Architecture, ExitChoice
from offramp.learn.predict import accuracies, predict
from offramp.learn.weights import load_weights
from offramp.nn.network import EarlyExitNetwork
from offramp.nn.shared import cut_out, supernet
from offramp.nn.widen import widen
from offramp.zoo.card import LARGEST, SHARED, STATIC
from offramp.zoo.entry import halved, write_entry

SAMPLES = 1000
ZOO = Path(__file__).parents[1] / "src" / "offramp" / "zoo"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--widen", type=float, default=1.0)
    parser.add_argument("--space", type=Path, default=None)
    parser.add_argument("--accelerator", default="diana", help="whose space was trained")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shared-epochs", type=int, required=True)
    parser.add_argument("--static-epochs", type=int, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--command", required=True, help="the line that trained it")
    parser.add_argument("--source", required=True, help="where the data come from")
    parser.add_argument("--licence", required=True, help="of the data")
    parser.add_argument("--machine", default=f"{platform.machine()}, {torch.get_num_threads()} thread(s)")
    parser.add_argument("--out", type=Path, default=ZOO)
    return parser.parse_args()


def tensors_of(network: EarlyExitNetwork) -> dict[str, Any]:
    """Tensors in half precision; the network is given what they are read back as."""
    half = halved({name: value.numpy() for name, value in network.state_dict().items()})
    network.load_state_dict({name: torch.as_tensor(value).float() for name, value in half.items()}, strict=True)
    return half


def measured(network: EarlyExitNetwork, part: Split) -> list[float]:
    return [round(float(a), 6) for a in accuracies(predict(network, part.x), part.y)]


def card_of(
    given: argparse.Namespace, dataset: Dataset, exits: tuple[ExitChoice, ...], seen: list[float]
) -> dict[str, Any]:
    """Everything but the checksums."""
    static, *early, final = seen
    listed = [
        {"mounting_point": e.mounting_point, "branch": e.branch, "accuracy": a}
        for e, a in zip(exits, early, strict=True)
    ]
    return {
        "format": "offramp-zoo",
        "version": 1,
        "backbone": given.backbone,
        "widen": given.widen,
        "data": {
            "name": dataset.name,
            "seed": dataset.seed,
            "input_shape": list(dataset.input_shape),
            "classes": dataset.classes,
            "train_samples": len(dataset.train),
            "normalization": dataset.normalization.to_json(),
            "source": given.source,
            "licence": given.licence,
        },
        "recipe": {
            "command": given.command,
            "commit": given.commit,
            "seed": given.seed,
            "shared_epochs": given.shared_epochs,
            "static_epochs": given.static_epochs,
            "accelerator": given.accelerator,
            "machine": given.machine,
            "versions": versions(),
        },
        "accuracy": {
            "samples": min(SAMPLES, len(dataset.val)),
            "static": static,
            "final": final,
            "exits": listed,
        },
    }


def main() -> None:
    given = arguments()
    dataset = load_dataset(given.data, data_dir=given.data_dir, seed=given.seed)
    full = widen(open_backbone(given.backbone, dataset), given.widen)
    space = open_space(given.space, [], full, load_accelerator(given.accelerator))
    shared = supernet(full, [ExitChoice(p, kind) for p, kinds in space.exits for kind in kinds], seed=0)
    largest = supernet(full, (), seed=0)
    static = cut_out(largest, Architecture(backbone=full.name, widths=full.reference))
    networks = {SHARED: shared, f"weights/{STATIC}": static} | (
        {f"weights/{LARGEST}": largest} if full.reference else {}
    )
    for path, network in networks.items():
        load_weights(given.run / path, network)
    halves = [tensors_of(network) for network in networks.values()]
    part = Split(dataset.val.x[:SAMPLES], dataset.val.y[:SAMPLES])
    seen = [*measured(static, part), *measured(shared, part)]
    entry = write_entry(given.out / given.name, card_of(given, dataset, shared.exits, seen), *halves)
    print(f"{entry.folder}: {entry.bytes / 1e6:.2f} MB, static {seen[0]:.4f}, supernet {seen[-1]:.4f}")


if __name__ == "__main__":
    main()
