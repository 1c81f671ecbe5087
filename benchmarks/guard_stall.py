"""Three readers behind a reader that stays, while another tool's migration waits for the table: alone, and guarded.

    MIGRATORS_BIN=…/bin scripts/bootstrap.sh test benchmarks/guard_stall.py [--seconds 4] [--tools dbmate,alembic,django]

The tools are those of requirements/migrators.txt. Each adds a column to a table of 100,000 rows on a throw-away server, on which a
transaction has read that table and stays for `--seconds` after the tool has begun to wait. Prints the longest SELECT of the
three other readers in milliseconds, and how many tries guard needed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from helpers.migrators import MIGRATORS, Migrator, place_of_tools, url_for, write_projects  # noqa: E402
from pgvigil import embedded  # noqa: E402

WAITING = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"


class Readers:
    """Three sessions that read a row of orders again and again; the longest of their statements, in milliseconds."""

    def __init__(self, url: str) -> None:
        self.longest = 0.0
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read, daemon=True) for _ in range(3)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as conn:
            while not self._stop.wait(0.01):
                clock = time.monotonic()
                conn.execute("SELECT state FROM orders WHERE id = 5")
                self.longest = max(self.longest, (time.monotonic() - clock) * 1000)


def measure(
    server: embedded.Server, tool: Migrator, place: Path, directory: Path, seconds: float, guarded: bool
) -> tuple[float, str]:
    name = f"{tool.name}_{'guarded' if guarded else 'alone'}"
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}".encode())
    url = url_for(server.tcp_dsn(name))
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE TABLE orders (id int PRIMARY KEY, state text)")
        conn.execute("INSERT INTO orders SELECT n, 'new' FROM generate_series(1, 100000) n")
    words = ["sh", "-c", tool.command.format(bin=place)]
    if guarded:
        own = [
            sys.executable,
            "-P",
            "-m",
            "pgvigil",
            "guard",
            "--json",
            "--backup",
            "none",
            "--retry",
            "--database-url",
            url,
        ]
        words = [*own, "--", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DATABASE_URL": url}
    with psycopg.connect(url) as stays, psycopg.connect(url, autocommit=True) as look:
        stays.execute("SELECT count(*) FROM orders")
        with Readers(url) as readers:
            process = subprocess.Popen(
                words, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            deadline = time.monotonic() + 60
            while not look.execute(WAITING).fetchone() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(seconds)
            stays.rollback()
            out, errors = process.communicate()
    if process.returncode:
        return readers.longest, f"FAILED: {errors.strip().splitlines()[-1] if errors.strip() else out[-200:]}"
    return readers.longest, f"{json.loads(out)['tries']} tries" if guarded else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--tools", default="dbmate,alembic,django")
    arguments = parser.parse_args()
    place = place_of_tools()
    if place is None:
        parser.error("install requirements/migrators.txt into a virtual environment, and set MIGRATORS_BIN to its bin")
    with embedded.Server(embedded.binaries(), tcp=True) as server, tempfile.TemporaryDirectory() as directory:
        write_projects(Path(directory))
        print(f"longest SELECT of three readers, ms; a reader stays {arguments.seconds:g} s; PostgreSQL {server.major}")
        print(f"{'':12}{'alone':>10}{'guarded':>10}")
        for tool in MIGRATORS:
            if tool.name in arguments.tools.split(","):
                alone, said = measure(server, tool, place, Path(directory), arguments.seconds, guarded=False)
                guarded, tries = measure(server, tool, place, Path(directory), arguments.seconds, guarded=True)
                print(f"{tool.name:12}{alone:10.0f}{guarded:10.0f}  {said} {tries}", flush=True)


if __name__ == "__main__":
    main()
