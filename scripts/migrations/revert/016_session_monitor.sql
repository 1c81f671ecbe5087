DROP FUNCTION pgvigil.own_session_monitor();
DROP VIEW pgvigil.session_monitor;
DROP FUNCTION pgvigil.set_monitor_logging(text, interval),
    pgvigil.report_monitor(uuid, bigint, jsonb, jsonb, jsonb, boolean),
    pgvigil.register_monitor(uuid, text, text, integer, interval), pgvigil.fold_monitors(uuid[]),
    pgvigil.sum_histograms(jsonb[]), pgvigil.sum_monitors(jsonb[]);
DROP TABLE pgvigil.monitor_settings, pgvigil.session_monitor_totals, pgvigil.session_monitors;
