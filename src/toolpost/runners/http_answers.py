"""Answers: what comes back over HTTP, read within bounds, and what it or its failure means to a call."""

from __future__ import annotations

import base64
import codecs
import email.utils
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import orjson

from toolpost.calls.errors import RemoteToolError
from toolpost.calls.redaction import scrub_message

TOLD_CHARS: Final = 1000
"""How much of an answer that is an error its error tells."""
REASON_CHARS: Final = 100
LONGEST_WAIT_S: Final = 1e9
"""A Retry-After beyond it is taken for it: some 31 years, which every platform can still wait."""
MAX_RATIO: Final = 200
"""How much larger than it came an answer may be unpacked, once it is larger than RATIO_FROM_BYTES."""
RATIO_FROM_BYTES: Final = 1024 * 1024
MAX_MEMBERS: Final = 1000
"""Of how many pieces, each packed by itself, an answer in gzip may be made."""
KINDS: Final = {
    408: "timeout",
    425: "transient",
    429: "rate_limit",
    500: "transient",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
}
INVALID_TOKEN: Final = "invalid_token"
_INVALID_TOKEN: Final = re.compile(r"\bBearer\b.*\berror *= *\"?invalid_token\b", re.IGNORECASE)
_NO_CHARSETS: Final = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"})


async def read(shown: str, pieces: AsyncIterator[bytes], encoding: str, max_bytes: int) -> bytes:
    """The answer, unpacked and whole. Never holds much more than max_bytes and one piece as it came."""
    data, came = bytearray(), 0  # not a list of parts: those may be of one byte each, and an object is larger
    encoding = encoding.strip().lower()
    unpacker = _UNPACKERS.get(encoding, _Plain)()
    async for packed in pieces:
        came += len(packed)
        if encoding not in _UNPACKERS:
            raise RemoteToolError(f"{shown} answered in an encoding that was not asked for", kind="tool_error")
        try:
            for part in unpacker.parts(packed, max_bytes + 1 - len(data)):
                size = len(data) + len(part)
                if size > max_bytes:
                    raise RemoteToolError(f"{shown} answered more than {max_bytes} bytes", kind="tool_error")
                if size > RATIO_FROM_BYTES and size > came * MAX_RATIO:
                    raise RemoteToolError(
                        f"{shown} answered what unpacks to more than {MAX_RATIO} times its size", kind="tool_error"
                    )
                data += part
        except zlib.error as error:
            raise RemoteToolError(f"{shown} answered what cannot be unpacked ({error})", kind="tool_error") from error
    if came and not unpacker.ended:
        raise RemoteToolError(f"{shown} answered what cannot be unpacked (its end is missing)", kind="tool_error")
    return bytes(data)


class _Plain:
    """An answer that is not packed."""

    ended = True

    def parts(self, packed: bytes, most: int) -> Iterator[bytes]:
        yield packed


class _Inflated:
    """An answer in deflate, in zlib's frame or without it, as some servers send it; or in gzip, maybe of several
    members (RFC 1952, section 2.2).
    """

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._member = zlib.decompressobj(wbits=wbits)
        self._members, self._begun = 1, False

    @property
    def ended(self) -> bool:
        """Whether nothing is missing of what has come so far."""
        return self._member.eof

    def parts(self, packed: bytes, most: int) -> Iterator[bytes]:
        """Unpack one piece. Whoever has got most bytes of it asks for no more."""
        while packed:
            if self._member.eof:
                self._next_member()
            try:
                part = self._member.decompress(packed, most)
            except zlib.error:
                if self._begun or self._wbits != zlib.MAX_WBITS:
                    raise
                self._member = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
                part = self._member.decompress(packed, most)
            self._begun = True
            packed, most = self._member.unused_data, most - len(part)
            yield part

    def _next_member(self) -> None:
        self._members += 1
        if self._wbits == zlib.MAX_WBITS or self._members > MAX_MEMBERS:
            raise zlib.error("it goes on after its end")
        self._member = zlib.decompressobj(wbits=self._wbits)


_gzip = partial(_Inflated, zlib.MAX_WBITS | 16)
_UNPACKERS: Final[Mapping[str, Callable[[], _Plain | _Inflated]]] = {
    "": _Plain,
    "identity": _Plain,
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": partial(_Inflated, zlib.MAX_WBITS),
}


def refusal(
    shown: str, status: int, reason: str, headers: Mapping[str, str], data: bytes, now: Callable[[], float]
) -> RemoteToolError:
    """The error that an answer of 400 or more is."""
    details: dict[str, Any] = {}
    if status == 401 and _INVALID_TOKEN.search(headers.get("www-authenticate", "")[:2000]):
        details["token_error"] = INVALID_TOKEN
    if data and (words := text(headers, data)) is not None:
        details["body"] = scrub_message(words[:TOLD_CHARS])
    return RemoteToolError(
        f"{shown} answered {status} {scrub_message(reason[:REASON_CHARS])}".rstrip(),
        kind=KINDS.get(status, "caller" if status < 500 else "tool_error"),
        upstream_status=status,
        retry_after_s=retry_after_s(headers.get("retry-after"), now),
        details=details,
    )


def refuses_token(error: RemoteToolError) -> bool:
    """Whether an answer said that the token that was sent is not good (RFC 6750, section 3.1)."""
    return error.upstream_status == 401 and error.details.get("token_error") == INVALID_TOKEN


def retry_after_s(value: str | None, now: Callable[[], float]) -> float | None:
    """Seconds of a Retry-After header, which has them or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return min(float(value), LONGEST_WAIT_S)
    try:
        return min(max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now()), LONGEST_WAIT_S)
    except (ValueError, TypeError, OverflowError):
        return None


def value(headers: Mapping[str, str], data: bytes) -> Any:
    """An answer as JSON: parsed where it says so, text, None where there is none, or base64 of other bytes."""
    if not data:
        return None
    kind = media_type(headers)
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:  # a label is no promise
            pass
    words = text(headers, data)
    return {"base64": base64.b64encode(data).decode(), "content_type": kind} if words is None else words


def text(headers: Mapping[str, str], data: bytes) -> str | None:
    """An answer as text, None where it is none."""
    kind = media_type(headers)
    if kind.startswith(("image/", "audio/", "video/", "font/")) or kind == "application/octet-stream":
        return None
    try:
        words = data.decode(charset(headers) or "utf-8")
    except (UnicodeDecodeError, LookupError):
        return None
    return None if "\0" in words else words


def media_type(headers: Mapping[str, str]) -> str:
    """What the Content-Type says, in lower case and without parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def charset(headers: Mapping[str, str]) -> str | None:
    """The charset that the Content-Type names. Not every codec of Python's: some of them take hours for a megabyte."""
    for parameter in headers.get("content-type", "").split(";")[1:]:
        name, _, said = parameter.partition("=")
        if name.strip().lower() == "charset":
            try:
                codec = codecs.lookup(said.strip().strip("\"'")[:40]).name
                "".encode(codec)  # raises for what makes no text of bytes, such as hex
            except (LookupError, ValueError):
                return None
            return None if codec in _NO_CHARSETS else codec
    return None


def cause_of(error: BaseException) -> BaseException:
    """The innermost exception behind this one."""
    while (behind := error.__cause__ or error.__context__) is not None:
        error = behind
    return error


def is_untrusted(error: BaseException) -> bool:
    """Whether a connection failed because of the certificate that the other side showed."""
    return isinstance(cause_of(error), ssl.SSLCertVerificationError)
