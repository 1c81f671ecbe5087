"""Replace attributes of single objects, so that it can be undone in any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

Undo = Callable[[], None]

_MISSING: Final = object()
_LAYER: Final = "_pgvigil_layer"


class _Layer:
    """The original that a replacement covers."""

    def __init__(self, before: Any) -> None:
        self.before = before
        self.over = False


def replace(target: Any, name: str, replacement: Any) -> Undo:
    """Set an attribute of this one object or class.

    Undone, it is as before. If another replacement is on top by then, it becomes so when that one is undone; if the one on top is
    not pgvigil's, it stays, and has to do nothing by itself.
    """
    layer = _Layer(vars(target).get(name, _MISSING))
    setattr(replacement, _LAYER, layer)
    setattr(target, name, replacement)

    def undo() -> None:
        layer.over = True
        current = found = vars(target).get(name, _MISSING)
        while (top := getattr(current, "__dict__", {}).get(_LAYER)) is not None and top.over:
            current = top.before
        if current is _MISSING:
            if found is not _MISSING:
                delattr(target, name)
        elif current is not found:
            setattr(target, name, current)

    return undo
