"""What the dashboard costs with many rows: server time of each request of each page, weight, and CPU of one open tab.

    scripts/bootstrap.sh test benchmarks/dashboard.py [--rows 1000000]

The CPU is that of this process and of the server's processes together, while a tab polls for a minute of its own time.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from pathlib import Path
from typing import Any

import psycopg
from starlette.testclient import TestClient

from pgvigil import cli, web
from pgvigil.embedded import Server, binaries
from pgvigil.web import state

BASE = "/admin/session-monitoring/dashboard/"
EVERY = 5.0
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


def cpu(url: str) -> float:
    """Seconds of CPU of this process and of the server's processes that work for it; not those that clean up after the rows."""
    with psycopg.connect(url) as connection:
        pids = [
            pid
            for (pid,) in connection.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgvigil-web'")
        ]
    ticks = 0
    for pid in pids:
        ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--polls", type=int, default=24)
    rows, polls = parser.parse_args().rows, parser.parse_args().polls
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
            idle = cpu(server.dsn()), time.monotonic()
            for _ in range(200):
                client.get("/livez")
            client_cost = (
                cpu(server.dsn()) - idle[0]
            ) / 200  # of the client, which is in this process, and of a request of nothing
            for name in ("overview", "live"):
                client.get(f"{BASE}state?page={name}")  # it is open already
                used, tag, began = cpu(server.dsn()), "", time.monotonic()
                for number in range(polls):
                    answer = client.get(f"{BASE}state?page={name}", headers={"if-none-match": tag})
                    tag = answer.headers["etag"]
                    time.sleep(max(0.0, began + (number + 1) * EVERY - time.monotonic()))
                took = time.monotonic() - began
                print(
                    f"one open tab of {name}: {(cpu(server.dsn()) - used - polls * client_cost) / took * 1000:.2f} ms of CPU a second over {took:.0f} s (bar 1)"
                )


def weigh(client: TestClient, page: str) -> int:
    """Bytes of a page and of all that it loads, before compression."""
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
