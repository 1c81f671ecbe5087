"""Lint files: the base schema first, then each file, statement by statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg

from pgvigil.database import Target
from pgvigil.errors import UsageError
from pgvigil.lint import rules, scratch, sources
from pgvigil.lint.measure import Bench, Measured
from pgvigil.lint.rules import Finding
from pgvigil.lint.sources import Source
from pgvigil.text import counted


@dataclass
class Report:
    """The findings. `unmeasured` are statements that could not be run; nothing is known of their locks."""

    zone: str
    zone_known: bool
    server_version: str = ""
    other_version: str = ""  # why the files were not run on the version that they are for
    files: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    allowed: list[Finding] = field(default_factory=list)
    unmeasured: list[Finding] = field(default_factory=list)
    statements: list[Measured] = field(default_factory=list)
    base: list[str] = field(default_factory=list)  # what of the base schema could not be built

    @property
    def exit_code(self) -> int:
        return 1 if self.findings else 3 if self.unmeasured else 0

    @property
    def verdict(self) -> str:
        """The report in one line."""
        seen = f"{counted(len(self.statements), 'statement')} in {counted(len(self.files), 'file')}"
        allowed = f", {len(self.allowed)} allowed" if self.allowed else ""
        if self.findings:
            return f"{counted(len(self.findings), 'finding')}{allowed}: {seen}"
        if self.unmeasured:
            return f"NOT ALL MEASURED: no findings{allowed}, but {counted(len(self.unmeasured), 'statement')} could not be run: {seen}"
        return f"ok: no findings{allowed}: {seen}"


def lint(
    paths: Sequence[Path],
    *,
    schema: Path | None = None,
    target: Target | None = None,
    zone: str | None = None,
    since: Path | None = None,
    search_path: Sequence[str] = (),
) -> Report:
    """Run the files on a temporary server.

    The base is `schema`, a dump, or that of `target`, or the earlier files of the directory.

    Each file begins with `search_path`, the server's own where it is empty. Missing schemas of it are created.
    """
    files = sources.gather(paths)
    before = [] if schema or target else sources.earlier(files)
    if since is not None:
        names = [file.resolve() for file in files]
        if since.resolve() not in names:
            raise UsageError(f"{since} is not among the files to check", "Name the last file that is in already.")
        at = names.index(since.resolve()) + 1
        before, files = [*before, *files[:at]], files[at:]
    read = {file: sources.read(file, rules.RULES) for file in [*before, *files]}
    there, major = scratch.settings_of(target) if target else (None, None)
    given = zone or there
    report = Report(given or "UTC", given is not None, files=[str(file) for file in files])
    with scratch.server(major) as server:
        if schema:
            report.base += [f"{schema}: {line}" for line in scratch.load(schema, server)]
        if target:
            report.base += scratch.copy_schema(target, server)
        with psycopg.connect(scratch.address(server), autocommit=True, prepare_threshold=None) as conn:
            report.server_version = str(conn.info.parameter_status("server_version"))
            _require_zone(conn, report.zone)
            if major is not None and conn.info.server_version // 10000 != major:
                report.other_version = f"the database is PostgreSQL {major}, of which no server is installed here"
            bench = Bench(conn, report.zone, search_path)
            for file in before:
                report.base += bench.build(read[file])
            for file in files:
                _lint(report, bench, read[file])
    return report


def _require_zone(conn: psycopg.Connection, zone: str) -> None:
    try:
        conn.execute("SELECT pg_catalog.set_config('TimeZone', %s, false)", (zone,))
    except psycopg.Error as error:
        raise UsageError(
            f"PostgreSQL knows no time zone {zone!r}", "Use the value that SHOW TimeZone prints on the server."
        ) from error


def _lint(report: Report, bench: Bench, source: Source) -> None:
    used: set[tuple[int, int]] = set()
    for measured in bench.run(source):
        report.statements.append(measured)
        for finding in rules.findings(measured):
            allowed = [
                (number, one)
                for number, one in enumerate(source.allowed.get(measured.number, ()))
                if finding.rule in one.rules
            ]
            if allowed:
                used.add((measured.number, allowed[0][0]))
                report.allowed.append(replace(finding, allowed=allowed[0][1].reason))
            elif finding.rule == "time-zone" and report.zone_known:
                pass  # measured under the one that counts
            elif finding.severity == "note":
                report.notes.append(finding)
            else:
                report.findings.append(finding)
        if measured.error and not measured.outside:
            statement = measured.statement
            report.unmeasured.append(
                Finding(
                    "unmeasured", str(source.path), statement.line, "", f"could not be run here: {measured.error}",
                    " ".join(statement.text.split()), "name the schema that it needs: --schema DUMP or --database-url URL",
                )
            )  # fmt: skip
    for number, several in source.allowed.items():
        for place, one in enumerate(several):
            if (number, place) not in used:
                report.notes.append(
                    Finding(
                        "unused-allow", str(source.path), one.line, "", f"allows {', '.join(one.rules)}, which is not found here",
                        f"-- pgvigil: allow {' '.join(one.rules)}, {one.reason}", "delete the comment", "note",
                    )
                )  # fmt: skip
