"""The tools of the fault suite: each leaves a line for the observer and waits while the gate of its process is shut."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from typing import Any

from tests.faults.effects import Effects
from toolpost import (
    Breaker,
    Cache,
    Concurrency,
    Exclusive,
    Hints,
    Idempotency,
    RateLimit,
    Tool,
    ToolContext,
    ToolError,
)

LOOK_S = 0.005
"""How often a body looks at its gate."""

POLICIES: Mapping[str, Any] = {
    "idempotency": Idempotency,
    "rate_limit": RateLimit,
    "concurrency": Concurrency,
    "exclusive": Exclusive,
    "cache": Cache,
    "breaker": Breaker,
}


def tool_of(
    effects: Effects,
    process: str,
    *,
    name: str = "Pay.Charge",
    manner: str = "async",
    lasts_s: float = 0.0,
    only: str | None = None,
    hints: Any = None,
    **said: Any,
) -> Any:
    """A tool that charges for an order.

    said maps policies to their fields. manner is how the body waits: async (in its task), blocking (in a thread), or
    stubborn (it blocks the loop that it runs in, as no async body should). lasts_s is how long its work takes besides.
    only names the one order that the gate is for; without it, it is for all.
    """
    gate = effects.gate(process)

    def waits(order: str) -> bool:
        return only in (None, order) and gate.exists()

    def begin(order: str, key: str | None) -> dict[str, Any]:
        token = uuid.uuid4().hex
        effects.note("begin", tool=name, order=order, process=process, token=token, key=key)
        if order.startswith("broken"):
            raise ToolError("the shop is broken", code="BROKEN")
        return {"order": order, "token": token, "process": process}

    def end(receipt: dict[str, Any]) -> dict[str, Any]:
        effects.note("end", tool=name, **receipt)
        return receipt

    async def charge(order: str, ctx: ToolContext) -> dict[str, Any]:
        receipt = begin(order, ctx.idempotency_key)
        await asyncio.sleep(lasts_s)
        while waits(order):
            await asyncio.sleep(LOOK_S)
        return end(receipt)

    async def stubborn(order: str, ctx: ToolContext) -> dict[str, Any]:
        receipt = begin(order, ctx.idempotency_key)
        time.sleep(lasts_s)  # noqa: ASYNC251
        while waits(order):
            time.sleep(LOOK_S)  # noqa: ASYNC251
        return end(receipt)

    def blocking(order: str, ctx: ToolContext) -> dict[str, Any]:
        receipt = begin(order, ctx.idempotency_key)
        time.sleep(lasts_s)
        while waits(order):
            time.sleep(LOOK_S)
        return end(receipt)

    body = {"async": charge, "stubborn": stubborn, "blocking": blocking}[manner]
    policies = {policy: POLICIES[policy](**fields) for policy, fields in said.items()}
    return Tool(
        name=name,
        register=False,
        timeout_seconds=40,
        hints=Hints(**(hints or {})),
        **policies,
    )(body)
