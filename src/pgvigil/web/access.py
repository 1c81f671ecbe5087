"""The access control. It is closed by default: `authorize` names the principal of a request, or none.

    viewer   reads, but no text of queries and errors, and no metadata
    admin    reads all, and changes things

A request that changes something must come from the same origin and as JSON, so that no page of another site can make a
browser send it.

More than 400 lines: each way to name a principal, with the checks that all of them share.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import ipaddress
import os
import secrets
import stat
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import anyio.to_thread
import limits
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.requests import Request

from pgvigil import input_files
from pgvigil.errors import UsageError
from pgvigil.web.problems import Problem, of_status

Role = Literal["viewer", "admin"]
# Over https the name makes the browser insist on Secure and on the whole host.
COOKIES: Final = ("__Host-pgvigil", "pgvigil")
COOKIE_SECONDS: Final = 12 * 3600
# Polls of open pages: their answers are shared, and one principal may have many pages open.
POLLS: Final = 1200
_MINUTE: Final = 60.0
_ROLES: Final = ("viewer", "admin")


@dataclass(frozen=True)
class Principal:
    """A user of the application. The audit trail of a change records `name`."""

    name: str
    role: Role

    def __post_init__(self) -> None:
        if self.role not in _ROLES:
            raise ValueError("role has to be viewer or admin")
        if not self.name or len(self.name) > 100 or not self.name.isprintable():
            raise ValueError("name has to be 1 to 100 printable characters")


Authorize = Callable[[Request], "Principal | Awaitable[Principal | None] | None"]


# --- ways to name a principal ----------------------------------------------------------------------------------------


def new_token(path: Path, name: str, role: Role) -> str:
    """Add a token to the file, which is created if missing, and return the token. The file has only its digest."""
    if not name or len(name) > 100 or any(c.isspace() or not c.isprintable() or c == "#" for c in name):
        raise UsageError(
            "the name of a token has to be 1 to 100 printable characters without blanks and without #",
            "Choose another name.",
        )
    there = _text(path) if os.path.lexists(path) else ""
    _parsed(path, there)
    token = f"pgv_{secrets.token_urlsafe(32)}"
    ends_line = "\n" if there and not there.endswith("\n") else ""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(f"{ends_line}{name} {role} {hashlib.sha256(token.encode()).hexdigest()}\n")
    except OSError as error:
        raise UsageError(
            f"{path}: the token file cannot be written: {input_files.reason(error)}",
            "Name a file in a directory that exists.",
        ) from error
    return token


def _lines(path: Path) -> list[tuple[Principal, bytes]]:
    """The principals of a token file, each with its digest. Raise UsageError."""
    return _parsed(path, _text(path))


def _text(path: Path) -> str:
    def require_ours(found: os.stat_result) -> None:
        if found.st_uid not in (os.geteuid(), 0):
            raise UsageError(
                f"{path}: the token file belongs to another user (uid {found.st_uid}), who could let anybody in",
                "Make one of your own: pgvigil token create NAME.",
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise UsageError(f"{path}: others than its owner may read the token file", f"Run: chmod 600 {path}")

    try:
        return input_files.read_bytes(path, input_files.SMALL, require_ours, pipes=False).decode()
    except (OSError, UnicodeDecodeError) as error:
        words = input_files.reason(error)
        raise UsageError(
            f"{path}: the token file cannot be read: {words}", "Make one: pgvigil token create NAME."
        ) from error


def _parsed(path: Path, text: str) -> list[tuple[Principal, bytes]]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words_of_line = line.split()
        try:
            name, role, digest = words_of_line
            found.append((Principal(name, role), _digest(digest)))  # type: ignore[arg-type]
        except ValueError:
            raise UsageError(
                f"{path}:{number}: the line is not a token",
                "A line is: NAME ROLE SHA256, the role being viewer or admin.",
            ) from None
    return found


def _digest(text: str) -> bytes:
    if len(digest := bytes.fromhex(text)) != 32:
        raise ValueError("a SHA-256 has 32 bytes")
    return digest


class Tokens:
    """Authorize by `Authorization: Bearer TOKEN`, from a file made by `pgvigil token create`. The file is read again when it changes.

    A browser exchanges the token for a cookie once (`log_in`), so that no script of a page ever holds it. The cookie names its token
    and is signed with the token's digest and a secret: it ends with the token, after 12 hours, or with the secret. Without `secret`
    each process makes its own; give all workers of an application the same one.
    """

    def __init__(self, path: Path | str, secret: bytes | None = None) -> None:
        self._path = Path(path)
        self._secret = secret or secrets.token_bytes(32)
        try:
            self._seen = self._version()  # before it is read: a later change is read again
        except OSError:
            self._seen = (0, 0, 0)
        self._known = _lines(self._path)

    async def __call__(self, request: Request) -> Principal | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            found = self._holder(token)
            return found[0] if found else None
        for name in COOKIES:
            if cookie := request.cookies.get(name):
                return self._by_cookie(cookie)
        return None

    def log_in(self, token: str) -> str | None:
        """Return the value of a cookie for the holder of the token; None: there is no such token."""
        found = self._holder(token)
        if found is None:
            return None
        digest = found[1]
        ends = int(time.time()) + COOKIE_SECONDS
        return f"{digest.hex()[:16]}.{ends}.{self._signature(digest, ends)}"

    def _by_cookie(self, cookie: str) -> Principal | None:
        which, _, rest = cookie.partition(".")
        ends, _, signature = rest.partition(".")
        if not (ends.isascii() and ends.isdigit() and len(ends) < 12) or int(ends) < time.time():
            return None
        for principal, digest in self._lines():
            right = self._signature(digest, int(ends))
            if hmac.compare_digest(digest.hex()[:16].encode(), which.encode("utf-8", "replace")):
                return principal if hmac.compare_digest(right.encode(), signature.encode("utf-8", "replace")) else None
        return None

    def _signature(self, digest: bytes, ends: int) -> str:
        return hmac.new(self._secret, digest + str(ends).encode(), "sha256").hexdigest()

    def _holder(self, token: str) -> tuple[Principal, bytes] | None:
        offered = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for principal, digest in self._lines():  # all of them, so that the time reveals nothing
            if hmac.compare_digest(offered, digest):
                found = principal, digest
        return found

    def _lines(self) -> list[tuple[Principal, bytes]]:
        try:
            now = self._version()
            if now != self._seen:
                self._known, self._seen = _lines(self._path), now
        except (OSError, UsageError):
            return []  # without a readable file nobody is let in
        return self._known

    def _version(self) -> tuple[int, int, int]:
        now = self._path.stat()
        return now.st_mtime_ns, now.st_size, now.st_ino


def tokens(path: Path | str, secret: bytes | None = None) -> Tokens:
    """Authorize by the tokens of a file, and by the cookie that a browser gets for one. See Tokens."""
    return Tokens(path, secret)


def trusted_proxy(networks: Iterable[str], header: str, admins: Iterable[str] = ()) -> Authorize:
    """Authorize by the name that a proxy puts into `header`. It counts only if the socket's peer is in one of the networks (CIDR).

    Two such headers, or a comma, by which a second proxy joins two of them, name nobody: one of them may be the client's.
    """
    trusted = []
    for network in networks:
        try:
            known = ipaddress.ip_network(network)
            mapped = known.network_address.ipv4_mapped if isinstance(known, ipaddress.IPv6Network) else None
            trusted.append(ipaddress.ip_network((mapped, known.prefixlen - 96)) if mapped else known)
        except ValueError as error:
            raise UsageError(f"{network} is not a network", "Write it as 10.0.0.0/8 or 127.0.0.1/32.") from error
    if not trusted or not header:
        raise UsageError(
            "a trusted proxy needs a network and a header", "Give --trust-proxy CIDR and --user-header NAME."
        )
    admin_names = frozenset(admins)

    async def authorize(request: Request) -> Principal | None:
        names = request.headers.getlist(header)
        try:
            peer = ipaddress.ip_address(request.client.host if request.client else "")
        except ValueError:
            return None
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped:
            peer = peer.ipv4_mapped
        if len(names) != 1 or "," in names[0] or not any(peer in network for network in trusted):
            return None
        name = names[0].strip(" \t")  # other spaces belong to a name, so that two users of the proxy stay two
        try:
            return Principal(name, "admin" if name in admin_names else "viewer")
        except ValueError:
            return None

    return authorize


def everybody(role: Role = "admin") -> Authorize:
    """Authorize every request: for `serve --no-auth`, which listens on loopback only."""

    async def authorize(_: Request) -> Principal | None:
        return Principal("local", role)

    return authorize


def require_json(request: Request) -> None:
    """Raise Problem for a body that a form of another site could send."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "wrong-media-type", "The body has to be application/json")


# --- the checks of a request -----------------------------------------------------------------------------------------


class Access:
    """The dependencies of routes: `viewer`, `admin`, `anybody`."""

    def __init__(self, authorize: Authorize, *, read_only: bool, reads: str, writes: str, failures: str) -> None:
        self._authorize = authorize
        self._read_only = read_only
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._reads, self._writes, self._failures = (limits.parse(one) for one in (reads, writes, failures))
        self._polls: dict[str, int] = {}  # of this minute; `limits` starts a thread for each request that it counts
        self._polls_end = 0.0
        self._is_async = inspect.iscoroutinefunction(authorize) or isinstance(authorize, Tokens)

    @property
    def read_only(self) -> bool:
        return self._read_only

    @property
    def takes_tokens(self) -> bool:
        """Return true if a browser can log in with a token."""
        return isinstance(self._authorize, Tokens)

    async def log_in(self, request: Request, token: str) -> str:
        """Return the value of a cookie.

        Raise Problem for what is not a token, and for a peer that has tried too often.
        """
        self.require_same_origin(request)
        require_json(request)
        peer = request.client.host if request.client else ""
        if not isinstance(self._authorize, Tokens):
            raise of_status(404)
        if not self._limiter.test(self._failures, "failures", peer):
            raise self._too_many(request, self._failures, "failures", peer)
        cookie = self._authorize.log_in(token)
        if cookie is None:
            self._limiter.hit(self._failures, "failures", peer)
            raise Problem(401, "login-needed", "This token is not valid", headers={"WWW-Authenticate": "Bearer"})
        return cookie

    async def principal(self, request: Request) -> Principal | None:
        """Return the principal of the request. Raise Problem for a peer that has failed too often."""
        peer = request.client.host if request.client else ""
        offered = "authorization" in request.headers
        if offered and not self._limiter.test(self._failures, "failures", peer):
            raise self._too_many(request, self._failures, "failures", peer)
        found: Principal | None
        if self._is_async:
            found = await self._authorize(request)  # type: ignore[misc]
        else:  # it may ask a database of its own
            answer = await anyio.to_thread.run_sync(self._authorize, request)
            found = await answer if inspect.isawaitable(answer) else answer
        if found is not None and not isinstance(found, Principal):
            raise TypeError("authorize() has to return a Principal or None")
        if found is None and offered:
            self._limiter.hit(self._failures, "failures", peer)
        return found

    async def anybody(self, request: Request) -> Principal | None:
        """Return the principal, or None for a request without one; count it as a read."""
        found = await self.principal(request)
        self._count(request, self._reads, "reads", self._key(request, found))
        return found

    async def viewer(self, request: Request) -> Principal:
        """Return a principal that may read. Raise Problem."""
        found = await self._known(request)
        self._count(request, self._reads, "reads", self._key(request, found))
        return found

    async def poller(self, request: Request) -> Principal:
        """Return a principal that may read, for a page that asks every few seconds. Raise Problem."""
        found = await self._known(request)
        now = time.monotonic()
        if now >= self._polls_end:
            self._polls.clear()
            self._polls_end = now + _MINUTE
        key = self._key(request, found)
        polls = self._polls[key] = self._polls.get(key, 0) + 1
        left = str(max(1, round(self._polls_end - now)))
        request.state.rate_limit = {
            "RateLimit-Limit": str(POLLS), "RateLimit-Remaining": str(max(0, POLLS - polls)), "RateLimit-Reset": left,
        }  # fmt: skip
        if polls > POLLS:
            raise of_status(429, {"Retry-After": left})
        return found

    async def admin(self, request: Request) -> Principal:
        """Return a principal that may change things, and check that no other site made the request. Raise Problem."""
        found = await self._known(request)
        if found.role != "admin":
            raise Problem(403, "forbidden", "Only an admin may do this")
        if request.method in ("GET", "HEAD"):
            self._count(request, self._reads, "reads", self._key(request, found))
            return found
        if self._read_only:
            raise Problem(403, "read-only", "This service runs read-only")
        self.require_same_origin(request)
        require_json(request)
        self._count(request, self._writes, "writes", self._key(request, found))
        return found

    async def _known(self, request: Request) -> Principal:
        found = await self.principal(request)
        if found is None:
            raise of_status(401, {"WWW-Authenticate": "Bearer"})
        return found

    @staticmethod
    def _key(request: Request, principal: Principal | None) -> str:
        return f"name {principal.name}" if principal else f"peer {request.client.host if request.client else ''}"

    @staticmethod
    def require_same_origin(request: Request) -> None:
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            same = site in ("same-origin", "none")
        else:  # an older browser; clients that are not browsers send neither
            origin = request.headers.get("origin")
            same = origin is None or origin == f"{request.url.scheme}://{request.headers.get('host', '')}"
        if not same:
            raise Problem(403, "other-origin", "The request comes from a page of another site")

    def _count(self, request: Request, limit: limits.RateLimitItem, kind: str, key: str) -> None:
        if not self._limiter.hit(limit, kind, key):
            raise self._too_many(request, limit, kind, key)
        request.state.rate_limit = self._headers(limit, kind, key)

    def _too_many(self, request: Request, limit: limits.RateLimitItem, kind: str, key: str) -> Problem:
        headers = self._headers(limit, kind, key)
        request.state.rate_limit = headers
        return of_status(429, {"Retry-After": headers["RateLimit-Reset"]})

    def _headers(self, limit: limits.RateLimitItem, kind: str, key: str) -> dict[str, str]:
        window = self._limiter.get_window_stats(limit, kind, key)
        return {
            "RateLimit-Limit": str(limit.amount),
            "RateLimit-Remaining": str(max(0, window.remaining)),
            "RateLimit-Reset": str(max(1, round(window.reset_time - time.time()))),
        }
