"""The protocol's own errors, for what is no call that failed: unknown names, headers that disagree, capabilities."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from toolpost.calls import ToolExecutionError
from toolpost.calls.result import Failure

Handler = Callable[[Any, Any], Awaitable[Any]]


def invalid_params(message: str, data: Any = None) -> Exception:
    """-32602: what a request names is not there, or it cannot be read."""
    from mcp.shared.exceptions import MCPError
    from mcp_types import INVALID_PARAMS

    return MCPError(code=INVALID_PARAMS, message=message, data=data)


def invalid_request(message: str) -> Exception:
    """-32600: what is asked for is not served now."""
    from mcp.shared.exceptions import MCPError
    from mcp_types import INVALID_REQUEST

    return MCPError(code=INVALID_REQUEST, message=message)


def missing_capability(capabilities: Mapping[str, Any]) -> Exception:
    """-32021: the client would have to declare more to be served."""
    from mcp.shared.exceptions import MCPError
    from mcp_types import MISSING_REQUIRED_CLIENT_CAPABILITY

    named = [*capabilities.get("extensions", ()), *(name for name in capabilities if name != "extensions")]
    return MCPError(
        code=MISSING_REQUIRED_CLIENT_CAPABILITY,
        message=f"this needs a client that declares {', '.join(named)}",
        data={"requiredCapabilities": dict(capabilities)},
    )


def method_not_found(method: str) -> Exception:
    """-32601: there is no such method in this revision."""
    from mcp.shared.exceptions import MCPError
    from mcp_types import METHOD_NOT_FOUND

    return MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=method)


def header_mismatch(message: str) -> Exception:
    """-32020: a header says something else than the body."""
    from mcp.shared.exceptions import MCPError
    from mcp_types import HEADER_MISMATCH

    return MCPError(code=HEADER_MISMATCH, message=message)


def engine_error(error: ToolExecutionError) -> Exception:
    """-32603, with what is known: a store is away, a policy engine cannot say."""
    from mcp.shared.exceptions import MCPError
    from mcp_types import INTERNAL_ERROR

    return MCPError(code=INTERNAL_ERROR, message=error.message, data=Failure.of(error).to_dict())


def offer_failed(what: str, error: Exception) -> Exception:
    """-32603: an author's own function broke; the log says how."""
    from mcp.shared.exceptions import MCPError
    from mcp_types import INTERNAL_ERROR

    return MCPError(code=INTERNAL_ERROR, message=f"{what} failed ({type(error).__name__}); the server's log says more")


def telling(handler: Handler) -> Handler:
    """A handler whose failures say what they are."""

    @functools.wraps(handler)
    async def told(ctx: Any, params: Any) -> Any:
        try:
            return await handler(ctx, params)
        except ToolExecutionError as error:
            raise engine_error(error) from error

    return told


def resource_not_found(uri: str, modern: bool) -> Exception:
    """-32602 in revisions without sessions, -32002 in older ones."""
    from mcp.shared.exceptions import MCPError
    from mcp_types import INVALID_PARAMS

    return MCPError(code=INVALID_PARAMS if modern else -32002, message=f"there is no resource {uri}", data={"uri": uri})


__all__ = [
    "engine_error",
    "header_mismatch",
    "invalid_params",
    "invalid_request",
    "method_not_found",
    "missing_capability",
    "offer_failed",
    "resource_not_found",
    "telling",
]
