"""pgvigil: brings a live session database, new or existing, to a schema that watches it."""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

# What an application reaches from here, loaded when it is first asked for.
_LAZY = {"transactions": "pgvigil.live.transactions"}


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return import_module(_LAZY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
