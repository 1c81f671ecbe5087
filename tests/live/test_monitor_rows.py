"""Test the rows of the session monitor in the database: their owners, and that their sum never falls."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest

from conftest import Connection, Database

REPORT = "SELECT known FROM pgvigil.report_monitor(%s, %s, jsonb_build_object('commits', %s::bigint), '{}', '{}', %s)"


@pytest.fixture
def two_logins(fresh: Database) -> Iterator[tuple[Connection, Connection]]:
    fresh.execute("""
        DO $$
        BEGIN
            CREATE ROLE m_shop LOGIN IN ROLE pgvigil_writer;
            CREATE ROLE m_hostile LOGIN IN ROLE pgvigil_writer;
        EXCEPTION WHEN duplicate_object THEN NULL;
        END $$""")
    with fresh.connect(user="m_shop") as shop, fresh.connect(user="m_hostile") as hostile:
        yield shop, hostile


def register(connection: Connection, application: str = "shop") -> UUID:
    worker = uuid4()
    connection.execute("SELECT pgvigil.register_monitor(%s, %s, 'host', 1, '10 s')", (worker, application))
    return worker


def report(connection: Connection, worker: UUID, number: int, commits: int, *, ended: bool = False) -> bool:
    row = connection.execute(REPORT, (worker, number, commits, ended)).fetchone()
    assert row
    return bool(row[0])


def commits(database: Database, login: str) -> int:
    query = "SELECT (counters -> 'commits')::bigint FROM pgvigil.session_monitor WHERE application = 'shop' AND reported_by = %s"
    return int(database.execute(query, (login,))[0][0])


def test_a_login_cannot_report_for_the_worker_of_another(
    fresh: Database, two_logins: tuple[Connection, Connection]
) -> None:
    shop, hostile = two_logins
    worker = register(shop)
    assert report(shop, worker, 1, 5)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="was registered by m_shop, and m_hostile cannot"):
        report(hostile, worker, 2, 0)
    assert commits(fresh, "m_shop") == 5


def test_a_login_that_claims_the_name_of_an_application_adds_nothing_to_it(
    fresh: Database, two_logins: tuple[Connection, Connection]
) -> None:
    shop, hostile = two_logins
    assert report(shop, register(shop), 1, 5)
    forged = register(hostile)
    assert report(hostile, forged, 1, 1_000_000, ended=True)
    assert (commits(fresh, "m_shop"), commits(fresh, "m_hostile")) == (5, 1_000_000)


def test_a_login_sets_the_logging_of_its_own_workers_only(
    fresh: Database, two_logins: tuple[Connection, Connection]
) -> None:
    shop, hostile = two_logins
    register(shop)
    assert hostile.execute("SELECT pgvigil.set_monitor_logging('shop', '5 min')").fetchone() == (0,)
    register(hostile)
    assert hostile.execute("SELECT pgvigil.set_monitor_logging('shop', '5 min')").fetchone() == (1,)
    assert fresh.execute("SELECT reported_by FROM pgvigil.monitor_settings") == [("m_hostile",)]


def test_a_report_of_two_hours_ago_is_folded_by_whoever_reports_next(
    fresh: Database, two_logins: tuple[Connection, Connection]
) -> None:
    shop, hostile = two_logins
    gone, other = register(shop), register(hostile)
    assert report(shop, gone, 1, 5)
    fresh.execute(
        "UPDATE pgvigil.session_monitors SET seen_at = now() - interval '2 hours' WHERE instance_id = %s", (gone,)
    )
    assert report(hostile, other, 1, 1)
    assert fresh.execute("SELECT reported_by, counters FROM pgvigil.session_monitor_totals") == [
        ("m_shop", {"commits": 5})
    ]
    assert not report(shop, gone, 2, 6)


def test_a_worker_that_is_being_folded_by_another_transaction_delays_no_report(
    fresh: Database, two_logins: tuple[Connection, Connection]
) -> None:
    shop, hostile = two_logins
    gone, other = register(shop), register(hostile)
    fresh.execute(
        "UPDATE pgvigil.session_monitors SET seen_at = now() - interval '2 hours' WHERE instance_id = %s", (gone,)
    )
    with fresh.connect(autocommit=False) as folding:
        folding.execute("SELECT FROM pgvigil.session_monitors WHERE instance_id = %s FOR UPDATE", (gone,))
        hostile.execute("SET lock_timeout = '1s'")
        assert report(hostile, other, 1, 1)
