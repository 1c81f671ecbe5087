"""Test that any schema is valid against its own `spec dump`, and that any one change to it is found and named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tap
from conftest import Database, pgtap_script
from pgvigil.embedded import Server
from pgvigil.validate import Report, dump_spec, load_declaration, validate
from pgvigil.validate.export import markdown, pgtap
from random_ddl import World, ident, worlds

pytestmark = pytest.mark.client_side

# In CI the same examples each time, so that a failure is somebody's change; elsewhere new ones.
bounded = settings(
    max_examples=25,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture
def conn(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[psycopg.Connection[Any]]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with database.connect() as connection:
        yield connection


def build(conn: psycopg.Connection[Any], world: World) -> None:
    """Make room for the schema of an example and build it."""
    for (name,) in conn.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('public', 'tap', 'information_schema')"
    ).fetchall():
        conn.execute(f"DROP SCHEMA {ident(name)} CASCADE".encode())
    for statement in world.sql:
        conn.execute(statement.encode())


def held_against(conn: psycopg.Connection[Any], spec: Path, world: World) -> Report:
    return validate(conn, load_declaration(spec), world.schema)


def told(report: Report) -> list[tuple[str, ...]]:
    return [(finding.kind, finding.object, finding.expected, finding.found) for finding in report.findings]


@bounded
@given(data=st.data())
def test_dumped_spec_of_any_schema_is_met(conn: Any, pg: Server, tmp_path: Path, data: st.DataObject) -> None:
    world = data.draw(worlds(pg.major))
    build(conn, world)
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_spec(conn, [world.schema]))
    report = held_against(conn, path, world)
    assert told(report) == []
    assert report.unchecked == ()


@bounded
@given(data=st.data())
@pytest.mark.slow
def test_any_one_change_is_found_and_named(conn: Any, pg: Server, tmp_path: Path, data: st.DataObject) -> None:
    world = data.draw(worlds(pg.major))
    build(conn, world)
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_spec(conn, [world.schema]))
    for change, name in data.draw(st.lists(st.sampled_from(world.defects), min_size=1, max_size=8, unique=True)):
        try:
            with conn.transaction(force_rollback=True):
                conn.execute(change.encode())
                report = held_against(conn, path, world)
        except psycopg.Error:  # a change that this schema does not let happen: there is nothing to find
            continue
        named = [path for finding in report.findings for path in (finding.object, *finding.also)]
        assert any(name.replace('"', "") in path.replace('"', "") for path in named), (change, told(report))


def bring_pgtap(conn: Any) -> None:
    script = pgtap_script()
    if script is None:
        refuse = pytest.fail if os.environ.get("REQUIRE_PGTAP") else pytest.skip
        refuse("pgTAP is not here: apt-get install postgresql-15-pgtap, or name its pgtap--X.Y.Z.sql in PGTAP_SQL")
    if not conn.execute("SELECT to_regnamespace('tap')").fetchone()[0]:
        conn.execute("CREATE SCHEMA tap; SET search_path = tap")
        conn.execute(script.read_text())
        conn.execute("RESET search_path")


LONG = "long" * 15


def test_what_is_written_of_a_routine_holds_where_a_type_has_a_long_name(conn: Any, tmp_path: Path) -> None:
    """In pgTAP, names of types end after 63 bytes, brackets and quotes included."""
    bring_pgtap(conn)
    conn.execute(
        f"""DROP SCHEMA IF EXISTS far CASCADE; CREATE SCHEMA far; CREATE TYPE far."{LONG}Q" AS ENUM ('a');
            CREATE FUNCTION far.one(far."{LONG}Q"[]) RETURNS integer LANGUAGE sql AS 'SELECT 1';
            CREATE PROCEDURE far.two(far."{LONG}Q") LANGUAGE sql AS 'SELECT 1'"""
    )
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_spec(conn, ["far"]))
    script = pgtap.script(load_declaration(path), "far")
    assert [one.description for one in tap.run(conn, script).assertions if not one.ok] == []
    conn.execute(f"""ALTER FUNCTION far.one(far."{LONG}Q"[]) STRICT""")
    failed = [one.description for one in tap.run(conn, script).assertions if not one.ok]
    assert failed == [f"""function one("{LONG}Q"[]) isnt strict"""]
    conn.execute("DROP SCHEMA far CASCADE")


def test_what_is_written_of_a_schema_that_only_has_a_composite_type_is_true_of_it(conn: Any, tmp_path: Path) -> None:
    bring_pgtap(conn)
    conn.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; ALTER SCHEMA public OWNER TO pg_database_owner")
    conn.execute("CREATE TYPE public.pair AS (a integer, b text)")
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_spec(conn, ["public"]))
    found = tap.run(conn, pgtap.script(load_declaration(path), "public"))
    assert [one.description for one in found.assertions if not one.ok] == []


def test_what_is_written_of_an_invalid_index_holds_without_it(conn: Any, tmp_path: Path) -> None:
    """The index is not in a dump of pg_dump."""
    bring_pgtap(conn)
    conn.execute("DROP SCHEMA IF EXISTS unfit CASCADE; CREATE SCHEMA unfit; CREATE TABLE unfit.t (a integer)")
    conn.execute("CREATE INDEX left_over ON unfit.t (a); CREATE INDEX fit ON unfit.t (a)")
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'unfit.left_over'::regclass")
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_spec(conn, ["unfit"]))
    script = pgtap.script(load_declaration(path), "unfit")
    assert [one.description for one in tap.run(conn, script).assertions if not one.ok] == []
    conn.execute("DROP INDEX unfit.left_over")
    assert [one.description for one in tap.run(conn, script).assertions if not one.ok] == []
    conn.execute("CREATE INDEX another ON unfit.t (a)")
    assert [one.description for one in tap.run(conn, script).assertions if not one.ok] == ["indexes of table t"]
    conn.execute("DROP SCHEMA unfit CASCADE")


@settings(bounded, max_examples=10)
@given(data=st.data())
def test_what_is_written_of_any_schema_is_true_of_it(
    conn: Any, pg: Server, tmp_path: Path, data: st.DataObject
) -> None:
    bring_pgtap(conn)
    world = data.draw(worlds(pg.major))
    build(conn, world)
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_spec(conn, [world.schema]))
    declared = load_declaration(path)
    found = tap.run(conn, pgtap.script(declared, world.schema))
    assert found.problems == []
    assert [assertion.description for assertion in found.assertions if not assertion.ok] == []
    page = markdown.page(declared, {})
    assert page.count("\n### ") >= len(world.tables)
