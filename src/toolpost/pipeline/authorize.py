"""authorize: may this caller make this call? Whatever breaks while asking refuses."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import PermissionDeniedError, Rejected, UnauthorizedError
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

logger = logging.getLogger("toolpost")


def authorize(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """A tool that requires_auth needs a named caller; permissions must be among the caller's scopes; then the hook."""
    authorizer = services.authorizer
    needed = frozenset(tool.permissions)
    known_caller = tool.requires_auth
    if authorizer is None and not needed and not known_caller:
        return next

    def check(inv: Invocation) -> None:
        caller = inv.caller
        if known_caller and caller.user_id is None:
            raise UnauthorizedError(
                "Authentication required: this tool needs a known user; make the call with a user_id"
            )
        if not needed <= caller.scopes:
            missing = sorted(needed - caller.scopes)
            raise PermissionDeniedError(
                f"the caller lacks the permission {', '.join(map(repr, missing))}", details={"missing": missing}
            )

    def by_caller(inv: Invocation) -> Awaitable[Any]:
        if known_caller or not needed <= inv.caller.scopes:
            check(inv)
        return next(inv)

    if authorizer is None:
        return by_caller

    async def by_hook(inv: Invocation) -> Any:
        check(inv)
        try:
            verdict = authorizer(tool, inv.caller, inv.kwargs)
            if inspect.isawaitable(verdict):
                if inv.blocking:
                    getattr(verdict, "close", lambda: None)()
                    raise TypeError("an async authorizer cannot decide a blocking call")
                verdict = await verdict
        except Rejected:
            raise
        except Exception as exc:
            logger.exception("authorizer failed: %s", tool.name)
            raise PermissionDeniedError(
                f"the authorizer failed ({type(exc).__name__}), so the call is refused",
                details={"authorizer": "failed"},
            ) from exc
        if verdict is False:
            raise PermissionDeniedError("the caller may not make this call", details={"authorizer": "denied"})
        return await next(inv)

    return by_hook
