"""The builder of a diff: it collects differences, groups consequences under their cause, and drops those the server proves equivalent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from pgvigil.lazily import later
from pgvigil.validate.catalog.identifiers import schema_of, unquoted
from pgvigil.validate.catalog.object_ref import ROUTINES, ObjectRef, table
from pgvigil.validate.catalog.snapshot import Attributes, Connection, Snapshot
from pgvigil.validate.report.model import KINDS, Finding, Kind, Severity, Step, Unchecked
from pgvigil.validate.spec.declaration import Declaration

if TYPE_CHECKING:
    from pgvigil.validate.diff import equivalence, made_anew
    from pgvigil.validate.diff.equivalence import Probe
    from pgvigil.validate.repair import ddl_routines, fix_script
    from pgvigil.validate.spec import path_patterns
else:
    equivalence = later("pgvigil.validate.diff.equivalence")
    made_anew = later("pgvigil.validate.diff.made_anew")
    ddl_routines = later("pgvigil.validate.repair.ddl_routines")
    fix_script = later("pgvigil.validate.repair.fix_script")
    path_patterns = later("pgvigil.validate.spec.path_patterns")

ABSENT = "nothing"
_RANK = {
    kind: rank
    for rank, kind in enumerate(
        [
            "schema",
            "extension",
            "collation",
            "type",
            "function",
            "procedure",
            "sequence",
            "table",
            "column",
            "view",
            "constraint",
        ]
    )
}


class AttributeDiff(NamedTuple):
    """An attribute of an object that is not as declared, unless a probe shows that both texts mean the same."""

    expected: str
    found: str
    probe: Probe | None = None
    key: str = ""


class _Entry(NamedTuple):
    ref: ObjectRef
    finding: Finding
    parts: tuple[AttributeDiff, ...] = ()
    fix: Callable[[list[str]], str] | None = None  # from the attributes that differ


class DiffBuilder:
    def __init__(
        self, declaration: Declaration, found: Snapshot, strict: bool = False, to_come: tuple[str, ...] = ()
    ) -> None:
        """Begin a diff.

        `to_come` has patterns of objects that later migrations bring: they are not reported as missing.
        """
        self.declaration, self.found, self.strict, self.to_come = declaration, found, strict, to_come
        self.compared: Counter[str] = Counter()
        self.used_rules: set[str] = set()
        self.unchecked: list[Unchecked] = []
        self.unreadable: set[str] = set()  # tables whose rows were asked for
        self.whole_of: dict[ObjectRef, ObjectRef] = {}  # a partition's index → what it is part of
        self._in_force: set[ObjectRef] = set()  # what no rule covers
        self._comes_later: dict[ObjectRef, bool] = {}
        self._entries: list[_Entry] = []
        self._missing: dict[ObjectRef, tuple[Attributes, str]] = {}

    def add(
        self, kind: Kind, ref: ObjectRef, expected: str, found: str, severity: Severity = "finding", fix: str = ""
    ) -> None:
        self._entries.append(_Entry(ref, Finding(kind, ref.path, expected, found, severity, fix=fix)))

    def miss(
        self,
        ref: ObjectRef,
        expected: str,
        attributes: Attributes | None = None,
        root: str = "",
        fix: Callable[[], str] | None = None,
    ) -> None:
        self._missing[ref] = (attributes or {}, root)
        finding = Finding("missing", ref.path, expected, ABSENT)
        self._entries.append(_Entry(ref, finding, fix=(lambda _: fix()) if fix else None))

    def unexpected(
        self, ref: ObjectRef, found: str, ours: bool, fix: str = "", *, in_force: bool = False, uses: str = ""
    ) -> None:
        """Add an object that is not declared.

        With `in_force` it affects objects of ours, so that no rule ignores it. `uses` has the names of what it needs.
        """
        if in_force:
            self._in_force.add(ref)
        rules = () if in_force else self.declaration.ignore
        if rule := next((rule for rule in rules if path_patterns.covers(rule[0], ref.path)), None):
            self.used_rules.add(rule[0])
            self.add("unexpected", ref, f"left alone: {rule[1]}", found, "note")
        else:
            blamed = ours or self.strict
            severity: Severity = "finding" if blamed else "note"
            finding = Finding("unexpected", ref.path, "", found, severity, fix=fix if blamed else "", uses=uses)
            self._entries.append(_Entry(ref, finding))

    def differ(
        self,
        ref: ObjectRef,
        parts: Iterable[AttributeDiff],
        severity: Severity = "finding",
        kind: Kind = "different",
        fix: Callable[[list[str]], str] | None = None,
    ) -> None:
        if parts := tuple(parts):
            self._entries.append(_Entry(ref, Finding(kind, ref.path, severity=severity), parts, fix))

    @property
    def another_major(self) -> bool:
        """A dump of an older server brings what that server thought right for schema public."""
        major, server = self.declaration.major, self.found.server
        return bool(server and major and major != server.major and self.found.schema == "public")

    def said(self, text: str) -> str:
        return text.replace("{schema}", self.found.schema)

    def comes_later(self, ref: ObjectRef) -> bool:
        if ref not in self._comes_later:
            self._comes_later[ref] = any(path_patterns.covers(pattern, ref.path) for pattern in self.to_come)
        return self._comes_later[ref]

    # --- the end -----------------------------------------------------------------------------------------------------

    def resolved(self, conn: Connection) -> list[Finding]:
        if not self._entries:
            return []
        probes = [part.probe for entry in self._entries for part in entry.parts if part.probe]
        answers = equivalence.resolve(conn, self.found.schema, probes) if probes else {}
        # To look for what is missing because of something takes long, and nobody asks where all of it is still to come.
        followers = {} if all(map(self.comes_later, self._missing)) else self._followers()
        follows = {ref for refs in followers.values() for ref in refs}
        makers = {entry.ref: entry.fix for entry in self._entries if entry.fix and entry.finding.kind == "missing"}
        findings: list[tuple[ObjectRef, Finding]] = []
        differing: dict[ObjectRef, set[str]] = {}
        for entry in self._entries:
            finding = entry.finding
            if (finding.kind == "missing" and entry.ref in follows) or self.comes_later(entry.ref):
                continue
            left = [part for part in entry.parts if part.probe is None or answers[part.probe] is not True]
            if entry.parts and not left:
                continue
            unsaid = [part for part in left if part.probe and isinstance(answers[part.probe], str)]
            for part in unsaid:
                self.unchecked.append(
                    Unchecked(
                        f"{finding.object}: {part.expected} / {part.found}",
                        str(answers[part.probe]) if part.probe else "",
                    )
                )
            if entry.parts and len(unsaid) == len(left):
                continue
            left = [part for part in left if part not in unsaid]
            also = followers.get(entry.ref, []) if finding.kind == "missing" else []
            fix, steps = finding.fix, list(finding.steps)
            if entry.fix and finding.severity == "finding":
                fix = entry.fix([part.key for part in left])
                made = [(entry.ref, fix), *((ref, makers[ref]([])) for ref in also if ref in makers)]
                pieces = fix_script.ordered([fix_script.Piece(ref, text) for ref, text in made if text])
                steps = [Step(str(piece.ref), piece.text) for piece in pieces]
                fix = "\n".join(step.fix for step in steps)
            resolved = replace(
                finding,
                expected=finding.expected or "; ".join(part.expected for part in left),
                found=finding.found or "; ".join(part.found for part in left),
                also=tuple(ref.path for ref in also),
                fix=fix,
                steps=tuple(steps),
            )
            findings.append((entry.ref, self._left_alone(entry.ref, resolved)))
            differing.setdefault(entry.ref, set()).update(part.key for part in left)
        findings = made_anew.with_their_parts(findings, differing, self.whole_of)
        return sorted(_without_echoes(findings), key=lambda finding: KINDS.index(finding.kind))

    def _left_alone(self, ref: ObjectRef, finding: Finding) -> Finding:
        for pattern, reason, _ in self.declaration.ignore:
            if finding.severity == "finding" and ref not in self._in_force and path_patterns.covers(pattern, ref.path):
                self.used_rules.add(pattern)
                return replace(finding, severity="note", expected=f"left alone: {reason}", fix="")
        return finding

    def _followers(self) -> dict[ObjectRef, list[ObjectRef]]:
        """Return for each missing object the ones that are missing because of it: they belong to it or name it."""
        ranked = sorted(self._missing, key=lambda ref: _RANK.get(ref.kind, 99))
        keys = {ref: _names(ref) for ref in ranked}
        cause_of: dict[ObjectRef, ObjectRef] = {}
        for ref in ranked:
            attributes, root = self._missing[ref]
            text = " ".join(texts_of(attributes)) + f" {root}"
            for cause in ranked:
                if cause == ref or cause_of.get(cause) == ref:
                    continue
                if self._follows(ref, text, root, cause, keys[cause]):
                    cause_of[ref] = cause_of.get(cause, cause)
                    break
        followers: dict[ObjectRef, list[ObjectRef]] = {}
        for ref in self._missing:
            if ref in cause_of and (top := _top(ref, cause_of)) != ref:
                followers.setdefault(top, []).append(ref)
        return followers

    def _follows(self, ref: ObjectRef, text: str, root: str, cause: ObjectRef, name: re.Pattern[str]) -> bool:
        kind, by = ref.kind, cause.kind
        if ref.of_column:
            return cause == ref.column or (
                by in ("table", "schema") and cause in (table(root), ObjectRef(by, schema_of(root)))
            )
        attributes, (of_cause, of) = self._missing[ref][0], self._missing[cause]
        if by == "other":
            return _depends_on_rare(ref, attributes, cause)
        if by in ("table", "view") and cause.label == root:
            return True
        if by == kind == "table":
            return of in (attributes.get("partition_of"), *attributes.get("inherits", ()))
        if by == "type" and attributes.get("constructor"):
            return ref.bare_label in ddl_routines.constructors(cause.label, of_cause)
        if by == "sequence" and cause.of_column:
            return False
        if by == "schema":
            return ref.within(cause) or schema_of(root) == cause.label
        if by == "extension" and kind == "column":
            return self._is_of_extension(str(attributes.get("type")), str(of_cause.get("schema")))
        if kind in ROUTINES and by in ("table", "view"):
            return _takes_rows(ref, attributes, name)
        if _RANK.get(kind, 99) < _RANK.get(by, 99) or (kind == by and kind not in ("view", "constraint")):
            return False
        if by == "column":
            if kind == "view" and "definition" not in attributes:
                return of in attributes.get("reads", ())
            words = text.replace(root, "") if root != of else text
            mentions_table = root == of or re.search(rf'(?<!["\w]){re.escape(of)}(?!["\w])', text)
            return bool(mentions_table and name.search(words))
        if by == "constraint":
            return (
                kind == "constraint"
                and of_cause.get("definition", "").startswith(("PRIMARY KEY", "UNIQUE"))
                and bool(re.search(rf" REFERENCES {re.escape(of)}\(", text))
            )
        named = by in ("collation", "type") or (by in ("table", "view", "function", "sequence") and kind != "column")
        return named and bool(name.search(text))

    def _is_of_extension(self, type_: str, schema: str) -> bool:
        """Return true if a type is in the schema of an extension, and neither the spec nor the server itself has it."""
        name = type_.partition("[")[0].partition("(")[0].strip()
        within = "" if schema in ("{schema}", "pg_catalog") else schema
        undeclared = (
            ObjectRef("type", name) not in self.declaration.objects and table(name) not in self.declaration.objects
        )
        return schema_of(name) == within and undeclared and psycopg.adapters.types.get(unquoted(name)) is None


def _takes_rows(routine: ObjectRef, attributes: Attributes, relation: re.Pattern[str]) -> bool:
    """Return True for a routine whose arguments, result or parsed body name a relation."""
    body = attributes.get("body") or ""
    parsed = body if body.startswith(("BEGIN ATOMIC", "RETURN ")) else ""
    return bool(relation.search(" ".join([routine.signature, str(attributes.get("returns")), parsed])))


# Rare kinds whose definitions name others.
_NAMED_IN = {"ts_dict": "ts_config", "ts_parser": "ts_config", "ts_template": "ts_dict", "opfamily": "opclass"}


def _depends_on_rare(ref: ObjectRef, attributes: Attributes, cause: ObjectRef) -> bool:
    """A table needs its server, a server its wrapper, a transform or a function its language."""
    kind, name = cause.rare_kind, cause.rare_name
    definition = attributes.get("definition", "")
    if kind in _NAMED_IN:
        word = re.compile(rf'(?<!["\w.]){re.escape(name.partition(" USING ")[0])}(?!["\w.])')
        return ref.rare_kind == _NAMED_IN[kind] and bool(word.search(definition))
    needs = {
        "server": (
            attributes.get("server") == name,
            ref.rare_kind == "user_mapping" and ref.label.endswith(f" SERVER {name}"),
        ),
        "transform": (
            f"FOR {one} LANGUAGE {attributes.get('language')}" == name for one in attributes.get("transforms", ())
        ),
        "foreign_data_wrapper": (ref.rare_kind == "server" and definition.endswith(f" WRAPPER {name}"),),
        "language": (
            attributes.get("language") == name,
            ref.rare_kind == "transform" and ref.label.endswith(f" LANGUAGE {name}"),
        ),
        "access_method": (
            attributes.get("access_method") == name,
            ref.rare_kind in ("opclass", "opfamily") and ref.label.endswith(f" USING {name}"),
        ),
    }
    return any(needs.get(kind, ()))


def _top(ref: ObjectRef, cause_of: dict[ObjectRef, ObjectRef]) -> ObjectRef:
    seen = {ref}
    while (cause := cause_of.get(ref)) and cause not in seen:
        ref = cause
        seen.add(ref)
    return ref


def _names(ref: ObjectRef) -> re.Pattern[str]:
    word = ref.name if ref.kind == "column" else ref.bare_label if ref.kind in ROUTINES else ref.label
    return re.compile(rf'(?<!["\w]){re.escape(word)}(?!["\w])')


def texts_of(value: object) -> Iterator[str]:
    """Yield the texts among attributes, but for comments and bodies."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in (part for key, part in value.items() if key not in ("body", "comment")):
            yield from texts_of(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts_of(part)


def _without_echoes(findings: list[tuple[ObjectRef, Finding]]) -> Iterator[Finding]:
    """An object that was made again lost its comment with it: one defect, not two."""
    at_fault = {ref: finding for ref, finding in findings if finding.severity == "finding"}
    for ref, finding in findings:
        if finding.severity == "finding" and ref.comment in at_fault:
            again = at_fault[ref.comment].fix
            more = [Step(str(ref.comment), again)] if again and finding.fix and again not in finding.fix else []
            steps = (*finding.parts, *more)
            fix = "\n".join([finding.fix, *(step.fix for step in more)])
            yield replace(finding, also=(*finding.also, ref.comment.path), fix=fix, steps=steps)
        elif ref.commented not in at_fault:
            yield finding
