-- The columns, their order and types are those of the view that an application may make itself at each start by CREATE
-- OR REPLACE: none can be added. last_activity_at is the column itself, so that its indexes give the order. Counts and
-- the last event are correlated on the session, so they are computed only for rows that a filter lets through, and only
-- the columns that are asked for. A session that no job has counted yet has no row in session_counters: its entries are
-- counted themselves, which takes less time than to add up as many changes. The range of change_id holds every change:
-- a table that was empty when it was last analyzed has no statistics, and with this condition the planner uses the
-- index all the same.
CREATE VIEW "{app}".session_monitoring_view AS
SELECT s.id, s.session_key, s.agent_from, s.agent_to, s.status, s.created_at, s.updated_at, s.last_activity_at,
       s.is_dormant, s.archived_at, s.retention_policy, s.expires_at,
       CASE WHEN isfinite(s.last_activity_at)  -- one infinite time would fail the view up to 16
            THEN round(extract(epoch FROM now() - s.last_activity_at) / 3600, 2) END AS hours_since_activity,
       coalesce((SELECT (c.context_count
                         + coalesce((SELECT sum(d.context_count)
                                     FROM pgvigil.session_counter_changes d
                                     WHERE d.session_id = c.session_id
                                       AND d.change_id BETWEEN '00000000-0000-0000-0000-000000000000'
                                                           AND 'ffffffff-ffff-ffff-ffff-ffffffffffff'), 0))::bigint
                 FROM pgvigil.session_counters c
                 WHERE c.session_id = s.id),
                (SELECT count(*) FROM "{app}".context_history e WHERE e.session_id = s.id)) AS context_entries,
       (SELECT count(*) FROM "{app}".handoff_requests h WHERE h.session_id = s.id) AS handoff_requests,
       (SELECT l.event_type
        FROM "{app}".session_lifecycle l
        WHERE l.session_id = s.id
        ORDER BY l.id DESC
        LIMIT 1) AS last_lifecycle_event
FROM "{app}".sessions s;
COMMENT ON VIEW "{app}".session_monitoring_view IS
    'One row a session: how long it has been idle, what it holds, what last happened to it';

-- All three counters come from one look at the changes, which is made only for rows that are asked for.
CREATE VIEW "{app}".session_content_view AS
SELECT s.id AS session_id,
       CASE WHEN counted.known THEN coalesce(c.context_count, 0) + d.context_count
            ELSE (SELECT h.context_count FROM pgvigil.count_context(s.id) h) END AS context_count,
       CASE WHEN counted.known THEN coalesce(c.total_tokens, 0) + d.total_tokens
            ELSE (SELECT h.total_tokens FROM pgvigil.count_context(s.id) h) END AS total_tokens,
       CASE WHEN counted.known THEN coalesce(c.total_content_bytes, 0) + d.total_content_bytes
            ELSE (SELECT h.total_content_bytes FROM pgvigil.count_context(s.id) h) END AS total_content_bytes
FROM "{app}".sessions s LEFT JOIN pgvigil.session_counters c ON c.session_id = s.id
CROSS JOIN LATERAL (SELECT c.session_id IS NOT NULL
                    OR EXISTS (SELECT FROM pgvigil.migrations m WHERE m.revision = '015') AS known) counted
CROSS JOIN LATERAL (
    SELECT coalesce(sum(n.context_count), 0)::bigint AS context_count,
           coalesce(sum(n.total_tokens), 0)::bigint AS total_tokens,
           coalesce(sum(n.total_content_bytes), 0)::bigint AS total_content_bytes
    FROM pgvigil.session_counter_changes n WHERE n.session_id = s.id
      AND n.change_id BETWEEN '00000000-0000-0000-0000-000000000000' AND 'ffffffff-ffff-ffff-ffff-ffffffffffff') d;
COMMENT ON VIEW "{app}".session_content_view IS
    'Contents of each session: entries of its context, their tokens and bytes';

-- From the rollups, and from the rows that are not yet in them.
CREATE VIEW "{app}".performance_monitoring_view AS
SELECT w.operation::varchar(100) AS operation, w.total_calls, w.avg_duration_ms, w.min_duration_ms, w.max_duration_ms,
       w.p95_duration_ms, w.successful_calls, w.failed_calls, w.success_rate_percent
FROM pgvigil.performance_window(interval '24 hours') w;
COMMENT ON VIEW "{app}".performance_monitoring_view IS
    'Calls, durations (milliseconds; p95 exact until rollups hold an operation, then within 1 %) and success of '
    'each operation over the last 24 hours, begun minutes whole';

-- Where the server can (15 and later), a view reads with the rights of its reader.
DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 150000 THEN
        ALTER VIEW "{app}".session_monitoring_view SET (security_invoker = true);
        ALTER VIEW "{app}".session_content_view SET (security_invoker = true);
        ALTER VIEW "{app}".performance_monitoring_view SET (security_invoker = true);
    END IF;
END $$;
