"""pgvigil health and sizes: each fault that is put in is found, what is said to fix it does, and a sound database has none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from conftest import Connection, Database, Run, servers, wait_until
from pgvigil import project
from pgvigil.commands.sizes import text as sizes_text
from pgvigil.diagnostics import sizes
from pgvigil.embedded import Server
from pgvigil.validate.diff.reference import without_psql

pytestmark = pytest.mark.oldest_and_newest

SESSIONS = "INSERT INTO sessions (session_key, agent_from) SELECT n, 'x' FROM generate_series(1, 5) n;"
CONTEXT = "INSERT INTO context_history (session_id, sequence_number, context_type, content, tokens_used)"
PAST_TRIGGERS = "SET LOCAL session_replication_role = replica; {} SET LOCAL session_replication_role = origin;"
CHANGES = "INSERT INTO pgvigil.session_counter_changes SELECT id, {} FROM sessions;"
OF_DATABASE = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {}', current_database()); END $$"


@dataclass(frozen=True)
class Fault:
    name: str
    sql: str
    found: set[str]
    only_deep: bool = False
    fixed: bool = True  # what comes with the finding is SQL that fixes it, in a transaction too
    since: int = 0

    def __str__(self) -> str:
        return self.name


FAULTS = [
    Fault(
        "context of no session",
        PAST_TRIGGERS.format(CONTEXT + " VALUES (gen_random_uuid(), 1, 'message', '', NULL);"),
        {"warning orphaned_messages"},
    ),
    Fault(
        "ten hand-offs of no session",
        PAST_TRIGGERS.format(
            "INSERT INTO handoff_requests (session_id, requesting_agent) SELECT gen_random_uuid(), 'x' FROM generate_series(1, 10);"
        ),
        {"critical orphaned_messages"},
    ),
    Fault(
        "snapshot of no session",
        PAST_TRIGGERS.format(
            "INSERT INTO codebase_snapshots (session_id, file_path, content_hash) VALUES (gen_random_uuid(), '', '');"
        ),
        {"warning orphaned_messages"},
    ),
    Fault(
        "trails that a deletion past the triggers left",
        SESSIONS + PAST_TRIGGERS.format("DELETE FROM sessions;"),
        {"warning orphaned_messages"},
    ),
    Fault(
        "counters of a session that is gone",
        PAST_TRIGGERS.format("INSERT INTO pgvigil.session_counters VALUES (gen_random_uuid(), 1, 1, 1);"),
        {"warning orphaned_messages"},
    ),
    Fault(
        "context that was not counted",
        SESSIONS + PAST_TRIGGERS.format(CONTEXT + " SELECT id, 1, 'message', '', NULL FROM sessions;"),
        {"warning count_mismatches"},
    ),
    Fault(
        "counts that were lost",
        SESSIONS
        + CONTEXT
        + " SELECT id, 1, 'message', 'x', 1 FROM sessions; DELETE FROM pgvigil.session_counter_changes;",
        {"warning count_mismatches", "warning token_mismatches", "warning size_mismatches"},
    ),
    Fault("wrong tokens", SESSIONS + CHANGES.format("0, 7, 0"), {"warning token_mismatches"}),
    Fault("wrong sizes", SESSIONS + CHANGES.format("0, 0, -7"), {"warning size_mismatches"}),
    Fault(
        "index left invalid",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_sessions_archived_at'::regclass",
        {"warning invalid_indexes"},
    ),
    Fault(
        "publication of all tables by their partitions",
        'CREATE PUBLICATION "every""thing" FOR ALL TABLES',
        {"warning publications_by_partition"},
    ),
    Fault(
        "publication of one of our tables by its partitions",
        "CREATE PUBLICATION p FOR TABLE session_lifecycle, sessions",
        {"warning publications_by_partition"},
    ),
    Fault(
        "publication of a schema by its partitions",
        "CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA instrumentation",
        {"warning publications_by_partition"},
        since=15,
    ),
    Fault("publication by the root", "CREATE PUBLICATION p FOR ALL TABLES WITH (publish_via_partition_root)", set()),
    Fault("publication of the application's tables", "CREATE PUBLICATION p FOR TABLE sessions, context_history", set()),
    Fault("publication of one partition", "CREATE PUBLICATION p FOR TABLE performance_logs_default", set()),
    Fault(
        "collation of another version than its library",
        """DO $$ DECLARE of_column record; BEGIN
               SELECT oid, collname INTO STRICT of_column FROM pg_collation
               WHERE pg_collation_actual_version(oid) IS NOT NULL AND collencoding IN (-1, pg_char_to_encoding(getdatabaseencoding())) LIMIT 1;
               EXECUTE format('CREATE INDEX ON sessions (agent_from COLLATE %I)', of_column.collname);
               UPDATE pg_collation SET collversion = '0' WHERE oid = of_column.oid;
           END $$""",
        {"warning collation_mismatches"},
        fixed=False,
    ),
    Fault(
        "trigger disabled",
        "ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle",
        {"critical disabled_triggers"},
    ),
    Fault(
        "trigger that fires on replicas only",
        "ALTER TABLE context_history ENABLE REPLICA TRIGGER count_added_context",
        {"critical disabled_triggers"},
    ),
    Fault(
        "all triggers of a table disabled",
        "ALTER TABLE context_history DISABLE TRIGGER ALL",
        {"critical disabled_triggers", "critical foreign_keys_enabled"},
    ),
    Fault(
        "function with its owner's rights that everybody may call",
        "GRANT EXECUTE ON FUNCTION pgvigil.log_session_created() TO PUBLIC",
        {"critical executable_by_everybody"},
    ),
    Fault(
        "function with a superuser's rights",
        "DO $$ BEGIN EXECUTE format('ALTER FUNCTION pgvigil.log_session_created() OWNER TO %I', session_user); END $$",
        {"critical definers_of_superusers"},
    ),
    Fault(
        "collation of an earlier library",
        """CREATE TABLE sorted (word text COLLATE pg_c_utf8);
           UPDATE pg_collation SET collversion = 'earlier' WHERE collname = 'pg_c_utf8'""",
        {"warning collation_mismatches"},
        fixed=False,  # REINDEX DATABASE runs in no transaction
        since=17,
    ),
    Fault(
        "session without foreign keys",
        "SET LOCAL session_replication_role = replica",
        {"critical foreign_keys_enabled"},
        fixed=False,
    ),
    Fault(
        "database without foreign keys",
        OF_DATABASE.format("SET session_replication_role = replica"),
        {"critical foreign_keys_enabled", "warning session_replication_role"},
    ),
    Fault(
        "foreign key not enforced",
        "ALTER TABLE codebase_snapshots ALTER CONSTRAINT codebase_snapshots_session_id_fkey NOT ENFORCED",
        {"critical foreign_keys_enabled"},
        since=18,
    ),
    Fault(
        "job overdue",
        "UPDATE pgvigil.jobs SET since = now() - interval '3 hours' WHERE job = 'expiry'",
        {"warning overdue_jobs"},
        fixed=False,
    ),
    Fault(
        "job failed",
        "INSERT INTO pgvigil.job_runs (job, finished_at, error) VALUES ('expiry', now(), 'no')",
        {"warning failed_jobs"},
        fixed=False,
    ),
    Fault(
        "job whose process died",
        "INSERT INTO pgvigil.job_runs (job) VALUES ('expiry')",
        {"warning failed_jobs"},
        fixed=False,
    ),
    Fault(
        "rows without a partition",
        "INSERT INTO system_metrics (id, metric_name, metric_value, metric_type)"
        " SELECT gen_random_uuid(), 'm', n, 'gauge' FROM generate_series(1, 1100) n",
        {"warning waiting_rows"},
        fixed=False,
    ),
    Fault(
        "operations that take long",
        "INSERT INTO pgvigil.performance_rollups VALUES ('minute', now(), 'o', 10, 10, 9990, 999, 999, 0)",
        {"warning avg_query_time_ms"},
        fixed=False,
    ),
    Fault(
        "connections running out",
        OF_DATABASE.format("CONNECTION LIMIT 1"),
        {"critical connection_pool_exhaustion"},
        fixed=False,
    ),
    Fault(
        "database larger than planned",
        "UPDATE pgvigil.alert_thresholds SET warning = 1 WHERE check_name = 'database_size_mb'",
        {"warning database_size_mb"},
        fixed=False,
    ),
    Fault(
        "transaction ids running out",
        "UPDATE pgvigil.alert_thresholds SET warning = 1, critical = 2 WHERE check_name = 'transaction_id_age'",
        {"critical transaction_id_age"},
        fixed=False,
    ),
    Fault(
        "index that lacks rows",
        """CREATE EXTENSION amcheck;
           CREATE FUNCTION pgvigil.key(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1; END';
           CREATE INDEX broken ON pgvigil.retention_policies (pgvigil.key(policy::text));
           CREATE OR REPLACE FUNCTION pgvigil.key(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN reverse($1); END'""",
        {"critical database_integrity"},
        only_deep=True,
    ),
    Fault(
        "table with rows from before its horizon",
        """CREATE EXTENSION amcheck;
           UPDATE pg_class SET relfrozenxid = pg_current_xact_id()::xid WHERE oid = 'pgvigil.retention_policies'::regclass""",
        {"critical database_integrity"},
        only_deep=True,
        fixed=False,
    ),
    Fault(
        "constraint never validated",
        "ALTER TABLE sessions ADD CONSTRAINT ours CHECK (agent_from <> '') NOT VALID",
        {"warning unvalidated constraint"},
    ),
    Fault(
        "database that does not wait for its commits",
        OF_DATABASE.format("SET synchronous_commit = off"),
        {"warning synchronous_commit"},
    ),
]


def findings(conn: Connection, *, deep: bool = False) -> dict[str, str]:
    """Return the findings with their fix, by level and name, without those about the test server's own settings."""
    rows = conn.execute(
        "SELECT level, check_name, fix FROM pgvigil.integrity_report(%s) WHERE level <> 'ok'"
        " UNION ALL SELECT level, setting, fix FROM pgvigil.settings_report()"
        " WHERE level NOT IN ('ok', 'advice') AND value NOT IN ('off', '64 MB')",
        [deep],
    ).fetchall()
    return {f"{level} {name}": fix for level, name, fix in rows}


@pytest.fixture
def undone(shared: Database) -> Iterator[Connection]:
    """A transaction in `shared`, rolled back in the end."""
    with shared.connect(autocommit=False, prepare_threshold=None) as connection:
        connection.execute("UPDATE pgvigil.jobs SET since = now()")  # they never ran, and the tests may take a while
        yield connection
        connection.rollback()


@pytest.mark.parametrize("deep", [False, True], ids=["cheap", "deep"])
def test_a_sound_database_has_no_finding(undone: Connection, deep: bool) -> None:
    assert findings(undone, deep=deep) == {}


@pytest.mark.parametrize("case", FAULTS, ids=str)
def test_a_fault_is_found_under_its_name_and_nothing_beside_it_and_mended(undone: Connection, case: Fault) -> None:
    undone.execute(case.sql)
    assert set(findings(undone)) == (set() if case.only_deep else case.found)
    found = findings(undone, deep=True)
    assert set(found) == case.found
    if case.fixed:
        for fix in found.values():
            undone.execute(fix.replace(" CONCURRENTLY", ""))
        assert findings(undone, deep=True) == {}


def test_a_report_of_another_state_of_pgvigil_is_said_to_be_one(fresh: Database, call: Run) -> None:
    with fresh.connect() as conn:
        conn.execute("SET ROLE pgvigil_owner")
        conn.execute("DROP FUNCTION pgvigil.settings_report()")
        conn.execute(
            """CREATE FUNCTION pgvigil.settings_report() RETURNS TABLE (setting text, mend text)
               LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT 'x', 'y' $$"""
        )
        conn.execute("RESET ROLE; CREATE ROLE h_reader LOGIN IN ROLE pgvigil_reader")
        conn.execute("GRANT EXECUTE ON FUNCTION pgvigil.settings_report() TO pgvigil_reader")
    try:
        done = call("pgvigil", "health", "--database-url", fresh.url.replace("postgres@", "h_reader@"))
        assert (done.returncode, "another state of pgvigil" in done.stderr) == (4, True), done.stderr
    finally:
        fresh.execute("DROP ROLE h_reader")


def test_dead_rows_that_nobody_removes_are_found(fresh: Database) -> None:
    fresh.execute("ALTER TABLE pgvigil.tolerated_values SET (autovacuum_enabled = off)")
    fresh.execute("INSERT INTO pgvigil.tolerated_values SELECT n, '', '', 0 FROM generate_series(1, 20000) n")
    fresh.execute("DELETE FROM pgvigil.tolerated_values")
    query = "SELECT level, fix FROM pgvigil.integrity_report() WHERE check_name = 'dead_rows_percent'"
    wait_until(lambda: fresh.execute(query)[0][0] == "critical")
    assert fresh.execute(query)[0][1] == "VACUUM (ANALYZE) pgvigil.tolerated_values;"


@pytest.mark.client_side
def test_a_page_that_fails_its_checksum_is_found(fresh: Database) -> None:
    if fresh.execute("SHOW data_checksums") == [("off",)]:
        pytest.skip("this server keeps no checksums")
    copy = Database(fresh.server, f"{fresh.name}_damaged")
    Database(fresh.server, "postgres").execute(f"CREATE DATABASE {copy.name} TEMPLATE {fresh.name} STRATEGY file_copy")
    try:
        [[path]] = copy.execute("SELECT pg_relation_filepath('pgvigil.legal_holds_pkey')")
        with (fresh.server.data / path).open("r+b") as file:  # no page of it is in memory yet
            file.seek(4000)
            file.write(b"damaged!")
        with pytest.raises(psycopg.errors.DataCorrupted):
            copy.execute(
                "SET enable_seqscan = off; SELECT * FROM pgvigil.legal_holds WHERE session_id = gen_random_uuid()"
            )
        query = "SELECT level FROM pgvigil.integrity_report() WHERE check_name = 'database_integrity'"
        assert copy.execute(query) == [("critical",)]
    finally:
        Database(fresh.server, "postgres").execute(f"DROP DATABASE {copy.name} WITH (FORCE)")


def test_a_sample_stands_for_what_was_not_looked_at(undone: Connection) -> None:
    """Half of the sessions are wrong, and only 100 of 60,000 are looked at."""
    undone.execute(PAST_TRIGGERS.format(SESSIONS.replace("5", "60000")))
    undone.execute("ANALYZE sessions")
    undone.execute(CHANGES.format("0, 1, 0").replace(";", " WHERE session_key::integer % 2 = 0"))
    query = "SELECT value FROM pgvigil.check_counters(%s) WHERE check_name = 'token_mismatches'"
    assert 15000 < undone.execute(query, [False]).fetchall()[0][0] < 45000
    assert undone.execute(query, [True]).fetchall() == [(30000,)]


def test_orphans_in_a_sample_stand_for_those_that_were_not_looked_at(undone: Connection) -> None:
    """Half of 20,000 hand-offs are orphans, in 18 MB, and 250 are looked up."""
    handed = (
        "INSERT INTO handoff_requests (session_id, requesting_agent, request_data) SELECT CASE n % 2 WHEN 1 THEN id ELSE gen_random_uuid() END,"
        " 'x', to_jsonb(repeat('x', 800)) FROM (SELECT id FROM sessions LIMIT 1) s, generate_series(1, 20000) n;"
    )
    undone.execute(PAST_TRIGGERS.format(SESSIONS + handed))
    query = "SELECT value FROM pgvigil.check_orphans(%s)"
    assert 3500 < undone.execute(query, [False]).fetchall()[0][0] < 20000
    assert undone.execute(query, [True]).fetchall() == [(10000,)]


# ── Settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SOUND = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "shared_buffers": "128MB"}
TIMEOUTS = {"lock_timeout": "1min", "statement_timeout": "1h", "idle_in_transaction_session_timeout": "1h"}
SLOPPY = {"wal_level": "minimal", "max_wal_senders": "0", "autovacuum": "off", "work_mem": "64kB"}


@pytest.mark.client_side
@pytest.mark.parametrize(
    ("settings", "code", "found"),
    [
        (SOUND | TIMEOUTS, 0, set()),
        (
            SLOPPY,
            1,
            {
                "critical fsync", "critical full_page_writes", "warning synchronous_commit", "warning shared_buffers",
                "warning wal_level", "warning autovacuum", "warning work_mem", "advice lock_timeout",
                "advice statement_timeout", "advice idle_in_transaction_session_timeout",
            },
        ),
    ],
    ids=["sound", "sloppy"],
)  # fmt: skip
def test_settings_that_endanger_data_are_found_with_a_better_value_and_the_reason(
    call: Run, settings: dict[str, str], code: int, found: set[str]
) -> None:
    with Server(servers()[max(servers())], settings=settings) as server:
        with psycopg.connect(server.dsn()) as conn:
            conn.execute(without_psql(project.INIT_SQL.read_text()))
        done = call("pgvigil", "health", "--json", "--database-url", server.dsn())
    told = [one for one in json.loads(done.stdout)["settings"] if one["level"] != "ok"]
    assert {f"{one['level']} {one['setting']}" for one in told} - {"advice data_checksums"} == found
    assert all(one["recommended"] and one["reason"] and one["fix"] for one in told)
    assert done.returncode == code


# ── The commands ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.client_side
def test_a_report_for_people_says_what_is_wrong_what_it_means_and_what_mends_it(call: Run, fresh: Database) -> None:
    fresh.execute("ALTER TABLE sessions DISABLE TRIGGER set_default_expiry")
    done = call("pgvigil", "health", "--deep", "--database-url", fresh.url)
    assert done.returncode == 1, done.stderr
    assert (
        "critical  disabled_triggers 1 (critical from 1 on)\n"
        "          triggers of pgvigil that do not fire\n"
        "          found: set_default_expiry on public.sessions\n"
        "          fix: ALTER TABLE public.sessions ENABLE TRIGGER set_default_expiry;\n"
    ) in done.stdout


@pytest.mark.client_side
def test_repair_puts_counters_right_and_tells_which(call: Run, fresh: Database) -> None:
    fresh.execute(SESSIONS)
    fresh.execute(CHANGES.format("0, 7, 0"))
    done = call("pgvigil", "health", "--json", "--database-url", fresh.url)
    assert json.loads(done.stdout)["checks"]["token_mismatches"]["value"] == 5
    repaired = call("pgvigil", "health", "--repair", "--json", "--database-url", fresh.url)
    told = json.loads(repaired.stdout)
    assert {(one["total_tokens_was"], one["total_tokens"]) for one in told["repaired"]} == {(7, 0)}
    assert (len(told["repaired"]), told["checks"]["token_mismatches"]["value"]) == (5, 0)
    again = call("pgvigil", "health", "--repair", "--database-url", fresh.url)
    assert "repaired  nothing: the counters of all sessions were right" in again.stdout


@pytest.mark.client_side
def test_health_of_a_database_that_cannot_be_reached_is_3(call: Run) -> None:
    assert call("pgvigil", "health", "--database-url", "postgresql://nobody@127.0.0.1:1/none").returncode == 3


@pytest.mark.client_side
def test_health_of_a_database_that_is_not_migrated_is_4_with_what_to_type(call: Run, database: Database) -> None:
    done = call("pgvigil", "health", "--database-url", database.url)
    assert (done.returncode, "pgvigil migrate" in done.stderr) == (4, True)


def test_sizes_count_partitions_with_their_table(call: Run, fresh: Database) -> None:
    fresh.execute(
        "INSERT INTO system_metrics (metric_name, metric_value, metric_type) SELECT 'm', n, 'gauge' FROM generate_series(1, 1000) n"
    )
    fresh.execute("ANALYZE system_metrics")
    done = call("pgvigil", "sizes", "--json", "--database-url", fresh.url)
    told = json.loads(done.stdout)
    tables = {table["table"]: table for table in told["tables"]}
    [[rows]] = fresh.execute("SELECT count(*) FROM system_metrics")
    [[heap]] = fresh.execute(
        "SELECT sum(pg_table_size(inhrelid) - pg_total_relation_size(reltoastrelid)) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'system_metrics'::regclass"
    )
    assert (tables["public.system_metrics"]["rows"], tables["public.system_metrics"]["heap_bytes"]) == (rows, heap)
    assert not [name for name in tables if "_p2" in name or name.endswith("_default")]
    parts = sum(table[part] for table in told["tables"] for part in ("heap_bytes", "index_bytes", "toast_bytes"))
    assert 0 < parts / 2**20 < told["total_size_mb"]


@pytest.mark.client_side
def test_sizes_for_people_begin_with_the_largest_table(call: Run, fresh: Database) -> None:
    done = call("pgvigil", "sizes", "--database-url", fresh.url)
    assert done.stdout.splitlines()[3].startswith("public.performance_logs ")


@pytest.mark.client_side
def test_sizes_on_a_terminal_are_drawn_as_parts_of_the_largest() -> None:
    tables = (sizes.Table("public.a", 0, 3 << 20, 1 << 20, 0, 10, 1), sizes.Table("public.b", 2, 2 << 20, 0, 0, 20, 0))
    told = sizes_text(sizes.Sizes(9.5, tables), bars=True).splitlines()
    assert [line.count("█") for line in told] == [0, 0, 0, 24, 12]
    assert told[3].split()[:-1] == ["public.a", "3.0", "1.0", "0.0", "10", "1"]
