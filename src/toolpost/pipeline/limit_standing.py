"""How a tool's rate limits stand for a caller, asked without spending anything: what doors tell beside a result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import floor

from toolpost.calls.call import Caller
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import StoreUnavailableError
from toolpost.calls.policies import RateLimit
from toolpost.pipeline.answers import ASIDE_S, within
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.limit import names_of, rules_of, shared_key
from toolpost.pipeline.services import Services
from toolpost.stores.pending import Pending


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitStanding:
    """One rate limit as it stands for a caller: quota calls in any window_s seconds.

    name tells it from the others of its tool: whom it counts ("user", "tool", "tenant" or "global"), or "default" for
    the executor's own. remaining is how many calls would be granted at once, reset_s the seconds until quota, or the
    burst that is allowed, is whole again.
    """

    name: str
    quota: int
    window_s: float
    remaining: int
    reset_s: float


Standing = Callable[[Caller], Awaitable[list[LimitStanding]]]


def standing_of(tool: ToolDefinition, services: Services) -> Standing | None:
    """What tells how a tool's rate limits stand for a caller; None where there are none to tell of.

    A limit by a function of the author's is left out: its key may hang on arguments that nobody has checked. A store
    that is out of reach leaves all out: the limits themselves say what that means for calls.
    """
    rules = [rule for rule in rules_of(tool, services) if not callable(rule[2].by)]
    if not rules:
        return None
    names, state = names_of(rules), services.state

    async def standing(caller: Caller) -> list[LimitStanding]:
        asker = Invocation()
        asker.caller = caller
        keys = [(scope, parts(asker) or ()) for scope, parts, _ in rules]
        numbers = [(policy.calls / policy.per_s, _burst(policy)) for _, _, policy in rules]
        if state.local:
            own = [((repr(scope), *key), *pair) for (scope, key), pair in zip(keys, numbers, strict=True)]
            levels = services.buckets.levels(own)
        else:
            shared = [(shared_key(scope, key), *pair) for (scope, key), pair in zip(keys, numbers, strict=True)]
            try:
                answer = state.left(shared)
                levels = await within(answer, ASIDE_S) if isinstance(answer, Pending) else answer
            except StoreUnavailableError:
                return []
        return [_stands(name, policy, level) for name, (_, _, policy), level in zip(names, rules, levels, strict=True)]

    return standing


def _burst(policy: RateLimit) -> float:
    return float(policy.burst or policy.calls)


def _stands(name: str, policy: RateLimit, level: float) -> LimitStanding:
    return LimitStanding(
        name=name,
        quota=policy.calls,
        window_s=policy.per_s,
        remaining=floor(level + 1e-6),
        reset_s=max(0.0, (_burst(policy) - level) * policy.per_s / policy.calls),
    )
