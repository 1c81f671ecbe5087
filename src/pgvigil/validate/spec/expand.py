"""A spec as a snapshot: objects, with the attributes a database that meets it has.

The short forms of a spec written by hand (`primary_key: [id]`, `keys: [a, b DESC]`) become what the server prints. A spec
written by hand says only part: `marks` has the attributes of each object that it declares.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from pgvigil.validate.catalog.identifiers import PLAIN_NAME
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.catalog.spelling import bare
from pgvigil.validate.spec.declaration import Declaration, Mark
from pgvigil.validate.spec.document import ANY, Column, Constraint, Function, Index, Spec, Table, View

# What a spec written by hand says of an object by saying nothing: that it is as it is by default.
_TRIGGER = {
    "timing",
    "events",
    "update_of",
    "level",
    "old_table",
    "new_table",
    "when",
    "function",
    "constraint",
    "deferrable",
    "from",
}
_SPOKEN_OF = {
    "table": {"kind", "partition_by", "persistence"},
    "view": {"kind", "order"},
    "column": {"type", "nullable", "default", "identity", "generated", "virtual", "collation"},
    "constraint": {"definition", "validated", "valid", "enforced"},
    "index": {"definition", "valid"},
    "trigger": _TRIGGER | {"enabled"},
    "function": {"arguments", "returns", "language", "volatility", "parallel", "strict", "security", "set"},
}  # fmt: skip
_SPOKEN_OF["procedure"] = _SPOKEN_OF["function"]

# Keys that steer the comparison, hold other objects, or are short forms.
_NO_ATTRIBUTES: dict[type, set[str]] = {
    Table: {"owner", "columns", "partitions", "constraints", "indexes", "triggers", "rows"},
    View: {"columns", "attributes", "reads", "security_invoker", "indexes", "triggers"},
    Column: {"added"},
    Constraint: {
        "primary_key",
        "unique",
        "foreign_key",
        "references",
        "on_delete",
        "on_update",
        "check",
        "unless_baselined",
        "added",
    },
    Function: {"or_body", "execute"},
    Index: {"keys", "method", "include", "where", "unique", "optional"},
}


def declare(spec: Spec) -> Declaration:
    document, complete = spec.document, spec.document.complete
    made = Declaration(
        spec.path.name,
        document.schemas,
        document.schema,
        complete,
        document.major,
        document.roles,
        tuple((rule.objects, rule.reason, rule.rare) for rule in document.ignore),
        tuple((item.revision, item.objects) for item in document.later),
        {},
        {},
        {},
        frozenset(name for name, table in spec.tables.items() if not table.ours),
        {name: table.partitions for name, table in spec.tables.items() if table.partitions},
        {name: table.rows for name, table in spec.tables.items() if table.rows},
        {name: view.reads for name, view in spec.views.items() if view.reads is not None},
        {
            ObjectRef(function.kind, name): function.or_body
            for name, function in spec.functions.items()
            if function.or_body
        },
        everything=document.everything,
        database=document.database,
        for_all=frozenset(
            ObjectRef(function.kind, name)
            for name, function in spec.functions.items()
            if "PUBLIC" in (function.execute or ())
        ),
    )

    def add(
        ref: ObjectRef,
        attributes: Attributes,
        root: str = "",
        *,
        ours: bool = True,
        optional: bool = False,
        unless_baselined: bool = False,
        line: int = 0,
    ) -> None:
        made.objects[ref], made.roots[ref] = attributes, root
        if line:
            made.lines[ref] = line
        if not complete:
            open_ = {key for key, value in attributes.items() if value == ANY}
            spoken = (_SPOKEN_OF.get(ref.kind, set()) | attributes.keys()) - open_
            for key in open_:
                del attributes[key]
            made.marks[ref] = Mark(frozenset(spoken), ours, optional, unless_baselined)

    for name in document.schemas:
        if detail := document.details.get(name):
            add(ObjectRef("schema", name), _attributes(detail), line=detail.line)
        else:
            add(ObjectRef("schema", name), {})
    for name, table in spec.tables.items():
        _table(add, name, table, complete)
    for name, view in spec.views.items():
        _view(add, name, view, complete)
    for name, function in spec.functions.items():
        attributes = _function(function)
        if complete and function.kind != "aggregate":
            attributes.setdefault("body", "")
        add(ObjectRef(function.kind, name), attributes, line=function.line)
        _execute(add, ObjectRef(function.kind, name), function)
    sections: dict[str, dict[str, Any]] = {
        "type": document.types, "sequence": document.sequences, "policy": document.policies, "rule": document.rules,
        "extension": document.extensions, "event trigger": document.event_triggers, "collation": document.collations,
        "operator": document.operators, "other": document.others, "setting": document.settings,
    }  # fmt: skip
    for kind, section in sections.items():
        for name, item in section.items():
            ref = ObjectRef(kind, name)
            root = ref.relation or (name if kind == "sequence" else "")
            add(ref, _attributes(item), root, line=item.line)
    for name, statistics in document.statistics.items():
        root = statistics.definition.rpartition(" FROM ")[2]
        add(ObjectRef("statistics", name), _attributes(statistics), root, line=statistics.line)
    for word, granted in (("grant", document.default_grants), ("revocation", document.default_revocations)):
        for name, privileges in granted.items():
            add(ObjectRef(f"default {word}", name), {"privileges": list(privileges)})
    for word, granted in (("grant", document.grants), ("revocation", document.revocations)):
        for name, privileges in granted.items():
            right = ObjectRef(word, name)
            add(right, {"privileges": list(privileges)}, relation_of_right(right))
    return made


def relation_of_right(right: ObjectRef) -> str:
    """The relation that `grant on table t to role` or `revocation on column t.c from role` is about."""
    of = right.of
    if of is None or of.kind not in ("table", "view", "sequence", "column"):
        return ""
    return of.relation or of.label


@functools.cache
def _fields(cls: Any) -> list[tuple[str, str, Any]]:
    """Return the fields of a class that are attributes: name, attribute and default of each."""
    return [
        (
            item.name,
            item.name.rstrip("_"),
            item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default,
        )
        for item in dataclasses.fields(cls)
        if item.name != "line" and item.name not in _NO_ATTRIBUTES.get(cls, ())
    ]


def _attributes(item: Any) -> Attributes:
    """Return the attributes that differ from their defaults."""
    cls: Any = type(item)
    values = ((key, getattr(item, name), default) for name, key, default in _fields(cls))
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value, default in values if value != default
    }


def _table(add: Any, name: str, table: Table, complete: bool) -> None:
    attributes = _attributes(table)
    if table.partition_by:
        attributes["kind"] = "partitioned table"
    if complete:
        attributes["order"] = list(table.columns)
    if "kind" in attributes and attributes["kind"] == "table":
        del attributes["kind"]
    add(ObjectRef("table", name), attributes, name, ours=table.ours, line=table.line)
    for key, column in table.columns.items():
        ref = ObjectRef.on("column", name, key)
        add(ref, _attributes(column), name, ours=table.ours or column.added, line=column.line)
    for key, constraint in table.constraints.items():
        attributes = _attributes(constraint) | {"definition": constraint_definition(constraint)}
        add(
            ObjectRef.on("constraint", name, key),
            attributes,
            name,
            ours=table.ours or constraint.added,
            unless_baselined=constraint.unless_baselined,
            line=constraint.line,
        )
    _indexes_and_triggers(add, name, table)


def _indexes_and_triggers(add: Any, name: str, relation: Table | View) -> None:
    for key, index in relation.indexes.items():
        attributes = _attributes(index) | {"definition": index_definition(index)}
        ref = ObjectRef.on("index", name, key)
        add(ref, attributes, name, ours=not index.optional, optional=index.optional, line=index.line)
    for key, trigger in relation.triggers.items():
        ref = ObjectRef.on("trigger", name, key)
        add(ref, _attributes(trigger) | {"level": trigger.level}, name, line=trigger.line)


def _view(add: Any, name: str, view: View, complete: bool) -> None:
    attributes = _attributes(view) | {"order": list(view.columns)}
    if view.security_invoker:
        attributes["with"] = {**view.with_, "security_invoker": "true"}
    if attributes.get("kind") == "view":
        del attributes["kind"]
    add(ObjectRef("view", name), attributes, name, line=view.line)
    from_query = {} if complete else {"collation": ANY}  # what the view's query makes it
    for key, type_ in view.columns.items():
        more = _attributes(view.attributes[key]) if key in view.attributes else {}
        attributes = {"type": type_} | from_query | more
        add(ObjectRef.on("column", name, key), attributes, name, ours=False, line=view.line)
    _indexes_and_triggers(add, name, view)


def _execute(add: Any, ref: ObjectRef, function: Function) -> None:
    """Return the roles that may call it. PUBLIC may, of a new function, unless that is revoked."""
    if function.execute is None or "PUBLIC" in function.execute:
        return
    add(ObjectRef.right("revocation", ref, "PUBLIC"), {"privileges": ["EXECUTE"]}, line=function.line)
    for role in function.execute:
        add(ObjectRef.right("grant", ref, role), {"privileges": ["EXECUTE"]}, line=function.line)


def _function(function: Function) -> Attributes:
    attributes = _attributes(function)
    attributes.pop("kind", None)
    attributes["arguments"] = ", ".join(function.arguments)
    return attributes


# --- short forms -----------------------------------------------------------------------------------------------------


def constraint_definition(declared: Constraint) -> str:
    """Return the definition of a constraint as pg_get_constraintdef prints it."""
    if declared.definition:
        return declared.definition
    if declared.check:
        return f"CHECK (({bare(declared.check)}))"
    if declared.primary_key:
        return f"PRIMARY KEY ({', '.join(declared.primary_key)})"
    if declared.unique:
        return f"UNIQUE ({', '.join(declared.unique)})"
    table, columns = declared.target
    update = "" if declared.on_update == "NO ACTION" else f" ON UPDATE {declared.on_update}"
    delete = "" if declared.on_delete == "NO ACTION" else f" ON DELETE {declared.on_delete}"
    return f"FOREIGN KEY ({', '.join(declared.foreign_key)}) REFERENCES {table}({', '.join(columns)}){update}{delete}"


def index_definition(declared: Index) -> str:
    """Return the definition of an index as pg_get_indexdef prints it, without names and storage parameters."""
    if declared.definition:
        return declared.definition
    include = f" INCLUDE ({', '.join(declared.include)})" if declared.include else ""
    where = f" WHERE {_enclosed(declared.where)}" if declared.where else ""
    return f"{'UNIQUE ' * declared.unique}{declared.method} ({', '.join(declared.keys)}){include}{where}"


def _enclosed(expression: str) -> str:
    """Put an expression into the parentheses that the server prints around all but a bare name."""
    text = bare(expression)
    return text if PLAIN_NAME.fullmatch(text) else f"({text})"
