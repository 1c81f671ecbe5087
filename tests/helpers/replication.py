"""The servers that follow another one: a physical standby, and databases that subscribe to one.

All on loopback, gone when the test ends.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
from psycopg import sql

from conftest import Database, servers, wait_until
from pgvigil.embedded import Server
from pgvigil.embedded.process import give, run

# Slots and workers for more than one subscription at a time; each table that is synchronised for the first time takes one of each.
_PRIMARY = {
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_worker_processes": "20",
    "max_logical_replication_workers": "10",
    "max_sync_workers_per_subscription": "4",
    "wal_retrieve_retry_interval": "100ms",
    "max_prepared_transactions": "10",
}


def program(name: str) -> Path:
    """A client program, of the newest version that has it: it works with the servers of that version and before."""
    for bindir in reversed(servers().values()):
        if (bindir / name).exists():
            return bindir / name
    raise FileNotFoundError(f"no PostgreSQL here has {name}")


def primary(bindir: Path) -> Server:
    """A server that others can follow, physically and logically."""
    return Server(bindir, tcp=True, settings=_PRIMARY, in_memory=True)


def conninfo(server: Server, dbname: str = "postgres") -> str:
    """Return the connection string that a setting or a subscription needs, over the socket."""
    url = urlsplit(server.dsn(dbname))
    query = parse_qs(url.query)
    return f"host={query['host'][0]} port={query['port'][0]} user=postgres dbname={dbname}"


@contextlib.contextmanager
def standby(of: Server) -> Iterator[Server]:
    """A streaming standby that answers queries."""
    settings = _PRIMARY | {"primary_conninfo": conninfo(of), "hot_standby_feedback": "on"}
    follower = Server(of.bindir, tcp=True, settings=settings, in_memory=True)
    try:
        account = follower._account
        where = conninfo(of).removesuffix(" dbname=postgres")
        run(
            [program("pg_basebackup"), "-d", where, "-D", follower.data, "-X", "stream", "-c", "fast", "--no-sync"],
            account,
        )
        marker = follower.data / "standby.signal"
        marker.touch(0o600)
        give(marker, account)
        follower.password = of.password
        follower.start()
        caught_up(of, follower)
        yield follower
    finally:
        follower.stop()


def caught_up(of: Server, follower: Server) -> None:
    """Wait until the standby has replayed what the primary has written."""
    with psycopg.connect(of.dsn(), autocommit=True) as source, psycopg.connect(follower.dsn(), autocommit=True) as copy:
        row = source.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        source.execute("SELECT pg_switch_wal()")  # what is at its end is sent
        replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        wait_until(lambda: (copy.execute(replayed, row).fetchone() or (False,))[0])


def schema_only(source: Database, into: Database) -> None:
    """The source's schema without its rows, as a subscriber needs it."""
    copy(source, into, "--schema-only", "--no-publications", "--no-subscriptions")


def copy(source: Database, into: Database, *options: str) -> None:
    """Dump the source by its server's own pg_dump, or the newest there is, and restore that, here or on a newer server."""
    own = source.server.bindir / "pg_dump"
    dump = subprocess.run(
        [own if own.exists() else program("pg_dump"), *options, "-d", source.url], check=True, capture_output=True
    ).stdout
    dump = dump.replace(b"SET transaction_timeout = 0;\n", b"")  # pg_dump 17 and later; servers before do not know it
    restore = [program("psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-d", into.url]
    done = subprocess.run(restore, input=dump, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@contextlib.contextmanager
def subscription(
    source: Database, subscriber: Database, *, via_root: bool, what: str = "ALL TABLES", wait: bool = True
) -> Iterator[str]:
    """Subscribe `subscriber`, on the same server or another, to a publication of `source`.

    Return the subscription's name.
    """
    name = f"s_{subscriber.name}"
    root = "true" if via_root else "false"
    source.execute(f"CREATE PUBLICATION {name} FOR {what} WITH (publish_via_partition_root = {root})")
    # A subscription to its own server would wait for itself if it made its slot.
    source.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
    connection = sql.Literal(conninfo(source.server, source.name)).as_string()
    subscriber.execute(
        f"CREATE SUBSCRIPTION {name} CONNECTION {connection} PUBLICATION {name} WITH (create_slot = false, slot_name = {name})"
    )
    try:
        if wait:
            synchronised(subscriber)
        yield name
    finally:
        subscriber.execute(f"ALTER SUBSCRIPTION {name} DISABLE")
        subscriber.execute(f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")
        subscriber.execute(f"DROP SUBSCRIPTION {name}")
        active = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active"
        wait_until(lambda: not source.execute(active, (name,)))
        source.execute("SELECT pg_drop_replication_slot(%s)", (name,))


def synchronised(subscriber: Database) -> None:
    """Wait for the initial copy of all tables. Return those that are not done."""
    left = "SELECT array_agg(srrelid::regclass::text) FROM pg_subscription_rel WHERE srsubstate <> 'r'"
    with contextlib.suppress(AssertionError):
        wait_until(lambda: subscriber.execute(left) == [(None,)])
    assert subscriber.execute(left) == [(None,)]


def applied(source: Database, name: str) -> None:
    """Wait until the subscriber has applied what the source has committed."""
    with source.connect(
        options="-c synchronous_commit=on"
    ) as conn:  # what went before is on disk then, and so may be sent
        conn.execute("SELECT pg_logical_emit_message(true, 'tests', '')")
        [(lsn,)] = conn.execute("SELECT pg_current_wal_flush_lsn()::text").fetchall()
    reached = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND confirmed_flush_lsn >= %s::pg_lsn"
    wait_until(lambda: source.execute(reached, (name, lsn)))
