"""The CREATE statements of tables, views and what belongs to them, and the attributes that a table gets by ALTER."""

from __future__ import annotations

from collections.abc import Iterator

from pgvigil.validate.catalog.identifiers import last_name, quoted, unquoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.catalog.sql_text import comment, enable, enabled, fdw_options, literal, storage_options
from pgvigil.validate.catalog.trigger_clauses import trigger_head, trigger_tail


def column(attributes: Attributes) -> str:
    """Write a column of a new table; `type` is left out for a typed table."""
    text: str = attributes.get("type", "")
    text += f" COLLATE {attributes['collation']}" if "collation" in attributes else ""
    text += f" COMPRESSION {attributes['compression']}" if "compression" in attributes else ""
    text += f" OPTIONS ({fdw_options(attributes['options'])})" if "options" in attributes else ""
    if "generated" in attributes:
        text += (
            f" GENERATED ALWAYS AS ({attributes['generated']}) {'VIRTUAL' if attributes.get('virtual') else 'STORED'}"
        )
    elif "identity" in attributes:
        text += identity(attributes)
    elif "default" in attributes:
        text += f" DEFAULT {attributes['default']}"
    name = f" CONSTRAINT {attributes['not_null']}" if "not_null" in attributes else ""
    return text + f"{name} NOT NULL" * (attributes.get("nullable") is False)


def identity(attributes: Attributes) -> str:
    """Return GENERATED … AS IDENTITY, with `identity_options`, those of the sequence, where it has any."""
    options = f" ({attributes['identity_options']})" if "identity_options" in attributes else ""
    return f" GENERATED {attributes['identity']} AS IDENTITY{options}"


def matview_column(label: str, name: str, attributes: Attributes) -> Iterator[str]:
    """Return the storage of a column of a materialized view."""
    for key in ("storage", "compression"):
        if key in attributes:
            yield f"ALTER MATERIALIZED VIEW {label} ALTER {name} SET {key.upper()} {attributes[key]};"


def create_table(label: str, attributes: Attributes, columns: dict[str, Attributes]) -> str:
    """A partition is made as a table of its own, to be attached when its keys and indexes have the expected names."""
    unlogged = f"{attributes['persistence']} " if "persistence" in attributes else ""
    foreign = "FOREIGN " if attributes.get("kind") == "foreign table" else ""
    partition = "partition_of" in attributes
    if partition:  # an identity is the parent's
        columns = {name: {key: of[key] for key in of if key != "identity"} for name, of in columns.items()}
    listed = {
        name: of for name, of in columns.items() if partition or not (of.get("inherited") or attributes.get("of_type"))
    }
    own = [f"    {name} {column(of)}" for name, of in listed.items()]
    own += [  # a NOT NULL that the parent has too, under a name of its own
        f"    CONSTRAINT {of['not_null']} NOT NULL {name}"
        for name, of in columns.items()
        if name not in listed and "not_null" in of and "of_type" not in attributes
    ]
    if "of_type" in attributes:
        own += [
            f"    {name} WITH OPTIONS{options}"
            for name, of in columns.items()
            if (options := column({key: of[key] for key in ("default", "nullable") if key in of}))
        ]
    tail = f" OF {attributes['of_type']}" if "of_type" in attributes else ""
    tail += " (\n" + ",\n".join(own) + "\n)" if own or not tail else ""
    tail += f" INHERITS ({', '.join(attributes['inherits'])})" if "inherits" in attributes else ""
    tail += f" PARTITION BY {attributes['partition_by']}" if "partition_by" in attributes else ""
    tail += f" USING {attributes['access_method']}" if "access_method" in attributes else ""
    tail += f" WITH ({storage_options(attributes['with'])})" if "with" in attributes else ""
    tail += f" TABLESPACE {attributes['tablespace']}" if "tablespace" in attributes else ""
    tail += f" SERVER {attributes['server']}" if "server" in attributes else ""
    tail += f" OPTIONS ({fdw_options(attributes['options'])})" if "options" in attributes else ""
    made = [f"CREATE {unlogged}{foreign}TABLE {label}{tail};"]
    made += [
        f"ALTER TABLE {label} ALTER {name} SET STORAGE {of['storage']};"
        for name, of in columns.items()
        if "storage" in of
    ]
    made += [  # it may differ from the parent's
        f"ALTER TABLE {label} ALTER {name} SET DEFAULT {of['default']};"
        for name, of in columns.items()
        if name not in listed and "default" in of and "of_type" not in attributes
    ]
    made += [
        f"COMMENT ON COLUMN {label}.{name} IS {literal(of['comment'])};"
        for name, of in columns.items()
        if "comment" in of
    ]
    for name, of in columns.items():
        typed = name not in listed and "of_type" in attributes  # its columns are written without the name
        made += not_null(label, name, of, {} if typed else {key: of[key] for key in ("not_null",) if key in of})
    made += [
        alter
        for key in ("row_security", "replica_identity")
        if key in attributes and not identified_by_index(attributes, key)
        for alter in [relation(label, key, attributes)]
    ]
    return "\n".join(made)


def identified_by_index(attributes: Attributes, key: str = "replica_identity") -> bool:
    """Return true for a replica identity that has to wait for its index."""
    return key == "replica_identity" and attributes.get(key, "").startswith("USING INDEX ")


def attach(label: str, attributes: Attributes) -> str:
    return f"ALTER TABLE {attributes['partition_of']} ATTACH PARTITION {label} {attributes['bound']};"


def relation(label: str, key: str, attributes: Attributes) -> str:
    """Return ALTER TABLE for an attribute of a relation."""
    value: str | None = attributes.get(key)
    if key == "row_security":
        words = {
            None: "DISABLE, NO FORCE",
            "enabled": "ENABLE, NO FORCE",
            "forced": "ENABLE, FORCE",
            "forced, disabled": "DISABLE, FORCE",
        }
        return (
            f"ALTER TABLE {label} " + ", ".join(f"{word} ROW LEVEL SECURITY" for word in words[value].split(", ")) + ";"
        )
    if key == "replica_identity":
        return f"ALTER TABLE {label} REPLICA IDENTITY {value or 'DEFAULT'};"
    if key == "persistence":
        return f"ALTER TABLE {label} SET {value or 'LOGGED'};"
    if key == "tablespace":
        return f"ALTER TABLE {label} SET TABLESPACE {value or 'pg_default'};"
    if key == "access_method":
        return f"ALTER TABLE {label} SET ACCESS METHOD {value or 'heap'};"
    return ""


def add_constraint(root: str, name: str, attributes: Attributes) -> str:
    return f"ALTER TABLE {root} ADD CONSTRAINT {name} {attributes['definition']}{' NOT VALID' * (attributes.get('validated') is False)};"


def index(root: str, name: str, attributes: Attributes, *, concurrently: bool = False) -> str:
    text = attributes["definition"]
    unique = text.startswith("UNIQUE ")
    text = text.removeprefix("UNIQUE ")
    if options := attributes.get("with"):
        head, where, predicate = text.partition(" WHERE ")
        text = f"{head} WITH ({storage_options(options)}){where}{predicate}"
    return f"CREATE {'UNIQUE ' * unique}INDEX {'CONCURRENTLY ' * concurrently}{name} ON {root} USING {text};"


def trigger(root: str, name: str, attributes: Attributes) -> str:
    if attributes.get("clone"):  # it is there with the partitioned table's, and only its state is its own
        return enable("TRIGGER", root, name, attributes.get("enabled", "ORIGIN"))
    word = "CREATE CONSTRAINT" if attributes.get("constraint") else "CREATE"
    made = f"{word} TRIGGER {name} {trigger_head(attributes)} ON {root} {trigger_tail(attributes)};"
    return made + enabled("TRIGGER", root, name, attributes)


def policy(root: str, name: str, attributes: Attributes) -> str:
    text = f"CREATE POLICY {name} ON {root}{' AS RESTRICTIVE' * bool(attributes.get('restrictive'))}"
    text += f" FOR {attributes['command']}" if "command" in attributes else ""
    text += f" TO {', '.join(attributes.get('roles', ['PUBLIC']))}"
    text += f" USING ({attributes['using']})" if "using" in attributes else ""
    return text + (f" WITH CHECK ({attributes['check']})" if "check" in attributes else "") + ";"


def view(label: str, attributes: Attributes) -> str:
    options = f" WITH ({storage_options(attributes['with'])})" if "with" in attributes else ""
    word = "MATERIALIZED VIEW" if attributes.get("kind") else "OR REPLACE VIEW"
    return (
        f"CREATE {word} {label}{options} AS\n{attributes['definition'].rstrip().rstrip(';')};"
        if "definition" in attributes
        else ""
    )


def not_null(root: str, name: str, expected: Attributes, found: Attributes) -> Iterator[str]:
    """Return the expected name of the NOT NULL constraint of a column, and the expected comment on it (PostgreSQL 18)."""
    usual = quoted(f"{unquoted(last_name(root))}_{unquoted(name)}_not_null")
    right, there = expected.get("not_null", usual), found.get("not_null", usual)
    if right != there:
        yield f"ALTER TABLE {root} RENAME CONSTRAINT {there} TO {right};"
    if expected.get("not_null_comment") != found.get("not_null_comment"):
        yield comment(ObjectRef.on("constraint", root, right), root, expected.get("not_null_comment"))
