"""Import modules at the first use of one of their names: a verdict without findings does not need most of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class _Later:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


def later(name: str) -> Any:
    """Return a module that is imported at its first use. For type checkers an import statement is beside the call."""
    return _Later(name)
