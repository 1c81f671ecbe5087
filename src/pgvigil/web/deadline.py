"""End a wait for a server that does not answer: no timeout of the server works while the server is frozen.

At the deadline the socket is shut, and the thread that waits in a query fails at once with the driver's own error. One thread
watches over all of them: a Timer of its own for each call would cost 90 microseconds.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import socket
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector

import psycopg
from psycopg import errors, pq


class Watch:
    """A call under a deadline; `expired` is true once its socket was shut."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor  # our own duplicate: the original may be somebody else's by then
        self._lock = threading.Lock()
        self.expired = False

    def expire(self) -> None:
        with self._lock:
            if self._descriptor is not None:
                self.expired = True
                with suppress(OSError), socket.socket(fileno=os.dup(self._descriptor)) as handle:
                    handle.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


class Watchdog:
    """A thread that shuts sockets at their deadlines. It starts with the first, and ends when there was none for a while."""

    def __init__(self, idle: float = 10.0) -> None:
        self._idle = idle
        self._heap: list[tuple[float, int, Watch]] = []
        self._changed = threading.Condition()
        self._numbers = count()
        self._running = False

    @contextmanager
    def watching(self, pgconn: pq.abc.PGconn, deadline: float) -> Iterator[Watch]:
        """Put the connection under `deadline` (of time.monotonic) until the block ends."""
        watch = Watch(os.dup(pgconn.socket))
        try:
            with self._changed:
                heapq.heappush(self._heap, (deadline, next(self._numbers), watch))
                if not self._running:
                    threading.Thread(target=self._run, name="pgvigil deadlines", daemon=True).start()
                    self._running = True
                elif self._heap[0][2] is watch:
                    self._changed.notify()
            yield watch
        finally:
            watch.end()

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                while self._heap and self._heap[0][0] <= now:
                    heapq.heappop(self._heap)[2].expire()
                wait = self._heap[0][0] - now if self._heap else self._idle
                if not self._changed.wait(wait) and not self._heap:
                    self._running = False
                    return


def ask(pgconn: pq.abc.PGconn, query: bytes, deadline: float) -> pq.abc.PGresult:
    """Send statements in one round trip, and return the result of the last. Raise psycopg.Error.

    After the deadline the connection is of no more use. It waits by itself: no other thread has to watch over it.
    """
    asked = _exchange(pgconn, query)
    with DefaultSelector() as selector:
        try:
            wanted = next(asked)
            selector.register(pgconn.socket, wanted)
            while ready := selector.select(max(0.0, deadline - time.monotonic())):
                if (now := asked.send(ready[0][1])) != wanted:
                    selector.modify(pgconn.socket, wanted := now)
        except StopIteration as done:
            return _checked(done.value)
    raise psycopg.OperationalError("the server does not answer")


async def ask_here(pgconn: pq.abc.PGconn, query: bytes, deadline: float) -> pq.abc.PGresult:
    """Do as `ask` does, in the event loop: to wake a thread and to be woken by it costs more than a short question."""
    loop = asyncio.get_running_loop()
    asked = _exchange(pgconn, query)
    try:
        wanted = next(asked)
        while ready := await _ready(loop, pgconn.socket, wanted, deadline):
            wanted = asked.send(ready)
    except StopIteration as done:
        return _checked(done.value)
    raise psycopg.OperationalError("the server does not answer")


async def _ready(loop: asyncio.AbstractEventLoop, descriptor: int, wanted: int, deadline: float) -> int:
    """Wait until the socket is ready for one of the wanted events, and return it; 0 at the deadline."""
    done: asyncio.Future[int] = loop.create_future()

    def is_ready(event: int) -> None:
        if not done.done():
            done.set_result(event)

    end = loop.call_later(max(0.0, deadline - time.monotonic()), is_ready, 0)
    loop.add_reader(descriptor, is_ready, EVENT_READ)
    if wanted & EVENT_WRITE:
        loop.add_writer(descriptor, is_ready, EVENT_WRITE)
    try:
        return await done
    finally:
        end.cancel()
        loop.remove_reader(descriptor)
        if wanted & EVENT_WRITE:
            loop.remove_writer(descriptor)


def _exchange(pgconn: pq.abc.PGconn, query: bytes) -> Generator[int, int, pq.abc.PGresult | None]:
    """Send and receive: yield the events to wait for, take the one that has come, and return the last result."""
    pgconn.send_query(query)
    last = None
    wanted = EVENT_READ | EVENT_WRITE if pgconn.flush() else EVENT_READ
    while True:
        while pgconn.is_busy():
            ready = yield wanted
            if ready & EVENT_WRITE and not pgconn.flush():
                wanted = EVENT_READ
            pgconn.consume_input()
        if (result := pgconn.get_result()) is None:
            return last
        if last is None or last.status != pq.ExecStatus.FATAL_ERROR:
            last = result


def _checked(result: pq.abc.PGresult | None) -> pq.abc.PGresult:
    if result is None:
        raise psycopg.OperationalError("the server gave no result")
    if result.status == pq.ExecStatus.FATAL_ERROR:
        raise errors.error_from_result(result)
    return result


def connect(conninfo: str, deadline: float) -> psycopg.Connection:
    """Open an autocommit connection within the deadline. Raise psycopg.OperationalError.

    Not by psycopg.connect: its shortest timeout is two seconds.
    """
    pgconn = pq.PGconn.connect_start(conninfo.encode())
    try:
        _complete(pgconn, deadline)
        pgconn.nonblocking = 1
        connection: psycopg.Connection = psycopg.Connection(pgconn)
    except BaseException:
        pgconn.finish()
        raise
    connection.autocommit = True
    connection.prepare_threshold = None  # a pooler in between must not meet prepared statements
    return connection


def _complete(pgconn: pq.abc.PGconn, deadline: float) -> None:
    status: int = pq.PollingStatus.WRITING
    while status != pq.PollingStatus.OK:
        if pgconn.status == pq.ConnStatus.BAD or status == pq.PollingStatus.FAILED:
            raise psycopg.OperationalError(pgconn.get_error_message())
        with DefaultSelector() as selector:  # the socket may be another one after each step
            selector.register(pgconn.socket, EVENT_READ if status == pq.PollingStatus.READING else EVENT_WRITE)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise psycopg.OperationalError("the server does not answer")
        status = pgconn.connect_poll()
