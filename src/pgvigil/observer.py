"""A look at the server from outside, while a block runs."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psycopg


class Observer:
    """A thread that looks at the server on a connection of its own, until the block ends; then the connection is closed."""

    def __init__(self, conn: psycopg.Connection, name: str) -> None:
        self._conn = conn
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._conn.close()

    def _look(self) -> None:
        """Look again and again until `self._stop` is set."""
        raise NotImplementedError
