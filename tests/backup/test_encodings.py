"""Test databases whose encoding and locale are not those of template0: backups, restores and drift compare text as they do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from conftest import Database, Run
from pgvigil import scratch_databases

pytestmark = pytest.mark.client_side
HOW = {
    "LATIN1": "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'",
    "SQL_ASCII": "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'",
}
LOCALE = """SELECT pg_encoding_to_char(encoding), datcollate, datctype, to_jsonb(d) -> 'datlocprovider',
                   to_jsonb(d) -> 'daticulocale', to_jsonb(d) -> 'datlocale'
            FROM pg_database d WHERE datname = %s"""


@pytest.fixture(params=HOW)
def other(request: pytest.FixtureRequest, database: Database) -> Iterator[Database]:
    """An empty database of another encoding or locale."""
    major, options = database.server.major, HOW[request.param]
    with psycopg.connect(database.server.dsn(), autocommit=True) as server:
        server.execute(f"DROP DATABASE {database.name}".encode())
        options += " LOCALE_PROVIDER libc" if major >= 15 else ""  # template0 has another one where initdb chose it
        server.execute(f"CREATE DATABASE {database.name} TEMPLATE template0 {options}".encode())
    yield database
    with psycopg.connect(database.server.dsn(), autocommit=True) as server:
        for (name,) in server.execute("SELECT datname FROM pg_database WHERE datname ~ %s", (f"^{database.name}.",)):
            server.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def test_a_scratch_database_compares_text_as_its_model(other: Database) -> None:
    with psycopg.connect(other.url, autocommit=True, client_encoding="utf8") as conn:
        made = scratch_databases.make(conn, f"{other.name}_copy", options=scratch_databases.locale_of(conn, other.name))
        assert conn.execute(LOCALE, (made.name,)).fetchall() == (conn.execute(LOCALE, (other.name,)).fetchall())


def test_a_backup_is_proved_and_restored_in_the_same_locale(call: Run, other: Database, tmp_path: Path) -> None:
    assert call("pgvigil", "setup", "--database-url", other.url).returncode == 0
    other.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('k', 'a')")
    before = other.execute(LOCALE, (other.name,))
    done = call(
        "pgvigil",
        "backup",
        "create",
        "--verify-backup",
        "restore",
        "--backup-dir",
        tmp_path,
        "--database-url",
        other.url,
    )
    assert done.returncode == 0, done.stderr
    [archive] = tmp_path.glob("*.dump")
    done = call("pgvigil", "restore", archive, "--database-url", other.url)
    assert done.returncode == 0, done.stderr
    assert other.execute(LOCALE, (other.name,)) == before
    assert other.execute("SELECT count(*) FROM sessions WHERE session_key = 'k'") == [(1,)]


def test_a_row_that_is_not_text_is_3_and_not_a_defect(call: Run, database: Database) -> None:
    name = f"{database.name}_bytes"
    locale = "LC_COLLATE 'C' LC_CTYPE 'C'" + " LOCALE_PROVIDER libc" * (database.server.major >= 15)
    database.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING SQL_ASCII {locale}")
    url = database.url.replace(database.name, name)
    try:
        assert call("pgvigil", "setup", "--database-url", url).returncode == 0
        with psycopg.connect(url, client_encoding="sql_ascii", autocommit=True) as conn:
            conn.execute(b"INSERT INTO sessions (session_key, agent_from) VALUES ('k', 'caf\xe9')")
        for words in (("maintain", "run-due"), ("health",), ("report",)):
            assert call("pgvigil", *words, "--database-url", url).returncode in (0, 1)
        done = call("pgvigil", "history", "sessions", "--by", "hour", "--database-url", url)
        assert (done.returncode, "not valid in the encoding" in done.stderr) == (3, True), (done.stdout, done.stderr)
    finally:
        database.execute(f"DROP DATABASE {name} WITH (FORCE)")
