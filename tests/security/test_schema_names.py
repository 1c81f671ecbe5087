"""Test that the application's tables may be in a schema of any name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from psycopg import sql

from conftest import Database, Run
from security.conftest import Installation

pytestmark = pytest.mark.in_full

NAMES = ["sessions", "public2", 'a"b%s', "o'neil $$ {app}", "pgvigil_über\\n"]


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.in_short) if "%" in name else name for name in NAMES])
def schema(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.slow(first=1)
def test_an_existing_install_in_it_is_migrated_valid_and_works(
    installed: Callable[..., Installation], schema: str
) -> None:
    at = installed(schema=schema)
    at.migrate()
    code, said = at.pgvigil("validate")
    assert (code, said.splitlines()[-1]) == (0, "VALID: no findings"), said
    at.execute("UPDATE {app}.sessions SET status = 'pending' WHERE session_key = 'session-1'")
    at.execute("DELETE FROM {app}.sessions WHERE session_key = 'session-1'")
    at.execute(
        "SELECT pgvigil.record_metric('m', 1), pgvigil.archive_session(id) FROM {app}.sessions WHERE session_key = 'session-2'"
    )
    at.run_all_jobs()
    assert at.execute("SELECT jsonb_path_query_array(events, '$[*].event_type') FROM pgvigil.deleted_sessions") == [
        (["created", "status_changed", "deleted"],)
    ] or at.execute("SELECT count(*) FROM pgvigil.deleted_sessions") == [(1,)]
    assert at.pgvigil("health")[0] in (0, 1)
    code, said = at.pgvigil("revert", "--to", "base", "--backup", "none")
    assert code == 0, said


@pytest.mark.slow(first=1)
def test_a_new_install_in_it_is_valid(call: Run, database: Database, schema: str) -> None:
    database.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    built = call("pgvigil", "setup", "--schema", schema, "--database-url", database.url)
    assert built.returncode == 0, built.stderr
    done = call("pgvigil", "validate", "--self-test", "--database-url", database.url)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "VALID: no findings"), done.stdout
    assert database.execute(
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v')"
    ) == [(0,)]
