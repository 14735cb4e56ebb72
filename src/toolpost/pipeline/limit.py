"""limit: no more calls than the policies allow; one caller's excess never stops another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from toolpost.calls.call import Caller
from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import ConfigurationError, RateLimitError, StoreUnavailableError
from toolpost.calls.policies import RateLimit, Unset
from toolpost.pipeline.answers import ASIDE_S, answered
from toolpost.pipeline.cache_keys import digest_of
from toolpost.pipeline.holding import key_by, keyed, with_all_places
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.stores.memory import TokenBuckets

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

logger = logging.getLogger("toolpost")
KeyParts = Callable[[Invocation], "tuple[str | None, ...] | None"]


def limit(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Rates first, then places, then the resource for itself alone; a call that finds no place has spent its token.

    The tool's own rates and the executor's general one hold together: a token is taken from each bucket or from none.
    """
    handler = with_all_places(tool, services, next)
    rules = rules_of(tool, services)
    if not rules:
        return handler
    if services.state.local:
        return _with_tokens(tool, services, rules, handler)
    return _with_shared_tokens(tool, services, rules, handler)


def _listed(policy: Any) -> tuple[Any, ...]:
    if policy is None or isinstance(policy, Unset):
        return ()
    return tuple(policy) if isinstance(policy, (tuple, list)) else (policy,)


Rule = tuple[tuple[str, ...], KeyParts, RateLimit]
"""What a bucket's key begins with, what it goes on with, and the policy."""


def rules_of(tool: ToolDefinition, services: Services) -> list[Rule]:
    """The rate limits that hold for a tool: its own, then the executor's general ones."""
    rules: list[Rule] = []
    for index, policy in enumerate(_listed(tool.policies.rate_limit)):
        scope: tuple[str, ...] = ("tool", tool.name, str(index))
        if policy.by == "global":  # one bucket for all tools that declare the same
            scope = ("global", repr(policy.calls), repr(policy.per_s), repr(policy.burst))
        rules.append((scope, _parts(policy, tool), policy))
    if tool.policies.rate_limit is not None:
        for index, policy in enumerate(_listed(services.defaults.rate_limit)):
            rules.append((("all", str(index)), _parts(policy, tool), policy))
    return rules


def names_of(rules: list[Rule]) -> list[str]:
    """How a tool's rate limits are told apart: by whom they count, "key" for an author's function, "default" for the
    executor's own."""
    names: list[str] = []
    for scope, _, policy in rules:
        name = "default" if scope[0] == "all" else policy.by if isinstance(policy.by, str) else "key"
        again = sum(known.partition("-")[0] == name for known in names)
        names.append(f"{name}-{again + 1}" if again else name)
    return names


def shared_key(scope: tuple[str, ...], key: tuple[str | None, ...]) -> str:
    """The name of a bucket in a store that many processes share."""
    return f"rate:{digest_of(*scope, *key)[:40]}"


def _parts(policy: RateLimit, tool: ToolDefinition) -> KeyParts:
    by = policy.by
    if callable(by):
        return keyed(by, tool, "the rate limit's key")
    return key_by(by, tool)


def _with_tokens(tool: ToolDefinition, services: Services, rules: list[Rule], next: Handler) -> Handler:
    """Buckets in this process."""
    buckets, tool_name = services.buckets, tool.name
    made = [  # scopes as text, whose hash is made once
        (repr(scope), parts, (policy, name), policy.calls / policy.per_s, float(policy.burst or policy.calls))
        for (scope, parts, policy), name in zip(rules, names_of(rules), strict=True)
    ]
    if len(made) == 1:
        scope, parts, named, rate, burst = made[0]
        take = buckets.taker(rate, burst)

        def by_user(inv: Invocation) -> Awaitable[Any]:
            caller = inv.caller
            wait_s = take((scope, caller.tenant, caller.user_id))
            if wait_s:
                raise exceeded(named, caller, tool_name, wait_s)
            if inv.explain is not None:
                inv.note("limit", "granted")
            return next(inv)

        def one(inv: Invocation) -> Awaitable[Any]:
            key = parts(inv)
            if key is not None:
                wait_s = take((scope, *key))
                if wait_s:
                    raise exceeded(named, inv.caller, tool_name, wait_s)
                if inv.explain is not None:
                    inv.note("limit", "granted")
            return next(inv)

        return by_user if named[0].by == "user" else one

    def several(inv: Invocation) -> Awaitable[Any]:
        wanted, asked = [], []
        for scope, parts, named, rate, burst in made:
            key = parts(inv)
            if key is not None:
                wanted.append(((scope, *key), rate, burst))
                asked.append(named)
        if wanted:
            wait_s, refused = buckets.take_all(wanted)
            if refused is not None:
                raise exceeded(asked[refused], inv.caller, tool_name, wait_s)
            if inv.explain is not None:
                inv.note("limit", "granted")
        return next(inv)

    return several


def _with_shared_tokens(tool: ToolDefinition, services: Services, rules: list[Rule], next: Handler) -> Handler:
    """Buckets in a store that many processes share: one round trip for all of them."""
    state, clock, outage = services.state, services.clock, services.the("limit_outage", Outage)
    patience_s = ASIDE_S if all(policy.when_down == "allow" for _, _, policy in rules) else None
    named = list(zip(rules, names_of(rules), strict=True))

    async def handler(inv: Invocation) -> Any:
        wanted: list[tuple[str, float, float]] = []
        asked: list[tuple[RateLimit, str]] = []
        for (scope, parts, policy), name in named:
            key = parts(inv)
            if key is not None:
                wanted.append(
                    (shared_key(scope, key), policy.calls / policy.per_s, float(policy.burst or policy.calls))
                )
                asked.append((policy, name))
        if wanted:
            try:
                wait_s, refused = await answered(state.take(wanted), inv, clock, patience_s)
            except StoreUnavailableError as error:
                outage.began(error)
                if any(policy.when_down == "refuse" for policy, _ in asked):
                    raise
                if inv.explain is not None:
                    inv.note("limit", "allowed", why="the store is out of reach")
            else:
                outage.ended()
                if refused >= 0:
                    raise exceeded(asked[refused], inv.caller, tool.name, wait_s)
                if inv.explain is not None:
                    inv.note("limit", "granted")
        return await next(inv)

    return handler


class Outage:
    """Tells once that the store of the limits cannot be reached, and once that it can again."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = False

    def began(self, error: StoreUnavailableError) -> None:
        """The store failed."""
        if not self.now:
            self.now = True
            logger.warning("limits cannot be kept, calls are refused unless their policies allow: %s", error.message)

    def ended(self) -> None:
        """The store answered."""
        if self.now:
            self.now = False
            logger.info("limits are kept again")


def exceeded(named: tuple[RateLimit, str], caller: Caller, tool: str, wait_s: float) -> RateLimitError:
    """The refusal, saying whose limit it is and when the next call is granted; details name the limit as doors do."""
    policy, name = named
    whose = {
        "user": f"user {caller.user_id or 'anonymous'!r}",
        "tool": f"tool {tool!r}",
        "tenant": f"tenant {caller.tenant!r}",
        "global": "all callers",
    }.get(policy.by if isinstance(policy.by, str) else "", "its key")
    per = "minute" if policy.per_s == 60 else f"{policy.per_s:g} s"
    return RateLimitError(
        f"Rate limit exceeded. Too many tool calls per {per}: {policy.calls} for {whose}; retry in {wait_s:.1f} s",
        retry_after_s=wait_s,
        details={"limit": name},
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
