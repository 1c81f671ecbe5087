"""A backup comes back as a new database, compared before it takes the old one's place; the old one is kept."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import EXISTING_SESSIONS, PROJECT, Database, wait_until
from helpers.catalog import APPLICATION_ROWS, catalog
from pgvigil import cli, scratch_databases
from pgvigil import database as databases
from pgvigil.backup import create, pg_tools, restore, scratch_restore, swap
from pgvigil.backup.restore import RestoreOutcome
from pgvigil.database import Target
from pgvigil.errors import RestoreError
from pgvigil.progress import Reporter

pytestmark = pytest.mark.client_side

NEW_ROW = "INSERT INTO sessions (session_key, agent_from) VALUES ('written after the backup', 'x')"
Restore = Callable[..., RestoreOutcome]


def maintenance(database: Database, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database.server.dsn(), autocommit=True) as conn:
        cursor = conn.execute(query)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def schema(database: Database) -> str:
    """The catalog, in which an IN list is spelt the same before a dump and after."""
    alike = lambda line: re.sub(r"::[a-z ]+(\[\])?|[()]", "", line) if "ARRAY[" in line else line  # noqa: E731
    return "\n".join(alike(line) for line in catalog(database).splitlines())


def family(database: Database) -> list[str]:
    """The database and what was made of it."""
    rows = maintenance(database, f"SELECT datname FROM pg_database WHERE datname ~ '^({database.name}|pgvigil_verify)'")
    return sorted(str(name) for (name,) in rows)


@pytest.fixture
def target(existing: Database) -> Iterator[Target]:
    yield databases.parse_url(existing.tcp_url, "--database-url")
    for name in family(existing):
        if name != existing.name:
            maintenance(existing, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def archive(target: Target, tmp_path: Path) -> Path:
    """A proved backup of `existing`."""
    with databases.connect(target, "test") as conn:
        made = create.take(conn, target, tmp_path / "backups", None, Reporter())
    assert made.archive
    return Path(made.archive)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def restore_displaced(target: Target, archive: Path, said: list[str]) -> Restore:
    def restore_displaced(*, overwrite_newer: bool = False, rename: swap.Rename = swap.rename_in_use) -> RestoreOutcome:
        log = Reporter(said.append)
        return restore.restore(target, archive, overwrite_newer=overwrite_newer, log=log, rename=rename)

    return restore_displaced


def refused(restore_displaced: Restore, existing: Database, words: str) -> RestoreError:
    """The restore fails, and the live database is the one it was, open, and without a half-restored one beside it."""
    identity = "SELECT oid, datallowconn FROM pg_database WHERE datname = current_database()"
    before, rows = existing.execute(identity), existing.execute(APPLICATION_ROWS)
    with pytest.raises(RestoreError, match=words) as caught:
        restore_displaced()
    assert existing.execute(identity) == before
    assert existing.execute(APPLICATION_ROWS) == rows
    assert family(existing) == [existing.name]
    return caught.value


# ── What comes back ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_schema_and_rows_come_back_and_the_old_database_is_kept(existing: Database, restore_displaced: Restore) -> None:
    before, rows = schema(existing), existing.execute(APPLICATION_ROWS)
    existing.execute("DROP TABLE context_history CASCADE; TRUNCATE sessions CASCADE")
    done = restore_displaced()
    assert existing.execute(APPLICATION_ROWS) == rows
    assert schema(existing) == before
    assert re.fullmatch(rf"{existing.name}_pre_restore_\d{{8}}T\d{{6}}", done.kept)
    assert family(existing) == [existing.name, done.kept]
    with psycopg.connect(existing.server.dsn(done.kept)) as conn:
        assert conn.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
    assert (done.tables, done.swap_seconds < 5) == (5, True)


def test_owner_rights_and_settings_are_carried_over(existing: Database, restore_displaced: Restore) -> None:
    maintenance(
        existing,
        f"""DO $$ BEGIN CREATE ROLE bk_owner; CREATE ROLE bk_guest; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
            ALTER DATABASE {existing.name} OWNER TO bk_owner;
            REVOKE ALL ON DATABASE {existing.name} FROM PUBLIC;
            GRANT CONNECT ON DATABASE {existing.name} TO bk_guest WITH GRANT OPTION;
            ALTER DATABASE {existing.name} SET search_path = "$user", public, "Odd, one";
            ALTER DATABASE {existing.name} SET pgvigil.activity_granularity = '5 min''s';
            ALTER DATABASE {existing.name} SET DateStyle = 'SQL, DMY';
            ALTER ROLE bk_guest IN DATABASE {existing.name} SET work_mem = '7MB';
            ALTER ROLE bk_guest IN DATABASE {existing.name} SET search_path = '';
            ALTER DATABASE {existing.name} CONNECTION LIMIT 42;
            COMMENT ON DATABASE {existing.name} IS 'the app''s sessions' """,
    )
    facts = f"""SELECT pg_get_userbyid(datdba), datconnlimit, shobj_description(oid, 'pg_database'), datcollate, encoding,
                       ARRAY(SELECT a::text FROM unnest(datacl) a ORDER BY 1), datallowconn,
                       ARRAY(SELECT (setrole::regrole, setconfig)::text FROM pg_db_role_setting WHERE setdatabase = d.oid ORDER BY 1)
                FROM pg_database d WHERE datname = '{existing.name}'"""
    before = maintenance(existing, facts)
    restore_displaced()
    assert maintenance(existing, facts) == before


def test_sessions_are_ended_and_can_come_back(existing: Database, restore_displaced: Restore) -> None:
    """Clients that reconnect again and again do not prevent the swap of the database."""
    stop, ended = threading.Event(), [0]

    def insist() -> None:
        while not stop.is_set():
            try:
                with existing.connect() as conn:
                    while not stop.is_set():
                        conn.execute("SELECT count(*) FROM handoff_requests")
            except psycopg.OperationalError:
                ended[0] += 1

    clients = [threading.Thread(target=insist) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        restore_displaced()
        assert existing.execute("SELECT count(*) FROM sessions") == [(EXISTING_SESSIONS,)]
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert ended[0] >= 3


def test_a_missing_public_schema_stays_missing(existing: Database, target: Target, tmp_path: Path) -> None:
    existing.execute('ALTER SCHEMA public RENAME TO "My App"')
    before = schema(existing)
    with databases.connect(target, "test") as conn:
        made = create.take(conn, target, tmp_path / "backups", None, Reporter(), proof="restore")
    restore.restore(target, Path(str(made.archive)), overwrite_newer=False, log=Reporter())
    assert existing.execute("SELECT to_regnamespace('public')") == [(None,)]
    assert schema(existing) == before


@pytest.mark.parametrize("proof", ["read", "restore"])
@pytest.mark.slow(first=1)
def test_a_migration_is_undone_by_the_backup_it_took(
    existing: Database, target: Target, tmp_path: Path, proof: str
) -> None:
    """Rows of the migration itself are not a loss: no --overwrite-newer is needed."""
    before, rows = schema(existing), existing.execute(APPLICATION_ROWS)
    with databases.connect(target, "test") as conn:
        made = create.take(conn, target, tmp_path / "first", None, Reporter(), proof=proof)  # type: ignore[arg-type]
    assert cli.main(["migrate", "--database-url", existing.url, "--backup-dir", str(tmp_path / "own")]) == 0
    restore.restore(target, Path(str(made.archive)), overwrite_newer=False, log=Reporter())
    assert schema(existing) == before
    assert existing.execute(APPLICATION_ROWS) == rows


def test_a_migrated_database_is_proved_and_comes_back(migrated: Database, tmp_path: Path) -> None:
    """A dump spells partitions, triggers and CHECKs in another way."""
    target = databases.parse_url(migrated.tcp_url, "--database-url")
    with databases.connect(target, "test") as conn:
        made = create.take(conn, target, tmp_path / "backups", "015", Reporter(), proof="restore")
    done = restore.restore(target, Path(str(made.archive)), overwrite_newer=False, log=Reporter())
    maintenance(migrated, f'DROP DATABASE "{done.kept}"')
    assert cli.main(["validate", "--self-test", "--database-url", migrated.url]) == 0


# ── Rows written after the backup ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (
            NEW_ROW,
            rf"public\.sessions has {EXISTING_SESSIONS + 1:,} rows that differ from the {EXISTING_SESSIONS:,} in the backup",
        ),
        (
            "UPDATE sessions SET metadata = '{\"n\": 1}' WHERE session_key = 'session-7'",
            rf"public\.sessions has {EXISTING_SESSIONS:,} rows",
        ),
        ("CREATE TABLE later AS SELECT 1 AS n", r"public\.later has 1 row and was created after the backup"),
    ],
)
def test_what_was_written_after_the_backup_is_not_overwritten_unasked(
    existing: Database, restore_displaced: Restore, archive: Path, write: str, words: str
) -> None:
    existing.execute(write)
    error = refused(restore_displaced, existing, words)
    assert re.search(
        rf"pgvigil restore {archive} --overwrite-newer --database-url '.*dbname={existing.name}", error.hint
    )
    assert existing.server.password not in error.message + error.hint
    done = restore_displaced(overwrite_newer=True)
    assert existing.execute("SELECT count(*) FROM sessions") == [(EXISTING_SESSIONS,)]
    with psycopg.connect(existing.server.dsn(done.kept)) as conn:  # nothing is lost for good
        conn.execute("SELECT 1 FROM sessions WHERE session_key = 'written after the backup'")


def test_what_is_written_while_the_restore_runs_is_found_before_the_swap(
    existing: Database, restore_displaced: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_over = swap.carry_over

    def write_and_carry_over(*arguments: object) -> None:
        existing.execute(NEW_ROW)
        carry_over(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(swap, "carry_over", write_and_carry_over)
    with pytest.raises(RestoreError, match=f"{EXISTING_SESSIONS + 1:,} rows"):
        restore_displaced()
    assert existing.execute("SELECT count(*) FROM sessions") == [(EXISTING_SESSIONS + 1,)]
    assert family(existing) == [existing.name]


def test_no_row_is_lost_while_clients_write(existing: Database, restore_displaced: Restore) -> None:
    """Each row whose commit was confirmed between the last check and the swap is there afterwards."""
    committed: list[str] = []
    go, stop = threading.Event(), threading.Event()

    def write(number: int) -> None:
        go.wait()
        while not stop.is_set():
            try:
                with existing.connect(application_name="bk writer") as conn:
                    while not stop.is_set():
                        key = f"writer-{number}-{os.urandom(6).hex()}"
                        conn.execute("INSERT INTO sessions (session_key, agent_from) VALUES (%s, 'w')", (key,))
                        committed.append(key)
            except psycopg.OperationalError:
                pass

    waiting = (
        "SELECT count(*) = 3 FROM pg_stat_activity WHERE application_name = 'bk writer' AND wait_event_type = 'Lock'"
    )

    def with_writers_waiting(*arguments: Any) -> None:
        if not go.is_set():
            go.set()
            wait_until(lambda: maintenance(existing, waiting) == [(True,)])
        swap.rename_in_use(*arguments)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    try:
        restore_displaced(rename=with_writers_waiting)
        wait_until(lambda: committed)
    finally:
        go.set()
        stop.set()
        for writer in writers:
            writer.join()
    assert existing.execute("SELECT count(*) FROM sessions") == [(EXISTING_SESSIONS + len(committed),)]


# ── Files that are not backups ─────────────────────────────────────────────────────────────────────────────────────────────────


def cut(archive: Path) -> None:
    os.truncate(archive, archive.stat().st_size * 6 // 10)


def flip(archive: Path) -> None:
    with archive.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))


def of_another(archive: Path) -> None:
    manifest = json.loads(archive.with_suffix(".json").read_text())
    archive.with_suffix(".json").write_text(json.dumps(manifest | {"sha256": "0" * 64}))


def miscounted(archive: Path) -> None:
    manifest = json.loads(archive.with_suffix(".json").read_text())
    manifest["tables"]["public.handoff_requests"]["digest"] = "1"
    archive.with_suffix(".json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "does not match its manifest"),
        (flip, "does not match its manifest"),
        (of_another, "does not match its manifest"),
        (lambda archive: archive.with_suffix(".json").unlink(), r"\.json cannot be read: No such file"),
        (lambda archive: archive.with_suffix(".json").write_text("{}"), "is not a manifest of this version"),
        (lambda archive: archive.unlink(), r"\.dump cannot be read: No such file"),
    ],
    ids=["truncated", "flipped", "of another", "no manifest", "empty manifest", "no archive"],
)
def test_what_is_no_backup_is_refused(
    existing: Database, restore_displaced: Restore, archive: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(archive)
    refused(restore_displaced, existing, words)


def test_a_restore_that_does_not_equal_the_manifest_is_not_swapped_in(
    existing: Database, restore_displaced: Restore, archive: Path
) -> None:
    miscounted(archive)
    existing.execute("TRUNCATE handoff_requests")
    refused(restore_displaced, existing, r"public\.handoff_requests has rows with different content")


def test_a_backup_without_rows_is_refused(target: Target, tmp_path: Path) -> None:
    with databases.connect(target, "test") as conn:
        made = create.take(conn, target, tmp_path / "backups", None, Reporter(), kind="schema")
    with pytest.raises(RestoreError, match="of kind schema, which has no rows"):
        restore.restore(target, Path(str(made.archive)), overwrite_newer=True, log=Reporter())


def test_a_pg_restore_that_fails_leaves_the_database_as_it_was(
    existing: Database, restore_displaced: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tools").mkdir()
    for name, script in (
        ("pg_dump", "echo 'pg_dump (PostgreSQL) 99.1'"),
        ("pg_restore", '[ "$1" = --list ] || { echo disk full >&2; exit 1; }'),
    ):
        (tmp_path / "tools" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "tools" / name).chmod(0o755)
    monkeypatch.setenv("PGVIGIL_PG_BIN", str(tmp_path / "tools"))
    refused(restore_displaced, existing, "the backup cannot be restored:\n  disk full")


INIT = "pg_restore: while INITIALIZING:\n"
FOREIGN = (
    'pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter "transaction_timeout"\n'
    "Command was: SET transaction_timeout = 0;\n"
)
OTHER = 'pg_restore: error: could not execute query: ERROR:  role "x" does not exist\nCommand was: ALTER TABLE t OWNER TO x;\n'
IGNORED = "pg_restore: warning: errors ignored on restore: {}\n"


@pytest.mark.parametrize(
    ("words", "status", "forgiven"),
    [
        (INIT + FOREIGN + IGNORED.format(1), 1, True),
        (FOREIGN + IGNORED.format(1), 1, True),
        (INIT + FOREIGN, None, True),
        (INIT + FOREIGN + OTHER, None, False),
        (INIT + FOREIGN + OTHER + IGNORED.format(2), 1, False),
        (INIT + FOREIGN + "pg_restore: error: COPY failed for table t\n" + IGNORED.format(2), 1, False),
        (INIT + FOREIGN + "pg_restore: error: could not read from input file\n", 1, False),
        (OTHER + IGNORED.format(1), 1, False),
        (INIT + FOREIGN + IGNORED.format(1), -9, False),
        (IGNORED.format(1), 1, False),
        ("", 1, False),
    ],
)
def test_only_the_missing_transaction_timeout_is_forgiven(words: str, status: int | None, forgiven: bool) -> None:
    assert scratch_restore._is_transaction_timeout(words, status) is forgiven


# ── Crashes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", [RuntimeError("between the renames"), KeyboardInterrupt()])
@pytest.mark.slow(first=1)
def test_a_failure_between_the_two_renames_renames_back(
    existing: Database, restore_displaced: Restore, how: BaseException
) -> None:
    before = existing.execute("SELECT oid FROM pg_database WHERE datname = current_database()")

    def once(admin: psycopg.Connection, helper: psycopg.Connection, old: str, *rest: Any) -> None:
        if old != existing.name:
            raise how
        swap.rename_in_use(admin, helper, old, *rest)

    with pytest.raises(type(how)):
        restore_displaced(rename=once)
    assert existing.execute("SELECT oid FROM pg_database WHERE datname = current_database()") == before
    assert family(existing) == [existing.name]


@pytest.mark.parametrize("at", ["before", "between", "after"])
@pytest.mark.slow(first=1)
def test_a_process_killed_at_the_renames_leaves_the_database_reachable(
    existing: Database, archive: Path, at: str
) -> None:
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    program = f"""
import os, signal, sys
from pathlib import Path
from pgvigil import database
from pgvigil.backup import restore
from pgvigil.backup import swap
from pgvigil.progress import Reporter
calls = []
def renames(*arguments):
    calls.append(arguments)
    if {at!r} == "before" or len(calls) == 2 and {at!r} == "between":
        {kill}
    swap.rename_in_use(*arguments)
    if len(calls) == 2:
        {kill}
target = database.parse_url(sys.argv[1], "--database-url")
restore.restore(target, Path(sys.argv[2]), overwrite_newer=False, log=Reporter(), rename=renames)
"""
    died = subprocess.run(
        [sys.executable, "-c", program, existing.tcp_url, archive],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert existing.execute("SELECT count(*) FROM sessions") == [(EXISTING_SESSIONS,)]
    assert not [name for name in family(existing) if "_pre_restore_" in name]


def test_what_a_killed_restore_left_is_dropped_by_the_next(existing: Database, restore_displaced: Restore) -> None:
    left, other = f"{existing.name}_pgvigil_restore_20261121T010203", f"{existing.name}_pgvigil_restore_20261121T040506"
    with databases.connect(databases.parse_url(existing.server.dsn(), "a test"), "test") as conn:
        scratch_databases.make(conn, left)
        pid = conn.info.backend_pid
    wait_until(lambda: not maintenance(existing, f"SELECT FROM pg_stat_activity WHERE pid = {pid}"))
    maintenance(existing, f'CREATE DATABASE "{other}"')  # not marked: somebody's own
    done = restore_displaced()
    assert family(existing) == sorted([existing.name, other, done.kept])


def test_a_name_that_somebody_has_taken_does_not_stop_the_restore(
    existing: Database, restore_displaced: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 11, 21, 5, 27, 46, tzinfo=tz)

    monkeypatch.setattr(restore, "datetime", Clock)
    taken = [f"{existing.name}_{what}_20261121T052746" for what in ("pre_restore", "pgvigil_restore")]
    for name in taken:
        maintenance(existing, f'CREATE DATABASE "{name}"')
    done = restore_displaced()
    assert re.fullmatch(rf"{taken[0]}_[0-9a-f]{{8}}", done.kept)
    assert family(existing) == sorted([existing.name, *taken, done.kept])
    assert existing.execute("SELECT count(*) FROM sessions") == [(EXISTING_SESSIONS,)]


def test_rights_and_comment_come_with_the_swap_and_not_before(
    existing: Database, restore_displaced: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    maintenance(existing, f"GRANT CREATE ON DATABASE {existing.name} TO PUBLIC")
    seen: list[tuple[object, ...]] = []

    def look(_: psycopg.Connection, __: str, new: str, ___: object) -> None:
        seen.extend(maintenance(existing, f"SELECT datacl::text[] FROM pg_database WHERE datname = '{new}'"))

    monkeypatch.setattr(swap, "carry_over", look)
    restore_displaced()
    assert seen == [(["postgres=CTc/postgres"],)]
    facts = f"SELECT datacl::text[], shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{existing.name}'"
    assert maintenance(existing, facts) == [(["=CTc/postgres", "postgres=CTc/postgres"], None)]


# ── What pg_dump leaves out ───────────────────────────────────────────────────────────────────────────────────────────


def test_what_pg_dump_has_left_out_is_not_lost_unasked(existing: Database, target: Target, tmp_path: Path) -> None:
    existing.execute("CREATE EXTENSION citext; CREATE TABLE orders AS SELECT generate_series(1, 10) AS n")
    existing.execute("ALTER EXTENSION citext ADD TABLE orders")
    with databases.connect(target, "test") as conn:
        made = create.take(conn, target, tmp_path / "backups", None, Reporter())
    with pytest.raises(
        RestoreError, match=r"left objects out of the archive.*table public\.orders \(10 rows\)"
    ) as caught:
        restore.restore(target, Path(str(made.archive)), overwrite_newer=False, log=Reporter())
    assert "--accept-left-out" in caught.value.hint
    assert family(existing) == [existing.name]
    done = restore.restore(target, Path(str(made.archive)), overwrite_newer=False, accept_left_out=True, log=Reporter())
    with psycopg.connect(existing.server.dsn(done.kept)) as conn:
        assert conn.execute("SELECT count(*) FROM orders").fetchone() == (10,)


def test_a_parameter_that_the_server_does_not_know_is_the_reason_that_is_given(
    existing: Database, restore_displaced: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tools").mkdir()
    fails = 'case " $* " in *" --dbname="*) echo \'ERROR:  unrecognized parameter "pg_attver"\' >&2; exit 1;; esac'
    real = pg_tools.find_tool("pg_restore", existing.server.major)[0]
    for name, script in (("pg_dump", ""), ("pg_restore", fails)):
        (tmp_path / "tools" / name).write_text(f'#!/bin/sh\n{script}\nexec "{real.with_name(name)}" "$@"\n')
        (tmp_path / "tools" / name).chmod(0o755)
    monkeypatch.setenv("PGVIGIL_PG_BIN", str(tmp_path / "tools"))
    error = refused(restore_displaced, existing, 'the archive sets "pg_attver", which PostgreSQL .* does not know')
    assert "PGVIGIL_PG_BIN" in error.hint


def test_a_role_that_may_not_swap_is_told_before_anything_is_begun(existing: Database, archive: Path) -> None:
    maintenance(existing, "DO $$ BEGIN CREATE ROLE bk_stranger; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    maintenance(existing, "ALTER ROLE bk_stranger LOGIN")
    target = databases.parse_url(existing.url.replace("postgres@", "bk_stranger@"), "--database-url")
    with pytest.raises(RestoreError, match='role "bk_stranger" may not replace database'):
        restore.restore(target, archive, overwrite_newer=False, log=Reporter())
    assert family(existing) == [existing.name]
