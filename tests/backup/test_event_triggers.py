"""Test event triggers that log: a copy to compare has no more rows than the database, and the restored one has them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Database, Run

pytestmark = pytest.mark.client_side
LOGGED = """
    CREATE TABLE ddl_log (event text, at timestamptz DEFAULT clock_timestamp());
    CREATE MATERIALIZED VIEW per_agent AS SELECT agent_from, count(*) FROM sessions GROUP BY 1;
    CREATE FUNCTION log_event() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ddl_log VALUES (tg_event); END $$;
    CREATE EVENT TRIGGER log_event ON {event} EXECUTE FUNCTION log_event();
    COMMENT ON EVENT TRIGGER log_event IS 'who did what'"""


@pytest.mark.parametrize("event", ["ddl_command_start", "ddl_command_end", "sql_drop", "login"])
def test_a_database_whose_event_triggers_log_is_proved_and_restored(
    call: Run, existing: Database, tmp_path: Path, event: str
) -> None:
    if event == "login" and existing.server.major < 17:
        pytest.skip("there are no login event triggers before PostgreSQL 17")
    existing.execute(LOGGED.format(event=event))
    done = call(
        "pgvigil", "backup", "create", "--verify-backup", "restore", "--backup-dir", tmp_path,
        "--database-url", existing.url,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [archive] = tmp_path.glob("*.dump")
    before = existing.execute("SELECT * FROM ddl_log")
    done = call("pgvigil", "restore", archive, "--overwrite-newer", "--database-url", existing.url)
    assert done.returncode == 0, done.stderr
    assert existing.execute("SELECT evtenabled, obj_description(oid, 'pg_event_trigger') FROM pg_event_trigger") == [
        ("O", "who did what")
    ]
    if event != "login":  # the tests' own connections are logged, too
        assert existing.execute("SELECT * FROM ddl_log") == before
