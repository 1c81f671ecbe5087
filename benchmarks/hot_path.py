"""The cost of the watch for applications: ours against the bare table, the obvious design and two audit triggers.

    scripts/bootstrap.sh test benchmarks/hot_path.py [--bindir DIR …] [--rounds 7] [--seconds 2] [--events 3000000] [--durable]
                                                     [--before CHECKOUT --designs ours]

Each design has a database of its own on one throw-away server, with 100,000 sessions; ours and the obvious one begin with
--events of the past year in their trail, as an application has that has been there for a while. In each round every design
does every kind of work, one right after the other, so that what else the machine does falls on all of them alike:

    touch, flip, insert     one prepared statement a transaction over two connections (pgbench)
    bulk update, insert     one statement for 100,000 rows

Prints medians over the rounds, and ratios as the median of each round's ratio with the least and the greatest. Server CPU
is what the backends used, pgbench itself not counted: it says more than transactions per second on a machine with others.
Without --durable nobody waits for a disk, and the rates compare processors; with it they are those of an application.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from append_only import spread  # noqa: E402
from session_designs import BARE, FILL, HSTORE_AUDIT, JSONB_AUDIT, OBVIOUS, PAST, SESSIONS  # noqa: E402

from pgvigil import embedded  # noqa: E402

ACTIVE = 1_000  # of the sessions are busy, each touched several times a minute

# Busy sessions were last active at any time within the last minute.
REST = f"""
    SET session_replication_role = replica;
    UPDATE sessions SET last_activity_at = now() - random() * interval '1 minute' WHERE session_key::numeric % {SESSIONS // ACTIVE} = 0;
"""
SINGLE = {
    "touch": rf"""\set n random(1, {ACTIVE}) * {SESSIONS // ACTIVE}
\set step random(1, 1000000)
UPDATE sessions SET metadata = :step WHERE session_key = :n;
""",
    "flip": rf"""\set n random(1, {SESSIONS})
UPDATE sessions SET status = CASE status WHEN 'active' THEN 'pending' ELSE 'active' END WHERE session_key = :n;
""",
    "insert": r"""\set n random(1000000000, 9000000000000000000)
INSERT INTO sessions (session_key, agent_from, agent_to) VALUES (:n, 'agent-a', 'agent-b');
""",
}
BULK = {
    "bulk update": f"UPDATE sessions SET status = 'pending' WHERE session_key::numeric <= {SESSIONS}",
    "bulk insert": "INSERT INTO sessions (session_key, agent_from, agent_to)"
    f" SELECT 'bulk-' || n, 'agent-a', 'agent-b' FROM generate_series(1, {SESSIONS}) n",
}


@dataclass(frozen=True)
class Suite:
    """A list of things to compare: designs by their DDL (after `pgvigil setup` where it begins with a comment), and
    kinds of work.
    """

    designs: dict[str, str]
    past: dict[str, str]  # of a design with a trail: SQL that writes {0} events
    single: dict[str, str]
    bulk: dict[str, str]
    rest: str  # before each run of single rows
    base: str  # the design that the others' speed is measured against
    checkouts: dict[str, Path] = field(default_factory=dict)  # of a design that is set up from another one

    @property
    def works(self) -> list[str]:
        return [*self.single, *self.bulk]


SUITE = Suite(
    designs={
        "bare": BARE,
        "ours": "-- as set up",
        "obvious": OBVIOUS,
        "jsonb audit": JSONB_AUDIT,
        "hstore audit": HSTORE_AUDIT,
    },
    past=PAST,
    single=SINGLE,
    bulk=BULK,
    rest=REST,
    base="bare",
)


@dataclass(frozen=True)
class Sample:
    """A measure of one design doing one kind of work in one round."""

    per_second: float
    cpu_us: float  # server CPU per operation (bulk: per row)
    wal_bytes: float  # per operation (bulk: per row)
    hot: float  # share of updates of sessions that touched no index


Samples = dict[tuple[str, str], list[Sample]]


def cpu_seconds(pid: int, *, of_children: bool = False) -> float:
    """Return the CPU time that a process has used, or its children that have ended."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    return sum(map(int, ticks[2:] if of_children else ticks[:2])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


class Bench:
    def __init__(self, suite: Suite, server: embedded.Server, scripts: Path) -> None:
        self.suite = suite
        self.server = server
        self.postmaster = int((server.data / "postmaster.pid").read_text().split()[0])
        self.scripts = scripts
        self.pgbench = next(
            place / "pgbench"
            for place in (server.bindir, embedded.binaries(), Path(shutil.which("pgbench") or "/").parent)
            if place and (place / "pgbench").exists()
        )
        for name, script in suite.single.items():
            (scripts / name).write_text(script)

    def install(self, design: str, *, sessions: int = SESSIONS, events: int = 0) -> None:
        with psycopg.connect(self.server.dsn(), autocommit=True) as conn:
            conn.execute(f'CREATE DATABASE "{design}"')  # type: ignore[arg-type]
        ddl = self.suite.designs[design]
        if ddl.startswith("--"):
            setup = [sys.executable, "-P", "-m", "pgvigil", "setup", "--database-url", self.server.dsn(design)]
            env = {**os.environ, "PYTHONPATH": str(self.suite.checkouts.get(design, ROOT) / "src")}
            subprocess.run(setup, check=True, capture_output=True, env=env)
        self.execute(design, ddl)
        self.execute(design, FILL.format(sessions))
        if events and design in self.suite.past:
            self.execute(design, self.suite.past[design].format(events))
        self.execute(design, "VACUUM ANALYZE")

    def execute(self, design: str, statement: str) -> list[tuple[Any, ...]]:
        before = children(self.postmaster)
        with psycopg.connect(self.server.dsn(design), autocommit=True) as conn:
            cursor = conn.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
        self.settle(before)
        return rows

    def settle(self, before: set[str]) -> None:
        """Wait for the backends made since to end: a child's CPU counts when it is gone."""
        while children(self.postmaster) - before:
            time.sleep(0.01)

    def updates(self, design: str) -> tuple[int, int]:
        return self.execute(
            design, "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'sessions'"
        )[0]

    def single(self, design: str, work: str, seconds: float) -> Sample:
        self.execute(design, self.suite.rest)
        self.execute(design, "VACUUM sessions")
        updated, hot = self.updates(design)
        with psycopg.connect(self.server.dsn(design), autocommit=True) as conn:
            lsn = conn.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]  # type: ignore[index]
            before, cpu = children(self.postmaster), cpu_seconds(self.postmaster, of_children=True)
            command = [self.pgbench, "-n", "-M", "prepared", "-c", "2", "-T", str(seconds), "-f", self.scripts / work]
            out = subprocess.run(
                [*map(str, command), self.server.dsn(design)], check=True, capture_output=True, text=True
            ).stdout
            self.settle(before)
            cpu = cpu_seconds(self.postmaster, of_children=True) - cpu
            wal = conn.execute("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", (lsn,)).fetchone()[0]  # type: ignore[index]
        count = int(re.search(r"transactions actually processed: (\d+)", out)[1])  # type: ignore[index]
        tps = float(re.search(r"tps = ([\d.]+)", out)[1])  # type: ignore[index]
        updated_after, hot_after = self.updates(design)
        share = (hot_after - hot) / (updated_after - updated) if updated_after > updated else 0.0
        return Sample(tps, cpu / count * 1e6, float(wal) / count, share)

    def bulk(self, design: str, work: str) -> Sample:
        """Write in a transaction that is rolled back, so that each round finds the same table."""
        self.execute(design, "VACUUM")
        with psycopg.connect(self.server.dsn(design)) as conn:
            lsn = conn.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]  # type: ignore[index]
            cpu, began = cpu_seconds(conn.info.backend_pid), time.perf_counter()
            rows = conn.execute(self.suite.bulk[work].encode()).rowcount
            took, cpu = time.perf_counter() - began, cpu_seconds(conn.info.backend_pid) - cpu
            wal = conn.execute("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", (lsn,)).fetchone()[0]  # type: ignore[index]
            conn.rollback()
        if rows != SESSIONS:
            raise RuntimeError(f"{design}: {work} wrote {rows} rows instead of {SESSIONS}")
        return Sample(rows / took, cpu / rows * 1e6, float(wal) / rows, 0.0)


def ratios(samples: Samples, work: str, of: str, to: str, field: str) -> str:
    pairs = zip(samples[of, work], samples[to, work], strict=True)
    return spread(getattr(a, field) / getattr(b, field) for a, b in pairs)


def table(suite: Suite, samples: Samples) -> str:
    """The Markdown of docs/performance.md."""
    head = f"| work | design | per second | of {suite.base} | server CPU µs | CPU, ours = 1 | WAL bytes | HOT |"
    lines = [head, "|" + "---|" * 8]
    for work in suite.works:
        for design in suite.designs:
            median = {
                name: statistics.median(getattr(sample, name) for sample in samples[design, work])
                for name in Sample.__annotations__
            }
            lines.append(
                f"| {work} | {design} | {median['per_second']:,.0f} | {ratios(samples, work, design, suite.base, 'per_second')} "
                f"| {median['cpu_us']:.1f} | {ratios(samples, work, design, 'ours', 'cpu_us')} | {median['wal_bytes']:,.0f} "
                f"| {format(median['hot'], '.1%') if work == 'touch' else ''} |"
            )
    return "\n".join(lines)


def measure(suite: Suite, bindir: Path, rounds: int, seconds: int, *, events: int, durable: bool) -> None:
    """Run the suite on a throw-away server and print its table."""
    settings = {"autovacuum": "off", "shared_buffers": "512MB", "max_wal_size": "16GB", "checkpoint_timeout": "1h"}
    if durable:
        settings |= {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    samples: Samples = defaultdict(list)
    with embedded.Server(bindir, settings=settings) as server, tempfile.TemporaryDirectory() as scripts:
        bench = Bench(suite, server, Path(scripts))
        for design in suite.designs:
            bench.install(design, events=events)
        for number in range(rounds):
            order = list(suite.designs)[:: 1 if number % 2 else -1]
            for work in suite.works:
                for design in order:
                    sample = bench.single(design, work, seconds) if work in suite.single else bench.bulk(design, work)
                    samples[design, work].append(sample)
            print(f"round {number + 1} of {rounds} done", file=sys.stderr)
        how = f", {events:,} events to begin with" if suite.past else ""
        how += ", each commit on disk" if durable else ""
        print(f"\n### PostgreSQL {server.major}{how}\n\n{table(suite, samples)}", flush=True)


def main(suite: Suite, description: str | None) -> None:
    """The command line that all suites share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bindir", type=Path, nargs="+", default=[embedded.binaries()], help="PostgreSQL (the embedded)"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2, help="of each single-row run")
    parser.set_defaults(events=0)
    if suite.past:
        parser.add_argument(
            "--events", type=int, default=3_000_000, help="of the past year, in a design that has a trail"
        )
    parser.add_argument("--durable", action="store_true", help="commit to disk, as PostgreSQL does by default")
    parser.add_argument("--designs", nargs="+", choices=suite.designs, default=list(suite.designs), metavar="DESIGN")
    parser.add_argument(
        "--before", type=Path, metavar="CHECKOUT", help="compare with pgvigil of another checkout as well"
    )
    parser.add_argument("--works", nargs="+", choices=suite.works, default=suite.works, metavar="WORK")
    arguments = parser.parse_args()
    chosen = replace(
        suite,
        designs={name: ddl for name, ddl in suite.designs.items() if name in arguments.designs},
        single={name: script for name, script in suite.single.items() if name in arguments.works},
        bulk={name: script for name, script in suite.bulk.items() if name in arguments.works},
    )
    if arguments.before:
        chosen = replace(
            chosen,
            designs={**chosen.designs, "before": suite.designs["ours"]},
            past={**chosen.past, **({"before": suite.past["ours"]} if suite.past else {})},
            checkouts={"before": arguments.before.resolve()},
        )
        if chosen.base not in chosen.designs:
            chosen = replace(chosen, base="before")
    for bindir in arguments.bindir:
        measure(chosen, bindir, arguments.rounds, arguments.seconds, events=arguments.events, durable=arguments.durable)


if __name__ == "__main__":
    main(SUITE, __doc__)
