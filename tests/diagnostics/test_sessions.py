"""Instrumented sessions with server processes of their own: who may end whom, what is left of the dead, and who may see it."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from conftest import Connection, Database, Run, application, wait_until
from pgvigil import project
from pgvigil.database import parse_url
from pgvigil.diagnostics import sessions
from pgvigil.live import Sampler
from pgvigil.validate.diff.reference import without_psql

pytestmark = pytest.mark.oldest_and_newest

READ_ONLY = "Cannot modify the instrumentation tables. They are read-only for client sessions."


@dataclass
class Client:
    """A connection with its session."""

    connection: Connection
    instance: UUID
    session: UUID

    def __post_init__(self) -> None:
        self.pid = self.connection.info.backend_pid

    def run(self, query: LiteralString) -> threading.Thread:
        """Run it in a thread, which ends when the statement or the connection ends."""

        def execute() -> None:
            with suppress(psycopg.Error):
                self.connection.execute(query)

        thread = threading.Thread(target=execute)
        thread.start()
        return thread


class World:
    """A set of roles with and without rights, and clients that log in as them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.opened = ExitStack()
        database.execute(
            """DO $$ BEGIN
                   CREATE ROLE s_admin LOGIN IN ROLE pgvigil_admin; CREATE ROLE s_writer LOGIN IN ROLE pgvigil_writer;
                   CREATE ROLE s_reader LOGIN IN ROLE pgvigil_reader; CREATE ROLE s_none LOGIN; CREATE ROLE s_application LOGIN IN ROLE pgvigil_writer;
               EXCEPTION WHEN duplicate_object THEN NULL; END $$"""
        )

    def connect(self, user: str = "postgres", **options: Any) -> Connection:
        connection = self.database.connect(user=user, **options)
        self.opened.callback(connection.close)
        return connection

    def client(self, user: str = "s_application", *, autocommit: bool = True) -> Client:
        connection = self.connect(user)
        row = connection.execute("SELECT instrumentation.register_instance('host') AS instance").fetchone()
        assert row
        session = connection.execute("SELECT instrumentation.register_session(%s)", row).fetchone()
        assert session
        connection.autocommit = autocommit
        return Client(connection, row[0], session[0])

    def kill(self, session: UUID, mode: str = "terminate", *, user: str = "s_admin", grace: str = "5 s") -> Any:
        with self.database.connect(user=user) as connection:
            return connection.execute(
                "SELECT * FROM instrumentation.kill_session(%s, %s, %s::interval)", (session, mode, grace)
            ).fetchone()

    def session(self, session: UUID) -> tuple[str, str | None]:
        rows = self.database.execute(
            "SELECT status::text, stop_reason FROM instrumentation.sessions WHERE session_id = %s", (session,)
        )
        return rows[0][0], rows[0][1]

    def statement(self, session: UUID) -> tuple[str, str | None]:
        rows = self.database.execute(
            "SELECT status::text, error_message FROM instrumentation.sql_statements WHERE session_id = %s", (session,)
        )
        return rows[0][0], rows[0][1]

    def write(self, statement: LiteralString, *parameters: Any) -> None:
        """Write as the functions do, which is not allowed to any client."""
        with self.connect() as connection:
            connection.execute("SELECT set_config('pgvigil.instrumentation', 'write', false)")
            connection.execute(statement, parameters)

    def is_running(self, pid: int, what: str) -> bool:
        return bool(
            self.database.execute(
                "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active' AND query LIKE %s",
                (pid, f"%{what}%"),
            )
        )

    def is_there(self, pid: int) -> bool:
        return bool(self.database.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)))


@pytest.fixture
def bystander(shared: Database) -> World:
    """A world for tests that only read."""
    return World(shared)


@pytest.fixture
def world(fresh: Database) -> Iterator[World]:
    world = World(fresh)
    with world.opened:
        yield world
        fresh.execute(  # a thread may still wait for one of them
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            (fresh.name,),
        )


# ── Ending a session ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_session_is_killed_in_the_middle_of_a_transaction_in_which_it_has_locked_its_own_row(world: World) -> None:
    target = world.client(autocommit=False)
    target.connection.execute("SELECT instrumentation.record_statement('SELECT for ever', 'executing')")
    target.connection.commit()
    target.connection.execute('SELECT instrumentation.set_session_tag(\'{"half": "done"}\')')
    assert world.kill(target.session) == (True, "terminated")
    assert not world.is_there(target.pid)
    assert world.session(target.session) == ("killed", "killed by s_admin")
    assert world.statement(target.session) == ("cancelled", "cancelled by s_admin")
    assert world.database.execute("SELECT session_tag FROM instrumentation.sessions") == [({},)]


def test_killing_twice_is_a_success(world: World) -> None:
    target = world.client()
    world.kill(target.session)
    assert world.kill(target.session) == (True, "already killed")


def test_cancel_ends_the_statement_and_leaves_the_session(world: World) -> None:
    target = world.client()
    running = target.run("SELECT pg_sleep(60)")
    wait_until(lambda: world.is_running(target.pid, "pg_sleep"))
    assert world.kill(target.session, "cancel") == (True, "cancelled its statement")
    running.join(10)
    assert target.connection.execute("SELECT 1").fetchone() == (1,)
    assert world.session(target.session) == ("active", None)


def test_escalate_terminates_what_survives_being_cancelled(world: World) -> None:
    target = world.client()
    running = target.run(
        "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"
    )
    wait_until(lambda: world.is_running(target.pid, "pg_sleep"))
    assert world.kill(target.session, "escalate", grace="100 ms") == (True, "terminated")
    running.join(10)
    assert world.session(target.session) == ("killed", "killed by s_admin")


def test_a_process_that_has_the_pid_of_a_dead_session_is_left_alone(world: World) -> None:
    target = world.client()
    world.write("UPDATE instrumentation.sessions SET backend_start = backend_start - interval '1 second'")
    ok, reason = world.kill(target.session)
    assert (ok, reason) == (
        False,
        f"Session has lost its server process: {target.pid} is another one now; reap_stale will close the session",
    )
    assert world.is_there(target.pid)


def test_a_server_process_that_is_no_client_is_left_alone(world: World) -> None:
    target = world.client()
    world.write(
        """UPDATE instrumentation.sessions s SET backend_pid = a.pid, backend_start = a.backend_start
           FROM pg_stat_activity a WHERE a.backend_type = 'checkpointer'"""
    )
    ok, reason = world.kill(target.session, user="postgres")
    assert (ok, reason.endswith("is a checkpointer, not a client backend")) == (False, True)


def test_a_superuser_is_killed_by_superusers_only(world: World) -> None:
    target = world.client("postgres")
    refused = (False, "Session belongs to superuser postgres: only a superuser can kill it")
    assert world.kill(target.session) == refused
    assert world.kill(target.session, user="postgres") == (True, "terminated")


def test_a_session_behind_a_transaction_pooler_has_no_process_to_kill(world: World) -> None:
    application = world.client()
    pooled = world.database.execute(
        "SELECT instrumentation.register_session(%s, pid => NULL)", (application.instance,)
    )[0][0]
    ok, reason = world.kill(pooled)
    assert (ok, reason) == (False, "Session has no server process of its own: it is behind a transaction pooler")


@pytest.mark.parametrize("user", ["s_writer", "s_reader", "s_none"])
def test_only_admins_kill(world: World, user: str) -> None:
    target = world.client()
    assert world.kill(target.session, user=user) == (False, "Only members of pgvigil_admin can kill sessions")
    assert world.is_there(target.pid)


def test_nobody_kills_himself(world: World) -> None:
    admin = world.client("s_application")
    world.database.execute("GRANT pgvigil_admin TO s_application")
    try:
        done = admin.connection.execute("SELECT * FROM instrumentation.kill_session(%s)", (admin.session,)).fetchone()
    finally:
        world.database.execute("REVOKE pgvigil_admin FROM s_application")
    assert done == (False, "Cannot kill your own session")


def test_what_is_no_session_is_not_found(world: World) -> None:
    stranger = uuid4()
    assert world.kill(stranger) == (False, f"Session not found: {stranger}")


def test_a_session_that_has_ended_is_not_killed(world: World) -> None:
    target = world.client()
    target.connection.execute("SELECT instrumentation.close_session(reason => 'done')")
    assert world.kill(target.session) == (False, "Session is not active: closed, done")


def test_each_attempt_is_recorded_with_who_made_it_and_why_it_failed(world: World) -> None:
    target = world.client()
    world.kill(target.session, user="s_none")
    world.kill(target.session, "shoot")
    world.kill(target.session)
    assert world.database.execute(
        "SELECT actor, mode, ok, reason FROM instrumentation.kill_attempts ORDER BY attempt_id"
    ) == [
        ("s_none", "terminate", False, "Only members of pgvigil_admin can kill sessions"),
        ("s_admin", "shoot", False, "Unknown mode shoot: it is cancel, terminate or escalate"),
        ("s_admin", "terminate", True, "terminated"),
    ]


def test_an_admin_who_goes_round_kill_session_leaves_the_same_trail(world: World) -> None:
    target = world.client()
    with world.connect("s_admin") as admin:
        admin.execute("SELECT * FROM instrumentation.signal_session(%s, 'terminate', '5 s')", (target.session,))
    assert world.session(target.session) == ("killed", "killed by s_admin")
    assert world.database.execute("SELECT actor, ok, reason FROM instrumentation.kill_attempts") == [
        ("s_admin", True, "terminated")
    ]


def test_nobody_records_as_ended_what_he_has_not_ended(world: World) -> None:
    target = world.client()
    with world.connect("s_admin") as admin, pytest.raises(errors.InsufficientPrivilege):
        admin.execute(
            "SELECT instrumentation.finish_kill(%s, 'terminate', true, 'terminated', true)", (target.session,)
        )


def test_an_owner_who_may_not_signal_says_what_he_lacks(database: Database) -> None:
    database.execute("CREATE ROLE s_owner LOGIN")
    database.execute(f"ALTER DATABASE {database.name} OWNER TO s_owner")
    with database.connect(user="s_owner") as owner:
        owner.execute("SET ROLE s_owner")
        database.execute("ALTER SCHEMA public OWNER TO s_owner")
        owner.execute(without_psql(project.INIT_SQL.read_text()))
    world = World(database)
    with world.opened:
        target = world.client()
        assert world.kill(target.session) == (
            False,
            f"Cannot tell whether process {target.pid} is still that of the session: s_owner needs pg_read_all_stats",
        )
        database.execute("GRANT pg_read_all_stats TO s_owner")
        target = world.client()
        assert world.kill(target.session) == (
            False,
            "s_owner may not signal the session's process: it needs pg_signal_backend (GRANT pg_signal_backend TO s_owner: "
            "it may then end the sessions of everybody but superusers)",
        )
        database.execute("GRANT pg_signal_backend TO s_owner")
        assert world.kill(target.session) == (True, "terminated")


# ── What the dead leave behind ────────────────────────────────────────────────────────────────────────────────────────


def reap(world: World) -> Any:
    with world.connect("s_admin") as admin:
        return admin.execute("SELECT * FROM instrumentation.reap_stale()").fetchone()


def test_the_session_and_statement_of_a_crashed_process_are_closed(world: World) -> None:
    target = world.client()
    target.connection.execute("SELECT instrumentation.record_statement('SELECT for ever', 'executing')")
    target.connection.close()  # as the kernel does for a process that was killed
    wait_until(lambda: not world.is_there(target.pid))
    assert reap(world) == (0, 1, 1)
    assert world.session(target.session) == ("error", "backend gone")
    assert world.statement(target.session) == ("error", "backend gone")


def test_an_instance_without_a_heartbeat_is_stopped_and_its_sessions_with_it(world: World) -> None:
    target = world.client()
    world.write("UPDATE instrumentation.instances SET heartbeat_at = heartbeat_at - interval '61 s'")
    assert reap(world) == (1, 1, 0)
    assert world.session(target.session) == ("timeout", "heartbeat missed")


def test_a_late_heartbeat_revives_the_instance_and_what_of_it_is_still_connected(world: World) -> None:
    target = world.client()
    world.write("UPDATE instrumentation.instances SET heartbeat_at = heartbeat_at - interval '61 s'")
    reap(world)
    assert target.connection.execute("SELECT instrumentation.heartbeat(%s)", (target.instance,)).fetchone() == (True,)
    assert world.session(target.session) == ("active", None)
    assert world.database.execute("SELECT status::text, stop_reason FROM instrumentation.instances") == [
        ("running", None)
    ]


def test_whoever_lives_closes_what_the_dead_have_left(world: World) -> None:
    living, dead = world.client(), world.client()
    dead.connection.close()
    wait_until(lambda: not world.is_there(dead.pid))
    living.connection.execute("SELECT instrumentation.heartbeat(%s)", (living.instance,))
    assert world.session(dead.session) == ("error", "backend gone")


def test_reaping_does_not_wait_for_a_transaction_in_which_a_session_was_tagged(world: World) -> None:
    target = world.client(autocommit=False)
    target.connection.execute("SELECT instrumentation.set_session_tag('{}')")
    world.write("UPDATE instrumentation.instances SET heartbeat_at = heartbeat_at - interval '61 s'")
    assert reap(world) == (1, 0, 0)
    target.connection.rollback()
    assert reap(world) == (0, 1, 0)


def test_the_sessions_from_before_a_restart_of_the_server_are_closed(world: World) -> None:
    target, other = world.client(), world.client()
    # After a restart the pid may well be somebody else's.
    world.write(
        """UPDATE instrumentation.sessions SET backend_start = pg_postmaster_start_time() - interval '1 hour', backend_pid = %s
           WHERE session_id = %s""",
        other.pid,
        target.session,
    )
    assert reap(world) == (0, 1, 0)
    assert world.session(target.session) == ("error", "postmaster restarted")
    assert world.session(other.session) == ("active", None)


def test_the_job_forgets_sessions_and_instances_past_their_time(world: World) -> None:
    target, kept = world.client(), world.client()
    for client in (target, kept):
        client.connection.execute("SELECT instrumentation.stop_instance()")
    with world.connect() as connection:
        connection.execute("SELECT set_config('pgvigil.instrumentation', 'write', false)")
        for table in ("sessions", "instances"):
            connection.execute(
                f"UPDATE instrumentation.{table} SET stop_time = stop_time - interval '31 days' WHERE instance_id = %s".encode(),
                (target.instance,),
            )
    world.database.execute("CALL pgvigil.run_job('reap')")
    assert world.database.execute("SELECT instance_id, session_id FROM instrumentation.session_activity") == [
        (kept.instance, kept.session)
    ]


def test_statements_past_their_time_go_by_the_partition(world: World) -> None:
    application = world.client()
    world.database.execute(
        "SELECT pgvigil.ensure_partitions('instrumentation.sql_statements', now() - interval '10 days')"
    )
    old = "pgvigil.uuid_v7_floor(now() - interval '9 days')"
    application.connection.execute(
        f"SELECT instrumentation.record_statement('old', statement => {old}), instrumentation.record_statement('new')".encode()
    )
    world.database.execute("CALL pgvigil.run_job('retention')")
    assert world.database.execute("SELECT sql_text FROM instrumentation.sql_statements") == [("new",)]
    assert world.database.execute(
        "SELECT count(*) FROM pgvigil.partitions WHERE to_time < now() - interval '8 days'"
    ) == [(0,)]


def test_a_statement_that_waited_in_the_default_partition_gets_one_of_its_time(world: World) -> None:
    application = world.client()
    application.connection.execute(
        "SELECT instrumentation.record_statement('late', statement => pgvigil.uuid_v7_floor(now() - interval '3 days'))"
    )
    world.database.execute("CALL pgvigil.run_job('partitions')")
    assert world.database.execute(
        "SELECT sql_text, tableoid::regclass::text LIKE '%\\_p2%' FROM instrumentation.sql_statements"
    ) == [("late", True)]


# ── Applications that cannot be changed ───────────────────────────────────────────────────────────────────────────────


def sample(sampler: Client) -> Any:
    [texts] = sampler.connection.execute("SELECT instrumentation.sampled_texts(%s)", (sampler.instance,)).fetchone()
    query = "SELECT instrumentation.sample_activity(%s, %s, %s)"
    return sampler.connection.execute(query, (sampler.instance, texts, texts)).fetchone()


SAMPLED = """SELECT t.status::text, t.sql_text, t.source FROM instrumentation.sql_statements t
             JOIN instrumentation.sessions s USING (session_id) WHERE s.backend_pid = %s"""


def test_a_sampled_statement_is_one_row_from_its_beginning_to_its_end(world: World) -> None:
    sampler, other = world.client("s_admin"), world.connect("s_none")
    running = Client(other, uuid4(), uuid4()).run("SELECT pg_sleep(60) AS seen")
    wait_until(lambda: world.is_running(other.info.backend_pid, "seen"))
    sample(sampler)
    sample(sampler)
    assert world.database.execute(SAMPLED, (other.info.backend_pid,)) == [
        ("executing", "SELECT pg_sleep(60) AS seen", "sampler")
    ]
    other.cancel()
    running.join(10)
    sample(sampler)
    assert world.database.execute(SAMPLED, (other.info.backend_pid,)) == [
        ("success", "SELECT pg_sleep(60) AS seen", "sampler")
    ]


def test_who_instruments_himself_is_not_sampled(world: World) -> None:
    sampler, target = world.client("s_admin"), world.client()
    target.connection.execute("SELECT 'mine'")
    sample(sampler)
    assert world.database.execute(SAMPLED, (target.pid,)) == []


def test_a_name_like_that_of_pgvigil_hides_nobody_from_the_sampler(world: World) -> None:
    sampler, other = world.client("s_admin"), world.connect("s_none", application_name="pgvigil recorder")
    other.execute("SELECT 'hidden'")
    sample(sampler)
    assert world.database.execute(SAMPLED, (other.info.backend_pid,)) == [("success", "SELECT 'hidden'", "sampler")]


def test_a_process_that_was_registered_twice_is_sampled_once(world: World) -> None:
    sampler, other = world.client("s_admin"), world.connect("s_none")
    other.execute("SELECT 'once'")
    sample(sampler)
    world.database.execute(
        "SELECT instrumentation.register_session(%s, gen_random_uuid(), %s)", (sampler.instance, other.info.backend_pid)
    )
    other.execute("SELECT 'twice'")
    sample(sampler)
    assert len(world.database.execute(SAMPLED, (other.info.backend_pid,))) == 2


def test_a_statement_whose_text_did_not_come_back_is_left_to_the_next_sample(world: World) -> None:
    sampler, other = world.client("s_admin"), world.connect("s_none")
    other.execute("SELECT 'verbatim'")
    sampler.connection.execute("SELECT instrumentation.sample_activity(%s, '{}', '{}')", (sampler.instance,))
    assert world.database.execute(SAMPLED, (other.info.backend_pid,)) == []


@pytest.mark.parametrize("cut", ["", "'"], ids=["cut off", "whole"])
def test_the_sampler_stores_no_secret(world: World, cut: str) -> None:
    other = world.connect("s_none")
    running = Client(other, uuid4(), uuid4()).run(f"SELECT pg_sleep(60) -- ALTER ROLE nobody PASSWORD 'hunter2{cut}")
    with Sampler(world.database.url, every=0.02) as sampler:
        wait_until(lambda: world.database.execute(SAMPLED, (other.info.backend_pid,)))
        assert sampler.stats().errors == 0, sampler.stats()
    other.cancel()
    running.join(10)
    texts = world.database.execute("SELECT sql_text FROM instrumentation.sql_statements")
    assert "hunter2" not in str(texts)
    assert "ALTER ROLE nobody PASSWORD ***" in str(texts)


# ── Rights ────────────────────────────────────────────────────────────────────────────────────────────────────────────

ADMINS = {"s_admin"}
READERS = {"s_admin", "s_reader"}
WRITERS = {"s_admin", "s_writer"}
EVERYBODY = {"s_admin", "s_writer", "s_reader", "s_none"}
NOBODY: set[str] = set()
FUNCTIONS = {
    **dict.fromkeys(("current_session", "current_instance", "caller", "may_read", "kill_session"), EVERYBODY),
    **dict.fromkeys(("set_session_tag", "set_query_tag", "judge_kill"), EVERYBODY),
    **dict.fromkeys(("register_instance", "register_session", "close_session", "stop_instance"), WRITERS),
    **dict.fromkeys(("record_statement", "unknown_sessions", "heartbeat"), WRITERS),
    **dict.fromkeys(("reap_stale", "sampled_texts", "sample_activity", "signal_session"), ADMINS),
    **dict.fromkeys(("guard", "guard_appended", "speaks_for", "require_speaker"), NOBODY),
    **dict.fromkeys(("record_kill", "signal_process", "finish_kill"), NOBODY),
}
READABLE = {
    **dict.fromkeys(("instances", "sessions", "active_sessions", "session_stats", "session_activity"), READERS),
    **dict.fromkeys(("sql_statements", "kill_attempts"), ADMINS),
}


def test_each_role_may_call_what_it_is_for_and_nothing_else(bystander: World) -> None:
    rows = bystander.database.execute(
        """SELECT p.proname, array_agg(r.rolname) FILTER (WHERE has_function_privilege(r.oid, p.oid, 'EXECUTE'))
           FROM pg_proc p CROSS JOIN pg_roles r
           WHERE p.pronamespace = 'instrumentation'::regnamespace AND r.rolname = ANY (%s) GROUP BY p.proname""",
        (list(EVERYBODY),),
    )
    assert {name: set(roles or []) for name, roles in rows} == FUNCTIONS


def test_each_role_may_read_what_it_is_for_and_nothing_else(bystander: World) -> None:
    rows = bystander.database.execute(
        """SELECT c.relname, array_agg(r.rolname) FILTER (WHERE has_table_privilege(r.oid, c.oid, 'SELECT'))
           FROM pg_class c CROSS JOIN pg_roles r
           WHERE c.relnamespace = 'instrumentation'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition AND r.rolname = ANY (%s)
           GROUP BY c.relname""",
        (list(EVERYBODY),),
    )
    assert {name: set(roles or []) for name, roles in rows} == READABLE


@pytest.mark.parametrize("user", sorted(EVERYBODY))
def test_no_role_may_change_a_row(bystander: World, user: str) -> None:
    rows = bystander.database.execute(
        """SELECT DISTINCT c.relname || ' ' || p FROM pg_class c CROSS JOIN unnest('{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) p
           WHERE c.relnamespace = 'instrumentation'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND has_table_privilege(%s, c.oid, p)""",
        (user,),
    )
    assert rows == ([("sql_statements INSERT",)] if user == "s_writer" else [])


def test_a_recorder_appends_by_copy(world: World) -> None:
    application = world.client("s_writer")
    with application.connection.transaction():
        application.connection.execute("SELECT set_config('pgvigil.instrumentation', 'write', true)")
        with application.connection.cursor().copy(
            "COPY instrumentation.sql_statements (session_id, sql_text, status) FROM STDIN"
        ) as copy:
            copy.write_row((application.session, "SELECT 1", "success"))
    assert world.statement(application.session) == ("success", None)


def test_whoever_is_no_recorder_is_told_that_the_tables_are_read_only(world: World) -> None:
    application = world.client("s_writer")
    with pytest.raises(errors.InsufficientPrivilege) as refused:
        application.connection.execute(
            "INSERT INTO instrumentation.sql_statements (session_id) VALUES (%s)", (application.session,)
        )
    assert refused.value.diag.message_primary == READ_ONLY


# ── Attacks ───────────────────────────────────────────────────────────────────────────────────────────────────────────

# Every function and operator of the server's that a function of ours might mean is there a second time, with the very same
# types, in a schema that the attacker's path names first. Whoever calls one as somebody else has been turned.
TRAPS = """
DO $$
DECLARE
    one     record;
    sources text := (SELECT string_agg(prosrc, ' ') FROM pg_proc WHERE pronamespace = ANY ('{pgvigil,instrumentation}'::regnamespace[]) AND prosecdef);
    called  text[] := ARRAY(SELECT DISTINCT (regexp_matches(sources, '\\m(\\w+)\\(', 'g'))[1]);
    meant   oid[] := ARRAY(SELECT oprcode FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND strpos(sources, ' ' || oprname || ' ') > 0);
BEGIN
    FOR one IN SELECT p.oid, p.proname, pg_get_function_identity_arguments(p.oid) AS arguments, format_type(p.prorettype, NULL) AS result
               FROM pg_proc p JOIN pg_type r ON r.oid = p.prorettype
               WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset AND r.typtype <> 'p' AND p.provariadic = 0
                 AND NOT EXISTS (SELECT FROM unnest(p.proargtypes) a JOIN pg_type t ON t.oid = a WHERE t.typtype = 'p') AND p.proargmodes IS NULL
                 AND (p.proname = ANY (called) OR p.oid = ANY (meant))
    LOOP
        EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN
                            IF current_user OPERATOR(pg_catalog.<>) %L::pg_catalog.name THEN RAISE EXCEPTION ''TURNED by %s''; END IF;
                            RETURN NULL;
                        END $f$', one.proname, one.arguments, one.result, 's_application', one.proname);
    END LOOP;
    FOR one IN SELECT o.oprname, o.oprleft::regtype AS left_, o.oprright::regtype AS right_, p.oid::regprocedure AS function
               FROM pg_operator o JOIN pg_proc c ON c.oid = o.oprcode
               JOIN pg_proc p ON p.pronamespace = 'evil'::regnamespace AND p.proname = c.proname AND p.proargtypes = c.proargtypes
               WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft <> 0 LOOP
        EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.%s)', one.oprname, one.left_, one.right_,
                       (SELECT proname FROM pg_proc WHERE oid = one.function));
    END LOOP;
END $$;
DO $$
DECLARE
    one text;
BEGIN
    FOR one IN SELECT DISTINCT c.relname FROM pg_class c
               WHERE c.relkind IN ('r', 'p', 'v') AND (c.relnamespace = ANY ('{pgvigil,instrumentation,public}'::regnamespace[])
                                                  OR c.relname = ANY ('{pg_stat_activity,pg_roles,pg_locks}'::name[])) LOOP
        EXECUTE format('CREATE TEMP TABLE %I (trap integer)', one);
    END LOOP;
END $$;
SET standard_conforming_strings = off;
SET transform_null_equals = on;
SET quote_all_identifiers = on;
SET array_nulls = off;
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'sql_standard';
SET TimeZone = 'Pacific/Apia';
SET extra_float_digits = -15;
SET pgvigil.session_id = '\\x';
SET search_path = pg_temp, evil, pg_catalog, public;
"""
CALLS = {
    "register_instance": "SELECT instrumentation.register_instance('h', 'v', '{}', '00000000-0000-7000-8000-000000000001')",
    "register_session": "SELECT instrumentation.register_session('00000000-0000-7000-8000-000000000001')",
    "current_session": "SELECT instrumentation.current_session()",
    "current_instance": "SELECT instrumentation.current_instance()",
    "set_session_tag": "SELECT instrumentation.set_session_tag('{}')",
    "record_statement": "SELECT instrumentation.record_statement('SELECT 1', 'executing', tag => '{}')",
    "guard_appended require_speaker": """SELECT pg_catalog.set_config('pgvigil.instrumentation', 'write', false);
        INSERT INTO instrumentation.sql_statements (session_id) SELECT instrumentation.current_session();
        SELECT pg_catalog.set_config('pgvigil.instrumentation', '', false)""",
    "unknown_sessions": "SELECT instrumentation.unknown_sessions('{00000000-0000-7000-8000-000000000001}')",
    "heartbeat": "SELECT instrumentation.heartbeat('00000000-0000-7000-8000-000000000001')",
    "reap_stale": "SELECT * FROM instrumentation.reap_stale()",
    "sampled_texts": "SELECT instrumentation.sampled_texts('00000000-0000-7000-8000-000000000001')",
    "sample_activity": "SELECT instrumentation.sample_activity('00000000-0000-7000-8000-000000000001', '{}', '{}')",
    "judge_kill": "SELECT * FROM instrumentation.kill_session(instrumentation.current_session())",
    "signal_session": "SELECT * FROM instrumentation.signal_session(instrumentation.current_session(), 'terminate', '1 s')",
    "finish_kill": "SELECT instrumentation.finish_kill(instrumentation.current_session(), 'cancel', true, 'x', false)",
    "close_session": "SELECT instrumentation.close_session()",
    "stop_instance": "SELECT instrumentation.stop_instance('00000000-0000-7000-8000-000000000001')",
    "log_session_created": "INSERT INTO public.sessions (session_key, agent_from) VALUES ('a', 'x'), ('b', 'x')",
    "log_session_change": "UPDATE public.sessions SET status = 'completed'",
    "count_added_context": """INSERT INTO public.context_history (session_id, sequence_number, context_type, content)
                              SELECT id, 1, 'message', 'x' FROM public.sessions""",
    "guard_policy_hold": "UPDATE public.sessions SET retention_policy = 'short'",
    "count_changed_context guard_archived_session": "UPDATE public.context_history SET content = 'longer'",
    "count_removed_context": "DELETE FROM public.context_history",
    "clear_session_counters guard_archived_children": "TRUNCATE public.context_history",
    "archive_deleted_session guard_legal_hold": "DELETE FROM public.sessions",
    "lapse_consent_by_status": "DELETE FROM pgvigil.final_statuses",
    "refresh_default_expiry lapse_consent": "UPDATE pgvigil.retention_policies SET active_hours = 1",
    "protect_held_policy": "UPDATE pgvigil.retention_policies SET policy = 'brief' WHERE policy = 'short'",
    "waiting_rows": "SELECT * FROM pgvigil.waiting_rows()",
    "push_holds": "SELECT pgvigil.push_holds('x', '1 hour', '{}', false)",
    "begin_job job_step report_job": "CALL pgvigil.run_job('counters')",
    "recount_session_counters": "SELECT * FROM pgvigil.recount_session_counters()",
    "backfill_session_counters_step": "SELECT pgvigil.backfill_session_counters_step('{}')",
    "copy_legacy_tables_step": "SELECT pgvigil.copy_legacy_tables_step('{}')",
    "archive_truncated_sessions guard_legal_holds": "TRUNCATE public.sessions CASCADE",
    "register_monitor": "SELECT pgvigil.register_monitor('00000000-0000-7000-8000-000000000001', 'a', 'h', 1, '10 s')",
    "report_monitor": "SELECT * FROM pgvigil.report_monitor('00000000-0000-7000-8000-000000000001', 1, '{}', '{}', '{}')",
    "own_session_monitor": "SELECT * FROM pgvigil.own_session_monitor()",
    "set_monitor_logging": "SELECT pgvigil.set_monitor_logging('a', '1 minute')",
}


def ambush(world: World) -> Connection:
    world.database.execute("CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO s_application")
    attacker = world.connect("s_application")
    attacker.execute(TRAPS)
    return attacker


def test_no_function_with_its_owners_rights_is_turned_by_path_settings_or_temporary_objects(world: World) -> None:
    world.database.execute(
        "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public, pgvigil TO s_application;"
        "GRANT USAGE ON SCHEMA pgvigil TO s_application; GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgvigil, instrumentation TO s_application"
    )
    ours = world.database.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = ANY ('{pgvigil,instrumentation}'::regnamespace[]) AND prosecdef"
    )
    assert {name for (name,) in ours} == {name for names in CALLS for name in names.split()}
    jobs = [job for (job,) in world.database.execute("SELECT job FROM pgvigil.jobs WHERE NOT needs_client")]
    with ambush(world) as attacker:
        for statement in (*CALLS.values(), *(f"CALL pgvigil.run_job('{job}')" for job in jobs)):
            attacker.execute(statement.encode())
    assert world.database.execute("SELECT status::text, username FROM instrumentation.sessions ORDER BY 2") == [
        ("closed", "s_application")
    ]


def test_the_same_attack_turns_a_function_whose_path_is_not_pinned(world: World) -> None:
    world.database.execute(
        "CREATE FUNCTION pgvigil.loose() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN current_setting(''x'', true); END'"
    )
    with ambush(world) as attacker, pytest.raises(errors.RaiseException, match="TURNED by current_setting"):
        attacker.execute("SELECT pgvigil.loose()")


def test_nobody_but_their_owner_can_put_anything_beside_the_functions(bystander: World) -> None:
    assert (
        bystander.database.execute(
            """SELECT r.rolname, n.nspname FROM pg_roles r, pg_namespace n
           WHERE r.rolname = ANY (%s) AND n.nspname IN ('pgvigil', 'instrumentation') AND has_schema_privilege(r.oid, n.oid, 'CREATE')""",
            (list(EVERYBODY),),
        )
        == []
    )


def test_the_right_to_kill_is_not_taken_from_a_setting_or_a_function_in_between(world: World) -> None:
    target = world.client()
    world.database.execute(
        """CREATE FUNCTION public.kill(session uuid) RETURNS text LANGUAGE sql SECURITY DEFINER
           RETURN (SELECT reason FROM instrumentation.kill_session(session))"""
    )
    with world.connect("s_none") as attacker:
        attacker.execute("SET pgvigil.actor = 's_admin'")
        reason = attacker.execute("SELECT public.kill(%s)", (target.session,)).fetchone()
    assert reason == ("Only members of pgvigil_admin can kill sessions",)


# ── The command line ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_list_shows_who_is_connected_and_what_they_run(call: Run, world: World) -> None:
    target = world.client()
    target.connection.execute("SELECT instrumentation.record_statement(E'SELECT\n\\x1b[31mred', 'executing')")
    done = call("pgvigil", "sessions", "list", "--database-url", world.database.url)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(str(target.session))
    assert line.endswith("SELECT \\x1b[31mred")


def test_the_list_is_there_as_json(call: Run, world: World) -> None:
    target = world.client()
    (session,) = json.loads(call("pgvigil", "sessions", "list", "--json", "--database-url", world.database.url).stdout)
    assert (session["session_id"], session["backend_pid"]) == (str(target.session), target.pid)


def test_a_kill_ends_the_session_and_a_refused_one_says_why(call: Run, world: World) -> None:
    target = world.client()
    url = world.database.url
    as_nobody = url.replace("postgres@", "s_none@")
    refused = call("pgvigil", "sessions", "kill", str(target.session), "--database-url", as_nobody)
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (
        4,
        "error: not killed: Only members of pgvigil_admin can kill sessions",
    )
    assert len(world.database.execute("SELECT 1 FROM instrumentation.kill_attempts")) == 1
    done = call("pgvigil", "sessions", "kill", str(target.session), "--grace", "10", "--database-url", url)
    assert (done.returncode, done.stdout) == (0, "terminated\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["kill"], "`sessions kill` takes the id of a session; list takes none"),
        (["list", "x"], "`sessions kill` takes the id of a session; list takes none"),
        (["kill", "x"], "x is not the id of a session"),
    ],
)
def test_a_call_that_means_no_session_is_refused(call: Run, bystander: World, words: list[str], told: str) -> None:
    done = call("pgvigil", "sessions", *words, "--database-url", bystander.database.url)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, f"error: {told}")


def test_an_empty_list_of_sessions_says_who_would_be_in_it(call: Run, fresh: Database) -> None:
    done = call("pgvigil", "sessions", "list", "--database-url", fresh.url)
    assert (done.returncode, "pgvigil.instrument()" in done.stdout) == (0, True)
    assert json.loads(call("pgvigil", "sessions", "list", "--json", "--database-url", fresh.url).stdout) == []


def test_a_database_without_instrumentation_says_so(call: Run, database: Database) -> None:
    done = call("pgvigil", "sessions", "list", "--database-url", database.url)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        4,
        "error: this database has no instrumentation: it is not migrated, or not far enough",
    )


def test_tail_tells_of_a_statement_when_it_begins_and_when_it_ends(world: World) -> None:
    target, other = world.client(), world.client()
    followed = sessions.follow(parse_url(world.database.url, "a test"), str(target.session), every=0.0)
    told: list[tuple[str, str | None]] = []

    def log(count: int) -> None:
        told.extend((statement.status, statement.sql_text) for statement in itertools.islice(followed, count))

    listening = threading.Thread(target=log, args=(1,))
    listening.start()
    wait_until(
        lambda: world.database.execute(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'pgvigil sessions' AND query LIKE '%session_activity%'"
        )
    )
    other.connection.execute("SELECT instrumentation.record_statement('SELECT elsewhere')")
    begun = target.connection.execute("SELECT instrumentation.record_statement('SELECT 1', 'executing')").fetchone()
    listening.join(30)
    target.connection.execute("SELECT instrumentation.record_statement('SELECT 1', statement => %s)", begun)
    log(1)
    followed.close()  # type: ignore[attr-defined]
    assert told == [("executing", "SELECT 1"), ("success", "SELECT 1")]


# ── The sampler ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_sampler_sees_what_an_application_runs_that_knows_nothing_of_it(world: World) -> None:
    other = world.connect("s_none")
    pid = other.info.backend_pid
    running = Client(other, uuid4(), uuid4()).run("SELECT pg_sleep(60)")
    with Sampler(world.database.url.replace("postgres@", "s_admin@"), every=0.02) as sampler:
        wait_until(lambda: world.database.execute(SAMPLED, (pid,)))
        assert sampler.stats().errors == 0, sampler.stats()
    assert world.database.execute(SAMPLED, (pid,)) == [("cancelled", "SELECT pg_sleep(60)", "sampler")]
    assert world.database.execute("SELECT status::text, stop_reason FROM instrumentation.instances") == [
        ("stopped", "the sampler was closed")
    ]
    other.cancel()
    running.join(10)


def test_a_sampler_that_sees_only_its_own_sessions_names_the_right_that_it_lacks(world: World) -> None:
    [(owner,)] = world.database.execute("SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'sample_activity'")
    world.database.execute(f"REVOKE pg_read_all_stats FROM {owner}")
    try:
        with Sampler(world.database.url, every=0.02) as sampler:
            wait_until(lambda: sampler.stats().samples)
            found = sampler.stats()
    finally:
        world.database.execute(f"GRANT pg_read_all_stats TO {owner}")
    assert (found.errors, f"GRANT pg_read_all_stats TO {owner};" in found.last_error) == (0, True), found


def test_the_sampler_goes_on_after_its_connection_was_cut(world: World) -> None:
    with Sampler(world.database.url, every=0.02) as sampler:
        wait_until(lambda: sampler.stats().samples)
        world.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgvigil sampler' AND datname = %s",
            (world.database.name,),
        )
        wait_until(lambda: sampler.stats().errors)
        before = sampler.stats().samples
        wait_until(lambda: sampler.stats().samples > before)
    assert world.database.execute("SELECT count(*) FROM instrumentation.instances") == [(1,)]


def test_the_sampler_must_not_be_slower_than_a_heartbeat(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"every=31: use more than 0 and at most 30 seconds"):
        Sampler(f"postgresql://x@/y?host={tmp_path}", every=31)


# ── The page about it ─────────────────────────────────────────────────────────────────────────────────────────────────


def examples(language: str) -> str:
    page = (project.ROOT / "docs/sessions.md").read_text()
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL))


@pytest.mark.client_side
def test_the_sql_of_the_page_works(world: World) -> None:
    with world.connect("s_writer") as connection:
        connection.execute(examples("sql").encode())
    assert world.database.execute(
        """SELECT status::text, stop_reason, session_tag, total_statements FROM instrumentation.session_stats
           JOIN instrumentation.sessions USING (session_id)"""
    ) == [("closed", "done", {"tenant": 7}, 1)]
    assert world.database.execute("SELECT query_tag FROM instrumentation.sql_statements") == [({"page": "checkout"},)]
    assert world.database.execute("SELECT reason FROM instrumentation.kill_attempts") == [
        ("Only members of pgvigil_admin can kill sessions",)
    ]


@pytest.mark.client_side
def test_the_sampler_of_the_page_works(fresh: Database) -> None:
    environment = {"DATABASE_URL": fresh.url, "SAMPLE_SECONDS": "0.5"}
    with application(examples("python"), environment=environment) as process:
        output, _ = process.communicate(timeout=60)
    assert output.startswith("SamplerStats(samples=1, statements=")
    assert output.endswith("errors=0, last_error='')\n")
