"""A spec of what is there: complete, so that holding the same database against it finds nothing, and any change something."""

from __future__ import annotations

import json as json_module
import re
from typing import Any

from pgvigil.errors import PreconditionError
from pgvigil.text import UNSEEN, spelt_out
from pgvigil.validate.catalog.identifiers import quoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Attributes, Connection, Scope, Snapshot, all_schemas, snapshot

_SECTIONS = {
    "extension": "extensions",
    "type": "types",
    "sequence": "sequences",
    "policy": "policies",
    "rule": "rules",
    "statistics": "statistics",
    "collation": "collations",
    "operator": "operators",
    "other": "others",
    "event trigger": "event_triggers",
    "grant": "grants",
    "revocation": "revocations",
    "default grant": "default_grants",
    "default revocation": "default_revocations",
    "setting": "settings",
    "schema": "details",
}
_ON_RELATIONS = {"constraint": "constraints", "index": "indexes", "trigger": "triggers"}
_FIRST = (
    "spec",
    "complete",
    "everything",
    "database",
    "major",
    "schema",
    "schemas",
    "details",
    "extensions",
    "types",
    "sequences",
    "tables",
    "views",
    "functions",
)


def dump_spec(conn: Connection, schemas: list[str], *, json: bool = False) -> str:
    """The first schema is the application's: its objects are written without a schema. None named: all."""

    names = list(dict.fromkeys(schemas)) or all_schemas(conn) or ["public"]
    found = snapshot(conn, Scope(tuple(names), everywhere=not schemas), names[0])
    for at, name in enumerate(names):
        if ObjectRef("schema", quoted(name) if at else "{schema}") not in found.objects:
            raise PreconditionError(
                f'there is no schema "{name}" in this database', "See psql's \\dn for those there are."
            )
    document = document_of(found, names, everything=not schemas)
    if json:
        return json_module.dumps(document, indent=1) + "\n"
    import yaml

    return "# Written by `pgvigil spec dump`; read by `pgvigil validate --spec FILE`.\n" + spelt_out(
        yaml.dump(document, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=140)
    )


def document_of(found: Snapshot, schemas: list[str], *, everything: bool = False) -> Attributes:
    document: Attributes = {
        "spec": "1",
        "complete": True,
        **({"everything": True} if everything else {}),
        **({"database": found.server.database} if everything and found.server else {}),
        "major": found.server.major if found.server else 0,
        "schema": schemas[0],
        "schemas": ["{schema}", *map(quoted, schemas[1:])],
    }
    relations: dict[str, Attributes] = {}
    objects = dict(sorted(found.objects.items(), key=lambda item: item[0]))
    for ref, attributes in objects.items():
        if ref.kind in ("table", "view"):
            relations[found.roots[ref]] = _relation(document, ref, attributes)
    for ref, attributes in objects.items():
        kind, name, root = ref.kind, ref.label, found.roots[ref]
        if kind == "column":
            _column(relations[root], name[len(root) + 1 :], attributes)
        elif kind in _ON_RELATIONS:
            relations[root].setdefault(_ON_RELATIONS[kind], {})[ref.name] = attributes
        elif "privileges" in attributes:
            document.setdefault(_SECTIONS[kind], {})[name] = attributes["privileges"]
        elif kind in _SECTIONS:
            if attributes or kind != "schema":
                document.setdefault(_SECTIONS[kind], {})[name] = attributes
        elif kind not in ("table", "view"):
            document.setdefault("functions", {})[name] = _function(kind, attributes)
    rank = {key: at for at, key in enumerate(_FIRST)}
    return dict(sorted(document.items(), key=lambda item: rank.get(item[0], len(rank))))


def _relation(document: Attributes, ref: ObjectRef, attributes: Attributes) -> Attributes:
    relation = {key: value for key, value in attributes.items() if key != "order"} | {"columns": {}}
    document.setdefault(f"{ref.kind}s", {})[ref.label] = relation
    if ref.kind == "view":
        relation["attributes"] = {}
    relation["columns"] = dict.fromkeys(attributes.get("order", ()))
    return relation


def _column(relation: Attributes, name: str, attributes: Attributes) -> None:
    if "attributes" not in relation:
        relation["columns"][name] = attributes
        return
    relation["columns"][name] = attributes["type"]
    if more := {key: value for key, value in attributes.items() if key != "type"}:
        relation["attributes"][name] = more


def _function(kind: str, attributes: Attributes) -> Attributes:
    arguments = attributes.get("arguments")
    shown = {key: value for key, value in attributes.items() if key != "arguments"}
    return (
        ({"kind": kind} if kind != "function" else {})
        | ({"arguments": arguments.split(", ")} if arguments else {})
        | shown
    )


def _dumper() -> Any:
    """Return a dumper that writes long texts in YAML's block style.

    It quotes all other texts that could be read as something else.
    """
    import yaml

    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

    class Dumper(base):  # type: ignore[misc]
        def ignore_aliases(self, _: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        # A line of a block that begins with :: would be a command to a CI system that shows it.
        # In double quotes alone a character can be written as an escape.
        style = (
            '"' if re.search(r"^\s*::", value, re.MULTILINE) or UNSEEN.search(value) else "|" if "\n" in value else None
        )
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return Dumper
