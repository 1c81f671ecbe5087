"""Test executions: each row says how the query ended, without secrets; faults are reported, and no query fails because
of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import PROJECT, Database, Make, Run, application, give, nobody, wait_until
from pgvigil.errors import ConnectError
from pgvigil.live import ExecutionTracker, Recorder, literals, redact
from pgvigil.live.executions import classify

pytestmark = pytest.mark.client_side

Table = list[tuple[Any, ...]]


class World(SimpleNamespace):
    """A tracker on a new install, and what it has written there."""

    recorder: Recorder
    tracker: ExecutionTracker
    database: Database

    def rows(self, columns: str = "status") -> Table:
        assert self.recorder.flush() == "written"
        return self.database.execute(f"SELECT {columns} FROM query_executions ORDER BY id")

    def row(self, columns: str = "status") -> tuple[Any, ...]:
        [row] = self.rows(columns)
        return row


@pytest.fixture
def world(fresh: Database, make: Make) -> Iterator[World]:
    recorder = make(fresh.url)
    with ExecutionTracker(recorder) as tracker:
        yield World(recorder=recorder, tracker=tracker, database=fresh)


class Fault(Exception):
    """An exception with what a driver's would have."""

    def __init__(self, message: str = "", **attributes: Any) -> None:
        super().__init__(message)
        vars(self).update(attributes)


# --- writing ---------------------------------------------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {
    "execution_id": "e1",
    "user_id": "ada",
    "conversation_id": "\\N",
    "execution_time": 1.5,
    "total_rows": 2**40,
    "returned_rows": 10,
    "page": 3,
    "page_size": 10,
    "error_message": 'quote " and \\ and \t\r\n and ünï',
    "error_type": "Fault",
    "started_at": datetime(2001, 2, 3, 4, 5, 6, 789, tzinfo=UTC),
    "completed_at": datetime(2001, 2, 3, 4, 5, 8, tzinfo=UTC),
    "connection_params": {"host": "db", "port": 5432},
    "request_metadata": {"nested": [1, {"two": None}]},
    "response_metadata": {"columns": ["a"]},
}


@pytest.mark.parametrize("way", ["awaited", "in the background"])
def test_execution_arrives_as_it_was_logged(world: World, way: str) -> None:
    if way == "awaited":
        asyncio.run(world.tracker.log_execution("SELECT\n'1'", "mysql", "error", **EVERYTHING))
    else:
        world.tracker.log_execution_background("SELECT\n'1'", "mysql", "error", **EVERYTHING)
    columns = ", ".join(["query", "database_type", "status", "query_complexity", *EVERYTHING])
    assert world.row(columns) == ("SELECT\n'1'", "mysql", "error", "MULTI_LINE", *EVERYTHING.values())


def test_awaited_execution_is_in_the_database_under_the_id_returned(world: World) -> None:
    id = asyncio.run(world.tracker.log_execution("SELECT 1", "sqlite"))
    assert world.database.execute("SELECT id, query_complexity FROM query_executions") == [(id, "SINGLE_LINE")]


def test_execution_sent_twice_is_stored_once_under_its_first_id(world: World) -> None:
    first = asyncio.run(world.tracker.log_execution("SELECT 1", "x", execution_id="same"))
    world.tracker.log_execution_background("SELECT 2", "x", execution_id="same")
    world.tracker.log_execution_background("SELECT 3", "x", execution_id="other")
    assert world.rows("query") == [("SELECT 1",), ("SELECT 3",)]
    assert asyncio.run(world.tracker.log_execution("SELECT 1", "x", execution_id="same")) == first
    assert world.recorder.stats().quarantined == 0


def test_executions_of_a_dead_database_wait_in_the_spill_and_go_in_once(
    fresh: Database,
    make: Make,
    spill: Path,
    tmp_path: Path,
) -> None:
    recorder = make(nobody(tmp_path), spill_after=0)
    tracker = ExecutionTracker(recorder)
    ids = [tracker.log_execution_background(f"SELECT {n}\0", "x") for n in range(3)]
    recorder.record_performance("beside", 1)
    assert recorder.close(1) == "spilled"
    fresh.execute(
        "INSERT INTO query_executions (execution_id, query, database_type, status) VALUES (%s, 'was there', 'x', 'error')",
        (ids[1],),
    )
    give(spill, fresh.url)
    successor = make(fresh.url)
    successor.record_performance("new", 1)
    wait_until(lambda: successor.stats().written == 5)
    assert fresh.execute("SELECT execution_id, query FROM query_executions ORDER BY query") == [
        (ids[0], "SELECT 0\ufffd"),
        (ids[2], "SELECT 2\ufffd"),
        (ids[1], "was there"),
    ]


def test_a_writer_needs_no_other_right(world: World, make: Make) -> None:
    role = f"t_{uuid4().hex[:8]}"
    world.database.execute(f"CREATE ROLE {role} LOGIN IN ROLE pgvigil_writer")
    try:
        url = re.sub("//postgres@", f"//{role}@", world.database.url)
        recorder = make(url)
        with ExecutionTracker(recorder) as tracker:
            tracker.log_execution_background("SELECT 1", "x")
            assert recorder.flush() == "written"
            asyncio.run(tracker.log_execution("SELECT 1", "x", execution_id="a"))
            asyncio.run(tracker.log_execution("SELECT 1", "x", execution_id="a"))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                tracker.get_user_executions("ada")
        recorder.close()
        assert len(world.rows()) == 2
    finally:
        world.database.execute(f"DROP ROLE {role}")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"status": "done"}, "status is 'done': use one of success, failed, timeout, error"),
    ({"database_type": "x" * 51}, "database_type has 51 characters: use 1 to 50"),
    ({"user_id": ""}, "user_id has 0 characters: use 1 to 100"),
    ({"execution_time": float("nan")}, "execution_time is nan: use 0 to 1000000000 seconds"),
    ({"total_rows": -1}, "total_rows is -1: use 0 to 9223372036854775807"),
    ({"started_at": datetime(2001, 1, 1)}, "at has no time zone, and a naive time may be off by hours: use a value such as datetime.now(UTC)"),  # noqa: DTZ001, RUF100
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[next(iter(a)) for a, _ in WRONG])
def test_what_cannot_be_stored_is_said_by_one_and_only_logged_by_the_other(
    arguments: dict[str, Any], words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(nobody(tmp_path), spill_directory=tmp_path)
    tracker = ExecutionTracker(recorder)
    arguments = {"query": "SELECT 1", "database_type": "x"} | arguments
    with pytest.raises(ValueError, match="^" + re.escape(words) + "$"):
        asyncio.run(tracker.log_execution(**arguments))
    with caplog.at_level(logging.WARNING, "pgvigil"):
        assert tracker.log_execution_background(**arguments) is None
    assert caplog.messages == [f"execution not recorded: ValueError: {words}"]
    assert recorder.stats().accepted == 0


# --- measuring -------------------------------------------------------------------------------------------------------


def test_with_block_is_measured_and_told_what_came_back(world: World) -> None:
    with world.tracker.track_execution("SELECT 1", "x", user_id="ada") as execution:
        execution.total_rows, execution.response_metadata = 7, {"cached": True}
    columns = (
        "status, user_id, total_rows, response_metadata, execution_time BETWEEN 0 AND 60, completed_at >= started_at"
    )
    assert world.row(columns) == ("success", "ada", 7, {"cached": True}, True, True)
    assert world.row("execution_id") == (execution.execution_id,)


def test_decorated_functions_are_recorded_with_details_of_each_call(world: World) -> None:
    track = world.tracker.track_execution(lambda sql, _: sql, "x", user_id=lambda _, user: user)

    @track
    def run(sql: str, user: str) -> str:
        return f"{user} ran {sql}"

    @track
    async def run_async(sql: str, user: str) -> str:
        return f"{user} awaited {sql}"

    assert run("SELECT 1", "ada") == "ada ran SELECT 1"
    assert asyncio.run(run_async("SELECT 2", "bob")) == "bob awaited SELECT 2"
    assert run.__name__ == "run"
    assert world.rows("query, user_id, status") == [("SELECT 1", "ada", "success"), ("SELECT 2", "bob", "success")]


class DatabaseError(Exception):
    """An error with a name of PEP 249."""


class ReadTimeout(Exception):
    """An error with a name that HTTP clients use."""


ENDS: list[tuple[str, BaseException, tuple[str, str, str, str | None]]] = [
    ("the builtin timeout", TimeoutError("slow"), ("timeout", "TimeoutError", "slow", None)),
    ("a driver's timeout", ReadTimeout("slow"), ("timeout", "ReadTimeout", "slow", None)),
    ("statement_timeout", psycopg.errors.QueryCanceled("stop"), ("timeout", "QueryCanceled", "stop", "57014")),
    ("pgcode of another driver", Fault("stop", pgcode="57014"), ("timeout", "Fault", "stop", "57014")),
    ("a wrapper", Fault("[SQL: SELECT 1]", orig=psycopg.errors.UndefinedTable("no t")), ("failed", "Fault", "no t", "42P01")),
    ("a driver's error", DatabaseError("no"), ("failed", "DatabaseError", "no", None)),
    ("the application's error", KeyError("x"), ("error", "KeyError", "'x'", None)),
    ("a cancellation", asyncio.CancelledError(), ("error", "CancelledError", "", None)),
]  # fmt: skip


@pytest.mark.parametrize(("error", "expected"), [end[1:] for end in ENDS], ids=[end[0] for end in ENDS])
def test_exception_tells_how_an_execution_ended(error: BaseException, expected: tuple[str, ...]) -> None:
    assert classify(error) == expected


def test_exception_goes_on_and_is_recorded(world: World) -> None:
    with world.database.connect() as connection:
        connection.execute("SET statement_timeout = 1")
        with (
            pytest.raises(psycopg.errors.QueryCanceled),
            world.tracker.track_execution("SELECT pg_sleep(60)", "postgresql"),
        ):
            connection.execute("SELECT pg_sleep(60)")
    columns = "status, error_type, error_message, response_metadata"
    message = "canceling statement due to statement timeout"
    assert world.row(columns) == ("timeout", "QueryCanceled", message, {"sqlstate": "57014"})


def test_cancelled_task_is_recorded_and_cancelled(world: World) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        @world.tracker.track_execution("SELECT 1", "x")
        async def wait_for_ever() -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(wait_for_ever())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert world.row("status, error_type") == ("error", "CancelledError")


def test_tracking_breaks_nothing_after_it_has_begun(world: World, caplog: pytest.LogCaptureFixture) -> None:
    track = world.tracker.track_execution(lambda: 1 / 0, "x", total_rows=lambda: "many")  # type: ignore[arg-type, return-value]
    assert track(lambda: "result")() == "result"
    assert "execution not recorded: TypeError: total_rows must be an int, not str" in caplog.messages


def test_what_could_never_be_recorded_is_refused_before_anything_runs(world: World) -> None:
    with pytest.raises(ValueError, match="page_size is -1"):
        world.tracker.track_execution("SELECT 1", "x", page_size=-1)
    with pytest.raises(TypeError, match="rows is a generator: use track_execution in a `with` block inside it"):
        world.tracker.track_execution("SELECT 1", "x")(rows)


def rows() -> Iterator[int]:
    yield 1


# --- secrets and literals --------------------------------------------------------------------------------------------

SECRETS: list[tuple[Any, Any]] = [
    ({"password": "s3cret", "host": "h"}, {"password": "***", "host": "h"}),
    ({"DB-Pass-Word": 123, "pass": "s3cret", "nested": [{"apiKey": ["s3cret"]}]}, {"DB-Pass-Word": "***", "pass": "***", "nested": [{"apiKey": "***"}]}),
    ({"access_token": "s3cret", "total_tokens": 17, "password": None}, {"access_token": "***", "total_tokens": 17, "password": None}),
    ("postgresql://ada:s3cr@et/x@db:5432/app?sslmode=require", "postgresql://ada:***@db:5432/app?sslmode=require"),
    ("redis://:s3cret@cache", "redis://:***@cache"),
    ("https://h/x?api_key=s3cret&page=2", "https://h/x?api_key=***&page=2"),
    ("host=db password='s3cr\\'et x' user=ada", "host=db password=*** user=ada"),
    ("Server=db;Pwd=s3cret x;Database=app", "Server=db;Pwd=***;Database=app"),
    ('{"client_secret": "s3cret x", "a": 1}', '{"client_secret": ***, "a": 1}'),
    ("Authorization: Bearer s3cret-s3cret", "Authorization: *** ***"),
    ({b"s3cret": b"s3cret", "when": datetime(2001, 1, 1, tzinfo=UTC), "nan": float("inf"), "nul": "\0\ud800"},
     {"b's3cret'": "6 bytes", "when": "2001-01-01 00:00:00+00:00", "nan": "inf", "nul": "\ufffd?"}),
]  # fmt: skip


@pytest.mark.parametrize(("given", "stored"), SECRETS)
def test_secrets_are_gone_from_what_is_stored(given: Any, stored: Any) -> None:
    assert redact.document(given) == stored


FRAGMENTS = [
    "password", "PassPhrase", "pa\u017f\u017fword", "pwd", "secret", "to\u212aen", "credentials", "signature", "authorization", "cookie",
    "api_key", "private-key", "accountkey", "bearer ", "Basic ", "identified by ", "postgresql://", "ada:", "s3cret-s3cret@", "'s3cret'",
    "s3cret", "=", ": ", "?", "&", ";", " ", "x", "é",
]  # fmt: skip


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join))
def test_quick_look_at_a_text_overlooks_no_secret(text: str) -> None:
    shown = redact.hide_secrets(text), redact.hide_secrets_of_query(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redact, "is_harmless", lambda _: False)
        assert (redact.hide_secrets(text), redact.hide_secrets_of_query(text)) == shown


def test_no_secret_of_parameters_message_or_query_reaches_the_database(world: World) -> None:
    url = "postgresql://ada:s3cret@db/app"
    with pytest.raises(OSError, match="s3cret"), world.tracker.track_execution(
        "CREATE ROLE x PASSWORD 's3cret'", "postgresql", connection_params={"dsn": url, "password": "s3cret"},
        request_metadata={"headers": {"Cookie": "s3cret"}}, response_metadata={"next": f"{url}/2"},
    ):  # fmt: skip
        raise OSError(f"cannot reach {url}")
    [(text,)] = world.rows("to_jsonb(query_executions)::text")
    assert "s3cret" not in text
    assert "CREATE ROLE x PASSWORD '***'" in text


QUERIES = [
    ("SELECT a1, 'it''s', E'\\'x', $$y$$, $t$ $$ $t$, \"a'b\", 1.5e3, $1 FROM t2 -- 'c\nWHERE x = -7", "postgresql",
     'SELECT a1, ?, ?, ?, ?, "a\'b", ?, $1 FROM t2  \nWHERE x = -?'),
    ("SELECT 'C:\\', 'x'", "postgresql", "SELECT ?, ?"),
    ("SELECT 'it\\'s', \"x\", `a'b` FROM t", "mysql", "SELECT ?, ?, `a'b` FROM t"),
    ('{"find": "people", "age": {"$gt": 30}}', "mongodb", "{?: ?, ?: {?: ?}}"),
    ("SELECT 'never closed", "postgresql", "SELECT ?"),
    ("SELECT 1 /* never closed", "postgresql", "SELECT ?  "),
]  # fmt: skip


@pytest.mark.parametrize(("query", "engine", "expected"), QUERIES)
def test_literals_are_normalised(query: str, engine: str, expected: str) -> None:
    assert literals.normalize_literals(query, engine) == expected


def test_tracker_told_so_stores_no_literal(world: World) -> None:
    tracker = ExecutionTracker(world.recorder, normalize_literals=True)
    tracker.log_execution_background(
        "SELECT 'ada'", "postgresql", "failed", error_message='invalid: "ada"\nDETAIL: ada'
    )
    assert world.row("query, error_message") == ("SELECT ?", "invalid: ?")


@pytest.mark.parametrize(
    "query", ["pwd" * 30_000, "a://b:" * 15_000, "'" * 90_000, "password=" * 10_000, "a." * 45_000]
)
def test_no_text_takes_long_to_look_through(query: str) -> None:
    began = os.times().user
    redact.document(query)
    redact.hide_secrets_of_query(query)
    literals.normalize_literals(query, "mysql")
    literals.normalize_literals(query, "postgresql")
    assert os.times().user - began < 5  # quadratic would be minutes


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def history(world: World) -> World:
    """A history of five executions of Ada, two of them at the same moment, and one of Bob."""
    now = datetime.now(UTC)
    for n, (user, engine, status, hours) in enumerate(
        [("ada", "mysql", "success", 1), ("ada", "mysql", "failed", 2), ("ada", "oracle", "success", 2),
         ("ada", "mysql", "timeout", 47), ("ada", "mysql", "error", 49), ("bob", "oracle", "success", 3)]
    ):  # fmt: skip
        began = now - timedelta(hours=hours)
        world.tracker.log_execution_background(
            f"q{n}", engine, status, user_id=user, execution_time=n, total_rows=10, started_at=began, completed_at=began
        )
    assert world.recorder.flush() == "written"
    return world


def queries(page: Any) -> list[str]:
    return [execution["query"] for execution in page.executions]


def test_cursor_and_offset_lead_through_the_same_pages(history: World) -> None:
    tracker = history.tracker
    whole = tracker.get_user_executions("ada")
    assert queries(whole) == ["q0", "q2", "q1", "q3", "q4"]
    assert whole.next_cursor is None
    first = tracker.get_user_executions("ada", limit=2)
    second = tracker.get_user_executions("ada", limit=2, cursor=first.next_cursor)
    assert queries(second) == queries(tracker.get_user_executions("ada", limit=2, offset=2)) == ["q1", "q3"]
    last = tracker.get_user_executions("ada", limit=2, cursor=second.next_cursor)
    assert (queries(last), last.next_cursor) == (["q4"], None)


def test_new_executions_move_nothing_for_a_cursor(history: World) -> None:
    first = history.tracker.get_user_executions("ada", limit=2)
    asyncio.run(history.tracker.log_execution("new", "x", user_id="ada"))
    assert queries(history.tracker.get_user_executions("ada", limit=2, cursor=first.next_cursor)) == ["q1", "q3"]


def test_executions_can_be_filtered(history: World) -> None:
    found = history.tracker.get_user_executions("ada", status="success", database_type="oracle")
    assert queries(found) == ["q2"]
    assert history.tracker.get_user_executions("nobody") == ([], None)


def test_stats_of_a_user_and_of_all(history: World) -> None:
    assert history.tracker.get_execution_stats("ada", days=2) == {
        "period_days": 2, "total_executions": 4, "success_count": 2, "failed_count": 1, "error_count": 0, "timeout_count": 1,
        "success_rate": 50.0, "avg_execution_time": 1.5, "max_execution_time": 3.0, "total_rows_processed": 40,
    }  # fmt: skip
    everyone = history.tracker.get_execution_stats()
    assert (everyone["total_executions"], everyone["success_rate"]) == (6, 50.0)
    nobody_s = history.tracker.get_execution_stats("nobody")
    assert (nobody_s["total_executions"], nobody_s["success_rate"]) == (0, None)


def test_engines_of_a_user_and_of_all(history: World) -> None:
    names = ["database_type", "execution_count", "success_count", "failed_count", "avg_execution_time"]
    [mysql, oracle] = history.tracker.get_database_type_stats("ada")
    assert mysql == dict(zip(names, ["mysql", 4, 1, 1, 2.0], strict=True))
    assert oracle == dict(zip(names, ["oracle", 1, 1, 0, 2.0], strict=True))
    assert [row["execution_count"] for row in history.tracker.get_database_type_stats()] == [4, 2]


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("get_user_executions", {"limit": 0}, "limit is 0: use a whole number from 1 to 1000"),
    ("get_user_executions", {"limit": 1001}, "limit is 1001: use a whole number from 1 to 1000"),
    ("get_user_executions", {"offset": -1}, "offset is -1: use a whole number from 0 to 2147483647"),
    ("get_user_executions", {"status": "x"}, "status is 'x': use one of success, failed, timeout, error"),
    ("get_user_executions", {"cursor": "x"}, "cursor cannot be read: use the next_cursor of an earlier page"),
    ("get_user_executions", {"cursor": "x", "offset": 1}, "both offset and cursor were given: use only one"),
    ("get_execution_stats", {"days": 366}, "days is 366: use a whole number from 1 to 365"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "arguments", "words"), BAD)
def test_bad_argument_of_a_reading_function_is_said(
    function: str, arguments: dict[str, Any], words: str, tmp_path: Path
) -> None:
    tracker = ExecutionTracker(Recorder(nobody(tmp_path), spill_directory=tmp_path))
    with pytest.raises(ValueError, match="^" + re.escape(words) + "$"):
        getattr(tracker, function)("ada", **arguments)


def test_database_error_is_no_empty_list(world: World, tmp_path: Path) -> None:
    """Fault 15: database errors came back as an empty list."""
    with pytest.raises(ConnectError):
        ExecutionTracker(Recorder(nobody(tmp_path), spill_directory=tmp_path)).get_user_executions("ada")
    world.tracker.get_user_executions("ada")
    world.database.execute("DROP TABLE query_executions CASCADE")
    with pytest.raises(psycopg.errors.UndefinedTable):
        world.tracker.get_user_executions("ada")


def test_connection_that_the_server_has_ended_is_made_anew(world: World) -> None:
    world.tracker.get_user_executions("ada")
    ended = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'pgvigil executions' AND datname = current_database()"
    assert world.database.execute(ended) == [(True,)]
    assert world.tracker.get_user_executions("ada").executions == []


def test_page_of_a_user_is_read_from_the_index(fresh: Database) -> None:
    fresh.execute(
        """INSERT INTO query_executions (execution_id, query, database_type, status, user_id, started_at)
           SELECT n::text, 'q', 'x', 'success', 'user ' || n % 50, now() - n * interval '1 second' FROM generate_series(1, 20000) n"""
    )
    fresh.execute("ANALYZE query_executions")
    page = "WHERE user_id = 'user 7' AND (started_at, id) < (now() - interval '1 hour', 5) ORDER BY started_at DESC, id DESC LIMIT 101"
    plan = fresh.execute(f"EXPLAIN SELECT * FROM query_executions {page}")
    assert re.fullmatch(
        r"Limit .*\n  ->  Index Scan using idx_query_executions_user_started_at .*\n +Index Cond: .*",
        "\n".join(line for (line,) in plan),
    )


# --- its retention, and an earlier table of the name -----------------------------------------------------------------


def test_enforce_retention_deletes_what_is_past_its_time(world: World) -> None:
    for days in (8, 6):
        began = datetime.now(UTC) - timedelta(days=days)
        world.tracker.log_execution_background(f"{days}", "x", started_at=began, completed_at=began)
    assert world.recorder.flush() == "written"
    world.database.execute("CALL pgvigil.enforce_retention()")
    assert world.rows("query") == [("6",)]


@pytest.mark.slow
def test_table_of_an_earlier_system_is_kept_aside_and_put_back(existing: Database, call: Run) -> None:
    existing.execute(
        "CREATE TABLE query_executions (id serial PRIMARY KEY, query text); INSERT INTO query_executions (query) VALUES ('old');"
        " CREATE VIEW execution_analytics AS SELECT count(*) FROM query_executions"
    )
    migrated = call("pgvigil", "migrate", "--backup", "none", "--database-url", existing.url)
    assert migrated.returncode == 0, migrated.stderr
    assert existing.execute("SELECT * FROM pgvigil.legacy_query_executions") == [(1, "old")]
    reverted = call("pgvigil", "revert", "--to", "007", "--backup", "none", "--database-url", existing.url)
    assert reverted.returncode == 0, reverted.stderr
    assert existing.execute("SELECT * FROM query_executions") == [(1, "old")]
    assert existing.execute("SELECT * FROM execution_analytics") == [(1,)]


# --- the page about it -----------------------------------------------------------------------------------------------


def test_example_of_the_page_works(fresh: Database, spill: Path) -> None:
    page = (PROJECT / "docs/executions.md").read_text()
    example = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    with application(example, environment={"DATABASE_URL": fresh.url, "XDG_STATE_HOME": str(spill)}) as process:
        output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "3 executions, 66.67 % of them a success"
    assert fresh.execute("SELECT status, count(*) FROM query_executions GROUP BY 1 ORDER BY 1") == [
        ("failed", 1),
        ("success", 2),
    ]
