"""Content: what a body gives for a model to see or hear, in blocks as MCP has them; it is its own JSON form."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

from toolpost.calls.errors import ConfigurationError

CONTENT: Final = "toolpost/content"
"""The key under which the JSON form holds the blocks. An object that has it is shown by them, through whatever door."""
VALUE: Final = "value"
"""The key of the value that programs read, where there is one."""


class Content(dict[str, Any]):
    """Blocks of text, pictures, sound and resources: return Content.image(png, "image/png") from a tool.

    Blocks are joined with +. value is what programs read beside them (MCP's structuredContent). The JSON form is
    {"toolpost/content": [block, ...], "value": value}, so that it goes through caches, replays and every door; MCP
    clients get the blocks themselves. Bytes become base64 in it.
    """

    def __init__(self, blocks: Iterable[Mapping[str, Any]] = (), *, value: Any = None) -> None:
        super().__init__({CONTENT: [dict(block) for block in blocks]})
        if value is not None:
            self[VALUE] = value

    @classmethod
    def text(cls, text: str, **more: Any) -> Content:
        """Text. more are further members of the block, such as annotations."""
        return cls([{"type": "text", "text": _text(text), **more}])

    @classmethod
    def image(cls, data: bytes | str, media_type: str = "image/png", **more: Any) -> Content:
        """A picture; data is its bytes, or their base64."""
        return cls([{"type": "image", "data": _base64(data), "mimeType": media_type, **more}])

    @classmethod
    def audio(cls, data: bytes | str, media_type: str = "audio/wav", **more: Any) -> Content:
        """Sound; data is its bytes, or their base64."""
        return cls([{"type": "audio", "data": _base64(data), "mimeType": media_type, **more}])

    @classmethod
    def resource(cls, uri: str, data: bytes | str, media_type: str | None = None, **more: Any) -> Content:
        """A resource whose contents come along: text as it is, bytes as base64."""
        return cls([{"type": "resource", "resource": contents_of(uri, data, media_type), **more}])

    @classmethod
    def link(cls, uri: str, name: str, media_type: str | None = None, **more: Any) -> Content:
        """A resource to be read when it is needed. more: title, description, size, annotations."""
        block = {"type": "resource_link", "uri": _text(uri), "name": _text(name), **more}
        return cls([block if media_type is None else {**block, "mimeType": media_type}])

    def __add__(self, other: Content) -> Content:
        """The blocks of both, with the value of the one that has one."""
        if not isinstance(other, Content):
            return NotImplemented
        return Content([*self[CONTENT], *other[CONTENT]], value=self.get(VALUE, other.get(VALUE)))

    def with_value(self, value: Any) -> Content:
        """The same blocks beside a value for programs: JSON, or what has a JSON form."""
        return Content(self[CONTENT], value=value)


def contents_of(uri: str, data: bytes | str, media_type: str | None = None) -> dict[str, Any]:
    """The contents of a resource as MCP has them: uri, mimeType, and text or blob (base64)."""
    contents: dict[str, Any] = {"uri": _text(uri)}
    if media_type is not None:
        contents["mimeType"] = media_type
    if isinstance(data, str):
        contents["text"] = data
    else:
        contents["blob"] = _base64(data)
    return contents


def blocks_of(value: Any) -> list[dict[str, Any]] | None:
    """The blocks of a result that is Content in its JSON form; None for any other."""
    if not isinstance(value, Mapping) or CONTENT not in value or value.keys() - {CONTENT, VALUE}:
        return None
    blocks = value[CONTENT]
    if not isinstance(blocks, list) or not all(isinstance(one, dict) and "type" in one for one in blocks):
        return None
    return blocks


def read_by_programs(value: Any) -> Any:
    """What a schema of the result speaks of: the value beside the blocks of Content, else the result itself."""
    return value if blocks_of(value) is None else value.get(VALUE)


def _base64(data: bytes | str) -> str:
    if isinstance(data, str):
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        return base64.b64encode(data).decode()
    raise ConfigurationError(f"Content takes bytes, or base64 as text, got {type(data).__name__}")


def _text(text: str) -> str:
    if not isinstance(text, str):
        raise ConfigurationError(f"Content takes text here, got {type(text).__name__}; write str(...)")
    return text


__all__ = ["CONTENT", "VALUE", "Content", "blocks_of", "contents_of", "read_by_programs"]
