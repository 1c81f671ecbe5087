"""A project's file without a transaction, killed (-9) at random moments and run again: each step once, the index valid, the ledger right.

    scripts/bootstrap.sh test benchmarks/project_kills.py [--times 20] [--rows 300000]

The file inserts a row, builds an index CONCURRENTLY, and inserts another row. Every killed run is followed by one that ends. Prints
how many runs were killed while which statement was next, and the first database that is not as it should be.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from pgvigil import embedded  # noqa: E402

FILE = """-- migrate:up transaction:false
INSERT INTO marks VALUES (1);
CREATE INDEX CONCURRENTLY i ON t (a, b);
INSERT INTO marks VALUES (2);
-- migrate:down
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--rows", type=int, default=300_000)
    given = parser.parse_args()
    bindir = embedded.binaries()
    if bindir is None:
        sys.exit("pip install 'pgvigil[embedded]'")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    stopped: Counter[str] = Counter()
    with embedded.Server(bindir, in_memory=True) as server, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "migrations").mkdir()
        (Path(folder) / "migrations" / "1_x.sql").write_text(FILE)
        (Path(folder) / "pgvigil.toml").write_text('layout = "dbmate"\ndrift = "off"\n')
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE DATABASE grown")
        with psycopg.connect(server.dsn("grown"), autocommit=True) as conn:
            conn.execute("CREATE TABLE marks (n int); CREATE TABLE t (a int, b text)")
            conn.execute(f"INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, {given.rows}) n".encode())
        whole = 0.0
        for number in range(given.times + 1):
            database = f"copy_{number}"
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                conn.execute(f"CREATE DATABASE {database} TEMPLATE grown".encode())
            command = [sys.executable, "-P", "-m", "pgvigil", "migrate", "--project", folder, "--backup", "none", "--database-url", server.dsn(database)]  # fmt: skip
            run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            began = wait_for_the_lock(server.dsn(database), run)
            if not number:  # the first one says how long a run takes that has the run lock
                run.wait()
                whole = time.monotonic() - began
            else:
                time.sleep(random.uniform(0, whole))  # noqa: S311
                run.kill()
                run.wait()
                with psycopg.connect(server.dsn(database), autocommit=True) as conn:
                    stopped[at(conn)] += 1
                again = subprocess.run(
                    [*command, "--lock-wait", "60"], env=environment, capture_output=True, text=True, check=False
                )
                if again.returncode:
                    sys.exit(f"{database}: the second run ended with {again.returncode}:\n{again.stderr}")
            with psycopg.connect(server.dsn(database), autocommit=True) as conn:
                found = conn.execute(
                    """SELECT ARRAY(SELECT n FROM marks ORDER BY 1), (SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('i')),
                              (SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass), ARRAY(SELECT version FROM schema_migrations),
                              ARRAY(SELECT finished FROM pgvigil_project.migrations)"""
                ).fetchone()
            if found != ([1, 2], True, 1, ["1"], [True]):
                sys.exit(f"{database}: {found}")
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                conn.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())
    print(
        f"{given.times} runs were killed, and the next one completed each: every step once, index valid, ledger right"
    )
    for where, times in sorted(stopped.items()):
        print(f"  {times:3} {where}")


def wait_for_the_lock(url: str, run: subprocess.Popen[bytes]) -> float:
    """Wait until a run may begin. Return when that was."""
    with psycopg.connect(url, autocommit=True) as conn:
        while (
            run.poll() is None
            and not conn.execute(
                "SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).rowcount
        ):
            time.sleep(0.002)
    return time.monotonic()


def at(conn: psycopg.Connection) -> str:
    """Return the place where a run was killed."""
    if conn.execute("SELECT to_regclass('pgvigil_project.migrations')").fetchone() == (None,):
        return "before the first step"
    row = conn.execute("SELECT finished, steps, begun FROM pgvigil_project.migrations").fetchone()
    if row is None:
        return "before the first step"
    finished, steps, begun = row
    return "after the end" if finished else f"after {steps} of 3 statements" + ", in the next one" * begun


if __name__ == "__main__":
    main()
