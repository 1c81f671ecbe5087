"""The partitions of a table compared with a pattern: attached, named after the time they hold, one for the present."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from pgvigil.lazily import later
from pgvigil.validate.catalog.identifiers import beside, quoted
from pgvigil.validate.catalog.object_ref import ObjectRef, table
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.catalog.spelling import without_tuning
from pgvigil.validate.diff.default_rights import explained, owner_of
from pgvigil.validate.diff.diff_builder import AttributeDiff, DiffBuilder
from pgvigil.validate.spec.declaration import Partitions

if TYPE_CHECKING:
    from pgvigil.validate.catalog import sql_text
    from pgvigil.validate.repair import alter, ddl, ddl_relations
    from pgvigil.validate.report import describe
else:
    sql_text = later("pgvigil.validate.catalog.sql_text")
    alter = later("pgvigil.validate.repair.alter")
    ddl = later("pgvigil.validate.repair.ddl")
    ddl_relations = later("pgvigil.validate.repair.ddl_relations")
    describe = later("pgvigil.validate.report.describe")

_BOUND = re.compile(r"FOR VALUES FROM \('([0-9a-f-]{36})'\) TO \('([0-9a-f-]{36})'\)")
_TOKENS = {
    "YYYY": "(?P<year>[0-9]{4})",
    "MM": "(?P<month>0[1-9]|1[0-2])",
    "DD": "(?P<day>0[1-9]|[12][0-9]|3[01])",
    "HH": "(?P<hour>[01][0-9]|2[0-3])",
}


def compare(builder: DiffBuilder, name: str, declared: Partitions, owner: str) -> set[str]:
    """Compare with the pattern; `owner` is the one the table should have. Return the relations it took care of."""
    found = builder.found
    tables = {ref.label: of for ref, of in found.objects.items() if ref.kind == "table"}
    attached = {label: of for label, of in tables.items() if of.get("partition_of") == name}
    for label, partition in attached.items():
        builder.compared["partition"] += 1
        _partition(builder, name, declared, label, partition, owner)
    stray = [label for label in tables if label not in attached and _is_named_after(name, declared, label)]
    for label in stray:
        repair = _attach(name, declared, label)
        said = "a table of its own, not attached"
        if (whose := owner_of(found, table(label))) != owner:
            repair, said = "", f"{said}, which belongs to {whose}: no partition is made of it"
        apart = AttributeDiff(f"attached to {name}", said)
        builder.differ(ObjectRef("partition", label), [apart], fix=lambda _, repair=repair: repair)  # type: ignore[misc]
    if declared.default and not any(of.get("bound") == "DEFAULT" for of in attached.values()):
        label = f"{name}{declared.default}"
        is_other = found.server is not None and found.server.role != owner
        given = f"\nALTER TABLE {label} OWNER TO {quoted(owner)};" if is_other else ""
        if label not in stray:
            builder.miss(
                ObjectRef("partition", label),
                "a default partition: rows no other takes need a place",
                fix=lambda: f"CREATE TABLE {label} PARTITION OF {name} DEFAULT;{given}",
            )
    now = found.server.now if found.server else 0.0
    if declared.present and not any(_holds(of, now) for of in attached.values()):
        present = datetime.fromtimestamp(now, UTC)
        stretches = [stretch_of(name, declared, label) for label in stray]
        if not any(stretch and stretch[0] <= present < stretch[1] for stretch in stretches):
            repair = declared.repair.replace("{table}", name)
            ref = ObjectRef("partition", f"of {name} for {present.date()}")
            builder.miss(ref, "a partition for the present", fix=lambda: repair)
    return {*attached, *stray}


def _attach(name: str, declared: Partitions, label: str) -> str:
    if label == name + declared.default:
        return f"ALTER TABLE {name} ATTACH PARTITION {label} DEFAULT;"
    stretch = stretch_of(name, declared, label)
    if stretch is None:
        return ""
    first, last = (f"{_milliseconds(moment):012x}" for moment in stretch)
    start, end = (f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000" for digits in (first, last))
    return f"ALTER TABLE {name} ATTACH PARTITION {label} FOR VALUES FROM ('{start}') TO ('{end}');"


def _partition(
    builder: DiffBuilder, name: str, declared: Partitions, label: str, partition: Attributes, owner: str
) -> None:
    ref = table(label)
    details = builder.found.details[ref]
    bound = partition.get("bound", "")
    parts = []
    if details.get("detaching"):
        parts.append(AttributeDiff("attached", "being detached"))
    if "kind" in partition:
        parts.append(AttributeDiff("a plain table", f"a {partition['kind']}"))
    if "persistence" in partition:
        parts.append(AttributeDiff("LOGGED", partition["persistence"], key="persistence"))
    if bound == "DEFAULT":
        if label != name + declared.default:
            parts.append(AttributeDiff(f"name {name}{declared.default}", f"name {label}", key="name"))
    elif (stretch := stretch_of(name, declared, label)) is None:
        patterns = " or ".join(name + suffix for suffix in declared.names)
        parts.append(AttributeDiff(f"name {patterns}", f"name {label}", key="name"))
    elif (bounds := _bounds(bound)) != tuple(_milliseconds(moment) for moment in stretch):
        stretch_said = " to ".join(_shown(moment) for moment in stretch)
        parts.append(AttributeDiff(f"from {stretch_said}", _said(bounds, bound), key="bound"))
    usual = {
        key: value
        for key, value in builder.found.objects[table(name)].items()
        if key not in ("row_security", "access_method", "owned_by")
    }
    if owner != builder.found.owner:
        usual["owned_by"] = owner
    parts += [
        AttributeDiff(describe.attribute(ref, key, usual), describe.attribute(ref, key, partition), key=key)
        for key in ("row_security", "owned_by", "access_method", "replica_identity")
        if partition.get(key) != usual.get(key) and not _by_index(key, usual)
    ]
    if options := without_tuning(partition.get("with")):
        said = ", ".join(f"{name} = {value}" for name, value in options.items())
        parts.append(AttributeDiff("no such storage parameter", said, key="with"))

    def fix(keys: list[str]) -> str:
        if "owned_by" in keys and keys != ["owned_by"]:
            return ""  # whoever owns it may have made it
        repairs = []
        if "bound" in keys and (attach := _attach(name, declared, label)):
            repairs += [f"ALTER TABLE {name} DETACH PARTITION {label};", attach]
        if "owned_by" in keys:
            repairs.append(f"ALTER TABLE {label} OWNER TO {quoted(owner)};")
        if "with" in keys:
            repairs.append(f"ALTER TABLE {label} RESET ({', '.join(options)});")
        repairs += [ddl_relations.relation(label, key, usual if key != "persistence" else {}) for key in keys]
        if "name" in keys and (right := _right_name(name, declared, bound)):
            repairs.append(f"ALTER TABLE {label} RENAME TO {right};")
        return "\n".join(repair for repair in repairs if repair)

    builder.differ(ObjectRef("partition", label), parts, fix=fix)
    _columns(builder, name, label)
    for other in builder.found.parts[label]:
        attributes = builder.found.objects[other]
        kind = other.kind
        if kind in ("table", "comment", "column", "statistics"):
            continue
        if kind == "trigger" and attributes.get("clone"):
            trigger = other.name
            usual = builder.found.objects.get(ObjectRef.on("trigger", name, trigger), {}).get("enabled", "ORIGIN")
            said = "enabled" if usual == "ORIGIN" else f"enabled {usual}"
            enable = sql_text.enable("TRIGGER", label, trigger, usual)
            builder.add("disabled", other, said, f"{attributes.get('enabled', 'ORIGIN')} on this partition", fix=enable)
        elif kind == "constraint" and "enforced" in attributes:
            builder.add(
                "disabled",
                ObjectRef("foreign", f"key of {label}"),
                "enforced",
                "its internal triggers are disabled",
                fix="\n".join(builder.found.details[other]["enable"]),
            )
        elif kind in ("index", "constraint") and "valid" in attributes:
            builder.add(
                "invalid",
                other,
                "a valid index",
                "INVALID: the server does not use it",
                fix=f"REINDEX INDEX {beside(label, other.name)};",
            )
        elif kind in ("grant", "revocation") and (default := explained(builder.found, other, attributes)):
            builder.unexpected(other, f"{describe.in_one_line(other, attributes)}, by {default}", ours=False)
        else:
            fix_ = "" if kind == "revocation" else ddl.drop(other, label, attributes)
            builder.unexpected(other, describe.in_one_line(other, attributes), ours=True, fix=fix_)


def _by_index(key: str, table: Attributes) -> bool:
    """Return True for a replica identity that names an index.

    Each partition has an index of its own, so each needs its own setting.
    """
    return key == "replica_identity" and table.get(key, "").startswith("USING INDEX ")


def _columns(builder: DiffBuilder, name: str, label: str) -> None:
    """Compare the columns of a partition with its table's, but for defaults.

    An insert through the table uses the table's defaults.
    """
    objects = builder.found.objects
    for column in objects[table(name)].get("order", ()):
        ref, usual = ObjectRef.on("column", label, column), objects[ObjectRef.on("column", name, column)]
        there = objects.get(ref, {})
        keys = [
            key
            for key in {**usual, **there}
            if key not in ("comment", "inherited", "default", "not_null", "not_null_comment")
            and usual.get(key) != there.get(key)
        ]
        parts = [
            AttributeDiff(describe.attribute(ref, key, usual), describe.attribute(ref, key, there), key=key)
            for key in keys
        ]

        def fix(keys: list[str], column: str = column, usual: Attributes = usual, there: Attributes = there) -> str:
            return "\n".join(
                line for key in keys for line in alter.alter_column(label, column, usual, there, key) if line
            )

        builder.differ(ref, parts, fix=fix)


def _right_name(name: str, declared: Partitions, bound: str) -> str:
    """The name that a partition with these bounds has by the pattern."""
    if bound == "DEFAULT":
        return name + declared.default
    if bounds := _bounds(bound):
        start = datetime.fromtimestamp(bounds[0] / 1000, UTC)
        for suffix in declared.names:
            label = suffix
            for token, part in {"YYYY": "%Y", "MM": "%m", "DD": "%d", "HH": "%H"}.items():
                label = label.replace(token, format(start, part))
            label = name + label
            stretch = stretch_of(name, declared, label)
            if stretch and tuple(_milliseconds(moment) for moment in stretch) == bounds:
                return label
    return ""


def stretch_of(name: str, declared: Partitions, partition: str) -> tuple[datetime, datetime] | None:
    """Return the bounds of a partition, by its name."""
    for suffix in declared.names if partition.startswith(name) else ():
        if match := _suffix(suffix).fullmatch(partition, len(name)):
            parts = match.groupdict()
            year, month = int(parts["year"]), int(parts.get("month", 1))
            try:
                start = datetime(year, month, int(parts.get("day", 1)), int(parts.get("hour", 0)), tzinfo=UTC)
                if "hour" in parts:
                    return start, start + timedelta(hours=1)
                if "day" in parts:
                    return start, start + timedelta(days=1)
                if "month" in parts:
                    return start, start.replace(year=year + month // 12, month=month % 12 + 1)
                return start, start.replace(year=year + 1)
            except (ValueError, OverflowError):
                return None
    return None


@lru_cache
def _suffix(suffix: str) -> re.Pattern[str]:
    pattern = re.escape(suffix)
    for token, group in _TOKENS.items():
        pattern = pattern.replace(token, group)
    return re.compile(pattern)


def _is_named_after(name: str, declared: Partitions, label: str) -> bool:
    return label == name + declared.default or stretch_of(name, declared, label) is not None


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment.hour else f"{moment:%Y-%m-%d}"


def _bounds(bound: str) -> tuple[int, int] | None:
    """Return the bounds of a partition in milliseconds since 1970, which are the first 48 bits of a time-ordered id."""
    match = _BOUND.fullmatch(bound)
    return (_first_48_bits(match[1]), _first_48_bits(match[2])) if match else None


def _first_48_bits(uuid: str) -> int:
    return int(uuid.replace("-", "")[:12], 16)


def _said(bounds: tuple[int, int] | None, bound: str) -> str:
    if bounds is None:
        return bound or "no bounds"
    start, end = (datetime.fromtimestamp(each / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") for each in bounds)
    return f"from {start} to {end}"


def _holds(partition: Attributes, now: float) -> bool:
    bounds = _bounds(partition.get("bound", ""))
    return bounds is not None and bounds[0] <= now * 1000 < bounds[1]
