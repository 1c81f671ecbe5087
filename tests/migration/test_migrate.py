"""The main job: an existing install is backed up, migrated and validated, and can go back."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import threading
from pathlib import Path

import psycopg
import pytest

from conftest import EXISTING_SESSIONS, REVISIONS, Database, Run
from helpers.catalog import APPLICATION_ROWS, catalog
from pgvigil import cli, project
from pgvigil.backup import pg_tools


def migrate(call: Run, database: Database, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return call("scripts/run-migration.sh", "--database-url", database.url, *arguments)


def test_an_existing_install_is_migrated_and_none_of_its_rows_changes(call: Run, existing: Database) -> None:
    before = existing.execute(APPLICATION_ROWS)
    done = migrate(call, existing)
    assert done.returncode == 0, done.stderr
    assert "migrated from base to" in done.stdout
    assert existing.execute(APPLICATION_ROWS) == before


def test_the_result_is_valid(call: Run, existing: Database) -> None:
    assert migrate(call, existing).returncode == 0
    verdict = call("scripts/validate-schema.py", "--database-url", existing.url, "--self-test")
    assert verdict.returncode == 0, verdict.stdout


def test_the_application_s_own_objects_are_untouched(migrated: Database) -> None:
    assert migrated.execute("SELECT obj_description('sessions'::regclass)") == [("Owned by the hand-off application",)]
    assert migrated.execute("SELECT pg_get_indexdef('app_sessions_agent'::regclass) LIKE '%WHERE%'") == [(True,)]
    assert "now()" in migrated.execute("SELECT prosrc FROM pg_proc WHERE proname = 'update_updated_at_column'")[0][0]


CHECKS = "SELECT conname::text FROM pg_constraint WHERE contype = 'c' AND conname LIKE '%\\_check' AND conrelid = ANY ('{sessions,context_history,handoff_requests}'::regclass[]) ORDER BY 1"


def test_an_install_that_was_there_before_may_write_what_it_likes_tomorrow(migrated: Database) -> None:
    assert migrated.execute(CHECKS) == []
    migrated.execute("UPDATE sessions SET status = 'on hold' WHERE session_key = 'session-7'")
    migrated.execute("UPDATE context_history SET context_type = 'gossip' WHERE sequence_number = 1")
    migrated.execute("UPDATE handoff_requests SET status = 'perhaps'")
    assert cli.main(["validate", "--database-url", migrated.url]) == 0


def test_lists_are_closed_when_the_owner_asks_for_it_but_for_those_with_stray_values(
    migrated: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    with migrated.connect() as conn:
        conn.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
        conn.execute("UPDATE sessions SET status = 'active' WHERE status = 'in-progress'")
        conn.execute("CALL pgvigil.validate_value_checks()")
        assert conn.execute("SELECT value, rows_found FROM pgvigil.tolerated_values").fetchall() == [("Archived", 12)]
        assert told == ["the list of sessions.status stays open, it holds 'Archived' (12 rows)"]
        assert conn.execute(CHECKS).fetchall() == [
            ("context_history_context_type_check",),
            ("handoff_requests_status_check",),
        ]
        with pytest.raises(psycopg.errors.CheckViolation):
            conn.execute("UPDATE handoff_requests SET status = 'perhaps'")
        conn.execute("UPDATE sessions SET status = 'archived' WHERE status = 'Archived'")
        conn.execute("CALL pgvigil.validate_value_checks()")
        with pytest.raises(psycopg.errors.CheckViolation):
            conn.execute("UPDATE sessions SET status = 'in-progress' WHERE session_key = 'session-7'")
    assert migrated.execute("SELECT count(*) FROM pg_constraint WHERE NOT convalidated") == [(0,)]
    assert cli.main(["validate", "--database-url", migrated.url]) == 0
    assert "_check" not in capsys.readouterr().out


def test_a_value_stored_while_its_list_is_being_closed_leaves_it_open(migrated: Database) -> None:
    with migrated.connect() as conn:
        conn.execute("UPDATE sessions SET status = 'active' WHERE status IN ('in-progress', 'Archived')")
        conn.execute("SELECT pgvigil.validate_value_checks_step('{}')")
        # As if the value had come between the reading and the CHECK.
        conn.execute("ALTER TABLE sessions DROP CONSTRAINT sessions_status_check")
        conn.execute("UPDATE sessions SET status = 'on hold' WHERE session_key = 'session-7'")
        conn.execute("SELECT pgvigil.put_value_check('sessions', 'status', '{active}', false)")
        conn.execute("SELECT pgvigil.validate_value_checks_step('{}')")
    assert migrated.execute(CHECKS) == []
    assert ("on hold", 1) in migrated.execute("SELECT value, rows_found FROM pgvigil.tolerated_values")


@pytest.mark.slow
def test_a_check_of_the_application_s_own_under_a_name_of_ours_stays_as_it_is(
    call: Run, existing: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    existing.execute(
        """ALTER TABLE sessions ADD CONSTRAINT sessions_status_check CHECK (status <> 'nonsense');
           ALTER TABLE handoff_requests ADD CONSTRAINT handoff_requests_status_check
               CHECK (status::text = ANY ('{pending,accepted,rejected,completed}'::text[])) NOT VALID"""
    )
    checks = "SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE conname IN ('sessions_status_check', 'handoff_requests_status_check') ORDER BY 1"
    before = existing.execute(checks)
    assert migrate(call, existing).returncode == 0
    existing.execute("CALL pgvigil.validate_value_checks()")
    assert existing.execute(checks) == before
    assert cli.main(["validate", "--database-url", existing.url]) == 0
    assert "the application's own" in capsys.readouterr().out
    assert call("pgvigil", "revert", "--to", "base", "--database-url", existing.url).returncode == 0
    assert existing.execute(checks) == before


@pytest.mark.slow
def test_a_revert_takes_lists_that_were_closed_out_again(call: Run, existing: Database) -> None:
    existing.execute("UPDATE sessions SET status = 'active' WHERE status IN ('in-progress', 'Archived')")
    before = catalog(existing)
    assert migrate(call, existing).returncode == 0
    existing.execute("CALL pgvigil.validate_value_checks()")
    assert len(existing.execute(CHECKS)) == 3
    assert call("pgvigil", "revert", "--to", "base", "--database-url", existing.url).returncode == 0
    assert catalog(existing) == before


def test_a_new_install_has_its_lists_closed_and_validated(fresh: Database) -> None:
    assert len(fresh.execute(CHECKS)) == 3
    assert fresh.execute("SELECT count(*) FROM pg_constraint WHERE NOT convalidated") == [(0,)]


@pytest.mark.slow
def test_a_new_install_that_was_reverted_and_holds_other_values_is_told_which(call: Run, fresh: Database) -> None:
    assert call("pgvigil", "revert", "--to", "000", "--database-url", fresh.url).returncode == 0
    fresh.execute("INSERT INTO sessions (session_key, agent_from, status) VALUES ('odd', 'a', 'on hold')")
    refused = migrate(call, fresh)
    assert refused.returncode == 7
    assert "sessions.status holds values outside its list: 'on hold' (1 row)" in refused.stderr
    fresh.execute("UPDATE sessions SET status = 'active'")
    assert migrate(call, fresh).returncode == 0
    assert len(fresh.execute(CHECKS)) == 3


@pytest.mark.oldest_and_newest
def test_a_second_run_says_up_to_date_and_changes_nothing(call: Run, migrated: Database) -> None:
    before = (
        catalog(migrated),
        migrated.execute("SELECT * FROM system_metrics ORDER BY id"),
        migrated.execute("SELECT * FROM pgvigil.migrations"),
    )
    again = migrate(call, migrated)
    assert (again.returncode, again.stdout.startswith("up to date")) == (0, True), again.stderr
    assert (
        catalog(migrated),
        migrated.execute("SELECT * FROM system_metrics ORDER BY id"),
        migrated.execute("SELECT * FROM pgvigil.migrations"),
    ) == before


@pytest.mark.oldest_and_newest
def test_a_revert_leaves_the_original_catalog_and_migrating_again_works(call: Run, existing: Database) -> None:
    before, rows = catalog(existing), existing.execute(APPLICATION_ROWS)
    assert migrate(call, existing).returncode == 0
    reverted = call("pgvigil", "revert", "--to", "base", "--database-url", existing.url)
    assert reverted.returncode == 0, reverted.stderr
    assert catalog(existing) == before
    assert existing.execute(APPLICATION_ROWS) == rows
    assert migrate(call, existing).returncode == 0


@pytest.mark.client_side
@pytest.mark.slow
def test_the_undo_command_of_the_report_undoes_the_run(call: Run, existing: Database) -> None:
    before = catalog(existing)
    report = migrate(call, existing).stdout
    undo = re.search(r"undo +(\S*pgvigil) (revert --to \S+) (--database-url) '(.+)'", report)
    assert undo, report
    undone = call("pgvigil", *undo[2].split(), undo[3], undo[4])
    assert undone.returncode == 0, undone.stderr
    assert catalog(existing) == before


@pytest.mark.client_side
@pytest.mark.slow
def test_each_step_back_can_be_taken_alone(call: Run, migrated: Database) -> None:
    for revision in ("014", "005", "003", "000", "base"):
        done = call("pgvigil", "revert", "--to", revision, "--database-url", migrated.url)
        assert done.returncode == 0, done.stderr
    assert migrated.execute("SELECT to_regnamespace('pgvigil')") == [(None,)]


@pytest.mark.client_side
def test_a_dry_run_prints_the_sql_and_changes_nothing(call: Run, existing: Database) -> None:
    before = catalog(existing)
    done = migrate(call, existing, "--dry-run", "--sql")
    assert done.returncode == 0, done.stderr
    assert "CREATE TRIGGER log_session_lifecycle " in done.stdout
    assert done.stdout.endswith(f"{len(REVISIONS)} pending; nothing was changed\n")
    assert catalog(existing) == before


@pytest.mark.oldest_and_newest
def test_writes_during_the_migration_succeed(call: Run, existing: Database) -> None:
    stop, failures, writes = threading.Event(), [], [0]

    def write() -> None:
        with existing.connect() as conn:
            while not stop.is_set():
                try:
                    conn.execute(
                        "UPDATE sessions SET metadata = '{}' WHERE id = (SELECT id FROM sessions ORDER BY random() LIMIT 1)"
                    )
                    conn.execute(
                        "INSERT INTO sessions (session_key, agent_from) VALUES (gen_random_uuid()::text, 'writer')"
                    )
                    writes[0] += 1
                except psycopg.Error as error:
                    failures.append(str(error))

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    done = migrate(call, existing)
    stop.set()
    for writer in writers:
        writer.join()
    assert done.returncode == 0, done.stderr
    assert failures == []
    assert writes[0] > 0


@pytest.mark.oldest_and_newest
def test_markers_are_written_once_and_only_once(call: Run, migrated: Database) -> None:
    query = "SELECT labels ->> 'migration_name', count(*) FROM system_metrics WHERE metric_name = 'migration_completed' GROUP BY 1 ORDER BY 1"
    names = [(f.stem, 1) for f in sorted((Path(project.MIGRATIONS)).glob("[0-9]*.sql"))]
    assert migrated.execute(query) == names
    assert migrate(call, migrated).returncode == 0
    assert migrated.execute(query) == names
    assert migrated.execute("SELECT count(*) FROM system_metrics WHERE metric_name = 'schema_initialized'") == [(0,)]


@pytest.mark.client_side
def test_the_ledger_tells_who_when_how_long_and_from_which_bytes(migrated: Database) -> None:
    rows = migrated.execute(
        "SELECT revision, baselined, applied_by = session_user, duration_ms >= 0, length(sha256_bytes), applied_at <= now() FROM pgvigil.migrations ORDER BY 1"
    )
    assert rows[0] == ("000", True, True, True, 64, True)
    assert rows[1:] == [(f"{n:03}", False, True, True, 64, True) for n in range(1, len(REVISIONS))]


@pytest.mark.oldest_and_newest
@pytest.mark.slow
def test_another_schema_than_public_can_be_watched(call: Run, existing: Database) -> None:
    existing.execute('ALTER SCHEMA public RENAME TO "My App"')
    done = migrate(call, existing, "--schema", "My App")
    assert done.returncode == 0, done.stderr
    assert call("pgvigil", "validate", "--self-test", "--database-url", existing.url).returncode == 0
    assert migrate(call, existing).stdout.startswith("up to date")


@pytest.mark.oldest_and_newest
def test_a_role_that_may_not_create_roles_can_migrate(call: Run, existing: Database) -> None:
    existing.execute(
        f"""DO $$ BEGIN CREATE ROLE plain_owner LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
            GRANT CREATE ON DATABASE {existing.name} TO plain_owner; ALTER SCHEMA public OWNER TO plain_owner;
            DO $$ DECLARE t text; BEGIN
                FOREACH t IN ARRAY '{{sessions,context_history,codebase_snapshots,handoff_requests,app_users,open_sessions,sessions_per_agent}}'::text[] LOOP
                    EXECUTE format('ALTER TABLE %I OWNER TO plain_owner', t);
                END LOOP;
            END $$"""
    )
    url = existing.url.replace("postgres@", "plain_owner@")
    done = call("scripts/run-migration.sh", "--database-url", url)
    assert done.returncode == 0, done.stderr
    assert call("pgvigil", "revert", "--to", "base", "--database-url", url).returncode == 0


# ── What an earlier, broken script left behind ────────────────────────────────────────────────────────────────────────


def test_leftovers_under_our_names_are_adopted_and_the_result_is_valid(
    call: Run, broken: Database, adopted: Database
) -> None:
    assert adopted.execute(APPLICATION_ROWS) == broken.execute(APPLICATION_ROWS)
    done = call("pgvigil", "validate", "--self-test", "--database-url", adopted.url)
    assert done.returncode == 0, done.stdout


def test_every_row_of_a_leftover_table_is_kept(broken: Database, adopted: Database) -> None:
    events = (
        "SELECT session_id, event_type, coalesce(event_data, '{}'), created_at FROM session_lifecycle ORDER BY 1, 2"
    )
    metrics = "SELECT metric_name, metric_value, labels, recorded_at FROM system_metrics WHERE metric_name = 'queue_depth' ORDER BY 4"
    assert adopted.execute(events) == broken.execute(events)
    assert adopted.execute(metrics) == broken.execute(metrics)
    assert adopted.execute("SELECT table_name, rows_found, rows_adopted FROM pgvigil.displaced_tables ORDER BY 1") == [
        ("analytics_aggregations", 101, 101),
        ("performance_logs", 5001, 5000),
        ("session_lifecycle", EXISTING_SESSIONS, EXISTING_SESSIONS),
        ("system_metrics", 3002, 3000),
    ]


def test_rows_that_break_a_constraint_stay_in_the_old_table(adopted: Database) -> None:
    kept = (
        "SELECT metric_value::text, metric_type FROM pgvigil.legacy_system_metrics WHERE metric_name = 'bad' ORDER BY 1"
    )
    assert adopted.execute(kept) == [("1", "banana"), ("NaN", "gauge")]
    assert adopted.execute("SELECT duration_ms FROM pgvigil.legacy_performance_logs WHERE operation = 'bad'") == [(-5,)]


def test_adopted_rows_lie_in_the_partition_of_their_time(adopted: Database) -> None:
    astray = "SELECT count(*) FROM performance_logs WHERE abs(extract(epoch FROM pgvigil.uuid_v7_time(id) - created_at)) > 0.001"
    assert adopted.execute(astray) == [(0,)]
    assert adopted.execute("SELECT count(*) FROM performance_logs_default") == [(0,)]


@pytest.mark.oldest_and_newest
def test_adopting_goes_on_where_it_was_interrupted(adopted: Database) -> None:
    count = "SELECT count(*) FROM session_lifecycle"
    assert adopted.execute(count) == [(EXISTING_SESSIONS,)]
    adopted.execute(
        "UPDATE pgvigil.displaced_tables SET next_block = 0, finished_at = NULL WHERE table_name = 'session_lifecycle'"
    )
    adopted.execute("CALL pgvigil.copy_legacy_tables(16)")
    assert adopted.execute(count) == [(EXISTING_SESSIONS,)]


@pytest.mark.oldest_and_newest
@pytest.mark.slow
def test_a_revert_gives_the_leftovers_back_and_migrating_again_adopts_them_again(
    call: Run, broken: Database, adopted: Database
) -> None:
    rows = "SELECT * FROM session_lifecycle ORDER BY id"
    done = call("pgvigil", "revert", "--to", "base", "--database-url", adopted.url)
    assert done.returncode == 0, done.stderr
    # What a superuser had is pgvigil_owner's now: a superuser is given nothing that others could have put code on.
    assert (
        "\\d+ public.session_lifecycle), then as one: ALTER TABLE public.session_lifecycle OWNER TO postgres;"
        in done.stdout
    )
    assert "public.sessions" not in done.stdout
    given_back = catalog(adopted).replace("pgvigil_owner", "postgres")
    assert (given_back, adopted.execute(rows)) == (catalog(broken), broken.execute(rows))
    assert migrate(call, adopted).returncode == 0
    assert adopted.execute("SELECT count(*) FROM session_lifecycle") == [(EXISTING_SESSIONS,)]


@pytest.mark.oldest_and_newest
def test_an_index_that_an_interrupted_build_left_invalid_is_built_anew(call: Run, existing: Database) -> None:
    with existing.connect() as conn:
        conn.execute("ALTER TABLE sessions ADD COLUMN is_dormant boolean NOT NULL DEFAULT false")
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute("CREATE UNIQUE INDEX CONCURRENTLY idx_sessions_is_dormant ON sessions (is_dormant)")
    assert migrate(call, existing).returncode == 0
    assert existing.execute(
        "SELECT indisvalid, indisunique FROM pg_index WHERE indexrelid = 'idx_sessions_is_dormant'::regclass"
    ) == [(True, False)]


# ── The backup ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.client_side
def test_the_backup_is_private_described_and_can_be_restored(
    call: Run, existing: Database, database: Database, tmp_path: Path
) -> None:
    rows = existing.execute(APPLICATION_ROWS)
    assert migrate(call, existing, "--backup-dir", tmp_path / "backups").returncode == 0
    archive = next((tmp_path / "backups").glob("*.dump"))
    manifest_path = archive.with_suffix(".json")
    manifest = json.loads(manifest_path.read_text())
    assert [oct(p.stat().st_mode & 0o777) for p in (archive.parent, archive, manifest_path)] == [
        "0o700",
        "0o600",
        "0o600",
    ]
    assert manifest["size"] == archive.stat().st_size
    assert manifest["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    tool, _ = pg_tools.find_tool("pg_restore", existing.server.major)
    # Without --exit-on-error: a newer pg_restore begins with a setting that an older server does not know.
    subprocess.run([tool, f"--dbname={database.url}", archive], check=False, capture_output=True)
    assert database.execute(APPLICATION_ROWS) == rows


@pytest.mark.client_side
def test_no_backup_is_taken_when_there_is_nothing_to_do(call: Run, migrated: Database, tmp_path: Path) -> None:
    assert migrate(call, migrated, "--backup-dir", tmp_path / "backups").returncode == 0
    assert not (tmp_path / "backups").exists()


@pytest.mark.client_side
def test_a_run_can_end_at_a_revision_and_a_later_one_goes_on(call: Run, existing: Database) -> None:
    assert "migrated from base to 005" in migrate(call, existing, "--to", "005").stdout
    assert existing.execute("SELECT max(revision), count(*) FROM pgvigil.migrations") == [("005", 6)]
    assert f"migrated from 005 to {REVISIONS[-1]}" in migrate(call, existing).stdout
    assert call("scripts/validate-schema.py", "--database-url", existing.url).returncode == 0


@pytest.mark.client_side
def test_a_revision_below_the_database_is_reached_by_taking_files_out(call: Run, migrated: Database) -> None:
    assert f"reverted from {REVISIONS[-1]} to 003" in migrate(call, migrated, "--to", "003").stdout
    assert migrated.execute(
        "SELECT to_regclass('session_monitoring_view'), to_regclass('system_metrics') IS NOT NULL"
    ) == [(None, True)]


@pytest.mark.client_side
def test_a_run_that_ends_early_is_held_against_the_spec_by_trying_the_rest(
    run: Run, project_copy: Path, existing: Database
) -> None:
    views = project_copy / "scripts/migrations/012_monitoring_views.sql"
    views.write_text(views.read_text().replace("AS hours_since_activity", "AS idle_hours"))
    before = catalog(existing)
    done = run(project_copy / "scripts/run-migration.sh", "--to", "005", "--database-url", existing.url)
    assert (done.returncode, "column session_monitoring_view.hours_since_activity" in done.stderr) == (7, True)
    assert catalog(existing) == before


@pytest.mark.client_side
def test_an_unknown_revision_is_2(call: Run, existing: Database) -> None:
    done = migrate(call, existing, "--to", "077")
    assert (done.returncode, "there is no revision 077" in done.stderr) == (2, True)
