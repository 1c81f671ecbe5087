"""The check of settings that new sessions begin with, and that keep our triggers, guards and names from their work."""

from __future__ import annotations

import re

import psycopg

from pgvigil.validate.catalog.identifiers import quoted, unquoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Connection, Server
from pgvigil.validate.diff.diff_builder import DiffBuilder

_TRIGGERS = "session_replication_role"
_PATH = "search_path"
GRANULARITY = "pgvigil.activity_granularity"

# Jobs, migrations and the recorder set these, each for itself and for one transaction.
_PASSING = {
    "pgvigil.skip_activity": "no change is taken for activity",
    "pgvigil.instrumentation": "the guards of schema instrumentation let everybody write",
    "pgvigil.only_to_read": "migrations and jobs leave out the work that makes partitions",
}
# An application may name itself once for all its sessions.
_NAMING = ("pgvigil.actor", "pgvigil.reason", "pgvigil.session_id")


def compare(builder: DiffBuilder, server: Server, conn: Connection, least_active: float) -> None:
    """Compare the settings with what our objects need.

    `least_active` is the shortest time in hours until a policy calls a session dormant.
    """
    known: set[str] = set()
    for name, value, here, role, writes in server.settings:
        place = f"DATABASE {quoted(server.database)}"
        if role:
            place = f"ROLE {quoted(role)} IN {place}" if here else f"ROLE {quoted(role)}"
        elif not here:
            place = "ROLE ALL"
        if not role or role == server.role:
            known.add(name)
        fix = f"ALTER {place} RESET {name};"
        whose = f" of {role}" if role else ""
        if name == _TRIGGERS and value.lower() == "replica":
            _triggers_off(builder, role, fix, meant=not writes)
        elif name == _PATH:
            _other_tables(builder, server, value, place, whose)
        else:
            _of_ours(builder, conn, name, value, f"for every new session{whose}", fix, role, least_active)
    if server.configured:
        _triggers_off(builder, None, f"ALTER SYSTEM RESET {_TRIGGERS};\nSELECT pg_reload_conf();", meant=False)
    # What this session has, and neither database, nor role, nor its own call gave, comes from the server's configuration.
    if conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
        for name, value in server.own_settings.items():
            if name not in known and name not in conn.info.options:
                fix = f"ALTER SYSTEM RESET {name};\nSELECT pg_reload_conf();"
                _of_ours(builder, conn, name, value, "in the server's configuration", fix, None, least_active)


def _of_ours(
    builder: DiffBuilder,
    conn: Connection,
    name: str,
    value: str,
    where: str,
    fix: str,
    role: str | None,
    least_active: float,
) -> None:
    ref = ObjectRef("setting", name + (f" of role {quoted(role)}" if role else ""))
    if name in _PASSING and value:
        builder.add("different", ref, "set by jobs, each for itself", f"{value}, {where}: {_PASSING[name]}", fix=fix)
    elif name in _NAMING and value:
        said = f"{value}, {where}: the trail names this, whoever it was"
        builder.add("different", ref, "set by each session for itself", said, "note")
    elif name == GRANULARITY and (wrong := _granularity(conn, value, least_active)):
        builder.add("different", ref, "an interval from 0 to an hour or so", f"{value}, {where}: {wrong}", fix=fix)


def _granularity(conn: Connection, value: str, least_active: float) -> str:
    if not value:
        return ""
    try:
        with conn.transaction():
            row = conn.execute("SELECT pg_catalog.date_part('epoch', %s::pg_catalog.interval)", (value,)).fetchone()
    except psycopg.DataError:
        return "this is not an interval, and updates of sessions fail"
    seconds = row[0] if row else 0.0
    if seconds < 0:
        return "it is below 0"
    if seconds >= least_active * 3600:
        return "a session in use is taken for idle before its activity is written down"
    return ""


def _triggers_off(builder: DiffBuilder, role: str | None, fix: str, *, meant: bool) -> None:
    """Report a setting that disables triggers.

    It may be intended for one role, that of a replication: a superuser, or a role without writes here.
    """
    said = "no trigger fires and no foreign key is checked"
    if role and meant:
        ref = ObjectRef("setting", f"{_TRIGGERS} of role {quoted(role)}")
        builder.add("disabled", ref, "origin", f"replica, for every new session of this role: {said}", "note")
    elif role:
        ref = ObjectRef("setting", f"{_TRIGGERS} of role {quoted(role)}")
        said = f"replica, for every new session of this role, which may write to the tables: {said}"
        builder.add("disabled", ref, "origin", said, fix=fix)
    else:
        ref = ObjectRef("setting", _TRIGGERS)
        builder.add("disabled", ref, "origin", f"replica, for every new session: {said}", fix=fix)


def _other_tables(builder: DiffBuilder, server: Server, value: str, place: str, whose: str) -> None:
    """Report a search_path on which a name without a schema means a table other than ours."""
    schema = builder.found.schema
    parts = [unquoted(part) for part in re.findall(r'"(?:[^"]|"")*"|[^,\s"]+', value)]
    before = parts[: parts.index(schema)] if schema in parts else parts
    ref = ObjectRef("setting", _PATH + (f" of{whose.removeprefix(' of')}" if whose else ""))
    if shadows := [part for part in before if part in server.shadows]:
        said = f"{value}, for every new session{whose}: names without a schema mean tables of {', '.join(shadows)}"
        builder.add("different", ref, f"{schema} first", said, fix=f"ALTER {place} RESET {_PATH};")
    elif schema not in parts:
        said = f"{value}, for every new session{whose}: names without a schema do not find the tables"
        builder.add("different", ref, f"{schema} among them", said, "note")
