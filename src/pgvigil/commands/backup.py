"""`pgvigil backup`: backups between migrations."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgvigil.commands.common import options, output
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.text import one_line, page, print_report, quoted

if TYPE_CHECKING:
    from pgvigil.backup.catalogue import Entry, Pruned

GROUP = Group.BACKUPS
SUMMARY = "verified backups: create, list, verify, prune, record"

_STYLES = {
    "^verified(?= )": "green",
    "^(?:failed|damaged|missing)(?= )": "red",
    "^(?:unverified|abandoned|no manifest|foreign)(?= )": "yellow",
    "^state .*": "bold",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    actions = options.actions(command)
    create = options.add_action(actions, "create", "take a full backup and verify it")
    options.add_database(create)
    group = create.add_argument_group("backup")
    options.add_backup_directory(group)
    options.add_proof(group, "restore")
    options.add_owner_code(group)
    options.add_json(create)
    listing = options.add_action(actions, "list", "list the backups and which are verified, without a server")
    options.add_backup_directory(listing)
    options.add_json(listing)
    verify = options.add_action(
        actions,
        "verify",
        "verify a backup: restore it into a scratch database, compare, and record the outcome in its manifest",
    )
    options.add_database(verify)
    verify.add_argument(
        "archive", nargs="?", type=Path, metavar="ARCHIVE",
        help="a .dump, or its name in the list (default: the newest full one of the database)",
    )  # fmt: skip
    group = verify.add_argument_group("backup")
    options.add_backup_directory(group)
    options.add_owner_code(group)
    options.add_json(verify)
    prune = options.add_action(actions, "prune", "delete old backups and files of killed runs, without a server")
    options.add_backup_directory(prune)
    options.add_keep_days(prune)
    options.add_json(prune)
    record = options.add_action(
        actions, "record", "record that a backup was taken by other means, for jobs that require one"
    )
    options.add_database(record)
    record.add_argument(
        "--external", required=True, metavar="TEXT", help="where it is, or what took it; it counts as taken now"
    )


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.backup import catalogue
    from pgvigil.backup import create as backup
    from pgvigil.display import reporter
    from pgvigil.maintenance import backups

    directory = getattr(arguments, "backup_dir", None) or backup.default_directory()
    if arguments.action == "list":
        entries = catalogue.listing(directory)
        if arguments.json:
            print(output.json_text(_document(entries)))
        else:
            print_report(_text(entries, directory), _STYLES)
    elif arguments.action == "prune":
        pruned = catalogue.prune(directory, arguments.keep_days)
        print(output.json_text(_pruned_document(pruned)) if arguments.json else _pruned_text(pruned))
    elif arguments.action == "record":
        print(backups.record(required_target(arguments), arguments.external))
    else:
        target = required_target(arguments)
        with reporter() as log:
            if arguments.action == "create":
                made = backups.create(
                    target, directory, arguments.verify_backup, log, run_owner_code=arguments.run_owner_code
                )
            else:
                archive = (
                    backups.named(arguments.archive, directory)
                    if arguments.archive
                    else backups.newest(target, directory)
                )
                made = backups.verify(target, archive, log, run_owner_code=arguments.run_owner_code)
        print(
            output.json_text(asdict(made))
            if arguments.json
            else page([quoted(str(made.archive)), f"  {made.verified}"])
        )
    return 0


def _document(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Return the backups for machines: the manifests without their tables and extensions, the size on disk, and the state."""
    plain = []
    for entry in entries:
        described = asdict(entry.backup) if entry.backup else {}
        tables = described.pop("tables", {})
        described.pop("extensions", None)
        rows = entry.backup.rows if entry.backup else None
        of_file = {"state": entry.state, "archive": str(entry.archive), "size_on_disk": entry.size}
        plain.append(described | of_file | {"tables": len(tables), "rows": rows})
    return plain


def _pruned_document(pruned: Pruned) -> dict[str, Any]:
    """Return the result for machines."""
    return {"removed": _document(pruned.removed), "spared": _document(pruned.spared)}


def _pruned_text(pruned: Pruned) -> str:
    """Return the result for people."""
    lines = [f"deleted {quoted(str(entry.archive))}" for entry in pruned.removed] or ["nothing to delete"]
    why = "it is the last one of its database, or is being read"
    return page(lines + [f"kept    {quoted(str(entry.archive))}: {why}" for entry in pruned.spared])


def _text(entries: list[Entry], directory: Path) -> str:
    """Return the backups for people, newest first."""
    if not entries:
        return f"no backups in {directory}"
    width = max(len(one_line(entry.backup.database)) if entry.backup else 0 for entry in entries)

    def row(
        state: str, taken: str, name: str, at: str, kind: str, mb: str, rows: str, checked: str, archive: str
    ) -> str:
        return f"{state:<12}{taken:<22}{name:<{max(width, 8) + 2}}{at:<6}{kind:<9}{mb:>10}{rows:>14}  {checked:<22}{archive}"

    lines = [row("state", "taken", "database", "at", "kind", "MB", "rows", "checked", "archive")]
    for entry in entries:
        made, size = entry.backup, f"{entry.size / 1e6:.1f}"
        if made is None:
            lines.append(row(entry.state, "", "", "", "", size, "", "", quoted(entry.archive.name)))
            continue
        name, at, rows = one_line(made.database), one_line(made.revision or "base"), f"{made.rows:,}"
        taken, checked = (_moment(moment) for moment in (made.began_at, made.verified_at))
        lines.append(row(entry.state, taken, name, at, made.kind, size, rows, checked, quoted(entry.archive.name)))
        lines += [
            f"{'':<12}{finding}" for finding in ([made.verified] if entry.state == "failed" else []) + made.findings
        ]
        lines += [f"{'':<12}not in the backup: {left}" for left in made.left_out]
    return page(lines)


def _moment(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M:%SZ}"
