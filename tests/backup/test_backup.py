"""Test that a backup is verified before it is used, and that one that cannot be verified leaves nothing behind."""

from __future__ import annotations

import json
import os
import shlex
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from conftest import EXISTING_SESSIONS, Database, Run, wait_until
from pgvigil import database as databases
from pgvigil import scratch_databases
from pgvigil.backup import catalogue, create, fingerprint, manifest, pg_tools, scratch_restore
from pgvigil.backup.manifest import Backup
from pgvigil.errors import BackupError, ConnectError
from pgvigil.progress import Reporter
from pgvigil.text import quoted

pytestmark = pytest.mark.client_side

Take = Callable[..., Backup]
SCRATCH = "SELECT datname FROM pg_database WHERE datname LIKE 'pgvigil\\_verify\\_%'"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def take(existing: Database, tmp_path: Path, said: list[str]) -> Take:
    """A backup of `existing` into tmp_path/backups."""

    def take(**options: object) -> Backup:
        target = databases.parse_url(existing.tcp_url, "--database-url")
        log = Reporter(said.append, lambda text, _: said.append(text))
        with databases.connect(target, "test") as conn:
            return create.take(conn, target, tmp_path / "backups", None, log, **options)  # type: ignore[arg-type]

    return take


def doctored(directory: Path, server_major: int, after: str) -> str:
    """A PGVIGIL_PG_BIN whose pg_dump, having written the archive $archive, does something to it."""
    real, _ = pg_tools.find_tool("pg_dump", server_major)
    directory.mkdir()
    for name in ("pg_restore", "psql"):
        (directory / name).symlink_to(real.with_name(name))
    (directory / "pg_dump").write_text(
        f"""#!/bin/sh
        "{real}" "$@" || exit
        for word; do case $word in --file=*.schema.part) ;; --file=*) archive=${{word#--file=}} ;; esac; done
        [ -z "$archive" ] || {{ {after}
        }}
        """
    )
    (directory / "pg_dump").chmod(0o755)
    return str(directory)


def nothing_left(existing: Database, tmp_path: Path) -> bool:
    return list((tmp_path / "backups").iterdir()) == [] and existing.execute(SCRATCH) == []


# ── Proof ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_manifest_tells_what_the_archive_holds_and_of_which_moment(take: Take, existing: Database) -> None:
    made = take()
    written = json.loads(Path(made.manifest).read_text())
    assert (written["kind"], written["proof"]) == ("full", "read")
    assert written["tables"]["public.sessions"]["rows"] == EXISTING_SESSIONS
    assert existing.execute(
        "SELECT %s::pg_lsn <= pg_current_wal_lsn(), pg_snapshot_xmax(%s::pg_snapshot) <= pg_snapshot_xmax(pg_current_snapshot())",
        (written["wal_lsn"], written["snapshot"]),
    ) == [(True, True)]
    with manifest.opened(Path(written["archive"])) as read:
        assert read == made
    assert {path.stat().st_mode & 0o777 for path in Path(made.manifest).parent.iterdir()} == {0o600}


def test_proof_by_restore_compares_and_leaves_no_scratch_database(take: Take, existing: Database) -> None:
    existing.execute("SELECT lo_from_bytea(0, 'abc')")
    made = take(proof="restore")
    assert made.proof == "restore"
    assert made.verified.startswith("restored: schema, ")
    assert made.large_objects == 1
    assert existing.execute(SCRATCH) == []


def test_writers_during_the_backup_raise_no_false_alarm(take: Take, existing: Database) -> None:
    stop, rows = threading.Event(), [0]

    def write() -> None:
        with existing.connect() as conn:
            while not stop.is_set():
                conn.execute("INSERT INTO sessions (session_key, agent_from) VALUES (gen_random_uuid()::text, 'w')")
                rows[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = take(proof="restore")
    finally:
        stop.set()
        writer.join()
    assert EXISTING_SESSIONS <= made.tables["public.sessions"].rows < EXISTING_SESSIONS + rows[0]


def test_a_table_of_any_shape_is_compared(take: Take, existing: Database) -> None:
    existing.execute(
        """CREATE SCHEMA "Odd one";
           CREATE TABLE "Odd one"."a.""b" ("a.""b" int, pgvigil_x text, x real, at timestamptz, m money, b bytea, "%s" interval);
           INSERT INTO "Odd one"."a.""b" VALUES (1, '%s', 0.1, now(), 3.5, '\\x00ff', '1 day 25:00'), (NULL, NULL, 'NaN', NULL, NULL, NULL, NULL);
           CREATE TABLE nothing ();
           INSERT INTO nothing DEFAULT VALUES;
           CREATE TABLE parent (a int, b int); CREATE TABLE child (b int, a int); ALTER TABLE child INHERIT parent;
           INSERT INTO child VALUES (1, 2);
           CREATE TABLE parts (id int, v varchar CHECK (v IN ('x', 'y'))) PARTITION BY LIST (id);
           CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1); INSERT INTO parts VALUES (1, 'x');
           CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 10) AS n"""
    )
    tables = take(proof="restore").tables
    assert {name: tables[name].rows for name in ('"Odd one"."a.""b"', "public.nothing", "public.parent", "public.child",
                                                "public.parts", "public.unlogged")} == {
        '"Odd one"."a.""b"': 2, "public.nothing": 1, "public.parent": 0, "public.child": 1, "public.parts": 1,
        "public.unlogged": 10}  # fmt: skip
    assert "public.parts_1" not in tables


def test_the_digest_tells_one_changed_value_and_no_order(existing: Database) -> None:
    with existing.connect() as conn:
        fingerprint.pin(conn)
        conn.execute("CREATE TABLE public.t (a text, b text); INSERT INTO public.t VALUES ('a', 'b'), ('c', NULL)")
        before = fingerprint.contents(conn)["public.t"]
        conn.execute("UPDATE public.t SET b = 'b' WHERE a = 'a'")  # moves the row behind the other
        assert fingerprint.contents(conn)["public.t"] == before
        conn.execute("UPDATE public.t SET b = '' WHERE a = 'c'")
        assert fingerprint.contents(conn)["public.t"] != before


@pytest.mark.parametrize(
    ("after", "proof", "words"),
    [
        ('truncate -s $(($(stat -c %s "$archive") * 6 / 10)) "$archive"', "read", "cannot be read back"),
        (r'printf "\377" | dd of="$archive" bs=1 seek=1000000 conv=notrunc status=none', "read", "cannot be read back"),
        # A whole archive, but of another moment or of another database: only a restore detects it.
        ('psql="$(dirname "$0")/psql"; "$psql" -qX "$BK_URL" -c "$BK_SQL"; "$BK_DUMP" -Fc -f "$archive" "$BK_URL"',
         "restore", rf"public\.sessions has {EXISTING_SESSIONS - 1:,} rows instead of {EXISTING_SESSIONS:,}"),
        ('"$BK_DUMP" -Fc --schema-only -f "$archive" "$BK_URL"', "restore", "has 0 rows instead of"),
        ('"$BK_DUMP" -Fc -T handoff_requests -f "$archive" "$BK_URL"', "restore", r"table public\.handoff_requests is missing"),
    ],
)  # fmt: skip
def test_an_archive_that_is_not_the_database_is_refused(
    take: Take, existing: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str, proof: str, words: str
) -> None:
    monkeypatch.setenv("BK_URL", existing.url)
    monkeypatch.setenv("BK_SQL", "DELETE FROM sessions WHERE session_key = 'session-7'")
    monkeypatch.setenv("BK_DUMP", str(pg_tools.find_tool("pg_dump", existing.server.major)[0]))
    monkeypatch.setenv("PGVIGIL_PG_BIN", doctored(tmp_path / "tools", existing.server.major, after))
    with pytest.raises(BackupError, match=words):
        take(proof=proof)
    assert nothing_left(existing, tmp_path)


def test_a_schema_that_differs_is_refused(
    take: Take, existing: Database, another: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(existing.server.dsn(), autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {another.name}")
        conn.execute(f"CREATE DATABASE {another.name} TEMPLATE {existing.name}")
    another.execute("DROP INDEX idx_sessions_status")
    monkeypatch.setenv("BK_URL", another.url)
    monkeypatch.setenv("BK_DUMP", str(pg_tools.find_tool("pg_dump", existing.server.major)[0]))
    other = '"$BK_DUMP" -Fc -f "$archive" "$BK_URL"'
    monkeypatch.setenv("PGVIGIL_PG_BIN", doctored(tmp_path / "tools", existing.server.major, other))
    with pytest.raises(BackupError, match=r"the schema differs: .* instead of -- Name: idx_sessions_status"):
        take(proof="restore")
    assert nothing_left(existing, tmp_path)


def test_an_interrupted_proof_drops_its_scratch_database(
    take: Take, existing: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def interrupt(*_: object) -> None:
        seen.extend(existing.execute(SCRATCH))
        raise KeyboardInterrupt

    monkeypatch.setattr("pgvigil.backup.scratch_restore.compare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        take(proof="restore")
    assert len(seen) == 1
    assert nothing_left(existing, tmp_path)


def test_a_role_that_cannot_read_a_table_has_no_backup(existing: Database, tmp_path: Path) -> None:
    existing.execute("DO $$ BEGIN CREATE ROLE bk_nobody LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    target = databases.parse_url(existing.url.replace("postgres@", "bk_nobody@"), "--database-url")
    with databases.connect(target, "test") as conn, pytest.raises(BackupError, match="permission denied"):
        create.take(conn, target, tmp_path / "backups", None, Reporter(print))
    assert nothing_left(existing, tmp_path)


# ── Kinds ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_schema_backup_holds_no_rows_and_is_proved_too(take: Take) -> None:
    made = take(kind="schema", proof="restore")
    assert (made.kind, made.tables, made.verified) == ("schema", {}, "restored: schema equal")


def test_a_backup_command_is_told_what_to_back_up_and_its_output_is_shown(
    take: Take, existing: Database, tmp_path: Path, said: list[str]
) -> None:
    psql = pg_tools.find_tool("psql", existing.server.major)[0]
    made = take(
        kind="command",
        command=f"""echo "$PGVIGIL_DATABASE at $PGVIGIL_REVISION into $PGVIGIL_BACKUP_DIR"; {psql} -Atc 'SELECT current_database()';
                    echo "secret: $PGPASSWORD" >&2; tr '\\0' ' ' < /proc/$$/cmdline""",
    )
    assert said[:3] == [f"{existing.name} at base into {tmp_path / 'backups'}", existing.name, "secret: ***"]
    assert existing.server.password not in "".join(said)
    assert json.loads(Path(made.manifest).read_text())["kind"] == "command"
    assert [path.suffix for path in (tmp_path / "backups").iterdir()] == [".json"]


@pytest.mark.parametrize("command", ["exit 3", "kill -9 $$", "no-such-program"])
def test_a_backup_command_that_fails_is_no_backup(take: Take, existing: Database, tmp_path: Path, command: str) -> None:
    with pytest.raises(BackupError, match="the backup command ended with status"):
        take(kind="command", command=command)
    assert nothing_left(existing, tmp_path)


# ── Space and progress ────────────────────────────────────────────────────────────────────────────────────────────────


def test_too_little_room_is_refused_before_the_dump(
    take: Take, existing: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create.shutil, "disk_usage", lambda _: create.shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(BackupError, match=r"has 1 MB free; the backup of a database of \d+ MB needs \d+ MB at least"):
        take()
    assert nothing_left(existing, tmp_path)


def test_what_takes_long_tells_how_much_is_written(
    take: Take, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pg_tools, "LOOK_EVERY", 0.01)
    take()
    assert any(text.endswith("MB written") for text in said)


def test_a_snapshot_connection_that_is_lost_ends_the_dump(
    take: Take, existing: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise psycopg.OperationalError("server closed the connection")

    monkeypatch.setattr(fingerprint, "contents", lost)
    with pytest.raises(ConnectError, match="the connection was lost during the backup: server closed the connection"):
        take()
    assert nothing_left(existing, tmp_path)


# ── A directory of them ───────────────────────────────────────────────────────────────────────────────────────────────

Put = Callable[..., Path]
AGE = timedelta(days=1)
BLANK = Backup(
    kind="full", proof="read", archive="", manifest="", sha256="", size=1, database="app", database_size=1,
    system_identifier="7", server_version="18.6", pg_dump_version="18.6", pgvigil_version="0.1.0", revision="015",
    began_at="", seconds=1, verified="read: every block decoded", verified_at="2026-01-01T00:00:00+00:00", wal_lsn="0/0",
    snapshot="1:1:", snapshot_at="", public_schema=True, large_objects=0,
)  # fmt: skip


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Add a backup whose name and manifest say that it is so many days old."""

    def put(name: str, days: float, **values: object) -> Path:
        archive = tmp_path / f"{name}.dump"
        archive.write_bytes(b"x")
        began = (datetime.now(UTC) - days * AGE).isoformat(timespec="seconds")
        made = replace(BLANK, archive=str(archive), manifest=str(archive.with_suffix(".json")), began_at=began)
        manifest.write(replace(made, **values))  # type: ignore[arg-type]
        return archive

    return put


def left(directory: Path) -> str:
    return " ".join(sorted(path.stem for path in directory.glob("*.dump")))


def states(directory: Path) -> dict[str, str]:
    return {entry.archive.stem: entry.state for entry in catalogue.listing(directory)}


def test_prune_lets_go_what_is_older(put: Put, tmp_path: Path) -> None:
    for name, days in (("a", 31), ("b", 30.1), ("c", 29), ("d", 1)):
        put(name, days)
    gone = catalogue.prune(tmp_path, 30)
    assert ([entry.archive.stem for entry in gone.removed], left(tmp_path)) == (["b", "a"], "c d")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".dump", ".dump", ".json", ".json"]


def test_prune_keeps_the_last_proved_and_the_last_one_of_each_database(put: Put, tmp_path: Path) -> None:
    put("a", 80, proof="restore")
    put("b", 70, proof="restore")
    put("c", 60)
    put("d", 50)
    put("e", 40, proof="failed")
    put("f", 40, kind="schema", proof="restore")
    put("g", 90, proof="restore", database="other")
    put("h", 90, proof="restore", system_identifier="8")  # a database of the same name on another server
    put("i", 40).write_bytes(b"cut")
    catalogue.prune(tmp_path, 30)
    assert left(tmp_path) == "b d g h"


def test_prune_for_one_database_leaves_the_others_alone(put: Put, tmp_path: Path) -> None:
    put("a", 80)
    put("b", 80, database="other")
    put("c", 1)
    put("d", 1, database="other")
    catalogue.prune(tmp_path, 30, of=("7", "app"))
    assert left(tmp_path) == "b c d"


def test_prune_passes_over_what_is_being_made_and_read(put: Put, tmp_path: Path) -> None:
    old = put("a", 80, sha256="2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")
    put("b", 1)
    with manifest.making(tmp_path / "c.part"), manifest.opened(old):
        assert [entry.archive for entry in catalogue.prune(tmp_path, 0).spared][-1] == old
        assert states(tmp_path) == {"a": "read", "b": "read", "c": "being made"}
    catalogue.prune(tmp_path, 30)
    assert left(tmp_path) == "b"


def test_what_a_killed_maker_left_is_known_and_cleared_away(put: Put, tmp_path: Path) -> None:
    put("a", 1).rename(tmp_path / "a.part")  # killed between its manifest and the last rename
    (tmp_path / "b.part").touch()
    (tmp_path / "b.schema.part").touch()
    (tmp_path / "c.dump").touch()
    (tmp_path / "notes.json").write_text("{}")
    put("d", 1).unlink()
    assert states(tmp_path) == {"a": "abandoned", "b": "abandoned", "c": "no manifest", "d": "missing"}
    catalogue.prune(tmp_path, 30)
    assert states(tmp_path) == {"c": "no manifest", "d": "missing"}
    assert (tmp_path / "notes.json").exists()


def test_two_prunes_at_once_do_what_one_does(put: Put, tmp_path: Path) -> None:
    for n in range(60):
        put(f"{n:02}", 40 + n, proof="restore" if n == 30 else "read")
    start = threading.Barrier(2)
    removed: list[str] = []

    def prune() -> None:
        start.wait()
        removed.extend(entry.archive.stem for entry in catalogue.prune(tmp_path, 30).removed)

    both = [threading.Thread(target=prune) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert left(tmp_path) == "00 30"
    assert len(set(removed)) == 58


def test_two_backups_at_once_and_a_prune_get_along(take: Take, tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    made: list[Backup] = []
    makers = [threading.Thread(target=lambda: made.append(take())) for _ in range(2)]
    for maker in makers:
        maker.start()
    while any(maker.is_alive() for maker in makers):
        catalogue.prune(tmp_path / "backups", 1)
    for maker in makers:
        maker.join()
    assert [entry.state for entry in catalogue.listing(tmp_path / "backups")] == ["read", "read"]
    assert {one.rows for one in made} == {made[0].rows}


# ── pgvigil backup ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small(database: Database) -> Database:
    """A database with two rows."""
    database.execute("CREATE TABLE t AS SELECT generate_series(1, 2) AS n")
    return database


@pytest.fixture
def made(call: Run, small: Database) -> Backup:
    """A backup of it, in the default directory."""
    done = call("pgvigil", "backup", "create", "--verify-backup", "read", "--json", "--database-url", small.url)
    assert done.returncode == 0, done.stderr
    return manifest.read(Path(json.loads(done.stdout)["manifest"]))


def test_a_backup_is_taken_listed_proved_and_pruned(call: Run, small: Database, made: Backup) -> None:
    [told] = json.loads(call("pgvigil", "backup", "list", "--json").stdout)
    assert (told["state"], told["archive"], told["revision"]) == ("read", made.archive, None)
    assert (told["tables"], told["rows"]) == (1, 2)
    done = call("pgvigil", "backup", "verify", "--database-url", small.url)
    assert done.stdout == f"{quoted(str(made.archive))}\n  restored: schema, 1 table with 2 rows equal\n"
    line = call("pgvigil", "backup", "list").stdout.splitlines()[1]
    assert (line.split()[0], line.split()[-1]) == ("verified", Path(str(made.archive)).name)
    done = call("pgvigil", "backup", "prune", "--keep-days", "0")
    assert (
        done.stdout
        == f"nothing to delete\nkept    {quoted(str(made.archive))}: it is the last one of its database, or is being read\n"
    )


def test_a_backup_that_does_not_equal_its_manifest_is_known_to_have_failed(
    call: Run, small: Database, made: Backup
) -> None:
    manifest.write(replace(made, database="a\nb", tables={"public.t": fingerprint.TableFingerprint(3, "1", ["n"])}))
    done = call("pgvigil", "backup", "verify", str(made.archive), "--database-url", small.url)
    assert done.returncode == 5
    assert "error: this backup is unusable: public.t has 2 rows instead of 3" in done.stderr
    _, line, why = call("pgvigil", "backup", "list").stdout.splitlines()
    assert (line.split()[0], why.strip()) == ("failed", "failed: public.t has 2 rows instead of 3")


def test_a_damaged_archive_is_known_to_have_failed(call: Run, small: Database, made: Backup) -> None:
    archive = Path(str(made.archive))
    archive.write_bytes(archive.read_bytes()[::-1])
    assert call("pgvigil", "backup", "verify", archive, "--database-url", small.url).returncode == 5
    assert states(archive.parent) == {archive.stem: "failed"}


def test_a_proof_that_could_not_be_tried_changes_nothing(
    call: Run, small: Database, made: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGVIGIL_PG_BIN", str(tmp_path))
    done = call("pgvigil", "backup", "verify", str(made.archive), "--database-url", small.url)
    assert done.returncode == 5
    assert manifest.read(Path(made.manifest)) == made


def test_without_a_backup_of_this_database_there_is_nothing_to_verify(call: Run, small: Database) -> None:
    done = call("pgvigil", "backup", "verify", "--database-url", small.url)
    assert (done.returncode, "holds no backup of this database" in done.stderr) == (5, True)


def test_what_killed_runs_left_is_dropped_by_the_next_proof(call: Run, small: Database, made: Backup) -> None:
    with databases.connect(databases.parse_url(small.url, "a test"), "test") as conn:
        left = scratch_databases.make(conn, "pgvigil_verify_0123456789ab")
        pid = conn.info.backend_pid
    wait_until(lambda: not small.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (pid,)))
    done = call("pgvigil", "backup", "verify", str(made.archive), "--database-url", small.url)
    assert f'dropped database "{left.name}", which a killed run had left' in done.stderr
    assert small.execute(SCRATCH) == []


# ── What pg_dump leaves out, and what it does not have to write ───────────────────────────────────────────────────────


@pytest.fixture
def extended(small: Database) -> Database:
    """An extension has taken one of its tables as its own: pg_dump writes nothing of it."""
    small.execute("CREATE EXTENSION citext; CREATE TABLE orders AS SELECT generate_series(1, 10) AS n")
    small.execute("ALTER EXTENSION citext ADD TABLE orders")
    return small


@pytest.mark.parametrize("proof", ["read", "restore"])
def test_rows_that_pg_dump_leaves_out_are_named_by_the_backup(call: Run, extended: Database, proof: str) -> None:
    done = call("pgvigil", "backup", "create", "--verify-backup", proof, "--database-url", extended.url)
    assert done.returncode == 0
    assert "pg_dump leaves out: table public.orders (10 rows), a member of extension citext" in done.stderr
    assert "not in the backup: table public.orders (10 rows)" in call("pgvigil", "backup", "list").stdout


def test_rows_that_create_extension_makes_are_not_left_out(call: Run, small: Database) -> None:
    small.execute("CREATE EXTENSION citext")
    done = call("pgvigil", "backup", "create", "--json", "--database-url", small.url)
    assert json.loads(done.stdout)["left_out"] == []


def test_a_function_that_became_an_extension_s_member_is_named(call: Run, small: Database) -> None:
    small.execute(
        """CREATE EXTENSION citext; CREATE FUNCTION guard() RETURNS int LANGUAGE sql AS 'SELECT 1';
           ALTER EXTENSION citext ADD FUNCTION guard()"""
    )
    done = call("pgvigil", "backup", "create", "--json", "--database-url", small.url)
    assert json.loads(done.stdout)["left_out"] == ["function public.guard(), a member of extension citext"]


def test_a_schema_that_differs_is_found_by_reading_alone(
    take: Take, existing: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BK_URL", existing.url)
    monkeypatch.setenv("BK_DUMP", str(pg_tools.find_tool("pg_dump", existing.server.major)[0]))
    other = '"$BK_DUMP" -Fc -T handoff_requests -f "$archive" "$BK_URL"'
    monkeypatch.setenv("PGVIGIL_PG_BIN", doctored(tmp_path / "tools", existing.server.major, other))
    with pytest.raises(BackupError, match="its schema differs"):
        take()
    assert nothing_left(existing, tmp_path)


def test_verify_sees_a_schema_that_is_not_the_one_of_the_backup(call: Run, small: Database, made: Backup) -> None:
    manifest.write(replace(made, schema_digest="0" * 64))
    done = call("pgvigil", "backup", "verify", str(made.archive), "--database-url", small.url)
    assert done.returncode == 5
    assert "the schema in the archive differs from the schema that the database had" in done.stderr


# The client of another minor version prints an option of a column that the server's own hides, with a value of its own each time.
PRINTS_AN_OPTION = """#!/bin/sh
"{real}" "$@" || exit
case " $* " in *" --version "*) ;; *" --file=- "*|*{prints}*)
    echo "ALTER TABLE ONLY public.t ALTER COLUMN n SET (pg_attver=$$);" ;; esac
"""


def test_an_option_that_another_minor_version_prints_makes_no_difference(
    call: Run, small: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, _ = pg_tools.find_tool("pg_dump", small.server.major)
    (tmp_path / "tools").mkdir()
    for name, prints in (("pg_dump", '" --schema-only --no-subscriptions "'), ("pg_restore", '" --file=- "')):
        (tmp_path / "tools" / name).write_text(PRINTS_AN_OPTION.format(real=real.with_name(name), prints=prints))
        (tmp_path / "tools" / name).chmod(0o755)
    monkeypatch.setenv("PGVIGIL_PG_BIN", str(tmp_path / "tools"))
    done = call("pgvigil", "backup", "create", "--json", "--database-url", small.url)
    assert done.returncode == 0, done.stderr
    done = call("pgvigil", "restore", json.loads(done.stdout)["archive"], "--database-url", small.url)
    assert done.returncode == 0, done.stderr
    small.execute("SELECT 1")


def test_options_of_columns_that_every_version_prints_are_compared() -> None:
    line = "ALTER TABLE ONLY public.t ALTER COLUMN n SET (n_distinct=5, pg_attver=7);"
    assert scratch_restore._bare(line) == ["ALTER TABLE ONLY public.t ALTER COLUMN n SET (n_distinct=5);"]
    assert scratch_restore._bare(line.replace("n_distinct=5, ", "")) == []


# ── Files that are damaged, or somebody else's ────────────────────────────────────────────────────────────────────────

DAMAGE = {
    "deep": lambda _: "[" * 200_000,
    "deep inside": lambda text: text.replace('"findings": []', '"findings": ' + "[" * 200_000 + "]" * 200_000),
    "cut": lambda text: text[:100],
    "a list": lambda _: "[]",
    "a number": lambda _: "1",
    "no text": lambda _: "\udcff",
    "no time": lambda text: text.replace('"began_at": "', '"began_at": "x'),
    "a time without zone": lambda text: json.dumps(json.loads(text) | {"began_at": "2026-01-01T00:00:00"}),
    "a name that is no text": lambda text: json.dumps(json.loads(text) | {"database": {}}),
    "rows that are no number": lambda text: json.dumps(
        json.loads(text) | {"tables": {"t": {"rows": "x", "digest": "", "columns": []}}}
    ),
    "no size": lambda text: json.dumps(json.loads(text) | {"size": None}),
    "a kind that is none": lambda text: json.dumps(json.loads(text) | {"kind": "odd"}),
    "infinite": lambda text: text.replace('"size": 1,', '"size": Infinity,'),
    "a version that is none": lambda text: text.replace('"pg_dump_version": "18.6"', '"pg_dump_version": "../x"'),
    "a version without an end": lambda text: text.replace('"pg_dump_version": "18.6"', f'"pg_dump_version": "{"9" * 5000}"'),
    "a huge number": lambda text: text.replace('"size": 1,', f'"size": {"9" * 5000},'),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_manifest_does_not_end_the_list(
    put: Put, call: Run, tmp_path: Path, damage: Callable[[str], str]
) -> None:
    put("good", 1)
    path = put("bad", 2).with_suffix(".json")
    path.write_text(damage(path.read_text()), errors="surrogateescape")
    done = call("pgvigil", "backup", "list", "--backup-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert states(tmp_path) == {"good": "read", "bad": "no manifest"}
    assert call("pgvigil", "backup", "list", "--json", "--backup-dir", tmp_path).returncode == 0
    assert call("pgvigil", "backup", "prune", "--keep-days", "0", "--backup-dir", tmp_path).returncode == 0
    assert left(tmp_path) == "bad good"


def test_a_fifo_or_a_link_in_the_place_of_a_manifest_is_not_read(put: Put, tmp_path: Path) -> None:
    fifo, link = put("fifo", 1).with_suffix(".json"), put("link", 1).with_suffix(".json")
    for path in (fifo, link):
        path.unlink()
    os.mkfifo(fifo)
    link.symlink_to("/etc/passwd")
    assert states(tmp_path) == {"fifo": "foreign", "link": "foreign"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("ending", [".json", ".dump"])
def test_what_another_user_owns_is_neither_believed_nor_removed(put: Put, tmp_path: Path, ending: str) -> None:
    put("old", 90, proof="restore")
    newer = put("newer", 1, proof="restore").with_suffix(ending)
    os.chown(newer, 65534, 65534)
    assert states(tmp_path) == {"old": "verified", "newer": "foreign"}
    catalogue.prune(tmp_path, 0)
    assert left(tmp_path) == "newer old"  # the foreign one does not count as the last verified


@pytest.mark.parametrize("ending", [".json", ".dump"])
def test_what_others_may_write_to_is_not_restored(call: Run, small: Database, made: Backup, ending: str) -> None:
    path = Path(str(made.archive)).with_suffix(ending)
    path.chmod(0o666)
    done = call("pgvigil", "restore", str(made.archive), "--database-url", small.url)
    assert done.returncode == 9
    assert f"{path} may be written by others" in done.stderr
    assert f"chmod 600 {shlex.quote(str(path))}" in done.stderr


def test_a_directory_that_everybody_may_write_to_takes_no_backup(call: Run, small: Database, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    done = call("pgvigil", "backup", "create", "--backup-dir", tmp_path / "open", "--database-url", small.url)
    assert (done.returncode, "may be written by others" in done.stderr) == (5, True)


def test_an_archive_is_restored_by_a_link_to_it(call: Run, small: Database, made: Backup, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(str(made.archive))
    assert call("pgvigil", "backup", "verify", tmp_path / "latest", "--database-url", small.url).returncode == 0
