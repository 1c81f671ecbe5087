"""Test the spill's files: if a part is cut off or damaged, the rest is read, and the loss is counted."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvigil.live import Recorder, spill
from pgvigil.live.spill import START, Segment, Spill, SpillFull, decode, encode, open_private

pytestmark = pytest.mark.client_side

lines = st.binary(max_size=60) | st.text(max_size=30).map(str.encode)
probes = st.none() | st.tuples(st.sampled_from([0, 1]), st.uuids())
written = st.lists(st.tuples(st.tuples(st.sampled_from([0, 1]), lines), probes), max_size=12)
ID = UUID(int=7 << 76)


def rows(count: int, start: int = 0) -> list[tuple[int, bytes]]:
    return [(n % 2, b"row %d\n" % n) for n in range(start, start + count)]


def contents(spilled: Spill) -> list[tuple[int, bytes]]:
    """Read the spill to its end, as a replay does."""
    found = []
    while segment := spilled.oldest():
        found += [record.row for record in segment.read()]
        spilled.finish(segment)
    return found


# --- the format ------------------------------------------------------------------------------------------------------


@given(written)
def test_what_is_written_is_read(records: list) -> None:
    found, damages = decode(b"".join(encode(*record) for record in records), 0)
    assert [(record.row, record.probe) for record in found] == records
    assert damages == []


@given(written, st.data())
def test_truncation_loses_the_torn_record_and_those_after_it(records: list, data: st.DataObject) -> None:
    parts = [encode(*record) for record in records]
    whole = b"".join(parts)
    cut = data.draw(st.integers(0, len(whole)))
    kept = [n for n in range(len(parts)) if sum(map(len, parts[: n + 1])) <= cut]
    found, damages = decode(whole[:cut], 0)
    assert [(record.row, record.probe) for record in found] == [records[n] for n in kept]
    end = sum(len(parts[n]) for n in kept)
    assert damages == ([spill.Damage(end, cut, torn=True)] if end < cut else [])


@given(written.filter(bool), st.data())
def test_damage_loses_the_records_it_touches_and_is_told(records: list, data: st.DataObject) -> None:
    parts = [encode(*record) for record in records]
    whole = bytearray(b"".join(parts))
    first = data.draw(st.integers(0, len(whole) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=min(80, len(whole) - first)))
    before = bytes(whole)
    whole[first : first + len(noise)] = noise
    starts = [sum(map(len, parts[:n])) for n in range(len(parts))]
    untouched = [
        n
        for n, start in enumerate(starts)
        if whole[start : start + len(parts[n])] == before[start : start + len(parts[n])]
    ]
    found, damages = decode(bytes(whole), 0)
    assert [(record.row, record.probe) for record in found] == [records[n] for n in untouched]
    assert bool(damages) == (len(untouched) < len(records))
    covered = sum(damage.end - damage.start for damage in damages) + sum(record.end - record.start for record in found)
    assert covered == len(whole)


@given(st.binary(max_size=300))
def test_anything_can_be_read(data: bytes) -> None:
    found, damages = decode(data, 0)
    assert found == []
    assert damages == ([spill.Damage(0, len(data), torn=True)] if data else [])


def test_line_that_looks_like_a_record_is_not_taken_for_one() -> None:
    inner = encode((0, b"inner"))
    outer = bytearray(encode((0, inner)))
    assert [record.row for record in decode(bytes(outer), 0)[0]] == [(0, inner)]


# --- segments --------------------------------------------------------------------------------------------------------


def test_files_are_private_and_removed_when_read(tmp_path: Path) -> None:
    spilled = Spill(tmp_path / "spill", "tag", 1 << 20)
    spilled.append(rows(10), None)
    [file] = (tmp_path / "spill").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert contents(spilled) == rows(10)
    assert list((tmp_path / "spill").iterdir()) == []


def test_rows_come_back_in_the_order_in_which_they_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "SEGMENT_BYTES", 300)
    spilled = Spill(tmp_path, "tag", 1 << 20)
    for n in range(0, 100, 5):
        spilled.append(rows(5, n), None)
    assert len(list(tmp_path.iterdir())) > 5
    assert contents(spilled) == rows(100)


def test_nobody_takes_over_the_file_of_a_living_process(tmp_path: Path) -> None:
    owner, other = Spill(tmp_path, "tag", 1 << 20), Spill(tmp_path, "tag", 1 << 20)
    owner.append(rows(3), None)
    other.adopt()
    assert not other
    owner.close()
    other.adopt()
    assert contents(other) == rows(3)


def test_only_one_takes_over_the_file_of_a_dead_process(tmp_path: Path) -> None:
    dead, one, two = (Spill(tmp_path, "tag", 1 << 20) for _ in range(3))
    dead.append(rows(3), None)
    dead.close()
    one.adopt()
    two.adopt()
    assert (bool(one), bool(two)) == (True, False)


def test_files_of_another_database_are_left_alone(tmp_path: Path) -> None:
    dead, other = Spill(tmp_path, "tag", 1 << 20), Spill(tmp_path, "another", 1 << 20)
    dead.append(rows(3), None)
    dead.close()
    other.adopt()
    assert not other


def test_what_dead_processes_left_comes_before_our_own(tmp_path: Path) -> None:
    dead, mine = Spill(tmp_path, "tag", 1 << 20), Spill(tmp_path, "tag", 1 << 20)
    dead.append(rows(3), None)
    dead.close()
    mine.append(rows(3, 3), None)
    mine.adopt()
    assert contents(mine) == rows(6)


def test_limit_counts_what_others_hold(tmp_path: Path) -> None:
    other, mine = Spill(tmp_path, "tag", 1 << 20), Spill(tmp_path, "tag", 2_000)
    other.append(rows(50), None)
    with pytest.raises(SpillFull, match="its limit of 2000 bytes"):
        mine.append(rows(1), None)


def test_failed_write_leaves_nothing_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spilled = Spill(tmp_path, "tag", 1 << 20)
    spilled.append(rows(3), None)
    write = os.pwrite

    def fill_up(handle: int, data: bytes, place: int) -> int:
        if len(data) < 30:
            raise OSError(28, "No space left on device")
        return write(handle, data[: len(data) // 2], place)

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", fill_up)
        with pytest.raises(OSError, match="No space left"):
            spilled.append(rows(3, 100), None)
    spilled.append(rows(3, 3), None)
    assert contents(spilled) == rows(6)


def test_marks_say_what_is_done_after_a_crash(tmp_path: Path) -> None:
    segment = Segment.create(tmp_path / "tag-1.spill")
    segment.append(rows(10), (1, ID))
    records = segment.read()
    segment.mark(records[4].start, records[8].start, (0, ID))
    segment.close()
    again = Segment.adopt(tmp_path / "tag-1.spill")
    assert again
    assert [record.row for record in again.read()] == rows(6, 4)
    assert again.uncertain == (records[8].start, (0, ID))
    assert {record.probe for record in again.read()} == {(1, ID)}
    again.close()


@pytest.mark.parametrize("marks", range(1, 6))
def test_torn_mark_leaves_the_one_before_in_force(tmp_path: Path, marks: int) -> None:
    segment = Segment.create(tmp_path / "tag-1.spill")
    segment.append(rows(10), None)
    places = [record.end for record in segment.read()]
    for n in range(marks):
        segment.mark(places[n], places[n], None)
    before = (tmp_path / "tag-1.spill").read_bytes()
    segment.mark(places[marks], places[marks], None)
    segment.close()
    after = (tmp_path / "tag-1.spill").read_bytes()
    changed = [n for n in range(START) if before[n] != after[n]]
    middle = (changed[0] + changed[-1]) // 2
    (tmp_path / "tag-1.spill").write_bytes(after[:middle] + before[middle:])
    again = Segment.adopt(tmp_path / "tag-1.spill")
    assert again
    assert again.done == places[marks - 1]
    again.close()


def test_damaged_file_is_kept_aside(tmp_path: Path) -> None:
    spilled = Spill(tmp_path, "tag", 1 << 20)
    spilled.append(rows(5), None)
    spilled.close()
    [file] = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[START + 60] ^= 1
    file.write_bytes(data)
    spilled.adopt()
    segment = spilled.oldest()
    assert segment
    assert len(segment.damages) == 1
    assert contents(spilled) == [rows(5)[0], *rows(3, 2)]
    assert [path.suffix for path in tmp_path.iterdir()] == [".damaged"]


def test_torn_end_is_cut_off(tmp_path: Path) -> None:
    spilled = Spill(tmp_path, "tag", 1 << 20)
    spilled.append(rows(5), None)
    spilled.close()
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    spilled.adopt()
    segment = spilled.oldest()
    assert segment
    assert [damage.torn for damage in segment.damages] == [True]
    assert contents(spilled) == rows(4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 5, START - 1, START])
def test_file_of_a_process_that_died_while_making_it_is_removed(tmp_path: Path, size: int) -> None:
    Segment.create(tmp_path / "tag-1.spill").close()
    os.truncate(tmp_path / "tag-1.spill", size)
    spilled = Spill(tmp_path, "tag", 1 << 20)
    spilled.adopt()
    assert contents(spilled) == []
    assert list(tmp_path.iterdir()) == []


# --- files and directories of other users ------------------------------------------------------------------------------


def as_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make our own files those of another user from now on."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


def test_directory_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_somebody_else(monkeypatch)
    spill = Spill(tmp_path, "tag", 1 << 20)
    with pytest.raises(PermissionError, match="belongs to uid"):
        spill.append([(0, b"row\n")], None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_directory_that_others_may_write_to_is_not_used(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(PermissionError, match="chmod go-w"):
        Spill(tmp_path, "tag", 1 << 20).append([(0, b"row\n")], None)
    assert list(tmp_path.iterdir()) == []


def left(directory: Path) -> Path:
    """Return the file of a process that has ended."""
    dead = Spill(directory, "tag", 1 << 20)
    dead.append([(0, b"row\n")], None)
    dead.close()
    [path] = directory.glob("*.spill")
    return path


def adopted(directory: Path) -> bool:
    spill = Spill(directory, "tag", 1 << 20)
    spill.adopt()
    try:
        return bool(spill)
    finally:
        spill.close()


def test_file_of_this_user_is_taken_over(tmp_path: Path) -> None:
    left(tmp_path)
    assert adopted(tmp_path)


def test_file_of_another_user_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, fstat = left(tmp_path), os.fstat

    def of_another(handle: int) -> os.stat_result:
        found = list(fstat(handle))
        found[stat.ST_UID] += 1
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", of_another)
    assert not adopted(tmp_path)
    assert path.exists()


def test_file_that_others_may_write_to_is_not_taken_over(tmp_path: Path) -> None:
    left(tmp_path).chmod(0o622)
    assert not adopted(tmp_path)


@pytest.mark.parametrize("way", ["symlink", "hard link", "pipe", "directory"])
def test_what_is_no_file_of_its_own_is_not_taken_over(tmp_path: Path, way: str) -> None:
    path = left(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    if way == "symlink":
        path.symlink_to(elsewhere)
    elif way == "hard link":
        path.hardlink_to(elsewhere)
    elif way == "pipe":
        os.mkfifo(path, 0o600)
    else:
        path.mkdir(mode=0o700)
    assert not adopted(tmp_path)


def test_recorder_says_at_once_that_its_directory_is_of_no_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o777)
    Recorder("postgresql:///d", spill_directory=tmp_path).close()
    assert "writable for other users" in caplog.text


def test_quarantine_of_another_user_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "q").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="q"):
        open_private(tmp_path / "q", os.O_WRONLY | os.O_CREAT)
    assert not (tmp_path / "elsewhere").exists()
