"""How the search is compiled: numba, strict IEEE arithmetic, machine code kept beside the source.

What is compiled works on plain arrays and scalars. Numba notices a change of the file of a function that Python
calls, not of the functions called there; so those are closures over `SOURCES`, a digest of all compiled files, which
makes it part of their key.
"""

import logging
from collections.abc import Callable
from functools import cache, wraps
from hashlib import sha256
from pathlib import Path
from threading import Timer
from typing import Any, ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")


def digest(*patterns: str) -> str:
    """Digest of source files of this folder, as part of the key of what is compiled from them."""
    files = {path for pattern in patterns for path in Path(__file__).parent.glob(pattern)}
    return sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()


SOURCES = digest("engine_*.py")
"""Digest of the engine's source."""

COMPILING = "offramp: compiling the pricing engine for this machine, once; this takes about a minute"
PATIENCE = 3.0
"""Seconds after which a first call is taken to compile; to load what was kept takes a tenth of that."""


@cache
def _tell() -> None:
    logging.getLogger("offramp").warning(COMPILING)


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """A function that other compiled functions call."""
    lean: dict[str, Any] = {"no_cfunc_wrapper": True}  # no C function is made of it
    machine: Callable[P, R] = numba.njit(error_model="numpy", **lean)(function)
    return machine


def entry(function: Callable[P, R]) -> Callable[P, R]:
    """A function that Python calls; its machine code is kept on disk, where any place for it can be written."""
    try:
        machine: Any = numba.njit(error_model="numpy", cache=True)(function)
    except RuntimeError:  # no locator: neither the package's folder nor the user's cache is writable
        machine = numba.njit(error_model="numpy")(function)

    called = False

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal called
        if called:
            return machine(*args)  # type: ignore[no-any-return]
        tell = Timer(PATIENCE, _tell)
        tell.daemon = True
        tell.start()
        try:
            result: R = machine(*args)
            called = True
            return result
        finally:
            tell.cancel()

    return call
