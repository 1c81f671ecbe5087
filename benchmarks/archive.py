"""Measure archives: bytes, speed, percentiles from the files, twenty kills, and Spark against DuckDB.

    scripts/bootstrap.sh test benchmarks/archive.py [--bindir DIR …] [--rows 10000000] [--days 10] [--rounds 3] [--kills 20] [--spark 50]

--rows performance logs of --days days are archived. Prints the bytes of the files beside those of the partitions with their indexes;
the speed of the job beside `COPY … TO STDOUT` of the same rows into psql, in turns; and p95 per operation from the files (compared with
their SHA-256 first, as `pgvigil history` does) beside percentile_cont in PostgreSQL. Then archive and retention are killed with -9 at
--kills moments of a smaller table, and ids are counted at the end. --spark N asks both engines the same of N random archives (0: leave out).
Prints each speed by the clock, and by CPU for a machine that others use too.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import statistics as numbers
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from append_only import ID_AT, ROOT, make, parser, servers, spread, table, value

from pgvigil.archives import catalogue, duck, scan
from pgvigil.database import parse_url
from pgvigil.history import engines, performance
from pgvigil.history.snapshot import Span, paths
from pgvigil.maintenance import job_runner
from pgvigil.maintenance.client_jobs import Options
from pgvigil.progress import Reporter

FILL = f"""INSERT INTO performance_logs (id, operation, duration_ms, success, session_id, metadata, created_at)
           SELECT {ID_AT.format("t")}, 'operation-' || n %% 50, (exp(random() * 9))::integer, random() < 0.97,
                  CASE WHEN n %% 3 = 0 THEN gen_random_uuid() END,
                  jsonb_build_object('route', '/api/v1/things/' || n %% 17, 'bytes', (random() * 10000)::integer), t
           FROM (SELECT n, date_trunc('day', now() - %(days)s * interval '1 day' - interval '10 days', 'UTC') + n * (%(days)s * interval '1 day' / %(rows)s) AS t
                 FROM generate_series(0, %(rows)s - 1) n) at"""
P95 = """SELECT operation, percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) FROM performance_logs GROUP BY operation ORDER BY operation"""


def fill(conn: psycopg.Connection[Any], rows: int, days: int) -> None:
    conn.execute("UPDATE pgvigil.retention_policies SET keep_archive = true WHERE policy = 'standard'")
    conn.execute(
        "SELECT pgvigil.ensure_partitions('performance_logs', now() - %s * interval '1 day' - interval '10 days', now())",
        (days,),
    )
    conn.execute(FILL.replace("%(days)s", str(days)).replace("%(rows)s", str(rows)).replace("%%", "%").encode())
    conn.execute("VACUUM ANALYZE performance_logs")


def used(since: tuple[float, ...] | None = None) -> tuple[float, ...]:
    """Return the CPU time of this process and of those it waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    now = (own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime)
    return now if since is None else tuple(a - b for a, b in zip(now, since, strict=True))


def server_cpu(server: Any) -> float:
    """Return the CPU time of all processes of the server, also of those that have ended."""
    pid = int(Path(server.data, "postmaster.pid").read_text().split()[0]) if hasattr(server, "data") else 0
    if not pid:
        return 0.0
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            fields = stat.read_text().rpartition(")")[2].split()
            if stat.parent.name == str(pid):
                total += sum(int(field) for field in fields[11:15])
            elif fields[1] == str(pid):
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measured(server: Any, work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds by the clock, and of CPU, the server's included."""
    own, servers_, began = used(), server_cpu(server), time.perf_counter()
    work()
    took = time.perf_counter() - began
    time.sleep(0.1)
    return took, sum(used(own)) + server_cpu(server) - servers_


def archive(url: str, place: Path) -> None:
    job_runner.run(parse_url(url, "benchmark"), "archive_files", Options(archive_to=str(place)), Reporter())


def speed(server: Any, conn: psycopg.Connection[Any], url: str, rows: int, place: Path, rounds: int) -> None:
    psql = Path(server.bindir, "psql") if hasattr(server, "bindir") else Path("psql")
    copies, archives = [], []
    of_partitions = int(
        value(
            conn,
            "SELECT sum(pg_total_relation_size(partition_oid)) FROM pgvigil.partitions WHERE parent_table = 'performance_logs' AND estimated_rows > 0",
        )
    )
    for number in range(rounds):
        words = [
            psql if psql.exists() else "psql",
            "-X",
            "-d",
            url,
            "-c",
            "COPY (SELECT * FROM performance_logs) TO STDOUT",
        ]
        copies.append(
            measured(server, lambda words=words: subprocess.run(words, stdout=subprocess.DEVNULL, check=True))
        )  # type: ignore[misc]
        conn.execute("DELETE FROM pgvigil.archives")
        archives.append(measured(server, lambda number=number: archive(url, place / str(number))))  # type: ignore[misc]
    of_files = int(value(conn, "SELECT sum(bytes) FROM pgvigil.archives"))
    print(table(f"Bytes, {rows:,} rows", ["partitions and indexes, MB", "files, MB", "1 :"],
                [[f"{of_partitions / 1e6:,.1f}", f"{of_files / 1e6:,.1f}", f"{of_partitions / of_files:.1f}"]]), flush=True)  # fmt: skip
    shown = [
        [
            name,
            f"{numbers.median(t for t, _ in each):.2f}",
            f"{numbers.median(c for _, c in each):.2f}",
            f"{rows / numbers.median(t for t, _ in each):,.0f}",
        ]
        for name, each in (("COPY TO STDOUT", copies), ("archive_files", archives))
    ]
    ratio = spread(copy[0] / made[0] for copy, made in zip(copies, archives, strict=True))
    print(
        table(f"Speed, {rounds} rounds in turns: archive at {ratio} of COPY", ["", "s", "s of CPU", "rows/s"], shown),
        flush=True,
    )


def percentiles(server: Any, conn: psycopg.Connection[Any], url: str, rounds: int) -> None:
    exact: list[tuple[str, float]] = []
    trends: list[performance.Trend] = []

    def in_database() -> None:
        exact[:] = conn.execute(P95.encode()).fetchall()

    def from_files() -> None:
        with catalogue.connect(parse_url(url, "benchmark"), "benchmark") as own:
            archives = catalogue.read(own)
        span = Span(by="all")
        with engines.opened() as ask:
            trends[:] = performance.merge(span, performance.archived(span, archives, ask))

    slow, fast = [], []
    for _ in range(rounds):
        slow.append(measured(server, in_database))
        fast.append(measured(server, from_files))
    worst = max(abs(trend.quantile(0.95) / p95 - 1) for trend, (_, p95) in zip(trends, exact, strict=True))
    head = ["percentile_cont, s (CPU)", "files, s (CPU)", "faster", "off by %, worst"]
    told = [
        f"{numbers.median(t for t, _ in each):.2f} ({numbers.median(c for _, c in each):.2f})" for each in (slow, fast)
    ]
    ratio = spread((a[0] / b[0] for a, b in zip(slow, fast, strict=True)), 1)
    print(table("p95 per operation", head, [[*told, ratio, f"{100 * worst:.2f}"]]), flush=True)


def kills(url: str, place: Path, count: int, rows: int) -> None:
    """Kill each attempt a little later than the one before. One that ends before that begins again with other rows."""
    with psycopg.connect(url, autocommit=True) as conn:
        fill(conn, rows, 5)
        ids = {str(id_) for (id_,) in conn.execute("SELECT id FROM performance_logs")}
        # Half of the attempts read in binary, as large partitions are read.
        code = "import random, sys; from pgvigil.archives import binary; binary.FROM_BYTES *= random.random() < 0.5; from pgvigil.cli import main; [main(words.split('|') + ['--database-url', sys.argv[1]]) for words in sys.argv[2:]]"
        words = [f"maintain|run|archive_files|--archive-to|{place}", "maintain|run|retention"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, "-P", "-c", code, url, *words]
        began = time.perf_counter()
        whole = [sys.executable, "-P", "-c", "import pgvigil.commands.maintain, pgvigil.archives.write, duckdb"]
        subprocess.run(whole, env=environment, check=False)
        start = time.perf_counter() - began
        killed = 0
        chance = random.Random(1)  # noqa: S311 - no secret
        while killed < count:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(start * 0.8 + chance.uniform(0, 0.15 * start + 2.5))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                killed += 1
            process.wait()
            while value(conn, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgvigil%'"):
                time.sleep(0.02)
            if not value(conn, "SELECT count(*) FROM performance_logs"):
                at = f"now() - interval '{30 + killed} days'"
                conn.execute(f"SELECT pgvigil.ensure_partitions('performance_logs', {at}, {at})".encode())
                conn.execute(
                    f"INSERT INTO performance_logs (id, operation, duration_ms, success) SELECT {ID_AT.format(at)}, 'x', n, true FROM generate_series(1, {rows // 5}) n".encode()
                )
                ids |= {str(id_) for (id_,) in conn.execute("SELECT id FROM performance_logs")}
        for _ in range(3):
            subprocess.run(command, env=environment, check=True, capture_output=True)
        live = [str(id_) for (id_,) in conn.execute("SELECT id FROM performance_logs")]
    target = parse_url(url, "benchmark")
    with catalogue.connect(target, "benchmark") as own:
        archives = [one for one in catalogue.read(own) if one.state == "file"]
    with paths(archives, None) as files:
        kept = [id_ for (id_,) in duck().execute(f"SELECT id FROM {scan(files)}").fetchall()] if files else []
    _, strays = catalogue.verify(target)
    seen = live + kept
    print(table(f"kill -9 at {count} moments", ["rows", "lost", "double", "files that no archive has"],
                [[f"{len(ids):,}", str(len(ids - set(seen))), str(len(seen) - len(set(seen))), str(len(strays))]]), flush=True)  # fmt: skip


def spark(count: int, place: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from archives.test_history import compare_engines

    with engines.opened() as first, engines.opened("spark", "local[2]") as second:
        for seed in range(count):
            compare_engines(place, first, second, seed)
    print(f"\nSpark (local, 2 cores) = DuckDB on {count} random archives", flush=True)


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--days", type=int, default=10)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--spark", type=int, default=50)
    options = arguments.parse_args()
    with servers(options) as wanted, tempfile.TemporaryDirectory() as directory:
        for number, server in enumerate(wanted):
            place = Path(directory) / str(number)
            if options.rows:
                with make(server, "ours") as conn:
                    fill(conn, options.rows, options.days)
                    url = server.dsn("ours")
                    speed(server, conn, url, options.rows, place, options.rounds)
                    percentiles(server, conn, url, options.rounds)
            if options.kills:
                make(server, "ours", "kills").close()
                kills(server.dsn("kills"), place / "kills", options.kills, 50_000)
        if options.spark:
            spark(options.spark, Path(directory))


if __name__ == "__main__":
    main()
