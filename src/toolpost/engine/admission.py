"""Admission: what doors and queues ask about a call apart from running it: may it be made, shown, run again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from toolpost.calls.call import ToolCall
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import EngineError, InputValidationError, ToolExecutionError
from toolpost.calls.policies import Idempotency, given
from toolpost.calls.redaction import scrub
from toolpost.calls.result import ToolResult
from toolpost.calls.secret_names import hide_named, marked_in, secret_name
from toolpost.engine.entries import Entries, Entry
from toolpost.engine.results import refused
from toolpost.pipeline.authorize import authorize
from toolpost.pipeline.bounds import check_bounds
from toolpost.pipeline.compile import Handler
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.once import claims_of
from toolpost.pipeline.screen import screen
from toolpost.pipeline.services import Services
from toolpost.pipeline.validate import validate
from toolpost.security.shown import MAX_TEXT, shown

CHECKS = (validate, screen, authorize)
"""The stages that can refuse a call for what it is, before anything is taken, asked or run."""


class _Known(NamedTuple):
    """The checks of a tool in one handler, and its policy on keys."""

    check: Handler
    idempotency: Idempotency | None


class Admission:
    """Questions about calls of one executor, under one state of its services."""

    def __init__(
        self,
        entries: Entries,
        services: Services,
        shown_to: Callable[[ToolExecutionError, ToolCall], ToolExecutionError],
    ) -> None:
        self._entries, self._services, self._shown_to = entries, services, shown_to

    async def check(self, call: ToolCall) -> ToolDefinition:
        """The tool of a call that may be made as it is, as far as can be said without running it.

        Raises ToolNotFoundError, InputValidationError, SecurityError, UnauthorizedError, PermissionDeniedError.
        """
        try:
            entry = self._entries.named(call.name, call.version)
        except ToolExecutionError as error:
            raise self._shown_to(error, call) from None
        inv = entry.enter_call(call)
        handler = self._known(entry).check
        try:
            await handler(inv)
        except ToolExecutionError as error:
            if error.tool is None:
                error.tool = entry.definition.name
            raise
        except Exception as error:
            raise EngineError(
                f"a check of this call failed, so it was refused: {type(error).__name__}", tool=entry.definition.name
            ) from error
        return entry.definition

    def refused(self, call: ToolCall, error: ToolExecutionError, elapsed_s: float = 0.0) -> ToolResult:
        """The result of a call that a door refused before it was made: counted and audited as any other is."""
        try:
            tool = self._entries.named(call.name, call.version).definition
        except ToolExecutionError:
            tool = None
        return refused(call, error, elapsed_s, self._services, tool)

    def shown(self, tool: ToolDefinition | None, arguments: Any) -> dict[str, Any]:
        """Arguments as they may be kept and shown: JSON, with secrets hidden and long texts cut.

        Hidden is what the tool's schema marks, what is named as a secret or looks like one, and what is known as one.
        """
        if not isinstance(arguments, Mapping):
            return {}
        redactor = self._services.redactor
        if tool is not None and not redactor.active and _nothing_to_hide(self._plain(tool), arguments):
            return dict(arguments)
        if not self._are_bounded(arguments):
            return {}  # such a call is refused, and going through all of it is the work that the limits save
        try:
            if tool is not None:
                told = shown(arguments, tool.parameters, redactor).arguments
            else:
                told = redactor.value(hide_named(dict(arguments)))
            safe: dict[str, Any] = orjson.loads(orjson.dumps(told))
        except Exception:  # no JSON, or nested without end: such a call is refused, and its arguments are not kept
            return {}
        return safe

    def _are_bounded(self, arguments: Mapping[str, Any]) -> bool:
        try:
            check_bounds(arguments, self._services.limits)
        except InputValidationError:
            return False
        return True

    def _known(self, entry: Entry) -> _Known:
        """What is asked of a tool again and again; it is kept with what was compiled of it."""
        if entry.admission is None:
            handler: Handler = _passed
            unrun = replace(entry.definition, output_check=None)  # as there is no result yet
            for stage in reversed(CHECKS):
                handler = stage(unrun, self._services, handler)
            policies = entry.definition.policies.over(self._services.defaults)
            entry.admission = _Known(handler, given(policies.idempotency))
        known: _Known = entry.admission
        return known

    def _plain(self, tool: ToolDefinition) -> frozenset[str]:
        """The parameters of a tool under which no secret stands, as far as names and the schema say."""
        known: weakref.WeakKeyDictionary[ToolDefinition, frozenset[str]] = self._services.the(
            "plain parameters of tools", weakref.WeakKeyDictionary
        )
        plain = known.get(tool)
        if plain is None:
            named = tool.parameters.get("properties", {})
            marked = marked_in(tool.parameters)
            plain = known[tool] = frozenset(
                name
                for name, schema in named.items()
                if not secret_name(name) and name not in marked and not _refers(schema)
            )
        return plain

    def hidden(self, value: Any) -> Any:
        """A JSON value without the secrets that are known now: it may have been kept before they were."""
        redactor = self._services.redactor
        return redactor.value(value) if redactor.active else value

    def repeatable(self, tool: ToolDefinition, key: str | None) -> bool:
        """Whether a call whose body may have run, nobody knows how far, may be made again.

        So it is where the tool says that it only reads or is idempotent, and where a claim on the call's idempotency
        key outlives whoever ran it: then the pipeline decides, by what the claim says. key is the caller's own.
        """
        hints = tool.hints
        if hints.read_only is True or hints.idempotent is True:
            return True
        policy = self._known(self._entries.of(tool)).idempotency
        if policy is not None and policy.rerun_unknown:
            return True
        if policy is None or policy.when_down == "run" or (key is None and policy.only_caller):
            return False
        if key is None and policy.bypass_on_missing_key:
            return False
        claims = claims_of(policy, self._services)
        return claims is self._services.records or not claims.local


def _refers(schema: Any) -> bool:
    """Whether a parameter's schema says something that only a walk through it tells."""
    return not isinstance(schema, Mapping) or not schema.keys().isdisjoint(("$ref", "anyOf", "oneOf", "allOf"))


def _nothing_to_hide(plain: frozenset[str], arguments: Mapping[str, Any]) -> bool:
    """Whether arguments are few plain values, as most are: then they need no walk."""
    for name, value in arguments.items():
        if name not in plain:
            return False
        kind = value.__class__
        if kind is str:
            if len(value) > MAX_TEXT or scrub(value) != value:
                return False
        elif kind is not int and kind is not float and kind is not bool and value is not None:
            return False
    return True


async def _passed(inv: Invocation) -> None:
    return None


__all__ = ["Admission"]
