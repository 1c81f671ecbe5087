"""`pgvigil validate`: the verdict on a database."""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from pgvigil import database, project
from pgvigil.commands.common import options, output, runs
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.errors import ConnectError, PreconditionError, UsageError
from pgvigil.text import trusted

if TYPE_CHECKING:
    from pgvigil.database import Target
    from pgvigil.projects.config import Config
    from pgvigil.validate.report.model import Report

GROUP = Group.SCHEMA
SUMMARY = "compare the live schema with the spec"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_schema(options.add_database(command))
    options.add_project(command)
    command.add_argument(
        "--spec", type=Path, metavar="FILE",
        help="compare with this spec, of any schema, instead of pgvigil's own (see: spec dump)",
    )  # fmt: skip
    command.add_argument(
        "--strict", action="store_true", help="objects that an application has added to its own tables are findings too"
    )
    command.add_argument(
        "--offline", action="store_true", help="check spec, migrations and init script only, without a server"
    )
    group = command.add_argument_group("self-test")
    group.add_argument(
        "--self-test", action="store_true",
        help="also exercise triggers and views, in a transaction that is rolled back",
    )  # fmt: skip
    group.add_argument(
        "--run-owner-code", action="store_true",
        help="with --self-test, as a superuser: run triggers and functions of owners who are not superusers",
    )  # fmt: skip
    group = command.add_argument_group("report")
    options.add_report_format(group)
    options.add_report_output(group)
    group.add_argument("--fix-sql", action="store_true", help="print one script of the repairs instead of the report")


def run(arguments: argparse.Namespace) -> int:
    if config := runs.config_of(arguments):
        return _validate_project(arguments, config)
    if arguments.offline:
        return _validate_offline(arguments)
    if arguments.run_owner_code and not arguments.self_test:
        raise UsageError("--run-owner-code says what the self-test may run", "Add --self-test, or leave it out.")
    if arguments.fix_sql and arguments.format != "text":
        raise UsageError("--fix-sql prints a script, not a report", "Leave out --fix-sql or --format.")
    path = arguments.spec or project.SPEC
    with output.stream(arguments.output) as out:  # first of all: after a long look it is too late to be refused
        target = required_target(arguments)
        with database.connecting(target, "validate") as connected, ThreadPoolExecutor(1) as aside:
            # What takes longest begins first: imports, too, can go on meanwhile.
            from pgvigil.validate.diff.reference import Reference
            from pgvigil.validate.spec.cache import load_declaration

            reading = aside.submit(load_declaration, path)
            reference = None

            def schema_of(conn: psycopg.Connection) -> str:
                return arguments.schema or reading.result().schema or _ledger_schema(conn) or "public"

            if not arguments.spec:
                reference = Reference(target, connected, reading.result, project.INIT_SQL, schema_of)
            from pgvigil.validate import validate
            from pgvigil.validate.report.formats import render, wants_colour

            spec = reading.result()
            if reference:
                reference.begun.wait()
            with connected() as conn:
                schema = arguments.schema or spec.schema
                if not arguments.spec:
                    schema = _schema_of(conn, arguments.schema)
                without = None if arguments.spec or arguments.fix_sql else _without_pgvigil(conn, schema or "public")
                if without:
                    arguments.self_test = False
                if arguments.self_test:
                    from pgvigil.validate import require_owner_or_consent

                    require_owner_or_consent(conn, schema or "public", arguments.run_owner_code)
                schema = schema or "public"
                report = without or validate(conn, spec, schema, reference=reference, strict=arguments.strict)
                if arguments.self_test:
                    from pgvigil.validate import self_test, with_source_line

                    report = report.tested(with_source_line(spec, self_test(conn, schema, report.replaced)))
        if arguments.fix_sql:
            from pgvigil.validate import fix_sql
            from pgvigil.visible_sql import print_sql

            print_sql(fix_sql(report), out)
        else:
            rendered = render(report, arguments.format, spec=path, colour=wants_colour(out))
            # These two make visible what others wrote, and have colours or commands of their own.
            print(rendered, file=trusted(out) if arguments.format in ("text", "github") else out)
    if without:
        print(f"hint: {_way_in(without, target)}", file=sys.stderr)
    if arguments.output:
        print(f"{report.verdict}; written to {arguments.output}", file=sys.stderr)
    return report.exit_code


def _validate_project(arguments: argparse.Namespace, config: Config) -> int:
    from pgvigil.projects.chain import ProjectChain
    from pgvigil.validate import fix_sql, validate
    from pgvigil.validate.report.formats import render, wants_colour

    of_own = {
        "--offline": arguments.offline,
        "--self-test": arguments.self_test,
        "--run-owner-code": arguments.run_owner_code,
        "--spec": arguments.spec,
    }
    if given := [name for name, value in of_own.items() if value]:
        raise UsageError(
            f"{given[0]} is not for a project", "Leave it out; without a server a project is checked by pgvigil check."
        )
    if arguments.fix_sql and arguments.format != "text":
        raise UsageError("--fix-sql prints a script, not a report", "Leave out --fix-sql or --format.")
    chain = ProjectChain(config)
    declared = chain.declaration()
    if declared is None:
        raise UsageError(
            f"{config.file} names no spec, so there is nothing to compare the schema with",
            f'Write one: spec = "schema-spec.yaml", then {chain.command("check", "--write-spec")}',
        )
    schema = arguments.schema or config.schema
    with output.stream(arguments.output) as out:
        with database.connect(required_target(arguments), "validate") as conn:
            report = validate(conn, declared, schema, strict=arguments.strict)
        if arguments.fix_sql:
            from pgvigil.visible_sql import print_sql

            print_sql(fix_sql(report), out)
        else:
            rendered = render(report, arguments.format, spec=config.spec, colour=wants_colour(out))
            print(rendered, file=trusted(out) if arguments.format in ("text", "github") else out)
    if arguments.output:
        print(f"{report.verdict}; written to {arguments.output}", file=sys.stderr)
    return report.exit_code


def _without_pgvigil(conn: psycopg.Connection, schema: str) -> Report | None:
    """Return a report of one finding for a database without pgvigil, instead of a finding for each object.

    None for other databases.
    """
    if conn.execute("SELECT to_regnamespace('pgvigil') IS NOT NULL").fetchone() == (True,):
        return None
    from pgvigil.migration import preflight  # reads YAML, for which a verdict has no time
    from pgvigil.validate.report.model import Finding, Report

    tables = preflight.application_tables(conn, schema)
    found = f'nothing of pgvigil; schema "{schema}" has ' + (
        f"{', '.join(sorted(tables))} of the session application" if tables else "no table of the session application"
    )
    finding = Finding("missing", "schema pgvigil", "the schema that setup or migrate makes", found)
    version = conn.info.parameter_status("server_version") or ""
    return Report(project.SPEC.name, conn.info.dbname, schema, version, (finding,), (), {}, {})


def _way_in(report: Report, target: Target) -> str:
    is_new = "no table" in report.findings[0].found
    command = project.command("setup" if is_new else "migrate", schema=report.schema, option=target.option)
    return f"pgvigil is not in this database. {'Build it' if is_new else 'Bring it in'}: {command}"


def _schema_of(conn: psycopg.Connection, asked: str | None) -> str:
    try:
        there = _ledger_schema(conn)
    except ConnectError:
        if not asked:
            raise
        there = None  # it may not be read
    if asked and there and asked != there:
        raise PreconditionError(
            f'pgvigil watches schema "{there}" in this database, not "{asked}"',
            "Leave --schema out; another schema is compared with a spec of its own: see spec dump, and --spec.",
        )
    return asked or there or "public"


def _ledger_schema(conn: psycopg.Connection) -> str | None:
    """Return the schema in the ledger.

    None also where the ledger cannot be read: the report says so if the tables are in their usual place.
    """
    from pgvigil.migration import ledger

    try:
        with conn.transaction():
            return ledger.read(conn).schema
    except psycopg.errors.InsufficientPrivilege as error:
        there = conn.execute(
            "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public' AND c.relname = 'sessions'"
        )
        if there.rowcount:
            return None
        raise ConnectError(
            f"a right is missing to read which schema it is about: {error.diag.message_primary}",
            "Name it by --schema, or use a role that has pgvigil_reader.",
        ) from error


def _validate_offline(arguments: argparse.Namespace) -> int:
    from pgvigil.migration import offline_check

    of_database = {
        "--self-test": arguments.self_test,
        "--run-owner-code": arguments.run_owner_code,
        "--fix-sql": arguments.fix_sql,
        "--strict": arguments.strict,
        "--spec": arguments.spec,
        "--schema": arguments.schema,
    }
    if given := [name for name, value in of_database.items() if value]:
        raise UsageError(
            f"--offline looks at no database, as {given[0]} asks for", f"Leave out --offline or {given[0]}."
        )
    if arguments.format not in ("text", "json") or arguments.output:
        raise UsageError(
            "--offline compares no objects: it has no such report", "Leave out --output; --format is text or json."
        )
    faults = offline_check.check()
    if arguments.format == "json":
        print(json.dumps({"ok": not faults, "faults": faults}, indent=2))
    else:
        print(
            "\n".join(faults)
            if faults
            else "ok: spec, migrations, reverts, revisions, checksums and init script agree (no server was asked)"
        )
    return 1 if faults else 0
