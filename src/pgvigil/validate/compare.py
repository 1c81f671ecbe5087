"""The spec held against the catalog."""

from __future__ import annotations

from collections import Counter

from pgvigil.validate import partitions, printing, tables
from pgvigil.validate.catalog import Catalog, Connection, Relation, qualified, snapshot
from pgvigil.validate.collect import ABSENT, Collector, Part
from pgvigil.validate.report import Finding, Report
from pgvigil.validate.spec import Function, Spec, Table, View

KIND_OF_RELATION = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "S": "sequence",
}
_TRUE = {"true", "on", "yes", "1"}


def validate(conn: Connection, spec: Spec, schema: str, *, before: str | None = None) -> Report:
    """Compare. Inside an open transaction its own changes are seen; either way the connection is left as it was.

    `before` is the first migration still to come, if one is: what the spec declares as brought by it or by later ones
    is not looked for.
    """
    catalog = snapshot(conn, spec, schema)
    collector = Collector(spec, catalog)
    _schemas_and_roles(collector)
    for path, function in spec.functions.items():
        _function(collector, path, function)
    for name, table in spec.tables.items():
        _table(collector, name, table)
    for name, view in spec.views.items():
        _view(collector, name, view)
    _unexpected(collector)
    to_come = [item for item in spec.later if before is not None and item.revision >= before]
    findings = [f for f in collector.settled(conn) if not any(item.covers(f.object) for item in to_come)]
    return Report(
        spec.path.name,
        catalog.server.database,
        schema,
        catalog.server.version,
        tuple(finding for finding in findings if finding.severity == "finding"),
        tuple(finding for finding in findings if finding.severity == "note"),
        _seen(catalog),
        dict(sorted(collector.compared.items())),
    )


def check_application_tables(conn: Connection, spec: Spec, schema: str) -> list[Finding]:
    """What the migrations need of the application, before the first one: its tables, their base columns, the types."""
    collector = Collector(spec, snapshot(conn, spec, schema))
    for name, table in spec.tables.items():
        if table.ours:
            continue
        relation = collector.catalog.relation(name)
        if relation is None:
            collector.miss(f"table {name}", "a table of the application")
            continue
        if relation.kind not in "rp":
            collector.differ(f"table {name}", [Part("table", KIND_OF_RELATION[relation.kind])])
            continue
        for key, column in table.columns.items():
            found = relation.columns.get(key)
            if found is None and not column.added:
                collector.miss(f"column {name}.{key}", column.type)
            elif found is not None and found.type != column.type:
                collector.differ(f"column {name}.{key}", [Part(column.type, found.type)])
    return collector.settled(conn)


def _schemas_and_roles(collector: Collector) -> None:
    spec, server = collector.spec, collector.catalog.server
    schemas = server.schemas or {}
    for name in dict.fromkeys([collector.schema, *spec.schemas]):
        collector.compared["schema"] += 1
        if name not in schemas:
            collector.miss(f"schema {name}", "a schema")
        elif name in spec.schemas:
            collector.need_comment(f"schema {name}", schemas[name])
    for role in spec.roles:
        collector.compared["role"] += 1
        if role not in server.roles:
            collector.add("missing", f"role {role}", "a role to grant to people and programs", ABSENT, "note")


def _function(collector: Collector, identity: str, declared: Function) -> None:
    collector.compared["function"] += 1
    path = f"{declared.kind} {identity}"
    found = collector.catalog.functions.get(identity)
    if found is None:
        collector.miss(path, f"a {declared.kind}", [f"schema {identity.partition('.')[0]}"])
        return
    wanted, got = printing.function(declared, collector.schema), printing.function_found(found)
    collector.differ(path, [Part(wanted[key], got[key]) for key in wanted if wanted[key] != got[key]])
    collector.need_comment(path, found.commented)


def _table(collector: Collector, name: str, declared: Table) -> None:
    collector.compared["table"] += 1
    path = f"table {name}"
    relation = collector.catalog.relation(name)
    wanted = f"partitioned by {declared.partition_by}" if declared.partition_by else "table"
    if relation is None:
        collector.miss(path, wanted, [f"schema {qualified(name, collector.schema)[0]}"])
        return
    got = f"partitioned by {relation.partition_key}" if relation.partition_key else KIND_OF_RELATION[relation.kind]
    parts = [Part(wanted, printing.unquoted(got))] if printing.unquoted(got) != wanted else []
    if relation.persistence != "p":
        parts.append(Part("LOGGED", "UNLOGGED"))
    options = printing.options(relation.options)
    parts += [
        Part(f"{key} = {value}", f"{key} = {options[key]}" if key in options else f"{key} not set")
        for key, value in declared.with_.items()
        if options.get(key) != value
    ]
    collector.differ(path, parts)
    if declared.ours:
        collector.need_comment(path, relation.commented)
    _rules_and_policies(collector, name, relation, declared.ours)
    tables.compare(collector, name, declared, relation)
    if declared.partitions and relation.kind == "p":
        partitions.compare(collector, name, declared.partitions, relation)


def _rules_and_policies(collector: Collector, name: str, relation: Relation, ours: bool) -> None:
    for rule in relation.rules:
        collector.unexpected(f"rule {name}.{rule}", "a rule", ours)
    for policy in relation.policies:
        collector.unexpected(f"policy {name}.{policy}", "a policy", ours)
    if relation.row_security:
        collector.unexpected(f"row security of {name}", "enabled", ours)


def _view(collector: Collector, name: str, declared: View) -> None:
    collector.compared["view"] += 1
    path = f"view {name}"
    relation = collector.catalog.relation(name)
    if relation is None:
        sources = {
            source: collector.spec.tables[source] for source in declared.reads if source in collector.spec.tables
        }
        columns = [f"column {source}.{column}" for source, table in sources.items() for column in table.columns]
        schemas = [f"schema {qualified(name, collector.schema)[0]}"]
        collector.miss(path, "a view", [*schemas, *(f"table {source}" for source in sources), *columns])
        return
    parts = [Part("view", KIND_OF_RELATION[relation.kind])] if relation.kind != "v" else []
    if collector.catalog.server.major >= 15:
        invoker = printing.options(relation.options).get("security_invoker", "false") in _TRUE
        if invoker != declared.security_invoker:
            wanted, got = (f"security_invoker = {str(on).lower()}" for on in (declared.security_invoker, invoker))
            parts.append(Part(wanted, got))
    reads = {".".join(qualified(source, collector.schema)) for source in declared.reads}
    if reads != set(relation.reads):
        wanted, got = (f"reads {', '.join(sorted(names)) or 'no table'}" for names in (reads, set(relation.reads)))
        parts.append(Part(wanted, got))
    shared = [key for key in declared.columns if key in relation.columns]
    if (order := [key for key in relation.columns if key in declared.columns]) != shared:
        parts.append(Part(f"columns in the order {', '.join(shared)}", ", ".join(order)))
    collector.differ(path, parts)
    collector.need_comment(path, relation.commented)
    for key, type_ in declared.columns.items():
        collector.compared["column"] += 1
        found = relation.columns.get(key)
        if found is None:
            collector.miss(f"column {name}.{key}", type_)
        elif found.type != type_:
            collector.differ(f"column {name}.{key}", [Part(type_, found.type)])
    for key, extra in relation.columns.items():
        if key not in declared.columns:
            collector.unexpected(f"column {name}.{key}", extra.type, ours=True)
    _rules_and_policies(collector, name, relation, ours=True)
    tables.triggers(collector, name, {}, relation, ours=True)


def _unexpected(collector: Collector) -> None:
    """What nobody declared in the schemas that are ours alone."""
    spec, catalog = collector.spec, collector.catalog
    for identity, function in catalog.functions.items():
        if identity not in spec.functions:
            kind = printing.function_found(function)["kind"]
            collector.unexpected(f"{kind} {identity}", f"a {kind}", ours=True)
    declared = {qualified(name, catalog.schema) for name in [*spec.tables, *spec.views]}
    for key, relation in catalog.relations.items():
        if relation.schema in spec.schemas and key not in declared and relation.parent is None:
            kind = KIND_OF_RELATION[relation.kind]
            collector.unexpected(f"{kind} {'.'.join(key)}", f"a {kind}", ours=True)


def _seen(catalog: Catalog) -> dict[str, int]:
    seen: Counter[str] = Counter(function=len(catalog.functions), schema=len(catalog.server.schemas or {}))
    seen["role"] = len(catalog.server.roles)
    for relation in catalog.relations.values():
        seen["partition" if relation.parent else KIND_OF_RELATION[relation.kind]] += 1
        seen["column"] += len(relation.columns)
        seen["constraint"] += len(relation.constraints)
        seen["index"] += sum(not index.of_constraint for index in relation.indexes.values())
        seen["trigger"] += len(relation.triggers)
    return {kind: count for kind, count in sorted(seen.items()) if count}
