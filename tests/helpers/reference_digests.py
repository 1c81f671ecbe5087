"""Write scripts/reference-digests.txt, for each PostgreSQL on this machine: `PG_MATRIX_DIR=… python -m
tests.helpers.reference_digests`.

A major version that is not here keeps its lines, and the test of that version says whether they still hold.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conftest import servers
from pgvigil import project
from pgvigil.database import connect, parse_url
from pgvigil.embedded import Server
from pgvigil.validate import Reference, load_declaration
from pgvigil.validate.diff.reference import digest

SPEC = load_declaration(project.SPEC)
HEAD = """\
# GENERATED: PostgreSQL's major version, and the SHA-256 of what pgvigil's own DDL is there, made by a superuser and by a plain
# owner. A copy of it in pgvigil.reference_snapshots is compared with, whoever could have written it. Write it again after each
# change of a migration or of the catalog queries (CONTRIBUTING.md).
"""


def digests(server: Server) -> set[str]:
    """Return those of one server, whose roles of pgvigil may be there already."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        for role in SPEC.roles:
            if not conn.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).rowcount:
                conn.execute(f'CREATE ROLE "{role}"'.encode())
        conn.execute("CREATE ROLE digest_owner LOGIN CREATEDB")
    try:
        return {digest_of(server.dsn()), digest_of(server.dsn().replace("postgres@", "digest_owner@"))}
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("DROP ROLE digest_owner")


def digest_of(url: str) -> str:
    """Return that of the reference which the role of this URL makes."""
    target = parse_url(url, "tests")
    with tempfile.TemporaryDirectory() as cache, connect(target, "tests") as conn:
        before = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = cache
        try:
            reference = Reference(target, lambda: conn, lambda: SPEC, project.INIT_SQL, lambda _: "public")
            made, unchecked = reference.outcome()
            reference.thread.join()
        finally:
            os.environ.pop("XDG_CACHE_HOME") if before is None else os.environ.update(XDG_CACHE_HOME=before)
    assert made is not None, unchecked
    return digest(made)


def main() -> None:
    path = project.REFERENCE_DIGESTS
    old = path.read_text().splitlines() if path.exists() else []
    lines = {int(line.split()[0]): [] for line in old if line and not line.startswith("#")}
    for line in old:
        if line and not line.startswith("#"):
            lines[int(line.split()[0])].append(line)
    for major, bindir in servers().items():
        with Server(bindir) as server:
            lines[major] = [f"{major} {one}" for one in sorted(digests(server))]
    path.write_text(HEAD + "".join(f"{line}\n" for major in sorted(lines) for line in lines[major]))


if __name__ == "__main__":
    main()
