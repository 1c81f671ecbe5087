"""The SQL that makes, changes or removes an object, from the attributes a snapshot or a spec has of it.

Names are spelt as a snapshot spells them, so everything here is meant for a session whose search_path is the application's
schema.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator

from pgvigil.validate.catalog import Attributes
from pgvigil.validate.expected import kind_of, last_name
from pgvigil.validate.names import quoted, unquoted

_SUBOBJECTS = ("trigger", "rule", "policy")
_ENABLE = {"ORIGIN": "ENABLE", "DISABLED": "DISABLE", "REPLICA": "ENABLE REPLICA", "ALWAYS": "ENABLE ALWAYS"}
_RARE = {
    "opclass": "OPERATOR CLASS",
    "opfamily": "OPERATOR FAMILY",
    "conversion": "CONVERSION",
    "ts_config": "TEXT SEARCH CONFIGURATION",
    "ts_dict": "TEXT SEARCH DICTIONARY",
    "ts_parser": "TEXT SEARCH PARSER",
    "ts_template": "TEXT SEARCH TEMPLATE",
    "cast": "CAST",
    "foreign_data_wrapper": "FOREIGN DATA WRAPPER",
    "server": "SERVER",
    "user_mapping": "USER MAPPING",
    "language": "LANGUAGE",
    "transform": "TRANSFORM",
    "access_method": "ACCESS METHOD",
}
_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
UNTOLD = "(secret)"  # in place of a value that the spec does not hold
# Settings whose value is a list of names: as one text in quotes it would be one name.
_LISTS = {
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
}


def literal(text: str) -> str:
    return ("E" if "\\" in text else "") + "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def remark(text: str) -> str:
    """A comment, all of it: a name may go over several lines."""
    return "-- " + re.sub(r"\r\n?|\n", "\n-- ", text)


def _options(options: dict[str, str]) -> str:
    return ", ".join(f"{name} = {literal(value)}" for name, value in options.items())


def target(path: str, root: str, of_relation: str = "") -> str:
    """The object as COMMENT ON and DROP name it; `of_relation` is the kind of a relation, where it has one."""
    kind, label = kind_of(path), path.removeprefix(kind_of(path)).strip()
    if of_relation in ("foreign table", "materialized view"):
        return f"{of_relation.upper()} {label}"
    if kind == "window function":
        return f"FUNCTION {label}"
    if kind == "other":
        return f"{_RARE[label.partition(' ')[0]]} {label.partition(' ')[2]}"
    if kind in ("constraint", *_SUBOBJECTS):
        return f"{kind.upper()} {last_name(label)} ON {root}"
    if kind == "index":
        return f"INDEX {_beside(root, last_name(label))}"
    return f"{kind.upper()} {label}"


def _beside(root: str, name: str) -> str:
    """A name in the schema of a relation."""
    return root[: -len(last_name(root))] + name


def comment(path: str, root: str, text: str | None, kind: str = "") -> str:
    return f"COMMENT ON {target(path, root, kind)} IS {literal(text) if text else 'NULL'};"


def drop(path: str, root: str, attributes: Attributes) -> str:
    kind, label = kind_of(path), path.removeprefix(kind_of(path)).strip()
    if kind == "column":
        return f"ALTER {_relation(attributes)} {root} DROP COLUMN {last_name(label)};"
    if kind == "constraint":
        return f"ALTER TABLE {root} DROP CONSTRAINT {last_name(label)};"
    if kind in ("default grant", "default revocation"):
        return default_grant(label, attributes, give=kind == "default revocation")
    if kind == "setting":
        return setting(label, None)
    if kind in ("grant", "revocation"):
        return _grant(label, attributes, kind == "revocation")
    if attributes.get("clone"):
        return enable("TRIGGER", root, last_name(label), "ORIGIN")
    if kind == "schema":  # its contents are not listed
        return f"DROP SCHEMA {label} CASCADE;"
    if kind in ("table", "view"):
        return f"DROP {attributes.get('kind', kind).upper().removeprefix('PARTITIONED ')} {label};"
    return f"DROP {target(path, root)};"


def _relation(attributes: Attributes) -> str:
    return "FOREIGN TABLE" if attributes.get("kind") == "foreign table" else "TABLE"


def _grant(name: str, attributes: Attributes, give: bool) -> str:
    """From `on table t to role` and its privileges."""
    what, _, role = name.removeprefix("on ").rpartition(" to " if " to " in name else " from ")
    kind, label = kind_of(what), what.removeprefix(kind_of(what)).strip()
    statements = []
    for option in (False, True):
        some = [p for p in attributes["privileges"] if p.endswith(" WITH GRANT OPTION") == option]
        if not some:
            continue
        names = [p.removesuffix(" WITH GRANT OPTION") for p in some]
        place = f"{'TABLE' if kind in ('view', 'column') else kind.upper().replace('WINDOW ', '').replace('AGGREGATE', 'FUNCTION')} {label}"
        if kind == "other":
            place = ("FOREIGN " if label.startswith("server ") else "") + target(what, "")
        if kind == "column":
            column = last_name(label)
            names = [f"{privilege} ({column})" for privilege in names]
            place = f"TABLE {label[: -len(column) - 1]}"
        verb = (
            f"GRANT {', '.join(names)} ON {place} TO {role}{' WITH GRANT OPTION' * option};"
            if give
            else f"REVOKE {', '.join(names)} ON {place} FROM {role};"
        )
        statements.append(verb)
    return "\n".join(statements)


_DEFAULT = re.compile(
    r'(?:in schema (?P<schema>"(?:[^"]|"")*"|\S+) )?on (?P<what>large objects|\w+) of (?P<owner>"(?:[^"]|"")*"|\S+) (?:to|from) (?P<role>.*)',
    re.DOTALL,
)


def default_grant(name: str, attributes: Attributes, *, give: bool) -> str:
    """From `in schema s on tables of owner to role` and its privileges."""
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
    """Of new sessions, from `work_mem` or `work_mem of role r`. "" for a value that the spec does not hold."""
    name, _, role = label.partition(" of role ")
    place = f"ROLE {role} IN DATABASE {{database}}" if role else "DATABASE {database}"
    if value is None:
        return f"ALTER {place} RESET {name};"
    return "" if value == UNTOLD else f"ALTER {place} SET {name} = {value if name in _LISTS else literal(value)};"


# --- CREATE ----------------------------------------------------------------------------------------------------------


def create(path: str, root: str, attributes: Attributes, columns: dict[str, Attributes] | None = None) -> str:
    """All it takes to make the object, comment included; `columns` are those of a table. "" if it cannot be told."""
    kind, label = kind_of(path), path.removeprefix(kind_of(path)).strip()
    makers: dict[str, Callable[[], str]] = {
        "schema": lambda: f"CREATE SCHEMA {label};",
        "extension": lambda: (
            f"CREATE EXTENSION {label}{f' SCHEMA {schema}' if (schema := attributes.get('schema')) else ''};"
        ),
        "type": lambda: _type(label, attributes),
        "sequence": lambda: (
            f"CREATE {attributes.get('persistence', '')} SEQUENCE {label} AS {attributes['type']} {sequence_options(attributes)};"
        ),
        "table": lambda: _table(label, attributes, columns or {}),
        "column": lambda: f"ALTER TABLE {root} ADD COLUMN {last_name(label)} {column(attributes)};",
        "constraint": lambda: add_constraint(root, last_name(label), attributes),
        "index": lambda: index(root, last_name(label), attributes),
        "trigger": lambda: trigger(root, last_name(label), attributes),
        "policy": lambda: policy(root, last_name(label), attributes),
        "rule": lambda: (
            f"{attributes['definition'].rstrip(';')};" + _enabled("RULE", root, last_name(label), attributes)
        ),
        "view": lambda: view(label, attributes),
        "statistics": lambda: f"CREATE STATISTICS {label}{kinds(attributes)} ON {attributes['definition']};",
        "event trigger": lambda: event_trigger(label, attributes),
        "grant": lambda: _grant(label, attributes, give=True),
        "default grant": lambda: default_grant(label, attributes, give=True),
        "default revocation": lambda: default_grant(label, attributes, give=False),
        "setting": lambda: setting(label, attributes["value"]),
        "revocation": lambda: _grant(label, attributes, give=False),
        "collation": lambda: collation(label, attributes),
        "other": lambda: other(label, attributes),
        "operator": lambda: (
            f"CREATE OPERATOR {label.partition('(')[0]} ({_definition(attributes['definition'])}{_operands(label)});"
        ),
    }
    if kind.split()[-1] in ("function", "procedure", "aggregate"):
        made = function(kind, label, attributes)
    else:
        made = makers[kind]() if kind in makers and not (kind == "sequence" and label.startswith("of ")) else ""
    if made and "comment" in attributes:
        made += "\n" + comment(path, root, attributes["comment"], attributes.get("kind", ""))
    if made and kind == "column":
        made += "".join(f"\n{line}" for line in not_null(root, last_name(label), attributes, {}))
    if made and kind == "constraint" and "index_comment" in attributes:
        made += f"\n{comment(f'index {label}', root, attributes['index_comment'])}"
    if made and kind == "sequence" and "of" in attributes:
        made += f"\nALTER SEQUENCE {label} OWNED BY {attributes['of']};"
    return made


def not_null(root: str, name: str, wanted: Attributes, found: Attributes) -> Iterator[str]:
    """Name of the NOT NULL constraint of a column, and the comment on it, as they are wanted (PostgreSQL 18)."""
    usual = quoted(f"{unquoted(last_name(root))}_{unquoted(name)}_not_null")
    right, there = wanted.get("not_null", usual), found.get("not_null", usual)
    if right != there:
        yield f"ALTER TABLE {root} RENAME CONSTRAINT {there} TO {right};"
    if wanted.get("not_null_comment") != found.get("not_null_comment"):
        yield comment(f"constraint {root}.{right}", root, wanted.get("not_null_comment"))


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
    what, text = _RARE[kind], attributes.get("definition", "")
    if kind == "cast":
        return f"CREATE CAST {name} {text};"
    if kind in ("foreign_data_wrapper", "server", "user_mapping"):
        given = {key: value for key, value in attributes.get("options", {}).items() if value != UNTOLD}
        made = " ".join(filter(None, (f"CREATE {what} {name}", text, f"OPTIONS ({_fdw(given)})" if given else "")))
        return "\n".join([f"{made};", *_secrets(what, name, attributes.get("options", {}).keys() - given.keys())])
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


def _secrets(what: str, name: str, names: Iterable[str]) -> Iterator[str]:
    for one in sorted(names):
        yield remark(f"The spec does not hold {one}: ALTER {what} {name} OPTIONS (ADD {quoted(one)} '…');")


def text_search(definition: str) -> tuple[str, dict[str, list[str]]]:
    """Parser of a text search configuration, and the dictionaries of each kind of token."""
    parser, _, rest = definition.removeprefix("PARSER ").partition(", ")
    mappings: dict[str, list[str]] = {}
    for token, dictionary in re.findall(r'(\w+) ((?:"(?:[^"]|"")*"|[^",])+)(?:, |$)', rest):
        mappings.setdefault(token, []).append(dictionary)
    return parser, mappings


def _operands(label: str) -> str:
    left, _, right = label.partition("(")[2][:-1].partition(", ")
    return "".join(f", {side} = {type_}" for side, type_ in (("LEFTARG", left), ("RIGHTARG", right)) if type_ != "NONE")


def _definition(parts: dict[str, str]) -> str:
    words = []
    for name, value in parts.items():
        if value in ("True", "true"):
            words.append(name)
        else:
            words.append(f"{name} = {literal(value) if name in ('INITCOND', 'MINITCOND') else value}")
    return ", ".join(words)


def column(attributes: Attributes) -> str:
    text: str = attributes["type"]
    text += f" COLLATE {attributes['collation']}" if "collation" in attributes else ""
    text += f" COMPRESSION {attributes['compression']}" if "compression" in attributes else ""
    text += f" OPTIONS ({_fdw(attributes['options'])})" if "options" in attributes else ""
    if "generated" in attributes:
        text += (
            f" GENERATED ALWAYS AS ({attributes['generated']}) {'VIRTUAL' if attributes.get('virtual') else 'STORED'}"
        )
    elif "identity" in attributes:
        text += f" GENERATED {attributes['identity']} AS IDENTITY"
    elif "default" in attributes:
        text += f" DEFAULT {attributes['default']}"
    return text + " NOT NULL" * (attributes.get("nullable") is False)


def _fdw(options: dict[str, str]) -> str:
    return ", ".join(f"{quoted(name)} {literal(value)}" for name, value in options.items())


def matview_column(label: str, name: str, attributes: Attributes) -> Iterator[str]:
    """How a column of a materialized view is kept."""
    for key in ("storage", "compression"):
        if key in attributes:
            yield f"ALTER MATERIALIZED VIEW {label} ALTER {name} SET {key.upper()} {attributes[key]};"


def _table(label: str, attributes: Attributes, columns: dict[str, Attributes]) -> str:
    unlogged = f"{attributes['persistence']} " if "persistence" in attributes else ""
    foreign = "FOREIGN " if attributes.get("kind") == "foreign table" else ""
    inherited = attributes.get("partition_of") or attributes.get("of_type")
    own = ",\n".join(
        f"    {name} {column(of)}" for name, of in columns.items() if not of.get("inherited") and not inherited
    )
    tail = ""
    if "partition_of" in attributes:
        tail += f" PARTITION OF {attributes['partition_of']} {attributes['bound']}"
    elif "of_type" in attributes:
        tail += f" OF {attributes['of_type']}"
    else:
        tail += f" (\n{own}\n)"
    tail += f" INHERITS ({', '.join(attributes['inherits'])})" if "inherits" in attributes else ""
    tail += f" PARTITION BY {attributes['partition_by']}" if "partition_by" in attributes else ""
    tail += f" USING {attributes['access_method']}" if "access_method" in attributes else ""
    tail += f" WITH ({_options(attributes['with'])})" if "with" in attributes else ""
    tail += f" TABLESPACE {attributes['tablespace']}" if "tablespace" in attributes else ""
    tail += f" SERVER {attributes['server']}" if "server" in attributes else ""
    tail += f" OPTIONS ({_fdw(attributes['options'])})" if "options" in attributes else ""
    made = [f"CREATE {unlogged}{foreign}TABLE {label}{tail};"]
    made += [
        f"ALTER TABLE {label} ALTER {name} SET STORAGE {of['storage']};"
        for name, of in columns.items()
        if "storage" in of
    ]
    made += [
        f"COMMENT ON COLUMN {label}.{name} IS {literal(of['comment'])};"
        for name, of in columns.items()
        if "comment" in of
    ]
    made += [line for name, of in columns.items() for line in not_null(label, name, of, {})]
    made += [
        alter
        for key in ("row_security", "replica_identity")
        if key in attributes
        for alter in [relation(label, key, attributes)]
    ]
    return "\n".join(made)


def relation(label: str, key: str, attributes: Attributes) -> str:
    """ALTER TABLE for an attribute of a relation."""
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
        text = f"{head} WITH ({_options(options)}){where}{predicate}"
    return f"CREATE {'UNIQUE ' * unique}INDEX {'CONCURRENTLY ' * concurrently}{name} ON {root} USING {text};"


def trigger_head(attributes: Attributes) -> str:
    of = f" OF {', '.join(attributes['update_of'])}" if attributes.get("update_of") else ""
    return f"{attributes['timing']} " + " OR ".join(
        event + (of if event == "UPDATE" else "") for event in attributes["events"]
    )


def trigger_tail(attributes: Attributes) -> str:
    tables = "".join(
        f" {age} TABLE AS {attributes[key]}"
        for age, key in (("OLD", "old_table"), ("NEW", "new_table"))
        if key in attributes
    )
    text = f"FROM {attributes['from']} " if "from" in attributes else ""
    text += f"DEFERRABLE {attributes['deferrable']} " if "deferrable" in attributes else ""
    text += f"REFERENCING{tables} " if tables else ""
    text += f"FOR EACH {attributes['level']}"
    text += f" WHEN ({attributes['when']})" if "when" in attributes else ""
    return f"{text} EXECUTE FUNCTION {attributes['function']}"


def trigger(root: str, name: str, attributes: Attributes) -> str:
    if attributes.get("clone"):  # it is there with the partitioned table's, and only its state is its own
        return enable("TRIGGER", root, name, attributes.get("enabled", "ORIGIN"))
    word = "CREATE CONSTRAINT" if attributes.get("constraint") else "CREATE"
    made = f"{word} TRIGGER {name} {trigger_head(attributes)} ON {root} {trigger_tail(attributes)};"
    return made + _enabled("TRIGGER", root, name, attributes)


def _enabled(word: str, root: str, name: str, attributes: Attributes) -> str:
    return "\n" + enable(word, root, name, attributes["enabled"]) if "enabled" in attributes else ""


def enable(word: str, root: str, name: str, state: str) -> str:
    return f"ALTER TABLE {root} {_ENABLE[state]} {word} {name};"


def policy(root: str, name: str, attributes: Attributes) -> str:
    text = f"CREATE POLICY {name} ON {root}{' AS RESTRICTIVE' * bool(attributes.get('restrictive'))}"
    text += f" FOR {attributes['command']}" if "command" in attributes else ""
    text += f" TO {', '.join(attributes.get('roles', ['PUBLIC']))}"
    text += f" USING ({attributes['using']})" if "using" in attributes else ""
    return text + (f" WITH CHECK ({attributes['check']})" if "check" in attributes else "") + ";"


def view(label: str, attributes: Attributes) -> str:
    options = f" WITH ({_options(attributes['with'])})" if "with" in attributes else ""
    word = "MATERIALIZED VIEW" if attributes.get("kind") else "OR REPLACE VIEW"
    return (
        f"CREATE {word} {label}{options} AS\n{attributes['definition'].rstrip().rstrip(';')};"
        if "definition" in attributes
        else ""
    )


def kinds(attributes: Attributes) -> str:
    return f" ({', '.join(attributes['kinds'])})" if "kinds" in attributes else ""


def event_trigger(label: str, attributes: Attributes) -> str:
    when = f" WHEN TAG IN ({', '.join(literal(tag) for tag in attributes['tags'])})" if "tags" in attributes else ""
    made = f"CREATE EVENT TRIGGER {label} ON {attributes['event']}{when} EXECUTE FUNCTION {attributes['function']};"
    state = attributes.get("enabled")
    return made + (f"\nALTER EVENT TRIGGER {label} {_ENABLE[state]};" if state else "")


def sequence_options(attributes: Attributes) -> str:
    words = {"increment": "INCREMENT", "minimum": "MINVALUE", "maximum": "MAXVALUE", "start": "START", "cache": "CACHE"}
    usual = {"increment": 1, "cache": 1}
    text = " ".join(f"{word} {attributes.get(key, usual.get(key))}" for key, word in words.items())
    return text + (" CYCLE" if attributes.get("cycle") else " NO CYCLE")


def function(kind: str, label: str, attributes: Attributes) -> str:
    """CREATE OR REPLACE, or "" where the body is not known."""
    name = label[: opening(label)]
    if kind == "aggregate":
        return (
            f"CREATE OR REPLACE AGGREGATE {name}({attributes.get('arguments') or '*'}) ({_definition(_aggregate(attributes))});"
            if "aggregate" in attributes
            else ""
        )
    if "body" not in attributes or "constructor" in attributes:
        return ""
    words = [f"CREATE OR REPLACE {kind.split()[-1].upper()} {name}({attributes.get('arguments', '')})"]
    if "returns" in attributes and kind != "procedure":
        words.append(f"RETURNS {attributes['returns']}")
    words += [f"LANGUAGE {attributes['language']}", *_function_options(kind, attributes)]
    text = " ".join(words)
    if attributes.get("atomic"):
        return f"{text}\n{attributes['body']};"
    if "library" in attributes:
        return f"{text} AS {literal(attributes['library'])}, {literal(attributes['body'])};"
    marks = itertools.chain([""], ("body" + "_" * more for more in itertools.count()))
    tag = next(f"${mark}$" for mark in marks if f"${mark}" not in attributes["body"])
    return f"{text} AS {tag}{attributes['body']}{tag};"


def usual_multirange(label: str) -> str:
    """The name that the server gives the multirange of a range."""
    name = unquoted(last_name(label))
    usual = name.replace("range", "multirange", 1) if "range" in name else f"{name}_multirange"
    return label[: -len(last_name(label))] + quoted(usual)


def _aggregate(attributes: Attributes) -> dict[str, str]:
    parallel = {"PARALLEL": attributes["parallel"]} if "parallel" in attributes else {}
    return {**attributes["aggregate"], **parallel}


def opening(label: str) -> int:
    quoted = False
    for at, character in enumerate(label):
        quoted ^= character == '"'
        if character == "(" and not quoted:
            return at
    return len(label)


def _function_options(kind: str, attributes: Attributes) -> Iterator[str]:
    yield from (f"TRANSFORM FOR TYPE {name}" for name in attributes.get("transforms", []))
    if kind != "procedure":
        yield "WINDOW" * (kind == "window function")
        yield attributes.get("volatility", "VOLATILE")
        yield f"PARALLEL {attributes.get('parallel', 'UNSAFE')}"
        yield "STRICT" if attributes.get("strict") else "CALLED ON NULL INPUT"
        yield "LEAKPROOF" * bool(attributes.get("leakproof"))
        yield f"COST {attributes['cost']}" if "cost" in attributes else ""
        yield f"ROWS {attributes['rows']}" if "rows" in attributes else ""
        yield f"SUPPORT {attributes['support']}" if "support" in attributes else ""
    yield f"SECURITY {attributes.get('security', 'INVOKER')}"
    for name, value in attributes.get("set", {}).items():
        yield f"SET {name} = {value if name in _LISTS else literal(value)}"


def _type(label: str, attributes: Attributes) -> str:
    kind = attributes["kind"]
    if kind == "enum":
        return f"CREATE TYPE {label} AS ENUM ({', '.join(literal(one) for one in attributes.get('labels', []))});"
    if kind == "shell":
        return f"CREATE TYPE {label};"
    if kind == "composite":
        made = [f"CREATE TYPE {label} AS ({', '.join(attributes.get('columns', []))});"]
        return "\n".join(made + [comment_within(label, kind, *of) for of in attributes.get("comments", {}).items()])
    if kind == "range":
        return f"CREATE TYPE {label} AS RANGE ({_definition(attributes['range'])});"
    if kind == "domain":
        text = f"CREATE DOMAIN {label} AS {attributes['type']}"
        text += f" COLLATE {attributes['collation']}" if "collation" in attributes else ""
        text += f" DEFAULT {attributes['default']}" if "default" in attributes else ""
        text += " NOT NULL" * (attributes.get("nullable") is False)
        checks = attributes.get("checks", {})
        old = {name: check for name, check in checks.items() if check.endswith(" NOT VALID")}
        text += "".join(f" CONSTRAINT {name} {check}" for name, check in checks.items() if name not in old)
        made = [f"{text};", *(f"ALTER DOMAIN {label} ADD CONSTRAINT {name} {check};" for name, check in old.items())]
        return "\n".join(made + [comment_within(label, kind, *of) for of in attributes.get("comments", {}).items()])
    return ""


def renamed_labels(wanted: list[str], found: list[str]) -> dict[str, str]:
    """Labels of an enum in whose places others are: what they are → what they are to be."""
    added = [one for one in wanted if one not in found]
    gone = [one for one in found if one not in wanted]
    there = [one for one in wanted if one in found]
    if len(wanted) == len(found):
        return {old: new for old, new in zip(found, wanted, strict=True) if old in gone and new in added}
    pairs: dict[str, str] = {}
    for after in [None, *there]:  # between two labels that both have
        old, new = (_run(labels, after, one) for labels, one in ((found, gone), (wanted, added)))
        pairs |= dict(zip(old, new, strict=False))
    return pairs


def _run(labels: list[str], after: str | None, some: list[str]) -> list[str]:
    start = labels.index(after) + 1 if after is not None else 0
    return list(itertools.takewhile(lambda one: one in some, labels[start:]))


def comment_within(label: str, kind: str, name: str, text: str | None) -> str:
    """On a check of a domain or a column of a composite type."""
    what = f"CONSTRAINT {name} ON DOMAIN {label}" if kind == "domain" else f"COLUMN {label}.{name}"
    return f"COMMENT ON {what} IS {literal(text) if text else 'NULL'};"
