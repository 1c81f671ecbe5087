"""Two spellings, one meaning? The server reads both, on a passing copy of the table, and prints what it understood."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import psycopg
from psycopg import sql

from pgvigil.validate.catalog import Connection, pinned

_READ_BACK = {
    "default": "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'pg_temp.probe'::regclass",
    "check": "SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint"
    " WHERE conrelid = 'pg_temp.probe'::regclass AND contype = 'c'",
    "index": "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'pg_temp.probe'::regclass",
}


@dataclass(frozen=True)
class Probe:
    kind: Literal["default", "check", "index"]
    table: tuple[str, str]
    column: str  # of a default
    expected: str
    found: str


def settle(conn: Connection, probes: Iterable[Probe]) -> dict[Probe, bool | str]:
    """Whether each pair means the same, or why the server could not say."""
    return {probe: _same(conn, probe) for probe in dict.fromkeys(probes)}


def _same(conn: Connection, probe: Probe) -> bool | str:
    try:
        return _understood(conn, probe, probe.expected) == _understood(conn, probe, probe.found)
    except psycopg.DatabaseError as error:
        return error.diag.message_primary or str(error).strip()


def _understood(conn: Connection, probe: Probe, text: str) -> object:
    # In a pipeline, and so over the extended protocol, a text of the spec cannot smuggle in a second statement.
    with pinned(conn, read_only=False):
        conn.execute(sql.SQL("CREATE TEMP TABLE probe (LIKE {})").format(sql.Identifier(*probe.table)))
        if probe.kind == "default":
            statement = sql.SQL("ALTER TABLE pg_temp.probe ALTER {} SET DEFAULT {}").format(
                sql.Identifier(probe.column),
                sql.SQL(text),
            )
        elif probe.kind == "check":
            statement = sql.SQL("ALTER TABLE pg_temp.probe ADD CHECK ({})").format(sql.SQL(text))
        else:
            unique = text.startswith("UNIQUE ")
            statement = sql.SQL("CREATE {} INDEX ON pg_temp.probe USING {}").format(
                sql.SQL("UNIQUE" if unique else ""),
                sql.SQL(text.removeprefix("UNIQUE ")),
            )
        conn.execute(statement)
        row = conn.execute(_READ_BACK[probe.kind]).fetchone()
    return row[0] if row else None
