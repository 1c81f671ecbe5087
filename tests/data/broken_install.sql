-- What an earlier, broken script left behind on top of the existing install: our names in other shapes, with rows in them.
ALTER TABLE sessions ADD COLUMN last_activity_at timestamptz DEFAULT now(),
                     ADD COLUMN is_dormant boolean DEFAULT false,
                     ADD COLUMN retention_policy varchar(50);
UPDATE sessions SET is_dormant = NULL WHERE md5(id::text) < '3';
CREATE INDEX idx_sessions_is_dormant ON sessions (is_dormant);

CREATE TABLE session_lifecycle (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    event_type varchar(50) NOT NULL,
    event_data jsonb DEFAULT '{}',
    created_at timestamptz DEFAULT now()
);
CREATE INDEX idx_session_lifecycle_session_id ON session_lifecycle (session_id);
CREATE TABLE system_metrics (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    metric_name varchar(100) NOT NULL,
    metric_value numeric NOT NULL,
    metric_type varchar(50) NOT NULL,
    labels jsonb DEFAULT '{}',
    recorded_at timestamptz DEFAULT now()
);
CREATE TABLE performance_logs (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    operation varchar(100) NOT NULL,
    duration_ms integer NOT NULL,
    success boolean NOT NULL,
    session_id uuid REFERENCES sessions (id),
    metadata jsonb DEFAULT '{}',
    created_at timestamptz DEFAULT now()
);
CREATE TABLE analytics_aggregations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregation_type varchar(50) NOT NULL,
    time_bucket timestamptz NOT NULL,
    aggregation_data jsonb NOT NULL,
    created_at timestamptz DEFAULT now()
);
CREATE VIEW session_monitoring_view AS SELECT id, status, is_dormant FROM sessions;

INSERT INTO session_lifecycle (session_id, event_type, event_data, created_at)
SELECT id, (ARRAY['created', 'status_changed', 'archived'])[1 + ascii(md5(id::text)) % 3],
       CASE WHEN md5(id::text) < '8' THEN '{"by": "script"}'::jsonb END, coalesce(created_at, '2026-10-01')
FROM sessions;
INSERT INTO system_metrics (metric_name, metric_value, metric_type, labels, recorded_at)
SELECT 'queue_depth', n, 'gauge', jsonb_build_object('node', n % 7), timestamptz '2026-11-01' - n * interval '1 hour' FROM generate_series(1, 3000) n;
INSERT INTO performance_logs (operation, duration_ms, success, session_id, created_at)
SELECT 'op-' || n % 9, n % 500, n % 11 > 0, CASE WHEN n % 2 = 0 THEN md5('s' || 1 + n % 6000)::uuid END, timestamptz '2026-11-01' - n * interval '3 minutes'
FROM generate_series(1, 5000) n;
INSERT INTO analytics_aggregations (aggregation_type, time_bucket, aggregation_data)
SELECT 'session_stats', timestamptz '2026-10-01' + n * interval '1 hour', '{"total_sessions": 1}' FROM generate_series(1, 100) n;

-- Rows that no constraint stopped at the time.
INSERT INTO system_metrics (metric_name, metric_value, metric_type) VALUES ('bad', 'NaN', 'gauge'), ('bad', 1, 'banana');
INSERT INTO performance_logs (operation, duration_ms, success) VALUES ('bad', -5, true);
INSERT INTO analytics_aggregations (aggregation_type, time_bucket, aggregation_data)
VALUES ('session_stats', timestamptz '2026-10-01 01:00+00', '{"total_sessions": 2}');
