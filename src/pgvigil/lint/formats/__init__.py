"""The formats of a report of lint, one module each: a new module is a new choice of --format. All contain the same findings, notes and gaps."""

from __future__ import annotations

from importlib import import_module

from pgvigil.lint.run import Report


def render(report: Report, form: str, *, locks: bool = False, colour: bool = False) -> str:
    """The report without a newline at its end. `locks`: in text, also what each statement was measured to do."""
    if form == "text":
        from pgvigil.lint.formats import text

        return text.render(report, locks=locks, colour=colour)
    rendered: str = import_module(f"{__name__}.{form}").render(report)
    return rendered
