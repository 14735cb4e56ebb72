"""Reads a part of an open file as text: encodings by name, byte order marks, and parts that end within a character."""

from __future__ import annotations

import base64
import codecs
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import Final

from toolpost import ToolError
from toolpost.toolbox.refusals import quoted, refused

MIN_BYTES: Final = 4
"""The least that one read may ask for: no character of a known encoding is longer."""

CODECS: Final = frozenset(
    "ascii utf_8 utf_16 utf_16_le utf_16_be utf_32 utf_32_le utf_32_be latin_1 "
    "iso8859_2 iso8859_3 iso8859_4 iso8859_5 iso8859_6 iso8859_7 iso8859_8 iso8859_9 iso8859_10 iso8859_11 iso8859_13 "
    "iso8859_14 iso8859_15 iso8859_16 cp437 cp850 cp852 cp855 cp858 cp866 cp874 cp932 cp949 cp950 cp1250 cp1251 cp1252 "
    "cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 koi8_r koi8_u mac_roman shift_jis euc_jp gb2312 gbk gb18030 big5 "
    "euc_kr".split()
)
"""Encodings of text that can be read from any character on: none that shifts states, compresses or is no text."""

_MARKS: Final[Mapping[str, tuple[tuple[bytes, str], ...]]] = {
    "utf_8": ((codecs.BOM_UTF8, "utf_8"),),
    "utf_16": ((codecs.BOM_UTF16_LE, "utf_16_le"), (codecs.BOM_UTF16_BE, "utf_16_be"), (b"", "utf_16_le")),
    "utf_16_le": ((codecs.BOM_UTF16_LE, "utf_16_le"),),
    "utf_16_be": ((codecs.BOM_UTF16_BE, "utf_16_be"),),
    "utf_32": ((codecs.BOM_UTF32_LE, "utf_32_le"), (codecs.BOM_UTF32_BE, "utf_32_be"), (b"", "utf_32_le")),
    "utf_32_le": ((codecs.BOM_UTF32_LE, "utf_32_le"),),
    "utf_32_be": ((codecs.BOM_UTF32_BE, "utf_32_be"),),
}
"""Encoding -> the byte order marks a file in it may begin with, and which encoding each tells."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file: the text of taken bytes from start on, and whether there are more after them."""

    content: str
    start: int
    taken: int
    more: bool


def codec_named(encoding: str) -> str:
    """The codec of an encoding's name; codecs.lookup is not asked, as it imports modules and keeps every name."""
    name = normalize_encoding(encoding[:60]).lower()
    codec = "utf_8" if name == "utf_8_sig" else aliases.get(name, name)
    if codec in CODECS:
        return codec
    near = difflib.get_close_matches(name, CODECS, n=1)
    hint = f"; did you mean {near[0].replace('_', '-')!r}?" if near else ""
    known = "utf-8, utf-16, latin-1, cp1252, shift-jis, gb18030 and the like, or base64 for the bytes themselves"
    must = f"must name an encoding such as {known}, got {encoding[:60]!r}{hint}"
    raise refused("encoding", must, expected=known, got=repr(encoding[:60]))


def read_part(path: str, fd: int, codec: str | None, offset: int, count: int) -> Part:
    """At most count bytes from offset on, as text. Part.start is where its first character begins."""
    if codec is None:
        data, more = _read(fd, count - count % 3, offset)  # multiples of 3, so that parts can be put together
        return Part(base64.b64encode(data).decode(), offset, len(data), more)
    start = offset
    head = _pread(fd, 4, 0) if codec in _MARKS else b""
    for mark, marked in _MARKS.get(codec, ()):
        if head.startswith(mark):
            codec, start = marked, max(offset, len(mark))
            break
    if codec.startswith(("utf_16", "utf_32")):
        start += -start % (2 if codec.startswith("utf_16") else 4)
    data, more = _read(fd, count, start)
    if codec == "utf_8" and offset:
        inside = len(data[:3]) - len(data[:3].lstrip(_CONTINUATION))  # the offset lay within a character
        data, start = data[inside:], start + inside
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        content = decoder.decode(data, not more)
    except UnicodeDecodeError as exc:
        at = start + exc.start
        raise ToolError(
            f"{quoted(path)} is not {codec.replace('_', '-')}: byte {at} is 0x{data[exc.start]:02x}; "
            f"{_advice(_pread(fd, 1024, 0), codec)}",
            code="undecodable",
            details={"offset": at},
        ) from None
    return Part(content, start, len(data) - len(decoder.getstate()[0]), more)


_CONTINUATION: Final = bytes(range(0x80, 0xC0))


def _advice(head: bytes, codec: str) -> str:
    """Which encoding to try for a file that begins with head and is not in codec."""
    for name in ("utf_32", "utf_16"):
        if any(mark and head.startswith(mark) for mark, _ in _MARKS[name]) and not codec.startswith(name):
            return f"it begins as {name.replace('_', '-')} does, so read it with that encoding"
    if b"\0" in head:
        return "it looks like no text, so read it with encoding 'base64'"
    others = [name for name in ("utf-8", "cp1252", "latin-1") if name.replace("-", "_") != codec]
    return f"try {others[0]!r} or {others[1]!r}, or 'base64' for the bytes themselves"


def _read(fd: int, count: int, offset: int) -> tuple[bytes, bool]:
    """At most count bytes, and whether there are more after them."""
    data = _pread(fd, count + 1, offset)
    return data[:count], len(data) > count


def _pread(fd: int, count: int, offset: int) -> bytes:
    """count bytes from offset on, fewer only where the file ends."""
    pieces = []
    while count > 0:
        piece = os.pread(fd, min(count, 1 << 20), offset)
        if not piece:
            break
        pieces.append(piece)
        count, offset = count - len(piece), offset + len(piece)
    return b"".join(pieces)
