"""Test requests of all kinds, made from our own OpenAPI document: each is answered as the document says, and none by a
500.
"""

from __future__ import annotations

import base64
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from conftest import Database
from helpers.monitor_report import report
from web.conftest import Serve

pytestmark = pytest.mark.client_side
EXAMPLES = int(os.environ.get("PGVIGIL_CONTRACT_EXAMPLES", "6"))  # of each operation and kind, at most
LEAST = 300


def _cursor(place: tuple[datetime, int]) -> str:
    return base64.urlsafe_b64encode(f"{place[0].isoformat()} {place[1]}".encode()).decode()


schemathesis.openapi.format(
    "pgvigil-cursor",
    st.tuples(st.datetimes(timezones=st.just(UTC)), st.integers(1, 2**63 - 1)).map(_cursor),
)


def _session_cursor(place: tuple[datetime, UUID]) -> str:
    return base64.urlsafe_b64encode(f"{place[0].isoformat()} {place[1]}".encode()).decode()


schemathesis.openapi.format(
    "pgvigil-session-cursor", st.tuples(st.datetimes(timezones=st.just(UTC)), st.uuids()).map(_session_cursor)
)


def cases_of(app: Any) -> list[Any]:
    """A strategy for each operation and kind of request: such as the document allows, and others."""
    loaded = schemathesis.openapi.from_asgi("/openapi.json", app)
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    operations = [found.ok() for found in loaded.get_all_operations()]
    return [
        one.as_strategy(generation_mode=mode)
        for one in operations
        for mode in modes
        # Of a batch, what cannot be stored is named in an answer that accepts the rest.
        if one.method == "get" or mode is GenerationMode.POSITIVE
    ]


def test_each_answer_is_one_that_the_document_names(serve: Serve, executions: Database) -> None:
    report(executions, "contract")
    client = serve(executions.url, None, records=True)
    sent: list[int] = []

    for strategy in cases_of(client.app):

        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=strategy)
        def answers(case: schemathesis.Case) -> None:
            # What no schema of parameters can say: one of them, not both.
            assume(not {"cursor", "offset"} <= (case.query or {}).keys())
            answer = case.call_and_validate(headers={"x-who": "admin"})
            sent.append(answer.status_code)

        with suppress(Unsatisfiable):  # of a request without parameters there is no wrong one
            answers()
    executions.execute("DELETE FROM pgvigil.session_monitors")  # others share the database
    assert len(sent) >= LEAST
    assert not [status for status in sent if status >= 500]
    print(f"{len(sent)} cases: {sorted((status, sent.count(status)) for status in set(sent))}")
