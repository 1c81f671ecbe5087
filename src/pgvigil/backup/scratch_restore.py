"""Make a copy of a database from an archive of it, and compare it with what the archive should hold.

scratch(conn, target, archive, prefix, log)                        a copy that exists as long as the block
rehearsal_copy(conn, target, archive, log)                         one to rehearse on
verify(conn, target, archive, schema, tables, large_objects, log) -> Proved
new_database, load, compare, integrity                             the steps of both, and of a restore

More than 400 lines: making a copy and comparing it share its connection, and both clean up after each other's failures.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql

from pgvigil import database, scratch_databases
from pgvigil.backup import fingerprint, manifest, pg_tools, selection
from pgvigil.backup.fingerprint import Extension, TableFingerprint
from pgvigil.backup.selection import Selection
from pgvigil.database import Target
from pgvigil.errors import BackupError, PreconditionError, RestoreError, UnequalError
from pgvigil.progress import Reporter
from pgvigil.text import counted

Tool = tuple[Path, str]  # pg_restore, with pg_dump beside it, and its version

_SCRATCH = "^pgvigil_(verify|rehearsal)_[0-9a-f]{12}$"


@dataclass(frozen=True)
class Proved:
    """A result of a restore: a description of what was verified; the findings of the copy's integrity report, which are faults of
    the database itself; and the members of extensions that pg_dump leaves out of the copy.
    """

    verified: str
    findings: list[str]
    left_out: list[str]


def verify(
    conn: psycopg.Connection,
    target: Target,
    archive: Path,
    schema: Path,
    tables: Mapping[str, TableFingerprint],
    large_objects: int,
    log: Reporter,
    *,
    extensions: Mapping[str, Extension],
    written_by: str | None = None,
) -> Proved:
    """Restore an archive into a scratch database, compare it, run its integrity report, and drop it.

    `schema` is an archive of the live schema only, dumped from the same snapshot, or else the archive itself; no
    `tables` means that it holds no rows. `written_by` is the version of its pg_dump, if it may be newer than this
    server. Raise RestoreError, and UnequalError if the copy differs.
    """
    tool = pg_restore(conn, written_by)
    chosen = selection.of_role(conn, tool[0], target, archive)
    with scratch(conn, target, archive, "pgvigil_verify", log, tool, chosen) as there:
        log("comparing")
        compare(there, tool, schema, tables, large_objects, log, chosen)
        left_out = not_in(there, extensions) if tables else []
        findings = integrity(there, log) if tables else []
    rows = (
        f", {counted(len(tables), 'table')} with {counted(sum(t.rows for t in tables.values()), 'row')}"
        if tables
        else ""
    )
    but = f"; without what pg_dump leaves out: {', '.join(left_out)}" if left_out else ""
    if chosen.left_out:
        but += f"; without what {_cannot_restore(chosen)}"
    return Proved(f"restored: schema{rows} equal{but}", findings, left_out)


@contextmanager
def scratch(
    conn: psycopg.Connection,
    target: Target,
    archive: Path,
    prefix: str,
    log: Reporter,
    tool: Tool,
    chosen: Selection,
) -> Iterator[Target]:
    """Yield a copy made from an archive, beside the database of `conn` and with its locale; drop it when the block ends."""
    name = f"{prefix}_{secrets.token_hex(6)}"
    require_sessions(conn)
    try:
        scratch_databases.drop_leftovers(conn, _SCRATCH, log)
        with new_database(conn, target, conn.info.dbname, name, log):
            log(f'restoring into scratch database "{name}"')
            if chosen.left_out:
                log(f"warning: the copy is made without what {_cannot_restore(chosen)}")
            there = copy_of(conn, target, name)
            load(conn, tool, there, archive, log, chosen=chosen)
            yield there
    except psycopg.Error as error:
        if database.is_lost(error):
            raise database.lost(error, " while a scratch copy was made") from error
        lacks = isinstance(error, psycopg.errors.InsufficientPrivilege)
        raise (PreconditionError if lacks else RestoreError)(
            f"the scratch database failed: {' '.join(str(error).split())}",
            "Use a role that may create databases and that owns the objects in this one, or is a member of their owners; "
            "--verify-backup read needs neither. Nothing was changed.",
        ) from error


def copy_of(conn: psycopg.Connection, target: Target, name: str) -> Target:
    """Return the copy of this name of the database of `conn`, whose event triggers do not fire where that can be had.

    One that logs each login would add rows to the copy before it is compared.
    """
    there = target.at(name)
    return _with_option(conn, there, "event_triggers=off") if conn.info.server_version >= 170000 else there


def _with_option(conn: psycopg.Connection, there: Target, option: str) -> Target:
    """Return the target with an option that only a superuser may set, and that a pooler might refuse; without where that is so."""
    row = conn.execute(
        "SELECT r.rolsuper AND pg_backend_pid() = %s FROM pg_roles r WHERE r.rolname = session_user",
        (conn.info.backend_pid,),
    ).fetchone()
    if row != (True,):
        return there
    given = there.parameters.get("options", os.environ.get("PGOPTIONS", ""))
    return Target({**there.parameters, "options": f"{given} -c {option}".strip()}, there.source)


def _cannot_restore(chosen: Selection) -> str:
    return f'role "{chosen.role}" cannot restore: {", ".join(chosen.left_out)}'


@contextmanager
def rehearsal_copy(conn: psycopg.Connection, target: Target, archive: Path, log: Reporter) -> Iterator[Target]:
    """Yield a copy for a rehearsal. Raises BackupError, not RestoreError: nothing is being replaced by the backup."""
    try:
        tool = pg_restore(conn, None)
        chosen = selection.of_role(conn, tool[0], target, archive)
        with scratch(conn, target, archive, "pgvigil_rehearsal", log, tool, chosen) as there:
            yield target.at(there.parameters["dbname"])  # a migration meets event triggers
    except RestoreError as error:
        raise BackupError(error.message, error.hint or "Nothing was changed.") from error


def require_right_to_rehearse(conn: psycopg.Connection) -> None:
    """Raise PreconditionError, before the backup, if this role may not make the copy that a rehearsal needs."""
    scratch_databases.require_right(conn, "a rehearsal", "leave --rehearse out")


def require_sessions(conn: psycopg.Connection) -> None:
    """Raise ConnectError if a pooler gives one session: in a restored database pg_dump prints what a connection compares."""
    database.require_more_sessions(conn, 1, "the restore of a backup")


def drop_restores(conn: psycopg.Connection, beginning: str, log: Reporter) -> None:
    """Drop half-restored databases whose names begin with `beginning`, which killed restores have left."""
    scratch_databases.drop_leftovers(conn, f"^{re.escape(beginning)}\\d{{8}}T\\d{{6}}(_[0-9a-f]{{8}})?$", log)


@contextmanager
def new_database(
    admin: psycopg.Connection, target: Target, like: str, name: str, log: Reporter, *, to_keep: bool = False
) -> Iterator[None]:
    """Create an empty database with encoding, locale and tablespace of `like`, open only to the role that creates it.

    At the end it is dropped, unless it was swapped in. It uses the default tablespace if the role may not create objects in
    that of `like`; with `to_keep`, that is an error instead.
    """
    row = admin.execute(
        """SELECT pg_get_userbyid(d.datdba)::text, has_tablespace_privilege(t.oid, 'CREATE'),
                  CASE WHEN d.dattablespace <> (SELECT dattablespace FROM pg_database WHERE datname = 'template0') THEN t.spcname::text END
           FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = %s""",
        (like,),
    ).fetchone()
    assert row is not None  # noqa: S101 - a connection to it is or was open
    owner, tablespace_open, tablespace = row
    if tablespace and not tablespace_open:
        if to_keep:
            raise RestoreError(
                f'"{like}" is in tablespace "{tablespace}", in which role "{admin.info.user}" may not create anything',
                f"Run as a superuser: {_grant_tablespace(admin, tablespace)}; Nothing was changed.",
            )
        tablespace = None
    options = scratch_databases.locale_of(admin, like)
    if tablespace:  # the clause alone needs a right on the tablespace, even on the default one
        options.append(("TABLESPACE", sql.Identifier(tablespace)))
    made = scratch_databases.make(admin, name, owner=owner, options=options)
    try:
        yield
    finally:
        scratch_databases.drop(target.at(admin.info.dbname), made, log)


def _grant_tablespace(conn: psycopg.Connection, tablespace: str) -> str:
    statement = sql.SQL("GRANT CREATE ON TABLESPACE {} TO {}")
    return statement.format(sql.Identifier(tablespace), sql.Identifier(conn.info.user)).as_string(conn)


def load(
    admin: psycopg.Connection, tool: Tool, there: Target, archive: Path, log: Reporter, *options: str,
    chosen: Selection | None = None,
) -> None:  # fmt: skip
    """Run pg_restore into an empty database; its first error ends it. Raise BackupError with pg_restore's message."""
    name = there.parameters["dbname"]

    def tick() -> None:
        row = admin.execute("SELECT pg_database_size(%s::name)", (name,)).fetchone()
        log.progress(f"{row[0] / 1e6:.0f} MB restored" if row else "")

    def restore(*more: str, there: Target = there) -> None:
        # pg_restore 17 and newer sets a parameter that older servers do not have: only that one error is ignored.
        foreign = int(version.split(".")[0]) >= 17 and admin.info.server_version < 170000
        try:
            pg_tools.run(
                [*arguments, *more, *([] if foreign else ["--exit-on-error"]), str(archive)], there, what,
                tick=tick, forgiven=_is_transaction_timeout if foreign else None,
            )  # fmt: skip
        except BackupError as error:
            if option := re.search(r'unrecognized parameter "([^"]*)"', error.message):
                raise RestoreError(
                    f'the archive sets "{option[1]}", which PostgreSQL {admin.info.parameter_status("server_version")} does not '
                    "know: it was written by a pg_dump of another minor version than its server",
                    "Restore it on a server of the version that it was taken from, or take a backup with the client programs of "
                    "the server's own version (PGVIGIL_PG_BIN names their directory). Nothing was changed.",
                ) from error
            if chosen and chosen.left_out:
                error.hint = (
                    f"The copy was made without what {_cannot_restore(chosen)}. If the rest needs them, use a superuser; "
                    "--verify-backup read needs no copy. Nothing was changed."
                )
            raise

    pg_restore, version = tool
    what = "the backup cannot be restored"
    arguments = [str(pg_restore), "--no-password", "--no-subscriptions", f"--dbname={there.client_conninfo}", *options]
    closed = False
    if admin.info.server_version < 150000:
        with database.connect(there, "restore") as conn:
            closed = scratch_databases.close_public_schema(conn)
    with (chosen or Selection()).arguments(pg_restore, there, archive, refreshes=True) as more:
        restore(*more)
    if closed:  # by then there are event triggers, which log a GRANT too
        quiet = _with_option(admin, there, "session_replication_role=replica")
        _open_public_schema(tool, quiet, archive, partial(restore, there=quiet))


def _open_public_schema(tool: Tool, there: Target, archive: Path, restore: Callable[..., None]) -> None:
    """Grant PUBLIC the rights that the archive presumes on 14, and apply the archive's changes to them once more."""
    with database.connect(there, "restore") as conn:
        if conn.execute("SELECT to_regnamespace('public') IS NULL").fetchone() == (True,):
            return
        conn.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    listed = pg_tools.run([str(tool[0]), "--list", str(archive)], there, "the backup cannot be read")
    rights = [line for line in listed.splitlines() if re.match(r"\d+; \d+ \d+ ACL - SCHEMA public ", line)]
    if rights:
        with tempfile.NamedTemporaryFile("w", suffix=".list") as only:
            only.write("\n".join(rights) + "\n")
            only.flush()
            restore(f"--use-list={only.name}")


def pg_restore(conn: psycopg.Connection, written_by: str | None) -> Tool:
    """Return a pg_restore that can serve this server, and read the output of a newer pg_dump."""
    writer = manifest.major(written_by) or 0
    pg_dump, version = pg_tools.find_tool("pg_dump", max(conn.info.server_version // 10000, writer))
    return pg_dump.with_name("pg_restore"), version


def _is_transaction_timeout(words: str, status: int | None) -> bool:
    """Return true if pg_restore's only error is that this server has no transaction_timeout."""
    rest, found = re.subn(
        r"(pg_restore: while INITIALIZING:\n)?pg_restore: error: [^\n]*transaction_timeout[^\n]*\n"
        r"Command was: SET transaction_timeout = 0;\n",
        "", words, count=1,
    )  # fmt: skip
    if status is None:
        return "Command was" not in rest  # the message may be incomplete
    return status == 1 and found == 1 and "pg_restore: error" not in rest and "errors ignored on restore: 1" in rest


# ── Comparing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def compare(
    there: Target, tool: Tool, schema: Path, tables: Mapping[str, TableFingerprint], large_objects: int, log: Reporter,
    chosen: Selection | None = None,
) -> None:  # fmt: skip
    """Compare a restored database with what it should hold. Raise UnequalError."""
    with database.connect(there, "compare") as conn:
        fingerprint.pin(conn)
        found = fingerprint.contents(conn)
        objects = fingerprint.large_objects(conn)
        faults = [f"table {name} is missing" for name in tables.keys() - found.keys()] if tables else []
        for name, now in found.items():
            then = tables.get(name)
            if then is None:
                faults += [f"table {name} was not expected"] if tables else []
            elif now.rows != then.rows:
                faults.append(f"{name} has {counted(now.rows, 'row')} instead of {then.rows:,}")
            elif now != then:
                faults.append(f"{name} has rows with different content")
        if objects != large_objects:
            faults.append(f"{objects} large objects instead of {large_objects}")
        if faults:
            raise UnequalError("; ".join(sorted(faults)))
        _compare_schema(conn, tool, there, schema, log, chosen or Selection())


def not_in(there: Target, extensions: Mapping[str, Extension]) -> list[str]:
    """Return the members of extensions that are missing in a copy, described."""
    with database.connect(there, "compare") as conn:
        fingerprint.pin(conn)
        return fingerprint.left_out(extensions, fingerprint.extensions(conn)) if extensions else []


def may_be_left_out(extensions: Mapping[str, Extension]) -> list[str]:
    """Return, from the original alone, the rows of extensions' tables that CREATE EXTENSION may or may not recreate."""
    return [
        f"table {name} ({counted(table.rows, 'row')}), a member of extension {extension}, unless CREATE EXTENSION recreates it"
        for name, (extension, table) in fingerprint.extension_rows(extensions).items()
    ]


def _compare_schema(
    conn: psycopg.Connection, tool: Tool, there: Target, schema: Path, log: Reporter, chosen: Selection
) -> None:
    with chosen.arguments(tool[0], there, schema) as only:
        expected = _bare(_printed(tool[0], there, schema, *only))
    # The text of the archive is compared with text of the same encoding, whatever PGCLIENTENCODING or a role asks for.
    written = [match[1] for line in expected if (match := re.fullmatch(r"SET client_encoding = '(\w+)';", line))]
    options = [*chosen.options, *(f"--encoding={encoding}" for encoding in written[:1])]
    found = _schema(tool, there, *options)
    if expected == found:
        return
    # Some expressions are printed differently once they have been dumped and restored, and then stay so: the expected schema must
    # pass through a dump and a restore too before it is compared.
    name = f"pgvigil_verify_{secrets.token_hex(6)}"
    with new_database(conn, there, conn.info.dbname, name, log):
        load(conn, tool, there.at(name), schema, Reporter(), "--schema-only", chosen=chosen)
        if conn.execute("SELECT to_regnamespace('public') IS NULL").fetchone() == (True,):
            with database.connect(there.at(name), "compare") as other:
                other.execute("DROP SCHEMA IF EXISTS public")  # template0's
        expected = _schema(tool, there.at(name), *options)
    if expected != found:
        raise UnequalError(f"the schema differs: {first_difference(expected, found)}")


def definitions(pg_restore: Path, target: Target, archive: Path) -> list[str]:
    """Return the schema in an archive as pg_dump wrote it, without pg_restore's own settings.

    pg_restore counts the contents of materialized views as schema: they are left out too.
    """
    return [line for line in _bare(_printed(pg_restore, target, archive)) if not _NO_DEFINITION.match(line)]


_NO_DEFINITION = re.compile(
    "SET |SELECT pg_catalog.set_config|REFRESH MATERIALIZED VIEW |-- Name: .*; Type: MATERIALIZED VIEW DATA; "
)


def digest(lines: list[str]) -> str:
    """Return a digest of definitions, for the manifest."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def require_definitions(tool: Tool, target: Target, archive: Path, expected: str, written_by: str | None) -> None:
    """Raise UnequalError if the definitions in an archive do not match the digest in its manifest.

    Another major version of pg_restore prints some of them differently: then they are not compared.
    """
    if not expected or not written_by or tool[1].split(".")[0] != written_by.split(".")[0]:
        return
    if digest(definitions(tool[0], target, archive)) != expected:
        raise UnequalError(
            "the schema in the archive differs from the schema that the database had when the backup was taken"
        )


def _printed(pg_restore: Path, target: Target, archive: Path, *options: str) -> str:
    arguments = [str(pg_restore), "--schema-only", "--no-subscriptions", "--file=-", *options, str(archive)]
    return pg_tools.run(arguments, target, "the schema cannot be compared")


def _schema(tool: Tool, there: Target, *options: str) -> list[str]:
    arguments = [
        str(tool[0].with_name("pg_dump")),
        "--no-password",
        "--schema-only",
        "--no-subscriptions",
        *options,
        f"--dbname={there.client_conninfo}",
    ]
    return _bare(pg_tools.run(arguments, there, "the schema cannot be compared"))


def _bare(dump: str) -> list[str]:
    """Return a dump without its header, the lines with a random key, and the options of columns that a server writes for itself.

    The server's own pg_dump hides these options, one of another minor version prints them, and each copy has another value.
    """
    lines = [
        line
        for line in dump.splitlines()
        if line and not re.match(r"\\(un)?restrict |-- Dumped |-- Started |--$", line)
    ]
    return [bare for line in lines if (bare := _without_foreign_options(line))]


_COLUMN_OPTIONS = re.compile(
    r"(ALTER (?:TABLE|MATERIALIZED VIEW|FOREIGN TABLE|INDEX) (?:ONLY )?.* ALTER COLUMN .* SET )\((.*)\);"
)
_KNOWN_OPTION = re.compile(r"\s*(?:n_distinct|n_distinct_inherited)=")


def _without_foreign_options(line: str) -> str:
    found = _COLUMN_OPTIONS.fullmatch(line)
    if not found or " OPTIONS " in found[1]:
        return line
    known = [option.strip() for option in found[2].split(", ") if _KNOWN_OPTION.match(option)]
    return f"{found[1]}({', '.join(known)});" if known else ""


def first_difference(expected: list[str], found: list[str]) -> str:
    """Return the first difference, for a message."""
    for one, other in zip([*expected, "nothing"], [*found, "nothing"], strict=False):
        if one != other:
            return f"{other.strip()} instead of {one.strip()}"
    return "its length"


# The checks of the database's contents, not of its server and its jobs.
_SOUNDNESS = [
    "foreign_keys_enabled", "orphaned_messages", "count_mismatches", "token_mismatches", "size_mismatches",
    "database_integrity", "invalid_indexes", "disabled_triggers",
]  # fmt: skip


def integrity(there: Target, log: Reporter) -> list[str]:
    """Return the warnings of a deep pgvigil.integrity_report, if the database has that function."""
    with database.connect(there, "compare") as conn:
        fingerprint.pin(conn)
        conn.execute("SET client_min_messages = warning")  # a deep report sends its progress as notices
        found = conn.execute("SELECT to_regprocedure('pgvigil.integrity_report(boolean)')").fetchone()
        if found == (None,):
            return []
        log("running the integrity report of the copy")
        try:
            rows = conn.execute(
                """SELECT pg_catalog.concat_ws(': ', pg_catalog.format('%%s %%s %%s', level, check_name, value), detail)
                   FROM pgvigil.integrity_report(true) WHERE level <> 'ok' AND check_name = ANY (%s)""",
                (_SOUNDNESS,),
            ).fetchall()
            findings = [str(finding) for (finding,) in rows]
        except psycopg.Error as error:  # a verified copy stays verified
            findings = [f"the integrity report failed: {' '.join(str(error).split())}"]
    for finding in findings:
        log(f"warning: the database in the backup has a fault: {finding}")
    return findings
