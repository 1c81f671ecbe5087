"""A spec dumped from any database finds nothing in it, and any single change of it."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

import tap
from conftest import PROJECT, _new_database, pgtap_script, servers
from pgvigil import embedded
from pgvigil.validate import Declaration, dump_spec, fix_sql, load_declaration, validate
from pgvigil.validate.catalog import presence, snapshot
from pgvigil.validate.export import pgtap

pytestmark = pytest.mark.oldest_and_newest

DATA = PROJECT / "tests/data"
ROLES = """
DO $$ BEGIN CREATE ROLE strange_role; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE "Strange Role"; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
"""


def fill(conn: psycopg.Connection[Any]) -> None:
    """Make everything strange that the server knows."""
    conn.execute(ROLES.encode())
    for name in (
        "strange",
        "strange_kinds",
        "strange_names",
        *(["strange_18"] if conn.info.server_version >= 180000 else []),
    ):
        for statement in re.split(r";\n(?=[A-Z])", (DATA / f"{name}.sql").read_text()):
            conn.execute(statement.encode())


@pytest.fixture
def strange(database: Any) -> Any:
    """A database with everything strange in it."""
    with database.connect() as conn:
        fill(conn)
    return database


def declared(conn: psycopg.Connection[Any], folder: Path, *, as_json: bool = False) -> Declaration:
    path = folder / f"spec.{'json' if as_json else 'yaml'}"
    path.write_text(dump_spec(conn, [], json=as_json))
    return load_declaration(path)


@pytest.mark.parametrize("as_json", [False, True], ids=["yaml", "json"])
def test_dumped_spec_finds_nothing_in_its_database(strange: Any, tmp_path: Path, as_json: bool) -> None:
    with strange.connect() as conn:
        report = validate(conn, declared(conn, tmp_path, as_json=as_json), "public")
    assert (report.findings, report.notes, report.unchecked) == ((), (), ())
    assert sum(report.seen.values()) == sum(report.compared.values())


def test_dump_is_the_same_each_time(strange: Any) -> None:
    with strange.connect() as conn:
        assert dump_spec(conn, []) == dump_spec(conn, [])


def restore(source: str, into: str) -> None:
    bindir = embedded.binaries()
    if bindir is None:
        pytest.skip("pg_dump and psql come with pgvigil[embedded]")
    dump = subprocess.run([bindir / "pg_dump", source], check=True, capture_output=True)
    subprocess.run([bindir / "psql", "-qX", into], input=dump.stdout, check=True, capture_output=True)


def test_restored_copy_meets_the_dumped_spec(strange: Any, another: Any, tmp_path: Path) -> None:
    restore(strange.url, another.url)
    with strange.connect() as conn:
        spec = declared(conn, tmp_path)
    with another.connect() as conn:
        report = validate(conn, spec, "public")
    assert (report.findings, report.unchecked) == ((), ())


@pytest.mark.client_side
def test_written_tests_pass_on_a_restored_copy(strange: Any, another: Any, tmp_path: Path) -> None:
    script = pgtap_script()
    if script is None:
        refuse = pytest.fail if os.environ.get("REQUIRE_PGTAP") else pytest.skip
        refuse("pgTAP is not here: apt-get install postgresql-15-pgtap, or name its pgtap--X.Y.Z.sql in PGTAP_SQL")
    strange.execute("CREATE TYPE closed AS RANGE (subtype = integer)")
    strange.execute("REVOKE EXECUTE ON FUNCTION closed(integer, integer) FROM PUBLIC")
    with strange.connect() as conn:
        spec = declared(conn, tmp_path)
    restore(strange.url, another.url)
    with another.connect() as conn:
        conn.execute("CREATE SCHEMA tap; SET search_path = tap")
        conn.execute(script.read_text())  # type: ignore[union-attr]
        conn.execute("RESET search_path")
        found = tap.run(conn, pgtap.script(spec, "public"))
    assert found.problems == []
    assert [one.description for one in found.assertions if not one.ok] == []


@pytest.mark.client_side
def test_database_restored_into_the_newest_version_meets_its_old_spec(
    database: Any, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    database.execute(ROLES)
    knows_icu = database.execute("SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu'")
    for major in [major for major in servers() if major < database.server.major]:
        with (
            subtests.test(major=major),
            embedded.Server(servers()[major], in_memory=True) as old,
            _new_database(database.server) as copy,
        ):
            with psycopg.connect(old.dsn("postgres"), autocommit=True) as conn:
                fill(conn)
                conn.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
                if not knows_icu:
                    for (name,) in conn.execute("SELECT collname FROM pg_collation WHERE collname ~ '^ic_'").fetchall():
                        conn.execute(f"DROP COLLATION {name}".encode())
                spec = declared(conn, tmp_path)
            restore(old.dsn("postgres"), copy.url)
            with copy.connect() as conn:
                report = validate(conn, spec, "public")
            assert (report.findings, report.unchecked) == ((), ())


def test_what_a_dump_leaves_out_is_told_with_the_reason(database: Any, another: Any, tmp_path: Path) -> None:
    with database.connect() as conn:
        conn.execute("""
            ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
            CREATE TYPE stretch AS RANGE (subtype = int4);
            CREATE TABLE p (a int); CREATE TABLE c () INHERITS (p); ALTER TABLE c ADD own int; ALTER TABLE p ADD late int;
            CREATE EXTENSION pg_trgm;
            COMMENT ON EXTENSION pg_trgm IS NULL;
            CREATE TABLE full_up (a int NOT NULL); CREATE TABLE hollow () INHERITS (full_up);
            DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 5000', current_database()); END $$""")
        inherits_not_null = conn.info.server_version >= 180000
        if not inherits_not_null:
            conn.execute("ALTER TABLE hollow ALTER a DROP NOT NULL")
        spec = declared(conn, tmp_path)
        assert validate(conn, spec, "public").notes == ()
    restore(database.url, another.url)
    with another.connect() as conn:
        report = validate(conn, spec, "public")
    assert (report.findings, report.unchecked) == ((), ())
    told = {note.object: note.expected for note in report.notes}
    assert "constructors" in told["revocation on function stretch(integer, integer) from PUBLIC"]
    assert "pg_dump writes inherited columns first" in told["table c"]
    assert "--create" in told["setting work_mem"]
    assert "CREATE EXTENSION gives it one" in told["comment on extension pg_trgm"]
    assert inherits_not_null or "takes NULL" in told["column hollow.a"]


@pytest.mark.parametrize(
    "change",
    [
        "DROP SCHEMA public; CREATE SCHEMA public",
        "DROP SCHEMA public; CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO PUBLIC",
        "DROP SCHEMA public; CREATE SCHEMA public AUTHORIZATION strange_role",
        "ALTER SCHEMA public OWNER TO strange_role",
        "ALTER SCHEMA public RENAME TO app; CREATE SCHEMA public",
        "ALTER SCHEMA public RENAME TO app; CREATE TABLE app.t (a integer)",
    ],
)
def test_schema_public_made_anew_or_renamed_is_the_same_after_a_restore(
    change: str, database: Any, another: Any, tmp_path: Path
) -> None:
    with database.connect() as conn:
        if conn.info.server_version < 150000:
            pytest.skip(
                "pg_dump of 15 and later leaves out a right that initdb gives before 15: the difference is real"
            )
        conn.execute(ROLES)
        conn.execute(change.encode())
        spec = declared(conn, tmp_path)
        assert validate(conn, spec, spec.schema).findings == ()
    restore(database.url, another.url)
    with another.connect() as conn:
        assert validate(conn, spec, spec.schema).findings == ()


def test_operator_that_only_another_names_is_a_note_where_a_dump_left_it_out(
    database: Any, another: Any, tmp_path: Path
) -> None:
    with database.connect() as conn:
        conn.execute("""
            CREATE OPERATOR ### (LEFTARG = integer, RIGHTARG = integer, FUNCTION = int4eq, NEGATOR = !##);
            DROP OPERATOR ### (integer, integer)""")
        spec = declared(conn, tmp_path)
        assert validate(conn, spec, "public").findings == ()
    with another.connect() as conn:
        report = validate(conn, spec, "public")
    assert report.findings == ()
    assert "pg_dump leaves out" in next(
        note.expected for note in report.notes if note.object == "operator !##(integer, integer)"
    )


def test_trigger_on_a_table_of_a_schema_that_was_not_dumped_is_no_finding(database: Any, tmp_path: Path) -> None:
    with database.connect() as conn:
        conn.execute("""
            CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.t (x integer); CREATE TABLE b.u (x integer);
            CREATE FUNCTION a.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TRIGGER tr AFTER INSERT ON b.u FOR EACH ROW EXECUTE FUNCTION a.f()""")
        path = tmp_path / "a.yaml"
        path.write_text(dump_spec(conn, ["a"]))
        assert validate(conn, load_declaration(path), "a").findings == ()


def test_every_kind_is_asked_for_where_there_is_one(strange: Any) -> None:
    with strange.connect() as conn:
        conn.execute("""
            CREATE FUNCTION bytes_of(internal) RETURNS internal LANGUAGE internal IMMUTABLE AS 'textin';
            CREATE TRANSFORM FOR integer LANGUAGE sql (FROM SQL WITH FUNCTION bytes_of(internal));
            DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 5000', current_database()); END $$""")
        present = {kind for kind in conn.execute(f"SELECT {presence.PRESENT}").fetchone()[0] if kind}
    assert presence.ASKED - present <= {"member", "named_not_null"}  # members of plpgsql do not count


def test_what_is_not_asked_for_is_not_there(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with database.connect() as conn:
        conn.execute("CREATE TABLE t (a integer PRIMARY KEY); GRANT SELECT ON t TO PUBLIC")
        short = dump_spec(conn, [])
        monkeypatch.setattr(snapshot, "kinds_to_ask_for", lambda *_, **__: presence.ALL)
        assert dump_spec(conn, []) == short


def test_objects_of_the_server_itself_are_asked_for_in_its_schemas(database: Any) -> None:
    with database.connect() as conn:
        document = json.loads(dump_spec(conn, ["information_schema"], json=True))
    assert "sql_features" in document["tables"]
    assert document["types"]["cardinal_number"]["checks"]


def test_invalid_index_is_declared_and_never_asked_for(database: Any, tmp_path: Path) -> None:
    with database.connect() as conn:
        conn.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute("CREATE UNIQUE INDEX CONCURRENTLY once ON t (a)")
        spec = declared(conn, tmp_path)
        report = validate(conn, spec, "public")
        assert report.findings == ()
        assert [(note.kind, note.object, note.fix) for note in report.notes] == [
            ("invalid", "index t.once", "REINDEX INDEX once;")
        ]
        conn.execute("TRUNCATE t; REINDEX INDEX once")
        report = validate(conn, spec, "public")
        assert (report.findings, report.notes) == ((), ())
        conn.execute("DROP INDEX once")
        assert validate(conn, spec, "public").findings == ()


def test_read_only_default_of_the_database_does_not_keep_expressions_from_being_compared(
    database: Any, tmp_path: Path
) -> None:
    with database.connect() as conn:
        conn.execute("CREATE TABLE t (a int)")
        conn.execute("CREATE VIEW v AS SELECT * FROM (SELECT a, a AS b FROM t UNION ALL SELECT a, null FROM t) q")
        spec = declared(conn, tmp_path)
        (text,) = conn.execute("SELECT pg_get_viewdef('v')").fetchone() or ("",)
        conn.execute(f"CREATE OR REPLACE VIEW v AS {text}".encode())
        conn.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on".encode())
    with database.connect() as conn:
        report = validate(conn, spec, "public")
    assert report.unchecked == ()
    assert [finding.object for finding in report.findings] == ["setting default_transaction_read_only"]


def test_secrets_are_not_written_down(strange: Any) -> None:
    strange.execute(f"ALTER DATABASE {strange.name} SET app.jwt_secret = 'do not tell'")
    with strange.connect() as conn:
        text = dump_spec(conn, [])
    assert "never seen" not in text
    assert "do not tell" not in text
    assert "password: (secret)" in text
    assert "app.jwt_secret" in text


def test_options_that_a_role_may_not_read_are_not_taken_for_none(strange: Any, tmp_path: Path) -> None:
    with strange.connect() as conn:
        spec = declared(conn, tmp_path)
        with conn.transaction(force_rollback=True):  # else a second connection would be another role's
            conn.execute("SET LOCAL SESSION AUTHORIZATION strange_role")
            report = validate(conn, spec, "public")
    hidden = 'options of other user_mapping FOR strange_role SERVER "No Where"'
    assert (hidden, "this role may not read them") in [(item.objects, item.reason) for item in report.unchecked]


def test_options_that_could_not_be_dumped_are_not_repaired_away(strange: Any, tmp_path: Path) -> None:
    with strange.connect() as conn:
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL SESSION AUTHORIZATION strange_role")
            spec = declared(conn, tmp_path)
        report = validate(conn, spec, "public")
    assert [finding.fix for finding in report.findings if "user_mapping" in finding.object] == []
    hidden = 'options of other user_mapping FOR strange_role SERVER "No Where"'
    assert (hidden, "the role that dumped the spec may not read them") in [
        (item.objects, item.reason) for item in report.unchecked
    ]


def test_extension_moved_to_a_schema_that_is_not_covered_is_told_by_its_schema(database: Any, tmp_path: Path) -> None:
    with database.connect() as conn:
        available = conn.execute(
            "SELECT quote_ident(name) FROM pg_available_extensions"
            " WHERE name IN ('uuid-ossp', 'pg_trgm', 'citext', 'hstore') ORDER BY name <> 'uuid-ossp'"
        ).fetchone()
        if available is None:
            pytest.skip("no extension that can be moved comes with this server")
        conn.execute("CREATE SCHEMA app; CREATE SCHEMA beside")
        conn.execute(f"CREATE EXTENSION {available[0]} SCHEMA app".encode())
        path = tmp_path / "spec.yaml"
        path.write_text(dump_spec(conn, ["app"]))
        spec = load_declaration(path)
        conn.execute(f"ALTER EXTENSION {available[0]} SET SCHEMA beside".encode())
        report = validate(conn, spec, "app")
        assert [finding.kind for finding in report.findings] == ["different"]
        conn.execute(report.findings[0].fix.encode())
        assert validate(conn, spec, "app").findings == ()


def test_schema_may_have_another_name_where_the_spec_is_used(database: Any, another: Any, tmp_path: Path) -> None:
    ddl = """CREATE TABLE {0}.a (id integer PRIMARY KEY, kind {0}.mood DEFAULT 'ok');
        CREATE VIEW {0}.v AS SELECT id, {0}.twice(id) AS two FROM {0}.a;
        CREATE TABLE {0}.b (a integer REFERENCES {0}.a)"""
    with database.connect() as conn, another.connect() as other:
        for connection, schema in ((conn, "one"), (other, '"Two, 2"')):
            connection.execute(f"CREATE SCHEMA {schema}")
            connection.execute(f"CREATE TYPE {schema}.mood AS ENUM ('ok')")
            connection.execute(
                f"CREATE FUNCTION {schema}.twice(integer) RETURNS integer LANGUAGE sql SET search_path = {schema}, pg_temp"
                " AS 'SELECT 2 * $1'"
            )
            connection.execute(ddl.format(schema))
        (tmp_path / "spec.yaml").write_text(dump_spec(conn, ["one"]))
        assert validate(other, load_declaration(tmp_path / "spec.yaml"), "Two, 2").findings == ()


# One change each, and the object that is named.
CHANGES = [
    ('ALTER TABLE "Quoted.Table" ALTER ser SET DEFAULT 0', 'column "Quoted.Table".ser'),
    ('ALTER TABLE "Quoted.Table" ALTER "a.b" SET DEFAULT \'x y\'', 'column "Quoted.Table"."a.b"'),
    ('ALTER TABLE "Quoted.Table" ALTER gen DROP EXPRESSION', 'column "Quoted.Table".gen'),
    ('ALTER TABLE "Quoted.Table" ALTER "Id" SET GENERATED ALWAYS', 'column "Quoted.Table"."Id"'),
    ('ALTER TABLE "Quoted.Table" ALTER "Id" SET INCREMENT 6', 'sequence of "Quoted.Table"."Id"'),
    ('ALTER TABLE "Quoted.Table" ALTER iv TYPE interval', 'column "Quoted.Table".iv'),
    ('ALTER TABLE "Quoted.Table" ALTER z SET NOT NULL', 'column "Quoted.Table".z'),
    ('ALTER TABLE "Quoted.Table" ADD more integer', 'column "Quoted.Table".more'),
    ('ALTER TABLE "Quoted.Table" DROP arr', 'column "Quoted.Table".arr'),
    ('COMMENT ON COLUMN "Quoted.Table"."a.b" IS \'one line\'', 'comment on column "Quoted.Table"."a.b"'),
    ("COMMENT ON TABLE base_t IS 'new'", "comment on table base_t"),
    (
        'ALTER TABLE "Quoted.Table" DROP CONSTRAINT "Chk ""q""", ADD CONSTRAINT "Chk ""q""" CHECK ("Id" > 0)',
        'constraint "Quoted.Table"."Chk ""q"""',
    ),
    (
        'ALTER TABLE "Quoted.Table" DROP CONSTRAINT "Quoted.Table_a.b_d_key", ADD UNIQUE ("a.b", d)',
        'constraint "Quoted.Table"."Quoted.Table_a.b_d_key"',
    ),
    ("ALTER TABLE other.ref ALTER CONSTRAINT ref_q_fkey INITIALLY DEFERRED", "constraint other.ref.ref_q_fkey"),
    ("ALTER TABLE other.ref VALIDATE CONSTRAINT nv", "constraint other.ref.nv"),
    ("ALTER TABLE other.ref DROP CONSTRAINT ref_r_check", "constraint other.ref.ref_r_check"),
    ("ALTER TABLE excl DROP CONSTRAINT excl_during_excl", "constraint excl.excl_during_excl"),
    ("ALTER TABLE other.ref SET (fillfactor = 71)", "table other.ref"),
    ("ALTER TABLE other.ref RESET (toast.autovacuum_enabled)", "table other.ref"),
    ("ALTER TABLE other.ref NO FORCE ROW LEVEL SECURITY", "table other.ref"),
    ("ALTER TABLE base_t DISABLE ROW LEVEL SECURITY", "table base_t"),
    ("ALTER TABLE child_t NO INHERIT base_t", "table child_t"),
    ("ALTER TABLE child_t ALTER n DROP DEFAULT", "column child_t.n"),
    ("ALTER TABLE typed NOT OF", "table typed"),
    ("ALTER TABLE unlog SET LOGGED", "table unlog"),
    ("ALTER TABLE unlog REPLICA IDENTITY DEFAULT", "table unlog"),
    ("ALTER TABLE unlog OWNER TO CURRENT_USER", "table unlog"),
    ("ALTER TABLE unlog ALTER big SET STORAGE MAIN", "column unlog.big"),
    ("ALTER TABLE parted DETACH PARTITION parted_1", "table parted_1"),
    ("ALTER TABLE parted_1 ENABLE TRIGGER t_p", "trigger parted_1.t_p"),
    ("CREATE TABLE parted_9 PARTITION OF parted FOR VALUES FROM (90) TO (99)", "table parted_9"),
    ('DROP INDEX "I x"', 'index "Quoted.Table"."I x"'),
    ('ALTER INDEX "I x" SET (fillfactor = 61)', 'index "Quoted.Table"."I x"'),
    ("DROP INDEX uq_expr; CREATE UNIQUE INDEX uq_expr ON base_t ((id + 2))", "index base_t.uq_expr"),
    ("DROP INDEX uq_expr; CREATE INDEX uq_expr ON base_t ((id + 1))", "index base_t.uq_expr"),
    ("CREATE OR REPLACE FUNCTION f(a text) RETURNS text LANGUAGE sql IMMUTABLE RETURN a || 'y'", "function f(text)"),
    ("ALTER FUNCTION f(integer, text, integer[]) ROWS 11", "function f(integer, text, integer[])"),
    ("ALTER FUNCTION f(integer, text, integer[]) SET work_mem = '2MB'", "function f(integer, text, integer[])"),
    ("DROP FUNCTION f(numeric)", "function f(numeric)"),
    ("CREATE FUNCTION f() RETURNS integer LANGUAGE sql AS 'SELECT 1'", "function f()"),
    ("ALTER PROCEDURE p(integer, text) SECURITY INVOKER", "procedure p(integer, text)"),
    ("CREATE OR REPLACE AGGREGATE sum2 (int) (sfunc = int4pl, stype = int, initcond = '1')", "aggregate sum2(integer)"),
    ("ALTER VIEW \"V 2\" ALTER n SET DEFAULT 'other'", 'column "V 2".n'),
    ('ALTER VIEW "V 2" RESET (check_option)', 'view "V 2"'),
    (
        'CREATE OR REPLACE VIEW "V 2" WITH (security_barrier, check_option = local) AS SELECT * FROM base_t WHERE id > 2',
        'view "V 2"',
    ),
    ("DROP MATERIALIZED VIEW mv; CREATE MATERIALIZED VIEW mv AS SELECT id, 1::bigint AS c FROM base_t", "view mv"),
    ('ALTER VIEW "V 2" RENAME n TO m', 'column "V 2".n'),
    ('DROP TRIGGER t_i ON "V 2"', 'trigger "V 2".t_i'),
    ("ALTER TABLE base_t ENABLE ALWAYS TRIGGER t_t", "trigger base_t.t_t"),
    (
        'CREATE OR REPLACE TRIGGER t_a BEFORE INSERT OR UPDATE OF "a.b", d ON "Quoted.Table" FOR EACH ROW'
        " EXECUTE FUNCTION trg('a', 'b', '')",
        'trigger "Quoted.Table".t_a',
    ),
    ("CREATE OR REPLACE RULE r1 AS ON DELETE TO base_t WHERE OLD.id = 2 DO INSTEAD NOTHING", "rule base_t.r1"),
    ("ALTER TABLE base_t DISABLE RULE r1", "rule base_t.r1"),
    ("ALTER POLICY pol ON base_t USING (id > 2)", "policy base_t.pol"),
    ("ALTER POLICY pol ON base_t TO PUBLIC", "policy base_t.pol"),
    ("DROP POLICY pol2 ON base_t", "policy base_t.pol2"),
    ("DROP STATISTICS st; CREATE STATISTICS st (mcv) ON id, n FROM base_t", "statistics st"),
    ("ALTER TYPE mood ADD VALUE 'fine' BEFORE 'ok'", "type mood"),
    ('ALTER TYPE "Comp Type" ADD ATTRIBUTE more text CASCADE', 'type "Comp Type"'),
    ("ALTER DOMAIN posint SET DEFAULT 4", "type posint"),
    ("ALTER DOMAIN posint DROP NOT NULL", "type posint"),
    ("ALTER DOMAIN us_zip DROP CONSTRAINT us_zip_check1", "type us_zip"),
    ('ALTER SEQUENCE "Seq" NO CYCLE', 'sequence "Seq"'),
    ("CREATE SEQUENCE more", "sequence more"),
    ("GRANT DELETE ON base_t TO strange_role", "grant on table base_t to strange_role"),
    ("REVOKE SELECT (id) ON base_t FROM strange_role", "grant on column base_t.id to strange_role"),
    ('REVOKE GRANT OPTION FOR SELECT ON other.ref FROM "Strange Role"', 'grant on table other.ref to "Strange Role"'),
    ("GRANT EXECUTE ON FUNCTION trg() TO PUBLIC", "revocation on function trg() from PUBLIC"),
    ("GRANT USAGE ON TYPE mood TO PUBLIC", "revocation on type mood from PUBLIC"),
    ("GRANT CREATE ON SCHEMA other TO strange_role", "grant on schema other to strange_role"),
    ("ALTER EVENT TRIGGER evt ENABLE", "event trigger evt"),
    (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA other REVOKE INSERT ON TABLES FROM strange_role",
        "default grant in schema other on tables of postgres to strange_role",
    ),
    ('DROP TEXT SEARCH CONFIGURATION "Odd Schema".conf', 'other ts_config "Odd Schema".conf'),
    ("DROP OPERATOR FAMILY fam USING btree", "other opfamily fam USING btree"),
    ("DROP COLLATION coll", "collation coll"),
    ("ALTER OPERATOR === (integer, integer) SET (RESTRICT = eqsel)", "operator ===(integer, integer)"),
    ("DROP OPERATOR === (integer, integer)", "operator ===(integer, integer)"),
    ('ALTER TABLE "user" ALTER "end" SET DEFAULT 1', 'column "user"."end"'),
    ('DROP VIEW "table"; DROP TABLE "user"', 'table "user"'),
    ('ALTER SEQUENCE user_group_seq RENAME TO g; COMMENT ON TABLE "user" IS NULL', 'sequence of "user"."group"'),
    ('DROP INDEX "desc"', 'index "user"."desc"'),
    ("COMMENT ON CONSTRAINT short ON DOMAIN commented IS 'long'", "type commented"),
    ("ALTER DOMAIN commented VALIDATE CONSTRAINT later", "type commented"),
    ("DROP DOMAIN commented", "type commented"),
    ("COMMENT ON COLUMN pair.one IS NULL", "type pair"),
    ("DROP TYPE to_come", "type to_come"),
    ("DROP CAST (pair AS text); CREATE CAST (pair AS text) WITH INOUT", "other cast (pair AS text)"),
    ("DROP CAST (pair AS text)", "other cast (pair AS text)"),
    ("CREATE CAST (pair AS json) WITH INOUT", "other cast (pair AS json)"),
    ("ALTER TEXT SEARCH DICTIONARY words (STOPWORDS)", "other ts_dict words"),
    ("ALTER TEXT SEARCH DICTIONARY words OWNER TO strange_role", "other ts_dict words"),
    (
        'ALTER TEXT SEARCH CONFIGURATION "Odd Schema".conf DROP MAPPING FOR email',
        'other ts_config "Odd Schema".conf',
    ),
    ("COMMENT ON TEXT SEARCH TEMPLATE tmpl IS 'x'", "comment on other ts_template tmpl"),
    ("COMMENT ON SCHEMA public IS 'x'", "comment on schema public"),
    ("COMMENT ON MATERIALIZED VIEW mv IS 'x'", "comment on view mv"),
    ("CREATE OR REPLACE FUNCTION dollars() RETURNS text LANGUAGE plpgsql AS 'BEGIN END'", "function dollars()"),
    ("ALTER FUNCTION with_extension() NO DEPENDS ON EXTENSION plpgsql", "function with_extension()"),
    ("ALTER MATERIALIZED VIEW mv DEPENDS ON EXTENSION plpgsql", "view mv"),
    ("ALTER MATERIALIZED VIEW mv SET (fillfactor = 50)", "view mv"),
    (
        "CREATE OR REPLACE AGGREGATE total (int) (sfunc = int4pl, stype = int, initcond = '0', msfunc = int4pl,"
        " minvfunc = int4mi, mstype = int, msspace = 8, parallel = safe)",
        "aggregate total(integer)",
    ),
    ("ALTER TABLE unlog DISABLE TRIGGER t_w", "trigger unlog.t_w"),
    ('ALTER TABLE "two\nlines" ALTER "a\nb" SET NOT NULL', 'column "two\nlines"."a\nb"'),
    ('ALTER TABLE "two\nlines" ADD "c\nSELECT 1/0; --" int', 'column "two\nlines"."c\nSELECT 1/0; --"'),
]
# PostgreSQL has no command for it, or it would destroy data.
NOT_REPAIRED = {
    'column "Quoted.Table".gen', 'column "Quoted.Table".more', 'column "Quoted.Table".arr', "table child_t",
    "type mood", 'type "Comp Type"', "sequence more", "table parted_1", "table parted_9", "other ts_dict words", "collation coll",
    'other ts_config "Odd Schema".conf', "other opfamily fam USING btree", 'column "two\nlines"."c\nSELECT 1/0; --"',
}  # fmt: skip


def test_any_single_change_is_found_and_repaired_under_its_name(
    strange: Any, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    with strange.connect(autocommit=False) as conn:
        spec = declared(conn, tmp_path)
        conn.rollback()
        for statement, path in CHANGES:
            with subtests.test(statement=statement):
                conn.execute(statement)
                report = validate(conn, spec, "public")
                assert path in [finding.object for finding in report.findings]
                if path not in NOT_REPAIRED:
                    conn.execute(
                        re.sub("^(BEGIN|COMMIT);$", "", fix_sql(report).replace(" CONCURRENTLY", ""), flags=re.M)
                    )
                    assert validate(conn, spec, "public").findings == ()
            conn.rollback()


def test_dump_names_the_application_s_schema_and_its_server(strange: Any) -> None:
    with strange.connect() as conn:
        document = json.loads(dump_spec(conn, ["other", "public"], json=True))
        assert document["major"] == conn.info.server_version // 10000
    assert (document["schema"], document["schemas"]) == ("other", ["{schema}", "public"])
    assert "ref" in document["tables"]
    assert 'public."Quoted.Table"' in document["tables"]


def test_two_programs_dump_and_validate(strange: Any, run: Any, tmp_path: Path) -> None:
    dumped = run("pgvigil", "spec", "dump", "--database-url", strange.url)
    assert dumped.returncode == 0
    (tmp_path / "mine.yaml").write_text(dumped.stdout)
    held = run("pgvigil", "validate", "--spec", tmp_path / "mine.yaml", "--database-url", strange.url)
    assert held.returncode == 0
    strange.execute("ALTER TABLE base_t ALTER n DROP DEFAULT")
    held = run("pgvigil", "validate", "--fix-sql", "--spec", tmp_path / "mine.yaml", "--database-url", strange.url)
    assert held.returncode == 1
    assert "ALTER TABLE base_t ALTER COLUMN n SET DEFAULT 'n'::text;" in held.stdout


# --- random databases ------------------------------------------------------------------------------------------------

TYPES = {
    "integer": ["0", "length('x''y')", "(1 + 2)"],
    "bigint": ["-1", "(2 * 3)"],
    "text": ["'it''s'", "upper('a') || 'b'", "CURRENT_USER"],
    "varchar(20)": ["'x'"],
    "numeric(12,3)": ["1.5", "round(1.25, 1)"],
    "timestamptz": ["now()", "'2020-02-03 04:05:06.7+08'"],
    "interval": ["'1 month 2 days 03:04:05.6'"],
    "jsonb": ["'{\"a\": [1, null]}'"],
    "text[]": ["ARRAY['a', 'b,c']", "'{}'"],
    "uuid": ["gen_random_uuid()"],
    "boolean": ["true", "(NOT false)"],
    "double precision": ["0.1", "'NaN'"],
    "bytea": ["'\\x00ff'"],
    "date": ["CURRENT_DATE", "'infinity'"],
}
CHECKS = [
    "{0} IS NOT NULL",
    "{0}::text <> 'a''b'",
    "coalesce({0}::text, '') IN ('p', 'q', '')",
    "length({0}::text) BETWEEN 0 AND 99",
]
NAMES = ["a", "b c", "Mixed", 'quo"te', "select", "ünïcode", "x.y", "long_" + "n" * 40]


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def random_database(draw: random.Random) -> tuple[list[str], list[str]]:
    """Return DDL, and changes that each make the database differ from it."""
    ddl, changes = [], []
    for name in draw.sample(NAMES, 4):
        table, columns = quote(f"t {name}"), {quote(one): draw.choice(list(TYPES)) for one in draw.sample(NAMES, 4)}
        parts = []
        for column, kind in columns.items():
            default = f" DEFAULT {draw.choice(TYPES[kind])}" if draw.random() < 0.6 else ""
            parts.append(f"{column} {kind}{default}{' NOT NULL' * (draw.random() < 0.4)}")
            changes.append(
                f"ALTER TABLE {table} ALTER {column} {'DROP DEFAULT' if default else 'SET DEFAULT ' + TYPES[kind][0]}"
            )
            changes.append(f"ALTER TABLE {table} RENAME {column} TO renamed")
        check = draw.choice(CHECKS).format(draw.choice(list(columns)))
        parts.append(f"CONSTRAINT {quote('c ' + name)} CHECK ({check})")
        ddl.append(f"CREATE {'UNLOGGED ' * (draw.random() < 0.2)}TABLE {table} ({', '.join(parts)})")
        changes += [
            f"ALTER TABLE {table} DROP CONSTRAINT {quote('c ' + name)}",
            f"ALTER TABLE {table} ADD CHECK (1 > 0)",
        ]
        plain = [column for column, kind in columns.items() if kind not in ("jsonb", "text[]")]
        if plain:
            keys = [
                f"{draw.choice(plain)}{draw.choice(['', ' DESC', ' NULLS FIRST'])}",
                f"({draw.choice(list(columns))} IS NULL)",
            ]
            where = f" WHERE {draw.choice(list(columns))} IS NOT NULL" if draw.random() < 0.5 else ""
            ddl.append(f"CREATE INDEX {quote('i ' + name)} ON {table} ({', '.join(keys)}){where}")
            changes += [f"DROP INDEX {quote('i ' + name)}", f"CREATE INDEX ON {table} (({keys[1]}), ({keys[1]}))"]
        ddl.append(f"CREATE VIEW {quote('v ' + name)} AS SELECT *, {check} AS checked FROM {table} WHERE {check}")
        changes.append(f"CREATE OR REPLACE VIEW {quote('v ' + name)} AS SELECT *, {check} AS checked FROM {table}")
        argument = draw.choice(list(TYPES))
        signature = f"{quote('f ' + name)}({quote(name)} {argument} DEFAULT {draw.choice(TYPES[argument])})"
        body = draw.choice(
            [
                f"RETURN {check.replace(next(iter(columns)), quote(name))}"
                if next(iter(columns)) in check
                else "RETURN true",
                "AS 'SELECT true'",
            ]
        )
        ddl.append(f"CREATE FUNCTION {signature} RETURNS boolean LANGUAGE sql {body}")
        changes += [f"ALTER FUNCTION {quote('f ' + name)} STRICT", f"DROP FUNCTION {quote('f ' + name)}"]
        if draw.random() < 0.5:
            ddl.append(f"COMMENT ON TABLE {table} IS 'it''s: {name}'")
        changes += [f"COMMENT ON TABLE {table} IS 'other'", f"GRANT SELECT ON {table} TO PUBLIC"]
    return ddl, changes


@pytest.mark.parametrize("seed", range(12))
def test_random_database_meets_its_dump_and_no_random_change_of_it_does(
    database: Any, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)  # noqa: S311 - the same databases each time
    ddl, changes = random_database(draw)
    with database.connect(autocommit=False) as conn:
        for statement in ddl:
            conn.execute(statement)
        conn.commit()
        spec = declared(conn, tmp_path, as_json=seed % 2 == 0)
        assert validate(conn, spec, "public").ok
        for change in draw.sample(changes, 6):
            with conn.transaction(force_rollback=True):
                conn.execute(change)
                assert validate(conn, spec, "public").exit_code == 1, change


def test_disabled_triggers_of_a_partition_s_foreign_key_are_declared_and_never_asked_for(
    database: Any, tmp_path: Path
) -> None:
    with database.connect() as conn:
        conn.execute("""
            CREATE TABLE r (id int PRIMARY KEY);
            CREATE TABLE t (id int REFERENCES r) PARTITION BY RANGE (id);
            CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (9)""")
        enabled = declared(conn, tmp_path)
        conn.execute("ALTER TABLE t1 DISABLE TRIGGER ALL")
        report = validate(conn, enabled, "public")
        assert [(f.kind, f.object) for f in report.findings] == [("disabled", "constraint t1.t_id_fkey")]
        spec = declared(conn, tmp_path)
        report = validate(conn, spec, "public")
        assert (report.findings, len(report.notes)) == ((), 1)
        conn.execute("ALTER TABLE t1 ENABLE TRIGGER ALL")
        report = validate(conn, spec, "public")
        assert (report.findings, report.notes) == ((), ())


def test_index_that_a_foreign_partition_keeps_invalid_after_a_restore_is_a_note(
    database: Any, another: Any, tmp_path: Path
) -> None:
    with database.connect() as conn:
        conn.execute("""
            CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
            CREATE TABLE t (a int) PARTITION BY RANGE (a);
            CREATE FOREIGN TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (2) SERVER s;
            CREATE INDEX t_a ON t (a)""")
        spec = declared(conn, tmp_path)
    restore(database.url, another.url)
    with another.connect() as conn:
        report = validate(conn, spec, "public")
    assert report.findings == ()
    assert [note.object for note in report.notes] == ["index t.t_a"]
    assert "a partition is a foreign table" in report.notes[0].expected
