"""timeout: a limit on one attempt, within the call's deadline, which settle keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.policies import given
from toolpost.pipeline.deadline import Late
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.pipeline.steps import stepped, steps

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler


def timeout(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """End an attempt after Timeout(attempt_s) with ToolTimeoutError."""
    policy = given(tool.policies.over(services.defaults).timeout)
    if policy is None or policy.attempt_s is None:
        return next
    attempt_s, stopwatch = policy.attempt_s, services.clock.stopwatch

    at_once = stepped(next)

    def handler(inv: Invocation) -> Awaitable[Any]:
        if inv.blocking:
            return blocking(inv)
        work = next(inv)
        if work is inv:
            return inv
        coro: Any = work
        try:
            parked = coro.send(None)
        except StopIteration as done:
            inv.value = done.value
            return inv
        except GeneratorExit as raised:
            raise RuntimeError("the body raised GeneratorExit") from raised
        return within(coro, parked, inv)

    async def within(coro: Any, parked: Any, inv: Invocation) -> Any:
        return await Late(coro, parked, attempt_s, services, inv)

    def blocking(inv: Invocation) -> Awaitable[Any]:
        total = inv.limit_s
        spent = stopwatch() - inv.started
        inv.limit_s = spent + attempt_s if total is None else min(total, spent + attempt_s)
        try:
            return at_once(inv)
        finally:
            inv.limit_s = total

    return steps(handler)
