"""The schemas and problems that operations share in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final, get_args

from toolpost.engine.approvals import STATES as APPROVAL_STATES
from toolpost.security.oauth_parked import STATES as FLOW_STATES
from toolpost.transports.http_problems import title_of
from toolpost.transports.http_schemas import an_object, ref
from toolpost.worker.reports import CallState

_TEXT: Final[Any] = {"type": "string"}
_TEXT_OR_NULL: Final[Any] = {"type": ["string", "null"]}
_TEXTS: Final[Any] = {"type": "array", "items": _TEXT}
_WHOLE: Final[Any] = {"type": "integer"}
_NUMBER: Final[Any] = {"type": "number"}
_NUMBER_OR_NULL: Final[Any] = {"type": ["number", "null"]}
_SWITCH: Final[Any] = {"type": "boolean"}
_AT: Final[Any] = {"type": "string", "format": "date-time"}
_ANY_OBJECT: Final[Any] = {"type": "object"}
_OUTCOME: Final[Any] = {"type": "string", "enum": ["not_run", "ran", "stopped", "unknown"]}
_SOURCE: Final[Any] = {"type": "string", "enum": ["run", "cache", "replay"]}

_PLACE: Final = an_object(
    {
        "pointer": {**_TEXT, "description": "A JSON Pointer to the place in the body, as a URI fragment."},
        "detail": _TEXT,
    },
    "pointer",
    "detail",
    more=True,
)

_PROBLEM: Final = an_object(
    {
        "type": {"type": "string", "format": "uri-reference"},
        "title": _TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": _TEXT,
        "instance": {"type": "string", "format": "uri-reference"},
        "code": {**_TEXT, "description": "What went wrong, as a stable word."},
        "error_type": _TEXT,
        "retryable": {**_SWITCH, "description": "Whether the same request may do better later."},
        "retry_after_ms": _WHOLE,
        "errors": {"type": "array", "items": _PLACE},
        "violated-policies": {
            "type": "array",
            "items": _TEXT,
            "description": "The rate limit that was reached, by its name in RateLimit-Policy.",
        },
        "call_id": _TEXT,
        "tool": _TEXT,
        "outcome": {**_OUTCOME, "description": "What became of the tool's body."},
        "approval_id": {**_TEXT, "description": "Of the question that a person must answer first."},
        "approval_url": {**_TEXT, "description": "Where that question is shown."},
        "authorization_url": {**_TEXT, "description": "Where the user grants what is missing."},
        "details": _ANY_OBJECT,
    },
    "type",
    "title",
    "status",
    "detail",
    "code",
    "retryable",
    more=True,
)

_ERROR: Final = an_object(
    {
        "code": _TEXT,
        "message": _TEXT,
        "status": _WHOLE,
        "error_type": _TEXT,
        "retryable": _SWITCH,
        "outcome": _OUTCOME,
        "retry_after_s": _NUMBER,
        "errors": {"type": "array", "items": _ANY_OBJECT},
        "details": _ANY_OBJECT,
    },
    "code",
    "message",
    "status",
    "error_type",
    "retryable",
    "outcome",
    more=True,
)

_ARTIFACT: Final = an_object(
    {
        "name": _TEXT,
        "size": {"type": "integer", "minimum": 0},
        "digest": {**_TEXT, "description": "The SHA-256 of its bytes, in hex."},
        "media_type": _TEXT,
        "url": {**_TEXT, "description": "Where it can be had, for a while."},
    },
    "name",
    "size",
    more=True,
)

_HOW_IT_RAN: Final[dict[str, Any]] = {
    "execution_time_ms": _NUMBER,
    "source": _SOURCE,
    "body_attempts": {**_WHOLE, "description": "How often the tool's body was begun."},
    "artifacts": {"type": "array", "items": ref("Artifact")},
    "usage": _ANY_OBJECT,
    "warnings": {"type": "array"},
    "logs": {"type": "array"},
    "explanation": {"type": "array", "items": _ANY_OBJECT},
}

_REPORT: Final = an_object(
    {
        "call_id": _TEXT,
        "tool": _TEXT,
        "state": {"type": "string", "enum": list(get_args(CallState))},
        "accepted": {**_SWITCH, "description": "Whether it was written down before it ran."},
        "arguments": {**_ANY_OBJECT, "description": "With secrets hidden."},
        "created_at": _AT,
        "started_at": _AT,
        "finished_at": _AT,
        "due_at": _AT,
        "attempt": _WHOLE,
        "max_attempts": _WHOLE,
        "priority": _WHOLE,
        "version": _TEXT,
        "user_id": _TEXT,
        "tenant": _TEXT,
        "session_id": _TEXT,
        "idempotency_key": _TEXT,
        "trace": _TEXT,
        "callback": _TEXT,
        "format": _TEXT,
        "provider_id": _TEXT,
        "success": _SWITCH,
        "status_code": _WHOLE,
        "data": {"description": "What the tool gave: any JSON."},
        "error": ref("Error"),
        **_HOW_IT_RAN,
    },
    "call_id",
    "tool",
    "state",
    "accepted",
    "arguments",
    "created_at",
    "attempt",
    "max_attempts",
    "priority",
    more=True,
)

_RESULT: Final = an_object(
    {
        "call_id": _TEXT,
        "tool": _TEXT,
        "success": {"const": True},
        "data": {"description": "What the tool gave: any JSON."},
        "status_code": _WHOLE,
        **_HOW_IT_RAN,
    },
    "call_id",
    "tool",
    "success",
    "data",
    "status_code",
    "execution_time_ms",
    "source",
    "body_attempts",
    "artifacts",
    more=True,
)

_APPROVAL: Final = an_object(
    {
        "id": _TEXT,
        "state": {"type": "string", "enum": list(APPROVAL_STATES)},
        "decidable": {**_SWITCH, "description": "Whether this caller may approve it now."},
        "tool": _TEXT,
        "version": _TEXT,
        "definition": _TEXT,
        "arguments": {**_ANY_OBJECT, "description": "As they are shown to people: secrets are hidden."},
        "arguments_digest": _TEXT,
        "hidden": {**_TEXTS, "description": "Which arguments are not shown."},
        "cut": {**_TEXTS, "description": "Which arguments are not shown in full."},
        "odd": {**_TEXTS, "description": "Characters that nobody sees, and where."},
        "changes": {"type": "array", "items": _ANY_OBJECT, "description": "Against what was approved last."},
        "reason": _TEXT,
        "description": _TEXT,
        "hints": _ANY_OBJECT,
        "approvers": _TEXTS,
        "self_approval": _SWITCH,
        "per": _TEXT,
        "call_id": _TEXT,
        "tenant": _TEXT_OR_NULL,
        "user_id": _TEXT_OR_NULL,
        "session_id": _TEXT_OR_NULL,
        "task_id": _TEXT_OR_NULL,
        "asked_at": {**_NUMBER, "description": "Seconds since 1970, as all times here."},
        "expires_at": _NUMBER,
        "decided_by": _TEXT_OR_NULL,
        "decided_at": _NUMBER_OR_NULL,
        "decision_reason": _TEXT_OR_NULL,
        "edited_id": {**_TEXT_OR_NULL, "description": "The approval that was given with other arguments instead."},
        "edited_from": _TEXT_OR_NULL,
        "edited_arguments": {"type": ["object", "null"]},
        "history": {"type": "array", "items": _ANY_OBJECT},
    },
    "id",
    "state",
    "decidable",
    "tool",
    "version",
    "arguments",
    "reason",
    "asked_at",
    "expires_at",
    "history",
)

_AUTHORIZATION: Final = an_object(
    {
        "id": _TEXT,
        "status": {
            "type": "string",
            "enum": list(FLOW_STATES),
            "description": "answered: the user is to confirm it, with the code that was shown.",
        },
        "provider": _TEXT,
        "tool": _TEXT,
        "scopes": _TEXTS,
        "created_at": _NUMBER,
        "expires_at": _NUMBER,
        "authorization_url": {"type": "string", "format": "uri", "description": "For this user alone."},
    },
    "id",
    "status",
    "provider",
    "tool",
    "scopes",
    "created_at",
    "expires_at",
)

_GRANT: Final = an_object(
    {
        "provider": _TEXT,
        "tool": _TEXT,
        "scopes": _TEXTS,
        "created_at": _NUMBER,
        "expires_at": {**_NUMBER_OR_NULL, "description": "When the token there is ends; null: not as far as is known."},
        "refreshable": {**_SWITCH, "description": "Whether it is replaced then."},
        "subject": {**_TEXT_OR_NULL, "description": "Who granted, as the provider says."},
    },
    "provider",
    "tool",
    "scopes",
    "created_at",
    "expires_at",
    "refreshable",
    "subject",
)

_EVENT: Final = {
    "description": "One event of a stream; data is JSON as text.",
    **an_object(
        {
            "id": {**_TEXT, "description": "From which the stream can be taken up again."},
            "event": {"type": "string", "enum": ["call", "state", "progress", "log", "result"]},
            "data": {"type": "string", "contentMediaType": "application/json"},
            "retry": _WHOLE,
        },
        "event",
        "data",
        more=True,
    ),
}

SCHEMAS: Final[dict[str, Any]] = {
    "Problem": _PROBLEM,
    "CallResult": _RESULT,
    "CallReport": _REPORT,
    "Error": _ERROR,
    "Event": _EVENT,
    "Artifact": _ARTIFACT,
    "Tool": an_object(
        {
            "name": _TEXT,
            "description": _TEXT,
            "version": _TEXT,
            "versions": _TEXTS,
            "parameters": {**_ANY_OBJECT, "description": "A JSON Schema of the arguments."},
        },
        "name",
        more=True,
    ),
    "Approval": _APPROVAL,
    "Authorization": _AUTHORIZATION,
    "Grant": _GRANT,
}

_WHY: Final = {
    400: "The request cannot be read, or something in it is wrong; errors say where.",
    401: "Nobody is named as the caller, or the caller must first grant something at a provider.",
    403: "It is refused: to this caller, from this page, or until a person has approved it.",
    404: "There is no such thing, or not for this caller.",
    406: "None of the forms that are wanted can be given.",
    408: "The body did not arrive in time.",
    409: "It cannot be done as things stand.",
    410: "It was there, and is no more.",
    412: "What is there is not what the request is about.",
    413: "The body is too large.",
    415: "The body is of a type that is not read here.",
    416: "There are no such bytes.",
    421: "This gateway does not answer to that host.",
    422: "The idempotency key came with other arguments before.",
    429: "Too many calls; Retry-After says when to come again.",
    499: "The call was cancelled.",
    500: "The tool failed, or the gateway did.",
    501: "That is not supported here.",
    502: "What stands behind the tool failed.",
    503: "There is no room now, or something that is needed is away; Retry-After says when to come again.",
    504: "The call did not end in time.",
}

_HEADERS: Final[dict[int, Any]] = {
    401: {"WWW-Authenticate": {"description": "How to say who calls (RFC 6750).", "schema": _TEXT}},
    429: {
        "Retry-After": {"required": True, "description": "Seconds.", "schema": _WHOLE},
        "RateLimit": {"description": "What is left of the limit.", "schema": _TEXT},
        "RateLimit-Policy": {"description": "The limit.", "schema": _TEXT},
    },
    503: {"Retry-After": {"required": True, "description": "Seconds.", "schema": _WHOLE}},
}


def _response(status: int, why: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "description": f"{title_of(status)}. {why}",
        "content": {"application/problem+json": {"schema": ref("Problem")}},
    }
    if status in _HEADERS:
        told["headers"] = _HEADERS[status]
    return told


RESPONSES: Final = {f"Problem{status}": _response(status, why) for status, why in _WHY.items()}

__all__ = ["RESPONSES", "SCHEMAS"]
