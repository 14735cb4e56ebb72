"""answered: what a store says, for a call that awaits or blocks, within the call's deadline."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from toolpost.calls.clock import Clock
from toolpost.calls.errors import StoreUnavailableError
from toolpost.pipeline.deadline import timed_out
from toolpost.pipeline.flights import left_s
from toolpost.pipeline.invocation import Invocation
from toolpost.runners.threads import lending
from toolpost.stores.pending import Answer, Pending

T = TypeVar("T")
ASIDE_S = 1.0
"""How long a call waits for a store without which it may go on: one that accepts and says nothing is down, too."""


async def answered(answer: Answer[T], inv: Invocation, clock: Clock, patience_s: float | None = None) -> T:
    """The value of an answer. A blocking call waits in its thread, others await; the call's deadline holds for both.

    Raises StoreUnavailableError when the store cannot be reached, or says nothing for patience_s.
    """
    if not isinstance(answer, Pending):
        return answer
    try:
        if answer.done:
            return answer.result()
        if not inv.blocking:
            return await within(answer, patience_s)
        return _blocking(answer, inv, clock, patience_s)  # type: ignore[no-any-return]
    except StoreUnavailableError as error:  # one object may have come to many calls
        raise StoreUnavailableError(error.message) from error.__cause__


def _blocking(answer: Pending[T], inv: Invocation, clock: Clock, patience_s: float | None) -> T:
    left = left_s(inv, clock.stopwatch())
    patient = left is None or (patience_s is not None and patience_s < left)
    try:
        with lending():  # this thread may be one that a pool needs meanwhile
            return answer.wait(clock, patience_s if patient else left)
    except StoreUnavailableError:
        if patient or answer.done:
            raise
        raise timed_out(inv.limit_s or 0.0, inv) from None


async def within(answer: Pending[T], patience_s: float | None) -> T:
    """The value of an answer that comes within patience_s. Raises StoreUnavailableError when it does not."""
    if patience_s is None:
        return await answer
    try:
        async with asyncio.timeout(patience_s):
            return await answer
    except TimeoutError:
        raise StoreUnavailableError(f"the store gave no answer within {patience_s:g} s") from None
