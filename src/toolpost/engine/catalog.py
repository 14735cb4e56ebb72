"""Catalog: the resources and prompts that an application offers beside its tools, read and rendered for a caller."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import unquote

import orjson

from toolpost.authoring.schema import context_parameter
from toolpost.calls.call import Caller, new_id
from toolpost.calls.content import CONTENT, Content, blocks_of, contents_of
from toolpost.calls.context import ToolContext
from toolpost.calls.errors import ConfigurationError, DuplicateToolError, InputValidationError, NotFoundError
from toolpost.calls.offers import VARIABLE, Prompt, PromptArgument, Resource
from toolpost.engine.plugins import load_attribute
from toolpost.pipeline.encode import to_json
from toolpost.security.access import Rules

Change = Literal["tools", "resources", "prompts", "resource"]
Listener = Callable[[Change, str], None]
"""Told (what changed, the URI of a resource whose contents did, else "")."""
MOST_COMPLETIONS = 100


class Catalog:
    """Resources and prompts by URI and name. Safe from any thread; what is async belongs to the loop that awaits it."""

    def __init__(self) -> None:
        self._resources: dict[str, tuple[Resource, re.Pattern[str], str | None]] = {}
        self._prompts: dict[str, tuple[Prompt, str | None]] = {}
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()

    # -- for the application ------------------------------------------------------------------------------------------

    def add(self, offer: Resource | Prompt, *, replace: bool = False) -> None:
        """Offer one. Raises DuplicateToolError for a URI or name that is taken, unless replace is true."""
        if isinstance(offer, Resource):
            parts = [re.escape(part) if index % 2 == 0 else "([^/]+)" for index, part in enumerate(_split(offer.uri))]
            takes = context_parameter(offer.read) if callable(offer.read) else None
            self._put(self._resources, offer.uri, (offer, re.compile("".join(parts)), takes), replace)
            self.tell("resources")
        elif isinstance(offer, Prompt):
            takes = context_parameter(offer.render)
            self._put(self._prompts, offer.name, (_with_arguments(offer, takes), takes), replace)
            self.tell("prompts")
        else:
            raise ConfigurationError(f"a catalog takes Resources and Prompts, got {type(offer).__name__}")

    def remove(self, name: str) -> None:
        """Offer the resource of a URI, or the prompt of a name, no more. Raises NotFoundError."""
        with self._lock:
            was_resource = self._resources.pop(name, None) is not None
            if not was_resource and self._prompts.pop(name, None) is None:
                raise NotFoundError(f"there is no resource or prompt {name!r:.100}")
        self.tell("resources" if was_resource else "prompts")

    def changed(self, uri: str) -> None:
        """Say that what a resource holds has changed: who subscribed to it is told. Safe from any thread."""
        self.tell("resource", uri)

    # -- for doors ----------------------------------------------------------------------------------------------------

    def watch(self, listener: Listener) -> Callable[[], None]:
        """Have listener told of every change, in the thread that makes it; what comes back ends that."""
        with self._lock:
            self._listeners.append(listener)

        def stop() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def tell(self, change: Change, uri: str = "") -> None:
        """Tell all who watch."""
        for listener in tuple(self._listeners):
            listener(change, uri)

    def resources(self, caller: Caller) -> list[Resource]:
        """Those that the caller may read, by URI; templates among them."""
        found = (one for one, _, _ in list(self._resources.values()))
        return sorted((one for one in found if _may(one, caller)), key=lambda one: one.uri)

    def prompts(self, caller: Caller) -> list[Prompt]:
        """Those that the caller may use, by name."""
        found = (one for one, _ in list(self._prompts.values()))
        return sorted((one for one in found if _may(one, caller)), key=lambda one: one.name)

    async def read(
        self, uri: str, caller: Caller, answers: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]] | None:
        """What a resource holds, as MCP's contents; None where there is none of that URI for this caller."""
        for resource, pattern, takes in list(self._resources.values()):
            match = pattern.fullmatch(uri)
            if match is None or not _may(resource, caller):
                continue
            variables = dict(zip(resource.variables, map(unquote, match.groups()), strict=True))
            value = resource.read
            if callable(value):
                value = await _called(value, variables, takes, caller, answers, resource.name)
            return _contents(uri, value, resource.media_type)
        return None

    async def render(
        self, name: str, arguments: Mapping[str, str], caller: Caller, answers: Mapping[str, Any] | None = None
    ) -> tuple[Prompt, list[dict[str, Any]]] | None:
        """A prompt and its messages, as MCP has them; None where there is none of that name for this caller."""
        known = self._prompts.get(name)
        if known is None or not _may(known[0], caller):
            return None
        prompt, takes = known
        _check_arguments(prompt, arguments)
        value = await _called(prompt.render, dict(arguments), takes, caller, answers, prompt.name)
        return prompt, _messages(value)

    async def complete(
        self, kind: Literal["resource", "prompt"], name: str, argument: str, typed: str, given: Mapping[str, str]
    ) -> list[str] | None:
        """The values that an argument may become, at most a hundred; None where there is no such prompt or resource."""
        known: Any = (self._prompts if kind == "prompt" else self._resources).get(name)
        if known is None:
            return None
        complete = known[0].complete.get(argument)
        if complete is None:
            return []
        found = complete(typed, dict(given))
        found = await found if inspect.isawaitable(found) else found
        return [str(one) for one in found]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _put(self, where: dict[str, Any], name: str, entry: Any, replaces: bool) -> None:
        with self._lock:
            if name in where and not replaces:
                raise DuplicateToolError(f"{name!r} is offered already; pass replace=True to offer this instead")
            where[name] = entry


def apart(tool: Any) -> tuple[list[Resource | Prompt], Any]:
    """The resources and prompts among what is to be added, and the rest of it; None where nothing is left."""
    if isinstance(tool, str):
        offers, rest = apart(load_attribute(tool))
        return (offers, rest) if offers else ([], tool)
    if isinstance(tool, (Resource, Prompt)):
        return [tool], None
    if not isinstance(tool, (list, tuple)):
        return [], tool
    offers = [one for one in tool if isinstance(one, (Resource, Prompt))]
    if not offers:
        return [], tool
    rest = [one for one in tool if not isinstance(one, (Resource, Prompt))]
    return offers, rest or None


def _split(uri: str) -> list[str]:
    """The fixed parts of a URI at even places, the names of its variables at odd ones."""
    return VARIABLE.split(uri)


def _may(offer: Resource | Prompt, caller: Caller) -> bool:
    return offer.access is None or Rules(offer.access, offer.name).objection(caller) is None


def _with_arguments(prompt: Prompt, takes: str | None) -> Prompt:
    """The prompt, with the arguments of its function where it names none."""
    if prompt.arguments is not None:
        return prompt
    found = [
        PromptArgument(name=name, required=one.default is inspect.Parameter.empty)
        for name, one in inspect.signature(prompt.render).parameters.items()
        if name != takes and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    return replace(prompt, arguments=tuple(found))


def _check_arguments(prompt: Prompt, arguments: Mapping[str, str]) -> None:
    known = {one.name for one in prompt.arguments or ()}
    missing = [one.name for one in prompt.arguments or () if one.required and one.name not in arguments]
    unknown = [name for name in arguments if name not in known]
    if missing or unknown:
        said = f"needs {missing[0]!r}" if missing else f"has no argument {unknown[0]!r:.60}"
        raise InputValidationError(
            f"prompt {prompt.name!r} {said}; its arguments are {', '.join(sorted(known)) or 'none'}"
        )


async def _called(
    func: Callable[..., Any],
    named: dict[str, Any],
    takes: str | None,
    caller: Caller,
    answers: Mapping[str, Any] | None,
    name: str,
) -> Any:
    if takes is not None:
        named[takes] = ToolContext(
            user_id=caller.user_id,
            tenant_id=caller.tenant,
            session_id=caller.session_id,
            call_id=new_id(),
            tool=name,
            _answers=answers,
        )
    if inspect.iscoroutinefunction(func):
        return await func(**named)
    found = await asyncio.to_thread(func, **named)
    return await found if inspect.isawaitable(found) else found


def _contents(uri: str, value: Any, media_type: str | None) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [contents_of(uri, value, media_type or "text/plain")]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return [contents_of(uri, bytes(value), media_type or "application/octet-stream")]
    blocks = blocks_of(value)
    if blocks is None:
        return [contents_of(uri, orjson.dumps(to_json(value)).decode(), media_type or "application/json")]
    return [one for block in blocks for one in _contents_of_block(uri, block)]


def _contents_of_block(uri: str, block: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    if block["type"] == "resource":
        yield dict(block["resource"])
    elif block["type"] == "text":
        yield contents_of(uri, block["text"], "text/plain")
    elif "data" in block:
        yield {"uri": uri, "mimeType": block.get("mimeType"), "blob": block["data"]}


def _messages(value: Any) -> list[dict[str, Any]]:
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    return [message for item in items for message in _messages_of(item)]


def _messages_of(item: Any) -> Iterable[dict[str, Any]]:
    role: Any = "user"
    if isinstance(item, tuple) and len(item) == 2 and item[0] in ("user", "assistant"):
        role, item = item
    if isinstance(item, str):
        item = Content.text(item)
    if not isinstance(item, Content):
        raise ConfigurationError(f"a prompt renders text, Content, or a list of these, got {type(item).__name__}")
    for block in item[CONTENT]:
        yield {"role": role, "content": block}


__all__ = ["MOST_COMPLETIONS", "Catalog", "Change", "Listener", "apart"]
