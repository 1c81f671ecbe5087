"""The check that the objects a command will call and read are as pgvigil shipped them. The owner of the tables may put other functions, views and
casts in the places of ours; whoever has more rights than he has would run them with these.

The catalog is asked, and nothing of the database's is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import psycopg

from pgvigil import default_expiry, project
from pgvigil.errors import ConnectError
from pgvigil.owner import OWN_ROLE, confine, copied
from pgvigil.placeholders import bound
from pgvigil.planned_code import is_possible, planned_code

# One expression for all of it would step through each body letter by letter, which took most of the time.
_FUNCTION = re.compile(
    r"CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE) (?P<schema>pgvigil|instrumentation)\.(?P<name>\w+)\("
)
_BODY = re.compile(r"\b(?:AS (?P<quote>\$\w*\$)|(?:RETURN|BEGIN ATOMIC)\b)")


class _Shape(NamedTuple):
    """The properties of a function of ours: its source, or None for a body that the server keeps parsed."""

    arguments: str
    result: str
    body: str | None
    definer: bool
    settings: tuple[str, ...]


# As the server prints types; a longer spelling that the files never use is not here.
_SPELLINGS = {
    "timestamptz": "timestamp with time zone",
    "int": "integer",
    "bool": "boolean",
    "varchar": "character varying",
}
_ALIAS = re.compile(rf"\b(?:{'|'.join(_SPELLINGS)})\b")
_DEFAULT = re.compile(r"\s+(?:DEFAULT|=)\s+(?:'[^']*'|\(\)|[^,()])+")
_BRACKET = re.compile(r"[()]")
_BESIDE = re.compile(r"\s*([(),])\s*")
_IN = re.compile(r"(^|,)in ")
_RESULT = re.compile(
    r"\s*RETURNS\s+(TABLE\s*\([^)]*\)|(?:SETOF\s+)?(?:double precision|[\w.]+)(?:\[\])?)", re.IGNORECASE
)
_SETTING = re.compile(r"\bSET (\w+) (?:=|TO) '?((?<=')[^']*|\w+(?:, \w+)*)")


@lru_cache(4096)
def _spelt(declaration: str) -> str:
    """Return one spelling of arguments or a result: without defaults, quotes and aliases of types."""
    plain = _DEFAULT.sub("", declaration) if "=" in declaration or "DEFAULT" in declaration else declaration
    words = _ALIAS.sub(lambda word: _SPELLINGS[word[0]], plain.replace('"', "").lower())
    joined = _BESIDE.sub(r"\1", " ".join(words.split()))
    return _IN.sub(r"\1", joined) if "in " in joined else joined  # as a procedure's are printed


def _shape(head: str, body: str | None) -> _Shape:
    depth, end = 1, 0
    while depth:
        bracket = _BRACKET.search(head, end)
        if bracket is None:
            raise ValueError(f"no end of the arguments: {head[:100]}")
        end = bracket.end()
        depth += 1 if bracket[0] == "(" else -1
    result = _RESULT.match(head, end)
    return _Shape(
        _spelt(head[: end - 1]),
        _spelt(result[1]) if result else "",
        body,
        "SECURITY DEFINER" in head[end:],
        tuple(sorted(f"{name}={value}" for name, value in _SETTING.findall(head[end:]))),
    )


@cache
def _shapes(directory: Path) -> dict[tuple[str, str], list[_Shape]]:
    shapes: dict[tuple[str, str], list[_Shape]] = {}
    for path in [directory / "ledger.sql", *sorted(directory.glob("[0-9]*.sql"))]:
        text = path.read_text().replace("\r\n", "\n")
        end = 0
        while found := _FUNCTION.search(text, end):
            begin = _BODY.search(text, found.end())
            if begin is None:
                break
            end, body = begin.end(), None
            if quote := begin["quote"]:
                end = text.index(quote, end)
                body = text[begin.end() : end]
            shapes.setdefault((found["schema"], found["name"]), []).append(
                _shape(text[found.end() : begin.start()], body)
            )
    return shapes


_FUNCTIONS = """
    SELECT n.nspname::text, p.proname::text, p.prosrc, p.prosecdef, coalesce(p.proconfig, '{}'),
           pg_get_function_identity_arguments(p.oid), coalesce(pg_get_function_result(p.oid), ''),
           p.proowner = s.nspowner, l.lanname IN ('sql', 'plpgsql') AND (l.lanname = 'sql' AND p.prosqlbody IS NOT NULL OR p.prosrc <> ''),
           p.prosqlbody IS NOT NULL, p.oid::bigint
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    JOIN pg_namespace s ON s.nspname = 'pgvigil'
    WHERE n.nspname IN ('pgvigil', 'instrumentation')"""

_USED = """
    SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) || ' uses ' || d.refobjid::regprocedure::text FROM pg_depend d
    WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = ANY (%s::oid[]) ORDER BY 1"""

# Views, bodies that are kept parsed, and defaults, of columns and of arguments, are evaluated with the rights of whoever asks. Some
# functions of the server's run a statement that they are given, read any table, or call a type's cast; pg_depend has no row for one.
_TREES = """
    SELECT 'view ' || c.oid::regclass::text, r.ev_action::text || coalesce(r.ev_qual::text, '')
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('pgvigil', 'instrumentation') OR n.nspname = %(schema)s AND c.relname = ANY (%(names)s)
    UNION ALL
    SELECT 'a default of ' || c.oid::regclass::text, d.adbin::text
    FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('pgvigil', 'instrumentation') OR n.nspname = %(schema)s AND c.relname = ANY (%(tables)s)
    UNION ALL
    SELECT 'function ' || p.oid::regprocedure::text, coalesce(p.prosqlbody::text, '') || coalesce(p.proargdefaults::text, '')
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname IN ('pgvigil', 'instrumentation') AND (p.prosqlbody IS NOT NULL OR p.proargdefaults IS NOT NULL)"""
_CALLED = re.compile(r":(?:funcid|aggfnoid|winfnoid) (\d+)")
# What is not immutable is allowed by its name. What makes JSON or XML of a row calls casts that the row's types bring along.
_NOT_PLAIN = """
    SELECT p.oid::bigint, p.oid::regprocedure::text FROM pg_proc p
    WHERE p.oid = ANY (%s::oid[]) AND p.pronamespace = 'pg_catalog'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_cast c WHERE c.castfunc = p.oid AND c.oid < 16384) AND NOT p.proname = ANY (%s)
      AND (p.provolatile <> 'i' AND p.prokind = 'f' OR p.prokind = 'a' AND p.proname ~ 'json|xml')"""
_PLAIN = (
    "age", "clock_timestamp", "concat", "concat_ws", "current_database", "current_setting", "date_part", "date_trunc", "extract", "format",
    "gen_random_uuid", "inet_client_addr", "nextval", "now", "pg_advisory_xact_lock", "pg_backend_pid", "pg_get_expr", "pg_get_userbyid",
    "pg_has_role", "pg_total_relation_size", "random", "statement_timestamp", "timezone", "to_char", "to_timestamp", "transaction_timestamp",
    "uuidv7",
)  # fmt: skip

# What a view, a body that is kept parsed, a default or a generated column may depend on: our own functions, which are looked at by
# themselves, and what came with the server. Pinned objects have no rows in pg_depend. Few joins: planning is most of what this takes.
_FOREIGN = """
    WITH schemas AS (SELECT oid FROM pg_namespace WHERE nspname IN ('pgvigil', 'instrumentation')),
    ours AS (
        SELECT c.oid, c.relkind, c.relname = ANY (%(application)s) AND c.relnamespace <> ALL (ARRAY(SELECT oid FROM schemas)) AS is_application
        FROM pg_class c
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
          AND (c.relnamespace = ANY (ARRAY(SELECT oid FROM schemas)) AND NOT starts_with(c.relname, 'legacy_')
               OR c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s) AND c.relname = ANY (%(names)s))),
    dependents AS (
        SELECT 'pg_rewrite'::regclass::oid AS class, r.oid FROM pg_rewrite r WHERE r.ev_class IN (SELECT oid FROM ours)
        UNION ALL SELECT 'pg_attrdef'::regclass, d.oid FROM pg_attrdef d WHERE d.adrelid IN (SELECT oid FROM ours WHERE NOT is_application)
        -- What the application's rows get is computed where they are written.
        UNION ALL SELECT 'pg_proc'::regclass, p.oid FROM pg_proc p
        WHERE p.pronamespace = ANY (ARRAY(SELECT oid FROM schemas)) AND (p.prosqlbody IS NOT NULL OR p.proargdefaults IS NOT NULL)),
    used AS MATERIALIZED (
        SELECT DISTINCT d.class, d.oid, e.refclassid, e.refobjid
        FROM dependents d JOIN pg_depend e ON e.classid = d.class AND e.objid = d.oid
        WHERE e.refobjid >= 16384 AND e.refclassid = ANY (ARRAY['pg_proc'::regclass, 'pg_operator'::regclass, 'pg_class'::regclass, 'pg_type'::regclass]::oid[]))
    SELECT pg_describe_object(d.class, d.oid, 0) || ' uses ' || p.oid::regprocedure::text
    FROM used d JOIN pg_proc p ON p.oid = d.refobjid WHERE d.refclassid = 'pg_proc'::regclass
     AND p.pronamespace <> ALL (ARRAY(SELECT oid FROM schemas)) AND p.pronamespace <> 'pg_catalog'::regnamespace
    UNION ALL
    SELECT pg_describe_object(d.class, d.oid, 0) || ' uses operator ' || p.oid::regoperator::text
    FROM used d JOIN pg_operator p ON p.oid = d.refobjid WHERE d.refclassid = 'pg_operator'::regclass AND p.oprnamespace <> 'pg_catalog'::regnamespace
    UNION ALL
    SELECT pg_describe_object(d.class, d.oid, 0) || ' reads ' || c.oid::regclass::text
    FROM used d JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('v', 'm', 'f')
    WHERE d.refclassid = 'pg_class'::regclass AND c.relnamespace <> 'pg_catalog'::regnamespace AND c.oid NOT IN (SELECT oid FROM ours)
    UNION ALL
    SELECT pg_describe_object(d.class, d.oid, 0) || ' uses type ' || format_type(t.oid, NULL)
    FROM used d JOIN pg_type t ON t.oid = d.refobjid WHERE d.refclassid = 'pg_type'::regclass AND t.typtype <> 'e'
      AND t.typnamespace <> ALL (ARRAY['pg_catalog'::regnamespace, 'information_schema'::regnamespace]::oid[])
      AND NOT (t.typnamespace = ANY (ARRAY(SELECT oid FROM schemas)) AND t.typrelid IN (SELECT oid FROM ours))
    UNION ALL
    SELECT 'rule ' || quote_ident(r.rulename) || ' of ' || o.oid::regclass::text FROM ours o JOIN pg_rewrite r ON r.ev_class = o.oid
    WHERE r.rulename <> '_RETURN' AND NOT o.is_application
    UNION ALL
    SELECT 'column ' || a.attname || ' of ' || o.oid::regclass::text || ' has type ' || format_type(a.atttypid, NULL)
    FROM ours o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
    JOIN pg_type t ON t.oid = a.atttypid JOIN pg_roles r ON r.oid = t.typowner AND NOT r.rolsuper
    WHERE t.typnamespace <> 'pg_catalog'::regnamespace AND NOT (t.typnamespace = ANY (ARRAY(SELECT oid FROM schemas)) AND t.typtype = 'e')
      AND (NOT o.is_application OR a.attname = ANY (%(columns)s))
    UNION ALL
    SELECT o.oid::regclass::text || ' is not a ' || CASE WHEN v.is_view THEN 'view' ELSE 'table' END
    FROM unnest(%(views)s::text[] || %(tables)s::text[], array_fill(true, ARRAY[cardinality(%(views)s::text[])]) || array_fill(false, ARRAY[cardinality(%(tables)s::text[])])) v (name, is_view)
    JOIN ours o ON o.oid = to_regclass(v.name)
    WHERE (o.relkind = 'v') <> v.is_view"""

# Code of others that runs when a table of the owner's is written, or when a value of its types is cast. No object of ours is another
# one for it. Nothing is written on a standby.
_LEFT = """
    WITH o AS (SELECT oid FROM pg_roles WHERE rolname = %(owner)s)
    SELECT NOT pg_is_in_recovery() AND EXISTS (
               SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_roles r ON r.oid = p.proowner
               WHERE NOT t.tgisinternal AND c.relowner = (SELECT oid FROM o) AND NOT r.rolsuper
                 AND p.pronamespace NOT IN (SELECT n.oid FROM pg_namespace n WHERE n.nspname IN ('pgvigil', 'instrumentation')))
           OR EXISTS (
               SELECT FROM pg_cast c JOIN pg_type t ON t.oid IN (c.castsource, c.casttarget) JOIN pg_proc p ON p.oid = c.castfunc
               JOIN pg_roles r ON r.oid = p.proowner
               WHERE c.oid >= 16384 AND t.typowner = (SELECT oid FROM o) AND NOT r.rolsuper)"""

_SCHEMAS = ("pgvigil", "instrumentation")
_APPLICATION = ("sessions", "context_history", "codebase_snapshots", "handoff_requests")
# Its views are its own affair: no command that asks this reads them.
_TABLES = ("session_lifecycle", "system_metrics", "performance_logs", "analytics_aggregations", "query_executions")
_OWN_TABLES = (
    "pgvigil.alembic_version", "pgvigil.migrations", "pgvigil.jobs", "pgvigil.job_runs", "pgvigil.partition_policies", "pgvigil.retention_policies",
    "pgvigil.deleted_sessions", "pgvigil.tolerated_values", "pgvigil.displaced_tables", "pgvigil.displaced_objects", "pgvigil.reference_snapshots",
    "pgvigil.session_counters", "pgvigil.session_counter_changes", "pgvigil.legal_holds", "pgvigil.hold_sources", "pgvigil.remote_holds", "pgvigil.performance_rollups", "pgvigil.rollup_progress",
    "pgvigil.alert_thresholds", "pgvigil.backup_proofs", "pgvigil.final_statuses",
    "pgvigil.operation_totals", "pgvigil.execution_rollups", "pgvigil.execution_totals", "pgvigil.event_totals", "pgvigil.kill_totals", "pgvigil.totals_progress",
    "pgvigil.archives", "pgvigil.archive_erasures", "pgvigil.executions_to_archive", "pgvigil.hold_sources", "pgvigil.remote_holds",
    "pgvigil.session_monitors", "pgvigil.session_monitor_totals", "pgvigil.monitor_settings",
    "pgvigil.archives", "pgvigil.archive_erasures", "pgvigil.executions_to_archive",
    "instrumentation.instances", "instrumentation.sessions", "instrumentation.sql_statements", "instrumentation.kill_attempts",
)  # fmt: skip
_OWN_VIEWS = (
    "pgvigil.job_status", "pgvigil.partitions", "pgvigil.archives_to_read", "pgvigil.session_monitor", "instrumentation.active_sessions", "instrumentation.session_stats", "instrumentation.session_activity",
)  # fmt: skip
_COLUMNS = (
    "id", "session_id", "session_key", "agent_from", "agent_to", "status", "created_at", "updated_at", "expires_at", "last_activity_at", "is_dormant",
    "archived_at", "retention_policy", "content", "content_size_bytes", "tokens_used", "requesting_agent", "target_agent", "completed_at",
)  # fmt: skip


def require_shipped(conn: psycopg.Connection[Any]) -> None:
    """Raise ConnectError where the connected role has more rights than the owner of our objects, and these are not as
    pgvigil shipped them.

    Without more rights nothing is looked at: an owner may run its own code. With more, the connection is confined
    (`owner.rows`): an object that is as shipped now may be replaced before it is called.
    """
    search_path = conn.execute("SELECT pg_catalog.current_setting('search_path')").fetchone()
    assert search_path is not None  # noqa: S101 - a SELECT without FROM has a row
    conn.execute("SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)")
    try:
        found = list(_differences(conn))
    finally:
        if not conn.closed and conn.info.transaction_status != psycopg.pq.TransactionStatus.INERROR:
            conn.execute("SELECT pg_catalog.set_config('search_path', %s, false)", search_path)
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise ConnectError(
            f"objects of pgvigil are not as pgvigil made them, and would run with the rights of {conn.info.user}: {'; '.join(found[:5])}{more}",
            "Nothing of them was called. See what changed as the owner of the tables, who may run them: pgvigil validate. If another state"
            " of pgvigil made this database, set it up again, or restore the backup from before pgvigil and migrate that.",
        )


def _differences(conn: psycopg.Connection[Any]) -> Iterator[str]:
    row = conn.execute(
        """SELECT o.rolname::text, o.rolsuper, n.nspowner = u.oid, pg_has_role(n.nspowner, 'MEMBER'),
                  o.rolcanlogin OR EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
                                           WHERE m.roleid = n.nspowner AND NOT r.rolsuper)
           FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner JOIN pg_roles u ON u.rolname = current_user WHERE n.nspname = 'pgvigil'"""
    ).fetchone()
    if row is None:
        return
    owner, owner_is_superuser, is_owner, may_act, has_actors = row
    if owner_is_superuser or is_owner or not may_act:
        return
    # Nobody can act as this role now. Somebody may have been a member of it, and what was left then is still there.
    is_closed = owner == OWN_ROLE and not has_actors
    if not is_closed or conn.execute(_LEFT, {"owner": owner}).fetchone() == (True,):
        confine(conn, owner)
    ledger = conn.execute("SELECT relkind::text FROM pg_class WHERE oid = to_regclass('pgvigil.migrations')").fetchone()
    if ledger is None:
        return
    if ledger[0] != "r":
        yield "pgvigil.migrations is not a table"
        return
    reading = Thread(target=_shapes, args=(project.MIGRATIONS,), daemon=True)  # while the server works
    reading.start()
    plans_code = is_possible(conn)
    found = sorted(planned_code(conn, _SCHEMAS)) if plans_code else []
    yield from found
    if found:
        return  # the ledger is a table, too
    named = [
        name for revision, name in copied(conn, "pgvigil.migrations", "revision, schema_name") if revision == "000"
    ]
    schema = (named[0] if named else None) or "public"
    if plans_code:
        yield from sorted(planned_code(conn, (), schema, [*_APPLICATION, *_TABLES]))
    q = schema.replace('"', '""')
    names = {"schema": schema, "names": [*_APPLICATION, *_TABLES], "tables": list(_TABLES)}
    with conn.pipeline():  # the server goes on while an answer is looked at
        trees = conn.execute(_TREES, names)
        functions = conn.execute(_FUNCTIONS)
        foreign = conn.execute(
            _FOREIGN,
            names
            | {
                "application": list(_APPLICATION),
                "columns": list(_COLUMNS),
                "views": list(_OWN_VIEWS),
                "tables": [*(f'"{q}".{name}' for name in (*_APPLICATION, *_TABLES)), *_OWN_TABLES],
            },
        )
        called = {name: {int(oid) for oid in _CALLED.findall(tree)} for name, tree in trees}
        not_plain = conn.execute(_NOT_PLAIN, (sorted(set().union(*called.values())), list(_PLAIN)))
        reading.join()
        replaced = list(_functions(conn, schema, functions.fetchall()))
        yield from sorted(row[0] for row in foreign)
        for oid, function in not_plain:
            yield from sorted(f"{name} calls {function}" for name, oids in called.items() if oid in oids)
        yield from replaced


def _functions(conn: psycopg.Connection[Any], schema: str, found: list[Any]) -> Iterator[str]:
    shapes = _shapes(project.MIGRATIONS)
    unknown = []
    for nsp, name, body, definer, settings, arguments, result, owned, known_language, parsed, oid in found:
        what = f"function {nsp}.{name}"
        if (nsp, name) == ("pgvigil", "set_default_expiry"):  # written from the rows of retention_policies
            as_made = (owned, known_language, parsed, definer, list(settings), arguments, result)
            if as_made != (True, True, False, False, [], "", "trigger") or not default_expiry.is_body(body):
                yield f"{what} is another one"
            continue
        candidates = shapes.get((nsp, name))
        if candidates is None:
            unknown.append(oid)  # a body that called it would be another one, too
            continue
        spelt, options = (_spelt(arguments), _spelt(result)), (definer, tuple(sorted(settings)))
        if not owned:
            yield f"{what} belongs to another role"
        elif not known_language or not any(
            spelt == (shape.arguments, shape.result)
            and options == (shape.definer, shape.settings)
            and (parsed if shape.body is None else not parsed and bound(shape.body, schema) == body)
            for shape in candidates
        ):
            yield f"{what} is another one"
    if unknown:
        yield from (used for (used,) in conn.execute(_USED, (unknown,)).fetchall())
