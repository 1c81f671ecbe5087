"""pgvigil.transactions: all or nothing, whichever driver it comes by."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.pool import QueuePool

import pgvigil
from conftest import PROJECT, Database, Templates, _new_database
from pgvigil.live import transactions

pytestmark = pytest.mark.client_side

KINDS = ["psycopg", "psycopg in autocommit", "SQLAlchemy connection", "SQLAlchemy engine"]
FIRST: dict[str, Any] = {"context_type": "message", "content": "hello"}


@pytest.fixture(scope="module")
def database(templates: Templates) -> Iterator[Database]:
    with _new_database(templates.server, templates.get("fresh")) as new:
        yield new


@pytest.fixture
def engine(database: Database) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database.url))
    yield engine
    engine.dispose()


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, database: Database, engine: sqlalchemy.Engine) -> Iterator[Any]:
    """An idle connection of each kind; the tables are empty again in the end."""
    with ExitStack() as opened:
        if request.param == "SQLAlchemy engine":
            yield engine
        elif request.param == "SQLAlchemy connection":
            yield opened.enter_context(engine.connect())
        else:
            autocommit = request.param == "psycopg in autocommit"
            yield opened.enter_context(database.connect(autocommit=autocommit, row_factory=psycopg.rows.dict_row))
    database.execute("DELETE FROM sessions")


def sql(connection: Any, statement: str) -> Any:
    """Run a statement as an application would, on either kind of connection."""
    if isinstance(connection, psycopg.Connection):
        return connection.execute(statement.encode())
    return connection.execute(sqlalchemy.text(statement))


def adds(key: str) -> Any:
    return lambda connection: sql(connection, f"INSERT INTO sessions (session_key, agent_from) VALUES ('{key}', 'x')")


def keys(database: Database) -> list[str]:
    return [key for (key,) in database.execute("SELECT session_key FROM sessions ORDER BY session_key")]


# --- a session with its first row of context -------------------------------------------------------------------------


def test_a_session_and_its_first_context_row_are_there(database: Database, target: Any) -> None:
    expires_at = datetime(2099, 1, 1, tzinfo=UTC)
    made = transactions.create_session(
        target, "k", "a", agent_to="b", expires_at=expires_at, metadata={"x": "%s :y"}, tokens_used=3, **FIRST
    )
    assert database.execute(
        "SELECT s.id, s.agent_to, s.expires_at, s.metadata, c.id, c.sequence_number, c.content, c.tokens_used"
        " FROM sessions s JOIN context_history c ON c.session_id = s.id"
    ) == [(made.session_id, "b", expires_at, {"x": "%s :y"}, made.context_id, 1, "hello", 3)]


def test_without_its_context_there_is_no_session(database: Database, target: Any) -> None:
    with pytest.raises((psycopg.errors.CheckViolation, sqlalchemy.exc.IntegrityError)):
        transactions.create_session(target, "k", "a", context_type="no such type", content="")
    assert keys(database) == []


def test_in_a_transaction_it_is_a_part_of_that(database: Database) -> None:
    with database.connect(autocommit=False) as connection:
        connection.execute("SELECT 1")
        transactions.create_session(connection, "k", "a", **FIRST)
        with pytest.raises(psycopg.errors.UniqueViolation):
            transactions.create_session(connection, "k", "a", **FIRST)
        assert connection.execute("SELECT count(*) FROM context_history").fetchall() == [(1,)]
        connection.rollback()
    assert keys(database) == []


def test_a_time_without_a_zone_is_refused(engine: sqlalchemy.Engine) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        transactions.create_session(engine, "k", "a", expires_at=datetime(2099, 1, 1), **FIRST)


def test_what_is_no_connection_is_refused() -> None:
    with pytest.raises(TypeError, match="str is neither a psycopg connection"):
        transactions.batch("postgresql://", [])  # type: ignore[arg-type]


def test_a_trigger_that_swallows_the_row_is_told(database: Database) -> None:
    with database.connect(autocommit=False) as connection:
        connection.execute("CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        connection.execute("CREATE TRIGGER swallow BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION swallow()")
        with pytest.raises(pgvigil.errors.PreconditionError, match="neither stored nor refused"):
            transactions.create_session(connection, "k", "a", **FIRST)
        connection.rollback()


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_failed_operation_undoes_itself_alone(database: Database, target: Any) -> None:
    def twice(connection: Any) -> None:
        adds("second")(connection)
        adds("first")(connection)

    def no_database(_: Any) -> None:
        raise KeyError("mine")

    told = transactions.batch(
        target, [("add", adds("first")), ("add twice", twice), ("think", no_database), ("add", adds("third"))]
    )
    assert [(one["operation"], one["status"]) for one in told] == [
        ("add", "success"), ("add twice", "failed"), ("think", "failed"), ("add", "success"),
    ]  # fmt: skip
    first, second, third, fourth = (one["error"] for one in told)
    assert second
    assert second.startswith('duplicate key value violates unique constraint "sessions_session_key_key"')
    assert (first, third, fourth) == (None, "'mine'", None)
    assert keys(database) == ["first", "third"]


def test_a_lost_connection_is_raised_and_nothing_stands(database: Database, target: Any) -> None:
    def dies(connection: Any) -> None:
        row = sql(connection, "SELECT pg_backend_pid() AS pid").fetchone()
        pid = row["pid"] if isinstance(row, dict) else row.pid
        database.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
        sql(connection, "SELECT 1")

    with pytest.raises((psycopg.OperationalError, sqlalchemy.exc.OperationalError), match="terminat"):
        transactions.batch(target, [("add", adds("first")), ("die", dies), ("add", adds("second"))])
    assert keys(database) == []


def test_a_transaction_that_has_to_be_done_again_is_raised(database: Database, target: Any) -> None:
    def conflicts(connection: Any) -> None:
        sql(connection, "DO $$ BEGIN RAISE SQLSTATE '40001'; END $$")

    with pytest.raises((psycopg.errors.SerializationFailure, sqlalchemy.exc.OperationalError)):
        transactions.batch(target, [("add", adds("first")), ("conflict", conflicts)])
    assert keys(database) == []


def test_an_operation_that_ends_the_transaction_is_raised(target: Any) -> None:
    with pytest.raises((psycopg.Error, sqlalchemy.exc.SQLAlchemyError), match=r"(?i)savepoint"):
        transactions.batch(target, [("end", lambda connection: sql(connection, "COMMIT"))])


def test_a_batch_within_an_operation_fails_on_its_own(database: Database, target: Any) -> None:
    def inner(connection: Any) -> None:
        transactions.batch(connection, [("add", adds("inner")), ("add", adds("inner"))])

    told = transactions.batch(target, [("add", adds("outer")), ("batch", inner)])
    assert {one["status"] for one in told} == {"success"}
    assert keys(database) == ["inner", "outer"]


# --- pools, and the way here -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "sizes"), [("cli", (1, 0, 3600)), ("web", (5, 10, 3600)), ("high", (20, 50, 1800))]
)
def test_a_profile_makes_a_pool_of_its_size(profile: str, sizes: tuple[int, int, int]) -> None:
    pool = sqlalchemy.create_engine("postgresql+psycopg://", **transactions.pool_options(profile)).pool
    assert isinstance(pool, QueuePool)
    assert (pool.size(), pool._max_overflow, pool._recycle) == sizes


def test_an_unknown_profile_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="cli, web, high"):
        transactions.pool_options("huge")


def test_the_package_loads_nothing_until_it_is_asked() -> None:
    code = (
        "import sys, pgvigil; assert 'psycopg' not in sys.modules;"
        "assert pgvigil.transactions.pool_options('cli'); assert 'sqlalchemy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(PROJECT / "src")})


def test_example_of_the_page_works(database: Database) -> None:
    page = (PROJECT / "docs/transactions.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    environment = {"PYTHONPATH": str(PROJECT / "src"), "DATABASE_URL": database.url}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("['success', 'failed']\n", "")
    assert database.execute("DELETE FROM sessions WHERE session_key = 'order-17' RETURNING status") == [("active",)]
