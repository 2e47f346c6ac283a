"""Finds, reads and writes zoo entries; reading trusts nothing: strict card, size, checksum, finite numbers.

Weights come as NumPy arrays under the names of the torch network that they belong to; filling that network is the
business of who trains. No torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import yaml
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from offramp.data import Dataset
from offramp.errors import FormatError, UserError
from offramp.formats.strict_yaml import read_yaml
from offramp.zoo.card import CARD, LARGEST, MAX_BYTES, SHARED, STATIC, Card, card_from_data

Tensors = dict[str, NDArray[np.generic]]

ZOO = "zoo"
"""What a user writes for the entry of the package that fits backbone and data."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A folder with a verified card; weights are read when asked for."""

    folder: Path
    card: Card

    @property
    def name(self) -> str:
        """Name of its folder, such as `resnet8-cifar10`."""
        return self.folder.name

    @property
    def shared(self) -> Tensors:
        """Tensors of the supernet with every exit of the card.

        Raises:
            FormatError: the file is missing, damaged, changed or too large.
        """
        return self.read(SHARED)

    @property
    def static(self) -> Tensors:
        """Tensors of the backbone without exits.

        Raises:
            FormatError: as `shared`.
        """
        return self.read(STATIC)

    @property
    def bytes(self) -> int:
        """Size of the files of weights."""
        return sum((self.folder / name).stat().st_size for name in self.card.needed)

    def read(self, name: str) -> Tensors:
        """Tensors of one of its files, which are named as in a run folder.

        Raises:
            FormatError: the file is missing, damaged, changed or too large.
        """
        path, where = self.folder / name, str(self.folder / name)
        if name not in self.card.needed or not path.is_file():
            raise FormatError(f"{name} is missing", wanted="every file of the card", where=str(self.folder))
        if path.stat().st_size > MAX_BYTES:
            raise FormatError(f"{path.stat().st_size} bytes", wanted=f"at most {MAX_BYTES}", where=where)
        content, digest = path.read_bytes(), self.card.files[name]
        if sha256(content).hexdigest() != digest:
            raise FormatError("it does not have its checksum (damaged or changed)", wanted=digest, where=where)
        try:
            return {key: _whole(value, key, where) for key, value in load_tensors(content).items()}
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise FormatError(f"not safetensors: {error}", wanted="an intact file", where=where) from error


def _whole(values: NDArray[np.generic], name: str, where: str) -> NDArray[np.generic]:
    """Floating numbers as float32, counters as they are.

    Raises:
        FormatError: a number that is not finite.
    """
    if values.dtype.kind != "f":
        return values
    if not np.isfinite(values).all():
        raise FormatError(f"{name} holds numbers that are not finite", wanted="weights", where=where)
    return values.astype(np.float32)


def read_entry(folder: str | Path) -> Entry:
    """The entry in a folder.

    Raises:
        FormatError: no card there, or one with faults.
    """
    path = Path(folder)
    if not (path / CARD).is_file():
        raise FormatError(f"no {CARD}", wanted="the folder of a zoo entry", where=str(path))
    return Entry(path, card_from_data(read_yaml(path / CARD), where=str(path / CARD)))


def entries() -> list[Entry]:
    """Those of the package, by name."""
    room = Path(str(resources.files("offramp.zoo")))
    return [read_entry(card.parent) for card in sorted(room.glob(f"*/{CARD}"))]


def find_entry(given: str | Path, backbone: str, data: str) -> Entry:
    """What `--from` names: `zoo` for the package's entry of a backbone and a dataset, else the folder of an entry.

    Raises:
        UserError: the package has none, or the folder's is for another backbone or other data.
        FormatError: the folder holds no entry.
    """
    known = entries() if str(given) == ZOO else [read_entry(given)]
    for entry in known:
        if (entry.card.network, entry.card.data.name) == (backbone, data):
            return entry
    listed = ", ".join(f"{e.card.network} on {e.card.data.name}" for e in known) or "no entry"
    raise UserError(f"no trained weights of {backbone} on {data}", wanted=listed, where="--from")


def check_data(entry: Entry, dataset: Dataset) -> None:
    """Refuse data whose validation samples the weights may have seen, or that are other data of the same name.

    Raises:
        UserError: another split seed, a subset, or other normalisation constants than the card's.
    """
    card, where = entry.card.data, f"--from {entry.name}"
    if dataset.seed != card.seed:
        given = f"a split by seed {dataset.seed}"
        wanted = f"seed {card.seed}: on another split the weights have seen validation samples"
        raise UserError(given, wanted=wanted, where=where, write=f"--seed {card.seed}")
    sizes = (dataset.input_shape, dataset.classes, len(dataset.train))
    if sizes != (card.input_shape, card.classes, card.train_samples):
        given = f"{len(dataset.train)} training samples {dataset.input_shape} of {dataset.classes} classes"
        wanted = f"{card.train_samples} samples {card.input_shape} of {card.classes} classes, no subset"
        raise UserError(given, wanted=wanted, where=where)
    theirs, ours = card.normalization, dataset.normalization.to_json()
    if theirs.keys() != ours.keys() or not all(np.allclose(theirs[k], ours[k], rtol=1e-3, atol=1e-5) for k in ours):
        raise UserError(f"{dataset.name} with other means and deviations", wanted="the card's data", where=where)


def halved(tensors: Mapping[str, NDArray[np.generic]]) -> Tensors:
    """Floating numbers in half precision, as an entry keeps them.

    Raises:
        FormatError: a number that half precision cannot hold.
    """
    return {name: _half(value, name) for name, value in tensors.items()}


def _half(value: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    if value.dtype.kind != "f":
        return value
    if value.size and not float(np.abs(value).max()) <= float(np.finfo(np.float16).max):
        raise FormatError(f"{name} reaches {np.abs(value).max():.3g}", wanted="numbers that float16 holds")
    return value.astype(np.float16)


def write_entry(
    folder: Path,
    card: Mapping[str, Any],
    shared: Mapping[str, NDArray[Any]],
    static: Mapping[str, NDArray[Any]],
    largest: Mapping[str, NDArray[Any]] | None = None,
) -> Entry:
    """Write an entry, the weights first; checksums are added to the card.

    Args:
        card: everything of `Card` but `files`.
        shared, static, largest: tensors by the names of the torch networks; the last of a widened backbone.

    Raises:
        FormatError: the card has faults, a file would be too large, or a number does not fit half precision.
    """
    given = {SHARED: shared, STATIC: static} | ({} if largest is None else {LARGEST: largest})
    contents = {name: save_tensors(halved(tensors)) for name, tensors in given.items()}
    for name, content in contents.items():
        if len(content) > MAX_BYTES:
            raise FormatError(f"{len(content)} bytes", wanted=f"at most {MAX_BYTES}", where=str(folder / name))
    whole = {**card, "files": {name: sha256(content).hexdigest() for name, content in contents.items()}}
    checked = card_from_data(whole, where=str(folder / CARD)).model_dump(mode="json")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / CARD).write_text(yaml.safe_dump(checked, sort_keys=False, width=120), encoding="utf-8")
    return read_entry(folder)
