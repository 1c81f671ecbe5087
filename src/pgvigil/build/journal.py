"""What a run does, told to people as it happens and kept as one document for machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Journal:
    """Call it with a line for people; put into `document` what machines should know. It is complete at any moment, so a
    run that fails has told all it did until then.
    """

    def __init__(self, speak: Callable[[str], None]) -> None:
        self._speak = speak
        self.document: dict[str, Any] = {}

    def __call__(self, line: str) -> None:
        self._speak(line)

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """One more entry of a list in the document."""
        self.document.setdefault(key, []).append(entry)
