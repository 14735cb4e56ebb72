"""authorize: may this caller make this call? Whatever breaks while asking refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import AuthorizerFailedError, Rejected
from toolpost.calls.policies import given
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.security.access import Gate
from toolpost.security.engines import Judge

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler


def authorize(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """What the tool asks of its callers (requires_auth, permissions, Access), then the executor's hook and engine."""
    gate, judges = gate_of(tool, services), judges_of(services)
    if gate.open and not judges:
        return next
    known_caller, needed, rules = gate.known_caller, gate.needed, gate.rules

    def refuse(inv: Invocation) -> None:
        objection = gate.objection(inv.caller)
        if objection is not None:
            raise objection

    def by_caller(inv: Invocation) -> Awaitable[Any]:
        if known_caller or not needed <= inv.caller.scopes:
            refuse(inv)
        return next(inv)

    def by_rules(inv: Invocation) -> Awaitable[Any]:
        refuse(inv)
        return next(inv)

    if not judges and (rules is None or not rules.by_arguments):
        return by_caller if rules is None else by_rules

    async def by_arguments(inv: Invocation) -> Any:
        refuse(inv)
        if rules is not None:
            _settle(await rules.verdict(inv.caller, inv.kwargs, inv.blocking), inv)
        for judge in judges:
            _settle(await judge.refusal(tool, inv.caller, inv.kwargs, inv.blocking), inv)
        return await next(inv)

    return by_arguments


def gate_of(tool: ToolDefinition, services: Services) -> Gate:
    """What a tool asks of its callers, for calls and for lists of tools alike."""
    return Gate(tool, given(tool.policies.over(services.defaults).access))


def judges_of(services: Services) -> list[Judge]:
    """Who is asked about each call: the hook or engine it was given, and the one that settings name."""
    return [Judge(one) for one in (services.authorizer, services.policy_engine) if one is not None]


def _settle(found: Rejected | str, inv: Invocation) -> None:
    """Raise a refusal, or note by which rule the call may be made."""
    if isinstance(found, str):
        inv.note("authorize", f"allowed by {found}", rule=found)
        return
    decision = "could not be decided" if isinstance(found, AuthorizerFailedError) else "refused"
    rule = found.details.get("rule")
    inv.note("authorize", f"{decision} by {rule}" if rule else decision, rule=rule)
    raise found
