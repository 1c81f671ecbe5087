"""A copy of a database, made from an archive of it, and held against what it should be.

scratch(conn, target, archive, prefix, tell)                       for as long as the block lasts
prove(conn, target, archive, schema, tables, large_objects, tell) -> Proved
new_database, load, compare, integrity                             the steps of both, and of restore
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgvigil import database
from pgvigil.build import contents, tools
from pgvigil.build.contents import Table
from pgvigil.build.journal import Journal
from pgvigil.database import Target
from pgvigil.errors import RestoreError, UnequalError

Tool = tuple[Path, str]  # pg_restore, with pg_dump beside it, and its version

_SCRATCH = "^pgvigil_(verify|rehearsal)_[0-9a-f]{12}$"
# Who makes a database holds an advisory lock for it, which all of the server can see: "pgvs" in ASCII, and a hash of its name.
_MAKING = int.from_bytes(b"pgvs", "big")


@dataclass(frozen=True)
class Proved:
    """What a restore has shown, in words; and what the integrity report of the copy tells, which is the database's own fault."""

    verified: str
    findings: list[str]


def prove(
    conn: psycopg.Connection,
    target: Target,
    archive: Path,
    schema: Path,
    tables: Mapping[str, Table],
    large_objects: int,
    tell: Journal,
    *,
    written_by: str | None = None,
) -> Proved:
    """Restores an archive into a scratch database, which is dropped again, compares, and asks it for its integrity report.

    `schema` is an archive of the live schema alone, dumped from the same snapshot, or else the archive itself; no `tables`
    means that it holds no rows. `written_by` is the version of its pg_dump, if it may be newer than this server.
    Raises RestoreError, and UnequalError when it does not equal what it should.
    """
    with scratch(conn, target, archive, "pgvigil_verify", tell, written_by=written_by) as there:
        tell("comparing")
        compare(there, pg_restore(conn, written_by), schema, tables, large_objects)
        findings = integrity(there, tell) if tables else []
    rows = f", {len(tables)} tables with {sum(t.rows for t in tables.values())} rows" if tables else ""
    return Proved(f"restored: schema{rows} equal", findings)


@contextmanager
def scratch(
    conn: psycopg.Connection,
    target: Target,
    archive: Path,
    prefix: str,
    tell: Journal,
    *,
    written_by: str | None = None,
) -> Iterator[Target]:
    """A copy made from an archive, beside the database of `conn` and made like it; dropped when the block ends."""
    name = f"{prefix}_{secrets.token_hex(6)}"
    try:
        drop_leftovers(conn, _SCRATCH, tell)
        with new_database(conn, target, conn.info.dbname, name):
            tell(f'restoring into scratch database "{name}"')
            load(conn, pg_restore(conn, written_by), target.at(name), archive, tell)
            yield target.at(name)
    except psycopg.Error as error:
        if database.is_lost(error):
            raise database.lost(error, " while a scratch copy was made") from error
        raise RestoreError(
            f"the scratch database failed: {' '.join(str(error).split())}",
            "It takes a role that may create databases and owns, or is a member of the owners of, what is in this one; "
            "--verify-backup read needs neither. Nothing was changed.",
        ) from error


def drop_leftovers(admin: psycopg.Connection, pattern: str, tell: Journal) -> None:
    """Drops the copies that killed runs have left: databases by that pattern which nobody is making, and nobody is in."""
    rows = admin.execute(
        """SELECT datname FROM pg_database d WHERE datname ~ %s AND pg_has_role(datdba, 'USAGE') AND NOT EXISTS (
               SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = %s
                                        AND l.objid::bigint = hashtext(d.datname::text)::bigint & 4294967295)""",
        (pattern, _MAKING),
    ).fetchall()
    for (name,) in rows:
        with suppress(
            psycopg.errors.ObjectInUse, psycopg.errors.InvalidCatalogName, psycopg.errors.InsufficientPrivilege
        ):
            admin.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
            tell(f'dropped database "{name}", which a run that was killed had left')


@contextmanager
def new_database(admin: psycopg.Connection, target: Target, like: str, name: str) -> Iterator[None]:
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
        admin.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (_MAKING, name))
        admin.execute(statement)
        yield
    finally:
        # On a connection of its own: Ctrl-C may have come in the middle of a query on the other.
        with database.connect(target.at(admin.info.dbname), "restore (clean up)") as fresh:
            fresh.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def load(admin: psycopg.Connection, tool: Tool, there: Target, archive: Path, tell: Journal, *options: str) -> None:
    """pg_restore into an empty database; the first error ends it. Raises BackupError with its words."""
    name = there.parameters["dbname"]

    def tick() -> None:
        row = admin.execute("SELECT pg_database_size(%s::name)", (name,)).fetchone()
        tell.progress(f"{row[0] / 1e6:.0f} MB restored" if row else "")

    pg_restore, version = tool
    arguments = [str(pg_restore), "--no-password", "--no-subscriptions", f"--dbname={there.client_conninfo}", *options]
    # pg_restore 17 and newer sets a parameter that older servers do not have: that one error, and no other, is forgiven.
    foreign = int(version.split(".")[0]) >= 17 and admin.info.server_version < 170000
    tools.run(
        [*arguments, *([] if foreign else ["--exit-on-error"]), str(archive)], there, "the backup cannot be restored",
        tick=tick, forgiven=_is_transaction_timeout if foreign else None,
    )  # fmt: skip


def pg_restore(conn: psycopg.Connection, written_by: str | None) -> Tool:
    """One that can serve this server, and read what a newer pg_dump may have written."""
    writer = int((written_by or "0").split(".")[0])
    pg_dump, version = tools.find_tool("pg_dump", max(conn.info.server_version // 10000, writer))
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


def compare(there: Target, tool: Tool, schema: Path, tables: Mapping[str, Table], large_objects: int) -> None:
    """Holds a restored database against what it should hold. Raises UnequalError."""
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
            raise UnequalError("; ".join(sorted(faults)))
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
    with new_database(conn, there, conn.info.dbname, name):
        load(conn, tool, there.at(name), schema, Journal(), "--schema-only")
        wanted = _schema(tool, there.at(name))
    if wanted != found:
        raise UnequalError(f"the schema differs: {_first_difference(wanted, found)}")


def _schema(tool: Tool, there: Target) -> list[str]:
    arguments = [
        str(tool[0].with_name("pg_dump")),
        "--no-password",
        "--schema-only",
        "--no-subscriptions",
        f"--dbname={there.client_conninfo}",
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


# Those that ask what is in the database, not how its server and its jobs are.
_SOUNDNESS = [
    "foreign_keys_enabled", "orphaned_messages", "count_mismatches", "token_mismatches", "size_mismatches",
    "database_integrity", "invalid_indexes", "disabled_triggers",
]  # fmt: skip


def integrity(there: Target, tell: Journal) -> list[str]:
    """The warnings of pgvigil.integrity_report, deep, where the database has one."""
    with database.connect(there, "compare") as conn:
        contents.pin(conn)
        conn.execute("SET client_min_messages = warning")  # a deep report tells its progress in notices
        found = conn.execute("SELECT to_regprocedure('pgvigil.integrity_report(boolean)')").fetchone()
        if found == (None,):
            return []
        tell("asking the copy for its integrity report")
        try:
            rows = conn.execute(
                """SELECT pg_catalog.concat_ws(': ', pg_catalog.format('%%s %%s %%s', level, check_name, value), detail)
                   FROM pgvigil.integrity_report(true) WHERE level <> 'ok' AND check_name = ANY (%s)""",
                (_SOUNDNESS,),
            ).fetchall()
            findings = [str(finding) for (finding,) in rows]
        except psycopg.Error as error:  # a copy that is equal is not worth less for it
            findings = [f"its integrity report failed: {' '.join(str(error).split())}"]
    for finding in findings:
        tell(f"warning: the database in the backup is not sound: {finding}")
    return findings
