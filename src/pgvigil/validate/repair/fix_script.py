"""Write one script of all repairs of a report, in an order that works."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pgvigil.validate.catalog import sql_text
from pgvigil.validate.catalog.identifiers import last_name, quoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.report.model import Finding, Report, outside_transactions

_ORDER = (
    "schema",
    "extension",
    "collation",
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

_STOOD_ON = ("function", "procedure", "aggregate", "type")
_DROPPED_VIEW = re.compile(r"^DROP (?:MATERIALIZED )?VIEW ([^;\n]*);$", re.MULTILINE)
_NEW_LABEL = re.compile(r"^ALTER TYPE .* ADD VALUE ", re.MULTILINE)


def fix_sql(report: Report) -> str:
    """Return all repairs in one transaction, in the order of their needs.

    Statements that a transaction refuses come after it.
    """
    refs = {f.object: ObjectRef.parse(f.object) for f in report.findings}
    anew = [ObjectRef("view", match[1]) for f in report.findings for match in _DROPPED_VIEW.finditer(f.fix)]
    repaired = [f for f in report.findings if f.fix and not any(refs[f.object].within(one) for one in anew)]
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
    pieces = [
        (ObjectRef.parse(f.object), _block(f, f.steps or (f.fix,), outside=outside), f.kind == "unexpected")
        for f in findings
    ]
    return [block for block in ordered(pieces) if block]


def _block(finding: Finding, steps: Iterable[str], *, outside: bool) -> str:
    """Return the parts of a repair inside the transaction and after it."""
    chosen = [step for step in steps if outside_transactions(step) == outside]
    return "\n".join([sql_text.remark(f"{finding.kind}: {finding.object}"), *chosen, ""]) if chosen else ""


def ordered(pieces: list[tuple[ObjectRef, str, bool]]) -> list[str]:
    """Return statements in such an order that what makes an object goes before what names it.

    Statements that remove an object come first. Where others may depend on the object until they are repaired, its
    removal goes last, unless its name is needed.
    """
    # A foreign key comes after the key that it references.
    left = sorted(pieces, key=lambda piece: (*_rank(piece[0], removed=piece[2]), " FOREIGN KEY " in piece[1]))
    names = {at: name for at, (ref, _, removed) in enumerate(left) if not removed and (name := _name(ref))}
    needs = {
        at: {other for other, name in names.items() if other != at and name.search(_relevant(ref, text))}
        for at, (ref, text, removed) in enumerate(left)
        if not removed
    }
    removals = [at for at in range(len(left)) if at not in needs]
    to_come = {ref.label for ref, _, removed in left if not removed}
    stood_on = [at for at in removals if left[at][0].kind in _STOOD_ON and left[at][0].label not in to_come]
    done: list[int] = [at for at in removals if at not in stood_on]
    waiting = [at for at in range(len(left)) if at in needs]
    while waiting:
        chosen = next((at for at in waiting if not needs[at] & set(waiting)), waiting[0])
        waiting.remove(chosen)
        done.append(chosen)
    return [left[at][1] for at in (*done, *stood_on)]


def _rank(ref: ObjectRef, *, removed: bool) -> tuple[int, int]:
    kind = (ref.commented or ref).kind
    late = ref.kind == "comment" or kind in ("grant", "revocation")
    rank = _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
    if kind == "other":
        rank = _ORDER.index("sequence") if ref.rare_kind in _NEEDED else rank
    return (0, -rank) if removed else (2 if late else 1, rank)


def _name(ref: ObjectRef) -> re.Pattern[str] | None:
    label = ref.bare_label
    if ref.rare_kind in _NEEDED:
        label = ref.rare_name.partition(" USING ")[0]
    elif ref.kind not in (
        "schema",
        "collation",
        "type",
        "sequence",
        "table",
        "column",
        "function",
        "procedure",
        "view",
    ):
        return None
    word = r'(?<!["\w]){}(?!["\w])'
    if ref.kind == "column":  # its name alone may be that of something else
        name, table = word.format(re.escape(ref.name)), word.format(re.escape(last_name(ref.relation)))
        return re.compile(f"(?s)(?=.*{table}).*{name}")
    return re.compile(word.format(re.escape(label)))


def _relevant(ref: ObjectRef, text: str) -> str:
    """A body that is a text is not looked into when it is stored."""
    if ref.kind in ("function", "procedure") and "\nBEGIN ATOMIC" not in text:
        return text.partition(" AS $")[0]
    return text
