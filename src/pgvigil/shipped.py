"""Whether what a command is about to call and read is what pgvigil shipped. The owner of the tables may put other functions, views and
casts in the places of ours; whoever has more rights than he has would run them with these.

The catalog is asked, and nothing of the database's is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from pgvigil import project
from pgvigil.errors import ConnectError
from pgvigil.owner import OWN_ROLE
from pgvigil.placeholders import bound

_FUNCTION = re.compile(
    r"CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE) (?P<schema>pgvigil|instrumentation)\.(?P<name>\w+)\("
    r"(?P<head>.*?)(?:\bAS (?P<quote>\$\w*\$)(?P<body>.*?)(?P=quote)|\b(?P<atomic>RETURN|BEGIN ATOMIC)\b)",
    re.DOTALL,
)
# Written by a trigger from the rows of retention_policies: an expression of constants, looked at as such.
_COMPUTED = {("pgvigil", "active_time")}
_ACTIVE_TIME = re.compile(
    r"SELECT CASE (WHEN policy OPERATOR\(pg_catalog\.=\) ('(''|[^'])*'| ?E'([^'\\]|''|\\\\)*') THEN interval '\d+ hours' )*"
    r"ELSE interval '\d+ hours' END"
)


class _Shape(NamedTuple):
    """What a function of ours is like: its source, or None for a body that the server keeps parsed."""

    body: str | None
    definer: bool
    pinned: bool


@cache
def _shapes(directory: Path) -> dict[tuple[str, str], list[_Shape]]:
    shapes: dict[tuple[str, str], list[_Shape]] = {}
    for path in [directory / "ledger.sql", *sorted(directory.glob("[0-9]*.sql"))]:
        for found in _FUNCTION.finditer(path.read_text().replace("\r\n", "\n")):
            head = found["head"]
            shape = _Shape(found["body"], "SECURITY DEFINER" in head, "SET search_path = pg_catalog, pg_temp" in head)
            shapes.setdefault((found["schema"], found["name"]), []).append(shape)
    return shapes


_FUNCTIONS = """
    SELECT n.nspname::text, p.proname::text, p.prosrc, p.prosecdef, coalesce(p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false),
           p.proowner = s.nspowner, l.lanname IN ('sql', 'plpgsql') AND (l.lanname = 'sql' AND p.prosqlbody IS NOT NULL OR p.prosrc <> ''),
           p.prosqlbody IS NOT NULL
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    JOIN pg_namespace s ON s.nspname = 'pgvigil'
    WHERE n.nspname IN ('pgvigil', 'instrumentation')"""

# What a view, a body that is kept parsed, a default or a generated column may stand on: our own functions, which are looked at by
# themselves, and what came with the server. Pinned objects have no rows in pg_depend.
_FOREIGN = """
    WITH ours AS (
        SELECT c.oid, c.oid::regclass::text AS name, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('pgvigil', 'instrumentation') AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT starts_with(c.relname, 'legacy_')
        UNION
        SELECT c.oid, c.oid::regclass::text, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname = ANY (%(names)s)),
    dependents AS (
        SELECT 'pg_rewrite'::regclass AS class, r.oid, 'view ' || o.name AS name FROM pg_rewrite r JOIN ours o ON o.oid = r.ev_class
        UNION ALL SELECT 'pg_attrdef'::regclass, d.oid, 'a default of ' || o.name FROM pg_attrdef d JOIN ours o ON o.oid = d.adrelid
        UNION ALL SELECT 'pg_proc'::regclass, p.oid, 'function ' || p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname IN ('pgvigil', 'instrumentation') AND p.prosqlbody IS NOT NULL)
    SELECT d.name || ' uses ' || p.oid::regprocedure::text
    FROM dependents d JOIN pg_depend e ON e.classid = d.class AND e.objid = d.oid AND e.refclassid = 'pg_proc'::regclass
    JOIN pg_proc p ON p.oid = e.refobjid JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname NOT IN ('pgvigil', 'instrumentation', 'pg_catalog')
    UNION ALL
    SELECT d.name || ' uses operator ' || p.oid::regoperator::text
    FROM dependents d JOIN pg_depend e ON e.classid = d.class AND e.objid = d.oid AND e.refclassid = 'pg_operator'::regclass
    JOIN pg_operator p ON p.oid = e.refobjid JOIN pg_namespace n ON n.oid = p.oprnamespace WHERE n.nspname <> 'pg_catalog'
    UNION ALL
    SELECT d.name || ' reads ' || c.oid::regclass::text
    FROM dependents d JOIN pg_depend e ON e.classid = d.class AND e.objid = d.oid AND e.refclassid = 'pg_class'::regclass
    JOIN pg_class c ON c.oid = e.refobjid AND c.relkind IN ('v', 'm', 'f') LEFT JOIN ours o ON o.oid = c.oid
    WHERE o.oid IS NULL AND c.relnamespace <> 'pg_catalog'::regnamespace
    UNION ALL
    SELECT 'column ' || a.attname || ' of ' || o.name || ' has type ' || format_type(a.atttypid, NULL)
    FROM ours o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'pgvigil', 'instrumentation')
      AND (o.name NOT LIKE ALL (%(application)s) OR a.attname = ANY (%(columns)s))
    UNION ALL
    SELECT o.name || ' is no ' || CASE WHEN v.is_view THEN 'view' ELSE 'table' END
    FROM unnest(%(views)s::text[] || %(tables)s::text[], array_fill(true, ARRAY[cardinality(%(views)s::text[])]) || array_fill(false, ARRAY[cardinality(%(tables)s::text[])])) v (name, is_view)
    JOIN pg_class c ON c.oid = to_regclass(v.name) JOIN ours o ON o.oid = c.oid
    WHERE (c.relkind = 'v') <> v.is_view"""

_APPLICATION = ("sessions", "context_history", "codebase_snapshots", "handoff_requests")
_TABLES = ("session_lifecycle", "system_metrics", "performance_logs", "analytics_aggregations", "query_executions")
_VIEWS = (
    "session_monitoring_view",
    "performance_monitoring_view",
    "session_content_view",
    "execution_analytics",
    "user_recent_executions",
)
_OWN_TABLES = (
    "pgvigil.alembic_version", "pgvigil.migrations", "pgvigil.jobs", "pgvigil.job_runs", "pgvigil.partition_policies", "pgvigil.retention_policies",
    "pgvigil.deleted_sessions", "pgvigil.tolerated_values", "pgvigil.leftovers", "pgvigil.found_before", "pgvigil.reference_snapshots",
    "pgvigil.session_counters", "pgvigil.session_counter_changes", "pgvigil.legal_holds", "pgvigil.performance_rollups", "pgvigil.rollup_progress",
    "pgvigil.alert_thresholds", "pgvigil.backup_proofs", "pgvigil.final_statuses",
    "pgvigil.operation_totals", "pgvigil.execution_rollups", "pgvigil.execution_totals", "pgvigil.event_totals", "pgvigil.totals_progress",
    "pgvigil.session_monitors", "pgvigil.session_monitor_totals", "pgvigil.monitor_settings",
    "instrumentation.instances", "instrumentation.sessions", "instrumentation.sql_statements", "instrumentation.kill_attempts",
)  # fmt: skip
_OWN_VIEWS = (
    "pgvigil.job_status", "pgvigil.partitions", "pgvigil.session_monitor", "instrumentation.active_sessions", "instrumentation.session_stats", "instrumentation.session_activity",
)  # fmt: skip
_COLUMNS = (
    "id", "session_id", "session_key", "agent_from", "agent_to", "status", "created_at", "updated_at", "expires_at", "last_activity_at", "is_dormant",
    "archived_at", "retention_policy", "content", "content_size_bytes", "tokens_used", "requesting_agent", "target_agent", "completed_at",
)  # fmt: skip


def require_shipped(conn: psycopg.Connection[Any]) -> None:
    """Raises ConnectError where who is connected has more rights than the owner of what is ours, and that is not what pgvigil shipped.

    Without more rights nothing is looked at: code of the owner's that the owner runs is his own affair.
    """
    search_path = conn.execute("SELECT pg_catalog.current_setting('search_path')").fetchone()
    assert search_path is not None  # noqa: S101 - a SELECT without FROM has a row
    conn.execute("SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)")
    try:
        told = list(_differences(conn))
    finally:
        if not conn.closed and conn.info.transaction_status != psycopg.pq.TransactionStatus.INERROR:
            conn.execute("SELECT pg_catalog.set_config('search_path', %s, false)", search_path)
    if told:
        more = f" and {len(told) - 5} more" if len(told) > 5 else ""
        raise ConnectError(
            f"objects of pgvigil are not as pgvigil made them, and would run with the rights of {conn.info.user}: {'; '.join(told[:5])}{more}",
            "Nothing of them was called. See what changed as the owner of the tables, who may run them: pgvigil validate.",
        )


def _differences(conn: psycopg.Connection[Any]) -> Iterator[str]:
    row = conn.execute(
        """SELECT o.rolname::text, o.rolsuper, n.nspowner = u.oid, pg_has_role(n.nspowner, 'MEMBER'),
                  EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE m.roleid = n.nspowner AND NOT r.rolsuper)
           FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner JOIN pg_roles u ON u.rolname = current_user WHERE n.nspname = 'pgvigil'"""
    ).fetchone()
    if row is None:
        return
    owner, owner_is_superuser, is_owner, may_act, has_members = row
    if owner_is_superuser or is_owner or not may_act or (owner == OWN_ROLE and not has_members):
        return
    ledger = conn.execute("SELECT relkind::text FROM pg_class WHERE oid = to_regclass('pgvigil.migrations')").fetchone()
    if ledger is None:
        return
    if ledger[0] != "r":
        yield "pgvigil.migrations is no table"
        return
    named = conn.execute("SELECT schema_name FROM pgvigil.migrations WHERE revision = '000'").fetchone()
    schema = named[0] if named else "public"
    yield from _functions(conn, schema)
    q = schema.replace('"', '""')
    rows = conn.execute(
        _FOREIGN,
        {
            "schema": schema,
            "names": [*_APPLICATION, *_TABLES, *_VIEWS],
            "application": [f"%{name}" for name in _APPLICATION],
            "columns": list(_COLUMNS),
            "views": [*(f'"{q}".{name}' for name in _VIEWS), *_OWN_VIEWS],
            "tables": [*(f'"{q}".{name}' for name in (*_APPLICATION, *_TABLES)), *_OWN_TABLES],
        },
    ).fetchall()
    yield from sorted(row[0] for row in rows)


def _functions(conn: psycopg.Connection[Any], schema: str) -> Iterator[str]:
    shapes = _shapes(project.MIGRATIONS)
    for nsp, name, body, definer, pinned, owned, known_language, parsed in conn.execute(_FUNCTIONS).fetchall():
        what = f"function {nsp}.{name}"
        if (nsp, name) in _COMPUTED:
            if not _ACTIVE_TIME.fullmatch(body) or definer:
                yield f"{what} is another one"
            continue
        candidates = shapes.get((nsp, name))
        if candidates is None:
            continue  # nobody calls it: a view or a body that did would have to be another one, too
        if not owned:
            yield f"{what} belongs to another role"
        elif not known_language or not any(
            shape.definer == definer
            and shape.pinned == pinned
            and (parsed if shape.body is None else not parsed and bound(shape.body, schema) == body)
            for shape in candidates
        ):
            yield f"{what} is another one"
