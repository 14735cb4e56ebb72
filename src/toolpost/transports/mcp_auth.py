"""The MCP door as an OAuth resource server: where tokens are had (RFC 9728), and what a refusal asks for (RFC 6750)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import orjson

from toolpost.calls import ToolDefinition
from toolpost.calls.access import parts_of
from toolpost.calls.call import Caller
from toolpost.calls.errors import NotFoundError, PermissionDeniedError, UnauthorizedError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from toolpost.engine.executor import ToolExecutor
    from toolpost.transports.http_routes import Door, Route

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
PATH: Final = "/mcp"
METADATA_PATHS: Final = (WELL_KNOWN, f"{WELL_KNOWN}{PATH}")


def resource_metadata(executor: ToolExecutor, base_url: str) -> dict[str, Any] | None:
    """The metadata of this resource; None where no issuer's tokens are taken, so that there is nobody to name."""
    issuer = executor.config.jwt_issuer
    if issuer is None:
        return None
    scopes = scopes_of(executor.registry.definitions())
    told: dict[str, Any] = {
        "resource": f"{base_url}{PATH}",
        "authorization_servers": [str(issuer)],
        "bearer_methods_supported": ["header"],
        "resource_name": "toolpost",
    }
    return {**told, "scopes_supported": scopes} if scopes else told


async def show_metadata(request: Request, door: Door, caller: Caller) -> Response:
    """The metadata, for the gateway. Raises NotFoundError where there is none."""
    from starlette.responses import Response

    configured = door.base_url or str(door.executor.config.public_url or "")
    host = request.headers.get("host", "").encode("latin-1")
    told = resource_metadata(door.executor, base_url_of(configured, request.url.scheme, host))
    if told is None:
        raise NotFoundError("no issuer of tokens is set (jwt_issuer), so there is no authorization server to name")
    return Response(orjson.dumps(told), media_type="application/json", headers={"access-control-allow-origin": "*"})


def routes_of(door: Door) -> list[Route]:
    """The gateway's routes for those who look for the authorization server (RFC 9728, section 3.1)."""
    from toolpost.transports.http_routes import Route
    from toolpost.transports.http_schemas import an_object, answer, problems

    shape = an_object(
        {
            "resource": {"type": "string", "format": "uri"},
            "authorization_servers": {"type": "array", "items": {"type": "string"}},
            "bearer_methods_supported": {"type": "array", "items": {"type": "string"}},
            "scopes_supported": {"type": "array", "items": {"type": "string"}},
            "resource_name": {"type": "string"},
        },
        "resource",
        more=True,
    )
    about = {
        "summary": "Where tokens for this resource are had",
        "description": "OAuth 2.0 Protected Resource Metadata (RFC 9728), for clients of MCP.",
        "tags": ["oauth"],
        "responses": {"200": answer("The metadata", shape), **problems(404)},
    }
    named = {WELL_KNOWN: "protectedResource", f"{WELL_KNOWN}{PATH}": "protectedResourceOfMcp"}
    return [
        Route(method="GET", path=path, handler=show_metadata, public=True, about={"operationId": its_id, **about})
        for path, its_id in named.items()
    ]


def metadata_url(base_url: str) -> str:
    """Where the metadata is, for WWW-Authenticate."""
    return f"{base_url}{WELL_KNOWN}{PATH}"


def scopes_of(tools: Iterable[ToolDefinition]) -> list[str]:
    """The scopes that tools ask for."""
    found: set[str] = set()
    for tool in tools:
        found.update(tool.permissions)
        for access in parts_of(tool.policies.access):
            found.update(access.scopes or ())
            found.update(access.any_scopes or ())
    return sorted(found)


def unauthorized(executor: ToolExecutor, error: UnauthorizedError, base_url: str) -> tuple[str, bytes]:
    """The WWW-Authenticate field and the body of a 401."""
    parts = ['Bearer realm="toolpost"']
    if error.details.get("reason") != "missing":
        parts.append('error="invalid_token"')
    if executor.config.jwt_issuer is not None:
        parts.append(f'resource_metadata="{metadata_url(base_url)}"')
        if scopes := scopes_of(executor.registry.definitions()):
            parts.append(f'scope="{" ".join(scopes)}"')
    return ", ".join(parts), _body("invalid_token", error.message)


def step_up(
    executor: ToolExecutor, caller: Caller | None, tool: ToolDefinition | None, base_url: str
) -> tuple[int, str, bytes] | None:
    """The status, WWW-Authenticate field and body that ask the client for a token with more scopes.

    None where a token would not help: no issuer is set, or the caller lacks nothing that a token could have.
    """
    if tool is None or executor.config.jwt_issuer is None:
        return None
    error = executor._visible._gate(tool).objection(caller or Caller())
    if isinstance(error, UnauthorizedError) and caller is None:
        header, body = unauthorized(executor, error, base_url)
        return 401, header, body
    if caller is None or not isinstance(error, PermissionDeniedError):
        return None
    rule = str(error.details.get("rule", ""))
    if rule != "permissions" and not rule.endswith(("scopes",)):
        return None
    needed = " ".join([*sorted(caller.scopes & set(scopes_of([tool]))), *error.details.get("missing", ())])
    header = (
        f'Bearer realm="toolpost", error="insufficient_scope", scope="{needed}", '
        f'resource_metadata="{metadata_url(base_url)}"'
    )
    return 403, header, _body("insufficient_scope", error.message)


def base_url_of(configured: str, scheme: str, host: bytes | None) -> str:
    """How callers reach the gateway: as it was configured, else as this one did."""
    if configured:
        return configured.rstrip("/")
    return f"{scheme}://{(host or b'localhost').decode('latin-1')}"


def _body(error: str, message: str) -> bytes:
    return orjson.dumps({"error": error, "error_description": message})


__all__ = [
    "METADATA_PATHS",
    "PATH",
    "base_url_of",
    "metadata_url",
    "resource_metadata",
    "routes_of",
    "scopes_of",
    "show_metadata",
    "step_up",
    "unauthorized",
]
