"""The result of a validation. Its formats are in pgvigil.validate.report.formats."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from pgvigil.validate.catalog.object_ref import ObjectRef

Kind = Literal["missing", "different", "invalid", "disabled", "unexpected"]
Severity = Literal["finding", "note"]
MEANINGS: dict[Kind, str] = {
    "missing": "The spec has it, the database has not",
    "different": "It is there, and not as declared",
    "invalid": "An index that is not valid or ready, a constraint that was not validated",
    "disabled": "A trigger that does not fire",
    "unexpected": "On a table of ours, and not in the spec",
}
KINDS: tuple[Kind, ...] = tuple(MEANINGS)


class Step(NamedTuple):
    """A part of a repair, and the object that it is about."""

    object: str
    fix: str


@dataclass(frozen=True)
class Finding:
    """A difference between an object and its declaration.

    `also` has the objects that differ because of it and are not listed by themselves. `fix` is the SQL that repairs it,
    where there is one. `line` is the line of the spec's entry, where there is one.
    """

    kind: Kind
    object: str
    expected: str = ""
    found: str = ""
    severity: Severity = "finding"
    also: tuple[str, ...] = ()
    fix: str = ""
    line: int | None = None
    steps: tuple[Step, ...] = ()  # the repair in its parts, where it has several
    uses: str = ""  # of an undeclared object: its definition and those of its parts, by which a script sorts removals

    @property
    def parts(self) -> tuple[Step, ...]:
        return self.steps or (Step(self.object, self.fix),)

    @property
    def facts(self) -> Iterator[tuple[str, str]]:
        """Return the details besides kind and object, each under its label."""
        from pgvigil.visible_sql import visible_sql  # for which a verdict has no time where there is no finding

        for label, text in (
            ("expected", self.expected),
            ("found", self.found),
            ("and so", ", ".join(self.also)),
            ("fix", visible_sql(in_one_transaction(self.fix))),
        ):
            if text:
                yield label, text


def in_one_transaction(fix: str) -> str:
    """Put statements into one transaction where the first removes what a later one makes again.

    All of them run, or none.
    """
    takes = any(line.startswith(("DROP ", "ALTER TABLE ")) and re.search(_TAKES, line) for line in fix.splitlines())
    several = fix.count(";\n") > 0
    return f"BEGIN;\n{fix}\nCOMMIT;" if takes and several and not outside_transactions(fix) else fix


def outside_transactions(fix: str) -> bool:
    """Return true if a statement in it refuses to run in a transaction."""
    return bool(re.search(_OUTSIDE, fix, re.MULTILINE))


_TAKES = r"^DROP |\b(DROP|DETACH|DISABLE)\b"
_OUTSIDE = r"^(CREATE (UNIQUE )?INDEX CONCURRENTLY|DROP INDEX CONCURRENTLY|REINDEX INDEX|ALTER SYSTEM|CALL) "


REPLACED = "start-up of the application"  # the object of a note about these


class Unchecked(NamedTuple):
    """A group of objects, or one object, that could not be compared, with the reason. It never counts as a pass."""

    objects: str
    reason: str


@dataclass(frozen=True)
class Report:
    spec: str
    database: str
    schema: str
    server_version: str
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    seen: dict[str, int]  # objects in the catalog, by kind
    compared: dict[str, int]  # objects of the spec, by kind
    unchecked: tuple[Unchecked, ...] = ()
    replaced: frozenset[str] = frozenset()  # objects of ours that the application is known to replace, and has

    def tested(self, results: Iterable[Finding]) -> Report:
        """Add what a self-test found; what it could not try was not compared."""
        results = list(results)
        of_application = [result for result in results if result.severity == "note"]
        return replace(
            self,
            findings=(*self.findings, *(result for result in results if result.severity == "finding")),
            notes=(*self.notes, *(result for result in of_application if result.object == REPLACED)),
            unchecked=(
                *self.unchecked,
                *(
                    Unchecked(f"{result.object}: {result.expected}", str(result.found))
                    for result in of_application
                    if result.object != REPLACED
                ),
            ),
        )

    @property
    def ok(self) -> bool:
        """Return True where everything was compared and nothing was found."""
        return not self.findings and not self.unchecked

    @property
    def exit_code(self) -> int:
        return 1 if self.findings else 3 if self.unchecked else 0

    @property
    def counts(self) -> dict[str, int]:
        counted = Counter(finding.kind for finding in self.findings)
        return {kind: counted[kind] for kind in KINDS if counted[kind]}

    @property
    def coverage(self) -> str:
        return (
            f"Coverage: {sum(self.seen.values())} objects seen / {sum(self.compared.values())} compared / "
            f"{len(self.unchecked)} not compared / {len(self.notes)} notes"
        )

    @property
    def verdict(self) -> str:
        """The report in one line."""
        if self.ok:
            return "VALID: no findings"
        if not self.findings:
            return "NOT PROVED: no findings, but not everything could be compared"
        total = len(self.findings)
        counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
        return f"INVALID: {total} finding{'s' * (total != 1)} ({counts})"


def subject(path: str) -> str:
    """The kind of object that a finding is about: an index, of `index sessions.idx` and of `comment on index sessions.idx`."""
    ref = ObjectRef.parse(path)
    return (ref.commented or ref).kind
