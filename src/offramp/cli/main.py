"""The entry point: importing a command's file registers it on `app`."""

from offramp.cli.app import main

__all__ = ["main"]
