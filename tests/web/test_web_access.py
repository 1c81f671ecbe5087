"""Test who may do what: each route for nobody, a viewer and an admin; tokens, proxies, origins, hosts and limits."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.testclient import TestClient

from conftest import Database
from helpers.web_routes import ROUTES, address
from pgvigil import web
from pgvigil.errors import UsageError
from pgvigil.web import access
from web.conftest import MANY, Serve, by_header, problem

pytestmark = pytest.mark.client_side
PATH = "/api/v1/executions"

ROLES = (None, "viewer", "admin")


def routes(app: Any) -> set[tuple[str, str]]:
    """Return each method and path of the application, including those without documentation."""
    found: set[tuple[str, str]] = set()

    def walk(one: Any, prefix: str = "") -> None:
        for route in one:
            if isinstance(route, APIRoute):
                found.update((method, prefix + route.path) for method in route.methods - {"HEAD"})
            elif hasattr(route, "original_router"):
                walk(route.original_router.routes, prefix)

    walk(app.routes)
    return found


def test_every_route_is_in_the_table(shared: Serve, executions: Database) -> None:
    assert routes(shared(executions.url, records=True).app) == set(ROUTES)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "path"), ROUTES, ids=" ".join)
def test_each_route_lets_in_whom_it_should(
    shared: Serve, executions: Database, method: str, path: str, role: str | None
) -> None:
    client = shared(executions.url, role, records=True)
    where = address(path, "nothing")
    answer = client.request(method, where, json={} if method == "POST" else None, follow_redirects=False)
    assert answer.status_code == ROUTES[method, path][ROLES.index(role)], answer.text
    if answer.status_code == 401:
        assert problem(answer) == "login-needed"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_without_authorize_there_is_no_application() -> None:
    with pytest.raises(TypeError, match="authorize"):
        web.application("postgresql:///x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="authorize"):
        web.application("postgresql:///x", authorize=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_authorize_may_be_plain_or_async(serve: Serve, executions: Database, kind: str) -> None:
    async def later(request: Request) -> web.Principal | None:
        return by_header(request)

    client = serve(executions.url, authorize=by_header if kind == "plain" else later)
    assert client.get(PATH).status_code == 200
    assert client.get(PATH, headers={"x-who": ""}).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/jobs",
        "/admin/session-monitoring/dashboard/state?page=live",
        "/admin/session-monitoring/dashboard/",
        "/metrics",
    ],
)
def test_authorize_may_refuse_in_its_own_way(serve: Serve, executions: Database, path: str) -> None:
    def authorize(_: Request) -> web.Principal:
        raise HTTPException(418, "the words of the application")

    answer = serve(executions.url, authorize=authorize).get(path)
    assert answer.status_code == 418
    assert problem(answer) == "bad-request"
    assert "words" not in answer.text


def test_what_is_no_principal_lets_nobody_in(serve: Serve, executions: Database) -> None:
    assert problem(serve(executions.url, authorize=lambda _: True).get(PATH)) == "defect"


# --- tokens --------------------------------------------------------------------------------------------------------------


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_a_token_lets_its_holder_in_and_only_its_digest_is_kept(
    serve: Serve, executions: Database, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    viewer, admin = access.new_token(file, "ann", "viewer"), access.new_token(file, "bob", "admin")
    assert file.stat().st_mode & 0o777 == 0o600
    assert viewer not in file.read_text()
    assert f"ann viewer {hashlib.sha256(viewer.encode()).hexdigest()}\n" in file.read_text()
    client = serve(executions.url, authorize=access.tokens(file), records=True)
    batch = {"executions": [{"query": "", "database_type": "x"}]}
    assert client.get(PATH, headers=bearer(viewer)).status_code == 200
    assert client.post(PATH, headers=bearer(viewer), json=batch).status_code == 403
    assert client.post(PATH, headers=bearer(admin), json=batch).status_code == 202
    assert client.get(f"{PATH}?token={viewer}").status_code == 401


def test_a_token_that_is_taken_out_of_the_file_is_of_no_use_any_more(
    serve: Serve, executions: Database, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    token = access.new_token(file, "ann", "viewer")
    client = serve(executions.url, authorize=access.tokens(file))
    assert client.get(PATH, headers=bearer(token)).status_code == 200
    file.write_text("# nobody\n")
    assert client.get(PATH, headers=bearer(token)).status_code == 401


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_a_token_file_of_another_user_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    access.new_token(file, "mallory", "admin")
    os.chown(file, 65534, 65534)
    with pytest.raises(UsageError, match="belongs to another user"):
        web.tokens(file)


def test_a_token_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    access.new_token(file, "ann", "viewer")
    file.chmod(0o640)
    with pytest.raises(UsageError, match="others than its owner"):
        access.tokens(file)


@pytest.mark.parametrize("line", ["ann viewer", "ann root " + "0" * 64, "ann viewer xyz", "ann viewer 00"])
def test_a_line_that_is_no_token_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "tokens"
    file.touch(0o600)
    file.write_text(f"# tokens\n{line}\n")
    with pytest.raises(UsageError, match=":2: the line is not a token"):
        access.tokens(file)


# --- a proxy in front ----------------------------------------------------------------------------------------------------


def as_peer(serve: Serve, url: str, peer: str, **options: Any) -> TestClient:
    client = serve(url, None, **options)
    client._transport.client = (peer, 50000)  # type: ignore[attr-defined]
    return client


@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        ("10.1.2.3", [("x-user", "ann")], 200),
        ("::ffff:10.1.2.3", [("x-user", "ann")], 200),
        ("192.0.2.1", [("x-user", "ann")], 401),
        ("192.0.2.1", [("x-user", "ann"), ("x-forwarded-for", "10.1.2.3"), ("forwarded", "for=10.1.2.3")], 401),
        ("10.1.2.3", [("x-user", "ann"), ("x-user", "bob")], 401),
        ("10.1.2.3", [("x-user", "ann, bob")], 401),
        ("10.1.2.3", [("x-user", "")], 401),
        ("10.1.2.3", [], 401),
        ("a socket", [("x-user", "ann")], 401),
    ],
)  # fmt: skip
def test_the_name_in_a_header_counts_from_the_proxy_only(
    serve: Serve, executions: Database, peer: str, headers: list[tuple[str, str]], status: int
) -> None:
    authorize = access.trusted_proxy(["10.0.0.0/8"], "X-User")
    client = as_peer(serve, executions.url, peer, authorize=authorize)
    assert client.get(PATH, headers=headers).status_code == status


def test_of_those_behind_a_proxy_the_named_are_admins(serve: Serve, executions: Database) -> None:
    authorize = access.trusted_proxy(["10.0.0.0/8"], "X-User", admins=["ann"])
    client = as_peer(serve, executions.url, "10.1.1.1", authorize=authorize, records=True)
    statuses = [
        client.post(PATH, json={}, headers={b"x-user": name}).status_code
        for name in (b"ann", b"bob", b"\xa0ann", b"ann\x85")
    ]
    assert statuses == [422, 403, 401, 401]


def test_a_network_of_mapped_addresses_is_that_of_the_addresses(serve: Serve, executions: Database) -> None:
    client = as_peer(
        serve, executions.url, "::ffff:10.1.2.3", authorize=access.trusted_proxy(["::ffff:10.0.0.0/104"], "X-User")
    )
    assert client.get(PATH, headers={"x-user": "ann"}).status_code == 200


def test_a_body_of_two_lengths_is_refused_and_ends_the_connection(admin: TestClient) -> None:
    answer = admin.post(PATH, content=b"{}", headers={"content-length": "2", "transfer-encoding": "chunked"})
    assert problem(answer) == "two-lengths"
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("networks", "header"), [([], "X-User"), (["10.0.0.0/8"], ""), (["10.0.0.1/8"], "X"), (["x"], "X")]
)
def test_a_proxy_needs_a_network_and_a_header(networks: list[str], header: str) -> None:
    with pytest.raises(UsageError):
        access.trusted_proxy(networks, header)


# --- other sites ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 422),
        ({"sec-fetch-site": "same-origin"}, 422),
        ({"sec-fetch-site": "none"}, 422),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://testserver"}, 403),
        ({"origin": "http://testserver"}, 422),
        ({"origin": "http://testserver.evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_what_changes_something_comes_from_the_same_origin(
    shared: Serve, executions: Database, headers: dict[str, str], status: int
) -> None:
    answer = shared(executions.url, records=True).post(PATH, json={}, headers=headers)
    assert answer.status_code == status
    assert problem(answer) == {403: "other-origin", 422: "bad-parameter"}[status]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_can_send_is_no_body(shared: Serve, executions: Database, kind: str) -> None:
    client = shared(executions.url, records=True)
    assert problem(client.post(PATH, content=b"{}", headers={"content-type": kind})) == "wrong-media-type"


def test_read_only_lets_nobody_change_anything(serve: Serve, executions: Database) -> None:
    client = serve(executions.url, records=True, read_only=True)
    assert problem(client.post(PATH, json={})) == "read-only"
    assert client.get(PATH).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8520", 200),
        ("[::1]:8520", 200),
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("localhost.", 400),
        ("ann@localhost", 400),
        ("localhost:80:90", 400),
        (b"localhost:\xb2", 400),
        ("", 400),
    ],
)
def test_only_our_own_names_are_answered(serve: Serve, executions: Database, host: str | bytes, status: int) -> None:
    client = serve(executions.url, hosts=["localhost", "[::1]"])
    assert client.get("/livez", headers={"host": host}).status_code == status


# --- limits --------------------------------------------------------------------------------------------------------------


def test_reads_are_limited_for_each_principal(serve: Serve, executions: Database) -> None:
    client = serve(executions.url, reads="2/hour")
    answers = [client.get(PATH) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert problem(answers[-1]) == "too-many-requests"
    assert int(answers[-1].headers["retry-after"]) > 0
    assert client.get(PATH, headers={"x-who": "viewer"}).status_code == 200


def test_writes_have_a_limit_of_their_own(serve: Serve, executions: Database) -> None:
    client = serve(executions.url, records=True, writes="1/hour")
    assert [client.post(PATH, json={}).status_code for _ in range(2)] == [422, 429]
    assert client.get(PATH).status_code == 200


def test_failed_logins_are_limited_for_each_address_and_a_right_token_does_not_count(
    serve: Serve, executions: Database, tmp_path: Path
) -> None:
    token = access.new_token(tmp_path / "tokens", "ann", "viewer")
    client = serve(executions.url, None, authorize=access.tokens(tmp_path / "tokens"), failures="2/hour", reads=MANY)
    statuses = [client.get(PATH, headers=bearer(one)).status_code for one in [token] * 3 + ["guess"] * 3 + [token]]
    assert statuses == [200, 200, 200, 401, 401, 429, 429]


def test_a_forwarded_address_does_not_make_another_peer(serve: Serve, executions: Database, tmp_path: Path) -> None:
    access.new_token(tmp_path / "tokens", "ann", "viewer")
    client = serve(executions.url, None, authorize=access.tokens(tmp_path / "tokens"), failures="1/hour")
    statuses = [
        client.get(PATH, headers=bearer("guess") | {"x-forwarded-for": f"192.0.2.{n}"}).status_code for n in range(2)
    ]
    assert statuses == [401, 429]


# --- what every answer is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "kind"), [("GET", "/nope", "not-found"), ("DELETE", "/livez", "method-not-allowed")]
)
def test_every_error_is_a_problem(admin: TestClient, method: str, path: str, kind: str) -> None:
    assert problem(admin.request(method, path)) == kind


@pytest.mark.parametrize("path", ["/livez", PATH, "/nope", "/openapi.json"])
def test_no_answer_is_kept_guessed_or_framed(admin: TestClient, path: str) -> None:
    headers = admin.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "no-store" in headers["cache-control"]


@pytest.mark.parametrize(
    "path", ["/livez", "/metrics", "/admin/session-monitoring/dashboard/live", "/api/v1/jobs", "/nope"]
)
def test_head_is_get_without_the_body(admin: TestClient, path: str) -> None:
    whole, head = admin.get(path), admin.head(path)
    assert whole.content
    assert not head.content
    assert (head.status_code, head.headers["content-type"]) == (whole.status_code, whole.headers["content-type"])


def test_livez_asks_no_database(serve: Serve, tmp_path: Path) -> None:
    client = serve(f"postgresql:///x?host={tmp_path}", None)
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.head("/livez").status_code == 200
    assert problem(client.get("/readyz")) == "database-away"
