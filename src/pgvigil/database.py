"""Finds the database and connects to it. The only module that opens connections.

A database is named by, in this order: `--database-url`; `DATABASE_URL`; libpq's own `PG*` variables and service files;
a `.env` file (in the current directory, else in the project) with either of these. Only one of these is used, never a mixture:
host, port, user, database and service come from one source. For a database named by the call or its environment, PGPASSWORD,
PGSSLMODE and the like of the same environment apply, and the user's own ~/.pgpass; for one named by a `.env` file, only
credentials of that file.

More than 400 lines: every way to name a server, and every setting of a session, ends in one function that connects.
"""

from __future__ import annotations

import difflib
import os
import re
import select
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq.abc import PGresult

from pgvigil import connect_advice, dot_env
from pgvigil.errors import ConnectError, PgvigilError, PoolerError, UsageError
from pgvigil.text import one_line, quoted

# Any of these names a database for libpq. PGPASSWORD, PGSSLMODE and the like only say how to connect.
_NAMING = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")
# Credentials, which authenticate the client to a server.
_CREDENTIALS = ("PGPASSWORD", "PGPASSFILE", "PGSSLCERT", "PGSSLKEY", "PGGSSDELEGATION", "PGKRBSRVNAME")
_NO_FILE = "/dev/null/none"  # as a password file: it does not exist, and libpq does not warn
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

# The session settings of a command or a job, whatever the role, the database or the server sets. A setting that the server does
# not have is skipped. Commands that need another value (a lock_timeout, a search_path) set it themselves, after this.
SESSION = {
    "search_path": "pg_catalog, pg_temp",
    "row_security": "off",  # rows that a policy hides raise an error, so that they are never taken for missing
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "exit_on_error": "off",  # a savepoint would not survive the error that it is for
    "xmloption": "content",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "plpgsql.extra_errors": "none",
    "plpgsql.extra_warnings": "none",
    "check_function_bodies": "on",
    "restrict_nonsystem_relation_kind": "",
    "default_table_access_method": "heap",
    "default_tablespace": "",  # that of the database, for which its owner needs no right
    "temp_tablespaces": "",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",  # 17
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "client_min_messages": "warning",
    "jit": "off",
}
# One statement, which sets nothing if the backend is not the one that the connection began with. Every name is qualified,
# because the search_path is still that of the role or the database; no array is used, because array_nulls is theirs too.
_PIN = (
    "SELECT pg_catalog.set_config(s.name, s.value, false) FROM (VALUES "
    + ", ".join(f"('{name}', ${place}::pg_catalog.text)" for place, name in enumerate(SESSION, 1))
    + f") AS s (name, value) WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) ${len(SESSION) + 1}::pg_catalog.int4"
    " AND pg_catalog.current_setting(s.name, true) IS NOT NULL"
)
_WHO = "SELECT pg_catalog.pg_backend_pid()"

# How long a dead network or server goes unnoticed. libpq acts on these, here and in children; the server is told nothing.
_SOCKET = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_ENDED_BY_A_LIMIT = re.compile("due to .* timeout|closed the connection unexpectedly")
_LIMITS = ("statement_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
# Settings that pg_dump and pg_restore, which set most of these themselves, do not change, or use before they do.
# With jit, a server set to compile every query takes minutes for the catalog queries of a dump.
_OF_CLIENTS = (
    *_LIMITS[:3], "quote_all_identifiers", "default_transaction_read_only", "jit", "default_tablespace", "temp_tablespaces",
    "array_nulls", "transform_null_equals", "exit_on_error",
)  # fmt: skip

_BEGINS_WITHIN = 1.5  # seconds for another connection to begin a transaction; a pool of one session may never let it
_ANSWERS_WITHIN = 2.0  # seconds for an idle connection to report its backend
_LOOKS = 4  # a pool that rotates its backends gives the same one again, but not every time


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
            _SOCKET | {k: v for k, v in self.parameters.items() if k != "options"}, self.source
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
        return " ".join([given, *(f"-c {name}={SESSION[name]}" for name in (*_OF_CLIENTS, *more))]).strip()

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

    Raises UsageError, which never repeats the text: it may contain a password.
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


def resolve(url: str | None, dotenv_directories: list[Path]) -> Target | None:
    """Return the database of this call, or None if no source names one.

    Other sources are removed from the environment, because libpq would fill gaps with them, here and in children. Raises
    UsageError for a source that should name a database and does not: none is skipped.
    """
    if url is not None:
        target = parse_url(url, "--database-url")
    elif "DATABASE_URL" in os.environ:
        target = parse_url(os.environ["DATABASE_URL"], "DATABASE_URL")
    elif given := [name for name in _NAMING if name in os.environ]:
        for name in given:
            # libpq would take its default instead: another server, or the database that is named like the user.
            if not os.environ[name].strip():
                raise UsageError(
                    f"{name} is set but empty, so it names no database", f"Give it a value, or unset {name}."
                )
        _require_a_name("PGDATABASE", os.environ.get("PGDATABASE", ""))
        return Target({}, "PG* environment")
    else:
        for directory in dotenv_directories:
            if found := _from_dotenv(directory / ".env"):
                return found
        return None
    _forget(_NAMING)
    return target


def _forget(names: Iterable[str]) -> None:
    for name in names:
        os.environ.pop(name, None)


def _require_a_name(where: str, value: str) -> None:
    """Raise UsageError for an address where libpq expects a database's name: it would look for it on a default server."""
    if re.match(r"[A-Za-z][\w+.:]*://", value):
        raise UsageError(
            f"{where} contains an address, not the name of a database",
            "Give the address as DATABASE_URL, or write only the name.",
        )


def _require_capitals(path: Path, values: Mapping[str, tuple[str | None, int]]) -> None:
    """Raise UsageError for a name like `database_url`, which other loaders of such files read and libpq does not."""
    for name, (_, line) in values.items():
        if (capitals := name.upper()) in ("DATABASE_URL", *_NAMING):
            raise UsageError(f"{path}:{line}: {name} names no database", f"Write it as {capitals}. {dot_env.INSTEAD}")


def _from_dotenv(path: Path) -> Target | None:
    values = dot_env.read(path)
    if values is None:
        return None
    naming = [name for name in ("DATABASE_URL", *_NAMING) if name in values]
    if not naming:
        _require_capitals(path, values)
        return None
    given = {name: value for name, (value, _) in values.items() if value and "\n" not in value}
    first = f"{path}:{values[naming[0]][1]}"
    for name in naming[:1] if "DATABASE_URL" in naming else naming:
        if not given.get(name, "").strip():
            extends = "\n" in (values[name][0] or "")
            raise UsageError(
                f"{path}:{values[name][1]}: {name} has {'a value of more than one line' if extends else 'no value'}",
                f"Write its value on the same line, or remove the line. {dot_env.INSTEAD}",
            )
    if "PGDATABASE" in given:
        _require_a_name(f"{path}:{values['PGDATABASE'][1]}: PGDATABASE", given["PGDATABASE"])
    keywords = {o.envvar.decode(): o.keyword.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
    parameters = {keywords[k]: v for k, v in given.items() if k in keywords}
    if "DATABASE_URL" in given:
        url = parse_url(given["DATABASE_URL"], first).parameters
        parameters = {k: v for k, v in parameters.items() if k not in {keywords[name] for name in _NAMING}} | dict(url)
    if "service" in parameters and parameters.keys() & {"host", "hostaddr", "port"}:
        raise UsageError(
            f"{first}: both a service and a host are named, so the service's password would be sent to that host",
            "Name either the service or the host.",
        )
    _forget((*_NAMING, *_CREDENTIALS))
    # Credentials of other sources are for other servers. The user's own service file may rely on ~/.pgpass.
    if "service" not in parameters:
        parameters.setdefault("passfile", _NO_FILE)
    if "PGSERVICEFILE" in given:
        os.environ["PGSERVICEFILE"] = given["PGSERVICEFILE"]
        os.environ["PGPASSFILE"] = _NO_FILE  # comes after a passfile of the service
    return Target(parameters, str(path))


def connect(target: Target, purpose: str, *, wait: float = 0, within: float = 10.0) -> psycopg.Connection:
    """Open a connection of a command or a job: as `open_connection`, with the session pinned to `SESSION`. A pooler has `within`
    seconds to give a session.

    Raises PoolerError if a pooler gives each transaction another backend; then nothing was set in any of them.
    """
    given, version = None, 0  # unknown: the last limit may be unknown to the server, too
    try:
        conn = open_connection(target, purpose, wait=wait)
        given, version = conn.info.options, conn.info.server_version  # a connection that was lost does not tell
        return _pinned(conn, within)
    except (psycopg.OperationalError, ConnectError) as error:
        failure = _connect_error(error, target)
    if given is None and not _ENDED_BY_A_LIMIT.search(failure.message):
        raise failure
    # A limit of the role or the database may be shorter than the statement that removes it, or even than the connection's own start.
    # A pooler does not accept such options: it has then accepted the connection, but has no server to offer.
    if given is None:
        given = target.parameters.get("options", os.environ.get("PGOPTIONS", ""))
    for limits in [_LIMITS] * (not version or version >= 170000) + [_LIMITS[:-1]] * (version < 170000):
        options = " ".join([given, *(f"-c {name}=0" for name in limits)])
        with suppress(psycopg.OperationalError, ConnectError):
            return _pinned(
                open_connection(Target({**target.parameters, "options": options}, target.source), purpose), within
            )
    raise failure


def _connect_error(error: psycopg.OperationalError | ConnectError, target: Target) -> ConnectError:
    if isinstance(error, ConnectError):
        return error
    words = " ".join(str(error).split())
    failure = ConnectError(f"cannot connect to {target}: {words}", _advice(words, target))
    failure.__cause__ = error
    return failure


def _pinned(conn: psycopg.Connection, within: float) -> psycopg.Connection:
    try:
        pin_session(conn, within)
    except BaseException:
        conn.close()
        raise
    return conn


def open_connection(target: Target, purpose: str, *, wait: float = 0) -> psycopg.Connection:
    """Open an autocommit connection named `pgvigil <purpose>`; try for `wait` seconds while no server answers.

    No setting is changed in its session, so it may go through any pooler: it is for the application's side. Raises ConnectError
    with libpq's message and what to do about it.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            return psycopg.connect(
                make_conninfo("", **_SOCKET | dict(target.parameters)),
                autocommit=True,
                prepare_threshold=None,  # a pooler in between does not support prepared statements
                application_name=f"pgvigil {purpose}",
                client_encoding="utf8",
            )
        except psycopg.OperationalError as error:
            words = " ".join(str(error).split())
            # libpq checks some options only now.
            if re.search(r"\binvalid (integer|port|\w+ value)|\bdefinition of service |\bservice file ", words):
                raise UsageError(
                    f"the database address given by {target.source} cannot be used: {words}",
                    f"{_advice(words, target) if re.search('service|sslmode', words) else 'Fix the address.'} No server was contacted.",
                ) from error
            refused = any(sign in words for sign in ("authentication failed", "no password supplied", "does not exist"))
            if refused or time.monotonic() >= deadline:
                raise ConnectError(f"cannot connect to {target}: {words}", _advice(words, target)) from error
            time.sleep(0.2)
        except psycopg.ProgrammingError as error:  # libpq does not have this option
            raise UsageError(
                f"the database address given by {target.source} cannot be used: {error}",
                "Fix the address. No server was contacted.",
            ) from error


def pin_session(conn: psycopg.Connection, within: float) -> None:
    """Set the settings that a command or a job relies on. Raises as `connect` does, and OperationalError if there is no answer in
    `within` seconds: a pooler has accepted the connection, and has no server to give.
    """
    pinned = _answer(conn, _PIN, within, *SESSION.values(), str(conn.info.backend_pid))
    if pinned is None:
        raise psycopg.OperationalError(f"there is no answer after {within:g} s; a pooler in between may be full")
    _raise_refusal(pinned, conn)
    if not pinned.ntuples:
        _require_session(conn)
        again = _answer(conn, _PIN, within, *SESSION.values(), str(_backend(conn, _WHO, within)))
        _raise_refusal(again, conn)


def _require_session(conn: psycopg.Connection) -> None:
    """Check a connection through an intermediary, which reported another process than the one that answers. Raises
    PoolerError unless the connection keeps its backend from one transaction to the next.

    An idle pool gives its only client the same backend each time, so a second connection begins a transaction: if backends
    are shared, it takes the first one's, and the first gets another one, or has to wait.
    """
    ours = _backend(conn, _WHO, _ANSWERS_WITHIN)
    try:
        other = psycopg.connect(conninfo_of(conn), autocommit=True, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise ConnectError(
            "a connection pooler is between pgvigil and the server, and refuses the second connection that would find out its "
            f"mode: {' '.join(str(error).split())}",
            "Connect to the server directly, or free a connection of the pooler.",
        ) from error
    shared = ours is None
    with suppress(psycopg.Error), other:
        for _ in range(_LOOKS):
            theirs = _backend(other, f"BEGIN; {_WHO}", _BEGINS_WITHIN)
            # 0: statement pools refuse a BEGIN. None: it waits, perhaps because the first connection keeps its backend.
            shared = shared or theirs in (0, ours) or _backend(conn, _WHO, _ANSWERS_WITHIN) != ours
            if shared or theirs is None:
                break
            _backend(other, "ROLLBACK", _ANSWERS_WITHIN)
        other.close()  # even if it still waits: the pooler removes it from its queue
    if shared:
        raise PoolerError(
            "a connection pooler is between pgvigil and the server: session settings do not survive a transaction",
            "Connect to the server directly, or to a pool in session mode. Nothing was changed.",
        )


def has_more_sessions(conn: psycopg.Connection, count: int = 1) -> bool:
    """Return false if a connection goes through a pooler that does not give so many further sessions now. Nothing is set in them."""
    if _backend(conn, _WHO, _ANSWERS_WITHIN) == conn.info.backend_pid:
        return True
    with ExitStack() as others:
        for _ in range(count):
            try:
                other = psycopg.connect(conninfo_of(conn), autocommit=True, prepare_threshold=None)
            except psycopg.OperationalError:
                return False
            others.callback(other.close)
            if not _backend(other, _WHO, _BEGINS_WITHIN):
                return False
    return True


def require_more_sessions(conn: psycopg.Connection, count: int, work: str) -> None:
    """Raise ConnectError, before `work` begins, if a pooler does not give the further sessions that it needs at once."""
    if not has_more_sessions(conn, count):
        raise ConnectError(
            f"{work} needs {count + 1} sessions at once, and the connection pooler between pgvigil and the server gives fewer",
            "Raise the pool's size to four sessions, or connect to the server directly. Nothing was changed.",
        )


def _backend(conn: psycopg.Connection, query: str, seconds: float) -> int | None:
    """Return the backend that answers `query`; 0 if it refuses or disconnects, None if there is no answer in time."""
    try:
        result = _answer(conn, query, seconds)
    except psycopg.OperationalError:
        return 0
    if result is None or result.status != pq.ExecStatus.TUPLES_OK:
        return None if result is None else 0
    return int(result.get_value(0, 0) or 0)


def _answer(conn: psycopg.Connection, query: str, seconds: float, *parameters: str) -> PGresult | None:
    """Return the last result of a query, which is one statement if it has parameters; None if it does not arrive in time."""
    pgconn = conn.pgconn
    if parameters:
        pgconn.send_query_params(query.encode(), [parameter.encode() for parameter in parameters])
    else:
        pgconn.send_query(query.encode())
    answers = select.poll()
    answers.register(pgconn.socket, select.POLLIN)
    deadline = time.monotonic() + seconds
    while pgconn.flush() or pgconn.is_busy():
        if not answers.poll(max(deadline - time.monotonic(), 0) * 1000):
            return None
        pgconn.consume_input()
    last = None
    while (result := pgconn.get_result()) is not None:
        last = result
    return last


def _raise_refusal(result: PGresult | None, conn: psycopg.Connection) -> None:
    if result is not None and result.status != pq.ExecStatus.TUPLES_OK:
        words = result.error_message.decode(conn.info.encoding, "replace").strip()
        raise psycopg.OperationalError(words or "the connection was closed")


@contextmanager
def connecting(target: Target, purpose: str) -> Iterator[Callable[[], psycopg.Connection]]:
    """Connect in the background. A call of the yielded function waits for the connection, or raises."""
    connection: Future[psycopg.Connection] = Future()

    def make() -> None:
        try:
            made = connect(target, purpose)
        except (psycopg.Error, PgvigilError) as error:
            with suppress(InvalidStateError):
                connection.set_exception(error)
            return
        try:
            connection.set_result(made)
        except InvalidStateError:  # cancelled below: the connection is no longer needed
            made.close()

    Thread(target=make, daemon=True).start()  # Ctrl-C does not wait for a server that does not answer
    try:
        yield connection.result
    finally:
        if not connection.cancel() and not connection.exception():
            with connection.result():
                pass  # closed at its end


def beside(conn: psycopg.Connection) -> psycopg.Connection:
    """Open another connection like this one. Raises psycopg.OperationalError if the server has none left."""
    return _pinned(psycopg.connect(conninfo_of(conn), autocommit=True, prepare_threshold=None), _BEGINS_WITHIN)


def conninfo_of(conn: psycopg.Connection) -> str:
    """Return what another connection like this one is opened with, its password included."""
    return make_conninfo("", **conn.info.get_parameters(), password=conn.info.password)


# ── Lost connections ──────────────────────────────────────────────────────────────────────────────────────────────────

# Reasons for which the server ends a session: shutdown, crash, an administrator, a timeout, a database that is dropped.
_ENDED = ("57P", "25P03", "25P04", "08")


def is_lost(error: BaseException | None) -> bool:
    """Return true if an error, or its cause, is a lost connection and not an answer of the server."""
    while error is not None:
        if isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08").startswith(_ENDED):
            return True
        if isinstance(error, psycopg.InterfaceError):  # psycopg's error for the use of a closed connection
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def lost(error: BaseException, meanwhile: str = "") -> ConnectError:
    """Return the error to raise for one of which `is_lost` is true."""
    said = next((one for one in _causes(error) if isinstance(one, psycopg.Error) and one.sqlstate), None)
    words = " ".join(str(said or error).split())
    return ConnectError(f"the connection was lost{meanwhile}: {words}", "Read the server's log, then run this again.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# ── Rows that a policy hides ──────────────────────────────────────────────────────────────────────────────────────────

# For the connected role, and for each table's owner, whose rights pgvigil's functions have. A role sees all rows if, for every
# command, a permissive policy for it is `true` and no restrictive one is anything else.
_ROW_SECURITY = """
    SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name, r.rolname, pg_catalog.pg_has_role(r.oid, c.relowner, 'USAGE') AS owns,
           pg_catalog.bool_and(p.shows_all) AS sees_all
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_roles r ON r.rolname = current_user OR r.oid = c.relowner
    CROSS JOIN LATERAL (
        SELECT coalesce(bool_or(q.is_true) FILTER (WHERE q.polpermissive), false)
               AND coalesce(bool_and(q.is_true) FILTER (WHERE NOT q.polpermissive), true) AS shows_all
        FROM unnest('{r,a,w,d}'::"char"[]) command
        LEFT JOIN LATERAL (
            SELECT p.polpermissive, coalesce(pg_get_expr(p.polqual, c.oid), 'true') = 'true'
                                    AND coalesce(pg_get_expr(p.polwithcheck, c.oid), 'true') = 'true' AS is_true
            FROM pg_policy p
            WHERE p.polrelid = c.oid AND p.polcmd IN ('*', command)
              AND (0 = ANY (p.polroles) OR EXISTS (SELECT FROM unnest(p.polroles) o WHERE pg_has_role(r.oid, o, 'USAGE')))
        ) q ON true
        GROUP BY command
    ) p
    WHERE c.relrowsecurity AND c.relkind IN ('r', 'p') AND (%(schemas)s::text[] IS NULL OR n.nspname = ANY (%(schemas)s))
      AND NOT r.rolsuper AND NOT r.rolbypassrls AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE'))
    GROUP BY c.oid, n.nspname, c.relname, c.relowner, r.oid, r.rolname
    ORDER BY 1, 2"""


@dataclass(frozen=True)
class Hidden:
    """A table, by its qualified name, whose policies may hide rows from a role; and true if that role owns it."""

    table: str
    role: str
    is_owner: bool

    @property
    def remedies(self) -> list[str]:
        """Return the statements of which one is enough."""
        role = sql.Identifier(self.role).as_string()
        if self.is_owner:
            return [
                f"ALTER TABLE {self.table} NO FORCE ROW LEVEL SECURITY;",
                f"CREATE POLICY pgvigil_owner ON {self.table} TO {role} USING (true);  -- or this",
            ]
        return [f"CREATE POLICY pgvigil_jobs ON {self.table} TO {role} USING (true);  -- or connect as the owner"]


def see_all_rows(conn: psycopg.Connection, schemas: Sequence[str] | None = None) -> list[Hidden]:
    """Turn row security on in this session if in these schemas it shows all rows; otherwise reading such a table raises an error.

    Returns the tables and roles for which rows may be hidden.
    """
    rows = conn.execute(_ROW_SECURITY, {"schemas": None if schemas is None else list(schemas)}).fetchall()
    hidden = [Hidden(table, role, owns) for table, role, owns, sees_all in rows if not sees_all]
    conn.execute(f"SET row_security = {'on' if rows and not hidden else 'off'}")
    return hidden


def _advice(words: str, target: Target) -> str:
    if "password" in words and target.source.endswith(".env"):
        return f"Check user and password in {target.source}: passwords of other sources are not sent to a host that it names."
    if "password" in words:
        return "Check user and password: DATABASE_URL, PGPASSWORD, or a line in ~/.pgpass (mode 0600)."
    if re.search(r'database ".*" does not exist', words):
        return f"Check the name with psql -l. To create it: pgvigil setup{target.option}"
    if re.search(r'role ".*" does not exist', words):
        return "Check the user name: it is part of the URL, or PGUSER."
    return connect_advice.advice(words)


def is_missing_database(error: ConnectError) -> bool:
    """Return true if the server answered that it has no database of that name."""
    return bool(re.search(r'database ".*" does not exist', error.message))
