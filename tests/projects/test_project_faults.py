"""Test constructs in files of other teams that pgvigil's own files do not use: each of these once failed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from conftest import Database, Run, wait_until
from helpers.projects import Project

pytestmark = pytest.mark.oldest_and_newest


@pytest.fixture
def plain(tmp_path: Path, database: Database, call: Run) -> Project:
    project = Project(tmp_path / "project", database, call)
    project.configure(drift="off")
    return project


def valid_indexes(database: Database) -> list[tuple[object, ...]]:
    return database.execute(
        "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'public'::regnamespace AND NOT i.indisprimary ORDER BY 1"
    )


def leave_invalid(database: Database, statement: str) -> None:
    """Build a unique index over equal values, and then make the values unequal."""
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.execute(statement)
    database.execute("UPDATE t SET a = ctid::text")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)",
        "CREATE UNIQUE INDEX CONCURRENTLY i ON public.t (a)",
        "CREATE UNIQUE INDEX CONCURRENTLY ON t (a)",
        "CREATE UNIQUE INDEX CONCURRENTLY \"Of A\" ON ONLY public . t USING btree (a) WHERE a <> ''",
    ],
)
def test_an_index_that_a_killed_build_has_left_invalid_is_built_again(plain: Project, statement: str) -> None:
    plain.database.execute("CREATE TABLE t (a text); INSERT INTO t VALUES ('x'), ('x')")
    leave_invalid(plain.database, statement)
    assert [valid for _, valid in valid_indexes(plain.database)] == [False]
    plain.write("001", f"{statement};", transaction=False)
    plain.migrated()
    assert [valid for _, valid in valid_indexes(plain.database)] == [True]


@pytest.mark.parametrize("table", ["public.t", "t", 'public."t"'])
def test_an_index_that_is_there_as_the_file_wants_it_is_found_done(plain: Project, table: str) -> None:
    plain.database.execute("CREATE TABLE t (a text); CREATE INDEX i ON t (a)")
    before = plain.database.execute("SELECT 'i'::regclass::oid")
    plain.write("001", f"CREATE INDEX CONCURRENTLY i ON {table} (a);", transaction=False)
    plain.migrated()
    assert plain.database.execute("SELECT 'i'::regclass::oid") == before


def test_an_index_of_a_table_outside_the_search_path_is_found_in_its_schema(plain: Project) -> None:
    plain.database.execute('CREATE SCHEMA "Other"; CREATE TABLE "Other"."T" ("A b" text)')
    plain.database.execute('CREATE INDEX "I" ON "Other"."T" ("A b"); CREATE TABLE t (a int); CREATE INDEX "I" ON t (a)')
    plain.write("001", 'CREATE INDEX CONCURRENTLY "I" ON "Other"."T" ("A b");', transaction=False)
    plain.migrated()


def test_another_index_of_that_name_is_not_dropped_and_stops_the_run(plain: Project) -> None:
    plain.database.execute("CREATE TABLE t (a text, b text); CREATE INDEX i ON t (b)")
    plain.write("001", "CREATE INDEX CONCURRENTLY i ON t (a);", transaction=False)
    done = plain.migrate()
    assert done.returncode == 7
    assert "there is an index" in done.stderr
    assert "001_x.sql:2" in done.stderr
    assert plain.database.execute("SELECT pg_get_indexdef('i'::regclass) LIKE '%(b)'") == [(True,)]


def test_an_error_in_the_definition_of_an_index_has_its_line(plain: Project) -> None:
    plain.database.execute("CREATE TABLE t (a text)")
    plain.write("001", "\nCREATE INDEX CONCURRENTLY ON t (nothing);", transaction=False)
    done = plain.migrate()
    assert done.returncode == 7
    assert '001_x.sql:3: column "nothing" does not exist' in done.stderr


def while_somebody_reads(database: Database, act: Callable[[], object]) -> None:
    """Let `act` wait for a transaction that reads table t, for longer than a lock may take, before that ends."""
    with database.connect(autocommit=False) as reader, database.connect() as observer:
        reader.execute("SELECT FROM t")
        worker = threading.Thread(target=act)
        worker.start()
        wait_until(
            lambda: (
                not worker.is_alive()
                or observer.execute(
                    """SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                       AND clock_timestamp() - query_start > '0.5 s'"""
                ).rowcount
            )
        )
        reader.commit()
        worker.join()


@pytest.mark.parametrize(
    "statement",
    [
        "DROP INDEX CONCURRENTLY i",
        "REINDEX INDEX CONCURRENTLY i",
        "ALTER TABLE p DETACH PARTITION t CONCURRENTLY",
    ],
)
def test_what_waits_for_readers_and_stops_no_writer_is_not_cut_short(plain: Project, statement: str) -> None:
    plain.database.execute(
        "CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE t PARTITION OF p FOR VALUES IN (1)"
    )
    plain.database.execute("CREATE INDEX i ON t (a)")
    plain.write("001", f"{statement};", transaction=False)
    said: list[str] = []
    while_somebody_reads(plain.database, lambda: said.append(plain.migrated()))
    assert said, "it failed"
    assert "try 1" not in said[0]


def test_a_new_value_of_an_enum_is_used_by_the_next_file_also_where_files_go_in_together(plain: Project) -> None:
    plain.configure(transaction="together")
    plain.database.execute("CREATE TYPE mood AS ENUM ('sad')")
    plain.write("001", "CREATE TABLE m (m mood);")
    plain.write("002", "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'glad';")
    plain.write("003", "INSERT INTO m VALUES ('glad');")
    assert "001_x … 002_x in one transaction" in plain.migrated()
    assert plain.database.execute("SELECT m::text FROM m") == [("glad",)]


def test_the_ledgers_are_no_finding_of_a_complete_spec(tmp_path: Path, database: Database, call: Run) -> None:
    project = Project(tmp_path / "project", database, call, "dbmate")
    project.configure(spec="schema-spec.yaml")
    project.dump_spec()
    spec = project.directory / "schema-spec.yaml"
    project.write("1", "CREATE TABLE t (a int);")
    done = project.migrate()
    assert done.returncode == 7
    assert "1 finding" in done.stderr, done.stderr
    spec.write_text(spec.read_text() + "tables: {t: {columns: {a: {type: integer}}}}\n")
    project.migrated()
    assert project.run("validate").returncode == 0


def test_a_rehearsal_watches_the_parent_of_partitions(plain: Project) -> None:
    plain.database.execute("CREATE TABLE p (a int) PARTITION BY LIST (a)")
    plain.write("001", "ALTER TABLE p ADD COLUMN b int; SELECT pg_sleep(0.1);")
    done = plain.run("migrate", "--rehearse")
    assert done.returncode == 0, done.stderr
    assert "p: AccessExclusiveLock for" in done.stderr
