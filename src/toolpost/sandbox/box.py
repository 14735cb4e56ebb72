"""One sandbox as the engine holds it, from when it was made until it is gone."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterable
from typing import Final

from toolpost.sandbox import kernel

GONE_S: Final = 10.0
"""How long a sandbox may take to be gone, before it is killed and after."""


class Box:
    """One sandbox as the engine holds it: a channel to its first process, and a descriptor to kill that by.

    relayed: that process is a relay beside the sandbox, which ends it by itself, with force where it must.
    """

    __slots__ = ("__weakref__", "_lock", "_relayed", "channel", "early", "early_ends", "killed", "pidfd", "warm")

    def __init__(self, channel: int, pidfd: int, *, relayed: bool = False) -> None:
        self._relayed = relayed
        self._lock = threading.Lock()
        # Named in full, the kernel need not be asked what it is.
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, channel)
        self.channel.setblocking(False)
        self.pidfd = pidfd
        self.killed = False
        self.warm = False
        # In a session, what the sandbox said of the next program right behind its report on the last one.
        self.early = b""
        self.early_ends: list[int] = []

    def kill(self) -> None:
        """End it, with all that runs in it, at once. From any thread, also while another closes it."""
        self.killed = True
        with self._lock, contextlib.suppress(OSError):
            if self.pidfd >= 0 and self._relayed:  # without its relay nobody would see to its end
                self.channel.shutdown(socket.SHUT_RDWR)
            elif self.pidfd >= 0:
                kernel.pidfd_kill(self.pidfd)

    def gone(self) -> bool:
        """Whether its first process has ended."""
        return wait_for([self.pidfd], 0)

    def end(self) -> None:
        """End it, and wait until all that was in it is gone: processes, folder and all."""
        if self.pidfd < 0:
            return
        try:
            with self._lock:
                self.channel.close()  # by which its first process knows, and what else there is dies with that
            if not wait_for([self.pidfd], GONE_S):
                with contextlib.suppress(OSError):
                    kernel.pidfd_kill(self.pidfd)
                wait_for([self.pidfd], GONE_S)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of it, which ends it where it still lives."""
        with self._lock:
            if self.pidfd < 0:
                return
            self.channel.close()
            while self.early_ends:
                os.close(self.early_ends.pop())
            pidfd, self.pidfd = self.pidfd, -1
            os.close(pidfd)


def wait_for(fds: Iterable[int], seconds: float) -> bool:
    """Whether one of these descriptors, of any number, is readable within so many seconds."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
