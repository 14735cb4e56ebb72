"""trace: a span around the call, current while the body runs. Not in the chain unless a tracer is set."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import ToolDefinition
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.pipeline.steps import stepped, steps

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

logger = logging.getLogger("toolpost")


def trace(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Enter the tracer's context manager around the call; a tracer that breaks is logged and the call goes on."""
    tracer = services.tracer
    if tracer is None:
        return next

    next = stepped(next)

    def handler(inv: Invocation) -> Awaitable[Any]:
        try:
            span = tracer(tool, inv)
            span.__enter__()
        except Exception:
            logger.exception("tracer failed: %s", tool.name)
            return next(inv)
        try:
            work = next(inv)
        except BaseException as raised:
            ended(span, raised)
            raise
        if work is inv:
            try:
                span.__exit__(None, None, None)
            except Exception:
                logger.exception("tracer failed: %s", tool.name)
            return inv
        return watched(work, span)

    async def watched(work: Awaitable[Any], span: Any) -> Any:
        error: BaseException | None = None
        try:
            return await work
        except BaseException as raised:
            error = raised
            raise
        finally:
            ended(span, error)

    def ended(span: Any, error: BaseException | None) -> None:
        try:
            if error is None:
                span.__exit__(None, None, None)
            else:
                span.__exit__(type(error), error, error.__traceback__)
        except Exception:
            logger.exception("tracer failed: %s", tool.name)

    return steps(handler)
