"""The speed of rows into performance_logs, and the cost of a query by label: ours against the obvious design and a bare
table.

    scripts/bootstrap.sh test benchmarks/ingest.py [--bindir DIR …] [--rows 5000000] [--rounds 9] [--metrics 10000000]

Each design begins with --rows rows: half a day's, where 10,000,000 come a day. In each round each design takes 100,000
rows by COPY in batches of 10,000 (half of them with a session) and 2,000 rows by single statements, one design right
after the other, so that what else the machine does falls on all of them alike. Ratios are medians over the rounds of
each round's ratio.
"""

from __future__ import annotations

import random
import statistics
from typing import Any

import psycopg
from append_only import DESIGNS, ID_AT, cpu, make, parser, servers, table, timed, value, wal

BATCH = 10_000
# The id finds the partition and the place in it; recorded_at is exact.
SINCE = "id >= pgvigil.uuid_v7_floor(now() - interval '1 hour') AND recorded_at > now() - interval '1 hour'"
COLUMNS = "(operation, duration_ms, success, session_id, metadata)"


def lines(sessions: list[str], count: int) -> str:
    chance = random.Random(count)  # noqa: S311 - the same rows for each design
    return "".join(
        f"operation-{chance.randrange(50)}\t{int(chance.lognormvariate(3, 1.5))}\t{chance.random() > 0.02}"
        f"\t{chance.choice(sessions) if n % 2 else chr(92) + 'N'}\t{{}}\n"
        for n in range(count)
    )


def copy(conn: psycopg.Connection[Any], batch: str, times: int) -> None:
    for _ in range(times):
        with conn.cursor().copy(f"COPY performance_logs {COLUMNS} FROM STDIN") as into:
            into.write(batch)


def single(conn: psycopg.Connection[Any], times: int) -> None:
    for n in range(times):
        conn.execute(
            "INSERT INTO performance_logs (operation, duration_ms, success) VALUES (%s, %s, true)",
            (f"operation-{n % 50}", n % 900),
        )


def labels(conn: psycopg.Connection[Any], rows: int) -> list[list[str]]:
    """Measure metrics over ten days, and the queries of a dashboard: the best of five."""
    conn.execute("SELECT pgvigil.ensure_partitions('system_metrics', now() - interval '10 days', now())")
    conn.execute(
        f"""INSERT INTO system_metrics (id, metric_name, metric_value, metric_type, labels, recorded_at)
            SELECT {ID_AT.format("t")}, 'metric-' || n % 40, n % 1000, 'gauge', jsonb_build_object('node', 'n' || n % 500, 'zone', 'z' || n % 3), t
            FROM (SELECT n, now() - interval '10 days' + n * (interval '10 days' / {rows}) AS t FROM generate_series(1, {rows}) n) at""".encode()
    )
    conn.execute("VACUUM ANALYZE system_metrics")
    found = []
    for label in ('{"node": "n7"}', '{"zone": "z1"}', '{"node": "n7", "zone": "z1"}'):
        query = f"SELECT count(*), avg(metric_value) FROM system_metrics WHERE labels @> '{label}' AND {SINCE}"
        seconds = min(timed(lambda query=query: conn.execute(query.encode())) for _ in range(5))  # type: ignore[misc]
        found.append([f"`labels @> '{label}'`", f"{value(conn, query):,}", f"{seconds * 1000:.1f}"])
    return found


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--rows", type=int, default=5_000_000)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--metrics", type=int, default=10_000_000)
    options = arguments.parse_args()
    with servers(options) as wanted:
        for server in wanted:
            conns = {design: make(server, design) for design in DESIGNS}
            batches = {}
            for design, conn in conns.items():
                batches[design] = lines([str(row[0]) for row in conn.execute("SELECT id FROM sessions")], BATCH)
                copy(conn, batches[design], options.rows // BATCH)
                conn.execute("ANALYZE performance_logs")
            seconds: dict[tuple[str, str], list[float]] = {}
            server_cpu: dict[tuple[str, str], list[float]] = {}
            bytes_written: dict[str, int] = {}
            for _ in range(options.rounds):
                for design, conn in conns.items():
                    for work, run in (("COPY", lambda c, b: copy(c, b, 10)), ("single", lambda c, _: single(c, 2000))):
                        before, log = cpu(conn), wal(conn)
                        seconds.setdefault((work, design), []).append(timed(lambda: run(conn, batches[design])))  # noqa: B023 - run at once
                        server_cpu.setdefault((work, design), []).append(cpu(conn) - before)
                        if work == "COPY":
                            bytes_written[design] = wal(conn) - log
            rows = []
            for work, count in (("COPY", 10 * BATCH), ("single", 2000)):
                for design in DESIGNS:
                    mine, bare = seconds[work, design], seconds[work, "bare"]
                    used, used_bare = server_cpu[work, design], server_cpu[work, "bare"]
                    rows.append(
                        [
                            f"{work}, {design}",
                            f"{count / statistics.median(mine):,.0f}",
                            f"{statistics.median(b / m for m, b in zip(mine, bare, strict=True)):.2f}",
                            f"{statistics.median(b / max(m, 0.01) for m, b in zip(used, used_bare, strict=True)):.2f}",
                            f"{bytes_written[design] / (10 * BATCH):.0f}" if work == "COPY" else "",
                        ]
                    )
            ratio = statistics.median(
                o / m for m, o in zip(seconds["COPY", "ours"], seconds["COPY", "obvious"], strict=True)
            )
            heading = f"performance_logs, PostgreSQL {server.major}, {options.rows:,} rows to begin with"
            print(table(heading, ["", "rows/s", "of bare", "of bare, by server CPU", "WAL bytes a row"], rows))
            print(f"\nCOPY, ours : obvious = {ratio:.1f} : 1")
            if options.metrics:
                found = labels(conns["ours"], options.metrics)
                print(
                    table(
                        f"system_metrics, PostgreSQL {server.major}, {options.metrics:,} rows in ten days, the last hour of them",
                        ["", "rows", "ms"],
                        found,
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main()
