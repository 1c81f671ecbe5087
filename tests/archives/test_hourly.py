"""Partitions of an hour between partitions of a day: each row is archived and counted once."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Database
from helpers.archived import archive, faults, insert_logs, keep, listed, old_logs, pgvigil, retention, target
from pgvigil.history import engines, performance
from pgvigil.history.snapshot import Span

pytestmark = pytest.mark.client_side
pytest.importorskip("duckdb")


def _step(database: Database, step: str) -> None:
    database.execute("UPDATE pgvigil.partition_policies SET step = %s WHERE parent_table = 'performance_logs'", (step,))
    database.execute("CALL pgvigil.run_job('partitions')")


def _calls(database: Database) -> list[int]:
    with engines.opened() as ask:
        return [
            sum(one.calls for one in performance.trends(target(database), Span(by=by), ask))
            for by in ("hour", "day", "all")
        ]


def test_days_and_hours_side_by_side_are_archived_dropped_and_counted_once(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh, ago=22)
    _step(fresh, "hour")
    fresh.execute(
        """SELECT pgvigil.ensure_partitions('performance_logs', t, t + interval '2 hours')
           FROM (SELECT date_trunc('day', now(), 'UTC') - interval '21 days') s (t)"""
    )
    insert_logs(fresh, ago=21, rows=10_000, first=1001)
    _step(fresh, "day")
    old_logs(fresh, ago=20)
    fresh.execute("INSERT INTO performance_logs (operation, duration_ms, success) VALUES ('now', 1, true)")
    keep(fresh)
    assert _calls(fresh) == [11_001] * 3
    assert archive(fresh, tmp_path) == "archived 11,000 rows"
    retention(fresh)
    assert [one.rows for one in listed(fresh)] == [500, 2599, 3600, 3600, 201, 500]
    assert {one.state for one in listed(fresh)} == {"file"}
    assert _calls(fresh) == [11_001] * 3
    assert faults(fresh) == []
    assert pgvigil(fresh, "validate") == 0
