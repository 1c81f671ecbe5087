"""The queries of docs/queries.md: each is answered as the page says, by the indexes that are there, and in one statement."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from conftest import PROJECT, Connection, Database, Templates, _new_database
from pgvigil.database import parse_url
from pgvigil.diagnostics.plans.explain import explain

pytestmark = pytest.mark.oldest_and_newest

DATA = """
SET synchronous_commit = on;
SET session_replication_role = replica;  -- what the triggers would write is written below, all at once
INSERT INTO sessions (id, session_key, agent_from, status, is_dormant, last_activity_at)
SELECT md5('s' || n)::uuid, n, 'a', CASE WHEN n % 50 = 0 THEN 'pending' WHEN n % 10 = 0 THEN 'active' ELSE 'completed' END, n % 100 = 1,
       now() - n * interval '1 minute'
FROM generate_series(1, 20000) n;
INSERT INTO context_history (session_id, sequence_number, context_type, content)
SELECT md5('s' || n)::uuid, k, 'message', repeat('x', 100) FROM generate_series(1, 20000) n, generate_series(1, 3) k;
INSERT INTO pgvigil.session_counters SELECT id, 2, 0, 200 FROM sessions;
INSERT INTO pgvigil.session_counter_changes SELECT id, 1, 0, 100 FROM sessions;
INSERT INTO session_lifecycle (session_id, event_type) SELECT id, 'created' FROM sessions;
INSERT INTO session_lifecycle (session_id, event_type) SELECT id, 'expired' FROM sessions WHERE status = 'completed' LIMIT 100;
INSERT INTO handoff_requests (session_id, requesting_agent, status)
SELECT id, 'a', CASE WHEN status = 'pending' THEN status ELSE 'completed' END FROM sessions;
INSERT INTO query_executions (execution_id, user_id, query, database_type, status, started_at)
SELECT n, 'u' || n % 100, 'SELECT', 'postgresql', 'success', now() - n * interval '1 second' FROM generate_series(1, 20000) n;
INSERT INTO performance_logs (operation, duration_ms, success) SELECT 'o', 1, true FROM generate_series(1, 20000);
"""


@dataclass(frozen=True)
class Query:
    """A block of the page: what is promised, and the statement."""

    only: bool
    indexes: frozenset[str]
    sql: str

    def __str__(self) -> str:
        return " ".join(self.sql.split())[:60]


def page() -> list[Query]:
    """Return all blocks of the page. A block without a promise is an error: it would not be tested."""
    text = (PROJECT / "docs" / "queries.md").read_text()
    found = re.findall(r"```sql\n-- (index only|by index): (.*)\n([^`]*)```", text)
    assert len(found) == text.count("```sql")
    return [Query(kind == "index only", frozenset(names.split(", ")), sql) for kind, names, sql in found]


@pytest.fixture(scope="module")
def filled(templates: Templates) -> Iterator[Database]:
    with _new_database(templates.server, templates.get("fresh")) as new:
        with new.connect() as connection:
            connection.execute(DATA)
            connection.execute("VACUUM (ANALYZE, INDEX_CLEANUP ON)")  # also of what the tests of setup rolled back
        yield new


def parameters(database: Database, query: Query) -> list[str]:
    [(ids, one)] = database.execute(
        "SELECT array_agg(id)::text, min(id::text) FROM (SELECT id FROM sessions LIMIT 20) s"
    )
    if "user_id = $1" in query.sql:
        return [
            "u7",
            *map(str, database.execute("SELECT started_at, id FROM query_executions WHERE execution_id = '107'")[0]),
        ]
    if "$1::timestamptz" in query.sql:
        return [str(database.execute("SELECT now() - interval '1 hour'")[0][0])]
    return [ids if "ANY ($1" in query.sql else one] if "$1" in query.sql else []


@pytest.mark.parametrize("query", page(), ids=str)
def test_a_query_is_answered_by_the_indexes_that_the_page_names(filled: Database, query: Query) -> None:
    explained = explain(parse_url(filled.url, "test"), query.sql, parameters(filled, query))
    assert explained.row_count > 0
    assert [finding for finding in explained.findings if finding.level == "warning"] == []
    nodes = list(walk(explained.plan["Plan"]))
    read = [
        node for node in nodes if node["Shared Hit Blocks"] + node["Shared Read Blocks"]
    ]  # not a partition without rows
    used = [finding.sentence for finding in explained.findings if finding.finding == "index_used"]
    assert {re.sub(r".* uses (\w+),.*", r"\1", sentence) for sentence in used} == query.indexes
    if query.only:
        scans = {node["Node Type"] for node in read if "Relation Name" in node}
        assert (scans, sum(node.get("Heap Fetches", 0) for node in read)) == ({"Index Only Scan"}, 0)


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)


# --- one query instead of N+1 ----------------------------------------------------------------------------------------


class Counting(psycopg.RawCursor[Any]):
    """A cursor that counts the statements of all cursors."""

    statements = 0

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        Counting.statements += 1
        return super().execute(*args, **kwargs)


def one_by_one(connection: Connection, query: Query, ids: list[str]) -> list[tuple[Any, ...]]:
    """Query one row at a time, as a loop would."""
    rows = []
    if "LATERAL" in query.sql:
        listed = "SELECT id, session_key, last_activity_at FROM sessions WHERE status = 'active' ORDER BY last_activity_at DESC LIMIT 20"
        for session in connection.execute(listed).fetchall():
            last = "SELECT sequence_number, context_type, content FROM context_history WHERE session_id = $1 ORDER BY sequence_number DESC LIMIT 1"
            rows.append(session + connection.execute(last, session[:1]).fetchall()[0])
    elif "FROM context_history" in query.sql:
        for one in ids:
            of_one = "SELECT session_id, sequence_number, context_type, content FROM context_history WHERE session_id = $1 ORDER BY sequence_number"
            rows += connection.execute(of_one, [one]).fetchall()
    else:
        for one in ids:
            held = "SELECT session_id, count(*), coalesce(sum(tokens_used), 0), sum(octet_length(content)) FROM context_history WHERE session_id = $1 GROUP BY 1"
            rows += connection.execute(held, [one]).fetchall()
    return rows


@pytest.mark.client_side
@pytest.mark.parametrize("query", page()[:3], ids=str)
def test_one_statement_answers_what_a_loop_asks_many_for(filled: Database, query: Query) -> None:
    values = parameters(filled, query)
    with filled.connect(cursor_factory=Counting) as connection:
        ids = sorted(values[0].strip("{}").split(",")) if values else []
        Counting.statements = 0
        looped = one_by_one(connection, query, ids)
        assert Counting.statements >= 20
        Counting.statements = 0
        asked = connection.execute(query.sql.encode(), values).fetchall()
        assert Counting.statements == 1
    assert sorted(asked) == sorted(looped)
    assert len(asked) >= 20
