"""The web application on a database that all of its tests share, as whoever a header says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from conftest import Database, Templates, _new_database, wait_until
from pgvigil import web
from pgvigil.live import Recorder

MANY = "1000000/minute"
PATIENT = 5.0  # seconds: a server on a loaded machine must not count as absent
NOW = datetime.now(UTC).replace(microsecond=0)
SECRET = "hunter2-must-not-show"  # noqa: S105 - planted
SCRIPT = "<script>alert(1)</script>"
ESCAPE = "\x1b[31mred"


def by_header(request: Request) -> web.Principal | None:
    """Return the principal of the header `X-Who: viewer` or `X-Who: admin`."""
    role = request.headers.get("x-who")
    return web.Principal(f"the {role}", role) if role in ("viewer", "admin") else None  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def executions(templates: Templates) -> Iterator[Database]:
    """A database with 400 executions of four users over two days, several at the same time; job totals has counted all
    but the last ten.
    """
    with _new_database(templates.server, templates.get("fresh")) as new:
        statement = """
            INSERT INTO query_executions (execution_id, user_id, query, database_type, status, execution_time, total_rows, started_at, error_message)
            SELECT 'e' || g, (ARRAY['ada', 'bob', 'stats', 'a/b'])[1 + g %% 4], 'SELECT ' || g, (ARRAY['postgresql', 'mysql'])[1 + g %% 2],
                   (ARRAY['success', 'success', 'success', 'failed', 'error', 'timeout'])[1 + g %% 6], CASE WHEN g %% 7 > 0 THEN g / 100.0 END, g,
                   %s::timestamptz - g / 3 * interval '21 minutes', NULL
            FROM generate_series(%s::int, %s::int) g"""
        new.execute(statement, (NOW, 1, 390))
        new.execute("CALL pgvigil.run_job('totals')")
        new.execute(statement, (NOW, 391, 400))
        yield new


Serve = Callable[..., TestClient]


def _opened(
    closing: list[Callable[[], object]],
    spill: Path,
    url: str,
    who: str | None,
    *,
    records: bool = False,
    **options: Any,
) -> TestClient:
    if records:
        options["recorder"] = Recorder(url, spill_directory=spill, linger=0.01)
        closing.append(options["recorder"].close)
    usual = {"authorize": by_header, "reads": MANY, "writes": MANY, "deadline": PATIENT}
    app = web.application(url, **usual | options)
    closing.insert(0, app.state.store.close)
    client = TestClient(app, headers={"x-who": who} if who else {}, raise_server_exceptions=False)
    client.__enter__()
    closing.insert(0, lambda: client.__exit__(None, None, None))
    return client


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Return a client of an application of its own by `serve(url, who="admin", …)`, and close it in the end."""
    closing: list[Callable[[], object]] = []
    yield lambda url, who="admin", **options: _opened(closing, tmp_path / "spill", url, who, **options)
    for close in closing:
        close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Return a client by `shared(url, who="admin", records=False)`; other tests of the module use its application as
    well.
    """
    closing: list[Callable[[], object]] = []
    known: dict[Any, TestClient] = {}

    def shared(url: str, who: str | None = "admin", *, records: bool = False) -> TestClient:
        key = url, who, records
        if key not in known:
            known[key] = _opened(closing, tmp_path_factory.mktemp("spill"), url, who, records=records)
        known[key].cookies.clear()
        known[key].app.state.store.forget()  # type: ignore[attr-defined]
        return known[key]

    yield shared
    for close in closing:
        close()


@pytest.fixture
def admin(shared: Serve, executions: Database) -> TestClient:
    return shared(executions.url)


@pytest.fixture
def viewer(shared: Serve, executions: Database) -> TestClient:
    return shared(executions.url, "viewer")


def problem(answer: Any) -> str:
    """The kind of a problem, which has the form of one."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    return str(document["type"].removeprefix("urn:pgvigil:problem:"))


def settled(client: TestClient, path: str, **headers: str) -> Any:
    """The answer when no section of a page is on its way any more."""
    found: list[Any] = []

    def arrives() -> bool:
        found[:] = [client.get(path, headers=headers)]
        return '{"pending": true}' not in found[0].text

    wait_until(arrives)
    return found[0]


def hours_ago(hours: float) -> str:
    return (NOW - timedelta(hours=hours)).isoformat().replace("+00:00", "Z")
