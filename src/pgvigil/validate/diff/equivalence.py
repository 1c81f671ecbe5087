"""Two spellings, one meaning? The server reads both, on a passing copy of the table, and prints what it understood."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgvigil.validate.catalog.object_paths import kind_of, last_name
from pgvigil.validate.catalog.snapshot import Connection, pinned
from pgvigil.validate.catalog.spelling import plain_fields
from pgvigil.validate.repair import ddl, ddl_relations, ddl_routines

_TABLE = "'pg_temp.probe'::regclass"
_READ_BACK = {
    ("column", "default"): f"SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = {_TABLE}",
    ("column", "generated"): f"SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = {_TABLE}",
    ("constraint", "definition"): f"SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = {_TABLE} AND contype <> 'n'",
    ("index", "definition"): f"SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = {_TABLE}",
    ("trigger", "when"): f"SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = {_TABLE}",
    ("policy", "using"): f"SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid = {_TABLE}",
    ("policy", "check"): f"SELECT pg_get_expr(polwithcheck, polrelid) FROM pg_policy WHERE polrelid = {_TABLE}",
    ("rule", "definition"): f"SELECT pg_get_ruledef(oid, true) FROM pg_rewrite WHERE ev_class = {_TABLE}",
    ("view", "definition"): f"SELECT pg_get_viewdef({_TABLE})",
    ("statistics", "definition"): f"SELECT pg_get_statisticsobjdef_columns(oid) FROM pg_statistic_ext WHERE stxrelid = {_TABLE}",
    ("type", "default"): "SELECT pg_get_expr(typdefaultbin, 0) FROM pg_type WHERE typname = 'probe' AND typnamespace = pg_my_temp_schema()",
    ("type", "checks"): "SELECT string_agg(conname || pg_get_constraintdef(oid), ' ' ORDER BY conname) FROM pg_constraint"
    " WHERE contypid = (SELECT oid FROM pg_type WHERE typname = 'probe' AND typnamespace = pg_my_temp_schema())",
    ("function", "body"): "SELECT pg_get_function_sqlbody(oid) FROM pg_proc WHERE proname = 'probe' AND pronamespace = pg_my_temp_schema()",
    ("function", "arguments"): "SELECT pg_get_function_arguments(oid) FROM pg_proc WHERE proname = 'probe' AND pronamespace = pg_my_temp_schema()",
}  # fmt: skip
_READ_BACK["collation", "locale"] = (
    "SELECT coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale', c.collcollate)"
    " FROM pg_collation c WHERE collname = 'probe' AND collnamespace = pg_my_temp_schema()"
)
_READ_BACK |= {("procedure", key): _READ_BACK["function", key] for key in ("body", "arguments")}


# To make an index, a CHECK or a generated column the server computes what is constant in it: a function of the owner's that says it is
# IMMUTABLE runs at once, with the rights of whoever compares. So the owner's rights are taken where they are others, as far as one may.
_WHOSE = """
    SELECT r.rolname::text, pg_catalog.pg_has_role(current_user, r.oid, 'MEMBER'), EXISTS (
        SELECT FROM pg_catalog.pg_depend d WHERE d.refclassid IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_operator'::regclass)
          AND d.refobjid OPERATOR(pg_catalog.>=) 16384::oid AND (d.classid, d.objid) IN (
              SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid
              UNION ALL SELECT 'pg_catalog.pg_constraint'::regclass, k.oid FROM pg_catalog.pg_constraint k WHERE k.conrelid OPERATOR(pg_catalog.=) c.oid
              UNION ALL SELECT 'pg_catalog.pg_attrdef'::regclass, a.oid FROM pg_catalog.pg_attrdef a WHERE a.adrelid OPERATOR(pg_catalog.=) c.oid))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) c.relowner
    WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s) AND r.rolname OPERATOR(pg_catalog.<>) current_user"""
_AS_OWNER = sql.SQL("""
    CREATE FUNCTION pg_temp.probe_as_owner(statement text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $run$ BEGIN EXECUTE statement; END $run$""")
_COMPUTED = {"constraint", "index", "column"}


@dataclass(frozen=True)
class Probe:
    """An object of which one attribute is spelt in two ways; `attributes` are its others, as JSON."""

    path: str
    root: str
    key: str
    expected: str
    found: str
    attributes: str


def possible(path: str, key: str) -> bool:
    return (kind_of(path), key) in _READ_BACK


def settle(conn: Connection, schema: str, probes: Iterable[Probe]) -> dict[Probe, bool | str]:
    """Whether each pair means the same, or why the server could not say."""
    return {probe: _same(conn, schema, probe) for probe in dict.fromkeys(probes)}


def _same(conn: Connection, schema: str, probe: Probe) -> bool | str:
    try:
        found = _understood(conn, schema, probe, probe.found)
    except (psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.InsufficientPrivilege) as error:
        return error.diag.message_primary or str(error)
    except psycopg.DatabaseError:
        return False  # what is there cannot even be read again
    try:
        expected = _understood(conn, schema, probe, probe.expected)
        # What the server printed it does not always read as what it was: EXTRACT('YEAR' FROM x) it prints without quotes.
        return _plain(expected) in (_plain(found), _plain(probe.found))
    except psycopg.DatabaseError:
        return False  # what is expected has no meaning here: a column it names is not there


def _plain(text: object) -> object:
    return plain_fields(text) if isinstance(text, str) else text


def _understood(conn: Connection, schema: str, probe: Probe, text: str) -> object:
    # In a pipeline, and so over the extended protocol, a text of the spec cannot smuggle in a second statement.
    with pinned(conn, schema, read_only=False):
        whose = conn.execute(_WHOSE, (probe.root,)).fetchone() if kind_of(probe.path) in _COMPUTED else None
        if whose and not whose[1] and whose[2]:
            raise psycopg.errors.InsufficientPrivilege(
                f"{probe.root} calls functions that would run with the rights of whoever compares"
            )
        if whose and whose[1]:
            conn.execute(_AS_OWNER.format(schema=sql.Identifier(schema)))
            conn.execute(
                sql.SQL("ALTER FUNCTION pg_temp.probe_as_owner(text) OWNER TO {}").format(sql.Identifier(whose[0]))
            )
            for statement in _statements(probe, text):
                conn.execute("SELECT pg_temp.probe_as_owner(%s)", (statement,))
        else:
            for statement in _statements(probe, text):
                conn.execute(statement)
        row = conn.execute(_READ_BACK[kind_of(probe.path), probe.key]).fetchone()
    return row[0] if row else None


def _statements(probe: Probe, text: str) -> list[str]:
    kind, name = kind_of(probe.path), last_name(probe.path)
    given = json.loads(text) if text.startswith("{") and probe.key == "checks" else text
    attributes = json.loads(probe.attributes) | {probe.key: given}
    copy = f"CREATE TEMP TABLE probe (LIKE {probe.root})"
    on = "pg_temp.probe"
    if kind == "column":
        if probe.key == "default":
            return [copy, f"ALTER TABLE {on} ALTER {name} SET DEFAULT {text}"]
        return [
            copy,
            f"ALTER TABLE {on} DROP {name}, ADD {name} {attributes['type']} GENERATED ALWAYS AS ({text}) STORED",
        ]
    if kind == "constraint":
        return [copy, f"ALTER TABLE {on} ADD CONSTRAINT probe {text}"]
    if kind == "index":
        return [copy, ddl_relations.index(on, "", {"definition": text}).rstrip(";")]
    if kind == "trigger":
        make = copy
        if attributes["timing"] == "INSTEAD OF":
            make = f"CREATE TEMP VIEW probe AS SELECT * FROM {probe.root}"
        attributes.pop("enabled", None)
        attributes.pop("from", None)
        return [make, ddl_relations.trigger(on, "probe", attributes).rstrip(";")]
    if kind == "policy":
        return [copy, ddl_relations.policy(on, "probe", attributes).rstrip(";")]
    if kind == "rule":
        return [copy, text.rstrip(";").replace(f" TO {probe.root} ", f" TO {on} ", 1)]
    if kind == "view":
        return [f"CREATE TEMP VIEW probe AS {text.rstrip().rstrip(';')}"]
    if kind == "collation":
        return [ddl.collation("pg_temp.probe", attributes).rstrip(";")]
    if kind == "statistics":
        return [copy, f"CREATE STATISTICS pg_temp.probe ON {text.rpartition(' FROM ')[0]} FROM {on}"]
    if kind == "type":
        return [
            ddl.create(
                "type pg_temp.probe", "", {key: value for key, value in attributes.items() if key != "comment"}
            ).rstrip(";")
        ]
    label = "pg_temp.probe()"
    return [ddl_routines.function(kind, label, attributes).replace("CREATE OR REPLACE", "CREATE", 1).rstrip(";")]
