"""The spelling of names in paths and in SQL: in quotes where SQL needs them in all versions."""

from __future__ import annotations

import re

PLAIN_NAME = re.compile("[a-z_][a-z0-9_]*")
_LAST = re.compile(r'("(?:[^"]|"")*"|[^.]*)$')
_PART = re.compile(r'"(?:[^"]|"")*"|[^".]+')

# Key words that no table or column is called without quotes.
RESERVED = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate
    collation column concurrently constraint create cross current_catalog current_date current_role
    current_schema current_time current_timestamp current_user default deferrable desc distinct do else end
    except false fetch for foreign freeze from full grant group having ilike in initially inner intersect into
    is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null offset on
    only or order outer overlaps placing primary references returning right select session_user similar some
    symmetric table tablesample then to trailing true union unique user using variadic verbose when where window
    with
    """.split()  # noqa: SIM905 - else a hundred lines
)


# Key words that the grammar takes for types and calls: a type or a routine of the same name is called by it in quotes.
# In no version are there others.
OF_GRAMMAR = frozenset(
    """
    between bigint bit boolean char character coalesce dec decimal exists extract float greatest grouping inout int
    integer interval json json_array json_arrayagg json_exists json_object json_objectagg json_query json_scalar
    json_serialize json_table json_value least merge_action national nchar none normalize nullif numeric out overlay
    position precision real row setof smallint substring time timestamp treat trim values varchar xmlattributes
    xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable
    """.split()  # noqa: SIM905 - else sixty lines
)


def quoted(name: str) -> str:
    return name if PLAIN_NAME.fullmatch(name) and name not in RESERVED else '"' + name.replace('"', '""') + '"'


def unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def spelt_as_sql(name: str) -> str:
    """A name, with its schema or without: in quotes where SQL needs them, and only there."""
    return ".".join(quoted(unquoted(part)) for part in _PART.findall(name))


def spelt_as_callable(label: str) -> str:
    """The name of a type or a routine, in quotes where it alone is a type or a call of the grammar."""
    name = last_name(label)
    return beside(label, f'"{name}"') if name in OF_GRAMMAR else label


def last_name(label: str) -> str:
    """The last identifier of a dotted name, as it is spelt."""
    match = _LAST.search(label)
    return match[1] if match else label


def schema_of(label: str) -> str:
    """Return the part before the last identifier: of a column its table. "" where there is none."""
    return label[: -len(last_name(label)) - 1]


def beside(label: str, name: str) -> str:
    """Return the path label of another name in the schema of an object."""
    return label[: -len(last_name(label))] + name


def first_parenthesis(label: str) -> int:
    """Return where the types behind a name begin: at the first parenthesis that is not in quotes, or at the end."""
    quoted = False
    for at, character in enumerate(label):
        quoted ^= character == '"'
        if character == "(" and not quoted:
            return at
    return len(label)
