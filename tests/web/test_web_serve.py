"""Test `pgvigil serve`: closed by default, and how others see the server; the base install needs none of its packages."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from conftest import PROJECT, Database, Run, wait_until
from pgvigil.text import quoted
from web.conftest import ESCAPE, SECRET

pytestmark = pytest.mark.client_side


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing says who may use this service"),
        (["--no-auth", "--listen", "0.0.0.0:0"], "--no-auth would open this service to other machines"),
        (["--no-auth", "--listen", "[::]:0"], "--no-auth would open"),
        (["--no-auth", "--authorize", "os:getcwd"], "--authorize and --no-auth were given together"),
        (["--no-auth", "--listen", "8520"], "not an address"),
        (["--no-auth", "--listen", "127.0.0.1:99999"], "not an address"),
        (["--trust-proxy", "10.0.0.0/8"], "needs a network and a header"),
        (["--admin", "ada", "--host", "app.example"], "nothing says who may use this service"),
        (["--trust-proxy", "ten", "--user-header", "X-User"], "ten is not a network"),
        (["--authorize", "nowhere:function"], "No module named 'nowhere'"),
        (["--authorize", "os"], "not MODULE:FUNCTION"),
        (["--authorize", "os:sep"], "not a function"),
        (["--auth-token-file", "/nowhere/tokens"], "No such file or directory"),
    ],
)
def test_serve_does_not_start_unprotected_or_misunderstood(call: Run, words: list[str], said: str) -> None:
    done = call("pgvigil", "serve", "--database-url", "postgresql:///x", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "hint: " in done.stderr


def test_a_port_that_is_taken_is_said_so(call: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call(
            "pgvigil",
            "serve",
            "--database-url",
            "postgresql:///x",
            "--no-auth",
            "--read-only",
            "--listen",
            f"127.0.0.1:{port}",
        )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr


class Served:
    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        try:
            with urlopen(Request(self.url + path, headers=headers), timeout=20) as answer:  # noqa: S310 - ours
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def served(executions: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real process, with a token of a viewer and one of an admin in its directory."""
    directory = tmp_path_factory.mktemp("serve")
    tokens: dict[str, str] = {}
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    command = [sys.executable, "-P", "-W", "error", "-m", "pgvigil"]
    for role in ("viewer", "admin"):
        words = ["token", "create", role, "--role", role, "--auth-token-file", str(directory / "tokens")]
        tokens[role] = subprocess.run(
            [*command, *words], env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()
    log = directory / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "serve", "--read-only", "--listen", "127.0.0.1:0", "--auth-token-file", str(directory / "tokens")],
            env=environment | {"DATABASE_URL": executions.url}, stdout=output, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr
        found = re.search(r"serving on (http://\S+)", process.stderr.readline())
        assert found
        served = Served(process, found[1], log)
        served.tokens = tokens  # type: ignore[attr-defined]
        try:
            yield served
        finally:
            process.send_signal(signal.SIGTERM)
            with process.stderr:
                said = process.stderr.read()
            assert process.wait(20) == 0, said
            assert "Traceback" not in said


def bearer(served: Any, role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {served.tokens[role]}"}


def test_a_service_that_nobody_asks_sleeps_until_its_end() -> None:
    import uvicorn

    from pgvigil.web.quiet import Server

    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(uvicorn.Config(_nothing, lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server._ended is not None)
        loop: Any = server._loop
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]
        with urlopen(f"http://127.0.0.1:{listener.getsockname()[1]}/") as answer:
            assert parsedate_to_datetime(answer.headers["Date"])
    finally:
        server.handle_exit(signal.SIGTERM, None)
        thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", ["short", "endless"])
def test_the_first_answer_is_prepared_but_not_for_long(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    import uvicorn

    from pgvigil.web import quiet

    done: list[str] = []

    async def prepare() -> None:
        await asyncio.sleep(60 if kind == "endless" else 0.01)
        done.append("prepared")

    async def answer(_: Any, receive: Any, send: Any) -> None:
        done.append("answered")
        await _nothing(_, receive, send)

    monkeypatch.setattr(quiet, "PREPARES", 0.1 if kind == "endless" else 60)
    listener = socket.create_server(("127.0.0.1", 0))
    server = quiet.Server(uvicorn.Config(answer, lifespan="off", log_level="critical"), prepare)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with urlopen(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=20):
            pass
        assert done == (["answered"] if kind == "endless" else ["prepared", "answered"])
    finally:
        wait_until(lambda: server._ended is not None)
        server.handle_exit(signal.SIGTERM, None)
        thread.join(10)
    assert not thread.is_alive()


async def _nothing(_: Any, __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_it_answers_whoever_has_a_token(served: Served) -> None:
    assert served.get("/livez") == (200, '{"status":"alive"}')
    assert served.get("/readyz")[0] == 200
    assert served.get("/api/v1/executions")[0] == 401
    status, body = served.get("/api/v1/executions?limit=1", **bearer(served, "viewer"))
    assert (status, json.loads(body)["count"]) == (200, 1)


def test_a_forwarded_address_is_not_believed(served: Served) -> None:
    statuses = [
        served.get("/api/v1/executions", Authorization=f"Bearer {SECRET}", **{"X-Forwarded-For": f"192.0.2.{n}"})[0]
        for n in range(6)
    ]
    assert statuses == [401] * 5 + [429]


def test_other_names_for_this_machine_are_refused(served: Served) -> None:
    assert served.get("/livez", Host="evil.example")[0] == 400


def test_no_secret_and_no_terminal_escape_is_in_its_log(served: Served) -> None:
    served.get("/api/v1/executions?user_id=%1b%5b31m", Authorization=f"Bearer {SECRET}")
    text = served.log.read_text()
    assert "/api/v1/executions" in text
    assert SECRET not in text
    assert ESCAPE[0] not in text


WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'fastapi', 'starlette', 'pydantic', 'uvicorn', 'prometheus_client', 'limits', 'flask', 'a2wsgi', 'anyio'}:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Refuse())
"""


def alone(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code], env=environment, capture_output=True, text=True, check=False
    )


def test_the_base_install_imports_none_of_it() -> None:
    code = """
import pkgutil, importlib, pgvigil
for module in pkgutil.walk_packages(pgvigil.__path__, 'pgvigil.'):
    if not module.name.startswith(('pgvigil.web.', 'pgvigil.live.flask_cli')) and module.name != 'pgvigil.__main__':
        importlib.import_module(module.name)
from pgvigil import cli
sys.exit(cli.main(['--help']))
"""
    done = alone(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words", [["serve", "--no-auth"], ["token", "create", "a", "--auth-token-file", "tokens"]], ids=["serve", "token"]
)
def test_a_command_whose_packages_are_missing_says_what_to_install(words: list[str]) -> None:
    done = alone(f"from pgvigil import cli; sys.exit(cli.main({words!r}))")
    assert done.returncode == 2
    assert "which is not installed" in done.stderr
    assert f"pip install {quoted(f'{PROJECT}[web]')}" in done.stderr


@pytest.mark.parametrize(("missing", "extra"), [("fastapi", "web"), ("a2wsgi", "flask")])
def test_flask_alone_monitors_and_says_at_the_start_what_its_pages_need(missing: str, extra: str) -> None:
    code = f"""
sys.meta_path.pop(0)
sys.modules[{missing!r}] = None
import flask
from pgvigil.web.flask import PgvigilFlask
PgvigilFlask(flask.Flask("plain"))
print("monitors")
PgvigilFlask(flask.Flask("shop"), authorize=lambda: True, database_url="postgresql:///x")
"""
    done = alone(code)
    assert done.stdout == "monitors\n"
    last = done.stderr.splitlines()[-1]
    assert f"needs the package {missing}" in last
    assert f"pip install {quoted(f'{PROJECT}[{extra}]')}" in last


def test_web_without_its_packages_says_what_to_install() -> None:
    done = alone("from pgvigil import web; web.application")
    assert f"pip install {quoted(f'{PROJECT}[web]')}" in done.stderr
