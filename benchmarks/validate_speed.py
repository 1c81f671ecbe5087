"""The time of a verdict, whole process and cold: ours against SQLAlchemy's reflection and Alembic's comparison.

    scripts/bootstrap.sh test benchmarks/validate_speed.py [--tables 1000] [--rounds 5] [--rest 0]

Builds, on a throw-away server, a database of 1,000 tables (10 columns, 3 indexes, 2 constraints and 1 trigger each) and
our own schema. Then each contender is started again and again, in turns, as a process of its own that imports,
connects, reads and compares. Prints the fastest round of each and how many times `import psycopg` it took, which no
contender can do without; the slowest too, which says how quiet the machine was. `--rest`: seconds of doing nothing
before each round, for a machine that is let run fast for a short while only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from pgvigil import embedded  # noqa: E402

TABLE = """
    CREATE TABLE t{n} (
        id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT t{n}_pkey PRIMARY KEY,
        a varchar(100) NOT NULL, b text, c integer NOT NULL DEFAULT 0, d numeric(12,2), e timestamptz NOT NULL DEFAULT now(),
        f boolean NOT NULL DEFAULT false, g jsonb, h uuid, i date,
        CONSTRAINT t{n}_c_check CHECK (c >= 0)
    );
    CREATE INDEX t{n}_a ON t{n} (a);
    CREATE INDEX t{n}_e ON t{n} (e, c);
    CREATE INDEX t{n}_h ON t{n} (h) WHERE f;
    CREATE TRIGGER t{n}_touch BEFORE UPDATE ON t{n} FOR EACH ROW EXECUTE FUNCTION touch();
"""
TOUCH = "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.e := now(); RETURN NEW; END'"

REFLECTION = """
from sqlalchemy import MetaData, create_engine
metadata = MetaData()
metadata.reflect(create_engine({url!r}))
assert len(metadata.tables) == {tables}
"""
# The models an application would have, so that there is nothing to find; Alembic looks at no trigger, function or CHECK.
COMPARISON = """
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import *
from sqlalchemy.dialects.postgresql import JSONB
metadata = MetaData()
for n in range({tables}):
    table = Table(f"t{{n}}", metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True), Column("a", String(100), nullable=False),
        Column("b", Text), Column("c", Integer, nullable=False, server_default="0"), Column("d", Numeric(12, 2)),
        Column("e", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("f", Boolean, nullable=False, server_default="false"), Column("g", JSONB), Column("h", Uuid), Column("i", Date))
    Index(f"t{{n}}_a", table.c.a); Index(f"t{{n}}_e", table.c.e, table.c.c); Index(f"t{{n}}_h", table.c.h)
with create_engine({url!r}).connect() as connection:
    differences = compare_metadata(MigrationContext.configure(connection), metadata)
assert differences == [], differences[:3]
"""


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def pgvigil(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "pgvigil", *words]


def build(server: embedded.Server, tables: int) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE wide")
        conn.execute("CREATE DATABASE ours")
    with psycopg.connect(server.dsn("wide"), autocommit=True) as conn:
        conn.execute(TOUCH)
        for start in range(0, tables, 100):
            conn.execute("".join(TABLE.format(n=n) for n in range(start, min(start + 100, tables))).encode())
        conn.execute("VACUUM ANALYZE")
    subprocess.run(pgvigil("setup", "--database-url", server.dsn("ours")), check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rest", type=float, default=0)
    parser.add_argument(
        "--bindir", type=Path, default=embedded.binaries(), help="a PostgreSQL to use instead of the embedded one"
    )
    arguments = parser.parse_args()
    with embedded.Server(arguments.bindir) as server, tempfile.TemporaryDirectory() as folder:
        build(server, arguments.tables)
        wide, ours = server.dsn("wide"), server.dsn("ours")
        spec = Path(folder, "wide.yaml")
        with spec.open("w") as file:
            subprocess.run(pgvigil("spec", "dump", "--database-url", wide), check=True, stdout=file)
        filled = {"tables": arguments.tables, "url": wide.replace("postgresql://", "postgresql+psycopg://")}
        contenders = {
            "import psycopg": [sys.executable, "-P", "-c", "import psycopg"],
            "ours": pgvigil("validate", "--spec", str(spec), "--database-url", wide),
            "reflection": [sys.executable, "-c", REFLECTION.format(**filled)],
            "alembic": [sys.executable, "-c", COMPARISON.format(**filled)],
            "our schema, cached": pgvigil("validate", "--database-url", ours),
            "our schema, scratch": pgvigil("validate", "--database-url", ours),
        }
        os.environ["XDG_CACHE_HOME"] = str(Path(folder, "cache"))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed: the modules are compiled once
        for command in contenders.values():
            seconds(command)  # fills the caches, and the server's
        took: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(arguments.rounds):
            time.sleep(arguments.rest)
            for name, command in contenders.items():
                if name.endswith("scratch"):
                    for kept in Path(os.environ["XDG_CACHE_HOME"], "pgvigil").glob("reference-*"):
                        kept.unlink()
                took[name].append(seconds(command))
        print(f"PostgreSQL {server.major}, {arguments.tables:,} tables, {arguments.rounds} rounds, whole process")
        fastest = {name: min(times) for name, times in took.items()}
        print(f"{'':22}{'fastest s':>10}{'slowest s':>11}{'imports':>9}")
        for name, times in took.items():
            print(f"{name:22}{fastest[name]:10.2f}{max(times):11.2f}{fastest[name] / fastest['import psycopg']:9.1f}")
        for other in ("reflection", "alembic"):
            print(f"{other} : ours = {fastest[other] / fastest['ours']:.1f} : 1")


if __name__ == "__main__":
    main()
