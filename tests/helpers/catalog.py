"""A database before and after: the rows of the application, and the whole schema."""

from __future__ import annotations

import re
import subprocess

from conftest import Database
from pgvigil.backup import pg_tools

APPLICATION_ROWS = """
    SELECT (SELECT md5(string_agg(md5(ROW(id, session_key, agent_from, agent_to, status, created_at, updated_at, expires_at, metadata)::text), '' ORDER BY id)) FROM sessions),
           (SELECT md5(string_agg(md5(ROW(id, session_id, sequence_number, context_type, content, metadata, created_at)::text), '' ORDER BY id)) FROM context_history),
           (SELECT md5(string_agg(md5(t::text), '' ORDER BY id)) FROM handoff_requests t),
           (SELECT md5(string_agg(md5(t::text), '' ORDER BY id)) FROM codebase_snapshots t),
           (SELECT md5(string_agg(md5(t::text), '' ORDER BY id)) FROM app_users t),
           (SELECT md5(string_agg(md5(t::text), '' ORDER BY agent_from)) FROM sessions_per_agent t),
           (SELECT md5(string_agg(md5(t::text), '' ORDER BY id)) FROM open_sessions t)
"""


def catalog(database: Database) -> str:
    """The whole schema as pg_dump prints it, ledger and all."""
    tool, _ = pg_tools.find_tool("pg_dump", database.server.major)
    dump = subprocess.run([tool, "--schema-only", database.url], capture_output=True, text=True, check=True).stdout
    return re.sub(r"^\\(un)?restrict .*$|^-- Dumped by.*$", "", dump, flags=re.MULTILINE)
