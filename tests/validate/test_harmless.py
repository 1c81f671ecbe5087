"""Test that harmless changes are not reported: maintenance, tuning, the application's own objects, other settings,
servers and roles.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from cases import Case, load
from conftest import PROJECT, Connection, Database, Run, servers
from pgvigil import embedded
from pgvigil.embedded import Server
from pgvigil.migration import sql_lexer

CASES = load(PROJECT / "tests/data/harmless.sql")
STRANGER = """DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'a_stranger') THEN CREATE ROLE a_stranger; END IF;
END $$;
"""


def complaints(call: Run, url: str, *options: str) -> list[str]:
    """The findings, and what else kept the verdict from being "valid"."""
    found = call("pgvigil", "validate", "--format", "json", "--database-url", url, *options)
    if not found.stdout:
        return [f"exit {found.returncode}: {found.stderr}"]
    verdict = json.loads(found.stdout)
    told = [f"{finding['kind']} {finding['object']}: {finding['found']}" for finding in verdict["findings"]]
    return told or ([] if found.returncode == 0 else [f"exit {found.returncode}: {verdict['unchecked']}"])


@pytest.mark.in_full
@pytest.mark.one_between
@pytest.mark.parametrize("case", [case for case in CASES if not case.remarked("committed")], ids=str)
def test_harmless_change_is_no_finding(case: Case, shared: Database, uncommitted: Connection, call: Run) -> None:
    uncommitted.execute(STRANGER + case.sql)
    assert complaints(call, shared.url) == []


@pytest.mark.in_full
@pytest.mark.one_between
@pytest.mark.parametrize("case", [case for case in CASES if case.remarked("committed")], ids=str)
def test_harmless_change_is_no_finding_once_committed(case: Case, fresh: Database, call: Run) -> None:
    with fresh.connect() as connection:
        for statement in sql_lexer.statements(case.sql):
            connection.execute(statement.text)
    assert complaints(call, fresh.url) == []


SETTINGS = [
    "DateStyle=SQL, DMY",
    "DateStyle=German",
    "IntervalStyle=sql_standard",
    "IntervalStyle=iso_8601",
    "TimeZone=Asia/Kathmandu",
    "lc_messages=C.UTF-8",
    "lc_numeric=C",
    "quote_all_identifiers=on",
    "extra_float_digits=-15",
    "bytea_output=escape",
    "standard_conforming_strings=off",
    "backslash_quote=off",
    "escape_string_warning=off",
    "array_nulls=off",
    "transform_null_equals=on",
    "xmloption=document",
    "client_encoding=LATIN1",
    "client_min_messages=debug2",
    "search_path=",
    "search_path=pgvigil, tap",
    'search_path="$user"',
    "default_transaction_read_only=on",
    "default_transaction_isolation=serializable",
    "default_transaction_deferrable=on",
    "row_security=off",
    "session_replication_role=replica",
    "check_function_bodies=off",
    "plan_cache_mode=force_generic_plan",
    "enable_seqscan=off",
    "work_mem=64kB",
    "max_parallel_workers_per_gather=0",
    "jit_above_cost=0",
    "default_table_access_method=heap",
    "default_toast_compression=pglz",
    "statement_timeout=2s",
    "lock_timeout=1ms",
    "role=pgvigil_reader",
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_setting_of_the_session_is_no_finding(setting: str, shared: Database, call: Run) -> None:
    options = "-c " + setting.replace(" ", "\\ ")
    assert complaints(call, f"{shared.url}&options={quote(options)}") == []


def dump_into(source: str, target: str, *options: str) -> None:
    bindir = embedded.binaries()
    if bindir is None:
        pytest.skip("pg_dump and psql come with pgvigil[embedded]")
    dump = subprocess.run([bindir / "pg_dump", *options, source], check=True, capture_output=True)
    restore = [bindir / "psql", "-qX", target]  # an older server does not know every setting of a newer pg_dump
    subprocess.run(restore, input=dump.stdout, check=True, capture_output=True)


def test_restored_copy_has_no_finding(migrated: Database, database: Database, call: Run) -> None:
    dump_into(migrated.url, database.url)
    assert complaints(call, migrated.url) == []
    assert complaints(call, database.url) == []


def test_copy_of_a_copy_has_no_finding(fresh: Database, database: Database, another: Database, call: Run) -> None:
    dump_into(fresh.url, database.url)
    dump_into(database.url, another.url, "--no-owner", "--quote-all-identifiers")
    assert complaints(call, another.url) == []


@pytest.mark.client_side
def test_copy_restored_into_a_newer_server_has_no_finding(database: Database, call: Run) -> None:
    oldest = min(servers())
    if oldest == database.server.major:
        pytest.skip("only one PostgreSQL is here")
    with Server(servers()[oldest]) as older:
        assert call("pgvigil", "setup", "--database-url", older.dsn("postgres")).returncode == 0
        dump_into(older.dsn("postgres"), database.url)
    assert complaints(call, database.url) == []


@pytest.mark.parametrize("schema", ["My App", 'we"ird', "select", "ünïcode"])
@pytest.mark.slow(first=1)
def test_schema_of_any_name_has_no_finding(schema: str, database: Database, call: Run) -> None:
    database.execute('CREATE SCHEMA "{}"'.format(schema.replace('"', '""')))
    assert call("pgvigil", "setup", "--schema", schema, "--database-url", database.url).returncode == 0
    assert complaints(call, database.url) == []
    assert complaints(call, database.url, "--schema", schema) == []


@pytest.fixture
def of_a_stranger(
    database: Database, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """An empty database, as its owner and as a superuser, on a server where pgvigil's roles are and no reference is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Server(servers()[database.server.major]) as own:
        elsewhere = {"XDG_CACHE_HOME": str(tmp_path / "elsewhere")}
        assert run("pgvigil", "setup", "--database-url", own.dsn("postgres"), env=elsewhere).returncode == 0
        with psycopg.connect(own.dsn("postgres"), autocommit=True) as conn:
            conn.execute("CREATE ROLE a_stranger LOGIN")
            conn.execute("CREATE DATABASE of_a_stranger OWNER a_stranger")
        with psycopg.connect(own.dsn("of_a_stranger"), autocommit=True) as conn:
            conn.execute("ALTER SCHEMA public OWNER TO a_stranger")
        url = own.dsn("of_a_stranger")
        yield f"{url}&options={quote('-c role=a_stranger')}", url


def test_install_by_a_role_without_special_rights_has_no_finding(of_a_stranger: tuple[str, str], call: Run) -> None:
    as_owner, as_superuser = of_a_stranger
    assert call("pgvigil", "setup", "--database-url", as_owner).returncode == 0
    assert complaints(call, as_owner) == []
    assert complaints(call, as_superuser) == []


def test_install_by_a_role_without_special_rights_is_compared_on_another_machine(
    of_a_stranger: tuple[str, str], run: Run, call: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_owner, _ = of_a_stranger
    done = run("pgvigil", "setup", "--database-url", as_owner, env={"XDG_CACHE_HOME": "/dev/null"})
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    assert complaints(call, as_owner) == []


def test_the_reference_of_a_server_without_our_roles_is_not_that_of_one_with_them(
    database: Database, call: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Server(servers()[database.server.major]) as own:
        with psycopg.connect(own.dsn("postgres"), autocommit=True) as conn:
            conn.execute("CREATE ROLE a_stranger LOGIN")
            conn.execute("CREATE DATABASE of_a_stranger OWNER a_stranger")
        with psycopg.connect(own.dsn("of_a_stranger"), autocommit=True) as conn:
            conn.execute("ALTER SCHEMA public OWNER TO a_stranger")
        as_owner = f"{own.dsn('of_a_stranger')}&options={quote('-c role=a_stranger')}"
        assert call("pgvigil", "setup", "--database-url", as_owner).returncode == 0
        done = call("pgvigil", "setup", "--database-url", own.dsn("postgres"))
        assert done.returncode == 0, done.stderr


def test_open_transactions_of_the_application_are_no_finding(fresh: Database, call: Run) -> None:
    with fresh.connect(autocommit=False) as writer, fresh.connect(autocommit=False) as reader:
        writer.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('open', 'a')")
        writer.execute("LOCK TABLE system_metrics IN SHARE ROW EXCLUSIVE MODE")
        writer.execute("CREATE TABLE app_uncommitted (id uuid REFERENCES sessions)")
        reader.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        reader.execute("SELECT count(*) FROM session_monitoring_view")
        assert complaints(call, fresh.url) == []
        writer.rollback()


def test_database_that_changes_meanwhile_is_no_finding(fresh: Database, call: Run) -> None:
    from threading import Event, Thread

    stop, faults = Event(), []

    def change() -> None:
        with fresh.connect() as connection:
            while not stop.is_set():
                for statement in (
                    "CREATE TABLE app_passing (id integer PRIMARY KEY, session_id uuid)",
                    "SELECT pgvigil.ensure_partitions('performance_logs', '2031-01-01Z', '2031-01-03Z')",
                    "DROP TABLE performance_logs_p20310101, performance_logs_p20310102, performance_logs_p20310103",
                    "DROP TABLE app_passing",
                ):
                    connection.execute(statement)

    thread = Thread(target=change)
    thread.start()
    try:
        for _ in range(10):
            faults += complaints(call, fresh.url)
    finally:
        stop.set()
        thread.join()
    assert faults == []
