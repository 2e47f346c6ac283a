"""What may be written over: nothing of the user's, only what an earlier call made."""

import os
from pathlib import Path

from offramp.errors import UserError


def check_target(path: Path, marks: tuple[bytes, ...], *, kind: str, where: str) -> None:
    """Let a file be written where nothing is, where an empty file is, or where an earlier one of the same kind is.

    Args:
        path: the file to write.
        marks: bytes that every file of the kind has among its first 4,096.
        kind: what it is called in the error.
        where: the option or argument that named it.

    Raises:
        UserError: a folder is there, a device or pipe (reading it could wait for ever), or a file of another kind; or
            the folder that it belongs in is not there or cannot be written in.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder", wanted="a file in a folder that exists", where=where)
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent} cannot be written in", wanted="a folder of your own", where=where)
    if path.is_dir():
        raise UserError(f"{path} is a folder", wanted="a file to write", where=where)
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no regular file", wanted="a file to write", where=where)
    if path.exists():
        with path.open("rb") as file:
            head = file.read(4096)
        if head and not all(mark in head for mark in marks):
            raise UserError(f"{path} exists and is no {kind}", wanted="a new file", where=where)
