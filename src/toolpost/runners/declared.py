"""Declared secrets: those that a tool's author wrote into its declaration, or named there by reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from pydantic import SecretStr

from toolpost.calls.definition import DbBody, HttpBody, ToolDefinition
from toolpost.calls.errors import ConfigurationError, SecretUnavailableError
from toolpost.calls.redaction import Revealed
from toolpost.calls.references import REFERENCE, is_reference, references_in, replaced
from toolpost.calls.secret_names import CREDENTIAL
from toolpost.runners.resources import Resources


def hide_declared(tool: ToolDefinition, resources: Resources) -> None:
    """Have the secrets that stand in a tool's declaration hidden: they may come back in answers and errors."""
    if resources.guards is not None:
        for name, text in _declared(tool.body):
            resources.guards.redactor.add(text, f"{name} of {tool.name}")


def _declared(body: Any) -> Iterator[tuple[str, str]]:
    if isinstance(body, HttpBody):
        in_url = parse_qsl(urlsplit(body.url).query)
        for name, value in [*body.headers.items(), *body.query.items(), *in_url, *_members(body.body)]:
            if isinstance(value, str) and CREDENTIAL.search(name) and REFERENCE not in value and "{" not in value:
                yield name, value.rpartition(" ")[2]  # less the scheme: Bearer, Basic
    elif isinstance(body, DbBody):
        for name, value in body.settings.items():
            if isinstance(value, SecretStr) and REFERENCE not in (text := value.get_secret_value()):
                yield name, text


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """The members of a JSON value, those within others too."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield name, item
            yield from _members(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _members(item)


class DeclaredSpec:
    """The spec of a database tool with its references, and what it is once they have values."""

    def __init__(self, tool: ToolDefinition, body: DbBody, spec: Any) -> None:
        self._tool, self._spec = tool.name, spec
        self._texts = {name: text for name, value in body.settings.items() if REFERENCE in (text := _text(value))}
        try:
            self.references = frozenset(references_in(list(self._texts.values())))
        except ConfigurationError as error:
            raise ConfigurationError(f"{tool.name}: {error.message}") from None
        self._last: tuple[dict[str, str], Any] | None = None

    def revealed(self, secrets: Mapping[str, str]) -> Any:
        """The spec with the values of its references, out of sight in its repr."""
        if self._last is not None and self._last[0] == secrets:
            return self._last[1]
        made = copy.copy(self._spec)
        for name, text in self._texts.items():
            value = replaced(text, self._filling(name, text, secrets))
            hidden = SecretStr(value) if isinstance(getattr(self._spec, name), SecretStr) else Revealed(value)
            # Not by assignment, which would check it anew, and tell of it if it is wrong.
            vars(made)[name] = hidden
        self._last = dict(secrets), made
        return made

    def _filling(self, name: str, text: str, secrets: Mapping[str, str]) -> Callable[[str], str]:
        """How a value stands in a text: as it is, or percent-encoded within a URL."""

        def fill(reference: str) -> str:
            value = str(secrets[reference])
            if is_reference(text):
                return value
            if "://" in text.replace(REFERENCE, ""):
                return quote(value, safe="")
            if any(c.isspace() or c in "'\"\\" for c in value):
                raise SecretUnavailableError(
                    f"{self._tool}: {reference} holds characters that cannot stand in {name} as it is written; write "
                    "that as a URL, or use a field of its own"
                )
            return value

        return fill


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value if isinstance(value, str) else ""
