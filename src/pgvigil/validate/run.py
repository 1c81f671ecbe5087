"""The verdict on a database: the schema that is there, the one that should be there, and the difference."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING

from pgvigil.planned_code import planned_code
from pgvigil.validate.catalog.identifiers import last_name, quoted, schema_of, unquoted
from pgvigil.validate.catalog.object_ref import ObjectRef, table, view
from pgvigil.validate.catalog.snapshot import PLAIN_TYPE, Answers, Connection, Snapshot, read_rows, snapshot
from pgvigil.validate.diff import replaced, schema_access, settings
from pgvigil.validate.diff.compare import LEDGER, Comparison
from pgvigil.validate.diff.diff_builder import ABSENT, AttributeDiff, DiffBuilder
from pgvigil.validate.diff.expected_state import DEFAULT_EXPIRY, POLICIES, Rows
from pgvigil.validate.report import describe
from pgvigil.validate.report.model import Finding, Report, Unchecked
from pgvigil.validate.report.source_lines import with_source_line
from pgvigil.validate.spec.declaration import Declaration

if TYPE_CHECKING:
    from pgvigil.validate.diff.reference import Reference
    from pgvigil.validate.spec.document import Spec


def validate(
    conn: Connection,
    spec: Spec | Declaration,
    schema: str,
    *,
    before: Collection[str] | None = None,
    reference: Snapshot | Reference | None = None,
    strict: bool = False,
    early: Answers | None = None,
) -> Report:
    """Compare. Inside an open transaction its own changes are seen; either way the connection is left as it was.

    `before` are the migrations still to come, if any are: what the spec declares as brought by them is not looked for. `reference` is what the project's DDL makes on this server, or its making. `strict` makes findings
    of what an application has added to its own tables. `early` is what read_early() has read in the same transaction.
    """
    declaration = _declared(spec)
    found = snapshot(conn, declaration.scope(schema), schema, early)
    rows, unsafe = _rows(conn, declaration, found)
    made, unchecked = (reference, ()) if reference is None or isinstance(reference, Snapshot) else reference.outcome()
    left = [patterns for revision, patterns in declaration.later if revision in (before or ())]
    to_come = tuple(chain.from_iterable(left))
    builder = DiffBuilder(declaration, found, strict, to_come)
    Comparison(builder, made, rows).run()
    if not declaration.complete and found.server:
        hours = [float(row["active_hours"]) for row in rows.get(POLICIES, []) if row.get("active_hours")]
        settings.compare(builder, found.server, conn, min(hours, default=1.0))
        schema_access.compare(builder, schema, found.server.without_usage)
    findings = builder.resolved(conn)
    known: frozenset[str] = frozenset()
    if not (declaration.complete or strict):
        findings, known = replaced.as_one_note(found, findings)
    builder.unchecked += [*unchecked, *unsafe]
    builder.unreadable -= {code.objects.removeprefix("rows of ") for code in unsafe}
    if builder.unreadable:
        builder.unchecked.append(_unreadable(conn, schema, builder.unreadable))
    findings = [replace(f, object=ObjectRef.parse(f.object).shown_in(quoted(schema))) for f in findings]
    findings = list(with_source_line(declaration, findings))
    notes = [finding for finding in findings if finding.severity == "note"]
    if before is None:
        notes += [
            Finding("missing", f"ignore rule {pattern}", "objects that it covers", ABSENT, "note")
            for pattern, _, rare in declaration.ignore
            if not rare and pattern not in builder.used_rules
        ]
    server = found.server
    return Report(
        declaration.name,
        server.database if server else "",
        schema,
        server.version if server else "",
        tuple(finding for finding in findings if finding.severity == "finding"),
        tuple(notes),
        dict(sorted(_seen(found).items())),
        dict(sorted(builder.compared.items())),
        tuple(builder.unchecked),
        known,
    )


def _declared(spec: Spec | Declaration) -> Declaration:
    if isinstance(spec, Declaration):
        return spec
    from pgvigil.validate.spec.expand import declare

    return declare(spec)


def _rows(conn: Connection, declaration: Declaration, found: Snapshot) -> tuple[Rows, list[Unchecked]]:
    """The rows that a spec needs, among them the one that says whether lists of values may be open; and the tables whose reading
    would run code of others.
    """
    expected = set(declaration.rows)
    if any(mark.unless_baselined for mark in declaration.marks.values()):
        expected.add(LEDGER)
    if DEFAULT_EXPIRY in declaration.objects:
        expected.add(POLICIES)
    readable = [name for name in sorted(expected) if found.details.get(table(name), {}).get("readable")]
    unsafe = []
    for name in readable:
        of = unquoted(schema_of(name)) or found.schema
        for code in planned_code(conn, (), of, (unquoted(last_name(name)),)):
            found.details[table(name)]["readable"] = False
            unsafe.append(
                Unchecked(f"rows of {name}", f"{code}, which would run with the rights of whoever reads them")
            )
    columns: dict[str, list[str]] = {name: [] for name in readable if found.details[table(name)]["readable"]}
    for ref, attributes in found.objects.items():
        if ref.kind == "column" and found.roots[ref] in columns and re.fullmatch(PLAIN_TYPE, attributes["type"]):
            columns[ref.relation].append(ref.name)
    rows, failed = read_rows(conn, {name: of for name, of in columns.items() if of}, found.schema)
    for name, reason in failed.items():
        found.details[table(name)]["readable"] = False
        unsafe.append(Unchecked(f"rows of {name}", reason))
    return rows, unsafe


def _unreadable(conn: Connection, schema: str, tables: Collection[str]) -> Unchecked:
    """Return one entry for all tables whose rows could not be read, with the command that helps."""
    listed = ", ".join(sorted(tables))
    role, is_reader, hidden = conn.execute(
        """SELECT quote_ident(current_user),
                  coalesce((SELECT pg_has_role(oid, 'USAGE') FROM pg_roles WHERE rolname = 'pgvigil_reader'), true),
                  (SELECT bool_or(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE CASE WHEN n.nspname = %s THEN '' ELSE n.nspname || '.' END || c.relname = ANY (%s))""",
        (schema, list(tables)),
    ).fetchone() or ("", True, False)
    if hidden:
        return Unchecked(
            f"rows of {listed}", f"row security hides rows from {role}: ask as a role that it does not bind"
        )
    give = f"GRANT SELECT ON {listed} TO {role};" if is_reader else f"GRANT pgvigil_reader TO {role};"
    return Unchecked(f"rows of {listed}", f"{role} may not read them: {give}")


def _seen(found: Snapshot) -> Counter[str]:
    """Count objects by kind; partitions are a kind of their own."""
    seen = Counter(map(attrgetter("kind"), found.objects))
    for kind in [ref.kind for ref, of in found.objects.items() if "partition_of" in of]:
        seen[kind] -= 1
        seen["partition"] += 1
    return +seen


def event_triggers(conn: Connection) -> str:
    """A sentence that names those that act on what a migration makes, for when it fails. "" where there are none."""
    rows = conn.execute(
        """SELECT pg_catalog.quote_ident(t.evtname), t.evtfoid::pg_catalog.regproc::text, t.evtevent
           FROM pg_catalog.pg_event_trigger t WHERE t.evtenabled OPERATOR(pg_catalog.<>) 'D'::"char" ORDER BY t.evtname"""
    ).fetchall()
    if not rows:
        return ""
    listed = ", ".join(f"{name} ({event}, {function})" for name, function, event in rows)
    ways = " ".join(f"ALTER EVENT TRIGGER {name} DISABLE;" for name, *_ in rows)
    return (
        f"Event triggers of this database act on what is made and may have changed or refused it: {listed}. If that is so, have"
        f" them leave pgvigil's objects alone, or as a superuser turn them off for the run ({ways}) and on again afterwards."
    )


def check_application_tables(conn: Connection, spec: Spec, schema: str) -> list[Finding]:
    """Check the needs of the first migration: its tables, their base columns, the types."""
    declaration = _declared(spec)
    found = snapshot(conn, declaration.scope(schema), schema)
    builder = DiffBuilder(declaration, found)
    for ref, attributes in declaration.objects.items():
        root = declaration.roots[ref]
        if root not in declaration.application or ref.kind not in ("table", "column"):
            continue
        there, of_view = found.objects.get(ref), view(root)
        if ref.kind == "table":
            if there is None and of_view in found.objects:
                builder.differ(ref, [AttributeDiff("table", describe.in_one_line(of_view, found.objects[of_view]))])
            elif there is None:
                builder.miss(ref, "a table of the application", attributes, root)
            elif there.get("kind") not in (None, "partitioned table"):
                builder.differ(ref, [AttributeDiff("table", there["kind"])])
        elif table(root) in found.objects:
            if there is None and not declaration.marks[ref].ours:
                builder.miss(ref, attributes["type"], attributes, root)
            elif there is not None and there["type"] != attributes["type"]:
                builder.differ(ref, [AttributeDiff(attributes["type"], there["type"])])
    return builder.resolved(conn)


def check_application_definitions(conn: Connection, spec: Spec, schema: str) -> list[Finding]:
    """Compare the columns and constraints that the application's tables came with, before any migration is there."""
    declaration = _declared(spec)
    found = snapshot(conn, declaration.scope(schema), schema)
    to_come = tuple(chain.from_iterable(patterns for _, patterns in declaration.later))
    builder = DiffBuilder(declaration, found, to_come=to_come)
    Comparison(builder, None, {}).run()
    base = {
        ref.path
        for ref, mark in declaration.marks.items()
        if not mark.ours and ref.kind in ("column", "constraint") and declaration.roots[ref] in declaration.application
    }
    return [one for one in builder.resolved(conn) if one.severity == "finding" and one.object in base]
