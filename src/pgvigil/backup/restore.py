"""Restore a backup into a new database, compare it, and swap it in.

    restore(target, archive, *, overwrite_newer, log) -> RestoreOutcome     raises RestoreError, LockedError, ConnectError

The live database is renamed and the new one takes its name in one transaction. The swap is never committed by half, so after a
crash at any point there is a database of that name, and it accepts connections.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg import sql

from pgvigil import database, locks, project
from pgvigil.backup import fingerprint, manifest, owner_code, scratch_restore, selection, swap
from pgvigil.backup.manifest import Backup
from pgvigil.database import Target
from pgvigil.errors import BackupError, RestoreError
from pgvigil.progress import Reporter
from pgvigil.text import counted

_TRY_AGAIN = "The database is as it was. Fix this, then run the restore again."


@dataclass(frozen=True)
class RestoreOutcome:
    """A result of a restore. `kept` is the name the replaced database has now; `swap_seconds` how long connections were refused."""

    database: str
    archive: str
    revision: str | None
    kept: str
    tables: int
    rows: int
    swap_seconds: float
    seconds: float
    findings: list[str]


# ── The steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def restore(
    target: Target,
    archive: Path,
    *,
    overwrite_newer: bool,
    log: Reporter,
    run_owner_code: bool = False,
    accept_left_out: bool = False,
    rename: swap.Rename = swap.rename_in_use,
) -> RestoreOutcome:
    """Replace the database of `target` by the backup, and keep it under another name.

    The restore looks for rows written after the backup, first of all and once more before the swap, with the tables locked
    against writing; such rows stop it, unless `overwrite_newer`. So does what pg_dump has left out, unless
    `accept_left_out`; and, for a superuser, code that belongs to other roles, unless `run_owner_code` (PreconditionError).
    """
    archive = Path(os.path.realpath(archive))  # a link is followed only once, and never fails by itself
    with manifest.opened(archive) as backup:
        consent = _Consent(overwrite_newer, run_owner_code, accept_left_out)
        return _restore(target, archive, backup, consent, log, rename)


@dataclass(frozen=True)
class _Consent:
    overwrite_newer: bool
    run_owner_code: bool
    accept_left_out: bool


def _restore(
    target: Target, archive: Path, backup: Backup, consent: _Consent, log: Reporter, rename: swap.Rename
) -> RestoreOutcome:
    clock = time.monotonic()
    if backup.kind != "full":
        raise RestoreError(
            f"{archive} is a backup of kind {backup.kind}, which has no rows", "Use a backup of kind full."
        )
    now = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    try:
        with database.connect(target, "restore") as live, _locked(live):
            name = live.info.dbname
            maintenance = target.at("postgres" if name != "postgres" else "template1")
            new = _free(live, name, f"_pgvigil_restore_{now}")
            fingerprint.pin(live)
            _require(live, name, backup)
            owner_code.require_roles(live, backup.roles)
            owner_code.require_consent(
                live, backup.owners, consent.run_owner_code, system_identifier=backup.system_identifier
            )
            log(f"{archive.name}: intact, taken at {backup.began_at}, revision {backup.revision or 'base'}")
            if backup.database != name:
                log(f'warning: the backup was taken from database "{backup.database}" and is restored into "{name}"')
            guard = owner_code.plain_reading(live, consent.run_owner_code)
            if not consent.overwrite_newer:
                log("looking for rows written after the backup")
                _refuse_newer(live, backup, archive, target, guard)
            scratch_restore.drop_restores(live, _named(name, f"_pgvigil_restore_{now}").removesuffix(now), log)
            with (
                database.connect(maintenance, "restore") as admin,
                scratch_restore.new_database(admin, target, name, new, log, to_keep=True),
            ):
                findings = _fill(admin, scratch_restore.copy_of(admin, target, new), archive, backup, consent, log)
                swap.carry_over(admin, name, new, log)
                log("swapping")
                kept, took = swap.swap(
                    admin, maintenance, live, name, new, _named(name, f"_pre_restore_{now}"),
                    None if consent.overwrite_newer else lambda: _refuse_newer(live, backup, archive, target, guard),
                    rename,
                )  # fmt: skip
    except RestoreError as error:
        error.hint = error.hint or _TRY_AGAIN
        raise
    except BackupError as error:  # a client program is missing or failed
        raise RestoreError(error.message, _TRY_AGAIN) from error
    except psycopg.Error as error:
        if database.is_lost(error):
            raise database.lost(error, " during the restore; the database is as it was") from error
        raise RestoreError(f"the restore failed: {' '.join(str(error).split())}", _TRY_AGAIN) from error
    seconds = time.monotonic() - clock
    return RestoreOutcome(
        name, str(archive), backup.revision, kept, len(backup.tables), backup.rows, took, seconds, findings
    )


@contextmanager
def _locked(live: psycopg.Connection) -> Iterator[None]:
    scratch_restore.require_sessions(live)
    with locks.run_lock(live, swap.LOCK_WAIT):
        yield


# ── Before ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _require(live: psycopg.Connection, name: str, backup: Backup) -> None:
    """Raise RestoreError for anything that would stop the swap, before the long part begins."""
    row = live.execute(
        """SELECT rolsuper OR rolcreatedb AND pg_has_role(d.datdba, 'USAGE') AND pg_has_role('pg_signal_backend', 'USAGE'),
                  d.datistemplate, (SELECT count(*) FROM pg_prepared_xacts WHERE database = d.datname),
                  (SELECT count(*) FROM pg_subscription WHERE subdbid = d.oid),
                  CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE') THEN current_setting('data_directory') END,
                  d.dattablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'pg_default'), pg_is_in_recovery()
           FROM pg_roles, pg_database d WHERE rolname = current_user AND d.datname = current_database()"""
    ).fetchone()
    assert row is not None  # noqa: S101 - this connection is to it
    may, template, prepared, subscriptions, data_directory, default_tablespace, standby = row
    if not may:
        raise RestoreError(
            f'role "{live.info.user}" may not replace database "{name}"',
            "Use a role that owns the database, has CREATEDB and is a member of pg_signal_backend; or use a superuser.",
        )
    for fault, what in ((standby, "the server is a standby"), (template, f'"{name}" is a template'),
                        (prepared, f'"{name}" has {prepared} prepared transactions (pg_prepared_xacts)'),
                        (subscriptions, f'"{name}" has {counted(subscriptions, "subscription")}')):  # fmt: skip
        if fault:
            raise RestoreError(f"{what}: it cannot be swapped", "Fix this first. Nothing was changed.")
    # The server's disk is visible only on its own machine; a connection by socket shows that this is the machine.
    if default_tablespace and data_directory and live.info.host.startswith("/"):
        free = backup.database_size
        with suppress(OSError):  # a container's socket, or an unreadable directory
            free = shutil.disk_usage(data_directory).free
        if free < backup.database_size:
            raise RestoreError(
                f"{data_directory} has {free / 1e6:.0f} MB free; the restored database may need as much as the "
                f"{backup.database_size / 1e6:.0f} MB it had",
                "Make room first. Nothing was changed.",
            )


def _refuse_newer(
    live: psycopg.Connection, backup: Backup, archive: Path, target: Target, guard: fingerprint.Guard | None
) -> None:
    newer = _newer(live, backup, guard)
    if newer:
        again = project.command("restore", str(archive.absolute()), "--overwrite-newer", option=target.option)
        raise RestoreError(
            "the database has rows that the backup does not have: " + "; ".join(newer),
            "The database would be kept under another name, but its application would continue without these rows. If that is "
            f"intended, run: {again}",
        )


def _newer(live: psycopg.Connection, backup: Backup, guard: fingerprint.Guard | None) -> list[str]:
    """Return the tables that have rows which are not in the backup.

    Compared are the number of rows and the digest over the columns that the backup has, so that a later migration makes no
    difference; log positions would count every vacuum. Ignored are pgvigil's own schema, and the markers of migrations.
    """
    found = []
    there = fingerprint.tables(live)
    for name, (partitioned, columns) in there.items():
        if name.startswith("pgvigil."):
            continue
        markers = None
        if {"metric_name", "recorded_at"} <= set(columns):
            markers = sql.SQL(
                "metric_name IN ('migration_completed', 'schema_initialized') AND recorded_at >= {}::timestamptz"
            ).format(backup.snapshot_at)
        then = backup.tables.get(name)
        if then is None:
            now = fingerprint.measure(live, name, partitioned, [], markers, guard=guard)
            if now.rows:
                found.append(f"{name} has {counted(now.rows, 'row')} and was created after the backup")
            continue
        shared = [c for c in then.columns if c in columns]
        now = fingerprint.measure(live, name, partitioned, shared, markers, guard=guard)
        if now.rows and now != then:
            found.append(
                f"{name} has {counted(now.rows, 'row')} that differ{'s' * (now.rows == 1)} from the {then.rows:,} in the backup"
            )
    return found


# ── The new database ──────────────────────────────────────────────────────────────────────────────────────────────────


def _fill(
    admin: psycopg.Connection, new: Target, archive: Path, backup: Backup, consent: _Consent, log: Reporter
) -> list[str]:
    """Fill the new database. Return the findings of its integrity report."""
    tool = scratch_restore.pg_restore(admin, backup.pg_dump_version)
    scratch_restore.require_definitions(tool, new, archive, backup.schema_digest, backup.pg_dump_version)
    if beyond := selection.of_role(admin, tool[0], new, archive).left_out:
        raise RestoreError(
            f'role "{admin.info.user}" cannot restore what a superuser made: {", ".join(beyond)}',
            "Use a superuser. The database is as it was.",
        )
    log(f'restoring into "{new.parameters["dbname"]}"')
    scratch_restore.load(admin, tool, new, archive, log.indented())
    with database.connect(new, "restore") as conn:
        if not backup.public_schema:  # template0 has one
            conn.execute("DROP SCHEMA IF EXISTS public")
    log("comparing the copy with the manifest")
    scratch_restore.compare(new, tool, archive, backup.tables, backup.large_objects, log)
    if left_out := scratch_restore.not_in(new, backup.extensions):
        _refuse_left_out(left_out, consent.accept_left_out, log)
    with database.connect(new, "restore") as conn:
        conn.execute("ANALYZE")  # otherwise the first queries would be planned without statistics
    return scratch_restore.integrity(new, log)


def _refuse_left_out(left_out: list[str], accepted: bool, log: Reporter) -> None:
    words = f"pg_dump left objects out of the archive, so the restored database lacks them: {'; '.join(left_out)}"
    if not accepted:
        raise RestoreError(
            words,
            "Add --accept-left-out, and copy them by hand afterwards from the replaced database, which is kept. Or "
            "release them (ALTER EXTENSION … DROP TABLE …) and take another backup. The database is as it was.",
        )
    log(f"warning: {words}")


def _free(conn: psycopg.Connection, database_name: str, ending: str) -> str:
    """Return a name that no database has: the predictable one may be taken."""
    name = _named(database_name, ending)
    while conn.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone() is not None:
        name = _named(database_name, f"{ending}_{secrets.token_hex(4)}")
    return name


def _named(database_name: str, ending: str) -> str:
    """Return a name of at most 63 bytes, cut at its beginning."""
    return database_name.encode()[: 63 - len(ending)].decode(errors="ignore") + ending
