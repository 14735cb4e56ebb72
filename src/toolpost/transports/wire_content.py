"""Content in the providers' forms: pictures as pictures where a provider takes them, else a word about each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from toolpost.calls import ToolResult
from toolpost.calls.content import VALUE, blocks_of

Blocks = Sequence[Mapping[str, Any]]
_PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""What models look at."""


def content_blocks(result: ToolResult) -> list[dict[str, Any]] | None:
    """The blocks of a result that is Content, with a line that names its artifacts; None for any other."""
    blocks = blocks_of(result.data) if result.success else None
    if blocks is None or not result.artifacts:
        return blocks
    named = ", ".join(f"{name} ({len(data)} bytes)" for name, data in result.artifacts.items())
    return [*blocks, {"type": "text", "text": f"[artifacts: {named}]"}]


def openai_output(blocks: Blocks) -> str | list[dict[str, Any]]:
    """The output of a function call in the Responses API: text, or a list where there are pictures."""
    if not any(_is_picture(block) for block in blocks):
        return plain_text(blocks)
    return [
        {"type": "input_image", "image_url": f"data:{block['mimeType']};base64,{block['data']}"}
        if _is_picture(block)
        else {"type": "input_text", "text": _word(block)}
        for block in blocks
    ]


def anthropic_content(blocks: Blocks) -> list[dict[str, Any]]:
    """The content of a tool_result."""
    return [
        {"type": "image", "source": {"type": "base64", "media_type": block["mimeType"], "data": block["data"]}}
        if _is_picture(block)
        else {"type": "text", "text": _word(block)}
        for block in blocks
    ]


def mcp_content(result: ToolResult, blocks: Blocks) -> dict[str, Any]:
    """content and structuredContent of a CallToolResult."""
    out: dict[str, Any] = {"content": [dict(block) for block in blocks], "isError": False}
    value = result.data.get(VALUE)
    return {**out, "structuredContent": dict(value)} if isinstance(value, Mapping) else out


def plain_text(blocks: Blocks) -> str:
    """All blocks as text, for providers that take nothing else."""
    return "\n".join(map(_word, blocks))


def _is_picture(block: Mapping[str, Any]) -> bool:
    return block["type"] == "image" and block.get("mimeType") in _PICTURES and isinstance(block.get("data"), str)


def _word(block: Mapping[str, Any]) -> str:
    """A block as text: what it says, or what it is."""
    kind = block["type"]
    if kind == "text":
        return str(block.get("text", ""))
    if kind in ("image", "audio"):
        size = len(block.get("data", "")) * 3 // 4
        return f"[{kind}: {block.get('mimeType', 'of an unknown type')}, about {size} bytes]"
    if kind == "resource_link":
        return f"[link: {block.get('name', '')} at {block.get('uri', '')}]"
    resource = block.get("resource")
    if kind == "resource" and isinstance(resource, Mapping):
        uri = resource.get("uri", "")
        return f"[{uri}]\n{resource['text']}" if "text" in resource else f"[resource: {uri}]"
    return orjson.dumps(dict(block), option=orjson.OPT_NON_STR_KEYS).decode()


__all__ = ["anthropic_content", "content_blocks", "mcp_content", "openai_output", "plain_text"]
