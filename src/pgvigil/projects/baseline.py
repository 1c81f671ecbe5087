"""A database that was there before its files had a ledger: what the files make is compared with it, and then recorded, not run."""

from __future__ import annotations

from dataclasses import dataclass

from pgvigil import database, locks
from pgvigil.database import Target
from pgvigil.errors import PreconditionError, UsageError
from pgvigil.migration import preflight
from pgvigil.progress import Reporter
from pgvigil.projects import drift
from pgvigil.projects.chain import ProjectChain
from pgvigil.text import counted


@dataclass(frozen=True)
class Baseline:
    recorded: list[str]
    compared: bool


def baseline(target: Target, chain: ProjectChain, at: str, log: Reporter, *, force: bool, lock_wait: float) -> Baseline:
    """Record the files up to `at` as being in, if the schema is what they make; with `force` whatever it is, and by
    whom.

    Raise PreconditionError, and then nothing is recorded.
    """
    versions = [one.version for one in chain.files]
    if at not in versions:
        raise UsageError(f"there is no version {at}", f"Known are: {', '.join(versions) or 'none'}.")
    files = chain.files[: versions.index(at) + 1]
    with database.connect(target, "baseline") as conn, locks.run_lock(conn, lock_wait):
        preflight.require_usable_server(conn)
        schema, state, warnings = chain.open(conn, None, [], ())
        for warning in warnings:
            log(f"warning: {warning}")
        missing = [one for one in files if one.version not in state.revisions]
        if not missing:
            return Baseline([], compared=True)
        if any(one.version in state.progress for one in missing):
            raise PreconditionError(
                "a file among them is half in", "Let it go on: " + chain.command("migrate", option=target.option)
            )
        if beyond := [one for one in chain.files[len(files) :] if one.version in state.revisions]:
            raise PreconditionError(
                f"{beyond[0].name} is in, above version {at}", f"Name a version from {beyond[-1].version} on."
            )
        report, why = drift.compare(conn, target, chain.config, files, chain.not_drift(), log)
        equal = report is not None and report.ok
        if not equal and not force:
            words = (
                f"the schema is not what {counted(len(files), 'file')} up to {at} make:\n{drift.as_text(report)}"
                if report
                else why
            )
            raise PreconditionError(
                words,
                "Name the version that this schema is at, or bring it there; or have it recorded as it is: add --force. Nothing was changed.",
            )
        if not equal:
            log("warning: recorded by --force, though " + ("the schema differs" if report else why))
        note = None if equal else "baseline by --force, not equal"
        with conn.transaction():
            chain.ledger.make(conn)
            for one in missing:
                chain.ledger.record(conn, one, baselined=True, note=note)
        del schema
    return Baseline([one.name for one in missing], compared=equal)
