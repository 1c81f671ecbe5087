"""How long readers wait while ADD COLUMN waits for a transaction that reads: each migration tool alone, and pgvigil on the same files.

    scripts/bootstrap.sh test benchmarks/project_stall.py [--dbmate PROGRAM] [--rounds 3]

On a throw-away server a transaction reads a table. A tool adds a column to the table, while three other clients read it; the
transaction stays open for 4 s from the moment that the tool waits. Prints the longest read of these three in milliseconds, the worst of all rounds, and how the tool ended.
Tools: dbmate (npm's @dbmate/linux-x64), alembic, and `pgvigil migrate --project` on dbmate's directory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from pgvigil import embedded  # noqa: E402

ADD = "ALTER TABLE customers ADD COLUMN age int"
ENV = """
from alembic import context
import sqlalchemy
engine = sqlalchemy.create_engine({url!r})
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
REVISION = 'from alembic import op\nrevision = "1"\ndown_revision = None\ndef upgrade(): op.execute("{}")\ndef downgrade(): pass\n'


OTHERS = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND application_name <> 'ours'"


def stall(url: str, command: list[str], directory: Path, environment: dict[str, str]) -> tuple[float, int]:
    """Run a tool behind a reader. Return the longest wait of the others in milliseconds, and the exit code."""
    stop = threading.Event()
    longest = [0.0, 0.0, 0.0]

    def read(number: int) -> None:
        with psycopg.connect(url, autocommit=True, application_name="ours") as conn:
            while not stop.is_set():
                began = time.monotonic()
                conn.execute("SELECT count(*) FROM customers")
                longest[number] = max(longest[number], time.monotonic() - began)
                time.sleep(0.005)

    with psycopg.connect(url, application_name="ours") as first:
        first.execute("SELECT FROM customers")
        readers = [threading.Thread(target=read, args=(number,)) for number in range(3)]
        for reader in readers:
            reader.start()
        with (
            subprocess.Popen(
                command, cwd=directory, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as tool,
            psycopg.connect(url, autocommit=True, application_name="ours") as observer,
        ):
            began = time.monotonic()
            while tool.poll() is None and not observer.execute("SELECT FROM pg_locks WHERE NOT granted").rowcount:
                # A tool that is slow to start must not find an old transaction, which pgvigil refuses to begin behind.
                if time.monotonic() - began > 2 and not observer.execute(OTHERS).rowcount:
                    first.rollback()
                    first.execute("SELECT FROM customers")
                    began = time.monotonic()
                time.sleep(0.005)
            time.sleep(4)
            first.rollback()
        time.sleep(0.2)
        stop.set()
        for reader in readers:
            reader.join()
    return max(longest) * 1000, tool.returncode


def tools(url: str, tcp: str, directory: Path, dbmate: str | None) -> dict[str, list[str]]:
    """The commands, with the files that they need in the directory."""
    (directory / "db" / "migrations").mkdir(parents=True)
    (directory / "db" / "migrations" / "20260101000001_age.sql").write_text(f"-- migrate:up\n{ADD};\n-- migrate:down\n")
    (directory / "pgvigil.toml").write_text('layout = "dbmate"\nmigrations = "db/migrations"\n')
    (directory / "versions").mkdir()
    (directory / "versions" / "1.py").write_text(REVISION.format(ADD))
    (directory / "env.py").write_text(ENV.format(url=tcp.replace("postgresql://", "postgresql+psycopg://")))
    (directory / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s\npath_separator = os\n")
    python = [sys.executable, "-P", "-m"]
    found = {
        "alembic": [*python, "alembic", "-c", "alembic.ini", "upgrade", "head"],
        "pgvigil": [*python, "pgvigil", "migrate", "--project", ".", "--backup", "none", "--database-url", url],
    }
    if dbmate:
        found["dbmate"] = [dbmate, "--url", f"{tcp}?sslmode=disable", "--no-dump-schema", "migrate"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dbmate", default=os.environ.get("DBMATE") or shutil.which("dbmate"), help="the program")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    bindir = embedded.binaries()
    if bindir is None:
        sys.exit("pip install 'pgvigil[embedded]'")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    worst: dict[str, tuple[float, int]] = {}
    with embedded.Server(bindir, tcp=True, in_memory=True) as server, tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            for name in ("dbmate", "alembic", "pgvigil"):
                database = f"{name}_{number}"
                with psycopg.connect(server.dsn(), autocommit=True) as conn:
                    conn.execute(f"CREATE DATABASE {database}".encode())
                with psycopg.connect(server.dsn(database), autocommit=True) as conn:
                    conn.execute(
                        "CREATE TABLE customers (id int); INSERT INTO customers SELECT generate_series(1, 1000)"
                    )
                place = Path(folder) / database
                place.mkdir()
                commands = tools(server.dsn(database), server.tcp_dsn(database), place, given.dbmate)
                if name in commands:
                    waited, code = stall(server.dsn(database), commands[name], place, environment)
                    worst[name] = max(worst.get(name, (0.0, 0)), (waited, code))
    print("| tool | longest read of the others, ms | exit code |\n|---|---|---|")
    for name, (waited, code) in worst.items():
        print(f"| {name} | {waited:,.0f} | {code} |")


if __name__ == "__main__":
    main()
