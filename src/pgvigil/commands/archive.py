"""`pgvigil archive`: the Parquet files that retention's rows went into."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pgvigil.commands.common import options, output
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.text import counted, page, quoted

if TYPE_CHECKING:
    from pgvigil.archives.catalogue import Archive, Verified

GROUP = Group.JOBS
SUMMARY = "archives of dropped rows: list, verify, restore, erase a session"


def add_arguments(command: argparse.ArgumentParser) -> None:
    actions = options.actions(command)
    listing = options.add_action(actions, "list", "print which archives there are")
    verify = options.add_action(
        actions, "verify", "read all files and compare them; exit 11 when one is damaged or missing"
    )
    restore = options.add_action(actions, "restore", "put archived rows into a table of their own")
    erase = options.add_action(
        actions, "erase", "rewrite the files that hold a session, without it; an audit row is written"
    )
    for action in (listing, verify, restore, erase):
        options.add_database(action)
    for action in (listing, verify):
        options.add_json(action)
    for action in (verify, restore, erase):
        action.add_argument(
            "--archive", metavar="DIR|URL",
            help="where the files are now, if they were moved (environment: PGVIGIL_ARCHIVE_AT; default: where they were written)",
        )  # fmt: skip
    restore.add_argument("source", metavar="TABLE", help="the table, as in list")
    restore.add_argument("--since", type=options.moment, metavar="TIME", help="rows from this time on (ISO 8601, UTC)")
    restore.add_argument("--until", type=options.moment, metavar="TIME", help="rows before this time")
    restore.add_argument("--into", metavar="NAME", help="the new table, perhaps with a schema (default restored_TABLE)")
    restore.add_argument("--into-database", metavar="NAME", help="make this database, and the table in it")
    erase.add_argument("session", metavar="SESSION", help="the id of the session")
    erase.add_argument("--reason", required=True, metavar="TEXT", help="why, for the audit: pgvigil.archive_erasures")


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.archives import catalogue, erase, restore
    from pgvigil.display import reporter
    from pgvigil.errors import ArchiveError

    target = required_target(arguments)
    if arguments.action == "list":
        with catalogue.connect(target, "list") as conn:
            found = catalogue.read(conn)
        print(output.json_text(_document(found)) if arguments.json else _text(found))
        return 0
    moved_to = arguments.archive or os.environ.get("PGVIGIL_ARCHIVE_AT")
    if arguments.action == "verify":
        seen, strays = catalogue.verify(target, moved_to)
        shown = _verified_document(seen, strays) if arguments.json else None
        print(output.json_text(shown) if shown else _verified_text(seen, strays))
        return ArchiveError.exit_code if any(one.fault for one in seen) else 0
    with reporter() as log:
        if arguments.action == "erase":
            said = erase.erase(target, arguments.session, arguments.reason, log, moved_to=moved_to)
        else:
            table = arguments.into or f"restored_{arguments.source.rpartition('.')[2]}"
            rows = restore.restore(
                target, arguments.source, arguments.since, arguments.until, log,
                table=table, database=arguments.into_database, moved_to=moved_to,
            )  # fmt: skip
            said = f"restored {counted(rows, 'row')} into {table}"
            if arguments.into_database:
                said += f" of database {arguments.into_database}"
    sys.stdout.write(f"{said}\n")
    return 0


def _document(archives: list[Archive]) -> list[dict[str, Any]]:
    """Return the archives for machines."""
    return [asdict(archive) for archive in archives]


def _text(archives: list[Archive]) -> str:
    """Return the archives for people."""
    if not archives:
        return "no archives"
    lines = [f"{'state':<12}{'table':<32}{'from (UTC)':<18}{'to':<18}{'rows':>12}{'MB':>10}  manifest"]
    for one in archives:
        rows, size = (f"{one.rows:,}", f"{(one.bytes or 0) / 1e6:.1f}") if one.rows is not None else ("", "")
        lines.append(
            f"{one.state:<12}{one.source:<32}{_moment(one.from_time):<18}{_moment(one.to_time):<18}{rows:>12}{size:>10}"
            f"  {quoted(f'{one.location}/{one.path}')}"
        )
    kept = [one for one in archives if one.state in ("file", "copy")]
    lines.append(
        f"{counted(len(kept), 'archive')}, {sum(one.rows or 0 for one in kept):,} rows, {sum(one.bytes or 0 for one in kept) / 1e6:.1f} MB"
    )
    return page(lines)


def _verified_text(found: list[Verified], strays: list[str]) -> str:
    """Return the result of the check for people."""
    lines = [
        f"DAMAGED  {one.archive.source} from {_moment(one.archive.from_time)}: {one.fault}"
        for one in found
        if one.fault
    ]
    lines += [f"unknown  {quoted(name)}: no archive of this database has it, and it is not read" for name in strays]
    whole = sum(not one.fault for one in found)
    lines.append(
        f"{counted(whole, 'archive')} of {len(found):,} whole, {sum(one.archive.rows or 0 for one in found if not one.fault):,} rows"
    )
    return page(lines)


def _verified_document(found: list[Verified], strays: list[str]) -> dict[str, Any]:
    """Return the result of the check for machines."""
    return {"archives": [asdict(one.archive) | {"fault": one.fault} for one in found], "unknown_files": strays}


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
