"""Writes small tflite files for tests: a flatbuffer from nested Python values, and the schema's tables on top of it."""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZES = {"b": 1, "B": 1, "i": 4, "I": 4}


def flatbuffer(root: dict[int, Any], identifier: bytes) -> bytes:
    """Bytes of a table: field number -> (struct letter, number), array, string, table (dict) or list of tables."""
    out = bytearray(struct.pack("<I", 0) + identifier)
    struct.pack_into("<I", out, 0, _table(out, root))
    return bytes(out)


def _table(out: bytearray, fields: dict[int, Any]) -> int:
    """Append a table and what it refers to; the position of the table."""
    while len(out) % 4:
        out.append(0)
    slots = max(fields, default=-1) + 1
    vtable = len(out)
    out += bytes(4 + 2 * slots + (2 * slots % 4))
    table = len(out)
    out += bytes(4 + 4 * len(fields))
    struct.pack_into("<HH", out, vtable, 4 + 2 * slots, 4 + 4 * len(fields))
    struct.pack_into("<i", out, table, table - vtable)
    for i, (number, value) in enumerate(fields.items()):
        at = table + 4 + 4 * i
        struct.pack_into("<H", out, vtable + 4 + 2 * number, at - table)
        if isinstance(value, tuple):
            struct.pack_into(f"<{value[0]}", out, at, value[1])
        else:
            struct.pack_into("<I", out, at, _reference(out, value) - at)
    return table


def _reference(out: bytearray, value: Any) -> int:
    if isinstance(value, dict):
        return _table(out, value)
    while len(out) % 8 != 4:
        out.append(0)
    start = len(out)
    if isinstance(value, list):
        out += struct.pack("<I", len(value)) + bytes(4 * len(value))
        for i, item in enumerate(value):
            at = start + 4 + 4 * i
            struct.pack_into("<I", out, at, _table(out, item) - at)
        return start
    raw = value.encode() if isinstance(value, str) else value.tobytes()
    out += struct.pack("<I", len(value)) + raw
    return start


TYPES = {"float32": 0, "int32": 2, "int8": 9}


@dataclass
class Model:
    """A tflite model in the making."""

    tensors: list[dict[int, Any]] = field(default_factory=list)
    buffers: list[dict[int, Any]] = field(default_factory=lambda: [{}])
    codes: list[dict[int, Any]] = field(default_factory=list)
    operators: list[dict[int, Any]] = field(default_factory=list)

    def tensor(
        self,
        shape: tuple[int, ...],
        data: NDArray[Any] | None = None,
        *,
        scale: tuple[float, ...] = (),
        zero: tuple[int, ...] = (),
        axis: int = 0,
    ) -> int:
        """Add a tensor, constant when it has data; its index."""
        made: dict[int, Any] = {
            0: np.array(shape, np.int32),
            1: ("b", TYPES["float32" if data is None else str(data.dtype)]),
        }
        if data is not None:
            self.buffers.append({0: np.frombuffer(data.tobytes(), np.uint8)})
            made[2] = ("I", len(self.buffers) - 1)
        if scale:
            made[4] = {2: np.array(scale, np.float32), 3: np.array(zero, np.int64), 6: ("i", axis)}
        self.tensors.append(made)
        return len(self.tensors) - 1

    def operator(self, code: int, inputs: list[int], output: int, options: dict[int, Any] | None = None) -> None:
        """Add an operator."""
        self.codes.append({0: ("b", min(code, 127)), 3: ("i", code)})
        made = {0: ("I", len(self.codes) - 1), 1: np.array(inputs, np.int32), 2: np.array([output], np.int32)}
        self.operators.append(made | ({4: options} if options else {}))

    def to_bytes(self, first: int, last: int) -> bytes:
        """The file."""
        ends = {1: np.array([first], np.int32), 2: np.array([last], np.int32)}
        graph = {0: self.tensors, **ends, 3: self.operators}
        return flatbuffer({0: ("I", 3), 1: self.codes, 2: [graph], 4: self.buffers}, b"TFL3")
