"""reveal: innermost, around the body that secrets are resolved for. What it gives or raises shows none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from toolpost.calls.artifacts import without_secrets
from toolpost.calls.definition import FunctionBody, ToolDefinition
from toolpost.calls.policies import given
from toolpost.calls.redaction import Redactor
from toolpost.calls.references import REFERENCE
from toolpost.pipeline.hiding import hidden
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.pipeline.steps import stepped, steps

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

AT_ONCE: Final = 256 << 10
"""Bytes of artifacts that are looked through in the event loop; more would hold up all other calls."""


def reveal(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Not in the chain where there is nothing to hide: no secret is known, and the tool cannot ask for one.

    A tool can ask that takes a context, whose declaration names secrets, or that sends its caller's token. When the
    first secret becomes known all tools are compiled anew.
    """
    redactor = services.redactor
    if not redactor.active and not _may_ask(tool, services):
        return next
    next = stepped(next)
    if isinstance(tool.body, FunctionBody) and tool.body.context is not None:
        next = _carrying(next, redactor, services.metrics.of(tool).use)

    def handler(inv: Invocation) -> Awaitable[Any]:
        instead: BaseException | None = None
        try:
            work = next(inv)
        except BaseException as raised:
            instead = _shown(raised, inv, redactor)
            if instead is raised:
                raise
        if instead is not None:  # not above, where what it stands for would be its context
            raise instead
        if work is not inv:
            return suspended(work, inv)
        if redactor.active:
            inv.value = _value(inv.value, inv, redactor)
        return inv

    async def suspended(work: Awaitable[Any], inv: Invocation) -> Any:
        instead: BaseException | None = None
        try:
            value = await work
        except BaseException as raised:
            instead = _shown(raised, inv, redactor)
            if instead is raised:
                raise
        if instead is not None:
            raise instead
        return _value(value, inv, redactor) if redactor.active else value

    return steps(handler)


def _carrying(next: Handler, redactor: Redactor, count: Callable[[Mapping[str, Any]], None]) -> Handler:
    """Take over what an attempt gave beside its value: artifacts without secrets, and what it used."""

    def handler(inv: Invocation) -> Awaitable[Any]:
        try:
            work = next(inv)
        except BaseException:
            carry(inv)
            raise
        if work is not inv:
            return suspended(work, inv)
        carry(inv)
        return inv

    async def suspended(work: Awaitable[Any], inv: Invocation) -> Any:
        try:
            return await work
        finally:
            given = None if inv.context is None else inv.context._artifacts
            if redactor.active and given and sum(map(len, given.values())) > AT_ONCE:
                carry(inv, await asyncio.to_thread(without_secrets, given, redactor))
            else:
                carry(inv)

    def carry(inv: Invocation, looked: tuple[dict[str, bytes], list[str]] | None = None) -> None:
        context = inv.context
        if context is None:
            return
        inv.artifacts = None
        if context._artifacts:
            inv.artifacts, withheld = looked or without_secrets(context._artifacts, redactor)
            if withheld:
                inv.note("reveal", "withheld artifacts that show secrets")
                said = f"artifacts left out, because they show a secret: {', '.join(withheld)}"
                inv.warnings = [*(inv.warnings or ()), said]
        if context._used:
            count(context._used)

    return stepped(steps(handler))


def _may_ask(tool: ToolDefinition, services: Services) -> bool:
    body = tool.body
    if given(tool.policies.over(services.defaults).oauth) is not None:
        return True
    if isinstance(body, FunctionBody):
        return body.context is not None
    return any(REFERENCE in str(_plain(value)) for value in _parts(body))


def _parts(body: Any) -> list[Any]:
    """What a declaration consists of."""
    found = [getattr(body, name) for name in type(body).__slots__]
    return [item for value in found for item in (value.values() if hasattr(value, "values") else (value,))]


def _plain(value: Any) -> Any:
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def _value(value: Any, inv: Invocation, redactor: Redactor) -> Any:
    shown = redactor.value(value)
    if shown is not value:
        inv.note("reveal", "hid secrets in the result")
    return shown


def _shown(raised: BaseException, inv: Invocation, redactor: Redactor) -> BaseException:
    """What may be raised in the place of raised, which is most often raised itself."""
    if not redactor.active or isinstance(raised, GeneratorExit):
        return raised
    shown = hidden(raised, redactor, inv.arguments)
    if shown is not raised:
        inv.note("reveal", "withheld what the body raised")
    return shown


__all__ = ["reveal"]
