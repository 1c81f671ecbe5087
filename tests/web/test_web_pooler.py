"""The web application behind pgbouncer: each action is done in the name of who asked, or refused in words, and never half of it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from conftest import Database
from helpers.pgbouncer import pgbouncer
from web.conftest import Serve, problem

pytestmark = pytest.mark.client_side
# As pgbouncer is set up where it is to let drivers' options pass, which it then drops.
SETTINGS = "ignore_startup_parameters = options,extra_float_digits"


def actors(database: Database) -> list[Any]:
    query = "SELECT event_type, event_data ->> 'actor' FROM session_lifecycle WHERE event_type <> 'created' ORDER BY id"
    return database.execute(query)


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_through_a_pool_a_session_is_archived_and_reactivated_in_the_name_of_who_asked(
    serve: Serve, fresh: Database, mode: str
) -> None:
    [(id,)] = fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('k', 'a') RETURNING id")
    with pgbouncer(fresh.server, mode, settings=SETTINGS) as url:
        client = serve(url(fresh.name))
        assert client.post(f"/api/v1/sessions/{id}/archive", json={}).json() == {"ok": True, "reason": "archived"}
        assert client.post(f"/api/v1/sessions/{id}/reactivate", json={}).json() == {"ok": True, "reason": "reactivated"}
    assert {actor for _, actor in actors(fresh)} == {"web:the admin"}


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_through_a_pool_a_connection_is_ended_in_the_name_of_who_asked(
    serve: Serve, fresh: Database, mode: str
) -> None:
    id = str(uuid4())
    [(instance,)] = fresh.execute("SELECT instrumentation.register_instance('host', '1', '{}', gen_random_uuid())")
    with psycopg.connect(fresh.url, autocommit=True) as connection, pgbouncer(fresh.server, mode) as url:
        pid = connection.info.backend_pid
        [(start,)] = fresh.execute("SELECT backend_start FROM pg_stat_activity WHERE pid = %s", (pid,))
        connection.execute(
            "SELECT instrumentation.register_session(%s, %s, %s, %s, 'app', NULL, 'app')", (instance, id, pid, start)
        )
        answer = serve(url(fresh.name)).post(f"/api/v1/connections/{id}/kill", json={"grace": 5})
        assert answer.json() == {"ok": True, "reason": "terminated"}
    assert fresh.execute("SELECT ok, on_behalf_of FROM instrumentation.kill_attempts") == [(True, "web:the admin")]


@pytest.mark.parametrize("settings", ["", SETTINGS])
def test_a_job_is_refused_through_a_transaction_pool_with_the_reason_and_nothing_is_begun(
    serve: Serve, fresh: Database, settings: str
) -> None:
    with pgbouncer(fresh.server, "transaction", settings=settings) as url:
        answer = serve(url(fresh.name)).post("/api/v1/jobs/totals/run", json={})
    assert problem(answer) == "refused"
    assert "a pool in session mode. Nothing was changed." in answer.json()["detail"]
    assert fresh.execute("SELECT count(*) FROM pgvigil.job_runs") == [(0,)]


@pytest.mark.parametrize("settings", ["", SETTINGS])
def test_a_job_runs_through_a_session_pool_in_the_name_of_who_asked(
    serve: Serve, fresh: Database, settings: str
) -> None:
    fresh.execute(
        "INSERT INTO sessions (session_key, agent_from, expires_at) VALUES ('k', 'a', now() - interval '1 day')"
    )
    with pgbouncer(fresh.server, "session", settings=settings) as url:
        answer = serve(url(fresh.name)).post("/api/v1/jobs/expiry/run", json={})
    assert (answer.status_code, answer.json()["ok"]) == (200, True), answer.text
    assert actors(fresh) == [("expired", "web:the admin")]


def test_a_pool_that_has_no_connection_left_for_a_job_is_503_and_nothing_is_begun(
    serve: Serve, fresh: Database
) -> None:
    with pgbouncer(fresh.server, "session", pool_size=1) as url:
        answer = serve(url(fresh.name)).post("/api/v1/jobs/totals/run", json={})
    assert problem(answer) in ("database-away", "refused")
    assert "The job was not run" in answer.json()["title"]
    assert fresh.execute("SELECT count(*) FROM pgvigil.job_runs") == [(0,)]
