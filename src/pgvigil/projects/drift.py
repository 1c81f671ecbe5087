"""The schema that a project's files build in a scratch database, compared with the live schema."""

from __future__ import annotations

import dataclasses
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from pgvigil import project, scratch_databases
from pgvigil.database import Target
from pgvigil.errors import MigrationError, PgvigilError
from pgvigil.progress import Reporter
from pgvigil.projects import mover
from pgvigil.projects.config import LEDGER_SCHEMA, Config
from pgvigil.projects.layouts import ProjectFile, acts_on_whole_server
from pgvigil.text import counted
from pgvigil.validate import Declaration, Finding, Report, dump_spec, load_declaration, render, validate
from pgvigil.validate.catalog.snapshot import all_schemas
from pgvigil.validate.spec.path_patterns import covers

_NAMES = "^pgvigil_project_[0-9a-f]{8}_[0-9a-f]{8}$"
_OWNER = re.compile(r"(?:no )?owned by(?:: .*)?")
# A role may be granted rights by whoever runs the server, as needed; nobody's migration has to say so.
_NOT_DRIFT = ("*grant* *", "*revocation* *")


def build(conn: psycopg.Connection, config: Config, files: Sequence[ProjectFile]) -> None:
    """Run files on a database that is there for this alone. Statements about the whole server are left out."""
    conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(config.schema)))
    mover.pin(conn, config)
    conn.execute("SET lock_timeout = 0; SET synchronous_commit = off")
    for one in files:
        mover.run_all(conn, one, lambda statement: not acts_on_whole_server(statement))
        mover.pin(conn, config)


def declared_by(conn: psycopg.Connection, config: Config) -> str:
    """Return a spec of what was built, as JSON: the project's schema first, then all others."""
    return dump_spec(conn, schemas_of(conn, config), json=True)


def schemas_of(conn: psycopg.Connection, config: Config) -> list[str]:
    others = [name for name in all_schemas(conn) if name not in (config.schema, LEDGER_SCHEMA)]
    return [config.schema, *(name for name in others if name != "public" or _holds_something(conn, name))]


def _holds_something(conn: psycopg.Connection, schema: str) -> bool:
    row = conn.execute(
        """SELECT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid) OR EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid)
                  OR EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = n.oid) FROM pg_namespace n WHERE n.nspname = %s""",
        (schema,),
    ).fetchone()
    return bool(row and row[0])


def as_declaration(document: str) -> Declaration:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "files.yaml"
        path.write_text(document, encoding="utf-8")
        return load_declaration(path)


def compare(
    conn: psycopg.Connection,
    target: Target,
    config: Config,
    files: Sequence[ProjectFile],
    ignored: Sequence[str],
    log: Reporter,
) -> tuple[Report | None, str]:
    """Return the live schema compared with what the files make, or None and why nothing could be made. Rights are left out."""
    log(f"building {counted(len(files), 'file')} in a scratch database, to compare the schema with")
    try:
        with _scratch(conn, target, log) as there:
            build(there, config, files)
            made = as_declaration(declared_by(there, config))
    except (psycopg.Error, MigrationError) as error:
        words = error.message if isinstance(error, PgvigilError) else " ".join(str(error).split())
        return None, f"the files that are in could not be built again: {words}"
    rules = [*_NOT_DRIFT, *ignored, *_of_pgvigil(conn, config.schema)]
    declared = dataclasses.replace(made, ignore=tuple((rule, "", True) for rule in rules), name="the files")
    report = validate(conn, declared, config.schema)
    return dataclasses.replace(report, findings=tuple(_drifts(report.findings, rules)), notes=()), ""


def _drifts(findings: Sequence[Finding], rules: Sequence[str]) -> Iterator[Finding]:
    """Yield the findings that are drift.

    A different owner is not, because it depends on who ran the files. Ignored partitions are not, either.
    """
    for finding in findings:
        only_owner = _OWNER.fullmatch(finding.expected) and _OWNER.fullmatch(finding.found)
        if not only_owner and not any(covers(rule, finding.object) for rule in rules):
            yield finding


def _of_pgvigil(conn: psycopg.Connection, schema: str) -> list[str]:
    """The patterns of what the spec of pgvigil's own migrations declares, if they are in this schema."""
    if not conn.execute(
        "SELECT FROM pg_class WHERE oid = to_regclass('pgvigil.migrations') AND relkind = 'r'"
    ).rowcount:
        return []
    if conn.execute("SELECT FROM pgvigil.migrations WHERE schema_name = %s LIMIT 1", (schema,)).rowcount == 0:
        return []
    own = load_declaration(project.SPEC)
    brought = [
        ref.path.replace("[", "[[]") for ref in own.objects
    ]  # also the application's tables: pgvigil validate is for those
    return [*brought, *(f"*table {table}_*" for table in own.patterns)]


def as_text(report: Report) -> str:
    return render(report, "text")


@contextmanager
def _scratch(conn: psycopg.Connection, target: Target, log: Reporter) -> Iterator[psycopg.Connection]:
    name = f"pgvigil_project_{secrets.token_hex(4)}_{secrets.token_hex(4)}"
    made = scratch_databases.make(conn, name, options=scratch_databases.locale_of(conn, conn.info.dbname))
    with scratch_databases.opened(target, made, "project", _NAMES, log) as there:
        yield there
