"""The cost of performance_monitoring_view and its rollups: ours against percentile_cont over the rows themselves.

    scripts/bootstrap.sh test benchmarks/rollup.py [--bindir DIR …] [--rows 1000000 10000000] [--rounds 5]

For each number of rows a new database gets so many rows of 50 operations over the last 24 hours and rolls them up.
Then, in each round, all of them answer the view, and the query that people write without rollups, one right after the
other, so that the hour of the day (the view reads minutes since the last full one) and what else the machine does fall
on all alike. At last 1,000,000 new rows of the last minutes are rolled up, to show what that costs beside the size of
the table. Medians over the rounds, by the clock and by server CPU; ratios, by CPU, are medians of each round's with the
least and the greatest.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

import psycopg
from append_only import ID_AT, cpu, make, parser, servers, spread, table, timed, value

NEW = 1_000_000
TIMES = 20
VIEW = "SELECT * FROM performance_monitoring_view"
RAW = """SELECT operation, count(*), avg(duration_ms), min(duration_ms), max(duration_ms), percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms),
                count(*) FILTER (WHERE success), count(*) FILTER (WHERE NOT success), count(*) FILTER (WHERE success) * 100.0 / count(*)
         FROM performance_logs
         WHERE id >= pgvigil.uuid_v7_floor(now() - interval '24 hours') AND created_at >= now() - interval '24 hours' GROUP BY operation"""
WORST = f"""SELECT max(abs(v.p95_duration_ms - r.percentile_cont) / r.percentile_cont) * 100 FROM performance_monitoring_view v JOIN ({RAW}) r USING (operation)"""


@dataclass
class Subject:
    """A database, and what its queries took in each round: seconds by the clock and of server CPU."""

    conn: psycopg.Connection[Any]
    rows: int
    view: list[tuple[float, float]] = field(default_factory=list)
    raw: list[tuple[float, float]] = field(default_factory=list)

    def run(self, query: str, times: int = 1) -> tuple[float, float]:
        before = cpu(self.conn)
        took = timed(lambda: [self.conn.execute(query.encode()) for _ in range(times)])
        return took / times, (cpu(self.conn) - before) / times


def fill(rows: int, since: str, until: str) -> str:
    return f"""INSERT INTO performance_logs (id, operation, duration_ms, success, created_at)
               SELECT {ID_AT.format("t")}, 'operation-' || n % 50, (exp(random() * 9))::integer, n % 17 > 0, t
               FROM (SELECT n, now() - interval '{since}' + n * ((interval '{since}' - interval '{until}') / {rows}) AS t
                     FROM generate_series(1, {rows}) n) at"""


def prepare(conn: psycopg.Connection[Any], rows: int) -> Subject:
    conn.execute("SELECT pgvigil.ensure_partitions('performance_logs', now() - interval '2 days', now())")
    conn.execute(fill(rows, "24 hours", "20 minutes").encode())
    conn.execute("VACUUM ANALYZE performance_logs")
    conn.execute("CALL pgvigil.run_job('rollup')")
    # The new rows will have ids of these minutes, in which nothing has come so far.
    conn.execute("UPDATE pgvigil.rollup_progress SET next_id = pgvigil.uuid_v7_floor(now() - interval '19 minutes')")
    conn.execute("VACUUM ANALYZE pgvigil.performance_rollups")
    return Subject(conn, rows)


def median(pairs: list[tuple[float, float]], digits: int, scale: int = 1000) -> str:
    clock, used = (statistics.median(each) * scale for each in zip(*pairs, strict=True))
    return f"{clock:,.{digits}f} ({used:,.{digits}f})"


def ratio(of: list[tuple[float, float]], to: list[tuple[float, float]], digits: int) -> str:
    return spread((a[1] / b[1] for a, b in zip(of, to, strict=True)), digits)


def roll_up_new(subject: Subject) -> tuple[float, float]:
    subject.conn.execute(fill(NEW, "15 minutes", "5 seconds").encode())
    subject.conn.execute("ANALYZE performance_logs")
    return subject.run("CALL pgvigil.run_job('rollup')")


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    head = [
        "rows in 24 h",
        "view ms (CPU)",
        "raw ms (CPU)",
        "raw : view",
        "p95 off by %, worst",
        f"rollup of {NEW:,} new rows, s (CPU)",
    ]
    with servers(options) as wanted:
        for server in wanted:
            subjects = [prepare(make(server, "ours", f"ours_{rows}"), rows) for rows in options.rows]
            for _ in range(options.rounds):
                for subject in subjects:
                    subject.view.append(subject.run(VIEW, TIMES))
                for subject in subjects:
                    subject.raw.append(subject.run(RAW))
            found = [
                [
                    f"{subject.rows:,}",
                    median(subject.view, 0),
                    median(subject.raw, 0),
                    ratio(subject.raw, subject.view, 0),
                    f"{value(subject.conn, WORST):.2f}",
                    median([roll_up_new(subject)], 1, 1),
                ]
                for subject in subjects
            ]
            print(table(f"performance_monitoring_view, PostgreSQL {server.major}", head, found))
            growth = ratio(subjects[-1].view, subjects[0].view, 2)
            print(f"\nview, {options.rows[-1]:,} rows : {options.rows[0]:,} rows = {growth}", flush=True)


if __name__ == "__main__":
    main()
