"""Resource and Prompt: what an application offers beside tools to those who speak MCP; values, as tools are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from toolpost.calls.access import Access
from toolpost.calls.errors import ConfigurationError

VARIABLE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
Complete = Callable[..., Any]
"""(what was typed so far, the other arguments) -> the values that it may become; async or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Something to read, by its URI. A URI with {variables} is a template, and read takes them by name.

    read is the contents, or a function that gives them, async or not: text, bytes, or a value with a JSON form. It may
    take a ToolContext. access: who may read it. complete: variable -> the values that it may have.
    """

    uri: str
    read: Any
    name: str = ""
    title: str | None = None
    description: str | None = None
    media_type: str | None = None
    access: Access | None = None
    complete: Mapping[str, Complete] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.uri, str) or not re.match(r"[A-Za-z][A-Za-z0-9+.\-]*:", self.uri):
            raise ConfigurationError(f"Resource: uri must be a URI such as 'notes://today', got {self.uri!r:.100}")
        if "{" in VARIABLE.sub("", self.uri):
            raise ConfigurationError(f"Resource: variables of a uri are written as {{name}}, got {self.uri!r:.100}")
        if self.variables and not callable(self.read):
            raise ConfigurationError(f"Resource {self.uri}: read must be a function of {', '.join(self.variables)}")
        _check_complete(f"Resource {self.uri}", self.complete, self.variables)
        if not self.name:
            object.__setattr__(self, "name", self.uri.rstrip("/").rpartition("/")[2] or self.uri)

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of the variables in the URI, in order; empty for one that is no template."""
        return tuple(VARIABLE.findall(self.uri))


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptArgument:
    """One argument of a prompt; its value is text."""

    name: str
    description: str | None = None
    title: str | None = None
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text to begin with, made from arguments.

    render takes them by name, as text, and may take a ToolContext; it gives text, Content, or a list of these, each a
    message of the user's or a pair (role, message) with the role "user" or "assistant". arguments are those of the
    function where they are not given. access: who may use it. complete: argument -> the values that it may have.
    """

    name: str
    render: Callable[..., Any]
    title: str | None = None
    description: str | None = None
    arguments: tuple[PromptArgument, ...] | None = None
    access: Access | None = None
    complete: Mapping[str, Complete] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigurationError(f"Prompt: name must be text that is not empty, got {self.name!r:.100}")
        if not callable(self.render):
            raise ConfigurationError(f"Prompt {self.name}: render must be a function, got {self.render!r:.60}")
        if self.arguments is not None:
            object.__setattr__(self, "arguments", tuple(self.arguments))
            _check_complete(f"Prompt {self.name}", self.complete, tuple(one.name for one in self.arguments))


def _check_complete(owner: str, complete: Mapping[str, Complete], names: tuple[str, ...]) -> None:
    for name in complete:
        if name not in names:
            there = ", ".join(names) or "none"
            raise ConfigurationError(f"{owner}: complete names {name!r}, which is no argument; there are {there}")


__all__ = ["VARIABLE", "Complete", "Prompt", "PromptArgument", "Resource"]
