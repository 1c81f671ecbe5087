"""The parts that ingest.py, retention.py and rollup.py share: three designs of performance_logs on one throw-away
server.

ours      what `pgvigil setup` makes
obvious   what most people would write from the same list of columns and indexes: random ids, a foreign key, b-trees
bare      the columns, and nothing else
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from pgvigil import cli, embedded  # noqa: E402

SESSIONS = 20_000
_COLUMNS = """id uuid NOT NULL DEFAULT gen_random_uuid(), operation varchar(100) NOT NULL, duration_ms integer NOT NULL, success boolean NOT NULL,
              session_id uuid, metadata jsonb NOT NULL DEFAULT '{}', created_at timestamptz NOT NULL DEFAULT now()"""
_SESSION_ROWS = (
    f"""INSERT INTO sessions (session_key, agent_from) SELECT 's' || n, 'agent' FROM generate_series(1, {SESSIONS}) n"""
)
_PLAIN = {
    "obvious": f"""
        CREATE TABLE sessions (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), session_key text, agent_from text);
        CREATE TABLE performance_logs ({_COLUMNS}, PRIMARY KEY (id), FOREIGN KEY (session_id) REFERENCES sessions (id), CHECK (duration_ms >= 0));
        CREATE INDEX ON performance_logs (operation);
        CREATE INDEX ON performance_logs (operation, created_at);
        CREATE INDEX ON performance_logs (session_id);
        CREATE INDEX ON performance_logs (created_at);""",
    "bare": f"""
        CREATE TABLE sessions (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), session_key text, agent_from text);
        CREATE TABLE performance_logs ({_COLUMNS});""",
}
DESIGNS = ("ours", *_PLAIN)
# An id of a time, for rows that a benchmark puts into the past; random in its last 12 digits.
ID_AT = "overlay(pgvigil.uuid_v7_floor({0})::text PLACING substr(gen_random_uuid()::text, 25) FROM 25)::uuid"


def parser(text: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--bindir",
        type=Path,
        action="append",
        help="PostgreSQL to use instead of the embedded one; may be given more than once",
    )
    return made


@contextlib.contextmanager
def servers(arguments: argparse.Namespace) -> Iterator[Iterator[embedded.Server]]:
    """Start each chosen PostgreSQL in turn, with settings of a small production server (and fsync off)."""
    settings = {
        "shared_buffers": "512MB",
        "max_wal_size": "8GB",
        "checkpoint_timeout": "30min",
        "work_mem": "16MB",
        "autovacuum_naptime": "10s",
    }

    def each() -> Iterator[embedded.Server]:
        for bindir in arguments.bindir or [embedded.binaries()]:
            with embedded.Server(bindir, settings=settings) as server:
                yield server

    yield each()


def make(server: embedded.Server, design: str, name: str = "") -> psycopg.Connection[Any]:
    """A connection to a new database of that design, named like it if not otherwise, with sessions in it."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name or design}")
    url = server.dsn(name or design)
    if design == "ours":
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            if cli.main(["setup", "--database-url", url]):
                raise SystemExit("pgvigil setup failed")
    conn = psycopg.connect(url, autocommit=True)
    if design in _PLAIN:
        conn.execute(_PLAIN[design].encode())
    conn.execute(_SESSION_ROWS.encode())
    return conn


def value(conn: psycopg.Connection[Any], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    return row[0] if row else None


def timed(work: Callable[[], object]) -> float:
    """Return the seconds by the clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cpu(conn: psycopg.Connection[Any]) -> float:
    """Return the seconds of CPU that the connection's server process has used: says more than the clock on a machine
    with others.
    """
    fields = Path(f"/proc/{conn.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wal(conn: psycopg.Connection[Any]) -> int:
    """Return the bytes of WAL that the server has written so far."""
    return int(value(conn, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"))


def spread(ratios: Iterable[float], digits: int = 2) -> str:
    """Median, least and greatest of the ratios of each round."""
    each = list(ratios)
    return f"{statistics.median(each):,.{digits}f} ({min(each):,.{digits}f} to {max(each):,.{digits}f})"


def table(title: str, head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    return "\n".join(["", f"**{title}**", "", *lines])
