"""Keep the objects of pgvigil out of the migrations that an application's own Alembic generates.

In the application's env.py: `context.configure(…, include_object=pgvigil.autogenerate.include_object)`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from pgvigil import project

_SCHEMAS = frozenset({"pgvigil", "instrumentation"})
_APPLICATION = ("sessions", "context_history", "codebase_snapshots", "handoff_requests")


class _Names(NamedTuple):
    tables: re.Pattern[str]  # with their partitions
    columns: frozenset[tuple[str, str]]  # table and column
    indexes: frozenset[str]


@cache
def _names() -> _Names:
    """The names in the spec: those that pgvigil adds to the application's schema."""
    from pgvigil.validate import load_spec

    tables = load_spec(project.SPEC).tables
    own = [name for name in tables if "." not in name and name not in _APPLICATION]
    columns = {(table, name) for table in _APPLICATION for name, one in tables[table].columns.items() if one.added}
    return _Names(
        re.compile(rf"(?:{'|'.join(map(re.escape, own))})(?:_default|_p\d{{6,10}})?"),
        frozenset(columns),
        # Indexes of the other tables are the application's, as the tables are.
        frozenset(name for table in {table for table, _ in columns} for name in tables[table].indexes),
    )


def include_object(object: Any, name: str | None, type_: str, _reflected: bool, _compare_to: Any) -> bool:
    """Return false for what pgvigil makes and migrates itself; the rest of the database is the application's business.

    The arguments are those of Alembic's `include_object`. An object of the application's models with a name of pgvigil's is left out
    too: the application may map and query it, and never alters it.
    """
    table = object if type_ == "table" else getattr(object, "table", None)
    if table is None or name is None:
        return True
    names = _names()
    if table.schema in _SCHEMAS or names.tables.fullmatch(table.name):
        return False
    if type_ == "column":
        return (table.name, name) not in names.columns
    return not (type_ == "index" and name in names.indexes)
