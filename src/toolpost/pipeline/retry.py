"""retry: another attempt after a failure that passes, where that is safe and there is time and budget for it."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import Rejected, ToolExecutionError, ToolTimeoutError
from toolpost.calls.events import AttemptFailed
from toolpost.calls.policies import Retry, given
from toolpost.pipeline.failures import kind_of, retry_after_s
from toolpost.pipeline.flights import left_s
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.retry_policies import delayed_policy, does_nothing, grown, passes
from toolpost.pipeline.services import Services
from toolpost.pipeline.settle import emit, translated as translated
from toolpost.pipeline.steps import stepped, steps
from toolpost.runners.threads import lending
from toolpost.stores.memory import IMMUTABLE, copied

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

logger = logging.getLogger("toolpost")

LONGEST_WAIT_S = 86_400.0
"""A call without a deadline waits no longer for its next attempt, whatever the other side asks for."""
PLAIN = ("string", "integer", "number", "boolean", "null")
"""Types of JSON schema whose values nobody can change."""
STANDARD = Retry()
"""What holds where a policy object has no say: its budget."""


def retry(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Try again as the policy says. Not in the chain for one attempt; a call that succeeds pays next to nothing."""
    policy = given(tool.policies.over(services.defaults).retry)
    if policy is None or does_nothing(policy):
        return next
    if isinstance(policy, Retry):
        plan = _planned(policy, services)
    else:
        ours = delayed_policy(policy)
        if ours is None:
            return _theirs(tool, services, policy, next)
        ours.adopt(services.clock)
        plan = _Plan(
            attempts=ours.max_attempts,
            wants=lambda error, n: ours.should_retry(error, n - 1),
            wait_s=lambda n, error: ours.calculate_delay(n - 1),
            insists=True,
            share=STANDARD.budget,
            reserve=STANDARD.min_budget,
        )
    return next if plan.attempts <= 1 else _ours(tool, services, plan, next)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A policy, as the stage goes by it. Attempts count from 1; share and reserve are the budget's."""

    attempts: int
    wants: Callable[[BaseException, int], bool]
    wait_s: Callable[[int, BaseException], float]
    insists: bool
    dependency: str | None = None
    share: float
    reserve: float


def _planned(policy: Retry, services: Services) -> _Plan:
    clock = services.clock
    kinds = frozenset(kind for kind in policy.on if isinstance(kind, str))
    classes = tuple(kind for kind in policy.on if isinstance(kind, type))
    first_s = services.retry_backoff_s if policy.wait_s is None else policy.wait_s

    def grows(n: int, error: BaseException) -> float:
        wait_s = grown(first_s, policy.factor, n - 1, policy.max_wait_s)
        spread_s = wait_s * policy.jitter + policy.jitter_s
        return wait_s + clock.jitter(spread_s) if spread_s > 0 else wait_s

    return _Plan(
        attempts=max(1, services.retry_attempts) if policy.attempts is None else int(policy.attempts),
        wants=lambda error, n: passes(error, kinds, classes),
        wait_s=policy.wait or grows,
        insists=policy.insist,
        dependency=policy.dependency,
        share=policy.budget,
        reserve=policy.min_budget,
    )


class Budget:
    """What tools of one dependency may spend on retries together: each call earns a share of one, each retry costs one.

    It starts with its reserve and never holds more (or one, so that a share alone can be saved up).
    """

    __slots__ = ("tokens",)

    def __init__(self, reserve: float) -> None:
        self.tokens = float(reserve)

    def spend(self) -> bool:
        """Take one for a retry, if it is there."""
        if self.tokens < 1.0 - 1e-9:
            return False
        self.tokens -= 1.0
        return True


class _Tries:
    """The attempts of one call, once there may be several: how many, and what is known of those that failed."""

    __slots__ = ("inv", "n", "pristine", "real", "services", "tool", "unknown")

    def __init__(
        self, tool: ToolDefinition, services: Services, inv: Invocation, pristine: dict[str, Any] | None
    ) -> None:
        self.tool, self.services, self.inv, self.pristine = tool, services, inv, pristine
        self.n = 0
        self.real: Exception | None = None
        """The last error of an attempt whose body ran."""
        self.unknown = False
        """Whether a body was given up and may run still."""

    async def attempt(self, next: Handler) -> Any:
        """One attempt. Meanwhile inv.ran tells of its body alone; afterwards, of all bodies of the call."""
        inv = self.inv
        if inv.ran and self.pristine is not None:
            inv.kwargs = _converted(self.tool, self.pristine)
        before, inv.ran = inv.ran, False
        if not self.unknown:
            inv.on_timeout = "stopped"
        try:
            work = next(inv)
            return inv.value if work is inv else await work
        except Exception as raised:
            self.failed(raised)
            raise
        finally:
            inv.ran = inv.ran or before

    def failed(self, error: Exception) -> None:
        """Note that an attempt failed, and tell the observers."""
        inv = self.inv
        self.n += 1
        if inv.ran:
            self.real = error
        if isinstance(error, ToolExecutionError) and error.outcome == "unknown":
            self.unknown = True
        if self.services.observers:
            traceback = error.__traceback__
            typed = translated(error, self.tool, inv, inv.limit_s)
            error.__traceback__ = traceback
            event = AttemptFailed(call_id=inv.id, tool=self.tool.name, attempt=self.n, error=typed)
            emit(self.services, event)

    def told(self, final: Exception, why: str) -> Exception:
        """An error to raise in the end, with what is to be said of the attempts."""
        inv = self.inv
        if self.n == 1 and not why:
            return final
        typed = translated(final, self.tool, inv, inv.limit_s)
        if typed is final:
            try:
                typed = copy.copy(typed)
            except Exception:
                return final  # an author's own class that cannot be copied; one object may be raised again and again
        said: dict[str, Any] = {"attempts": self.n} if self.n > 1 else {}
        if why:
            said["retry"] = why
        typed.details = {**said, **typed.details}
        typed.__cause__ = final.__cause__ if isinstance(final, ToolExecutionError) else final
        if self.unknown:
            typed.outcome = "unknown"
        if isinstance(typed, (Rejected, ToolTimeoutError)):
            typed.tool = (
                final.tool if isinstance(final, ToolExecutionError) else None
            )  # settle names it, as this call's
        return typed


def _changeable(tool: ToolDefinition) -> bool:
    """Whether a body may be given what it can change: lists, objects, or anything."""
    if tool.parameters.get("additionalProperties", True) is not False:
        return True
    return not all(map(_is_plain, tool.parameters.get("properties", {}).values()))


def _is_plain(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    choices = schema.get("anyOf")
    return all(map(_is_plain, choices)) if choices else schema.get("type") in PLAIN


def _pristine(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """A copy of arguments that a body might change before another attempt needs them; None where none can be made."""
    for value in arguments.values():
        if value.__class__ not in IMMUTABLE:
            try:
                return copied(arguments)  # type: ignore[no-any-return]
            except Exception:
                return None  # they hold what has no copy: each attempt gets them as the one before left them
    return None


def _converted(tool: ToolDefinition, pristine: dict[str, Any]) -> dict[str, Any]:
    """Arguments for another attempt, made as validate made those of the first."""
    arguments = copied(pristine)
    try:
        return tool.check.convert(arguments)
    except Exception as raised:
        return tool.check.mend(arguments, raised)


def _ours(tool: ToolDefinition, services: Services, plan: _Plan, next: Handler) -> Handler:
    """Attempts by a plan. Without a failure there is one coroutine at most."""
    clock, dependency = services.clock, plan.dependency or tool.name
    budgets: dict[str, Budget] = services.the("retry_budgets", dict)
    budget = budgets.setdefault(dependency, Budget(plan.reserve))
    share, most = plan.share, max(plan.reserve, 1.0)
    safe = plan.insists or tool.hints.read_only is True or tool.hints.idempotent is True

    changeable = _changeable(tool)
    next = stepped(next)

    def handler(inv: Invocation) -> Awaitable[Any]:
        if budget.tokens < most:
            budget.tokens = min(most, budget.tokens + share)
        # Only what may be tried again after its body ran, and has arguments that the body can change, pays for a copy.
        pristine = _pristine(inv.arguments) if changeable and (safe or inv.effect_key is not None) else None
        try:
            work = next(inv)
        except Exception as raised:
            return again(inv, raised, pristine)
        return inv if work is inv else first(work, inv, pristine)

    async def first(work: Awaitable[Any], inv: Invocation, pristine: dict[str, Any] | None) -> Any:
        try:
            return await work
        except Exception as raised:
            failure = raised
        return await again(inv, failure, pristine)

    async def again(inv: Invocation, failure: Exception, pristine: dict[str, Any] | None) -> Any:
        tries = _Tries(tool, services, inv, pristine)
        tries.failed(failure)
        while True:
            wait_s, why = considered(inv, failure, tries.n)
            if why is not None:
                if inv.explain is not None:
                    inv.note("retry", why or "gave up", attempts=tries.n, kind=kind_of(failure))
                final = tries.told(failure if tries.real is None else tries.real, why)
                raise final from final.__cause__
            if inv.explain is not None:
                inv.note("retry", "tries again", attempt=tries.n, wait_s=round(wait_s, 6), kind=kind_of(failure))
            if wait_s > 0:
                if inv.blocking:
                    with lending():  # this thread may be one that a pool needs meanwhile
                        clock.pause(wait_s)
                else:
                    await clock.sleep(wait_s)
            try:
                return await tries.attempt(next)
            except Exception as raised:
                failure = raised

    def considered(inv: Invocation, failure: Exception, n: int) -> tuple[float, str | None]:
        """How long to wait before the next attempt; or why there is none, in words where it would surprise."""
        if n >= plan.attempts:
            return 0.0, ""
        try:
            if not plan.wants(failure, n):
                return 0.0, ""
            wait_s = float(plan.wait_s(n, failure))
        except Exception:
            logger.exception("the retry policy of %s failed", tool.name)
            wait_s = math.nan
        if not math.isfinite(wait_s):
            return 0.0, "not tried again: the policy could not say how long to wait"
        if inv.ran and not safe and inv.effect_key is None:
            return 0.0, (
                f"not tried again: the body ran, and {tool.name} is neither read-only nor idempotent; declare "
                "Hints(idempotent=True), send an idempotency key, or set Retry(insist=True)"
            )
        wait_s = max(0.0, wait_s, retry_after_s(failure, clock.now()) or 0.0)
        left = left_s(inv, clock.stopwatch())
        if left is not None and wait_s >= left:
            return 0.0, f"not tried again: the next attempt would begin in {wait_s:.3g} s, past the deadline"
        if wait_s > LONGEST_WAIT_S:
            return 0.0, f"not tried again: the next attempt would begin in {wait_s:.3g} s, which nobody waits for"
        if not budget.spend():
            return 0.0, f"not tried again: the retry budget of {dependency!r} is spent; it grows with calls"
        return wait_s, None

    return steps(handler)


def _theirs(tool: ToolDefinition, services: Services, policy: Any, next: Handler) -> Handler:
    """A policy of the author's own awaits attempts as it sees fit, and its author answers for that."""
    name, changeable = tool.name, _changeable(tool)

    async def handler(inv: Invocation) -> Any:
        tries = _Tries(tool, services, inv, _pristine(inv.arguments) if changeable else None)

        async def attempt() -> Any:
            return await tries.attempt(next)

        try:
            return await policy.execute_with_retry(attempt, name)
        except Exception as raised:
            if inv.explain is not None:
                inv.note("retry", "gave up", attempts=tries.n, by=type(policy).__name__)
            if raised is not tries.real and not tries.unknown:
                raise
            failure = raised
        final = tries.told(failure, "")
        raise final from final.__cause__

    return handler


__all__ = ["Budget", "retry"]
