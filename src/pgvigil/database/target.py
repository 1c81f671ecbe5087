"""A database to connect to, and the addresses that name one."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import unquote

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgvigil.database.settings import OF_CLIENTS, SESSION, SOCKET
from pgvigil.errors import UsageError
from pgvigil.text import one_line, quoted

# Never passed in an argument and never printed. libpq marks some of them itself, and not every libpq knows all of them.
SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
# Parameters that other tools read in such an address, and what to use instead.
_OF_OTHERS = {
    "schema": "Use --schema for the schema.",
    "search_path": "Use --schema for the schema.",
    "currentschema": "Use --schema for the schema.",
    "ssl": "libpq's word is sslmode=require.",
    "sslaccept": "libpq's word is sslmode=require.",
    "username": "libpq's word is user.",
    "user id": "libpq's word is user.",
    "uid": "libpq's word is user.",
    "pwd": "libpq's word is password.",
    "server": "libpq's word is host.",
    "data source": "libpq's word is host.",
    "database": "libpq's word is dbname.",
    "timeout": "libpq's word is connect_timeout.",
    "ssl mode": "libpq's word is sslmode.",
} | dict.fromkeys(
    ("pgbouncer", "connection_limit", "pool_size", "pool_timeout", "max_overflow", "pooling", "socket_timeout", "sockettimeout",
     "statement_cache_size", "prepared_statement_cache_size", "prepared_statements", "preparethreshold", "minimum pool size",
     "maximum pool size", "server_settings"),
    "Such a setting is for the driver or the pool of an application.",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A database to connect to: libpq parameters, and their source."""

    parameters: Mapping[str, str] = field(repr=False)
    source: str

    def at(self, database: str) -> Target:
        """Return the same server and role with another database."""
        return Target({**self.parameters, "dbname": database}, self.source)

    @property
    def public_conninfo(self) -> str:
        """Return the parameters as a libpq string without any secret, safe for a process list."""
        shown = {k: v for k, v in self.parameters.items() if k not in SECRETS and (k != "hostaddr" or v)}
        return make_conninfo("", **shown)

    @property
    def client_conninfo(self) -> str:
        """Return `public_conninfo` for pg_dump and similar programs, which get the session options by `client_options`."""
        return Target(
            SOCKET | {k: v for k, v in self.parameters.items() if k != "options"}, self.source
        ).public_conninfo

    @property
    def client_environment(self) -> dict[str, str]:
        """Return the environment for pg_dump and similar programs; secrets travel here and never in their arguments."""
        environment = dict(os.environ)
        if password := self.parameters.get("password"):
            environment["PGPASSWORD"] = password
        others = {k: v for k, v in self.parameters.items() if k in SECRETS and k != "password" and "\n" not in v}
        if others and "service" not in self.parameters and "PGSERVICE" not in os.environ:
            # These have no variable of their own, but may be in a service file.
            environment |= {"PGSERVICE": "pgvigil", "PGSERVICEFILE": _service_file(tuple(sorted(others.items())))}
        return environment

    def client_options(self, *more: str) -> str:
        """Return PGOPTIONS for pg_dump and similar programs, whose sessions cannot be pinned from here; `more` settings are pinned too."""
        given = self.parameters.get("options", os.environ.get("PGOPTIONS", ""))
        return " ".join([given, *(f"-c {name}={SESSION[name]}" for name in (*OF_CLIENTS, *more))]).strip()

    @property
    def option(self) -> str:
        """Return the option that makes a command use this database again, without its secrets."""
        return f" --database-url {quoted(self.public_conninfo)}" if self.source == "--database-url" else ""

    @property
    def user(self) -> str:
        """Return the role that connects."""
        return self._known.get("user", "")

    @property
    def _known(self) -> dict[str, str]:
        defaults = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.val is not None}
        return {**defaults, **self.parameters}

    def __str__(self) -> str:
        known = self._known
        if "service" in known and "dbname" not in self.parameters:
            return one_line(f"service {known['service']} ({self.source})")
        where = known.get("host") or known.get("hostaddr") or "local socket"
        user = known.get("user", "")
        return one_line(
            f'database "{known.get("dbname", user)}" on {where}:{known.get("port", "5432")} as {user} ({self.source})'
        )


@cache
def _service_file(settings: tuple[tuple[str, str], ...]) -> str:
    """Return a service file in memory, which lives as long as this process and is readable only by its user."""
    descriptor = os.memfd_create("pgvigil", os.MFD_CLOEXEC)
    os.write(descriptor, "".join(["[pgvigil]\n", *(f"{k}={v}\n" for k, v in settings)]).encode())
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def parse_url(url: str, source: str) -> Target:
    """Parse a libpq URL or `key=value` string. SQLAlchemy's `postgresql+driver://` is accepted too.

    Raise UsageError, which never repeats the text: it may contain a password.
    """
    plain = re.sub(r"^postgres(?:ql)?(?:\+\w+)?://", "postgresql://", url.strip())
    if not plain:
        raise UsageError(
            f"the database address given by {source} is empty",
            "Set an address, or remove it, so that the next source is used (see pgvigil --help).",
        )
    unreadable = UsageError(
        f"the database address given by {source} cannot be read",
        "Write it as postgresql://user:password@host:port/database; characters such as @ / : # % in the password, and = in a "
        "parameter, must be percent-encoded."
        if plain.startswith("postgresql:")
        else "Write it as postgresql://user:password@host:port/database, or as host=… dbname=… with libpq's parameters only and "
        "values with blanks in quotes.",
    )
    try:
        parameters = conninfo_to_dict(plain)
    except psycopg.ProgrammingError as error:
        raise _of_another_tool(plain, source) or unreadable from error
    # libpq would look up such a port as a service name, and take a piece of a password for a host or a database.
    if not re.fullmatch(r"[\d,]*", str(parameters.get("port", ""))) or _has_bare_at(plain):
        raise unreadable
    if any(re.search(r";\s*[A-Za-z][A-Za-z ]*=", str(parameters.get(name, ""))) for name in ("host", "user", "dbname")):
        raise UsageError(
            f"the database address given by {source} has semicolons between its parameters, a form of other tools",
            "Write it as postgresql://user:password@host:port/database, or as host=… user=… separated by blanks.",
        )
    found = {k: str(v) for k, v in parameters.items() if v is not None}
    if "host" in found and "service" not in found and {"PGHOSTADDR", "PGSERVICE"} & os.environ.keys():
        found.setdefault("hostaddr", "")  # else libpq would connect to that of the environment instead of the host
    return Target(found, source)


def parse_other_url(url: str, source: str) -> Target:
    """Parse the address of a second database: no password, host or port of the environment, which names the first one, is used for it."""
    target = parse_url(url, source)
    if "service" in target.parameters:
        return target
    return Target({"hostaddr": "", "port": "5432", "password": "", **target.parameters}, source)


def _has_bare_at(address: str) -> bool:
    """Return true if a URL has an @ where libpq reads host and database: then the password before it was cut into pieces."""
    if not address.startswith("postgresql://"):
        return False
    rest = address.removeprefix("postgresql://")
    if user := re.match(r"[^@/]*@", rest):
        rest = rest[user.end() :]
    return "@" in rest.partition("?")[0]


def _of_another_tool(address: str, source: str) -> UsageError | None:
    """Return an error that names the unsupported part; None if that could be a piece of a password."""
    what = f"the database address given by {source}"
    if found := re.match(
        r"(?:(jdbc|r2dbc|prisma|prisma\+postgres|cockroachdb|postgis|ecto|pgsql|psql|pg|cloudsql|postgres(?:ql)?):)+(//)?",
        address,
        re.IGNORECASE,
    ):
        if found[0] != "postgresql://":
            return UsageError(
                f"{what} begins with {found[0]}, a form of other tools",
                "Write it as postgresql://user:password@host:port/database.",
            )
    elif found := re.match(r"([A-Za-z][A-Za-z0-9+.-]{0,30})://", address):
        return UsageError(
            f"{what} begins with {found[1]}://, which is not PostgreSQL",
            "Write it as postgresql://user:password@host:port/database.",
        )
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    if address.startswith("postgresql://"):
        query = address.partition("?")[2]
        if "@" in query:
            return None
        pairs = [pair.partition("=") for pair in query.split("&") if pair]
        names = [unquote(name) for name, _, value in pairs if name not in known and (name, value) != ("ssl", "true")]
    else:
        # Between blanks or semicolons a piece of a password looks like a name: only names of other tools are printed.
        names = [name for name in re.findall(r"(?:^|[;\s,])\s*([A-Za-z_]+(?: [A-Za-z]+){0,2}?)\s*=", address)
                 if name.lower() in _OF_OTHERS]  # fmt: skip
    names = list(dict.fromkeys(names))
    if not names or not all(re.fullmatch(r"[A-Za-z][\w. -]{0,40}", name) for name in names):
        return None
    instead = list(dict.fromkeys(_OF_OTHERS[name.lower()] for name in names if name.lower() in _OF_OTHERS))
    plural = "s" * (len(names) > 1)
    for name in names:
        if name.lower() not in _OF_OTHERS:
            instead += [f"Did you mean {near}?" for near in difflib.get_close_matches(name, known, 1, 0.7)]
    return UsageError(
        f"{what} contains what other tools read: libpq has no parameter{plural} {', '.join(names)}",
        " ".join([f"Remove {'them' if plural else 'it'}.", *instead]),
    )
