"""`space.yaml`: a search space as a file, read strictly and written so that it reads back equal.

A section that is absent offers no choice (that part stays as the full backbone has it). Widths, depths and
kernels are a list, or `{min, max, step}`. All faults of a file are raised as one error, each with its path.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from offramp.errors import FormatError
from offramp.formats.strict_yaml import Faults, parse_yaml, read_yaml
from offramp.ir.accelerator import Accelerator
from offramp.ir.architecture import Precision
from offramp.ir.backbone import BackboneInfo
from offramp.search.derive import ACTIVATION_BITS, WEIGHT_BITS, analog_precision, bit_faults
from offramp.search.space import BitChoice, Space

KEYS = ("backbone", "default_bits", "depths", "widths", "kernels", "exits", "max_exits", "bits", "cores")
WANTED = "a search space as docs/search.md describes it"


def read_space(path: Path, info: BackboneInfo, accelerator: Accelerator) -> Space:
    """Read a space for a backbone and a chip.

    Raises:
        FormatError: the file cannot be read, has unknown or duplicate keys, empty choices, reversed bounds, names or
            sizes that the backbone does not have, or bits and cores that the chip does not have.
    """
    return space_from_data(read_yaml(path), info, accelerator, where=str(path))


def parse_space(text: str, info: BackboneInfo, accelerator: Accelerator, where: str = "space.yaml") -> Space:
    """`read_space` from text."""
    return space_from_data(parse_yaml(text, where), info, accelerator, where=where)


def space_from_data(data: Any, info: BackboneInfo, accelerator: Accelerator, *, where: str) -> Space:
    """`read_space` from what a YAML reader gives."""
    faults = Faults(where)
    if not isinstance(data, Mapping):
        raise FormatError(f"{type(data).__name__}", wanted=WANTED, where=where, write=f"backbone: {info.name}")
    for key in data:
        if key not in KEYS:
            faults.add(f"$.{key}", f"unknown key, wanted one of {', '.join(KEYS)}")
    if data.get("backbone", info.name) != info.name:
        faults.add("$.backbone", f"{data['backbone']!r}, but the study's backbone is {info.name!r}")
    read = _Reader(data, faults)
    fields = _fields(read, accelerator)
    faults.raise_if_any(WANTED)
    return _checked(fields, info, accelerator, faults)


def _fields(read: "_Reader", accelerator: Accelerator) -> dict[str, Any]:
    weight, activation = read.default_bits()
    exits = tuple(sorted(read.table("exits", read.names, int)))
    default = Precision(weight, activation)
    return {
        "depths": read.table("depths", read.numbers, str),
        "widths": read.table("widths", read.numbers, str),
        "kernels": read.table("kernels", read.numbers, str),
        "exits": exits,
        "max_exits": read.max_exits(len(exits)),
        "bits": read.table("bits", read.bits, str),
        "cores": read.table("cores", read.names, str),
        "core_precision": analog_precision(accelerator, default),
        "default_precision": default,
    }


def _checked(fields: dict[str, Any], info: BackboneInfo, accelerator: Accelerator, faults: Faults) -> Space:
    """Build the space; what the backbone or the chip does not have becomes one error."""
    try:
        space = Space(info=info, **fields)
    except FormatError as error:
        raise FormatError(error.given, wanted=error.wanted, where=faults.where) from error
    for path, message in (*bit_faults(space, accelerator), *_untrained_bits(space)):
        faults.add(path, message)
    faults.raise_if_any(f"bits that a core of {accelerator.name} takes and training offers")
    return space


def _untrained_bits(space: Space) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) for bits that training does not offer."""
    default = space.default_precision
    rows = [(f"$.bits.{name}", bits.weights, bits.activations) for name, bits in space.bits]
    for path, weights, activations in (*rows, ("$.default_bits", (default.weight_bits,), (default.activation_bits,))):
        for kind, given, offered in (("weights", weights, WEIGHT_BITS), ("activations", activations, ACTIVATION_BITS)):
            for bits in sorted(set(given) - set(offered)):
                yield path, f"{bits}-bit {kind}: training offers {', '.join(map(str, offered))}"


class _Reader:
    """Reads sections, notes faults, and goes on so that all faults are found."""

    def __init__(self, data: Mapping[Any, Any], faults: Faults) -> None:
        self.data, self.faults = data, faults

    def table(self, section: str, read: Callable[[str, Any], Any], key: type) -> tuple[tuple[Any, Any], ...]:
        """A mapping from names to choices; an absent or empty section gives no rows."""
        given = self.data.get(section) or {}
        if not isinstance(given, Mapping):
            self.faults.add(f"$.{section}", f"{given!r}, wanted a mapping from names to choices")
            return ()
        rows = []
        for name, choices in given.items():
            path = f"$.{section}.{name}"
            if isinstance(name, bool) or not isinstance(name, key):
                self.faults.add(
                    path, f"key {name!r}, wanted {'a mounting point (integer)' if key is int else 'a name'}"
                )
            elif (value := read(path, choices)) is not None:
                rows.append((name, value))
        return tuple(rows)

    def numbers(self, path: str, given: Any) -> tuple[int, ...] | None:
        """A list of whole numbers, or {min, max, step}."""
        if isinstance(given, Mapping):
            return self._range(path, given)
        if not isinstance(given, list) or not all(_count(v) for v in given):
            self.faults.add(path, f"{given!r}, wanted a list of whole numbers or {{min, max, step}}")
            return None
        self._whole(path, given)
        return tuple(sorted(set(given)))

    def _whole(self, path: str, given: list[Any]) -> None:
        if not given:
            self.faults.add(path, "no choices")
        if len(set(given)) < len(given):
            self.faults.add(path, f"{given!r} lists a choice twice")

    def _range(self, path: str, given: Mapping[Any, Any]) -> tuple[int, ...] | None:
        low, high, step = given.get("min", 0), given.get("max", 0), given.get("step", 1)
        unknown = [k for k in given if k not in ("min", "max", "step")]
        if unknown or not (_count(low) and _count(high) and _count(step) and step):
            self.faults.add(path, f"{dict(given)!r}, wanted {{min, max, step}} as whole numbers, step above 0")
            return None
        if low > high:
            self.faults.add(path, f"bounds reversed: min {low} is above max {high}")
            return None
        return tuple(sorted({*range(low, high + 1, step), high}))

    def names(self, path: str, given: Any) -> tuple[str, ...] | None:
        """A list of words, none twice."""
        words = [given] if isinstance(given, str) else given
        if not isinstance(words, list) or not all(isinstance(v, str) for v in words):
            self.faults.add(path, f"{given!r}, wanted a list of names")
            return None
        self._whole(path, words)
        return tuple(words)

    def bits(self, path: str, given: Any) -> BitChoice | None:
        """{weights: [...], activations: [...]}; an absent one stays at its default."""
        if not isinstance(given, Mapping) or set(given) - {"weights", "activations"} or not given:
            self.faults.add(path, f"{given!r}, wanted {{weights: [...], activations: [...]}}")
            return None
        weight, activation = self.default_bits(quiet=True)
        weights = self.numbers(f"{path}.weights", given.get("weights", [weight]))
        activations = self.numbers(f"{path}.activations", given.get("activations", [activation]))
        return BitChoice(weights, activations) if weights and activations else None

    def default_bits(self, quiet: bool = False) -> tuple[int, int]:
        """Bits of what is not listed; 8 and 8 when absent."""
        given = self.data.get("default_bits", {})
        legal = isinstance(given, Mapping) and not set(given) - {"weights", "activations"}
        if not legal or not all(_count(v) for v in given.values()):
            if not quiet:
                self.faults.add("$.default_bits", f"{given!r}, wanted {{weights: 8, activations: 8}}")
            return 8, 8
        return given.get("weights", 8), given.get("activations", 8)

    def max_exits(self, listed: int) -> int:
        """Most exits at once; all that are listed when absent."""
        given = self.data.get("max_exits", listed)
        if isinstance(given, bool) or not isinstance(given, int):
            self.faults.add("$.max_exits", f"{given!r}, wanted an integer")
            return 0
        return given


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def space_text(space: Space) -> str:
    """The file that reads back as this space."""
    default = space.default_precision
    sections: dict[str, dict[Any, Any]] = {
        "depths": {name: list(choices) for name, choices in space.depths},
        "widths": {name: list(choices) for name, choices in space.widths},
        "kernels": {name: list(choices) for name, choices in space.kernels},
        "exits": {point: list(kinds) for point, kinds in space.exits},
        "bits": {n: {"weights": list(b.weights), "activations": list(b.activations)} for n, b in space.bits},
        "cores": {name: list(cores) for name, cores in space.cores},
    }
    lines = [
        f"backbone: {_flow(space.info.name)}",
        f"default_bits: {{weights: {default.weight_bits}, activations: {default.activation_bits}}}",
        f"max_exits: {space.max_exits}",
    ]
    for section, rows in sections.items():
        lines += [f"{section}:", *(f"  {_flow(key)}: {_flow(value)}" for key, value in rows.items())]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    return (
        str(yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)).removesuffix("...\n").strip()
    )


def write_space(path: Path, space: Space) -> None:
    """Write `space_text` to a file."""
    path.write_text(space_text(space), encoding="utf-8")
