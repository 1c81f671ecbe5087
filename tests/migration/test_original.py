"""The application that the enhanced original belongs to: it starts and runs, unchanged, on what pgvigil made."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest

from conftest import DATA, EXISTING_INSTALL, Database, Run, Templates, _new_database
from pgvigil import project
from pgvigil.diagnostics import remake
from pgvigil.migration import sql_lexer
from pgvigil.validate import load_declaration, self_test, validate
from pgvigil.validate.catalog.snapshot import Snapshot

pytestmark = pytest.mark.oldest_and_newest

STARTUP = (DATA / "original_startup.sql").read_text()
THEIRS = {"update_sessions_updated_at", "update_sessions_last_activity", "log_session_lifecycle"}
VIEWS = {"session_monitoring_view", "performance_monitoring_view"}

# What the application does while it runs, and what has to come of it.
RUN_TIME = [
    "INSERT INTO sessions (session_key, agent_from, agent_to, metadata) VALUES ('app-1', 'a', 'b', '{}')",
    "INSERT INTO context_history (session_id, sequence_number, context_type, content, metadata, tokens_used)"
    " SELECT id, 1, 'message', 'text', '{}', 7 FROM sessions WHERE session_key = 'app-1'",
    "INSERT INTO handoff_requests (session_id, requesting_agent, target_agent) SELECT id, 'a', 'b' FROM sessions WHERE session_key = 'app-1'",
    "UPDATE sessions SET metadata = '{\"a\": 1}' WHERE session_key = 'app-1'",
    "UPDATE sessions SET status = 'completed' WHERE session_key = 'app-1'",
    "INSERT INTO session_lifecycle (session_id, event_type, event_data) SELECT id, 'expired', '{}' FROM sessions WHERE session_key = 'app-1'",
    "INSERT INTO session_lifecycle (id, session_id, event_type, event_data) SELECT gen_random_uuid(), id, 'dormant', '{}' FROM sessions WHERE session_key = 'app-1'",
    "INSERT INTO analytics_aggregations (aggregation_type, time_bucket, aggregation_data) VALUES ('hourly_session_stats', date_trunc('hour', now()), '{}')",
    "INSERT INTO analytics_aggregations (aggregation_type, time_bucket, aggregation_data) VALUES ('hourly_session_stats', date_trunc('hour', now()), '{}')",
    "INSERT INTO analytics_aggregations (id, aggregation_type, time_bucket, aggregation_data) VALUES (gen_random_uuid(), 'session_stats', date_trunc('hour', now()), '{}')",
    "INSERT INTO system_metrics (metric_name, metric_value, metric_type, labels) VALUES ('active_sessions', 1, 'gauge', '{}')",
    "INSERT INTO performance_logs (operation, duration_ms, success, session_id, metadata) SELECT 'op', 5, true, id, '{}' FROM sessions WHERE session_key = 'app-1'",
    "UPDATE sessions SET is_dormant = true WHERE session_key = 'app-1'",
    "UPDATE sessions SET is_dormant = false, last_activity_at = now() WHERE session_key = 'app-1'",
    "UPDATE sessions SET archived_at = now(), is_dormant = true WHERE session_key = 'app-1'",
    "SELECT * FROM session_monitoring_view WHERE hours_since_activity > 24 AND is_dormant = false",
    "SELECT * FROM performance_monitoring_view WHERE success_rate_percent < 95",
    "UPDATE sessions SET archived_at = NULL, is_dormant = false WHERE session_key = 'app-1'",
    "UPDATE sessions SET status = 'active' WHERE session_key = 'app-1'",
    "DELETE FROM sessions WHERE session_key = 'app-1'",
    # as an object mapper that sends every column
    "INSERT INTO sessions (session_key, agent_from, agent_to, status, created_at, updated_at, expires_at, metadata, last_activity_at, is_dormant,"
    " archived_at, retention_policy) VALUES ('app-2', 'a', NULL, 'active', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    "UPDATE sessions SET agent_from = 'b', created_at = NULL, updated_at = NULL, expires_at = NULL, metadata = NULL, last_activity_at = NULL,"
    " is_dormant = NULL, archived_at = NULL, retention_policy = NULL WHERE session_key = 'app-2'",
]


def start(database: Database, **options: str) -> None:
    """Statement by statement, as the application sends them."""
    with psycopg.connect(database.url, autocommit=True, **options) as conn:  # type: ignore[arg-type]
        for statement in sql_lexer.statements(STARTUP):
            conn.execute(statement.text)


def verdict(call: Run, url: str) -> dict[str, list[str]]:
    found = call("pgvigil", "validate", "--format", "json", "--database-url", url)
    document = json.loads(found.stdout)
    return {part: [f"{f['kind']} {f['object']}" for f in document[part]] for part in ("findings", "notes")} | {
        "exit": [str(found.returncode)]
    }


@pytest.fixture(params=["migrated", "fresh"])
def installed(request: pytest.FixtureRequest, templates: Templates) -> Iterator[Database]:
    """A migrated database, and a new one."""
    with _new_database(templates.server, templates.get(request.param)) as new:
        yield new


@pytest.fixture
def owned(call: Run, existing: Database) -> Iterator[Database]:
    """A copy of `existing`, migrated by a plain owner."""
    existing.execute(
        f"""DO $$ BEGIN CREATE ROLE plain_owner LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
            GRANT CREATE ON DATABASE {existing.name} TO plain_owner; ALTER SCHEMA public OWNER TO plain_owner;
            DO $$ DECLARE t text; BEGIN
                FOREACH t IN ARRAY '{{sessions,context_history,codebase_snapshots,handoff_requests,app_users,open_sessions,sessions_per_agent}}'::text[] LOOP
                    EXECUTE format('ALTER TABLE %I OWNER TO plain_owner', t);
                END LOOP;
            END $$;
            ALTER FUNCTION update_updated_at_column() OWNER TO plain_owner"""
    )
    done = call("scripts/run-migration.sh", "--database-url", existing.url.replace("postgres@", "plain_owner@"))
    assert done.returncode == 0, done.stderr
    return existing


def test_it_starts_twice_and_runs_as_a_superuser(installed: Database) -> None:
    start(installed)
    start(installed)
    for statement in RUN_TIME:
        installed.execute(statement)


def test_it_starts_twice_and_runs_as_the_owner_of_the_tables(owned: Database) -> None:
    start(owned, user="plain_owner")
    start(owned, user="plain_owner")
    with psycopg.connect(owned.url, user="plain_owner", autocommit=True) as conn:
        for statement in RUN_TIME:
            conn.execute(statement)


def test_it_starts_and_runs_as_a_member_of_the_role_that_owns_a_new_install_of_a_superuser(
    call: Run, fresh: Database
) -> None:
    fresh.execute(
        """DO $$ BEGIN CREATE ROLE original_app LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
           GRANT pgvigil_owner TO original_app"""
    )
    try:
        start(fresh, user="original_app")
        start(fresh, user="original_app")
        with psycopg.connect(fresh.url, user="original_app", autocommit=True) as conn:
            for statement in RUN_TIME:
                conn.execute(statement)
        assert verdict(call, fresh.url)["findings"] == []
        assert (
            len(
                json.loads(call("pgvigil", "health", "--repair", "--json", "--database-url", fresh.url).stdout)[
                    "remade"
                ]
            )
            == 5
        )
    finally:
        fresh.execute("REVOKE pgvigil_owner FROM original_app")


def test_it_runs_with_its_start_up_switched_off_as_a_role_that_owns_nothing(call: Run, fresh: Database) -> None:
    fresh.execute(
        """DO $$ BEGIN CREATE ROLE original_user LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
           GRANT USAGE ON SCHEMA public TO original_user;
           GRANT SELECT, INSERT, UPDATE, DELETE ON sessions, context_history, codebase_snapshots, handoff_requests TO original_user;
           GRANT pgvigil_reader, pgvigil_writer TO original_user;
           GRANT INSERT ON session_lifecycle, analytics_aggregations TO original_user"""
    )
    told = verdict(call, fresh.url)
    assert (told["exit"], told["findings"]) == (["0"], [])
    assert "unexpected grant on table analytics_aggregations to original_user" in told["notes"]
    assert "unexpected grant on table session_lifecycle to original_user" in told["notes"]
    with psycopg.connect(fresh.url, user="original_user", autocommit=True) as conn:
        for statement in RUN_TIME:
            conn.execute(statement)


STRANGERS = """
    CREATE ROLE "its ""own"; CREATE ROLE passes_on; CREATE ROLE more; CREATE ROLE reads;
    GRANT INSERT, UPDATE ON sessions TO "its ""own", passes_on, more, pgvigil_admin, PUBLIC; GRANT SELECT ON sessions TO reads;
    GRANT INSERT ON session_lifecycle TO "its ""own", reads, pgvigil_admin, PUBLIC; GRANT INSERT, UPDATE ON session_lifecycle TO more;
    GRANT INSERT ON session_lifecycle TO passes_on WITH GRANT OPTION; GRANT INSERT ON pgvigil.deleted_sessions TO "its ""own"
"""


def test_a_right_to_write_a_trail_is_a_finding_for_whoever_is_not_the_application(
    shared: Database, reference: Snapshot
) -> None:
    with shared.connect(autocommit=False) as conn:
        conn.execute(STRANGERS)
        report = validate(conn, load_declaration(project.SPEC), "public", reference=reference)
        strict = validate(conn, load_declaration(project.SPEC), "public", reference=reference, strict=True)
        conn.rollback()
    allowed = 'grant on table session_lifecycle to "its ""own"'
    assert {finding.object for finding in report.findings} == {
        'grant on table pgvigil.deleted_sessions to "its ""own"',
        *(
            f"grant on table session_lifecycle to {role}"
            for role in ("PUBLIC", "more", "passes_on", "reads", "pgvigil_admin")
        ),
    }
    assert allowed in {note.object for note in report.notes}
    assert allowed in {finding.object for finding in strict.findings}


SELF_TEST = ("pgvigil", "validate", "--self-test", "--run-owner-code")


def test_the_self_test_tells_in_a_note_what_its_triggers_do_not_do(call: Run, installed: Database) -> None:
    start(installed)
    done = call(*SELF_TEST, "--format", "json", "--database-url", installed.url)
    told = json.loads(done.stdout)
    assert (done.returncode, told["findings"]) == (0, [])
    assert [note for note in told["notes"] if "a new session leaves one event: created" in note["found"]]
    assert call(*SELF_TEST, "--strict", "--database-url", installed.url).returncode == 1


def test_setup_runs_again_where_it_has_started(call: Run, fresh: Database) -> None:
    start(fresh)
    done = call("scripts/setup-enhanced-db.sh", "--database-url", fresh.url)
    assert done.returncode == 0, done.stderr
    assert "warning: the application has put its own in the place of trigger" in done.stderr


@pytest.mark.parametrize(
    ("function", "of"),
    [
        ("archive_deleted_session()", 'trigger sessions."00_archive_deleted_session"'),
        ("touch_session()", "trigger sessions.watch_session"),
        ("guard_archived_session()", "trigger context_history.guard_archived_session"),
        ("count_added_context()", "trigger context_history.count_added_context"),
        ("set_default_expiry()", "trigger sessions.set_default_expiry"),
    ],
)
def test_the_self_test_finds_what_does_not_work_beside_its_triggers(fresh: Database, function: str, of: str) -> None:
    start(fresh)
    fresh.execute(
        f"CREATE OR REPLACE FUNCTION pgvigil.{function} RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN coalesce(NEW, OLD); END $$"
    )
    with fresh.connect() as conn:
        found = self_test(conn, "public", frozenset(f"trigger sessions.{name}" for name in THEIRS))
    assert of in {finding.object for finding in found if finding.severity == "finding"}


@pytest.mark.parametrize("job", ["expiry", "dormancy", "archive", "retention"])
def test_jobs_work_while_its_triggers_stand_in_for_ours(fresh: Database, job: str) -> None:
    start(fresh)
    fresh.execute(
        """INSERT INTO sessions (session_key, agent_from, status, expires_at) VALUES ('due', 'a', 'active', now() - interval '1 hour');
           INSERT INTO sessions (session_key, agent_from, status, archived_at) VALUES ('old', 'a', 'archived', now() - interval '2 years');
           INSERT INTO sessions (session_key, agent_from, status, last_activity_at) VALUES ('idle', 'a', 'active', now() - interval '9 hours');
           INSERT INTO sessions (session_key, agent_from, status, last_activity_at) VALUES ('done', 'a', 'completed', now() - interval '9 hours')"""
    )
    assert fresh.execute("CALL pgvigil.run_job(%s)", (job,)) == [(1,)]


def test_a_session_that_is_only_half_unarchived_is_told_the_statement_that_does(installed: Database) -> None:
    start(installed)
    for statement in RUN_TIME[:1] + RUN_TIME[14:15]:
        installed.execute(statement)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        installed.execute("UPDATE sessions SET is_dormant = false WHERE session_key = 'app-1'")
    hint = caught.value.diag.message_hint or ""
    assert hint.startswith("To write to it again, first: SELECT pgvigil.reactivate_session(")
    installed.execute(hint.partition("first: ")[2])
    installed.execute("UPDATE sessions SET is_dormant = false WHERE session_key = 'app-1'")


def test_what_protects_data_survives_its_start(installed: Database) -> None:
    start(installed)
    for statement in RUN_TIME[:2] + RUN_TIME[14:15]:
        installed.execute(statement)
    for refused in (
        "UPDATE sessions SET agent_to = 'x' WHERE session_key = 'app-1'",
        "DELETE FROM context_history WHERE session_id = (SELECT id FROM sessions WHERE session_key = 'app-1')",
    ):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            installed.execute(refused)
    assert installed.execute("SELECT expires_at IS NOT NULL FROM sessions WHERE session_key = 'app-1'") == [(True,)]
    installed.execute("DELETE FROM sessions WHERE session_key = 'app-1'")
    assert installed.execute("SELECT jsonb_array_length(events) > 1 FROM pgvigil.deleted_sessions") == [(True,)]


def test_what_it_replaces_is_one_note_of_validate_and_migrate_finds_nothing_to_do(
    call: Run, installed: Database
) -> None:
    before = verdict(call, installed.url)["notes"]
    start(installed)
    found = verdict(call, installed.url)
    assert (found["findings"], found["exit"]) == ([], ["0"])
    assert [note for note in found["notes"] if "start-up" in note] == ["different start-up of the application"]
    of_ours = [note for note in found["notes"] if note not in before and not note.startswith("unexpected index")]
    assert of_ours == ["different start-up of the application"]
    again = call("scripts/run-migration.sh", "--database-url", installed.url)
    assert (again.returncode, again.stdout.startswith("up to date")) == (0, True), again.stderr


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (
            "DROP TRIGGER update_sessions_updated_at ON sessions; CREATE TRIGGER update_sessions_updated_at AFTER UPDATE ON sessions"
            " FOR EACH ROW EXECUTE FUNCTION update_updated_at_column()",
            "different trigger sessions.update_sessions_updated_at",
        ),
        (
            "DROP TRIGGER log_session_lifecycle ON sessions; CREATE TRIGGER log_session_lifecycle AFTER INSERT OR UPDATE ON sessions"
            " FOR EACH ROW WHEN (NEW.agent_from <> 'x') EXECUTE FUNCTION log_session_lifecycle_event()",
            "different trigger sessions.log_session_lifecycle",
        ),
        (
            "DROP TRIGGER log_session_lifecycle ON sessions; CREATE TRIGGER log_session_lifecycle AFTER INSERT OR UPDATE ON sessions"
            " FOR EACH ROW EXECUTE FUNCTION update_updated_at_column()",
            "different trigger sessions.log_session_lifecycle",
        ),
        (
            "ALTER TABLE sessions DISABLE TRIGGER update_sessions_updated_at",
            "disabled trigger sessions.update_sessions_updated_at",
        ),
        (
            "DROP TRIGGER guard_legal_hold ON sessions; CREATE TRIGGER guard_legal_hold BEFORE DELETE ON sessions"
            " FOR EACH ROW EXECUTE FUNCTION update_updated_at_column()",
            "different trigger sessions.guard_legal_hold",
        ),
        (
            "CREATE OR REPLACE VIEW session_monitoring_view AS SELECT *, 0 AS more FROM session_monitoring_view_of_theirs",
            "unexpected column session_monitoring_view.more",
        ),
        ("DROP TRIGGER log_session_lifecycle ON sessions", "missing trigger sessions.log_session_lifecycle"),
    ],
)
def test_anything_else_in_those_places_is_a_finding(call: Run, fresh: Database, change: str, finding: str) -> None:
    start(fresh)
    fresh.execute("CREATE VIEW session_monitoring_view_of_theirs AS SELECT * FROM session_monitoring_view")
    if "more" in change:
        fresh.execute("DROP VIEW session_monitoring_view_of_theirs, session_monitoring_view")
        fresh.execute("CREATE VIEW session_monitoring_view_of_theirs AS SELECT 1 AS id")
        change = change.replace("OR REPLACE ", "")
        finding = "view session_monitoring_view"
    fresh.execute(change)
    found = verdict(call, fresh.url)
    assert any(finding in one for one in found["findings"]), found


def test_health_says_what_was_replaced_and_repair_makes_it_again(call: Run, installed: Database) -> None:
    assert installed.execute("SELECT * FROM pgvigil.replaced_objects()") == []
    start(installed)
    assert {row[1] for row in installed.execute("SELECT * FROM pgvigil.replaced_objects()")} == THEIRS | VIEWS
    sick = json.loads(call("pgvigil", "health", "--json", "--database-url", installed.url).stdout)
    check = sick["checks"]["replaced_objects"]
    assert (check["level"], check["value"]) == ("warning", 5)
    assert "trigger log_session_lifecycle on sessions calls log_session_lifecycle_event()" in check["detail"].replace(
        "public.", ""
    )
    done = call("pgvigil", "health", "--repair", "--json", "--database-url", installed.url)
    document = json.loads(done.stdout)
    assert len(document["remade"]) == 5
    assert done.stderr.count("making again: ") == 5
    assert document["checks"]["replaced_objects"]["level"] == "ok"
    assert verdict(call, installed.url)["findings"] == []
    assert not any("start-up" in note for note in verdict(call, installed.url)["notes"])
    assert installed.execute("SELECT count(*) FROM pg_proc WHERE proname = 'log_session_lifecycle_event'") == [(1,)]
    for statement in RUN_TIME:
        installed.execute(statement)


def test_the_owner_and_a_superuser_over_the_owner_repair_and_nobody_else(call: Run, owned: Database) -> None:
    for user in ("plain_owner", "postgres"):
        start(owned, user="plain_owner")
        assert len(owned.execute("SELECT * FROM pgvigil.replaced_objects()")) == 5
        call("pgvigil", "health", "--repair", "--database-url", owned.url.replace("postgres@", f"{user}@"))
        assert owned.execute("SELECT * FROM pgvigil.replaced_objects()") == []
        assert owned.execute(
            "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname LIKE '%\\_monitoring\\_view'"
        ) == [("plain_owner",)]
    start(owned, user="plain_owner")
    owned.execute(
        "DO $$ BEGIN CREATE ROLE not_the_owner LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; GRANT pgvigil_admin TO not_the_owner"
    )
    refused = call("pgvigil", "health", "--repair", "--database-url", owned.url.replace("postgres@", "not_the_owner@"))
    assert refused.returncode == 4
    assert 'role "not_the_owner" may not make these again' in refused.stderr
    assert len(owned.execute("SELECT * FROM pgvigil.replaced_objects()")) == 5


def test_a_repair_that_meets_another_view_changes_nothing(call: Run, fresh: Database) -> None:
    start(fresh)
    fresh.execute("DROP VIEW session_monitoring_view; CREATE VIEW session_monitoring_view AS SELECT 1 AS mine")
    refused = call("pgvigil", "health", "--repair", "--database-url", fresh.url)
    assert refused.returncode == 4
    assert "session_monitoring_view" in refused.stderr
    assert len(fresh.execute("SELECT * FROM pgvigil.replaced_objects()")) == 5


def test_events_that_are_there_twice_are_counted(fresh: Database) -> None:
    fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('one', 'a')")
    fresh.execute("UPDATE sessions SET status = 'pending'; UPDATE sessions SET status = 'active'")
    count = "SELECT value::integer, level FROM pgvigil.integrity_report() WHERE check_name = 'duplicate_events'"
    assert fresh.execute(count) == [(0, "ok")]
    start(fresh)
    fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('two', 'a')")
    assert fresh.execute(count) == [(1, "warning")]
    fresh.execute(
        """UPDATE sessions SET archived_at = now() WHERE session_key = 'two';
           INSERT INTO session_lifecycle (session_id, event_type) SELECT id, 'archived' FROM sessions WHERE session_key = 'two'"""
    )
    assert fresh.execute(count) == [(2, "warning")]
    fresh.execute("UPDATE session_lifecycle SET created_at = created_at - interval '2 days'")
    assert fresh.execute(count) == [(0, "ok")]


def test_a_view_that_lost_the_rights_of_its_reader_while_row_security_is_on_is_critical(
    call: Run, fresh: Database
) -> None:
    start(fresh)
    level = "SELECT level FROM pgvigil.integrity_report() WHERE check_name = 'views_past_row_security'"
    assert fresh.execute(level) == [("ok",)]
    fresh.execute("ALTER TABLE sessions ENABLE ROW LEVEL SECURITY")
    invoker = fresh.server.major >= 15
    assert fresh.execute(level) == [("critical" if invoker else "ok",)]
    if invoker:
        assert "different view session_monitoring_view" in verdict(call, fresh.url)["findings"]
        call("pgvigil", "health", "--repair", "--database-url", fresh.url)
        assert fresh.execute(level) == [("ok",)]


def test_each_trigger_and_view_that_can_be_replaced_can_be_made_again(fresh: Database) -> None:
    made = remake.definitions(project.MIGRATIONS, has_invoker=True)
    fresh.execute("DO $$ DECLARE t record; BEGIN FOR t IN SELECT tgname, tgrelid::regclass AS r FROM pg_trigger WHERE NOT tgisinternal AND tgparentid = 0"
                  " AND tgrelid = ANY ('{sessions,context_history,codebase_snapshots,handoff_requests}'::regclass[]) LOOP"
                  " EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.r); END LOOP; END $$")  # fmt: skip
    missing = fresh.execute("SELECT kind, name, of_table FROM pgvigil.replaced_objects()")
    assert {key for key in made if key[0] == "trigger"} == set(missing)
    assert {key[1] for key in made if key[0] == "view"} >= VIEWS


# ── The databases that it made ────────────────────────────────────────────────────────────────────────────────────────

ROWS = """INSERT INTO sessions (session_key, agent_from, status) SELECT 's' || n, 'a', 'active' FROM generate_series(10, 59) n;
    INSERT INTO context_history (session_id, sequence_number, context_type, content) SELECT id, 1, 'message', 'x' FROM sessions WHERE session_key LIKE 's__';
    UPDATE sessions SET status = 'completed' WHERE session_key LIKE 's_1';
    INSERT INTO system_metrics (metric_name, metric_value, metric_type) SELECT 'm', n, 'gauge' FROM generate_series(1, 30) n;
    INSERT INTO performance_logs (operation, duration_ms, success, session_id) SELECT 'op', 5, true, id FROM sessions WHERE session_key LIKE 's__';
    INSERT INTO analytics_aggregations (aggregation_type, time_bucket, aggregation_data)
    SELECT t, date_trunc('hour', now()), '{}' FROM unnest('{session_stats,hourly_session_stats,hourly_session_stats}'::text[]) t"""
# What its migration does with an application's database that is there: the columns first; its tables come with the start-up.
COLUMNS = """ALTER TABLE sessions ADD COLUMN last_activity_at timestamptz DEFAULT now(), ADD COLUMN is_dormant boolean DEFAULT false,
        ADD COLUMN archived_at timestamptz, ADD COLUMN retention_policy varchar(50) DEFAULT 'standard';
    ALTER TABLE context_history ADD COLUMN processing_time_ms integer, ADD COLUMN content_size_bytes integer, ADD COLUMN tokens_used integer"""


def half_of_it() -> str:
    """Return the statements that worked although the dollar quotes were wrong: no function, trigger or view is among
    them.
    """
    return ";\n".join(
        s.text
        for s in sql_lexer.statements(STARTUP)
        if s.starts_with("CREATE", "TABLE") or s.starts_with("CREATE", "INDEX")
    )


def adopted(call: Run, database: Database) -> str:
    counts = "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM context_history), (SELECT count(*) FROM session_lifecycle)," \
             " (SELECT count(*) FROM system_metrics WHERE metric_name <> 'migration_completed'), (SELECT count(*) FROM performance_logs)," \
             " (SELECT count(*) FROM analytics_aggregations)"  # fmt: skip
    before = database.execute(counts)
    done = call("scripts/run-migration.sh", "--database-url", database.url)
    assert done.returncode == 0, done.stderr
    assert database.execute(counts) == before
    assert f"{before[0][5]} of its {before[0][5]} rows are now in analytics_aggregations" in done.stdout
    assert database.execute(
        "SELECT count(*) FROM pgvigil.displaced_tables WHERE rows_adopted IS DISTINCT FROM rows_found"
    ) == [(0,)]
    assert verdict(call, database.url)["findings"] == []
    return done.stdout


def test_a_database_that_the_application_made_at_its_start_migrates(call: Run, database: Database) -> None:
    start(database)
    database.execute(ROWS)
    adopted(call, database)
    start(database)
    assert verdict(call, database.url)["findings"] == []


def test_a_database_that_the_enhanced_original_completed_migrates(call: Run, database: Database) -> None:
    database.execute(EXISTING_INSTALL.read_text())
    database.execute(COLUMNS)
    start(database)
    database.execute(ROWS)
    adopted(call, database)


@pytest.mark.slow
def test_a_database_that_the_enhanced_original_left_half_done_migrates(call: Run, database: Database) -> None:
    database.execute(EXISTING_INSTALL.read_text())
    database.execute(COLUMNS)
    database.execute(half_of_it())
    database.execute(
        "CREATE TABLE performance_monitoring_view AS SELECT 1 AS saved"
    )  # a table for the view that failed
    database.execute(ROWS)
    assert (
        "table performance_monitoring_view had the name of a view of pgvigil: it is kept whole as pgvigil.legacy_performance_monitoring_view"
        in adopted(call, database)
    )
    assert database.execute("SELECT saved FROM pgvigil.legacy_performance_monitoring_view") == [(1,)]
    start(database)
    assert verdict(call, database.url)["findings"] == []
