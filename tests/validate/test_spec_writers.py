"""Test the files that are made from a spec: a JSON Schema for editors, a reference for people, pgTAP tests."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import tap
from conftest import Database, pgtap_script
from pgvigil import project
from pgvigil.errors import UsageError
from pgvigil.migration import files, schema_reference
from pgvigil.validate import dump_spec, load_declaration, load_spec
from pgvigil.validate.export import markdown, pgtap
from pgvigil.validate.spec import json_schema

pytestmark = pytest.mark.client_side

# --- JSON Schema -----------------------------------------------------------------------------------------------------

SCHEMA = json.loads(json_schema.generate())
CHECKED = {"type", "enum", "anyOf", "$ref", "properties", "required", "additionalProperties", "items"}
SAID = {"$schema", "$comment", "$defs", "title", "description", "default"}
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


def faults(value: Any, schema: dict[str, Any], at: str = "") -> Iterator[str]:
    """Yield the errors that a validator of JSON Schema (draft 2020-12) would report, for the keywords used here."""
    assert not schema.keys() - CHECKED - SAID
    if reference_ := schema.get("$ref"):
        yield from faults(value, SCHEMA["$defs"][reference_.rpartition("/")[2]], at)
    if "anyOf" in schema and all(list(faults(value, choice, at)) for choice in schema["anyOf"]):
        yield f"{at}: none of the choices"
    if "enum" in schema and not any(value == choice and type(value) is type(choice) for choice in schema["enum"]):
        yield f"{at}: not among {schema['enum']}"
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(
        isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool)) for name in types
    ):
        yield f"{at}: not {types}"
    elif isinstance(value, dict):
        yield from (f"{at}: lacks {key}" for key in schema.get("required", []) if key not in value)
        for key, part in value.items():
            inner = schema.get("properties", {}).get(key, schema.get("additionalProperties", True))
            if inner is False:
                yield f"{at}: unknown key {key}"
            elif inner is not True:
                yield from faults(part, inner, f"{at}/{key}")
    elif isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            yield from faults(item, schema["items"], f"{at}/{number}")


class Words(yaml.SafeLoader):
    """A loader that reads YAML 1.2 as editors do: a date is a text."""


Words.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


OWN = yaml.load(project.SPEC.read_text(), Loader=Words)  # noqa: S506 - a SafeLoader


def places(value: Any, schema: dict[str, Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield a name for each kind of entry of our own spec, with the keys that lead to it."""
    if reference_ := schema.get("$ref"):
        yield from places(value, SCHEMA["$defs"][reference_.rpartition("/")[2]] | {"title": reference_}, path)
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        named = schema.get("properties", {}).get(key) if isinstance(value, dict) else None
        inner = named or schema.get("additionalProperties") or schema.get("items") or {}
        yield f"{schema.get('title')}.{key if named else '*'}", (*path, key)
        yield from places(part, inner, (*path, key))


FIRST = dict(reversed(list(places(OWN, SCHEMA))))


def reduced(value: Any, kept: list[tuple[Any, ...]]) -> Any:
    """Return `value` with only those entries of its tables, views, … that are on one of the paths, and everything but
    mappings.
    """
    if not isinstance(value, dict):
        return value
    return {
        key: reduced(part, [way[1:] for way in kept if way[:1] == (key,)])
        for key, part in value.items()
        if not isinstance(part, dict) or any(way[:1] == (key,) for way in kept)
    }


SMALL = reduced(OWN, list(FIRST.values()))  # a case takes a tenth of the time
BAD = {
    "unknown key": {"no such key": 1},
    "nothing": None,
    "list": [[]],
    "mapping": {"a": {"b": []}},
    "text": "no such word",
}


def test_schema_accepts_our_own_spec() -> None:
    assert list(faults(OWN, SCHEMA)) == []


def test_the_spec_that_is_spoilt_has_every_kind_of_entry_and_no_fault() -> None:
    assert list(faults(SMALL, SCHEMA)) == []
    assert dict(places(SMALL, SCHEMA)).keys() == FIRST.keys()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", FIRST)
def test_schema_refuses_keys_and_types_where_the_loader_does(kind: str, bad: str, tmp_path: Path) -> None:
    whole = copy.deepcopy(SMALL)
    *way, last = FIRST[kind]
    holder = whole
    for key in way:
        holder = holder[key]
    if bad == "unknown key" and isinstance(holder[last], dict):
        holder[last] = holder[last] | BAD[bad]
    else:
        holder[last] = BAD[bad]
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(whole))
    try:
        load_spec(path)
    except UsageError as error:
        # What entries have to do with each other is not a matter of keys and types.
        refused = re.search(r"unknown key|must be|lacks ", error.message) is not None
    else:
        refused = False
    assert bool(list(faults(whole, SCHEMA))) == refused


def test_schema_says_what_every_key_means() -> None:
    silent = [
        f"{name}.{key}"
        for name, cls in {"": SCHEMA, **SCHEMA["$defs"]}.items()
        for key, value in cls.get("properties", {}).items()
        if not value.get("description")
    ]
    assert silent == []


def test_spec_names_its_schema_for_editors() -> None:
    first = project.SPEC.read_text().partition("\n")[0]
    assert first == f"# yaml-language-server: $schema={project.SPEC_SCHEMA.name}"
    assert project.SPEC_SCHEMA.parent == project.SPEC.parent


@pytest.mark.parametrize(("action", "path"), [("schema", project.SPEC_SCHEMA), ("docs", project.REFERENCE)])
def test_generated_files_are_current(call: Any, action: str, path: Path) -> None:
    done = call("pgvigil", "spec", action)
    assert done.returncode == 0
    assert done.stdout == path.read_text()


def test_offline_validation_tells_a_generated_file_that_is_not_current(run: Any, project_copy: Path) -> None:
    schema = project_copy / "scripts" / "schema-spec.schema.json"
    schema.write_text(schema.read_text().replace('"type": "object"', '"type": "array"', 1))
    (project_copy / "docs").mkdir()
    done = run(project_copy / "scripts" / "validate-schema.py", "--offline")
    assert done.returncode == 1
    assert (
        "schema-spec.schema.json is not what the spec's keys make: write it again with `pgvigil spec schema --write`"
        in done.stdout
    )
    assert "reference.md is missing: write it again with `pgvigil spec docs --write`" in done.stdout


# --- reference -------------------------------------------------------------------------------------------------------


def example(folder: Path, text: str) -> Path:
    path = folder / "example.yaml"
    path.write_text(text)
    return path


STRANGE = r'''
spec: 1
schemas: ["{schema}"]
complete: true
tables:
  '"Odd | table"':
    comment: "a *comment* with <b>, `code`,\nand a | bar"
    columns:
      '"a ""b"""': {type: integer, nullable: false, default: "1 | 2"}
      plain: {type: 'timestamp with time zone', generated: "now()"}
    constraints:
      odd_pkey: {definition: 'PRIMARY KEY ("a ""b""")'}
      odd_fkey: {definition: 'FOREIGN KEY (plain) REFERENCES "Odd | table"("a ""b""")'}
'''


def test_reference_survives_odd_names(tmp_path: Path) -> None:
    page = markdown.page(load_declaration(example(tmp_path, STRANGE)), {})
    assert '### `"Odd \\| table"`\n\na \\*comment\\* with \\<b\\>, \\`code\\`, and a \\| bar\n' in page
    assert '| `"a ""b"""` | `integer`, not null | `1 \\| 2` |' in page
    assert "| `plain` | `timestamptz` | generated: `now()` |" in page
    assert '    "\'Odd | table\'" |o--o{ "\'Odd | table\'" : "plain"' in page
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in page.splitlines() if line.startswith('| `"a')}
    assert widths == {4}


def test_reference_draws_foreign_keys() -> None:
    page = project.REFERENCE.read_text()
    assert '    "sessions" ||--o{ "context_history" : "session_id"\n' in page
    assert '    "context_history" {\n        uuid id PK\n        uuid session_id UK, FK\n' in page


def test_reference_names_everything_that_is_declared() -> None:
    page = project.REFERENCE.read_text()
    spec = load_spec(project.SPEC)
    for name, table in spec.tables.items():
        assert f"### `{name}`\n" in page
        for key in [*table.columns, *table.constraints, *table.indexes, *table.triggers]:
            assert f"\n| `{key}` |" in page, key
    assert page.count("\n### `") == len(spec.tables) + len(spec.views) + len(spec.functions)


def test_comments_of_the_migrations_are_those_of_the_database(fresh: Any) -> None:
    """The page shows the same text as psql."""
    migrations = files.load(project.MIGRATIONS)
    ledger = (project.MIGRATIONS / "ledger.sql").read_text()
    read = schema_reference.comments([ledger, *(migration.script for migration in migrations)])
    found = dict(
        fresh.execute(
            r"""
            SELECT i.type || ' ' || regexp_replace(i.identity, '(public|pg_catalog)\.', '', 'g'), d.description
            FROM pg_description d CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i
            WHERE i.schema IN ('public', 'pgvigil', 'instrumentation') AND i.type IN ('table', 'view', 'function', 'procedure')
              AND i.identity !~ '_p[0-9]+$'
            """
        )
    )
    ours = {ref: text for ref, text in read.items() if ref.kind in ("table", "view", "function", "procedure")}
    assert {ref.path.replace(", ", ","): text for ref, text in ours.items()} == found


def test_reference_takes_its_comments_from_a_database(fresh: Any, call: Any) -> None:
    fresh.execute("COMMENT ON TABLE sessions IS 'changed over there'")
    done = call("pgvigil", "spec", "docs", "--database-url", fresh.url)
    assert done.returncode == 0
    assert "### `sessions`\n\nchanged over there\n" in done.stdout


def test_reference_of_a_database_is_not_written_over_the_project_s(call: Any) -> None:
    done = call("pgvigil", "spec", "docs", "--write", "--database-url", "postgresql://nobody@127.0.0.1:1/x")
    assert done.returncode == 2
    assert "from its files alone" in done.stderr


# --- pgTAP -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tested(fresh: Database) -> Database:
    """A new install on a server with pgTAP."""
    if pgtap_script() is None:
        refuse = pytest.fail if os.environ.get("REQUIRE_PGTAP") else pytest.skip
        refuse("pgTAP is not here: apt-get install postgresql-15-pgtap, or name its pgtap--X.Y.Z.sql in PGTAP_SQL")
    return fresh


def failed(database: Database, script: str) -> list[str]:
    with database.connect() as connection:
        found = tap.run(connection, script)
    assert found.problems == []
    assert len(found.assertions) > 100
    return [assertion.description for assertion in found.assertions if not assertion.ok]


@pytest.fixture(scope="module")
def tests() -> str:
    return pgtap.script(load_declaration(project.SPEC), "public")


@pytest.mark.slow
def test_written_tests_pass_on_a_database_that_validates(tested: Any, tests: str) -> None:
    assert failed(tested, tests) == []


@pytest.mark.slow
def test_written_tests_pass_where_checks_are_spelt_anew(tested: Any, tests: str) -> None:
    tested.execute(
        """
        ALTER TABLE performance_logs DROP CONSTRAINT performance_logs_duration_ms_check,
            ADD CONSTRAINT performance_logs_duration_ms_check CHECK ((((duration_ms)) >= (0)::integer));
        ALTER TABLE sessions ALTER created_at SET DEFAULT CURRENT_TIMESTAMP;
        """
    )
    assert failed(tested, tests) == []


DEFECTS = [
    ("DROP TABLE analytics_aggregations", "table analytics_aggregations"),
    ("ALTER TABLE analytics_aggregations SET UNLOGGED", "table analytics_aggregations is logged as declared"),
    ("ALTER TABLE analytics_aggregations ENABLE ROW LEVEL SECURITY", "row security of analytics_aggregations"),
    ("CREATE POLICY p ON analytics_aggregations USING (true)", "policies of table analytics_aggregations"),
    ("ALTER TABLE system_metrics ADD extra integer", "columns of table system_metrics"),
    ("ALTER TABLE system_metrics ALTER metric_name TYPE text", "column system_metrics.metric_name is of type character varying(100)"),
    ("ALTER TABLE system_metrics ALTER labels DROP NOT NULL", "column system_metrics.labels is not null"),
    ("ALTER TABLE system_metrics ALTER labels DROP DEFAULT", "default of column system_metrics.labels"),
    ("ALTER TABLE system_metrics ALTER metric_name SET DEFAULT 'x'", "column system_metrics.metric_name has no default"),
    ("ALTER TABLE pgvigil.displaced_objects ALTER id DROP IDENTITY", "identities, generated columns and collations of table pgvigil.displaced_objects"),
    ("ALTER TABLE system_metrics DROP CONSTRAINT system_metrics_pkey", "constraint system_metrics.system_metrics_pkey"),
    (
        "ALTER TABLE performance_logs DROP CONSTRAINT performance_logs_duration_ms_check,"
        " ADD CONSTRAINT performance_logs_duration_ms_check CHECK (duration_ms > 0)",
        "constraint performance_logs.performance_logs_duration_ms_check",
    ),
    (
        "ALTER TABLE session_lifecycle DROP CONSTRAINT session_lifecycle_session_id_fkey,"
        " ADD CONSTRAINT session_lifecycle_session_id_fkey FOREIGN KEY (session_id) REFERENCES sessions (id)",
        "constraint session_lifecycle.session_lifecycle_session_id_fkey",
    ),
    ("ALTER TABLE performance_logs ADD CONSTRAINT extra CHECK (operation <> '')", "constraints of table performance_logs"),
    ("DROP INDEX idx_sessions_archived_at", "index sessions.idx_sessions_archived_at"),
    (
        "DROP INDEX idx_sessions_archived_at; CREATE INDEX idx_sessions_archived_at ON sessions (archived_at)",
        "definition of index sessions.idx_sessions_archived_at",
    ),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_sessions_archived_at'::regclass",
        "index sessions.idx_sessions_archived_at is valid",
    ),
    ("CREATE INDEX extra ON system_metrics (metric_value)", "indexes of table system_metrics"),
    ('DROP TRIGGER "00_archive_deleted_session" ON sessions', 'trigger sessions."00_archive_deleted_session"'),
    ('ALTER TABLE sessions DISABLE TRIGGER "00_archive_deleted_session"', 'trigger sessions."00_archive_deleted_session" fires as declared'),
    (
        "CREATE OR REPLACE TRIGGER update_sessions_updated_at BEFORE UPDATE ON sessions FOR EACH ROW"
        " WHEN (OLD.status <> 'x') EXECUTE FUNCTION pgvigil.touch_session()",
        "trigger sessions.update_sessions_updated_at has no condition",
    ),
    (
        'CREATE OR REPLACE TRIGGER "00_archive_deleted_session" AFTER DELETE ON sessions FOR EACH ROW'
        " EXECUTE FUNCTION pgvigil.touch_session()",
        'function of trigger sessions."00_archive_deleted_session"',
    ),
    ("DROP VIEW performance_monitoring_view", "view performance_monitoring_view"),
    ("ALTER VIEW performance_monitoring_view RENAME total_calls TO calls", "columns of view performance_monitoring_view"),
    ("DROP FUNCTION pgvigil.actor() CASCADE", "function pgvigil.actor()"),
    ("ALTER FUNCTION pgvigil.actor() VOLATILE", "function pgvigil.actor() is stable"),
    ("ALTER FUNCTION pgvigil.actor() SECURITY DEFINER", "function pgvigil.actor() isnt definer"),
    ("ALTER FUNCTION pgvigil.guard_legal_hold() SECURITY INVOKER", "function pgvigil.guard_legal_hold() is definer"),
    ("ALTER FUNCTION pgvigil.actor() STRICT", "function pgvigil.actor() isnt strict"),
    ("ALTER FUNCTION pgvigil.actor() PARALLEL UNSAFE", "function pgvigil.actor() is parallel safe"),
    ("ALTER FUNCTION pgvigil.guard_legal_hold() RESET search_path", "settings of function pgvigil.guard_legal_hold()"),
    ("DELETE FROM pgvigil.partition_policies WHERE parent_table = 'system_metrics'", "table pgvigil.partition_policies has the row {'parent_table': 'system_metrics'}"),
]  # fmt: skip


FIRST_TEST = "SELECT pg_temp.alone("


def of_them(tests: str, named: str) -> str:
    """The written script with those tests alone that say `named`: all of them take seconds."""
    head, _, rest = re.split(r"(SELECT plan\(\d+\);\n)", tests)
    body, finish, tail = rest.partition("SELECT * FROM finish();")
    chosen = [FIRST_TEST + test for test in body.split("\n" + FIRST_TEST)[1:] if named.replace("'", "''") in test]
    assert chosen, named
    return head + f"SELECT plan({len(chosen)});\n" + "\n".join(chosen) + finish + tail


def with_defect(script: str, defect: str) -> str:
    return script.replace("BEGIN READ WRITE;\n", f"BEGIN READ WRITE;\n{defect};\n", 1)


def test_written_tests_fail_on_a_defect_and_name_it(tested: Any, tests: str, subtests: pytest.Subtests) -> None:
    for defect, named in DEFECTS:
        with subtests.test(msg=defect):
            assert named in run_tests(tested, with_defect(of_them(tests, named), defect))


@pytest.mark.slow
def test_a_defect_that_makes_tests_fail_with_an_error_stops_none_behind_them(tested: Any, tests: str) -> None:
    defect, named = DEFECTS[0]
    assert named in failed(tested, with_defect(tests, defect))


@pytest.mark.slow
def test_written_tests_hold_for_any_schema_name(database: Any, call: Any) -> None:
    if pgtap_script() is None:
        pytest.skip("pgTAP is not here")
    database.execute('CREATE SCHEMA "My App"')
    assert call("pgvigil", "setup", "--database-url", database.url, "--schema", "My App").returncode == 0
    with database.connect() as connection:
        connection.execute("CREATE SCHEMA tap; SET search_path = tap")
        connection.execute(pgtap_script().read_text())  # type: ignore[union-attr]
    done = call("pgvigil", "spec", "tests", "--schema", "My App")
    assert failed(database, done.stdout) == []


# What a database has by initdb, by an older version, or by accident; none of it is anybody's fault.
CLEAN = """
    GRANT ALL ON SCHEMA public TO PUBLIC;
    CREATE TYPE hollow AS ();
    CREATE TYPE to_come;
    CREATE FUNCTION taken(to_come) RETURNS cstring LANGUAGE internal AS 'textout';
    CREATE TABLE a (id int PRIMARY KEY, t text);
    CREATE TABLE b (a int REFERENCES a, n int DEFAULT 3);
    CREATE TRIGGER kept BEFORE UPDATE ON b FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger('a(', E'b\\\\');
    CREATE POLICY few ON b TO pg_monitor;
    CREATE SEQUENCE s;
    CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1';
    CREATE TABLE parted (a int) PARTITION BY LIST (a);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
    CREATE INDEX not_valid ON ONLY parted (a);
    CREATE TABLE pg_class (oid int PRIMARY KEY, n int DEFAULT 1 CHECK (n > 0));
    CREATE FUNCTION now() RETURNS timestamptz LANGUAGE sql AS 'SELECT clock_timestamp()';
    CREATE FUNCTION nothing() RETURNS void LANGUAGE sql AS '';
    CREATE SCHEMA side;
    CREATE COLLATION side.sorted (LOCALE = 'C');
    CREATE TYPE named AS (a text COLLATE side.sorted);
    CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
    CREATE CAST (bigint AS inet) WITH INOUT;
    CREATE STATISTICS paired ON a, n FROM b;
    CREATE TEXT SEARCH DICTIONARY side.words (TEMPLATE = simple);
    CREATE OPERATOR CLASS ops FOR TYPE int USING btree AS OPERATOR 3 =, FUNCTION 1 btint4cmp(int, int);
    COMMENT ON TABLE b IS 'it''s b'; COMMENT ON COLUMN b.a IS 'first'; COMMENT ON FUNCTION twice(int) IS 'doubles';
    COMMENT ON SCHEMA side IS 'beside';
"""


@pytest.fixture
def any_schema(database: Database, tmp_path: Path) -> tuple[Database, str]:
    """A database with pgTAP, and the tests that are written from its dumped spec."""
    script = pgtap_script()
    if script is None:
        refuse = pytest.fail if os.environ.get("REQUIRE_PGTAP") else pytest.skip
        refuse("pgTAP is not here: apt-get install postgresql-15-pgtap, or name its pgtap--X.Y.Z.sql in PGTAP_SQL")
    with database.connect() as connection:
        connection.execute(CLEAN)
        (tmp_path / "spec.yaml").write_text(dump_spec(connection, []))
        connection.execute("CREATE SCHEMA tap; SET search_path = tap")
        connection.execute(script.read_text())  # type: ignore[union-attr]
    return database, pgtap.script(load_declaration(tmp_path / "spec.yaml"), "public")


def run_tests(database: Database, script: str) -> list[str]:
    with database.connect() as connection:
        found = tap.run(connection, script)
    assert found.problems == []
    return [assertion.description for assertion in found.assertions if not assertion.ok]


def test_written_tests_pass_on_any_clean_database(any_schema: tuple[Database, str]) -> None:
    assert run_tests(*any_schema) == []


def test_usual_owner_is_that_of_any_object_but_members_of_extensions(database: Database, tmp_path: Path) -> None:
    script = pgtap_script()
    if script is None:
        pytest.skip("pgTAP is not here")
    with database.connect() as connection:
        connection.execute(
            "CREATE EXTENSION pg_trgm; CREATE COLLATION sorted (LOCALE = 'C'); CREATE TABLE a (id serial)"
        )
        connection.execute("ALTER COLLATION sorted OWNER TO pg_monitor; ALTER TABLE a OWNER TO pg_monitor")
        (tmp_path / "spec.yaml").write_text(dump_spec(connection, []))
        connection.execute("CREATE SCHEMA tap; SET search_path = tap")
        connection.execute(script.read_text())
    written = pgtap.script(load_declaration(tmp_path / "spec.yaml"), "public")
    assert run_tests(database, written) == []
    database.execute("DROP TABLE a")
    assert "owner of collation sorted" not in run_tests(database, written)


def test_written_tests_run_where_the_database_is_read_only_by_default(any_schema: tuple[Database, str]) -> None:
    database, script = any_schema
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    assert run_tests(database, script) == []


def test_written_tests_cover_owners(any_schema: tuple[Database, str]) -> None:
    database, script = any_schema
    database.execute("ALTER TABLE b OWNER TO pg_monitor; ALTER FUNCTION twice(int) OWNER TO pg_monitor")
    assert run_tests(database, script) == ["owner of table b", "owner of function twice(integer)"]


def test_written_tests_cover_declared_comments(any_schema: tuple[Database, str]) -> None:
    database, script = any_schema
    database.execute(
        "COMMENT ON TABLE b IS 'b'; COMMENT ON COLUMN b.a IS NULL; COMMENT ON FUNCTION twice(int) IS ''; COMMENT ON SCHEMA side IS 'x'"
    )
    commented = ("table b", "column b.a", "function twice(integer)", "schema side")
    assert sorted(run_tests(database, script)) == sorted(f"comment on {one}" for one in commented)


def test_written_tests_cover_what_is_in_a_schema_beside_tables(any_schema: tuple[Database, str]) -> None:
    database, script = any_schema
    database.execute(
        """DROP OPERATOR === (int, int); DROP CAST (bigint AS inet); DROP STATISTICS paired; DROP TEXT SEARCH DICTIONARY side.words;
           ALTER OPERATOR CLASS ops USING btree RENAME TO others; ALTER COLLATION side.sorted OWNER TO pg_monitor;
           CREATE OR REPLACE FUNCTION now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz';
           CREATE OR REPLACE FUNCTION nothing() RETURNS void LANGUAGE sql AS 'SELECT'"""
    )
    named = set(run_tests(database, script))
    assert named == {
        *("operator ===(integer, integer)", "owner of operator ===(integer, integer)", "other cast (bigint AS inet)"),
        *(
            "statistics paired",
            "owner of statistics paired",
            "other ts_dict side.words",
            "owner of other ts_dict side.words",
        ),
        *("other opclass ops USING btree", "owner of other opclass ops USING btree", "owner of collation side.sorted"),
        *("body of function public.now()", "body of function nothing()"),
    }


def test_written_tests_cover_arguments_of_triggers_roles_of_policies_and_bounds_of_partitions(
    any_schema: tuple[Database, str],
) -> None:
    database, script = any_schema
    database.execute(
        """DROP TRIGGER kept ON b;
           CREATE TRIGGER kept BEFORE UPDATE ON b FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger('d');
           ALTER POLICY few ON b TO pg_monitor, PUBLIC; ALTER TABLE parted DETACH PARTITION parted_1;
           ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES IN (2)"""
    )
    named = {"arguments of trigger b.kept", "parent and values of table parted_1", "roles of policy b.few"}
    assert set(run_tests(database, script)) == named


def test_missing_table_hides_no_later_test(any_schema: tuple[Database, str]) -> None:
    database, script = any_schema
    database.execute("DROP TABLE a CASCADE; DROP TYPE hollow")
    named = run_tests(database, script.replace("{spec}", "x"))
    assert "table a" in named
    assert "type hollow" in named
    assert [name for name in named if "table b" in name] == ["constraints of table b"]


def test_test_that_ends_in_an_error_is_one_failure(any_schema: tuple[Database, str]) -> None:
    database, script = any_schema
    broken = script.replace(
        "SELECT pg_temp.alone($test$has_table('public', 'a'", "SELECT pg_temp.alone($test$1 / 0, ('public', 'a'", 1
    )
    assert broken != script
    assert run_tests(database, broken) == ["a: a test failed with an error"]


# --- diagrams --------------------------------------------------------------------------------------------------------


def diagrams(declared: Any) -> list[str]:
    return re.findall(r"```mermaid\n(.*?)```", markdown.page(declared, {}), re.DOTALL)


def drawn(diagram: str) -> set[str]:
    return set(re.findall(r'^    "([^"]+)" \{', diagram, re.MULTILINE)) | set(
        re.findall(r'^    "([^"]+)" [|}o]', diagram, re.MULTILINE)
    )


def many(folder: Path, tables: dict[str, list[str]]) -> Any:
    """A spec of tables, each with the tables that it references."""
    written = {
        name: {
            "columns": {"id": {"type": "integer"}} | {f"r{at}": {"type": "integer"} for at in range(len(targets))},
            "constraints": {"pk": {"definition": "PRIMARY KEY (id)"}}
            | {
                f"fk{at}": {"definition": f"FOREIGN KEY (r{at}) REFERENCES {target}(id)"}
                for at, target in enumerate(targets)
            },
        }
        for name, targets in tables.items()
    }
    text = json.dumps({"spec": "1", "complete": True, "schemas": ["{schema}", "other"], "tables": written})
    return load_declaration(example(folder, text))


def test_many_tables_are_drawn_in_diagrams_that_mermaid_takes(tmp_path: Path) -> None:
    tables = {f"t{n}": [f"t{n // 3}"] if n else [] for n in range(130)} | {f"other.x{n}": ["t5"] for n in range(70)}
    made = diagrams(many(tmp_path, tables))
    assert all(len(drawn(diagram)) <= 40 and len(diagram) < 50_000 for diagram in made)
    assert set().union(*map(drawn, made)) == set(tables)
    lines = [line for diagram in made for line in diagram.splitlines() if "--" in line]
    assert len(lines) == sum(map(len, tables.values()))


def test_long_names_do_not_make_a_diagram_too_long(tmp_path: Path) -> None:
    names = [f"{'n' * 55}{n:03}" for n in range(40)]
    tables = dict.fromkeys(names, names[:20])
    assert all(len(diagram) < 50_000 for diagram in diagrams(many(tmp_path, tables)))


def test_partitions_are_not_drawn_as_tables(tmp_path: Path) -> None:
    text = """
spec: 1
schemas: ["{schema}"]
complete: true
tables:
  whole: {columns: {a: {type: integer}}, partition_by: LIST (a)}
  part: {columns: {a: {type: integer, inherited: true}}, partition_of: whole, bound: DEFAULT}
"""
    declared = load_declaration(example(tmp_path, text))
    assert [drawn(diagram) for diagram in diagrams(declared)] == [{"whole"}]
    assert "### `part`" in markdown.page(declared, {})


def test_diagram_takes_any_name(tmp_path: Path) -> None:
    names = ['"a\\b"', '"a""b"', '"a\'b"', '"100%"', '"a\nb"', '"pk"', '"FK-x"', '"µ"', '"x y"', '"back\\|bar"']
    columns = {name: {"type": "integer"} for name in names}
    tables = {
        name: {
            "columns": columns,
            "constraints": {
                "k": {"definition": f"PRIMARY KEY ({', '.join(names)})"},
                "f": {"definition": f"FOREIGN KEY ({name}) REFERENCES {name}({name})"},
            },
        }
        for name in names
    }
    spec = json.dumps({"spec": "1", "complete": True, "schemas": ["{schema}"], "tables": tables})
    declared = load_declaration(example(tmp_path, spec))
    (diagram,) = diagrams(declared)
    # As Mermaid's lexer has them: a name in quotes, and the words of a column.
    entity = r'"[^"%\r\n\v\b\\]+"'
    word = r"[*A-Za-z_\u00C0-\uFFFF][A-Za-z0-9\-_\[\]()\u00C0-\uFFFF*]*"
    for line in diagram.splitlines()[1:]:
        assert re.fullmatch(
            rf'    (?:{entity} \{{|\}}|{entity} [|o]{{2}}--o[|{{] {entity} : "[^"]*")|        {word} {word} (?:PK|FK|UK)(?:, (?:PK|FK|UK))*',
            line,
        ), line
        assert not re.match(r"        \S+ (?:pk|fk|uk)\b", line, re.IGNORECASE)
    assert len(set(re.findall(rf"    ({entity}) \{{", diagram))) == len(names)
    rows = [line for line in markdown.page(declared, {}).splitlines() if line.startswith("| ") and "integer" in line]
    assert {len(re.findall(r"(?<!\\)\|", re.sub(r"\\\\", "", row))) for row in rows} == {3}
