"""Test secrets, tags and terminal escapes in every text column: no answer to a viewer, log or metric contains them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import suppress

import pytest
from psycopg import errors
from psycopg.types.json import Jsonb

from conftest import Database, Templates, _new_database
from helpers.monitor_report import report
from pgvigil import cli
from pgvigil.web.state import PAGES
from web.conftest import ESCAPE, SCRIPT, SECRET, Serve, settled

pytestmark = pytest.mark.client_side
C1 = "\x9b31m\u202e"  # what a terminal obeys too, and what turns the direction of writing
NAME = f"{SCRIPT}{ESCAPE}{C1}"
TEXT = f"{NAME}{SECRET}"

PATHS = [
    "/api/v1/executions", "/api/v1/executions/stats/global", "/api/v1/executions/database-stats/global", "/api/v1/sessions",
    "/api/v1/sessions/{id}", "/api/v1/sessions/{id}/timeline", "/api/v1/connections", "/api/v1/operations", "/api/v1/jobs", "/api/v1/health",
    "/admin/session-monitoring/status", "/admin/session-monitoring/metrics", "/admin/session-monitoring/summary",
    "/admin/session-monitoring/alerts?active_sessions=1", "/metrics", "/api/v1/sessions/{id}/context", "/api/v1/sessions/{id}/handoffs",
    "/api/v1/sessions/{id}/operations", "/api/v1/statements", "/api/v1/statements/{statement}", "/api/v1/executions/by-id/{execution}",
    "/api/v1/sessions/{id}/timeline/{event}", "/api/v1/sessions/{id}/context/1", "/api/v1/sessions/{id}?text_limit=100",
    "/api/v1/executions?text_limit=10", "/api/v1/alerts", "/api/v1/application", "/api/v1/application/workers",
    *(f"/admin/session-monitoring/dashboard/state?page={page}" for page in PAGES),
]  # fmt: skip


@pytest.fixture(scope="module")
def planted(templates: Templates) -> Iterator[Database]:
    """A database where names that a viewer sees hold a tag and escapes; all other texts hold a secret as well."""
    with _new_database(templates.server, templates.get("fresh")) as new:
        new.execute(
            """INSERT INTO query_executions (execution_id, user_id, conversation_id, query, database_type, status, error_message, error_type,
                                             connection_params, request_metadata, response_metadata)
               VALUES (%(name)s::text, %(name)s::text, %(name)s::text, %(text)s::text, left(%(name)s::text, 50), 'failed', %(text)s::text, %(name)s::text,
                       jsonb_build_object('a', %(text)s::text), jsonb_build_object('a', %(text)s::text), jsonb_build_object('a', %(text)s::text))""",
            {"name": NAME, "text": TEXT},
        )
        new.execute(
            """INSERT INTO sessions (session_key, agent_from, agent_to, metadata)
               VALUES (%(name)s::text, %(name)s::text, %(name)s::text, jsonb_build_object('a', %(text)s::text))""",
            {"name": NAME, "text": TEXT},
        )
        new.execute(
            "INSERT INTO context_history (session_id, sequence_number, context_type, content) SELECT id, 1, 'message', %s FROM sessions",
            (TEXT,),
        )
        new.execute("INSERT INTO performance_logs (operation, duration_ms, success) VALUES (%s, 1, true)", (NAME,))
        new.execute("INSERT INTO pgvigil.job_runs (job, finished_at, error) VALUES ('analyze', now(), %s)", (TEXT,))
        with new.connect() as connection:
            [(instance,)] = connection.execute(
                "SELECT instrumentation.register_instance(%s, '1', '{}', gen_random_uuid())", (NAME,)
            ).fetchall()
            connection.execute(
                "SELECT instrumentation.register_session(%s, gen_random_uuid(), 1, now(), %s, NULL, %s)",
                (instance, "postgres", NAME),
            )
            connection.execute("SET pgvigil.instrumentation = 'write'")
            connection.execute(
                "INSERT INTO instrumentation.sql_statements (session_id, sql_text) SELECT session_id, %s FROM instrumentation.sessions",
                (TEXT,),
            )
        report(new, NAME)
        new.execute("CALL pgvigil.run_job('totals')")
        yield new


@pytest.mark.parametrize("path", PATHS)
def test_what_is_planted_does_no_harm_to_a_viewer(
    shared: Serve, planted: Database, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = settled(shared(planted.url, "viewer"), row_of(planted, path))
    assert answer.status_code == 200
    assert "html" not in answer.headers["content-type"]
    for text in (answer.text, caplog.text):
        assert not [one for one in (SECRET, "<script", "\x1b", "\x9b", "\u202e") if one in text]


@pytest.mark.parametrize("path", ["/api/v1/executions", "/api/v1/sessions", "/api/v1/connections", "/api/v1/jobs"])
def test_an_admin_reads_the_text_as_it_is_and_nothing_in_it_acts(shared: Serve, planted: Database, path: str) -> None:
    answer = shared(planted.url).get(path)
    assert not [one for one in ("<script", "\x1b", "\x9b", "\u202e") if one in answer.text]
    assert any(NAME in text for text in _strings(answer.json()))


def row_of(database: Database, path: str) -> str:
    """The path with the ids of rows."""
    [(session, event, execution, statement)] = database.execute(
        """SELECT s.id::text, (SELECT l.id::text FROM session_lifecycle l WHERE l.session_id = s.id LIMIT 1), (SELECT min(id) FROM query_executions),
                  (SELECT statement_id::text FROM instrumentation.sql_statements LIMIT 1) FROM sessions s"""
    )
    return path.format(id=session, event=event, execution=execution, statement=statement)


def _strings(value: object) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(_strings, value.values()))
    if isinstance(value, list):
        return set().union(*map(_strings, value))
    return {value} if isinstance(value, str) else set()


# Every other column that a viewer can see has a name in it, as people need to see whose rows they are; text of others is for admins.
NAMES = {
    "anomalies.database_type", "execution_rollups.database_type", "execution_totals.database_type", "instances.hostname",
    "performance_logs.operation", "query_executions.conversation_id", "query_executions.database_type", "query_executions.error_type",
    "query_executions.execution_id", "query_executions.user_id", "session_monitors.application", "session_monitors.hostname",
    "session_monitors.reported_by", "sessions.agent_from", "sessions.agent_to", "sessions.application_name", "sessions.peer",
    "sessions.retention_policy", "sessions.session_key", "sessions.username", "sql_statements.source", "alert_thresholds.meaning",
    "jobs.purpose",
}  # fmt: skip
ACTS = ("\x1b", "\x9b", "\u202e")
COLUMNS = """
    SELECT format('%I.%I', n.nspname, c.relname), c.relname || '.' || a.attname, quote_ident(a.attname), format_type(a.atttypid, NULL), a.atttypmod
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname IN ('public', 'pgvigil', 'instrumentation') AND a.attnum > 0
      AND NOT a.attisdropped AND a.attgenerated = '' AND a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'jsonb'::regtype)
      AND c.relname NOT IN ('migrations', 'alembic_version')"""


@pytest.fixture(scope="module")
def everywhere(templates: Templates, planted: Database) -> Iterator[Database]:
    """A database where each text and JSON column of tables with rows holds its own name, a tag and escapes, unless a
    constraint refuses it.
    """
    # A database that is copied may have no connection, and the other tests' clients keep theirs.
    Database(planted.server, "postgres").execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (planted.name,)
    )
    with _new_database(templates.server, planted.name) as new:
        new.execute(
            "INSERT INTO pgvigil.anomalies (database_type, status, hour, value, expected, spread, since) VALUES ('x', 'failed', now(), 9, 1, 1, now())"
        )
        new.execute(
            "INSERT INTO session_lifecycle (session_id, event_type, event_data) SELECT id, 'created', '{}' FROM sessions"
        )
        with new.connect() as connection:
            connection.execute("SET pgvigil.instrumentation = 'write'; SET session_replication_role = replica")
            for table, place, column, kind, size in connection.execute(COLUMNS).fetchall():
                value = f"<script>{ESCAPE}{C1}@{place}@"[: size - 12 if size > 0 else None]
                with suppress(errors.IntegrityError), connection.transaction():
                    connection.execute(
                        f"UPDATE {table} SET {column} = %s", (Jsonb({"k": value}) if kind == "jsonb" else value,)
                    )
        yield new


def test_a_viewer_sees_names_and_nothing_acts_whatever_column_it_comes_from(
    serve: Serve, everywhere: Database, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, set[str]] = {"viewer": set(), "admin": set()}
    for role, places in seen.items():
        client = serve(everywhere.url, role)
        for path in PATHS:
            answer = settled(client, row_of(everywhere, path))
            assert answer.status_code == 200, (path, answer.text)
            assert not [one for one in ("<script", *ACTS) if one in answer.text], path
            places.update(re.findall("@([a-z_.]+)@", answer.text))
    assert seen["viewer"] <= NAMES
    assert {"query_executions.query", "session_lifecycle.event_data"} <= seen["admin"]  # the columns were planted
    assert not [one for one in ACTS if one in caplog.text]
    for command in (
        "session-monitoring status",
        "session-monitoring metrics",
        "report --format html",
        "report --format json",
        "health",
    ):
        cli.main([*command.split(), "--database-url", everywhere.url])
        said = "".join(capsys.readouterr())
        assert not [one for one in ACTS if one in said], command
        assert "<script" not in said or "html" not in command
