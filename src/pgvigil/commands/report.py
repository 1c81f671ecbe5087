"""`pgvigil report`: what the last days brought, for a mail or a page."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, Any, Final

from pgvigil.commands.common import options, output
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.text import one_line, page

if TYPE_CHECKING:
    from pgvigil.diagnostics.report import Report

GROUP = Group.LOOK
SUMMARY = "report sessions, executions, operations, jobs, checks and anomalies of the last days"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    command.add_argument(
        "--days", type=_days, default=7, metavar="N", help="how many days, 1 to 365 (default %(default)s)"
    )
    command.add_argument(
        "--format", choices=("text", "html", "json"), default="text", help="format of the report (default %(default)s)"
    )


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 365:
        raise argparse.ArgumentTypeError(f"{text} is not a number of days from 1 to 365")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.diagnostics import report

    found = report.collect(required_target(arguments), arguments.days)
    if arguments.format == "json":
        print(output.json_text(_document(found)))
    else:
        print(_html(found) if arguments.format == "html" else _text(found))
    return 0


def _document(report: Report) -> dict[str, Any]:
    """Return the report for machines."""
    sections = {
        one.name: [{name: _plain(value) for name, value in row.items()} for row in one.rows] for one in report.sections
    }
    return {"database": report.database, "days": report.days, "at": report.at.isoformat(), **sections}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.isoformat() if isinstance(value, datetime) else value


def _words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M")
    plain = _plain(value)
    return f"{plain:,}" if isinstance(plain, (int, float)) else one_line(str(plain))


def _head(report: Report) -> str:
    return f"{one_line(report.database)}: {report.days} days up to {report.at:%Y-%m-%d %H:%M} UTC"


def _text(report: Report) -> str:
    """Return the report for people."""

    def lines() -> Iterator[str]:
        yield _head(report)
        for one in report.sections:
            yield ""
            yield one.title
            if not one.rows:
                yield f"  {one.empty}"
                continue
            table = [
                [name.replace("_", " ") for name in one.rows[0]],
                *([_words(value) for value in row.values()] for row in one.rows),
            ]
            widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
            right = [isinstance(value, (int, float, Decimal)) for value in one.rows[0].values()]
            for row in table:
                cells = [
                    cell.rjust(width) if is_right else cell.ljust(width)
                    for cell, width, is_right in zip(row, widths, right, strict=True)
                ]
                yield "  " + "  ".join(cells).rstrip()

    return page(lines())


_STYLE: Final = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a2029;background:#fff}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #dde1e7}"
    "th{color:#58616d;font-weight:600}td.n,th.n{text-align:right}h2{font-size:1.05rem;margin-top:1.8rem}p{color:#58616d}"
)


def _html(report: Report) -> str:
    """Return the report as a page of its own, without scripts."""
    parts = [
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(_head(report))}</title>\n<style>{_STYLE}</style></head>',
        f"<body>\n<h1>{escape(_head(report))}</h1>",
    ]
    for one in report.sections:
        parts.append(f"<h2>{escape(one.title)}</h2>")
        if not one.rows:
            parts.append(f"<p>{escape(one.empty)}</p>")
            continue
        kinds = ["n" if isinstance(value, (int, float, Decimal)) else "" for value in one.rows[0].values()]
        cell: Callable[[str, str, str], str] = lambda tag, kind, words: f'<{tag} class="{kind}">{escape(words)}</{tag}>'  # noqa: E731
        head = "".join(cell("th", kind, name.replace("_", " ")) for name, kind in zip(one.rows[0], kinds, strict=True))
        body = "\n".join(
            "<tr>"
            + "".join(cell("td", kind, _words(value)) for value, kind in zip(row.values(), kinds, strict=True))
            + "</tr>"
            for row in one.rows
        )
        parts.append(f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>")
    return "\n".join([*parts, "</body>\n</html>"])
