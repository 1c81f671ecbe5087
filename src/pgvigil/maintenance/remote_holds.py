"""The legal holds for a telemetry server: another pgvigil database, to which recorders send the work of this database's
sessions.
"""

from __future__ import annotations

import psycopg
from psycopg import errors

from pgvigil import database
from pgvigil.backup.create import origin
from pgvigil.errors import JobError
from pgvigil.owner import execute, rows
from pgvigil.shipped import require_shipped

VALID_FOR = "1 hour"  # six times of job holds: after that, nothing is dropped there


def push(conn: psycopg.Connection, url: str) -> int:
    """Say which sessions are held, all of them; return how many.

    Raise JobError, ConnectError: retention there stops soon after.
    """
    held = [session for (session,) in rows(conn, "id uuid", "SELECT DISTINCT session_id FROM pgvigil.legal_holds")]
    everything = bool(rows(conn, "hold boolean", "SELECT k.hold FROM pgvigil.days_kept() k")[0][0])
    source = "/".join(origin(conn))
    with database.connect(database.parse_other_url(url, "PGVIGIL_TELEMETRY_URL"), "holds") as there:
        if "/".join(origin(there)) == source:
            raise JobError("the telemetry server is this database", "Give another one, or disable job holds.")
        require_shipped(there)
        try:
            query = "SELECT pgvigil.push_holds(%s, %s::interval, %s::uuid[], %s)"
            execute(there, query, (source, VALID_FOR, held, everything))
        except (errors.UndefinedFunction, errors.InvalidSchemaName) as error:
            raise JobError("the telemetry server is not migrated", "Run pgvigil migrate or setup there.") from error
        except errors.InsufficientPrivilege as error:
            raise JobError(
                f"role {there.info.user} may not push holds to the telemetry server", "GRANT pgvigil_admin to it there."
            ) from error
    return len(held)
