"""Test the sections of the state: read together, not read again while nothing changes, and shown before a slow one is
known.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from starlette.testclient import TestClient

from conftest import Database, wait_until
from pgvigil.web import access, deadline, problems, sections, state
from pgvigil.web.store import Store
from web.conftest import NOW, Serve, problem, settled

pytestmark = pytest.mark.client_side
STATE = "/admin/session-monitoring/dashboard/state"


def sections_of(client: TestClient) -> Any:
    return client.app.state.sections  # type: ignore[attr-defined]


def expire(client: TestClient) -> None:
    for answer in sections_of(client)._answers.values():
        answer.expires = 0.0


def test_cheap_sections_that_are_due_are_read_in_one_transaction(serve: Serve, executions: Database) -> None:
    client = serve(executions.url)
    settled(client, f"{STATE}?page=executions")
    for answer in sections_of(client)._answers.values():
        answer.cost = 0.001  # as on a machine with nothing else to do
    expire(client)
    store: Any = client.app.state.store  # type: ignore[attr-defined]
    plain, asked = store.call, []
    store.call = lambda question, **options: (asked.append(1), plain(question, **options))[1]
    assert client.get(f"{STATE}?page=executions").status_code == 200
    assert len(asked) == 1


def test_what_is_live_is_read_again_only_when_it_has_changed(serve: Serve, fresh: Database) -> None:
    client = serve(fresh.url)
    settled(client, f"{STATE}?page=live")
    expire(client)
    sections_of(client)._answers["server"].expires = time.monotonic() + 60
    before = sections_of(client)._answers["connections"]
    client.get(f"{STATE}?page=live")
    assert sections_of(client)._answers["connections"] is before
    with fresh.connect() as connection:
        [(instance,)] = connection.execute(
            "SELECT instrumentation.register_instance('host', '1', '{}', gen_random_uuid())"
        ).fetchall()
        connection.execute(
            "SELECT instrumentation.register_session(%s, gen_random_uuid(), 1, now(), 'ann', NULL, 'shop')", (instance,)
        )
    expire(client)
    [row] = client.get(f"{STATE}?page=live").json()["sections"]["connections"]["data"]
    assert row["username"] == "ann"


def test_a_poll_that_finds_nothing_new_is_one_round_trip_and_starts_no_thread(
    serve: Serve, fresh: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(fresh.url)
    first = client.get(f"{STATE}?page=live")
    again = client.get(f"{STATE}?page=live", headers={"if-none-match": first.headers["etag"]})
    for answer in sections_of(client)._answers.values():
        answer.expires = 0.0 if answer.mark else time.monotonic() + 60
    trips: list[bytes] = []
    plain = deadline.ask_here
    monkeypatch.setattr(
        deadline, "ask_here", lambda pgconn, query, until: (trips.append(query), plain(pgconn, query, until))[1]
    )
    monkeypatch.setattr(psycopg.Connection, "execute", None)
    monkeypatch.setattr(Store, "call", None)
    monkeypatch.setattr(threading, "Timer", None)
    again = client.get(f"{STATE}?page=live", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.headers["ratelimit-remaining"]
    assert len(trips) == 1


def test_a_poll_plans_for_few_of_the_many_partitions(serve: Serve, fresh: Database) -> None:
    client = serve(fresh.url)
    settled(client, f"{STATE}?page=live")
    [(plan,)] = fresh.execute(f"EXPLAIN (FORMAT JSON) {sections_of(client)._query(['live'])}")
    assert 1 <= json.dumps(plan).count('"Relation Name": "sql_statements_p') <= 3


@pytest.mark.parametrize("seconds", [0.0, 1_700_000_000.25, 253_402_300_799.0])
def test_the_first_id_of_a_moment_is_that_of_the_database(fresh: Database, seconds: float) -> None:
    [(known,)] = fresh.execute("SELECT pgvigil.uuid_v7_floor(to_timestamp(%s))::text", (seconds,))
    assert sections._floor(seconds) == known


def test_after_the_preparation_no_page_asks_anything(
    serve: Serve, executions: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(executions.url)
    assert client.portal
    wait_until(
        lambda: (
            client.portal.call(client.app.state.prepare),
            set(sections_of(client)._answers) >= set(state.SECTIONS),
        )[1]
    )  # type: ignore[union-attr, attr-defined]
    for answer in sections_of(client)._answers.values():
        answer.expires = time.monotonic() + 60
    sections_of(client)._answered = time.monotonic() + 60
    monkeypatch.setattr(Store, "call", None)
    monkeypatch.setattr(deadline, "ask_here", None)
    for page in state.PAGES:
        shown = client.get(f"{STATE}?page={page}").json()["sections"]
        assert [name for name, section in shown.items() if "data" not in section] == []


def test_polls_have_a_limit(serve: Serve, executions: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "POLLS", 1)
    client = serve(executions.url)
    assert client.get(f"{STATE}?page=alerts").status_code == 200
    answer = client.get(f"{STATE}?page=alerts")
    assert problem(answer) == "too-many-requests"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert client.get(f"{STATE}?page=alerts", headers={"x-who": "viewer"}).status_code == 200


def test_the_document_of_a_page_is_made_once_while_it_is_the_same(
    serve: Serve, executions: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(executions.url)
    first = settled(client, f"{STATE}?page=executions")
    for answer in sections_of(client)._answers.values():
        answer.expires = time.monotonic() + 60
    client.get(f"{STATE}?page=executions")
    monkeypatch.setattr(state.Encoded, "of", None)
    again = client.get(f"{STATE}?page=executions", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code in (200, 304)


def test_a_viewer_and_an_admin_do_not_share_a_document(serve: Serve, executions: Database) -> None:
    client = serve(executions.url)
    settled(client, f"{STATE}?page=jobs")
    for answer in sections_of(client)._answers.values():
        answer.expires = time.monotonic() + 60
        answer.texts.clear()
    sections_of(client)._answers["health"].data[0]["fix"] = "REINDEX"
    found = {role: client.get(f"{STATE}?page=jobs", headers={"x-who": role}).json() for role in ("admin", "viewer")}
    fixes = {role: {one["fix"] for one in found[role]["sections"]["health"]["data"]} for role in found}
    assert "REINDEX" in fixes["admin"]
    assert fixes["viewer"] == {None}


@pytest.mark.parametrize(("page", "name"), [("sessions", "sessions_now"), ("jobs", "health")])
def test_a_section_that_takes_long_holds_up_no_page_and_follows(
    serve: Serve, executions: Database, monkeypatch: pytest.MonkeyPatch, page: str, name: str
) -> None:
    counted = threading.Event()
    slowly = dataclasses.replace(state.SECTIONS[name], read=lambda *_: (counted.wait(8), [])[1])
    monkeypatch.setitem(state.SECTIONS, name, slowly)
    client = serve(executions.url)
    sections = client.get(f"{STATE}?page={page}").json()["sections"]
    assert sections.pop(name) == {"pending": True}
    if name == "health":
        assert sections.pop("alerts") == {"pending": True}
        assert "data" in sections["jobs"]
    counted.set()
    assert "data" in settled(client, f"{STATE}?page={page}").json()["sections"][name]


@pytest.mark.parametrize("path", ["jobs", "health", "operations", "alerts", "application", "connections"])
def test_rows_that_are_kept_are_no_answer_once_the_database_is_away(
    serve: Serve, executions: Database, path: str
) -> None:
    client = serve(executions.url)
    assert client.get(f"/api/v1/{path}").status_code == 200
    store: Any = client.app.state.store  # type: ignore[attr-defined]

    def away(*_: Any, **__: Any) -> None:
        raise problems.database_away()

    store.call = away
    store._drop_idle()
    for answer in sections_of(client)._answers.values():
        answer.read_at -= 2
    sections_of(client)._answered -= 2
    assert problem(client.get(f"/api/v1/{path}")) == "database-away"


def test_sessions_of_an_hour_are_those_that_were_created_in_it(serve: Serve, fresh: Database) -> None:
    fresh.execute(
        """INSERT INTO sessions (session_key, agent_from, created_at, last_activity_at)
           SELECT 'k' || g, 'a', %s::timestamptz - g * interval '30 minutes', %s FROM generate_series(0, 5) g""",
        (NOW, NOW),
    )
    hour = {"from": (NOW - timedelta(hours=2)).isoformat(), "to": (NOW - timedelta(hours=1)).isoformat()}
    found = serve(fresh.url).get("/api/v1/sessions", params=hour).json()["sessions"]
    assert {one["session_key"] for one in found} == {"k3", "k4"}


def test_calls_of_an_hour_are_those_from_its_beginning_to_its_end(serve: Serve, fresh: Database) -> None:
    fresh.execute(
        """INSERT INTO performance_logs (id, operation, duration_ms, success, created_at)
           SELECT pgvigil.uuid_v7_floor(m.at), 'search', g, true, m.at
           FROM generate_series(0, 5) g CROSS JOIN LATERAL (SELECT %s::timestamptz - g * interval '30 minutes' AS at) m""",
        (NOW,),
    )
    client = serve(fresh.url)
    hour = {"from": (NOW - timedelta(hours=2)).isoformat(), "to": (NOW - timedelta(hours=1)).isoformat()}
    found = client.get("/api/v1/operations/calls", params={"operation": "search", **hour}).json()["rows"]
    assert {one["duration_ms"] for one in found} == {3, 4}
    assert client.get("/api/v1/operations/calls", params={"operation": "search"}).json()["count"] == 6
