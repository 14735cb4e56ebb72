"""cache: the result of an earlier equal call, for tools that declare it; what writers change becomes void."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import orjson

from toolpost.calls.call import ANONYMOUS
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.policies import given
from toolpost.pipeline.cache_keys import OPTIONS, SCOPES, arguments_of, has_nan, prefix_of, tagged
from toolpost.pipeline.cache_runs import LEADING, Kept, loose
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.pipeline.shared_cache import shared_cache
from toolpost.pipeline.steps import stepped, steps
from toolpost.pipeline.tags import voids
from toolpost.stores.memory import copied

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler


AHEAD = "look_ahead"
"""The attribute of a handler by which a stage outside may have it ask the shared cache before its turn."""


def cache(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Answer from the cache, else run and keep the value. A ttl that breaks is logged, and the value not kept.

    Equal calls at the same time share one run: its value, or its failure where that is the tool's own. Failures are
    kept only with negative_s.
    """
    next = voids(tool, services, next)
    policy = given(tool.policies.over(services.defaults).cache)
    if policy is None or not services.cache_enabled:
        return next
    kept = Kept(tool, services, policy, next)
    cached = _plain(kept) if kept.plain else _full(kept)
    return cached if getattr(tool.body, "context", None) is None else _unless_answered(cached, kept.next)


def _unless_answered(cached: Handler, next: Handler) -> Handler:
    """A call that brings answers to its body's questions is not equal to any other."""
    cached = stepped(cached)

    def handler(inv: Invocation) -> Awaitable[Any]:
        return cached(inv) if inv.answers is None else next(inv)

    if hasattr(cached, AHEAD):
        handler.__dict__[AHEAD] = getattr(cached, AHEAD)
    return steps(handler)


def _plain(kept: Kept) -> Handler:
    """For entries that are fresh or not there: the least that a hit can cost."""
    store, next, miss = kept.store, kept.next, kept.miss
    find, touch, monotonic = store.entries.get, store.entries.move_to_end, kept.clock.monotonic
    dumps, prefix = orjson.dumps, prefix_of(kept.tool)
    scope_of, by_task, by_user = SCOPES[kept.policy.per], kept.policy.per == "task", kept.policy.per == "user"

    def handler(inv: Invocation) -> Awaitable[Any]:
        # What arguments_of does, without the call.
        try:
            arguments = dumps(inv.arguments, tagged, OPTIONS)
        except (TypeError, ValueError):
            return next(inv)  # no canonical form (not JSON, a number too large), so no key
        if arguments.find(b"null") >= 0 and has_nan(inv.arguments):
            return next(inv)
        if by_task and inv.task_id is None and inv.caller is ANONYMOUS:
            key: Hashable = (prefix, arguments)
        elif by_user:
            caller = inv.caller
            key = (prefix, caller.tenant, caller.user_id, arguments)
        else:
            key = (prefix, scope_of(inv), arguments)
        entry = find(key)
        if entry is None or entry[0] <= monotonic():
            return miss(inv, key) if entry is not None else run(inv, key)
        # What store.get does, without the call: it would be a tenth of a hit.
        try:  # noqa: SIM105
            touch(key)
        except KeyError:
            pass  # another thread evicted it meanwhile
        inv.source = "cache"  # which explains itself: a note would cost each hit the question whether to make one
        inv.value = entry[2] if entry[1] else copied(entry[2])
        return inv

    leading, set_leading = LEADING.get, LEADING.set
    leaders, lean, keep, key_bytes = kept.leads.leaders, kept.lean, kept.keep, kept.prefix_bytes

    def run(inv: Invocation, key: Any) -> Awaitable[Any]:
        """What kept.miss does where nobody makes an equal call; only who suspends pays for a coroutine."""
        clears = store.clears
        air = (key, clears) if clears else key  # who asks after a clear must not be given what was begun before
        if leaders.setdefault(air, inv) is not inv:
            return miss(inv, key)
        if inv.explain is not None:
            inv.note("cache", "miss")
        before = leading()
        set_leading((inv, before))
        begun = None if lean and not inv.encode else kept.begun(clears)
        outcome: Any = None
        try:
            work = next(inv)
            if work is inv:
                if begun is None and clears == store.clears:
                    outcome = keep(key, inv.value, key_bytes + len(key[-1]))
                    if outcome is None and inv.joined is not None:
                        outcome = loose(inv.value)
                else:
                    outcome = kept.kept(inv, key, clears, begun, inv.value)
        except BaseException as raised:
            kept.over(inv, key, air, before, begun or kept.begun(clears), raised)
            raise
        if work is not inv:
            return kept.flown(work, inv, key, air, before, clears, begun)
        leaders.pop(air, None)
        if inv.joined is not None:
            kept.leads.end(air, inv, outcome)
        set_leading(before)
        return inv

    return steps(handler)


def _full(kept: Kept) -> Handler:
    """For entries that may be stale, void, failures, or in a shared store."""
    next, prefix, scope_of = kept.next, prefix_of(kept.tool), SCOPES[kept.policy.per]

    def handler(inv: Invocation) -> Awaitable[Any]:
        arguments = arguments_of(inv)
        if arguments is None:
            if inv.explain is not None:
                inv.note("cache", "skipped", why="the arguments have no canonical form")
            return next(inv)
        key = (prefix, scope_of(inv), arguments)
        entry = kept.found(key)
        if entry is None:
            return kept.miss(inv, key)
        inv.value = kept.give(inv, key, entry)
        return inv

    if kept.shared_key is not None:
        handler.__dict__[AHEAD] = kept.look_ahead
    return steps(handler)


def clear_cache(services: Services, tool: str | None = None) -> int:
    """Forget every kept result, or one tool's, here and in the shared cache; about how many there were.

    Blocks for a moment where there is a shared cache. One that is out of reach is cleared before it is next asked.
    """
    here = services.cache.clear("" if tool is None else f"{tool}@")
    shared = shared_cache(services)
    there = shared.clear(tool) if shared is not None else None
    return here if there is None else max(here, there)
