"""The reports of one process to the database.

Each has the counts since the process began, so that it also replaces a lost report.

They run on a thread of their own: a database that does not answer delays neither the application nor the counting.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb

from pgvigil import database
from pgvigil.errors import PgvigilError
from pgvigil.live.own_transaction import own_transaction, refuse_superuser

_log = logging.getLogger("pgvigil")

_REGISTER: Final = "SELECT pgvigil.register_monitor(%s, %s, %s, %s, %s)"
_REPORT: Final = "SELECT r.known, r.log_interval FROM pgvigil.report_monitor(%s, %s, %s, %s, %s, %s) r"

State = tuple[dict[str, int], dict[str, list[int]]]
NOTHING: Final[State] = ({}, {})


def difference(now: State, before: State) -> State:
    """Return the counts since then."""
    counters = {name: value - before[0].get(name, 0) for name, value in now[0].items()}
    histograms = {
        name: [value - old for value, old in zip(bins, before[1][name], strict=True)] if name in before[1] else bins
        for name, bins in now[1].items()
    }
    return counters, histograms


class Reporter:
    """A sender of a monitor's state at an interval, and a last time when it is closed."""

    def __init__(
        self,
        target: database.Target,
        application: str,
        interval: float,
        state: Callable[[], State],
        gauges: Callable[[], dict[str, float | None]],
        on_interval: Callable[[float | None], None],
    ) -> None:
        self.target = target
        self.application = application[:100] or "application"
        self.interval = interval
        self._state = state
        self._gauges = gauges
        self._on_interval = on_interval  # called with the interval at which the database wants summaries to be logged
        self.begin_anew()

    def begin_anew(self) -> None:
        """Begin as a process that has reported nothing: a forked child."""
        self.id = str(uuid4())
        self._registered = False
        self._number = 0
        self._base = NOTHING  # reported under an id that the database knows no more
        self._taken = NOTHING  # known to be in the database
        self._unsure: State | None = None  # sent, and not answered
        self._failing = ""
        self._ended = threading.Event()
        self._abandoned = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="pgvigil session monitor", daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Report a last time, as ended: the row of this process is added to the totals at once."""
        self._ended.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def abandon(self) -> None:
        """End without a report: this process is not a worker."""
        self._abandoned = True
        self._ended.set()

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(self.interval)
            if self._abandoned or (ended and not self._registered and not any(self._state()[0].values())):
                return  # a command that has done nothing is not a worker
            try:
                self.report(ended=ended)
            except (PgvigilError, psycopg.Error, OSError) as error:
                self._fail(error)
            except Exception as error:  # noqa: BLE001 - a thread that ends would never report again
                self._fail(error)
            else:
                if self._failing:
                    self._failing = ""
                    _log.warning("the session monitor reports again to %s", self.target)

    def _fail(self, error: Exception) -> None:
        """Log an error once until it changes. The counts go with the next report."""
        diag = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        words = diag or " ".join(str(error).split())
        if isinstance(error, psycopg.errors.UndefinedFunction | psycopg.errors.InvalidSchemaName):
            words += ". Bring the database to the schema: pgvigil migrate"
        elif isinstance(error, psycopg.errors.InsufficientPrivilege):
            words += ". As the owner of pgvigil's schema: GRANT pgvigil_writer TO the login of the application"
        if words != self._failing:
            self._failing = words
            _log.warning("the session monitor cannot report to %s, and goes on trying: %s", self.target, words)

    def report(self, *, ended: bool = False) -> None:
        """Send one report. Raise PgvigilError or psycopg.Error."""
        with closing(database.open_connection(self.target, "session monitor")) as connection:
            refuse_superuser(connection)
            if not self._report(connection, ended) and not self._report(connection, ended):
                raise PgvigilError("the database forgets this worker as soon as it has registered")

    def _report(self, connection: psycopg.Connection[Any], ended: bool) -> bool:
        if not self._registered:
            every = timedelta(seconds=self.interval)
            # In a transaction of its own: a row begins without counts, so that to repeat this can count nothing twice.
            with own_transaction(connection, lock_timeout="5s", statement_timeout="10s"):
                connection.execute(
                    _REGISTER, (self.id, self.application, socket.gethostname()[:255], os.getpid(), every)
                )
            self._registered = True
        now = self._state()
        counters, histograms = difference(now, self._base)
        self._number += 1
        unsure, self._unsure = self._unsure, now
        with own_transaction(connection, lock_timeout="5s", statement_timeout="10s"):
            row = connection.execute(
                _REPORT, (self.id, self._number, Jsonb(counters), Jsonb(histograms), Jsonb(self._gauges()), ended)
            ).fetchone()
        self._unsure = None
        known, log_interval = row or (False, None)
        if not known:
            # Not seen for an hour: the row is in the totals, with what the database had of it. What was sent without an answer may
            # be there or not: nothing is to be counted twice.
            self._base = unsure or self._taken
            self.id, self._registered, self._number = str(uuid4()), False, 0
            return False
        self._taken = now
        self._on_interval(None if log_interval is None else log_interval.total_seconds())
        return True
