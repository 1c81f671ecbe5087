"""Test maintain install --pg-cron with Debian's pg_cron, where it is installed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Database, Run, administer
from pgvigil.embedded.temporary import Server

pytestmark = pytest.mark.client_side


@pytest.fixture(scope="module")
def cron_server() -> Iterator[Server]:
    control = next(Path("/usr/share/postgresql").glob("*/extension/pg_cron.control"), None)
    if control is None:
        if os.environ.get("REQUIRE_PG_CRON"):
            pytest.fail("pg_cron is not installed")
        pytest.skip("needs Debian's postgresql-NN-cron")
    major = int(control.parent.parent.name)
    bindir = Path(f"/usr/lib/postgresql/{major}/bin")
    with Server(bindir, tcp=True, in_memory=True, settings={"shared_preload_libraries": "pg_cron"}) as server:
        Database(server, "postgres").execute("CREATE EXTENSION pg_cron; CREATE ROLE c_owner LOGIN")
        yield server


@pytest.fixture
def at(cron_server: Server) -> Iterator[Database]:
    """A migrated database beside the one that pg_cron lives in."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    administer(cron_server, "CREATE DATABASE {} OWNER c_owner", name)
    yield Database(cron_server, name)
    Database(cron_server, "postgres").execute("DELETE FROM cron.job")
    administer(cron_server, "DROP DATABASE {} WITH (FORCE)", name)


def scheduled(at: Database) -> set[tuple[str, str, str]]:
    rows = Database(at.server, "postgres").execute("SELECT jobname, database, username FROM cron.job")
    return {(name.rpartition(" ")[2], database, username) for name, database, username in rows}


def build(at: Database, call: Run, user: str) -> None:
    done = call("pgvigil", "setup", "--database-url", at.url.replace("postgres@", f"{user}@"))
    assert done.returncode == 0, done.stderr


def test_a_superuser_has_the_jobs_run_as_the_owner(at: Database, call: Run) -> None:
    build(at, call, "c_owner")
    for _ in range(2):
        done = call("pgvigil", "maintain", "install", "--pg-cron", "--database-url", at.url)
        assert done.returncode == 0, done.stderr
    jobs = at.execute("SELECT job FROM pgvigil.jobs WHERE NOT needs_client")
    assert scheduled(at) == {(job, at.name, "c_owner") for (job,) in jobs}


def test_where_everything_is_a_superuser_s_a_superuser_runs_the_jobs(at: Database, call: Run) -> None:
    build(at, call, "postgres")
    assert call("pgvigil", "maintain", "install", "--pg-cron", "--database-url", at.url).returncode == 0
    assert {user for _, _, user in scheduled(at)} == {"postgres"}


def test_an_owner_who_cannot_log_in_and_has_members_is_told_why_not(at: Database, call: Run) -> None:
    build(at, call, "postgres")
    at.execute("GRANT pgvigil_owner TO c_owner")
    try:
        done = call("pgvigil", "maintain", "install", "--pg-cron", "--database-url", at.url)
    finally:
        at.execute("REVOKE pgvigil_owner FROM c_owner")
    assert done.returncode == 4
    assert "as the superuser postgres" in done.stderr
    assert scheduled(at) == set()


def test_jobs_that_a_superuser_registered_earlier_are_named(at: Database, call: Run) -> None:
    build(at, call, "c_owner")
    Database(at.server, "postgres").execute(
        f"SELECT cron.schedule_in_database('pgvigil {at.name} retention', '* * * * *', 'SELECT 1', '{at.name}')"
    )
    done = call("pgvigil", "maintain", "install", "--pg-cron", "--database-url", at.url)
    assert done.returncode == 0, done.stderr
    assert (
        f"registered earlier, and run as a superuser, which cron.unschedule ends: pgvigil {at.name} retention (postgres)"
        in done.stdout
    )


@pytest.mark.parametrize("job_name", ["NULL", "'nightly\n::error::x'"])
def test_jobs_of_a_superuser_s_that_call_pgvigil_are_named_whatever_they_are_called(
    at: Database, call: Run, job_name: str
) -> None:
    build(at, call, "c_owner")
    Database(at.server, "postgres").execute(
        f"""INSERT INTO cron.job (jobname, schedule, command, nodename, nodeport, database, username)
            VALUES ({job_name}, '* * * * *', 'call PgVigil . run_job(''retention'')', '', 1, '{at.name}', 'postgres')"""
    )
    done = call("pgvigil", "maintain", "install", "--pg-cron", "--database-url", at.url)
    assert done.returncode == 0, done.stderr
    assert "run as a superuser, which cron.unschedule ends: " in done.stdout
    assert "::error::" not in done.stdout.replace(r"\n::error::", "")


def test_a_plain_owner_who_may_use_schema_cron_registers_them(at: Database, call: Run) -> None:
    """The extension shows a role only its own jobs, by row security."""
    build(at, call, "c_owner")
    home = Database(at.server, "postgres")
    home.execute("GRANT USAGE ON SCHEMA cron TO c_owner")
    home.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA cron TO c_owner")
    try:
        url = at.url.replace("postgres@", "c_owner@")
        done = call("pgvigil", "maintain", "install", "--pg-cron", "--database-url", url)
    finally:
        home.execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA cron FROM c_owner; REVOKE ALL ON SCHEMA cron FROM c_owner")
    assert done.returncode == 0, done.stderr
    assert {user for _, _, user in scheduled(at)} == {"c_owner"}


def test_a_schema_called_cron_that_is_no_extension_s_is_not_called(at: Database, call: Run) -> None:
    build(at, call, "c_owner")
    at.execute(
        """SET ROLE c_owner; CREATE SCHEMA cron; CREATE TABLE cron.called ();
           CREATE FUNCTION cron.schedule(job_name text, schedule text, command text) RETURNS bigint LANGUAGE sql AS
               'INSERT INTO cron.called DEFAULT VALUES RETURNING 1'"""
    )
    assert call("pgvigil", "maintain", "install", "--pg-cron", "--database-url", at.url).returncode == 0
    assert at.execute("SELECT count(*) FROM cron.called") == [(0,)]
    assert {user for _, _, user in scheduled(at)} == {"c_owner"}
