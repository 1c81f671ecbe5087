"""Take backups outside migrations, list them, verify them again, and prune them.

The work is done in backup/, which the runner uses too.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from psycopg import errors

from pgvigil import database, scratch_databases
from pgvigil.backup import catalogue, manifest, owner_code, proofs, scratch_restore
from pgvigil.backup import create as backup
from pgvigil.backup.create import Proof
from pgvigil.backup.manifest import Backup
from pgvigil.database import Target
from pgvigil.errors import BackupError, PreconditionError, RestoreError, UnequalError, UsageError
from pgvigil.migration import ledger, preflight
from pgvigil.progress import Reporter
from pgvigil.shipped import require_shipped
from pgvigil.text import one_line, quoted


def create(
    target: Target, directory: Path | None, proof: Proof, log: Reporter, *, run_owner_code: bool = False
) -> Backup:
    """Take a verified full backup. Raise BackupError, and then leave nothing behind."""
    with database.connect(target, "backup") as conn:
        preflight.require_primary(conn)
        revision = ledger.read(conn).revision
        made = backup.create(conn, target, directory, revision, log, proof=proof, run_owner_code=run_owner_code)
        _log_unrecorded(proofs.record_made(conn, made), log)
        return made


def verify(target: Target, archive: Path, log: Reporter, *, run_owner_code: bool = False) -> Backup:
    """Restore an archive into a scratch database on the server of `target`, compare it, and write the result into its
    manifest.

    Raise BackupError. If the backup differs, the manifest says so too; if it could not be restored at all, it does not.
    Raise PreconditionError if that would run other roles' code as a superuser and `run_owner_code` does not allow it.
    """
    archive = Path(os.path.realpath(archive))  # a link is followed only once, and never fails by itself
    path = archive.with_suffix(".json")
    try:
        with manifest.opened(archive) as made, database.connect(target, "backup (verify)") as conn:
            preflight.require_primary(conn)
            scratch_databases.require_right(conn, "backup verify")
            log(f"{archive.name}: intact, taken at {made.began_at}, revision {made.revision or 'base'}")
            owner_code.require_roles(conn, made.roles)
            owner_code.require_consent(conn, made.owners, run_owner_code, system_identifier=made.system_identifier)
            tool = scratch_restore.pg_restore(conn, made.pg_dump_version)
            scratch_restore.require_definitions(tool, target, archive, made.schema_digest, made.pg_dump_version)
            objects = made.large_objects if made.kind == "full" else 0
            found = scratch_restore.verify(
                conn, target, archive, archive, made.tables, objects, log,
                extensions=made.extensions, written_by=made.pg_dump_version,
            )  # fmt: skip
            made = _recorded(replace(made, left_out=found.left_out), "restore", found.verified, found.findings)
            if made.origin == backup.origin(conn):
                _log_unrecorded(proofs.record_made(conn, made), log)
    except UnequalError as error:
        _recorded(manifest.read(path), "failed", f"failed: {error.message}", [])
        raise BackupError(
            f"this backup is unusable: {error.message}", "List the others: pgvigil backup list."
        ) from error
    except RestoreError as error:
        raise BackupError(error.message, error.hint) from error
    except OSError as error:
        raise BackupError(
            f"{path} cannot be written: {error.strerror}",
            "Make it writable, then verify again: the result could not be stored.",
        ) from error
    return made


def _recorded(made: Backup, proof: str, verified: str, findings: list[str]) -> Backup:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = replace(made, proof=proof, verified=verified, verified_at=now, findings=findings)
    manifest.write(made)
    return made


def _log_unrecorded(warning: str | None, log: Reporter) -> None:
    if warning:
        log(f"warning: {warning}")


def record(target: Target, text: str) -> str:
    """Record in the database that a backup was taken now by other means; return the message about it.

    Raise PreconditionError unless the connected role has the rights of the tables' owner.
    """
    if not text.strip():
        raise UsageError(
            "the description of the external backup is empty",
            "Describe where it is, or which tool took it: --external 'pgBackRest 20261121-010002F'.",
        )
    with database.connect(target, "backup (record)") as conn:
        require_shipped(conn)
        try:
            proofs.record(conn, None, "external", text)
        except errors.InsufficientPrivilege as error:
            raise PreconditionError(
                f"role {quoted(conn.info.user)} may not record an external backup: only the owner of the tables or a superuser may",
                "Connect as one of these, then run this again.",
            ) from error
    return f"recorded, as taken now: {one_line(text)}"


def newest(target: Target, directory: Path) -> Path:
    """Return the archive of the newest full backup of this database. Raise BackupError if there is none."""
    with database.connect(target, "backup (list)") as conn:
        origin = backup.origin(conn)
    for entry in catalogue.listing(directory):
        is_there = entry.state in ("verified", "read", "failed", "damaged")
        if is_there and entry.backup and entry.backup.kind == "full" and entry.backup.origin == origin:
            return entry.archive
    raise BackupError(f"{directory} holds no backup of this database", "Take one: pgvigil backup create.")


def named(archive: Path, directory: Path) -> Path:
    """Return the archive for a command's argument: a path, or a name as listed, which is looked up in the directory."""
    in_directory = directory / archive
    return in_directory if archive.name == str(archive) and not archive.exists() and in_directory.exists() else archive
