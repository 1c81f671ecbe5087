"""The requests of an application, and the operations of its sessions that belong to each."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any, Final
from uuid import uuid4

from pgvigil.live.monitor_counts import CLOSED, Counts, Event, current_request, split

OPEN_REQUESTS: Final = 10_000  # those that nobody ends are forgotten
_OPERATIONS_KEPT: Final = 1_000  # of one request


@dataclass
class _Request:
    endpoint: str
    began: int
    before: deque[Event] | None  # of the request that it is part of
    operations: deque[Event] = field(default_factory=lambda: deque(maxlen=_OPERATIONS_KEPT))


def begin(counts: Counts, endpoint: str) -> str:
    """Begin a request of this thread or task; return its id."""
    if len(counts.requests) >= OPEN_REQUESTS:
        with suppress(StopIteration, KeyError, RuntimeError):
            del counts.requests[next(iter(counts.requests))]
    request_id = uuid4().hex
    request = _Request(str(endpoint), perf_counter_ns(), current_request.get())
    counts.requests[request_id] = request
    current_request.set(request.operations)
    return request_id


def end(counts: Counts, request_id: str | None) -> dict[str, Any] | None:
    """Return the work of that request; None if it is not known."""
    request: _Request | None = counts.requests.pop(request_id or "", None)
    if request is None:
        return None
    if current_request.get() is request.operations:
        current_request.set(request.before)
    took = perf_counter_ns() - request.began
    counts.emit(("request", took))
    operations: dict[str, int] = {}
    for event in request.operations:
        name = event if isinstance(event, str) else event[0]
        name = "cleanup" if name is CLOSED else name
        operations[name] = operations.get(name, 0) + 1
    operations = split(operations)
    opened = operations.get("creation", 0) + operations.get("reopened", 0)
    return {
        "request_id": request_id,
        "endpoint": request.endpoint,
        "duration": took / 1e9,
        "operations": operations,
        "errors": operations.get("errors", 0),
        "detached": operations.get("detached", 0),
        "leaves_open": opened > operations.get("cleanup", 0),
    }
