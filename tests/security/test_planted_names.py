"""Test operators and functions with exactly the types of the server's own, made in the application's schema before
pgvigil is installed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from security.conftest import Installation
from security.planted import plant

pytestmark = pytest.mark.in_full

# Our objects that depend on an object of the application's schema other than a table: bound when they were made.
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
    """The path that our functions are called with contains a schema with objects of a stranger."""
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
