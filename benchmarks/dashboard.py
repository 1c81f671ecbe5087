"""The cost of the dashboard with many rows: server time of each request of each page, weight, and CPU of one open tab.

    scripts/bootstrap.sh test benchmarks/dashboard.py [--rows 1000000] [--browser]

The CPU is that of a service in a process of its own and of the backends that work for it, while a tab polls. With
--browser, each page is opened in Debian's Chromium as well, with nothing in its cache: first from a service that was
just started, then again.
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg
from starlette.testclient import TestClient

from pgvigil import cli, web
from pgvigil.embedded import Server, binaries
from pgvigil.web import state

BASE = "/admin/session-monitoring/dashboard/"
EVERY = 5.0
BAR = 1000.0  # milliseconds until a page is interactive
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
]
# When the first answer and the list are on the screen, when all sections are, and how long a key waits for the next frame.
WATCH = """
    window.seen = {};
    const painted = (act) => requestAnimationFrame(() => setTimeout(act));
    const note = (name) => { if (!(name in seen)) { seen[name] = null; painted(() => { seen[name] = performance.now(); }); } };
    new MutationObserver(() => {
      const body = document.body;
      if (!body?.dataset.polled || [...document.querySelectorAll(".list")].some((one) => !one.dataset.loaded)) return;
      note("shown");
      if ("complete" in body.dataset) note("complete");
    }).observe(document, { subtree: true, childList: true, attributes: true });
    addEventListener("keydown", (event) => painted(() => { seen.key = performance.now() - event.timeStamp; }));
"""
LISTS = {
    "sessions": "api/sessions?limit=50", "sessions, longest idle": "api/sessions?limit=50&order=idle",
    "sessions of a status": "api/sessions?limit=50&status=expired", "sessions by key": "api/sessions?limit=50&key_prefix=k1234",
    "executions": "api/executions?limit=50", "executions of a user": "api/executions?limit=50&user_id=user%2077",
}  # fmt: skip


def fill(connection: psycopg.Connection[Any], rows: int) -> None:
    connection.execute("SET session_replication_role = replica")
    for statement in (
        """INSERT INTO sessions (session_key, agent_from, status, created_at, updated_at, last_activity_at, is_dormant, retention_policy, expires_at)
           SELECT 'k' || g, 'agent ' || g % 7, (ARRAY['completed', 'completed', 'archived', 'expired', 'active'])[1 + g % 5], t, t, t, g % 50 = 4, 'standard', t + interval '30 days'
           FROM generate_series(1, {n}) g CROSS JOIN LATERAL (SELECT now() - g * (interval '90 days' / {n}) AS t) w""",
        """INSERT INTO query_executions (execution_id, user_id, query, database_type, status, execution_time, total_rows, started_at)
           SELECT 'e' || g, 'user ' || g % 5000, 'SELECT ' || g, (ARRAY['postgresql', 'mysql', 'mongodb'])[1 + g % 3],
                  (ARRAY['success', 'success', 'success', 'success', 'failed', 'error', 'timeout'])[1 + g % 7], (g % 1000) / 100.0, g % 50, now() - g * (interval '90 days' / {n})
           FROM generate_series(1, {n}) g""",
    ):
        connection.execute(statement.replace("{n}", str(rows)).encode())
    connection.execute("RESET session_replication_role")
    connection.execute("VACUUM ANALYZE sessions, query_executions")
    for job in ("totals", "rollup", "aggregation", "analyze"):
        connection.execute("CALL pgvigil.run_job(%s)", (job,))
    connection.execute("VACUUM ANALYZE")


def cpu(pid: int) -> float:
    """Return the milliseconds of CPU that a process has used, to the nanosecond: ticks are too coarse for a poll."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e6


def backends(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgvigil-web'").fetchall()
    return [pid for (pid,) in rows]


@contextmanager
def served(url: str) -> Iterator[tuple[int, HTTPConnection]]:
    """A service in a process of its own, and a connection to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "pgvigil", "serve", "--listen", where, "--no-auth", "--database-url", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with suppress(OSError):
                client = HTTPConnection(where, timeout=30)
                ask(client, "/livez")
                break
            time.sleep(0.2)
        yield process.pid, client
    finally:
        process.terminate()
        process.wait()


def in_browser(url: str) -> bool:
    """Print how soon each page is interactive in a browser; return whether all are within the bar."""
    from playwright.sync_api import sync_playwright

    with psycopg.connect(url) as connection:
        [(id,)] = connection.execute("SELECT id::text FROM sessions ORDER BY id LIMIT 1").fetchall()
    parameters = {"session": f"?id={id}", "operation": "?name=x"}
    slowest, said = 0.0, []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)

        def opened(address: str) -> dict[str, float]:
            """Open the page with an empty cache, wait until it shows everything, and press a key."""
            context = browser.new_context(viewport={"width": 1280, "height": 800})
            context.add_init_script(WATCH)
            tab = context.new_page()
            tab.on("console", lambda message: said.append(message.text))
            tab.on("pageerror", lambda error: said.append(str(error)))
            tab.goto(address)
            tab.wait_for_function("() => window.seen.complete")
            tab.keyboard.press("Tab")
            tab.wait_for_function("() => window.seen.key")
            found: dict[str, float] = tab.evaluate("window.seen")
            found["weight"] = tab.evaluate(
                "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation')).reduce((sum, one) => sum + one.decodedBodySize, 0)"
            )
            context.close()
            return found

        for name in state.PAGES:
            with served(url) as (_, client):
                address = f"http://{client.host}:{client.port}{BASE}{'' if name == 'overview' else name}{parameters.get(name, '')}"
                client.close()
                for how in ("service just started", "again"):
                    found = opened(address)
                    slowest = max(slowest, found["shown"] + found["key"])
                    print(
                        f"{name:12} {how:20} shown {found['shown']:5.0f} ms, complete {found['complete']:5.0f} ms,"
                        f" a key {found['key']:3.0f} ms, {found['weight'] / 1000:.0f} kB"
                    )
        browser.close()
    print(f"slowest: interactive after {slowest:.0f} ms (bar {BAR:.0f}); console: {said or 'empty'}")
    return slowest <= BAR and not said


def ask(connection: HTTPConnection, path: str, tag: str = "") -> str:
    """Ask on a connection that stays open, as a browser does; return the tag of the answer."""
    connection.request("GET", path, headers={"If-None-Match": tag} if tag else {})
    answer = connection.getresponse()
    answer.read()
    assert answer.status in (200, 304), answer.status  # noqa: S101
    return answer.getheader("ETag", "")


def tabs(url: str, polls: int) -> None:
    """Print what one open tab costs the service, beside the service alone, and the database."""
    with served(url) as (service, client):
        for name in ("", "overview", "live"):
            address = f"{BASE}state?page={name}"
            client.close()  # it is opened again: the service closes what was idle for long
            tag = ask(client, address) if name else ""
            time.sleep(EVERY)
            before, mine, began = {pid: cpu(pid) for pid in backends(url)}, cpu(service), time.monotonic()
            for number in range(polls):
                time.sleep(max(0.0, began + (number + 1) * EVERY - time.monotonic()))
                tag = ask(client, address, tag) if name else ""
            took = time.monotonic() - began
            database = sum(cpu(pid) - before.get(pid, 0.0) for pid in backends(url))
            print(
                f"{f'one open tab of {name}' if name else 'no tab'}: service {(cpu(service) - mine) / took:.2f},"
                f" database {database / took:.2f} ms of CPU a second over {took:.0f} s (bar 1 more than with no tab)"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--polls", type=int, default=24)
    parser.add_argument("--browser", action="store_true", help="open each page in Chromium as well")
    arguments = parser.parse_args()
    rows, polls = arguments.rows, arguments.polls
    found = binaries()
    assert found is not None  # noqa: S101
    with Server(found, settings={"shared_buffers": "256MB"}) as server:
        cli.main(["setup", "--database-url", server.dsn()])
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            fill(connection, rows)
        authorize = lambda _: web.Principal("a benchmark", "admin")  # noqa: E731
        app = web.application(server.dsn(), authorize=authorize, reads="1000000/minute", deadline=20.0)
        with TestClient(app) as client:
            for name in state.PAGES:
                app.state.store.forget()
                began = time.perf_counter()
                first = client.get(f"{BASE}state?page={name}")
                cold = time.perf_counter() - began
                again = []
                for _ in range(20):
                    began = time.perf_counter()
                    client.get(f"{BASE}state?page={name}", headers={"if-none-match": first.headers["etag"]})
                    again.append((time.perf_counter() - began) * 1000)
                weight = weigh(client, "" if name == "overview" else name)
                print(
                    f"{name:12} nothing kept {cold * 1000:7.1f} ms  kept {statistics.median(again):5.2f} ms  state {len(first.content) / 1000:6.1f} kB  page {weight / 1000:.0f} kB"
                )
            for name, path in LISTS.items():
                times = []
                for _ in range(7):
                    began = time.perf_counter()
                    answer = client.get(BASE + path)
                    times.append((time.perf_counter() - began) * 1000)
                print(
                    f"{name:24} {statistics.median(times):7.1f} ms, {answer.status_code}, {len(answer.content) / 1000:.0f} kB"
                )
        met = in_browser(server.dsn()) if arguments.browser else True
        tabs(server.dsn(), polls)
    if not met:
        raise SystemExit(1)


def weigh(client: TestClient, page: str) -> int:
    """Return the bytes of a page and of all that it loads, before compression."""
    text = client.get(BASE + page).text
    loaded, waiting = {}, re.findall(r'(?:src|href)="(static/[^"]+)"', text)
    while waiting:
        file = waiting.pop()
        if file not in loaded:
            answer = client.get(BASE + file)
            loaded[file] = len(answer.content)
            waiting += [f"{file.rpartition('/')[0]}/{name}" for name in re.findall(r'from "\./([^"]+)"', answer.text)]
    return len(text) + sum(loaded.values())


if __name__ == "__main__":
    main()
