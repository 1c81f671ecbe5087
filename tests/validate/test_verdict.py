"""Test faults that must not return: a wrong VALID, code of others that validate ran, and repairs that do harm."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from conftest import PROJECT, Database, Mortal, Run, servers
from pgvigil import project
from pgvigil.database import connect, parse_url
from pgvigil.embedded import Server
from pgvigil.validate import Reference, fix_sql, load_declaration, load_spec, validate
from pgvigil.validate.spec import cache
from pgvigil.validate.spec.path_patterns import covers

SPEC = load_declaration(project.SPEC)


def as_role(database: Database, role: str) -> str:
    return f"{database.url}&options={quote(f'-c role={role}')}"


def verdict(call: Run, url: str, *options: str) -> dict[str, Any]:
    done = call("pgvigil", "validate", "--format", "json", "--database-url", url, *options)
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


def named(findings: Any) -> list[str]:
    return sorted(f"{finding['kind']} {finding['object']}" for finding in findings)


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.client_side
@pytest.mark.parametrize(
    ("pattern", "path", "covered"),
    [
        ("*table pgvigil.legacy_*", "table pgvigil.legacy_x", True),
        ("*table pgvigil.legacy_*", 'table pgvigil."legacy_X y"', True),
        ("*table pgvigil.legacy_*", "grant on table pgvigil.legacy_x to a_role", True),
        ("*table pgvigil.legacy_*", 'trigger sessions."table pgvigil.legacy_x"', False),
        ("*table pgvigil.legacy_*", 'trigger sessions."a\ntable pgvigil.legacy_x"', False),
        ("*table pgvigil.legacy_*", 'trigger sessions."say ""table pgvigil.legacy_x"""', False),
        ("*table pgvigil.legacy_*", 'grant on table jobs to "table pgvigil.legacy_x"', False),
        ("*table pgvigil.legacy_*", 'function pgvigil.f("table pgvigil.legacy_x")', False),
        ("index sessions.*", "index sessions.idx", True),
        ("index sessions.*", 'index sessions."Idx"', True),
        ("index sessions.*", "trigger sessions.idx", False),
        ("index sessions.*", 'index other."index sessions.idx"', False),
        ("index a*", "index archive.idx", True),
        ("trigger *.audit", 'trigger "x.audit".stop', False),
        ("trigger *.audit", "trigger orders.audit", True),
        ("function pgvigil.job_reap*", "function pgvigil.job_reap(integer, text)", True),
        ("function app.f(integer)", "function app.f(text)", False),
        ("grant on table orders to app_*", "grant on table orders to app_reader", True),
        ("grant on table orders to app_*", "grant on table orders to stranger", False),
        ("grant on table orders to app_*", 'grant on table orders to "x to app_reader"', False),
        ("row pgvigil.jobs (job = reap)", "row pgvigil.jobs (job = reap)", True),
        ("row pgvigil.jobs (job = reap)", "row pgvigil.jobs (job = purge)", False),
        ("*instrumentation*", "table instrumentation.events", True),
        ("*instrumentation*", 'trigger sessions."instrumentation"', True),
        ("*instrumentation*", 'function pgvigil.f("instrumentation")', False),
        ('table "Odd name"', 'table "Odd name"', True),
        ("*", "trigger sessions.t", True),
        ('table "[x]"', "table x", False),
        ("function f(integer[], text[])", "function f(integer[], text[])", True),
        ("other cast (pair AS text)", "other cast (pair AS text)", True),
        ("other cast (pair AS *)", "other cast (pair AS text)", True),
        ("other cast (pair AS text)", "other cast (pair AS json)", False),
        ('"Odd name"', 'index jobs."Odd name"', True),
        ('"Odd name"', 'index jobs."odd name"', False),
    ],
)
def test_rule_covers_kind_and_names_each_for_itself(pattern: str, path: str, covered: bool) -> None:
    assert covers(pattern, path) is covered


ODD = (
    "a.b",
    "[x]",
    "[!x]",
    "a*b",
    "a?b",
    "two\nlines",
    "#x",
    "!x",
    "/x/",
    'quo""te',
    " lead",
    "trail ",
    "on",
    "é\u2028x",
    "\\",
)
PATHS = (
    'table "{}"', 'column t."{}"', 'function "{}"("{}"[])', 'grant on table "{}" to "{}"', 'revocation on function f(integer[]) from "{}"',
    'comment on constraint "{}"."{}"', 'other cast ("{}" AS text)', 'other opclass "{}" USING btree', 'other user_mapping FOR "{}" SERVER "{}"',
    'sequence of "{}"."{}"', 'event trigger "{}"', 'setting work_mem of role "{}"', 'default grant in schema "{}" on tables of x to "{}"',
)  # fmt: skip


@pytest.mark.client_side
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("path", PATHS)
def test_rule_that_is_a_path_covers_its_own_object(path: str, name: str) -> None:
    assert covers(path.replace("{}", name), path.replace("{}", name))
    if "*" not in name and "?" not in name:
        assert not covers(path.replace("{}", name), path.replace("{}", "x"))


# --- other people's code ---------------------------------------------------------------------------------------------

PLANTED = [
    "FUNCTION array_to_string(text[], text) RETURNS text",
    "FUNCTION unnest(text[]) RETURNS SETOF text",
    "FUNCTION array_remove(text[], text) RETURNS text[]",
    "FUNCTION coalesce_(text) RETURNS text",
    "FUNCTION json_agg(text) RETURNS json",
    "FUNCTION json_agg(json) RETURNS json",
    "FUNCTION jsonb_typeof(json) RETURNS text",
    "FUNCTION json_strip_nulls(text) RETURNS json",
]


_WITHOUT_YAML = """
import sys
from pgvigil import cli
try:
    sys.exit(cli.main())
finally:
    print("yaml" in sys.modules, file=sys.stderr)
"""


def test_verdict_from_the_cache_does_not_wait_for_yaml(shared: Database, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-P", "-c", _WITHOUT_YAML, "validate", "--database-url", shared.url]
    ends = [subprocess.run(command, env=environment, capture_output=True, text=True) for _ in range(2)]
    assert [end.returncode for end in ends] == [0, 0]
    assert [end.stderr.splitlines()[-1] for end in ends] == ["True", "False"]


@pytest.mark.oldest_and_newest
def test_validate_calls_no_function_that_somebody_planted_in_the_schema(fresh: Database, call: Run) -> None:
    for head in PLANTED:
        fresh.execute(f"CREATE {head} LANGUAGE plpgsql AS 'BEGIN RAISE ''planted''; END'")
    fresh.execute(
        "CREATE FUNCTION planted(numeric, integer) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''planted''; END';"
        "CREATE OPERATOR > (FUNCTION = planted, LEFTARG = numeric, RIGHTARG = integer);"
        "CREATE FUNCTION planted(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''planted''; END';"
        "CREATE OPERATOR = (FUNCTION = planted, LEFTARG = varchar, RIGHTARG = varchar)"
    )
    done = call("pgvigil", "validate", "--database-url", fresh.url)
    assert "planted" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stdout + done.stderr


def test_rows_are_read_without_the_casts_of_types_that_somebody_made(fresh: Database, call: Run) -> None:
    fresh.execute(
        """CREATE TYPE trap AS ENUM ('day', 'month');
           CREATE FUNCTION sprung(trap) RETURNS json LANGUAGE plpgsql AS 'BEGIN RAISE ''sprung''; END';
           CREATE CAST (trap AS json) WITH FUNCTION sprung(trap);
           ALTER TABLE pgvigil.partition_policies DROP CONSTRAINT partition_policies_step_check;
           ALTER TABLE pgvigil.partition_policies ALTER step TYPE trap USING step::trap"""
    )
    assert "different column pgvigil.partition_policies.step" in named(verdict(call, fresh.url)["findings"])


# --- self-test -------------------------------------------------------------------------------------------------------

HOSTILE = {
    "NULL for a time": "NEW.last_activity_at := NULL; RETURN NEW;",
    "infinite times": "NEW.last_activity_at := 'infinity'; RETURN NEW;",
    "times before Christ": "NEW.last_activity_at := '0044-03-15 BC'; RETURN NEW;",
    "another id": "NEW.id := gen_random_uuid(); RETURN NEW;",
    "no row": "RETURN NULL;",
    "an error of its own": "RAISE 'no' USING ERRCODE = 'XX001';",
    "a syntax error": "EXECUTE 'nonsense'; RETURN NEW;",
    "settings of the session": "SET LOCAL search_path = ''; SET LOCAL TimeZone = 'Asia/Tokyo'; RETURN NEW;",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_self_test_ends_with_findings_whatever_a_trigger_does(fresh: Database, call: Run, what: str) -> None:
    fresh.execute(f"CREATE FUNCTION app_hook() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {HOSTILE[what]} END $$")
    fresh.execute("CREATE TRIGGER zz BEFORE INSERT OR UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION app_hook()")
    done = call("pgvigil", "validate", "--self-test", "--database-url", fresh.url)
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("value", ["'1'", "'[]'", "'null'", "'\"text\"'"])
def test_self_test_finds_events_whose_data_are_no_object(fresh: Database, call: Run, value: str) -> None:
    fresh.execute(
        f"""CREATE FUNCTION garble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.event_data := {value}; RETURN NEW; END $$;
            CREATE TRIGGER garble BEFORE INSERT ON session_lifecycle FOR EACH ROW EXECUTE FUNCTION garble()"""
    )
    done = call("pgvigil", "validate", "--self-test", "--database-url", fresh.url)
    assert (done.returncode, done.stderr) == (1, "")
    assert "trigger sessions.log_session_lifecycle" in done.stdout


OF_THE_APPLICATION = {
    "a column to be filled": "ALTER TABLE sessions ADD COLUMN tenant int NOT NULL",
    "a constraint": "ALTER TABLE sessions ADD CONSTRAINT numbered CHECK (session_key ~ '^[0-9]+$')",
    "a domain": "CREATE DOMAIN tenant AS int NOT NULL; ALTER TABLE sessions ADD COLUMN tenant tenant",
    "a foreign key": "CREATE TABLE tenants (id int PRIMARY KEY); ALTER TABLE sessions ADD COLUMN tenant int DEFAULT 1 REFERENCES tenants",
    "a trigger": """CREATE FUNCTION require_tenant() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no tenant'; END $$;
                    CREATE TRIGGER require_tenant BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION require_tenant()""",
}


@pytest.mark.parametrize("what", OF_THE_APPLICATION)
def test_self_test_could_not_try_what_the_application_itself_refuses(fresh: Database, call: Run, what: str) -> None:
    fresh.execute(OF_THE_APPLICATION[what])
    done = call("pgvigil", "validate", "--self-test", "--database-url", fresh.url)
    assert (done.returncode, done.stderr) == (3, "")
    assert "NOT COMPARED (1)\n  table sessions: a session can be made" in done.stdout
    assert "could not be tried: " in done.stdout


def test_self_test_whose_session_a_trigger_ends_has_no_verdict(fresh: Database, call: Run) -> None:
    fresh.execute(
        """CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;
           CREATE TRIGGER leave BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION leave()"""
    )
    done = call("pgvigil", "validate", "--self-test", "--database-url", fresh.url)
    assert done.returncode == 3
    assert done.stderr.startswith("error: the connection was lost")


@pytest.fixture
def of_a_plain_owner(database: Database, call: Run) -> Database:
    database.execute(
        f"""DO $$ BEGIN
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'plain_owner') THEN CREATE ROLE plain_owner LOGIN; END IF;
            END $$;
            ALTER DATABASE "{database.name}" OWNER TO plain_owner; ALTER SCHEMA public OWNER TO plain_owner"""
    )
    assert call("pgvigil", "setup", "--database-url", as_login(database, "plain_owner")).returncode == 0
    return database


def as_login(database: Database, role: str) -> str:
    return database.url.replace("postgres@", f"{role}@", 1)


def test_superuser_runs_no_code_of_a_plain_owner_unless_asked_to(of_a_plain_owner: Database, call: Run) -> None:
    refused = call("pgvigil", "validate", "--self-test", "--database-url", of_a_plain_owner.url)
    assert (refused.returncode, refused.stdout) == (4, "")
    assert (
        'role "postgres" is a superuser, and the self-test runs triggers, defaults and functions of "plain_owner"'
        in refused.stderr
    )
    assert "connect as the owner of the tables; or add --run-owner-code" in refused.stderr
    assert call("pgvigil", "validate", "--database-url", of_a_plain_owner.url).returncode == 0
    by_set_role = call("pgvigil", "validate", "--self-test", "--database-url", as_role(of_a_plain_owner, "plain_owner"))
    assert by_set_role.returncode == 4  # a trigger may RESET ROLE
    agreed = call("pgvigil", "validate", "--self-test", "--run-owner-code", "--database-url", of_a_plain_owner.url)
    assert agreed.returncode == 0, agreed.stdout
    himself = call("pgvigil", "validate", "--self-test", "--database-url", as_login(of_a_plain_owner, "plain_owner"))
    assert himself.returncode in (0, 3), himself.stderr


def test_superuser_runs_no_code_of_an_owner_that_cannot_log_in_any_more(fresh: Database, call: Run) -> None:
    fresh.execute("CREATE ROLE nobody_now; ALTER TABLE sessions OWNER TO nobody_now")
    try:
        refused = call("pgvigil", "validate", "--self-test", "--database-url", fresh.url)
        again = call("pgvigil", "setup", "--database-url", fresh.url)
        assert [(done.returncode, '"nobody_now"' in done.stderr) for done in (refused, again)] == [(4, True), (4, True)]
        assert "or run pgvigil validate --self-test --run-owner-code --database-url" in again.stderr
    finally:
        fresh.execute("ALTER TABLE sessions OWNER TO postgres; DROP ROLE nobody_now")


def test_function_of_another_role_behind_a_trigger_needs_consent(fresh: Database, call: Run) -> None:
    fresh.execute(
        """DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'hook_owner') THEN CREATE ROLE hook_owner LOGIN; END IF; END $$;
           CREATE FUNCTION hook() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
           ALTER FUNCTION hook() OWNER TO hook_owner;
           CREATE TRIGGER hook BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION hook()"""
    )
    done = call("pgvigil", "validate", "--self-test", "--database-url", fresh.url)
    assert (done.returncode, '"hook_owner"' in done.stderr) == (4, True)


# --- which schema, which rights --------------------------------------------------------------------------------------


@pytest.mark.client_side
def test_schema_other_than_the_ledger_s_is_refused(fresh: Database, call: Run) -> None:
    done = call("pgvigil", "validate", "--schema", "other", "--database-url", fresh.url)
    assert (done.returncode, done.stdout) == (4, "")
    assert 'pgvigil watches schema "public" in this database, not "other"' in done.stderr


def test_missing_rights_of_a_reader_are_told_once_with_the_grant_to_give(fresh: Database, call: Run) -> None:
    fresh.execute(
        """DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'Somebody') THEN CREATE ROLE "Somebody"; END IF; END $$;
           GRANT USAGE ON SCHEMA pgvigil TO "Somebody"; GRANT SELECT ON pgvigil.migrations, pgvigil.alembic_version TO "Somebody" """
    )
    done = call("pgvigil", "validate", "--database-url", as_role(fresh, "Somebody"))
    assert done.stdout.count('GRANT pgvigil_reader TO "Somebody";') == 1, done.stderr


def test_list_of_values_is_not_compared_by_who_may_not_read_the_ledger(migrated: Database, call: Run) -> None:
    migrated.execute(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ro') THEN CREATE ROLE ro; END IF; END $$"
    )
    migrated.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO ro")
    told = verdict(call, as_role(migrated, "ro"))
    assert not [finding for finding in named(told["findings"]) if "sessions_status_check" in finding]
    assert [item for item in told["unchecked"] if "pgvigil.migrations" in item["objects"]]
    script = call("pgvigil", "validate", "--fix-sql", "--database-url", as_role(migrated, "ro")).stdout
    assert "sessions_status_check" not in script


def test_rows_that_row_security_hides_are_not_taken_for_missing(fresh: Database, call: Run) -> None:
    fresh.execute("ALTER TABLE pgvigil.partition_policies ENABLE ROW LEVEL SECURITY")
    told = verdict(call, as_role(fresh, "pgvigil_reader"))
    assert not [one for one in named(told["findings"]) if one.startswith("missing row")]
    (item,) = told["unchecked"]
    assert item == {
        "objects": "rows of pgvigil.partition_policies",
        "reason": "row security hides rows from pgvigil_reader: ask as a role that it does not bind",
    }


def test_open_execute_is_a_finding_and_is_never_given_back(fresh: Database, tmp_path: Path) -> None:
    changed, count = re.subn(
        r'("?pgvigil\.reactivate_session\(uuid\)"?:.*execute: )\[PUBLIC\]',
        r"\1[pgvigil_admin]",
        project.SPEC.read_text(),
    )
    assert count == 1
    (tmp_path / "spec.yaml").write_text(changed)
    spec = load_spec(tmp_path / "spec.yaml")
    with fresh.connect() as conn:
        conn.execute("REVOKE EXECUTE ON FUNCTION pgvigil.reactivate_session(uuid) FROM pgvigil_admin")
        conn.execute("GRANT EXECUTE ON FUNCTION pgvigil.reactivate_session(uuid) TO PUBLIC")
        found = {finding.object: finding for finding in validate(conn, spec, "public").findings}
        opened = found["revocation on function pgvigil.reactivate_session(uuid) from PUBLIC"]
        assert opened.found.startswith("open EXECUTE: every role that can connect may call it, ")
        assert opened.fix == "REVOKE EXECUTE ON FUNCTION pgvigil.reactivate_session(uuid) FROM PUBLIC;"
        assert "grant on function pgvigil.reactivate_session(uuid) to pgvigil_admin" in found
        conn.execute(opened.fix)
        conn.execute("GRANT EXECUTE ON FUNCTION pgvigil.reactivate_session(uuid) TO pgvigil_admin")
        report = validate(conn, spec, "public")
        assert not [finding for finding in report.findings if "reactivate_session" in finding.object]
        assert "TO PUBLIC" not in fix_sql(validate(conn, SPEC, "public"))


def test_function_for_everybody_that_is_closed_is_a_finding_without_a_grant(fresh: Database) -> None:
    with fresh.connect() as conn:
        conn.execute("REVOKE EXECUTE ON FUNCTION pgvigil.reactivate_session(uuid) FROM PUBLIC")
        report = validate(conn, SPEC, "public", reference=None)
        path = "revocation on function pgvigil.reactivate_session(uuid) from PUBLIC"
        assert [(f.object, f.fix) for f in report.findings if f.object == path] in ([], [(path, "")])
        assert "TO PUBLIC" not in fix_sql(report)


# --- default privileges, event triggers ------------------------------------------------------------------------------


def test_rights_by_the_owner_s_default_privileges_are_notes_that_name_them(existing: Database, call: Run) -> None:
    existing.execute(
        """DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'readonly') THEN CREATE ROLE readonly; END IF; END $$;
           ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO readonly"""
    )
    done = call("pgvigil", "migrate", "--backup", "none", "--database-url", existing.url)
    assert done.returncode == 0, done.stderr
    existing.execute("UPDATE pgvigil.partition_policies SET make_ahead = make_ahead + 1")
    assert call("pgvigil", "maintain", "run", "partitions", "--database-url", existing.url).returncode == 0
    told = verdict(call, existing.url)
    assert named(told["findings"]) == []
    (note,) = [note for note in told["notes"] if note["object"] == "grant on table system_metrics to readonly"]
    assert note["found"] == (
        "SELECT, by ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public GRANT SELECT ON TABLES TO readonly"
    )
    existing.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT ON TABLES FROM readonly")
    assert "unexpected grant on table system_metrics to readonly" in named(verdict(call, existing.url)["findings"])


def test_migration_works_where_default_privileges_take_execute_from_public(existing: Database, call: Run) -> None:
    existing.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    done = call("pgvigil", "migrate", "--backup", "none", "--database-url", existing.url)
    assert done.returncode == 0, done.stderr


def test_event_trigger_that_changes_our_tables_is_named(existing: Database, call: Run) -> None:
    existing.execute(
        """CREATE FUNCTION auto_rls() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE c record; BEGIN
               FOR c IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE command_tag = 'CREATE TABLE' AND schema_name = 'public' LOOP
                   EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', c.object_identity); END LOOP; END $$;
           CREATE EVENT TRIGGER ensure_rls ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION auto_rls();
           CREATE EVENT TRIGGER sleeping ON sql_drop EXECUTE FUNCTION auto_rls(); ALTER EVENT TRIGGER sleeping DISABLE"""
    )
    done = call("pgvigil", "migrate", "--backup", "none", "--database-url", existing.url)
    assert done.returncode == 7
    assert "ensure_rls (ddl_command_end, public.auto_rls)" in done.stderr
    assert "ALTER EVENT TRIGGER ensure_rls DISABLE;" in done.stderr
    assert "sleeping" not in done.stderr


def test_what_an_event_trigger_adds_while_tables_are_locked_is_seen_before_the_commit(
    existing: Database, call: Run
) -> None:
    # A policy is among what is otherwise read before the lock.
    existing.execute(
        """CREATE FUNCTION late() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
               IF to_regclass('public.session_monitoring_view') IS NOT NULL THEN
                   IF NOT EXISTS (SELECT FROM pg_policy) THEN CREATE POLICY planted ON public.session_lifecycle USING (true); END IF;
               END IF; END $$;
           CREATE EVENT TRIGGER late ON ddl_command_end WHEN TAG IN ('CREATE VIEW') EXECUTE FUNCTION late()"""
    )
    done = call("scripts/run-migration.sh", "--backup", "none", "--database-url", existing.url)
    assert done.returncode == 7, done.stderr
    assert "planted" in done.stderr
    assert existing.execute("SELECT to_regnamespace('pgvigil')") == [(None,)]


def test_event_trigger_that_refuses_a_statement_is_named(existing: Database, call: Run) -> None:
    existing.execute(
        """CREATE FUNCTION no_views() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no views here'; END $$;
           CREATE EVENT TRIGGER no_views ON ddl_command_start WHEN TAG IN ('CREATE VIEW') EXECUTE FUNCTION no_views()"""
    )
    done = call("pgvigil", "migrate", "--backup", "none", "--database-url", existing.url)
    assert done.returncode == 7
    assert "no_views (ddl_command_start, public.no_views)" in done.stderr


# --- settings of the server ------------------------------------------------------------------------------------------


@pytest.mark.client_side
def test_setting_in_the_server_s_configuration_that_switches_us_off_is_found(mortal: Mortal, call: Run) -> None:
    with (mortal.server.data / "postgresql.conf").open("a") as configuration:
        configuration.write("\npgvigil.skip_activity = 'on'\n")
    with psycopg.connect(mortal.url, autocommit=True) as conn:
        conn.execute("SELECT pg_reload_conf()")
    found = verdict(call, mortal.url)["findings"]
    assert named(found) == ["different setting pgvigil.skip_activity"]
    assert found[0]["found"].startswith("on, in the server's configuration: ")
    by_hand = verdict(call, f"{mortal.url}&options={quote('-c pgvigil.instrumentation=write')}")["findings"]
    assert named(by_hand) == ["different setting pgvigil.skip_activity"]  # the call's own setting bears on nobody else


# --- repairs ---------------------------------------------------------------------------------------------------------


def test_repair_that_fails_leaves_the_check_that_was_there(fresh: Database, reference: Any) -> None:
    check = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'system_metrics_metric_type_check' AND conparentid = 0"
    fresh.execute(
        """ALTER TABLE system_metrics DROP CONSTRAINT system_metrics_metric_type_check;
           ALTER TABLE system_metrics ADD CONSTRAINT system_metrics_metric_type_check CHECK (metric_type <> 'bad');
           INSERT INTO system_metrics (metric_name, metric_value, metric_type) VALUES ('a', 1, 'worse');
           ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle"""
    )
    before = fresh.execute(check)
    with fresh.connect() as conn:
        report = validate(conn, SPEC, "public", reference=reference)
        for script in [*(finding.fix for finding in report.findings if "_check" in finding.object), fix_sql(report)]:
            with pytest.raises(psycopg.errors.CheckViolation):
                conn.execute(script)
            conn.rollback()
            assert fresh.execute(check) == before
    assert fresh.execute("SELECT tgenabled FROM pg_trigger WHERE tgname = 'log_session_lifecycle'") == [("D",)]


def test_script_of_repairs_is_one_transaction_but_for_indexes(fresh: Database, reference: Any) -> None:
    fresh.execute("ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle; DROP INDEX idx_sessions_archived_at")
    with fresh.connect() as conn:
        script = fix_sql(validate(conn, SPEC, "public", reference=reference))
    inside, after = script.split("\nCOMMIT;\n")
    assert "\nBEGIN;\n" in inside
    assert "ENABLE TRIGGER log_session_lifecycle" in inside
    assert "CONCURRENTLY" not in inside
    assert "CREATE INDEX CONCURRENTLY idx_sessions_archived_at" in after


def test_index_of_another_definition_is_replaced_when_the_new_one_is_there(fresh: Database, reference: Any) -> None:
    fresh.execute(
        "DROP INDEX idx_sessions_archived_at; CREATE INDEX idx_sessions_archived_at ON sessions (archived_at DESC)"
    )
    with fresh.connect() as conn:
        (finding,) = validate(conn, SPEC, "public", reference=reference).findings
        statements = finding.fix.split(";\n")
        assert [statement.split(" idx_")[0] for statement in statements[:3]] == [
            "CREATE INDEX CONCURRENTLY",
            "DROP INDEX CONCURRENTLY",
            "ALTER INDEX",
        ]
        for statement in statements:
            conn.execute(statement)
        assert validate(conn, SPEC, "public", reference=reference).ok


def test_repair_as_people_read_it_is_all_or_nothing(fresh: Database, call: Run) -> None:
    fresh.execute(
        """DROP VIEW performance_monitoring_view; CREATE VIEW performance_monitoring_view AS SELECT 1 AS one;
           ALTER VIEW performance_monitoring_view OWNER TO pgvigil_owner"""
    )
    told = call("pgvigil", "validate", "--database-url", fresh.url).stdout
    assert re.search(r"fix +BEGIN;\n +\| DROP VIEW performance_monitoring_view;", told)
    assert re.search(r"\| COMMIT;\n", told)


def test_partitions_follow_the_owner_that_is_wanted(fresh: Database, reference: Any) -> None:
    with fresh.connect(autocommit=False) as conn:
        conn.execute("CREATE ROLE thief; ALTER TABLE system_metrics OWNER TO thief")
        report = validate(conn, SPEC, "public", reference=reference)
        conn.rollback()
    assert [(f.object, f.fix) for f in report.findings] == [
        ("table system_metrics", "ALTER TABLE system_metrics OWNER TO pgvigil_owner;")
    ]


def test_many_objects_of_a_stranger_do_not_make_him_the_usual_owner(fresh: Database, reference: Any) -> None:
    with fresh.connect(autocommit=False) as conn:
        conn.execute("CREATE ROLE thief; GRANT CREATE ON SCHEMA pgvigil TO thief; SET ROLE thief")
        for number in range(400):
            conn.execute(f"CREATE FUNCTION pgvigil.f{number}() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
        conn.execute("RESET ROLE")
        script = fix_sql(validate(conn, SPEC, "public", reference=reference))
        conn.rollback()
    assert "TO thief" not in script


def test_what_another_owner_made_is_not_attached_adopted_or_given_rights(fresh: Database, reference: Any) -> None:
    with fresh.connect(autocommit=False) as conn:
        conn.execute(
            """CREATE ROLE thief;
               CREATE TABLE performance_logs_p203101 (LIKE performance_logs); ALTER TABLE performance_logs_p203101 OWNER TO thief;
               DROP FUNCTION pgvigil.reactivate_session(uuid);
               CREATE FUNCTION pgvigil.reactivate_session(uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true';
               ALTER FUNCTION pgvigil.reactivate_session(uuid) OWNER TO thief;
               DROP TABLE pgvigil.displaced_tables; CREATE TABLE pgvigil.displaced_tables (id integer); ALTER TABLE pgvigil.displaced_tables OWNER TO thief"""
        )
        report = validate(conn, SPEC, "public", reference=reference)
        conn.rollback()
    script = fix_sql(report)
    statements = [line for line in script.splitlines() if not line.startswith("--")]
    assert not [line for line in statements if re.search(r"ATTACH|OWNER TO|GRANT", line)]
    assert "belongs to thief" in str([finding.found for finding in report.findings])


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.write(NAME, "text")
    return tmp_path / "pgvigil"


NAME = f"spec-{'0' * 64}.json"


@pytest.mark.client_side
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_cached_file_that_others_can_write_is_not_read(folder: Path, mode: int) -> None:
    assert cache.read(NAME) == "text"
    (folder / NAME).chmod(mode)
    assert cache.read(NAME) is None


@pytest.mark.client_side
def test_cache_in_a_directory_that_others_can_write_is_not_read_nor_written(folder: Path) -> None:
    folder.chmod(0o777)
    assert cache.read(NAME) is None
    cache.write(f"spec-{'1' * 64}.json", "more")
    assert [path.name for path in folder.iterdir()] == [NAME]


@pytest.mark.client_side
def test_link_in_the_cache_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("text")
    (folder / NAME).unlink()
    (folder / NAME).symlink_to(tmp_path / "elsewhere")
    assert cache.read(NAME) is None


@pytest.mark.client_side
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_cached_file_of_another_user_is_not_read(folder: Path) -> None:
    os.chown(folder / NAME, 65534, 65534)
    assert cache.read(NAME) is None


@pytest.mark.client_side
def test_pruning_leaves_what_is_not_ours(folder: Path) -> None:
    others = [folder / "notes.txt", folder / "reference.json", folder / "directory"]
    others[0].write_text("mine")
    others[1].write_text("mine")
    others[2].mkdir()
    for path in others:
        os.utime(path, (0, 0))
    for number in range(cache.KEPT + 3):
        cache.write(f"spec-{number:064x}.json", "text")
    assert all(path.exists() for path in others)
    assert len(list(folder.glob("spec-*"))) == cache.KEPT


def made(url: str, role: str = "") -> Reference:
    target = parse_url(url + (f"&options=-c%20role%3D{role}" if role else ""), "tests")
    with connect(target, "tests") as conn:
        reference = Reference(target, lambda: conn, lambda: SPEC, project.INIT_SQL, lambda _: "public")
        reference.thread.join()
    return reference


@pytest.mark.client_side
def test_reference_of_one_server_is_not_taken_for_another(fresh: Database, folder: Path) -> None:
    assert made(fresh.url).outcome()[0] is not None
    with Server(servers()[fresh.server.major]) as other:
        with psycopg.connect(other.dsn(), autocommit=True) as conn:
            for role in SPEC.roles:
                conn.execute(f"CREATE ROLE {role}")
        assert made(other.dsn()).outcome()[0] is not None
    assert len(list(folder.glob("reference-*"))) == 2


@pytest.fixture
def only_stored(fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database that is the only place of its reference: making `fresh` may leave another copy in the usual folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return fresh


@pytest.mark.parametrize(
    "gift",
    [
        "ALTER TABLE pgvigil.reference_snapshots OWNER TO scribe",
        "GRANT UPDATE ON pgvigil.reference_snapshots TO scribe",
        "ALTER SCHEMA pgvigil OWNER TO scribe",
        "GRANT pg_write_all_data TO scribe",
    ],
)
def test_kept_reference_that_a_role_could_have_written_is_compared_with_only_if_its_digest_is_shipped(
    only_stored: Database, gift: str
) -> None:
    only_stored.execute("CREATE ROLE scribe LOGIN")
    try:
        only_stored.execute(gift)
        snapshot, unchecked = made(only_stored.url, "pgvigil_reader").outcome()
        assert (snapshot is not None, unchecked) == (True, ())
        only_stored.execute(
            """UPDATE pgvigil.reference_snapshots SET made_at = '2026-01-02 03:04Z',
                      snapshot = replace(snapshot, '"STABLE"', '"VOLATILE"')"""
        )
        snapshot, (unchecked,) = made(only_stored.url, "pgvigil_reader").outcome()
        assert snapshot is None
        assert unchecked.reason.startswith(
            "the role may not create databases, and the copy in pgvigil.reference_snapshots, of 2026-01-02 03:04 UTC,"
            " could have been written by scribe. Run this as a role that may create databases"
        )
    finally:
        only_stored.execute("REASSIGN OWNED BY scribe TO CURRENT_USER; DROP OWNED BY scribe; DROP ROLE scribe")


def test_kept_reference_that_superusers_alone_could_have_written_is_compared_with(only_stored: Database) -> None:
    snapshot, unchecked = made(only_stored.url, "pgvigil_reader").outcome()
    assert snapshot is not None
    assert unchecked == ()
