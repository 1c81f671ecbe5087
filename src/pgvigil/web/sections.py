"""Keep the answers of the sections of the state, for all clients together.

A section is one question. Its answer is kept for at least two seconds, and for a multiple of what it cost, so that open pages take
little however many there are. Sections that are cheap and due are read in one transaction. A mark shows whether a section can have
changed: as long as its mark is the same, the answer is not read again. A section that takes long is read while clients see the
answer before.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from pgvigil.web.problems import Problem, too_slow
from pgvigil.web.shortening import of_a_page
from pgvigil.web.store import Connection, Store

_CHEAP: Final = 0.02  # seconds; cheaper sections are read together
_SHARE: Final = 20_000.0
_LONG_BUDGET: Final = 10.0  # seconds for a section that is read in the background
_WAITS: Final = 0.2  # seconds that a page waits for a section that may follow, where there is no answer yet
_SHOW_AGE: Final = 15.0  # an answer that is kept for longer says of when it is
_NEWS: Final = 5.0  # the age of rows that the API returns, at most
_ALIVE: Final = 1.0
_DAY: Final = 86400.0

# What changes with the rows of a section. Counts of the statistics may be late, and are taken before the rows: then these are read
# once more than needed. Statements are those of yesterday, today and tomorrow by this machine's clock, so that the server plans for
# three partitions and not for a hundred; the end of an older one shows in its session.
MARKS: Final = {
    "live": """(SELECT pg_catalog.concat(count(*), ' ', max(s.start_time), ' ', max(s.last_activity_at), ' ',
                                         bit_xor(pg_catalog.hashtextextended(s.session_id::text, 0))) FROM instrumentation.sessions s WHERE s.status = 'active')
               || (SELECT pg_catalog.concat(' ', count(*), ' ', bit_xor(pg_catalog.hashtextextended(t.statement_id::text, 0)))
                   FROM instrumentation.sql_statements t WHERE t.status = 'executing'
                     AND t.statement_id >= '{first}' AND t.statement_id < '{last}')""",
    "monitor": """(SELECT pg_catalog.concat(count(*), ' ', count(*) FILTER (WHERE m.seen_at > clock_timestamp() - 3 * m.report_interval), ' ', max(m.seen_at))
                   FROM pgvigil.session_monitors m)""",
    "sessions": """(SELECT pg_catalog.concat(pg_catalog.pg_stat_get_tuples_inserted(c), ' ', pg_catalog.pg_stat_get_tuples_updated(c), ' ',
                                             pg_catalog.pg_stat_get_tuples_deleted(c), ' ', pg_catalog.pg_relation_filenode(c))
                    FROM (SELECT '{sessions}'::regclass::oid) r (c))""",
}


@dataclass(frozen=True)
class Section:
    """A question about the state, how long its answer is kept, and the columns that only an admin sees.

    seconds, longest   its answer is kept for at least and at most so long; `share` times its cost in between
    mark               while it is the same, the answer is kept for up to `unchanged` seconds
    follows            a page does not wait for it: the answer before is shown meanwhile, or that it is on its way
    is_long            it reads a whole table, and has a budget of its own
    """

    read: Callable[[Connection, Store], Any]
    seconds: float = 2.0
    longest: float = 300.0
    private: tuple[str, ...] = ()
    share: float = _SHARE
    mark: str | None = None
    unchanged: float = 60.0
    follows: bool = False
    is_long: bool = False


@dataclass
class Answer:
    """The rows of a section, since when they are known, and until when they are kept."""

    data: Any
    at: str
    cost: float
    read_at: float
    expires: float
    epoch: int
    mark: str | None = None
    texts: dict[bool, str] = field(default_factory=dict)  # in JSON: by whether private columns are in it

    def shown(self, section: Section, *, private: bool) -> str:
        """Return the section of a page in JSON."""
        text = self.texts.get(private)
        if text is None:
            head = {"at": self.at} if self.expires - self.read_at > _SHOW_AGE else None
            text = self.texts[private] = of_a_page(masked(section, self.data, private=private), head)
        return text


def masked(section: Section, data: Any, *, private: bool) -> Any:
    """Return the rows with null in columns that may repeat text of others, unless `private` is shown."""
    return [{**row, **dict.fromkeys(section.private)} for row in data] if section.private and not private else data


class Sections:
    """The sections of one application."""

    def __init__(self, store: Store, known: dict[str, Section]) -> None:
        self._store, self._known = store, known
        self._answers: dict[str, Answer] = {}
        self._problems: dict[str, Problem] = {}
        self._alone: set[str] = set()  # those that failed: they shall not take others with them
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pulses: dict[tuple[str, ...], asyncio.Task[tuple[str | None, ...]]] = {}
        self._answered = 0.0

    # --- asking ------------------------------------------------------------------------------------------------------

    async def rows(self, name: str, newest: float = _NEWS, seconds: float | None = None) -> Answer:
        """Return an answer that is at most `newest` seconds old, within `seconds`. Raise Problem.

        Without `newest`, the database has answered within the last second.
        """
        known = self._current(name)
        age = time.monotonic() - known.read_at if known else newest
        if known is None or age >= newest:
            await asyncio.wait(
                {self._read((name,))}, timeout=self._store.deadline + _ALIVE if seconds is None else seconds
            )
            known = self._current(name)
            if name in self._problems or known is None or name in self._reading:
                raise self._problems.get(name) or too_slow()
        elif age >= _ALIVE and newest <= _NEWS:
            await self.alive()
        return known

    async def page(self, names: Iterable[str]) -> dict[str, Answer | Problem | None]:
        """Return an answer or a problem for each of the names; None for one that follows."""
        names = list(names)
        now = time.monotonic()
        due = [name for name in names if (known := self._current(name)) is None or now >= known.expires]
        away: Problem | None = None
        marked = [name for name in due if self._may_be_same(name, now)]
        is_silent = now - self._answered >= _ALIVE
        # If others are due as well, the marks are read in their transaction.
        if (marked == due and (due or is_silent)) or self._was_away(due) or (is_silent and len(self._groups(due)) > 1):
            try:
                due = await self._without_same(due, marked if marked == due else [])
            except Problem as error:
                away = error
                self._problems.update(dict.fromkeys(due, error))
        # Whoever has waited for a frozen server once does not wait twice.
        tasks = [self._read(group) for group in self._groups(due)] if away is None else []
        await self._finish(tasks, due, self._store.deadline)
        found: dict[str, Answer | Problem | None] = {}
        for name in names:
            known = self._current(name)
            if (problem := self._problems.get(name)) is not None and (name in due or known is None):
                found[name] = problem
            else:
                found[name] = known if known is not None or self._known[name].follows else self._problem(name)
        if away is not None:
            found["server"] = away
        return found

    async def alive(self) -> None:
        """Ask the database for nothing, at most once a second for all clients. Raise Problem."""
        if time.monotonic() - self._answered >= _ALIVE:
            await self._pulse(())

    async def _pulse(self, wanted: tuple[str, ...]) -> dict[str, str]:
        """Return these marks, by one question for all who ask at the same time. Raise Problem."""
        loop = asyncio.get_running_loop()
        known = self._pulses.get(wanted)
        if known is None or known.done() or known.get_loop() is not loop:
            known = self._pulses[wanted] = loop.create_task(self._store.pulse(lambda: self._query(wanted)))
            known.add_done_callback(lambda done: done.cancelled() or done.exception())
        found = await asyncio.shield(known)
        self._answered = time.monotonic()
        return {mark: str(value) for mark, value in zip(wanted, found, strict=False)}

    def _may_be_same(self, name: str, now: float) -> bool:
        known, section = self._current(name), self._known[name]
        return (
            known is not None and known.mark is not None and now - known.read_at < section.unchanged
            and name not in self._reading and name not in self._problems
        )  # fmt: skip

    async def _without_same(self, due: list[str], marked: list[str]) -> list[str]:
        """Return what is due without the sections whose marks are the same: those are kept on. Raise Problem."""
        try:
            marks = await self._pulse(tuple(sorted({self._known[name].mark or "" for name in marked})))
        except Problem as problem:
            if problem.kind in ("database-away", "busy", "not-migrated") or not marked:
                raise
            return due  # a lock or a right is in the way of one: each is read alone
        now = time.monotonic()
        for name in marked:
            known = self._current(name)
            if known is not None and known.mark == marks[self._known[name].mark or ""]:
                known.expires = max(known.expires, now + self._known[name].seconds)
        return [name for name in due if (known := self._current(name)) is None or now >= known.expires]

    def _was_away(self, due: list[str]) -> bool:
        """Return true if the database did not answer before: then one asks whether it is back, and the others do not fail meanwhile."""
        return any((known := self._problems.get(name)) is not None and known.kind == "database-away" for name in due)

    def _groups(self, due: list[str]) -> list[tuple[str, ...]]:
        """Return the names that are read together; those that cost much are read alone."""
        cheap = tuple(name for name in due if self._is_cheap(name))
        return [*((name,) for name in due if name not in cheap), *([cheap] if cheap else [])]

    def _current(self, name: str) -> Answer | None:
        """Return the answer, unless something was changed since by whoever wants to see it."""
        known = self._answers.get(name)
        return known if known is not None and known.epoch == self._store.epoch else None

    def _problem(self, name: str) -> Problem:
        return self._problems.get(name) or too_slow()

    def _is_cheap(self, name: str) -> bool:
        known = self._answers.get(name)
        return known is not None and known.cost < _CHEAP and name not in self._alone and not self._known[name].is_long

    async def _finish(self, tasks: list[asyncio.Task[None]], due: list[str], seconds: float) -> None:
        """Wait for what is needed: of sections that follow, for a moment, and only where there is no answer yet."""
        needed = {self._reading[name] for name in due if name in self._reading and not self._known[name].follows}
        needed |= {task for task in tasks if task not in self._reading.values()}
        if needed:
            await asyncio.wait(needed, timeout=seconds + _ALIVE)
        first = {self._reading[name] for name in due if name in self._reading and self._current(name) is None}
        if first:
            await asyncio.wait(first, timeout=_WAITS)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _read(self, names: tuple[str, ...]) -> asyncio.Task[None]:
        """Start to read the names that nobody is reading; return a task that is done when those are read."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # an application may be used by one loop after another
            self._loop, self._reading = loop, {}
        mine = tuple(name for name in names if name not in self._reading)
        if not mine:
            return self._reading[names[0]]
        task = loop.create_task(self._answer(mine))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        for name in mine:
            self._reading[name] = task
        return task

    async def _answer(self, names: tuple[str, ...]) -> None:
        try:
            await self._answer_together(names)
        finally:
            for name in names:
                self._reading.pop(name, None)

    async def _answer_together(self, names: tuple[str, ...]) -> None:
        epoch = self._store.epoch
        budget = _LONG_BUDGET if any(self._known[name].is_long for name in names) else None
        try:
            found = await self._store.ask(lambda connection: self._ask(connection, names, epoch), budget=budget)
        except Problem as problem:
            if len(names) > 1 and problem.kind not in ("database-away", "busy"):
                self._alone.update(names)  # one of them is to blame
                await asyncio.gather(*(self._answer_together((name,)) for name in names))
                return
            self._problems.update(dict.fromkeys(names, problem))
            self._alone.update(names if len(names) == 1 else ())
            return
        self._answered = time.monotonic()
        for name, answer in found.items():
            self._answers[name] = answer
            self._problems.pop(name, None)
            self._alone.discard(name)

    def _ask(self, connection: Connection, names: tuple[str, ...], epoch: int) -> dict[str, Answer]:
        marks = self._marks(connection, names)
        found = {}
        for name in names:
            section, known, began = self._known[name], self._answers.get(name), time.monotonic()
            mark = marks.get(section.mark or "")
            same = known is not None and known.epoch == epoch and mark is not None and known.mark == mark
            if known is not None and same and began - known.read_at < section.unchanged:
                known.expires = began + section.seconds
                found[name] = known
                continue
            data = section.read(connection, self._store)
            now = time.monotonic()
            kept = max(section.seconds, min(section.share * (now - began), section.longest))
            at = datetime.now(UTC).isoformat(timespec="seconds")
            found[name] = Answer(data, at, now - began, now, now + kept, epoch, mark)
        return found

    def _marks(self, connection: Connection, names: tuple[str, ...]) -> dict[str, str]:
        """Return the marks of the sections, in one question; none where the role may not read what they are made of."""
        wanted = sorted({mark for name in names if (mark := self._known[name].mark) is not None})
        if not wanted:
            return {}
        row = connection.execute(self._query(wanted).encode()).fetchone()
        return {mark: str(value) for mark, value in zip(wanted, row or (), strict=True)}

    def _query(self, marks: Iterable[str]) -> str:
        """Return the question for marks; for none, one that shows only whether the database answers. Only within a question."""
        query = "SELECT " + (", ".join(MARKS[mark] for mark in marks) or "1")
        if "{" not in query:
            return query
        now = time.time()
        places = {
            "{sessions}": self._store.table("sessions").replace("'", "''"),
            "{first}": _floor(now - _DAY),
            "{last}": _floor(now + _DAY),
        }
        return re.sub(r"\{[a-z]+\}", lambda found: places[found[0]], query)


def _floor(seconds: float) -> str:
    """Return the first id of a moment, as pgvigil.uuid_v7_floor does."""
    digits = f"{round(seconds * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"
