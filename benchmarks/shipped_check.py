"""The wait of a superuser before a command calls functions of ours that another role owns: the check that they are as
shipped.

    scripts/bootstrap.sh test benchmarks/shipped_check.py [--bindir DIR …] [--rounds 20]

In a process that has made the check before, and in fresh ones, whose first check reads the migration files too. Prints
the least and the median of the milliseconds by the clock, and those of CPU, the server's included.
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
from append_only import ROOT, parser, servers, table

from pgvigil.shipped import require_shipped

OWNER = "plain_owner"


def server_cpu(conn: psycopg.Connection[Any]) -> float:
    return int(Path(f"/proc/{conn.info.backend_pid}/schedstat").read_text().split()[0]) / 1e9


def once(conn: psycopg.Connection[Any]) -> tuple[float, float]:
    """Return the milliseconds by the clock, and of CPU."""
    began, own, others = time.perf_counter(), time.process_time(), server_cpu(conn)
    require_shipped(conn)
    took = time.perf_counter() - began
    return took * 1000, (time.process_time() - own + server_cpu(conn) - others) * 1000


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--fresh", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.fresh:
        with psycopg.connect(options.fresh, autocommit=True) as conn:
            print(*once(conn))
        return
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with servers(options) as wanted:
        for server in wanted:
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                conn.execute(f"CREATE ROLE {OWNER} LOGIN")
                conn.execute(f"CREATE DATABASE shipped OWNER {OWNER}")
            url = server.dsn("shipped")
            code = "import sys; from pgvigil.cli import main; sys.exit(main(['setup', '--database-url', sys.argv[1]]))"
            owned = url.replace("postgres@", f"{OWNER}@")
            subprocess.run([sys.executable, "-P", "-c", code, owned], check=True, capture_output=True, env=environment)
            again = [sys.executable, __file__, "--fresh", url]
            fresh, warm = [], []
            with psycopg.connect(url, autocommit=True) as conn:
                once(conn)
                for _ in range(options.rounds):
                    done = subprocess.run(again, check=True, capture_output=True, text=True, env=environment)
                    fresh.append(tuple(float(word) for word in done.stdout.split()))
                    warm.append(once(conn))
            rows = [
                [f"{name}, {of}", *(f"{value(run[n] for run in runs):,.1f}" for n in (0, 1))]
                for name, runs in (("fresh process", fresh), ("once more", warm))
                for of, value in (("least", min), ("median", statistics.median))
            ]
            print(table(f"require_shipped, PostgreSQL {server.major}", ["", "ms", "ms of CPU"], rows), flush=True)


if __name__ == "__main__":
    main()
