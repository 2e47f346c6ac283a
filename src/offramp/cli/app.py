"""The `offramp` command: registers the commands and is the one place where errors become lines and exit codes.

Exit code 0: done; 2: the user's fault; 1: ours. Never a traceback, unless OFFRAMP_TRACEBACK=1 asks for one.
"""

import os
import sys

import typer
from rich.console import Console

from offramp.errors import OfframpError, one_line

app = typer.Typer(
    name="offramp", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)

PLAIN_WIDTH = 120
"""Columns of tables that do not go to a terminal."""


def console() -> Console:
    """Where answers for people go: stdout, at a fixed width when it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        app()
    except OfframpError as error:
        _leave(str(error), error.exit_code)
    except KeyboardInterrupt:
        _leave("interrupted; what was found is kept", 130)
    except OSError as error:
        _leave(f"{error.filename or 'system'}: {error.strerror or error}", 1)
    except Exception as error:
        _leave(f"internal error: {type(error).__name__}: {error}; OFFRAMP_TRACEBACK=1 shows where", 1)


def _leave(message: str, code: int) -> None:
    if os.environ.get("OFFRAMP_TRACEBACK"):
        raise
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"offramp: {one_line(message)}")
    sys.exit(code)
