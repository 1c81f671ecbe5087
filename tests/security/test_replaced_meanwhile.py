"""Test replaced tables: nothing that the owner puts in their place runs with more rights, even after a command has
checked the originals.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import Database
from pgvigil import Recorder
from pgvigil.archives import catalogue
from pgvigil.database import parse_url
from pgvigil.errors import PreconditionError
from pgvigil.live.monitor_report import NOTHING, Reporter
from security.conftest import Installation

pytestmark = pytest.mark.in_full

_WAITS = "SELECT FROM pg_locks l WHERE NOT l.granted AND l.relation = to_regclass('{name}')"
# A view that calls the owner's function for each row.
_SWAP = """
    ALTER TABLE {schema}.{table} RENAME TO gone;
    CREATE VIEW {schema}.{table} AS SELECT g.* FROM {schema}.gone g WHERE {app}.spring()"""


def race(at: Installation, table: str, *words: str) -> tuple[int, str]:
    """Run a command, and replace a table by a view while the command waits for the table's lock."""
    schema, name = table.split(".")
    swap = _SWAP.replace("{schema}", schema).replace("{table}", name)
    with at.connect("x_owner") as owner, at.connect() as watching, ThreadPoolExecutor(1) as beside:
        owner.autocommit = False
        owner.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())

        def replace_it() -> bool:
            waits = _WAITS.replace("{name}", table).encode()
            until = time.monotonic() + 20
            while not (there := bool(watching.execute(waits).rowcount)) and time.monotonic() < until:
                watching.execute("SELECT pg_sleep(0.005)")
            owner.execute(swap.replace("{app}", at.schema).encode())
            owner.commit()
            return there

        replaced = beside.submit(replace_it)
        said = at.pgvigil(*words)
        assert replaced.result(), f"{words} did not wait for {table}: {said}"
    return said


READ = {
    "sessions list": ("instrumentation.sessions", ["sessions", "list"]),
    "history": ("public.performance_logs", ["history", "performance"]),
    "report": ("public.sessions", ["report"]),
    "session-monitoring": ("pgvigil.session_monitor", ["session-monitoring", "status"]),
    "the ledger": ("pgvigil.migrations", ["status"]),
    "validate": ("pgvigil.alert_thresholds", ["validate"]),
    "validate with a copy of the reference": ("pgvigil.reference_snapshots", ["validate"]),
    "migrate": ("pgvigil.alembic_version", ["migrate", "--backup", "none"]),
}


@pytest.mark.parametrize("what", READ)
def test_a_table_replaced_while_a_superuser_s_command_waits_runs_nothing_with_more_rights(
    mined: Installation, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mined.migrate()
    table, words = READ[what]
    if "copy" in what:
        monkeypatch.setattr("pgvigil.validate.diff.reference.hindrance", lambda *_: "no copy can be made here")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mined.as_owner(
        """SELECT instrumentation.register_session(instrumentation.register_instance('host')),
                  pgvigil.register_monitor(gen_random_uuid(), 'app', 'host', 1, '1 minute');
           INSERT INTO {app}.performance_logs (operation, duration_ms, success) VALUES ('op', 1, true)"""
    )
    _, said = race(mined, table, *words)
    assert "nextval" not in said  # what counts, refused in a transaction that only reads
    assert not mined.turned


def test_a_table_replaced_while_a_backup_counts_runs_nothing_with_more_rights(mined: Installation) -> None:
    mined.migrate()
    mined.as_owner(
        """CREATE FUNCTION {app}.planned() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN {app}.spring(); END $$;
           CREATE TABLE {app}.aaa AS SELECT 1 AS n"""
    )
    with mined.connect("x_owner") as owner, mined.connect() as watching, ThreadPoolExecutor(1) as beside:
        owner.autocommit = False
        owner.execute("LOCK TABLE public.aaa IN ACCESS EXCLUSIVE MODE")

        def index_it() -> None:
            until = time.monotonic() + 20
            while not watching.execute(_WAITS.replace("{name}", "public.aaa").encode()).rowcount:
                assert time.monotonic() < until
                watching.execute("SELECT pg_sleep(0.005)")
            owner.execute("CREATE INDEX evil ON public.aaa (n) WHERE public.planned()")
            owner.commit()

        indexed = beside.submit(index_it)
        code, said = mined.pgvigil("backup", "create", "--verify-backup", "read")
        indexed.result()
    assert (code, "index public.evil calls public.planned()" in said) == (4, True), said
    assert not mined.turned


OLD = """
    SELECT pgvigil.ensure_partitions('performance_logs', now() - interval '20 days', now() - interval '20 days');
    INSERT INTO {app}.performance_logs (id, operation, duration_ms, success, metadata, created_at)
    SELECT overlay(pgvigil.uuid_v7_floor(t)::text PLACING lpad(to_hex(n), 12, '0') FROM 25)::uuid, E'a "b",\\n\\\\' || n, n, n > 1, '{"a": [null, "é"]}', t
    FROM (SELECT n, date_trunc('day', now() - interval '20 days', 'UTC') + n * interval '1 second' AS t FROM generate_series(1, 7) n) s;
    INSERT INTO pgvigil.deleted_sessions (session_id, session_key, deleted_at, actor, last_row, events)
    VALUES ('01900000-0000-7000-8000-0000000000aa', 'key', now() - interval '5 days', 'ann', '{}', '[]');
    UPDATE pgvigil.retention_policies SET keep_archive = true"""


WAITING = """
    INSERT INTO pgvigil.executions_to_archive
        (id, execution_id, query, database_type, status, execution_time, started_at, connection_params, request_metadata, response_metadata)
    SELECT n, 'e' || n, CASE WHEN n > 1 THEN E'SELECT ''x'', "y"\\n' ELSE '' END, 'postgresql', 'success', 0.1, '2026-01-01 10:00Z', '{}', '{}', '{"n": 1.50}'
    FROM generate_series(1, 3) n"""


def test_a_superuser_archives_the_same_files_as_the_owner(mined: Installation, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    mined.migrate()
    mined.as_owner(f"{OLD}; {WAITING}")
    written = {}
    for user in ("postgres", "x_owner"):
        url = mined.database.url.replace("postgres@", f"{user}@")
        done = mined.call(
            "pgvigil", "maintain", "run", "archive_files", "--archive-to", tmp_path / user, "--database-url", url
        )
        assert done.returncode == 0, done.stderr
        with catalogue.connect(parse_url(url, "test"), "test") as conn:
            found = catalogue.read(conn)
        written[user] = sorted((one.source, one.rows, one.min_id, one.max_time, one.bytes) for one in found)
        assert mined.call("pgvigil", "archive", "verify", "--database-url", url).returncode == 0
        mined.as_owner("DELETE FROM pgvigil.archives")
        mined.as_owner(WAITING)
    assert [row[:2] for row in written["postgres"]] == [
        ("deleted_sessions", 1),
        ("performance_logs", 7),
        ("query_executions", 3),
    ]
    assert written["postgres"] == written["x_owner"]


def test_a_superuser_archives_no_table_that_the_owner_may_not_read(mined: Installation, tmp_path: Path) -> None:
    """A function of the owner's says what waits for its archive."""
    pytest.importorskip("duckdb")
    mined.migrate()
    mined.as_owner(OLD)
    mined.execute("CREATE TABLE {app}.secrets AS SELECT gen_random_uuid() AS id, 's3cret' AS word, now() AS created_at")
    mined.as_owner(
        """CREATE FUNCTION {app}.replaces() RETURNS trigger LANGUAGE plpgsql AS $f$
           BEGIN
               CREATE OR REPLACE FUNCTION pgvigil.partitions_to_archive()
               RETURNS TABLE (source text, partition text, partition_oid oid, key name, from_time timestamptz, to_time timestamptz)
               LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
               $g$ SELECT 'performance_logs', 'secrets', 'public.secrets'::regclass::oid, 'id'::name, now(), now() $g$;
               RETURN NEW;
           END $f$;
           CREATE TRIGGER replaces BEFORE INSERT ON pgvigil.job_runs FOR EACH ROW EXECUTE FUNCTION {app}.replaces()"""
    )
    code, said = mined.pgvigil("maintain", "run", "archive_files", "--archive-to", str(tmp_path))
    assert (code, "permission denied for table secrets" in said) == (10, True), said
    assert not any(b"s3cret" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_recorder_that_connects_as_a_superuser_runs_no_code_of_another_owner(mined: Installation) -> None:
    mined.migrate()
    mined.as_owner(
        """CREATE FUNCTION {app}.planted() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN PERFORM {app}.spring(); RETURN NEW; END $f$;
           CREATE TRIGGER planted BEFORE INSERT ON {app}.performance_logs FOR EACH ROW EXECUTE FUNCTION {app}.planted()"""
    )
    recorder = Recorder(mined.url)
    recorder.record_performance("op", 1, True)
    recorder.close(timeout=1)
    assert "postgres is a superuser, and the tables of pgvigil belong to x_owner" in recorder.stats().last_error
    target = parse_url(mined.url, "test")
    with pytest.raises(PreconditionError, match="is a superuser"):
        Reporter(target, "app", 60, lambda: NOTHING, dict, lambda _: None).report()
    assert not mined.turned


def test_a_recorder_that_connects_as_a_superuser_alone_records(own: Database) -> None:
    recorder = Recorder(own.url)
    recorder.record_performance("op", 1, True)
    recorder.close()
    assert own.execute("SELECT operation FROM performance_logs") == [("op",)]
