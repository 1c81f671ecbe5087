"""The stall of the application's writers while an existing install is migrated: ours against one naive transaction.

    scripts/bootstrap.sh test benchmarks/migration_stall.py [--sessions 1000000] [--writers 4] [--per-second 1000]

Builds the existing install on a throw-away server, grows it, and migrates it twice from the same state under writers
that update and insert sessions and context rows without a pause: once with `pgvigil migrate`, once with the naive
script, which does the same work the obvious way (plain CREATE INDEX, checks validated at once, one transaction).
Prints, for each, how long it took, how many writes succeeded, the longest single write, the longest time in which all
writers waited at once, and writer errors; then the ratios of the two. Without a pause the writers leave no processor to
anybody else, so a single write may wait for its turn: all at once wait for a lock only. The first line, of a minute without a migration, is what the machine itself does to a write.
Each database is dropped after its turn: autovacuum of the first would slow the second.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from load import Load  # noqa: E402

from pgvigil import embedded, project  # noqa: E402
from pgvigil.migration import files, sql_lexer  # noqa: E402
from pgvigil.owner import OWN_ROLE  # noqa: E402
from pgvigil.placeholders import bound  # noqa: E402

GROW = """
    INSERT INTO sessions (session_key, agent_from, agent_to, status, created_at, updated_at)
    SELECT 'grown-' || n, 'agent-' || n %% 37, 'agent-' || n %% 41, CASE WHEN n %% 7 = 0 THEN 'completed' ELSE 'active' END,
           timestamptz '2026-11-01' - n * interval '1 minute', timestamptz '2026-11-01' - n * interval '30 seconds'
    FROM generate_series(6001, %(sessions)s) n;
    INSERT INTO context_history (session_id, sequence_number, context_type, content)
    SELECT id, k, 'message', 'some words of context' FROM sessions, generate_series(101, 103) k;
"""


def naive() -> str:
    """The migrations as someone would write them in a hurry: one transaction, plain index builds."""
    scripts = [(project.MIGRATIONS / name).read_text() for name in ("prepare.sql", "ledger.sql")]
    scripts.append("SELECT pgvigil.record_migration('000', '000', 'public', true, '', '', 0, '');")
    scripts += [sql_lexer.without_concurrently(m.script) for m in files.load(project.MIGRATIONS)[1:]]
    scripts.append((project.MIGRATIONS / "closing.sql").read_text())
    # The backfills commit by the batch, which one transaction cannot: it is spared the naive script.
    script = re.sub(r"^CALL [^;]*;", "", bound("\n".join(scripts), "public", OWN_ROLE), flags=re.MULTILINE)
    return f"SET search_path = pg_catalog, pg_temp; SET pgvigil.schema = 'public';\n{script}"


def measure(url: str, writers: int, migrate: list[str] | str | None, per_second: float | None) -> tuple[float, Load]:
    with Load(url, writers, per_second=per_second) as load:
        time.sleep(1)
        began = time.perf_counter()
        if migrate is None:
            time.sleep(60)
        elif isinstance(migrate, str):
            with psycopg.connect(url) as conn:
                conn.execute(migrate.encode())
        else:
            subprocess.run(migrate, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        took = time.perf_counter() - began
        time.sleep(1)
    return took, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument(
        "--per-second",
        type=float,
        help="writes of all writers together (default: without a pause, which takes all processors of a small machine)",
    )
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
            conn.execute(GROW % {"sessions": arguments.sessions})  # type: ignore[call-overload]
            conn.execute("VACUUM ANALYZE")
        ours = [
            sys.executable,
            "-P",
            "-m",
            "pgvigil",
            "migrate",
            "--database-url",
            server.dsn("ours"),
            "--backup-dir",
            backups,
        ]
        print(f"{arguments.sessions:,} sessions, {arguments.writers} writers, PostgreSQL {server.major}")
        print(f"{'':8}{'took s':>9}{'writes':>10}{'longest write ms':>19}{'all waited ms':>16}{'writer errors':>16}")
        longest, stalled = {}, {}
        for name, migrate in (("none", None), ("naive", naive()), ("ours", ours)):
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                conn.execute(f"CREATE DATABASE {name} TEMPLATE grown")
                conn.execute("CHECKPOINT")
            took, load = measure(server.dsn(name), arguments.writers, migrate, arguments.per_second)
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
            longest[name], stalled[name] = load.longest, load.stalled
            errors = f"{len(load.errors):16}  {load.errors[0] if load.errors else ''}"
            print(f"{name:8}{took:9.1f}{load.count:10,}{load.longest * 1000:19.0f}{load.stalled * 1000:16.0f}{errors}")
        print(f"longest write, naive : ours = {longest['naive'] / longest['ours']:.1f} : 1")
        print(f"all waited, naive : ours = {stalled['naive'] / stalled['ours']:.1f} : 1")


if __name__ == "__main__":
    main()
