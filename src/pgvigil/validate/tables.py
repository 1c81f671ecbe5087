"""What stands on one table: columns, constraints, indexes, triggers, rows."""

from __future__ import annotations

from pgvigil.validate import printing
from pgvigil.validate.catalog import TOLERATED, ColumnFound, ConstraintFound, Relation
from pgvigil.validate.collect import Collector, Part
from pgvigil.validate.probe import Probe
from pgvigil.validate.spec import ANY, Column, Constraint, Index, Table, Trigger

_IDENTITY = {"a": "ALWAYS", "d": "BY DEFAULT", "": None}


def compare(collector: Collector, name: str, declared: Table, relation: Relation) -> None:
    _columns(collector, name, declared, relation)
    _constraints(collector, name, declared, relation)
    _indexes(collector, name, declared, relation)
    triggers(collector, name, declared.triggers, relation, declared.ours)
    _rows(collector, name, declared, relation)


# --- columns ---------------------------------------------------------------------------------------------------------


def _columns(collector: Collector, name: str, table: Table, relation: Relation) -> None:
    for key, column in table.columns.items():
        collector.compared["column"] += 1
        path = f"column {name}.{key}"
        found = relation.columns.get(key)
        if found is None:
            collector.miss(path, column.type)
            continue
        collector.differ(path, _column(column, found, relation))
        if table.ours or column.added:
            collector.need_comment(path, found.commented)
    for key, extra in relation.columns.items():
        if key not in table.columns:
            collector.unexpected(f"column {name}.{key}", extra.type + " NOT NULL" * extra.not_null, table.ours)


def _column(column: Column, found: ColumnFound, relation: Relation) -> list[Part]:
    parts = []
    if found.type != column.type:
        parts.append(Part(column.type, found.type))
    if column.nullable != ANY and found.not_null == column.nullable:
        parts.append(Part(*(("nullable", "NOT NULL") if column.nullable else ("NOT NULL", "nullable"))))
    if (identity := _IDENTITY[found.identity]) != column.identity:
        wanted, got = (
            f"GENERATED {kind} AS IDENTITY" if kind else "no identity" for kind in (column.identity, identity)
        )
        parts.append(Part(wanted, got))
    if found.collation:
        parts.append(Part("the collation of its type", f"COLLATE {found.collation}"))
    if found.generated:
        parts.append(Part("not generated", f"GENERATED ALWAYS AS ({found.default})"))
    elif column.default != ANY and printing.bare(column.default or "") != printing.bare(found.default or ""):
        wanted, got = (f"DEFAULT {text}" if text else "no default" for text in (column.default, found.default))
        probe = None
        if column.default and found.default:
            probe = Probe("default", (relation.schema, relation.name), found.name, column.default, found.default)
        parts.append(Part(wanted, got, probe))
    return parts


# --- constraints -----------------------------------------------------------------------------------------------------


def _constraints(collector: Collector, name: str, table: Table, relation: Relation) -> None:
    left = dict(relation.constraints)
    for key, declared in table.constraints.items():
        collector.compared["constraint"] += 1
        path = f"constraint {name}.{key}"
        wanted = printing.constraint(declared, collector.schema)
        tolerated = _tolerated(collector, name, declared)
        if tolerated:
            wanted = printing.with_tolerated(wanted, tolerated)
        found = left.pop(key, None)
        if found is None and not table.ours:
            # The application named it otherwise, or made its unique key as an index.
            found = next((other for other in left.values() if _same(other, wanted)), None)
            if found is not None:
                del left[found.name]
            elif declared.unique and _unique_index(declared, relation):
                continue
        if found is None:
            causes = [f"column {name}.{column}" for column in sorted(declared.names(table.columns))]
            collector.miss(path, wanted, [*causes, *_what_it_references(collector, declared)])
            continue
        _constraint(collector, path, declared, found, wanted, relation)
        if tolerated and _same(found, wanted):
            values = ", ".join(repr(value) for value in tolerated)
            collector.add("different", path, f"CHECK ({declared.check})", f"also allows {values}: {TOLERATED}", "note")
        if table.ours or declared.added:
            collector.need_comment(path, found.commented)
    for key, extra in left.items():
        if extra.kind == "n":
            collector.add(
                "invalid", f"column {name}.{key}", "NOT NULL", f"{extra.definition}, existing rows not checked"
            )
        else:
            collector.unexpected(f"constraint {name}.{key}", extra.definition, table.ours)


def _tolerated(collector: Collector, name: str, declared: Constraint) -> list[str]:
    """The values outside a list that the application had stored before the CHECK came."""
    return [
        str(row.get("value"))
        for row in collector.catalog.rows.get(TOLERATED, [])
        if declared.tolerated_values
        and (row.get("table_name"), row.get("column_name")) == (name, declared.tolerated_values)
    ]


def _same(found: ConstraintFound, wanted: str) -> bool:
    return printing.arrays_sorted(printing.constraint_found(found)) == printing.arrays_sorted(wanted)


def _unique_index(declared: Constraint, relation: Relation) -> bool:
    wanted = f"UNIQUE btree ({', '.join(declared.unique)})"
    return any(index.valid and printing.index_found(index) == wanted for index in relation.indexes.values())


def _what_it_references(collector: Collector, declared: Constraint) -> list[str]:
    """The table of a foreign key and the declared keys it may stand on: when they go, it goes."""
    if not declared.foreign_key:
        return []
    table, columns = declared.target
    keys = collector.spec.tables[table].constraints.items()
    return [f"table {table}"] + [
        f"constraint {table}.{key}" for key, other in keys if columns in (other.primary_key, other.unique)
    ]


def _constraint(
    collector: Collector, path: str, declared: Constraint, found: ConstraintFound, wanted: str, relation: Relation
) -> None:
    got = printing.constraint_found(found)
    same = _same(found, wanted) if declared.tolerated_values else got == wanted
    if not same:
        probe = None
        if declared.check and found.expression is not None and not got.endswith((" NO INHERIT", " NOT ENFORCED")):
            expected = wanted.removeprefix("CHECK (").removesuffix(")")
            probe = Probe("check", (relation.schema, relation.name), "", expected, found.expression)
        relation_of_tolerated = collector.catalog.relation(TOLERATED)
        blind = declared.tolerated_values and relation_of_tolerated and not relation_of_tolerated.readable
        reason = f" ({collector.catalog.server.role} may not read {TOLERATED})" if blind else ""
        collector.differ(path, [Part(wanted, got + reason, probe)])
    if not found.validated and declared.validated is True:
        collector.add("invalid", path, "validated", "NOT VALID: existing rows may break it")
    if not found.valid:
        collector.add("invalid", path, "a valid index", "its index is INVALID")
    if found.disabled:
        collector.add("disabled", path, "enforced", "its internal triggers are disabled")


# --- indexes ---------------------------------------------------------------------------------------------------------


def _indexes(collector: Collector, name: str, table: Table, relation: Relation) -> None:
    left = {key: index for key, index in relation.indexes.items() if not index.of_constraint}
    for key, declared in table.indexes.items():
        collector.compared["index"] += 1
        path = f"index {name}.{key}"
        wanted = printing.index(declared)
        found = left.pop(key, None)
        if found is None:
            if not declared.optional:
                collector.miss(
                    path, wanted, [f"column {name}.{column}" for column in sorted(declared.names(table.columns))]
                )
            continue
        got = printing.index_found(found)
        if declared.optional and got != wanted:
            left[key] = found  # the application's own
            continue
        parts = []
        if got != wanted:
            parts.append(
                Part(
                    wanted,
                    got,
                    Probe("index", (relation.schema, relation.name), "", wanted, printing.index_body(found)),
                )
            )
        collector.differ(path, parts + _storage(declared, found.options))
        if not found.valid:
            collector.add("invalid", path, "a valid index", "INVALID: the server does not use it")
        if not declared.optional:
            collector.need_comment(path, found.commented)
    for key, extra in left.items():
        state = "" if extra.valid else ", INVALID"
        collector.unexpected(f"index {name}.{key}", printing.index_found(extra) + state, table.ours)


def _storage(declared: Index, options: list[str]) -> list[Part]:
    got = printing.options(options)
    return [
        Part(f"{key} = {value}", f"{key} = {got[key]}" if key in got else f"{key} not set")
        for key, value in declared.with_.items()
        if got.get(key) != value
    ]


# --- triggers --------------------------------------------------------------------------------------------------------


def triggers(collector: Collector, name: str, declared: dict[str, Trigger], relation: Relation, ours: bool) -> None:
    left = {trigger.name: trigger for trigger in relation.triggers}
    for key, trigger in declared.items():
        collector.compared["trigger"] += 1
        path = f"trigger {name}.{key}"
        wanted = printing.trigger(trigger, collector.schema)
        found = left.pop(key, None)
        if found is None:
            columns = [f"column {name}.{column}" for column in trigger.update_of]
            collector.miss(path, wanted, [f"function {trigger.function}", *columns])
            continue
        got = printing.trigger_found(found)
        if got != wanted:
            collector.differ(path, [Part(wanted, got)])
        enabled = printing.ENABLED[found.enabled]
        if enabled != trigger.enabled:
            kind = "disabled" if enabled in ("DISABLED", "REPLICA") else "different"
            collector.add(kind, path, f"enabled: {trigger.enabled}", f"enabled: {enabled}")  # type: ignore[arg-type]
        collector.need_comment(path, found.commented)
    for key, extra in left.items():
        calls_us = extra.function_schema in collector.spec.schemas
        collector.unexpected(f"trigger {name}.{key}", printing.trigger_found(extra), ours or calls_us)


# --- rows ------------------------------------------------------------------------------------------------------------


def _rows(collector: Collector, name: str, table: Table, relation: Relation) -> None:
    there = collector.catalog.rows.get(name, [])
    if table.rows and not relation.readable:
        collector.add("missing", f"rows of {name}", "SELECT on it", f"{collector.catalog.server.role} may not read it")
        return
    for wanted in table.rows:
        collector.compared["row"] += 1
        path = f"row {name} ({', '.join(f'{key} = {value}' for key, value in wanted.items())})"
        if not any(all(str(row.get(key)) == value for key, value in wanted.items()) for row in there):
            collector.miss(path, "a row")
