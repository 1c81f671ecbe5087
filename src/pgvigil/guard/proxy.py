"""The only door of a command in a rehearsal: it leads to the scratch copy, under the name of the real database, and nowhere else.

Reads the start-up packet of each connection and puts the copy's name in the place of the database's. The server itself asks
for the password. What a session sends is passed on, but for statements about what all databases of a server share (roles,
databases, tablespaces, the server's settings) and those that make the server itself connect or run programs: these end it.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

_CANCEL, _SSL, _GSS = 80877102, 80877103, 80877104
_OFF = (b"off", b"false", b"no", b"0")
_FULL = 1 << 20  # bytes that wait for one side before no more are taken from the other
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_SHARED = re.compile(
    r"\b(?:create|alter|drop)\s+(?:role|user(?!\s+mapping)|group|database|tablespace|subscription|server|foreign\s+data\s+wrapper)\b"
    r"|\balter\s+system\b|\b(?:grant|revoke)\b[^;]*\bon\s+(?:database|tablespace|parameter)\b|\b(?:reassign|drop)\s+owned\b"
    r"|\bcomment\s+on\s+(?:role|database|tablespace)\b|\bdblink\w*\s*\(|\bpg_(?:terminate|cancel)_backend\b|\bpg_reload_conf\b"
    r"|\b(?:to|from)\s+program\b|\b(?:create|drop)_replication_slot\b|\bpg_(?:create|drop)_\w*replication_slot\b",
    re.IGNORECASE,
)  # fmt: skip
_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True)
class Upstream:
    """The server: where it is, and how its TLS is checked (None: none is spoken)."""

    family: int
    address: str | tuple[str, int]
    tls: ssl.SSLContext | None
    name: str

    @classmethod
    def of(cls, conn: psycopg.Connection) -> Upstream:
        """Return the server as an open connection reaches it."""
        with socket.socket(fileno=os.dup(conn.pgconn.socket)) as same:
            family, address = same.family, same.getpeername()
        given = {o.keyword: o.val.decode() for o in conn.pgconn.info if o.val is not None}
        tls = _context(given) if conn.pgconn.ssl_in_use else None
        by_path = f"{conn.info.host}/.s.PGSQL.{conn.info.port}"
        address = by_path if family == socket.AF_UNIX else address[:2]
        return cls(family, address, tls, conn.info.host)

    def open(self) -> socket.socket:
        """A connection on which nothing was said yet. Raise OSError."""
        sock = socket.socket(self.family)
        try:
            sock.connect(self.address)
            if self.tls is None:
                return sock
            sock.sendall(struct.pack("!II", 8, _SSL))
            sock.recv(1)  # S: it spoke TLS a moment ago; else the handshake fails
            return self.tls.wrap_socket(sock, server_hostname=self.name)
        except BaseException:
            sock.close()
            raise


def _context(given: dict[bytes, str]) -> ssl.SSLContext:
    mode, root = given.get(b"sslmode", "prefer"), given.get(b"sslrootcert", "")
    root = "" if root == "system" else root or str(Path.home() / ".postgresql/root.crt")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if mode in ("verify-ca", "verify-full") else ssl.CERT_NONE
    if context.verify_mode == ssl.CERT_REQUIRED:
        context.load_verify_locations(root) if root else context.load_default_certs()
    certificate, key = given.get(b"sslcert"), given.get(b"sslkey")
    if certificate and Path(certificate).is_file():
        context.load_cert_chain(certificate, key if key and Path(key).is_file() else None, given.get(b"sslpassword"))
    return context


@dataclass
class Proxy:
    """A proxy that leads to the copy: `with Proxy(upstream, "app", "copy", admit) as proxy`.

    `admit` is called with the role of each session that is let in. `turned_away` counts connections that asked for
    another database than the real one, `stopped` has the statements that ended their session.
    """

    upstream: Upstream
    real: str
    copy: str
    admit: Callable[[str], None]
    sessions: int = 0
    turned_away: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    insisted_on_tls: bool = False

    def __enter__(self) -> Self:
        self._directory = tempfile.mkdtemp(prefix="pgvigil-", dir="/tmp")
        self.path = f"{self._directory}/s"
        by_path = socket.socket(socket.AF_UNIX)
        by_path.bind(self.path)
        by_path.listen(64)
        by_port = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(by_port.getsockname()[1])
        self._listeners = [by_path, by_port]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for one in [*self._listeners, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._open.add(client)
        with client, contextlib.suppress(OSError, struct.error, ValueError, psycopg.Error):
            while True:
                packet = _exactly(client, struct.unpack("!I", _exactly(client, 4))[0] - 4)
                code = struct.unpack_from("!I", packet)[0]
                if code in (_SSL, _GSS):
                    client.sendall(b"N")
                    self.insisted_on_tls = True  # until it goes on without
                    continue
                break
            if code == _CANCEL:
                with self.upstream.open() as server:
                    server.sendall(struct.pack("!I", len(packet) + 4) + packet)
                    server.recv(1)
                return
            self.insisted_on_tls = False
            words = packet[4:].split(b"\0")
            given = dict(zip(words[0:-1:2], words[1::2], strict=False))
            user = given.get(b"user", b"").decode(errors="replace")
            database = given.get(b"database", b"").decode(errors="replace") or user
            if database not in (self.real, self.copy) or given.get(b"replication", b"off") not in _OFF:
                self.turned_away.append(database)
                client.sendall(
                    _fatal("3D000", f'a rehearsal reaches the copy of "{self.real}" only, not database "{database}"')
                )
                return
            self.admit(user)
            self.sessions += 1
            given[b"database"] = self.copy.encode()
            body = packet[:4] + b"".join(k + b"\0" + v + b"\0" for k, v in given.items() if k) + b"\0"
            with self.upstream.open() as server:
                self._open.add(server)
                server.sendall(struct.pack("!I", len(body) + 4) + body)
                if self.upstream.tls:
                    _pass_greeting(server, client)
                if found := _relay(client, server):
                    self.stopped.append(found)
                    client.setblocking(True)
                    client.sendall(_fatal("0A000", f"{found}: a rehearsal does not do what reaches beyond the copy"))


def _relay(client: socket.socket, server: socket.socket) -> str:
    """Forward what both sides send until one of them ends. Return the text of a statement that must not be forwarded.

    This is one thread, because a TLS connection must not be read and written at once.
    """
    for sock in (client, server):
        sock.setblocking(False)
    incoming, to_server, to_client = bytearray(), bytearray(), bytearray()
    ended = False
    while not (ended and not to_client):
        readers = (
            []
            if ended
            else [*([client] if len(to_server) < _FULL else []), *([server] if len(to_client) < _FULL else [])]
        )
        writers = [*([server] if to_server and not ended else []), *([client] if to_client else [])]
        waits = isinstance(server, ssl.SSLSocket) and server in readers and server.pending()
        ready, open_, _ = select.select(readers, writers, [], 0 if waits else None)
        with contextlib.suppress(*_NOT_NOW):
            if server in ready or waits:
                data = server.recv(1 << 16)
                ended = not data
                to_client += data
        with contextlib.suppress(*_NOT_NOW):
            if client in ready:
                data = client.recv(1 << 16)
                if not data:
                    server.setblocking(True)
                    server.sendall(to_server)
                    return ""
                incoming += data
                while len(incoming) >= 5 and len(incoming) > (size := struct.unpack_from("!I", incoming, 1)[0]):
                    message = bytes(incoming[: size + 1])
                    del incoming[: size + 1]
                    if message[:1] in (b"Q", b"P") and (found := touches_others(message[5:].decode(errors="replace"))):
                        return found
                    to_server += message
        for sock, data_ in ((server, to_server), (client, to_client)):
            with contextlib.suppress(*_NOT_NOW):
                if sock in open_ and data_:
                    del data_[: sock.send(data_)]
    return ""


def touches_others(text: str) -> str:
    """The words of a statement that reach beyond its own database; empty if there are none."""
    found = _SHARED.search(_COMMENTS.sub(" ", text))
    return " ".join(found[0].split())[:80] if found else ""


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(min(count - len(data), 1 << 20))
        if not part:
            raise ConnectionError
        data += part
    return data


def _pass_greeting(server: socket.socket, client: socket.socket) -> None:
    """The server's first message, which offers ways to log in: without those that are bound to TLS, which the client does not speak."""
    head = _exactly(server, 5)
    body = _exactly(server, struct.unpack("!I", head[1:])[0] - 4)
    client.sendall(without_channel_binding(head + body))


def without_channel_binding(message: bytes) -> bytes:
    """Remove the mechanisms that end in -PLUS from AuthenticationSASL. Any other message is unchanged."""
    if message[:1] != b"R" or message[5:9] != struct.pack("!I", 10):
        return message
    offered = [name for name in message[9:].split(b"\0") if name and not name.endswith(b"-PLUS")]
    body = message[5:9] + b"".join(name + b"\0" for name in offered) + b"\0"
    return b"R" + struct.pack("!I", len(body) + 4) + body


def without_tls(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a command whose connections end in this process: to this machine, and not encrypted."""
    made = dict(environment) | {"PGSSLMODE": "disable"}
    made |= {
        name: "disable" for name in ("PGCHANNELBINDING", "PGGSSENCMODE") if name in made
    }  # some drivers refuse them
    made.pop("PGSSLNEGOTIATION", None)
    if url := made.get("DATABASE_URL"):
        url = re.sub(r"([?&]sslmode=)[^&]*", r"\1disable", url)
        made["DATABASE_URL"] = re.sub(r"([?&]channel_binding=)[^&]*", r"\1disable", url)
    return made


def _fatal(state: str, message: str) -> bytes:
    fields = b"".join(
        key + value.encode() + b"\0"
        for key, value in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", state), (b"M", f"pgvigil: {message}"))
    )
    return b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0"
