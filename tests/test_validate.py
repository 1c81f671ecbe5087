"""Each single defect is found under the right name, and what is harmless is let pass."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgvigil import embedded, project
from pgvigil.errors import LockedError, PreconditionError
from pgvigil.validate import Finding, Report, check_application_tables, load_spec, render, self_test, validate

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
