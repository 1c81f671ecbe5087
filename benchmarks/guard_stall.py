"""The wait of three readers behind a reader that stays, while a migration waits for the table: other tools alone, guarded, and our own runner.

    MIGRATORS_BIN=…/bin scripts/bootstrap.sh test benchmarks/guard_stall.py [--seconds 4] [--rounds 1] [--tools dbmate,alembic,django]

The tools are those of requirements/migrators.txt. Each adds a column to a table of 100,000 rows on a throw-away server, on which a
transaction has read that table and stays for `--seconds` after the tool has begun to wait. `ours` is `pgvigil migrate --project`
on dbmate's directory. Prints the longest SELECT of the three other readers in milliseconds, the worst of all rounds, and how many
tries guard needed.
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
    """A group of three sessions that read a row of orders again and again; the longest of their statements, in
    milliseconds.
    """

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


def measure(server: embedded.Server, name: str, words: list[str], directory: Path, seconds: float) -> tuple[float, str]:
    """The longest SELECT in milliseconds, and what the command printed. `{url}` in its words is the database's address."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}".encode())
    url = url_for(server.tcp_dsn(name))
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE TABLE orders (id int PRIMARY KEY, state text)")
        conn.execute("INSERT INTO orders SELECT n, 'new' FROM generate_series(1, 100000) n")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DATABASE_URL": url}
    words = [url if word == "{url}" else word for word in words]
    with psycopg.connect(url) as stays, psycopg.connect(url, autocommit=True) as look, Readers(url) as readers:
        stays.execute("SELECT count(*) FROM orders")
        process = subprocess.Popen(
            words, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        began = time.monotonic()
        while not look.execute(WAITING).fetchone() and process.poll() is None:
            if time.monotonic() - began > 2:  # pgvigil does not begin behind a transaction that is old
                stays.rollback()
                stays.execute("SELECT count(*) FROM orders")
                began = time.monotonic()
            time.sleep(0.005)
        time.sleep(seconds)
        stays.rollback()
        out, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}:\n{errors}{out}")
    return readers.longest, out


def ways(tool: Migrator, place: Path) -> dict[str, list[str]]:
    """The commands that bring the tool's migration in."""
    alone = ["sh", "-c", tool.command.format(bin=place)]
    pgvigil = [sys.executable, "-P", "-m", "pgvigil"]
    found = {
        "alone": alone,
        "guarded": [
            *pgvigil,
            "guard",
            "--json",
            "--backup",
            "none",
            "--retry",
            "--database-url",
            "{url}",
            "--",
            *alone,
        ],
    }
    if tool.name == "dbmate":
        found["ours"] = [*pgvigil, "migrate", "--project", ".", "--json", "--backup", "none", "--database-url", "{url}"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tools", default="dbmate,alembic,django")
    arguments = parser.parse_args()
    place, bindir = place_of_tools(), embedded.binaries()
    if place is None or bindir is None:
        parser.error("install requirements/migrators.txt into a virtual environment, and set MIGRATORS_BIN to its bin")
    with embedded.Server(bindir, tcp=True) as server, tempfile.TemporaryDirectory() as directory:
        write_projects(Path(directory))
        (Path(directory) / "pgvigil.toml").write_text('layout = "dbmate"\nmigrations = "dbmate"\n')
        print(f"longest SELECT of three readers, ms; a reader stays {arguments.seconds:g} s; PostgreSQL {server.major}")
        print(f"{'':12}{'alone':>10}{'guarded':>10}{'ours':>10}")
        for tool in MIGRATORS:
            if tool.name not in arguments.tools.split(","):
                continue
            worst: dict[str, float] = {}
            tries = []
            for number in range(arguments.rounds):
                for way, words in ways(tool, place).items():
                    longest, out = measure(
                        server, f"{tool.name}_{way}_{number}", words, Path(directory), arguments.seconds
                    )
                    worst[way] = max(worst.get(way, 0.0), longest)
                    tries += [str(json.loads(out)["tries"])] if way == "guarded" else []
            told = "".join(
                f"{worst[way]:10.0f}" if way in worst else f"{'-':>10}" for way in ("alone", "guarded", "ours")
            )
            print(f"{tool.name:12}{told}  guarded in {', '.join(tries)} tries", flush=True)


if __name__ == "__main__":
    main()
