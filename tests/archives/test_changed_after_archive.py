"""Rows that are deleted, restored or erased after they were archived: none is counted twice, and none that was deleted returns."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from conftest import Database
from helpers.archived import SESSION, archive, faults, is_there, keep, listed, old_logs, retention, target
from pgvigil.archives import erase, restore
from pgvigil.errors import JobError, PreconditionError
from pgvigil.history import engines, executions, performance, session
from pgvigil.history.snapshot import Span
from pgvigil.progress import Reporter

pytestmark = pytest.mark.client_side
pytest.importorskip("duckdb")


def _calls(database: Database) -> int:
    with engines.opened() as ask:
        return sum(one.calls for one in performance.trends(target(database), Span(by="all"), ask))


def _archived(database: Database, place: Path, *, ago: int = 20) -> str:
    partition = old_logs(database, ago=ago)
    keep(database)
    archive(database, place)
    return partition


def _put_back(database: Database, rows: str = "") -> None:
    restore.restore(target(database), "performance_logs", None, None, Reporter(), table="back")
    database.execute(
        f"""SELECT pgvigil.ensure_partitions('performance_logs', min(created_at), max(created_at)) FROM back;
            INSERT INTO performance_logs SELECT * FROM back {rows}"""
    )


def test_a_partition_that_was_detached_and_attached_again_is_counted_once(fresh: Database, tmp_path: Path) -> None:
    partition = _archived(fresh, tmp_path)
    [(bound,)] = fresh.execute(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = %s::regclass", (partition,)
    )
    fresh.execute(f"ALTER TABLE performance_logs DETACH PARTITION {partition}")
    archive(fresh, tmp_path)
    assert _calls(fresh) == 500
    fresh.execute(f"ALTER TABLE performance_logs ATTACH PARTITION {partition} {bound}")
    assert _calls(fresh) == 500
    retention(fresh)
    assert _calls(fresh) == 500


def test_a_partition_whose_rows_were_all_put_back_is_archived_in_place_of_the_old_archive(
    fresh: Database, tmp_path: Path
) -> None:
    _archived(fresh, tmp_path)
    retention(fresh)
    _put_back(fresh)
    with pytest.raises(PreconditionError, match="in performance_logs again: history would count them twice"):
        _calls(fresh)
    archive(fresh, tmp_path)
    assert _calls(fresh) == 500
    retention(fresh)
    assert _calls(fresh) == 500
    assert [one.rows for one in listed(fresh)] == [500]


def test_some_rows_that_were_put_back_are_neither_archived_nor_counted_twice(fresh: Database, tmp_path: Path) -> None:
    _archived(fresh, tmp_path)
    retention(fresh)
    _put_back(fresh, "ORDER BY id LIMIT 200")
    with pytest.raises(JobError, match="which would be archived twice"):
        archive(fresh, tmp_path)
    retention(fresh)
    with pytest.raises(PreconditionError, match="history would count them twice"):
        _calls(fresh)
    fresh.execute("DELETE FROM performance_logs")
    archive(fresh, tmp_path)
    assert _calls(fresh) == 500


def test_executions_that_were_put_back_are_neither_archived_nor_counted_twice(fresh: Database, tmp_path: Path) -> None:
    fresh.execute(
        """INSERT INTO query_executions (execution_id, query, database_type, status, execution_time, started_at)
           VALUES ('e', 'q', 'postgresql', 'success', 1, now() - interval '20 days')"""
    )
    keep(fresh)
    fresh.execute("CALL pgvigil.run_job('executions')")
    archive(fresh, tmp_path)
    restore.restore(target(fresh), "query_executions", None, None, Reporter(), table="back")
    fresh.execute("INSERT INTO query_executions OVERRIDING SYSTEM VALUE SELECT * FROM back")

    def count() -> int:
        with engines.opened() as ask:
            return sum(one.executions for one in executions.executions(target(fresh), Span(), ask))

    with pytest.raises(PreconditionError, match="history would count them twice"):
        count()
    fresh.execute("CALL pgvigil.run_job('executions')")
    with pytest.raises(JobError, match="which would be archived twice"):
        archive(fresh, tmp_path)
    with pytest.raises(PreconditionError, match="history would count them twice"):
        count()
    fresh.execute("DELETE FROM pgvigil.executions_to_archive")
    assert count() == 1


def test_rows_that_were_all_deleted_do_not_return_with_their_archive(fresh: Database, tmp_path: Path) -> None:
    partition = _archived(fresh, tmp_path)
    fresh.execute("DELETE FROM performance_logs")
    assert partition in retention(fresh)
    assert _calls(fresh) == 0
    archive(fresh, tmp_path)
    retention(fresh)
    assert not is_there(fresh, partition)
    assert _calls(fresh) == 0
    assert faults(fresh) == []


@pytest.mark.parametrize("ago", [3, 20])
@pytest.mark.parametrize("left", [0, 400])
def test_a_session_is_erased_once_its_rows_in_the_database_are_deleted(
    fresh: Database, tmp_path: Path, ago: int, left: int
) -> None:
    old_logs(fresh, ago=ago)
    if not left:
        fresh.execute("UPDATE performance_logs SET session_id = %s", (SESSION,))
    keep(fresh)
    archive(fresh, tmp_path)
    with pytest.raises(PreconditionError) as refused:
        erase.erase(target(fresh), SESSION, "x", Reporter())
    fresh.execute(refused.value.hint.partition(";")[0])
    assert erase.erase(target(fresh), SESSION, "x", Reporter()) == f"erased {500 - left} rows from 1 archive"
    assert _calls(fresh) == left
    archive(fresh, tmp_path)
    retention(fresh)
    assert _calls(fresh) == left
    assert faults(fresh) == []


def test_executions_that_wait_for_their_archive_are_archived_before_their_session_is_erased(
    fresh: Database, tmp_path: Path
) -> None:
    fresh.execute(
        """INSERT INTO query_executions (execution_id, query, database_type, status, execution_time, started_at, conversation_id)
           VALUES ('e', 'q', 'postgresql', 'success', 1, now() - interval '20 days', upper(%s))""",
        (SESSION,),
    )
    keep(fresh)
    fresh.execute("CALL pgvigil.run_job('executions')")
    with pytest.raises(PreconditionError, match="wait for their archive"):
        erase.erase(target(fresh), SESSION, "x", Reporter())
    archive(fresh, tmp_path)
    assert erase.erase(target(fresh), SESSION, "x", Reporter()) == "erased 1 row from 1 archive"


def _timeline(database: Database) -> object:
    with engines.opened() as ask:
        return [one.id for one in session.timeline(target(database), SESSION, ask)]


def _trends(by: str) -> Callable[[Database], object]:
    def trends(database: Database) -> object:
        span = Span(datetime(1900, 1, 1, tzinfo=UTC), by=by)
        with engines.opened() as ask:
            return [(one.time, one.operation, one.calls) for one in performance.trends(target(database), span, ask)]

    return trends


@pytest.mark.parametrize("answer", [_timeline, _trends("hour"), _trends("day")], ids=["timeline", "hour", "day"])
def test_times_before_1970_are_answered_the_same_from_the_archive(
    fresh: Database, tmp_path: Path, answer: Callable[[Database], object]
) -> None:
    old_logs(fresh, rows=40)
    fresh.execute(
        """UPDATE performance_logs SET session_id = %s,
           created_at = timestamptz '1969-12-30 10:30:00Z' + (metadata ->> 'n')::integer * interval '30 minutes'""",
        (SESSION,),
    )
    keep(fresh)
    was = answer(fresh)
    archive(fresh, tmp_path)
    retention(fresh)
    assert answer(fresh) == was
