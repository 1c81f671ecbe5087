"""Sample pg_stat_activity every few seconds, for applications that cannot be changed.

The server does the work: instrumentation.sample_activity() writes all new rows in one call; secrets are removed from
the texts here. Statements that begin and end between two samples are not seen, and a sample cannot show if a statement
succeeded.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from pgvigil import __version__, database
from pgvigil.errors import PgvigilError, PreconditionError
from pgvigil.live.copy_encoding import shown_query
from pgvigil.live.own_transaction import own_transaction, refuse_standby, refuse_superuser

_LONGEST: Final = 30.0  # seconds: a sample is a heartbeat too, and an instance that misses two of these counts as dead
_TEXTS: Final = "SELECT instrumentation.sampled_texts(%s)"
_SAMPLE: Final = "SELECT instrumentation.sample_activity(%s, %s::pg_catalog.text[], %s::pg_catalog.text[])"
_MAY_SAMPLE: Final = """
    SELECT pg_catalog.pg_has_role(r.oid, 'USAGE'), pg_catalog.quote_ident(CURRENT_USER)
    FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) 'pgvigil_admin'"""

# sample_activity runs with its owner's rights, and to a role without pg_read_all_stats pg_stat_activity hides the statements of others.
_SEES_ALL: Final = """
    SELECT o.rolsuper OR pg_catalog.pg_has_role(o.oid, 'pg_read_all_stats'::pg_catalog.name, 'USAGE'), pg_catalog.quote_ident(o.rolname)
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
    JOIN pg_catalog.pg_roles o ON o.oid OPERATOR(pg_catalog.=) p.proowner
    WHERE n.nspname OPERATOR(pg_catalog.=) 'instrumentation' AND p.proname OPERATOR(pg_catalog.=) 'sample_activity'"""


@dataclass(frozen=True)
class SamplerStats:
    """A snapshot of the counters since the sampler was made."""

    samples: int
    statements: int  # begun or ended, as seen by the samples
    errors: int  # samples that failed; the next one opens a new connection
    last_error: str  # empty if there was none; without errors, the right that the sampler lacks


class Sampler:
    """A sampler of the database of `url`: one sample every `every` seconds, in its own thread, until `close()`.

    The login role needs pgvigil_admin, because the sampler reads the statements of all roles. Raise ValueError for an
    interval of more than 30 seconds, UsageError for a URL that cannot be read, and nothing later: failures are counted,
    and the next sample is taken as usual.
    """

    def __init__(self, url: str | database.Target, *, every: float = 5.0) -> None:
        if not 0 < every <= _LONGEST:
            raise ValueError(f"every={every}: use more than 0 and at most {_LONGEST:.0f} seconds")
        self._target = url if isinstance(url, database.Target) else database.parse_url(url, "the sampler's URL")
        self._every = every
        self._connection: psycopg.Connection | None = None
        self._instance: UUID | None = None
        self._stats = SamplerStats(0, 0, 0, "")
        self._limits = ""  # sessions that the samples leave out
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pgvigil sampler", daemon=True)
        self._thread.start()

    def stats(self) -> SamplerStats:
        """Return a snapshot of the counters."""
        return self._stats

    def close(self, timeout: float = 10.0) -> None:
        """End the thread and mark the instance as stopped in the database. Waits at most `timeout` seconds."""
        self._ending.set()
        self._thread.join(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._try()
            self._ending.wait(self._every)
        self._try(ending=True)

    def _try(self, *, ending: bool = False) -> None:
        was = self._stats
        try:
            found = self._stop() if ending else self._sample()
            self._stats = SamplerStats(
                was.samples + (not ending), was.statements + found, was.errors, was.last_error or self._limits
            )
        except (psycopg.Error, PgvigilError) as error:
            words = f"{error.message}. {error.hint}" if isinstance(error, PgvigilError) else str(error)
            self._stats = SamplerStats(was.samples, was.statements, was.errors + 1, " ".join(words.split()))
            self._disconnect()

    def _sample(self) -> int:
        if self._connection is None:
            self._connection = database.open_connection(self._target, "sampler")
            self._check(self._connection)
        connection = self._connection
        with own_transaction(connection, statement_timeout="10s", lock_timeout="1s"):
            written = _written(connection, self._instance) if self._instance else None
            if written is None:  # the first sample, or the instance was marked as stopped
                self._instance = None
                made = connection.execute(
                    "SELECT instrumentation.register_instance(%s, %s, %s)",
                    (socket.gethostname(), __version__, Jsonb({"sampler": True, "every": self._every})),
                ).fetchone()
                self._instance = made[0] if made else None
                written = _written(connection, self._instance)
        return written or 0

    def _check(self, connection: psycopg.Connection) -> None:
        """Raise PreconditionError if the sampler cannot work."""
        refuse_superuser(connection)
        with own_transaction(connection, read_only=True):
            refuse_standby(connection)
            row = connection.execute(_MAY_SAMPLE.encode()).fetchone()
            seen = connection.execute(_SEES_ALL.encode()).fetchone()
        if row is None:
            raise PreconditionError(
                "the database has no role pgvigil_admin, which the sampler needs",
                "Run pgvigil migrate on it, or pgvigil setup.",
            )
        if not row[0]:
            raise PreconditionError(
                f"the sampler connects as {row[1]}, which is not a member of pgvigil_admin: it may not read the statements of other roles",
                f"GRANT pgvigil_admin TO {row[1]};",
            )
        if seen and not seen[0]:
            self._limits = (
                f"the sampler reads pg_stat_activity with the rights of {seen[1]}, which sees only sessions of its own roles."
                f" To see all: GRANT pg_read_all_stats TO {seen[1]};"
            )

    def _stop(self) -> int:
        if self._connection and self._instance:
            with own_transaction(self._connection, statement_timeout="10s", lock_timeout="1s"):
                self._connection.execute(
                    "SELECT instrumentation.stop_instance(%s, 'the sampler was closed')", (self._instance,)
                )
        self._disconnect()
        return 0

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _written(connection: psycopg.Connection, instance: UUID | None) -> int | None:
    """Take one sample; return None if the instance has ended."""
    asked = connection.execute(_TEXTS, (instance,)).fetchone()
    texts: list[str] = asked[0] if asked else []
    row = connection.execute(_SAMPLE, (instance, texts, list(map(_shown, texts)))).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def _shown(text: str) -> str:
    """Return the text without secrets. The server cuts long statements (track_activity_query_size), so the last literal may be open."""
    return shown_query(text + "'").removesuffix("'")
