"""The pgbouncer of Debian in front of a server under test, in any of its modes; on loopback, gone when the test ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from conftest import wait_until
from pgvigil.embedded import Server
from pgvigil.embedded.process import die_with_parent, find_account, give, process_options


@contextmanager
def pgbouncer(server: Server, mode: str, pool_size: int = 20, settings: str = "") -> Iterator[Callable[[str], str]]:
    """Yield the address of a database by way of a pool in mode session, transaction or statement; every login is let
    in.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        refuse = pytest.fail if os.environ.get("REQUIRE_PGBOUNCER") else pytest.skip
        refuse("there is no pgbouncer here (Debian: apt-get install pgbouncer)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    directory = server.directory / f"pgbouncer-{port}"
    directory.mkdir(mode=0o700)
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n* = host={server.directory / 'run'} port={server.port} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {mode}\ndefault_pool_size = {pool_size}\nlogfile = {directory / 'log'}\n{settings}\n"
    )
    account = find_account()
    for path in (directory, configuration):
        give(path, account)
    process = subprocess.Popen(
        [program, "-q", configuration],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent(),
        **process_options(account),
    )

    def url(database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{port}/{database}"

    def is_ours() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        with suppress(psycopg.OperationalError), psycopg.connect(url("postgres"), autocommit=True) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
            assert row is not None
            assert Path(row[0]) == server.data  # the port may be somebody else's by now
            return True
        return False

    try:
        wait_until(is_ours)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
