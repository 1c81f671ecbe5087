"""`pgvigil spec`: specs of any database, and what can be made of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pgvigil import database, project
from pgvigil.commands.common import options, output
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.errors import UsageError
from pgvigil.text import print_script
from pgvigil.visible_sql import print_sql

GROUP = Group.OWN
SUMMARY = "specs of any database: write one, and make docs, tests or a JSON Schema from it"


def add_arguments(command: argparse.ArgumentParser) -> None:
    actions = options.actions(command)
    dump = options.add_action(actions, "dump", "print a complete spec of a database")
    group = options.add_database(dump)
    group.add_argument(
        "--schema", action="append", default=[], metavar="NAME",
        help="a schema to include, the first as the application's (repeatable; default: all but system schemas)",
    )  # fmt: skip
    dump.add_argument(
        "--format", choices=("yaml", "json"), default="yaml", help="JSON is read faster (default %(default)s)"
    )
    docs = options.add_action(actions, "docs", "print a reference of a spec: Markdown, with a diagram")
    _add_spec(docs)
    options.add_schema(
        options.add_database(docs, "take the comments from this database (default: from this project's migrations)")
    )
    docs.add_argument(
        "--write",
        action="store_true",
        help=f"write docs/{project.REFERENCE.name} and the generated parts of docs/ and of the spec instead",
    )
    tests = options.add_action(actions, "tests", "print pgTAP tests of a spec")
    _add_spec(tests)
    options.add_schema(tests)
    keys = options.add_action(actions, "schema", "print a JSON Schema of specs, for editors to complete and check")
    keys.add_argument("--write", action="store_true", help=f"write {project.SPEC_SCHEMA.name} instead")


def _add_spec(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--spec", type=Path, default=project.SPEC, metavar="FILE", help="the spec (default: that of this project)"
    )


def run(arguments: argparse.Namespace) -> int:
    return _ACTIONS[arguments.action](arguments)


def _dump(arguments: argparse.Namespace) -> int:
    from pgvigil.validate import dump_spec

    with database.connect(required_target(arguments), "spec dump") as conn:
        text = dump_spec(conn, arguments.schema, json=arguments.format == "json")
    print_script(text, sys.stdout, end="")
    return 0


def _docs(arguments: argparse.Namespace) -> int:
    from pgvigil.migration import doc_blocks, files, spec_blocks
    from pgvigil.migration import schema_reference as docs
    from pgvigil.validate import load_declaration
    from pgvigil.validate.catalog import snapshot
    from pgvigil.validate.export import markdown

    of_project = arguments.spec == project.SPEC
    if arguments.write and (arguments.database_url or not of_project):
        raise UsageError(
            "--write makes the page of this project, from its files alone",
            "Leave out --spec and --database-url, or --write.",
        )
    if of_project and not arguments.database_url:
        migrations = files.load(project.MIGRATIONS)
        if arguments.write:
            for path, text in doc_blocks.pages(project.REFERENCE.parent, migrations).items():
                output.generated(text, path)
            output.generated(spec_blocks.written(project.SPEC.read_text(encoding="utf-8"), migrations), project.SPEC)
        return output.generated(docs.page(migrations), project.REFERENCE if arguments.write else None)
    declared, comments = load_declaration(arguments.spec), {}
    if arguments.database_url:
        schema = arguments.schema or declared.schema or "public"
        with database.connect(required_target(arguments), "docs") as conn:
            found = snapshot.snapshot(conn, declared.scope(schema), schema)
        comments = {ref: attributes["comment"] for ref, attributes in found.objects.items() if "comment" in attributes}
    return output.generated(markdown.page(declared, comments), None)


def _schema(arguments: argparse.Namespace) -> int:
    from pgvigil.validate.spec import json_schema

    return output.generated(json_schema.generate(), project.SPEC_SCHEMA if arguments.write else None)


def _tests(arguments: argparse.Namespace) -> int:
    from pgvigil.validate import load_declaration
    from pgvigil.validate.export import pgtap

    declared = load_declaration(arguments.spec)
    return output.generated(pgtap.script(declared, arguments.schema or declared.schema or "public"), None, print_sql)


_ACTIONS = {"dump": _dump, "docs": _docs, "schema": _schema, "tests": _tests}
