"""A server that sleeps while nobody asks: uvicorn's own wakes ten times a second, which costs more than an open page.

Before it takes the first request it prepares its answers, for half a second at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from socket import socket
from types import FrameType
from typing import Any, Final

import uvicorn
from uvicorn.server import ServerState

PREPARES: Final = 0.5  # seconds


class _State(ServerState):
    """The state of a server, whose Date header is made when it is asked for."""

    _made: tuple[int, list[tuple[bytes, bytes]]] = 0, []

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        if self._made[0] != now:
            self._made = now, [(b"date", formatdate(now, usegmt=True).encode())]
        return self._made[1]

    @default_headers.setter
    def default_headers(self, _: list[tuple[bytes, bytes]]) -> None: ...


class Server(uvicorn.Server):
    """A uvicorn server that waits for its end, without limits of requests and other things to look after now and then."""

    def __init__(self, config: uvicorn.Config, prepare: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        super().__init__(config)
        self._prepare = prepare
        self._preparing: asyncio.Task[None] | None = None
        self.server_state = _State()
        self._ended: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket] | None = None) -> None:
        if self._prepare is not None:  # clients can connect already, and wait
            self._preparing = asyncio.create_task(self._prepare())
            await asyncio.wait({self._preparing}, timeout=PREPARES)
        await super().startup(sockets)

    async def main_loop(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        if not self.should_exit:  # from here on a signal sets the event
            await self._ended.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None and self._ended is not None:
            self._loop.call_soon_threadsafe(self._ended.set)  # wakes it from within a signal as well
