"""Test sessions, connections, jobs and checks over HTTP; and the actions of an admin, with the name that is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from conftest import Database, Templates, _new_database
from web.conftest import ESCAPE, SCRIPT, SECRET, Serve, problem

pytestmark = pytest.mark.client_side


@pytest.fixture(scope="module")
def stored(templates: Templates) -> Iterator[Database]:
    """A database with 23 sessions, several last active at the same time, each with a context row that holds a secret."""
    with _new_database(templates.server, templates.get("fresh")) as new:
        new.execute(
            """INSERT INTO sessions (session_key, agent_from, status, retention_policy, metadata, last_activity_at)
               SELECT 'k' || g || %s, (ARRAY['ann', 'bob'])[1 + g %% 2], (ARRAY['active', 'pending', 'completed'])[1 + g %% 3],
                      (ARRAY['standard', 'short'])[1 + g %% 2], jsonb_build_object('note', %s::text), now() - g / 4 * interval '1 hour'
               FROM generate_series(1, 23) g""",
            (SCRIPT + ESCAPE, SECRET),
        )
        new.execute(
            "INSERT INTO context_history (session_id, sequence_number, context_type, content) SELECT id, 1, 'message', %s FROM sessions",
            (SECRET,),
        )
        yield new


def all_sessions(client: Any, **parameters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = client.get("/api/v1/sessions", params=parameters).json()
        found += page["sessions"]
        if not page["next_cursor"]:
            return found
        parameters["cursor"] = page["next_cursor"]


def test_pages_of_sessions_hold_each_once_the_last_active_first(shared: Serve, stored: Database) -> None:
    found = [one["id"] for one in all_sessions(shared(stored.url, "viewer"), limit=5)]
    assert found == [
        id for (id,) in stored.execute("SELECT id::text FROM sessions ORDER BY last_activity_at DESC, id DESC")
    ]


@pytest.mark.parametrize(
    ("parameters", "condition"),
    [
        ({"status": "pending"}, "status = 'pending'"),
        ({"retention_policy": "short", "agent": "bob"}, "retention_policy = 'short' AND agent_from = 'bob'"),
        ({"key_prefix": "k1"}, "session_key LIKE 'k1%'"),
        ({"key_prefix": "%"}, "false"),
        ({"dormant": "true"}, "is_dormant"),
        ({"dormant": "false"}, "NOT is_dormant"),
    ],
)
def test_filters_say_which_sessions(
    shared: Serve, stored: Database, parameters: dict[str, str], condition: str
) -> None:
    found = {one["id"] for one in all_sessions(shared(stored.url, "viewer"), **parameters)}
    assert found == {id for (id,) in stored.execute(f"SELECT id::text FROM sessions WHERE {condition}")}


def test_a_session_is_shown_with_what_it_holds_and_its_metadata_to_admins_only(shared: Serve, stored: Database) -> None:
    [(id,)] = stored.execute("SELECT id FROM sessions ORDER BY id LIMIT 1")
    seen = shared(stored.url, "viewer").get(f"/api/v1/sessions/{id}")
    assert (seen.json()["context_entries"], seen.json()["metadata"]) == (1, None)
    assert SECRET not in seen.text
    assert shared(stored.url).get(f"/api/v1/sessions/{id}").json()["metadata"] == {"note": SECRET}


def test_a_timeline_is_read_page_by_page(serve: Serve, fresh: Database) -> None:
    fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('k', 'a')")
    for status in ("pending", "active", "completed"):
        fresh.execute("UPDATE sessions SET status = %s", (status,))
    [(id,)] = fresh.execute("SELECT id FROM sessions")
    client = serve(fresh.url, "viewer")
    first = client.get(f"/api/v1/sessions/{id}/timeline?limit=3").json()
    rest = client.get(f"/api/v1/sessions/{id}/timeline", params={"before": first["next_before"]}).json()
    assert rest["next_before"] is None
    assert [event["id"] for event in first["events"] + rest["events"]] == [
        row for (row,) in fresh.execute("SELECT id::text FROM session_lifecycle ORDER BY id DESC")
    ]


@pytest.mark.parametrize("path", ["", "/timeline"])
def test_a_session_that_is_not_there_is_404(shared: Serve, stored: Database, path: str) -> None:
    assert problem(shared(stored.url).get(f"/api/v1/sessions/{uuid4()}{path}")) == "not-found"


@pytest.mark.parametrize("query", ["cursor=x", "cursor=MjAyNi0wMS0wMSAx", "limit=201", "dormant=perhaps", "status=%00"])
def test_parameters_of_sessions_are_named_where_they_cannot_be_used(
    shared: Serve, stored: Database, query: str
) -> None:
    answer = shared(stored.url).get(f"/api/v1/sessions?{query}")
    assert problem(answer) == "bad-parameter"
    assert answer.json()["errors"][0]["name"] == query.partition("=")[0]


@pytest.mark.parametrize(
    ("path", "name", "private"),
    [("jobs", "job", ["last_error"]), ("health", "check_name", ["detail", "fix"]), ("operations", "operation", []), ("connections", "session_id", ["sql_text"])],
)  # fmt: skip
def test_state_is_told_and_what_may_repeat_others_to_admins_only(
    shared: Serve, stored: Database, path: str, name: str, private: list[str]
) -> None:
    seen = shared(stored.url, "viewer").get(f"/api/v1/{path}")
    assert seen.status_code == 200
    assert all(row[name] and not any(row[one] for one in private) for row in seen.json()["rows"])
    assert shared(stored.url).get(f"/api/v1/{path}").json()["count"] == seen.json()["count"]


# --- actions -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def victim(fresh: Database) -> Iterator[tuple[Any, str]]:
    """A connection that is registered, and its id."""
    with psycopg.connect(fresh.url, autocommit=True) as connection:
        [(instance,)] = fresh.execute("SELECT instrumentation.register_instance('host', '1', '{}', gen_random_uuid())")
        [(start,)] = fresh.execute(
            "SELECT backend_start FROM pg_stat_activity WHERE pid = %s", (connection.info.backend_pid,)
        )
        id = str(uuid4())
        connection.execute(
            "SELECT instrumentation.register_session(%s, %s, %s, %s, 'app', NULL, 'app')",
            (instance, id, connection.info.backend_pid, start),
        )
        yield connection, id


def test_a_connection_is_ended_in_the_name_of_who_asked(serve: Serve, fresh: Database, victim: tuple[Any, str]) -> None:
    connection, id = victim
    answer = serve(fresh.url).post(f"/api/v1/connections/{id}/kill", json={"mode": "terminate", "grace": 2})
    assert answer.json() == {"ok": True, "reason": "terminated"}
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    assert fresh.execute("SELECT ok, on_behalf_of FROM instrumentation.kill_attempts") == [(True, "web:the admin")]


def test_a_refused_kill_is_409_with_the_reason_and_recorded(serve: Serve, fresh: Database) -> None:
    answer = serve(fresh.url).post(f"/api/v1/connections/{uuid4()}/kill", json={})
    assert problem(answer) == "refused"
    assert "Session not found" in answer.json()["detail"]
    assert fresh.execute("SELECT ok, on_behalf_of FROM instrumentation.kill_attempts") == [(False, "web:the admin")]


@pytest.mark.parametrize(
    "body", [{"mode": "burn"}, {"grace": 11}, {"grace": -1}, {"grace": True}, {"grace": "5"}, {"more": 1}, []]
)
def test_a_kill_that_is_not_understood_ends_nothing(serve: Serve, fresh: Database, body: Any) -> None:
    assert problem(serve(fresh.url).post(f"/api/v1/connections/{uuid4()}/kill", json=body)) == "bad-parameter"


@pytest.mark.oldest_and_newest
def test_a_login_of_the_web_service_has_the_rights_of_admins_for_the_action_only(serve: Serve, fresh: Database) -> None:
    newest = fresh.server.major >= 16
    fresh.execute(f"CREATE ROLE web_login LOGIN {'' if newest else 'NOINHERIT'} IN ROLE pgvigil_reader")
    fresh.execute(f"GRANT pgvigil_admin TO web_login {'WITH INHERIT FALSE' if newest else ''}")
    fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('k', 'a')")
    [(id,)] = fresh.execute("SELECT id FROM sessions")
    try:
        # Before 16 a login inherits from all of its roles or from none.
        client = serve(f"{fresh.url}&user=web_login" + ("" if newest else "&options=-crole%3Dpgvigil_reader"))
        assert client.post(f"/api/v1/sessions/{id}/archive", json={}).json() == {"ok": True, "reason": "archived"}
        assert client.post(f"/api/v1/sessions/{id}/archive", json={}).json()["ok"] is False
        assert client.post(f"/api/v1/sessions/{id}/reactivate", json={}).json()["ok"] is True
        assert problem(client.post(f"/api/v1/sessions/{uuid4()}/archive", json={})) == "not-found"
        store = client.app.state.store  # type: ignore[attr-defined]
        assert store.call(lambda connection: connection.execute("SELECT current_user").fetchone()) == (
            "web_login" if newest else "pgvigil_reader",
        )
    finally:
        fresh.execute("DROP OWNED BY web_login")
        fresh.execute("DROP ROLE web_login")
    actors = fresh.execute("SELECT event_type, event_data ->> 'actor' FROM session_lifecycle ORDER BY id")
    assert ("archived", "web:the admin") in actors
