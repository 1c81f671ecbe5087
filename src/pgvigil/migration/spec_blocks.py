"""The parts of our own spec that are made from the migrations.

These are seed rows, types and columns of events, and objects of later files. A block is between `# generated: NAME` and
`# end`. No server is used: the statements of the files are read.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence

from pgvigil.migration.doc_blocks import event_types, seeds
from pgvigil.migration.files import Migration
from pgvigil.migration.sql_lexer import Statement

_BLOCK = re.compile(r"^( *)# generated: (.+)\n(?:.*\n)*?\1# end\n", re.M)
_RELATIONS = {"TABLE": "table", "VIEW": "view", "FUNCTION": "function", "PROCEDURE": "procedure", "INDEX": "index"}


def written(spec: str, migrations: Sequence[Migration]) -> str:
    """Return the text that the spec should have. Raise KeyError for a block of another name."""

    def block(found: re.Match[str]) -> str:
        indent, name = found[1], found[2]
        kind, _, rest = name.partition(" ")
        lines = _MAKERS[kind](rest, migrations)
        text = "\n".join(lines)
        return f"{indent}# generated: {name}\n{textwrap.indent(text, indent)}\n{indent}# end\n"

    return _BLOCK.sub(block, spec)


def _update_of(trigger: str, migrations: Sequence[Migration]) -> list[str]:
    """The columns of UPDATE OF in the newest definition of a trigger."""
    found = []
    for migration in migrations:
        for statement in migration.statements:
            if statement.starts_with("CREATE", "TRIGGER", trigger.upper()):
                words = [token.text for token in statement.tokens]
                found = [word for word in words[words.index("OF") + 1 : words.index("ON")] if word != ","]
    return [f"update_of: [{', '.join(found)}]"]


def _rows(table: str, migrations: Sequence[Migration]) -> list[str]:
    if table == "migrations":
        rows = [f'{{revision: "{migration.revision}"}}' for migration in migrations]
    elif table == "alembic_version":
        rows = [f'{{version_num: "{migrations[-1].revision}"}}']
    else:
        found = seeds([migration.script for migration in migrations], table)
        rows = [f"{{{key}: {row[key]}}}" for row in found for key in list(row)[:1]]
    return _flow("rows: [", rows)


def _event_types(_: str, migrations: Sequence[Migration]) -> list[str]:
    names = ",".join(event_types([migration.script for migration in migrations]))
    return [f"event_type_check: CHECK (((VALUE)::text = ANY ('{{{names}}}'::text[])))"]


def _later(_: str, migrations: Sequence[Migration]) -> list[str]:
    """The objects of each file from the first one outside a transaction on: a verdict before that file does not look for them."""
    first = next(at for at, migration in enumerate(migrations) if not migration.transactional)
    lines: list[str] = []
    for migration in migrations[first:]:
        objects = [path for statement in migration.statements for path in _brought(statement)]
        objects = [path for path in objects if f"table {path.partition(' ')[2].rpartition('.')[0]}" not in objects]
        objects += [f"row pgvigil.jobs (job = {row['job']})" for row in seeds([migration.script], "jobs")]
        objects.append(f"row pgvigil.migrations (revision = {migration.revision})")
        if migration is migrations[-1]:
            objects.append(f"row pgvigil.alembic_version (version_num = {migration.revision})")
        lines += [f'- revision: "{migration.revision}"']
        lines += [f"  {line}" for line in _flow("objects: [", [f'"{path}"' for path in dict.fromkeys(objects)])]
    return lines


def _brought(statement: Statement) -> Iterator[str]:
    """Yield patterns of the object that a CREATE makes."""
    words = [token.text for token in statement.tokens if token.text.upper() not in ("UNIQUE", "CONCURRENTLY")]
    if words[0].upper() != "CREATE" or (kind := _RELATIONS.get(words[1].upper())) is None:
        return
    name = "".join(words[2:5]) if words[3] == "." else words[2]
    if kind == "index":
        at = words.index("ON")
        relation = words[at + 3] if words[at + 1] == '"{app}"' else "".join(words[at + 1 : at + 4])
        yield f"*index {relation}.{name}"  # with its comment
    else:
        yield f"{kind} {name}*" if kind in ("function", "procedure") else f"{kind} {name}"


def _flow(head: str, items: Sequence[str]) -> list[str]:
    """A YAML list in lines of at most 110 columns."""
    lines, line = [], head
    for at, item in enumerate(items):
        item += "]" if at == len(items) - 1 else ","
        if len(line) + len(item) > 110:
            lines.append(line.rstrip())
            line = " " * len(head)
        line += item + " "
    return [*lines, line.rstrip()]


_MAKERS: dict[str, Callable[[str, Sequence[Migration]], list[str]]] = {
    "rows": _rows,
    "event_types": _event_types,
    "update_of": _update_of,
    "later": _later,
}
