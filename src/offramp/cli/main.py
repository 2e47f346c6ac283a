"""The entry point: importing a command's file registers it on `app`."""

import offramp.cli.report  # noqa: F401
import offramp.cli.run  # noqa: F401
import offramp.cli.search  # noqa: F401
from offramp.cli.app import main

__all__ = ["main"]
