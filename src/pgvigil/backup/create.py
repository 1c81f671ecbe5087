"""Make verified backups: dumped in full, read back in full, hashed and described, before anything is changed.

    create(conn, target, directory, revision, log, *, kind="full", proof="read", command=None) -> Backup
    take(…)                                   the same, and logs only progress
    require_space(conn, directory, kind)      refuses before the first byte is written

Kinds (`--backup`): "full"; "schema" (no rows); "command" (`--backup-command`, another tool); "none" means that `take`
is not called. Proofs (`--verify-backup`): "read" decodes the whole archive; "restore" restores it into a scratch
database and compares the schema and, for every table, the number of rows and a digest over all columns; then it runs
the copy's integrity report.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, LiteralString, TypeAlias, TypedDict, Unpack
from urllib.parse import quote

import psycopg
from psycopg import pq

from pgvigil import __version__, database, scratch_databases
from pgvigil.backup import fingerprint, manifest, owner_code, pg_tools, scratch_restore
from pgvigil.backup.fingerprint import Extension, TableFingerprint
from pgvigil.backup.manifest import Backup, Kind
from pgvigil.database import SECRETS, Hidden, Target
from pgvigil.errors import BackupError, PreconditionError, RestoreError
from pgvigil.progress import Reporter

Proof = Literal["read", "restore"]
_Held: TypeAlias = "tuple[dict[str, TableFingerprint], dict[str, Extension]]"


class Options(TypedDict, total=False):
    """The keyword arguments of create() and take(), which has their defaults."""

    kind: Kind
    proof: Proof
    command: str | None
    run_owner_code: bool


KINDS = ("full", "schema", "none", "command")
PROOFS = ("read", "restore")

# An archive holds no indexes and is compressed: for the test data (text, JSON, UUIDs) it is 11 % of the database's size.
# With less room than a twentieth an attempt is useless; with more it is made, and a disk that fills up nevertheless is
# an error that leaves nothing behind.
_SMALLEST_SHARE = {"full": 0.05, "schema": 0.0, "command": 0.0}
_SMALLEST_ROOM = 16_000_000  # the catalog itself, and the manifest


def default_directory() -> Path:
    """Return the default directory of backups: PGVIGIL_BACKUP_DIR, else the user's state directory. Never the current directory."""
    given = os.environ.get("PGVIGIL_BACKUP_DIR")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(given) if given else Path(state) / "pgvigil" / "backups"


def origin(conn: psycopg.Connection) -> tuple[str, str]:
    """Return the server's identifier and the database's name, as in Backup.origin."""
    return str(_one(conn, "SELECT system_identifier FROM pg_control_system()")), conn.info.dbname


def require_space(conn: psycopg.Connection, directory: Path, kind: Kind) -> None:
    """Raise BackupError if a directory cannot hold the archive even at the best compression."""
    place = directory.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    size = _one(conn, "SELECT pg_database_size(current_database())")
    need, free = int(size * _SMALLEST_SHARE[kind]) + _SMALLEST_ROOM, shutil.disk_usage(place).free
    if kind != "command" and free < need:
        raise BackupError(
            f"{directory} has {free / 1e6:.0f} MB free; the backup of a database of {size / 1e6:.0f} MB needs "
            f"{need / 1e6:.0f} MB at least",
            pg_tools.ELSEWHERE,
        )


# ── Taking one ────────────────────────────────────────────────────────────────────────────────────────────────────────


def create(
    conn: psycopg.Connection,
    target: Target,
    directory: Path | None,
    revision: str | None,
    log: Reporter,
    **options: Unpack[Options],
) -> Backup:
    """Make a backup, log where it is and how it was verified, and add its manifest to the run's document."""
    directory = directory or default_directory()
    log(f"backing up to {directory}")
    made = take(conn, target, directory, revision, log.indented(), **options)
    what = f"{made.archive} ({made.size / 1e6:.1f} MB, sha256 {made.sha256[:16]}…)" if made.archive else made.manifest
    log(f"  verified: {what}; {made.verified}")
    if made.left_out:
        log(f"warning: the backup does not contain what pg_dump leaves out: {'; '.join(made.left_out)}")
    log.document["backup"] = asdict(made)
    return made


def take(
    conn: psycopg.Connection,
    target: Target,
    directory: Path,
    revision: str | None,
    log: Reporter,
    *,
    kind: Kind = "full",
    proof: Proof = "read",
    command: str | None = None,
    run_owner_code: bool = False,
) -> Backup:
    """Make the backup in `directory` (mode 0600), verify it, and write its manifest beside it.

    Raise BackupError, and then leave neither archive nor manifest nor scratch database behind. Raise PreconditionError
    if the verification would run other roles' code as a superuser and `run_owner_code` does not allow it.
    """
    if proof == "restore" and kind != "command":
        scratch_databases.require_right(conn, "--verify-backup restore", "verify it with --verify-backup read")
        owner_code.require_consent_for(
            conn, run_owner_code, otherwise="verify it with --verify-backup read, which runs none of that code"
        )
    if kind != "command":
        owner_code.require_plain_reading(conn, run_owner_code)
    require_sessions(conn, kind)
    began = datetime.now(UTC)
    clock = time.monotonic()
    name = re.sub(r"[^\w.-]", "_", conn.info.dbname)
    ending = "" if kind == "full" else f"-{kind}"
    archive = directory.absolute() / f"{name}-{began:%Y%m%dT%H%M%S.%fZ}-at-{revision or 'base'}{ending}.dump"
    part, beside = archive.with_suffix(".part"), archive.with_suffix(".json")
    with ExitStack() as made:
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            manifest.require_our_directory(directory)
            made.enter_context(manifest.making(part))
        except OSError as error:
            raise pg_tools.unusable(directory, error, "no backup can be written to") from error
        except RestoreError as error:
            raise BackupError(error.message, error.hint) from error
        made.callback(part.unlink, missing_ok=True)
        try:
            require_space(conn, directory, kind)
            facts = _command(conn, target, directory, revision, log, command) if kind == "command" else None
            if facts is None:
                guard = owner_code.plain_reading(conn, run_owner_code)
                facts = _dump(conn, target, part, log, kind, proof, guard)
                with part.open("rb") as file:
                    facts["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
                    os.fsync(file.fileno())
                facts |= {"archive": str(archive), "size": part.stat().st_size}
            backup = Backup(
                **facts,  # type: ignore[arg-type]
                kind=kind,
                manifest=str(beside),
                database=conn.info.dbname,
                system_identifier=origin(conn)[0],
                server_version=conn.info.parameter_status("server_version") or "",
                pgvigil_version=__version__,
                revision=revision,
                began_at=began.isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - clock, 2),
                verified_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            try:
                manifest.write(backup)
                if backup.archive:
                    part.rename(archive)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise BackupError(f"the backup in {directory} failed: {error.strerror}", pg_tools.ELSEWHERE) from error
        except psycopg.Error as error:
            if database.is_lost(error):
                raise database.lost(error, " during the backup") from error
            hint = "Nothing was changed."
            if isinstance(error, psycopg.errors.InsufficientPrivilege):
                hint = f"Use a role that may read every table: their owner, or one with pg_read_all_data. {hint}"
            raise BackupError(f"the backup failed: {' '.join(str(error).split())}", hint) from error
    return backup


def require_sessions(conn: psycopg.Connection, kind: Kind) -> None:
    """Raise ConnectError if a pooler gives too few sessions for the snapshot of a backup, and for pg_dump or another program."""
    database.require_more_sessions(conn, 1 if kind == "command" else 2, "a backup")


def _dump(
    conn: psycopg.Connection,
    target: Target,
    part: Path,
    log: Reporter,
    kind: Kind,
    proof: Proof,
    guard: fingerprint.Guard | None,
) -> dict[str, object]:
    pg_dump, version = pg_tools.find_tool("pg_dump", conn.info.server_version // 10000)
    pg_restore = pg_dump.with_name("pg_restore")
    if not pg_restore.is_file():
        raise BackupError(
            f"there is no pg_restore beside {pg_dump}, so the backup cannot be read back", pg_tools.INSTALL
        )
    schema = part.with_suffix(".schema.part")
    what = f"pg_dump could not back up the database to {part.parent}"
    connection = ["--no-password", f"--dbname={target.client_conninfo}", "--format=custom", pg_tools.encoding(conn)]
    try:
        with _snapshot(target, with_rows=kind == "full") as (reader, facts), _aside(conn, reader) as aside:
            connection.append(f"--snapshot={facts.pop('exported')}")
            # Read before the counting begins, because a failure of the counting aborts the transaction of the reader.
            if _one(reader, "SELECT current_setting('row_security')") == "on":  # if policies show every row
                connection.append("--enable-row-security")
            counting = (
                aside(lambda: (fingerprint.contents(reader, guard), fingerprint.extensions(reader, guard)))
                if kind == "full"
                else None
            )

            def tick() -> None:
                log.progress(f"{part.stat().st_size / 1e6:.1f} MB written")
                if counting and counting.done():
                    counting.result()  # an error of the counting raises here, so that pg_dump does not go on writing

            only = ["--schema-only"] if kind == "schema" else []
            try:
                pg_tools.run([str(pg_dump), *connection, *only, f"--file={part}"], target, what, tick=tick)
            except BackupError:
                if counting and counting.done():
                    counting.result()  # its failure ends the snapshot, and is then the reason
                raise
            schema.touch(mode=0o600)
            pg_tools.run([str(pg_dump), *connection, "--schema-only", f"--file={schema}"], target, what)
            if counting and not counting.done():
                log("counting the rows of all tables")
            tables, extensions = counting.result() if counting else ({}, {})
        log(f"{part.stat().st_size / 1e6:.1f} MB written, reading it back")
        # A listing would accept a truncated archive; only decoding every block proves it complete.
        pg_tools.run([str(pg_restore), f"--file={os.devnull}", str(part)], target, "the backup cannot be read back")
        expected = scratch_restore.definitions(pg_restore, target, schema)
        left_out = scratch_restore.may_be_left_out(extensions)
        but = f"; without what pg_dump leaves out: {', '.join(left_out)}" if left_out else ""
        facts |= {
            "verified": f"read: every block decoded{but}", "findings": [], "schema_digest": scratch_restore.digest(expected),
            "extensions": extensions, "left_out": left_out,
        }  # fmt: skip
        if proof == "read" and (found := scratch_restore.definitions(pg_restore, target, part)) != expected:
            raise BackupError(
                f"the backup does not match the database: its schema differs: {scratch_restore.first_difference(expected, found)}",
                "Nothing was changed.",
            )
        if proof == "restore":
            objects = int(str(facts["large_objects"])) if kind == "full" else 0
            try:
                proved = scratch_restore.verify(conn, target, part, schema, tables, objects, log, extensions=extensions)
            except RestoreError as error:
                raise BackupError(
                    f"the backup does not match the database: {error.message}", error.hint or "Nothing was changed."
                ) from error
            facts |= {"verified": proved.verified, "findings": proved.findings, "left_out": proved.left_out}
        return {**facts, "tables": tables, "proof": proof, "pg_dump_version": version}
    finally:
        schema.unlink(missing_ok=True)


def _command(
    conn: psycopg.Connection, target: Target, directory: Path, revision: str | None, log: Reporter, command: str | None
) -> dict[str, object]:
    """Run another tool's backup: only its exit status is known, and the manifest says so."""
    if not command:
        raise BackupError("no backup command is given", "Add --backup-command. Nothing was changed.")
    with _snapshot(target) as (_, facts):
        del facts["exported"]
    keywords = {o.keyword.decode(): o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
    environment_password = os.environ.get("PGPASSWORD", "")
    secrets = {environment_password, *(target.parameters.get(name, "") for name in SECRETS)} - {""}
    secrets |= {quote(secret, safe="") for secret in secrets}
    environment = {
        **target.client_environment,
        **{keywords[k]: v for k, v in target.parameters.items() if k in keywords},
        "PGDATABASE": conn.info.dbname,
        "PGVIGIL_DATABASE": conn.info.dbname,
        "PGVIGIL_BACKUP_DIR": str(directory.absolute()),
        "PGVIGIL_REVISION": revision or "base",
    }
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    ) as process:
        try:
            for line in process.stdout or ():
                for secret in secrets:
                    line = line.replace(secret, "***")
                log(line.rstrip())
            status = process.wait()
        except BaseException:
            process.terminate()
            raise
    if status:
        raise BackupError(f"the backup command ended with status {status}", "Its output is above. Nothing was changed.")
    return {
        **facts, "proof": "exit status", "verified": "command: ended with status 0", "archive": None, "sha256": "",
        "size": 0, "pg_dump_version": None,
    }  # fmt: skip


def _require_all_rows(reader: psycopg.Connection, hidden: list[Hidden]) -> None:
    """Raise PreconditionError if row security may hide rows from the role that reads them."""
    row = reader.execute("SELECT current_user::text").fetchone()
    if hidden := [one for one in hidden if (one.role,) == row]:
        raise PreconditionError(
            f"row security hides rows of {', '.join(one.table for one in hidden)} from this role, so a backup would lack them",
            "Use a role with BYPASSRLS, or let this one see them. Nothing was changed.\n  "
            + "\n  ".join(statement for one in hidden for statement in one.remedies),
        )


@contextmanager
def _snapshot(target: Target, *, with_rows: bool = False) -> Iterator[tuple[psycopg.Connection, dict[str, object]]]:
    """Yield a connection with the snapshot of the dump, so that writers raise no false alarm, and the facts that name that moment."""
    with database.connect(target, "backup") as reader:
        hidden = fingerprint.pin(reader)
        if with_rows:
            _require_all_rows(reader, hidden)
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = reader.execute(
            """SELECT pg_export_snapshot(), pg_current_wal_lsn()::text, pg_current_snapshot()::text,
                      clock_timestamp()::text, to_regnamespace('public') IS NOT NULL, pg_database_size(current_database())"""
        ).fetchone()
        assert row is not None  # noqa: S101 - this is not a query of a table
        names = ("exported", "wal_lsn", "snapshot", "snapshot_at", "public_schema", "database_size")
        yield (
            reader,
            {
                **dict(zip(names, row, strict=True)),
                "large_objects": fingerprint.large_objects(reader),
                "roles": fingerprint.roles(reader),
                "owners": fingerprint.owners(reader),
            },
        )
        if not reader.closed:
            with suppress(psycopg.OperationalError):  # it has read everything it needs
                reader.execute("COMMIT")


@contextmanager
def _aside(
    conn: psycopg.Connection, reader: psycopg.Connection
) -> Iterator[Callable[[Callable[[], _Held]], Future[_Held]]]:
    """Let the reader count while pg_dump writes; an error of either ends the other."""
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit
        except BaseException:
            with suppress(psycopg.Error):
                conn.execute("SELECT pg_terminate_backend(%s)", (reader.info.backend_pid,))
            raise


def _one(conn: psycopg.Connection, query: LiteralString) -> Any:
    row = conn.execute(query).fetchone()
    return row[0] if row else None
