"""The fingerprints of a database: the number of rows and a digest of every table, computed by the server; and its
extensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg
from psycopg import sql

from pgvigil import database
from pgvigil.text import counted

# Around the reading of one table.
Guard = Callable[[psycopg.Connection, str], AbstractContextManager[None]]


@dataclass(frozen=True)
class TableFingerprint:
    """A fingerprint of a table. The digest does not depend on the order of rows or columns."""

    rows: int
    digest: str
    columns: list[str]


@dataclass(frozen=True)
class Extension:
    """An extension: its version, every object that is a member of it, and the fingerprints of its tables.

    pg_dump writes only CREATE EXTENSION for them, and rows only of the tables that the extension marks for that.
    """

    version: str
    members: list[str] = field(default_factory=list)
    tables: dict[str, TableFingerprint] = field(default_factory=dict)


def pin(conn: psycopg.Connection) -> list[database.Hidden]:
    """Apply settings so that the same values print as the same text in any database, and a killed process leaves no
    query behind.

    Rows that policies hide raise an error. Return the tables for which they may.
    """
    conn.execute(
        "SET search_path = ''; SET extra_float_digits = 3; SET lc_monetary = 'C'; SET client_connection_check_interval = '1s'"
    )
    return database.see_all_rows(conn)


def tables(conn: psycopg.Connection) -> dict[str, tuple[bool, list[str]]]:
    """Return every table with rows of its own by its qualified name: if it is partitioned, and its columns.

    A partitioned table represents its partitions. Tables of extensions are not included, see `extensions`.
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
    conn: psycopg.Connection,
    name: str,
    partitioned: bool,
    columns: Iterable[str],
    but: sql.Composable | None = None,
    *,
    guard: Guard | None = None,
) -> TableFingerprint:
    """Count and digest one table on the server, without the rows for which `but` holds, under the `guard`. The connection is pinned.

    The digest is a sum over the rows, so it needs no order; columns are ordered by name, because inheritance may reorder them.
    """
    by_name = list(columns)
    query = sql.SQL(
        'SELECT count(*), coalesce(sum(hashtextextended(ROW({})::text COLLATE "C", 0)), 0)::text FROM {}{} pgvigil_x{}'
    ).format(
        sql.SQL(", ").join(sql.Identifier("pgvigil_x", c) for c in by_name),
        sql.SQL("" if partitioned else "ONLY "),
        sql.SQL(name),  # quoted by the server
        sql.SQL(" WHERE ({}) IS NOT TRUE").format(but) if but else sql.SQL(""),
    )
    with guard(conn, name) if guard else nullcontext():
        row = conn.execute(query).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has one row
    return TableFingerprint(row[0], row[1], by_name)


def contents(conn: psycopg.Connection, guard: Guard | None = None) -> dict[str, TableFingerprint]:
    """Return the fingerprint of every table, as this connection sees it."""
    return {name: measure(conn, name, *shape, guard=guard) for name, shape in tables(conn).items()}


def extensions(conn: psycopg.Connection, guard: Guard | None = None) -> dict[str, Extension]:
    """Return every extension, as this connection sees it. A table that the role may not read counts as empty."""
    found: dict[str, Extension] = {}
    for name, version, members, of_it in conn.execute(
        """SELECT e.extname::text, e.extversion,
                  ARRAY(SELECT i.type || ' ' || i.identity
                        FROM pg_catalog.pg_depend d, pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
                        WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = e.oid
                          AND d.deptype = 'e' ORDER BY 1),
                  ARRAY(SELECT pg_catalog.jsonb_build_array(pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind = 'p',
                                   ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                                         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                                         ORDER BY a.attname COLLATE "C"))
                        FROM pg_catalog.pg_depend d
                        JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = d.objid
                        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                        WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = e.oid
                          AND d.deptype = 'e' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
                          AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
                          AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') ORDER BY 1)
           FROM pg_catalog.pg_extension e ORDER BY 1"""
    ).fetchall():
        held = {table: measure(conn, table, partitioned, columns, guard=guard) for table, partitioned, columns in of_it}
        found[name] = Extension(version, members, held)
    return found


def extension_rows(found: Mapping[str, Extension]) -> dict[str, tuple[str, TableFingerprint]]:
    """Return the tables of extensions that have rows, by name, with their extension and fingerprint."""
    return {
        name: (extension, table)
        for extension, of_it in found.items()
        for name, table in of_it.tables.items()
        if table.rows
    }


def left_out(then: Mapping[str, Extension], now: Mapping[str, Extension]) -> list[str]:
    """Describe the members of extensions that a copy lacks: no archive had them, because pg_dump leaves them out."""
    rows = extension_rows(then)
    missing = []
    for name, (extension, table) in rows.items():
        there = now[extension].tables.get(name) if extension in now else None
        if there != table:
            count = (
                f"{there.rows:,} of {counted(table.rows, 'row')}"
                if there and there.rows < table.rows
                else counted(table.rows, "row")
            )
            missing.append(f"table {name} ({count}), a member of extension {extension}")
    for extension, was in then.items():
        its = now.get(extension)
        if its and its.version == was.version:  # another version has other members
            gone = set(was.members) - set(its.members) - {f"table {name}" for name in rows}
            missing += [f"{member}, a member of extension {extension}" for member in sorted(gone)]
    return missing


def owners(conn: psycopg.Connection) -> list[str]:
    """Return the roles that own an object in this database that can hold code: any object but a schema and a large object.

    pg_shdepend has no role that initdb made. One of these, pg_database_owner, is the owner of the database.
    """
    return _roles(
        conn,
        """AND d.deptype = 'o' AND d.classid NOT IN ('pg_catalog.pg_namespace'::pg_catalog.regclass,
                                                     'pg_catalog.pg_largeobject'::pg_catalog.regclass)""",
        """UNION SELECT relowner FROM pg_catalog.pg_class WHERE oid >= 16384 AND relowner < 16384
           UNION SELECT proowner FROM pg_catalog.pg_proc WHERE oid >= 16384 AND proowner < 16384
           UNION SELECT typowner FROM pg_catalog.pg_type WHERE oid >= 16384 AND typowner < 16384
           UNION SELECT oprowner FROM pg_catalog.pg_operator WHERE oid >= 16384 AND oprowner < 16384""",
    )


def roles(conn: psycopg.Connection) -> list[str]:
    """Return the roles that objects in this database name: owners, rights, policies, default rights, mappings."""
    return _roles(
        conn,
        "",
        """UNION SELECT relowner FROM pg_catalog.pg_class WHERE oid >= 16384 AND relowner = 10
           UNION SELECT proowner FROM pg_catalog.pg_proc WHERE oid >= 16384 AND proowner = 10
           UNION SELECT typowner FROM pg_catalog.pg_type WHERE oid >= 16384 AND typowner = 10
           UNION SELECT nspowner FROM pg_catalog.pg_namespace WHERE oid >= 16384 AND nspowner = 10""",
    )


def _roles(conn: psycopg.Connection, only: LiteralString, made_by_initdb: LiteralString) -> list[str]:
    rows = conn.execute(
        """SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.oid IN (
               SELECT d.refobjid FROM pg_catalog.pg_shdepend d JOIN pg_catalog.pg_database b ON b.oid = d.dbid
               WHERE b.datname = pg_catalog.current_database()
                 AND d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
                 AND NOT (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND EXISTS (
                     SELECT FROM pg_catalog.pg_class c WHERE c.oid = d.objid AND c.relpersistence = 't')) """
        + only
        + " "
        + made_by_initdb
        + ") ORDER BY 1"
    ).fetchall()
    return [name for (name,) in rows]


def large_objects(conn: psycopg.Connection) -> int:
    """Return the number of large objects; the archive covers their bytes."""
    row = conn.execute("SELECT count(*) FROM pg_catalog.pg_largeobject_metadata").fetchone()
    return int(row[0]) if row else 0
