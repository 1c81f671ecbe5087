"""Finding the database and connecting to it. The only module that opens connections.

A database is named by, in this order: `--database-url`; `DATABASE_URL`; libpq's own `PG*` variables and service files;
a `.env` file (in the current directory, else in the project) holding either of these. One layer is used, never a mixture.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgvigil.errors import ConnectError, PgvigilError, UsageError

# Any of these names a database to libpq. PGPASSWORD, PGSSLMODE and the like only say how.
_NAMING = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")


@dataclass(frozen=True)
class Target:
    """A database to connect to: libpq parameters, and where they came from."""

    parameters: Mapping[str, str] = field(repr=False)
    source: str

    def at(self, database: str) -> Target:
        """The same server and role, another database."""
        return Target({**self.parameters, "dbname": database}, self.source)

    @property
    def public_conninfo(self) -> str:
        """The parameters as a libpq string without the password: fit for a process list."""
        return make_conninfo("", **{k: v for k, v in self.parameters.items() if k not in ("password", "sslpassword")})

    @property
    def client_environment(self) -> dict[str, str]:
        """Environment for pg_dump and its kin; the password travels here and never in their arguments."""
        secret = self.parameters.get("password")
        return {**os.environ, **({"PGPASSWORD": secret} if secret else {})}

    @property
    def option(self) -> str:
        """What to add to a command so that it means this database again, without the password."""
        return f" --database-url '{self.public_conninfo}'" if self.source == "--database-url" else ""

    def __str__(self) -> str:
        defaults = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.val is not None}
        known = {**defaults, **self.parameters}
        if "service" in known and "dbname" not in self.parameters:
            return f"service {known['service']} ({self.source})"
        where = known.get("host") or known.get("hostaddr") or "local socket"
        user = known.get("user", "")
        return (
            f'database "{known.get("dbname", user)}" on {where}:{known.get("port", "5432")} as {user} ({self.source})'
        )


def parse_url(url: str, source: str) -> Target:
    """A libpq URL or `key=value` string. SQLAlchemy's `postgresql+driver://` is read as well.

    Raises UsageError, which never repeats the text: it may hold a password.
    """
    plain = re.sub(r"^postgres(?:ql)?(?:\+\w+)?://", "postgresql://", url.strip())
    unreadable = UsageError(
        f"the database address given by {source} cannot be read",
        "Write it as postgresql://user:password@host:port/database; characters such as @ / : # % in the password "
        "must be percent-encoded.",
    )
    try:
        parameters = conninfo_to_dict(plain)
    except psycopg.ProgrammingError as error:
        raise unreadable from error
    if not re.fullmatch(r"[\d,]*", str(parameters.get("port", ""))):  # libpq would look it up as a service name
        raise unreadable
    return Target({k: str(v) for k, v in parameters.items() if v is not None}, source)


def resolve(url: str | None, dotenv_directories: list[Path]) -> Target | None:
    """The database this call is about, or None when nothing names one."""
    if url:
        return parse_url(url, "--database-url")
    if os.environ.get("DATABASE_URL"):
        return parse_url(os.environ["DATABASE_URL"], "DATABASE_URL")
    if any(os.environ.get(name) for name in _NAMING):
        return Target({}, "PG* environment")
    for directory in dotenv_directories:
        path = directory / ".env"
        if path.is_file():
            return _from_dotenv(path)
    return None


def _from_dotenv(path: Path) -> Target | None:
    from dotenv import dotenv_values  # here, because most calls have no .env

    try:
        values = dotenv_values(path, interpolate=False, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", "Make it readable UTF-8 text, or use DATABASE_URL."
        ) from error
    if values.get("DATABASE_URL"):
        return parse_url(str(values["DATABASE_URL"]), str(path))
    keywords = {o.envvar.decode(): o.keyword.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
    parameters = {keywords[k]: v for k, v in values.items() if k in keywords and v}
    return Target(parameters, str(path)) if any(values.get(name) for name in _NAMING) else None


def connect(target: Target, purpose: str, *, wait: float = 0) -> psycopg.Connection:
    """An autocommit connection named `pgvigil <purpose>`; tries for `wait` seconds while no server answers.

    Raises ConnectError with libpq's words and what to do about them.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            return psycopg.connect(
                make_conninfo("", **{"connect_timeout": "10", **target.parameters}),
                autocommit=True,
                prepare_threshold=None,  # a pooler in between must not meet prepared statements
                application_name=f"pgvigil {purpose}",
                client_encoding="utf8",
            )
        except psycopg.OperationalError as error:
            words = " ".join(str(error).split())
            if re.search(r"\binvalid (integer|port|\w+ value)", words):  # libpq looks at some options only now
                raise UsageError(
                    f"the database address given by {target.source} cannot be used: {words}",
                    "Mend it; nothing was asked of any server.",
                ) from error
            refused = any(sign in words for sign in ("authentication failed", "no password supplied", "does not exist"))
            if refused or time.monotonic() >= deadline:
                raise ConnectError(f"cannot connect to {target}: {words}", _advice(words)) from error
            time.sleep(0.2)
        except psycopg.ProgrammingError as error:  # an option libpq does not know
            raise UsageError(
                f"the database address given by {target.source} cannot be used: {error}",
                "Mend it; nothing was asked of any server.",
            ) from error


@contextmanager
def connecting(target: Target, purpose: str) -> Iterator[Callable[[], psycopg.Connection]]:
    """As `connect`, while the caller does something else: calling what this gives waits for the connection, or raises."""
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
        except InvalidStateError:  # cancelled below: nobody wants it any more
            made.close()

    Thread(target=make, daemon=True).start()  # Ctrl-C does not wait for a server that does not answer
    try:
        yield connection.result
    finally:
        if not connection.cancel() and not connection.exception():
            with connection.result():
                pass  # at its end it is closed


def beside(conn: psycopg.Connection) -> psycopg.Connection:
    """Another connection like this one. Raises psycopg.OperationalError where the server has none left."""
    return psycopg.connect(
        make_conninfo("", **conn.info.get_parameters(), password=conn.info.password),
        autocommit=True,
        prepare_threshold=None,
    )


def _advice(words: str) -> str:
    if "password" in words:
        return "Check user and password: DATABASE_URL, PGPASSWORD, or a line in ~/.pgpass (mode 0600)."
    if re.search(r'database ".*" does not exist', words):
        return "Check the name with psql -l; scripts/setup-enhanced-db.sh creates a new database."
    if re.search(r'role ".*" does not exist', words):
        return "Check the user name: it is part of the URL, or PGUSER."
    if "too many clients" in words or "remaining connection slots" in words:
        return "The server has no connection left: close some, or try again later."
    return "Is the server running, and are host and port right?"


def is_missing_database(error: ConnectError) -> bool:
    """Whether the server answered that it has no database of that name."""
    return bool(re.search(r'database ".*" does not exist', error.message))
