"""The verdict on a database: what there is, what there should be, and what is told of the difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psycopg import sql

from pgvigil.validate import printing, settings
from pgvigil.validate.catalog import PLAIN_TYPE, Connection, Snapshot, pinned, read_rows, snapshot
from pgvigil.validate.collect import ABSENT, Collector, Part
from pgvigil.validate.compare import TOLERATED, Comparison
from pgvigil.validate.ddl import literal
from pgvigil.validate.expected import PLACEHOLDER, Declaration, kind_of
from pgvigil.validate.names import quoted
from pgvigil.validate.places import located
from pgvigil.validate.report import Finding, Report, Unchecked
from pgvigil.validate.rules import covers
from pgvigil.validate.wanted import ACTIVE_TIME, POLICIES, Rows

if TYPE_CHECKING:
    from pgvigil.validate.reference import Reference
    from pgvigil.validate.spec import Spec


def validate(
    conn: Connection,
    spec: Spec | Declaration,
    schema: str,
    *,
    before: str | None = None,
    reference: Snapshot | Reference | None = None,
    strict: bool = False,
) -> Report:
    """Compare. Inside an open transaction its own changes are seen; either way the connection is left as it was.

    `before` is the first migration still to come, if one is: what the spec declares as brought by it or by later ones
    is not looked for. `reference` is what the project's DDL makes on this server, or its making. `strict` makes findings
    of what an application has added to its own tables.
    """
    declaration = _declared(spec)
    found = snapshot(conn, declaration.scope(schema), schema)
    rows = _rows(conn, declaration, found)
    made, unchecked = (reference, ()) if reference is None or isinstance(reference, Snapshot) else reference.outcome()
    collector = Collector(declaration, found, strict)
    if TOLERATED in rows:
        rows[TOLERATED] = _proved(conn, collector, rows[TOLERATED])
    Comparison(collector, made, rows).run()
    if not declaration.complete and found.server:
        hours = [float(row["active_hours"]) for row in rows.get(POLICIES, []) if row.get("active_hours")]
        settings.compare(collector, found.server, conn, min(hours, default=1.0))
    findings = collector.settled(conn)
    collector.unchecked += unchecked
    if collector.unreadable:
        collector.unchecked.append(_unreadable(conn, schema, collector.unreadable))
    to_come = [
        pattern
        for revision, patterns in declaration.later
        if before is not None and revision >= before
        for pattern in patterns
    ]
    findings = [
        replace(f, object=PLACEHOLDER.sub(lambda match: f"{match[1]} {quoted(schema)}", f.object))
        for f in findings
        if not any(covers(pattern, f.object) for pattern in to_come)
    ]
    findings = list(located(declaration, findings))
    notes = [finding for finding in findings if finding.severity == "note"]
    if before is None:
        notes += [
            Finding("missing", f"ignore rule {pattern}", "objects that it covers", ABSENT, "note")
            for pattern, _, rare in declaration.ignore
            if not rare and pattern not in collector.used_rules
        ]
    server = found.server
    return Report(
        declaration.name,
        server.database if server else "",
        schema,
        server.version if server else "",
        tuple(finding for finding in findings if finding.severity == "finding"),
        tuple(notes),
        dict(sorted(Counter(_seen_as(found, path) for path in found.objects).items())),
        dict(sorted(collector.compared.items())),
        tuple(collector.unchecked),
    )


def _declared(spec: Spec | Declaration) -> Declaration:
    if isinstance(spec, Declaration):
        return spec
    from pgvigil.validate.declare import declare

    return declare(spec)


def _rows(conn: Connection, declaration: Declaration, found: Snapshot) -> Rows:
    """The rows that a spec needs. Values outside a list that were there before its CHECK came are allowed."""
    wanted = set(declaration.rows)
    if any(mark.tolerated for mark in declaration.marks.values()):
        wanted.add(TOLERATED)
    if ACTIVE_TIME in declaration.objects:
        wanted.add(POLICIES)
    readable = [name for name in sorted(wanted) if found.details.get(f"table {name}", {}).get("readable")]
    columns: dict[str, list[str]] = {name: [] for name in readable}
    for path, attributes in found.objects.items():
        if (
            (root := found.roots[path]) in columns
            and kind_of(path) == "column"
            and PLAIN_TYPE.fullmatch(attributes["type"])
        ):
            columns[root].append(path.removeprefix(f"column {root}."))
    return read_rows(conn, {name: of for name, of in columns.items() if of}, found.schema)


def _proved(conn: Connection, collector: Collector, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tolerated values of which a row is there, and which the migration found: others would open a list to anything."""
    proved = []
    columns = {
        (collector.declaration.roots[path], mark.tolerated)
        for path, mark in collector.declaration.marks.items()
        if mark.tolerated
    }
    for row in rows:
        table, column, value = (str(row.get(key)) for key in ("table_name", "column_name", "value"))
        names = {"table_name": table, "column_name": column, "value": value}
        path = f"row {TOLERATED} ({', '.join(f'{key} = {text}' for key, text in names.items())})"
        type_ = collector.found.objects.get(f"column {table}.{column}", {}).get("type", "")
        if (table, column) not in columns or not PLAIN_TYPE.fullmatch(type_):
            wrong = "no list of values of ours is that column's"
        elif not collector.found.details[f"table {table}"].get("readable"):
            collector.unreadable.add(table)
            wrong = ""
        else:
            wrong = _unproved(conn, collector.found.schema, table, column, value, row.get("found_at"))
        if wrong:
            where = " AND ".join(f"{key} = {literal(text)}" for key, text in names.items())
            fix = f"DELETE FROM {TOLERATED} WHERE {where};"
            collector.add("unexpected", path, "", f"tolerated without proof: {wrong}", fix=fix)
        else:
            proved.append(row)
    return proved


def _unproved(conn: Connection, schema: str, table: str, column: str, value: str, found_at: object) -> str:
    there = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {}::text = {})").format(
        sql.SQL(table), sql.SQL(column), sql.Literal(value)
    )
    with pinned(conn, schema, read_only=True):
        present = conn.execute(there)
        ledger = conn.execute(
            "SELECT to_regclass('pgvigil.migrations') IS NOT NULL AND has_table_privilege(to_regclass('pgvigil.migrations'), 'SELECT')"
        )
        row = present.fetchone()
        readable = ledger.fetchone()
        late = None
        if readable and readable[0]:
            late = conn.execute(
                "SELECT applied_at FROM pgvigil.migrations WHERE revision = '002' AND applied_at < %s::timestamptz",
                (found_at,),
            ).fetchone()
    if not (row and row[0]):
        return f"no row of {table} holds it"
    return (
        f"it was put down after the migration that looked for such values, of {late[0]:%Y-%m-%d %H:%M}" if late else ""
    )


def _unreadable(conn: Connection, schema: str, tables: Collection[str]) -> Unchecked:
    """Told once, with what to type."""
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


def _seen_as(found: Snapshot, path: str) -> str:
    return "partition" if "partition_of" in found.objects[path] else kind_of(path)


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
    """What the migrations need of the application, before the first one: its tables, their base columns, the types."""
    declaration = _declared(spec)
    found = snapshot(conn, declaration.scope(schema), schema)
    collector = Collector(declaration, found)
    for path, attributes in declaration.objects.items():
        root = declaration.roots[path]
        if root not in declaration.application or kind_of(path) not in ("table", "column"):
            continue
        there = found.objects.get(path)
        if kind_of(path) == "table":
            if there is None and f"view {root}" in found.objects:
                collector.differ(path, [Part("table", printing.whole(f"view {root}", found.objects[f"view {root}"]))])
            elif there is None:
                collector.miss(path, "a table of the application", attributes, root)
            elif there.get("kind") not in (None, "partitioned table"):
                collector.differ(path, [Part("table", there["kind"])])
        elif f"table {root}" in found.objects:
            if there is None and not declaration.marks[path].ours:
                collector.miss(path, attributes["type"], attributes, root)
            elif there is not None and there["type"] != attributes["type"]:
                collector.differ(path, [Part(attributes["type"], there["type"])])
    return collector.settled(conn)
