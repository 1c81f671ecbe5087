"""Random schemas of everything PostgreSQL has, and for each object the single defects that can befall it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from hypothesis import strategies as st

from helpers import rare_ddl

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[T]], T]

NAMES = (
    "plain", "Mixed Case", 'quo"te', "dot.ted", "select", "ünï ✓", "apo'strophe", "per%s", "{schema}", "co:lon", "#hash",
    "- dash", "null", "true", "1st", "semi;colon", "back\\slash", "any", "par(en)s", "com,ma", "*star", "new\nline", "tab\t",
    "{", "[x]", "&a", "!t", "a: b", "trailing ", "$1", "~", "user", "public", "table", "long" * 15, "é" * 30,
)  # fmt: skip
# Type → an immutable default, an immutable condition on {c}; the first ones come up most when examples shrink.
TYPES = {
    "integer": ("42", "{c} > 0"),
    "text": ("'it''s'", "{c} <> ''"),
    "bigint": ("(2 ^ 40)::bigint", "{c} IN (1, 2, 3)"),
    "varchar(20)": ("'a''b\\c'", "{c} IN ('a', 'b')"),
    "numeric(10,2)": ("0.50", "{c} BETWEEN 0 AND 100"),
    "timestamptz": ("now()", "{c} > '2020-01-01 00:00:00+02'"),
    "timestamp(3)": ("'2020-01-01'", "{c} IS NOT NULL"),
    "date": ("CURRENT_DATE", "{c} <> 'infinity'::date"),
    "interval": ("'1 mon 2 days 03:04:05'", "{c} > '24:00:00'::interval"),
    "interval day to second(2)": ("'1 day'", "{c} IS NOT NULL OR true"),
    "jsonb": ("'{\"a\": [1]}'", "jsonb_typeof({c}) = 'object'"),
    "uuid": ("gen_random_uuid()", "{c} <> '00000000-0000-0000-0000-000000000000'"),
    "boolean": ("(NOT false)", "{c} IS NOT FALSE"),
    "bytea": ("'\\xdeadbeef'", "length({c}) < 10"),
    "text[]": ("ARRAY['a', 'b''c']", "cardinality({c}) < 5"),
    "integer[][]": ("'{{1},{2}}'", "{c}[1][1] = 1"),
    "bit(3)": ("B'101'", "{c} <> B'000'"),
    "char(4)": ("'ab'", "{c} <> 'x'"),
    "int4range": ("'[1,5)'", "NOT isempty({c})"),
    "double precision": ("'NaN'", "{c} = {c} + 1e-3"),
    '"char"': ("'x'", "{c} <> 'y'"),
    "inet": ("'127.0.0.1'", "family({c}) = 4"),
    "time with time zone": ("'12:00+02'", "{c} IS NOT NULL"),
    "regclass": ("'pg_class'::regclass", "{c} IS NOT NULL"),
}
ACTIONS = ("NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT")
COLLATABLE = ("text", "varchar(20)")
TEXTS = (
    "plain",
    "it's",
    'a "quoted" one',
    "two\nlines",
    "$$ $f$ back\\slash %s {x}",
    "ünï ✓ 🐘",
    " ",
    "#: - [",
    "null",
)


def ident(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


@dataclass
class Table:
    name: str
    columns: dict[str, str]  # name → type
    keys: list[tuple[str, ...]] = field(default_factory=list)  # what a foreign key can reference
    partitioned: bool = False
    logged: bool = True


class World:
    """The DDL of one random schema, in order, and the defects: each a statement and the name it must be found under."""

    def __init__(self, draw: Draw[object], major: int) -> None:
        self._draw = draw
        self.major = major
        self.schema = self.pick(("app", "App Schema", 'sch"ema', "dot.ted schema"))
        self.sql: list[str] = []
        self.defects: list[tuple[str, str]] = []
        self.tables: list[Table] = []
        self._count = 0
        self._types = dict(TYPES)
        self.sql.append(f"CREATE SCHEMA {ident(self.schema)}")
        makers = {
            "enum": self.enum, "domain": self.domain, "composite": self.composite, "sequence": self.sequence,
            "function": self.function, "procedure": self.procedure, "aggregate": self.aggregate, "table": self.table,
            "typed": self.typed_table, "partitioned": self.partitioned, "inherited": self.inherited, "view": self.view,
            "materialized": self.materialized_view, "index": self.index, "foreign key": self.foreign_key,
            "constraint": self.constraint, "trigger": self.trigger, "rule": self.rule, "policy": self.policy,
            "shadow": self.shadow_type, "range": self.range_type, "immutable": self.immutable_function,
            "subpartitioned": self.subpartitioned, "stacked": self.stacked_views, "serial": self.serial, "like": self.like,
            "storage": self.storage, "owned rights": self.rights_on_sequences, "shell": self.shell, "paired": self.paired_operators, "elsewhere": self.elsewhere, "temporal": self.temporal, "extra": self.odds_and_ends,
            "foreign": self.foreign_table, "attached": self.attached_index, "sequences": self.two_sequences,
            "kept": self.kept_columns, "overloaded": self.overloaded, "late": self.late_column, "not null": self.named_not_null,
            "search": self.text_search, "class": self.operator_class, "conversion": self.conversion, "cast": self.cast,
            "foreign partition": self.foreign_partition, "renamed sequence": self.renamed_sequence,
            "base": self.base_type, "parts": self.collation_of_parts, "gone": self.dropped_column,
            "instead": self.instead_of, "grant": self.grant, "comment": self.comment, "statistics": self.statistics,
        }  # fmt: skip
        rare = [kind for kind, of in rare_ddl.KINDS.items() if of.since <= major]
        self.table()
        for maker in self.draw(st.lists(st.sampled_from(sorted([*makers, *rare])), min_size=2, max_size=12)):
            makers.get(maker, lambda maker=maker: self.rare(maker))()

    # --- drawing -----------------------------------------------------------------------------------------------------

    def draw(self, strategy: st.SearchStrategy[T]) -> T:
        return self._draw(strategy)  # type: ignore[arg-type, return-value]

    def pick(self, choices: tuple[T, ...] | list[T]) -> T:
        return self.draw(st.sampled_from(choices))

    def maybe(self) -> bool:
        return self.draw(st.booleans())

    def name(self) -> str:
        self._count += 1
        return f"{self.pick(NAMES)}{self._count}"

    def q(self, name: str) -> str:
        return f"{ident(self.schema)}.{ident(name)}"

    def add(self, statement: str) -> None:
        self.sql.append(statement)

    def defect(self, statement: str, name: str) -> None:
        self.defects.append((statement, name))

    # --- types -------------------------------------------------------------------------------------------------------

    def enum(self) -> None:
        name = self.name()
        labels = list(dict.fromkeys(self.pick(TEXTS) for _ in range(3)))
        self.add(f"CREATE TYPE {self.q(name)} AS ENUM ({', '.join(map(literal, labels))})")
        self._types[self.q(name)] = (literal(labels[0]), "{c} IS NOT NULL")
        self.defect(f"ALTER TYPE {self.q(name)} ADD VALUE 'one more'", name)
        self.defect(f"ALTER TYPE {self.q(name)} RENAME VALUE {literal(labels[0])} TO 'another'", name)
        self.commentable("TYPE", name)

    def domain(self) -> None:
        name = self.name()
        base = self.pick(("integer", "text", "varchar(20)", "numeric(10,2)"))
        default, check = TYPES[base]
        collate = ' COLLATE "C"' * (base in COLLATABLE and self.maybe())
        extra = f" DEFAULT {default}" * self.maybe() + " NOT NULL" * self.maybe()
        checked = self.name()
        self.add(
            f"CREATE DOMAIN {self.q(name)} AS {base}{collate}{extra} CONSTRAINT {ident(checked)} CHECK ({check.format(c='VALUE')})"
        )
        self._types[self.q(name)] = (default, "{c} IS NOT NULL")
        self.defect(f"ALTER DOMAIN {self.q(name)} DROP CONSTRAINT {ident(checked)}", name)
        self.defect(f"ALTER DOMAIN {self.q(name)} ADD CONSTRAINT extra CHECK (VALUE IS NOT NULL)", name)
        if "NOT NULL" not in extra:
            self.defect(f"ALTER DOMAIN {self.q(name)} SET NOT NULL", name)
        self.commentable("DOMAIN", name)

    def composite(self) -> None:
        name, part = self.name(), self.name()
        self.add(f"CREATE TYPE {self.q(name)} AS ({ident(part)} integer, b text, c varchar(20)[])")
        self.defect(f"ALTER TYPE {self.q(name)} ADD ATTRIBUTE extra integer", name)
        self.defect(f"ALTER TYPE {self.q(name)} ALTER ATTRIBUTE {ident(part)} TYPE bigint", name)
        self.commentable("TYPE", name)

    def sequence(self) -> None:
        name = self.name()
        type_ = self.pick((" AS integer", " AS smallint", ""))
        options = " INCREMENT 5" * self.maybe() + " MINVALUE 3 START 7" * self.maybe() + " CACHE 4" * self.maybe()
        self.add(f"CREATE SEQUENCE {self.q(name)}{type_}{options}{' CYCLE' * self.maybe()}")
        self.defect(f"ALTER SEQUENCE {self.q(name)} INCREMENT 3", name)
        self.defect(f"ALTER SEQUENCE {self.q(name)} MAXVALUE 1000", name)
        self.defect(f"DROP SEQUENCE {self.q(name)}", name)
        self.grantable("SEQUENCE", name, "USAGE")
        self.commentable("SEQUENCE", name)

    # --- routines ----------------------------------------------------------------------------------------------------

    def function(self) -> None:
        """Add two functions of the same name that differ in their arguments."""
        name = self.name()
        said = self.pick(TEXTS)
        attributes = "".join(
            word
            for word in (" STABLE", " STRICT", " SECURITY DEFINER", " PARALLEL SAFE", " COST 7", " LEAKPROOF")
            if self.maybe()
        )
        setting = self.pick(
            ("", " SET search_path = pg_catalog, pg_temp", " SET search_path FROM CURRENT", " SET \"my.x\" = 'a, b'")
        )
        arguments = self.pick(
            (
                "a integer",
                "integer, text DEFAULT 'x, y'",
                'a integer, OUT "B c" text, OUT d integer',
                "INOUT a integer, VARIADIC more text[]",
                'a numeric(10,2) DEFAULT 1.5, "select" timestamptz[] DEFAULT NULL',
            )
        )
        returns = "" if "OUT" in arguments else " RETURNS text"
        row = {"a integer, OUT": "SELECT 'x', 1", "INOUT": "SELECT 1"}
        body = next(
            (text for start, text in row.items() if arguments.startswith(start)), f"SELECT {literal(said)}::text"
        )
        self.add(
            f"CREATE FUNCTION {self.q(name)}({arguments}){returns} LANGUAGE sql{attributes}{setting} AS $body$ {body} $body$"
        )
        body_text = "$body$\nDECLARE x text := " + literal(said) + ";\nBEGIN\n\tRETURN x; -- said\nEND\n$body$"
        second = f"{self.q(name)}(a date, b {self.pick(('text', 'text[]', 'jsonb'))})"
        self.add(f"CREATE FUNCTION {second} RETURNS text LANGUAGE plpgsql AS {body_text}")
        changed = body_text.replace("-- said", "-- unsaid")
        self.defect(f"CREATE OR REPLACE FUNCTION {second} RETURNS text LANGUAGE plpgsql AS {changed}", name)
        self.defect(f"ALTER FUNCTION {second} STABLE", name)
        self.defect(f"ALTER FUNCTION {second} SECURITY DEFINER", name)
        self.defect(f"ALTER FUNCTION {second} SET work_mem = '8MB'", name)
        self.defect(f"ALTER FUNCTION {second} STRICT", name)
        self.defect(f"ALTER FUNCTION {second} PARALLEL SAFE", name)
        self.defect(f"ALTER FUNCTION {second} RENAME TO renamed", name)
        self.defect(f"DROP FUNCTION {second}", name)
        self.defect(f"REVOKE EXECUTE ON FUNCTION {second} FROM PUBLIC", name)
        atomic = self.name()
        self.add(
            f"CREATE FUNCTION {self.q(atomic)}(a integer, b integer DEFAULT 3) RETURNS integer LANGUAGE sql "
            "BEGIN ATOMIC SELECT a + b; SELECT CASE WHEN a > b THEN a ELSE 2 * b END; END"
        )
        self.defect(
            f"CREATE OR REPLACE FUNCTION {self.q(atomic)}(a integer, b integer DEFAULT 3) RETURNS integer LANGUAGE sql RETURN a - b",
            atomic,
        )
        self.defect(
            f"CREATE OR REPLACE FUNCTION {self.q(atomic)}(a integer, b integer DEFAULT 4) RETURNS integer LANGUAGE sql "
            "BEGIN ATOMIC SELECT a + b; SELECT CASE WHEN a > b THEN a ELSE 2 * b END; END",
            atomic,
        )

    def procedure(self) -> None:
        name = self.name()
        self.add(
            f"CREATE PROCEDURE {self.q(name)}(IN a integer, INOUT b text DEFAULT 'x') LANGUAGE plpgsql AS $$BEGIN b := a; END$$"
        )
        self.defect(f"ALTER PROCEDURE {self.q(name)}(integer, text) SECURITY DEFINER", name)
        self.defect(f"DROP PROCEDURE {self.q(name)}(integer, text)", name)

    def aggregate(self) -> None:
        name = self.name()
        self.add(f"CREATE AGGREGATE {self.q(name)}(integer) (SFUNC = int4pl, STYPE = integer, INITCOND = '0')")
        self.defect(f"DROP AGGREGATE {self.q(name)}(integer)", name)

    # --- tables ------------------------------------------------------------------------------------------------------

    def column(self, first: str = "") -> tuple[str, str, str]:
        """Name, type and definition of a random column."""
        name = self.name()
        type_ = first or self.pick(list(self._types))
        parts = [ident(name), type_]
        if type_ in COLLATABLE and self.maybe():
            parts.append('COLLATE "C"')
        if type_ in ("integer", "bigint") and self.maybe():
            parts.append(
                f"GENERATED {self.pick(('ALWAYS', 'BY DEFAULT'))} AS IDENTITY{self.pick(('', ' (START 5 INCREMENT 2)'))}"
            )
        else:
            if self.maybe():
                parts.append(f"DEFAULT {self._types[type_][0]}")
            if self.maybe():
                parts.append("NOT NULL")
        return name, type_, " ".join(parts)

    def new_columns(self) -> tuple[dict[str, str], list[str]]:
        drawn = [self.column("integer"), *(self.column() for _ in range(self.draw(st.integers(0, 4))))]
        return {name: type_ for name, type_, _ in drawn}, [definition for *_, definition in drawn]

    def table(self) -> None:
        columns, definitions = self.new_columns()
        table = Table(self.name(), columns)
        first = next(iter(columns))
        if self.maybe():
            generated = self.name()
            kind = "VIRTUAL" if self.major >= 18 and self.maybe() else "STORED"
            definitions.append(f"{ident(generated)} bigint GENERATED ALWAYS AS ({ident(first)} * 2 + 1) {kind}")
            self.column_defects(table, generated, "bigint", droppable=True)
            if kind == "STORED":
                self.defect(f"ALTER TABLE {self.q(table.name)} ALTER {ident(generated)} DROP EXPRESSION", generated)
        if self.maybe():
            key = self.name()
            definitions.append(f"CONSTRAINT {ident(key)} PRIMARY KEY ({ident(first)})")
            table.keys.append((first,))
            self.defect(f"ALTER TABLE {self.q(table.name)} DROP CONSTRAINT {ident(key)} CASCADE", key)
        options = self.pick(
            ("", " WITH (fillfactor = 70)", " WITH (autovacuum_enabled = off, toast_tuple_target = 256)")
        )
        table.logged = self.pick((True, True, False))
        self.add(
            f"CREATE {'' if table.logged else 'UNLOGGED '}TABLE {self.q(table.name)} ({', '.join(definitions)}){options}"
        )
        self.table_made(table)

    def table_made(self, table: Table) -> None:
        self.tables.append(table)
        quoted = self.q(table.name)
        self.defect(f"DROP TABLE {quoted} CASCADE", table.name)
        self.defect(f"ALTER TABLE {quoted} ADD unlooked_for integer", "unlooked_for")
        self.defect(f"CREATE INDEX unlooked_for ON {quoted} (({table.name.count('x')} + 1))", "unlooked_for")
        self.defect(f"ALTER TABLE {quoted} ADD CONSTRAINT unlooked_for CHECK (true)", "unlooked_for")
        self.defect(f"ALTER TABLE {quoted} REPLICA IDENTITY FULL", table.name)
        self.defect(f"ALTER TABLE {quoted} RENAME TO renamed", table.name)
        for name, type_ in table.columns.items():
            self.column_defects(table, name, type_)
        self.grantable("TABLE", table.name, "SELECT")
        self.commentable("TABLE", table.name)

    def column_defects(self, table: Table, name: str, type_: str, *, droppable: bool = False) -> None:
        quoted = f"ALTER TABLE {self.q(table.name)}"
        if droppable:
            self.defect(f"{quoted} DROP {ident(name)}", name)
        self.defect(f"{quoted} RENAME {ident(name)} TO renamed", name)
        self.defect(f"COMMENT ON COLUMN {self.q(table.name)}.{ident(name)} IS 'changed'", name)
        self.defect(f"GRANT SELECT ({ident(name)}) ON {self.q(table.name)} TO PUBLIC", table.name)
        if type_ == "varchar(20)":
            self.defect(f"{quoted} ALTER {ident(name)} TYPE varchar(21)", name)

    def typed_table(self) -> None:
        base, name, part = self.name(), self.name(), self.name()
        self.add(f"CREATE TYPE {self.q(base)} AS ({ident(part)} integer, b text)")
        self.add(f"CREATE TABLE {self.q(name)} OF {self.q(base)} ({ident(part)} WITH OPTIONS DEFAULT 3 NOT NULL)")
        self.tables.append(Table(name, {part: "integer", "b": "text"}))
        self.defect(f"ALTER TABLE {self.q(name)} NOT OF", name)
        self.defect(f"ALTER TABLE {self.q(name)} ALTER {ident(part)} DROP DEFAULT", part)

    def partitioned(self) -> None:
        name, key, child = self.name(), self.name(), self.name()
        how, bounds = self.pick(
            (
                ("LIST ({})", ("IN (1, 2)", "IN (NULL)")),
                (
                    "RANGE ({}, (lower(b)))",
                    ("FROM (MINVALUE, MINVALUE) TO (0, 'b')", "FROM (1, 'a') TO (MAXVALUE, MAXVALUE)"),
                ),
                ("HASH ({})", ("WITH (MODULUS 2, REMAINDER 0)", "WITH (MODULUS 2, REMAINDER 1)")),
            )
        )
        self.add(
            f"CREATE TABLE {self.q(name)} ({ident(key)} integer, b text DEFAULT 'x', CONSTRAINT {ident('c' + key)} CHECK (b <> '')) "
            f"PARTITION BY {how.format(ident(key))}"
        )
        self.add(f"CREATE TABLE {self.q(child)} PARTITION OF {self.q(name)} FOR VALUES {bounds[0]}")
        second = self.name()
        self.add(f"CREATE TABLE {self.q(second)} PARTITION OF {self.q(name)} FOR VALUES {bounds[1]}")
        if not how.startswith("HASH") and self.maybe():
            self.add(f"CREATE TABLE {self.q(self.name())} PARTITION OF {self.q(name)} DEFAULT")
        self.tables.append(Table(name, {key: "integer", "b": "text"}, partitioned=True))
        self.defect(f"ALTER TABLE {self.q(name)} DETACH PARTITION {self.q(child)}", child)
        self.defect(f"ALTER TABLE {self.q(name)} DROP CONSTRAINT {ident('c' + key)}", "c" + key)
        self.defect(f"ALTER TABLE {self.q(child)} ALTER b SET DEFAULT 'y'", child)

    def inherited(self) -> None:
        parent = self.pick([table for table in self.tables if not table.partitioned] or self.tables)
        if parent.partitioned:
            return
        name, own = self.name(), self.name()
        self.add(f"CREATE TABLE {self.q(name)} ({ident(own)} text) INHERITS ({self.q(parent.name)})")
        self.defect(f"ALTER TABLE {self.q(name)} NO INHERIT {self.q(parent.name)}", name)
        self.defect(f"ALTER TABLE {self.q(name)} DROP {ident(own)}", own)

    # --- on tables ---------------------------------------------------------------------------------------------------

    def index(self) -> None:
        table = self.pick(self.tables)
        name = self.name()
        column, type_ = self.pick(list(table.columns.items()))
        c = ident(column)
        kinds = [f"({c})"] if type_ not in ("jsonb",) else [f"USING gin ({c} jsonb_path_ops)"]
        if type_ in COLLATABLE:
            kinds += [
                f"(lower({c}) text_pattern_ops)",
                f'({c} COLLATE "C" DESC NULLS LAST)',
                f"(({c} || 'x, y'), length({c}))",
            ]
        if type_ in ("integer", "bigint"):
            kinds += [
                f"USING hash ({c})",
                f"USING brin ({c}) WITH (pages_per_range = 16)",
                f"(abs({c}) DESC) WHERE {c} > 3",
            ]
            kinds += [f"({c}) INCLUDE ({ident(next(iter(table.columns)))})"]
        if type_ == "int4range":
            kinds += [f"USING gist ({c})"]
        if type_ == "text[]":
            kinds += [f"USING gin ({c})"]
        unique = not table.partitioned and self.maybe()
        kind = self.pick(kinds)
        if unique and "USING" not in kind:
            nulls = " NULLS NOT DISTINCT" * (
                self.major >= 15 and "WHERE" not in kind and "INCLUDE" not in kind and self.maybe()
            )
            self.add(f"CREATE UNIQUE INDEX {ident(name)} ON {self.q(table.name)} {kind}{nulls}")
        else:
            self.add(f"CREATE INDEX {ident(name)} ON {self.q(table.name)} {kind}")
        self.defect(f"DROP INDEX {self.q(name)}", name)
        self.defect(f"ALTER INDEX {self.q(name)} RENAME TO renamed", name)
        self.defect(f"COMMENT ON INDEX {self.q(name)} IS 'changed'", name)

    def constraint(self) -> None:
        table = self.pick([table for table in self.tables if not table.partitioned] or self.tables)
        name = self.name()
        column, type_ = self.pick(list(table.columns.items()))
        c = ident(column)
        kinds = [
            f"CHECK ({self._types[type_][1].format(c=c)}){self.pick(('', ' NO INHERIT'))}{self.pick(('', ' NOT VALID'))}"
        ]
        if self.major >= 18:
            kinds += [f"CHECK ({c} IS NOT NULL) NOT ENFORCED"]
        if not table.partitioned and type_ in ("integer", "bigint", "text", "uuid", "varchar(20)", "date"):
            late = self.pick(("", " DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED"))
            kinds += [f"UNIQUE ({c}){late}", f"EXCLUDE ({c} WITH =) WHERE ({c} IS NOT NULL){late}"]
            if self.major >= 15:
                kinds += [f"UNIQUE NULLS NOT DISTINCT ({c})"]
        if type_ == "int4range" and not table.partitioned:
            kinds += [f"EXCLUDE USING gist ({c} WITH &&)"]
        definition = self.pick(kinds)
        self.add(f"ALTER TABLE {self.q(table.name)} ADD CONSTRAINT {ident(name)} {definition}")
        if definition.startswith("UNIQUE (") and "DEFERRABLE" not in definition:
            table.keys.append((column,))
        alter = f"ALTER TABLE {self.q(table.name)}"
        self.defect(f"{alter} DROP CONSTRAINT {ident(name)} CASCADE", name)
        self.defect(f"{alter} RENAME CONSTRAINT {ident(name)} TO renamed", name)
        self.defect(f"COMMENT ON CONSTRAINT {ident(name)} ON {self.q(table.name)} IS 'changed'", name)
        if definition.endswith("NOT VALID"):
            self.defect(f"{alter} VALIDATE CONSTRAINT {ident(name)}", name)

    def foreign_key(self) -> None:
        targets = [(table, key) for table in self.tables for key in table.keys if table.columns[key[0]] == "integer"]
        sources = [(table, c) for table in self.tables for c, type_ in table.columns.items() if type_ == "integer"]
        if not targets:
            return
        (target, key), (table, column) = self.pick(targets), self.pick(sources)
        if table.logged and not target.logged:
            return
        name = self.name()
        late = self.pick(("", " DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED"))
        actions = f" ON UPDATE {self.pick(('NO ACTION', 'RESTRICT', 'CASCADE'))} ON DELETE {self.pick(('NO ACTION', 'RESTRICT', 'CASCADE'))}"
        body = f"FOREIGN KEY ({ident(column)}) REFERENCES {self.q(target.name)} ({ident(key[0])}){actions}{late}"
        later = " NOT VALID" * (not table.partitioned and self.maybe())
        self.add(f"ALTER TABLE {self.q(table.name)} ADD CONSTRAINT {ident(name)} {body}{later}")
        alter = f"ALTER TABLE {self.q(table.name)}"
        self.defect(f"{alter} DROP CONSTRAINT {ident(name)}", name)
        again = body.replace(actions, "").replace(late, "") + " ON DELETE SET NULL"
        self.defect(f"{alter} DROP CONSTRAINT {ident(name)}, ADD CONSTRAINT {ident(name)} {again}{later}", name)

    def trigger(self) -> None:
        table = self.pick(self.tables)
        name, function = self.name(), self.name()
        self.add(f"CREATE FUNCTION {self.q(function)}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$")
        column, t = ident(self.pick(list(table.columns))), self.q(table.name)
        call = f"EXECUTE FUNCTION {self.q(function)}({self.pick(('', literal(self.pick(TEXTS)), '1, 2'))})"
        when = self.pick(
            ("", f" WHEN (OLD.{column} IS DISTINCT FROM NEW.{column})" if not column.startswith('"jsonb') else "")
        )
        shapes = [
            f"BEFORE UPDATE OF {column} ON {t} FOR EACH ROW{when} {call}",
            f"AFTER INSERT OR DELETE ON {t} FOR EACH STATEMENT {call}",
            f"AFTER UPDATE ON {t} REFERENCING OLD TABLE AS before NEW TABLE AS {ident(self.name())} FOR EACH STATEMENT {call}",
            f"BEFORE TRUNCATE ON {t} FOR EACH STATEMENT {call}",
        ]
        constraint = f"AFTER INSERT OR UPDATE ON {t} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW {call}"
        shape = self.pick([*shapes, constraint])
        kind = "CONSTRAINT TRIGGER" if shape is constraint else "TRIGGER"
        self.add(f"CREATE {kind} {ident(name)} {shape}")
        state = self.pick(("", "ENABLE ALWAYS", "ENABLE REPLICA"))
        if state:
            self.add(f"ALTER TABLE {self.q(table.name)} {state} TRIGGER {ident(name)}")
        self.defect(f"ALTER TABLE {self.q(table.name)} DISABLE TRIGGER {ident(name)}", name)
        self.defect(f"DROP TRIGGER {ident(name)} ON {self.q(table.name)}", name)
        other = next(candidate for candidate in shapes if candidate is not shape)
        self.defect(f"DROP TRIGGER {ident(name)} ON {self.q(table.name)}; CREATE TRIGGER {ident(name)} {other}", name)

    def rule(self) -> None:
        table = self.pick(self.tables)
        name = self.name()
        do = self.pick(("INSTEAD NOTHING", "ALSO NOTIFY somebody", f"ALSO DELETE FROM {self.q(table.name)}"))
        event = "INSERT" if "DELETE FROM" in do else self.pick(("INSERT", "UPDATE", "DELETE"))
        self.add(f"CREATE RULE {ident(name)} AS ON {event} TO {self.q(table.name)} DO {do}")
        self.defect(f"DROP RULE {ident(name)} ON {self.q(table.name)}", name)
        self.defect(f"ALTER TABLE {self.q(table.name)} DISABLE RULE {ident(name)}", name)
        self.defect(
            f"CREATE OR REPLACE RULE {ident(name)} AS ON {event} TO {self.q(table.name)} DO ALSO NOTIFY other", name
        )

    def policy(self) -> None:
        table = self.pick(self.tables)
        name, first = self.name(), ident(next(iter(table.columns)))
        self.add(
            f"ALTER TABLE {self.q(table.name)} ENABLE ROW LEVEL SECURITY{self.pick(('', ', FORCE ROW LEVEL SECURITY'))}"
        )
        kind = self.pick(("PERMISSIVE", "RESTRICTIVE"))
        command = self.pick(
            (
                f"ALL TO PUBLIC USING ({first} > 0) WITH CHECK ({first} > 1)",
                f"SELECT TO CURRENT_USER USING ({first} IS NOT NULL)",
                "INSERT WITH CHECK (current_user <> 'x')",
            )
        )
        self.add(f"CREATE POLICY {ident(name)} ON {self.q(table.name)} AS {kind} FOR {command}")
        self.defect(f"ALTER TABLE {self.q(table.name)} DISABLE ROW LEVEL SECURITY", table.name)
        self.defect(f"DROP POLICY {ident(name)} ON {self.q(table.name)}", name)
        clause = "WITH CHECK" if command.startswith("INSERT") else "USING"
        self.defect(f"ALTER POLICY {ident(name)} ON {self.q(table.name)} {clause} (true)", name)

    def statistics(self) -> None:
        table = next((table for table in self.tables if len(table.columns) > 1), None)
        if table is None:
            return
        name = self.name()
        columns = [
            c for c, type_ in table.columns.items() if type_ in ("integer", "text", "bigint", "varchar(20)", "date")
        ]
        if len(columns) < 2:
            return
        self.add(
            f"CREATE STATISTICS {self.q(name)} (ndistinct) ON {ident(columns[0])}, {ident(columns[1])} FROM {self.q(table.name)}"
        )
        self.defect(f"DROP STATISTICS {self.q(name)}", name)

    # --- views -------------------------------------------------------------------------------------------------------

    def view(self) -> None:
        table = self.pick(self.tables)
        name, shown = self.name(), self.name()
        first = ident(next(iter(table.columns)))
        options = self.pick(("", " WITH (security_barrier)", " WITH (security_invoker)" if self.major >= 15 else ""))
        query = self.pick(
            (
                f"SELECT {first} AS {ident(shown)}, 'a''b'::text AS b FROM {self.q(table.name)} WHERE {first} > 3",
                f"WITH x AS (SELECT {first} AS y FROM {self.q(table.name)}) SELECT max(x.y) AS {ident(shown)} FROM x JOIN x z USING (y)",
                f"SELECT count(*) FILTER (WHERE {first} > 1) AS {ident(shown)}, interval '1 day' AS i FROM {self.q(table.name)}",
            )
        )
        self.add(f"CREATE VIEW {self.q(name)}{options} AS {query}")
        self.defect(f"DROP VIEW {self.q(name)} CASCADE", name)
        self.defect(
            f"CREATE OR REPLACE VIEW {self.q(name)}{options} AS {query.replace('> 3', '> 4').replace('max(', 'min(').replace('> 1)', '> 2)')}",
            name,
        )
        self.defect(f"ALTER VIEW {self.q(name)} RENAME COLUMN {ident(shown)} TO renamed", name)
        self.grantable("TABLE", name, "SELECT")
        self.commentable("VIEW", name)

    def materialized_view(self) -> None:
        table = self.pick(self.tables)
        name, index = self.name(), self.name()
        first = ident(next(iter(table.columns)))
        self.add(
            f"CREATE MATERIALIZED VIEW {self.q(name)} AS SELECT {first} AS a FROM {self.q(table.name)} WITH NO DATA"
        )
        self.add(f"CREATE UNIQUE INDEX {ident(index)} ON {self.q(name)} (a) WHERE a > 0")
        self.defect(f"DROP MATERIALIZED VIEW {self.q(name)}", name)
        self.defect(f"DROP INDEX {self.q(index)}", index)

    def instead_of(self) -> None:
        table = self.pick(self.tables)
        name, function, trigger = self.name(), self.name(), self.name()
        first = ident(next(iter(table.columns)))
        self.add(f"CREATE VIEW {self.q(name)} AS SELECT {first} AS a FROM {self.q(table.name)}")
        self.add(f"CREATE FUNCTION {self.q(function)}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
        self.add(
            f"CREATE TRIGGER {ident(trigger)} INSTEAD OF INSERT OR UPDATE ON {self.q(name)} FOR EACH ROW EXECUTE FUNCTION {self.q(function)}()"
        )
        self.defect(f"DROP TRIGGER {ident(trigger)} ON {self.q(name)}", trigger)

    # --- what schemas rarely have ------------------------------------------------------------------------------------

    def shadow_type(self) -> None:
        """Add a type with the name of one of pg_catalog: the output must distinguish them."""
        name = self.pick(("text", "integer", "timestamptz", "bool", "int4"))
        if self.q(name) in self._types:
            return
        self.add(f"CREATE DOMAIN {self.q(name)} AS pg_catalog.int8 CHECK (VALUE <> 7)")
        self._types[self.q(name)] = ("5", "{c} IS NOT NULL")
        self.defect(f"ALTER DOMAIN {self.q(name)} SET DEFAULT 3", name)

    def range_type(self) -> None:
        name = self.name()
        self.add(f'CREATE TYPE {self.q(name)} AS RANGE (SUBTYPE = text, COLLATION = "C")')
        self._types[self.q(name)] = ("NULL", "NOT isempty({c})")
        self.defect(f"DROP TYPE {self.q(name)} CASCADE", name)

    def immutable_function(self) -> None:
        """Used by whatever can use one."""
        name, table, checked, index, view = (self.name() for _ in range(5))
        call = self.q(name)
        self.add(
            f"CREATE FUNCTION {call}(a integer, b integer DEFAULT 1) RETURNS integer LANGUAGE sql IMMUTABLE RETURN a + b"
        )
        self.add(
            f"CREATE TABLE {self.q(table)} (a integer DEFAULT {call}(1), g integer GENERATED ALWAYS AS ({call}(a)) STORED, "
            f"CONSTRAINT {ident(checked)} CHECK ({call}(a, 2) > 0))"
        )
        self.add(f"CREATE INDEX {ident(index)} ON {self.q(table)} ({call}(a, 3)) WHERE {call}(g) > 0")
        self.add(f"CREATE VIEW {self.q(view)} AS SELECT {call}(a => t.a, b => 4) AS x, t FROM {self.q(table)} t")
        self.tables.append(Table(table, {"a": "integer"}))
        alter = f"ALTER TABLE {self.q(table)}"
        again = f"ADD CONSTRAINT {ident(checked)} CHECK ({call}(a, 3) > 0)"
        self.defect(f"{alter} DROP CONSTRAINT {ident(checked)}, {again}", checked)
        self.defect(f"{alter} ALTER a SET DEFAULT {call}(2)", f"{table}.a")
        self.defect(f"DROP INDEX {self.q(index)}; CREATE INDEX {ident(index)} ON {self.q(table)} ({call}(a, 4))", index)

    def subpartitioned(self) -> None:
        name, middle, leaf, index = (self.name() for _ in range(4))
        columns = 'a integer NOT NULL, b text COLLATE "C", PRIMARY KEY (a, b)'
        self.add(f"CREATE TABLE {self.q(name)} ({columns}) PARTITION BY RANGE (a)")
        self.add(
            f"CREATE TABLE {self.q(middle)} PARTITION OF {self.q(name)} FOR VALUES FROM (0) TO (10) PARTITION BY LIST (b)"
        )
        self.add(
            f"CREATE TABLE {self.q(leaf)} PARTITION OF {self.q(middle)} (CONSTRAINT own CHECK (a <> 5)) FOR VALUES IN ('x', 'it''s')"
        )
        self.add(f"CREATE INDEX {ident(index)} ON {self.q(name)} (b DESC)")
        self.tables.append(Table(name, {"a": "integer", "b": "text"}, partitioned=True))
        self.defect(f"ALTER TABLE {self.q(middle)} DETACH PARTITION {self.q(leaf)}", leaf)
        self.defect(f"ALTER TABLE {self.q(leaf)} DROP CONSTRAINT own", leaf)
        self.defect(f"ALTER TABLE {self.q(leaf)} SET UNLOGGED", leaf)
        self.defect(f"CREATE INDEX unlooked_for ON {self.q(leaf)} (a)", "unlooked_for")
        self.defect(f"DROP INDEX {self.q(index)}", index)

    def stacked_views(self) -> None:
        table = self.pick(self.tables)
        name, above, recursive = self.name(), self.name(), self.name()
        first = ident(next(iter(table.columns)))
        self.add(f"CREATE VIEW {self.q(name)} AS SELECT {first} AS a FROM {self.q(table.name)} WHERE {first} > 0")
        self.add(f"CREATE VIEW {self.q(above)} AS SELECT a FROM {self.q(name)} WHERE a < 9 WITH LOCAL CHECK OPTION")
        self.add(
            f"CREATE VIEW {self.q(recursive)} AS WITH RECURSIVE r (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM r WHERE n < 3) "
            "SEARCH DEPTH FIRST BY n SET o SELECT n FROM r"
        )
        self.add(f"ALTER VIEW {self.q(above)} ALTER a SET DEFAULT 4")
        self.defect(f"ALTER VIEW {self.q(above)} SET (check_option = cascaded)", above)
        self.defect(f"ALTER VIEW {self.q(above)} ALTER a DROP DEFAULT", above)

    def serial(self) -> None:
        name, key = self.name(), self.name()
        self.add(f"CREATE TABLE {self.q(name)} ({ident(key)} serial PRIMARY KEY, b bigserial)")
        self.tables.append(Table(name, {key: "integer", "b": "bigint"}, keys=[(key,)]))
        self.defect(f"ALTER TABLE {self.q(name)} ALTER {ident(key)} DROP DEFAULT", key)
        sequence = f"pg_get_serial_sequence({literal(self.q(name))}, 'b')"
        self.defect(f"DO $$ BEGIN EXECUTE 'ALTER SEQUENCE ' || {sequence} || ' INCREMENT 2'; END $$", f"{name}.b")
        self.defect(f"DO $$ BEGIN EXECUTE 'ALTER SEQUENCE ' || {sequence} || ' OWNED BY NONE'; END $$", f"{name}")

    def like(self) -> None:
        table = self.pick([table for table in self.tables if not table.partitioned] or self.tables)
        name = self.name()
        self.add(f"CREATE TABLE {self.q(name)} (LIKE {self.q(table.name)} INCLUDING ALL, more integer)")
        self.defect(f"ALTER TABLE {self.q(name)} DROP more", "more")

    def storage(self) -> None:
        name = self.name()
        self.add(f"CREATE TABLE {self.q(name)} (a text, b text, c text) WITH (toast.autovacuum_enabled = off)")
        self.add(
            f"ALTER TABLE {self.q(name)} ALTER a SET STORAGE EXTERNAL, ALTER b SET STATISTICS 7, ALTER c SET (n_distinct = 5)"
        )
        self.add(f"ALTER TABLE {self.q(name)} REPLICA IDENTITY FULL")
        self.defect(f"ALTER TABLE {self.q(name)} ALTER a SET STORAGE MAIN", f"{name}.a")
        self.defect(f"ALTER TABLE {self.q(name)} ALTER b SET STORAGE PLAIN", f"{name}.b")
        self.defect(f"ALTER TABLE {self.q(name)} REPLICA IDENTITY DEFAULT", name)
        self.defect(f"ALTER TABLE {self.q(name)} RESET (toast.autovacuum_enabled)", name)

    def elsewhere(self) -> None:
        """Add objects in a schema that is not covered, and refer to them from the one that is."""
        other, table, function, view = "else where", self.name(), self.name(), self.name()
        self.add(f"CREATE SCHEMA IF NOT EXISTS {ident(other)}")
        self.add(f"CREATE TYPE {ident(other)}.{ident(table)} AS ENUM ('a')")
        self.add(
            f"CREATE TABLE {ident(other)}.{ident(view)} (id integer PRIMARY KEY, kind {ident(other)}.{ident(table)})"
        )
        self.add(
            f"CREATE FUNCTION {ident(other)}.{ident(function)}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
        )
        self.add(
            f"CREATE TABLE {self.q(table)} (a integer CONSTRAINT away REFERENCES {ident(other)}.{ident(view)} ON DELETE CASCADE, "
            f"b {ident(other)}.{ident(table)} DEFAULT 'a', c {ident(other)}.{ident(table)}[])"
        )
        self.add(
            f"CREATE TRIGGER away BEFORE INSERT ON {self.q(table)} FOR EACH ROW EXECUTE FUNCTION {ident(other)}.{ident(function)}()"
        )
        self.add(f"CREATE VIEW {self.q(view)} AS SELECT * FROM {ident(other)}.{ident(view)}")
        self.tables.append(Table(table, {"a": "integer"}))
        self.defect(f"ALTER TABLE {self.q(table)} DROP CONSTRAINT away", "away")
        self.defect(f"ALTER TABLE {self.q(table)} ALTER b DROP DEFAULT", f"{table}.b")

    def temporal(self) -> None:
        """Add the new features of PostgreSQL 18: keys over a time, named NOT NULL."""
        if self.major < 18:
            return
        name, key = self.name(), self.name()
        self.add(
            f"CREATE TABLE {self.q(name)} (id int4range, valid tstzrange, n integer CONSTRAINT {ident(key)} NOT NULL NO INHERIT, "
            f"PRIMARY KEY (id, valid WITHOUT OVERLAPS))"
        )
        self.defect(f"ALTER TABLE {self.q(name)} DROP CONSTRAINT {ident(key)}", key)

    def rare(self, kind: str) -> None:
        names = [self.name() for _ in range(6)]
        made, defects = rare_ddl.KINDS[kind].filled(self.schema, names)
        self.sql += made
        self.defects += defects

    def odds_and_ends(self) -> None:
        name = self.name()
        operator = "===" + "=" * sum("CREATE OPERATOR" in statement for statement in self.sql)
        statement, defect = self.pick(
            (
                (
                    f"CREATE FUNCTION {self.q(name)}(a integer) RETURNS TABLE (x integer, \"y z\" text) LANGUAGE sql ROWS 5 AS 'SELECT 1, NULL'",
                    f"ALTER FUNCTION {self.q(name)}(integer) ROWS 6",
                ),
                (
                    f"CREATE FUNCTION {self.q(name)}(VARIADIC a text[] DEFAULT '{{}}') RETURNS SETOF record LANGUAGE plpgsql AS 'BEGIN END'",
                    f"ALTER FUNCTION {self.q(name)}(text[]) COST 9",
                ),
                (
                    f"CREATE COLLATION {self.q(name)} (provider = libc, locale = 'C')",
                    f"DROP COLLATION {self.q(name)}",
                ),
                (
                    f"CREATE FUNCTION {self.q(name)}(integer, integer) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN $1 = $2 * 2; "
                    f"CREATE OPERATOR {ident(self.schema)}.{operator} (LEFTARG = integer, RIGHTARG = integer, FUNCTION = {self.q(name)})",
                    f"DROP FUNCTION {self.q(name)} CASCADE",
                ),
                (
                    f"ALTER DEFAULT PRIVILEGES IN SCHEMA {ident(self.schema)} GRANT SELECT ON TABLES TO PUBLIC; "
                    f"CREATE TABLE {self.q(name)} (a integer)",
                    f"REVOKE SELECT ON {self.q(name)} FROM PUBLIC",
                ),
                (
                    f"CREATE FUNCTION {self.q(name)}(a anyelement, b anyarray) RETURNS anyelement LANGUAGE sql AS 'SELECT a'",
                    f"ALTER FUNCTION {self.q(name)}(anyelement, anyarray) STABLE",
                ),
                (
                    f"CREATE TABLE {self.q(name)} (a integer, b integer); "
                    f"CREATE STATISTICS {self.q(name + 's')} (mcv, dependencies) ON (a + b), a, b FROM {self.q(name)}",
                    f"DROP STATISTICS {self.q(name + 's')}",
                ),
            )
        )
        self.add(statement)
        self.defect(defect, name)

    # --- what databases of other people have -----------------------------------------------------------------------------

    def foreign_table(self) -> None:
        wrapper, server, name, part = self.name(), self.name(), self.name(), self.name()
        self.add(f"DROP FOREIGN DATA WRAPPER IF EXISTS {ident(wrapper)} CASCADE")
        self.add(f"DROP SERVER IF EXISTS {ident(server)} CASCADE")
        self.add(f"CREATE FOREIGN DATA WRAPPER {ident(wrapper)} OPTIONS (a 'b')")
        self.add(
            f"CREATE SERVER {ident(server)} {self.pick(('', 'TYPE ' + literal(self.pick(TEXTS))))} VERSION '1' "
            f"FOREIGN DATA WRAPPER {ident(wrapper)} OPTIONS (host 'it''s', \"Odd Name\" '')"
        )
        self.add(f"CREATE USER MAPPING FOR PUBLIC SERVER {ident(server)} OPTIONS (user_name 'u', password 'p')")
        self.add(f"CREATE FOREIGN TABLE {self.q(name)} ({ident(part)} integer OPTIONS (c 'd')) SERVER {ident(server)}")
        self.defect(f"ALTER SERVER {ident(server)} OPTIONS (SET host 'other')", server)
        self.defect(f"ALTER SERVER {ident(server)} VERSION '2'", server)
        self.defect(f"ALTER FOREIGN DATA WRAPPER {ident(wrapper)} OPTIONS (DROP a)", wrapper)
        self.defect(f"GRANT USAGE ON FOREIGN SERVER {ident(server)} TO PUBLIC", server)
        self.defect(f"ALTER USER MAPPING FOR PUBLIC SERVER {ident(server)} OPTIONS (SET user_name 'v')", server)
        self.defect(f"COMMENT ON SERVER {ident(server)} IS 'changed'", server)
        self.defect(f"ALTER FOREIGN TABLE {self.q(name)} ALTER {ident(part)} OPTIONS (SET c 'e')", part)
        self.defect(f"ALTER FOREIGN TABLE {self.q(name)} RENAME TO renamed", name)

    def attached_index(self) -> None:
        name, child, key, index, attached = (self.name() for _ in range(5))
        self.add(
            f"CREATE TABLE {self.q(name)} ({ident(key)} integer PRIMARY KEY, b text) PARTITION BY HASH ({ident(key)})"
        )
        self.add(f"CREATE TABLE {self.q(child)} PARTITION OF {self.q(name)} FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
        self.add(f"CREATE INDEX {ident(index)} ON ONLY {self.q(name)} (b)")
        self.add(f"CREATE INDEX {ident(attached)} ON {self.q(child)} (b) WITH (fillfactor = 71)")
        self.add(f"ALTER INDEX {self.q(index)} ATTACH PARTITION {self.q(attached)}")
        self.defect(f"ALTER INDEX {self.q(attached)} SET (fillfactor = 72)", attached)
        self.defect(f"ALTER INDEX {self.q(attached)} RENAME TO renamed", attached)
        self.defect(f"COMMENT ON INDEX {self.q(attached)} IS 'changed'", attached)
        self.defect(f"DROP INDEX {self.q(index)}", index)
        self.defect(f"ALTER TABLE {self.q(name)} RENAME {ident(key)} TO renamed", key)

    def two_sequences(self) -> None:
        name, key, other = self.name(), self.name(), self.name()
        self.add(f"CREATE TABLE {self.q(name)} ({ident(key)} serial, b integer)")
        self.add(
            f"ALTER TABLE {self.q(name)} ALTER {ident(key)} DROP DEFAULT, "
            f"ALTER {ident(key)} ADD GENERATED BY DEFAULT AS IDENTITY"
        )
        self.add(f"CREATE SEQUENCE {self.q(other)} OWNED BY {self.q(name)}.b")
        self.defect(f"ALTER SEQUENCE {self.q(other)} OWNED BY NONE", f"{name}.b")
        self.defect(f"ALTER SEQUENCE {self.q(other)} OWNED BY {self.q(name)}.{ident(key)}", f"{name}.b")
        self.defect(f"ALTER TABLE {self.q(name)} ALTER {ident(key)} SET INCREMENT 2", f"{name}.{key}")

    def kept_columns(self) -> None:
        name, part = self.name(), self.name()
        self.add(f"CREATE MATERIALIZED VIEW {self.q(name)} AS SELECT 'x'::text AS {ident(part)}, 'y'::text AS b")
        self.add(
            f"ALTER MATERIALIZED VIEW {self.q(name)} ALTER {ident(part)} SET STORAGE EXTERNAL, ALTER b SET COMPRESSION pglz"
        )
        self.defect(f"ALTER MATERIALIZED VIEW {self.q(name)} ALTER {ident(part)} SET STORAGE MAIN", part)
        self.defect(f"ALTER MATERIALIZED VIEW {self.q(name)} ALTER b SET COMPRESSION default", f"{name}.b")
        self.defect(f"ALTER MATERIALIZED VIEW {self.q(name)} RENAME TO renamed", name)

    def overloaded(self) -> None:
        """A function that others use and that has namesakes; and one without a body."""
        name, aggregate, empty = self.name(), self.name(), self.name()
        self.add(f"CREATE FUNCTION {self.q(name)}(integer, integer) RETURNS integer LANGUAGE sql AS 'SELECT $1'")
        self.add(f"CREATE AGGREGATE {self.q(aggregate)}(integer) (SFUNC = {self.q(name)}, STYPE = integer)")
        if self.maybe():
            self.add(f"CREATE FUNCTION {self.q(name)}(text, text) RETURNS text LANGUAGE sql AS 'SELECT $1'")
        self.add(f"CREATE FUNCTION {self.q(empty)}() RETURNS void LANGUAGE sql AS ''")
        self.defect(f"CREATE FUNCTION {self.q(name)}(date) RETURNS text LANGUAGE sql AS 'SELECT NULL'", name)
        self.defect(f"CREATE OR REPLACE FUNCTION {self.q(empty)}() RETURNS void LANGUAGE sql AS 'SELECT'", empty)

    def late_column(self) -> None:
        """A column that a parent got after its child had one of its own."""
        parent, child, own, late = (self.name() for _ in range(4))
        self.add(f"CREATE TABLE {self.q(parent)} (a integer)")
        self.add(f"CREATE TABLE {self.q(child)} ({ident(own)} text) INHERITS ({self.q(parent)})")
        self.add(f"ALTER TABLE {self.q(parent)} ADD {ident(late)} date")
        self.defect(f"ALTER TABLE {self.q(child)} RENAME {ident(own)} TO renamed", own)
        self.defect(f"ALTER TABLE {self.q(parent)} RENAME {ident(late)} TO renamed", late)
        self.defect(f"ALTER TABLE {self.q(parent)} RENAME TO renamed", parent)

    def named_not_null(self) -> None:
        if self.major < 18:
            return
        name, key = self.name(), self.name()
        self.add(f"CREATE TABLE {self.q(name)} (a integer CONSTRAINT {ident(key)} NOT NULL, b text NOT NULL)")
        self.defect(f"ALTER TABLE {self.q(name)} RENAME CONSTRAINT {ident(key)} TO renamed", f"{name}.a")
        self.defect(f"COMMENT ON CONSTRAINT {ident(key)} ON {self.q(name)} IS 'changed'", f"{name}.a")

    def base_type(self) -> None:
        name, read, written = self.name(), self.name(), self.name()
        self.add(f"CREATE TYPE {self.q(name)}")
        self.add(
            f"CREATE FUNCTION {self.q(read)}(cstring) RETURNS {self.q(name)} LANGUAGE internal IMMUTABLE STRICT AS 'textin'"
        )
        self.add(
            f"CREATE FUNCTION {self.q(written)}({self.q(name)}) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout'"
        )
        self.add(
            f"CREATE TYPE {self.q(name)} (INPUT = {self.q(read)}, OUTPUT = {self.q(written)}, STORAGE = main, DELIMITER = ';')"
        )
        self.defect(f"ALTER TYPE {self.q(name)} SET (STORAGE = extended)", name)
        self.commentable("TYPE", name)

    def collation_of_parts(self) -> None:
        name = self.name()
        self.add(f"CREATE COLLATION {self.q(name)} (PROVIDER = libc, LC_COLLATE = 'C', LC_CTYPE = 'POSIX')")
        again = f"CREATE COLLATION {self.q(name)} (PROVIDER = libc, LC_COLLATE = 'C', LC_CTYPE = 'C')"
        self.defect(f"DROP COLLATION {self.q(name)}; {again}", name)

    def dropped_column(self) -> None:
        name, gone = self.name(), self.name()
        self.add(f"CREATE TABLE {self.q(name)} (a integer, {ident(gone)} text)")
        self.add(f"GRANT SELECT ({ident(gone)}), UPDATE (a) ON {self.q(name)} TO PUBLIC")
        self.add(f"ALTER TABLE {self.q(name)} DROP {ident(gone)}")
        self.defect(f"REVOKE UPDATE (a) ON {self.q(name)} FROM PUBLIC", f"{name}.a")

    def text_search(self) -> None:
        template, words, name = self.name(), self.name(), self.name()
        self.add(f"CREATE TEXT SEARCH TEMPLATE {self.q(template)} (LEXIZE = dsimple_lexize, INIT = dsimple_init)")
        self.add(f"CREATE TEXT SEARCH DICTIONARY {self.q(words)} (TEMPLATE = {self.q(template)}, ACCEPT = false)")
        self.add(f'CREATE TEXT SEARCH CONFIGURATION {self.q(name)} (PARSER = "default")')
        self.add(
            f"ALTER TEXT SEARCH CONFIGURATION {self.q(name)} ADD MAPPING FOR asciiword WITH {self.q(words)}, simple"
        )
        self.defect(f"ALTER TEXT SEARCH CONFIGURATION {self.q(name)} DROP MAPPING FOR asciiword", name)
        self.defect(f"ALTER TEXT SEARCH DICTIONARY {self.q(words)} (ACCEPT = true)", words)
        self.defect(f"ALTER TEXT SEARCH DICTIONARY {self.q(words)} RENAME TO renamed", words)
        self.defect(f"DROP TEXT SEARCH TEMPLATE {self.q(template)} CASCADE", template)
        self.commentable("TEXT SEARCH DICTIONARY", words)

    def operator_class(self) -> None:
        name = self.name()
        operators = ", ".join(f"OPERATOR {at} {word}" for at, word in enumerate(("<", "<=", "=", ">=", ">"), 1))
        self.add(
            f"CREATE OPERATOR CLASS {self.q(name)} FOR TYPE integer USING btree AS {operators}, "
            "FUNCTION 1 btint4cmp(integer, integer)"
        )
        self.defect(f"ALTER OPERATOR CLASS {self.q(name)} USING btree RENAME TO renamed", name)
        self.defect(f"DROP OPERATOR FAMILY {self.q(name)} USING btree CASCADE", name)
        self.defect(f"COMMENT ON OPERATOR CLASS {self.q(name)} USING btree IS 'changed'", name)

    def conversion(self) -> None:
        name = self.name()
        self.add(f"CREATE CONVERSION {self.q(name)} FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8")
        self.defect(f"ALTER CONVERSION {self.q(name)} RENAME TO renamed", name)
        self.defect(f"DROP CONVERSION {self.q(name)}", name)

    def cast(self) -> None:
        name = self.name()
        self.add(f"CREATE TYPE {self.q(name)} AS (a integer)")
        self.add(f"CREATE CAST (text AS {self.q(name)}) WITH INOUT AS ASSIGNMENT")
        self.defect(f"DROP CAST (text AS {self.q(name)})", name)
        self.defect(f"COMMENT ON CAST (text AS {self.q(name)}) IS 'changed'", name)

    def foreign_partition(self) -> None:
        wrapper, server, name, part, own = (self.name() for _ in range(5))
        self.add(f"DROP FOREIGN DATA WRAPPER IF EXISTS {ident(wrapper)} CASCADE")
        self.add(f"DROP SERVER IF EXISTS {ident(server)} CASCADE")
        self.add(f"CREATE FOREIGN DATA WRAPPER {ident(wrapper)}")
        self.add(f"CREATE SERVER {ident(server)} FOREIGN DATA WRAPPER {ident(wrapper)}")
        self.add(
            f"CREATE TABLE {self.q(name)} (a integer CONSTRAINT positive CHECK (a > 0), b text) PARTITION BY RANGE (a)"
        )
        self.add(
            f"CREATE FOREIGN TABLE {self.q(part)} PARTITION OF {self.q(name)} FOR VALUES FROM (1) TO (5) SERVER {ident(server)}"
        )
        self.add(f"CREATE TABLE {self.q(own)} (b text, a integer, CONSTRAINT positive CHECK (a > 0))")
        self.add(f"ALTER TABLE {self.q(name)} ATTACH PARTITION {self.q(own)} DEFAULT")
        self.defect(f"DROP FOREIGN TABLE {self.q(part)}", part)
        self.defect(f"DROP TABLE {self.q(own)}", own)
        self.defect(f"DROP TABLE {self.q(name)}", name)
        self.defect(f"ALTER TABLE {self.q(name)} ADD unlooked_for integer", "unlooked_for")
        self.defect(f"ALTER TABLE {self.q(name)} ALTER b SET NOT NULL", f"{name}.b")

    def rights_on_sequences(self) -> None:
        name, key, other = self.name(), self.name(), self.name()
        self.add(
            f"CREATE TABLE {self.q(name)} ({ident(key)} serial, {ident(other)} integer GENERATED ALWAYS AS IDENTITY)"
        )
        for column in (key, other):
            sequence = f"pg_get_serial_sequence({literal(self.q(name))}, {literal(column)})"
            given, taken, more = (
                f"DO $do$ BEGIN EXECUTE format('{verb} ON SEQUENCE %s {way} PUBLIC', {sequence}); END $do$"
                for verb, way in (("GRANT USAGE", "TO"), ("REVOKE USAGE", "FROM"), ("GRANT UPDATE", "TO"))
            )
            self.add(given)
            self.defect(taken, f"{name}.{column}")
            self.defect(more, f"{name}.{column}")

    def shell(self) -> None:
        """A type that is only a shell, and a function that takes it."""
        name, reader = self.name(), self.name()
        self.add(f"CREATE TYPE {self.q(name)}")
        self.add(f"CREATE FUNCTION {self.q(reader)}({self.q(name)}) RETURNS cstring LANGUAGE internal AS 'textout'")
        self.defect(f"DROP FUNCTION {self.q(reader)}", reader)

    def paired_operators(self) -> None:
        """Add two operators that negate each other, declared by the first one only, and an aggregate with more
        declarations than functions.
        """
        name = self.name()
        schema = ident(self.schema)
        one, other = (f"<{sign}{self._count:b}>".replace("0", "~").replace("1", "^") for sign in "@#")
        sides = "LEFTARG = integer, RIGHTARG = integer, FUNCTION = int4ne"
        self.add(f"CREATE OPERATOR {schema}.{one} ({sides}, NEGATOR = OPERATOR({schema}.{other}))")
        self.add(f"CREATE OPERATOR {schema}.{other} ({sides})")
        self.add(
            f"CREATE AGGREGATE {self.q(name)}(integer) "
            "(SFUNC = int4pl, STYPE = integer, FINALFUNC_MODIFY = SHAREABLE, SORTOP = <)"
        )
        self.defect(f"DROP OPERATOR {schema}.{other} (integer, integer)", other)
        self.defect(f"DROP AGGREGATE {self.q(name)}(integer)", name)

    def renamed_sequence(self) -> None:
        name, key, sequence = self.name(), self.name(), self.name()
        self.add(f"CREATE TABLE {self.q(name)} ({ident(key)} serial)")
        self.add(
            f"DO $do$ BEGIN EXECUTE format('ALTER SEQUENCE %s RENAME TO %I', "
            f"pg_get_serial_sequence({literal(self.q(name))}, {literal(key)}), {literal(sequence)}); END $do$"
        )
        self.defect(f"ALTER SEQUENCE {self.q(sequence)} RENAME TO renamed", f"{name}.{key}")
        self.defect(f"DROP SEQUENCE {self.q(sequence)} CASCADE", f"{name}.{key}")

    # --- rights and comments -----------------------------------------------------------------------------------------

    def grantable(self, kind: str, name: str, right: str) -> None:
        self.defect(
            f"GRANT {right} ON {kind} {self.q(name)} TO PUBLIC WITH GRANT OPTION".removesuffix(" WITH GRANT OPTION"),
            name,
        )

    def commentable(self, kind: str, name: str) -> None:
        self.defect(f"COMMENT ON {kind} {self.q(name)} IS 'changed'", name)

    def grant(self) -> None:
        table = self.pick(self.tables)
        what = self.pick(("INSERT, UPDATE", f"UPDATE ({ident(next(iter(table.columns)))})", "DELETE, TRIGGER"))
        self.add(f"GRANT {what} ON {self.q(table.name)} TO PUBLIC")
        self.defect(f"REVOKE {what} ON {self.q(table.name)} FROM PUBLIC", table.name)

    def comment(self) -> None:
        table = self.pick(self.tables)
        column = next(iter(table.columns))
        text = literal(self.pick(TEXTS))
        self.add(
            self.pick(
                (
                    f"COMMENT ON TABLE {self.q(table.name)} IS {text}",
                    f"COMMENT ON COLUMN {self.q(table.name)}.{ident(column)} IS {text}",
                )
            )
        )


@st.composite
def worlds(draw: Draw[object], major: int) -> World:
    return World(draw, major)
