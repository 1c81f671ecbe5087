"""A backup put into a new database, compared, and swapped in.

    restore(target, archive, *, overwrite_newer, tell) -> RestoreOutcome     raises RestoreError, LockedError, ConnectError
    prove(conn, target, archive, schema, tables, large_objects, tell)        the same road, without the swap
    scratch(conn, target, archive, prefix, tell)                             the copy itself, for as long as the block lasts

The live database is renamed away and the new one renamed into its place in one transaction. Nothing of the swap is ever
committed by half, so a crash at any point leaves a database under the name, one that takes connections.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgvigil import database
from pgvigil.build import backup, contents, locks, swap, tools
from pgvigil.build.backup import Backup
from pgvigil.build.contents import Table
from pgvigil.build.journal import Journal
from pgvigil.database import Target
from pgvigil.errors import BackupError, RestoreError

Tool = tuple[Path, str]  # pg_restore, with pg_dump beside it, and its version

_TRY_AGAIN = "The database is as it was. Mend this and run the restore again."


@dataclass(frozen=True)
class RestoreOutcome:
    """What a restore did. `kept` is the name the replaced database has now; `swap_seconds` how long nobody could connect."""

    database: str
    archive: str
    revision: str | None
    kept: str
    tables: int
    rows: int
    swap_seconds: float
    seconds: float


# ── The whole road ────────────────────────────────────────────────────────────────────────────────────────────────────


def restore(target: Target, archive: Path, *, overwrite_newer: bool, tell: Journal) -> RestoreOutcome:
    """Puts the backup in the place of the database it is called on, which is kept under another name.

    Rows that were written after the backup are looked for before anything else and once more, with the tables locked
    against writing, before the swap; unless `overwrite_newer`, they stop the restore.
    """
    clock = time.monotonic()
    manifest = backup.load(archive)
    if manifest.kind != "full":
        raise RestoreError(
            f"{archive} is a backup of kind {manifest.kind}: there are no rows in it", "Use one of kind full."
        )
    now = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    try:
        with database.connect(target, "restore") as live, locks.run_lock(live, swap.LOCK_WAIT):
            name = live.info.dbname
            maintenance = target.at("postgres" if name != "postgres" else "template1")
            new, kept = _named(name, f"_pgvigil_restore_{now}"), _named(name, f"_pre_restore_{now}")
            contents.pin(live)
            _require(live, name, manifest)
            tell(f"{archive.name}: intact, of {manifest.began_at}, revision {manifest.revision or 'base'}")
            if manifest.database != name:
                tell(f'warning: it was taken of database "{manifest.database}" and goes into "{name}"')
            if not overwrite_newer:
                tell("looking for rows written after the backup")
                _refuse_newer(live, manifest, archive, target)
            with database.connect(maintenance, "restore") as admin, _new_database(admin, target, name, new):
                _fill(admin, target.at(new), archive, manifest, tell)
                swap.carry_over(admin, name, new)
                tell("swapping")
                took = swap.swap(
                    admin, maintenance, live, name, new, kept,
                    None if overwrite_newer else lambda: _refuse_newer(live, manifest, archive, target),
                )  # fmt: skip
    except RestoreError as error:
        error.hint = error.hint or _TRY_AGAIN
        raise
    except BackupError as error:  # a client program is missing, or said no
        raise RestoreError(error.message, _TRY_AGAIN) from error
    except psycopg.Error as error:
        raise RestoreError(f"the restore failed: {' '.join(str(error).split())}", _TRY_AGAIN) from error
    rows = sum(t.rows for t in manifest.tables.values())
    seconds = time.monotonic() - clock
    return RestoreOutcome(name, str(archive), manifest.revision, kept, len(manifest.tables), rows, took, seconds)


def prove(
    conn: psycopg.Connection,
    target: Target,
    archive: Path,
    schema: Path,
    tables: Mapping[str, Table],
    large_objects: int,
    tell: Journal,
) -> None:
    """Restores an archive into a scratch database, which is dropped again, and compares. Raises RestoreError.

    `schema` is an archive of the live schema alone, dumped from the same snapshot.
    """
    with scratch(conn, target, archive, "pgvigil_verify", tell) as there:
        tell("comparing with the database")
        _compare(there, _pg_restore(conn), schema, tables, large_objects)


@contextmanager
def scratch(conn: psycopg.Connection, target: Target, archive: Path, prefix: str, tell: Journal) -> Iterator[Target]:
    """A copy made from an archive, beside the database of `conn` and made like it; dropped when the block ends."""
    name = f"{prefix}_{secrets.token_hex(6)}"
    try:
        with _new_database(conn, target, conn.info.dbname, name):
            tell(f'restoring into scratch database "{name}"')
            _load(conn, _pg_restore(conn), target.at(name), archive, tell)
            yield target.at(name)
    except psycopg.Error as error:
        raise RestoreError(
            f"the scratch database failed: {' '.join(str(error).split())}",
            "It takes a role that may create databases and owns, or is a member of the owners of, what is in this one; "
            "--verify-backup read needs neither. Nothing was changed.",
        ) from error


# ── Before ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _require(live: psycopg.Connection, name: str, manifest: Backup) -> None:
    """Everything that would stop the swap is better known before the long part."""
    row = live.execute(
        """SELECT rolsuper OR rolcreatedb AND pg_has_role(d.datdba, 'USAGE') AND pg_has_role('pg_signal_backend', 'USAGE'),
                  d.datistemplate, (SELECT count(*) FROM pg_prepared_xacts WHERE database = d.datname),
                  (SELECT count(*) FROM pg_subscription WHERE subdbid = d.oid),
                  CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE') THEN current_setting('data_directory') END,
                  d.dattablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'pg_default'), pg_is_in_recovery()
           FROM pg_roles, pg_database d WHERE rolname = current_user AND d.datname = current_database()"""
    ).fetchone()
    assert row is not None  # noqa: S101 - we are connected to it
    may, template, prepared, subscriptions, data_directory, default_tablespace, standby = row
    if not may:
        raise RestoreError(
            f'role "{live.info.user}" may not put another database in the place of "{name}"',
            "It has to own the database, have CREATEDB and be a member of pg_signal_backend; or use a superuser.",
        )
    for fault, what in ((standby, "the server is a standby"), (template, f'"{name}" is a template'),
                        (prepared, f'"{name}" has {prepared} prepared transactions (pg_prepared_xacts)'),
                        (subscriptions, f'"{name}" has {subscriptions} subscriptions')):  # fmt: skip
        if fault:
            raise RestoreError(f"{what}: it cannot be swapped", "Settle that first. Nothing was changed.")
    # Only on the server's own machine can its disk be seen; the socket says that we are there.
    if default_tablespace and data_directory and live.info.host.startswith("/"):
        free = manifest.database_size
        with suppress(OSError):  # a container's socket, or a directory closed to us
            free = shutil.disk_usage(data_directory).free
        if free < manifest.database_size:
            raise RestoreError(
                f"{data_directory} has {free / 1e6:.0f} MB free; the restored database may take as much as the "
                f"{manifest.database_size / 1e6:.0f} MB it had",
                "Make room first. Nothing was changed.",
            )


def _refuse_newer(live: psycopg.Connection, manifest: Backup, archive: Path, target: Target) -> None:
    newer = _newer(live, manifest)
    if newer:
        program = os.environ.get("PGVIGIL_PROGRAM", "pgvigil")
        raise RestoreError(
            "the database holds what the backup does not: " + "; ".join(newer),
            "The database would be kept under another name, but its application would go on without these rows. If that is "
            f"what you want: {program} restore {shlex.quote(str(archive))} --overwrite-newer{target.option}",
        )


def _newer(live: psycopg.Connection, manifest: Backup) -> list[str]:
    """Which tables hold rows that the backup does not.

    Told by number of rows and digest over the columns that the backup has, so that a migration since is no difference; log
    positions would count every vacuum. Not asked: pgvigil's own schema, and the markers a migration leaves.
    """
    found = []
    there = contents.tables(live)
    for name, (partitioned, columns) in there.items():
        if name.startswith("pgvigil."):
            continue
        markers = None
        if {"metric_name", "recorded_at"} <= set(columns):
            markers = sql.SQL(
                "metric_name IN ('migration_completed', 'schema_initialized') AND recorded_at >= {}::timestamptz"
            ).format(manifest.snapshot_at)
        then = manifest.tables.get(name)
        if then is None:
            now = contents.measure(live, name, partitioned, [], markers)
            if now.rows:
                found.append(f"{name} has {now.rows} rows and came after the backup")
            continue
        now = contents.measure(live, name, partitioned, [c for c in then.columns if c in columns], markers)
        if now.rows and now != then:
            found.append(f"{name} has {now.rows} rows, {then.rows} in the backup, and they differ")
    return found


# ── The new database ──────────────────────────────────────────────────────────────────────────────────────────────────


def _fill(admin: psycopg.Connection, new: Target, archive: Path, manifest: Backup, tell: Journal) -> None:
    tool = _pg_restore(admin, manifest)
    tell(f'restoring into "{new.parameters["dbname"]}"')
    _load(admin, tool, new, archive, tell.indented())
    with database.connect(new, "restore") as conn:
        if not manifest.public_schema:  # template0 has one
            conn.execute("DROP SCHEMA IF EXISTS public")
    tell("comparing it with the manifest")
    _compare(new, tool, archive, manifest.tables, manifest.large_objects)
    with database.connect(new, "restore") as conn:
        conn.execute("ANALYZE")  # else the first queries would be planned blindly


@contextmanager
def _new_database(admin: psycopg.Connection, target: Target, like: str, name: str) -> Iterator[None]:
    """An empty database with owner, encoding, locale and tablespace of `like`; dropped, if still under its name, at the end."""
    row = admin.execute(
        """SELECT to_jsonb(d) || jsonb_build_object('owner', pg_get_userbyid(d.datdba), 'tablespace', t.spcname,
                                                    'encoding', pg_encoding_to_char(d.encoding))
           FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = %s""",
        (like,),
    ).fetchone()
    assert row is not None  # noqa: S101 - we are or were connected to it
    facts: dict[str, Any] = row[0]
    options = [
        ("OWNER", sql.Identifier(facts["owner"])),
        ("TABLESPACE", sql.Identifier(facts["tablespace"])),
        ("ENCODING", facts["encoding"]),
        ("LC_COLLATE", facts["datcollate"]),
        ("LC_CTYPE", facts["datctype"]),
    ]
    locale = facts.get("datlocale") or facts.get("daticulocale")  # 17 renamed it
    if facts.get("datlocprovider") == "i":
        options += [("LOCALE_PROVIDER", "icu"), ("ICU_LOCALE", locale), ("ICU_RULES", facts.get("daticurules"))]
    elif facts.get("datlocprovider") == "b":
        options += [("LOCALE_PROVIDER", "builtin"), ("BUILTIN_LOCALE", locale)]
    words = [sql.SQL("{} {}").format(sql.SQL(k), v) for k, v in options if v is not None]
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(
        sql.Identifier(name), sql.SQL(" ").join(words)
    )
    try:
        admin.execute(statement)
        yield
    finally:
        # On a connection of its own: Ctrl-C may have come in the middle of a query on the other.
        with database.connect(target.at(admin.info.dbname), "restore (clean up)") as fresh:
            fresh.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _load(admin: psycopg.Connection, tool: Tool, there: Target, archive: Path, tell: Journal, *options: str) -> None:
    """pg_restore into an empty database; the first error ends it. Raises BackupError with its words."""
    name = there.parameters["dbname"]

    def tick() -> None:
        row = admin.execute("SELECT pg_database_size(%s::name)", (name,)).fetchone()
        tell.progress(f"{row[0] / 1e6:.0f} MB restored" if row else "")

    pg_restore, version = tool
    arguments = [str(pg_restore), "--no-password", "--no-subscriptions", f"--dbname={there.public_conninfo}", *options]
    # pg_restore 17 and newer sets a parameter that older servers do not have: that one error, and no other, is forgiven.
    foreign = int(version.split(".")[0]) >= 17 and admin.info.server_version < 170000
    tools.run(
        [*arguments, *([] if foreign else ["--exit-on-error"]), str(archive)], there, "the backup cannot be restored",
        tick=tick, forgiven=_is_transaction_timeout if foreign else None,
    )  # fmt: skip


def _pg_restore(conn: psycopg.Connection, manifest: Backup | None = None) -> Tool:
    """One that can serve this server, and read what a newer pg_dump may have written."""
    written_by = (manifest.pg_dump_version if manifest else None) or "0"
    pg_dump, version = tools.find_tool("pg_dump", max(conn.info.server_version // 10000, int(written_by.split(".")[0])))
    return pg_dump.with_name("pg_restore"), version


def _is_transaction_timeout(words: str, status: int | None) -> bool:
    """Whether pg_restore has nothing to complain of but that this server has no transaction_timeout."""
    rest, found = re.subn(
        r"(pg_restore: while INITIALIZING:\n)?pg_restore: error: [^\n]*transaction_timeout[^\n]*\n"
        r"Command was: SET transaction_timeout = 0;\n",
        "", words, count=1,
    )  # fmt: skip
    if status is None:
        return "Command was" not in rest  # it may be in the middle of its sentence
    return status == 1 and found == 1 and "pg_restore: error" not in rest and "errors ignored on restore: 1" in rest


# ── Comparing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _compare(there: Target, tool: Tool, schema: Path, tables: Mapping[str, Table], large_objects: int) -> None:
    """Holds a restored database against what it should hold. Raises RestoreError."""
    with database.connect(there, "compare") as conn:
        contents.pin(conn)
        found = contents.contents(conn)
        objects = contents.large_objects(conn)
        faults = [f"table {name} is missing" for name in tables.keys() - found.keys()] if tables else []
        for name, now in found.items():
            then = tables.get(name)
            if then is None:
                faults += [f"table {name} is too many"] if tables else []
            elif now.rows != then.rows:
                faults.append(f"{name} has {now.rows} rows instead of {then.rows}")
            elif now != then:
                faults.append(f"{name} has rows of other content")
        if objects != large_objects:
            faults.append(f"{objects} large objects instead of {large_objects}")
        if faults:
            raise RestoreError("; ".join(sorted(faults)))
        _compare_schema(conn, tool, there, schema)


def _compare_schema(conn: psycopg.Connection, tool: Tool, there: Target, schema: Path) -> None:
    what = "the schema cannot be compared"
    text = ["--schema-only", "--no-subscriptions"]
    wanted = _bare(tools.run([str(tool[0]), *text, "--file=-", str(schema)], there, what))
    found = _schema(tool, there)
    if wanted == found:
        return
    # Some expressions are spelt another way once they have been through a dump, and stay so: the schema alone has to
    # come out of the same mill looking the same.
    name = f"pgvigil_verify_{secrets.token_hex(6)}"
    with _new_database(conn, there, conn.info.dbname, name):
        _load(conn, tool, there.at(name), schema, Journal(), "--schema-only")
        wanted = _schema(tool, there.at(name))
    if wanted != found:
        raise RestoreError(f"the schema differs: {_first_difference(wanted, found)}")


def _schema(tool: Tool, there: Target) -> list[str]:
    arguments = [
        str(tool[0].with_name("pg_dump")),
        "--no-password",
        "--schema-only",
        "--no-subscriptions",
        f"--dbname={there.public_conninfo}",
    ]
    return _bare(tools.run(arguments, there, "the schema cannot be compared"))


def _bare(dump: str) -> list[str]:
    """A dump without its header, and without the lines that bear a random key."""
    return [
        line
        for line in dump.splitlines()
        if line and not re.match(r"\\(un)?restrict |-- Dumped |-- Started |--$", line)
    ]


def _first_difference(wanted: list[str], found: list[str]) -> str:
    for one, other in zip([*wanted, "nothing"], [*found, "nothing"], strict=False):
        if one != other:
            return f"{other.strip()} instead of {one.strip()}"
    return "its length"


def _named(database_name: str, ending: str) -> str:
    """Names have 63 bytes: the beginning gives way."""
    return database_name.encode()[: 63 - len(ending)].decode(errors="ignore") + ending
