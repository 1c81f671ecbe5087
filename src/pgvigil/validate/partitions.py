"""The partitions of a table held against a pattern: attached, named after the time they hold, one for the present."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

from pgvigil.validate import printing
from pgvigil.validate.catalog import Catalog, Relation
from pgvigil.validate.collect import Collector, Part
from pgvigil.validate.spec import Partitions

_BOUND = re.compile(r"FOR VALUES FROM \('([0-9a-f-]{36})'\) TO \('([0-9a-f-]{36})'\)")
_TOKENS = {"YYYY": "(?P<year>[0-9]{4})", "MM": "(?P<month>0[1-9]|1[0-2])", "DD": "(?P<day>0[1-9]|[12][0-9]|3[01])"}


def compare(collector: Collector, name: str, declared: Partitions, table: Relation) -> None:
    catalog = collector.catalog
    attached = [other for other in catalog.relations.values() if other.parent == table.oid]
    for partition in attached:
        collector.compared["partition"] += 1
        _partition(collector, name, declared, partition)
    stray = [
        other
        for other in catalog.relations.values()
        if other.schema == table.schema and other.parent != table.oid and _is_named_after(name, declared, other)
    ]
    for other in stray:
        collector.differ(f"partition {other.name}", [Part(f"attached to {name}", "a table of its own, not attached")])
    names = {other.name for other in stray}
    if declared.default and not any(other.bound == "DEFAULT" for other in attached):
        path = f"partition {name}{declared.default}"
        if f"{name}{declared.default}" not in names:
            collector.miss(path, "a default partition: rows no other takes need a place")
    if declared.present and not any(_holds_now(catalog, other) for other in attached):
        today = datetime.fromtimestamp(catalog.server.now, UTC).date()
        stretches = [stretch_of(name, declared, other.name) for other in stray]
        if not any(stretch and stretch[0] <= today < stretch[1] for stretch in stretches):
            collector.miss(f"partition of {name} for {today}", "a partition for the present")


def _partition(collector: Collector, name: str, declared: Partitions, partition: Relation) -> None:
    label = partition.name if partition.schema == collector.schema else f"{partition.schema}.{partition.name}"
    path = f"partition {label}"
    parts = []
    if partition.detaching:
        parts.append(Part("attached", "being detached"))
    if partition.kind != "r":
        parts.append(Part("a plain table", "not a plain table"))
    if partition.persistence != "p":
        parts.append(Part("LOGGED", "UNLOGGED"))
    if partition.bound == "DEFAULT":
        if partition.name != name + declared.default:
            parts.append(Part(f"name {name}{declared.default}", f"name {partition.name}"))
    elif (stretch := stretch_of(name, declared, partition.name)) is None:
        patterns = " or ".join(name + suffix for suffix in declared.names)
        parts.append(Part(f"name {patterns}", f"name {partition.name}"))
    elif (bounds := _bounds(partition)) != tuple(_milliseconds(day) for day in stretch):
        parts.append(Part(f"from {stretch[0]} to {stretch[1]}", _said(bounds, partition)))
    collector.differ(path, parts)

    for index in partition.indexes.values():
        if not index.attached and not index.of_constraint:
            collector.unexpected(f"index {label}.{index.name}", printing.index_found(index), ours=True)
        elif not index.valid:
            collector.add(
                "invalid", f"index {label}.{index.name}", "a valid index", "INVALID: the server does not use it"
            )
    for constraint in partition.constraints.values():
        collector.unexpected(f"constraint {label}.{constraint.name}", constraint.definition, ours=True)
    for trigger in partition.triggers:
        if not trigger.internal:
            collector.unexpected(f"trigger {label}.{trigger.name}", printing.trigger_found(trigger), ours=True)
        elif trigger.of_constraint:
            collector.add("disabled", f"foreign key of {label}", "enforced", "its internal triggers are disabled")
        else:
            collector.add("disabled", f"trigger {label}.{trigger.name}", "enabled", "disabled on this partition")
    for rule in partition.rules:
        collector.unexpected(f"rule {label}.{rule}", "a rule", ours=True)


def stretch_of(name: str, declared: Partitions, partition: str) -> tuple[date, date] | None:
    """First day of a partition and of the next one, as its name says."""
    for suffix in declared.names:
        pattern = re.escape(suffix)
        for token, group in _TOKENS.items():
            pattern = pattern.replace(token, group)
        if match := re.fullmatch(re.escape(name) + pattern, partition):
            parts = match.groupdict()
            year, month, day = int(parts["year"]), int(parts.get("month", 1)), int(parts.get("day", 1))
            try:
                start = date(year, month, day)
                if "day" in parts:
                    return start, date.fromordinal(start.toordinal() + 1)
                if "month" in parts:
                    return start, date(year + month // 12, month % 12 + 1, 1)
                return start, date(year + 1, 1, 1)
            except ValueError:
                return None
    return None


def _is_named_after(name: str, declared: Partitions, relation: Relation) -> bool:
    return relation.name == name + declared.default or stretch_of(name, declared, relation.name) is not None


def _milliseconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def _bounds(partition: Relation) -> tuple[int, int] | None:
    """Milliseconds since 1970, which are the first 48 bits of a time-ordered id."""
    match = _BOUND.fullmatch(partition.bound or "")
    return (_first_48_bits(match[1]), _first_48_bits(match[2])) if match else None


def _first_48_bits(uuid: str) -> int:
    return int(uuid.replace("-", "")[:12], 16)


def _said(bounds: tuple[int, int] | None, partition: Relation) -> str:
    if bounds is None:
        return partition.bound or "no bounds"
    start, end = (datetime.fromtimestamp(bound / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") for bound in bounds)
    return f"from {start} to {end}"


def _holds_now(catalog: Catalog, partition: Relation) -> bool:
    bounds = _bounds(partition)
    return bounds is not None and bounds[0] <= catalog.server.now * 1000 < bounds[1]
