"""The verified backups, as the database itself knows them: jobs that delete sessions may want a young one.

Rows of pgvigil.backup_proofs are written with the rights of the owner of that table, so that nobody who may only run jobs can make one up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import psycopg
from psycopg import sql

from pgvigil.backup.manifest import Backup
from pgvigil.errors import PreconditionError
from pgvigil.owner import owner_of_table
from pgvigil.progress import Reporter

TABLE = "pgvigil.backup_proofs"


def record(conn: psycopg.Connection, taken_at: datetime | None, proof: str, detail: str) -> None:
    """Write a proof of a backup that was begun at `taken_at` (None: now).

    Raise PreconditionError where the database has no such table, and InsufficientPrivilege where the connected role may
    not write it.
    """
    owner = owner_of_table(conn, TABLE)
    if owner is None:
        raise PreconditionError(
            "this database keeps no proofs of backups: it is not migrated", "See pgvigil status; then pgvigil migrate."
        )
    moment = "pg_catalog.clock_timestamp()" if taken_at is None else sql.quote(taken_at.isoformat())
    owner.execute(
        conn,
        f"INSERT INTO {TABLE} (taken_at, proof, detail) VALUES ({moment}, {sql.quote(proof)}, {sql.quote(detail)})",
    )


def record_made(conn: psycopg.Connection, made: Backup) -> str | None:
    """Write the proof of a full backup of this database. Return a warning where it could not be written."""
    if made.kind != "full" or made.archive is None or owner_of_table(conn, TABLE) is None:
        return None
    try:
        record(conn, datetime.fromisoformat(made.began_at), made.proof, made.archive)
    except psycopg.Error as error:
        return "the database keeps no proof of this backup, and jobs that want one do not count it: " + " ".join(
            str(error).split()
        )
    return None


@contextmanager
def recorded(conn: psycopg.Connection, made: Backup | None, log: Reporter) -> Iterator[None]:
    """Write the proof of a run's first backup when the run has ended. Before that, its table may not exist."""
    try:
        yield
    finally:  # the backup is as good where the run fails
        if made is not None and not conn.closed and (warning := record_made(conn, made)):
            log(f"warning: {warning}")
