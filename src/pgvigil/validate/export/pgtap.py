"""Write pgTAP tests from a spec: they pass on a database that validates, and fail with a reason on any other.

pgTAP's own functions are used where they exist. Expressions are never compared as text alone: a restored database
spells some of them in another way. Where the texts differ, helpers of the script let the server read and print both.

More than 400 lines: one script, to which each kind of object adds its tests.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from pgvigil.text import one_line
from pgvigil.validate.catalog.identifiers import last_name, unquoted
from pgvigil.validate.catalog.object_ref import ObjectRef, view
from pgvigil.validate.catalog.queries_rights import RIGHTS_ON_PUBLIC
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.diff import pg_dump_gaps
from pgvigil.validate.spec.declaration import Declaration, Mark

_WHOLE = Mark(frozenset())  # of an object in a spec that speaks of everything
_PART = re.compile(r'"(?:[^"]|"")*"|[^".]+')
_CALL = re.compile(r'((?:"(?:[^"]|"")*"|[^"(])+)\((.*)\)', re.DOTALL)
_COMMA = re.compile(r',\s*(?=(?:[^"]*"[^"]*")*[^"]*$)')
_PLAIN_TYPE = re.compile(r"[a-z][a-z ]*(\([\d,]+\))?[a-z ]*(\[\])*")
_EXPRESSION = ("CHECK ", "EXCLUDE ")
_INDEXED = ("PRIMARY KEY ", "UNIQUE ", "EXCLUDE ")

# All names in the condition, and in the arguments after it.
_WHEN = r" FOR EACH (?:ROW|STATEMENT) WHEN (\(.*\)) EXECUTE FUNCTION [^']*\((?:E?'(?:[^']|'')*'(?:, )?)*\)$"

_HEAD = Path(__file__).with_suffix(".sql")

# Kind → catalog, its ACL, kind for acldefault(), owner.
_RIGHTS = {
    "table": ("pg_class", "relacl", "r", "relowner"),
    "view": ("pg_class", "relacl", "r", "relowner"),
    "sequence": ("pg_class", "relacl", "s", "relowner"),
    "column": ("pg_attribute", "attacl", "", ""),
    "function": ("pg_proc", "proacl", "f", "proowner"),
    "procedure": ("pg_proc", "proacl", "f", "proowner"),
    "aggregate": ("pg_proc", "proacl", "f", "proowner"),
    "type": ("pg_type", "typacl", "T", "typowner"),
    "schema": ("pg_namespace", "nspacl", "n", "nspowner"),
}

# Kind → catalog, and the start of the names of its columns.
_NAMED = {
    "collation": ("pg_collation", "coll"),
    "statistics": ("pg_statistic_ext", "stx"),
    "opclass": ("pg_opclass", "opc"),
    "opfamily": ("pg_opfamily", "opf"),
    "conversion": ("pg_conversion", "con"),
    "ts_config": ("pg_ts_config", "cfg"),
    "ts_dict": ("pg_ts_dict", "dict"),
    "ts_parser": ("pg_ts_parser", "prs"),
    "ts_template": ("pg_ts_template", "tmpl"),
}


def script(declared: Declaration, schema: str) -> str:
    """The tests of all that is declared, as SQL. `schema` is the application's schema."""
    tests = list(_Writer(declared, schema).sections())
    planned = sum(len(section) for _, section in tests)
    body = "".join(
        f"-- {one_line(title)}\n" + "".join(f"SELECT {_alone(title, test)};\n" for test in section) + "\n"
        for title, section in tests
    )
    head = _HEAD.read_text(encoding="utf-8").replace("{spec}", declared.name).replace("{schema}", text(_quoted(schema)))
    return f"{head}SELECT plan({planned});\n\n{body}SELECT * FROM finish();\nROLLBACK;\n"


def _alone(title: str, test: str) -> str:
    """A test in a savepoint of its own: what is missing may make it fail with an error, and not those behind it."""
    mark = next(
        f"${tag}$"
        for tag in itertools.chain(["test"], map("test{}".format, itertools.count()))
        if f"${tag}$" not in test
    )
    return f"pg_temp.alone({mark}{test}{mark}, {text(one_line(title))})"


def text(value: str) -> str:
    """Return a string literal that is right with any value of standard_conforming_strings."""
    quoted = "'" + value.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in value else quoted


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _texts(values: Iterable[str], cast: str = "text") -> str:
    return f"ARRAY[{', '.join(map(text, values))}]::{cast}[]"


class _Writer:
    def __init__(self, declared: Declaration, schema: str) -> None:
        self.declared = declared
        self.schema = schema

    def sections(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the tests by subject: a relation with all that belongs to it, or an object by itself."""
        found: dict[str, list[str]] = {}
        for ref, attributes in self.declared.objects.items():
            mark = self.declared.marks.get(ref, _WHOLE)
            writer = getattr(self, "_" + ref.kind.replace(" ", "_"), None)
            if writer is None or mark.optional:
                continue
            root = self.declared.roots[ref]
            title = root or ref.path
            others = (*self._owner(ref, attributes, mark), *self._comment(ref, root, attributes))
            for test in (*writer(ref, root, attributes, mark), *others):
                found.setdefault(title, []).append(test)
        for label, rows in self.declared.rows.items():
            for row in rows:
                expected = " AND ".join(f"{column}::text = {text(value)}" for column, value in row.items())
                said = text(one_line(f"table {label} has the row {row}"))
                found.setdefault(label, []).append(f"ok(EXISTS (SELECT FROM {label} WHERE {expected}), {said})")
        yield from found.items()

    # --- spelling ----------------------------------------------------------------------------------------------------

    def _names(self, label: str) -> tuple[str, str]:
        """Return schema and name, without quotes."""
        parts = [part[1:-1].replace('""', '"') if part[0] == '"' else part for part in _PART.findall(label)]
        return (parts[0], parts[1]) if len(parts) > 1 else (self.schema, parts[0])

    def _pair(self, label: str) -> str:
        return ", ".join(map(text, self._names(label)))

    def _qualified(self, label: str) -> str:
        """Return a name with its schema: a type may have the name of one in pg_catalog, which is looked up first."""
        return ".".join(map(_quoted, self._names(label)))

    def _found_by(self, ref: ObjectRef) -> str:
        """Return what a to_reg…() takes, with its schema: one of pg_catalog may have the same name, and is found first."""
        return self._qualified(ref.bare_label) + ref.signature

    def _is(self, ref: ObjectRef) -> str:
        """A condition in its catalog."""
        kind = ref.kind.split()[-1]
        if kind in ("function", "procedure", "aggregate"):
            return self._is_routine(ref)
        if kind == "type":
            return self._type_is(ref.label)
        return f"oid = to_regclass({text(self._found_by(ref))})"

    def _is_routine(self, ref: ObjectRef) -> str:
        return f"oid = pg_temp.routine({self._pair(ref.bare_label)}, {text(ref.signature[1:-1])})"

    @staticmethod
    def _bare(label: str) -> str:
        name = last_name(label)
        return name[1:-1].replace('""', '"') if name.startswith('"') else name

    def _speaks_of(self, key: str, attributes: Attributes, mark: Mark) -> bool:
        """Return true if the spec says something of an attribute: it gives it, or leaves out what means its default."""
        return key in attributes or mark is _WHOLE or key in mark.spoken_of

    def _on(self, root: str, kind: str) -> Iterator[tuple[str, Attributes]]:
        """Return the parts of a kind on a relation: names as they are spelt, and attributes."""
        for ref, attributes in self.declared.objects.items():
            if ref.kind == kind and self.declared.roots[ref] == root and ref.relation == root:
                yield ref.name, attributes

    def _listed(self, root: str, kind: str) -> list[str]:
        return [self._bare(name) for name, _ in self._on(root, kind)]

    def _owner(self, ref: ObjectRef, attributes: Attributes, mark: Mark) -> Iterator[str]:
        """Test the owner of an object: a named role, or the role that owns most objects."""
        kind, label = ref.kind.split()[-1], ref.label
        if kind not in _RIGHTS or not self._speaks_of("owned_by", attributes, mark) or ref.of_column:
            return
        if kind == "column" or (kind == "schema" and label == "{schema}" and self.schema == "public"):
            return  # a column has its table's, and public the one that a version of PostgreSQL gives it
        catalog, _, _, owner = _RIGHTS[kind]
        name = self.schema if label == "{schema}" else self._bare(label)
        where = f"nspname = {text(name)}" if kind == "schema" else self._is(ref)
        yield from self._owner_of(ref, f"(SELECT {owner} FROM {catalog} WHERE {where})", attributes, mark)

    def _comment(self, ref: ObjectRef, root: str, attributes: Attributes) -> Iterator[str]:
        """Test a declared comment."""
        kind, expected = ref.kind, attributes.get("comment")
        if not expected or kind not in _RIGHTS or ref.of_column or ref.label in ("{schema}", "public"):
            return  # public has the comment that a version of PostgreSQL gives it
        catalog = _RIGHTS[kind][0]
        if kind == "column":
            where = f"attrelid = {self._oid(root)} AND attname = {text(self._bare(ref.name))}"
            found = f"(SELECT col_description(attrelid, attnum) FROM pg_attribute WHERE {where})"
        else:
            where = f"nspname = {text(self._bare(ref.label))}" if kind == "schema" else self._is(ref)
            found = f"(SELECT obj_description(oid, '{catalog}') FROM {catalog} WHERE {where})"
        yield f"is({found}, {text(expected)}, {text(one_line(f'comment on {ref}'))})"

    def _owner_of(self, ref: ObjectRef, oid: str, attributes: Attributes, mark: Mark) -> Iterator[str]:
        if not self._speaks_of("owned_by", attributes, mark):
            return
        found, said = f"pg_get_userbyid({oid})::text", text(one_line(f"owner of {ref}"))
        if role := attributes.get("owned_by"):
            yield self._if_role(role, f"is({found}, {text(role)}, {said})")
        else:
            yield f"is({found}, pg_temp.usual_owner({_texts(self._schemas())}, {_texts(self._owners)}), {said})"

    @cached_property
    def _owners(self) -> list[str]:
        return sorted({of["owned_by"] for of in self.declared.objects.values() if of.get("owned_by")})

    def _schemas(self) -> list[str]:
        return [self.schema if name == "{schema}" else self._bare(name) for name in self.declared.schemas]

    @staticmethod
    def _if_role(role: str, test: str) -> str:
        """Return a test that is skipped without the role.

        Roles belong to the whole server: a missing one is not a fault of this database.
        """
        there = f"EXISTS (SELECT FROM pg_roles WHERE rolname = {text(role)})"
        return f"CASE WHEN {there} THEN {test} ELSE skip({text(one_line(f'there is no role {role}'))}, 1) END"

    # --- relations ---------------------------------------------------------------------------------------------------

    def _schema(self, ref: ObjectRef, _root: str, _attributes: Attributes, _mark: Mark) -> Iterator[str]:
        name = ref.label
        yield f"has_schema({text(self.schema if name == '{schema}' else self._bare(name))}, {text(one_line(ref.path))})"

    def _table(self, ref: ObjectRef, label: str, attributes: Attributes, mark: Mark) -> Iterator[str]:
        pair, said = self._pair(label), one_line(ref.path)
        kind = attributes.get("kind", "table")
        yield f"{'has_foreign_table' if kind == 'foreign table' else 'has_table'}({pair}, {text(said)})"
        if kind == "partitioned table":
            yield f"is_partitioned({pair}, {text(f'{said} is partitioned')})"
            if key := attributes.get("partition_by"):
                found = f"pg_get_partkeydef({self._oid(label)})"
                yield self._means(found, key, label, "partition key", f"{said} is partitioned by its key")
        if bound := attributes.get("bound"):
            parent = f"inhparent = {self._oid(attributes['partition_of'])}"
            found = f"(SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_class c JOIN pg_inherits ON inhrelid = c.oid AND {parent} WHERE c.oid = {self._oid(label)})"
            yield f"is({found}, {text(bound)}, {text(f'parent and values of {said}')})"
        if pattern := self.declared.patterns.get(label):
            partitions = f"(SELECT FROM pg_inherits WHERE inhparent = {self._oid(label)})"
            yield f"ok(EXISTS {partitions}, {text(f'{said} has partitions')})"
            if pattern.default:
                schema, name = self._names(label)
                yield f"is_partition_of({text(schema)}, {text(name + pattern.default)}, {pair}, {text(f'{said} has a default partition')})"
        if self._speaks_of("persistence", attributes, mark):
            kept = {"UNLOGGED": "u", "TEMPORARY": "t"}.get(attributes.get("persistence", ""), "p")
            yield self._of_class(label, "relpersistence::text", text(kept), f"{said} is logged as declared")
        if mark.ours:
            security = attributes.get("row_security", "")
            enabled, forced = security in ("enabled", "forced"), security.startswith("forced")
            yield self._of_class(
                label,
                "ARRAY[relrowsecurity, relforcerowsecurity]",
                f"ARRAY[{enabled}, {forced}]".lower(),
                f"row security of {label}",
            )
        yield from self._unlike_others(label, said, of_parent="partition_of" in attributes)
        options = [
            f"{key}={value}" for key, value in attributes.get("with", {}).items() if not key.startswith("toast.")
        ]
        if options:
            found = f"(SELECT reloptions @> {_texts(options)} FROM pg_class WHERE oid = {self._oid(label)})"
            yield f"ok({found}, {text(f'options of {said}')})"
        if label in self.declared.application or attributes.get("partition_of"):
            return
        constraints = {self._bare(name): attributes["definition"] for name, attributes in self._on(label, "constraint")}
        under = [name for name, definition in constraints.items() if definition.startswith(_INDEXED)]
        invalid = {self._bare(name) for name, of in self._on(label, "index") if of.get("valid") is False}
        indexes = [name for name in self._listed(label, "index") + under if name not in invalid]
        if invalid:  # pg_dump leaves those out
            found = f"pg_temp.indexes_of({self._relation(label)}, {_texts(sorted(invalid))})"
            yield f"is({found}, {_texts(sorted(indexes))}, {text(f'indexes of {said}')})"
        for kind, names in (
            ("columns", self._listed(label, "column")),
            *([] if invalid else [("indexes", indexes)]),
            ("triggers", self._listed(label, "trigger")),
            ("rules", self._listed(label, "rule")),
            ("policies", self._listed(label, "policy")),
        ):
            yield f"{kind}_are({pair}, {_texts(names, 'name')}, {text(f'{kind} of {said}')})"
        found = f"pg_temp.constraints_of({self._relation(label)})"
        yield f"is({found}, {_texts(sorted(constraints))}, {text(f'constraints of {said}')})"

    def _unlike_others(self, label: str, said: str, *, of_parent: bool) -> Iterator[str]:
        names, unlike = [], []
        for column, attributes in self._on(label, "column"):
            names.append(name := self._bare(column))
            filled = "" if of_parent else {"ALWAYS": "a", "BY DEFAULT": "d"}.get(attributes.get("identity", ""), "")
            if attributes.get("generated"):
                filled = "v" if attributes.get("virtual") else "s"
            collation = f"COLLATE {last_name(attributes['collation'])}" if attributes.get("collation") else ""
            if filled or collation:
                unlike.append(" ".join(part for part in (name, filled, collation) if part))
        found = f"pg_temp.unlike_others({self._relation(label)}, {_texts(names)})"
        yield f"is({found}, {_texts(unlike)}, {text(f'identities, generated columns and collations of {said}')})"

    def _view(self, ref: ObjectRef, label: str, attributes: Attributes, _mark: Mark) -> Iterator[str]:
        pair, said = self._pair(label), one_line(ref.path)
        has = "has_materialized_view" if attributes.get("kind") == "materialized view" else "has_view"
        yield f"{has}({pair}, {text(said)})"
        yield f"columns_are({pair}, {_texts(self._listed(label, 'column'), 'name')}, {text(f'columns of {said}')})"
        if definition := attributes.get("definition"):
            found = f"(SELECT pg_get_viewdef({self._oid(label)}))"
            yield self._means(found, definition.strip().rstrip(";"), label, "view", f"definition of {said}", strip=True)
        if (options := attributes.get("with")) and "security_invoker" in options:
            # The option came with PostgreSQL 15.
            found = f"(SELECT current_setting('server_version_num')::integer < 150000 OR 'security_invoker={options['security_invoker']}' = ANY (reloptions) FROM pg_class WHERE oid = {self._oid(label)})"
            yield f"ok({found}, {text(f'{said} runs with the rights that are declared')})"

    def _column(self, ref: ObjectRef, root: str, attributes: Attributes, mark: Mark) -> Iterator[str]:
        name, pair, said = self._bare(ref.name), self._pair(root), one_line(ref.path)
        if root in self.declared.application:
            yield f"has_column({pair}, {text(name)}, {text(said)})"
        type_ = attributes["type"]
        if _PLAIN_TYPE.fullmatch(type_):
            yield f"col_type_is({pair}, {text(name)}, {text(type_)}, {text(f'{said} is of type {type_}')})"
        else:
            yield self._of_column(root, name, "format_type(atttypid, atttypmod)", text(type_), f"type of {said}")
        if view(root) in self.declared.objects:
            return
        if self._speaks_of("nullable", attributes, mark):
            test = "col_is_null" if attributes.get("nullable", True) else "col_not_null"
            yield f"{test}({pair}, {text(name)}, {text(f'{said} may be null' if test == 'col_is_null' else f'{said} is not null')})"
        generated = attributes.get("generated")
        if expression := generated or attributes.get("default"):
            found = f"pg_temp.default_of({self._relation(root)}, {text(name)})"
            what, kind = ("expression", "generated") if generated else ("default", f"default of {ref.name}")
            yield self._means(found, expression, root, kind, f"{what} of {said}")
        elif self._speaks_of("default", attributes, mark) and not attributes.get("identity"):
            yield f"col_hasnt_default({pair}, {text(name)}, {text(f'{said} has no default')})"

    # --- what belongs to relations -----------------------------------------------------------------------------------

    def _constraint(self, ref: ObjectRef, root: str, attributes: Attributes, mark: Mark) -> Iterator[str]:
        name, said, table = self._bare(ref.name), one_line(ref.path), self._oid(root)
        definition, where = attributes["definition"], f"conrelid = {table} AND conname = {text(name)}"
        shown = "replace(pg_get_constraintdef(oid), ' NOT VALID', '')"
        if not mark.ours and not definition.startswith(_EXPRESSION):  # the application may call it otherwise
            where = f"conrelid = {table} AND {shown} = {text(definition)}"
            if self._speaks_of("validated", attributes, mark):
                where += f" AND pg_temp.holds({self._relation(root)}, conname)"
            yield f"ok(EXISTS (SELECT FROM pg_constraint WHERE {where}), {text(said)})"
            return
        if mark.unless_baselined:
            yield (
                f"ok(pg_temp.holds({self._relation(root)}, {text(name)}) IS TRUE OR NOT EXISTS (SELECT FROM pg_constraint WHERE {where})"
                f" AND EXISTS (SELECT FROM pgvigil.migrations WHERE revision = '000' AND baselined), {text(said)})"
            )
            return
        if definition.startswith(_EXPRESSION):
            yield self._means(
                f"(SELECT {shown} FROM pg_constraint WHERE {where})", definition, root, "constraint", said
            )
        else:
            yield f"is((SELECT {shown} FROM pg_constraint WHERE {where}), {text(definition)}, {text(said)})"
        if self._speaks_of("validated", attributes, mark):
            holds = str(not {"validated", "valid", "enforced"} & attributes.keys()).lower()
            yield f"is(pg_temp.holds({self._relation(root)}, {text(name)}), {holds}, {text(f'{said} holds for all rows' if holds == 'true' else f'{said} is not validated')})"

    def _index(self, ref: ObjectRef, root: str, attributes: Attributes, _mark: Mark) -> Iterator[str]:
        schema, _ = self._names(root)
        index = f"to_regclass({text(f'{_quoted(schema)}.{ref.name}')})"
        said = one_line(ref.path)
        has = f"has_index({self._pair(root)}, {text(self._bare(ref.name))}, {text(said)})"
        means = self._means(
            f"pg_temp.index_shape({index})", attributes["definition"], root, "index", f"definition of {said}"
        )
        if "valid" in attributes:  # one that is declared INVALID may be either, and is not there after a restore
            skipped = text(f"{said} is INVALID, and declared so")
            yield f"CASE WHEN {index} IS NULL THEN skip({skipped}, 1) ELSE {means} END"
        else:
            yield from (has, means)
            yield f"ok((SELECT indisvalid AND indisready FROM pg_index WHERE indexrelid = {index}), {text(f'{said} is valid')})"

    def _trigger(self, ref: ObjectRef, root: str, attributes: Attributes, _mark: Mark) -> Iterator[str]:
        name, said = self._bare(ref.name), one_line(ref.path)
        if attributes.get("clone"):
            return
        yield f"has_trigger({self._pair(root)}, {text(name)}, {text(said)})"
        function, arguments = _called(attributes["function"])
        yield f"trigger_is({self._pair(root)}, {text(name)}, {self._pair(function)}, {text(f'function of {said}')})"
        given = f"pg_temp.trigger_arguments({self._oid(root)}, {text(name)})"
        yield f"is({given}, {text(f'({arguments})')}, {text(f'arguments of {said}')})"
        events = " OR ".join(e for e in ("INSERT", "DELETE", "UPDATE", "TRUNCATE") if e in attributes["events"])
        columns = sorted(attributes.get("update_of") or [], key=self._bare)
        parts = [
            "CONSTRAINT" if attributes.get("constraint") else "",
            attributes["timing"],
            events,
            f"OF {', '.join(columns)}" if columns else "",
            *(
                f"{age.upper()} TABLE {attributes[f'{age}_table']}"
                for age in ("old", "new")
                if attributes.get(f"{age}_table")
            ),
            attributes.get("deferrable") or "",
            f"FOR EACH {attributes['level']}",
            {"ORIGIN": "ENABLED"}.get(enabled := attributes.get("enabled", "ORIGIN"), enabled),
        ]
        shape = " ".join(part for part in parts if part)
        yield f"is(pg_temp.trigger_shape({self._oid(root)}, {text(name)}), {text(shape)}, {text(f'{said} fires as declared')})"
        condition = (
            f"(SELECT substring(pg_get_triggerdef(oid) FROM {text(_WHEN)})"
            f" FROM pg_trigger WHERE tgrelid = {self._oid(root)} AND tgname = {text(name)} AND NOT tgisinternal)"
        )
        if when := attributes.get("when"):
            head = f"{attributes['timing']} {events} ON pg_temp.probe FOR EACH {attributes['level']} WHEN "
            yield self._means(
                f"{text(head)} || {condition}", f"{head}({when})", root, "trigger", f"condition of {said}"
            )
        else:
            yield f"ok({condition} IS NULL, {text(f'{said} has no condition')})"

    def _policy(self, ref: ObjectRef, root: str, attributes: Attributes, _mark: Mark) -> Iterator[str]:
        name, said = self._bare(ref.name), one_line(ref.path)
        command = attributes.get("command") or "ALL"
        yield f"policy_cmd_is({self._pair(root)}, {text(name)}::name, {text(command)}, {text(f'command of {said}')})"
        where = f"polrelid = {self._oid(root)} AND polname = {text(name)}"
        roles = sorted(role if role == "PUBLIC" else self._bare(role) for role in attributes.get("roles", ["PUBLIC"]))
        each = "SELECT coalesce(pg_get_userbyid(nullif(r, 0))::text, 'PUBLIC') AS role FROM unnest(polroles) r"
        found = f'(SELECT ARRAY(SELECT role FROM ({each}) q ORDER BY role COLLATE "C") FROM pg_policy WHERE {where})'
        yield f"is({found}, {_texts(roles)}, {text(f'roles of {said}')})"
        permissive = str(not attributes.get("restrictive")).lower()
        found = f"(SELECT polpermissive FROM pg_policy WHERE {where})"
        yield f"is({found}, {permissive}, {text(f'{said} is permissive: {permissive}')})"
        for key, column in (("using", "polqual"), ("check", "polwithcheck")):
            found = f"(SELECT '(' || pg_get_expr({column}, polrelid) || ')' FROM pg_policy WHERE {where})"
            if key in attributes:
                yield self._means(found, f"({attributes[key]})", root, "policy", f"{key} of {said}")
            else:
                yield f"ok({found} IS NULL, {text(f'{said} has no {key}')})"

    def _rule(self, ref: ObjectRef, root: str, attributes: Attributes, _mark: Mark) -> Iterator[str]:
        name, said = self._bare(ref.name), one_line(ref.path)
        yield f"has_rule({self._pair(root)}, {text(name)}, {text(said)})"
        enabled = {"ALWAYS": "A", "REPLICA": "R", "DISABLED": "D"}.get(attributes.get("enabled", ""), "O")
        found = (
            f"(SELECT ev_enabled::text FROM pg_rewrite WHERE ev_class = {self._oid(root)} AND rulename = {text(name)})"
        )
        yield f"is({found}, {text(enabled)}, {text(f'{said} is enabled as declared')})"

    # --- routines ----------------------------------------------------------------------------------------------------

    def _function(self, ref: ObjectRef, _root: str, attributes: Attributes, mark: Mark) -> Iterator[str]:
        signature = ref.label
        name, types = _called(signature)
        each = _COMMA.split(types) if types else []
        call = f"{self._pair(name)}, {_texts(each, 'name')}"
        said, kind = one_line(ref.path), ref.kind
        where = self._is_routine(ref)
        # pgTAP takes the types as names, which end after 63 bytes: where one is longer, the catalog is asked.
        fits = all(len(one.encode()) < 64 for one in each)

        def has(of_pgtap: str, what: str, expected: str, description: str) -> str:
            return of_pgtap if fits else self._of_function(where, what, text(expected), description)

        letter = {"procedure": "p", "aggregate": "a", "window": "w"}.get(kind.partition(" ")[0], "f")
        yield has(f"has_function({call}, {text(said)})", "'is there'", "is there", said)
        if kind != "function":
            is_kind = f"is_{kind.partition(' ')[0]}({call}, {text(f'{said} is of that kind')})"
            yield has(is_kind, "prokind::text", letter, f"{said} is of that kind")
        if language := attributes.get("language"):
            is_in = f"function_lang_is({call}, {text(unquoted(language))}, {text(f'language of {said}')})"
            of_language = "(SELECT lanname::text FROM pg_language l WHERE l.oid = prolang)"
            yield has(is_in, of_language, unquoted(language), f"language of {said}")
        if "arguments" in attributes:
            found = "regexp_replace(pg_get_function_arguments(oid), '(^|, )IN ', '\\1', 'g')"
            arguments = re.sub(r"(^|, )IN ", r"\1", attributes["arguments"])
            found = f"(SELECT {found} FROM pg_proc WHERE {where})"
            yield self._means(found, arguments, "", "arguments", f"arguments of {said}")
        if returns := attributes.get("returns"):
            found = f"(SELECT pg_get_function_result(oid) FROM pg_proc WHERE {where})"
            yield f"is({found}, {text(returns)}, {text(f'result of {said}')})"
        if kind != "aggregate":
            volatility = attributes.get("volatility", "VOLATILE").lower()
            is_so = f"volatility_is({call}, {text(volatility)}, {text(f'{said} is {volatility}')})"
            yield has(is_so, "provolatile::text", volatility[0], f"{said} is {volatility}")
        for key, given, test in (
            ("security", attributes.get("security") == "DEFINER", "definer"),
            ("strict", bool(attributes.get("strict")), "strict"),
        ):
            if self._speaks_of(key, attributes, mark):
                verb = "is" if given else "isnt"
                is_one = f"{verb}_{test}({call}, {text(f'{said} {verb} {test}')})"
                of_catalog = "prosecdef::text" if test == "definer" else "proisstrict::text"
                yield has(is_one, of_catalog, str(given).lower(), f"{said} {verb} {test}")
        if self._speaks_of("parallel", attributes, mark):
            parallel = attributes.get("parallel", "UNSAFE")
            yield self._of_function(
                where, "proparallel::text", text(parallel[0].lower()), f"{said} is parallel {parallel.lower()}"
            )
        if self._speaks_of("set", attributes, mark):
            settings = [
                f"{key}={value.replace('{schema}', self.schema)}" for key, value in attributes.get("set", {}).items()
            ]
            plain = "ARRAY(SELECT replace(s, '\"', '') FROM unnest(proconfig) s ORDER BY replace(s, '\"', '') COLLATE \"C\")"
            yield self._of_function(
                where, plain, _texts(sorted(setting.replace('"', "") for setting in settings)), f"settings of {said}"
            )
        body = attributes.get("body")
        if body is not None and attributes.get("atomic") and kind == "function":
            shape = "format('(%s) RETURNS %s LANGUAGE sql %s', pg_get_function_arguments(oid), pg_get_function_result(oid), pg_get_function_sqlbody(oid))"
            expected = f"({attributes.get('arguments', '')}) RETURNS {attributes['returns']} LANGUAGE sql {body}"
            found = f"(SELECT {shape} FROM pg_proc WHERE {where})"
            yield self._means(found, expected, "", "body", f"body of {said}")
        elif body is not None:
            yield self._of_function(
                where, "coalesce(pg_get_function_sqlbody(oid), prosrc)", text(body), f"body of {said}"
            )

    _procedure = _aggregate = _function

    # --- types, sequences, extensions --------------------------------------------------------------------------------

    def _type(self, ref: ObjectRef, _root: str, attributes: Attributes, _mark: Mark) -> Iterator[str]:
        label = ref.label
        pair, said = self._pair(label), one_line(ref.path)
        type_ = f"to_regtype({text(self._qualified(label))})"
        if attributes["kind"] == "enum":
            yield f"has_enum({pair}, {text(said)})"
            yield f"enum_has_labels({pair}, {_texts(attributes.get('labels', []))}, {text(f'labels of {said}')})"
        elif attributes["kind"] == "domain":
            yield f"has_domain({pair}, {text(said)})"
            found = f"(SELECT ARRAY[format_type(typbasetype, typtypmod), typnotnull::text, pg_get_expr(typdefaultbin, 0)] FROM pg_type WHERE oid = {type_})"
            default = text(attributes["default"]) if "default" in attributes else "NULL"
            not_null = str(not attributes.get("nullable", True)).lower()
            yield f"is({found}, ARRAY[{text(attributes['type'])}, '{not_null}', {default}]::text[], {text(f'type of {said}')})"
            for name, check in attributes.get("checks", {}).items():
                found = f"(SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contypid = {type_} AND conname = {text(self._bare(name))})"
                base = attributes["type"]
                yield self._means(
                    f"{text(base + ' ')} || {found}",
                    f"{base} {check}",
                    "",
                    "domain",
                    f"check {one_line(name)} of {said}",
                )
            count = f"(SELECT count(*) FROM pg_constraint WHERE contypid = {type_} AND contype = 'c')"
            yield f"is({count}, {len(attributes.get('checks', {}))}::bigint, {text(f'number of checks of {said}')})"
        elif attributes["kind"] == "composite":
            yield f"has_composite({pair}, {text(said)})"
            yield f"is(pg_temp.attributes_of({type_}), {_texts(attributes.get('columns', []))}, {text(f'attributes of {said}')})"
        else:
            found = f"SELECT FROM pg_type WHERE {self._type_is(label)}"
            yield f"ok(EXISTS ({found}), {text(said)})"  # has_type() knows no ranges, to_regtype() nothing of a shell

    def _type_is(self, label: str) -> str:
        schema, name = self._names(label)
        return f"typname = {text(name)} AND typnamespace = to_regnamespace({text(_quoted(schema))})"

    def _sequence(self, ref: ObjectRef, root: str, attributes: Attributes, _mark: Mark) -> Iterator[str]:
        label, said = ref.label, one_line(ref.path)
        if ref.of_column:
            sequence = f"pg_get_serial_sequence({self._relation(root)}, {text(self._bare(ref.column.name))})::regclass"
        else:
            yield f"has_sequence({self._pair(label)}, {text(said)})"
            sequence = self._oid(label)
        numbers = {
            "format_type(seqtypid, NULL)": text(attributes["type"]),
            "seqincrement": attributes.get("increment", 1),
            "seqstart": attributes["start"],
            "seqmin": attributes["minimum"],
            "seqmax": attributes["maximum"],
            "seqcache": attributes.get("cache", 1),
            "seqcycle": str(attributes.get("cycle", False)).lower(),
        }
        if ref.of_column and pg_dump_gaps.retypes(ref, ["type"], self.declared.objects):
            for lost in ("format_type(seqtypid, NULL)", "seqmin", "seqmax"):
                del numbers[lost]
        found = f"(SELECT ROW({', '.join(numbers)})::text FROM pg_sequence WHERE seqrelid = {sequence})"
        expected = f"ROW({', '.join(map(str, numbers.values()))})::text"
        yield f"is({found}, {expected}, {text(f'counting of {said}')})"

    def _extension(self, ref: ObjectRef, _root: str, _attributes: Attributes, _mark: Mark) -> Iterator[str]:
        yield f"has_extension({text(self._bare(ref.label))}, {text(one_line(ref.path))})"

    # --- what is tested to be there, and whose it is -------------------------------------------------------------------

    def _operator(self, ref: ObjectRef, _root: str, attributes: Attributes, mark: Mark) -> Iterator[str]:
        schema = unquoted(ref.schema) if ref.schema else self.schema
        operator = f"to_regoperator({text(f'{_quoted(schema)}.{ref.name}{ref.signature}')})"
        yield f"ok({operator} IS NOT NULL, {text(one_line(ref.path))})"
        yield from self._owner_of(ref, f"(SELECT oprowner FROM pg_operator WHERE oid = {operator})", attributes, mark)

    def _there(self, ref: ObjectRef, _root: str, attributes: Attributes, mark: Mark) -> Iterator[str]:
        """An object of a schema whose parts pgTAP knows nothing of."""
        catalog, prefix = _NAMED[ref.rare_kind or ref.kind]
        label, _, method = (ref.rare_name if ref.rare_kind else ref.label).partition(" USING ")
        where = f"({prefix}name, {prefix}namespace) = ({text(self._names(label)[1])}, to_regnamespace({text(_quoted(self._names(label)[0]))}))"
        if method:
            where += f" AND {prefix}method = (SELECT oid FROM pg_am WHERE amname = {text(unquoted(method))})"
        yield f"ok(EXISTS (SELECT FROM {catalog} WHERE {where}), {text(one_line(ref.path))})"
        if prefix not in ("prs", "tmpl"):
            yield from self._owner_of(ref, f"(SELECT {prefix}owner FROM {catalog} WHERE {where})", attributes, mark)

    _collation = _statistics = _there

    def _other(self, ref: ObjectRef, root: str, attributes: Attributes, mark: Mark) -> Iterator[str]:
        if ref.rare_kind in _NAMED:
            yield from self._there(ref, root, attributes, mark)
        elif ref.rare_kind == "cast" and len(types := ref.rare_name[1:-1].split(" AS ")) == 2:
            source, target = (f"to_regtype({text(one)})" for one in types)
            found = f"SELECT FROM pg_cast WHERE (castsource, casttarget) = ({source}, {target})"
            yield f"ok(EXISTS ({found}), {text(one_line(ref.path))})"

    # --- rights ------------------------------------------------------------------------------------------------------

    def _grant(self, ref: ObjectRef, root: str, attributes: Attributes, _mark: Mark) -> Iterator[str]:
        """Test the rights beyond those that come with an object.

        For a revocation, test that some of those are absent.
        """
        of = ref.of
        if of is None or of.kind not in _RIGHTS or self._is_lost_by_dumps(of):
            return
        kind, label, role = of.kind, of.label, self._bare(ref.grantee)
        catalog, acl, usual, owner = _RIGHTS[kind]
        if kind == "column":
            where = f"attrelid = {self._oid(root)} AND attname = {text(self._bare(of.name))}"
        elif kind == "schema":
            where = f"nspname = {text(self.schema if label == '{schema}' else self._bare(label))}"
        elif of.of_column:
            where = (
                f"oid = pg_get_serial_sequence({self._relation(root)}, {text(self._bare(of.column.name))})::regclass"
            )
        else:
            where = self._is(of)
        plain = default = f"acldefault('{usual}', {owner})" if owner else "NULL"
        if kind == "schema":  # initdb gives rights on public, in each version others
            initial = f"coalesce((SELECT initprivs FROM pg_init_privs WHERE classoid = 'pg_namespace'::regclass AND objoid = oid), {plain})"
            default = f"CASE WHEN nspname = 'public' THEN {RIGHTS_ON_PUBLIC} ELSE {initial} END"
        given = [f"coalesce({acl}, {plain})", f"({default})::aclitem[]"]
        if ref.kind == "revocation":
            given.reverse()
        rights = f"(SELECT pg_temp.rights({', '.join(given)}, {text(role)}) FROM {catalog} WHERE {where})"
        expected, said = _texts(sorted(attributes["privileges"])), text(one_line(ref.path))
        if ref.kind == "revocation" or (0 < self.declared.major < 17 and len(attributes["privileges"]) == 7):
            # Since PostgreSQL 17 an owner has MAINTAIN beside what a spec says of him, and ALL has it too.
            rights = f"array_remove(array_remove({rights}, 'MAINTAIN'), 'MAINTAIN WITH GRANT OPTION')"
        test = f"is({rights}, {expected}, {said})"
        yield test if role == "PUBLIC" else self._if_role(role, test)

    _revocation = _grant

    def _is_lost_by_dumps(self, of: ObjectRef) -> bool:
        """Return true if pg_dump does not carry the rights on an object, so that a restored database lacks them."""
        constructs = bool(self.declared.objects.get(of, {}).get("constructor"))
        return constructs or (of.kind == "type" and pg_dump_gaps.is_multirange(of, self.declared.objects))

    # --- parts of tests ----------------------------------------------------------------------------------------------

    def _relation(self, label: str) -> str:
        return text(self._qualified(label)) if label else "''"

    def _oid(self, label: str) -> str:
        return f"to_regclass({self._relation(label)})"

    def _of_class(self, label: str, what: str, expected: str, said: str) -> str:
        return f"is((SELECT {what} FROM pg_class WHERE oid = {self._oid(label)}), {expected}, {text(one_line(said))})"

    def _of_column(self, root: str, name: str, what: str, expected: str, said: str) -> str:
        where = f"attrelid = {self._oid(root)} AND attname = {text(name)} AND NOT attisdropped"
        return f"is((SELECT {what} FROM pg_attribute WHERE {where}), {expected}, {text(said)})"

    @staticmethod
    def _of_function(where: str, what: str, expected: str, said: str) -> str:
        return f"is((SELECT {what} FROM pg_proc WHERE {where}), {expected}, {text(said)})"

    def _means(self, found: str, expected: str, root: str, kind: str, said: str, *, strip: bool = False) -> str:
        if strip:
            found = f"rtrim(btrim({found}), ';')"
        return f"pg_temp.means({found}, {text(expected)}, {self._relation(root)}, {text(kind)}, {text(said)})"


def _called(signature: str) -> tuple[str, str]:
    """The name, and the text in the parentheses after it."""
    match = _CALL.fullmatch(signature)
    return (match[1], match[2]) if match else (signature, "")
