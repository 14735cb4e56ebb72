"""Gathering: a connection on which an answer's head leaves together with what of its body follows at once."""

from __future__ import annotations

import asyncio
from typing import Any, Final

_HEAD: Final = b"HTTP/"


class Gathering:
    """A transport over another one: one system call and one packet for an answer where Uvicorn makes two.

    A head that nothing follows (of a stream that has nothing to tell yet) leaves when the loop comes round. What is
    not said here is the other transport's. Its writelines() is not used: asyncio's of Python 3.12 and 3.13 has bounds
    for slow readers only from 3.12.9 and 3.13.2 (CVE-2024-12254), and on a connection that was just lost the older ones
    watch its descriptor further, which the next connection is given and then cannot be read (gh-136234).
    """

    __slots__ = ("_head", "_loop", "inner", "is_closing", "write_through")

    def __init__(self, inner: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.inner, self._loop = inner, loop
        self._head: bytes | None = None
        self.is_closing, self.write_through = inner.is_closing, inner.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def write(self, data: bytes) -> None:
        """Write, or keep the head of an answer for a moment."""
        head = self._head
        if head is not None:
            self._head = None
            self.write_through(b"".join((head, data)))
        elif data[:5] == _HEAD:
            self._head = data
            self._loop.call_soon(self.flush)
        else:
            self.write_through(data)

    def flush(self) -> None:
        """Write what is kept."""
        head, self._head = self._head, None
        if head is not None and not self.is_closing():
            self.write_through(head)

    def writelines(self, data: Any) -> None:
        """Write several pieces, behind what is kept."""
        self.flush()
        self.write_through(b"".join(data))

    def write_eof(self) -> None:
        """Write nothing more than what is kept."""
        self.flush()
        self.inner.write_eof()

    def close(self) -> None:
        """Close, once all is written."""
        self.flush()
        self.inner.close()

    def abort(self) -> None:
        """Close, whatever is kept."""
        self._head = None
        self.inner.abort()


__all__ = ["Gathering"]
