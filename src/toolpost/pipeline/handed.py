"""handed: the services a caller hands in with a ToolContext act as gates and observers of that call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from toolpost.calls.context import ToolContext
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import (
    InputValidationError,
    PermissionDeniedError,
    RateLimitError,
    Rejected,
    ToolExecutionError,
)
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from toolpost.pipeline.compile import Handler

logger = logging.getLogger("toolpost")


def handed_for(spec: Any) -> Callable[[ToolDefinition, Services, Handler], Handler]:
    """The stage for the tools of one spec: validator, security, limiter before the body; tracer, metrics around it.

    A gate that refuses, or breaks, refuses the call. An observer that breaks is logged.
    """

    def handed(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
        async def handler(inv: Invocation) -> Any:
            ctx = inv.handed
            if ctx is None:
                return await next(inv)
            await _gates(ctx, spec, tool, inv)
            started = services.clock.stopwatch()
            status = "error"
            try:
                if ctx.tracer is None:
                    value = await next(inv)
                else:
                    async with ctx.tracer.span(f"execute_tool {tool.name}", {"gen_ai.tool.name": tool.name}):
                        value = await next(inv)
                status = "success"
                return value
            finally:
                await _count(ctx, tool, status, (services.clock.stopwatch() - started) * 1000.0)

        return handler

    return handed


async def _gates(ctx: ToolContext, spec: Any, tool: ToolDefinition, inv: Invocation) -> None:
    if ctx.validator is not None:
        changed = await _ask("validator", InputValidationError, ctx.validator.validate(inv.kwargs, spec))
        if isinstance(changed, dict):
            inv.kwargs = changed
        elif changed is False:
            raise InputValidationError("Parameter validation failed: the validator refused the arguments")
    if ctx.security is not None:
        if await _ask("security", PermissionDeniedError, ctx.security.authorize(ctx, spec)) is False:
            raise PermissionDeniedError("the caller may not make this call")
        if await _ask("security", PermissionDeniedError, ctx.security.check_egress(inv.kwargs, spec)) is False:
            raise PermissionDeniedError("these arguments may not leave this system")
    if ctx.limiter is not None:
        key = f"{tool.name}:{ctx.tenant_id or ''}:{ctx.user_id or ''}"
        if await _ask("limiter", RateLimitError, ctx.limiter.acquire(key)) is False:
            raise RateLimitError(f"Rate limit exceeded. Too many tool calls for user {ctx.user_id!r}")


async def _ask(service: str, refusal: type[ToolExecutionError], answer: Awaitable[Any]) -> Any:
    """Await a gate; what it raises refuses the call, as its own error or as one of the given kind."""
    try:
        return await answer
    except (Rejected, ToolExecutionError):
        raise
    except Exception as exc:
        raise refusal(f"the {service} refused the call: {exc}") from exc


async def _count(ctx: ToolContext, tool: ToolDefinition, status: str, elapsed_ms: float) -> None:
    if ctx.metrics is None:
        return
    tags = {**tool.metrics_tags, "tool": tool.name}
    try:
        await ctx.metrics.incr("tool.executions", 1, {**tags, "status": status})
        await ctx.metrics.timing_ms("tool.execution_time", elapsed_ms, tags)
    except Exception:
        logger.exception("the metrics service failed: %s", tool.name)
