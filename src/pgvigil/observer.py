"""A look at the server from outside, while a block runs."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psycopg


class Observer:
    """A thread that looks at the server on a connection of its own, until the block ends; then the connection is closed.

    Without a connection (the server has room for one alone) nobody looks.
    """

    def __init__(self, conn: psycopg.Connection | None, name: str) -> None:
        self._conn = conn
        self._stop = threading.Event()
        self._thread = conn and threading.Thread(target=self._look, args=(conn,), name=name, daemon=True)

    def __enter__(self) -> Self:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        if self._conn:
            self._conn.close()

    def _look(self, conn: psycopg.Connection) -> None:
        """Look again and again until `self._stop` is set."""
        raise NotImplementedError
