"""YAML that may be trusted: duplicate keys, aliases, tags and broken text are errors with a line, never a surprise.

PyYAML keeps the last of two equal keys silently and expands aliases without limit; this loader refuses both. It knows
nothing of what the file is about. `Faults` collects everything that is wrong with a file before one error is raised.
"""

import difflib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from offramp.errors import FormatError

_M = TypeVar("_M", bound=BaseModel)

MAX_BYTES = 4_000_000
"""A description of a chip or a table of times is text of a few kilobytes; more is a mistake."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader without aliases and with unique keys, `repeatable` ones excepted (the last counts)."""

    repeatable: frozenset[str] = frozenset()

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not read", self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict | set):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen and key not in self.repeatable:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, repeatable: Iterable[str] = ()) -> Any:
    """Read a YAML file strictly; keys named in `repeatable` may repeat in one mapping, and the last counts.

    Raises:
        FormatError: missing, too large, not UTF-8, not YAML, duplicate keys or aliases.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FormatError("a file over 4 MB", wanted="a small YAML file", where=str(path))
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", wanted="a YAML file", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8 text", wanted="a YAML file", where=str(path)) from error
    return parse_yaml(text, str(path), repeatable)


def parse_yaml(text: str, where: str, repeatable: Iterable[str] = ()) -> Any:
    """Parse YAML text strictly; `where` names it in errors.

    Raises:
        FormatError: not YAML, duplicate keys or aliases.
    """
    loader = type("Loader", (_StrictLoader,), {"repeatable": frozenset(repeatable)})
    try:
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise FormatError(f"{error.problem}", wanted="YAML with unique keys", where=f"{where}{line}") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError) as error:
        raise FormatError(f"not YAML ({type(error).__name__})", wanted="YAML text", where=where) from error


class Faults:
    """Everything wrong with one file, raised as one error."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: list[str] = []

    def add(self, path: str, message: str) -> None:
        """Note a fault at a path such as `$.cores[1].name`."""
        self.found.append(f"{path}: {message}")

    def add_validation(self, error: ValidationError, model: type[BaseModel]) -> None:
        """Note every fault that pydantic found in a document of `model`; an unknown key is told which it may be."""
        for fault in error.errors(include_url=False, include_context=False):
            self.add(json_path(fault["loc"]), _message(fault, model))

    def validated(self, model: type[_M], data: Any, wanted: str) -> _M:
        """A document as a model.

        Raises:
            FormatError: pydantic refuses it; every fault is named.
        """
        try:
            return model.model_validate(data)
        except ValidationError as error:
            self.add_validation(error, model)
            self.raise_if_any(wanted)
            raise

    def raise_if_any(self, wanted: str) -> None:
        """Raise what was found.

        Raises:
            FormatError: at least one fault was noted.
        """
        if self.found:
            count = "" if len(self.found) == 1 else f"{len(self.found)} faults: "
            raise FormatError(count + "; ".join(self.found), wanted=wanted, where=self.where)


def json_path(location: Iterable[str | int]) -> str:
    """`("cores", 1, "name")` as `$.cores[1].name`."""
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _message(fault: Any, model: type[BaseModel]) -> str:
    if fault["type"] == "extra_forbidden":
        names = _keys_at(model, fault["loc"])
        close = difflib.get_close_matches(str(fault["loc"][-1]), names, n=1, cutoff=0.65)
        return "unknown key, " + (f"write {close[0]}" if close else f"there are {', '.join(names)}")
    if fault["type"] == "missing":
        return "missing"
    given = fault["input"]
    shown = f" (given {given!r})" if isinstance(given, str | int | float | bool | None) and _short(given) else ""
    if isinstance(given, str) and fault["type"] in ("int_type", "float_type"):
        shown += ", write a number: the unit stands in the key"
    return str(fault["msg"]).removeprefix("Value error, ") + shown


def _keys_at(model: type[BaseModel], location: Sequence[str | int]) -> tuple[str, ...]:
    """Keys of the mapping that holds the last step of a location."""
    for step in location[:-1]:
        field = model.model_fields.get(str(step))
        model = (_model_in(field.annotation) if field else None) or model
    return tuple(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model inside an annotation such as `list[Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _short(value: Any) -> bool:
    return not (isinstance(value, float) and math.isnan(value)) and (
        not isinstance(value, int) or isinstance(value, bool) or abs(value) < 10**30
    )
