"""Carries what engine and warden say, and a program's three pipes, through one pair of pipes of a container engine.

Either end is a loop: inside it serves the warden as the engine does elsewhere, outside it serves the engine as a warden
does. Pieces are numbered by the stream that they belong to, in the order in which they were read.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Final

CHANNEL: Final = 0
"""The stream between engine and warden. A program's are three that follow each other: stdin, stdout, stderr."""
_DATA, _END, _NEW, _TAKEN = range(4)
_HEAD: Final = struct.Struct("!BII")
_PIECE: Final = 1 << 16
_WINDOW: Final = 1 << 20
"""Bytes of a program's stdin that are under way, as it may never read them."""


class Tunnel:
    """One end. far_in and far_out lead to the other end, channel to who is here."""

    def __init__(self, far_in: int, far_out: int, channel: socket.socket, *, inside: bool) -> None:
        self._far_in, self._far_out, self._channel, self._inside = far_in, far_out, channel, inside
        self._poll = select.poll()
        self._poll.register(far_in, select.POLLIN)
        self._poll.register(channel, select.POLLIN)
        os.set_blocking(far_out, inside)
        self._got, self._out = bytearray(), bytearray()
        self._reads: dict[int, int] = {}
        self._writes: dict[int, int] = {}
        self._waiting: dict[int, bytearray] = {}
        self._ended: set[int] = set()
        self._under_way: dict[int, int] = {}
        self._next = 1
        self._open = True
        self.spoken = False

    def start(self, first: bytes) -> None:
        """Send something that is for who starts the other end."""
        self._out += first
        self._send()

    def run(self) -> None:
        """Until either end is closed."""
        while self._open:
            for fd, event in self._poll.poll():
                if fd == self._far_in:
                    self._receive()
                elif fd == self._channel.fileno():
                    self._listen()
                elif fd == self._far_out:
                    self._send()
                elif fd in self._reads:
                    self._read(fd)
                elif fd in self._writes:
                    self._feed(fd)
                elif event:
                    with contextlib.suppress(KeyError):
                        self._poll.unregister(fd)
                if not self._open:
                    return

    # --- from here to there

    def _say(self, kind: int, stream: int, data: bytes = b"") -> None:
        self._out += _HEAD.pack(kind, stream, len(data)) + data
        self._send()

    def _send(self) -> None:
        try:
            while self._out:
                del self._out[: os.write(self._far_out, self._out[:_PIECE])]
        except BlockingIOError:
            self._poll.register(self._far_out, select.POLLOUT)
            if len(self._out) > _WINDOW:  # nothing more is taken in meanwhile, but that nobody is here any more
                self._poll.register(self._channel, 0)
            return
        except OSError:
            self._open = False
            return
        if not self._inside:
            self._poll.register(self._channel, select.POLLIN)
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._far_out)

    def _listen(self) -> None:
        """Pass on what is said here; a program's outputs first, which end with the report on it."""
        try:
            said, rights, _, _ = self._channel.recvmsg(_PIECE, socket.CMSG_SPACE(32), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            said, rights = b"", []
        if not said:
            self._open = False
            return
        for fd in [fd for fd in self._reads if self._inside]:
            while fd in self._reads and self._read(fd):
                pass
        ends = array.array("i")
        for _, _, data in rights:
            ends.frombytes(data)
        if not ends:
            self._say(_DATA, CHANNEL, said)
            return
        first, self._next = self._next, self._next + len(ends)
        self._say(_NEW, first, said)
        self._writing(ends[0], first)
        for at in (1, 2):
            self._reading(ends[at], first + at)

    def _reading(self, fd: int, stream: int) -> None:
        os.set_blocking(fd, False)
        self._reads[fd] = stream
        self._poll.register(fd, select.POLLIN)

    def _writing(self, fd: int, stream: int) -> None:
        os.set_blocking(fd, not self._inside)
        self._writes[fd] = stream
        self._waiting[stream] = bytearray()

    def _read(self, fd: int) -> bool:
        """Pass on a piece of a pipe. Whether there may be more."""
        stream = self._reads[fd]
        if not self._inside and self._under_way.get(stream, 0) >= _WINDOW:
            self._poll.unregister(fd)  # until the other end has got rid of some
            return False
        try:
            piece = os.read(fd, _PIECE)
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        if piece:
            self._under_way[stream] = self._under_way.get(stream, 0) + len(piece)
            self._say(_DATA, stream, piece)
            return True
        self._forget(fd, self._reads)
        self._say(_END, stream)
        return False

    def _forget(self, fd: int, table: dict[int, int]) -> None:
        del table[fd]
        with contextlib.suppress(KeyError):
            self._poll.unregister(fd)
        os.close(fd)

    # --- from there to here

    def _receive(self) -> None:
        try:
            piece = os.read(self._far_in, _PIECE)
        except OSError:
            piece = b""
        if not piece:
            self._open = False
            return
        self.spoken = True
        self._got += piece
        while len(self._got) >= _HEAD.size:
            kind, stream, size = _HEAD.unpack_from(self._got)
            if size > _PIECE:  # nobody sends so much at once who means well
                self._open = False
                return
            if len(self._got) < _HEAD.size + size:
                return
            data = bytes(self._got[_HEAD.size : _HEAD.size + size])
            del self._got[: _HEAD.size + size]
            self._take(kind, stream, data)

    def _take(self, kind: int, stream: int, data: bytes) -> None:
        if kind == _NEW:
            self._new(stream, data)
        elif kind == _TAKEN:
            self._taken(stream, int.from_bytes(data, "big"))
        elif stream == CHANNEL:
            self._tell(lambda: self._channel.sendall(data))
        else:
            fd = next((fd for fd, one in self._writes.items() if one == stream), -1)
            if fd < 0:
                return
            if kind == _END:
                self._ended.add(stream)
            self._waiting[stream] += data
            self._feed(fd)

    def _new(self, first: int, said: bytes) -> None:
        """A program is ready there: make pipes for it here, and pass them on with what was said."""
        stdin, stdout, stderr = os.pipe(), os.pipe(), os.pipe()
        self._reading(stdin[0], first)
        self._writing(stdout[1], first + 1)
        self._writing(stderr[1], first + 2)
        ends = [stdin[1], stdout[0], stderr[0]]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends))]
        self._tell(lambda: self._channel.sendmsg([said], rights))
        for fd in ends:
            os.close(fd)

    def _tell(self, send: Callable[[], object]) -> None:
        try:
            send()
        except OSError:
            self._open = False

    def _taken(self, stream: int, size: int) -> None:
        self._under_way[stream] = self._under_way.get(stream, 0) - size
        for fd in [fd for fd, one in self._reads.items() if one == stream]:
            self._poll.register(fd, select.POLLIN)

    def _feed(self, fd: int) -> None:
        """Write what waits for a pipe; who reads no more is left alone."""
        stream = self._writes[fd]
        waiting = self._waiting[stream]
        try:
            while waiting:
                done = os.write(fd, waiting[:_PIECE])
                del waiting[:done]
                if self._inside:
                    self._say(_TAKEN, stream, done.to_bytes(4, "big"))
        except BlockingIOError:
            self._poll.register(fd, select.POLLOUT)
            return
        except OSError:
            self._ended.add(stream)
            waiting.clear()
        if stream in self._ended:
            self._ended.discard(stream)
            del self._waiting[stream]
            self._forget(fd, self._writes)
        elif self._inside:
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)
