"""Policy engines: what decides about calls by rules kept elsewhere, asked within bounds; one that errs refuses too."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Final

from toolpost.calls.access import Decision
from toolpost.calls.call import Caller
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import (
    AuthorizerFailedError,
    ConfigurationError,
    PermissionDeniedError,
    PluginError,
    Rejected,
)
from toolpost.security.access import PATIENCE_S, awaited, waits

logger = logging.getLogger("toolpost")

GROUP: Final = "toolpost.authorizers"
"""Entry points of other packages: name -> callable(config) that gives a PolicyEngine."""

DENIED: Final = "the caller may not make this call"


class Judge:
    """One engine, or one hook (tool, caller, arguments), asked as the pipeline and lists of tools need it.

    A hook refuses with False and has no objection with True or None; it may give a Decision, as engines must.

    waits: whether it can only be awaited.
    """

    __slots__ = ("_decide", "_is_hook", "_may_list", "lists", "name", "waits")

    def __init__(self, authorizer: Any) -> None:
        decide = getattr(authorizer, "decide", None)
        self._is_hook = not callable(decide)
        if self._is_hook and not callable(authorizer):
            raise ConfigurationError(
                f"authorizer must be callable as (tool, caller, arguments), or have decide(tool, caller, arguments), "
                f"got {authorizer!r:.100}"
            )
        self._decide: Any = authorizer if self._is_hook else decide
        self._may_list = getattr(authorizer, "may_list", None)
        self.lists = callable(self._may_list)
        self.waits = waits(self._decide)
        named = getattr(authorizer, "name", None)
        self.name = named if isinstance(named, str) and named else "authorizer"

    async def refusal(
        self, tool: ToolDefinition, caller: Caller, arguments: Mapping[str, Any], blocking: bool
    ) -> Rejected | str:
        """Why this call may not be made, or the rule by which it may."""
        try:
            decision = self._decide(tool, caller, arguments)
            if inspect.isawaitable(decision):
                decision = await awaited(decision, blocking)
            if self._is_hook and (decision is None or isinstance(decision, bool)):
                decision = Decision(decision is not False, self.name)
            elif not isinstance(decision, Decision) or not isinstance(decision.allow, bool):
                wanted = "a hook must give True, False, None or" if self._is_hook else "decide must give"
                raise TypeError(f"{wanted} a Decision, not {type(decision).__name__}")
        except Rejected as refused:
            return refused
        except Exception as raised:
            return self._failed(tool, raised)
        rule = decision.rule or self.name
        if decision.allow:
            return rule
        return PermissionDeniedError(
            decision.reason or DENIED, details={"authorizer": "denied", "engine": self.name, "rule": rule}
        )

    async def listed(self, tool: ToolDefinition, caller: Caller, blocking: bool = False) -> bool:
        """Whether the caller is shown the tool. Raises AuthorizerFailedError where the engine cannot say."""
        if not self.lists:
            return True
        try:
            shown: Any = self._may_list(tool, caller)  # type: ignore[misc]
            if inspect.isawaitable(shown):
                shown = await awaited(shown, blocking)
            if not isinstance(shown, bool):
                raise TypeError(f"may_list must give True or False, not {type(shown).__name__}")
        except Exception as raised:
            raise self._failed(tool, raised) from raised
        return shown

    @property
    def waits_to_list(self) -> bool:
        """Whether listed can only be awaited."""
        return self.lists and waits(self._may_list)

    def _failed(self, tool: ToolDefinition, raised: Exception) -> AuthorizerFailedError:
        logger.error("authorizer failed: %s", tool.name, exc_info=raised)
        what = f"gave no answer within {PATIENCE_S:g} s" if isinstance(raised, TimeoutError) else "failed"
        named = "the authorizer" if self.name == "authorizer" else f"the policy engine {self.name!r}"
        error = AuthorizerFailedError(
            f"{named} {what} ({type(raised).__name__}), so the call is refused",
            details={"authorizer": "failed", "engine": self.name},
        )
        error.__cause__ = raised
        return error


def engine_named(name: str, config: Any) -> Any:
    """The engine that the setting authorizer names, made with the settings. Raises ConfigurationError, PluginError."""
    points = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if name in points:
        try:
            engine = points[name].load()(config)
        except (ConfigurationError, PluginError):
            raise
        except Exception as raised:
            raise PluginError(
                f"authorizer {name!r} could not be loaded ({type(raised).__name__}: {raised})"
            ) from raised
    elif name == "cedar":
        from toolpost.security.cedar import from_settings

        engine = from_settings(config)
    else:
        known = ", ".join(sorted({"cedar", *points}))
        raise ConfigurationError(f"authorizer {name!r} is no entry point of {GROUP}; there are {known}")
    if not callable(getattr(engine, "decide", None)):
        raise PluginError(
            f"authorizer {name!r} must give an object with decide(tool, caller, arguments), got {engine!r:.100}"
        )
    return engine


__all__ = ["Judge", "engine_named"]
