"""The databases that we make are closed to everybody else from their first moment on, and only what is marked as ours is dropped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from conftest import PROJECT, Database, Run, wait_until
from pgvigil import database as databases
from pgvigil import project, scratch_databases
from pgvigil.backup import scratch_restore, swap
from pgvigil.database import Target
from pgvigil.embedded import Server
from pgvigil.scratch_databases import Scratch
from pgvigil.validate import Reference, load_declaration
from pgvigil.validate.diff import reference

pytestmark = pytest.mark.oldest_and_newest

PATTERN = "^pgvigil_verify_[0-9a-f]{12}$"
MADE = (
    "SELECT datname::text FROM pg_database WHERE datname ~ '^pgvigil_(verify|rehearsal|reference)_|_pgvigil_restore_'"
)


class Roles:
    """A plain owner with CREATEDB, and a stranger, of one server; gone when the test ends."""

    def __init__(self, server: Server) -> None:
        self.server = server
        end = uuid.uuid4().hex[:8]
        self.owner, self.stranger = f"own {end}", f"stranger_{end}"
        self.administer("CREATE ROLE {} LOGIN CREATEDB IN ROLE pg_signal_backend", self.owner)
        self.administer("CREATE ROLE {} LOGIN", self.stranger)

    def administer(self, statement: str, *names: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.server.dsn(), autocommit=True) as conn:
            cursor = conn.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))
            return cursor.fetchall() if cursor.description else []

    def target(self, role: str, name: str = "postgres") -> Target:
        return databases.parse_url(self.server.dsn(name).replace("postgres@", f"{role.replace(' ', '%20')}@"), "a test")

    def url(self, role: str, name: str) -> str:
        return self.server.dsn(name).replace("postgres@", f"{role.replace(' ', '%20')}@")

    def enters(self, role: str, name: str) -> bool:
        try:
            psycopg.connect(self.url(role, name)).close()
        except psycopg.OperationalError as error:
            if "permission denied for database" in str(error) or "not currently accepting" in str(error):
                return False
            raise
        return True


@pytest.fixture
def roles(pg: Server) -> Iterator[Roles]:
    made = Roles(pg)
    before = {name for (name,) in made.administer("SELECT datname FROM pg_database")}
    yield made
    for (name,) in made.administer("SELECT datname FROM pg_database"):
        if name not in before and not name.startswith("template_"):  # a state that other tests start from
            made.administer("DROP DATABASE {} WITH (FORCE)", name)
    for role in (made.owner, made.stranger):
        for (name,) in made.administer("SELECT datname FROM pg_database WHERE datallowconn"):
            made.administer("ALTER DATABASE {} OWNER TO postgres", name)
            with psycopg.connect(pg.dsn(name), autocommit=True) as conn:
                conn.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        made.administer("DROP ROLE {}", role)


@pytest.fixture
def owned(database: Database, roles: Roles) -> Database:
    """A small database that belongs to the plain owner, with all that is in it."""
    roles.administer("ALTER DATABASE {} OWNER TO {}", database.name, roles.owner)
    with psycopg.connect(roles.url(roles.owner, database.name), autocommit=True) as conn:
        conn.execute("CREATE SCHEMA app; CREATE TABLE app.t AS SELECT generate_series(1, 3) AS n")
    return database


def random_name() -> str:
    return f"pgvigil_verify_{uuid.uuid4().hex[:12]}"


# ── Closed ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("maker", ["postgres", "owner"])
def test_nobody_enters_a_scratch_database_before_its_rights_are_set(
    roles: Roles, maker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = getattr(roles, maker, maker)
    name, close, before = random_name(), scratch_databases.close_to_others, []

    def look_and_close(*arguments: Any) -> None:
        before.append(roles.enters(roles.stranger, name))
        close(*arguments)

    monkeypatch.setattr(scratch_databases, "close_to_others", look_and_close)
    with databases.connect(roles.target(role), "test") as conn:
        scratch_databases.make(conn, name)
    assert before == [False]
    assert not roles.enters(roles.stranger, name)
    assert roles.enters(role, name)


def test_the_owner_that_a_member_makes_a_scratch_database_for_cannot_enter_it(roles: Roles) -> None:
    roles.administer("GRANT {} TO {}", roles.stranger, roles.owner)
    name = random_name()
    with databases.connect(roles.target(roles.owner), "test") as conn:
        scratch_databases.make(conn, name, owner=roles.stranger)
    assert not roles.enters(roles.stranger, name)
    with psycopg.connect(roles.url(roles.owner, name), autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE SCHEMA s; ALTER SCHEMA s OWNER TO {}").format(sql.Identifier(roles.stranger)))


def test_a_stranger_never_enters_the_copy_of_a_backup(
    roles: Roles, database: Database, call: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute("CREATE TABLE t AS SELECT 1 AS n; GRANT SELECT ON t TO PUBLIC")
    compare, seen = scratch_restore.compare, []

    def look_and_compare(there: Target, *rest: Any) -> None:
        seen.append(roles.enters(roles.stranger, there.parameters["dbname"]))
        compare(there, *rest)

    monkeypatch.setattr(scratch_restore, "compare", look_and_compare)
    assert call("pgvigil", "backup", "create", "--database-url", database.url).returncode == 0
    assert seen == [False]


def test_a_stranger_enters_a_restored_database_when_it_is_in_its_place_and_not_before(
    roles: Roles, database: Database, call: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_over, seen = swap.carry_over, []

    def look_and_carry_over(admin: psycopg.Connection, old: str, new: str, log: Any) -> None:
        carry_over(admin, old, new, log)
        seen.append(roles.enters(roles.stranger, new))

    database.execute("CREATE TABLE t AS SELECT 1 AS n")
    made = call("pgvigil", "backup", "create", "--json", "--database-url", database.url)
    monkeypatch.setattr(swap, "carry_over", look_and_carry_over)
    done = call("pgvigil", "restore", json.loads(made.stdout)["archive"], "--database-url", database.url)
    assert (done.returncode, seen) == (0, [False]), done.stderr
    assert roles.enters(roles.stranger, database.name)


def test_a_stranger_never_enters_the_reference(
    roles: Roles, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load, seen = reference.load_ddl, []

    def look_and_load(there: psycopg.Connection, *rest: Any) -> Any:
        created = there.execute("SELECT has_schema_privilege(%s, 'public', 'CREATE')", (roles.stranger,)).fetchone()
        seen.append((roles.enters(roles.stranger, there.info.dbname), created))
        return load(there, *rest)

    monkeypatch.setattr(reference, "load_ddl", look_and_load)
    declared = load_declaration(project.SPEC)
    target = databases.parse_url(database.url, "a test")
    with databases.connect(target, "test") as conn:
        made = Reference(target, lambda: conn, lambda: declared, project.INIT_SQL, lambda _: "public")
        made.thread.join()
    assert made.outcome()[0] is not None
    assert seen == [(False, (False,))]


def test_what_the_archive_says_of_schema_public_is_what_a_copy_has(roles: Roles, database: Database, call: Run) -> None:
    """The right of PUBLIC to create there on 14 is revoked while a copy is made."""
    database.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(sql.Identifier(roles.stranger)))
    rights = "SELECT acl::text FROM pg_namespace, unnest(nspacl) acl WHERE nspname = 'public' ORDER BY 1"
    before = database.execute(rights)
    made = call("pgvigil", "backup", "create", "--json", "--database-url", database.url)
    assert made.returncode == 0, made.stderr
    done = call("pgvigil", "restore", json.loads(made.stdout)["archive"], "--database-url", database.url)
    assert done.returncode == 0, done.stderr
    assert database.execute(rights) == before


@pytest.mark.client_side
def test_a_signal_that_comes_with_the_answer_leaves_no_database_behind(
    roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, name = psycopg.Connection.execute, random_name()

    def interrupted(self: Any, query: Any, *rest: Any, **options: Any) -> Any:
        done = execute(self, query, *rest, **options)
        if isinstance(query, sql.Composed) and "CREATE DATABASE" in query.as_string(self):
            raise KeyboardInterrupt
        return done

    with databases.connect(roles.target(roles.owner), "test") as conn:
        monkeypatch.setattr(psycopg.Connection, "execute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scratch_databases.make(conn, name)
    monkeypatch.undo()
    assert roles.administer("SELECT datname FROM pg_database WHERE datname ~ '^pgvigil_verify_'") == []


# ── Dropped, or left ──────────────────────────────────────────────────────────────────────────────────────────────────


def leftover(roles: Roles, role: str = "postgres") -> Scratch:
    """Return the leftover of a run that has ended."""
    with databases.connect(roles.target(role), "test") as conn:
        made = scratch_databases.make(conn, random_name())
        pid = conn.info.backend_pid
    wait_until(lambda: not roles.administer(f"SELECT FROM pg_stat_activity WHERE pid = {pid}"))
    return made


def dropped(roles: Roles, role: str = "postgres") -> list[str]:
    said: list[str] = []
    with databases.connect(roles.target(role), "test") as conn:
        scratch_databases.drop_leftovers(conn, PATTERN, said.append)
    return said


def test_what_a_killed_run_left_is_dropped_and_told(roles: Roles) -> None:
    left = leftover(roles)
    assert dropped(roles) == [f'dropped database "{left.name}", which a killed run had left']
    assert roles.administer(MADE) == []


def test_a_database_without_our_mark_is_never_dropped(roles: Roles) -> None:
    plain, commented = random_name(), random_name()
    for name in (plain, commented):
        roles.administer("CREATE DATABASE {}", name)
    roles.administer("COMMENT ON DATABASE {} IS 'pgvigil scratch database of mine'", commented)
    assert dropped(roles) == []
    assert sorted(roles.administer(MADE)) == sorted([(plain,), (commented,)])


def test_a_scratch_database_that_was_renamed_to_be_kept_is_never_dropped(roles: Roles) -> None:
    left, other = leftover(roles), random_name()
    roles.administer("ALTER DATABASE {} RENAME TO {}", left.name, other)
    assert dropped(roles) == []
    assert roles.administer(MADE) == [(other,)]


def test_the_leftover_of_another_role_is_not_dropped(roles: Roles) -> None:
    of_owner, of_superuser = leftover(roles, roles.owner), leftover(roles)
    dropped(roles)
    assert roles.administer(MADE) == [(of_owner.name,)]
    leftover(roles)
    dropped(roles, roles.owner)
    assert of_superuser.name not in {name for (name,) in roles.administer(MADE)}
    assert len(roles.administer(MADE)) == 1


def test_a_database_that_is_being_made_or_used_is_not_dropped(roles: Roles) -> None:
    with databases.connect(roles.target("postgres"), "test") as maker:
        made = scratch_databases.make(maker, random_name())
        assert dropped(roles) == []
    with psycopg.connect(roles.server.dsn(made.name)):
        assert dropped(roles) == []
    assert roles.administer(MADE) == [(made.name,)]


def test_an_advisory_lock_of_a_stranger_keeps_no_leftover(roles: Roles) -> None:
    left = leftover(roles)
    with psycopg.connect(roles.url(roles.stranger, "postgres"), autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (int.from_bytes(b"pgvs", "big"), left.name))
        dropped(roles)
    assert roles.administer(MADE) == []


@pytest.mark.slow
def test_a_connection_of_somebody_else_is_not_ended_to_drop_a_scratch_database(roles: Roles) -> None:
    left, said = leftover(roles), []
    with psycopg.connect(roles.server.dsn(left.name), application_name="a person", autocommit=True) as person:
        scratch_databases.drop(roles.target("postgres"), left, said.append)
        assert person.execute("SELECT 1").fetchone() == (1,)
    assert f'warning: scratch database "{left.name}" could not be dropped' in said[0]
    assert roles.administer(MADE) == [(left.name,)]


def test_connections_of_our_own_programs_are_ended_to_drop_a_scratch_database(roles: Roles) -> None:
    left, said = leftover(roles), []
    with psycopg.connect(roles.server.dsn(left.name), application_name="pg_restore"):
        scratch_databases.drop(roles.target("postgres"), left, said.append)
    assert (said, roles.administer(MADE)) == ([], [])


def test_a_run_that_is_killed_when_its_database_is_made_leaves_it_closed_and_says_how_to_drop_it(roles: Roles) -> None:
    name = random_name()
    program = """
import os, signal, sys
from pgvigil import database, scratch_databases
scratch_databases.close_to_others = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with database.connect(database.parse_url(sys.argv[1], "a test"), "test") as conn:
    scratch_databases.make(conn, sys.argv[2])
"""
    died = subprocess.run(
        [sys.executable, "-c", program, roles.server.dsn(), name],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not roles.enters(roles.stranger, name)
    (note,) = dropped(roles)
    assert f'DROP DATABASE "{name}";' in note
    assert roles.administer(MADE) == [(name,)]


def test_validate_drops_nothing_that_merely_has_a_name_like_ours(
    roles: Roles, fresh: Database, call: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = ["pgvigil_reference_2026", "pgvigil_reference_db", "pgvigil_reference_5f5e1000_aaaaaaaa"]
    for name in names:
        roles.administer("CREATE DATABASE {}", name)
    assert call("pgvigil", "validate", "--database-url", fresh.url).returncode == 0
    wait_until(
        lambda: sorted(name for (name,) in roles.administer(MADE)) == sorted(names)
    )  # its own goes a moment later


# ── The rights that it takes ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def plain(existing: Database, roles: Roles) -> Database:
    """A copy of `existing` that belongs to the plain owner, with everything in it."""
    roles.administer("ALTER DATABASE {} OWNER TO {}", existing.name, roles.owner)
    existing.execute(
        sql.SQL(
            """DO $$ DECLARE o record; BEGIN
                 FOR o IN SELECT format('%s %s', CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END,
                                        oid::regclass) AS what FROM pg_class
                          WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'm')
                          UNION ALL SELECT 'FUNCTION ' || oid::regprocedure FROM pg_proc WHERE pronamespace = 'public'::regnamespace
                 LOOP EXECUTE format('ALTER %s OWNER TO %I', o.what, {}); END LOOP; END $$"""
        ).format(sql.Literal(roles.owner))
    )
    return existing


def test_a_plain_owner_with_createdb_proves_and_restores(plain: Database, roles: Roles, call: Run) -> None:
    url = roles.url(roles.owner, plain.name)
    made = call("pgvigil", "backup", "create", "--json", "--database-url", url)
    assert made.returncode == 0, made.stderr
    done = call("pgvigil", "restore", json.loads(made.stdout)["archive"], "--database-url", url)
    assert done.returncode == 0, done.stderr


@pytest.mark.client_side  # on 14 schema public is not the owner's, so the migration itself takes more than is asked of here
@pytest.mark.slow
def test_a_plain_owner_with_createdb_rehearses(plain: Database, roles: Roles, call: Run) -> None:
    url = roles.url(roles.owner, plain.name)
    done = call("pgvigil", "migrate", "--rehearse", "--verify-backup", "restore", "--database-url", url)
    assert done.returncode == 0, done.stderr


@pytest.mark.client_side
@pytest.mark.parametrize("command", ["create", "verify", "rehearse", "guard"])
def test_a_role_without_createdb_is_told_so_before_the_work(
    plain: Database, roles: Roles, call: Run, tmp_path: Path, command: str
) -> None:
    at = ("--database-url", roles.url(roles.owner, plain.name))
    archive = ""
    if command == "verify":
        made = call("pgvigil", "backup", "create", "--verify-backup", "read", "--json", *at)
        archive = json.loads(made.stdout)["archive"]
    roles.administer("ALTER ROLE {} NOCREATEDB", roles.owner)
    elsewhere = tmp_path / "not made"
    words = {
        "create": ["backup", "create", "--verify-backup", "restore", "--backup-dir", elsewhere],
        "verify": ["backup", "verify", archive],
        "rehearse": ["migrate", "--rehearse", "--backup-dir", elsewhere],
        "guard": ["guard", "--rehearse", "--backup-dir", elsewhere],
    }[command]
    done = call("pgvigil", *words, *at, *(["--", "true"] if command == "guard" else []))
    assert (done.returncode, f'ALTER ROLE "{roles.owner}" CREATEDB;' in done.stderr) == (4, True), done.stderr
    assert not elsewhere.exists()


def test_a_tablespace_that_the_owner_may_not_use_does_not_stop_a_proof(
    owned: Database, roles: Roles, call: Run
) -> None:
    place = roles.server.data.parent / f"space_{uuid.uuid4().hex[:8]}"
    place.mkdir()
    os.chown(place, roles.server.data.stat().st_uid, roles.server.data.stat().st_gid)
    space = place.name
    roles.administer(f"CREATE TABLESPACE {{}} LOCATION '{place}'", space)
    try:
        roles.administer("ALTER DATABASE {} SET TABLESPACE {}", owned.name, space)
        url = roles.url(roles.owner, owned.name)
        made = call("pgvigil", "backup", "create", "--json", "--database-url", url)
        assert made.returncode == 0, made.stderr
        done = call("pgvigil", "restore", json.loads(made.stdout)["archive"], "--database-url", url)
        assert done.returncode == 9
        assert f'GRANT CREATE ON TABLESPACE "{space}" TO "{roles.owner}";' in done.stderr
    finally:
        roles.administer("ALTER DATABASE {} SET TABLESPACE pg_default", owned.name)
        roles.administer("DROP TABLESPACE {}", space)


# ── Whose code ────────────────────────────────────────────────────────────────────────────────────────────────────────

Archive = Callable[[], str]


@pytest.fixture
def archive(owned: Database, roles: Roles, call: Run) -> Path:
    """A backup that the owner took, of a table whose CHECK runs code of the owner's."""
    with psycopg.connect(roles.url(roles.owner, owned.name), autocommit=True) as conn:
        conn.execute(
            """CREATE FUNCTION app.fine(int) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN
                   IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
                       EXECUTE format('COMMENT ON DATABASE %I IS %L', 'postgres', 'owned'); END IF;
                   RETURN true; END$$;
               ALTER TABLE app.t ADD CHECK (app.fine(n))"""
        )
    done = call(
        "pgvigil", "backup", "create", "--verify-backup", "read", "--json",
        "--database-url", roles.url(roles.owner, owned.name),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["archive"])


COMMENT = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'postgres'"


@pytest.fixture
def comment(roles: Roles) -> Iterator[None]:
    before = roles.administer(COMMENT)
    yield
    roles.administer(f"COMMENT ON DATABASE postgres IS '{before[0][0] or ''}'")


@pytest.mark.usefixtures("comment")
@pytest.mark.parametrize("command", ["create", "verify", "restore", "rehearse"])
def test_a_superuser_runs_the_code_of_an_owner_only_when_asked_to(
    owned: Database, roles: Roles, archive: Path, call: Run, command: str
) -> None:
    if command == "rehearse":
        owned.execute((PROJECT / "tests/data/existing_install.sql").read_text())
    words = {
        "create": ["backup", "create"],
        "verify": ["backup", "verify", str(archive)],
        "restore": ["restore", str(archive), "--overwrite-newer"],
        "rehearse": ["migrate", "--rehearse"],
    }[command]
    done = call("pgvigil", *words, "--database-url", owned.url)
    assert done.returncode == 4, done.stderr
    assert f'belong to "{roles.owner}", not to a superuser' in done.stderr
    assert f'connect as "{roles.owner}"; or add --run-owner-code' in done.stderr
    assert roles.administer(COMMENT) != [("owned",)]
    assert roles.administer(MADE) == []
    if command != "rehearse":
        done = call("pgvigil", *words, "--run-owner-code", "--database-url", owned.url)
        assert done.returncode == 0, done.stderr
        assert roles.administer(COMMENT) == [("owned",)]


def test_a_superuser_takes_a_backup_of_an_owner_s_database_by_reading_it(owned: Database, call: Run) -> None:
    done = call("pgvigil", "backup", "create", "--verify-backup", "read", "--database-url", owned.url)
    assert done.returncode == 0, done.stderr


def test_an_archive_of_another_server_is_code_of_strangers_to_a_superuser(database: Database, call: Run) -> None:
    database.execute("CREATE TABLE t AS SELECT 1 AS n")
    made = call("pgvigil", "backup", "create", "--json", "--database-url", database.url)
    path = Path(json.loads(made.stdout)["manifest"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"system_identifier": "1"}))
    words = ["backup", "verify", str(path.with_suffix(".dump")), "--database-url", database.url]
    done = call("pgvigil", *words)
    assert (done.returncode, "the backup was taken on another server" in done.stderr) == (4, True)
    assert call("pgvigil", *words, "--run-owner-code").returncode == 0


def test_the_owner_that_we_made_is_the_superuser_s_own_until_somebody_is_made_a_member(
    database: Database, roles: Roles, call: Run
) -> None:
    roles.administer("DO $$ BEGIN CREATE ROLE pgvigil_owner NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    database.execute("CREATE TABLE t AS SELECT 1 AS n; ALTER TABLE t OWNER TO pgvigil_owner")
    words = ["backup", "create", "--database-url", database.url]
    assert call("pgvigil", *words).returncode == 0
    roles.administer("GRANT pgvigil_owner TO {}", roles.stranger)
    assert call("pgvigil", *words).returncode == 4


# ── Roles ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", ["verify", "restore"])
def test_the_roles_that_a_server_does_not_have_are_named_before_anything_is_done(
    database: Database, roles: Roles, call: Run, command: str
) -> None:
    database.execute(
        """CREATE ROLE "Gone %s" NOLOGIN; CREATE TABLE t AS SELECT 1 AS n;
           CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION f() FROM PUBLIC;
           GRANT EXECUTE ON FUNCTION f() TO "Gone %s" """
    )
    made = call("pgvigil", "backup", "create", "--json", "--database-url", database.url)
    database.execute('DROP OWNED BY "Gone %s"; DROP ROLE "Gone %s"')
    archive = json.loads(made.stdout)["archive"]
    words = ["restore", archive] if command == "restore" else ["backup", "verify", archive]
    done = call("pgvigil", *words, "--database-url", database.url)
    assert done.returncode == {"restore": 9, "verify": 5}[command]
    assert "does not have 1 of the roles that the archive names" in done.stderr
    assert 'CREATE ROLE "Gone %s";' in done.stderr
    assert roles.administer(MADE) == []


def test_a_function_that_was_revoked_from_public_is_revoked_after_a_restore(
    database: Database, roles: Roles, call: Run
) -> None:
    database.execute(
        """CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION f() FROM PUBLIC"""
    )
    made = call("pgvigil", "backup", "create", "--json", "--database-url", database.url)
    database.execute("GRANT EXECUTE ON FUNCTION f() TO PUBLIC")
    done = call("pgvigil", "restore", json.loads(made.stdout)["archive"], "--database-url", database.url)
    assert done.returncode == 0, done.stderr
    query = sql.SQL("SELECT has_function_privilege({}, 'f()', 'EXECUTE')").format(sql.Literal(roles.stranger))
    assert database.execute(query) == [(False,)]
