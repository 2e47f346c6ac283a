"""A minimal flatbuffer reader: tables, vectors, strings and scalars by field number, every offset checked.

Follows the binary layout of flatbuffers.dev/internals (little-endian; a table starts with a signed offset to its
vtable, references are unsigned offsets from where they stand). Knows no schema.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from offramp.errors import FormatError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Table:
    """A table inside `data`; fields are numbered as in the schema, absent ones have the default."""

    data: bytes
    at: int

    @classmethod
    def root(cls, data: bytes) -> "Table":
        """The root table of a buffer."""
        return cls(data, _unpack("<I", data, 0))

    @classmethod
    def empty(cls) -> "Table":
        """A table without fields: everything has its default."""
        return cls(struct.pack("<HHi", 4, 4, 4), 4)

    def _field(self, number: int) -> int:
        """Position of a field, 0 when it is absent."""
        vtable = self.at - _unpack("<i", self.data, self.at)
        slot = 4 + 2 * number
        if slot + 2 > _unpack("<H", self.data, vtable):
            return 0
        offset = _unpack("<H", self.data, vtable + slot)
        return self.at + offset if offset else 0

    def scalar(self, number: int, form: str, default: int = 0) -> int:
        """An integer field; `form` is a `struct` letter."""
        position = self._field(number)
        return _unpack(f"<{form}", self.data, position) if position else default

    def table(self, number: int) -> "Table | None":
        """A table field."""
        position = self._field(number)
        return Table(self.data, position + _unpack("<I", self.data, position)) if position else None

    def _vector(self, number: int) -> tuple[int, int]:
        """Position of the first element and number of elements."""
        position = self._field(number)
        if not position:
            return 0, 0
        start = position + _unpack("<I", self.data, position)
        return start + 4, _unpack("<I", self.data, start)

    def array(self, number: int, dtype: DTypeLike) -> NDArray[np.generic]:
        """A vector of scalars, read-only."""
        start, length = self._vector(number)
        kind = np.dtype(dtype).newbyteorder("<")
        if start + length * kind.itemsize > len(self.data):
            raise FormatError(f"a vector of {length} elements at byte {start} runs past the end of the file")
        return np.frombuffer(self.data, kind, length, start)

    def string(self, number: int) -> str:
        """A string field, "" when absent."""
        return self.array(number, np.uint8).tobytes().decode("utf-8", "replace")

    def tables(self, number: int, read: Callable[["Table"], T]) -> list[T]:
        """A vector of tables, each through `read`."""
        start, length = self._vector(number)
        if start + 4 * length > len(self.data):
            raise FormatError(f"a vector of {length} tables at byte {start} runs past the end of the file")
        places = range(start, start + 4 * length, 4)
        return [read(Table(self.data, p + _unpack("<I", self.data, p))) for p in places]


def _unpack(form: str, data: bytes, at: int) -> int:
    if at < 0 or at + struct.calcsize(form) > len(data):
        raise FormatError(f"an offset to byte {at} in a file of {len(data)} bytes")
    return int(struct.unpack_from(form, data, at)[0])
