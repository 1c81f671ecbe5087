"""Ask the server whether two spellings mean the same.

It reads both, on a temporary copy of the table, and prints what it understood.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgvigil.validate.catalog.identifiers import unquoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Connection, fetch, pinned, print_for
from pgvigil.validate.catalog.spelling import plain_fields
from pgvigil.validate.repair import ddl, ddl_relations, ddl_routines

_SAID_OF_IT = ("comment", "comments", "owned_by")  # by statements of their own
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


# To make an object the server computes what is constant in it (a function that says it is IMMUTABLE) and reads its literals (a domain
# checks them): code of the owner's, which would run with the rights of whoever compares. So the owner's rights are taken, as far as one
# may; and who may not take them leaves what calls code of others.
_OWNERS = {
    "function": "SELECT p.proowner FROM pg_proc p WHERE p.oid = to_regprocedure(%s)",
    "type": "SELECT t.typowner FROM pg_type t WHERE t.oid = to_regtype(%s)",
    "collation": "SELECT oid FROM pg_roles WHERE rolname = current_user AND %s <> ''",  # its attributes are not expressions
    "relation": "SELECT c.relowner FROM pg_class c WHERE c.oid = to_regclass(%s)",
}
_WHOSE = """
    SELECT r.rolname::text, r.rolsuper OR r.rolname = current_user, pg_has_role(current_user, r.oid, 'MEMBER'), EXISTS (
        SELECT FROM (
            SELECT p.proowner AS owner FROM pg_proc p WHERE p.proname = ANY (%s::text[])
            UNION ALL SELECT t.typowner FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
                      WHERE t.typname = ANY (%s::text[]) AND coalesce(c.relkind, 'c') = 'c' OR t.typname = ANY (%s::text[])
            UNION ALL SELECT o.oprowner FROM pg_operator o WHERE strpos(%s, o.oprname) > 0
            UNION ALL SELECT t.typowner FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                      WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0) code
        JOIN pg_roles o ON o.oid = code.owner AND NOT o.rolsuper AND o.rolname <> current_user),
        -- What is not there now, or is not others', may be at once.
        EXISTS (SELECT FROM pg_namespace n CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
                LEFT JOIN pg_roles g ON g.oid = a.grantee
                WHERE n.nspname = %s AND a.privilege_type = 'CREATE' AND g.rolsuper IS NOT TRUE)
    FROM pg_roles r WHERE r.oid = ({owner})"""
_AS_OWNER = sql.SQL("""
    CREATE FUNCTION pg_temp.probe_as_owner(statement text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $run$ BEGIN EXECUTE statement; END $run$""")
_WORD = re.compile(r'(::\s*|\bCAST\s*\([^()]*\bAS\s+)?(?:[^\W\d]\w*\.|"(?:[^"]|"")+"\.)?([^\W\d]\w*|"(?:[^"]|"")+")')


@dataclass(frozen=True)
class Probe:
    """An object of which one attribute is spelt in two ways; `attributes` are its others, as JSON."""

    ref: ObjectRef
    root: str
    key: str
    expected: str
    found: str
    attributes: str


def possible(ref: ObjectRef, key: str) -> bool:
    return (ref.kind, key) in _READ_BACK


def resolve(conn: Connection, schema: str, probes: Iterable[Probe]) -> dict[Probe, bool | str]:
    """Return for each pair whether it means the same, or why the server could not decide."""
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
    with pinned(conn, schema, read_only=False, opened=True):
        owner, has_my_rights, is_mine, calls_others, others_create = _whose(conn, schema, probe)
        if not (has_my_rights or is_mine) and calls_others:
            raise psycopg.errors.InsufficientPrivilege(
                f"code of others, which {probe.root} may call, would run with the rights of whoever compares"
            )
        # Making a view computes nothing, so only code that is in it now counts; and the owner may not even be let into the schema.
        runs_others = calls_others or (others_create and probe.ref.kind != "view")
        if not has_my_rights and is_mine and runs_others:
            conn.execute(_AS_OWNER.format(schema=sql.Identifier(schema)))
            conn.execute(
                sql.SQL("ALTER FUNCTION pg_temp.probe_as_owner(text) OWNER TO {}").format(sql.Identifier(owner))
            )
            for statement in _statements(probe, text):
                conn.execute("SELECT pg_temp.probe_as_owner(%s)", (statement,))
        else:
            print_for(conn, schema)
            for statement in _statements(probe, text):
                conn.execute(statement)
        row = fetch(conn, schema, _READ_BACK[probe.ref.kind, probe.key])
    return row[0] if row else None


def _whose(conn: Connection, schema: str, probe: Probe) -> tuple[str, bool, bool, bool, bool]:
    """The owner of what is made again, whether that is who compares or a superuser, whether one may act as the owner, and whether a name
    in the text may be that of code of somebody else, who is not a superuser; and whether others may create such code in the schema.
    """
    kind = {"procedure": "function"}.get(probe.ref.kind, probe.ref.kind)
    of = kind if kind in _OWNERS else "relation"
    text = f"{probe.expected} {probe.found}" + (
        f" {probe.attributes}" if kind in ("policy", "type", "function") else ""
    )
    words = [(name if name.startswith('"') else name.lower(), cast) for cast, name in _WORD.findall(text)]
    names, casts = [unquoted(name) for name, _ in words], [unquoted(name) for name, cast in words if cast]
    label = probe.root if of == "relation" else probe.ref.label
    query = _WHOSE.replace("{owner}", _OWNERS[of])
    row: tuple[str, bool, bool, bool, bool] | None = fetch(
        conn,
        schema,
        query,
        (names, names, casts, text, probe.root or None, schema, label),  # an empty name is an error up to 15
    )
    if row is None:
        raise psycopg.errors.UndefinedObject(f"{label} is not there")
    return row


def _statements(probe: Probe, text: str) -> list[str]:
    kind, name = probe.ref.kind, probe.ref.name
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
                ObjectRef("type", "pg_temp.probe"),
                "",
                {key: value for key, value in attributes.items() if key not in _SAID_OF_IT},
            ).rstrip(";")
        ]
    label = "pg_temp.probe()"
    return [ddl_routines.function(kind, label, attributes).replace("CREATE OR REPLACE", "CREATE", 1).rstrip(";")]
