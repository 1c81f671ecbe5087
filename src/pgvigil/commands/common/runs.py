"""The common parts of `setup`, `migrate` and `revert`: the options of a run, and its outcome in words."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pgvigil import project
from pgvigil.database import Target
from pgvigil.errors import UsageError
from pgvigil.text import block, counted, quoted

if TYPE_CHECKING:
    from pgvigil.migration.chain import Chain
    from pgvigil.migration.runner import Options, Outcome
    from pgvigil.projects.config import Config


def print_outcome(outcome: Outcome, target: Target) -> None:
    from pgvigil.migration import runner

    start, end = outcome.start or "base", outcome.end or "base"
    spec = outcome.chain.spec_name
    if outcome.reverted:
        verdict = ""
    elif outcome.left:
        verdict = (
            f"; {counted(outcome.left, 'file')} {'is' if outcome.left == 1 else 'are'} left"
            + f", and lead{'s' * (outcome.left == 1)} to {spec}" * (bool(outcome.applied) and outcome.chain.staged)
        )
    else:
        verdict = f"; the schema meets {spec}" if spec else "; no spec is declared, so nothing was compared"
    if not outcome.applied:
        print(
            f"nothing to revert: the database is at {start}"
            if outcome.reverted
            else f"up to date at revision {end}{verdict}"
        )
    else:
        done = "reverted" if outcome.reverted else "migrated"
        print(f"{done} from {start} to {end} in {outcome.seconds:.1f} s{verdict}")
        if outcome.archive:
            print(f"  backup  {quoted(str(outcome.archive.archive or outcome.archive.manifest))}")
        print(f"  undo    {runner.undo_command(outcome, target)}")
    for remark in outcome.warnings:
        print(block(f"  note    {remark}"))
    print_waiting(outcome, target)
    if outcome.applied and not outcome.reverted and not outcome.left and outcome.chain.application_tables:
        print_jobs(target)
        print_looks(target)


def print_jobs(target: Target) -> None:
    """Print how to run the regular jobs, because no job runs by itself."""
    watch, install = (
        project.command("maintain", *words, option=target.option) for words in (("watch",), ("install", "--systemd"))
    )
    print(f"\nNext: let the regular jobs run, by this command or by systemd, cron or pg_cron:\n  {watch}\n  {install}")


def print_looks(target: Target) -> None:
    """The commands to look around with."""
    looks = {
        "its tables and views, such as session_monitoring_view": ("psql",),
        "whether all is in order": ("health",),
        "the pages: metrics, maintenance, recorder and others": ("help",),
    }
    print("\nNext: look around with these:")
    for about, words in looks.items():
        command = project.command(*words, option="" if words == ("help",) else target.option)
        print(f"  {command:<40}  {about}" if len(command) <= 40 else f"  {command}\n      {about}")


def print_waiting(outcome: Outcome, target: Target) -> None:
    """The database was there before pgvigil: its jobs wait until their owner has seen what they would do."""
    if outcome.waiting:
        show, accept = (
            project.command("maintain", *words, option=target.option) for words in (("preview",), ("accept", "all"))
        )
        print(
            f"\nNext: {counted(len(outcome.waiting), 'job')} wait{'s' * (len(outcome.waiting) == 1)} until you have seen what {'it' if len(outcome.waiting) == 1 else 'they'} would do, and accepted it:\n  {show}\n  {accept}"
        )


def config_of(arguments: argparse.Namespace) -> Config | None:
    """The project that a call is about; None for pgvigil's own migrations."""
    if getattr(arguments, "project", None) is None:
        return None
    from pgvigil.projects import config

    return config.find(arguments.project)


def options_of(arguments: argparse.Namespace) -> Options:
    from pgvigil.migration.runner import Options

    config = config_of(arguments)
    if (getattr(arguments, "backup", None) == "command") != bool(getattr(arguments, "backup_command", None)):
        raise UsageError("--backup command and --backup-command CMD go together", "Give both or neither.")
    if getattr(arguments, "max_lock_ms", None) is not None and not arguments.rehearse:
        raise UsageError("--max-lock-ms is the limit of a rehearsal", "Add --rehearse.")
    return Options(
        schema=arguments.schema,
        backup_directory=getattr(arguments, "backup_dir", None) or (config.backup_directory if config else None),
        lock_wait=arguments.lock_wait,
        lock_budget=arguments.lock_budget,
        blocker_wait=getattr(arguments, "wait_for_blockers", 0),
        accepted=tuple(getattr(arguments, "accept_checksum", ())),
        backup_kind=getattr(arguments, "backup", "none") or (config.backup_kind if config else "full"),
        backup_proof=getattr(arguments, "verify_backup", None) or (config.backup_verify if config else "read"),
        backup_command=getattr(arguments, "backup_command", None),
        rehearse=getattr(arguments, "rehearse", False),
        max_lock_ms=getattr(arguments, "max_lock_ms", None),
        run_owner_code=getattr(arguments, "run_owner_code", False),
        to=getattr(arguments, "to", None),
        build_wait=arguments.build_wait,
        chain=_chain_of(config),
    )


def _chain_of(config: Config | None) -> Chain:
    if config is None:
        from pgvigil.migration.own_chain import OwnChain

        return OwnChain()
    from pgvigil.projects.chain import ProjectChain

    return ProjectChain(config)
