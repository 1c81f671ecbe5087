"""Test that objects called like those of the server itself, or like words of the grammar, are compared and repaired as what they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import _new_database, servers
from pgvigil import embedded
from pgvigil.validate import Declaration, dump_spec, fix_sql, load_declaration, validate

pytestmark = pytest.mark.oldest_and_newest

ROLE = "DO $$ BEGIN CREATE ROLE namesake; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
# In schema app, each called as the server calls something of its own.
MADE = """
CREATE SCHEMA app;
CREATE TYPE app.int4 AS ENUM ('a', 'b');
CREATE TYPE app."char" AS (a integer, b text);
CREATE TYPE app."integer" AS ENUM ('c');
CREATE DOMAIN app.text AS pg_catalog.text CHECK (VALUE <> '');
CREATE DOMAIN app."numeric" AS integer DEFAULT 3;
CREATE TYPE app.bool AS RANGE (subtype = integer);
CREATE TABLE app.pg_class (id serial PRIMARY KEY, a app.int4, b app."char", c app."integer", d app.text, e app."numeric", f app.bool);
CREATE VIEW app.pg_tables AS SELECT id, a FROM app.pg_class;
CREATE SEQUENCE app.pg_type;
CREATE FUNCTION app.lower(pg_catalog.text) RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION app."coalesce"(app.int4, app."integer") RETURNS app.int4 LANGUAGE sql AS 'SELECT $1';
CREATE PROCEDURE app.version() LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION app.int4pl(integer, integer) RETURNS integer LANGUAGE sql AS 'SELECT $1 - $2';
CREATE FUNCTION app.suppress_redundant_updates_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER t BEFORE UPDATE ON app.pg_class FOR EACH ROW EXECUTE FUNCTION app.suppress_redundant_updates_trigger();
CREATE AGGREGATE app.max(integer) (SFUNC = app.int4pl, STYPE = integer);
CREATE OPERATOR app.+ (FUNCTION = app.int4pl, LEFTARG = integer, RIGHTARG = integer);
CREATE COLLATION app."POSIX" (PROVIDER = libc, LOCALE = 'C');
CREATE TABLE app.texts (a pg_catalog.text COLLATE "POSIX", b pg_catalog.text COLLATE app."POSIX", CHECK (app.lower(a) <> lower(b)));
CREATE TEXT SEARCH CONFIGURATION app.english (PARSER = "default");
CREATE CAST (app.int4 AS app."integer") WITH INOUT;
"""
CHANGES = [
    ("GRANT USAGE ON TYPE app.int4 TO namesake", "grant on type app.int4 to namesake"),
    ("REVOKE USAGE ON TYPE app.int4 FROM PUBLIC", "revocation on type app.int4 from PUBLIC"),
    ('GRANT USAGE ON TYPE app."integer" TO namesake', 'grant on type "integer" to namesake'),
    ('COMMENT ON TYPE app."char" IS \'x\'', 'comment on type app."char"'),
    ("ALTER TYPE app.int4 RENAME VALUE 'b' TO 'x'", "type app.int4"),
    ("ALTER TYPE app.int4 RENAME TO int8", "type app.int4"),
    ("ALTER DOMAIN app.text SET DEFAULT 'x'", "type app.text"),
    ("ALTER DOMAIN app.text OWNER TO namesake", "type app.text"),
    ('ALTER DOMAIN app."numeric" DROP DEFAULT', 'type app."numeric"'),
    ("ALTER TYPE app.bool OWNER TO namesake", "type app.bool"),
    ("ALTER TABLE app.pg_class ALTER e SET DEFAULT 4", "column app.pg_class.e"),
    ("ALTER TABLE app.pg_class ALTER d TYPE pg_catalog.text", "column app.pg_class.d"),
    ("ALTER TABLE app.pg_class RENAME TO pg_index", "table app.pg_class"),
    ("GRANT SELECT ON app.pg_class TO namesake", "grant on table app.pg_class to namesake"),
    ("DROP VIEW app.pg_tables", "view app.pg_tables"),
    ("CREATE OR REPLACE VIEW app.pg_tables AS SELECT id, a FROM app.pg_class WHERE id > 1", "view app.pg_tables"),
    ("ALTER SEQUENCE app.pg_type INCREMENT 2", "sequence app.pg_type"),
    ("ALTER SEQUENCE app.pg_class_id_seq INCREMENT 2", "sequence of app.pg_class.id"),
    ("ALTER FUNCTION app.lower STABLE", "function app.lower(text)"),
    ("GRANT EXECUTE ON FUNCTION app.lower TO namesake", "grant on function app.lower(text) to namesake"),
    ("ALTER FUNCTION app.lower OWNER TO namesake", "function app.lower(text)"),
    ('DROP FUNCTION app."coalesce"', 'function "coalesce"(app.int4, "integer")'),
    ("DROP PROCEDURE app.version", "procedure app.version()"),
    ("DROP TRIGGER t ON app.pg_class", "trigger app.pg_class.t"),
    ("CREATE OR REPLACE TRIGGER t BEFORE UPDATE ON app.pg_class FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
     "trigger app.pg_class.t"),
    ("CREATE OR REPLACE AGGREGATE app.max(integer) (SFUNC = pg_catalog.int4pl, STYPE = integer)", "aggregate app.max(integer)"),
    ("DROP AGGREGATE app.max(integer)", "aggregate app.max(integer)"),
    ("DROP OPERATOR app.+ (integer, integer)", "operator app.+(integer, integer)"),
    ("COMMENT ON OPERATOR app.+ (integer, integer) IS 'x'", "comment on operator app.+(integer, integer)"),
    ('COMMENT ON COLLATION app."POSIX" IS \'x\'', 'comment on collation app."POSIX"'),
    ('ALTER TABLE app.texts ALTER a TYPE pg_catalog.text COLLATE app."POSIX"', "column texts.a"),
    ('ALTER TABLE app.texts ALTER b TYPE pg_catalog.text COLLATE pg_catalog."POSIX"', "column texts.b"),
    ("COMMENT ON TEXT SEARCH CONFIGURATION app.english IS 'x'", "comment on other ts_config app.english"),
    ("ALTER TEXT SEARCH CONFIGURATION app.english OWNER TO namesake", "other ts_config app.english"),
    ('DROP CAST (app.int4 AS app."integer")', 'other cast (app.int4 AS "integer")'),
]  # fmt: skip
OF_THE_SERVER = """SELECT
    ARRAY(SELECT typname || coalesce(typacl::text, '') || typowner FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace ORDER BY oid),
    ARRAY(SELECT proname || coalesce(proacl::text, '') || proowner || provolatile::text FROM pg_proc
          WHERE pronamespace = 'pg_catalog'::regnamespace ORDER BY oid),
    ARRAY(SELECT relname || coalesce(relacl::text, '') || relowner FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace ORDER BY oid),
    ARRAY(SELECT description FROM pg_description WHERE objoid < 16384 ORDER BY objoid, classoid, objsubid)"""


def declared(conn: psycopg.Connection[Any], folder: Path, schema: str) -> Declaration:
    path = folder / "spec.yaml"
    path.write_text(dump_spec(conn, [schema]))
    return load_declaration(path)


def test_namesake_of_what_the_server_has_is_repaired_and_the_server_s_own_is_left(
    database: Any, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    with database.connect(autocommit=False) as conn:
        conn.execute(ROLE)
        conn.execute(MADE)
        conn.commit()
        spec = declared(conn, tmp_path, "app")
        report = validate(conn, spec, "app")
        assert (report.findings, report.unchecked) == ((), ())
        before = conn.execute(OF_THE_SERVER).fetchall()
        conn.rollback()
        for statement, path in CHANGES:
            with subtests.test(statement=statement):
                conn.execute(statement)
                report = validate(conn, spec, "app")
                assert path in [finding.object for finding in report.findings]
                conn.execute(re.sub("^(BEGIN|COMMIT);$", "", fix_sql(report), flags=re.M))
                assert validate(conn, spec, "app").findings == ()
                assert conn.execute(OF_THE_SERVER).fetchall() == before
            conn.rollback()


@pytest.mark.client_side
def test_function_that_a_newer_server_has_itself_meets_its_old_spec(database: Any, tmp_path: Path) -> None:
    """PostgreSQL 18 brought a function uuidv7(), which many schemas had of their own before."""
    ddl = """CREATE FUNCTION public.uuidv7() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()';
             REVOKE EXECUTE ON FUNCTION public.uuidv7() FROM PUBLIC;
             CREATE TABLE public.t (id uuid DEFAULT public.uuidv7(), CHECK (id <> public.uuidv7()));
             CREATE VIEW public.v AS SELECT public.uuidv7() AS id FROM public.t WHERE id < public.uuidv7()"""
    if database.server.major < 18:
        pytest.skip("no such function here")
    oldest = min(servers())
    with embedded.Server(servers()[oldest], in_memory=True) as old, _new_database(database.server) as copy:
        with psycopg.connect(old.dsn("postgres"), autocommit=True) as conn:
            conn.execute(ddl)
            spec = declared(conn, tmp_path, "public")
        with copy.connect() as conn:
            conn.execute(ddl)  # as pg_dump writes it
            report = validate(conn, spec, "public")
            assert (report.findings, report.unchecked) == ((), ())
            conn.execute("ALTER TABLE t ALTER id SET DEFAULT pg_catalog.uuidv7()")
            assert [finding.object for finding in validate(conn, spec, "public").findings] == ["column t.id"]


def test_namesakes_meet_their_spec_under_another_schema_name(database: Any, tmp_path: Path) -> None:
    with database.connect() as conn:
        conn.execute(MADE)
        spec = declared(conn, tmp_path, "app")
        conn.execute("ALTER SCHEMA app RENAME TO other")
        report = validate(conn, spec, "other")
        assert (report.findings, report.unchecked) == ((), ())
