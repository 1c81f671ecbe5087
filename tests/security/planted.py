"""Create operators and functions with exactly the types of the server's own in the application's schema."""

from __future__ import annotations

import re

from pgvigil import project
from security.conftest import COUNTED, Installation

# Whatever our files might mean: each does what the server's own does, after it has looked with whose rights it runs.
PLANTED = """
    DO $do$
    DECLARE
        one    record;
        types  oid[] := '{varchar,text,uuid,timestamptz,timestamp,date,interval,jsonb,json,integer,bigint,smallint,name,oid,boolean,numeric,double precision,"char",regclass,inet}'::regtype[];
        called text[] := %s;
    BEGIN
        FOR one IN
            SELECT p.proname, format_type(p.prorettype, NULL) AS result, pg_get_function_identity_arguments(p.oid) AS arguments, p.provolatile,
                   (SELECT string_agg('$' || n, ', ' ORDER BY n) FROM generate_series(1, p.pronargs) n) AS given
            FROM pg_proc p
            WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset AND p.pronargs > 0 AND p.proargmodes IS NULL
              AND p.prorettype = ANY (types) AND p.proargtypes::oid[] <@ types AND p.proname ~ '^[a-z0-9_]+$'
              AND (p.proname = ANY (called) OR EXISTS (SELECT FROM pg_operator o WHERE o.oprcode = p.oid))
        LOOP
            EXECUTE format('CREATE FUNCTION {app}.%%I(%%s) RETURNS %%s LANGUAGE plpgsql AS $f$ BEGIN
                                PERFORM {app}.spring();
                                RETURN pg_catalog.%%1$I(%%4$s);
                            END $f$', one.proname, one.arguments, one.result, one.given);
        END LOOP;
        -- Some have one operand's type wider than the server's operator has it, as varchar where that has text: an exact match wins.
        FOR one IN SELECT t.l, t.r, o.name FROM (VALUES ('varchar', 'varchar'), ('varchar', 'text'), ('text', 'varchar'), ('name', 'varchar')) t (l, r)
                   CROSS JOIN unnest('{=,<>,<,>,<=,>=,~~,~,||}'::text[]) o (name) LOOP
            EXECUTE format('CREATE FUNCTION {app}.%%I(%%s, %%s) RETURNS %%s LANGUAGE plpgsql AS $f$ BEGIN
                                PERFORM {app}.spring();
                                RETURN $1::pg_catalog.text OPERATOR(pg_catalog.%%s) $2::pg_catalog.text;
                            END $f$', 'planted ' || one.name, one.l, one.r, CASE one.name WHEN '||' THEN 'text' ELSE 'boolean' END, one.name);
            EXECUTE format('CREATE OPERATOR {app}.%%s (LEFTARG = %%s, RIGHTARG = %%s, FUNCTION = {app}.%%I)', one.name, one.l, one.r, 'planted ' || one.name);
        END LOOP;
        FOR one IN SELECT o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r, c.proname
                   FROM pg_operator o JOIN pg_proc c ON c.oid = o.oprcode
                   WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft = ANY (types) AND o.oprright = ANY (types) AND o.oprresult = ANY (types)
                     AND EXISTS (SELECT FROM pg_proc p WHERE p.proname = c.proname AND p.proargtypes = c.proargtypes
                                 AND p.pronamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = {literal}))
        LOOP
            EXECUTE format('CREATE OPERATOR {app}.%%s (LEFTARG = %%s, RIGHTARG = %%s, FUNCTION = {app}.%%I)', one.oprname, one.l, one.r, one.proname);
        END LOOP;
    END $do$"""


def names_called() -> list[str]:
    """Return each word before a parenthesis in our files."""

    return sorted(
        {
            name
            for path in project.MIGRATIONS.glob("*.sql")
            for name in re.findall(r"\b([a-z_0-9]+)\(", path.read_text())
        }
    )


def plant(at: Installation) -> None:
    at.as_owner(COUNTED)
    called = "'{" + ",".join(names_called()) + "}'"
    at.as_owner((PLANTED % called).replace("{literal}", "'" + at.schema.replace("'", "''") + "'"))


# What the caller may read of the application and of pgvigil.
RELATIONS = """SELECT c.oid::regclass::text FROM pg_class c
               WHERE c.relkind IN ('r', 'v', 'p', 'm') AND has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(c.relnamespace, 'USAGE')
                 AND c.relnamespace::regnamespace::text IN ('public', 'pgvigil', 'instrumentation')"""

APPLICATION_TABLES = ("sessions", "context_history", "codebase_snapshots", "handoff_requests")
TRIGGERS = """
    CREATE FUNCTION {app}.planted() RETURNS trigger LANGUAGE plpgsql AS $f$
    BEGIN
        PERFORM {app}.spring();
        RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    END $f$;
    CREATE TRIGGER planted BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {app}.planted();
    CREATE TRIGGER planted_statement AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {app}.planted();
    CREATE CONSTRAINT TRIGGER planted_later AFTER INSERT OR UPDATE OR DELETE ON {table} DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION {app}.planted()"""


def plant_triggers(at: Installation, *tables: str) -> None:
    for table in tables:
        name = f"planted_{table.rpartition('.')[2]}"
        at.as_owner(TRIGGERS.replace("{table}", table).replace(".planted()", f".{name}()"))


def plant_on_application(at: Installation) -> None:
    plant_triggers(at, *(f"{{app}}.{table}" for table in APPLICATION_TABLES))
