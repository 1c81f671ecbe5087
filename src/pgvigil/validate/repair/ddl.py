"""The SQL that makes, changes or removes an object, from the attributes a snapshot or a spec has of it.

Names are spelt as a snapshot spells them, so everything here is meant for a session whose search_path is the application's
schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from pgvigil.validate.catalog.identifiers import quoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.catalog.sql_text import (
    ENABLE,
    LISTS,
    RARE,
    UNTOLD,
    comment,
    enable,
    enabled,
    fdw_options,
    literal,
    remark,
    target,
)
from pgvigil.validate.repair.ddl_relations import (
    add_constraint,
    column,
    create_table,
    index,
    not_null,
    policy,
    trigger,
    view,
)
from pgvigil.validate.repair.ddl_routines import create_type, definition_list, function

_GRANTED_AS = {"view": "TABLE", "aggregate": "FUNCTION", "window function": "FUNCTION"}
_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}


def drop(ref: ObjectRef, root: str, attributes: Attributes) -> str:
    kind, label = ref.kind, ref.label
    if kind == "column":
        return f"ALTER {_relation(attributes)} {root} DROP COLUMN {ref.name};"
    if kind == "constraint":
        return f"ALTER TABLE {root} DROP CONSTRAINT {ref.name};"
    if kind in ("default grant", "default revocation"):
        return default_grant(label, attributes, give=kind == "default revocation")
    if kind == "setting":
        return setting(label, None)
    if kind in ("grant", "revocation"):
        return grant(ref, attributes, kind == "revocation")
    if attributes.get("clone"):
        return enable("TRIGGER", root, ref.name, "ORIGIN")
    if kind == "schema":  # its contents are not listed
        return f"DROP SCHEMA {label} CASCADE;"
    if kind in ("table", "view"):
        return f"DROP {attributes.get('kind', kind).upper().removeprefix('PARTITIONED ')} {label};"
    return f"DROP {target(ref, root)};"


def _relation(attributes: Attributes) -> str:
    return "FOREIGN TABLE" if attributes.get("kind") == "foreign table" else "TABLE"


def grant(right: ObjectRef, attributes: Attributes, give: bool) -> str:
    """Give or revoke the privileges of a grant or a revocation."""
    what, role = right.of, right.grantee
    if what is None:
        return ""
    statements = []
    for option in (False, True):
        some = [p for p in attributes["privileges"] if p.endswith(" WITH GRANT OPTION") == option]
        if not some:
            continue
        names = [p.removesuffix(" WITH GRANT OPTION") for p in some]
        place = f"{_GRANTED_AS.get(what.kind, what.kind.upper())} {what.label}"
        if what.kind == "other":
            place = ("FOREIGN " if what.rare_kind == "server" else "") + target(what, "")
        if what.kind == "column":
            names = [f"{privilege} ({what.name})" for privilege in names]
            place = f"TABLE {what.relation}"
        verb = (
            f"GRANT {', '.join(names)} ON {place} TO {role}{' WITH GRANT OPTION' * option};"
            if give
            else f"REVOKE {', '.join(names)} ON {place} FROM {role}{' CASCADE' * option};"  # what was passed on goes too
        )
        statements.append(verb)
    return "\n".join(statements)


_DEFAULT = re.compile(
    r'(?:in schema (?P<schema>"(?:[^"]|"")*"|\S+) )?on (?P<what>large objects|\w+) of (?P<owner>"(?:[^"]|"")*"|\S+) (?:to|from) (?P<role>.*)',
    re.DOTALL,
)


def default_grant(name: str, attributes: Attributes, *, give: bool) -> str:
    """Return ALTER DEFAULT PRIVILEGES for `in schema s on tables of owner to role` and its privileges."""
    match = _DEFAULT.fullmatch(name)
    if match is None:
        return ""
    place = f" IN SCHEMA {match['schema']}" if match["schema"] else ""
    start = f"ALTER DEFAULT PRIVILEGES FOR ROLE {match['owner']}{place}"
    lines = []
    for option in ("", " WITH GRANT OPTION"):
        some = [p for p in attributes["privileges"] if p.endswith(" WITH GRANT OPTION") == bool(option)]
        if not some:
            continue
        names = ", ".join(privilege.removesuffix(option) for privilege in some)
        what, role = match["what"].upper(), match["role"]
        right = f"GRANT {names} ON {what} TO {role}{option}" if give else f"REVOKE {names} ON {what} FROM {role}"
        lines.append(f"{start} {right};")
    return "\n".join(lines)


def setting(label: str, value: str | None) -> str:
    """Return the statement for a setting of new sessions.

    The label is `work_mem` or `work_mem of role r`. "" for a value that the spec does not hold.
    """
    name, _, role = label.partition(" of role ")
    place = f"ROLE {role} IN DATABASE {{database}}" if role else "DATABASE {database}"
    if value is None:
        return f"ALTER {place} RESET {name};"
    return "" if value == UNTOLD else f"ALTER {place} SET {name} = {value if name in LISTS else literal(value)};"


def create(ref: ObjectRef, root: str, attributes: Attributes, columns: dict[str, Attributes] | None = None) -> str:
    """Return all that makes the object, comment included; `columns` are those of a table. "" if that is not known."""
    kind, label = ref.kind, ref.label
    makers: dict[str, Callable[[], str]] = {
        "schema": lambda: f"CREATE SCHEMA {label};",
        "extension": lambda: (
            f"CREATE EXTENSION {label}{f' SCHEMA {schema}' if (schema := attributes.get('schema')) else ''};"
        ),
        "type": lambda: create_type(label, attributes),
        "sequence": lambda: (
            f"CREATE {attributes.get('persistence', '')} SEQUENCE {label} AS {attributes['type']} {sequence_options(attributes)};"
        ),
        "table": lambda: create_table(label, attributes, columns or {}),
        "column": lambda: f"ALTER TABLE {root} ADD COLUMN {ref.name} {column(attributes)};",
        "constraint": lambda: add_constraint(root, ref.name, attributes),
        "index": lambda: index(root, ref.name, attributes),
        "trigger": lambda: trigger(root, ref.name, attributes),
        "policy": lambda: policy(root, ref.name, attributes),
        "rule": lambda: f"{attributes['definition'].rstrip(';')};" + enabled("RULE", root, ref.name, attributes),
        "view": lambda: view(label, attributes),
        "statistics": lambda: f"CREATE STATISTICS {label}{kinds(attributes)} ON {attributes['definition']};",
        "event trigger": lambda: event_trigger(label, attributes),
        "grant": lambda: grant(ref, attributes, give=True),
        "default grant": lambda: default_grant(label, attributes, give=True),
        "default revocation": lambda: default_grant(label, attributes, give=False),
        "setting": lambda: setting(label, attributes["value"]),
        "revocation": lambda: grant(ref, attributes, give=False),
        "collation": lambda: collation(label, attributes),
        "other": lambda: other(label, attributes),
        "operator": lambda: (
            f"CREATE OPERATOR {ref.bare_label} ({definition_list(attributes['definition'])}{_operands(ref)});"
        ),
    }
    if kind.split()[-1] in ("function", "procedure", "aggregate"):
        made = function(kind, label, attributes)
    else:
        made = makers[kind]() if kind in makers and not ref.of_column else ""
    if made and "comment" in attributes:
        made += "\n" + comment(ref, root, attributes["comment"], attributes.get("kind", ""))
    if made and kind == "column":
        named = {key: attributes[key] for key in ("not_null",) if key in attributes}
        made += "".join(f"\n{line}" for line in not_null(root, ref.name, attributes, named))
    if made and kind == "constraint" and "index_comment" in attributes:
        made += f"\n{comment(ObjectRef('index', label), root, attributes['index_comment'])}"
    if made and kind == "sequence" and "of" in attributes:
        made += f"\nALTER SEQUENCE {label} OWNED BY {attributes['of']};"
    return made


def collation(label: str, attributes: Attributes) -> str:
    if attributes["provider"] not in _PROVIDERS:
        return ""
    locale = literal(attributes.get("locale", ""))
    words = [f"PROVIDER = {_PROVIDERS[attributes['provider']]}"]
    words += (
        [f"LC_COLLATE = {locale}", f"LC_CTYPE = {literal(attributes['ctype'])}"]
        if "ctype" in attributes
        else [f"LOCALE = {locale}"]
    )
    words += ["DETERMINISTIC = false"] if attributes.get("deterministic") is False else []
    words += [f"RULES = {literal(attributes['rules'])}"] if "rules" in attributes else []
    return f"CREATE COLLATION {label} ({', '.join(words)});"


def other(label: str, attributes: Attributes) -> str:
    """Return the CREATE of a rare kind, made from the text that it is compared by. "" where that text is not enough."""
    kind, _, name = label.partition(" ")
    what, text = RARE[kind], attributes.get("definition", "")
    if kind == "cast":
        return f"CREATE CAST {name} {text};"
    if kind in ("foreign_data_wrapper", "server", "user_mapping"):
        given = {key: value for key, value in attributes.get("options", {}).items() if value != UNTOLD}
        made = " ".join(
            filter(None, (f"CREATE {what} {name}", text, f"OPTIONS ({fdw_options(given)})" if given else ""))
        )
        return "\n".join([f"{made};", *secrets(what, name, attributes.get("options", {}).keys() - given.keys())])
    if kind == "language":
        return f"CREATE OR REPLACE {'TRUSTED ' * text.startswith('TRUSTED ')}LANGUAGE {name} {text.removeprefix('TRUSTED ')};"
    if kind == "transform":
        return f"CREATE OR REPLACE TRANSFORM {name} ({text});"
    if kind == "access_method":
        return f"CREATE ACCESS METHOD {name} {text};"
    if kind in ("ts_parser", "ts_template"):
        return f"CREATE {what} {name} ({text});"
    if kind == "ts_dict":
        return f"CREATE {what} {name} (TEMPLATE = {text.removeprefix('TEMPLATE ')});"
    if kind == "ts_config":
        parser, mappings = text_search(text)
        made = f"CREATE {what} {name} (PARSER = {parser});"
        return "\n".join(
            [
                made,
                *(
                    f"ALTER {what} {name} ADD MAPPING FOR {token} WITH {', '.join(to)};"
                    for token, to in mappings.items()
                ),
            ]
        )
    if kind == "conversion" and (match := re.fullmatch(r"(DEFAULT )?(\S+) TO (\S+) FROM (.*)", text)):
        return (
            f"CREATE {match[1] or ''}CONVERSION {name} FOR {literal(match[2])} TO {literal(match[3])} FROM {match[4]};"
        )
    return ""


def secrets(what: str, name: str, names: Iterable[str]) -> Iterator[str]:
    for one in sorted(names):
        yield remark(f"The spec does not hold {one}: ALTER {what} {name} OPTIONS (ADD {quoted(one)} '…');")


def text_search(definition: str) -> tuple[str, dict[str, list[str]]]:
    """Return the parser of a text search configuration, and the dictionaries of each kind of token."""
    parser, _, rest = definition.removeprefix("PARSER ").partition(", ")
    mappings: dict[str, list[str]] = {}
    for token, dictionary in re.findall(r'(\w+) ((?:"(?:[^"]|"")*"|[^",])+)(?:, |$)', rest):
        mappings.setdefault(token, []).append(dictionary)
    return parser, mappings


def _operands(operator: ObjectRef) -> str:
    left, _, right = operator.signature[1:-1].partition(", ")
    return "".join(f", {side} = {type_}" for side, type_ in (("LEFTARG", left), ("RIGHTARG", right)) if type_ != "NONE")


def kinds(attributes: Attributes) -> str:
    return f" ({', '.join(attributes['kinds'])})" if "kinds" in attributes else ""


def event_trigger(label: str, attributes: Attributes) -> str:
    when = f" WHEN TAG IN ({', '.join(literal(tag) for tag in attributes['tags'])})" if "tags" in attributes else ""
    made = f"CREATE EVENT TRIGGER {label} ON {attributes['event']}{when} EXECUTE FUNCTION {attributes['function']};"
    state = attributes.get("enabled")
    return made + (f"\nALTER EVENT TRIGGER {label} {ENABLE[state]};" if state else "")


def sequence_options(attributes: Attributes) -> str:
    words = {"increment": "INCREMENT", "minimum": "MINVALUE", "maximum": "MAXVALUE", "start": "START", "cache": "CACHE"}
    usual = {"increment": 1, "cache": 1}
    text = " ".join(f"{word} {attributes.get(key, usual.get(key))}" for key, word in words.items())
    return text + (" CYCLE" if attributes.get("cycle") else " NO CYCLE")
