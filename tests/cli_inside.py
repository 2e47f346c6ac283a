"""The command line inside the test's own process: the same entry point, exit codes and streams, without a start-up."""

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

from offramp.cli.main import main


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def offramp(*arguments: str) -> Done:
    """Run `offramp ARGUMENTS`."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["offramp", *arguments]),
    ):
        try:
            main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    return Done(code, out.getvalue(), err.getvalue())
