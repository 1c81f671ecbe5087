"""The waits while a live database is migrated: the application behind a reader, an index build behind a snapshot.

    scripts/bootstrap.sh test benchmarks/lock_queue.py [--rows 200000]

Builds the existing install on a throw-away server, grows it to `--rows` sessions, and each time migrates a copy of it:

* 8 clients at 100 statements a second together, behind a reader that sits idle in its transaction, for 5 s and for ever;
  once with `pgvigil migrate`, once with one plain ALTER TABLE, which queues and makes everybody queue behind it.
* 4 writers, while index builds wait for a snapshot that somebody holds for 4 s and for 30 s, find an INVALID index, and are
  killed (-9) with their build under way and run again.

Prints the longest statement of the application in each case, in milliseconds, how the run ended, and whether it named
the session that held the lock.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from load import READ, WRITE, Load  # noqa: E402

from pgvigil import embedded  # noqa: E402

GROW = """
    INSERT INTO sessions (session_key, agent_from, agent_to, created_at, updated_at)
    SELECT 'grown-' || n, 'agent-' || n %% 37, 'agent-' || n %% 41, timestamptz '2026-11-01', timestamptz '2026-11-01'
    FROM generate_series(6001, %(rows)s) n
"""


@contextmanager
def held(url: str, query: str, seconds: float, isolation: psycopg.IsolationLevel | None = None) -> Iterator[int]:
    """A transaction that has run `query` and then sits idle for `seconds`, or until the block ends. Yields its pid."""
    conn = psycopg.connect(url, application_name="in the way")
    conn.isolation_level = isolation
    conn.execute(query.encode())
    end = threading.Timer(seconds, conn.close)
    end.start()
    yield conn.info.backend_pid
    end.cancel()
    conn.close()


class Runs:
    """A series of migrations of copies of one grown database."""

    def __init__(self, server: embedded.Server, backups: str) -> None:
        self.server = server
        self.backups = backups
        self.number = 0

    def copy(self) -> str:
        self.number += 1
        with psycopg.connect(self.server.dsn(), autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE copy_{self.number} TEMPLATE grown".encode())
            conn.execute("CHECKPOINT")
        return self.server.dsn(f"copy_{self.number}")

    def start(self, url: str, *options: str) -> subprocess.Popen[str]:
        call = [sys.executable, "-P", "-m", "pgvigil", "migrate", "--json", "--backup-dir", self.backups]
        return subprocess.Popen(
            [*call, "--database-url", url, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def report(self, what: str, url: str, load: Load, out: str, pid: int) -> None:
        told = json.loads(out)
        waits = [*told.get("waits", ()), *told.get("statements", ())]
        named = any(blocker["pid"] == pid for wait in waits for blocker in wait["blockers"])
        how = f"exit {told['exit_code']}" + (", named" if named else "" if not pid else ", NOT NAMED")
        row(what, load, how + self.state_of_indexes(url))

    def state_of_indexes(self, url: str) -> str:
        with psycopg.connect(url) as conn:
            ((built, invalid),) = conn.execute(
                "SELECT count(*) FILTER (WHERE indisvalid), count(*) FILTER (WHERE NOT indisvalid) FROM pg_index"
                " JOIN pg_class ON pg_class.oid = indexrelid WHERE relname ~ %s",
                (INDEXES,),
            ).fetchall()
        return f"; {built} of 8 indexes, {invalid} invalid"


def ended(migration: subprocess.Popen[str]) -> str:
    """Wait for a migration, and return what it printed: read all the time, as a pipe holds 64 kB and the rest waits."""
    out, _ = migration.communicate()
    return out


def row(what: str, load: Load, how: str) -> None:
    errors = f", {len(load.errors)} ERRORS: {load.errors[0]}" if load.errors else ""
    print(f"{what:52}{load.longest * 1000:9.0f}  {how}{errors}", flush=True)


def wait_for(url: str, condition: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    with psycopg.connect(url, autocommit=True) as conn:
        while not conn.execute(condition.encode()).fetchall():
            if time.monotonic() > deadline:
                raise TimeoutError(condition)
            time.sleep(0.02)


INDEXES = "^idx_(sessions_(last_act|is_dorm|archived|retention|status_last|dormant_last)|context_history_(processing|content_size))"
BUILDING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CREATE INDEX CONCURRENTLY%' AND state = 'active'"


def behind_a_reader(runs: Runs) -> None:
    reader = "SELECT count(*) FROM sessions"

    def clients(url: str) -> Load:
        return Load(url, 8, READ + WRITE[:1], per_second=100)

    for what, seconds in (("5 s", 5), ("for ever", 600)):
        url = runs.copy()
        with held(url, reader, seconds) as pid, clients(url) as load:
            migration = runs.start(url, "--backup", "none", "--lock-budget", "20")
            out = ended(migration)
        runs.report(f"ours, behind a reader {what}", url, load, out, pid)
    url = runs.copy()
    with held(url, reader, 5), clients(url) as load, psycopg.connect(url) as conn:
        conn.execute("ALTER TABLE sessions ADD COLUMN dormant boolean")
    row("one plain ALTER TABLE, behind a reader 5 s", load, "done")


def behind_a_snapshot(runs: Runs) -> None:
    def tables_migrated() -> str:
        url = runs.copy()
        ended(runs.start(url, "--backup", "none", "--to", "013"))
        return url

    def snapshot(url: str, seconds: float) -> AbstractContextManager[int]:
        return held(url, "SELECT count(*) FROM app_users", seconds, psycopg.IsolationLevel.REPEATABLE_READ)

    def build(url: str) -> subprocess.Popen[str]:
        return runs.start(url, "--backup", "none")

    for seconds in (4, 30):
        url = tables_migrated()
        with Load(url, 4) as load, snapshot(url, seconds) as pid:
            migration = build(url)
            out = ended(migration)
        runs.report(f"ours, 4 writers, a snapshot held {seconds} s", url, load, out, pid)
    url = tables_migrated()
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE INDEX idx_sessions_last_activity_at ON sessions (last_activity_at)")
        conn.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_sessions_last_activity_at'::regclass"
        )
    with Load(url, 4) as load:
        migration = build(url)
        out = ended(migration)
    runs.report("ours, 4 writers, an INVALID index left behind", url, load, out, 0)
    url = tables_migrated()
    with Load(url, 4) as load, snapshot(url, 8):
        killed = build(url)
        wait_for(url, BUILDING)
        time.sleep(2)
        killed.kill()
        migration = build(url)  # while the orphan still builds
        out = ended(migration)
    runs.report("ours, 4 writers, killed in a build and run again", url, load, out, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument(
        "--bindir", type=Path, default=embedded.binaries(), help="a PostgreSQL to use instead of the embedded one"
    )
    arguments = parser.parse_args()
    with (
        embedded.Server(arguments.bindir, settings={"max_wal_size": "4GB"}) as server,
        tempfile.TemporaryDirectory() as backups,
    ):
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE DATABASE grown")
        with psycopg.connect(server.dsn("grown"), autocommit=True) as conn:
            conn.execute((ROOT / "tests/data/existing_install.sql").read_text().encode())
            conn.execute(GROW % {"rows": arguments.rows})  # type: ignore[call-overload]
            conn.execute("VACUUM ANALYZE")
        print(f"{arguments.rows:,} sessions, PostgreSQL {server.major}")
        print(f"{'':52}{'longest ms':>11}")
        parts: tuple[Callable[[Runs], None], ...] = (behind_a_reader, behind_a_snapshot)
        for part in parts:
            part(Runs(server, backups))
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                for (name,) in conn.execute("SELECT datname FROM pg_database WHERE datname LIKE 'copy%'").fetchall():
                    conn.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


if __name__ == "__main__":
    main()
