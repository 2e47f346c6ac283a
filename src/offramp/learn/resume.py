"""A training run in a file after every epoch, so that it can go on after any interruption.

Parameters, statistics and the optimiser's state are safetensors, the rest is JSON in the same file; no pickle.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from offramp.errors import FormatError
from offramp.learn.weights import check_fit, load_tensors, read_metadata, save_tensors

VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One epoch: mean training loss, training accuracy of the deepest exit, seconds and images trained on."""

    epoch: int
    loss: float
    accuracy: float
    seconds: float
    images: int


def save_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    records: list[EpochRecord],
) -> None:
    """Write everything that the next epoch needs; `identity` says which run this is."""
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{k}": torch.as_tensor(v) for k, v in state.items() if v is not None}
    run = {"version": VERSION, "identity": dict(identity), "records": [asdict(r) for r in records]}
    save_tensors(path, tensors, {"run": json.dumps(run)})


def load_checkpoint(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, Any]
) -> list[EpochRecord]:
    """Put network and optimiser where the file left them; the epochs done. Nothing, when there is no file.

    Raises:
        FormatError: the file is damaged or belongs to another run.
    """
    if not path.exists():
        return []
    tensors, metadata = load_tensors(path)
    run = read_metadata(metadata.get("run", "{}"), where=str(path))
    if run.get("version") != VERSION or run.get("identity") != dict(identity):
        given = f"a checkpoint of version {run.get('version')} and run {run.get('identity')}"
        wanted = f"version {VERSION} and run {dict(identity)}, or another file name"
        raise FormatError(given, wanted=wanted, where=str(path))
    weights = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    check_fit(weights, network, where=str(path))
    network.load_state_dict(weights)
    _load_optimizer(optimizer, {k: v for k, v in tensors.items() if k.startswith("optimizer.")})
    records = run["records"]
    assert isinstance(records, list)
    return [EpochRecord(**r) for r in records]


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Each tensor gets the memory format of its parameter: fused optimisers walk both side by side."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        _, number, name = key.split(".", 2)
        parameter = parameters[int(number)]
        same = value.shape == parameter.shape
        state.setdefault(int(number), {})[name] = torch.empty_like(parameter).copy_(value) if same else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
