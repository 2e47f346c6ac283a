"""Damage as hypothesis strategies for the tests of every reader: in the bytes or the values of a good file."""

import copy
import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

WORDS = (0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 0x7F800000, 0x7F800001, 0xFFC00000, 0xFF7FFFFF)
"""32-bit numbers at which readers stumble: limits, and infinities, signalling and quiet NaN of float32."""

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([1 << 70, 1e308, "1e5", ""]),
)  # fmt: skip


def values(known: Sequence[Any] = ()) -> st.SearchStrategy[Any]:
    """Any document of a few values; `known` are words that the reader gives a meaning."""
    scalars = SCALARS | st.sampled_from(known) if known else SCALARS
    keys = st.text(max_size=6) | st.sampled_from([k for k in known if isinstance(k, str)] or ["name"])
    return st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(keys, v, max_size=3), max_leaves=5)


@st.composite
def damaged_bytes(draw: st.DrawFn, good: Sequence[bytes], start: int = 0) -> bytes:
    """A good file that is cut off, or has bytes or 32-bit words changed, taken out or put in; from `start` on."""
    data = bytearray(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(start, max(len(data) - 1, start)))
        action = draw(st.sampled_from(["byte", "word", "out", "in", "cut"]))
        if action == "byte":
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif action == "word":
            at -= at % 4
            data[at : at + 4] = struct.pack("<I", draw(st.sampled_from(WORDS)))
        elif action == "out":
            del data[at : at + draw(st.integers(1, 30))]
        elif action == "in":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            del data[at:]
    return bytes(data)


@st.composite
def damaged_text(draw: st.DrawFn, good: Sequence[str]) -> str:
    """A good text in which a few characters were replaced; or any short text."""
    text = draw(st.sampled_from(good))
    at = draw(st.integers(0, len(text) - 1))
    return draw(st.just(text[:at] + draw(st.text(max_size=5)) + text[at + draw(st.integers(0, 9)) :]) | st.text())


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a document."""
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [p for key, child in children for p in [(*at, key), *places(child, (*at, key))]]


@st.composite
def damaged_document(draw: st.DrawFn, good: Sequence[Any], known: Sequence[Any] = ()) -> Any:
    """A good document of lists and mappings in which some values were overwritten, dropped or added."""
    data = copy.deepcopy(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(1, 3))):
        paths = places(data)
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        at = data
        for step in path[:-1]:
            at = at[step]
        action = draw(st.sampled_from(["set", "drop", "add"]))
        if action == "set":
            at[path[-1]] = draw(values(known))
        elif action == "drop":
            del at[path[-1]]
        elif isinstance(at, dict):
            at[draw(st.text(max_size=8))] = draw(values(known))
        else:
            at.append(draw(values(known)))
    return data
