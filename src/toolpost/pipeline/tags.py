"""Tags: names by which tools that write make kept results void; and the stage that does so after their bodies ran."""

from __future__ import annotations

import enum
import json
import string
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import FunctionBody, ToolDefinition
from toolpost.calls.errors import ConfigurationError
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.pipeline.shared_cache import shared_cache
from toolpost.runners.bodies import Bodies

if TYPE_CHECKING:
    from toolpost.pipeline.compile import Handler
    from toolpost.stores.memory import Entry

MAX_TAGS = 100_000


class Tags:
    """When each tag was made void last, counted in voids. Safe from any thread.

    max_tags bounds memory: of older ones only the latest count is kept, which then holds for every tag not known.
    """

    __slots__ = ("_floor", "_lock", "_max_tags", "_voided", "now")

    def __init__(self, max_tags: int = MAX_TAGS) -> None:
        self.now = 0
        """How many voids there were: what a value must remember from before it was made."""
        self._floor = 0
        self._max_tags = max_tags
        self._voided: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def void(self, tags: tuple[str, ...]) -> None:
        """Make every value with one of these tags void that was begun before now."""
        with self._lock:
            self.now += 1
            for tag in tags:
                self._voided[tag] = self.now
                self._voided.move_to_end(tag)
            while len(self._voided) > self._max_tags:
                self._floor = self._voided.popitem(last=False)[1]

    def hold(self, tags: tuple[str, ...], since: int) -> bool:
        """Whether none of these was made void after there had been so many voids."""
        voided = self._voided
        return all(voided.get(tag, self._floor) <= since for tag in tags)

    def counts(self, tags: tuple[str, ...]) -> tuple[int, ...]:
        """When each was made void last: another answer means that one was meanwhile."""
        voided = self._voided
        return tuple(voided.get(tag, self._floor) for tag in tags)

    def hold_for(self, entry: Entry) -> bool:
        """Whether an entry of the cache still is what its tags stand for."""
        return not entry.tags or self.hold(entry.tags, entry.since)


TagsOf = Callable[[Mapping[str, Any]], tuple[str, ...]]
"""Checked arguments -> the tags they stand for."""


def tags_of(tool: ToolDefinition, templates: tuple[str, ...], what: str) -> TagsOf:
    """Fills {parameter} in templates. Raises ConfigurationError for one that the tool does not have."""
    read = [_read(tool, template, what) for template in templates]
    if not any(names for _, names in read):
        return lambda arguments: templates

    def fill(arguments: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(
            "".join(text if name is None else text + text_of(arguments.get(name)) for text, name in parts)
            for parts, _ in read
        )

    return fill


def _read(tool: ToolDefinition, template: str, what: str) -> tuple[list[tuple[str, str | None]], list[str]]:
    known = tool.parameters.get("properties", {})
    parts, names = [], []
    try:
        for text, name, form, conversion in string.Formatter().parse(template):
            if form or conversion:
                raise ValueError(f"only a parameter's name may stand in braces, as in {{{name}}}")
            parts.append((text, name))
            if name is not None:
                names.append(name)
    except ValueError as error:
        raise ConfigurationError(f"{tool.name}: {what} holds {template!r}, which is no template: {error}") from None
    for name in names:
        if name not in known:
            there = ", ".join(known) or "none"
            raise ConfigurationError(
                f"{tool.name}: {what} holds {template!r}, but there is no parameter {name!r}; there are {there}"
            )
    return parts, names


def text_of(value: Any) -> str:
    """An argument as part of a tag or a resource's name: the same text however the value came."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, sort_keys=True, default=str)
    return str(value)


def voids(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Once a body has run, well or not, make void what the tool says it changes."""
    templates = tool.policies.invalidates
    if not templates:
        return next
    fill = tags_of(tool, templates, "invalidates")
    tags, shared = services.the("tags", Tags), shared_cache(services)
    outlives = isinstance(tool.body, FunctionBody) and not tool.body.is_async

    def void(changed: tuple[str, ...]) -> None:
        if shared is not None:
            shared.void(changed)
        tags.void(changed)

    async def handler(inv: Invocation) -> Any:
        changed = fill(inv.kwargs)  # before the body, which may change them
        bodies = None
        if outlives:
            bodies = inv.bodies = inv.bodies or Bodies()
        try:
            value = await next(inv)
        except BaseException:
            if inv.ran:
                void(changed)
            if bodies is not None and bodies.running:  # given up, it may write yet
                bodies.afterwards(lambda: void(changed))
            raise
        if inv.ran:
            # Asked before it is noted here: what a look-up from now on brings back was read after the store was told.
            told = shared.void(changed) if shared is not None else None
            tags.void(changed)
            if shared is not None:
                await shared.voided(told, inv)
            if inv.explain is not None:
                inv.note("cache", "voided", tags=list(changed))
        return value

    return handler
