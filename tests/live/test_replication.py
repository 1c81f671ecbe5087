"""Replication: what comes to a subscriber or a standby is whole, nothing of ours stops it, and every command ends in a sentence."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from conftest import EXISTING_INSTALL, PROJECT, Database, Run, _new_database, servers, wait_until
from helpers import replication
from pgvigil import cli
from pgvigil.embedded import Server

pytestmark = pytest.mark.oldest_and_newest

# In each of our tables, a row that comes by the public way or by hand.
ROWS = """
INSERT INTO sessions (session_key, agent_from) SELECT 'k' || i, 'a' FROM generate_series(1, 20) i;
INSERT INTO context_history (session_id, sequence_number, context_type, content) SELECT id, 1, 'message', 'hello' FROM sessions;
UPDATE sessions SET status = 'completed' WHERE session_key < 'k15';
DELETE FROM sessions WHERE session_key = 'k9';
INSERT INTO performance_logs (operation, duration_ms, success) SELECT 'op', i, true FROM generate_series(1, 100) i;
INSERT INTO system_metrics (metric_type, metric_name, metric_value) VALUES ('gauge', 'm', 1);
INSERT INTO pgvigil.legal_holds (session_id, reason) SELECT id, 'matter' FROM sessions WHERE session_key = 'k1';
UPDATE pgvigil.retention_policies SET active_hours = 48 WHERE policy = 'extended';
BEGIN;
SET LOCAL pgvigil.instrumentation = 'write';
INSERT INTO instrumentation.instances (server_version, hostname, database_name, system_identifier, postmaster_start_time)
VALUES ('x', 'h', 'd', 1, now());
INSERT INTO instrumentation.sessions (instance_id, username) SELECT instance_id, 'u' FROM instrumentation.instances;
INSERT INTO instrumentation.sql_statements (session_id, sql_text) SELECT session_id, 'SELECT 1' FROM instrumentation.sessions;
COMMIT;
"""
OURS = """
SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
AND c.relnamespace IN ('public'::regnamespace, 'pgvigil'::regnamespace, 'instrumentation'::regnamespace) ORDER BY 1
"""


FIRST_IDS = ("'00000000-0000-7000-8000-000000000000'", "'00000000-0001-7000-8000-000000000000'")


@pytest.fixture(scope="module")
def origin(pg: Server) -> Iterator[Server]:
    """A server that others can follow, of the version under test."""
    with replication.primary(servers()[pg.major]) as server:
        Database(server, "postgres").execute("CREATE DATABASE template_fresh")
        assert cli.main(["setup", "--database-url", Database(server, "template_fresh").url]) == 0
        yield server


@pytest.fixture
def source(origin: Server) -> Iterator[Database]:
    """A new install with a row in most tables."""
    with _new_database(origin, "template_fresh") as new:
        with new.connect() as conn:
            conn.execute("SET search_path = public")
            for statement in ROWS.strip().removesuffix(";").split(";\n"):
                conn.execute(statement.encode())
        yield new


@pytest.fixture
def subscriber(origin: Server, source: Database) -> Iterator[Database]:
    """The same schema, without a row."""
    with _new_database(origin) as new:
        replication.schema_only(source, new)
        yield new


def counts(database: Database) -> dict[str, int]:
    with database.connect() as conn:
        tables = [row[0] for row in conn.execute(OURS)]
        return {name: conn.execute(f"SELECT count(*) FROM {name}".encode()).fetchall()[0][0] for name in tables}


# --- a subscriber ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("via_root", [True, False], ids=["via the root", "by partition"])
@pytest.mark.slow(first=1)
def test_all_tables_come_to_a_subscriber(source: Database, subscriber: Database, via_root: bool) -> None:
    with replication.subscription(source, subscriber, via_root=via_root):
        assert counts(subscriber) == counts(source)


@pytest.mark.parametrize("via_root", [True, False], ids=["via the root", "by partition"])
@pytest.mark.slow(first=1)
def test_what_is_changed_and_deleted_comes_too(source: Database, subscriber: Database, via_root: bool) -> None:
    with replication.subscription(source, subscriber, via_root=via_root) as name:
        assert cli.main(["maintain", "run", "counters", "--database-url", source.url]) == 0
        source.execute(
            "INSERT INTO context_history (session_id, sequence_number, context_type, content) SELECT id, 2, 'message', 'x' FROM sessions"
        )
        source.execute("UPDATE sessions SET status = 'completed'")
        source.execute("BEGIN; SET LOCAL pgvigil.instrumentation = 'write'; UPDATE instrumentation.sql_statements SET status = 'success';"
                       " DELETE FROM instrumentation.sql_statements; UPDATE instrumentation.sessions SET status = 'closed'; COMMIT")  # fmt: skip
        replication.applied(source, name)
        assert counts(subscriber) == counts(source)
        assert counts(subscriber)["pgvigil.session_counters"] > 0
        assert subscriber.execute("SELECT DISTINCT status FROM sessions") == [("completed",)]
        assert subscriber.execute("SELECT DISTINCT status::text FROM instrumentation.sessions") == [("closed",)]


def test_a_truncate_of_the_application_works_with_a_publication(source: Database, subscriber: Database) -> None:
    with replication.subscription(source, subscriber, via_root=True) as name:
        source.execute("TRUNCATE context_history")
        replication.applied(source, name)
        assert subscriber.execute("SELECT count(*) FROM context_history") == [(0,)]


def test_every_table_of_ours_has_a_replica_identity(source: Database) -> None:
    lacking = """
        SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind IN ('r', 'p')
        AND c.relnamespace IN ('public'::regnamespace, 'pgvigil'::regnamespace, 'instrumentation'::regnamespace)
        AND (c.relreplident = 'n' OR c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary))
    """
    assert source.execute(lacking) == []


def test_rows_of_a_new_partition_come_without_a_word_to_the_subscriber(source: Database, subscriber: Database) -> None:
    with replication.subscription(source, subscriber, via_root=True) as name:
        source.execute(
            "CREATE TABLE logs_of_1970 PARTITION OF performance_logs FOR VALUES FROM ({}) TO ({})".format(*FIRST_IDS)
        )
        row = f"INSERT INTO performance_logs (id, operation, duration_ms, success) VALUES ({FIRST_IDS[0]}, 'late', 1, true)"
        source.execute(row)
        replication.applied(source, name)
        assert source.execute("SELECT count(*) FROM logs_of_1970") == [(1,)]
        assert subscriber.execute("SELECT count(*) FROM performance_logs WHERE operation = 'late'") == [(1,)]


def test_jobs_are_refused_where_rows_come_by_replication(call: Run, source: Database, subscriber: Database) -> None:
    with replication.subscription(source, subscriber, via_root=True) as name:
        before = counts(subscriber)
        done = call("pgvigil", "maintain", "run", "rollup", "--database-url", subscriber.url)
        assert done.returncode in (4, 10)
        assert "come by logical replication: jobs are done at the publisher" in done.stderr
        assert counts(subscriber) == before
        assert cli.main(["maintain", "run", "rollup", "--database-url", source.url]) == 0
        replication.applied(source, name)
        window = "SELECT operation, total_calls, p95_duration_ms FROM performance_monitoring_view ORDER BY 1"
        assert subscriber.execute(window) == source.execute(window)
    # A subscription brings no numbers of sequences.
    subscriber.execute("SELECT setval(pg_get_serial_sequence('pgvigil.job_runs', 'id'), max(id)) FROM pgvigil.job_runs")
    assert call("pgvigil", "maintain", "run", "rollup", "--database-url", subscriber.url).returncode == 0


def test_the_rollup_is_refused_where_only_the_logs_come_by_replication(
    call: Run, origin: Server, source: Database
) -> None:
    with (
        _new_database(origin, "template_fresh") as own,
        replication.subscription(source, own, via_root=False, what="TABLE performance_logs"),
    ):
        done = call("pgvigil", "maintain", "run", "rollup", "--database-url", own.url)
        assert "come by logical replication: jobs are done at the publisher" in done.stderr
        total = "SELECT sum(total_calls) FROM performance_monitoring_view"
        assert own.execute(total) == source.execute(total)


def test_the_application_can_be_switched_over_to_a_subscriber(source: Database, subscriber: Database) -> None:
    with replication.subscription(source, subscriber, via_root=True):
        pass
    row = "INSERT INTO context_history (session_id, sequence_number, context_type, content) SELECT id, {}, 'message', 'x' FROM sessions"
    for number in range(10, 40):
        subscriber.execute(row.format(number))
    unequal = "SELECT count(*) FROM sessions s, pgvigil.current_counters(s.id) k, pgvigil.count_context(s.id) c WHERE k.context_count <> c.context_count"
    assert subscriber.execute(unequal) == [(0,)]


@pytest.mark.slow
def test_a_publisher_is_migrated_after_its_subscriber_and_nothing_stops(call: Run, origin: Server) -> None:
    """The order is the one of docs/replication.md; a publisher that is migrated alone stops its subscriber, and its plan says so."""
    with _new_database(origin) as publisher, _new_database(origin) as subscriber:
        publisher.execute(EXISTING_INSTALL.read_text())
        replication.schema_only(publisher, subscriber)
        with replication.subscription(publisher, subscriber, via_root=True) as name:
            plan = call("pgvigil", "migrate", "--dry-run", "--database-url", publisher.url)
            assert f"these publications send tables that get columns: {name};" in plan.stderr
            for database in (subscriber, publisher):
                done = call("pgvigil", "migrate", "--backup", "none", "--database-url", database.url)
                assert done.returncode == 0, done.stderr
            assert "these publications" not in done.stdout
            publisher.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('new', 'a')")
            replication.applied(publisher, name)
            page = (PROJECT / "docs/replication.md").read_text()
            (script,) = re.findall(r"```sql\n(   BEGIN;.*?COMMIT;)", page, re.DOTALL)
            subscriber.execute(script)
            subscriber.execute(f"ALTER SUBSCRIPTION {name} REFRESH PUBLICATION")
            replication.synchronised(subscriber)
            assert call("pgvigil", "maintain", "run", "counters", "--database-url", publisher.url).returncode == 0
            replication.applied(publisher, name)
            assert counts(subscriber) == counts(publisher)
            assert subscriber.execute("SELECT count(*) FROM sessions WHERE session_key = 'new'") == [(1,)]
            assert call("pgvigil", "validate", "--database-url", subscriber.url).returncode == 0


def test_a_client_cannot_pass_for_a_worker(source: Database) -> None:
    with source.connect(options="-c application_name=logical -c session_replication_role=replica") as conn:
        for statement in (
            "INSERT INTO instrumentation.kill_attempts (ok, reason, actor) VALUES (true, 'x', 'x')",
            "TRUNCATE instrumentation.kill_attempts",
            "DELETE FROM instrumentation.sql_statements",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="read-only for client sessions"):
                conn.execute(statement.encode())


def test_a_subscription_of_a_plain_role_brings_the_rows_too(source: Database, subscriber: Database) -> None:
    """Up to 15 its owner has to be a superuser when it is made; afterwards it may be made a plain role."""
    role = f"r_{uuid.uuid4().hex[:8]}"
    subscriber.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
    try:
        with subscriber.connect() as conn:
            for (table,) in conn.execute(OURS).fetchall():
                conn.execute(f"ALTER TABLE {table} OWNER TO {role}".encode())
            conn.execute(f"GRANT ALL ON SCHEMA public, pgvigil, instrumentation TO {role}")
            conn.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public, pgvigil, instrumentation TO {role}")
            ours = "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace IN ('pgvigil'::regnamespace, 'instrumentation'::regnamespace)"
            for (routine,) in conn.execute(ours).fetchall():
                conn.execute(f"ALTER ROUTINE {routine} OWNER TO {role}".encode())
        with replication.subscription(source, subscriber, via_root=True, wait=False) as name:
            subscriber.execute(f"ALTER SUBSCRIPTION {name} OWNER TO {role}")
            if subscriber.server.major >= 16:
                subscriber.execute(f"ALTER SUBSCRIPTION {name} SET (password_required = false)")
                subscriber.execute(f"ALTER ROLE {role} NOSUPERUSER")
            replication.synchronised(subscriber)
            assert counts(subscriber) == counts(source)
            subscriber.execute(f"ALTER SUBSCRIPTION {name} OWNER TO postgres")
    finally:
        subscriber.execute(f"REASSIGN OWNED BY {role} TO postgres")
        subscriber.execute(f"DROP OWNED BY {role}")
        subscriber.execute(f"DROP ROLE {role}")


# --- a standby -------------------------------------------------------------------------------------------------------

READS = [
    ["validate"], ["status"], ["sessions", "list"], ["explain", "SELECT * FROM session_monitoring_view"],
    ["profile", "SELECT * FROM sessions"], ["sizes"], ["maintain", "status"], ["spec", "dump"],
]  # fmt: skip
WRITES = [
    ["validate", "--self-test"], ["sessions", "kill", "0190a0a0-0000-7000-8000-000000000000"],
    ["explain", "UPDATE sessions SET status = status"], ["profile", "INSERT INTO system_metrics DEFAULT VALUES"],
    ["maintain", "run-due"], ["maintain", "run", "rollup"], ["maintain", "run", "analyze"], ["maintain", "install", "--pg-cron"],
    ["migrate", "--backup", "none"], ["revert", "--to", "base", "--backup", "none"], ["setup"],
    ["backup", "create"], ["backup", "verify"],
]  # fmt: skip


@pytest.fixture(scope="module")
def follower(origin: Server) -> Iterator[Database]:
    """The new install on a standby."""
    with replication.standby(origin) as server:
        yield Database(server, "template_fresh")


@pytest.fixture
def backups(origin: Server, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a backup of the primary."""
    path = tmp_path_factory.mktemp("backups")
    monkeypatch.setenv("PGVIGIL_BACKUP_DIR", str(path))
    url = Database(origin, "template_fresh").url
    assert cli.main(["backup", "create", "--verify-backup", "read", "--database-url", url]) == 0
    return path


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_what_reads_works_on_a_standby(call: Run, follower: Database, words: list[str]) -> None:
    done = call("pgvigil", *words, "--database-url", follower.url)
    assert done.returncode == 0, done.stderr + done.stdout


def test_health_of_a_standby_is_told(call: Run, follower: Database) -> None:
    done = call("pgvigil", "health", "--json", "--database-url", follower.url)
    assert done.returncode in (0, 1)
    assert '"checks"' in done.stdout


@pytest.mark.parametrize("words", WRITES, ids=" ".join)
@pytest.mark.slow(first=3)
def test_what_writes_says_on_a_standby_that_it_cannot(
    call: Run, follower: Database, backups: Path, words: list[str]
) -> None:
    done = call("pgvigil", *words, "--database-url", follower.url)
    assert done.returncode in (3, 4), done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert any(words in errors[0] for words in ("standby", "can only be read", "read-only transaction")), done.stderr
    assert "Traceback" not in done.stderr
    assert list(backups.glob("*.dump"))


def test_a_query_that_the_replay_of_changes_cancels_ends_in_a_sentence(
    run: Run, origin: Server, follower: Database
) -> None:
    """The replay of a change of the primary needs the table that the query reads."""
    follower.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    follower.execute("SELECT pg_reload_conf()")
    with ThreadPoolExecutor(1) as pool:
        query = "SELECT count(*), pg_sleep(60) FROM sessions"
        asked = pool.submit(run, "pgvigil", "profile", query, "--database-url", follower.url)
        wait_until(lambda: follower.execute("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        Database(origin, "template_fresh").execute("DO $$ BEGIN LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE; END $$")
        done = asked.result()
    assert done.returncode == 2, done.stderr  # as for any statement that fails
    assert "hot_standby_feedback" in done.stderr


AFTER_PROMOTION = [
    ["validate", "--self-test"], ["status"], ["sessions", "list"], ["setup"], ["migrate", "--backup", "none"],
    ["maintain", "run-due"], ["maintain", "run", "expiry"], ["maintain", "run", "analyze"], ["backup", "create"],
]  # fmt: skip


@pytest.fixture(scope="module")
def promoted(origin: Server) -> Iterator[Database]:
    """The new install on a standby that took over while a session and a job of its primary were running."""
    before = Database(origin, "template_fresh")
    with before.connect() as application, before.connect() as worker:
        application.execute(
            "SELECT instrumentation.register_session(instrumentation.register_instance('host'))",
        )
        worker.execute("SELECT pgvigil.begin_job('expiry', false)")
        with replication.standby(origin) as server:
            after = Database(server, "template_fresh")
            assert after.execute("SELECT pg_promote()") == [(True,)]
            yield after


@pytest.mark.parametrize("words", AFTER_PROMOTION, ids=" ".join)
@pytest.mark.slow(first=3)
def test_a_promoted_standby_is_a_primary(
    call: Run, promoted: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("PGVIGIL_BACKUP_DIR", str(tmp_path))
    done = call("pgvigil", *words, "--database-url", promoted.url)
    assert done.returncode == 0, done.stderr + done.stdout


def test_backups_are_listed_without_a_server(call: Run, backups: Path) -> None:
    assert call("pgvigil", "backup", "list", "--backup-dir", backups).returncode == 0


# --- a newer major version -------------------------------------------------------------------------------------------


@pytest.mark.client_side
@pytest.mark.usefixtures("fresh")  # whose setup makes the roles, which a dump does not bring
def test_a_dump_restored_on_a_newer_server_is_valid(call: Run, database: Database) -> None:
    oldest = next(iter(servers()))
    with Server(servers()[oldest], tcp=True, in_memory=True) as server:
        older = Database(server, "postgres")
        assert cli.main(["setup", "--database-url", older.url]) == 0
        older.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('kept', 'a')")
        replication.copy(older, database)
    done = call("pgvigil", "validate", "--self-test", "--database-url", database.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert database.execute("SELECT session_key FROM sessions") == [("kept",)]
