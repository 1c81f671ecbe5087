"""The builder of a diff: it collects differences, groups consequences under their cause, and drops those the server proves equivalent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from pgvigil.validate.catalog.object_paths import kind_of, last_name
from pgvigil.validate.catalog.snapshot import Attributes, Connection, Snapshot
from pgvigil.validate.diff.equivalence import Probe, settle
from pgvigil.validate.repair.ddl_routines import usual_multirange
from pgvigil.validate.repair.fix_script import ordered
from pgvigil.validate.report.model import KINDS, Finding, Kind, Severity, Unchecked
from pgvigil.validate.spec.declaration import Declaration
from pgvigil.validate.spec.path_patterns import covers

ABSENT = "nothing"
_RANK = {
    kind: rank
    for rank, kind in enumerate(
        ["schema", "extension", "type", "function", "procedure", "sequence", "table", "column", "view", "constraint"]
    )
}


@dataclass(frozen=True)
class AttributeDiff:
    """One attribute of an object that is not as declared, unless a probe shows that both texts mean the same."""

    expected: str
    found: str
    probe: Probe | None = None
    key: str = ""


@dataclass
class _Entry:
    finding: Finding
    parts: tuple[AttributeDiff, ...] = ()
    fix: Callable[[list[str]], str] | None = None  # from the attributes that differ


@dataclass
class DiffBuilder:
    declaration: Declaration
    found: Snapshot
    strict: bool = False
    compared: Counter[str] = field(default_factory=Counter)
    used_rules: set[str] = field(default_factory=set)
    unchecked: list[Unchecked] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)  # tables whose rows were asked for
    _in_force: set[str] = field(default_factory=set)  # what no rule covers
    _entries: list[_Entry] = field(default_factory=list)
    _missing: dict[str, tuple[Attributes, str]] = field(default_factory=dict)

    def add(
        self, kind: Kind, path: str, expected: str, found: str, severity: Severity = "finding", fix: str = ""
    ) -> None:
        self._entries.append(_Entry(Finding(kind, path, expected, found, severity, fix=fix)))

    def miss(
        self,
        path: str,
        expected: str,
        attributes: Attributes | None = None,
        root: str = "",
        fix: Callable[[], str] | None = None,
    ) -> None:
        self._missing[path] = (attributes or {}, root)
        self._entries.append(_Entry(Finding("missing", path, expected, ABSENT), fix=(lambda _: fix()) if fix else None))

    def unexpected(self, path: str, found: str, ours: bool, fix: str = "", *, in_force: bool = False) -> None:
        """`in_force`: it bears on objects of ours, so that no rule leaves it alone."""
        if in_force:
            self._in_force.add(path)
        rules = () if in_force else self.declaration.ignore
        if rule := next((rule for rule in rules if covers(rule[0], path)), None):
            self.used_rules.add(rule[0])
            self.add("unexpected", path, f"left alone: {rule[1]}", found, "note")
        else:
            blamed = ours or self.strict
            self.add("unexpected", path, "", found, "finding" if blamed else "note", fix if blamed else "")

    def differ(
        self,
        path: str,
        parts: Iterable[AttributeDiff],
        severity: Severity = "finding",
        kind: Kind = "different",
        fix: Callable[[list[str]], str] | None = None,
    ) -> None:
        if parts := tuple(parts):
            self._entries.append(_Entry(Finding(kind, path, severity=severity), parts, fix))

    @property
    def another_major(self) -> bool:
        """A dump of an older server brings what that server thought right for schema public."""
        major, server = self.declaration.major, self.found.server
        return bool(server and major and major != server.major and self.found.schema == "public")

    def said(self, text: str) -> str:
        return text.replace("{schema}", self.found.schema)

    # --- the end -----------------------------------------------------------------------------------------------------

    def settled(self, conn: Connection) -> list[Finding]:
        answers = settle(
            conn, self.found.schema, [part.probe for entry in self._entries for part in entry.parts if part.probe]
        )
        followers = self._followers()
        follows = {path for paths in followers.values() for path in paths}
        makers = {
            entry.finding.object: entry.fix for entry in self._entries if entry.fix and entry.finding.kind == "missing"
        }
        findings = []
        for entry in self._entries:
            finding = entry.finding
            if finding.kind == "missing" and finding.object in follows:
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
            also = followers.get(finding.object, []) if finding.kind == "missing" else []
            fix, steps = finding.fix, list(finding.steps)
            if entry.fix and finding.severity == "finding":
                fix = entry.fix([part.key for part in left])
                pieces = [(finding.object, fix), *((path, makers[path]([])) for path in also if path in makers)]
                steps = ordered([(path, text, False) for path, text in pieces if text])
                fix = "\n".join(steps)
            findings.append(
                replace(
                    finding,
                    expected=finding.expected or "; ".join(part.expected for part in left),
                    found=finding.found or "; ".join(part.found for part in left),
                    also=tuple(also),
                    fix=fix,
                    steps=tuple(steps),
                )
            )
        ignored = [self._left_alone(finding) for finding in findings]
        return sorted(_without_echoes(ignored), key=lambda finding: KINDS.index(finding.kind))

    def _left_alone(self, finding: Finding) -> Finding:
        for pattern, reason, _ in self.declaration.ignore:
            if (
                finding.severity == "finding"
                and finding.object not in self._in_force
                and covers(pattern, finding.object)
            ):
                self.used_rules.add(pattern)
                return replace(finding, severity="note", expected=f"left alone: {reason}", fix="")
        return finding

    def _followers(self) -> dict[str, list[str]]:
        """Missing object → what is missing because of it: what stood on it, or names it."""
        ranked = sorted(self._missing, key=lambda path: _RANK.get(kind_of(path), 99))
        keys = {path: _names(path) for path in ranked}
        cause_of: dict[str, str] = {}
        for path in ranked:
            attributes, root = self._missing[path]
            text = " ".join(_texts(attributes)) + f" {root}"
            for cause in ranked:
                if cause == path or cause_of.get(cause) == path:
                    continue
                of = self._missing[cause][1]
                if self._follows(path, text, root, cause, keys[cause], of):
                    cause_of[path] = cause_of.get(cause, cause)
                    break
        followers: dict[str, list[str]] = {}
        for path in self._missing:
            if path in cause_of and (top := _top(path, cause_of)) != path:
                followers.setdefault(top, []).append(path)
        return followers

    def _follows(self, path: str, text: str, root: str, cause: str, name: re.Pattern[str], of: str) -> bool:
        kind, by = kind_of(path), kind_of(cause)
        if by == "other":
            return _stands_on_rare(path, self._missing[path][0], cause)
        if by in ("table", "view") and cause.partition(" ")[2] == root and path != cause:
            return True
        if by == kind == "table":
            attributes = self._missing[path][0]
            return of in (attributes.get("partition_of"), *attributes.get("inherits", ()))
        if by == "type" and self._missing[path][0].get("constructor"):
            return path.removeprefix("function ").partition("(")[0] in _constructors(cause, self._missing[cause][0])
        if by == "sequence" and cause.startswith("sequence of "):
            return False
        if by == "schema":
            label = path.removeprefix(kind).strip()
            return label.startswith(cause.removeprefix("schema ") + ".") or root.startswith(
                cause.removeprefix("schema ") + "."
            )
        if _RANK.get(kind, 99) < _RANK.get(by, 99) or (kind == by and kind not in ("view", "constraint")):
            return False
        if by == "column":
            attributes = self._missing[path][0]
            if kind == "view" and "definition" not in attributes:
                return of in attributes.get("reads", ())
            words = text.replace(root, "") if root != of else text
            mentions_table = root == of or re.search(rf'(?<!["\w]){re.escape(of)}(?!["\w])', text)
            return bool(mentions_table and name.search(words))
        if by == "constraint":
            attributes = self._missing[cause][0]
            return (
                kind == "constraint"
                and attributes.get("definition", "").startswith(("PRIMARY KEY", "UNIQUE"))
                and bool(re.search(rf" REFERENCES {re.escape(of)}\(", text))
            )
        return (
            by in ("table", "view", "type", "function", "sequence")
            and bool(name.search(text))
            and kind not in ("column",)
        ) or (by == "type" and kind == "column" and bool(name.search(text)))


def _constructors(path: str, attributes: Attributes) -> tuple[str, str]:
    """Names of the functions that come with a range type."""
    label = path.removeprefix("type ")
    return label, attributes.get("range", {}).get("MULTIRANGE_TYPE_NAME", usual_multirange(label))


# Rare kinds whose definitions name others.
_NAMED_IN = {
    "ts_dict": "other ts_config ",
    "ts_parser": "other ts_config ",
    "ts_template": "other ts_dict ",
    "opfamily": "other opclass ",
}


def _stands_on_rare(path: str, attributes: Attributes, cause: str) -> bool:
    """A table needs its server, a server its wrapper, a transform or a function its language."""
    _, kind, name = cause.split(" ", 2)
    if kind in _NAMED_IN:
        word = re.compile(rf'(?<!["\w.]){re.escape(name.partition(" USING ")[0])}(?!["\w.])')
        return path.startswith(_NAMED_IN[kind]) and bool(word.search(attributes.get("definition", "")))
    needs = {
        "server": (
            attributes.get("server") == name,
            path.startswith("other user_mapping ") and path.endswith(f" SERVER {name}"),
        ),
        "foreign_data_wrapper": (
            path.startswith("other server ") and attributes.get("definition", "").endswith(f" WRAPPER {name}"),
        ),
        "language": (
            attributes.get("language") == name,
            path.startswith("other transform ") and path.endswith(f" LANGUAGE {name}"),
        ),
        "access_method": (
            attributes.get("access_method") == name,
            path.startswith(("other opclass ", "other opfamily ")) and path.endswith(f" USING {name}"),
        ),
    }
    return any(needs.get(kind, ()))


def _top(path: str, cause_of: dict[str, str]) -> str:
    seen = {path}
    while (cause := cause_of.get(path)) and cause not in seen:
        path = cause
        seen.add(path)
    return path


def _names(path: str) -> re.Pattern[str]:
    label = path.removeprefix(kind_of(path)).strip()
    if "function" in kind_of(path) or kind_of(path) == "procedure":
        label = label.partition("(")[0]
    word = last_name(label) if kind_of(path) == "column" else label
    return re.compile(rf'(?<!["\w]){re.escape(word)}(?!["\w])')


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in (part for key, part in value.items() if key not in ("body", "comment")):
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _without_echoes(findings: list[Finding]) -> Iterator[Finding]:
    """An object that was made anew lost its comment with it: one defect, not two."""
    at_fault = {finding.object: finding for finding in findings if finding.severity == "finding"}
    for finding in findings:
        comment = f"comment on {finding.object}"
        if finding.severity == "finding" and comment in at_fault:
            again = at_fault[comment].fix
            more = [again] if again and finding.fix and again not in finding.fix else []
            steps = (*(finding.steps or (finding.fix,)), *more)
            fix = "\n".join([finding.fix, *more])
            yield replace(finding, also=(*finding.also, comment), fix=fix, steps=steps)
        elif finding.object.removeprefix("comment on ") not in at_fault.keys() - {finding.object}:
            yield finding
