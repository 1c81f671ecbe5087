"""The invented rows of `pgvigil demo`: a week of sessions, executions and operations, in a database that is the demo's
own.
"""

from __future__ import annotations

from typing import Final

import psycopg

# Times of the past are written as they are: triggers would replace them by the present.
_PAST: Final = "SET session_replication_role = replica"

# More at noon than at night; `t` is when, `r` a number that is different for each row and the same in each run.
_WHEN: Final = """
    SELECT g, now() - g * (interval '7 days' / {n}::integer) AS t, ('x' || left(md5(g::text), 8))::bit(32)::bigint % 1000 AS r
    FROM generate_series(1, {n}::integer) g"""
_KEPT: Final = "WHERE r < 400 + 550 * sin(pi() * date_part('hour', t) / 24)"

_STATEMENTS: Final = (
    f"""CREATE TEMP TABLE made AS
    SELECT g, t, r, gen_random_uuid() AS id,
           CASE WHEN t > now() - interval '6 hours' THEN (ARRAY['active', 'active', 'active', 'pending'])[1 + r % 4]
                WHEN r % 20 = 0 THEN 'active' WHEN r % 7 = 0 THEN 'expired' WHEN r % 5 = 0 THEN 'archived' ELSE 'completed' END AS status
    FROM ({_WHEN}) w {_KEPT}""",
    """INSERT INTO sessions (id, session_key, agent_from, agent_to, status, created_at, updated_at, last_activity_at, is_dormant, archived_at, retention_policy,
                              expires_at, metadata)
    SELECT m.id, (ARRAY['checkout', 'import', 'review', 'support', 'search'])[1 + m.r % 5] || '-' || to_hex(1000000 + m.g),
           (ARRAY['planner', 'researcher', 'writer', 'reviewer'])[1 + m.r % 4], CASE WHEN m.r % 3 = 0 THEN (ARRAY['writer', 'reviewer', 'planner'])[1 + m.r % 3] END,
           m.status, m.t, m.t, CASE WHEN m.status = 'active' THEN least(now(), m.t + m.r * interval '20 seconds') ELSE m.t + m.r * interval '2 seconds' END,
           m.status = 'active' AND m.t < now() - interval '1 day', CASE WHEN m.status = 'archived' THEN m.t + interval '1 hour' END, 'standard',
           CASE WHEN m.status = ANY ('{active,pending}') THEN now() + (m.r - 30) % 40 * interval '1 hour' + interval '20 minutes' ELSE m.t + interval '1 day' END,
           jsonb_build_object('channel', (ARRAY['web', 'app', 'api'])[1 + m.r % 3])
    FROM made m""",
    # An id is made of the time, so that a row is in the partition of its time.
    """INSERT INTO session_lifecycle (id, session_id, event_type, event_data, created_at)
    SELECT overlay(pgvigil.uuid_v7_floor(e.at)::text PLACING right(gen_random_uuid()::text, 12) FROM 25)::uuid, e.id, e.type, e.data || jsonb_build_object('actor', e.actor), e.at
    FROM (SELECT m.id, 'created' AS type, '{}'::jsonb AS data, 'shop' AS actor, m.t AS at FROM made m
          UNION ALL
          SELECT m.id, 'status_changed', jsonb_build_object('from', 'pending', 'to', 'active'), (ARRAY['alice', 'bob', 'shop'])[1 + m.r % 3], m.t + interval '30 seconds' FROM made m WHERE m.r % 2 = 0
          UNION ALL
          SELECT m.id, 'dormant', '{}', 'job dormancy', m.t + interval '1 day' FROM made m WHERE m.status = 'active' AND m.t < now() - interval '1 day'
          UNION ALL
          SELECT m.id, m.status, '{}', CASE m.status WHEN 'expired' THEN 'job expiry' ELSE 'web:alice' END, m.t + interval '1 hour' FROM made m WHERE m.status = ANY ('{expired,archived}')) e
    WHERE e.at < now()""",
    """INSERT INTO context_history (session_id, sequence_number, context_type, content, created_at, processing_time_ms, content_size_bytes, tokens_used)
    SELECT m.id, s, (ARRAY['message', 'tool_call', 'file'])[1 + (m.r + s) % 3], repeat('A sentence that an agent wrote. ', 2 + ((m.r + s) % 9)::integer),
           m.t + s * interval '40 seconds', 20 + (m.r * s) % 900, 32 * (2 + (m.r + s) % 9), 7 * (2 + (m.r + s) % 9)
    FROM made m CROSS JOIN generate_series(1, 4) s WHERE s <= 1 + m.r % 4""",
    """INSERT INTO handoff_requests (session_id, requesting_agent, target_agent, status, created_at, completed_at)
    SELECT m.id, 'planner', 'writer', (ARRAY['completed', 'accepted', 'rejected', 'pending'])[1 + m.r % 4], m.t + interval '2 minutes',
           CASE WHEN m.r % 4 < 3 THEN m.t + interval '3 minutes' END FROM made m WHERE m.r % 6 = 0""",
    f"""INSERT INTO query_executions (execution_id, user_id, conversation_id, query, database_type, query_complexity, status, execution_time, total_rows, returned_rows,
                                     started_at, completed_at, error_type, error_message)
    SELECT 'demo-' || e.g, (ARRAY['ada', 'bob', 'chen', 'dana', 'eli'])[1 + e.r % 5], 'conversation ' || e.g / 6,
           (ARRAY['SELECT o.id, o.total FROM orders o WHERE o.customer_id = $1 ORDER BY o.id DESC LIMIT 20', 'SELECT count(*) FROM carts WHERE updated_at > $1',
                  'UPDATE stock SET held = held + $1 WHERE sku = $2', 'db.products.find(name: $1)'])[1 + e.r % 4],
           (ARRAY['postgresql', 'postgresql', 'mysql', 'mongodb'])[1 + e.r % 4], (ARRAY['SINGLE_LINE', 'MULTI_LINE'])[1 + e.r % 2], e.status,
           CASE e.status WHEN 'timeout' THEN 30 ELSE round(exp(e.r / 160.0 - 6)::numeric, 4)::double precision END, e.r % 300, least(e.r % 300, 50), e.t, e.t + interval '1 second',
           CASE e.status WHEN 'timeout' THEN '57014' WHEN 'failed' THEN '23505' WHEN 'error' THEN 'ConnectionError' END,
           CASE e.status WHEN 'timeout' THEN 'canceling statement due to statement timeout' WHEN 'failed' THEN 'duplicate key value violates unique constraint "***"'
                         WHEN 'error' THEN 'the server closed the connection unexpectedly' END
    FROM (SELECT w.*, CASE WHEN w.r % 61 = 0 THEN 'timeout' WHEN w.r % 29 = 0 OR w.t > now() - interval '20 hours' AND w.t < now() - interval '18 hours' AND w.r % 4 = 0
                                                                 OR w.t > date_trunc('hour', now()) - interval '2 hours' AND w.r % 3 = 0 THEN 'failed'
                           WHEN w.r % 83 = 0 THEN 'error' ELSE 'success' END AS status
          FROM ({_WHEN}) w {_KEPT}) e ORDER BY e.t""",
    f"""INSERT INTO performance_logs (id, operation, duration_ms, success, session_id, created_at)
    SELECT overlay(pgvigil.uuid_v7_floor(w.t)::text PLACING right(gen_random_uuid()::text, 12) FROM 25)::uuid,
           (ARRAY['session.load', 'session.load', 'context.append', 'handoff', 'search', 'checkout'])[1 + w.r % 6],
           (3 + w.r % 40 + CASE WHEN w.r % 6 = 4 THEN 120 ELSE 0 END) * (1 + (w.r % 97 = 0)::integer * 9) * (1 + (w.t > now() - interval '9 hours' AND w.t < now() - interval '7 hours')::integer * 2),
           w.r % (CASE WHEN w.r % 6 = 5 THEN 23 ELSE 211 END) > 0, CASE WHEN w.r % 2 = 0 THEN m.id END, w.t
    FROM ({_WHEN}) w LEFT JOIN made m ON m.g = w.g / 12 {_KEPT.replace("r <", "w.r <").replace(", t)", ", w.t)")}""",
)
# What a demo cannot do without a shell, and a backup of made-up rows.
_SWITCHED_OFF: Final = "UPDATE pgvigil.jobs SET enabled = false WHERE needs_client"
_FIRST_JOBS: Final = ("partitions", "counters", "totals", "rollup", "aggregation", "analyze", "anomalies")


def insert(url: str, sessions: int) -> None:
    """Insert about that many sessions, six times as many executions and operations, and count them."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_PAST)
        for statement in _STATEMENTS:
            many = sessions * (1 if "CREATE TEMP" in statement else 6)
            connection.execute(statement.replace("{n}", str(many)).encode())
        connection.execute("RESET session_replication_role")
        connection.execute("SELECT FROM pgvigil.recount_session_counters()")
        connection.execute(_SWITCHED_OFF)
        for job in _FIRST_JOBS:
            connection.execute("CALL pgvigil.run_job(%s)", (job,))
        connection.execute("VACUUM performance_logs, session_lifecycle")  # partitions were made and filled just now
