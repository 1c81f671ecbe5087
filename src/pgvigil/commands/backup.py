"""`pgvigil backup`: backups between migrations."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from pgvigil.commands.common import options, output
from pgvigil.commands.common.target import required_target
from pgvigil.text import page, print_report, quoted

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
    from pgvigil.display import journal
    from pgvigil.maintenance import backups

    directory = getattr(arguments, "backup_dir", None) or backup.default_directory()
    if arguments.action == "list":
        entries = catalogue.listing(directory)
        if arguments.json:
            print(output.json_text(backups.document(entries)))
        else:
            print_report(backups.text(entries, directory), _STYLES)
    elif arguments.action == "prune":
        pruned = catalogue.prune(directory, arguments.keep_days)
        print(output.json_text(backups.pruned_document(pruned)) if arguments.json else backups.pruned_text(pruned))
    elif arguments.action == "record":
        print(backups.record(required_target(arguments), arguments.external))
    else:
        target = required_target(arguments)
        with journal() as log:
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
