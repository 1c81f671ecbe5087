"""What can be typed: commands, options, help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from pgvigil import __version__, argv, project

EXIT_CODES = """\
exit codes:
  0 ok                         5 no proved backup
  1 findings                   6 locked by somebody else
  2 usage, or a broken file    7 a migration failed and was rolled back
  3 cannot connect or compare  8 migrated, but the schema does not meet the spec
  4 precondition not met       9 restore failed
  10 a maintenance job failed  70 a defect of pgvigil itself
  130 interrupted

The database is named by --database-url, else DATABASE_URL, else PG* variables and service files, else a .env file
(in the current directory or the project), else it is the embedded server's, if there is one.
"""


Actions: TypeAlias = "argparse._SubParsersAction[Any]"  # argparse has no public name for it


def parser(
    runs: Mapping[str, Callable[[argparse.Namespace], int]], words: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """Each command by name, and the function that runs it as `run` of what is parsed.

    Of `words`, which are to be parsed, no secret is repeated in an error.
    """

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            for word in sorted(words, key=len, reverse=True):
                for spelt in (word, repr(word)[1:-1]):
                    message = message.replace(spelt, argv.shown(word)) if argv.shown(word) != word else message
            super().error(message)

    whole = Parser(
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
    patient = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    patient.add_argument(
        "--lock-budget",
        type=_seconds,
        default=60,
        metavar="SECONDS",
        help="try this long to get table locks (default %(default)s)",
    )
    patient.add_argument(
        "--build-wait",
        type=_seconds,
        default=3600,
        metavar="SECONDS",
        help="let an index build or a validation wait this long for old transactions (default %(default)s)",
    )
    careful = argparse.ArgumentParser(add_help=False, allow_abbrev=False, parents=[patient])
    careful.add_argument(
        "--lock-wait",
        type=_seconds,
        default=10,
        metavar="SECONDS",
        help="wait this long for another run to finish (default %(default)s)",
    )
    shelf = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    shelf.add_argument(
        "--backup-dir",
        type=Path,
        metavar="DIR",
        help="where backups are (environment: PGVIGIL_BACKUP_DIR; default: the user's state directory)",
    )
    owner_code = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    owner_code.add_argument(
        "--run-owner-code",
        action="store_true",
        help="as a superuser: run code of owners who are not superusers (a restored archive runs what is in it)",
    )
    proof = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    proof.add_argument(
        "--verify-backup",
        choices=("read", "restore"),
        default="restore",
        help="prove the backup by decoding all of it, or by restoring it into a scratch database and comparing (default %(default)s)",
    )
    keep = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    keep.add_argument(
        "--keep-days",
        type=_days,
        default=30,
        metavar="DAYS",
        help="let older backups go, but never a database's last proved one (default %(default)s)",
    )
    machine = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    machine.add_argument("--json", action="store_true", help="one JSON document instead of the report")
    kept = argparse.ArgumentParser(add_help=False, allow_abbrev=False, parents=[shelf, owner_code])
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

    statement = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    statement.add_argument("query", nargs="?", metavar="STATEMENT", help="one statement (default: read from stdin)")
    statement.add_argument("-f", "--file", type=Path, metavar="FILE", help="read the statement from there")
    statement.add_argument(
        "-p",
        "--param",
        action="append",
        default=[],
        metavar="VALUE",
        help=r"the value of $1, then of $2, …; \N is NULL (repeatable)",
    )

    def add(name: str, text: str, *parents: argparse.ArgumentParser, to: Actions = commands) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = to.add_parser(
            name, help=text, description=text, parents=list(parents), epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        if to is commands:
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
        "--to",
        metavar="REVISION",
        help='the revision to end at (default: the newest; "base": none); files beyond it are taken out as revert does',
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
    restore = add(
        "restore", "put a backup in the database's place, which is kept under another name", where, shelf, owner_code
    )
    restore.add_argument(
        "archive",
        type=Path,
        metavar="ARCHIVE",
        help="a .dump that pgvigil took, its .json beside it; or its name in the list of backups",
    )
    restore.add_argument("--overwrite-newer", action="store_true", help="also when rows were written after the backup")
    restore.add_argument(
        "--accept-left-out",
        action="store_true",
        help="also when pg_dump has left something out of the archive: rows of tables that extensions own",
    )
    add("status", "list the migrations and which are in the database", where)
    validate = add("validate", "hold the live schema against the spec", where, schema)
    validate.add_argument(
        "--format",
        choices=("text", "json", "junit", "sarif", "github"),
        default="text",
        help="form of the report (default %(default)s)",
    )
    validate.add_argument(
        "--output", type=Path, metavar="FILE", help="write the report there, whole or not at all; the verdict to stderr"
    )
    validate.add_argument(
        "--offline", action="store_true", help="check spec, migrations and init script only; ask no server"
    )
    validate.add_argument(
        "--self-test",
        action="store_true",
        help="also exercise triggers and views, in a transaction that is rolled back",
    )
    validate.add_argument(
        "--run-owner-code",
        action="store_true",
        help="with --self-test, as a superuser: run triggers and functions of owners who are none with a superuser's rights",
    )
    validate.add_argument(
        "--spec",
        type=Path,
        metavar="FILE",
        help="hold it against this spec, of any schema, instead of pgvigil's own (see: spec dump)",
    )
    validate.add_argument(
        "--strict", action="store_true", help="what an application has added to its own tables is a finding too"
    )
    validate.add_argument(
        "--fix-sql", action="store_true", help="print one script of the repairs instead of the report"
    )
    spec = add("spec", "specs of any database: written from one, and what can be made of them")
    actions = spec.add_subparsers(required=True, metavar="ACTION", dest="action")
    of_spec = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    of_spec.add_argument(
        "--spec", type=Path, default=project.SPEC, metavar="FILE", help="the spec (default: that of this project)"
    )
    dump = add("dump", "print a complete spec of what is in a database", where, to=actions)
    dump.add_argument(
        "--schema",
        action="append",
        default=[],
        metavar="NAME",
        help="a schema to write down, the first as the application's (repeatable; default: all that are no system schemas)",
    )
    dump.add_argument(
        "--format", choices=("yaml", "json"), default="yaml", help="JSON is read faster (default %(default)s)"
    )
    docs = add(
        "docs", "print a reference of what a spec declares: Markdown, with a diagram", of_spec, schema, to=actions
    )
    docs.add_argument(
        "--database-url", metavar="URL", help="take the comments from there (default: from this project's migrations)"
    )
    docs.add_argument("--write", action="store_true", help=f"write docs/{project.REFERENCE.name} instead")
    add("tests", "print pgTAP tests of what a spec declares", of_spec, schema, to=actions)
    keys = add("schema", "print a JSON Schema of specs, by which editors complete and check", to=actions)
    keys.add_argument("--write", action="store_true", help=f"write {project.SPEC_SCHEMA.name} instead")
    backup = add("backup", "backups that are proved: create, list, verify, prune, record")
    actions = backup.add_subparsers(required=True, metavar="ACTION", dest="action")
    add("create", "take a full backup and prove it", where, shelf, proof, owner_code, machine, to=actions)
    add("list", "what backups there are and which are proved; asks no server", shelf, machine, to=actions)
    verify = add(
        "verify",
        "prove a backup: restore it into a scratch database, compare, and write the outcome into its manifest",
        where,
        shelf,
        owner_code,
        machine,
        to=actions,
    )
    verify.add_argument(
        "archive",
        nargs="?",
        type=Path,
        metavar="ARCHIVE",
        help="a .dump, or its name in the list (default: the newest full one of the database)",
    )
    add("prune", "let old backups go, and what killed runs left; asks no server", shelf, keep, machine, to=actions)
    record = add("record", "record that a backup was taken by other means, for jobs that want one", where, to=actions)
    record.add_argument(
        "--external", required=True, metavar="TEXT", help="where it is, or what took it; it counts as taken now"
    )
    maintain = add("maintain", "the regular jobs: preview and accept them, run one now, run what is due, their status")
    actions = maintain.add_subparsers(required=True, metavar="ACTION", dest="action")
    one = add("run", "run a job now, due or not", where, patient, shelf, proof, owner_code, keep, to=actions)
    one.add_argument("job", metavar="JOB", help="the job's name, see status")
    one.add_argument("--dry-run", action="store_true", help="say what it would do, change nothing")
    add(
        "run-due",
        "run what is due: for cron or a systemd timer",
        where,
        patient,
        shelf,
        proof,
        owner_code,
        keep,
        to=actions,
    )
    preview = add(
        "preview",
        "what jobs would expire, archive and delete now: how many sessions, of which status",
        where,
        to=actions,
    )
    preview.add_argument(
        "--format", choices=("text", "json"), default="text", help="form of the report (default %(default)s)"
    )
    accept = add(
        "accept", "accept what a job would do, as the owner of the tables; until then it waits", where, to=actions
    )
    accept.add_argument("job", metavar="JOB", help='the job\'s name, or "all"')
    add("status", "each job's last run and next time; 1 when one is overdue", where, machine, to=actions)
    install = add("install", "let the server run the jobs that need no client", where, to=actions)
    install.add_argument("--pg-cron", action="store_true", required=True, help="by pg_cron, which has to be there")
    sessions = add("sessions", "who is connected: list, kill SESSION, tail (what they run, until Ctrl-C)", where)
    sessions.add_argument("action", choices=("list", "kill", "tail"))
    sessions.add_argument("session", nargs="?", metavar="SESSION", help="with kill and tail: its id, see list")
    sessions.add_argument(
        "--mode",
        choices=("cancel", "terminate", "escalate"),
        default="terminate",
        help="with kill: end its statement, the session, or first the one and then the other (default %(default)s)",
    )
    sessions.add_argument(
        "--grace",
        type=_seconds,
        default=5,
        metavar="SECONDS",
        help="with kill: how long to wait for its end (default %(default)s)",
    )
    sessions.add_argument("--json", action="store_true", help="JSON instead of lines; with tail: one document a line")
    monitoring = add("session-monitoring", "what the SQLAlchemy sessions of an application's workers do")
    actions = monitoring.add_subparsers(required=True, metavar="ACTION", dest="action")
    form = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    form.add_argument(
        "--format", choices=("text", "json"), default="text", help="form of the report (default %(default)s)"
    )
    whose = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    whose.add_argument("--application", metavar="NAME", help="of this application (default: all that report)")
    add("status", "workers, health, open sessions and pool; 3 when no worker is seen", where, whose, form, to=actions)
    add("summary", "the metrics in words", where, whose, to=actions)
    add("metrics", "all metrics", where, whose, form, to=actions)
    alerts = add("alerts", "what is wrong; 1 when something is", where, whose, form, to=actions)
    alerts.add_argument(
        "--threshold",
        type=_positive_seconds,
        default=1.0,
        metavar="SECONDS",
        help="an operation that takes longer is slow (default %(default)s)",
    )
    logging = add("enable-periodic-logging", "have each worker log its summary", where, to=actions)
    logging.add_argument("--application", metavar="NAME", required=True, help="of this application")
    logging.add_argument(
        "--interval",
        type=_seconds,
        default=300,
        metavar="SECONDS",
        help="between two summaries, 1 to 86400; 0: none (default %(default)s)",
    )
    health = add("health", "is the database in order: integrity, jobs, load, settings; 1 when it is not", where)
    health.add_argument("--json", action="store_true", help="one JSON document instead of the report")
    health.add_argument(
        "--deep", action="store_true", help="read every table: all orphans, all counters recounted, amcheck where it is"
    )
    health.add_argument(
        "--repair",
        action="store_true",
        help="first make replaced triggers and views of pgvigil again, correct the counters of sessions, and list what was changed",
    )
    profile = add(
        "profile", "run a statement some times, each rolled back, and tell how long it took", where, statement
    )
    profile.add_argument(
        "-n", "--iterations", type=_count, default=10, metavar="N", help="how often (default %(default)s)"
    )
    profile.add_argument(
        "--json", action="store_true", help="one JSON document, in milliseconds, instead of the summary"
    )
    explain = add(
        "explain",
        "run a statement once, rolled back, and say what is wrong with its plan; 1 if something is",
        where,
        statement,
    )
    explain.add_argument(
        "--json", action="store_true", help="one JSON document with findings and plan instead of the report"
    )
    sizes = add("sizes", "what takes how much room: each table with its partitions, indexes and dead rows", where)
    sizes.add_argument("--json", action="store_true", help="one JSON document, in bytes, instead of the table")
    init = add("init-sql", "print the script that builds the schema with psql alone")
    init.add_argument("--write", action="store_true", help=f"write {project.INIT_SQL.name} instead")
    server = add("server", "the embedded server: start, stop, status, url")
    server.add_argument("action", choices=("start", "stop", "status", "url"))
    return whole


def _count(text: str) -> int:
    value = int(text)
    if not 0 < value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 1000000")
    return value


def _days(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e5:
        raise argparse.ArgumentTypeError(f"{text} is no number of days")
    return value


def _positive_seconds(text: str) -> float:
    value = _seconds(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0 seconds")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return value
