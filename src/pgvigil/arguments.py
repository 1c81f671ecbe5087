"""What can be typed: commands, options, help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from pgvigil import __version__, project

EXIT_CODES = """\
exit codes:
  0 ok                         5 no proved backup
  1 findings                   6 locked by somebody else
  2 usage, or a broken file    7 a migration failed and was rolled back
  3 cannot connect             8 migrated, but the schema does not meet the spec
  4 precondition not met       9 restore failed          130 interrupted

The database is named by --database-url, else DATABASE_URL, else PG* variables and service files, else a .env file
(in the current directory or the project), else it is the embedded server's, if there is one.
"""


def parser(runs: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.ArgumentParser:
    """Each command by name, and the function that runs it as `run` of what is parsed."""
    whole = argparse.ArgumentParser(
        prog="pgvigil", description="Brings a session database to a schema that watches it, and keeps it there.",
        epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    whole.add_argument("--version", action="version", version=f"pgvigil {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    where = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    where.add_argument("--database-url", metavar="URL", help="the database (environment: DATABASE_URL)")
    schema = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    schema.add_argument(
        "--schema", metavar="NAME", help="schema of the application's tables (default: the ledger's, else public)"
    )
    careful = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    careful.add_argument(
        "--lock-wait",
        type=_seconds,
        default=10,
        metavar="SECONDS",
        help="wait this long for another run to finish (default %(default)s)",
    )
    careful.add_argument(
        "--lock-budget",
        type=_seconds,
        default=60,
        metavar="SECONDS",
        help="try this long to get table locks (default %(default)s)",
    )
    kept = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    kept.add_argument(
        "--backup-dir",
        type=Path,
        metavar="DIR",
        help="where backups go (environment: PGVIGIL_BACKUP_DIR; default: the user's state directory)",
    )

    kept.add_argument(
        "--backup",
        choices=("full", "schema", "none", "command"),
        default="full",
        help="what to back up first (default %(default)s); command: --backup-command does it",
    )
    kept.add_argument(
        "--verify-backup",
        choices=("read", "restore"),
        default="read",
        help="prove the archive by decoding all of it, or by restoring it into a scratch database and comparing (default %(default)s)",
    )
    kept.add_argument(
        "--backup-command", metavar="CMD", help="your own backup, run by /bin/sh; exit status 0 means done"
    )

    def add(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=text, parents=list(parents), epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        command.set_defaults(run=runs[name])
        return command

    setup = add(
        "setup", "build the schema in a new database, or validate the one that is there", where, schema, careful
    )
    setup.add_argument(
        "--wait", type=_seconds, default=0, metavar="SECONDS", help="wait this long for the server to answer"
    )
    migrate = add(
        "migrate",
        "bring an existing database to the schema: backup, migrations, validation",
        where,
        schema,
        careful,
        kept,
    )
    migrate.add_argument(
        "--wait-for-blockers",
        type=_seconds,
        default=0,
        metavar="SECONDS",
        help="wait this long for long transactions to end (default %(default)s)",
    )
    migrate.add_argument(
        "--accept-checksum",
        action="append",
        default=[],
        metavar="NNN",
        help="the edit of this file is in the database already: record its new checksum",
    )
    migrate.add_argument(
        "--rehearse",
        action="store_true",
        help="first run the migrations on a scratch copy of the backup, and tell its locks",
    )
    migrate.add_argument(
        "--max-lock-ms",
        type=_seconds,
        metavar="MS",
        help="with --rehearse: do not run when a table was locked against writers for longer",
    )
    migrate.add_argument("--json", action="store_true", help="one JSON document on stdout instead of the report")
    migrate.add_argument("--dry-run", action="store_true", help="print plan and SQL, change nothing")
    revert = add("revert", "take migrations out again, after a backup", where, schema, careful, kept)
    revert.add_argument("--to", required=True, metavar="REVISION", help='the revision to stay at, or "base" for none')
    restore = add("restore", "put a backup in the database's place, which is kept under another name", where)
    restore.add_argument("archive", type=Path, metavar="ARCHIVE", help="a .dump that pgvigil took, its .json beside it")
    restore.add_argument("--overwrite-newer", action="store_true", help="also when rows were written after the backup")
    add("status", "list the migrations and which are in the database", where)
    validate = add("validate", "hold the live schema against the spec", where, schema)
    validate.add_argument(
        "--format", choices=("text", "json"), default="text", help="form of the report (default %(default)s)"
    )
    validate.add_argument(
        "--offline", action="store_true", help="check spec, migrations and init script only; ask no server"
    )
    validate.add_argument(
        "--self-test",
        action="store_true",
        help="also exercise triggers and views, in a transaction that is rolled back",
    )
    init = add("init-sql", "print the script that builds the schema with psql alone")
    init.add_argument("--write", action="store_true", help=f"write {project.INIT_SQL.name} instead")
    server = add("server", "the embedded server: start, stop, status, url")
    server.add_argument("action", choices=("start", "stop", "status", "url"))
    return whole


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return value
