"""The dashboard in a real browser: Debian's Chromium, driven by Playwright, judged by axe."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvicorn

from conftest import Database, Templates, _new_database
from pgvigil import web
from pgvigil.commands.common import demo_rows
from pgvigil.web import access, state

pytestmark = pytest.mark.client_side
BASE = "/admin/session-monitoring/dashboard/"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
PAGES = [
    *sorted(set(state.PAGES) - {"overview", "session", "operation"}),
    "",
    "operation?name=search",
    "session?id={id}",
]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
AXE = os.environ.get("AXE_JS", "")
HOSTILE = "<img src=x onerror=document.title='hacked'>"


def missing(what: str) -> None:
    """Skip the test; in CI, where the program must be installed, fail it."""
    (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(what)


# --- the world -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        missing("no Chromium here: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        missing("no Playwright here: pip install playwright")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def shop(templates: Templates, browser: Any) -> Iterator[Database]:  # noqa: ARG001 - without a browser nothing is needed
    """A database with made-up rows of a week, and a session with a tag in every text."""
    with _new_database(templates.server, templates.get("fresh")) as new:
        demo_rows.insert(new.url, 300)
        new.execute("INSERT INTO sessions (session_key, agent_from, agent_to) VALUES (%s, %s, %s)", (HOSTILE,) * 3)
        # An alert that stays: it shows in the head of each page.
        new.execute(
            """INSERT INTO pgvigil.anomalies (database_type, status, hour, value, expected, spread, since)
               VALUES ('postgresql', 'failed', now(), 90, 1, 1, now())"""
        )
        new.execute(
            "INSERT INTO query_executions (execution_id, user_id, query, database_type, status) VALUES ('long', 'long', %s, 'x', 'success')",
            (f"SELECT {'x' * 5000} AS last",),
        )
        yield new


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    return {
        "file": file,
        "alice": access.new_token(file, "alice", "admin"),
        "vera": access.new_token(file, "vera", "viewer"),
    }


@contextmanager
def served(url: str, **options: Any) -> Iterator[str]:
    """The address of an application on a port of its own."""
    many = {"reads": "1000000/minute", "writes": "1000000/minute", "failures": "1000000/minute"}
    app = web.application(url, hosts=["127.0.0.1"], **{**many, **options})
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, lifespan="off", log_level="warning", proxy_headers=False, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        app.state.store.close()
        listener.close()


@pytest.fixture(scope="module")
def service(shop: Database, tokens: dict[str, Any]) -> Iterator[str]:
    with served(shop.url, authorize=access.tokens(tokens["file"])) as url:
        yield url


class Visitor:
    """A person with a browser of their own. At the end, the console has to be empty."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.url = url + BASE
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        self.context.set_default_timeout(15_000)
        self.said: list[str] = []

    def open(self, page: str = "") -> Any:
        tab = self.context.new_page()
        tab.on("console", lambda message: self.said.append(message.text))
        tab.on("pageerror", lambda error: self.said.append(f"uncaught: {error}"))
        tab.goto(self.url + page)
        return tab

    def shown(self, page: str = "") -> Any:
        """A tab whose page has all its answers, and its list."""
        tab = self.open(page)
        tab.wait_for_selector("body[data-complete]")
        for place in tab.query_selector_all(".list"):
            place.wait_for_element_state("visible")
        if tab.query_selector(".list"):
            tab.wait_for_selector(".list[data-loaded]")
        return tab


Visit = Callable[..., Visitor]


@pytest.fixture
def visit(browser: Any, service: str, tokens: dict[str, Any]) -> Iterator[Visit]:
    """Open a page with `visit(name, …)` as the holder of that token, logged in by its cookie."""
    visitors: list[Visitor] = []

    def visit(name: str | None = "alice", url: str = service, **options: Any) -> Visitor:
        visitor = Visitor(browser, url, **options)
        visitors.append(visitor)
        if name:
            answer = visitor.context.request.post(f"{visitor.url}login", data={"token": tokens[name]})
            assert answer.status in (204, 404)
        return visitor

    yield visit
    for visitor in visitors:
        visitor.context.close()
    assert [visitor.said for visitor in visitors if visitor.said] == []


def poll(tab: Any) -> None:
    """Let the page ask now, as it does when its tab is shown again."""
    before = tab.get_attribute("body", "data-polled")
    tab.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    tab.wait_for_function("before => document.body.dataset.polled !== before", arg=before)


def session_id(shop: Database, key: str | None = None) -> str:
    """A session that has events, or the one of that key."""
    condition = "s.session_key = %s" if key else "s.status = 'active' AND s.is_dormant AND %s::text IS NULL"
    [(found,)] = shop.execute(
        f"SELECT s.id::text FROM sessions s WHERE {condition} ORDER BY s.session_key LIMIT 1", (key,)
    )
    return str(found)


# --- logging in ----------------------------------------------------------------------------------------------------------


def test_a_token_logs_in_and_leads_to_the_page_that_was_asked_for(visit: Visit, tokens: dict[str, Any]) -> None:
    tab = visit(None).open("sessions?status=expired")
    tab.fill("#token", tokens["vera"])
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/sessions?status=expired")
    tab.wait_for_selector("text=vera (viewer)")
    assert "pgvigil" not in tab.evaluate("document.cookie")
    tab.click("text=Log out")
    tab.wait_for_url("**/login?to=*")


def test_a_wrong_token_is_refused_in_words(visit: Visit) -> None:
    visitor = visit(None)
    tab = visitor.open()
    tab.fill("#token", "pgv_wrong")
    tab.click("button:has-text('Log in')")
    tab.wait_for_selector("text=This token is not valid.")
    assert all("401" in words for words in visitor.said)  # the browser's own line about the answer
    visitor.said.clear()


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example", "javascript:alert(1)", "/", "../../.."])
@pytest.mark.slow(first=1)
def test_a_login_leads_nowhere_else(visit: Visit, tokens: dict[str, Any], to: str) -> None:
    tab = visit(None).open(f"login?to={to}")
    tab.fill("#token", tokens["vera"])
    tab.click("button:has-text('Log in')")
    tab.wait_for_selector("text=vera (viewer)")
    assert tab.url.endswith(BASE)


# --- looking -------------------------------------------------------------------------------------------------------------


def test_sessions_are_filtered_and_paged(visit: Visit, shop: Database) -> None:
    [(many,)] = shop.execute("SELECT count(*) FROM sessions WHERE status = 'completed'")
    tab = visit().shown("sessions")
    tab.select_option("select[name=status]", "completed")
    tab.click(".filters button:has-text('Show')")
    tab.wait_for_url("**/sessions?status=completed")
    keys: list[str] = []
    while True:
        tab.wait_for_selector(".list[data-loaded] tbody tr")
        assert set(tab.locator("tbody td:nth-child(2)").all_inner_texts()) == {"completed"}
        keys += tab.locator("tbody td:first-child").all_inner_texts()
        if not tab.locator("text=Next 50").count():
            break
        before = tab.url
        tab.click("text=Next 50")
        tab.wait_for_url(lambda url, before=before: url != before)
    assert len(keys) == len(set(keys)) == many > 100


def test_the_longest_idle_come_first_on_demand(visit: Visit, shop: Database) -> None:
    [(oldest,)] = shop.execute("SELECT session_key FROM sessions ORDER BY last_activity_at, id LIMIT 1")
    tab = visit().shown("sessions?order=idle")
    assert tab.inner_text("tbody td:first-child") == oldest


def test_a_session_shows_its_timeline_with_the_actors(visit: Visit, shop: Database) -> None:
    tab = visit().shown(f"session?id={session_id(shop)}")
    tab.wait_for_selector(".trail li")
    events = tab.locator(".trail b").all_inner_texts()
    assert (events[0], events[-1]) == ("dormant", "created")
    assert "by job dormancy" in tab.inner_text(".trail li:first-child")


def test_a_number_leads_to_its_list(visit: Visit, shop: Database) -> None:
    [(many,)] = shop.execute("SELECT count(*) FROM sessions WHERE is_dormant")
    tab = visit().shown()
    tab.click(f".tile:has-text('{many:,}'):has-text('dormant')")
    tab.wait_for_url("**/sessions?dormant=true&order=idle")
    tab.wait_for_selector(".list[data-loaded]")
    assert set(tab.locator("tbody td:nth-child(2) .badge:nth-child(2)").all_inner_texts()) == {"dormant"}


def test_a_number_of_the_durations_leads_to_its_list_and_the_filters_stay(visit: Visit, shop: Database) -> None:
    visitor = visit()
    tab = visitor.shown("executions?user_id=nobody")
    assert tab.input_value("input[name=user_id]") == "nobody"
    bins = "section:has(h2:text('How long they took')) tbody tr"
    tab.wait_for_selector(f"{bins} a")
    row = tab.locator(f"{bins}:has(a)").last
    many = int(row.locator("td:nth-child(2)").inner_text().replace(",", ""))
    row.locator("a").click()
    tab.wait_for_selector(".list[data-loaded] tbody tr")
    longer, most = tab.input_value("input[name=longer_than]"), tab.input_value("input[name=up_to]")
    query = (
        "SELECT count(*) FROM query_executions WHERE execution_time > %s AND execution_time <= coalesce(%s, 'Infinity')"
    )
    assert shop.execute(query, (float(longer), float(most) if most else None)) == [(many,)]
    assert tab.locator(".list tbody tr").count() == min(many, 50)


def test_a_long_text_is_cut_in_a_list_and_read_whole_when_a_reader_wants_it(visit: Visit) -> None:
    tab = visit().shown("executions?user_id=long")
    tab.click("text=Details")
    assert tab.text_content("dialog pre") == f"SELECT {'x' * 93}…"
    tab.click("text=Show all of it")
    tab.wait_for_function("() => document.querySelector('dialog pre').textContent.endsWith('x AS last')")
    assert tab.query_selector("text=Show all of it") is None


def test_a_page_asks_for_all_its_modules_at_once(visit: Visit) -> None:
    tab = visit().shown()
    named = tab.evaluate(
        "[...document.querySelectorAll('link[rel=modulepreload], script')].map(one => one.getAttribute('href') || one.getAttribute('src')).sort()"
    )
    loaded = tab.evaluate(
        "performance.getEntriesByType('resource').map(one => one.name).filter(name => name.endsWith('.js'))"
    )
    assert sorted(name.rpartition("/")[2] for name in loaded) == sorted(name.rpartition("/")[2] for name in named)


def test_each_chart_has_its_numbers_as_a_table(visit: Visit) -> None:
    tab = visit().shown()
    tab.wait_for_selector("figure canvas[role=img]")
    charts = tab.locator("figure.chart")
    assert charts.count() == 4
    for number in range(4):
        chart = charts.nth(number)
        chart.locator("summary").click()
        assert chart.locator("tbody tr").count() >= 20
        assert (chart.locator("canvas").get_attribute("aria-label") or "").startswith("Chart: ")


def test_an_execution_shows_its_query_and_its_neighbours(visit: Visit) -> None:
    tab = visit().shown("executions?status=failed")
    tab.click("button:has-text('Details') >> nth=0")
    tab.wait_for_selector("dialog[open] pre")
    assert "duplicate key" in tab.inner_text("dialog")
    tab.click("dialog a:has-text('its neighbours')")
    tab.wait_for_url("**conversation_id=**")
    tab.wait_for_selector(".list[data-loaded] tbody tr")
    assert 1 <= tab.locator(".list tbody tr").count() <= 6


def test_a_viewer_is_told_what_is_hidden_and_has_no_actions(visit: Visit, shop: Database) -> None:
    visitor = visit("vera")
    assert "shown to admins only" in visitor.shown("executions").inner_text(".list")
    assert not visitor.shown("jobs").locator("text=Run now").count()
    tab = visitor.shown(f"session?id={session_id(shop)}")
    tab.wait_for_selector(".trail li")
    assert not tab.locator("main button:has-text('rchive')").count()


def test_text_of_others_is_shown_as_text(visit: Visit, shop: Database) -> None:
    visitor = visit()
    tab = visitor.shown("sessions")
    assert HOSTILE in tab.inner_text(".list")
    tab.goto(f"{visitor.url}session?id={session_id(shop, HOSTILE)}")
    tab.wait_for_selector(".trail li")
    assert tab.inner_text("h1") == HOSTILE
    assert tab.title() == "Session · pgvigil"
    assert not tab.query_selector("main img")


# --- acting --------------------------------------------------------------------------------------------------------------


@contextmanager
def connected(shop: Database, pid: str = "pg_backend_pid()") -> Iterator[tuple[psycopg.Connection[Any], str]]:
    """A connection that is registered as an application's would be."""
    with psycopg.connect(shop.url, autocommit=True) as connection:
        [(id,)] = connection.execute(
            f"""SELECT instrumentation.register_session(instrumentation.register_instance('here'), pid => {pid}, application_name => 'shop')::text"""
        ).fetchall()
        yield connection, id


def test_a_connection_is_ended_after_a_second_look(visit: Visit, shop: Database) -> None:
    with connected(shop) as (connection, id):
        tab = visit().shown("live")
        tab.click(f"#connection-{id} >> text=End…")
        tab.wait_for_selector("dialog[open]")
        go = tab.locator("dialog button[type=submit]")
        assert go.is_disabled()
        tab.fill("dialog input[type=text]", "zzzz")
        assert go.is_disabled()
        tab.fill("dialog input[type=text]", id[-4:])
        tab.check("input[value=terminate]")
        go.click()
        tab.wait_for_selector("dialog", state="detached")
        tab.wait_for_selector("#said >> text=terminated")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    [kill] = shop.execute(f"SELECT ok, on_behalf_of, mode FROM instrumentation.kill_attempts WHERE session_id = '{id}'")
    assert kill == (True, "web:alice", "terminate")
    tab.wait_for_selector(f"#connection-{id}", state="detached")


def test_a_refusal_is_shown_in_words_and_recorded(visit: Visit, shop: Database) -> None:
    with connected(shop, pid="999999") as (_, id):
        visitor = visit()
        tab = visitor.shown("live")
        tab.click(f"#connection-{id} >> text=End…")
        tab.fill("dialog input[type=text]", id[-4:])
        tab.click("dialog button[type=submit]")
        tab.wait_for_selector("dialog >> text=/Refused.*lost its server process/")
        assert all("409" in words for words in visitor.said)
        visitor.said.clear()
    [kill] = shop.execute(f"SELECT ok, on_behalf_of FROM instrumentation.kill_attempts WHERE session_id = '{id}'")
    assert kill == (False, "web:alice")


def test_a_session_is_archived_and_reactivated_in_the_name_of_the_person(visit: Visit, shop: Database) -> None:
    [(id,)] = shop.execute(
        "INSERT INTO sessions (session_key, agent_from) VALUES ('to archive', 'planner') RETURNING id::text"
    )
    tab = visit().shown(f"session?id={id}")
    tab.click("main button:has-text('Archive')")
    tab.click("dialog button[type=submit]")
    tab.wait_for_selector("text=to archive: archived.")
    tab.click("main button:has-text('Reactivate')")
    tab.click("dialog button[type=submit]")
    tab.wait_for_selector("text=to archive: reactivated.")
    events = shop.execute(
        f"SELECT event_type, event_data->>'actor' FROM session_lifecycle WHERE session_id = '{id}' ORDER BY id"
    )
    assert ("archived", "web:alice") in events
    assert ("reactivated", "web:alice") in events


def test_a_job_is_run_from_its_list(visit: Visit, shop: Database) -> None:
    tab = visit().shown("jobs")
    tab.click("#job-dormancy >> text=Run now…")
    tab.click("dialog button[type=submit]")
    tab.wait_for_selector("#said >> text=dormancy:")
    tab.wait_for_selector("#job-dormancy .badge:has-text('done')")
    assert ("web:alice",) in shop.execute("SELECT actor FROM pgvigil.job_runs WHERE job = 'dormancy'")


def test_a_read_only_service_shows_no_action(visit: Visit, shop: Database, tokens: dict[str, Any]) -> None:
    with served(shop.url, authorize=access.tokens(tokens["file"]), read_only=True) as url, connected(shop) as (_, id):
        visitor = visit(url=url)
        tab = visitor.shown("live")
        tab.wait_for_selector(f"#connection-{id}")
        assert "alice (read-only)" in tab.inner_text("header")
        assert not tab.locator("text=End…").count()
        assert not visitor.shown("jobs").locator("text=Run now…").count()
        answer = visitor.context.request.post(f"{visitor.url}api/connections/{id}/kill", data={})
        assert (answer.status, answer.json()["title"]) == (403, "This service runs read-only")


# --- time ----------------------------------------------------------------------------------------------------------------


def test_a_lost_database_is_said_so_and_the_old_numbers_are_grey_until_it_is_back(
    visit: Visit, templates: Templates, tokens: dict[str, Any]
) -> None:
    with (
        _new_database(templates.server, templates.get("fresh")) as own,
        served(own.url, authorize=access.tokens(tokens["file"]), pause=0.0) as url,
    ):
        own.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('one', 'planner')")
        tab = visit(url=url).shown()
        deadline = time.monotonic() + 60
        while tab.is_visible("#away") or tab.inner_text(".tile .value >> nth=0") != "1":
            assert time.monotonic() < deadline
            poll(tab)
        admin = Database(own.server, "postgres")
        admin.execute(f'ALTER DATABASE "{own.name}" ALLOW_CONNECTIONS false')
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (own.name,))
        while tab.is_hidden("#away"):
            assert time.monotonic() < deadline
            poll(tab)
        assert re.search(r"No answer from the database since \d\d:\d\d:\d\d", tab.inner_text("#away"))
        assert "The numbers below are of" in tab.inner_text("#away")
        assert tab.inner_text(".tile .value >> nth=0") == "1"
        assert tab.evaluate("getComputedStyle(document.querySelector('.tile .value')).filter") == "grayscale(1)"
        admin.execute(f'ALTER DATABASE "{own.name}" ALLOW_CONNECTIONS true')
        while tab.is_visible("#away"):
            assert time.monotonic() < deadline
            poll(tab)
        assert tab.evaluate("getComputedStyle(document.querySelector('.tile .value')).filter") == "none"


def test_a_page_asks_every_five_seconds_and_a_hidden_one_does_not(visit: Visit) -> None:
    visitor = visit()
    visitor.context.add_init_script(
        "window.waits = []; const later = window.setTimeout; window.setTimeout = (what, wait, ...rest) => { window.waits.push(wait); return later(what, wait, ...rest); };"
        "Object.defineProperty(document, 'hidden', { get: () => window.isHidden === true });"
    )
    tab = visitor.shown("alerts")
    assert tab.evaluate("window.waits.at(-1)") == 5000
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.evaluate("window.isHidden = true; document.dispatchEvent(new Event('visibilitychange')); window.waits = []")
    tab.wait_for_timeout(100)
    assert (asked, tab.evaluate("window.waits.length")) == ([], 0)
    tab.evaluate("window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))")
    tab.wait_for_function("() => window.waits.length > 0")
    assert ["state?page=alerts" in url for url in asked] == [True]


def test_eight_tabs_work_at_once(visit: Visit) -> None:
    visitor = visit()
    tabs = [visitor.open(page) for page in ("", "sessions", "executions", "live", "application", "jobs", "alerts", "")]
    for tab in tabs:
        tab.wait_for_selector("body[data-polled]")
    for tab in tabs:
        poll(tab)
        assert tab.is_hidden("#away")


# --- everybody -----------------------------------------------------------------------------------------------------------


# Of rows of the same make two are enough for axe, which looks at each element, and at a chart's thousands for half a minute.
FEWER_ROWS = """
    for (const rows of document.querySelectorAll("tbody, .trail")) {
        const seen = {};
        for (const row of [...rows.children]) {
            const make = [row, ...row.querySelectorAll("*")].map(one => `${one.tagName} ${one.className}`).join();
            seen[make] = (seen[make] || 0) + 1;
            if (seen[make] > 2) row.remove();
        }
    }
"""


def violations(tab: Any, rules: list[str] = RULES) -> list[str]:
    tab.evaluate(FEWER_ROWS)  # again each time: a page may have drawn them again
    found = tab.evaluate(f"axe.run({{runOnly: {rules}}})")["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE:
        missing("AXE_JS names no axe.min.js: npm ci --prefix requirements/browser")
    return Path(AXE).read_text()


def width_fits(tab: Any, width: int, height: int) -> bool:
    tab.set_viewport_size({"width": width, "height": height})
    return bool(tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def test_on_a_phone_the_head_shows_which_page_it_is(visit: Visit) -> None:
    tab = visit(viewport={"width": 390, "height": 800}).shown("alerts")
    assert tab.evaluate("document.querySelector('nav [aria-current]').getBoundingClientRect().right") <= 390


def test_news_take_no_focus_from_the_head(visit: Visit) -> None:
    tab = visit().shown("executions")
    tab.focus("nav a:has-text('Alerts')")
    tab.evaluate(
        "document.getElementById('pages').dataset.shown = 'something else'; window.was = document.activeElement"
    )
    tab.route("**/state?*", lambda route: route.continue_(headers={**route.request.headers, "if-none-match": ""}))
    poll(tab)
    assert tab.evaluate("document.activeElement.dataset.key") == "page Alerts"
    assert tab.evaluate("window.was !== document.activeElement")  # it was drawn again


@pytest.mark.parametrize("page", [*PAGES, "login"])
@pytest.mark.slow(first=1)
def test_axe_finds_nothing_on_a_page_in_either_scheme_nor_on_a_phone_and_nothing_is_cut_off(
    visit: Visit, shop: Database, axe: str, page: str
) -> None:
    """A zoom of 200 % halves the size of a page in CSS pixels."""
    visitor = visit(bypass_csp=True)  # for axe only, which is put into the page
    with connected(shop):
        if page == "login":
            tab = visitor.open(page)
            tab.wait_for_selector("#content > *")
        else:
            tab = visitor.shown(page.replace("{id}", session_id(shop)))
        if page.startswith("session?"):
            tab.wait_for_selector(".trail li")
        if page == "":
            tab.wait_for_selector("figure canvas[role=img]")
            tab.evaluate("document.querySelector('figure details').open = true")
        assert width_fits(tab, 640, 400)
        assert width_fits(tab, 360, 740)
        tab.evaluate(axe)
        assert violations(tab) == []
        tab.set_viewport_size({"width": 1280, "height": 800})
        if page == "live":
            tab.click("text=End… >> nth=0")
        assert violations(tab) == []
        tab.emulate_media(color_scheme="dark")  # a scheme changes colours alone
        assert violations(tab, ["color-contrast", "link-in-text-block"]) == []


def focused(tab: Any) -> str:
    return str(tab.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"))


def tab_to(tab: Any, words: str, most: int = 80) -> None:
    for _ in range(most):
        tab.keyboard.press("Tab")
        if focused(tab).startswith(words):
            return
    pytest.fail(f"the keyboard does not reach {words}")


def test_the_keyboard_alone_is_enough(visit: Visit, shop: Database) -> None:
    with connected(shop) as (connection, id):
        tab = visit().shown()
        tab.keyboard.press("Tab")
        assert focused(tab) == "Skip to the content"
        tab_to(tab, "Live")
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/live")
        tab.wait_for_selector(f"#connection-{id}")
        label = f"End… the connection of {shop.user if hasattr(shop, 'user') else 'postgres'} {id[-8:]}"
        tab_to(tab, label)
        tab.keyboard.press("Enter")
        tab.wait_for_selector("dialog[open]")
        tab.keyboard.press("Escape")
        tab.wait_for_selector("dialog", state="detached")
        assert focused(tab) == label, "the dialog gives the focus back"
        tab.keyboard.press("Enter")
        tab_to(tab, "", 1)  # the first field
        tab.focus("dialog input[type=text]")
        tab.keyboard.type(id[-4:])
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#said p")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_a_redraw_keeps_what_is_focused_and_open(visit: Visit, shop: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = dataclasses.replace(state.SECTIONS["jobs"], seconds=0.0, longest=0.0)
    monkeypatch.setitem(state.SECTIONS, "jobs", at_once)
    tab = visit().shown("jobs")
    tab.focus("#job-counters button")
    shop.execute("UPDATE pgvigil.jobs SET purpose = purpose || '.' WHERE job = 'counters'")
    deadline = time.monotonic() + 30
    while not tab.inner_text("#job-counters").count("."):
        assert time.monotonic() < deadline
        poll(tab)
    assert focused(tab) == "Run now… job counters"


# --- other sites ---------------------------------------------------------------------------------------------------------


@contextmanager
def other_site(page: str) -> Iterator[str]:
    """A page of another site: `localhost` is none of 127.0.0.1's."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode() if self.path == "/" else b"")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.mark.parametrize("kind", ["form", "fetch"])
def test_a_page_of_another_site_changes_nothing(visit: Visit, shop: Database, kind: str) -> None:
    [(id,)] = shop.execute(
        "INSERT INTO sessions (session_key, agent_from) VALUES (%s, 'planner') RETURNING id::text", (f"target {kind}",)
    )
    visitor = visit()
    address = f"{visitor.url}api/sessions/{id}/archive"
    page = {
        "form": f"<form method=post enctype=text/plain action='{address}'><input name='{{\"a' value='\":1}}'></form><script>document.forms[0].submit()</script>",
        "fetch": f"<script>fetch('{address}', {{method: 'POST', mode: 'no-cors', credentials: 'include', body: '{{}}'}}).finally(() => document.title = 'done')</script>",
    }[kind]
    with other_site(page) as site:
        tab = visitor.context.new_page()
        with tab.expect_response(address) as answer:
            tab.goto(site)
        assert answer.value.status in (401, 403)
        if kind == "form":
            tab.wait_for_selector("text=urn:pgvigil:problem")
    assert shop.execute(f"SELECT archived_at FROM sessions WHERE id = '{id}'") == [(None,)]


def raw(url: str, path: str, headers: str) -> str:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n".encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer.decode().split("\r\n")[0]


def test_a_foreign_host_is_refused(service: str) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):
        assert " 400 " in raw(service, f"{BASE}login", f"Host: {host}\r\n")
    assert " 200 " in raw(service, f"{BASE}login", "Host: 127.0.0.1\r\n")


def test_a_forged_header_of_a_proxy_is_refused(shop: Database) -> None:
    forged = "Host: 127.0.0.1\r\nX-User: alice\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n"
    for network, status in (("10.0.0.0/8", " 401 "), ("127.0.0.0/8", " 200 ")):
        with served(shop.url, authorize=access.trusted_proxy([network], "X-User")) as url:
            assert status in raw(url, f"{BASE}state", forged)
