"""Test that each single defect is found under the right name, and that harmless changes pass."""

from __future__ import annotations

import json
import re
import subprocess
import sys
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
    Unchecked,
    check_application_tables,
    load_spec,
    render,
    self_test,
    validate,
)
from pgvigil.validate.catalog import snapshot

SPEC = load_spec(project.SPEC)
TODAY = datetime.now(UTC)
MONTH = f"session_lifecycle_p{TODAY:%Y%m}"


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


def test_a_list_that_was_closed_must_be_the_list(migrated: Any) -> None:
    migrated.execute(
        """CALL pgvigil.validate_value_checks()""",
    )
    migrated.execute(
        """ALTER TABLE handoff_requests DROP CONSTRAINT handoff_requests_status_check, ADD CONSTRAINT handoff_requests_status_check CHECK (status <> 'x');
           COMMENT ON CONSTRAINT handoff_requests_status_check ON handoff_requests IS 'The values of status'"""
    )
    assert named(look(migrated).findings) == [
        ("different", "constraint handoff_requests.handoff_requests_status_check")
    ]


def test_edited_policies_are_no_drift(fresh: Any) -> None:
    fresh.execute(
        """UPDATE pgvigil.retention_policies SET active_hours = active_hours + 1;
           INSERT INTO pgvigil.retention_policies VALUES ($$Grundsätze d'or\n$$, 5, 1, 1, 1, 1), ('Ä', 5, 1, 1, 1, 1), ('😀', 6, 1, 1, 1, 1)"""
    )
    assert named(look(fresh).findings) == []


def test_a_standard_policy_alone_is_no_drift(fresh: Any) -> None:
    fresh.execute("DELETE FROM pgvigil.retention_policies WHERE policy <> 'standard'")
    assert named(look(fresh).findings) == []
    assert hours_of_new_sessions(fresh, "short") == [24]


def hours_of_new_sessions(database: Any, *policies: str | None) -> list[int]:
    return [
        int(hours)
        for policy in policies
        for (hours,) in database.execute(
            """INSERT INTO sessions (session_key, agent_from, retention_policy) VALUES (gen_random_uuid()::text, 'a', %s)
               RETURNING extract(epoch FROM expires_at - created_at) / 3600""",
            (policy,),
        )
    ]


def test_times_that_are_not_those_of_the_policies_are_found_and_mended_to_these(fresh: Any) -> None:
    fresh.execute("UPDATE pgvigil.retention_policies SET active_hours = 30 WHERE policy = 'short'")
    fresh.execute(
        """DO $do$ BEGIN
           EXECUTE replace(pg_get_functiondef('pgvigil.set_default_expiry()'::regprocedure), '30 hours', '31 hours');
           END $do$"""
    )
    (finding,) = look(fresh).findings
    assert (finding.kind, finding.object) == ("different", "function pgvigil.set_default_expiry()")
    fresh.execute(finding.fix)
    assert hours_of_new_sessions(fresh, "short", "standard", "no such", "extended") == [30, 24, 24, 72]


def test_missing_times_of_policies_are_mended_to_the_edited_ones(fresh: Any) -> None:
    fresh.execute("UPDATE pgvigil.retention_policies SET active_hours = 30 WHERE policy = 'short'")
    fresh.execute("DROP FUNCTION pgvigil.set_default_expiry() CASCADE")
    for finding in look(fresh).findings:
        fresh.execute(finding.fix)
    assert named(look(fresh).findings) == []
    assert hours_of_new_sessions(fresh, "short") == [30]


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
        "trigger sessions.update_sessions_last_activity",
        "trigger sessions.log_session_lifecycle",
        "view session_monitoring_view",
    )


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


@pytest.mark.client_side
def test_role_with_one_connection_only_gets_the_same_verdict(fresh: Any) -> None:
    fresh.execute("DROP INDEX idx_sessions_is_dormant")
    fresh.execute("CREATE ROLE lonely LOGIN CONNECTION LIMIT 1 IN ROLE pgvigil_reader")
    try:
        with fresh.connect(user="lonely") as conn:
            assert named(validate(conn, SPEC, "public").findings) == [
                ("missing", "index sessions.idx_sessions_is_dormant")
            ]
    finally:
        fresh.execute("DROP ROLE lonely")


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


@pytest.mark.slow
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
        report = validate(conn, SPEC, "public")
    said = "pgvigil_reader may not read them: GRANT SELECT ON pgvigil.partition_policies TO pgvigil_reader;"
    assert report.unchecked == (Unchecked("rows of pgvigil.partition_policies", said),)
    assert report.exit_code == 3


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


def test_expression_that_could_not_be_settled_is_not_taken_for_a_pass(fresh: Any, tmp_path: Path) -> None:
    spec = _spec(tmp_path, RESPELT[0])
    with fresh.connect() as conn, conn.transaction():
        conn.execute("SET TRANSACTION READ ONLY")
        report = validate(conn, spec, "public")
    (unchecked,) = report.unchecked
    assert unchecked.objects.startswith("constraint performance_logs.performance_logs_duration_ms_check: ")
    assert re.fullmatch("cannot execute CREATE (TABLE|FUNCTION) in a read-only transaction", unchecked.reason)
    assert (report.findings, report.exit_code) == ((), 3)


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
        assert finding.object == "constraint performance_logs.performance_logs_duration_ms_check"
        assert validate(conn, SPEC, "public").ok


def test_open_transaction_is_looked_into_and_left_open(fresh: Any) -> None:
    with fresh.connect(autocommit=False) as conn:
        conn.execute("DROP VIEW performance_monitoring_view")
        assert named(validate(conn, SPEC, "public").findings) == [("missing", "view performance_monitoring_view")]
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        conn.rollback()
        assert validate(conn, SPEC, "public").ok


def test_table_under_an_exclusive_lock_is_told_not_waited_for(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(snapshot._PINNED, "lock_timeout", "100ms")
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
        "trigger sessions.watch_session",
    ),
    (
        "CREATE OR REPLACE FUNCTION pgvigil.touch_session() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.updated_at := now(); NEW.last_activity_at := now(); RETURN NEW; END'",
        "trigger sessions.watch_session",
    ),
    (
        f"CREATE OR REPLACE FUNCTION pgvigil.set_default_expiry() RETURNS trigger {NO_OP}",
        "trigger sessions.set_default_expiry",
    ),
    ("DROP TRIGGER update_sessions_last_activity ON sessions", "trigger sessions.update_sessions_last_activity"),
    (
        f"CREATE OR REPLACE FUNCTION pgvigil.archive_deleted_session() RETURNS trigger {NO_OP}",
        'trigger sessions."00_archive_deleted_session"',
    ),
    (
        "DROP TRIGGER guard_archived_session ON handoff_requests",
        "trigger handoff_requests.guard_archived_session",
    ),
    (
        f"CREATE OR REPLACE FUNCTION pgvigil.count_added_context() RETURNS trigger {NO_OP}",
        "trigger context_history.count_added_context",
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
        ("trigger context_history.count_added_context", "note"),
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
    sessions = SPEC.tables["sessions"]
    assert lines[1:-2] == [
        "",
        "DIFFERENT (1)",
        "  column sessions.is_dormant",
        "      expected  DEFAULT false",
        "      found     DEFAULT true",
        "      fix       ALTER TABLE sessions ALTER COLUMN is_dormant SET DEFAULT false;",
        f"      declared  schema-spec.yaml:{sessions.columns['is_dormant'].line}",
        "",
        "DISABLED (1)",
        "  trigger sessions.log_session_lifecycle",
        "      expected  enabled: ORIGIN",
        "      found     enabled: DISABLED",
        "      fix       ALTER TABLE sessions ENABLE TRIGGER log_session_lifecycle;",
        f"      declared  schema-spec.yaml:{sessions.triggers['log_session_lifecycle'].line}",
        "",
        "NOTES (1), not failures",
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
            "fix": "CREATE INDEX CONCURRENTLY idx_sessions_archived_at ON sessions USING btree (archived_at)"
            " WHERE (archived_at IS NOT NULL);",
            "line": SPEC.tables["sessions"].indexes["idx_sessions_archived_at"].line,
        }
    ]
    assert document["schema"] == "public"


def test_verdict_imports_little() -> None:
    code = "import sys, pgvigil.validate; print(*{name.partition('.')[0] for name in sys.modules})"
    python = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(project.ROOT / "src")},
    )
    assert not {"alembic", "sqlalchemy", "dotenv", "mako", "pydantic", "click", "rich"} & set(python.stdout.split())


def test_renamed_column_of_a_partitioned_table_is_one_finding_without_a_reference_too(fresh: Any) -> None:
    with fresh.connect() as conn:
        conn.execute("ALTER TABLE system_metrics RENAME metric_value TO value")
        (finding,) = validate(conn, load_spec(project.SPEC), "public").findings
    assert finding.object == "column system_metrics.metric_value"
    assert finding.found == "renamed? column system_metrics.value has the same definition"
    assert finding.fix == "ALTER TABLE system_metrics RENAME COLUMN value TO metric_value;"
