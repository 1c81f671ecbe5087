"""The API of query executions: what it answers is what the table holds."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import UUID

import pytest
from starlette.testclient import TestClient

from conftest import Database
from web.conftest import ESCAPE, SECRET, Serve, hours_ago, problem

pytestmark = pytest.mark.oldest_and_newest

PLAIN_STATS = """
    SELECT count(*), count(*) FILTER (WHERE status = 'success'), count(*) FILTER (WHERE status = 'failed'),
           count(*) FILTER (WHERE status = 'error'), count(*) FILTER (WHERE status = 'timeout'),
           round(100.0 * count(*) FILTER (WHERE status = 'success') / nullif(count(*), 0), 2)::float8,
           avg(execution_time), max(execution_time), coalesce(sum(total_rows), 0)::bigint
    FROM query_executions WHERE started_at >= now() - make_interval(hours => 24 * %s) AND (%s::text IS NULL OR user_id = %s)"""


def pages(client: TestClient, path: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return all rows, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        answer = client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["executions"]
        if not page["next_cursor"]:
            assert "link" not in answer.headers
            return found
        assert f"cursor={page['next_cursor'].replace('=', '%3D')}" in answer.headers["link"]
        parameters["cursor"] = page["next_cursor"]


def test_pages_by_cursor_hold_each_row_once_also_where_many_began_at_the_same_time(
    admin: TestClient, executions: Database
) -> None:
    found = [row["id"] for row in pages(admin, "/api/v1/executions", limit=7)]
    assert found == [
        id for (id,) in executions.execute("SELECT id FROM query_executions ORDER BY started_at DESC, id DESC")
    ]


def test_a_page_of_a_user_holds_that_users_rows_only(admin: TestClient, executions: Database) -> None:
    found = [row["execution_id"] for row in pages(admin, "/api/v1/executions/ada", limit=33)]
    query = "SELECT execution_id FROM query_executions WHERE user_id = 'ada' ORDER BY started_at DESC, id DESC"
    assert found == [id for (id,) in executions.execute(query)]


def test_what_is_written_meanwhile_moves_no_page(serve: Serve, fresh: Database) -> None:
    insert = "INSERT INTO query_executions (execution_id, query, database_type, status) VALUES (%s, '', 'x', 'success')"
    for n in range(4):
        fresh.execute(insert, (f"old {n}",))
    client = serve(fresh.url)
    first = client.get("/api/v1/executions?limit=2").json()
    fresh.execute(insert, ("new",))
    second = client.get("/api/v1/executions", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [row["execution_id"] for row in first["executions"] + second["executions"]] == [
        "old 3",
        "old 2",
        "old 1",
        "old 0",
    ]


def test_offset_and_filters_say_which_rows(admin: TestClient, executions: Database) -> None:
    parameters = {"status": "failed", "database_type": "mysql", "from": hours_ago(30), "to": hours_ago(3), "offset": 2}
    found = [row["id"] for row in pages(admin, "/api/v1/executions", **parameters, limit=1000)]
    query = """SELECT id FROM query_executions WHERE status = 'failed' AND database_type = 'mysql' AND started_at >= %s AND started_at < %s
               ORDER BY started_at DESC, id DESC OFFSET 2"""
    assert found == [id for (id,) in executions.execute(query, (hours_ago(30), hours_ago(3)))]


def test_a_user_with_a_slash_is_asked_for_by_parameter_and_never_taken_for_another(admin: TestClient) -> None:
    assert {row["user_id"] for row in pages(admin, "/api/v1/executions", user_id="a/b")} == {"a/b"}
    assert problem(admin.get("/api/v1/executions/ada%2Fstats")) == "bad-parameter"
    assert admin.get("/api/v1/executions/a%2Fb").status_code in (404, 422)


def test_a_user_called_stats_is_a_user(admin: TestClient) -> None:
    assert {row["user_id"] for row in pages(admin, "/api/v1/executions/stats")} == {"stats"}
    assert admin.get("/api/v1/executions/stats/stats").json()["user_id"] == "stats"


@pytest.mark.parametrize("days", [1, 2, 365])
@pytest.mark.parametrize("user", [None, "ada"])
def test_statistics_are_those_of_a_sum_over_the_table(
    admin: TestClient, executions: Database, user: str | None, days: int
) -> None:
    path = f"/api/v1/executions/{user}/stats" if user else "/api/v1/executions/stats/global"
    found = admin.get(path, params={"days": days}).json()
    [plain] = executions.execute(PLAIN_STATS, (days, user, user))
    names = ("total_executions", "success_count", "failed_count", "error_count", "timeout_count", "success_rate",
             "avg_execution_time", "max_execution_time", "total_rows_processed")  # fmt: skip
    assert found == {"user_id": user, "period_days": days, **dict(zip(names, map(pytest.approx, plain), strict=True))}


@pytest.mark.parametrize("days", [None, 1, 30])
@pytest.mark.parametrize("user", [None, "ada"])
def test_engines_are_those_of_a_sum_over_the_table(
    admin: TestClient, executions: Database, user: str | None, days: int | None
) -> None:
    path = f"/api/v1/executions/{user or 'database-stats'}/{'database-stats' if user else 'global'}"
    found = admin.get(path, params={"days": days} if days else {}).json()
    plain = executions.execute(
        """SELECT database_type, count(*), count(*) FILTER (WHERE status = 'success'), count(*) FILTER (WHERE status = 'failed'), avg(execution_time)
           FROM query_executions WHERE (%s::text IS NULL OR user_id = %s) AND (%s::integer IS NULL OR started_at >= now() - make_interval(hours => 24 * %s))
           GROUP BY 1 ORDER BY 2 DESC, 1""",
        (user, user, days, days),
    )
    assert [tuple(engine.values()) for engine in found["database_stats"]] == [
        (*row[:4], pytest.approx(row[4])) for row in plain
    ]


def test_where_there_is_no_execution_rate_and_times_are_null(admin: TestClient) -> None:
    found = admin.get("/api/v1/executions/nobody/stats").json()
    assert (found["total_executions"], found["success_rate"], found["avg_execution_time"]) == (0, None, None)


def test_a_viewer_sees_no_text_and_no_document(viewer: TestClient) -> None:
    [row] = viewer.get("/api/v1/executions?limit=1").json()["executions"]
    hidden = ("query", "error_message", "connection_params", "request_metadata", "response_metadata")
    assert [row[name] for name in hidden] == [None] * 5
    assert row["execution_id"]


def test_whoever_has_the_same_statistics_is_told_so(admin: TestClient) -> None:
    first = admin.get("/api/v1/executions/ada/stats")
    again = admin.get("/api/v1/executions/ada/stats", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"), ("limit=1001", "limit"), ("limit=abc", "limit"), ("offset=10001", "offset"), ("offset=-1", "offset"),
        ("status=done", "status"), ("cursor=xyz", "cursor"), ("cursor=MjAyNi0wMS0wMSAx", "cursor"), ("from=yesterday", "from"),
        ("to=2026-01-01T00:00:00", "to"), ("offset=1&cursor=MjAyNi0wMS0wMVQwMDowMDowMCswMDowMCAx", "offset"), ("user_id=%00", "user_id"),
        ("database_type=a%00", "database_type"),
    ],
)  # fmt: skip
def test_a_parameter_that_cannot_be_used_is_named_and_its_value_is_not_repeated(
    admin: TestClient, query: str, name: str
) -> None:
    answer = admin.get(f"/api/v1/executions?{query}")
    assert problem(answer) == "bad-parameter"
    assert [(error["in"], error["name"]) for error in answer.json()["errors"]] == [("query", name)]
    assert "yesterday" not in answer.text


@pytest.mark.parametrize("list_", ["executions", "sessions"])
@pytest.mark.parametrize(
    ("moment", "status"),
    [("2026-W01-1T00:00:00Z", 200), ("20260101T000000Z", 200), ("2026-01-01T00:00:00+23:59:59.999999", 200), ("-infinity", 200),
     ("0001-01-01T00:00:00+14:00", 422), ("9999-12-31T23:59:59-14:00", 422), ("2026-01-01T00:00:00", 422)],
)  # fmt: skip
def test_a_cursor_that_only_python_reads_is_no_defect(admin: TestClient, list_: str, moment: str, status: int) -> None:
    id = "1" if list_ == "executions" else str(UUID(int=1))
    cursor = base64.urlsafe_b64encode(f"{moment} {id}".encode()).decode()
    assert admin.get(f"/api/v1/{list_}", params={"cursor": cursor}).status_code == status


def test_a_wrong_id_is_not_repeated_by_a_character(admin: TestClient) -> None:
    answer = admin.get(f"/api/v1/sessions/{UUID(int=1)}/timeline", params={"before": "<script>"})
    assert problem(answer) == "bad-parameter"
    assert "<" not in answer.text


@pytest.mark.parametrize("path", ["/api/v1/executions/ada/stats?days=0", "/api/v1/executions/stats/global?days=366"])
def test_days_are_1_to_365(admin: TestClient, path: str) -> None:
    assert problem(admin.get(path)) == "bad-parameter"


# --- posting -----------------------------------------------------------------------------------------------------------

POST = "/api/v1/executions"
_ITEM = b'{"executions": [{"query": "", "database_type": "x", "connection_params": {"a": %b}}]}'


def test_a_batch_is_recorded_and_what_cannot_be_is_named(serve: Serve, fresh: Database) -> None:
    client = serve(fresh.url, records=True)
    good = {
        "execution_id": "e1",
        "query": "SELECT 1",
        "database_type": "mysql",
        "status": "failed",
        "execution_time": 1,
    }
    bad = [{"query": 1, "database_type": "x"}, {"database_type": "x"}, {"query": "", "database_type": "x", "more": 1},
           {"query": "", "database_type": "x", "started_at": "2026-01-01T00:00:00"}, {"query": "", "database_type": "x", "status": "nonsense"}, []]  # fmt: skip
    answer = client.post(POST, json={"executions": [*bad, good]})
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 1
    assert answer.json()["execution_ids"] == ["e1"]
    told = [(one["index"], one["errors"][0]["name"]) for one in answer.json()["refused"]]
    assert told == [(0, "query"), (1, "query"), (2, "more"), (3, "started_at"), (4, "status"), (5, "")]
    assert "nonsense" not in answer.text
    client.app.state.recorder.flush()  # type: ignore[attr-defined]
    assert fresh.execute("SELECT execution_id, status, execution_time FROM query_executions") == [("e1", "failed", 1.0)]


def test_a_batch_sent_again_is_stored_once_and_its_secrets_never(serve: Serve, fresh: Database) -> None:
    client = serve(fresh.url, records=True)
    item = {"execution_id": "e1", "query": f"ALTER ROLE a PASSWORD '{SECRET}' {ESCAPE}", "database_type": "postgresql",
            "connection_params": {"password": SECRET}, "error_message": f"postgresql://a:{SECRET}@host/db"}  # fmt: skip
    for _ in range(2):
        assert client.post(POST, json={"executions": [item]}).status_code == 202
        client.app.state.recorder.flush()  # type: ignore[attr-defined]
    answer = client.get(POST)
    assert answer.json()["count"] == 1
    assert SECRET not in answer.text
    assert "\x1b" not in answer.text
    assert SECRET not in str(fresh.execute("SELECT e::text FROM query_executions e"))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"executions": {}}', b'{"executions": []}', b'{"executions": [1], "x": 1}', b'{"executions": [NaN]}',
             b'{"executions": [' + b"1," * 1000 + b"1]}", b"[" * 100_000, b"\xff", _ITEM % b"1e999", _ITEM % b"-1e999", _ITEM % b"Infinity", _ITEM % (b"9" * 5000), _ITEM % (b"[" * 9000 + b"]" * 9000)]
)  # fmt: skip
def test_a_body_that_is_no_batch_is_refused_whole(shared: Serve, executions: Database, body: bytes) -> None:
    client = shared(executions.url, records=True)
    answer = client.post(POST, content=body, headers={"content-type": "application/json"})
    assert problem(answer) == "bad-parameter"


@pytest.mark.parametrize(
    ("name", "value"),
    [("execution_time", True), ("execution_time", "5"), ("started_at", 5), ("started_at", "5"), ("completed_at", 1e30), ("total_rows", 2**63),
     ("page", 2**31), ("page", 1.5), ("user_id", "a\x00"), ("query", "\ud800"), ("database_type", "\udc00"), ("started_at", "9999-12-31T23:59:59-23:59")],
)  # fmt: skip
def test_a_value_that_its_column_does_not_take_is_named(
    shared: Serve, executions: Database, name: str, value: Any
) -> None:
    item = {"query": "", "database_type": "x", name: value}
    answer = shared(executions.url, records=True).post(
        POST, content=json.dumps({"executions": [item]}).encode(), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["accepted"]) == (202, 0)
    [error] = answer.json()["refused"][0]["errors"]
    assert error["name"] in (name, "")


def test_a_body_of_more_than_4_mib_is_not_read(shared: Serve, executions: Database) -> None:
    client = shared(executions.url, records=True)
    pieces = iter([b" " * (1 << 20)] * 5)
    assert problem(client.post(POST, content=pieces, headers={"content-type": "application/json"})) == "too-large"


def test_only_a_full_spill_refuses_a_batch(serve: Serve, executions: Database, tmp_path: Any) -> None:
    from pgvigil.live import Recorder

    recorder = Recorder(
        f"postgresql:///x?host={tmp_path}", spill_directory=tmp_path / "full", spill_limit=1, queue_size=2, batch_size=1
    )
    client = serve(executions.url, recorder=recorder)
    try:
        item = {"query": "SELECT 1", "database_type": "x"}
        answer = client.post(POST, json={"executions": [item] * 1000})
        assert problem(answer) == "recorder-full"
        assert "retry-after" in answer.headers
    finally:
        recorder.close(0)


def test_without_a_recorder_there_is_no_way_to_post(admin: TestClient) -> None:
    assert problem(admin.post(POST, json={"executions": []})) == "method-not-allowed"


def test_an_answer_takes_one_question_besides_its_transaction(admin: TestClient) -> None:
    from pgvigil.web.store import Store

    asked: list[int] = []
    store: Store = admin.app.state.store  # type: ignore[attr-defined]
    call = store.call
    store.call = lambda question, **options: (asked.append(1), call(question, **options))[1]  # type: ignore[method-assign]
    for path in ("", "/ada", "/ada/stats", "/stats/global", "/ada/database-stats", "/database-stats/global"):
        asked.clear()
        assert admin.get(f"/api/v1/executions{path}").status_code == 200
        assert asked == [1]
