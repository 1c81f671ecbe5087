DELETE FROM pgvigil.jobs WHERE job = 'reap';
DROP FUNCTION pgvigil.job_reap(integer);
DELETE FROM pgvigil.partition_policies WHERE parent_table = 'instrumentation.sql_statements';
DROP VIEW instrumentation.session_activity, instrumentation.session_stats, instrumentation.active_sessions;
DROP FUNCTION instrumentation.may_read(text), instrumentation.sample_activity(uuid, text[], text[]),
    instrumentation.sampled_texts(uuid), instrumentation.kill_session(uuid, text, interval),
    instrumentation.finish_kill(uuid, text, boolean, text, boolean),
    instrumentation.signal_session(uuid, text, interval),
    instrumentation.signal_process(integer, timestamptz, text, interval),
    instrumentation.record_kill(uuid, text, boolean, text), instrumentation.judge_kill(uuid, text),
    instrumentation.heartbeat(uuid), instrumentation.reap_stale(interval), instrumentation.unknown_sessions(uuid[]),
    instrumentation.set_query_tag(jsonb), instrumentation.set_session_tag(jsonb),
    instrumentation.record_statement(text, instrumentation.statement_status, bigint, bigint, text, text, uuid, uuid,
                                     text, jsonb),
    instrumentation.stop_instance(uuid, text),
    instrumentation.close_session(uuid, text, instrumentation.session_status),
    instrumentation.register_session(uuid, uuid, integer, timestamptz, text, text, text, jsonb),
    instrumentation.register_instance(text, text, jsonb, uuid), instrumentation.current_instance(),
    instrumentation.current_session(), instrumentation.caller();
DROP TABLE instrumentation.kill_attempts, instrumentation.sql_statements, instrumentation.sessions,
    instrumentation.instances;
DROP FUNCTION instrumentation.guard(), instrumentation.guard_appended(), instrumentation.require_speaker(uuid),
    instrumentation.speaks_for(text);
DROP TYPE instrumentation.statement_status, instrumentation.session_status, instrumentation.instance_status;
