"""The state of this process in schema instrumentation: an instance with a heartbeat, and the sessions that it
registers.

Everything goes through the recorder's queue, so each session is in the database before its statements. Only the
heartbeat does not: it uses a connection of its own, so that a process with a busy recorder is not taken for dead.
"""

from __future__ import annotations

import os
import socket
import threading
import weakref
from contextlib import closing, suppress
from typing import Any, Final

import psycopg
from psycopg import generators, pq

from pgvigil import __version__, database
from pgvigil.live import records
from pgvigil.live.own_transaction import own_transaction, refuse_superuser
from pgvigil.live.recorder import Recorder

HEARTBEAT: Final = 20.0  # seconds; after a minute without a heartbeat an instance counts as dead
# The start in ISO format, which parses under any DateStyle and TimeZone.
_ME: Final = (
    b"SELECT a.pid, pg_catalog.to_char(pg_catalog.timezone('UTC', a.backend_start), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00\"')"
    b" FROM pg_catalog.pg_stat_activity a WHERE a.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
)

# The pid and start of a connection's server process. Behind a pooler both are None: another client may use it a moment later.
Backend = tuple[int | None, str | None]
POOLED: Final[Backend] = (None, None)


def backend_of(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> Backend:
    """Ask the server for its process below psycopg, which would begin a transaction. One round trip; raises psycopg.Error."""
    return _backend(connection, connection.pgconn.exec_(_ME))


async def async_backend_of(connection: psycopg.AsyncConnection[Any]) -> Backend:
    """Do the same without blocking the event loop."""
    connection.pgconn.send_query(_ME)
    return _backend(connection, (await connection.wait(generators.execute(connection.pgconn)))[-1])


def _backend(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], answer: Any) -> Backend:
    if answer.status != pq.ExecStatus.TUPLES_OK or answer.ntuples != 1:
        raise psycopg.InterfaceError("the server did not say which process serves this connection")
    pid = int(answer.get_value(0, 0))
    if pid != connection.pgconn.backend_pid:  # the pid reported at connection start; a pooler reports another one
        return POOLED
    return pid, (answer.get_value(0, 1) or b"").decode() or None


class Instance:
    """A row of instrumentation.instances for this process: one per recorder, until the recorder is closed or every user has left."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.append = recorder.append
        self.lock = threading.Lock()
        self.process = object()  # a new object in a forked child; compared where os.getpid() would be measurable
        self._users = 0
        self._registered: object = None
        self._closed = False
        recorder.before_close.append(self._close)

    def enter(self) -> None:
        """Add a user of the instance, until `leave` is called."""
        with self.lock:
            self._users += 1
        self._require()

    def leave(self, *, undone: bool) -> None:
        """Remove a user. A process that merely has no connection at the moment continues."""
        with self.lock:
            self._users -= 1
            last = self._users == 0
        if last and undone:
            self._stop("no longer instrumented")

    def register(self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], backend: Backend) -> str:
        """Register a session of this process and return its id. Raise RuntimeError if nothing is recorded any more."""
        self._require()
        if self._closed:
            raise RuntimeError("the recorder is closed")
        pgconn = connection.pgconn
        session = records.new_id()
        self.append(
            records.call(
                "register_session", instance=self.id, session=session, pid=backend[0], backend_start=backend[1],
                username=pgconn.user.decode(), application_name=(pgconn.parameter_status(b"application_name") or b"").decode(),
            )
        )  # fmt: skip
        return session

    def close(self, session: str, reason: str | None) -> None:
        """Record the end of a session."""
        self.append(records.call("close_session", session=session, reason=reason))

    def _require(self) -> None:
        """Register this process unless it is registered: a forked child is a new process."""
        if self._registered is self.process:
            return
        with self.lock:
            if self._registered is not self.process and not self._closed:
                self._registered = self.process
                self.id = records.new_id()
                self._ended = threading.Event()
                self._register()
                heart = threading.Thread(target=self._beat, args=(self._ended,), name="pgvigil heartbeat", daemon=True)
                heart.start()

    def _register(self) -> None:
        self.append(
            records.call(
                "register_instance", instance=self.id, hostname=socket.gethostname(), toolkit_version=__version__
            )
        )

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(HEARTBEAT):
            with suppress(Exception):  # the next one may succeed; if not, others see that heartbeats are missing
                # A new connection each time: one that idles this long may be ended, and then every second heartbeat would be missed.
                with closing(database.open_connection(self.recorder.target, "heartbeat")) as connection:
                    refuse_superuser(connection)
                    with own_transaction(connection, lock_timeout="5s"):
                        row = connection.execute("SELECT instrumentation.heartbeat(%s)", (self.id,)).fetchone()
                if row and not row[0]:
                    self._register()

    def _stop(self, reason: str) -> None:
        if self._registered is self.process:
            self._registered = None
            self._ended.set()
            self.append(records.call("stop_instance", instance=self.id, reason=reason))

    def _close(self) -> None:
        """Stop the instance: the recorder is about to end, at the latest when the process ends."""
        self._closed = True
        self._stop("its recorder was closed")


_instances: weakref.WeakKeyDictionary[Recorder, Instance] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def instance_of(recorder: Recorder) -> Instance:
    """Return the instance of this process and recorder, entered."""
    with _making:
        instance = _instances.get(recorder)
        if instance is None:
            instance = _instances[recorder] = Instance(recorder)
    instance.enter()
    return instance


def _after_fork_in_child() -> None:
    global _making  # noqa: PLW0603, RUF100 - a thread of the parent may hold the old one for ever
    _making = threading.Lock()
    for instance in list(_instances.values()):
        instance.lock, instance.process = threading.Lock(), object()


os.register_at_fork(after_in_child=_after_fork_in_child)
