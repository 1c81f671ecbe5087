"""The instructions of a statement: those of the server, ours against other designs and against ours without a part.

    scripts/bootstrap.sh test benchmarks/instructions.py [--bindir DIR …]

Needs valgrind, which counts them. Unlike time, the count is the same on a busy machine as on a quiet one. It is taken
in single-user mode, the same statement prepared and executed time and again, each a transaction: parsing, network and
the commit's write to disk are not in it. A part's share is the difference that leaving it out makes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import psycopg
from hot_path import SUITE, Bench

from pgvigil import embedded
from pgvigil.embedded import process

SESSIONS = 10_000
# Executions. The difference of two runs leaves out start and planning, and reading pages and catalog for the first time.
FEW, MANY = 300, 600
STATEMENTS = {
    "touch": "UPDATE sessions SET metadata = to_jsonb($1) WHERE session_key = (1 + $1 % 100) || ''",
    "flip": "UPDATE sessions SET status = CASE status WHEN 'active' THEN 'pending' ELSE 'active' END"
    " WHERE session_key = (1 + $1 % 100) || ''",
    "insert": "INSERT INTO sessions (session_key, agent_from, agent_to) VALUES ('new' || $1, 'agent-a', 'agent-b')",
}
PARTS = {
    "CHECK of sessions.status": "ALTER TABLE sessions DROP CONSTRAINT sessions_status_check",
    "update_sessions_updated_at, update_sessions_last_activity": "DROP TRIGGER update_sessions_updated_at ON sessions;"
    " DROP TRIGGER update_sessions_last_activity ON sessions",
    "log_session_lifecycle, with all it writes": "DROP TRIGGER log_session_lifecycle ON sessions;"
    " DROP TRIGGER log_session_lifecycle_created ON sessions",
    "of it: foreign key": "ALTER TABLE session_lifecycle DROP CONSTRAINT session_lifecycle_session_id_fkey",
    "of it: secondary indexes": "DROP INDEX idx_session_lifecycle_session_id, idx_session_lifecycle_event_type,"
    " idx_session_lifecycle_created_at",
    "of it: SECURITY DEFINER with its own search_path": "ALTER FUNCTION pgvigil.log_session_change() SECURITY INVOKER RESET search_path;"
    " ALTER FUNCTION pgvigil.log_session_created() SECURITY INVOKER RESET search_path",
    "our six indexes on sessions": "DROP INDEX idx_sessions_last_activity_at, idx_sessions_is_dormant, idx_sessions_archived_at,"
    " idx_sessions_retention_policy, idx_sessions_status_last_activity, idx_sessions_dormant_last_activity",
}


class Counter:
    """A counter on a copy of a server's data directory: single-user mode needs it for itself."""

    def __init__(self, server: embedded.Server, copy: Path) -> None:
        self.bindir, self.account = server.bindir, process.find_account()
        self.data = copy / "data"
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CHECKPOINT")
        shutil.copytree(server.data, self.data, symlinks=True, ignore=shutil.ignore_patterns("postmaster.pid"))
        for path in (copy, self.data, *self.data.rglob("*")):
            process.give(path, self.account)
        self.number = 0  # of the session next in turn
        self.run("postgres", "SELECT 1", 0)  # recovers from having been copied while the server ran

    def run(self, database: str, statement: str, times: int) -> int:
        """Return the instructions of one server process that executes a statement so many times."""
        # Whatever time that takes here, sessions are busy: touched again within the granularity.
        lines = ["SET pgvigil.activity_granularity = '1 day'", f"PREPARE s (int) AS {statement}"]
        lines += [f"EXECUTE s ({n})" for n in range(self.number + 1, self.number + times + 1)]
        self.number += times
        valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
        settings = ["-c", "fsync=off", "-c", "full_page_writes=off"]  # pages are written whole only after a checkpoint
        single = [self.bindir / "postgres", "--single", "-D", self.data, *settings]
        done = subprocess.run(
            [*valgrind, *map(str, single), database],
            **process.process_options(self.account) | {"stdin": None},
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or "ERROR:" in done.stderr:
            raise RuntimeError(done.stderr[-2000:])
        return int(re.findall(r"I\s+refs:\s+([\d,]+)", done.stderr)[-1].replace(",", ""))

    def per_statement(self, database: str, work: str) -> float:
        few, many = (self.run(database, STATEMENTS[work], times) for times in (FEW, MANY))
        return (many - few) / (MANY - FEW)


def table(server: embedded.Server, counter: Counter, works: list[str], parts: dict[str, str]) -> None:
    def counts(database: str) -> list[float]:
        return [counter.per_statement(database, work) / 1000 for work in works]

    def row(name: str, cells: Iterable[str]) -> None:
        print(f"| {name} | {' | '.join(cells)} |", flush=True)

    print(f"\n### PostgreSQL {server.major}, thousand instructions a statement\n")
    row("", works)
    row("---", ["---"] * len(works))
    designs = {design: counts(design) for design in ("bare", "ours", "obvious")}
    for design, each in designs.items():
        row(design, (f"{count:,.0f}" for count in each))
    for a, b in (("ours", "bare"), ("obvious", "ours")):
        row(f"{a} : {b}", (f"{x / y:.2f}" for x, y in zip(designs[a], designs[b], strict=True)))
    for part in parts:
        row(part, (f"{x - y:,.0f}" for x, y in zip(designs["ours"], counts(part), strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bindir", type=Path, nargs="+", default=[embedded.binaries()], help="PostgreSQL (the embedded)"
    )
    parser.add_argument("--works", nargs="+", choices=STATEMENTS, default=list(STATEMENTS), metavar="WORK")
    parser.add_argument("--parts", action=argparse.BooleanOptionalAction, default=True, help="ours without each part")
    arguments = parser.parse_args()
    if not shutil.which("valgrind"):
        sys.exit("valgrind is not installed: `apt-get install valgrind`.")
    parts = PARTS if arguments.parts else {}
    for bindir in arguments.bindir:
        with embedded.Server(bindir) as server, tempfile.TemporaryDirectory() as place:
            bench = Bench(SUITE, server, Path(place))
            for design in ("bare", "ours", "obvious"):
                bench.install(design, sessions=SESSIONS)
            for part, ddl in parts.items():
                bench.execute("postgres", f'CREATE DATABASE "{part}" TEMPLATE ours')
                bench.execute(part, ddl)
            copy = Path(place)
            copy.chmod(process.home_mode())
            table(server, Counter(server, copy), arguments.works, parts)


if __name__ == "__main__":
    main()
