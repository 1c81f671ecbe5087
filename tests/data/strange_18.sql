-- And what came by PostgreSQL 18: named NOT NULL, virtual columns, keys over time, constraints not enforced.
CREATE TABLE a18 (id int PRIMARY KEY, v text CONSTRAINT "Odd nn" NOT NULL, w int NOT NULL, g int GENERATED ALWAYS AS (id + 1) VIRTUAL);
COMMENT ON CONSTRAINT "Odd nn" ON a18 IS 'why'; COMMENT ON CONSTRAINT a18_w_not_null ON a18 IS 'ww';
ALTER TABLE a18 RENAME w TO ww; ALTER TABLE a18 RENAME TO aa;
CREATE TABLE b18 (x int NOT NULL NO INHERIT, y int); ALTER TABLE b18 ADD CONSTRAINT ynn NOT NULL y NOT VALID; COMMENT ON CONSTRAINT ynn ON b18 IS 'later';
CREATE TABLE inh18 () INHERITS (aa); CREATE TABLE inh2 (v text CONSTRAINT own_nn NOT NULL) INHERITS (aa); COMMENT ON CONSTRAINT own_nn ON inh2 IS 'own';
CREATE TABLE part (k int CONSTRAINT part_k NOT NULL, t text NOT NULL) PARTITION BY RANGE (k); CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (9); CREATE TABLE part2 (k int CONSTRAINT mine NOT NULL, t text NOT NULL); COMMENT ON CONSTRAINT mine ON part2 IS 'mine'; ALTER TABLE part ATTACH PARTITION part2 FOR VALUES FROM (10) TO (19);
CREATE TABLE part_pk (k int, PRIMARY KEY (k)) PARTITION BY HASH (k); CREATE TABLE part_pk0 PARTITION OF part_pk FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE DOMAIN dn AS int CONSTRAINT "dn nn" NOT NULL CONSTRAINT dnc CHECK (VALUE > 1); COMMENT ON CONSTRAINT "dn nn" ON DOMAIN dn IS 'dnn'; CREATE DOMAIN dn2 AS text NOT NULL;
CREATE TABLE tp (id int4range, valid daterange, PRIMARY KEY (id, valid WITHOUT OVERLAPS)); CREATE TABLE tf (id int4range, valid daterange, FOREIGN KEY (id, PERIOD valid) REFERENCES tp (id, PERIOD valid));
CREATE TABLE ne (a int REFERENCES aa (id) NOT ENFORCED, b int, CONSTRAINT nec CHECK (b > 0) NOT ENFORCED, UNIQUE NULLS NOT DISTINCT (a)); ALTER TABLE ne ADD CONSTRAINT late FOREIGN KEY (b) REFERENCES aa (id) NOT VALID;
CREATE VIEW iv WITH (security_invoker = true) AS SELECT * FROM aa;
CREATE COLLATION bu (PROVIDER = builtin, LOCALE = 'C.UTF-8');
DO $icu$ BEGIN IF EXISTS (SELECT FROM pg_collation WHERE collname = 'und-x-icu') THEN CREATE COLLATION ic_rules (PROVIDER = icu, LOCALE = 'de-u-co-phonebk', RULES = '& a < z'); END IF; END $icu$;
CREATE TABLE like_a (LIKE aa INCLUDING ALL); CREATE TABLE ci (b text COLLATE bu);
CREATE TABLE longlonglonglonglonglonglonglonglonglonglonglonglonglonglonglong (columnlonglonglonglonglonglonglonglonglonglonglonglonglong int NOT NULL, b serial);
GRANT MAINTAIN ON aa TO strange_role; ALTER DEFAULT PRIVILEGES GRANT MAINTAIN ON TABLES TO strange_role; ALTER DEFAULT PRIVILEGES GRANT SELECT ON LARGE OBJECTS TO strange_role;
CREATE STATISTICS s18 ON v, id FROM aa;
CREATE TABLE um (a int) USING heap; CREATE ACCESS METHOD h2 TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE um2 (a int) USING h2; CREATE TABLE upart (a int) PARTITION BY LIST (a) USING h2;
CREATE FUNCTION bsum(int, int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT $1 + $2; END;
CREATE UNIQUE INDEX ux ON aa (v) NULLS NOT DISTINCT;
CREATE FUNCTION evl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE TABLE z_copied (one int NOT NULL); CREATE TABLE a_copy (LIKE z_copied INCLUDING ALL);  -- with the name of its NOT NULL
