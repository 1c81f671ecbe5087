"""A project as the runner knows it: its files, its ledger, its declaration, and what must hold before a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import cast

import psycopg

from pgvigil import project
from pgvigil.database import Target
from pgvigil.errors import PreconditionError, UsageError
from pgvigil.migration import preflight
from pgvigil.migration.chain import Chain, Run
from pgvigil.migration.change import Change
from pgvigil.migration.concurrent_indexes import quoted
from pgvigil.migration.files import Migration
from pgvigil.migration.trace import Trace
from pgvigil.progress import Reporter
from pgvigil.projects import drift, layouts, mover
from pgvigil.projects.config import LEDGER_SCHEMA, Config
from pgvigil.projects.layouts import ProjectFile
from pgvigil.projects.ledger import Ledger, ProjectState
from pgvigil.projects.mover import Mover
from pgvigil.text import counted
from pgvigil.validate import Declaration, Report, load_declaration, validate


class ProjectChain(Chain):
    def __init__(self, config: Config) -> None:
        self.config = config
        self.ledger = Ledger(config)
        self.files = layouts.load(config)
        self.mover = Mover(config, self.ledger, self.files)

    @property
    def spec_name(self) -> str:  # type: ignore[override]
        return self.config.spec.name if self.config.spec else ""

    # ── The files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def load(self) -> list[Migration]:
        return list(self.files)

    def groups(self, migrations: list[Migration]) -> list[list[Migration]]:
        """Return each file alone.

        With `transaction = "together"` neighbours are a group, up to a file that adds a value to an enum.
        """
        found: list[list[Migration]] = []
        for one in migrations:
            joins = (
                self.config.transaction == "together"
                and found
                and one.transactional
                and found[-1][-1].transactional
                and not any(map(layouts.adds_enum_value, found[-1][-1].statements))
            )
            if joins:
                found[-1].append(one)
            else:
                found.append([one])
        return found

    def declaration(self) -> Declaration | None:
        """The spec, which has nothing to say of the ledgers."""
        if self.config.spec is None:
            return None
        if not self.config.spec.exists():
            raise UsageError(
                f"there is no spec at {self.config.spec}",
                f"Write it from the files: {self.command('check', '--write-spec')}, or leave `spec` out of {self.config.file.name}.",
            )
        declared = load_declaration(self.config.spec)
        more = [(pattern, "the ledger of the migrations", True) for pattern in self.ledger.ignored]
        more += [(pattern, f"ignored by {self.config.file.name}", True) for pattern in self.config.ignore]
        return dataclasses.replace(declared, ignore=(*declared.ignore, *more))

    # ── The database ──────────────────────────────────────────────────────────────────────────────────────────────────

    def open(
        self, conn: psycopg.Connection, asked_schema: str | None, migrations: list[Migration], accepted: Collection[str]
    ) -> tuple[str, ProjectState, list[str]]:
        del migrations
        if asked_schema and asked_schema != self.config.schema:
            raise UsageError(
                f'this project is about schema "{self.config.schema}", not "{asked_schema}"',
                f"Leave --schema out, or change `schema` in {self.config.file}.",
            )
        if unknown := set(accepted) - {one.version for one in self.files}:
            raise UsageError(f"there is no version {min(unknown)} to accept", "See pgvigil status.")
        if not preflight.one(conn, "SELECT count(*) FROM pg_namespace WHERE nspname = %s", self.config.schema):
            raise PreconditionError(
                f'there is no schema "{self.config.schema}" in database "{conn.info.dbname}"',
                f"Create it (CREATE SCHEMA {quoted(self.config.schema)}), or correct `schema` in {self.config.file}.",
            )
        mover.pin(conn, self.config)
        state = self.read(conn)
        return self.config.schema, state, self.compare(state, accepted)

    def read(self, conn: psycopg.Connection) -> ProjectState:
        return self.ledger.read(conn, self.files)

    def compare(self, state: ProjectState, accepted: Collection[str] = ()) -> list[str]:
        """Return warnings. Raise PreconditionError where ledger and files contradict each other."""
        found = [
            f"version {version} has no file any more: it is older than the first file here"
            for version in self._squashed(state)
        ]
        if missing := [version for version in state.unknown if version not in self._squashed(state)]:
            raise PreconditionError(
                f"this database has versions that no file here has: {', '.join(missing)}",
                f"Put these files back into {self.config.migrations}, or use the newer checkout that has them. Nothing was changed.",
            )
        by_version = {one.version: one for one in self.files}
        for entry in state.entries:
            one = by_version[entry.revision]
            if not entry.sha256_bytes:
                found.append(f"{one.path} was run by {self.config.layout}: its checksum is recorded from now on")
            elif entry.sha256_bytes == one.sha256_bytes:
                continue
            elif entry.sha256_tokens != one.sha256_tokens and entry.revision not in accepted:
                raise PreconditionError(
                    f"{one.path} was edited after it went into this database: SHA-256 of its SQL was "
                    f"{entry.sha256_tokens[:12]}…, is {one.sha256_tokens[:12]}…",
                    "Restore the file as it was and put the change into a new migration; or, if this database holds the change already, "
                    f"say so with --accept-checksum {entry.revision}. Nothing was changed.",
                )
            elif entry.sha256_tokens != one.sha256_tokens:
                found.append(f"{one.path} was edited after it went in; accepted, its new checksum is recorded")
            else:
                found.append(
                    f"{one.path} has other comments, white space or way back than when it went in; its SQL is the same"
                )
        for version in sorted(state.stale):
            found.append(f"version {version} was taken out by {self.config.layout}: it is pending again")
        for version, progress in state.progress.items():
            if version in by_version:
                mover.require_unedited(by_version[version].path, by_version[version].statements, progress)
                found.append(
                    f"{by_version[version].path} was begun: its first {counted(progress.steps, 'statement')} are in, and stay"
                )
        late = self.out_of_order(state)
        if late and not self.config.out_of_order:
            raise PreconditionError(
                f"{late[0].path} is below {state.revision}, which is applied: it came after its turn",
                f"Give it a version above the last one; or allow it: out_of_order = true in {self.config.file}. Nothing was changed.",
            )
        return found + [f"{one.path} goes in out of order, below {state.revision}" for one in late]

    def place_of(self, one: ProjectFile, state: ProjectState) -> str:
        """Return where a file is, in words."""
        entry = state.by_revision.get(one.version)
        if entry is None:
            if progress := state.progress.get(one.version):
                return f"begun: {progress.steps} of {counted(len(one.statements), 'statement')} are in"
            return "pending"
        if back := state.down_progress.get(one.version):
            return (
                f"half out: {back.steps} of {counted(len(one.down_statements), 'statement')} of its way back have run"
            )
        if one.version in state.adopted:
            return f"in, by {self.config.layout}"
        return "baselined" if entry.baselined else "in"

    def out_of_order(self, state: ProjectState) -> list[ProjectFile]:
        """The files that are not in, below one that is."""
        places = [at for at, one in enumerate(self.files) if one.version in state.revisions]
        return [one for one in self.files[: max(places, default=0)] if one.version not in state.revisions]

    def _squashed(self, state: ProjectState) -> list[str]:
        """Return the versions in dbmate's table whose files a team has replaced by a dump of the schema."""
        if self.config.layout != "dbmate" or not self.files:
            return []
        return [version for version in state.unknown if version < self.files[0].version]

    def require_ready(self, run: Run, log: Reporter) -> None:
        del log
        conn = run.conn
        if not run.pending:
            return
        if half := cast("ProjectState", run.state).down_progress:
            raise PreconditionError(
                f"the way back of version {min(half)} has stopped half-way",
                f"Finish it first: {self.command('revert', '--to', 'VERSION')}, with the version below. Nothing was changed.",
            )
        lacking = conn.execute(
            """SELECT format('GRANT CREATE ON DATABASE %%I TO %%I;', current_database(), current_user)
               WHERE to_regnamespace(%(ledger)s) IS NULL AND NOT has_database_privilege(current_database(), 'CREATE')
               UNION ALL
               SELECT format('GRANT CREATE ON SCHEMA %%I TO %%I;', %(schema)s::text, current_user)
               WHERE NOT has_schema_privilege((SELECT oid FROM pg_namespace WHERE nspname = %(schema)s), 'CREATE')""",
            {"ledger": LEDGER_SCHEMA, "schema": self.config.schema},
        ).fetchall()
        if lacking:
            raise PreconditionError(
                f'role "{conn.info.user}" may not migrate this database: it cannot create what the ledger or the files need',
                "As the owner of the database: " + " ".join(row[0] for row in lacking) + " Nothing was changed.",
            )

    def begin(self, run: Run, target: Target, log: Reporter) -> None:
        """The run ends here unless the schema is the one that its files make."""
        self.require_ready(run, log)
        if self.config.drift == "off" or not run.state.entries or self._squashed(cast("ProjectState", run.state)):
            return
        if any(progress.steps for progress in cast("ProjectState", run.state).progress.values()):
            log("drift is not looked for: a file is half in")
            return
        applied = [cast("ProjectFile", m) for m in run.applied]
        report, why = drift.compare(run.conn, target, self.config, applied, self.not_drift(), log)
        if report is None:
            log(f"warning: drift was not looked for: {why}")
        elif not report.ok:
            words = (
                f"the schema is not what the {counted(len(applied), 'file')} that are in make: it was changed by something else\n"
                + drift.as_text(report)
            )
            if self.config.drift == "refuse":
                raise PreconditionError(
                    words,
                    f"Undo the change, or write it into a migration; or, in {self.config.file}, list what is not of this project: "
                    f'ignore = ["{report.findings[0].object if report.findings else "table other"}"], or set drift = "tell". Nothing was changed.',
                )
            log(f"warning: {words}")

    def apply_group(self, conn: psycopg.Connection, change: Change, trace: Trace) -> None:
        if change.down_to is None:
            self.mover.apply(conn, cast("list[ProjectFile]", change.group), trace, change.before_commit)
        else:
            self.mover.revert(conn, cast("list[ProjectFile]", change.to_revert), trace, change.before_commit)

    def not_drift(self) -> list[str]:
        """Return the patterns of what may be there besides what the files make."""
        spec = self.declaration() if self.config.spec and self.config.spec.exists() else None
        return [*self.ledger.ignored, *self.config.ignore, *(pattern for pattern, *_ in (spec.ignore if spec else ()))]

    def require_reversible(self, to_revert: list[Migration]) -> None:
        for migration in cast("list[ProjectFile]", to_revert):
            if not migration.is_reversible:
                raise PreconditionError(
                    f"{migration.path} has no way back",
                    f"Write it into {migration.revert_path}, or restore a backup. Nothing was changed.",
                )

    def reverts_at_once(self, to_revert: list[Migration]) -> bool:
        return len(mover.revert_groups(cast("list[ProjectFile]", to_revert))) == 1

    def accept(self, run: Run, accepted: Collection[str]) -> None:
        if accepted:
            with run.conn.transaction():
                self.ledger.accept(run.conn, self.files, accepted)

    def index_names(self, schema: str) -> tuple[Collection[str], Collection[str]]:
        del schema
        return (), ()

    def verdict(self, conn: psycopg.Connection, target: Target, schema: str) -> Report:
        del target
        declared = self.declaration()
        assert declared is not None  # noqa: S101 - the runner asks only then
        return validate(conn, declared, schema)

    def require_rehearsal(self, pending: list[Migration]) -> None:
        for migration in pending:
            for statement in migration.statements:
                if layouts.acts_on_whole_server(statement):
                    raise PreconditionError(
                        f"{migration.path}:{statement.line}: roles, databases and settings belong to the whole server: "
                        "a rehearsal on a scratch copy would change them for real",
                        "Leave --rehearse out, or do this outside of the migrations first. Nothing was changed.",
                    )

    def warnings(self, conn: psycopg.Connection) -> list[str]:
        del conn
        return []

    def waiting_jobs(self, conn: psycopg.Connection) -> tuple[str, ...]:
        del conn
        return ()

    def left_by_revert(self, conn: psycopg.Connection, schema: str) -> list[str]:
        del conn, schema
        return []

    def command(self, *words: str, schema: str | None = None, option: str = "") -> str:
        del schema
        return project.command(words[0], "--project", _shown(self.config.directory), *words[1:], option=option)


def _shown(directory: Path) -> str:
    """Return a directory as a user types it from here."""
    try:
        return str(directory.relative_to(Path.cwd()))
    except ValueError:
        return str(directory)
