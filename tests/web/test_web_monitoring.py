"""Test the session monitor over HTTP, and below Flask; values that no worker has counted are never shown as zeros."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import flask
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from conftest import PROJECT, Database, Templates, _new_database, application
from helpers.monitor_report import report
from pgvigil import web
from pgvigil.web.flask import PgvigilFlask
from web.conftest import ESCAPE, MANY, SCRIPT, Serve, by_header, problem

pytestmark = pytest.mark.client_side
BASE = "/admin/session-monitoring"


@pytest.fixture(scope="module")
def monitored(templates: Templates) -> Iterator[Database]:
    """A database with two workers of one application, and an ended one of another."""
    with _new_database(templates.server, templates.get("fresh")) as new:
        report(new)
        report(new)
        report(new, "ended", ended=True)
        yield new


def test_all_workers_are_added_up(shared: Serve, monitored: Database) -> None:
    answer = shared(monitored.url, "viewer").get(f"{BASE}/metrics").json()
    assert answer["workers"] == 2
    assert answer["session_metrics"]["creations"] == 200
    assert answer["pool_metrics"]["timeouts"] == 8
    assert answer["pool_metrics"]["checked_out"] == 4


def test_the_status_names_each_application_that_is_alive(shared: Serve, monitored: Database) -> None:
    answer = shared(monitored.url, "viewer").get(f"{BASE}/status").json()
    assert (answer["status"], answer["issues"], answer["workers"]) == ("healthy", [], 2)
    assert [one["application"] for one in answer["applications"]] == ["shop"]


def test_the_summary_says_the_same_in_words(shared: Serve, monitored: Database) -> None:
    answer = shared(monitored.url, "viewer").get(f"{BASE}/summary", params={"application": "shop"}).json()
    assert "180 committed, 10 rolled back" in answer["summary"]
    assert answer["recovery_metrics"]["failed_recoveries"] == 2


def test_alerts_follow_the_thresholds_that_are_asked_for(shared: Serve, monitored: Database) -> None:
    client = shared(monitored.url, "viewer")
    assert client.get(f"{BASE}/alerts").json()["count"] == 0
    [alert] = client.get(f"{BASE}/alerts?active_sessions=1&recovery_rate=1").json()["alerts"]
    assert (alert["type"], alert["application"]) == ("excessive_active_sessions", "shop")


@pytest.mark.parametrize("query", ["threshold=0", "threshold=-1", "threshold=abc", "threshold=nan", "threshold=inf", "recovery_rate=2",
                                   "active_sessions=0", "application=", "application=%00"])  # fmt: skip
def test_a_threshold_that_is_none_is_422(shared: Serve, monitored: Database, query: str) -> None:
    assert problem(shared(monitored.url).get(f"{BASE}/alerts?{query}")) == "bad-parameter"


@pytest.mark.parametrize(
    ("errors", "used", "status", "code"),
    [(2, 0.2, "healthy", 200), (6, 0.2, "degraded", 200), (2, 0.9, "degraded", 200), (11, 0.2, "unhealthy", 503), (2, 0.96, "unhealthy", 503)],
)  # fmt: skip
def test_health_is_503_where_it_is_unhealthy_and_needs_no_login(
    serve: Serve, fresh: Database, errors: int, used: float, status: str, code: int
) -> None:
    report(fresh, errors=errors, **{"utilization/main": used})
    nobody = serve(fresh.url, None).get(f"{BASE}/health")
    assert nobody.status_code == code
    assert nobody.json().keys() == {"status", "timestamp"}
    assert nobody.json()["status"] == status
    assert ("retry-after" in nobody.headers) == (code == 503)
    assert serve(fresh.url, "viewer").get(f"{BASE}/health").json()["workers"] == 1


def test_one_application_that_is_ill_does_not_hide_behind_many_that_are_well(serve: Serve, fresh: Database) -> None:
    for n in range(5):
        report(fresh, f"well {n}")
    report(fresh, "ill", errors=20)
    assert serve(fresh.url, None).get(f"{BASE}/health").json()["status"] == "unhealthy"


@pytest.mark.parametrize("what", ["status", "metrics", "summary", "alerts", "health"])
def test_where_no_worker_is_alive_there_are_no_numbers(shared: Serve, monitored: Database, what: str) -> None:
    answer = shared(monitored.url).get(f"{BASE}/{what}?application=ended")
    assert answer.status_code == 404
    assert problem(answer) == "no-worker"


def test_health_is_503_where_no_worker_is_alive_at_all(serve: Serve, fresh: Database) -> None:
    answer = serve(fresh.url, None).get(f"{BASE}/health")
    assert answer.status_code == 503
    assert problem(answer) == "no-worker"
    assert "retry-after" in answer.headers


@pytest.mark.parametrize("what", ["status", "metrics", "summary", "alerts", "health"])
def test_a_database_that_is_away_is_no_zeros_either(serve: Serve, tmp_path: Any, what: str) -> None:
    assert problem(serve(f"postgresql:///x?host={tmp_path}").get(f"{BASE}/{what}")) == "database-away"


def test_the_older_address_leads_to_the_new_one(shared: Serve, monitored: Database) -> None:
    client = shared(monitored.url)
    assert client.get("/performance/status", follow_redirects=False).status_code == 308
    assert client.get("/performance/status").json()["status"] == "healthy"
    assert problem(client.get("/performance/nonsense")) == "bad-parameter"


def test_whoever_has_the_same_state_is_told_so(serve: Serve, monitored: Database) -> None:
    client = serve(monitored.url)
    store = client.app.state.store  # type: ignore[attr-defined]
    first = client.get(f"{BASE}/status")
    store._answers["session monitor"] = (
        *store._answers["session monitor"][:1],
        float("inf"),
        store._answers["session monitor"][2],
    )
    assert client.get(f"{BASE}/status", headers={"if-none-match": first.headers["etag"]}).status_code == 304


# --- mounted -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def below_flask(monitored: Database) -> Any:
    """A Flask application that lets in whom a header names."""
    app = flask.Flask("shop")

    def authorize() -> Any:
        role = flask.request.headers.get("x-who")
        return web.Principal(role, role) if role in ("viewer", "admin") else role == "true"  # type: ignore[arg-type]

    PgvigilFlask(app, authorize=authorize, database_url=monitored.url, reads=MANY)
    return app.test_client()


@pytest.mark.parametrize("path", ["/pgvigil/livez", "/pgvigil/readyz", "/pgvigil/api/v1/executions", f"/pgvigil{BASE}/status", f"{BASE}/status",
                                  "/pgvigil/metrics"])  # fmt: skip
def test_below_flask_everything_is_where_it_should_be(below_flask: Any, path: str) -> None:
    answer = below_flask.get(path, headers={"x-who": "viewer"})
    assert answer.status_code == 200, answer.text


def test_below_flask_the_older_address_leads_to_the_new_one(below_flask: Any) -> None:
    location = below_flask.get("/pgvigil/performance/status").headers["location"]
    assert urljoin("http://host/pgvigil/performance/status", location) == f"http://host/pgvigil{BASE}/status"


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/pgvigil/nope", "not-found"), ("/pgvigil/nothing", "not-found"), ("/pgvigil/api/v1/executions?limit=x", "bad-parameter"), (f"{BASE}/nope", "not-found"),
     ("/pgvigil/api/v1/executions?status=%ff\xe4", "bad-parameter"), ("/pgvigil/api/v1/executions/ada%2Fstats", "bad-parameter")],
)  # fmt: skip
def test_below_flask_errors_are_problems_too(below_flask: Any, path: str, kind: str) -> None:
    answer = below_flask.get(path, headers={"x-who": "admin"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.get_json()["type"] == f"urn:pgvigil:problem:{kind}"


@pytest.mark.parametrize(("who", "status"), [(None, 401), ("", 401), ("viewer", 200), ("true", 200)])
def test_below_flask_the_application_says_who_it_is(below_flask: Any, who: str | None, status: int) -> None:
    headers = {} if who is None else {"x-who": who}
    assert below_flask.get(f"{BASE}/status", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("said", "status"), [(403, 403), (401, 401), (418, 418), (flask.redirect("/login"), 302)], ids=str
)
def test_below_flask_an_abort_of_the_application_is_a_problem_but_not_its_own_answer(
    monitored: Database, said: Any, status: int
) -> None:
    app = flask.Flask("shop")
    PgvigilFlask(app, authorize=lambda: flask.abort(said), database_url=monitored.url)
    answer = app.test_client().get(f"{BASE}/status")
    assert answer.status_code == status
    assert (answer.content_type == "application/problem+json") == (status != 302)
    assert app.test_client().get("/pgvigil/livez").status_code == (302 if status == 302 else 200)


def test_no_client_can_name_itself_below_flask(below_flask: Any) -> None:
    answer = below_flask.get(f"{BASE}/status", headers={"pgvigil.principal": "admin", "Pgvigil-Principal": "admin"})
    assert answer.status_code == 401


def test_without_authorize_flask_mounts_nothing(monitored: Database) -> None:
    app = flask.Flask("shop")
    PgvigilFlask(app, database_url=monitored.url)
    assert app.test_client().get("/pgvigil/livez").status_code == 404


def test_pages_below_flask_need_a_database() -> None:
    with pytest.raises(TypeError, match="database_url"):
        PgvigilFlask(flask.Flask("shop"), authorize=lambda: True)


def test_below_fastapi_it_is_the_same_application(monitored: Database) -> None:
    outer = FastAPI()
    inner = web.application(monitored.url, authorize=by_header)
    outer.mount("/watch", inner)
    with TestClient(outer, headers={"x-who": "admin"}) as client:
        assert client.get(f"/watch{BASE}/status").json()["status"] == "healthy"
        assert client.get("/watch/performance/status").json()["status"] == "healthy"
        assert problem(client.get("/watch/api/v1/executions/a%2Fstats")) == "bad-parameter"
    inner.state.store.close()


# --- what others wrote ---------------------------------------------------------------------------------------------------


def test_names_that_others_gave_are_data_and_no_more(serve: Serve, fresh: Database) -> None:
    report(fresh, SCRIPT + ESCAPE)
    client = serve(fresh.url)
    for path in (f"{BASE}/status", f"{BASE}/alerts", "/metrics"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "\x1b" not in answer.text
        assert "html" not in answer.headers["content-type"]
    assert client.get(f"{BASE}/status").json()["applications"][0]["application"] == SCRIPT + ESCAPE


# --- the pages about it --------------------------------------------------------------------------------------------------


def test_examples_of_the_page_work(monitored: Database) -> None:
    page = (PROJECT / "docs/api.md").read_text()
    fastapi_, flask_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    asking = """
from starlette.testclient import TestClient
client = TestClient(app)
print([client.get("/pgvigil/api/v1/executions", headers=headers).status_code for headers in ({}, {"x-user": "ann"})])
"""
    with application(fastapi_ + asking, environment={"DATABASE_URL": monitored.url}) as process:
        assert process.communicate(timeout=60)[0] == "[401, 200]\n"
    asking = """
answers = [app.test_client().get(path) for path in ("/pgvigil/readyz", "/admin/session-monitoring/status")]
print([answer.status_code for answer in answers if answer.get_json()])
"""
    with application(flask_ + asking, environment={"DATABASE_URL": monitored.url}) as process:
        assert process.communicate(timeout=60)[0] == "[200, 200]\n"
