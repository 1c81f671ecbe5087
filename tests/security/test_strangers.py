"""Test legitimate roles of the database (reader, admin, owner) that try to gain rights, or to remove restrictions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import errors

from conftest import PROJECT, Database, Run
from security.conftest import Installation, is_superuser
from security.planted import RELATIONS

pytestmark = pytest.mark.in_full


@contextmanager
def stranger_in(database: Database, role: str) -> Iterator[psycopg.Connection]:
    """A connection of the stranger, for as long a member of a role: memberships are the server's, not the database's."""
    database.execute(f"GRANT {role} TO x_stranger")
    try:
        with database.connect(user="x_stranger") as conn:
            yield conn
    finally:
        database.execute(f"REVOKE {role} FROM x_stranger")


@pytest.fixture
def as_reader(own: Database) -> Iterator[psycopg.Connection]:
    with stranger_in(own, "pgvigil_reader") as conn:
        yield conn


@pytest.fixture
def as_admin(own: Database) -> Iterator[psycopg.Connection]:
    with stranger_in(own, "pgvigil_admin") as conn:
        yield conn


# ── Functions with their owner's rights serve nobody else's tables ────────────────────────────────────────────────────


TRIGGER_FUNCTIONS = """SELECT p.oid::regprocedure::text FROM pg_proc p
                       WHERE p.prorettype = 'trigger'::regtype AND p.pronamespace IN ('pgvigil'::regnamespace, 'instrumentation'::regnamespace)"""


@pytest.mark.in_short
def test_a_reader_hangs_no_trigger_function_of_ours_on_a_table_of_his_own(
    own: Database, as_reader: psycopg.Connection
) -> None:
    functions = [name for (name,) in own.execute(TRIGGER_FUNCTIONS)]
    assert len(functions) > 20
    with as_reader:
        as_reader.execute("CREATE TEMP TABLE t (id uuid, agent_from text, agent_to text, retention_policy text)")
        as_reader.commit()
        for function in functions:
            with pytest.raises(errors.InsufficientPrivilege):
                as_reader.execute(
                    f"CREATE TRIGGER x AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION {function}".encode()
                )
            as_reader.rollback()


def test_a_reader_s_own_type_is_not_cast_with_our_owner_s_rights(own: Database, as_reader: psycopg.Connection) -> None:
    with as_reader, pytest.raises(errors.InsufficientPrivilege, match="log_session_created"):
        as_reader.execute(
            """CREATE TYPE pg_temp.evil AS (x text);
               CREATE FUNCTION pg_temp.evil_to_uuid(pg_temp.evil) RETURNS uuid LANGUAGE plpgsql AS $$
               BEGIN EXECUTE format('ALTER ROLE %I SUPERUSER', session_user); RETURN NULL; END $$;
               CREATE CAST (pg_temp.evil AS uuid) WITH FUNCTION pg_temp.evil_to_uuid(pg_temp.evil) AS ASSIGNMENT;
               CREATE TEMP TABLE t (id pg_temp.evil, agent_from text, agent_to text, retention_policy text);
               CREATE TRIGGER x AFTER INSERT ON t REFERENCING NEW TABLE AS new_sessions FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.log_session_created();
               INSERT INTO t VALUES (ROW('a'), 'a', 'b', 'c')"""
        )
    assert not is_superuser(own)


# ── An admin's edits name no table ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE pgvigil.partition_policies SET parent_table = 'orders' WHERE parent_table = 'performance_logs'",
        "INSERT INTO pgvigil.partition_policies (parent_table, step, make_ahead) VALUES ('orders', 'day', 1)",
        "UPDATE pgvigil.jobs SET job = 'x' WHERE job = 'expiry'",
        "INSERT INTO pgvigil.jobs (job, every, purpose) VALUES ('evil', '1 hour', '')",
        "UPDATE pgvigil.displaced_tables SET table_name = 'orders'",
        "UPDATE pgvigil.tolerated_values SET table_name = 'orders'",
        "UPDATE pgvigil.displaced_objects SET restore_sql = 'DROP TABLE orders'",
        "DELETE FROM session_lifecycle",
        "UPDATE session_lifecycle SET event_type = 'created'",
        "DELETE FROM pgvigil.deleted_sessions",
    ],
)
def test_an_admin_may_not_edit_what_work_is_done_on_or_what_was_recorded(
    as_admin: psycopg.Connection, edit: str
) -> None:
    with as_admin, pytest.raises(errors.InsufficientPrivilege):
        as_admin.execute(edit.encode())


@pytest.mark.in_short
def test_not_even_the_owner_points_a_job_at_another_table(own: Database) -> None:
    with pytest.raises(errors.CheckViolation, match="partition_policies_parent_table_check"):
        own.execute(
            "UPDATE pgvigil.partition_policies SET parent_table = 'orders' WHERE parent_table = 'performance_logs'"
        )


def test_a_view_beside_a_table_of_ours_is_not_counted_by_waiting_rows(
    own: Database, as_admin: psycopg.Connection
) -> None:
    with as_admin:
        as_admin.execute(
            """CREATE FUNCTION pg_temp.f() RETURNS integer LANGUAGE plpgsql AS $$
               BEGIN
                   IF current_user <> session_user THEN RAISE EXCEPTION 'turned: %', current_user; END IF;
                   RETURN 1;
               END $$"""
        )
        for table in (
            "performance_logs_default",
            "performance_logs",
            "system_metrics_default",
            "sql_statements_default",
        ):
            as_admin.execute(f"CREATE TEMP VIEW {table} AS SELECT pg_temp.f() AS x WHERE pg_temp.f() = 1".encode())
        assert as_admin.execute("SELECT count(*) FROM pgvigil.waiting_rows() WHERE waiting > 0").fetchone() == (0,)
    assert not is_superuser(own)


def test_an_owner_s_operator_is_not_called_by_the_triggers_that_a_superuser_made(mined: Installation) -> None:
    mined.migrate()
    mined.as_owner(
        """CREATE FUNCTION {app}.ne(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS $$
           BEGIN
               IF current_user <> session_user THEN RAISE EXCEPTION 'turned: %', current_user; END IF;
               RETURN $1::text OPERATOR(pg_catalog.<>) $2::text;
           END $$;
           CREATE OPERATOR {app}.<> (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = {app}.ne)"""
    )
    mined.execute(
        "SET search_path = public, pg_catalog; UPDATE sessions SET status = 'completed', retention_policy = 'short'; DELETE FROM sessions",
        user="x_owner",
    )
    assert mined.execute("SELECT count(*) FROM pgvigil.deleted_sessions") == [(5,)]


# ── Holds and archives ────────────────────────────────────────────────────────────────────────────────────────────────

HELD = """
    INSERT INTO sessions (session_key, agent_from, retention_policy) VALUES ('held', 'x', 'extended');
    INSERT INTO context_history (session_id, sequence_number, context_type, content) SELECT id, 1, 'message', 'x' FROM sessions;
    UPDATE pgvigil.retention_policies SET legal_hold = true WHERE policy = 'extended'"""
ROUNDS = {
    "deleted": "DELETE FROM sessions",
    "moved to another policy": "UPDATE sessions SET retention_policy = 'short'",
    "moved to none": "UPDATE sessions SET retention_policy = NULL",
    "moved to an unknown one": "UPDATE sessions SET retention_policy = 'nothing'",
    "truncated": "TRUNCATE sessions CASCADE",
    "moved by an upsert": """INSERT INTO sessions (session_key, agent_from) VALUES ('held', 'x')
                            ON CONFLICT (session_key) DO UPDATE SET retention_policy = 'short'""",
}


@pytest.mark.in_short
@pytest.mark.parametrize("round_", ROUNDS)
def test_a_session_under_its_policy_s_hold_is_not(own: Database, round_: str) -> None:
    own.execute(HELD)
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="legal hold"):
        own.execute(ROUNDS[round_])
    assert own.execute("SELECT retention_policy FROM sessions") == [("extended",)]


def test_a_session_moves_from_a_held_policy_to_another_held_one(own: Database) -> None:
    own.execute(HELD)
    own.execute("UPDATE pgvigil.retention_policies SET legal_hold = true WHERE policy = 'short'")
    own.execute("UPDATE sessions SET retention_policy = 'short'")


@pytest.mark.parametrize("table", ["context_history", "codebase_snapshots", "handoff_requests"])
@pytest.mark.parametrize(
    "before", ["", "LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE;"], ids=["plainly", "behind_a_lock"]
)
def test_what_archived_sessions_hold_is_not_truncated(own: Database, table: str, before: str) -> None:
    own.execute("INSERT INTO sessions (session_key, agent_from, archived_at) VALUES ('old', 'x', now())")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="archived sessions"):
        own.execute(f"BEGIN; {before} TRUNCATE {table}; COMMIT")


# ── Jobs end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_that_can_do_nothing_says_so_once_and_ends(call: Run, own: Database) -> None:
    """A partition that was detached keeps its name, and a late row waits for it."""
    own.execute(
        "SELECT pgvigil.ensure_partitions('performance_logs', now() - interval '3 days', now() - interval '3 days')"
    )
    [(name,)] = own.execute(
        "SELECT 'performance_logs_p' || to_char((now() - interval '3 days') AT TIME ZONE 'UTC', 'YYYYMMDD')"
    )
    own.execute(f"ALTER TABLE performance_logs DETACH PARTITION {name}")
    own.execute(
        """INSERT INTO performance_logs (id, operation, duration_ms, success)
           VALUES (pgvigil.uuid_v7_floor(now() - interval '3 days'), 'x', 1, true)"""
    )
    done = call("pgvigil", "maintain", "run", "partitions", "--database-url", own.url)
    assert done.returncode == 10
    [(error, notes)] = own.execute("SELECT error, cardinality(notes) FROM pgvigil.job_runs WHERE job = 'partitions'")
    assert (f"{name} is taken by something that is no partition" in error, notes <= 1) == (True, True)
    assert call("pgvigil", "maintain", "run", "expiry", "--database-url", own.url).returncode == 0


def test_what_a_job_has_to_say_is_kept_a_hundred_times_and_once_each(own: Database) -> None:
    own.execute("INSERT INTO pgvigil.job_runs (job) VALUES ('expiry')")
    own.execute(
        """SELECT pgvigil.report_job((SELECT max(id) FROM pgvigil.job_runs), 0, 'note ' || n / 2, NULL, false)
           FROM generate_series(0, 999) n"""
    )
    assert own.execute("SELECT cardinality(notes) FROM pgvigil.job_runs") == [(101,)]


def test_somebody_s_advisory_locks_keep_no_job_from_running(call: Run, own: Database) -> None:
    with own.connect(user="x_stranger") as stranger:
        stranger.execute("SELECT pg_advisory_lock(1885828711, n) FROM generate_series(1, 50) n")
        assert call("pgvigil", "maintain", "run", "expiry", "--database-url", own.url).returncode == 0


# ── Who only administers a role is not that role ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("role", ["x_owner", "pgvigil_admin"])
def test_a_member_without_inherit_and_set_speaks_for_nobody(own: Database, role: str) -> None:
    if own.server.major < 16:
        pytest.skip("such members are known from PostgreSQL 16 on")
    own.execute(
        f"GRANT pgvigil_writer TO x_stranger; GRANT {role} TO x_stranger WITH INHERIT FALSE, SET FALSE, ADMIN TRUE"
    )
    try:
        with own.connect(user="x_owner") as target, own.connect(user="x_stranger") as stranger:
            instance = own.execute("SELECT instrumentation.register_instance('host')")[0][0]
            with pytest.raises(errors.InsufficientPrivilege):
                stranger.execute(
                    "SELECT instrumentation.register_session(instrumentation.register_instance('h'), pid => %s)",
                    (target.info.backend_pid,),
                )
            with pytest.raises(errors.InsufficientPrivilege):
                stranger.execute("SELECT instrumentation.register_session(%s)", (instance,))
            [(session,)] = own.execute("SELECT instrumentation.register_session(%s)", (instance,))
            assert stranger.execute(
                "SELECT ok, reason FROM instrumentation.kill_session(%s, 'cancel')", (session,)
            ).fetchone() == (
                False,
                "Only members of pgvigil_admin can kill sessions",
            )
    finally:
        own.execute(f"REVOKE {role}, pgvigil_writer FROM x_stranger")


# ── Statements of others ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_writer_that_speaks_for_one_other_login_writes_nothing_into_the_sessions_of_the_next(own: Database) -> None:
    """The batch also holds statements that it may write: each instance is checked, and not only the first one found."""
    own.execute("GRANT pgvigil_writer TO x_owner; GRANT x_owner TO x_stranger")
    try:
        with own.connect(user="x_owner") as friend, own.connect(user="x_stranger") as stranger:
            register = "SELECT instrumentation.register_session(instrumentation.register_instance('h'), pid => NULL) FROM generate_series(1, 5)"
            allowed = [session for (session,) in friend.execute(register)]
            [(victim,)] = own.execute(register.replace("5)", "1)"))
            stranger.execute("SET pgvigil.instrumentation = 'write'")
            write = (
                "INSERT INTO instrumentation.sql_statements (session_id, sql_text) SELECT unnest(%s::uuid[]), 'forged'"
            )
            stranger.execute(write, (allowed,))
            for batch in ([*allowed, victim], [victim, *allowed], [victim]):
                with pytest.raises(errors.InsufficientPrivilege, match="was registered by"):
                    stranger.execute(write, (batch,))
    finally:
        own.execute("REVOKE pgvigil_writer FROM x_owner; REVOKE x_owner FROM x_stranger")


def test_a_pid_that_a_writer_has_named_is_nobody_else_s_session(own: Database) -> None:
    """Named before it is in use, or while another process has it: who gets it later has no session yet."""
    with stranger_in(own, "pgvigil_writer") as stranger, own.connect(user="x_owner") as target:
        stranger.execute(
            "SELECT instrumentation.register_session(instrumentation.register_instance('h'), pid => %s, backend_start => '2000-01-01Z')",
            (target.info.backend_pid,),
        )
        own.execute(
            f"SET pgvigil.instrumentation = 'write'; UPDATE instrumentation.sessions SET backend_start = NULL WHERE backend_pid = {target.info.backend_pid}"
        )
        assert target.execute("SELECT instrumentation.current_session()").fetchone() == (None,)


# ── The arrangements of docs/security.md ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def granted(own: Database) -> Iterator[Database]:
    """The application's grants of the page, with x_stranger in the place of app."""
    page = (PROJECT / "docs/security.md").read_text()
    statements = page.split("```sql\n")[1].split("```")[0].replace("app;", "x_stranger;")
    grants = [line for line in statements.splitlines() if line.startswith("GRANT")]
    assert len(grants) == 2
    for grant in grants:
        own.execute(grant)
    yield own
    own.execute("REVOKE pgvigil_reader FROM x_stranger")


@pytest.mark.in_short
def test_an_application_with_the_grants_of_the_page_writes_its_sessions_and_reads_the_views(granted: Database) -> None:
    with granted.connect(user="x_stranger") as conn:
        conn.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('k', 'x_stranger')")
        conn.execute("UPDATE sessions SET status = 'completed'")
        for view in ("session_monitoring_view", "session_content_view", "session_lifecycle"):
            assert conn.execute(f"SELECT FROM {view}").fetchall(), view


@pytest.mark.in_short
def test_a_tenant_with_the_tables_alone_reads_nothing_of_another_tenant_s(granted: Database) -> None:
    """The test includes 14, where views ignore policies."""
    granted.execute("REVOKE pgvigil_reader FROM x_stranger")
    granted.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('theirs', 'another'), ('gone', 'another')")
    granted.execute("DELETE FROM sessions WHERE session_key = 'gone'")
    granted.execute("ALTER TABLE sessions ENABLE ROW LEVEL SECURITY")
    granted.execute("CREATE POLICY own_rows ON sessions USING (agent_from = current_user)")
    with granted.connect(user="x_stranger") as conn:
        conn.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('mine', 'x_stranger')")
        conn.execute("UPDATE sessions SET status = 'completed'")
        seen = ""
        for (relation,) in conn.execute(RELATIONS).fetchall():
            seen += str(conn.execute(f"SELECT r::text FROM {relation} r".encode()).fetchall())
    assert "mine" in seen
    assert "another" not in seen
