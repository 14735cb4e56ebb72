"""Visibility: which tools a caller is shown, by the very rules by which calls are refused."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from toolpost.calls.call import Caller
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import ConfigurationError, EngineError, PermissionDeniedError, ToolNotFoundError
from toolpost.engine.registry import ToolRegistry, not_found, rank, split_name
from toolpost.pipeline.authorize import gate_of, judges_of
from toolpost.pipeline.services import Services
from toolpost.security.access import Gate
from toolpost.security.engines import DENIED, Judge

T = TypeVar("T")


class Visibility:
    """The tools of one registry, as callers are shown them under one state of the services.

    A tool is left out where its call would be refused whatever the arguments: by requires_auth, permissions and what
    its Access asks of the caller alone, and by engines that have may_list. Hooks decide about calls only. So is one
    that the lock refuses: what it says of itself nobody has reviewed, and a list would tell it to a model.
    """

    def __init__(self, registry: ToolRegistry, services: Services) -> None:
        self._registry, self._services = registry, services
        self._pins = services.pins
        self._judges = [judge for judge in judges_of(services) if judge.lists]

    def tools(self, caller: Caller, query: str | None, limit: int | None) -> list[ToolDefinition]:
        """The newest version of each tool that the caller is shown."""
        found: list[ToolDefinition] = self._had(lambda blocking: self.listed(caller, query, limit, blocking))
        return found

    async def listed(
        self, caller: Caller, query: str | None, limit: int | None, blocking: bool = False
    ) -> list[ToolDefinition]:
        """tools, for callers that await."""
        found = [
            definition
            for definition in self._registry.definitions()
            if await self._shows(definition, caller, self._judges, blocking)
        ]
        return (found if query is None else rank(query, found))[:limit]

    def versions(self, name: str, about: Mapping[str, Any], caller: Caller) -> list[str]:
        """The versions of a tool that the caller is shown. Raises what refuses the one that about is of."""
        name, _ = split_name(name, None)
        one = self._registry.get_tool(name, about["version"])
        if self._pins is not None:
            self._pins.check(one)
        objection = self._gate(one).objection(caller)
        if objection is not None:
            raise objection

        async def shown(blocking: bool) -> list[str]:
            there = [self._registry.get_tool(name, version) for version in about["versions"]]
            return [d.version for d in there if await self._shows(d, caller, self._judges, blocking)]

        found: list[str] = self._had(shown)
        if one.version not in found:
            raise PermissionDeniedError(DENIED, tool=one.name, details={"authorizer": "denied"})
        return found

    def unknown(self, error: ToolNotFoundError, name: object, caller: Caller) -> ToolNotFoundError:
        """The error that a tool or its version is not there, so that it names nothing that the caller is not shown.

        Where a policy engine would have to be asked for each tool, it names none.
        """
        if not isinstance(name, str):
            return error
        bare, _ = split_name(name, None)
        if self._judges:
            return not_found(name, None)
        shown = [one.name for one in self._registry.definitions() if self._opens(one, caller)]
        return error if bare in shown else not_found(name, shown)

    def _opens(self, tool: ToolDefinition, caller: Caller) -> bool:
        """Whether a caller is shown a tool, as far as can be said without asking anybody."""
        if self._pins is not None and not self._pins.hold(tool):
            return False
        return self._gate(tool).objection(caller) is None

    async def _shows(self, tool: ToolDefinition, caller: Caller, judges: list[Judge], blocking: bool) -> bool:
        if not self._opens(tool, caller):
            return False
        for judge in judges:
            if not await judge.listed(tool, caller, blocking):
                return False
        return True

    def _gate(self, tool: ToolDefinition) -> Gate:
        gates: weakref.WeakKeyDictionary[ToolDefinition, Gate] = self._services.the(
            "gates of tools", weakref.WeakKeyDictionary
        )
        gate = gates.get(tool)
        if gate is None:
            gate = gates[tool] = gate_of(tool, self._services)
        return gate

    def _had(self, work: Any) -> Any:
        """What work(blocking) comes to, for callers that block."""
        if not any(judge.waits_to_list for judge in self._judges):
            coro: Coroutine[Any, Any, Any] = work(True)
            try:
                coro.send(None)
            except StopIteration as done:
                return done.value
            coro.close()
            raise EngineError("a blocking list met something that has to wait for an event loop")
        if asyncio._get_running_loop() is not None:
            raise ConfigurationError(
                "the policy engine lists tools asynchronously and an event loop is running here; "
                "await tools_for_async(caller) instead"
            )
        services = self._services
        return services.resources.loop.run(
            lambda left_s: work(False), None, grace_s=services.cancel_grace_s, clock=services.clock
        )


__all__ = ["Visibility"]
