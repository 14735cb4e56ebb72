"""Compiles a tool: its runner wrapped in the stages it needs, once, in one order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from toolpost.calls.definition import ToolDefinition
from toolpost.pipeline.authorize import authorize
from toolpost.pipeline.cache import cache
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.limit import limit
from toolpost.pipeline.screen import screen
from toolpost.pipeline.services import Services
from toolpost.pipeline.settle import settle
from toolpost.pipeline.timeout import timeout
from toolpost.pipeline.trace import trace
from toolpost.pipeline.validate import validate
from toolpost.runners import runner_for

Handler = Callable[[Invocation], Awaitable[Any]]
Stage = Callable[[ToolDefinition, Services, Handler], Handler]

ORDER: tuple[Stage, ...] = (settle, trace, validate, screen, authorize, limit, cache, timeout)
"""Outermost first. settle sees every outcome; nobody unauthorised meets the cache; a hit still spends a token."""


def compile(tool: ToolDefinition, services: Services, order: tuple[Stage, ...] = ORDER) -> Handler:
    """The handler of a tool. A stage with nothing to do for it returns the next one and so is not in the chain."""
    handler: Handler = runner_for(tool, services.resources)
    for stage in reversed(order):
        handler = stage(tool, services, handler)
    return handler


def with_stages(after: Stage, *extra: Stage) -> tuple[Stage, ...]:
    """ORDER with further stages behind one of its own. They can only stand between validate and timeout."""
    place = ORDER.index(after) + 1
    if not ORDER.index(validate) < place <= ORDER.index(timeout):
        raise ValueError("a stage can be added only between validate and timeout")
    return (*ORDER[:place], *extra, *ORDER[place:])
