"""Run guard: run lock → preconditions → verified backup → [rehearsal] → the command, watched → comparison."""

from __future__ import annotations

import json
import os
import platform
import random
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

import psycopg
from psycopg import pq

from pgvigil import argv, database, locks, project
from pgvigil.backup import create, owner_code, proofs, scratch_restore
from pgvigil.backup.manifest import Backup, Kind
from pgvigil.database import Target
from pgvigil.errors import InvalidSchemaError, MigrationError, PgvigilError, PreconditionError, UsageError
from pgvigil.guard import rehearsal
from pgvigil.guard.command import Command, environment_of, in_words
from pgvigil.guard.sessions import Own, Route
from pgvigil.guard.watch import WaitMonitor, find, moment, terminate
from pgvigil.migration import ledger, preflight
from pgvigil.progress import Reporter
from pgvigil.text import quoted
from pgvigil.validate import dump_spec, load_declaration, render, validate

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0
_LONG_ENOUGH = 3.0  # seconds in which a session of the command's would have been seen
_USER_SCHEMAS = (
    "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1"
)
_INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1"


@dataclass(frozen=True)
class Options:
    """The way a command is run. `environment` is the caller's, before anything was taken out of it; `url` as the caller wrote it."""

    words: Sequence[str]
    environment: Mapping[str, str]
    url: str | None = None
    spec: Path | None = None
    rehearse: bool = False
    retry: bool = False
    max_wait_ms: float = 200
    max_lock_ms: float | None = None
    application_name: str | None = None
    lock_wait: float = 10
    lock_budget: float = 60
    blocker_wait: float = 0
    backup_directory: Path | None = None
    backup_kind: str = "full"
    backup_proof: create.Proof = "read"
    backup_command: str | None = None
    run_owner_code: bool = False


@dataclass
class Outcome:
    """The result of a run, as far as it came. `changes` is None where the schema could not be compared."""

    archive: Backup | None = None
    tries: int = 0
    status: int | None = None
    cancelled: int = 0
    sessions: int = 0
    changes: list[str] | None = None
    invalid: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    restore: str = ""
    seconds: float = 0.0


def guard(target: Target, options: Options, log: Reporter, outcome: Outcome) -> None:
    """Run the command; `outcome` says how far it came.

    Raise MigrationError where it failed, InvalidSchemaError where the spec is unmet.
    """
    clock = time.monotonic()
    if platform.system() != "Linux":
        raise PreconditionError(
            "guard knows the sessions of a command by the processes and sockets that Linux shows in /proc",
            "Run it on Linux, for example in a container beside the command.",
        )
    if shutil.which(options.words[0], path=options.environment.get("PATH")) is None:
        raise UsageError(
            f"there is no program {argv.shown(options.words[0])}", "Name the command as in a shell, after --."
        )
    declared = load_declaration(options.spec) if options.spec else None
    with database.connect(target, "guard") as conn:
        log(f"connected to {target}, PostgreSQL {conn.info.parameter_status('server_version')}")
        preflight.require_usable_server(conn)
        database.require_more_sessions(conn, 2, "guard")  # the watch and the command, or a backup
        if options.rehearse:
            rehearsal.require_possible(conn)
            scratch_restore.require_right_to_rehearse(conn)
            owner_code.require_consent_for(conn, options.run_owner_code, otherwise="leave --rehearse out")
        _require_new_name(conn, options.application_name)
        with locks.run_lock(conn, options.lock_wait):
            for (schema,) in conn.execute(_USER_SCHEMAS).fetchall():
                preflight.require_nobody_in_the_way(conn, schema, options.blocker_wait, log)
            outcome.archive = _backup(conn, target, options, log)
            if outcome.archive and outcome.archive.kind == "full" and outcome.archive.archive:
                outcome.restore = project.command("restore", outcome.archive.archive, option=target.option)
            order, hidden = _order(conn, target, options)

            def start(order: dict[str, Any]) -> Command:
                return Command(order, lambda line: log(f"  | {line}"), hidden)

            with proofs.recorded(conn, outcome.archive, log):
                if options.rehearse:
                    _rehearse(conn, target, order, start, options, outcome, log)
                before, invalid = _catalog(conn), _names(conn, _INVALID)
                try:
                    _run(conn, target, order, start, options, outcome, log)
                finally:
                    if not conn.closed:
                        with suppress(psycopg.Error, PgvigilError):
                            outcome.changes = _changes(conn, before)
                            outcome.invalid = [name for name in _names(conn, _INVALID) if name not in invalid]
                    outcome.seconds = time.monotonic() - clock
            if outcome.status:
                raise MigrationError(
                    f"the command {in_words(outcome.status)}"
                    + (f", {outcome.cancelled} of its statements cancelled for waiting" if outcome.cancelled else ""),
                    _after_failure(outcome, options),
                )
            if declared is not None:
                log("validating")
                report = validate(conn, declared, declared.schema or "public")
                log.document["validation"] = json.loads(render(report, "json"))
                if not report.ok:
                    raise InvalidSchemaError(
                        f"the command succeeded, but the schema does not meet {options.spec}:\n{render(report, 'text')}",
                        f"Its commits are kept. {_back(outcome)}",
                    )


def _require_new_name(conn: psycopg.Connection, name: str | None) -> None:
    """A declared name is only the command's where nobody else has it."""
    if name is None:
        return
    rows = conn.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", (name,)).fetchall()
    if rows or name.startswith("pgvigil "):
        whose = ", ".join(f"pid {pid}" for (pid,) in rows) or "those of pgvigil itself"
        raise PreconditionError(
            f'other sessions are called "{name}" ({whose}): theirs would be cancelled too',
            "Give the command's connections an application_name of their own, and name that one.",
        )


def _backup(conn: psycopg.Connection, target: Target, options: Options, log: Reporter) -> Backup | None:
    if options.backup_kind == "none":
        log("warning: skipping the backup (--backup none)")
        return None
    return create.create(
        conn, target, options.backup_directory, _revision(conn), log, kind=cast("Kind", options.backup_kind),
        proof=options.backup_proof, command=options.backup_command, run_owner_code=options.run_owner_code,
    )  # fmt: skip


def _revision(conn: psycopg.Connection) -> str | None:
    """Return the revision of pgvigil's own chain where it is installed: a restore looks for it."""
    if preflight.one(conn, "SELECT to_regnamespace('pgvigil') IS NULL"):
        return None
    with suppress(psycopg.Error, PgvigilError):
        return ledger.read(conn).revision
    return None


# ── The command's surroundings ────────────────────────────────────────────────────────────────────────────────────────


def _order(conn: psycopg.Connection, target: Target, options: Options) -> tuple[dict[str, Any], list[str]]:
    """The request to the supervisor, and the passwords to hide."""
    token = f"guarded_{secrets.token_hex(12)}"
    keywords = {o.keyword.decode(): o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
    # Without what naming the database took out: other names, and credentials that are not for the server that a .env file names.
    given = {
        name: value for name, value in options.environment.items() if name in os.environ or not name.startswith("PG")
    }
    password = conn.info.password
    url = given.get("DATABASE_URL") if target.source == "DATABASE_URL" else options.url
    if url is None or "://" not in url:
        url = _address(conn, password)
    order = {
        "command": list(options.words),
        "environment": environment_of(given, url, target.parameters, keywords, options.application_name or token),
        "target": dict(target.parameters),
        "token": token,
        "declared": options.application_name,
    }
    return order, [word for word in (password, given.get("PGPASSWORD", "")) if word]


def _address(conn: psycopg.Connection, password: str) -> str:
    info = conn.info
    login = quote(info.user, safe="") + (f":{quote(password, safe='')}" if password else "")
    name = quote(info.dbname, safe="")
    if info.host.startswith("/"):
        return f"postgresql://{login}@/{name}?{urlencode({'host': info.host, 'port': info.port})}"
    host = f"[{info.host}]" if ":" in info.host else info.host
    return f"postgresql://{login}@{host}:{info.port}/{name}"


def _rehearse(
    conn: psycopg.Connection, target: Target, order: dict[str, Any], start: Callable[[dict[str, Any]], Command],
    options: Options, outcome: Outcome, log: Reporter,
) -> None:  # fmt: skip
    archive = outcome.archive
    if archive is None or archive.kind != "full" or archive.archive is None:
        raise UsageError(
            "a rehearsal needs a full backup to make its copy from", "Use --backup full. Nothing was changed."
        )
    log("rehearsing on a scratch copy; the command can reach nothing else")
    with scratch_restore.rehearsal_copy(conn, target, Path(archive.archive), log.indented()) as there:
        done = rehearsal.rehearse(conn, there, order | {"since": moment(conn)}, start, log)
    log.document["rehearsal"] |= asdict(done)
    for lock in done.locks:
        log(f"  {lock.table}: {lock.mode} for {lock.held_ms:.0f} ms, from: {lock.statement}")
    log(f"  rewritten tables: {', '.join(done.rewritten) or 'none'}; took {done.seconds:.1f} s")
    if done.refused:
        outcome.warnings.append(f"in the rehearsal these connections were refused: {', '.join(done.refused)}")
    longest = max((lock.held_ms for lock in done.locks), default=0.0)
    if options.max_lock_ms is not None and longest > options.max_lock_ms:
        raise PreconditionError(
            f"in the rehearsal {done.locks[0].table} was locked against writers for {longest:.0f} ms, more than --max-lock-ms {options.max_lock_ms:.0f}",
            "Run it at a quieter time, or allow more. The database itself was not changed; the backup is kept.",
        )


def _run(
    conn: psycopg.Connection, target: Target, order: dict[str, Any], start: Callable[[dict[str, Any]], Command],
    options: Options, outcome: Outcome, log: Reporter,
) -> None:  # fmt: skip
    """The command, once or, with --retry, until no statement of it was cancelled."""
    deadline = time.monotonic() + options.lock_budget
    route = Route.of(conn)
    while True:
        outcome.tries += 1
        locks.require_run_lock(conn)
        log(
            f"running {' '.join(quoted(argv.shown(word)) for word in options.words)}"
            + (f" (try {outcome.tries})" if outcome.tries > 1 else "")
        )
        cancelled = _once(conn, target, route, order, start, options, outcome, log)
        outcome.cancelled += cancelled
        if not (outcome.status and cancelled and options.retry):
            return
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (outcome.tries - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
        if time.monotonic() + pause > deadline:
            return
        time.sleep(pause)


def _once(
    conn: psycopg.Connection, target: Target, route: Route, order: dict[str, Any],
    start: Callable[[dict[str, Any]], Command], options: Options, outcome: Outcome, log: Reporter,
) -> int:  # fmt: skip
    since, clock = moment(conn), time.monotonic()
    with start({**order, "since": since}) as command:
        own = Own(route, command.sockets, order["token"], options.application_name)
        try:
            with WaitMonitor(
                lambda: database.connect(target, "guard (watch)"), own, since, options.max_wait_ms, log
            ) as watch:
                outcome.status = command.wait(lambda: watch.busy)
        except BaseException:
            if not conn.closed:
                with suppress(psycopg.Error):
                    terminate(
                        conn, own, [*own.seen, *find(conn, own, since)]
                    )  # a server process that waits does not notice that its client is gone
            raise
    outcome.sessions += len(own.seen)
    log.document["command"] = {
        "exit_code": outcome.status if outcome.status >= 0 else None, "signal": signal.Signals(-outcome.status).name if outcome.status < 0 else None,
        "tries": outcome.tries, "sessions": outcome.sessions,
    }  # fmt: skip
    for warning in _unwatched(own, watch, time.monotonic() - clock):
        if warning not in outcome.warnings:
            outcome.warnings.append(warning)
            log(f"warning: {warning}")
    return len(watch.cancelled)


def _unwatched(own: Own, watch: WaitMonitor, seconds: float) -> list[str]:
    """Return the reasons why lock waits were not bounded."""
    found = []
    if own.shared:
        found.append(
            "sessions of the command came through a pooler or a container, where other clients may share them: their lock waits were "
            "not bounded; connect directly, or declare --application-name"
        )
    elif not own.seen and own.candidates:
        found.append(
            "no session was recognised as the command's, and there were some of which nobody can say whose they are: their lock waits "
            "were not bounded; let the command connect by host=127.0.0.1, or declare --application-name"
        )
    elif not own.seen and seconds > _LONG_ENOUGH:
        found.append("the command had no session in this database: does it work on another one?")
    if watch.gap:
        found.append("for a time the server could not be asked, and lock waits were not bounded")
    if watch.refused:
        found.append(
            f"statements that waited could not be cancelled ({watch.refused}): use the command's own role, or GRANT pg_signal_backend to this one"
        )
    return found


# ── What it changed ───────────────────────────────────────────────────────────────────────────────────────────────────


def _catalog(conn: psycopg.Connection) -> str:
    """The schema in full, as `pgvigil spec dump` writes it; empty where this role may not read it."""
    try:
        return dump_spec(conn, [], json=True)
    except (psycopg.Error, PgvigilError):
        return ""


def _changes(conn: psycopg.Connection, before: str) -> list[str] | None:
    """Return the objects that are new or different, one per line."""
    if not before:
        return None
    if _catalog(conn) == before:
        return []
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "before.json"
        path.write_text(before, encoding="utf-8")
        declared = load_declaration(path)
    report = validate(conn, declared, declared.schema or "public")
    words = {"missing": "removed", "unexpected": "added", "invalid": "INVALID", "disabled": "disabled"}
    return [f"{words.get(finding.kind, 'changed')} {finding.object}" for finding in report.findings] or [
        "something that has no name in a spec"
    ]


def _names(conn: psycopg.Connection, query: str) -> list[str]:
    return [str(name) for (name,) in conn.execute(query.encode()).fetchall()]


def _back(outcome: Outcome) -> str:
    return (
        f"To go back to the backup: {outcome.restore}"
        if outcome.restore
        else "There is no backup of this run to go back to."
    )


def _after_failure(outcome: Outcome, options: Options) -> str:
    """Return the state after the run, and the advice."""
    left = "Whether it left something in the schema could not be seen."
    if outcome.changes is not None:
        left = (
            f"It left in the schema: {'; '.join(outcome.changes[:10])}."
            if outcome.changes
            else "The schema is as it was before."
        )
    for index in outcome.invalid:
        left += f" Index {index} is INVALID: DROP INDEX CONCURRENTLY {index}; before it is run again."
    again = ""
    if outcome.cancelled:
        again = " Run it again when the sessions named above are gone" + (
            "." if options.retry else ", or with --retry, if it can be run again after a failure."
        )
    return f"{left}{again} {_back(outcome)}"


def environment() -> dict[str, str]:
    """The caller's, to be taken before the database is resolved, which takes variables out of it."""
    return dict(os.environ)
