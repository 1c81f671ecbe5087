"""What has to be there, as a snapshot is: objects by path, with the attributes of a database that meets the spec.

Kept apart from the reading of specs, which a verdict on a spec that was read before does without.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgvigil.validate import cache
from pgvigil.validate.catalog import Attributes, Scope
from pgvigil.validate.names import unquoted

# The schema that is looked at, in a path of its own; any other object may be called "{schema}" too.
PLACEHOLDER = re.compile(r"^((?:(?:default )?(?:grant|revocation) (?:in|on) |comment on )?schema) [{]schema[}](?![^ ])")
# "on" kind, what, and whom, of a grant or a revocation.
GRANT = re.compile(r'on (\w+) (.*) (?:to|from) ("(?:[^"]|"")*"|\S+)', re.DOTALL)

_LITERALS = re.compile("('(?:[^']|'')*')")
_FIELD = re.compile(r'\bEXTRACT\("?(\w+)"? FROM')
_EXPRESSIONS = {"arguments", "check", "default", "definition", "generated", "partition_by", "using", "when"}

# Storage parameters that are true or false, each with what it is where nobody says anything.
_SWITCHES = {
    "autovacuum_enabled": "true",
    "toast.autovacuum_enabled": "true",
    "autosummarize": "false",
    "deduplicate_items": "true",
    "fastupdate": "true",
    "security_barrier": "false",
    "security_invoker": "false",
    "user_catalog_table": "false",
}
_TRUE, _FALSE = re.compile("t|tr|tru|true|y|ye|yes|on|1"), re.compile("f|fa|fal|fals|false|n|no|of|off|0")
_UPKEEP = re.compile("(toast[.])?(autovacuum|vacuum|log_autovacuum)_(?!enabled).*|parallel_workers|toast_tuple_target")


@dataclass(frozen=True, kw_only=True)
class Partitions:
    """A pattern, because partitions come and go: a name is its table's and a suffix with YYYY, MM, DD for its start."""

    names: tuple[str, ...]  # suffixes of a partition's name, with YYYY, MM and DD for its start: `_pYYYYMM`
    default: str = ""  # suffix of the default partition's name
    present: bool = False  # there must be one for the present time
    repair: str = ""  # SQL that makes what is missing; {table} stands for the table
    line: int = 0

    def __post_init__(self) -> None:
        if wrong := [name for name in self.names if "YYYY" not in name]:
            raise ValueError(f"{wrong[0]!r} does not say when the partition starts (YYYY, MM, DD)")


@dataclass(frozen=True)
class Mark:
    """What a spec written by hand says of an object besides its attributes."""

    spoken_of: frozenset[str]  # attributes that are compared
    ours: bool = True  # so that it must have a comment, and be as in the reference
    optional: bool = False
    unless_baselined: bool = False  # not required where the tables were there before


@dataclass(frozen=True)
class Declaration:
    """`roots` names the relation an object stands on. Without a mark all attributes of an object are compared."""

    name: str
    schemas: tuple[str, ...]
    schema: str
    complete: bool
    major: int
    roles: tuple[str, ...]
    ignore: tuple[tuple[str, str, bool], ...]  # path pattern, reason, whether it mostly covers nothing
    later: tuple[tuple[str, tuple[str, ...]], ...]
    objects: dict[str, Attributes]
    roots: dict[str, str]
    marks: dict[str, Mark] = field(default_factory=dict)
    application: frozenset[str] = frozenset()  # tables that are the application's
    patterns: dict[str, Partitions] = field(default_factory=dict)
    rows: dict[str, tuple[dict[str, str], ...]] = field(default_factory=dict)
    reads: dict[str, tuple[str, ...]] = field(default_factory=dict)
    bodies: dict[str, str] = field(default_factory=dict)  # that a function may have instead
    lines: dict[str, int] = field(default_factory=dict)  # of the spec's file
    everything: bool = False  # there are no other schemas
    database: str = ""  # that it was dumped from
    for_all: frozenset[str] = frozenset()  # functions that PUBLIC may call

    def to_json(self) -> str:
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        plain["application"], plain["for_all"] = sorted(self.application), sorted(self.for_all)
        plain["marks"] = {
            path: [sorted(mark.spoken_of), mark.ours, mark.optional, mark.unless_baselined]
            for path, mark in self.marks.items()
        }
        plain["patterns"] = {name: dataclasses.asdict(pattern) for name, pattern in self.patterns.items()}
        return json.dumps(plain, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Declaration:
        plain = json.loads(text)
        plain |= {key: frozenset(plain[key]) for key in ("application", "for_all")}
        plain["marks"] = {path: Mark(frozenset(spoken), *rest) for path, (spoken, *rest) in plain["marks"].items()}
        plain["patterns"] = {name: Partitions(**pattern) for name, pattern in plain["patterns"].items()}
        return cls(**plain)

    def scope(self, schema: str) -> Scope:
        """What of a database with that application's schema is to be looked at."""
        names = {path.partition(" ")[2] for path in self.objects if path.startswith(("table ", "view ", "sequence "))}
        slices = [
            f"^{re.escape(name)}{re.sub('[YMD]', '[0-9]', suffix)}$"
            for name, pattern in self.patterns.items()
            for suffix in [*pattern.names, pattern.default]
        ]
        return Scope(
            tuple(schema if name == "{schema}" else unquoted(name) for name in self.schemas),
            tuple(sorted(unquoted(name) for name in names if not name.startswith("of ") and "." not in name)),
            tuple(slices),
            tuple(self.patterns),
            tuple(unquoted(path.partition(" ")[2]) for path in self.objects if path.startswith("extension ")),
            self.roles,
            self.everything,
            frozenset() if self.complete else frozenset(self.objects),
        )


def load_declaration(path: Path) -> Declaration:
    """Of a spec file. It is kept as it was understood: to read and check one of ten thousand objects takes seconds."""
    code = [Path(__file__).with_name(name).read_bytes() for name in ("spec.py", "load.py", "declare.py")]
    try:
        name = f"spec-{hashlib.sha256(b''.join([path.read_bytes(), *code])).hexdigest()}.json"
    except OSError:
        name = ""  # the reader says what is wrong
    if name and (text := cache.read(name)):
        with suppress(ValueError, TypeError, KeyError):
            return dataclasses.replace(Declaration.from_json(text), name=path.name)
    from pgvigil.validate.declare import declare
    from pgvigil.validate.load import load_spec

    made = declare(load_spec(path))
    cache.write(name, made.to_json())
    return made


# --- names -----------------------------------------------------------------------------------------------------------


def of_grant(path: str) -> str:
    """The path of the object that a grant or a revocation is about; "" of anything else."""
    kind, _, rest = path.partition(" on ")
    return rest.rpartition(" to " if kind == "grant" else " from ")[0] if kind in ("grant", "revocation") else ""


def kind_of(path: str) -> str:
    """The first word of a path, or the first two of `event trigger`, `window function` and `default grant`."""
    first, _, rest = path.partition(" ")
    return f"{first} {rest.partition(' ')[0]}" if first in ("event", "window", "default") else first


def last_name(label: str) -> str:
    match = re.search(r'("(?:[^"]|"")*"|[^.]*)$', label)
    return match[1] if match else label


# --- one spelling ----------------------------------------------------------------------------------------------------


def canonical(key: str, value: Any) -> Any:
    """A value in the one spelling of those that plainly mean the same. What this cannot tell, the server is asked."""
    if key == "update_of":
        return sorted(value or [])
    if key == "with":
        said = {name: _switch(text) if name in _SWITCHES else text for name, text in (value or {}).items()}
        return {name: text for name, text in said.items() if _SWITCHES.get(name) != text}
    if not isinstance(value, str):
        return value
    if key in _EXPRESSIONS:
        value = plain_fields(value)
    if key == "arguments":
        return re.sub(r"(^|, )IN ", r"\1", value)
    if key in ("default", "when", "using", "check"):
        return bare(value)
    if key == "definition":
        head, check, expression = value.partition("CHECK (")
        if check and not head:
            value = f"CHECK ({bare('(' + expression)})"
        else:
            head, where, predicate = value.partition(" WHERE ")
            value = f"{head}{where}{bare(predicate)}"
    return value


def plain_fields(text: str) -> str:
    """Without the case and quotes of the field of EXTRACT: they mean nothing, and servers print them in their own ways."""
    if "EXTRACT(" not in text:
        return text
    parts = _LITERALS.split(text)
    parts[::2] = (_FIELD.sub(lambda match: f"EXTRACT({match[1].lower()} FROM", part) for part in parts[::2])
    return "".join(parts)


def _switch(text: str) -> str:
    """As the server reads a boolean."""
    word = text.lower()
    return "true" if _TRUE.fullmatch(word) else "false" if _FALSE.fullmatch(word) else text


def table_storage(options: dict[str, str] | None) -> dict[str, str]:
    """The storage parameters of a table; other kinds have another fillfactor where nobody says anything."""
    said: dict[str, str] = canonical("with", options)
    return {name: text for name, text in said.items() if (name, text) != ("fillfactor", "100")}


def without_upkeep(options: dict[str, str] | None) -> dict[str, str]:
    """The storage parameters of a table of ours without those by which its DBA tunes it."""
    return {name: text for name, text in table_storage(options).items() if not _UPKEEP.fullmatch(name)}


def bare(expression: str) -> str:
    """An expression without the parentheses that stand around the whole of it; now() for its other name."""
    text = expression.strip()
    while text.startswith("(") and _closes_at_end(text):
        text = text[1:-1].strip()
    return "now()" if text == "CURRENT_TIMESTAMP" else text


def _closes_at_end(text: str) -> bool:
    depth, quoted = 0, False
    for position, character in enumerate(text):
        quoted ^= character == "'"
        if not quoted:
            depth += (character == "(") - (character == ")")
            if depth == 0:
                return position == len(text) - 1
    return False
