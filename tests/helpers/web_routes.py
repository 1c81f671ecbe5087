"""The routes of the web application, and what each answers to whom."""

from __future__ import annotations

from typing import Any
from uuid import UUID

# What an answer is to nobody, a viewer, an admin. 422 and 404 are those of somebody who was let in, for what these tests send.
OPEN, READ, WRITE = (200, 200, 200), (401, 200, 200), (401, 403, 422)
NO_WORKER = (401, 404, 404)  # access was granted, but there is no such worker
ROUTES = {
    ("GET", "/livez"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/api/v1/executions"): READ,
    ("POST", "/api/v1/executions"): WRITE,
    ("GET", "/api/v1/executions/{user_id}"): READ,
    ("GET", "/api/v1/executions/{user_id}/stats"): READ,
    ("GET", "/api/v1/executions/{user_id}/database-stats"): READ,
    ("GET", "/api/v1/executions/by-id/{id}"): (401, 404, 404),
    ("GET", "/api/v1/executions/stats/global"): READ,
    ("GET", "/api/v1/executions/database-stats/global"): READ,
    ("GET", "/admin/session-monitoring/status"): NO_WORKER,
    ("GET", "/admin/session-monitoring/metrics"): NO_WORKER,
    ("GET", "/admin/session-monitoring/summary"): NO_WORKER,
    ("GET", "/admin/session-monitoring/alerts"): NO_WORKER,
    ("GET", "/admin/session-monitoring/health"): (503, 503, 503),
    ("GET", "/performance/{what}"): (308, 308, 308),
    ("GET", "/metrics"): READ,
    ("GET", "/api/v1/sessions"): READ,
    ("GET", "/api/v1/sessions/{id}"): (401, 404, 404),
    ("GET", "/api/v1/sessions/{id}/timeline"): (401, 404, 404),
    ("GET", "/api/v1/sessions/{id}/timeline/{event}"): (401, 404, 404),
    ("GET", "/api/v1/sessions/{id}/context"): READ,
    ("GET", "/api/v1/sessions/{id}/context/{sequence_number}"): (401, 404, 404),
    ("GET", "/api/v1/sessions/{id}/handoffs"): READ,
    ("GET", "/api/v1/sessions/{id}/operations"): READ,
    ("GET", "/api/v1/connections"): READ,
    ("GET", "/api/v1/statements"): READ,
    ("GET", "/api/v1/statements/{id}"): (401, 404, 404),
    ("GET", "/api/v1/alerts"): READ,
    ("GET", "/api/v1/application"): READ,
    ("GET", "/api/v1/application/workers"): READ,
    ("GET", "/api/v1/operations/calls"): (401, 422, 422),
    ("GET", "/api/v1/operations"): READ,
    ("GET", "/api/v1/jobs"): READ,
    ("GET", "/api/v1/health"): READ,
    ("POST", "/api/v1/connections/{id}/kill"): (401, 403, 409),
    ("POST", "/api/v1/sessions/{id}/archive"): (401, 403, 404),
    ("POST", "/api/v1/sessions/{id}/reactivate"): (401, 403, 404),
    ("POST", "/api/v1/jobs/{job}/run"): (401, 403, 404),
    ("GET", "/"): (307, 307, 307),
    ("GET", "/admin/session-monitoring/dashboard"): (307, 307, 307),
    ("GET", "/admin/session-monitoring/dashboard/"): (303, 200, 200),
    ("GET", "/admin/session-monitoring/dashboard/{name}"): (303, 200, 200),
    ("GET", "/admin/session-monitoring/dashboard/state"): READ,
    ("GET", "/admin/session-monitoring/dashboard/login"): OPEN,
    ("POST", "/admin/session-monitoring/dashboard/login"): (422, 422, 422),
    ("POST", "/admin/session-monitoring/dashboard/logout"): (204, 204, 204),
    ("GET", "/admin/session-monitoring/dashboard/static/{version}/{name}"): (404, 404, 404),
}

# Values for their places: of rows that are not there, where a row is asked for.
VALUES: dict[str, Any] = {"user_id": "ada", "what": "status", "id": UUID(int=1), "event": UUID(int=2), "sequence_number": 1, "name": "sessions", "version": "x"}  # fmt: skip


def address(path: str, job: str) -> str:
    return path.format(**VALUES | {"job": job} | ({"id": 2**62} if "by-id" in path else {}))
