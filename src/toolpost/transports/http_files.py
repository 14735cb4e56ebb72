"""Files over HTTP: bytes in chunks, whole or in ranges, under headers that keep a browser from running them."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from toolpost.calls.errors import EngineError, NotFoundError
from toolpost.transports.http_problems import HttpRefusal
from toolpost.transports.http_ranges import Range, wanted
from toolpost.worker.keeping import had

if TYPE_CHECKING:
    from starlette.requests import Request

    from toolpost.stores import Blobs

CHUNK: Final = 1 << 20
INLINE: Final = frozenset(
    "application/json audio/aac audio/flac audio/mp4 audio/mpeg audio/ogg audio/wav audio/webm audio/x-wav image/avif "
    "image/bmp image/gif image/jpeg image/png image/webp text/csv text/markdown text/plain video/mp4 video/ogg "
    "video/webm".split()
)
"""What browsers show without ever running anything in it; all else is for saving (HTML, SVG, XML and PDF among it)."""
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; sandbox"
"""Of a page made of what a tool gave: nothing runs, nothing is loaded, and its origin is nobody's."""
_MEDIA_TYPE: Final = re.compile(
    r"([a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126})(?:;\s*charset=\"?([a-z0-9._-]{1,40})\"?)?\Z",
    re.I,
)
_UNPLAIN: Final = re.compile(r"[^A-Za-z0-9 ._()+@=-]")
_KEPT: Final = "!#$&+-.^_`|~"
"""What a name of RFC 8187 may have unescaped, beside letters and digits."""

Read = Callable[[int, int], Awaitable[bytes]]
"""Reads so many bytes from a start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """Bytes under a name: digest is their SHA-256 in hex, cache the Cache-Control that goes with them.

    site: whose pages may show them, as Cross-Origin-Resource-Policy has it.
    """

    name: str
    digest: str
    size: int
    media_type: str
    read: Read
    cache: str = "private, no-cache"
    site: str = "same-origin"


async def file_in(blobs: Blobs, digest: str, name: str, media_type: str, **how: str) -> File:
    """A blob as a file; how: cache and site. Raises NotFoundError where it is no longer kept, StoreUnavailableError."""
    size = await had(blobs.size(digest))
    if size is None:
        raise NotFoundError(f"{name!r:.200} is no longer kept")

    async def read(start: int, length: int) -> bytes:
        data = await had(blobs.get(digest, start, length))
        if data is None or len(data) != length:
            raise EngineError(f"{name!r:.200} has fewer bytes than it had")
        return data

    return File(name=name, digest=digest, size=size, media_type=media_type, read=read, **how)


def file_of(data: bytes, name: str, media_type: str) -> File:
    """Bytes at hand as a file."""

    async def read(start: int, length: int) -> bytes:
        return data[start : start + length]

    digest = hashlib.sha256(data).hexdigest()
    return File(name=name, digest=digest, size=len(data), media_type=media_type, read=read)


def file_response(request: Request, file: File) -> Response:
    """The answer to GET or HEAD of a file: what of it the request wants. Raises HttpRefusal (412, 416)."""
    etag = f'"{file.digest}"'
    headers = {
        "etag": etag,
        "cache-control": file.cache,
        "accept-ranges": "bytes",
        "x-content-type-options": "nosniff",
        "content-security-policy": POLICY,
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": file.site,
    }
    fields = {name: ",".join(request.headers.getlist(name)) for name in request.headers}
    what = wanted(fields, etag, file.size, request.method)
    if what == "failed":
        raise HttpRefusal(412, "precondition_failed", "the bytes are others than those of If-Match")
    if what == "unchanged":
        return Response(status_code=304, headers=headers)
    media_type = safe_media_type(file.media_type)
    headers["content-disposition"] = disposition(file.name, media_type)
    if what == "whole":
        headers |= {"content-length": str(file.size), "content-type": media_type}
        return _streamed(request, _whole(file), 200, headers)
    if not what:
        raise HttpRefusal(
            416,
            "range_not_satisfiable",
            f"there are {file.size} bytes, and none of those that Range asks for",
            headers=[("content-range", f"bytes */{file.size}"), ("accept-ranges", "bytes")],
        )
    if len(what) == 1:
        [one] = what
        headers |= {"content-length": str(one.end - one.start), "content-type": media_type}
        headers["content-range"] = f"bytes {one.start}-{one.end - 1}/{file.size}"
        return _streamed(request, _part(file, one), 206, headers)
    boundary = secrets.token_hex(16)
    heads = [_head(boundary, media_type, one, file.size) for one in what]
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = sum(len(head) + one.end - one.start for head, one in zip(heads, what, strict=True)) + len(tail)
    headers |= {"content-length": str(length), "content-type": f"multipart/byteranges; boundary={boundary}"}
    return _streamed(request, _parts(file, heads, what, tail), 206, headers)


def _streamed(request: Request, body: AsyncIterator[bytes], status: int, headers: dict[str, str]) -> Response:
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(body, status_code=status, headers=headers)


async def _whole(file: File) -> AsyncIterator[bytes]:
    """All of it. The last chunk is held back until the digest is right: what is damaged is seen to be cut off."""
    seen = hashlib.sha256()
    held = b""
    async for chunk in _part(file, Range(0, file.size)):
        if held:
            yield held
        seen.update(chunk)
        held = chunk
    if seen.hexdigest() != file.digest:
        raise EngineError(f"{file.name!r:.200} is damaged: its bytes no longer match their digest")
    if held:
        yield held


async def _part(file: File, wanted: Range) -> AsyncIterator[bytes]:
    for start in range(wanted.start, wanted.end, CHUNK):
        yield await file.read(start, min(CHUNK, wanted.end - start))


async def _parts(file: File, heads: list[bytes], ranges: tuple[Range, ...], tail: bytes) -> AsyncIterator[bytes]:
    for head, one in zip(heads, ranges, strict=True):
        yield head
        async for chunk in _part(file, one):
            yield chunk
    yield tail


def _head(boundary: str, media_type: str, one: Range, size: int) -> bytes:
    lines = f"content-type: {media_type}\r\ncontent-range: bytes {one.start}-{one.end - 1}/{size}"
    return f"\r\n--{boundary}\r\n{lines}\r\n\r\n".encode()


def safe_media_type(media_type: str) -> str:
    """A media type fit for a header; text is UTF-8 unless it says otherwise, what cannot be read is bytes."""
    found = _MEDIA_TYPE.match(media_type)
    if found is None:
        return "application/octet-stream"
    kind, charset = found[1].lower(), found[2]
    if charset is None and kind.startswith("text/"):
        charset = "utf-8"
    return kind if charset is None else f"{kind}; charset={charset.lower()}"


def disposition(name: str, media_type: str) -> str:
    """A Content-Disposition (RFC 6266) with the last part of a name: in ASCII, and where that is not it as RFC 8187 has
    it."""
    how = "inline" if media_type.partition(";")[0] in INLINE else "attachment"
    plain = "".join(c if c.isprintable() else "_" for c in name.rpartition("/")[2].replace("\\", "_"))[-200:].strip()
    plain = plain or "artifact"
    ascii_name = _UNPLAIN.sub("_", plain)
    if ascii_name == plain:
        return f'{how}; filename="{plain}"'
    return f"{how}; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(plain, safe=_KEPT, errors='replace')}"
