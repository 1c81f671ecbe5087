"""Test connections of commands: settings of others, poolers, row security, and connections that are lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from conftest import PROJECT, REVISIONS, Database, Mortal, Run, wait_until
from helpers.pgbouncer import pgbouncer
from helpers.proxy import Proxy, proxy
from pgvigil import database as connections
from pgvigil.backup import pg_tools
from pgvigil.diagnostics.health import Check, Health
from pgvigil.embedded import Server
from pgvigil.errors import BackupError, ConnectError

MIGRATE = "scripts/run-migration.sh"

# ── Settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────

HOSTILE = {
    "search_path": "nowhere",
    "row_security": "on",
    "datestyle": "'German, DMY'",
    "intervalstyle": "sql_standard",
    "timezone": "'Asia/Kathmandu'",
    "quote_all_identifiers": "on",
    "plpgsql.extra_errors": "'all'",
    "plpgsql.extra_warnings": "'all'",
    "check_function_bodies": "off",
    "default_tablespace": "pg_global",  # no table may be there
    "temp_tablespaces": "pg_global",
    "session_replication_role": "local",
    "client_encoding": "sql_ascii",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "exit_on_error": "on",
    "xmloption": "document",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "statement_timeout": "'20ms'",
    "lock_timeout": "'1ms'",
    "idle_in_transaction_session_timeout": "'20ms'",
    "idle_session_timeout": "'20ms'",
    "transaction_timeout": "'20ms'",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "client_min_messages": "debug1",
    "jit": "on",
    "jit_above_cost": "0",
}


@pytest.fixture
def set_hostile() -> Iterator[Callable[..., None]]:
    def set_(database: Database, *names: str) -> None:
        with psycopg.connect(database.server.dsn(), autocommit=True) as conn:
            for name in names or HOSTILE:
                if name == "transaction_timeout" and database.server.major < 17:
                    continue
                conn.execute(f'ALTER DATABASE "{database.name}" SET {name} = {HOSTILE[name]}'.encode())
                conn.execute(f'ALTER ROLE postgres IN DATABASE "{database.name}" SET {name} = {HOSTILE[name]}'.encode())

    return set_


COURSE = [
    (("migrate", "--dry-run"), 0),
    (("migrate",), 0),
    (("validate", "--self-test"), 0),
    (("status",), 0),
    (("sizes",), 0),
    (("sessions", "list"), 0),
    (("maintain", "run", "counters"), 0),
    (("maintain", "run", "reindex"), 0),
    (("maintain", "run-due"), 0),
    (("maintain", "run", "vacuum"), 0),  # explain would ask for it
    (("maintain", "status"), 0),
    (("explain", "SELECT count(*) FROM sessions"), 0),
    (("profile", "SELECT count(*) FROM sessions", "--iterations", "2"), 0),
    (("backup", "create", "--verify-backup", "restore"), 0),
    (("backup", "verify"), 0),
    (("revert", "--to", "base"), 0),
]


@pytest.mark.oldest_and_newest
def test_settings_of_database_and_role_change_no_outcome(
    call: Run, existing: Database, set_hostile: Callable[..., None]
) -> None:
    set_hostile(existing)
    for words, code in COURSE:
        done = call("pgvigil", *words, "--database-url", existing.url)
        assert done.returncode == code, (words, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.oldest_and_newest
def test_settings_of_database_and_role_do_not_stop_a_restore(
    call: Run, existing: Database, set_hostile: Callable[..., None], tmp_path: Path
) -> None:
    set_hostile(existing)
    assert call("pgvigil", "backup", "create", "--database-url", existing.url).returncode == 0
    (archive,) = (tmp_path / "backups of this test").glob("*.dump")
    done = call("pgvigil", "restore", archive, "--database-url", existing.url)
    printed = re.search(r"in psql: (DROP DATABASE .*;)", done.stdout)
    assert (done.returncode, bool(printed)) == (0, True), done.stderr
    with psycopg.connect(existing.server.dsn(), autocommit=True) as conn:
        conn.execute(printed[1].encode())  # type: ignore[index]


@pytest.mark.client_side
@pytest.mark.parametrize("carrier", ["the database", "the role", "PGCLIENTENCODING"])
def test_a_client_encoding_that_lacks_characters_of_the_rows_does_not_stop_a_backup(
    call: Run, fresh: Database, monkeypatch: pytest.MonkeyPatch, carrier: str
) -> None:
    fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('\u043a', 'a')")
    fresh.execute("COMMENT ON TABLE sessions IS '\u043a'; CREATE TABLE \"\u043a\" (id int)")
    if carrier == "the database":
        fresh.execute(f'ALTER DATABASE "{fresh.name}" SET client_encoding = latin1')
    elif carrier == "the role":
        fresh.execute(f'ALTER ROLE postgres IN DATABASE "{fresh.name}" SET client_encoding = latin1')
    else:
        monkeypatch.setenv("PGCLIENTENCODING", "latin1")
    done = call("pgvigil", "backup", "create", "--verify-backup", "restore", "--database-url", fresh.url)
    assert done.returncode == 0, done.stderr


@pytest.mark.oldest_and_newest
def test_settings_of_database_and_role_make_the_same_schema(
    call: Run, database: Database, set_hostile: Callable[..., None]
) -> None:
    set_hostile(database)
    done = call("scripts/setup-enhanced-db.sh", "--database-url", database.url)
    assert done.returncode == 0, done.stderr


@pytest.mark.client_side
@pytest.mark.parametrize("name", HOSTILE)
def test_setting_of_a_database_is_no_matter_to_a_verdict(
    call: Run, fresh: Database, set_hostile: Callable[..., None], name: str
) -> None:
    set_hostile(fresh, name)
    done = call("pgvigil", "validate", "--self-test", "--database-url", fresh.url)
    assert done.returncode == 0, done.stdout + done.stderr


SPARED = "-c " + " -c ".join(
    f"{name}={'off' if value == 'on' else 0}" for name, value in HOSTILE.items() if re.search("timeout|read_only", name)
)  # the test's own session, when the server has them
OF_A_CALL = {"migrate", "revert"}  # COURSE has them; these settings come to a database that has the schema


@pytest.mark.client_side
@pytest.mark.parametrize("carrier", ["the address", "PGOPTIONS", "the role", "the server"])
@pytest.mark.slow(first=1)
def test_settings_of_every_carrier_change_no_outcome(
    call: Run, fresh: Database, monkeypatch: pytest.MonkeyPatch, carrier: str
) -> None:
    fresh.execute("CREATE TABLE arrays AS SELECT ARRAY[NULL, 'NULL'] AS words")
    hostile = {name: value for name, value in HOSTILE.items() if name not in ("client_encoding", "search_path")}
    options = " ".join(f"-c {name}={value}".replace("'", "").replace(", ", ",\\ ") for name, value in hostile.items())
    url, role = fresh.url, f"hostile of {fresh.name}"
    if carrier == "the address":
        url += f"{'&' if '?' in url else '?'}options={quote(options)}"
    if carrier == "the role":
        url = url.replace("postgres@", f"{quote(role)}@")
    with monkeypatch.context() as environment, fresh.connect(options=SPARED) as conn:
        try:
            if carrier == "PGOPTIONS":
                environment.setenv("PGOPTIONS", options)
            if carrier == "the role":
                conn.execute(f'CREATE ROLE "{role}" LOGIN SUPERUSER'.encode())
            for name, value in hostile.items():
                if carrier == "the role":
                    conn.execute(f'ALTER ROLE "{role}" SET {name} = {value}'.encode())
                if carrier == "the server" and "." not in name:
                    conn.execute(f"ALTER SYSTEM SET {name} = {value}".encode())
            conn.execute("SELECT pg_reload_conf()")
            for words, code in COURSE:
                if words[0] not in OF_A_CALL:
                    done = call("pgvigil", *words, "--database-url", url)
                    assert done.returncode == code, (words, done.stderr)
        finally:
            conn.execute("ALTER SYSTEM RESET ALL")
            conn.execute("SELECT pg_reload_conf()")
            conn.execute(f'DROP ROLE IF EXISTS "{role}"'.encode())


@pytest.mark.client_side
def test_a_limit_that_ends_the_start_of_a_connection_is_lifted_for_the_next(
    fresh: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = connections.open_connection

    def ended(target: connections.Target, purpose: str, *, wait: float = 0) -> psycopg.Connection:
        if "transaction_timeout=0" not in target.parameters.get("options", ""):
            raise ConnectError("cannot connect: FATAL: terminating connection due to transaction timeout")
        return opened(target, purpose, wait=wait)

    monkeypatch.setattr(connections.connection, "open_connection", ended)
    with connections.connect(connections.parse_url(fresh.url, "a test"), "test") as conn:
        assert conn.execute("SHOW transaction_timeout").fetchone() == ("0",)


CHILD = """#!/bin/sh
case "$PGOPTIONS" in *"-c transaction_timeout=0"*) echo dumped; exit 0 ;; esac
echo 'pg_dump: error: connection to server failed: FATAL:  terminating connection due to transaction timeout' >&2
exit 1
"""


@pytest.mark.client_side
def test_a_limit_of_transactions_does_not_end_a_client_program(tmp_path: Path) -> None:
    (tmp_path / "pg_dump").write_text(CHILD)
    (tmp_path / "pg_dump").chmod(0o700)
    target = connections.parse_url("postgresql://somebody@nowhere/a", "a test")
    assert pg_tools.run([str(tmp_path / "pg_dump")], target, "it failed") == "dumped\n"


@pytest.mark.client_side
def test_a_client_program_waits_no_longer_for_a_silent_server_than_we_do() -> None:
    target = connections.parse_url("postgresql://somebody@nowhere/a?keepalives_idle=5", "a test")
    told = connections.parse_url(target.client_conninfo, "a test").parameters
    assert (told["connect_timeout"], told["tcp_user_timeout"], told["keepalives_idle"]) == ("10", "60000", "5")
    assert "keepalives_count" not in target.public_conninfo  # this is printed, for people to paste


@pytest.mark.client_side
@pytest.mark.parametrize(
    "why", ["timeout expired", "Connection refused", "FATAL:  the database system is shutting down"]
)
def test_a_client_program_without_a_server_is_no_connection(tmp_path: Path, why: str) -> None:
    said = f'pg_dump: error: connection to server at "127.0.0.1", port 5432 failed: {why}'
    (tmp_path / "pg_dump").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    (tmp_path / "pg_dump").chmod(0o700)
    with pytest.raises(ConnectError, match=f"because it could not connect:\n.*{why}"):
        pg_tools.run([str(tmp_path / "pg_dump")], connections.parse_url("host=nowhere", "a test"), "it failed")


@pytest.mark.client_side
@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("pg_dump: error: could not write to output file: No space left on device", "Free space, or choose another directory"),
        ('pg_dump: error: query failed: ERROR:  permission denied for table "storage space"', "Nothing was changed."),
        ('pg_dump: detail: ERROR:  could not extend file "base/5/1": No space left on device', "Nothing was changed."),
    ],
)  # fmt: skip
def test_another_directory_is_proposed_where_the_disk_of_this_machine_is_full(
    tmp_path: Path, said: str, hint: str
) -> None:
    (tmp_path / "pg_dump").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    (tmp_path / "pg_dump").chmod(0o700)
    with pytest.raises(BackupError) as raised:
        pg_tools.run([str(tmp_path / "pg_dump")], connections.parse_url("host=nowhere", "a test"), "it failed")
    assert raised.value.hint.startswith(hint)


@pytest.mark.client_side
def test_no_job_runs_where_no_trigger_fires(call: Run, fresh: Database) -> None:
    fresh.execute(f"ALTER DATABASE {fresh.name} SET session_replication_role = replica")
    for words in (("run", "expiry"), ("run", "retention"), ("run-due",)):
        done = call("pgvigil", "maintain", *words, "--database-url", fresh.url)
        assert (done.returncode, "session_replication_role is replica" in done.stderr) == (4, True), (
            words,
            done.stderr,
        )


@pytest.mark.client_side
def test_limits_of_a_millisecond_let_a_command_in(call: Run, fresh: Database) -> None:
    limits = [
        "statement_timeout",
        "idle_session_timeout",
        *(["transaction_timeout"] if fresh.server.major >= 17 else []),
    ]
    with fresh.connect() as conn:
        for name in limits:
            conn.execute(f'ALTER DATABASE "{fresh.name}" SET {name} = 1'.encode())
    done = call("pgvigil", "status", "--database-url", fresh.url)
    assert done.returncode == 0, done.stderr


@pytest.mark.client_side
def test_an_operator_that_is_planted_on_the_path_is_not_run(call: Run, fresh: Database) -> None:
    """PostgreSQL takes an exact match in any schema of the path before one of pg_catalog that needs a cast."""
    fresh.execute(
        """CREATE SCHEMA planted; CREATE TABLE planted.ran (by name, what text);
           CREATE FUNCTION planted.equal(int, int) RETURNS boolean LANGUAGE plpgsql AS $$
               BEGIN INSERT INTO planted.ran VALUES (session_user, 'equal'); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
           CREATE FUNCTION planted.set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql AS $$
               BEGIN INSERT INTO planted.ran VALUES (session_user, 'set_config'); RETURN pg_catalog.set_config($1, $2, $3); END $$;
           CREATE OPERATOR planted.= (leftarg = int, rightarg = int, function = planted.equal)"""
    )
    fresh.execute(f'ALTER DATABASE "{fresh.name}" SET search_path = planted, pg_catalog, public')
    for words in (("status",), ("sizes",), ("sessions", "list"), ("health",), ("maintain", "status")):
        assert call("pgvigil", *words, "--database-url", fresh.url).returncode in (0, 1)
    assert fresh.execute("SELECT * FROM planted.ran") == []


@pytest.mark.client_side
def test_a_connection_of_the_application_sets_nothing(fresh: Database) -> None:
    changed = "SELECT name, setting FROM pg_settings WHERE source = 'session'"
    with connections.open_connection(connections.parse_url(fresh.url, "a test"), "recorder") as conn:
        assert conn.execute(changed).fetchall() == []


@pytest.mark.client_side
@pytest.mark.parametrize("module", sorted(path.name for path in (PROJECT / "src/pgvigil/live").glob("*.py")))
def test_the_live_wing_opens_no_connection_of_a_command(module: str) -> None:
    """The application connects through poolers, where a setting of a session belongs to another client."""
    assert "database.connect(" not in (PROJECT / "src/pgvigil/live" / module).read_text()


def test_every_setting_of_a_session_holds_where_the_server_knows_it(fresh: Database) -> None:
    with connections.connect(connections.parse_url(fresh.url, "a test"), "test") as conn:
        for name, value in connections.SESSION.items():
            row = conn.execute("SELECT current_setting(%s, true)", (name,)).fetchone()
            assert row in ((value,), (None,)), name


# ── Poolers ───────────────────────────────────────────────────────────────────────────────────────────────────────────

COMMANDS = [
    ("migrate", "--dry-run"),
    ("migrate",),
    ("revert", "--to", "base"),
    ("setup",),
    ("backup", "create"),
    ("maintain", "run-due"),
    ("maintain", "watch"),
    ("health",),
    ("validate",),
    ("explain", "SELECT 1"),
]


@pytest.mark.client_side
@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("size", [1, 20])
def test_a_pool_that_shares_backends_is_refused_and_nothing_is_left_in_it(
    call: Run, existing: Database, mode: str, size: int
) -> None:
    with pgbouncer(existing.server, mode, size) as url:
        with psycopg.connect(url(existing.name), autocommit=True) as application:  # one idle backend in the pool
            application.execute("SELECT 1")
        for words in COMMANDS:
            done = call("pgvigil", *words, "--database-url", url(existing.name))
            assert done.returncode == 4, (words, done.stderr)
            assert "a connection pooler is between pgvigil and the server" in done.stderr
            with psycopg.connect(url(existing.name), autocommit=True) as application:
                left = application.execute("SELECT count(*) FROM pg_settings WHERE source = 'session'").fetchone()
                locks = application.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
            assert (left, locks) == ((0,), (0,)), words


@pytest.mark.client_side
def test_a_pool_that_hands_its_backends_out_in_turn_is_refused(call: Run, existing: Database) -> None:
    with pgbouncer(existing.server, "transaction", settings="server_round_robin = 1") as url:
        with (
            psycopg.connect(url(existing.name), autocommit=False) as one,
            psycopg.connect(url(existing.name), autocommit=False) as other,
        ):
            one.execute("SELECT 1")
            other.execute("SELECT 1")
        done = call("pgvigil", "migrate", "--database-url", url(existing.name))
        assert done.returncode == 4, done.stderr


@pytest.mark.client_side
def test_a_pool_in_session_mode_is_accepted(call: Run, existing: Database) -> None:
    with pgbouncer(existing.server, "session") as url:
        for words in (
            ("migrate",),
            ("validate", "--self-test"),
            ("maintain", "run", "counters"),
            ("revert", "--to", "base"),
        ):
            done = call("pgvigil", *words, "--database-url", url(existing.name))
            assert done.returncode == 0, (words, done.stderr)


WITH_ONE_SESSION = [
    (("maintain", "run", "vacuum"), 0, ""),
    (("maintain", "run", "archive_files"), 0, ""),
    (("backup", "create"), 3, "a backup needs 3 sessions at once"),
    (("guard", "--backup", "none", "--", "true"), 3, "guard needs 3 sessions at once"),
    (("revert", "--to", "base"), 3, "a backup needs 3 sessions at once"),
    (("revert", "--to", "base", "--backup", "none"), 0, ""),
]


@pytest.mark.client_side
@pytest.mark.slow
def test_a_pool_of_one_session_is_enough_for_what_needs_no_more(call: Run, fresh: Database, tmp_path: Path) -> None:
    with pgbouncer(fresh.server, "session", 1) as url:
        for words, code, said in WITH_ONE_SESSION:
            at = words.index("--") if "--" in words else len(words)
            done = call("pgvigil", *words[:at], "--database-url", url(fresh.name), *words[at:])
            assert (done.returncode, said in done.stderr) == (code, True), (words, done.stderr)
            assert len(re.findall("^error: ", done.stderr, re.MULTILINE)) == int(code != 0), (words, done.stderr)
    assert list(tmp_path.glob("backups of this test/*")) == []
    assert fresh.execute("SELECT to_regclass('pgvigil.jobs')") == [(None,)]


@pytest.mark.client_side
@pytest.mark.slow
def test_no_scratch_database_is_left_behind_through_a_pool(run: Run, fresh: Database, tmp_path: Path) -> None:
    """A pooler keeps its session of the scratch database, without a name, when ours is closed."""
    with pgbouncer(fresh.server, "session", 1) as url:
        done = run("pgvigil", "validate", "--database-url", url(fresh.name), env={"XDG_CACHE_HOME": str(tmp_path)})
        assert done.returncode == 0, done.stderr
        assert fresh.execute("SELECT datname FROM pg_database WHERE datname ~ '^pgvigil_reference_'") == []


@pytest.mark.client_side
def test_a_pool_of_one_session_is_enough_to_look(call: Run, migrated: Database) -> None:
    with pgbouncer(migrated.server, "session", 1) as url:
        for words in (("status",), ("validate",), ("migrate", "--dry-run")):
            done = call("pgvigil", *words, "--database-url", url(migrated.name))
            assert done.returncode == 0, (words, done.stderr)


# ── Connections that are lost ─────────────────────────────────────────────────────────────────────────────────────────


def terminate(database: Database) -> None:
    with psycopg.connect(database.server.dsn(), autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            (database.name,),
        )


LOST = [
    ("existing", ("migrate", "--dry-run"), "pg_class", 3),
    ("existing", ("migrate",), "pg_export_snapshot", 3),
    ("existing", ("migrate",), "hashtextextended", 3),
    ("existing", ("migrate", "--backup", "none"), "CREATE TABLE pgvigil.", 7),
    ("existing", ("migrate", "--backup", "none"), "LOCK TABLE", 7),
    ("existing", ("migrate", "--backup", "none"), "SAVEPOINT", 7),
    ("existing", ("migrate", "--backup", "none"), "INDEX CONCURRENTLY", 7),
    ("existing", ("migrate", "--backup", "none"), "CALL pgvigil", 7),
    ("existing", ("migrate", "--backup", "none"), "COMMIT", 7),
    ("migrated", ("migrate",), "pg_try_advisory_lock", 3),
    ("migrated", ("revert", "--to", "base", "--backup", "none"), "DROP", 7),
    ("migrated", ("revert", "--to", "base"), "pg_export_snapshot", 3),
    ("database", ("setup",), "CREATE TABLE", 7),
    ("fresh", ("setup",), "session_key", 3),
    ("fresh", ("validate",), "pg_trigger", 3),
    ("fresh", ("validate", "--self-test"), "session_key", 3),
    ("fresh", ("health",), "integrity_report", 3),
    ("fresh", ("status",), "pgvigil.migrations", 3),
    ("fresh", ("sizes",), "pg_table_size", 3),
    ("fresh", ("sessions", "list"), "instrumentation.", 3),
    ("fresh", ("maintain", "run", "counters"), "run_job", 3),
    ("fresh", ("maintain", "run", "vacuum"), "VACUUM", 3),
    ("fresh", ("maintain", "run", "backup"), "pg_export_snapshot", 3),
    ("fresh", ("maintain", "run-due"), "run_job", 3),
    ("fresh", ("backup", "create"), "hashtextextended", 3),
    ("fresh", ("explain", "SELECT count(*) FROM sessions"), "EXPLAIN", 3),
    ("fresh", ("profile", "SELECT count(*) FROM sessions"), "count(*) FROM sessions", 3),
]


@pytest.mark.client_side
@pytest.mark.parametrize("how", ["cut", "terminated"])
@pytest.mark.parametrize(("state", "words", "at", "code"), LOST, ids=lambda value: str(value).strip("()"))
@pytest.mark.slow(first=6)
def test_a_lost_connection_is_told_as_that(
    run: Run,
    pg: Server,
    request: pytest.FixtureRequest,
    state: str,
    words: tuple[str, ...],
    at: str,
    code: int,
    how: str,
) -> None:
    database: Database = request.getfixturevalue(state)
    assert database.server is pg

    def act(wire: Proxy) -> None:
        if how == "cut":
            wire.cut()
        else:
            terminate(database)

    with proxy(database.server.port, lambda data: at.encode() in data, act) as wire:
        url = database.tcp_url.replace(f":{database.server.port}/", f":{wire.port}/")
        done = run("pgvigil", *words, "--database-url", url)
        assert wire.acted.is_set(), done.stderr
    assert done.returncode == code, done.stderr
    assert "connection was lost" in done.stderr
    assert "Traceback" not in done.stderr
    assert "error ignored" not in done.stderr
    assert "sqlalche" not in done.stderr
    assert "defect of pgvigil" not in done.stderr
    assert len(re.findall("^error: ", done.stderr, re.MULTILINE)) == 1


@pytest.mark.client_side
def test_a_lost_connection_is_in_the_report_for_machines_too(run: Run, existing: Database) -> None:
    with proxy(existing.server.port, lambda data: b"pg_try_advisory_lock" in data) as wire:
        url = existing.tcp_url.replace(f":{existing.server.port}/", f":{wire.port}/")
        done = run("pgvigil", "migrate", "--json", "--database-url", url)
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"]) == (3, 3)
    assert "connection was lost" in told["error"]


@pytest.mark.client_side
def test_a_run_whose_connection_was_lost_goes_on_when_it_is_run_again(run: Run, existing: Database) -> None:
    with proxy(existing.server.port, lambda data: b"LOCK TABLE" in data) as wire:
        url = existing.tcp_url.replace(f":{existing.server.port}/", f":{wire.port}/")
        assert run("pgvigil", "migrate", "--backup", "none", "--database-url", url).returncode == 7
        done = run("pgvigil", "migrate", "--backup", "none", "--database-url", url)
    assert done.returncode == 0, done.stderr
    assert f"to {REVISIONS[-1]}" in done.stdout


@pytest.mark.client_side
@pytest.mark.parametrize("sign", [signal.SIGHUP, signal.SIGTERM])
def test_a_run_is_ended_in_order_by_a_terminal_that_closes(existing: Database, sign: int) -> None:
    with existing.connect(autocommit=False) as holder:
        holder.execute("LOCK TABLE sessions IN SHARE MODE")
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pgvigil", "migrate", "--backup", "none", "--database-url", existing.url],
            env=os.environ | {"PYTHONPATH": str(PROJECT / "src")},
            stderr=subprocess.PIPE,
            text=True,
            # Tests that nohup started would have it ignore the signal.
            preexec_fn=partial(signal.signal, sign, signal.SIG_DFL),
        )
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'sessions'::regclass"
        wait_until(lambda: existing.execute(waiting) != [(0,)])
        process.send_signal(sign)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, "interrupted: the open transaction is rolled back" in said) == (130, True), said
    assert existing.execute("SELECT to_regnamespace('pgvigil')") == [(None,)]


EARLY = """import os, signal
from pgvigil import __main__ as program
program._hide_secrets = lambda: os.kill(os.getpid(), signal.{sign})
program.main()"""


@pytest.mark.client_side
@pytest.mark.parametrize("sign", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_before_the_command_begins_leaves_no_traceback(sign: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", EARLY.format(sign=sign), "--version"],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        preexec_fn=lambda: [
            signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        ],
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "")


# ── Standbys ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ON_STANDBY = [
    (("migrate",), 4),
    (("migrate", "--dry-run"), 4),
    (("revert", "--to", "base"), 4),
    (("setup",), 4),
    (("backup", "create"), 4),
    (("maintain", "run", "counters"), 4),
    (("maintain", "run", "vacuum"), 4),
    (("maintain", "run-due"), 4),
    (("health", "--repair"), 4),
    (("sessions", "kill", "00000000-0000-7000-8000-000000000000"), 4),
    (("explain", "DELETE FROM sessions"), 4),
    (("profile", "DELETE FROM sessions"), 4),
    (("validate", "--self-test"), 4),
    (("maintain", "accept", "all"), 4),
    (("backup", "record", "--external", "x"), 4),
    (("session-monitoring", "enable-periodic-logging", "--application", "x"), 4),
    (("maintain", "install", "--pg-cron"), 4),
    (("maintain", "preview"), 0),
    (("session-monitoring", "status"), 3),
    (("status",), 0),
    (("sizes",), 0),
    (("sessions", "list"), 0),
    (("maintain", "status"), 0),
    (("health",), 1),
    (("explain", "SELECT count(*) FROM sessions"), 0),
    (("profile", "SELECT count(*) FROM sessions"), 0),
]


@pytest.mark.client_side
@pytest.mark.slow
def test_on_a_standby_every_command_works_or_says_so_in_a_sentence(call: Run, mortal: Mortal) -> None:
    mortal.end(signal.SIGINT)
    (mortal.server.data / "standby.signal").touch()
    mortal.start()
    for words, code in ON_STANDBY:
        done = call("pgvigil", *words, "--database-url", mortal.url)
        assert done.returncode == code, (words, done.stderr)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert (len(errors), "Traceback" in done.stderr) == (int(code in (3, 4)), False), (words, done.stderr)
        if code == 4:
            assert re.search("standby|read-only|only be read", errors[0]), (words, errors)


# ── Rows that cannot be seen ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def owned(existing: Database) -> Iterator[Database]:
    """A copy of `existing` whose tables and database belong to a role without superuser rights."""
    role = f"owner of {existing.name}"
    with existing.connect() as conn:
        conn.execute(f'CREATE ROLE "{role}" LOGIN CREATEDB')
        conn.execute(f'ALTER DATABASE "{existing.name}" OWNER TO "{role}"')
        conn.execute(
            f"""DO $$ DECLARE r record; BEGIN
                FOR r IN SELECT oid::regclass AS t, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') LOOP
                    EXECUTE format('ALTER %s %s OWNER TO %I', CASE r.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, r.t, '{role}');
                END LOOP;
                FOR r IN SELECT oid::regprocedure AS t FROM pg_proc WHERE pronamespace = 'public'::regnamespace LOOP
                    EXECUTE format('ALTER FUNCTION %s OWNER TO %I', r.t, '{role}');
                END LOOP; END $$"""
        )
    try:
        yield existing
    finally:
        with psycopg.connect(existing.server.dsn(), autocommit=True) as conn:
            conn.execute(f'DROP DATABASE "{existing.name}" WITH (FORCE)')
            conn.execute(f'DROP ROLE "{role}"')


def as_owner(database: Database) -> str:
    return database.url.replace("postgres@", f"{quote(f'owner of {database.name}')}@")


FORCED = (
    "ALTER TABLE sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
    "CREATE POLICY tenant ON sessions USING (agent_from = current_setting('app.tenant', true))"
)


@pytest.mark.client_side
@pytest.mark.parametrize("who", ["owner", "superuser"])
def test_rows_hidden_from_their_owner_stop_a_migration_before_the_backup(call: Run, owned: Database, who: str) -> None:
    owned.execute(FORCED)
    done = call("pgvigil", "migrate", "--database-url", as_owner(owned) if who == "owner" else owned.url)
    assert done.returncode == 4
    assert f'row security hides rows of public.sessions from role "owner of {owned.name}"' in done.stderr
    assert "ALTER TABLE public.sessions NO FORCE ROW LEVEL SECURITY;" in done.stderr
    assert f'CREATE POLICY pgvigil_owner ON public.sessions TO "owner of {owned.name}" USING (true);' in done.stderr
    assert "backing up" not in done.stderr
    assert owned.execute("SELECT to_regnamespace('pgvigil')") == [(None,)]


TENANTS = FORCED.replace(", FORCE ROW LEVEL SECURITY", "")


@pytest.mark.client_side
def test_rows_hidden_from_who_acts_for_a_superuser_stop_a_migration(call: Run, existing: Database) -> None:
    existing.execute(TENANTS)
    done = call("pgvigil", "migrate", "--database-url", existing.url)
    assert done.returncode == 4
    assert 'row security hides rows of public.sessions from role "pgvigil_owner"' in done.stderr
    assert 'CREATE POLICY pgvigil_jobs ON public.sessions TO "pgvigil_owner" USING (true);  -- or let' in done.stderr
    assert existing.execute("SELECT to_regnamespace('pgvigil')") == [(None,)]


@pytest.mark.client_side
def test_with_a_policy_for_who_acts_for_a_superuser_a_migration_works(
    call: Run, existing: Database, migrated: Database
) -> None:
    assert migrated.execute("SELECT to_regrole('pgvigil_owner')") != [(None,)]  # made here if nobody had made it
    existing.execute(f"{TENANTS}; CREATE POLICY pgvigil_jobs ON sessions TO pgvigil_owner USING (true)")
    for words in (("migrate", "--backup", "none"), ("maintain", "accept", "all"), ("maintain", "run", "expiry")):
        done = call("pgvigil", *words, "--database-url", existing.url)
        assert done.returncode == 0, (words, done.stderr)


def test_a_role_that_is_not_there_yet_sees_what_a_policy_shows_to_everybody(existing: Database) -> None:
    existing.execute(TENANTS)
    with existing.connect() as conn:
        hidden = connections.see_all_rows(conn, ["public"], instead="not there yet")
        assert [(one.table, one.role, one.is_owner) for one in hidden] == [("public.sessions", "not there yet", False)]
        conn.execute("ALTER POLICY tenant ON sessions USING (true)")
        assert connections.see_all_rows(conn, ["public"], instead="not there yet") == []


@pytest.mark.client_side
def test_with_a_policy_for_the_owner_everything_works(call: Run, owned: Database) -> None:
    owned.execute(f'{FORCED}; CREATE POLICY pgvigil_owner ON sessions TO "owner of {owned.name}" USING (true)')
    overdue = "SELECT count(*) FROM sessions WHERE expires_at < now() AND status = 'active'"
    (before,) = owned.execute(overdue)
    assert before > (0,)
    for words in (
        ("migrate",),
        ("validate", "--self-test"),
        ("maintain", "accept", "all"),
        ("maintain", "run", "expiry"),
        ("maintain", "run", "counters"),
        ("backup", "create", "--verify-backup", "read"),
    ):
        done = call("pgvigil", *words, "--database-url", as_owner(owned))
        assert done.returncode == 0, (words, done.stderr)
    assert owned.execute(overdue) == [(0,)]
    done = call("pgvigil", "health", "--json", "--database-url", as_owner(owned))
    assert json.loads(done.stdout)["checks"]["orphaned_messages"]["value"] == 0


@pytest.mark.client_side
@pytest.mark.parametrize("policy", ["AS RESTRICTIVE USING (false)", "AS RESTRICTIVE FOR DELETE USING (false)"])
def test_a_restrictive_policy_hides_rows_though_another_shows_them(call: Run, owned: Database, policy: str) -> None:
    owned.execute(f'{FORCED}; CREATE POLICY pgvigil_owner ON sessions TO "owner of {owned.name}" USING (true)')
    owned.execute(f"CREATE POLICY narrow ON sessions {policy}")
    assert call("pgvigil", "migrate", "--database-url", as_owner(owned)).returncode == 4


@pytest.mark.client_side
def test_jobs_do_nothing_about_rows_that_they_cannot_see(call: Run, owned: Database) -> None:
    assert call("pgvigil", "migrate", "--backup", "none", "--database-url", as_owner(owned)).returncode == 0
    owned.execute(FORCED)
    for words in (("maintain", "run", "expiry"), ("maintain", "run-due")):
        done = call("pgvigil", *words, "--database-url", as_owner(owned))
        assert (done.returncode, "row security hides rows of public.sessions" in done.stderr) == (4, True), done.stderr
    assert owned.execute("SELECT count(*) FROM pgvigil.job_runs") == [(0,)]


@pytest.fixture
def idle(fresh: Database) -> Database:
    """A copy of `fresh` with an archived session, and an old one that a job would orphan if it did not see its message."""
    fresh.execute(
        "INSERT INTO sessions (session_key, agent_from, created_at, updated_at, last_activity_at)"
        " SELECT key, 'x', t, t, t FROM (VALUES ('idle'), ('archived')) k (key), (SELECT now() - interval '20 days') m (t)"
    )
    fresh.execute(
        "INSERT INTO context_history (session_id, sequence_number, context_type, content) SELECT id, 1, 'message', 'x' FROM sessions"
    )
    fresh.execute("UPDATE sessions SET archived_at = now() WHERE session_key = 'archived'")
    return fresh


@pytest.mark.client_side
@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("context_history", "CALL pgvigil.run_job('orphans')"),
        ("sessions", "CALL pgvigil.run_job('counters')"),
        ("sessions", "SELECT * FROM pgvigil.preview_jobs()"),
        ("context_history", "SELECT * FROM pgvigil.recount_session_counters()"),
        ("sessions", "SELECT pgvigil.aggregate_analytics('session_stats', now() - interval '1 day', now())"),
        ("sessions", "INSERT INTO context_history (session_id, sequence_number, context_type, content)"
                     " SELECT id, 2, 'message', 'x' FROM sessions WHERE session_key = 'archived'"),
        ("sessions", "UPDATE context_history SET content = 'y'"),
        ("sessions", "DELETE FROM context_history"),
        ("session_lifecycle", "TRUNCATE sessions CASCADE"),
    ],
)  # fmt: skip
def test_what_the_owner_of_its_functions_cannot_see_is_not_taken_for_missing(
    idle: Database, table: str, statement: str
) -> None:
    """Called by anybody, past the commands: by a superuser here, as whom pg_cron may run the jobs."""
    everything = "SELECT count(*) FROM sessions UNION ALL SELECT count(*) FROM context_history"
    before = idle.execute(everything)
    idle.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=f"hide rows of public.{table} from role"):
        idle.execute(statement)
    assert idle.execute(everything) == before


@pytest.mark.client_side
def test_no_check_offers_a_fix_for_rows_that_may_be_hidden(idle: Database) -> None:
    idle.execute(
        "CREATE ROLE reader_of_the_tests IN ROLE pgvigil_reader; ALTER TABLE sessions ENABLE ROW LEVEL SECURITY"
    )
    try:
        with idle.connect() as conn:
            conn.execute("SET ROLE reader_of_the_tests")
            checks = conn.execute(
                "SELECT value, fix, detail FROM pgvigil.integrity_report() WHERE check_name IN ('orphaned_messages', 'count_mismatches')"
            ).fetchall()
    finally:
        idle.execute("DROP ROLE reader_of_the_tests")
    assert [(value, fix) for value, fix, _ in checks] == [(None, None)] * 2
    assert all("may hide rows of public.sessions" in detail for _, _, detail in checks)


@pytest.mark.client_side
def test_health_takes_no_hidden_session_for_a_missing_one(call: Run, owned: Database) -> None:
    assert call("pgvigil", "migrate", "--backup", "none", "--database-url", as_owner(owned)).returncode == 0
    owned.execute(FORCED)
    done = call("pgvigil", "health", "--json", "--database-url", as_owner(owned))
    check = json.loads(done.stdout)["checks"]["orphaned_messages"]
    assert (check["value"], check["fix"]) == (None, None)
    assert "row-level security policy" in check["detail"]


@pytest.mark.client_side
def test_nothing_is_read_or_backed_up_where_rows_may_be_hidden(call: Run, owned: Database) -> None:
    assert call("pgvigil", "migrate", "--backup", "none", "--database-url", as_owner(owned)).returncode == 0
    owned.execute("ALTER TABLE performance_logs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    for words in (("report",), ("history", "performance")):
        done = call("pgvigil", *words, "--database-url", as_owner(owned))
        assert (done.returncode, "row security hides rows" in done.stderr) == (3, True), (words, done.stderr)
    done = call("pgvigil", "backup", "create", "--database-url", as_owner(owned))
    assert (done.returncode, "hides rows of public.performance_logs" in done.stderr) == (4, True), done.stderr
    assert "ALTER TABLE public.performance_logs NO FORCE ROW LEVEL SECURITY;" in done.stderr
    assert f'CREATE POLICY pgvigil_owner ON public.performance_logs TO "owner of {owned.name}"' in done.stderr


@pytest.mark.client_side
@pytest.mark.parametrize(("values", "code"), [([0], 0), ([0, None], 3), ([None, 20], 1)])
def test_a_check_that_could_not_look_has_an_exit_code_of_its_own(values: list[int | None], code: int) -> None:
    checks = tuple(
        Check(f"check {value}", value if value is None else Decimal(value), Decimal(10), None, level, "", None, None)
        for value in values
        for level in ["ok" if value == 0 else "warning"]
    )
    assert Health("a database", False, checks, (), None, None).exit_code == code


@pytest.mark.client_side
def test_a_tenant_explains_what_he_sees(call: Run, owned: Database) -> None:
    owned.execute(FORCED)
    done = call("pgvigil", "explain", "SELECT count(*) FROM sessions", "--json", "--database-url", as_owner(owned))
    assert done.returncode in (0, 1), done.stderr
    assert "app.tenant" in done.stdout


# ── Obstacles to a migration are reported before the backup ───────────────────────────────────────────────────

UNFIT = {
    "rule": ("CREATE RULE keep AS ON DELETE TO sessions DO INSTEAD NOTHING", "table public.sessions has the rule keep"),
    "rule of a child": (
        "CREATE RULE r AS ON INSERT TO context_history DO ALSO NOTHING",
        "context_history has the rule r",
    ),
    "unlogged": (
        "ALTER TABLE context_history SET UNLOGGED; ALTER TABLE codebase_snapshots SET UNLOGGED;"
        "ALTER TABLE handoff_requests SET UNLOGGED; ALTER TABLE sessions SET UNLOGGED",
        "table public.sessions is UNLOGGED",
    ),
    "unlogged child": ("ALTER TABLE handoff_requests SET UNLOGGED", "table public.handoff_requests is UNLOGGED"),
    "inherited": ("CREATE TABLE old_sessions () INHERITS (sessions)", "table public.sessions has the child table"),
    "heir": (
        "CREATE TABLE base (metadata jsonb); ALTER TABLE sessions INHERIT base",
        "table public.sessions inherits from public.base",
    ),
    "no key": (
        "ALTER TABLE sessions DROP CONSTRAINT sessions_pkey CASCADE",
        "table public.sessions has no primary key",
    ),
    "partial key": (
        "ALTER TABLE sessions DROP CONSTRAINT sessions_pkey CASCADE; CREATE UNIQUE INDEX ON sessions (id) WHERE status <> 'x'",
        "table public.sessions has no primary key",
    ),
    "key in another place": (
        "ALTER TABLE sessions DROP CONSTRAINT sessions_pkey CASCADE; ALTER TABLE sessions ADD UNIQUE (id), ADD PRIMARY KEY (session_key)",
        "ALTER TABLE public.sessions DROP CONSTRAINT sessions_pkey, ADD PRIMARY KEY (id)",
    ),
    "generated": (
        "ALTER TABLE sessions ADD is_dormant boolean GENERATED ALWAYS AS (status = 'dormant') STORED",
        "column is_dormant of table public.sessions is generated",
    ),
    "identity": (
        "ALTER TABLE context_history ADD tokens_used integer GENERATED ALWAYS AS IDENTITY",
        "column tokens_used of table public.context_history is an identity",
    ),
    "type of a column": ("ALTER TABLE sessions ADD archived_at date", "column sessions.archived_at"),
    "schema": ("CREATE SCHEMA instrumentation", "schema instrumentation"),
    "schema of ours": ("CREATE SCHEMA pgvigil", "there is a schema pgvigil, but no ledger in it"),
    "sequence": ("CREATE SEQUENCE session_lifecycle", "sequence public.session_lifecycle"),
    "index": ("CREATE INDEX system_metrics ON sessions (agent_to)", "index public.system_metrics"),
    "enum": ("CREATE TYPE performance_logs AS ENUM ('a')", "type public.performance_logs"),
    "composite type": ("CREATE TYPE analytics_aggregations AS (a int)", "type public.analytics_aggregations"),
    "domain": ("CREATE DOMAIN session_monitoring_view AS text", "type public.session_monitoring_view"),
    "partition": ("CREATE TABLE session_lifecycle_default ()", "table public.session_lifecycle_default"),
    "slice": ("CREATE TABLE system_metrics_p202501 ()", "table public.system_metrics_p202501"),
    "index of a session table": (
        "CREATE INDEX idx_sessions_is_dormant ON app_users (email)",
        "index public.idx_sessions_is_dormant on table app_users",
    ),
    "index of a monitoring table": (
        "CREATE INDEX idx_system_metrics_labels ON sessions (agent_to)",
        "index public.idx_system_metrics_labels on table sessions",
    ),
    "constraint": ("CREATE SEQUENCE query_executions_pkey", "sequence public.query_executions_pkey"),
    "owners": (
        "ALTER TABLE handoff_requests OWNER TO pg_monitor",
        "the tables of the application belong to different roles",
    ),
}


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("case", UNFIT)
@pytest.mark.slow(first=5)
def test_what_cannot_be_migrated_is_refused_before_the_backup(call: Run, existing: Database, case: str) -> None:
    statements, words = UNFIT[case]
    existing.execute(statements)
    done = call(MIGRATE, "--database-url", existing.url)
    assert (done.returncode, words in done.stderr) == (4, True), done.stderr
    assert "hint: " in done.stderr
    assert "backing up" not in done.stderr
    assert existing.execute("SELECT to_regclass('pgvigil.migrations')") == [(None,)]


@pytest.mark.oldest_and_newest
def test_what_the_verdict_would_refuse_is_refused_before_the_backup_with_statements_that_work(
    call: Run, existing: Database
) -> None:
    existing.execute(
        """ALTER TABLE context_history DROP CONSTRAINT context_history_session_id_fkey;
           ALTER TABLE handoff_requests DROP CONSTRAINT handoff_requests_session_id_fkey,
               ADD FOREIGN KEY (session_id) REFERENCES sessions (id);
           ALTER TABLE sessions ALTER status DROP DEFAULT, ALTER agent_from DROP NOT NULL"""
    )
    done = call(MIGRATE, "--database-url", existing.url)
    assert (done.returncode, "backing up" in done.stderr) == (4, False), done.stderr
    assert set(re.findall("^  ([a-z]+ [a-z]+ [a-z_.]+):", done.stderr, re.M)) == {
        "missing constraint context_history.context_history_session_id_fkey",
        "different column sessions.agent_from",
        "different column sessions.status",
        "different constraint handoff_requests.handoff_requests_session_id_fkey",
    }
    for printed in re.findall("^  (ALTER TABLE .*;)$", done.stderr, re.M):
        existing.execute(printed)
    assert call(MIGRATE, "--dry-run", "--database-url", existing.url).returncode == 0


@pytest.mark.client_side
def test_default_privileges_that_take_rights_from_the_owner_are_refused_before_the_backup(
    call: Run, owned: Database
) -> None:
    role = f'"owner of {owned.name}"'
    with psycopg.connect(as_owner(owned), autocommit=True) as conn:
        conn.execute(
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {role} REVOKE TRUNCATE, TRIGGER ON TABLES FROM {role}".encode()
        )
    done = call("pgvigil", "migrate", "--database-url", as_owner(owned))
    assert (done.returncode, "backing up" in done.stderr) == (4, False)
    assert (
        f"because of ALTER DEFAULT PRIVILEGES FOR ROLE {role} REVOKE TRIGGER, TRUNCATE ON TABLES FROM {role}"
        in done.stderr
    )
    printed = re.search("^  (ALTER DEFAULT .*);$", done.stderr, re.M)
    assert printed
    owned.execute(printed[1])
    assert call("pgvigil", "migrate", "--dry-run", "--database-url", as_owner(owned)).returncode == 0


@pytest.mark.client_side
def test_a_partitioned_table_of_sessions_is_refused(call: Run, existing: Database) -> None:
    existing.execute(
        """ALTER TABLE sessions RENAME TO whole; ALTER TABLE whole RENAME CONSTRAINT sessions_pkey TO whole_pkey;
           CREATE TABLE sessions (LIKE whole INCLUDING DEFAULTS, PRIMARY KEY (id)) PARTITION BY HASH (id)"""
    )
    done = call(MIGRATE, "--database-url", existing.url)
    assert (done.returncode, "table public.sessions is partitioned" in done.stderr) == (4, True), done.stderr


@pytest.mark.client_side
def test_a_superuser_as_owner_is_told_in_the_plan(call: Run, existing: Database) -> None:
    done = call(MIGRATE, "--dry-run", "--database-url", existing.url)
    assert done.returncode == 0
    assert done.stderr.count("warning: the tables belong to postgres, a superuser") == 1


@pytest.mark.client_side
def test_who_cannot_see_others_transactions_is_told_once(call: Run, owned: Database) -> None:
    done = call(MIGRATE, "--backup", "none", "--database-url", as_owner(owned))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot see the transactions of other roles") == 1
    assert f'GRANT pg_read_all_stats TO "owner of {owned.name}"' in done.stderr


@pytest.mark.client_side
def test_the_time_of_a_transaction_that_cannot_be_seen_is_not_made_up(call: Run, owned: Database) -> None:
    with owned.connect(autocommit=False) as holder:
        pid = holder.info.backend_pid
        holder.execute("LOCK TABLE sessions IN SHARE MODE")
        done = call(MIGRATE, "--backup", "none", "--lock-budget", "1", "--database-url", as_owner(owned))
    assert done.returncode == 6, done.stderr
    assert f"pid {pid} (postgres), whose transaction only a role with pg_read_all_stats can see" in done.stderr
    assert "for 0 s" not in done.stderr


EVENT_TRIGGER = """
    CREATE FUNCTION auto() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE c record; BEGIN
        FOR c IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE command_tag = 'CREATE TABLE' AND schema_name = 'public' LOOP {} END LOOP;
    END $$;
    CREATE EVENT TRIGGER "ensure it" ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION auto();
    CREATE EVENT TRIGGER idle ON ddl_command_start EXECUTE FUNCTION auto();
    ALTER EVENT TRIGGER idle DISABLE"""


@pytest.fixture
def restorer(owned: Database) -> str:
    """The address for the owner of `owned`, who may replace the database."""
    owned.execute(f'GRANT pg_signal_backend TO "owner of {owned.name}"')
    owned.execute(f'ALTER MATERIALIZED VIEW sessions_per_agent OWNER TO "owner of {owned.name}"')
    return as_owner(owned)


@pytest.mark.oldest_and_newest
def test_what_a_superuser_made_does_not_stop_the_copies_of_an_owner(
    call: Run, owned: Database, restorer: str, tmp_path: Path
) -> None:
    for statement in (
        "CREATE PUBLICATION everything FOR ALL TABLES",
        "CREATE EXTENSION amcheck",
        "CREATE FUNCTION noted() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE EVENT TRIGGER notes ON ddl_command_end EXECUTE FUNCTION noted()",
        "CREATE TABLE of_the_dba (id int PRIMARY KEY); INSERT INTO of_the_dba VALUES (1); GRANT SELECT ON of_the_dba TO PUBLIC",
    ):
        owned.execute(statement)
    done = call("pgvigil", "backup", "create", "--verify-backup", "restore", "--database-url", restorer)
    assert done.returncode == 0, done.stderr
    without = "cannot restore: publication everything, event trigger notes, extension amcheck, owners and rights"
    assert without in done.stderr
    done = call("pgvigil", "backup", "verify", "--database-url", restorer)
    assert (done.returncode, without in done.stdout) == (0, True), done.stderr
    (archive,) = (tmp_path / "backups of this test").glob("*.dump")
    done = call("pgvigil", "restore", archive, "--database-url", restorer)
    assert done.returncode == 9
    assert "cannot restore what a superuser made: publication everything" in done.stderr


@pytest.mark.client_side
def test_code_of_another_role_does_not_run_in_a_copy_with_the_rights_of_the_owner(
    call: Run, owned: Database, restorer: str
) -> None:
    owner, other = f"owner of {owned.name}", f"other of {owned.name}"
    with owned.connect() as conn:
        conn.execute(f'CREATE ROLE "{other}"')
        conn.execute(f'CREATE TABLE of_another (id int); ALTER TABLE of_another OWNER TO "{other}"')
        conn.execute(f'GRANT SELECT ON of_another TO "{owner}"')
    try:
        done = call("pgvigil", "backup", "create", "--verify-backup", "restore", "--database-url", restorer)
    finally:
        owned.execute("DROP TABLE of_another")
        owned.execute(f'DROP ROLE "{other}"')
    assert (done.returncode, f'GRANT "{other}" TO "{owner}"' in done.stderr) == (4, True), done.stderr


@pytest.mark.oldest_and_newest
def test_a_restore_names_the_settings_that_its_role_may_not_make(
    call: Run, owned: Database, restorer: str, tmp_path: Path
) -> None:
    owned.execute(f'ALTER DATABASE "{owned.name}" SET log_statement = ddl')
    owned.execute("CREATE ROLE guest_of_public NOLOGIN; GRANT CREATE ON SCHEMA public TO guest_of_public")
    assert call("pgvigil", "backup", "create", "--database-url", restorer).returncode == 0
    (archive,) = (tmp_path / "backups of this test").glob("*.dump")
    done = call("pgvigil", "restore", archive, "--database-url", restorer)
    try:
        assert done.returncode == 0, done.stderr
        assert "warning: setting log_statement of the database is not carried over" in done.stderr
    finally:
        (kept,) = re.findall(r"DROP DATABASE (\S+);", done.stdout)
        with psycopg.connect(owned.server.dsn(), autocommit=True) as conn:
            conn.execute(f"DROP DATABASE {kept} WITH (FORCE)".encode())
        owned.execute("DROP OWNED BY guest_of_public; DROP ROLE guest_of_public")


@pytest.mark.client_side
@pytest.mark.parametrize(
    "does",
    [
        "EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', c.object_identity);",
        "RAISE EXCEPTION 'not without a ticket';",
    ],
    ids=["changes", "refuses"],
)
def test_event_triggers_are_named_when_they_change_or_refuse_what_a_migration_makes(
    call: Run, existing: Database, does: str
) -> None:
    existing.execute(EVENT_TRIGGER.format(does))
    done = call(MIGRATE, "--backup", "none", "--database-url", existing.url)
    assert done.returncode == 7
    assert (
        'act on what is made and may have changed or refused it: "ensure it" (ddl_command_end, public.auto)'
        in done.stderr
    )
    assert 'ALTER EVENT TRIGGER "ensure it" DISABLE;' in done.stderr
    assert "idle" not in done.stderr


@pytest.mark.client_side
def test_event_triggers_are_named_when_they_refuse_a_revert(call: Run, fresh: Database) -> None:
    fresh.execute(
        """CREATE FUNCTION auto() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no drops'; END $$;
           CREATE EVENT TRIGGER "keep it" ON sql_drop EXECUTE FUNCTION auto()"""
    )
    done = call("pgvigil", "revert", "--to", "base", "--backup", "none", "--database-url", fresh.url)
    assert (done.returncode, 'ALTER EVENT TRIGGER "keep it" DISABLE;' in done.stderr) == (7, True), done.stderr


# ── Rights and races ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.client_side
def test_a_missing_right_is_told_once_with_the_grant(call: Run, fresh: Database) -> None:
    role = f"who of {fresh.name}"
    fresh.execute(f'CREATE ROLE "{role}" LOGIN')
    url = fresh.url.replace("postgres@", f"{quote(role)}@")
    try:
        done = call("pgvigil", "maintain", "status", "--database-url", url)
        assert (done.returncode, done.stderr.count(f'GRANT pgvigil_reader TO "{role}";')) == (4, 1), done.stderr
        fresh.execute(f'GRANT pgvigil_reader TO "{role}"')
        done = call("pgvigil", "maintain", "run-due", "--database-url", url)
        assert (done.returncode, done.stderr.count(f'GRANT pgvigil_admin TO "{role}"')) == (4, 1), done.stderr
        done = call(
            "pgvigil", "session-monitoring", "enable-periodic-logging", "--application", "x", "--database-url", url
        )
        assert (done.returncode, "GRANT pgvigil_reader" in done.stderr) == (4, False), done.stderr
        assert f'GRANT pgvigil_admin TO "{role}"; lets it run jobs too' in done.stderr
        done = call("pgvigil", "backup", "create", "--database-url", url)
        assert (done.returncode, f'ALTER ROLE "{role}" CREATEDB;' in done.stderr) == (4, True), done.stderr
        fresh.execute(f'ALTER ROLE "{role}" CREATEDB')
        done = call("pgvigil", "backup", "create", "--database-url", url)
        assert (done.returncode, "one with pg_read_all_data" in done.stderr) == (5, True), done.stderr
        for verb in ("migrate", "setup"):  # there is nothing to do, and it may not store the reference
            done = call("pgvigil", verb, "--database-url", url)
            assert (done.returncode, "reference_snapshots" in done.stderr) == (0 if verb == "migrate" else 4, False)
    finally:
        fresh.execute(f'DROP ROLE "{role}"')


@pytest.mark.client_side
def test_of_two_setups_at_once_one_builds_and_the_other_finds_it_built(pg: Server) -> None:
    name = f"twice_{os.getpid()}"
    command = [sys.executable, "-P", "-m", "pgvigil", "setup", "--database-url", pg.dsn(name)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    try:
        both = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in "ab"
        ]
        said = [one.communicate(timeout=120) for one in both]
        assert [one.returncode for one in both] == [0, 0], said
        built = sorted("built" in out for out, _ in said)
        assert built == [False, True], said
    finally:
        with psycopg.connect(pg.dsn(), autocommit=True) as conn:
            conn.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.mark.client_side
def test_a_setup_that_meets_one_half_way_waits_for_it(call: Run, database: Database) -> None:
    """The first files are committed: the database is neither empty nor behind."""
    with database.connect() as builder:
        builder.execute("SELECT pg_advisory_lock(%s)", (int.from_bytes(b"pgvigil", "big"),))
        builder.execute("CREATE TABLE half_built ()")
        done = call("scripts/setup-enhanced-db.sh", "--lock-wait", "0", "--database-url", database.url)
        assert (done.returncode, "another run is in progress" in done.stderr) == (6, True), done.stderr


@pytest.fixture
def german() -> Iterator[Server]:
    """A server that speaks German: Debian's, which brings the translations; the C.UTF-8 locale is always there and obeys LANGUAGE."""
    bindir = Path("/usr/lib/postgresql/15/bin")
    if not (bindir.exists() and Path("/usr/share/locale/de/LC_MESSAGES/postgres-15.mo").exists()):
        pytest.skip("Debian's PostgreSQL 15 with its translations is not here")
    with tempfile.TemporaryDirectory(dir="/tmp") as wrapped:
        Path(wrapped).chmod(0o755)
        for program in bindir.iterdir():
            Path(wrapped, program.name).symlink_to(program)
        server = Path(wrapped, "postgres")
        server.unlink()
        server.write_text(f'#!/bin/sh\nLANGUAGE=de exec {bindir}/postgres "$@"\n')
        server.chmod(0o755)
        with Server(Path(wrapped), settings={"lc_messages": "C.UTF-8"}, in_memory=True) as running:
            yield running


@pytest.mark.client_side
def test_a_server_that_speaks_another_language_is_understood(call: Run, german: Server) -> None:
    url = german.dsn("neu")
    assert call("pgvigil", "setup", "--database-url", url).returncode == 0
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            """ALTER TABLE pgvigil.jobs ENABLE ROW LEVEL SECURITY; CREATE ROLE mandant LOGIN IN ROLE pgvigil_reader"""
        )
        with pytest.raises(psycopg.errors.UndefinedTable, match="existiert nicht"):
            conn.execute("TABLE nichts")
    done = call("pgvigil", "maintain", "status", "--database-url", german.dsn("neu").replace("postgres@", "mandant@"))
    assert (done.returncode, "row security hides rows from this role" in done.stderr) == (3, True), done.stderr
