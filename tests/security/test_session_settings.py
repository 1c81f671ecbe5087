"""Code of the owner's that leaves settings behind: what pgvigil says next in the same session must not be read by them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgvigil import database, owner
from security.conftest import Installation
from security.planted import plant

pytestmark = pytest.mark.in_full

# A plain SET outlives the SET clause of the function that it runs in; a cursor that is held is computed at the COMMIT.
LEFT = {
    "a path": "PERFORM pg_catalog.set_config('search_path', '{quoted}, pg_catalog', false)",
    "a cursor": """EXECUTE pg_catalog.format('DECLARE %I CURSOR WITH HOLD FOR SELECT {app}.spring()', pg_catalog.gen_random_uuid())""",
    "a function": """EXECUTE 'CREATE OR REPLACE FUNCTION pg_temp.pgvigil_run_as_owner(statement text, wants_row boolean) RETURNS text
                                LANGUAGE plpgsql AS $r$ BEGIN PERFORM {app}.spring(); RETURN NULL; END $r$'""",
}
# Fires wherever a row of ours or of the application's is written.
LEAVES = """
    CREATE FUNCTION {app}.leave() RETURNS trigger LANGUAGE plpgsql AS $f$
    BEGIN
        {left};
        RETURN CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN OLD ELSE NEW END;
    END $f$;
    DO $do$
    DECLARE
        one regclass;
    BEGIN
        FOR one IN SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname IN ('pgvigil', 'instrumentation', {literal})
                     AND c.relname <> 'alembic_version' AND pg_has_role(c.relowner, 'USAGE') LOOP
            EXECUTE format('CREATE TRIGGER "00_leave" AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH STATEMENT EXECUTE FUNCTION {app}.leave()', one);
        END LOOP;
    END $do$"""


def leave_behind(at: Installation, *what: str) -> None:
    left = "; ".join(LEFT[one] for one in what or LEFT)
    at.as_owner(LEAVES.replace("{left}", left).replace("{literal}", "'" + at.schema.replace("'", "''") + "'"))


@pytest.fixture
def planted(installed: Callable[..., Installation]) -> Installation:
    at = installed()
    at.reach("planted", lambda: plant(at))
    return at


@pytest.mark.parametrize("what", ["a path", "a cursor"])
def test_what_is_left_behind_is_sprung_by_a_superuser_s_own_statements(planted: Installation, what: str) -> None:
    """The other tests would see it."""
    leave_behind(planted, what)
    with planted.connect() as conn:
        conn.execute("UPDATE public.sessions SET agent_to = 'x'")
        conn.execute("SELECT oid = 'pg_class'::regclass FROM pg_class")
    assert planted.turned


@pytest.mark.parametrize("what", LEFT)
def test_a_job_leaves_nothing_behind(planted: Installation, what: str) -> None:
    planted.migrate()
    leave_behind(planted, what)
    assert planted.pgvigil("maintain", "run-due")[0] in (0, 10)  # the owner may spoil the work, and no more
    assert not planted.turned


def test_migrate_goes_on_with_its_own_path(planted: Installation) -> None:
    leave_behind(planted)
    planted.migrate()
    assert not planted.turned


@pytest.mark.in_short
@pytest.mark.parametrize(
    "words",
    [
        ("maintain", "run", "expiry"),
        ("maintain", "run", "vacuum"),
        ("health", "--repair"),
        ("maintain", "accept", "expiry"),
        ("validate",),
        ("revert", "--to", "base", "--backup", "none"),
    ],
    ids=" ".join,
)
def test_a_command_leaves_nothing_behind(planted: Installation, words: tuple[str, ...]) -> None:
    planted.migrate()
    leave_behind(planted)
    code, said = planted.pgvigil(*words)
    assert code in (0, 1), said
    assert not planted.turned


def test_a_call_by_hand_leaves_nothing_behind(planted: Installation) -> None:
    planted.migrate()
    leave_behind(planted)
    with planted.connect() as conn:
        conn.execute("CALL pgvigil.run_job('expiry')")
        conn.execute("SELECT pgvigil.recount_session_counters()")
        conn.execute("SELECT instrumentation.kill_session(gen_random_uuid())")
        conn.execute("SELECT oid = 'pg_class'::regclass FROM pg_class")
    assert not planted.turned


def test_text_is_read_as_before_when_code_of_the_owner_has_changed_how(mined: Installation) -> None:
    """Another client_encoding would join the last byte of a letter with the backslash after it, and the literal would end elsewhere."""
    mined.as_owner(
        """CREATE FUNCTION {app}.sets() RETURNS integer LANGUAGE plpgsql AS $f$
           BEGIN
               PERFORM set_config('client_encoding', 'SJIS', false), set_config('standard_conforming_strings', 'off', false),
                       set_config('DateStyle', 'German', false), set_config('array_nulls', 'off', false);
               RETURN 1;
           END $f$;
           CREATE VIEW {app}.reads AS SELECT {app}.sets() AS n"""
    )
    letter = "\u30c3\\"  # the two bytes at its end and the backslash are one letter and a half in SJIS
    with database.connect(database.parse_url(mined.url, "test"), "test") as conn:
        owner.confine(conn, "x_owner")
        assert owner.rows(conn, "n integer", "SELECT n FROM public.reads") == [(1,)]
        values = owner.rows(
            conn, "a text, b text, c text", r"SELECT %s::text, '\d', '2026-01-02'::date::text", (f"{letter}') x; --",)
        )
        assert values == [(f"{letter}') x; --", r"\d", "2026-01-02")]
        assert owner.rows(conn, "n integer", "SELECT count(*) FROM unnest('{null}'::text[]) u WHERE u IS NULL") == [
            (1,)
        ]
