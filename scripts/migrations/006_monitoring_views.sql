-- Counts and the last event are correlated on the session, so they are computed only for rows that a filter lets through.
CREATE VIEW session_monitoring_view AS
SELECT s.id, s.session_key, s.agent_from, s.agent_to, s.status, s.created_at, s.updated_at,
       coalesce(s.last_activity_at, s.updated_at, s.created_at) AS last_activity_at,
       s.is_dormant, s.archived_at, s.retention_policy, s.expires_at,
       extract(epoch FROM now() - coalesce(s.last_activity_at, s.updated_at, s.created_at)) / 3600 AS hours_since_activity,
       (SELECT count(*) FROM context_history c WHERE c.session_id = s.id) AS context_entries,
       (SELECT count(*) FROM handoff_requests h WHERE h.session_id = s.id) AS handoff_requests,
       (SELECT l.event_type FROM session_lifecycle l WHERE l.session_id = s.id ORDER BY l.id DESC LIMIT 1) AS last_lifecycle_event
FROM sessions s;
COMMENT ON VIEW session_monitoring_view IS
    'One row a session: how long it has been idle, what it holds, what last happened to it. Before its first activity under watch, updated_at stands for last_activity_at';

-- The id finds the partitions, created_at tells the truth.
CREATE VIEW performance_monitoring_view AS
SELECT p.operation,
       count(*) AS total_calls,
       avg(p.duration_ms) AS avg_duration_ms,
       min(p.duration_ms) AS min_duration_ms,
       max(p.duration_ms) AS max_duration_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY p.duration_ms) AS p95_duration_ms,
       count(*) FILTER (WHERE p.success) AS successful_calls,
       count(*) FILTER (WHERE NOT p.success) AS failed_calls,
       count(*) FILTER (WHERE p.success) * 100.0 / count(*) AS success_rate_percent
FROM performance_logs p
WHERE p.id >= pgvigil.uuid_v7_floor(now() - interval '24 hours') AND p.created_at >= now() - interval '24 hours'
GROUP BY p.operation;
COMMENT ON VIEW performance_monitoring_view IS 'Calls, durations (milliseconds) and success of each operation over the last 24 hours';

-- Where the server can (15 and later), a view reads with the rights of its reader.
DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 150000 THEN
        ALTER VIEW session_monitoring_view SET (security_invoker = true);
        ALTER VIEW performance_monitoring_view SET (security_invoker = true);
    END IF;
END $$;
