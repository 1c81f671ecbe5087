"""A place of archives may be called anything, and nothing else is written or removed."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest

from conftest import Database
from helpers.archived import SESSION, archive, faults, keep, listed, old_logs, retention, target
from pgvigil.archives import catalogue, erase, parquet, restore, store
from pgvigil.errors import JobError, UsageError
from pgvigil.history import engines, performance
from pgvigil.history.snapshot import Span
from pgvigil.progress import Reporter

pytestmark = pytest.mark.client_side
pytest.importorskip("duckdb")
ODD = '100% a%20b what?no#1 é [1]*{a,b} it\'s "q" $HOME \\ -o'


def _calls(database: Database) -> int:
    with engines.opened() as ask:
        return sum(one.calls for one in performance.trends(target(database), Span(by="all"), ask))


def _archived_erased_and_restored(database: Database, place: Path | str) -> None:
    old_logs(database)
    keep(database)
    assert archive(database, place) == "archived 500 rows"
    retention(database)
    assert faults(database) == []
    assert _calls(database) == 500
    assert erase.erase(target(database), SESSION, "x", Reporter()) == "erased 100 rows from 1 archive"
    assert _calls(database) == 400
    assert restore.restore(target(database), "performance_logs", None, None, Reporter(), table="back") == 400


@pytest.mark.parametrize("name", [ODD, "new\nline", "*"])
def test_a_directory_may_have_any_name(fresh: Database, tmp_path: Path, name: str) -> None:
    _archived_erased_and_restored(fresh, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_url_names_the_directory_as_it_is_written(fresh: Database, tmp_path: Path) -> None:
    _archived_erased_and_restored(fresh, f"file://{tmp_path}/{ODD}")
    assert [path.name for path in tmp_path.iterdir()] == [ODD]
    assert {one.location for one in listed(fresh)} == {str(tmp_path / ODD)}


@pytest.mark.parametrize("url", ["file://archives", "file://host/archives", "file://"])
def test_a_file_url_of_another_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="names no directory of this machine"):
        store.open_store(url)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_one_partition_and_not_the_others(
    fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = old_logs(fresh, ago=21, rows=20_000)
    old_logs(fresh, ago=20, rows=7)
    keep(fresh)
    honest = parquet.put

    def full_once(_file: io.FileIO, _gathered: bytearray) -> int:
        monkeypatch.setattr(parquet, "put", honest)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parquet, "put", full_once)
    with pytest.raises(JobError, match=f"1 of 2 could not be archived: {partition}: .*No space left"):
        archive(fresh, tmp_path)
    assert [one.rows for one in listed(fresh)] == [7]
    assert archive(fresh, tmp_path) == "archived 20,000 rows"


@pytest.mark.parametrize("name", ["[1]", "a*b", "{a,b}", "100%", "é"])
def test_an_erasure_removes_the_old_files_of_a_store_whose_name_is_like_a_pattern(fresh: Database, name: str) -> None:
    pytest.importorskip("fsspec")
    _archived_erased_and_restored(fresh, f"memory://{fresh.name}/{name}")
    assert catalogue.verify(target(fresh))[1] == []
