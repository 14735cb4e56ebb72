"""@policy: attaches policies to a function or method, whichever style it is written in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from toolpost.authoring.decorators import declare
from toolpost.calls.access import Access
from toolpost.calls.approval import Approval
from toolpost.calls.definition import Hints
from toolpost.calls.egress import Egress
from toolpost.calls.errors import ConfigurationError
from toolpost.calls.oauth import OAuth
from toolpost.calls.policies import (
    Breaker,
    BreakerPolicy,
    Cache,
    Concurrency,
    Exclusive,
    Idempotency,
    Policies,
    RateLimit,
    Retry,
    RetryPolicy,
    Screening,
    Timeout,
    UsageCalculator,
)

F = TypeVar("F", bound=Callable[..., Any])

FIELDS: dict[type, str] = {
    Access: "access",
    Approval: "approval",
    Egress: "egress",
    OAuth: "oauth",
    Breaker: "breaker",
    Cache: "cache",
    Concurrency: "concurrency",
    Exclusive: "exclusive",
    Hints: "hints",
    Idempotency: "idempotency",
    RateLimit: "rate_limit",
    Retry: "retry",
    Screening: "screening",
    Timeout: "timeout",
}
SEVERAL = ("rate_limit", "concurrency")


def policy(
    *values: Any,
    breaker: BreakerPolicy | None = None,
    retry: RetryPolicy | None = None,
    invalidates: tuple[str, ...] | list[str] = (),
    usage: UsageCalculator | None = None,
) -> Callable[[F], F]:
    """Declare policies: `@policy(Retry(attempts=3), Idempotency(key_fields=("order_id",)), Hints(idempotent=True))`.

    values are policies of calls.policies and Hints, in any order; RateLimit and Concurrency may be given several times.
    breaker and retry take objects of one's own; invalidates, the cache tags that a call makes void. As with
    every decorator here, their order has no meaning.
    Raises ConfigurationError for anything else, and for two policies of one kind.
    """
    chosen: dict[str, Any] = {}
    for value in values:
        field = FIELDS.get(type(value))
        if field is None:
            known = ", ".join(sorted(kind.__name__ for kind in FIELDS))
            raise ConfigurationError(f"@policy takes policies ({known}), got {value!r:.100}")
        if field in SEVERAL:
            chosen[field] = (*chosen.get(field, ()), value)
        elif field in chosen:
            raise ConfigurationError(f"@policy: two policies of the kind {type(value).__name__}; keep one")
        else:
            chosen[field] = value
    if isinstance(invalidates, str):
        raise ConfigurationError(f"@policy: invalidates must be a tuple of names, got {invalidates!r}")
    own = {"breaker": breaker, "retry": retry, "usage": usage, "invalidates": tuple(invalidates) or None}
    for field, value in own.items():
        if value is None:
            continue
        if field in chosen:
            raise ConfigurationError(f"@policy: two policies for {field}; keep one")
        chosen[field] = value
    if not chosen:
        raise ConfigurationError("@policy is empty; write @policy(Retry(attempts=3)) or leave it out")
    Policies(**{field: value for field, value in chosen.items() if field != "hints"})  # which checks them
    return lambda func: declare(func, "policy", **chosen)
