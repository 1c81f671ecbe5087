"""Pages and lists stay small where the rows hold texts of a megabyte, names as long as a column takes, and a thousand rows of a kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from conftest import Database, Templates, _new_database
from helpers.monitor_report import report
from pgvigil.web.state import PAGES
from web.conftest import Serve, settled

pytestmark = pytest.mark.client_side
MOST = 300_000  # bytes of a page
FILES = 100_000  # bytes of the files that a page loads: see test_web_dashboard
BASE = "/admin/session-monitoring/dashboard"
TEXT = "aé " * 340_000
# What the scripts of the pages ask for, beside the state.
READ = {
    "sessions": ["sessions?limit=50"],
    "session": [
        "sessions/{id}?text_limit=2000", "sessions/{id}/timeline?limit=50&text_limit=300", "sessions/{id}/context?text_limit=300",
        "sessions/{id}/handoffs?limit=50", "sessions/{id}/operations?limit=50",
    ],
    "executions": ["executions?limit=50&text_limit=100"],
    "operation": ["operations?operation={name}", "operations/calls?operation={name}"],
}  # fmt: skip


def long(length: int, sql: str) -> str:
    return f"left({sql} || repeat('é', {length}), {length})"


@pytest.fixture(scope="module")
def full(templates: Templates) -> Iterator[Database]:
    with _new_database(templates.server, templates.get("fresh")) as new:
        document = Jsonb({"a": TEXT, "note": "x"})
        new.execute(
            f"""INSERT INTO query_executions (execution_id, user_id, conversation_id, query, database_type, status, error_message, error_type,
                                              connection_params, request_metadata, response_metadata)
                SELECT {long(100, "g::text")}, {long(100, "g::text")}, {long(100, "g::text")}, %(text)s, {long(50, "g::text")}, 'failed', %(text)s,
                       {long(100, "g::text")}, %(document)s, %(document)s, %(document)s FROM generate_series(1, 60) g""",
            {"text": TEXT, "document": document},
        )
        new.execute(
            f"""INSERT INTO query_executions (execution_id, query, database_type, status, started_at)
                SELECT g::text, '', {long(50, "g::text")}, 'failed', now() - interval '1 hour' FROM generate_series(1, 300) g"""
        )
        new.execute("CALL pgvigil.run_job('totals')")
        new.execute(
            f"""INSERT INTO sessions (session_key, agent_from, agent_to, metadata)
                SELECT {long(255, "g::text")}, {long(100, "''")}, {long(100, "''")}, %s FROM generate_series(1, 60) g""",
            (document,),
        )
        [(id,)] = new.execute("SELECT id FROM sessions ORDER BY id LIMIT 1")
        new.execute(
            """INSERT INTO context_history (session_id, sequence_number, context_type, content)
               SELECT %s, g, 'message', %s FROM generate_series(1, 60) g""",
            (id, TEXT),
        )
        new.execute(
            f"""INSERT INTO handoff_requests (session_id, requesting_agent, target_agent)
                SELECT %s, {long(100, "''")}, {long(100, "''")} FROM generate_series(1, 250)""",
            (id,),
        )
        new.execute(
            """INSERT INTO session_lifecycle (session_id, event_type, event_data)
               SELECT %s, 'metadata_changed', %s FROM generate_series(1, 60)""".replace("metadata_changed", "dormant"),
            (id, document),
        )
        new.execute(
            f"""INSERT INTO performance_logs (session_id, operation, duration_ms, success)
                SELECT %s, {long(100, "(g %% 1500)::text")}, 1, false FROM generate_series(1, 3000) g""",
            (id,),
        )
        new.execute(
            f"""INSERT INTO analytics_aggregations (aggregation_type, time_bucket, aggregation_data, bucket_width, origin)
                SELECT 'performance_trends', date_trunc('hour', now()) - h * interval '1 hour',
                       jsonb_build_object('operations', (SELECT jsonb_object_agg({long(100, "o::text")}, jsonb_build_object('count', 1, 'failed', 1, 'p95', 2.5))
                                                         FROM generate_series(1, 1000) o)), 'hour', 'pgvigil'
                FROM generate_series(1, 23) h"""
        )
        new.execute(
            f"""INSERT INTO analytics_aggregations (aggregation_type, time_bucket, aggregation_data, bucket_width, origin)
                SELECT 'session_stats', date_trunc('hour', now()) - h * interval '1 hour',
                       jsonb_build_object('sessions_by_status', (SELECT jsonb_object_agg({long(50, "o::text")}, 1) FROM generate_series(1, 100) o)), 'hour', 'pgvigil'
                FROM generate_series(1, 167) h"""
        )
        new.execute(
            f"""INSERT INTO pgvigil.anomalies (database_type, status, hour, value, expected, spread, since)
                SELECT {long(50, "g::text")}, 'failed', now(), 9, 1, 1, now() FROM generate_series(1, 250) g"""
        )
        new.execute(
            "INSERT INTO pgvigil.job_runs (job, finished_at, error) SELECT job, now(), %s FROM pgvigil.jobs",
            (TEXT[:30_000],),
        )
        new.execute("UPDATE pgvigil.alert_thresholds SET meaning = %s", (TEXT[:30_000],))
        new.execute("UPDATE pgvigil.jobs SET purpose = %s", (TEXT,))
        with new.connect() as connection:
            [(instance,)] = connection.execute(
                "SELECT instrumentation.register_instance(%s, '1', '{}', gen_random_uuid())", ("h" * 255,)
            ).fetchall()
            connection.execute("SET pgvigil.instrumentation = 'write'; SET session_replication_role = replica")
            connection.execute(
                f"""INSERT INTO instrumentation.sessions (session_id, instance_id, username, peer, application_name, backend_pid, backend_start)
                    SELECT gen_random_uuid(), %s, {long(63, "''")}, {long(100, "''")}, {long(63, "''")}, g, now() FROM generate_series(1, 1200) g""",
                (instance,),
            )
            connection.execute(
                "INSERT INTO instrumentation.sql_statements (session_id, sql_text) SELECT session_id, %s FROM instrumentation.sessions LIMIT 200",
                (TEXT,),
            )
        for number in range(20):
            report(new, f"{number}{'ü' * 90}", **{f"recorder/{place}{'é' * 80}": 5 for place in range(200)})
        new.execute(
            """UPDATE pgvigil.session_monitors SET counters = counters || (SELECT jsonb_object_agg('error/' || g || repeat('e', 80), 90) FROM generate_series(1, 300) g),
                                                   histograms = histograms || (SELECT jsonb_object_agg('operation/' || g || repeat('o', 100), '[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 90000000000]'::jsonb)
                                                                               FROM generate_series(1, 300) g)"""
        )
        new.execute(
            """INSERT INTO pgvigil.session_monitors (instance_id, application, hostname, pid, report_interval, reported_by)
               SELECT gen_random_uuid(), 'many', repeat('h', 255), g, '1 hour', 'somebody' FROM generate_series(1, 1200) g"""
        )
        yield new


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_small_whatever_the_rows_hold(serve: Serve, full: Database, page: str) -> None:
    client = serve(full.url, deadline=60.0)  # the sizes count here, not the time
    [(id,)] = full.execute("SELECT id::text FROM sessions ORDER BY id LIMIT 1")
    [(name,)] = full.execute("SELECT operation FROM performance_logs LIMIT 1")
    sizes: dict[str, int] = {}
    state = settled(client, f"{BASE}/state?page={page}")
    assert not [one for one in state.json()["sections"].values() if "problem" in one]
    for address, answer in [
        ("state", state),
        *((path, client.get(f"{BASE}/api/{path.format(id=id, name=name)}")) for path in READ.get(page, [])),
    ]:
        assert answer.status_code == 200, (address, answer.text[:500])
        sizes[address] = len(answer.content)
    assert sum(sizes.values()) + FILES <= MOST, sizes


def test_a_page_that_shows_the_first_rows_says_of_how_many(shared: Serve, full: Database) -> None:
    sections = settled(shared(full.url), f"{BASE}/state?page=live").json()["sections"]
    assert 0 < len(sections["connections"]["data"]) < sections["connections"]["of"] == 1000


def test_an_operation_is_found_by_its_name_however_many_are_called_more_often(shared: Serve, full: Database) -> None:
    client = shared(full.url)
    [(name,)] = full.execute("SELECT max(operation) FROM performance_monitoring_view")
    [row] = client.get("/api/v1/operations", params={"operation": name}).json()["rows"]
    assert (row["operation"], row["total_calls"]) == (name, 2)
    assert client.get("/api/v1/operations").json()["count"] == 1000


LISTS = {
    "executions": ("executions", ["query", "error_message", "connection_params", "request_metadata", "response_metadata"], "executions/by-id/{id}"),
    "sessions/{session}/timeline": ("events", ["event_data"], "sessions/{session}/timeline/{id}"),
    "sessions/{session}/context": ("rows", ["content"], "sessions/{session}/context/{sequence_number}"),
    "statements": ("rows", ["sql_text"], "statements/{statement_id}"),
    "connections": ("rows", ["sql_text"], "statements/{statement_id}"),
}  # fmt: skip


@pytest.mark.parametrize("path", LISTS)
def test_a_list_says_what_it_has_cut_and_the_address_of_the_row_has_it_whole(
    shared: Serve, full: Database, path: str
) -> None:
    name, columns, whole = LISTS[path]
    [(session,)] = full.execute("SELECT id::text FROM sessions ORDER BY id LIMIT 1")
    client = shared(full.url)
    rows = client.get(f"/api/v1/{path.format(session=session)}").json()[name]
    row = next(one for one in rows if one["shortened"])
    assert sorted(row["shortened"]) == sorted(columns)
    found: dict[str, Any] = client.get(f"/api/v1/{whole.format(session=session, **row)}").json()
    for column in columns:
        assert found[column] in (TEXT, {"a": TEXT, "note": "x"})
        assert row[column] in (TEXT[: len(row[column] or "")], None, {})


def test_the_client_says_how_long_a_text_of_a_list_may_be(shared: Serve, full: Database) -> None:
    client = shared(full.url)
    found = client.get("/api/v1/executions?text_limit=70&limit=1000").json()["executions"]
    assert {row["query"] for row in found} == {TEXT[:70], ""}
    assert [row["shortened"] for row in found if not row["query"]] == [[]] * 300


@pytest.mark.parametrize(
    "path", ["executions/by-id/1", "sessions/{session}/context/1", "sessions/{session}/timeline/{event}", "sessions/{session}", "statements/{statement}"]
)  # fmt: skip
def test_a_viewer_reads_no_text_of_others_by_its_id(shared: Serve, full: Database, path: str) -> None:
    [(session,)] = full.execute("SELECT id::text FROM sessions ORDER BY id LIMIT 1")
    [(event,)] = full.execute("SELECT id::text FROM session_lifecycle WHERE event_data ? 'note' LIMIT 1")
    [(statement,)] = full.execute("SELECT statement_id::text FROM instrumentation.sql_statements LIMIT 1")
    address = path.format(session=session, event=event, statement=statement)
    answer = shared(full.url, "viewer").get(f"/api/v1/{address}")
    assert answer.status_code == 200
    assert TEXT[:99] not in answer.text


@pytest.mark.parametrize(
    "path", ["executions/by-id/9999", "sessions/{id}/context/9999", "sessions/{id}/timeline/{id}", "statements/{id}"]
)
def test_a_row_that_is_not_there_is_404(shared: Serve, full: Database, path: str) -> None:
    answer = shared(full.url).get(f"/api/v1/{path.format(id='00000000-0000-7000-8000-000000000000')}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
