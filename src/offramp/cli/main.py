"""The entry point: importing a command's file registers it on `app`, and an interrupt while that lasts is one too."""

from importlib import import_module

from offramp.cli.app import run

COMMANDS = ("deploy", "measure", "price", "report", "run", "search", "zoo")


def register() -> None:
    """Import every command; torch and its like take a second or two."""
    for name in COMMANDS:
        import_module(f"offramp.cli.{name}")


def main() -> None:
    """The `offramp` command."""
    run(register)
