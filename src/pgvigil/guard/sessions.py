"""The sessions of the server that belong to the command. Only these are ever cancelled.

A session is the command's where the kernel says so: over TCP, a process of the command holds the other end of that very
connection. Over a Unix socket the server does not know a port, so the session has to carry the random application_name that only the
command was given, and a process of the command has to hold a connection to the server's socket, not to a pooler's. Otherwise
the user declares an application_name (`--application-name`) that no session had before.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from pgvigil.guard.processes import Sockets

_LOOKS = 3  # at a session that is not found among the command's: a process may have begun or ended meanwhile
_SERVER = """
    SELECT pg_catalog.current_setting('port')::int, pg_catalog.host(pg_catalog.inet_client_addr()), pg_catalog.inet_client_port(),
           pg_catalog.pg_backend_pid()"""


@dataclass(frozen=True)
class Session:
    """A session by what identifies it for ever: its process and the moment it began, in microseconds."""

    pid: int
    since: int


@dataclass(frozen=True)
class Row:
    """A session as the server shows it."""

    session: Session
    address: str | None
    port: int | None
    application: str


@dataclass(frozen=True)
class Route:
    """The way this process reaches the server. `direct`: the server sees the port that the kernel knows, so ports can be compared."""

    addresses: frozenset[str]
    port: int
    unix: frozenset[str]
    direct: bool

    @classmethod
    def of(cls, conn: psycopg.Connection) -> Route:
        """Return the route of an open connection."""
        row = conn.execute(_SERVER).fetchone()
        assert row is not None  # noqa: S101 - this is not a query of a table
        port, seen, seen_port, _ = row
        host = conn.info.host
        if host.startswith("/"):
            return cls(frozenset(), port, frozenset({f"{host}/.s.PGSQL.{conn.info.port}"}), True)
        local, local_port, remote = _ends(conn)
        direct = seen_port == local_port and _same(seen, local)
        here = (
            {f"{place}/.s.PGSQL.{port}" for place in _socket_directories(conn)} if _is_local(remote, local) else set()
        )
        return cls(frozenset({remote}), conn.info.port, frozenset(here), direct)


class Own:
    """A set of the command's sessions.

    `look` reads the sockets of its processes, which is done only for sessions not yet known.
    """

    def __init__(self, route: Route, look: Callable[[], Sockets], token: str, declared: str | None) -> None:
        self._route = route
        self._look = look
        self._token = token
        self.declared = declared
        self._answers: dict[Session, bool] = {}
        self.candidates = 0  # sessions of which nobody can say whose they are
        self._doubtful: dict[Session, int] = {}
        self._looks: dict[Session, int] = {}

    def __contains__(self, row: Row) -> bool:
        carries = row.application == (self.declared or self._token)
        if self.declared:  # a pooler gives the session to other clients, under their names
            self._answers[row.session] = carries
            return carries
        looks = self._looks[row.session] = self._looks.get(row.session, 0) + 1
        if self._answers.get(row.session) or (looks > _LOOKS and not carries):
            return self._answers[row.session]
        answer = self._answers[row.session] = self._is_own(row, self._look(), carries)
        unclear = row.port is None or row.port < 0 or not self._route.direct
        self.candidates += not answer and unclear and looks == _LOOKS
        if carries and not answer:
            self._doubtful[row.session] = self._doubtful.get(row.session, 0) + 1
        return answer

    @property
    def shared(self) -> int:
        """Count sessions with the command's name that belong to none of its processes, and not only while a process
        ended: those of a pooler.
        """
        return sum(looks > 1 and not self._answers[one] for one, looks in self._doubtful.items())

    @property
    def seen(self) -> list[Session]:
        """Return all sessions that were recognised so far."""
        return [session for session, answer in self._answers.items() if answer]

    def _is_own(self, row: Row, held: Sockets, carries: bool) -> bool:
        if row.port is None or row.port < 0:
            return carries and (bool(held.unix & self._route.unix) or self._is_server(held.unix))
        if not self._route.direct or row.address is None:
            return False
        return any(
            lport == row.port and _same(row.address, local) and rport == self._route.port
            and (remote in self._route.addresses or _is_local(remote, local))
            for local, lport, remote, rport in held.tcp
        )  # fmt: skip

    def _is_server(self, paths: frozenset[str]) -> bool:
        """Return True where a path has the server's usual name with its port.

        This is for a process that came by TCP and may not read the server's directories.
        """
        return not self._route.unix and any(path.endswith(f"/.s.PGSQL.{self._route.port}") for path in paths)


def _socket_directories(conn: psycopg.Connection) -> list[str]:
    try:
        row = conn.execute("SELECT pg_catalog.current_setting('unix_socket_directories')").fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return []
    return [place.strip().strip('"') for place in str(row[0]).split(",")] if row else []


def _ends(conn: psycopg.Connection) -> tuple[str, int, str]:
    """The local address and port of a connection, and the remote address."""
    with socket.socket(fileno=os.dup(conn.pgconn.socket)) as same:
        local, remote = same.getsockname(), same.getpeername()
    return _plain(local[0]), local[1], _plain(remote[0])


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:").partition("%")[0]


def _same(one: str | None, other: str) -> bool:
    if one is None:
        return False
    try:
        return ipaddress.ip_address(_plain(one)) == ipaddress.ip_address(_plain(other))
    except ValueError:
        return one == other


def _is_local(remote: str, local: str) -> bool:
    """Return true if a connection stays on this machine."""
    try:
        return remote == local or ipaddress.ip_address(remote).is_loopback
    except ValueError:
        return False
