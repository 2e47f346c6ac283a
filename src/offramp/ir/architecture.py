"""One point of the search space as a frozen, hashable, JSON-able value.

Everything has a neutral default: an `Architecture` with only a backbone name is the full-width, full-depth,
8-bit network with its final exit alone. Tables are sparse: a layer that is not named has the default.
It knows neither how a network is built nor what a chip is.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from offramp.errors import FormatError


@dataclass(frozen=True, slots=True, order=True)
class ExitChoice:
    """An exit branch of a kind (`gap_fc`, ...) after backbone block `mounting_point`."""

    mounting_point: int
    branch: str = "gap_fc"


@dataclass(frozen=True, slots=True, order=True)
class Precision:
    """Bits of a layer's weights and of its output activation."""

    weight_bits: int = 8
    activation_bits: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Depth, width (pruning), kernels, exits, bits and core preference of one candidate.

    Attributes:
        backbone: name of the backbone.
        depths: blocks kept in each group of repeatable blocks; empty keeps all.
        widths: (width group, channels kept), sorted by name; groups not named keep all channels.
        kernels: (layer, kernel size), where the backbone offers a choice.
        exits: early exits by mounting point; the final exit is always on and not listed.
        precision: (layer, bits); layers not named have `default_precision`.
        cores: (layer, core name); layers not named go where the mapper wants them.
    """

    backbone: str
    depths: tuple[int, ...] = ()
    widths: tuple[tuple[str, int], ...] = ()
    kernels: tuple[tuple[str, int], ...] = ()
    exits: tuple[ExitChoice, ...] = ()
    precision: tuple[tuple[str, Precision], ...] = ()
    default_precision: Precision = field(default_factory=Precision)
    cores: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Refuse tables that are not sorted or name something twice: equal candidates must compare equal."""
        tables: list[tuple[str, list[Any]]] = [
            ("exits", [e.mounting_point for e in self.exits]),
            ("widths", [k for k, _ in self.widths]),
            ("kernels", [k for k, _ in self.kernels]),
            ("precision", [k for k, _ in self.precision]),
            ("cores", [k for k, _ in self.cores]),
        ]
        for name, keys in tables:
            if any(a >= b for a, b in pairwise(keys)):
                raise FormatError(
                    f"{name} {keys}", wanted="sorted, each once", where=f"architecture of {self.backbone}"
                )

    def precision_of(self, layer: str) -> Precision:
        """Bits of a layer by name."""
        return dict(self.precision).get(layer, self.default_precision)

    def core_of(self, layer: str) -> str | None:
        """The core a layer asks for, or None."""
        return dict(self.cores).get(layer)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; `from_json` is its inverse."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Architecture":
        """Read what `to_json` wrote.

        Raises:
            FormatError: a key is missing, unknown or of the wrong form.
        """
        try:
            return cls(
                backbone=str(data["backbone"]),
                depths=tuple(data["depths"]),
                widths=tuple((k, v) for k, v in data["widths"]),
                kernels=tuple((k, v) for k, v in data["kernels"]),
                exits=tuple(ExitChoice(**e) for e in data["exits"]),
                precision=tuple((k, Precision(**p)) for k, p in data["precision"]),
                default_precision=Precision(**data["default_precision"]),
                cores=tuple((k, v) for k, v in data["cores"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not an architecture: {error}", wanted="the keys that to_json writes") from error

    @property
    def digest(self) -> str:
        """A short content hash, stable over processes."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]
