"""trace: a span around the call, current while the body runs. Not in the chain unless a tracer is set."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import ToolDefinition
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services

if TYPE_CHECKING:
    from toolpost.pipeline.compile import Handler

logger = logging.getLogger("toolpost")


def trace(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Enter the tracer's context manager around the call; a tracer that breaks is logged and the call goes on."""
    tracer = services.tracer
    if tracer is None:
        return next

    async def handler(inv: Invocation) -> Any:
        try:
            span = tracer(tool, inv)
            span.__enter__()
        except Exception:
            logger.exception("tracer failed: %s", tool.name)
            return await next(inv)
        error: BaseException | None = None
        try:
            return await next(inv)
        except BaseException as raised:
            error = raised
            raise
        finally:
            try:
                span.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
            except Exception:
                logger.exception("tracer failed: %s", tool.name)

    return handler
