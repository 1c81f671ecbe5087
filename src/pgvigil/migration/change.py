"""A change of a database by migration files, as the runner asks a chain for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pgvigil.migration.files import Migration


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Change:
    """A change that is made as a whole or not at all: a `group` of files.groups() goes in, or `to_revert` is taken out.

    `before_commit` is called inside the transaction, and rolls it back by raising; `before_lock` is called in it before the
    application's tables are locked. `preview` are transactional migrations that follow the group: they are in as well while
    `before_commit` runs, and are rolled back before the commit. A revert leaves the database at `down_to` ("base" for none).
    """

    before_commit: Callable[[], None]
    group: list[Migration] = field(default_factory=list)
    before_lock: Callable[[], None] = _nothing
    preview: list[Migration] = field(default_factory=list)
    to_revert: list[Migration] = field(default_factory=list)
    down_to: str | None = None
