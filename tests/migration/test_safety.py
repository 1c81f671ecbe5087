"""The runner among others: readers that do not end, runners at the same time, and runners that are killed."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from conftest import EXISTING_SESSIONS, PROJECT, REVISIONS, Database, Run, add_migration, wait_until
from helpers.catalog import catalog
from helpers.refused import refused
from pgvigil import cli
from pgvigil.database import parse_url
from pgvigil.errors import LockedError
from pgvigil.migration import runner
from pgvigil.progress import Reporter

pytestmark = pytest.mark.oldest_and_newest

MIGRATE = "scripts/run-migration.sh"
INDEXES = """SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
             WHERE i.indrelid IN ('sessions'::regclass, 'context_history'::regclass) ORDER BY 1"""


def start(database: Database, tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """A run in the background, to be disturbed."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pgvigil", "migrate", "--database-url", database.url, "--backup-dir", tmp_path, *arguments],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def doing(database: Database, what: str) -> Callable[[], bool]:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name = 'pgvigil migrate' AND query ~ %s AND state <> 'idle'"
    return lambda: database.execute(query, (database.name, what))[0][0] > 0


# ── Preflight ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgvigil.migration.preflight.LONG_WITH_LOCKS", "0 seconds")


@pytest.mark.client_side
@pytest.mark.usefixtures("impatient")
def test_a_long_transaction_in_the_way_is_4_and_described(
    existing: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    before = catalog(existing)
    with existing.connect(autocommit=False, application_name="month end") as reader:
        reader.execute("SELECT count(*) FROM context_history")
        assert cli.main(["migrate", "--database-url", existing.url]) == 4
        words = capfd.readouterr().err
        assert f"a long transaction, pid {reader.info.backend_pid} (postgres, month end), open for" in words
        assert "holding context_history: SELECT count(*) FROM context_history" in words
        assert "--wait-for-blockers" in words
    assert catalog(existing) == before


@pytest.mark.client_side
@pytest.mark.usefixtures("impatient")
@pytest.mark.slow
def test_blockers_can_be_waited_for(existing: Database, tmp_path: Path) -> None:
    reader = existing.connect(autocommit=False)
    reader.execute("SELECT count(*) FROM sessions")
    end = threading.Timer(1, reader.close)
    end.start()
    assert (
        cli.main(
            ["migrate", "--database-url", existing.url, "--backup-dir", str(tmp_path), "--wait-for-blockers", "30"]
        )
        == 0
    )
    end.join()


@pytest.mark.client_side
def test_a_prepared_transaction_is_4_and_named(run: Run, existing: Database) -> None:
    with existing.connect() as conn:
        conn.execute("BEGIN")
        conn.execute("UPDATE sessions SET metadata = '{}' WHERE session_key = 'session-7'")
        conn.execute("PREPARE TRANSACTION 'lost and found'")
        try:
            refused(
                run(MIGRATE, "--database-url", existing.url), 4, "a prepared transaction, 'lost and found' of postgres"
            )
        finally:
            conn.execute("ROLLBACK PREPARED 'lost and found'")


@pytest.mark.client_side
def test_a_session_whose_triggers_do_not_fire_is_4(run: Run, existing: Database) -> None:
    existing.execute(f"ALTER DATABASE {existing.name} SET session_replication_role = replica")
    refused(run(MIGRATE, "--database-url", existing.url), 4, "session_replication_role is replica")


# ── Validation before the commit ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.client_side
def test_a_result_that_does_not_meet_the_spec_is_rolled_back(run: Run, project_copy: Path, existing: Database) -> None:
    triggers = project_copy / "scripts/migrations/011_session_columns.sql"
    triggers.write_text(triggers.read_text() + "\nALTER TABLE public.sessions DISABLE TRIGGER log_session_lifecycle;\n")
    before = catalog(existing)
    done = run(project_copy / MIGRATE, "--database-url", existing.url)
    refused(done, 7, r"would not meet schema-spec\.yaml")
    assert "trigger sessions.log_session_lifecycle" in done.stderr
    assert catalog(existing) == before


@pytest.mark.client_side
def test_a_file_that_lets_go_of_the_run_lock_is_rolled_back(run: Run, project_copy: Path, existing: Database) -> None:
    views = project_copy / "scripts/migrations/012_monitoring_views.sql"
    views.write_text(views.read_text() + "\nSELECT pg_advisory_unlock_all();\n")
    before = catalog(existing)
    refused(run(project_copy / MIGRATE, "--database-url", existing.url), 6, "the run lock was lost before the commit")
    assert catalog(existing) == before


@pytest.mark.client_side
def test_json_is_one_document_with_plan_backup_statements_and_verdict(
    existing: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["migrate", "--json", "--database-url", existing.url, "--backup-dir", str(tmp_path)]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["exit_code"], told["from"], told["to"], told["validation"]["valid"]) == (0, None, REVISIONS[-1], True)
    assert [p["name"] for p in told["plan"]] == told["applied"]
    assert (len(told["backup"]["sha256"]), Path(told["backup"]["archive"]).is_file()) == (64, True)
    assert {"ledger.sql", "004_session_triggers.sql", "014_session_indexes.sql"} <= {
        s["file"] for s in told["statements"]
    }
    assert "revert --to base" in told["undo"]


@pytest.mark.client_side
def test_json_of_a_dry_run_is_the_plan(existing: Database, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["migrate", "--json", "--dry-run", "--database-url", existing.url]) == 0
    plan = json.loads(capfd.readouterr().out)["plan"]
    assert (len(plan), plan[14]) == (
        len(REVISIONS),
        {"name": "014_session_indexes", "transactional": False, "goes": "in", "baselined": False},
    )


@pytest.mark.client_side
def test_json_tells_who_was_in_the_way_when_a_run_gives_up(
    existing: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with existing.connect(autocommit=False, application_name="for ever") as reader:
        reader.execute("SELECT count(*) FROM sessions")
        call = [
            "migrate",
            "--json",
            "--database-url",
            existing.url,
            "--backup-dir",
            str(tmp_path),
            "--lock-budget",
            "0.5",
        ]
        assert cli.main(call) == 6
        told = json.loads(capfd.readouterr().out)
        assert told["exit_code"] == 6
        (blocker,) = told["waits"][-1]["blockers"]
        assert (blocker["pid"], blocker["application"], blocker["state"]) == (
            reader.info.backend_pid,
            "for ever",
            "idle in transaction",
        )


@pytest.mark.client_side
@pytest.mark.slow
def test_a_search_path_that_a_file_empties_is_set_again_for_the_next(
    run: Run, project_copy: Path, existing: Database
) -> None:
    tables = project_copy / "scripts/migrations/003_monitoring_tables.sql"
    tables.write_text(tables.read_text() + "\nSET search_path = '';\n")
    done = run(project_copy / MIGRATE, "--database-url", existing.url)
    assert done.returncode == 0, done.stderr


# ── Rehearsal ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.client_side
def test_a_rehearsal_tells_the_locks_and_leaves_no_copy(
    existing: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["migrate", "--json", "--rehearse", "--database-url", existing.url, "--backup-dir", str(tmp_path)])
        == 0
    )
    rehearsal = json.loads(capfd.readouterr().out)["rehearsal"]
    assert rehearsal["rewritten"] == []
    assert any(lock["table"] == "public.sessions" for s in rehearsal["statements"] for lock in s.get("locks", ()))
    assert ("public.sessions", "AccessExclusiveLock") in [(lock["table"], lock["mode"]) for lock in rehearsal["locks"]]
    assert existing.execute("SELECT datname FROM pg_database WHERE datname LIKE 'pgvigil_rehearsal%'") == []


@pytest.mark.client_side
@pytest.mark.slow
def test_each_lock_of_a_rehearsal_names_the_statement_of_a_migration_that_brought_it(
    existing: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli.main(["migrate", "--json", "--rehearse", "--database-url", existing.url, "--backup-dir", str(tmp_path)])
    rehearsal = json.loads(capfd.readouterr().out)["rehearsal"]
    assert len(rehearsal["locks"]) > 3
    for lock in rehearsal["locks"]:
        assert lock["statement"].count(":") >= 2, lock
        file, line, said = lock["statement"].split(":", 2)
        text = (PROJECT / "scripts/migrations" / file).read_text().split("\n", int(line) - 1)[-1]
        assert " ".join(text.split()).startswith(said.strip())
        assert "pg_locks" not in said


@pytest.mark.client_side
@pytest.mark.slow
def test_a_lock_on_a_partitioned_table_of_the_application_is_seen(
    project_copy: Path, run: Run, migrated: Database
) -> None:
    migrated.execute('CREATE TABLE "Event log" (at date) PARTITION BY RANGE (at)')
    migrated.execute('CREATE TABLE event_log_1 PARTITION OF "Event log" DEFAULT')
    add_migration(
        project_copy / "scripts/migrations",
        'ALTER TABLE ONLY public."Event log" ALTER COLUMN at SET STATISTICS 5;\nALTER TABLE public."Event log" ADD later text;\n',
        'ALTER TABLE public."Event log" DROP later;\n',
    )
    done = run(project_copy / MIGRATE, "--database-url", migrated.url, "--rehearse")
    assert done.returncode == 0, done.stderr
    said = r"_later\.sql:2: ALTER TABLE public\.\"Event log\" ADD later text"
    assert re.search(rf'"Event log": AccessExclusiveLock for \d+ ms, from: \d+{said}', done.stderr)


@pytest.mark.client_side
def test_a_lock_held_too_long_in_the_rehearsal_refuses_the_real_run(run: Run, existing: Database) -> None:
    before = catalog(existing)
    done = run(MIGRATE, "--database-url", existing.url, "--rehearse", "--max-lock-ms", "1")
    refused(done, 4, r"in the rehearsal public\.\w+ was locked against writers for \d+ ms, more than --max-lock-ms 1")
    assert catalog(existing) == before


@pytest.mark.client_side
@pytest.mark.slow
def test_a_rewritten_table_is_told(project_copy: Path, run: Run, migrated: Database) -> None:
    migrations = project_copy / "scripts/migrations"
    add_migration(
        migrations,
        "ALTER TABLE public.app_users ALTER COLUMN id SET DATA TYPE numeric;\n",
        "ALTER TABLE public.app_users ALTER COLUMN id SET DATA TYPE bigint;\n",
    )
    migrated.execute("ALTER TABLE app_users ALTER COLUMN id DROP IDENTITY")
    done = run(project_copy / MIGRATE, "--database-url", migrated.url, "--rehearse")
    assert done.returncode == 0, done.stderr
    assert "rewritten tables: public.app_users" in done.stderr


# ── Checksums ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.client_side
def test_an_edit_can_be_accepted_and_is_recorded(run: Run, project_copy: Path, migrated: Database) -> None:
    edited = project_copy / "scripts/migrations/001_bookkeeping.sql"
    edited.write_text(
        edited.read_text().replace(
            "VALUES ('session_lifecycle', 'month', 3)", "VALUES ('session_lifecycle', 'month', 4)"
        )
    )
    call = (project_copy / MIGRATE, "--database-url", migrated.url)
    refused(run(*call), 4, "was edited after it went into")
    accepted = run(*call, "--accept-checksum", "001")
    assert accepted.returncode == 0, accepted.stderr
    assert migrated.execute("SELECT revision, accepted_by FROM pgvigil.migrations WHERE accepted_at IS NOT NULL") == [
        ("001", "postgres")
    ]
    assert run(*call).returncode == 0


# ── Killed ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_killed_while_it_builds_an_index_leaves_nothing_that_a_second_run_does_not_mend(
    run: Run, existing: Database, tmp_path: Path
) -> None:
    with existing.connect(autocommit=False) as snapshot:  # an old snapshot, which the build waits for at its end
        snapshot.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        snapshot.execute("SELECT count(*) FROM app_users")
        migration = start(existing, tmp_path)
        wait_until(doing(existing, "CREATE INDEX CONCURRENTLY"), 120)  # most of a run, on a machine that is busy
        migration.kill()
        migration.communicate()
        # its backend learns within a second that nobody waits for it, and gives up lock and build
        wait_until(lambda: not doing(existing, "CREATE INDEX CONCURRENTLY")(), 10)
    assert (False,) in existing.execute("SELECT DISTINCT indisvalid FROM pg_index")
    again = run(MIGRATE, "--database-url", existing.url)
    assert again.returncode == 0, again.stderr
    assert all(valid for _, valid in existing.execute(INDEXES))


def test_a_run_killed_while_it_settles_rows_keeps_those_it_settled_and_leaves_no_trigger_disabled(
    run: Run, existing: Database, tmp_path: Path
) -> None:
    settled = "SELECT count(last_activity_at) FROM sessions"
    first = run(MIGRATE, "--database-url", existing.url, "--to", "013")
    assert first.returncode == 0, first.stderr
    existing.execute(
        "SELECT pgvigil.backfill_last_activity_step('{}')"
    )  # the only step that waits for readers: a CHECK
    with existing.connect(autocommit=False) as writer:
        # Its row is left out of the batches, so the work cannot come to its end.
        writer.execute("SELECT FROM sessions ORDER BY ctid DESC LIMIT 1 FOR UPDATE")
        migration = start(existing, tmp_path)
        wait_until(doing(existing, "backfill_last_activity"), 120)
        wait_until(lambda: existing.execute(settled)[0][0] > 2000, 120)
        migration.kill()
        migration.communicate()
        wait_until(lambda: not doing(existing, "backfill_last_activity")(), 10)
        [(kept,)] = existing.execute(settled)
        off = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'sessions'::regclass AND NOT tgisinternal AND tgenabled = 'D'"
        assert (2000 < kept < EXISTING_SESSIONS, existing.execute(off)) == (True, [])
    again = run(MIGRATE, "--database-url", existing.url)
    assert again.returncode == 0, again.stderr
    # The backfill counts neither as activity nor as an event of a session.
    assert existing.execute("SELECT count(*) FROM session_lifecycle") == [(0,)]
    assert existing.execute("SELECT count(*) FROM sessions WHERE last_activity_at IS DISTINCT FROM updated_at") == [
        (0,)
    ]


RUN_LOCK = """SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database
              WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()"""


@pytest.mark.client_side
@pytest.mark.parametrize("number", range(int(os.environ.get("PGVIGIL_ROUNDS", "3"))))
@pytest.mark.slow(first=1)
def test_of_five_runners_the_holder_is_murdered_and_the_others_finish(
    existing: Database, tmp_path: Path, number: int
) -> None:
    log = existing.server.log.stat().st_size
    runners = [start(existing, tmp_path / str(n), "--lock-wait", "100") for n in range(5)]
    wait_until(lambda: list(tmp_path.iterdir()))
    (holder,) = (int(path.name) for path in tmp_path.iterdir())  # who has begun its backup
    moment = time.monotonic() + random.uniform(0, 2)  # noqa: S311 - any moment will do
    wait_until(lambda: time.monotonic() > moment)
    held = existing.execute(RUN_LOCK)
    runners[holder].kill()
    wait_until(lambda: existing.execute(RUN_LOCK) != held or not held, 5)
    outputs = [runner.communicate(timeout=110) for runner in runners]
    assert [r.returncode for n, r in enumerate(runners) if n != holder] == [0] * 4, (number, outputs)
    assert existing.execute("SELECT version_num FROM pgvigil.alembic_version") == [(REVISIONS[-1],)]
    once = "SELECT labels->>'migration_name' FROM system_metrics WHERE metric_name = 'migration_completed' GROUP BY 1 HAVING count(*) <> 1"
    assert existing.execute(once) == []
    assert len(existing.execute("SELECT 1 FROM system_metrics WHERE metric_name = 'migration_completed'")) == len(
        REVISIONS
    )
    assert cli.main(["validate", "--database-url", existing.url]) == 0
    assert b"deadlock detected" not in existing.server.log.read_bytes()[log:]


@pytest.mark.client_side
@pytest.mark.slow
def test_index_builds_wait_for_an_old_snapshot_and_name_it(existing: Database, tmp_path: Path) -> None:
    with existing.connect(autocommit=False, application_name="old snapshot") as snapshot:
        snapshot.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        snapshot.execute("SELECT count(*) FROM app_users")
        pid = snapshot.info.backend_pid
        migration = start(existing, tmp_path, "--json")
        wait_until(doing(existing, "CREATE INDEX CONCURRENTLY"), 120)  # most of a run, on a machine that is busy
        assert migration.stderr is not None
        words = ""
        while f"waiting for pid {pid} (postgres, old snapshot" not in words:
            line = migration.stderr.readline()
            assert line, words
            words += line
    out, _ = migration.communicate(timeout=60)
    assert migration.returncode == 0, out
    waited = [s["file"] for s in json.loads(out)["statements"] if pid in [b["pid"] for b in s["blockers"]]]
    assert waited == ["014_session_indexes.sql"]
    assert all(valid for _, valid in existing.execute(INDEXES))


@pytest.mark.client_side
def test_a_unique_index_over_duplicates_is_7_and_leaves_no_carcass(
    run: Run, project_copy: Path, migrated: Database
) -> None:
    migrations = project_copy / "scripts/migrations"
    name = add_migration(
        migrations,
        "-- pgvigil: no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY idx_later ON public.sessions (agent_from);\n",
        "DROP INDEX idx_later;\n",
    )
    done = run(project_copy / MIGRATE, "--database-url", migrated.url)
    refused(done, 7, rf"{name}\.sql:2: could not create unique index")
    assert migrated.execute("SELECT to_regclass('idx_later')") == [(None,)]
    with pytest.raises(psycopg.errors.UniqueViolation):
        migrated.execute("CREATE UNIQUE INDEX ON sessions (agent_from)")


# ── What builds left behind ───────────────────────────────────────────────────────────────────────────────────────────


def left_invalid(database: Database, index: str) -> None:
    database.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", (index,))


def test_an_index_that_became_invalid_after_the_migration_is_built_again(call: Run, migrated: Database) -> None:
    left_invalid(migrated, "idx_sessions_is_dormant")
    done = call(MIGRATE, "--database-url", migrated.url)
    assert (done.returncode, "building idx_sessions_is_dormant again" in done.stderr) == (0, True), done.stderr
    assert all(valid for _, valid in migrated.execute(INDEXES))


def test_what_a_killed_reindex_left_is_dropped(call: Run, migrated: Database) -> None:
    migrated.execute("CREATE INDEX idx_sessions_is_dormant_ccnew ON sessions (is_dormant) WHERE is_dormant")
    migrated.execute("CREATE INDEX performance_logs_default_pkey_ccold3 ON performance_logs_default (id)")
    for index in ("idx_sessions_is_dormant_ccnew", "performance_logs_default_pkey_ccold3"):
        left_invalid(migrated, index)
    done = call(MIGRATE, "--database-url", migrated.url)
    assert (done.returncode, "up to date" in done.stdout) == (0, True), done.stderr
    assert migrated.execute("SELECT relname FROM pg_class WHERE relname ~ '_cc(new|old)'") == []


def test_a_valid_index_or_one_of_the_application_keeps_its_strange_name(call: Run, migrated: Database) -> None:
    migrated.execute("CREATE INDEX idx_sessions_is_dormant_ccnew ON sessions (is_dormant)")
    migrated.execute("CREATE INDEX own_ccnew ON sessions (agent_to)")
    left_invalid(migrated, "own_ccnew")
    assert call(MIGRATE, "--database-url", migrated.url).returncode == 0
    assert migrated.execute("SELECT count(*) FROM pg_class WHERE relname ~ '_ccnew$'") == [(2,)]


@pytest.mark.client_side
@pytest.mark.slow
def test_a_build_that_still_runs_is_waited_for_and_its_index_kept(existing: Database, tmp_path: Path) -> None:
    """The orphan here was not started by a run of ours, so nothing ends it; it waits for a snapshot, as a killed build would."""
    build = "CREATE INDEX CONCURRENTLY idx_sessions_last_activity_at ON sessions (last_activity_at)"
    assert cli.main(["migrate", "--backup", "none", "--to", "013", "--database-url", existing.url]) == 0
    existing.execute("CALL pgvigil.backfill_last_activity()")  # which comes before the builds
    with existing.connect(autocommit=False) as snapshot, existing.connect(application_name="orphan") as orphan:
        snapshot.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        snapshot.execute("SELECT count(*) FROM app_users")
        building = threading.Thread(target=orphan.execute, args=(build,))
        building.start()
        invalid = "SELECT indexrelid FROM pg_index WHERE indexrelid = to_regclass('idx_sessions_last_activity_at') AND NOT indisvalid"
        wait_until(lambda: bool(existing.execute(invalid)))
        ((first,),) = existing.execute(invalid)
        migration = start(existing, tmp_path, "--backup", "none")
        assert migration.stderr is not None
        words = ""
        while f"is still being built by pid {orphan.info.backend_pid} (orphan): waiting" not in words:
            line = migration.stderr.readline()
            assert line, words
            words += line
        snapshot.rollback()
        building.join()
        _, rest = migration.communicate(timeout=60)
    assert migration.returncode == 0, rest
    assert existing.execute("SELECT 'idx_sessions_last_activity_at'::regclass::oid") == [(first,)]


@pytest.mark.client_side
@pytest.mark.slow
def test_a_build_that_waits_too_long_is_given_up_named_and_leaves_no_carcass(
    existing: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with existing.connect(autocommit=False, application_name="for ever") as snapshot:
        snapshot.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        snapshot.execute("SELECT count(*) FROM app_users")
        call = ["migrate", "--json", "--backup-dir", str(tmp_path), "--build-wait", "1", "--database-url", existing.url]
        assert cli.main(call) == 6
        told = json.loads(capfd.readouterr().out)
        assert snapshot.info.backend_pid in [blocker["pid"] for blocker in told["waits"][-1]["blockers"]]
    assert (told["waits"][-1]["file"], "for ever" in told["error"]) == ("014_session_indexes.sql", True)
    assert existing.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]


@pytest.mark.client_side
@pytest.mark.slow
def test_json_tells_of_each_statement_its_locks_and_how_long_they_were_held(
    existing: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["migrate", "--json", "--database-url", existing.url, "--backup-dir", str(tmp_path)]) == 0
    statements = json.loads(capfd.readouterr().out)["statements"]
    locks = [(s["file"], lock["table"], lock["mode"]) for s in statements for lock in s.get("locks", ())]
    assert ("011_session_columns.sql", "public.sessions", "AccessExclusiveLock") in locks
    assert all(lock["held_ms"] >= s["ms"] for s in statements for lock in s.get("locks", ()))
    # While the tables are locked, comments that follow one another are one round trip.
    kinds = [s["statement"].partition(" ")[0] for s in statements if s["file"].startswith("011")]
    assert ("COMMENT", "COMMENT") not in pairwise(kinds)


@pytest.mark.client_side
@pytest.mark.slow
def test_json_tells_which_statement_waited_how_often_and_for_whom(existing: Database, tmp_path: Path) -> None:
    with existing.connect(autocommit=False) as reader:
        pid = reader.info.backend_pid
        reader.execute("SELECT count(*) FROM sessions")
        migration = start(existing, tmp_path, "--json")
        assert migration.stderr is not None
        wait_until(lambda: "waiting for a table lock" in (migration.stderr or sys.stdin).readline())
    out, _ = migration.communicate(timeout=60)
    (waited,) = [s for s in json.loads(out)["statements"] if s["tries"] > 1]
    assert (waited["file"], waited["blockers"][0]["pid"]) == ("011_session_columns.sql", pid)


@pytest.mark.client_side
@pytest.mark.slow
def test_an_index_build_reports_how_far_it_is(existing: Database, tmp_path: Path) -> None:
    shown: list[str] = []
    options = runner.Options(None, tmp_path, lock_wait=1, lock_budget=60, backup_kind="none", build_wait=1)
    with existing.connect(autocommit=False) as snapshot:
        snapshot.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        snapshot.execute("SELECT count(*) FROM app_users")
        with pytest.raises(LockedError):
            runner.migrate(
                parse_url(existing.url, "a test"), options, Reporter(None, lambda step, _: shown.append(step))
            )
    assert any(re.search(r"building idx_sessions_\w+: waiting for .* snapshots", step) for step in shown)
