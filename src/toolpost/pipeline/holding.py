"""Holding: a place, or a resource for itself alone, held while a body runs; also for Concurrency and Exclusive."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import FunctionBody, ToolDefinition
from toolpost.calls.errors import (
    ConcurrencyLimitError,
    ConfigurationError,
    PermissionDeniedError,
    Rejected,
    StoreUnavailableError,
)
from toolpost.calls.policies import Concurrency, Exclusive, KeyOf, given
from toolpost.pipeline.answers import ASIDE_S, answered
from toolpost.pipeline.cache_keys import digest_of
from toolpost.pipeline.deadline import timed_out
from toolpost.pipeline.flights import left_s
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.leases import Lease, Leases
from toolpost.pipeline.places import Pace, Place, Places
from toolpost.pipeline.services import Services
from toolpost.pipeline.steps import stepped, steps
from toolpost.pipeline.tags import text_of
from toolpost.runners.bodies import Bodies
from toolpost.runners.threads import lending

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

logger = logging.getLogger("toolpost")
FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.5
"""Between two looks at what another process, or somebody outside the engine, holds; doubling."""

Parts = tuple[str | None, ...]
PartsOf = Callable[[Invocation], Parts | None]


def key_by(by: str, tool: ToolDefinition) -> PartsOf:
    """The parts of a key by who calls, or which tool."""
    if by == "user":
        return lambda inv: (inv.caller.tenant, inv.caller.user_id)
    if by == "tenant":
        return lambda inv: (inv.caller.tenant,)
    fixed = (tool.name,) if by == "tool" else ()
    return lambda inv: fixed


def keyed(by: KeyOf, tool: ToolDefinition, what: str) -> PartsOf:
    """The parts of a key that a callable names. One that breaks, or names no text, refuses the call."""

    def parts(inv: Invocation) -> Parts | None:
        try:
            key = by(inv.caller, inv.kwargs)
            if key is not None and not isinstance(key, str):
                raise TypeError(f"a key is text or None, got {type(key).__name__}")
        except Rejected:
            raise
        except Exception as error:
            logger.exception("%s of %s failed", what, tool.name)
            raise PermissionDeniedError(
                f"{what} failed ({type(error).__name__}), so the call is refused", details={"limit": "failed"}
            ) from error
        return None if key is None else (key,)

    return parts


class Gate:
    """One kind of place: who may have how many, how long to wait, and what it is called in refusals."""

    def __init__(
        self,
        services: Services,
        *,
        what: str,
        limit: int,
        wait_s: float | None,
        lease_s: float,
        when_down: str,
        scope: Parts,
        locked: bool = False,
    ) -> None:
        self.services, self.clock, self.what = services, services.clock, what
        self.limit, self.wait_s, self.lease_s, self.when_down = limit, wait_s, lease_s, when_down
        self.scope, self.pace = scope, Pace()
        self.places = services.the("places", Places)
        self.state = None if services.state.local else services.state
        self.leases = services.the("renewals", lambda: Leases(services.clock, services.owner))
        self.lock_of = services.lock_of if locked else None

    def left(self, inv: Invocation, since: float) -> float | None:
        """Seconds that this call may go on waiting: by the policy and by its deadline, whichever ends first."""
        now = self.clock.stopwatch()
        by_deadline = left_s(inv, now)
        if self.wait_s is None:
            return by_deadline
        by_policy = max(0.0, self.wait_s - (now - since))
        return by_policy if by_deadline is None else min(by_policy, by_deadline)

    def refuse(self, inv: Invocation, ahead: int) -> Exception:
        """The error of a call that waited for as long as it may."""
        left = left_s(inv, self.clock.stopwatch())
        if left is not None and left <= 0 and self.wait_s != 0:
            return timed_out(inv.limit_s or 0.0, inv)
        after_s = self.pace.guess_s(ahead, self.limit)
        return ConcurrencyLimitError(f"{self.what}; retry in about {after_s:.1f} s", retry_after_s=after_s)


class Holder:
    """What one call holds of one gate."""

    __slots__ = ("gate", "lease", "lock", "place", "since", "started")

    def __init__(self, gate: Gate, place: Place, started: float) -> None:
        self.gate, self.place, self.started, self.since = gate, place, started, started
        self.lease: Lease | None = None
        self.lock: threading.Lock | None = None

    def let_go(self) -> None:
        """Give everything back, last taken first."""
        lock, self.lock = self.lock, None
        if lock is not None:
            lock.release()
        lease, self.lease = self.lease, None
        if lease is not None:
            self.gate.leases.let_go(lease)
        if self.place.had:
            self.gate.pace.held(self.gate.clock.stopwatch() - self.since)
        self.place.leave()


async def _take(holder: Holder, key: tuple[Any, ...], resource: str | None, inv: Invocation) -> None:
    """Take the place here, then in the shared store, then the executor's lock; waits in that order."""
    gate = holder.gate
    if not holder.place.had:
        await _in_line(holder, inv)
    if gate.state is not None:
        await _lease(holder, key, inv)
    if resource is not None and gate.lock_of is not None:
        await _lock(holder, gate.lock_of(resource), inv)
    holder.since = gate.clock.stopwatch()


async def _in_line(holder: Holder, inv: Invocation) -> None:
    gate, place = holder.gate, holder.place
    ahead = gate.places.ahead(place.key)
    timeout_s = gate.left(inv, holder.started)
    if timeout_s is not None and timeout_s <= 0:
        raise gate.refuse(inv, ahead)
    if inv.explain is not None:
        inv.note("limit", "waits", ahead=ahead)
    if not inv.blocking:
        had = await place.wait(gate.clock, timeout_s)
    elif asyncio._get_running_loop() is not None:
        raise gate.refuse(inv, ahead)  # who has the place may need the loop that waiting here would block
    else:
        with lending():
            had = place.wait_blocking(gate.clock, timeout_s)
    if not had:
        raise gate.refuse(inv, ahead)


async def _lease(holder: Holder, key: tuple[Any, ...], inv: Invocation) -> None:
    gate = holder.gate
    assert gate.state is not None
    holder.lease = lease = gate.leases.lease(gate.state, f"place:{digest_of(*key)[:40]}", gate.limit, gate.lease_s)
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            wait_s = await answered(lease.ask(), inv, gate.clock, ASIDE_S if gate.when_down == "allow" else None)
        except StoreUnavailableError:
            if gate.when_down == "refuse":
                raise
            if inv.explain is not None:
                inv.note("limit", "allowed", why="the store is out of reach")
            return
        if wait_s <= 0:
            gate.leases.hold(lease)
            return
        pause_s = await _pause(gate, holder, inv, pause_s, wait_s)


async def _lock(holder: Holder, lock: threading.Lock, inv: Invocation) -> None:
    gate = holder.gate
    pause_s = FIRST_PAUSE_S
    while not lock.acquire(blocking=False):
        if inv.blocking and asyncio._get_running_loop() is None:
            with lending():
                if not gate.clock.acquire(lock, gate.left(inv, holder.started)):
                    raise gate.refuse(inv, 0)
            break
        pause_s = await _pause(gate, holder, inv, pause_s, None)
    holder.lock = lock


async def _pause(gate: Gate, holder: Holder, inv: Invocation, pause_s: float, free_in_s: float | None) -> float:
    """Wait before the next look; how long to wait before the one after that."""
    left = gate.left(inv, holder.started)
    if (left is not None and left <= 0) or (inv.blocking and asyncio._get_running_loop() is not None):
        raise gate.refuse(inv, 0)
    now_s = min(pause_s if left is None else min(pause_s, left), free_in_s if free_in_s else pause_s)
    if inv.blocking:
        with lending():
            gate.clock.pause(now_s)
    else:
        await gate.clock.sleep(now_s)
    return min(LONGEST_PAUSE_S, pause_s * 2)


def _held(tool: ToolDefinition, gate: Gate, parts: PartsOf, next: Handler, always: Parts | None = None) -> Handler:
    """Run next while holding a place of the gate, for the key that parts names; always: where it names no other.

    A body that was given up in its thread keeps its place until it has really ended.
    """
    outlives = isinstance(tool.body, FunctionBody) and not tool.body.is_async
    enter, limit, scope, stopwatch = gate.places.enter, gate.limit, gate.scope, gate.clock.stopwatch
    simple = gate.state is None and gate.lock_of is None
    quick = simple and not outlives
    free, leave, held = gate.places.enter_free, gate.places.leave_free, gate.pace.held
    next = stepped(next)

    def handler(inv: Invocation) -> Awaitable[Any]:
        own = parts(inv)
        if own is None:
            return next(inv)
        key = (*scope, *own)
        taken = free(key, limit) if quick else 0
        if not taken:
            return slowly(inv, own, key)
        return inside(inv, taken, lambda: leave(key))

    def inside(inv: Invocation, taken: int, leave: Callable[[], None]) -> Awaitable[Any]:
        if inv.explain is not None:
            inv.note("limit", "holds", what=scope[0])
        since = stopwatch() if taken + taken > limit else None  # nobody is told of the pace before it is crowded
        try:
            work = next(inv)
        except BaseException:
            leave()
            raise
        if work is not inv:
            return watched(work, leave, since)
        if since is not None:
            held(stopwatch() - since)
        leave()
        return inv

    async def watched(work: Awaitable[Any], leave: Callable[[], None], since: float | None) -> Any:
        try:
            return await work
        finally:
            if since is not None:
                held(stopwatch() - since)
            leave()

    async def slowly(inv: Invocation, own: Parts, key: tuple[Any, ...]) -> Any:
        holder = Holder(gate, enter(key, limit), stopwatch())
        bodies = None
        try:
            if not (simple and holder.place.had):
                await _take(holder, key, own[0] if own else None, inv)
            if inv.explain is not None:
                inv.note("limit", "holds", what=scope[0])
            if outlives:
                bodies = inv.bodies = inv.bodies or Bodies()
            return await next(inv)
        finally:
            if bodies is None:
                holder.let_go()
            else:
                bodies.afterwards(holder.let_go)

    if not quick or always is None:
        return steps(handler)
    only = (*scope, *always)
    come, go = gate.places.swift(only, limit)

    def swiftly(inv: Invocation) -> Awaitable[Any]:
        taken = come()
        return inside(inv, taken, go) if taken else slowly(inv, always, only)

    return steps(swiftly)


def with_all_places(tool: ToolDefinition, services: Services, next: Handler, *, patient: bool = False) -> Handler:
    """Run next while holding all places that the tool's policies ask for, and its resource last.

    patient waits for them until the deadline, whatever the policies say.
    """
    policies = tool.policies.over(services.defaults)
    exclusive = given(policies.exclusive)
    if exclusive is not None:
        exclusive = replace(exclusive, wait_s=None) if patient else exclusive
        next = exclusively(tool, services, exclusive, next)
    several: Any = given(policies.concurrency) or ()
    places: list[Concurrency] = list(several) if isinstance(several, (tuple, list)) else [several]
    return with_places(tool, services, [replace(p, wait_s=None) for p in places] if patient else places, next)


def with_places(tool: ToolDefinition, services: Services, policies: Sequence[Concurrency], next: Handler) -> Handler:
    """At most as many calls at the same time as each policy says.

    Places are taken in one order whatever the order of the policies, so that no two calls wait for each other.
    """
    for index, policy in sorted(enumerate(policies), key=lambda numbered: _rank(numbered[1]), reverse=True):
        next = _within_places(tool, services, policy, index, next)
    return next


def _rank(policy: Concurrency) -> tuple[int, str, float]:
    """Where a place stands in the one order: also among those that several tools share, which have names or numbers."""
    if not isinstance(policy.by, str):
        return 5, "", 0
    kind = ("tool", "user", "tenant", "upstream", "global").index(policy.by)
    return kind, policy.upstream or "", policy.calls if policy.by == "global" else 0


def _within_places(tool: ToolDefinition, services: Services, policy: Concurrency, index: int, next: Handler) -> Handler:
    by, always = policy.by, None
    if callable(by):
        scope, whose, parts = "key", "its key", keyed(by, tool, "the concurrency limit's key")
    else:
        scope, parts = by, key_by(by, tool)
        always = {"tool": (tool.name,), "upstream": (), "global": ()}.get(by)
        whose = {
            "tool": f"tool {tool.name!r}",
            "user": "its user",
            "tenant": "its tenant",
            "upstream": f"upstream {policy.upstream!r}",
            "global": "all callers",
        }[by]
    named = {"upstream": policy.upstream, "global": str(policy.calls)}.get(scope, f"{tool.name}:{index}")
    calls = f"{policy.calls} call{'s' if policy.calls != 1 else ''}"
    gate = Gate(
        services,
        what=f"Concurrency limit reached: {calls} at the same time for {whose}",
        limit=policy.calls,
        wait_s=policy.wait_s,
        lease_s=policy.lease_s,
        when_down=policy.when_down,
        scope=(scope, named),
    )
    return _held(tool, gate, parts, next, always)


def exclusively(tool: ToolDefinition, services: Services, policy: Exclusive, next: Handler) -> Handler:
    """One call for each resource. Raises ConfigurationError where by names no parameter of the tool."""
    by = policy.by
    if callable(by):
        parts = keyed(by, tool, "the resource's name")
    else:
        known = tool.parameters.get("properties", {})
        if by not in known:
            there = ", ".join(known) or "none"
            raise ConfigurationError(f"{tool.name}: Exclusive names no parameter with by={by!r}; there are {there}")

        def parts(inv: Invocation) -> Parts | None:
            value = inv.kwargs.get(by)
            return None if value is None else (text_of(value),)

    gate = Gate(
        services,
        what=f"{tool.name}: another call holds the resource",
        limit=1,
        wait_s=policy.wait_s,
        lease_s=policy.lease_s,
        when_down=policy.when_down,
        scope=("exclusive",),
        locked=True,
    )
    return _held(tool, gate, parts, next)
