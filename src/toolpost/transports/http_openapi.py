"""The OpenAPI 3.1 document at /openapi.json, made from what all routes say of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from toolpost.calls.call import Caller
from toolpost.transports.http_documented import RESPONSES, SCHEMAS
from toolpost.transports.http_lookups import MAX_TEXT, PLAIN, query_of
from toolpost.transports.http_routes import Door, Route
from toolpost.transports.http_schemas import answer, problems, ref
from toolpost.transports.http_tools import tagged

if TYPE_CHECKING:
    from starlette.requests import Request

    from toolpost.transports.http_problems import Answer

OPENAPI: Final = "3.1.0"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
DESCRIPTION: Final = (
    "Calls of tools, through one pipeline of checks, limits and records. Errors are problems (RFC 9457) with a stable "
    "code. A request may come with X-Request-Id, which is given back. The WebSocket at /v1/stream and the MCP server "
    "at /mcp are described in the documentation, as OpenAPI has no words for them."
)
TAGS: Final = {
    "calls": "Make calls, look them up, follow and end them.",
    "tools": "What can be called.",
    "approvals": "Calls that wait for a person.",
    "authorizations": "What users granted at OAuth providers.",
    "artifacts": "Files and values that calls left.",
    "callbacks": "What callers were told by webhooks.",
    "health": "How the process is.",
    "documents": "This document, and a page that reads it.",
}
_CALL: Final = ("showCall", "streamCallEvents", "explainCall", "cancelCall", "endCall", "showResult")
_FLOW: Final = ("showAuthorization", "completeAuthorization", "endAuthorization")
LINKS: Final = {
    ("callTool", "200"): ("call_id", "/call_id", _CALL),
    ("callTool", "202"): ("call_id", "/call_id", _CALL),
    ("makeCalls", "202"): ("call_id", "/call_id", _CALL),
    ("beginAuthorization", "201"): ("authorization_id", "/id", _FLOW),
}
"""What every such answer leads to: a parameter, the place of its value in the answer, the operations that take it."""
STREAMED: Final = ("callTool", "makeCalls")
"""What answers with events where Accept asks for them."""
_CONVERTOR: Final = re.compile(r"\{(\w+):\w+\}")
_WITH_BODY: Final = (408, 413, 415)


async def show_document(request: Request, door: Door, caller: Caller) -> Answer:
    """The document, made once for a gateway."""
    query_of(request, ())
    made = door.state.get("openapi")
    if made is None:
        made = door.state["openapi"] = document(door.state["routes"], door.base_url)
    return tagged(request, made)


def document(routes: Iterable[Route], base_url: str = "") -> dict[str, Any]:
    """The OpenAPI document of routes. base_url: where they are reached, the document's own host where it is empty."""
    paths: dict[str, dict[str, Any]] = {}
    used: set[str] = set()
    for route in routes:
        operation = _operation(route)
        used.update(operation.get("tags", ()))
        paths.setdefault(_CONVERTOR.sub(r"{\1}", route.path), {})[route.method.lower()] = operation
    return {
        "openapi": OPENAPI,
        "info": {
            "title": "toolpost",
            "version": _version(),
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "jsonSchemaDialect": DIALECT,
        "servers": [{"url": base_url or "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items() if name in used],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "responses": RESPONSES,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a JWT of the issuer."},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    """What a route says, with what every one of its kind may answer."""
    told = dict(route.about)
    told["parameters"] = [_bounded(one) for one in told.get("parameters", ())]
    told["tags"] = [tag.lower() for tag in told.get("tags", ())]
    responses: dict[str, Any] = {**problems(400, 403, 421, 500)}
    if "requestBody" in told:
        responses |= problems(*_WITH_BODY)
    if route.public:
        told["security"] = []
    else:
        told["security"] = [{"bearer": []}, {"key": []}]
        responses |= problems(401, 503)
    responses |= told["responses"]
    if told["operationId"] in STREAMED:
        said = responses["200"]
        events = {"text/event-stream": {"schema": ref("Event")}}
        responses["200"] = {**said, "content": {**said["content"], **events}}
    for status, said in responses.items():
        links = _links(told["operationId"], status)
        if links:
            responses[status] = {**(_RESPONSES_BY_REF.get(said.get("$ref")) or said), "links": links}
    told["responses"] = dict(sorted(responses.items()))
    return told


def _bounded(parameter: Mapping[str, Any]) -> Mapping[str, Any]:
    """A parameter with what holds for every text in a query."""
    schema = parameter["schema"]
    if parameter["in"] != "query" or schema.get("type") != "string" or "enum" in schema or "pattern" in schema:
        return parameter
    return {**parameter, "schema": {"maxLength": MAX_TEXT, "pattern": PLAIN.pattern, **schema}}


def _links(operation: str, status: str) -> dict[str, Any]:
    name, pointer, targets = LINKS.get((operation, status), ("", "", ()))
    return {target: {"operationId": target, "parameters": {name: f"$response.body#{pointer}"}} for target in targets}


_RESPONSES_BY_REF: Final = {f"#/components/responses/{name}": said for name, said in RESPONSES.items()}


def _version() -> str:
    try:
        return version("toolpost")
    except PackageNotFoundError:
        return "0"


def example_of(about: Mapping[str, Any]) -> Any:
    """The example of an operation's body, None where it has none."""
    content = about.get("requestBody", {}).get("content", {}).get("application/json", {})
    examples = content.get("examples", {})
    return next((one.get("value") for one in examples.values()), content.get("example"))


ROUTES: Final = (
    Route(
        method="GET",
        path="/openapi.json",
        handler=show_document,
        public=True,
        about={
            "operationId": "showDocument",
            "summary": "Show this document",
            "tags": ["documents"],
            "responses": {
                "200": answer("An OpenAPI 3.1 document.", {"type": "object"}),
                "304": answer("It is what the caller has."),
                **problems(400),
            },
        },
    ),
)

__all__ = ["ROUTES", "document", "example_of"]
