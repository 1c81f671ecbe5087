"""Letting go of ten million rows under writers: ours against DELETE on the obvious design.

    scripts/bootstrap.sh test benchmarks/retention.py [--bindir DIR …] [--rows 10000000] [--writers 2]

In each design --rows rows are older than retention allows, and a tenth as many are not. Writers insert single rows without
a pause while the old ones go: ours by `CALL pgvigil.enforce_retention()`, the obvious design by one DELETE and the VACUUM it
takes to use the space again. Prints how long that took, the WAL written meanwhile (with and without the writers' own, which
is measured before), the space given back, and the longest single write before and meanwhile: on a machine with others some
writes take long without anyone's doing.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Event

import psycopg
from append_only import ID_AT, cpu, make, parser, servers, table, value, wal

QUIET = 10
INSERT = "INSERT INTO performance_logs (operation, duration_ms, success) VALUES ('write', 5, true)"
FILL = {
    "ours": f"""INSERT INTO performance_logs (id, operation, duration_ms, success, created_at)
                SELECT {ID_AT.format("t")}, 'operation-' || n %% 50, n %% 900, n %% 17 > 0, t
                FROM (SELECT n, now() - interval '%(days)s days' + n * interval '10 milliseconds' AS t FROM generate_series(1, %(rows)s) n) at""",
    "obvious": """INSERT INTO performance_logs (operation, duration_ms, success, created_at)
                  SELECT 'operation-' || n %% 50, n %% 900, n %% 17 > 0, now() - interval '%(days)s days' + n * interval '10 milliseconds'
                  FROM generate_series(1, %(rows)s) n""",
}
LET_GO = {
    "ours": ["CALL pgvigil.enforce_retention()"],
    "obvious": ["DELETE FROM performance_logs WHERE created_at < now() - interval '7 days'", "VACUUM performance_logs"],
}
SIZE = "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relname LIKE 'performance_logs%' AND relkind = 'r'"


def write(url: str, stop: Event, results: multiprocessing.Queue[tuple[int, list[tuple[float, float]]]]) -> None:
    """Put the number of writes, and for those longer than 2 ms their begin and their duration."""
    count, long = 0, []
    with psycopg.connect(url, autocommit=True) as conn:
        while not stop.is_set():
            began = time.monotonic()
            conn.execute(INSERT.encode())
            if (took := time.monotonic() - began) > 0.002:
                long.append((began, took))
            count += 1
    results.put((count, long))


def longest(outcomes: list[tuple[int, list[tuple[float, float]]]], since: float, until: float) -> str:
    """Return the milliseconds of the longest write that ran between two times."""
    return f"{max((took for _, long in outcomes for began, took in long if began + took > since and began < until), default=0.002) * 1000:.0f}"


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--writers", type=int, default=2)
    options = arguments.parse_args()
    with servers(options) as wanted:
        for server in wanted:
            found = []
            for design, fill in FILL.items():
                with make(server, design) as conn:
                    if design == "ours":
                        conn.execute(
                            "SELECT pgvigil.ensure_partitions('performance_logs', now() - interval '14 days', now())"
                        )
                    conn.execute((fill % {"days": 12, "rows": options.rows}).encode())
                    conn.execute((fill % {"days": 2, "rows": options.rows // 10}).encode())
                    conn.execute("VACUUM ANALYZE performance_logs")
                    conn.execute("CHECKPOINT")
                    stop = multiprocessing.Event()
                    results: multiprocessing.Queue[tuple[int, list[tuple[float, float]]]] = multiprocessing.Queue()
                    writers = [
                        multiprocessing.Process(target=write, args=(server.dsn(design), stop, results))
                        for _ in range(options.writers)
                    ]
                    for writer in writers:
                        writer.start()
                    time.sleep(3)
                    before, quiet = wal(conn), time.monotonic()
                    time.sleep(QUIET)
                    rate = (wal(conn) - before) / (time.monotonic() - quiet)
                    size, before, used, at = value(conn, SIZE), wal(conn), cpu(conn), time.monotonic()
                    for statement in LET_GO[design]:
                        conn.execute(statement.encode())
                    end = time.monotonic()
                    took, used = end - at, cpu(conn) - used
                    written = wal(conn) - before
                    time.sleep(1)
                    stop.set()
                    outcomes = [results.get() for _ in writers]
                    for writer in writers:
                        writer.join()
                    left = value(conn, "SELECT count(*) FROM performance_logs WHERE operation LIKE 'operation-%'")
                    if left != options.rows // 10:
                        raise SystemExit(f"{design}: {left} rows are left instead of {options.rows // 10}")
                    found.append(
                        [
                            design,
                            f"{took:.2f} ({used:.2f})",
                            f"{written / 1e6:.2f}",
                            f"{max(written - rate * took, 0) / 1e6:.2f}",
                            f"{(size - value(conn, SIZE)) / 1e9:.2f}",
                            longest(outcomes, quiet, at),
                            longest(outcomes, at, end),
                            f"{sum(count for count, _ in outcomes):,}",
                        ]
                    )
            head = [
                "",
                "s (CPU)",
                "WAL MB",
                "without the writers' own",
                "GB given back",
                f"longest write in the {QUIET} s before, ms",
                "longest write meanwhile, ms",
                "writes",
            ]
            print(
                table(f"{options.rows:,} rows, {options.writers} writers, PostgreSQL {server.major}", head, found),
                flush=True,
            )


if __name__ == "__main__":
    main()
