"""The archives: rows that retention takes from the database, kept in Parquet files.

    units.py      which rows wait for their archive: partitions, and days of rows
    write.py      the work of job archive_files: their rows into files that are read back before they count
    catalogue.py  the list of archives, and the check that they are whole
    erase.py      the rows of one session, out of all files
    restore.py    rows back into a table

The database lists the archives in pgvigil.archives. A file that is not listed there does not count. The files
of a listed archive are compared with their SHA-256 before they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgvigil.errors import ArchiveError, UsageError

if TYPE_CHECKING:
    import duckdb


def duck(**config: Any) -> duckdb.DuckDBPyConnection:
    """Return an empty DuckDB in memory that works in UTC and loads no extensions.

    Raise UsageError where DuckDB is not installed.
    """
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise UsageError(
            "archives need the package duckdb, which is not installed", "Run: pip install 'pgvigil[archive]'"
        ) from error
    conn = duckdb.connect(config={"autoinstall_known_extensions": "false", "threads": 2, **config})
    conn.execute("SET TimeZone = 'UTC'")
    conn.execute("SET enable_progress_bar = false")  # after two seconds it would be in the output of a command
    return conn


@contextmanager
def explained() -> Iterator[None]:
    """Raise ArchiveError for what DuckDB cannot write: for lack of room, or a time after the year 294246."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        said = str(error).strip().partition("\n")[0][:300]
        raise ArchiveError(f"DuckDB cannot write a file: {said}", "Nothing is dropped.") from error


def identifier(name: str) -> str:
    """Return a name as SQL of DuckDB, of Spark in ANSI mode and of PostgreSQL has it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a string constant of DuckDB: no backslash means anything there."""
    return "'" + text.replace("'", "''") + "'"


def scan(paths: Iterable[Path]) -> str:
    """Return what DuckDB reads files as; it makes no columns of the names of their directories."""
    return f"read_parquet([{', '.join(literal(str(path)) for path in paths)}], hive_partitioning = false)"
