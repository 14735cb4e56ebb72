"""How tools are shown to MCP clients: schemas, annotations, titles, in a fixed order and in pages."""

from __future__ import annotations

import base64
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from toolpost.calls import Hints, ToolDefinition
from toolpost.calls.definition import HttpBody
from toolpost.transports.mcp_results import MODERN
from toolpost.transports.wire_tools import shown_hints

T = TypeVar("T")
PAGE: Final = 500
"""How many tools, resources or prompts are listed at a time."""
TTL_MS: Final = 60_000
"""For how long a list may be thought fresh; who listens for changes hears of them before."""
LISTED: Final = {"ttlMs": TTL_MS, "cacheScope": "private", "resultType": "complete"}
"""What every list says besides."""

_SHOWN: weakref.WeakKeyDictionary[ToolDefinition, dict[bool, dict[str, Any]]] = weakref.WeakKeyDictionary()


def shown_tool(tool: ToolDefinition, version: str) -> dict[str, Any]:
    """A tool as tools/list has it; it is made once for each era."""
    modern = version in MODERN
    forms = _SHOWN.setdefault(tool, {})
    if modern not in forms:
        forms[modern] = _made(tool, modern)
    return forms[modern]


def annotations_of(tool: ToolDefinition) -> dict[str, Any]:
    """MCP's hints: what the tool says of itself, else what its declaration tells."""
    return shown_hints(_derived(tool))


def page(items: Sequence[T], names: Sequence[str], cursor: str | None, size: int = PAGE) -> tuple[list[T], str | None]:
    """The items after a cursor, and the cursor of the next page. Raises ValueError for a cursor that is none.

    names are the items' own, ascending: a cursor is the last one given, so that what comes or goes between two pages
    makes nothing come twice.
    """
    start = 0
    if cursor is not None:
        try:
            last = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
        except ValueError:
            raise ValueError("the cursor is none that this server gave") from None
        start = next((index for index, name in enumerate(names) if name > last), len(names))
    chosen = list(items[start : start + size])
    if start + size >= len(items):
        return chosen, None
    return chosen, base64.urlsafe_b64encode(names[start + size - 1].encode()).decode()


def _derived(tool: ToolDefinition) -> Hints:
    said, body = tool.hints, tool.body
    if not isinstance(body, HttpBody):
        return said
    method = body.method.upper()
    reads = method in ("GET", "HEAD")
    return Hints(
        title=said.title,
        read_only=said.read_only if said.read_only is not None else reads or None,
        destructive=said.destructive,
        idempotent=said.idempotent if said.idempotent is not None else method in ("PUT", "DELETE") or None,
        open_world=said.open_world,
        task=said.task,
    )


def _made(tool: ToolDefinition, modern: bool) -> dict[str, Any]:
    form: dict[str, Any] = {"name": tool.name}
    if tool.hints.title is not None:
        form["title"] = tool.hints.title
    form["description"] = _description(tool)
    form["inputSchema"] = {**tool.parameters, "type": "object"}
    if tool.returns is not None and (modern or _is_object(tool.returns)):
        form["outputSchema"] = dict(tool.returns)
    if annotations := annotations_of(tool):
        form["annotations"] = annotations
    meta: dict[str, Any] = {"toolpost/version": tool.version}
    if tool.tags:
        meta["toolpost/tags"] = list(tool.tags)
    if tool.deprecated:
        meta["toolpost/deprecated"] = tool.deprecated
    form["_meta"] = meta
    return form


def _description(tool: ToolDefinition) -> str:
    if not tool.deprecated:
        return tool.description
    return f"Deprecated: {tool.deprecated}\n{tool.description}".rstrip()


def _is_object(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object"


__all__ = ["LISTED", "PAGE", "TTL_MS", "annotations_of", "page", "shown_tool"]
