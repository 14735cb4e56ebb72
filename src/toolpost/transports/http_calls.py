"""The routes of calls: made by a tool's path or in any provider's format, looked up, explained, listed, cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from toolpost.calls.call import Caller
from toolpost.transports import http_lookups
from toolpost.transports.http_auth import OPEN, fields_of
from toolpost.transports.http_bodies import declared_length, read_body
from toolpost.transports.http_calling import Asking, answer_of, call_tool
from toolpost.transports.http_cloudevents import as_events
from toolpost.transports.http_formats import MAX_CALLS, call_any
from toolpost.transports.http_headers import MAX_WAIT_S
from toolpost.transports.http_lookups import MAX_PAGE, STATES, query_of
from toolpost.transports.http_options import ACCEPTED, CALL, WHOM
from toolpost.transports.http_problems import Answer
from toolpost.transports.http_routes import Door, Route
from toolpost.transports.http_schemas import an_object, answer, in_header, in_path, in_query, problems, ref
from toolpost.transports.wire import FORMATS
from toolpost.worker.cloudevents import BATCH, STRUCTURED

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


async def make_call(request: Request, door: Door, caller: Caller) -> Answer | Response:
    """POST /v1/tools/{name}/calls; the application answers it without coming here, in the same way."""
    query_of(request, ())
    return await call_tool(door, request.path_params["name"], await asking_of(request, door, caller))


async def make_calls(request: Request, door: Door, caller: Caller) -> Answer | Response:
    """POST /v1/calls."""
    query = query_of(request, ("format",))
    asking = await asking_of(request, door, caller)
    return as_events(door, asking, await call_any(door, asking, query.get("format")))


async def asking_of(request: Request, door: Door, caller: Caller) -> Asking:
    """A request for calls with its body. Raises HttpRefusal."""
    fields = fields_of(request.scope)
    body = await read_body(request.receive, declared_length(fields), door.executor.config.max_body_size)
    return Asking(fields=fields, body=body, caller=None if caller is OPEN else caller, receive=request.receive)


_ID: Final = in_path("call_id", "The call's id", "0198c0de-0000-7000-8000-000000000001")
_PREFER: Final = in_header(
    "Prefer",
    "respond-async has the call accepted and answered with 202; wait=N besides waits N seconds for its end "
    f"(at most {MAX_WAIT_S:g}).",
    {"type": "string", "examples": ["respond-async", "respond-async, wait=10"]},
)
_KEY: Final = in_header(
    "Idempotency-Key",
    "A quoted string (a bare word is taken too): the call runs once, and what it gave is given again.",
    {"type": "string", "minLength": 1, "maxLength": 257},
)
_SESSION: Final = in_header("Toolpost-Session", "The session of the calls", {"type": "string", "maxLength": 256})
_TRACEPARENT: Final = in_header("traceparent", "W3C Trace Context; given back", {"type": "string"})
_TEXT: Final = {"type": "string", "minLength": 1, "maxLength": 256}
_BODY: Final = an_object(
    {
        "arguments": {"type": "object", "description": "By the parameters of the tool"},
        "version": {**_TEXT, "description": "One version of the tool; the newest where it is left out"},
        "deadline_s": {"type": "number", "exclusiveMinimum": 0, "description": "Seconds from arrival to the end"},
        "session_id": {**_TEXT, "description": "As the header Toolpost-Session"},
        "task_id": {**_TEXT, "description": "The task that the call is a part of"},
        "idempotency_key": {**_TEXT, "description": "As the header Idempotency-Key; one of them"},
        "answers": {"type": "object", "description": "To the questions of a call that was answered input_required"},
        "explain": {"type": "boolean", "description": "Whether to tell what each stage of the pipeline decided"},
        "user_id": {**_TEXT, "description": "For whom, where nobody has to authenticate"},
        "tenant": {**_TEXT, "description": "Of which tenant, where nobody has to authenticate"},
        "priority": {"type": "integer", "minimum": -100, "maximum": 100, "description": "Higher first"},
        "delay_s": {"type": "number", "minimum": 0, "maximum": 31_622_400, "description": "Not before so many seconds"},
        "run_at": {
            "anyOf": [
                {"type": "string", "format": "date-time"},
                {"type": "number", "minimum": 0, "maximum": 253_402_300_799},
            ],
            "description": "Not before: RFC 3339, or seconds since 1970; within a year",
        },
        "max_attempts": {"type": "integer", "minimum": 1, "maximum": 100, "description": "Runs, if failures pass"},
        "order_key": {**_TEXT, "description": "Calls with one key run one after the other"},
        "callback": {"type": "string", "maxLength": 2048, "description": "A URL that is told how the call ended"},
    }
)
assert set(_BODY["properties"]) == {*CALL, *WHOM, *ACCEPTED}

_ACCEPTED_ANSWER: Final = {
    **answer("It was accepted, written down, and will be run", ref("CallReport")),
    "headers": {
        "Location": {"description": "Where the call is looked up", "schema": {"type": "string"}},
        "Preference-Applied": {"description": "What of Prefer was followed", "schema": {"type": "string"}},
    },
}
_FORMAT: Final[dict[str, Any]] = {"type": "string", "enum": list(FORMATS)}
_INSTANT: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "number", "minimum": 0, "maximum": 253_402_300_799},
    ]
}
_STATE: Final[dict[str, Any]] = {"type": "string", "enum": list(STATES)}

_ENDS: Final = {
    "tags": ["calls"],
    "parameters": [_ID],
    "responses": {
        "200": answer("It has ended", ref("CallReport")),
        "202": answer("It is about to end", ref("CallReport")),
        **problems(400, 404, 503),
    },
}
"""What both ways to end a call have."""

ROUTES: Final = [
    Route(
        method="POST",
        path="/v1/tools/{name}/calls",
        handler=make_call,
        about={
            "operationId": "callTool",
            "summary": "Call a tool",
            "description": "Without Prefer the answer is the result. Members from priority to callback need "
            "Prefer: respond-async. With Accept: text/event-stream the answer is a stream of what the call tells.",
            "tags": ["calls"],
            "parameters": [in_path("name", "The tool's name", "Math.Add"), _PREFER, _KEY, _SESSION, _TRACEPARENT],
            "requestBody": {
                "required": False,
                "content": {"application/json": {"schema": _BODY, "example": {"arguments": {"a": 1, "b": 2}}}},
            },
            "responses": {
                "200": answer("The call succeeded", ref("CallResult")),
                "202": _ACCEPTED_ANSWER,
                **problems(400, 403, 404, 409, 413, 415, 422, 429, 500, 501, 502, 503, 504),
            },
        },
    ),
    Route(
        method="POST",
        path="/v1/calls",
        handler=make_calls,
        media_types=("application/json", STRUCTURED, BATCH),
        about={
            "operationId": "makeCalls",
            "summary": "Make calls in any provider's format",
            "description": f"One call, a list of up to {MAX_CALLS}, or a model's whole message, in the format of "
            "OpenAI, Anthropic, Gemini, MCP or our own ({tool, arguments}), or CloudEvents that carry them. The answer "
            "is in the same format, and 200 whatever the calls came to; a single call in our own format is answered as "
            "by the tool's path.",
            "tags": ["calls"],
            "parameters": [
                in_query("format", "The format, where it is not to be found out", _FORMAT),
                _PREFER,
                _KEY,
                _SESSION,
                _TRACEPARENT,
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"type": ["object", "array"]},
                        "example": {"tool": "Math.Add", "arguments": {"a": 1, "b": 2}},
                    },
                    STRUCTURED: {"schema": {"type": "object"}},
                    BATCH: {"schema": {"type": "array"}},
                },
            },
            "responses": {
                "200": answer("What the calls came to, in their format", {"type": ["object", "array"]}),
                "202": _ACCEPTED_ANSWER
                | {"content": {"application/json": {"schema": {"anyOf": [ref("CallReport"), {"type": "object"}]}}}},
                **problems(400, 403, 404, 406, 409, 413, 415, 422, 429, 500, 501, 502, 503, 504),
            },
        },
    ),
    Route(
        method="GET",
        path="/v1/calls",
        handler=http_lookups.list_calls,
        about={
            "operationId": "listCalls",
            "summary": "List calls, newest first",
            "tags": ["calls"],
            "parameters": [
                in_query("tool", "Of one tool", {"type": "string"}),
                in_query("state", "In one of these states", {"type": "array", "items": _STATE}),
                in_query("user", "Of one user", {"type": "string"}),
                in_query("session", "Of one session", {"type": "string"}),
                in_query("since", "Made at or after: RFC 3339, or seconds since 1970", _INSTANT),
                in_query("until", "Made before", _INSTANT),
                in_query("after", "Where the page before ended: its next", {"type": "string"}),
                in_query("limit", "Most calls of a page", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}),
            ],
            "responses": {
                "200": {
                    **answer(
                        "A page",
                        an_object(
                            {
                                "calls": {"type": "array", "items": ref("CallReport")},
                                "next": {"type": ["string", "null"]},
                            },
                            "calls",
                            "next",
                        ),
                    ),
                    "headers": {"Link": {"description": "The next page, rel=next", "schema": {"type": "string"}}},
                },
                **problems(400, 503),
            },
        },
    ),
    Route(
        method="GET",
        path="/v1/calls/{call_id}",
        handler=http_lookups.show_call,
        about={
            "operationId": "showCall",
            "summary": "Show how a call stands",
            "tags": ["calls"],
            "parameters": [
                _ID,
                in_query(
                    "wait", "Wait so many seconds for its end", {"type": "integer", "minimum": 0, "maximum": 86_400}
                ),
                in_query("format", "Give its result as this provider takes it", _FORMAT),
            ],
            "responses": {
                "200": answer("How it stands", {"anyOf": [ref("CallReport"), {"type": "object"}, {"type": "array"}]}),
                **problems(400, 404, 409, 503),
            },
        },
    ),
    Route(
        method="GET",
        path="/v1/calls/{call_id}/explain",
        handler=http_lookups.explain_call,
        about={
            "operationId": "explainCall",
            "summary": "Show what each stage decided about a call",
            "tags": ["calls"],
            "parameters": [_ID],
            "responses": {"200": answer("The stages, outermost first", {"type": "object"}), **problems(400, 404, 503)},
        },
    ),
    Route(
        method="POST",
        path="/v1/calls/{call_id}/cancel",
        handler=http_lookups.cancel_call,
        about={
            "operationId": "cancelCall",
            "summary": "Have a call end",
            **_ENDS,
        },
    ),
    Route(
        method="DELETE",
        path="/v1/calls/{call_id}",
        handler=http_lookups.cancel_call,
        about={
            "operationId": "endCall",
            "summary": "Have a call end, as cancel does",
            **_ENDS,
        },
    ),
]

__all__ = ["ROUTES", "answer_of", "asking_of", "make_call", "make_calls"]
