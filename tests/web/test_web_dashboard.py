"""The dashboard without a browser: its pages and files, the poll, logging in, running a job, and wherever it is mounted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import flask
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from conftest import Database, Templates, _new_database
from pgvigil import web
from pgvigil.web import access, dashboard, problems, state
from pgvigil.web.flask import PgvigilFlask
from web.conftest import Serve, by_header, problem, settled

pytestmark = pytest.mark.client_side
BASE = "/admin/session-monitoring/dashboard"
STATIC = Path(dashboard.__file__).with_name("static")
OUR_FILES = [file for file in sorted(STATIC.iterdir()) if file.name not in ("uplot.js", "uplot.css", "uplot.LICENSE")]
PAGES = sorted(state.PAGES)


def address(page: str) -> str:
    return f"{BASE}/{'' if page == 'overview' else page}"


# --- pages and files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, "login"])
def test_a_page_allows_no_inline_script_and_nothing_of_other_sites(viewer: TestClient, page: str) -> None:
    answer = viewer.get(address(page))
    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert not [word for word in ("unsafe", "http", "data:", "*") if word in policy]
    assert not re.search(r"<script>|\son\w+=|\sstyle=|<style", answer.text)


@pytest.mark.parametrize("page", [*PAGES, "login"])
def test_a_page_and_all_that_it_loads_are_small(viewer: TestClient, page: str) -> None:
    text = viewer.get(address(page)).text
    loaded, waiting = {}, re.findall(r'(?:src|href)="(static/[^"]+)"', text)
    while waiting:
        file = waiting.pop()
        if file not in loaded:
            answer = viewer.get(f"{BASE}/{file}")
            assert answer.status_code == 200, file
            loaded[file] = len(answer.content)
            waiting += [f"{file.rpartition('/')[0]}/{name}" for name in re.findall(r'from "\./([^"]+)"', answer.text)]
    assert len(text) + sum(loaded.values()) < 150_000


@pytest.mark.parametrize("file", OUR_FILES, ids=lambda file: file.name)
def test_our_files_parse_no_html_and_name_no_address(file: Path) -> None:
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|https?://", text
    )
    assert not re.search(r"""(?:src|href)=["']/|fetch\(["'`]/""", text), "a link from the root leaves the prefix"


def test_the_copy_of_uplot_is_that_of_its_release() -> None:
    digests = {
        "uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
        "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    }
    for name, digest in digests.items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest
    assert "1.6.32" in (STATIC / "uplot.js").read_text()[:200]
    assert "MIT" in (STATIC / "uplot.LICENSE").read_text()


def test_a_file_is_kept_by_its_hash_and_by_no_other_address(viewer: TestClient) -> None:
    [path] = re.findall(r'src="(static/[^"]+/live\.js)"', viewer.get(f"{BASE}/live").text)
    kept = viewer.get(f"{BASE}/{path}")
    assert "immutable" in kept.headers["cache-control"]
    assert kept.headers["content-encoding"] == "gzip"
    assert viewer.get(f"{BASE}/{path}", headers={"accept-encoding": "identity"}).content == kept.content
    assert viewer.get(f"{BASE}/static/0000/live.js").headers["cache-control"] == "no-cache"
    assert viewer.get(f"{BASE}/static/0000/page.html").status_code == 404
    assert viewer.get(f"{BASE}/static/0000/..%2fapp.py").status_code == 404


def test_who_is_not_logged_in_is_led_to_the_login_and_back(serve: Serve, executions: Database) -> None:
    answer = serve(executions.url, None).get(f"{BASE}/sessions?status=a%26b", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "login?to=sessions%3Fstatus%3Da%2526b"


@pytest.mark.parametrize("page", ["nothing", "overview", "page.html", "operations"])
def test_there_are_no_other_pages(viewer: TestClient, page: str) -> None:
    assert problem(viewer.get(f"{BASE}/{page}")) == "not-found"


# --- the poll ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_the_state_of_a_page_is_304_as_long_as_it_is_the_same(admin: TestClient, page: str) -> None:
    client = admin
    first = settled(client, f"{BASE}/state?page={page}")
    sections = first.json()["sections"]
    assert set(sections) == {"server", "alerts", *state.PAGES[page]}
    assert not [name for name, one in sections.items() if "problem" in one], sections
    again = client.get(f"{BASE}/state?page={page}", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_polls_have_a_limit_of_their_own(serve: Serve, executions: Database) -> None:
    client = serve(executions.url, reads="2/hour")
    assert [client.get(f"{BASE}/state").status_code for _ in range(4)] == [200] * 4


def test_an_unknown_page_has_no_state(viewer: TestClient) -> None:
    assert problem(viewer.get(f"{BASE}/state?page=nothing")) == "bad-parameter"


def test_a_section_that_cannot_be_read_leaves_the_others(serve: Serve, templates: Templates) -> None:
    with _new_database(templates.server, templates.get("fresh")) as new:
        new.execute("DROP TABLE analytics_aggregations CASCADE")
        sections = settled(serve(new.url), f"{BASE}/state").json()["sections"]
    assert "problem" in sections["trends"]
    assert sections["sessions_now"]["data"][0]["dormant"] == 0


def test_a_database_that_is_away_is_said_so_in_each_section(serve: Serve) -> None:
    answer = serve("postgresql://nobody@127.0.0.1:1/nothing").get(f"{BASE}/state")
    kinds = {one["problem"]["type"].rpartition(":")[2] for one in answer.json()["sections"].values()}
    assert (answer.status_code, kinds) == (200, {"database-away"})


def test_a_costly_answer_is_kept_longer(serve: Serve, executions: Database) -> None:
    client = serve(executions.url)
    store = client.app.state.store  # type: ignore[attr-defined]
    asked: list[int] = []

    def question(connection: Any) -> int:
        connection.execute("SELECT pg_sleep(0.02)")
        asked.append(1)
        return len(asked)

    async def twice() -> tuple[int, int]:
        import asyncio

        first = await store.shared("costly", 0.0, question, keep=1000.0)
        await asyncio.sleep(0)
        return first, await store.shared("costly", 0.0, question, keep=1000.0)

    assert client.portal is not None
    assert client.portal.call(twice) == (1, 1)


def test_a_viewer_sees_no_text_of_a_fix_and_no_right_to_act(viewer: TestClient) -> None:
    document = settled(viewer, f"{BASE}/state?page=jobs").json()
    assert document["principal"]["role"] == "viewer"
    assert {one["fix"] for one in document["sections"]["health"]["data"]} == {None}


# --- logging in ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokens(tmp_path: Path) -> tuple[Path, str]:
    file = tmp_path / "tokens"
    return file, access.new_token(file, "ann", "admin")


def log_in(client: TestClient, token: str, **headers: str) -> Any:
    return client.post(f"{BASE}/login", json={"token": token}, headers=headers)


def test_a_token_is_exchanged_for_a_cookie_that_scripts_and_other_sites_cannot_use(
    serve: Serve, executions: Database, tokens: tuple[Path, str]
) -> None:
    client = serve(executions.url, None, authorize=access.tokens(tokens[0]))
    answer = log_in(client, tokens[1])
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 204
    assert cookie.startswith("pgvigil=")
    assert not [one for one in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200") if one not in cookie]
    assert tokens[1] not in cookie
    assert client.get(f"{BASE}/state").json()["principal"] == {"name": "ann", "role": "admin", "logs_out": True}
    assert client.post(f"{BASE}/logout").status_code == 204
    assert client.get(f"{BASE}/state").status_code == 401


def test_over_https_the_browser_insists_on_the_host_and_on_secure(
    serve: Serve, executions: Database, tokens: tuple[Path, str]
) -> None:
    client = serve(executions.url, None, authorize=access.tokens(tokens[0]))
    headers = {"origin": "https://testserver", "sec-fetch-site": "same-origin"}
    cookie = log_in(client, tokens[1], **headers).headers["set-cookie"]
    assert cookie.startswith("__Host-pgvigil=")
    assert "Secure" in cookie


@pytest.mark.parametrize(
    "body", [b'{"token": "pgv_wrong"}', b'{"token": ""}', b'{"token": 1}', b"{}", b"[]", b'"x"', b'{"token": "\\ud800"}', b"\xff", b"[" * 4900 + b"]" * 4900]
)  # fmt: skip
def test_what_is_no_token_logs_nobody_in(
    serve: Serve, executions: Database, tokens: tuple[Path, str], body: bytes
) -> None:
    client = serve(executions.url, None, authorize=access.tokens(tokens[0]))
    answer = client.post(f"{BASE}/login", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (401, 422)
    assert "set-cookie" not in answer.headers


def test_failed_logins_are_limited(serve: Serve, executions: Database, tokens: tuple[Path, str]) -> None:
    client = serve(executions.url, None, authorize=access.tokens(tokens[0]), failures="2/hour")
    assert [log_in(client, "wrong").status_code for _ in range(3)] == [401, 401, 429]
    assert log_in(client, tokens[1]).status_code == 429


def test_a_login_from_another_site_is_refused(serve: Serve, executions: Database, tokens: tuple[Path, str]) -> None:
    client = serve(executions.url, None, authorize=access.tokens(tokens[0]))
    assert problem(log_in(client, tokens[1], **{"sec-fetch-site": "cross-site"})) == "other-origin"
    assert client.post(f"{BASE}/login", data={"token": tokens[1]}).status_code in (415, 422)


def test_a_cookie_ends_with_its_token(serve: Serve, executions: Database, tokens: tuple[Path, str]) -> None:
    client = serve(executions.url, None, authorize=access.tokens(tokens[0]))
    log_in(client, tokens[1])
    tokens[0].write_text("# nobody\n")
    assert client.get(f"{BASE}/state").status_code == 401


def test_a_cookie_ends_after_twelve_hours(
    serve: Serve, executions: Database, tokens: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    authorize = access.tokens(tokens[0])
    cookie = authorize.log_in(tokens[1])
    assert cookie is not None
    client = serve(executions.url, None, authorize=authorize)
    now = access.time.time()
    assert client.get(f"{BASE}/state", headers={"cookie": f"pgvigil={cookie}"}).status_code == 200
    monkeypatch.setattr(access.time, "time", lambda: now + timedelta(hours=12, seconds=2).total_seconds())
    assert client.get(f"{BASE}/state", headers={"cookie": f"pgvigil={cookie}"}).status_code == 401


@pytest.mark.parametrize("forged", ["later", "other token", "other secret", "cut", "empty", "not ASCII"])
def test_a_forged_cookie_lets_nobody_in_and_locks_nobody_out(
    serve: Serve, executions: Database, tokens: tuple[Path, str], forged: str
) -> None:
    authorize = access.tokens(tokens[0])
    cookie = authorize.log_in(tokens[1])
    assert cookie is not None
    which, ends, signature = cookie.split(".")
    made = {
        "later": f"{which}.{int(ends) + 1}.{signature}", "other token": f"{'0' * 16}.{ends}.{signature}", "cut": f"{which}.{ends}", "empty": "..",
        "other secret": access.tokens(tokens[0]).log_in(tokens[1]) or "", "not ASCII": f"{which}.{ends}.\xe9",
    }[forged]  # fmt: skip
    client = serve(executions.url, None, authorize=authorize, failures="2/hour")
    for _ in range(4):
        assert client.get(f"{BASE}/state", headers={"cookie": f"pgvigil={made}".encode("latin-1")}).status_code == 401
    assert log_in(client, tokens[1]).status_code == 204


def test_workers_with_the_same_secret_know_each_others_cookies(tokens: tuple[Path, str]) -> None:
    one, other = (access.Tokens(tokens[0], b"the same secret") for _ in range(2))
    cookie = one.log_in(tokens[1])
    assert cookie is not None
    assert other._by_cookie(cookie) == web.Principal("ann", "admin")


def test_without_tokens_there_is_no_login(viewer: TestClient) -> None:
    assert problem(log_in(viewer, "pgv_x")) == "not-found"
    assert 'data-tokens="no"' in viewer.get(f"{BASE}/login").text


# --- running a job -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(templates: Templates) -> Iterator[Database]:
    with _new_database(templates.server, templates.get("fresh")) as new:
        yield new


def test_a_job_is_run_in_the_name_of_the_admin(shared: Serve, own: Database) -> None:
    answer = shared(own.url).post("/api/v1/jobs/totals/run", json={})
    assert answer.status_code in (200, 202), answer.text
    assert answer.json()["ok"]
    while not (
        rows := own.execute(
            "SELECT actor, error FROM pgvigil.job_runs WHERE job = 'totals' AND finished_at IS NOT NULL"
        )
    ):
        pass  # 202: it is on its way
    assert rows == [("web:the admin", None)]


def test_a_job_that_needs_a_client_is_refused_with_its_command(shared: Serve, own: Database) -> None:
    answer = shared(own.url).post("/api/v1/jobs/backup/run", json={})
    assert (answer.status_code, problem(answer)) == (409, "refused")
    assert "pgvigil maintain run backup" in answer.json()["detail"]


def test_a_job_that_waits_for_consent_is_refused_in_words(shared: Serve, own: Database) -> None:
    own.execute("UPDATE pgvigil.jobs SET needs_consent = true WHERE job = 'expiry'")
    answer = shared(own.url).post("/api/v1/jobs/expiry/run", json={})
    assert (answer.status_code, problem(answer)) == (409, "refused")
    assert "consent" in answer.json()["detail"]
    assert not own.execute("SELECT FROM pgvigil.job_runs WHERE job = 'expiry'")


@pytest.mark.parametrize(
    ("options", "job", "status"), [({}, "nothing", 404), ({"read_only": True}, "totals", 403), ({}, "A-B", 422)]
)
def test_another_job_is_refused(serve: Serve, own: Database, options: Any, job: str, status: int) -> None:
    assert serve(own.url, **options).post(f"/api/v1/jobs/{job}/run", json={}).status_code == status


# --- wherever it is mounted ----------------------------------------------------------------------------------------------


def pages_below(client: Any, start: str, headers: dict[str, str]) -> None:
    """Follow from `start` on only the links in the answers."""
    from urllib.parse import urljoin

    def get(path: str) -> Any:
        answer = client.get(path, headers=headers)
        for _ in range(3):
            if answer.status_code not in (303, 307):
                break
            path = urljoin(path, answer.headers["location"])
            answer = client.get(path, headers=headers)
        assert answer.status_code == 200, (path, answer.status_code)
        return path, answer.text

    where, text = get(start)
    assert "<title>Overview" in text
    for link in re.findall(r'(?:src|href)="([^"#]+)"', text):
        get(urljoin(where, link))
    assert '"sections"' in get(urljoin(where, "state?page=live"))[1]
    assert '"sessions"' in get(urljoin(where, "api/sessions?limit=1"))[1]


def test_it_works_below_a_prefix_of_fastapi(executions: Database) -> None:
    app = FastAPI()
    inner = web.application(executions.url, authorize=by_header)
    app.mount("/deep/er", inner)
    with TestClient(app, follow_redirects=False) as client:
        pages_below(client, "/deep/er/", {"x-who": "viewer"})
    inner.state.store.close()


@pytest.mark.parametrize("start", ["/pgvigil/", "/admin/session-monitoring/dashboard"])
def test_it_works_below_flask(executions: Database, start: str) -> None:
    app = flask.Flask("shop")
    PgvigilFlask(app, database_url=executions.url, authorize=lambda: web.Principal("ann", "viewer"))
    pages_below(app.test_client(), start, {})


def test_a_failed_question_takes_no_name_of_a_table_from_another(serve: Serve, executions: Database) -> None:
    store = serve(executions.url).app.state.store  # type: ignore[attr-defined]

    def fails(connection: Any) -> None:
        connection.execute("SELECT FROM pgvigil.nothing")

    def question(_: Any) -> str:
        with pytest.raises(problems.Problem):
            store.call(fails)  # on another connection, as another thread would
        return str(store.table("sessions"))

    assert store.call(question) == "public.sessions"
