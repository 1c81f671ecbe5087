"""Read from the catalog what a finding needs about the tables and indexes of a plan."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row

# Names are returned as SQL writes them. The first key of an index is a column or an expression.
_TABLES = """
SELECT n.nspname AS schema, c.relname AS name, format('%%I.%%I', rn.nspname, r.relname) AS root, c.relpages AS pages,
       c.relallvisible AS visible_pages, c.relispartition AS is_partition,
       ARRAY(SELECT quote_ident(a.attname) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       ARRAY(SELECT quote_ident(a.attname) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = c.oid AND 'varchar'::regtype IN (t.oid, t.typbasetype)) AS varchars,
       c.reltuples >= 0 AS analyzed, pg_relation_size(c.oid) AS bytes,
       ARRAY(SELECT ARRAY[x.relname::text, quote_ident(x.relname), pg_get_indexdef(i.indexrelid, 1, true),
                          regexp_replace(pg_get_indexdef(i.indexrelid), '^.*? USING ', ''), coalesce(pg_get_expr(i.indpred, i.indrelid), '')]
             FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisvalid ORDER BY 1) AS keys
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
# BEFORE and INSTEAD OF triggers, with the table that a statement may name when a trigger of one of its partitions fires.
_TRIGGERS_WITHIN = """
SELECT w.name, w.trigger, array_agg(DISTINCT ARRAY[rn.nspname::text, r.relname::text])
FROM unnest(%s::text[], %s::text[]) w (name, trigger)
JOIN pg_class c ON c.relname = w.name JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = w.trigger
CROSS JOIN LATERAL (SELECT c.oid UNION ALL SELECT relid FROM pg_partition_ancestors(c.oid)) a (oid)
JOIN pg_class r ON r.oid = a.oid JOIN pg_namespace rn ON rn.oid = r.relnamespace
WHERE t.tgtype & 66 <> 0
GROUP BY w.name, w.trigger
"""
_STRING = re.compile(r"'(?:[^']|'')*'")
_PAGES_OF_A_NEW_TABLE = 10  # the planner's assumption until the first ANALYZE
_PAGE = 8192
_COMPARES = r" (?:=|<|>|<=|>=|= ANY) "


@dataclass(frozen=True)
class Table:
    """A table. `root` is its partitioned table, or itself. `varchars` are its columns of that type."""

    schema: str
    name: str
    root: str
    pages: int
    visible_pages: int
    is_partition: bool
    columns: list[str]
    varchars: list[str]
    analyzed: bool
    bytes: int
    keys: list[list[str]]

    @property
    def is_new(self) -> bool:
        """Return true if the table was never analyzed, and is so small that the planner overestimates it."""
        return not self.analyzed and self.bytes <= _PAGES_OF_A_NEW_TABLE * _PAGE

    @property
    def indexes(self) -> list[Index]:
        """Return the valid indexes."""
        return [Index(*key) for key in self.keys]


@dataclass(frozen=True)
class Index:
    """A valid index: its name, plain and as SQL writes it, its first key, its definition, and the condition of a partial one."""

    name: str
    quoted: str
    first_key: str
    definition: str
    predicate: str


Named = tuple[str, str]  # schema and name


def look_up(conn: psycopg.Connection, tables: Iterable[Named]) -> dict[Named, Table]:
    """Return the tables that exist: one that the statement created does not."""
    with conn.cursor(row_factory=class_row(Table)) as cursor:
        found = cursor.execute(_TABLES, _columns(tables)).fetchall()
    return {(table.schema, table.name): table for table in found}


def index_roots(conn: psycopg.Connection, indexes: Iterable[Named]) -> dict[Named, str]:
    """Return for each index the name of its partitioned index, else its own."""
    return {(row[0], row[1]): row[2] for row in conn.execute(_INDEXES, _columns(indexes)).fetchall()}


def triggers_within(conn: psycopg.Connection, triggers: Iterable[Named]) -> dict[Named, set[Named]]:
    """Return for each trigger (table, trigger) that fires within the writing node, BEFORE or INSTEAD OF, the tables that node may name."""
    rows = conn.execute(_TRIGGERS_WITHIN, _columns(triggers)).fetchall()
    return {(name, trigger): {(schema, table) for schema, table in tables} for name, trigger, tables in rows}


def _columns(names: Iterable[Named]) -> list[list[str]]:
    pairs = sorted(set(names))
    return [[schema for schema, _ in pairs], [name for _, name in pairs]]


def compared(condition: str, alias: str, table: Table) -> tuple[list[str], list[str]]:
    """Return the columns that a condition, as EXPLAIN (VERBOSE) prints it, compares in a way that a plain index supports.

    First those that must be equal to something, then those that are bounded. A column within a function or under a cast is not
    included, nor one of an alternative (OR).
    """
    quoted = alias.replace('"', '""')
    alias = rf'(?:{re.escape(alias)}|"{re.escape(quoted)}")'
    equal: list[str] = []
    bounded: list[str] = []
    parts = conjuncts(_STRING.sub("''", condition))
    for column in table.columns:
        name = rf"{alias}\.{re.escape(column)}(?![\w$])"
        # A cast of varchar to text converts nothing.
        side = rf"(?:{name}|\({name}\)::text)" if column in table.varchars else name
        for part in parts:
            if re.fullmatch(rf"(?:NOT )?{name}|{name} IS (?:TRUE|FALSE)", part):
                equal.append(column)
                break
            if re.fullmatch(rf"{name} IS NULL", part):  # equal too, but usually true of many rows
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
    """Return true if the condition contains OR."""
    return " OR " in _STRING.sub("", condition)


def conjuncts(condition: str) -> list[str]:
    """Return the parts that must all hold."""
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
    return [one for part in [*parts, condition[begin:]] for one in conjuncts(part)]


def _closing(text: str) -> int:
    """Return the position where the parenthesis at the beginning of the text closes."""
    depth = 0
    for place, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return place
    return -1
