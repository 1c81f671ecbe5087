"""What performance_monitoring_view and its rollups cost: ours against percentile_cont over the rows themselves.

    scripts/bootstrap.sh test benchmarks/rollup.py [--bindir DIR …] [--rows 1000000 10000000]

For each number of rows a new database gets so many rows of 50 operations over the last 24 hours, rolls them up, and answers
the view, and the query that people write without rollups, in turn; the best of each counts. Then 1,000,000 new rows of the
last minutes are rolled up, to show what that costs beside the size of the table. Server CPU is told too, because it does not
depend on what else the machine does.
"""

from __future__ import annotations

from append_only import ID_AT, cpu, drop, make, parser, servers, table, timed, value

NEW = 1_000_000
TIMES = 20
RAW = """SELECT operation, count(*), avg(duration_ms), min(duration_ms), max(duration_ms), percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms),
                count(*) FILTER (WHERE success), count(*) FILTER (WHERE NOT success), count(*) FILTER (WHERE success) * 100.0 / count(*)
         FROM performance_logs
         WHERE id >= pgvigil.uuid_v7_floor(now() - interval '24 hours') AND created_at >= now() - interval '24 hours' GROUP BY operation"""
WORST = f"""SELECT max(abs(v.p95_duration_ms - r.percentile_cont) / r.percentile_cont) * 100 FROM performance_monitoring_view v JOIN ({RAW}) r USING (operation)"""


def fill(rows: int, since: str, until: str) -> str:
    return f"""INSERT INTO performance_logs (id, operation, duration_ms, success, created_at)
               SELECT {ID_AT.format("t")}, 'operation-' || n % 50, (exp(random() * 9))::integer, n % 17 > 0, t
               FROM (SELECT n, now() - interval '{since}' + n * ((interval '{since}' - interval '{until}') / {rows}) AS t
                     FROM generate_series(1, {rows}) n) at"""


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    options = arguments.parse_args()
    with servers(options) as wanted:
        for server in wanted:
            found = []
            views = []
            for rows in options.rows:
                with make(server, "ours") as conn:
                    conn.execute(
                        "SELECT pgvigil.ensure_partitions('performance_logs', now() - interval '2 days', now())"
                    )
                    conn.execute(fill(rows, "24 hours", "20 minutes").encode())
                    conn.execute("VACUUM ANALYZE performance_logs")
                    conn.execute("CALL pgvigil.run_job('rollup')")
                    # The new rows will have ids of these minutes, in which nothing has come so far.
                    conn.execute(
                        "UPDATE pgvigil.rollup_progress SET next_id = pgvigil.uuid_v7_floor(now() - interval '19 minutes')"
                    )
                    conn.execute("VACUUM ANALYZE pgvigil.performance_rollups")
                    view, raw, view_cpu, raw_cpu = [], [], 0.0, 0.0
                    for _ in range(3):
                        before = cpu(conn)
                        view += [
                            timed(lambda conn=conn: conn.execute("SELECT * FROM performance_monitoring_view"))
                            for _ in range(TIMES)
                        ]  # type: ignore[misc]
                        between = cpu(conn)
                        raw.append(timed(lambda conn=conn: conn.execute(RAW.encode())))  # type: ignore[misc]
                        view_cpu, raw_cpu = (
                            view_cpu + (between - before) / TIMES / 3,
                            raw_cpu + (cpu(conn) - between) / 3,
                        )
                    worst = value(conn, WORST)
                    conn.execute(fill(NEW, "15 minutes", "5 seconds").encode())
                    conn.execute("ANALYZE performance_logs")
                    before = cpu(conn)
                    took = timed(lambda conn=conn: conn.execute("CALL pgvigil.run_job('rollup')"))  # type: ignore[misc]
                    used = cpu(conn) - before
                    views.append(view_cpu)
                    found.append(
                        [
                            f"{rows:,}",
                            f"{min(view) * 1000:.0f} ({view_cpu * 1000:.0f})",
                            f"{min(raw) * 1000:,.0f} ({raw_cpu * 1000:,.0f})",
                            f"{min(raw) / min(view):,.0f} : 1 ({raw_cpu / view_cpu:,.0f} : 1)",
                            f"{worst:.2f}",
                            f"{took:.1f} ({used:.1f})",
                        ]
                    )
                drop(server, "ours")
            head = [
                "rows in 24 h",
                "view ms",
                "raw ms",
                "raw : view",
                "p95 off by %, worst",
                f"rollup of {NEW:,} new rows, s (CPU)",
            ]
            print(table(f"performance_monitoring_view, PostgreSQL {server.major}", head, found))
            print(
                f"\nview, {options.rows[-1]:,} rows : {options.rows[0]:,} rows = {views[-1] / views[0]:.2f} : 1",
                flush=True,
            )


if __name__ == "__main__":
    main()
