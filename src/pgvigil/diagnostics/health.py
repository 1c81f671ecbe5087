"""The health of a database, and the fixes. The checks are the server's: pgvigil.integrity_report."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg import errors

from pgvigil import database, other_state
from pgvigil.database import Target
from pgvigil.diagnostics.remake import remake
from pgvigil.errors import PreconditionError
from pgvigil.maintenance import job_runner
from pgvigil.migration import preflight
from pgvigil.progress import Reporter
from pgvigil.shipped import require_shipped
from pgvigil.text import counted, page

_SOUND = ("ok", "advice")
_TOLD = 10  # repaired sessions in a report for people


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
        """Of all checks and settings."""
        return [check.level for check in self.checks] + [setting.level for setting in self.settings]

    @property
    def healthy(self) -> bool:
        """No check and no setting is a warning or critical."""
        return all(level in _SOUND for level in self.levels)

    @property
    def complete(self) -> bool:
        """Every check could look at all that it is about: row security hid nothing, no right was missing."""
        return all(check.value is not None for check in self.checks)

    @property
    def exit_code(self) -> int:
        """1 where something is wrong, 3 where nothing is as far as could be seen, and not all could."""
        wrong = [check for check in self.checks if check.level not in _SOUND and check.value is not None]
        if wrong or any(one.level not in _SOUND for one in self.settings):
            return 1
        return 0 if self.complete else 3


def examine(target: Target, log: Reporter, *, deep: bool = False, repair: bool = False) -> Health:
    """All checks; if `repair`, after counters are corrected and replaced triggers and views made again. Progress goes to `tell`.

    Raises ConnectError, PreconditionError for a database that is not migrated as far as this, and what remake() raises.
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
                repaired = tuple(other_state.rows(conn, Repair, "SELECT * FROM pgvigil.recount_session_counters()"))
            query = f"SELECT * FROM pgvigil.integrity_report({'true' if deep else 'false'})"
            checks = tuple(other_state.rows(conn, Check, query))
            settings = tuple(other_state.rows(conn, Setting, "SELECT * FROM pgvigil.settings_report()"))
        except (errors.UndefinedFunction, errors.InvalidSchemaName) as error:
            raise PreconditionError(
                "this database has no integrity report: it is not migrated, or not as far as this pgvigil is",
                "See pgvigil status; then pgvigil migrate.",
            ) from error
        return Health(conn.info.dbname, deep, checks, settings, repaired, remade)


def _progress(log: Reporter, notice: str) -> None:
    found = re.search(r"(\d+) of (?:about )?(\d+)", notice)
    log.progress(notice, int(found[1]) / max(int(found[2]), 1) if found else None)


def document(health: Health) -> dict[str, Any]:
    """For machines: `checks` by name, `settings` in a list; numbers are numbers."""
    plain = asdict(health)
    checks = {
        check.pop("check_name"): {key: _number(value) for key, value in check.items()} for check in plain["checks"]
    }
    return {"healthy": health.healthy} | plain | {"checks": checks}


def _number(value: Any) -> Any:
    if not isinstance(value, Decimal):
        return value
    return int(value) if value == value.to_integral_value() else float(value)


# A bare 0 behind a name such as foreign_keys_enabled reads as "off". The name of a unit ends some names: it is not repeated.
_NONE_IS = {
    "foreign_keys_enabled": "all enforced",
    "database_integrity": "intact",
    "disabled_triggers": "none",
    "invalid_indexes": "none",
}
_UNITS = {
    "foreign_keys_enabled": "not enforced",
    "connection_pool_exhaustion": "%",
    "database_size_mb": "MB",
    "dead_rows_percent": "%",
    "avg_query_time_ms": "ms",
}


def _shown(check: Check) -> str:
    if not check.value and check.check_name in _NONE_IS:
        return _NONE_IS[check.check_name]
    return f"{_rounded(check, check.value)} {_UNITS.get(check.check_name, '')}".rstrip()


def _rounded(check: Check, value: Decimal | None) -> str:
    """Three digits say enough of a measure; a count is whole."""
    if value is None:
        return ""
    if check.check_name == "connection_pool_exhaustion":  # a share of 1
        value *= 100
    if value == value.to_integral_value() or abs(value) >= 100:
        return f"{round(value):,}"
    return f"{float(value):.3g}"


def text(health: Health) -> str:
    """For people: what is wrong with what fixes it, then what is well in a few lines."""
    counts = [f"{n} {level}" for level in ("critical", "warning", "advice") if (n := health.levels.count(level))]
    verdict = "healthy" if health.healthy else "not healthy"
    lines = [f'database "{health.database}" is {verdict}' + f" ({', '.join(counts)})" * bool(counts)]
    if health.repaired is not None:
        lines += ["", *_repairs(health.repaired)]
    lines += [f"made again  {one}" for one in health.remade or ()]
    for check in health.checks:
        if check.level not in _SOUND:
            limit = check.critical if check.level == "critical" else check.warning
            value = "" if check.value is None else f" {_shown(check)} ({check.level} from {_rounded(check, limit)} on)"
            lines += ["", f"{check.level:<10}{check.check_name}{value}", f"{'':<10}{check.meaning}"]
            lines += [f"{'':<10}{name}: {told}" for name, told in (("found", check.detail), ("fix", check.fix)) if told]
    for one in health.settings:
        if one.level != "ok":
            lines += ["", f"{one.level:<10}{one.setting}: {one.value}, better {one.recommended}"]
            lines += [f"{'':<10}{one.reason}", f"{'':<10}fix: {one.fix}"]
    lines.append("")
    for check in health.checks:
        if check.level == "ok":
            detail = f"   {check.detail}" if check.detail else ""
            lines.append(f"{'ok':<10}{check.check_name:<28}{_shown(check):>16}{detail}")
    for one in health.settings:
        if one.level == "ok":
            lines.append(f"{'ok':<10}{one.setting:<28}{one.value:>16}")
    return page(lines)


def _repairs(repaired: tuple[Repair, ...]) -> list[str]:
    if not repaired:
        return ["repaired  nothing: the counters of all sessions were right"]
    lines = [f"repaired  the counters of {counted(len(repaired), 'session')} (rows, tokens, bytes):"]
    for one in repaired[:_TOLD]:
        was = (one.context_count_was, one.total_tokens_was, one.total_content_bytes_was)
        lines.append(
            f"{'':<10}{one.session_id}  {was} are now {(one.context_count, one.total_tokens, one.total_content_bytes)}"
        )
    if len(repaired) > _TOLD:
        lines.append(f"{'':<10}… and {len(repaired) - _TOLD} more, all of them with --json")
    return lines
