"""The SQL that makes an object as it is declared, and one script of many repairs in an order that works."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

from pgvigil.validate import ddl
from pgvigil.validate.catalog import Attributes, Snapshot, usual_sequence
from pgvigil.validate.defaults import object_of
from pgvigil.validate.expected import Partitions, kind_of, last_name
from pgvigil.validate.names import quoted, unquoted
from pgvigil.validate.report import Finding, Report, outside_transactions

# What a DROP of these takes with it cannot be made again.
_HOLDS_DATA = ("table", "column", "schema", "sequence", "type", "extension")
_OWNED = ("function", "procedure", "type")  # and tables and views: what its owner has to be given
_PARTS = ("column", "sequence", "constraint", "index", "trigger", "policy", "rule", "statistics", "grant", "revocation")


class Repairs:
    """Repairs from what is wanted, all of it, and what was found."""

    def __init__(
        self, wanted: dict[str, Attributes], roots: dict[str, str], found: Snapshot, patterns: dict[str, Partitions]
    ) -> None:
        self.patterns = patterns
        self.wanted = wanted
        self.roots = roots
        self.found = found

    def make(self, path: str) -> str:
        """A missing object; of a relation, all that stands on it."""
        root = self.roots.get(path, "")
        attributes = self.wanted[path]
        kind = kind_of(path)
        if kind == "grant" and self._is_anothers(object_of(path)):
            return ""
        if kind == "column" and (view := f"view {root}") in self.found.objects:
            return self.change(view, ["definition"]) if view in self.wanted else ""
        if kind not in ("table", "view"):
            made = ddl.create(path, root, attributes)
            if kind == "index" and not self._partitioned(root):
                made = made.replace("INDEX ", "INDEX CONCURRENTLY ", 1)
            if not made:
                return self._spelt("\n".join(self._of(path)))
            server = self.found.server
            if (
                server is not None
                and server.major < 18
                and made.strip() == f"CREATE {path.replace('type', 'TYPE', 1)};"
            ):
                return self._spelt(made.strip())  # before PostgreSQL 18 nothing can be done to a shell
            owner = self._owner(path, root, attributes) if kind in _OWNED else ""  # whoever runs this may be another
            made = "\n".join(part for part in (made, *self._by_default(path), owner, *self._of(path)) if part)
            return self._spelt(made.strip())
        label = path.partition(" ")[2]
        start = f"column {label}."
        columns = {
            other.removeprefix(start): of
            for other, of in self.wanted.items()
            if self.roots.get(other) == label and other.startswith(start)
        }
        made = ddl.create(path, root, attributes, columns)
        if not made:
            return ""
        others = [other for other in self.wanted if self.roots.get(other) == label and kind_of(other) in _PARTS[2:]]
        others.sort(
            key=lambda other: (_PARTS.index(kind_of(other)), "FOREIGN KEY" in self.wanted[other].get("definition", ""))
        )
        parts = [
            self._owner(path, root, attributes),
            *(ddl.create(other, label, self.wanted[other]) for other in others),
        ]
        if kind == "view":
            parts += [
                f"ALTER VIEW {label} ALTER {name} SET DEFAULT {of['default']};"
                for name, of in columns.items()
                if "default" in of
            ]
            parts += [
                ddl.comment(f"{start}{name}", label, of["comment"]) for name, of in columns.items() if "comment" in of
            ]
            parts += [line for name, of in columns.items() for line in ddl.matview_column(label, name, of)]
        if pattern := self.patterns.get(label):
            if pattern.default:
                parts.append(f"CREATE TABLE {label}{pattern.default} PARTITION OF {label} DEFAULT;")
                parts.append(self._owner(f"table {label}{pattern.default}", f"{label}{pattern.default}", attributes))
            parts.append(pattern.repair.replace("{table}", label))
        return self._spelt("\n".join([made, *self._by_default(path), *(part for part in parts if part)]))

    def _by_default(self, path: str) -> list[str]:
        """Take back what ALTER DEFAULT PRIVILEGES does to a new object of the role that runs the repairs."""
        kind, label = kind_of(path), path.removeprefix(kind_of(path)).strip()
        server = self.found.server
        code, word, usual = _BY_DEFAULT.get(kind, ("", "", ""))
        if server is None or not code or label.startswith("of "):
            return []
        at = ddl.opening(label)
        schema = label[: at - len(last_name(label[:at]))].removesuffix(".")
        given = [
            (within, grantee)
            for within, what, role, grantee, _, _, gives, _ in server.default_grants
            if gives
            and (what, role) == (code, server.role)
            and within in (None, unquoted(schema) if schema else self.found.schema)
        ]
        others = dict.fromkeys(grantee for _, grantee in given if grantee not in ("PUBLIC", server.role))
        lines = [f"REVOKE ALL ON {word} {label} FROM {quoted(grantee)};" for grantee in others]
        public = any(grantee == "PUBLIC" for _, grantee in given)
        if usual and not public and any(within is None for within, _ in given):
            lines.append(f"GRANT {usual} ON {word} {label} TO PUBLIC;")
        if not usual and public:
            lines.append(f"REVOKE ALL ON {word} {label} FROM PUBLIC;")
        return lines

    def _of(self, path: str) -> list[str]:
        """Rights on an object that stands on no relation."""
        ends = (f"grant on {path} to ", f"revocation on {path} from ")
        return [ddl.create(other, "", of) for other, of in self.wanted.items() if other.startswith(ends)]

    def _partitioned(self, root: str) -> bool:
        return self.found.objects.get(f"table {root}", {}).get("kind") == "partitioned table"

    def rebuilt(self, path: str) -> str:
        """An index that is INVALID, or the one under a constraint."""
        root = self.roots.get(path, "")
        return f"REINDEX INDEX {self._index_name(root, last_name(path))};" if not self._partitioned(root) else ""

    def drop(self, path: str) -> str:
        """Of what is not to be there: commented out where data go with it."""
        if kind_of(path) == "revocation" and (
            self._is_anothers(object_of(path))
            or (path.endswith(" from PUBLIC") and "EXECUTE" in self.found.objects[path]["privileges"])
        ):
            return ""  # what would be given is another's, or would be everybody's
        if kind_of(path) == "column" and (view := f"view {self.found.roots.get(path)}") in self.found.objects:
            return self.change(view, ["definition"]) if view in self.wanted else ""
        name = f"sequence {self.found.details[path]['name']}" if path.startswith("sequence of ") else path
        text = ddl.drop(name, self.found.roots.get(path, ""), self.found.objects[path])
        if kind_of(path) == "schema" and not any(f" {path.partition(' ')[2]}." in one for one in self.found.objects):
            text = text.replace(" CASCADE", "")  # it is empty, or its tables are to be moved back first
        data = kind_of(path) in _HOLDS_DATA or self.found.objects[path].get("kind") == "materialized view"
        return self._spelt(ddl.remark(text) if data else text)

    def comment(self, path: str) -> str:
        """The comment as it is wanted, or none."""
        wanted = self.wanted[path]
        if path.startswith("sequence of "):
            path = f"sequence {self.found.details[path]['name']}"
        return self._spelt(ddl.comment(path, self.roots.get(path, ""), wanted.get("comment"), wanted.get("kind", "")))

    def change(self, path: str, keys: Iterable[str]) -> str:
        """The attributes `keys` as they are wanted. "" where no SQL is known that does it."""
        kind, root = kind_of(path), self.roots.get(path, "")
        label = path.removeprefix(kind).strip()
        wanted, found = self.wanted[path], self.found.objects[path]
        keys = list(dict.fromkeys(keys))
        if self._is_anothers(path) and (set(keys) - {"owned_by", "order"} or not self._is_all_ours(path, root)):
            return ""  # whoever owns it may have made it: it is not made ours unless all else is as ours
        lines = [line for key in keys if (line := self._owner(path, root, wanted)) and key == "owned_by"]
        if lines:  # a right of whoever owned it meanwhile went into the ownership
            given = f"grant on {path} to {quoted(found.get('owned_by', self.found.owner))}"
            lines += [ddl.create(given, root, self.wanted[given])] if given in self.wanted else []
        if "depends_on" in keys:
            lines += _dependencies(self._target(path, root), wanted, found)
        keys = [key for key in keys if key not in ("owned_by", "order", "depends_on")]
        if keys:
            lines.append(self._changed(kind, label, path, root, wanted, found, keys))
        return self._spelt("\n".join(line for line in lines if line))

    def _owner(self, path: str, root: str, wanted: Attributes) -> str:
        name = wanted.get("owned_by", self.found.owner)
        return f"ALTER {ddl.target(path, root, wanted.get('kind', ''))} OWNER TO {quoted(name)};" if name else ""

    def _is_anothers(self, path: str) -> bool:
        """Whether it is there, and its owner is not the one it should have."""
        there = self.found.objects.get(path)
        wanted = self.wanted.get(path, {}).get("owned_by", self.found.owner)
        return there is not None and there.get("owned_by", self.found.owner) != wanted

    def _is_all_ours(self, path: str, root: str) -> bool:
        """Whether what stands on a relation is what should stand there."""
        if kind_of(path) not in ("table", "view"):
            return True
        there = {other for other in self.found.parts.get(root, ()) if kind_of(other) in _PARTS[:-3]}
        wanted = {other for other, of in self.roots.items() if of == root and kind_of(other) in _PARTS[:-3]}
        return there == wanted and all(
            self.found.objects[other].get(key) == self.wanted[other].get(key)
            for other in there
            for key in ("type", "function", "timing", "identity")
        )

    def _target(self, path: str, root: str) -> str:
        return ddl.target(path, root, self.found.objects.get(path, {}).get("kind", ""))

    def _changed(
        self, kind: str, label: str, path: str, root: str, wanted: Attributes, found: Attributes, keys: list[str]
    ) -> str:
        name = last_name(label)
        again = f"{ddl.drop(path, root, found)}\n{ddl.create(path, root, wanted)}"
        if kind == "column":
            return "\n".join(line for key in keys for line in alter_column(root, name, wanted, found, key) if line)
        if kind in ("table", "view") and (kind == "table" or keys == ["with"]):
            word = found.get("kind", kind).upper().removeprefix("PARTITIONED ")
            return "\n".join(filter(None, (_relation(word, label, key, wanted, found) for key in keys)))
        if kind == "view" and self._replaceable(label, wanted, found):
            return ddl.view(label, wanted)
        if kind == "view":
            dropped = ddl.drop(path, root, found)
            made = self.make(path)
            return f"{dropped}\n{made}" if made else ""
        if kind == "constraint":
            if keys == ["validated"] and "validated" not in wanted:
                return f"ALTER TABLE {root} VALIDATE CONSTRAINT {name};"
            if keys == ["enforced"]:
                return "\n".join(self.found.details[path]["enable"])
            if keys == ["valid"]:
                return f"REINDEX INDEX {self._index_name(root, name)};"
            if keys == ["with"]:
                return _options("INDEX", self._index_name(root, name), wanted, found)
            if keys == ["index_comment"]:
                return ddl.comment(f"index {label}", root, wanted.get("index_comment"))
            if keys == ["tablespace"]:
                return f"ALTER INDEX {self._index_name(root, name)} SET TABLESPACE {wanted.get('tablespace', 'pg_default')};"
            if "attached" not in keys:
                return again.replace(
                    f";\nALTER TABLE {root} ADD CONSTRAINT ", ", ADD CONSTRAINT ", 1
                )  # both or neither
        if kind in ("constraint", "index") and keys == ["attached"]:
            parent = self.found.objects.get(f"table {root}", {}).get("partition_of")
            if "attached" not in wanted or not parent:
                return ""
            return f"ALTER INDEX {self._index_name(parent, wanted['attached'])} ATTACH PARTITION {self._index_name(root, name)};"
        if kind == "index":
            if keys == ["valid"] and "valid" not in wanted and not self._partitioned(root):
                return f"REINDEX INDEX CONCURRENTLY {self._index_name(root, name)};"
            if keys == ["with"]:
                return _options("INDEX", self._index_name(root, name), wanted, found)
            concurrently = not self._partitioned(root)
            dropped = ddl.drop(path, root, found)
            comment = ddl.comment(path, root, wanted["comment"]) if "comment" in wanted else ""
            if not concurrently:
                return "\n".join([dropped, ddl.index(root, name, wanted), comment]).strip()
            new = quoted(f"{unquoted(name)[:50]}_{secrets.token_hex(3)}")  # beside the old one until it is ready
            made = ddl.index(root, new, wanted, concurrently=True)
            renamed = f"ALTER INDEX {self._index_name(root, new)} RENAME TO {name};"
            dropped = dropped.replace("DROP INDEX", "DROP INDEX CONCURRENTLY")
            return "\n".join([made, dropped, renamed, comment]).strip()
        if kind in ("trigger", "rule") and keys == ["enabled"]:
            return ddl.enable(kind.upper(), root, name, wanted.get("enabled", "ORIGIN"))
        if kind == "event trigger" and keys == ["enabled"]:
            return f"ALTER EVENT TRIGGER {label} {ddl._ENABLE[wanted.get('enabled', 'ORIGIN')]};"
        if kind.split()[-1] in ("function", "procedure", "aggregate"):
            return self._function(kind, label, path, wanted, found, keys)
        if kind in ("default grant", "default revocation"):
            return again
        if kind == "setting":
            return ddl.create(path, root, wanted)
        if kind == "extension":
            lines = [f"ALTER EXTENSION {label} SET SCHEMA {wanted['schema']};"] if "schema" in keys else []
            return "\n".join(
                lines + [f"ALTER EXTENSION {label} UPDATE TO {ddl.literal(wanted['version'])};"] * ("version" in keys)
            )
        if kind == "collation":
            used = any(of.get("collation") == label for of in self.found.objects.values())
            return "" if used else again
        if kind in ("grant", "revocation"):
            return _privileges(
                label, wanted, found, given=kind == "grant", only_take=self._is_anothers(object_of(path))
            )
        if kind == "sequence":
            return self._sequence(path, self.found.details[path].get("name", label), wanted, keys)
        if kind == "type":
            return _type(label, wanted, found, keys)
        if kind == "other":
            return _other(label, path, wanted, found, keys) or (
                again if label.startswith(("cast ", "access_method ")) else ""
            )
        return again if kind in ("trigger", "rule", "policy", "statistics", "event trigger", "operator") else ""

    def _sequence(self, path: str, name: str, wanted: Attributes, keys: list[str]) -> str:
        alter = f"ALTER SEQUENCE {name}"
        lines = [f"{alter} SET {wanted.get('persistence', 'LOGGED')};"] if "persistence" in keys else []
        lines += [f"{alter} OWNED BY {wanted.get('of', 'NONE')};"] if "of" in keys else []
        if set(keys) - {"persistence", "name", "of"}:
            type_ = f" AS {wanted['type']}" if "type" in keys else ""
            lines.append(f"{alter}{type_} {ddl.sequence_options(wanted)};")
        if "name" in keys:
            usual = quoted(usual_sequence(path.removeprefix("sequence of ")))
            lines.append(f"{alter} RENAME TO {wanted.get('name', usual)};")
        return "\n".join(lines)

    def _replaceable(self, label: str, wanted: Attributes, found: Attributes) -> bool:
        """Whether a view has the columns it should have, so that nothing that stands on it has to go."""
        columns = [f"column {label}.{name}" for name in wanted.get("order", ())]
        same = all(self.wanted[one].get("type") == self.found.objects.get(one, {}).get("type") for one in columns)
        return same and wanted.get("order") == found.get("order") and "kind" not in {**wanted, **found}

    def _index_name(self, root: str, name: str) -> str:
        return root[: -len(last_name(root))] + name

    def _function(
        self, kind: str, label: str, path: str, wanted: Attributes, found: Attributes, keys: list[str]
    ) -> str:
        made = ddl.create(path, "", wanted)
        if made:
            if not {"returns", "arguments"} & set(keys):
                return made
            lines = [
                ddl.drop(path, "", found),
                made,
                *self._by_default(path),
                self._owner(path, "", wanted),
                *self._of(path),
            ]
            return "\n".join(line for line in lines if line)
        word = kind.split()[-1].upper()
        options = {
            "volatility": wanted.get("volatility", "VOLATILE"),
            "parallel": f"PARALLEL {wanted.get('parallel', 'UNSAFE')}",
            "strict": "STRICT" if wanted.get("strict") else "CALLED ON NULL INPUT",
            "security": f"SECURITY {wanted.get('security', 'INVOKER')}",
        }
        lines = [f"ALTER {word} {label} {options[key]};" for key in keys if key in options]
        if "set" in keys:
            settings = wanted.get("set", {})
            lines.append(f"ALTER {word} {label} RESET ALL;")
            lines += [f"ALTER {word} {label} SET {name} = {value};" for name, value in settings.items()]
        return "\n".join(lines)

    def _spelt(self, text: str) -> str:
        name = quoted(self.found.schema)
        database = quoted(self.found.server.database) if self.found.server else ""
        text = re.sub(r"(SET search_path = [^;\n]*?|SCHEMA )\{schema\}", lambda match: match[1] + name, text)
        return re.sub(r"\bDATABASE \{database\}", lambda _: f"DATABASE {database}", text)


def alter_column(root: str, name: str, wanted: Attributes, found: Attributes, key: str) -> Iterable[str]:
    alter = f"ALTER TABLE {root} ALTER COLUMN {name}"
    if key == "nullable":
        yield f"{alter} {'SET' if wanted.get('nullable') is False else 'DROP'} NOT NULL;"
    elif key == "default" and "generated" not in found:
        yield f"{alter} SET DEFAULT {wanted['default']};" if "default" in wanted else f"{alter} DROP DEFAULT;"
    elif key in ("type", "collation"):
        collation = f" COLLATE {wanted['collation']}" if "collation" in wanted else ""
        if key == "type" or found["type"] == wanted["type"]:
            yield f"{alter} DROP DEFAULT;" if "default" in found else ""
            yield f"{alter} TYPE {wanted['type']}{collation} USING {name}::{wanted['type']};"
            yield f"{alter} SET DEFAULT {wanted['default']};" if "default" in wanted else ""
    elif key == "identity":
        if "identity" not in wanted:
            yield f"{alter} DROP IDENTITY;"
        elif "identity" in found:
            yield f"{alter} SET GENERATED {wanted['identity']};"
        else:
            yield f"{alter} ADD GENERATED {wanted['identity']} AS IDENTITY;"
            yield f"SELECT setval(pg_get_serial_sequence('{root}', '{name}'), coalesce(max({name}), 1), max({name}) IS NOT NULL) FROM {root};"
    elif key == "options":
        yield f"ALTER FOREIGN TABLE {root} ALTER COLUMN {name} OPTIONS ({_foreign(wanted, found)});"
    elif key == "storage":
        yield f"{alter} SET STORAGE {wanted.get('storage') or _usual_storage(wanted['type'])};"
    elif key == "compression":
        yield f"{alter} SET COMPRESSION {wanted.get('compression', 'default')};"
    elif key in ("not_null", "not_null_comment"):
        yield from ddl.not_null(root, name, wanted, found)
    elif key in ("generated", "virtual"):
        if "generated" not in wanted:
            yield f"{alter} DROP EXPRESSION;"
        else:
            yield f"-- ALTER TABLE {root} DROP COLUMN {name}, ADD COLUMN {name} {ddl.column(wanted)};"


def _usual_storage(type_: str) -> str:
    """As pg_type has it; SET STORAGE DEFAULT came with PostgreSQL 16."""
    return "MAIN" if type_.startswith(("numeric", "inet", "cidr")) and not type_.endswith("[]") else "EXTENDED"


def _relation(word: str, label: str, key: str, wanted: Attributes, found: Attributes) -> str:
    if key == "with":
        return _options(word, label, wanted, found)
    if key == "options":
        return f"ALTER {word} {label} OPTIONS ({_foreign(wanted, found)});"
    if key == "inherits":
        right, there = wanted.get("inherits", []), found.get("inherits", [])
        lines = [f"ALTER {word} {label} NO INHERIT {one};" for one in there if one not in right]
        return "\n".join(lines + [f"ALTER {word} {label} INHERIT {one};" for one in right if one not in there])
    if key == "of_type":
        return f"ALTER {word} {label} {f'OF {wanted[key]}' if key in wanted else 'NOT OF'};"
    if key == "partition_of" and key in wanted and key not in found:
        return f"ALTER TABLE {wanted[key]} ATTACH PARTITION {label} {wanted['bound']};"
    if key == "partition_of" and key in found and key not in wanted:
        return f"ALTER TABLE {found[key]} DETACH PARTITION {label};"
    return ddl.relation(label, key, wanted)


def _foreign(wanted: Attributes, found: Attributes) -> str:
    right, there = wanted.get("options", {}), found.get("options", {})
    words = [f"DROP {quoted(name)}" for name in there if name not in right]
    words += [
        f"{'SET' if name in there else 'ADD'} {quoted(name)} {ddl.literal(text)}"
        for name, text in right.items()
        if there.get(name) != text and text != ddl.UNTOLD
    ]
    return ", ".join(words)


def _dependencies(what: str, wanted: Attributes, found: Attributes) -> list[str]:
    right, there = wanted.get("depends_on", []), found.get("depends_on", [])
    lines = [f"ALTER {what} NO DEPENDS ON EXTENSION {one};" for one in there if one not in right]
    return lines + [f"ALTER {what} DEPENDS ON EXTENSION {one};" for one in right if one not in there]


def _options(word: str, label: str, wanted: Attributes, found: Attributes) -> str:
    right, there = wanted.get("with", {}), found.get("with", {})
    put = {name: value for name, value in right.items() if there.get(name) != value}
    lines = [f"ALTER {word} {label} SET ({ddl._options(put)});"] if put else []
    if extra := [name for name in there if name not in right]:
        lines.append(f"ALTER {word} {label} RESET ({', '.join(extra)});")
    return "\n".join(lines)


def _privileges(label: str, wanted: Attributes, found: Attributes, *, given: bool, only_take: bool) -> str:
    lacking = [p for p in wanted["privileges"] if p not in found["privileges"]]
    extra = [p for p in found["privileges"] if p not in wanted["privileges"]]
    lines = [ddl._grant(label, {"privileges": extra}, not given)] if extra and (given or not only_take) else []
    lines += [ddl._grant(label, {"privileges": lacking}, given)] if lacking and not (given and only_take) else []
    return "\n".join(lines)


def _other(label: str, path: str, wanted: Attributes, found: Attributes, keys: list[str]) -> str:
    kind, _, name = label.partition(" ")
    what = ddl.target(path, "")
    lines = []
    if kind in ("foreign_data_wrapper", "server", "user_mapping"):
        if "definition" in keys:
            lines.append(_remade(kind, what, wanted.get("definition", ""), found.get("definition", "")))
        if "options" in keys:
            if changed := _foreign(wanted, found):
                lines.append(f"ALTER {what} OPTIONS ({changed});")
            hidden = [
                key
                for key, text in wanted.get("options", {}).items()
                if text == ddl.UNTOLD and key not in found.get("options", {})
            ]
            lines += ddl._secrets(ddl._RARE[kind], name, hidden)
        return "\n".join(line for line in lines if line)
    if kind in ("language", "transform"):
        return ddl.other(label, wanted)
    if kind == "ts_dict":
        (template, right), (same, there) = (_dictionary(of.get("definition", "")) for of in (wanted, found))
        if template != same:
            return ""
        put = [f"{key} = {text}" for key, text in right.items() if there.get(key) != text]
        put += [key for key in there if key not in right]
        return f"ALTER {what} ({', '.join(put)});" if put else ""
    if kind == "ts_config":
        (parser, right_), (other, there_) = (ddl.text_search(of.get("definition", "")) for of in (wanted, found))
        if parser != other:
            return ""
        for token in dict.fromkeys([*there_, *right_]):
            if right_.get(token) != there_.get(token):
                lines += [f"ALTER {what} DROP MAPPING FOR {token};"] if token in there_ else []
                lines += (
                    [f"ALTER {what} ADD MAPPING FOR {token} WITH {', '.join(right_[token])};"]
                    if token in right_
                    else []
                )
    return "\n".join(lines)


def _remade(kind: str, what: str, wanted: str, found: str) -> str:
    """What of a wrapper or server can be changed: not of which kind a server is, nor its wrapper."""
    if kind == "foreign_data_wrapper":
        words = [
            f"{word} {match[1]}" if (match := re.search(rf"\b{word} (\S+)", wanted)) else f"NO {word}"
            for word in ("HANDLER", "VALIDATOR")
        ]
        return f"ALTER {what} {' '.join(words)};"
    version = re.compile(r" ?VERSION ('(?:[^']|'')*')")
    if (match := version.search(wanted)) and version.sub("", wanted) == version.sub("", found):
        return f"ALTER {what} VERSION {match[1]};"
    return ""


def _dictionary(definition: str) -> tuple[str, dict[str, str]]:
    template, _, options = definition.partition(", ")
    return template, dict(_OPTION.findall(options))


def _labels(label: str, wanted: list[str], found: list[str]) -> list[str]:
    """A label in whose place another is has been renamed: rows hold it. What is only lacking is added."""
    pairs = ddl.renamed_labels(wanted, found)
    lines = [f"ALTER TYPE {label} RENAME VALUE {ddl.literal(old)} TO {ddl.literal(new)};" for old, new in pairs.items()]
    there = [pairs.get(one, one) for one in found]
    for position, one in enumerate(wanted):
        if one in there:
            continue
        place = f" AFTER {ddl.literal(wanted[position - 1])}" if position else ""
        place = place or (f" BEFORE {ddl.literal(there[0])}" if there else "")
        lines.append(f"ALTER TYPE {label} ADD VALUE {ddl.literal(one)}{place};")
        there.insert(there.index(wanted[position - 1]) + 1 if position else 0, one)
    if there != wanted:
        extra = [one for one in there if one not in wanted]
        said = f"no command drops {', '.join(extra)}" if extra else "no command moves a label"
        lines.append(ddl.remark(f"Labels of {label}: {said}"))
    return lines


def _type(label: str, wanted: Attributes, found: Attributes, keys: list[str]) -> str:
    lines = []
    if "labels" in keys:
        lines += _labels(label, wanted.get("labels", []), found.get("labels", []))
    if "base" in keys:
        right, there = wanted.get("base", {}), found.get("base", {})
        differing = [key for key in {**there, **right} if right.get(key) != there.get(key)]
        if set(differing) <= set(_BASE):
            put = ", ".join(f"{key} = {right.get(key, 'plain' if key == 'STORAGE' else 'NONE')}" for key in differing)
            lines.append(f"ALTER TYPE {label} SET ({put});")
    if "range" in keys:
        ranges = [dict(of.get("range", {})) for of in (wanted, found)]
        names = [of.pop("MULTIRANGE_TYPE_NAME", ddl.usual_multirange(label)) for of in ranges]
        if ranges[0] == ranges[1]:
            lines.append(f"ALTER TYPE {names[1]} RENAME TO {last_name(names[0])};")
    if "not_null" in keys:
        usual = quoted(f"{unquoted(last_name(label))}_not_null")
        lines.append(
            f"ALTER DOMAIN {label} RENAME CONSTRAINT {found.get('not_null', usual)} TO {wanted.get('not_null', usual)};"
        )
    if "nullable" in keys:
        lines.append(f"ALTER DOMAIN {label} {'SET' if wanted.get('nullable') is False else 'DROP'} NOT NULL;")
    if "default" in keys:
        lines.append(
            f"ALTER DOMAIN {label} SET DEFAULT {wanted['default']};"
            if "default" in wanted
            else f"ALTER DOMAIN {label} DROP DEFAULT;"
        )
    said = {}  # comments
    if "comments" in keys:
        said = dict.fromkeys(found.get("comments", {})) | wanted.get("comments", {})
    if "checks" in keys:
        said |= wanted.get("comments", {})
        right, there = wanted.get("checks", {}), found.get("checks", {})
        lines += [
            f"ALTER DOMAIN {label} DROP CONSTRAINT {name};" for name, text in there.items() if right.get(name) != text
        ]
        lines += [
            f"ALTER DOMAIN {label} ADD CONSTRAINT {name} {text};"
            for name, text in right.items()
            if there.get(name) != text
        ]
    gone = found.get("checks", {}).keys() - wanted.get("checks", {}).keys()
    lines += [ddl.comment_within(label, wanted["kind"], name, text) for name, text in said.items() if name not in gone]
    return "\n".join(lines)


# --- one script ------------------------------------------------------------------------------------------------------

_ORDER = (
    "schema",
    "extension",
    "type",
    "sequence",
    "table",
    "partition",
    "column",
    "function",
    "procedure",
    "constraint",
    "index",
    "view",
    "trigger",
)
_NEEDED = ("foreign_data_wrapper", "server", "language", "access_method")  # by tables, functions and one another
_OPTION = re.compile(r"""("(?:[^"]|"")*"|\w+) = (E?'(?:[^']|'')*'|[^,]+)""")
# Kind → its letter in pg_default_acl, its word in GRANT, what PUBLIC may do where nothing is said.
_BY_DEFAULT = {
    "table": ("r", "TABLE", ""),
    "view": ("r", "TABLE", ""),
    "sequence": ("S", "SEQUENCE", ""),
    "function": ("f", "FUNCTION", "EXECUTE"),
    "procedure": ("f", "PROCEDURE", "EXECUTE"),
    "aggregate": ("f", "FUNCTION", "EXECUTE"),
    "type": ("T", "TYPE", "USAGE"),
    "schema": ("n", "SCHEMA", ""),
}
_BASE = ("RECEIVE", "SEND", "TYPMOD_IN", "TYPMOD_OUT", "ANALYZE", "SUBSCRIPT", "STORAGE")  # that ALTER TYPE can set


_NEW_LABEL = re.compile(r"^ALTER TYPE .* ADD VALUE ", re.MULTILINE)


def fix_sql(report: Report) -> str:
    """All repairs, what others need first: in one transaction, but for what refuses to run in one, which comes after it."""
    anew = [
        f.object.partition(" ")[2]
        for f in report.findings
        if f.object.startswith("view ") and f.fix.startswith("DROP ")
    ]
    repaired = [f for f in report.findings if f.fix and not any(_stands_on(f.object, label) for label in anew)]
    # All other repairs call objects as they are to be called.
    renames = [f for f in repaired if f.found.startswith("renamed? ")]
    others = [f for f in repaired if f not in renames]
    first, blocks, after = _blocks(renames), _blocks(others), _blocks(others, outside=True)
    without = [
        ddl.remark(f"{f.kind}: {f.object}: no SQL is known that repairs this") for f in report.findings if not f.fix
    ]
    head = (
        f"-- Read before you run it: psql -X -v ON_ERROR_STOP=1 -f FILE DATABASE\n"
        f"SET search_path = {quoted(report.schema)}, pg_temp;\nSET check_function_bodies = off;\n"
    )
    before = [block for block in blocks if _NEW_LABEL.search(block)]  # not to be used in the transaction that adds it
    blocks = [block for block in blocks if block not in before]
    inside = [*_whole(first), *before, *_whole(blocks)] if before else _whole([*first, *blocks])
    return "\n".join([head, *inside, *after, *without])


def _whole(blocks: list[str]) -> list[str]:
    return ["BEGIN;\n", *blocks, "COMMIT;\n"] if blocks else []


def _blocks(findings: list[Finding], *, outside: bool = False) -> list[str]:
    """What of these repairs goes into a transaction, or after it, in an order that works."""
    pieces = [(f.object, _block(f, f.steps or (f.fix,), outside=outside), f.kind == "unexpected") for f in findings]
    return [block for block in ordered(pieces) if block]


def _block(finding: Finding, steps: Iterable[str], *, outside: bool) -> str:
    """What of a repair goes into the transaction, or after it."""
    chosen = [step for step in steps if outside_transactions(step) == outside]
    return "\n".join([ddl.remark(f"{finding.kind}: {finding.object}"), *chosen, ""]) if chosen else ""


def _stands_on(path: str, label: str) -> bool:
    rest = path.removeprefix("comment on ")
    return rest.removeprefix(kind_of(rest)).startswith(f" {label}.") or f" on view {label} " in rest


def ordered(pieces: list[tuple[str, str, bool]]) -> list[str]:
    """Statements for objects, so that what makes an object goes before what names it. Those that remove one come first, but
    for what others may stand on until they are repaired: that goes last, unless its name is wanted.
    """
    left = sorted(pieces, key=lambda piece: _rank(piece[0], removed=piece[2]))
    names = {at: name for at, (path, _, removed) in enumerate(left) if not removed and (name := _name(path))}
    needs = {
        at: {other for other, name in names.items() if other != at and name.search(_relevant(path, text))}
        for at, (path, text, removed) in enumerate(left)
        if not removed
    }
    removals = [at for at in range(len(left)) if at not in needs]
    to_come = {path.partition(" ")[2] for path, _, removed in left if not removed}
    stood_on = [
        at
        for at in removals
        if kind_of(left[at][0]) in ("function", "procedure", "aggregate", "type")
        and left[at][0].partition(" ")[2] not in to_come
    ]
    done: list[int] = [at for at in removals if at not in stood_on]
    waiting = [at for at in range(len(left)) if at in needs]
    while waiting:
        chosen = next((at for at in waiting if not needs[at] & set(waiting)), waiting[0])
        waiting.remove(chosen)
        done.append(chosen)
    return [left[at][1] for at in (*done, *stood_on)]


def _rank(path: str, *, removed: bool) -> tuple[int, int]:
    kind = kind_of(path.removeprefix("comment on "))
    late = path.startswith("comment on ") or kind in ("grant", "revocation")
    rank = _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
    if kind == "other":
        word = path.split(" ")[1]
        rank = _ORDER.index("sequence") if word in _NEEDED else rank
    return (0, -rank) if removed else (2 if late else 1, rank)


def _name(path: str) -> re.Pattern[str] | None:
    kind = kind_of(path)
    label = path.removeprefix(kind).strip().partition("(")[0]
    if kind == "other" and label.partition(" ")[0] in _NEEDED:
        label = label.partition(" ")[2]
    elif kind not in ("schema", "type", "sequence", "table", "column", "function", "procedure", "view"):
        return None
    word = r'(?<!["\w]){}(?!["\w])'
    if kind == "column":  # its name alone may be that of something else
        column = last_name(label)
        table = last_name(label[: -len(column) - 1])
        return re.compile(f"(?s)(?=.*{word.format(re.escape(table))}).*{word.format(re.escape(column))}")
    return re.compile(word.format(re.escape(label)))


def _relevant(path: str, text: str) -> str:
    """A body that is a text is not looked into when it is stored."""
    if kind_of(path) in ("function", "procedure") and "\nBEGIN ATOMIC" not in text:
        return text.partition(" AS $")[0]
    return text
