"""Frames: how engine, warden and program say things to each other: a JSON head and bytes, each with its length."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from typing import Any, Final

Head = dict[str, Any]
LENGTHS: Final = struct.Struct("!II")
_AT_ONCE = 1 << 18


def packed(head: Mapping[str, Any], body: bytes = b"") -> bytes:
    """One frame."""
    said = json.dumps(head).encode()
    return LENGTHS.pack(len(said), len(body)) + said + body


def write(fd: int, data: bytes | memoryview) -> None:
    """Write all of it, however many pieces the other end takes it in."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest[:_AT_ONCE]) :]


def read(fd: int) -> tuple[Head, bytes] | None:
    """The next frame of somebody who is trusted; None where the other end is closed."""
    start = _exactly(fd, LENGTHS.size)
    if start is None:
        return None
    said, size = LENGTHS.unpack(start)
    head = _exactly(fd, said)
    body = _exactly(fd, size)
    if head is None or body is None:
        return None
    return json.loads(head), body


def _exactly(fd: int, size: int) -> bytes | None:
    got = bytearray()
    while len(got) < size:
        piece = os.read(fd, min(size - len(got), _AT_ONCE))
        if not piece:
            return None
        got += piece
    return bytes(got)


class Frames:
    """Frames of somebody who is not believed, from pieces as they come. Raises ValueError for what is none.

    most is how many bytes of one frame, head and body, are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._got = bytearray()

    def feed(self, piece: bytes) -> None:
        """Add what came."""
        self._got += piece

    def rest(self) -> bytes:
        """Take out what came after the last whole frame."""
        rest = bytes(self._got)
        self._got.clear()
        return rest

    def next(self) -> tuple[Head, bytes] | None:
        """The next whole frame, if it is here."""
        if len(self._got) < LENGTHS.size:
            return None
        said, size = LENGTHS.unpack_from(self._got)
        if said + size > self._most:
            raise ValueError(f"a frame of {said + size} bytes, where {self._most} are allowed")
        end = LENGTHS.size + said + size
        if len(self._got) < end:
            return None
        head = json.loads(bytes(self._got[LENGTHS.size : LENGTHS.size + said]))
        with memoryview(self._got) as got:  # a slice of the array would be another copy
            body = bytes(got[LENGTHS.size + said : end])
        del self._got[:end]
        if not isinstance(head, dict):
            raise ValueError("a frame whose head is no object")
        return head, body
