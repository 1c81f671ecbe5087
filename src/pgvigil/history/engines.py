"""The engines that read the files: DuckDB in this process, or Apache Spark where one machine no longer serves. Both are asked the same SQL."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pgvigil.archives import duck, scan
from pgvigil.errors import UsageError

ENGINES = ("duckdb", "spark")
Name: TypeAlias = Literal["duckdb", "spark"]

# Asks one question of some files. In the SQL, {files} is the table, {micros} the name of the function that returns the microseconds since
# 1970, {div} the division of integers, and {time} the name of the type of a moment.
Ask: TypeAlias = Callable[[str, Sequence[Path]], list[tuple[Any, ...]]]


@contextmanager
def opened(name: Name = "duckdb", master: str = "local[*]") -> Iterator[Ask]:
    """Start an engine. Raise UsageError where its package is not installed, or it cannot be started."""
    if name == "spark":
        with _spark(master) as ask:
            yield ask
        return
    with closing(duck()) as conn:

        def ask(query: str, files: Sequence[Path]) -> list[tuple[Any, ...]]:
            said = query.format(files=scan(files), micros="epoch_us", div="//", time="TIMESTAMPTZ")
            return conn.execute(said).fetchall() if files else []

        yield ask


@contextmanager
def _spark(master: str) -> Iterator[Ask]:
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ModuleNotFoundError as error:
        raise UsageError(
            "this engine needs the package pyspark, which is not installed", "Run: pip install 'pgvigil[spark]'"
        ) from error
    logging.getLogger("py4j").setLevel(logging.ERROR)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1" if master.startswith("local") else "0.0.0.0")  # noqa: S104
    builder = SparkSession.builder.master(master).appName("pgvigil history")
    for key, value in {
        "spark.ui.enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "8",
        "spark.sql.caseSensitive": "true",
        "spark.log.level": "ERROR",
        "spark.ui.showConsoleProgress": "false",
    }.items():
        builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
    except (PySparkException, RuntimeError) as error:
        said = " ".join(str(error).split())[:300]
        raise UsageError(
            f"Spark does not start: {said}", "It needs Java 17 or later: see JAVA_HOME, and --master."
        ) from error
    try:

        def ask(query: str, files: Sequence[Path]) -> list[tuple[Any, ...]]:
            if not files:
                return []
            session.read.parquet(*(str(path) for path in files)).createOrReplaceTempView("pgvigil_files")
            said = query.format(files="pgvigil_files", micros="unix_micros", div="div", time="TIMESTAMP")
            return [tuple(row) for row in session.sql(said).collect()]

        yield ask
    finally:
        with suppress(Exception):
            session.stop()
