"""timeout: a limit on one attempt, within the call's deadline, which settle keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.policies import given
from toolpost.pipeline.deadline import within
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services

if TYPE_CHECKING:
    from toolpost.pipeline.compile import Handler


def timeout(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """End an attempt after Timeout(attempt_s) with ToolTimeoutError."""
    policy = given(tool.policies.over(services.defaults).timeout)
    if policy is None or policy.attempt_s is None:
        return next
    attempt_s, stopwatch = policy.attempt_s, services.clock.stopwatch

    async def handler(inv: Invocation) -> Any:
        if inv.blocking:
            total = inv.limit_s
            spent = stopwatch() - inv.started
            inv.limit_s = spent + attempt_s if total is None else min(total, spent + attempt_s)
            try:
                return await next(inv)
            finally:
                inv.limit_s = total
        work = next(inv)
        return inv.value if work is inv else await within(work, attempt_s, services, inv)

    return handler
