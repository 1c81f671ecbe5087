"""The faults of a measured statement in words, and the safe rewrite."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pgvigil.lint import advice
from pgvigil.lint.measure import BLOCKS_WRITERS, Measured
from pgvigil.migration.sql_lexer import Statement

# Measured: each grows with the table.
RULES = {
    "rewrite": "A table is written again in full under a lock that stops writers",
    "full-read": "A table is read in full under a lock that stops writers",
    "bulk-change": "One statement changes rows of a whole table: its row locks and its dead rows grow with the table",
    "no-transaction": "A statement that cannot run in a transaction is in a file that runs in one",
    "session-reset": "A statement removes the lock timeout, or the run lock, of the migration tool",
    # Notes: they take no time, but break what runs beside them.
    "drop-column": "An application that still reads or writes the column fails",
    "drop-table": "An application that still uses the table fails",
    "rename": "An application that uses the old name fails",
    "truncate": "All rows are deleted, under a lock that stops readers",
    "if-not-exists": "An INVALID index that an earlier attempt left is taken for the finished one",
    "time-zone": "The table is rewritten where the server's TimeZone is another one",
}  # fmt: skip
NOTES = ("drop-column", "drop-table", "rename", "truncate", "if-not-exists", "time-zone")
_STOPS = {
    "ShareLock": "SHARE: nobody writes meanwhile",
    "ShareRowExclusiveLock": "SHARE ROW EXCLUSIVE: nobody writes meanwhile",
    "ExclusiveLock": "EXCLUSIVE: nobody writes meanwhile",
    "AccessExclusiveLock": "ACCESS EXCLUSIVE: nobody reads or writes meanwhile",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A finding of a rule. `severity` is "finding" or "note"; `allowed` is the reason of the comment that allows it."""

    rule: str
    path: str
    line: int
    table: str
    message: str
    statement: str
    instead: str
    severity: str = "finding"
    allowed: str = ""


def findings(measured: Measured) -> Iterator[Finding]:
    """Return the findings on one statement."""
    statement = measured.statement
    for rule, table, message in _seen(measured):
        yield Finding(
            rule, str(measured.source.path), statement.line, table, message, " ".join(statement.text.split()),
            advice.instead(rule, statement, table), "note" if rule in NOTES else "finding",
        )  # fmt: skip


def _seen(measured: Measured) -> Iterator[tuple[str, str, str]]:
    statement = measured.statement
    if measured.outside and measured.error:
        yield "no-transaction", "", measured.error
    for table in measured.rewrites:
        yield "rewrite", table, f"rewrites all of {table}{_under(measured, table)}"
    for table in measured.reads:
        if table in measured.rewrites:
            continue
        if table in measured.changes and not measured.statement.starts_with("INSERT"):
            yield "bulk-change", table, f"goes through all of {table} in one transaction"
        elif measured.held:
            yield "full-read", table, f"reads all of {table}{_under(measured, table)}"
    for table in measured.elsewhere:
        yield "time-zone", table, f"rewrites all of {table} where TimeZone is not the one measured with"
    yield from _text(statement)


def _under(measured: Measured, table: str) -> str:
    """The lock that is held meanwhile: the table's own, else the strongest of the transaction."""
    at = table if table in measured.held else _strongest(measured)
    if at is None:
        return ""
    mode, line = measured.held[at]
    whose = "" if at == table else f" on {at}"
    since = "" if line == measured.statement.line else f" (since line {line}, until the transaction ends)"
    return f" under {_STOPS[mode].replace(':', f'{whose}{since}:', 1)}"


def _strongest(measured: Measured) -> str | None:
    return max(measured.held, key=lambda name: BLOCKS_WRITERS.index(measured.held[name][0]), default=None)


def _text(statement: Statement) -> Iterator[tuple[str, str, str]]:
    """Return the findings that need no measurement."""
    words = [t.text.upper() for t in statement.tokens]
    if words[0] == "ALTER" and words[1:2] in (["TABLE"], ["VIEW"], ["MATERIALIZED"], ["TYPE"], ["FUNCTION"]):
        name = advice.target(statement)
        for at, word in enumerate(words):
            if (
                word == "RENAME"
                and words[at + 1 : at + 2] != ["CONSTRAINT"]
                and words[1] in ("TABLE", "VIEW", "MATERIALIZED")
            ):
                yield "rename", name, f"renames {name}, or a column of it"
            elif word == "DROP" and words[at - 1] not in ("COLUMN", "SET") and _drops_column(words, at):
                yield "drop-column", name, f"drops a column of {name}"
    elif words[:2] == ["DROP", "TABLE"] or words[:2] == ["DROP", "VIEW"]:
        yield "drop-table", advice.target(statement), f"drops {advice.target(statement)}"
    elif words[0] == "TRUNCATE":
        yield "truncate", advice.target(statement), f"deletes all rows of {advice.target(statement)}"
    if words[0] == "CREATE" and "CONCURRENTLY" in words[2:4] and words[words.index("CONCURRENTLY") + 1 :][:1] == ["IF"]:
        yield "if-not-exists", "", "is skipped where an INVALID index of this name was left behind"
    if (
        words[:1] == ["DISCARD"]
        or "PG_ADVISORY_UNLOCK_ALL" in words
        or (words[:1] == ["RESET"] and words[1:2] in (["ALL"], ["LOCK_TIMEOUT"]))
        or (words[:1] == ["SET"] and "LOCK_TIMEOUT" in words and words[-1].strip("'") in ("0", "DEFAULT"))
    ):
        yield "session-reset", "", f"{statement.text.strip()} changes the session of the tool that runs this file"


def _drops_column(words: Sequence[str], at: int) -> bool:
    """Return true if the DROP at this place of an ALTER TABLE takes a column away."""
    following = words[at + 1 : at + 2]
    if words[at - 1] != "," and at > 0 and not _begins_action(words, at):
        return False
    return following not in (["CONSTRAINT"], ["NOT"], ["DEFAULT"], ["IDENTITY"], ["EXPRESSION"], [])


def _begins_action(words: Sequence[str], at: int) -> bool:
    """Return true if an action of ALTER TABLE begins here: ALTER COLUMN c DROP NOT NULL has its DROP inside."""
    before = list(words[:at])
    last = max((n for n, word in enumerate(before) if word == ","), default=1)
    return "ALTER" not in before[last:] and not re.search(r"[(]", " ".join(before[last:]))
