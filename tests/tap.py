"""Run pgTAP without a TAP harness: run a script over a connection, and read the TAP that its SELECTs return."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import pq

PLAN = re.compile(r"1\.\.(?P<count>\d+)(?:\s*#\s*SKIP\b\s*(?P<why>.*))?", re.IGNORECASE)
RESULT = re.compile(
    r"""(?P<not>not\s)?ok\b\s*(?P<number>\d+)?\s*-?\s*
        (?P<description>(?:\\.|[^#\\]|\#(?!\s*(?:TODO|SKIP)\b))*?)\s*   # "\#" is text, and so is "#" before other words
        (?:\#\s*(?P<directive>TODO|SKIP)\b\s*(?P<reason>.*))?""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass
class Assertion:
    ok: bool
    number: int
    description: str
    directive: str = ""
    reason: str = ""
    diagnostics: list[str] = field(default_factory=list)


@dataclass
class Tap:
    """The report of a script; `problems` are failures of the script as a whole (a wrong plan, an SQL error)."""

    planned: int | None = None
    skip_all: str = ""
    assertions: list[Assertion] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def parse(lines: list[str]) -> Tap:
    tap = Tap()
    for line in lines:
        if plan := PLAN.fullmatch(line):
            tap.planned = int(plan["count"])
            tap.skip_all = (plan["why"] or "skipped without a reason") if tap.planned == 0 else ""
        elif line.startswith("Bail out!"):
            tap.problems.append(line)
        elif result := RESULT.fullmatch(line):
            number = len(tap.assertions) + 1
            if result["number"] and int(result["number"]) != number:
                tap.problems.append(f"out of sequence: {line}")
            tap.assertions.append(
                Assertion(
                    ok=not result["not"],
                    number=number,
                    description=result["description"].replace("\\#", "#"),
                    directive=(result["directive"] or "").upper(),
                    reason=result["reason"] or "",
                )
            )
        elif line.startswith("#") and tap.assertions:
            tap.assertions[-1].diagnostics.append(line)
    if tap.planned is None:
        tap.problems.append("no plan: the script ended before plan() or finish()")
    elif tap.planned != len(tap.assertions):
        tap.problems.append(f"planned {tap.planned} assertions but ran {len(tap.assertions)}")
    return tap


def run(connection: psycopg.Connection[Any], script: str) -> Tap:
    """Send the script in one piece and keep what it printed before an error, which Cursor.execute would drop."""
    assert connection.autocommit
    lines: list[str] = []
    problems: list[str] = []
    connection.pgconn.send_query(script.encode())
    while result := connection.pgconn.get_result():
        if result.status == pq.ExecStatus.TUPLES_OK:
            for row in range(result.ntuples):
                for column in range(result.nfields):
                    lines += (result.get_value(row, column) or b"").decode().split("\n")
        elif result.status == pq.ExecStatus.FATAL_ERROR:
            position = int(result.error_field(pq.DiagnosticField.STATEMENT_POSITION) or 0)
            where = f"line {script.count(chr(10), 0, position) + 1}: " if position else ""
            problems.append(where + (result.error_message or b"").decode().strip())
    if connection.info.transaction_status != pq.TransactionStatus.IDLE:
        connection.execute("ROLLBACK")
    tap = parse(lines)
    tap.problems[:0] = problems
    return tap
