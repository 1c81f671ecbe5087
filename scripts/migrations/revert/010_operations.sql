DELETE FROM pgvigil.jobs WHERE job = ANY ('{health,backup,analyze,reindex,vacuum}'::text[]);
DROP FUNCTION pgvigil.job_health(integer), pgvigil.job_analyze(integer);
DROP FUNCTION pgvigil.settings_report(), pgvigil.integrity_report(boolean), pgvigil.check_load(boolean),
    pgvigil.check_jobs(boolean), pgvigil.check_replaced(boolean), pgvigil.replaced_objects(),
    pgvigil.check_objects(boolean), pgvigil.check_storage(boolean), pgvigil.check_counters(boolean),
    pgvigil.check_orphans(boolean), pgvigil.fits_full_scan(regclass[]), pgvigil.waiting_rows(),
    pgvigil.stored_settings(), pgvigil.watched_schemas();
DROP TABLE pgvigil.alert_thresholds;
