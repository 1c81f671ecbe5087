"""`pgvigil guard`: another tool's command, its waits bounded from outside, rehearsed where it cannot reach the real database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import PROJECT, Connection, Database, Pooler, Run, wait_until
from pgvigil.guard import confine, proxy
from pgvigil.validate import dump_spec

pytestmark = pytest.mark.oldest_and_newest

# A migration tool in four lines: it finds its database as psycopg does, or by the address it is given.
TOOL = """
import os, sys, psycopg
with psycopg.connect(os.environ.get("TOOL_URL", os.environ["DATABASE_URL"])) as conn:
    for statement in sys.argv[1:]:
        conn.execute(statement)
"""
ADD = "ALTER TABLE orders ADD COLUMN age int"


@pytest.fixture
def orders(database: Database) -> Database:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, state text)")
    database.execute("INSERT INTO orders SELECT n, 'new' FROM generate_series(1, 100) n")
    return database


@pytest.fixture
def guard(call: Run) -> Run:
    """Call `guard(database, *options, tool=[statement, …])`, without a backup unless one is asked for."""

    def guard(database: Database | str, *options: str, tool: list[str], backup: str = "none") -> Any:
        url = database if isinstance(database, str) else database.tcp_url
        command = [sys.executable, "-c", TOOL, *tool]
        return call("pgvigil", "guard", "--database-url", url, "--backup", backup, *options, "--", *command)

    return guard


@contextmanager
def reader(database: Database) -> Iterator[Connection]:
    """A transaction that has read orders and stays."""
    with database.connect(autocommit=False) as conn:
        conn.execute("SELECT count(*) FROM orders")
        yield conn
        conn.rollback()


def columns(database: Database) -> list[str]:
    return [name for (name,) in database.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )]  # fmt: skip


def catalog(database: Database) -> str:
    with database.connect() as conn:
        return dump_spec(conn, [], json=True)


# ── The command ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_command_that_succeeds_is_told_with_what_it_changed(guard: Run, orders: Database) -> None:
    done = guard(orders, "--json", tool=[ADD, "CREATE TABLE items (id int)"])
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"], told["command_exit_code"]) == (0, 0, 0), done.stderr
    assert {"added column orders.age", "added table items"} <= set(told["changes"])


def test_a_backup_is_taken_and_verified_before_the_command_runs(guard: Run, orders: Database, tmp_path: Path) -> None:
    done = guard(orders, "--json", "--backup-dir", str(tmp_path), tool=[ADD], backup="full")
    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert Path(told["backup"]["archive"]).is_file()
    assert told["backup"]["tables"]["public.orders"]["rows"] == 100
    assert told["restore"].startswith(f"pgvigil restore {told['backup']['archive']}")
    assert done.stderr.index("verified:") < done.stderr.index("running")


def test_a_database_of_pgvigil_is_guarded_like_any_other_and_keeps_the_proof(
    guard: Run, migrated: Database, tmp_path: Path
) -> None:
    done = guard(migrated, "--json", "--backup-dir", str(tmp_path), tool=["CREATE TABLE mine (id int)"], backup="full")
    told = json.loads(done.stdout)
    assert (done.returncode, told["changes"]) == (0, ["added table mine"]), done.stderr
    assert migrated.execute("SELECT proof, detail FROM pgvigil.backup_proofs") == [("read", told["backup"]["archive"])]
    assert told["backup"]["revision"] == migrated.execute("SELECT max(version_num) FROM pgvigil.alembic_version")[0][0]


def test_a_command_that_fails_ends_with_7_and_its_own_code_is_told(call: Run, orders: Database, tmp_path: Path) -> None:
    code = f"import os, psycopg; psycopg.connect(os.environ['DATABASE_URL'], autocommit=True).execute('{ADD}'); raise SystemExit(3)"
    words = [
        "guard",
        "--database-url",
        orders.tcp_url,
        "--backup-dir",
        str(tmp_path),
        "--json",
        "--",
        sys.executable,
        "-c",
        code,
    ]
    done = call("pgvigil", *words)
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"], told["command_exit_code"]) == (7, 7, 3)
    assert "the command ended with exit code 3" in done.stderr
    assert "It left in the schema: added column orders.age." in done.stderr
    assert "To go back to the backup: pgvigil restore" in done.stderr
    assert told["command"] == {"exit_code": 3, "signal": None, "tries": 1, "sessions": told["sessions"]}


def test_a_command_that_was_killed_ends_with_7_and_its_signal_is_told(call: Run, orders: Database) -> None:
    words = ["guard", "--database-url", orders.url, "--backup", "none", "--json", "--", "sh", "-c", "kill -9 $$"]
    done = call("pgvigil", *words)
    told = json.loads(done.stdout)
    assert (done.returncode, told["command"]["signal"], told["command_exit_code"]) == (7, "SIGKILL", -9)
    assert "the command was killed by SIGKILL (9)" in done.stderr


@pytest.mark.client_side
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no command is named"),
        (["--"], "no command is named"),
        (["--", "no-such-program-here"], "there is no program no-such-program-here"),
        (["--max-lock-ms", "5", "--", "true"], "--max-lock-ms is what a rehearsal is compared with"),
    ],
)
def test_a_call_that_names_no_command_ends_with_2(call: Run, database: Database, words: list[str], told: str) -> None:
    done = call("pgvigil", "guard", "--database-url", database.url, *words)
    assert done.returncode == 2
    assert told in done.stderr


@pytest.mark.client_side
def test_the_command_keeps_its_own_options_and_separators(call: Run, database: Database) -> None:
    words = [
        "--",
        sys.executable,
        "-c",
        "import sys; print(sys.argv[1:])",
        "--rehearse",
        "--",
        "--json",
        "a b",
        "$HOME",
    ]
    done = call("pgvigil", "guard", "--database-url", database.url, "--backup", "none", *words)
    assert "['--rehearse', '--', '--json', 'a b', '$HOME']" in done.stderr
    assert done.returncode == 0


def test_a_spec_that_is_not_met_afterwards_ends_with_8(guard: Run, orders: Database, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(catalog(orders))
    done = guard(orders, "--spec", str(spec), tool=[ADD])
    assert done.returncode == 8
    assert "column orders.age" in done.stderr
    assert guard(orders, "--spec", str(spec), tool=["ALTER TABLE orders DROP COLUMN age"]).returncode == 0


@pytest.mark.client_side
def test_a_project_names_the_command_and_how_it_is_run(call: Run, orders: Database, tmp_path: Path) -> None:
    def guard(text: str) -> Any:
        (tmp_path / "pgvigil.toml").write_text(f'[backup]\nkind = "none"\n[guard]\n{text}')
        return call("pgvigil", "guard", "--json", "--database-url", orders.tcp_url, "--project", str(tmp_path))

    command = json.dumps([sys.executable, "-c", TOOL, ADD])
    with reader(orders):
        done = guard(f"command = {command}\nmax_wait_ms = 20\n")
    assert [entry["waited_ms"] < 190 for entry in json.loads(done.stdout)["cancelled"]] in ([True], [False])
    assert guard(f"command = {command}\n").returncode == 0
    assert columns(orders) == ["id", "state", "age"]
    for wrong in ("comand = []\n", "retry = 1\n", "command = [1]\n", "max_wait_ms = true\n"):
        done = guard(wrong)
        assert (done.returncode, "pgvigil.toml" in done.stderr) == (2, True)


def test_an_index_that_the_command_left_invalid_is_named(call: Run, orders: Database) -> None:
    orders.execute("UPDATE orders SET state = 'same'")
    code = "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL'], autocommit=True).execute('CREATE UNIQUE INDEX CONCURRENTLY \"A b\" ON orders (state)')"
    done = call("pgvigil", "guard", "--database-url", orders.url, "--backup", "none", "--", sys.executable, "-c", code)
    assert done.returncode == 7
    assert 'Index public."A b" is INVALID: DROP INDEX CONCURRENTLY public."A b";' in done.stderr


def test_a_second_run_waits_and_names_the_first(guard: Run, orders: Database) -> None:
    gate = orders.connect()
    gate.execute("SELECT pg_advisory_lock(1)")
    first: list[Any] = []
    thread = threading.Thread(target=lambda: first.append(guard(orders, tool=["SELECT pg_advisory_lock(1)"])))
    thread.start()
    wait_until(lambda: orders.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
    second = subprocess.run(
        [sys.executable, "-P", "-m", "pgvigil", "guard", "--database-url", orders.url, "--backup", "none", "--lock-wait", "0", "--", "true"],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    gate.close()
    thread.join()
    assert second.returncode == 6
    assert "another run is in progress" in second.stderr
    assert "pgvigil guard" in second.stderr


def test_the_command_is_given_the_guarded_database_and_nothing_of_another(
    call: Run, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("PGHOST", "elsewhere"),
        ("PGSERVICE", "other"),
        ("DATABASE_URL", "postgresql://elsewhere/other"),
    ):
        monkeypatch.setenv(name, value)
    code = "import os, psycopg; print('in', psycopg.connect('').info.dbname, psycopg.connect(os.environ['DATABASE_URL']).info.dbname)"
    done = call(
        "pgvigil", "guard", "--database-url", database.tcp_url, "--backup", "none", "--", sys.executable, "-c", code
    )
    assert f"in {database.name} {database.name}" in done.stderr


# ── Lock waits ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("road", ["tcp_url", "url"])
def test_a_statement_of_the_command_that_waits_behind_a_reader_is_cancelled(
    guard: Run, orders: Database, road: str
) -> None:
    with reader(orders) as conn:
        holder = conn.info.backend_pid
        done = guard(getattr(orders, road), "--json", tool=[ADD])
        told = json.loads(done.stdout)
    assert done.returncode == 7, done.stderr
    [cancelled] = told["cancelled"]
    assert cancelled["statement"] == ADD
    assert 150 < cancelled["waited_ms"] < 2000
    assert [blocker["pid"] for blocker in cancelled["blockers"]] == [holder]
    assert "or with --retry" in done.stderr
    assert columns(orders) == ["id", "state"]


def test_with_retry_the_command_is_run_again_until_it_comes_through(guard: Run, orders: Database) -> None:
    with reader(orders) as conn:
        done: list[Any] = []
        thread = threading.Thread(target=lambda: done.append(guard(orders, "--retry", "--json", tool=[ADD])))
        thread.start()
        waiting = "SELECT pid FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
        seen: set[int] = set()

        def waited_twice() -> bool:
            seen.update(pid for (pid,) in orders.execute(waiting))
            return len(seen) > 1

        wait_until(waited_twice)
        conn.rollback()
        thread.join()
    told = json.loads(done[0].stdout)
    assert (told["exit_code"], columns(orders)) == (0, ["id", "state", "age"])
    assert told["tries"] >= 2
    assert len(told["cancelled"]) >= 1


@pytest.mark.parametrize("road", ["tcp_url", "url"])
def test_a_bystander_who_waits_is_left_alone(guard: Run, orders: Database, road: str) -> None:
    """The bystander waits for the same lock, started after the command, from this machine, as the same role."""
    outcome: list[str] = []

    def alter() -> None:
        with psycopg.connect(getattr(orders, road), autocommit=True) as conn:
            try:
                conn.execute("ALTER TABLE orders ADD COLUMN bystander int")
                outcome.append("done")
            except psycopg.Error as error:
                outcome.append(str(error))

    with reader(orders) as conn:
        bystander = threading.Thread(target=alter)
        wait = "SELECT pg_advisory_lock(7)"
        gate = orders.connect()
        gate.execute(wait)
        done: list[Any] = []
        command = threading.Thread(
            target=lambda: done.append(guard(getattr(orders, road), "--json", tool=[wait, "COMMIT", ADD]))
        )
        command.start()
        wait_until(
            lambda: orders.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted")
        )
        bystander.start()
        wait_until(
            lambda: orders.execute(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%bystander%' AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()"
            )
        )
        gate.close()
        command.join()
        conn.rollback()
    bystander.join()
    told = json.loads(done[0].stdout)
    assert outcome == ["done"]
    assert [entry["statement"] for entry in told["cancelled"]] == [ADD]


def test_a_wait_that_stops_nobody_is_left_alone(guard: Run, orders: Database) -> None:
    """A row that another transaction has locked: readers and other writers go on."""
    with orders.connect(autocommit=False) as conn:
        conn.execute("UPDATE orders SET state = 'held' WHERE id = 1")
        done: list[Any] = []
        thread = threading.Thread(
            target=lambda: done.append(
                guard(orders, "--max-wait-ms", "30", tool=["UPDATE orders SET state = 'mine' WHERE id = 1"])
            )
        )
        thread.start()
        wait_until(lambda: orders.execute(
            "SELECT 1 FROM pg_locks WHERE NOT granted AND clock_timestamp() - waitstart > interval '0.4 s'"
        ))  # fmt: skip
        conn.rollback()
        thread.join()
    assert done[0].returncode == 0, done[0].stderr
    assert orders.execute("SELECT state FROM orders WHERE id = 1") == [("mine",)]


def test_a_wait_that_stops_others_is_cancelled_whatever_it_is_for(guard: Run, orders: Database) -> None:
    """The command holds a table and waits for a row of another: readers of the table wait for it."""
    orders.execute("CREATE TABLE others AS SELECT 1 AS id")
    with orders.connect(autocommit=False) as conn:
        conn.execute("UPDATE others SET id = 2")
        done: list[Any] = []
        thread = threading.Thread(
            target=lambda: done.append(guard(orders, "--json", tool=[ADD, "UPDATE others SET id = 3"]))
        )
        thread.start()
        wait_until(lambda: orders.execute("SELECT 1 FROM pg_locks WHERE NOT granted"))
        assert orders.execute("SELECT count(*) FROM orders") == [(100,)]
        thread.join()
        conn.rollback()
    [cancelled] = json.loads(done[0].stdout)["cancelled"]
    assert cancelled["statement"] == "UPDATE others SET id = 3"
    assert cancelled["blocked"] == 1


def test_a_concurrent_build_that_waits_for_a_snapshot_is_left_alone(call: Run, orders: Database) -> None:
    code = "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL'], autocommit=True).execute('CREATE INDEX CONCURRENTLY i ON orders (state)')"
    with orders.connect(autocommit=False) as conn:
        conn.execute("INSERT INTO orders VALUES (1000)")
        done: list[Any] = []
        words = [
            "guard",
            "--database-url",
            orders.url,
            "--backup",
            "none",
            "--max-wait-ms",
            "30",
            "--",
            sys.executable,
            "-c",
            code,
        ]
        thread = threading.Thread(target=lambda: done.append(call("pgvigil", *words)))
        thread.start()
        wait_until(lambda: orders.execute(
            "SELECT 1 FROM pg_locks WHERE locktype = 'virtualxid' AND NOT granted AND clock_timestamp() - waitstart > interval '0.4 s'"
        ))  # fmt: skip
        conn.rollback()
        thread.join()
    assert done[0].returncode == 0, done[0].stderr
    assert orders.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass") == [(True,)]


def test_names_that_need_quotes_are_told_as_they_are(guard: Run, database: Database) -> None:
    database.execute('CREATE SCHEMA "Odd ""one"""')
    database.execute('CREATE TABLE "Odd ""one"""."My table" (id int)')
    with database.connect(autocommit=False) as conn:
        conn.execute('SELECT * FROM "Odd ""one"""."My table"')
        done = guard(database, "--json", tool=['ALTER TABLE "Odd ""one"""."My table" ADD COLUMN "the %s" int'])
    [cancelled] = json.loads(done.stdout)["cancelled"]
    assert cancelled["lock"] == 'AccessExclusiveLock on "Odd ""one"""."My table"'
    done = guard(database, tool=['ALTER TABLE "Odd ""one"""."My table" ADD COLUMN "the %s" int'])
    assert 'added column "Odd ""one"""."My table"."the %s"' in done.stdout


def test_a_pooler_that_shares_sessions_is_refused(guard: Run, database: Database, pooler: Pooler) -> None:
    done = guard(pooler.url(database), tool=["SELECT 1"])
    if pooler.mode == "transaction":
        assert done.returncode == 4
        assert "a connection pooler is between pgvigil and the server" in done.stderr
    else:
        assert done.returncode == 0


def test_a_command_behind_a_pooler_is_bounded_only_under_a_declared_name(
    guard: Run, orders: Database, pooler: Pooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client may have the session by the time of the cancel request."""
    monkeypatch.setenv("TOOL_URL", pooler.url(orders))
    with reader(orders) as conn:
        done: list[Any] = []
        thread = threading.Thread(target=lambda: done.append(guard(orders, "--json", tool=[ADD])))
        thread.start()
        wait_until(lambda: orders.execute(
            "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted AND clock_timestamp() - waitstart > interval '1.2 s'"
        ))  # fmt: skip
        conn.rollback()
        thread.join()
    told = json.loads(done[0].stdout)
    assert "cancelled" not in told
    assert "came through a pooler" in told["warnings"][0]
    with reader(orders):
        again = guard(orders, "--json", "--application-name", "my deploy", tool=["ALTER TABLE orders ADD COLUMN b int"])
    assert len(json.loads(again.stdout)["cancelled"]) == 1


@pytest.mark.client_side
def test_a_declared_name_that_others_have_is_refused(guard: Run, orders: Database) -> None:
    with orders.connect(application_name="web"):
        done = guard(orders, "--application-name", "web", tool=[ADD])
    assert done.returncode == 4
    assert 'other sessions are called "web"' in done.stderr


# ── Secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.client_side
def test_no_password_is_printed_or_in_arguments(call: Run, database: Database) -> None:
    password = database.server.password
    code = (
        "import os, pathlib, sys; print(os.environ['DATABASE_URL']); print('the password is', os.environ['PGPASSWORD']);"
        "print('postgresql://me:other%20secret@host/db');"
        "print('arguments', [p.read_bytes() for p in pathlib.Path('/proc').glob('[0-9]*/cmdline') if b'guard' in p.read_bytes() and b'pytest' not in p.read_bytes()])"
    )
    done = call(
        "pgvigil",
        "guard",
        "--json",
        "--database-url",
        database.tcp_url,
        "--backup",
        "none",
        "--",
        sys.executable,
        "-c",
        code,
    )
    assert done.returncode == 0, done.stderr
    assert "the password is ***" in done.stderr
    assert password not in done.stderr + done.stdout
    assert "other%20secret" not in done.stderr
    assert "arguments [" in done.stderr


# ── The end of guard ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow(first=1)
def test_a_guard_that_is_killed_takes_the_command_with_it(
    orders: Database, tmp_path: Path, how: signal.Signals
) -> None:
    """Sessions end as well: one that waits for a lock does not notice that its client is gone, and all others wait
    behind it.
    """
    pids = tmp_path / "pids"
    script = f"echo $$ > {pids}; {sys.executable} -c \"$TOOL\" '{ADD}' & echo $! >> {pids}; wait"
    words = [
        sys.executable,
        "-P",
        "-m",
        "pgvigil",
        "guard",
        "--database-url",
        orders.tcp_url,
        "--backup",
        "none",
        "--max-wait-ms",
        "60000",
    ]
    with reader(orders):
        guard = subprocess.Popen(
            [*words, "--", "sh", "-c", script], env=os.environ | {"PYTHONPATH": str(PROJECT / "src"), "TOOL": TOOL},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        waiting = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
        wait_until(lambda: orders.execute(waiting))
        guard.send_signal(how)
        _, words_of = guard.communicate()
        wait_until(lambda: not orders.execute(waiting))
        for pid in pids.read_text().split():
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists())
        if how != signal.SIGKILL:
            assert guard.returncode == 130
            assert "interrupted" in words_of
        wait_until(lambda: not orders.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"))
    assert columns(orders) == ["id", "state"]


@pytest.mark.client_side
def test_a_supervisor_that_is_killed_takes_the_command_with_it(orders: Database, call: Run) -> None:
    words = [
        "guard",
        "--database-url",
        orders.tcp_url,
        "--backup",
        "none",
        "--max-wait-ms",
        "60000",
        "--",
        sys.executable,
        "-c",
        TOOL,
        ADD,
    ]
    with reader(orders):
        done: list[Any] = []
        thread = threading.Thread(target=lambda: done.append(call("pgvigil", *words)))
        thread.start()
        waiting = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
        wait_until(lambda: orders.execute(f"{waiting} AND clock_timestamp() - waitstart > interval '1 s'"))
        killed = []
        for children in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
            with suppress(OSError):  # a thread that has ended since has none
                for pid in children.read_text().split():
                    if b"pgvigil.guard.supervisor" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(int(pid), signal.SIGKILL)
                        killed.append(pid)
        assert len(killed) == 1
        thread.join()
        wait_until(lambda: not orders.execute(waiting))
    assert done[0].returncode == 7
    assert "the process that supervises the command was killed" in done[0].stderr


# ── Rehearsals ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def rehearse(guard: Run, tmp_path: Path) -> Run:
    def rehearse(database: Database | str, *options: str, tool: list[str]) -> Any:
        return guard(database, "--rehearse", "--backup-dir", str(tmp_path), *options, tool=tool, backup="full")

    return rehearse


def scratch(database: Database) -> list[Any]:
    return database.execute("SELECT datname FROM pg_database WHERE datname LIKE 'pgvigil\\_%'")


def test_a_rehearsal_tells_locks_and_rewrites_and_then_the_command_runs(rehearse: Run, orders: Database) -> None:
    done = rehearse(orders, "--json", tool=["ALTER TABLE orders ALTER COLUMN id TYPE bigint", "SELECT pg_sleep(0.1)"])
    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert told["rehearsal"]["rewritten"] == ["public.orders"]
    lock = told["rehearsal"]["locks"][0]
    assert (lock["table"], lock["mode"]) == ("public.orders", "AccessExclusiveLock")
    assert lock["held_ms"] >= 90
    assert "changed column orders.id" in told["changes"]
    assert scratch(orders) == []


def test_a_command_that_fails_in_the_rehearsal_does_not_run(rehearse: Run, orders: Database) -> None:
    before = catalog(orders)
    done = rehearse(orders, "--json", tool=["CREATE UNIQUE INDEX ON orders (state)"])
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"], told["rehearsal"]["command_exit_code"]) == (7, 7, 1)
    assert "could not create unique index" in done.stderr
    assert catalog(orders) == before
    assert scratch(orders) == []


@pytest.mark.parametrize("road", ["url", "tcp_url"])
@pytest.mark.slow(first=1)
def test_a_command_with_an_address_of_its_own_rehearses_on_the_copy(
    rehearse: Run, orders: Database, monkeypatch: pytest.MonkeyPatch, road: str
) -> None:
    """The real database's name, server and role, whichever way guard itself goes. Nothing of it changes but by the real run."""
    monkeypatch.setenv("TOOL_URL", getattr(orders, road))
    before = catalog(orders)
    other_road = orders.tcp_url if road == "url" else orders.url
    done = rehearse(other_road, "--max-lock-ms", "0", tool=[ADD, "SELECT pg_sleep(0.5)"])
    assert done.returncode == 4, done.stderr
    assert "more than --max-lock-ms 0" in done.stderr
    assert catalog(orders) == before


def test_a_command_that_asks_for_another_database_is_refused(
    rehearse: Run, orders: Database, another: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOL_URL", another.tcp_url)
    done = rehearse(orders, tool=["CREATE TABLE here (id int)"])
    assert done.returncode == 4
    assert f'asked for database "{another.name}", and this run guards "{orders.name}"' in done.stderr
    assert another.execute("SELECT to_regclass('here')") == [(None,)]


@pytest.mark.parametrize("pooler", ["session"], indirect=True)
def test_a_command_that_goes_to_another_server_is_refused(
    rehearse: Run, orders: Database, pooler: Pooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler in front of the real database is another server: it would lead there."""
    monkeypatch.setenv("TOOL_URL", pooler.url(orders))
    before = catalog(orders)
    done = rehearse(orders, tool=[ADD])
    assert done.returncode == 4
    assert f"it tried to reach 127.0.0.1:{pooler.port}" in done.stderr
    assert catalog(orders) == before


@pytest.mark.client_side
@pytest.mark.parametrize("pooler", ["session"], indirect=True)
@pytest.mark.parametrize("way", ["child", "thread", "non-blocking", "daemon"])
@pytest.mark.slow(first=1)
def test_no_process_of_a_rehearsal_reaches_another_server(
    call: Run, orders: Database, pooler: Pooler, tmp_path: Path, way: str
) -> None:
    code = {
        "child": "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', T, S]))",
        "thread": "import threading, sys; sys.argv[1:] = [S]; t = threading.Thread(target=exec, args=(T, {})); t.start(); t.join()",
        "non-blocking": "import asyncio, os, psycopg\nasync def main():\n    c = await psycopg.AsyncConnection.connect(os.environ['TOOL_URL'], autocommit=True)\n    await c.execute(S)\nasyncio.run(main())",
        "daemon": "import os, sys, time\nif not os.fork():\n    os.setsid()\n    sys.argv[1:] = [S]\n    exec(T)\nos.wait()",
    }[way]
    code = f"T = {TOOL!r}\nS = {ADD!r}\n{code}"
    before = catalog(orders)
    os.environ["TOOL_URL"] = pooler.url(orders)
    try:
        done = call(
            "pgvigil",
            "guard",
            "--database-url",
            orders.tcp_url,
            "--backup-dir",
            str(tmp_path),
            "--rehearse",
            "--",
            sys.executable,
            "-c",
            code,
        )
    finally:
        del os.environ["TOOL_URL"]
    assert done.returncode == 4, done.stderr
    assert "did not reach the copy" in done.stderr
    assert catalog(orders) == before


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE ROLE rehearsed", 'ALTER DATABASE "x" SET timezone = 0', "ALTER SYSTEM SET work_mem = '1GB'", "DROP DATABASE other",
        "DO $$ BEGIN EXECUTE 'create user rehearsed'; END $$", "/* a */ create /* b */ role rehearsed", "COPY orders TO PROGRAM 'cat'",
        "SELECT pg_terminate_backend(1)",
    ],
)  # fmt: skip
def test_a_statement_that_reaches_beyond_the_copy_is_recognised(statement: str) -> None:
    assert proxy.touches_others(statement)


@pytest.mark.client_side
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE user_roles (role text)", "ALTER TABLE users ADD COLUMN role text", "GRANT SELECT ON orders TO somebody",
        "-- create role x\nSELECT 1", "CREATE USER MAPPING FOR me SERVER s", "ALTER TABLE orders OWNER TO me", "DROP TABLE database",
    ],
)  # fmt: skip
def test_a_statement_about_the_copy_alone_is_let_through(statement: str) -> None:
    assert not proxy.touches_others(statement)


@pytest.mark.client_side
def test_the_way_to_log_in_is_offered_as_without_tls() -> None:
    """A server that offers a mechanism bound to TLS on a connection without TLS is refused by libpq."""
    offer = b"R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
    assert proxy.without_channel_binding(offer) == b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"
    for other in (b"R\0\0\0\x08\0\0\0\0", b"E\0\0\0\x0a\0\0\0\x0aX\0"):
        assert proxy.without_channel_binding(other) == other


@pytest.mark.client_side
def test_in_a_rehearsal_the_command_is_not_asked_for_tls() -> None:
    given = {
        "DATABASE_URL": "postgres://h/d?sslmode=verify-full&x=1&channel_binding=require",
        "PGSSLMODE": "require",
        "OTHER": "x",
    }
    made = proxy.without_tls(given)
    assert made["DATABASE_URL"] == "postgres://h/d?sslmode=disable&x=1&channel_binding=disable"
    assert (made["PGSSLMODE"], made["OTHER"]) == ("disable", "x")
    assert made.keys() == given.keys()  # lib/pq refuses variables that it does not know
    assert proxy.without_tls({"PGCHANNELBINDING": "require"})["PGCHANNELBINDING"] == "disable"


def test_a_command_that_makes_a_role_is_not_rehearsed(rehearse: Run, orders: Database) -> None:
    done = rehearse(orders, tool=["CREATE ROLE made_in_a_rehearsal"])
    assert done.returncode == 4
    assert "what a rehearsal on a copy cannot keep to the copy: CREATE ROLE" in done.stderr
    assert orders.execute("SELECT 1 FROM pg_roles WHERE rolname = 'made_in_a_rehearsal'") == []


def test_a_database_whose_statements_could_reach_others_is_not_rehearsed(rehearse: Run, orders: Database) -> None:
    orders.execute("CREATE EXTENSION postgres_fdw")
    orders.execute("CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw")
    done = rehearse(orders, tool=[ADD])
    assert done.returncode == 4
    assert "it has foreign server elsewhere" in done.stderr
    assert columns(orders) == ["id", "state"]


@pytest.mark.client_side
def test_a_machine_that_cannot_confine_a_command_does_not_rehearse(
    rehearse: Run, orders: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confine, "unavailable", lambda: "its Linux is 4.19, older than 5.6")
    done = rehearse(orders, tool=[ADD])
    assert done.returncode == 4
    assert "cannot keep the command away from the real database" in done.stderr
    assert columns(orders) == ["id", "state"]


def test_a_rehearsal_that_is_interrupted_leaves_no_copy(orders: Database, tmp_path: Path) -> None:
    words = ["guard", "--database-url", orders.tcp_url, "--backup-dir", str(tmp_path), "--rehearse", "--"]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "pgvigil", *words, sys.executable, "-c", TOOL, "SELECT pg_sleep(600)"],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src")},
        stderr=subprocess.DEVNULL,
    ) as running:
        wait_until(lambda: orders.execute("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%'"))
        assert scratch(orders) != []
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 130
    assert scratch(orders) == []


def test_settings_of_the_database_hold_in_the_copy(rehearse: Run, orders: Database) -> None:
    orders.execute(f'ALTER DATABASE "{orders.name}" SET search_path = "odd, one", public')
    orders.execute('CREATE SCHEMA "odd, one"')
    done = rehearse(orders, tool=["CREATE TABLE it (id int)"])
    assert done.returncode == 0, done.stderr
    assert 'added table "odd, one".it' in done.stdout


@pytest.mark.client_side
def test_a_rehearsal_needs_a_full_backup(guard: Run, orders: Database) -> None:
    done = guard(orders, "--rehearse", tool=[ADD])
    assert done.returncode == 2
    assert "a rehearsal needs a full backup" in done.stderr
