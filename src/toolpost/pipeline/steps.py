"""steps: a body's first step is taken where its stages stand, so that one which never suspends costs them no coroutine.

A stage that does something after the body asks `stepped(next)`: what comes back is then either the invocation, with the
value in it, or the rest of a body that has suspended, to be awaited. Only then does the stage need a coroutine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolpost.calls.resumed import resumed
from toolpost.pipeline.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

MARK = "_toolpost_steps"
"""Marks a handler that gives the invocation for every value that was there without suspending."""


def stepped(next: Handler) -> Handler:
    """next with its first step taken at once; next itself where it is so already."""
    if getattr(next, MARK, False):
        return next

    def handler(inv: Invocation) -> Awaitable[Any]:
        work = next(inv)
        if work is inv:
            return inv
        coro: Any = work
        try:
            parked = coro.send(None)
        except StopIteration as done:
            inv.value = done.value
            return inv
        except GeneratorExit as raised:
            raise RuntimeError("the body raised GeneratorExit") from raised
        rest: Awaitable[Any] = resumed(coro, parked)
        return rest

    return steps(handler)


def steps(handler: Handler) -> Handler:
    """Mark a handler as one that never gives a coroutine for a value that was there at once."""
    handler.__dict__[MARK] = True
    return handler


__all__ = ["stepped", "steps"]
