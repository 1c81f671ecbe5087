"""Register the jobs with pg_cron, with the rights of the owner of the tables or of the role that asks for it."""

from __future__ import annotations

from typing import NamedTuple

import psycopg
from psycopg import sql

from pgvigil import database
from pgvigil.database import Target
from pgvigil.errors import PreconditionError
from pgvigil.maintenance.job_runner import connect, jobs_of
from pgvigil.migration import preflight


class CronJobs(NamedTuple):
    """The jobs that were registered, those that need a client, and those of superusers that were registered earlier."""

    registered: list[str]
    left_out: list[str]
    of_superusers: list[str]


def install(target: Target) -> CronJobs:
    """Register every job that the server can do itself with pg_cron, to look every five minutes.

    The schedule stays in pgvigil.jobs.

    Registering again changes nothing. Raise PreconditionError where there is no pg_cron, and for a superuser whose jobs
    would run code of an owner without superuser rights and cannot be run as that owner.
    """
    with connect(target) as conn:
        preflight.require_primary(conn)
        jobs = jobs_of(conn)
        name = conn.info.dbname
        # Only superusers see this setting; a view has no row for others, and the function raises.
        row = conn.execute("SELECT setting FROM pg_settings WHERE name = 'cron.database_name'").fetchone()
        home = str(row[0]) if row else "postgres"
        here = _cron_function(conn, "schedule") is not None
        run_as = _cron_role(conn)
    with database.connect(target if here else target.at(home), "maintain (pg_cron)") as cron:
        schedule = _cron_function(cron, "schedule" if here and run_as is None else "schedule_in_database")
        if schedule is None:
            raise PreconditionError(
                f'pg_cron is neither in database "{name}" nor in "{home}"',
                "Install it (shared_preload_libraries = 'pg_cron', then CREATE EXTENSION pg_cron; 1.4 or later), or let cron or a "
                "systemd timer run `pgvigil maintain run-due`: see pgvigil help maintenance.",
            )
        registered = [job.job for job in jobs if not job.needs_client]
        for job in registered:
            command = sql.SQL("CALL pgvigil.run_job({}, true)").format(job).as_string(cron)
            call = [f"pgvigil {name} {job}", "*/5 * * * *", command]
            if not here or run_as is not None:
                call += [name, *([] if run_as is None else [run_as])]
            given = sql.SQL(", ").join([sql.Placeholder()] * len(call))
            cron.execute(sql.SQL("SELECT {}({})").format(schedule, given), call)
        cron.execute("SET row_security = on")  # a role that is not a superuser sees only its own jobs
        earlier = cron.execute(
            """SELECT DISTINCT coalesce(j.jobname, 'job ' || j.jobid) || ' (' || j.username || ')'
               FROM cron.job j JOIN pg_roles r ON r.rolname = j.username
               WHERE j.database = %s AND (starts_with(j.jobname, %s) OR j.command ~* '\\m(pgvigil|instrumentation)\\M')
                 AND r.rolsuper AND j.username <> coalesce(%s, current_user)
               ORDER BY 1""",
            (name, f"pgvigil {name} ", run_as),
        ).fetchall()
    return CronJobs(registered, [job.job for job in jobs if job.needs_client], [row[0] for row in earlier])


def _cron_function(conn: psycopg.Connection, function: str) -> sql.Identifier | None:
    """Return a function of pg_cron, found by its extension: any role that may create schemas could make one called
    cron.
    """
    row = conn.execute(
        """SELECT n.nspname, p.proname FROM pg_extension e
           JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
           JOIN pg_proc p ON p.oid = d.objid AND p.proname = %s JOIN pg_namespace n ON n.oid = p.pronamespace
           WHERE e.extname = 'pg_cron' LIMIT 1""",
        (function,),
    ).fetchone()
    return sql.Identifier(*row) if row else None


def _cron_role(conn: psycopg.Connection) -> str | None:
    """The owner of the tables, where a superuser asks and the owner is none; else None: who asks. The owner may put other code in the
    place of ours at any time, and what pg_cron calls is looked at by nobody.
    """
    row = conn.execute(
        """SELECT o.rolname::text, o.rolcanlogin, o.rolsuper, EXISTS (
                      SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE m.roleid = o.oid AND NOT r.rolsuper)
           FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner JOIN pg_roles u ON u.rolname = current_user
           WHERE n.nspname = 'pgvigil' AND u.rolsuper AND o.oid <> u.oid"""
    ).fetchone()
    if row is None:
        return None
    owner, can_login, is_superuser, has_members = row
    if can_login:
        return str(owner)
    if is_superuser or not has_members:
        return None  # nobody but a superuser is the author of what runs
    role = sql.Identifier(owner).as_string(conn)
    raise PreconditionError(
        f"pg_cron would run the jobs as the superuser {conn.info.user}, and the code of {role}, who cannot log in, with them",
        "Connect as a role that can log in and is a member of pgvigil_admin, and that may use schema cron; or let cron or a systemd "
        "timer run `pgvigil maintain run-due`. Nothing was changed.",
    )
