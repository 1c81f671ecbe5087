"""`pgvigil health`: check the database."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pgvigil.commands.common import options, output
from pgvigil.commands.common.called import as_called
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.text import counted, page, print_report

if TYPE_CHECKING:
    from pgvigil.diagnostics.health import Check, Health, Repair

GROUP = Group.LOOK
SUMMARY = "check the database: integrity, jobs, load, settings; exit 1 when something is wrong"

_FIX = re.compile(r"^( {10}fix: )(.*)$", re.MULTILINE)
_STYLES = {
    "^critical(?= )": "red",
    "^warning(?= )": "yellow",
    "^advice(?= )": "cyan",
    "^ok(?= )": "green",
    "^ {10}fix: .*": "cyan",
    r'^database ".*" is not healthy': "red",
    r'^database ".*" is healthy': "green",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    options.add_json(command)
    command.add_argument(
        "--deep", action="store_true", help="read every table: all orphans, all counters recounted, amcheck where it is"
    )
    command.add_argument(
        "--repair", action="store_true",
        help="first restore replaced triggers and views of pgvigil, correct the counters of sessions, and list the changes",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.diagnostics import health
    from pgvigil.display import reporter

    target = required_target(arguments)
    with reporter() as log:
        found = health.examine(target, log, deep=arguments.deep, repair=arguments.repair)
    if arguments.json:
        print(output.json_text(_document(found)))
    else:
        report = _FIX.sub(lambda line: line[1] + as_called(line[2], target.option), text(found))
        print_report(report, _STYLES)
    return found.exit_code


_SHOWN = 10  # repaired sessions in a report for people


def _document(health: Health) -> dict[str, Any]:
    """Return the report for machines: `checks` by name, `settings` in a list, numbers as numbers."""
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
    """Round a measure to three digits. A count is shown in full."""
    if value is None:
        return ""
    if check.check_name == "connection_pool_exhaustion":  # a share of 1
        value *= 100
    if value == value.to_integral_value() or abs(value) >= 100:
        return f"{round(value):,}"
    return f"{float(value):.3g}"


def text(health: Health) -> str:
    """Return the report for people: faults and their fixes first, then the healthy checks in a few lines."""
    from pgvigil.diagnostics.health import SOUND

    counts = [f"{n} {level}" for level in ("critical", "warning", "advice") if (n := health.levels.count(level))]
    verdict = "healthy" if health.healthy else "not healthy"
    lines = [f'database "{health.database}" is {verdict}' + f" ({', '.join(counts)})" * bool(counts)]
    if health.repaired is not None:
        lines += ["", *_repairs(health.repaired)]
    lines += [f"made again  {one}" for one in health.remade or ()]
    for check in health.checks:
        if check.level not in SOUND:
            limit = check.critical if check.level == "critical" else check.warning
            value = "" if check.value is None else f" {_shown(check)} ({check.level} from {_rounded(check, limit)} on)"
            lines += ["", f"{check.level:<10}{check.check_name}{value}", f"{'':<10}{check.meaning}"]
            lines += [f"{'':<10}{name}: {text}" for name, text in (("found", check.detail), ("fix", check.fix)) if text]
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
    for one in repaired[:_SHOWN]:
        was = (one.context_count_was, one.total_tokens_was, one.total_content_bytes_was)
        lines.append(
            f"{'':<10}{one.session_id}  {was} are now {(one.context_count, one.total_tokens, one.total_content_bytes)}"
        )
    if len(repaired) > _SHOWN:
        lines.append(f"{'':<10}… and {len(repaired) - _SHOWN} more, all of them with --json")
    return lines
