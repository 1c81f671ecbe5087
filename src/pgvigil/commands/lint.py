"""`pgvigil lint`: what migration files lock, rewrite and read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pgvigil import database
from pgvigil.commands.common import options, output
from pgvigil.commands.common.groups import Group
from pgvigil.errors import UsageError
from pgvigil.text import trusted

GROUP = Group.OWN
SUMMARY = "run migration files on a temporary server and report what each statement locks, rewrites and reads"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "paths", nargs="*", type=Path, metavar="FILE", help="a migration in plain SQL, or a directory of them"
    )
    options.add_project(command)
    group = command.add_argument_group("base schema (default: the earlier files of the same directory)")
    group.add_argument("--schema", type=Path, metavar="DUMP", help="load this dump first (pg_dump --schema-only)")
    group.add_argument(
        "--database-url",
        metavar="URL",
        help="copy the schema of this database first, and its TimeZone; it is only read",
    )
    group.add_argument(
        "--since",
        type=Path,
        metavar="FILE",
        help="check only what follows this file; it and those before it are the base",
    )
    group.add_argument(
        "--timezone", metavar="NAME",
        help="the TimeZone of the server that the files are for: casts to timestamptz go by it (default: UTC, with a note)",
    )  # fmt: skip
    group = command.add_argument_group("report")
    options.add_report_format(group, "lint.formats")
    group.add_argument(
        "--locks", action="store_true", help="in text: also what each statement locks, rewrites and reads"
    )
    options.add_report_output(group)


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.lint import formats
    from pgvigil.lint.run import lint
    from pgvigil.validate.report.formats import wants_colour

    if arguments.schema and arguments.database_url:
        raise UsageError("both --schema and --database-url name the base schema", "Leave one of them out.")
    if arguments.locks and arguments.format != "text":
        raise UsageError("--locks belongs to the text report", "Leave it out: the JSON report has the locks anyway.")
    paths, zone = arguments.paths, arguments.timezone
    search_path: tuple[str, ...] = ()
    if arguments.project is not None:
        from pgvigil.projects import config

        project = config.find(arguments.project)
        said = dict(project.tables.get("lint", {}))
        zone = zone or said.pop("timezone", None)
        said.pop("timezone", None)
        if said or not isinstance(zone, str | None):
            raise UsageError(f"{project.file}: [lint] has one key: timezone, a string", "Fix the file.")
        paths, search_path = paths or [project.migrations], project.path
    if not paths:
        raise UsageError("no file is named", "Name migrations, or their directory; or --project.")
    with output.stream(arguments.output) as out:
        # Only what the call names: a DATABASE_URL of the environment is the application's, and is not asked.
        target = database.resolve(arguments.database_url, []) if arguments.database_url is not None else None
        report = lint(
            paths, schema=arguments.schema, target=target, zone=zone, since=arguments.since, search_path=search_path
        )
        rendered = formats.render(report, arguments.format, locks=arguments.locks, colour=wants_colour(out))
        print(rendered, file=trusted(out) if arguments.format in ("text", "github") else out)
    if arguments.output:
        print(f"{report.verdict}; written to {arguments.output}", file=sys.stderr)
    return report.exit_code
