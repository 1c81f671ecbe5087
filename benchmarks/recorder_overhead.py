"""What recording costs: a call in its caller, rows per second against a bare COPY loop, memory over many records; and what an
application pays for full instrumentation.

    scripts/bootstrap.sh test benchmarks/recorder_overhead.py [--bindir DIR …] [--rows 200000] [--rounds 7] [--records 10000000]

Throughput: in each round the same --rows rows go into performance_logs and system_metrics of one database, once by a loop of
psycopg's COPY in the batches that the recorder makes and once through the recorder, one right after the other; ratios are
medians over the rounds. The calls are timed in these same rounds, so while the worker takes its share of the interpreter and the
server its share of the machine; the time that the clock itself takes is not taken off. Memory: --records through one recorder.

--instrument QUERIES: nothing but this. Over and over, that many small queries by SQLAlchemy (a row by its key), each in a
transaction of its own, as fast as they go: bare, then with all of their statements recorded, then bare again, in one process. The
recorder's work goes on while the queries run, and all of it is waited for before the bare ones. --rate: queries a second instead,
in which the time is that in which the application was not idle.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import sqlalchemy
from append_only import make, parser, servers, table, timed
from psycopg.types.json import Jsonb

from pgvigil.live import Recorder, instrument

BATCH = 5_000
SESSION = uuid4()
LABELS = {"node": "n7", "zone": "z1"}
COLUMNS = {
    "performance_logs": "operation, duration_ms, success, session_id, metadata, created_at",
    "system_metrics": "metric_name, metric_value, metric_type, labels, recorded_at",
}
# One call of each kind, and the row that it stands for.
Call = Callable[[Recorder, int], None]
CALLS: dict[str, tuple[Call, str, Callable[[int], tuple[Any, ...]]]] = {
    "record_performance": (
        lambda recorder, n: recorder.record_performance(f"operation-{n % 50}", n % 900),
        "performance_logs",
        lambda n: (f"operation-{n % 50}", n % 900, True, None, Jsonb({}), datetime.now(UTC)),
    ),
    "record_performance, with session and metadata": (
        lambda recorder, n: recorder.record_performance(
            f"operation-{n % 50}", n % 900, session_id=SESSION, metadata=LABELS
        ),
        "performance_logs",
        lambda n: (f"operation-{n % 50}", n % 900, True, SESSION, Jsonb(LABELS), datetime.now(UTC)),
    ),
    "record_metric, with labels": (
        lambda recorder, n: recorder.record_metric(f"metric-{n % 50}", n % 900, labels=LABELS),
        "system_metrics",
        lambda n: (f"metric-{n % 50}", n % 900, "gauge", Jsonb(LABELS), datetime.now(UTC)),
    ),
}


def bare(conn: psycopg.Connection[Any], of_table: str, row: Callable[[int], tuple[Any, ...]], rows: int) -> None:
    for start in range(0, rows, BATCH):
        with conn.cursor().copy(f"COPY {of_table} ({COLUMNS[of_table]}) FROM STDIN".encode()) as copy:
            for n in range(start, min(start + BATCH, rows)):
                copy.write_row(row(n))


def recorded(recorder: Recorder, call: Call, rows: int, took: list[int] | None = None) -> None:
    """All of them into the database, as fast as it takes them; the queue is never let run full."""
    clock = time.perf_counter_ns
    for n in range(rows):
        if took is None:
            call(recorder, n)
        else:
            began = clock()
            call(recorder, n)
            took.append(clock() - began)
        if n % 1000 == 0:
            while recorder.stats().queue_depth > 4 * BATCH:
                time.sleep(0.001)
    if recorder.flush(600) != "written":
        raise SystemExit(f"not all was written: {recorder.stats()}")


def resident() -> float:
    """Megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def queries(engine: sqlalchemy.Engine, count: int, rate: float) -> float:
    """Seconds of work."""
    query = sqlalchemy.text("SELECT filler FROM pgbench_small WHERE id = :id")
    clock = time.perf_counter
    idle = 0.0
    began = clock()
    for n in range(count):
        if rate and (early := began + n / rate - clock()) > 0:
            idle += early
            while clock() < began + n / rate:
                time.sleep(0)  # others may run; a real sleep is longer than a query
        with engine.begin() as connection:
            connection.execute(query, {"id": n % 1000 + 1}).fetchall()
    return clock() - began - idle


def instrumented(url: str, spill: str, rounds: int, count: int, rate: float) -> list[list[str]]:
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("CREATE TABLE IF NOT EXISTS pgbench_small (id int PRIMARY KEY, filler text)")
        )
        connection.execute(
            sqlalchemy.text(
                "INSERT INTO pgbench_small SELECT n, repeat('x', 80) FROM generate_series(1, 1000) n ON CONFLICT DO NOTHING"
            )
        )
    recorder = Recorder(url, spill_directory=spill, metrics_interval=0)
    queries(engine, count, rate)
    bare, watched, ratios = [], [], []
    before = queries(engine, count, rate)
    for _ in range(rounds):
        undo = instrument(engine, recorder)
        seconds = queries(engine, count, rate)
        undo()
        if recorder.flush(600) != "written":
            raise SystemExit(f"not all was written: {recorder.stats()}")
        after = queries(engine, count, rate)
        ratios.append(2 * seconds / (before + after))
        bare.append(after / count)
        watched.append(seconds / count)
        before = after
    stats = recorder.stats()
    recorder.close()
    engine.dispose()
    if stats.written < rounds * count:
        raise SystemExit(f"statements are missing: {stats}")
    return [
        [
            f"{statistics.median(bare) * 1e6:.1f}",
            f"{1 / statistics.median(bare):,.0f}",
            f"{statistics.median(watched) * 1e6:.1f}",
            f"{1 / statistics.median(watched):,.0f}",
            f"{(statistics.median(ratios) - 1) * 100:+.1f} % ({(min(ratios) - 1) * 100:+.1f} to {(max(ratios) - 1) * 100:+.1f})",
        ]
    ]


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--instrument", type=int, default=0, metavar="QUERIES")
    arguments.add_argument("--rate", type=float, default=0)
    arguments.add_argument("--rows", type=int, default=200_000)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--records", type=int, default=10_000_000)
    options = arguments.parse_args()
    with servers(options) as wanted, tempfile.TemporaryDirectory() as spill:
        for server in wanted:
            conn = make(server, "ours")
            if options.instrument:
                print(
                    table(
                        f"PostgreSQL {server.major}, {options.instrument:,} queries a round, {options.rounds} rounds",
                        ["µs a query, bare", "queries/s", "instrumented", "queries/s", "slower by"],
                        instrumented(server.dsn("ours"), spill, options.rounds, options.instrument, options.rate),
                    )
                )
                continue
            recorder = Recorder(server.dsn("ours"), batch_size=BATCH, spill_directory=spill, metrics_interval=0)
            rows = []
            for name, (call, of_table, row) in CALLS.items():
                took: list[int] = []
                ratios, rates, bare_rates = [], [], []
                for _ in range(options.rounds):
                    seconds_bare = timed(lambda: bare(conn, of_table, row, options.rows))  # noqa: B023 - run at once
                    seconds = timed(lambda: recorded(recorder, call, options.rows))  # noqa: B023
                    ratios.append(seconds_bare / seconds)
                    rates.append(options.rows / seconds)
                    bare_rates.append(options.rows / seconds_bare)
                    recorded(recorder, call, options.rows // 4, took)
                    conn.execute(f"TRUNCATE {of_table}".encode())
                took.sort()
                rows.append(
                    [
                        name,
                        f"{statistics.median(took) / 1000:.2f}",
                        f"{took[len(took) * 99 // 100] / 1000:.2f}",
                        f"{statistics.median(rates):,.0f}",
                        f"{statistics.median(bare_rates):,.0f}",
                        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                    ]
                )
            heading = f"PostgreSQL {server.major}, {options.rows:,} rows a round, {options.rounds} rounds"
            print(
                table(heading, ["", "µs a call, median", "p99", "rows/s", "rows/s, bare COPY loop", "ratio"], rows),
                flush=True,
            )

            call = CALLS["record_performance, with session and metadata"][0]
            memory = []
            for tenth in range(11):
                memory.append([f"{options.records // 10 * tenth:,}", f"{resident():.1f}"])
                if tenth < 10:
                    recorded(recorder, call, options.records // 10)
                    conn.execute("TRUNCATE performance_logs")
            print(table("Memory of the application", ["records", "resident MB"], memory))
            print("\n" + json.dumps({k: v for k, v in vars(recorder.stats()).items() if v}))
            recorder.close()


if __name__ == "__main__":
    main()
