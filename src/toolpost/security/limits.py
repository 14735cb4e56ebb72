"""SecurityValidator: bounds and screening for a call that is checked on its own, outside the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolpost.calls.errors import SecurityError
from toolpost.security.rules import Level, Screen, role_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityValidator:
    """Checks the arguments of a call: how long, how many, how deep, and that no text looks like an attack.

    Strings are counted in characters; max_depth counts nested containers, the arguments themselves not among them.
    """

    max_string: int = 10_000
    max_array: int = 1_000
    max_depth: int = 10
    max_arguments: int = 50
    max_keys: int = 100
    max_name: int = 100
    level: Level = "medium"

    async def validate_tool_call(
        self, tool_name: str, arguments: Mapping[str, Any], user_id: str | None = None
    ) -> None:
        """Raise SecurityError for the first thing that is over a limit or looks like an attack."""
        self.check(tool_name, arguments)

    def check(self, tool_name: str, arguments: Mapping[str, Any]) -> None:
        """validate_tool_call for callers that do not await."""
        if not isinstance(tool_name, str) or not tool_name or len(tool_name) > self.max_name:
            raise SecurityError(f"a tool's name must be text of 1 to {self.max_name} characters")
        if not isinstance(arguments, Mapping):
            raise SecurityError(f"arguments must be an object, got {type(arguments).__name__}")
        if len(arguments) > self.max_arguments:
            raise SecurityError(f"{len(arguments)} arguments are more than the {self.max_arguments} allowed")
        for name, value in arguments.items():
            self._name(name)
            self._bound(str(name), value)
            finding = Screen(role_of(str(name)), self.level, untrusted=True).check(value)
            if finding is not None:
                raise SecurityError(
                    f"Input parameter '{name}' contains potentially malicious content: {finding.why} "
                    f"(rule {finding.rule})",
                    details={"parameter": name, "rule": finding.rule, "role": finding.role, "kind": finding.kind},
                )

    def _name(self, name: Any) -> None:
        if not isinstance(name, str) or len(name) > self.max_name:
            raise SecurityError(f"names of arguments must be text of at most {self.max_name} characters")

    def _bound(self, parameter: str, value: Any) -> None:
        stack: list[tuple[Any, int]] = [(value, 1)]
        while stack:
            item, depth = stack.pop()
            if isinstance(item, str):
                if len(item) > self.max_string:
                    raise SecurityError(
                        f"'{parameter}' holds text of more than {self.max_string} characters; shorten it"
                    )
                continue
            if not isinstance(item, (Mapping, list, tuple)):
                continue
            if depth > self.max_depth:
                raise SecurityError(f"'{parameter}' is nested more than {self.max_depth} levels deep; flatten it")
            if isinstance(item, Mapping):
                if len(item) > self.max_keys:
                    raise SecurityError(f"'{parameter}' holds an object of more than {self.max_keys} keys")
                for key in item:
                    self._name(key)
                stack.extend((v, depth + 1) for v in item.values())
            else:
                if len(item) > self.max_array:
                    raise SecurityError(f"'{parameter}' holds an array of more than {self.max_array} items")
                stack.extend((v, depth + 1) for v in item)
