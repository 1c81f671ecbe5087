"""An application at work on sessions and context rows, in processes of its own: how many statements, the longest, how long all
of them waited at once, errors.
"""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from types import TracebackType
from typing import Self

import psycopg

# Not *: a prepared statement whose result changes fails once, with every tool that adds a column.
READ = ("SELECT session_key, status, metadata FROM sessions WHERE id = %(id)s",)
WRITE = (
    "UPDATE sessions SET metadata = '{}' WHERE id = %(id)s",
    "UPDATE sessions SET status = CASE status WHEN 'active' THEN 'pending' ELSE 'active' END WHERE id = %(id)s",
    "INSERT INTO sessions (session_key, agent_from) VALUES (gen_random_uuid()::text, 'writer')",
    "INSERT INTO context_history (session_id, sequence_number, context_type, content)"
    " SELECT %(id)s, 1 + coalesce(max(sequence_number), 0), 'message', 'x' FROM context_history WHERE session_id = %(id)s",
)
SLOW = 0.05  # seconds; shorter waits do not count as waits of all


@dataclass
class Load:
    """A load of clients: `with Load(url, 4) as load: …`, then `count`, `longest`, `stalled` (seconds) and `errors` are those
    of all clients together.

    `stalled` is the longest time in which every client waited for a statement: of a lock on a table, all of it. `longest` is
    of any one client, which on a machine without a free processor may have waited for its turn only.

    Each client has sessions of its own: what is measured is waiting for somebody else, not for each other. `per_second`
    is the rate of all clients together; without it they go as fast as they can.
    """

    url: str
    clients: int
    statements: tuple[str, ...] = WRITE
    per_second: float | None = None
    count: int = 0
    longest: float = 0.0
    stalled: float = 0.0
    errors: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = multiprocessing.Event()
        self._ready = multiprocessing.Barrier(self.clients + 1)
        self._results: multiprocessing.Queue[tuple[int, float, list[tuple[float, float]], str]] = (
            multiprocessing.Queue()
        )
        self._processes = [
            multiprocessing.Process(target=self._work, args=(n, self._stop)) for n in range(self.clients)
        ]
        for process in self._processes:
            process.start()
        self._ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        waits = []
        for _ in self._processes:
            count, longest, slow, caught = self._results.get()
            self.count += count
            self.longest = max(self.longest, longest)
            waits.append(slow)
            self.errors += [caught] if caught else []
        at_once = waits[0]
        for slow in waits[1:]:
            both = ((max(a, c), min(b, d)) for a, b in at_once for c, d in slow)
            at_once = [(begin, end) for begin, end in both if begin < end]
        self.stalled = max((end - begin for begin, end in at_once), default=0.0)
        for process in self._processes:
            process.join()

    def _work(self, number: int, stop: Event) -> None:
        count, longest, error = 0, 0.0, ""
        slow: list[tuple[float, float]] = []
        with psycopg.connect(self.url, autocommit=True, application_name="application") as conn:
            mine = "SELECT id FROM sessions WHERE abs(hashtext(id::text)) %% 64 = %s LIMIT 500"
            ids = [row[0] for row in conn.execute(mine, (number,))]
            for statement in self.statements * 8:  # prepared and warm
                conn.execute(statement, {"id": ids[0]})  # type: ignore[arg-type]
            self._ready.wait()
            while not stop.is_set():
                began = time.perf_counter()
                statement = self.statements[count % len(self.statements)]
                try:
                    conn.execute(statement, {"id": ids[count // len(self.statements) % len(ids)]})  # type: ignore[arg-type]
                except psycopg.Error as caught:
                    error = str(caught)
                ended = time.perf_counter()  # one clock for all processes
                took = ended - began
                longest = max(longest, took)
                if took > SLOW:
                    slow.append((began, ended))
                count += 1
                if self.per_second:
                    stop.wait(max(0.0, self.clients / self.per_second - took))
        self._results.put((count, longest, slow, error))
