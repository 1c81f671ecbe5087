"""session_monitoring_view over many sessions: ours, with kept counters, against correlated subqueries over the rows.

    scripts/bootstrap.sh test benchmarks/views.py [--bindir DIR …] [--sessions 1000000] [--contexts 10] [--rounds 5]

Both views stand in one database and have the same columns. In each round every query goes to one view right after the other.
Prints the median milliseconds, and the ratio as the median of each round's ratio with the least and the greatest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
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
    INSERT INTO pgvigil.session_counters
    SELECT session_id, count(*), sum(tokens_used), sum(octet_length(content)) FROM context_history GROUP BY session_id;
"""
CORRELATED = """
    CREATE VIEW correlated AS
    SELECT s.id, s.session_key, s.agent_from, s.agent_to, s.status, s.created_at, s.updated_at,
           coalesce(s.last_activity_at, s.updated_at, s.created_at) AS last_activity_at,
           s.is_dormant, s.archived_at, s.retention_policy, s.expires_at,
           extract(epoch FROM now() - coalesce(s.last_activity_at, s.updated_at, s.created_at)) / 3600 AS hours_since_activity,
           (SELECT count(*) FROM context_history c WHERE c.session_id = s.id) AS context_entries,
           (SELECT count(*) FROM handoff_requests h WHERE h.session_id = s.id) AS handoff_requests,
           (SELECT l.event_type FROM session_lifecycle l WHERE l.session_id = s.id ORDER BY l.id DESC LIMIT 1) AS last_lifecycle_event
    FROM sessions s
"""
IDLE = "FROM {view} WHERE hours_since_activity > 24 AND is_dormant = false"
QUERIES = {
    "one session": "SELECT * FROM {view} WHERE session_key = '4711'",
    "idle and not dormant, LIMIT 100": f"SELECT * {IDLE} LIMIT 100",
    "the longest idle 100": f"SELECT * {IDLE} ORDER BY last_activity_at LIMIT 100",
    "the same, counted": f"SELECT count(*) {IDLE}",
    "the same, entries added up": f"SELECT count(*), sum(context_entries) {IDLE}",
}
VIEWS = ("session_monitoring_view", "correlated")


def milliseconds(conn: psycopg.Connection[Any], query: str) -> float:
    began = time.perf_counter()
    conn.execute(query.encode()).fetchall()
    return (time.perf_counter() - began) * 1000


def measure(dsn: str, rounds: int) -> str:
    lines = ["| query | session_monitoring_view ms | correlated subqueries ms | times faster |", "|---|---|---|---|"]
    with psycopg.connect(dsn, autocommit=True) as conn:
        for name, query in QUERIES.items():
            for view in VIEWS:
                conn.execute(query.format(view=view).encode())  # into the cache
            runs = [[milliseconds(conn, query.format(view=view)) for view in VIEWS] for _ in range(rounds)]
            ours, theirs = (statistics.median(run[n] for run in runs) for n in (0, 1))
            times = [run[1] / run[0] for run in runs]
            lines.append(f"| {name} | {ours:,.2f} | {theirs:,.2f} | {spread(times, 1)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bindir", type=Path, nargs="+", default=[embedded.binaries()], help="PostgreSQL (the embedded)"
    )
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--contexts", type=int, default=10, help="context rows of each session")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    settings = {"shared_buffers": "1GB", "max_wal_size": "16GB", "checkpoint_timeout": "1h", "jit": "off"}
    for bindir in arguments.bindir:
        with embedded.Server(bindir, settings=settings) as server:
            setup = [sys.executable, "-P", "-m", "pgvigil", "setup", "--database-url", server.dsn("views")]
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                conn.execute("CREATE DATABASE views")
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
            subprocess.run(setup, check=True, capture_output=True, env=environment)
            with psycopg.connect(server.dsn("views"), autocommit=True) as conn:
                conn.execute((FILL % {"sessions": arguments.sessions, "contexts": arguments.contexts}).encode())
                conn.execute(CORRELATED)
                conn.execute("VACUUM ANALYZE")
            head = f"PostgreSQL {server.major}, {arguments.sessions:,} sessions with {arguments.contexts} context rows each"
            print(f"\n### {head}\n\n{measure(server.dsn('views'), arguments.rounds)}", flush=True)


if __name__ == "__main__":
    main()
