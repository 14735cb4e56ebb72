"""Cedar: policies in a language of their own, decided in this process by the package cedarpy.

A request is User::"<user_id>" (Anonymous::"caller" for nobody), Action::"call", Tool::"<name>". The user has the
attributes tenant, scopes and roles and is in Role::"<role>" and Tenant::"<tenant>"; the tool has version, tags and
permissions; context.arguments are the arguments.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from toolpost.calls.access import Decision
from toolpost.calls.call import Caller
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import ConfigurationError
from toolpost.security.conditions import plain

ACTION: Final = {"type": "Action", "id": "call"}


class CedarEngine:
    """A PolicyEngine over Cedar policies, which are parsed once.

    entities are further ones as Cedar's JSON has them, such as roles within roles; users and tools are added for each
    call. As in Cedar, what no policy permits is denied, and a forbid goes before every permit. A policy that cannot be
    evaluated (a comparison of a text with a number, a missing attribute) refuses the call, though Cedar itself would
    skip it. Raises ConfigurationError for policies that are none.
    """

    name = "cedar"

    def __init__(self, policies: str, *, entities: str | list[Any] = "[]") -> None:
        try:
            import cedarpy
        except ModuleNotFoundError as missing:
            raise ConfigurationError(
                f"Cedar policies need the package {missing.name}; install toolpost[cedar]"
            ) from missing
        self._cedar = cedarpy
        try:
            self._policies = cedarpy.PolicySet.from_str(policies)
            text = entities if isinstance(entities, str) else json.dumps(entities)
            self._entities = cedarpy.Entities.from_json_str(text)
        except ValueError as wrong:
            raise ConfigurationError(f"these are no Cedar policies or entities: {wrong}") from wrong

    def decide(self, tool: ToolDefinition, caller: Caller, arguments: Mapping[str, Any], /) -> Decision:
        """What the policies say. Raises ValueError where one could not be evaluated."""
        request = {**_request(tool, caller), "context": {"arguments": _record(plain(arguments))}}
        answer = self._cedar.is_authorized(request, self._policies, self._with(tool, caller))
        self._check(answer.diagnostics.errors, answer.decision)
        return Decision(answer.allowed, self._rule(answer), "")

    def may_list(self, tool: ToolDefinition, caller: Caller, /) -> bool:
        """Whether some arguments might be permitted: what is denied whatever they are is not shown."""
        request = {part: _spelled(uid) for part, uid in _request(tool, caller).items()}
        answer = self._cedar.is_authorized_partial(request, self._policies, self._with(tool, caller))
        if answer.diagnostics.errors:
            raise ValueError("; ".join(answer.diagnostics.errors))
        return bool(answer.decision != self._cedar.Decision.Deny)

    def _check(self, errors: list[str], decision: Any) -> None:
        if errors or decision not in (self._cedar.Decision.Allow, self._cedar.Decision.Deny):
            raise ValueError("; ".join(errors) or "Cedar came to no decision")

    def _rule(self, answer: Any) -> str:
        """The policies that decided, by their @id where they have one."""
        named = answer.diagnostics.id_annotations_by_reason
        return ", ".join(f"cedar:{named.get(one) or one}" for one in sorted(answer.diagnostics.reasons)) or "cedar"

    def _with(self, tool: ToolDefinition, caller: Caller) -> Any:
        parents = [{"type": "Role", "id": role} for role in sorted(caller.roles)]
        user: dict[str, Any] = {"scopes": sorted(caller.scopes), "roles": sorted(caller.roles)}
        if caller.tenant is not None:
            parents.append({"type": "Tenant", "id": caller.tenant})
            user["tenant"] = caller.tenant
        about = {"version": tool.version, "tags": list(tool.tags), "permissions": list(tool.permissions)}
        added = [
            {"uid": _principal(caller), "attrs": user, "parents": parents},
            {"uid": {"type": "Tool", "id": tool.name}, "attrs": about, "parents": []},
        ]
        return self._entities.with_added_json_str(json.dumps(added))


def from_settings(config: Any) -> CedarEngine:
    """The engine over the file that the setting authorizer_policies names."""
    path: Path | None = config.authorizer_policies
    if path is None:
        raise ConfigurationError(
            "authorizer is 'cedar', but no policies are named; set authorizer_policies to their file"
        )
    try:
        return CedarEngine(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as failed:
        raise ConfigurationError(f"authorizer_policies: {path} cannot be read: {failed}") from failed


def _request(tool: ToolDefinition, caller: Caller) -> dict[str, Any]:
    return {"principal": _principal(caller), "action": ACTION, "resource": {"type": "Tool", "id": tool.name}}


def _principal(caller: Caller) -> dict[str, str]:
    if not caller.user_id:
        return {"type": "Anonymous", "id": "caller"}
    return {"type": "User", "id": caller.user_id}


_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}


def _spelled(uid: Mapping[str, str]) -> str:
    """An entity's id as Cedar writes it, in the one spelling that its parser takes."""
    spelled = [_ESCAPES.get(c) or (c if c.isprintable() else f"\\u{{{ord(c):x}}}") for c in uid["id"]]
    return f'{uid["type"]}::"{"".join(spelled)}"'


def _record(value: Any) -> Any:
    """An argument as Cedar takes it. Raises ValueError for what Cedar has no value for.

    null is left out of objects (`has` tells); numbers that are not whole are Cedar's decimals, with four places.
    """
    if isinstance(value, dict):
        for name in value:
            if name.startswith("__"):  # Cedar would read it as an entity or an extension's value
                raise ValueError(f"an argument has the name {name[:40]!r}, which Cedar has for itself")
        return {name: _record(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_record(one) for one in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    number = float(value)
    if number.is_integer() and math.fabs(number) < 2**63:
        return int(number)
    text = f"{number:.4f}"
    if float(text) != number:
        raise ValueError(f"{number!r} has more than four decimal places, for which Cedar has no value")
    return {"__extn": {"fn": "decimal", "arg": text}}


__all__ = ["CedarEngine", "from_settings"]
