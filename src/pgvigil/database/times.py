"""Read times that PostgreSQL has and Python has not: infinity, years before 1 and after 9999."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from psycopg import DataError
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestamptzLoader

EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
LATEST: Final = datetime.max.replace(tzinfo=UTC)


class NearestTimeLoader(TimestamptzLoader):
    """Load a timestamptz; one that Python does not have becomes `EARLIEST` or `LATEST`, whichever is nearer."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except (DataError, OverflowError):
            text = bytes(data)
            return EARLIEST if text.startswith(b"-") or text.endswith(b"BC") or text.startswith(b"0001-") else LATEST
