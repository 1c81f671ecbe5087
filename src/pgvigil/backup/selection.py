"""Select what of an archive a role that is not a superuser can restore into a scratch copy.

of_role(conn, pg_restore, target, archive) -> Selection     everything, for most roles

A database can hold objects that its owner may not create: a publication for all tables, an event trigger or an
extension that a superuser made, and tables that belong to a superuser. A copy to verify or to rehearse on does without
them, and says so. Code of other roles than superusers is not run: their objects are refused.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pgvigil.backup import pg_tools
from pgvigil.database import Target
from pgvigil.errors import PreconditionError

_WITHOUT = ("--no-owner", "--no-privileges", "--no-publications")
_ENTRY = re.compile(r"\d+; \d+ \d+ (.*)")
_KINDS = re.compile(r"(?:COMMENT - |SECURITY LABEL - )?(?:PUBLICATION|EVENT TRIGGER)\b")
_EVENT_TRIGGER = re.compile(r"(?:COMMENT - |SECURITY LABEL - )?EVENT TRIGGER\b")
_REFRESHED = "MATERIALIZED VIEW DATA "
_EXTENSION = re.compile(r"(?:COMMENT - |SECURITY LABEL - )?EXTENSION (?:- )?(\S+)")
_ROWS = re.compile(r"(?:TABLE DATA|SEQUENCE SET) (.*)")

# Up to 14 their owner is a superuser. For others pg_restore leaves the schema as it is, and the server warns of the rights.
_OF_INITDB = ("SCHEMA - public ", "ACL - SCHEMA public ")
# No code is in these.
_PLAIN = re.compile(r"SCHEMA -|(?:DEFAULT )?ACL |COMMENT |BLOB|LARGE OBJECT|TABLE DATA |SEQUENCE SET ")

_ROLES = """
    SELECT o.rolname::text, CASE WHEN pg_catalog.pg_has_role(o.oid, 'MEMBER') THEN 'ours' WHEN o.rolsuper THEN 'superuser' ELSE 'other' END
    FROM pg_catalog.pg_roles o"""
_UNTRUSTED = """
    SELECT v.name::text,
           ARRAY(SELECT pg_catalog.concat_ws(' ', n.nspname, c.relname)
                 FROM pg_catalog.pg_extension e
                 JOIN pg_catalog.pg_depend d ON d.refobjid = e.oid AND d.deptype = 'e'
                      AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
                      AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                 JOIN pg_catalog.pg_class c ON c.oid = d.objid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE e.extname = v.name)
    FROM pg_catalog.pg_available_extension_versions v
    JOIN pg_catalog.pg_available_extensions d ON d.name = v.name AND d.default_version = v.version
    WHERE v.superuser AND NOT v.trusted"""


@dataclass(frozen=True)
class Selection:
    """The entries of an archive that a role restores. `left_out` describes the others, `options` leaves out owners and rights."""

    role: str = ""
    left_out: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    extensions: frozenset[str] = frozenset()
    rows: frozenset[str] = frozenset()

    @contextmanager
    def arguments(
        self, pg_restore: Path, target: Target, archive: Path, *, refreshes: bool = False
    ) -> Iterator[list[str]]:
        """Yield the arguments with which pg_restore reads only these entries of an archive.

        With `refreshes`, event triggers come after the rows of materialized views. In pg_restore's own order they would fire
        at each REFRESH, and one that logs what is done adds rows to the copy.
        """
        lines = _listed(pg_restore, target, archive) if self.options or refreshes else []
        fire = [line for line in lines if _EVENT_TRIGGER.match(_entry(line))]
        if not self.options and not (fire and any(_entry(line).startswith(_REFRESHED) for line in lines)):
            yield []
            return
        with tempfile.NamedTemporaryFile("w", suffix=".list") as file:
            kept = [line for line in lines if not self._skips(line)] if self.options else lines
            file.writelines(f"{line}\n" for line in sorted(kept, key=fire.__contains__))
            file.flush()
            yield [*self.options, f"--use-list={file.name}"]

    def _skips(self, line: str) -> bool:
        entry = _entry(line)
        extension, of_rows = _EXTENSION.match(entry), _ROWS.match(entry)
        return bool(
            _KINDS.match(entry)
            or (extension and extension[1] in self.extensions)
            or (of_rows and any(of_rows[1].startswith(f"{table} ") for table in self.rows))
        )


def of_role(conn: psycopg.Connection, pg_restore: Path, target: Target, archive: Path) -> Selection:
    """Return what the role of `conn` restores from an archive.

    Raise PreconditionError if the archive has objects of a role that is not a superuser, and that this role is not a
    member of: in a copy they would be this role's, and their code would run with its rights.
    """
    if conn.execute("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user").fetchone() == (True,):
        return Selection()
    entries = [_entry(line) for line in _listed(pg_restore, target, archive)]
    roles: dict[str, str] = dict(conn.execute(_ROLES).fetchall())
    roles["pg_database_owner"] = "ours"  # of the copy
    of_initdb = _OF_INITDB if conn.info.server_version < 150000 else ()
    owners = {entry: _owner(entry, roles) for entry in entries if not entry.startswith(of_initdb)}
    if others := sorted(
        {owner for entry, owner in owners.items() if roles.get(owner) == "other" and not _PLAIN.match(entry)}
    ):
        named = ", ".join(f'"{name}"' for name in others)
        raise PreconditionError(
            f'the database has objects of {named}, and role "{conn.info.user}", which is not a member of it, '
            "cannot make a copy of them",
            f'As a superuser: GRANT {named} TO "{conn.info.user}"; or use a superuser. '
            "--verify-backup read needs neither. Nothing was changed.",
        )
    untrusted: dict[str, list[str]] = dict(conn.execute(_UNTRUSTED).fetchall())
    extensions = sorted({found[1] for entry in entries if (found := _EXTENSION.match(entry))} & untrusted.keys())
    if not extensions and all(roles.get(owner, "ours") == "ours" for owner in owners.values()):
        return Selection()
    kinds = [entry for entry in entries if _KINDS.match(entry) and not entry.startswith(("COMMENT", "SECURITY"))]
    left_out = [
        *(f"publication {name}" for name in _names(kinds, "PUBLICATION - ")),
        *(f"event trigger {name}" for name in _names(kinds, "EVENT TRIGGER - ")),
        *(f"extension {name}" for name in extensions),
        "owners and rights",
    ]
    rows = frozenset(table for name in extensions for table in untrusted[name])
    return Selection(conn.info.user, tuple(left_out), _WITHOUT, frozenset(extensions), rows)


def _owner(entry: str, roles: Iterable[str]) -> str:
    """Return the role at the end of an entry, whose names may have blanks; "" without one."""
    return max((name for name in roles if entry.endswith(f" {name}")), key=len, default="")


def _names(entries: list[str], kind: str) -> list[str]:
    return [entry.removeprefix(kind).rpartition(" ")[0] for entry in entries if entry.startswith(kind)]


def _listed(pg_restore: Path, target: Target, archive: Path) -> list[str]:
    return pg_tools.run([str(pg_restore), "--list", str(archive)], target, "the backup cannot be read").splitlines()


def _entry(line: str) -> str:
    found = _ENTRY.fullmatch(line)
    return found[1] if found else ""
