"""Keep lists small whatever the rows hold: texts are cut to a limit, and a page shows as many rows as fit.

A row names the columns that were cut in `shortened`. The whole text of a row is answered by its id.
"""

# Annotations are not postponed: FastAPI reads TextLimit in functions that are made within a function.
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from fastapi import Query

from pgvigil.web.answers import escaped, plain

IN_STATE: Final = 300  # characters of a text in the state, which open pages ask for every few seconds
IN_LISTS: Final = 2000  # characters of a text in the API's other lists, unless the client says another limit
TextLimit = Annotated[
    int,
    Query(
        ge=1,
        le=10_000,
        description="Characters of a text, or bytes of a document, at most. A text is cut there; a longer document is null or reduced."
        " Either is named in `shortened`, and the row's own address has it whole",
    ),
]
PLAIN: Final = "OPERATOR(pg_catalog.#>) ARRAY[]::pg_catalog.text[]"  # a document as it is, but not compressed
NONE: Final = "ARRAY[]::pg_catalog.text[] AS shortened"
_ROWS_OF_A_PAGE: Final = (
    40_000  # bytes of one list on a page: eight such lists and the page's files are less than 300 kB
)
_ENTRIES: Final = 20  # of a document that counts by names, such as the types of errors


def columns(texts: Iterable[str], documents: Iterable[str], limit: int) -> str:
    """Return the SQL of these columns, each cut, and of `shortened`. A longer document is null. `limit` is a number, not a text."""
    cut, sizes = [], []
    for place in texts:
        name = place.rpartition(".")[2]
        cut.append(f'pg_catalog."left"({place}, {limit:d}) AS {name}')
        # No more than the beginning of a long value is read.
        sizes.append((name, f'pg_catalog.length(pg_catalog."left"({place}, {limit + 1:d}))'))
    for place in documents:
        name, size = place.rpartition(".")[2], _size(place, limit)
        cut.append(f"CASE WHEN {size} OPERATOR(pg_catalog.<=) {limit:d} THEN {place} END AS {name}")
        sizes.append((name, size))
    names = ", ".join(f"CASE WHEN {size} OPERATOR(pg_catalog.>) {limit:d} THEN '{name}' END" for name, size in sizes)
    return ", ".join([*cut, f"pg_catalog.array_remove(ARRAY[{names}]::pg_catalog.text[], NULL) AS shortened"])


def _size(document: str, limit: int) -> str:
    """Return the SQL of the bytes of a document. One that is stored in more than the limit is not read."""
    return (
        f"CASE WHEN pg_catalog.pg_column_size({document}) OPERATOR(pg_catalog.>) {limit:d} THEN {limit + 1:d}"
        f" ELSE pg_catalog.pg_column_size({document} {PLAIN}) END"
    )


def shortened(row: dict[str, Any], limit: int = IN_STATE) -> dict[str, Any]:
    """Return the row with its texts cut."""
    names = [name for name, value in row.items() if isinstance(value, str) and len(value) > limit]
    known = row.get("shortened", [])
    return {**row, **{name: row[name][:limit] for name in names}, "shortened": [*known, *names]}


def most(counted: Mapping[str, Any], size: Any) -> dict[str, Any]:
    """Return the largest entries of a document that counts by names, each name cut."""
    if len(counted) <= _ENTRIES and all(len(name) <= IN_STATE for name in counted):
        return dict(counted)
    kept = sorted(counted, key=lambda name: (-size(counted[name]), name))[:_ENTRIES]
    return {name[:IN_STATE]: counted[name] for name in kept}


def of_a_page(rows: Any, head: dict[str, Any] | None = None) -> str:
    """Return the rows in JSON as a section of a page: as many as fit, and `of` how many there are if not all do."""
    texts, size = [], 0
    for row in rows:
        text = json.dumps(row, default=plain, ensure_ascii=False)
        size += len(escaped(text)) + 2
        if size > _ROWS_OF_A_PAGE:
            break
        texts.append(text)
    left_out = {"of": len(rows)} if len(texts) < len(rows) else {}
    rest = json.dumps({**(head or {}), **left_out}, ensure_ascii=False)[1:]
    return f'{{"data": [{", ".join(texts)}]{", " if len(rest) > 1 else ""}{rest}'
