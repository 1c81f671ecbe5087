"""An installation of each arrangement that people have, and an owner of its tables who means harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from conftest import Connection, Database, Run, administer, copy_database
from pgvigil import project
from pgvigil.embedded.temporary import Server
from pgvigil.placeholders import bound

APPLICATION = project.MIGRATIONS / "000_session_application.sql"
ROLES = """
    DO $$
    DECLARE
        role text;
    BEGIN
        FOREACH role IN ARRAY ARRAY['x_owner LOGIN', 'x_nobody NOLOGIN', 'x_stranger LOGIN'] LOOP
            BEGIN
                EXECUTE 'CREATE ROLE ' || role;
            EXCEPTION WHEN duplicate_object THEN NULL;  -- roles belong to the server, and another test has made this one
            END;
        END LOOP;
    END $$;
    ALTER ROLE x_owner NOSUPERUSER;
    ALTER ROLE x_stranger NOSUPERUSER"""
SESSIONS = """
    INSERT INTO {app}.sessions (session_key, agent_from, expires_at, created_at, updated_at)
    SELECT 'session-' || n, 'agent', now() - interval '1 day', now() - interval '20 days', now() - interval '20 days' FROM generate_series(1, 5) n;
    INSERT INTO {app}.context_history (session_id, sequence_number, context_type, content) SELECT id, 1, 'message', 'x' FROM {app}.sessions"""

# Counts calls with more rights than the owner's. A sequence remembers what is rolled back as well.
COUNTED = """
    CREATE SEQUENCE {app}.turned;
    CREATE FUNCTION {app}.spring() RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
    DECLARE
        way text;
    BEGIN
        FOREACH way IN ARRAY ARRAY['SELECT', 'RESET ROLE', 'RESET SESSION AUTHORIZATION', 'SET ROLE postgres', 'SET SESSION AUTHORIZATION postgres'] LOOP
            BEGIN
                EXECUTE way;
                IF (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
                    PERFORM nextval('{quoted}.turned');
                    ALTER ROLE x_owner SUPERUSER;
                END IF;
            EXCEPTION WHEN insufficient_privilege OR invalid_parameter_value OR undefined_object OR object_in_use THEN NULL;
            END;
        END LOOP;
        RETURN true;
    END $f$"""


@dataclass(frozen=True)
class Installation:
    """The session application in a database: whose its tables are, and as whom pgvigil is run."""

    database: Database
    call: Run
    owner: str = "x_owner"
    user: str = "postgres"
    schema: str = "public"
    states: dict[tuple[object, ...], str] = field(default_factory=dict)
    done: list[object] = field(default_factory=list)

    def reach(self, state: str, make: Callable[[], object]) -> None:
        """Make a state, or copy the database of an earlier test with the same steps until here. All tests share a few
        states.
        """
        way = (self.owner, self.user, self.schema, *self.done, state)
        before = len(self.done)
        server, name = self.database.server, self.database.name
        if template := self.states.get(way):
            administer(server, "DROP DATABASE {} WITH (FORCE)", name)
            copy_database(server, template, name)
            administer(server, "GRANT CREATE ON DATABASE {} TO x_owner", name)
        else:
            make()
            if before <= 3:
                self.states[way] = f"security_{len(self.states)}"
                copy_database(server, name, self.states[way])
        self.done[before:] = [state]

    @property
    def url(self) -> str:
        return self.database.url.replace("postgres@", f"{self.user}@")

    def connect(self, user: str = "postgres") -> Connection:
        """Connect without any schema of the owner in the path: statements of the test itself must not call the owner's
        traps.
        """
        self.done.append(object())  # like nobody else's
        return self._connect(user)

    def _connect(self, user: str = "postgres") -> Connection:
        return self.database.connect(user=user, options="-c search_path=pg_catalog")

    def execute(self, statements: str, *, user: str = "postgres", role: str = "") -> list[tuple[Any, ...]]:
        """Run statements as this user or role; {app} is replaced by the schema's name."""
        app = sql.Identifier(self.schema)
        self.done.append((statements, user, role))
        with self._connect(user) as connection:
            if role:
                connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
            quoted = app.as_string(connection).replace("'", "''")
            text = statements.replace("{app}", app.as_string(connection)).replace("{quoted}", quoted)
            cursor = connection.execute(text.encode())
            return cursor.fetchall() if cursor.description else []

    def as_owner(self, statements: str) -> list[tuple[Any, ...]]:
        return self.execute(statements, role=self.owner)

    def build(self) -> None:
        """Make the roles and the application's tables, with rows that are not new."""
        self.execute(ROLES)
        self.reach("built", self._build)

    def _build(self) -> None:
        self.execute("CREATE SCHEMA IF NOT EXISTS {app}; GRANT CREATE, USAGE ON SCHEMA {app} TO x_owner, x_nobody")
        administer(self.database.server, "GRANT CREATE ON DATABASE {} TO x_owner", self.database.name)
        self.as_owner(bound(APPLICATION.read_text(), self.schema))
        self.as_owner(SESSIONS)

    def pgvigil(self, *words: str) -> tuple[int, str]:
        """Exit code and all that was said."""
        self.done.append(words)
        done = self.call("pgvigil", *words, "--database-url", self.url)
        return done.returncode, done.stdout + done.stderr

    def migrate(self) -> None:
        """Migrate, and accept as the owner what the jobs do."""
        self.reach("migrated", self._migrate)

    def _migrate(self) -> None:
        code, said = self.pgvigil("migrate", "--backup", "none", "--schema", self.schema)
        assert code == 0, said
        [(owner,)] = self.execute("SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'pgvigil'")
        self.execute("UPDATE pgvigil.jobs SET accepted_at = now(), backup_within = NULL", role=owner)

    def run_all_jobs(self) -> None:
        for (job,) in self.execute("SELECT job FROM pgvigil.jobs WHERE NOT needs_client ORDER BY job"):
            code, said = self.pgvigil("maintain", "run", job)
            assert code == 0, f"{job}: {said}"

    @property
    def turned(self) -> bool:
        """Return True if code of the owner ran with more rights than the owner has."""
        [(called, is_superuser)] = self.execute(
            "SELECT t.is_called, r.rolsuper FROM {app}.turned t, pg_roles r WHERE r.rolname = 'x_owner'"
        )
        return bool(called or is_superuser)


_STATES: dict[int, dict[tuple[object, ...], str]] = {}


@pytest.fixture(scope="session")
def states(pg: Server) -> dict[tuple[object, ...], str]:
    """A server's databases for copying, keyed by what was done to them."""
    return _STATES.setdefault(pg.major, {})


@pytest.fixture
def installed(
    database: Database, call: Run, states: dict[tuple[object, ...], str]
) -> Iterator[Callable[..., Installation]]:
    """Build the application in an arrangement; afterwards no role of it is a superuser."""

    def build(**arrangement: str) -> Installation:
        installation = Installation(database, call, **arrangement, states=states)
        installation.build()
        return installation

    yield build
    with suppress(psycopg.errors.UndefinedObject), database.connect() as connection:
        connection.execute("ALTER ROLE x_owner NOSUPERUSER; ALTER ROLE x_stranger NOSUPERUSER")


@pytest.fixture
def mined(installed: Callable[..., Installation]) -> Installation:
    """A plain owner's tables, who has a counter for what runs with more rights; a superuser runs pgvigil."""
    installation = installed()
    installation.as_owner(COUNTED)
    return installation


@pytest.fixture
def own(fresh: Database) -> Iterator[Database]:
    """A new install by a superuser, and somebody who may log in."""
    fresh.execute(ROLES)
    yield fresh
    fresh.execute("ALTER ROLE x_owner NOSUPERUSER; ALTER ROLE x_stranger NOSUPERUSER")


def is_superuser(database: Database, role: LiteralString = "x_stranger") -> bool:
    return database.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (role,)) == [(True,)]
