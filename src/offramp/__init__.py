"""Offramp designs neural networks that stop early, for the accelerator they will run on.

`import offramp` is cheap: the rooms that need torch load when they are first asked for.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_PUBLIC = {"design": "offramp.api", "open_bundle": "offramp.api"}
__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    """Load a public name from the room that owns it (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'offramp' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
