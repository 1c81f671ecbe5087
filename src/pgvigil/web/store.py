"""Ask the database: few connections, a deadline for each question, and a Problem for each failure.

Four threads ask at once; others wait up to a second. While a server is away or frozen, one caller at a time tries it; the
others fail at once.

More than 400 lines: the pool, its deadlines and its failures share one state.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

import anyio
import anyio.to_thread
import psycopg
from psycopg import errors, pq
from psycopg.conninfo import make_conninfo

from pgvigil.database import Target
from pgvigil.errors import PgvigilError, PreconditionError
from pgvigil.live.own_transaction import find_tables, in_query, own_transaction
from pgvigil.live.records import EXECUTION
from pgvigil.owner import UNDER_SUPERUSER
from pgvigil.text import one_line
from pgvigil.web import deadline, problems
from pgvigil.web.problems import Problem

_log = logging.getLogger("pgvigil.web")
T = TypeVar("T")
Connection = psycopg.Connection[Any]

_NOT_MIGRATED: Final = (
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.UndefinedColumn,
    errors.InvalidSchemaName,
)
_TOO_SLOW: Final = (errors.QueryCanceled, errors.LockNotAvailable)
_inherited: list[Connection] = []  # a forked child leaves its parent's connections alone, and open


class Store:
    """A bounded pool of connections, for the threads of one application.

    size             connections at most
    deadline         seconds until a question has an answer, whatever the server does; waiting for a connection included
    wait             seconds of it that a question may wait for a connection
    max_waiting      how many may
    lock_timeout     seconds to wait for the lock of somebody else
    pause            seconds after a failure to connect in which only one caller at a time tries
    """

    def __init__(
        self,
        target: Target,
        *,
        size: int = 4,
        deadline: float = 1.3,
        wait: float = 0.9,
        max_waiting: int = 64,
        lock_timeout: float = 0.5,
        pause: float = 1.0,
    ) -> None:
        self.target = target
        self._conninfo = make_conninfo(
            "", **{**target.parameters, "application_name": "pgvigil-web", "client_encoding": "utf8"}
        )
        self._size, self.deadline, self._wait, self._pause = size, deadline, wait, pause
        self.epoch = 0
        self._most = size + max_waiting
        # The server gives up before we shut the socket: then the connection stays, and a slow server is distinguished from a frozen one.
        self._statement_timeout = max(0.05, deadline * 0.8)
        self._lock_timeout = lock_timeout
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(self._size)
        self._idle: list[Connection] = []
        self._watchdog = deadline.Watchdog()
        self._asking = 0
        self._generation = 0
        self._away_until = 0.0
        self._trying = False
        self._tables: dict[int, str] = {}
        self._is_stale = True
        self._threads: dict[int, anyio.CapacityLimiter] = {}
        self._answers: dict[str, tuple[Any, float, Any]] = {}
        self._closed = False

    # --- asking ------------------------------------------------------------------------------------------------------

    async def ask(self, question: Callable[..., T], **options: Any) -> T:
        """Run `call` in a thread. A question that could only wait in vain is refused without one."""
        began = time.monotonic()
        if self._asking >= self._most:
            raise problems.busy()
        return await anyio.to_thread.run_sync(
            lambda: self.call(question, began=began, **options), limiter=self._limiter()
        )

    async def pulse(self, query: Callable[[], str]) -> tuple[str | None, ...]:
        """Ask for one row by the cheapest way, as text: in one round trip, with nothing to parse it. Raise Problem.

        `query` is called when the names of the tables are known.
        """
        settings = f"SET LOCAL statement_timeout = {self._statement_timeout * 1000:.0f}; SET LOCAL lock_timeout = {self._lock_timeout * 1000:.0f}; "

        def statements() -> bytes:
            text = query()  # alone it needs no timeout: the deadline ends it
            return (settings + text if " FROM " in text else text).encode()

        result = await self._ask_here(statements)
        if result is None:
            result = await self.ask(
                lambda connection, until: deadline.ask(connection.pgconn, statements(), until), bare=True
            )
        values = (result.get_value(0, column) for column in range(result.nfields))
        return tuple(None if value is None else value.decode() for value in values)

    async def _ask_here(self, statements: Callable[[], bytes]) -> pq.abc.PGresult | None:
        """Ask in the event loop if a connection is idle. None: a thread has to ask. Raises Problem."""
        connection = self._at_once()
        if connection is None:
            return None
        try:
            result = await deadline.ask_here(connection.pgconn, statements(), time.monotonic() + self.deadline)
        except BaseException as error:
            lost, late = self._let_go(connection)
            if lost and not late:
                self._drop_idle()
                return None
            raise self._problem(error, lost=lost) from error
        else:
            self._give_back(connection)
            return result
        finally:
            self._slots.release()
            with self._lock:
                self._asking -= 1

    def _at_once(self) -> Connection | None:
        """Take a place and an idle connection, if a question can have both without waiting."""
        if self._pid != os.getpid() or self._is_stale:
            return None
        with self._lock:
            if self._closed or self._trying or not self._idle or time.monotonic() < self._away_until:
                return None
            if not self._slots.acquire(blocking=False):
                return None
            self._asking += 1
            return self._idle.pop()

    async def shared(
        self,
        key: str,
        seconds: float,
        question: Callable[[Connection], T],
        *,
        keep: float = 0.0,
        longest: float = 120.0,
        **options: Any,
    ) -> T:
        """Ask once for all callers: an answer is kept for `seconds`, and callers wait for one that is on its way.

        It is kept for `keep` times what it cost as well, up to `longest` seconds, so that asking for ever costs the server little.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        known = self._answers.get(key)
        if known and known[0] is loop:
            _, expires, asked = known
            if not asked.done() or (time.monotonic() < expires and not asked.cancelled() and not asked.exception()):
                return cast("T", await asyncio.shield(asked))

        cost = 0.0

        def timed(connection: Connection) -> T:
            nonlocal cost
            began = time.monotonic()
            result = question(connection)
            cost = time.monotonic() - began
            return result

        async def answer() -> T:
            result = await self.ask(timed, **options)
            kept = max(seconds, min(keep * cost, longest))
            self._answers[key] = (loop, time.monotonic() + kept, task)
            return result

        task: asyncio.Task[T] = loop.create_task(answer())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting any more
        self._answers[key] = (loop, 0.0, task)
        return await asyncio.shield(task)

    def forget(self) -> None:
        """Forget the answers that are kept: something was changed, and whoever changed it wants to see it."""
        self._answers = {key: known for key, known in self._answers.items() if not known[2].done()}
        self.epoch += 1

    def _limiter(self) -> anyio.CapacityLimiter:
        import asyncio

        loop = id(asyncio.get_running_loop())
        if loop not in self._threads:
            self._threads.clear()  # of a loop that has ended: a limiter belongs to one
            self._threads[loop] = anyio.CapacityLimiter(self._most + 8)
        return self._threads[loop]

    def call(
        self, question: Callable[..., T], *, began: float | None = None, writing: bool = False,
        budget: float | None = None, bare: bool = False,
    ) -> T:  # fmt: skip
        """Run `question` in a transaction of its own, read-only unless `writing`, and return its result. Raise Problem.

        A reading question may be run twice: an idle connection may turn out to have been ended. `budget` replaces the
        deadline, for a question that takes longer or has less time. A `bare` question needs no transaction, and keeps
        to the deadline that it is called with.
        """
        if self._pid != os.getpid():
            _inherited.extend(self._idle)
            self._reset()
        began = time.monotonic() if began is None else began
        until = began + (budget or self.deadline)
        with self._lock:
            if self._closed:
                raise problems.database_away()
            if self._asking >= self._most:
                raise problems.busy()
            self._asking += 1
        try:
            if not self._slots.acquire(timeout=max(0.0, min(began + self._wait, until) - time.monotonic())):
                raise problems.busy()
            try:
                return self._guarded(
                    question, until, writing=writing, is_long=(budget or 0.0) > self.deadline, bare=bare
                )
            finally:
                self._slots.release()
        finally:
            with self._lock:
                self._asking -= 1

    def _guarded(
        self, question: Callable[..., T], until: float, *, writing: bool, is_long: bool, bare: bool
    ) -> T:  # fmt: skip
        with self._lock:
            if self._trying:
                raise problems.database_away()
            tries = time.monotonic() < self._away_until
            if tries and is_long and not writing:
                raise problems.database_away()  # whoever tries is to find out soon
            self._trying = tries
        try:
            return self._answer(question, until, writing=writing, is_long=is_long, bare=bare)
        finally:
            if tries:
                with self._lock:
                    self._trying = False

    def _answer(
        self, question: Callable[..., T], until: float, *, writing: bool, is_long: bool, bare: bool
    ) -> T:  # fmt: skip
        while True:
            connection, was_idle = self._take(min(until, time.monotonic() + self.deadline) if is_long else until)
            watch = None
            try:
                if bare and not self._is_stale:
                    result = question(connection, until)
                else:
                    if is_long and was_idle:  # a frozen server must not hold it for its own budget
                        soon = min(until, time.monotonic() + self.deadline)
                        deadline.ask(connection.pgconn, b"SELECT 1", soon)
                    with self._watchdog.watching(connection.pgconn, until) as watch:
                        result = self._in_transaction(
                            connection, question, until, writing=writing, is_long=is_long, bare=bare
                        )
            except BaseException as error:
                lost, late = self._let_go(connection, watch)
                if lost and was_idle and not writing and not late:
                    self._drop_idle()  # they are of the same server, which has been started again
                    continue
                raise self._problem(error, lost=lost) from error
            self._give_back(connection)
            with self._lock:
                self._away_until = 0.0
            return result

    def _in_transaction(
        self,
        connection: Connection,
        question: Callable[..., T],
        until: float,
        *,
        writing: bool,
        is_long: bool,
        bare: bool,
    ) -> T:
        if self._is_stale:
            try:
                self._tables = find_tables(connection, writing=False)
                self._is_stale = False
            except PreconditionError:
                connection.execute(b"SELECT FROM pgvigil.migrations LIMIT 0")  # whether it is a right that is missing
                raise
        if bare:
            return question(connection, until)
        left = max(0.05, (until - time.monotonic()) * 0.8)
        if not writing and not is_long:
            left = min(self._statement_timeout, left)
        with own_transaction(
            connection,
            read_only=not writing,
            statement_timeout=f"{left * 1000:.0f}ms",
            lock_timeout=f"{self._lock_timeout * 1000:.0f}ms",
        ):
            return question(connection)

    def _problem(self, error: BaseException, *, lost: bool) -> BaseException:
        if isinstance(error, Problem) or not isinstance(error, (psycopg.Error, PgvigilError)):
            return error
        self._log_failure(error)
        if lost:
            self._failed()
            return problems.database_away()
        if isinstance(error, _TOO_SLOW):
            return problems.too_slow()
        if isinstance(error, (*_NOT_MIGRATED, PgvigilError)):
            self._is_stale = (
                True  # other threads may be in the middle of a question: they keep the names that they have
            )
            return problems.not_migrated()
        if isinstance(error, errors.InsufficientPrivilege):
            return problems.missing_right()
        if isinstance(error, psycopg.OperationalError):
            return problems.database_away()
        return error

    def _log_failure(self, error: BaseException) -> None:
        from pgvigil.live.redact import hide_secrets

        words = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        said = one_line(hide_secrets(" ".join(str(words or error).split())))
        _log.warning("the database did not answer a question: %s", said)

    # --- connections -------------------------------------------------------------------------------------------------

    def _take(self, until: float) -> tuple[Connection, bool]:
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
            generation = self._generation
        try:
            connection = deadline.connect(self._conninfo, until)
            refused = True
            try:
                refused = bool(deadline.ask(connection.pgconn, UNDER_SUPERUSER.encode(), until).ntuples)
            finally:
                if refused:
                    connection.close()
            if refused:
                raise problems.superuser()
        except psycopg.Error as error:
            self._log_failure(error)
            self._failed()
            raise problems.database_away() from error
        connection._pgvigil_generation = generation  # type: ignore[attr-defined]
        return connection, False

    def _let_go(self, connection: Connection, watch: deadline.Watch | None = None) -> tuple[bool, bool]:
        """Close a connection after a failure, or keep it. Return whether it is lost, and whether only because it took too long."""
        late = connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE
        late = late or (watch is not None and watch.expired)
        lost = late or connection.closed or connection.pgconn.status != 0
        if lost:
            connection.close()
        else:
            self._give_back(connection)
        return lost, late

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            current = getattr(connection, "_pgvigil_generation", None) == self._generation and not self._closed
            if current and connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _failed(self) -> None:
        with self._lock:
            self._away_until = time.monotonic() + self._pause
        self._drop_idle()

    def _drop_idle(self) -> None:
        with self._lock:
            self._generation += 1
            dropped, self._idle = self._idle, []
        for connection in dropped:
            with suppress(psycopg.Error):
                connection.close()

    def close(self) -> None:
        """Close the connections; later questions are refused."""
        self._closed = True
        self._drop_idle()

    def table(self, name: str) -> str:
        """Return the qualified name of a table of the application, for use in a query. Only within a question."""
        schema = self._tables[EXECUTION].rpartition(".")[0]
        return in_query(f"{schema}.{name}")

    @property
    def executions(self) -> str:
        """Return the qualified name of the table of executions. Only within a question."""
        return self.table("query_executions")
