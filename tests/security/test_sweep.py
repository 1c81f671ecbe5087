"""Each command over each kind of planted code: none of it runs with more than its owner's rights, and none ends in a defect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from security.conftest import COUNTED, Installation
from security.planted import plant_on_application, plant_triggers

pytestmark = pytest.mark.in_full

# Tables of ours that some command writes.
WRITTEN = [
    "{app}.session_lifecycle", "{app}.system_metrics", "{app}.performance_logs", "{app}.query_executions", "{app}.analytics_aggregations",
    "pgvigil.jobs", "pgvigil.job_runs", "pgvigil.migrations", "pgvigil.backup_proofs", "pgvigil.archives", "pgvigil.archive_erasures",
    "pgvigil.session_counters", "pgvigil.deleted_sessions", "pgvigil.execution_rollups", "pgvigil.alert_thresholds",
    "instrumentation.instances", "instrumentation.kill_attempts",
]  # fmt: skip
PLANNED = "CREATE FUNCTION {app}.planned() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN {app}.spring(); END $$;"
KINDS = {
    "triggers": "",
    "rules": "".join(
        f"CREATE RULE also_{n} AS ON {event} TO {table} DO ALSO SELECT {{app}}.spring();"
        for n, (table, event) in enumerate(
            (table, event)
            for table in ("{app}.sessions", "{app}.context_history", "{app}.session_lifecycle", "pgvigil.job_runs", "pgvigil.backup_proofs")
            for event in ("INSERT", "UPDATE", "DELETE")
        )
    ),
    "a child with a CHECK": f"""{PLANNED}
        CREATE TABLE {{app}}.child (CHECK (id IS NOT NULL OR {{app}}.planned())) INHERITS ({{app}}.sessions);
        CREATE TABLE {{app}}.jobs_too (CHECK (job <> 'x' OR {{app}}.planned())) INHERITS (pgvigil.jobs)""",
    "a child with an index": f"""{PLANNED}
        CREATE TABLE {{app}}.child () INHERITS ({{app}}.sessions);
        CREATE INDEX ON {{app}}.child (id) WHERE {{app}}.planned()""",
    "statistics": f"""{PLANNED}
        CREATE STATISTICS {{app}}.s ON (status || {{app}}.planned()::text), id FROM {{app}}.sessions""",
    "an own type of a column": """
        CREATE TYPE {app}.evil AS ENUM ('agent');
        CREATE FUNCTION {app}.evil_text({app}.evil) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM {app}.spring(); RETURN 'agent'; END $$;
        CREATE FUNCTION {app}.evil_json({app}.evil) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM {app}.spring(); RETURN '1'; END $$;
        CREATE CAST ({app}.evil AS text) WITH FUNCTION {app}.evil_text({app}.evil) AS IMPLICIT;
        CREATE CAST ({app}.evil AS json) WITH FUNCTION {app}.evil_json({app}.evil);
        ALTER TABLE {app}.handoff_requests ADD COLUMN extra {app}.evil;
        ALTER TABLE {app}.sessions ADD COLUMN extra {app}.evil DEFAULT 'agent'""",
    "casts of our row types": """
        DO $do$ DECLARE one regclass; BEGIN
            FOR one IN SELECT c.oid FROM pg_class c WHERE c.relkind IN ('r', 'v', 'p') AND NOT c.relispartition
                        AND (c.relnamespace IN ('pgvigil'::regnamespace, 'instrumentation'::regnamespace) OR c.oid = '{app}.sessions'::regclass) LOOP
                EXECUTE format('CREATE FUNCTION {app}.%I(%s) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN PERFORM {app}.spring(); RETURN ''x''; END $f$', 'text_' || one::oid, one);
                EXECUTE format('CREATE FUNCTION {app}.%I(%s) RETURNS json LANGUAGE plpgsql AS $f$ BEGIN PERFORM {app}.spring(); RETURN ''1''; END $f$', 'json_' || one::oid, one);
                EXECUTE format('CREATE CAST (%s AS text) WITH FUNCTION {app}.%I(%1$s) AS IMPLICIT', one, 'text_' || one::oid);
                EXECUTE format('CREATE CAST (%s AS json) WITH FUNCTION {app}.%I(%1$s)', one, 'json_' || one::oid);
            END LOOP;
        END $do$""",
    "a policy": """ALTER TABLE {app}.sessions ENABLE ROW LEVEL SECURITY; ALTER TABLE {app}.sessions FORCE ROW LEVEL SECURITY;
        CREATE POLICY p ON {app}.sessions USING ({app}.spring() OR true);
        ALTER TABLE pgvigil.jobs ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON pgvigil.jobs USING ({app}.spring() OR true)""",
    "a default": "ALTER TABLE {app}.sessions ADD COLUMN extra boolean DEFAULT {app}.spring()",
    "casts of our types": """
        DO $do$ DECLARE one regtype; BEGIN
            FOR one IN SELECT t.oid FROM pg_type t WHERE t.typtype = 'e' AND t.typnamespace = 'instrumentation'::regnamespace LOOP
                EXECUTE format('CREATE FUNCTION {app}.%I(%s) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN PERFORM {app}.spring(); RETURN ''active''; END $f$', 'text_' || one::oid, one);
                EXECUTE format('CREATE CAST (%s AS text) WITH FUNCTION {app}.%I(%1$s) AS IMPLICIT', one, 'text_' || one::oid);
            END LOOP;
        END $do$""",
    "a CHECK of our domain": "ALTER DOMAIN pgvigil.event_type ADD CHECK ({app}.spring()) NOT VALID",
    "a column of ours generated": """CREATE FUNCTION {app}.planned(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM {app}.spring(); RETURN $1; END $$;
        ALTER TABLE pgvigil.job_runs ADD COLUMN extra text GENERATED ALWAYS AS ({app}.planned(job)) STORED""",
}  # fmt: skip
COMMANDS: list[tuple[str, ...]] = [
    ("status",), ("health",), ("health", "--deep", "--repair"), ("sizes",), ("report",), ("report", "--format", "json"), ("validate",),
    ("validate", "--fix-sql"), ("maintain", "status"), ("maintain", "preview"), ("maintain", "accept", "all"), ("maintain", "run-due"),
    ("maintain", "run", "anomalies"), ("maintain", "run", "retention"), ("maintain", "run", "reindex"), ("maintain", "run", "vacuum"),
    ("maintain", "run", "analyze"), ("sessions", "list"), ("history", "performance"), ("history", "executions"), ("history", "sessions"),
    ("history", "handoffs"), ("archive", "list"), ("archive", "verify"), ("session-monitoring", "status"), ("spec", "dump"),
    ("migrate", "--backup", "none", "--dry-run"), ("migrate", "--backup", "none"), ("backup", "verify"), ("serve", "--no-auth", "--listen", "127.0.0.1:0"),
    ("validate", "--self-test"), ("maintain", "run", "partitions"), ("maintain", "run", "counters"), ("maintain", "run", "archive_files"),
    ("archive", "erase", "00000000-0000-7000-8000-000000000001", "--reason", "x"), ("backup", "create"), ("setup",),
    ("revert", "--backup", "none", "--to", "015"), ("revert", "--backup", "none", "--to", "base"),
]  # fmt: skip
ARRANGEMENTS = {
    "an owner without login": {"owner": "x_nobody", "user": "postgres"},
    "a plain owner": {"owner": "x_owner", "user": "postgres"},
}


@pytest.mark.slow(first=1)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_no_command_of_a_superuser_springs_what_an_owner_has_planted(
    installed: Callable[..., Installation], kind: str, arrangement: str, tmp_path: Path
) -> None:
    at = installed(**ARRANGEMENTS[arrangement])
    at.as_owner(COUNTED)
    at.migrate()
    if kind == "triggers":
        plant_on_application(at)
        plant_triggers(at, *WRITTEN)
    else:
        at.as_owner(KINDS[kind])
    at.execute("SELECT setval('{quoted}.turned', 1, false); ALTER ROLE x_owner NOSUPERUSER")
    sprung, defects = [], []
    for words in COMMANDS:
        code, said = at.pgvigil(*words, *(["--backup-dir", str(tmp_path)] if words[0] == "backup" else []))
        if code == 70:
            defects.append(f"{words}: {said}")
        if at.turned:
            sprung.append(words)
            at.execute("SELECT setval('{quoted}.turned', 1, false); ALTER ROLE x_owner NOSUPERUSER")
    assert (sprung, defects) == ([], [])
