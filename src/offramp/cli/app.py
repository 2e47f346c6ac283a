"""The `offramp` command: registers the commands and is the one place where errors become lines and exit codes.

Exit code 0: done; 2: the user's fault; 1: ours; 130: interrupted. Never a traceback, unless OFFRAMP_TRACEBACK=1 asks
for one.
"""

import errno
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from rich.console import Console

from offramp.errors import OfframpError, one_line

app = typer.Typer(
    name="offramp",
    help="Designs neural networks that stop early, for the accelerator they will run on.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

PLAIN_WIDTH = 120
"""Columns of tables that do not go to a terminal."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it (128 + SIGINT)."""

PATH_FAULTS = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG,
    errno.ELOOP,
}  # fmt: skip
"""What is wrong with a path that the user gave; a full or broken disk is not among them."""


def console() -> Console:
    """Where answers for people go: stdout, at a fixed width when it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


def run(register: Callable[[], None]) -> None:
    """Register the commands, run the command line and leave with its exit code."""
    try:
        register()
        code = app(args=sys.argv[1:] or ["--help"], prog_name="offramp", standalone_mode=False)
        sys.stdout.flush()
    except OfframpError as error:
        _leave(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OSError as error:
        mendable = error.filename is not None and error.errno in PATH_FAULTS
        wanted = "; wanted a path that can be read or written" if mendable else "; what is journalled is kept"
        _leave(f"{error.filename or 'system'}: {error.strerror or error}{wanted}", 2 if mendable else 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # what the parser of the command line refuses
            _leave(_usage(error), 2)
        _leave(f"internal error: {type(error).__name__}: {error}; OFFRAMP_TRACEBACK=1 shows where", 1)
    if code == INTERRUPTED:
        _leave("interrupted; what was found is kept, the same command continues", INTERRUPTED)
    sys.exit(code or 0)


def _usage(error: Any) -> str:
    """A refused command line as one line: the option, what was given, what is wanted, and where to read more."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    given = _given(parameter.opts) if parameter is not None else ""
    command = context.command_path if context is not None else "offramp"
    text = " ".join(error.format_message().split()).rstrip(".")
    return f"{text}{given}; write {command} --help"


def _given(options: list[str]) -> str:
    """What stood behind an option on the command line; of one given twice the last counts."""
    given = ""
    for word, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        name, sign, value = word.partition("=")
        if name in options:
            given = f" (given {value if sign else following!r})"
    return given


def _leave(message: str, code: int) -> NoReturn:
    if os.environ.get("OFFRAMP_TRACEBACK") and sys.exception() is not None:
        raise
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"offramp: {one_line(message)}")
    _silence(sys.stdout)
    sys.exit(code)


def _silence(stream: Any) -> None:
    """What cannot be written any more (a full disk, a closed pipe) must not fail a second time on the way out."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
