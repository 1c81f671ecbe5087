"""What the catalog knows of the tables and indexes in a plan, as far as a finding needs it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row

# Names come out as they are written in SQL. Of an index, its first key: a column, or an expression.
_TABLES = """
SELECT n.nspname AS schema, c.relname AS name, format('%%I.%%I', rn.nspname, r.relname) AS root, c.relpages AS pages,
       c.relallvisible AS visible_pages, c.relispartition AS is_partition,
       ARRAY(SELECT quote_ident(a.attname) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       ARRAY(SELECT quote_ident(a.attname) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = c.oid AND 'varchar'::regtype IN (t.oid, t.typbasetype)) AS varchars,
       ARRAY(SELECT ARRAY[i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid, 1, true),
                          regexp_replace(pg_get_indexdef(i.indexrelid), '^.*? USING ', '')]
             FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid ORDER BY 1) AS keys
FROM unnest(%s::text[], %s::text[]) w (schema, name)
JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid) JOIN pg_namespace rn ON rn.oid = r.relnamespace
"""
_INDEXES = """
SELECT n.nspname, c.relname, quote_ident(r.relname)
FROM unnest(%s::text[], %s::text[]) w (schema, name)
JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid)
"""
_STRING = re.compile(r"'(?:[^']|'')*'")
_COMPARES = r" (?:=|<|>|<=|>=|= ANY) "


@dataclass(frozen=True)
class Table:
    """A table; `root` is the partitioned one it belongs to, else itself. `varchars` are those of its columns of that type.

    `keys`: name, first key and definition of each valid index.
    """

    schema: str
    name: str
    root: str
    pages: int
    visible_pages: int
    is_partition: bool
    columns: list[str]
    varchars: list[str]
    keys: list[list[str]]


Named = tuple[str, str]  # schema and name


def look_up(conn: psycopg.Connection, tables: Iterable[Named]) -> dict[Named, Table]:
    """Those of the tables that are there: one that the statement made is gone."""
    with conn.cursor(row_factory=class_row(Table)) as cursor:
        found = cursor.execute(_TABLES, _columns(tables)).fetchall()
    return {(table.schema, table.name): table for table in found}


def index_roots(conn: psycopg.Connection, indexes: Iterable[Named]) -> dict[Named, str]:
    """Of each index, the name of the partitioned index it belongs to, else its own."""
    return {(row[0], row[1]): row[2] for row in conn.execute(_INDEXES, _columns(indexes)).fetchall()}


def _columns(names: Iterable[Named]) -> list[list[str]]:
    pairs = sorted(set(names))
    return [[schema for schema, _ in pairs], [name for _, name in pairs]]


def compared(condition: str, alias: str, table: Table) -> tuple[list[str], list[str]]:
    """The columns that a condition, as EXPLAIN (VERBOSE) prints it, compares in a way that a plain index serves.

    First those that have to be equal to something, then those that are bounded. A column within a function or behind a cast is not
    among them, nor one of an alternative (OR).
    """
    quoted = alias.replace('"', '""')
    alias = rf'(?:{re.escape(alias)}|"{re.escape(quoted)}")'
    equal: list[str] = []
    bounded: list[str] = []
    parts = _conjuncts(_STRING.sub("''", condition))
    for column in table.columns:
        name = rf"{alias}\.{re.escape(column)}(?![\w$])"
        side = rf"(?:{name}|\({name}\)::text)" if column in table.varchars else name  # varchar as text is no conversion
        for part in parts:
            if re.fullmatch(rf"(?:NOT )?{name}|{name} IS (?:TRUE|FALSE)", part):
                equal.append(column)
                break
            if re.fullmatch(rf"{name} IS NULL", part):  # equal too, but mostly of many rows
                bounded.append(column)
                break
            left = re.fullmatch(side + _COMPARES + r"(.*)", part, re.DOTALL)
            right = re.fullmatch(r"(.*)" + _COMPARES.replace("|= ANY", "") + side, part, re.DOTALL)
            other = left or right
            if other and not re.search(rf"(?<![\w$.]){alias}\.| (?:AND|OR) ", other[1]):
                (equal if re.match(r".* = ", part, re.DOTALL) else bounded).append(column)
                break
    return equal, [column for column in bounded if column not in equal]


def has_alternatives(condition: str) -> bool:
    """Whether OR stands in it."""
    return " OR " in _STRING.sub("", condition)


def _conjuncts(condition: str) -> list[str]:
    """The parts that all have to hold."""
    while condition.startswith("(") and _closing(condition) == len(condition) - 1:
        condition = condition[1:-1]
    depth, begin, parts = 0, 0, []
    for match in re.finditer(r"[()]| AND ", condition):
        if match[0] == " AND " and depth == 0:
            parts.append(condition[begin : match.start()])
            begin = match.end()
        else:
            depth += {"(": 1, ")": -1}.get(match[0], 0)
    if not parts:
        return [condition]
    return [one for part in [*parts, condition[begin:]] for one in _conjuncts(part)]


def _closing(text: str) -> int:
    """Where the parenthesis closes with which the text begins."""
    depth = 0
    for place, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return place
    return -1
