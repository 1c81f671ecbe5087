"""Code of the owner of the tables runs with the owner's rights, whoever runs pgvigil."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import LiteralString

import pytest
from starlette.testclient import TestClient

from conftest import Database, Run
from pgvigil import web
from pgvigil.web import app as application
from security.conftest import COUNTED, Installation, is_superuser
from security.planted import TRIGGERS, plant_on_application, plant_triggers

pytestmark = pytest.mark.in_full


def test_planted_triggers_are_sprung_by_a_superuser_s_own_statement(mined: Installation) -> None:
    """The other tests would see it."""
    plant_on_application(mined)
    mined.execute("UPDATE {app}.sessions SET agent_to = 'x'")
    assert mined.turned


@pytest.mark.in_short
def test_migrate_springs_no_planted_trigger(mined: Installation) -> None:
    plant_on_application(mined)
    mined.migrate()
    assert not mined.turned


@pytest.mark.in_short
def test_the_jobs_spring_no_planted_trigger(mined: Installation) -> None:
    mined.migrate()
    plant_on_application(mined)
    plant_triggers(
        mined,
        "pgvigil.job_runs",
        "pgvigil.jobs",
        "pgvigil.session_counters",
        "pgvigil.deleted_sessions",
        "{app}.session_lifecycle",
    )
    mined.run_all_jobs()
    assert mined.execute("SELECT count(*) FROM {app}.sessions WHERE status = 'expired'") == [(5,)]
    assert not mined.turned


def test_a_job_calls_nothing_with_more_rights_that_a_trigger_of_its_run_has_replaced(mined: Installation) -> None:
    mined.migrate()
    mined.as_owner(
        """CREATE FUNCTION {app}.replaces() RETURNS trigger LANGUAGE plpgsql AS $f$
           BEGIN
               CREATE OR REPLACE FUNCTION pgvigil.release_job(run_id bigint) RETURNS void LANGUAGE plpgsql
               AS $g$ BEGIN PERFORM {app}.spring(); END $g$;
               RETURN NEW;
           END $f$;
           CREATE TRIGGER replaces BEFORE UPDATE ON pgvigil.job_runs FOR EACH ROW EXECUTE FUNCTION {app}.replaces()"""
    )
    code, said = mined.pgvigil("maintain", "run", "expiry")
    assert (code, "expired 5 sessions" in said) == (0, True), said
    assert not mined.turned


# Each defers another one while it fires, as long as it fires with the owner's rights.
DEFERRED_ANEW = """
    CREATE TABLE {app}.later (n integer);
    CREATE FUNCTION {app}.again() RETURNS trigger LANGUAGE plpgsql AS $f$
    BEGIN
        IF current_user = 'x_owner' THEN
            SET CONSTRAINTS ALL DEFERRED;
            INSERT INTO {app}.later VALUES (1);
        ELSE
            PERFORM {app}.spring();
        END IF;
        RETURN NULL;
    END $f$;
    CREATE CONSTRAINT TRIGGER again AFTER INSERT ON {app}.later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {app}.again();
    CREATE TRIGGER first_time AFTER UPDATE OR DELETE ON pgvigil.{table} FOR EACH ROW EXECUTE FUNCTION {app}.again()"""


@pytest.mark.parametrize(
    ("table", "words"),
    [("job_runs", ["maintain", "run", "expiry"]), ("migrations", ["revert", "--to", "017", "--backup", "none"])],
    ids=["a job", "revert"],
)
def test_no_trigger_is_left_for_the_commit_by_one_that_defers_it_anew(
    mined: Installation, table: str, words: list[str]
) -> None:
    mined.migrate()
    mined.as_owner(DEFERRED_ANEW.replace("{table}", table))
    code, said = mined.pgvigil(*words)
    assert (code > 0, "deferred triggers may be left for the COMMIT" in said) == (True, True), said
    assert not mined.turned


def test_health_with_repair_springs_no_planted_trigger(mined: Installation) -> None:
    mined.migrate()
    mined.execute("UPDATE pgvigil.session_counters SET total_tokens = 7", user="x_owner")
    plant_on_application(mined)
    plant_triggers(mined, "pgvigil.session_counters", "pgvigil.session_counter_changes")
    _, said = mined.pgvigil("health", "--repair")
    assert "the counters of 5 sessions" in said
    assert not mined.turned


def test_a_kill_springs_no_planted_trigger(mined: Installation) -> None:
    mined.migrate()
    with mined.connect("x_owner") as target:
        [session] = target.execute(
            "SELECT instrumentation.register_session(instrumentation.register_instance('host'))"
        ).fetchone() or [None]
        plant_triggers(mined, "instrumentation.kill_attempts", "instrumentation.sessions")
        for mode in ("cancel", "terminate", "terminate"):
            code, said = mined.pgvigil("sessions", "kill", str(session), "--mode", mode)
            assert code == 0, said
        assert mined.pgvigil("sessions", "kill", "00000000-0000-7000-8000-000000000000")[0] == 4
    assert not mined.turned


def test_validate_springs_no_planted_trigger(mined: Installation) -> None:
    mined.migrate()
    plant_on_application(mined)
    mined.pgvigil("validate")
    assert not mined.turned


def test_revert_springs_no_planted_trigger(mined: Installation) -> None:
    mined.migrate()
    plant_on_application(mined)
    plant_triggers(mined, "pgvigil.migrations")
    code, said = mined.pgvigil("revert", "--to", "base", "--backup", "none")
    assert code == 0, said
    assert not mined.turned


def test_a_trigger_on_alembic_s_ledger_is_refused_before_it_fires(mined: Installation) -> None:
    mined.migrate()
    plant_triggers(mined, "pgvigil.alembic_version")
    code, said = mined.pgvigil("revert", "--to", "base", "--backup", "none")
    assert (code, "pgvigil.alembic_version has triggers" in said) == (4, True)
    assert not mined.turned


REPLACED = {
    "job_step": """CREATE OR REPLACE FUNCTION pgvigil.job_step(run_id bigint, refused integer)
        RETURNS TABLE (total bigint, more boolean, failure text, refused_now integer) LANGUAGE plpgsql AS $$ BEGIN PERFORM {app}.spring(); END $$""",
    "run_job": """CREATE OR REPLACE PROCEDURE pgvigil.run_job(job_name text, only_if_due boolean DEFAULT false, INOUT rows bigint DEFAULT NULL)
        LANGUAGE plpgsql AS $$ BEGIN PERFORM {app}.spring(); rows := 0; END $$""",
    "begin_job": """CREATE OR REPLACE FUNCTION pgvigil.begin_job(job_name text, only_if_due boolean) RETURNS bigint
        LANGUAGE plpgsql AS $$ BEGIN PERFORM {app}.spring(); RETURN NULL; END $$""",
    "integrity_report": """CREATE OR REPLACE FUNCTION pgvigil.check_jobs(deep boolean) RETURNS TABLE (check_name text, value numeric, detail text, fix text)
        LANGUAGE plpgsql AS $$ BEGIN PERFORM {app}.spring(); END $$""",
    "job_status": """CREATE FUNCTION {app}.state() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM {app}.spring(); RETURN 'done'; END $$;
        DROP VIEW pgvigil.job_status CASCADE;
        CREATE VIEW pgvigil.job_status AS SELECT j.job, j.every, j.enabled, j.purpose, {app}.state() AS state, NULL::timestamptz AS last_started,
            NULL::timestamptz AS last_finished, 0::bigint AS last_rows, ''::text AS last_error, NULL::timestamptz AS last_success, true AS due, true AS overdue,
            j.at, j.needs_client, '{}'::text[] AS last_notes, now() AS next_due FROM pgvigil.jobs j""",
    "an argument's type": """CREATE DOMAIN {app}.evil AS bigint CHECK ({app}.spring());
        DO $$ DECLARE body text := pg_get_functiondef('pgvigil.job_step(bigint, integer)'::regprocedure);
        BEGIN
            DROP FUNCTION pgvigil.job_step(bigint, integer);
            EXECUTE replace(body, 'run_id bigint', 'run_id {app}.evil');
        END $$""",
    "a result's type": """CREATE DOMAIN {app}.evil AS numeric CHECK ({app}.spring());
        DO $$ DECLARE body text := pg_get_functiondef('pgvigil.check_jobs(boolean)'::regprocedure);
        BEGIN
            DROP FUNCTION pgvigil.check_jobs(boolean);
            EXECUTE replace(body, 'value numeric', 'value {app}.evil');
        END $$""",
    "a default of an argument": """DO $$ BEGIN EXECUTE replace(pg_get_functiondef('pgvigil.run_job(text, boolean, bigint)'::regprocedure),
        'DEFAULT false', 'DEFAULT (query_to_xml(''SELECT {app}.spring()'', true, true, '''') IS NULL)'); END $$""",
    "a view that has the server run a statement": """DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW pgvigil.job_status AS ' || replace(
        pg_get_viewdef('pgvigil.job_status'::regclass), 'j.purpose,', 'query_to_xml(''SELECT {app}.spring()'', true, true, '''')::text AS purpose,'); END $$""",
    "a view that has the server read another": """CREATE VIEW {app}.trap AS SELECT {app}.spring();
        DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW pgvigil.job_status AS ' || replace(
        pg_get_viewdef('pgvigil.job_status'::regclass), 'j.purpose,', 'table_to_xml(''{app}.trap'', true, true, '''')::text AS purpose,'); END $$""",
    "a parsed body that has the server run a statement": """CREATE OR REPLACE FUNCTION pgvigil.is_running(job_name text) RETURNS boolean
        LANGUAGE sql STABLE BEGIN ATOMIC SELECT query_to_xml('SELECT {app}.spring()', true, true, '') IS NULL; END""",
    "a view that calls a function of the owner's beside ours": """CREATE FUNCTION pgvigil.state() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM {app}.spring(); RETURN true; END $$;
        DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW pgvigil.job_status AS ' || replace(
        pg_get_viewdef('pgvigil.job_status'::regclass), 'j.purpose,', '(pgvigil.state() || j.purpose) AS purpose,'); END $$""",
    "a view that reads text as a row with a domain": """CREATE DOMAIN pgvigil.evil AS integer;
        CREATE TYPE {app}.evil_row AS (one pgvigil.evil);
        ALTER DOMAIN pgvigil.evil ADD CHECK ({app}.spring());
        DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW pgvigil.job_status AS ' || replace(
        pg_get_viewdef('pgvigil.job_status'::regclass), 'j.purpose,', '((''('' || length(j.purpose)::text || '')'')::{app}.evil_row)::text AS purpose,'); END $$""",
    "a domain of ours": """CREATE DOMAIN pgvigil.evil AS text;
        ALTER TABLE pgvigil.alert_thresholds ADD COLUMN extra pgvigil.evil;
        ALTER DOMAIN pgvigil.evil ADD CHECK ({app}.spring()) NOT VALID""",
    "the body that is written from the policies": """DO $$ BEGIN EXECUTE replace(pg_get_functiondef('pgvigil.set_default_expiry()'::regprocedure),
        'RETURN NEW', 'PERFORM {app}.spring(); RETURN NEW'); END $$""",
    "a path for the body that is written from the policies": "ALTER FUNCTION pgvigil.set_default_expiry() SET search_path = {app}",
    "a function in an index, which the planner computes": """CREATE FUNCTION {app}.planned() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN {app}.spring(); END $$;
        CREATE INDEX evil ON pgvigil.jobs (job) WHERE {app}.planned()""",
    "a function in an index of the ledger": """CREATE FUNCTION {app}.planned() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN {app}.spring(); END $$;
        CREATE INDEX evil ON pgvigil.migrations (revision) WHERE {app}.planned()""",
    "a function in an index of the application's": """CREATE FUNCTION {app}.planned(boolean) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN {app}.spring(); END $$;
        CREATE INDEX evil ON {app}.sessions (id) WHERE {app}.planned(is_dormant AND false)""",
    "a rule": "CREATE RULE also AS ON UPDATE TO pgvigil.alert_thresholds DO ALSO SELECT {app}.spring()",
    "a security barrier taken off": "ALTER FUNCTION pgvigil.job_step(bigint, integer) SECURITY INVOKER",
    "a path taken off": "ALTER FUNCTION pgvigil.job_step(bigint, integer) RESET search_path",
    "a table of ours as a view": """ALTER TABLE pgvigil.alert_thresholds RENAME TO elsewhere;
        CREATE VIEW pgvigil.alert_thresholds AS SELECT e.* FROM pgvigil.elsewhere e WHERE {app}.spring()""",
    "a type of a column of ours": """CREATE TYPE {app}.evil AS ENUM ('x');
        CREATE FUNCTION {app}.evil_json({app}.evil) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM {app}.spring(); RETURN '{"cast": true}'; END $$;
        CREATE CAST ({app}.evil AS json) WITH FUNCTION {app}.evil_json({app}.evil);
        ALTER TABLE pgvigil.jobs ADD COLUMN extra {app}.evil""",
}


@pytest.mark.parametrize("replaced", REPLACED)
def test_what_the_owner_has_replaced_is_not_called_by_a_superuser(mined: Installation, replaced: str) -> None:
    mined.migrate()
    mined.as_owner(REPLACED[replaced])
    # Each asks the same function; that each does is seen by one of them.
    commands = [
        ("health",),
        ("maintain", "run", "expiry"),
        ("maintain", "run-due"),
        ("maintain", "status"),
        ("report",),
    ]
    for words in commands if replaced == "job_step" else commands[:1]:
        code, said = mined.pgvigil(*words)
        assert (code, "not as pgvigil made them" in said) == (3, True), f"{words}: {said}"
    if replaced == "job_step":
        assert mined.pgvigil("revert", "--to", "base", "--backup", "none")[0] in (3, 4)
    mined.pgvigil("validate")
    assert not mined.turned


def test_the_owner_may_run_what_the_owner_has_replaced(mined: Installation) -> None:
    mined.migrate()
    mined.as_owner(REPLACED["run_job"])
    done = mined.call(
        "pgvigil", "maintain", "run", "expiry", "--database-url", mined.database.url.replace("postgres@", "x_owner@")
    )
    assert done.returncode == 0, done.stderr


def test_an_index_that_calls_the_owner_s_function_with_columns_and_a_view_of_the_application_keep_nobody_out(
    mined: Installation,
) -> None:
    """The first runs where rows are written, and none of these commands reads the second."""
    mined.migrate()
    mined.as_owner(
        """CREATE FUNCTION {app}.plain_key(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
           BEGIN PERFORM {app}.spring(); RETURN lower($1); END $$;
           CREATE INDEX by_plain_key ON {app}.sessions ({app}.plain_key(btrim(session_key::text)));
           CREATE FUNCTION {app}.described(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM {app}.spring(); RETURN $1; END $$;
           DO $do$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW {app}.session_monitoring_view AS ' || replace(
               pg_get_viewdef('{app}.session_monitoring_view'::regclass), 's.agent_to,', '({app}.described(s.agent_to))::varchar(100) AS agent_to,'); END $do$"""
    )
    for words in (("maintain", "run", "expiry"), ("health",)):
        code, said = mined.pgvigil(*words)
        assert code in (0, 1), said
    assert not mined.turned


def test_what_the_owner_has_replaced_is_not_called_by_a_superuser_s_archive_and_history(mined: Installation) -> None:
    mined.migrate()
    mined.as_owner(
        """CREATE OR REPLACE FUNCTION pgvigil.application_schema() RETURNS name LANGUAGE plpgsql STABLE AS $$
           BEGIN PERFORM {app}.spring(); RETURN 'public'; END $$"""
    )
    for words in (("archive", "list"), ("history", "performance")):
        assert mined.pgvigil(*words)[0] == 3, words
    assert not mined.turned


@pytest.mark.in_short
def test_what_was_not_replaced_is_called(mined: Installation) -> None:
    mined.migrate()
    commands = [("maintain", "run", "expiry"), ("maintain", "status"), ("health",), ("sessions", "list"), ("report",)]
    for words in [*commands, ("history", "performance"), ("history", "sessions"), ("archive", "list")]:
        code, said = mined.pgvigil(*words)
        assert code in (0, 1), said


def test_a_body_written_from_policies_with_hostile_names_is_as_pgvigil_made_it(mined: Installation) -> None:
    mined.migrate()
    mined.execute(
        """INSERT INTO pgvigil.retention_policies VALUES ('%2$s', 5, 1, 1, 1, 1), ('{' || 'app}', 5, 1, 1, 1, 1),
               (E'"\\\\''\n$body$', 6, 1, 1, 1, 1)""",
        user="x_owner",
    )
    code, said = mined.pgvigil("health")
    assert code in (0, 1), said


def test_a_replaced_view_of_sessions_is_not_read_by_a_superuser(mined: Installation) -> None:
    mined.migrate()
    mined.as_owner(
        """CREATE OR REPLACE FUNCTION instrumentation.may_read(username text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
           BEGIN PERFORM {app}.spring(); RETURN true; END $$"""
    )
    assert mined.pgvigil("sessions", "list")[0] == 3
    assert not mined.turned


def test_a_type_s_own_cast_to_json_runs_with_the_owner_s_rights_when_a_row_is_kept(mined: Installation) -> None:
    mined.as_owner(
        """CREATE TYPE {app}.evil AS ENUM ('x');
           CREATE FUNCTION {app}.evil_json({app}.evil) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM {app}.spring(); RETURN '{"cast": true}'; END $$;
           CREATE CAST ({app}.evil AS json) WITH FUNCTION {app}.evil_json({app}.evil);
           ALTER TABLE {app}.sessions ADD COLUMN extra {app}.evil DEFAULT 'x'"""
    )
    mined.migrate()
    mined.execute("DELETE FROM {app}.sessions WHERE session_key = 'session-1'")
    mined.run_all_jobs()
    assert mined.execute("SELECT last_row ->> 'extra' FROM pgvigil.deleted_sessions") == [('{"cast": true}',)]
    assert not mined.turned


# What the owner says is IMMUTABLE the server computes when an object is made. Validate makes one again to read its two spellings.
LURES = {
    "an index": """DROP INDEX {app}.idx_sessions_is_dormant;
                   CREATE INDEX idx_sessions_is_dormant ON {app}.sessions (is_dormant) WHERE is_dormant AND {app}.lure()""",
    "a CHECK": """ALTER TABLE {app}.session_lifecycle DROP CONSTRAINT session_lifecycle_event_type_check;
                  ALTER TABLE {app}.session_lifecycle ADD CONSTRAINT session_lifecycle_event_type_check CHECK (event_type <> 'x' OR {app}.lure())""",
    # A literal of a row type is read when the text is: by the CHECK of a domain in it, which lets one be written as long as it is not there.
    "a view": """CREATE DOMAIN {app}.lure_domain AS integer;
                 CREATE TYPE {app}.lure_row AS (one {app}.lure_domain);
                 CREATE OR REPLACE VIEW {app}.session_content_view AS SELECT c.session_id, c.context_count, c.total_tokens, c.total_content_bytes
                     FROM pgvigil.session_counters c WHERE '(1)'::{app}.lure_row IS NOT NULL;
                 ALTER DOMAIN {app}.lure_domain ADD CONSTRAINT lure CHECK ({app}.lure()) NOT VALID""",
}


@pytest.mark.in_short
@pytest.mark.parametrize("lure", LURES)
@pytest.mark.parametrize("who", ["postgres", "x_stranger"])
def test_an_expression_that_validate_reads_again_runs_with_its_owner_s_rights(
    mined: Installation, lure: str, who: str
) -> None:
    """A superuser takes the owner's rights for it; a reader, who cannot, leaves it."""
    mined.migrate()
    mined.execute(
        """CREATE FUNCTION {app}.lure() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
           BEGIN
               IF current_user <> 'x_owner' THEN PERFORM nextval('{quoted}.turned'); END IF;
               RETURN {app}.spring();
           END $$;
           GRANT USAGE ON SEQUENCE {app}.turned TO PUBLIC;
           """
        + LURES[lure],
        user="x_owner",
    )
    mined.execute("GRANT pgvigil_reader TO x_stranger")
    assert not mined.turned
    try:
        said = mined.call(
            "pgvigil", "validate", "--database-url", mined.database.url.replace("postgres@", f"{who}@")
        ).stdout
    finally:
        mined.execute("REVOKE pgvigil_reader FROM x_stranger")
    # What nobody may run for the reader is not compared, and never passes for equal.
    assert "INVALID" in said or (who == "x_stranger" and "NOT PROVED" in said)
    assert not mined.turned


def test_validate_reads_what_it_made_again_with_the_server_s_own_functions(mined: Installation) -> None:
    """The schema is on the path there, so that names in it are printed without it."""
    mined.migrate()
    mined.as_owner(
        """CREATE FUNCTION {app}.pg_get_viewdef(regclass) RETURNS text LANGUAGE plpgsql AS $$
           BEGIN PERFORM {app}.spring(); RETURN pg_catalog.pg_get_viewdef($1::oid); END $$;
           CREATE OR REPLACE VIEW {app}.session_content_view AS SELECT c.session_id, c.context_count, c.total_tokens, c.total_content_bytes
               FROM pgvigil.session_counters c"""
    )
    _, said = mined.pgvigil("validate")
    assert "session_content_view" in said
    assert not mined.turned


def test_validate_reads_no_table_whose_index_calls_the_owner_s_function(mined: Installation) -> None:
    mined.migrate()
    mined.as_owner(
        """CREATE FUNCTION {app}.planned() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN {app}.spring(); END $$;
           CREATE INDEX evil ON pgvigil.retention_policies (policy) WHERE {app}.planned()"""
    )
    code, said = mined.pgvigil("validate")
    assert (code, "index pgvigil.evil calls public.planned()" in said) == (1, True), said
    assert not mined.turned


def test_a_superuser_s_backup_reads_no_table_whose_index_calls_the_owner_s_function(
    mined: Installation, tmp_path: Path
) -> None:
    mined.as_owner(
        """CREATE FUNCTION {app}.planned() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN {app}.spring(); END $$;
           CREATE TABLE {app}.beside AS SELECT 1 AS n;
           CREATE INDEX evil ON {app}.beside (n) WHERE {app}.planned()"""
    )
    code, said = mined.pgvigil("backup", "create", "--verify-backup", "read", "--backup-dir", str(tmp_path))
    assert (code, "index public.evil calls public.planned()" in said) == (4, True), said
    assert not mined.turned


def test_a_superuser_s_migration_reads_no_table_whose_index_calls_the_owner_s_function(mined: Installation) -> None:
    mined.as_owner(
        """CREATE FUNCTION {app}.planned() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN {app}.spring(); END $$;
           CREATE INDEX evil ON {app}.handoff_requests (status) WHERE {app}.planned()"""
    )
    code, said = mined.pgvigil("migrate", "--backup", "none", "--dry-run")
    assert (code, "index public.evil calls public.planned()" in said) == (4, True), said
    assert not mined.turned


def test_the_copy_of_the_reference_is_written_with_the_owner_s_rights(mined: Installation) -> None:
    mined.migrate()
    plant_triggers(mined, "pgvigil.reference_snapshots")
    code, said = mined.pgvigil("migrate", "--backup", "none")
    assert code == 8, said  # the triggers are drift
    assert not mined.turned


@pytest.mark.in_short
def test_what_a_migration_displaced_is_put_back_with_the_owner_s_rights(mined: Installation) -> None:
    mined.migrate()
    mined.as_owner(
        """INSERT INTO pgvigil.displaced_objects (revision, object, restore_sql)
           SELECT revision, 'planted', 'SELECT {quoted}.spring()' FROM unnest('{002,008,011,014}'::text[]) revision"""
    )
    code, said = mined.pgvigil("revert", "--to", "base", "--backup", "none")
    assert code == 0, said
    assert not mined.turned


def test_the_web_application_asks_nothing_as_a_superuser_over_another_owner(mined: Installation) -> None:
    """A read-only transaction does not protect: COPY TO PROGRAM is allowed in one."""
    mined.migrate()
    app = web.application(mined.url, authorize=lambda _: web.Principal("ann", "admin"))
    with TestClient(app, raise_server_exceptions=False) as client:
        answers = [client.get(path) for path in ("/readyz", "/api/v1/jobs", "/api/v1/connections")]
    application.close(app)
    assert {answer.json()["type"] for answer in answers} == {"urn:pgvigil:problem:superuser"}
    code, said = mined.pgvigil("serve", "--no-auth", "--listen", "127.0.0.1:0")
    assert (code, "would run code of x_owner" in said) == (4, True), said


# ── Arrangements ──────────────────────────────────────────────────────────────────────────────────────────────────────

ARRANGEMENTS = {
    "a superuser over a plain owner": {"owner": "x_owner", "user": "postgres"},
    "a plain owner": {"owner": "x_owner", "user": "x_owner"},
    "a superuser alone": {"owner": "postgres", "user": "postgres"},
    "a superuser over an owner without login": {"owner": "x_nobody", "user": "postgres"},
}


@pytest.fixture(params=ARRANGEMENTS)
def arranged(request: pytest.FixtureRequest, installed: Callable[..., Installation]) -> Installation:
    return installed(**ARRANGEMENTS[request.param])


@pytest.mark.slow(first=2)
def test_in_each_arrangement_everything_of_ours_belongs_to_the_owner_or_to_nobody(arranged: Installation) -> None:
    arranged.migrate()
    owners = arranged.execute(
        """SELECT pg_get_userbyid(o) FROM (
               SELECT proowner FROM pg_proc WHERE pronamespace IN ('pgvigil'::regnamespace, 'instrumentation'::regnamespace)
               UNION SELECT relowner FROM pg_class WHERE relnamespace IN ('pgvigil'::regnamespace, 'instrumentation'::regnamespace)
               UNION SELECT relowner FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'public')
                   AND relname ~ '^(session_lifecycle|system_metrics|performance_logs|analytics_aggregations|query_executions|session_monitoring_view)'
               UNION SELECT typowner FROM pg_type WHERE typnamespace IN ('pgvigil'::regnamespace, 'instrumentation'::regnamespace)
               UNION SELECT nspowner FROM pg_namespace WHERE nspname IN ('pgvigil', 'instrumentation')) x (o)"""
    )
    assert owners == [("pgvigil_owner" if arranged.owner == "postgres" else arranged.owner,)]


@pytest.mark.slow(first=2)
def test_in_each_arrangement_the_result_is_valid(
    arranged: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arranged.migrate()
    where = ("--schema", arranged.schema, "--database-url", arranged.database.url)
    done = arranged.call("pgvigil", "migrate", "--backup", "none", *where)  # by a superuser: it writes the copy
    assert done.returncode == 0, done.stderr
    code, said = arranged.pgvigil("validate")
    # Whoever may not create databases takes the copy in the database: its digest is one that is shipped.
    assert (code, said.splitlines()[-1].split(":")[0]) == (0, "VALID"), said


@pytest.mark.slow(first=2)
def test_in_each_arrangement_all_jobs_run_and_health_is_asked(arranged: Installation) -> None:
    arranged.migrate()
    arranged.run_all_jobs()
    assert arranged.execute("SELECT count(*) FROM {app}.sessions WHERE status = 'expired'") == [(5,)]
    assert arranged.pgvigil("health")[0] in (0, 1)


def test_in_each_arrangement_a_session_s_life_is_recorded(arranged: Installation) -> None:
    arranged.migrate()
    arranged.execute(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {app}.sessions, {app}.context_history TO x_stranger",
        role=arranged.owner,
    )
    arranged.execute("GRANT USAGE ON SCHEMA {app} TO x_stranger")
    arranged.execute(
        """INSERT INTO {app}.sessions (session_key, agent_from) VALUES ('own', 'a');
           INSERT INTO {app}.context_history (session_id, sequence_number, context_type, content) SELECT id, 1, 'message', 'x' FROM {app}.sessions WHERE session_key = 'own';
           UPDATE {app}.sessions SET status = 'completed' WHERE session_key = 'own';
           DELETE FROM {app}.sessions WHERE session_key = 'own'""",
        user="x_stranger",
    )
    assert arranged.execute(
        """SELECT "session_user", jsonb_path_query_array(events, '$[*].event_type') FROM pgvigil.deleted_sessions"""
    ) == [("x_stranger", ["created", "status_changed", "deleted"])]


def test_in_each_arrangement_all_of_it_can_be_reverted(arranged: Installation) -> None:
    arranged.migrate()
    code, said = arranged.pgvigil("revert", "--to", "base", "--backup", "none")
    assert code == 0, said
    assert arranged.execute("SELECT to_regnamespace('pgvigil'), count(*) FROM {app}.sessions") == [(None, 5)]


def test_a_table_of_another_role_in_the_application_s_schema_keeps_nobody_from_reverting(
    arranged: Installation,
) -> None:
    """Up to PostgreSQL 14, every role may create one in public."""
    arranged.migrate()
    arranged.execute("CREATE TABLE {app}.of_another (n integer); ALTER TABLE {app}.of_another OWNER TO x_stranger")
    code, said = arranged.pgvigil("revert", "--to", "base", "--backup", "none")
    assert code == 0, said
    [(left,)] = arranged.execute(
        """SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee WHERE r.rolname LIKE 'pgvigil%'
           AND c.relname IN ('sessions', 'context_history', 'codebase_snapshots', 'handoff_requests') AND r.rolname <> 'pgvigil_owner'"""
    )
    assert left == 0


CLOSED = "ALTER ROLE pgvigil_owner NOLOGIN"


@pytest.mark.in_short
def test_what_the_role_of_a_superuser_s_install_has_replaced_once_it_may_log_in_is_not_called_by_a_superuser(
    own: Database, call: Run
) -> None:
    own.execute("ALTER ROLE pgvigil_owner LOGIN")
    try:
        with own.connect(user="pgvigil_owner") as conn:
            conn.execute(REPLACED["job_step"].replace("{app}", "public"))
        done = call("pgvigil", "maintain", "run", "expiry", "--database-url", own.url)
    finally:
        own.execute(CLOSED)
    assert (done.returncode, "not as pgvigil made them" in done.stderr) == (3, True), done.stderr


@pytest.mark.parametrize("opened", ["ALTER ROLE pgvigil_owner LOGIN", "GRANT pgvigil_owner TO x_stranger"])
def test_a_superuser_installs_nothing_for_a_role_that_another_one_can_act_as(
    own: Database, database: Database, call: Run, opened: LiteralString
) -> None:
    """A member could replace a function between two transactions of the install."""
    own.execute(opened)
    try:
        done = call("pgvigil", "setup", "--database-url", database.url)
        assert database.execute("SELECT to_regnamespace('pgvigil')") == [(None,)]
    finally:
        own.execute(f"{CLOSED}; REVOKE pgvigil_owner FROM x_stranger")
    assert done.returncode == 4
    assert (
        "ALTER ROLE pgvigil_owner NOLOGIN;" if "LOGIN" in opened else "REVOKE pgvigil_owner FROM x_stranger;"
    ) in done.stderr


def test_a_role_that_may_act_as_the_owner_is_no_owner_itself(installed: Callable[..., Installation]) -> None:
    """A member of an owner role without login migrates, and that owner owns everything."""
    at = installed(owner="x_nobody", user="x_owner")
    at.execute("GRANT x_nobody TO x_owner")
    try:
        at.as_owner(COUNTED)
        at.migrate()
    finally:
        at.execute("REVOKE x_nobody FROM x_owner")
    assert at.execute(
        "SELECT DISTINCT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace IN ('pgvigil'::regnamespace, 'instrumentation'::regnamespace)"
    ) == [("x_nobody",)]


# What a role that was a member of pgvigil_owner may have left: a function in the place of ours, a view, a trigger.
LEFT_BEHIND = {
    "a function": REPLACED["integrity_report"],
    "a view": REPLACED["job_status"],
    "a trigger": TRIGGERS.replace("{table}", "pgvigil.job_runs"),
    "a trigger on the application's": TRIGGERS.replace("{table}", "{app}.sessions"),
    "an index": REPLACED["a function in an index, which the planner computes"],
}


@pytest.mark.in_short
@pytest.mark.parametrize("left", LEFT_BEHIND)
def test_what_a_former_member_of_the_role_of_a_superuser_s_install_has_left_is_not_called_by_a_superuser(
    own: Database, call: Run, left: str
) -> None:
    """A role may be a member for a while, and pgvigil itself says to end that before a migration."""
    own.execute("GRANT pgvigil_owner TO x_owner; GRANT CREATE ON SCHEMA public TO pgvigil_owner")
    try:
        with own.connect(user="x_owner", options="-c search_path=pg_catalog") as conn:
            conn.execute("SET ROLE pgvigil_owner")
            conn.execute(
                (COUNTED + ";" + LEFT_BEHIND[left]).replace("{app}", "public").replace("{quoted}", "public").encode()
            )
    finally:
        own.execute("REVOKE pgvigil_owner FROM x_owner")
    for words in (
        ["health"], ["maintain", "run", "expiry"], ["maintain", "status"], ["report"], ["status"], ["validate"], ["history", "sessions"],
        ["migrate", "--backup", "none"], ["serve", "--no-auth", "--listen", "127.0.0.1:0"],
    ):  # fmt: skip
        done = call("pgvigil", *words, "--database-url", own.url)
        assert done.returncode != 70, done.stderr
        assert words[0] != "serve" or done.returncode in (3, 4)
        [(called,)] = own.execute("SELECT is_called FROM public.turned")
        assert (words, called, is_superuser(own, "x_owner")) == (words, False, False)
