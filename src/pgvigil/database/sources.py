"""The source that names the database of a call.

It is, in this order: `--database-url`; `DATABASE_URL`; libpq's own `PG*` variables and service files; a `.env` file (in the
current directory, else in the project) with either of these. Only one of these is used, never a mixture: host, port, user,
database and service come from one source. For a database named by the call or its environment, PGPASSWORD, PGSSLMODE and the
like of the same environment apply, and the user's own ~/.pgpass; for one named by a `.env` file, only credentials of that file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from psycopg import pq

from pgvigil import dot_env
from pgvigil.database import libpq_files
from pgvigil.database.target import Target, parse_url
from pgvigil.errors import UsageError

# Any of these names a database for libpq. PGPASSWORD, PGSSLMODE and the like only say how to connect.
_NAMING = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")
# Credentials, which authenticate the client to a server.
_CREDENTIALS = ("PGPASSWORD", "PGPASSFILE", "PGSSLCERT", "PGSSLKEY", "PGGSSDELEGATION", "PGKRBSRVNAME")
_NO_FILE = "/dev/null/none"  # as a password file: it does not exist, and libpq does not warn


def resolve(url: str | None, dotenv_directories: list[Path]) -> Target | None:
    """Return the database of this call, or None if no source names one.

    Other sources are removed from the environment, because libpq would fill gaps with them, here and in children. Raise
    UsageError for a source that should name a database and does not: none is skipped.
    """
    target = _resolve(url, dotenv_directories)
    if target is not None:
        libpq_files.require_files(target.parameters, target.source)
    return target


def _resolve(url: str | None, dotenv_directories: list[Path]) -> Target | None:
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
