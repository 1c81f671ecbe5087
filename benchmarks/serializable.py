"""The share of transactions that fail at SERIALIZABLE: the application's own schema against the migrated one, in turns,
in one run.

    python benchmarks/serializable.py [URL of a server] [--clients 4] [--seconds 5] [--rounds 3] [--sessions 200]

Each transaction is one of four, in turn: a new session with its first context row, two heartbeats, a change of status,
a context row. Clients work on sessions at random, so some conflicts are real; the plain schema has those too. Any
failure with SQLSTATE 40001 counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
import time
import uuid
from pathlib import Path

import psycopg

from pgvigil import cli, embedded, project
from pgvigil.embedded import Server

PLAIN = project.MIGRATIONS / "000_session_application.sql"
NEW = "INSERT INTO sessions (session_key, agent_from) VALUES (%s, 'a') RETURNING id"
CONTEXT = (
    "INSERT INTO context_history (session_id, sequence_number, context_type, content) VALUES (%s, %s, 'message', 'x')"
)
BEAT = "UPDATE sessions SET metadata = '{}' WHERE id = %s"
STATUS = "UPDATE sessions SET status = CASE status WHEN 'active' THEN 'pending' ELSE 'active' END WHERE id = %s"


def work(url: str, seed: int, seconds: float, results: multiprocessing.Queue[tuple[int, int]]) -> None:
    """Run one client. Return the numbers of its transactions and of those that failed."""
    chance = random.Random(seed)  # noqa: S311
    tried = failed = 0
    with psycopg.connect(url) as conn:
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        ids = [row[0] for row in conn.execute("SELECT id FROM sessions ORDER BY id LIMIT 1000")]
        conn.commit()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            kind, tried = tried % 4, tried + 1
            mine = chance.sample(ids, 2)
            try:
                if kind == 0:
                    row = conn.execute(NEW, (str(uuid.uuid4()),)).fetchone()
                    conn.execute(CONTEXT, (row and row[0], 1))
                elif kind == 1:
                    for one in sorted(mine):
                        conn.execute(BEAT, (one,))
                elif kind == 2:
                    conn.execute(STATUS, (mine[0],))
                else:
                    conn.execute(CONTEXT, (mine[0], (seed << 20) + tried))
                conn.commit()
            except psycopg.errors.SerializationFailure:
                conn.rollback()
                failed += 1
            except psycopg.Error as error:  # anything else is a fault of this script, and no client may go missing
                results.put((0, 0))
                raise SystemExit(f"{error}") from error
    results.put((tried, failed))


def share(url: str, clients: int, seconds: float, first: int) -> tuple[float, int]:
    """Return the failures in a hundred, and the number of transactions.

    Clients are numbered from `first` on, so that no round repeats another.
    """
    results: multiprocessing.Queue[tuple[int, int]] = multiprocessing.Queue()
    each = [multiprocessing.Process(target=work, args=(url, first + n, seconds, results)) for n in range(clients)]
    for process in each:
        process.start()
    counts = [results.get() for _ in each]
    for process in each:
        process.join()
    tried, failed = (sum(column) for column in zip(*counts, strict=True))
    if any(process.exitcode for process in each):
        sys.exit("a client failed: its words are above")
    return 100 * failed / tried, tried


def make(url: str) -> dict[str, str]:
    """The two databases."""
    urls = {}
    for arm in ("plain", "migrated"):
        with psycopg.connect(url, autocommit=True) as conn:
            name = f"serializable_{arm}_{uuid.uuid4().hex[:6]}"
            conn.execute(f"CREATE DATABASE {name}".encode())
        urls[arm] = psycopg.conninfo.make_conninfo(url, dbname=name)
        if arm == "migrated" and cli.main(["setup", "--database-url", urls[arm]]):
            sys.exit("setup failed: its words are above")
        with psycopg.connect(urls[arm], autocommit=True) as conn:
            if arm == "plain":
                conn.execute(PLAIN.read_bytes())
    return urls


def fill(url: str, sessions: int) -> None:
    """Insert so many sessions. The size of the tables decides how they are read, and so what conflicts."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("TRUNCATE sessions CASCADE")
        rows = "INSERT INTO sessions (session_key, agent_from) SELECT 'k' || i, 'a' FROM generate_series(1, %s) i"
        conn.execute(rows, (sessions,))
        conn.execute("ANALYZE")


def measure(url: str, arguments: argparse.Namespace) -> None:
    """Print both shares."""
    urls = make(url)
    if arguments.change:
        with psycopg.connect(urls["migrated"], autocommit=True) as conn:
            conn.execute(arguments.change.read_bytes())
    found: dict[str, list[tuple[float, int]]] = {arm: [] for arm in urls}
    try:
        for turn in range(arguments.rounds):
            for arm, where in urls.items():
                fill(where, arguments.sessions)
                found[arm].append(share(where, arguments.clients, arguments.seconds, 1 + turn * arguments.clients))
        for arm, rounds in found.items():
            shares = [each for each, _ in rounds]
            print(
                f"{arm:<10}{statistics.median(shares):5.1f} % of {sum(tried for _, tried in rounds):,} transactions failed"
                f" with 40001 (from {min(shares):.1f} to {max(shares):.1f} % in {len(rounds)} rounds)"
            )
    finally:
        with psycopg.connect(url, autocommit=True) as conn:
            for where in urls.values():
                name = psycopg.conninfo.conninfo_to_dict(where)["dbname"]
                conn.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def main() -> None:
    """Read the call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", help="a server where databases may be made; without it, an embedded one")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--change", type=Path, help="SQL to run on the migrated schema first: what would it help?")
    arguments = parser.parse_args()
    if arguments.url:
        measure(arguments.url, arguments)
        return
    bindir = embedded.binaries()
    if bindir is None:
        sys.exit("no embedded PostgreSQL here: pip install 'pgvigil[embedded]', or give a URL")
    with Server(bindir) as server:
        measure(server.dsn(), arguments)


if __name__ == "__main__":
    main()
