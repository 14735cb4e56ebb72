"""Tools over HTTP: those that a caller may use, searched, in the form that its model's provider takes."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any, Final

import orjson

from toolpost.calls.call import Caller
from toolpost.transports.http_auth import OPEN
from toolpost.transports.http_formats import format_named
from toolpost.transports.http_headers import Headers, etag_matches
from toolpost.transports.http_lookups import query_of, whole_number
from toolpost.transports.http_problems import Answer, HttpRefusal
from toolpost.transports.http_routes import Door, Route
from toolpost.transports.http_schemas import an_object, answer, in_header, in_path, in_query, problems, ref
from toolpost.transports.wire import FORMATS, export_tool, export_tools

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

MAX_LISTED: Final = 10_000
ANYBODY: Final = Caller(user_id="anybody")
"""Who is shown tools where nobody is asked who they are: those that somebody could call."""


async def list_tools(request: Request, door: Door, caller: Caller) -> Answer:
    """The tools that the caller could call with some arguments; with query, best first.

    With discovery on, whoever asks for them in a provider's form and without a query is given the three of discovery.
    """
    query = query_of(request, ("format", "query", "limit", "strict"))
    limit = whole_number(query, "limit", 1, MAX_LISTED, 0) or None
    kind, words = format_named(query.get("format", "toolpost")), query.get("query")
    if kind == "toolpost" or words is not None:
        tools = await door.executor.tools_for_async(_viewer(caller), words, limit)
    else:  # for a model
        tools = (await door.executor.tools_for_model_async(_viewer(caller)))[:limit]
    shown = export_tools(tools, kind, strict=_switch(query, "strict"))
    return tagged(request, {"tools": shown})


async def show_tool(request: Request, door: Door, caller: Caller) -> Answer:
    """One tool: its newest version, or the one that is asked for."""
    query = query_of(request, ("format", "version", "strict"))
    kind, strict = format_named(query.get("format", "toolpost")), _switch(query, "strict")
    executor, name = door.executor, request.path_params["name"]
    wanted = f"{name}@{query['version']}" if "version" in query else name
    # In a thread, as a policy engine may have to be waited for.
    about = await asyncio.to_thread(executor.get_tool_info, wanted, _viewer(caller))
    tool = executor.registry.get_tool(about["name"], about["version"])
    shown = export_tool(tool, kind, strict=strict)
    if kind == "toolpost":
        shown["versions"] = about["versions"]
    return tagged(request, shown)


def tagged(request: Request, value: Any) -> Answer:
    """JSON with an ETag; 304 where the caller has it already."""
    body = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers: Headers = [
        (b"etag", etag.encode()),
        (b"cache-control", b"private, no-cache"),
        (b"vary", b"Authorization, X-API-Key"),
    ]
    if etag_matches(request.headers.get("if-none-match"), etag):
        return Answer(304, b"", headers, own_caching=True)
    return Answer(200, body, headers, own_caching=True)


def _viewer(caller: Caller) -> Caller:
    return ANYBODY if caller is OPEN else caller


def _switch(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "false")
    if value not in ("true", "false"):
        raise HttpRefusal(400, "invalid_query", f"{name} must be true or false, got {value[:40]!r}")
    return value == "true"


_FORMAT: Final = in_query("format", "The provider whose form is wanted", {"type": "string", "enum": list(FORMATS)})
_STRICT: Final = in_query("strict", "For the provider's strict mode", {"type": "boolean"})
_NONE_MATCH: Final = in_header("If-None-Match", "The ETag of what the caller has", {"type": "string"})
_UNCHANGED: Final = {"304": answer("It is what the caller has")}

ROUTES: Final = [
    Route(
        method="GET",
        path="/v1/tools",
        handler=list_tools,
        about={
            "operationId": "listTools",
            "summary": "List the tools that the caller may use",
            "tags": ["tools"],
            "parameters": [
                _FORMAT,
                in_query("query", "Words to search for; the best match first", {"type": "string"}),
                in_query("limit", "Most tools", {"type": "integer", "minimum": 1, "maximum": MAX_LISTED}),
                _STRICT,
                _NONE_MATCH,
            ],
            "responses": {
                "200": answer(
                    "The tools", an_object({"tools": {"type": "array", "items": {"type": "object"}}}, "tools")
                ),
                **_UNCHANGED,
                **problems(400, 503),
            },
        },
    ),
    Route(
        method="GET",
        path="/v1/tools/{name}",
        handler=show_tool,
        about={
            "operationId": "showTool",
            "summary": "Show one tool",
            "tags": ["tools"],
            "parameters": [
                in_path("name", "The tool's name", "Math.Add"),
                in_query("version", "One version; the newest where it is left out", {"type": "string"}),
                _FORMAT,
                _STRICT,
                _NONE_MATCH,
            ],
            "responses": {
                "200": answer("The tool", {"anyOf": [ref("Tool"), {"type": "object"}]}),
                **_UNCHANGED,
                **problems(400, 403, 404, 503),
            },
        },
    ),
]

__all__ = ["ROUTES", "list_tools", "show_tool", "tagged"]
