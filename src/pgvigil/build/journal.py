"""What a run does, told to people as it happens and kept as one document for machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Journal:
    """Call it with a line for people; put into `document` what machines should know. It is complete at any moment, so a
    run that fails has told all it did until then. Without arguments it keeps the document and is silent.
    """

    def __init__(
        self, speak: Callable[[str], None] | None = None, show: Callable[[str, float | None], None] | None = None
    ) -> None:
        self._speak = speak or (lambda _: None)
        self._show = show or (lambda _, __: None)
        self.document: dict[str, Any] = {}

    def __call__(self, line: str) -> None:
        self._speak(line)

    def progress(self, text: str, fraction: float | None = None) -> None:
        """How far a step is that takes long: of interest until the next one, and never part of the document."""
        self._show(text, fraction)

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """One more entry of a list in the document."""
        self.document.setdefault(key, []).append(entry)

    def indented(self) -> Journal:
        """For the parts of a step."""
        inner = Journal(lambda line: self._speak(f"  {line}"), lambda text, fraction: self._show(f"  {text}", fraction))
        inner.document = self.document
        return inner
