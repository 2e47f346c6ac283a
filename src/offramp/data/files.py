"""Finding and opening the files of a dataset; what is missing or damaged ends in one line that says what to do.

It knows folders and `.npz`, not what any dataset means. Nothing here unpickles.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError

Arrays = dict[str, NDArray[Any]]


def data_root(folder: Path | None) -> Path:
    """The folder for datasets: the one given, else `OFFRAMP_DATA`, else `~/.cache/offramp`."""
    return folder or Path(os.environ.get("OFFRAMP_DATA") or Path.home() / ".cache" / "offramp")


def find_file(folder: Path | None, name: str, *, inside: Iterable[str], dataset: str) -> Path:
    """The file `name` in the data folder or in one of its folders `inside`.

    Raises:
        DataError: it is in none of them; the line says where it should be.
    """
    root = data_root(folder)
    for place in (root, *(root / i for i in inside)):
        if (place / name).is_file():
            return place / name
    given = f"no {name}" if root.is_dir() else "no such folder"
    raise DataError(
        given, wanted=f"the file {name} of {dataset} in this folder", where=str(root), write="--data-dir DIR"
    )


def read_npz(path: Path, required: Iterable[str]) -> Arrays:
    """Every array of an `.npz`, none of them pickled.

    Raises:
        DataError: the file is missing, truncated, no `.npz`, holds objects, or lacks a required array.
    """
    try:
        with path.open("rb") as stream:
            if (start := stream.read(6))[:2] != b"PK":
                given = "a single array" if start == b"\x93NUMPY" else "no .npz file (cut off or something else)"
                raise DataError(given, wanted="an .npz with named arrays", where=str(path))
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
    except FileNotFoundError as error:
        raise DataError("no such file", wanted="an .npz file", where=str(path)) from error
    except DataError:
        raise
    except Exception as error:  # zip, deflate and NumPy's header each fail in their own ways
        raise DataError(
            f"truncated or damaged ({_line(error)})", wanted="an .npz of plain arrays", where=str(path)
        ) from error
    missing = [key for key in required if key not in arrays]
    if missing:
        given = f"no array {', '.join(missing)} (has {', '.join(arrays) or 'none'})"
        raise DataError(given, wanted=", ".join(required), where=str(path))
    return arrays


def expect(array: NDArray[Any], shape: tuple[int | None, ...], kinds: str, *, what: str, where: Path) -> NDArray[Any]:
    """The array itself when its shape (None: any length) and NumPy type kind are as wanted.

    Raises:
        DataError: they are not.
    """
    fits = array.ndim == len(shape) and all(w in (None, g) for g, w in zip(array.shape, shape, strict=True))
    if not fits or array.dtype.kind not in kinds:
        wanted = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
        given = f"{what} is {array.dtype} {array.shape}"
        raise DataError(given, wanted=f"{wanted} of kind {'/'.join(kinds)}", where=str(where))
    return array


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
