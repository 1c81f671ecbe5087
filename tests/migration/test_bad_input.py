"""Test failures: each has its own exit code and a clear message on stderr, and leaves the database as it was."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from conftest import PROJECT, Database, Run, add_migration, wait_until
from helpers.catalog import catalog
from helpers.refused import refused
from pgvigil import cli

MIGRATE = "scripts/run-migration.sh"
pytestmark = pytest.mark.client_side


# ── Usage: 2 ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--lock-wait", "soon"], ["--lock-wait", "-1"], ["stray"]])
def test_a_call_that_cannot_be_read_is_2(run: Run, arguments: list[str]) -> None:
    done = run(MIGRATE, *arguments)
    assert done.returncode == 2
    assert "usage: " in done.stderr


def test_output_that_cannot_be_written_is_2_never_a_verdict(run: Run, tmp_path: Path) -> None:
    redirected = tmp_path / "redirected.sh"
    redirected.write_text(f"exec {PROJECT}/scripts/pgvigil validate --offline >/dev/full\n")
    refused(run("/bin/bash", redirected), 2, "the output: No space left on device")


def test_who_closes_the_output_still_gets_the_verdict(run: Run, tmp_path: Path) -> None:
    redirected = tmp_path / "redirected.sh"
    redirected.write_text(f"exec {PROJECT}/scripts/pgvigil validate --offline >&-\n")
    done = run("/bin/bash", redirected)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("option", [("--self-test",), ("--fix-sql",), ("--strict",), ("--schema", "x")], ids=str)
def test_what_only_a_database_can_tell_is_2_offline(call: Run, option: tuple[str, ...]) -> None:
    refused(call("pgvigil", "validate", "--offline", *option), 2, f"as {option[0]} asks for")


def test_a_name_that_is_no_text_is_2(run: Run, existing: Database) -> None:
    refused(run("pgvigil", "validate", "--schema", "\udcff", "--database-url", existing.url), 2, "not UTF-8")


def test_letters_that_the_output_has_not_cost_no_verdict(run: Run, migrated: Database) -> None:
    migrated.execute('CREATE TABLE pgvigil."café" ()')
    done = run("pgvigil", "validate", "--database-url", migrated.url, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1
    assert r"caf\xe9" in done.stdout


def test_a_spec_with_a_name_that_no_database_has_is_2(call: Run, tmp_path: Path, existing: Database) -> None:
    (tmp_path / "spec.yaml").write_text('spec: 1\nschemas: ["a\\0b"]\n')
    done = call("pgvigil", "validate", "--spec", tmp_path / "spec.yaml", "--database-url", existing.url)
    assert done.returncode == 2
    assert r"spec.yaml:2: schemas[0] must be without a NUL character" in done.stderr


def test_no_database_named_is_2(run: Run) -> None:
    refused(run(MIGRATE, cwd=Path("/")), 2, "no database is named")


@pytest.mark.parametrize("url", ["postgresql://u:s3cret@h:port/db", "postgresql://u:s3cret@[::1/db", "nonsense s3cret"])
def test_an_address_that_cannot_be_read_is_2_and_never_repeated(run: Run, url: str) -> None:
    for done in (run(MIGRATE, "--database-url", url), run(MIGRATE, env={"DATABASE_URL": url})):
        refused(done, 2, "database address given by (--database-url|DATABASE_URL) cannot be (read|used)")
        assert "s3cret" not in done.stderr


def test_a_broken_spec_is_2_and_named_by_file_and_line(run: Run, project_copy: Path, existing: Database) -> None:
    spec = project_copy / "scripts" / "schema-spec.yaml"
    spec.write_text(spec.read_text() + "\nnonsense_key: [\n")
    done = run(project_copy / MIGRATE, "--database-url", existing.url)
    refused(done, 2, r"schema-spec\.yaml:\d+: ")


def test_a_file_that_is_no_sql_is_2_before_anything_is_begun(run: Run, project_copy: Path, existing: Database) -> None:
    broken = project_copy / "scripts/migrations/004_session_triggers.sql"
    broken.write_text(broken.read_text().replace("END $$;", "END $;", 1))
    before = catalog(existing)
    refused(run(project_copy / MIGRATE, "--database-url", existing.url), 2, r"004_session_triggers\.sql:\d+: ")
    assert catalog(existing) == before


# ── Connecting: 3 ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_server_is_3(run: Run, tmp_path: Path) -> None:
    done = run(MIGRATE, "--database-url", f"postgresql://u@/db?host={tmp_path}")
    refused(done, 3, "cannot connect to .*No such file or directory")


def test_a_wrong_password_is_3_and_never_printed(run: Run, existing: Database) -> None:
    wrong = existing.tcp_url.replace(existing.server.password, "wr0ng-s3cret")
    for done in (run(MIGRATE, "--database-url", wrong), run(MIGRATE, env={"DATABASE_URL": wrong})):
        refused(done, 3, "password authentication failed")
        assert "wr0ng-s3cret" not in done.stderr


def test_a_catalog_that_is_no_text_is_3(call: Run, tmp_path: Path, database: Database) -> None:
    name = f"{database.name}_bytes"
    locale = "LC_COLLATE 'C' LC_CTYPE 'C'" + " LOCALE_PROVIDER libc" * (database.server.major >= 15)
    database.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING SQL_ASCII {locale}")
    url = database.url.replace(database.name, name)
    with psycopg.connect(url, client_encoding="sql_ascii", autocommit=True) as conn:
        conn.execute("CREATE TABLE caf (id integer)")
        conn.execute(b"COMMENT ON TABLE caf IS 'caf\xe9'")
    (tmp_path / "spec.yaml").write_text('spec: 1\ncomplete: true\nschemas: ["{schema}"]\n')
    try:
        refused(call("pgvigil", "spec", "dump", "--database-url", url), 3, "not valid text in its encoding")
        done = call("pgvigil", "validate", "--spec", tmp_path / "spec.yaml", "--database-url", url)
        refused(done, 3, "not valid text in its encoding")
    finally:
        database.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_missing_database_is_3(run: Run, existing: Database) -> None:
    url = existing.url.replace(existing.name, "not_there")
    refused(run(MIGRATE, "--database-url", url), 3, 'database "not_there" does not exist')


def test_the_password_of_a_url_is_in_no_process_list(existing: Database, tmp_path: Path) -> None:
    """Seen from pg_dump's place, when the run is well under way."""
    tools = tmp_path / "bin"
    tools.mkdir()
    seen = tmp_path / "seen"
    (tools / "pg_dump").write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 99.0" || cat /proc/[0-9]*/cmdline >{seen}; exit $?\n'
    )
    (tools / "pg_restore").write_text("#!/bin/sh\nexit 1\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environment = {
        **os.environ,
        "PGVIGIL_PG_BIN": str(tools),
        "PYTHONPATH": str(PROJECT / "src"),
        "HOME": str(tmp_path),
    }
    subprocess.run(
        [sys.executable, "-m", "pgvigil", "migrate", "--database-url", existing.tcp_url],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert b"pgvigil" in seen.read_bytes()
    assert existing.server.password.encode() not in seen.read_bytes()


# ── Preconditions: 4 ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_database_without_the_application_is_4(run: Run, database: Database) -> None:
    refused(run(MIGRATE, "--database-url", database.url), 4, "none of the session application's tables")
    assert database.execute("SELECT to_regnamespace('pgvigil')") == [(None,)]


def test_a_missing_base_table_is_4(run: Run, existing: Database) -> None:
    existing.execute("DROP TABLE handoff_requests")
    before = catalog(existing)
    refused(run(MIGRATE, "--database-url", existing.url), 4, "missing table handoff_requests")
    assert catalog(existing) == before


def test_a_base_column_of_another_type_is_4(run: Run, existing: Database) -> None:
    existing.execute(
        "ALTER TABLE context_history ALTER COLUMN session_id DROP NOT NULL, DROP CONSTRAINT context_history_session_id_fkey"
    )
    existing.execute("ALTER TABLE context_history ALTER COLUMN session_id TYPE text")
    refused(run(MIGRATE, "--database-url", existing.url), 4, r"context_history\.session_id: expected uuid, found text")


def test_a_column_of_ours_that_is_there_in_another_type_is_4(run: Run, existing: Database) -> None:
    existing.execute("ALTER TABLE sessions ADD COLUMN is_dormant text")
    refused(run(MIGRATE, "--database-url", existing.url), 4, r"sessions\.is_dormant: expected boolean, found text")


def test_a_role_without_the_rights_is_4(run: Run, existing: Database) -> None:
    existing.execute("DO $$ BEGIN CREATE ROLE stranger LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    done = run(MIGRATE, "--database-url", existing.url.replace("postgres@", "stranger@"))
    refused(done, 4, 'role "stranger" may not migrate this database; it needs to own table')


def test_an_edited_migration_is_4(run: Run, project_copy: Path, migrated: Database) -> None:
    edited = project_copy / "scripts/migrations/012_monitoring_views.sql"
    edited.write_text(edited.read_text().replace("'24 hours'", "'48 hours'"))
    before = catalog(migrated)
    refused(
        run(project_copy / MIGRATE, "--database-url", migrated.url),
        4,
        r"012_monitoring_views\.sql was edited after it went into",
    )
    assert catalog(migrated) == before


@pytest.mark.slow
def test_a_migration_with_other_comments_only_is_told_and_accepted(
    run: Run, project_copy: Path, migrated: Database
) -> None:
    edited = project_copy / "scripts/migrations/012_monitoring_views.sql"
    edited.write_text("-- a word more\n" + edited.read_text().replace("\n", "\r\n"))
    done = run(project_copy / MIGRATE, "--database-url", migrated.url)
    assert done.returncode == 0, done.stderr
    assert "warning: " in done.stderr
    assert "other comments or white space" in done.stderr


def test_a_database_of_a_newer_pgvigil_is_4(run: Run, migrated: Database) -> None:
    migrated.execute(
        "INSERT INTO pgvigil.migrations VALUES ('900', '900_later', 'public', false, '', '', now(), '', 0, '9.9')"
    )
    migrated.execute("UPDATE pgvigil.alembic_version SET version_num = '900'")
    refused(
        run(MIGRATE, "--database-url", migrated.url), 4, "the ledger does not fit the migrations here: it is at 900"
    )


def test_another_schema_than_the_one_watched_is_4(run: Run, migrated: Database) -> None:
    refused(
        run(MIGRATE, "--schema", "other", "--database-url", migrated.url),
        4,
        'watches schema "public" in this database, not "other"',
    )


def test_a_schema_that_is_not_there_is_4(run: Run, existing: Database) -> None:
    refused(run(MIGRATE, "--schema", "other", "--database-url", existing.url), 4, 'there is no schema "other"')


def test_reverting_the_tables_of_a_new_install_is_refused_while_they_hold_rows(run: Run, fresh: Database) -> None:
    fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('precious', 'x')")
    before = catalog(fresh)
    refused(run("pgvigil", "revert", "--to", "base", "--database-url", fresh.url), 7, "the table sessions holds rows")
    assert catalog(fresh) == before


# ── The backup: 5 ─────────────────────────────────────────────────────────────────────────────────────────────────────


def tool(directory: Path, name: str, script: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


VERSION = '[ "$1" = --version ] && { echo "pg_dump (PostgreSQL) 99.1"; exit 0; }\n'


@pytest.mark.parametrize(
    ("dump", "restore", "words"),
    [
        (None, None, "pg_dump was not found in"),
        ('echo "pg_dump (PostgreSQL) 9.6.24"', "exit 0", r"pg_dump is older than the server \(\d+\)"),
        ("exit 1", "exit 0", "does not run or does not print its version"),
        (VERSION + "echo 'pg_dump: error: it is Monday' >&2; exit 1", "exit 0", "pg_dump: error: it is Monday"),
        (VERSION + "exit 0", None, "there is no pg_restore beside"),
        (VERSION + "exit 0", "echo 'pg_restore: error: could not read' >&2; exit 1", "the backup cannot be read back"),
        (VERSION + "kill -9 $$", "exit 0", "the program ended with status -9"),
    ],
)
@pytest.mark.slow(first=2)
def test_no_proved_backup_is_5_and_nothing_is_changed(
    run: Run, existing: Database, tmp_path: Path, dump: str | None, restore: str | None, words: str
) -> None:
    tools, backups = tmp_path / "tools", tmp_path / "backups"
    tools.mkdir()
    for name, script in (("pg_dump", dump), ("pg_restore", restore)):
        if script is not None:
            tool(tools, name, script)
    before = catalog(existing)
    done = run(MIGRATE, "--database-url", existing.url, "--backup-dir", backups, env={"PGVIGIL_PG_BIN": str(tools)})
    refused(done, 5, words)
    assert catalog(existing) == before
    assert not backups.exists() or list(backups.iterdir()) == []


def test_a_backup_command_that_fails_is_5_and_nothing_is_changed(call: Run, existing: Database) -> None:
    before = catalog(existing)
    words = ("--backup", "command", "--backup-command", "exit 3", "--database-url", existing.url)
    done = call("pgvigil", "migrate", *words)
    assert (done.returncode, "the backup command ended with status 3" in done.stderr) == (5, True), done.stderr
    assert catalog(existing) == before


def test_a_full_target_is_5_and_leaves_no_archive(run: Run, existing: Database, tmp_path: Path) -> None:
    """A limit on file size replaces the full disk: the same failing write, and no mount is needed."""
    before = catalog(existing)
    limited = tmp_path / "limited.sh"
    limited.write_text(f'ulimit -f 100; trap "" XFSZ; exec {PROJECT / MIGRATE} "$@"\n')
    done = run("/bin/bash", limited, "--database-url", existing.url, "--backup-dir", tmp_path / "backups")
    refused(done, 5, "pg_dump could not back up the database to")
    assert list((tmp_path / "backups").iterdir()) == []
    assert catalog(existing) == before


def test_a_target_that_cannot_be_written_is_5(run: Run, existing: Database, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(
        run(MIGRATE, "--database-url", existing.url, "--backup-dir", tmp_path / "file" / "x"),
        5,
        "no backup can be written to",
    )


# ── Locks: 6 ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_another_run_in_progress_is_6_and_named(run: Run, existing: Database) -> None:
    with existing.connect(application_name="pgvigil migrate") as other:
        other.execute(f"SELECT pg_advisory_lock({int.from_bytes(b'pgvigil', 'big')})")
        done = run(MIGRATE, "--database-url", existing.url, "--lock-wait", "0")
        refused(done, 6, rf"another run is in progress: pid {other.info.backend_pid}, pgvigil migrate")


def test_a_table_lock_that_never_comes_free_is_6_and_its_holder_is_named(run: Run, existing: Database) -> None:
    before = catalog(existing)
    with existing.connect(autocommit=False, application_name="coffee break") as reader:
        reader.execute("SELECT count(*) FROM sessions")
        done = run(MIGRATE, "--database-url", existing.url, "--lock-budget", "1")
        refused(done, 6, rf"held by pid {reader.info.backend_pid} \(postgres, coffee break, idle in transaction\)")
    assert catalog(existing) == before


def test_waiting_for_a_table_lock_stops_no_writer_for_long(existing: Database, tmp_path: Path) -> None:
    with existing.connect(autocommit=False) as reader, existing.connect() as writer:
        reader.execute("SELECT count(*) FROM sessions")
        migration = subprocess.Popen(
            [sys.executable, "-m", "pgvigil", "migrate", "--database-url", existing.url, "--lock-budget", "2"],
            env={**os.environ, "PYTHONPATH": str(PROJECT / "src"), "PGVIGIL_BACKUP_DIR": str(tmp_path)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        longest = 0.0
        while migration.poll() is None:
            row = writer.execute(
                "WITH w AS (UPDATE sessions SET metadata = '{}' WHERE session_key = 'session-7' RETURNING 1) "
                "SELECT extract(epoch FROM clock_timestamp() - statement_timestamp()) FROM w"
            ).fetchone()
            assert row is not None
            longest = max(longest, float(row[0]))
        assert migration.returncode == 6
        assert longest < 1  # lock_timeout is 0.2 s; without it, it would be the 2 s of the budget


# ── Migrations that fail: 7 ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_migration_that_fails_in_its_second_statement_is_7_and_leaves_nothing(
    run: Run, project_copy: Path, existing: Database
) -> None:
    broken = project_copy / "scripts/migrations/003_monitoring_tables.sql"
    broken.write_text("CREATE TABLE public.first (a int);\nSELECT no_such_function();\n" + broken.read_text())
    before = catalog(existing)
    done = run(project_copy / MIGRATE, "--database-url", existing.url)
    refused(done, 7, r"003_monitoring_tables\.sql:2: function no_such_function\(\) does not exist")
    assert "rolled back" in done.stderr
    assert catalog(existing) == before


def test_a_comment_that_fails_is_reported_with_its_own_line(run: Run, project_copy: Path, migrated: Database) -> None:
    name = add_migration(
        project_copy / "scripts/migrations",
        "CREATE TABLE public.first (a int);\nCOMMENT ON TABLE public.first IS 'x';\n\nCOMMENT ON TABLE public.nowhere IS 'x';\n",
        "DROP TABLE public.first;\n",
    )
    done = run(project_copy / MIGRATE, "--backup", "none", "--database-url", migrated.url)
    refused(done, 7, rf'{name}\.sql:4: relation "public.nowhere" does not exist')


def test_a_later_migration_that_fails_leaves_catalog_and_ledger(
    run: Run, project_copy: Path, migrated: Database
) -> None:
    name = add_migration(
        project_copy / "scripts/migrations",
        "CREATE TABLE public.first (a int);\n\nALTER TABLE public.sessions\n    ADD COLUMN x no_such_type;\n",
        "DROP TABLE public.first;\n",
    )
    before = (
        catalog(migrated),
        migrated.execute("SELECT * FROM pgvigil.migrations"),
        migrated.execute("SELECT count(*) FROM system_metrics"),
    )
    done = run(project_copy / MIGRATE, "--database-url", migrated.url)
    refused(done, 7, rf'{name}\.sql:4: type "no_such_type" does not exist')
    assert (
        catalog(migrated),
        migrated.execute("SELECT * FROM pgvigil.migrations"),
        migrated.execute("SELECT count(*) FROM system_metrics"),
    ) == before


# ── A defect: 70 ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_defect_of_ours_is_70_never_a_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pgvigil.migration.offline_check.check", lambda: 1 / 0)
    assert cli.main(["validate", "--offline"]) == 70
    said = capsys.readouterr()
    assert said.out == ""
    assert "ZeroDivisionError" in said.err
    assert "hint: Please report it" in said.err


# ── Interrupted: 130 ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_ctrl_c_is_130_and_leaves_nothing(existing: Database, tmp_path: Path) -> None:
    before = catalog(existing)
    with existing.connect(autocommit=False) as reader:
        reader.execute("SELECT count(*) FROM sessions")
        migration = subprocess.Popen(
            [sys.executable, "-m", "pgvigil", "migrate", "--database-url", existing.url, "--backup-dir", tmp_path],
            env={**os.environ, "PYTHONPATH": str(PROJECT / "src")}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgvigil migrate' AND wait_event_type = 'Lock'"
        wait_until(lambda: existing.execute(waiting) == [(1,)])
        migration.send_signal(signal.SIGINT)
        _, words = migration.communicate(timeout=30)
    assert migration.returncode == 130, words
    assert "interrupted" in words
    assert "Traceback" not in words
    assert catalog(existing) == before


def test_ctrl_c_does_not_wait_for_a_server_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"postgresql://nobody@127.0.0.1:{deaf.getsockname()[1]}/nothing?connect_timeout=60"
        asking = subprocess.Popen(
            [sys.executable, "-m", "pgvigil", "validate", "--database-url", url],
            env={**os.environ, "PYTHONPATH": str(PROJECT / "src")}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with deaf.accept()[0]:
            threads = Path(f"/proc/{asking.pid}/task")
            # Itself, who connects, who reads the spec, and who makes the reference.
            wait_until(lambda: len(list(threads.iterdir())) == 4)
            asking.send_signal(signal.SIGINT)
            _, words = asking.communicate(timeout=30)
    assert (asking.returncode, "Traceback" in words) == (130, False)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_kill_during_the_backup_leaves_no_archive(
    existing: Database, tmp_path: Path, sent: signal.Signals
) -> None:
    tool(tmp_path / "tools", "pg_dump", VERSION + f"echo $$ >{tmp_path}/pid; exec sleep 60")
    tool(tmp_path / "tools", "pg_restore", "exit 0")
    backups = tmp_path / "backups"
    migration = subprocess.Popen(
        [sys.executable, "-m", "pgvigil", "migrate", "--database-url", existing.url, "--backup-dir", backups],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src"), "PGVIGIL_PG_BIN": str(tmp_path / "tools")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until((tmp_path / "pid").exists)
    migration.send_signal(sent)
    _, words = migration.communicate(timeout=30)
    assert migration.returncode == 130, words
    assert list(backups.iterdir()) == []
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


# ── .env and directories ──────────────────────────────────────────────────────────────────────────────────────────────


def dotenv(existing: Database, text: str, directory: Path) -> None:
    host, port = existing.server.tcp_dsn().rpartition("@")[2].split("/")[0].split(":")
    (directory / ".env").write_text(
        text.format(host=host, port=port, name=existing.name, password=existing.server.password)
    )


@pytest.mark.parametrize(
    "text",
    [
        "DATABASE_URL=postgresql://postgres:{password}@{host}:{port}/{name}\n",
        "export DATABASE_URL='postgresql://postgres:{password}@{host}:{port}/{name}' # the database\n",
        'PGHOST="{host}"\nPGPORT={port} # port\nPGUSER=postgres\nPGDATABASE = {name}\nPGPASSWORD={password}\n',
        'DATABASE_URL="host={host} port={port} user=postgres dbname={name} password={password} application_name=\'it is \\"odd\\" # really\'"\n',
    ],
)
@pytest.mark.slow(first=1)
def test_dot_env_names_the_database_with_spaces_quotes_and_hashes(
    run: Run, migrated: Database, tmp_path: Path, text: str
) -> None:
    dotenv(migrated, text, tmp_path)
    done = run(MIGRATE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert migrated.server.password not in done.stdout + done.stderr


def test_dot_env_of_the_project_is_found_from_another_directory(
    run: Run, project_copy: Path, migrated: Database
) -> None:
    dotenv(migrated, "DATABASE_URL=postgresql://postgres:{password}@{host}:{port}/{name}\n", project_copy)
    done = run(project_copy / MIGRATE, cwd=Path("/"))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_environment_goes_before_dot_env(run: Run, migrated: Database, tmp_path: Path) -> None:
    dotenv(migrated, "DATABASE_URL=postgresql://nobody@localhost:1/none\n", tmp_path)
    assert run(MIGRATE, cwd=tmp_path, env={"DATABASE_URL": migrated.url}).returncode == 0
    pg = {
        "PGHOST": str(Path(migrated.server.dsn().partition("host=")[2].partition("&")[0].replace("%2F", "/"))),
        "PGDATABASE": migrated.name,
    }
    assert (
        run(MIGRATE, cwd=tmp_path, env={**pg, "PGUSER": "postgres", "PGPORT": str(migrated.server.port)}).returncode
        == 0
    )


def test_a_service_file_names_the_database(run: Run, migrated: Database, tmp_path: Path) -> None:
    host = migrated.server.dsn().partition("host=")[2].partition("&")[0].replace("%2F", "/")
    service = tmp_path / "services"
    service.write_text(f"[prod]\nhost={host}\nport={migrated.server.port}\nuser=postgres\ndbname={migrated.name}\n")
    done = run(MIGRATE, env={"PGSERVICEFILE": str(service), "PGSERVICE": "prod"})
    assert done.returncode == 0, done.stderr


@pytest.mark.client_side
def test_a_new_file_below_the_head_of_a_database_is_4_and_changes_nothing(
    run: Run, project_copy: Path, migrated: Database
) -> None:
    migrations, before = project_copy / "scripts/migrations", catalog(migrated)
    last = max((migrations / "versions").glob("*.py")).stem
    for path in (migrations / f"{last}.sql", migrations / f"revert/{last}.sql", migrations / f"versions/{last}.py"):
        path.unlink()
    squeezed = add_migration(migrations, "SELECT 1;\n", "SELECT 1;\n")
    add_migration(migrations, "SELECT 2;\n", "SELECT 2;\n")
    done = run(project_copy / MIGRATE, "--database-url", migrated.url)
    refused(done, 4, rf"{squeezed}\.sql is below the head of this database, where {last} went in")
    assert catalog(migrated) == before
