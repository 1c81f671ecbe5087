"""Installs that an application has made its own: each is migrated, or refused before the backup in its own terms."""

from __future__ import annotations

import re

import pytest

from conftest import EXISTING_SESSIONS, PROJECT, Database, Run
from helpers.catalog import catalog
from helpers.refused import refused

pytestmark = pytest.mark.oldest_and_newest

RAISES = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
    " $$BEGIN IF OLD.status = 'completed' THEN RAISE 'completed is closed'; END IF; RETURN NEW; END$$;"
    " CREATE TRIGGER refuse BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION refuse();"
)
MIGRATED = {
    "rows that break a CHECK which is NOT VALID": "ALTER TABLE sessions ADD CONSTRAINT \"the app's\" CHECK (status <> 'pending') NOT VALID;"
    " COMMENT ON CONSTRAINT \"the app's\" ON sessions IS 'it''s new'",
    "an is_dormant without values and a trigger that raises": f"ALTER TABLE sessions ADD COLUMN is_dormant boolean; {RAISES}",
    "an is_dormant without values and a CHECK that is NOT VALID": "ALTER TABLE sessions ADD COLUMN is_dormant boolean,"
    " ADD CONSTRAINT own CHECK (status <> 'pending') NOT VALID",
}


@pytest.mark.parametrize("install", MIGRATED)
def test_it_is_migrated_and_reverted_as_it_was(call: Run, existing: Database, install: str) -> None:
    existing.execute(MIGRATED[install])
    before = catalog(existing)
    rows = "SELECT md5(string_agg(s::text, '|' ORDER BY id)) FROM (SELECT id, session_key, status, updated_at FROM sessions) s"
    [were] = existing.execute(rows)
    done = call("pgvigil", "migrate", "--database-url", existing.url)
    assert done.returncode == 0, done.stderr
    settled = "SELECT count(*) FROM sessions WHERE last_activity_at IS NOT NULL AND NOT is_dormant"
    assert (existing.execute(settled), existing.execute(rows)) == ([(EXISTING_SESSIONS,)], [were])
    off = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'sessions'::regclass AND tgenabled = 'D'"
    assert existing.execute(off) == []
    assert call("pgvigil", "validate", "--database-url", existing.url).returncode == 0
    assert call("pgvigil", "revert", "--to", "base", "--database-url", existing.url).returncode == 0
    assert catalog(existing) == before


UNFIT = {
    "a column of ours that is NOT NULL": (
        "ALTER TABLE sessions ADD COLUMN retention_policy varchar(50) NOT NULL DEFAULT 'mine'",
        "retention_policy of table public.sessions is there already and NOT NULL",
    ),
    "a column of ours with a default": (
        "ALTER TABLE context_history ADD COLUMN tokens_used integer DEFAULT 0",
        "tokens_used of table public.context_history is there already and has the default 0",
    ),
    "a table with a column of whole sessions": (
        "CREATE TABLE copies (seen sessions)",
        "column seen of public.copies holds whole rows of public.sessions",
    ),
    "a table with whole sessions deep in a type": (
        "CREATE TYPE pair AS (of sessions[]); CREATE TABLE copies (seen pair[])",
        "column seen of public.copies holds whole rows of public.sessions",
    ),
    "a publication that stops every UPDATE": (
        "ALTER TABLE sessions REPLICA IDENTITY NOTHING; CREATE PUBLICATION own FOR TABLE sessions",
        "the server refuses to update rows of table",
    ),
}


@pytest.mark.parametrize("install", UNFIT)
def test_it_is_refused_before_the_backup(call: Run, existing: Database, install: str) -> None:
    change, words = UNFIT[install]
    existing.execute(change)
    before = catalog(existing)
    done = call("pgvigil", "migrate", "--database-url", existing.url)
    refused(done, 4, re.escape(words))
    assert ("backup" in done.stderr, catalog(existing)) == (False, before)


def variables() -> list[str]:
    """The names of parameters and variables of our functions, less those of columns that pgvigil itself knows."""
    words: set[str] = set()
    for path in sorted((PROJECT / "scripts/migrations").glob("[0-9]*.sql")):
        words |= set(re.findall(r"(?m)^    (\w+) +(?:\w+\.)?\w+(?:\[\])?(?: :=.*)?;", path.read_text()))
    return sorted(words | {"session", "at", "batch", "state"})


def test_columns_that_have_the_names_of_variables_of_ours_are_no_matter(call: Run, existing: Database) -> None:
    columns = {
        row[0] for row in existing.execute("SELECT attname FROM pg_attribute WHERE attrelid = 'sessions'::regclass")
    }
    more = ", ".join(f'ADD COLUMN "{name}" text' for name in variables() if name not in columns)
    for table in ("sessions", "context_history", "codebase_snapshots", "handoff_requests"):
        existing.execute(f"ALTER TABLE {table} {more}")
    done = call("pgvigil", "migrate", "--database-url", existing.url)
    assert done.returncode == 0, done.stderr
    with existing.connect() as conn:
        conn.execute("UPDATE pgvigil.jobs SET backup_within = NULL")
        conn.execute("SELECT pgvigil.accept_job('all')")
        for job in (
            "expiry",
            "dormancy",
            "archive",
            "orphans",
            "counters",
            "rollup",
            "aggregation",
            "retention",
            "health",
        ):
            conn.execute("CALL pgvigil.run_job(%s)", (job,))
        one = conn.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('one', 'a') RETURNING id").fetchone()
        for function in ("expire_session", "mark_session_dormant", "archive_session", "reactivate_session"):
            conn.execute(f"SELECT pgvigil.{function}(%s)", one)
        conn.execute("SELECT pgvigil.schedule_expiration(%s, now())", one)
        conn.execute("SELECT pgvigil.recount_session_counters(%s)", one)
        conn.execute("DELETE FROM sessions WHERE id = %s", one)
        conn.execute("TRUNCATE sessions CASCADE")
