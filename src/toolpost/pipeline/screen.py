"""screen: text arguments are judged by the role of their parameter."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import SecurityError
from toolpost.calls.policies import Screening, given
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.security.rules import Level, Role, Screen, role_of
from toolpost.security.schema_roles import NO_TEXT, Fields, judge_of, said

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

HIDDEN = "(an undeclared name)"
"""Stands for the name of an argument that is refused for it: what is refused is not repeated."""


def screen(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Refuse a value that a rule of its parameter's role finds hostile. A rule that breaks refuses, too."""
    policy = given(tool.policies.over(services.defaults).screening) or Screening()
    if not services.screening or (tool.policies.screening is None):
        return next
    level = cast("Level", policy.level or services.security_level)
    egress = given(tool.policies.over(services.defaults).egress)
    private = (*services.private, *(egress.private if egress is not None else ()))
    screens = screens_of(tool.parameters, policy, level, services.rules, private)
    extras = None
    if tool.parameters.get("additionalProperties", True) is not False or "patternProperties" in tool.parameters:
        extras = Screen("text", level, untrusted=policy.untrusted, extra=services.rules)
        extras = None if extras.empty else extras
    if not screens and extras is None:
        return next

    def declared_only(inv: Invocation) -> Awaitable[Any]:
        arguments = inv.arguments
        for name, check in checks:
            value = arguments.get(name)
            if value is not None:
                if value.__class__ is not str and isinstance(value, (set, frozenset, deque)):
                    value = list(value)
                finding = check(value)
                if finding is not None:
                    raise refusal(name, finding)
        return next(inv)

    if extras is None:
        checks = tuple((name, judge.check) for name, judge in screens.items())
        return declared_only

    def handler(inv: Invocation) -> Awaitable[Any]:
        arguments = inv.arguments
        for name, value in arguments.items():
            if isinstance(value, (set, frozenset, deque)):
                value = list(value)
            judge = screens.get(name)
            if judge is not None:
                finding = judge.check(value)
            elif name not in declared:
                finding = extras.check(name)
                if finding is not None:
                    raise refusal(HIDDEN, finding)
                finding = extras.check(value)
            else:
                continue
            if finding is not None:
                raise refusal(name, finding)
        return next(inv)

    declared = frozenset(tool.parameters.get("properties", {}))
    return handler


def screens_of(
    parameters: Mapping[str, Any],
    policy: Screening,
    level: Level,
    rules: tuple[Any, ...] = (),
    private: tuple[str, ...] = (),
) -> dict[str, Screen | Fields]:
    """Parameter name -> what judges it; parameters that can hold no text are left out."""

    def made(role: Role) -> Screen:
        return Screen(role, level, untrusted=policy.untrusted, extra=rules, private=private)

    found: dict[str, Screen | Fields] = {}
    for name, part in parameters.get("properties", {}).items():
        schema: Mapping[str, Any] = part if isinstance(part, Mapping) else {}
        kinds = schema.get("type")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if kinds and set(kinds) <= NO_TEXT:
            continue
        if ("enum" in schema or "const" in schema) and name not in policy.roles:
            continue
        declared = policy.roles.get(name, said(schema, parameters, "x-role"))
        judge = made(role_of(name, format=said(schema, parameters, "format"), declared=declared))
        within = judge if declared is not None else judge_of(schema, parameters, judge, made)
        if within is not judge or not judge.empty:
            found[name] = within
    return found


def refusal(name: str, finding: Any) -> SecurityError:
    """The error for a finding: names the parameter and the rule, never the value."""
    return SecurityError(
        f"Input parameter '{name}' contains potentially malicious content: {finding.why} (rule {finding.rule})",
        details={"parameter": name, "rule": finding.rule, "role": finding.role, "kind": finding.kind},
    )
