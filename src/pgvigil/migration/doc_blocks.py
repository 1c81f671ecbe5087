"""The tables of the documentation that are made from the code and the migrations: commands, checks, events.

No server is used.

A block is between `<!-- generated: NAME -->` and `<!-- end -->` on a page of docs/.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from pgvigil import registry
from pgvigil.errors import EXIT_CODES
from pgvigil.migration.files import Migration
from pgvigil.migration.sql_lexer import Statement, Token, statements

Row = dict[str, str | None]

_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.S)
_CODE = re.compile(r"(?<![\w`./-])(--\w[\w-]*|\w+_\w+(?: = \w+)?)(?![\w`/])")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def pages(directory: Path, migrations: Iterable[Migration]) -> dict[Path, str]:
    """Return the text that each page with a block should have. Raise KeyError for a block of another name."""
    scripts = [migration.script for migration in migrations]
    makers: dict[str, Callable[[], str]] = {
        "exit_codes": _exit_codes,
        "checks": lambda: _checks(seeds(scripts, "alert_thresholds")),
        "jobs": lambda: _jobs(seeds(scripts, "jobs")),
        "events": lambda: _events(_event_comment(scripts)),
        "commands": _commands,
        "formats": _formats,
    }
    found = {}
    for page in sorted(directory.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if _BLOCK.search(text):
            found[page] = _BLOCK.sub(lambda block: block[1] + makers[block[2]]() + block[3], text)
    return found


def seeds(scripts: Iterable[str], table: str) -> list[Row]:
    """Return the rows that migrations insert into a table of pgvigil, with their constants as text; of others nothing is known."""
    rows: list[Row] = []
    for script in scripts:
        for statement in statements(script):
            if statement.starts_with("INSERT", "INTO", "PGVIGIL", ".", table.upper()):
                rows += _rows(statement)
    return rows


def event_types(scripts: Iterable[str]) -> list[str]:
    """Return the types of events in the order of the list in domain pgvigil.event_type."""
    for statement in _of_event_type(scripts, "CREATE"):
        return _joined(statement.tokens).strip("{}").split(",")
    raise LookupError("no migration makes pgvigil.event_type")


def _event_comment(scripts: Iterable[str]) -> str:
    return next(_joined(statement.tokens) for statement in _of_event_type(scripts, "COMMENT", "ON"))


def _of_event_type(scripts: Iterable[str], *verb: str) -> Iterator[Statement]:
    for script in scripts:
        for statement in statements(script):
            if statement.starts_with(*verb, "DOMAIN", "PGVIGIL", ".", "EVENT_TYPE"):
                yield statement


def _joined(words: Iterable[Token]) -> str:
    return "".join(word.text[1:-1] for word in words if word.kind == "string").replace("''", "'")


def _rows(statement: Statement) -> Iterator[Row]:
    words = statement.tokens[5:]
    closes = next(at for at, token in enumerate(words) if token.text == ")")
    columns = [token.text for token in words[1:closes] if token.text != ","]
    for values in _tuples(words[closes + 1 :]):
        yield dict(zip(columns, map(_constant, values), strict=True))


def _tuples(words: Sequence[Token]) -> Iterator[list[list[Token]]]:
    """Yield the values of each row: of VALUES, or the one of a SELECT."""
    if words[0].text.upper() == "SELECT":
        yield _split(takewhile(lambda token: token.text.upper() != "FROM", words[1:]))
        return
    row: list[Token] | None = None
    depth = 0
    for token in words[1:]:
        depth += (token.text == "(") - (token.text == ")")
        if row is None:
            row = [] if depth else None
        elif depth:
            row.append(token)
        else:
            yield _split(row)
            row = None


def _split(words: Iterable[Token]) -> list[list[Token]]:
    values: list[list[Token]] = [[]]
    depth = 0
    for token in words:
        depth += (token.text == "(") - (token.text == ")")
        if token.text == "," and not depth:
            values.append([])
        else:
            values[-1].append(token)
    return values


def _constant(words: list[Token]) -> str | None:
    text = words[0].text
    if all(word.kind == "string" for word in words):  # literals over several lines are one
        return _joined(words)
    return None if len(words) > 1 or text.upper() == "NULL" else text


# --- the tables ------------------------------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], re.sub(r"[^|]+", "---", lines[0]), *lines[1:], ""])


def _words(text: str | None) -> str:
    """Return text with names of columns, tables and options as code."""
    return _CODE.sub(r"`\1`", text or "")


def _exit_codes() -> str:
    return _table(("code", "meaning"), ((str(code), meaning) for code, meaning in EXIT_CODES.items()))


def _commands() -> str:
    rows = ((f"`pgvigil {name}`", text) for name, text in _said("commands", "SUMMARY"))
    return _table(("command", "what it does"), rows)


def _formats() -> str:
    package = "validate.report.formats"
    finding = dict(_said(package, "FINDING"))
    return _table(
        ("`--format`", "for", "a finding is"), ((name, text, finding[name]) for name, text in _said(package, "SUMMARY"))
    )


def _said(package: str, constant: str) -> Iterator[tuple[str, str]]:
    """Yield each module of a registry with a constant of it, which is read without importing the module."""
    folder = Path(registry.__file__).parent.joinpath(*package.split("."))
    for name in registry.modules(package):
        for node in ast.parse((folder / f"{name}.py").read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == constant:
                yield name.replace("_", "-"), ast.literal_eval(node.value)


def _events(comment: str) -> str:
    """Return a table of the lines `type: change; keys of event_data` in the comment on the domain.

    Its first line is left out.
    """
    rows = []
    for line in comment.splitlines()[1:]:
        name, change, data = re.fullmatch(r"(\w+): (.*); (.*)", line).groups()  # type: ignore[union-attr]
        rows.append((name, _words(change), ", ".join(f"`{key}`" for key in data.split(", "))))
    return _table(("event_type", "change", "event_data besides actor"), rows)


def _checks(rows: list[Row]) -> str:
    levels = ("warning", "critical")
    return _table(
        ("check", "value", *levels),
        ((row["check_name"] or "", _words(row["meaning"]), *(_level(row[level]) for level in levels)) for row in rows),
    )


def _level(value: str | None) -> str:
    return "never" if value is None else f"{float(value):,.15g}"


def _jobs(rows: list[Row]) -> str:
    return _table(
        ("job", "when (UTC)", "what it does"),
        (
            (row["job"] or "", _schedule(row["every"] or "", row.get("at") or "0"), _words(row["purpose"]))
            for row in rows
        ),
    )


def _schedule(every: str, at: str) -> str:
    """Turn `7 days`, `3 hours` into `Monday 03:00`. Weeks begin on Monday, months on the 1st, days at midnight."""
    number, _, unit = every.partition(" ")
    parts = {name.rstrip("s"): int(count) for count, name in re.findall(r"(\d+) (\w+)", at)}
    time = f" {parts.get('hour', 0):02}:{parts.get('minute', 0):02}" if parts else ""
    if every == "7 days":
        return _DAYS[parts.get("day", 0)] + time
    if every == "1 month":
        day = parts.get("day", 0)
        return f"{'1st' if day == 0 else f'day {day + 1}'} of a month{time}"
    if every == "1 day":
        return f"daily{time}"
    return f"every {unit}" if number == "1" else f"every {every}"
