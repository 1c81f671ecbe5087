"""A proxy between a client and a server under test, which cuts the connection when certain bytes pass."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial


class Proxy:
    """A proxy that listens on a port of loopback and forwards everything to another, until a client sends what `before`
    knows.

    Then `act` is called, once, before it is passed on.
    """

    def __init__(self, port: int, before: Callable[[bytes], bool], act: Callable[[], None]) -> None:
        self._to = port
        self._before = before
        self._act = act
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self.acted = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut(self) -> None:
        """End every open connection, at both ends, without a word."""
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join()

    def _start(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        with self._listener, suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._start(partial(self._connect, client))

    def _connect(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._to)) as server:
            with self._lock:
                self._open += [client, server]
            back = self._start(partial(self._pass, server, client, asks=False))
            self._pass(client, server, asks=True)
            back.join()

    def _pass(self, source: socket.socket, sink: socket.socket, *, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if asks and not self.acted.is_set() and self._before(data):
                    self.acted.set()
                    self._act()
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(port: int, before: Callable[[bytes], bool], act: Callable[[Proxy], None] = Proxy.cut) -> Iterator[Proxy]:
    """A Proxy to a port; by default it cuts all connections."""
    wire = Proxy(port, before, lambda: act(wire))
    try:
        yield wire
    finally:
        wire.close()
