"""The summary of an archive: a small file beside its files, with calls, success and durations by UTC day, operation and histogram bin.

The bins are those of pgvigil.performance_rollups. `pgvigil history` reads it instead of the rows where an archive is wholly within the time
that is asked. It is made from the files as they were read back, and `archive verify` makes it again and compares.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pgvigil.archives import literal, scan
from pgvigil.archives.manifest import Part

SOURCES = frozenset({"performance_logs"})
DAY = 86_400
GAMMA = "0.020000666706669435"  # as pgvigil.histogram_bin has it
BIN = (
    f"CASE WHEN duration_ms < 1 THEN 0 ELSE 1 + CAST(ceil(ln(CAST(duration_ms AS DOUBLE)) / {GAMMA} - 1e-9) AS INT) END"
)
_WRITTEN = "FORMAT parquet, COMPRESSION zstd"


def floored(micros: str, time: str, width: int) -> str:
    """Return the beginning of a time's stretch of some seconds, in microseconds since 1970.

    The engines' division rounds towards 1970, so that the stretches on both sides of it would be one.
    """
    moment, width = f"{micros}({time})", width * 1_000_000
    return f"({moment} - (({moment} % {width}) + {width}) % {width})"


def rows_query(table: str) -> str:
    """The summary of rows. A time that is infinite is in no span."""
    return f"""SELECT CAST({floored("epoch_us", "created_at", DAY)} // 1000000 AS BIGINT) AS day, operation, {BIN} AS bin, count(*) AS calls,
                      count(*) FILTER (WHERE success) AS successful, CAST(sum(duration_ms) AS BIGINT) AS total_ms,
                      min(duration_ms) AS min_ms, max(duration_ms) AS max_ms
               FROM {table} WHERE isfinite(created_at) GROUP BY ALL ORDER BY ALL"""


def added_query(table: str, bucket: str = "day") -> str:
    """The sum of summaries, in the SQL of both engines."""
    return f"""SELECT {bucket} AS day, operation, bin, CAST(sum(calls) AS BIGINT) AS calls, CAST(sum(successful) AS BIGINT) AS successful,
                      CAST(sum(total_ms) AS BIGINT) AS total_ms, min(min_ms) AS min_ms, max(max_ms) AS max_ms
               FROM {table} GROUP BY 1, 2, 3"""


def begin(conn: Any, source: str, file: Path, place: Path) -> Path | None:
    """Write the summary of one file of an archive, for `finish`. None for tables that have none."""
    if source not in SOURCES:
        return None
    conn.execute(f"COPY ({rows_query(scan([file]))}) TO {literal(str(place))} ({_WRITTEN})")
    return place


def finish(conn: Any, begun: list[Path], made: Path) -> Part | None:
    """Write the summary of an archive from those of its files. None where there are none."""
    if not begun:
        return None
    made.touch(mode=0o600)
    conn.execute(f"COPY ({added_query(scan(begun))} ORDER BY 1, 2, 3) TO {literal(str(made))} ({_WRITTEN})")
    rows = conn.execute(f"SELECT count(*) FROM {scan([made])}").fetchone()
    with made.open("rb") as file:
        return Part(made.name, int(rows[0]), made.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def is_of(conn: Any, summary: Path, files: list[Path]) -> bool:
    """Return whether a summary says what the rows of files say."""
    rows, summarized = f"SELECT * FROM ({rows_query(scan(files))})", f"SELECT * FROM {scan([summary])}"
    row = conn.execute(
        f"SELECT count(*) FROM (({rows} EXCEPT ALL {summarized}) UNION ALL ({summarized} EXCEPT ALL {rows}))"
    ).fetchone()
    return bool(row == (0,))
