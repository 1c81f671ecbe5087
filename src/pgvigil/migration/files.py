"""The migrations on disk, and what is to be done with a database that has some of them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from pgvigil import project
from pgvigil.errors import UsageError
from pgvigil.migration import sql_lexer

NO_TRANSACTION = "-- pgvigil: no-transaction"
_FILE_NAME = re.compile(r"(?P<revision>\d{3})_[a-z0-9_]+")
TRANSACTION_CONTROL = {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "PREPARE"}


@dataclass(frozen=True)
class Migration:
    """A SQL file with the file that reverts it."""

    path: Path
    raw: bytes

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def revision(self) -> str:
        return self.name[:3]

    @property
    def revert_path(self) -> Path:
        return self.path.parent / "revert" / self.path.name

    @property
    def revert_script(self) -> str:
        return self.revert_path.read_text()

    @property
    def script(self) -> str:
        """The text of the file. A checkout with CRLF line ends has the same text, also inside function bodies."""
        return self.raw.decode().replace("\r\n", "\n")

    @property
    def transactional(self) -> bool:
        return not self.script.startswith(NO_TRANSACTION)

    @property
    def sha256_bytes(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()

    @cached_property
    def sha256_tokens(self) -> str:
        """The digest of the SQL tokens, and of the one comment that has a meaning."""
        return (
            sql_lexer.digest(self.script) if self.transactional else sql_lexer.digest("no transaction;" + self.script)
        )

    @cached_property
    def statements(self) -> list[sql_lexer.Statement]:
        return read_statements(self.path, self.script, transactional=self.transactional)


def is_shipped(path: Path) -> bool:
    """Return true if a migration is as the init script was generated from it; the same is then true of its revert file."""
    forward = project.MIGRATIONS / path.name
    try:
        raw, generated = forward.read_bytes(), project.INIT_SQL.read_text(encoding="utf-8")
    except OSError:
        return False
    if hashlib.sha256(raw).hexdigest() in generated:
        return True
    try:  # a file without a revision is in it statement by statement
        found = sql_lexer.statements(raw.decode(errors="replace"))
    except sql_lexer.SqlError:
        return False
    return bool(found) and all(statement.text in generated for statement in found)


def read_statements(path: Path, script: str, *, transactional: bool) -> list[sql_lexer.Statement]:
    """The statements of a migration or revert file. Raise UsageError with file and line for what cannot be one."""
    try:
        found = sql_lexer.statements(script)
    except sql_lexer.SqlError as error:
        raise UsageError(f"{path}:{error.line}: {error}", "Fix the file; no database was asked.") from error
    for statement in found:
        if transactional and statement.tokens[0].text.upper() in TRANSACTION_CONTROL:
            raise UsageError(
                f"{path}:{statement.line}: {statement.tokens[0].text.upper()} in a file that runs in a transaction of the runner's",
                f'Take it out, or make the first line "{NO_TRANSACTION}".',
            )
    return found


def load(directory: Path) -> list[Migration]:
    """Return all migrations in order.

    Raise UsageError where a file is misnamed or lacks its revert or its Alembic revision.
    """
    if not directory.is_dir():
        raise UsageError(f"there are no migrations at {directory}", "Run from a complete checkout or installation.")
    migrations = []
    for path in sorted(directory.glob("[0-9]*.sql")):
        if not _FILE_NAME.fullmatch(path.stem):
            raise UsageError(f"{path}: a migration is called NNN_name.sql, in lower case", "Rename it.")
        try:
            migration = Migration(path, path.read_bytes())
            migration.raw.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: {error}", "A migration is readable UTF-8 text.") from error
        for needed in (migration.revert_path, directory / "versions" / f"{path.stem}.py"):
            if not needed.is_file():
                raise UsageError(
                    f"{path} has no {needed.relative_to(directory)}", "Every migration has a revert and a revision."
                )
        migrations.append(migration)
    revisions = [m.revision for m in migrations]
    if revisions != [f"{n:03}" for n in range(len(revisions))]:
        raise UsageError(
            f"the migrations in {directory} are not numbered 000, 001, … without gap or repetition", "Renumber them."
        )
    return migrations


def groups(migrations: list[Migration]) -> list[list[Migration]]:
    """Return the groups of files that are applied together.

    Consecutive transactional files share one transaction; each other file is alone.
    """
    return [
        group
        for transactional, run in groupby(migrations, key=lambda m: m.transactional)
        for group in ([list(run)] if transactional else [[m] for m in run])
    ]
