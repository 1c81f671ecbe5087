-- After each run: rights and owners of the objects of all files. "{app}" is the application's schema. Running it again
-- changes nothing.

-- PUBLIC may call what does nothing but with the caller's own rights and was made for everybody, and the few functions
-- that look themselves at who asks. Above all it may hang no function of ours on a table of its own: a row brings its
-- types along, and their casts run as the function's owner.
DO $$
DECLARE
    one record;
    for_everybody CONSTANT text[] :=
        '{uuid_v7,uuid_v7_floor,uuid_v7_time,actor,content_bytes,time_slot,histogram_bin,histogram_value,'
        'histogram_unit,histogram_rank,histogram_quantile,application_schema,application_table,use_application_path,'
        'require_session,schedule_expiration,expire_session,mark_session_dormant,archive_session,reactivate_session,'
        'record_metric,record_performance,current_session,current_instance,set_session_tag,set_query_tag,'
        'kill_session,judge_kill,caller,may_read}';
BEGIN
    FOR one IN
        SELECT p.oid::regprocedure AS routine, p.proname = ANY (for_everybody) AS wanted
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = ANY ('{pgvigil,instrumentation}'::name[])
          AND (p.proname = ANY (for_everybody))
              <> EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                                                          WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE')
        ORDER BY p.oid
    LOOP
        EXECUTE format(CASE WHEN one.wanted THEN 'GRANT EXECUTE ON ROUTINE %s TO PUBLIC'
                            ELSE 'REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC' END,
                       one.routine);
    END LOOP;
END $$;

-- Where the tables have no owner but a superuser, what he has made comes to belong to a role without login: a function
-- with its owner's rights must never have a superuser's, because the row types that its triggers meet may bring code
-- along.
DO $$
DECLARE
    -- The first time it is a superuser's; then, file by file, the role's that this gives it to.
    nobody_s_own boolean :=
        (SELECT r.rolsuper OR r.rolname = 'pgvigil_owner' FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
                             WHERE c.oid = to_regclass(format('%I.sessions', pgvigil.application_schema())));
    is_new boolean := coalesce((SELECT NOT m.baselined FROM pgvigil.migrations m WHERE m.revision = '000'), true);
    tables text[] :=
        '{session_lifecycle,system_metrics,performance_logs,analytics_aggregations,query_executions,'
        'session_monitoring_view,performance_monitoring_view,session_content_view,execution_analytics,'
        'user_recent_executions}';
    ours   oid[] := ARRAY(SELECT n.oid FROM pg_namespace n WHERE n.nspname = ANY ('{pgvigil,instrumentation}'::name[]));
    app    oid := (SELECT n.oid FROM pg_namespace n WHERE n.nspname = pgvigil.application_schema());
    to_role oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = 'pgvigil_owner');
    one    record;
BEGIN
    IF nobody_s_own IS NOT TRUE OR NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO pgvigil_owner', pgvigil.application_schema());
    IF is_new THEN
        tables := tables || '{sessions,context_history,codebase_snapshots,handoff_requests}'::text[];
    ELSE
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER
                        ON %1$I.sessions, %1$I.context_history, %1$I.codebase_snapshots, %1$I.handoff_requests
                        TO pgvigil_owner', pgvigil.application_schema());
    END IF;
    -- A partition and a sequence that a column owns are named after what they belong to; the schemas come last.
    FOR one IN
        SELECT 'TABLE' AS kind, c.oid::regclass::text AS name FROM pg_class c
        WHERE c.relowner <> to_role AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
          AND (c.relnamespace = ANY (ours) OR c.relnamespace = app AND EXISTS (
                   SELECT FROM pg_class t WHERE t.relnamespace = app AND t.relname = ANY (tables)
                     AND (t.oid = c.oid
                          OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid AND i.inhparent = t.oid))))
        UNION ALL
        SELECT 'ROUTINE', p.oid::regprocedure::text
        FROM pg_proc p
        WHERE p.proowner <> to_role AND p.pronamespace = ANY (ours)
        UNION ALL
        SELECT CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, t.oid::regtype::text FROM pg_type t
        WHERE t.typowner <> to_role AND t.typnamespace = ANY (ours) AND t.typtype IN ('d', 'e')
        UNION ALL
        SELECT 'SCHEMA', quote_ident(n.nspname) FROM pg_namespace n WHERE n.oid = ANY (ours) AND n.nspowner <> to_role
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO pgvigil_owner', one.kind, one.name);
    END LOOP;
END $$;
