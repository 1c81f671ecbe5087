"""Read a spec and check that its parts fit together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pgvigil import input_files
from pgvigil.errors import UsageError
from pgvigil.validate.catalog.identifiers import first_parenthesis, schema_of, spelt_as_callable, spelt_as_sql
from pgvigil.validate.spec import yaml_binding
from pgvigil.validate.spec.document import SIGNATURE, WORD, Document, Function, Spec, Table, spelt


def load_spec(path: Path, raw: bytes | None = None) -> Spec:
    """Read a spec file, or take its contents. Raise UsageError."""
    document = yaml_binding.load(path, Document, input_files.read_spec(path) if raw is None else raw)
    if not document.complete:  # what a server printed fits together
        for line, message in _misfits(document):
            raise UsageError(f"{path}:{line}: {message}", "Names must agree within the spec.")
    functions: dict[str, Function] = {}
    for key, function in document.functions.items():
        identity = key
        if not document.complete:
            name, types = signature(key)
            identity = f"{spelt_as_callable(name)}({', '.join(types)})"
        if identity in functions:
            raise UsageError(f"{path}:{function.line}: function {identity} is declared twice", "Remove one.")
        functions[identity] = function
    return Spec(path, document, functions)


def signature(text: str) -> tuple[str, tuple[str, ...]]:
    match = SIGNATURE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return match[1], tuple(spelt(part.strip()) for part in match[2].split(",") if part.strip())


def _misfits(document: Document) -> Iterator[tuple[int, str]]:
    lines = {name: item.line for name, item in document.tables.items()}
    lines |= {name: item.line for name, item in document.views.items()}
    for name, line in lines.items():
        if message := _misspelt(name):
            yield line, message
        if (schema := schema_of(name)) and schema not in document.schemas:
            yield line, f"{name}: schema {schema} is not among the schemas {', '.join(document.schemas)}"
    for name, view in document.views.items():
        if name in document.tables:
            yield view.line, f"{name} is declared as a table (line {document.tables[name].line}) and as a view"
        if view.reads is None:
            yield view.line, f"views.{name} lacks reads"
        for source in view.reads or ():
            if source not in document.tables and source not in document.views:
                yield view.line, f"view {name} reads {source}, which is not declared"
    for key, function in document.functions.items():
        if not (match := SIGNATURE.fullmatch(key)):
            yield function.line, f"function {key!r} must read `schema.name(type, …)`"
        elif len(signature(key)[1]) != len(function.arguments):
            yield function.line, f"function {key} has {len(function.arguments)} arguments, and others in its name"
        elif schema_of(match[1]) not in document.schemas:
            yield function.line, f"function {key} must be in one of the schemas {', '.join(document.schemas)}"
    functions = {signature(key)[0] for key in document.functions if SIGNATURE.fullmatch(key)}
    for name, table in document.tables.items():
        for line, message in _table_misfits(table, document, functions):
            yield line, f"{name}: {message}"


def _misspelt(name: str) -> str:
    sql = spelt_as_sql(name)
    return "" if name == sql else f"{name} is not how SQL spells a name: write '{sql}'"


def _table_misfits(table: Table, document: Document, functions: set[str]) -> Iterator[tuple[int, str]]:
    def unknown(columns: tuple[str, ...], of: Table = table) -> str:
        return next((column for column in columns if column not in of.columns), "")

    for parts in (table.columns, table.constraints, table.indexes, table.triggers):
        for key, part in parts.items():
            if message := _misspelt(key):
                yield part.line, message
    for key, constraint in table.constraints.items():
        if column := unknown(constraint.columns):
            yield constraint.line, f"constraint {key} names column {column}, which is not declared"
        target, columns = constraint.target
        if target and target not in document.tables:
            yield constraint.line, f"constraint {key} references table {target}, which is not declared"
        elif target and (column := unknown(columns, document.tables[target])):
            yield constraint.line, f"constraint {key} references {target}.{column}, which is not declared"
    for key, index in table.indexes.items():
        plain = tuple(part.split()[0] for part in index.keys if WORD.fullmatch(part.split()[0]))
        if column := unknown(plain + index.include):
            yield index.line, f"index {key} names column {column}, which is not declared"
        if index.optional and table.ours:
            yield index.line, f"index {key} is optional, but the table is ours"
    for key, trigger in table.triggers.items():
        if column := unknown(trigger.update_of):
            yield trigger.line, f"trigger {key} names column {column}, which is not declared"
        function = trigger.function[: first_parenthesis(trigger.function)]
        if schema_of(function) in document.schemas and function not in functions:
            yield trigger.line, f"trigger {key} calls function {function}, which is not declared"
    for row in table.rows:
        if column := unknown(tuple(row)):
            yield table.line, f"a row names column {column}, which is not declared"
    if table.ours:
        added = {key: column.line for key, column in table.columns.items() if column.added}
        added |= {key: constraint.line for key, constraint in table.constraints.items() if constraint.added}
        for key, line in added.items():
            yield line, f"{key} is marked as added, but the whole table is ours"
