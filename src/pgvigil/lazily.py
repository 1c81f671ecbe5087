"""Modules that are imported as soon as something of them is asked for: a verdict that finds nothing does without most of them."""

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
    """In the place of an import statement, which is beside it for type checkers."""
    return _Later(name)
