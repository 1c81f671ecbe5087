"""The API of query executions: pages, statistics, and posting them.

More than 400 lines: the routes share the models of one row and the conditions of one search.
"""

# Annotations are not postponed: FastAPI reads those of functions that are made within a function.

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from psycopg.rows import dict_row
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from pgvigil.live import execution_queries as queries
from pgvigil.live import records
from pgvigil.web import problems, shortening
from pgvigil.web.access import Principal
from pgvigil.web.answers import NO_NUL, as_json, bounded_body, fresh, parsed, written
from pgvigil.web.moments import Since, Until, moment
from pgvigil.web.problems import Problem
from pgvigil.web.shortening import IN_LISTS, TextLimit
from pgvigil.web.store import Connection, Store

if TYPE_CHECKING:
    from pgvigil.live.recorder import Recorder

F = TypeVar("F", bound=Callable[..., Any])
_MOST_ITEMS: Final = 1000
_LONGEST_BODY: Final = 4 << 20
_COLUMNS: Final = (
    "id", "execution_id", "user_id", "conversation_id", "database_type", "query_complexity", "status", "execution_time", "total_rows",
    "returned_rows", "page", "page_size", "error_type", "started_at", "completed_at",
)  # fmt: skip
# Columns that only an admin sees: the text of queries and errors, and the application's own documents.
_TEXTS: Final = ("query", "error_message")
_DOCUMENTS: Final = ("connection_params", "request_metadata", "response_metadata")

Status = Literal["success", "failed", "timeout", "error"]
_USER: Final[dict[str, Any]] = {"min_length": 1, "max_length": 100}
UserInPath = Annotated[str, Path(pattern=r"^[^\x00/]+$", description="One with a slash: use ?user_id=", **_USER)]
Days = Annotated[int, Query(ge=1, le=365, description="Times 24 hours, up to now")]


class Execution(BaseModel):
    """An execution. A viewer sees null for query, error_message and the three documents.

    In a list, the columns in `shortened` are longer than text_limit: texts are cut there, documents are null. GET
    /api/v1/executions/by-id/{id} has them whole.
    """

    id: int
    execution_id: str
    user_id: str | None
    conversation_id: str | None
    query: str | None
    database_type: str
    query_complexity: str | None
    status: Status
    execution_time: float | None = Field(description="Seconds")
    total_rows: int | None
    returned_rows: int | None
    page: int | None
    page_size: int | None
    error_message: str | None
    error_type: str | None
    started_at: str
    completed_at: str | None
    connection_params: dict[str, Any] | None
    request_metadata: dict[str, Any] | None
    response_metadata: dict[str, Any] | None
    shortened: list[str]


class Executions(BaseModel):
    """A page, the newest first. `next_cursor` is null on the last one."""

    user_id: str | None
    count: int
    limit: int
    offset: int
    next_cursor: str | None
    executions: list[Execution]


class Stats(BaseModel):
    """The counts and times. Without executions, rate and times are null."""

    user_id: str | None
    period_days: int
    total_executions: int
    success_count: int
    failed_count: int
    error_count: int
    timeout_count: int
    success_rate: float | None = Field(description="Percent, to two places")
    avg_execution_time: float | None = Field(description="Seconds")
    max_execution_time: float | None = Field(description="Seconds")
    total_rows_processed: int


class EngineStats(BaseModel):
    """An engine."""

    database_type: str
    execution_count: int
    success_count: int
    failed_count: int
    avg_execution_time: float | None


class DatabaseStats(BaseModel):
    """The engines, the most used first."""

    user_id: str | None
    period_days: int | None
    database_stats: list[EngineStats]


_Name = Annotated[str, Field(min_length=1, max_length=100, pattern=NO_NUL)]
_Text = Annotated[str, Field(max_length=1_000_000)]
_Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Small = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Document = dict[str, JsonValue]


def _date_first(value: object) -> object:
    """Refuse a number of seconds, also one in a string: AwareDatetime would take it."""
    if not isinstance(value, str) or not re.match(r"\d{4}-", value, re.ASCII):
        raise PydanticCustomError("moment", "has to be a time with a zone, such as 2026-01-31T10:00:00Z")
    return value


_Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_date_first)]


class NewExecution(BaseModel):
    """An execution to record. An execution_id that is stored already is not written again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: _Text
    database_type: Annotated[str, Field(min_length=1, max_length=50, pattern=NO_NUL)]
    status: Status = "success"
    execution_id: _Name | None = None
    user_id: _Name | None = None
    conversation_id: _Name | None = None
    execution_time: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    total_rows: _Count | None = None
    returned_rows: _Count | None = None
    page: _Small | None = None
    page_size: _Small | None = None
    error_message: _Text | None = None
    error_type: Annotated[str, Field(max_length=100)] | None = None
    started_at: _Moment | None = None
    completed_at: _Moment | None = None
    connection_params: _Document | None = None
    request_metadata: _Document | None = None
    response_metadata: _Document | None = None


class NewExecutions(BaseModel):
    """A batch."""

    model_config = ConfigDict(extra="forbid")

    executions: list[NewExecution] = Field(min_length=1, max_length=_MOST_ITEMS)


class Refused(BaseModel):
    """An item of the batch that cannot be stored."""

    index: int
    errors: list[problems.FieldError]


class Accepted(BaseModel):
    """The accepted and the refused items. `execution_ids` are those of the accepted ones, in their order."""

    accepted: int
    execution_ids: list[str]
    refused: list[Refused]


_ITEM: Final = TypeAdapter(NewExecution)
# Each item is validated by itself, so that one bad item does not refuse the batch.
_BATCH: Final = TypeAdapter(list[Any])


class _Page:
    """The parameters that select executions."""

    def __init__(
        self,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        offset: Annotated[int, Query(ge=0, le=10_000, description="Not with cursor, which is quick anywhere")] = 0,
        status: Annotated[Status | None, Query()] = None,
        database_type: Annotated[str | None, Query(min_length=1, max_length=50, pattern=NO_NUL)] = None,
        conversation_id: Annotated[str | None, Query(min_length=1, max_length=100, pattern=NO_NUL)] = None,
        cursor: Annotated[
            str | None,
            Query(
                max_length=200,
                description="next_cursor of the page before",
                json_schema_extra={"format": "pgvigil-cursor"},
            ),
        ] = None,
        since: Since = None,
        until: Until = None,
        longer_than: Annotated[float | None, Query(allow_inf_nan=False, ge=0, description="Seconds")] = None,
        up_to: Annotated[float | None, Query(allow_inf_nan=False, ge=0, description="Seconds")] = None,
        text_limit: TextLimit = IN_LISTS,
    ) -> None:
        if cursor is not None and offset:
            raise problems.bad_parameter(
                "query", "offset", "offset and cursor are two ways to the next page: give one of them"
            )
        self.limit, self.offset, self.status, self.database_type, self.cursor = (
            limit,
            offset,
            status,
            database_type,
            cursor,
        )
        self.conversation_id, self.text_limit = conversation_id, text_limit
        self.longer_than, self.up_to = longer_than, up_to
        self.since, self.until = moment("from", since), moment("to", until)


def router(app: FastAPI) -> APIRouter:
    """Return the routes below /api/v1/executions."""
    store: Store = app.state.store
    viewer, admin = app.state.access.viewer, app.state.access.admin
    Viewer = Annotated[Principal, Depends(viewer)]
    Admin = Annotated[Principal, Depends(admin)]
    router = APIRouter(prefix="/api/v1", tags=["executions"], responses=problems.DOCUMENTED)

    def read(
        path: str, model: type[BaseModel], summary: str, more: dict[int | str, dict[str, Any]] | None = None
    ) -> Callable[[F], F]:
        return router.get(path, response_model=None, responses={200: {"model": model}, **(more or {})}, summary=summary)

    @read("/executions", Executions, "Executions of all users, or of one")
    async def all_executions(
        request: Request,
        principal: Viewer,
        page: Annotated[_Page, Depends()],
        user_id: Annotated[str | None, Query(pattern=NO_NUL, **_USER)] = None,
    ) -> Response:
        return await _page(store, request, principal, page, user_id)

    @read("/executions/stats/global", Stats, "Counts and times of all users")
    async def global_stats(request: Request, _: Viewer, days: Days = 7) -> Response:
        found = await store.shared(f"stats {days}", 1.0, lambda connection: _global_stats(connection, days))
        return fresh(request, found)

    @read("/executions/database-stats/global", DatabaseStats, "Engines of all users")
    async def global_engines(
        request: Request, _: Viewer, days: Annotated[int | None, Query(ge=1, le=365, description="Default: all that is kept")] = None
    ) -> Response:  # fmt: skip
        found = await store.shared(f"engines {days}", 1.0, lambda connection: _global_engines(connection, days))
        return fresh(request, found)

    @read("/executions/by-id/{id}", Execution, "One execution, with whole texts", problems.missing("execution"))
    async def one_execution(principal: Viewer, id: Annotated[int, Path(ge=1, le=2**63 - 1)]) -> Response:
        query = f"SELECT {_columns(principal)} FROM {{}} WHERE id {queries.EQUALS} %s"
        found = await store.ask(lambda connection: _in_json(store, connection, query, [id]))
        if not found:
            raise Problem(404, "not-found", "There is no such execution")
        return written(found[0][2])

    @read("/executions/{user_id}", Executions, "Executions of a user")
    async def executions_of_user(
        request: Request, principal: Viewer, user_id: UserInPath, page: Annotated[_Page, Depends()]
    ) -> Response:
        _require_one_segment(request)
        return await _page(store, request, principal, page, user_id)

    @read("/executions/{user_id}/stats", Stats, "Counts and times of a user")
    async def stats_of_user(request: Request, _: Viewer, user_id: UserInPath, days: Days = 7) -> Response:
        _require_one_segment(request)
        [found] = await store.ask(lambda connection: _rows(store, connection, *queries.stats(user_id, days)))
        return fresh(request, {"user_id": user_id} | found)

    @read("/executions/{user_id}/database-stats", DatabaseStats, "Engines of a user")
    async def engines_of_user(
        request: Request, _: Viewer, user_id: UserInPath,
        days: Annotated[int | None, Query(ge=1, le=365, description="Default: all that is kept")] = None,
    ) -> Response:  # fmt: skip
        _require_one_segment(request)
        found = await store.ask(lambda connection: _rows(store, connection, *queries.database_stats(user_id, days)))
        return fresh(request, {"user_id": user_id, "period_days": days, "database_stats": found})

    documented: dict[int | str, str] = {415: "The body is not application/json", 413: "The body is larger than 4 MiB"}
    if app.state.recorder is not None:

        @router.post(
            "/executions",
            status_code=202,
            response_model=None,
            responses={202: {"model": Accepted}, **{s: {"description": d} | _PROBLEM for s, d in documented.items()}},
            summary="Record up to 1000 executions",
            openapi_extra={
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NewExecutions"}}},
                }
            },
        )
        async def post(request: Request, _: Admin) -> Response:
            return _accept(app.state.recorder, await bounded_body(request, _LONGEST_BODY))

    return router


_PROBLEM: Final[dict[str, Any]] = {
    "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
}


def _require_one_segment(request: Request) -> None:
    """Refuse an encoded slash: a user `a/stats` must not get the statistics of a user `a`."""
    environ = request.scope.get("wsgi_environ", {})  # below Flask
    raw = (
        request.scope.get("raw_path", b"").decode("latin-1") or environ.get("REQUEST_URI") or environ.get("RAW_URI", "")
    )
    if "%2f" in raw.partition("?")[0].lower():
        raise problems.bad_parameter("path", "user_id", "A user with a slash: GET /api/v1/executions?user_id=…")


def _columns(principal: Principal, limit: int | None = None) -> str:
    """Return the SQL of the columns: cut at the limit if there is one, and null where only an admin sees them."""
    private = (*_TEXTS, *_DOCUMENTS)
    if principal.role != "admin":
        rest = ", ".join([*(f"NULL AS {name}" for name in private), shortening.NONE])
    elif limit is None:
        rest = ", ".join([*private, shortening.NONE])
    else:
        rest = shortening.columns(_TEXTS, _DOCUMENTS, limit)
    return ", ".join([*_COLUMNS, rest])


async def _page(store: Store, request: Request, principal: Principal, page: _Page, user_id: str | None) -> Response:
    columns = _columns(principal, page.text_limit)
    try:
        query, values = queries.page(
            columns, user_id=user_id, status=page.status, database_type=page.database_type,
            conversation_id=page.conversation_id, since=page.since, until=page.until, longer_than=page.longer_than, up_to=page.up_to,
            cursor=page.cursor, limit=page.limit, offset=page.offset,
        )  # fmt: skip
    except ValueError:
        raise problems.bad_parameter("query", "cursor", "has to be the next_cursor of a page before") from None

    found = await store.ask(lambda connection: _in_json(store, connection, query, values))
    shown = found[: page.limit]
    cursor = queries.encoded(shown[-1][1], shown[-1][0]) if len(found) > page.limit else None
    head = {"user_id": user_id, "count": len(shown), "limit": page.limit, "offset": page.offset, "next_cursor": cursor}
    body = f'{json.dumps(head)[:-1]}, "executions": [{",".join(text for _, _, text in shown)}]}}'
    headers = {}
    if cursor:
        # Relative to the path that was asked, which a mount may have changed on the way to us.
        following = request.url.remove_query_params(["offset", "cursor"]).include_query_params(cursor=cursor)
        headers["Link"] = f'<?{following.query}>; rel="next"'
    return written(body, 200, headers)


def _in_json(store: Store, connection: Connection, query: str, values: list[Any]) -> list[tuple[int, str, str]]:
    """Return id, start and JSON of each row. The server writes the JSON: that takes a seventh of the time."""
    place = store.executions
    statement = f"SELECT e.id, e.started_at::pg_catalog.text, pg_catalog.row_to_json(e)::pg_catalog.text FROM ({query.replace('{}', place, 1)}) e"
    return connection.execute(statement.encode(), values).fetchall()


def _rows(store: Store, connection: Connection, query: str, values: list[Any]) -> list[dict[str, Any]]:
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute(query.replace("{}", store.executions).encode(), values).fetchall()


_WINDOW: Final = "SELECT * FROM pgvigil.execution_window(CASE WHEN %s::integer IS NULL THEN NULL ELSE pg_catalog.make_interval(hours => %s::integer) END)"


def _window(connection: Connection, days: int | None) -> list[dict[str, Any]]:
    hours = days and 24 * days
    return connection.cursor(row_factory=dict_row).execute(_WINDOW.encode(), (hours, hours)).fetchall()


def _global_stats(connection: Connection, days: int) -> dict[str, Any]:
    """Return the numbers of queries.stats(None, days), from the rollups."""
    parts = _window(connection, days)
    counts = {
        status: sum(part["executions"] for part in parts if part["status"] == status) for status in queries.STATUSES
    }
    total, timed = sum(counts.values()), sum(part["timed"] for part in parts)
    return {
        "user_id": None,
        "period_days": days,
        "total_executions": total,
        **{f"{status}_count": count for status, count in counts.items()},
        "success_rate": _percent(counts["success"], total),
        "avg_execution_time": sum(part["seconds"] for part in parts) / timed if timed else None,
        "max_execution_time": max((part["longest"] for part in parts if part["longest"] is not None), default=None),
        "total_rows_processed": int(sum(part["total_rows"] for part in parts)),
    }


def _percent(part: int, total: int) -> float | None:
    """Return a percentage to two places, halves away from zero, as the server rounds numerics."""
    return (part * 20_000 + total) // (2 * total) / 100 if total else None


def _global_engines(connection: Connection, days: int | None) -> dict[str, Any]:
    """Return the rows of queries.database_stats(None, days), from the rollups."""
    engines: dict[str, dict[str, Any]] = {}
    for part in _window(connection, days):
        engine = engines.setdefault(
            part["database_type"],
            {"execution_count": 0, "success_count": 0, "failed_count": 0, "seconds": 0.0, "timed": 0},
        )
        engine["execution_count"] += part["executions"]
        engine["seconds"] += part["seconds"]
        engine["timed"] += part["timed"]
        if part["status"] in ("success", "failed"):
            engine[f"{part['status']}_count"] += part["executions"]
    stats = []
    for name, engine in sorted(engines.items(), key=lambda item: (-item[1]["execution_count"], item[0])):
        seconds, timed = engine.pop("seconds"), engine.pop("timed")
        stats.append({"database_type": name, **engine, "avg_execution_time": seconds / timed if timed else None})
    return {"user_id": None, "period_days": days, "database_stats": stats}


def _accept(recorder: "Recorder", body: bytes) -> Response:
    """Hand the items that can be stored to the recorder, and name the others with the reasons."""
    try:
        document = parsed(body)
        items = _BATCH.validate_python(document["executions"], strict=True)
    except (ValueError, KeyError, TypeError):
        message = 'the body has to be {"executions": [...]}, in JSON with finite numbers'
        raise problems.bad_parameter("body", "executions", message) from None
    if set(document) != {"executions"} or not 1 <= len(items) <= _MOST_ITEMS:
        raise problems.bad_parameter("body", "executions", f"has to be the only key, with 1 to {_MOST_ITEMS} items")
    made, ids, refused = [], [], []
    for index, item in enumerate(items):
        try:
            details = _ITEM.validate_python(item).model_dump(exclude_unset=True)
            details = {name: value for name, value in details.items() if value is not None}
            details.setdefault("execution_id", records.new_id())
            made.append(records.execution(**details))
            ids.append(details["execution_id"])
        except ValidationError as error:
            errors = [
                {**one, "loc": ("body", *one["loc"])} for one in error.errors(include_input=False, include_url=False)
            ]
            refused.append({"index": index, "errors": problems.validation_errors(errors)})
        except (ValueError, TypeError, OverflowError, RecursionError):
            error_of_row = {"in": "body", "name": "", "message": "cannot be stored: a value is out of range"}
            refused.append({"index": index, "errors": [error_of_row]})
    lost = recorder.stats().dropped
    for one in made:
        recorder.append(one)
    if recorder.stats().dropped > lost:
        raise Problem(
            503, "recorder-full", "Executions are written more slowly than they come, and the spill is full",
            "Send the same batch again later: an execution with an execution_id is written once.", headers={"Retry-After": "10"},
        )  # fmt: skip
    return as_json({"accepted": len(made), "execution_ids": ids, "refused": refused}, 202)
