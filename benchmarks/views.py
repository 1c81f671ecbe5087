"""The monitoring views beside those that anyone would write: plain columns, correlated subqueries, percentile_cont.

    scripts/bootstrap.sh test benchmarks/views.py [--bindir DIR …] [--sessions 100000 1000000] [--contexts 10] [--logs 1000000] [--rounds 5]

All views of a kind are in one database and have the same columns. Each query goes to one view right after the other, in each round:
before any job has run, right after the jobs, and after an hour of writes since (one session in twenty gets a context row, and one
log in twenty-four is new). Statements are prepared, as drivers do it: after the hour, their plans are from before it. Prints the
median milliseconds of the server's CPU, which say more than the clock on a machine with others, and the ratio as the median of each
round's ratio with the least and the greatest: ours divided by the naive view, so 1.0 is as fast and 0.1 is ten times as fast. Stops
where the plan of a page of sessions reads or sorts all of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from append_only import spread  # noqa: E402

from pgvigil import embedded  # noqa: E402

# Past the triggers, which would take longer than all the rest; their work is done in bulk.
FILL = """
    SET session_replication_role = replica;
    SET maintenance_work_mem = '256MB';
    INSERT INTO sessions (session_key, agent_from, status, created_at, updated_at, last_activity_at, is_dormant)
    SELECT n, 'agent-a', CASE WHEN n %% 3 = 0 THEN 'completed' ELSE 'active' END, now() - interval '31 days',
           now() - n %% 720 * interval '1 hour', now() - n %% 720 * interval '1 hour', n %% 720 > 48 AND n %% 5 > 0
    FROM generate_series(1, %(sessions)s) n;
    INSERT INTO session_lifecycle (session_id, event_type) SELECT id, 'created' FROM sessions;
    INSERT INTO handoff_requests (session_id, requesting_agent) SELECT id, 'agent-a' FROM sessions WHERE session_key::integer %% 2 = 0;
    INSERT INTO context_history (session_id, sequence_number, context_type, content, tokens_used)
    SELECT id, n, 'message', 'some words of context that somebody said', n FROM generate_series(1, %(contexts)s) n, sessions;
    ALTER TABLE pgvigil.session_counter_changes DROP CONSTRAINT session_counter_changes_pkey;  -- an index is quicker made at the end
    INSERT INTO pgvigil.session_counter_changes (session_id, context_count, total_tokens, total_content_bytes)
    SELECT session_id, 1, tokens_used, octet_length(content) FROM context_history;
    ALTER TABLE pgvigil.session_counter_changes ADD CONSTRAINT session_counter_changes_pkey PRIMARY KEY (session_id, change_id);
    INSERT INTO performance_logs (operation, duration_ms, success)
    SELECT 'operation-' || n %% 20, exp(random() * 3 + random() * 3 + 1)::integer, n %% 50 > 0 FROM generate_series(1, %(logs)s) n;
"""
NAIVE = """
    CREATE VIEW naive_sessions AS
    SELECT s.id, s.session_key, s.agent_from, s.agent_to, s.status, s.created_at, s.updated_at, s.last_activity_at,
           s.is_dormant, s.archived_at, s.retention_policy, s.expires_at,
           extract(epoch FROM now() - s.last_activity_at) / 3600 AS hours_since_activity,
           (SELECT count(*) FROM context_history c WHERE c.session_id = s.id) AS context_entries,
           (SELECT count(*) FROM handoff_requests h WHERE h.session_id = s.id) AS handoff_requests,
           (SELECT l.event_type FROM session_lifecycle l WHERE l.session_id = s.id ORDER BY l.id DESC LIMIT 1) AS last_lifecycle_event
    FROM sessions s;
    CREATE VIEW naive_content AS
    SELECT s.id AS session_id, (SELECT count(*) FROM context_history c WHERE c.session_id = s.id) AS context_count,
           (SELECT coalesce(sum(c.tokens_used), 0) FROM context_history c WHERE c.session_id = s.id) AS total_tokens,
           (SELECT coalesce(sum(octet_length(c.content)), 0) FROM context_history c WHERE c.session_id = s.id) AS total_content_bytes
    FROM sessions s;
    CREATE VIEW naive_performance AS
    SELECT operation, count(*) AS total_calls, avg(duration_ms) AS avg_duration_ms, min(duration_ms) AS min_duration_ms,
           max(duration_ms) AS max_duration_ms, percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_duration_ms,
           count(*) FILTER (WHERE success) AS successful_calls, count(*) FILTER (WHERE NOT success) AS failed_calls,
           count(*) FILTER (WHERE success) * 100.0 / count(*) AS success_rate_percent
    FROM performance_logs WHERE created_at > now() - interval '24 hours' GROUP BY operation;
"""
# The sums make the server compute every column of a view that is read whole, and keep the network out of it.
WHOLE = "SELECT count(id), sum(hours_since_activity), sum(context_entries), sum(handoff_requests), max(last_lifecycle_event) FROM {view}"
SESSIONS, CONTENT, PERFORMANCE = (
    ("session_monitoring_view", "naive_sessions"),
    ("session_content_view", "naive_content"),
    ("performance_monitoring_view", "naive_performance"),
)
QUERIES = {
    "newest 50": (SESSIONS, "SELECT * FROM {view} ORDER BY last_activity_at DESC LIMIT 50"),
    "longest idle 50": (SESSIONS, "SELECT * FROM {view} ORDER BY last_activity_at LIMIT 50"),
    "newest 50 of a status": (SESSIONS, "SELECT * FROM {view} WHERE status = 'active' ORDER BY last_activity_at DESC LIMIT 50"),
    "one session by key": (SESSIONS, "SELECT * FROM {view} WHERE session_key = '4711'"),
    "a filter that keeps 1 %": (SESSIONS, "SELECT * FROM {view} WHERE hours_since_activity > 712 AND is_dormant = false"),
    "session_monitoring_view whole": (SESSIONS, WHOLE),
    "all counters of all sessions": (
        CONTENT, "SELECT count(*), sum(context_count), sum(total_tokens), sum(total_content_bytes) FROM {view}",
    ),
    "performance view": (PERFORMANCE, "SELECT * FROM {view}"),
}  # fmt: skip
# As the jobs do it, in fewer steps; folding stops when there is nothing left.
JOBS = ("CALL pgvigil.run_job('counters', false)", "CALL pgvigil.run_job('rollup', false)", "VACUUM ANALYZE")
WRITES = (
    """INSERT INTO context_history (session_id, sequence_number, context_type, content, tokens_used)
       SELECT id, 1000, 'message', 'some words of context', 7 FROM sessions WHERE session_key::integer % 20 = 0""",
    """INSERT INTO performance_logs (operation, duration_ms, success)
       SELECT operation, duration_ms, success FROM performance_logs WHERE duration_ms % 24 = 0""",
)


PAGES = ("newest 50", "longest idle 50", "newest 50 of a status")
ENOUGH = 0.1  # seconds of CPU that a query is repeated for
LONG = 5.0  # seconds of CPU above which two rounds are enough


def used(conn: psycopg.Connection[Any]) -> float:
    """Return the seconds of CPU of the connection's server process, in nanoseconds' steps."""
    return int(Path(f"/proc/{conn.info.backend_pid}/schedstat").read_text().split()[0]) / 1e9


def cost(conn: psycopg.Connection[Any], query: str, times: int) -> float:
    began = used(conn)
    for _ in range(times):
        conn.execute(query.encode()).fetchall()
    return (used(conn) - began) / times


def require_index(conn: psycopg.Connection[Any], query: str) -> None:
    """Raise RuntimeError where all sessions are read or sorted."""
    plan = [line for (line,) in conn.execute(f"EXPLAIN {query}".encode()).fetchall()]
    top = [line.strip() for line in plan if len(line) - len(line.lstrip()) < 8 and "InitPlan" not in line]
    if any("Sort" in line or "Seq Scan on sessions" in line for line in top):
        raise RuntimeError("\n".join([query, *plan]))


def measure(conn: psycopg.Connection[Any], state: str, rounds: int, queries: Iterable[str] = QUERIES) -> str:
    lines = [f"| {state} | ours ms | naive ms | ours / naive |", "|---|---|---|---|"]
    for name in queries:
        views, query = QUERIES[name]
        asked = [query.format(view=view) for view in views]
        if name in PAGES:
            require_index(conn, asked[0])
        first = [cost(conn, each, 2) for each in asked]  # into the cache, and planned
        times = [max(1, round(ENOUGH / max(each, 1e-5))) for each in first]
        runs = [first] if sum(first) > LONG else []
        for _ in range(1 if runs else rounds):
            runs.append([cost(conn, each, often) for each, often in zip(asked, times, strict=True)])
        ours, theirs = (statistics.median(run[n] for run in runs) * 1000 for n in (0, 1))
        lines.append(f"| {name} | {ours:,.2f} | {theirs:,.2f} | {spread([run[0] / run[1] for run in runs], 3)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bindir", type=Path, nargs="+", default=[embedded.binaries()], help="PostgreSQL (the embedded)"
    )
    parser.add_argument("--sessions", type=int, nargs="+", default=[100_000, 1_000_000], help="one database each")
    parser.add_argument("--contexts", type=int, default=10, help="context rows of each session")
    parser.add_argument("--logs", type=int, default=1_000_000, help="rows of performance_logs")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    settings = {"shared_buffers": "1GB", "max_wal_size": "16GB", "checkpoint_timeout": "1h", "jit": "off"}
    for bindir in arguments.bindir:
        with embedded.Server(bindir, settings=settings) as server:
            for sessions in arguments.sessions:
                run(server, sessions, arguments)


def run(server: embedded.Server, sessions: int, arguments: argparse.Namespace) -> None:
    name = f"views_{sessions}"
    setup = [sys.executable, "-P", "-m", "pgvigil", "setup", "--database-url", server.dsn(name)]
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}".encode())
    subprocess.run(setup, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    sizes = {"sessions": sessions, "contexts": arguments.contexts, "logs": arguments.logs}
    print(
        f"\n### PostgreSQL {server.major}, {sessions:,} sessions with {arguments.contexts} context rows each, {arguments.logs:,} logs",
        flush=True,
    )
    with psycopg.connect(server.dsn(name), autocommit=True) as conn:
        conn.execute((FILL % sizes).encode())
        conn.execute("SET session_replication_role = origin")
        conn.execute(NAIVE)
        conn.execute("VACUUM ANALYZE")
        conn.prepare_threshold = 0
        for state, before in (("jobs never run", ()), ("jobs just run", JOBS), ("an hour of writes since", WRITES)):
            for statement in before:
                conn.execute(statement.encode(), prepare=False)
            print(f"\n{measure(conn, state, arguments.rounds)}", flush=True)


if __name__ == "__main__":
    main()
