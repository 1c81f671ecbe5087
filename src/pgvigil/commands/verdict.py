"""The commands that hold a schema against a spec, and make one."""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg

from pgvigil import database, project
from pgvigil.commands import call, output
from pgvigil.errors import ConnectError, PreconditionError, UsageError
from pgvigil.text import print_script, trusted


def validate(arguments: argparse.Namespace) -> int:
    if arguments.offline:
        return _validate_offline(arguments)
    if arguments.run_owner_code and not arguments.self_test:
        raise UsageError("--run-owner-code says what the self-test may run", "Add --self-test, or leave it out.")
    if arguments.fix_sql and arguments.format != "text":
        raise UsageError("--fix-sql prints a script, not a report", "Leave out --fix-sql or --format.")
    path = arguments.spec or project.SPEC
    with output.stream(arguments.output) as out:  # first of all: after a long look it is too late to be refused
        target = call.required(arguments)
        with database.connecting(target, "validate") as connected, ThreadPoolExecutor(1) as aside:
            # What takes longest begins first: imports, too, can go on meanwhile.
            from pgvigil.validate.expected import load_declaration
            from pgvigil.validate.reference import Reference

            reading = aside.submit(load_declaration, path)
            reference = None

            def schema_of(conn: psycopg.Connection) -> str:
                return arguments.schema or reading.result().schema or _ledger_schema(conn) or "public"

            if not arguments.spec:
                reference = Reference(target, connected, reading.result, project.INIT_SQL, schema_of)
            from pgvigil.validate import validate
            from pgvigil.validate.formats import render, wants_colour

            spec = reading.result()
            if reference:
                reference.begun.wait()
            with connected() as conn:
                schema = arguments.schema or spec.schema
                if not arguments.spec:
                    schema = _schema_of(conn, arguments.schema)
                if arguments.self_test:
                    from pgvigil.validate import require_owner_or_consent

                    require_owner_or_consent(conn, schema or "public", arguments.run_owner_code)
                schema = schema or "public"
                report = validate(conn, spec, schema, reference=reference, strict=arguments.strict)
                if arguments.self_test:
                    from pgvigil.validate import located, self_test

                    report = report.tested(located(spec, self_test(conn, schema, report.replaced)))
        if arguments.fix_sql:
            from pgvigil.validate import fix_sql

            print_script(fix_sql(report), out)
        else:
            told = render(report, arguments.format, spec=path, colour=wants_colour(out))
            # These two make visible what others wrote, and have colours or commands of their own.
            print(told, file=trusted(out) if arguments.format in ("text", "github") else out)
    if arguments.output:
        print(f"{report.verdict}; written to {arguments.output}", file=sys.stderr)
    return report.exit_code


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
    """None too where the ledger cannot be read: that is for the report to tell, if the tables lie where they mostly do."""
    from pgvigil.build import ledger

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
    from pgvigil.build import offline

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
    faults = offline.check()
    if arguments.format == "json":
        print(json.dumps({"ok": not faults, "faults": faults}, indent=2))
    else:
        print(
            "\n".join(faults)
            if faults
            else "ok: spec, migrations, reverts, revisions, checksums and init script agree (no server was asked)"
        )
    return 1 if faults else 0


def spec(arguments: argparse.Namespace) -> int:
    return _SPEC_ACTIONS[arguments.action](arguments)


def _spec_dump(arguments: argparse.Namespace) -> int:
    from pgvigil.validate import dump_spec

    with database.connect(call.required(arguments), "spec dump") as conn:
        text = dump_spec(conn, arguments.schema, json=arguments.format == "json")
    print_script(text, sys.stdout, end="")
    return 0


def _spec_docs(arguments: argparse.Namespace) -> int:
    from pgvigil.build import docs, plan
    from pgvigil.validate import catalog, load_declaration, markdown

    of_project = arguments.spec == project.SPEC
    if arguments.write and (arguments.database_url or not of_project):
        raise UsageError(
            "--write makes the page of this project, from its files alone",
            "Leave out --spec and --database-url, or --write.",
        )
    if of_project and not arguments.database_url:
        page = docs.page(plan.load(project.MIGRATIONS))
        return call.generated(page, project.REFERENCE if arguments.write else None)
    declared, comments = load_declaration(arguments.spec), {}
    if arguments.database_url:
        schema = arguments.schema or declared.schema or "public"
        with database.connect(call.required(arguments), "docs") as conn:
            found = catalog.snapshot(conn, declared.scope(schema), schema)
        comments = {
            path: attributes["comment"] for path, attributes in found.objects.items() if "comment" in attributes
        }
    return call.generated(markdown.page(declared, comments), None)


def _spec_schema(arguments: argparse.Namespace) -> int:
    from pgvigil.validate import json_schema

    return call.generated(json_schema.generate(), project.SPEC_SCHEMA if arguments.write else None)


def _spec_tests(arguments: argparse.Namespace) -> int:
    from pgvigil.validate import load_declaration, pgtap

    declared = load_declaration(arguments.spec)
    return call.generated(pgtap.script(declared, arguments.schema or declared.schema or "public"), None)


_SPEC_ACTIONS = {"dump": _spec_dump, "docs": _spec_docs, "schema": _spec_schema, "tests": _spec_tests}
