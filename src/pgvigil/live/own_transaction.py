"""The transactions on connections that pgvigil.live opens itself.

A pooler may be in between: every setting ends with its transaction.

No result depends on the settings of a role, a database or the server: a transaction states its own isolation, and sets
the rest by SET LOCAL. Every name is qualified, so any search_path works; it is left unchanged, because triggers of the
application run in these transactions too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg import errors

from pgvigil.errors import PreconditionError
from pgvigil.live.records import TABLES
from pgvigil.owner import UNDER_SUPERUSER

# Timeouts first: they are active already.
_SET: Final = (
    "SET LOCAL statement_timeout = {statement_timeout}; SET LOCAL lock_timeout = {lock_timeout};"
    " SET LOCAL idle_in_transaction_session_timeout = '10s'; SET LOCAL row_security = on"
)
_TRANSACTION_TIMEOUT_SINCE: Final = 170000
_ATTEMPTS: Final = 3
# Values that the driver parses or prints must not depend on the settings of the server.
_READABLE: Final = b"; SET LOCAL DateStyle = 'ISO'; SET LOCAL TimeZone = 'UTC'; SET LOCAL extra_float_digits = 1"
_LEDGER: Final = "SELECT m.schema_name FROM pgvigil.migrations m WHERE m.revision OPERATOR(pg_catalog.=) '000'"
# For a role that may not read the ledger: ids of this table are made by a function of pgvigil, and both have one owner, so that
# nobody else's table can pass for it.
_SCHEMA_BY_DEFAULT: Final = """
    SELECT n.nspname
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace f ON f.oid OPERATOR(pg_catalog.=) p.pronamespace
    JOIN pg_catalog.pg_depend d ON d.refobjid OPERATOR(pg_catalog.=) p.oid
         AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
         AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass
    JOIN pg_catalog.pg_attrdef a ON a.oid OPERATOR(pg_catalog.=) d.objid
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.adrelid AND c.relowner OPERATOR(pg_catalog.=) p.proowner
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE f.nspname OPERATOR(pg_catalog.=) 'pgvigil' AND p.proname OPERATOR(pg_catalog.=) 'uuid_v7'
      AND c.relname OPERATOR(pg_catalog.=) 'performance_logs' AND c.relkind OPERATOR(pg_catalog.=) 'p'"""
_TABLES: Final = """
    SELECT CASE WHEN n.nspname OPERATOR(pg_catalog.=) 'instrumentation' THEN pg_catalog.concat('instrumentation.', c.relname) ELSE c.relname END,
           pg_catalog.format('%%I.%%I', n.nspname, c.relname)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE n.nspname OPERATOR(pg_catalog.=) %s::pg_catalog.name AND c.relname OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.name[])
       OR n.nspname OPERATOR(pg_catalog.=) 'instrumentation'"""


def begin(
    connection: psycopg.Connection[Any],
    *,
    read_only: bool = False,
    statement_timeout: str = "0",
    lock_timeout: str = "0",
) -> bytes:
    """Return the statements that begin a transaction, for one round trip."""
    mode = "READ ONLY" if read_only else "READ WRITE"
    settings = _SET.format(statement_timeout=f"'{statement_timeout}'", lock_timeout=f"'{lock_timeout}'")
    if connection.info.server_version >= _TRANSACTION_TIMEOUT_SINCE:
        settings = f"SET LOCAL transaction_timeout = 0; {settings}"
    return f"BEGIN ISOLATION LEVEL READ COMMITTED, {mode}, NOT DEFERRABLE; {settings}".encode()


@contextmanager
def own_transaction(
    connection: psycopg.Connection[Any],
    *,
    read_only: bool = False,
    statement_timeout: str = "0",
    lock_timeout: str = "0",
) -> Iterator[None]:
    """Run a transaction: commit it at the end, roll it back on an exception. Fetch rows within it."""
    statements = begin(connection, read_only=read_only, statement_timeout=statement_timeout, lock_timeout=lock_timeout)
    try:
        _try_to_begin(connection, statements + _READABLE)
        yield
        connection.execute(b"COMMIT")
    except BaseException as error:
        with suppress(psycopg.Error):
            connection.execute(b"ROLLBACK")
        if (reason := unfit_pooler(error)) is not None:
            raise reason from error
        raise


def _try_to_begin(connection: psycopg.Connection[Any], statements: bytes) -> None:
    """Begin. On a busy server a timeout of a millisecond may strike before it is lifted."""
    for _ in range(_ATTEMPTS):
        with suppress(errors.QueryCanceled):
            connection.execute(statements)
            return
        with suppress(psycopg.Error):
            connection.execute(b"ROLLBACK")
    connection.execute(statements)


def unfit_pooler(error: BaseException) -> PreconditionError | None:
    """Return the error to raise if a pooler refuses transactions; None for any other error."""
    if isinstance(error, psycopg.Error) and "statement pooling" in str(error):
        return PreconditionError(
            "a connection pooler in statement mode is between this process and PostgreSQL, and refuses transactions",
            "Set pool_mode = transaction or session for this database in the pooler, or connect to the server directly.",
        )
    return None


def application_schema(connection: psycopg.Connection[Any]) -> str | None:
    """Return the schema of the application's tables, from the ledger. None: the role may not read it, or there is none.

    Not for use within a transaction.
    """
    unreadable = (errors.InsufficientPrivilege, errors.UndefinedTable, errors.InvalidSchemaName)
    with suppress(*unreadable), own_transaction(connection, read_only=True):
        row = connection.execute(_LEDGER.encode()).fetchone()
        return None if row is None else str(row[0])
    return None


def find_tables(connection: psycopg.Connection[Any], *, writing: bool = True) -> dict[int, str]:
    """Return the names of the tables to record into, with their schema, by their numbers.

    Raise PreconditionError if a table is missing, as refuse_superuser does, and for `writing` on a standby.
    """
    refuse_superuser(connection)
    schema = application_schema(connection)
    with own_transaction(connection, read_only=True):
        if writing:
            refuse_standby(connection)
        if schema is None:
            row = connection.execute(_SCHEMA_BY_DEFAULT.encode()).fetchone()
            schema = row[0] if row else None
        found = dict(connection.execute(_TABLES, (schema, list(TABLES))).fetchall())
    if missing := [table for table in TABLES if table not in found]:
        where = f' in schema "{schema}"' if schema and not missing[0].startswith("instrumentation.") else ""
        raise PreconditionError(
            f"the database has no table {missing[0]} of pgvigil to record into{where}",
            "Run pgvigil migrate on it, or pgvigil setup.",
        )
    return {kind: found[table] for kind, table in enumerate(TABLES)}


def in_query(table: str) -> str:
    """Return a quoted name as it is written into a query that has parameters."""
    return table.replace("%", "%%")


def refuse_superuser(connection: psycopg.Connection[Any]) -> None:
    """Raise PreconditionError for a superuser if another role owns the tables: its triggers would run with a superuser's rights.

    Not for use within a transaction.
    """
    with own_transaction(connection, read_only=True):
        row = connection.execute(UNDER_SUPERUSER.encode()).fetchone()
    if row:
        raise PreconditionError(
            f"{connection.info.user} is a superuser, and the tables of pgvigil belong to {row[0]}, whose triggers and functions would run"
            " with a superuser's rights",
            f"Connect as a login of the application, after: GRANT pgvigil_writer TO that login; or as {row[0]}.",
        )


def refuse_standby(connection: psycopg.Connection[Any]) -> None:
    """Raise PreconditionError if the server is a standby, which accepts no writes until it is promoted."""
    row = connection.execute(b"SELECT pg_catalog.pg_is_in_recovery()").fetchone()
    if row and row[0]:
        raise PreconditionError(
            "the server is a standby, which accepts no writes",
            "Connect to the primary: list both hosts in the URL and add target_session_attrs=read-write.",
        )
