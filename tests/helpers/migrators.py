"""The migrators of other people, each with a project of one migration in a directory: what `pgvigil guard` is for."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

COLUMN = "age"
_ALEMBIC_ENV = """
import os, sqlalchemy
from alembic import context
url = os.environ.get("OWN_URL", os.environ.get("DATABASE_URL", ""))
engine = sqlalchemy.create_engine("postgresql+psycopg://" + url.partition("://")[2])
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()
"""
DJANGO_SETTINGS = """
import os
from urllib.parse import parse_qs, unquote, urlsplit
url = urlsplit(os.environ.get("OWN_URL", os.environ.get("DATABASE_URL", "")))
place = parse_qs(url.query).get("host", [url.hostname])[0], parse_qs(url.query).get("port", [url.port])[0]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": unquote(url.path[1:]), "USER": url.username,
                         "PASSWORD": unquote(url.password or ""), "HOST": place[0], "PORT": place[1]}}
INSTALLED_APPS = ["shop"]
SECRET_KEY = "x"
USE_TZ = True
"""
_DJANGO_MIGRATION = """
from django.db import migrations
class Migration(migrations.Migration):
    operations = [migrations.RunSQL("ALTER TABLE orders ADD COLUMN age int")]
"""
_FILES = {
    "dbmate/20260101000000_age.sql": f"-- migrate:up\nALTER TABLE orders ADD COLUMN {COLUMN} int;\n-- migrate:down\n",
    "alembic.ini": "[alembic]\nscript_location = alembic\n",
    "alembic/env.py": _ALEMBIC_ENV,
    "alembic/versions/1_age.py": f"from alembic import op\nrevision = '1'\ndown_revision = None\n\n\ndef upgrade():\n    op.execute('ALTER TABLE orders ADD COLUMN {COLUMN} int')\n",
    "settings.py": DJANGO_SETTINGS,
    "shop/__init__.py": "",
    "shop/migrations/__init__.py": "",
    "shop/migrations/0001_age.py": _DJANGO_MIGRATION,
    "sqitch/sqitch.conf": "[core]\n    engine = pg\n",
    "sqitch/sqitch.plan": "%syntax-version=1.0.0\n%project=shop\n\nage 2026-01-01T00:00:00Z A <a@example.com> # age\n",
    "sqitch/deploy/age.sql": f"BEGIN;\nALTER TABLE orders ADD COLUMN {COLUMN} int;\nCOMMIT;\n",
    "sqitch/verify/age.sql": f"SELECT {COLUMN} FROM orders WHERE false;\n",
    "yoyo/0001.age.sql": f"ALTER TABLE orders ADD COLUMN {COLUMN} int;\n",
}  # fmt: skip


@dataclass(frozen=True)
class Migrator:
    """A migration tool.

    `command` is a line for the shell, as its users write it; {bin} is where the tools are. `status` says what is in,
    `applied` how.
    """

    name: str
    command: str
    status: str
    applied: str


_DBMATE = '{bin}/dbmate --url "${{OWN_URL:-$DATABASE_URL}}" --no-dump-schema -d dbmate'
_YOYO = 'u=${{OWN_URL:-$DATABASE_URL}}; {bin}/yoyo {verb} --batch --database "postgresql+psycopg://${{u#*://}}" yoyo'
# Debian's package: it is written in Perl.
_SQITCH = 'u=${{OWN_URL:-$DATABASE_URL}}; cd sqitch && SQITCH_FULLNAME=A SQITCH_EMAIL=a@example.com sqitch {verb} "db:pg://${{u#*://}}"'
MIGRATORS = (
    Migrator("dbmate", f"{_DBMATE} migrate", f"{_DBMATE} status", "Applied: 1"),
    Migrator("alembic", "{bin}/alembic upgrade head", "{bin}/alembic current", "1 (head)"),
    Migrator(
        "django",
        "PYTHONPATH=. {bin}/python -m django migrate --settings settings",
        "PYTHONPATH=. {bin}/python -m django showmigrations --settings settings",
        "[X] 0001_age",
    ),
    Migrator(
        "sqitch", _SQITCH.replace("{verb}", "deploy --verify"), _SQITCH.replace("{verb}", "status"), "Nothing to deploy"
    ),
    Migrator("yoyo", _YOYO.replace("{verb}", "apply"), _YOYO.replace("{verb}", "list"), "A "),
)


def place_of_tools() -> Path | None:
    """Return the directory of requirements/migrators.txt: $MIGRATORS_BIN."""
    given = os.environ.get("MIGRATORS_BIN")
    return Path(given) if given and shutil.which("dbmate", path=given) else None


def require_tools(tool: str = "") -> Path:
    """Skip a test where the tools, or this one, are missing. In CI they must be there."""
    place = place_of_tools()
    refuse = pytest.fail if os.environ.get("REQUIRE_MIGRATORS") else pytest.skip
    if tool == "sqitch" and not shutil.which("sqitch"):
        refuse("no sqitch here: apt-get install sqitch libdbd-pg-perl")
    if place is None:
        refuse("no migrators here: install requirements/migrators.txt into a virtual environment, MIGRATORS_BIN=…/bin")
    return place


def write_projects(directory: Path) -> None:
    """A project of each tool that adds the column to orders."""
    for name, text in _FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def url_for(address: str) -> str:
    """An address as these tools take it: without TLS, which dbmate asks for by default."""
    return address + ("&" if "?" in address else "?") + "sslmode=disable"
