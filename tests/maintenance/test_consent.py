"""Test consent: no job does anything irreversible before its owner saw and accepted it and a backup is verified; each
job reports what it did.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from conftest import Database, Run

pytestmark = pytest.mark.client_side

WAITING = ["archive", "executions", "expiry", "orphans", "retention"]
COUNTS = """SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM sessions WHERE archived_at IS NOT NULL),
                   (SELECT count(*) FROM sessions WHERE status = 'expired')"""


def waits(database: Database) -> list[str]:
    return [
        job for (job,) in database.execute("SELECT job FROM pgvigil.job_status WHERE waits_for_consent ORDER BY job")
    ]


def accept(database: Database) -> None:
    database.execute("SELECT pgvigil.accept_job('all')")


def as_role(database: Database, role: str, *grants: str) -> str:
    """The address of the database for a role of that name, to which these are granted."""
    database.execute(
        f"DO $$ BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    )
    for grant in grants:
        database.execute(f"GRANT {grant} TO {role}")
    return database.url.replace("postgres@", f"{role}@")


def owned_by(database: Database, role: str) -> str:
    """The same with a plain role as the owner of the database and of all that is in schema public."""
    url = as_role(database, role)
    database.execute(
        f"""DO $$ DECLARE one record; BEGIN
            EXECUTE format('ALTER DATABASE %I OWNER TO {role}', current_database());
            FOR one IN SELECT c.oid::regclass AS name FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') LOOP
                EXECUTE format('ALTER TABLE %s OWNER TO {role}', one.name);
            END LOOP;
            FOR one IN SELECT c.oid::regclass AS name, relkind FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm') LOOP
                EXECUTE format('ALTER %s %s OWNER TO {role}', CASE one.relkind WHEN 'v' THEN 'VIEW' ELSE 'MATERIALIZED VIEW' END, one.name);
            END LOOP;
            FOR one IN SELECT p.oid::regprocedure AS name FROM pg_proc p WHERE pronamespace = 'public'::regnamespace LOOP
                EXECUTE format('ALTER FUNCTION %s OWNER TO {role}', one.name);
            END LOOP; END $$;
            GRANT CREATE ON SCHEMA public TO {role}"""
    )
    return url


# --- until it is accepted --------------------------------------------------------------------------------------------


def test_on_a_migrated_install_run_due_ends_archives_and_deletes_nothing_and_says_what_waits(
    call: Run, migrated: Database
) -> None:
    before = migrated.execute(COUNTS)
    done = call("pgvigil", "maintain", "run-due", "--database-url", migrated.url)
    assert done.returncode == 0, done.stderr
    assert migrated.execute(COUNTS) == before
    assert done.stderr.count("wait for consent") == 1
    assert "expiry, archive, orphans, retention, executions wait for consent" in done.stderr
    assert "pgvigil maintain preview --database-url" in done.stderr
    assert "pgvigil maintain accept all --database-url" in done.stderr
    assert migrated.execute("SELECT count(*) FROM pgvigil.job_runs WHERE job = ANY (%s)", (WAITING,)) == [(0,)]


@pytest.mark.parametrize("job", WAITING)
def test_run_of_a_job_that_waits_is_refused_with_the_commands_that_show_and_accept(
    call: Run, migrated: Database, job: str
) -> None:
    before = migrated.execute(COUNTS)
    done = call("pgvigil", "maintain", "run", job, "--database-url", migrated.url)
    assert done.returncode == 4
    assert f"error: job {job} waits for consent: " in done.stderr
    assert "pgvigil maintain preview --database-url" in done.stderr
    [command] = [line for line in done.stderr.splitlines() if line.startswith("  pgvigil maintain accept")]
    program, *words = shlex.split(command)
    assert (program, words[-1]) == ("pgvigil", job)
    assert call(program, *words).returncode == 0
    assert job not in waits(migrated)
    assert migrated.execute(COUNTS) == before


@pytest.mark.parametrize("job", WAITING)
def test_a_direct_call_obeys(migrated: Database, job: str) -> None:
    before = migrated.execute(COUNTS)
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match=f"job {job} waits for the consent of the owner"):
        migrated.execute("CALL pgvigil.run_job(%s)", (job,))
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match=f"job {job} waits for the consent of the owner"):
        migrated.execute(f"SELECT * FROM pgvigil.job_{job}(1000)")
    assert migrated.execute(COUNTS) == before


@pytest.mark.parametrize("job", WAITING)
def test_the_call_that_pg_cron_makes_does_nothing_and_is_no_failure(migrated: Database, job: str) -> None:
    before = migrated.execute(COUNTS)
    assert migrated.execute("CALL pgvigil.run_job(%s, true)", (job,)) == [(None,)]
    assert migrated.execute(COUNTS) == before


def test_status_and_health_say_what_waits(call: Run, migrated: Database) -> None:
    told = call("pgvigil", "maintain", "status", "--database-url", migrated.url)
    lines = {line.split()[0]: line for line in told.stdout.splitlines() if line}
    assert lines["retention"].endswith("waits for consent")
    assert not lines["dormancy"].endswith("waits for consent")
    assert "pgvigil maintain accept all --database-url" in told.stdout
    found = json.loads(call("pgvigil", "health", "--json", "--database-url", migrated.url).stdout)
    assert found["checks"]["jobs_without_consent"]["value"] == 5
    assert found["checks"]["jobs_without_consent"]["detail"] == "archive, executions, expiry, orphans, retention"


@pytest.mark.slow
def test_migrate_ends_with_the_commands_that_show_and_accept(call: Run, existing: Database) -> None:
    done = call("scripts/run-migration.sh", "--backup", "none", "--database-url", existing.url)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    at = lines.index("Next: 5 jobs wait until you have seen what they would do, and accepted it:")
    show, accept_all = lines[at + 1 : at + 3]
    assert show.startswith("  pgvigil maintain preview --database-url ")
    assert accept_all.startswith("  pgvigil maintain accept all --database-url ")


def test_setup_of_a_migrated_install_names_them_too(call: Run, migrated: Database) -> None:
    done = call("scripts/setup-enhanced-db.sh", "--database-url", migrated.url)
    assert done.returncode == 0, done.stderr
    assert "\n  pgvigil maintain preview --database-url " in done.stdout


@pytest.mark.slow
def test_a_new_install_needs_no_consent_and_no_backup(call: Run, database: Database) -> None:
    done = call("scripts/setup-enhanced-db.sh", "--database-url", database.url)
    assert "maintain preview" not in done.stdout
    assert database.execute("SELECT DISTINCT needs_consent, backup_within FROM pgvigil.jobs") == [(False, None)]
    for job in WAITING:
        assert call("pgvigil", "maintain", "run", job, "--database-url", database.url).returncode == 0


# --- preview ---------------------------------------------------------------------------------------------------------


def test_preview_counts_by_job_status_and_policy_what_the_jobs_then_do(call: Run, migrated: Database) -> None:
    shown = json.loads(
        call("pgvigil", "maintain", "preview", "--format", "json", "--database-url", migrated.url).stdout
    )
    by_job = {one["job"]: one for one in shown}
    assert sorted(by_job) == sorted([*WAITING, "dormancy"])
    accept(migrated)
    migrated.execute("INSERT INTO pgvigil.backup_proofs (taken_at, proof, detail) VALUES (now(), 'read', 'x')")
    with migrated.connect() as conn:
        for job in (
            "orphans",
            "archive",
            "expiry",
        ):  # each leaves the others' sessions, or takes from them what this shows
            before = conn.execute(
                "SELECT coalesce(sum(rows), 0) FROM pgvigil.preview_jobs() WHERE job = %s", (job,)
            ).fetchone()
            did = conn.execute("CALL pgvigil.run_job(%s)", (job,)).fetchone()
            assert did == before
    [unknown] = [e for e in by_job["expiry"]["effects"] if e["status"] == "in-progress"]
    assert (unknown["is_known"], unknown["policy"]) == (False, "standard")
    assert all(e["is_known"] for e in by_job["archive"]["effects"])


def test_preview_says_in_words_what_would_be_done_and_marks_unknown_statuses(call: Run, fresh: Database) -> None:
    fresh.execute(
        """ALTER TABLE sessions DROP CONSTRAINT sessions_status_check;
           INSERT INTO sessions (session_key, agent_from, status, expires_at, created_at, updated_at, last_activity_at)
           SELECT s, 'x', s, '2020-01-02', '2020-01-01', '2020-01-01', '2020-01-01' FROM unnest('{it''s waiting,active}'::text[]) s"""
    )
    told = call("pgvigil", "maintain", "preview", "--database-url", fresh.url).stdout
    lines = told.splitlines()
    assert lines[0].startswith("expiry: would expire 2 sessions")
    [unknown] = [
        line for line in lines if "it's waiting" in line and "UNKNOWN STATUS" in line and "2020-01-01" in line
    ][:1]
    assert unknown.split()[0] == "1"
    assert "  INSERT INTO pgvigil.final_statuses VALUES ('it''s waiting');" in lines
    assert "executions: would do nothing" in lines
    assert "accept" not in told.replace("before you accept", "")


def test_preview_names_partitions_and_query_executions_past_their_time(call: Run, fresh: Database) -> None:
    fresh.execute(
        """INSERT INTO query_executions (execution_id, query, database_type, status, started_at)
           VALUES ('old', 'SELECT 1', 'postgresql', 'success', '2020-01-01'), ('new', 'SELECT 1', 'postgresql', 'success', now());
           SELECT pgvigil.ensure_partitions('performance_logs', '2020-01-01Z', '2020-01-02Z');
           SELECT pgvigil.ensure_partitions('session_lifecycle', '2020-01-01Z', '2020-01-01Z');
           INSERT INTO performance_logs (id, operation, duration_ms, success) SELECT pgvigil.uuid_v7_floor('2020-01-01 12:00Z'), 'op', 1, true;
           ANALYZE performance_logs"""
    )
    shown = json.loads(call("pgvigil", "maintain", "preview", "--format", "json", "--database-url", fresh.url).stdout)
    would = {one["job"]: one["would"] for one in shown}
    [(partitions,)] = fresh.execute("SELECT count(*) FROM pgvigil.due_partitions()")
    assert partitions == 3
    assert would["retention"] == "drop 3 partitions (about 1 row)"
    assert would["executions"] == "delete 1 query execution"
    assert call("pgvigil", "maintain", "run", "retention", "--database-url", fresh.url).stdout == (
        "retention: dropped 3 partitions (about 1 row)\n"
    )
    assert call("pgvigil", "maintain", "run", "executions", "--database-url", fresh.url).stdout == (
        "executions: deleted 1 query execution\n"
    )


def test_preview_leaves_out_partitions_that_rows_of_kept_sessions_hold(fresh: Database) -> None:
    fresh.execute(
        """INSERT INTO sessions (session_key, agent_from) VALUES ('held', 'x');
           INSERT INTO pgvigil.legal_holds (session_id, reason) SELECT id, 'why' FROM sessions;
           SELECT pgvigil.ensure_partitions('performance_logs', '2020-01-01Z', '2020-01-01Z');
           SELECT pgvigil.ensure_partitions('session_lifecycle', '2020-01-01Z', '2020-01-01Z');
           INSERT INTO performance_logs (id, operation, duration_ms, success, session_id) SELECT pgvigil.uuid_v7_floor('2020-01-01 12:00Z'), 'op', 1, true, id FROM sessions;
           INSERT INTO session_lifecycle (id, session_id, event_type) SELECT pgvigil.uuid_v7_floor('2020-01-01 12:00Z'), id, 'created' FROM sessions"""
    )
    assert fresh.execute("SELECT count(*) FROM pgvigil.due_partitions()") == [(2,)]
    assert fresh.execute("SELECT * FROM pgvigil.preview_jobs()") == []


def test_a_reader_may_look_at_the_preview(call: Run, fresh: Database) -> None:
    fresh.execute("SELECT pgvigil.ensure_partitions('session_lifecycle', '2020-01-01Z', '2020-01-01Z')")
    url = as_role(fresh, "ct_reader", "pgvigil_reader")
    done = call("pgvigil", "maintain", "preview", "--database-url", url)
    assert done.returncode == 0, done.stderr
    assert "retention: would drop 1 partition (about 0 rows)" in done.stdout


def test_a_database_that_is_not_migrated_has_no_preview(call: Run, existing: Database) -> None:
    for words in (("preview",), ("accept", "all"), ("run", "archive", "--dry-run")):
        assert call("pgvigil", "maintain", *words, "--database-url", existing.url).returncode == 4
    done = call("pgvigil", "backup", "record", "--external", "x", "--database-url", existing.url)
    assert (done.returncode, "not migrated" in done.stderr) == (4, True)


# --- dry run ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_a_job_would_do_and_changes_nothing(call: Run, migrated: Database) -> None:
    accept(migrated)
    before = migrated.execute(COUNTS)
    done = call("pgvigil", "maintain", "run", "archive", "--dry-run", "--database-url", migrated.url)
    assert done.returncode == 0, done.stderr
    [(due,)] = migrated.execute("SELECT sum(rows)::bigint FROM pgvigil.preview_jobs() WHERE job = 'archive'")
    assert done.stdout.startswith(f"archive: would archive {due:,} sessions\n")
    assert done.stdout.endswith("Nothing was changed.\n")
    assert migrated.execute(COUNTS) == before
    assert migrated.execute("SELECT count(*) FROM pgvigil.job_runs") == [(0,)]


def test_a_dry_run_of_a_job_without_sessions_says_so(call: Run, fresh: Database) -> None:
    done = call("pgvigil", "maintain", "run", "vacuum", "--dry-run", "--database-url", fresh.url)
    assert (done.returncode, done.stdout) == (
        0,
        "vacuum: VACUUM of each table\nIt ends, archives and deletes no session. Nothing was changed.\n",
    )
    assert call("pgvigil", "maintain", "run", "tea", "--dry-run", "--database-url", fresh.url).returncode == 2


# --- accept ----------------------------------------------------------------------------------------------------------


def test_accept_prints_what_is_accepted_and_the_job_runs(call: Run, migrated: Database) -> None:
    [(due,)] = migrated.execute("SELECT sum(rows)::bigint FROM pgvigil.preview_jobs() WHERE job = 'archive'")
    done = call("pgvigil", "maintain", "accept", "archive", "--database-url", migrated.url)
    assert (done.returncode, done.stdout) == (0, f"accepted archive: it would archive {due:,} sessions now\n")
    assert waits(migrated) == ["executions", "expiry", "orphans", "retention"]
    assert migrated.execute("SELECT accepted_by FROM pgvigil.jobs WHERE job = 'archive'") == [("postgres",)]
    done = call("pgvigil", "maintain", "run", "archive", "--database-url", migrated.url)
    assert done.stdout == f"archive: archived {due:,} sessions\n"


def test_accept_all_accepts_each_once(call: Run, migrated: Database) -> None:
    done = call("pgvigil", "maintain", "accept", "all", "--database-url", migrated.url)
    assert sorted(line.split()[1] for line in done.stdout.splitlines()) == [f"{job}:" for job in WAITING]
    assert waits(migrated) == []
    assert (
        call("pgvigil", "maintain", "accept", "all", "--database-url", migrated.url).stdout
        == "no job waits for consent\n"
    )
    again = call("pgvigil", "maintain", "accept", "archive", "--database-url", migrated.url).stdout
    assert again.startswith("archive was accepted by postgres at ")
    assert (
        call("pgvigil", "maintain", "accept", "vacuum", "--database-url", migrated.url).stdout
        == "vacuum needs no consent\n"
    )


@pytest.mark.parametrize("job", ["tea", "", "ALL", "x'; DROP TABLE sessions; --"])
def test_accept_of_a_job_that_is_not_there_is_a_usage_error(call: Run, migrated: Database, job: str) -> None:
    done = call("pgvigil", "maintain", "accept", job, "--database-url", migrated.url)
    assert done.returncode == 2
    assert "error: there is no job" in done.stderr
    assert len(waits(migrated)) == 5


def test_a_plain_owner_accepts_and_vouches(call: Run, existing: Database) -> None:
    url = owned_by(existing, "ct_owner")
    migrated = call("scripts/run-migration.sh", "--backup", "none", "--database-url", url)
    assert migrated.returncode == 0, migrated.stderr
    assert call("pgvigil", "maintain", "accept", "all", "--database-url", url).returncode == 0
    assert call("pgvigil", "backup", "record", "--external", "tape 7", "--database-url", url).returncode == 0
    done = call("pgvigil", "maintain", "run", "orphans", "--database-url", url)
    assert done.returncode == 0, done.stderr
    assert existing.execute("SELECT accepted_by FROM pgvigil.jobs WHERE job = 'orphans'") == [("ct_owner",)]


def test_a_superuser_accepts_with_the_rights_of_the_owner_only(call: Run, existing: Database) -> None:
    url = owned_by(existing, "ct_trap")
    assert call("scripts/run-migration.sh", "--backup", "none", "--database-url", url).returncode == 0
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(
            """CREATE TABLE trapped (as_role text, superuser text);
               CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS
                   $$ BEGIN INSERT INTO public.trapped VALUES (current_user, current_setting('is_superuser')); RETURN NEW; END $$;
               CREATE TRIGGER trap BEFORE UPDATE ON pgvigil.jobs FOR EACH ROW EXECUTE FUNCTION trap();
               CREATE TRIGGER trap BEFORE INSERT ON pgvigil.backup_proofs FOR EACH ROW EXECUTE FUNCTION trap()"""
        )
    assert call("pgvigil", "maintain", "accept", "all", "--database-url", existing.url).returncode == 0
    assert call("pgvigil", "backup", "record", "--external", "x", "--database-url", existing.url).returncode == 0
    assert waits(existing) == []
    assert existing.execute("SELECT DISTINCT as_role FROM trapped") == [("ct_trap",)]


def test_an_admin_can_neither_accept_nor_vouch_for_a_backup(call: Run, migrated: Database) -> None:
    url = as_role(migrated, "ct_admin", "pgvigil_admin")
    done = call("pgvigil", "maintain", "accept", "all", "--database-url", url)
    assert done.returncode == 4
    assert (
        "error: role ct_admin may not accept what jobs do: only pgvigil_owner, the owner of the tables, or a superuser may"
        in done.stderr
    )
    done = call("pgvigil", "backup", "record", "--external", "x", "--database-url", url)
    assert done.returncode == 4
    assert "error: role ct_admin may not record an external backup" in done.stderr
    with psycopg.connect(url, autocommit=True) as admin:
        for forgery in (
            "SELECT pgvigil.accept_job('all')",
            "UPDATE pgvigil.jobs SET accepted_at = now()",
            "UPDATE pgvigil.jobs SET needs_consent = false",
            "UPDATE pgvigil.jobs SET backup_within = NULL",
            "INSERT INTO pgvigil.jobs (job, every, purpose) VALUES ('archive_all', '1 day', 'x')",
            "INSERT INTO pgvigil.backup_proofs (taken_at, proof, detail) VALUES (now(), 'restore', 'x')",
            "UPDATE pgvigil.backup_proofs SET taken_at = now()",
            "SELECT pgvigil.job_orphans(1000)",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                admin.execute(forgery)
    assert len(waits(migrated)) == 5
    assert migrated.execute("SELECT count(*) FROM pgvigil.backup_proofs") == [(0,)]


# --- what consent does not cover -------------------------------------------------------------------------------------

SHORTER = {
    "active_hours = 1": ["expiry"],
    "dormant_after_hours = 1": ["archive"],
    "archived_days = 1": ["retention"],
    "logs_days = 1": ["executions", "retention"],
    "metrics_days = 1": ["retention"],
}


@pytest.mark.parametrize("edit", SHORTER)
def test_consent_lapses_where_a_policy_gets_shorter(migrated: Database, edit: str) -> None:
    accept(migrated)
    migrated.execute(f"UPDATE pgvigil.retention_policies SET {edit} WHERE policy = 'standard'")
    assert waits(migrated) == SHORTER[edit]


@pytest.mark.parametrize("column", [edit.split()[0] for edit in SHORTER])
def test_consent_stays_where_a_policy_gets_longer(migrated: Database, column: str) -> None:
    accept(migrated)
    migrated.execute(f"UPDATE pgvigil.retention_policies SET {column} = {column} + 1, legal_hold = true")
    assert waits(migrated) == []


@pytest.mark.parametrize(
    ("edit", "lapsed"),
    [
        ("UPDATE pgvigil.retention_policies SET legal_hold = false", ["executions", "orphans", "retention"]),
        ("UPDATE pgvigil.retention_policies SET policy = 'brief' WHERE policy = 'short'", WAITING),
        (
            "DELETE FROM pgvigil.retention_policies WHERE policy = 'short'",
            ["archive", "executions", "expiry", "retention"],
        ),
        ("INSERT INTO pgvigil.retention_policies VALUES ('own', 1, 1, 1, 1, 1)", ["archive", "orphans", "retention"]),
        ("INSERT INTO pgvigil.final_statuses VALUES ('in-progress')", ["archive"]),
        ("DELETE FROM pgvigil.final_statuses WHERE status = 'cancelled'", ["expiry"]),
        ("UPDATE pgvigil.final_statuses SET status = 'done' WHERE status = 'cancelled'", ["archive", "expiry"]),
    ],
)
def test_consent_lapses_by_whatever_lets_a_job_do_more_whoever_edits_it(
    migrated: Database, edit: str, lapsed: list[str]
) -> None:
    migrated.execute("UPDATE pgvigil.retention_policies SET legal_hold = true")
    accept(migrated)
    with psycopg.connect(as_role(migrated, "ct_admin", "pgvigil_admin"), autocommit=True) as admin:
        admin.execute("SET search_path = pg_catalog")
        admin.execute(edit)  # type: ignore[call-overload]
    assert waits(migrated) == lapsed


# --- a proved backup -------------------------------------------------------------------------------------------------


def test_a_job_stopped_for_want_of_a_backup_is_a_failed_run_and_an_alert(call: Run, migrated: Database) -> None:
    accept(migrated)
    before = migrated.execute(COUNTS)
    done = call("pgvigil", "maintain", "run", "orphans", "--database-url", migrated.url)
    assert done.returncode == 10
    assert (
        "error: job orphans failed: it deletes sessions only with a proved backup younger than 26:00:00, and the last one is none: take one ("
        in done.stderr
    )
    assert "backup create" in done.stderr
    assert migrated.execute(COUNTS) == before
    [(state, error)] = migrated.execute("SELECT state, last_error FROM pgvigil.job_status WHERE job = 'orphans'")
    assert state == "failed"
    assert error.startswith("it deletes sessions only with a proved backup")
    found = json.loads(call("pgvigil", "health", "--json", "--database-url", migrated.url).stdout)
    assert found["checks"]["failed_jobs"]["value"] == 1
    assert "proved backup younger than" in found["checks"]["failed_jobs"]["detail"]
    assert (
        call("pgvigil", "maintain", "run", "retention", "--database-url", migrated.url).returncode == 0
    )  # nothing to delete


@pytest.mark.parametrize(
    ("taken", "code"),
    [("now() - interval '25 hours'", 0), ("now() - interval '27 hours'", 10), ("now() + interval '1 hour'", 10)],
)
def test_only_a_young_backup_will_do(call: Run, migrated: Database, taken: str, code: int) -> None:
    accept(migrated)
    migrated.execute(f"INSERT INTO pgvigil.backup_proofs (taken_at, proof, detail) VALUES ({taken}, 'read', 'x')")
    assert call("pgvigil", "maintain", "run", "orphans", "--database-url", migrated.url).returncode == code


def proofs(database: Database) -> list[tuple[str, str, bool]]:
    query = "SELECT proof, detail, taken_at BETWEEN now() - interval '1 hour' AND now() FROM pgvigil.backup_proofs ORDER BY id"
    return [tuple(row) for row in database.execute(query)]  # type: ignore[misc]


def test_create_verify_the_job_and_record_leave_a_proof(call: Run, fresh: Database, tmp_path: Path) -> None:
    where = ("--backup-dir", tmp_path / "b", "--database-url", fresh.url)
    assert call("pgvigil", "backup", "create", "--verify-backup", "read", *where).returncode == 0
    [archive] = map(str, (tmp_path / "b").glob("*.dump"))
    assert call("pgvigil", "backup", "verify", *where).returncode == 0
    assert proofs(fresh) == [("read", archive, True), ("restore", archive, True)]
    assert call("pgvigil", "maintain", "run", "backup", "--verify-backup", "read", *where).returncode == 0
    assert len(proofs(fresh)) == 3
    words = "pgBackRest 'full' \\ of the night, Ünïcode"
    done = call("pgvigil", "backup", "record", "--external", words, "--database-url", fresh.url)
    assert (done.returncode, done.stdout) == (0, f"recorded, as taken now: {words}\n")
    assert proofs(fresh)[3] == ("external", words, True)
    assert call("pgvigil", "backup", "record", "--external", " ", "--database-url", fresh.url).returncode == 2


@pytest.mark.slow
def test_the_backup_that_migrate_and_revert_begin_with_leaves_a_proof(
    call: Run, existing: Database, tmp_path: Path
) -> None:
    where = ("--backup-dir", tmp_path / "b", "--database-url", existing.url)
    assert call("pgvigil", "migrate", *where).returncode == 0
    [archive] = map(str, (tmp_path / "b").glob("*.dump"))
    assert proofs(existing) == [("read", archive, True)]
    assert call("pgvigil", "maintain", "accept", "orphans", "--database-url", existing.url).returncode == 0
    assert call("pgvigil", "maintain", "run", "orphans", "--database-url", existing.url).returncode == 0
    assert call("pgvigil", "revert", "--to", "010", *where).returncode == 0
    assert len(proofs(existing)) == 2
    refused = call("pgvigil", "migrate", "--rehearse", "--max-lock-ms", "0", "--run-owner-code", *where)
    assert (refused.returncode, len(proofs(existing))) == (4, 3), refused.stderr
    assert call("pgvigil", "revert", "--to", "base", *where).returncode == 0


def test_a_migration_without_a_backup_leaves_no_proof(call: Run, existing: Database) -> None:
    assert call("pgvigil", "migrate", "--backup", "none", "--database-url", existing.url).returncode == 0
    assert proofs(existing) == []


def test_a_backup_of_a_database_that_is_not_migrated_needs_no_proof(
    call: Run, existing: Database, tmp_path: Path
) -> None:
    done = call(
        "pgvigil",
        "backup",
        "create",
        "--verify-backup",
        "read",
        "--backup-dir",
        tmp_path / "b",
        "--database-url",
        existing.url,
    )
    assert (done.returncode, "warning" in done.stderr) == (0, False), done.stderr


def test_verify_leaves_no_proof_in_another_database(
    call: Run, fresh: Database, existing: Database, tmp_path: Path
) -> None:
    where = ("--backup-dir", tmp_path / "b")
    call("pgvigil", "backup", "create", "--verify-backup", "read", *where, "--database-url", existing.url)
    [archive] = (tmp_path / "b").glob("*.dump")
    assert call("pgvigil", "backup", "verify", archive, "--database-url", fresh.url).returncode == 0
    assert proofs(fresh) == []


def test_who_may_not_write_a_proof_is_warned_and_has_a_backup(call: Run, fresh: Database, tmp_path: Path) -> None:
    url = as_role(fresh, "ct_backup", "pg_read_all_data", "pgvigil_admin")
    words = ("--verify-backup", "read", "--backup-dir", tmp_path / "b", "--database-url", url)
    done = call("pgvigil", "backup", "create", *words)
    assert done.returncode == 0, done.stderr
    assert "warning: the database keeps no proof of this backup" in done.stderr
    done = call("pgvigil", "maintain", "run", "backup", *words)
    assert done.returncode == 0, done.stderr
    [(notes,)] = fresh.execute("SELECT notes FROM pgvigil.job_runs WHERE job = 'backup'")
    assert any(note.startswith("the database keeps no proof of this backup") for note in notes)
    assert proofs(fresh) == []


# --- words -----------------------------------------------------------------------------------------------------------


def test_retention_tells_sessions_from_partitions(call: Run, fresh: Database) -> None:
    fresh.execute(
        """INSERT INTO sessions (session_key, agent_from, status) VALUES ('a', 'x', 'completed');
           UPDATE sessions SET archived_at = now() - interval '1 year';
           SELECT pgvigil.ensure_partitions('performance_logs', '2020-01-01Z', '2020-01-02Z');
           INSERT INTO performance_logs (id, operation, duration_ms, success)
           SELECT overlay(pgvigil.uuid_v7_floor('2020-01-01 12:00Z')::text PLACING lpad(to_hex(n), 12, '0') FROM 25)::uuid, 'op', 1, true FROM generate_series(1, 2000) n;
           ANALYZE performance_logs"""
    )
    done = call("pgvigil", "maintain", "run", "retention", "--database-url", fresh.url)
    assert done.stdout == "retention: deleted 1 session, dropped 2 partitions (about 2,000 rows)\n"
    status = call("pgvigil", "maintain", "status", "--database-url", fresh.url).stdout
    assert "  deleted 1 session, dropped 2 partitions (about 2,000 rows)\n" in status
    assert fresh.execute("SELECT last_rows FROM pgvigil.job_status WHERE job = 'retention'") == [(2002,)]


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("expiry", "expired 1 session"),
        ("dormancy", "marked 1 session dormant"),
        ("orphans", "deleted 1 session"),
        ("archive", "archived 0 sessions"),
    ],
)
def test_words_say_what_was_done(call: Run, fresh: Database, job: str, said: str) -> None:
    fresh.execute(
        """INSERT INTO sessions (session_key, agent_from, expires_at, created_at, updated_at, last_activity_at)
           VALUES ('a', 'x', '2020-01-02', '2020-01-01', '2020-01-01', '2020-01-01')"""
    )
    assert call("pgvigil", "maintain", "run", job, "--database-url", fresh.url).stdout == f"{job}: {said}\n"
