"""Test which database is meant: one source names it, a broken source is an error, and secrets go nowhere else."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from pathlib import Path

import psycopg
import pytest

from conftest import Run
from pgvigil import database, dot_env
from pgvigil.embedded import Server
from pgvigil.errors import ConnectError, UsageError

pytestmark = pytest.mark.client_side

NAMING = (
    "DATABASE_URL",
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGDATABASE",
    "PGUSER",
    "PGSERVICE",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSSLKEY",
)


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Clear the environment, and restore after the test what a call took out of it."""
    for name in (*NAMING, "PGSERVICEFILE", "PGSSLMODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    tmp_path.chmod(0o700)


def write(directory: Path, text: str | bytes) -> Path:
    path = directory / ".env"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return path


def refused(directory: Path, words: str) -> str:
    with pytest.raises(UsageError) as raised:
        database.resolve(None, [directory])
    assert words in raised.value.message
    return raised.value.message


# --- what should name a database and does not ------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["", "  ", "\n"])
def test_an_empty_option_is_not_passed_over(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@h/other")
    with pytest.raises(UsageError, match="given by --database-url is empty"):
        database.resolve(url, [])


def test_an_empty_variable_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("PGHOST", "other")
    with pytest.raises(UsageError, match="given by DATABASE_URL is empty"):
        database.resolve(None, [])


def test_a_service_that_no_file_defines_is_an_error_of_the_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGSERVICE", "nowhere")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    (tmp_path / "services").write_text("[prod]\nhost=other\n")
    target = database.resolve(None, [])
    assert target is not None
    with pytest.raises(UsageError, match='definition of service "nowhere" not found'):
        database.open_connection(target, "test")


def test_a_service_file_that_is_not_there_is_an_error_of_the_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGSERVICE", "prod")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    target = database.resolve(None, [])
    assert target is not None
    with pytest.raises(UsageError, match=r"service file .* not found"):
        database.open_connection(target, "test")


@pytest.mark.parametrize("name", ["PGHOST", "PGDATABASE"])
@pytest.mark.parametrize("others", [{}, {"PGHOST": "h", "PGDATABASE": "d", "PGPORT": "1"}])
def test_an_empty_pg_variable_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, others: dict[str, str]
) -> None:
    for variable, value in (others | {name: ""}).items():
        monkeypatch.setenv(variable, value)
    write(tmp_path, "DATABASE_URL=postgresql://u@h/other\n")
    refused(tmp_path, f"{name} is set but empty")


def test_an_address_in_the_place_of_a_name_is_not_looked_for_on_the_default_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGDATABASE", "postgresql://u:s3cret@h/d")
    assert "s3cret" not in refused(tmp_path, "PGDATABASE contains an address")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('A=1\nDATABASE_URL="postgresql://u@h/d\n', ".env:2 cannot be read"),
        ("\n\n DATABASE_URL='postgresql://u@h/d\nB=2\n", ".env:3 cannot be read"),
        ('DATABASE_URL="postgresql://u@h/d\nB="x"\n', ".env:1 cannot be read"),
        ("DATABASE_URL=\n", ".env:1: DATABASE_URL has no value"),
        ("A=1\nexport DATABASE_URL\n", ".env:2: DATABASE_URL has no value"),
        ('DATABASE_URL="postgresql://u@h/d\n"\n', ".env:1: DATABASE_URL has a value of more than one line"),
        ('PGDATABASE=d\nPGHOST="h\nx"\n', ".env:2: PGHOST has a value of more than one line"),
        ("PGHOST=h\nPGDATABASE=\n", ".env:2: PGDATABASE has no value"),
        ("PGDATABASE=d\nPGHOST='  '\n", ".env:2: PGHOST has no value"),
        ("PGHOST=h\nPGDATABASE=postgresql://u:s3cret@h/d\n", ".env:2: PGDATABASE contains an address"),
        ("A=1\ndatabase_url=postgresql://u:s3cret@h/d\n", ".env:2: database_url names no database"),
        ("#\nPGHOST=\nPGPORT=\n", ".env:2: PGHOST has no value"),
        ("DATABASE_URL=postgresql://u@h:port/d\n", ".env:1 cannot be read"),
        (b"A=1\nDATABASE_URL=postgresql://\xff\n", ".env:2 is not UTF-8 text"),
        (b"DATABASE_URL=postgresql://u@h/d\0\n", ".env:1 cannot be read"),
        ("PGSERVICE=prod\nPGHOSTADDR=192.0.2.1\n", "a service and a host are named"),
        ("DATABASE_URL=mysql://u:s3cret@h/d\n", "begins with mysql://, which is not PostgreSQL"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    write(tmp_path, text)
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    write(other, "DATABASE_URL=postgresql://u@h/other\n")
    with pytest.raises(UsageError) as raised:
        database.resolve(None, [tmp_path, other])
    assert words in raised.value.message
    assert "s3cret" not in raised.value.message


def test_a_byte_order_mark_hides_no_name(tmp_path: Path) -> None:
    write(tmp_path, b"\xef\xbb\xbfDATABASE_URL=postgresql://u@h/d\n")
    assert database.resolve(None, [tmp_path]) is not None


def test_a_directory_of_that_name_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir(mode=0o700)
    refused(tmp_path, ".env cannot be read: Is a directory")


def test_a_link_to_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to(tmp_path / "gone")
    refused(tmp_path, ".env cannot be read")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".env", 0o600)
    refused(tmp_path, ".env is not a file")


def test_a_file_that_may_not_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "DATABASE_URL=postgresql://u@h/d\n")
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr(dot_env.os, "open", lambda *_: (_ for _ in ()).throw(denied))  # root may read every file
    refused(tmp_path, ".env cannot be read: Permission denied")


def test_a_file_about_other_things_names_no_database(tmp_path: Path) -> None:
    write(tmp_path, "SECRET_KEY='x y' # and more\nPGPASSWORD=x\n")
    assert database.resolve(None, [tmp_path]) is None


# --- whose file it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o666, 0o602, 0o622])
def test_a_file_that_others_can_write_is_not_read(tmp_path: Path, mode: int) -> None:
    write(tmp_path, "DATABASE_URL=postgresql://u@h/d\n").chmod(mode)
    refused(tmp_path, "can be written to by every user")


def test_a_file_in_a_directory_that_others_can_write_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, "DATABASE_URL=postgresql://u@h/d\n")
    tmp_path.chmod(0o777)
    refused(tmp_path, f"{tmp_path} can be written to by every user")


def test_a_link_into_a_directory_that_others_can_write_is_not_followed(tmp_path: Path) -> None:
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    for directory in (theirs, mine):
        directory.mkdir(mode=0o700)
    (mine / ".env").symlink_to(write(theirs, "DATABASE_URL=postgresql://u@h/d\n"))
    theirs.chmod(0o777)
    refused(mine, f"{theirs} can be written to by every user")


@pytest.mark.parametrize("through", ["theirs/link/.env", "theirs/link/../mine/.env", "theirs/again"])
def test_a_link_through_a_directory_that_others_can_write_is_not_followed(tmp_path: Path, through: str) -> None:
    """The other users could change the link on the way, even if the file behind it belongs to nobody else now."""
    here, theirs, mine = (tmp_path / name for name in ("here", "theirs", "mine"))
    for directory in (here, theirs, mine):
        directory.mkdir(mode=0o700)
    (theirs / "again").symlink_to(write(mine, "DATABASE_URL=postgresql://u@h/d\n"))
    (theirs / "link").symlink_to("../mine")
    (here / ".env").symlink_to(f"../{through}")
    found = database.resolve(None, [here])
    assert found is not None
    assert found.parameters["host"] == "h"
    theirs.chmod(0o777)
    refused(here, f"{theirs} can be written to by every user")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a link to another user")
def test_another_user_s_link_is_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o700)
    write(mine, "DATABASE_URL=postgresql://u@h/d\n")
    (tmp_path / ".env").symlink_to("mine/.env")
    os.lchown(tmp_path / ".env", 4242, 4242)
    refused(tmp_path, f"{tmp_path}/.env belongs to another user (uid 4242)")


def test_a_file_of_many_megabytes_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path, "DATABASE_URL=postgresql://u@h/d\n")
    os.truncate(path, 1 << 40)
    refused(tmp_path, "has more than 1,000,000 bytes")


@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_belongs_to_another_user_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    path = write(tmp_path, "DATABASE_URL=postgresql://u@h/d\n")
    check, theirs = dot_env.require_own, path if what == "file" else tmp_path

    def as_if(named: Path, found: os.stat_result) -> None:
        check(named, os.stat_result((*found[:4], 4242, *found[5:10])) if named == theirs else found)

    monkeypatch.setattr(dot_env, "require_own", as_if)
    refused(tmp_path, f"{theirs} belongs to another user (uid 4242)")


def test_a_file_of_a_group_of_others_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "DATABASE_URL=postgresql://u@h/d\n").chmod(0o660)
    monkeypatch.setattr(dot_env, "is_private", lambda _: False)
    refused(tmp_path, "can be written to by its group")


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_file_that_a_list_gives_to_others_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(
        dot_env, "is_private", lambda _: True
    )  # the mode alone is that of a user with a group of its own
    file = write(tmp_path, "DATABASE_URL=postgresql://u@h/d\n")
    other, everybody = 65534, 0xFFFFFFFF
    rights = [(0x01, 7, everybody), (0x02, 7, other), (0x04, 0, everybody), (0x10, 7, everybody), (0x20, 0, everybody)]
    listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in rights)
    try:
        os.setxattr(file if what == "file" else tmp_path, "system.posix_acl_access", listed)
    except (OSError, AttributeError):
        pytest.skip("this file system has no access control lists")
    refused(tmp_path, "has an access control list by which others may write to it")


# --- one source, and its own credentials -----------------------------------------------------------------------------


def test_the_option_is_not_mixed_with_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE"):
        monkeypatch.setenv(name, "5")
    monkeypatch.setenv("PGPASSWORD", "by the same hand")
    target = database.resolve("postgresql:///d", [])
    assert target is not None
    assert target.parameters == {"dbname": "d"}
    assert {name for name in NAMING if name in os.environ} == {"PGPASSWORD"}


def test_credentials_of_the_environment_do_not_go_where_a_file_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PGPASSWORD", "PGPASSFILE", "PGSSLKEY", "PGSSLCERT"):
        monkeypatch.setenv(name, "mine")
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    write(tmp_path, "DATABASE_URL=postgresql://u@h/d\nPGPORT=1\n")
    target = database.resolve(None, [tmp_path])
    assert target is not None
    assert target.parameters == {"user": "u", "host": "h", "dbname": "d", "passfile": "/dev/null/none"}
    assert not {"PGPASSWORD", "PGPASSFILE", "PGSSLKEY", "PGSSLCERT"} & target.client_environment.keys()
    assert os.environ["PGSSLMODE"] == "verify-full"


def test_credentials_of_the_file_go_where_it_says(tmp_path: Path) -> None:
    write(tmp_path, "DATABASE_URL=postgresql://u@h/d\nPGPASSWORD='its own'\nPGPASSFILE=/its/own\n")
    target = database.resolve(None, [tmp_path])
    assert target is not None
    assert (target.parameters["password"], target.parameters["passfile"]) == ("its own", "/its/own")


def test_no_password_is_sent_to_a_server_that_a_file_names(run: Run, tmp_path: Path) -> None:
    """A server that asks for a password in clear gets none of PGPASSWORD, and none of the user's password file."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def ask() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(10)
                    first = connection.recv(1000)
                    if first[4:8] in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"):  # for TLS, or GSSAPI
                        connection.sendall(b"N")
                        connection.recv(1000)
                    connection.sendall(b"R\0\0\0\x08\0\0\0\x03")
                    heard.append(connection.recv(1000))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        write(tmp_path, f"DATABASE_URL=postgresql://u@127.0.0.1:{port}/d\n")
        passwords = tmp_path / "passwords"
        passwords.write_text("*:*:*:*:s3cret\n")
        passwords.chmod(0o600)
        environment = {"PGPASSWORD": "s3cret", "PGPASSFILE": str(passwords)}
        done = run("scripts/pgvigil", "status", cwd=tmp_path, env=environment)
        named = run(
            "scripts/pgvigil", "status", "--database-url", f"postgresql://u@127.0.0.1:{port}/d", env=environment
        )
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert (done.returncode, named.returncode) == (3, 3)
    assert "passwords of other sources are not sent to a host that it names" in done.stderr
    first, *others = [b"s3cret" in words for words in heard]  # a connection that ends is tried again
    assert (first, set(others)) == (False, {True})


def test_a_service_file_of_the_file_gets_no_password_of_the_user_s(tmp_path: Path) -> None:
    """The service names a host, which libpq would look up in ~/.pgpass."""
    write(tmp_path, "PGSERVICE=theirs\nPGSERVICEFILE=/their/own\n")
    assert database.resolve(None, [tmp_path]) is not None
    assert os.environ["PGPASSFILE"] == "/dev/null/none"


def test_the_user_s_own_service_keeps_the_user_s_passwords(tmp_path: Path) -> None:
    write(tmp_path, "PGSERVICE=mine\n")
    target = database.resolve(None, [tmp_path])
    assert target is not None
    assert "passfile" not in target.parameters
    assert "PGPASSFILE" not in os.environ


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The environment names another server, where nothing listens."""
    if request.param == "PGHOSTADDR":
        monkeypatch.setenv("PGHOSTADDR", "127.0.0.2")
    else:
        services = tmp_path / "services"
        services.write_text("[other]\nhostaddr=127.0.0.2\nport=1\npassword=of the other\n")
        monkeypatch.setenv("PGSERVICEFILE", str(services))
        monkeypatch.setenv("PGSERVICE", "other")


@pytest.mark.parametrize("elsewhere", ["PGHOSTADDR", "PGSERVICE"], indirect=True)
@pytest.mark.usefixtures("elsewhere")
def test_a_throw_away_server_is_never_mistaken_for_one_that_the_environment_names(pg: Server) -> None:
    """The verbs `lint`, `check` and `demo` would make roles there, and run the migrations."""
    with psycopg.connect(pg.dsn()) as conn:
        assert conn.info.hostaddr == ""
    with psycopg.connect(pg.tcp_dsn()) as conn:
        assert conn.info.hostaddr == "127.0.0.1"


@pytest.mark.parametrize("elsewhere", ["PGHOSTADDR", "PGSERVICE"], indirect=True)
@pytest.mark.usefixtures("elsewhere")
def test_an_address_with_a_host_is_not_led_to_another_server() -> None:
    target = database.parse_url("postgresql://u@127.0.0.1:1/d", "a recorder")
    with pytest.raises(ConnectError, match=r'server at "127\.0\.0\.1"'):
        database.open_connection(target, "test")
    assert "hostaddr" not in target.public_conninfo


@pytest.mark.parametrize("elsewhere", ["PGHOSTADDR", "PGSERVICE"], indirect=True)
@pytest.mark.usefixtures("elsewhere")
def test_a_second_database_gets_no_credentials_of_the_first(monkeypatch: pytest.MonkeyPatch, pg: Server) -> None:
    """The variables PGPASSWORD and PGPORT belong to the database that the environment names, not to the telemetry
    server.
    """
    monkeypatch.setenv("PGPASSWORD", pg.password)
    monkeypatch.setenv("PGPORT", str(pg.port))
    mine = database.parse_other_url(f"postgresql://postgres@127.0.0.1:{pg.port}/postgres", "PGVIGIL_TELEMETRY_URL")
    with pytest.raises(ConnectError, match="no password supplied"):
        database.open_connection(mine, "holds")
    assert database.parse_other_url("postgresql://h/d", "x").parameters["port"] == "5432"


# --- addresses of other tools ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:s3cret@h/d?pgbouncer=true", "libpq has no parameter pgbouncer"),
        ("postgresql://u:s3cret@h/d?schema=public&sslmode=require", "libpq has no parameter schema"),
        ("postgresql://h/d?connection_limit=1&pool_timeout=20", "no parameters connection_limit, pool_timeout"),
        ("postgresql://h/d?ssl=require", "libpq has no parameter ssl"),
        ("host=h dbname=d password=s3cret pgbouncer=true", "libpq has no parameter pgbouncer"),
        ("Server=h;Maximum Pool Size=20;Password=s3cret", "libpq has no parameters Server, Maximum Pool Size"),
        ("POSTGRESQL://u:s3cret@h/d", "begins with POSTGRESQL://, a form of other tools"),
        ("prisma+postgres://h/?api_key=s3cret", "begins with prisma+postgres://, a form of other tools"),
        ("jdbc:postgresql://h/d?user=u&password=s3cret", "begins with jdbc:postgresql://"),
        ("postgresql:u:s3cret@h", "begins with postgresql:"),
        ("mysql://u:s3cret@h/d", "begins with mysql://, which is not PostgreSQL"),
        ("Server=h;Database=d;User Id=u;Password=s3cret", "libpq has no parameters Server, Database, User Id"),
        ("host=h;user=u;password=s3cret", "has semicolons between its parameters"),
    ],
)
def test_an_address_of_another_tool_is_named_for_what_it_is(url: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        database.parse_url(url, "--database-url")
    assert words in raised.value.message
    assert "s3cret" not in raised.value.message + raised.value.hint
    assert "Did you mean" not in raised.value.hint


@pytest.mark.parametrize("url", [
    "postgresql://u:a/s3cret=b?s3cret=1@h/d", "postgresql://u:a@s3cret@h/d", "postgresql://u:12/s3cret@h/d", "host=h password=a s3cret=b",
    "postgresql://u:pa#s3cret@[::1/d",
])  # fmt: skip
def test_no_piece_of_a_password_is_taken_for_a_name(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        database.parse_url(url, "--database-url")
    assert "s3cret" not in raised.value.message + raised.value.hint


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_printed_commands_or_arguments_and_children_get_them_all() -> None:
    secrets = {name: f"s3cret {name}" for name in database.SECRETS}
    target = database.Target({"host": "h", "dbname": "d", **secrets}, "--database-url")
    assert "s3cret" not in target.public_conninfo + target.option + str(target) + repr(target)
    environment = target.client_environment
    assert environment["PGPASSWORD"] == "s3cret password"
    service = Path(environment["PGSERVICEFILE"])
    lines = service.read_text().splitlines()
    assert lines[0] == f"[{environment['PGSERVICE']}]"
    assert set(lines[1:]) == {f"{k}={v}" for k, v in secrets.items() if k != "password"}


def test_an_argument_that_cannot_be_read_is_repeated_without_its_password(run: Run) -> None:
    for stray in ("postgresql://u:s3cret@h/d", "host=h password = 's3cret'"):
        done = run("scripts/pgvigil", "status", stray)
        assert done.returncode == 2
        assert "an argument is the address of a database: " in done.stderr
        assert "s3cret" not in done.stderr
