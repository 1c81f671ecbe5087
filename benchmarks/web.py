"""The savings of the web application's reads at a million executions, and its time to answer where the database does
not.

    scripts/bootstrap.sh test benchmarks/web.py [--rows 1000000]

Ratios of the server's own times for the same rows or numbers, in one run; each the median of five.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from starlette.testclient import TestClient

from pgvigil import cli, web
from pgvigil.embedded import Server, binaries
from pgvigil.live import execution_queries as queries

ROUNDS = 5


def require(condition: object, what: object = "") -> None:
    if not condition:
        raise SystemExit(f"the benchmark does not hold: {what}")


def timed(connection: psycopg.Connection[Any], query: str, values: Any = ()) -> tuple[float, Any]:
    """Median milliseconds, and the rows."""
    found, times = None, []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        found = connection.execute(query.encode(), values or None).fetchall()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times), found


def fill(connection: psycopg.Connection[Any], rows: int) -> None:
    connection.execute(
        """INSERT INTO query_executions (execution_id, user_id, query, database_type, status, execution_time, total_rows, started_at)
           SELECT 'e' || g, 'user ' || g % 5000, 'SELECT ' || g, (ARRAY['postgresql', 'mysql', 'mongodb'])[1 + g % 3],
                  (ARRAY['success', 'success', 'success', 'success', 'failed', 'error', 'timeout'])[1 + g % 7], (g % 1000) / 100.0, g % 50,
                  now() - g * (interval '370 days' / %s)
           FROM generate_series(1, %s::int) g""".replace("g % ", "g %% "),
        (rows, rows),
    )  # fmt: skip
    connection.execute("VACUUM ANALYZE query_executions")
    began = time.perf_counter()
    connection.execute("CALL pgvigil.run_job('totals')")
    print(f"job totals over {rows} new rows: {time.perf_counter() - began:.1f} s")
    connection.execute("VACUUM ANALYZE pgvigil.execution_rollups")


def pages(connection: psycopg.Connection[Any], rows: int) -> None:
    at = rows // 2
    order = "ORDER BY started_at DESC, id DESC"
    [(started_at, id)] = connection.execute(
        f"SELECT started_at::text, id FROM query_executions {order} OFFSET {at - 1} LIMIT 1"
    ).fetchall()
    slow, there = timed(connection, f"SELECT id FROM query_executions {order} OFFSET {at} LIMIT 101")
    query, values = queries.page(
        "id", user_id=None, status=None, database_type=None, cursor=queries.encoded(started_at, id), limit=100, offset=0
    )
    quick, found = timed(connection, query.format("query_executions"), values)
    require(found == there)
    print(f"page at row {at}: OFFSET {slow:.1f} ms, cursor {quick:.2f} ms: {slow / quick:.0f} times")


def statistics_of_all(connection: psycopg.Connection[Any]) -> None:
    from pgvigil.web.executions import _global_stats

    for days in (7, 365):
        query, values = queries.stats(None, days)
        slow, [plain] = timed(connection, query.format("query_executions"), values)
        quick, _ = timed(connection, f"SELECT * FROM pgvigil.execution_window(make_interval(hours => {24 * days}))")
        found = list(_global_stats(connection, days).values())[1:]
        pairs = zip(sorted(plain), sorted(found), strict=True)
        require(all(a == b or abs(a - b) < 1e-9 * abs(a) for a, b in pairs), (plain, found))
        print(
            f"statistics of {days} days: sum {slow:.1f} ms, rollups {quick:.1f} ms: {slow / quick:.0f} times, same numbers"
        )


@contextmanager
def stopped(server: Server, how: signal.Signals) -> Any:
    process = server._process
    require(process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    if how == signal.SIGQUIT:
        process.send_signal(how)
        process.wait()
        yield
        for _ in range(100):
            with suppress(Exception):
                server._launch()
                break
            time.sleep(0.05)
        return
    for pid in [process.pid, *map(int, children)]:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in [*map(int, children), process.pid]:
            os.kill(pid, signal.SIGCONT)


def faults(server: Server) -> None:
    """Measure with the application's own defaults."""
    app = web.application(
        server.dsn(), authorize=lambda _: web.Principal("a benchmark", "viewer"), reads="1000000/minute"
    )
    path = "/api/v1/executions?limit=1"

    def ask(what: str, expected: int, most: float) -> None:
        began = time.perf_counter()
        answer = client.get(path)
        took = time.perf_counter() - began
        kind = answer.json()["type"].rpartition(":")[2] if expected == 503 else "200"
        print(f"{what}: {answer.status_code} {kind} after {took:.3f} s (bar {most} s)")
        require(answer.status_code == expected)

    def back(what: str) -> None:
        began = time.perf_counter()
        while client.get(path).status_code != 200:
            require(time.perf_counter() - began < 10)
        print(f"{what}: 200 again after {time.perf_counter() - began:.3f} s (bar 1 s)")

    with TestClient(app) as client:
        require(client.get(path).status_code == 200)
        with stopped(server, signal.SIGSTOP):
            ask("frozen, connected", 503, 1.6)
            ask("frozen, the next", 503, 1.6)
        back("frozen")
        with stopped(server, signal.SIGQUIT):
            ask("stopped", 503, 0.1)
        back("stopped")
        with psycopg.connect(server.dsn()) as other:
            other.execute("LOCK TABLE query_executions")
            ask("locked", 503, 2.1)
        back("locked")
        store = app.state.store
        for _ in range(4):
            store._slots.acquire()
        ask("pool full", 503, 1.1)
        for _ in range(4):
            store._slots.release()
        back("pool full")
    store.close()


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, default=1_000_000)
    rows = arguments.parse_args().rows
    bindir = binaries()
    require(bindir, "the embedded PostgreSQL is missing")
    with Server(bindir, settings={"max_wal_size": "4GB", "shared_buffers": "256MB"}) as server:
        require(cli.main(["setup", "--database-url", server.dsn()]) == 0)
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("SET jit = off")
            fill(connection, rows)
            pages(connection, rows)
            statistics_of_all(connection)
        faults(server)
    print(json.dumps({"rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
