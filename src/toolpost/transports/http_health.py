"""How the gateway is: whether it lives, whether it may be sent requests, what is degraded, and its metrics."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import orjson

from toolpost.calls.call import Caller
from toolpost.calls.errors import PermissionDeniedError, ToolExecutionError
from toolpost.stores import Pending
from toolpost.transports.http_auth import OPEN, Entrance, fields_of
from toolpost.transports.http_lookups import query_of
from toolpost.transports.http_problems import Answer, HttpRefusal
from toolpost.transports.http_routes import Door, Route
from toolpost.transports.http_schemas import an_object, answer, problems
from toolpost.worker.calls import OPERATE

if TYPE_CHECKING:
    from starlette.requests import Request

METRICS: Final = "toolpost:metrics"
"""The scope whose holders may read the metrics and what is degraded, and no more."""
PING_S: Final = 2.0
FRESH_S: Final = 1.0
"""For so long what the stores said is told again: probes come from everywhere."""


async def live(request: Request, door: Door, caller: Caller) -> Answer:
    """Whether the process answers; it says nothing of what it needs."""
    return Answer(200, b'{"status":"live"}')


async def ready(request: Request, door: Door, caller: Caller) -> Answer:
    """Whether requests may be sent here: 503 while it drains, or where a store cannot be reached."""
    wrong = await _not_ready(door)
    if wrong:
        raise HttpRefusal(503, "not_ready", "; ".join(wrong), headers=[("retry-after", "1")])
    return Answer(200, b'{"status":"ready"}')


async def health(request: Request, door: Door, caller: Caller) -> Answer:
    """Health and readiness together. What is degraded is told to holders of toolpost:operate or toolpost:metrics."""
    found = door.executor.health()
    wrong = await _not_ready(door)
    degraded = [*found["problems"], *wrong]
    status = found["status"] if not wrong or found["status"] == "unhealthy" else "degraded"
    shown: dict[str, Any] = {"status": status, "ready": not wrong}
    if await _may_know(request, door):
        shown.update(found, status=status, problems=degraded)
    return Answer(503 if status == "unhealthy" else 200, orjson.dumps(shown))


async def metrics(request: Request, door: Door, caller: Caller) -> Answer:
    """The metrics, as OpenMetrics where Accept asks for it, for holders of toolpost:metrics or toolpost:operate."""
    query_of(request, ())
    if caller is not OPEN and not caller.scopes & {OPERATE, METRICS}:
        raise PermissionDeniedError(f"metrics are for keys that have the scope {METRICS} or {OPERATE}")
    from toolpost.telemetry.prometheus import exposition

    text, media_type = await asyncio.to_thread(exposition, door.executor, request.headers.get("accept", ""))
    return Answer(200, text, media_type=media_type.encode("latin-1"))


async def _may_know(request: Request, door: Door) -> bool:
    """Whether a request, which need not say who it is, is of somebody who may know more."""
    entrance: Entrance = door.state["entrance"]
    try:
        caller = await entrance.caller(fields_of(request.scope))
    except ToolExecutionError:
        return False
    return caller is None or bool(caller.scopes & {OPERATE, METRICS})


async def _not_ready(door: Door) -> list[str]:
    """Why requests had better go elsewhere; empty where they may come."""
    if door.service.draining:
        return ["this process is about to end"]
    known = door.state.get("stores")
    if known is None or time.monotonic() - known[0] > FRESH_S:
        executor = door.executor
        named = (("state", executor.state), ("records", executor.records), ("blobs", executor.blobs))
        said = await asyncio.gather(*(_reached(name, store) for name, store in named))
        known = door.state["stores"] = (time.monotonic(), [one for one in said if one is not None])
    return known[1]


async def _reached(name: str, store: Any) -> str | None:
    """None where a store answers, else a sentence."""
    try:
        async with asyncio.timeout(PING_S):
            said = store.ping()
            if isinstance(said, Pending):
                await said
    except TimeoutError:
        return f"the {name} store did not answer within {PING_S:g} seconds"
    except ToolExecutionError:
        return f"the {name} store cannot be reached"
    return None


_STATUS: Final = an_object({"status": {"type": "string"}}, "status", more=True)

ROUTES: Final = [
    Route(
        method="GET",
        path="/live",
        handler=live,
        public=True,
        about={
            "operationId": "live",
            "summary": "Whether the process answers",
            "tags": ["health"],
            "responses": {"200": answer("It does", _STATUS)},
        },
    ),
    Route(
        method="GET",
        path="/ready",
        handler=ready,
        public=True,
        about={
            "operationId": "ready",
            "summary": "Whether requests may be sent here",
            "tags": ["health"],
            "responses": {"200": answer("They may", _STATUS), **problems(503)},
        },
    ),
    Route(
        method="GET",
        path="/health",
        handler=health,
        public=True,
        about={
            "operationId": "health",
            "summary": "How it is",
            "description": "Details are for holders of toolpost:operate or toolpost:metrics.",
            "tags": ["health"],
            "responses": {"200": answer("Healthy or degraded", _STATUS), "503": answer("Unhealthy", _STATUS)},
        },
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=metrics,
        about={
            "operationId": "metrics",
            "summary": "Metrics for Prometheus",
            "tags": ["health"],
            "responses": {"200": answer("The metrics", {"type": "string"}, "text/plain"), **problems(403)},
        },
    ),
]

__all__ = ["METRICS", "ROUTES", "health", "live", "metrics", "ready"]
