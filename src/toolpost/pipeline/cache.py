"""cache: the result of an earlier equal call, for tools that declare it."""

from __future__ import annotations

import datetime
import logging
import secrets
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import orjson

from toolpost.calls.call import ANONYMOUS
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.policies import given
from toolpost.pipeline.encode import to_json
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.stores.memory import copied

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

logger = logging.getLogger("toolpost")
OPTIONS = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_TAG = secrets.token_hex(8)


def cache(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Answer from the cache, else run and keep the value. Errors are never kept; a ttl that breaks is logged."""
    policy = given(tool.policies.over(services.defaults).cache)
    if policy is None or not services.cache_enabled:
        return next
    store = services.cache
    find, touch, put, monotonic = store.entries.get, store.entries.move_to_end, store.put, services.clock.monotonic
    dumps, output_check = orjson.dumps, tool.output_check
    prefix = f"{tool.name}@{tool.version}:{tool.digest}:{tool.serial}"
    scope_of, by_task = _SCOPES[policy.per], policy.per == "task"
    ttl = policy.ttl_s
    fixed_ttl_s = services.cache_ttl_s if ttl is None or callable(ttl) else ttl

    def ttl_of(value: Any, inv: Invocation) -> float:
        if not callable(ttl):
            return fixed_ttl_s
        try:
            chosen = ttl(value, inv.kwargs)
            return fixed_ttl_s if chosen is None else float(chosen)
        except Exception:
            logger.exception("ttl of %s failed; the result is not kept", tool.name)
            return 0.0

    async def miss(inv: Invocation, key: Hashable) -> Any:
        value = await next(inv)
        if inv.encode or output_check is not None:
            encoded = to_json(value)  # raises for what is no result: that is never kept
            if output_check is not None and output_check.explain(encoded) is not None:
                return value  # validate, further out, says what is wrong with it
        put(key, value, ttl_of(value, inv))
        return value

    def handler(inv: Invocation) -> Awaitable[Any]:
        try:
            arguments = dumps(inv.arguments, _tagged, OPTIONS)
        except (TypeError, ValueError):
            return next(inv)  # no canonical form (not JSON, a number too large), so no key
        if b"null" in arguments and _has_nan(inv.arguments):
            return next(inv)
        if by_task and inv.task_id is None and inv.caller is ANONYMOUS:
            key: Hashable = (prefix, arguments)
        else:
            key = (prefix, scope_of(inv), arguments)
        entry = find(key)
        if entry is None or entry[0] <= monotonic():
            return miss(inv, key)
        # What store.get does, without the call: it would be a tenth of a hit.
        try:  # noqa: SIM105
            touch(key)
        except KeyError:
            pass  # another thread evicted it meanwhile
        inv.source = "cache"
        inv.value = entry[2] if entry[1] else copied(entry[2])
        return inv

    return handler


def _of_task(inv: Invocation) -> Hashable:
    caller = inv.caller
    return (caller.tenant, caller.user_id, inv.task_id)


_SCOPES: dict[str, Callable[[Invocation], Hashable]] = {
    "task": _of_task,
    "user": lambda inv: (inv.caller.tenant, inv.caller.user_id),
    "tenant": lambda inv: inv.caller.tenant,
    "global": lambda inv: None,
}


def _tagged(value: Any) -> Any:
    """A date or time in a form that no text or list can have: the key must not take one for the other."""
    if isinstance(value, (datetime.date, datetime.time)):
        return {_TAG: [type(value).__name__, value.isoformat()]}
    raise TypeError(f"{type(value).__name__} has no canonical form")


def _has_nan(value: Any) -> bool:
    """Whether a float without JSON form is in it: orjson writes those as null, which must not be taken for None."""
    if isinstance(value, float):
        return value != value or value in (float("inf"), float("-inf"))
    if isinstance(value, dict):
        return any(_has_nan(v) for v in value.values())
    return isinstance(value, (list, tuple)) and any(_has_nan(v) for v in value)
