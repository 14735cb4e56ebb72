"""The Web tools that reach other hosts: send a request, ask whether a URL is well; ctx.http says where they may go."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, Final

from toolpost import (
    EgressDeniedError,
    Hints,
    HttpResponse,
    RemoteToolError,
    Screening,
    Tool,
    ToolContext,
    ToolDefinition,
    ToolTimeoutError,
)
from toolpost.toolbox.refusals import quoted, refused

__all__ = ["request_tools"]

METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
MAX_BYTES: Final = 1_000_000
_OWN: Final = frozenset(
    "connection content-length expect host keep-alive te trailer transfer-encoding upgrade "
    "forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-real-ip "
    "metadata metadata-flavor x-aws-ec2-metadata-token x-aws-ec2-metadata-token-ttl-seconds x-metadata-token".split()
)
"""Headers that no model sets: those about the connection, those that say who asks, those that clouds' metadata want."""
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}\Z")
_VALUE: Final = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?\Z")


def request_tools() -> list[ToolDefinition]:
    """Web.HTTPRequest and Web.URLHealth."""
    return [_HTTP_REQUEST.define(http_request), _URL_HEALTH.define(url_health)]


async def http_request(
    url: str,
    ctx: ToolContext,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: str | None = None,
    json: Any = None,
    timeout_s: float = 10.0,
    follow_redirects: bool = True,
    max_bytes: int = MAX_BYTES,
) -> dict[str, Any]:
    """One HTTP request and its answer, whatever the status."""
    if body is not None and json is not None:
        raise refused("body", "cannot be given together with json", expected="body or json", got="both")
    _check(headers or {})
    response = await ctx.http.request(
        method,
        url,
        headers=headers,
        content=body,
        json=json,
        timeout_s=timeout_s,
        follow_redirects=follow_redirects,
        max_bytes=max_bytes,
    )
    return {
        "status_code": response.status_code,
        "ok": response.ok,
        "url": response.url,
        "headers": response.headers.public(),
        "body": response.body,
        "redirects": _redirects(response),
        "elapsed_ms": _ms(response.elapsed_s),
    }


def _check(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        plain = name.lower().replace("_", "-")  # which many a server cannot tell apart
        if not _NAME.match(name) or plain in _OWN or plain.startswith("proxy-"):
            must = f"must not set {quoted(name)}"
            raise refused("headers", must, expected="names that a caller may set", got=quoted(name))
        if not _VALUE.match(value):
            must = f"must have one line of ASCII for {quoted(name)}, without spaces around it"
            raise refused("headers", must, expected="text of one line", got="other text")


async def url_health(
    url: str, ctx: ToolContext, timeout_s: float = 10.0, follow_redirects: bool = True
) -> dict[str, Any]:
    """Whether a URL answers, how, and how soon. An address that may not be reached is an error, not an ill URL."""
    begun = time.monotonic()
    try:
        response = await ctx.http.head(url, timeout_s=timeout_s, follow_redirects=follow_redirects)
        if not response.ok:  # many a server knows only GET
            left_s = max(0.1, timeout_s - (time.monotonic() - begun))
            response = await ctx.http.get(url, timeout_s=left_s, follow_redirects=follow_redirects, read_body=False)
    except EgressDeniedError:
        raise
    except (RemoteToolError, ToolTimeoutError) as error:
        if isinstance(error, RemoteToolError) and error.kind == "caller":
            raise
        return {**_ILL, "url": url, "response_time_ms": _ms(time.monotonic() - begun), "error": error.message}
    expires_at = response.tls_expires_at
    return {
        "reachable": True,
        "healthy": response.ok,
        "status_code": response.status_code,
        "response_time_ms": _ms(response.elapsed_s),
        "url": response.url,
        "redirects": _redirects(response),
        "tls_days_left": None if expires_at is None else int((expires_at - time.time()) // 86400),
        "error": None,
    }


_ILL: Final[Mapping[str, Any]] = {
    "reachable": False,
    "healthy": False,
    "status_code": None,
    "redirects": [],
    "tls_days_left": None,
}


def _redirects(response: HttpResponse) -> list[dict[str, Any]]:
    return [{"status_code": hop.status_code, "url": hop.url} for hop in response.history]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


# -- declaring --------------------------------------------------------------------------------------------------------

_URL: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": 8192,
    "description": "A whole http or https URL, percent-encoded, without a user or password.",
}
_TIMEOUT: Final = {
    "type": "number",
    "exclusiveMinimum": 0,
    "maximum": 300,
    "default": 10.0,
    "description": "Seconds after which to give up.",
}
_FOLLOW: Final = {
    "type": "boolean",
    "default": True,
    "description": "Whether to follow redirects, at most 5; each is checked as the URL was.",
}
_REDIRECTS: Final = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"status_code": {"type": "integer"}, "url": {"type": "string"}},
        "required": ["status_code", "url"],
        "additionalProperties": False,
    },
    "description": "The redirects that were followed, in their order.",
}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


# The egress guard reads a URL more strictly than any rule, and knows what is allowed here; the rest is checked above,
# and interpreted by nothing of this machine.
_SCREENING: Final = Screening(roles={"url": "skip", "headers": "skip", "body": "skip", "json": "skip"})

_HTTP_REQUEST: Final = Tool(
    name="Web.HTTPRequest",
    description="Send an HTTP request to a public host and give its answer, whatever its status.",
    parameters={
        "url": _URL,
        "method": {"type": "string", "enum": list(METHODS), "default": "GET", "description": "The method."},
        "headers": {
            "type": ["object", "null"],
            "additionalProperties": {"type": "string", "maxLength": 8192},
            "maxProperties": 50,
            "default": None,
            "description": "Headers to send; not those about the connection, such as Host and Content-Length.",
        },
        "body": {
            "type": ["string", "null"],
            "default": None,
            "description": "Text to send; name its kind in the header Content-Type.",
        },
        "json": {"default": None, "description": "A JSON value to send in place of body."},
        "timeout_s": _TIMEOUT,
        "follow_redirects": _FOLLOW,
        "max_bytes": {
            "type": "integer",
            "minimum": 1,
            "maximum": 10_485_760,
            "default": MAX_BYTES,
            "description": "Bytes of the answer's body at most; a larger one is an error.",
        },
    },
    returns=_object(
        {
            "status_code": {"type": "integer"},
            "ok": {"type": "boolean", "description": "Whether the status is below 400."},
            "url": {"type": "string", "description": "What answered in the end."},
            "headers": {"type": "object", "additionalProperties": {"type": "string"}},
            "body": {"description": "Parsed JSON, text, null, or base64 and content_type of other bytes."},
            "redirects": _REDIRECTS,
            "elapsed_ms": {"type": "number", "minimum": 0},
        }
    ),
    screening=_SCREENING,
    hints=Hints(read_only=False, destructive=True, idempotent=False, open_world=True),
    tags=("web",),
    register=False,
)

_URL_HEALTH: Final = Tool(
    name="Web.URLHealth",
    description="Ask a public URL whether it answers: its status, how long it took, its redirects, and how many days "
    "its certificate has left. Nothing is downloaded.",
    parameters={"url": _URL, "timeout_s": _TIMEOUT, "follow_redirects": _FOLLOW},
    returns=_object(
        {
            "reachable": {"type": "boolean", "description": "Whether anything answered."},
            "healthy": {"type": "boolean", "description": "Whether the status is below 400."},
            "status_code": {"type": ["integer", "null"]},
            "response_time_ms": {"type": "number", "minimum": 0},
            "url": {"type": "string", "description": "What answered in the end."},
            "redirects": _REDIRECTS,
            "tls_days_left": {"type": ["integer", "null"]},
            "error": {"type": ["string", "null"], "description": "Why nothing answered."},
        }
    ),
    screening=_SCREENING,
    hints=Hints(read_only=True, destructive=False, idempotent=True, open_world=True),
    tags=("web",),
    register=False,
)
