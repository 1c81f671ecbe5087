"""One script of all repairs of a report, in an order that works."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pgvigil.validate.catalog import sql_text
from pgvigil.validate.catalog.identifiers import quoted
from pgvigil.validate.catalog.object_paths import kind_of, last_name
from pgvigil.validate.report.model import Finding, Report, outside_transactions

_ORDER = (
    "schema",
    "extension",
    "type",
    "sequence",
    "table",
    "partition",
    "column",
    "function",
    "procedure",
    "constraint",
    "index",
    "view",
    "trigger",
)
# By tables, functions and one another.
_NEEDED = (
    "foreign_data_wrapper",
    "server",
    "language",
    "access_method",
    "ts_template",
    "ts_parser",
    "ts_dict",
    "opfamily",
)


_NEW_LABEL = re.compile(r"^ALTER TYPE .* ADD VALUE ", re.MULTILINE)


def fix_sql(report: Report) -> str:
    """All repairs, what others need first: in one transaction, but for what refuses to run in one, which comes after it."""
    anew = [
        f.object.partition(" ")[2]
        for f in report.findings
        if f.object.startswith("view ") and f.fix.startswith("DROP ")
    ]
    repaired = [f for f in report.findings if f.fix and not any(_stands_on(f.object, label) for label in anew)]
    # All other repairs call objects as they are to be called.
    renames = [f for f in repaired if f.found.startswith("renamed? ")]
    others = [f for f in repaired if f not in renames]
    first, blocks, after = _blocks(renames), _blocks(others), _blocks(others, outside=True)
    without = [
        sql_text.remark(f"{f.kind}: {f.object}: no SQL is known that repairs this")
        for f in report.findings
        if not f.fix
    ]
    head = (
        f"-- Read before you run it: psql -X -v ON_ERROR_STOP=1 -f FILE DATABASE\n"
        f"SET search_path = {quoted(report.schema)}, pg_temp;\nSET check_function_bodies = off;\n"
    )
    before = [block for block in blocks if _NEW_LABEL.search(block)]  # not to be used in the transaction that adds it
    blocks = [block for block in blocks if block not in before]
    inside = [*_whole(first), *before, *_whole(blocks)] if before else _whole([*first, *blocks])
    return "\n".join([head, *inside, *after, *without])


def _whole(blocks: list[str]) -> list[str]:
    return ["BEGIN;\n", *blocks, "COMMIT;\n"] if blocks else []


def _blocks(findings: list[Finding], *, outside: bool = False) -> list[str]:
    """Return the repairs inside a transaction and after it, in an order that works."""
    pieces = [(f.object, _block(f, f.steps or (f.fix,), outside=outside), f.kind == "unexpected") for f in findings]
    return [block for block in ordered(pieces) if block]


def _block(finding: Finding, steps: Iterable[str], *, outside: bool) -> str:
    """Return the parts of a repair inside the transaction and after it."""
    chosen = [step for step in steps if outside_transactions(step) == outside]
    return "\n".join([sql_text.remark(f"{finding.kind}: {finding.object}"), *chosen, ""]) if chosen else ""


def _stands_on(path: str, label: str) -> bool:
    rest = path.removeprefix("comment on ")
    return rest.removeprefix(kind_of(rest)).startswith(f" {label}.") or f" on view {label} " in rest


def ordered(pieces: list[tuple[str, str, bool]]) -> list[str]:
    """Statements for objects, so that what makes an object goes before what names it. Those that remove one come first, but
    for what others may stand on until they are repaired: that goes last, unless its name is wanted.
    """
    left = sorted(pieces, key=lambda piece: _rank(piece[0], removed=piece[2]))
    names = {at: name for at, (path, _, removed) in enumerate(left) if not removed and (name := _name(path))}
    needs = {
        at: {other for other, name in names.items() if other != at and name.search(_relevant(path, text))}
        for at, (path, text, removed) in enumerate(left)
        if not removed
    }
    removals = [at for at in range(len(left)) if at not in needs]
    to_come = {path.partition(" ")[2] for path, _, removed in left if not removed}
    stood_on = [
        at
        for at in removals
        if kind_of(left[at][0]) in ("function", "procedure", "aggregate", "type")
        and left[at][0].partition(" ")[2] not in to_come
    ]
    done: list[int] = [at for at in removals if at not in stood_on]
    waiting = [at for at in range(len(left)) if at in needs]
    while waiting:
        chosen = next((at for at in waiting if not needs[at] & set(waiting)), waiting[0])
        waiting.remove(chosen)
        done.append(chosen)
    return [left[at][1] for at in (*done, *stood_on)]


def _rank(path: str, *, removed: bool) -> tuple[int, int]:
    kind = kind_of(path.removeprefix("comment on "))
    late = path.startswith("comment on ") or kind in ("grant", "revocation")
    rank = _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
    if kind == "other":
        word = path.split(" ")[1]
        rank = _ORDER.index("sequence") if word in _NEEDED else rank
    return (0, -rank) if removed else (2 if late else 1, rank)


def _name(path: str) -> re.Pattern[str] | None:
    kind = kind_of(path)
    label = path.removeprefix(kind).strip().partition("(")[0]
    if kind == "other" and label.partition(" ")[0] in _NEEDED:
        label = label.partition(" ")[2].partition(" USING ")[0]
    elif kind not in ("schema", "type", "sequence", "table", "column", "function", "procedure", "view"):
        return None
    word = r'(?<!["\w]){}(?!["\w])'
    if kind == "column":  # its name alone may be that of something else
        column = last_name(label)
        table = last_name(label[: -len(column) - 1])
        return re.compile(f"(?s)(?=.*{word.format(re.escape(table))}).*{word.format(re.escape(column))}")
    return re.compile(word.format(re.escape(label)))


def _relevant(path: str, text: str) -> str:
    """A body that is a text is not looked into when it is stored."""
    if kind_of(path) in ("function", "procedure") and "\nBEGIN ATOMIC" not in text:
        return text.partition(" AS $")[0]
    return text
