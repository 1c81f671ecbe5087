"""`pgvigil sessions`: who is connected."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict

from pgvigil.commands.common import options, output
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.errors import UsageError

GROUP = Group.LOOK
SUMMARY = "sessions that are connected: list them, kill one, tail their statements (until Ctrl-C)"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    command.add_argument("action", choices=("list", "kill", "tail"))
    command.add_argument("session", nargs="?", metavar="SESSION", help="with kill and tail: its id, see list")
    command.add_argument(
        "--mode", choices=("cancel", "terminate", "escalate"), default="terminate",
        help="with kill: end its statement, the session, or first the one and then the other (default %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--grace", type=options.seconds, default=5, metavar="SECONDS",
        help="with kill: how long to wait for its end (default %(default)s)",
    )  # fmt: skip
    options.add_json(command, "print JSON instead of lines; with tail: one document a line")


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.diagnostics import sessions

    if (arguments.action == "kill" and not arguments.session) or (arguments.action == "list" and arguments.session):
        raise UsageError("`sessions kill` takes the id of a session; list takes none", "See sessions --help.")
    target = required_target(arguments)
    if arguments.action == "kill":
        done = sessions.kill(target, arguments.session, arguments.mode, arguments.grace)
        print(json.dumps({"ok": True, "reason": done}) if arguments.json else done)
    elif arguments.action == "list":
        found = sessions.active(target)
        if arguments.json:
            print(output.json_text([asdict(session) for session in found]))
        elif not found:
            print("no session is registered: an application registers its connections with pgvigil.instrument()")
        else:
            _print_table(
                [
                    str(session.session_id),
                    f"{session.start_time:%Y-%m-%d %H:%M:%S%z}",
                    f"{session.username} ({session.application_name})"
                    if session.application_name
                    else str(session.username),
                    f"{session.peer or session.hostname} pid {session.backend_pid or '-'}",
                    session.sql_text or "",
                ]
                for session in found
            )
    else:
        with suppress(KeyboardInterrupt):  # the way to end it
            for one in sessions.follow(target, arguments.session):
                if arguments.json:
                    print(json.dumps(asdict(one), default=str), flush=True)
                    continue
                took = f"{one.duration_ms} ms" if one.duration_ms is not None else ""
                line = f"{one.execution_start_time:%H:%M:%S}  {one.username:<16}  {one.status:<9}  {took:>9}  {one.sql_text or ''}"
                print(output.statement_line(f"{line}  {one.error_message or ''}"), flush=True)
    return 0


def _print_table(rows: Iterable[list[str]]) -> None:
    """Print rows in aligned columns; the last one is a statement, which ends its line."""
    shown = [[output.statement_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in list(zip(*shown, strict=True))[:-1]]
    for *cells, last in shown:
        print("  ".join([*(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)), last]).rstrip())
