"""Test that the recipe of docs/backup.md, word for word, copies rows of the kept database."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo

from conftest import PROJECT, Database, Templates, _new_database, copy_database
from pgvigil.backup import pg_tools

pytestmark = pytest.mark.oldest_and_newest

RECIPE = re.search(r"```sh\n(kept=.*?)```", (PROJECT / "docs/backup.md").read_text(), re.DOTALL)


def bring(kept: Database, live: Database, table: str, key: str) -> None:
    """Run the recipe with other names in its first line."""
    assert RECIPE
    first, rest = RECIPE[1].split("\n", 1)
    assert first.startswith("kept=")
    values = conninfo.conninfo_to_dict(live.url)
    done = subprocess.run(
        ["/bin/sh", "-c", f"kept={kept.name} live={live.name} table={table} key={key}\n{rest}"],
        env={
            "PATH": f"{Path(pg_tools.find_tool('psql', live.server.major)[0]).parent}:{os.environ['PATH']}",
            "PGHOST": str(values["host"]),
            "PGPORT": str(values["port"]),
            "PGUSER": "postgres",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "ERROR" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize(
    ("table", "key", "write", "lose"),
    [
        (
            "public.session_lifecycle",  # partitioned
            "id",
            "UPDATE sessions SET status = 'pending' WHERE session_key = 'session-5'",
            "DELETE FROM session_lifecycle WHERE created_at = (SELECT max(created_at) FROM session_lifecycle)",
        ),
        (
            "public.context_history",  # its guard refuses children of archived sessions
            "id",
            "UPDATE sessions SET archived_at = now() WHERE id = (SELECT session_id FROM context_history LIMIT 1)",
            "DELETE FROM context_history WHERE session_id IN (SELECT id FROM sessions WHERE archived_at IS NOT NULL)",
        ),
        (
            "instrumentation.instances",  # its guard fires in sessions of replicas too
            "instance_id",
            "ALTER TABLE instrumentation.instances DISABLE TRIGGER USER; "
            "INSERT INTO instrumentation.instances (server_version, hostname, database_name, system_identifier, postmaster_start_time)"
            " VALUES ('18', 'h', 'd', 1, now()); ALTER TABLE instrumentation.instances ENABLE ALWAYS TRIGGER guard_instances",
            "ALTER TABLE instrumentation.instances DISABLE TRIGGER USER; DELETE FROM instrumentation.instances;"
            "ALTER TABLE instrumentation.instances ENABLE ALWAYS TRIGGER guard_instances",
        ),
    ],
)
def test_rows_that_only_the_kept_database_has_are_brought_over(
    templates: Templates, table: str, key: str, write: str, lose: str
) -> None:
    digest = f"SELECT count(*), sum(hashtext(t::text)) FROM {table} t"
    triggers = f"SELECT tgname::text, tgenabled::text FROM pg_trigger WHERE tgrelid = '{table}'::regclass ORDER BY 1"
    with _new_database(templates.server, templates.get("migrated")) as kept:
        kept.execute(write)
        live = Database(kept.server, f"{kept.name}_live")
        copy_database(kept.server, kept.name, live.name)
        try:
            live.execute(f"SET session_replication_role = replica; {lose}")
            assert live.execute(digest) != kept.execute(digest)
            states = live.execute(triggers)
            bring(kept, live, table, key)
            assert live.execute(digest) == kept.execute(digest)
            assert live.execute(triggers) == states
        finally:
            with psycopg.connect(kept.server.dsn(), autocommit=True) as conn:
                conn.execute(f"DROP DATABASE {live.name} WITH (FORCE)".encode())
