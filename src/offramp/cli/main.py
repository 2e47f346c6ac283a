"""The entry point: importing a command's file registers it on `app`."""

import offramp.cli.deploy
import offramp.cli.measure
import offramp.cli.price
import offramp.cli.report
import offramp.cli.run
import offramp.cli.search
import offramp.cli.zoo  # noqa: F401
from offramp.cli.app import main

__all__ = ["main"]
