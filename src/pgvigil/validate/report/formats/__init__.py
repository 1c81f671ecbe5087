"""The formats of a report, one module each: a new module is a new choice of --format. All show the same findings, notes and gaps."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from pgvigil import registry
from pgvigil.text import wants_colour
from pgvigil.validate.report.formats import text
from pgvigil.validate.report.model import Report

__all__ = ["FORMATS", "render", "wants_colour"]

FORMATS = tuple(registry.modules("validate.report.formats"))


def render(report: Report, format: str = "text", *, spec: Path | None = None, colour: bool = False) -> str:
    """The report without a newline at its end. `spec` is the path of the file, for the forms that point into it."""
    if format == "text":
        return text.render(report, colour=colour)
    # Imported when needed: a verdict in plain text must not wait for an XML library.
    rendered: str = import_module(f"{__name__}.{format}").render(report, address(spec) if spec else report.spec)
    return rendered


def address(spec: Path) -> str:
    """The file as a CI system knows it: with slashes, from the top of the checkout, which is where jobs run."""
    top = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
    file = spec.resolve()
    return (file.relative_to(top) if file.is_relative_to(top) else file).as_posix()
