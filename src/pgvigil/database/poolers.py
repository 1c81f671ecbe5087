"""Find connection poolers between a command and the server: does a connection keep its session, and how many more are
there?
"""

from __future__ import annotations

import select
import time
from contextlib import ExitStack, suppress

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq.abc import PGresult

from pgvigil.errors import ConnectError, PoolerError

BEGINS_WITHIN = 1.5  # seconds for another connection to begin a transaction; a pool of one session may never let it
_ANSWERS_WITHIN = 2.0  # seconds for an idle connection to report its backend
_LOOKS = 4  # a pool that rotates its backends gives the same one again, but not every time
WHO = "SELECT pg_catalog.pg_backend_pid()"


def require_session(conn: psycopg.Connection) -> None:
    """Check a connection through an intermediary, which reported another process than the one that answers.

    Raise PoolerError unless the connection keeps its backend from one transaction to the next.

    An idle pool gives its only client the same backend each time, so a second connection begins a transaction: if
    backends are shared, it takes the first one's, and the first gets another one, or has to wait.
    """
    ours = backend(conn, WHO, _ANSWERS_WITHIN)
    try:
        other = psycopg.connect(again(conn), autocommit=True, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise ConnectError(
            "a connection pooler is between pgvigil and the server, and refuses the second connection that would find out its "
            f"mode: {' '.join(str(error).split())}",
            "Connect to the server directly, or free a connection of the pooler.",
        ) from error
    shared = ours is None
    with suppress(psycopg.Error), other:
        for _ in range(_LOOKS):
            theirs = backend(other, f"BEGIN; {WHO}", BEGINS_WITHIN)
            # 0: statement pools refuse a BEGIN. None: it waits, perhaps because the first connection keeps its backend.
            shared = shared or theirs in (0, ours) or backend(conn, WHO, _ANSWERS_WITHIN) != ours
            if shared or theirs is None:
                break
            backend(other, "ROLLBACK", _ANSWERS_WITHIN)
        other.close()  # even if it still waits: the pooler removes it from its queue
    if shared:
        raise PoolerError(
            "a connection pooler is between pgvigil and the server: session settings do not survive a transaction",
            "Connect to the server directly, or to a pool in session mode. Nothing was changed.",
        )


def has_more_sessions(conn: psycopg.Connection, count: int = 1) -> bool:
    """Return false if a connection goes through a pooler that does not give so many further sessions now. Nothing is set in them."""
    if backend(conn, WHO, _ANSWERS_WITHIN) == conn.info.backend_pid:
        return True
    with ExitStack() as others:
        for _ in range(count):
            try:
                other = psycopg.connect(again(conn), autocommit=True, prepare_threshold=None)
            except psycopg.OperationalError:
                return False
            others.callback(other.close)
            if not backend(other, WHO, BEGINS_WITHIN):
                return False
    return True


def require_more_sessions(conn: psycopg.Connection, count: int, work: str) -> None:
    """Raise ConnectError, before `work` begins, if a pooler does not give the further sessions that it needs at once."""
    if not has_more_sessions(conn, count):
        raise ConnectError(
            f"{work} needs {count + 1} sessions at once, and the connection pooler between pgvigil and the server gives fewer",
            "Raise the pool's size to four sessions, or connect to the server directly. Nothing was changed.",
        )


def backend(conn: psycopg.Connection, query: str, seconds: float) -> int | None:
    """Return the backend that answers `query`; 0 if it refuses or disconnects, None if there is no answer in time."""
    try:
        result = answer(conn, query, seconds)
    except psycopg.OperationalError:
        return 0
    if result is None or result.status != pq.ExecStatus.TUPLES_OK:
        return None if result is None else 0
    return int(result.get_value(0, 0) or 0)


def answer(conn: psycopg.Connection, query: str, seconds: float, *parameters: str) -> PGresult | None:
    """Return the last result of a query, which is one statement if it has parameters; None if it does not arrive in time."""
    pgconn = conn.pgconn
    if parameters:
        pgconn.send_query_params(query.encode(), [parameter.encode() for parameter in parameters])
    else:
        pgconn.send_query(query.encode())
    answers = select.poll()
    answers.register(pgconn.socket, select.POLLIN)
    deadline = time.monotonic() + seconds
    while pgconn.flush() or pgconn.is_busy():
        if not answers.poll(max(deadline - time.monotonic(), 0) * 1000):
            return None
        pgconn.consume_input()
    last = None
    while (result := pgconn.get_result()) is not None:
        last = result
    return last


def again(conn: psycopg.Connection) -> str:
    """Return what another connection like this one is opened with, its password included."""
    return make_conninfo("", **conn.info.get_parameters(), password=conn.info.password)
