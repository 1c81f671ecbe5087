"""The health of a database, and the fixes. The checks are the server's: pgvigil.integrity_report."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from uuid import UUID

from psycopg import errors

from pgvigil import database, other_state
from pgvigil.database import Target
from pgvigil.diagnostics.remake import remake
from pgvigil.errors import PreconditionError
from pgvigil.live.redact import hide_secrets
from pgvigil.maintenance import job_runner
from pgvigil.migration import preflight
from pgvigil.progress import Reporter
from pgvigil.shipped import require_shipped

SOUND = ("ok", "advice")


@dataclass(frozen=True)
class Check:
    """A row of pgvigil.integrity_report(). `value` is NULL where it could not be looked at; `level` ok, warning, critical."""

    check_name: str
    value: Decimal | None
    warning: Decimal | None
    critical: Decimal | None
    level: str
    meaning: str
    detail: str | None
    fix: str | None


@dataclass(frozen=True)
class Setting:
    """A row of pgvigil.settings_report(). `level` is ok, advice, warning or critical; all but ok have the rest filled in."""

    setting: str
    value: str
    recommended: str | None
    level: str
    reason: str | None
    fix: str | None


@dataclass(frozen=True)
class Repair:
    """A session whose counters were wrong: as they were, and as its rows have them."""

    session_id: UUID
    context_count_was: int
    context_count: int
    total_tokens_was: int
    total_tokens: int
    total_content_bytes_was: int
    total_content_bytes: int


_CHECK = "text, numeric, numeric, numeric, text, text, text, text"
_SETTING = "text, text, text, text, text, text"
_REPAIR = "uuid, bigint, bigint, bigint, bigint, bigint, bigint"


@dataclass(frozen=True)
class Health:
    """The worst comes first in `checks`."""

    database: str
    deep: bool
    checks: tuple[Check, ...]
    settings: tuple[Setting, ...]
    repaired: tuple[Repair, ...] | None
    remade: tuple[str, ...] | None

    @property
    def levels(self) -> list[str]:
        """The levels of all checks and settings."""
        return [check.level for check in self.checks] + [setting.level for setting in self.settings]

    @property
    def healthy(self) -> bool:
        """Return True where no check and no setting is a warning or critical."""
        return all(level in SOUND for level in self.levels)

    @property
    def complete(self) -> bool:
        """Return True where every check saw all its objects: row security hid nothing, no right was missing."""
        return all(check.value is not None for check in self.checks)

    @property
    def exit_code(self) -> int:
        """Return 1 where a fault was found, 3 where none was found and not everything could be checked, else 0."""
        wrong = [check for check in self.checks if check.level not in SOUND and check.value is not None]
        if wrong or any(one.level not in SOUND for one in self.settings):
            return 1
        return 0 if self.complete else 3


def examine(target: Target, log: Reporter, *, deep: bool = False, repair: bool = False) -> Health:
    """Run all checks.

    With `repair` first correct counters and make replaced triggers and views again. Progress goes to `log`.

    Raise ConnectError, PreconditionError for a database that is not migrated as far as this, and the errors of
    remake().
    """
    with database.connect(target, "health") as conn:
        if repair:
            preflight.require_primary(conn)
        require_shipped(conn)
        job_runner.see_rows(conn)
        for setting in (
            "client_min_messages = notice",
            "client_connection_check_interval = '1s'",  # nobody waits for the report of a caller who is gone
        ):
            conn.execute(f"SET {setting}")
        conn.add_notice_handler(lambda notice: _progress(log, notice.message_primary or ""))
        try:
            repaired = remade = None
            if repair:
                remade = remake(conn, log)
                log.progress("recounting sessions")
                repaired = tuple(
                    other_state.rows(conn, Repair, "SELECT * FROM pgvigil.recount_session_counters()", _REPAIR)
                )
            query = f"SELECT * FROM pgvigil.integrity_report({'true' if deep else 'false'})"
            checks = tuple(
                replace(check, detail=hide_secrets(check.detail)) if check.detail else check
                for check in other_state.rows(conn, Check, query, _CHECK)
            )
            settings = tuple(other_state.rows(conn, Setting, "SELECT * FROM pgvigil.settings_report()", _SETTING))
        except (errors.UndefinedFunction, errors.InvalidSchemaName) as error:
            raise PreconditionError(
                "this database has no integrity report: it is not migrated, or not as far as this pgvigil is",
                "See pgvigil status; then pgvigil migrate.",
            ) from error
        return Health(conn.info.dbname, deep, checks, settings, repaired, remade)


def _progress(log: Reporter, notice: str) -> None:
    found = re.search(r"(\d+) of (?:about )?(\d+)", notice)
    log.progress(notice, int(found[1]) / max(int(found[2]), 1) if found else None)
