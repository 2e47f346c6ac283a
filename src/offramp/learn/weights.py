"""Weights in files: safetensors with a table of strings beside them; nothing that could run code on loading.

A file is written beside its place and moved there, so a reader never sees half of one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from offramp.errors import FormatError, InternalError


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors and strings; an older file is replaced in one step.

    Raises:
        InternalError: the disk is full or broken; an older file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    try:
        save_file(plain, part, metadata={"format": "pt", **metadata})
        part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise InternalError(
            f"{path}: weights could not be written ({error}); what is journalled is kept. "
            "Free some disk space and run the same command again"
        ) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `save_tensors` wrote.

    Raises:
        FormatError: the file is missing, damaged or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise FormatError(f"cannot read weights: {error}", wanted="a safetensors file", where=str(path)) from error


def save_weights(path: Path, network: nn.Module, **metadata: str) -> None:
    """Write the network's parameters and statistics with metadata."""
    save_tensors(path, network.state_dict(), metadata)


def load_weights(path: Path, network: nn.Module) -> dict[str, str]:
    """Fill the network from a file; returns the file's metadata.

    Raises:
        FormatError: the file is damaged, or its names or shapes are not those of the network; nothing is loaded then.
    """
    tensors, metadata = load_tensors(path)
    check_fit(tensors, network, where=str(path))
    network.load_state_dict(tensors)
    return metadata


def fill(network: nn.Module, arrays: Mapping[str, NDArray[Any]], *, where: str) -> None:
    """Fill the network from NumPy arrays by name.

    Raises:
        FormatError: names or shapes are not those of the network; nothing is loaded then.
    """
    tensors = {name: torch.as_tensor(np.array(array)) for name, array in arrays.items()}
    check_fit(tensors, network, where=where)
    network.load_state_dict(tensors)


def check_fit(tensors: Mapping[str, Tensor], network: nn.Module, *, where: str) -> None:
    """Refuse tensors whose names or shapes are not those of the network.

    Raises:
        FormatError: names the first few that differ.
    """
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    given = {k: tuple(v.shape) for k, v in tensors.items()}
    faults = [f"{k} is missing" for k in shapes if k not in given]
    faults += [f"{k} is not part of the network" for k in given if k not in shapes]
    faults += [f"{k} is {given[k]}, not {shapes[k]}" for k in shapes if k in given and given[k] != shapes[k]]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        given_text = "; ".join(faults[:3]) + more
        raise FormatError(given_text, wanted="weights of the same architecture", where=where)


def read_metadata(text: str, *, where: str) -> dict[str, object]:
    """A JSON object out of a metadata string.

    Raises:
        FormatError: it is none.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise FormatError(f"metadata is not JSON: {error}", wanted="a JSON object", where=where) from error
    if not isinstance(value, dict):
        raise FormatError("metadata is not a JSON object", wanted="a JSON object", where=where)
    return value
