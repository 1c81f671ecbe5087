"""Operators and functions that stand beside the server's own in the application's schema, with the very same types, before pgvigil comes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgvigil import project
from security.conftest import COUNTED, Installation

pytestmark = pytest.mark.in_full

# Whatever our files might mean: each does what the server's own does, after it has looked with whose rights it runs.
PLANTED = """
    DO $do$
    DECLARE
        one    record;
        types  oid[] := '{varchar,text,uuid,timestamptz,timestamp,date,interval,jsonb,json,integer,bigint,smallint,name,oid,boolean,numeric,double precision,"char",regclass,inet}'::regtype[];
        called text[] := %s;
    BEGIN
        FOR one IN
            SELECT p.proname, format_type(p.prorettype, NULL) AS result, pg_get_function_identity_arguments(p.oid) AS arguments, p.provolatile,
                   (SELECT string_agg('$' || n, ', ' ORDER BY n) FROM generate_series(1, p.pronargs) n) AS given
            FROM pg_proc p
            WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset AND p.pronargs > 0 AND p.proargmodes IS NULL
              AND p.prorettype = ANY (types) AND p.proargtypes::oid[] <@ types AND p.proname ~ '^[a-z0-9_]+$'
              AND (p.proname = ANY (called) OR EXISTS (SELECT FROM pg_operator o WHERE o.oprcode = p.oid))
        LOOP
            EXECUTE format('CREATE FUNCTION {app}.%%I(%%s) RETURNS %%s LANGUAGE plpgsql AS $f$ BEGIN
                                PERFORM {app}.spring();
                                RETURN pg_catalog.%%1$I(%%4$s);
                            END $f$', one.proname, one.arguments, one.result, one.given);
        END LOOP;
        -- Some have one operand's type wider than the server's operator has it, as varchar where that has text: an exact match wins.
        FOR one IN SELECT t.l, t.r, o.name FROM (VALUES ('varchar', 'varchar'), ('varchar', 'text'), ('text', 'varchar'), ('name', 'varchar')) t (l, r)
                   CROSS JOIN unnest('{=,<>,<,>,<=,>=,~~,~,||}'::text[]) o (name) LOOP
            EXECUTE format('CREATE FUNCTION {app}.%%I(%%s, %%s) RETURNS %%s LANGUAGE plpgsql AS $f$ BEGIN
                                PERFORM {app}.spring();
                                RETURN $1::pg_catalog.text OPERATOR(pg_catalog.%%s) $2::pg_catalog.text;
                            END $f$', 'planted ' || one.name, one.l, one.r, CASE one.name WHEN '||' THEN 'text' ELSE 'boolean' END, one.name);
            EXECUTE format('CREATE OPERATOR {app}.%%s (LEFTARG = %%s, RIGHTARG = %%s, FUNCTION = {app}.%%I)', one.name, one.l, one.r, 'planted ' || one.name);
        END LOOP;
        FOR one IN SELECT o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r, c.proname
                   FROM pg_operator o JOIN pg_proc c ON c.oid = o.oprcode
                   WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft = ANY (types) AND o.oprright = ANY (types) AND o.oprresult = ANY (types)
                     AND EXISTS (SELECT FROM pg_proc p WHERE p.proname = c.proname AND p.proargtypes = c.proargtypes
                                 AND p.pronamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = {literal}))
        LOOP
            EXECUTE format('CREATE OPERATOR {app}.%%s (LEFTARG = %%s, RIGHTARG = %%s, FUNCTION = {app}.%%I)', one.oprname, one.l, one.r, one.proname);
        END LOOP;
    END $do$"""
# What of ours stands on something of the application's schema that is no table: bound when it was made.
BOUND = """
    SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid), pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
    FROM pg_depend d
    LEFT JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
    LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
    LEFT JOIN pg_opclass c ON d.refclassid = 'pg_opclass'::regclass AND c.oid = d.refobjid
    LEFT JOIN pg_collation l ON d.refclassid = 'pg_collation'::regclass AND l.oid = d.refobjid
    LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid AND t.typrelid = 0 AND t.typelem = 0
    WHERE coalesce(p.pronamespace, o.oprnamespace, c.opcnamespace, l.collnamespace, t.typnamespace)
          NOT IN ('pg_catalog'::regnamespace, 'pgvigil'::regnamespace, 'instrumentation'::regnamespace)
      AND d.deptype <> 'i' AND d.refobjid >= 16384 AND d.classid <> 'pg_operator'::regclass"""


def names_called() -> list[str]:
    """Each word before a parenthesis in our files."""
    import re

    return sorted(
        {
            name
            for path in project.MIGRATIONS.glob("*.sql")
            for name in re.findall(r"\b([a-z_0-9]+)\(", path.read_text())
        }
    )


def plant(at: Installation) -> None:
    at.as_owner(COUNTED)
    called = "'{" + ",".join(names_called()) + "}'"
    at.as_owner((PLANTED % called).replace("{literal}", "'" + at.schema.replace("'", "''") + "'"))


@pytest.fixture
def planted(installed: Callable[..., Installation]) -> Installation:
    at = installed()
    at.reach("planted", lambda: plant(at))
    return at


def test_a_planted_operator_is_sprung_by_a_superuser_who_has_the_schema_on_the_path(planted: Installation) -> None:
    """The other tests would see it."""
    planted.execute("SET search_path = public; SELECT count(*) FROM sessions WHERE status <> 'x'::varchar")
    assert planted.turned


@pytest.mark.in_short
def test_nothing_of_ours_is_bound_to_what_is_planted(planted: Installation) -> None:
    planted.migrate()
    assert planted.execute(BOUND) == []


def test_nothing_planted_runs_in_a_migration(planted: Installation) -> None:
    planted.migrate()
    assert not planted.turned


def test_nothing_planted_runs_in_health_jobs_and_validate(planted: Installation) -> None:
    planted.migrate()
    planted.run_all_jobs()
    for words in (
        ("health", "--deep"),
        ("validate",),
        ("sizes",),
        ("status",),
        ("maintain", "status"),
        ("sessions", "list"),
    ):
        assert planted.pgvigil(*words)[0] in (0, 1), words
    assert not planted.turned


def test_nothing_planted_runs_in_a_revert(planted: Installation) -> None:
    planted.migrate()
    code, said = planted.pgvigil("revert", "--to", "base", "--backup", "none")
    assert code == 0, said
    assert not planted.turned


def test_nothing_planted_runs_with_the_owner_s_rights_for_somebody_else(planted: Installation) -> None:
    """What a stranger plants in a schema of the path that the functions of ours are called with."""
    planted.migrate()
    planted.execute(
        "GRANT USAGE, CREATE ON SCHEMA {app} TO x_stranger; GRANT SELECT, INSERT, UPDATE, DELETE ON {app}.sessions TO x_stranger"
    )
    planted.execute(
        """CREATE FUNCTION {app}.not_equal(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS $$
           BEGIN
               IF current_user <> session_user THEN RAISE EXCEPTION 'turned: %', current_user; END IF;
               RETURN $1::text OPERATOR(pg_catalog.<>) $2::text;
           END $$;
           DROP OPERATOR IF EXISTS {app}.<> (varchar, varchar)""",
    )
    planted.execute("CREATE OPERATOR {app}.<> (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = {app}.not_equal)")
    planted.execute(
        """SET search_path = {app}, pg_catalog;
           INSERT INTO sessions (session_key, agent_from) VALUES ('mine', 'x');
           UPDATE sessions SET status = 'completed' WHERE session_key = 'mine';
           DELETE FROM sessions WHERE session_key = 'mine'""",
        user="x_stranger",
    )
