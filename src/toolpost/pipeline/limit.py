"""limit: no more calls than the policy allows; one caller's excess never stops another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolpost.calls.call import Caller
from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import ConfigurationError, RateLimitError
from toolpost.calls.policies import RateLimit, given
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.stores.memory import TokenBuckets

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler


def limit(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Take a token or refuse with RateLimitError. The tool's own policy and the executor's hold both."""
    own = given(tool.policies.rate_limit)
    general = None if tool.policies.rate_limit is None else given(services.defaults.rate_limit)
    rules = [(f"tool:{tool.name}", own)] if own else []
    rules += [("all", general)] if general else []
    if not rules:
        return next
    buckets = services.buckets

    def handler(inv: Invocation) -> Awaitable[Any]:
        wanted = [
            ((scope, _key(policy, inv.caller, tool.name)), policy.calls / policy.per_s, float(policy.calls))
            for scope, policy in rules
        ]
        wait_s, refused = buckets.take_all(wanted)
        if refused is not None:
            raise exceeded(rules[refused][1], inv.caller, tool.name, wait_s)
        return next(inv)

    return handler


def _key(policy: RateLimit, caller: Caller, tool: str) -> tuple[str | None, ...]:
    if policy.by == "user":
        return (caller.tenant, caller.user_id)
    if policy.by == "tenant":
        return (caller.tenant,)
    return (tool,) if policy.by == "tool" else ()


def exceeded(policy: RateLimit, caller: Caller, tool: str, wait_s: float) -> RateLimitError:
    """The refusal, saying whose limit it is and when the next call is granted."""
    whose = {"user": f"user {caller.user_id or 'anonymous'!r}", "tool": f"tool {tool!r}"}.get(
        policy.by, f"tenant {caller.tenant!r}" if policy.by == "tenant" else "all callers"
    )
    per = "minute" if policy.per_s == 60 else f"{policy.per_s:g} s"
    return RateLimitError(
        f"Rate limit exceeded. Too many tool calls per {per}: {policy.calls} for {whose}; retry in {wait_s:.1f} s",
        retry_after_s=wait_s,
    )


class RateLimiter:
    """At most max_calls_per_minute for each user, by a token bucket that starts full."""

    def __init__(self, max_calls_per_minute: int = 60, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if isinstance(max_calls_per_minute, bool) or not max_calls_per_minute > 0:
            raise ConfigurationError(f"max_calls_per_minute must be more than 0, got {max_calls_per_minute!r}")
        self.max_calls_per_minute = max_calls_per_minute
        self._buckets = TokenBuckets(clock.monotonic)
        self._how = {"rate": max_calls_per_minute / 60.0, "burst": float(max_calls_per_minute)}

    def can_execute(self, user_id: str | None = None) -> bool:
        """Whether a call of this user would be granted now; takes nothing."""
        return self._buckets.peek(user_id, **self._how) >= 1.0 - 1e-9

    def record_call(self, user_id: str | None = None) -> None:
        """Count a call of this user."""
        self._buckets.drain(user_id, **self._how)

    def take(self, user_id: str | None = None) -> float:
        """Ask and count in one step: 0.0 when granted, else the seconds until it would be."""
        return self._buckets.take(user_id, **self._how)
