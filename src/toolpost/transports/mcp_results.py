"""How results look to MCP clients: content blocks, structured content, what went wrong, and where artifacts are."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

from toolpost.calls import ToolDefinition, ToolResult
from toolpost.calls.content import VALUE, blocks_of
from toolpost.calls.result import Failure
from toolpost.transports.wire import CALL_ID

if TYPE_CHECKING:
    from toolpost.worker.reports import KeptArtifact

ERROR: Final = "toolpost/error"
"""The key under a result's _meta that holds the failure: code, status, retryable, outcome, details."""
MODERN: Final = frozenset({"2026-07-28"})
"""Revisions without sessions, where structured content may be any JSON value."""
INLINE_IMAGE_BYTES: Final = 256 << 10
"""Pictures up to this size come along; larger ones, and all other artifacts, are links."""

Answer = dict[str, Any]


def call_answer(result: ToolResult, tool: ToolDefinition | None, version: str) -> Answer:
    """A CallToolResult, as JSON, for one revision of the protocol."""
    if not result.success:
        return failure_answer(result.failure, result.error or "the tool failed", result.call_id)
    content, structured = _shown(result.data, tool, version)
    for name, data in result.artifacts.items():
        content.append(_artifact(result.call_id, name, data))
    answer: Answer = {"content": content, "isError": False, "resultType": "complete"}
    if structured is not None:
        answer["structuredContent"] = structured
    answer["_meta"] = {CALL_ID: result.call_id}
    return answer


def failure_answer(failure: Failure | None, message: str, call_id: str | None = None) -> Answer:
    """The CallToolResult of a call that failed: text for the model, all that is known for programs."""
    meta: dict[str, Any] = {} if call_id is None else {CALL_ID: call_id}
    if failure is not None:
        meta[ERROR] = failure.to_dict()
    return {
        "content": [{"type": "text", "text": message}],
        "isError": True,
        "resultType": "complete",
        "_meta": meta,
    }


def kept_links(call_id: str, artifacts: Iterable[KeptArtifact]) -> list[Answer]:
    """Links to the artifacts of a call that is over."""
    return [
        {
            "type": "resource_link",
            "uri": artifact_uri(call_id, one.name),
            "name": one.name,
            "mimeType": one.media_type,
            "size": one.size,
        }
        for one in artifacts
    ]


def artifact_uri(call_id: str, name: str) -> str:
    """Where an artifact of a call is read."""
    return f"toolpost://calls/{quote(call_id, safe='')}/artifacts/{quote(name, safe='/')}"


def result_uri(call_id: str) -> str:
    """Where the whole result of a call is read."""
    return f"toolpost://calls/{quote(call_id, safe='')}/result"


def media_type_of(name: str) -> str:
    """The media type that a file's name tells."""
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _shown(data: Any, tool: ToolDefinition | None, version: str) -> tuple[list[Answer], Any]:
    """Blocks for the model, and what programs read; None where the text says it all."""
    modern = version in MODERN
    blocks = blocks_of(data)
    if blocks is not None:
        value = data.get(VALUE)
        return [dict(block) for block in blocks], value if modern or isinstance(value, Mapping) else None
    structured, value = data, data
    if tool is not None and tool.wrap_result and isinstance(data, Mapping) and data.keys() == {"result"}:
        value = data["result"]
        if isinstance(value, str):
            structured = None
    elif not isinstance(data, Mapping) and not (modern and (isinstance(data, list) or _declared(tool))):
        structured = None
    text = value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    return [{"type": "text", "text": text}], structured


def _declared(tool: ToolDefinition | None) -> bool:
    return tool is not None and tool.returns is not None


def _artifact(call_id: str, name: str, data: bytes) -> Answer:
    media_type = media_type_of(name)
    if media_type.startswith("image/") and len(data) <= INLINE_IMAGE_BYTES:
        return {"type": "image", "data": base64.b64encode(data).decode(), "mimeType": media_type}
    uri = artifact_uri(call_id, name)
    return {"type": "resource_link", "uri": uri, "name": name, "mimeType": media_type, "size": len(data)}


__all__ = [
    "ERROR",
    "MODERN",
    "Answer",
    "artifact_uri",
    "call_answer",
    "failure_answer",
    "kept_links",
    "media_type_of",
    "result_uri",
]
