"""Measure the sizes of a database and its tables."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import class_row

from pgvigil import database
from pgvigil.database import Target

# reltuples is -1 before the first ANALYZE: then the statistics' row count is used.
_QUERY = """
SELECT format('%I.%I', n.nspname, r.relname) AS "table", count(*) FILTER (WHERE c.relispartition)::integer AS partitions,
       sum(pg_table_size(c.oid) - coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0))::bigint AS heap_bytes,
       sum(pg_indexes_size(c.oid))::bigint AS index_bytes,
       sum(coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0))::bigint AS toast_bytes,
       sum(CASE WHEN c.reltuples >= 0 THEN c.reltuples ELSE coalesce(s.n_live_tup, 0) END)::bigint AS rows,
       sum(coalesce(s.n_dead_tup, 0))::bigint AS dead_rows
FROM pg_class c
JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid)
JOIN pg_namespace n ON n.oid = r.relnamespace
LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
GROUP BY r.oid, n.nspname, r.relname
ORDER BY sum(pg_total_relation_size(c.oid)) DESC, 1
"""


@dataclass(frozen=True)
class Table:
    """A table with all its partitions. Sizes are bytes; `rows` is the planner's estimate, `dead_rows` that of the statistics."""

    table: str
    partitions: int
    heap_bytes: int
    index_bytes: int
    toast_bytes: int
    rows: int
    dead_rows: int

    @property
    def total(self) -> int:
        """Return the total bytes."""
        return self.heap_bytes + self.index_bytes + self.toast_bytes


@dataclass(frozen=True)
class Sizes:
    """A result of sizes. `total_size_mb` is the whole database in MiB, including the system catalogs; the largest table comes first."""

    total_size_mb: float
    tables: tuple[Table, ...]


def measure(target: Target) -> Sizes:
    """Query the sizes on disk, without reading any table. Raise ConnectError."""
    with database.connect(target, "sizes") as conn:
        whole = conn.execute("SELECT pg_database_size(current_database())").fetchone()
        with conn.cursor(row_factory=class_row(Table)) as cursor:
            tables = cursor.execute(_QUERY).fetchall()
    return Sizes(round(whole[0] / 2**20, 1) if whole else 0, tuple(tables))
