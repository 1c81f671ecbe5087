"""The cost of recording: a call in its caller, and rows per second against a bare COPY loop; or, by an option, what an application
pays for full instrumentation, or the memory over many records.

    scripts/bootstrap.sh test benchmarks/recorder_overhead.py [--bindir DIR …] [--rows 200000] [--rounds 7]
    scripts/bootstrap.sh test benchmarks/recorder_overhead.py --instrument 10000 [--rate 5000] [--rounds 7]
    scripts/bootstrap.sh test benchmarks/recorder_overhead.py --memory 10000000

Throughput: in each round the same --rows rows go into each table of one database, once by a loop of psycopg's COPY in the batches
that the recorder makes and once through the recorder, one right after the other; ratios are medians over the rounds. The calls
are timed in these same rounds, so while the worker takes its share of the interpreter and the server its share of the machine;
the time that the clock itself takes is not taken off.

--instrument QUERIES: over and over, that many small queries by SQLAlchemy (a row by its key), each in a transaction of its own, as
fast as they go: bare, then with all of their statements recorded, then bare again, in one process. The time is that of the
queries, while the recorder's work goes on; the CPU is that of the whole process, with all of the recorder's work. --rate: queries a
second instead, in which the time, and the CPU, are those in which the application was not idle.

--memory RECORDS: that many records of three kinds through one recorder, and the memory of the process after each tenth.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import sqlalchemy
from append_only import make, parser, servers, spread, table, timed
from psycopg.types.json import Jsonb

from pgvigil.live import ExecutionTracker, Recorder, instrument
from pgvigil.live import records as rows

BATCH = 5_000
SESSION = uuid4()
LABELS = {"node": "n7", "zone": "z1"}
STATEMENT = "SELECT name, price FROM items WHERE id = $1 AND shop = $2"
COLUMNS = {
    "performance_logs": "operation, duration_ms, success, session_id, metadata, created_at",
    "system_metrics": "metric_name, metric_value, metric_type, labels, recorded_at",
    "query_executions": (
        "execution_id, user_id, query, database_type, query_complexity, status, execution_time, total_rows, started_at,"
        " completed_at, request_metadata"
    ),
    "instrumentation.sql_statements": (
        "session_id, sql_text, execution_start_time, execution_end_time, rows_fetched, status, duration_ms"
    ),
}


def execution(recorder: Recorder, n: int) -> None:
    TRACKERS[recorder].log_execution_background(
        STATEMENT,
        "postgresql",
        user_id=f"user-{n % 50}",
        execution_time=0.012,
        total_rows=n % 900,
        request_metadata=LABELS,
    )


def now() -> datetime:
    return datetime.now(UTC)


# One call of each kind, and the row that it makes.
Call = Callable[[Recorder, int], None]
TRACKERS: dict[Recorder, ExecutionTracker] = {}
CALLS: dict[str, tuple[Call, str, Callable[[int], tuple[Any, ...]]]] = {
    "record_performance": (
        lambda recorder, n: recorder.record_performance(f"operation-{n % 50}", n % 900),
        "performance_logs",
        lambda n: (f"operation-{n % 50}", n % 900, True, None, Jsonb({}), now()),
    ),
    "record_performance, with session and metadata": (
        lambda recorder, n: recorder.record_performance(
            f"operation-{n % 50}", n % 900, session_id=SESSION, metadata=LABELS
        ),
        "performance_logs",
        lambda n: (f"operation-{n % 50}", n % 900, True, SESSION, Jsonb(LABELS), now()),
    ),
    "record_metric, with labels": (
        lambda recorder, n: recorder.record_metric(f"metric-{n % 50}", n % 900, labels=LABELS),
        "system_metrics",
        lambda n: (f"metric-{n % 50}", n % 900, "gauge", Jsonb(LABELS), now()),
    ),
    "log_execution_background": (
        execution,
        "query_executions",
        lambda n: (
            uuid4().hex,
            f"user-{n % 50}",
            STATEMENT,
            "postgresql",
            "SINGLE_LINE",
            "success",
            0.012,
            n % 900,
            now(),
            now(),
            Jsonb(LABELS),
        ),
    ),
    "a statement of an instrumented application": (
        lambda recorder, n: recorder.append(rows.statement(str(SESSION), STATEMENT, 12_000_000, n % 900)),
        "instrumentation.sql_statements",
        lambda n: (SESSION, STATEMENT, now(), now(), n % 900, "success", 12),
    ),
}


def bare(conn: psycopg.Connection[Any], of_table: str, row: Callable[[int], tuple[Any, ...]], rows: int) -> None:
    for start in range(0, rows, BATCH):
        with conn.cursor().copy(f"COPY {of_table} ({COLUMNS[of_table]}) FROM STDIN".encode()) as copy:
            for n in range(start, min(start + BATCH, rows)):
                copy.write_row(row(n))


def recorded(recorder: Recorder, call: Call, rows: int, took: list[int] | None = None) -> None:
    """Record all into the database, as fast as it takes them. The queue never gets full."""
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
    """Return the resident memory in megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def queries(engine: sqlalchemy.Engine, count: int, rate: float) -> tuple[float, float]:
    """Return the seconds of work, and the seconds of CPU that this thread was idle for."""
    query = sqlalchemy.text("SELECT filler FROM pgbench_small WHERE id = :id")
    clock, idle, idle_cpu = time.perf_counter, 0.0, 0.0
    began = clock()
    for n in range(count):
        if rate and (early := began + n / rate - clock()) > 0:
            idle += early
            cpu = time.thread_time()
            while clock() < began + n / rate:
                time.sleep(0)  # others may run; a real sleep is longer than a query
            idle_cpu += time.thread_time() - cpu
        with engine.begin() as connection:
            connection.execute(query, {"id": n % 1000 + 1}).fetchall()
    return clock() - began - idle, idle_cpu


def instrumented(url: str, spill: str, rounds: int, count: int, rate: float) -> list[list[str]]:
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE pgbench_small (id int PRIMARY KEY, filler text)")
        connection.exec_driver_sql(
            "INSERT INTO pgbench_small SELECT n, repeat('x', 80) FROM generate_series(1, 1000) n"
        )
    recorder = Recorder(url, spill_directory=spill, metrics_interval=0)

    def measure(*, watched: bool) -> tuple[float, float]:
        """Return the microseconds of a query, and those of CPU in all threads."""
        cpu = time.process_time()
        undo = instrument(engine, recorder) if watched else None
        seconds, idle_cpu = queries(engine, count, rate)
        if undo:
            undo()
            if recorder.flush(600) != "written":
                raise SystemExit(f"not all was written: {recorder.stats()}")
        return seconds / count * 1e6, (time.process_time() - cpu - idle_cpu) / count * 1e6

    measure(watched=False)
    found, of_bare = [], []
    before = measure(watched=False)
    for _ in range(rounds):
        watched = measure(watched=True)
        after = measure(watched=False)
        bare = (before[0] + after[0]) / 2, (before[1] + after[1]) / 2
        found.append((*bare, *watched))
        of_bare.append((watched[0] / bare[0] - 1, watched[1] / bare[1] - 1))
        before = after
    stats = recorder.stats()
    recorder.close()
    engine.dispose()
    if stats.written < rounds * count:
        raise SystemExit(f"statements are missing: {stats}")
    table_rows = []
    for what, at in (("time", 0), ("CPU", 1)):
        ratios = sorted(ratio[at] * 100 for ratio in of_bare)
        table_rows.append(
            [
                what,
                f"{statistics.median(one[at] for one in found):.1f}",
                f"{statistics.median(one[at + 2] for one in found):.1f}",
                f"{statistics.median(ratios):+.1f} % ({ratios[0]:+.1f} to {ratios[-1]:+.1f})",
            ]
        )
    return table_rows


def throughput(recorder: Recorder, conn: psycopg.Connection[Any], count: int, rounds: int) -> list[list[str]]:
    found = []
    for name, (call, of_table, row) in CALLS.items():
        took: list[int] = []
        ratios, rates, bare_rates = [], [], []
        for _ in range(rounds):
            seconds_bare = timed(lambda: bare(conn, of_table, row, count))  # noqa: B023 - run at once
            seconds = timed(lambda: recorded(recorder, call, count))  # noqa: B023
            ratios.append(seconds_bare / seconds)
            rates.append(count / seconds)
            bare_rates.append(count / seconds_bare)
            recorded(recorder, call, count // 4, took)
            conn.execute(f"TRUNCATE {of_table}".encode())
        took.sort()
        found.append(
            [
                name,
                f"{statistics.median(took) / 1000:.2f}",
                f"{took[len(took) * 99 // 100] / 1000:.2f}",
                f"{statistics.median(rates):,.0f}",
                f"{statistics.median(bare_rates):,.0f}",
                spread(ratios),
            ]
        )
    return found


def memory(recorder: Recorder, records: int) -> Iterator[list[str]]:
    calls = [CALLS[name][0] for name in list(CALLS)[1:] if name != "log_execution_background"]

    def mixed(recorder: Recorder, n: int) -> None:
        if n % 3:
            calls[n % 3 - 1](recorder, n)
        else:  # more texts and names than are remembered
            recorder.append(rows.statement(str(SESSION), f"SELECT {n % 5000}", 12_000_000, 1))

    for tenth in range(11):
        yield [f"{records // 10 * tenth:,}", f"{resident():.1f}"]
        if tenth < 10:
            recorded(recorder, mixed, records // 10)


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--instrument", type=int, default=0, metavar="QUERIES")
    arguments.add_argument("--rate", type=float, default=0)
    arguments.add_argument("--memory", type=int, default=0, metavar="RECORDS")
    arguments.add_argument("--rows", type=int, default=200_000)
    arguments.add_argument("--rounds", type=int, default=7)
    options = arguments.parse_args()
    with servers(options) as wanted, tempfile.TemporaryDirectory() as spill:
        for server in wanted:
            conn = make(server, "ours")
            url = server.dsn("ours")
            if options.instrument:
                title = f"PostgreSQL {server.major}, {options.instrument:,} queries a round, {options.rounds} rounds"
                title += f", {options.rate:,.0f} a second" if options.rate else ""
                found = instrumented(url, spill, options.rounds, options.instrument, options.rate)
                print(table(title, ["a query", "µs, bare", "µs, instrumented", "more"], found), flush=True)
                continue
            conn.execute("SET pgvigil.instrumentation = 'write'")
            conn.execute(
                "SELECT instrumentation.register_session(instrumentation.register_instance('host'), %s)", (SESSION,)
            )
            conn.execute("SET pgvigil.instrumentation = 'write'")  # which those functions have unset
            recorder = Recorder(url, batch_size=BATCH, spill_directory=spill, metrics_interval=0)
            TRACKERS[recorder] = ExecutionTracker(recorder)
            if options.memory:
                found = list(memory(recorder, options.memory))
                print(table(f"Memory of the application, PostgreSQL {server.major}", ["records", "resident MB"], found))
                print("\n" + json.dumps({k: v for k, v in vars(recorder.stats()).items() if v}))
            else:
                title = f"PostgreSQL {server.major}, {options.rows:,} rows a round, {options.rounds} rounds"
                head = ["", "µs a call, median", "p99", "rows/s", "rows/s, bare COPY loop", "ratio"]
                print(table(title, head, throughput(recorder, conn, options.rows, options.rounds)), flush=True)
            recorder.close()


if __name__ == "__main__":
    main()
