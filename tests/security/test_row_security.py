"""Test what a tenant sees of other tenants through pgvigil, although row security hides their sessions."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from conftest import Database
from security.planted import RELATIONS

pytestmark = pytest.mark.in_full


@pytest.fixture
def tenants(own: Database) -> Database:
    own.execute(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON sessions, context_history, codebase_snapshots, handoff_requests TO x_stranger"
    )
    own.execute(
        """INSERT INTO sessions (session_key, agent_from, status) VALUES ('xq7key1', 'xq7other', 'active'), ('xq7gone', 'xq7other', 'active');
           INSERT INTO context_history (session_id, sequence_number, context_type, content) SELECT id, 1, 'message', 'xq7other' FROM sessions;
           INSERT INTO handoff_requests (session_id, requesting_agent, target_agent) SELECT id, 'xq7other', 'xq7other' FROM sessions;
           DELETE FROM sessions WHERE session_key = 'xq7gone';
           ALTER TABLE sessions ENABLE ROW LEVEL SECURITY; ALTER TABLE context_history ENABLE ROW LEVEL SECURITY;
           ALTER TABLE handoff_requests ENABLE ROW LEVEL SECURITY;
           CREATE POLICY own_rows ON sessions USING (agent_from = current_user);
           CREATE POLICY own_rows ON context_history USING (content = current_user);
           CREATE POLICY own_rows ON handoff_requests USING (requesting_agent = current_user)"""
    )
    return own


FUNCTIONS = """
    SELECT p.oid::regproc::text, ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) t)
    FROM pg_proc p WHERE p.pronamespace IN ('pgvigil'::regnamespace, 'instrumentation'::regnamespace, 'public'::regnamespace)
      AND p.prokind = 'f' AND p.prorettype <> 'trigger'::regtype AND has_function_privilege(p.oid, 'EXECUTE')"""


# docs/security.md names these: they have no policies of their own.
WITHOUT_POLICIES = {
    "pgvigil.deleted_sessions",
    "pgvigil.session_counters",
    "pgvigil.session_counter_changes",
    "session_lifecycle",
}
# On PostgreSQL 14 views ignore row security.
VIEWS_ON_14 = {"session_monitoring_view", "session_content_view"}
VALUES = {
    "uuid": "{id}",
    "text": "'xq7key1'",
    "integer": "7",
    "bigint": "7",
    "boolean": "true",
    "interval": "interval '1 day'",
}


@pytest.fixture
def tenant(tenants: Database) -> Iterator[psycopg.Connection]:
    tenants.execute("GRANT pgvigil_reader TO x_stranger")
    try:
        with tenants.connect(user="x_stranger") as conn:
            yield conn
    finally:
        tenants.execute("REVOKE pgvigil_reader FROM x_stranger")


@pytest.mark.in_short
def test_a_reader_sees_other_tenants_only_where_the_page_says_so(tenants: Database, tenant: psycopg.Connection) -> None:
    [(other,)] = tenants.execute("SELECT id::text FROM sessions")
    seen = {
        relation
        for (relation,) in tenant.execute(RELATIONS).fetchall()
        if any(
            word in str(tenant.execute(f"SELECT r::text FROM {relation} r".encode()).fetchall())
            for word in (other, "xq7")
        )
    }
    assert "session_lifecycle" in seen
    assert seen <= WITHOUT_POLICIES | (VIEWS_ON_14 if tenant.info.server_version < 150000 else set())


@pytest.mark.in_short
def test_no_function_that_a_reader_may_call_shows_other_tenants(tenants: Database, tenant: psycopg.Connection) -> None:
    [(other,)] = tenants.execute("SELECT id::text FROM sessions")
    for name, types in tenant.execute(FUNCTIONS).fetchall():
        values = ", ".join(VALUES.get(kind, "NULL").format(id=f"'{other}'") + f"::{kind}" for kind in types)
        try:
            answer = str(tenant.execute(f"SELECT * FROM {name}({values})".encode()).fetchall())
        except psycopg.Error as error:
            answer = str(error)
        assert "xq7" not in answer.replace("xq7key1", ""), name
