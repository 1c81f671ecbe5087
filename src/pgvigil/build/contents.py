"""What a database holds: of every table the number of rows and a digest, computed by the server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgvigil import database


@dataclass(frozen=True)
class Table:
    """What a table holds. The digest does not depend on the order of rows or columns."""

    rows: int
    digest: str
    columns: list[str]


def pin(conn: psycopg.Connection) -> None:
    """What a session of ours needs besides, so that the same values print as the same text in any database and a killed process
    leaves no query behind that goes on reading. Rows that policies hide raise an error.
    """
    conn.execute(
        "SET search_path = ''; SET extra_float_digits = 3; SET lc_monetary = 'C'; SET client_connection_check_interval = '1s'"
    )
    database.see_all_rows(conn)


def tables(conn: psycopg.Connection) -> dict[str, tuple[bool, list[str]]]:
    """Every table with rows of its own by its qualified name: whether it is partitioned, and its columns.

    A partitioned table stands for its partitions. Tables of extensions are the extension's business.
    """
    rows = conn.execute(
        """SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind = 'p',
                  ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attname COLLATE "C")
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
             AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
             AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                                                 AND d.objid = c.oid AND d.deptype = 'e')
           ORDER BY 1"""
    ).fetchall()
    return {name: (partitioned, columns) for name, partitioned, columns in rows}


def measure(
    conn: psycopg.Connection, name: str, partitioned: bool, columns: Iterable[str], but: sql.Composable | None = None
) -> Table:
    """Counts and digests one table on the server, leaving out rows for which `but` holds. The connection is pinned.

    The digest is a sum over the rows, so it needs no order; columns go by name, because inheritance may reorder them.
    """
    by_name = list(columns)
    row = conn.execute(
        sql.SQL(
            'SELECT count(*), coalesce(sum(hashtextextended(ROW({})::text COLLATE "C", 0)), 0)::text FROM {}{} pgvigil_x{}'
        ).format(
            sql.SQL(", ").join(sql.Identifier("pgvigil_x", c) for c in by_name),
            sql.SQL("" if partitioned else "ONLY "),
            sql.SQL(name),  # quoted by the server
            sql.SQL(" WHERE ({}) IS NOT TRUE").format(but) if but else sql.SQL(""),
        )
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Table(row[0], row[1], by_name)


def contents(conn: psycopg.Connection) -> dict[str, Table]:
    """What every table holds, as this connection sees it."""
    return {name: measure(conn, name, *shape) for name, shape in tables(conn).items()}


def large_objects(conn: psycopg.Connection) -> int:
    """How many there are; their bytes are the archive's own affair."""
    row = conn.execute("SELECT count(*) FROM pg_catalog.pg_largeobject_metadata").fetchone()
    return int(row[0]) if row else 0
