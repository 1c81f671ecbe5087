"""Connect to a database, with the session settings that commands and jobs rely on.

Only this module and poolers.py open connections.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from threading import Thread

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq.abc import PGresult

from pgvigil import connect_advice
from pgvigil.database.libpq_files import require_files
from pgvigil.database.poolers import BEGINS_WITHIN, WHO, again, answer, backend, require_session
from pgvigil.database.settings import LIMITS, SESSION, SOCKET
from pgvigil.database.target import Target
from pgvigil.database.times import NearestTimeLoader
from pgvigil.errors import ConnectError, PgvigilError, UsageError

# One statement, which sets nothing if the backend is not the one that the connection began with. Every name is qualified,
# because the search_path is still that of the role or the database; no array is used, because array_nulls is theirs too.
_PIN = (
    "SELECT pg_catalog.set_config(s.name, s.value, false) FROM (VALUES "
    + ", ".join(f"('{name}', ${place}::pg_catalog.text)" for place, name in enumerate(SESSION, 1))
    + f") AS s (name, value) WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) ${len(SESSION) + 1}::pg_catalog.int4"
    " AND pg_catalog.current_setting(s.name, true) IS NOT NULL"
)
_ENDED_BY_A_LIMIT = re.compile("due to .* timeout|closed the connection unexpectedly")


def connect(target: Target, purpose: str, *, wait: float = 0, within: float = 10.0) -> psycopg.Connection:
    """Open a connection of a command or a job: as `open_connection`, with the session pinned to `SESSION`.

    A pooler has `within` seconds to give a session.

    Raise PoolerError if a pooler gives each transaction another backend; then nothing was set in any of them.
    """
    given, version = None, 0  # unknown: the last limit may be unknown to the server, too
    try:
        conn = open_connection(target, purpose, wait=wait)
        given, version = conn.info.options, conn.info.server_version  # a lost connection has none
        return _pinned(conn, within)
    except (psycopg.OperationalError, ConnectError) as error:
        failure = _connect_error(error, target)
    if given is None and not _ENDED_BY_A_LIMIT.search(failure.message):
        raise failure
    # A limit of the role or the database may be shorter than the statement that removes it, or even than the connection's own start.
    # A pooler does not accept such options: it has then accepted the connection, but has no server to offer.
    if given is None:
        given = target.parameters.get("options", os.environ.get("PGOPTIONS", ""))
    for limits in [LIMITS] * (not version or version >= 170000) + [LIMITS[:-1]] * (version < 170000):
        options = " ".join([given, *(f"-c {name}=0" for name in limits)])
        with suppress(psycopg.OperationalError, ConnectError):
            return _pinned(
                open_connection(Target({**target.parameters, "options": options}, target.source), purpose), within
            )
    raise failure


def _connect_error(error: psycopg.OperationalError | ConnectError, target: Target) -> ConnectError:
    if isinstance(error, ConnectError):
        return error
    words = " ".join(str(error).split())
    failure = ConnectError(f"cannot connect to {target}: {words}", _advice(words, target))
    failure.__cause__ = error
    return failure


def _pinned(conn: psycopg.Connection, within: float) -> psycopg.Connection:
    try:
        pin_session(conn, within)
    except BaseException:
        conn.close()
        raise
    conn.adapters.register_loader("timestamptz", NearestTimeLoader)
    return conn


def open_connection(target: Target, purpose: str, *, wait: float = 0) -> psycopg.Connection:
    """Open an autocommit connection named `pgvigil <purpose>`; try for `wait` seconds while no server answers.

    No setting is changed in its session, so it may go through any pooler: it is for the application's side. Raise
    ConnectError with libpq's message and what to do about it.
    """
    deadline = time.monotonic() + wait
    require_files(target.parameters, target.source)
    while True:
        try:
            return psycopg.connect(
                make_conninfo("", **SOCKET | dict(target.parameters)),
                autocommit=True,
                prepare_threshold=None,  # a pooler in between does not support prepared statements
                application_name=f"pgvigil {purpose}",
                client_encoding="utf8",
            )
        except psycopg.OperationalError as error:
            words = " ".join(str(error).split())
            # libpq checks some options only now.
            if re.search(r"\binvalid (integer|port|\w+ value)|\bdefinition of service |\bservice file ", words):
                raise UsageError(
                    f"the database address given by {target.source} cannot be used: {words}",
                    f"{_advice(words, target) if re.search('service|sslmode', words) else 'Fix the address.'} No server was contacted.",
                ) from error
            refused = any(sign in words for sign in ("authentication failed", "no password supplied", "does not exist"))
            if refused or time.monotonic() >= deadline:
                raise ConnectError(f"cannot connect to {target}: {words}", _advice(words, target)) from error
            time.sleep(0.2)
        except psycopg.ProgrammingError as error:  # libpq does not have this option
            raise UsageError(
                f"the database address given by {target.source} cannot be used: {error}",
                "Fix the address. No server was contacted.",
            ) from error


def pin_session(conn: psycopg.Connection, within: float) -> None:
    """Set the settings that a command or a job relies on.

    Raise as `connect` does, and OperationalError if there is no answer in `within` seconds: a pooler has accepted the
    connection, and has no server to give.
    """
    pinned = answer(conn, _PIN, within, *SESSION.values(), str(conn.info.backend_pid))
    if pinned is None:
        raise psycopg.OperationalError(f"there is no answer after {within:g} s; a pooler in between may be full")
    _raise_refusal(pinned, conn)
    if not pinned.ntuples:
        require_session(conn)
        again = answer(conn, _PIN, within, *SESSION.values(), str(backend(conn, WHO, within)))
        _raise_refusal(again, conn)


def _raise_refusal(result: PGresult | None, conn: psycopg.Connection) -> None:
    if result is not None and result.status != pq.ExecStatus.TUPLES_OK:
        words = result.error_message.decode(conn.info.encoding, "replace").strip()
        raise psycopg.OperationalError(words or "the connection was closed")


@contextmanager
def connecting(target: Target, purpose: str) -> Iterator[Callable[[], psycopg.Connection]]:
    """Connect in the background. A call of the yielded function waits for the connection, or raises."""
    connection: Future[psycopg.Connection] = Future()

    def make() -> None:
        try:
            made = connect(target, purpose)
        except (psycopg.Error, PgvigilError) as error:
            with suppress(InvalidStateError):
                connection.set_exception(error)
            return
        try:
            connection.set_result(made)
        except InvalidStateError:  # cancelled below: the connection is no longer needed
            made.close()

    Thread(target=make, daemon=True).start()  # Ctrl-C does not wait for a server that does not answer
    try:
        yield connection.result
    finally:
        if not connection.cancel() and not connection.exception():
            with connection.result():
                pass  # closed at its end


def beside(conn: psycopg.Connection) -> psycopg.Connection:
    """Open another connection like this one. Raise psycopg.OperationalError if the server has none left."""
    return _pinned(psycopg.connect(again(conn), autocommit=True, prepare_threshold=None), BEGINS_WITHIN)


def _advice(words: str, target: Target) -> str:
    if "password" in words and target.source.endswith(".env"):
        return f"Check user and password in {target.source}: passwords of other sources are not sent to a host that it names."
    if "password" in words:
        return "Check user and password: DATABASE_URL, PGPASSWORD, or a line in ~/.pgpass (mode 0600)."
    if re.search(r'database ".*" does not exist', words):
        return f"Check the name with psql -l. To create it: pgvigil setup{target.option}"
    if re.search(r'role ".*" does not exist', words):
        return "Check the user name: it is part of the URL, or PGUSER."
    return connect_advice.advice(words)


def is_missing_database(error: ConnectError) -> bool:
    """Return true if the server answered that it has no database of that name."""
    return bool(re.search(r'database ".*" does not exist', error.message))
