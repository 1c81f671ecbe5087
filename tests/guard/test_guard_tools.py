"""The recipes of docs/guard.md: other people's migrators, guarded."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from conftest import Database, Run, wait_until
from helpers.migrators import COLUMN, MIGRATORS, Migrator, require_tools, url_for, write_projects

# What the tools send does not depend on the version of the server.
pytestmark = [pytest.mark.client_side, pytest.mark.parametrize("tool", MIGRATORS, ids=lambda tool: tool.name)]


@pytest.fixture
def orders(database: Database) -> Database:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, state text)")
    return database


@pytest.fixture
def guard(call: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    place = require_tools()
    write_projects(tmp_path)
    monkeypatch.chdir(tmp_path)

    def guard(database: Database, tool: Migrator, *options: str) -> Any:
        require_tools(tool.name)
        words = ["sh", "-c", tool.command.format(bin=place)]
        return call("pgvigil", "guard", "--json", "--database-url", url_for(database.tcp_url), *options, "--", *words)

    return guard


def has_column(database: Database) -> bool:
    return bool(
        database.execute("SELECT 1 FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = %s", [COLUMN])
    )


@pytest.mark.slow(first=1)
def test_its_wait_behind_a_reader_is_bounded_and_it_comes_through_at_last(
    guard: Run, orders: Database, tool: Migrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with orders.connect(autocommit=False) as conn:
        conn.execute("SELECT count(*) FROM orders")
        done: list[Any] = []
        thread = threading.Thread(target=lambda: done.append(guard(orders, tool, "--retry", "--backup", "none")))
        thread.start()
        waiting = "SELECT pid FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
        wait_until(lambda: orders.execute(waiting))
        wait_until(lambda: not orders.execute(waiting))
        conn.rollback()
        thread.join()
    told = json.loads(done[0].stdout)
    assert done[0].returncode == 0, done[0].stderr
    assert told["tries"] >= 2
    assert all(entry["waited_ms"] < 2000 for entry in told["cancelled"])
    assert has_column(orders)
    monkeypatch.setenv("OWN_URL", url_for(orders.tcp_url))
    status = subprocess.run(
        ["/bin/sh", "-c", tool.status.format(bin=require_tools())], capture_output=True, text=True, check=False
    )
    assert tool.applied in status.stdout


@pytest.mark.slow(first=1)
def test_with_an_address_of_its_own_it_rehearses_on_the_copy_alone(
    guard: Run, orders: Database, tool: Migrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the rehearsal, which held a lock, it has left nothing at all."""
    monkeypatch.setenv("OWN_URL", url_for(orders.tcp_url))
    before = orders.execute("SELECT oid, relname, relnatts FROM pg_class ORDER BY oid")
    done = guard(orders, tool, "--rehearse", "--max-lock-ms", "0", "--backup-dir", str(tmp_path / "backups"))
    told = json.loads(done.stdout)
    assert told["rehearsal"]["command_exit_code"] == 0, done.stderr
    assert told["rehearsal"]["sessions"] >= 1
    assert done.returncode in (0, 4)
    if done.returncode == 4:  # the lock was held long enough to be seen
        assert orders.execute("SELECT oid, relname, relnatts FROM pg_class ORDER BY oid") == before
    else:
        assert has_column(orders)
