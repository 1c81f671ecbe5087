"""The databases with rows old enough to be archived and dropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conftest import Database
from pgvigil import cli
from pgvigil.archives import catalogue
from pgvigil.database import Target, parse_url
from pgvigil.maintenance import job_runner
from pgvigil.maintenance.client_jobs import Options
from pgvigil.progress import Reporter

SESSION = "01900000-0000-7000-8000-0000000000aa"

_LOGS = """
INSERT INTO performance_logs (id, operation, duration_ms, success, session_id, metadata, created_at)
SELECT overlay(pgvigil.uuid_v7_floor(t)::text PLACING lpad(to_hex(n), 12, '0') FROM 25)::uuid, 'operation-' || n %% 3, n %% 1000, n %% 10 <> 0,
       CASE WHEN n %% 5 = 0 THEN '01900000-0000-7000-8000-0000000000aa'::uuid END,
       jsonb_build_object('n', n, 'text', E'a "quoted",\nline, \\ and é'), t
FROM (SELECT n, date_trunc('day', now() - %(ago)s * interval '1 day', 'UTC') + n * interval '1 second' AS t FROM generate_series(%(first)s, %(first)s + %(rows)s - 1) n) s"""


def keep(database: Database) -> None:
    database.execute("UPDATE pgvigil.retention_policies SET keep_archive = true WHERE policy = 'standard'")


def old_logs(database: Database, *, ago: int = 20, rows: int = 500, first: int = 1) -> str:
    """A partition of performance_logs of a day that is long over, with rows, which are numbered; returns its name."""
    database.execute(
        "SELECT pgvigil.ensure_partitions('performance_logs', t, t) FROM (SELECT now() - %s * interval '1 day') s (t)",
        (ago,),
    )
    insert_logs(database, ago=ago, rows=rows, first=first)
    [(name,)] = database.execute(
        "SELECT partition FROM pgvigil.partitions WHERE parent_table = 'performance_logs' AND from_time = date_trunc('day', now() - %s * interval '1 day', 'UTC')",
        (ago,),
    )
    return str(name)


def insert_logs(database: Database, *, ago: int, rows: int, first: int) -> None:
    """Insert rows of performance_logs of a day, one a second, from a second of the day on."""
    database.execute(_LOGS, {"ago": ago, "rows": rows, "first": first})


def target(database: Database) -> Target:
    return parse_url(database.url, "test")


def archive(database: Database, place: Path | str) -> str:
    """Run the job and return what it did."""
    return job_runner.run(target(database), "archive_files", Options(archive_to=str(place)), Reporter())


def retention(database: Database) -> str:
    """Run retention and return its notes."""
    job_runner.run(target(database), "retention", Options(), Reporter())
    return "; ".join(
        database.execute("SELECT notes FROM pgvigil.job_runs WHERE job = 'retention' ORDER BY id DESC LIMIT 1")[0][0]
    )


def is_there(database: Database, partition: str) -> bool:
    return database.execute("SELECT 1 FROM pgvigil.partitions WHERE partition = %s", (partition,)) != []


def listed(database: Database) -> list[catalogue.Archive]:
    with catalogue.connect(target(database), "test") as conn:
        return catalogue.read(conn)


def pgvigil(database: Database, *words: str) -> int:
    """A command, in this process."""
    return cli.main([*words, "--database-url", database.url])


def faults(database: Database, place: Path | None = None) -> Sequence[str]:
    found, _ = catalogue.verify(target(database), str(place) if place else None)
    return [one.fault for one in found if one.fault]
