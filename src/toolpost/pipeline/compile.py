"""Compiles a tool: its runner wrapped in the stages it needs, once, in one order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from toolpost.calls.definition import ToolDefinition
from toolpost.pipeline.approve import approve
from toolpost.pipeline.audit import audit
from toolpost.pipeline.authorize import authorize
from toolpost.pipeline.breaker import breaker
from toolpost.pipeline.cache import cache
from toolpost.pipeline.explain import explained
from toolpost.pipeline.grant import grant
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.limit import limit
from toolpost.pipeline.once import once
from toolpost.pipeline.retry import retry
from toolpost.pipeline.reveal import reveal
from toolpost.pipeline.screen import screen
from toolpost.pipeline.services import Services
from toolpost.pipeline.settle import settle
from toolpost.pipeline.spend import spend
from toolpost.pipeline.timeout import timeout
from toolpost.pipeline.trace import trace
from toolpost.pipeline.validate import validate
from toolpost.runners import runner_for

Handler = Callable[[Invocation], Awaitable[Any]]
Stage = Callable[[ToolDefinition, Services, Handler], Handler]

ORDER: tuple[Stage, ...] = (
    settle,
    trace,
    audit,
    validate,
    screen,
    authorize,
    grant,
    approve,
    limit,
    once,
    cache,
    spend,
    breaker,
    retry,
    timeout,
    reveal,
)
"""Outermost first. settle sees every outcome, and audit tells of every call, also of refused ones; nobody is asked to
approve what may not be called; nobody unauthorised is given a stored result; a replay or a hit still spends a token; a
grant is spent by what runs, not by what is replayed; a breaker counts what retries could not mend; each attempt has the
limit of one attempt; reveal is innermost, so that no other stage, and no store, sees a secret."""


def compile(
    tool: ToolDefinition, services: Services, order: tuple[Stage, ...] = ORDER, *, explain: bool = False
) -> Handler:
    """The handler of a tool. A stage with nothing to do for it returns the next one and so is not in the chain.

    explain makes the chain that tells what each stage decided; it shares all state with the plain one.
    """
    handler: Handler = runner_for(tool, services.resources)
    if explain:
        return explained(tool, services, order, handler)
    for stage in reversed(order):
        handler = stage(tool, services, handler)
    return handler


def with_stages(after: Stage, *extra: Stage) -> tuple[Stage, ...]:
    """ORDER with further stages behind one of its own. They can only stand between validate and timeout."""
    place = ORDER.index(after) + 1
    if not ORDER.index(validate) < place <= ORDER.index(timeout):
        raise ValueError("a stage can be added only between validate and timeout")
    return (*ORDER[:place], *extra, *ORDER[place:])
