"""Settings that new sessions begin with, and that keep our triggers from their work."""

from __future__ import annotations

from pgvigil.validate.catalog import Server
from pgvigil.validate.collect import Collector
from pgvigil.validate.names import quoted

_TRIGGERS = "session_replication_role"
_UPKEEP = "pgvigil.upkeep"


def compare(collector: Collector, server: Server) -> None:
    for name, value, here, role in server.settings:
        place = f"DATABASE {quoted(server.database)}"
        if role:
            place = f"ROLE {quoted(role)} IN {place}" if here else f"ROLE {quoted(role)}"
        elif not here:
            place = "ROLE ALL"
        fix = f"ALTER {place} RESET {name};"
        if name == _TRIGGERS and value.lower() == "replica":
            _triggers_off(collector, role, fix)
        elif name == _UPKEEP and value:
            said = f"{value}, for every new session{f' of {role}' if role else ''}: no change is taken for activity"
            collector.add("different", f"setting {_UPKEEP}", "set by jobs, each for itself", said, fix=fix)
    if server.configured:
        _triggers_off(collector, None, f"ALTER SYSTEM RESET {_TRIGGERS};\nSELECT pg_reload_conf();")


def _triggers_off(collector: Collector, role: str | None, fix: str) -> None:
    """One role may be meant to do without: that of a replication. It is told."""
    said = "no trigger fires and no foreign key is checked"
    if role:
        path = f"setting {_TRIGGERS} of role {quoted(role)}"
        collector.add("disabled", path, "origin", f"replica, for every new session of this role: {said}", "note")
    else:
        path = f"setting {_TRIGGERS}"
        collector.add("disabled", path, "origin", f"replica, for every new session: {said}", fix=fix)
