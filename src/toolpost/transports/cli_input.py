"""The input of `toolpost run`: lines from a file or a pipe, each with its number and digest, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import queue
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

MAX_LINE_BYTES = 32 * 1024 * 1024
WAITING_LINES = 64
"""How many lines of a pipe are read ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line: number counts from 1, text is None when it was longer than MAX_LINE_BYTES, b"" when blank."""

    number: int
    digest: str
    text: bytes | None


class Input:
    """Lines that can be had at once are iterated; ready() waits for the next of them.

    kind is mixed into every digest: the same text read in another way is another call.
    """

    def __init__(self, file: IO[bytes], kind: str) -> None:
        self._file = file
        self._lines = _lines(file, kind.encode())
        self._next: Line | None = None
        self.exhausted = False

    async def ready(self, stop: asyncio.Event, timeout_s: float | None = None) -> bool:
        """Whether there is a line to be had; waits for it. False at the end, when stopped, and after timeout_s."""
        return not (stop.is_set() or self.exhausted)

    def __iter__(self) -> Iterator[Line]:
        yield from self._lines
        self.exhausted = True

    def count(self) -> int | None:
        """How many lines there are in all; None when that cannot be known beforehand."""
        try:
            at = self._file.tell()
            total, last = 0, b"\n"
            while block := self._file.read(1 << 20):
                total, last = total + block.count(b"\n"), block
            self._file.seek(at)
        except (OSError, ValueError):
            return None
        return total + (not last.endswith(b"\n"))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Pipe(Input):
    """Input that may let one wait: a thread reads it, so that the calls already taken up go on meanwhile."""

    def __init__(self, file: IO[bytes], kind: str) -> None:
        super().__init__(file, kind)
        self._queue: queue.Queue[Line | Exception | None] = queue.Queue(WAITING_LINES)
        self._arrived: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ready(self, stop: asyncio.Event, timeout_s: float | None = None) -> bool:
        if self._loop is None:
            self._loop, self._arrived = asyncio.get_running_loop(), asyncio.Event()
            threading.Thread(target=self._read, name="toolpost-input", daemon=True).start()
        assert self._arrived is not None
        while self._queue.empty() and not (self.exhausted or stop.is_set()):
            self._arrived.clear()
            if not self._queue.empty():
                break
            waits = [asyncio.ensure_future(event.wait()) for event in (self._arrived, stop)]
            try:
                done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if not done:
                return False
        return not (stop.is_set() or self.exhausted)

    def __iter__(self) -> Iterator[Line]:
        while not self.exhausted:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return
            if item is None:
                self.exhausted = True
            elif isinstance(item, Exception):
                raise item
            else:
                yield item

    def count(self) -> int | None:
        return None

    def close(self) -> None:
        if self._loop is None:  # otherwise the thread, which may still wait in it, closes it
            self._file.close()

    def _read(self) -> None:
        assert self._loop is not None
        assert self._arrived is not None
        try:
            for line in self._lines:
                self._put(line)
            self._put(None)
        except OSError as exc:
            self._put(exc)
        finally:
            self._file.close()

    def _put(self, item: Line | Exception | None) -> None:
        assert self._loop is not None
        assert self._arrived is not None
        self._queue.put(item)
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any longer
            self._loop.call_soon_threadsafe(self._arrived.set)


def open_input(path: str, kind: str) -> Input:
    """The lines of a file, or of standard input for "-". Raises OSError."""
    if path != "-":
        file: IO[bytes] = open(path, "rb")  # noqa: SIM115 - closed by Input
    else:
        try:
            # Not sys.stdin itself: a thread that waits in it would hold its lock while the interpreter ends.
            file = open(os.dup(sys.stdin.fileno()), "rb")  # noqa: SIM115
        except (AttributeError, OSError, ValueError):  # closed, or replaced by something that is no file
            if sys.stdin is None:
                raise OSError(errno.EBADF, "standard input is closed") from None
            return Input(sys.stdin.buffer, kind)
    regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    return (Input if regular else Pipe)(file, kind)


def _lines(file: IO[bytes], kind: bytes) -> Iterator[Line]:
    number = 0
    while text := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        digest = hashlib.blake2b(digest_size=8, key=kind)
        if len(text) > MAX_LINE_BYTES and not text.endswith(b"\n"):
            while text and not text.endswith(b"\n"):
                digest.update(text)
                text = file.readline(1 << 20)
            digest.update(text.rstrip(b"\r\n"))
            yield Line(number=number, digest=digest.hexdigest(), text=None)
        else:
            digest.update(text := text.strip())
            yield Line(number=number, digest=digest.hexdigest(), text=text)
