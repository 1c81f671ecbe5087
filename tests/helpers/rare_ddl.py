"""The DDL of kinds that are rare or new, for random_ddl.py: what makes them, and single defects, each with the name it
must be found under.

In a statement `{s}` is the schema, `{n1}` … the drawn names and `{q1}` … these with the schema; in a name they have
no quotes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RareKind:
    making: tuple[str, ...]
    defects: tuple[tuple[str, str], ...]
    since: int = 14

    def filled(self, schema: str, names: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
        quoted = ['"' + name.replace('"', '""') + '"' for name in (schema, *names)]
        said = {"s": quoted[0]}
        for at, name in enumerate(quoted[1:], 1):
            said |= {f"n{at}": name, f"q{at}": f"{quoted[0]}.{name}"}
        plain = {f"n{at}": name for at, name in enumerate(names, 1)}
        return [text.format_map(said) for text in self.making], [
            (text.format_map(said), name.format_map(plain)) for text, name in self.defects
        ]


KINDS = {
    "temporal keys": RareKind(
        (
            "CREATE TABLE {q1} (id int4range, at tstzrange, x int4range, CONSTRAINT {n2} PRIMARY KEY (id, at WITHOUT OVERLAPS),"
            " CONSTRAINT {n3} UNIQUE (x, at WITHOUT OVERLAPS))",
            "CREATE TABLE {q4} (of int4range, at tstzrange,"
            " CONSTRAINT {n5} FOREIGN KEY (of, PERIOD at) REFERENCES {q1} (id, PERIOD at))",
        ),
        (
            ("ALTER TABLE {q4} DROP CONSTRAINT {n5}", "{n5}"),
            ("ALTER TABLE {q1} DROP CONSTRAINT {n3}", "{n3}"),
            ("ALTER TABLE {q1} DROP CONSTRAINT {n3}, ADD CONSTRAINT {n3} UNIQUE (x, at)", "{n3}"),
            ("ALTER TABLE {q1} DROP CONSTRAINT {n2} CASCADE", "{n2}"),
        ),
        18,
    ),
    "not enforced": RareKind(
        (
            "CREATE TABLE {q1} (a integer PRIMARY KEY)",
            "CREATE TABLE {q2} (a integer CONSTRAINT {n3} REFERENCES {q1} NOT ENFORCED, b integer CONSTRAINT {n4} REFERENCES {q1},"
            " CONSTRAINT {n5} CHECK (b > 0) NOT ENFORCED)",
        ),
        (
            ("ALTER TABLE {q2} ALTER CONSTRAINT {n3} ENFORCED", "{n3}"),
            ("ALTER TABLE {q2} ALTER CONSTRAINT {n4} NOT ENFORCED", "{n4}"),
            ("ALTER TABLE {q2} DROP CONSTRAINT {n5}, ADD CONSTRAINT {n5} CHECK (b > 0)", "{n5}"),
            ("ALTER TABLE {q2} DROP CONSTRAINT {n5}", "{n5}"),
        ),
        18,
    ),
    "kinds of NOT NULL": RareKind(
        (
            "CREATE TABLE {q1} (a integer CONSTRAINT {n2} NOT NULL, b integer NOT NULL NO INHERIT, c integer)",
            "CREATE TABLE {q3} (a integer CONSTRAINT {n4} NOT NULL, d text) INHERITS ({q1})",
            "ALTER TABLE {q1} ADD CONSTRAINT {n5} NOT NULL c NOT VALID",
        ),
        (
            ("ALTER TABLE {q1} VALIDATE CONSTRAINT {n5}", "{n5}"),
            ("ALTER TABLE {q3} RENAME CONSTRAINT {n4} TO renamed", "{n3}.a"),
            ("ALTER TABLE {q1} ALTER b DROP NOT NULL", "{n1}"),
            ("ALTER TABLE {q3} ALTER d SET NOT NULL", "{n3}.d"),
        ),
        18,
    ),
    "virtual": RareKind(
        (
            "CREATE TABLE {q1} (k integer, {n2} integer GENERATED ALWAYS AS (k * 2) VIRTUAL) PARTITION BY LIST (k)",
            "CREATE TABLE {q3} PARTITION OF {q1} ({n2} GENERATED ALWAYS AS (k * 3) VIRTUAL) FOR VALUES IN (1)",
        ),
        (
            ("ALTER TABLE ONLY {q3} ALTER {n2} SET EXPRESSION AS (k * 4)", "{n3}.{n2}"),
            ("ALTER TABLE {q1} RENAME {n2} TO renamed", "{n2}"),
        ),
        18,
    ),
    "multirange": RareKind(
        (
            "CREATE TYPE {q1} AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = float8mi, MULTIRANGE_TYPE_NAME = {q2})",
            "CREATE TABLE {q3} (a {q2}, b {q1}[], c int4multirange DEFAULT '{{[1,3)}}', CONSTRAINT {n4} EXCLUDE USING gist (c WITH &&))",
        ),
        (
            ("ALTER TABLE {q3} ALTER c DROP DEFAULT", "{n3}.c"),
            ("ALTER TYPE {q1} RENAME TO renamed", "{n1}"),
            ("ALTER TYPE {q2} RENAME TO renamed", "{n1}"),
            ("DROP TABLE {q3}", "{n3}"),
        ),
    ),
    "domains of domains": RareKind(
        (
            "CREATE DOMAIN {q1} AS integer DEFAULT 3 CONSTRAINT {n2} CHECK (VALUE > 0)",
            "CREATE DOMAIN {q3} AS {q1}[] CONSTRAINT {n4} CHECK (cardinality(VALUE) < 4)",
            "CREATE TYPE {q5} AS (a {q3}, b {q1})",
            "CREATE DOMAIN {q6} AS {q5} CHECK ((VALUE).b > 1)",
            "COMMENT ON CONSTRAINT {n2} ON DOMAIN {q1} IS 'positive'",
        ),
        (
            ("ALTER DOMAIN {q1} DROP DEFAULT", "{n1}"),
            ("ALTER DOMAIN {q3} RENAME CONSTRAINT {n4} TO renamed", "{n3}"),
            ("ALTER DOMAIN {q3} ADD CONSTRAINT more CHECK (VALUE IS NOT NULL) NOT VALID", "{n3}"),
            ("ALTER DOMAIN {q6} SET DEFAULT ROW(NULL, 2)", "{n6}"),
            ("COMMENT ON CONSTRAINT {n2} ON DOMAIN {q1} IS 'changed'", "{n1}"),
            ("REVOKE USAGE ON TYPE {q6} FROM PUBLIC", "{n6}"),
        ),
    ),
    "statistics on expressions": RareKind(
        (
            "CREATE TABLE {q1} (a integer, b text, c date)",
            "CREATE STATISTICS {q2} ON (a + 1), (lower(b)) FROM {q1}",
            "CREATE STATISTICS {q3} (mcv) ON a, (b || 'x'), c FROM {q1}",
            "COMMENT ON STATISTICS {q2} IS 'it''s'",
        ),
        (
            ("ALTER STATISTICS {q2} RENAME TO renamed", "{n2}"),
            ("COMMENT ON STATISTICS {q2} IS NULL", "{n2}"),
            ("DROP STATISTICS {q3}; CREATE STATISTICS {q3} (ndistinct) ON a, (b || 'x'), c FROM {q1}", "{n3}"),
            ("DROP STATISTICS {q3}; CREATE STATISTICS {q3} (mcv) ON a, (b || 'y'), c FROM {q1}", "{n3}"),
        ),
    ),
    "transform": RareKind(
        (
            "CREATE TYPE {q1} AS (a integer)",
            "CREATE FUNCTION {q2}(internal) RETURNS internal LANGUAGE internal IMMUTABLE AS 'textin'",
            "CREATE TRANSFORM FOR {q1} LANGUAGE sql (FROM SQL WITH FUNCTION {q2}(internal))",
            "CREATE FUNCTION {q3}({q1}) RETURNS integer LANGUAGE sql TRANSFORM FOR TYPE {q1} AS 'SELECT 1'",
        ),
        (
            ("DROP TRANSFORM FOR {q1} LANGUAGE sql CASCADE", "{n1}"),
            ("COMMENT ON TRANSFORM FOR {q1} LANGUAGE sql IS 'changed'", "{n1}"),
            ("CREATE OR REPLACE FUNCTION {q3}({q1}) RETURNS integer LANGUAGE sql AS 'SELECT 1'", "{n3}"),
        ),
    ),
    "loose members": RareKind(
        (
            "CREATE OPERATOR FAMILY {q1} USING btree",
            "CREATE OPERATOR CLASS {q2} FOR TYPE bigint USING btree FAMILY {q1} AS OPERATOR 1 <, OPERATOR 3 =,"
            " FUNCTION 1 btint8cmp(bigint, bigint), FUNCTION 2 btint8sortsupport(internal)",
            "ALTER OPERATOR FAMILY {q1} USING btree ADD OPERATOR 1 < (bigint, integer),"
            " FUNCTION 1 (bigint, integer) btint84cmp(bigint, integer)",
        ),
        (
            ("ALTER OPERATOR FAMILY {q1} USING btree DROP OPERATOR 1 (bigint, integer)", "{n1}"),
            ("ALTER OPERATOR FAMILY {q1} USING btree ADD OPERATOR 5 > (bigint, integer)", "{n1}"),
            ("ALTER OPERATOR CLASS {q2} USING btree RENAME TO renamed", "{n2}"),
            ("COMMENT ON OPERATOR FAMILY {q1} USING btree IS 'changed'", "{n1}"),
        ),
    ),
    "event trigger": RareKind(
        (
            "DROP EVENT TRIGGER IF EXISTS {n1}",
            "CREATE FUNCTION {q2}() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
            "CREATE EVENT TRIGGER {n1} ON ddl_command_end WHEN TAG IN ('CREATE CONVERSION', 'DROP CONVERSION') EXECUTE FUNCTION {q2}()",
            "COMMENT ON EVENT TRIGGER {n1} IS 'it''s'",
        ),
        (
            ("ALTER EVENT TRIGGER {n1} DISABLE", "{n1}"),
            ("COMMENT ON EVENT TRIGGER {n1} IS NULL", "{n1}"),
            ("DROP EVENT TRIGGER {n1}", "{n1}"),
            (
                "DROP EVENT TRIGGER {n1}; CREATE EVENT TRIGGER {n1} ON ddl_command_end WHEN TAG IN ('DROP CONVERSION')"
                " EXECUTE FUNCTION {q2}()",
                "{n1}",
            ),
        ),
    ),
    "routines": RareKind(
        (
            "CREATE PROCEDURE {q1}(INOUT {n2} integer DEFAULT 1, VARIADIC {n3} text[] DEFAULT '{{}}') LANGUAGE plpgsql AS 'BEGIN END'",
            "CREATE FUNCTION {q4}(anyelement) RETURNS anyelement LANGUAGE internal WINDOW IMMUTABLE STRICT AS 'window_first_value'",
            "CREATE AGGREGATE {q5}(float8 ORDER BY float8) (SFUNC = ordered_set_transition, STYPE = internal,"
            " FINALFUNC = percentile_cont_float8_final)",
            'CREATE AGGREGATE {q6}(VARIADIC "any" ORDER BY VARIADIC "any") (SFUNC = ordered_set_transition_multi,'
            " STYPE = internal, FINALFUNC = rank_final, FINALFUNC_EXTRA, HYPOTHETICAL)",
            "COMMENT ON PROCEDURE {q1}(integer, text[]) IS 'it''s'",
            "GRANT EXECUTE ON FUNCTION {q5}(float8, float8) TO pg_monitor WITH GRANT OPTION",
        ),
        (
            ("COMMENT ON PROCEDURE {q1}(integer, text[]) IS NULL", "{n1}"),
            ("DROP PROCEDURE {q1}(integer, text[])", "{n1}"),
            ("ALTER FUNCTION {q4}(anyelement) VOLATILE", "{n4}"),
            ("ALTER AGGREGATE {q5}(float8 ORDER BY float8) RENAME TO renamed", "{n5}"),
            ("REVOKE GRANT OPTION FOR EXECUTE ON FUNCTION {q5}(float8, float8) FROM pg_monitor", "{n5}"),
            ('DROP AGGREGATE {q6}(VARIADIC "any" ORDER BY VARIADIC "any")', "{n6}"),
        ),
    ),
    "rights": RareKind(
        (
            "CREATE TABLE {q1} ({n2} integer, b text)",
            "GRANT SELECT ({n2}), UPDATE (b) ON {q1} TO pg_monitor WITH GRANT OPTION",
            "ALTER TABLE {q1} ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY {n3} ON {q1} AS RESTRICTIVE FOR UPDATE TO pg_monitor, pg_read_all_data USING ({n2} > 1) WITH CHECK (b <> 'x')",
            "ALTER DEFAULT PRIVILEGES FOR ROLE pg_monitor IN SCHEMA {s} GRANT SELECT ON TABLES TO pg_read_all_data WITH GRANT OPTION",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA {s} GRANT USAGE ON TYPES TO pg_monitor",
            "CREATE VIEW {q4} AS SELECT b FROM {q1}",
            "ALTER VIEW {q4} OWNER TO pg_monitor",
            "REVOKE ALL ON {q4} FROM pg_monitor",
        ),
        (
            ("REVOKE GRANT OPTION FOR UPDATE (b) ON {q1} FROM pg_monitor", "{n1}"),
            ("REVOKE SELECT ({n2}) ON {q1} FROM pg_monitor", "{n1}"),
            ("ALTER POLICY {n3} ON {q1} TO pg_monitor", "{n3}"),
            ("ALTER POLICY {n3} ON {q1} RENAME TO renamed", "{n3}"),
            ("ALTER DEFAULT PRIVILEGES IN SCHEMA {s} REVOKE USAGE ON TYPES FROM pg_monitor", "types"),
            (
                "ALTER DEFAULT PRIVILEGES FOR ROLE pg_monitor IN SCHEMA {s} REVOKE SELECT ON TABLES FROM pg_read_all_data",
                "tables",
            ),
            ("GRANT SELECT ON {q4} TO pg_monitor", "{n4}"),
            ("ALTER VIEW {q4} OWNER TO pg_read_all_data", "{n4}"),
        ),
    ),
    "names of inherited constraints": RareKind(
        (
            "CREATE TABLE {q1} (a integer, b text DEFAULT 'p', CONSTRAINT {n2} CHECK (a > 0),"
            " CONSTRAINT {n3} CHECK (a < 9) NO INHERIT)",
            "CREATE TABLE {q4} (a integer DEFAULT 7, c date, CONSTRAINT {n2} CHECK (a > 0)) INHERITS ({q1})",
            "CREATE TABLE {q5} (b text DEFAULT 'q') INHERITS ({q4})",
            "ALTER TABLE {q5} ADD CONSTRAINT {n3} CHECK (a < 8)",
        ),
        (
            ("ALTER TABLE {q1} RENAME CONSTRAINT {n2} TO renamed", "{n2}"),
            ("ALTER TABLE {q5} DROP CONSTRAINT {n3}", "{n3}"),
            ("ALTER TABLE {q5} ALTER b SET DEFAULT 'r'", "{n5}.b"),
            ("ALTER TABLE {q5} NO INHERIT {q4}", "{n5}"),
        ),
    ),
    "partitions in levels": RareKind(
        (
            "CREATE TABLE {q1} (a integer NOT NULL, b text, c integer, CONSTRAINT {n6} UNIQUE (a, b)) PARTITION BY RANGE (a)",
            "CREATE TABLE {q2} PARTITION OF {q1} FOR VALUES FROM (MINVALUE) TO (10) PARTITION BY LIST (b)",
            "CREATE TABLE {q3} PARTITION OF {q2} DEFAULT",
            "CREATE TABLE {q4} PARTITION OF {q1} DEFAULT PARTITION BY HASH (b)",
            "CREATE TABLE {q5} PARTITION OF {q4} FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            "ALTER TABLE {q5} ALTER c SET DEFAULT 4",
        ),
        (
            ("ALTER TABLE {q4} DETACH PARTITION {q5}", "{n5}"),
            ("ALTER TABLE {q1} DROP CONSTRAINT {n6}", "{n6}"),
            ("ALTER TABLE {q1} RENAME CONSTRAINT {n6} TO renamed", "{n6}"),
            ("ALTER TABLE {q5} ALTER c DROP DEFAULT", "{n5}.c"),
            ("DROP TABLE {q4}", "{n4}"),
            ("ALTER TABLE {q3} RENAME TO renamed", "{n3}"),
        ),
    ),
    "identity with options": RareKind(
        (
            "CREATE TABLE {q1} ({n2} smallint GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME {q3} START 5 MINVALUE 2 MAXVALUE 50 CYCLE CACHE 3))",
            "COMMENT ON SEQUENCE {q3} IS 'it''s'",
        ),
        (
            ("ALTER TABLE {q1} ALTER {n2} SET NO CYCLE", "{n1}.{n2}"),
            ("ALTER SEQUENCE {q3} RENAME TO renamed", "{n1}.{n2}"),
            ("COMMENT ON SEQUENCE {q3} IS NULL", "{n1}.{n2}"),
            ("ALTER TABLE {q1} ALTER {n2} DROP IDENTITY", "{n1}.{n2}"),
        ),
    ),
    "chosen index": RareKind(
        (
            "CREATE TABLE {q1} ({n2} integer NOT NULL, b integer)",
            "CREATE UNIQUE INDEX {n3} ON {q1} ({n2}) WITH (fillfactor = 50)",
            "ALTER TABLE {q1} REPLICA IDENTITY USING INDEX {n3}",
            "CREATE INDEX {n4} ON {q1} (b)",
            "CLUSTER {q1} USING {n4}",
            "COMMENT ON INDEX {q3} IS 'it''s'",
        ),
        (
            ("DROP INDEX {q3}", "{n3}"),
            ("ALTER INDEX {q3} RENAME TO renamed", "{n3}"),
            ("ALTER INDEX {q3} SET (fillfactor = 60)", "{n3}"),
            ("ALTER TABLE {q1} REPLICA IDENTITY NOTHING", "{n1}"),
            ("ALTER TABLE {q1} RENAME {n2} TO renamed", "{n2}"),
        ),
    ),
    "rules of a view": RareKind(
        (
            "CREATE TABLE {q1} (a integer, b text)",
            "CREATE VIEW {q2} AS SELECT a, b FROM {q1} WHERE a > 0",
            "CREATE RULE {n3} AS ON INSERT TO {q2} WHERE new.a > 3 DO INSTEAD NOTHING",
            "CREATE RULE {n4} AS ON UPDATE TO {q2} DO INSTEAD (UPDATE {q1} SET b = new.b WHERE a = old.a; NOTIFY {n5})",
            "COMMENT ON RULE {n3} ON {q2} IS 'it''s'",
        ),
        (
            ("DROP RULE {n3} ON {q2}", "{n3}"),
            ("ALTER RULE {n4} ON {q2} RENAME TO renamed", "{n4}"),
            ("COMMENT ON RULE {n3} ON {q2} IS 'changed'", "{n3}"),
            ("CREATE OR REPLACE RULE {n3} AS ON INSERT TO {q2} WHERE new.a > 4 DO INSTEAD NOTHING", "{n3}"),
        ),
    ),
}
