"""pgvigil against a PostgreSQL in a real container: over TCP, with a password, pgTAP as an extension."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

import tap
from conftest import PROJECT, Run

pytestmark = pytest.mark.client_side

HERE = PROJECT / "tests"
SCRIPT = min((HERE / "pgtap").glob("*.sql"), default=HERE)


def docker_answers() -> bool:
    """Ask by hand: the Docker library leaks its socket when it cannot connect, and tests treat that as an error."""
    where = urlsplit(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    if where.scheme != "unix":
        return True  # tcp or ssh, which somebody has set up on purpose: let testcontainers say what is wrong
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect(where.path)
            connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b"200 OK" in connection.recv(200)
        except OSError:
            return False


@pytest.fixture
def container_url() -> Iterator[str]:
    if not docker_answers():
        refuse = pytest.fail if os.environ.get("REQUIRE_DOCKER") else pytest.skip
        refuse("no Docker answers (DOCKER_HOST or /var/run/docker.sock); start it to test against a container")
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.image import DockerImage

    image = os.environ.get("TEST_PG_IMAGE")
    if image is None:
        image = str(DockerImage(path=HERE / "docker", tag="pgvigil-test-postgres:18", clean_up=False).build())
    with PostgresContainer(image, password="p@ss/wörd", driver=None) as container:  # noqa: S106 - has to be quoted right
        yield container.get_connection_url()


def test_sets_up_a_database_in_a_container_and_finds_it_valid(container_url: str, run: Run) -> None:
    setup = run("pgvigil", "setup", "--database-url", container_url)
    assert setup.returncode == 0, setup.stderr
    assert "p@ss" not in setup.stdout + setup.stderr
    assert "p%40ss" not in setup.stdout + setup.stderr

    validate = run("pgvigil", "validate", "--database-url", container_url)
    assert validate.returncode == 0, validate.stdout + validate.stderr

    with psycopg.connect(container_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA tap")
        connection.execute("CREATE EXTENSION pgtap SCHEMA tap")
        connection.execute("SET search_path = public, tap")
        found = tap.run(connection, SCRIPT.read_text())
    assert found.problems == []
    assert found.assertions
    assert [a.description for a in found.assertions if not a.ok and a.directive != "TODO"] == []
