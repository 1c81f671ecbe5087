"""The query executions over time: those in the database, those that wait for their archive, and those in files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pgvigil.database import Target
from pgvigil.history.engines import Ask
from pgvigil.history.snapshot import Span, paths, snapshot


@dataclass
class Executions:
    """The executions of one engine in a bucket of time. Times are in seconds."""

    database_type: str
    time: datetime | None
    executions: int = 0
    success: int = 0
    failed: int = 0
    error: int = 0
    timeout: int = 0
    timed: int = 0
    seconds: float = 0
    max_seconds: float | None = None

    @property
    def avg_seconds(self) -> float | None:
        return self.seconds / self.timed if self.timed else None


def executions(
    target: Target, span: Span, ask: Ask, *, user: str | None = None, moved_to: str | None = None
) -> list[Executions]:
    """Read all executions of the time, by bucket and engine; of one user only, if given."""
    numbers = "count(*), count(execution_time), coalesce(sum(execution_time), 0), max(execution_time)"
    with snapshot(target, "query_executions") as moment:
        rows = []
        for table in ("{app}.query_executions", "pgvigil.executions_to_archive"):
            rows += moment.rows(
                "bucket bigint, user_id text, database_type text, status text, executions bigint, timed bigint,"
                " seconds double precision, longest double precision",
                f"""SELECT {span.postgres_bucket("started_at")}, user_id, database_type, status, {numbers} FROM {table}
                    WHERE started_at >= %s AND started_at < %s GROUP BY 1, 2, 3, 4""",
                span.since, span.until,
            )  # fmt: skip
        archives = moment.files_of("query_executions", span)
    with paths(archives, moved_to) as files:
        rows += ask(
            f"""SELECT {span.bucket("started_at")} AS bucket, user_id, database_type, status, {numbers}
                FROM {{files}} WHERE {span.duck("started_at")} GROUP BY 1, 2, 3, 4""",
            files,
        )
    found: dict[tuple[int, str], Executions] = {}
    for bucket, of, database_type, status, count, timed, seconds, longest in rows:
        if user is not None and of != user:
            continue
        one = found.setdefault((bucket, database_type), Executions(database_type, span.moment(bucket)))
        one.executions += count
        one.timed += timed
        one.seconds += seconds
        if longest is not None:
            one.max_seconds = longest if one.max_seconds is None else max(one.max_seconds, longest)
        setattr(one, status, getattr(one, status) + count)
    return [found[key] for key in sorted(found)]
