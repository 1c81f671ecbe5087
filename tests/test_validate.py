"""Each single defect is found under the right name, and what is harmless is let pass."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgvigil import embedded, project
from pgvigil.errors import LockedError, PreconditionError
from pgvigil.validate import (
    Finding,
    Report,
    Spec,
    catalog,
    check_application_tables,
    load_spec,
    render,
    self_test,
    validate,
)

SPEC = load_spec(project.SPEC)
TODAY = datetime.now(UTC)
MONTH = f"session_lifecycle_p{TODAY:%Y%m}"
DAY = f"performance_logs_p{TODAY:%Y%m%d}"


def look(database: Any, **options: Any) -> Report:
    with database.connect(**options) as conn:
        return validate(conn, SPEC, "public")


def named(findings: tuple[Finding, ...] | list[Finding]) -> list[tuple[str, str]]:
    return sorted((finding.kind, finding.object) for finding in findings)


def test_clean_install_has_neither_findings_nor_notes(fresh: Any) -> None:
    report = look(fresh)
    assert named(report.findings) == []
    assert named(report.notes) == []
    assert report.ok
    assert report.exit_code == 0


def test_migrated_install_is_valid_and_the_application_s_own_is_told(migrated: Any) -> None:
    report = look(migrated)
    assert named(report.findings) == []
    assert ("unexpected", "index sessions.app_sessions_agent") in named(report.notes)
    (tolerated,) = [note for note in report.notes if note.object == "constraint sessions.sessions_status_check"]
    assert tolerated.found == "also allows 'Archived', 'in-progress': pgvigil.tolerated_values"


# One defect each: what is done, and the one finding that names it.
DEFECTS: list[tuple[str, str, str]] = [
    # tables
    ("DROP TABLE analytics_aggregations", "missing", "table analytics_aggregations"),
    ("DROP TABLE performance_logs CASCADE", "missing", "table performance_logs"),
    ("DROP TABLE pgvigil.leftovers CASCADE", "missing", "table pgvigil.leftovers"),
    ("ALTER TABLE analytics_aggregations SET UNLOGGED", "different", "table analytics_aggregations"),
    ("ALTER TABLE sessions RESET (fillfactor)", "different", "table sessions"),
    ("ALTER TABLE system_metrics ENABLE ROW LEVEL SECURITY", "unexpected", "row security of system_metrics"),
    ("CREATE POLICY p ON performance_logs USING (true)", "unexpected", "policy performance_logs.p"),
    (
        "CREATE RULE r AS ON DELETE TO analytics_aggregations DO INSTEAD NOTHING",
        "unexpected",
        "rule analytics_aggregations.r",
    ),
    ("CREATE TABLE pgvigil.extra (id integer)", "unexpected", "table pgvigil.extra"),
    ("CREATE SEQUENCE pgvigil.extra", "unexpected", "sequence pgvigil.extra"),
    ("COMMENT ON TABLE system_metrics IS NULL", "missing", "comment on table system_metrics"),
    ("COMMENT ON SCHEMA pgvigil IS NULL", "missing", "comment on schema pgvigil"),
    # columns
    ("ALTER TABLE performance_logs DROP COLUMN metadata", "missing", "column performance_logs.metadata"),
    ("ALTER TABLE context_history DROP COLUMN tokens_used", "missing", "column context_history.tokens_used"),
    (
        "ALTER TABLE context_history DROP COLUMN processing_time_ms",
        "missing",
        "column context_history.processing_time_ms",
    ),
    (
        "ALTER TABLE context_history ALTER processing_time_ms TYPE bigint",
        "different",
        "column context_history.processing_time_ms",
    ),
    (
        "ALTER TABLE analytics_aggregations ALTER aggregation_type TYPE varchar(60)",
        "different",
        "column analytics_aggregations.aggregation_type",
    ),
    ("ALTER TABLE context_history ALTER content TYPE varchar(1000)", "different", "column context_history.content"),
    (
        "ALTER TABLE system_metrics ALTER metric_value TYPE numeric(12,2)",
        "different",
        "column system_metrics.metric_value",
    ),
    ("ALTER TABLE sessions ALTER is_dormant DROP NOT NULL", "different", "column sessions.is_dormant"),
    ("ALTER TABLE performance_logs ALTER success DROP NOT NULL", "different", "column performance_logs.success"),
    ("ALTER TABLE sessions ALTER agent_to SET NOT NULL", "different", "column sessions.agent_to"),
    ("ALTER TABLE sessions ALTER is_dormant SET DEFAULT true", "different", "column sessions.is_dormant"),
    ("ALTER TABLE sessions ALTER last_activity_at DROP DEFAULT", "different", "column sessions.last_activity_at"),
    ("ALTER TABLE sessions ALTER archived_at SET DEFAULT now()", "different", "column sessions.archived_at"),
    (
        "ALTER TABLE session_lifecycle ALTER created_at SET DEFAULT now()",
        "different",
        "column session_lifecycle.created_at",
    ),
    ("ALTER TABLE system_metrics ALTER id SET DEFAULT gen_random_uuid()", "different", "column system_metrics.id"),
    ("ALTER TABLE pgvigil.found_before ALTER id DROP IDENTITY", "different", "column pgvigil.found_before.id"),
    (
        "ALTER TABLE pgvigil.found_before ALTER id SET GENERATED BY DEFAULT",
        "different",
        "column pgvigil.found_before.id",
    ),
    (
        'ALTER TABLE system_metrics ALTER metric_name TYPE varchar(100) COLLATE "C"',
        "different",
        "column system_metrics.metric_name",
    ),
    ("ALTER TABLE system_metrics ADD COLUMN extra text", "unexpected", "column system_metrics.extra"),
    ("ALTER TABLE pgvigil.migrations ADD COLUMN extra text", "unexpected", "column pgvigil.migrations.extra"),
    ("COMMENT ON COLUMN sessions.is_dormant IS NULL", "missing", "comment on column sessions.is_dormant"),
    # constraints
    (
        "ALTER TABLE performance_logs DROP CONSTRAINT performance_logs_duration_ms_check",
        "missing",
        "constraint performance_logs.performance_logs_duration_ms_check",
    ),
    (
        "ALTER TABLE sessions DROP CONSTRAINT sessions_status_check",
        "missing",
        "constraint sessions.sessions_status_check",
    ),
    (
        "ALTER TABLE sessions DROP CONSTRAINT sessions_session_key_key",
        "missing",
        "constraint sessions.sessions_session_key_key",
    ),
    (
        "ALTER TABLE session_lifecycle DROP CONSTRAINT session_lifecycle_session_id_fkey",
        "missing",
        "constraint session_lifecycle.session_lifecycle_session_id_fkey",
    ),
    ("ALTER TABLE sessions DROP CONSTRAINT sessions_pkey CASCADE", "missing", "constraint sessions.sessions_pkey"),
    (
        "ALTER TABLE performance_logs DROP CONSTRAINT performance_logs_duration_ms_check,"
        " ADD CONSTRAINT performance_logs_duration_ms_check CHECK (duration_ms > 0)",
        "different",
        "constraint performance_logs.performance_logs_duration_ms_check",
    ),
    (
        "ALTER TABLE sessions DROP CONSTRAINT sessions_status_check, ADD CONSTRAINT sessions_status_check"
        " CHECK (status::text = ANY ('{active,pending,completed,expired,cancelled,archived,odd}'::text[]))",
        "different",
        "constraint sessions.sessions_status_check",
    ),
    (
        "ALTER TABLE system_metrics DROP CONSTRAINT system_metrics_labels_check,"
        " ADD CONSTRAINT system_metrics_labels_check CHECK (jsonb_typeof(labels) = 'object') NOT VALID",
        "invalid",
        "constraint system_metrics.system_metrics_labels_check",
    ),
    (
        "ALTER TABLE context_history DROP CONSTRAINT context_history_session_id_fkey, ADD CONSTRAINT"
        " context_history_session_id_fkey FOREIGN KEY (session_id) REFERENCES sessions (id)",
        "different",
        "constraint context_history.context_history_session_id_fkey",
    ),
    (
        "ALTER TABLE session_lifecycle DROP CONSTRAINT session_lifecycle_session_id_fkey, ADD CONSTRAINT"
        " session_lifecycle_session_id_fkey FOREIGN KEY (session_id) REFERENCES sessions (id) ON DELETE RESTRICT",
        "different",
        "constraint session_lifecycle.session_lifecycle_session_id_fkey",
    ),
    (
        "ALTER TABLE context_history ALTER CONSTRAINT context_history_session_id_fkey DEFERRABLE INITIALLY DEFERRED",
        "different",
        "constraint context_history.context_history_session_id_fkey",
    ),
    (
        "ALTER TABLE handoff_requests DISABLE TRIGGER ALL;"
        " ALTER TABLE handoff_requests ENABLE TRIGGER guard_archived_session",
        "disabled",
        "constraint handoff_requests.handoff_requests_session_id_fkey",
    ),
    (
        "ALTER TABLE analytics_aggregations DROP CONSTRAINT idx_analytics_aggregations_type_time_bucket,"
        " ADD CONSTRAINT idx_analytics_aggregations_type_time_bucket UNIQUE (aggregation_type)",
        "different",
        "constraint analytics_aggregations.idx_analytics_aggregations_type_time_bucket",
    ),
    (
        "ALTER TABLE performance_logs ADD CONSTRAINT extra CHECK (operation <> '')",
        "unexpected",
        "constraint performance_logs.extra",
    ),
    (
        "ALTER TABLE performance_logs ADD CONSTRAINT extra FOREIGN KEY (session_id) REFERENCES sessions (id)",
        "unexpected",
        "constraint performance_logs.extra",
    ),
    # indexes
    ("DROP INDEX idx_sessions_last_activity_at", "missing", "index sessions.idx_sessions_last_activity_at"),
    ("DROP INDEX idx_performance_logs_operation", "missing", "index performance_logs.idx_performance_logs_operation"),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_sessions_is_dormant'::regclass",
        "invalid",
        "index sessions.idx_sessions_is_dormant",
    ),
    (
        "UPDATE pg_index SET indisready = false WHERE indexrelid = 'idx_context_history_content_size'::regclass",
        "invalid",
        "index context_history.idx_context_history_content_size",
    ),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'sessions_session_key_key'::regclass",
        "invalid",
        "constraint sessions.sessions_session_key_key",
    ),
    (
        "DROP INDEX idx_sessions_is_dormant; CREATE INDEX idx_sessions_is_dormant ON sessions (is_dormant)",
        "different",
        "index sessions.idx_sessions_is_dormant",
    ),
    (
        "DROP INDEX idx_system_metrics_labels; CREATE INDEX idx_system_metrics_labels ON system_metrics USING gin (labels)",
        "different",
        "index system_metrics.idx_system_metrics_labels",
    ),
    (
        "DROP INDEX idx_session_lifecycle_session_id; CREATE INDEX idx_session_lifecycle_session_id ON session_lifecycle"
        " (session_id, id) INCLUDE (event_type)",
        "different",
        "index session_lifecycle.idx_session_lifecycle_session_id",
    ),
    (
        "DROP INDEX idx_session_lifecycle_session_id; CREATE INDEX idx_session_lifecycle_session_id ON session_lifecycle"
        " (session_id, id DESC)",
        "different",
        "index session_lifecycle.idx_session_lifecycle_session_id",
    ),
    (
        "DROP INDEX idx_performance_logs_created_at; CREATE INDEX idx_performance_logs_created_at ON performance_logs"
        " (created_at)",
        "different",
        "index performance_logs.idx_performance_logs_created_at",
    ),
    (
        "DROP INDEX idx_sessions_status_last_activity; CREATE UNIQUE INDEX idx_sessions_status_last_activity ON sessions"
        " (status, last_activity_at)",
        "different",
        "index sessions.idx_sessions_status_last_activity",
    ),
    ("CREATE INDEX extra ON system_metrics (metric_value)", "unexpected", "index system_metrics.extra"),
    (f"CREATE INDEX extra ON {MONTH} (created_at)", "unexpected", f"index {MONTH}.extra"),
    # triggers
    ("DROP TRIGGER log_session_lifecycle ON sessions", "missing", "trigger sessions.log_session_lifecycle"),
    (
        "ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle",
        "disabled",
        "trigger sessions.log_session_lifecycle",
    ),
    (
        "ALTER TABLE sessions ENABLE REPLICA TRIGGER update_sessions_updated_at",
        "disabled",
        "trigger sessions.update_sessions_updated_at",
    ),
    (
        "ALTER TABLE codebase_snapshots ENABLE ALWAYS TRIGGER guard_archived_session",
        "different",
        "trigger codebase_snapshots.guard_archived_session",
    ),
    (
        "CREATE OR REPLACE TRIGGER log_session_lifecycle AFTER UPDATE OF status ON sessions"
        " FOR EACH ROW EXECUTE FUNCTION pgvigil.log_session_change()",
        "different",
        "trigger sessions.log_session_lifecycle",
    ),
    (
        "CREATE OR REPLACE TRIGGER update_sessions_updated_at BEFORE UPDATE ON sessions"
        " FOR EACH ROW WHEN (OLD.status <> 'x') EXECUTE FUNCTION pgvigil.touch_session()",
        "different",
        "trigger sessions.update_sessions_updated_at",
    ),
    (
        "CREATE OR REPLACE TRIGGER update_sessions_updated_at BEFORE UPDATE ON sessions"
        " FOR EACH ROW EXECUTE FUNCTION pgvigil.keep_activity_step()",
        "different",
        "trigger sessions.update_sessions_updated_at",
    ),
    (
        "CREATE OR REPLACE TRIGGER guard_archived_session BEFORE INSERT OR UPDATE ON handoff_requests"
        " FOR EACH ROW EXECUTE FUNCTION pgvigil.guard_archived_session()",
        "different",
        "trigger handoff_requests.guard_archived_session",
    ),
    (
        "CREATE TRIGGER extra BEFORE INSERT ON analytics_aggregations"
        " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "unexpected",
        "trigger analytics_aggregations.extra",
    ),
    (
        "CREATE TRIGGER extra BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION pgvigil.keep_activity_step()",
        "unexpected",
        "trigger sessions.extra",
    ),
    (
        f"CREATE TRIGGER extra BEFORE UPDATE ON {DAY}"
        " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "unexpected",
        f"trigger {DAY}.extra",
    ),
    (
        "COMMENT ON TRIGGER keep_deleted_session ON sessions IS NULL",
        "missing",
        "comment on trigger sessions.keep_deleted_session",
    ),
    # functions
    ("DROP FUNCTION pgvigil.reactivate_session(uuid)", "missing", "function pgvigil.reactivate_session(uuid)"),
    ("DROP FUNCTION pgvigil.log_session_change() CASCADE", "missing", "function pgvigil.log_session_change()"),
    (
        "ALTER FUNCTION pgvigil.log_session_change() SECURITY INVOKER",
        "different",
        "function pgvigil.log_session_change()",
    ),
    (
        "ALTER FUNCTION pgvigil.guard_archived_session() RESET search_path",
        "different",
        "function pgvigil.guard_archived_session()",
    ),
    (
        "ALTER FUNCTION pgvigil.keep_deleted_session() SET search_path = tap, pg_temp",
        "different",
        "function pgvigil.keep_deleted_session()",
    ),
    ("ALTER FUNCTION pgvigil.actor() VOLATILE", "different", "function pgvigil.actor()"),
    ("ALTER FUNCTION pgvigil.uuid_v7() PARALLEL UNSAFE", "different", "function pgvigil.uuid_v7()"),
    (
        "ALTER FUNCTION pgvigil.uuid_v7_floor(timestamptz) STRICT",
        "different",
        "function pgvigil.uuid_v7_floor(timestamp with time zone)",
    ),
    ("ALTER FUNCTION pgvigil.touch_session() SET work_mem = '1GB'", "different", "function pgvigil.touch_session()"),
    (
        "CREATE OR REPLACE PROCEDURE pgvigil.settle_dormancy(batch integer DEFAULT 10) LANGUAGE plpgsql AS 'BEGIN END'",
        "different",
        "procedure pgvigil.settle_dormancy(integer)",
    ),
    (
        "CREATE FUNCTION pgvigil.extra() RETURNS integer LANGUAGE sql RETURN 1",
        "unexpected",
        "function pgvigil.extra()",
    ),
    ("COMMENT ON FUNCTION pgvigil.actor() IS NULL", "missing", "comment on function pgvigil.actor()"),
    # views
    ("DROP VIEW performance_monitoring_view", "missing", "view performance_monitoring_view"),
    (
        "CREATE OR REPLACE VIEW performance_monitoring_view AS SELECT ''::varchar(100) AS operation,"
        " 0::bigint AS total_calls, 0.0 AS avg_duration_ms, 0 AS min_duration_ms, 0 AS max_duration_ms,"
        " 0::float8 AS p95_duration_ms, 0::bigint AS successful_calls, 0::bigint AS failed_calls,"
        " 0.0 AS success_rate_percent",
        "different",
        "view performance_monitoring_view",
    ),
    ("COMMENT ON VIEW session_monitoring_view IS NULL", "missing", "comment on view session_monitoring_view"),
    # partitions and rows
    (f"ALTER TABLE session_lifecycle DETACH PARTITION {MONTH}", "different", f"partition {MONTH}"),
    (f"DROP TABLE {DAY}", "missing", f"partition of performance_logs for {TODAY:%Y-%m-%d}"),
    ("DROP TABLE system_metrics_default", "missing", "partition system_metrics_default"),
    (f"ALTER TABLE {MONTH} RENAME TO my_month", "different", "partition my_month"),
    (f"ALTER TABLE {MONTH} SET UNLOGGED", "different", f"partition {MONTH}"),
    (
        "CREATE TABLE system_metrics_p209901 PARTITION OF system_metrics FOR VALUES FROM"
        " (pgvigil.uuid_v7_floor('2099-01-01 00:00+00')) TO (pgvigil.uuid_v7_floor('2099-01-15 00:00+00'))",
        "different",
        "partition system_metrics_p209901",
    ),
    (
        "DELETE FROM pgvigil.partition_policies WHERE parent_table = 'performance_logs'",
        "missing",
        "row pgvigil.partition_policies (parent_table = performance_logs)",
    ),
]


def test_single_defect_is_one_finding_under_its_name(fresh: Any, subtests: pytest.Subtests) -> None:
    with fresh.connect(autocommit=False) as conn:
        for statement, kind, path in DEFECTS:
            with subtests.test(statement=statement):
                conn.execute(statement)
                report = validate(conn, SPEC, "public")
                assert named(report.findings) == [(kind, path)]
                assert report.exit_code == 1
            conn.rollback()


def test_view_that_reads_with_its_owner_s_rights_is_found(fresh: Any) -> None:
    with fresh.connect() as conn:
        if conn.info.server_version < 150000:
            conn.execute("COMMENT ON VIEW session_monitoring_view IS 'PostgreSQL 14 has no security_invoker'")
            assert validate(conn, SPEC, "public").ok
            return
        conn.execute("ALTER VIEW session_monitoring_view RESET (security_invoker)")
        assert named(validate(conn, SPEC, "public").findings) == [("different", "view session_monitoring_view")]


def test_renamed_view_column_is_missing_and_unexpected(fresh: Any) -> None:
    fresh.execute("ALTER VIEW session_monitoring_view RENAME COLUMN hours_since_activity TO hours_idle")
    assert named(look(fresh).findings) == [
        ("missing", "column session_monitoring_view.hours_since_activity"),
        ("unexpected", "column session_monitoring_view.hours_idle"),
    ]


def test_interrupted_concurrent_build_leaves_an_invalid_index_that_is_found(fresh: Any) -> None:
    with fresh.connect() as writer, fresh.connect() as builder:
        fresh.execute("DROP INDEX idx_sessions_last_activity_at")
        writer.execute("BEGIN")
        writer.execute("SELECT 1")
        writer.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('in the way', 'a')")
        builder.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            builder.execute("CREATE INDEX CONCURRENTLY idx_sessions_last_activity_at ON sessions (last_activity_at)")
        writer.execute("ROLLBACK")
    assert named(look(fresh).findings) == [("invalid", "index sessions.idx_sessions_last_activity_at")]


def test_what_follows_from_a_missing_object_is_told_under_it(fresh: Any) -> None:
    fresh.execute("ALTER TABLE sessions DROP COLUMN is_dormant CASCADE")
    (finding,) = look(fresh).findings
    assert (finding.kind, finding.object) == ("missing", "column sessions.is_dormant")
    assert finding.also == (
        "index sessions.idx_sessions_is_dormant",
        "index sessions.idx_sessions_dormant_last_activity",
        "trigger sessions.log_session_lifecycle",
        "view session_monitoring_view",
    )


# What may happen to a healthy database. A second statement, if any, is run after a commit.
HARMLESS = {
    "reindex": ["REINDEX TABLE sessions", "REINDEX TABLE CONCURRENTLY context_history"],
    "vacuum full": ["VACUUM FULL sessions"],
    "cluster": ["CLUSTER sessions USING sessions_pkey"],
    "analyze": ["ANALYZE"],
    "statistics target": ["ALTER TABLE sessions ALTER status SET STATISTICS 500"],
    "extended statistics": ["CREATE STATISTICS s ON status, is_dormant FROM sessions"],
    "storage": ["ALTER TABLE sessions ALTER metadata SET STORAGE EXTERNAL"],
    "autovacuum settings": ["ALTER TABLE sessions SET (autovacuum_vacuum_scale_factor = 0.01)"],
    "fillfactor of an index": ["ALTER INDEX idx_sessions_last_activity_at SET (fillfactor = 80)"],
    "replica identity": ["ALTER TABLE sessions REPLICA IDENTITY FULL"],
    "application table": ["CREATE TABLE app_notes (id integer PRIMARY KEY, session_id uuid REFERENCES sessions)"],
    "application table named much like ours": ["CREATE TABLE session_lifecycle_p2 (id integer)"],
    "application view": ["CREATE VIEW app_view AS SELECT id FROM sessions"],
    "application function": ["CREATE FUNCTION touch_session() RETURNS integer LANGUAGE sql AS 'SELECT 1'"],
    "same names in another schema": [
        "CREATE SCHEMA other",
        "CREATE TABLE other.sessions (id integer)",
        "CREATE TABLE other.session_lifecycle (id integer)",
    ],
    "other owner": [
        "DROP ROLE IF EXISTS somebody_else",
        "CREATE ROLE somebody_else",
        "ALTER TABLE sessions OWNER TO somebody_else",
        "ALTER TABLE sessions OWNER TO CURRENT_USER",
        "DROP ROLE somebody_else",
    ],
    "other settings of the database": [
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = pgvigil', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET DateStyle = ''SQL, DMY''', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET IntervalStyle = sql_standard', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET TimeZone = ''Asia/Tokyo''', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET quote_all_identifiers = on', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET standard_conforming_strings = off', current_database());"
        " EXCEPTION WHEN others THEN NULL; END $$",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database());"
        " END $$",
    ],
    "new partitions": [
        "SELECT pgvigil.ensure_partitions('session_lifecycle', now() - interval '2 years', now() - interval '1 year')",
        "SELECT pgvigil.ensure_partitions('performance_logs', now() + interval '20 days', now() + interval '30 days')",
    ],
    "old partition dropped": [
        "SELECT pgvigil.ensure_partitions('system_metrics', '2020-01-05Z', '2020-01-06Z')",
        "ALTER TABLE system_metrics DETACH PARTITION system_metrics_p202001",
        "DROP TABLE system_metrics_p202001",
    ],
    "other step of partitions": [
        "UPDATE pgvigil.partition_policies SET step = 'day', make_ahead = 40 WHERE parent_table = 'session_lifecycle'",
    ],
    "constraint as the server prints it": [
        """DO $$ DECLARE one record; BEGIN
        FOR one IN SELECT conrelid::regclass AS t, conname, pg_get_constraintdef(oid) AS def, obj_description(oid) AS c
                   FROM pg_constraint WHERE contype = 'c' AND conname IN
                   ('sessions_status_check', 'system_metrics_labels_check', 'performance_logs_duration_ms_check') LOOP
            CONTINUE WHEN one.t::text LIKE '%\\_p2%' OR one.t::text LIKE '%\\_default';
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %2$I %s', one.t, one.conname, one.def);
            EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', one.conname, one.t, one.c);
        END LOOP; END $$""",
    ],
    "default by its other name": ["ALTER TABLE sessions ALTER created_at SET DEFAULT CURRENT_TIMESTAMP"],
    "grants": ["GRANT SELECT ON sessions TO PUBLIC"],
    "another name in the ledger": ["UPDATE pgvigil.migrations SET applied_by = 'somebody'"],
    "leftover of an earlier attempt": ["CREATE TABLE pgvigil.legacy_session_lifecycle (id integer)"],
}


@pytest.mark.parametrize("change", HARMLESS)
def test_harmless_change_is_no_finding(fresh: Any, change: str) -> None:
    with fresh.connect() as conn:
        for statement in HARMLESS[change]:
            conn.execute(statement)
    assert named(look(fresh).findings) == []


# Told, not failed: on the tables of the application.
NOTES = [
    ("CREATE INDEX app_extra ON sessions (agent_from)", "index sessions.app_extra"),
    ("ALTER TABLE sessions ADD COLUMN app_extra text", "column sessions.app_extra"),
    ("ALTER TABLE sessions ADD CONSTRAINT app_extra CHECK (agent_from <> '')", "constraint sessions.app_extra"),
    (
        "CREATE FUNCTION app() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        " CREATE TRIGGER app_extra BEFORE UPDATE ON context_history FOR EACH ROW EXECUTE FUNCTION app()",
        "trigger context_history.app_extra",
    ),
    ("CREATE RULE app_extra AS ON INSERT TO codebase_snapshots DO ALSO NOTHING", "rule codebase_snapshots.app_extra"),
    ("ALTER TABLE handoff_requests ENABLE ROW LEVEL SECURITY", "row security of handoff_requests"),
]


def test_what_an_application_adds_to_its_tables_is_a_note(fresh: Any, subtests: pytest.Subtests) -> None:
    with fresh.connect(autocommit=False) as conn:
        for statement, path in NOTES:
            with subtests.test(statement=statement):
                conn.execute(statement)
                report = validate(conn, SPEC, "public")
                assert named(report.findings) == []
                assert named(report.notes) == [("unexpected", path)]
            conn.rollback()


def test_application_may_name_its_constraints_as_it_likes(fresh: Any) -> None:
    with fresh.connect() as conn:
        conn.execute("ALTER TABLE sessions RENAME CONSTRAINT sessions_session_key_key TO keys_are_unique")
        conn.execute("ALTER TABLE context_history RENAME CONSTRAINT context_history_session_id_fkey TO belongs")
        conn.execute("ALTER TABLE context_history DROP CONSTRAINT context_history_session_id_sequence_number_key")
        conn.execute("CREATE UNIQUE INDEX u ON context_history (session_id, sequence_number)")
        report = validate(conn, SPEC, "public")
    assert named(report.findings) == []
    assert named(report.notes) == [("unexpected", "index context_history.u")]


def test_trigger_of_ours_on_a_table_of_the_application_may_not_be_doubled(fresh: Any) -> None:
    fresh.execute(
        "CREATE TRIGGER again AFTER UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION pgvigil.log_session_change()"
    )
    assert named(look(fresh).findings) == [("unexpected", "trigger sessions.again")]


def test_restored_copy_is_as_valid_as_its_original(migrated: Any, database: Any) -> None:
    bindir = embedded.binaries()
    if bindir is None:
        pytest.skip("pg_dump and psql come with pgvigil[embedded]")
    dump = subprocess.run([bindir / "pg_dump", migrated.url], check=True, capture_output=True)
    subprocess.run([bindir / "psql", "-qX", database.url], input=dump.stdout, check=True, capture_output=True)
    restored, original = look(database), look(migrated)
    assert named(restored.findings) == []
    assert named(restored.notes) == named(original.notes)
    with database.connect() as conn:
        assert self_test(conn, "public") == []


def test_schema_of_any_name_is_validated_under_that_name(database: Any, run: Any) -> None:
    database.execute('CREATE SCHEMA "My App"')
    assert run("pgvigil", "setup", "--schema", "My App", "--database-url", database.url).returncode == 0
    with database.connect() as conn:
        assert named(validate(conn, SPEC, "My App").findings) == []
        assert self_test(conn, "My App") == []
        conn.execute('ALTER TABLE "My App".sessions DISABLE TRIGGER log_session_lifecycle')
        assert named(validate(conn, SPEC, "My App").findings) == [
            ("disabled", "trigger sessions.log_session_lifecycle")
        ]
        conn.execute("ALTER FUNCTION pgvigil.log_session_change() SET search_path = public, pg_temp")
        (_, other) = validate(conn, SPEC, "My App").findings
        assert other.object == "trigger sessions.log_session_lifecycle" or other.expected.endswith("My App, pg_temp")


def test_reader_without_any_other_right_gets_the_same_verdict(migrated: Any) -> None:
    mine = look(migrated)
    with migrated.connect() as conn:
        conn.execute("SET ROLE pgvigil_reader")
        theirs = validate(conn, SPEC, "public")
    assert (theirs.findings, theirs.notes) == (mine.findings, mine.notes)


def test_what_a_role_may_not_read_does_not_pass(fresh: Any) -> None:
    with fresh.connect() as conn:
        conn.execute("REVOKE SELECT ON pgvigil.partition_policies FROM pgvigil_reader")
        conn.execute("SET ROLE pgvigil_reader")
        (finding,) = validate(conn, SPEC, "public").findings
    assert finding.object == "rows of pgvigil.partition_policies"
    assert finding.found == "pgvigil_reader may not read it"


def test_missing_role_is_a_note(fresh: Any, tmp_path: Path) -> None:
    spec = _spec(tmp_path, ("pgvigil_reader]", "pgvigil_reader, pgvigil_never_made]"))
    with fresh.connect() as conn:
        report = validate(conn, spec, "public")
    assert report.ok
    assert named(report.notes) == [("missing", "role pgvigil_never_made")]


def _spec(folder: Path, *changes: tuple[str, str]) -> Spec:
    """The project's spec with some words changed."""
    text = project.SPEC.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "spec.yaml").write_text(text)
    return load_spec(folder / "spec.yaml")


RESPELT = [
    ("{check: duration_ms >= 0}", "{check: duration_ms>=0::int}"),
    (
        "default: clock_timestamp()}\n    constraints:\n      session_lifecycle_pkey",
        "default: clock_timestamp( )}\n    constraints:\n      session_lifecycle_pkey",
    ),
    ("where: session_id IS NOT NULL", "where: session_id notnull"),
]


def test_expression_in_another_spelling_is_settled_by_the_server(fresh: Any, tmp_path: Path) -> None:
    spec = _spec(tmp_path, *RESPELT)
    with fresh.connect() as conn:
        assert named(validate(conn, spec, "public").findings) == []
        assert conn.execute("SELECT count(*) FROM pg_class WHERE relname = 'probe'").fetchone() == (0,)


def test_expression_that_could_not_be_settled_stays_a_finding_and_says_why(fresh: Any, tmp_path: Path) -> None:
    spec = _spec(tmp_path, RESPELT[0])
    with fresh.connect() as conn:
        conn.execute("SET default_transaction_read_only = on")
        (finding,) = validate(conn, spec, "public").findings
    assert finding.object == "constraint performance_logs.performance_logs_duration_ms_check"
    assert finding.found == (
        "CHECK (duration_ms >= 0) (their meaning could not be compared:"
        " cannot execute CREATE TABLE in a read-only transaction)"
    )


def test_expression_of_another_meaning_is_found_though_the_server_is_asked(fresh: Any, tmp_path: Path) -> None:
    spec = _spec(tmp_path, ("{check: duration_ms >= 0}", "{check: duration_ms > 0}"))
    with fresh.connect() as conn:
        (finding,) = validate(conn, spec, "public").findings
    assert finding.expected == "CHECK (duration_ms > 0)"
    assert finding.found == "CHECK (duration_ms >= 0)"


def test_spec_cannot_smuggle_a_statement_in(fresh: Any, tmp_path: Path) -> None:
    spec = _spec(
        tmp_path, ("{check: duration_ms >= 0}", '{check: "true); COMMIT; DROP TABLE system_metrics; SELECT (1"}')
    )
    with fresh.connect() as conn:
        (finding,) = validate(conn, spec, "public").findings
        assert "cannot insert multiple commands" in finding.found
        assert validate(conn, SPEC, "public").ok


def test_open_transaction_is_looked_into_and_left_open(fresh: Any) -> None:
    with fresh.connect(autocommit=False) as conn:
        conn.execute("DROP VIEW performance_monitoring_view")
        assert named(validate(conn, SPEC, "public").findings) == [("missing", "view performance_monitoring_view")]
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        conn.rollback()
        assert validate(conn, SPEC, "public").ok


def test_table_under_an_exclusive_lock_is_told_not_waited_for(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog._PINNED, "lock_timeout", "100ms")
    with fresh.connect(autocommit=False) as holder, fresh.connect() as conn:
        holder.execute("LOCK TABLE system_metrics, sessions, pgvigil.partition_policies")
        with pytest.raises(LockedError, match="stayed locked for 100ms"):
            validate(conn, SPEC, "public")


def test_nothing_there_is_two_findings(database: Any) -> None:
    report = look(database)
    assert ("missing", "schema pgvigil") in named(report.findings)
    assert ("missing", "table sessions") in named(report.findings)
    assert not [finding for finding in report.findings if finding.object.startswith(("column", "index", "trigger"))]


# --- before the first migration --------------------------------------------------------------------------------------


def test_existing_install_has_what_the_migrations_need(existing: Any) -> None:
    with existing.connect() as conn:
        assert check_application_tables(conn, SPEC, "public") == []


@pytest.mark.parametrize(
    ("statement", "kind", "path"),
    [
        ("DROP TABLE handoff_requests", "missing", "table handoff_requests"),
        ("ALTER TABLE sessions DROP COLUMN expires_at", "missing", "column sessions.expires_at"),
        ("ALTER TABLE sessions ALTER expires_at TYPE date", "different", "column sessions.expires_at"),
        ("ALTER TABLE sessions ADD COLUMN is_dormant text", "different", "column sessions.is_dormant"),
        (
            "DROP TABLE codebase_snapshots; CREATE VIEW codebase_snapshots AS SELECT 1 AS id",
            "different",
            "table codebase_snapshots",
        ),
    ],
)
def test_install_that_lacks_something_is_told_what(existing: Any, statement: str, kind: str, path: str) -> None:
    existing.execute(statement)
    with existing.connect() as conn:
        assert named(check_application_tables(conn, SPEC, "public")) == [(kind, path)]


def test_column_of_an_earlier_attempt_may_be_there_before_the_first_migration(existing: Any) -> None:
    existing.execute("ALTER TABLE sessions ADD COLUMN is_dormant boolean")
    with existing.connect() as conn:
        assert check_application_tables(conn, SPEC, "public") == []


# --- self-test -------------------------------------------------------------------------------------------------------


def test_self_test_of_a_healthy_database_finds_nothing_and_leaves_nothing(migrated: Any) -> None:
    counts = "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM session_lifecycle)"
    before = migrated.execute(counts)
    with migrated.connect() as conn:
        assert self_test(conn, "public") == []
    assert migrated.execute(counts) == before


NO_OP = "LANGUAGE plpgsql AS 'BEGIN RETURN coalesce(NEW, OLD); END'"
BROKEN = [
    (
        f"CREATE OR REPLACE FUNCTION pgvigil.log_session_change() RETURNS trigger {NO_OP}",
        LOG := "trigger sessions.log_session_lifecycle",
    ),
    ("ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle", LOG),
    (
        "CREATE OR REPLACE FUNCTION pgvigil.log_session_created() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RETURN NULL; END'",
        "trigger sessions.log_session_lifecycle_created",
    ),
    (
        f"CREATE OR REPLACE FUNCTION pgvigil.touch_session() RETURNS trigger {NO_OP}",
        "trigger sessions.update_sessions_updated_at",
    ),
    (
        "CREATE OR REPLACE FUNCTION pgvigil.touch_session() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.updated_at := now(); NEW.last_activity_at := now(); RETURN NEW; END'",
        "trigger sessions.update_sessions_updated_at",
    ),
    ("DROP TRIGGER update_sessions_last_activity ON sessions", "trigger sessions.update_sessions_last_activity"),
    (
        f"CREATE OR REPLACE FUNCTION pgvigil.keep_deleted_session() RETURNS trigger {NO_OP}",
        "trigger sessions.keep_deleted_session",
    ),
    (
        "DROP TRIGGER guard_archived_session ON handoff_requests",
        "trigger handoff_requests.guard_archived_session",
    ),
    (
        "DROP FUNCTION pgvigil.reactivate_session(uuid)",
        "function pgvigil.reactivate_session(uuid)",
    ),
    (
        "CREATE OR REPLACE VIEW performance_monitoring_view AS SELECT operation, count(*) AS total_calls,"
        " avg(duration_ms) AS avg_duration_ms, min(duration_ms) AS min_duration_ms, max(duration_ms) AS max_duration_ms,"
        " percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p95_duration_ms,"
        " count(*) FILTER (WHERE success) AS successful_calls, count(*) FILTER (WHERE NOT success) AS failed_calls,"
        " count(*) FILTER (WHERE success) * 100.0 / count(*) AS success_rate_percent"
        " FROM performance_logs GROUP BY operation",
        "view performance_monitoring_view",
    ),
    ("DROP VIEW session_monitoring_view", "view session_monitoring_view"),
    (f"ALTER TABLE session_lifecycle DETACH PARTITION {MONTH}", "table session_lifecycle"),
]


def test_self_test_names_what_does_not_work(fresh: Any, subtests: pytest.Subtests) -> None:
    with fresh.connect(autocommit=False) as conn:
        for statement, path in BROKEN:
            with subtests.test(statement=statement):
                conn.execute(statement)
                findings = self_test(conn, "public")
                assert path in {finding.object for finding in findings}
                assert all(finding.severity == "finding" and finding.expected and finding.found for finding in findings)
            conn.rollback()


def test_self_test_tells_that_a_column_of_the_application_s_own_keeps_it_from_trying(fresh: Any) -> None:
    fresh.execute("ALTER TABLE context_history ADD COLUMN app_extra text NOT NULL")
    with fresh.connect() as conn:
        findings = self_test(conn, "public")
    assert {(finding.object, finding.severity) for finding in findings} == {
        ("trigger context_history.guard_archived_session", "note"),
        ("view session_monitoring_view", "note"),
    }


def test_self_test_of_a_read_only_session_is_refused(fresh: Any) -> None:
    with fresh.connect() as conn:
        conn.execute("SET default_transaction_read_only = on")
        with pytest.raises(PreconditionError, match="cannot execute INSERT in a read-only transaction"):
            self_test(conn, "public")


# --- report ----------------------------------------------------------------------------------------------------------


def test_report_reads_from_the_defect_to_the_verdict(fresh: Any) -> None:
    with fresh.connect() as conn:
        conn.execute("ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle")
        conn.execute("ALTER TABLE sessions ALTER is_dormant SET DEFAULT true")
        conn.execute("CREATE INDEX app_extra ON sessions (agent_from)")
        lines = render(validate(conn, SPEC, "public"), "text").splitlines()
    assert lines[0].startswith(f"Database {fresh.name}, schema public, PostgreSQL ")
    assert lines[0].endswith(", against schema-spec.yaml")
    assert lines[1:-2] == [
        "",
        "DIFFERENT (1)",
        "  column sessions.is_dormant",
        "      expected  DEFAULT false",
        "      found     DEFAULT true",
        "",
        "DISABLED (1)",
        "  trigger sessions.log_session_lifecycle",
        "      expected  enabled: ORIGIN",
        "      found     enabled: DISABLED",
        "",
        "NOTES (1), told but not failed",
        "  index sessions.app_extra: unexpected",
        "      found     btree (agent_from)",
        "",
    ]
    assert lines[-2].startswith("Coverage: ")
    assert lines[-2].endswith(" / 1 notes")
    assert lines[-1] == "INVALID: 2 findings (1 different, 1 disabled)"


def test_report_for_machines_holds_the_same(fresh: Any) -> None:
    fresh.execute("DROP INDEX idx_sessions_archived_at")
    document = json.loads(render(look(fresh), "json"))
    assert document["valid"] is False
    assert document["counts"] == {"missing": 1, "different": 0, "invalid": 0, "disabled": 0, "unexpected": 0}
    assert document["findings"] == [
        {
            "kind": "missing",
            "object": "index sessions.idx_sessions_archived_at",
            "expected": "btree (archived_at) WHERE archived_at IS NOT NULL",
            "found": "nothing",
            "severity": "finding",
            "also": [],
        }
    ]
    assert document["schema"] == "public"


def test_verdict_imports_little_and_comes_fast(fresh: Any, run: Any) -> None:
    code = "import sys, pgvigil.validate; print(*{name.partition('.')[0] for name in sys.modules})"
    python = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(project.ROOT / "src")},
    )
    assert not {"alembic", "sqlalchemy", "dotenv", "mako", "pydantic", "click", "rich"} & set(python.stdout.split())
    started = time.monotonic()
    assert run("pgvigil", "validate", "--database-url", fresh.url).returncode == 0
    assert time.monotonic() - started < 1.0
