"""Walk over the catalog and check who may use each function, table and default privilege of an installation."""

from __future__ import annotations

import re

import psycopg
import pytest

from conftest import Connection, Database

OURS = "('pgvigil'::regnamespace, 'instrumentation'::regnamespace)"
# Functions with their caller's rights that were made for everybody, and those that look themselves at who asks.
FOR_EVERYBODY = {
    "pgvigil": """
        uuid_v7 uuid_v7_floor uuid_v7_time actor content_bytes time_slot histogram_bin histogram_value
        histogram_unit histogram_rank histogram_quantile application_schema application_table
        use_application_path require_session schedule_expiration expire_session mark_session_dormant
        archive_session reactivate_session record_metric record_performance""",
    "instrumentation": """
        current_session current_instance set_session_tag set_query_tag kill_session judge_kill caller may_read""",
}
# On the hot path a SET clause costs too much: they qualify every operator and name no type.
UNPINNED = {
    "pgvigil.count_added_context",
    "pgvigil.log_session_change",
    "pgvigil.log_session_created",
    "pgvigil.guard_archived_session",
}
# With the caller's rights, and no path either.
UNPINNED_OF_THE_CALLER = {
    "pgvigil.limit_activity_updates",
    "pgvigil.touch_session",
    "pgvigil.stamp_updated_at",
    "pgvigil.set_default_expiry",
}


@pytest.fixture
def catalog(shared: Database) -> Connection:
    return shared.connect(options="-c search_path=pg_catalog")


def names(catalog: psycopg.Connection, query: str) -> list[str]:
    with catalog:
        return sorted(row[0] for row in catalog.execute(query.replace("{ours}", OURS).encode()))


def test_public_may_execute_what_was_made_for_everybody_and_nothing_else(catalog: Connection) -> None:
    assert set(
        names(
            catalog,
            """SELECT p.pronamespace::regnamespace || '.' || p.proname FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
               WHERE p.pronamespace IN {ours} AND a.grantee = 0""",
        )
    ) == {f"{schema}.{name}" for schema, functions in FOR_EVERYBODY.items() for name in functions.split()}


def test_every_function_with_its_owner_s_rights_pins_its_path(catalog: Connection) -> None:
    assert (
        set(
            names(
                catalog,
                """SELECT p.pronamespace::regnamespace || '.' || p.proname FROM pg_proc p
               WHERE p.pronamespace IN {ours} AND p.prosecdef AND NOT coalesce(p.proconfig @> '{"search_path=pg_catalog, pg_temp"}', false)""",
            )
        )
        == UNPINNED
    )


def test_what_pins_no_path_is_bound_when_it_is_made_or_qualifies_its_operators(catalog: Connection) -> None:
    """The others in PL/pgSQL without a path are hot triggers, and procedures that commit, which cannot have one."""
    loose = names(
        catalog,
        r"""SELECT p.pronamespace::regnamespace || '.' || p.proname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
            WHERE p.pronamespace IN {ours} AND p.proconfig IS NULL AND p.prokind = 'f' AND p.prosqlbody IS NULL
              AND p.prosrc ~ '[^(]\s(=|<>|<=|>=|<|>|\|\||->>|->|\+|-)\s' AND p.prosrc !~ 'OPERATOR\(pg_catalog\.'""",
    )
    assert loose == []


def test_a_hot_trigger_without_a_path_qualifies_each_operator_function_and_type(catalog: Connection) -> None:
    with catalog:
        bodies = catalog.execute(
            "SELECT p.pronamespace::regnamespace || '.' || p.proname, p.prosrc FROM pg_proc p"
            " WHERE p.pronamespace::regnamespace || '.' || p.proname = ANY (%s)",
            [sorted(UNPINNED | UNPINNED_OF_THE_CALLER)],
        ).fetchall()
    assert {name for name, _ in bodies} == UNPINNED | UNPINNED_OF_THE_CALLER
    assert {name: found for name, body in bodies if (found := unqualified(body))} == {}


@pytest.mark.client_side
@pytest.mark.parametrize(
    "body",
    [
        "a = b",
        "a || b",
        "format('%L', a)",
        "a::text",
        "a IS DISTINCT FROM b",
        "a IN (1, 2)",
        "\n    a uuid;",
        "FROM sessions",
        "nullif(a, b)",
    ],
)
def test_what_is_unqualified_is_found(body: str) -> None:
    assert unqualified(body)


def unqualified(body: str) -> list[str]:
    """Return the names in a plpgsql body that depend on the path: operators, functions, types and tables."""
    code = re.sub(r"--[^\n]*|'(?:[^']|'')*'", "''", body.replace("#variable_conflict use_variable", ""))
    code = re.sub(r"OPERATOR\(pg_catalog\.[^)]+\)", "", code)
    code = (
        code.replace("(*)", "")
        .replace(":=", "")
        .replace("ERRCODE =", "")
        .replace("HINT =", "")
        .replace("''::interval", "")
    )
    code = code.replace("::interval", "")  # after a text: the grammar's own type, of pg_catalog
    grammar = "coalesce|ARRAY|AND|OR|NOT|IN|WHERE|HAVING|VALUES|IF|session_lifecycle|session_counter_changes|interval"
    return [
        *re.findall(r"[-+*/<>=~!@#%^&|]+|::\s*(?!pg_catalog\.)\w+", re.sub(r"RAISE EXCEPTION[^;]*", "", code)),
        *re.findall(rf"(?<![.\w])(?!(?:{grammar})\b)\w+(?=\s*\()", code, flags=re.IGNORECASE),
        *re.findall(r"\bDISTINCT\b|\bNULLIF\b|\bIN\s*\(|\bLIKE\b|\bBETWEEN\b", code, flags=re.IGNORECASE),
        *re.findall(r"^\s+\w+ +(?:uuid|text|jsonb|bigint|record|integer);", code, flags=re.MULTILINE),
        *re.findall(r"\b(?:FROM|INTO|JOIN)\s+(?!new_|archived\b)\w+\b(?!\.)", code),
    ]


def test_nothing_of_ours_belongs_to_a_superuser(catalog: Connection) -> None:
    assert (
        names(
            catalog,
            """SELECT pg_describe_object(o.class, o.oid, 0) FROM (
                   SELECT 'pg_proc'::regclass, oid, proowner FROM pg_proc WHERE pronamespace IN {ours}
                   UNION ALL SELECT 'pg_class'::regclass, oid, relowner FROM pg_class WHERE relnamespace IN {ours} AND relkind NOT IN ('i', 'I')
                   UNION ALL SELECT 'pg_type'::regclass, oid, typowner FROM pg_type WHERE typnamespace IN {ours}
                   UNION ALL SELECT 'pg_namespace'::regclass, oid, nspowner FROM pg_namespace WHERE oid IN {ours}) o (class, oid, owner)
               JOIN pg_roles r ON r.oid = o.owner WHERE r.rolsuper OR r.rolcanlogin""",
        )
        == []
    )


def test_public_has_no_right_on_a_table_of_ours_and_creates_nothing_beside_it(catalog: Connection) -> None:
    assert (
        names(
            catalog,
            """SELECT c.oid::regclass || ' ' || a.privilege_type FROM pg_class c, aclexplode(c.relacl) a WHERE c.relnamespace IN {ours} AND a.grantee = 0
               UNION ALL SELECT n.nspname || ' CREATE' FROM pg_namespace n, aclexplode(n.nspacl) a
               WHERE n.oid IN {ours} AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner""",
        )
        == []
    )


def test_we_give_no_default_privileges(catalog: Connection) -> None:
    assert names(catalog, "SELECT defaclobjtype::text FROM pg_default_acl") == []


def test_our_roles_log_in_nowhere_and_have_no_attribute_or_role_of_the_server_s(catalog: Connection) -> None:
    assert (
        names(
            catalog,
            """SELECT rolname::text FROM pg_roles WHERE rolname ~ '^pgvigil_'
               AND (rolsuper OR rolcanlogin OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)""",
        )
        == []
    )
