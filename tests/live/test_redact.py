"""Redaction: no secret is left beside its name in whatever spelling, other words stay, and no text takes long."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pgvigil.live import literals, redact

pytestmark = pytest.mark.client_side

# What is given, and what is stored of it.
QUERIES = [
    ("ALTER ROLE x PASSWORD E's3cr\\'et'", "ALTER ROLE x PASSWORD '***'"),
    ("ALTER ROLE x PASSWORD U&'s3cret'", "ALTER ROLE x PASSWORD '***'"),
    ('ALTER ROLE x PASSWORD $$s3cret$$', "ALTER ROLE x PASSWORD '***'"),
    ("ALTER ROLE x PASSWORD $x$s3c'ret$x$", "ALTER ROLE x PASSWORD '***'"),
    ("ALTER ROLE x PASSWORD /* c */ 's3cret'", "ALTER ROLE x PASSWORD /* c */ '***'"),
    ("ALTER ROLE x PASSWORD -- c\n 's3cret'", "ALTER ROLE x PASSWORD -- c\n '***'"),
    ("ALTER ROLE x PASSWORD /* it's */ 's3cret' VALID UNTIL 'tomorrow'", "ALTER ROLE x PASSWORD /* it's */ '***' VALID UNTIL 'tomorrow'"),
    ('SELECT \'{"password": "s3cret x"}\'::jsonb', 'SELECT \'{"password": ***}\'::jsonb'),
    ('SELECT \'{"a": {"password": ["s3cret", "s3cret"]}, "b": 1}\'', 'SELECT \'{"a": {"password": ***}, "b": 1}\''),
    ("SELECT * FROM t WHERE password IN ('s3cret', E's3cret', $$s3cret$$) AND name = 'ada'", "SELECT * FROM t WHERE password IN ('***', '***', '***') AND name = 'ada'"),
    ("SELECT * FROM t WHERE password NOT IN ('s3cret') OR 's3cret' = t.password AND 'ada' = name", "SELECT * FROM t WHERE password NOT IN ('***') OR '***' = t.password AND 'ada' = name"),
    ("SELECT set_config('app.password', 's3cret', true), 'kept'", "SELECT set_config('app.password', '***', true), 'kept'"),
    ("SELECT set_config('app.password', 'it''s s3cret', false)", "SELECT set_config('app.password', '***', false)"),
    ("UPDATE t SET password = 'it''s s3cret', name = 'ada'", "UPDATE t SET password = '***', name = 'ada'"),
    ("UPDATE t SET password = 'C:\\', other_secret = 's3cret'", "UPDATE t SET password = '***'"),
    ("SELECT 'C:\\', password = 's3cret'", "SELECT 'C:\\', password = ***"),
    ("INSERT INTO users (name, password) VALUES ('ada', 's3cret'), ('bob', 's3cret')", "INSERT INTO users (name, password) VALUES ('***', '***'), ('***', '***')"),
    ('INSERT INTO users (name, "password") SELECT \'ada\', \'s3cret\'', 'INSERT INTO users (name, "password") SELECT \'***\', \'***\''),
    ("SELECT dblink('host=h password=''s3cret x'' user=u')", "SELECT dblink('host=h password=*** user=u')"),
    ("SELECT dblink('host=h password=s3cret')", "SELECT dblink('host=h password=***)"),
    ("DO $$ BEGIN ALTER ROLE x PASSWORD 's3cret'; END $$", "DO $$ BEGIN ALTER ROLE x PASSWORD '***'; END $$"),
    ("DO $a$ BEGIN EXECUTE 'ALTER ROLE x PASSWORD ''s3cret'''; END $a$", "DO $a$ BEGIN EXECUTE 'ALTER ROLE x PASSWORD ***'; END $a$"),
    ('{"find": "users", "password": "s3cret", "name": "ada"}', '{"find": "users", "password": "***", "name": "ada"}'),
    ('{"password": {"$in": ["s3cret", "s3cret"]}, "name": "ada"}', '{"password": {"***": ["***", "***"]}, "name": "ada"}'),
    ("SET password = 's3cret'", "SET password = '***'"),
    ("SET PASSWORD FOR 'u'@'h' = 's3cret'", "SET PASSWORD FOR '***'@'***' = '***'"),
    ("CREATE USER x IDENTIFIED BY 's3cret'", "CREATE USER x IDENTIFIED BY '***'"),
    ("CREATE USER x IDENTIFIED WITH plugin BY 's3cret'", "CREATE USER x IDENTIFIED WITH plugin BY '***'"),
    ("SELECT crypt('s3cret', gen_salt('bf')) WHERE password = crypt('s3cret', salt)", "SELECT crypt('***', gen_salt('***')) WHERE password = crypt('***', salt)"),
    ("SELECT password FROM t WHERE name = 'ada'", "SELECT password FROM t WHERE name = 'ada'"),
    ("CREATE USER MAPPING FOR u SERVER s OPTIONS (user 'ada', password 's3cret')", "CREATE USER MAPPING FOR u SERVER s OPTIONS (user 'ada', password '***')"),
    ("SELECT * FROM t WHERE api_key LIKE 's3cret%' LIMIT 5", "SELECT * FROM t WHERE api_key LIKE '***' LIMIT 5"),
    ("SELECT * FROM tokens t WHERE t.id = 7 AND x = 'ada'", "SELECT * FROM tokens t WHERE t.id = 7 AND x = 'ada'"),
    ("-- password = 's3cret'\nSELECT 1", '-- password = ***\nSELECT 1'),
    ("SELECT 'x' /* password: s3cret */", "SELECT 'x' /* password: *** */"),
    ("SELECT jsonb_build_object('password', 's3cret', 'name', 'ada')", "SELECT jsonb_build_object('password', '***', 'name', 'ada')"),
    ('SELECT hstore(\'a=>1, password=>"s3cret"\')', "SELECT hstore('a=>1, password=>***')"),
    ('SELECT password=s3cret', 'SELECT password=***'),
    ("SELECT * FROM t WHERE password IS DISTINCT FROM 's3cret'", "SELECT * FROM t WHERE password IS DISTINCT FROM '***'"),
    ("SELECT * FROM t WHERE password BETWEEN 's3cret' AND 's3cret' AND n='ada'", "SELECT * FROM t WHERE password BETWEEN '***' AND '***' AND n='ada'"),
    ("UPDATE t SET password = lower('s3cret' || 's3cret') WHERE n = 'ada'", "UPDATE t SET password = lower('***' || '***') WHERE n = 'ada'"),
    ("SELECT config->>'password' = 's3cret', 'kept'", "SELECT config->>'password' = '***', 'kept'"),
    ("ALTER SUBSCRIPTION s CONNECTION 'postgresql://u:s3cret@h/d'", "ALTER SUBSCRIPTION s CONNECTION 'postgresql://u:***@h/d'"),
    ('INSERT INTO t ("password") VALUES ("s3cret")', 'INSERT INTO t ("password") VALUES ("***")'),
    ("SELECT * FROM t WHERE (password, name) = ('s3cret', 'x')", "SELECT * FROM t WHERE (password, name) = ('***', '***')"),
    ("SELECT 'password', 's3cret'", "SELECT 'password', '***'"),
    ("CREATE ROLE x ENCRYPTED PASSWORD 's3cret'", "CREATE ROLE x ENCRYPTED PASSWORD '***'"),
    ('SELECT pg_catalog.set_config($$my.secret$$, $$s3cret$$, false)', "SELECT pg_catalog.set_config($$my.secret$$, '***', false)"),
    ("COPY t TO PROGRAM 'curl -u x --password s3cret'", "COPY t TO PROGRAM 'curl ***'"),
    ("SELECT x::text = 's3cret' AS secret", "SELECT x::text = '***' AS secret"),
    ("MERGE INTO u USING v ON true WHEN NOT MATCHED THEN INSERT (n, password) VALUES ('a','s3cret')", "MERGE INTO u USING v ON true WHEN NOT MATCHED THEN INSERT (n, password) VALUES ('***','***')"),
    ("select password ,'kept' from t", "select password ,'kept' from t"),
    ("SELECT N's3cret' = password", "SELECT '***' = password"),
    ("UPDATE t SET (name, password) = ('a', 's3cret')", "UPDATE t SET (name, password) = ('***', '***')"),
    ("SELECT * FROM t WHERE password = ANY('{s3cret,s3cret}'::text[])", "SELECT * FROM t WHERE password = ANY('***'::text[])"),
    ("SELECT * FROM t WHERE password = ANY(ARRAY['s3cret'])", "SELECT * FROM t WHERE password = ANY(ARRAY['***'])"),
    ("SELECT set_config(new_value => 's3cret', setting_name => 'app.secret', is_local => false)", "SELECT set_config(new_value => '***', setting_name => 'app.secret', is_local => false)"),
    ("SELECT set_config(('app.password'), ('s3cret'), true), 'kept'", "SELECT set_config(('app.password'), ('***'), true), 'kept'"),
    ("SELECT set_config(lower('app.PASSWORD'), 's3cret', true)", "SELECT set_config(lower('app.PASSWORD'), '***', true)"),
    ("SET app.password TO s3cret; SET app.name TO kept", "SET app.password TO ***; SET app.name TO kept"),
    ("ALTER ROLE r SET app.jwt = 's3cret'", "ALTER ROLE r SET app.jwt = '***'"),
    ("UPDATE t SET db_pass = 's3cret', pw = 's3cret', n = 'kept' WHERE bypass = 'kept'", "UPDATE t SET db_pass = '***', pw = '***', n = 'kept' WHERE bypass = 'kept'"),
    ("SELECT dblink('host=h password=' || 's3cret')", "SELECT dblink('host=h password=*** || '***')"),
    ("EXECUTE format('ALTER ROLE %I PASSWORD %L', 'x', 's3cret')", "EXECUTE format('ALTER ROLE %I PASSWORD %L', '***', '***')"),
    ("SELECT 'postgres://u:' || 's3cret' || '@h/d'", "SELECT 'postgres://u:' || '***' || '***'"),
    ("SELECT jsonb_set(c, '{db,password}', '\"s3cret\"'), 'kept'", "SELECT jsonb_set(c, '{db,password}', '***'), 'kept'"),
    ("SELECT c #>> '{password}' = 's3cret', '{password,s3cret}', '{a,b}'", "SELECT c #>> '{password}' = '***', '***', '{a,b}'"),
    ("SELECT c @? '$.password ? (@ == \"s3cret\")'", "SELECT c @? '$.password ? (@ == ***)'"),
    ("SELECT '<password>s3cret</password><a>b</a>'::xml", "SELECT '<password>***</password><a>b</a>'::xml"),
    ("SELECT 's3cret'::text AS \"password\", 'kept'::text AS name", "SELECT '***'::text AS \"password\", 'kept'::text AS name"),
    ("SELECT 's3cret' password, 'kept' name", "SELECT '***' password, 'kept' name"),
    ("SELECT * FROM (VALUES ('ada', 's3cret')) AS v (name, password) WHERE x = 'kept'", "SELECT * FROM (VALUES ('***', '***')) AS v (name, password) WHERE x = 'kept'"),
    ("WITH v(name, password) AS (VALUES ('ada', 's3cret')) SELECT 'kept'", "WITH v(name, password) AS (VALUES ('***', '***')) SELECT 'kept'"),
    ("SELECT * FROM t WHERE lower(password) = lower('s3cret') AND n = 'kept'", "SELECT * FROM t WHERE lower(password) = lower('***') AND n = 'kept'"),
    ("SELECT * FROM t WHERE ((t.password))::text = ('s3cret') AND n = 'kept'", "SELECT * FROM t WHERE ((t.password))::text = ('***') AND n = 'kept'"),
    ("SELECT * FROM t WHERE md5('s3cret' || name) = password AND n = 'kept'", "SELECT * FROM t WHERE md5('***' || name) = password AND n = 'kept'"),
    ("SELECT * FROM t WHERE ROW('ada', 's3cret') = ROW(name, password) AND n = 'kept'", "SELECT * FROM t WHERE ROW('***', '***') = ROW(name, password) AND n = 'kept'"),
    ("SELECT * FROM t WHERE (name, password) IN (VALUES ('ada', 's3cret')) AND n = 'kept'", "SELECT * FROM t WHERE (name, password) IN (VALUES ('***', '***')) AND n = 'kept'"),
    ("SELECT * FROM t WHERE 's3cret' IN (password, old) AND n = 'kept'", "SELECT * FROM t WHERE '***' IN (password, old) AND n = 'kept'"),
    ("UPDATE settings SET value = 's3cret' WHERE key = 'smtp_password'", "UPDATE settings SET value = '***' WHERE key = 'smtp_password'"),
    ("SELECT * FROM settings WHERE key = 'api_key' AND value = 's3cret'", "SELECT * FROM settings WHERE key = 'api_key' AND value = '***'"),
    ("SELECT * FROM settings WHERE key = 'theme' AND value = 'kept'", "SELECT * FROM settings WHERE key = 'theme' AND value = 'kept'"),
    ("CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT ''s3cret'' AS password'", "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT *** AS password'"),
    ("ALTER TABLE t ALTER COLUMN password SET DEFAULT 's3cret'", "ALTER TABLE t ALTER COLUMN password SET DEFAULT '***'"),
    ("SELECT pgp_sym_decrypt(data, 's3cret'), 'kept'", "SELECT pgp_sym_decrypt(data, '***'), 'kept'"),
    ("SELECT sign(payload, 's3cret'), sign(-5), 'kept'", "SELECT sign(payload, '***'), sign(-5), 'kept'"),
    ("SELECT * FROM public.verify(t.jws, 's3cret', 'HS256')", "SELECT * FROM public.verify(t.jws, '***', '***')"),
    ("COPY t TO PROGRAM 'openssl enc -k s3cret' WITH (NULL 'kept')", "COPY t TO PROGRAM 'openssl ***' WITH (NULL 'kept')"),
    ("COPY t FROM PROGRAM $$7z x -ps3cret f$$", "COPY t FROM PROGRAM '7z ***'"),
    ("COPY t FROM PROGRAM E'KEY=s3cret run'", "COPY t FROM PROGRAM '***'"),
    ("EXEC xp_cmdshell 'net use z: /user:a s3cret'", "EXEC xp_cmdshell 'net ***'"),
    ("SELECT * FROM t WHERE program = 'kept'", "SELECT * FROM t WHERE program = 'kept'"),
    ("SELECT ('ada', 's3cret')::credentials, 'kept'", "SELECT ('***', '***')::credentials, 'kept'"),
    ("SELECT auth.uid() = 'kept' FROM auth.users WHERE author = 'kept'", "SELECT auth.uid() = 'kept' FROM auth.users WHERE author = 'kept'"),
    ("INSERT INTO audit (what, who) VALUES ('reset password', 'kept')", "INSERT INTO audit (what, who) VALUES ('reset password', 'kept')"),
    (r"SELECT dblink(E'user=u p\x61ssword=s3cret'), 'kept'", "SELECT dblink(E'user=u password=***), 'kept'"),
    (r"SELECT dblink(E'user=u p\141ssword=s3cret')", "SELECT dblink(E'user=u password=***)"),
    (r"SELECT dblink(U&'user=u p\0061ssword=s3cret')", "SELECT dblink(U&'user=u password=***)"),
    (r"SELECT dblink(U&'user=u p\+000061ssword=s3cret')", "SELECT dblink(U&'user=u password=***)"),
    (r"""CREATE USER MAPPING FOR u SERVER s OPTIONS (U&"p\0061ssword" 's3cret')""", """CREATE USER MAPPING FOR u SERVER s OPTIONS (U&"password" '***')"""),
    (r"""SELECT '{"pass\u0077ord": "s3cret"}'::jsonb""", """SELECT '{"password": ***}'::jsonb"""),
    (r"SELECT 'C:\x41', '%61', 'kept'", r"SELECT 'C:\x41', '%61', 'kept'"),
    ("ALTER SUBSCRIPTION s CONNECTION 'postgresql://h/d?pass%77ord=s3cret'", "ALTER SUBSCRIPTION s CONNECTION 'postgresql://h/d?password=***"),
    (r"""SELECT E'{"password": "a\\"s3cret"}'::jsonb""", """SELECT E'{"password": ***}'::jsonb"""),
    (r"SELECT dblink_connect('password=''x\'' s3cret''')", "SELECT dblink_connect('password=***')"),
    ("SELECT dblink_connect('user=u password=x' || 's3cret')", "SELECT dblink_connect('user=u password=*** || '***')"),
    ("SELECT dblink('user=u password=x', 'kept')", "SELECT dblink('user=u password=***, 'kept')"),
    ("SET LOCAL \"app.password\" = 'x', 's3cret'", "SET LOCAL \"app.password\" = '***', '***'"),
    ("SELECT 1 FROM t WHERE password OPERATOR ( pg_catalog . = ) 's3cret' AND n = 'ada'", "SELECT 1 FROM t WHERE password OPERATOR ( pg_catalog . = ) '***' AND n = 'ada'"),
    ("SELECT 1 FROM t WHERE 's3cret' OPERATOR(\"x y\".=) password", "SELECT 1 FROM t WHERE '***' OPERATOR(\"x y\".=) password"),
    ("SELECT 1 FROM t WHERE CASE WHEN true THEN password END = 's3cret'", "SELECT 1 FROM t WHERE CASE WHEN true THEN password END = '***'"),
    ("UPDATE u SET password = CASE WHEN a THEN 's3cret' ELSE CASE b WHEN 1 THEN 'x' END END, n = 'ada'", "UPDATE u SET password = CASE WHEN a THEN '***' ELSE CASE b WHEN *** THEN '***' END END, n = 'ada'"),
    ("UPDATE u SET password = CASE WHEN a THEN 's3cret' END WHERE n = 'ada'", "UPDATE u SET password = CASE WHEN a THEN '***' END WHERE n = 'ada'"),
    ("SELECT n, CAST('s3cret' AS text) password, 'ada'", "SELECT n, CAST('***' AS text) password, 'ada'"),
    ("CREATE TABLE t (password text GENERATED ALWAYS AS ('s3cret') VIRTUAL, n text DEFAULT 'ada')", "CREATE TABLE t (password text GENERATED ALWAYS AS ('***') VIRTUAL, n text DEFAULT 'ada')"),
    ("CREATE VIEW v (password) AS SELECT 's3cret'", "CREATE VIEW v (password) AS SELECT '***'"),
    ("CREATE VIEW v (name, password) AS VALUES ('ada', 's3cret')", "CREATE VIEW v (name, password) AS VALUES ('***', '***')"),
    ("CREATE TABLE t (name, password) AS SELECT 'ada', 's3cret'", "CREATE TABLE t (name, password) AS SELECT '***', '***'"),
    ("CREATE TEMP TABLE t (password) AS EXECUTE p('s3cret')", "CREATE TEMP TABLE t (password) AS EXECUTE p('***')"),
    ("CREATE MATERIALIZED VIEW v (password) WITH (fillfactor=70) AS SELECT 's3cret'", "CREATE MATERIALIZED VIEW v (password) WITH (fillfactor=70) AS SELECT '***'"),
    ('CREATE USER x IDENTIFIED BY s3cret', 'CREATE USER x IDENTIFIED BY ***'),
    ('ALTER USER x IDENTIFIED BY s3cret REPLACE s3cret', 'ALTER USER x IDENTIFIED BY *** REPLACE ***'),
    ("CREATE USER x IDENTIFIED BY VALUES 's3cret'", "CREATE USER x IDENTIFIED BY VALUES '***'"),
    ("EXECUTE p('s3cret') -- password", "EXECUTE p('***') -- password"),
    ("EXECUTE p('s3cret') /* password */", "EXECUTE p('***') /* password */"),
    ("SELECT 's3cret' -- the password", "SELECT '***' -- the password"),
    ("COMMENT ON COLUMN t.password IS 'kept'", "COMMENT ON COLUMN t.password IS 'kept'"),
    ("UPDATE t SET doc = doc || jsonb_build_object('user', 'ada', 'password', 's3cret')", "UPDATE t SET doc = doc || jsonb_build_object('***', '***', 'password', '***')"),
    ("INSERT INTO users AS u (name, password) OVERRIDING SYSTEM VALUE VALUES ('ada', 's3cret') ON CONFLICT (name) DO UPDATE SET password = 's3cret', n = 'kept'", "INSERT INTO users AS u (name, password) OVERRIDING SYSTEM VALUE VALUES ('***', '***') ON CONFLICT (name) DO UPDATE SET password = '***', n = 'kept'"),
    ("UPDATE t SET (a,password)=(SELECT 'x','s3cret')", "UPDATE t SET (a,password)=(SELECT '***','***')"),
    ("UPDATE t SET (a,password) = (SELECT v.a, 's3cret' FROM v)", "UPDATE t SET (a,password) = (SELECT v.a, '***' FROM v)"),
    ("PREPARE p (text) AS INSERT INTO u (password) VALUES ($1); EXECUTE p('s3cret')", "PREPARE p (text) AS INSERT INTO u (password) VALUES ($1); EXECUTE p('***')"),
    ('CREATE LOGIN x WITH PASSWORD = s3cret', 'CREATE LOGIN x WITH PASSWORD = ***'),
    ("SELECT * FROM t WHERE starts_with(password, 's3cret')", "SELECT * FROM t WHERE starts_with(password, '***')"),
    ("SELECT * FROM t WHERE strpos(password, 's3cret') > 0", "SELECT * FROM t WHERE strpos(password, '***') > ***"),
    ("SELECT * FROM f('s3cret') AS (password text)", "SELECT * FROM f('***') AS (password text)"),
    ("SELECT CASE password WHEN 's3cret' THEN 'x' END", "SELECT CASE password WHEN '***' THEN '***' END"),
    ("SELECT x FROM t WHERE key IN ('password','token') AND value = 's3cret'", "SELECT x FROM t WHERE key IN ('password','***') AND value = '***'"),
    ("UPDATE settings SET value = CASE key WHEN 'password' THEN 's3cret' ELSE 'x' END", "UPDATE settings SET value = CASE key WHEN 'password' THEN '***' ELSE 'x' END"),
    ("ALTER ROLE r VALID UNTIL 'kept' PASSWORD 's3cret' CONNECTION LIMIT 3", "ALTER ROLE r VALID UNTIL 'kept' PASSWORD '***' CONNECTION LIMIT 3"),
    ("SELECT * FROM t WHERE a = 'kept' -- password", "SELECT * FROM t WHERE a = '***' -- password"),
    ("WITH n AS (INSERT INTO u (name, password) VALUES ('ada','s3cret') RETURNING id) INSERT INTO log VALUES ('kept')", "WITH n AS (INSERT INTO u (name, password) VALUES ('***','***') RETURNING id) INSERT INTO log VALUES ('kept')"),
    ("WITH n AS (INSERT INTO u (name, password) SELECT 'ada','s3cret' RETURNING id) SELECT 'kept'", "WITH n AS (INSERT INTO u (name, password) SELECT '***','***' RETURNING id) SELECT 'kept'"),
    ("DO $$ BEGIN EXECUTE 'ALTER ROLE x PASSWORD $1' USING 's3cret'; END $$", "DO $$ BEGIN EXECUTE 'ALTER ROLE x PASSWORD $1' USING '***'; END $$"),
    ("DO $$ BEGIN RAISE NOTICE 'the password is %', 's3cret'; END $$", "DO $$ BEGIN RAISE NOTICE 'the password is %', '***'; END $$"),
    ("SELECT 1 FROM t WHERE encode(digest(password, 'sha256'), 'hex') = 's3cret' AND n = 'kept'", "SELECT 1 FROM t WHERE encode(digest(password, 'sha256'), 'hex') = '***' AND n = 'kept'"),
    ("SELECT 's3cret'::text password, 'kept'", "SELECT '***'::text password, 'kept'"),
    ("UPDATE u SET password = replace('s3cret', 'a', 'b'), n = 'kept'", "UPDATE u SET password = replace('***', '***', '***'), n = 'kept'"),
    ('INSERT INTO u (name, password) VALUES ($1, $2) -- kept', 'INSERT INTO u (name, password) VALUES ($1, $2) -- kept'),
    ("INSERT INTO u (name, password) VALUES ($1, crypt($2, gen_salt('bf', 8)))", "INSERT INTO u (name, password) VALUES ($1, crypt($2, gen_salt('***', ***)))"),
    ("SELECT 1 FROM t WHERE password = $1 AND n = 'kept'", "SELECT 1 FROM t WHERE password = $1 AND n = 'kept'"),
    ("CREATE OR REPLACE VIEW v AS SELECT password FROM t WHERE a = 'kept' UNION SELECT 'kept'", "CREATE OR REPLACE VIEW v AS SELECT password FROM t WHERE a = 'kept' UNION SELECT 'kept'"),
    ('ALTER ROLE ada PASSWORD s3cret', 'ALTER ROLE ada PASSWORD ***'),
    ('CREATE ROLE ada LOGIN PASSWORD s3cret', 'CREATE ROLE ada LOGIN PASSWORD ***'),
    ("ALTER USER ada WITH ENCRYPTED PASSWORD md5s3cret VALID UNTIL 'kept'", "ALTER USER ada WITH ENCRYPTED PASSWORD *** VALID UNTIL 'kept'"),
    ('SELECT doc - \'password\' || \'{"a":"kept"}\' FROM t', 'SELECT doc - \'password\' || \'{"a":"kept"}\' FROM t'),
    ("SELECT doc ? 'password', 'kept' FROM t", "SELECT doc ? 'password', 'kept' FROM t"),
    ("SELECT doc->'password', 'kept' FROM t WHERE n = 'kept'", "SELECT doc->'password', 'kept' FROM t WHERE n = 'kept'"),
    ("SELECT CASE WHEN x THEN 's3cret' ELSE 's3cret' END AS password", "SELECT CASE WHEN x THEN '***' ELSE '***' END AS password"),
    ("SELECT CASE WHEN x THEN 's3cret' END AS password, 'kept'", "SELECT CASE WHEN x THEN '***' END AS password, 'kept'"),
    ('SELECT $$s3cret$$::text = $1 -- password', "SELECT '***'::text = $1 -- password"),
    ("VALUES ('kept', -- name\n 's3cret') -- password", "VALUES ('***', -- name\n '***') -- password"),
    ("INSERT INTO u VALUES ('kept', /* password */ 's3cret', 'kept')", "INSERT INTO u VALUES ('kept', /* password */ '***', 'kept')"),
    ("SELECT f('kept', 's3cret' /* token */)", "SELECT f('kept', '***' /* token */)"),
    ("SELECT f('kept', 's3cret' -- token\n, 'kept')", "SELECT f('kept', '***' -- token\n, 'kept')"),
    ("SELECT 's3cret'::pg_catalog.text password, 'kept'", "SELECT '***'::pg_catalog.text password, 'kept'"),
    ("SELECT 's3cret'::varchar(20)[] password, 'kept'", "SELECT '***'::varchar(***)[] password, 'kept'"),
    ("SELECT 's3cret' = doc->>'password', 'kept' FROM t", "SELECT '***' = doc->>'password', 'kept' FROM t"),
    ("INSERT INTO t (n) SELECT password FROM u UNION SELECT 'kept'", "INSERT INTO t (n) SELECT password FROM u UNION SELECT 'kept'"),
    ("SELECT CASE lower(x) WHEN 'kept' THEN password END FROM t", "SELECT CASE lower(x) WHEN 'kept' THEN password END FROM t"),
    ("SELECT '-----BEGIN RSA PRIVATE KEY-----\n Proc-Type: 4,ENCRYPTED\n s3cret-----END RSA PRIVATE KEY-----', 'kept'", "SELECT '***', 'kept'"),
    ("SELECT 'glpat-s3cret1234567890', 'kept'", "SELECT '***', 'kept'"),
    ("SELECT 'eyJhbGciOiJIUzI1NiJ9.s3crets3cret.s3cret_-', 'kept'", "SELECT '***', 'kept'"),
    ("SELECT rolpassword = 'SCRAM-SHA-256$4096:c2FsdA==$s3cret=:s3cret=', 'kept'", "SELECT rolpassword = '***', 'kept'"),
    ('CREATE USER ada IDENTIFIED BY RANDOM PASSWORD', 'CREATE USER ada IDENTIFIED BY RANDOM PASSWORD'),
    ("CREATE TABLE t (a, password) AS (SELECT 'x', 's3cret') WITH NO DATA", "CREATE TABLE t (a, password) AS (SELECT '***', '***') WITH NO DATA"),
    ("CREATE VIEW v AS SELECT a AS x FROM t WHERE n = 'kept' AND password IS NOT NULL", "CREATE VIEW v AS SELECT a AS x FROM t WHERE n = 'kept' AND password IS NOT NULL"),
    ("SELECT set_config('app.signing_key', 's3cret', true), 'kept'", "SELECT set_config('app.signing_key', '***', true), 'kept'"),
    ("COMMENT ON ROLE bob IS 'password s3cret7 kept'", "COMMENT ON ROLE bob IS 'password *** kept'"),
    ("INSERT INTO notes VALUES ('the password is s3cret7', 'kept')", "INSERT INTO notes VALUES ('the password is ***, 'kept')"),
    ("SELECT 'the secret was ''s3cret''', 'kept'", "SELECT 'the secret was ***', 'kept'"),
    ("/* API key: s3cret */ SELECT 'kept'", "/* API key: *** */ SELECT 'kept'"),
    ("SELECT 'primary key: a1b2c3d4', 'password reset 2026', 'password rules of job42x'",
     "SELECT 'primary key: a1b2c3d4', 'password reset 2026', 'password rules of job42x'"),
    ("SELECT password abc123x FROM t", "SELECT password abc123x FROM t"),
    ("SELECT $$password s3cret7 kept$$, $a$the token is s3cret7$a$", "SELECT $$password *** kept$$, $a$the token is ***$a$"),
    ("DO $$ BEGIN UPDATE t SET password = x WHERE n = 'kept'; END $$", "DO $$ BEGIN UPDATE t SET password = x WHERE n = 'kept'; END $$"),
    ("SELECT E'password\\ts3cret7 kept'", "SELECT E'password\\t*** kept'"),
    ("UPDATE cards SET pin = 's3cret', user_pin = 4711 WHERE n = 'kept' AND spin = 3", "UPDATE cards SET pin = '***', user_pin = *** WHERE n = 'kept' AND spin = 3"),
]  # fmt: skip
MESSAGES = [
    ("password=''s3cret x''", 'password=***'),
    ('{\\"password\\": \\"s3cret x\\", \\"a\\": 1}', '{\\"password\\": ***, \\"a\\": 1}'),
    ('token = $$s3cret$$', 'token = ***'),
    ('Cookie: a=s3cret; b=s3cret\nnext', 'Cookie: ***\nnext'),
    ('password = ["s3cret", "s3cret"] rest', 'password = *** rest'),
    ("password='s3cr''et' x", 'password=*** x'),
    ('--password s3cret x', '--password *** x'),
    ("ERROR near PASSWORD 's3cret' x", 'ERROR near PASSWORD *** x'),
    ('passwd: "s3cr\\"et" kept', 'passwd: *** kept'),
    ('Authorization: Digest username="s3cret", response="s3cret"', 'Authorization: *** ***'),
    ('sslpassword=s3cret scram_client_key=s3cret oauth_client_secret=s3cret', 'sslpassword=*** scram_client_key=*** oauth_client_secret=***'),
    ('total_tokens=17 kept', 'total_tokens=17 kept'),
    ('password authentication failed for user "ada"', 'password authentication failed for user "ada"'),
    ("{'password': 's3cret', 'user': 'ada'}", "{'password': ***, 'user': 'ada'}"),
    ('PGPASSWORD=s3cret psql', 'PGPASSWORD=*** psql'),
    ('password=(s3cret x)', 'password=***'),
    ("secret => 's3cret'", 'secret => ***'),
    ('password==s3cret', 'password==***'),
    ('password : s3cret', 'password : ***'),
    ('DB_PASS=s3cret', 'DB_PASS=***'),
    ("dbPass: 's3cret'", 'dbPass: ***'),
    ('{"auth": "s3cret", "author": "ada"}', '{"auth": ***, "author": "ada"}'),
    ('first pass: 3 rows, auth method: scram', 'first pass: 3 rows, auth method: scram'),
    ('<add key="password" value="s3cret"/>', '<add key="password" value=***/>'),
    ('{"name": "DB_PASSWORD", "value": "s3cret"}', '{"name": "DB_PASSWORD", "value": ***}'),
    ("('password', 's3cret')", "('password', ***)"),
    ('x?sig=s3cret&y=1', 'x?sig=***&y=1'),
    ('password%3Ds3cret', 'password%3D***'),
    ('curl -u ada:s3cret https://h', 'curl -u ada:*** https://h'),
    ('mysql -u root -ps3cret', 'mysql -u root -p***'),
    ("postgresql://u:" + "s3cret" * 200 + "@h/db", "postgresql://u:***@h/db"),
    ('host=h password=a;s3cret user=u', 'host=h password=*** user=u'),
    ('host=h password=;s3cret user=u', 'host=h password=*** user=u'),
    ('Server=h;Password=s3cret;User Id=u', 'Server=h;Password=***;User Id=u'),
    ('postgresql://h/d?pass%77ord=s3cret&x=%41', 'postgresql://h/d?password=***&x=%41'),
    ('{"pass\\u0077ord": "s3cret"}', '{"password": ***}'),
    ("password \xabs3cret\xbb kept", "password *** kept"),
    ("unknown user \xabada\xbb, it\u2019s kept", "unknown user \xabada\xbb, it\u2019s kept"),
    ("https://s3cret@github.com/x kept", "https://***@github.com/x kept"),
    ("pin: 4711, otp=123456 kept, spin: 3, pass: 3", "pin: *** otp=*** kept, spin: 3, pass: 3"),
]  # fmt: skip
VALUES = [
    ('invalid input syntax for type integer: "s3cret"\nLINE 1: x', '22P02', 'invalid input syntax for type integer: "***"'),
    ('duplicate key value violates unique constraint "u"\nDETAIL:  Key (x)=(s3cret) already exists.', '23505', 'duplicate key value violates unique constraint "u"'),
    ('null value in column "a" of relation "t" violates not-null constraint\nDETAIL:  Failing row contains (s3cret, null).', '23502', 'null value in column "a" of relation "t" violates not-null constraint'),
    ('ungültige Eingabesyntax für Typ integer: »s3cret«', '22P02', 'ungültige Eingabesyntax für Typ integer: »***«'),
    ('value "s3cret" is out of range for type integer', '22003', 'value "***" is out of range for type integer'),
    ('syntax error at or near "FROM"', '42601', 'syntax error at or near "FROM"'),
    ('unterminated quoted string at or near "\'s3cret"', '42601', 'unterminated quoted string at or near "***"'),
    ("could not convert string to float: 's3cret'", None, "could not convert string to float: '***'"),
    ('relation "a" does not exist\nLINE 1: SELECT s3cret FROM a', '42P01', 'relation "a" does not exist'),
    ('invalid byte sequence for encoding "UTF8": 0xff 0xfe', '22021', 'invalid byte sequence for encoding "***": ***'),
    ('bad "s3cret', '22P02', 'bad "***"'),
    ('value \u2018s3cret\u2019 is wrong', '22P02', 'value \u2018***\u2019 is wrong'),
    ('no "s3"cret" here', 'P0001', 'no "***" here'),
    ('division by zero', '22012', 'division by zero'),
]  # fmt: skip


@pytest.mark.parametrize(("query", "stored"), QUERIES)
def test_secrets_of_a_query_are_hidden_and_its_other_literals_kept(query: str, stored: str) -> None:
    assert "s3cret" not in stored
    assert redact.hide_secrets_of_query(query) == stored


@pytest.mark.parametrize(("message", "stored"), MESSAGES)
def test_secrets_of_a_message_are_hidden(message: str, stored: str) -> None:
    assert "s3cret" not in stored
    assert redact.hide_secrets(message) == stored


@pytest.mark.parametrize(("message", "sqlstate", "stored"), VALUES)
def test_values_that_an_error_repeats_are_hidden_and_names_kept(
    message: str, sqlstate: str | None, stored: str
) -> None:
    assert "s3cret" not in stored
    assert redact.hide_values(message, sqlstate) == stored


@pytest.mark.parametrize("key", [
    "password", "DB-Pass-Word", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key", "apiKey", "Cookie",
])  # fmt: skip
def test_values_of_secret_keys_are_hidden_whatever_they_are(key: str) -> None:
    assert redact.document({"a": [{key: {"x": "s3cret"}}]}) == {"a": [{key: "***"}]}


@pytest.mark.parametrize(("given", "stored"), [
    ({"headers": [["Authorization", "s3cret"], ("host", "kept")]}, {"headers": [["Authorization", "***"], ["host", "kept"]]}),
    ([{"name": "DB_PASSWORD", "value": "s3cret"}, {"key": "x", "value": "kept"}],
     [{"name": "DB_PASSWORD", "value": "***"}, {"key": "x", "value": "kept"}]),
    (["total_tokens", 17], ["total_tokens", 17]),
])  # fmt: skip
def test_the_value_of_a_pair_with_a_secret_s_name_is_hidden(given: object, stored: object) -> None:
    assert redact.document(given) == stored


# --- shapes: each spelling of a literal, with each space, in each statement ------------------------------------------

LITERALS = [
    "'s3cret'",
    "E's3cret'",
    "E's3\\'s3cret'",
    '$$s3cret$$',
    '$x$s3cret$x$',
    "U&'s3cret'",
    "'it''s s3cret'",
    "'s3cret\nmore s3cret'",
    "N's3cret'",
    "'a' 's3cret'",
    "'a'\n's3cret'",
    "('s3cret')",
    "'s3cret'::text",
    "cast('s3cret' as text)",
    "convert_to('s3cret','UTF8')",
    "'s3'||'s3cret'",
    "concat('s3cret','x')",
    "format('%s','s3cret')",
    "decode('s3cret','hex')",
    '\u2018s3cret\u2019',
]  # fmt: skip
SPACES = [
    ' ',
    '/* c */',
    ' -- c\n',
    " /* it's */ ",
    '\n\t',
]  # fmt: skip
# `@` is a space, `$1` the literal.
STATEMENTS = [
    'ALTER ROLE x@PASSWORD@$1',
    "CREATE USER x WITH@ENCRYPTED@PASSWORD@$1@VALID UNTIL 'x'",
    'ALTER USER MAPPING FOR u SERVER s OPTIONS (SET@password@$1)',
    "ALTER USER MAPPING FOR u SERVER s OPTIONS (ADD user 'a', ADD password@$1)",
    "CREATE USER MAPPING FOR u SERVER s OPTIONS (user 'a', password_required 'false', password@$1)",
    "ALTER SERVER s OPTIONS (SET passfile 'x', SET sslpassword@$1)",
    "SELECT crypt($1, gen_salt('bf'))",
    'SELECT crypt($1,@t.hash)',
    "SELECT pgp_sym_encrypt('data',@$1)",
    "SELECT pgp_sym_encrypt($1, 'k')",
    "SELECT pgp_pub_decrypt(x, dearmor('k'), $1)",
    "SELECT encrypt('d', $1, 'aes')",
    "SELECT hmac('d', $1, 'sha256')",
    "SELECT digest($1 || salt, 'sha256') = password",
    'SELECT public.crypt($1, x)',
    'SELECT extensions.pgp_sym_encrypt(x, $1)',
    "SELECT set_config('app.password',@$1, false)",
    "SELECT set_config(@'app.secret'::text,@$1, false)",
    'SET app.secret_key =@$1',
    'SET SESSION app.api_token TO@$1',
    'ALTER DATABASE d SET app.jwt_secret =@$1',
    'ALTER SYSTEM SET x.password@=@$1',
    'UPDATE u SET password@=@$1',
    'UPDATE u SET (a, password) = (1, $1)',
    'UPDATE u SET (a, password) = ROW(1, $1)',
    'UPDATE u SET a=1 WHERE password@=@$1',
    'INSERT INTO u (a, password) VALUES (1,@$1)',
    'INSERT INTO u (password) SELECT $1',
    'INSERT INTO u (a,password) VALUES (1,$1) ON CONFLICT (a) DO UPDATE SET password = $1',
    'MERGE INTO u USING v ON true WHEN MATCHED THEN UPDATE SET password = $1',
    "SELECT * FROM u WHERE password@IN@($1, 'x')",
    'SELECT * FROM u WHERE $1@=@password',
    'SELECT * FROM u WHERE password IS NOT DISTINCT FROM $1',
    "SELECT login('ada', password => $1)",
    "SELECT login(user => 'ada', p_password := $1)",
    'CALL login(password => $1)',
    'SELECT f(token => $1)',
    "DO $d$ BEGIN EXECUTE 'ALTER ROLE x PASSWORD ' || quote_literal($1); END $d$",
    'DO $d$ BEGIN ALTER ROLE x PASSWORD $1; END $d$',
    'DO $d$ DECLARE password text := $1; BEGIN END $d$',
    'DO LANGUAGE plpgsql $d$ DECLARE v_secret CONSTANT text DEFAULT $1; BEGIN END $d$',
    "DO $d$ BEGIN PERFORM dblink_connect('host=h password=' || $1); END $d$",
    "CREATE FUNCTION f(password text DEFAULT $1) RETURNS void LANGUAGE sql AS ''",
    'CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $d$ DECLARE api_key text = $1; BEGIN RETURN api_key; END $d$',
    "SELECT jsonb_build_object('user','a','password',$1)",
    "SELECT json_build_object('token'@,$1)",
    "SELECT jsonb_set(c, '{password}', to_jsonb($1))",
    "SELECT hstore('password', $1)",
    "SELECT jsonb_object(ARRAY['password', $1])",
    "SELECT jsonb_object(ARRAY['a','password'], ARRAY['x', $1])",
    'SELECT xmlelement(name x, xmlattributes($1 as password))',
    'SELECT $1 AS password',
    'SELECT x.password FROM (SELECT $1 AS password) x',
    'SELECT ROW($1)::secrets',
    'PREPARE p AS UPDATE u SET password = $1',
    'EXPLAIN ANALYZE UPDATE u SET password = $1',
    'SELECT CASE WHEN password = $1 THEN 1 END',
    'SELECT coalesce(password, $1)',
    'SELECT nullif(password, $1)',
    'SELECT password LIKE $1',
    'SELECT password ~ $1',
    "COMMENT ON ROLE x IS 'password: s3cret'",
    "VALUES ('password', $1)",
    "SELECT * FROM vault.create_secret($1, 'name')",
    'SELECT vault.update_secret(id, $1)',
    'SELECT * FROM users u WHERE u."Password" = $1',
    'SELECT * FROM u WHERE (password) = ($1)',
    'SELECT * FROM u WHERE password = ANY (ARRAY[$1])',
    "SELECT * FROM u WHERE (name, password) IN (('a', $1))",
]  # fmt: skip
SECRETS_ELSEWHERE = [
    "COPY t FROM PROGRAM 'curl -u ada:s3cret https://h'",
    "COPY t FROM PROGRAM 'curl --user ada:s3cret h'",
    "COPY t FROM PROGRAM 'PGPASSWORD=s3cret psql'",
    "COPY t TO PROGRAM 'mysql -ps3cret'",
    'COPY t FROM PROGRAM \'curl -H "Authorization: Bearer s3cretlong"\'',
    "COPY t FROM PROGRAM 'curl -H ''X-Api-Key: s3cret'' h'",
    "COPY t FROM PROGRAM 'aws --secret-key s3cret'",
    'COPY t FROM PROGRAM $$sshpass -p s3cret ssh h$$',
    "COPY t TO PROGRAM 'gpg --passphrase s3cret'",
    "COPY t TO PROGRAM 'export TOKEN=s3cret; x'",
    "CREATE SUBSCRIPTION s CONNECTION 'host=h user=u password=s3cret' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'host=h password = ''s3cret x'' user=u' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'postgres://u:s3cret%40x@h/d' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION E'host=h password=\\'s3cret\\''",
    'ALTER SUBSCRIPTION s CONNECTION $$host=h password=s3cret$$',
    "SELECT dblink_connect('c', 'host=h password=s3cret')",
    "SELECT dblink_connect(format('host=%s password=%s','h','s3cret'))",
    "SELECT dblink_connect('postgresql://h/d?user=u&password=s3cret%20x&x=1')",
    "SELECT dblink_connect('postgresql://u:p%40s3cret@h/d')",
    "SELECT dblink('postgresql://u:a:s3cret@h')",
    "SELECT dblink('postgresql://u:a@s3cret@h')",
    "SELECT dblink('postgresql://u:a/s3cret@h')",
    "SELECT dblink('POSTGRESQL://u:s3cret@h')",
    "SELECT dblink_exec('dbname=x', 'ALTER ROLE x PASSWORD ''s3cret''')",
    "SELECT dblink_connect(\n'host=h\npassword=s3cret\n')",
    "SELECT http_get('https://h/?api_key=s3cret')",
    "SELECT http_get('https://h/?token=s3cret#x')",
    'SELECT net.http_post(url:=\'x\', headers:=\'{"Authorization": "Bearer s3cretlong"}\'::jsonb)',
    "SELECT net.http_post(headers => jsonb_build_object('Authorization', 'Bearer s3cretlong'))",
    "SELECT http_header('Authorization','Bearer s3cretlong')",
    "SELECT http((  'GET','u',ARRAY[http_header('X-API-Key','s3cret')],NULL,NULL)::http_request)",
    "SELECT aws_s3.query_export('q', aws_commons.create_aws_credentials('AKIA','s3cret',''))",
    "CREATE SECRET x (TYPE s3, KEY_ID 'a', SECRET 's3cret')",
    "CREATE USER x@h IDENTIFIED BY 's3cret'",
    "SET PASSWORD = PASSWORD('s3cret')",
    '-- pw: s3cret\nSELECT 1',
    '/* DB_PASSWORD=s3cret */ SELECT 1',
    "SELECT '\u201cpassword\u201d: \u201cs3cret\u201d'",
    "SELECT 'password: \xabs3cret\xbb'",
    'SELECT \'{\\"password\\":\\"s3cret\\"}\'',
    'SELECT \'{"password" : [ "a", {"x": "s3cret"} ]}\'',
    "SELECT 'jdbc:postgresql://h/d?user=u&password=s3cret'",
    "SELECT 'Server=h;Uid=u;Pwd=s3cret;'",
    "SELECT 'AccountKey=s3cret;EndpointSuffix=x'",
    "SELECT 'amqp://u:s3cret@h'",
    "SELECT 'redis://:s3cret@h'",
    "SELECT 'https://s3cret@github.com/x'",
    "SELECT 'https://x-access-token:s3cret@github.com'",
    "ALTER SYSTEM SET primary_conninfo = 'host=h password=s3cret'",
    "SELECT pg_read_file('x'), 'password=s3cret'",
    "ALTER ROLE x PASSWORD 'md5s3cret'",
    "ALTER ROLE x PASSWORD 'SCRAM-SHA-256$4096:s3cret$a:b'",
    "CREATE ROLE x PASSWORD'S3' LOGIN; ALTER ROLE y PASSWORD's3cret'",
    "GRANT x TO y; ALTER ROLE\ny\nPASSWORD\n's3cret'",
]  # fmt: skip


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_keeps_no_secret_however_it_is_spelt(statement: str) -> None:
    kept = [
        query
        for space in SPACES
        for literal in LITERALS
        if "s3cret" in redact.hide_secrets_of_query(query := statement.replace("@", space).replace("$1", literal))
    ]
    assert kept == []


@pytest.mark.parametrize("query", SECRETS_ELSEWHERE)
def test_a_secret_of_another_program_or_server_is_hidden(query: str) -> None:
    assert "s3cret" not in redact.hide_secrets_of_query(query)


# --- time ------------------------------------------------------------------------------------------------------------

PIECES = [
    "password", "pwd", "token=", "password =", "?password=", "authorization: ", "cookie: ", "bearer ", "identified by ", "a://b:",
    "a://b:c@", "://", "set_config('password',", "'password'", "password in (", "insert into t(password) values(", "between ",
    "set_config(", "('", "')", "='x' password", "as v (", "'{password,", "password%L", "u://a:", "-u a:b ", "mysql -p", "<password>", "?(@==",
    "\u2018", "\u201cpassword\u201d: \u201c", "https://a@", "sshpass -p ", "coalesce(",
    "'", '"', "`", "\\", "\\'", '\\"', "''", "$", "$$", "$a$", "a$", "password $$", "password '", "password=\\", "(", ")", "[", "{",
    "password=[", "--", "/*", "*/", "/*/", "-", "*", " ", "\n", ";", ",", ".", "1", "1.", "1e+", "0x", "E'", "U&'", "é", "\u017f", "_", "a", "=",
    ":", "@", "\\u0061", "\\x70", "?a%61", "-- password\n", "/* password */", "with x as (insert into t (password) ", "case ", "end password", "'x'::text password ", "$1",
    "create table t (password) as ", "identified by x replace ", "-----BEGIN PRIVATE KEY-----", "eyJ-", "eyJ", "SCRAM-SHA-256$1:", "glpat-",
    "password=;", "operator(", "password operator(a.", "case password end", "password=x' || '",
    "password is ", "password a1", "api key ",
]  # fmt: skip
BEGINNINGS = [
    "password",
    "password=",
    "password='",
    'password "',
    "a://b:",
    "bearer",
    "'password'",
    "password(",
    "$a$",
    "/*",
    "E'",
    "x",
]
REPEATED = [" ", "'", '"', "\\", "$", "(", "/*", "a", "=", "@", "$b$"]


def _nested(length: int) -> str:
    return "".join(f"password $t{number}$ " for number in range(length // 15))


def _escapes(length: int) -> str:
    return "".join("password=" + "\\" * number + '"' for number in range(int((2 * length) ** 0.5)))


MAKERS: dict[str, Callable[[int], str]] = {
    **{f"{piece!r} repeated": lambda length, piece=piece: piece * (length // len(piece)) for piece in PIECES},
    **{
        f"{first!r} and many {then!r}": lambda length, first=first, then=then: first + then * (length // len(then))
        for first in BEGINNINGS
        for then in REPEATED
    },
    "nested dollar quotes": _nested,
    "ever longer escapes": _escapes,
}
FUNCTIONS: dict[str, Callable[[str], object]] = {
    "hide_secrets": redact.hide_secrets,
    "hide_secrets_of_query": redact.hide_secrets_of_query,
    "normalize_literals, standard": lambda text: literals.normalize_literals(text, "postgresql"),
    "normalize_literals, other": lambda text: literals.normalize_literals(text, "mysql"),
    "hide_values": lambda text: redact.hide_values(text, None),
    "document": lambda text: redact.document({text: text}),
}


@pytest.mark.parametrize("shape", MAKERS)
def test_time_grows_as_the_text_does(shape: str) -> None:
    """Eight times the text may take at most three times eight times as long; quadratic would be 64 times."""

    def seconds(function: Callable[[str], object], length: int) -> float:
        text = MAKERS[shape](length)
        began = time.thread_time()
        function(text)
        return time.thread_time() - began

    for name, function in FUNCTIONS.items():
        # The least of some tries: what else the machine does is not to count.
        grew = [seconds(function, 40_000) / max(seconds(function, 5_000), 0.002) for _ in range(2)]
        while min(grew) > 24 and len(grew) < 6:
            grew.append(seconds(function, 40_000) / max(seconds(function, 5_000), 0.002))
        assert min(grew) <= 24, f"{name}: {grew}"
