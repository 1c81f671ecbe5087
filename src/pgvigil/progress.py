"""Report the progress of a run to people, and collect it in one document for machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Reporter:
    """A reporter: call it with a line for people, and put data for machines into `document`.

    The document is complete at any moment, so a run that fails has reported everything it did. Without arguments the reporter is
    silent and only keeps the document.
    """

    def __init__(
        self, write: Callable[[str], None] | None = None, show: Callable[[str, float | None], None] | None = None
    ) -> None:
        self._write = write or (lambda _: None)
        self._show = show or (lambda _, __: None)
        self.document: dict[str, Any] = {}

    def __call__(self, line: str) -> None:
        self._write(line)

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Report how far a long step is. It is shown until the next report, and never part of the document."""
        self._show(text, fraction)

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Append an entry to a list in the document."""
        self.document.setdefault(key, []).append(entry)

    def indented(self) -> Reporter:
        """Return a reporter for the parts of a step."""
        inner = Reporter(
            lambda line: self._write(f"  {line}"), lambda text, fraction: self._show(f"  {text}", fraction)
        )
        inner.document = self.document
        return inner
