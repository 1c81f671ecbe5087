"""An index or key of a partitioned table that was made again, or ON ONLY the table: one finding with those of the partitions."""

from __future__ import annotations

from dataclasses import replace

from pgvigil.validate.catalog.object_ref import ObjectRef, table
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.report.model import Finding

_REMADE = {"valid", "definition"}  # their repair reaches the partitions
_FOLLOW = {*_REMADE, "attached"}

Found = tuple[ObjectRef, Finding]


def whole_of(ref: ObjectRef, attributes: Attributes, objects: dict[ObjectRef, Attributes]) -> ObjectRef | None:
    """The index or key of the partitioned table that the one of a partition is part of."""
    parent = objects.get(table(ref.relation), {}).get("partition_of")
    return ObjectRef.on(ref.kind, parent, attributes["attached"]) if parent and "attached" in attributes else None


def with_their_parts(
    findings: list[Found], differing: dict[ObjectRef, set[str]], whole_of: dict[ObjectRef, ObjectRef]
) -> list[Found]:
    """The findings, those of parts folded into that of the whole; an index of another definition need not be valid too."""
    at_fault = {
        ref
        for ref, finding in findings
        if ref.kind in ("index", "constraint")
        and finding.severity == "finding"
        and ((finding.kind == "missing" and not _is_renamed(finding)) or _REMADE & differing.get(ref, set()))
    }
    folded: dict[ObjectRef, list[str]] = {}
    left = []
    for ref, finding in findings:
        keys = differing.get(ref, set())
        if ref in at_fault and finding.kind == "invalid" and "definition" in keys:
            continue
        cause = _top(ref, whole_of, at_fault)
        of_whole = finding.kind in ("missing", "unexpected") or (keys and keys <= _FOLLOW)
        if cause is not None and finding.severity == "finding" and of_whole and not _is_renamed(finding):
            folded.setdefault(cause, []).append(ref.path)
        else:
            left.append((ref, finding))
    return _under_other_names(
        [
            (ref, replace(finding, also=(*finding.also, *folded[ref])) if ref in folded else finding)
            for ref, finding in left
        ],
        whole_of,
    )


def _under_other_names(findings: list[Found], whole_of: dict[ObjectRef, ObjectRef]) -> list[Found]:
    """An object that was made again as it was, but for the names of several of its parts, is one finding with them and all that they lack."""
    renamed: dict[ObjectRef, set[ObjectRef]] = {}
    for ref, finding in findings:
        if ref in whole_of and _is_renamed(finding):
            renamed.setdefault(_outermost(ref, whole_of), set()).add(ref)
    found = {ref for ref, _ in findings}
    several = {ref: whole for whole, parts in renamed.items() if len(parts) > 1 and whole not in found for ref in parts}
    left: list[Found] = []
    of_whole: dict[ObjectRef, list[Finding]] = {}
    for ref, finding in findings:
        whole = several.get(ref)
        if whole is None or finding.severity != "finding":
            left.append((ref, finding))
            continue
        if whole not in of_whole:
            left.append((whole, finding))  # in its place; made below
        of_whole.setdefault(whole, []).append(finding)
    return [(ref, _as_one(ref, of_whole[ref]) if ref in of_whole else finding) for ref, finding in left]


def _as_one(whole: ObjectRef, parts: list[Finding]) -> Finding:
    names = dict.fromkeys(part.object for part in parts)
    found = "; ".join(f"{part.object}: {part.found}" for part in parts)
    steps = tuple(step for part in parts for step in part.parts if step.fix)
    expected = f"its parts {', '.join(names)}"
    return Finding(
        "different",
        whole.path,
        expected,
        found,
        fix="\n".join(step.fix for step in steps),
        also=tuple(names),
        steps=steps,
    )


def _outermost(part: ObjectRef, whole_of: dict[ObjectRef, ObjectRef]) -> ObjectRef:
    while whole := whole_of.get(part):
        part = whole
    return part


def _top(part: ObjectRef, whole_of: dict[ObjectRef, ObjectRef], at_fault: set[ObjectRef]) -> ObjectRef | None:
    """The outermost index or key at fault that a part belongs to."""
    cause = None
    while whole := whole_of.get(part):
        cause = whole if whole in at_fault else cause
        part = whole
    return cause


def _is_renamed(finding: Finding) -> bool:
    return finding.found.startswith("renamed? ")
