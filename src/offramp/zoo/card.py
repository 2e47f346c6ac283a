"""The card of a zoo entry as a strict, frozen model: what the weights are, how they were trained, how good they are.

    card.yaml                   this
    shared.safetensors          the supernet: the largest network with every exit that the card lists
    static-float.safetensors    the backbone without exits
    largest-float.safetensors   the same with all its channels, where it was widened: what shared weights began with

Weights lie in half precision and are read as float32. The validation samples of a dataset are chosen by seed, so a
card names the seed of the split: on another one the weights would have seen validation samples. The card also keeps
the normalisation that was fitted, by which other data of the same name show themselves. Knows no torch, reads no
weights.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from offramp.errors import FormatError
from offramp.formats.strict_yaml import Faults
from offramp.ir.architecture import ExitChoice

CARD = "card.yaml"
SHARED: Final = "shared.safetensors"
STATIC: Final = "static-float.safetensors"
LARGEST: Final = "largest-float.safetensors"

File = Literal["shared.safetensors", "static-float.safetensors", "largest-float.safetensors"]

MAX_BYTES = 8_000_000
"""Of a file of weights."""

Line = Annotated[str, Field(min_length=1, max_length=400)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ExitCard(_Record):
    """One exit of the supernet, and its accuracy when every sample leaves there."""

    mounting_point: Annotated[int, Field(ge=0)]
    branch: Line
    accuracy: Fraction

    @property
    def choice(self) -> ExitChoice:
        """As architectures name it."""
        return ExitChoice(self.mounting_point, self.branch)


class Accuracies(_Record):
    """Float accuracy on the first `samples` validation samples; `final` is the supernet's own last exit."""

    samples: Count
    static: Fraction
    final: Fraction
    exits: tuple[ExitCard, ...]


class DataCard(_Record):
    """The data that the weights saw, and how to tell whether other data are the same."""

    name: Line
    seed: Annotated[int, Field(ge=0)]
    input_shape: tuple[Count, Count, Count]
    classes: Annotated[int, Field(ge=2)]
    train_samples: Count
    normalization: dict[str, Any]
    source: Line
    licence: Line


class Recipe(_Record):
    """How the weights were made."""

    command: Line
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")]
    seed: Annotated[int, Field(ge=0)]
    shared_epochs: Count
    static_epochs: Count
    accelerator: Line
    machine: Line
    versions: dict[str, str]


class Card(_Record):
    """Everything about an entry but its weights.

    Attributes:
        widen: times the backbone's channels that the supernet has; above 1 the entry holds the largest network too.
        files: each file with its SHA-256.
    """

    format: Literal["offramp-zoo"]
    version: Literal[1]
    backbone: Line
    widen: Annotated[float, Field(ge=1, le=16)] = 1.0
    data: DataCard
    recipe: Recipe
    accuracy: Accuracies
    files: dict[File, Digest]

    @property
    def network(self) -> str:
        """Name of the backbone as a study calls it, widening included."""
        return self.backbone if self.widen == 1 else f"{self.backbone}-x{self.widen:g}"

    @property
    def needed(self) -> tuple[File, ...]:
        """Files that the entry must have."""
        return (SHARED, STATIC) if self.widen == 1 else (SHARED, STATIC, LARGEST)

    @property
    def exits(self) -> tuple[ExitChoice, ...]:
        """Every exit that has trained weights."""
        return tuple(e.choice for e in self.accuracy.exits)


def card_from_data(data: Any, *, where: str) -> Card:
    """A card from what a YAML reader gives.

    Raises:
        FormatError: not a card, of another version, or with faults (all are listed).
    """
    card = Faults(where).validated(Card, data, "the card of a zoo entry")
    missing = [name for name in card.needed if name not in card.files]
    if missing:
        raise FormatError(f"no checksum for {missing[0]}", wanted="every file listed", where=f"{where}: $.files")
    return card
