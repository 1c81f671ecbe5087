"""A new install: the embedded server or one that is named, an empty database or one that is not; and the roads beside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from conftest import PROJECT, REVISIONS, Database, Run
from helpers.catalog import catalog
from pgvigil import project
from pgvigil.backup import pg_tools

pytestmark = pytest.mark.oldest_and_newest

SETUP = "scripts/setup-enhanced-db.sh"
LEDGER = "SELECT revision, name, schema_name, baselined, sha256_bytes, sha256_tokens, applied_by, tool_version FROM pgvigil.migrations ORDER BY 1"
MARKERS = "SELECT metric_name, metric_value, metric_type, labels - '{completed_at,initialized_at}'::text[] FROM system_metrics ORDER BY id"


def psql(database: Database) -> subprocess.CompletedProcess[str]:
    tool, _ = pg_tools.find_tool("psql", database.server.major)
    return subprocess.run(
        [tool, "-X", "-f", project.INIT_SQL, database.url],
        capture_output=True,
        text=True,
        check=False,
    )


# ── The init script and Alembic by themselves end where setup ends ────────────────────────────────────────────────────


def test_the_init_script_leaves_the_catalog_and_ledger_of_the_migrations(
    call: Run, database: Database, another: Database
) -> None:
    loaded = psql(database)
    assert loaded.returncode == 0, loaded.stderr
    assert "row" not in loaded.stdout  # command tags only, no result tables
    assert call(SETUP, "--database-url", another.url).returncode == 0
    assert catalog(database) == catalog(another)
    assert database.execute(LEDGER) == another.execute(LEDGER)
    assert database.execute(MARKERS) == another.execute(MARKERS)
    assert call("scripts/validate-schema.py", "--database-url", database.url).returncode == 0
    assert call("scripts/run-migration.sh", "--database-url", database.url).stdout.startswith("up to date")


@pytest.mark.oldest_and_newest
def test_the_init_script_builds_the_same_whatever_the_database_sets(call: Run, database: Database) -> None:
    for setting in (
        "search_path = nowhere", "statement_timeout = '20ms'", "lock_timeout = '1ms'", "standard_conforming_strings = off",
        "array_nulls = off", "transform_null_equals = on", "datestyle = 'German, DMY'", "intervalstyle = sql_standard",
        "timezone = 'Asia/Kathmandu'", "quote_all_identifiers = on", "plpgsql.extra_errors = 'all'", "client_min_messages = debug1",
    ):  # fmt: skip
        database.execute(f'ALTER DATABASE "{database.name}" SET {setting}')
    loaded = psql(database)
    assert loaded.returncode == 0, loaded.stderr
    database.execute(f'ALTER DATABASE "{database.name}" RESET ALL')  # a finding of their own
    done = call("scripts/validate-schema.py", "--database-url", database.url)
    assert done.returncode == 0, done.stdout


def test_the_init_script_refuses_a_database_that_is_not_empty(existing: Database) -> None:
    before = catalog(existing)
    refused = psql(existing)
    assert (refused.returncode, "this database is not empty" in refused.stderr) == (3, True)
    assert catalog(existing) == before


def test_the_init_script_refuses_another_schema_of_the_name_of_ours(database: Database) -> None:
    database.execute("CREATE SCHEMA instrumentation")
    refused = psql(database)
    assert (refused.returncode, "schema instrumentation is there already" in refused.stderr) == (3, True)
    assert database.execute("SELECT to_regnamespace('pgvigil')") == [(None,)]


def test_plain_alembic_goes_the_same_way(fresh: Database, database: Database) -> None:
    def alembic(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments], cwd=PROJECT, env={**os.environ, "DATABASE_URL": database.url},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert alembic("current") == ""
    assert database.execute("SELECT to_regnamespace('pgvigil')") == [(None,)]
    alembic("upgrade", "head")
    assert alembic("current").startswith(f"{REVISIONS[-1]} (head)")
    assert database.execute(LEDGER) == fresh.execute(LEDGER)
    assert database.execute(MARKERS) == fresh.execute(MARKERS)
    assert f"{REVISIONS[-2]} -> {REVISIONS[-1]} (head)" in alembic("history")
    alembic("downgrade", "base")
    assert database.execute("SELECT to_regnamespace('pgvigil'), to_regclass('sessions')") == [(None, None)]


@pytest.mark.client_side
def test_alembic_s_sql_mode_is_refused_with_what_to_type_instead(database: Database) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head", "--sql"], cwd=PROJECT, env={**os.environ, "DATABASE_URL": database.url},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "migrations look" in done.stderr


def test_alembic_baselines_an_existing_install(existing: Database) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"], cwd=PROJECT, env={**os.environ, "DATABASE_URL": existing.url},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert existing.execute("SELECT baselined FROM pgvigil.migrations WHERE revision = '000'") == [(True,)]


@pytest.mark.client_side
@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("ALTER TABLE context_history SET UNLOGGED", "is UNLOGGED"),
        ("ALTER TABLE sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", "row security hides rows of"),
    ],
)
def test_alembic_refuses_what_migrate_refuses(existing: Database, state: str, told: str) -> None:
    existing.execute(
        """DO $$ BEGIN CREATE ROLE plain_owner LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
           DO $$ DECLARE name text; BEGIN
               FOREACH name IN ARRAY '{sessions,context_history,codebase_snapshots,handoff_requests}'::text[] LOOP
                   EXECUTE format('ALTER TABLE %I OWNER TO plain_owner', name);
               END LOOP;
               EXECUTE format('GRANT CREATE ON DATABASE %I TO plain_owner', current_database());
           END $$;
           GRANT CREATE ON SCHEMA public TO plain_owner;"""
        + state
    )
    url = existing.url.replace("postgres@", "plain_owner@")
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"], cwd=PROJECT, env={**os.environ, "DATABASE_URL": url},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert told in done.stderr
    assert existing.execute("SELECT to_regnamespace('pgvigil')") == [(None,)]


# ── setup on a server that is named ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.client_side
def test_a_missing_database_is_created_built_and_marked_once(call: Run, database: Database) -> None:
    name = f"{database.name}_new"
    url = database.url.replace(database.name, name)
    try:
        first = call(SETUP, "--database-url", url)
        assert first.returncode == 0, first.stderr
        assert f'creating database "{name}"' in first.stderr
        assert first.stdout.startswith(f"built, at revision {REVISIONS[-1]}")
        again = call(SETUP, "--database-url", url)
        assert again.stdout.startswith(f"already set up, at revision {REVISIONS[-1]}")
        made = Database(database.server, name)
        assert made.execute(
            "SELECT labels ->> 'schema_version' FROM system_metrics WHERE metric_name = 'schema_initialized'"
        ) == [(REVISIONS[-1],)]
    finally:
        database.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.mark.client_side
def test_a_database_in_another_encoding_takes_all_of_it(call: Run, database: Database) -> None:
    with psycopg.connect(database.server.dsn(), autocommit=True) as server:
        server.execute(f"DROP DATABASE {database.name}".encode())
        options = "TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
        options += " LOCALE_PROVIDER libc" if database.server.major >= 15 else ""
        server.execute(f"CREATE DATABASE {database.name} {options}".encode())
    built = call(SETUP, "--database-url", database.url)
    assert built.returncode == 0, built.stderr
    assert call("scripts/validate-schema.py", "--database-url", database.url).returncode == 0


@pytest.mark.client_side
def test_an_existing_install_is_refused_with_the_way_to_go(call: Run, existing: Database) -> None:
    before = catalog(existing)
    done = call(SETUP, "--database-url", existing.url)
    assert (done.returncode, "pgvigil migrate" in done.stderr) == (4, True), done.stderr
    assert catalog(existing) == before


@pytest.mark.client_side
def test_a_database_of_something_else_is_refused(call: Run, database: Database) -> None:
    database.execute("CREATE TABLE invoices (id int)")
    done = call(SETUP, "--database-url", database.url)
    assert (done.returncode, "public.invoices" in done.stderr) == (4, True), done.stderr
    assert database.execute("SELECT to_regnamespace('pgvigil')") == [(None,)]


@pytest.mark.client_side
def test_a_set_up_database_that_was_damaged_is_8(call: Run, fresh: Database) -> None:
    fresh.execute("ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle")
    done = call(SETUP, "--database-url", fresh.url)
    assert (done.returncode, "log_session_lifecycle" in done.stderr) == (8, True), done.stderr


def test_the_self_test_leaves_nothing_behind(call: Run, fresh: Database) -> None:
    assert call("pgvigil", "validate", "--self-test", "--database-url", fresh.url).returncode == 0
    assert fresh.execute("SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM pgvigil.deleted_sessions)") == [
        (0, 0)
    ]


@pytest.mark.client_side
def test_waiting_for_a_server_ends_with_3_when_none_comes(run: Run, tmp_path: Path) -> None:
    done = run(SETUP, "--wait", "0.5", "--database-url", f"postgresql://u@/db?host={tmp_path}")
    assert done.returncode == 3, done.stderr


# ── setup with nothing named: the embedded server ─────────────────────────────────────────────────────────────────────


def test_with_no_database_named_an_embedded_server_is_made_and_kept(run: Run) -> None:
    first = run(SETUP, cwd=Path("/"))
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"built, at revision {REVISIONS[-1]}")
    assert run("scripts/validate-schema.py", cwd=Path("/")).returncode == 0
    url = run("pgvigil", "server", "url").stdout.strip()
    assert run("pgvigil", "status", "--database-url", url).stdout.count(" in\n") == len(REVISIONS)
    assert run("pgvigil", "server", "stop").stdout == "stopped\n"
    assert run("pgvigil", "server", "status").stdout.startswith("stopped\n")
    refused = run("scripts/validate-schema.py", cwd=Path("/"))
    assert (refused.returncode, "pgvigil server start" in refused.stderr) == (3, True)
    assert run("pgvigil", "server", "start").returncode == 0
    again = run(SETUP, cwd=Path("/"))
    assert again.stdout.startswith(f"already set up, at revision {REVISIONS[-1]}"), again.stderr


# ── --offline ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_offline_the_project_is_in_order(call: Run) -> None:
    done = call("scripts/validate-schema.py", "--offline")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "old", "new", "code", "words"),
    [
        (
            "migrations/012_monitoring_views.sql",
            "24 hours",
            "48 hours",
            1,
            r"checksums differ for 012_monitoring_views\.sql",
        ),
        (
            "migrations/revert/012_monitoring_views.sql",
            "DROP",
            "-- \N{HORIZONTAL ELLIPSIS}\nDROP",
            1,
            "is not all ASCII",
        ),
        ("init-enhanced-db.sql", "'24 hours'", "'48 hours'", 1, "its text was edited"),
        ("migrations/012_monitoring_views.sql", "$$;", "$;", 2, r"012_monitoring_views\.sql:\d+: .*never closed"),
        (
            "migrations/revert/012_monitoring_views.sql",
            "DROP",
            "'",
            2,
            r"revert/012_monitoring_views\.sql:1: .*never closed",
        ),
        ("schema-spec.yaml", "tables:", "tabels:", 2, r"schema-spec\.yaml:\d+: "),
    ],
)
def test_offline_a_file_that_does_not_fit_is_found(
    run: Run, project_copy: Path, path: str, old: str, new: str, code: int, words: str
) -> None:
    file = project_copy / "scripts" / path
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    done = run(project_copy / "scripts/validate-schema.py", "--offline")
    assert done.returncode == code, done.stdout + done.stderr
    assert re.search(words, done.stdout + done.stderr)


@pytest.mark.parametrize(
    "missing", ["revert/012_monitoring_views.sql", "versions/012_monitoring_views.py", "012_monitoring_views.sql"]
)
def test_offline_a_missing_file_is_found(run: Run, project_copy: Path, missing: str) -> None:
    (project_copy / "scripts/migrations" / missing).unlink()
    done = run(project_copy / "scripts/validate-schema.py", "--offline")
    assert done.returncode == 2
    assert "012" in done.stderr or "without gap" in done.stderr
