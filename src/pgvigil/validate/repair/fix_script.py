"""Write one script of all repairs of a report, in an order that works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from pgvigil.validate.catalog import sql_text
from pgvigil.validate.catalog.identifiers import last_name, quoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.report.model import Finding, Report, outside_transactions

_ORDER = (
    "extension",
    "schema",
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

# In the order in which they can go.
_STOOD_ON = (
    "server",
    "foreign_data_wrapper",
    "aggregate",
    "function",
    "procedure",
    "type",
    "collation",
    "extension",
    "schema",
)
_DROPPED_VIEW = re.compile(r"^DROP (?:MATERIALIZED )?VIEW ([^;\n]*);$", re.MULTILINE)
_OPERATOR = r"(?<![-+*/<>=~!@#%^&|`?]){}(?![-+*/<>=~!@#%^&|`?])"
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
        piece for finding in findings for piece in _pieces(finding) if outside_transactions(piece.text) == outside
    ]
    blocks = []
    for finding, of_one in groupby(ordered(pieces), key=lambda piece: piece.finding):
        said = [sql_text.remark(f"{finding.kind}: {finding.object}")] if finding else []
        blocks.append("\n".join([*said, *(piece.text for piece in of_one), ""]))
    return blocks


def _pieces(finding: Finding) -> Iterator[Piece]:
    """A foreign key of a table that is made goes by itself: two tables may reference one another."""
    rank = ObjectRef.parse(finding.object)
    for step in finding.parts:
        ref, text, keys = ObjectRef.parse(step.object), step.fix, []
        if ref.kind == "table" and "CREATE " in text:
            one = re.compile(
                rf"^ALTER TABLE {re.escape(ref.label)} ADD CONSTRAINT [^\n]* FOREIGN KEY [^\n]*;\n?", re.MULTILINE
            )
            keys, text = one.findall(text), one.sub("", text)
        yield Piece(ref, text, finding.kind == "unexpected", finding, rank)
        for key in keys:
            yield Piece(ObjectRef("constraint", ref.label), key.rstrip("\n"), False, finding, rank)


class Piece(NamedTuple):
    """A statement or several, and the object that they are about."""

    ref: ObjectRef
    text: str
    removes: bool = False
    finding: Finding | None = None
    rank: ObjectRef | None = None  # the object of the finding


def ordered(pieces: list[Piece]) -> list[Piece]:
    """Sort pieces so that what makes an object goes before what names it.

    Pieces that remove an object come first. Where others may depend on the object until they are repaired, its
    removal goes last, unless its name is needed.
    """
    # A foreign key comes after the key that it references.
    left = sorted(
        pieces,
        key=lambda piece: (*_rank(piece.rank or piece.ref, removed=piece.removes), " FOREIGN KEY " in piece.text),
    )
    names = {at: name for at, piece in enumerate(left) if not piece.removes and (name := _name(piece.ref))}
    needs = {
        at: {other for other, name in names.items() if other != at and name.search(_relevant(piece.ref, piece.text))}
        for at, piece in enumerate(left)
        if not piece.removes
    }
    for at, piece in enumerate(left):
        if at in needs and piece.ref.kind == "comment":
            needs[at] |= {other for other in range(at) if left[other].finding is piece.finding and piece.finding}
    removals = [at for at in range(len(left)) if at not in needs]
    users = _users(left, removals)
    first, last = _removals(left, removals, users)
    for at in (*first, *last):  # what stays for a person to decide keeps what it uses
        if not left[at].text.startswith("-- ") and any(left[one].text.startswith("-- ") for one in users[at]):
            left[at] = left[at]._replace(text=sql_text.remark(left[at].text))
    done = list(first)
    waiting = [at for at in range(len(left)) if at in needs]
    while waiting:
        chosen = _next(waiting, needs)
        waiting.remove(chosen)
        done.append(chosen)
    return [left[at] for at in (*done, *last)]


def _removals(pieces: list[Piece], removals: list[int], users: dict[int, set[int]]) -> tuple[list[int], list[int]]:
    """Return the positions of removals, each before those of what it uses: those that go first, and those that go last."""
    to_come = {piece.ref.label for piece in pieces if not piece.removes}
    freed = " ".join(piece.text for piece in pieces if not piece.removes and " NO INHERIT " in piece.text)
    first = {at for at in removals if pieces[at].ref.label in to_come}
    while more := {user for at in first for user in users[at]} - first:
        first |= more
    able = [at for at in removals if at not in first]
    last = [
        at
        for at in able
        if _kind(pieces[at].ref) in _STOOD_ON or f" NO INHERIT {pieces[at].ref.label};" in freed  # by a child
    ]
    last.sort(key=lambda at: _STOOD_ON.index(kind) if (kind := _kind(pieces[at].ref)) in _STOOD_ON else -1)
    while more := {at for at in able if at not in last and users[at] & set(last)}:
        last += sorted(more)
    return _users_first([at for at in removals if at not in last], users), _users_first(last, users)


def _users(pieces: list[Piece], removals: list[int]) -> dict[int, set[int]]:
    """Return for each removal the removals of what uses the object."""
    texts = {at: finding.uses for at in removals if (finding := pieces[at].finding) and finding.uses}
    users: dict[int, set[int]] = {}
    for at in removals:
        ref = pieces[at].ref
        if ref.rare_kind == "transform":  # a function that uses it takes its type
            ref = ObjectRef("type", ref.rare_name.removeprefix("FOR ").rpartition(" LANGUAGE ")[0])
        name, plain = _name(ref), "" if ref.kind in ("other", "constraint", "index") else ref.name
        users[at] = {
            other for other, text in texts.items() if name and other != at and plain in text and name.search(text)
        }
    return users


def _users_first(some: list[int], users: dict[int, set[int]]) -> list[int]:
    done, waiting = [], list(some)
    while waiting:
        chosen = _next(waiting, users)
        waiting.remove(chosen)
        done.append(chosen)
    return done


def _next(waiting: list[int], needs: dict[int, set[int]]) -> int:
    """Return one that needs no other, or the first of those that need one another."""
    left = set(waiting)
    if (free := next((at for at in waiting if not needs[at] & left), None)) is not None:
        return free
    seen = [waiting[0]]
    while (at := min(needs[seen[-1]] & left)) not in seen:
        seen.append(at)
    return min(seen[seen.index(at) :])


def _kind(ref: ObjectRef) -> str:
    return ref.rare_kind or ref.kind


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
    elif ref.rare_kind == "transform":  # needed by the functions that use it
        label = "TRANSFORM FOR TYPE " + ref.rare_name.removeprefix("FOR ").rpartition(" LANGUAGE ")[0]
    elif ref.kind in ("constraint", "index"):  # a key, needed by those that reference it
        return re.compile(rf"REFERENCES {re.escape(ref.relation)}(?=\()") if ref.relation else None
    elif ref.kind not in (
        "schema",
        "collation",
        "type",
        "sequence",
        "table",
        "column",
        "function",
        "procedure",
        "aggregate",
        "view",
    ):
        return re.compile(_OPERATOR.format(re.escape(ref.name))) if ref.kind == "operator" else None
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
