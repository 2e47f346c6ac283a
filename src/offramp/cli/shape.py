"""`--input-shape` and other numbers with commas between, as commands read them."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from offramp.errors import UserError

MOST_VALUES = 2**28
"""Of one sample; more is a slip, and later numbers would leave 64 bits."""
MOST_CLASSES = 2**20

Number = TypeVar("Number", int, float)


def numbers(option: str, text: str, kind: Callable[[str], Number], *, write: str = "") -> tuple[Number, ...]:
    """The numbers of a text such as `0,4,5`; none when it is empty.

    Raises:
        UserError: something else stands there.
    """
    try:
        return tuple(kind(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise UserError(f"{text!r}", wanted="numbers with commas between", where=option, write=write) from None


def read_shape(text: str) -> tuple[int, ...]:
    """The sizes of `--input-shape`; none when it is empty.

    Raises:
        UserError: no whole numbers of 1 or more, or together more values than a sample may have.
    """
    sizes = numbers("--input-shape", text, int, write="3,32,32")
    if sizes and (min(sizes) < 1 or math.prod(sizes) > MOST_VALUES):
        wanted = f"sizes of 1 or more, together at most {MOST_VALUES:,} values"
        raise UserError(text, wanted=wanted, where="--input-shape", write="3,32,32")
    return sizes


def image_shape(sizes: Sequence[int]) -> tuple[int, int, int]:
    """Sizes as channels, rows and columns.

    Raises:
        UserError: there are not three.
    """
    if len(sizes) != 3:
        given = ",".join(map(str, sizes))
        raise UserError(given, wanted="C,H,W, three positive sizes", where="--input-shape", write="3,32,32")
    channels, rows, columns = sizes
    return channels, rows, columns
