"""A database that is away, frozen, locked, full or not ours: 503 in bounded time, and 200 when it is back."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from starlette.testclient import TestClient

from conftest import Database, Mortal, servers, wait_until
from helpers.web_routes import ROUTES, address
from pgvigil import cli
from pgvigil.embedded import Server
from pgvigil.web import store as store_module
from web.conftest import Serve, problem, settled

pytestmark = pytest.mark.client_side
PATH = "/api/v1/executions"
SOON = 0.3  # what these applications have for a deadline
STATE = "/admin/session-monitoring/dashboard/state"
BATCH = {"executions": [{"query": "SELECT 1", "database_type": "x"}]}
BODIES: dict[str, Any] = {"/api/v1/connections/{id}/kill": {"mode": "cancel"}, PATH: BATCH}
SLACK = 1.0  # of a loaded machine; a server that is waited for would take far longer


@pytest.fixture(scope="module")
def server(pg: Server) -> Iterator[Mortal]:  # noqa: ARG001 - that this runs once
    """A server to stop and freeze, which all tests here share."""
    with Server(servers()[max(servers())], settings={"restart_after_crash": "on"}, in_memory=True) as server:
        assert cli.main(["setup", "--database-url", server.dsn()]) == 0
        yield Mortal(server)


@contextmanager
def frozen(server: Mortal) -> Iterator[None]:
    """Stop all processes of the server."""
    process = server.server._process
    assert process
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    pids = [process.pid, *map(int, children)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def timed(client: TestClient, path: str = PATH) -> tuple[Any, float]:
    began = time.monotonic()
    answer = client.get(path)
    return answer, time.monotonic() - began


def test_a_stopped_server_is_503_at_once_and_200_when_it_is_back(serve: Serve, server: Mortal) -> None:
    client = serve(server.url)
    assert client.get(PATH).status_code == 200
    server.end(signal.SIGQUIT)
    try:
        answer, took = timed(client)
        assert problem(answer) == "database-away"
        assert answer.headers["retry-after"]
        assert took < SOON
        assert client.get("/livez").status_code == 200
        assert problem(client.get("/readyz")) == "database-away"
    finally:
        server.start()
    assert client.get(PATH).status_code == 200
    assert client.get("/readyz").status_code == 200


def test_the_first_poll_after_a_stop_shows_every_section(serve: Serve, server: Mortal) -> None:
    client = serve(server.url, pause=60.0)
    settled(client, f"{STATE}?page=live")
    client.app.state.store.forget()  # type: ignore[attr-defined]
    server.end(signal.SIGQUIT)
    try:
        lost = client.get(f"{STATE}?page=live").json()["sections"]
    finally:
        server.start()
    assert all("problem" in section for section in lost.values())
    back = client.get(f"{STATE}?page=live").json()["sections"]
    assert [name for name, section in back.items() if "problem" in section] == []


def test_idle_connections_that_a_restart_has_ended_are_replaced_unseen(serve: Serve, server: Mortal) -> None:
    client = serve(server.url)
    assert client.get(PATH).status_code == 200
    server.end(signal.SIGQUIT)
    server.start()
    assert client.get(PATH).status_code == 200


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "not yet connected"])
def test_a_frozen_server_is_503_at_the_deadline_and_200_when_it_goes_on(
    serve: Serve, server: Mortal, connected: bool
) -> None:
    client = serve(server.url, deadline=SOON, pause=0.1)
    if connected:
        assert client.get(PATH).status_code == 200
    with frozen(server):
        answer, took = timed(client)
        assert problem(answer) == "database-away"
        assert SOON * 0.9 < took < SOON + SLACK
    wait_until(lambda: client.get(PATH).status_code == 200, 1 + SLACK)


@contextmanager
def stopped(server: Mortal) -> Iterator[None]:
    server.end(signal.SIGQUIT)
    try:
        yield
    finally:
        server.start()


@contextmanager
def locked(server: Mortal) -> Iterator[None]:
    """Lock all tables from another session."""
    query = """SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'p') AND n.nspname IN ('public', 'pgvigil', 'instrumentation')"""
    with psycopg.connect(server.url) as other:
        [(tables,)] = other.execute(query).fetchall()
        other.execute(f"LOCK TABLE {tables}".encode())
        yield


@contextmanager
def full(store: Any) -> Iterator[None]:
    for _slot in range(store._size):
        store._slots.acquire()
    try:
        yield
    finally:
        for _slot in range(store._size):
            store._slots.release()


FAULTS: dict[str, tuple[Any, dict[str, float]]] = {
    "stopped": (lambda server, _: stopped(server), {}), "frozen": (lambda server, _: frozen(server), {"deadline": 0.08}),
    "locked": (lambda server, _: locked(server), {"lock_timeout": 0.05}), "full": (lambda _, store: full(store), {"wait": 0.05}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_every_route_is_503_in_bounded_time_and_a_batch_is_taken_all_the_same(
    serve: Serve, server: Mortal, fault: str
) -> None:
    broken, options = FAULTS[fault]
    client = serve(server.url, **({"pause": 0.0, "records": True} | options))  # each of them finds out for itself
    store: Any = client.app.state.store  # type: ignore[attr-defined]
    asked = {"/api/v1/operations/calls": "?operation=x", STATE: "?page=live"}
    without = {"/livez", "/openapi.json", "/", "/performance/{what}"}  # these ask no database
    found, late = {}, {}
    assert client.get(PATH).status_code == 200
    with broken(server, store):
        for method, path in sorted(ROUTES):
            if path in without or ("/dashboard" in path and path != STATE) or (fault, path) == ("locked", "/readyz"):
                continue
            began = time.monotonic()
            where = address(path, "analyze") + asked.get(path, "")
            answer = client.get(where) if method == "GET" else client.post(where, json=BODIES.get(path, {}))
            took = time.monotonic() - began
            if took > 0.1 + SLACK:
                late[path] = took
            if answer.status_code != 503 or not answer.headers.get("retry-after"):
                found[method, path] = answer
    assert not late
    sections = found.pop(("GET", STATE)).json()["sections"].values()  # a page shows what it has kept
    assert {one["problem"]["status"] for one in sections if "pending" not in one} == {503}
    assert "pgvigil_up 0" in found.pop(("GET", "/metrics")).text  # Prometheus drops what comes with another status
    assert found.pop(("POST", PATH)).status_code == 202  # the recorder keeps it until the database is back
    assert not found
    wait_until(lambda: client.get(PATH).status_code == 200, 1 + SLACK)


def test_an_action_that_may_take_long_is_503_at_the_deadline_while_the_server_is_frozen(
    serve: Serve, server: Mortal
) -> None:
    client = serve(server.url, deadline=SOON)
    assert client.get(PATH).status_code == 200
    with frozen(server):
        began = time.monotonic()
        answer = client.post(f"/api/v1/connections/{UUID(int=1)}/kill", json={"mode": "terminate", "grace": 5})
        took = time.monotonic() - began
    assert problem(answer) == "database-away"
    assert took < SOON + SLACK


def test_of_a_frozen_server_one_caller_finds_out_and_the_others_are_told(serve: Serve, server: Mortal) -> None:
    client = serve(server.url, deadline=SOON, pause=60.0)
    store: Any = client.app.state.store  # type: ignore[attr-defined]
    with frozen(server):
        timed(client)
        finding_out = threading.Thread(target=client.get, args=(PATH,))
        finding_out.start()
        while not store._trying:
            time.sleep(0.001)
        answer, took = timed(client)
        finding_out.join()
    assert problem(answer) == "database-away"
    assert took < SOON * 0.9
    assert client.get(PATH).status_code == 200


def test_a_locked_table_is_503_too_slow_and_the_connection_stays(serve: Serve, server: Mortal) -> None:
    client = serve(server.url, lock_timeout=0.1)
    with psycopg.connect(server.url) as other:
        other.execute("LOCK TABLE query_executions")
        answer, took = timed(client)
        assert problem(answer) == "too-slow"
        assert answer.headers["retry-after"]
        assert took < 0.1 + SLACK
        other.rollback()
    assert client.get(PATH).status_code == 200


def test_a_slow_statement_is_too_slow_and_not_taken_for_a_server_that_is_away(serve: Serve, server: Mortal) -> None:
    from pgvigil.web.problems import Problem

    store: Any = serve(server.url, deadline=SOON).app.state.store  # type: ignore[attr-defined]
    with pytest.raises(Problem) as caught:
        store.call(lambda connection: connection.execute(b"SELECT pg_sleep(20)"))
    assert caught.value.kind == "too-slow"
    assert len(store._idle) == 1


def test_a_full_pool_is_503_after_the_wait_and_at_once_where_too_many_wait(serve: Serve, server: Mortal) -> None:
    client = serve(server.url, size=1, wait=0.1, max_waiting=1, deadline=5.0)
    store: Any = client.app.state.store  # type: ignore[attr-defined]
    taken, done = threading.Event(), threading.Event()
    holder = threading.Thread(target=store.call, args=(lambda _: (taken.set(), done.wait(10)),))
    holder.start()
    taken.wait(10)
    try:
        answer, took = timed(client)
        assert problem(answer) == "busy"
        assert answer.headers["retry-after"]
        assert took < 0.1 + SLACK
        store._asking += 1  # somebody who waits
        answer, took = timed(client)
        store._asking -= 1
        assert problem(answer) == "busy"
        assert took < 0.1
    finally:
        done.set()
        holder.join()
    assert client.get(PATH).status_code == 200


def test_the_wait_for_a_connection_begins_when_it_is_asked_for(serve: Serve, server: Mortal) -> None:
    from pgvigil.web.problems import Problem

    store: Any = serve(server.url, size=1, wait=20.0, deadline=40.0).app.state.store  # type: ignore[attr-defined]
    store._slots.acquire()
    began = time.monotonic()
    with pytest.raises(Problem) as caught:
        store.call(lambda _: None, began=began - 20.0)
    assert caught.value.kind == "busy"
    assert time.monotonic() - began < 10.0


def test_a_database_that_is_not_migrated_is_503_and_says_what_to_run(serve: Serve, database: Database) -> None:
    answer = serve(database.url).get(PATH)
    assert problem(answer) == "not-migrated"
    assert "pgvigil migrate" in answer.text


def test_an_older_revision_is_503_not_migrated(serve: Serve, fresh: Database) -> None:
    fresh.execute("DROP FUNCTION pgvigil.execution_window(interval)")
    assert problem(serve(fresh.url).get(f"{PATH}/stats/global")) == "not-migrated"


def test_a_wrong_password_is_503_and_in_no_answer_and_no_log(
    serve: Serve, pg: Server, caplog: pytest.LogCaptureFixture
) -> None:
    url = pg.tcp_dsn("postgres")
    password = url.partition("@")[0].rpartition(":")[2]
    with caplog.at_level(logging.DEBUG):
        answer = serve(url.replace(password, "wrong-hunter2", 1)).get(PATH)
    assert problem(answer) == "database-away"
    assert "hunter2" not in answer.text + caplog.text
    assert "password authentication failed" in caplog.text


def test_a_right_that_is_missing_is_503_and_the_log_names_the_object(
    serve: Serve, executions: Database, caplog: pytest.LogCaptureFixture
) -> None:
    executions.execute("CREATE ROLE web_nobody LOGIN")
    try:
        answer = serve(f"{executions.url}&user=web_nobody").get(PATH)
    finally:
        executions.execute("DROP ROLE web_nobody")
    assert problem(answer) == "missing-right"
    assert "permission denied" in caplog.text
    assert "permission denied" not in answer.text


def test_what_nobody_foresaw_is_500_without_its_words(
    serve: Serve, server: Mortal, caplog: pytest.LogCaptureFixture
) -> None:
    client = serve(server.url, authorize=lambda _: 1 / 0)
    answer = client.get(PATH)
    assert problem(answer) == "defect"
    assert "division" not in answer.text
    assert "ZeroDivisionError" in caplog.text


def test_a_forked_child_opens_connections_of_its_own(serve: Serve, server: Mortal) -> None:
    store: Any = serve(server.url).app.state.store  # type: ignore[attr-defined]

    def backend(connection: Any) -> int:
        return int(connection.info.backend_pid)

    ours = store.call(backend)
    store._pid = -1  # as a child sees it
    assert store.call(backend) != ours
    [inherited] = store_module._inherited
    assert inherited.execute("SELECT 1").fetchone() == (1,)  # it is still its parent's
    store_module._inherited.pop().close()


def test_a_deadline_leaves_a_connection_that_answered_in_time_alone(server: Mortal) -> None:
    from pgvigil.web import deadline

    watchdog = deadline.Watchdog(idle=0.05)
    connection = deadline.connect(server.url, time.monotonic() + 5)
    with watchdog.watching(connection.pgconn, time.monotonic() + 0.05):
        assert connection.execute("SELECT 1").fetchone() == (1,)
    time.sleep(0.1)
    assert connection.execute("SELECT 2").fetchone() == (2,)
    connection.close()
